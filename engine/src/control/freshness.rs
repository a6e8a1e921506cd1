//! The age of a shard's counters.
//!
//! Most counters are written when things happen; some (connections, buffers, counters of the ring) only when the shard is asked
//! to publish. A shard that does not respond, because it is stuck in a system call or starved of its CPU, has old ones. A
//! report marks them as old.

use std::time::{Duration, Instant};

use crate::counters::Counters;

/// When a shard published its counters last, as far as the control thread knows.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// How often it had published when that was looked at.
    published: u64,
    as_of: Instant,
    /// It was asked, and has not published since.
    is_asked: bool,
    /// It has ended: nothing will change.
    has_ended: bool,
}

impl Freshness {
    /// That of counters in which nothing was counted yet.
    pub(crate) fn new(now: Instant) -> Freshness {
        Freshness { published: 0, as_of: now, is_asked: false, has_ended: false }
    }

    /// The shard is asked to publish.
    pub(crate) fn ask(&mut self) {
        self.is_asked = true;
    }

    /// The shard has published for the last time.
    pub(crate) fn finish(&mut self) {
        self.has_ended = true;
    }

    /// Looks whether the shard has published; says whether there is nothing to wait for.
    pub(crate) fn look(&mut self, counters: &Counters, now: Instant) -> bool {
        let published = counters.published.value();
        if published != self.published {
            (self.published, self.as_of, self.is_asked) = (published, now, false);
        }
        !self.is_stale()
    }

    /// Whether the shard was asked and has not answered.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_asked && !self.has_ended
    }

    /// How old the counters are; 0 if they are the last ones.
    pub(crate) fn age(&self) -> Duration {
        if self.has_ended { Duration::ZERO } else { self.as_of.elapsed() }
    }

    /// The same in milliseconds.
    pub(crate) fn age_ms(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}
