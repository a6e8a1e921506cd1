//! Time in a shard: how long a turn may wait, and what happens when a deadline has passed.

use std::task::Poll;
use std::time::Duration;

use super::buffers::TRIM_MS;
use super::{Driver, Wake};
use crate::buf::Trim;
use crate::ring::Wait;
use crate::table::Flags;
use crate::wheel::{Links as _, NEVER, TICK_MS, Wheel};

impl Driver {
    pub(super) fn wait(&self) -> Wait {
        if self.has_errands() {
            return Wait::AtMost(Duration::ZERO);
        }
        self.may_sleep_ms().map_or(Wait::Forever, |ms| Wait::AtMost(Duration::from_millis(ms)))
    }

    /// Until when, in milliseconds, nothing is to be done but what completes; `None` for ever.
    pub(crate) fn may_sleep_ms(&self) -> Option<u64> {
        let wheels = [&self.deadlines, &self.stalls].into_iter();
        let next = wheels.filter_map(|wheel| wheel.next_in_ms(self.now_ms));
        // A shard that has nothing to do any more gives the memory of its busy time back all the same.
        let of_receives = self.buffers.wants_trim().then_some(TRIM_MS);
        let of_ours = crate::buf::trim_wanted().map(|trim| if trim == Trim::Now { 0 } else { TRIM_MS });
        next.chain(of_receives).chain(of_ours).chain(self.workers_trim_in_ms).min()
    }

    /// One deadline that has passed and whom it concerns; `None` when none is left.
    pub(crate) fn expire(&mut self) -> Option<Wake> {
        if let Some(index) = self.stalls.expire(&mut self.ops, self.now_ms) {
            if self.goes_on(index) {
                return Some(Wake::NoTask);
            }
            let op = self.ops.at(index);
            op.timed_out = true;
            if op.waits_for_reader() && u64::from(op.until) * TICK_MS <= self.now_ms {
                self.stats.sends_too_slow += 1;
            } else if op.waits_for_reader() {
                self.stats.sends_stalled += 1;
            }
            self.cancel(self.ops.key(index));
            return Some(Wake::NoTask);
        }
        let index = self.deadlines.expire(&mut self.table, self.now_ms)?;
        let entry = self.table.at(index);
        entry.flags.set(Flags::EXPIRED);
        if entry.flags.has(Flags::LISTENER) {
            self.arm_accept(index);
        } else if entry.flags.has(Flags::IDLE) {
            if entry.has_partial() {
                return Some(self.unpark(index));
            }
            self.stats.idle_expired += 1;
            if entry.has_state() {
                return Some(self.unpark(index));
            }
            self.close(index);
        } else if entry.flags.has(Flags::RESTING) {
            self.stats.idle_expired += 1;
            self.retire(index);
        } else {
            return Some(self.waits.take(&mut entry.waiter));
        }
        Some(Wake::NoTask)
    }

    /// Whether a send that the socket takes nothing of makes progress all the same: the kernel's buffer may be megabytes, and
    /// asks for more only when a good part of it is gone. Then it has its time anew.
    fn goes_on(&mut self, index: u32) -> bool {
        let op = self.ops.at(index);
        let (stall_ms, until) = (u64::from(op.stall_ms), op.until);
        let is_over = stall_ms == 0 || u64::from(until) * TICK_MS <= self.now_ms;
        let (socket, generation) = (op.socket, op.socket_generation);
        if is_over || !op.waits_for_reader() || !self.table.is_current(socket, generation) {
            return false;
        }
        let since_ms = crate::tcp_info::last_data_sent_ms(self.table.at(socket).fd).unwrap_or(u64::MAX);
        let Some(left_ms) = stall_ms.checked_sub(since_ms).filter(|left_ms| *left_ms > 0) else {
            return false;
        };
        let due = Wheel::tick_after(self.now_ms, left_ms).min(until);
        self.stalls.set(&mut self.ops, index, due);
        true
    }

    pub(crate) fn set_deadline(&mut self, index: u32, after_ms: u64) {
        self.table.at(index).flags.clear(Flags::EXPIRED);
        let tick = Wheel::tick_after(self.now_ms, after_ms);
        self.deadlines.set(&mut self.table, index, tick);
    }

    /// Time left until a socket's deadline; the longest there is if it has none.
    pub(crate) fn deadline_in_ms(&mut self, index: u32) -> u64 {
        self.table.link(index).due_in_ms(self.now_ms)
    }

    pub(crate) fn clear_deadline(&mut self, index: u32) {
        self.table.at(index).flags.clear(Flags::EXPIRED);
        self.deadlines.set(&mut self.table, index, NEVER);
    }

    /// Milliseconds since the first driver of the process was made, as of this turn.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(crate) fn poll_expired(&mut self, index: u32) -> Poll<()> {
        let current = self.current;
        let entry = self.table.at(index);
        if entry.flags.has(Flags::EXPIRED) {
            return Poll::Ready(());
        }
        self.waits.add(&mut entry.waiter, current);
        Poll::Pending
    }
}
