//! Operations with a slot of their own: started, completed, collected by their future or left behind by it.

use std::task::Poll;

use io_uring::{opcode, squeue, types};

use super::{Driver, Wake};
use crate::buf::Buf;
use crate::key::Key;
use crate::op::{Payload, RawPart, SockAddr, State};
use crate::patience::Patience;
use crate::ring::Completion;
use crate::wheel::NEVER;

impl Driver {
    /// Receives into a buffer of ours. The socket's multishot receive must be out of the kernel.
    pub(crate) fn fill(&mut self, index: u32, mut buf: Buf, bytes_max: u32, stall_ms: u64) -> u32 {
        buf.clear();
        let fd = types::Fd(self.table.at(index).fd);
        self.start_op(index, Payload::Fill(buf, bytes_max), stall_ms.into(), |payload| {
            let (start, room) = payload.room();
            opcode::Recv::new(fd, start, room).build()
        })
    }

    pub(crate) fn connect(&mut self, index: u32, address: &std::net::SocketAddr, stall_ms: u64) -> u32 {
        let (address, bytes) = SockAddr::new(address);
        let fd = types::Fd(self.table.at(index).fd);
        self.start_op(index, Payload::Address(Box::new(address)), stall_ms.into(), |payload| {
            opcode::Connect::new(fd, payload.address(), bytes).build()
        })
    }

    /// Waits until the socket can be read or written, without doing it.
    pub(crate) fn poll_ready(&mut self, index: u32, events: u32, patience: Patience) -> u32 {
        let fd = types::Fd(self.table.at(index).fd);
        let is_for_room = events & libc::POLLOUT as u32 != 0;
        let payload = if is_for_room { Payload::Room } else { Payload::Nothing };
        self.start_op(index, payload, patience, |_| opcode::PollAdd::new(fd, events).build())
    }

    /// The entry is made from the payload in its final place: moving the owner of a pointer's target, even a box, would
    /// invalidate the pointer.
    fn start_op(
        &mut self,
        index: u32,
        payload: Payload,
        patience: Patience,
        entry: impl FnOnce(&mut Payload) -> squeue::Entry,
    ) -> u32 {
        let op = self.ops.insert(index, self.table.generation(index), payload);
        self.set_patience(op, patience);
        self.start_patience(op);
        let entry = entry(&mut self.ops.at(op).payload);
        let key = self.ops.start(op);
        // SAFETY: what the entry points to is heap memory owned by the payload, which the table keeps unmoved until
        // the completion.
        unsafe { self.push(entry, key) };
        op
    }

    pub(super) fn op_completed(&mut self, completion: Completion) -> Wake {
        let Some(index) = self.ops.completed(completion.key) else {
            return Wake::NoTask;
        };
        let is_send = self.ops.at(index).is_send();
        let result =
            if is_send { self.send_goes_on(index, completion.result) } else { Some(completion.result) };
        let Some(result) = result else { return Wake::NoTask };
        self.stalls.set(&mut self.ops, index, NEVER);
        let is_late = self.ops.at(index).timed_out && result == -libc::ECANCELED;
        let result = if is_late { -libc::ETIMEDOUT } else { result };
        if is_send {
            self.next_send(index, result);
        }
        let wake = self.waits.take(&mut self.ops.at(index).waiter);
        self.finish_op(index, result);
        wake
    }

    /// A send ends that the kernel never knew. Its waiter is polled in the same turn: no completion will do that.
    pub(super) fn finish_queued(&mut self, index: u32, result: i32) {
        self.waits.make_waiting_ready(&mut self.ops.at(index).waiter);
        self.finish_op(index, result);
    }

    pub(super) fn finish_op(&mut self, index: u32, result: i32) {
        let op = self.ops.at(index);
        op.result = result;
        if op.is_owned {
            op.state = State::Done;
        } else if let Payload::Closing(closing) = self.free_op(index) {
            self.held_closed(*closing, result);
        }
    }

    fn free_op(&mut self, index: u32) -> Payload {
        let payload = self.ops.free(index);
        match payload {
            Payload::SendLease(lease) => {
                self.give_back(lease);
                Payload::Nothing
            }
            Payload::SendParts { head, body, sent } => {
                if let RawPart::Lease(lease) = body {
                    self.give_back(lease);
                }
                Payload::SendBuf { buf: head, sent }
            }
            Payload::SendGathered(gathered) => {
                gathered.leases().iter().for_each(|lease| self.give_back(*lease));
                let (buf, sent) = gathered.into_head();
                Payload::SendBuf { buf, sent }
            }
            other => other,
        }
    }

    /// Collects a finished operation: its result and what it owned.
    pub(crate) fn poll_op(&mut self, index: u32) -> Poll<(i32, Payload)> {
        let current = self.current;
        let op = self.ops.at(index);
        if op.state != State::Done {
            self.waits.add(&mut op.waiter, current);
            return Poll::Pending;
        }
        let result = op.result;
        Poll::Ready((result, self.free_op(index)))
    }

    /// The future of an operation is gone. Sends go on; what only that future could use is cancelled.
    pub(crate) fn orphan(&mut self, index: u32) {
        let op = self.ops.at(index);
        op.is_owned = false;
        if op.is_send() {
            // A task that waits until the socket is flushed has its number here, too: it is polled and comes back to its place.
            self.waits.make_waiting_ready(&mut op.waiter);
        } else {
            self.waits.forget(&mut op.waiter);
        }
        match op.state {
            State::Done => drop(self.free_op(index)),
            State::InFlight if op.payload.is_cancelled_with_its_future() => self.cancel(self.ops.key(index)),
            _ => {}
        }
    }

    pub(super) fn cancel(&mut self, key: Key) {
        let cancel = opcode::AsyncCancel::new(key.bits()).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: cancel refers to no memory.
        unsafe { self.push(cancel, Key::IGNORED) };
    }
}
