//! Messages between threads by MSG_RING: a number that appears as a completion in the ring of another thread.
//! What the number refers to travels by other means, usually a queue; connections travel in one that is part of the doorbell.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::{IoUring, opcode, types};

use crate::driver::{self, Handed};
use crate::host_unsupported::HostUnsupported;
use crate::key::Key;

/// Where a runtime can be reached. Cloned and sent to other threads freely.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: OwnedFd,
    in_transit: Mutex<Transit>,
}

/// Connections on their way to a runtime.
///
/// The kernel may take a message for a ring whose runtime ends before it reads the message, and says nothing then. So a
/// message only says that there is something here: the thread that takes a connection out owns it, and what no runtime has taken is
/// closed, by the runtime as it ends or with the last doorbell.
#[derive(Debug, Default)]
struct Transit {
    waiting: VecDeque<(u64, Box<Handed>)>,
    /// The number of the next one.
    next: u64,
    /// The runtime has ended, or is about to.
    is_closed: bool,
}

impl Doorbell {
    /// The doorbell of this thread's runtime.
    ///
    /// # Errors
    /// When no descriptor is left to refer to the ring by.
    pub fn of_this_thread() -> io::Result<Doorbell> {
        driver::with(driver::Driver::doorbell)
    }

    /// A doorbell of a ring that the caller keeps open for the time of the call.
    pub(crate) fn of_ring(ring: BorrowedFd<'_>) -> io::Result<Doorbell> {
        Ok(Doorbell::of(ring.try_clone_to_owned()?))
    }

    fn of(ring: OwnedFd) -> Doorbell {
        Doorbell(Arc::new(Shared { ring, in_transit: Mutex::default() }))
    }

    /// A doorbell that is none, to see what becomes of messages that do not arrive.
    #[cfg(test)]
    pub(crate) fn out_of_order() -> Doorbell {
        Doorbell::of(std::fs::File::open("/dev/null").expect("a file").into())
    }

    pub(crate) fn ring_fd(&self) -> RawFd {
        self.0.ring.as_raw_fd()
    }

    /// Sends a number from one runtime to another, through this thread's ring.
    pub fn ring(&self, value: i32) {
        driver::with(|driver| driver.post(self, value));
    }

    /// Lays a connection down for the runtime; a message has to say so. The number is for [`Doorbell::take_back`].
    ///
    /// # Errors
    /// Hands the connection back when the runtime takes none any more.
    pub(crate) fn put(&self, handed: Box<Handed>) -> Result<u64, Box<Handed>> {
        self.in_transit(|transit| {
            if transit.is_closed {
                return Err(handed);
            }
            let number = transit.next;
            transit.next = (number + 1) & NUMBER_MASK;
            transit.waiting.push_back((number, handed));
            Ok(number)
        })
    }

    /// The next connection, for the runtime itself.
    pub(crate) fn take(&self) -> Option<Box<Handed>> {
        self.in_transit(|transit| transit.waiting.pop_front()).map(|(_, handed)| handed)
    }

    /// A connection whose message did not arrive; `None` if it was taken or closed all the same.
    pub(crate) fn take_back(&self, number: u64) -> Option<Box<Handed>> {
        self.in_transit(|transit| {
            let place = transit.waiting.iter().position(|(known, _)| *known == number)?;
            transit.waiting.remove(place).map(|(_, handed)| handed)
        })
    }

    /// The runtime takes no more connections; those on their way are closed.
    pub(crate) fn close(&self) {
        let waiting = self.in_transit(|transit| {
            transit.is_closed = true;
            std::mem::take(&mut transit.waiting)
        });
        drop(waiting);
    }

    fn in_transit<R>(&self, f: impl FnOnce(&mut Transit) -> R) -> R {
        f(&mut self.0.in_transit.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Numbers of connections in transit are this wide, so that one fits into a key beside the number of a shard.
pub(crate) const NUMBER_BITS: u32 = 44;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

/// Rings doorbells from a thread that has no runtime.
pub struct MsgRingSender {
    ring: IoUring,
}

impl MsgRingSender {
    /// Sets up a small ring for sending.
    ///
    /// # Errors
    /// [`HostUnsupported`] as for a runtime.
    pub fn new() -> Result<MsgRingSender, HostUnsupported> {
        let ring = IoUring::builder().build(4).map_err(|error| HostUnsupported::from_setup(&error))?;
        Ok(MsgRingSender { ring })
    }

    /// Sends a number to a runtime.
    ///
    /// # Errors
    /// EOWNERDEAD or EBADFD when the runtime has ended, else what io_uring_enter(2) says.
    pub fn ring(&mut self, doorbell: &Doorbell, value: i32) -> io::Result<()> {
        let ring = types::Fd(doorbell.ring_fd());
        let message = opcode::MsgRingData::new(ring, value, Key::MESSAGE.bits(), None).build();
        // An earlier message that could not be waited for may have completed since.
        while self.ring.completion().next().is_some() {}
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
