//! The heap: which of it is a shard's, and when free memory goes back to the system.
//!
//! All memory comes from the C library's allocator. GNU's gives every thread an arena. The first thread's grows by brk(2); every
//! other arena is made of heaps, 64 MiB of addresses each and aligned to their size, and the first word of a heap is the address
//! of its arena (`heap_info.ar_ptr` in malloc/arena.c). So the mappings of the process show the heaps of a shard's arena when an
//! operator asks for them, and the allocator is left as it is. A block that is mapped on its own (128 KiB and more) names no
//! arena: those are not found.

use crate::pages::{MemoryRange, private_mappings};

/// Addresses of a heap: `HEAP_MAX_SIZE` of glibc on 64-bit machines, unless the tunable glibc.malloc.hugetlb changes it.
const HEAP_BYTES: usize = 64 << 20;

/// The first heap of an arena has the arena itself behind a header shorter than this.
const HEADER_BYTES_MAX: usize = 256;

/// A block that comes from the arena of the thread that asks for it, and is not mapped on its own. A thread keeps some smaller
/// blocks that it freed, whosever arena they are from, and uses them again.
const OWN_BLOCK_BYTES: usize = 32 << 10;

/// The arena of a thread, for other threads to look up. It lasts as long as the process; after the end of its thread, another
/// one may get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arena {
    /// The first word of its heaps.
    address: usize,
}

impl Arena {
    /// The calling thread's. `None` if that is the first thread's arena, with another C library, and where the kernel refuses
    /// process_vm_readv(2).
    pub(crate) fn of_this_thread() -> Option<Arena> {
        if cfg!(not(target_env = "gnu")) {
            return None;
        }
        let block: Vec<u8> = std::hint::black_box(Vec::with_capacity(OWN_BLOCK_BYTES));
        Arena::of_block(block.as_ptr() as usize, word_at)
    }

    fn of_block(block: usize, word_at: impl Fn(usize) -> Option<usize>) -> Option<Arena> {
        let address = word_at(heap_of(block))?;
        let first_heap = heap_of(address);
        let is_in_place = (1..HEADER_BYTES_MAX).contains(&(address - first_heap));
        (is_in_place && word_at(first_heap) == Some(address)).then_some(Arena { address })
    }

    /// Its heaps as they are now. While the thread allocates, one that comes or goes may be missed.
    pub(crate) fn ranges(self) -> Vec<MemoryRange> {
        heaps(&private_mappings(), |start| word_at(start) == Some(self.address))
    }
}

/// Where the heap begins that this address is in, if it is in one.
fn heap_of(address: usize) -> usize {
    address & !(HEAP_BYTES - 1)
}

/// Heaps that begin in these mappings. One mapping may have several, and a heap may have several mappings.
fn heaps(mappings: &[(usize, usize)], is_ours: impl Fn(usize) -> bool) -> Vec<MemoryRange> {
    let in_mapping =
        |&(start, end): &(usize, usize)| (start.next_multiple_of(HEAP_BYTES)..end).step_by(HEAP_BYTES);
    let ours = mappings.iter().flat_map(in_mapping).filter(|&start| is_ours(start));
    ours.map(|start| MemoryRange { what: "heap", start, bytes: HEAP_BYTES }).collect()
}

/// The word at an address that may not be mapped, or not any more.
fn word_at(address: usize) -> Option<usize> {
    let mut word = 0_usize;
    let part = |base| libc::iovec { iov_base: base, iov_len: size_of::<usize>() };
    let (to, from) = (part((&raw mut word).cast()), part(address as *mut libc::c_void));
    // SAFETY: the kernel writes one word to `word`, which outlives the call. It only reads at `address`, and reports an address
    // that cannot be read as an error.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0) };
    (usize::try_from(copied) == Ok(size_of::<usize>())).then_some(word)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the test on a thread whose arena is made of heaps, which it may share with others. The C library may also give a
    /// thread the first one's arena; the next thread then gets another one, unless there is no other.
    #[track_caller]
    fn with_arena(test: impl Fn(Arena) + Send + Copy + 'static) {
        let has_arena =
            || std::thread::spawn(move || Arena::of_this_thread().map(test)).join().unwrap().is_some();
        if (0..100).any(|_| has_arena()) {
            return;
        }
        let is_set = |name| std::env::var_os(name).is_some();
        let is_ordinary =
            cfg!(target_env = "gnu") && !is_set("MALLOC_ARENA_MAX") && !is_set("GLIBC_TUNABLES");
        assert!(
            !is_ordinary || word_at(&raw const is_ordinary as usize).is_none(),
            "no thread has an arena of heaps"
        );
        crate::tests::skip("threads have no arenas of heaps here, or process_vm_readv is refused");
    }

    fn is_in(ranges: &[MemoryRange], address: usize) -> bool {
        ranges.iter().any(|range| (range.start..range.start + range.bytes).contains(&address))
    }

    #[test]
    fn small_blocks_are_all_found_beyond_the_first_heap() {
        with_arena(|arena| {
            let blocks: Vec<Vec<u8>> = (0..1_500).map(|_| Vec::with_capacity(100_000)).collect();
            let ranges = arena.ranges();
            assert!(ranges.len() >= 2, "{ranges:x?}");
            assert!(blocks.iter().all(|block| is_in(&ranges, block.as_ptr() as usize)), "{ranges:x?}");
        });
    }

    #[test]
    fn blocks_of_another_arena_are_not_found() {
        with_arena(|arena| {
            // Threads that live at the same time have different arenas until there are as many as the C library wants.
            let block_elsewhere = || {
                let thread = std::thread::spawn(move || {
                    let block: Vec<u8> = Vec::with_capacity(OWN_BLOCK_BYTES);
                    (Arena::of_this_thread() != Some(arena)).then_some(block)
                });
                thread.join().unwrap()
            };
            let block = (0..100).find_map(|_| block_elsewhere()).expect("the test needs such a block");
            let own: Vec<u8> = Vec::with_capacity(OWN_BLOCK_BYTES);
            let ranges = arena.ranges();
            let found = [&own, &block].map(|block| is_in(&ranges, block.as_ptr() as usize));
            assert_eq!(found, [true, false], "{ranges:x?}");
        });
    }

    #[test]
    fn an_arena_is_known_by_its_first_heap() {
        const FIRST: usize = 3 * HEAP_BYTES;
        const ARENA: usize = FIRST + 48;
        let of_block = |block, words: &[(usize, usize)]| {
            let word_at =
                |wanted| words.iter().find(|(address, _)| *address == wanted).map(|(_, word)| *word);
            Arena::of_block(block, word_at).map(|arena| arena.address)
        };
        let later = 9 * HEAP_BYTES;
        assert_eq!(of_block(FIRST + 5_000, &[(FIRST, ARENA)]), Some(ARENA));
        assert_eq!(of_block(later + 5_000, &[(FIRST, ARENA), (later, ARENA)]), Some(ARENA));
        // Blocks of the first thread: what is mapped where a heap would begin, if anything, is not an arena's address.
        let far = FIRST + HEADER_BYTES_MAX;
        for words in [
            &[(FIRST, ARENA)][..],
            &[(FIRST, ARENA), (later, 0)],
            &[(FIRST, FIRST), (later, FIRST)],
            &[(FIRST, far), (later, far)],
            &[(FIRST, FIRST + 64), (later, ARENA)],
        ] {
            assert_eq!(of_block(later + 5_000, words), None, "{words:x?}");
        }
    }

    #[test]
    fn neighbouring_heaps_are_found_one_by_one() {
        let heap = HEAP_BYTES;
        let mappings = [
            (heap / 2, 3 * heap + 7),
            (3 * heap + 7, 4 * heap),
            (5 * heap, 5 * heap + 9),
            (7 * heap - 1, 7 * heap),
        ];
        let starts = |is_ours: &dyn Fn(usize) -> bool| -> Vec<usize> {
            heaps(&mappings, is_ours).iter().map(|found| found.start / heap).collect()
        };
        assert_eq!(starts(&|_| true), [1, 2, 3, 5]);
        assert_eq!(starts(&|start| start == 2 * heap), [2]);
    }

    /// Some pages in a heap may be mapped differently, such as those that are kept out of huge pages.
    #[test]
    fn a_heap_of_several_mappings_is_found_to_its_end() {
        with_arena(|arena| {
            let apart: Vec<u8> = Vec::with_capacity(100_000);
            crate::files::use_ordinary_pages(apart.as_ptr() as usize, apart.capacity());
            let behind: Vec<Vec<u8>> = (0..10).map(|_| Vec::with_capacity(100_000)).collect();
            let ranges = arena.ranges();
            assert!(behind.iter().all(|block| is_in(&ranges, block.as_ptr() as usize)), "{ranges:x?}");
        });
    }

    #[test]
    fn a_word_is_read_or_missing_without_a_fault() {
        let word = std::hint::black_box(0x5eed_usize);
        let Some(read) = word_at(&raw const word as usize) else {
            return crate::tests::skip("process_vm_readv is refused here");
        };
        assert_eq!(read, word);
        assert_eq!([0, usize::MAX - 7, 1 << 46].map(word_at), [None; 3]);
    }
}
