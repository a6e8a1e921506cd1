//! The topology of the machine: nodes, CPUs, caches, network cards, and the part of it this process may use.
//!
//! Data only. `sysfs`, `nic`, `quota` and `memory_limit` read it, `placement` decides with it, `draw` shows it. Read once at start, on the
//! control thread; numbers are the kernel's own and may have gaps.

mod cgroup;
mod cpu_set;
mod draw;
mod files;
mod memory_limit;
mod nic;
mod quota;
mod sysfs;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use cpu_set::CpuSet;
pub use draw::{draw, to_json};
pub use nic::{Interrupt, Nic, Queue};
pub use quota::Quota;
pub use sysfs::TopologyError;

use serde::Serialize;

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// NUMA nodes by rising number; at least one.
    pub nodes: Vec<Node>,
    /// Online CPUs by rising number; at least one.
    pub cpus: Vec<Cpu>,
    /// Caches of level 2 and above, by level and first CPU.
    pub caches: Vec<Cache>,
    /// CPUs that are there and switched off.
    pub offline: CpuSet,
    /// CPU time that control groups allow this process; none for no limit.
    pub quota: Option<Quota>,
    /// Memory of the machine in bytes, of all nodes and with what is still being added; 0 if the kernel does not say.
    pub memory_bytes: u64,
    /// How much of it is available without swapping, as the kernel estimates it; none if it does not report it.
    pub memory_available_bytes: Option<u64>,
    /// Memory in bytes that control groups allow this process; none for no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Network cards by name.
    pub nics: Vec<Nic>,
}

/// A NUMA node. Some have no CPU (memory expanders), some no memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The kernel's number.
    pub id: usize,
    /// Its online CPUs.
    pub cpus: CpuSet,
    /// Memory in bytes that the kernel has put to use here; 0 for a node without. Of memory that was added while the
    /// machine runs this is less than the machine has, and grows.
    pub memory_bytes: u64,
    /// How much of it is free or can be made free without swapping; none if the kernel does not report it.
    pub memory_available_bytes: Option<u64>,
    /// Whether this process may take memory here (cpuset).
    pub allowed: bool,
    /// How far every node is, itself included; 10 is local.
    pub distances: Vec<Distance>,
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Distance {
    /// The other node.
    pub node: usize,
    /// The firmware's figure; 10 is local, 20 twice as slow.
    pub distance: u32,
}

/// An online CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The kernel's number.
    pub id: usize,
    /// Its NUMA node.
    pub node: usize,
    /// Its package (socket).
    pub package: usize,
    /// Its core; unique within the package only.
    pub core: usize,
    /// The online hyper-threads of its core, itself included.
    pub siblings: CpuSet,
    /// Whether this process may run here (cpuset, affinity).
    pub allowed: bool,
    /// How fast it is among the CPUs of a hybrid machine: 0 is the fastest class, and the only one elsewhere.
    pub class: usize,
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 2 or above.
    pub level: u32,
    /// Size in bytes; 0 if the kernel does not say.
    pub bytes: u64,
    /// The online CPUs that share it.
    pub cpus: CpuSet,
}

impl Topology {
    /// The memory in bytes that this process may have in all: the machine's, or what control groups allow of it.
    pub fn memory_usable_bytes(&self) -> u64 {
        self.memory_limit_bytes.map_or(self.memory_bytes, |limit| limit.min(self.memory_bytes))
    }

    /// The CPU of that number, if it is online.
    pub fn cpu(&self, id: usize) -> Option<&Cpu> {
        self.cpus.binary_search_by_key(&id, |cpu| cpu.id).ok().map(|i| &self.cpus[i])
    }

    /// The node of that number.
    pub fn node(&self, id: usize) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Online CPUs.
    pub fn online_cpus(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// CPUs that are online and that this process may run on.
    pub fn usable_cpus(&self) -> CpuSet {
        self.cpus.iter().filter(|cpu| cpu.allowed).map(|cpu| cpu.id).collect()
    }

    /// The nodes to take memory from for a CPU of `node`, best first: itself if it has memory that this process
    /// may use, then the others that have, nearest first. A memory policy for any other node fails with EINVAL.
    /// Only `node` if no node says that it has memory.
    pub fn memory_nodes(&self, node: usize) -> Vec<usize> {
        let distance = |to: usize| {
            let distances = self.node(node).map_or(&[][..], |node| &node.distances);
            distances.iter().find(|d| d.node == to).map_or(u32::MAX, |d| d.distance)
        };
        let with_memory = self.nodes.iter().filter(|node| node.allowed && node.memory_bytes > 0);
        let mut ids: Vec<usize> = with_memory.map(|node| node.id).collect();
        ids.sort_by_key(|&to| (to != node, distance(to), to));
        if ids.is_empty() { vec![node] } else { ids }
    }

    /// The CPUs that share a last-level cache with `cpu`, cut at the border of its node. Where the kernel names no
    /// cache above level 2, the CPUs of the node of which that is true. Empty if `cpu` is not online.
    pub fn l3_cpus(&self, cpu: usize) -> CpuSet {
        let Some(cpu) = self.cpu(cpu) else { return CpuSet::default() };
        let node = self.node(cpu.node).map_or_else(CpuSet::default, |node| node.cpus.clone());
        let caches_of =
            |cpu| self.caches.iter().filter(move |cache| cache.level > 2 && cache.cpus.contains(cpu));
        match caches_of(cpu.id).max_by_key(|cache| cache.level) {
            Some(cache) => cache.cpus.intersection(&node),
            None => node.iter().filter(|&other| caches_of(other).next().is_none()).collect(),
        }
    }
}
