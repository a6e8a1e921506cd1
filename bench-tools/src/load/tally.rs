//! What a lane counts while it measures.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::latency::histogram;

/// Why a request was not answered as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Nobody listens.
    Refused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection could not be made for another reason: an errno.
    Connect(i32),
    /// The peer reset the connection.
    Reset,
    /// The peer closed before the answer was complete.
    Closed,
    /// The answer did not come in time.
    Timeout,
    /// The answer was no HTTP.
    Malformed,
    /// Another error of the connection: an errno.
    Io(i32),
    /// An answer with a status of 400 or above.
    Status(u16),
}

impl Fault {
    /// The key in reports.
    pub(super) fn name(self) -> String {
        match self {
            Fault::Refused => "connect_refused".into(),
            Fault::ConnectTimeout => "connect_timeout".into(),
            Fault::Connect(errno) => format!("connect_errno_{errno}"),
            Fault::Reset => "reset".into(),
            Fault::Closed => "closed_early".into(),
            Fault::Timeout => "timeout".into(),
            Fault::Malformed => "malformed_answer".into(),
            Fault::Io(errno) => format!("errno_{errno}"),
            Fault::Status(status) => format!("status_{status}"),
        }
    }
}

/// Counts of one lane.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Latency of answered requests, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Bytes received.
    pub(super) bytes: u64,
    /// Connections made again because the old one had ended between requests.
    pub(super) reconnects: u64,
    /// What went wrong, and how often.
    pub(super) faults: BTreeMap<Fault, u64>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { latency: histogram(), bytes: 0, reconnects: 0, faults: BTreeMap::new() }
    }
}

impl Tally {
    /// Counts a fault.
    pub(super) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_insert(0) += 1;
    }

    /// Adds another lane's counts.
    pub(super) fn add(&mut self, other: &Tally) {
        // Equal bounds: adding cannot fail.
        self.latency.add(&other.latency).expect("equal bounds");
        self.bytes += other.bytes;
        self.reconnects += other.reconnects;
        for (&fault, count) in &other.faults {
            *self.faults.entry(fault).or_insert(0) += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    #[test]
    fn lanes_add_up() {
        let mut one = Tally::default();
        let mut two = Tally::default();
        one.latency.saturating_record(1_000);
        two.latency.saturating_record(3_000);
        one.fault(Fault::Reset);
        two.fault(Fault::Reset);
        two.fault(Fault::Status(502));
        one.add(&two);
        assert_eq!(one.latency.len(), 2);
        assert_eq!((one.faults[&Fault::Reset], one.faults[&Fault::Status(502)]), (2, 1));
        let latency = Latency::of(&one.latency);
        assert!((latency.min, latency.max) >= (1_000, 3_000) && latency.mean.abs_diff(2_000) < 10);
    }
}
