//! The socket table: one 52-byte entry per socket of a shard, downstream and upstream alike. For an idle connection
//! this entry is all there is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::buf_ring::Use;
use crate::key::{Key, Kind, NONE};
use crate::lease::RawLease;
use crate::pages::MemoryRange;
use crate::prefetch::prefetch;
use crate::side_tables::{Aside, ProxiedAddresses};
use crate::wheel::{Link, Links};

/// No buffer.
const NO_BUFFER: u16 = u16::MAX;

/// With so many received buffers in its queue, a socket's receive is stopped, should its bound not have ended it.
pub(crate) const QUEUE_MAX: u8 = 4;

/// A queue never has more: far above what the bound of a receive lets through.
pub(crate) const QUEUE_BOUND: u8 = 64;

/// Facts about a socket, as bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    pub(crate) const NONE: Flags = Flags(0);
    /// The slot has a tenant.
    pub(crate) const OPEN: Flags = Flags(1);
    /// A multishot receive or accept is in the kernel.
    pub(crate) const ARMED: Flags = Flags(1 << 1);
    /// ... and its cancellation was asked for.
    pub(crate) const STOPPING: Flags = Flags(1 << 2);
    /// Owned by the table: no handle, no task; bytes give it to a worker.
    pub(crate) const IDLE: Flags = Flags(1 << 3);
    /// Owned by a handle that no task waits on (a pooled upstream connection): bytes or an end make it useless.
    pub(crate) const RESTING: Flags = Flags(1 << 4);
    /// The peer has finished sending.
    pub(crate) const ENDED: Flags = Flags(1 << 5);
    /// The deadline has passed.
    pub(crate) const EXPIRED: Flags = Flags(1 << 6);
    /// Waits for receive buffers.
    pub(crate) const STARVED: Flags = Flags(1 << 7);
    /// The peer's address is in the entry ...
    pub(crate) const PEER_KNOWN: Flags = Flags(1 << 8);
    /// ... or rather in a side table, being IPv6 or announced by a proxy.
    pub(crate) const PEER_ASIDE: Flags = Flags(1 << 9);
    /// A listener.
    pub(crate) const LISTENER: Flags = Flags(1 << 10);
    /// Its next receives are for a body, and get the buffers of bodies.
    pub(crate) const BODY: Flags = Flags(1 << 11);
    /// Came from a listener.
    pub(crate) const ACCEPTED: Flags = Flags(1 << 12);
    /// Receives one buffer at a time instead of everything that comes.
    pub(crate) const ONE_BY_ONE: Flags = Flags(1 << 13);
    /// A send broke off in the middle of its bytes: nothing may follow them.
    pub(crate) const SEND_BROKEN: Flags = Flags(1 << 14);
    /// A task waits for bytes.
    pub(crate) const WANTED: Flags = Flags(1 << 15);

    pub(crate) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }

    pub(crate) fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }

    pub(crate) fn put(&mut self, flag: Flags, is_set: bool) {
        if is_set { self.set(flag) } else { self.clear(flag) }
    }
}

pub(crate) struct Entry {
    pub(crate) fd: RawFd,
    generation: u32,
    /// The task that waits for bytes (or for the deadline, or for a connection).
    pub(crate) waiter: u32,
    /// The send in flight; further ones are chained behind it.
    pub(crate) send: u32,
    link: Link,
    /// An IPv4 peer, or where it is in the side tables, or the next free slot.
    peer: u32,
    peer_port: u16,
    queue_head: u16,
    queue_tail: u16,
    pub(crate) flags: Flags,
    pub(crate) queue_len: u8,
    /// Which listener it came from.
    pub(crate) listener: u8,
    /// The errno that ended receiving or sending, 0 if none.
    error: u8,
    /// A small number that the connection's owner keeps with it.
    pub(crate) owner_byte: u8,
    /// A number that the connection's owner keeps with it.
    pub(crate) owner_word: u32,
}

const _: () = assert!(size_of::<Entry>() == 52, "an idle connection is this entry: keep it small");

/// The queue behind a received buffer: which buffer follows, and how many bytes this one holds.
#[derive(Clone, Copy)]
struct Queued {
    next: u16,
    len: u16,
}

/// A queue of received buffers has no room for another.
#[derive(Debug)]
pub(crate) struct QueueFull;

pub(crate) struct Table {
    entries: Vec<Entry>,
    free: u32,
    open: u32,
    queued: Box<[Queued]>,
    aside: Aside,
}

impl Table {
    /// `capacity` entries are reserved (address space, not memory), so that the table never moves below it.
    pub(crate) fn new(capacity: usize, buffers: u16) -> Table {
        Table {
            entries: Vec::with_capacity(capacity),
            free: NONE,
            open: 0,
            queued: vec![Queued { next: NO_BUFFER, len: 0 }; usize::from(buffers)].into(),
            aside: Aside::new(),
        }
    }

    /// The memory of the entries (as much as is reserved) and of the queues.
    pub(crate) fn memory(&self) -> [MemoryRange; 2] {
        let range = |what, start: usize, bytes| MemoryRange { what, start, bytes };
        let entries = self.entries.as_ptr() as usize;
        let queued = self.queued.as_ptr() as usize;
        [
            range("socket table", entries, self.entries.capacity() * size_of::<Entry>()),
            range("receive queues", queued, size_of_val(&*self.queued)),
        ]
    }

    /// Open entries.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    pub(crate) fn insert(&mut self, fd: RawFd, flags: Flags) -> u32 {
        let index = if self.free == NONE {
            self.entries.push(Entry {
                fd: -1,
                generation: 0,
                waiter: NONE,
                send: NONE,
                link: Link::UNLINKED,
                peer: 0,
                peer_port: 0,
                queue_head: NO_BUFFER,
                queue_tail: NO_BUFFER,
                flags: Flags::NONE,
                queue_len: 0,
                listener: 0,
                error: 0,
                owner_byte: 0,
                owner_word: 0,
            });
            self.entries.len() as u32 - 1
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].peer;
            index
        };
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.queue_len == 0 && !entry.flags.has(Flags::OPEN));
        entry.fd = fd;
        entry.flags = flags;
        entry.flags.set(Flags::OPEN);
        entry.waiter = NONE;
        entry.send = NONE;
        entry.error = 0;
        entry.listener = 0;
        entry.owner_byte = 0;
        entry.owner_word = 0;
        self.open += 1;
        index
    }

    /// Gives the slot up. The caller has emptied the queue, unlinked the deadline and dealt with the descriptor.
    pub(crate) fn remove(&mut self, index: u32) {
        let free = self.free;
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.flags.has(Flags::OPEN) && entry.queue_len == 0);
        if entry.flags.has(Flags::PEER_ASIDE) {
            self.aside.remove(entry.peer);
        }
        entry.generation = entry.generation.wrapping_add(1);
        entry.flags = Flags::NONE;
        entry.fd = -1;
        entry.peer = free;
        self.free = index;
        self.open -= 1;
    }

    /// The entry is looked at soon, if there is one.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32) {
        if let Some(entry) = self.entries.get(index as usize) {
            prefetch((&raw const *entry).cast(), size_of::<Entry>());
        }
    }

    /// What is in its place for a waiter: the number of a task in nearly all cases.
    #[inline]
    pub(crate) fn waiter(&self, index: u32) -> u32 {
        self.entries.get(index as usize).map_or(NONE, |entry| entry.waiter)
    }

    pub(crate) fn at(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.entries[index as usize].generation
    }

    pub(crate) fn is_current(&self, index: u32, generation: u32) -> bool {
        let entry = &self.entries[index as usize];
        entry.flags.has(Flags::OPEN) && entry.generation == generation
    }

    pub(crate) fn key(&self, kind: Kind, index: u32) -> Key {
        Key::new(kind, self.entries[index as usize].generation, index)
    }

    /// The entry a completion is for; `None` if the slot has another tenant by now.
    pub(crate) fn current(&mut self, key: Key) -> Option<u32> {
        let entry = self.entries.get(key.index() as usize)?;
        let matches = Key::new(key.kind(), entry.generation, key.index()) == key;
        (matches && entry.flags.has(Flags::OPEN)).then(|| key.index())
    }

    /// Indices of the open entries that have one of the flags; for draining and the final report.
    pub(crate) fn with_flag(&self, flag: Flags) -> Vec<u32> {
        let found = self.entries.iter().enumerate().filter(|(_, entry)| entry.flags.has(flag));
        found.map(|(index, _)| index as u32).collect()
    }

    /// Puts a received buffer at the end of the socket's queue.
    ///
    /// # Errors
    /// The queue has all it takes.
    pub(crate) fn queue_push(&mut self, index: u32, id: u16, len: u16) -> Result<(), QueueFull> {
        let entry = &mut self.entries[index as usize];
        if entry.queue_len >= QUEUE_BOUND {
            return Err(QueueFull);
        }
        self.queued[usize::from(id)] = Queued { next: NO_BUFFER, len };
        if entry.queue_len == 0 {
            entry.queue_head = id;
        } else {
            self.queued[usize::from(entry.queue_tail)].next = id;
        }
        entry.queue_tail = id;
        entry.queue_len += 1;
        Ok(())
    }

    /// Makes the last buffer of the socket's queue longer by `bytes`, if there is one and it has the room; returns its number
    /// and where the room begins.
    pub(crate) fn extend_last(&mut self, index: u32, bytes: u16, buffer_bytes: u32) -> Option<(u16, u16)> {
        let entry = &self.entries[index as usize];
        if entry.queue_len == 0 {
            return None;
        }
        let last = &mut self.queued[usize::from(entry.queue_tail)];
        let at = last.len;
        let len = at.checked_add(bytes).filter(|&len| u32::from(len) <= buffer_bytes)?;
        last.len = len;
        Some((entry.queue_tail, at))
    }

    /// Takes the first received buffer.
    pub(crate) fn queue_pop(&mut self, index: u32) -> Option<RawLease> {
        let entry = &mut self.entries[index as usize];
        if entry.queue_len == 0 {
            return None;
        }
        let id = entry.queue_head;
        let Queued { next, len } = self.queued[usize::from(id)];
        entry.queue_head = next;
        entry.queue_len -= 1;
        Some(RawLease { id, start: 0, end: len })
    }

    /// The buffers of a socket's queue.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn queue_ids(&self, index: u32) -> Vec<u16> {
        let entry = &self.entries[index as usize];
        let follow = |id: &u16| Some(self.queued[usize::from(*id)].next);
        std::iter::successors(Some(entry.queue_head), follow).take(usize::from(entry.queue_len)).collect()
    }

    pub(crate) fn peer(&self, index: u32) -> Option<SocketAddr> {
        let entry = &self.entries[index as usize];
        if !entry.flags.has(Flags::PEER_KNOWN) {
            return None;
        }
        if !entry.flags.has(Flags::PEER_ASIDE) {
            return Some(SocketAddr::new(Ipv4Addr::from_bits(entry.peer).into(), entry.peer_port));
        }
        match self.aside.announced(entry.peer) {
            Some(announced) => Some(announced.source),
            None => Some(SocketAddr::new(self.aside.peer(entry.peer)?.into(), entry.peer_port)),
        }
    }

    /// Remembers the peer. An IPv4 address mapped into IPv6 is kept as what it is.
    pub(crate) fn set_peer(&mut self, index: u32, peer: SocketAddr) {
        let entry = &mut self.entries[index as usize];
        entry.flags.set(Flags::PEER_KNOWN);
        entry.peer_port = peer.port();
        if entry.flags.has(Flags::PEER_ASIDE) {
            entry.flags.clear(Flags::PEER_ASIDE);
            self.aside.remove(entry.peer);
        }
        match peer.ip().to_canonical() {
            IpAddr::V4(v4) => entry.peer = v4.to_bits(),
            IpAddr::V6(v6) => {
                entry.flags.set(Flags::PEER_ASIDE);
                entry.peer = self.aside.add_peer(v6);
            }
        }
    }

    /// The ends that were announced for the connection, if any were.
    pub(crate) fn proxied(&self, index: u32) -> Option<ProxiedAddresses> {
        let entry = &self.entries[index as usize];
        if entry.flags.has(Flags::PEER_ASIDE) { self.aside.announced(entry.peer) } else { None }
    }

    /// Remembers ends that were announced for the connection; its source takes the place of the peer.
    pub(crate) fn set_proxied(&mut self, index: u32, announced: ProxiedAddresses) {
        let entry = &mut self.entries[index as usize];
        if entry.flags.has(Flags::PEER_ASIDE) {
            self.aside.remove(entry.peer);
        }
        entry.flags.set(Flags::PEER_KNOWN);
        entry.flags.set(Flags::PEER_ASIDE);
        entry.peer = self.aside.add_announced(announced);
    }
}

impl Entry {
    /// The purpose of its next receive.
    pub(crate) fn purpose(&self) -> Use {
        if self.flags.has(Flags::BODY) { Use::Body } else { Use::Message }
    }

    /// Something waits for its bytes, and none are there.
    pub(crate) fn is_wanted(&self) -> bool {
        let is_open_for_any = self.flags.has(Flags::IDLE) || self.flags.has(Flags::RESTING);
        is_open_for_any || (self.flags.has(Flags::WANTED) && self.queue_len == 0)
    }

    /// Takes the descriptor out of an entry that is about to be removed.
    pub(crate) fn take_fd(&mut self) -> OwnedFd {
        let fd = std::mem::replace(&mut self.fd, -1);
        assert!(fd >= 0, "the socket was given up before");
        // SAFETY: an entry owns its descriptor, and this one has it no more.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    pub(crate) fn error(&self) -> Option<i32> {
        (self.error != 0).then_some(i32::from(self.error))
    }

    /// Keeps the first error. Linux errnos fit a byte.
    pub(crate) fn fail(&mut self, errno: i32) {
        if self.error == 0 {
            self.error = u8::try_from(errno).unwrap_or(libc::EIO as u8);
        }
    }
}

impl Links for Table {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.entries[index as usize].link
    }
}
