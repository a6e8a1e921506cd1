//! Received bytes in a buffer the kernel picked, held by the code that reads or forwards them.
//!
//! The rule for bytes that wait: bytes that are kept for an unknown time (for the rest of a frame, for a window, for a slow
//! peer) are copied out of their buffer where [`Lease::is_small`] says so. Then a shard pins at most [`SMALL_PART`] bytes of
//! receive buffers for each byte that waits, and copies at most that part of a buffer at once.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::buf::Buf;
use crate::driver;
use crate::gather::Gathered;
use crate::op::{Payload, RawPart, reserve_description};

/// A lease is small if it has no more than this part of its buffer (one in so many): 2 KiB of 16.
pub(crate) const SMALL_PART: usize = 8;

/// No buffer has this number.
const NO_BUFFER: u16 = u16::MAX;

const _: () = assert!(crate::buf_ring::COUNT_MAX < NO_BUFFER);

/// A buffer id and the part of the buffer that still counts. It does not return the buffer by itself: inside the
/// driver, returning is done by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawLease {
    pub(crate) id: u16,
    pub(crate) start: u16,
    pub(crate) end: u16,
}

impl RawLease {
    /// No bytes of no buffer.
    pub(crate) const EMPTY: RawLease = RawLease { id: NO_BUFFER, start: 0, end: 0 };

    pub(crate) fn len(self) -> usize {
        usize::from(self.end - self.start)
    }

    /// The rest without the first `count` bytes.
    pub(crate) fn behind(self, count: usize) -> RawLease {
        RawLease { start: self.start + count.min(self.len()) as u16, ..self }
    }

    pub(crate) fn has_buffer(self) -> bool {
        self.id != NO_BUFFER
    }
}

/// Bytes that arrived on a connection, still in the shard's receive buffer. Leases of one buffer have no byte in common; the
/// kernel gets the buffer back when the last of them is dropped. Eight bytes wide; stays on its thread.
pub struct Lease {
    raw: RawLease,
    _on_this_thread: PhantomData<*const u8>,
}

impl Lease {
    pub(crate) fn from_raw(raw: RawLease) -> Lease {
        Lease { raw, _on_this_thread: PhantomData }
    }

    pub(crate) fn into_raw(self) -> RawLease {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }

    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.raw.len() == 0
    }

    /// Cuts `count` bytes off the front.
    ///
    /// # Panics
    /// When fewer bytes are left.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.raw.len());
        self.raw.start += count as u16;
    }

    /// Keeps the first `count` bytes only.
    pub fn truncate(&mut self, count: usize) {
        self.raw.end = self.raw.start + self.raw.len().min(count) as u16;
    }

    /// Splits the first `count` bytes off, as a lease of its own; this one keeps the others. The buffer is held until both are
    /// gone. A lease without bytes, on either side, holds none.
    ///
    /// The task that received the buffer answers for all its pieces when buffers are scarce, wherever it has left them: they
    /// must be gone before it takes another connection.
    ///
    /// # Panics
    /// When fewer bytes are left.
    #[must_use = "what is split off and dropped is cut off: use `advance`"]
    pub fn split_to(&mut self, count: usize) -> Lease {
        assert!(count <= self.raw.len());
        Lease::from_raw(driver::with(|driver| driver.split_lease(&mut self.raw, count as u16)))
    }

    /// Whether these are so few bytes that they should be copied out ([`Lease::into_buf`]) rather than wait in their buffer:
    /// no more than an eighth of it.
    pub fn is_small(&self) -> bool {
        let buffer_bytes = driver::with(|driver| driver.buffer_bytes());
        self.raw.len() <= buffer_bytes as usize / SMALL_PART
    }

    /// Copies the bytes into memory of exactly their size, and lets go of the receive buffer.
    pub fn into_buf(self) -> Buf {
        let mut buf = Buf::tiny(self.len());
        buf.extend_from_slice(&self);
        buf
    }
}

/// The most leases that are sent behind a head at once: what a receive has ready at a time, or a little more.
pub const LEASES_MAX: usize = 6;

/// A few leases that are sent behind a head, one after the other. Like a lease it stays on its thread:
///
/// ```compile_fail
/// fn is_sent_to_another_thread<T: Send>() {}
/// is_sent_to_another_thread::<sluice_sys::Leases>();
/// ```
pub struct Leases {
    raw: [RawLease; LEASES_MAX],
    count: u8,
    _on_this_thread: PhantomData<*const u8>,
}

impl Leases {
    /// No leases.
    pub fn new() -> Leases {
        Leases { raw: [RawLease::EMPTY; LEASES_MAX], count: 0, _on_this_thread: PhantomData }
    }

    /// Adds one at the end; one without bytes takes no place.
    ///
    /// # Errors
    /// Hands the lease back when there are six.
    pub fn push(&mut self, lease: Lease) -> Result<(), Lease> {
        if lease.raw.len() == 0 {
            return Ok(());
        }
        let Some(place) = self.raw.get_mut(usize::from(self.count)) else { return Err(lease) };
        *place = lease.into_raw();
        self.count += 1;
        Ok(())
    }

    /// Whether there is no place for another one.
    pub fn is_full(&self) -> bool {
        usize::from(self.count) == LEASES_MAX
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Takes the last one out.
    pub fn pop(&mut self) -> Option<Lease> {
        let last = self.count.checked_sub(1)?;
        self.count = last;
        Some(Lease::from_raw(self.raw[usize::from(last)]))
    }

    /// Bytes of all.
    pub fn bytes(&self) -> usize {
        self.raw().iter().map(|lease| lease.len()).sum()
    }

    fn raw(&self) -> &[RawLease] {
        &self.raw[..usize::from(self.count)]
    }
}

impl Default for Leases {
    fn default() -> Leases {
        Leases::new()
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leases({} of {} bytes)", self.count, self.bytes())
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if !self.is_empty() {
            driver::try_with(|driver| self.raw().iter().for_each(|lease| driver.give_back(*lease)));
        }
    }
}

/// Bytes that are sent behind a head (see [`Conn::send_with`](crate::Conn::send_with)).
#[derive(Debug)]
pub enum Part {
    /// Received ones, out of the buffer they came in.
    Lease(Lease),
    /// The same, out of several.
    Leases(Leases),
    /// Ones of ours.
    Buf(Buf),
}

impl Part {
    /// The owner of a head and this while they are sent.
    #[inline]
    pub(crate) fn behind(self, mut head: Buf) -> Payload {
        let body = match self {
            Part::Lease(lease) => RawPart::Lease(lease.into_raw()),
            Part::Buf(buf) => RawPart::Buf(buf),
            Part::Leases(leases) => {
                let gathered = Gathered::new(head, leases.raw());
                std::mem::forget(leases);
                return Payload::SendGathered(gathered);
            }
        };
        reserve_description(&mut head);
        Payload::SendParts { head, body, sent: 0 }
    }
}

impl From<Lease> for Part {
    fn from(lease: Lease) -> Part {
        Part::Lease(lease)
    }
}

impl From<Leases> for Part {
    fn from(leases: Leases) -> Part {
        Part::Leases(leases)
    }
}

impl From<Buf> for Part {
    fn from(buf: Buf) -> Part {
        Part::Buf(buf)
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = driver::with(|driver| driver.lease_start(self.raw));
        // SAFETY: a lease is the only holder of the bytes start..end of its buffer: `split_to` shares them out, and the kernel
        // does not write to the buffer before all its leases are dropped, which borrowing this one prevents. They were
        // filled by the kernel and lie inside the buffer. The mapping outlives every lease: the driver leaks it if leases are
        // left. A lease without a buffer has no bytes.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.raw.len()) }
    }
}

/// For what is done in place, such as decryption. Other pieces of the buffer are not touched.
impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = driver::with(|driver| driver.lease_start(self.raw));
        // SAFETY: as in `deref`; and as no other lease has one of these bytes, and this one is borrowed mutably, nothing else
        // refers to them. What a send owns was consumed, so the kernel reads none of them.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.raw.len()) }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} bytes)", self.raw.len())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        driver::try_with(|driver| driver.give_back(self.raw));
    }
}
