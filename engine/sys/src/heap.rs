//! The heap, and which parts of it are a shard's.
//!
//! All memory comes from the C library's allocator. It gives every thread an arena: 64 MiB of addresses at a time for small
//! blocks, and for a large block often a mapping of its own. A shard's thread keeps a [`Ledger`] of both, so that the control
//! thread can look up on which nodes they are. Serving allocates nothing in steady state, so the ledger rests then too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::files::Mapping;
use crate::pages::{MemoryRange, mappings};

/// Blocks from this size on are entered one by one: the C library maps them one by one from 128 KiB on, header included.
const BLOCK_BYTES: usize = 127 << 10;

/// Blocks a ledger has room for: 2 GiB of the smallest.
const BLOCKS_MAX: usize = 1 << 14;

/// Blocks from this size on are surely from the arena of the thread that asked for them. Smaller ones can be some that another
/// thread had and this one freed: every thread keeps a few of those for itself.
const OWN_BYTES: usize = 2 << 10;

/// An arena grows by so many addresses at a time, aligned to their number.
const ARENA_BYTES: usize = 64 << 20;

/// Such pieces of arenas a ledger has room for: 256 GiB.
const ARENAS_MAX: usize = 1 << 12;

/// The allocator of the process: the C library's, noting for threads that keep a ledger where their memory is.
#[derive(Debug)]
pub struct Heap;

/// What a thread has on the heap. Written by that thread, but for blocks that another one frees and pieces of arenas that it
/// has come to own; read by anybody.
///
/// It outlives its thread, whose blocks others may still free.
#[derive(Debug)]
pub(crate) struct Ledger {
    blocks: [Block; BLOCKS_MAX],
    /// Blocks before this one were in use at some time.
    blocks_used: AtomicUsize,
    /// Blocks before this one are in use, as far as the thread itself knows.
    free_from: AtomicUsize,
    /// Numbers of the arenas' pieces, the address divided by [`ARENA_BYTES`]; 0 where there is none any more.
    arenas: [AtomicUsize; ARENAS_MAX],
    arenas_used: AtomicUsize,
    /// The piece that memory came from last, 0 if that is another thread's.
    last_arena: AtomicUsize,
    next: AtomicPtr<Ledger>,
}

/// A large block; it is nowhere if there is none.
#[derive(Debug)]
struct Block {
    start: AtomicUsize,
    bytes: AtomicUsize,
}

/// The ledger that was begun last.
static LAST: AtomicPtr<Ledger> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static OWN: Cell<Option<&'static Ledger>> = const { Cell::new(None) };
    static END: End = const { End };
    #[cfg(feature = "count-alloc")]
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Gives the arenas out of the ledger of a thread that ends: the C library gives them to other threads.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        if let Some(own) = OWN.take() {
            own.arenas_used.store(0, Release);
        }
    }
}

/// Heap allocations (and reallocations) that the calling thread has made.
#[cfg(feature = "count-alloc")]
pub fn allocations_of_this_thread() -> u64 {
    ALLOCATIONS.try_with(Cell::get).unwrap_or(0)
}

fn count() {
    // A thread that is ending has no counter any more.
    #[cfg(feature = "count-alloc")]
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// Lets this many threads have an arena of their own, whatever the environment says (MALLOC_ARENA_MAX): shards that share one
/// would take memory from each other's nodes. To be called before the threads start.
pub fn reserve_arenas(threads: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a number of the C library's; it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, libc::c_int::try_from(threads).unwrap_or(libc::c_int::MAX));
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = threads;
}

/// Has the C library return free memory to the system, in a thread of its own, which is not bound to this one's CPU: it may take
/// tens of milliseconds, and must not wait for a busy shard while it holds the lock of an arena. Otherwise the memory of a
/// peak stays, since only what is at the end of an arena is returned by itself.
pub(crate) fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    let trim = || {
        let all = 0..8 * size_of::<libc::cpu_set_t>();
        let _ = crate::cpu::pin_to_cpus(all);
        // SAFETY: malloc_trim takes the locks it needs and changes no block in use; it may be called at any time.
        unsafe { libc::malloc_trim(0) };
    };
    #[cfg(not(target_env = "gnu"))]
    let trim = || {};
    // Without a thread the memory stays until the next peak is over.
    let _ = std::thread::Builder::new().name("heap".into()).spawn(trim);
}

// SAFETY: every call is passed to the system's allocator unchanged; what is noted are addresses, which nobody follows. Nothing
// here allocates.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        note(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc_zeroed(layout) };
        note(block, layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        strike(block, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        strike(block, layout.size());
        // SAFETY: the caller's promise.
        let moved = unsafe { System.realloc(block, layout, bytes) };
        if moved.is_null() {
            note(block, layout.size());
        } else {
            note(moved, bytes);
        }
        moved
    }
}

#[inline]
fn note(block: *mut u8, bytes: usize) {
    if let Ok(Some(own)) = OWN.try_with(Cell::get) {
        own.note(block as usize, bytes);
    }
}

/// Called before the block is freed, after which another one may begin at its address.
#[inline]
fn strike(block: *mut u8, bytes: usize) {
    if bytes < BLOCK_BYTES {
        return;
    }
    let own = OWN.try_with(Cell::get).ok().flatten();
    if let Some(own) = own
        && let Some(at) = own.strike(block as usize)
    {
        own.free_from.store(own.free_from.load(Relaxed).min(at), Relaxed);
        return;
    }
    let _ = all().find_map(|ledger| ledger.strike(block as usize));
}

/// The ledgers of all threads that keep one.
fn all() -> impl Iterator<Item = &'static Ledger> {
    let at = |ledger: &AtomicPtr<Ledger>| {
        // SAFETY: ledgers are entered whole and never given back.
        unsafe { ledger.load(Acquire).as_ref() }
    };
    std::iter::successors(at(&LAST), move |ledger| at(&ledger.next))
}

impl Ledger {
    /// The calling thread's ledger, begun now if it has none. The thread's earlier blocks are not in it, but the arena that
    /// small ones came from will be, with the next.
    pub(crate) fn of_this_thread() -> io::Result<&'static Ledger> {
        if let Some(own) = OWN.get() {
            return Ok(own);
        }
        let memory = Mapping::new(size_of::<Ledger>())?;
        // SAFETY: the mapping is page aligned, large enough and zeroed, and all zeroes is an empty ledger. It is never unmapped.
        let own: &'static Ledger = unsafe { memory.base().cast().as_ref() };
        std::mem::forget(memory);
        let pointer = std::ptr::from_ref(own).cast_mut();
        let _ = LAST.fetch_update(AcqRel, Acquire, |last| {
            own.next.store(last, Relaxed);
            Some(pointer)
        });
        END.with(|_| OWN.set(Some(own)));
        Ok(own)
    }

    #[inline]
    fn note(&self, start: usize, bytes: usize) {
        if start == 0 {
            // There was no memory.
        } else if bytes >= BLOCK_BYTES {
            self.note_block(start, bytes);
        } else if start / ARENA_BYTES != self.last_arena.load(Relaxed) {
            self.note_arena(start / ARENA_BYTES, bytes >= OWN_BYTES);
        }
    }

    #[cold]
    fn note_block(&self, start: usize, bytes: usize) {
        let used = self.blocks_used.load(Acquire);
        let from = self.free_from.load(Relaxed);
        let is_free = |&at: &usize| self.blocks[at].start.load(Relaxed) == 0;
        let found = (from..used).find(is_free).or((used < BLOCKS_MAX).then_some(used));
        // Those that others freed were not looked at.
        let Some(at) = found.or_else(|| (0..from.min(used)).find(is_free)) else { return };
        self.blocks[at].bytes.store(bytes, Relaxed);
        self.blocks[at].start.store(start, Release);
        self.blocks_used.store(used.max(at + 1), Release);
        self.free_from.store(at + 1, Relaxed);
    }

    /// Where the block was entered, if it was.
    fn strike(&self, start: usize) -> Option<usize> {
        let used = self.blocks_used.load(Acquire);
        let at = (0..used).rev().find(|&at| self.blocks[at].start.load(Relaxed) == start)?;
        self.blocks[at].start.store(0, Release);
        Some(at)
    }

    #[cold]
    fn note_arena(&self, arena: usize, is_surely_own: bool) {
        let mut others = all().filter(|other| !std::ptr::eq(*other, self));
        if is_surely_own {
            // Whoever had it gave it back since.
            others.for_each(|other| other.strike_arena(arena));
        } else if others.any(|other| other.place_of(arena).is_some()) {
            return;
        }
        self.last_arena.store(arena, Relaxed);
        if self.place_of(arena).is_some() {
            return;
        }
        let used = self.arenas_used.load(Relaxed);
        let at = self.place_of(0).unwrap_or(used);
        if at < ARENAS_MAX {
            self.arenas[at].store(arena, Relaxed);
            self.arenas_used.store(used.max(at + 1), Release);
        }
    }

    fn strike_arena(&self, arena: usize) {
        if let Some(at) = self.place_of(arena) {
            self.arenas[at].store(0, Relaxed);
            self.last_arena.store(0, Relaxed);
        }
    }

    fn place_of(&self, arena: usize) -> Option<usize> {
        let used = self.arenas_used.load(Acquire);
        self.arenas[..used].iter().position(|known| known.load(Relaxed) == arena)
    }

    /// Where the thread's blocks are now: the large ones, then whole pieces of arenas. While the thread allocates, one that
    /// comes or goes may be missed.
    pub(crate) fn ranges(&self) -> Vec<MemoryRange> {
        let blocks = self.blocks[..self.blocks_used.load(Acquire)].iter().filter_map(|block| {
            let start = block.start.load(Acquire);
            let bytes = block.bytes.load(Relaxed);
            (start != 0).then_some(MemoryRange { what: "large blocks", start, bytes })
        });
        // The first thread's arena is of another kind.
        let common: Vec<_> = mappings("[heap]").collect();
        let mapped: Vec<_> = mappings("").collect();
        let is_own = |&arena: &usize| {
            let start = arena * ARENA_BYTES;
            let overlaps = |range: &(usize, usize)| range.0 < start + ARENA_BYTES && start < range.1;
            arena != 0
                && !common.iter().any(overlaps)
                && mapped.iter().any(|range| (range.0..range.1).contains(&start))
        };
        let used = self.arenas_used.load(Acquire);
        let arenas = self.arenas[..used].iter().map(|arena| arena.load(Relaxed)).filter(is_own);
        let arenas =
            arenas.map(|arena| MemoryRange { what: "heap", start: arena * ARENA_BYTES, bytes: ARENA_BYTES });
        blocks.chain(arenas).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Heap = Heap;

    fn is_in(ranges: &[MemoryRange], address: usize) -> bool {
        ranges.iter().any(|range| (range.start..range.start + range.bytes).contains(&address))
    }

    fn on_a_thread(test: impl FnOnce(&'static Ledger) + Send + 'static) {
        std::thread::spawn(|| test(Ledger::of_this_thread().unwrap())).join().unwrap();
    }

    #[test]
    fn small_blocks_are_all_found_beyond_the_first_arena() {
        on_a_thread(|ledger| {
            let blocks: Vec<Vec<u8>> = (0..1_500).map(|_| Vec::with_capacity(100_000)).collect();
            let ranges = ledger.ranges();
            assert!(ranges.iter().filter(|range| range.what == "heap").count() >= 2, "{ranges:x?}");
            assert!(blocks.iter().all(|block| is_in(&ranges, block.as_ptr() as usize)), "{ranges:x?}");
        });
    }

    #[test]
    fn large_blocks_are_found_as_long_as_they_are_there() {
        on_a_thread(|ledger| {
            let block: Vec<u8> = Vec::with_capacity(1 << 20);
            let mut grown: Vec<u8> = Vec::with_capacity(1 << 18);
            grown.reserve(40 << 20);
            let found = ledger.ranges();
            let of = |block: &Vec<u8>, ranges: &[MemoryRange]| {
                let start = block.as_ptr() as usize;
                ranges.iter().filter(|range| range.start == start && range.bytes == block.capacity()).count()
            };
            assert_eq!((of(&block, &found), of(&grown, &found)), (1, 1), "{found:x?}");
            // Another thread may free it.
            std::thread::spawn(move || drop(block)).join().unwrap();
            drop(grown);
            let left = ledger.ranges();
            assert_eq!(left.iter().filter(|range| range.what == "large blocks").count(), 0, "{left:x?}");
        });
    }

    #[test]
    fn places_of_freed_blocks_are_used_again() {
        on_a_thread(|ledger| {
            let kept: Vec<u8> = Vec::with_capacity(1 << 18);
            for _ in 0..1_000 {
                drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 17)));
            }
            assert!(ledger.blocks_used.load(Relaxed) <= 4);
            assert!(is_in(&ledger.ranges(), kept.as_ptr() as usize));
        });
    }

    #[test]
    fn a_full_ledger_takes_what_comes_when_there_is_room_again() {
        on_a_thread(|ledger| {
            for at in 0..BLOCKS_MAX + 10 {
                ledger.note_block((at + 1) << 20, BLOCK_BYTES);
            }
            assert_eq!(ledger.strike((BLOCKS_MAX + 5) << 20), None);
            assert_eq!(ledger.strike(8 << 20), Some(7));
            ledger.note_block(1, BLOCK_BYTES);
            assert_eq!(ledger.strike(1), Some(7));
            // None of these blocks was ever there.
            ledger.blocks_used.store(0, Release);
        });
    }

    /// Blocks that another thread frees are kept by it for its own use: they make its arena nobody else's.
    #[test]
    fn an_arena_belongs_to_whom_it_serves() {
        on_a_thread(|ledger| {
            let large: Vec<u8> = Vec::with_capacity(OWN_BYTES);
            let small: Vec<Box<[u8; 24]>> = (0..5).map(|_| Box::new([0; 24])).collect();
            let arena = large.as_ptr() as usize / ARENA_BYTES;
            let theirs = std::thread::spawn(move || {
                let theirs = Ledger::of_this_thread().unwrap();
                drop(small);
                let again: Vec<Box<[u8; 24]>> = (0..5).map(|_| Box::new([1; 24])).collect();
                let is_given = |block: &[u8; 24]| block.as_ptr() as usize / ARENA_BYTES == arena;
                assert!(
                    std::hint::black_box(&again).iter().any(|block| is_given(block)),
                    "the test needs such a block"
                );
                is_in(&theirs.ranges(), large.as_ptr() as usize)
            });
            assert!(!theirs.join().unwrap());
            assert!(is_in(&ledger.ranges(), arena * ARENA_BYTES));
        });
    }

    #[test]
    fn an_arena_that_went_to_another_thread_is_that_ones() {
        on_a_thread(|ledger| {
            let arena = 77;
            ledger.note_arena(arena, true);
            std::thread::spawn(move || {
                let theirs = Ledger::of_this_thread().unwrap();
                theirs.note_arena(arena, false);
                assert_eq!(theirs.place_of(arena), None);
                theirs.note_arena(arena, true);
                assert!(theirs.place_of(arena).is_some());
            });
            while ledger.place_of(arena).is_some() {
                std::thread::yield_now();
            }
            assert_eq!(ledger.last_arena.load(Relaxed), 0);
        });
    }
}
