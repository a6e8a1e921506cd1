//! A server's HTTP/2 connections: many requests share each, and a new one is made before the streams of all are used up.
//!
//! Connections are made by tasks of their own, so that none is lost with the request that has asked for it. Requests wait for what
//! is being made, and share its failure: a server that is down is tried once for all that wait.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use sluice_proto::RequestKind;
use sluice_proto::h2::ErrorCode;
use sluice_sys::{Timer, now_ms, spawn};

use crate::answer::Answer;
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::h2::{AbuseRules, Driver, Ending, Session, Stream};
use crate::message::Side;
use crate::shard::Shard;
use crate::upstream::capacity::{Place, Turn};
use crate::upstream::connect::connect_to;
use crate::upstream::group::GroupRules;
use crate::upstream::server::Server;

/// So many connections to one server are made at the same time.
const MAKING_MAX: u32 = 16;

/// With less than this part of a connection's streams left, the next connection is made.
const SPARE_PART: u32 = 8;

/// The connections of one server, and the requests that wait for one that is being made.
#[derive(Default)]
pub(crate) struct Sessions {
    all: RefCell<Vec<Rc<Session>>>,
    /// Connections that are being made.
    making: Cell<u32>,
    /// Requests that wait for them.
    waiting: RefCell<Vec<Rc<Waiter>>>,
    /// How many streams the server permitted on the connection that was made last.
    streams_each: Cell<Option<u32>>,
}

/// What a stream is wanted for.
#[derive(Clone, Copy)]
pub(crate) struct Purpose {
    /// What the response to the request depends on.
    pub(crate) kind: RequestKind,
    /// The request is an offer to change protocols, which becomes an extended CONNECT.
    pub(crate) is_offer: bool,
}

/// A request that waits for a connection.
#[derive(Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    made: Cell<Option<Made>>,
}

/// What became of a connection that was being made; if there is none, the answer for those that have waited.
pub(crate) type Made = Result<(), Answer<'static>>;

/// Counts a connection that is being made, from its begin to its first settings.
struct Making {
    shard: Rc<Shard>,
    server: Rc<Server>,
    rules: Rc<GroupRules>,
    /// Gone with the attempt to connect.
    place: Option<Place>,
}

impl Sessions {
    /// A stream of a connection that has room for one. Of those without streams, only one for which `is_good` holds.
    pub(crate) fn open(&self, purpose: Purpose, is_good: impl Fn(&Link) -> bool) -> Option<Stream> {
        let all = self.all.borrow();
        all.iter().find_map(|session| {
            let is_usable = session.openable() > 0
                && purpose.fits(session)
                && (session.streams() > 0 || is_good(session.link()));
            if is_usable { session.open(purpose.kind) } else { None }
        })
    }

    /// Whether there are connections that would take other requests, and none of them takes offers.
    pub(crate) fn refuse_offers(&self) -> bool {
        let all = self.all.borrow();
        let mut usable = all.iter().filter(|session| session.openable() > 0).peekable();
        usable.peek().is_some() && usable.all(|session| !session.takes_connect_protocol())
    }

    /// How many connections there are: with streams, and without.
    pub(crate) fn count(&self) -> (u32, usize) {
        let all = self.all.borrow();
        let busy = all.iter().filter(|session| session.streams() > 0).count();
        (busy as u32, all.len() - busy)
    }

    /// How many connections there are that may get further requests, without those that are being made.
    pub(crate) fn count_staying(&self) -> u32 {
        self.all.borrow().iter().filter(|session| is_staying(session)).count() as u32
    }

    /// Whether a request may have a stream now, or when the connections are made that are being made.
    pub(crate) fn is_usable(&self) -> bool {
        self.making.get() > 0 || self.all.borrow().iter().any(|session| session.openable() > 0)
    }

    /// The connection with the fewest streams takes no further requests; says if there is one.
    #[cold]
    pub(crate) fn leave_one(&self) -> bool {
        let all = self.all.borrow();
        let staying = all.iter().filter(|session| is_staying(session));
        let Some(least) = staying.min_by_key(|session| session.streams()) else { return false };
        least.go_away(0, ErrorCode::NO_ERROR);
        true
    }

    /// The connections take no further requests, and end with those that they have.
    pub(crate) fn leave_all(&self) {
        for session in &*self.all.borrow() {
            session.go_away(0, ErrorCode::NO_ERROR);
        }
    }

    /// Has another connection made if the streams of those that there are will soon be used up, and none is being made.
    pub(crate) fn look_ahead(&self, shard: &Rc<Shard>, server: &Rc<Server>, rules: &Rc<GroupRules>) {
        if self.making.get() == 0 && self.is_short() {
            Making::begin(shard, server, rules, Turn::New);
        }
    }

    /// Whether few streams are left.
    fn is_short(&self) -> bool {
        let all = self.all.borrow();
        let mut left = 0;
        for session in &*all {
            let openable = session.openable();
            left += openable;
            if left > (openable + session.streams() as u32) / SPARE_PART {
                return false;
            }
        }
        true
    }

    /// Waits until a connection was made, or could not be. Has as many made as those need who wait.
    pub(crate) async fn wait(
        &self,
        shard: &Rc<Shard>,
        server: &Rc<Server>,
        rules: &Rc<GroupRules>,
        turn: Turn,
    ) -> Made {
        let waiter = Rc::new(Waiter::default());
        self.waiting.borrow_mut().push(waiter.clone());
        self.make_enough(shard, server, rules, turn);
        poll_fn(|context| match waiter.made.get() {
            Some(made) => Poll::Ready(made),
            None => {
                waiter.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Has as many connections made as those need who wait. If there may be no more of them, those that wait for none that is being
    /// made wait elsewhere.
    fn make_enough(&self, shard: &Rc<Shard>, server: &Rc<Server>, rules: &Rc<GroupRules>, turn: Turn) {
        let mut waiting = self.waiting.borrow_mut();
        // The others were given up meanwhile.
        waiting.retain(|waiter| Rc::strong_count(waiter) > 1);
        let each = self.streams_each.get().unwrap_or(rules.http2.streams_max).max(1);
        let needed = (waiting.len() as u32).div_ceil(each).min(MAKING_MAX);
        drop(waiting);
        while self.making.get() < needed {
            if !Making::begin(shard, server, rules, turn) {
                break;
            }
        }
        if self.making.get() == 0 && needed > 0 {
            self.release(usize::MAX, Err(Answer::FULL));
        }
    }

    /// Lets the first of those that wait go on.
    fn release(&self, count: usize, made: Made) {
        let mut waiting = self.waiting.borrow_mut();
        let count = count.min(waiting.len());
        let released: Vec<Rc<Waiter>> = waiting.drain(..count).collect();
        drop(waiting);
        for waiter in released {
            waiter.made.set(Some(made));
            if let Some(waker) = waiter.waker.take() {
                waker.wake();
            }
        }
    }

    fn remove(&self, session: &Rc<Session>) {
        self.all.borrow_mut().retain(|other| !Rc::ptr_eq(other, session));
    }
}

impl Purpose {
    /// Whether a connection is of use for it.
    //= https://www.rfc-editor.org/rfc/rfc8441#section-3
    // "Implementations MUST NOT" send `:protocol` before they have "received a SETTINGS_ENABLE_CONNECT_PROTOCOL parameter" of 1.
    fn fits(self, session: &Session) -> bool {
        !self.is_offer || session.takes_connect_protocol()
    }
}

impl Making {
    /// Begins to make a connection, which is driven to its end in a task of its own; not if the server has as many as it may.
    fn begin(shard: &Rc<Shard>, server: &Rc<Server>, rules: &Rc<GroupRules>, turn: Turn) -> bool {
        let Ok(place) = server.take_place(turn) else { return false };
        server.sessions.making.set(server.sessions.making.get() + 1);
        let making = Making { shard: shard.clone(), server: server.clone(), rules: rules.clone(), place };
        spawn(making.run());
        true
    }

    async fn run(mut self) {
        let until_ms = now_ms() + self.rules.connect_ms;
        let place = self.place.take();
        match connect_to(&self.shard, &self.server, &self.rules, None, place).await {
            Ok(link) => self.drive(link, until_ms).await,
            Err(answer) => self.end(Err(answer)),
        }
    }

    /// Drives a connection to its end. Requests may use it from the server's settings on.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-3.4
    async fn drive(self, link: Link, until_ms: u64) {
        let (shard, server, idle_ms) = (self.shard.clone(), self.server.clone(), self.rules.idle_ms);
        let session = Session::new(link, Side::Upstream, &shard, &self.rules.http2);
        let (streams, end_ms) = self.rules.lifetime.of_session();
        session.open_at_most(streams);
        server.sessions.all.borrow_mut().push(session.clone());
        server.opened();
        server.note_spare();
        let mut inbox = Inbox::default();
        let stall_ms = shard.snapshot().times.write_stall;
        let no_limit = AbuseRules { burst: 0, per_second: 0 };
        let mut driving =
            pin!(Driver::new(&session, &mut inbox, stall_ms, no_limit).idle_for(idle_ms, end_ms));
        let timer = Timer::new(until_ms.saturating_sub(now_ms()).max(1));
        let mut making = Some((self, timer));
        let driven = poll_fn(|context| {
            let driven = driving.as_mut().poll(context);
            if let Some((_, timer)) = &making
                && let Some(made) = is_made(&session, timer, driven.is_ready())
                && let Some((making, _)) = making.take()
            {
                making.settle(&session, made);
            }
            driven
        })
        .await;
        if driven.ending == Ending::Dead {
            server.pass_over(now_ms());
        }
        server.sessions.remove(&session);
        server.closed();
        server.note_spare();
    }

    /// The server's settings have come, or will not.
    fn settle(self, session: &Session, made: Made) {
        if made.is_err() {
            self.server.pass_over(now_ms());
            session.go_away(0, ErrorCode::NO_ERROR);
        }
        self.server.sessions.streams_each.set(made.is_ok().then(|| session.openable()));
        self.end(made.map(|()| session.openable() as usize));
    }

    /// A connection for so many streams was made, or could not be.
    fn end(self, made: Result<usize, Answer<'static>>) {
        let sessions = &self.server.sessions;
        sessions.making.set(sessions.making.get() - 1);
        match made {
            Ok(streams) => sessions.release(streams, Ok(())),
            Err(answer) => sessions.release(usize::MAX, Err(answer)),
        }
        sessions.make_enough(&self.shard, &self.server, &self.rules, Turn::New);
        self.server.call_first();
    }
}

fn is_staying(session: &Session) -> bool {
    session.is_settled() && !session.is_going_away()
}

/// Whether a connection is of use, once that is known.
fn is_made(session: &Session, timer: &Timer, is_over: bool) -> Option<Made> {
    if is_over || session.has_failed() {
        return Some(Err(Answer::BadUpstream { why: "the server ended the connection before its settings" }));
    }
    if session.is_settled() {
        return Some(if session.openable() > 0 { Ok(()) } else { Err(Answer::NoneAvailable) });
    }
    timer.poll_expired().is_ready().then_some(Err(Answer::UpstreamTimeout))
}
