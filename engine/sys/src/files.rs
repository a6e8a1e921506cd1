//! Memory and descriptors that end with their owner.

use std::io;
use std::ptr::NonNull;

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf takes no memory.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(64 * 1024)
}

/// Anonymous private memory from mmap(2), page aligned, zeroed, not resident before it is touched.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    pub(crate) fn new(bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a fresh anonymous mapping; nothing is replaced because the address hint is null and not fixed.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Mapping { base, bytes })
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
        // SAFETY: base and length are those of our own mapping, which nobody uses once its owner is dropped.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
