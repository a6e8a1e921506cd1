//! Messages from ring to ring.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::Poll;

use io_uring::{opcode, types};

use super::Driver;
use crate::key::{Key, NONE};
use crate::message::Doorbell;
use crate::op::Payload;

impl Driver {
    /// Sends a number. The doorbell is kept until then: its descriptor must not mean another ring when the kernel looks.
    pub(crate) fn post(&mut self, doorbell: &Doorbell, value: i32) {
        let ring = types::Fd(doorbell.ring_fd());
        let op = self.ops.insert(NONE, 0, Payload::Message { _doorbell: doorbell.clone() });
        self.orphan(op);
        let key = self.ops.start(op);
        let message = opcode::MsgRingData::new(ring, value, Key::MESSAGE.bits(), None).build();
        // SAFETY: a message carries its data by value.
        unsafe { self.push(message, key) };
    }

    /// Where other threads reach this runtime.
    pub(crate) fn doorbell(&mut self) -> io::Result<Doorbell> {
        if let Some(doorbell) = &self.doorbell {
            return Ok(doorbell.clone());
        }
        // SAFETY: the ring is open as long as the driver lives.
        let doorbell = Doorbell::of_ring(unsafe { BorrowedFd::borrow_raw(self.ring.fd()) })?;
        self.doorbell = Some(doorbell.clone());
        Ok(doorbell)
    }

    pub(crate) fn poll_message(&mut self) -> Poll<i32> {
        match self.messages.pop_front() {
            Some(value) => Poll::Ready(value),
            None => {
                self.waits.add(&mut self.message_waiter, self.current);
                Poll::Pending
            }
        }
    }
}
