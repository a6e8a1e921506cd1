//! Messages from ring to ring.

use std::os::fd::RawFd;
use std::task::Poll;

use io_uring::{opcode, squeue, types};

use super::Driver;
use crate::key::Key;

impl Driver {
    pub(crate) fn post(&mut self, ring: RawFd, value: i32) {
        let message = opcode::MsgRingData::new(types::Fd(ring), value, Key::MESSAGE.bits(), None).build();
        // SAFETY: a message carries its data by value.
        unsafe { self.push(message.flags(squeue::Flags::SKIP_SUCCESS), Key::IGNORED) };
    }

    pub(crate) fn poll_message(&mut self) -> Poll<i32> {
        match self.messages.pop_front() {
            Some(value) => Poll::Ready(value),
            None => {
                self.message_waiter = self.current;
                Poll::Pending
            }
        }
    }

    pub(crate) fn ring_fd(&self) -> RawFd {
        self.ring.fd()
    }
}
