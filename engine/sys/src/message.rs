//! Messages between threads by MSG_RING: a number that appears as a completion in the ring of another thread.
//! What the number refers to travels by other means, usually a queue.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};

use crate::driver;
use crate::key::Key;
use crate::unfit::Unfit;

/// Where a runtime can be reached. Cloned and sent to other threads freely.
#[derive(Clone, Debug)]
pub struct Doorbell {
    ring: Arc<OwnedFd>,
}

impl Doorbell {
    /// The doorbell of this thread's runtime.
    ///
    /// # Errors
    /// When no descriptor is left to refer to the ring by.
    pub fn of_this_thread() -> io::Result<Doorbell> {
        let raw = driver::with(|driver| driver.ring_fd());
        // SAFETY: the ring is open as long as its driver is installed, which it is right now.
        let ring = unsafe { BorrowedFd::borrow_raw(raw) }.try_clone_to_owned()?;
        Ok(Doorbell { ring: Arc::new(ring) })
    }

    /// A doorbell that is none, to see what becomes of messages that do not arrive.
    #[cfg(test)]
    pub(crate) fn out_of_order() -> Doorbell {
        Doorbell { ring: Arc::new(std::fs::File::open("/dev/null").expect("a file").into()) }
    }

    pub(crate) fn ring_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Sends a number from one runtime to another, through this thread's ring.
    pub fn ring(&self, value: i32) {
        driver::with(|driver| driver.post(self.ring.as_raw_fd(), value));
    }
}

/// Rings doorbells from a thread that has no runtime.
pub struct Courier {
    ring: IoUring,
}

impl Courier {
    /// Sets up a small ring for sending.
    ///
    /// # Errors
    /// [`Unfit`] as for a runtime.
    pub fn new() -> Result<Courier, Unfit> {
        let ring = IoUring::builder().build(4).map_err(|error| Unfit::from_setup(&error))?;
        Ok(Courier { ring })
    }

    /// Sends a number to a runtime.
    ///
    /// # Errors
    /// EOWNERDEAD or EBADFD when the runtime has ended, else what io_uring_enter(2) says.
    pub fn ring(&mut self, doorbell: &Doorbell, value: i32) -> io::Result<()> {
        let ring = types::Fd(doorbell.ring.as_raw_fd());
        let message = opcode::MsgRingData::new(ring, value, Key::MESSAGE.bits(), None).build();
        // SAFETY: the message carries its data by value.
        unsafe { self.ring.submission().push(&message) }.map_err(|_| io::ErrorKind::WouldBlock)?;
        // The one completion that belongs to this message: a signal may come between the two.
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => drop(other?),
            }
            if let Some(completion) = self.ring.completion().next() {
                return match completion.result() {
                    errno @ ..0 => Err(io::Error::from_raw_os_error(-errno)),
                    _ => Ok(()),
                };
            }
        }
    }
}
