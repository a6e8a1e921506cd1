//! Writes responses to a client's HTTP/1.1 connection.

use std::io;
use std::task::{Poll, ready};

use sluice_proto::grpc::Call;
use sluice_proto::h1::{
    AnswerBody, ConnectionField, Framing, ResponseForwarding, write_answer, write_response,
};
use sluice_proto::{ResponseHead, Version};
use sluice_sys::{Buf, Conn, OptionalBuf, Timer, now_ms};

use super::body::ExpectContinue;
use super::persistence::Persistence;
use crate::answer::{Answer, ResponseFraming};
use crate::config::OnClientClose;
use crate::connection::link::Link;
use crate::downstream::{self, Added, Afterwards};
use crate::h1::{BodyWriter, Last};
use crate::message::{Aborted, Side};
use crate::record::Record;
use crate::shard::Shard;
use crate::snapshot::{Route, Snapshot};

/// Writes and sends what a client gets.
pub(crate) struct Responder<'a> {
    pub(super) shard: &'a Shard,
    pub(super) snapshot: &'a Snapshot,
    pub(super) link: &'a Link,
    pub(super) expect_continue: ExpectContinue,
    pub(super) persistence: Persistence,
    /// Its route, if it has one.
    pub(super) route: Option<&'a Route>,
    /// The lines that its route adds to the response, where they depend on the request.
    pub(super) lines: OptionalBuf,
    /// How the request is a call of gRPC.
    pub(super) call: Call,
    pub(crate) record: Record,
}

impl<'a> Responder<'a> {
    pub(crate) fn transport(&self) -> &'a Conn {
        self.link.transport()
    }

    /// Passed on in the order received, unless the client speaks HTTP/1.0, which knows no 1xx.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    pub(crate) fn write_interim(&self, head: &ResponseHead<'_>, out: &mut Buf) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
        // Other interim responses leave a client that waits for 100 where it was.
        if head.status == 100 {
            self.expect_continue.is_answered();
        }
        if self.persistence.version() == Version::Http11 {
            self.write(head, (Framing::None, Added::default()), ConnectionField::Omit, None, out);
        }
    }

    pub(crate) async fn send_interim(&self, interim: Buf) -> Result<(), Aborted> {
        if interim.is_empty() {
            return Ok(());
        }
        let sent = self.link.send(interim, self.snapshot.times.write_stall).await;
        sent.result.map_err(|error| Aborted::sending(Side::Downstream, &error))
    }

    pub(crate) fn write_head(
        &self,
        head: &ResponseHead<'_>,
        added: Added<'_>,
        afterwards: Afterwards,
        out: &mut Buf,
    ) {
        self.expect_continue.is_answered();
        self.record.is_answered(head.status);
        let has_unread = || self.link.transport().has_unread();
        let (framing, connection) = self.persistence.begin(head, afterwards, has_unread, self.shard);
        self.shard.clock.with_date(now_ms(), |date| {
            self.write(head, (framing, added), connection, Some(date), out);
        });
    }

    pub(crate) fn takes_trailers(&self) -> bool {
        self.persistence.framing() == Framing::Chunked
    }

    pub(crate) fn body(&self, out: Buf) -> BodyWriter<'_> {
        let is_chunked = self.persistence.framing() == Framing::Chunked;
        // A connection that is closed next has to wait for the last byte.
        let last = if self.persistence.is_persistent() { Last::Detach } else { Last::Await };
        BodyWriter::new(self.link, Some(out), is_chunked, Side::Downstream, self.snapshot.times.write_stall)
            .with_last(last)
            .with_min_rate(self.snapshot.response_min_rate())
            .counting(self.record.sent_bytes())
            .with_kernel_tls(self.shard)
    }

    pub(crate) fn write_tunnel_head(&self, head: &ResponseHead<'_>, added: Added<'_>, out: &mut Buf) {
        self.expect_continue.is_answered();
        self.record.is_answered(head.status);
        self.shard.clock.with_date(now_ms(), |date| {
            // "A server MUST NOT send any Transfer-Encoding or Content-Length header fields in a 2xx (Successful) response to
            // CONNECT": so neither is passed on. A 101 has none.
            self.write(head, (Framing::UntilClose, added), ConnectionField::Omit, Some(date), out);
        });
    }

    pub(crate) fn open_tunnel(&self, head: Buf) {
        self.record.sent_bytes().set(head.len() as u64);
        self.link.send(head, self.snapshot.times.write_stall).detach();
    }

    pub(crate) async fn answer(&self, answer: Answer<'_>, afterwards: Afterwards) -> Result<(), Aborted> {
        let has_unread = || self.link.transport().has_unread();
        let framing = ResponseFraming {
            connection: self.persistence.answer(afterwards, has_unread),
            is_head_only: self.persistence.is_head_only(),
            call: self.call,
            hsts: self.hsts(),
            page: downstream::page(self.snapshot, self.route, &answer),
            edits: downstream::edits(self.route, &self.lines),
        };
        let mut out = downstream::room_for(&framing, &answer);
        self.shard.clock.with_date(now_ms(), |date| match answer {
            Answer::AcmeChallenge { number } => self.shard.tls.with_challenge(number, |text| {
                write_answer(
                    &mut out,
                    200,
                    &[],
                    date,
                    AnswerBody::text(text),
                    framing.connection,
                    framing.is_head_only,
                );
            }),
            answer => answer.write(&mut out, date, &framing),
        });
        self.record.is_answered_here(answer.status(), out.len());
        let sent = self.link.send(out, self.snapshot.times.write_stall).await;
        sent.result.map_err(|error| Aborted::io(Side::Downstream, &error))
    }

    fn hsts(&self) -> Option<&'a str> {
        downstream::hsts(self.link, self.route)
    }

    pub(crate) fn may_begin(&self) -> bool {
        // A response on its way, interim or our own, must not be followed by another.
        !self.record.has_begun() && !self.link.transport().is_sending()
    }

    pub(crate) fn poll_gone(&self, look: &mut Option<Timer>, on_close: OnClientClose) -> Poll<Aborted> {
        if on_close == OnClientClose::Cancel && !self.record.has_begun() {
            return self.poll_left(look);
        }
        self.link.transport().poll_failed(look).map(|error| Aborted::io(Side::Downstream, &error))
    }

    /// The same, where a client that ends its side is gone too.
    #[cold]
    fn poll_left(&self, look: &mut Option<Timer>) -> Poll<Aborted> {
        let conn = self.link.transport();
        let error = match self.link.tls() {
            // TLS has an end of its own, which may come long before that of the connection.
            Some(tls) if !conn.is_quiet() && tls.has_end_arrived() => io::ErrorKind::UnexpectedEof.into(),
            _ => ready!(conn.poll_left(look)),
        };
        if error.kind() == io::ErrorKind::UnexpectedEof {
            self.shard.counters.requests_cancelled.increment();
        }
        Poll::Ready(Aborted::io(Side::Downstream, &error))
    }

    fn write(
        &self,
        head: &ResponseHead<'_>,
        (body, added): (Framing, Added<'_>),
        connection: ConnectionField,
        date: Option<&str>,
        out: &mut Buf,
    ) {
        let version_to = self.persistence.version();
        // Not in interim responses, which have no date either.
        let hsts = if date.is_some() { self.hsts() } else { None };
        let edits = if date.is_some() { downstream::edits(self.route, &self.lines) } else { None };
        let Added { content_type, set_cookie } = added;
        let fwd =
            ResponseForwarding { version_to, body, connection, date, hsts, set_cookie, content_type, edits };
        write_response(out, head, &fwd);
    }
}
