//! The messages between the two sides of an exchange, in every protocol.
//!
//! A message is a head (`sluice_proto::RequestHead`, `ResponseHead`) and then parts. A body ends with [`Part::End`] or with
//! [`Aborted`] and in no other way, so a body that was cut off never looks complete.

use std::io;

use sluice_proto::Fault;
use sluice_proto::Trailers;
use sluice_sys::Conn;

use crate::min_rate::MinRate;
use crate::trailers::BodyTrailers;

pub(crate) use crate::connection::link::Data;

/// A part of a body, in order.
#[derive(Debug)]
pub(crate) enum Part {
    Data(Data),
    /// Data with its framing as it came, for a sink that takes chunks.
    Chunks(Data),
    /// The same, with the end of the body in it.
    LastChunks(Data),
    /// At most once, right before the end.
    Trailers(BodyTrailers),
    End,
}

/// The side that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        }
    }
}

/// Why a message ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The peer broke the protocol.
    Fault(Fault),
    /// The body is larger than the limit.
    TooLarge,
    /// The peer switched protocols without having been asked to, or to another one.
    UnaskedUpgrade,
    /// The peer answered an offer to switch protocols as if there had been none.
    IgnoredOffer,
    /// The peer has sent bytes before the request: they are no response to it.
    UnaskedAnswer,
    /// The peer answered with a status for which another one is asked.
    Unwanted,
    /// The peer let us wait too long.
    TimedOut,
    /// The server was ejected while it owed the response: another one may have it.
    Ejected,
    /// The exchange took longer than it may.
    Overdue,
    /// The peer sends, but less than it must in its time.
    TooSlow,
    /// The peer takes nothing of what waits for it.
    Stalled,
    /// There is no room for what the peer has begun.
    Crowded,
    /// The abuse score of the peer's connection has reached its limit.
    Abusive,
    /// The peer closed the connection.
    Closed,
    /// The peer has reset the stream, with this code of HTTP/2.
    Reset(u32),
    /// The connection failed; an errno.
    Failed(i32),
}

/// Whether a request can be sent again if the connection that it went out on turns out to be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    Possible,
    /// It has an effect that the server may have had, or is not at hand as a whole, or its response has begun.
    Impossible,
}

/// How much of the client's connection is lost with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This exchange alone: others on the same connection go on.
    Stream,
    /// Nothing that follows on the connection can be trusted, or there is nothing to follow.
    Connection,
}

/// A message that will not be completed, and by whose fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub(crate) side: Side,
    pub(crate) cause: Cause,
    pub(crate) reach: Reach,
}

impl Aborted {
    /// A client's message ends its connection, which carries one after the other; a server's does not concern it.
    pub(crate) fn by(side: Side, cause: Cause) -> Aborted {
        let reach = if side == Side::Downstream { Reach::Connection } else { Reach::Stream };
        Aborted { side, cause, reach }
    }

    pub(crate) fn io(side: Side, error: &io::Error) -> Aborted {
        let cause = match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::TimedOut, _) => Cause::TimedOut,
            // Of TLS, where an end without its announcement is none of a message.
            (io::ErrorKind::UnexpectedEof, _) => Cause::Closed,
            (_, errno) => Cause::Failed(errno.unwrap_or(0)),
        };
        Aborted::by(side, cause)
    }

    /// Like [`Aborted::io`], of a send.
    pub(crate) fn sending(side: Side, error: &io::Error) -> Aborted {
        let cause = Aborted::io(side, error).cause;
        Aborted::by(side, if cause == Cause::TimedOut { Cause::Stalled } else { cause })
    }
}

/// The result of [`BodySource::show_ready`].
pub(crate) enum ReadyPart {
    Data,
    Trailers(BodyTrailers),
    End,
    /// The next part has not arrived.
    Nothing,
}

/// In which form a sink wants the data of a body that comes in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkForm {
    Decoded,
    /// As they are, where they are framed as we would frame them.
    AsReceived,
}

/// Where the parts of a body come from.
pub(crate) trait BodySource {
    /// Shows the next data to `see`, where it is, if it is there already: for data that is copied anyway.
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted>;

    /// The next part if it is there already.
    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted>;

    /// Waits for more than is ready. The next part may take several waits.
    async fn more(&mut self) -> Result<(), Aborted>;

    /// The rest of the body, if it is nothing but bytes still to come on a plain connection.
    fn plain_rest(&mut self) -> Option<PlainRest<'_>>;

    /// So many bytes of the plain rest were taken off the connection by other means; its minimum rate knows of them.
    fn skip(&mut self, bytes: u64);
}

/// A body of this size is a large one: where one came, the next is expected to be large too (`upstream::group`).
pub(crate) const LARGE_BODY_BYTES: u64 = 64 * 1024;

/// Bytes of a body that have not been received yet and need no decoding.
pub(crate) struct PlainRest<'a> {
    pub(crate) conn: &'a Conn,
    pub(crate) bytes: u64,
    /// How long its sender may keep us waiting; without it nothing waits, and what is there is moved.
    pub(crate) min_rate: Option<&'a mut MinRate>,
    pub(crate) side: Side,
}

/// A plain connection that takes the bytes of a body as they are.
pub(crate) struct PlainSink<'a> {
    pub(crate) conn: &'a Conn,
    /// Longest time without progress, in milliseconds.
    pub(crate) stall_ms: u32,
    /// How long the peer may take in all; without it only pauses count.
    pub(crate) min_rate: Option<&'a mut MinRate>,
    pub(crate) side: Side,
}

/// Received data up to this size is copied behind what waits to be sent: that costs less than another part of a send (measured:
/// `what_two_parts_cost` in engine/sys). Larger data goes out of the buffer it came in.
pub(crate) const COPY_BYTES_MAX: usize = 4 * 1024;

/// Where the parts of a body go. Adding waits for nothing; what was added is sent by [`BodySink::flush`].
pub(crate) trait BodySink {
    /// The form in which it wants chunks.
    fn chunk_form(&self) -> ChunkForm;

    /// Whether what waits has to be sent before this is added.
    fn is_blocked_for(&self, part: &Part) -> bool;

    /// The same of data that is copied, whatever it is.
    fn is_blocked_for_copies(&self) -> bool;

    /// Adds data.
    fn add(&mut self, data: Data);

    /// Adds data in chunks; not to a sink that wants them decoded.
    fn add_chunks(&mut self, data: Data);

    /// Adds the end of the body, if data does not tell it.
    fn add_end(&mut self, trailers: Option<&Trailers>);

    /// Whether as much waits as may.
    fn is_full(&self) -> bool;

    /// Sends what waits; returns when the peer's backpressure allows more.
    async fn flush(&mut self) -> Result<(), Aborted>;

    /// So many bytes follow, and could be spliced if they went out as they are. After [`BodySink::flush`].
    fn prepare_for(&mut self, bytes: u64);

    /// Whether large pieces are better sent by themselves, since they cannot be spliced: over TLS, and to streams of HTTP/2. After [`BodySink::flush`] nothing waits
    /// before them.
    fn takes_large_pieces(&self) -> bool;

    /// Sends a piece of the body straight from its buffer, when nothing waits before it.
    async fn send_by_itself(&mut self, piece: Data) -> Result<(), Aborted>;

    /// Sends what waits as the last of the body.
    async fn finish(&mut self) -> Result<(), Aborted>;

    /// The connection itself, if data goes out on it as it is. After [`BodySink::flush`] nothing waits before it.
    fn plain(&mut self) -> Option<PlainSink<'_>>;

    /// So many bytes were sent on the plain connection by other means; its minimum rate knows of them.
    fn skip(&mut self, bytes: u64);
}
