//! Receiving: armed once per socket, queued in its entry, stopped when nobody keeps up.

use std::io;
use std::task::Poll;

use io_uring::{opcode, squeue, types};

use super::{Driver, Wake, wake_of};
use crate::buf_ring::GROUP;
use crate::key::{Kind, NONE};
use crate::lease::RawLease;
use crate::ring::Completion;
use crate::table::{Flags, QUEUE_MAX, QUEUE_MAX_UNREAD};

impl Driver {
    pub(crate) fn poll_receive(&mut self, index: u32) -> Poll<io::Result<Option<RawLease>>> {
        if let Some(lease) = self.table.queue_pop(index) {
            self.table.at(index).flags.clear(Flags::WANTED);
            return Poll::Ready(Ok(Some(lease)));
        }
        let current = self.current;
        let entry = self.table.at(index);
        if let Some(errno) = entry.error() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if entry.flags.has(Flags::ENDED) {
            return Poll::Ready(Ok(None));
        }
        if entry.flags.has(Flags::EXPIRED) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        entry.waiter = current;
        entry.flags.set(Flags::WANTED);
        self.arm_receive(index);
        Poll::Pending
    }

    /// Waits until the connection has failed, as the armed receive tells; `None` if none is armed to tell it.
    pub(crate) fn poll_failed(&mut self, index: u32) -> Poll<Option<i32>> {
        let current = self.current;
        let entry = self.table.at(index);
        if let Some(errno) = entry.error() {
            return Poll::Ready(Some(errno));
        }
        if !entry.flags.has(Flags::ARMED) || entry.flags.has(Flags::STOPPING) {
            return Poll::Ready(None);
        }
        entry.waiter = current;
        Poll::Pending
    }

    /// Waits until the multishot receive of a socket is out of the kernel, so that bytes can be received otherwise.
    pub(crate) fn poll_disarmed(&mut self, index: u32) -> Poll<()> {
        let current = self.current;
        let entry = self.table.at(index);
        if !entry.flags.has(Flags::ARMED) {
            // Nor must it be armed again when buffers come back.
            entry.flags.clear(Flags::STARVED);
            return Poll::Ready(());
        }
        entry.waiter = current;
        self.stop_receive(index);
        Poll::Pending
    }

    pub(super) fn received(&mut self, completion: Completion) -> Wake {
        if let Some(id) = completion.buffer() {
            self.buffers.take(id);
        }
        let Some(index) = self.table.current(completion.key) else {
            self.give_back_picked(completion);
            if completion.has_more() {
                // Its end was asked for when it was closed; a peer that never pauses must not put it off.
                self.cancel(completion.key);
            }
            return Wake::Nobody;
        };
        let entry = self.table.at(index);
        if !completion.has_more() {
            entry.flags.clear(Flags::ARMED);
            entry.flags.clear(Flags::STOPPING);
        }
        match (completion.result, completion.buffer()) {
            (bytes @ 1.., Some(id)) => return self.bytes_arrived(index, id, bytes as u16),
            (0, _) => entry.flags.set(Flags::ENDED),
            (errno, _) if errno == -libc::ENOBUFS => {
                self.starve(index);
                return Wake::Nobody;
            }
            // Stopped on request; whoever waits arms it again when the queue is empty.
            (errno, _) if errno == -libc::ECANCELED => {
                if entry.flags.has(Flags::RESTING) || entry.flags.has(Flags::IDLE) {
                    if !self.try_to_leave(index) {
                        self.arm_receive(index);
                    }
                    return Wake::Nobody;
                }
                return wake_of(&mut entry.waiter);
            }
            (errno, _) => entry.fail(-errno),
        }
        self.give_back_picked(completion);
        self.ended(index)
    }

    fn bytes_arrived(&mut self, index: u32, id: u16, bytes: u16) -> Wake {
        self.table.queue_push(index, id, bytes);
        let entry = self.table.at(index);
        let is_scarce = self.buffers.available() < usize::from(self.buffers.count() / 4);
        let queue_max = match entry.flags.has(Flags::WANTED) {
            _ if is_scarce => 1,
            false => QUEUE_MAX_UNREAD,
            true => QUEUE_MAX,
        };
        if entry.queue_len >= queue_max && entry.flags.has(Flags::ARMED) && !entry.flags.has(Flags::IDLE) {
            self.stop_receive(index);
            self.stats.receives_stopped += 1;
        }
        let entry = self.table.at(index);
        if entry.flags.has(Flags::IDLE) {
            return self.unpark(index);
        }
        if entry.flags.has(Flags::RESTING) {
            // Bytes that nobody asked for: whatever they are, no request may get them as its answer.
            self.retire(index);
            return Wake::Nobody;
        }
        wake_of(&mut entry.waiter)
    }

    /// Gives a parked connection to a worker.
    pub(super) fn unpark(&mut self, index: u32) -> Wake {
        self.table.at(index).flags.clear(Flags::IDLE);
        Wake::Worker(index)
    }

    fn ended(&mut self, index: u32) -> Wake {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::IDLE) && entry.waiter != NONE {
            // It ended in the middle of a message.
            return self.unpark(index);
        } else if entry.flags.has(Flags::IDLE) {
            // A peer that only has finished sending still gets the rest of its answer; see `next_send`.
            if entry.send == NONE || entry.error().is_some() {
                self.close(index);
            }
        } else if entry.flags.has(Flags::RESTING) {
            self.retire(index);
        } else {
            return wake_of(&mut entry.waiter);
        }
        Wake::Nobody
    }

    pub(super) fn arm_receive(&mut self, index: u32) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ARMED) || entry.flags.has(Flags::STARVED) {
            return;
        }
        entry.flags.set(Flags::ARMED);
        let fd = types::Fd(entry.fd);
        let receive = if entry.flags.has(Flags::ONE_BY_ONE) {
            // Length 0: as much as the buffer that the kernel picks holds.
            let receive = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(GROUP).build();
            receive.flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, GROUP).build()
        };
        let key = self.table.key(Kind::Receive, index);
        // SAFETY: the entry refers to no memory but the buffer group, which lives as long as the ring.
        unsafe { self.push(receive, key) };
    }

    /// Chooses how the next receives are armed; one that is armed otherwise is exchanged.
    pub(crate) fn set_one_by_one(&mut self, index: u32, is_wanted: bool) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ONE_BY_ONE) == is_wanted {
            return;
        }
        if is_wanted {
            entry.flags.set(Flags::ONE_BY_ONE);
        } else {
            entry.flags.clear(Flags::ONE_BY_ONE);
        }
        if is_wanted && entry.flags.has(Flags::ARMED) {
            self.stop_receive(index);
        }
    }

    pub(super) fn stop_receive(&mut self, index: u32) {
        let entry = self.table.at(index);
        if !entry.flags.has(Flags::STOPPING) {
            entry.flags.set(Flags::STOPPING);
            let kind = if entry.flags.has(Flags::LISTENER) { Kind::Accept } else { Kind::Receive };
            self.cancel(self.table.key(kind, index));
        }
    }
}
