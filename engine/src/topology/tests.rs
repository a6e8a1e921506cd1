//! Reads machines written as files, and draws them.

use super::fixture::{Machine, one_socket, two_sockets_interleaved};
use super::*;
use crate::config::{ShardChoice, ShardPer};
use crate::placement::plan;

fn set(text: &str) -> CpuSet {
    CpuSet::parse(text).unwrap()
}

#[test]
fn one_socket_is_read_whole() {
    let topology = one_socket().read();
    assert_eq!(topology.online_cpus(), set("0-3"));
    assert_eq!(topology.nodes.len(), 1);
    assert_eq!(topology.nodes[0].memory_bytes, 16 << 30);
    assert_eq!(topology.nodes[0].distances, [Distance { node: 0, distance: 10 }]);
    assert_eq!(topology.cpu(2).unwrap().core, 2);
    let caches: Vec<_> = topology.caches.iter().map(|c| (c.level, c.bytes, c.cpus.to_string())).collect();
    let l2 = |cpu: &str| (2, 1 << 20, cpu.to_owned());
    assert_eq!(caches, [l2("0"), l2("1"), l2("2"), l2("3"), (3, 32 << 20, "0-3".to_owned())]);
}

#[test]
fn two_sockets_with_interleaved_numbers() {
    let topology = two_sockets_interleaved().read();
    assert_eq!(topology.nodes[0].cpus, set("0,2,4,6"));
    assert_eq!(topology.nodes[1].cpus, set("1,3,5,7"));
    let cpu = topology.cpu(5).unwrap();
    assert_eq!((cpu.node, cpu.package, cpu.core), (1, 1, 0));
    assert_eq!(cpu.siblings, set("1,5"));
    assert_eq!(topology.nodes[1].distances[0], Distance { node: 0, distance: 20 });
    assert_eq!((topology.memory_bytes, topology.memory_available_bytes), (64 << 30, None));
    assert_eq!((topology.memory_limit_bytes, topology.memory_usable_bytes()), (None, 64 << 30));
}

#[test]
fn offline_cpus_leave_gaps() {
    let machine = two_sockets_interleaved();
    machine.online("0-1,3-7");
    let topology = machine.read();
    assert_eq!(topology.offline, set("2"));
    assert!(topology.cpu(2).is_none());
    assert_eq!(topology.nodes[0].cpus, set("0,4,6"));
    // Its thread mate is alone on the core now.
    assert_eq!(topology.cpu(6).unwrap().siblings, set("6"));
}

#[test]
fn cpuset_limits_cpus_and_memory() {
    let machine = two_sockets_interleaved();
    machine.allow("1,3,9", "1");
    let topology = machine.read();
    assert_eq!(topology.usable_cpus(), set("1,3"));
    assert!(!topology.nodes[0].allowed && topology.nodes[1].allowed);
    assert_eq!(topology.memory_nodes(0), [1]);
}

#[test]
fn node_without_memory_takes_the_nearest() {
    let cpus = [(0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 2, 0)];
    let topology = Machine::new(&cpus, &[8, 8, 0]).read();
    assert_eq!(topology.nodes[2].memory_bytes, 0);
    assert_eq!([0, 1, 2].map(|node| topology.memory_nodes(node)), [vec![0, 1], vec![1, 0], vec![1, 0]]);
}

#[test]
fn node_without_cpus_is_kept() {
    let topology = Machine::new(&[(0, 0, 0, 0)], &[8, 64]).read();
    assert!(topology.nodes[1].cpus.is_empty());
    assert_eq!(topology.nodes[1].memory_bytes, 64 << 30);
}

#[test]
fn container_without_node_files_has_one_node() {
    let machine = Machine::empty();
    machine.online("0-7").allow("2-3", "0").write("proc/meminfo", "MemFree: 1 kB\nMemTotal:  2048 kB");
    let topology = machine.read();
    assert_eq!(topology.nodes.len(), 1);
    assert_eq!((topology.nodes[0].id, topology.nodes[0].memory_bytes), (0, 2 << 20));
    assert_eq!((topology.memory_bytes, topology.memory_available_bytes), (2 << 20, Some(1 << 10)));
    assert_eq!(topology.usable_cpus(), set("2-3"));
    assert_eq!(topology.cpu(3).unwrap().siblings, set("3"));
}

#[test]
fn masks_do_where_there_are_no_lists() {
    let machine = Machine::empty();
    for cpu in 0..4 {
        let dir = format!("sys/devices/system/cpu/cpu{cpu}");
        machine.write(&format!("{dir}/online"), if cpu == 3 { "0" } else { "1" });
        machine.write(&format!("{dir}/topology/thread_siblings"), ["3", "3", "4", ""][cpu]);
        machine.write(&format!("{dir}/cache/index3/level"), "3");
        machine.write(&format!("{dir}/cache/index3/shared_cpu_map"), "f");
    }
    machine.write("sys/devices/system/node/node0/cpumap", "00000003");
    machine.write("sys/devices/system/node/node1/cpumap", "0000000c");
    let topology = machine.read();
    assert_eq!(topology.online_cpus(), set("0-2"));
    assert_eq!(topology.nodes.iter().map(|node| node.cpus.to_string()).collect::<Vec<_>>(), ["0-1", "2"]);
    assert_eq!(topology.cpu(1).unwrap().siblings, set("0-1"));
    assert_eq!(topology.caches[0].cpus, set("0-2"));
}

#[test]
fn without_sysfs_the_cpus_allowed_are_the_machine() {
    let machine = Machine::empty();
    machine.allow("0,4", "0");
    assert_eq!(machine.read().usable_cpus(), set("0,4"));
}

#[test]
fn what_is_missing_or_strange_is_named() {
    let machine = Machine::empty();
    let error = Topology::read(machine.root()).unwrap_err().to_string();
    assert!(error.ends_with("sys/devices/system/cpu/online: cannot be read"), "{error}");
    machine.online("zero");
    let error = Topology::read(machine.root()).unwrap_err().to_string();
    assert!(error.ends_with("online: `zero` is not a number or a range"), "{error}");
}

#[test]
fn this_machine_can_be_read() {
    let topology = Topology::read(std::path::Path::new("/")).unwrap();
    assert!(!topology.usable_cpus().is_empty());
    assert!(
        !plan(&topology, &ShardChoice { per: ShardPer::Thread, ..ShardChoice::default() })
            .unwrap()
            .shards
            .is_empty()
    );
}

#[test]
fn drawing_of_two_sockets() {
    let machine = two_sockets_interleaved();
    machine.online("0-6").allow("0-5", "0-1");
    let topology = machine.read();
    let plan = plan(&topology, &ShardChoice { count: Some(3), ..ShardChoice::default() }).unwrap();
    assert_eq!(
        draw(&topology, &plan),
        "\
7 CPUs online on 4 cores of 2 packages, this process may use 6 (0-5); 2 nodes
offline: CPU 7
memory: 64GiB
node 0: 32GiB memory, distance to 0:10 1:20
  L3 32MiB (CPU 0,2,4,6)
    package 0 core 0    CPU 0   shard 0    CPU 4   -
    package 0 core 1    CPU 2   shard 1    CPU 6   not for this process
node 1: 32GiB memory, distance to 0:20 1:10
  L3 32MiB (CPU 1,3,5)
    package 1 core 0    CPU 1   shard 2    CPU 5   -
    package 1 core 1    CPU 3   -
placement
  node 0, cache group 0: shards 0-1 on CPU 0,2
  node 1, cache group 1: shard 2 on CPU 1
"
    );
}

/// A node with 12 of the machine's 24 GiB, as where memory was added and the kernel has not put all of it to use yet.
fn added_memory() -> Machine {
    let machine = Machine::new(&[(0, 0, 0, 0)], &[12]);
    let node = ["MemTotal: 12582912", "MemFree: 8388608", "Active(file): 1048576", "SReclaimable: 1048576"];
    let node = node.map(|line| format!("Node 0 {line} kB")).join("\n");
    machine.write("sys/devices/system/node/node0/meminfo", &node);
    machine.write("proc/meminfo", "MemTotal: 25165824 kB\nMemFree: 1 kB\nMemAvailable: 23068672 kB");
    machine
}

#[test]
fn what_is_usable_of_memory_is_neither_all_nor_what_the_node_says() {
    let machine = added_memory();
    let topology = machine.read();
    assert_eq!((topology.memory_bytes, topology.memory_available_bytes), (24 << 30, Some(22 << 30)));
    let node = &topology.nodes[0];
    assert_eq!((node.memory_bytes, node.memory_available_bytes), (12 << 30, Some(10 << 30)));
    assert_eq!(topology.memory_usable_bytes(), 24 << 30);

    machine.write("proc/self/cgroup", "0::/").write("sys/fs/cgroup/memory.max", "536870912");
    let topology = machine.read();
    assert_eq!(topology.memory_limit_bytes, Some(512 << 20));
    assert_eq!(topology.memory_usable_bytes(), 512 << 20);
    let drawing = draw(&topology, &plan(&topology, &ShardChoice::default()).unwrap());
    let lines: Vec<&str> = drawing.lines().skip(1).take(3).collect();
    assert_eq!(
        lines,
        [
            "memory: 24GiB, 22GiB available; cgroup limit: 512MiB",
            "  12GiB of it not in use on any node yet (added, or not initialized)",
            "node 0: 12GiB memory, 10GiB available"
        ]
    );
    // More than there is limits nothing.
    machine.write("sys/fs/cgroup/memory.max", "1099511627776");
    assert_eq!(machine.read().memory_usable_bytes(), 24 << 30);
}

#[test]
fn drawing_without_caches_and_memory() {
    let machine = Machine::empty();
    machine.online("0-1").allow("0-1", "0");
    let topology = machine.read();
    let plan = plan(&topology, &ShardChoice { per: ShardPer::Thread, ..ShardChoice::default() }).unwrap();
    assert_eq!(
        draw(&topology, &plan),
        "\
2 CPUs online on 2 cores of 1 package, this process may use 2 (0-1); 1 node
node 0: no memory
    package 0 core 0    CPU 0   shard 0
    package 0 core 1    CPU 1   shard 1
placement
  node 0, cache group 0: shards 0-1 on CPU 0-1
"
    );
}

#[test]
fn json_has_the_documented_keys() {
    let machine = two_sockets_interleaved();
    machine.card("eth0", 1, &[(40, "eth0-TxRx-0", "1")]);
    machine.write("proc/self/cgroup", "0::/").write("sys/fs/cgroup/cpu.max", "400000 100000");
    machine.write("sys/fs/cgroup/memory.max", "1024");
    let topology = machine.read();
    let plan = plan(&topology, &ShardChoice { count: Some(2), ..ShardChoice::default() }).unwrap();
    let json: serde_json::Value = serde_json::from_str(&to_json(&topology, &plan)).unwrap();
    assert_eq!(json["shards"][1]["cpu"], 2);
    assert_eq!(json["shards"][1]["node"], 0);
    assert_eq!(json["nodes"][1]["cpus"], serde_json::json!([1, 3, 5, 7]));
    assert_eq!(json["cpus"][5]["siblings"], serde_json::json!([1, 5]));
    assert_eq!(json["caches"][0]["level"], 2);
    assert_eq!(json["nics"][0]["interrupts"][0]["cpus"], serde_json::json!([1]));
    assert_eq!(json["quota"]["quota_us"], 400_000);
    assert_eq!((&json["memory_bytes"], &json["memory_limit_bytes"]), (&(64_u64 << 30).into(), &1024.into()));
    let manual = include_str!("../../../docs/topology.md");
    for (key, list) in json.as_object().unwrap() {
        assert!(manual.contains(&format!("| `{key}` |")), "{key} is not documented");
        let first =
            list.as_array().map_or(Some(list), |list| list.first()).and_then(|first| first.as_object());
        for key in first.into_iter().flatten().map(|(key, _)| key) {
            assert!(manual.contains(&format!("`{key}`")), "{key} is not documented");
        }
    }
}

#[test]
fn a_card_is_read_with_its_queues_and_interrupts() {
    let machine = two_sockets_interleaved();
    machine.card("eth0", 1, &[(40, "eth0-TxRx-0", "1"), (41, "eth0-TxRx-1", "0-7"), (42, "eth0-misc", "0")]);
    machine.write("proc/irq/41/effective_affinity_list", "3");
    // Moved, and not yet there.
    machine.write("proc/irq/40/effective_affinity_list", "6");
    machine.write("sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,0000000c");
    machine.write("sys/class/net/lo/operstate", "unknown");
    let topology = machine.read();
    let [nic] = &topology.nics[..] else { panic!("{:?}", topology.nics) };
    assert_eq!((nic.name.as_str(), nic.node, nic.is_up), ("eth0", Some(1), true));
    let interrupts = nic.interrupts.iter().map(|i| (i.irq, i.queue, i.cpus.to_string()));
    let want = [(40, Some(0), "1"), (41, Some(1), "3"), (42, None, "0")];
    assert_eq!(interrupts.collect::<Vec<_>>(), want.map(|(irq, queue, cpus)| (irq, queue, cpus.to_owned())));
    assert_eq!(nic.rx.iter().map(|queue| queue.cpus.to_string()).collect::<Vec<_>>(), ["", "2-3"]);
    assert_eq!(nic.tx.len(), 2);
}

#[test]
fn a_card_far_from_the_shards_is_reported() {
    let machine = two_sockets_interleaved();
    machine.card("eth0", 1, &[(40, "eth0-TxRx-0", "1"), (41, "eth0-TxRx-1", "0,1")]);
    let warnings = |policy: &str| {
        let flags = crate::config::CommandLine::default().with("--placement", policy);
        plan(&machine.read(), &ShardChoice::from_flags(&flags).unwrap()).unwrap().warnings
    };
    assert_eq!(
        warnings("node=0"),
        [
            "eth0: 1 of 2 queue interrupts go to CPU 1 on node 1, where no shard is (hint: scripts/tune-host --irq)",
            "eth0 is on node 1, where no shard is (hint: --placement node=1, or spread)"
        ]
    );
    assert_eq!(warnings("node=1"), [] as [&str; 0]);
    machine.write("sys/class/net/eth0/operstate", "down");
    assert_eq!(warnings("node=0"), [] as [&str; 0]);
}

#[test]
fn cores_of_different_speed_have_classes() {
    let machine = one_socket();
    machine.write("sys/devices/cpu_core/cpus", "0-1").write("sys/devices/cpu_atom/cpus", "2-3");
    let classes = |machine: &Machine| machine.read().cpus.iter().map(|cpu| cpu.class).collect::<Vec<_>>();
    assert_eq!(classes(&machine), [0, 0, 1, 1]);
    machine.online("2-3");
    assert_eq!(classes(&machine), [0, 0]);
    let machine = one_socket();
    for (cpu, capacity) in ["446", "1024", "446", "871"].into_iter().enumerate() {
        machine.write(&format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity"), capacity);
    }
    assert_eq!(classes(&machine), [2, 0, 2, 1]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    /// Whatever a tree or a flag holds, it is read or refused; what was read is written in a way that reads the same.
    #[test]
    fn no_text_panics(text in "[0-9a-f,: \\n-]{0,40}|\\PC{0,20}") {
        if let Ok(set) = CpuSet::parse(&text) {
            proptest::prop_assert_eq!(CpuSet::parse(&set.to_string()), Ok(set.clone()));
            proptest::prop_assert_eq!(CpuSet::from_mask(&set.to_mask()), set);
        }
        CpuSet::from_mask(&text);
        let machine = one_socket();
        machine.card("eth0", 0, &[(40, "eth0-TxRx-0", "0")]);
        for file in [
            "proc/interrupts",
            "proc/self/cgroup",
            "proc/self/status",
            "sys/fs/cgroup/cpu.max",
            "sys/fs/cgroup/memory.max",
            "proc/meminfo",
            "sys/devices/system/node/node0/meminfo",
            "sys/devices/system/node/node0/distance",
            "sys/devices/system/cpu/cpu1/topology/core_cpus_list",
            "sys/devices/system/cpu/cpu1/cache/index3/size",
            "sys/class/net/eth0/queues/rx-0/rps_cpus",
        ] {
            machine.write(file, &text);
        }
        if let Ok(topology) = Topology::read(machine.root())
            && let Ok(plan) = plan(&topology, &ShardChoice::default())
        {
            draw(&topology, &plan);
        }
    }
}
