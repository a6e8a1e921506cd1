//! When requests of an open loop are due, whatever became of those before.

use std::time::{Duration, Instant};

use clap::ValueEnum;

/// The distances between arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arrival {
    /// Equal distances
    Uniform,
    /// Random distances: a Poisson process
    Poisson,
}

/// The arrivals of one lane.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrival: Arrival,
    begin: Instant,
    /// Mean distance in nanoseconds.
    distance: f64,
    /// The next arrival, in nanoseconds from the beginning.
    next: f64,
    random: u64,
}

impl Schedule {
    /// So many arrivals per second; `lane` of `lanes` that share the work, which take turns.
    pub(crate) fn new(rate: f64, arrival: Arrival, begin: Instant, lane: usize, lanes: usize) -> Schedule {
        let distance = 1e9 / rate;
        let next = distance * lane as f64 / lanes as f64;
        let random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(lane as u64 + 1);
        Schedule { arrival, begin, distance, next, random }
    }

    /// The next arrival, if it is due by now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.begin + Duration::from_nanos(self.next as u64);
        if at > now {
            return None;
        }
        self.next += match self.arrival {
            Arrival::Uniform => self.distance,
            Arrival::Poisson => -self.distance * self.uniform().ln(),
        };
        Some(at)
    }

    /// How many are due and were not taken.
    pub(crate) fn behind(&self, now: Instant) -> u64 {
        let late = now.saturating_duration_since(self.begin).as_nanos() as f64 - self.next;
        if late < 0.0 { 0 } else { (late / self.distance) as u64 + 1 }
    }

    /// A number above 0 and up to 1 (xorshift64*: any generator will do here, and runs are repeatable).
    fn uniform(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bits = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(schedule: &mut Schedule, now: Instant) -> u64 {
        std::iter::from_fn(|| schedule.due(now)).count() as u64
    }

    #[test]
    fn arrivals_do_not_wait_for_anybody() {
        let begin = Instant::now();
        for arrival in [Arrival::Uniform, Arrival::Poisson] {
            let mut schedule = Schedule::new(10_000.0, arrival, begin, 0, 1);
            let early = count(&mut schedule, begin + Duration::from_millis(100));
            let late = count(&mut schedule, begin + Duration::from_secs(10));
            assert!((early + late).abs_diff(100_000) < 1_000, "{arrival:?}: {early} {late}");
        }
    }

    #[test]
    fn what_was_not_taken_is_behind() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(1_000.0, Arrival::Uniform, begin, 0, 1);
        assert_eq!(schedule.behind(begin), 1);
        assert_eq!(schedule.due(begin), Some(begin));
        assert_eq!(schedule.behind(begin), 0);
        assert_eq!(schedule.behind(begin + Duration::from_micros(10_500)), 10);
    }

    #[test]
    fn lanes_take_turns() {
        let begin = Instant::now();
        let mut second = Schedule::new(1_000.0, Arrival::Uniform, begin, 1, 2);
        assert_eq!(second.due(begin), None);
        let first = second.due(begin + Duration::from_millis(1));
        assert_eq!(first, Some(begin + Duration::from_micros(500)));
    }
}
