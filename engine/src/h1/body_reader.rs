//! Reads a body: what has arrived is decoded in place and handed on in its receive buffer where possible.

use sluice_proto::h1::{BodyDecoder, BodyEvent};
use sluice_proto::{BodyLength, ChunkLimits};
use sluice_sys::{Conn, ReadAhead};

use crate::inbox::Inbox;
use crate::message::{Aborted, BodySource, Cause, Part, PlainRest, Side};

/// A body that is being read.
pub(crate) struct BodyReader<'a> {
    pub(crate) conn: &'a Conn,
    pub(crate) inbox: &'a mut Inbox,
    pub(crate) progress: &'a mut BodyProgress,
    /// Whom to blame.
    pub(crate) side: Side,
    /// Longest pause between two parts, in milliseconds.
    pub(crate) idle_ms: u64,
}

/// How far a body has been read; outlives the reader, so that reading can go on elsewhere.
pub(crate) struct BodyProgress {
    decoder: BodyDecoder,
    /// Bytes of data that may still come.
    bytes_left: u64,
    /// Bytes of data received so far.
    bytes_read: u64,
}

/// A body that has brought this much is received buffer by buffer from then on: it must not hold more of the shard's
/// receive buffers than it takes to keep going.
const LARGE_BYTES: u64 = 64 * 1024;

impl BodyProgress {
    /// A body of which nothing was read, limited to `bytes_max` bytes of data.
    pub(crate) fn new(length: BodyLength, bytes_max: u64) -> BodyProgress {
        BodyProgress {
            decoder: BodyDecoder::new(length, ChunkLimits::default()),
            bytes_left: bytes_max,
            bytes_read: 0,
        }
    }

    /// Whether the body was or will be a large one, by its length or by what has come.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes_read >= LARGE_BYTES
            || self.decoder.remaining_length().is_some_and(|bytes| bytes >= LARGE_BYTES)
    }
}

impl BodyReader<'_> {
    fn abort(&self, cause: Cause) -> Aborted {
        Aborted::by(self.side, cause)
    }

    /// Decodes one event of what is in the inbox; `None` if that takes more bytes.
    fn decode(&mut self) -> Result<Option<Part>, Aborted> {
        let (used, event) = self
            .progress
            .decoder
            .next(self.inbox.unread())
            .map_err(|fault| self.abort(Cause::Fault(fault)))?;
        Ok(match event {
            BodyEvent::Data(range) => {
                self.progress.bytes_left = self
                    .progress
                    .bytes_left
                    .checked_sub(range.len() as u64)
                    .ok_or(self.abort(Cause::TooLarge))?;
                self.note_data(range.len() as u64);
                self.inbox.consume(range.start);
                Some(Part::Data(self.inbox.take(range.len())))
            }
            BodyEvent::Trailers(trailers) => {
                self.inbox.consume(used);
                Some(Part::Trailers(trailers))
            }
            BodyEvent::End => {
                self.inbox.consume(used);
                Some(Part::End)
            }
            BodyEvent::NeedMore => {
                self.inbox.consume(used);
                None
            }
        })
    }

    fn note_data(&mut self, bytes: u64) {
        let before = self.progress.bytes_read;
        self.progress.bytes_read += bytes;
        if before < LARGE_BYTES && self.progress.bytes_read >= LARGE_BYTES {
            self.conn.set_read_ahead(ReadAhead::OneBuffer);
        }
    }

    /// Waits for bytes, at most as long as the connection's deadline allows.
    pub(crate) async fn wait(&mut self) -> Result<(), Aborted> {
        match self.inbox.receive(self.conn).await {
            Ok(true) => Ok(()),
            // Clean only for a body that ends with its connection.
            Ok(false) => self.progress.decoder.on_eof().map_err(|_| self.abort(Cause::Closed)),
            Err(error) => Err(Aborted::io(self.side, &error)),
        }
    }
}

impl BodySource for BodyReader<'_> {
    fn ready_part(&mut self) -> Result<Option<Part>, Aborted> {
        loop {
            if let Some(part) = self.decode()? {
                return Ok(Some(part));
            }
            if !self.inbox.take_ready(self.conn) {
                return Ok(None);
            }
        }
    }

    async fn next_part(&mut self) -> Result<Part, Aborted> {
        loop {
            if let Some(part) = self.ready_part()? {
                return Ok(part);
            }
            self.conn.set_deadline(self.idle_ms);
            self.wait().await?;
        }
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        let bytes = self.progress.decoder.remaining_length()?;
        let is_untouched = self.inbox.is_empty() && bytes <= self.progress.bytes_left;
        is_untouched.then_some(PlainRest { conn: self.conn, bytes, idle_ms: self.idle_ms, side: self.side })
    }

    fn took(&mut self, bytes: u64) {
        self.progress.decoder.skip(bytes);
        self.progress.bytes_left -= bytes;
        self.progress.bytes_read += bytes;
    }
}
