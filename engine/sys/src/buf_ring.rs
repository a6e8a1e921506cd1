//! The receive buffers of a shard, from which the kernel picks one when bytes arrive (provided-buffer rings).
//!
//! Owns the memory and knows for each buffer whether the kernel may write to it, who holds it, in how many pieces and since
//! when. A buffer goes back when its last piece does. All buffers lie in one place; two rings offer them to the kernel, one for
//! each [`Use`]. Bodies never get the last quarter of the buffers, so that a shard full of unread bodies still receives requests
//! and response heads.
//!
//! Buffers that are not needed wait on a stack: the kernel is offered only as many as lately were needed at once
//! (`target`), and the buffer used last is offered first, so that a quiet shard works in a few warm pages. The kernel
//! takes buffers in the order they were offered, hence every offered buffer gets touched. When a ring runs dry its target
//! doubles; when it has been larger than needed for a while it halves, offered buffers beyond it are withdrawn, and
//! the memory of those that went cold is returned ([`BufRing::trim`]).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::files::{HugePages, Mapping};
use crate::host_unsupported::HostUnsupported;
use crate::lease::RawLease;
use crate::pages::MemoryRange;
use crate::ring::Ring;

/// The purpose of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The beginning of a message: a request, a response head, what comes together with it.
    Message,
    /// The rest of a body, a tunnel.
    Body,
}

impl Use {
    pub(crate) const ALL: [Use; 2] = [Use::Message, Use::Body];

    pub(crate) fn other(self) -> Use {
        match self {
            Use::Message => Use::Body,
            Use::Body => Use::Message,
        }
    }

    /// The number of the buffer group in the kernel.
    pub(crate) fn group(self) -> u16 {
        self as u16
    }
}

/// The holder of a buffer that is out of the kernel's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The queue of a socket: its bytes have arrived and nothing has taken them.
    Socket(u32),
    /// Leases. The task that received it answers for all its pieces, wherever they are; the sends that own some are found in
    /// the in-flight table.
    Task(u32),
}

/// The kernel takes at most this many entries in one buffer ring.
pub(crate) const COUNT_MAX: u16 = 1 << 15;

/// Each is a page that is touched soon. A busy shard has more after its first turns.
const FIRST_TARGET: u16 = 16;

/// Bodies may have all buffers but this part (one in so many).
const RESERVED_PART: u16 = 4;

/// With less than this part of the buffers left (one in so many), they are scarce.
const SCARCE_PART: u16 = 8;

/// How long a buffer may be held when they begin to be scarce, in milliseconds. The fewer are left, the shorter.
const PATIENCE_MS: u64 = 1_000;

/// Buffers lie this much further apart than they are long. Heads sit at the start of their buffers; at distances of a
/// power of two, the starts of all buffers would meet in the same few sets of the cache (measured at 1,000 connections).
const STAGGER_BYTES: usize = 3 * 64;

/// Cold buffers whose memory is returned at one look: bounded work per turn (0.6 ms).
const RELEASED_AT_ONCE: usize = 512;

pub(crate) struct BufRing {
    rings: [Offers; 2],
    memory: Mapping,
    buffer_bytes: u32,
    mask: u16,
    /// Unused buffers; the last one returned is on top.
    stack: Vec<u16>,
    /// Buffers the rest of the program holds, by what they were received for.
    held: [u16; 2],
    /// The most that were held at once.
    held_max: u32,
    /// By the number of the buffer.
    states: Box<[State]>,
    /// Buffers whose memory was touched since it was last returned to the system.
    touched: u16,
    /// The size of the pages that can be returned to the system, if any can.
    returned_pages_bytes: Option<usize>,
}

/// The record of a buffer.
#[derive(Clone, Copy)]
struct State {
    /// When it was taken, in milliseconds modulo 2^32.
    since_ms: u32,
    /// The socket in whose queue it is, or the task that took it from there.
    holder: u32,
    /// Leases of a part of it; 1 in a queue, 0 when nothing holds it. Both parts of a split have bytes, and parts do not
    /// overlap, so there are never more of them than a buffer has bytes, which are at most 65,535.
    pieces: u16,
    /// The ring it was offered in.
    purpose: Use,
    is_queued: bool,
    /// Whether its memory was touched since it was last returned to the system.
    is_touched: bool,
}

const _: () = assert!(size_of::<State>() == 16, "a quarter of a megabyte for 16,384 buffers");

/// One ring of buffers that the kernel may pick.
struct Offers {
    entries: Mapping,
    /// Entries written so far, modulo 2^16; what the kernel sees as the ring's tail.
    tail: u16,
    /// Buffers the kernel may pick from now.
    offered: u16,
    /// How many it should be able to pick from.
    target: u16,
    /// The kernel found no buffer since the last offer.
    is_dry: bool,
    /// The most that were out of the kernel's hands before an offer, since the last trim.
    peak: u16,
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
    ) -> Result<BufRing, HostUnsupported> {
        let refused = |error: io::Error| HostUnsupported::from_buffer_ring(&error);
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let bytes = memory_bytes(count, buffer_bytes);
        let memory = Mapping::of_pages(bytes, pages).map_err(|error| match pages {
            HugePages::Reserved => HostUnsupported::from_huge_pages(&error, bytes),
            HugePages::Off | HugePages::Transparent => refused(error),
        })?;
        let rings = [
            Offers::register(ring, Use::Message, count).map_err(refused)?,
            Offers::register(ring, Use::Body, count).map_err(refused)?,
        ];
        let unused = State {
            since_ms: 0,
            holder: 0,
            pieces: 0,
            purpose: Use::Message,
            is_queued: false,
            is_touched: false,
        };
        let mut buffers = BufRing {
            rings,
            memory,
            buffer_bytes,
            mask: count - 1,
            stack: (0..count).rev().collect(),
            held: [0; 2],
            held_max: 0,
            states: vec![unused; usize::from(count)].into(),
            // Huge pages are not returned: a buffer is too small a part of one.
            returned_pages_bytes: (pages == HugePages::Off).then(crate::files::page_bytes),
            touched: 0,
        };
        buffers.offer();
        Ok(buffers)
    }

    /// Number of buffers.
    pub(crate) fn count(&self) -> u16 {
        self.mask + 1
    }

    /// Bytes of each.
    pub(crate) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Buffers that the rest of the program holds now.
    pub(crate) fn held(&self) -> u32 {
        u32::from(self.held[0]) + u32::from(self.held[1])
    }

    /// The most that were held at once.
    pub(crate) fn held_max(&self) -> u32 {
        self.held_max
    }

    /// The kernel picked this buffer for a socket: it is ours until [`BufRing::give_back`].
    pub(crate) fn take(&mut self, id: u16, socket: u32, now_ms: u64) {
        let state = &mut self.states[usize::from(id)];
        debug_assert!(state.pieces == 0, "buffer {id} taken twice");
        self.touched += u16::from(!state.is_touched);
        state.is_touched = true;
        state.pieces = 1;
        state.since_ms = now_ms as u32;
        state.holder = socket;
        state.is_queued = true;
        let purpose = state.purpose as usize;
        self.rings[purpose].offered -= 1;
        self.held[purpose] += 1;
        self.held_max = self.held_max.max(self.held());
    }

    /// A buffer passes from the queue of its socket to a task.
    pub(crate) fn lend(&mut self, id: u16, task: u32) {
        let state = &mut self.states[usize::from(id)];
        state.is_queued = false;
        state.holder = task;
    }

    /// A lease of a buffer becomes two, each with bytes of its own.
    pub(crate) fn split(&mut self, id: u16) {
        let state = &mut self.states[usize::from(id)];
        debug_assert!(state.pieces > 0 && !state.is_queued, "buffer {id} is not lent");
        state.pieces = state.pieces.checked_add(1).expect("no more pieces than bytes");
    }

    /// Returns a piece of a buffer, and with the last one the buffer. The kernel sees it again at the next
    /// [`BufRing::offer`].
    pub(crate) fn give_back(&mut self, id: u16) {
        let state = &mut self.states[usize::from(id)];
        assert!(state.pieces > 0, "buffer {id} returned twice");
        state.pieces -= 1;
        if state.pieces > 0 {
            return;
        }
        self.held[state.purpose as usize] -= 1;
        self.stack.push(id);
        #[cfg(any(test, feature = "rig"))]
        self.poison(id);
    }

    /// The kernel found no buffer: offer more from the next offer on.
    pub(crate) fn ran_dry(&mut self, purpose: Use) {
        self.rings[purpose as usize].is_dry = true;
    }

    /// Tops up what the kernel may pick from. Called once before each enter.
    pub(crate) fn offer(&mut self) {
        for purpose in Use::ALL {
            let count = self.count();
            let may_be_out = self.may_be_out(purpose);
            let ring = &mut self.rings[purpose as usize];
            if std::mem::take(&mut ring.is_dry) {
                // Neither use has all on offer, and the other none.
                ring.target = ring.target.max(1).saturating_mul(2).min((count / 2).max(1));
            }
            ring.peak = ring.peak.max(ring.target.saturating_sub(ring.offered));
            let wanted = ring.target.min(may_be_out);
            if ring.offered < wanted && !self.stack.is_empty() {
                self.top_up(purpose, wanted);
            }
        }
    }

    fn top_up(&mut self, purpose: Use, wanted: u16) {
        while self.rings[purpose as usize].offered < wanted {
            let Some(id) = self.stack.pop() else { break };
            self.states[usize::from(id)].purpose = purpose;
            let address = self.bytes(id);
            self.rings[purpose as usize].write_entry(self.mask, id, address, self.buffer_bytes);
        }
        self.rings[purpose as usize].publish_tail();
    }

    /// How many buffers may be offered for a use at once, at most.
    fn may_be_out(&self, purpose: Use) -> u16 {
        match purpose {
            Use::Message => self.count(),
            Use::Body => {
                (self.count() - self.count() / RESERVED_PART).saturating_sub(self.held[purpose as usize])
            }
        }
    }

    /// Buffers that the kernel can pick now or after the next offer.
    pub(crate) fn available(&self, purpose: Use) -> usize {
        let offered = self.rings[purpose as usize].offered;
        let more = self.may_be_out(purpose).saturating_sub(offered);
        usize::from(offered) + self.stack.len().min(usize::from(more))
    }

    /// Whether few are left for messages.
    pub(crate) fn is_scarce(&self) -> bool {
        self.available(Use::Message) < self.enough()
    }

    /// With fewer left, buffers are scarce.
    fn enough(&self) -> usize {
        usize::from(self.count() / SCARCE_PART).max(1)
    }

    /// How long a buffer of this use may be held while `waiting` sockets found none; `None` while there are enough.
    /// The fewer are left for messages, or the more sockets wait for one of the bodies', the shorter.
    pub(crate) fn patience_ms(&self, purpose: Use, waiting: usize) -> Option<u64> {
        let enough = self.enough();
        let left = match purpose {
            Use::Message => self.available(purpose),
            Use::Body => enough.saturating_sub(self.missing(purpose, waiting)),
        };
        (left < enough).then(|| PATIENCE_MS * left as u64 / enough as u64)
    }

    /// How many buffers are missing to what is enough.
    pub(crate) fn missing(&self, purpose: Use, waiting: usize) -> usize {
        match purpose {
            Use::Message => self.enough().saturating_sub(self.available(purpose)),
            Use::Body => waiting.saturating_sub(self.available(purpose)),
        }
    }

    /// The buffers that have been held for `age_ms` or longer: their age and number.
    pub(crate) fn held_longer_than(
        &self,
        purpose: Use,
        age_ms: u64,
        now_ms: u64,
    ) -> impl Iterator<Item = (u32, u16)> + '_ {
        let held = self
            .states
            .iter()
            .zip(0_u16..)
            .filter(move |(state, _)| state.pieces > 0 && state.purpose == purpose);
        held.map(move |(state, id)| ((now_ms as u32).wrapping_sub(state.since_ms), id))
            .filter(move |(age, _)| u64::from(*age) >= age_ms)
    }

    /// The holder of a buffer, if there is one.
    pub(crate) fn holder(&self, id: u16) -> Option<Holder> {
        let state = &self.states[usize::from(id)];
        let holder = if state.is_queued { Holder::Socket(state.holder) } else { Holder::Task(state.holder) };
        (state.pieces > 0).then_some(holder)
    }

    /// Whether a trim may find something to do.
    pub(crate) fn wants_trim(&self) -> bool {
        let is_cold = self.returned_pages_bytes.is_some()
            && usize::from(self.touched) > self.held() as usize + 2 * self.warm();
        is_cold || self.rings.iter().any(|ring| ring.target > FIRST_TARGET)
    }

    /// Buffers at the top of the stack that are likely to be needed soon.
    fn warm(&self) -> usize {
        self.rings.iter().map(|ring| usize::from(ring.target)).sum()
    }

    /// Takes back from the kernel what was not needed lately and returns cold memory to the system. Called now and then.
    /// `is_at_rest`: every completion was read, so what is offered is still all in the kernel's rings.
    pub(crate) fn trim(&mut self, is_at_rest: bool) {
        for purpose in Use::ALL {
            let ring = &mut self.rings[purpose as usize];
            if ring.peak < ring.target / 4 {
                ring.target = (ring.target / 2).max(FIRST_TARGET.min(self.mask + 1));
            }
            ring.peak = 0;
            if is_at_rest {
                self.withdraw(purpose);
            }
        }
        self.release_cold();
    }

    /// Takes back what is on offer for one use and was not needed yet, since the other is short of buffers; messages keep what
    /// is enough. As with [`BufRing::trim`], every completion was read.
    pub(crate) fn withdraw_from(&mut self, purpose: Use) {
        let left = match purpose {
            Use::Message => (self.enough() as u16).max(FIRST_TARGET),
            Use::Body => 0,
        };
        let target = &mut self.rings[purpose as usize].target;
        *target = (*target).min(left);
        self.withdraw(purpose);
    }

    /// So many receives were armed at once: as many buffers are to be on offer for them.
    pub(crate) fn expect(&mut self, purpose: Use, receives: usize) {
        let most = usize::from(self.count() / 2).max(1);
        let target = &mut self.rings[purpose as usize].target;
        *target = (*target).max(receives.min(most) as u16);
    }

    /// Takes offered buffers beyond the target back. The kernel looks at the ring's tail only inside io_uring_enter, and
    /// with DEFER_TASKRUN only inside that of this thread.
    fn withdraw(&mut self, purpose: Use) {
        let mask = self.mask;
        let ring = &mut self.rings[purpose as usize];
        while ring.offered > ring.target {
            self.stack.push(ring.take_last_entry(mask));
        }
        ring.publish_tail();
    }

    /// Returns the memory of buffers at the bottom of the stack, which were not needed for long.
    fn release_cold(&mut self) {
        let Some(page_bytes) = self.returned_pages_bytes else { return };
        let cold = self.stack.len().saturating_sub(self.warm());
        let touched = self.stack[..cold].iter().filter(|&&id| self.states[usize::from(id)].is_touched);
        let mut ids = [0; RELEASED_AT_ONCE];
        let count = ids.iter_mut().zip(touched).map(|(id, &touched)| *id = touched).count();
        let ids = &mut ids[..count];
        self.touched -= count as u16;
        ids.sort_unstable();
        for run in ids.chunk_by(|a, b| a + 1 == *b) {
            for &id in run {
                self.states[usize::from(id)].is_touched = false;
            }
            self.release(run[0], run[run.len() - 1], page_bytes);
        }
    }

    /// Returns the memory of neighbouring buffers that are all on the stack.
    fn release(&mut self, first: u16, last: u16, page_bytes: usize) {
        let start = self.bytes(first).as_ptr() as usize;
        let end = self.bytes(last).as_ptr() as usize + self.buffer_bytes as usize;
        // Whole pages only: the kernel rounds the end up, into the neighbour.
        let whole_pages = start.next_multiple_of(page_bytes)..end / page_bytes * page_bytes;
        if whole_pages.is_empty() {
            return;
        }
        // SAFETY: these pages lie inside buffers on the stack, which are unused; their content is not needed any more.
        unsafe {
            libc::madvise(whole_pages.start as *mut libc::c_void, whole_pages.len(), libc::MADV_DONTNEED);
        }
    }

    /// The memory of the rings and their buffers.
    pub(crate) fn memory(&self) -> [MemoryRange; 3] {
        let [messages, bodies] = &self.rings;
        [
            messages.entries.range("buffer ring"),
            bodies.entries.range("buffer ring"),
            self.memory.range("receive buffers"),
        ]
    }

    /// The bytes of a buffer.
    pub(crate) fn bytes(&self, id: u16) -> NonNull<u8> {
        assert!(id <= self.mask);
        let offset = usize::from(id) * (self.buffer_bytes as usize + STAGGER_BYTES);
        // SAFETY: id is below count, so the offset lies inside the mapping.
        unsafe { self.memory.base().add(offset) }
    }

    /// Where the bytes of a lease begin.
    pub(crate) fn start_of(&self, lease: RawLease) -> NonNull<u8> {
        if lease.has_buffer() {
            // SAFETY: a lease lies inside its buffer.
            unsafe { self.bytes(lease.id).add(usize::from(lease.start)) }
        } else {
            NonNull::dangling()
        }
    }

    /// Copies the first `bytes` of one buffer to another, `at` bytes from its start.
    pub(crate) fn copy(&mut self, from: u16, bytes: u16, to: u16, at: u16) {
        assert!(from != to && u32::from(at) + u32::from(bytes) <= self.buffer_bytes);
        let (source, target) = (self.bytes(from), self.bytes(to));
        // SAFETY: two different buffers, which do not overlap, both out of the kernel's hands and not lent to a task (the
        // caller has them in a socket's queue); source and target ranges lie inside them.
        unsafe { source.copy_to_nonoverlapping(target.add(usize::from(at)), usize::from(bytes)) };
    }

    #[cfg(any(test, feature = "rig"))]
    fn poison(&mut self, id: u16) {
        // SAFETY: the buffer was just returned: neither the kernel nor a lease uses it, and it is this long.
        unsafe { self.bytes(id).write_bytes(0xDB, self.buffer_bytes as usize) };
    }

    /// Buffers whose memory was touched and not returned.
    #[cfg(test)]
    pub(crate) fn touched(&self) -> u16 {
        self.touched
    }
}

/// The parts that a [`Rig`](crate::rig::Rig) sees and calls.
#[cfg(any(test, feature = "rig"))]
impl BufRing {
    /// The buffers offered to the kernel, in the order in which it picks.
    pub(crate) fn offered_ids(&self, purpose: Use) -> Vec<u16> {
        let ring = &self.rings[purpose as usize];
        let first = ring.tail.wrapping_sub(ring.offered);
        (0..ring.offered).map(|nth| ring.id_at(first.wrapping_add(nth) & self.mask)).collect()
    }

    /// The buffers that are not offered.
    pub(crate) fn unused_ids(&self) -> &[u16] {
        &self.stack
    }

    /// In how many pieces a buffer is held.
    pub(crate) fn pieces(&self, id: u16) -> u16 {
        self.states[usize::from(id)].pieces
    }

    /// Buffers of this use that are held or offered.
    pub(crate) fn out(&self, purpose: Use) -> u16 {
        self.held[purpose as usize] + self.rings[purpose as usize].offered
    }

    /// Writes a byte into a buffer.
    pub(crate) fn put(&mut self, id: u16, at: u16, byte: u8) {
        assert!(u32::from(at) < self.buffer_bytes);
        // SAFETY: inside the buffer, which the rig has just picked: it has no other holder.
        unsafe { self.bytes(id).add(usize::from(at)).write(byte) };
    }

    /// Reads a byte of a buffer.
    pub(crate) fn see(&self, id: u16, at: u16) -> u8 {
        assert!(u32::from(at) < self.buffer_bytes);
        // SAFETY: inside the buffer, which nothing writes to now: there is no kernel behind a rig.
        unsafe { self.bytes(id).add(usize::from(at)).read() }
    }
}

impl Offers {
    /// An empty ring, known to the kernel.
    fn register(ring: &Ring, purpose: Use, count: u16) -> io::Result<Offers> {
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        // SAFETY: `entries` is page aligned, holds `count` entries and lives until the ring is gone (the driver
        // drops the ring first, and unregistering is part of closing the ring).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.address() as u64,
                count,
                purpose.group(),
                0,
            )?;
        }
        Ok(Offers { entries, tail: 0, offered: 0, target: FIRST_TARGET.min(count), is_dry: false, peak: 0 })
    }

    fn entry(&mut self, slot: u16) -> &mut BufRingEntry {
        // SAFETY: callers mask the slot, so it is below count and the mapping holds count entries; the kernel reads entries
        // before the published tail, and only inside io_uring_enter, which this thread is not in now. The tail shares
        // memory with `resv` of entry 0, which nothing touches through this reference.
        unsafe { self.entries.base().cast::<BufRingEntry>().add(usize::from(slot)).as_mut() }
    }

    /// The buffer of an entry.
    #[cfg(any(test, feature = "rig"))]
    fn id_at(&self, slot: u16) -> u16 {
        // SAFETY: as in `entry`; nothing writes to it now.
        unsafe { self.entries.base().cast::<BufRingEntry>().add(usize::from(slot)).as_ref() }.bid()
    }

    fn write_entry(&mut self, mask: u16, id: u16, address: NonNull<u8>, bytes: u32) {
        let entry = self.entry(self.tail & mask);
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.offered += 1;
    }

    /// Removes the entry that was written last and returns its buffer.
    fn take_last_entry(&mut self, mask: u16) -> u16 {
        self.tail = self.tail.wrapping_sub(1);
        self.offered -= 1;
        self.entry(self.tail & mask).bid()
    }

    fn publish_tail(&self) {
        // SAFETY: the mapping starts with entry 0, whose `resv` field is the tail the kernel reads; only this thread
        // writes it. Release makes the entries visible before the tail.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.base().cast::<BufRingEntry>().as_ptr());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}
