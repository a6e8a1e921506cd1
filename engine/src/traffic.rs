//! Counters of routes and groups, by the class of the response's status. Each shard alone writes its own, with plain stores, and
//! any thread may read them; routes and groups hold theirs, so that no request looks for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_utils::CachePadded;

use crate::config;
use crate::counters::Counter;

/// The classes, as labels have them.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How many responses there were of each class.
#[derive(Debug, Default)]
pub(crate) struct ByClass([Counter; CLASSES.len()]);

impl ByClass {
    /// Counts a response with this status; 0 for a request that got none.
    #[inline]
    pub(crate) fn count(&self, status: u16) {
        self.0[usize::from(status / 100).min(CLASSES.len() - 1)].increment();
    }

    /// Classes and their counts.
    pub(crate) fn values(&self) -> [(&'static str, u64); CLASSES.len()] {
        std::array::from_fn(|at| (CLASSES[at], self.0[at].value()))
    }
}

/// The bounds of the histogram of times, in milliseconds. What is above the last one is counted too.
pub(crate) const BOUNDS_MS: [u32; 10] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000];

/// How long responses took to begin.
#[derive(Debug, Default)]
pub(crate) struct Times {
    counts: [Counter; BOUNDS_MS.len() + 1],
    sum_ms: Counter,
}

impl Times {
    #[inline]
    pub(crate) fn count(&self, ms: u32) {
        let at = BOUNDS_MS.iter().position(|bound| ms <= *bound).unwrap_or(BOUNDS_MS.len());
        self.counts[at].increment();
        self.sum_ms.add(u64::from(ms));
    }

    /// How many were within each bound and not within the one before, and their sum.
    pub(crate) fn values(&self) -> ([u64; BOUNDS_MS.len() + 1], u64) {
        (std::array::from_fn(|at| self.counts[at].value()), self.sum_ms.value())
    }
}

/// The counters of something on all shards, each made by its shard.
pub(crate) type OfShards<T> = Box<[OnceLock<Arc<T>>]>;

/// None yet, for so many shards.
pub(crate) fn of_shards<T>(shards: usize) -> OfShards<T> {
    (0..shards).map(|_| OnceLock::new()).collect()
}

/// A shard's numbers of one group.
#[derive(Debug, Default)]
pub(crate) struct GroupNumbers {
    pub(crate) responses: ByClass,
    /// Requests under way that the breaker has admitted.
    pub(crate) admitted: Counter,
    /// Requests that the breaker has refused.
    pub(crate) refused: Counter,
    /// How often the breaker has opened.
    pub(crate) opened: Counter,
}

/// A route as labels have it: its number in the configuration, from 1, its hosts and its path.
pub(crate) type RouteLabels = (u32, String, String);

/// The numbers of all routes and groups.
pub(crate) struct Traffic {
    shards: usize,
    routes: Mutex<BTreeMap<RouteLabels, OfShards<ByClass>>>,
    groups: Mutex<BTreeMap<String, Arc<OfShards<CachePadded<GroupNumbers>>>>>,
}

impl Traffic {
    /// For so many shards.
    pub(crate) fn new(shards: usize) -> Traffic {
        Traffic { shards, routes: Mutex::default(), groups: Mutex::default() }
    }

    /// The counters of this shard for these routes, in their order. It calls this on its own thread, so that they are near to it.
    pub(crate) fn of_routes(&self, routes: &[config::Route], shard: usize) -> Vec<Arc<ByClass>> {
        let mut all = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let of_route = |(route, number): (&config::Route, u32)| {
            let hosts: Vec<String> = route.hosts.iter().map(ToString::to_string).collect();
            let entry = all.entry((number, hosts.join(" "), route.path.to_string()));
            entry.or_insert_with(|| of_shards(self.shards))[shard].get_or_init(Arc::default).clone()
        };
        routes.iter().zip(1..).map(of_route).collect()
    }

    /// The numbers of a group, of all shards.
    pub(crate) fn of_group(&self, name: &str) -> Arc<OfShards<CachePadded<GroupNumbers>>> {
        let mut all = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry(name.to_owned());
        entry.or_insert_with(|| Arc::new(of_shards(self.shards))).clone()
    }

    /// Calls `f` with each route that has had a request, and its responses of all shards.
    pub(crate) fn for_each_route(
        &self,
        mut f: impl FnMut(&RouteLabels, [(&'static str, u64); CLASSES.len()]),
    ) {
        let all = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, shards) in &*all {
            let total = total(shards.iter().filter_map(OnceLock::get).map(|shard| shard.values()));
            if total.iter().any(|(_, count)| *count > 0) {
                f(labels, total);
            }
        }
    }

    /// Calls `f` with each group and its numbers of all shards.
    pub(crate) fn for_each_group(&self, mut f: impl FnMut(&str, &[&GroupNumbers])) {
        let all = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, shards) in &*all {
            let numbers: Vec<&GroupNumbers> =
                shards.iter().filter_map(OnceLock::get).map(|shard| &***shard).collect();
            f(name, &numbers);
        }
    }
}

/// The sums of what shards have counted.
pub(crate) fn total(
    shards: impl Iterator<Item = [(&'static str, u64); CLASSES.len()]>,
) -> [(&'static str, u64); CLASSES.len()] {
    let mut total = ByClass::default().values();
    for shard in shards {
        total.iter_mut().zip(shard).for_each(|((_, sum), (_, count))| *sum += count);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_counted_by_their_class() {
        let counts = ByClass::default();
        [0, 101, 200, 204, 304, 404, 503, 599, 999].into_iter().for_each(|status| counts.count(status));
        let wanted = [("none", 1), ("1xx", 1), ("2xx", 2), ("3xx", 1), ("4xx", 1), ("5xx", 3)];
        assert_eq!(counts.values(), wanted);
    }

    #[test]
    fn times_are_counted_within_their_bounds() {
        let times = Times::default();
        [0, 5, 6, 1_000, 10_000, 10_001].into_iter().for_each(|ms| times.count(ms));
        assert_eq!(times.values(), ([2, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1], 21_012));
    }

    #[test]
    fn shards_are_added_up() {
        let traffic = Traffic::new(2);
        let group = traffic.of_group("a");
        for shard in 0..2 {
            let numbers = group[shard].get_or_init(Arc::default);
            numbers.responses.count(200);
            assert_eq!(traffic.of_group("a")[shard].get().unwrap().responses.values()[2].1, 1);
        }
        let mut seen = Vec::new();
        traffic.for_each_group(|name, shards| {
            let sum = total(shards.iter().map(|shard| shard.responses.values()));
            seen.push((name.to_owned(), shards.len(), sum[2]));
        });
        assert_eq!(seen, [("a".to_owned(), 2, ("2xx", 2))]);
    }
}
