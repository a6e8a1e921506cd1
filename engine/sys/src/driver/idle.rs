//! Connections that nobody works on: clients between two requests or in the middle of a head, upstream connections between
//! two exchanges.

use super::Driver;
use crate::key::NONE;
use crate::partial::{Moved, PartialMessage};
use crate::socket::{Peeked, peek};
use crate::table::Flags;

impl Driver {
    /// Hands the connection to the table until bytes arrive. Refused when bytes or an end are there already.
    pub(crate) fn park(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::IDLE, idle_ms)
    }

    /// Parks the connection in the middle of a message; what it has said so far is kept for the worker that gets it next.
    /// Its deadline stays as it is, and when that has passed a worker gets the connection too. Refused when bytes or an
    /// end are there already, or the deadline has passed.
    pub(crate) fn park_with(&mut self, index: u32, bytes: &[u8], pieces: u32) -> bool {
        if !self.is_quiet(index) || self.table.at(index).flags.has(Flags::EXPIRED) || self.kept.is_full() {
            return false;
        }
        let slot = self.kept.put(index, bytes, pieces);
        let entry = self.table.at(index);
        entry.flags.set(Flags::IDLE);
        // Nobody waits for a parked connection, so the place of its waiter is free.
        self.waits.forget(&mut entry.waiter);
        entry.waiter = slot;
        self.arm_receive(index);
        true
    }

    /// What a parked connection had said. The first thing to ask when it is parked no more: its waiter has that place.
    pub(crate) fn take_partial(&mut self, index: u32) -> Option<PartialMessage> {
        let slot = std::mem::replace(&mut self.table.at(index).waiter, NONE);
        if slot == NONE {
            return None;
        }
        let (kept, moved) = self.kept.take(slot);
        if let Some(Moved { owner, slot }) = moved {
            self.table.at(owner).waiter = slot;
        }
        Some(kept)
    }

    /// Connections parked in the middle of a message.
    pub(crate) fn partials(&self) -> usize {
        self.kept.len()
    }

    /// What they have said.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Keeps the connection open with nobody waiting on it. Refused like [`Driver::park`].
    pub(crate) fn keep_idle(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::RESTING, idle_ms)
    }

    fn let_go(&mut self, index: u32, flag: Flags, idle_ms: u64) -> bool {
        if !self.is_quiet(index) {
            return false;
        }
        let entry = self.table.at(index);
        // Without an armed receive, nobody has looked at the socket itself.
        if flag == Flags::RESTING && !entry.flags.has(Flags::ARMED) && peek(entry.fd) != Peeked::Nothing {
            return false;
        }
        entry.flags.set(flag);
        self.waits.forget(&mut entry.waiter);
        self.set_deadline(index, idle_ms);
        if !self.try_to_leave(index) {
            self.arm_receive(index);
        }
        true
    }

    /// Ends [`Driver::rest`]; says whether the connection can still be used.
    pub(crate) fn reuse(&mut self, index: u32) -> bool {
        self.table.at(index).flags.clear(Flags::RESTING);
        self.clear_deadline(index);
        self.is_quiet(index)
    }

    /// Neither bytes nor an end have arrived.
    pub(crate) fn is_quiet(&mut self, index: u32) -> bool {
        let entry = self.table.at(index);
        entry.queue_len == 0 && entry.error().is_none() && !entry.flags.has(Flags::ENDED)
    }

    /// Whether bytes have arrived that nobody took.
    pub(crate) fn has_unread(&mut self, index: u32) -> bool {
        let entry = self.table.at(index);
        if entry.queue_len > 0 {
            return true;
        }
        if entry.error().is_some() || entry.flags.has(Flags::ENDED) {
            return false;
        }
        match peek(entry.fd) {
            Peeked::Bytes => true,
            Peeked::End => {
                // An armed receive is about to find it too: it ends by itself, and need not be ended when this is closed.
                entry.flags.set(Flags::ENDED);
                entry.flags.clear(Flags::ARMED);
                false
            }
            Peeked::Nothing | Peeked::Error => false,
        }
    }

    /// Closes every connection that the table owns and that is not in the middle of a message, neither of the peer's nor of
    /// ours; returns how many.
    pub(crate) fn close_idle(&mut self) -> usize {
        let mut idle = self.table.with_flag(Flags::IDLE);
        idle.retain(|&index| {
            let entry = self.table.at(index);
            // A request may wait in the socket whose receive this turn is only about to arm.
            entry.send == NONE && entry.waiter == NONE && peek(entry.fd) == Peeked::Nothing
        });
        for &index in &idle {
            self.close(index);
        }
        idle.len()
    }
}
