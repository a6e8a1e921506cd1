//! The receive buffers of a shard, from which the kernel picks one when bytes arrive (a provided-buffer ring).
//!
//! Owns the memory and knows for each buffer whether the kernel may write to it. Buffers that are not needed wait on
//! a stack: the kernel is offered only as many as lately were needed at once (`target`), and the buffer used last is
//! offered first, so that a quiet shard works in a few warm pages. When the kernel runs dry the target doubles.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::files::Mapping;
use crate::ring::Ring;

/// All receives of a shard share this buffer group.
pub(crate) const GROUP: u16 = 0;

/// The kernel takes at most this many entries in one buffer ring.
pub(crate) const COUNT_MAX: u16 = 1 << 15;

const FIRST_TARGET: u16 = 64;

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
}

impl BufRing {
    /// Maps and registers `count` buffers (rounded up to a power of two) of `buffer_bytes` each. Memory is touched
    /// only when the kernel first writes to it.
    ///
    /// # Errors
    /// What mmap or IORING_REGISTER_PBUF_RING says.
    pub(crate) fn new(ring: &Ring, count: u16, buffer_bytes: u32) -> io::Result<BufRing> {
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * buffer_bytes as usize)?;
        // SAFETY: `entries` is page aligned, holds `count` entries and lives until the ring is gone (the driver
        // drops the ring first, and unregistering is part of closing the ring).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.address() as u64, count, GROUP, 0)?;
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
    pub(crate) fn take(&mut self, _id: u16) {
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

    /// The kernel found no buffer: offer more from now on.
    pub(crate) fn ran_dry(&mut self) {
        if self.offered == 0 {
            self.target = self.target.saturating_mul(2).min(self.count());
        }
    }

    /// Tops up what the kernel may pick from. Called once before each enter.
    pub(crate) fn offer(&mut self) {
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

    /// Buffers that the kernel can pick now or after the next offer.
    pub(crate) fn available(&self) -> usize {
        usize::from(self.offered) + self.stack.len()
    }

    /// The bytes of a buffer.
    pub(crate) fn bytes(&self, id: u16) -> NonNull<u8> {
        assert!(id <= self.mask);
        let offset = usize::from(id) * self.buffer_bytes as usize;
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
