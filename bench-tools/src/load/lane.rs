//! One lane of a load: its connections, and the window in which their answers count.
//!
//! Closed loop: each connection is a task that sends the next request when the last answer is complete. Open loop: a
//! schedule says when requests are due; a free connection takes what is due, and what no connection was free for is
//! sent late, its latency counted from when it was due. So a slow answer is not forgiven by asking less.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_sys::{Runtime, next_connection, process_cpu_time, sleep, spawn};

use super::lane_h2::{self, Channel};
use super::plan::{Connections, Plan};
use super::schedule::Schedule;
use super::tally::Tally;
use crate::Failure;
use crate::fault::Fault;
use crate::http::response::{Answer, ResponseReader};
use crate::interrupt::Interrupt;
use crate::lanes::{self, Lane};
use crate::latency::ns;
use crate::procfs::{Server, Usage, cpu_ticks};
use crate::ticker::Ticker;
use crate::tls::{Client, Protocol, TlsPlan};
use crate::wire::{Broken, Link, Request, Way, Wire, connect};

/// How often the end is looked for; the measured time is taken from clocks, not from this.
const POLL_MS: u64 = 32;
/// A connection that could not be made is tried again after this long.
const RETRY_MS: u64 = 100;
/// A target whose process has ended may have a successor: it has this long to answer something.
const SUCCESSION: Duration = Duration::from_secs(2);
/// A number of requests is given up when nothing was answered for this much longer than an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How finely an arrival schedule is kept.
const TICK: Duration = Duration::from_micros(100);

/// What a lane measured.
#[derive(Debug, Default)]
pub(super) struct LaneRun {
    pub(super) tally: Tally,
    pub(super) window: Window,
    /// Open loop: requests that were due and not sent when time was up.
    pub(super) behind: u64,
}

/// The measured time and what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) elapsed: Duration,
    /// CPU time of this process, in user mode and in the kernel.
    pub(super) tool_user: Duration,
    pub(super) tool_system: Duration,
    /// Share of the lanes' CPUs that was idle.
    pub(super) idle_share: f64,
    /// The server before and after, if it is known; looked at by the first lane only.
    pub(super) server: Option<(Usage, Usage)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Over,
}

/// What the tasks of a lane share.
pub(super) struct Shared {
    pub(super) plan: Rc<Plan>,
    wire: Wire,
    /// Makes sessions, if there is TLS.
    tls: Option<Client>,
    phase: Cell<Phase>,
    /// When measuring began.
    began: Cell<Instant>,
    ended: Cell<Instant>,
    /// The last answer within the measured time.
    answered: Cell<Instant>,
    tally: RefCell<Tally>,
    /// Closed loop: requests that may still be begun, when a number was asked for.
    left: Cell<Option<u64>>,
    /// Connections at work: opened and in use, or (open loop) not opened yet.
    busy: Cell<u64>,
    /// The next request of the mix.
    place: Cell<usize>,
    /// The next source address.
    source: Cell<usize>,
    /// Open loop: when requests are due, and the connections that wait for them.
    schedule: RefCell<Option<Schedule>>,
    free: RefCell<VecDeque<Slot>>,
    /// Open loop: connections of HTTP/2, each with room for several requests.
    pub(super) channels: RefCell<VecDeque<Rc<Channel>>>,
}

/// A connection, if there is one at the moment, with its reader.
#[derive(Default)]
struct Slot {
    link: Option<Link>,
    reader: ResponseReader,
}

/// Runs a lane's share of a plan.
pub(super) fn run(plan: Plan, lane: Lane, interrupt: Interrupt) -> Result<LaneRun, Failure> {
    let connections = lane.share(plan.connections);
    let runtime = Runtime::new(&lanes::settings(connections))?;
    let now = Instant::now();
    let shared = Rc::new(Shared {
        tls: plan.tls.as_ref().map(TlsPlan::client),
        plan: Rc::new(plan),
        wire: Wire::default(),
        phase: Cell::new(Phase::WarmUp),
        began: Cell::new(now),
        ended: Cell::new(now),
        answered: Cell::new(now),
        tally: RefCell::new(Tally::default()),
        left: Cell::new(None),
        busy: Cell::new(connections),
        place: Cell::new(lane.number * 7),
        source: Cell::new(lane.number),
        schedule: RefCell::new(None),
        free: RefCell::default(),
        channels: RefCell::default(),
    });
    let outcome = Rc::new(RefCell::new(Ok(LaneRun::default())));
    let its = (shared, outcome.clone());
    let main = async move {
        let (shared, outcome) = its;
        let ran = conduct(shared, lane, connections, interrupt).await;
        *outcome.borrow_mut() = ran;
    };
    runtime.run(main, async || drop(next_connection().await))?;
    outcome.replace(Ok(LaneRun::default()))
}

/// Starts the connections, then opens and closes the window in which answers count.
async fn conduct(
    shared: Rc<Shared>,
    lane: Lane,
    connections: u64,
    interrupt: Interrupt,
) -> Result<LaneRun, Failure> {
    let plan = shared.plan.clone();
    if let Some(open) = plan.open {
        open_all(&shared, connections, &interrupt).await;
        let rate = open.rate / lane.count as f64;
        let schedule = Schedule::new(rate, open.arrival, Instant::now(), lane.number, lane.count);
        *shared.schedule.borrow_mut() = Some(schedule);
        spawn(arrivals(shared.clone(), Ticker::start(TICK)?));
    } else {
        for _ in 0..connections {
            if plan.streams.is_some() {
                spawn(lane_h2::drive_closed(shared.clone()));
            } else {
                spawn(drive_closed(shared.clone()));
            }
        }
    }
    let begin = Instant::now();
    while begin.elapsed() < plan.warmup && !interrupt.is_set() {
        sleep(POLL_MS).await;
    }
    let requests = plan.requests.map(|total| lane.share(total));
    let meter = Meter::start(&plan, lane);
    shared.tally.borrow_mut().restart();
    shared.left.set(requests);
    shared.began.set(Instant::now());
    shared.answered.set(shared.began.get());
    shared.phase.set(Phase::Measure);
    let is_over = || match requests {
        Some(_) => shared.busy.get() == 0,
        None => shared.began.get().elapsed() >= plan.duration,
    };
    while !is_over() && !interrupt.is_set() && !shared.is_hopeless() {
        sleep(POLL_MS).await;
    }
    shared.phase.set(Phase::Over);
    let end = if requests.is_some() && is_over() { shared.ended.get() } else { Instant::now() };
    let window = meter.stop(&plan, end - shared.began.get());
    let behind = shared.schedule.borrow().as_ref().map_or(0, |schedule| schedule.behind(end));
    Ok(LaneRun { tally: shared.tally.take(), window, behind })
}

/// Readings at the beginning of the window.
struct Meter {
    tool: (Duration, Duration),
    ticks: (u64, u64),
    server: Option<Usage>,
    cpus: Vec<usize>,
}

impl Meter {
    fn start(plan: &Plan, lane: Lane) -> Meter {
        let cpus: Vec<usize> = lane.cpu.into_iter().collect();
        let server = plan.server.as_ref().filter(|_| lane.number == 0).and_then(|server| server.usage().ok());
        Meter { tool: process_cpu_time(), ticks: cpu_ticks(&cpus), server, cpus }
    }

    fn stop(self, plan: &Plan, elapsed: Duration) -> Window {
        let (user, system) = process_cpu_time();
        let (idle, total) = cpu_ticks(&self.cpus);
        let total = total.saturating_sub(self.ticks.1).max(1);
        let server = self.server.zip(plan.server.as_ref().and_then(|server| server.usage().ok()));
        Window {
            elapsed,
            tool_user: user - self.tool.0,
            tool_system: system - self.tool.1,
            idle_share: idle.saturating_sub(self.ticks.0) as f64 / total as f64,
            server,
        }
    }
}

/// One connection of a closed loop: request after request.
async fn drive_closed(shared: Rc<Shared>) {
    let mut slot = Slot::default();
    while shared.begin() {
        let began = Instant::now();
        if shared.request(&mut slot, began).await == Outcome::Unreached {
            sleep(RETRY_MS).await;
        }
    }
    shared.leave();
}

/// Open loop: makes all connections before anything is due.
async fn open_all(shared: &Rc<Shared>, connections: u64, interrupt: &Interrupt) {
    for _ in 0..connections {
        if shared.plan.streams.is_some() {
            spawn(lane_h2::drive_open(shared.clone()));
        } else {
            spawn(open(shared.clone()));
        }
    }
    while shared.busy.get() > 0 && !interrupt.is_set() {
        sleep(POLL_MS).await;
    }
}

async fn open(shared: Rc<Shared>) {
    let mut slot = Slot::default();
    if shared.plan.kind == Connections::Kept {
        slot.link = shared.connect().await.ok();
    }
    shared.free.borrow_mut().push_back(slot);
    shared.busy.set(shared.busy.get() - 1);
}

/// Open loop: gives what is due to free connections, at every tick.
async fn arrivals(shared: Rc<Shared>, ticker: Ticker) {
    while shared.phase.get() != Phase::Over {
        ticker.tick().await;
        shared.start_due();
        while let Some(slot) = shared.take_free() {
            let Some(due) = shared.next_due() else {
                shared.free.borrow_mut().push_front(slot);
                break;
            };
            spawn(drive_open(shared.clone(), slot, due));
        }
    }
}

/// One connection of an open loop: what is due, then back to the free ones.
async fn drive_open(shared: Rc<Shared>, mut slot: Slot, mut due: Instant) {
    loop {
        shared.sent_late(due);
        while shared.request(&mut slot, due).await == Outcome::Stale {}
        match shared.next_due() {
            Some(next) => due = next,
            None => break,
        }
    }
    shared.free.borrow_mut().push_back(slot);
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Over,
    /// The kept connection had ended: nothing was answered, the request can be sent again.
    Stale,
    /// No connection could be made.
    Unreached,
}

impl Shared {
    /// Sends a request, connecting first where needed, and counts what comes of it.
    async fn request(&self, slot: &mut Slot, began: Instant) -> Outcome {
        let is_reused = slot.link.is_some();
        let mut link = match slot.link.take() {
            Some(link) => link,
            None => match self.connect().await {
                Ok(link) => link,
                Err(fault) => {
                    self.failed(fault);
                    return Outcome::Unreached;
                }
            },
        };
        let request = Request { number: self.next_number(), all: &self.plan.mix.requests };
        match self.wire.exchange(&mut link, request, &mut slot.reader, self.plan.timeout_ms).await {
            Ok(answer) => {
                self.answered(began, answer);
                match self.plan.kind {
                    Connections::Kept if answer.keeps_alive => slot.link = Some(link),
                    _ if !answer.keeps_alive => link.close_after_server().await,
                    _ => {}
                }
            }
            Err(Broken::Stale) if is_reused => {
                self.stale();
                return Outcome::Stale;
            }
            Err(Broken::Stale) => self.failed(Fault::Closed),
            Err(Broken::Fault(fault)) => self.failed(fault),
        }
        Outcome::Over
    }

    /// The next request of the mix.
    pub(super) fn next_number(&self) -> usize {
        self.plan.mix.at(self.place.replace(self.place.get() + 1))
    }

    pub(super) async fn connect(&self) -> Result<Link, Fault> {
        let begin = Instant::now();
        let place = self.source.replace(self.source.get() + 1);
        let sources: &[SocketAddr] = &self.plan.sources;
        let source = (!sources.is_empty()).then(|| sources[place % sources.len()]);
        let way = Way {
            timeout_ms: self.plan.timeout_ms,
            tls: self.tls.as_ref(),
            protocol: self.plan.streams.map_or(Protocol::Http1, |_| Protocol::Http2),
            // WebSockets are opened by the paths in turn too; each serves the messages of all.
            request: &self.plan.mix.requests[self.plan.mix.at(place)],
        };
        let link = connect(source, self.plan.address, way).await?;
        let is_measured = self.phase.get() == Phase::Measure;
        let mut tally = self.tally.borrow_mut();
        if is_measured {
            tally.connect.saturating_record(ns(begin.elapsed()));
        }
        if let Some(session) = link.tls() {
            session.count(&mut tally.tls, is_measured);
        }
        Ok(link)
    }

    /// Closed loop: a connection is at work no more.
    pub(super) fn leave(&self) {
        self.busy.set(self.busy.get() - 1);
        self.ended.set(Instant::now());
    }

    /// Open loop: a connection is ready for requests.
    pub(super) fn is_ready(&self) {
        self.busy.set(self.busy.get().saturating_sub(1));
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase.get() == Phase::Over
    }

    /// Open loop: counts how late a request is.
    pub(super) fn sent_late(&self, due: Instant) {
        if self.phase.get() == Phase::Measure {
            self.tally.borrow_mut().send_lag.saturating_record(ns(due.elapsed()));
        }
    }

    /// Closed loop: whether another request may be sent.
    pub(super) fn begin(&self) -> bool {
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

    /// Whether nothing is answered any more, and going on would only count failures.
    fn is_hopeless(&self) -> bool {
        let silence = self.answered.get().elapsed();
        let has_no_end = self.left.get().is_some();
        let is_too_long = has_no_end && silence > Duration::from_millis(self.plan.timeout_ms) + PATIENCE;
        is_too_long || (silence > SUCCESSION && self.plan.server.as_ref().is_some_and(Server::is_gone))
    }

    fn take_free(&self) -> Option<Slot> {
        self.free.borrow_mut().pop_front()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.phase.get() == Phase::Over {
            return None;
        }
        self.schedule.borrow_mut().as_mut()?.due(Instant::now())
    }

    /// Counts an answer. Those of a number of requests must have begun within the window; of others, about as many
    /// begin before it as are left over at its end.
    pub(super) fn answered(&self, began: Instant, answer: Answer) {
        let must_begin_within = self.left.get().is_some();
        if self.phase.get() != Phase::Measure || (must_begin_within && began < self.began.get()) {
            return;
        }
        let now = Instant::now();
        self.answered.set(now);
        let mut tally = self.tally.borrow_mut();
        tally.bytes += answer.wire_bytes;
        if answer.status < 400 {
            tally.latency.saturating_record(ns(now - began));
        } else {
            tally.fault(Fault::Status(answer.status));
        }
    }

    pub(super) fn failed(&self, fault: Fault) {
        if self.phase.get() == Phase::Measure {
            self.tally.borrow_mut().fault(fault);
        }
    }

    /// The connection had ended between requests: the request is sent again on another one.
    pub(super) fn stale(&self) {
        if let Some(left) = self.left.get() {
            self.left.set(Some(left + 1));
        }
        if self.phase.get() == Phase::Measure {
            self.tally.borrow_mut().reconnects += 1;
        }
    }
}
