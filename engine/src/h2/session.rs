//! A connection of HTTP/2, and what its streams share.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Waker};

use sluice_proto::RequestKind;
use sluice_proto::h2::{self, ErrorCode, Rules, StreamKey};
use sluice_sys::{Buf, now_ms};

use super::abuse::AbuseBudget;
use super::bandwidth::Bandwidth;
use super::rooms;
use super::slot::Slot;
use super::stream::Stream;
use super::turns::Turns;
use crate::connection::link::Link;
use crate::message::{Aborted, Cause, Reach, Side};
use crate::shard::Shard;

/// A connection, and what its streams share.
pub(crate) struct Session {
    /// Gone while it is parked.
    pub(super) link: Option<Link>,
    /// The side that the peer is on.
    pub(crate) side: Side,
    pub(crate) shard: Home,
    pub(super) rules: Rc<Rules>,
    pub(super) inner: RefCell<Inner>,
    /// The task that reads and writes, while it waits.
    driver: Cell<Option<Waker>>,
    /// How many more streams we may open.
    opens_left: Cell<u32>,
}

/// The shard of a connection; none of memory that waits for one.
#[derive(Clone)]
pub(crate) struct Home(Option<Rc<Shard>>);

impl Deref for Home {
    type Target = Rc<Shard>;

    fn deref(&self) -> &Rc<Shard> {
        self.0.as_ref().expect("a session at work has its shard")
    }
}

/// What is kept of a connection that rests.
pub(super) struct Rest {
    machine: h2::Session,
    rules: Rc<Rules>,
    abuse: AbuseBudget,
}

impl Rest {
    /// Bytes that are kept of a header block of which the rest has not come.
    pub(super) fn gathered_bytes(&self) -> usize {
        gathered_bytes(&self.machine)
    }
}

fn gathered_bytes(machine: &h2::Session) -> usize {
    if machine.is_between_frames() { 0 } else { machine.heap_bytes() }
}

/// What changes.
pub(super) struct Inner {
    pub(super) machine: h2::Session,
    /// Memory for its streams, while it has none.
    room: Option<h2::Room>,
    /// Bytes that wait to be sent.
    pub(super) out: Option<Buf>,
    /// Bytes are on their way to the kernel; what waits follows them.
    pub(super) is_sending: bool,
    /// The state of streams, by the place that the machine gives them.
    pub(super) slots: Vec<Slot>,
    /// Streams whose data waits for its turn.
    pub(super) turns: Turns,
    pub(super) abuse: AbuseBudget,
    pub(super) bandwidth: Bandwidth,
    /// The connection is of no further use.
    pub(super) failed: Option<Aborted>,
}

impl Session {
    /// Begins a connection to a peer on this side; our preface waits to be sent.
    pub(crate) fn new(link: Link, side: Side, shard: &Rc<Shard>, rules: &Rc<Rules>) -> Rc<Session> {
        let role = match side {
            Side::Downstream => h2::Role::Server,
            Side::Upstream => h2::Role::Client,
        };
        let mut out = Buf::small();
        let machine = h2::Session::new(role, link.scheme(), rules, &mut out);
        let rest = Rest { machine, rules: rules.clone(), abuse: AbuseBudget::default() };
        let mut session = Session::begin(rest, link, side, shard);
        if let Some(session) = Rc::get_mut(&mut session) {
            session.inner.get_mut().out = Some(out);
        }
        session
    }

    /// Goes on with a connection that rests, in memory that was used before, if there is some.
    pub(super) fn begin(rest: Rest, link: Link, side: Side, shard: &Rc<Shard>) -> Rc<Session> {
        let Rest { machine, rules, abuse } = rest;
        let mut session = rooms::take().unwrap_or_else(|| Rc::new(Session::vacant(&rules)));
        let at_work = Rc::get_mut(&mut session).expect("memory that waits has one owner");
        at_work.link = Some(link);
        at_work.side = side;
        at_work.shard = Home(Some(shard.clone()));
        at_work.rules = rules;
        at_work.opens_left.set(u32::MAX);
        let inner = at_work.inner.get_mut();
        inner.machine = machine;
        inner.abuse = abuse;
        inner.bandwidth = Bandwidth::default();
        inner.failed = None;
        if let Some(room) = inner.room.take() {
            inner.machine.use_room(room);
        }
        session
    }

    /// Memory without a connection.
    fn vacant(rules: &Rc<Rules>) -> Session {
        let inner = Inner {
            machine: h2::Session::vacant(),
            room: None,
            out: None,
            is_sending: false,
            slots: Vec::new(),
            turns: Turns::default(),
            abuse: AbuseBudget::default(),
            bandwidth: Bandwidth::default(),
            failed: None,
        };
        Session {
            link: None,
            side: Side::Downstream,
            shard: Home(None),
            rules: rules.clone(),
            inner: RefCell::new(inner),
            driver: Cell::new(None),
            opens_left: Cell::new(u32::MAX),
        }
    }

    /// Takes out what is kept of a connection that rests; the memory of its streams goes to the next one at work.
    pub(super) fn rest(mut session: Rc<Session>) -> (Rest, Rc<Shard>) {
        let at_work = Rc::get_mut(&mut session).expect("a connection that rests has one owner");
        let inner = at_work.inner.get_mut();
        let mut machine = std::mem::replace(&mut inner.machine, h2::Session::vacant());
        inner.room = machine.take_room();
        machine.compact();
        let rest = Rest { machine, rules: at_work.rules.clone(), abuse: std::mem::take(&mut inner.abuse) };
        inner.out = None;
        inner.turns.clear();
        at_work.link = None;
        at_work.driver.set(None);
        let shard = at_work.shard.0.take().expect("a session at work has its shard");
        rooms::keep(session);
        (rest, shard)
    }

    /// How much memory it has for streams.
    pub(super) fn slots_capacity(&self) -> usize {
        self.inner.borrow().slots.capacity()
    }

    pub(crate) fn link(&self) -> &Link {
        self.link.as_ref().expect("a session at work has its connection")
    }

    /// Opens a stream for a request of this kind, if there is room for one.
    pub(crate) fn open(self: &Rc<Session>, kind: RequestKind) -> Option<Stream> {
        let mut inner = self.inner.borrow_mut();
        let left = self.opens_left.get();
        if left == 0 || inner.openable(&self.rules) == 0 {
            return None;
        }
        let key = inner.machine.open(kind, &self.rules)?;
        self.opens_left.set(left - 1);
        inner.occupy(key);
        drop(inner);
        Some(Stream::new(self.clone(), key))
    }

    /// How many streams may be opened now.
    pub(crate) fn openable(&self) -> u32 {
        self.inner.borrow().openable(&self.rules).min(self.opens_left.get())
    }

    /// From now on so many streams are opened at most.
    pub(crate) fn open_at_most(&self, streams: u32) {
        self.opens_left.set(streams);
    }

    /// Whether as many streams were opened as may be.
    pub(super) fn is_used_up(&self) -> bool {
        self.opens_left.get() == 0
    }

    /// Whether the peer's settings have come.
    pub(crate) fn is_settled(&self) -> bool {
        self.inner.borrow().machine.is_settled()
    }

    /// Whether the peer takes extended CONNECT, by its settings.
    pub(crate) fn takes_connect_protocol(&self) -> bool {
        self.inner.borrow().machine.takes_connect_protocol()
    }

    /// Whether it is of no further use.
    pub(crate) fn has_failed(&self) -> bool {
        self.inner.borrow().failed.is_some()
    }

    /// Streams that have a place.
    pub(crate) fn streams(&self) -> usize {
        self.inner.borrow().machine.streams()
    }

    /// Changes something; what has to be sent for it goes out with the next turn.
    pub(super) fn change<R>(&self, work: impl FnOnce(&mut Inner, &Rules) -> R) -> R {
        let mut inner = self.inner.borrow_mut();
        let result = work(&mut inner, &self.rules);
        let is_due = inner.out.is_some() && !inner.is_sending;
        drop(inner);
        if is_due {
            self.wake_driver();
        }
        result
    }

    /// Has the task that reads and writes look again.
    pub(crate) fn wake_driver(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    pub(super) fn set_driver(&self, context: &Context<'_>) {
        self.driver.set(Some(context.waker().clone()));
    }

    /// Announces that no new streams are taken, by the number of the last one that is.
    pub(crate) fn go_away(&self, last_id: u32, code: ErrorCode) {
        self.change(|inner, _| {
            let (machine, out) = inner.machine_and_out();
            machine.go_away(last_id, code, out);
        });
    }

    /// Asks the peer for an answer.
    pub(super) fn ping(&self, data: [u8; 8]) {
        self.change(|inner, _| {
            let (machine, out) = inner.machine_and_out();
            machine.ping(data, out);
        });
    }

    /// The highest stream of the peer that was taken.
    pub(crate) fn last_id(&self) -> u32 {
        self.inner.borrow().machine.last_id()
    }

    /// Whether the connection takes no further requests. A client that announces its end goes on with its own streams.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
    pub(crate) fn is_going_away(&self) -> bool {
        let inner = self.inner.borrow();
        match self.side {
            Side::Downstream => inner.machine.is_leaving(),
            Side::Upstream => inner.machine.is_going_away(),
        }
    }

    /// Whether nothing of a frame or of a header block has come without the rest.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.inner.borrow().machine.is_between_frames()
    }

    /// Bytes that are kept of a header block of which the rest has not come.
    pub(crate) fn gathered_bytes(&self) -> usize {
        gathered_bytes(&self.inner.borrow().machine)
    }

    /// A request was refused, and the client may be guessing what there is: too many of them are its last.
    #[cold]
    pub(crate) fn note_guess(&self) {
        let rules = self.shard.snapshot().http2.abuse;
        let counters = &self.shard.counters;
        self.change(|inner, _| {
            if !inner.abuse.spend_on_guess(now_ms(), rules, counters) && !inner.machine.is_leaving() {
                counters.abuse_closed.increment();
                let last_id = inner.machine.last_id();
                let (machine, out) = inner.machine_and_out();
                machine.go_away(last_id, ErrorCode::ENHANCE_YOUR_CALM, out);
            }
        });
    }

    /// An exchange went as it should.
    pub(crate) fn note_success(&self) {
        self.inner.borrow_mut().abuse.forgive();
    }

    /// The connection below, when the session is over.
    pub(crate) fn into_link(self) -> Option<Link> {
        self.link
    }

    /// An error of this connection's peer that concerns one stream.
    pub(crate) fn aborted(&self, cause: Cause) -> Aborted {
        Aborted { side: self.side, cause, reach: Reach::Stream }
    }
}

impl Inner {
    /// The machine, and where it writes to.
    pub(super) fn machine_and_out(&mut self) -> (&mut h2::Session, &mut Buf) {
        (&mut self.machine, self.out.get_or_insert_with(Buf::small))
    }

    /// The state of a stream that is not over.
    pub(super) fn slot(&mut self, key: StreamKey) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(key.slot)).filter(|slot| slot.id == key.id)
    }

    /// The state of a new stream.
    pub(super) fn occupy(&mut self, key: StreamKey) -> &mut Slot {
        let at = usize::from(key.slot);
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let slot = &mut self.slots[at];
        debug_assert!(slot.id == 0, "a place has one stream at a time");
        slot.id = key.id;
        slot
    }

    /// How many streams may be opened now: none before the peer has said how many it takes.
    fn openable(&self, rules: &Rules) -> u32 {
        if self.failed.is_some() || !self.machine.is_settled() { 0 } else { self.machine.openable(rules) }
    }
    /// Neither side has anything more to say on this stream.
    pub(super) fn fail(&mut self, key: StreamKey, aborted: Aborted) {
        if let Some(slot) = self.slot(key) {
            slot.failed.get_or_insert(aborted);
            let _ = slot.data_is_sent();
            slot.wake();
        }
    }

    /// The same of all streams, and of all that might come.
    pub(super) fn fail_all(&mut self, aborted: Aborted) {
        self.failed.get_or_insert(aborted);
        for at in 0..self.slots.len() {
            let id = self.slots[at].id;
            if id != 0 {
                self.fail(StreamKey { slot: at as u16, id }, aborted);
            }
        }
    }
}
