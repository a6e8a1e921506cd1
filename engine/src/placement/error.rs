//! Why a plan is not possible, each cause with its cure.

use std::fmt;

use crate::topology::CpuSet;

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementError {
    /// More shards than there are CPUs for them.
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
    /// There is no node of that number.
    NoSuchNode {
        /// The one asked for.
        node: usize,
        /// Those with CPUs for this process.
        nodes: CpuSet,
    },
    /// The node has memory only, or all of its CPUs are offline.
    NodeWithoutCpus {
        /// The one asked for.
        node: usize,
        /// Those with CPUs for this process.
        nodes: CpuSet,
    },
    /// The process may use none of the node's CPUs.
    NodeNotAllowed {
        /// The one asked for.
        node: usize,
        /// Its CPUs.
        cpus: CpuSet,
        /// The CPUs that the process may use.
        usable: CpuSet,
    },
    /// All cores were to be left for something else.
    NothingLeft {
        /// How many were to be left.
        reserve: usize,
        /// How many there are.
        cores: usize,
    },
    /// No CPU is both online and allowed.
    NoCpu,
}

/// The limit that says which CPUs a process may use.
const WHO_DECIDES: &str = "taskset, the container or the service's CPUAffinity decides that set";

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyShards { wanted, usable } => {
                let there = usable.len();
                write!(
                    f,
                    "{wanted} shards need {wanted} CPUs, there are {there} ({usable}) (hint: --shards {there})"
                )
            }
            Self::NotOnline { cpus, usable } => write!(
                f,
                "CPU {cpus} does not exist or is offline (hint: this process may use {usable}; see `sluice topology`)"
            ),
            Self::NotAllowed { cpus, usable } => {
                write!(f, "CPU {cpus} is outside this process's CPU set {usable} (hint: {WHO_DECIDES})")
            }
            Self::NoSuchNode { node, nodes } => {
                write!(f, "there is no node {node} (hint: nodes with CPUs for this process: {nodes})")
            }
            Self::NodeWithoutCpus { node, nodes } => {
                write!(f, "node {node} has no CPU online (hint: nodes with CPUs for this process: {nodes})")
            }
            Self::NodeNotAllowed { node, cpus, usable } => write!(
                f,
                "node {node} has CPU {cpus}, all outside this process's CPU set {usable} (hint: {WHO_DECIDES})"
            ),
            Self::NothingLeft { reserve, cores } => {
                let s = if *cores == 1 { "" } else { "s" };
                write!(
                    f,
                    "{reserve} reserved of {cores} core{s} leave none for a shard (hint: --reserve {})",
                    cores - 1
                )
            }
            Self::NoCpu => write!(f, "no online CPU is in this process's CPU set (hint: {WHO_DECIDES})"),
        }
    }
}

impl std::error::Error for PlacementError {}
