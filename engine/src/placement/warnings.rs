//! Warnings about a plan that works and is slower than it could be.

use super::{Plan, ShardPlace};
use crate::config::{Policy, ShardChoice, ShardPer};
use crate::topology::{CpuSet, Nic, Topology};

/// Adds the warnings to the plan.
pub(super) fn add(topology: &Topology, choice: &ShardChoice, plan: &mut Plan) {
    let shards = &plan.shards;
    let mut warnings = Vec::new();
    warnings.extend(quota(topology, choice, plan));
    warnings.extend(memoryless_nodes(shards));
    warnings.extend(uneven_threads(topology, shards));
    warnings.extend(slow_cores(topology, shards));
    for nic in topology.nics.iter().filter(|nic| nic.is_up) {
        warnings.extend(far_interrupts(topology, nic, shards));
        warnings.extend(far_card(topology, nic, shards));
    }
    plan.warnings = warnings;
}

fn quota(topology: &Topology, choice: &ShardChoice, plan: &Plan) -> Option<String> {
    let quota = topology.quota?;
    let shards = plan.shards.len();
    if shards > quota.cpus() {
        return Some(format!(
            "{} share a cgroup quota of {quota} CPUs and will be throttled together",
            many(shards)
        ));
    }
    if choice.count.is_some() || matches!(choice.policy, Policy::Cpus(_)) {
        return None;
    }
    // The shards without the quota.
    let without = ShardChoice { count: None, ..choice.clone() };
    let free = super::plan(&Topology { quota: None, ..topology.clone() }, &without).ok()?.shards.len();
    let per = match choice.per {
        ShardPer::Core => "core",
        ShardPer::Thread => "hyper-thread",
    };
    (free > shards).then(|| {
        format!(
            "the cgroup quota is {quota} CPUs: {} instead of {free}, one per {per} (--shards overrides)",
            many(shards)
        )
    })
}

fn many(shards: usize) -> String {
    format!("{shards} shard{}", if shards == 1 { "" } else { "s" })
}

fn memoryless_nodes(shards: &[ShardPlace]) -> Vec<String> {
    let far = shards.chunk_by(|a, b| a.node == b.node).map(|node| &node[0]);
    let far = far.filter(|place| place.memory_node != place.node);
    far.map(|place| {
        let (node, memory) = (place.node, place.memory_node);
        format!("node {node} has no memory for this process: its shards take theirs from node {memory}")
    })
    .collect()
}

fn uneven_threads(topology: &Topology, shards: &[ShardPlace]) -> Option<String> {
    let on: CpuSet = shards.iter().map(|place| place.cpu).collect();
    let shares = |place: &&ShardPlace| {
        topology.cpu(place.cpu).is_some_and(|cpu| cpu.siblings.intersection(&on).len() > 1)
    };
    let shared = shards.iter().filter(shares).count();
    (0 < shared && shared < shards.len()).then(|| {
        format!("{shared} shards share cores as hyper-threads, the others have a core each: they will not be equally fast")
    })
}

fn slow_cores(topology: &Topology, shards: &[ShardPlace]) -> Option<String> {
    let class = |place: &ShardPlace| topology.cpu(place.cpu).map_or(0, |cpu| cpu.class);
    let fastest = shards.iter().map(class).min()?;
    let (slow, fast): (Vec<_>, Vec<_>) = shards.iter().partition(|place| class(place) > fastest);
    let cpus = |places: Vec<&ShardPlace>| places.iter().map(|place| place.cpu).collect::<CpuSet>();
    (!slow.is_empty()).then(|| {
        format!(
            "CPU {} are slower cores: their shards will be, too (hint: --cpus {} for the fast ones)",
            cpus(slow),
            cpus(fast)
        )
    })
}

/// Interrupts of queues that go to nodes where no shard is: every packet crosses the machine.
fn far_interrupts(topology: &Topology, nic: &Nic, shards: &[ShardPlace]) -> Option<String> {
    let node_of = |cpu| topology.cpu(cpu).map(|cpu| cpu.node);
    let is_far = |cpu| shards.iter().all(|place| Some(place.node) != node_of(cpu));
    let used: Vec<_> = nic.queue_interrupts().filter(|interrupt| !interrupt.cpus.is_empty()).collect();
    let far: Vec<_> = used.iter().filter(|interrupt| interrupt.cpus.iter().all(is_far)).collect();
    let cpus: CpuSet = far.iter().flat_map(|interrupt| interrupt.cpus.iter()).collect();
    let nodes: CpuSet = cpus.iter().filter_map(node_of).collect();
    (!far.is_empty()).then(|| {
        format!(
            "{}: {} of {} queue interrupts go to CPU {cpus} on node {nodes}, where no shard is (hint: scripts/tune-host --irq)",
            nic.name,
            far.len(),
            used.len(),
        )
    })
}

/// A card on a node where a shard could be and none is.
fn far_card(topology: &Topology, nic: &Nic, shards: &[ShardPlace]) -> Option<String> {
    let node = nic.node.filter(|&node| shards.iter().all(|place| place.node != node))?;
    topology.cpus.iter().find(|cpu| cpu.node == node && cpu.allowed)?;
    Some(format!(
        "{} is on node {node}, where no shard is (hint: --placement node={node}, or spread)",
        nic.name
    ))
}
