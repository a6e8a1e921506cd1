//! Writes the body of a message to a stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};

use sluice_proto::Trailers;
use sluice_sys::{Buf, Timer, now_ms};

use super::slot::{SendTimer, Slot};
use super::stream::Stream;
use crate::message::{Aborted, BodySink, Cause, ChunkForm, Data, Part, PlainSink};
use crate::min_rate::MinRate;

/// A body that is being written.
pub(crate) struct StreamWriter<'a> {
    stream: &'a Stream,
    /// What is still to come by the head; nothing follows the last of it.
    bytes_left: Option<u64>,
    is_ended: bool,
    min_rate: MinRate,
    /// The beginning of the body, which waits to be sent with what follows.
    beginning: Option<Buf>,
    /// Counts what goes out.
    sent_bytes: Option<&'a Cell<u64>>,
}

impl<'a> StreamWriter<'a> {
    /// `bytes`: the length that the head says, if it does.
    pub(crate) fn new(stream: &'a Stream, bytes: Option<u64>, min_rate: MinRate) -> Self {
        StreamWriter {
            stream,
            bytes_left: bytes,
            is_ended: bytes == Some(0),
            min_rate,
            beginning: None,
            sent_bytes: None,
        }
    }

    /// Has `sent_bytes` count what goes out.
    pub(crate) fn counting(mut self, sent_bytes: &'a Cell<u64>) -> Self {
        self.sent_bytes = Some(sent_bytes);
        self
    }

    /// Behind this beginning of the body.
    pub(crate) fn behind(mut self, beginning: Buf) -> Self {
        self.beginning = Some(beginning);
        self
    }

    /// The last data does not end the stream: trailers may.
    pub(crate) fn expect_trailers(&mut self) {
        self.bytes_left = None;
    }

    /// Sends the beginning, if it waits.
    fn begin(&mut self) {
        if let Some(beginning) = self.beginning.take().filter(|beginning| !beginning.is_empty()) {
            self.add_bytes(&beginning);
        }
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        let is_last = self.note(bytes.len());
        self.stream.send(bytes, is_last);
    }

    /// So many bytes are sent; says whether they are the last.
    fn note(&mut self, bytes: usize) -> bool {
        if let Some(sent_bytes) = self.sent_bytes {
            sent_bytes.set(sent_bytes.get() + bytes as u64);
        }
        self.bytes_left = self.bytes_left.map(|left| left.saturating_sub(bytes as u64));
        let is_last = self.bytes_left == Some(0);
        self.is_ended |= is_last;
        is_last
    }

    /// Whether all of it is on its way.
    fn is_through(&self) -> bool {
        self.stream.with_slot(|slot| !slot.is_sending()).unwrap_or(true)
    }
}

impl BodySink for StreamWriter<'_> {
    fn chunk_form(&self) -> ChunkForm {
        ChunkForm::Decoded
    }

    fn is_blocked_for(&self, _: &Part) -> bool {
        !self.is_through()
    }

    fn is_blocked_for_copies(&self) -> bool {
        !self.is_through()
    }

    fn add(&mut self, data: Data) {
        self.begin();
        self.add_bytes(data.bytes());
    }

    fn add_chunks(&mut self, _: Data) {
        unreachable!("a stream wants its data without chunks")
    }

    fn add_end(&mut self, trailers: Option<&Trailers>) {
        self.begin();
        if !self.is_ended {
            self.is_ended = true;
            self.stream.end(trailers);
        }
    }

    fn is_full(&self) -> bool {
        !self.is_through()
    }

    async fn flush(&mut self) -> Result<(), Aborted> {
        self.begin();
        if self.is_through() {
            return self.stream.failed().map_or(Ok(()), Err);
        }
        let bytes = self.stream.with_slot(|slot| slot.unsent().len()).unwrap_or(0);
        let total_ms = self.min_rate.begin_send(now_ms(), bytes);
        self.stream.begin_wait(self.min_rate.stall_ms(), total_ms);
        let result = poll_fn(|context| self.stream.poll_sent(self.min_rate.stall_ms(), context)).await;
        self.min_rate.end_send(now_ms());
        result
    }

    fn prepare_for(&mut self, _: u64) {}

    /// One that goes out by the windows as they are, on a connection that has nothing else waiting: so it has one at most.
    fn takes_large_pieces(&self) -> bool {
        self.stream.takes_piece()
    }

    async fn send_by_itself(&mut self, piece: Data) -> Result<(), Aborted> {
        self.begin();
        match piece {
            Data::Buf(buf) if self.is_through() => {
                let is_last = self.note(buf.len());
                self.stream.send_piece(buf, is_last);
            }
            piece => self.add(piece),
        }
        self.flush().await
    }

    async fn finish(&mut self) -> Result<(), Aborted> {
        self.flush().await
    }

    fn plain(&mut self) -> Option<PlainSink<'_>> {
        None
    }

    fn skip(&mut self, _: u64) {
        unreachable!("nothing is put on a stream by other means")
    }
}

impl Stream {
    /// The wait for data to be sent begins: no longer than `stall_ms` without progress, and than `total_ms` in all (0 for any).
    fn begin_wait(&self, stall_ms: u64, total_ms: u64) {
        let (first_ms, end_ms) = match total_ms {
            0 => (stall_ms, u64::MAX),
            total_ms => (stall_ms.min(total_ms), now_ms() + total_ms),
        };
        let timer = Timer::new(first_ms);
        self.with_slot(|slot| slot.send_timer = Some(SendTimer { timer, end_ms, unsent: usize::MAX }));
    }

    /// Waits until all data is on its way.
    fn poll_sent(&self, stall_ms: u64, context: &mut Context<'_>) -> Poll<Result<(), Aborted>> {
        let polled = match self.failed() {
            Some(aborted) => Poll::Ready(Err(aborted)),
            None => self
                .with_slot(|slot| slot.poll_sent(stall_ms))
                .unwrap_or(Poll::Ready(Ok(())))
                .map_err(|cause| self.session.aborted(cause)),
        };
        match polled {
            Poll::Pending => self.wait(context),
            Poll::Ready(_) => {
                self.with_slot(|slot| slot.send_timer.take());
            }
        }
        polled
    }
}

impl Slot {
    fn poll_sent(&mut self, stall_ms: u64) -> Poll<Result<(), Cause>> {
        if !self.is_sending() {
            return Poll::Ready(Ok(()));
        }
        let left = self.unsent().len();
        let Some(SendTimer { timer, end_ms, unsent }) = &mut self.send_timer else { return Poll::Pending };
        if left < *unsent {
            *unsent = left;
            timer.reset(stall_ms.min(end_ms.saturating_sub(now_ms())).max(1));
        }
        timer.poll_expired().map(|()| Err(Cause::Stalled))
    }
}
