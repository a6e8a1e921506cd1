//! A server's HTTP/1.1 connection during one exchange.

use sluice_proto::h1::{Parsed, parse_response};
use sluice_proto::{RequestKind, ResponseHead};
use sluice_sys::{Conn, Sending};

use crate::h1::{BodyProgress, BodyReader};
use crate::inbox::Inbox;
use crate::message::{Aborted, Cause, Side};
use crate::shard::Shard;
use crate::tunnel::End;
use crate::upstream::group::{KeepResult, Server};

/// The server's end of an exchange.
pub(crate) struct Up<'s> {
    server: &'s Server,
    /// Gone once the connection was given back.
    conn: Option<Conn>,
    inbox: Inbox,
    /// It has served a request before.
    pub(crate) is_reused: bool,
}

impl<'s> Up<'s> {
    pub(crate) fn new(server: &'s Server, conn: Conn, is_reused: bool) -> Up<'s> {
        server.begin_use();
        Up { server, conn: Some(conn), inbox: Inbox::default(), is_reused }
    }

    /// Host and port of the server, as configured.
    pub(crate) fn authority(&self) -> &'s str {
        &self.server.authority
    }

    pub(crate) fn conn(&self) -> &Conn {
        self.conn.as_ref().expect("an exchange under way has its connection")
    }

    /// The connection for sending, and what receives from it.
    pub(crate) fn split(&mut self) -> (&Conn, Receiver<'_>) {
        let conn = self.conn.as_ref().expect("an exchange under way has its connection");
        (conn, Receiver { conn, inbox: &mut self.inbox, request: None })
    }

    /// Takes note of an answer, for how to receive the next one.
    pub(crate) fn note_answer(&self, is_large: bool) {
        self.server.note_answer(is_large);
    }

    /// The exchange has ended in a tunnel: the connection, what has come behind the answer, and its server.
    pub(crate) fn into_end(mut self) -> (End, &'s Server) {
        let conn = self.conn.take().expect("an exchange under way has its connection");
        self.server.closed();
        (End { conn, inbox: std::mem::take(&mut self.inbox) }, self.server)
    }

    /// The exchange is over and the connection can serve another; not if the server has said more than it was asked.
    pub(crate) fn give_back(mut self, shard: &Shard) {
        if !self.inbox.is_empty() {
            return;
        }
        if let Some(conn) = self.conn.take() {
            match self.server.keep(conn, shard.times.upstream_idle, shard.upstream_idle_max) {
                KeepResult::Idle => shard.upkeep.wake(),
                KeepResult::Ended => {}
                KeepResult::NoRoom => shard.counters.upstream_not_kept.increment(),
            }
        }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.server.end_use();
        if self.conn.is_some() {
            self.server.closed();
        }
    }
}

/// The receiving half of a server's connection.
pub(crate) struct Receiver<'a> {
    pub(crate) conn: &'a Conn,
    inbox: &'a mut Inbox,
    /// The sending of the request, as long as nothing has been received that is younger than it.
    request: Option<&'a Sending>,
}

/// No answer came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered {
    pub(crate) aborted: Aborted,
    /// Not one byte of an answer had arrived.
    pub(crate) is_silent: bool,
}

impl<'a> Receiver<'a> {
    /// What arrives before this request has begun to go out is no answer to it. On a connection that has served others it
    /// may be meant for one of them.
    pub(crate) fn not_before(self, request: &'a Sending) -> Receiver<'a> {
        Receiver { request: Some(request), ..self }
    }

    /// Reads a response head and shows it to `visit`. The connection's deadline is the caller's.
    pub(crate) async fn read_response<R>(
        &mut self,
        shard: &Shard,
        kind: RequestKind,
        visit: impl FnOnce(&ResponseHead<'_>) -> R,
    ) -> Result<R, Unanswered> {
        loop {
            if !self.inbox.is_empty() {
                if self.request.take().is_some_and(|request| !request.has_begun()) {
                    let aborted = Aborted::by(Side::Upstream, Cause::UnaskedAnswer);
                    return Err(Unanswered { aborted, is_silent: true });
                }
                let scratch = &mut *shard.scratch.borrow_mut();
                match parse_response(self.inbox.unread(), &mut scratch.head, &shard.head_limits, &kind) {
                    Ok(Parsed::Complete { head, bytes }) => {
                        let result = visit(&head);
                        self.inbox.consume(bytes);
                        return Ok(result);
                    }
                    Ok(Parsed::Partial) => {}
                    Err(fault) => {
                        return Err(self.unanswered(Aborted::by(Side::Upstream, Cause::Fault(fault))));
                    }
                }
            }
            match self.inbox.receive(self.conn).await {
                Ok(true) => {}
                Ok(false) => return Err(self.unanswered(Aborted::by(Side::Upstream, Cause::Closed))),
                Err(error) => return Err(self.unanswered(Aborted::io(Side::Upstream, &error))),
            }
        }
    }

    fn unanswered(&self, aborted: Aborted) -> Unanswered {
        Unanswered { aborted, is_silent: self.inbox.is_empty() }
    }

    /// The body behind the head that was just read.
    pub(crate) fn body(self, progress: &'a mut BodyProgress) -> BodyReader<'a> {
        BodyReader { conn: self.conn, inbox: self.inbox, progress, side: Side::Upstream }
    }
}
