//! One lane of a capacity run: opens its share of the connections and holds them.
//!
//! A held connection is an entry of the ring crate's socket table and a handle of 16 bytes in a list, without a
//! task or a buffer, so that a million of them fit beside the server under test. A request on one of them takes its
//! handle out of the list for as long as it lasts. Only those that may be active keep their session of TLS and HTTP/2;
//! the others will neither send nor read again, and need their socket only.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sluice_sys::{Conn, ReadAhead, Runtime, next_connection, sleep, spawn};

use super::board::{Board, LaneBoard, Phase, StepTally};
use super::ports::PortPlan;
use crate::Failure;
use crate::fault::Fault;
use crate::http::prepared::Prepared;
use crate::http::response::ResponseReader;
use crate::lanes::{self, Lane};
use crate::latency::ns;
use crate::load::{Arrival, Schedule};
use crate::ticker::Ticker;
use crate::tls::{Client, Protocol, TlsPlan};
use crate::wire::{Broken, Link, Request, Way, Wire, connect};

/// How often the lane looks up while it opens connections; they need no look.
const OPENING_PERIOD: Duration = Duration::from_millis(20);
/// How finely the schedule of active connections is kept.
const HOLDING_PERIOD: Duration = Duration::from_millis(1);
/// After a failure, an opener waits this long: a server at its limit is not to be hammered.
const FAILURE_PAUSE_MS: u64 = 50;

/// What a lane does, the same for all of them.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) ports: Arc<PortPlan>,
    /// The request, ready to send.
    pub(super) request: Arc<[Prepared; 1]>,
    pub(super) timeout_ms: u64,
    /// Connections being opened at a time, over all lanes.
    pub(super) openers: u64,
    pub(super) protocol: Protocol,
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<TlsPlan>,
    /// Share of the held connections that send requests,
    pub(super) active: f64,
    /// each of them once in this time.
    pub(super) interval: Duration,
    /// All held connections are looked at in this time.
    pub(super) sweep: Duration,
    /// Most connections, over all lanes.
    pub(super) connections_max: u64,
}

struct Shared {
    orders: Orders,
    lane: Lane,
    board: Arc<Board>,
    wire: Wire,
    tls: Option<Client>,
    /// Held connections; `None` while a request is under way on one.
    held: RefCell<Vec<Option<Link>>>,
    tally: RefCell<StepTally>,
    /// Openers at work.
    opening: Cell<u64>,
    /// Handles out of the list.
    borrowed: Cell<u64>,
}

/// Runs a lane until the coordinator says that it is the end.
pub(super) fn run(orders: Orders, lane: Lane, board: Arc<Board>) -> Result<(), Failure> {
    let runtime = Runtime::new(&lanes::settings(lane.share(orders.connections_max) + orders.openers))?;
    let shared = Rc::new(Shared {
        tls: orders.tls.as_ref().map(TlsPlan::client),
        orders,
        lane,
        board,
        wire: Wire::default(),
        held: RefCell::default(),
        tally: RefCell::default(),
        opening: Cell::new(0),
        borrowed: Cell::new(0),
    });
    let failure = Rc::new(RefCell::new(None));
    let failed = failure.clone();
    let main = async move {
        match Ticker::start(OPENING_PERIOD) {
            Ok(ticker) => conduct(shared, ticker).await,
            Err(error) => *failed.borrow_mut() = Some(error),
        }
    };
    runtime.run(main, async || drop(next_connection().await))?;
    failure.take().map_or(Ok(()), Err)
}

async fn conduct(shared: Rc<Shared>, ticker: Ticker) {
    let mut active: Option<Active> = None;
    let mut sweep_at = 0;
    let mut swept = Instant::now();
    let mut has_handed_in = false;
    loop {
        ticker.tick().await;
        let phase = shared.board.phase();
        has_handed_in &= matches!(phase, Phase::Collect | Phase::CollectNow);
        match phase {
            Phase::Open => {
                active = None;
                ticker.set_period(OPENING_PERIOD);
                shared.open_more();
            }
            Phase::Hold => {
                ticker.set_period(HOLDING_PERIOD);
                let active = active.get_or_insert_with(|| Active::new(&shared));
                active.send_due(&shared);
            }
            Phase::Collect | Phase::CollectNow => {
                active = None;
                if !has_handed_in && (phase == Phase::CollectNow || shared.is_settled()) {
                    has_handed_in = true;
                    shared.hand_in();
                }
            }
            Phase::End => return shared.abort_all(),
        }
        let elapsed_ms = swept.elapsed().as_millis() as u64;
        if elapsed_ms >= 20 {
            swept = Instant::now();
            sweep_at = shared.sweep(sweep_at, elapsed_ms);
        }
    }
}

impl Shared {
    fn counters(&self) -> &LaneBoard {
        &self.board.lanes[self.lane.number]
    }

    /// Puts openers to work while there is something to open.
    fn open_more(self: &Rc<Shared>) {
        let openers = self.lane.share(self.orders.openers).max(1);
        while self.opening.get() < openers && self.may_open() {
            self.opening.set(self.opening.get() + 1);
            spawn(open(self.clone()));
        }
    }

    fn may_open(&self) -> bool {
        let goal = self.lane.share(self.board.goal());
        self.board.phase() == Phase::Open && self.counters().attempted.load(Ordering::Relaxed) < goal
    }

    /// No opener is at work and no handle out of the list.
    fn is_settled(&self) -> bool {
        self.opening.get() == 0 && self.borrowed.get() == 0
    }

    fn hand_in(&self) {
        let tally = self.tally.take();
        *self.counters().collected.lock().expect("the coordinator does not panic with it") = Some(tally);
    }

    fn keep(&self, mut link: Link) {
        link.conn.clear_deadline();
        add(&self.counters().held, 1);
        let mut held = self.held.borrow_mut();
        let active_max = active_count(self.lane.share(self.orders.connections_max), &self.orders);
        if held.len() >= active_max {
            link.keep_socket_only();
        }
        held.push(Some(link));
    }

    fn connected(&self, link: &Link, elapsed: Duration) {
        let mut tally = self.tally.borrow_mut();
        tally.connect.saturating_record(ns(elapsed));
        if let Some(session) = link.tls() {
            session.count(&mut tally.tls, true);
        }
    }

    /// Resets what is held: no side keeps a socket in FIN-WAIT or TIME-WAIT, so that the next run finds its ports free.
    fn abort_all(&self) {
        self.held.take().into_iter().flatten().map(|link| link.conn).for_each(Conn::abort);
    }

    fn lose(&self, fault: Fault) {
        self.counters().held.fetch_sub(1, Ordering::Relaxed);
        add(&self.counters().lost, 1);
        *self.tally.borrow_mut().hold_faults.entry(fault).or_insert(0) += 1;
    }

    /// Looks at as many held connections as are due, and drops those that have ended; returns where to go on.
    ///
    /// Nothing is armed on them that would tell by itself: an armed receive costs the kernel some 800 bytes.
    fn sweep(&self, from: usize, elapsed_ms: u64) -> usize {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            return 0;
        }
        let sweep_ms = self.orders.sweep.as_millis().max(1) as u64;
        let count = (held.len() as u64 * elapsed_ms / sweep_ms + 1).min(held.len() as u64) as usize;
        let begin = from % held.len();
        let mut lost = 0;
        for step in 0..count {
            let at = (begin + step) % held.len();
            if held[at].as_ref().is_some_and(|link| !link.conn.is_quiet_by_peek()) {
                held[at] = None;
                lost += 1;
            }
        }
        drop(held);
        (0..lost).for_each(|_| self.lose(Fault::Closed));
        begin + count
    }
}

/// Opens one connection after another until the goal is reached.
async fn open(shared: Rc<Shared>) {
    let mut reader = ResponseReader::default();
    while shared.may_open() {
        let number = shared.counters().attempted.load(Ordering::Relaxed);
        add(&shared.counters().attempted, 1);
        match open_one(&shared, number, &mut reader).await {
            Ok(link) => {
                add(&shared.counters().opened, 1);
                shared.keep(link);
            }
            Err(fault) => {
                add(&shared.counters().failed, 1);
                *shared.tally.borrow_mut().open_faults.entry(fault).or_insert(0) += 1;
                sleep(FAILURE_PAUSE_MS).await;
            }
        }
    }
    shared.opening.set(shared.opening.get() - 1);
}

/// Connects and has one request answered: a connection that only waits in the listen queue does not count as open.
async fn open_one(shared: &Shared, number: u64, reader: &mut ResponseReader) -> Result<Link, Fault> {
    let lanes = shared.lane.count as u64;
    let (source, destination) = shared.orders.ports.pair(number * lanes + shared.lane.number as u64);
    let begin = Instant::now();
    let orders = &shared.orders;
    let way = Way {
        timeout_ms: orders.timeout_ms,
        tls: shared.tls.as_ref(),
        protocol: orders.protocol,
        request: &orders.request[0],
    };
    let mut link = connect(source, destination, way).await?;
    link.conn.set_read_ahead(ReadAhead::OneBuffer);
    let connected = Instant::now();
    shared.connected(&link, connected - begin);
    request(shared, &mut link, reader).await?;
    shared.tally.borrow_mut().first_request.saturating_record(ns(connected.elapsed()));
    Ok(link)
}

async fn request(shared: &Shared, link: &mut Link, reader: &mut ResponseReader) -> Result<(), Fault> {
    let request = Request { number: 0, all: &shared.orders.request[..] };
    match shared.wire.exchange(link, request, reader, shared.orders.timeout_ms).await {
        Ok(answer) if answer.status >= 400 => Err(Fault::Status(answer.status)),
        Ok(answer) if !answer.keeps_alive => Err(Fault::Closed),
        Ok(_) => Ok(()),
        Err(Broken::Stale) => Err(Fault::Closed),
        Err(Broken::Fault(fault)) => Err(fault),
    }
}

/// How many of so many held connections are active: the first ones.
fn active_count(held: u64, orders: &Orders) -> usize {
    (held as f64 * orders.active).ceil() as usize
}

/// The active share of the held connections and when they send.
struct Active {
    count: usize,
    next: usize,
    schedule: Schedule,
}

impl Active {
    fn new(shared: &Shared) -> Active {
        let count = active_count(shared.held.borrow().len() as u64, &shared.orders);
        let rate = count as f64 / shared.orders.interval.as_secs_f64().max(0.001);
        // At a rate of nothing the first arrival is never.
        let schedule = Schedule::new(rate.max(1e-9), Arrival::Uniform, Instant::now(), 0, 1);
        Active { count, next: 0, schedule }
    }

    /// Starts the requests that are due.
    fn send_due(&mut self, shared: &Rc<Shared>) {
        if self.count == 0 {
            return;
        }
        while let Some(due) = self.schedule.due(Instant::now()) {
            let at = self.next;
            self.next = (self.next + 1) % self.count;
            // Taken already: its last request is still under way and will be counted; or it was lost.
            let Some(link) = shared.held.borrow_mut()[at].take() else { continue };
            shared.borrowed.set(shared.borrowed.get() + 1);
            shared.tally.borrow_mut().send_lag.saturating_record(ns(due.elapsed()));
            spawn(request_on(shared.clone(), at, link));
        }
    }
}

/// One request on a held connection.
async fn request_on(shared: Rc<Shared>, at: usize, mut link: Link) {
    let begin = Instant::now();
    match request(&shared, &mut link, &mut ResponseReader::default()).await {
        Ok(()) => {
            shared.tally.borrow_mut().request.saturating_record(ns(begin.elapsed()));
            add(&shared.counters().requests, 1);
            link.conn.clear_deadline();
            shared.held.borrow_mut()[at] = Some(link);
        }
        Err(fault) => shared.lose(fault),
    }
    shared.borrowed.set(shared.borrowed.get() - 1);
}

/// Counters have one writer, so that this needs no locked instruction.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}
