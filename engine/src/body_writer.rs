//! The writer of a body, in either protocol, on either side.

use futures_util::future::Either;
use sluice_proto::Trailers;

use crate::grpc_web::WebWriter;
use crate::h1;
use crate::h2::StreamWriter;
use crate::message::{Aborted, BodySink, ChunkForm, Data, Part, PlainSink};

/// A body that is being written.
pub(crate) enum BodyWriter<'a> {
    H1(h1::BodyWriter<'a>),
    H2(StreamWriter<'a>),
    H1Web(WebWriter<h1::BodyWriter<'a>>),
    H2Web(WebWriter<StreamWriter<'a>>),
}

impl BodyWriter<'_> {
    /// Trailers may follow, whatever the head says about the length: the last data does not end the message.
    pub(crate) fn expect_trailers(&mut self) {
        match self {
            // By its length it has none.
            Self::H1(_) => {}
            Self::H2(body) => body.expect_trailers(),
            // The length of what is written is not known.
            Self::H1Web(_) | Self::H2Web(_) => {}
        }
    }

    /// Like `finish`, for a message that waits to be sent as a whole.
    pub(crate) fn finish_whole(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(body) => Either::Left(Either::Left(body.finish_whole())),
            Self::H2(body) => Either::Left(Either::Right(body.finish())),
            Self::H1Web(body) => Either::Right(Either::Left(body.finish())),
            Self::H2Web(body) => Either::Right(Either::Right(body.finish())),
        }
    }
}

impl BodySink for BodyWriter<'_> {
    fn chunk_form(&self) -> ChunkForm {
        match self {
            Self::H1(body) => body.chunk_form(),
            Self::H2(body) => body.chunk_form(),
            Self::H1Web(body) => body.chunk_form(),
            Self::H2Web(body) => body.chunk_form(),
        }
    }

    fn is_blocked_for(&self, part: &Part) -> bool {
        match self {
            Self::H1(body) => body.is_blocked_for(part),
            Self::H2(body) => body.is_blocked_for(part),
            Self::H1Web(body) => body.is_blocked_for(part),
            Self::H2Web(body) => body.is_blocked_for(part),
        }
    }

    fn is_blocked_for_copies(&self) -> bool {
        match self {
            Self::H1(body) => body.is_blocked_for_copies(),
            Self::H2(body) => body.is_blocked_for_copies(),
            Self::H1Web(body) => body.is_blocked_for_copies(),
            Self::H2Web(body) => body.is_blocked_for_copies(),
        }
    }

    fn add(&mut self, data: Data) {
        match self {
            Self::H1(body) => body.add(data),
            Self::H2(body) => body.add(data),
            Self::H1Web(body) => body.add(data),
            Self::H2Web(body) => body.add(data),
        }
    }

    fn add_chunks(&mut self, data: Data) {
        match self {
            Self::H1(body) => body.add_chunks(data),
            Self::H2(body) => body.add_chunks(data),
            Self::H1Web(body) => body.add_chunks(data),
            Self::H2Web(body) => body.add_chunks(data),
        }
    }

    fn add_end(&mut self, trailers: Option<&Trailers>) {
        match self {
            Self::H1(body) => body.add_end(trailers),
            Self::H2(body) => body.add_end(trailers),
            Self::H1Web(body) => body.add_end(trailers),
            Self::H2Web(body) => body.add_end(trailers),
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::H1(body) => body.is_full(),
            Self::H2(body) => body.is_full(),
            Self::H1Web(body) => body.is_full(),
            Self::H2Web(body) => body.is_full(),
        }
    }

    fn flush(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(body) => Either::Left(Either::Left(body.flush())),
            Self::H2(body) => Either::Left(Either::Right(body.flush())),
            Self::H1Web(body) => Either::Right(Either::Left(body.flush())),
            Self::H2Web(body) => Either::Right(Either::Right(body.flush())),
        }
    }

    fn prepare_for(&mut self, bytes: u64) {
        match self {
            Self::H1(body) => body.prepare_for(bytes),
            Self::H2(body) => body.prepare_for(bytes),
            Self::H1Web(body) => body.prepare_for(bytes),
            Self::H2Web(body) => body.prepare_for(bytes),
        }
    }

    fn takes_large_pieces(&self) -> bool {
        match self {
            Self::H1(body) => body.takes_large_pieces(),
            Self::H2(body) => body.takes_large_pieces(),
            Self::H1Web(body) => body.takes_large_pieces(),
            Self::H2Web(body) => body.takes_large_pieces(),
        }
    }

    fn send_by_itself(&mut self, piece: Data) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(body) => Either::Left(Either::Left(body.send_by_itself(piece))),
            Self::H2(body) => Either::Left(Either::Right(body.send_by_itself(piece))),
            Self::H1Web(body) => Either::Right(Either::Left(body.send_by_itself(piece))),
            Self::H2Web(body) => Either::Right(Either::Right(body.send_by_itself(piece))),
        }
    }

    fn finish(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        match self {
            Self::H1(body) => Either::Left(Either::Left(body.finish())),
            Self::H2(body) => Either::Left(Either::Right(body.finish())),
            Self::H1Web(body) => Either::Right(Either::Left(body.finish())),
            Self::H2Web(body) => Either::Right(Either::Right(body.finish())),
        }
    }

    fn plain(&mut self) -> Option<PlainSink<'_>> {
        match self {
            Self::H1(body) => body.plain(),
            Self::H2(body) => body.plain(),
            Self::H1Web(body) => body.plain(),
            Self::H2Web(body) => body.plain(),
        }
    }

    fn skip(&mut self, bytes: u64) {
        match self {
            Self::H1(body) => body.skip(bytes),
            Self::H2(body) => body.skip(bytes),
            Self::H1Web(body) => body.skip(bytes),
            Self::H2Web(body) => body.skip(bytes),
        }
    }
}
