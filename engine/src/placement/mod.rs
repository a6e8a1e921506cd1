//! Which shard runs on which CPU: a pure function of the machine and the choice made.
//!
//! Same topology, same choice, same plan. Pins nothing and allocates nothing; `launch` carries the plan out.

mod error;
mod interrupts;
mod warnings;

#[cfg(test)]
mod tests;

pub use error::PlacementError;
pub use interrupts::{Alignment, alignment};

use crate::config::{Policy, ShardChoice, ShardPer};
use crate::topology::{CpuSet, Topology};

/// Where every shard goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The shards; their numbers run from 0. At least one.
    pub shards: Vec<ShardPlace>,
    /// CPUs left for interrupts and the control plane; empty if none were asked for.
    pub reserved: CpuSet,
    /// Warnings for the operator, to be logged.
    pub warnings: Vec<String>,
}

/// Where one shard goes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ShardPlace {
    /// Its number, from 0.
    pub shard: usize,
    /// The CPU to pin it to.
    pub cpu: usize,
    /// The NUMA node of that CPU.
    pub node: usize,
    /// The node to take memory from: `node`, or the nearest one with memory this process may use.
    pub memory_node: usize,
    /// The other nodes with memory that this process may use, nearest first: where to go when `memory_node` is full.
    pub memory_fallbacks: Vec<usize>,
    /// Shards with the same number share a last-level cache (their node, where there is none); from 0, in the
    /// order of the shards.
    pub l3_group: usize,
}

/// Places the shards.
///
/// # Errors
/// The choice does not fit the machine; the message says what would.
pub fn plan(topology: &Topology, choice: &ShardChoice) -> Result<Plan, PlacementError> {
    let usable = topology.usable_cpus();
    if usable.is_empty() {
        return Err(PlacementError::NoCpu);
    }
    let mut plan = Plan { shards: Vec::new(), reserved: CpuSet::default(), warnings: Vec::new() };
    let chosen = match &choice.policy {
        Policy::Cpus(cpus) => listed(topology, usable, cpus)?,
        Policy::Node(node) => pick(topology, choice, &on_node(topology, *node, usable)?, &mut plan)?,
        Policy::Pack | Policy::Spread => pick(topology, choice, &usable, &mut plan)?,
    };
    plan.shards = places(topology, &chosen);
    warnings::add(topology, choice, &mut plan);
    Ok(plan)
}

/// One line for every group of shards that share a cache, for people and for the log.
pub fn summary(plan: &Plan) -> Vec<String> {
    let groups = plan.shards.chunk_by(|a, b| a.l3_group == b.l3_group);
    let line = |group: &[ShardPlace]| {
        let first = &group[0];
        let shards: CpuSet = group.iter().map(|place| place.shard).collect();
        let cpus: CpuSet = group.iter().map(|place| place.cpu).collect();
        let memory = match first.memory_node {
            node if node == first.node => String::new(),
            node => format!(", memory of node {node}"),
        };
        let s = if group.len() == 1 { "" } else { "s" };
        format!(
            "node {}, cache group {}: shard{s} {shards} on CPU {cpus}{memory}",
            first.node, first.l3_group
        )
    };
    let mut lines: Vec<String> = groups.map(line).collect();
    if !plan.reserved.is_empty() {
        lines.push(format!("left for interrupts and the control plane: CPU {}", plan.reserved));
    }
    lines
}

/// The CPUs of a list, if the process may use them all.
fn listed(topology: &Topology, usable: CpuSet, cpus: &CpuSet) -> Result<CpuSet, PlacementError> {
    let online = topology.online_cpus();
    let offline: CpuSet = cpus.iter().filter(|&cpu| !online.contains(cpu)).collect();
    if !offline.is_empty() {
        return Err(PlacementError::NotOnline { cpus: offline, usable });
    }
    let forbidden: CpuSet = cpus.iter().filter(|&cpu| !usable.contains(cpu)).collect();
    if !forbidden.is_empty() {
        return Err(PlacementError::NotAllowed { cpus: forbidden, usable });
    }
    Ok(cpus.clone())
}

/// The usable CPUs of a node.
fn on_node(topology: &Topology, node: usize, usable: CpuSet) -> Result<CpuSet, PlacementError> {
    let with_cpus = || {
        let ids = topology.cpus.iter().filter(|cpu| cpu.allowed).map(|cpu| cpu.node);
        ids.collect::<CpuSet>()
    };
    let Some(found) = topology.node(node) else {
        return Err(PlacementError::NoSuchNode { node, nodes: with_cpus() });
    };
    if found.cpus.is_empty() {
        return Err(PlacementError::NodeWithoutCpus { node, nodes: with_cpus() });
    }
    let cpus = found.cpus.intersection(&usable);
    if cpus.is_empty() {
        return Err(PlacementError::NodeNotAllowed { node, cpus: found.cpus.clone(), usable });
    }
    Ok(cpus)
}

/// A core with the hyper-threads of it that may be used.
#[derive(Debug, Clone)]
struct Core {
    class: usize,
    node: usize,
    /// The first CPU of its cache group.
    cache: usize,
    /// At least one, by number.
    threads: Vec<usize>,
}

/// Takes as many of the candidates as there should be shards, best first, and leaves what is to be left.
fn pick(
    topology: &Topology,
    choice: &ShardChoice,
    candidates: &CpuSet,
    plan: &mut Plan,
) -> Result<CpuSet, PlacementError> {
    let mut cores = cores(topology, candidates);
    if choice.reserve >= cores.len() {
        return Err(PlacementError::NothingLeft { reserve: choice.reserve, cores: cores.len() });
    }
    for _ in 0..choice.reserve {
        let core = cores.remove(next_to_reserve(&cores, &plan.reserved, topology));
        plan.reserved = plan.reserved.iter().chain(core.threads).collect();
    }
    match choice.policy {
        Policy::Spread => spread(&mut cores),
        _ => cores.sort_by_key(|core| (core.class, core.node, core.cache, core.threads[0])),
    }
    // Every core gets one shard before any gets a second one on its hyper-thread.
    let deepest = cores.iter().map(|core| core.threads.len()).max().unwrap_or(0);
    let threads =
        (0..deepest).flat_map(|nth| cores.iter().filter_map(move |core| core.threads.get(nth).copied()));
    let threads: Vec<usize> = threads.collect();
    let count = match choice.count {
        Some(wanted) if wanted > threads.len() => {
            return Err(PlacementError::TooManyShards { wanted, usable: threads.into_iter().collect() });
        }
        Some(wanted) => wanted,
        None => {
            let wanted = match choice.per {
                ShardPer::Core => cores.len(),
                ShardPer::Thread => threads.len(),
            };
            topology.quota.map_or(wanted, |quota| wanted.min(quota.cpus()))
        }
    };
    Ok(threads.into_iter().take(count).collect())
}

fn cores(topology: &Topology, candidates: &CpuSet) -> Vec<Core> {
    let cpus = topology.cpus.iter().filter(|cpu| candidates.contains(cpu.id));
    cpus.filter_map(|cpu| {
        let threads: Vec<usize> = cpu.siblings.intersection(candidates).iter().collect();
        // Each core once, by its first thread.
        (threads.first() == Some(&cpu.id)).then(|| Core {
            class: cpu.class,
            node: cpu.node,
            cache: topology.l3_cpus(cpu.id).first().unwrap_or(cpu.id),
            threads,
        })
    })
    .collect()
}

/// The core to leave next: a slow one rather than a fast one, from the node that has left the fewest, and there the
/// lowest, since the kernel's own work gathers on low numbers.
fn next_to_reserve(cores: &[Core], reserved: &CpuSet, topology: &Topology) -> usize {
    let left_on =
        |node| reserved.iter().filter(|&cpu| topology.cpu(cpu).is_some_and(|cpu| cpu.node == node)).count();
    let slowest_first = |core: &Core| std::cmp::Reverse(core.class);
    let best = cores.iter().enumerate();
    let best =
        best.min_by_key(|(_, core)| (slowest_first(core), left_on(core.node), core.node, core.threads[0]));
    best.map_or(0, |(at, _)| at)
}

/// Orders cores so that nodes take turns, and within a node its caches; faster cores before slower ones.
fn spread(cores: &mut Vec<Core>) {
    cores.sort_by_key(|core| (core.class, core.node, core.cache, core.threads[0]));
    // Its turn within its cache, then its turn within its node.
    let within_cache = turns(cores, |core| (core.class, core.node, core.cache));
    let mut ranked: Vec<(usize, Core)> = within_cache.into_iter().zip(cores.drain(..)).collect();
    ranked.sort_by_key(|(turn, core)| (core.class, core.node, *turn, core.cache));
    let by_node: Vec<Core> = ranked.into_iter().map(|(_, core)| core).collect();
    let within_node = turns(&by_node, |core| (core.class, core.node));
    let mut ranked: Vec<(usize, Core)> = within_node.into_iter().zip(by_node).collect();
    ranked.sort_by_key(|(turn, core)| (core.class, *turn, core.node));
    cores.extend(ranked.into_iter().map(|(_, core)| core));
}

/// For every core, how many with the same key stand before it; the same keys stand together.
fn turns<K: PartialEq>(cores: &[Core], key: impl Fn(&Core) -> K) -> Vec<usize> {
    cores.chunk_by(|a, b| key(a) == key(b)).flat_map(|group| 0..group.len()).collect()
}

/// Numbers the shards by node, cache and CPU: neighbours in the list of shards are neighbours in the machine.
fn places(topology: &Topology, chosen: &CpuSet) -> Vec<ShardPlace> {
    let cpus = topology.cpus.iter().filter(|cpu| chosen.contains(cpu.id));
    let mut cpus: Vec<_> = cpus.map(|cpu| (cpu.node, topology.l3_cpus(cpu.id), cpu.id)).collect();
    cpus.sort_by_key(|(node, cache, cpu)| (*node, cache.first(), cache.len(), *cpu));
    let mut groups: Vec<CpuSet> = Vec::new();
    let mut shards = Vec::with_capacity(cpus.len());
    for (shard, (node, cache, cpu)) in cpus.into_iter().enumerate() {
        if groups.last() != Some(&cache) {
            groups.push(cache);
        }
        let mut memory = topology.memory_nodes(node).into_iter();
        let memory_node = memory.next().unwrap_or(node);
        let memory_fallbacks = memory.collect();
        shards.push(ShardPlace {
            shard,
            cpu,
            node,
            memory_node,
            memory_fallbacks,
            l3_group: groups.len() - 1,
        });
    }
    shards
}
