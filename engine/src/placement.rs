//! Which shard runs on which CPU: a pure function of the machine and the choice made.
//!
//! Same topology, same choice, same plan. Pins nothing and allocates nothing; `launch` carries the plan out.

use std::fmt;

use crate::config::ShardChoice;
use crate::topology::{CpuSet, Topology};

/// Where every shard goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The shards; their numbers run from 0. At least one.
    pub shards: Vec<ShardPlace>,
    /// What the operator should know, to be logged.
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

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementError {
    /// More shards than CPUs that the process may use.
    TooManyShards {
        /// How many were asked for.
        wanted: usize,
        /// The CPUs there are.
        usable: CpuSet,
    },
    /// CPUs on the list that do not exist or are offline.
    NotOnline {
        /// Those of the list.
        cpus: CpuSet,
        /// The CPUs there are.
        usable: CpuSet,
    },
    /// CPUs on the list that this process may not use.
    NotAllowed {
        /// Those of the list.
        cpus: CpuSet,
        /// The CPUs there are.
        usable: CpuSet,
    },
    /// No CPU is both online and allowed.
    NoCpu,
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyShards { wanted, usable } => write!(
                f,
                "{wanted} shards need {wanted} CPUs, this process may use {} ({usable}) (hint: --shards {})",
                usable.len(),
                usable.len()
            ),
            Self::NotOnline { cpus, usable } => write!(
                f,
                "CPU {cpus} does not exist or is offline (hint: this process may use {usable}; see `sluice topology`)"
            ),
            Self::NotAllowed { cpus, usable } => write!(
                f,
                "CPU {cpus} is outside this process's CPU set {usable} (hint: taskset, the container or the \
                 service's CPUAffinity decides that set)"
            ),
            Self::NoCpu => f.write_str("no online CPU is in this process's CPU set"),
        }
    }
}

impl std::error::Error for PlacementError {}

/// Places the shards.
///
/// # Errors
/// The choice does not fit the machine; the message says what would.
pub fn plan(topology: &Topology, choice: &ShardChoice) -> Result<Plan, PlacementError> {
    let usable = topology.usable_cpus();
    if usable.is_empty() {
        return Err(PlacementError::NoCpu);
    }
    let chosen = match choice {
        ShardChoice::PerCpu => usable,
        ShardChoice::Count(wanted) if *wanted > usable.len() => {
            return Err(PlacementError::TooManyShards { wanted: *wanted, usable });
        }
        ShardChoice::Count(wanted) => by_preference(topology, &usable).into_iter().take(*wanted).collect(),
        ShardChoice::Cpus(cpus) => {
            let online = topology.online_cpus();
            let offline: CpuSet = cpus.iter().filter(|&cpu| !online.contains(cpu)).collect();
            if !offline.is_empty() {
                return Err(PlacementError::NotOnline { cpus: offline, usable });
            }
            let forbidden: CpuSet = cpus.iter().filter(|&cpu| !usable.contains(cpu)).collect();
            if !forbidden.is_empty() {
                return Err(PlacementError::NotAllowed { cpus: forbidden, usable });
            }
            cpus.clone()
        }
    };
    let mut plan = Plan { shards: Vec::with_capacity(chosen.len()), warnings: Vec::new() };
    // By node, then by number: neighbours in the list of shards are neighbours in the machine.
    let mut cpus: Vec<_> = topology.cpus.iter().filter(|cpu| chosen.contains(cpu.id)).collect();
    cpus.sort_by_key(|cpu| (cpu.node, cpu.id));
    let mut groups: Vec<CpuSet> = Vec::new();
    for (shard, cpu) in cpus.into_iter().enumerate() {
        let mut memory = topology.memory_nodes(cpu.node).into_iter();
        let memory_node = memory.next().unwrap_or(cpu.node);
        let group = topology.l3_cpus(cpu.id);
        let l3_group = groups.iter().position(|known| *known == group).unwrap_or_else(|| {
            groups.push(group);
            groups.len() - 1
        });
        let memory_fallbacks = memory.collect();
        plan.shards.push(ShardPlace {
            shard,
            cpu: cpu.id,
            node: cpu.node,
            memory_node,
            memory_fallbacks,
            l3_group,
        });
    }
    plan.warnings = warnings(topology, &plan.shards);
    Ok(plan)
}

/// The usable CPUs, best first: one thread of every core before any second thread, and node by node, so that
/// few shards share one node's memory and cache.
fn by_preference(topology: &Topology, usable: &CpuSet) -> Vec<usize> {
    let mut ranked: Vec<(usize, usize, usize)> = topology
        .cpus
        .iter()
        .filter(|cpu| usable.contains(cpu.id))
        .map(|cpu| {
            let thread = cpu.siblings.iter().filter(|&id| id < cpu.id && usable.contains(id)).count();
            (thread, cpu.node, cpu.id)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, cpu)| cpu).collect()
}

fn warnings(topology: &Topology, shards: &[ShardPlace]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut told = Vec::new();
    for place in shards.iter().filter(|place| place.memory_node != place.node) {
        if !told.contains(&place.node) {
            told.push(place.node);
            warnings.push(format!(
                "node {} has no memory for this process: its shards take theirs from node {}",
                place.node, place.memory_node
            ));
        }
    }
    let on_core = |cpu: usize| topology.cpu(cpu).map_or(0, |cpu| cpu.siblings.len());
    let shared = shards.iter().filter(|place| {
        topology.cpu(place.cpu).is_some_and(|cpu| {
            cpu.siblings.iter().any(|id| id != cpu.id && shards.iter().any(|other| other.cpu == id))
        })
    });
    let shared = shared.count();
    if shared > 0 && shards.iter().any(|place| on_core(place.cpu) > 1) && shared < shards.len() {
        warnings.push(format!(
            "{shared} shards share cores as hyper-threads, the others have a core each: they will not be equally fast"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::fixture::{Machine, one_socket, two_sockets_interleaved};

    fn cpus(plan: &Plan) -> Vec<usize> {
        plan.shards.iter().map(|place| place.cpu).collect()
    }

    fn list(text: &str) -> ShardChoice {
        ShardChoice::Cpus(CpuSet::parse(text).unwrap())
    }

    #[test]
    fn one_shard_per_usable_cpu_by_default() {
        let machine = two_sockets_interleaved();
        machine.online("0-6").allow("1-7", "0-1");
        let plan = plan(&machine.read(), &ShardChoice::PerCpu).unwrap();
        assert_eq!(cpus(&plan), [2, 4, 6, 1, 3, 5]);
        let numbers: Vec<_> = plan.shards.iter().map(|place| (place.shard, place.node)).collect();
        assert_eq!(numbers, [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]);
    }

    #[test]
    fn few_shards_take_cores_before_threads_and_one_node_before_the_next() {
        let topology = two_sockets_interleaved().read();
        let of = |n| cpus(&plan(&topology, &ShardChoice::Count(n)).unwrap());
        assert_eq!(of(1), [0]);
        assert_eq!(of(2), [0, 2]);
        assert_eq!(of(3), [0, 2, 1]);
        assert_eq!(of(4), [0, 2, 1, 3]);
        assert_eq!(of(5), [0, 2, 4, 1, 3]);
        assert_eq!(of(8), [0, 2, 4, 6, 1, 3, 5, 7]);
    }

    #[test]
    fn a_second_thread_counts_as_first_where_the_first_is_not_ours() {
        let machine = two_sockets_interleaved();
        machine.allow("2,4,6", "0-1");
        let plan = plan(&machine.read(), &ShardChoice::Count(2)).unwrap();
        assert_eq!(cpus(&plan), [2, 4]);
    }

    #[test]
    fn a_list_is_taken_as_it_is() {
        let topology = two_sockets_interleaved().read();
        assert_eq!(cpus(&plan(&topology, &list("1,4,0")).unwrap()), [0, 4, 1]);
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_fix() {
        let machine = one_socket();
        machine.online("0-2").allow("0-1", "0");
        let topology = machine.read();
        let error = |choice| plan(&topology, &choice).unwrap_err().to_string();
        assert_eq!(
            error(ShardChoice::Count(3)),
            "3 shards need 3 CPUs, this process may use 2 (0-1) (hint: --shards 2)"
        );
        assert!(error(list("0,3,64")).starts_with("CPU 3,64 does not exist or is offline"));
        assert!(error(list("0,2")).starts_with("CPU 2 is outside this process's CPU set 0-1"));
        machine.allow("3", "0");
        assert_eq!(plan(&machine.read(), &ShardChoice::PerCpu), Err(PlacementError::NoCpu));
    }

    #[test]
    fn a_node_without_memory_is_told_once() {
        let cpus = [(0, 0, 0, 0), (1, 1, 1, 0), (2, 1, 1, 1)];
        let plan = plan(&Machine::new(&cpus, &[8, 0]).read(), &ShardChoice::PerCpu).unwrap();
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
    fn uneven_hyper_threads_are_told() {
        let topology = two_sockets_interleaved().read();
        let warnings = |n| plan(&topology, &ShardChoice::Count(n)).unwrap().warnings;
        assert_eq!(warnings(4), [] as [&str; 0]);
        assert!(warnings(5)[0].starts_with("2 shards share cores"));
        assert_eq!(warnings(8), [] as [&str; 0]);
    }

    #[test]
    fn same_machine_same_plan() {
        let topology = two_sockets_interleaved().read();
        for n in 1..=8 {
            let choice = ShardChoice::Count(n);
            assert_eq!(plan(&topology, &choice), plan(&topology, &choice));
        }
    }
}
