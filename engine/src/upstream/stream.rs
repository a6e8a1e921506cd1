//! A server as an exchange sees it, in every protocol: a stream that carries one request and its response.

use std::rc::Rc;

use futures_util::future::Either;
use sluice_proto::h1::Lenient;
use sluice_proto::{BodyLength, HeadLimits, RequestKind, ResponseHead};
use sluice_sys::Buf;

use crate::body_writer::BodyWriter;
use crate::h1::BodyReader;
use crate::h2::StreamReader;
use crate::message::{Aborted, BodySource, ChunkForm, Part, PlainRest, ReadyPart};
use crate::min_rate::MinRate;
use crate::port::TunnelEnd;
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::upstream::group::GroupRules;
use crate::upstream::server::{Server, ServerInUse};
use crate::upstream::{h1, h2};

/// A server's end of one exchange.
pub(crate) enum UpstreamStream {
    H1(h1::ServerConnection),
    H2(h2::ServerStream),
}

/// Where the rest of a request goes while its response is received.
#[derive(Clone, Copy)]
pub(crate) enum RequestStream<'a> {
    H1(h1::RequestStream<'a>),
    H2(&'a h2::ServerStream),
}

/// Where a response comes from.
pub(crate) enum ResponseStream<'a> {
    H1(h1::ResponseStream<'a>),
    H2(h2::ResponseStream<'a>),
}

/// The body of a response, as it comes in.
pub(crate) enum ResponseBody<'a> {
    H1(BodyReader<'a>),
    H2(StreamReader<'a>),
}

/// No response came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered {
    pub(crate) aborted: Aborted,
    /// Not one byte of a response had arrived.
    pub(crate) is_silent: bool,
}

/// The rest of a request behind the part that is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It was all of it, and may be sent again.
    Nothing,
    Body,
}

/// How an exchange has used its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// The request was sent to its end, and the response received to its end.
    Whole,
    /// It was broken off on either way.
    Broken,
}

impl UpstreamStream {
    pub(crate) fn server(&self) -> &Rc<Server> {
        match self {
            Self::H1(connection) => connection.server(),
            Self::H2(stream) => stream.server(),
        }
    }

    /// Host and port of the server, as configured.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::H1(connection) => connection.authority(),
            Self::H2(stream) => stream.authority(),
        }
    }

    /// Sends the head of a request, or all of it. Starts at once; the stream takes note of how that goes.
    pub(crate) fn send(&mut self, lines: &mut RequestLines, rest: Rest, snapshot: &Snapshot) {
        match self {
            Self::H1(connection) => connection.send(lines.take(), snapshot.times.write_stall, rest),
            Self::H2(stream) => stream.send(lines, rest),
        }
    }

    /// The request asks for a tunnel: what the server says behind its response is not received ahead.
    pub(crate) fn expect_tunnel(&mut self) {
        match self {
            Self::H1(connection) => connection.expect_tunnel(),
            Self::H2(stream) => stream.expect_tunnel(),
        }
    }

    /// The two ways of the stream: for what is still to be sent, and for the response.
    pub(crate) fn split(&mut self) -> (RequestStream<'_>, ResponseStream<'_>) {
        match self {
            Self::H1(connection) => {
                let (request, response) = connection.split();
                (RequestStream::H1(request), ResponseStream::H1(response))
            }
            Self::H2(stream) => {
                let response = stream.response();
                (RequestStream::H2(stream), ResponseStream::H2(response))
            }
        }
    }

    /// Whether the server has done nothing about the request, as far as it can be known: then it may be sent again although it
    /// has an effect. To be asked after the response did not come.
    pub(crate) fn is_unprocessed(&self, aborted: Aborted) -> bool {
        match self {
            Self::H1(connection) => connection.is_unprocessed(aborted),
            Self::H2(stream) => stream.is_unprocessed(),
        }
    }

    /// Whether the server says so itself, as HTTP/2 can.
    pub(crate) fn is_refused(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(stream) => stream.is_unprocessed(),
        }
    }

    /// Whether a response that did not come says less about the server than about this stream: it was open before, and may
    /// have been closed by the time the request was sent.
    pub(crate) fn is_stale(&self, unanswered: &Unanswered) -> bool {
        match self {
            Self::H1(connection) => connection.is_stale(unanswered),
            Self::H2(stream) => stream.is_stale(unanswered),
        }
    }

    /// Gives up the stream for another attempt; the request, if it is still at hand.
    pub(crate) async fn take_back(self) -> Option<Buf> {
        match self {
            Self::H1(connection) => connection.take_back().await,
            Self::H2(stream) => stream.take_back(),
        }
    }

    /// The same after a response that nothing is to have. Its connection goes on if all of it is here.
    pub(crate) async fn put_back(self, shard: &Shard, rules: &GroupRules) -> Option<Buf> {
        match self {
            Self::H1(connection) => connection.put_back(shard, rules).await,
            // Its stream is reset if that goes on.
            Self::H2(stream) => stream.take_back(),
        }
    }

    /// The exchange is over.
    pub(crate) fn finish(self, used: Used, is_response_large: bool, shard: &Shard, rules: &GroupRules) {
        match self {
            Self::H1(connection) => connection.finish(used, is_response_large, shard, rules),
            Self::H2(stream) => stream.finish(used),
        }
    }

    /// The exchange has ended in a tunnel: the connection with what has come behind the response, and its server.
    pub(crate) fn into_end(self) -> (TunnelEnd, ServerInUse) {
        match self {
            Self::H1(connection) => {
                let (end, server) = connection.into_end();
                (TunnelEnd::Link(end), server)
            }
            Self::H2(stream) => stream.into_end(),
        }
    }
}

impl<'a> RequestStream<'a> {
    /// The server has this long for its response.
    pub(crate) fn expect_response_within(self, ms: u64) {
        match self {
            Self::H1(stream) => stream.expect_response_within(ms),
            Self::H2(stream) => stream.expect_response_within(ms),
        }
    }

    /// The server has time for its response as long as the request is not sent to its end.
    pub(crate) fn expect_no_response_yet(self) {
        match self {
            Self::H1(stream) => stream.expect_no_response_yet(),
            Self::H2(stream) => stream.expect_no_response_yet(),
        }
    }

    /// The writer of the rest of the request's body.
    pub(crate) fn body(self, length: BodyLength, snapshot: &Snapshot) -> BodyWriter<'a> {
        let stall_ms = snapshot.times.write_stall;
        match self {
            Self::H1(stream) => BodyWriter::H1(stream.body(length == BodyLength::Streamed, stall_ms)),
            Self::H2(stream) => BodyWriter::H2(stream.body(stall_ms)),
        }
    }
}

impl ResponseStream<'_> {
    /// Reads a response head and shows it to `visit`. `lenient` is for HTTP/1.1.
    pub(crate) fn read_head<R>(
        &mut self,
        shard: &Shard,
        (limits, lenient): (&HeadLimits, Lenient),
        kind: RequestKind,
        visit: impl FnOnce(&ResponseHead<'_>) -> R,
    ) -> impl Future<Output = Result<R, Unanswered>> {
        match self {
            Self::H1(stream) => Either::Left(stream.read_head(shard, (limits, lenient), kind, visit)),
            Self::H2(stream) => Either::Right(stream.read_head(visit)),
        }
    }

    /// The server has this long for the rest of its response's head, from now on.
    pub(crate) fn expect_within(&self, ms: u64) {
        match self {
            Self::H1(stream) => stream.expect_within(ms),
            Self::H2(stream) => stream.expect_within(ms),
        }
    }

    /// The body behind the head that was just read.
    pub(crate) fn body(&mut self, min_rate: MinRate) -> ResponseBody<'_> {
        match self {
            Self::H1(stream) => ResponseBody::H1(stream.body(min_rate)),
            Self::H2(stream) => ResponseBody::H2(stream.body(min_rate)),
        }
    }
}

impl ResponseBody<'_> {
    /// How long it is, as far as its head says.
    pub(crate) fn length(&self) -> BodyLength {
        match self {
            Self::H1(body) => body.length(),
            Self::H2(body) => body.length(),
        }
    }

    /// Whether it is of HTTP/2: trailers may follow although it has a length.
    pub(crate) fn is_of_stream(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// Whether it was or will be a large one, by its length or by what has come.
    pub(crate) fn is_large(&self) -> bool {
        match self {
            Self::H1(body) => body.is_large(),
            Self::H2(body) => body.is_large(),
        }
    }
}

impl BodySource for ResponseBody<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        match self {
            Self::H1(body) => body.show_ready(see),
            Self::H2(body) => body.show_ready(see),
        }
    }

    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted> {
        match self {
            Self::H1(body) => body.ready_part(form),
            Self::H2(body) => body.ready_part(form),
        }
    }

    fn more(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(body) => Either::Left(body.more()),
            Self::H2(body) => Either::Right(body.more()),
        }
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        match self {
            Self::H1(body) => body.plain_rest(),
            Self::H2(body) => body.plain_rest(),
        }
    }

    fn skip(&mut self, bytes: u64) {
        match self {
            Self::H1(body) => body.skip(bytes),
            Self::H2(body) => body.skip(bytes),
        }
    }
}
