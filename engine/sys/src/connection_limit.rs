//! How many client connections all shards of the process may have together.
//!
//! Every shard says how many places of the limit it has taken, in a line of memory that only it writes, and fills its places
//! without a look at the others. When they are full it takes a few more: it first says so, and then adds up what all shards have
//! taken. So two shards that take the last places at the same moment see each other's; one may be refused without need, but the
//! limit holds. What a shard has taken and not filled the others cannot have: that is less than a 128th of the limit, over all
//! shards, and none where the limit is below 512 for each shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Most places that a shard takes at once, so that the sum is seldom needed.
const STEP_MAX: u32 = 64;

/// A shard takes at most this part of the limit (one in so many, shared by all shards) at once.
const STEP_PART: usize = 256;

/// Two lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Taken(AtomicU32);

/// The limit and what each shard has taken of it.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: u32,
    shards: Box<[Taken]>,
}

/// A shard's part in the limit.
#[derive(Debug)]
pub struct LimitShare {
    limit: Arc<ConnectionLimit>,
    shard: usize,
    /// As published; at least as many as the shard's open connections.
    taken: u32,
    step: u32,
}

impl ConnectionLimit {
    /// A limit for so many shards together.
    pub fn new(shards: usize, max: u32) -> Arc<ConnectionLimit> {
        let shards = (0..shards).map(|_| Taken::default()).collect();
        Arc::new(ConnectionLimit { max, shards })
    }

    /// The part of a shard, numbered from 0. Once for each.
    ///
    /// # Panics
    /// When there is no shard of that number.
    pub fn share(self: &Arc<ConnectionLimit>, shard: usize) -> LimitShare {
        assert!(shard < self.shards.len(), "no shard {shard}");
        let part = self.max as usize / (self.shards.len() * STEP_PART);
        let step = u32::try_from(part).unwrap_or(STEP_MAX).clamp(1, STEP_MAX);
        LimitShare { limit: self.clone(), shard, taken: 0, step }
    }

    fn total(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.0.load(SeqCst))).sum()
    }
}

impl LimitShare {
    /// Whether there is a place for one connection more than the shard has open.
    #[inline]
    pub(crate) fn has_place(&mut self, open: u32) -> bool {
        open < self.taken || self.takes_more(open)
    }

    /// Takes so many places at once from now on.
    #[cfg(test)]
    pub(crate) fn in_steps_of(mut self, step: u32) -> LimitShare {
        self.step = step;
        self
    }

    #[cold]
    fn takes_more(&mut self, open: u32) -> bool {
        let before = self.taken;
        for step in [self.step, 1] {
            self.publish(open.saturating_add(step));
            if self.limit.total() <= u64::from(self.limit.max) {
                return true;
            }
        }
        self.publish(before);
        false
    }

    /// The shard has so many open connections, one of which came from another shard and is not refused for the limit.
    pub(crate) fn keep(&mut self, open: u32) {
        if open > self.taken {
            self.publish(open);
        }
    }

    /// The shard has so many open connections, fewer than before. Gives places back, but not at every turn.
    #[inline]
    pub(crate) fn closed(&mut self, open: u32) {
        if open == 0 {
            self.publish(0);
        } else if self.taken - open >= 2 * self.step - 1 {
            self.publish(open + self.step - 1);
        }
    }

    fn publish(&mut self, taken: u32) {
        self.taken = taken;
        // Before the total is read, in the one order of all such accesses: see the head of this file.
        self.limit.shards[self.shard].0.store(taken, SeqCst);
    }
}

impl Drop for LimitShare {
    fn drop(&mut self) {
        self.publish(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens as many connections as the limit lets a shard have.
    fn fill(share: &mut LimitShare, open: &mut u32) {
        while share.has_place(*open) {
            *open += 1;
        }
    }

    #[test]
    fn one_shard_may_have_all_and_all_together_no_more() {
        for max in [0, 1, 5, 400, 511] {
            let limit = ConnectionLimit::new(2, max);
            let (mut first, mut second) = (limit.share(0), limit.share(1));
            let (mut here, mut there) = (0, 0);
            fill(&mut first, &mut here);
            fill(&mut second, &mut there);
            assert_eq!((here, there), (max, 0));
            for _ in 0..max.min(3) {
                here -= 1;
                first.closed(here);
                fill(&mut second, &mut there);
            }
            assert_eq!(here + there, max, "a place that is given up is free at once");
        }
    }

    #[test]
    fn places_that_others_have_taken_and_not_filled_are_few() {
        const SHARDS: usize = 8;
        for max in [10_000, 100_000, 1_000_000] {
            let limit = ConnectionLimit::new(SHARDS, max);
            let mut shares: Vec<LimitShare> = (0..SHARDS).map(|shard| limit.share(shard)).collect();
            let mut open = [0; SHARDS];
            // All but the first have had many connections, and have one.
            for (share, open) in shares.iter_mut().zip(&mut open).skip(1) {
                for _ in 0..1_000 {
                    assert!(share.has_place(*open));
                    *open += 1;
                }
                while *open > 1 {
                    *open -= 1;
                    share.closed(*open);
                }
            }
            fill(&mut shares[0], &mut open[0]);
            let all: u32 = open.iter().sum();
            assert!(all <= max && all > max - max / 128, "{all} of {max}");
        }
    }

    #[test]
    fn a_connection_that_moves_is_not_refused_and_a_shard_that_ends_gives_all_back() {
        let limit = ConnectionLimit::new(2, 2);
        let (mut first, mut second) = (limit.share(0), limit.share(1));
        let mut here = 0;
        fill(&mut first, &mut here);
        second.keep(1);
        first.closed(1);
        assert!(!first.has_place(1) && !second.has_place(1));
        drop(second);
        assert!(first.has_place(1));
    }

    #[test]
    fn shards_that_take_places_at_once_keep_the_limit() {
        const MAX: u32 = 1_000;
        let limit = ConnectionLimit::new(2, MAX);
        for _ in 0..200 {
            let mut shares = [0, 1].map(|shard| (limit.share(shard), 0));
            std::thread::scope(|scope| {
                for (share, open) in &mut shares {
                    scope.spawn(|| fill(share, open));
                }
            });
            let all = shares[0].1 + shares[1].1;
            assert!(all <= MAX && all > MAX - 8, "{all}");
        }
    }
}
