//! Sending: one send per socket in the kernel, the others in line behind it.

use std::task::Poll;

use io_uring::{opcode, squeue, types};

use super::Driver;
use crate::key::NONE;
use crate::op::{Payload, RawPart, State, Unsent, describe_parts};
use crate::patience::Patience;
use crate::table::Flags;
use crate::wheel::{NEVER, Wheel};

impl Driver {
    /// Sends in order: behind a send of the same socket that is still under way, this one waits in line.
    pub(crate) fn send(&mut self, index: u32, payload: Payload, patience: Patience) -> u32 {
        let op = self.ops.insert(index, self.table.generation(index), payload);
        self.send_op(index, op, patience)
    }

    /// The same, for bytes that wait in the socket for the end of the connection.
    pub(crate) fn send_last(&mut self, index: u32, payload: Payload, patience: Patience) -> u32 {
        let op = self.ops.insert(index, self.table.generation(index), payload);
        self.ops.at(op).is_last = true;
        self.send_op(index, op, patience)
    }

    fn send_op(&mut self, index: u32, op: u32, patience: Patience) -> u32 {
        self.set_patience(op, patience);
        let head = self.table.at(index).send;
        if self.table.at(index).fd < 0 || self.table.at(index).flags.has(Flags::SEND_BROKEN) {
            self.finish_op(op, -libc::EPIPE);
        } else if head == NONE {
            self.table.at(index).send = op;
            self.submit_send(op);
        } else {
            let last = std::mem::replace(&mut self.ops.at(head).last, op);
            self.ops.at(last).next = op;
        }
        op
    }

    pub(super) fn set_patience(&mut self, op: u32, patience: Patience) {
        let until = match patience.total_ms {
            0 => NEVER,
            total_ms => Wheel::tick_after(self.now_ms, total_ms),
        };
        let slot = self.ops.at(op);
        slot.stall_ms = u32::try_from(patience.stall_ms).unwrap_or(u32::MAX);
        slot.until = until;
    }

    /// From now on the operation has to make progress.
    pub(super) fn start_patience(&mut self, op: u32) {
        let slot = self.ops.at(op);
        let stalled = match slot.stall_ms {
            0 => NEVER,
            stall_ms => Wheel::tick_after(self.now_ms, u64::from(stall_ms)),
        };
        let due = stalled.min(slot.until);
        if due != NEVER {
            self.stalls.set(&mut self.ops, op, due);
        }
    }

    /// Sends that are under way on a socket.
    pub(crate) fn is_sending(&mut self, index: u32) -> bool {
        self.table.at(index).send != NONE
    }

    /// Whether a completion has reported that some bytes of a send are gone, or that it is over.
    pub(crate) fn has_begun(&mut self, op: u32) -> bool {
        let op = self.ops.at(op);
        op.state == State::Done || op.payload.is_begun()
    }

    /// Waits until no send of the socket is under way.
    pub(crate) fn poll_flushed(&mut self, index: u32) -> Poll<()> {
        let head = self.table.at(index).send;
        if head == NONE {
            return Poll::Ready(());
        }
        let last = self.ops.at(head).last;
        self.waits.add(&mut self.ops.at(last).waiter, self.current);
        Poll::Pending
    }

    fn submit_send(&mut self, op: u32) {
        self.start_patience(op);
        let slot = self.ops.at(op);
        let fd = types::Fd(self.table.at(slot.socket).fd);
        let send = match &mut slot.payload {
            Payload::SendGathered(gathered) => {
                send_message(fd, gathered.describe(|lease| self.buffers.start_of(lease)))
            }
            _ => self.send_of_two(op, fd),
        };
        let key = self.ops.start(op);
        // SAFETY: the bytes, and the description of several parts, belong to the payload, which the table keeps in place until
        // the completion: a Buf's heap block does not move with it, and a leased buffer is not given back before.
        unsafe { self.push(send, key) };
    }

    #[inline]
    fn send_of_two(&mut self, op: u32, fd: types::Fd) -> squeue::Entry {
        let [first, second] = self.unsent(op);
        match &mut self.ops.at(op).payload {
            Payload::SendParts { head, .. } if first.1 > 0 => {
                send_message(fd, describe_parts(head, [first, second]))
            }
            _ => {
                let (start, len) = if first.1 > 0 { first } else { second };
                let more = if self.ops.at(op).is_last { libc::MSG_MORE } else { 0 };
                opcode::Send::new(fd, start, len as u32).flags(libc::MSG_NOSIGNAL | more).build()
            }
        }
    }

    /// What is left of a send that is not gathered, in its first and its second part.
    #[inline]
    pub(crate) fn unsent(&mut self, op: u32) -> [Unsent; 2] {
        const NOTHING: Unsent = (std::ptr::dangling(), 0);
        let behind = |bytes: &[u8], sent: usize| {
            let left = bytes.get(sent..).unwrap_or_default();
            (left.as_ptr(), left.len())
        };
        match &self.ops.at(op).payload {
            Payload::SendBuf { buf, sent } => [behind(buf, *sent), NOTHING],
            Payload::SendLease(lease) => {
                let lease = *lease;
                [(self.lease_start(lease).as_ptr().cast_const(), lease.len()), NOTHING]
            }
            Payload::SendParts { head, body, sent } => {
                let (first, of_body) = (behind(head, *sent), sent.saturating_sub(head.len()));
                let second = match body {
                    RawPart::Buf(buf) => behind(buf, of_body),
                    RawPart::Lease(lease) => {
                        let left = lease.behind(of_body);
                        (self.lease_start(left).as_ptr().cast_const(), left.len())
                    }
                };
                [first, second]
            }
            _ => unreachable!("only sends are sent, and gathered ones are described"),
        }
    }

    /// Counts what was sent and submits the rest; the final result once there is no rest or it cannot go on. Never a
    /// success for a part.
    pub(super) fn send_goes_on(&mut self, index: u32, result: i32) -> Option<i32> {
        let op = self.ops.at(index);
        let Ok(bytes) = usize::try_from(result) else { return Some(result) };
        if op.payload.is_sent_by(bytes) {
            return Some(result);
        }
        if let Payload::SendGathered(gathered) = &mut op.payload {
            // Bytes that a slow peer has taken do not wait for the rest.
            while let Some(lease) = gathered.take_sent() {
                if lease.has_buffer() {
                    self.buffers.give_back(lease.id);
                }
            }
        }
        let (socket, generation, timed_out) = (op.socket, op.socket_generation, op.timed_out);
        if timed_out || !self.table.is_current(socket, generation) || self.table.at(socket).fd < 0 {
            return Some(-libc::ECANCELED);
        }
        self.submit_send(index);
        None
    }

    /// The send at the head of its socket's line has ended: the next one goes, or none ever again.
    pub(super) fn next_send(&mut self, index: u32, result: i32) {
        let op = self.ops.at(index);
        let (socket, generation, is_owned) = (op.socket, op.socket_generation, op.is_owned);
        let (next, last) = (op.next, op.last);
        if !self.table.is_current(socket, generation) || self.table.at(socket).send != index {
            return;
        }
        if result < 0 {
            self.break_sends(socket, next, result);
            if !is_owned {
                self.fail_socket(socket, -result);
            }
            return;
        }
        self.table.at(socket).send = next;
        if next != NONE {
            self.ops.at(next).last = last;
            self.submit_send(next);
            return;
        }
        let flags = self.table.at(socket).flags;
        if flags.has(Flags::IDLE) && flags.has(Flags::ENDED) {
            self.close(socket);
        } else if flags.has(Flags::IDLE) {
            self.try_to_leave(socket);
        }
    }

    /// A send ended before its last byte: what stands in line behind it, and all that would come later, must not follow
    /// a fragment.
    fn break_sends(&mut self, socket: u32, mut next: u32, result: i32) {
        let entry = self.table.at(socket);
        entry.send = NONE;
        entry.flags.set(Flags::SEND_BROKEN);
        while next != NONE {
            let following = self.ops.at(next).next;
            self.finish_queued(next, result);
            next = following;
        }
    }

    /// A connection has failed in a way that its receive does not tell, such as a send that nothing waits for: a task that reads
    /// it learns of it.
    pub(super) fn fail_socket(&mut self, socket: u32, errno: i32) {
        let entry = self.table.at(socket);
        if entry.flags.has(Flags::IDLE) {
            self.close(socket);
        } else {
            entry.fail(errno);
            // Ends the receive that is armed, and with it the wait.
            crate::socket::shutdown_both(entry.fd);
        }
    }
}

fn send_message(fd: types::Fd, message: *const libc::msghdr) -> squeue::Entry {
    opcode::SendMsg::new(fd, message).flags(libc::MSG_NOSIGNAL as u32).build()
}
