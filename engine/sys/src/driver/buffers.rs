//! The receive buffers: who has one, who waits for one, and who has to give one up.
//!
//! The rule when buffers are scarce. Bodies never get the last quarter of a shard's buffers. When less than an eighth is
//! left for messages, or a body's receive found no buffer, the buffers held longest are taken back: the longer they are
//! held, and the fewer are left, the sooner. Sends that own a piece of one are given up as if their peers had stalled; if
//! there is none, the send that the task waits for which received it; bytes that nothing has read are dropped with their
//! connection. So what waits for a slow peer costs that peer's connection and not the next request of another.
//!
//! The age of a buffer is that of its bytes: splitting it, or passing a piece on, makes it no younger.

use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;

use super::Driver;
use super::receive::When;
use crate::buf::{self, Trim};
use crate::buf_ring::{Holder, Use};
use crate::key::NONE;
use crate::lease::RawLease;
use crate::op::{Op, State};
use crate::ring::Completion;
use crate::table::Flags;

/// Buffers taken back in one turn at most.
const RECLAIMED_AT_ONCE: usize = 256;

/// How often the memory of buffers that are not needed is looked at.
pub(super) const TRIM_MS: u64 = 1_000;

/// Sockets whose receive found no buffer, in the order of finding none.
#[derive(Default)]
pub(super) struct Starved {
    queues: [VecDeque<u32>; 2],
}

impl Starved {
    fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    fn waiting(&self, purpose: Use) -> usize {
        self.queues[purpose as usize].len()
    }

    fn remove(&mut self, index: u32) {
        self.queues.iter_mut().for_each(|queue| queue.retain(|starved| *starved != index));
    }
}

/// The sends that may have to be given up for their buffers, as they were when buffers began to be taken back.
struct Sends {
    /// The tasks that wait for one, and for which.
    awaited: HashMap<u32, u32>,
    /// Those that own a piece of a buffer, in the order of the buffers.
    of_buffers: Vec<(u16, u32)>,
}

impl Sends {
    fn of_buffer(&self, id: u16) -> &[(u16, u32)] {
        let first = self.of_buffers.partition_point(|(other, _)| *other < id);
        let count = self.of_buffers[first..].partition_point(|(other, _)| *other == id);
        &self.of_buffers[first..first + count]
    }
}

/// Buffers are short when more than this part of them (one in so many) is held: bodies may hold three quarters.
const SHORT_PART: u32 = 4;

/// ... or with less than so many for every busy worker, each of which may take half as many for the two bodies of its exchange.
const SHORT_PER_WORKER: u32 = 8;

impl Driver {
    pub(super) fn starve(&mut self, index: u32) {
        let entry = self.table.at(index);
        entry.flags.set(Flags::STARVED);
        let purpose = entry.purpose();
        self.stats.recv_buffers_exhausted += 1;
        self.buffers.ran_dry(purpose);
        self.starved.queues[purpose as usize].push_back(index);
    }

    /// A socket does not wait for a buffer any more.
    pub(super) fn unstarve(&mut self, index: u32) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::STARVED) {
            entry.flags.clear(Flags::STARVED);
            self.starved.remove(index);
        }
    }

    /// Arms receives again that found no buffer: as many as there are buffers now, so that they do not all come back
    /// with the same complaint. One that nothing waits for is armed when something does.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        for purpose in Use::ALL {
            let available = self.buffers.available(purpose);
            let mut armed = 0;
            while armed < available {
                let Some(index) = self.starved.queues[purpose as usize].pop_front() else { break };
                let entry = self.table.at(index);
                entry.flags.clear(Flags::STARVED);
                if entry.is_wanted() {
                    self.arm_receive_at(index, When::Readable);
                    armed += 1;
                }
            }
            self.buffers.expect(purpose, armed);
        }
    }

    /// Takes buffers back from those that have held them longest, where others need them.
    pub(super) fn reclaim(&mut self) {
        let is_enough = self.starved.is_empty() && !self.buffers.is_scarce();
        if is_enough || self.reclaimed_ms == self.now_ms {
            return;
        }
        let is_at_rest = self.ring.is_at_rest();
        for purpose in Use::ALL {
            let waiting = self.starved.waiting(purpose);
            if self.buffers.patience_ms(purpose, waiting).is_some() && is_at_rest {
                // No connection is ended for buffers that are only on offer for the other use.
                self.buffers.withdraw_from(purpose.other());
            }
            if let Some(patience_ms) = self.buffers.patience_ms(purpose, waiting) {
                self.reclaim_oldest(purpose, patience_ms, waiting);
                self.reclaimed_ms = self.now_ms;
            }
        }
    }

    #[cold]
    fn reclaim_oldest(&mut self, purpose: Use, patience_ms: u64, waiting: usize) {
        // Buffers taken in this turn are about to be used.
        let age_ms = patience_ms.max(1);
        // Bodies have none of those that are kept from them to give; messages may get what bodies have held for longer.
        let uses = if purpose == Use::Message { &Use::ALL[..] } else { &[Use::Body] };
        let held =
            uses.iter().flat_map(|purpose| self.buffers.held_longer_than(*purpose, age_ms, self.now_ms));
        let mut oldest: Vec<_> = held.collect();
        oldest.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
        let sends =
            Sends { awaited: self.ops.awaited_sends(&self.waits), of_buffers: self.ops.sends_of_buffers() };
        let mut to_end = self.buffers.missing(purpose, waiting).min(RECLAIMED_AT_ONCE);
        for (_, id) in oldest {
            if to_end == 0 || self.buffers.missing(purpose, waiting) == 0 {
                return;
            }
            // One that was ended before it may have given this one back, too.
            let Some(holder) = self.buffers.holder(id) else { continue };
            to_end = to_end.saturating_sub(self.end_holder(id, holder, &sends));
        }
    }

    /// Ends what holds a buffer, if it can be; says how many buffers will be given back for it.
    fn end_holder(&mut self, id: u16, holder: Holder, sends: &Sends) -> usize {
        let own_pieces = sends.of_buffer(id);
        if !own_pieces.is_empty() {
            return own_pieces.iter().map(|(_, op)| self.give_up_buffers_of(*op)).sum();
        }
        let send = match holder {
            Holder::Task(task) => sends.awaited.get(&task).copied().unwrap_or(NONE),
            Holder::Socket(socket) => self.table.at(socket).send,
        };
        if send != NONE {
            return self.give_up_buffers_of(send);
        }
        let Holder::Socket(socket) = holder else { return 0 };
        self.stats.buffers_reclaimed += 1;
        let held = usize::from(self.table.at(socket).queue_len);
        self.drop_unread(socket);
        self.fail_socket(socket, libc::ENOBUFS);
        held.max(1)
    }

    /// Ends a send; says how many receive buffers come back with it, at least the one that it was ended for.
    fn give_up_buffers_of(&mut self, op: u32) -> usize {
        let buffers = self.ops.at(op).payload.leases().len().max(1);
        if self.give_up_send(op) { buffers } else { 0 }
    }

    /// Ends a send as if its peer had taken nothing for too long; if it waits in line, the one at the head of the line. Says
    /// whether it was not ended already.
    fn give_up_send(&mut self, op: u32) -> bool {
        let Op { state, socket, socket_generation, .. } = *self.ops.at(op);
        let op = match state {
            State::InFlight => op,
            State::Queued if self.table.is_current(socket, socket_generation) => self.table.at(socket).send,
            _ => NONE,
        };
        if op == NONE || self.ops.at(op).timed_out {
            return false;
        }
        self.ops.at(op).timed_out = true;
        self.stats.buffers_reclaimed += 1;
        self.cancel(self.ops.key(op));
        true
    }

    /// Gives the buffers of a socket's queue back.
    pub(super) fn drop_unread(&mut self, index: u32) {
        while let Some(lease) = self.table.queue_pop(index) {
            self.give_back(lease);
        }
    }

    /// Takes offered buffers and cold memory back, now and then.
    pub(super) fn trim_buffers(&mut self) {
        let ours = buf::trim_wanted();
        if ours == Some(Trim::Now) {
            buf::free_surplus();
        }
        if self.now_ms < self.trim_due_ms {
            return;
        }
        let of_receives = self.buffers.wants_trim();
        if of_receives || ours.is_some() {
            self.trim_due_ms = self.now_ms + TRIM_MS;
        }
        if of_receives {
            let is_at_rest = self.ring.is_at_rest();
            self.buffers.trim(is_at_rest);
        }
        if ours.is_some() {
            buf::trim();
        }
    }

    /// Where the bytes of a lease begin.
    pub(crate) fn lease_start(&self, lease: RawLease) -> NonNull<u8> {
        self.buffers.start_of(lease)
    }

    /// Splits a lease: returns its first `count` bytes and leaves the others. A part without bytes holds no buffer, so that
    /// a buffer has no more pieces than bytes.
    pub(crate) fn split_lease(&mut self, lease: &mut RawLease, count: u16) -> RawLease {
        if count == 0 {
            return RawLease::EMPTY;
        }
        if usize::from(count) == lease.len() {
            return std::mem::replace(lease, RawLease::EMPTY);
        }
        let at = lease.start + count;
        assert!(at < lease.end, "split behind its end");
        self.buffers.split(lease.id);
        let first = RawLease { end: at, ..*lease };
        lease.start = at;
        first
    }

    pub(crate) fn give_back(&mut self, lease: RawLease) {
        if lease.has_buffer() {
            self.buffers.give_back(lease.id);
        }
    }

    /// The task that is polled now has the lease.
    pub(super) fn lend(&mut self, lease: RawLease) {
        self.buffers.lend(lease.id, self.current);
    }

    pub(super) fn give_back_picked(&mut self, completion: Completion) {
        if let Some(id) = completion.buffer() {
            self.buffers.give_back(id);
        }
    }

    pub(crate) fn buffer_bytes(&self) -> u32 {
        self.buffers.buffer_bytes()
    }

    pub(crate) fn buffers_count(&self) -> u16 {
        self.buffers.count()
    }

    /// Whether more than a quarter of the buffers are held outside the kernel, or would be, and more, if every busy worker took as
    /// many for a body as it may.
    pub(crate) fn are_buffers_short(&self) -> bool {
        let count = u32::from(self.buffers.count());
        let busy = self.workers - self.parked_workers.len() as u32;
        self.buffers.held() * SHORT_PART > count || busy * SHORT_PER_WORKER > count
    }

    /// Receive buffers held outside the kernel, now and at most.
    pub(crate) fn buffers_held(&self) -> (u32, u32) {
        (self.buffers.held(), self.buffers.held_max())
    }
}
