//! Reads the body of a message from a stream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use sluice_proto::BodyLength;
use sluice_sys::{Timer, now_ms};

use super::slot::{Incoming, Slot};
use super::stream::Stream;
use crate::message::{
    Aborted, BodySource, Cause, ChunkForm, Data, LARGE_BODY_BYTES, Part, PlainRest, ReadyPart,
};
use crate::min_rate::MinRate;

/// A body that is being read.
pub(crate) struct StreamReader<'a> {
    stream: &'a Stream,
    length: BodyLength,
    /// Bytes of data that may still come.
    bytes_left: u64,
    min_rate: MinRate,
    /// Bytes that were handed on, for which the window opens again when more is asked for: then they have gone on.
    owed: u32,
    /// The trailers were handed on: the end follows.
    is_at_end: bool,
}

impl<'a> StreamReader<'a> {
    /// A body of this length by its head, and of no more than `bytes_max`.
    pub(crate) fn new(stream: &'a Stream, length: BodyLength, bytes_max: u64, min_rate: MinRate) -> Self {
        StreamReader { stream, length, bytes_left: bytes_max, min_rate, owed: 0, is_at_end: false }
    }

    /// How long it is, by its head.
    pub(crate) fn length(&self) -> BodyLength {
        self.length
    }

    /// Whether it is a large one.
    pub(crate) fn is_large(&self) -> bool {
        matches!(self.length, BodyLength::Length(bytes) if bytes >= LARGE_BODY_BYTES)
    }

    /// Bytes of data that were taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.min_rate.bytes()
    }

    /// What has come.
    fn take(&mut self) -> Result<Option<Part>, Aborted> {
        if self.is_at_end {
            return Ok(Some(Part::End));
        }
        self.settle();
        let taken = self.stream.with_slot(|slot| match (slot.received.take(), &mut slot.incoming) {
            (Some(buf), _) => Some(Part::Data(Data::Buf(buf))),
            (None, Incoming::End(trailers)) => Some(trailers.take().map_or(Part::End, Part::Trailers)),
            (None, Incoming::Open) => None,
        });
        match taken.flatten() {
            Some(Part::Data(data)) => {
                self.note(data.bytes().len())?;
                Ok(Some(Part::Data(data)))
            }
            Some(part) => {
                self.is_at_end = true;
                Ok(Some(part))
            }
            None => self.stream.failed().map_or(Ok(None), Err),
        }
    }

    /// What was handed on has gone on: its windows open again.
    fn settle(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if owed > 0 {
            self.stream.session.shard.forget_buffered(owed as usize);
            self.stream.session.give_back(self.stream.key, owed);
        }
    }

    /// Data was taken.
    fn note(&mut self, bytes: usize) -> Result<(), Aborted> {
        self.min_rate.received(bytes as u64);
        self.owed += bytes as u32;
        match self.bytes_left.checked_sub(bytes as u64) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(self.stream.session.aborted(Cause::TooLarge)),
        }
    }

    /// Waits until something has come.
    pub(crate) async fn wait(&mut self, patience_ms: u64) -> Result<(), Aborted> {
        let stream = self.stream;
        let timer = Timer::new(patience_ms);
        stream.with_slot(|slot| slot.receive_timer = Some(timer));
        poll_fn(|context| stream.poll_news(context)).await
    }
}

impl Drop for StreamReader<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Stream {
    /// Waits until something has come, or for as long as its timer runs.
    fn poll_news(&self, context: &mut Context<'_>) -> Poll<Result<(), Aborted>> {
        let polled = match (self.has_news(), self.failed()) {
            (true, _) => Poll::Ready(Ok(())),
            (false, Some(aborted)) => Poll::Ready(Err(aborted)),
            (false, None) => self.poll_late().map(|()| Err(self.session.aborted(Cause::TimedOut))),
        };
        match polled {
            Poll::Pending => self.wait(context),
            Poll::Ready(_) => {
                self.with_slot(|slot| slot.receive_timer.take());
            }
        }
        polled
    }

    fn poll_late(&self) -> Poll<()> {
        let late = |slot: &mut Slot| slot.receive_timer.as_ref().map(Timer::poll_expired);
        self.with_slot(late).flatten().unwrap_or(Poll::Ready(()))
    }

    /// Whether data or an end have come.
    fn has_news(&self) -> bool {
        self.with_slot(|slot| slot.received.is_some() || matches!(slot.incoming, Incoming::End(_)))
            .unwrap_or(false)
    }
}

impl BodySource for StreamReader<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        Ok(match self.take()? {
            None => ReadyPart::Nothing,
            Some(Part::Trailers(trailers)) => ReadyPart::Trailers(trailers),
            Some(Part::Data(data)) => {
                see(data.bytes());
                ReadyPart::Data
            }
            Some(_) => ReadyPart::End,
        })
    }

    fn ready_part(&mut self, _: ChunkForm) -> Result<Option<Part>, Aborted> {
        self.take()
    }

    async fn more(&mut self) -> Result<(), Aborted> {
        let patience_ms = self.min_rate.begin_wait(now_ms());
        let waited = self.wait(patience_ms.map_err(|cause| self.stream.session.aborted(cause))?).await;
        self.min_rate.end_wait(now_ms(), waited)
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        None
    }

    fn skip(&mut self, _: u64) {
        unreachable!("nothing of a stream is taken by other means")
    }
}
