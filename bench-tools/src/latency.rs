//! Latencies: recorded in nanoseconds with three digits, reported by a few percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is recorded exactly.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// An empty latency histogram: nanoseconds, three digits.
///
/// # Panics
/// Never: the bounds are valid.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("valid bounds")
}

/// A duration as nanoseconds.
pub fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The figures of a latency distribution, in nanoseconds; all zero when there were no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The shortest.
    pub min: u64,
    /// The average.
    pub mean: u64,
    /// Half were at most this long,
    pub p50: u64,
    /// nine of ten,
    pub p90: u64,
    /// 99 of a hundred,
    pub p99: u64,
    /// 999 of a thousand.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

impl Latency {
    /// The figures of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        if histogram.is_empty() {
            return Latency::default();
        }
        Latency {
            min: histogram.min(),
            mean: histogram.mean() as u64,
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_all_zero() {
        assert_eq!(Latency::of(&histogram()), Latency::default());
    }
}
