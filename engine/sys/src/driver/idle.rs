//! Connections that nobody works on: clients between two requests, upstream connections between two exchanges.

use super::Driver;
use crate::key::NONE;
use crate::table::Flags;

impl Driver {
    /// Hands the connection to the table until bytes arrive. Refused when bytes or an end are there already.
    pub(crate) fn park(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::IDLE, idle_ms)
    }

    /// Keeps the connection open with nobody waiting on it. Refused like [`Driver::park`].
    pub(crate) fn rest(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::RESTING, idle_ms)
    }

    fn let_go(&mut self, index: u32, flag: Flags, idle_ms: u64) -> bool {
        if !self.is_quiet(index) {
            return false;
        }
        let entry = self.table.at(index);
        // Without an armed receive, nobody has looked at the socket itself.
        if flag == Flags::RESTING && !entry.flags.has(Flags::ARMED) && !crate::socket::is_silent(entry.fd) {
            return false;
        }
        entry.flags.set(flag);
        entry.waiter = NONE;
        self.set_deadline(index, idle_ms);
        self.arm_receive(index);
        true
    }

    /// Ends [`Driver::rest`]; says whether the connection can still be used.
    pub(crate) fn resume(&mut self, index: u32) -> bool {
        self.table.at(index).flags.clear(Flags::RESTING);
        self.clear_deadline(index);
        self.is_quiet(index)
    }

    /// Neither bytes nor an end have arrived.
    pub(crate) fn is_quiet(&mut self, index: u32) -> bool {
        let entry = self.table.at(index);
        entry.queue_len == 0 && entry.error().is_none() && !entry.flags.has(Flags::ENDED)
    }

    /// Closes every connection that the table owns and that has nothing left to send; returns how many.
    pub(crate) fn close_idle(&mut self) -> usize {
        let mut idle = self.table.with_flag(Flags::IDLE);
        idle.retain(|&index| self.table.at(index).send == NONE);
        for &index in &idle {
            self.close(index);
        }
        idle.len()
    }
}
