//! Connections without a task: clients between two requests or in the middle of a head, upstream connections between two
//! exchanges.
//!
//! A parked connection may have something that is kept for the worker that gets it next: the beginning of a message, or a
//! state. The place of its waiter says which and where; it has none otherwise. A state of a connection that is closed is
//! dropped by the loop and not here: its destructor is code of others, which may use the driver.

use std::any::Any;

use super::Driver;
use crate::key::NONE;
use crate::partial::{Moved, PartialMessage};
use crate::side_tables::States;
use crate::socket::{Peeked, peek};
use crate::table::{Entry, Flags};

/// The state that a parked connection was parked with.
pub(crate) enum Kept {
    Nothing,
    /// The beginning of a message.
    Partial(PartialMessage),
    /// The state that its owner attached.
    State(Box<dyn Any>),
}

impl Driver {
    /// Hands the connection to the table until bytes arrive. Refused when bytes or an end are there already.
    pub(crate) fn park(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::IDLE, idle_ms)
    }

    /// Parks the connection in the middle of a message; its bytes so far are kept for the worker that gets it next.
    /// Its deadline stays as it is, and when that has passed a worker gets the connection too. Refused when bytes or an
    /// end are there already, or the deadline has passed.
    pub(crate) fn park_with(&mut self, index: u32, bytes: &[u8], pieces: u32) -> bool {
        if !self.is_quiet(index) || self.table.at(index).flags.has(Flags::EXPIRED) || self.kept.is_full() {
            return false;
        }
        let slot = self.kept.put(index, bytes, pieces);
        let entry = self.table.at(index);
        entry.flags.set(Flags::IDLE);
        // No task waits for a parked connection, so the place of its waiter is free.
        self.waits.forget(&mut entry.waiter);
        entry.waiter = slot;
        self.arm_receive(index);
        true
    }

    /// Parks the connection with a state. Once its deadline has passed, a worker gets the connection although there are no bytes.
    /// Refused like [`Driver::park`]; the state is handed back then.
    pub(crate) fn park_with_state(
        &mut self,
        index: u32,
        state: Box<dyn Any>,
        idle_ms: u64,
    ) -> Result<(), Box<dyn Any>> {
        if !self.is_quiet(index) || self.states.is_full() {
            return Err(state);
        }
        let number = self.states.put(state);
        let entry = self.table.at(index);
        entry.flags.set(Flags::IDLE);
        self.waits.forget(&mut entry.waiter);
        entry.waiter = number;
        self.set_deadline(index, idle_ms);
        self.arm_receive(index);
        Ok(())
    }

    /// The same, with a state that goes with the connection to other shards.
    pub(crate) fn park_session(
        &mut self,
        index: u32,
        session: Box<dyn Any + Send>,
        idle_ms: u64,
    ) -> Result<(), Box<dyn Any + Send>> {
        if !self.is_quiet(index) || self.states.is_full() {
            return Err(session);
        }
        let number = self.states.put_session(session);
        let entry = self.table.at(index);
        entry.flags.set(Flags::IDLE);
        self.waits.forget(&mut entry.waiter);
        entry.waiter = number;
        self.set_deadline(index, idle_ms);
        if !self.try_to_leave(index) {
            self.arm_receive(index);
        }
        Ok(())
    }

    /// What a parked connection was parked with. The first thing to ask when it is parked no more: its waiter has that place.
    pub(crate) fn take_kept(&mut self, index: u32) -> Kept {
        let slot = std::mem::replace(&mut self.table.at(index).waiter, NONE);
        if slot == NONE {
            return Kept::Nothing;
        }
        if States::is_state(slot) {
            return self.states.take(slot).map_or(Kept::Nothing, Kept::State);
        }
        let (kept, moved) = self.kept.take(slot);
        if let Some(Moved { owner, slot }) = moved {
            self.table.at(owner).waiter = slot;
        }
        Kept::Partial(kept)
    }

    /// Closes all connections that are parked with a state, and hands out what is to be dropped: at the end of a runtime.
    pub(crate) fn take_states(&mut self) -> Vec<Box<dyn Any>> {
        if self.states.len() > 0 {
            for index in self.table.with_flag(Flags::IDLE) {
                if self.table.at(index).has_state() {
                    self.close(index);
                }
            }
        }
        std::mem::take(&mut self.abandoned)
    }

    /// Connections parked with a state.
    pub(crate) fn states(&self) -> usize {
        self.states.len()
    }

    /// Connections parked in the middle of a message.
    pub(crate) fn partials(&self) -> usize {
        self.kept.len()
    }

    /// The bytes that they have sent.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Keeps the connection open without a task that waits on it. Refused like [`Driver::park`].
    pub(crate) fn keep_idle(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::RESTING, idle_ms)
    }

    fn let_go(&mut self, index: u32, flag: Flags, idle_ms: u64) -> bool {
        if !self.is_quiet(index) {
            return false;
        }
        let entry = self.table.at(index);
        // Without an armed receive, the socket itself was not looked at.
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

    /// Whether bytes have arrived that were not taken.
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
            entry.send == NONE && !entry.has_partial() && peek(entry.fd) == Peeked::Nothing
        });
        for &index in &idle {
            if self.table.at(index).has_state() {
                // A worker is to say goodbye.
                self.set_deadline(index, 0);
            } else {
                self.close(index);
            }
        }
        idle.len()
    }
}

/// Of a parked connection.
impl Entry {
    /// It is in the middle of a message.
    pub(super) fn has_partial(&self) -> bool {
        self.waiter != NONE && !States::is_state(self.waiter)
    }

    /// It was parked with a state.
    pub(super) fn has_state(&self) -> bool {
        States::is_state(self.waiter)
    }

    /// It was parked with a state that goes with it.
    pub(super) fn has_session(&self) -> bool {
        States::is_session(self.waiter)
    }
}
