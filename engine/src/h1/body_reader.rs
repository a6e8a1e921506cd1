//! Reads a body: what has arrived is decoded in place and handed on in its receive buffer where possible.

use sluice_proto::h1::{BodyDecoder, BodyEvent, Framing};
use sluice_proto::{BodyLength, ChunkLimits, TrailerRule};
use sluice_sys::{ReadAhead, are_buffers_short, now_ms};

use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::message::{
    Aborted, BodySource, Cause, ChunkForm, LARGE_BODY_BYTES, Part, PlainRest, ReadyPart, Side,
};
use crate::min_rate::MinRate;
use crate::trailers::BodyTrailers;

/// A body that is being read.
pub(crate) struct BodyReader<'a> {
    pub(crate) link: &'a Link,
    pub(crate) inbox: &'a mut Inbox,
    pub(crate) progress: BodyProgress,
    /// Whom to blame.
    pub(crate) side: Side,
}

/// How far a body has been read.
pub(crate) struct BodyProgress {
    decoder: BodyDecoder,
    /// Bytes of data that may still come.
    bytes_left: u64,
    /// How long the rest may take, and the bytes of data received so far.
    min_rate: MinRate,
    /// Parts of a few bytes, beyond those that come when a sender has no more to say at the moment. Held against clients
    /// only: servers do answer byte by byte. What they cost is bounded by the sending, which waits after every 48 KiB
    /// (`body_writer`), every sixth byte of which is data.
    tiny_parts: u32,
}

/// The digits of a size line, and its end.
const SIZE_LINE_BYTES_MAX: usize = 18;

/// Data below this size is tiny.
const TINY_BYTES: usize = 4;
/// So much tiny data in one receive is nothing to speak of.
const TINY_PARTS_PER_RECEIVE: u32 = 16;
/// So much more of it is a flood.
const TINY_PARTS_FLOOD: u32 = 1_000;

impl BodyProgress {
    /// A body of which nothing was read, limited to `bytes_max` bytes of data.
    pub(crate) fn new(framing: Framing, bytes_max: u64, min_rate: MinRate) -> BodyProgress {
        BodyProgress {
            decoder: BodyDecoder::new(framing, ChunkLimits::default()),
            bytes_left: bytes_max,
            min_rate,
            tiny_parts: 0,
        }
    }

    /// The same, with trailers treated like this.
    pub(crate) fn with_trailers(mut self, rule: TrailerRule) -> BodyProgress {
        self.decoder = self.decoder.with_trailers(rule);
        self
    }

    /// The same, with whitespace behind the sizes of chunks forgiven.
    #[cold]
    pub(crate) fn with_padding(mut self) -> BodyProgress {
        self.decoder = self.decoder.with_padding();
        self
    }

    /// Whether a flood of tiny parts has come since this was last asked.
    pub(crate) fn takes_flood(&mut self) -> bool {
        let is_flood = self.tiny_parts >= TINY_PARTS_FLOOD;
        if is_flood {
            self.tiny_parts -= TINY_PARTS_FLOOD;
        }
        is_flood
    }
}

/// A decoded part.
enum Event {
    /// So many bytes of data are next in the inbox.
    Data(usize),
    Trailers(BodyTrailers),
    End,
}

impl BodyReader<'_> {
    /// How long the rest of the body is, as far as its head says.
    pub(crate) fn length(&self) -> BodyLength {
        self.progress.decoder.remaining_length().map_or(BodyLength::Streamed, BodyLength::Length)
    }

    /// Whether the body was or will be a large one that could be left in the socket: chunks cannot, they are received anyway.
    pub(crate) fn is_large(&self) -> bool {
        let rest = self.progress.decoder.remaining_length();
        rest.is_some_and(|rest| rest + self.bytes() >= LARGE_BODY_BYTES)
    }

    /// Bytes of data received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.progress.min_rate.bytes()
    }

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
            BodyEvent::Trailers(trailers) => Some(Event::Trailers(BodyTrailers::from(trailers))),
            BodyEvent::End => {
                self.inbox.consume(used);
                // What follows it waits for its turn as long as the answer takes.
                self.inbox.join();
                self.link.release_buffers();
                return Ok(Some(Event::End));
            }
            // The announced size may be too much already.
            BodyEvent::NeedMore => self.check_announced(self.progress.bytes_left).map(|()| None)?,
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
            if !self.inbox.take_ready(self.link) {
                return Ok(None);
            }
            self.note_receive();
        }
    }

    /// Chunks at the front of what has arrived that can go on as they are.
    fn ready_chunks(&mut self) -> Result<Option<Part>, Aborted> {
        if self.inbox.is_empty() && self.inbox.take_ready(self.link) {
            self.note_receive();
        }
        let passed = self.progress.decoder.pass_chunks(self.inbox.unread(), TINY_BYTES as u64);
        let passed = passed.map_err(|fault| self.abort(Cause::Fault(fault)))?;
        if passed.bytes == 0 {
            return Ok(None);
        }
        self.progress.tiny_parts += passed.tiny_chunks;
        self.note_bytes(passed.data_bytes)?;
        let data = self.inbox.take(passed.bytes);
        if passed.is_end {
            // What follows it waits for its turn as long as the response takes.
            self.inbox.join();
            self.link.release_buffers();
            return Ok(Some(Part::LastChunks(data)));
        }
        self.use_up_size_line()?;
        Ok(Some(Part::Chunks(data)))
    }

    /// The beginning of a size line behind chunks that go on as they are must not hold its buffer while they are sent: it is read
    /// now, and its chunk framed anew.
    fn use_up_size_line(&mut self) -> Result<(), Aborted> {
        let rest = self.inbox.unread();
        if rest.is_empty() || rest.len() > SIZE_LINE_BYTES_MAX || rest.contains(&b'\n') {
            return Ok(());
        }
        let read = self.progress.decoder.next(rest);
        let (used, event) = read.map_err(|fault| self.abort(Cause::Fault(fault)))?;
        debug_assert_eq!(event, BodyEvent::NeedMore, "a line that has no end");
        self.inbox.consume(used);
        Ok(())
    }

    fn note_data(&mut self, bytes: usize) -> Result<(), Aborted> {
        if bytes < TINY_BYTES {
            self.progress.tiny_parts += 1;
        }
        self.note_bytes(bytes as u64)
    }

    fn note_bytes(&mut self, bytes: u64) -> Result<(), Aborted> {
        let left = self.progress.bytes_left.checked_sub(bytes).ok_or(self.abort(Cause::TooLarge))?;
        self.check_announced(left)?;
        self.progress.bytes_left = left;
        self.progress.min_rate.received(bytes);
        Ok(())
    }

    fn check_announced(&self, bytes_left: u64) -> Result<(), Aborted> {
        let is_too_large = self.progress.decoder.announced() > bytes_left;
        if is_too_large { Err(self.abort(Cause::TooLarge)) } else { Ok(()) }
    }

    fn note_receive(&mut self) {
        self.progress.tiny_parts = self.progress.tiny_parts.saturating_sub(TINY_PARTS_PER_RECEIVE);
    }

    /// Waits for bytes, at most as long as the connection's deadline allows.
    pub(crate) async fn wait(&mut self) -> Result<(), Aborted> {
        match self.inbox.receive(self.link).await {
            Ok(true) => {
                self.note_receive();
                Ok(())
            }
            // Clean only for a body that ends with its connection.
            Ok(false) => self.progress.decoder.on_eof().map_err(|_| self.abort(Cause::Closed)),
            Err(error) => Err(Aborted::io(self.side, &error)),
        }
    }
}

impl BodySource for BodyReader<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        Ok(match self.ready_event()? {
            Some(Event::Data(bytes)) => {
                see(&self.inbox.unread()[..bytes]);
                self.inbox.consume(bytes);
                ReadyPart::Data
            }
            Some(Event::Trailers(trailers)) => ReadyPart::Trailers(trailers),
            Some(Event::End) => ReadyPart::End,
            None => ReadyPart::Nothing,
        })
    }

    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted> {
        if form == ChunkForm::AsReceived
            && let Some(part) = self.ready_chunks()?
        {
            return Ok(Some(part));
        }
        Ok(self.ready_event()?.map(|event| match event {
            Event::Data(bytes) => Part::Data(self.inbox.take(bytes)),
            Event::Trailers(trailers) => Part::Trailers(trailers),
            Event::End => Part::End,
        }))
    }

    async fn more(&mut self) -> Result<(), Aborted> {
        // From here on it holds what bodies may hold.
        let conn = self.link.transport();
        let is_short = are_buffers_short();
        conn.set_read_ahead(if is_short { ReadAhead::Body } else { ReadAhead::BodyBuffers });
        let patience_ms = self.progress.min_rate.begin_wait(now_ms());
        conn.set_deadline(patience_ms.map_err(|cause| self.abort(cause))?);
        let waited = self.wait().await;
        self.progress.min_rate.end_wait(now_ms(), waited)
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        let bytes = self.progress.decoder.remaining_length()?;
        let is_untouched = self.inbox.is_empty() && bytes <= self.progress.bytes_left;
        let min_rate = Some(&mut self.progress.min_rate);
        let conn = self.link.plain_to_receive().filter(|_| is_untouched)?;
        Some(PlainRest { conn, bytes, min_rate, side: self.side })
    }

    fn skip(&mut self, bytes: u64) {
        self.progress.decoder.skip(bytes);
        self.progress.bytes_left -= bytes;
    }
}
