//! The circuit breaker of a group: refuses requests at once while too many are under way, or while too many have failed.
//!
//! Requests under way are counted by each shard, and a shard that admits one adds up all shards' numbers: those that admit at the
//! same time may exceed the limit by one request for each shard less one. Failures are counted by each shard for itself.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

use super::board::{Report, Reporter, ServerChange};
use crate::config::{self, Statuses};
use crate::traffic::{GroupNumbers, OfShards};

/// What a breaker has said of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It was not asked, or has refused it.
    #[default]
    None,
    Ordinary,
    /// The one that shows whether the group is back.
    Trial,
}

/// The breaker of one group on one shard.
pub(crate) struct Breaker {
    requests_max: u64,
    failure_percent: u32,
    statuses: Statuses,
    time_ms: u64,
    window: RefCell<Window>,
    /// Until when it is open; 0 while it is closed.
    open_until_ms: Cell<u64>,
    numbers: Arc<CachePadded<GroupNumbers>>,
    of_shards: Arc<OfShards<CachePadded<GroupNumbers>>>,
    name: String,
    reporter: Arc<Reporter>,
}

/// Whether each of the last requests has failed.
struct Window {
    /// A bit for each.
    failed: Box<[u64]>,
    size: u32,
    /// How many are known, and where the next one goes.
    known: u32,
    next: u32,
    failures: u32,
}

impl Window {
    fn new(size: u32) -> Window {
        let failed = vec![0; size.div_ceil(64) as usize].into();
        Window { failed, size, known: 0, next: 0, failures: 0 }
    }

    fn push(&mut self, has_failed: bool) {
        let (word, bit) = (&mut self.failed[self.next as usize / 64], 1 << (self.next % 64));
        self.failures -= u32::from(*word & bit != 0);
        *word = if has_failed { *word | bit } else { *word & !bit };
        self.failures += u32::from(has_failed);
        self.next = (self.next + 1) % self.size;
        self.known = (self.known + 1).min(self.size);
    }

    /// Whether it is full, and so many per cent have failed.
    fn has_failed(&self, percent: u32) -> bool {
        self.known == self.size && u64::from(self.failures) * 100 >= u64::from(self.size) * u64::from(percent)
    }
}

impl Breaker {
    pub(crate) fn new(
        rules: &config::Breaker,
        name: &str,
        (of_shards, shard): (Arc<OfShards<CachePadded<GroupNumbers>>>, usize),
        reporter: Arc<Reporter>,
    ) -> Breaker {
        Breaker {
            requests_max: if rules.requests == 0 { u64::MAX } else { rules.requests },
            failure_percent: rules.failure_percent,
            statuses: rules.statuses.clone(),
            time_ms: u64::try_from(rules.time.as_millis()).unwrap_or(u64::MAX),
            window: RefCell::new(Window::new(rules.window)),
            open_until_ms: Cell::new(0),
            numbers: of_shards[shard].get_or_init(Arc::default).clone(),
            of_shards,
            name: name.to_owned(),
            reporter,
        }
    }

    /// Asks for a request: [`Admission::None`] if it is refused.
    #[cold]
    pub(crate) fn admit(&self, now_ms: u64) -> Admission {
        let until_ms = self.open_until_ms.get();
        let under_way = || -> u64 {
            self.of_shards.iter().filter_map(OnceLock::get).map(|shard| shard.admitted.value()).sum()
        };
        if now_ms < until_ms || (self.requests_max < u64::MAX && under_way() >= self.requests_max) {
            self.numbers.refused.increment();
            return Admission::None;
        }
        self.numbers.admitted.increment();
        if until_ms == 0 {
            return Admission::Ordinary;
        }
        // The others wait for its outcome, or for as long again.
        self.open_until_ms.set(now_ms + self.time_ms);
        Admission::Trial
    }

    /// A request that was admitted is over. `has_failed`: it has, unless the response has one of the statuses that count.
    #[cold]
    pub(crate) fn end(&self, admission: Admission, (status, has_failed): (u16, Option<bool>), now_ms: u64) {
        self.numbers.admitted.set(self.numbers.admitted.value().saturating_sub(1));
        let Some(has_failed) = has_failed.filter(|_| self.failure_percent > 0) else {
            if admission == Admission::Trial {
                // The next one shows it instead.
                self.open_until_ms.set(now_ms.max(1));
            }
            return;
        };
        let has_failed = has_failed || self.statuses.has(status);
        let is_open = self.open_until_ms.get() > 0;
        match admission {
            Admission::Trial if has_failed => self.open_until_ms.set(now_ms + self.time_ms),
            Admission::Trial => {
                self.open_until_ms.set(0);
                self.report(ServerChange::BreakerClosed);
            }
            // Those of before say nothing new.
            _ if is_open => {}
            _ => self.note(has_failed, now_ms),
        }
    }

    fn note(&self, has_failed: bool, now_ms: u64) {
        let mut window = self.window.borrow_mut();
        window.push(has_failed);
        if !window.has_failed(self.failure_percent) {
            return;
        }
        let (failures, of) = (window.failures, window.size);
        *window = Window::new(of);
        self.open_until_ms.set(now_ms + self.time_ms);
        self.numbers.opened.increment();
        self.report(ServerChange::BreakerOpened { failures, of, time_ms: self.time_ms });
    }

    fn report(&self, change: ServerChange) {
        let (upstream, server) = (self.name.clone(), String::new());
        self.reporter.report(Report { upstream, server, change, is_silent: false });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::traffic::of_shards;

    fn breaker(
        requests: u64,
        failure_percent: u32,
        shards: &Arc<OfShards<CachePadded<GroupNumbers>>>,
        shard: usize,
    ) -> Breaker {
        let rules = config::Breaker {
            requests,
            failure_percent,
            window: 10,
            statuses: Statuses::range(500, 599),
            time: Duration::from_secs(5),
        };
        Breaker::new(&rules, "app", (shards.clone(), shard), Arc::default())
    }

    /// A request and its status.
    fn ask(breaker: &Breaker, status: u16, now_ms: u64) -> Admission {
        let admission = breaker.admit(now_ms);
        if admission != Admission::None {
            breaker.end(admission, (status, Some(false)), now_ms);
        }
        admission
    }

    #[test]
    fn no_more_requests_than_the_limit_on_all_shards() {
        let shards = Arc::new(of_shards(2));
        let (one, two) = (breaker(3, 0, &shards, 0), breaker(3, 0, &shards, 1));
        assert_eq!([&one, &two, &one].map(|breaker| breaker.admit(0)), [Admission::Ordinary; 3]);
        assert_eq!([&one, &two].map(|breaker| breaker.admit(0)), [Admission::None; 2]);
        one.end(Admission::Ordinary, (200, Some(false)), 0);
        assert_eq!([two.admit(0), one.admit(0)], [Admission::Ordinary, Admission::None]);
        assert_eq!(shards[0].get().unwrap().refused.value(), 2);
    }

    #[test]
    fn failures_open_it_and_a_trial_closes_it() {
        let shards = Arc::new(of_shards(1));
        let breaker = breaker(0, 50, &shards, 0);
        for round in 0..3 {
            [200, 503].into_iter().cycle().take(8).for_each(|status| _ = ask(&breaker, status, round));
        }
        // Five of the last ten had failed after ten requests: it has opened, and refuses.
        assert_eq!(shards[0].get().unwrap().opened.value(), 1);
        assert_eq!(ask(&breaker, 200, 4_000), Admission::None);
        assert_eq!(ask(&breaker, 500, 5_001), Admission::Trial, "which fails");
        assert_eq!(ask(&breaker, 200, 10_000), Admission::None);
        let trial = breaker.admit(10_001);
        assert_eq!((trial, breaker.admit(10_001)), (Admission::Trial, Admission::None), "one at a time");
        breaker.end(trial, (200, Some(false)), 10_002);
        assert_eq!(ask(&breaker, 503, 10_003), Admission::Ordinary);
        // What was before it opened is forgotten.
        (0..8).for_each(|_| _ = ask(&breaker, 503, 10_004));
        assert_eq!(ask(&breaker, 503, 10_005), Admission::Ordinary);
        assert_eq!(ask(&breaker, 200, 10_006), Admission::None);
    }

    #[test]
    fn only_the_last_requests_count() {
        let mut window = Window::new(70);
        (0..70).for_each(|_| window.push(true));
        assert!(window.has_failed(100));
        (0..35).for_each(|_| window.push(false));
        assert!(window.has_failed(50) && !window.has_failed(51));
        (0..35).for_each(|_| window.push(false));
        assert_eq!(window.failures, 0);
    }

    #[test]
    fn requests_whose_client_has_left_say_nothing() {
        let shards = Arc::new(of_shards(1));
        let breaker = breaker(0, 50, &shards, 0);
        for _ in 0..50 {
            let admission = breaker.admit(0);
            breaker.end(admission, (0, None), 0);
        }
        assert_eq!(shards[0].get().unwrap().admitted.value(), 0);
        assert_eq!(ask(&breaker, 200, 0), Admission::Ordinary);
    }

    #[test]
    fn a_trial_that_says_nothing_leaves_it_to_the_next_request() {
        let breaker = breaker(0, 50, &Arc::new(of_shards(1)), 0);
        while ask(&breaker, 503, 100) != Admission::None {}
        let at_ms = 1_000_000;
        let trial = breaker.admit(at_ms);
        assert_eq!((trial, breaker.admit(at_ms)), (Admission::Trial, Admission::None));
        breaker.end(trial, (0, None), at_ms + 1);
        assert_eq!(breaker.admit(at_ms + 1), Admission::Trial);
    }
}
