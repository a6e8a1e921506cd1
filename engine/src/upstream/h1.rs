//! A server's HTTP/1.1 connection: one request and its response at a time.

use std::ops::ControlFlow;
use std::rc::Rc;

use sluice_proto::h1::{Framing, HeadStore, Lenient, Parsed, Reuse, parse_response, repair_response};
use sluice_proto::{Fault, HeadLimits, RequestKind, ResponseHead, TrailerRule};
use sluice_sys::{Buf, ReadAhead, Sending};

use super::stream::{Rest, Unanswered, Used};
use crate::config::host_field;
use crate::connection::End;
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::h1::{BodyProgress, BodyReader, BodyWriter};
use crate::message::{Aborted, Cause, Side};
use crate::min_rate::MinRate;
use crate::relay::{Appended, append_if_complete};
use crate::shard::Shard;
use crate::upstream::group::GroupRules;
use crate::upstream::server::{KeepResult, Server, ServerInUse};

/// A connection to a server, in use by one exchange.
pub(crate) struct ServerConnection {
    server: ServerInUse,
    /// Gone once the connection is another's.
    link: Option<Link>,
    inbox: Inbox,
    /// It has served a request before.
    is_reused: bool,
    /// Whether it may serve another one.
    reuse: Reuse,
    /// The sending of the request's head, or of all of it.
    sending: Option<Sending>,
    /// The request, where the end of its sending does not bring it back.
    request: Option<Buf>,
    /// What went out of it.
    request_bytes: u32,
    /// The framing in the response's head.
    response: ResponseFraming,
}

/// How a response is framed.
#[derive(Clone, Copy)]
struct ResponseFraming {
    body: Framing,
    trailers: TrailerRule,
    /// The connection may be used again when the body has ended.
    is_persistent: bool,
    /// A head was repaired in a way that leaves open what may follow.
    is_ambiguous: bool,
    /// Sizes of chunks may be padded.
    has_padding: bool,
}

impl ResponseFraming {
    const NONE: ResponseFraming = ResponseFraming {
        body: Framing::None,
        trailers: TrailerRule::Drop,
        is_persistent: false,
        is_ambiguous: false,
        has_padding: false,
    };
}

impl ServerConnection {
    pub(crate) fn new(server: Rc<Server>, link: Link, is_reused: bool, reuse: Reuse) -> Self {
        server.begin_use();
        ServerConnection {
            server: ServerInUse::new(server),
            link: Some(link),
            inbox: Inbox::default(),
            is_reused,
            reuse,
            sending: None,
            request: None,
            request_bytes: 0,
            response: ResponseFraming::NONE,
        }
    }

    pub(super) fn server(&self) -> &Rc<Server> {
        &self.server
    }

    pub(super) fn authority(&self) -> &str {
        host_field(&self.server.key.authority)
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("an exchange under way has its connection")
    }

    pub(super) fn send(&mut self, request: Buf, stall_ms: u64, rest: Rest) {
        let (sending, bytes, request) = self.link().send_for_now(request, stall_ms);
        self.request_bytes = bytes as u32;
        self.request = request.filter(|_| rest == Rest::Nothing);
        // What is not sent again is freed when the kernel has it, unless the beginning of the send is still to be asked for.
        if rest == Rest::Nothing || self.is_reused {
            self.sending = Some(sending);
        } else {
            sending.detach();
        }
    }

    pub(super) fn expect_tunnel(&self) {
        // Its bytes behind the response may be a flood.
        self.link().transport().set_read_ahead(ReadAhead::OneBuffer);
    }

    pub(super) fn split(&mut self) -> (RequestStream<'_>, ResponseStream<'_>) {
        let link = self.link.as_ref().expect("an exchange under way has its connection");
        // What arrives before this request has begun to go out is no response to it. On a connection that has served others
        // it may be meant for one of them.
        let request = self.sending.as_ref().filter(|_| self.is_reused);
        let response = ResponseStream { link, inbox: &mut self.inbox, request, framing: &mut self.response };
        (RequestStream { link }, response)
    }

    /// Its end acknowledges all that had come before it. A reset acknowledges nothing, and so proves nothing.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
    pub(super) fn is_unprocessed(&self, aborted: Aborted) -> bool {
        let unacknowledged = || self.link().transport().unacknowledged_bytes();
        aborted.cause == Cause::Closed
            && unacknowledged().is_ok_and(|bytes| bytes == u64::from(self.request_bytes))
    }

    pub(super) fn is_stale(&self, unanswered: &Unanswered) -> bool {
        self.is_reused && unanswered.is_silent && unanswered.aborted.cause != Cause::TimedOut
    }

    pub(super) async fn take_back(mut self) -> Option<Buf> {
        let (sending, request) = (self.sending.take(), self.request.take());
        // The end of the connection ends its sends.
        drop(self);
        let sent = sending?.await.buf;
        request.or(sent)
    }

    /// A small response that is here as a whole is read to its end, so that the connection serves others; else it is closed.
    pub(super) async fn put_back(mut self, shard: &Shard, rules: &GroupRules) -> Option<Buf> {
        let mut discarded = Buf::small();
        let is_read = {
            let (_, mut response) = self.split();
            let mut body = response.body(MinRate::by_pauses(1));
            let length = body.length();
            matches!(append_if_complete(&mut body, length, false, &mut discarded), Ok(Appended::All(_)))
        };
        match self.sending.take()?.try_finish() {
            Ok(sent) => {
                let request = self.request.take().or(sent.buf);
                if is_read && sent.result.is_ok() && self.is_reusable() && self.inbox.is_empty() {
                    self.give_back(shard, rules);
                }
                request
            }
            Err(sending) => {
                self.sending = Some(sending);
                self.take_back().await
            }
        }
    }

    pub(super) fn finish(mut self, used: Used, is_response_large: bool, shard: &Shard, rules: &GroupRules) {
        self.server.note_answer(is_response_large);
        // A response can come before the request was sent to its end; then the connection is of no further use.
        let is_sent = match self.sending.take().map(Sending::try_finish) {
            Some(Ok(sent)) => sent.result.is_ok(),
            Some(Err(_)) => false,
            None => true,
        };
        // Nor if bytes follow the response.
        if used == Used::Whole && is_sent && self.is_reusable() && self.inbox.is_empty() {
            self.give_back(shard, rules);
        }
    }

    /// Whether the connection may serve others behind this response.
    fn is_reusable(&self) -> bool {
        let ResponseFraming { is_persistent, is_ambiguous, .. } = self.response;
        self.reuse == Reuse::Allowed && is_persistent && !is_ambiguous
    }

    fn give_back(&mut self, shard: &Shard, rules: &GroupRules) {
        let Some(link) = self.link.take() else { return };
        match self.server.keep(link, rules) {
            KeepResult::Idle => shard.upkeep.wake(),
            KeepResult::Ended => {}
            KeepResult::NoRoom => shard.counters.upstream_not_kept.increment(),
            KeepResult::Ceded => shard.counters.upstream_ceded.increment(),
            KeepResult::UsedUp(why) => shard.counters.note_used_up(why),
        }
    }

    pub(super) fn into_end(mut self) -> (End, ServerInUse) {
        let link = self.link.take().expect("an exchange under way has its connection");
        self.server.closed();
        let inbox = std::mem::take(&mut self.inbox);
        (End { link, inbox }, ServerInUse::new(self.server.clone()))
    }
}

impl Drop for ServerConnection {
    fn drop(&mut self) {
        self.server.end_use();
        if self.link.is_some() {
            self.server.closed();
        }
    }
}

/// The sending half of a server's connection.
#[derive(Clone, Copy)]
pub(crate) struct RequestStream<'a> {
    link: &'a Link,
}

impl<'a> RequestStream<'a> {
    pub(super) fn expect_response_within(self, ms: u64) {
        self.link.transport().set_deadline(ms);
    }

    pub(super) fn expect_no_response_yet(self) {
        self.link.transport().clear_deadline();
    }

    pub(super) fn body(self, is_chunked: bool, stall_ms: u64) -> BodyWriter<'a> {
        BodyWriter::new(self.link, None, is_chunked, Side::Upstream, stall_ms)
    }
}

/// The receiving half of a server's connection.
pub(crate) struct ResponseStream<'a> {
    link: &'a Link,
    inbox: &'a mut Inbox,
    /// The sending of the request, as long as nothing has been received that is younger than it.
    request: Option<&'a Sending>,
    framing: &'a mut ResponseFraming,
}

impl ResponseStream<'_> {
    /// The connection's deadline is the caller's.
    pub(super) async fn read_head<R>(
        &mut self,
        shard: &Shard,
        (limits, lenient): (&HeadLimits, Lenient),
        kind: RequestKind,
        mut visit: impl FnOnce(&ResponseHead<'_>) -> R,
    ) -> Result<R, Unanswered> {
        loop {
            if !self.inbox.is_empty() {
                if self.request.take().is_some_and(|request| !request.has_begun()) {
                    let aborted = Aborted::by(Side::Upstream, Cause::UnaskedAnswer);
                    return Err(Unanswered { aborted, is_silent: true });
                }
                let scratch = &mut *shard.scratch.borrow_mut();
                match parse_response(self.inbox.unread(), &mut scratch.head, limits, &kind) {
                    Ok(Parsed::Complete { head, bytes }) => {
                        *self.framing = self.framing.of(&head, lenient);
                        let result = visit(&head);
                        self.inbox.consume(bytes);
                        return Ok(result);
                    }
                    Ok(Parsed::Partial) => {}
                    Err(fault) => {
                        match self.read_repaired(&mut scratch.head, (limits, lenient), kind, fault, visit) {
                            Ok(ControlFlow::Break(result)) => return Ok(result),
                            Ok(ControlFlow::Continue(unused)) => visit = unused,
                            Err(fault) => {
                                let aborted = Aborted::by(Side::Upstream, Cause::Fault(fault));
                                return Err(self.unanswered(aborted));
                            }
                        }
                    }
                }
            }
            match self.inbox.receive(self.link).await {
                Ok(true) => {}
                Ok(false) => return Err(self.unanswered(Aborted::by(Side::Upstream, Cause::Closed))),
                Err(error) => return Err(self.unanswered(Aborted::io(Side::Upstream, &error))),
            }
        }
    }

    /// Reads a head that was refused for this fault, if its upstream forgives that. Gives `visit` back while the head is incomplete.
    #[cold]
    fn read_repaired<R, F: FnOnce(&ResponseHead<'_>) -> R>(
        &mut self,
        store: &mut HeadStore,
        (limits, lenient): (&HeadLimits, Lenient),
        kind: RequestKind,
        fault: Fault,
        visit: F,
    ) -> Result<ControlFlow<R, F>, Fault> {
        let mut out = Vec::new();
        let repaired = match lenient {
            Lenient::NONE => None,
            _ => repair_response(self.inbox.unread(), limits, lenient, &mut out),
        };
        let repaired = repaired.ok_or(fault)?;
        let Parsed::Complete { head, .. } = parse_response(&out, store, limits, &kind)? else {
            return Ok(ControlFlow::Continue(visit));
        };
        *self.framing = self.framing.of(&head, lenient);
        self.framing.is_ambiguous |= repaired.is_ambiguous;
        let result = visit(&head);
        self.inbox.consume(repaired.bytes);
        Ok(ControlFlow::Break(result))
    }

    pub(super) fn expect_within(&self, ms: u64) {
        self.link.transport().set_deadline(ms);
    }

    fn unanswered(&self, aborted: Aborted) -> Unanswered {
        Unanswered { aborted, is_silent: self.inbox.is_empty() }
    }

    pub(super) fn body(&mut self, min_rate: MinRate) -> BodyReader<'_> {
        let progress =
            BodyProgress::new(self.framing.body, u64::MAX, min_rate).with_trailers(self.framing.trailers);
        let progress = if self.framing.has_padding { progress.with_padding() } else { progress };
        BodyReader { link: self.link, inbox: self.inbox, progress, side: Side::Upstream }
    }
}

impl ResponseFraming {
    /// That of a head behind the one before.
    fn of(self, head: &ResponseHead<'_>, lenient: Lenient) -> ResponseFraming {
        ResponseFraming {
            body: Framing::of_response(head),
            trailers: head.trailers,
            is_persistent: head.persistent,
            has_padding: lenient.has(Lenient::CHUNK_PADDING),
            ..self
        }
    }
}
