//! Buffers of our own: what is sent, and what large bodies are received into.
//!
//! A [`Buf`] is eight bytes wide and moves by value. While an operation uses it the in-flight table owns it, so no
//! borrow can outlive it. Dropped buffers go back to their thread's stack and are used again, the last one first.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Room a small buffer starts with; heads and small bodies fit. Not a power of two: the first lines of many buffers would
/// meet in the same few sets of the cache.
const SMALL_BYTES: usize = 4 * 1024 - 192;
/// Buffers that grew beyond this count as grown: few are kept.
const SMALL_KEPT_BYTES: usize = 8 * 1024;
/// Buffers that grew beyond this are not kept at all.
const GROWN_KEPT_BYTES: usize = 64 * 1024;
/// Room of a large buffer, for bodies: fewer, larger copies, and still inside a core's L2 cache.
pub const LARGE_BYTES: usize = 256 * 1024;

// At most 4 MiB, 2 MiB and 2 MiB.
const SMALL_KEPT: usize = 512;
const GROWN_KEPT: usize = 32;
const LARGE_KEPT: usize = 8;

#[derive(Default)]
struct Storage {
    bytes: Vec<u8>,
}

// Boxed, so that a buffer is one pointer wide in futures and in the in-flight table.
#[derive(Default)]
#[allow(clippy::vec_box)]
struct Pool {
    small: Vec<Box<Storage>>,
    grown: Vec<Box<Storage>>,
    large: Vec<Box<Storage>>,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { small: Vec::new(), grown: Vec::new(), large: Vec::new() }) };
}

/// A growable byte buffer that returns to its thread's pool when dropped. Dereferences to `Vec<u8>`.
pub struct Buf(Option<Box<Storage>>);

impl Buf {
    /// An empty buffer with room for a head.
    pub fn small() -> Buf {
        let pooled = POOL.with_borrow_mut(|pool| pool.grown.pop().or_else(|| pool.small.pop()));
        Buf(Some(pooled.unwrap_or_else(|| Box::new(Storage { bytes: Vec::with_capacity(SMALL_BYTES) }))))
    }

    /// An empty buffer for a few bytes that may have to wait long. Not pooled.
    pub fn tiny(bytes: usize) -> Buf {
        Buf(Some(Box::new(Storage { bytes: Vec::with_capacity(bytes) })))
    }

    /// An empty buffer with room for [`LARGE_BYTES`].
    pub fn large() -> Buf {
        let pooled = POOL.with_borrow_mut(|pool| pool.large.pop());
        Buf(Some(pooled.unwrap_or_else(|| Box::new(Storage { bytes: Vec::with_capacity(LARGE_BYTES) }))))
    }
}

impl Deref for Buf {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        // Only drop takes the storage out.
        &self.0.as_ref().expect("a live buffer has storage").bytes
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0.as_mut().expect("a live buffer has storage").bytes
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let Some(mut storage) = self.0.take() else { return };
        storage.bytes.clear();
        let capacity = storage.bytes.capacity();
        // A thread that is ending has no pool any more: then the memory just goes.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if capacity >= LARGE_BYTES && pool.large.len() < LARGE_KEPT {
                pool.large.push(storage);
            } else if (SMALL_BYTES..=SMALL_KEPT_BYTES).contains(&capacity) && pool.small.len() < SMALL_KEPT {
                pool.small.push(storage);
            } else if (SMALL_KEPT_BYTES..=GROWN_KEPT_BYTES).contains(&capacity)
                && pool.grown.len() < GROWN_KEPT
            {
                pool.grown.push(storage);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_empty() {
        let mut first = Buf::small();
        first.extend_from_slice(b"secret");
        let address = first.as_ptr();
        drop(first);
        let second = Buf::small();
        assert_eq!((second.as_ptr(), second.len()), (address, 0));
    }

    #[test]
    fn is_eight_bytes() {
        assert_eq!(size_of::<Buf>(), 8);
    }
}
