//! Writes a body, behind a head that may still wait to be sent with it.

use std::cell::Cell;

use sluice_proto::h1::{CHUNK_END, Trailers, write_chunk_size, write_last_chunk};
use sluice_sys::{Buf, Patience, Sending, now_ms};

use crate::connection::link::Link;
use crate::message::{Aborted, BodySink, Data, PlainSink, Side};
use crate::min_rate::{MinRate, short};

/// Data up to this size is copied behind what waits already; one send costs more than the copy. Larger data goes out of
/// the buffer it came in.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// What to do with the last send of a body.
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
    /// What waits to be sent: the head, and small parts behind it.
    out: Option<Buf>,
    is_chunked: bool,
    /// Whom to blame.
    side: Side,
    /// Longest time without progress, in milliseconds.
    stall_ms: u64,
    /// How long the peer may take in all.
    min_rate: MinRate,
    last: Last,
    /// Counts what goes out.
    sent_bytes: Option<&'a Cell<u64>>,
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
            is_chunked,
            side,
            stall_ms,
            min_rate,
            last: Last::Await,
            sent_bytes: None,
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

    /// Sends what waits as the last of the message: its end is written already.
    pub(crate) async fn finish(&mut self) -> Result<(), Aborted> {
        if self.last == Last::Await {
            return self.flush().await;
        }
        if let Some(out) = self.out.take() {
            let patience = self.begin_send(out.len());
            self.link.send(out, patience).detach();
        }
        Ok(())
    }

    /// A send of so many bytes begins; says how long it may take.
    fn begin_send(&mut self, bytes: usize) -> Patience {
        self.count(bytes as u64);
        Patience { stall_ms: self.stall_ms, total_ms: self.min_rate.begin_send(now_ms(), bytes) }
    }

    /// Waits until the kernel has taken all of a send.
    async fn sent(&mut self, sending: Sending) -> Result<(), Aborted> {
        let sent = sending.await;
        self.min_rate.end_send(now_ms());
        sent.result.map_err(|error| Aborted::sending(self.side, &error))
    }

    fn count(&self, bytes: u64) {
        if let Some(sent_bytes) = self.sent_bytes {
            sent_bytes.set(sent_bytes.get() + bytes);
        }
    }

    fn out(&mut self) -> &mut Buf {
        self.out.get_or_insert_with(Buf::small)
    }

    fn waiting_bytes(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }
}

impl BodySink for BodyWriter<'_> {
    async fn data(&mut self, data: Data) -> Result<(), Aborted> {
        let data = match data {
            // Nothing waits and nothing has to be put around it: no copy.
            Data::Lease(lease) if !self.is_chunked && self.waiting_bytes() == 0 => {
                let patience = self.begin_send(lease.len());
                return self.sent(self.link.send(lease, patience)).await;
            }
            data => data,
        };
        let is_chunked = self.is_chunked;
        append_data(self.out(), data.bytes(), is_chunked);
        drop(data);
        if self.waiting_bytes() >= JOIN_BYTES_MAX { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Aborted> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let patience = self.begin_send(out.len());
        self.sent(self.link.send(out, patience)).await
    }

    fn plain(&mut self) -> Option<PlainSink<'_>> {
        let conn = self.link.plain().filter(|_| !self.is_chunked)?;
        Some(PlainSink {
            conn,
            stall_ms: short(self.stall_ms),
            min_rate: Some(&mut self.min_rate),
            side: self.side,
        })
    }

    fn skip(&mut self, bytes: u64) {
        self.count(bytes);
    }

    async fn end(&mut self, trailers: Option<Box<Trailers>>) -> Result<(), Aborted> {
        if self.is_chunked {
            append_end(self.out(), trailers.as_deref());
        }
        self.finish().await
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
