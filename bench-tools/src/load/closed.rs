//! Closed loop: every connection has one request under way at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_sys::{Conn, Runtime, next_connection, process_cpu_time, sleep, spawn};

use super::LoadArgs;
use super::exchange::{Broken, connect, exchange};
use super::tally::{Fault, Tally};
use crate::Failure;
use crate::http::response::{Answer, ResponseReader};
use crate::interrupt::Interrupt;
use crate::lanes::{self, Lane};
use crate::latency::ns;

/// How often the end is looked for; the measured time is taken from clocks, not from this.
const POLL_MS: u64 = 32;
/// A connection that could not be made is tried again after this long.
const RETRY_MS: u64 = 100;

/// What a lane measured.
#[derive(Debug)]
pub(super) struct LaneRun {
    pub(super) tally: Tally,
    pub(super) elapsed: Duration,
    /// CPU time of the whole process meanwhile, in user mode and in the kernel.
    pub(super) cpu: (Duration, Duration),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Over,
}

/// What the connections of a lane share.
struct Shared {
    address: std::net::SocketAddr,
    request: Vec<u8>,
    timeout_ms: u64,
    phase: Cell<Phase>,
    tally: RefCell<Tally>,
    /// Requests that may still be begun, when a number was asked for.
    left: Cell<Option<u64>>,
    /// Connections that still work on them.
    active: Cell<u64>,
    ended: Cell<Instant>,
}

/// Runs a lane's share of the connections.
pub(super) fn run(args: &LoadArgs, lane: Lane, interrupt: Interrupt) -> Result<LaneRun, Failure> {
    let connections = lane.share(args.connections);
    let runtime = Runtime::new(&lanes::settings(connections))?;
    let shared = Rc::new(Shared {
        address: args.url.address,
        request: args.url.request(),
        timeout_ms: args.timeout.as_millis() as u64,
        phase: Cell::new(Phase::WarmUp),
        tally: RefCell::new(Tally::default()),
        left: Cell::new(None),
        active: Cell::new(connections),
        ended: Cell::new(Instant::now()),
    });
    let requests = args.requests.map(|total| lane.share(total));
    let outcome = Rc::new(Cell::new(None));
    let main = conduct(args.clone(), shared.clone(), requests, connections, interrupt, outcome.clone());
    runtime.run(main, async || drop(next_connection().await));
    let (elapsed, cpu) = outcome.take().unwrap_or_default();
    let tally = shared.tally.take();
    Ok(LaneRun { tally, elapsed, cpu })
}

type Outcome = (Duration, (Duration, Duration));

/// Starts the connections, then opens and closes the window in which answers count.
async fn conduct(
    args: LoadArgs,
    shared: Rc<Shared>,
    requests: Option<u64>,
    connections: u64,
    interrupt: Interrupt,
    outcome: Rc<Cell<Option<Outcome>>>,
) {
    for _ in 0..connections {
        spawn(drive(shared.clone()));
    }
    let begin = Instant::now();
    while begin.elapsed() < args.warmup && !interrupt.is_set() {
        sleep(POLL_MS).await;
    }
    shared.tally.take();
    shared.left.set(requests);
    shared.phase.set(Phase::Measure);
    let (begin, cpu) = (Instant::now(), process_cpu_time());
    let is_over = || match requests {
        Some(_) => shared.active.get() == 0,
        None => begin.elapsed() >= args.duration,
    };
    while !is_over() && !interrupt.is_set() {
        let rest = args.duration.saturating_sub(begin.elapsed()).as_millis() as u64;
        sleep(if requests.is_some() { POLL_MS } else { rest.clamp(1, POLL_MS) }).await;
    }
    shared.phase.set(Phase::Over);
    let end = if requests.is_some() && is_over() { shared.ended.get() } else { Instant::now() };
    let (user, system) = process_cpu_time();
    outcome.set(Some((end - begin, (user - cpu.0, system - cpu.1))));
}

/// One connection: request after request, reconnecting where needed.
async fn drive(shared: Rc<Shared>) {
    let mut reader = ResponseReader::default();
    let mut kept: Option<Conn> = None;
    while shared.begin() {
        let began = Instant::now();
        let is_reused = kept.is_some();
        let conn = match kept.take() {
            Some(conn) => conn,
            None => match connect(None, shared.address, shared.timeout_ms).await {
                Ok(conn) => conn,
                Err(fault) => {
                    shared.failed(fault);
                    sleep(RETRY_MS).await;
                    continue;
                }
            },
        };
        match exchange(&conn, &shared.request, &mut reader, shared.timeout_ms).await {
            Ok(answer) => {
                shared.answered(began, answer);
                kept = answer.keeps_alive.then_some(conn);
            }
            Err(Broken::Stale) if is_reused => shared.stale(),
            Err(Broken::Stale) => shared.failed(Fault::Closed),
            Err(Broken::Fault(fault)) => shared.failed(fault),
        }
    }
    shared.active.set(shared.active.get() - 1);
    shared.ended.set(Instant::now());
}

impl Shared {
    /// Whether another request may be sent.
    fn begin(&self) -> bool {
        match self.left.get() {
            _ if self.phase.get() == Phase::Over => false,
            None => true,
            Some(0) => false,
            Some(left) => {
                self.left.set(Some(left - 1));
                true
            }
        }
    }

    fn answered(&self, began: Instant, answer: Answer) {
        if self.phase.get() != Phase::Measure {
            return;
        }
        let mut tally = self.tally.borrow_mut();
        tally.bytes += answer.wire_bytes;
        if answer.status < 400 {
            tally.latency.saturating_record(ns(began.elapsed()));
        } else {
            tally.fault(Fault::Status(answer.status));
        }
    }

    fn failed(&self, fault: Fault) {
        if self.phase.get() == Phase::Measure {
            self.tally.borrow_mut().fault(fault);
        }
    }

    /// The connection had ended between requests: the request is sent again on another one.
    fn stale(&self) {
        if let Some(left) = self.left.get() {
            self.left.set(Some(left + 1));
        }
        if self.phase.get() == Phase::Measure {
            self.tally.borrow_mut().reconnects += 1;
        }
    }
}
