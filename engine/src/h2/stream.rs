//! One stream of a session, as its exchange holds it.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_proto::h2::{self, ErrorCode, StreamKey};
use sluice_proto::{Fault, Trailers};

use super::lines::Lines;
use super::session::Session;
use super::slot::{Incoming, Slot};
use crate::connection::link::Data;
use crate::message::{Aborted, Cause, Side};
use sluice_sys::{Buf, LARGE_BYTES};

/// One stream, held by its exchange: its place is free when this is dropped.
pub(crate) struct Stream {
    pub(crate) session: Rc<Session>,
    pub(crate) key: StreamKey,
    /// The reason that the peer gets if the stream ends before its end.
    pub(crate) code: Cell<ErrorCode>,
}

impl Stream {
    pub(crate) fn new(session: Rc<Session>, key: StreamKey) -> Stream {
        Stream { session, key, code: Cell::new(ErrorCode::CANCEL) }
    }

    /// Changes its state, unless it is over.
    pub(super) fn with_slot<R>(&self, work: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        self.session.inner.borrow_mut().slot(self.key).map(work)
    }

    /// The next head, if it has come.
    pub(crate) fn take_head(&self) -> Option<Lines> {
        self.with_slot(|slot| slot.heads.pop_front()).flatten()
    }

    /// The rule that the head breaks, and for which it is refused.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.with_slot(|slot| slot.fault).flatten()
    }

    /// Why nothing more comes and goes, if that is so.
    pub(crate) fn failed(&self) -> Option<Aborted> {
        let gone = self.session.aborted(Cause::Closed);
        self.with_slot(|slot| slot.failed).unwrap_or(Some(gone))
    }

    /// Whether the peer has said that it did nothing about the stream.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.7
    pub(crate) fn is_unprocessed(&self) -> bool {
        self.with_slot(|slot| slot.is_unprocessed).unwrap_or(false)
    }

    /// The current task is woken by what happens to the stream.
    pub(crate) fn wait(&self, context: &Context<'_>) {
        self.with_slot(|slot| {
            if slot.waiter.as_ref().is_none_or(|waiter| !waiter.will_wake(context.waker())) {
                slot.waiter = Some(context.waker().clone());
            }
        });
    }

    /// What has come; `None` once the peer has finished. For a task that has no room for a reader: it gives the bytes back by itself.
    pub(crate) fn poll_receive(&self, context: &Context<'_>) -> Poll<Result<Option<Data>, Aborted>> {
        let taken = self.with_slot(|slot| match (slot.received.take(), &slot.incoming) {
            (Some(buf), _) => Some(Some(buf)),
            (None, Incoming::End(_)) => Some(None),
            (None, Incoming::Open) => None,
        });
        match taken.flatten() {
            Some(Some(buf)) => {
                self.session.shard.forget_buffered(buf.len());
                Poll::Ready(Ok(Some(Data::Buf(buf))))
            }
            Some(None) => Poll::Ready(Ok(None)),
            None => match self.failed() {
                Some(aborted) => Poll::Ready(Err(aborted)),
                None => {
                    self.wait(context);
                    Poll::Pending
                }
            },
        }
    }

    /// How many bytes wait to be sent; `None` when all are on their way.
    pub(crate) fn unsent_bytes(&self) -> Option<u32> {
        self.with_slot(|slot| slot.is_sending().then(|| slot.unsent().len() as u32)).flatten()
    }

    /// Sends data, or has it wait with the stream. With `is_last` nothing follows but trailers.
    pub(crate) fn send(&self, data: &[u8], is_last: bool) {
        self.session.change(|inner, rules| inner.send(self.key, data, is_last, rules));
    }

    /// Whether a large piece would go out without a wait for windows or other streams.
    pub(crate) fn takes_piece(&self) -> bool {
        let inner = self.session.inner.borrow();
        inner.machine.sendable(self.key) >= LARGE_BYTES && inner.turns.is_empty()
    }

    /// The same for a large piece, which is not copied to where it waits. Nothing else of the stream waits.
    pub(crate) fn send_piece(&self, piece: Buf, is_last: bool) {
        self.session.change(|inner, rules| inner.send_piece(self.key, piece, is_last, rules));
    }

    /// Ends our side of it: with trailers, or without.
    pub(crate) fn end(&self, trailers: Option<&Trailers>) {
        self.session.change(|inner, rules| inner.end(self.key, trailers, rules));
    }

    /// Has the machine write something for this stream; says how many bytes that were.
    pub(crate) fn write(&self, write: impl FnOnce(&mut h2::Session, StreamKey, &mut Vec<u8>)) -> usize {
        self.session.change(|inner, _| {
            let (machine, out) = inner.machine_and_out();
            let before = out.len();
            write(machine, self.key, out);
            out.len() - before
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let key = self.key;
        self.session.change(|inner, rules| {
            let Some(slot) = inner.slot(key) else { return };
            let unread = slot.received.as_ref().map_or(0, |buf| buf.len());
            let (withheld, has_turn) = (slot.withheld, slot.has_turn);
            slot.clear();
            if has_turn {
                inner.turns.remove(key);
            }
            inner.narrow(key);
            self.session.shard.forget_buffered(unread);
            let (machine, out) = inner.machine_and_out();
            machine.give_back_shared(withheld, rules, out);
            machine.close(key, self.code.get(), out);
            if out.is_empty() {
                inner.out = None;
            }
        });
        if self.session.side == Side::Downstream {
            self.session.shard.stream_ends();
        }
        // It may have been the last one that the connection is kept for.
        if self.session.streams() == 0 {
            self.session.wake_driver();
        }
    }
}
