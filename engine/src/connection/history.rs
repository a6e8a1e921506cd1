//! The history of a client's connection between its requests: how many it had, since when it is open, and its abuse score.
//! Parked, it fits into the two numbers that the connection's table entry has for its owner.

use sluice_sys::Conn;

use crate::abuse::Score;

/// The low bits of the owner word count requests; the others say when the first one came.
pub(crate) const REQUESTS_BITS: u32 = 20;
const REQUESTS_MAX: u32 = ONE_TOO_MANY - 1;
/// In place of the requests: there was none, and the client's address had too many connections when this one came.
pub(crate) const ONE_TOO_MANY: u32 = (1 << REQUESTS_BITS) - 1;
/// Times are kept modulo so many units.
const TIME_MASK: u32 = (1 << (32 - REQUESTS_BITS)) - 1;

/// The age limit of connections, and the unit in which their age is measured for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgeLimit {
    /// `u64::MAX` for none.
    limit_ms: u64,
    /// A unit is two to this power of milliseconds: at least a thousandth of the limit, and the limit is less than half of
    /// what times are kept modulo.
    unit_shift: u32,
}

impl AgeLimit {
    /// A limit in milliseconds, 0 for none.
    pub(crate) fn new(limit_ms: u64) -> AgeLimit {
        if limit_ms == 0 {
            return AgeLimit { limit_ms: u64::MAX, unit_shift: 0 };
        }
        let unit_shift = (0..64).find(|shift| limit_ms >> shift < u64::from(TIME_MASK / 2)).unwrap_or(63);
        AgeLimit { limit_ms, unit_shift }
    }

    pub(crate) fn units(self, now_ms: u64) -> u32 {
        (now_ms >> self.unit_shift) as u32 & TIME_MASK
    }

    /// When a connection of which the first bytes came at `born` is too old.
    pub(crate) fn end_ms(self, born: u32, now_ms: u64) -> u64 {
        if self.limit_ms == u64::MAX {
            return u64::MAX;
        }
        let age = u64::from(self.units(now_ms).wrapping_sub(born) & TIME_MASK) << self.unit_shift;
        now_ms + self.limit_ms.saturating_sub(age)
    }
}

/// The history of one connection.
#[derive(Debug)]
pub(crate) struct History {
    /// Requests answered.
    pub(crate) requests: u32,
    /// The client's address had too many connections when this one came.
    pub(crate) is_one_too_many: bool,
    born: u32,
    pub(crate) score: Score,
    /// When the connection is too old.
    pub(crate) end_ms: u64,
}

impl History {
    /// Of a connection that was parked, or is new.
    pub(crate) fn load(conn: &Conn, age: AgeLimit, now_ms: u64) -> History {
        let (owner_word, owner_byte) = conn.owner_data();
        let is_one_too_many = owner_word & ONE_TOO_MANY == ONE_TOO_MANY;
        let requests = if is_one_too_many { 0 } else { owner_word & ONE_TOO_MANY };
        let is_new = matches!(owner_word, 0 | ONE_TOO_MANY);
        let born = if is_new { age.units(now_ms) } else { owner_word >> REQUESTS_BITS };
        History {
            requests,
            is_one_too_many,
            born,
            score: Score::new(owner_byte),
            end_ms: age.end_ms(born, now_ms),
        }
    }

    /// Counts requests that were just answered.
    pub(crate) fn note_requests(&mut self, count: u32) {
        self.requests = self.requests.saturating_add(count);
        // No score has more points.
        (0..count.min(u8::MAX.into())).for_each(|_| self.score.forgive());
    }

    /// Leaves it with the connection.
    pub(crate) fn store(&self, conn: &Conn) {
        let is_one_too_many = self.is_one_too_many && self.requests == 0;
        let requests = if is_one_too_many { ONE_TOO_MANY } else { self.requests.min(REQUESTS_MAX) };
        conn.set_owner_data(self.born << REQUESTS_BITS | requests, self.score.points());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_age_in_range_is_measured_to_a_thousandth() {
        for limit_ms in [1, 999, 1_000, 60_000, 3_600_000, 86_400_000] {
            let age = AgeLimit::new(limit_ms);
            let unit_ms = 1_u64 << age.unit_shift;
            assert!(unit_ms == 1 || unit_ms <= limit_ms / 1_000, "{limit_ms}");
            for born_ms in [0, 12_345, 7_777_777, 1 << 33] {
                let born = age.units(born_ms);
                for passed in [0, limit_ms / 3, limit_ms, limit_ms + limit_ms / 2] {
                    let now_ms = born_ms + passed;
                    let wanted = now_ms.max(born_ms + limit_ms);
                    let end_ms = age.end_ms(born, now_ms);
                    assert!(end_ms.abs_diff(wanted) <= unit_ms, "{limit_ms} {born_ms} {passed}: {end_ms}");
                }
            }
        }
        assert_eq!(AgeLimit::new(0).end_ms(3, 1 << 40), u64::MAX);
    }
}
