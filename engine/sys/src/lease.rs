//! Received bytes in a buffer the kernel picked, held by whoever reads or forwards them.

use std::marker::PhantomData;
use std::ops::Deref;

use crate::driver;

/// A buffer id and the part of the buffer that still counts. It does not return the buffer by itself: inside the
/// driver, returning is done by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawLease {
    pub(crate) id: u16,
    pub(crate) start: u16,
    pub(crate) end: u16,
}

impl RawLease {
    pub(crate) fn len(self) -> usize {
        usize::from(self.end - self.start)
    }
}

/// Bytes that arrived on a connection, still in the shard's receive buffer. Dropping the lease returns the buffer to
/// the kernel. Eight bytes wide; stays on its thread.
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
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = driver::with(|driver| driver.buffer_base(self.raw.id));
        // SAFETY: a lease is the only holder of its buffer id: the kernel does not write to the buffer before it is
        // returned, which dropping the lease does and borrowing it prevents. start..end was filled by the kernel
        // and lies inside the buffer. The mapping outlives every lease: the driver leaks it if leases are left.
        unsafe { std::slice::from_raw_parts(base.add(usize::from(self.raw.start)).as_ptr(), self.raw.len()) }
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
