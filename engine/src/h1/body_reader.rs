//! Reads a body: what has arrived is decoded in place and handed on in its receive buffer where possible.

use sluice_proto::h1::{BodyDecoder, BodyEvent, Trailers};
use sluice_proto::{BodyLength, ChunkLimits, TrailerRule};
use sluice_sys::{Conn, ReadAhead};

use crate::inbox::Inbox;
use crate::message::{Aborted, BodySource, Cause, Part, PlainRest, Shown, Side};

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

    /// The same, with trailers treated like this.
    pub(crate) fn with_trailers(mut self, rule: TrailerRule) -> BodyProgress {
        self.decoder = self.decoder.with_trailers(rule);
        self
    }

    /// Whether the body was or will be a large one, by its length or by what has come.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes_read >= LARGE_BYTES
            || self.decoder.remaining_length().is_some_and(|bytes| bytes >= LARGE_BYTES)
    }
}

/// What was decoded.
enum Event {
    /// So many bytes of data are next in the inbox.
    Data(usize),
    Trailers(Trailers),
    End,
}

impl BodyReader<'_> {
    fn abort(&self, cause: Cause) -> Aborted {
        Aborted::by(self.side, cause)
    }

    /// Decodes one event of what is in the inbox; data stays at its front. `None` if that takes more bytes.
    fn decode(&mut self) -> Result<Option<Event>, Aborted> {
        let decoded = self.progress.decoder.next(self.inbox.unread());
        let (used, event) = decoded.map_err(|fault| self.abort(Cause::Fault(fault)))?;
        let event = match event {
            BodyEvent::Data(range) => {
                self.inbox.consume(range.start);
                return self.note_data(range.len()).map(|()| Some(Event::Data(range.len())));
            }
            BodyEvent::Trailers(trailers) => Some(Event::Trailers(trailers)),
            BodyEvent::End => Some(Event::End),
            BodyEvent::NeedMore => None,
        };
        self.inbox.consume(used);
        Ok(event)
    }

    /// Decodes until there is an event or everything that has arrived is used.
    fn ready_event(&mut self) -> Result<Option<Event>, Aborted> {
        loop {
            if let Some(event) = self.decode()? {
                return Ok(Some(event));
            }
            if !self.inbox.take_ready(self.conn) {
                return Ok(None);
            }
        }
    }

    fn note_data(&mut self, bytes: usize) -> Result<(), Aborted> {
        let (bytes, before) = (bytes as u64, self.progress.bytes_read);
        let left = self.progress.bytes_left.checked_sub(bytes);
        self.progress.bytes_left = left.ok_or(self.abort(Cause::TooLarge))?;
        self.progress.bytes_read += bytes;
        if before < LARGE_BYTES && self.progress.bytes_read >= LARGE_BYTES {
            self.conn.set_read_ahead(ReadAhead::OneBuffer);
        }
        Ok(())
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
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<Shown, Aborted> {
        Ok(match self.ready_event()? {
            Some(Event::Data(bytes)) => {
                see(&self.inbox.unread()[..bytes]);
                self.inbox.consume(bytes);
                Shown::Data
            }
            Some(Event::Trailers(trailers)) => Shown::Trailers(trailers),
            Some(Event::End) => Shown::End,
            None => Shown::Nothing,
        })
    }

    fn ready_part(&mut self) -> Result<Option<Part>, Aborted> {
        Ok(self.ready_event()?.map(|event| match event {
            Event::Data(bytes) => Part::Data(self.inbox.take(bytes)),
            Event::Trailers(trailers) => Part::Trailers(trailers),
            Event::End => Part::End,
        }))
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
