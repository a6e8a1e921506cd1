//! Reads the head of a client's HTTP/1.1 request.

use sluice_proto::RequestHead;
use sluice_proto::h1::{Parsed, TlsIdentity, parse_request};
use sluice_sys::partial_bytes;

use crate::abuse::{Abuse, Verdict};
use crate::connection::history::History;
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;

use crate::connection::tls::{PeerDetails, Tls, waiting_bytes};
use crate::downstream::h2::PREFACE_BEGINNING;
use crate::identity::{Client, ClientTexts};
use crate::message::{Aborted, Cause, Side};
use crate::shard::Shard;
use crate::snapshot::Snapshot;

/// A head in more pieces than this is dripped: any network delivers it in one or two.
const HEAD_PIECES_MAX: u32 = 32;

/// After that, so many pieces more are an abuse.
const PIECES_PER_ABUSE: u32 = 16;

/// The result of reading a request head.
pub(super) enum Read {
    /// All of it is there, and was shown.
    Request,
    /// The rest has not arrived: the connection can be parked, with what there is.
    Incomplete,
    /// The client speaks HTTP/2: nothing was read.
    Http2,
    /// The client has left without asking for anything.
    Nothing,
}

/// Reads a request head of one connection.
pub(super) struct HeadReader<'a> {
    pub(super) shard: &'a Shard,
    pub(super) snapshot: &'a Snapshot,
    pub(super) link: &'a Link,
    pub(super) inbox: &'a mut Inbox,
    pub(super) history: &'a History,
    /// How often the connection was parked with a part of the head.
    pub(super) pieces: &'a mut u32,
}

impl HeadReader<'_> {
    /// Reads a request head and shows it to `visit`; the head's bytes are gone afterwards.
    pub(super) async fn read(
        mut self,
        visit: impl FnOnce(&RequestHead<'_>, &Client<'_>),
    ) -> Result<Read, Aborted> {
        if self.history.requests == 0 && self.link.tls().is_some_and(Tls::is_http2) {
            return Ok(Read::Http2);
        }
        // Kept bytes were parsed before.
        let mut parsed_bytes = if *self.pieces > 0 { self.inbox.unread().len() } else { 0 };
        loop {
            let unread = self.inbox.unread();
            if unread.starts_with(PREFACE_BEGINNING) && self.may_be_http2() {
                return Ok(Read::Http2);
            }
            if is_worth_parsing(unread, parsed_bytes) {
                let scratch = &mut *self.shard.scratch.borrow_mut();
                scratch.head.set_scheme(self.link.scheme());
                match parse_request(unread, &mut scratch.head, &self.snapshot.limits.head) {
                    Ok(Parsed::Complete { head, bytes }) => {
                        if unread.starts_with(b"\r") {
                            // Reaching the limit makes this the connection's last request.
                            let _ = self.note_abuse(Abuse::EmptyLines);
                        }
                        let peer = self.link.tls().and_then(Tls::peer);
                        let shown = peer.as_deref().map(PeerDetails::identity);
                        let client = self.client(&head, shown.as_ref(), &mut scratch.client)?;
                        visit(&head, &client);
                        self.inbox.consume(bytes);
                        *self.pieces = 0;
                        return Ok(Read::Request);
                    }
                    Ok(Parsed::Partial) => {}
                    Err(fault) => return Err(abort(Cause::Fault(fault))),
                }
            }
            parsed_bytes = unread.len();
            if self.inbox.take_ready(self.link) {
                continue;
            }
            let conn = self.link.transport();
            // The first request of a connection has had its deadline since the connection was accepted.
            if *self.pieces == 0 && self.history.requests > 0 {
                conn.set_deadline(self.snapshot.times.request_head);
            }
            if conn.is_quiet() && !conn.is_late() && !self.link.has_ended() {
                return self.note_piece().map(|()| Read::Incomplete);
            }
            match cold!(self.inbox.receive(self.link)) {
                Ok(true) => {}
                Ok(false) if self.inbox.is_empty() => return Ok(Read::Nothing),
                Ok(false) => return Err(abort(Cause::Closed)),
                Err(error) => return Err(Aborted::io(Side::Downstream, &error)),
            }
        }
    }

    /// Whether a connection may begin with the preface of HTTP/2: its first bytes alone, where the listener has that.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-3.3
    #[cold]
    fn may_be_http2(&self) -> bool {
        let is_first = self.history.requests == 0 && self.link.tls().is_none();
        is_first && self.snapshot.http2.is_on(self.link.transport().listener())
    }

    /// The client of the request.
    fn client<'t>(
        &'t self,
        head: &RequestHead<'_>,
        shown: Option<&'t TlsIdentity<'t>>,
        texts: &'t mut ClientTexts,
    ) -> Result<Client<'t>, Aborted> {
        let peer = self.link.transport().peer().map_err(|error| Aborted::io(Side::Downstream, &error))?;
        let number = self.shard.request_ids.next();
        Ok(self.snapshot.identity.client(peer, (self.link, shown), head, number, texts))
    }

    /// Another piece of a head has come, and not the last.
    #[cold]
    fn note_piece(&mut self) -> Result<(), Aborted> {
        *self.pieces += 1;
        let is_dripping = *self.pieces > HEAD_PIECES_MAX && self.pieces.is_multiple_of(PIECES_PER_ABUSE);
        if is_dripping && self.note_abuse(Abuse::DrippedHead) == Verdict::End {
            return Err(abort(Cause::Abusive));
        }
        if partial_bytes() + waiting_bytes() + self.inbox.unread().len()
            > self.snapshot.limits.partial_heads_bytes
        {
            return Err(abort(Cause::Crowded));
        }
        Ok(())
    }

    fn note_abuse(&self, abuse: Abuse) -> Verdict {
        note_abuse(self.shard, self.snapshot, self.history, abuse)
    }
}

fn abort(cause: Cause) -> Aborted {
    Aborted::by(Side::Downstream, cause)
}

/// Counts an abuse by the client.
pub(super) fn note_abuse(shard: &Shard, snapshot: &Snapshot, history: &History, abuse: Abuse) -> Verdict {
    history.score.add(abuse, snapshot.limits.abuse_score, &shard.counters)
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
