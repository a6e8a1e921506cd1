//! The load of every shard, readable by all shards.
//!
//! A shard writes its own two numbers and no others. They lie on a cache line of their own, so that writing them affects only
//! their readers. The kernel can be one of them: a board may lie in a map that programs of extended BPF read.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::bpf::{Map, MapKind, MappedValues, NotLoaded};

/// The value of a shard that takes no connections any more.
const CLOSED: u64 = u64::MAX;

/// Completions in a tenth of a second below which a shard is as good as idle: some 50 requests a second.
pub const BUSY_WORK: u32 = 20;

/// Two lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Load {
    /// Completions in a recent moment, or [`CLOSED`].
    work: AtomicU64,
    /// Accepted connections that are open.
    connections: AtomicU64,
}

/// Where a program finds the work in a shard's load.
pub(crate) const WORK_OFFSET: i16 = std::mem::offset_of!(Load, work) as i16;

/// The loads of all shards, by their numbers.
#[derive(Debug)]
pub struct LoadBoard(Loads);

#[derive(Debug)]
enum Loads {
    Ours(Box<[Load]>),
    Mapped(MappedValues),
}

impl Deref for Loads {
    type Target = [Load];

    fn deref(&self) -> &[Load] {
        match self {
            Loads::Ours(loads) => loads,
            // SAFETY: `for_programs` made the map with so many values of a load's size; they begin on a page, are never
            // anything but valid (any bytes are a number), and are accessed by atomic operations only; programs read.
            Loads::Mapped(values) => unsafe {
                std::slice::from_raw_parts(values.base().as_ptr().cast(), values.map().entries())
            },
        }
    }
}

impl LoadBoard {
    /// A board for so many shards, none of which has anything to do.
    pub fn new(shards: usize) -> LoadBoard {
        LoadBoard(Loads::Ours((0..shards).map(|_| Load::default()).collect()))
    }

    /// The same where programs of the kernel can read it.
    ///
    /// # Errors
    /// Why the kernel makes no such map.
    pub fn for_programs(shards: usize) -> Result<LoadBoard, NotLoaded> {
        let map = Map::new(MapKind::SharedArray, size_of::<Load>(), shards).map_err(NotLoaded::from_call)?;
        Ok(LoadBoard(Loads::Mapped(MappedValues::of(map).map_err(NotLoaded::from_call)?)))
    }

    /// The map that programs read.
    pub(crate) fn map(&self) -> Option<&Map> {
        match &self.0 {
            Loads::Ours(_) => None,
            Loads::Mapped(values) => Some(values.map()),
        }
    }

    /// Shards on the board.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// The recent load of a shard; `None` if it takes no connections any more.
    pub fn work(&self, shard: usize) -> Option<u64> {
        let work = self.0[shard].work.load(Relaxed);
        (work != CLOSED).then_some(work)
    }

    /// Client connections of a shard, a moment ago.
    pub(crate) fn connections(&self, shard: usize) -> u64 {
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

    /// This shard takes no connections from now on. Only for that shard.
    pub(crate) fn close(&self, shard: usize) {
        self.0[shard].work.store(CLOSED, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A board, and one in a map where this process may have maps.
    fn boards(shards: usize) -> Vec<LoadBoard> {
        let mut boards = vec![LoadBoard::new(shards)];
        match LoadBoard::for_programs(shards) {
            Ok(board) => boards.push(board),
            Err(error) => crate::tests::skip(&format!("no BPF map may be made here: {error:?}")),
        }
        boards
    }

    #[test]
    fn every_shard_has_lines_of_its_own() {
        for board in boards(3) {
            let lines: Vec<usize> = board.0.iter().map(|load| std::ptr::from_ref(load) as usize).collect();
            assert_eq!(lines.len(), 3);
            assert!(lines.iter().all(|line| line % 128 == 0), "{lines:x?}");
            assert!(lines.windows(2).all(|pair| pair[1] - pair[0] >= 128), "{lines:x?}");
        }
    }

    #[test]
    fn a_closed_shard_has_no_work_to_compare() {
        for board in boards(2) {
            board.set_work(1, 7);
            board.close(0);
            assert_eq!((board.work(0), board.work(1)), (None, Some(7)));
        }
    }
}
