//! A stream of a server's HTTP/2 connection: one request and its response.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sluice_proto::h1::{HeadStore, Parsed, parse_response};
use sluice_proto::h2::ErrorCode;
use sluice_proto::upgrade::accept_of;
use sluice_proto::{BodyLength, Fault, FieldId, HeadLimits, RequestKind, ResponseHead};
use sluice_sys::{Buf, Timer};

use super::stream::{Rest, Unanswered, Used};
use crate::config::host_field;
use crate::h2::{Stream, StreamReader, StreamWriter};
use crate::message::Cause;
use crate::min_rate::MinRate;
use crate::port::TunnelEnd;
use crate::request_lines::RequestLines;
use crate::upstream::server::{Server, ServerInUse};

/// Longer than anything waits.
const FOREVER_MS: u64 = u64::MAX >> 20;

/// A stream to a server, in use by one exchange.
pub(crate) struct ServerStream {
    server: ServerInUse,
    stream: Stream,
    /// Its connection has served others before.
    is_reused: bool,
    /// Goes off when the server has not answered in time.
    timer: Timer,
    /// The request, as long as it may have to be sent again.
    request: Option<Buf>,
    /// It asks for a tunnel.
    is_tunnel: bool,
    /// The offer to change protocols in it.
    offer: Option<Box<Offer>>,
}

/// What an offer is answered with where it is taken up.
struct Offer {
    protocol: Box<[u8]>,
    /// The Sec-WebSocket-Accept that a client of HTTP/1.1 expects.
    accept: Option<[u8; 28]>,
}

impl ServerStream {
    pub(crate) fn new(server: Rc<Server>, stream: Stream, is_reused: bool) -> Self {
        ServerStream {
            server: ServerInUse::new(server),
            stream,
            is_reused,
            timer: Timer::new(FOREVER_MS),
            request: None,
            is_tunnel: false,
            offer: None,
        }
    }

    pub(super) fn server(&self) -> &Rc<Server> {
        &self.server
    }

    pub(super) fn authority(&self) -> &str {
        host_field(&self.server.key.authority)
    }

    pub(super) fn send(&mut self, lines: &mut RequestLines, rest: Rest) {
        let (head, body) = lines.parts();
        if self.is_tunnel {
            let is_key = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(b"sec-websocket-key");
            let accept = head.fields().find(is_key).map(|(_, key)| accept_of(key));
            self.offer = head.offer().map(|protocol| Box::new(Offer { protocol: protocol.into(), accept }));
        }
        let is_all = rest == Rest::Nothing && !self.is_tunnel;
        let trailers = lines.trailers();
        let is_end = is_all && body.is_empty() && trailers.is_none();
        self.stream.write(|machine, key, out| {
            machine.send_request(key, head, is_end, out);
        });
        if !body.is_empty() {
            self.stream.send(body, is_all && trailers.is_none());
        }
        if trailers.is_some() {
            self.stream.end(trailers);
        }
        let bytes = lines.take();
        self.request = Some(bytes).filter(|_| rest == Rest::Nothing);
    }

    pub(super) fn expect_tunnel(&mut self) {
        self.is_tunnel = true;
    }

    pub(super) fn expect_response_within(&self, ms: u64) {
        self.timer.reset(ms);
    }

    pub(super) fn expect_no_response_yet(&self) {
        self.timer.reset(FOREVER_MS);
    }

    /// The writer of the rest of the request's body.
    pub(super) fn body(&self, stall_ms: u64) -> StreamWriter<'_> {
        // Trailers may follow a body of any length.
        StreamWriter::new(&self.stream, None, MinRate::by_pauses(stall_ms))
    }

    /// It has refused the stream, or has left without having taken it.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.7
    pub(super) fn is_unprocessed(&self) -> bool {
        self.stream.is_unprocessed()
    }

    pub(super) fn is_stale(&self, unanswered: &Unanswered) -> bool {
        let is_lost = self.is_reused && self.stream.session.has_failed();
        unanswered.is_silent && unanswered.aborted.cause != Cause::TimedOut && is_lost
    }

    pub(super) fn take_back(mut self) -> Option<Buf> {
        self.request.take()
    }

    pub(super) fn finish(self, used: Used) {
        // What is not sent yet is not wanted any more.
        let code = if used == Used::Whole { ErrorCode::NO_ERROR } else { ErrorCode::CANCEL };
        self.stream.code.set(code);
    }

    pub(super) fn into_end(self) -> (TunnelEnd, ServerInUse) {
        (TunnelEnd::Stream(self.stream), self.server)
    }
}

/// The receiving half of a stream.
pub(crate) struct ResponseStream<'a> {
    stream: &'a ServerStream,
    length: BodyLength,
    has_begun: bool,
}

impl ServerStream {
    pub(super) fn response(&self) -> ResponseStream<'_> {
        ResponseStream { stream: self, length: BodyLength::None, has_begun: false }
    }
}

impl ResponseStream<'_> {
    pub(super) async fn read_head<R>(
        &mut self,
        visit: impl FnOnce(&ResponseHead<'_>) -> R,
    ) -> Result<R, Unanswered> {
        let ServerStream { stream, timer, .. } = self.stream;
        let lines = poll_fn(|context| {
            if let Some(lines) = stream.take_head() {
                return Poll::Ready(Ok(lines));
            }
            if let Some(aborted) = stream.failed() {
                return Poll::Ready(Err(aborted));
            }
            stream.wait(context);
            timer.poll_expired().map(|()| Err(stream.session.aborted(Cause::TimedOut)))
        })
        .await
        .map_err(|aborted| Unanswered { aborted, is_silent: !self.has_begun })?;
        let head = lines.response();
        // 100 (Continue) says nothing of the request.
        self.has_begun |= head.status != 100;
        self.length = head.body;
        if let Some(offer) = self.stream.offer.as_ref().filter(|_| (200..=299).contains(&head.status)) {
            return visit_switched(offer, &head, visit).map_err(|fault| Unanswered {
                aborted: self.stream.stream.session.aborted(Cause::Fault(fault)),
                is_silent: false,
            });
        }
        Ok(visit(&head))
    }

    pub(super) fn expect_within(&self, ms: u64) {
        self.stream.expect_response_within(ms);
    }

    pub(super) fn body(&mut self, min_rate: MinRate) -> StreamReader<'_> {
        StreamReader::new(&self.stream.stream, self.length, u64::MAX, min_rate)
    }
}

/// Shows a response that takes an offer up as the server would have sent it by HTTP/1.1.
//= https://www.rfc-editor.org/rfc/rfc8441#section-5
#[cold]
fn visit_switched<R>(
    offer: &Offer,
    head: &ResponseHead<'_>,
    visit: impl FnOnce(&ResponseHead<'_>) -> R,
) -> Result<R, Fault> {
    let mut text = Buf::small();
    let mut put_line = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    };
    put_line(b"Upgrade", &offer.protocol);
    if let Some(accept) = &offer.accept {
        put_line(b"Sec-WebSocket-Accept", accept);
    }
    for field in head.fields() {
        if !matches!(field.id, FieldId::SecWebSocketAccept | FieldId::ContentLength) {
            put_line(field.name.as_bytes(), field.value);
        }
    }
    let text = [b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n", &text[..], b"\r\n"].concat();
    let mut store = HeadStore::default();
    match parse_response(&text, &mut store, &HeadLimits::HARD_MAX, &RequestKind::Other) {
        Ok(Parsed::Complete { head, .. }) => Ok(visit(&head)),
        Ok(Parsed::Partial) => unreachable!("it ends with an empty line"),
        Err(fault) => Err(fault),
    }
}
