//! How much every shard has to do, for all shards to see.
//!
//! A shard writes its own two numbers and nobody else's; they lie in a line of memory of their own, so that writing them
//! disturbs nobody but those who look.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a shard shows that takes no connections any more.
const CLOSED: u64 = u64::MAX;

/// Two lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load {
    /// Completions in a recent moment, or [`CLOSED`].
    work: AtomicU64,
    /// Accepted connections that are open.
    connections: AtomicU64,
}

/// The loads of all shards, by their numbers.
#[derive(Debug)]
pub struct Board(Box<[Load]>);

impl Board {
    /// A board for so many shards, none of which has anything to do.
    pub fn new(shards: usize) -> Board {
        Board((0..shards).map(|_| Load::default()).collect())
    }

    /// Shards on the board.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// What a shard had to do lately; `None` if it takes no connections any more.
    pub fn work(&self, shard: usize) -> Option<u64> {
        let work = self.0[shard].work.load(Relaxed);
        (work != CLOSED).then_some(work)
    }

    /// Client connections of a shard, a moment ago.
    pub fn connections(&self, shard: usize) -> u64 {
        self.0[shard].connections.load(Relaxed)
    }

    /// Says what a shard had to do. Only for that shard.
    pub fn set_work(&self, shard: usize, work: u64) {
        self.0[shard].work.store(work.min(CLOSED - 1), Relaxed);
    }

    /// Says how many connections a shard has. Only for that shard.
    pub(crate) fn set_connections(&self, shard: usize, connections: u32) {
        self.0[shard].connections.store(u64::from(connections), Relaxed);
    }

    /// Nobody should give this shard connections from now on. Only for that shard.
    pub(crate) fn close(&self, shard: usize) {
        self.0[shard].work.store(CLOSED, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_lines_of_its_own() {
        let board = Board::new(3);
        let lines: Vec<usize> = board.0.iter().map(|load| std::ptr::from_ref(load) as usize).collect();
        assert!(lines.iter().all(|line| line % 128 == 0), "{lines:x?}");
        assert!(lines.windows(2).all(|pair| pair[1] - pair[0] >= 128), "{lines:x?}");
    }

    #[test]
    fn a_closed_shard_has_no_work_to_compare() {
        let board = Board::new(2);
        board.set_work(1, 7);
        board.close(0);
        assert_eq!((board.work(0), board.work(1)), (None, Some(7)));
    }
}
