//! How long connections to a group's servers are used: by their age, and by the requests that each has carried.
//!
//! A connection of HTTP/1.1 keeps both in the two numbers of its table entry, written only where a limit is configured. One of
//! HTTP/2 keeps them in its session and in the task that drives it.

use std::cell::Cell;

use sluice_sys::{Conn, now_ms};

use crate::connection::history::{AgeLimit, REQUESTS_BITS};

/// What of the age limit lies between the connection that ends first and the one that ends last: a tenth.
const SPREAD_PART: u64 = 10;

/// The limits of a group.
#[derive(Clone, Debug)]
pub(crate) struct Lifetime {
    age: AgeLimit,
    /// In milliseconds; 0 for none.
    age_ms: u64,
    /// `u32::MAX` for none.
    requests_max: u32,
    /// Where the last connection lies within the spread.
    spread: Cell<u8>,
}

/// Why a connection is used no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsedUp {
    Requests,
    Age,
}

impl Lifetime {
    /// By an age in milliseconds and a number of requests, each 0 for no limit.
    pub(crate) fn new(age_ms: u64, requests_max: u32) -> Lifetime {
        let requests_max = if requests_max == 0 { u32::MAX } else { requests_max };
        Lifetime { age: AgeLimit::new(age_ms), age_ms, requests_max, spread: Cell::new(0) }
    }

    /// Whether there is any limit.
    #[inline]
    pub(crate) fn is_limited(&self) -> bool {
        self.age_ms > 0 || self.requests_max < u32::MAX
    }

    /// The place of the next connection within the spread: those that are made at the same moment do not end at the same moment.
    fn next_spread(&self) -> u8 {
        // The golden section of the range: however many there are, they lie about evenly.
        let next = self.spread.get().wrapping_add(158);
        self.spread.set(next);
        next
    }

    /// How much earlier than at its limit the connection at this place ends.
    fn earlier_ms(&self, spread: u8) -> u64 {
        self.age_ms / SPREAD_PART * u64::from(spread) / 256
    }

    /// A connection was made.
    pub(crate) fn begin(&self, conn: &Conn) {
        if self.is_limited() {
            cold_begin(self, conn);
        }
    }

    /// A request on the connection is over: for how long the connection may still be used.
    #[cold]
    pub(crate) fn note_request(&self, conn: &Conn) -> Result<u64, UsedUp> {
        let (word, spread) = conn.owner_data();
        let (word, left) = self.count(word, spread, now_ms());
        conn.set_owner_data(word, spread);
        left
    }

    /// The numbers of a connection after another request, and how many milliseconds it has left.
    fn count(&self, word: u32, spread: u8, now_ms: u64) -> (u32, Result<u64, UsedUp>) {
        // No limit is above what there is room for: `limits.upstream_requests_per_connection`.
        let requests = (word & REQUESTS_MASK).saturating_add(1).min(REQUESTS_MASK);
        let born = word >> REQUESTS_BITS;
        let end_ms = self.age.end_ms(born, now_ms).saturating_sub(self.earlier_ms(spread));
        let left = if requests >= self.requests_max {
            Err(UsedUp::Requests)
        } else if end_ms <= now_ms {
            Err(UsedUp::Age)
        } else {
            Ok(end_ms - now_ms)
        };
        (born << REQUESTS_BITS | requests, left)
    }

    /// Requests on one connection by HTTP/2, and when a connection that is made now ends.
    pub(crate) fn of_session(&self) -> (u32, u64) {
        if self.age_ms == 0 {
            return (self.requests_max, u64::MAX);
        }
        (self.requests_max, now_ms() + self.age_ms - self.earlier_ms(self.next_spread()))
    }
}

const REQUESTS_MASK: u32 = (1 << REQUESTS_BITS) - 1;

#[cold]
fn cold_begin(lifetime: &Lifetime, conn: &Conn) {
    conn.set_owner_data(lifetime.age.units(now_ms()) << REQUESTS_BITS, lifetime.next_spread());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_to_the_limit() {
        let lifetime = Lifetime::new(0, 3);
        let mut word = 0;
        let mut next = || {
            let (after, left) = lifetime.count(word, 200, 1_000);
            word = after;
            left.is_ok()
        };
        assert_eq!([next(), next(), next()], [true, true, false]);
        let (_, left) = Lifetime::new(0, 1).count(0, 0, 1_000);
        assert_eq!(left, Err(UsedUp::Requests));
        assert!(!Lifetime::new(0, 0).is_limited());
    }

    #[test]
    fn connections_of_one_moment_end_within_a_tenth_of_the_limit_and_not_at_once() {
        const AGE_MS: u64 = 100_000;
        let lifetime = Lifetime::new(AGE_MS, 0);
        let born_ms = 5_000_000;
        let ends: Vec<u64> = (0..64)
            .map(|_| {
                let word = lifetime.age.units(born_ms) << REQUESTS_BITS;
                let spread = lifetime.next_spread();
                let is_over = |after_ms| lifetime.count(word, spread, born_ms + after_ms).1.is_err();
                (0..=AGE_MS + 1_000).step_by(100).find(|&after_ms| is_over(after_ms)).expect("it ends")
            })
            .collect();
        let (first, last) = (ends.iter().min().expect("some"), ends.iter().max().expect("some"));
        assert!(*first >= AGE_MS - AGE_MS / 10 - 200 && *last <= AGE_MS + 200, "{first} {last}");
        let in_one_second = |from: u64| ends.iter().filter(|end| (from..from + 1_000).contains(end)).count();
        assert!((0..110).all(|second| in_one_second(second * 1_000) <= 10), "{ends:?}");
        assert!(last - first > AGE_MS / 20, "{ends:?}");
    }
}
