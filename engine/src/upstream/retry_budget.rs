//! How many requests may be sent again: a part of all requests of a group, so that retries do not multiply an outage.
//!
//! Each shard counts for itself. The part is therefore exact over all of them; what is allowed in any case comes once for each.

use std::cell::Cell;

/// The time over which requests and retries are compared.
const WINDOW_MS: u64 = 10_000;

const SECOND_MS: u64 = 1_000;

/// The budget of one group on one shard.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    percent: u64,
    per_second_min: u32,
    /// Since the window began. Wraps around: only differences count.
    requests: Cell<u32>,
    spent: Cell<u32>,
    since_ms: Cell<u64>,
    /// The same of the window before.
    before: Cell<(u32, u32)>,
    /// The second under way, by its end, and what was spent in it.
    second: Cell<(u64, u32)>,
}

impl RetryBudget {
    pub(crate) fn new(percent: u32, per_second_min: u32) -> RetryBudget {
        RetryBudget {
            percent: u64::from(percent),
            per_second_min,
            requests: Cell::new(0),
            spent: Cell::new(0),
            since_ms: Cell::new(0),
            before: Cell::new((0, 0)),
            second: Cell::new((0, 0)),
        }
    }

    /// A request has come. It reads no time: windows are told apart when there is something to spend.
    #[inline]
    pub(crate) fn note_request(&self) {
        self.requests.set(self.requests.get().wrapping_add(1));
    }

    /// Whether one more request may be sent again now; then it is counted.
    #[cold]
    pub(crate) fn spend(&self, now_ms: u64) -> bool {
        self.begin_window(now_ms);
        let (requests, spent) = self.before.get();
        let requests = u64::from(requests) + u64::from(self.requests.get());
        let spent = u64::from(spent) + u64::from(self.spent.get());
        let (second_end_ms, mut in_second) = self.second.get();
        let second_end_ms = if now_ms < second_end_ms {
            second_end_ms
        } else {
            in_second = 0;
            now_ms + SECOND_MS
        };
        let is_within = (spent + 1) * 100 <= requests * self.percent || in_second < self.per_second_min;
        if is_within {
            self.spent.set(self.spent.get() + 1);
            in_second += 1;
        }
        self.second.set((second_end_ms, in_second));
        is_within
    }

    /// Begins another window if this one is over. Of a longer time, which had nothing to spend, the average counts.
    fn begin_window(&self, now_ms: u64) {
        let elapsed_ms = now_ms - self.since_ms.get().min(now_ms);
        if elapsed_ms < WINDOW_MS {
            return;
        }
        let in_window = |count: u32| (u64::from(count) * WINDOW_MS / elapsed_ms) as u32;
        self.before.set((in_window(self.requests.get()), in_window(self.spent.get())));
        self.requests.set(0);
        self.spent.set(0);
        self.since_ms.set(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many of `count` retries at this time that are allowed.
    fn spend(budget: &RetryBudget, now_ms: u64, count: usize) -> usize {
        (0..count).filter(|_| budget.spend(now_ms)).count()
    }

    fn requests(budget: &RetryBudget, count: usize) {
        (0..count).for_each(|_| budget.note_request());
    }

    #[test]
    fn a_part_of_all_requests_may_be_sent_again() {
        let budget = RetryBudget::new(20, 0);
        assert_eq!(spend(&budget, 100_000, 10), 0, "of none there is no part");
        requests(&budget, 1_000);
        assert_eq!(spend(&budget, 101_000, 1_000), 200);
        requests(&budget, 100);
        assert_eq!(spend(&budget, 105_000, 1_000), 20);
        // What was spent in the window before counts in this one, and in the next one no more.
        assert_eq!(spend(&budget, 111_000, 1_000), 0);
        requests(&budget, 1_000);
        assert_eq!(spend(&budget, 112_000, 1_000), 200);
        assert_eq!(spend(&budget, 140_000, 1_000), 0, "what was long ago allows nothing now");
    }

    #[test]
    fn a_few_are_allowed_in_any_case() {
        let budget = RetryBudget::new(0, 3);
        for second in 0..5 {
            assert_eq!(spend(&budget, 50_000 + second * SECOND_MS, 10), 3, "{second}");
        }
        assert_eq!(spend(&RetryBudget::new(0, 0), 1, 10), 0);
    }

    /// An outage: all requests fail, for minutes.
    #[test]
    fn retries_stay_below_their_part_for_as_long_as_it_takes() {
        let budget = RetryBudget::new(20, 10);
        let mut spent = 0;
        for ms in 0..60_000 {
            budget.note_request();
            spent += spend(&budget, 1_000_000 + ms, 3);
        }
        assert!((11_000..=12_700).contains(&spent), "{spent} of 60000");
    }
}
