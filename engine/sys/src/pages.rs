//! Pages of memory: where a shard's are, and which node the kernel has them on.

use std::io;
use std::ops::Range;

use crate::files::page_bytes;
use crate::heap::Arena;

/// Pages asked about in one call.
const PAGES_AT_ONCE: usize = 4096;

/// A part of a shard's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryRange {
    /// Its content.
    pub(crate) what: &'static str,
    /// Its first address.
    pub(crate) start: usize,
    /// Its length.
    pub(crate) bytes: usize,
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
            // Never touched, or touched by reading only, which maps the same page of zeroes for all.
            Err(_) if status == -libc::ENOENT || status == -libc::EFAULT => {}
            Err(_) => self.unknown += 1,
        }
    }
}

/// Where a shard's memory is, for other threads to look up.
#[derive(Debug)]
pub struct ShardMemory {
    /// What was there from the start: the ring, its buffers and tables, the stack.
    made: Vec<MemoryRange>,
    /// Where its small blocks are, if that is known.
    heap: Option<Arena>,
}

impl ShardMemory {
    /// The calling thread's, whose stack and heap it is.
    pub(crate) fn of_this_thread(mut made: Vec<MemoryRange>) -> ShardMemory {
        made.extend(stack());
        ShardMemory { made, heap: Arena::of_this_thread() }
    }

    /// Asks the kernel on which nodes its pages are, by what they hold; a page that holds two things is counted with the first.
    /// Any thread of the process may ask; it takes about a tenth of a microsecond per page, resident or not.
    ///
    /// # Errors
    /// The error of move_pages(2): EPERM where a seccomp profile forbids it, ENOSYS without NUMA in the kernel.
    pub fn locate(&self) -> io::Result<Vec<(&'static str, Pages)>> {
        let heap = self.heap.map(Arena::ranges).unwrap_or_default();
        locate_parts(&[&self.made[..], &heap].concat())
    }
}

/// Numbers of pages.
type Span = Range<usize>;

fn locate_parts(ranges: &[MemoryRange]) -> io::Result<Vec<(&'static str, Pages)>> {
    let page = page_bytes();
    let mut parts: Vec<(&'static str, Vec<Span>)> = Vec::new();
    for range in ranges {
        let span = range.start / page..(range.start + range.bytes).div_ceil(page);
        match parts.iter_mut().find(|(what, _)| *what == range.what) {
            Some((_, spans)) => spans.push(span),
            None => parts.push((range.what, vec![span])),
        }
    }
    let mut counted = Vec::new();
    let mut located = Vec::new();
    for (what, spans) in parts {
        let spans = joined(spans);
        let mut pages = Pages::default();
        for span in without(&spans, &counted) {
            locate(span, page, &mut pages)?;
        }
        counted = joined([counted, spans].concat());
        located.push((what, pages));
    }
    Ok(located)
}

/// The same pages in order, those side by side in one span.
fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| span.start);
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}

/// Those pages of `spans` that are not in `others`; both are in order.
fn without(spans: &[Span], others: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    let mut nearest = 0;
    for span in spans {
        nearest += others[nearest..].partition_point(|other| other.end <= span.start);
        let mut from = span.start;
        for other in others[nearest..].iter().take_while(|other| other.start < span.end) {
            if from < other.start {
                left.push(from..other.start);
            }
            from = from.max(other.end);
        }
        if from < span.end {
            left.push(from..span.end);
        }
    }
    left
}

fn locate(numbers: Span, page: usize, pages: &mut Pages) -> io::Result<()> {
    let mut status = [0_i32; PAGES_AT_ONCE];
    let mut addresses: Vec<usize> = Vec::with_capacity(PAGES_AT_ONCE);
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        addresses.clear();
        addresses.extend(numbers.by_ref().take(PAGES_AT_ONCE).map(|number| number * page));
        // SAFETY: both arrays are as long as stated and live through the call. Without wanted nodes nothing is moved,
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
fn stack() -> Option<MemoryRange> {
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

/// Start and end of this process's mappings whose name ends in `name`.
pub(crate) fn mappings(name: &str) -> impl Iterator<Item = (usize, usize)> {
    mappings_where(|line| line.ends_with(name)).into_iter()
}

/// Start and end of this process's mappings of private memory that may be written to, without a file behind them.
pub(crate) fn private_mappings() -> Vec<(usize, usize)> {
    mappings_where(|line| line.contains(" rw-p 00000000 00:00 0"))
}

fn mappings_where(is_wanted: impl Fn(&str) -> bool) -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let parse = |line: &str| {
        let (range, _) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    maps.lines().filter(|line| is_wanted(line)).filter_map(parse).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::files::Mapping;

    fn range(what: &'static str, start: usize, bytes: usize) -> MemoryRange {
        MemoryRange { what, start, bytes }
    }

    /// The seccomp profile of the host may forbid the calls; everything else must work.
    #[track_caller]
    pub(crate) fn allowed<T>(result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                crate::tests::skip(&format!("memory policies are refused here: {error}"));
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn only_touched_pages_count_and_each_once() {
        let page = page_bytes();
        let mapping = Mapping::new(16 * page).unwrap();
        let ranges = [
            range("table", mapping.address() + 3 * page, page),
            range("all", mapping.address(), 8 * page),
            range("all", mapping.address() + 8 * page - 1, 8 * page + 1),
        ];
        let totals = |parts: Vec<(&str, Pages)>| -> Vec<u64> {
            parts.iter().map(|(_, pages)| pages.by_node.iter().sum::<u64>() + pages.unknown).collect()
        };
        let Some(before) = allowed(locate_parts(&ranges)) else { return };
        assert_eq!(totals(before), [0, 0]);
        for number in [0, 3, 7, 15] {
            // SAFETY: the page is one of the sixteen.
            unsafe { mapping.base().add(number * page).write(1) };
        }
        assert_eq!(totals(locate_parts(&ranges).unwrap()), [1, 3]);
    }

    #[test]
    fn spans_are_joined_and_taken_away() {
        let spans = |ends: &[(usize, usize)]| ends.iter().map(|&(start, end)| start..end).collect::<Vec<_>>();
        let mixed = spans(&[(7, 9), (0, 2), (2, 3), (1, 2)]);
        assert_eq!(joined(mixed), spans(&[(0, 3), (7, 9)]));
        for (all, others, left) in [
            (
                &[(0, 10), (20, 30)][..],
                &[(2, 3), (5, 6), (9, 21), (29, 40)][..],
                &[(0, 2), (3, 5), (6, 9), (21, 29)][..],
            ),
            (&[(4, 6)], &[(0, 4), (6, 9)], &[(4, 6)]),
            (&[(4, 6), (7, 8)], &[(0, 9)], &[]),
        ] {
            assert_eq!(without(&spans(all), &spans(others)), spans(left));
        }
    }

    #[test]
    fn every_thread_has_its_own_stack() {
        let of_a_thread = || std::thread::spawn(|| stack().unwrap()).join().unwrap();
        let stack = of_a_thread();
        assert!(stack.bytes >= 64 << 10 && stack.start % page_bytes() == 0);
    }
}
