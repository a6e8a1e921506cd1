//! Receiving: armed once per socket, queued in its entry, stopped when its reader does not keep up.
//!
//! A multishot receive hands over everything the socket has before a cancel can reach it, so each is armed with a bound
//! ([`ReadAheadBytes`]); where the kernel has no such bound, buffers are received one by one.

use std::io;
use std::task::Poll;

use io_uring::{opcode, squeue, types};

use super::{Driver, ReadAheadBytes, Wake};
use crate::key::{Kind, NONE};
use crate::lease::RawLease;
use crate::ring::{Completion, bounded_multishot, polled_first};
use crate::socket::ReadAhead;
use crate::table::{Flags, QUEUE_BOUND, QUEUE_MAX};

/// When an armed receive picks its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    Readable,
}

impl Driver {
    pub(crate) fn poll_receive(&mut self, index: u32) -> Poll<io::Result<Option<RawLease>>> {
        if let Some(lease) = self.receive_ready(index) {
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
        self.waits.add(&mut entry.waiter, current);
        entry.flags.set(Flags::WANTED);
        self.arm_receive(index);
        Poll::Pending
    }

    /// The first bytes that have arrived, if any have.
    pub(crate) fn receive_ready(&mut self, index: u32) -> Option<RawLease> {
        let lease = self.table.queue_pop(index)?;
        self.lend(lease);
        Some(lease)
    }

    /// Tasks that waited for the socket no longer wait.
    pub(crate) fn forget_waiters(&mut self, index: u32) {
        self.waits.forget(&mut self.table.at(index).waiter);
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
        self.waits.add(&mut entry.waiter, current);
        Poll::Pending
    }

    /// Waits until the multishot receive of a socket is out of the kernel, so that bytes can be received otherwise.
    pub(crate) fn poll_disarmed(&mut self, index: u32) -> Poll<()> {
        let current = self.current;
        let entry = self.table.at(index);
        if !entry.flags.has(Flags::ARMED) {
            // Nor must it be armed again when buffers come back.
            self.unstarve(index);
            return Poll::Ready(());
        }
        self.waits.add(&mut entry.waiter, current);
        self.stop_receive(index);
        Poll::Pending
    }

    pub(super) fn received(&mut self, completion: Completion) -> Wake {
        if let Some(id) = completion.buffer() {
            self.buffers.take(id, completion.key.index(), self.now_ms);
        }
        let Some(index) = self.table.current(completion.key) else {
            self.give_back_picked(completion);
            if completion.has_more() {
                // Its end was asked for when it was closed; a peer that never pauses must not put it off.
                self.cancel(completion.key);
            }
            return Wake::NoTask;
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
                let entry = self.table.at(index);
                if entry.flags.has(Flags::IDLE) || entry.flags.has(Flags::RESTING) {
                    return Wake::NoTask;
                }
                // A task that waits for bytes goes on waiting; one that waits for the receive to be out of the kernel need not.
                return self.waits.take(&mut entry.waiter);
            }
            // Stopped on request; the waiting task arms it again when the queue is empty.
            (errno, _) if errno == -libc::ECANCELED => {
                if entry.flags.has(Flags::RESTING) || entry.flags.has(Flags::IDLE) {
                    if !self.try_to_leave(index) {
                        self.arm_receive(index);
                    }
                    return Wake::NoTask;
                }
                return self.waits.take(&mut entry.waiter);
            }
            (errno, _) => entry.fail(-errno),
        }
        self.give_back_picked(completion);
        self.ended(index)
    }

    fn bytes_arrived(&mut self, index: u32, id: u16, bytes: u16) -> Wake {
        if self.table.at(index).error().is_some() {
            // Bytes before it may have been dropped: nothing may be read behind a gap.
            self.buffers.give_back(id);
            return Wake::NoTask;
        }
        if !self.join_last(index, id, bytes) && self.table.queue_push(index, id, bytes).is_err() {
            self.overrun(index, id);
            return Wake::NoTask;
        }
        let entry = self.table.at(index);
        if entry.flags.has(Flags::IDLE) {
            if !entry.flags.has(Flags::ARMED) {
                self.go_on_receiving(index, bytes);
            }
            return self.unpark(index);
        }
        if entry.flags.has(Flags::RESTING) {
            // Unsolicited bytes: no request may get them as its response.
            self.retire(index);
            return Wake::NoTask;
        }
        if entry.flags.has(Flags::ARMED) && entry.flags.has(Flags::BODY) {
            // More of the same receive may be among the completions that are being read: what goes on in one send costs less.
            self.waits.make_waiting_ready(&mut entry.waiter);
        }
        let wake = self.waits.take(&mut entry.waiter);
        if !entry.flags.has(Flags::ARMED) {
            self.go_on_receiving(index, bytes);
        } else if entry.queue_len >= QUEUE_MAX && !entry.flags.has(Flags::STOPPING) {
            self.stats.reads_paused += 1;
            self.stop_receive(index);
        }
        wake
    }

    /// A receive has come to its bound. The next one is armed at once where nothing else waits in the queue and the buffer was
    /// not filled, so probably nothing in the socket either: then the socket is watched while its bytes are used. Not in a body,
    /// where what was received may wait long for a slow reader.
    fn go_on_receiving(&mut self, index: u32, bytes: u16) {
        let entry = self.table.at(index);
        if entry.queue_len > 1 {
            self.stats.reads_paused += 1;
        } else if !entry.flags.has(Flags::ONE_BY_ONE)
            && !entry.flags.has(Flags::BODY)
            && u32::from(bytes) < self.buffers.buffer_bytes()
        {
            self.arm_receive(index);
        }
    }

    /// Copies bytes behind those that wait already, if they fit into the same buffer: a peer that sends a byte at a time
    /// to a task that is busy elsewhere does not get a buffer for each. Says whether they fit.
    fn join_last(&mut self, index: u32, id: u16, bytes: u16) -> bool {
        let buffer_bytes = self.buffers.buffer_bytes();
        let Some((last, at)) = self.table.extend_last(index, bytes, buffer_bytes) else { return false };
        self.buffers.copy(id, bytes, last, at);
        self.buffers.give_back(id);
        true
    }

    /// More has arrived than the queue of a socket takes, which the bound of its receive rules out. Bytes that cannot be kept
    /// end the connection: a stream with a gap is worse than none.
    #[cold]
    fn overrun(&mut self, index: u32, id: u16) {
        debug_assert_eq!(self.table.at(index).queue_len, QUEUE_BOUND);
        self.buffers.give_back(id);
        self.drop_unread(index);
        self.stats.queues_overrun += 1;
        if self.table.at(index).flags.has(Flags::RESTING) {
            self.retire(index);
        } else {
            self.fail_socket(index, libc::ENOBUFS);
        }
    }

    /// Gives a parked connection to a worker.
    pub(super) fn unpark(&mut self, index: u32) -> Wake {
        self.table.at(index).flags.clear(Flags::IDLE);
        Wake::Worker(index)
    }

    fn ended(&mut self, index: u32) -> Wake {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::IDLE) && entry.has_partial() {
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
            return self.waits.take(&mut entry.waiter);
        }
        Wake::NoTask
    }

    pub(super) fn arm_receive(&mut self, index: u32) {
        // The kernel picks a buffer before it looks for bytes: with none to pick, a silent peer would be short of one too.
        let is_dry = self.buffers.available(self.table.at(index).purpose()) == 0;
        self.arm_receive_at(index, if is_dry { When::Readable } else { When::Now });
    }

    /// Arms a receive that picks its buffer now, or when there are bytes for it.
    pub(super) fn arm_receive_at(&mut self, index: u32, when: When) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ARMED) || entry.flags.has(Flags::STARVED) {
            return;
        }
        entry.flags.set(Flags::ARMED);
        let (fd, group) = (types::Fd(entry.fd), entry.purpose().group());
        let is_one = entry.flags.has(Flags::ONE_BY_ONE) || self.read_ahead == ReadAheadBytes::OneBuffer;
        let receive = match self.read_ahead {
            ReadAheadBytes::Bounded { accepted, connected } if !is_one => {
                let is_head = entry.flags.has(Flags::ACCEPTED) && !entry.flags.has(Flags::BODY);
                let most = if is_head { accepted } else { connected };
                bounded_multishot(fd, group, most)
            }
            _ => {
                // Length 0: as much as the buffer that the kernel picks holds.
                let receive = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(group).build();
                receive.flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        let receive = if when == When::Readable { polled_first(receive) } else { receive };
        let key = self.table.key(Kind::Receive, index);
        // SAFETY: the entry refers to no memory but the buffer group, which lives as long as the ring.
        unsafe { self.push(receive, key) };
    }

    /// Chooses how the next receives are armed. One that is armed already is exchanged only for the sake of the head of a
    /// message, which is to leave its body in the socket; in a body its bound does.
    pub(crate) fn set_read_ahead(&mut self, index: u32, ahead: ReadAhead) {
        let flags = &mut self.table.at(index).flags;
        let was_one_by_one = flags.has(Flags::ONE_BY_ONE);
        flags.put(Flags::ONE_BY_ONE, matches!(ahead, ReadAhead::OneBuffer | ReadAhead::Body));
        flags.put(Flags::BODY, matches!(ahead, ReadAhead::Body | ReadAhead::BodyBuffers));
        if ahead == ReadAhead::OneBuffer && !was_one_by_one && flags.has(Flags::ARMED) {
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
