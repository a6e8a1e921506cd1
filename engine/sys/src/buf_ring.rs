//! The receive buffers of a shard, from which the kernel picks one when bytes arrive (a provided-buffer ring).
//!
//! Owns the memory and knows for each buffer whether the kernel may write to it. Buffers that are not needed wait on
//! a stack: the kernel is offered only as many as lately were needed at once (`target`), and the buffer used last is
//! offered first, so that a quiet shard works in a few warm pages. The kernel takes buffers in the order they were
//! offered, hence every offered buffer gets touched. When the kernel runs dry the target doubles; when it has been
//! larger than needed for a while it halves, and the memory of buffers that went cold is returned.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::files::{HugePages, Mapping};
use crate::pages::MemoryRange;
use crate::ring::Ring;
use crate::unfit::Unfit;

/// All receives of a shard share this buffer group.
pub(crate) const GROUP: u16 = 0;

/// The kernel takes at most this many entries in one buffer ring.
pub(crate) const COUNT_MAX: u16 = 1 << 15;

/// Each is a page that is touched soon. A busy shard has more after its first turns.
const FIRST_TARGET: u16 = 16;

/// Buffers lie this much further apart than they are long. Heads sit at the start of their buffers; at distances of a
/// power of two, the starts of all buffers would meet in the same few sets of the cache (measured at 1,000 connections).
const STAGGER_BYTES: usize = 3 * 64;

/// Offers between two looks at whether the target is still right.
const WINDOW: u32 = 4096;

/// Cold buffers whose memory is returned at one look: bounded work per turn.
const RELEASED_AT_ONCE: usize = 256;

pub(crate) struct BufRing {
    entries: Mapping,
    memory: Mapping,
    buffer_bytes: u32,
    mask: u16,
    /// Entries written so far, modulo 2^16; what the kernel sees as the ring's tail.
    tail: u16,
    /// Buffers the kernel may pick from now.
    offered: u16,
    /// How many it should be able to pick from.
    target: u16,
    /// Buffers nobody uses; the last one returned is on top.
    stack: Vec<u16>,
    /// Buffers the rest of the program holds.
    held: u32,
    /// The most that were held at once.
    held_max: u32,
    /// The kernel found no buffer since the last offer.
    is_dry: bool,
    /// The most that were out of the kernel's hands before an offer, in this window.
    peak: u16,
    offers: u32,
    /// Whether a buffer's memory was touched since it was last returned to the system.
    is_touched: Box<[bool]>,
    /// The size of the pages that can be returned to the system, if any can.
    returned_pages_bytes: Option<usize>,
}

/// Bytes of the memory behind `count` buffers (rounded up to a power of two).
fn memory_bytes(count: u16, buffer_bytes: u32) -> usize {
    let count = count.clamp(1, COUNT_MAX).next_power_of_two();
    usize::from(count) * (buffer_bytes as usize + STAGGER_BYTES)
}

impl BufRing {
    /// Maps and registers `count` buffers (rounded up to a power of two) of `buffer_bytes` each. Memory is touched
    /// only when the kernel first writes to it.
    ///
    /// # Errors
    /// Why there is no memory for them, or why the kernel does not take them.
    pub(crate) fn new(
        ring: &Ring,
        count: u16,
        buffer_bytes: u32,
        pages: HugePages,
    ) -> Result<BufRing, Unfit> {
        let refused = |error: io::Error| Unfit::from_buffer_ring(&error);
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>()).map_err(refused)?;
        let bytes = memory_bytes(count, buffer_bytes);
        let memory = Mapping::of_pages(bytes, pages).map_err(|error| match pages {
            HugePages::Reserved => Unfit::from_huge_pages(&error, bytes),
            HugePages::Off | HugePages::Transparent => refused(error),
        })?;
        // SAFETY: `entries` is page aligned, holds `count` entries and lives until the ring is gone (the driver
        // drops the ring first, and unregistering is part of closing the ring).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries.address() as u64, count, GROUP, 0)
                .map_err(refused)?;
        }
        let mut buffers = BufRing {
            entries,
            memory,
            buffer_bytes,
            mask: count - 1,
            tail: 0,
            offered: 0,
            target: FIRST_TARGET.min(count),
            stack: (0..count).rev().collect(),
            held: 0,
            held_max: 0,
            is_dry: false,
            peak: 0,
            offers: 0,
            is_touched: vec![false; usize::from(count)].into(),
            // Huge pages are not returned: a buffer is too small a part of one.
            returned_pages_bytes: (pages == HugePages::Off).then(crate::files::page_bytes),
        };
        buffers.offer();
        Ok(buffers)
    }

    /// Number of buffers.
    pub(crate) fn count(&self) -> u16 {
        self.mask + 1
    }

    /// Buffers that the rest of the program holds now.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// The most that were held at once.
    pub(crate) fn held_max(&self) -> u32 {
        self.held_max
    }

    /// The kernel picked this buffer: it is ours until [`BufRing::give_back`].
    pub(crate) fn take(&mut self, id: u16) {
        self.is_touched[usize::from(id)] = true;
        self.offered -= 1;
        self.held += 1;
        self.held_max = self.held_max.max(self.held);
    }

    /// Returns a buffer. The kernel sees it again at the next [`BufRing::offer`].
    pub(crate) fn give_back(&mut self, id: u16) {
        debug_assert!(!self.stack.contains(&id), "buffer {id} returned twice");
        self.held -= 1;
        self.stack.push(id);
        #[cfg(test)]
        self.poison(id);
    }

    /// The kernel found no buffer: offer more from the next offer on.
    pub(crate) fn ran_dry(&mut self) {
        self.is_dry = true;
    }

    /// Tops up what the kernel may pick from. Called once before each enter.
    pub(crate) fn offer(&mut self) {
        self.adjust_target();
        if self.offered >= self.target || self.stack.is_empty() {
            return;
        }
        while self.offered < self.target {
            let Some(id) = self.stack.pop() else { break };
            self.write_entry(id);
            self.offered += 1;
        }
        self.publish_tail();
    }

    fn adjust_target(&mut self) {
        if std::mem::take(&mut self.is_dry) {
            self.target = self.target.saturating_mul(2).min(self.count());
        }
        self.peak = self.peak.max(self.target.saturating_sub(self.offered));
        self.offers += 1;
        if self.offers >= WINDOW {
            if self.peak < self.target / 4 {
                self.target = (self.target / 2).max(FIRST_TARGET);
            }
            (self.offers, self.peak) = (0, 0);
            self.release_cold();
        }
    }

    /// Returns the memory of buffers at the bottom of the stack, which nobody has needed for long.
    fn release_cold(&mut self) {
        let Some(page_bytes) = self.returned_pages_bytes else { return };
        let cold = self.stack.len().saturating_sub(usize::from(self.target));
        let touched = self.stack[..cold].iter().filter(|&&id| self.is_touched[usize::from(id)]);
        let ids: Vec<u16> = touched.copied().take(RELEASED_AT_ONCE).collect();
        for id in ids {
            self.is_touched[usize::from(id)] = false;
            let start = self.bytes(id).as_ptr() as usize;
            let end = start + self.buffer_bytes as usize;
            // Whole pages only: the kernel rounds the end up, into the neighbour.
            let whole_pages = start.next_multiple_of(page_bytes)..end / page_bytes * page_bytes;
            if whole_pages.is_empty() {
                continue;
            }
            // SAFETY: these pages lie inside a buffer on the stack, which nobody uses; its content is not needed any more.
            unsafe {
                libc::madvise(whole_pages.start as *mut libc::c_void, whole_pages.len(), libc::MADV_DONTNEED);
            }
        }
    }

    /// The memory of the ring and its buffers.
    pub(crate) fn memory(&self) -> [MemoryRange; 2] {
        [self.entries.range("buffer ring"), self.memory.range("receive buffers")]
    }

    /// Buffers that the kernel can pick now or after the next offer.
    pub(crate) fn available(&self) -> usize {
        usize::from(self.offered) + self.stack.len()
    }

    /// The bytes of a buffer.
    pub(crate) fn bytes(&self, id: u16) -> NonNull<u8> {
        assert!(id <= self.mask);
        let offset = usize::from(id) * (self.buffer_bytes as usize + STAGGER_BYTES);
        // SAFETY: id is below count, so the offset lies inside the mapping.
        unsafe { self.memory.base().add(offset) }
    }

    fn write_entry(&mut self, id: u16) {
        let slot = usize::from(self.tail & self.mask);
        let address = self.bytes(id).as_ptr() as u64;
        // SAFETY: slot is below count and the mapping holds count entries; the kernel reads only entries before the
        // published tail, which this one is not yet. The tail shares memory with `resv` of entry 0, not touched here.
        let entry = unsafe { self.entries.base().cast::<BufRingEntry>().add(slot).as_mut() };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish_tail(&self) {
        // SAFETY: the mapping starts with entry 0, whose `resv` field is the tail the kernel reads; only this thread
        // writes it. Release makes the entries visible before the tail.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.base().cast::<BufRingEntry>().as_ptr());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }

    #[cfg(test)]
    fn poison(&mut self, id: u16) {
        // SAFETY: the buffer was just returned: neither the kernel nor a lease uses it, and it is this long.
        unsafe { self.bytes(id).write_bytes(0xDB, self.buffer_bytes as usize) };
    }
}
