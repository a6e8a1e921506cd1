//! What the coordinator and the lanes tell each other while a step runs: the coordinator writes the order, each lane
//! its own counters. No thread waits for another.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::fault::Fault;
use crate::latency::histogram;
use crate::tls::TlsTally;

/// What the lanes should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Open connections up to the goal.
    Open,
    /// Keep them, some of them active.
    Hold,
    /// Hand in what was counted in this step.
    Collect,
    /// The same at once, whatever is still under way.
    CollectNow,
    /// Stop.
    End,
}

/// The order and the counters.
#[derive(Debug)]
pub(super) struct Board {
    phase: AtomicU8,
    /// Connections that all lanes together should have tried to open.
    goal: AtomicU64,
    pub(super) lanes: Vec<LaneBoard>,
}

/// What one lane reports; only that lane writes.
#[derive(Debug, Default)]
pub(super) struct LaneBoard {
    pub(super) attempted: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Open now.
    pub(super) held: AtomicU64,
    /// Opened, and ended by the other side.
    pub(super) lost: AtomicU64,
    pub(super) requests: AtomicU64,
    /// What the lane counted in a step, once it was asked for.
    pub(super) collected: Mutex<Option<StepTally>>,
}

/// The lanes' counters added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) attempted: u64,
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) held: u64,
    pub(super) lost: u64,
    pub(super) requests: u64,
}

impl Board {
    pub(super) fn new(lanes: usize) -> Board {
        Board {
            phase: AtomicU8::new(Phase::Hold as u8),
            goal: AtomicU64::new(0),
            lanes: (0..lanes).map(|_| LaneBoard::default()).collect(),
        }
    }

    pub(super) fn order(&self, phase: Phase, goal: u64) {
        self.goal.store(goal, Ordering::Release);
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Hold,
            2 => Phase::Collect,
            3 => Phase::CollectNow,
            _ => Phase::End,
        }
    }

    pub(super) fn goal(&self) -> u64 {
        self.goal.load(Ordering::Acquire)
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for lane in &self.lanes {
            totals.attempted += lane.attempted.load(Ordering::Relaxed);
            totals.opened += lane.opened.load(Ordering::Relaxed);
            totals.failed += lane.failed.load(Ordering::Relaxed);
            totals.held += lane.held.load(Ordering::Relaxed);
            totals.lost += lane.lost.load(Ordering::Relaxed);
            totals.requests += lane.requests.load(Ordering::Relaxed);
        }
        totals
    }

    /// What all lanes counted in a step, when all have handed it in.
    pub(super) fn collect(&self) -> Option<StepTally> {
        let mut sum = StepTally::default();
        for lane in &self.lanes {
            if lane.collected.lock().expect("no lane panics with it").is_none() {
                return None;
            }
        }
        for lane in &self.lanes {
            sum.add(&lane.collected.lock().expect("no lane panics with it").take()?);
        }
        Some(sum)
    }
}

/// What a lane counts in a step.
#[derive(Clone, Debug)]
pub(super) struct StepTally {
    /// From connect to connected.
    pub(super) connect: Histogram<u64>,
    /// From the first request on a connection to its answer.
    pub(super) first_request: Histogram<u64>,
    /// The same for requests on held connections.
    pub(super) request: Histogram<u64>,
    /// How late those were sent.
    pub(super) send_lag: Histogram<u64>,
    /// Why connections could not be opened, or did not answer their first request.
    pub(super) open_faults: BTreeMap<Fault, u64>,
    /// Handshakes.
    pub(super) tls: TlsTally,
    /// Why held connections were lost.
    pub(super) hold_faults: BTreeMap<Fault, u64>,
}

impl Default for StepTally {
    fn default() -> StepTally {
        StepTally {
            connect: histogram(),
            first_request: histogram(),
            request: histogram(),
            send_lag: histogram(),
            open_faults: BTreeMap::new(),
            tls: TlsTally::default(),
            hold_faults: BTreeMap::new(),
        }
    }
}

impl StepTally {
    fn add(&mut self, other: &StepTally) {
        for (sum, more) in [
            (&mut self.connect, &other.connect),
            (&mut self.first_request, &other.first_request),
            (&mut self.request, &other.request),
            (&mut self.send_lag, &other.send_lag),
        ] {
            // Equal bounds: adding cannot fail.
            sum.add(more).expect("equal bounds");
        }
        self.tls.add(&other.tls);
        for (sum, more) in
            [(&mut self.open_faults, &other.open_faults), (&mut self.hold_faults, &other.hold_faults)]
        {
            for (&fault, count) in more {
                *sum.entry(fault).or_insert(0) += count;
            }
        }
    }
}
