//! The receive buffers: who has one, who waits for one.

use std::ptr::NonNull;

use super::Driver;
use crate::lease::RawLease;
use crate::ring::Completion;
use crate::table::Flags;

impl Driver {
    pub(super) fn starve(&mut self, index: u32) {
        self.stats.buffers_ran_dry += 1;
        self.buffers.ran_dry();
        self.table.at(index).flags.set(Flags::STARVED);
        self.starved.push_back(index);
    }

    /// Arms receives again that found no buffer: as many as there are buffers now, so that they do not all come back
    /// with the same complaint.
    pub(super) fn feed_starved(&mut self) {
        let mut to_arm = self.buffers.available();
        while to_arm > 0 {
            let Some(index) = self.starved.pop_front() else { return };
            let entry = self.table.at(index);
            // Without the flag it was closed or disarmed meanwhile.
            if entry.flags.has(Flags::STARVED) {
                entry.flags.clear(Flags::STARVED);
                self.arm_receive(index);
                to_arm -= 1;
            }
        }
    }

    pub(crate) fn buffer_base(&self, id: u16) -> NonNull<u8> {
        self.buffers.bytes(id)
    }

    pub(crate) fn give_back(&mut self, lease: RawLease) {
        self.buffers.give_back(lease.id);
    }

    pub(super) fn give_back_picked(&mut self, completion: Completion) {
        if let Some(id) = completion.buffer() {
            self.buffers.give_back(id);
        }
    }

    /// Receive buffers held outside the kernel, now and at most.
    pub(crate) fn buffers_held(&self) -> (u32, u32) {
        (self.buffers.held(), self.buffers.held_max())
    }
}
