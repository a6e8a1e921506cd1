//! NUMA nodes: which one a thread's memory comes from, and which one its pages are on.

use std::io;

use crate::files::page_bytes;

/// Nodes that a mask has room for: as many as any kernel is built for.
const NODES: usize = 1024;
const WORDS: usize = NODES / u64::BITS as usize;

/// The kernel takes one off the number of bits it is given.
const MASK_BITS: usize = NODES + 1;

/// Since Linux 5.15: like MPOL_PREFERRED, but for several nodes, and what does not fit goes where it is nearest to the CPU.
const MPOL_PREFERRED_MANY: i32 = 5;

/// Pages asked about in one call.
const PAGES_AT_ONCE: usize = 4096;

type NodeMask = [u64; WORDS];

/// Memory of this thread, kernel memory on its behalf included, comes from the first of `nodes` that can be had, as long
/// as that has any left; then from the nearest one that has. Never refused for lack of memory on a node, as MPOL_BIND
/// would. Returns the node.
///
/// # Errors
/// EINVAL if none of the nodes has memory that this process may use, EPERM where a seccomp profile forbids the call,
/// ENOSYS without NUMA in the kernel.
pub fn prefer_memory_of(nodes: &[usize]) -> io::Result<usize> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for &node in nodes.iter().filter(|&&node| node < NODES) {
        let mut mask: NodeMask = [0; WORDS];
        mask[node / 64] |= 1 << (node % 64);
        let one_of = |mode| set_policy(mode, &mask);
        match one_of(MPOL_PREFERRED_MANY).or_else(|_| one_of(libc::MPOL_PREFERRED)) {
            Ok(()) => return Ok(node),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn set_policy(mode: i32, mask: &NodeMask) -> io::Result<()> {
    // SAFETY: the mask is as long as said and lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask.as_ptr(), MASK_BITS) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The memory policy of a thread.
struct Policy {
    mode: i32,
    mask: NodeMask,
}

impl Policy {
    fn of_this_thread() -> io::Result<Policy> {
        let mut policy = Policy { mode: 0, mask: [0; WORDS] };
        // SAFETY: mode and mask live through the call and are as long as said; without an address and flags, the call
        // tells the thread's policy.
        let done = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut policy.mode,
                policy.mask.as_mut_ptr(),
                MASK_BITS,
                0_usize,
                0_usize,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(policy) }
    }
}

/// Calls `f` with this thread on `cpu` and its memory from `nodes` (not changed if empty), then returns to where it was. A
/// thread started by `f` begins its life there: its stack, its thread-locals and the kernel's part of it are near that
/// CPU. What cannot be had is left as it is.
pub fn while_visiting<R>(cpu: usize, nodes: &[usize], f: impl FnOnce() -> R) -> R {
    let cpus = crate::cpu::affinity();
    let policy = if nodes.is_empty() { None } else { Policy::of_this_thread().ok() };
    let _ = crate::cpu::pin_to_cpu(cpu);
    if policy.is_some() {
        let _ = prefer_memory_of(nodes);
    }
    let result = f();
    if let Some(policy) = policy {
        let _ = set_policy(policy.mode, &policy.mask);
    }
    if let Ok(cpus) = cpus {
        let _ = crate::cpu::set_affinity(&cpus);
    }
    result
}

/// A part of a shard's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// What it holds.
    pub what: &'static str,
    /// Its first address.
    pub start: usize,
    /// Its length.
    pub bytes: usize,
}

/// How many pages are on which node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages by node, from node 0.
    pub by_node: Vec<u64>,
    /// Pages in memory of which the kernel does not tell the node.
    pub unknown: u64,
}

impl Pages {
    /// Pages on this node.
    pub fn on(&self, node: usize) -> u64 {
        self.by_node.get(node).copied().unwrap_or(0)
    }

    /// Pages on any other node.
    pub fn off(&self, node: usize) -> u64 {
        self.by_node.iter().sum::<u64>() - self.on(node)
    }

    fn count(&mut self, status: i32) {
        match usize::try_from(status) {
            Ok(node) => {
                if self.by_node.len() <= node {
                    self.by_node.resize(node + 1, 0);
                }
                self.by_node[node] += 1;
            }
            // Never touched, or touched by reading only, which gives everybody the same page of zeroes.
            Err(_) if status == -libc::ENOENT || status == -libc::EFAULT => {}
            Err(_) => self.unknown += 1,
        }
    }
}

/// Asks the kernel on which nodes the pages of these ranges are. Any thread of the process may ask; it takes about a
/// tenth of a microsecond per page, resident or not.
///
/// # Errors
/// What move_pages(2) says: EPERM where a seccomp profile forbids it, ENOSYS without NUMA in the kernel.
pub fn locate_pages(ranges: &[MemoryRange]) -> io::Result<Pages> {
    let page = page_bytes();
    let mut pages = Pages::default();
    let mut sorted: Vec<(usize, usize)> =
        ranges.iter().map(|range| (range.start / page, (range.start + range.bytes).div_ceil(page))).collect();
    sorted.sort_unstable();
    let mut next = 0;
    for (first, end) in sorted {
        // What lies in two ranges (a small table on the heap) is counted once.
        let first = first.max(next);
        next = next.max(end);
        locate(first..end, page, &mut pages)?;
    }
    Ok(pages)
}

fn locate(numbers: std::ops::Range<usize>, page: usize, pages: &mut Pages) -> io::Result<()> {
    let mut status = [0_i32; PAGES_AT_ONCE];
    let mut addresses: Vec<usize> = Vec::with_capacity(PAGES_AT_ONCE);
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        addresses.clear();
        addresses.extend(numbers.by_ref().take(PAGES_AT_ONCE).map(|number| number * page));
        // SAFETY: both arrays are as long as said and live through the call. Without wanted nodes nothing is moved,
        // and the addresses are only looked up: any number will do.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                addresses.len(),
                addresses.as_ptr(),
                0_usize,
                status.as_mut_ptr(),
                0,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        status[..addresses.len()].iter().for_each(|&status| pages.count(status));
    }
    Ok(())
}

/// The calling thread's stack, with its thread-locals at the top.
pub(crate) fn stack() -> Option<MemoryRange> {
    // SAFETY: all zeroes is a valid attribute object to be overwritten.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    let (mut start, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are initialised by the first call, read by the second and given up by the third.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut bytes);
        libc::pthread_attr_destroy(&raw mut attributes);
    }
    Some(MemoryRange { what: "stack", start: start as usize, bytes })
}

/// The part of the heap that the calling thread allocates from: the C library gives every thread an arena in 64 MiB of its
/// own. `None` where it does not (another C library, MALLOC_ARENA_MAX, too many threads), since what several threads
/// share is nobody's.
pub(crate) fn heap() -> Option<MemoryRange> {
    const ARENA_BYTES: usize = 64 << 20;
    let probe = std::hint::black_box(Box::new(0_u64));
    let address = std::ptr::from_ref(&*probe) as usize;
    let start = address / ARENA_BYTES * ARENA_BYTES;
    // The first thread's arena, which others share when there are too many, is of another kind.
    let is_common = mappings("[heap]").any(|(start, end)| (start..end).contains(&address));
    // An arena begins at its first address, as do all that may hold this one.
    let is_whole = mappings("").any(|(first, end)| first <= start && (first..end).contains(&address));
    (is_whole && !is_common).then_some(MemoryRange { what: "heap", start, bytes: ARENA_BYTES })
}

/// Start and end of this process's mappings whose name ends in `name`.
pub(crate) fn mappings(name: &str) -> impl Iterator<Item = (usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let parse = |line: &str| {
        let (range, _) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    let found: Vec<_> = maps.lines().filter(|line| line.ends_with(name)).filter_map(parse).collect();
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Mapping;

    fn range(start: usize, bytes: usize) -> MemoryRange {
        MemoryRange { what: "test", start, bytes }
    }

    /// The seccomp profile of the host may forbid the calls; everything else must work.
    fn allowed<T>(result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn only_touched_pages_count_and_each_once() {
        let page = page_bytes();
        let mapping = Mapping::new(16 * page).unwrap();
        let ranges = [range(mapping.address(), 16 * page), range(mapping.address() + 3 * page, page)];
        let total = |pages: &Pages| pages.by_node.iter().sum::<u64>() + pages.unknown;
        let Some(before) = allowed(locate_pages(&ranges)) else { return };
        assert_eq!(total(&before), 0);
        for number in [0, 3, 15] {
            // SAFETY: the page is one of the sixteen.
            unsafe { mapping.base().add(number * page).write(1) };
        }
        assert_eq!(total(&locate_pages(&ranges).unwrap()), 3);
    }

    #[test]
    fn a_node_without_memory_gives_way_to_the_next() {
        let ended = std::thread::spawn(|| {
            let preferred = prefer_memory_of(&[NODES - 1, NODES + 7, 0]);
            allowed(preferred).map(|node| (node, Policy::of_this_thread().unwrap()))
        });
        let Some((node, policy)) = ended.join().unwrap() else { return };
        assert_eq!((node, policy.mask[0]), (0, 1));
        assert!([MPOL_PREFERRED_MANY, libc::MPOL_PREFERRED].contains(&policy.mode));
        let error = prefer_memory_of(&[NODES - 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_visit_ends_where_it_began() {
        let ended = std::thread::spawn(|| {
            let before = crate::cpu::affinity().unwrap();
            let cpu = crate::cpu::current_cpu().unwrap();
            let there = while_visiting(cpu, &[0], || {
                let born =
                    std::thread::spawn(|| (crate::cpu::affinity().unwrap(), crate::cpu::current_cpu()));
                born.join().unwrap()
            });
            // SAFETY: the set lives through the call.
            assert_eq!(unsafe { libc::CPU_COUNT(&there.0) }, 1);
            assert_eq!(there.1, Some(cpu));
            // SAFETY: both sets live through the call.
            assert!(unsafe { libc::CPU_EQUAL(&before, &crate::cpu::affinity().unwrap()) });
            allowed(Policy::of_this_thread()).map_or(0, |policy| policy.mode)
        });
        assert_eq!(ended.join().unwrap(), 0);
    }

    #[test]
    fn every_thread_has_its_own_stack_and_heap() {
        let of_a_thread = || std::thread::spawn(|| (stack().unwrap(), heap()));
        let (one, two) = (of_a_thread(), of_a_thread());
        let (one, two) = (one.join().unwrap(), two.join().unwrap());
        assert!(one.0.bytes >= 64 << 10 && one.0.start % page_bytes() == 0);
        if let (Some(heap_one), Some(heap_two)) = (one.1, two.1) {
            assert_eq!((heap_one.start % (64 << 20), heap_two.start % (64 << 20)), (0, 0));
        }
    }
}
