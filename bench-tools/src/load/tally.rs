//! What a lane counts while it measures.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::fault::Fault;
use crate::latency::histogram;
use crate::tls::TlsTally;

/// Counts of one lane.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Latency of answered requests, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Latency of connections made meanwhile.
    pub(super) connect: Histogram<u64>,
    /// Open loop: from when a request was due to when it was sent.
    pub(super) send_lag: Histogram<u64>,
    /// Bytes received.
    pub(super) bytes: u64,
    /// Connections made again because the old one had ended between requests.
    pub(super) reconnects: u64,
    /// What went wrong, and how often.
    pub(super) faults: BTreeMap<Fault, u64>,
    /// Handshakes.
    pub(super) tls: TlsTally,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            latency: histogram(),
            connect: histogram(),
            send_lag: histogram(),
            bytes: 0,
            reconnects: 0,
            faults: BTreeMap::new(),
            tls: TlsTally::default(),
        }
    }
}

impl Tally {
    /// Counts a fault.
    pub(super) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_insert(0) += 1;
    }

    /// Forgets what was counted so far, but not what was negotiated.
    pub(super) fn restart(&mut self) {
        let mut tls = std::mem::take(&mut self.tls);
        tls.restart();
        *self = Tally { tls, ..Tally::default() };
    }

    /// Adds another lane's counts.
    pub(super) fn add(&mut self, other: &Tally) {
        // Equal bounds: adding cannot fail.
        for (sum, more) in [
            (&mut self.latency, &other.latency),
            (&mut self.connect, &other.connect),
            (&mut self.send_lag, &other.send_lag),
        ] {
            sum.add(more).expect("equal bounds");
        }
        self.bytes += other.bytes;
        self.reconnects += other.reconnects;
        self.tls.add(&other.tls);
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
