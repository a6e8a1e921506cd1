//! Streams that we have reset a short while ago: the peer may still send on them.

use alloc::vec::Vec;

/// How many are remembered; beyond, the oldest is forgotten. Many requests may be given up or refused at once, each with frames on
/// their way, and the connection has to outlive that.
const REMEMBERED_MAX: usize = 1_024;

/// Their numbers. Takes no memory before there is one.
#[derive(Debug, Default)]
pub(super) struct RecentlyReset {
    ids: Vec<u32>,
    oldest: u16,
}

impl RecentlyReset {
    pub(super) fn remember(&mut self, id: u32) {
        if self.ids.len() < REMEMBERED_MAX {
            return self.ids.push(id);
        }
        self.ids[usize::from(self.oldest)] = id;
        self.oldest = (self.oldest + 1) % REMEMBERED_MAX as u16;
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn compact(&mut self) {
        self.ids.shrink_to_fit();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.ids.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut recent = RecentlyReset::default();
        for id in 0..2_000 {
            recent.remember(id);
        }
        let found: Vec<u32> = (0..3_000).filter(|&id| recent.contains(id)).collect();
        assert_eq!(found, (2_000 - 1_024..2_000).collect::<Vec<u32>>());
    }
}
