//! Our own buffers: for sending, and for receiving large bodies.
//!
//! A [`Buf`] is eight bytes wide and moves by value. While an operation uses it the in-flight table owns it, so no borrow can
//! outlive it. Dropped buffers go back to their thread's stack and are used again, the last one first.

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
/// ... and what it has beyond: such a buffer also takes the contents of another one sealed in records.
pub const LARGE_ROOM_BYTES: usize = LARGE_BYTES + 8 * 1024;

/// Small buffers kept although nothing needed them for a second: at most 4 MiB. Until then all are kept that were in use at
/// once, so that a busy shard allocates none.
const SMALL_KEPT: usize = 512;
/// So many buffers are freed in one turn: bounded work, also after the peak of a flood.
const FREED_PER_TURN: usize = 256;
/// Buffers for more than a small one are this much larger than was asked for at most, so that they serve others.
const GROWN_STEP_BYTES: usize = 8 * 1024;
/// So many of them are looked at for one that is large enough.
const GROWN_LOOKED_AT: usize = 4;
// At most 8 MiB, and 4.
const GROWN_KEPT: usize = 128;
const LARGE_KEPT: usize = 16;

struct Storage {
    bytes: Vec<u8>,
}

impl Storage {
    fn with_room(bytes: usize) -> Box<Storage> {
        Box::new(Storage { bytes: Vec::with_capacity(bytes) })
    }
}

// Boxed, so that a buffer is one pointer wide in futures and in the in-flight table.
#[allow(clippy::vec_box)]
struct Pool {
    small: Vec<Box<Storage>>,
    /// The least small ones that were kept since they were last trimmed.
    small_least: usize,
    /// The coldest of them, which are to be freed still.
    small_surplus: usize,
    grown: Vec<Box<Storage>>,
    large: Vec<Box<Storage>>,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool {
            small: Vec::new(),
            small_least: 0,
            small_surplus: 0,
            grown: Vec::new(),
            large: Vec::new(),
        })
    };
}

impl Pool {
    fn take_small(&mut self) -> Option<Box<Storage>> {
        let taken = self.small.pop();
        self.small_least = self.small_least.min(self.small.len());
        taken
    }

    /// The last one kept that has the room, among the last few.
    fn take_grown(&mut self, bytes: usize) -> Option<Box<Storage>> {
        let mut last = self.grown.iter().rev().take(GROWN_LOOKED_AT);
        let at = last.position(|storage| storage.bytes.capacity() >= bytes)?;
        Some(self.grown.swap_remove(self.grown.len() - 1 - at))
    }

    fn keep(&mut self, storage: Box<Storage>) {
        let capacity = storage.bytes.capacity();
        if (SMALL_BYTES..=SMALL_KEPT_BYTES).contains(&capacity) {
            self.small.push(storage);
        } else if (LARGE_BYTES..=LARGE_ROOM_BYTES).contains(&capacity) && self.large.len() < LARGE_KEPT {
            self.large.push(storage);
        } else if (SMALL_KEPT_BYTES..=GROWN_KEPT_BYTES).contains(&capacity) && self.grown.len() < GROWN_KEPT {
            self.grown.push(storage);
        }
    }
}

/// When buffers are to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trim {
    /// [`free_surplus`] has something to do.
    Now,
    /// [`trim`] may have, some time after the last one.
    Later,
}

/// `None` while no small buffers are kept beyond those that always are.
pub(crate) fn trim_wanted() -> Option<Trim> {
    POOL.with_borrow(|pool| match pool.small.len() > SMALL_KEPT {
        true if pool.small_surplus > 0 => Some(Trim::Now),
        true => Some(Trim::Later),
        false => None,
    })
}

/// Begins to free the small buffers that nothing has needed since the last time, the coldest ones, but for a few. What one batch
/// of requests uses and the next one uses again is not freed in between.
pub(crate) fn trim() {
    POOL.with_borrow_mut(|pool| {
        pool.small_surplus = pool.small_least.saturating_sub(SMALL_KEPT);
        pool.small_least = pool.small.len();
    });
    free_surplus();
}

/// Frees some of them.
pub(crate) fn free_surplus() {
    POOL.with_borrow_mut(|pool| {
        // Some may be in use again since they were counted.
        let surplus = pool.small_surplus.min(pool.small_least.saturating_sub(SMALL_KEPT));
        let freed = surplus.min(FREED_PER_TURN);
        pool.small.drain(..freed);
        pool.small_least -= freed;
        pool.small_surplus = surplus - freed;
    });
}

/// A growable byte buffer that returns to its thread's pool when dropped. Dereferences to `Vec<u8>`.
pub struct Buf(Option<Box<Storage>>);

impl Buf {
    /// An empty buffer with room for a head.
    pub fn small() -> Buf {
        let pooled = POOL.with_borrow_mut(|pool| pool.grown.pop().or_else(|| pool.take_small()));
        Buf(Some(pooled.unwrap_or_else(|| Storage::with_room(SMALL_BYTES))))
    }

    /// An empty buffer for a few bytes that may have to wait long. Not pooled.
    pub fn tiny(bytes: usize) -> Buf {
        Buf(Some(Storage::with_room(bytes)))
    }

    /// An empty buffer with room for so many bytes.
    pub fn with_room(bytes: usize) -> Buf {
        if bytes <= SMALL_BYTES {
            return Buf::small();
        }
        if bytes > GROWN_KEPT_BYTES && bytes <= LARGE_ROOM_BYTES {
            return Buf::large();
        }
        let pooled = POOL.with_borrow_mut(|pool| pool.take_grown(bytes));
        Buf(Some(pooled.unwrap_or_else(|| Storage::with_room(bytes.next_multiple_of(GROWN_STEP_BYTES)))))
    }

    /// An empty buffer with room for [`LARGE_ROOM_BYTES`].
    pub fn large() -> Buf {
        let pooled = POOL.with_borrow_mut(|pool| pool.large.pop());
        Buf(Some(pooled.unwrap_or_else(|| Storage::with_room(LARGE_ROOM_BYTES))))
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

/// A buffer or none, in the eight bytes of a buffer: for what lives as long as an exchange.
pub struct OptionalBuf(Buf);

impl OptionalBuf {
    /// The buffer, if there is one.
    pub fn get(&self) -> Option<&Vec<u8>> {
        self.0.0.as_ref().map(|storage| &storage.bytes)
    }
}

impl From<Option<Buf>> for OptionalBuf {
    fn from(buf: Option<Buf>) -> OptionalBuf {
        // A buffer without storage goes nowhere but into its drop.
        OptionalBuf(buf.unwrap_or(Buf(None)))
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
        // A thread that is ending has no pool any more: then the memory just goes.
        let _ = POOL.try_with(|pool| pool.borrow_mut().keep(storage));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peak of buffers in use, which is over.
    fn batch(count: usize) {
        drop((0..count).map(|_| Buf::small()).collect::<Vec<_>>());
    }

    fn kept() -> usize {
        POOL.with_borrow(|pool| pool.small.len())
    }

    #[test]
    fn a_dropped_buffer_is_used_again_and_empty() {
        let mut first = Buf::small();
        first.extend_from_slice(b"secret");
        let address = first.as_ptr();
        drop(first);
        let second = Buf::small();
        assert_eq!((second.as_ptr(), second.len()), (address, 0));
    }

    /// Whoever asks for a large one gets what it has room for, and the shard keeps no more memory than it says.
    #[test]
    fn a_buffer_that_grew_is_not_kept_as_a_large_one() {
        let mut buf = Buf::large();
        buf.reserve(1 << 20);
        drop(buf);
        assert_eq!(Buf::large().capacity(), LARGE_ROOM_BYTES);
        let mut sealed = Buf::large();
        sealed.reserve(LARGE_ROOM_BYTES);
        drop(sealed);
        POOL.with_borrow(|pool| assert_eq!(pool.large.len(), 1));
    }

    #[test]
    fn a_buffer_that_grew_is_not_kept_as_a_small_one() {
        for bytes in [SMALL_KEPT_BYTES + 1, GROWN_KEPT_BYTES + 1, LARGE_BYTES] {
            let mut buf = Buf(Some(Storage::with_room(SMALL_BYTES)));
            buf.resize(bytes, 7);
            drop(buf);
            assert_eq!(kept(), 0, "{bytes}");
        }
        drop(Buf::tiny(10));
        assert_eq!(kept(), 0);
    }

    #[test]
    fn what_was_in_use_at_once_is_kept_until_nothing_needs_it() {
        const PEAK: usize = 2_000;
        batch(PEAK);
        trim();
        // Each batch uses them all again.
        for _ in 0..3 {
            batch(PEAK);
            trim();
            assert_eq!((kept(), trim_wanted()), (PEAK, Some(Trim::Later)));
        }
        batch(100);
        trim_whole();
        assert_eq!((kept(), trim_wanted()), (SMALL_KEPT + 100, Some(Trim::Later)));
        trim_whole();
        assert_eq!((kept(), trim_wanted()), (SMALL_KEPT, None));
    }

    fn trim_whole() {
        trim();
        while trim_wanted() == Some(Trim::Now) {
            free_surplus();
        }
    }

    #[test]
    fn the_end_of_a_peak_is_freed_in_steps_that_stop_where_they_are_needed_again() {
        const PEAK: usize = SMALL_KEPT + 10 * FREED_PER_TURN;
        let in_use: Vec<Buf> = (0..100).map(|_| Buf::small()).collect();
        batch(PEAK);
        trim();
        trim();
        assert_eq!((kept(), trim_wanted()), (PEAK - FREED_PER_TURN, Some(Trim::Now)));
        free_surplus();
        assert_eq!(kept(), PEAK - 2 * FREED_PER_TURN);
        // All but so few that nothing is left to free.
        batch(kept() - 7);
        free_surplus();
        assert_eq!((kept(), trim_wanted()), (PEAK - 2 * FREED_PER_TURN, Some(Trim::Later)));
        trim();
        trim_whole();
        assert_eq!((kept(), trim_wanted()), (SMALL_KEPT, None));
        // What comes back later was needed until then.
        drop(in_use);
        trim_whole();
        assert_eq!((kept(), trim_wanted()), (SMALL_KEPT + 100, Some(Trim::Later)));
        trim_whole();
        assert_eq!((kept(), trim_wanted()), (SMALL_KEPT, None));
    }

    #[test]
    fn a_shard_that_has_nothing_to_do_gives_the_buffers_of_a_peak_back() {
        let mut rig = crate::Rig::with_buffers(32);
        rig.turn(1_000);
        assert_eq!(rig.may_sleep_ms(), None);
        batch(2_000);
        // Sleeps as long as it may.
        let mut sleeps = Vec::new();
        while let Some(ms) = rig.may_sleep_ms()
            && sleeps.len() < 20
        {
            sleeps.push(ms);
            rig.turn(ms);
        }
        assert_eq!(kept(), SMALL_KEPT, "{sleeps:?}");
        // Two looks, and a turn without sleep for every other step.
        let looks = sleeps.iter().filter(|ms| **ms == 1_000).count();
        assert_eq!((looks, sleeps.len() - looks), (2, (2_000 - SMALL_KEPT) / FREED_PER_TURN), "{sleeps:?}");
    }

    #[test]
    fn is_eight_bytes() {
        assert_eq!(size_of::<Buf>(), 8);
    }
}
