//! The task of a connection that reads and writes: hands what has come to its streams, and sends what they have written.
//!
//! All that streams write in one turn of the loop goes out in one send, and while that is under way, what they write next waits for
//! the next one. A peer that takes nothing is not read either, once enough waits for it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_proto::h2::{Abuse, ErrorCode, Event, Rules, StreamKey};
use sluice_sys::{Buf, Sending, Timer, hand_to_worker, now_ms};

use super::abuse::AbuseRules;
use super::bandwidth;
use super::leaving::{self, Leaving};
use super::lines::Lines;
use super::ping::{Due, Silence};
use super::receive::{take_data, take_response};
use super::session::{Inner, Session};
use super::slot::Incoming;
use crate::connection::inbox::Inbox;
use crate::message::{Aborted, Cause, Side};
use crate::trailers::BodyTrailers;
use crate::upstream::lifetime::UsedUp;

/// With so much waiting to be sent beside a send's worth of data, nothing more is read.
const UNSENT_BYTES_MAX: usize = 24 * 1024;

/// Drives a connection until it rests or ends.
pub(crate) struct Driver<'d> {
    pub(crate) session: &'d Rc<Session>,
    pub(crate) inbox: &'d mut Inbox,
    pub(crate) stall_ms: u64,
    /// Downstream: what its peer may do of what is abuse when repeated.
    pub(crate) abuse: AbuseRules,
    /// How many new streams there may still be, and until when.
    streams_left: u32,
    end_ms: u64,
    /// How long a connection to a server is kept without streams; and runs while there are none.
    idle_ms: Option<u64>,
    idle: Option<Timer>,
    /// New streams since the driver began.
    begun: u32,
    /// The last of them that the connection was to have; those that were sent before the client knows are taken, too.
    is_last_begun: bool,
    /// By which it is woken when all connections are to end.
    sleeper: u32,
    /// How far the announcement of the end has come.
    leaving: Leaving,
    /// Where peers are asked whether they are still there.
    silence: Option<Box<Silence>>,
    /// Runs while the rest of a header block is awaited beside open streams.
    gathering: Option<Timer>,
    /// Its connection has a deadline for the rest of a record of TLS.
    is_record_bound: bool,
    sending: Option<Sending>,
    ending: Option<Ending>,
}

/// What a driver did.
pub(crate) struct Driven {
    pub(crate) ending: Ending,
    /// New streams.
    pub(crate) begun: u32,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There are no streams, and all was sent.
    Rest,
    /// The peer has ended the connection, or broken it.
    Gone,
    /// The peer has broken a rule; that was sent.
    Broken,
    /// The same for one that floods us: nothing more of it is read.
    Abusive,
    /// The peer does not answer.
    Dead,
}

impl<'d> Driver<'d> {
    pub(crate) fn new(
        session: &'d Rc<Session>,
        inbox: &'d mut Inbox,
        stall_ms: u64,
        abuse: AbuseRules,
    ) -> Driver<'d> {
        let sleeper = session.shard.drivers.enter();
        Driver {
            session,
            inbox,
            stall_ms,
            abuse,
            streams_left: u32::MAX,
            end_ms: u64::MAX,
            idle_ms: None,
            idle: None,
            begun: 0,
            is_last_begun: false,
            sleeper,
            leaving: Leaving::No,
            silence: Silence::new(session.shard.snapshot().http2.ping, session.side).map(Box::new),
            gathering: None,
            is_record_bound: false,
            sending: None,
            ending: None,
        }
    }

    /// Of a client, with so many new streams at most, and none after this time.
    pub(crate) fn until(mut self, streams_left: u32, end_ms: u64) -> Driver<'d> {
        (self.streams_left, self.end_ms) = (streams_left, end_ms);
        self
    }

    /// Of a connection to a server, which is kept for so long without streams, and gets no new ones after this time.
    pub(crate) fn idle_for(mut self, idle_ms: u64, end_ms: u64) -> Driver<'d> {
        (self.idle_ms, self.end_ms) = (Some(idle_ms), end_ms);
        self
    }

    /// Ends a connection to a server that was not used for long, or takes nothing more.
    fn look_if_idle(&mut self) {
        let Some(idle_ms) = self.idle_ms else { return };
        let session = self.session;
        if session.streams() > 0 {
            self.idle = None;
            return;
        }
        let left_ms = self.end_ms.saturating_sub(now_ms()).max(1);
        let idle = self.idle.get_or_insert_with(|| Timer::new(idle_ms.min(left_ms)));
        // A server that takes no more streams has left, or has none for us.
        let is_useless = session.is_settled() && session.openable() == 0;
        let is_over = is_useless || session.is_going_away() || session.shard.is_draining();
        if self.ending.is_none() && (is_over || idle.poll_expired().is_ready()) {
            session.go_away(0, ErrorCode::NO_ERROR);
            self.ending = Some(Ending::Broken);
            session.inner.borrow_mut().fail_all(session.aborted(Cause::Closed));
        }
    }

    /// Asks a peer that is silent for long, and ends the connection of one that does not answer.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.7
    fn look_if_alive(&mut self) {
        let session = self.session;
        let Some(silence) = self.silence.as_mut().filter(|_| self.ending.is_none()) else { return };
        match silence.poll_due(session.streams() > 0) {
            Due::Nothing => {}
            Due::Ping => session.ping(*b"sluice/2"),
            Due::End => {
                session.shard.counters.h2_ping_timeouts.increment();
                self.ending = Some(Ending::Dead);
                session.inner.borrow_mut().fail_all(session.aborted(Cause::Closed));
            }
        }
    }

    /// Ends a connection to a server with the streams that it has, once it has had as many as it may, or is as old as it may be.
    fn retire(&mut self) {
        let session = self.session;
        let is_used_up = session.is_used_up();
        if session.is_going_away() || !is_used_up && (self.end_ms == u64::MAX || now_ms() < self.end_ms) {
            return;
        }
        session.go_away(0, ErrorCode::NO_ERROR);
        session.shard.counters.note_used_up(if is_used_up { UsedUp::Requests } else { UsedUp::Age });
    }

    /// Announces the end where it is due: in two steps, so that no request is lost that is on its way.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
    fn leave(&mut self) {
        const HIGHEST_ID: u32 = (1 << 31) - 1;
        let session = self.session;
        if !self.is_last_begun && now_ms() >= self.end_ms {
            self.is_last_begun = true;
            self.note_last();
        }
        let is_due = self.is_last_begun || session.shard.is_draining();
        if matches!(self.leaving, Leaving::No) && is_due && !session.is_going_away() {
            session.go_away(HIGHEST_ID, ErrorCode::NO_ERROR);
            session.ping(leaving::PING);
            self.leaving = Leaving::announced();
        }
        if self.leaving.is_known() {
            session.go_away(session.last_id(), ErrorCode::NO_ERROR);
            self.leaving = Leaving::Now;
        }
    }

    /// Takes in what has come, until there is nothing more or too much waits to be sent.
    fn receive(&mut self, context: &mut Context<'_>) {
        while self.ending.is_none() {
            let session = self.session;
            let mut inner = session.inner.borrow_mut();
            let unsent_max = session.rules.coalesced_bytes_max as usize + UNSENT_BYTES_MAX;
            if inner.out.as_ref().is_some_and(|out| out.len() >= unsent_max) {
                return;
            }
            self.handle_all(&mut inner, &session.rules);
            if self.ending.is_some() {
                return;
            }
            match self.inbox.poll_receive(session.link(), context) {
                Poll::Pending => return,
                Poll::Ready(Ok(true)) => {
                    if let Some(silence) = &mut self.silence {
                        silence.break_off();
                    }
                }
                Poll::Ready(Ok(false)) => self.ends(&mut inner, Cause::Closed),
                Poll::Ready(Err(error)) => {
                    let cause = Aborted::io(session.side, &error).cause;
                    self.ends(&mut inner, cause);
                }
            }
        }
    }

    /// The peer is gone.
    fn ends(&mut self, inner: &mut Inner, cause: Cause) {
        self.ending.get_or_insert(Ending::Gone);
        inner.fail_all(self.session.aborted(cause));
    }

    /// Handles what has come.
    fn handle_all(&mut self, inner: &mut Inner, rules: &Rules) {
        if self.inbox.is_empty() {
            return;
        }
        let mut lines = Lines::take();
        loop {
            let out = inner.out.get_or_insert_with(Buf::small);
            let received = inner.machine.receive(self.inbox.unread(), &mut lines, rules, out);
            let (used, event) = match received {
                Ok(received) => received,
                Err(fault) => return self.broken(inner, fault.reason),
            };
            let is_empty = matches!(event, Event::Nothing);
            self.handle(inner, event, &mut lines, rules);
            self.inbox.consume(used);
            if let Some(abuses) = inner.machine.take_abuses()
                && !self.is_within_budget(inner, &abuses)
            {
                return self.abusive(inner);
            }
            if is_empty || self.inbox.is_empty() {
                break;
            }
        }
        if inner.out.as_ref().is_some_and(|out| out.is_empty()) {
            inner.out = None;
        }
    }

    /// A rule of the connection was broken.
    #[cold]
    fn broken(&mut self, inner: &mut Inner, reason: &'static str) {
        crate::log::debug(format_args!("HTTP/2: {reason}"));
        let counters = &self.session.shard.counters;
        match self.session.side {
            Side::Downstream => counters.h2_connections_broken.increment(),
            Side::Upstream => counters.upstream_bad_responses.increment(),
        }
        self.ending = Some(Ending::Broken);
        inner.fail_all(self.session.aborted(Cause::Closed));
    }

    fn is_within_budget(&self, inner: &mut Inner, abuses: &[u16; Abuse::COUNT]) -> bool {
        inner.abuse.spend(abuses, now_ms(), self.abuse, &self.session.shard.counters)
    }

    /// The peer has used up its budget.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-10.5
    #[cold]
    fn abusive(&mut self, inner: &mut Inner) {
        self.session.shard.counters.abuse_closed.increment();
        let last_id = inner.machine.last_id();
        let (machine, out) = inner.machine_and_out();
        machine.go_away(last_id, ErrorCode::ENHANCE_YOUR_CALM, out);
        self.ending = Some(Ending::Abusive);
        inner.fail_all(self.session.aborted(Cause::Abusive));
    }

    fn handle(&mut self, inner: &mut Inner, event: Event, lines: &mut Lines, rules: &Rules) {
        match event {
            Event::Nothing | Event::Handled => {}
            Event::Pong(bandwidth::PING) => inner.note_round_trip(rules, now_ms()),
            Event::Pong(data) => self.leaving.note_pong(data),
            Event::Head { key, is_end, fault } => {
                let lines = std::mem::replace(lines, Lines::take());
                match self.session.side {
                    Side::Downstream => self.begin_stream(inner, key, is_end, (lines, fault)),
                    Side::Upstream => take_response(inner, key, is_end, lines, self.session),
                }
            }
            Event::Data { key, range, is_end } => {
                let data = &self.inbox.unread()[range];
                take_data(inner, key, data, is_end, self.session, rules);
            }
            Event::Trailers { key, has_fields } => {
                if let Some(slot) = inner.slot(key) {
                    slot.incoming = Incoming::End(has_fields.then(|| BodyTrailers::of(lines)));
                    slot.wake();
                }
            }
            Event::Reset { key, code } => {
                if code == ErrorCode::REFUSED_STREAM
                    && let Some(slot) = inner.slot(key)
                {
                    slot.is_unprocessed = true;
                }
                // A response that was complete before stays so, and what has come of another is passed on first.
                inner.fail(key, self.session.aborted(Cause::Reset(code.0)));
            }
            Event::Broken { key, fault } => inner.fail(key, self.session.aborted(Cause::Fault(fault))),
            Event::Window(Some(key)) => inner.give_turn(key),
            Event::Priority(key) => inner.move_turn(key),
            // Those that wait for the window of the connection have kept their turns.
            Event::Window(None) => {}
            //= https://www.rfc-editor.org/rfc/rfc9113#section-6.9.2
            // Windows of streams may be larger now.
            Event::Settings => inner.give_all_turns(),
            // A client's announcement concerns streams of ours, of which it has none.
            Event::GoAway { last_id, .. } if self.session.side == Side::Upstream => {
                inner.refuse_above(last_id, self.session.aborted(Cause::Closed));
            }
            Event::GoAway { .. } => {}
        }
    }

    /// Has a worker serve a new stream.
    fn begin_stream(
        &mut self,
        inner: &mut Inner,
        key: StreamKey,
        is_end: bool,
        (lines, fault): (Lines, Option<sluice_proto::Fault>),
    ) {
        let slot = inner.occupy(key);
        slot.fault = fault;
        slot.heads.push_back(lines);
        if is_end {
            slot.incoming = Incoming::End(None);
        }
        if !self.session.shard.may_begin_stream(inner.machine.streams()) {
            self.session.shard.counters.h2_streams_refused.increment();
            if let Some(slot) = inner.slot(key) {
                slot.clear();
            }
            let (machine, out) = inner.machine_and_out();
            machine.close(key, ErrorCode::REFUSED_STREAM, out);
            return;
        }
        self.begun += 1;
        if !self.is_last_begun && (self.begun >= self.streams_left || now_ms() >= self.end_ms) {
            self.is_last_begun = true;
            self.note_last();
        }
        hand_to_worker(self.session.clone(), u64::from(key.slot) << 32 | u64::from(key.id));
    }

    /// The connection is to take no further requests; counts why.
    #[cold]
    fn note_last(&self) {
        let counters = &self.session.shard.counters;
        if self.begun >= self.streams_left {
            counters.connections_max_requests.increment();
        } else {
            counters.connections_max_age.increment();
        }
    }

    /// The rest of a header block has the time of a head, whatever other frames and streams there are.
    fn bound_header_block(&mut self) {
        let session = self.session;
        let mut inner = session.inner.borrow_mut();
        if !inner.machine.is_gathering() {
            self.gathering = None;
            return;
        }
        let limit_ms = session.shard.snapshot().times.request_head;
        let timer = self.gathering.get_or_insert_with(|| Timer::new(limit_ms));
        if timer.poll_expired().is_ready() {
            session.shard.counters.request_head_timeouts.increment();
            let last_id = inner.machine.last_id();
            let (machine, out) = inner.machine_and_out();
            machine.go_away(last_id, ErrorCode::ENHANCE_YOUR_CALM, out);
            self.ending = Some(Ending::Abusive);
            inner.fail_all(session.aborted(Cause::TimedOut));
        }
    }

    /// A client may take as long for the rest of a record as for that of a head, while nothing else is under way.
    fn bound_record(&mut self) {
        let session = self.session;
        let conn = session.link().transport();
        let is_waiting = session.streams() == 0 && session.link().has_received();
        if is_waiting && !self.is_record_bound {
            conn.set_deadline(session.shard.snapshot().times.request_head);
        } else if !is_waiting && self.is_record_bound {
            conn.clear_deadline();
        }
        self.is_record_bound = is_waiting;
    }

    /// Sends what waits, one send at a time.
    fn send(&mut self, context: &mut Context<'_>) {
        let session = self.session;
        loop {
            if let Some(sending) = &mut self.sending {
                let Poll::Ready(sent) = Pin::new(sending).poll(context) else { return };
                self.sending = None;
                if let Err(error) = sent.result {
                    let mut inner = session.inner.borrow_mut();
                    inner.is_sending = false;
                    inner.out = None;
                    let cause = Aborted::sending(session.side, &error).cause;
                    self.ends(&mut inner, cause);
                    return;
                }
            }
            let mut inner = session.inner.borrow_mut();
            inner.take_turns(&session.rules);
            inner.is_sending = false;
            let Some(out) = inner.out.take() else { return };
            if out.is_empty() {
                return;
            }
            inner.is_sending = true;
            drop(inner);
            self.sending = Some(session.link().send(out, self.stall_ms));
        }
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        self.session.shard.drivers.leave(self.sleeper);
    }
}

impl Future for Driver<'_> {
    type Output = Driven;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Driven> {
        let this = &mut *self;
        this.session.set_driver(context);
        this.session.shard.drivers.sleep(this.sleeper, context);
        this.receive(context);
        match this.session.side {
            Side::Downstream => this.leave(),
            Side::Upstream => this.retire(),
        }
        if this.ending.is_none() {
            this.bound_header_block();
        }
        this.look_if_idle();
        this.look_if_alive();
        this.send(context);
        // There is room to read again once what waited is on its way.
        if this.ending.is_none() && this.sending.is_none() {
            this.receive(context);
            this.send(context);
        }
        if this.idle_ms.is_none() && this.ending.is_none() && !this.session.is_going_away() {
            this.bound_record();
        }
        // A server's connection is also among those that requests may choose.
        let is_shared = this.idle_ms.is_none() && Rc::strong_count(this.session) > 1;
        let has_streams = is_shared || this.session.streams() > 0;
        let ending = match this.ending {
            // What says why goes out before the end.
            Some(Ending::Broken | Ending::Abusive) if this.sending.is_some() => return Poll::Pending,
            _ if has_streams => return Poll::Pending,
            Some(ending) => ending,
            None if this.sending.is_some() || this.idle_ms.is_some() => return Poll::Pending,
            // The rest of a record is awaited here, or requests that the client has sent before it knew of the end.
            None if this.is_record_bound || this.leaving.is_awaiting() => return Poll::Pending,
            None => Ending::Rest,
        };
        Poll::Ready(Driven { ending, begun: this.begun })
    }
}
