//! How much memory each shard may use, from what the machine and its control groups have.
//!
//! Without a limit of a control group only the receive buffers depend on the machine's memory. Under one, a process that
//! takes more is killed, with all its connections: so what clients can make Sluice keep is bounded by parts of that limit.
//! Kernel memory counts too, of which a connection takes far more than ours.

use sluice_sys::BUFFER_BYTES;

use crate::config::Limits;
use crate::topology::Topology;

/// Receive buffers of a shard, where memory is plentiful.
const RECEIVE_BUFFERS_BYTES: u64 = 256 << 20;
/// ... and where it is not.
const RECEIVE_BUFFERS_MIN: u64 = 1 << 20;

/// All shards' receive buffers are at most this part of the memory (one in so many).
const RECEIVE_BUFFERS_PART: u64 = 16;

/// All shards' unfinished request heads are at most this part of a control group's limit.
const PARTIAL_HEADS_PART: u64 = 16;

/// Under a control group's limit, connections may have this part of it (one in so many) ...
const CONNECTIONS_PART: u64 = 2;
/// ... at so many bytes each: what the kernel takes for one (reports/capacity-vm-sluice-2026-11-20.md) and a little of ours.
const CONNECTION_BYTES: u64 = 6 << 10;

/// What one shard may use, and all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Receive buffers, a power of two.
    pub(crate) receive_buffers: u16,
    /// Bytes of unfinished request heads.
    pub(crate) partial_heads_bytes: usize,
    /// Client connections of all shards together.
    pub(crate) connections: u64,
}

impl Budget {
    /// The share of one of `shards` shards.
    pub(crate) fn of_shard(limits: &Limits, topology: &Topology, shards: usize) -> Budget {
        let shards = shards.max(1) as u64;
        let limit = topology.memory_limit_bytes;
        let memory = match (limit, topology.memory_bytes) {
            (limit, 0) => limit,
            (limit, bytes) => Some(limit.unwrap_or(u64::MAX).min(bytes)),
        };
        let buffers_bytes = match limits.receive_buffers_bytes as u64 {
            0 => {
                let part =
                    memory.map_or(RECEIVE_BUFFERS_BYTES, |bytes| bytes / RECEIVE_BUFFERS_PART / shards);
                part.clamp(RECEIVE_BUFFERS_MIN, RECEIVE_BUFFERS_BYTES)
            }
            given => given.max(RECEIVE_BUFFERS_MIN),
        };
        let partial_heads = limit.map_or(u64::MAX, |bytes| bytes / PARTIAL_HEADS_PART / shards);
        Budget {
            receive_buffers: buffers_of(buffers_bytes),
            partial_heads_bytes: limits
                .partial_heads_bytes
                .min(usize::try_from(partial_heads).unwrap_or(usize::MAX)),
            connections: limit.map_or(u64::MAX, |bytes| bytes / CONNECTIONS_PART / CONNECTION_BYTES),
        }
    }

    /// A line for the operator, if memory limits anything.
    pub(crate) fn explain(&self, topology: &Topology) -> Option<String> {
        let limit = topology.memory_limit_bytes?;
        Some(format!(
            "memory limit {} MiB (cgroup): {} connections; per shard {} MiB of receive buffers and {} KiB of unfinished heads",
            limit >> 20,
            self.connections,
            (u64::from(self.receive_buffers) * u64::from(BUFFER_BYTES)) >> 20,
            self.partial_heads_bytes >> 10,
        ))
    }
}

/// As many buffers as fit, rounded down to a power of two.
fn buffers_of(bytes: u64) -> u16 {
    let count = (bytes / u64::from(BUFFER_BYTES)).clamp(1, 1 << 15);
    // At most 2^15, so it fits.
    1 << count.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::fixture::two_sockets_interleaved;

    fn budget(limits: &Limits, memory: u64, limit: Option<u64>, shards: usize) -> Budget {
        let mut topology = two_sockets_interleaved().read();
        topology.memory_bytes = memory;
        topology.memory_limit_bytes = limit;
        Budget::of_shard(limits, &topology, shards)
    }

    #[test]
    fn a_large_machine_does_not_limit_anything() {
        let budget = budget(&Limits::default(), 24 << 30, None, 2);
        assert_eq!(budget.receive_buffers, 16_384);
        assert_eq!((budget.partial_heads_bytes, budget.connections), (64 << 20, u64::MAX));
    }

    #[test]
    fn a_small_control_group_gets_what_fits() {
        let budget = budget(&Limits::default(), 24 << 30, Some(24 << 20), 1);
        assert_eq!(budget.receive_buffers, 64);
        assert_eq!((budget.partial_heads_bytes, budget.connections), (24 << 16, 2_048));
    }

    #[test]
    fn connections_are_those_of_all_shards() {
        for shards in [1, 8] {
            assert_eq!(budget(&Limits::default(), 24 << 30, Some(24 << 20), shards).connections, 2_048);
        }
    }

    #[test]
    fn many_shards_share_the_memory_and_what_is_given_counts() {
        assert_eq!(budget(&Limits::default(), 16 << 30, None, 64).receive_buffers, 1_024);
        assert_eq!(budget(&Limits::default(), 0, None, 64).receive_buffers, 16_384);
        let given = Limits { receive_buffers_bytes: 100 << 20, ..Limits::default() };
        assert_eq!(budget(&given, 1 << 30, None, 4).receive_buffers, 4_096);
    }
}
