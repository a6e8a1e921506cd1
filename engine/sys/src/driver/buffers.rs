//! The receive buffers: who has one, who waits for one, and who has to give one up.
//!
//! The rule when buffers are scarce. Bodies never get the last quarter of a shard's buffers. When less than an eighth is
//! left for messages, or a body's receive found no buffer, the buffers held longest are taken back: the longer they are
//! held, and the fewer are left, the sooner. A send that holds one is given up as if its peer had stalled; bytes that
//! nothing has read are dropped with their connection. So what waits for a slow peer costs that peer's connection and
//! not the next request of another.

use std::collections::VecDeque;
use std::ptr::NonNull;

use super::Driver;
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
}

impl Driver {
    pub(super) fn starve(&mut self, index: u32) {
        let entry = self.table.at(index);
        entry.flags.set(Flags::STARVED);
        let purpose = entry.purpose();
        self.stats.buffers_ran_dry += 1;
        self.buffers.ran_dry(purpose);
        self.starved.queues[purpose as usize].push_back(index);
    }

    /// Arms receives again that found no buffer: as many as there are buffers now, so that they do not all come back
    /// with the same complaint. One that nothing waits for is armed when something does.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        for purpose in Use::ALL {
            let mut to_arm = self.buffers.available(purpose);
            while to_arm > 0 {
                let Some(index) = self.starved.queues[purpose as usize].pop_front() else { break };
                let entry = self.table.at(index);
                // Without the flag it was closed or disarmed meanwhile.
                if !entry.flags.has(Flags::STARVED) {
                    continue;
                }
                entry.flags.clear(Flags::STARVED);
                if entry.is_wanted() {
                    self.arm_receive(index);
                    to_arm -= 1;
                }
            }
        }
    }

    /// Takes buffers back from those that have held them longest, where others need them.
    pub(super) fn reclaim(&mut self) {
        let is_enough = self.starved.is_empty() && !self.buffers.is_scarce();
        if is_enough || self.reclaimed_ms == self.now_ms {
            return;
        }
        for purpose in Use::ALL {
            let waiting = self.starved.waiting(purpose);
            if let Some(patience_ms) = self.buffers.patience_ms(purpose, waiting) {
                self.reclaim_oldest(purpose, patience_ms, waiting);
                self.reclaimed_ms = self.now_ms;
            }
        }
    }

    #[cold]
    fn reclaim_oldest(&mut self, purpose: Use, patience_ms: u64, waiting: usize) {
        if purpose == Use::Message && self.ring.is_at_rest() {
            self.buffers.withdraw_from_bodies();
        }
        let wanted = self.buffers.missing(purpose, waiting).min(RECLAIMED_AT_ONCE);
        // What was taken in this turn is about to be used.
        let age_ms = patience_ms.max(1);
        let mut oldest: Vec<_> = self.buffers.held_longer_than(purpose, age_ms, self.now_ms).collect();
        oldest.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
        let is_enough = |driver: &Driver| driver.buffers.missing(purpose, waiting) == 0;
        for (_, id) in oldest.into_iter().take(wanted) {
            if is_enough(self) {
                return;
            }
            // One that was ended before it may have given this one back, too.
            if let Some(holder) = self.buffers.holder(id) {
                self.end_holder(holder);
            }
        }
    }

    /// Ends what holds a buffer.
    fn end_holder(&mut self, holder: Holder) {
        let send = match holder {
            Holder::Send(op) => op,
            Holder::Task(task) => self.ops.send_awaited_by(task),
            Holder::Socket(socket) => self.table.at(socket).send,
        };
        if send != NONE {
            self.give_up_send(send);
        } else if let Holder::Socket(socket) = holder {
            self.stats.buffers_reclaimed += 1;
            self.drop_unread(socket);
            self.fail_socket(socket, libc::ENOBUFS);
        }
    }

    /// Ends a send as if its peer had taken nothing for too long; if it waits in line, the one at the head of the line.
    fn give_up_send(&mut self, op: u32) {
        let Op { state, socket, socket_generation, .. } = *self.ops.at(op);
        let op = match state {
            State::InFlight => op,
            State::Queued if self.table.is_current(socket, socket_generation) => self.table.at(socket).send,
            _ => NONE,
        };
        if op != NONE && !self.ops.at(op).timed_out {
            self.ops.at(op).timed_out = true;
            self.stats.buffers_reclaimed += 1;
            self.cancel(self.ops.key(op));
        }
    }

    /// Gives the buffers of a socket's queue back.
    pub(super) fn drop_unread(&mut self, index: u32) {
        while let Some(lease) = self.table.queue_pop(index) {
            self.give_back(lease);
        }
    }

    /// Takes offered buffers and cold memory back, now and then.
    pub(super) fn trim_buffers(&mut self) {
        if self.now_ms < self.trim_due_ms || !self.buffers.wants_trim() {
            return;
        }
        self.trim_due_ms = self.now_ms + TRIM_MS;
        let is_at_rest = self.ring.is_at_rest();
        self.buffers.trim(is_at_rest);
    }

    pub(crate) fn buffer_base(&self, id: u16) -> NonNull<u8> {
        self.buffers.bytes(id)
    }

    pub(crate) fn give_back(&mut self, lease: RawLease) {
        self.buffers.give_back(lease.id);
    }

    /// The task that is polled now has the lease.
    pub(super) fn lend(&mut self, lease: RawLease) {
        self.buffers.pass_to(lease.id, Holder::Task(self.current));
    }

    pub(super) fn give_back_picked(&mut self, completion: Completion) {
        if let Some(id) = completion.buffer() {
            self.buffers.give_back(id);
        }
    }

    pub(crate) fn buffers_count(&self) -> u16 {
        self.buffers.count()
    }

    /// Receive buffers held outside the kernel, now and at most.
    pub(crate) fn buffers_held(&self) -> (u32, u32) {
        (self.buffers.held(), self.buffers.held_max())
    }
}
