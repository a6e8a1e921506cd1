//! A client's HTTP/1.1 connection: one request after the other, answered in order.
//!
//! [`serve`] owns the connection from the bytes that woke it until it is idle again or closed. `exchange` does what lies
//! between a request and its answer.

use std::cell::Cell;

use sluice_proto::RequestHead;
use sluice_proto::h1::{Parsed, parse_request};
use sluice_sys::{Buf, Conn, PartialMessage, ReadAhead, next_partial_connection, now_ms, partial_bytes};

use crate::abuse::{Abuse, Score, Verdict};
use crate::answer::{Answer, ResponseFraming};
use crate::downstream::history::History;
use crate::downstream::proxy_protocol;
use crate::exchange::{self, Next};
use crate::h1::{BodyProgress, BodyReader};
use crate::identity::Client;
use crate::inbox::Inbox;
use crate::message::{Aborted, BodySource, Cause, Part, PlainRest, ReadyPart, Side};
use crate::shard::Shard;
use crate::tunnel::{End, Tunnel};
use crate::upstream::group::ServerId;

/// After the last answer on a connection, how long to take in what the client still sends, so that it gets to read the
/// answer instead of a reset.
//= https://www.rfc-editor.org/rfc/rfc9112#section-9.6
const LINGER_MS: u64 = 2_000;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A head in more pieces than this is dripped: any network delivers it in one or two.
const HEAD_PIECES_MAX: u32 = 32;

/// After that, so many pieces more are an abuse.
const PIECES_PER_MISDEED: u32 = 16;

/// The client's end of an exchange.
pub(crate) struct Down<'s> {
    pub(crate) shard: &'s Shard,
    pub(crate) conn: Conn,
    pub(crate) inbox: Inbox,
    pub(crate) history: History,
    /// How often the connection was parked with a part of the head that is read now.
    pieces: u32,
}

/// What came of reading a request head.
pub(crate) enum Read<R> {
    Request(R),
    /// The rest has not arrived: the connection can be parked, with what there is.
    Incomplete,
    /// The client has left without asking for anything.
    Nothing,
}

/// Waits for a client that has said something.
pub(crate) async fn next_client(shard: &Shard) -> Down<'_> {
    let (conn, kept) = next_partial_connection().await;
    Down::new(shard, conn, kept)
}

/// Serves a connection that has bytes to read until it is idle, gone, or the end of a tunnel.
pub(crate) async fn serve(mut down: Down<'_>) -> Option<(Tunnel, ServerId)> {
    let shard = down.shard;
    if proxy_protocol::is_due(shard, &down.conn) {
        if !cold!(proxy_protocol::read_header(&mut down)) {
            return None;
        }
        if down.inbox.is_empty() {
            down.history.store(&down.conn);
            match down.conn.park(shard.times.header) {
                Ok(()) => return None,
                Err(conn) => down = Down { conn, ..down },
            }
        }
    }
    loop {
        // A client that does not read its answers is not served: the next request waits until the last answer is with the
        // kernel. Usually it has been for long.
        down.conn.flushed().await;
        match exchange::run(shard, &mut down).await {
            // Also in a drain: the answer had begun before it, so the client may have sent its next request in good faith.
            Next::Request => down.note_request(),
            Next::Close => {
                cold!(down.close());
                return None;
            }
            Next::Wait => {
                // Without it the connection is parked.
                down = down.park_partial()?;
                continue;
            }
            Next::Linger => {
                cold!(down.linger());
                return None;
            }
            Next::Drop => return None,
            Next::Abort => {
                down.conn.abort();
                return None;
            }
            Next::Tunnel(upstream) => {
                let client = End { conn: down.conn, inbox: down.inbox };
                let tunnel = Tunnel::between(client, upstream.server, shard.times.write_stall);
                return Some((tunnel, upstream.id));
            }
        }
        // An upload may have changed it.
        down.conn.set_read_ahead(ReadAhead::Buffers);
        if down.inbox.is_empty() {
            down.history.store(&down.conn);
            let idle_ms = shard.times.keep_alive_idle.min(down.history.end_ms.saturating_sub(now_ms()));
            match down.conn.park(idle_ms) {
                Ok(()) => return None,
                Err(conn) => down = Down { conn, ..down },
            }
        }
    }
}

impl<'s> Down<'s> {
    /// A connection that was parked, or is new. `kept` is what it has said of a head already.
    fn new(shard: &'s Shard, conn: Conn, kept: Option<PartialMessage>) -> Down<'s> {
        let history = History::load(&conn, shard.connection_age, now_ms());
        let (inbox, pieces) = match kept {
            None => (Inbox::default(), 0),
            Some(kept) => {
                let pieces = kept.pieces;
                (Inbox::resume(kept), pieces)
            }
        };
        Down { shard, conn, inbox, history, pieces }
    }

    /// Reads a request head and shows it to `visit`; the head's bytes are gone afterwards.
    pub(crate) async fn read_request<R>(
        &mut self,
        visit: impl FnOnce(&RequestHead<'_>, &Client<'_>) -> R,
    ) -> Result<Read<R>, Aborted> {
        let limits = &self.shard.head_limits;
        let abort = |cause| Aborted::by(Side::Downstream, cause);
        // What was kept was looked at before.
        let mut parsed_bytes = if self.pieces > 0 { self.inbox.unread().len() } else { 0 };
        loop {
            let unread = self.inbox.unread();
            if is_worth_parsing(unread, parsed_bytes) {
                let scratch = &mut *self.shard.scratch.borrow_mut();
                match parse_request(unread, &mut scratch.head, limits) {
                    Ok(Parsed::Complete { head, bytes }) => {
                        if unread.starts_with(b"\r") {
                            // Reaching the limit makes this the connection's last request.
                            let _ = self.note_abuse(Abuse::EmptyLines);
                        }
                        let peer = self.conn.peer().map_err(|error| Aborted::io(Side::Downstream, &error))?;
                        let client = self.shard.identity.client(peer, &head, &mut scratch.sender);
                        let result = visit(&head, &client);
                        self.inbox.consume(bytes);
                        self.pieces = 0;
                        return Ok(Read::Request(result));
                    }
                    Ok(Parsed::Partial) => {}
                    Err(fault) => return Err(abort(Cause::Fault(fault))),
                }
            }
            parsed_bytes = unread.len();
            if self.inbox.take_ready(&self.conn) {
                continue;
            }
            // The first request of a connection has had its deadline since the connection was accepted.
            if self.pieces == 0 && self.history.requests > 0 {
                self.conn.set_deadline(self.shard.times.header);
            }
            if self.conn.is_quiet() && !self.conn.is_late() {
                return self.note_piece().map(|()| Read::Incomplete);
            }
            match cold!(self.inbox.receive(&self.conn)) {
                Ok(true) => {}
                Ok(false) if self.inbox.is_empty() => return Ok(Read::Nothing),
                Ok(false) => return Err(abort(Cause::Closed)),
                Err(error) => return Err(Aborted::io(Side::Downstream, &error)),
            }
        }
    }

    /// Another piece of a head has come, and not the last.
    #[cold]
    fn note_piece(&mut self) -> Result<(), Aborted> {
        self.pieces += 1;
        let is_dripping = self.pieces > HEAD_PIECES_MAX && self.pieces.is_multiple_of(PIECES_PER_MISDEED);
        if is_dripping && self.note_abuse(Abuse::DrippedHead) == Verdict::End {
            return Err(Aborted::by(Side::Downstream, Cause::Abusive));
        }
        if partial_bytes() + self.inbox.unread().len() > self.shard.begun_heads_bytes_max {
            return Err(Aborted::by(Side::Downstream, Cause::Crowded));
        }
        Ok(())
    }

    /// Counts an abuse by the client.
    pub(crate) fn note_abuse(&self, abuse: Abuse) -> Verdict {
        self.history.score.add(abuse, self.shard.misbehaviour_max, &self.shard.counters)
    }

    /// Parks the connection in the middle of a head: what there is of it waits without a task and without a receive
    /// buffer. Hands it back when there is more to read after all.
    #[cold]
    fn park_partial(self) -> Option<Self> {
        self.history.store(&self.conn);
        match self.conn.park_with(self.inbox.unread(), self.pieces) {
            Ok(()) => None,
            Err(conn) => Some(Down { conn, ..self }),
        }
    }

    /// Whether a client asks for the first time on a connection that was one too many for its address and still is.
    pub(crate) fn is_one_too_many(&self) -> bool {
        self.history.is_one_too_many && self.history.requests == 0 && self.is_address_crowded()
    }

    /// Whether the client's address has more connections than it may have.
    pub(crate) fn is_address_crowded(&self) -> bool {
        let limit = self.shard.connections_per_address;
        limit != u32::MAX && self.conn.connections_of_peer() > limit
    }

    /// Sends an answer of ours.
    pub(crate) async fn answer(&self, answer: Answer<'_>, framing: &ResponseFraming) -> Result<(), Aborted> {
        let mut out = Buf::small();
        self.shard.clock.with_date(now_ms(), |date| answer.write(&mut out, date, framing));
        if answer.status() >= 400 {
            self.shard.counters.own_answers.increment();
        }
        let sent = self.conn.send(out, self.shard.times.write_stall).await;
        sent.result.map_err(|error| Aborted::io(Side::Downstream, &error))
    }

    /// Whether the connection is to be closed after the request that is served now, and counts why. To be asked once for
    /// each request.
    pub(crate) fn is_last_request(&self) -> bool {
        if self.shard.is_draining() {
            return true;
        }
        let max = self.shard.misbehaviour_max;
        if max > 0 && self.history.score.points() >= max {
            return true;
        }
        let is_used_up = self.history.requests + 1 >= self.shard.requests_per_connection;
        let is_old = now_ms() >= self.history.end_ms;
        if is_used_up {
            self.shard.counters.connections_used_up.increment();
        } else if is_old {
            self.shard.counters.connections_aged.increment();
        }
        is_used_up || is_old
    }

    /// Whether the client has said more than was read.
    #[inline(never)]
    pub(crate) fn has_unread(&self) -> bool {
        // After a large body no receive is armed, and only the socket knows what else has come.
        !self.inbox.is_empty() || self.conn.has_unread()
    }

    /// Counts the request that was just answered.
    fn note_request(&mut self) {
        self.history.requests += 1;
        self.history.score.forgive();
    }

    /// Closes after everything was sent; lingers if the client has said more than was read.
    async fn close(mut self) {
        let has_said_more = self.drop_inbox();
        self.conn.flushed().await;
        if has_said_more || self.has_unread() {
            self.linger().await;
        }
    }

    /// What the client has said behind its last request keeps no buffer from others while the connection ends; says whether
    /// there was anything.
    fn drop_inbox(&mut self) -> bool {
        !std::mem::take(&mut self.inbox).is_empty()
    }

    /// Closes a connection whose client may still be sending.
    async fn linger(mut self) {
        self.drop_inbox();
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
pub(crate) struct ExpectContinue {
    /// Nobody has told the client yet, and it expects it.
    is_due: Cell<bool>,
}

impl ExpectContinue {
    pub(crate) fn new(expect_continue: bool) -> ExpectContinue {
        ExpectContinue { is_due: Cell::new(expect_continue) }
    }

    /// The server's own word (100 or the final answer) goes to the client.
    pub(crate) fn is_given(&self) {
        self.is_due.set(false);
    }
}

/// The body of a request, as it comes in.
pub(crate) struct RequestBody<'a> {
    reader: BodyReader<'a>,
    expect_continue: &'a ExpectContinue,
    shard: &'a Shard,
    score: &'a Score,
}

impl<'a> RequestBody<'a> {
    pub(crate) fn new(
        down: &'a mut Down<'_>,
        progress: &'a mut BodyProgress,
        expect_continue: &'a ExpectContinue,
    ) -> (RequestBody<'a>, &'a Conn) {
        let Down { shard, conn, inbox, history, .. } = down;
        let reader = BodyReader { conn, inbox, progress, side: Side::Downstream };
        (RequestBody { reader, expect_continue, shard, score: &history.score }, conn)
    }

    /// Counts a flood of tiny chunks, if one has come.
    fn judge(&mut self) -> Result<(), Aborted> {
        if !self.reader.progress.takes_flood() {
            return Ok(());
        }
        match self.score.add(Abuse::TinyChunks, self.shard.misbehaviour_max, &self.shard.counters) {
            Verdict::GoOn => Ok(()),
            Verdict::End => Err(Aborted::by(Side::Downstream, Cause::Abusive)),
        }
    }

    /// Waits a while for the body or the server's word, then asks the client for the body ourselves.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    async fn ask_for_body(&mut self) -> Result<(), Aborted> {
        let conn = self.reader.conn;
        conn.set_deadline(self.shard.times.continue_wait);
        let waited = self.reader.wait().await;
        let is_late = waited == Err(Aborted::by(Side::Downstream, Cause::TimedOut));
        let is_due = self.expect_continue.is_due.replace(false);
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
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        self.judge()?;
        self.reader.show_ready(see)
    }

    fn ready_part(&mut self) -> Result<Option<Part>, Aborted> {
        self.judge()?;
        self.reader.ready_part()
    }

    async fn next_part(&mut self) -> Result<Part, Aborted> {
        self.judge()?;
        if let Some(part) = self.reader.ready_part()? {
            return Ok(part);
        }
        if self.expect_continue.is_due.get() {
            self.ask_for_body().await?;
        }
        self.reader.next_part().await
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        // As long as the client waits to be asked, waiting is more than waiting for bytes.
        if self.expect_continue.is_due.get() { None } else { self.reader.plain_rest() }
    }

    fn skip(&mut self, bytes: u64) {
        self.reader.skip(bytes);
    }
}
