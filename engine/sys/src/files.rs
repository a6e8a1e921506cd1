//! Memory and descriptors that end with their owner.

use std::io;
use std::ptr::NonNull;

use crate::pages::MemoryRange;

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf takes no memory.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(64 * 1024)
}

/// The kind of pages of a large mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// The kernel's ordinary pages.
    #[default]
    Off,
    /// Huge ones where the kernel finds them at the moment (madvise(2), MADV_HUGEPAGE).
    Transparent,
    /// Huge ones that the operator has set aside (vm.nr_hugepages); without enough of them there is no mapping.
    Reserved,
}

/// Bytes of a huge page: the default size of the kernel.
pub(crate) fn huge_page_bytes() -> usize {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.map_or(2 << 20, |kib| kib << 10)
}

/// Whether [`HugePages::Transparent`] can have an effect on this kernel.
pub fn has_transparent_huge_pages() -> bool {
    // The choice is in brackets: `always [madvise] never`. The file is missing where the kernel is built without them.
    let modes = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    modes.is_ok_and(|modes| !modes.contains("[never]"))
}

/// Keeps huge pages out of this memory, whole pages of it. Neighbouring mappings become one for the kernel: where it uses huge
/// pages on its own, one of them can hold the end of one shard's memory and the beginning of another's, on the node of the
/// shard that touched it first.
pub(crate) fn use_ordinary_pages(start: usize, bytes: usize) {
    let page = page_bytes();
    let (first, end) = (start.next_multiple_of(page), (start + bytes) / page * page);
    if first < end {
        // SAFETY: advice that changes no content; the kernel may ignore it.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_NOHUGEPAGE) };
    }
}

/// Anonymous private memory from mmap(2), page aligned, zeroed, not resident before it is touched.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// Mapped before the base, to have it where a huge page may begin.
    skipped_bytes: usize,
}

impl Mapping {
    pub(crate) fn new(bytes: usize) -> io::Result<Mapping> {
        Mapping::map(bytes, libc::MAP_NORESERVE)
    }

    /// Like [`Mapping::new`], of huge pages if so wished; the length is rounded up to whole ones.
    pub(crate) fn of_pages(bytes: usize, pages: HugePages) -> io::Result<Mapping> {
        match pages {
            HugePages::Off => {
                let mapping = Mapping::new(bytes)?;
                use_ordinary_pages(mapping.address(), mapping.bytes);
                Ok(mapping)
            }
            // Counted at once: a mapping without reserve would meet the lack of pages as a fault in mid-run.
            HugePages::Reserved => Mapping::map(bytes.next_multiple_of(huge_page_bytes()), libc::MAP_HUGETLB),
            HugePages::Transparent => {
                // Only newer kernels choose an address where huge pages fit.
                let huge = huge_page_bytes();
                let mut mapping = Mapping::new(bytes.next_multiple_of(huge) + huge)?;
                mapping.skip(mapping.address().next_multiple_of(huge) - mapping.address());
                // SAFETY: advice on our own mapping; a kernel without such pages says no and nothing changes.
                unsafe { libc::madvise(mapping.base.as_ptr().cast(), mapping.bytes, libc::MADV_HUGEPAGE) };
                Ok(mapping)
            }
        }
    }

    fn map(bytes: usize, flags: libc::c_int) -> io::Result<Mapping> {
        // SAFETY: a fresh anonymous mapping; nothing is replaced because the address hint is null and not fixed.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Mapping { base, bytes, skipped_bytes: 0 })
    }

    fn skip(&mut self, bytes: usize) {
        // SAFETY: the caller skips a part of the mapping.
        self.base = unsafe { self.base.add(bytes) };
        self.bytes -= bytes;
        self.skipped_bytes += bytes;
    }

    pub(crate) fn range(&self, what: &'static str) -> MemoryRange {
        MemoryRange { what, start: self.address(), bytes: self.bytes }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mapping, which is not used once its owner is dropped.
        unsafe {
            let start = self.base.sub(self.skipped_bytes);
            libc::munmap(start.as_ptr().cast(), self.bytes + self.skipped_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_pages_can_be_written_from_end_to_end() {
        let bytes = 3 * page_bytes();
        for pages in [HugePages::Off, HugePages::Transparent, HugePages::Reserved] {
            let mapping = match Mapping::of_pages(bytes, pages) {
                Ok(mapping) => mapping,
                // No huge pages are set aside on this host.
                Err(error) if pages == HugePages::Reserved => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
                    continue;
                }
                Err(error) => panic!("{pages:?}: {error}"),
            };
            if pages != HugePages::Off {
                assert_eq!(mapping.address() % huge_page_bytes(), 0);
            }
            let range = mapping.range("test");
            assert!(range.start == mapping.address() && range.bytes >= bytes);
            // SAFETY: the range is the mapping's own.
            unsafe { mapping.base().write_bytes(0xa5, range.bytes) };
        }
    }
}
