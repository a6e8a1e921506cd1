//! Hints to the CPU: memory that is needed soon. A busy shard has more tasks than its L2 cache has room for, and the memory of each is
//! only looked at again when its next completion comes; a completion that waits in the ring says which that will be.

/// What one hint brings.
const LINE_BYTES: usize = 64;

/// Begins to bring memory into the cache, and does not wait for it. Any address will do; on other machines than x86-64 it does nothing.
#[inline]
pub(crate) fn prefetch(start: *const u8, bytes: usize) {
    for offset in (0..bytes).step_by(LINE_BYTES) {
        line(start.wrapping_add(offset));
    }
}

#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: it reads and writes nothing that a program sees, and faults at no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[inline]
#[cfg(any(not(target_arch = "x86_64"), miri))]
fn line(_: *const u8) {}
