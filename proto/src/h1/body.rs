//! One decoder for every kind of body, so that a relay has one loop.
//!
//! Owns the counting of a body whose length is known, and the rule what it means when the peer closes. Chunks are
//! `h1::chunked`'s. A body ends with [`BodyEvent::End`] or with a [`Fault`]; there is no third way.

use core::ops::Range;

use super::chunked::{ChunkedDecoder, Passed};
use crate::fault::Fault;
use crate::h1::Framing;
use crate::limits::ChunkLimits;
use crate::message::TrailerRule;
use crate::trailers::Trailers;

/// The next event of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyEvent {
    /// Data, as a non-empty range of the input given.
    Data(Range<usize>),
    /// Trailer fields that may be forwarded. At most once, right before [`BodyEvent::End`].
    Trailers(Trailers),
    /// The body is complete. Bytes that were not consumed belong to the next message.
    End,
    /// The input is used up and the body is not complete.
    NeedMore,
}

/// Decodes one body.
#[derive(Debug)]
pub struct BodyDecoder {
    rest: Rest,
}

const _: () = assert!(size_of::<BodyDecoder>() <= 48);

#[derive(Debug)]
enum Rest {
    /// This many bytes are to come. Zero is the end.
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

impl BodyDecoder {
    /// A decoder at the start of a body framed like this. The limits matter to chunked bodies only.
    pub fn new(length: Framing, limits: ChunkLimits) -> Self {
        let rest = match length {
            Framing::None => Rest::Length(0),
            Framing::Length(bytes) => Rest::Length(bytes),
            Framing::Chunked => Rest::Chunked(ChunkedDecoder::new(limits)),
            Framing::UntilClose => Rest::UntilClose,
        };
        Self { rest }
    }

    /// The same decoder, with trailers treated like this. Dropped ones are checked all the same.
    #[must_use]
    pub fn with_trailers(mut self, rule: TrailerRule) -> Self {
        if let Rest::Chunked(decoder) = &mut self.rest {
            decoder.set_trailers(rule);
        }
        self
    }

    /// The same decoder, which forgives whitespace behind the sizes of chunks.
    #[must_use]
    pub fn with_padding(mut self) -> Self {
        if let Rest::Chunked(decoder) = &mut self.rest {
            decoder.allow_padding();
        }
        self
    }

    /// Reads up to the next event. Returns the bytes consumed, the event's own included, and the event.
    ///
    /// [`BodyEvent::NeedMore`] consumes everything given. [`BodyEvent::End`] is repeated on further calls and consumes nothing
    /// then; for an empty body it is the first event.
    ///
    /// # Errors
    ///
    /// Those of [`ChunkedDecoder::next`]. Other bodies have no syntax that could be wrong.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, BodyEvent), Fault> {
        match &mut self.rest {
            Rest::Chunked(decoder) => decoder.next(input),
            Rest::Length(0) => Ok((0, BodyEvent::End)),
            _ if input.is_empty() => Ok((0, BodyEvent::NeedMore)),
            Rest::UntilClose => Ok((input.len(), BodyEvent::Data(0..input.len()))),
            Rest::Length(remaining) => {
                let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                *remaining -= len as u64;
                Ok((len, BodyEvent::Data(0..len)))
            }
        }
    }

    /// Reads chunks that may be sent on as they are; see [`ChunkedDecoder::pass`]. Nothing of bodies that do not come in chunks.
    ///
    /// # Errors
    ///
    /// As [`BodyDecoder::next`].
    pub fn pass_chunks(&mut self, input: &[u8], tiny_bytes: u64) -> Result<Passed, Fault> {
        match &mut self.rest {
            Rest::Chunked(decoder) => decoder.pass(input, tiny_bytes),
            Rest::Length(_) | Rest::UntilClose => Ok(Passed::default()),
        }
    }

    /// True when the body is complete: no byte of the connection belongs to it any more.
    pub fn is_done(&self) -> bool {
        match &self.rest {
            Rest::Length(remaining) => *remaining == 0,
            Rest::Chunked(decoder) => decoder.is_done(),
            Rest::UntilClose => false,
        }
    }

    /// The bytes of data still to come, where that is known: what may be moved without looking at it.
    pub fn remaining_length(&self) -> Option<u64> {
        match &self.rest {
            Rest::Length(remaining) => Some(*remaining),
            Rest::Chunked(_) | Rest::UntilClose => None,
        }
    }

    /// Bytes of data that the sender has announced and that are still to come: of the body where its length is known, else
    /// of the chunk that has begun.
    pub fn announced(&self) -> u64 {
        match &self.rest {
            Rest::Length(remaining) => *remaining,
            Rest::Chunked(decoder) => decoder.announced(),
            Rest::UntilClose => 0,
        }
    }

    /// Counts `len` bytes of data that went past without [`BodyDecoder::next`], by splice for example. `len` is at most
    /// [`BodyDecoder::remaining_length`], where that is known; chunked bodies cannot be skipped in.
    pub fn skip(&mut self, len: u64) {
        match &mut self.rest {
            Rest::Length(remaining) => {
                debug_assert!(len <= *remaining, "skipped beyond the body");
                *remaining = remaining.saturating_sub(len);
            }
            Rest::UntilClose => {}
            Rest::Chunked(_) => debug_assert!(false, "a chunked body has to be read"),
        }
    }

    /// Takes in that the peer has closed. Afterwards a body that closing ends is done.
    ///
    /// # Errors
    ///
    /// [`Fault::CutShort`] when the body was not complete: whatever was forwarded of it must not look complete either.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-8
    pub fn on_eof(&mut self) -> Result<(), Fault> {
        if matches!(self.rest, Rest::UntilClose) {
            self.rest = Rest::Length(0);
        }
        if self.is_done() { Ok(()) } else { Err(Fault::CutShort) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(length: Framing) -> BodyDecoder {
        BodyDecoder::new(length, ChunkLimits::default())
    }

    #[test]
    fn empty_bodies_end_at_once() {
        for length in [Framing::None, Framing::Length(0)] {
            let mut body = decoder(length);
            assert!(body.is_done());
            assert_eq!(body.next(b"GET / HTTP/1.1"), Ok((0, BodyEvent::End)));
            assert_eq!(body.on_eof(), Ok(()));
        }
    }

    #[test]
    fn a_known_length_is_counted() {
        let mut body = decoder(Framing::Length(5));
        assert_eq!(body.next(b""), Ok((0, BodyEvent::NeedMore)));
        assert_eq!(body.next(b"abc"), Ok((3, BodyEvent::Data(0..3))));
        assert_eq!(body.remaining_length(), Some(2));
        assert_eq!(body.on_eof(), Err(Fault::CutShort));
        assert_eq!(body.next(b"deGET"), Ok((2, BodyEvent::Data(0..2))));
        assert!(body.is_done());
        assert_eq!(body.next(b"GET"), Ok((0, BodyEvent::End)));
    }

    #[test]
    fn closing_ends_only_what_it_may_end() {
        let mut body = decoder(Framing::UntilClose);
        assert_eq!(body.next(b"abc"), Ok((3, BodyEvent::Data(0..3))));
        assert!(!body.is_done());
        assert_eq!(body.on_eof(), Ok(()));
        assert_eq!(body.next(b""), Ok((0, BodyEvent::End)));

        let mut body = decoder(Framing::Chunked);
        assert_eq!(body.next(b"0\r\n"), Ok((3, BodyEvent::NeedMore)));
        assert_eq!(body.on_eof(), Err(Fault::CutShort));
    }

    #[test]
    fn a_chunk_is_announced_by_its_size_line() {
        let mut body = decoder(Framing::Chunked);
        assert_eq!(body.next(b"5"), Ok((1, BodyEvent::NeedMore)));
        assert_eq!(body.announced(), 0, "more digits may come");
        assert_eq!(body.next(b"\r\n"), Ok((2, BodyEvent::NeedMore)));
        assert_eq!(body.announced(), 5);
        assert_eq!(body.next(b"ab"), Ok((2, BodyEvent::Data(0..2))));
        assert_eq!(body.announced(), 3);
        assert_eq!(body.next(b"cde\r\n"), Ok((3, BodyEvent::Data(0..3))));
        assert_eq!(body.announced(), 0);
    }

    #[test]
    fn skipped_bytes_count() {
        let mut body = decoder(Framing::Length(5));
        body.skip(4);
        assert_eq!(body.remaining_length(), Some(1));
        body.skip(1);
        assert!(body.is_done());
    }
}
