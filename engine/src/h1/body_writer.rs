//! Writes a body, behind a head that may still wait to be sent with it.

use std::cell::Cell;

use sluice_proto::Trailers;
use sluice_proto::h1::{CHUNK_END, write_chunk_size, write_last_chunk};
use sluice_sys::{Buf, Lease, Leases, Patience, Sending, are_buffers_short, now_ms};

use crate::connection::link::Link;
use crate::message::{Aborted, BodySink, COPY_BYTES_MAX, ChunkForm, Data, Part, PlainSink, Side};
use crate::min_rate::{MinRate, short};
use crate::shard::Shard;

/// With so much waiting, it is sent; with so much of it copied, too.
const WAITING_BYTES_MAX: usize = 48 * 1024;
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// How the last send of a body is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// Wait until the kernel has taken everything: the connection is closed next.
    Await,
    /// Go on; the connection is used again, and a failure will end its receive.
    Detach,
}

/// A body that is being written.
pub(crate) struct BodyWriter<'a> {
    link: &'a Link,
    /// Bytes that wait to be sent: the head, and small parts behind it; then large ones, in the buffers they came in.
    out: Option<Buf>,
    parts: Leases,
    is_chunked: bool,
    /// Whom to blame.
    side: Side,
    /// How long the peer may take: without progress, and in all.
    min_rate: MinRate,
    last: Last,
    /// Counts what goes out.
    sent_bytes: Option<&'a Cell<u64>>,
    /// Knows whether the kernel may seal what goes out over TLS.
    shard: Option<&'a Shard>,
}

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(
        link: &'a Link,
        head: Option<Buf>,
        is_chunked: bool,
        side: Side,
        stall_ms: u64,
    ) -> Self {
        let min_rate = MinRate::by_pauses(stall_ms);
        BodyWriter {
            link,
            out: head,
            parts: Leases::new(),
            is_chunked,
            side,
            min_rate,
            last: Last::Await,
            sent_bytes: None,
            shard: None,
        }
    }

    pub(crate) fn with_last(mut self, last: Last) -> Self {
        self.last = last;
        self
    }

    /// The peer has to take the body at this rate.
    pub(crate) fn with_min_rate(mut self, min_rate: MinRate) -> Self {
        self.min_rate = min_rate;
        self
    }

    /// Has `sent_bytes` count what goes out, from the beginning of each send on.
    pub(crate) fn counting(mut self, sent_bytes: &'a Cell<u64>) -> Self {
        self.sent_bytes = Some(sent_bytes);
        self
    }

    /// Over TLS, the kernel may seal large bodies if the listener of the connection says so.
    pub(crate) fn with_kernel_tls(mut self, shard: &'a Shard) -> Self {
        self.shard = Some(shard);
        self
    }

    /// Like `finish`, for a message that waits to be sent as a whole: behind the last message of a connection nothing follows but
    /// its end, which goes out with it.
    pub(crate) async fn finish_whole(&mut self) -> Result<(), Aborted> {
        debug_assert!(self.parts.is_empty(), "a small message is one buffer");
        if self.last == Last::Detach {
            return self.finish().await;
        }
        let Some(out) = self.out.take() else { return Ok(()) };
        let patience = self.begin_send(out.len());
        let sent = self.link.send_last(out, patience).await;
        sent.result.map_err(|error| Aborted::sending(self.side, &error))
    }

    /// Sends what waits, if anything does.
    fn start_send(&mut self) -> Option<Sending> {
        let (out, parts) = (self.out.take(), std::mem::take(&mut self.parts));
        let bytes = out.as_ref().map_or(0, |out| out.len()) + parts.bytes();
        if bytes == 0 {
            return None;
        }
        let patience = self.begin_send(bytes);
        Some(self.link.send_behind(out, parts, patience))
    }

    /// A send of so many bytes begins; says how long it may take.
    fn begin_send(&mut self, bytes: usize) -> Patience {
        self.count(bytes as u64);
        Patience { stall_ms: self.min_rate.stall_ms(), total_ms: self.min_rate.begin_send(now_ms(), bytes) }
    }

    fn count(&self, bytes: u64) {
        if let Some(sent_bytes) = self.sent_bytes {
            sent_bytes.set(sent_bytes.get() + bytes);
        }
    }

    fn out(&mut self) -> &mut Buf {
        self.out.get_or_insert_with(Buf::small)
    }

    /// Whether received bytes are sent out of their buffer.
    fn goes_as_it_is(&self, lease: &Lease) -> bool {
        let is_large = lease.len() > COPY_BYTES_MAX;
        !self.parts.is_empty() || (is_large && !(self.is_chunked && are_buffers_short()))
    }
}

impl BodySink for BodyWriter<'_> {
    fn chunk_form(&self) -> ChunkForm {
        if self.is_chunked { ChunkForm::AsReceived } else { ChunkForm::Decoded }
    }

    /// Copied bytes must not overtake those that wait in other buffers.
    fn is_blocked_for(&self, part: &Part) -> bool {
        !self.parts.is_empty()
            && match part {
                // Where buffers are short, chunks are copied: a slow reader then holds none.
                Part::Chunks(_) | Part::LastChunks(_) if are_buffers_short() => true,
                Part::End => self.is_chunked,
                Part::Data(data) => self.is_chunked || matches!(data, Data::Buf(_)),
                Part::Chunks(data) | Part::LastChunks(data) => matches!(data, Data::Buf(_)),
                Part::Trailers(_) => false,
            }
    }

    fn is_blocked_for_copies(&self) -> bool {
        !self.parts.is_empty()
    }

    fn add(&mut self, data: Data) {
        if self.is_chunked {
            append_data(self.out(), data.bytes(), true);
        } else {
            self.add_chunks(data);
        }
    }

    fn add_chunks(&mut self, data: Data) {
        match data {
            Data::Lease(lease) if self.goes_as_it_is(&lease) => {
                let added = self.parts.push(lease);
                assert!(added.is_ok(), "what is full is sent first");
            }
            data => {
                assert!(self.parts.is_empty(), "what is copied does not overtake");
                self.out().extend_from_slice(data.bytes());
            }
        }
    }

    fn add_end(&mut self, trailers: Option<&Trailers>) {
        if self.is_chunked {
            append_end(self.out(), trailers);
        }
    }

    fn is_full(&self) -> bool {
        let copied_bytes = self.out.as_ref().map_or(0, |out| out.len());
        self.parts.is_full()
            || copied_bytes >= COPIED_BYTES_MAX
            || copied_bytes + self.parts.bytes() >= WAITING_BYTES_MAX
            || (!self.parts.is_empty() && are_buffers_short())
    }

    async fn flush(&mut self) -> Result<(), Aborted> {
        let Some(sending) = self.start_send() else { return Ok(()) };
        let sent = sending.await;
        self.min_rate.end_send(now_ms());
        sent.result.map_err(|error| Aborted::sending(self.side, &error))
    }

    fn prepare_for(&mut self, bytes: u64) {
        let (Some(shard), Link::Tls(tls), false) = (self.shard, self.link, self.is_chunked) else { return };
        if shard.tls.of(tls.conn().listener()).is_none_or(|listener| !listener.kernel_tls) {
            return;
        }
        match tls.offload(bytes) {
            Ok(true) => shard.counters.tls_offloads.increment(),
            Ok(false) => {}
            Err(_) => shard.counters.tls_offloads_failed.increment(),
        }
    }

    fn takes_large_pieces(&self) -> bool {
        !self.is_chunked && self.link.plain_to_send().is_none()
    }

    async fn send_by_itself(&mut self, piece: Data) -> Result<(), Aborted> {
        let patience = self.begin_send(piece.bytes().len());
        let sent = self.link.send(piece, patience).await;
        self.min_rate.end_send(now_ms());
        sent.result.map_err(|error| Aborted::sending(self.side, &error))
    }

    async fn finish(&mut self) -> Result<(), Aborted> {
        if self.last == Last::Await {
            return self.flush().await;
        }
        if let Some(sending) = self.start_send() {
            sending.detach();
        }
        Ok(())
    }

    fn plain(&mut self) -> Option<PlainSink<'_>> {
        let conn = self.link.plain_to_send().filter(|_| !self.is_chunked)?;
        Some(PlainSink {
            conn,
            stall_ms: short(self.min_rate.stall_ms()),
            min_rate: Some(&mut self.min_rate),
            side: self.side,
        })
    }

    fn skip(&mut self, bytes: u64) {
        self.link.count_moved(bytes);
        self.count(bytes);
    }
}

/// Appends data as it looks on the wire.
pub(crate) fn append_data(out: &mut Vec<u8>, bytes: &[u8], is_chunked: bool) {
    if is_chunked {
        write_chunk_size(out, bytes.len());
        out.extend_from_slice(bytes);
        out.extend_from_slice(CHUNK_END);
    } else {
        out.extend_from_slice(bytes);
    }
}

/// Appends the end of a chunked body.
pub(crate) fn append_end(out: &mut Vec<u8>, trailers: Option<&Trailers>) {
    write_last_chunk(out, trailers);
}
