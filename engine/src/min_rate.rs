//! How long a body may keep us waiting: each pause, and in all. For a peer that sends one, and for a peer that reads one.
//!
//! Only time spent waiting for that peer counts, not the time in which its bytes wait for the other side. A peer starts with a
//! credit of time, and every byte adds to it; one that sends or takes too little uses it up.

use crate::message::{Aborted, Cause};

/// The patience with the sender of one body.
pub(crate) struct MinRate {
    /// Longest pause, in milliseconds.
    idle_ms: u32,
    /// Bytes that earn one more second; 0 where only pauses count.
    rate: u32,
    /// Time in hand at the beginning.
    grace_ms: u32,
    waited_ms: u32,
    bytes: u64,
    /// A wait is under way. It may be given up, with the task that waits.
    is_waiting: bool,
}

/// A held task is all the larger for it, so times are kept in 32 bits of milliseconds, which is 49 days.
pub(crate) fn short(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

impl MinRate {
    /// Only pauses count.
    pub(crate) fn by_pauses(idle_ms: u64) -> MinRate {
        MinRate { idle_ms: short(idle_ms), rate: 0, grace_ms: 0, waited_ms: 0, bytes: 0, is_waiting: false }
    }

    /// Pauses count, and so does the rate in bytes per second, if it is not 0.
    pub(crate) fn by_rate(idle_ms: u64, rate: u32, grace_ms: u64) -> MinRate {
        MinRate { rate, grace_ms: short(grace_ms), ..MinRate::by_pauses(idle_ms) }
    }

    /// The longest pause.
    pub(crate) fn stall_ms(&self) -> u64 {
        self.idle_ms.into()
    }

    /// A wait begins; says how long it may be, or that there is no time left.
    pub(crate) fn begin_wait(&mut self, now_ms: u64) -> Result<u64, Cause> {
        if self.is_waiting {
            self.stop_waiting(now_ms);
        }
        if self.is_out_of_time() {
            return Err(Cause::TooSlow);
        }
        let patience_ms = self.time_in_hand_ms().min(u64::from(self.idle_ms));
        // The difference is added up, so that no beginning has to be remembered: see `end_wait`.
        self.waited_ms = self.waited_ms.wrapping_sub(now_ms as u32);
        self.is_waiting = true;
        Ok(patience_ms)
    }

    /// The wait that was begun last is over.
    fn stop_waiting(&mut self, now_ms: u64) {
        self.waited_ms = self.waited_ms.wrapping_add(now_ms as u32);
        self.is_waiting = false;
    }

    /// The wait is over, like this. If it ended by its deadline, that may have been the rate's doing.
    pub(crate) fn end_wait(&mut self, now_ms: u64, waited: Result<(), Aborted>) -> Result<(), Aborted> {
        self.stop_waiting(now_ms);
        waited.map_err(|aborted| match aborted.cause {
            Cause::TimedOut if self.is_out_of_time() => Aborted { cause: Cause::TooSlow, ..aborted },
            _ => aborted,
        })
    }

    fn is_out_of_time(&self) -> bool {
        self.time_in_hand_ms() == 0
    }

    fn time_in_hand_ms(&self) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        let earned_ms = self.bytes.saturating_mul(1_000) / u64::from(self.rate);
        earned_ms.saturating_add(u64::from(self.grace_ms)).saturating_sub(u64::from(self.waited_ms))
    }

    /// A send of so many bytes begins; says how long it may take in all, whatever its progress; 0 for no limit. They earn their
    /// time at once: who takes them at the rate is done before it is over.
    pub(crate) fn begin_send(&mut self, now_ms: u64, bytes: usize) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        self.received(bytes as u64);
        // Without any time left it has a moment, so that it ends by its time and is counted.
        let total_ms = self.time_in_hand_ms().max(1);
        self.waited_ms = self.waited_ms.wrapping_sub(now_ms as u32);
        total_ms
    }

    /// The send is over.
    pub(crate) fn end_send(&mut self, now_ms: u64) {
        if self.rate > 0 {
            self.waited_ms = self.waited_ms.wrapping_add(now_ms as u32);
        }
    }

    /// Bytes have come.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Bytes that have come so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Side;

    fn wait(pace: &mut MinRate, from_ms: u64, ms: u64) -> Result<u64, Cause> {
        let patience_ms = pace.begin_wait(from_ms)?;
        let timed_out = Err(Aborted::by(Side::Downstream, Cause::TimedOut));
        match pace.end_wait(from_ms + ms, timed_out) {
            Err(Aborted { cause: Cause::TooSlow, .. }) => Err(Cause::TooSlow),
            _ => Ok(patience_ms),
        }
    }

    #[test]
    fn bytes_earn_time_and_waiting_spends_it() {
        let mut pace = MinRate::by_rate(30_000, 100, 5_000);
        let start_ms = u64::from(u32::MAX) - 1_000;
        assert_eq!(wait(&mut pace, start_ms, 0), Ok(5_000));
        pace.received(1_000);
        assert_eq!(wait(&mut pace, start_ms, 14_000), Ok(15_000));
        assert_eq!(wait(&mut pace, start_ms + 20_000, 500), Ok(1_000));
        assert_eq!(wait(&mut pace, start_ms + 30_000, 600), Err(Cause::TooSlow));
        assert_eq!(wait(&mut pace, start_ms + 40_000, 0), Err(Cause::TooSlow));
        pace.received(1 << 40);
        assert_eq!(wait(&mut pace, 0, 30_000), Ok(30_000));
    }

    #[test]
    fn a_wait_that_was_given_up_counts_until_the_next_one() {
        let mut pace = MinRate::by_rate(30_000, 100, 5_000);
        assert_eq!(pace.begin_wait(70_000), Ok(5_000));
        assert_eq!(wait(&mut pace, 71_000, 500), Ok(4_000));
        assert_eq!(wait(&mut pace, 90_000, 0), Ok(3_500));
    }

    #[test]
    fn a_send_may_take_what_its_bytes_earn_and_what_is_in_hand() {
        let mut pace = MinRate::by_rate(0, 1_000, 5_000);
        assert_eq!(pace.begin_send(100, 2_000), 7_000);
        pace.end_send(5_100);
        assert_eq!(pace.begin_send(5_100, 1_000), 3_000);
        pace.end_send(9_100);
        assert_eq!(pace.begin_send(9_100, 500), 1, "it has used up what it had");
        assert_eq!(MinRate::by_pauses(0).begin_send(0, 1), 0);
    }

    #[test]
    fn without_a_rate_only_pauses_count() {
        let mut pace = MinRate::by_pauses(30_000);
        assert_eq!(wait(&mut pace, 0, 1 << 31), Ok(30_000));
        assert_eq!(wait(&mut pace, 0, 1 << 31), Ok(30_000));
    }
}
