//! The record of one exchange: filled on the way, read once at its end.
//!
//! Counters are its first reader. Recording is a plain store of values that the exchange has anyway: no clock is read and
//! nothing is allocated.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sluice_proto::Fault;
use sluice_sys::now_ms;

use crate::counters::Counters;
use crate::message::{Aborted, Cause, Side};
use crate::snapshot::Route;
use crate::upstream::breaker::Admission;
use crate::upstream::group::Group;
use crate::upstream::server::Server;

/// A moment that has not come.
const NEVER: u32 = u32::MAX;

/// One exchange, as it went.
pub(crate) struct Record {
    /// When its head was read, in the shard's milliseconds. The other times count from here.
    arrived_ms: u64,
    /// When the request was sent to its server, or its body was sent to the end.
    sent_ms: Cell<u32>,
    first_byte_ms: Cell<u32>,
    end_ms: Cell<u32>,
    server: RefCell<Option<Rc<Server>>>,
    /// Of the response that was begun, 0 if none was.
    status: Cell<u16>,
    is_local: Cell<bool>,
    /// It was refused by a limit of ours for its group.
    is_over_limit: Cell<bool>,
    /// Bytes of the request's body that have come.
    received_bytes: Cell<u64>,
    /// Bytes of the final response that went out, its head included.
    sent_bytes: Cell<u64>,
    broken: Cell<Option<(Phase, Aborted)>>,
    /// What the breaker of its group has said.
    admission: Cell<Admission>,
}

/// The route and the group of a request, as far as it has them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Destination<'a> {
    pub(crate) route: Option<&'a Route>,
    pub(crate) group: Option<&'a Group>,
}

/// The part of an exchange that was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The request's head could not be read.
    Head,
    /// The request has no response yet.
    Request,
    /// Bytes of the response may have been sent.
    Response,
}

impl Record {
    /// An exchange begins.
    pub(crate) fn new() -> Record {
        Record {
            arrived_ms: now_ms(),
            sent_ms: Cell::new(NEVER),
            first_byte_ms: Cell::new(NEVER),
            end_ms: Cell::new(NEVER),
            server: RefCell::new(None),
            status: Cell::new(0),
            is_local: Cell::new(false),
            is_over_limit: Cell::new(false),
            received_bytes: Cell::new(0),
            sent_bytes: Cell::new(0),
            broken: Cell::new(None),
            admission: Cell::default(),
        }
    }

    fn since_arrival_ms(&self) -> u32 {
        u32::try_from(now_ms() - self.arrived_ms).unwrap_or(NEVER - 1)
    }

    /// The breaker of the group lets it through.
    pub(crate) fn is_admitted(&self, admission: Admission) {
        self.admission.set(admission);
    }

    /// A connection to this server was taken or made.
    pub(crate) fn has_server(&self, server: &Rc<Server>) {
        self.server.replace(Some(server.clone()));
    }

    /// The request goes to its server, or has gone there to its end: the wait for the response begins.
    pub(crate) fn is_sent(&self) {
        self.sent_ms.set(self.since_arrival_ms());
    }

    /// The same of an attempt that was under way before: it was sent at this time.
    pub(crate) fn was_sent(&self, sent_ms: u64) {
        self.sent_ms.set(u32::try_from(sent_ms.saturating_sub(self.arrived_ms)).unwrap_or(NEVER - 1));
    }

    /// When that was, in the shard's milliseconds.
    pub(crate) fn sent_ms(&self) -> Option<u64> {
        let sent_ms = self.sent_ms.get();
        (sent_ms != NEVER).then(|| self.arrived_ms + u64::from(sent_ms))
    }

    /// Calls `f` with the server that has the request, or had it last.
    pub(crate) fn with_server(&self, f: impl FnOnce(&Rc<Server>)) {
        if let Some(server) = &*self.server.borrow() {
            f(server);
        }
    }

    /// Whether the head of a final response of a server has come.
    pub(crate) fn is_answered_by_server(&self) -> bool {
        self.status.get() > 0 && !self.is_local.get()
    }

    /// The server that was chosen last.
    pub(crate) fn server(&self) -> Option<Rc<Server>> {
        self.server.borrow().clone()
    }

    /// The head of a server's response has come.
    pub(crate) fn is_answered(&self, status: u16) {
        self.status.set(status);
        self.first_byte_ms.set(self.since_arrival_ms());
    }

    /// There is no connection for it by a limit of ours, which says nothing about the servers.
    pub(crate) fn is_over_limit(&self) {
        self.is_over_limit.set(true);
    }

    /// We respond ourselves.
    pub(crate) fn is_answered_here(&self, status: u16, bytes: usize) {
        self.status.set(status);
        self.is_local.set(true);
        self.sent_bytes.set(bytes as u64);
    }

    /// The counter of the response's bytes.
    pub(crate) fn sent_bytes(&self) -> &Cell<u64> {
        &self.sent_bytes
    }

    /// Whether bytes of the final response may have been sent.
    pub(crate) fn has_begun(&self) -> bool {
        self.sent_bytes.get() > 0
    }

    /// It is not completed, and this is why. The first reason counts.
    pub(crate) fn is_broken(&self, phase: Phase, aborted: Aborted) {
        if self.broken.get().is_none() {
            self.broken.set(Some((phase, aborted)));
        }
    }

    /// The exchange is over, with so many bytes of the request's body.
    pub(crate) fn finish(&self, received_bytes: u64, counters: &Counters, to: Destination<'_>) {
        self.received_bytes.set(received_bytes);
        self.end_ms.set(self.since_arrival_ms());
        if self.is_local.get() && self.status.get() >= 400 {
            counters.local_responses.increment();
        }
        if let Some((phase, aborted)) = self.broken.get() {
            count(phase, aborted, counters);
        }
        self.count_by_label(to);
        if self.admission.get() != Admission::None
            && let Some(breaker) = to.group.and_then(|group| group.breaker.as_ref())
        {
            let now_ms = self.arrived_ms + u64::from(self.end_ms.get());
            breaker.end(self.admission.get(), (self.status.get(), self.has_failed()), now_ms);
        }
    }

    /// Counts the response of the route, the group and the server.
    #[inline]
    fn count_by_label(&self, to: Destination<'_>) {
        let status = self.status.get();
        if let Some(route) = to.route {
            route.numbers.count(status);
        }
        if let Some(group) = to.group {
            group.numbers.responses.count(status);
        }
        if let Some(server) = &*self.server.borrow()
            && self.is_answered_by_server()
        {
            server.numbers.responses.count(status);
            server.numbers.times.count(self.first_byte_ms.get().saturating_sub(self.sent_ms.get()));
        }
    }

    /// Whether the group has failed the request, whatever the status of its response is; `None` if that is not known, since the
    /// client has left or was refused, or a limit of ours was in the way.
    fn has_failed(&self) -> Option<bool> {
        match (self.status.get(), self.is_local.get(), self.broken.get()) {
            _ if self.is_over_limit.get() => None,
            (502..=504, true, _) => Some(true),
            (_, true, _) => None,
            (_, false, Some((_, Aborted { side: Side::Upstream, .. }))) => Some(true),
            (0, false, _) => None,
            (_, false, _) => Some(false),
        }
    }
}

/// Counts what broke an exchange off.
#[cold]
fn count(phase: Phase, aborted: Aborted, counters: &Counters) {
    let Aborted { side, cause, .. } = aborted;
    match (phase, side) {
        _ if cause == Cause::Overdue => counters.request_timeouts.increment(),
        (Phase::Head, _) => count_head(cause, counters),
        (Phase::Request, Side::Downstream) => count_request(cause, counters),
        (Phase::Request, Side::Upstream) => match cause {
            Cause::TimedOut | Cause::Ejected => counters.upstream_timeouts.increment(),
            Cause::Closed | Cause::Reset(_) | Cause::Failed(_) => counters.upstream_closed.increment(),
            _ => counters.upstream_bad_responses.increment(),
        },
        (Phase::Response, Side::Upstream) => {
            if cause == Cause::TimedOut {
                counters.upstream_body_timeouts.increment();
            }
            counters.upstream_truncated.increment();
        }
        (Phase::Response, Side::Downstream) => match cause {
            Cause::TimedOut | Cause::TooSlow | Cause::TooLarge | Cause::Fault(_) => {
                count_request(cause, counters);
            }
            _ => counters.client_aborts.increment(),
        },
    }
}

fn count_head(cause: Cause, counters: &Counters) {
    match cause {
        Cause::TimedOut => counters.request_head_timeouts.increment(),
        Cause::Crowded => counters.partial_heads_refused.increment(),
        Cause::Fault(Fault::RequestLineTooLong) => counters.request_lines_too_long.increment(),
        Cause::Fault(Fault::HeadTooLarge | Fault::TooManyFields) => counters.heads_too_large.increment(),
        _ => {}
    }
    count_client(cause, counters);
}

fn count_request(cause: Cause, counters: &Counters) {
    match cause {
        Cause::TimedOut => counters.body_timeouts.increment(),
        Cause::TooSlow => counters.bodies_too_slow.increment(),
        Cause::TooLarge => counters.bodies_too_large.increment(),
        _ => {}
    }
    count_client(cause, counters);
}

fn count_client(cause: Cause, counters: &Counters) {
    match cause {
        Cause::Fault(_) => counters.bad_requests.increment(),
        Cause::Stalled
        | Cause::Closed
        | Cause::Reset(_)
        | Cause::Failed(_)
        | Cause::UnaskedUpgrade
        | Cause::IgnoredOffer
        | Cause::Unwanted
        | Cause::UnaskedAnswer => {
            counters.client_aborts.increment();
        }
        Cause::TooLarge
        | Cause::TimedOut
        | Cause::Ejected
        | Cause::Overdue
        | Cause::TooSlow
        | Cause::Crowded
        | Cause::Abusive => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(phase: Phase, side: Side, cause: Cause) -> Counters {
        let counters = Counters::default();
        count(phase, Aborted::by(side, cause), &counters);
        counters
    }

    #[test]
    fn what_broke_off_is_counted_by_phase_and_side() {
        use Phase::{Head, Request, Response};
        use Side::{Downstream, Upstream};
        let fault = Cause::Fault(Fault::HeadTooLarge);
        let c = counted(Head, Downstream, fault);
        assert_eq!((c.heads_too_large.value(), c.bad_requests.value()), (1, 1));
        let c = counted(Head, Downstream, Cause::TimedOut);
        assert_eq!((c.request_head_timeouts.value(), c.client_aborts.value()), (1, 0));
        let c = counted(Request, Downstream, Cause::TimedOut);
        assert_eq!((c.body_timeouts.value(), c.request_head_timeouts.value()), (1, 0));
        let c = counted(Request, Downstream, Cause::Closed);
        assert_eq!((c.client_aborts.value(), c.upstream_closed.value()), (1, 0));
        let c = counted(Request, Upstream, Cause::Closed);
        assert_eq!((c.client_aborts.value(), c.upstream_closed.value()), (0, 1));
        let c = counted(Request, Upstream, Cause::TimedOut);
        assert_eq!((c.upstream_timeouts.value(), c.upstream_truncated.value()), (1, 0));
        let c = counted(Response, Upstream, Cause::TimedOut);
        assert_eq!((c.upstream_body_timeouts.value(), c.upstream_truncated.value()), (1, 1));
        let c = counted(Response, Downstream, Cause::Stalled);
        assert_eq!((c.client_aborts.value(), c.upstream_truncated.value()), (1, 0));
        let c = counted(Response, Upstream, Cause::Overdue);
        assert_eq!((c.request_timeouts.value(), c.upstream_truncated.value()), (1, 0));
    }
}
