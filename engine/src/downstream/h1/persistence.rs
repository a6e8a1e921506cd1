//! Whether a client's HTTP/1.1 connection goes on after a request, and how it ends if not: the only place where that is decided.

use std::cell::Cell;

use sluice_proto::h1::{ConnectionField, Framing};
use sluice_proto::{RequestHead, ResponseHead, Version};
use sluice_sys::now_ms;

use crate::connection::has_unread;
use crate::connection::history::History;
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::connection::tls::Tls;
use crate::downstream::Afterwards;
use crate::exchange::ended::{Ended, Origin};
use crate::message::{Aborted, Cause, Side};
use crate::record::Record;
use crate::shard::Shard;
use crate::snapshot::Limits;

/// How the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It may send another request.
    Request,
    /// It is closed in good order.
    Close,
    /// It is closed while the client may still be sending.
    Linger,
    /// It is gone, or what was sent is incomplete by its own framing, or nothing is worth waiting for.
    Drop,
    /// It is reset: only that tells the client that what it got is incomplete.
    Abort,
}

/// The reasons for and against another request on the connection.
pub(super) struct Persistence {
    version: Version,
    is_head_only: bool,
    /// The client will send other requests, and so far nothing speaks against it.
    is_wanted: Cell<bool>,
    /// The client has asked for a tunnel: what it sends next may be no request.
    asks_for_tunnel: bool,
    /// When the connection is too old.
    end_ms: u64,
    /// The head of the final response, once it was written.
    response: Cell<Response>,
}

/// The head of the final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    None,
    /// Another request may follow the body, which is framed like this.
    Persistent(Framing),
    Closing(Framing),
}

impl Persistence {
    /// After the head of a request.
    pub(super) fn new(head: &RequestHead<'_>, end_ms: u64) -> Persistence {
        Persistence {
            version: head.version,
            is_head_only: head.method == sluice_proto::Method::Head,
            is_wanted: Cell::new(head.persistent),
            asks_for_tunnel: head.wants_tunnel(),
            end_ms,
            response: Cell::new(Response::None),
        }
    }

    /// After a head that could not be read.
    pub(super) fn none() -> Persistence {
        Persistence {
            version: Version::Http11,
            is_head_only: false,
            is_wanted: Cell::new(false),
            asks_for_tunnel: false,
            end_ms: u64::MAX,
            response: Cell::new(Response::None),
        }
    }

    /// The request is the connection's last one, or is followed already by what may be no request. To be asked once for each.
    pub(super) fn judge(
        &self,
        history: &History,
        link: &Link,
        inbox: &Inbox,
        shard: &Shard,
        limits: &Limits,
    ) {
        let is_last = is_last_request(history, shard, limits) || link.tls().is_some_and(Tls::is_key_worn);
        if is_last || (self.asks_for_tunnel && has_unread(link, inbox)) {
            self.forbid();
        }
    }

    /// There is no other request on this connection.
    pub(super) fn forbid(&self) {
        self.is_wanted.set(false);
    }

    /// Whether there may be another request, as far as is known before the response.
    pub(super) fn may_persist(&self) -> bool {
        self.is_wanted.get()
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn is_head_only(&self) -> bool {
        self.is_head_only
    }

    /// Decides how the head of a server's response looks: the framing of its body, and the Connection field.
    pub(super) fn begin(
        &self,
        head: &ResponseHead<'_>,
        afterwards: Afterwards,
        has_unread: impl FnOnce() -> bool,
        shard: &Shard,
    ) -> (Framing, ConnectionField) {
        let framing = Framing::to_client(head.body, self.version);
        let is_old = now_ms() >= self.end_ms;
        if is_old && self.is_wanted.get() {
            shard.counters.connections_max_age.increment();
        }
        let is_over = is_old || shard.is_draining() || framing == Framing::UntilClose;
        let is_persistent = !is_over && self.may_go_on(afterwards, has_unread);
        (framing, self.note(is_persistent, framing))
    }

    /// The Connection field of a response of ours.
    pub(super) fn answer(
        &self,
        afterwards: Afterwards,
        has_unread: impl FnOnce() -> bool,
    ) -> ConnectionField {
        let is_persistent = self.may_go_on(afterwards, has_unread);
        self.note(is_persistent, Framing::None)
    }

    fn may_go_on(&self, afterwards: Afterwards, has_unread: impl FnOnce() -> bool) -> bool {
        // Bytes behind an offer that is not accepted may be no request.
        self.is_wanted.get() && afterwards == Afterwards::GoOn && !(self.asks_for_tunnel && has_unread())
    }

    fn note(&self, is_persistent: bool, framing: Framing) -> ConnectionField {
        let response = if is_persistent { Response::Persistent(framing) } else { Response::Closing(framing) };
        self.response.set(response);
        ConnectionField::of(self.version, is_persistent)
    }

    /// How the body of the response goes out.
    pub(super) fn framing(&self) -> Framing {
        match self.response.get() {
            Response::None => Framing::None,
            Response::Persistent(framing) | Response::Closing(framing) => framing,
        }
    }

    /// Whether the head of the response allows another request.
    pub(super) fn is_persistent(&self) -> bool {
        matches!(self.response.get(), Response::Persistent(_))
    }

    /// How the connection goes on after an exchange that has ended like this. Not for tunnels.
    pub(super) fn after(&self, ended: &Ended, record: &Record, has_unread: impl FnOnce() -> bool) -> Next {
        match *ended {
            Ended::Answered { by: Origin::Server, is_request_sent } => {
                let may_go_on = self.is_persistent() && !(self.asks_for_tunnel && has_unread());
                match (may_go_on, is_request_sent) {
                    (true, true) => Next::Request,
                    (false, true) => Next::Close,
                    (_, false) => Next::Linger,
                }
            }
            Ended::Answered { by: Origin::Local, .. } if self.is_persistent() => Next::Request,
            Ended::Answered { by: Origin::Local, .. } => Next::Linger,
            Ended::Interrupted(ref interrupted) => {
                self.after_interruption(interrupted.aborted, record.has_begun())
            }
            Ended::Tunnel(_) => Next::Close,
        }
    }

    fn after_interruption(&self, aborted: Aborted, has_begun: bool) -> Next {
        let is_close_delimited = has_begun && self.response.get() == Response::Closing(Framing::UntilClose);
        // A client that takes nothing does not need what the kernel still holds for it.
        let is_stalled = aborted.side == Side::Downstream && aborted.cause == Cause::Stalled;
        let is_incomplete = has_begun && is_stalled;
        if is_close_delimited || is_incomplete || aborted.cause == Cause::Overdue {
            Next::Abort
        } else {
            Next::Drop
        }
    }

    /// How the connection goes on after the answer to a malformed or late head.
    pub(super) fn after_head(aborted: Aborted, is_answered: bool) -> Next {
        match aborted.cause {
            // Nothing is on its way that would overtake the answer by a reset, or it drips; a flood of them must not linger.
            Cause::TimedOut | Cause::Crowded | Cause::Abusive => Next::Drop,
            _ if is_answered => Next::Linger,
            _ => Next::Drop,
        }
    }
}

/// Whether the connection is to be closed after the request that is served now, and counts why.
fn is_last_request(history: &History, shard: &Shard, limits: &Limits) -> bool {
    if shard.is_draining() {
        return true;
    }
    if limits.abuse_score > 0 && history.score.points() >= limits.abuse_score {
        return true;
    }
    let is_used_up = history.requests + 1 >= limits.requests_per_connection;
    let is_old = now_ms() >= history.end_ms;
    if is_used_up {
        shard.counters.connections_max_requests.increment();
    } else if is_old {
        shard.counters.connections_max_age.increment();
    }
    is_used_up || is_old
}
