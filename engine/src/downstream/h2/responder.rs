//! Writes responses to a stream of a client's connection.

use std::cell::Cell;
use std::task::{Context, Poll};

use sluice_proto::grpc::Call;
use sluice_proto::h1::{AnswerBody, ConnectionField, HeadStore, Parsed, parse_response, write_answer};
use sluice_proto::h2::{ErrorCode, ResponseFields};
use sluice_proto::{BodyLength, HeadLimits, RequestKind, ResponseHead};
use sluice_sys::{Buf, Conn, OptionalBuf, now_ms};

use crate::answer::{Answer, ResponseFraming};
use crate::downstream::{self, Added};
use crate::h2::{Stream, StreamWriter};
use crate::message::{Aborted, BodySink};
use crate::record::Record;
use crate::shard::Shard;
use crate::snapshot::{Route, Snapshot};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes and sends what a client gets on one stream.
pub(crate) struct Responder<'a> {
    shard: &'a Shard,
    pub(super) snapshot: &'a Snapshot,
    stream: &'a Stream,
    /// The client waits for 100 (Continue) before it sends its body.
    pub(super) expect_continue: &'a Cell<bool>,
    pub(super) is_head_only: bool,
    /// Its route, if it has one.
    pub(super) route: Option<&'a Route>,
    /// The lines that its route adds to the response, where they depend on the request.
    pub(super) lines: OptionalBuf,
    /// How the request is a call of gRPC.
    pub(super) call: Call,
    /// The body behind the head that was written.
    body: Cell<BodyLength>,
    pub(crate) record: Record,
}

impl<'a> Responder<'a> {
    pub(super) fn new(
        shard: &'a Shard,
        snapshot: &'a Snapshot,
        stream: &'a Stream,
        expect_continue: &'a Cell<bool>,
    ) -> Responder<'a> {
        Responder {
            shard,
            snapshot,
            stream,
            expect_continue,
            is_head_only: false,
            route: None,
            lines: None.into(),
            call: Call::None,
            body: Cell::new(BodyLength::None),
            record: Record::new(),
        }
    }

    pub(crate) fn transport(&self) -> &'a Conn {
        self.stream.session.link().transport()
    }

    fn hsts(&self) -> Option<&'a str> {
        downstream::hsts(self.stream.session.link(), self.route)
    }

    /// What the head of a response gains.
    fn fields<'f>(&'f self, date: &'f str, added: Added<'f>) -> ResponseFields<'f> {
        let Added { content_type, set_cookie } = added;
        let edits = downstream::edits(self.route, &self.lines);
        ResponseFields { date: Some(date), hsts: self.hsts(), set_cookie, content_type, edits }
    }

    pub(crate) fn write_interim(&self, head: &ResponseHead<'_>) {
        if head.status == 100 {
            self.expect_continue.set(false);
        }
        self.send_head(head, &ResponseFields::default(), false);
    }

    /// Asks for the body in place of the server.
    pub(super) fn send_continue(&self) {
        self.send_text_head(CONTINUE);
    }

    pub(crate) fn write_head(&self, head: &ResponseHead<'_>, added: Added<'_>) {
        self.expect_continue.set(false);
        self.record.is_answered(head.status);
        self.body.set(head.body);
        self.shard.clock.with_date(now_ms(), |date| {
            let fields = self.fields(date, added);
            self.send_head(head, &fields, head.body.is_empty());
        });
    }

    pub(crate) fn body(&self, out: Buf) -> StreamWriter<'_> {
        let bytes = match self.body.get() {
            BodyLength::None => Some(0),
            BodyLength::Length(bytes) => Some(bytes),
            BodyLength::Streamed => None,
        };
        StreamWriter::new(self.stream, bytes, self.snapshot.response_min_rate())
            .behind(out)
            .counting(self.record.sent_bytes())
    }

    /// The head that opens a tunnel: 200 in place of 101.
    //= https://www.rfc-editor.org/rfc/rfc8441#section-5
    pub(crate) fn write_tunnel_head(&self, head: &ResponseHead<'_>, added: Added<'_>) {
        self.expect_continue.set(false);
        self.record.is_answered(200);
        self.shard.clock.with_date(now_ms(), |date| {
            let fields = self.fields(date, added);
            let mut head = *head;
            // Written as 200, without what belongs to the handshake of HTTP/1.1 or to a body.
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            (head.status, head.body) = (101, BodyLength::Streamed);
            self.send_head(&head, &fields, false);
        });
    }

    pub(crate) async fn answer(&self, answer: Answer<'_>) -> Result<(), Aborted> {
        let Some(body) = self.send_answer(answer) else { return self.stream.failed().map_or(Ok(()), Err) };
        let bytes = Some(body.len() as u64);
        // Windows may be closed, and others may have their turn first.
        StreamWriter::new(self.stream, bytes, self.snapshot.response_min_rate()).behind(body).finish().await
    }

    /// Sends the head of a response of ours; the body that is to follow it.
    fn send_answer(&self, answer: Answer<'_>) -> Option<Buf> {
        let framing = ResponseFraming {
            connection: ConnectionField::Omit,
            is_head_only: self.is_head_only,
            call: self.call,
            hsts: self.hsts(),
            page: downstream::page(self.snapshot, self.route, &answer),
            edits: downstream::edits(self.route, &self.lines),
        };
        let mut text = downstream::room_for(&framing, &answer);
        self.shard.clock.with_date(now_ms(), |date| match answer {
            Answer::AcmeChallenge { number } => self.shard.tls.with_challenge(number, |body| {
                write_answer(
                    &mut text,
                    200,
                    &[],
                    date,
                    AnswerBody::text(body),
                    framing.connection,
                    framing.is_head_only,
                );
            }),
            answer => answer.write(&mut text, date, &framing),
        });
        self.record.is_answered_here(answer.status(), text.len());
        let head_bytes = self.send_text_head(&text);
        text.drain(..head_bytes);
        (!text.is_empty()).then_some(text)
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.stream.unsent_bytes().is_some()
    }

    pub(crate) fn may_begin(&self) -> bool {
        !self.record.has_begun()
    }

    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<Aborted> {
        match self.stream.failed() {
            Some(aborted) => Poll::Ready(aborted),
            None => {
                self.stream.wait(context);
                Poll::Pending
            }
        }
    }

    fn send_head(&self, head: &ResponseHead<'_>, fields: &ResponseFields<'_>, is_end: bool) {
        let bytes = self.stream.write(|machine, key, out| {
            machine.send_response(key, head, fields, is_end, out);
        });
        if !head.is_interim() {
            let sent_bytes = self.record.sent_bytes();
            sent_bytes.set(sent_bytes.get() + bytes.max(1) as u64);
        }
    }

    /// Sends the head of a response of ours, which was written as HTTP/1.1 has it; says how long it is there.
    fn send_text_head(&self, text: &[u8]) -> usize {
        let (mut scratch, mut own) = (self.shard.scratch.try_borrow_mut(), HeadStore::default());
        let store = scratch.as_mut().map_or(&mut own, |scratch| &mut scratch.head);
        let kind = if self.is_head_only { RequestKind::Head } else { RequestKind::Other };
        let Ok(Parsed::Complete { head, bytes }) = parse_response(text, store, &HeadLimits::HARD_MAX, &kind)
        else {
            // What it repeats of the request is within the limits of a head, or else there is none.
            self.stream.code.set(ErrorCode::INTERNAL_ERROR);
            return text.len();
        };
        let is_end = text.len() == bytes && !head.is_interim();
        self.stream.write(|machine, key, out| {
            machine.send_response(key, &head, &ResponseFields::default(), is_end, out);
        });
        bytes
    }
}
