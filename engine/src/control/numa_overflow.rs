//! Warns when memory of a shard had to be taken from another node than its own.
//!
//! The kernel counts for each node how often memory was wanted there and came from elsewhere (`numa_foreign`). That is cheap to
//! read; only when it has grown are the pages of the shards looked up.

use super::member::Member;
use crate::log;

/// Watches the nodes that shards take their memory from.
pub(crate) struct NumaOverflow {
    /// Nodes and the last value of their counter.
    nodes: Vec<(usize, u64)>,
    /// The most pages that each shard had elsewhere when it was reported.
    reported: Vec<u64>,
    /// Nothing was looked up yet.
    is_first: bool,
}

impl NumaOverflow {
    /// `None` where no shard has a choice of nodes.
    pub(crate) fn watch(members: &[Box<Member>]) -> Option<NumaOverflow> {
        if members.iter().all(|member| member.place.memory_fallbacks.is_empty()) {
            return None;
        }
        let mut nodes: Vec<usize> = members.iter().map(|member| member.memory_node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let nodes = nodes.into_iter().map(|node| (node, 0)).collect();
        Some(NumaOverflow { nodes, reported: vec![0; members.len()], is_first: true })
    }

    /// Looks up the pages if there is reason to, and warns of shards that have more than double of what was reported.
    pub(crate) fn look(&mut self, members: &[Box<Member>]) {
        if !self.has_grown() {
            return;
        }
        for (member, reported) in members.iter().zip(&mut self.reported) {
            let Ok(parts) = member.memory.locate() else { return };
            let on = parts.iter().map(|(_, pages)| pages.on(member.memory_node)).sum();
            let off = parts.iter().map(|(_, pages)| pages.off(member.memory_node)).sum();
            if off > *reported * 2 {
                *reported = off;
                log::warn(warning(member.place.shard, member.memory_node, on, off));
            }
        }
    }

    fn has_grown(&mut self) -> bool {
        let mut has_grown = std::mem::take(&mut self.is_first);
        for (node, last) in &mut self.nodes {
            let file = format!("/sys/devices/system/node/node{node}/numastat");
            let now = foreign(&std::fs::read_to_string(file).unwrap_or_default());
            has_grown |= now > *last;
            *last = now;
        }
        has_grown
    }
}

fn foreign(numastat: &str) -> u64 {
    let line = numastat.lines().find_map(|line| line.strip_prefix("numa_foreign "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn warning(shard: usize, node: usize, on: u64, off: u64) -> String {
    format!(
        "node {node} is full: {off} of {} pages of shard {shard} are on other nodes, where its CPU reaches them slower (hint: \
         free memory on node {node}, or run fewer shards there)",
        on + off
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_count() {
        assert_eq!(foreign("numa_hit 12\nnuma_miss 3\nnuma_foreign 45\ninterleave_hit 6\n"), 45);
        assert_eq!(foreign(""), 0);
    }

    #[test]
    fn the_warning_says_how_much_and_what_to_do() {
        let line = warning(2, 1, 900, 100);
        assert!(line.starts_with("node 1 is full: 100 of 1000 pages of shard 2"), "{line}");
    }
}
