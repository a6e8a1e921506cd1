//! The client's side: what comes before its first request ([`accept`]), and its side of an exchange: a request, its body, and the
//! response to it, in every protocol.

pub(crate) mod h1;
pub(crate) mod h2;
mod tls;

use std::any::Any;
use std::future::ready;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use sluice_proto::ResponseHead;
use sluice_proto::edits::FieldEdits;
use sluice_proto::grpc_web::Form;
use sluice_sys::{Buf, Conn, OptionalBuf, Timer};

use crate::answer::{Answer, ResponseFraming};
use crate::body_writer::BodyWriter;
use crate::config::OnClientClose;
use crate::connection::link::Link;
use crate::connection::{Accepted, Arrived, proxy_protocol};
use crate::exchange::decision::{Decision, Refusal};
use crate::grpc_web::{TextBody, WebWriter};
use crate::h2::Parked;
use crate::message::{Aborted, BodySource, ChunkForm, Part, PlainRest, ReadyPart};
use crate::policy::fixed::Content;
use crate::record::Record;
use crate::shard::Shard;
use crate::snapshot::{Route, Snapshot};
use crate::stream_tunnel::StreamTunnel;
use crate::tunnel::Tunnel;
use crate::websocket::WebSocket;

/// Whether a connection has bytes for its protocol, and its time is not over: the usual case. Else [`begin`] comes first.
#[inline]
pub(crate) fn is_begun(shard: &Shard, accepted: &Accepted) -> bool {
    match &accepted.link {
        Link::Plain(conn) => {
            (accepted.history.requests > 0 || shard.tls.of(conn.listener()).is_none())
                && !shard.awaits_proxy_header(conn)
        }
        Link::Tls(_) => !accepted.is_expired(),
    }
}

/// Brings a connection to its first request: what a balancer has to say before anything else is read, and the handshake of TLS is
/// done. Returns the connection when it has bytes for its protocol, or has ended.
pub(crate) async fn begin(shard: &Rc<Shard>, arrived: Arrived) -> Option<Accepted> {
    let accepted = match arrived {
        Arrived::Accepted(accepted) => accepted,
        Arrived::Parked(conn, state) => return go_on(shard, conn, state).await,
        Arrived::Stream(..) => unreachable!("streams are served by themselves"),
    };
    if accepted.is_expired() && matches!(accepted.link, Link::Tls(_)) {
        accepted.close().await;
        return None;
    }
    let accepted = read_proxy_header(shard, accepted).await?;
    match shard.tls.of(accepted.link.transport().listener()) {
        Some(listener) if is_before_handshake(&accepted) => tls::secure(shard, accepted, listener).await,
        _ => Some(accepted),
    }
}

/// Goes on with a connection that has left a state.
async fn go_on(shard: &Rc<Shard>, conn: Conn, state: Box<dyn Any>) -> Option<Accepted> {
    match Parked::resume(shard, conn, state) {
        Ok(resumed) => {
            h2::resume(shard, resumed).await;
            None
        }
        Err((conn, state)) => tls::resume(shard, conn, state).await,
    }
}

/// Whether a handshake may still begin: where TLS is detected, only the first bytes of a connection begin it.
fn is_before_handshake(accepted: &Accepted) -> bool {
    matches!(accepted.link, Link::Plain(_)) && accepted.history.requests == 0
}

/// Reads what a balancer has to say before anything else.
async fn read_proxy_header(shard: &Shard, mut accepted: Accepted) -> Option<Accepted> {
    let snapshot = shard.snapshot();
    let Some(senders) = snapshot.proxy_senders.of(accepted.link.transport()) else { return Some(accepted) };
    match proxy_protocol::read_header(&mut accepted, senders, &snapshot, &shard.counters).await {
        false => None,
        true if accepted.inbox.is_empty() => accepted.park(snapshot.times.request_head),
        true => Some(accepted),
    }
}

/// The route of a request, and the lines that it adds to the response where they depend on the request.
#[inline]
fn route_of<'s>(
    shard: &Shard,
    decided: &Result<Decision<'s>, Refusal<'s>>,
) -> (Option<&'s Route>, OptionalBuf) {
    let route = match decided {
        Ok(decision) => Some(decision.route),
        Err(refusal) => refusal.route,
    };
    let has_policy = route.is_some_and(|route| route.policy.is_some());
    (route, if has_policy { shard.response_lines.take() } else { None }.into())
}

/// The Strict-Transport-Security field of the request's route. It means nothing without TLS, and may not be sent.
//= https://www.rfc-editor.org/rfc/rfc6797#section-7.2
fn hsts<'s>(link: &Link, route: Option<&'s Route>) -> Option<&'s str> {
    link.tls()?;
    route?.hsts.as_deref()
}

/// What the route changes about the fields of a response.
#[inline]
fn edits<'r>(route: Option<&'r Route>, lines: &'r OptionalBuf) -> Option<FieldEdits<'r>> {
    let policy = route?.policy.as_ref()?;
    policy.response.with_lines(lines.get().map(Vec::as_slice))
}

/// The page for an answer of our own: that of the route, or the global one.
fn page<'r>(snapshot: &'r Snapshot, route: Option<&'r Route>, answer: &Answer<'_>) -> Option<&'r Content> {
    if matches!(answer, Answer::Fixed(_)) {
        return None;
    }
    let status = answer.status();
    let of_route = route.and_then(|route| route.policy.as_ref()?.pages.find(status));
    of_route.or_else(|| snapshot.error_pages.find(status))
}

/// A buffer for an answer of our own, whose body may be larger than most.
fn room_for(framing: &ResponseFraming<'_>, answer: &Answer<'_>) -> Buf {
    const HEAD_BYTES: usize = 1024;
    let content = match answer {
        Answer::Fixed(fixed) => Some(&fixed.content),
        _ => framing.page,
    };
    content.map_or_else(Buf::small, |content| Buf::with_room(content.bytes.len() + HEAD_BYTES))
}

/// What a connection of HTTP/1.1 has become.
pub(crate) enum Changed {
    Tunnel(Tunnel),
    /// Its server's end is a stream.
    StreamTunnel(StreamTunnel),
    /// Its frames are read.
    WebSocket(WebSocket),
    /// The client speaks HTTP/2, which it has just begun to.
    Http2(Accepted),
}

/// The body of a request, as it comes in.
pub(crate) enum RequestBody<'a> {
    H1(h1::RequestBody<'a>),
    H2(h2::RequestBody<'a>),
    /// As base64, and for a server that wants it without.
    H1Text(TextBody<h1::RequestBody<'a>>),
    H2Text(TextBody<h2::RequestBody<'a>>),
}

/// The way back to a client.
#[derive(Clone, Copy)]
pub(crate) enum Responder<'a> {
    H1(&'a h1::Responder<'a>),
    H2(&'a h2::Responder<'a>),
}

/// What the head of a server's response gains because of its exchange.
#[derive(Clone, Copy, Default)]
pub(crate) struct Added<'a> {
    /// The type in place of the server's.
    pub(crate) content_type: Option<&'a [u8]>,
    /// A Set-Cookie field, with its line end.
    pub(crate) set_cookie: Option<&'a str>,
}

/// Whether a client may go on with its connection after a response, as far as the exchange decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    GoOn,
    /// What the client has sent, or is still sending, could be taken for its next request.
    Close,
}

impl RequestBody<'_> {
    /// Its received bytes keep no receive buffer from others while they wait.
    pub(crate) fn release_buffers(&mut self) {
        match self {
            Self::H1(body) => body.release_buffers(),
            Self::H1Text(body) => body.encoded_mut().release_buffers(),
            // They were copied: the session reads on for others.
            Self::H2(_) | Self::H2Text(_) => {}
        }
    }

    /// Bytes of data that have come.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::H1(body) => body.bytes(),
            Self::H2(body) => body.bytes(),
            Self::H1Text(body) => body.encoded().bytes(),
            Self::H2Text(body) => body.encoded().bytes(),
        }
    }
}

impl<'a> Responder<'a> {
    /// The connection of the client, or of a proxy that it came by.
    pub(crate) fn transport(self) -> &'a Conn {
        match self {
            Self::H1(responder) => responder.transport(),
            Self::H2(responder) => responder.transport(),
        }
    }

    /// Writes an interim response into `out`, if the client understands it.
    pub(crate) fn write_interim(self, head: &ResponseHead<'_>, out: &mut Buf) {
        match self {
            Self::H1(responder) => responder.write_interim(head, out),
            Self::H2(responder) => responder.write_interim(head),
        }
    }

    /// Sends an interim response that was written.
    pub(crate) fn send_interim(self, interim: Buf) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(responder) => Either::Left(responder.send_interim(interim)),
            // It is among what the session sends next.
            Self::H2(_) => Either::Right(ready(Ok(()))),
        }
    }

    /// Writes the head of the response into `out`, with what is added to it.
    pub(crate) fn write_head(
        self,
        head: &ResponseHead<'_>,
        added: Added<'_>,
        afterwards: Afterwards,
        out: &mut Buf,
    ) {
        match self {
            Self::H1(responder) => responder.write_head(head, added, afterwards, out),
            Self::H2(responder) => responder.write_head(head, added),
        }
    }

    /// The writer of the response's body, behind the bytes in `out`, in this form of gRPC-Web if it has to have one.
    pub(crate) fn body(self, out: Buf, bridged: Option<Form>) -> BodyWriter<'a> {
        match (self, bridged) {
            (Self::H1(responder), None) => BodyWriter::H1(responder.body(out)),
            (Self::H2(responder), None) => BodyWriter::H2(responder.body(out)),
            (Self::H1(responder), Some(form)) => BodyWriter::H1Web(WebWriter::new(responder.body(out), form)),
            (Self::H2(responder), Some(form)) => BodyWriter::H2Web(WebWriter::new(responder.body(out), form)),
        }
    }

    /// Whether a part of the response waits to be sent.
    pub(crate) fn has_unsent(self) -> bool {
        match self {
            Self::H1(responder) => responder.transport().is_sending(),
            Self::H2(responder) => responder.has_unsent(),
        }
    }

    /// Whether trailers may follow the body behind the head that was written, if its length is not known.
    pub(crate) fn takes_trailers(self) -> bool {
        match self {
            Self::H1(responder) => responder.takes_trailers(),
            Self::H2(_) => true,
        }
    }

    /// Writes the head of a response that opens a tunnel into `out`.
    pub(crate) fn write_tunnel_head(self, head: &ResponseHead<'_>, added: Added<'_>, out: &mut Buf) {
        match self {
            Self::H1(responder) => responder.write_tunnel_head(head, added, out),
            Self::H2(responder) => responder.write_tunnel_head(head, added),
        }
    }

    /// Sends the head that opens a tunnel.
    pub(crate) fn open_tunnel(self, head: Buf) {
        match self {
            Self::H1(responder) => responder.open_tunnel(head),
            Self::H2(_) => {}
        }
    }

    /// Responds in place of a server.
    pub(crate) fn answer(
        self,
        answer: Answer<'_>,
        afterwards: Afterwards,
    ) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(responder) => Either::Left(responder.answer(answer, afterwards)),
            Self::H2(responder) => Either::Right(responder.answer(answer)),
        }
    }

    /// Whether a response may still be begun: nothing of one is on its way.
    pub(crate) fn may_begin(self) -> bool {
        match self {
            Self::H1(responder) => responder.may_begin(),
            Self::H2(responder) => responder.may_begin(),
        }
    }

    /// The record of the exchange.
    pub(crate) fn record(self) -> &'a Record {
        match self {
            Self::H1(responder) => &responder.record,
            Self::H2(responder) => &responder.record,
        }
    }

    /// Waits until there is no client any more; `look` is `None` at first, and goes from call to call. `on_close` is for HTTP/1.1:
    /// a client of HTTP/2 ends its side of a stream with its request, and cancels it otherwise.
    pub(crate) fn poll_gone(
        self,
        look: &mut Option<Timer>,
        on_close: OnClientClose,
        context: &mut Context<'_>,
    ) -> Poll<Aborted> {
        match self {
            Self::H1(responder) => responder.poll_gone(look, on_close),
            Self::H2(responder) => responder.poll_gone(context),
        }
    }
}

impl BodySource for RequestBody<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        match self {
            Self::H1(body) => body.show_ready(see),
            Self::H2(body) => body.show_ready(see),
            Self::H1Text(body) => body.show_ready(see),
            Self::H2Text(body) => body.show_ready(see),
        }
    }

    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted> {
        match self {
            Self::H1(body) => body.ready_part(form),
            Self::H2(body) => body.ready_part(form),
            Self::H1Text(body) => body.ready_part(form),
            Self::H2Text(body) => body.ready_part(form),
        }
    }

    fn more(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(body) => Either::Left(Either::Left(body.more())),
            Self::H2(body) => Either::Left(Either::Right(body.more())),
            Self::H1Text(body) => Either::Right(Either::Left(body.more())),
            Self::H2Text(body) => Either::Right(Either::Right(body.more())),
        }
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        match self {
            Self::H1(body) => body.plain_rest(),
            Self::H2(body) => body.plain_rest(),
            Self::H1Text(body) => body.plain_rest(),
            Self::H2Text(body) => body.plain_rest(),
        }
    }

    fn skip(&mut self, bytes: u64) {
        match self {
            Self::H1(body) => body.skip(bytes),
            Self::H2(body) => body.skip(bytes),
            Self::H1Text(body) => body.skip(bytes),
            Self::H2Text(body) => body.skip(bytes),
        }
    }
}
