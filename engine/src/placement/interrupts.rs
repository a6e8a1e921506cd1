//! Which files of `/proc` and `/sys` send the queues of network cards to shards: for `scripts/tune-host --irq`.

use super::{Plan, ShardPlace};
use crate::topology::{CpuSet, Nic, Topology};

/// One file and what should be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alignment {
    /// Below the root, such as `proc/irq/40/smp_affinity_list`.
    pub file: String,
    /// The value that it should have.
    pub value: String,
    /// A description for people.
    pub what: String,
}

/// Gives every queue of every card whose link is up a shard: its interrupts go to the shard's CPU, and the shard sends by
/// it (XPS). Shards near the card come first, so that they have a queue even where there are fewer queues than shards.
pub fn alignment(topology: &Topology, plan: &Plan) -> Vec<Alignment> {
    topology.nics.iter().filter(|nic| nic.is_up).flat_map(|nic| align(topology, plan, nic)).collect()
}

fn align(topology: &Topology, plan: &Plan, nic: &Nic) -> Vec<Alignment> {
    let cpus: Vec<usize> = nearest_first(topology, plan, nic).into_iter().map(|place| place.cpu).collect();
    let mut files = Vec::new();
    for interrupt in nic.queue_interrupts() {
        let cpu = cpus[interrupt.queue.unwrap_or(0) % cpus.len()];
        files.push(Alignment {
            file: format!("proc/irq/{}/smp_affinity_list", interrupt.irq),
            value: cpu.to_string(),
            what: format!("interrupt {} {}", interrupt.irq, interrupt.name),
        });
    }
    // The only queue of a card serves all CPUs, and takes no mask.
    if nic.tx.len() < 2 {
        return files;
    }
    for queue in &nic.tx {
        let nth = queue.queue;
        let senders: CpuSet = match nth < cpus.len() {
            true => cpus.iter().skip(nth).step_by(nic.tx.len()).copied().collect(),
            false => [cpus[nth % cpus.len()]].into_iter().collect(),
        };
        files.push(Alignment {
            file: format!("sys/class/net/{}/queues/tx-{nth}/xps_cpus", nic.name),
            value: senders.to_mask(),
            what: format!("{} transmit queue {nth}", nic.name),
        });
    }
    files
}

fn nearest_first<'p>(topology: &Topology, plan: &'p Plan, nic: &Nic) -> Vec<&'p ShardPlace> {
    let distances = nic.node.and_then(|node| topology.node(node)).map_or(&[][..], |node| &node.distances);
    let far = |node| distances.iter().find(|to| to.node == node).map_or(u32::MAX, |to| to.distance);
    let mut places: Vec<&ShardPlace> = plan.shards.iter().collect();
    places.sort_by_key(|place| (Some(place.node) != nic.node, far(place.node), place.shard));
    places
}
