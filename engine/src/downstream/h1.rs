//! A client's HTTP/1.1 connection: one request after the other, answered in order.
//!
//! [`serve`] owns the connection from the bytes that woke it until it is idle again or closed. `exchange` does what lies
//! between a request and its answer.

use std::cell::Cell;

use sluice_proto::RequestHead;
use sluice_proto::h1::{Parsed, parse_request};
use sluice_sys::{Buf, Conn, ReadAhead};

use crate::answer::{Answer, Shape};
use crate::exchange::{self, Next};
use crate::h1::{BodyProgress, BodyReader};
use crate::identity::Client;
use crate::inbox::Inbox;
use crate::message::{Aborted, BodySource, Cause, Part, PlainRest, Shown, Side};
use crate::shard::Shard;

/// After the last answer on a connection, how long to take in what the client still sends, so that it gets to read the
/// answer instead of a reset.
//= https://www.rfc-editor.org/rfc/rfc9112#section-9.6
const LINGER_MS: u64 = 2_000;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The client's end of an exchange.
pub(crate) struct Down<'s> {
    pub(crate) shard: &'s Shard,
    pub(crate) conn: Conn,
    pub(crate) inbox: Inbox,
}

/// Serves a connection that has bytes to read until it is idle or gone.
pub(crate) async fn serve(shard: &Shard, conn: Conn) {
    let mut down = Down { shard, conn, inbox: Inbox::default() };
    loop {
        // A client that does not read its answers is not served: the next request waits until the last answer is with the
        // kernel. Usually it has been for long.
        down.conn.flushed().await;
        match exchange::run(shard, &mut down).await {
            Next::Request if down.may_go_on() => {}
            Next::Request | Next::Close => return down.close().await,
            Next::Linger => return down.linger().await,
            Next::Drop => return,
            Next::Abort => return down.conn.abort(),
        }
        // An upload may have changed it.
        down.conn.set_read_ahead(ReadAhead::Buffers);
        if down.inbox.is_empty() {
            match down.conn.park(shard.times.keep_alive_idle) {
                Ok(()) => return,
                Err(conn) => down = Down { shard, conn, inbox: Inbox::default() },
            }
        }
    }
}

impl Down<'_> {
    /// Reads a request head and shows it to `visit`; the head's bytes are gone afterwards. `None`: the client has left
    /// without asking for anything.
    pub(crate) async fn read_request<R>(
        &mut self,
        visit: impl FnOnce(&RequestHead<'_>, &Client<'_>) -> R,
    ) -> Result<Option<R>, Aborted> {
        let limits = &self.shard.head_limits;
        let abort = |cause| Aborted::by(Side::Downstream, cause);
        let mut is_waiting = false;
        let mut parsed_bytes = 0;
        loop {
            let unread = self.inbox.unread();
            if is_worth_parsing(unread, parsed_bytes) {
                let scratch = &mut *self.shard.scratch.borrow_mut();
                match parse_request(unread, &mut scratch.head, limits) {
                    Ok(Parsed::Complete { head, bytes }) => {
                        let peer = self.conn.peer().map_err(|error| Aborted::io(Side::Downstream, &error))?;
                        let client = self.shard.identity.client(peer, &head, &mut scratch.sender);
                        let result = visit(&head, &client);
                        self.inbox.consume(bytes);
                        return Ok(Some(result));
                    }
                    Ok(Parsed::Partial) => {}
                    Err(fault) => return Err(abort(Cause::Fault(fault))),
                }
            }
            parsed_bytes = unread.len();
            if self.inbox.take_ready(&self.conn) {
                continue;
            }
            if !is_waiting {
                is_waiting = true;
                self.conn.set_deadline(self.shard.times.header);
            }
            match self.inbox.receive(&self.conn).await {
                Ok(true) => {}
                Ok(false) if self.inbox.is_empty() => return Ok(None),
                Ok(false) => return Err(abort(Cause::Closed)),
                Err(error) => return Err(Aborted::io(Side::Downstream, &error)),
            }
        }
    }

    /// Sends an answer of ours.
    pub(crate) async fn answer(&self, answer: Answer<'_>, shape: &Shape) -> Result<(), Aborted> {
        let mut out = Buf::small();
        let now = sluice_sys::now_ms();
        self.shard.clock.with_date(now, |date| answer.write(&mut out, date, shape));
        if answer.status() >= 400 {
            self.shard.counters.own_answers.increment();
        }
        let sent = self.conn.send(out, self.shard.times.write_stall).await;
        sent.result.map_err(|error| Aborted::io(Side::Downstream, &error))
    }

    /// Whether the connection is to be closed after the request that is served now.
    pub(crate) fn is_last_request(&self) -> bool {
        self.shard.is_draining() || self.conn.tag() + 1 >= self.shard.requests_per_connection
    }

    /// Counts the request that was just answered; says whether the connection may have another.
    fn may_go_on(&self) -> bool {
        let is_last = self.is_last_request();
        self.conn.set_tag(self.conn.tag() + 1);
        !is_last
    }

    /// Closes after everything was sent; lingers if the client has said more than was read.
    async fn close(self) {
        self.conn.flushed().await;
        if !self.inbox.is_empty() || !self.conn.is_quiet() {
            self.linger().await;
        }
    }

    /// Closes a connection whose client may still be sending.
    async fn linger(self) {
        self.conn.flushed().await;
        self.conn.shutdown_write();
        self.conn.set_deadline(LINGER_MS);
        while let Ok(Some(_)) = self.conn.receive().await {}
    }
}

/// Parsing begins again with every piece of a head. A piece without a line end cannot complete anything, so it is only
/// looked at when it is the first, or every few kilobytes for the limits.
fn is_worth_parsing(unread: &[u8], parsed_bytes: usize) -> bool {
    const LOOK_EVERY_BYTES: usize = 2 * 1024;
    let new = &unread[parsed_bytes.min(unread.len())..];
    !unread.is_empty()
        && (parsed_bytes == 0
            || new.contains(&b'\n')
            || unread.len() / LOOK_EVERY_BYTES != parsed_bytes / LOOK_EVERY_BYTES)
}

/// Whether and how a client that waits for 100 (Continue) is told to go on.
pub(crate) struct GoAhead {
    /// Nobody has told the client yet, and it expects it.
    is_due: Cell<bool>,
}

impl GoAhead {
    pub(crate) fn new(expect_continue: bool) -> GoAhead {
        GoAhead { is_due: Cell::new(expect_continue) }
    }

    /// The server's own word (an interim or the final answer) goes to the client.
    pub(crate) fn is_given(&self) {
        self.is_due.set(false);
    }
}

/// The body of a request, as it comes in.
pub(crate) struct RequestBody<'a> {
    reader: BodyReader<'a>,
    go_ahead: &'a GoAhead,
    shard: &'a Shard,
}

impl<'a> RequestBody<'a> {
    pub(crate) fn new(
        shard: &'a Shard,
        conn: &'a Conn,
        inbox: &'a mut Inbox,
        progress: &'a mut BodyProgress,
        go_ahead: &'a GoAhead,
    ) -> RequestBody<'a> {
        let idle_ms = shard.times.body_idle;
        let reader = BodyReader { conn, inbox, progress, side: Side::Downstream, idle_ms };
        RequestBody { reader, go_ahead, shard }
    }

    /// Waits a while for the body or the server's word, then asks the client for the body ourselves.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    async fn ask_for_body(&mut self) -> Result<(), Aborted> {
        let conn = self.reader.conn;
        conn.set_deadline(self.shard.times.continue_wait);
        let waited = self.reader.wait().await;
        let is_late = waited == Err(Aborted::by(Side::Downstream, Cause::TimedOut));
        let is_due = self.go_ahead.is_due.replace(false);
        match waited {
            Err(_) if is_late => {
                if is_due {
                    let mut out = Buf::small();
                    out.extend_from_slice(CONTINUE);
                    conn.send(out, self.shard.times.write_stall).detach();
                }
                Ok(())
            }
            other => other,
        }
    }
}

impl BodySource for RequestBody<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<Shown, Aborted> {
        self.reader.show_ready(see)
    }

    fn ready_part(&mut self) -> Result<Option<Part>, Aborted> {
        self.reader.ready_part()
    }

    async fn next_part(&mut self) -> Result<Part, Aborted> {
        if let Some(part) = self.reader.ready_part()? {
            return Ok(part);
        }
        if self.go_ahead.is_due.get() {
            self.ask_for_body().await?;
        }
        self.reader.next_part().await
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        // As long as the client waits to be asked, waiting is more than waiting for bytes.
        if self.go_ahead.is_due.get() { None } else { self.reader.plain_rest() }
    }

    fn took(&mut self, bytes: u64) {
        self.reader.took(bytes);
    }
}
