//! Plans for small machines written here; tests/tests/placement.rs has the large ones.

use super::*;
use crate::topology::fixture::{Machine, one_socket, two_sockets_interleaved};

fn cpus(plan: &Plan) -> Vec<usize> {
    plan.shards.iter().map(|place| place.cpu).collect()
}

fn list(text: &str) -> ShardChoice {
    with_policy(Policy::Cpus(CpuSet::parse(text).unwrap()))
}

fn count(n: usize) -> ShardChoice {
    ShardChoice { count: Some(n), ..ShardChoice::default() }
}

fn with_policy(policy: Policy) -> ShardChoice {
    ShardChoice { policy, ..ShardChoice::default() }
}

fn per_thread() -> ShardChoice {
    ShardChoice { per: ShardPer::Thread, ..ShardChoice::default() }
}

#[test]
fn one_shard_per_usable_cpu_by_default() {
    let machine = two_sockets_interleaved();
    machine.online("0-6").allow("1-7", "0-1");
    let plan = plan(&machine.read(), &per_thread()).unwrap();
    assert_eq!(cpus(&plan), [2, 4, 6, 1, 3, 5]);
    let numbers: Vec<_> = plan.shards.iter().map(|place| (place.shard, place.node)).collect();
    assert_eq!(numbers, [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]);
}

#[test]
fn few_shards_take_cores_before_threads_and_one_node_before_the_next() {
    let topology = two_sockets_interleaved().read();
    let of = |n| cpus(&plan(&topology, &count(n)).unwrap());
    assert_eq!(of(1), [0]);
    assert_eq!(of(2), [0, 2]);
    assert_eq!(of(3), [0, 2, 1]);
    assert_eq!(of(4), [0, 2, 1, 3]);
    assert_eq!(of(5), [0, 2, 4, 1, 3]);
    assert_eq!(of(8), [0, 2, 4, 6, 1, 3, 5, 7]);
}

#[test]
fn spread_takes_nodes_and_caches_in_turn() {
    let topology = two_sockets_interleaved().read();
    let of = |n| {
        let choice = ShardChoice { count: Some(n), ..with_policy(Policy::Spread) };
        cpus(&plan(&topology, &choice).unwrap())
    };
    assert_eq!([of(1), of(2), of(3)], [vec![0], vec![0, 1], vec![0, 2, 1]]);
    assert_eq!(of(6), [0, 2, 4, 1, 3, 5]);
}

#[test]
fn a_core_gets_one_shard_unless_threads_are_asked_for() {
    let topology = two_sockets_interleaved().read();
    assert_eq!(cpus(&plan(&topology, &ShardChoice::default()).unwrap()), [0, 2, 1, 3]);
    assert_eq!(cpus(&plan(&topology, &per_thread()).unwrap()), [0, 2, 4, 6, 1, 3, 5, 7]);
    assert_eq!(cpus(&plan(&topology, &with_policy(Policy::Node(1))).unwrap()), [1, 3]);
}

#[test]
fn reserved_cores_are_left_whole_and_from_the_nodes_in_turn() {
    let topology = two_sockets_interleaved().read();
    let reserved = |n| {
        let plan = plan(&topology, &ShardChoice { reserve: n, ..per_thread() }).unwrap();
        (plan.reserved.to_string(), cpus(&plan))
    };
    assert_eq!(reserved(1), ("0,4".into(), vec![2, 6, 1, 3, 5, 7]));
    assert_eq!(reserved(2), ("0-1,4-5".into(), vec![2, 6, 3, 7]));
    assert_eq!(reserved(3), ("0-2,4-6".into(), vec![3, 7]));
    let error = plan(&topology, &ShardChoice { reserve: 4, ..per_thread() }).unwrap_err().to_string();
    assert_eq!(error, "4 reserved of 4 cores leave none for a shard (hint: --reserve 3)");
}

#[test]
fn a_quota_limits_the_default_and_is_reported() {
    let machine = two_sockets_interleaved();
    machine.write("proc/self/cgroup", "0::/").write("sys/fs/cgroup/cpu.max", "250000 100000");
    let topology = machine.read();
    let of = |choice: &ShardChoice| {
        let plan = plan(&topology, choice).unwrap();
        (cpus(&plan), plan.warnings)
    };
    let warning = |text: &str| vec![text.to_owned()];
    let limited = "the cgroup quota is 2.5 CPUs: 3 shards instead of 4, one per core (--shards overrides)";
    assert_eq!(of(&ShardChoice::default()), (vec![0, 2, 1], warning(limited)));
    assert_eq!(of(&count(3)), (vec![0, 2, 1], vec![]));
    let throttled = "4 shards share a cgroup quota of 2.5 CPUs and will be throttled together";
    assert_eq!(of(&count(4)), (vec![0, 2, 1, 3], warning(throttled)));
    assert_eq!(of(&with_policy(Policy::Node(0))), (vec![0, 2], vec![]));
}

#[test]
fn a_node_that_cannot_take_shards_is_named_with_those_that_can() {
    let machine = Machine::new(&[(0, 0, 0, 0), (1, 1, 1, 0)], &[8, 8, 64]);
    machine.allow("0", "0-2");
    let error = |node| plan(&machine.read(), &with_policy(Policy::Node(node))).unwrap_err().to_string();
    assert_eq!(error(7), "there is no node 7 (hint: nodes with CPUs for this process: 0)");
    assert_eq!(error(2), "node 2 has no CPU online (hint: nodes with CPUs for this process: 0)");
    assert!(error(1).starts_with("node 1 has CPU 1, all outside this process's CPU set 0 (hint: taskset"));
}

#[test]
fn a_second_thread_counts_as_first_where_the_first_is_not_ours() {
    let machine = two_sockets_interleaved();
    machine.allow("2,4,6", "0-1");
    let plan = plan(&machine.read(), &count(2)).unwrap();
    assert_eq!(cpus(&plan), [2, 4]);
}

#[test]
fn a_list_is_taken_as_it_is() {
    let topology = two_sockets_interleaved().read();
    assert_eq!(cpus(&plan(&topology, &list("1,4,0")).unwrap()), [0, 4, 1]);
}

#[test]
fn what_does_not_fit_is_reported_with_its_cure() {
    let machine = one_socket();
    machine.online("0-2").allow("0-1", "0");
    let topology = machine.read();
    let error = |choice| plan(&topology, &choice).unwrap_err().to_string();
    assert_eq!(error(count(3)), "3 shards need 3 CPUs, there are 2 (0-1) (hint: --shards 2)");
    assert!(error(list("0,3,64")).starts_with("CPU 3,64 does not exist or is offline"));
    assert!(error(list("0,2")).starts_with("CPU 2 is outside this process's CPU set 0-1"));
    machine.allow("3", "0");
    assert_eq!(plan(&machine.read(), &per_thread()), Err(PlacementError::NoCpu));
}

#[test]
fn a_node_without_memory_is_reported_once() {
    let cpus = [(0, 0, 0, 0), (1, 1, 1, 0), (2, 1, 1, 1)];
    let plan = plan(&Machine::new(&cpus, &[8, 0]).read(), &per_thread()).unwrap();
    let nodes: Vec<_> = plan.shards.iter().map(|place| (place.node, place.memory_node)).collect();
    assert_eq!(nodes, [(0, 0), (1, 0), (1, 0)]);
    assert_eq!(plan.shards[2].memory_fallbacks, [] as [usize; 0]);
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
}

#[test]
fn fallback_nodes_and_cache_groups_come_with_every_shard() {
    let plan = plan(&two_sockets_interleaved().read(), &list("0,1,2")).unwrap();
    let places =
        plan.shards.iter().map(|place| (place.cpu, place.memory_fallbacks.as_slice(), place.l3_group));
    assert_eq!(places.collect::<Vec<_>>(), [(0, &[1][..], 0), (2, &[1], 0), (1, &[0], 1)]);
}

#[test]
fn cores_without_a_large_cache_are_a_group_of_their_own() {
    // CPUs 1 and 3 have no L3, as low-power cores of some laptops.
    let machine = one_socket();
    for cpu in 0..4 {
        machine.write(&format!("sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list"), "0,2");
        let level = if cpu % 2 == 0 { "3" } else { "1" };
        machine.write(&format!("sys/devices/system/cpu/cpu{cpu}/cache/index3/level"), level);
    }
    let plan = plan(&machine.read(), &ShardChoice::default()).unwrap();
    let places = plan.shards.iter().map(|place| (place.cpu, place.l3_group));
    assert_eq!(places.collect::<Vec<_>>(), [(0, 0), (2, 0), (1, 1), (3, 1)]);
}

#[test]
fn uneven_hyper_threads_are_reported() {
    let topology = two_sockets_interleaved().read();
    let warnings = |n| plan(&topology, &count(n)).unwrap().warnings;
    assert_eq!(warnings(4), [] as [&str; 0]);
    assert!(warnings(5)[0].starts_with("2 shards share cores"));
    assert_eq!(warnings(8), [] as [&str; 0]);
}

#[test]
fn same_machine_same_plan() {
    let topology = two_sockets_interleaved().read();
    for n in 1..=8 {
        let choice = count(n);
        assert_eq!(plan(&topology, &choice), plan(&topology, &choice));
    }
}

#[test]
fn queues_go_to_the_shards_near_their_card_first() {
    let machine = two_sockets_interleaved();
    let table = [
        (40, "eth0-TxRx-0", "0"),
        (41, "eth0-TxRx-1", "0"),
        (42, "eth0-TxRx-2", "0"),
        (43, "eth0-misc", "0"),
    ];
    machine.card("eth0", 1, &table);
    let topology = machine.read();
    let of = |choice: &ShardChoice| -> Vec<(String, String)> {
        let plan = plan(&topology, choice).unwrap();
        alignment(&topology, &plan).into_iter().map(|to| (to.file, to.value)).collect()
    };
    let irq = |irq: usize, cpu: &str| (format!("proc/irq/{irq}/smp_affinity_list"), cpu.to_owned());
    let xps = |queue: usize, mask: &str| {
        (format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), mask.to_owned())
    };
    // Shards on 0, 2 (node 0) and 1, 3 (node 1, the card's): three queues for four shards.
    let many = of(&ShardChoice::default());
    assert_eq!(many[..3], [irq(40, "1"), irq(41, "3"), irq(42, "0")]);
    assert_eq!(many[3..], [xps(0, "00000006"), xps(1, "00000008"), xps(2, "00000001")]);
    // More queues than shards.
    let few = of(&count(2));
    assert_eq!(few[..3], [irq(40, "0"), irq(41, "2"), irq(42, "0")]);
    assert_eq!(few[3..], [xps(0, "00000001"), xps(1, "00000004"), xps(2, "00000001")]);
    machine.write("sys/class/net/eth0/operstate", "down");
    let topology = machine.read();
    assert_eq!(alignment(&topology, &plan(&topology, &count(2)).unwrap()), []);
}
