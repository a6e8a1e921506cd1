//! A copy of a request whose body was still coming when its head was sent: made while the body goes on, so that the request can be
//! sent again. Nothing waits for it, and it is dropped when a response head has come or the body is too large.

use std::cell::Cell;
use std::rc::Rc;

use sluice_sys::Buf;

use crate::downstream::RequestBody;
use crate::h1::{append_data, append_end};
use crate::message::{Aborted, BodySource, ChunkForm, Part, PlainRest, ReadyPart};
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::trailers::BodyTrailers;

/// Room for the framing of a body that comes in chunks, beyond its data.
const FRAMING_BYTES: usize = 1_024;

/// What is at hand of a request that was not there as a whole.
#[derive(Default)]
pub(super) struct Kept(Cell<Option<Copy>>);

/// Bytes that count against `limits.kept_bodies_bytes` of the shard.
struct Copy {
    bytes: Buf,
    room: u32,
    /// The body was copied to its end.
    is_whole: bool,
    shard: Rc<Shard>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        let kept = &self.shard.kept_bytes;
        kept.set(kept.get() - self.room as usize);
    }
}

impl Kept {
    /// Begins a copy with what is sent first of a request, with room for so many bytes behind it, unless the shard keeps as much
    /// as it may.
    pub(super) fn begin(&self, shard: &Rc<Shard>, first: &[u8], more_bytes_max: usize) {
        let room = first.len() + more_bytes_max + FRAMING_BYTES;
        let all = shard.kept_bytes.get() + room;
        if all > shard.snapshot().limits.kept_bodies_bytes {
            shard.counters.bodies_not_kept.increment();
            return self.forget();
        }
        shard.kept_bytes.set(all);
        let mut bytes = Buf::with_room(room);
        bytes.extend_from_slice(first);
        self.0.set(Some(Copy { bytes, room: room as u32, is_whole: false, shard: shard.clone() }));
    }

    /// Whether all that was taken of the request is there.
    pub(super) fn is_there(&self) -> bool {
        let copy = self.0.take();
        let is_there = copy.is_some();
        self.0.set(copy);
        is_there
    }

    /// The bytes for another attempt, and whether they are the whole request.
    pub(super) fn take(&self) -> Option<(Buf, bool)> {
        let mut copy = self.0.take()?;
        Some((std::mem::replace(&mut copy.bytes, Buf::small()), copy.is_whole))
    }

    /// It is of no use any more.
    #[cold]
    pub(super) fn forget(&self) {
        self.0.set(None);
    }

    /// Has `append` add to the copy, for which it takes so much room at most.
    fn add(&self, bytes: usize, append: impl FnOnce(&mut Buf)) {
        let Some(mut copy) = self.0.take() else { return };
        if copy.bytes.len() + bytes <= copy.room as usize {
            append(&mut copy.bytes);
            self.0.set(Some(copy));
        }
    }

    /// The body has ended.
    fn end(&self) {
        self.0.set(self.0.take().map(|mut copy| {
            copy.is_whole = true;
            copy
        }));
    }
}

/// The body of a request, of which a copy is made as long as it is wanted.
pub(super) struct KeptBody<'a, 'b> {
    pub(super) from: &'a mut RequestBody<'b>,
    pub(super) kept: &'a Kept,
    /// Have the trailers, where they do not lie behind the body.
    pub(super) lines: &'a mut RequestLines,
    /// It is sent in chunks.
    pub(super) is_chunked: bool,
}

/// A size line and the line ends of one chunk, at most.
const CHUNK_BYTES: usize = 20;

impl KeptBody<'_, '_> {
    fn note_data(&mut self, data: &[u8]) {
        let is_chunked = self.is_chunked;
        self.kept.add(data.len() + CHUNK_BYTES, |copy| append_data(copy, data, is_chunked));
    }

    fn note_trailers(&mut self, trailers: &BodyTrailers) {
        if self.kept.is_there() {
            self.lines.set_trailers(Some(BodyTrailers::copy_of(trailers)));
        }
    }

    fn note_end(&mut self) {
        if self.is_chunked {
            let trailers = self.lines.take_trailers();
            let bytes = trailers.as_ref().map_or(0, |trailers| trailers.heap_bytes());
            self.kept.add(bytes + CHUNK_BYTES, |copy| append_end(copy, trailers.as_deref()));
        }
        self.kept.end();
    }
}

impl BodySource for KeptBody<'_, '_> {
    fn show_ready(&mut self, _: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        unreachable!("what is shown is sent as a whole, and needs no copy")
    }

    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted> {
        let part = self.from.ready_part(form)?;
        if !self.kept.is_there() {
            return Ok(part);
        }
        match &part {
            Some(Part::Data(data)) => self.note_data(data.bytes()),
            Some(Part::Chunks(data)) => {
                self.kept.add(data.bytes().len(), |copy| copy.extend_from_slice(data.bytes()));
            }
            Some(Part::LastChunks(data)) => {
                self.kept.add(data.bytes().len(), |copy| copy.extend_from_slice(data.bytes()));
                self.kept.end();
            }
            Some(Part::Trailers(trailers)) => self.note_trailers(trailers),
            Some(Part::End) => self.note_end(),
            None => {}
        }
        Ok(part)
    }

    fn more(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        self.from.more()
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        // Spliced bytes are seen by nothing.
        if self.kept.is_there() { None } else { self.from.plain_rest() }
    }

    fn skip(&mut self, bytes: u64) {
        self.from.skip(bytes);
    }
}
