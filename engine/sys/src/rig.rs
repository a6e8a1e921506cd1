//! A driver without a kernel: receives, sends and closes are completed by hand, in any order, while a model knows who has
//! which receive buffer and the bytes each stream has sent. For tests and the fuzz target `buffers`.
//!
//! The ring is real and detached: what the driver submits goes nowhere. The rig plays the kernel's part: it picks buffers in
//! the order they were offered, writes bytes that tell their stream and place, and posts the completion.

use std::collections::{HashMap, HashSet};

use crate::Settings;
use crate::buf::Buf;
use crate::buf_ring::{BufRing, Use};
use crate::driver::{Driver, Wake};
use crate::gather::Gathered;
use crate::key::{Key, Kind, NONE};
use crate::lease::{LEASES_MAX, RawLease};
use crate::op::{Payload, RawPart, State, Unsent, reserve_description};
use crate::ring::Completion;
use crate::socket::ReadAhead;
use crate::table::{Flags, QUEUE_BOUND};

/// IORING_CQE_F_BUFFER and IORING_CQE_F_MORE.
const BUFFER: u32 = 1;
const MORE: u32 = 1 << 1;

/// No process has so many descriptors: what is done to one of these by mistake fails.
const FIRST_FD: i32 = 1 << 29;

/// Receives in the kernel stand for a task that is never polled.
const TASK: u32 = 7;

const BUFFER_BYTES: u32 = 64;

/// A peer's stream of bytes: how much of it was delivered, and how much of that was read.
#[derive(Clone, Copy, Default)]
struct Stream {
    number: u8,
    sent: u64,
    read: u64,
}

/// A lease in a task's hands, and what its bytes are.
struct Lent {
    raw: RawLease,
    bytes: Vec<u8>,
}

/// The driver, the kernel's part of it, and the model.
pub struct Rig {
    driver: Driver,
    streams: HashMap<u32, Stream>,
    leases: Vec<Lent>,
    /// What sends under way are about to say.
    sending: HashMap<u32, Vec<u8>>,
    /// Receives of sockets that were closed while the kernel still had them.
    late: Vec<(Key, Use)>,
    opened: u8,
}

impl Rig {
    /// A driver with so many small buffers, a power of two, and no socket.
    ///
    /// # Panics
    /// When this host has no io_uring.
    pub fn with_buffers(buffers: u16) -> Rig {
        let settings = Settings {
            submission_entries: 8,
            buffers,
            buffer_bytes: BUFFER_BYTES,
            sockets_expected: 64,
            ..Settings::default()
        };
        let mut driver = Driver::new(&settings).expect("a driver");
        driver.ring().detach();
        driver.current = TASK;
        (0..=TASK).for_each(|_| driver.waits.add_number());
        Rig {
            driver,
            streams: HashMap::new(),
            leases: Vec::new(),
            sending: HashMap::new(),
            late: Vec::new(),
            opened: 0,
        }
    }

    /// Opens a socket and returns its number.
    pub fn open(&mut self) -> u32 {
        let index = self.driver.open_socket(FIRST_FD + i32::from(self.opened));
        self.opened = self.opened.wrapping_add(1);
        self.streams.insert(index, Stream { number: self.opened, ..Stream::default() });
        index
    }

    /// The sockets that are open.
    pub fn sockets(&self) -> Vec<u32> {
        let mut open: Vec<u32> = self.streams.keys().copied().collect();
        open.sort_unstable();
        open
    }

    /// From now on another task is polled.
    pub fn poll_as(&mut self, task: u32) {
        (0..=task).for_each(|_| self.driver.waits.add_number());
        self.driver.current = task;
    }

    /// A task sends a byte of its own on this socket, and waits for that.
    pub fn send_byte(&mut self, index: u32) {
        let mut buf = Buf::tiny(1);
        buf.push(b'x');
        self.send(index, Payload::SendBuf { buf, sent: 0 }, b"x".to_vec(), true);
    }

    /// A task waits for bytes: it gets the first buffer, or the receive is armed.
    pub fn receive(&mut self, index: u32) {
        if let std::task::Poll::Ready(Ok(Some(raw))) = self.driver.poll_receive(index) {
            let bytes = self.check_bytes(index, raw);
            self.leases.push(Lent { raw, bytes });
        }
    }

    /// The kernel has bytes for a socket whose receive is armed: it picks a buffer, or finds none.
    pub fn deliver(&mut self, index: u32, bytes: u16, has_more: bool) {
        let key = self.driver.table().key(Kind::Receive, index);
        let entry = self.driver.table().at(index);
        if !entry.flags.has(Flags::ARMED) {
            return;
        }
        let purpose = entry.purpose();
        let Some(id) = self.driver.buffer_ring().pick(purpose) else {
            self.complete(key, -libc::ENOBUFS, 0);
            return;
        };
        let bytes = bytes.clamp(1, BUFFER_BYTES as u16);
        self.write(index, id, bytes);
        let flags = BUFFER | u32::from(id) << 16 | if has_more { MORE } else { 0 };
        self.complete(key, i32::from(bytes), flags);
    }

    /// The kernel ends an armed receive: by the peer's end (0) or with this errno. Says whether a task is woken for it.
    pub fn end_receive(&mut self, index: u32, result: i32) -> bool {
        if !self.driver.table().at(index).flags.has(Flags::ARMED) {
            return false;
        }
        let key = self.driver.table().key(Kind::Receive, index);
        matches!(self.complete(key, result, 0), Wake::Task(_))
    }

    fn complete(&mut self, key: Key, result: i32, flags: u32) -> Wake {
        self.driver.complete(Completion { key, result, flags })
    }

    /// How the next receives are armed.
    pub fn set_read_ahead(&mut self, index: u32, ahead: ReadAhead) {
        self.driver.set_read_ahead(index, ahead);
    }

    /// A task takes the receive out of the kernel.
    pub fn disarm(&mut self, index: u32) {
        let _ = self.driver.poll_disarmed(index);
    }

    /// A task drops the oldest lease it has.
    pub fn drop_lease(&mut self) {
        self.drop_lease_at(0);
    }

    fn drop_lease_at(&mut self, nth: usize) {
        if nth < self.leases.len() {
            let Lent { raw, bytes } = self.leases.remove(nth);
            assert_eq!(self.seen(raw), bytes, "a lease kept its bytes");
            self.driver.give_back(raw);
        }
    }

    /// A task splits so many bytes off the oldest lease it has; they are a lease of their own, its newest.
    pub fn split_lease(&mut self, count: usize) {
        let Some(Lent { raw, bytes }) = self.leases.first_mut() else { return };
        let count = count.min(bytes.len());
        let rest = bytes.split_off(count);
        let first =
            Lent { raw: self.driver.split_lease(raw, count as u16), bytes: std::mem::replace(bytes, rest) };
        self.leases.push(first);
    }

    /// A task writes into the oldest lease it has.
    pub fn write_lease(&mut self, byte: u8) {
        let Some(Lent { raw, bytes }) = self.leases.first_mut() else { return };
        bytes.fill(byte);
        for at in raw.start..raw.end {
            self.driver.buffer_ring().put(raw.id, at, byte);
        }
    }

    /// A task sends the oldest lease it has on this socket, and waits for it or not.
    pub fn send_lease(&mut self, index: u32, is_awaited: bool) {
        if self.leases.is_empty() {
            return;
        }
        let Lent { raw, bytes } = self.leases.remove(0);
        self.send(index, Payload::SendLease(raw), bytes, is_awaited);
    }

    /// The same behind a head of so many bytes, in one operation.
    pub fn send_lease_with(&mut self, index: u32, head_bytes: u8, is_awaited: bool) {
        if self.leases.is_empty() {
            return;
        }
        let mut head = Buf::small();
        head.extend(0..head_bytes);
        reserve_description(&mut head);
        let Lent { raw, bytes } = self.leases.remove(0);
        let all = [&head[..], &bytes].concat();
        self.send(index, Payload::SendParts { head, body: RawPart::Lease(raw), sent: 0 }, all, is_awaited);
    }

    /// The same with so many of the oldest leases it has.
    pub fn send_leases_with(&mut self, index: u32, head_bytes: u8, count: usize, is_awaited: bool) {
        let mut head = Buf::tiny(usize::from(head_bytes));
        head.extend(0..head_bytes);
        let mut all = head.to_vec();
        let taken = self.leases.drain(..count.min(LEASES_MAX).min(self.leases.len()));
        let leases: Vec<RawLease> = taken.map(|lent| (all.extend(lent.bytes), lent.raw).1).collect();
        self.send(index, Payload::SendGathered(Gathered::new(head, &leases)), all, is_awaited);
    }

    fn send(&mut self, index: u32, payload: Payload, bytes: Vec<u8>, is_awaited: bool) {
        let op = self.driver.send(index, payload, 0.into());
        self.sending.insert(op, bytes);
        if is_awaited {
            let _ = self.driver.poll_op(op);
        } else {
            self.driver.orphan(op);
        }
    }

    /// The same with the lease that it got last.
    pub fn send_last_lease(&mut self, index: u32) {
        if let Some(last) = self.leases.pop() {
            self.leases.insert(0, last);
            self.send_lease(index, true);
        }
    }

    /// The kernel has taken so many bytes of the send at the head of a socket's line, or failed with this errno.
    pub fn complete_send(&mut self, index: u32, result: i32) {
        let op = self.driver.table().at(index).send;
        if op != NONE {
            self.complete_op(op, result);
        }
    }

    /// Cancelled operations end; done ones are collected, if a task waits for them.
    pub fn settle(&mut self) {
        for op in self.driver.ops().indices() {
            let slot = self.driver.ops().at(op);
            let (is_cancelled, socket, generation) = (slot.timed_out, slot.socket, slot.socket_generation);
            let is_current = self.driver.table().is_current(socket, generation);
            if self.driver.ops().at(op).state == State::InFlight && (is_cancelled || !is_current) {
                self.complete_op(op, -libc::ECANCELED);
            }
            let slot = self.driver.ops().at(op);
            if slot.state == State::Done && slot.is_owned {
                let _ = self.driver.poll_op(op);
            }
        }
    }

    fn complete_op(&mut self, op: u32, result: i32) {
        let slot = self.driver.ops().at(op);
        debug_assert!(slot.is_send() && slot.state == State::InFlight);
        let mut left = Vec::new();
        let see = |(start, len): Unsent| {
            // SAFETY: the operation is in flight, so its payload has these bytes; nothing writes to them now.
            left.extend_from_slice(unsafe { std::slice::from_raw_parts(start, len) });
        };
        match &mut slot.payload {
            Payload::SendGathered(gathered) => described(gathered).into_iter().for_each(see),
            _ => self.driver.unsent(op).into_iter().for_each(see),
        }
        let all = &self.sending[&op];
        assert_eq!(left, all[all.len() - left.len()..], "a send kept its bytes");
        let key = self.driver.ops().key(op);
        self.complete(key, result.min(left.len() as i32), 0);
    }

    /// Closes a socket.
    pub fn close(&mut self, index: u32) {
        if self.streams.remove(&index).is_none() {
            return;
        }
        let key = self.driver.table().key(Kind::Receive, index);
        let entry = self.driver.table().at(index);
        if entry.flags.has(Flags::ARMED) {
            self.late.push((key, entry.purpose()));
        }
        self.driver.close(index);
    }

    /// The kernel has bytes for a socket that was closed meanwhile.
    pub fn deliver_late(&mut self, has_more: bool) {
        let Some((key, purpose)) = self.late.pop() else { return };
        let Some(id) = self.driver.buffer_ring().pick(purpose) else { return };
        self.complete(key, 1, BUFFER | u32::from(id) << 16 | if has_more { MORE } else { 0 });
        if has_more {
            self.late.push((key, purpose));
        }
    }

    /// A turn of the loop without its system call, so many milliseconds after the last.
    pub fn turn(&mut self, after_ms: u64) {
        self.driver.prepare_turn(after_ms);
    }

    /// One of the things that may happen, chosen by a number, to one of the sockets, chosen by another.
    pub fn step(&mut self, what: u8, which: u8) {
        let sockets = self.sockets();
        let Some(&index) = sockets.get(usize::from(which) % sockets.len().max(1)) else {
            self.open();
            return;
        };
        let bytes = u16::from(which) % BUFFER_BYTES as u16 + 1;
        match what % 32 {
            0 | 1 if sockets.len() < 48 => drop(self.open()),
            0..=5 => self.receive(index),
            6..=8 => self.deliver(index, bytes, true),
            9 | 10 => self.deliver(index, BUFFER_BYTES as u16, true),
            11 => self.deliver(index, BUFFER_BYTES as u16, false),
            12 => drop(self.end_receive(index, 0)),
            13 => drop(self.end_receive(index, -libc::ECANCELED)),
            14 => self.set_read_ahead(
                index,
                [ReadAhead::Buffers, ReadAhead::OneBuffer, ReadAhead::Body][usize::from(which) % 3],
            ),
            15 => self.disarm(index),
            16 => self.drop_lease_at(usize::from(which) % self.leases.len().max(1)),
            17 => self.send_lease(index, which.is_multiple_of(2)),
            18 => self.complete_send(index, i32::from(bytes)),
            19 => self.complete_send(index, -libc::EPIPE),
            20 => self.close(index),
            21 => self.deliver_late(which.is_multiple_of(2)),
            22 => self.settle(),
            23 | 24 => self.split_lease(usize::from(bytes)),
            25 => self.write_lease(which),
            26 => self.send_lease_with(index, which % 8, which.is_multiple_of(2)),
            27 | 28 => {
                self.send_leases_with(index, which % 8, usize::from(bytes % 8), which.is_multiple_of(2));
            }
            _ => self.turn(u64::from(which) * 4),
        }
        self.check();
    }

    /// How many buffers a socket's queue has.
    pub fn queued(&mut self, index: u32) -> u8 {
        self.driver.table().at(index).queue_len
    }

    /// Whether a socket has failed.
    pub fn has_failed(&mut self, index: u32) -> bool {
        self.driver.table().at(index).error().is_some()
    }

    /// Whether a socket has a send under way.
    pub fn is_sending(&mut self, index: u32) -> bool {
        self.driver.is_sending(index)
    }

    /// Whether a socket's receive is in the kernel.
    pub fn is_armed(&mut self, index: u32) -> bool {
        self.driver.table().at(index).flags.has(Flags::ARMED)
    }

    /// How many milliseconds the next turn may sleep; `None` for ever.
    pub fn may_sleep_ms(&self) -> Option<u64> {
        self.driver.may_sleep_ms()
    }

    /// Buffers on offer for messages and for bodies.
    pub fn offered(&mut self) -> usize {
        let ring = self.driver.buffer_ring();
        Use::ALL.into_iter().map(|purpose| ring.offered_ids(purpose).len()).sum()
    }

    /// How many entries the kernel would have got.
    pub fn pushed(&mut self) -> u32 {
        self.driver.ring().pushed
    }

    /// The counters.
    pub fn stats(&self) -> crate::Stats {
        self.driver.stats
    }

    /// Buffers that are out of the kernel's hands.
    pub fn held(&self) -> u32 {
        self.driver.buffers_held().0
    }

    /// Buffers that can be picked for messages, and for bodies.
    pub fn available(&mut self) -> (usize, usize) {
        let ring = self.driver.buffer_ring();
        (ring.available(Use::Message), ring.available(Use::Body))
    }

    /// Asserts that every buffer is in one place, and that the driver's records of it are right.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&mut self) {
        let mut leases: Vec<RawLease> = self.leases.iter().map(|lent| lent.raw).collect();
        let ops = self.driver.ops();
        leases.extend(ops.indices().into_iter().flat_map(|op| ops.at(op).payload.leases().to_vec()));
        let mut seen = self.check_pieces(leases);
        let mut found = |id: u16| assert!(seen.insert(id), "buffer {id} is in two places");
        for index in self.streams.keys().copied().collect::<Vec<_>>() {
            assert!(self.driver.table().at(index).queue_len <= QUEUE_BOUND);
            for id in self.driver.table().queue_ids(index) {
                found(id);
                assert_eq!(self.driver.buffer_ring().pieces(id), 1);
            }
        }
        let ring = self.driver.buffer_ring();
        let unheld = ring.unheld();
        unheld.iter().copied().for_each(found);
        let count = ring.count();
        let bodies = ring.out(Use::Body);
        assert_eq!(seen.len(), usize::from(count), "a buffer is lost");
        assert_eq!(usize::from(count) - unheld.len(), self.driver.buffers_held().0 as usize);
        assert!(bodies <= count - count / 4, "bodies have {bodies} of {count} buffers");
    }

    /// Asserts that no two of these leases have a byte in common, and that their buffers know how many they are; returns these.
    fn check_pieces(&mut self, mut leases: Vec<RawLease>) -> HashSet<u16> {
        leases.retain(|lease| lease.has_buffer());
        leases.sort_unstable_by_key(|lease| (lease.id, lease.start, lease.end));
        let mut ids = HashSet::new();
        for pieces in leases.chunk_by(|a, b| a.id == b.id) {
            let id = pieces[0].id;
            assert!(pieces.is_sorted_by(|a, b| a.end <= b.start), "{pieces:?}");
            assert_eq!(usize::from(self.driver.buffer_ring().pieces(id)), pieces.len(), "buffer {id}");
            ids.insert(id);
        }
        ids
    }

    /// The bytes of a lease as they are.
    fn seen(&mut self, lease: RawLease) -> Vec<u8> {
        (lease.start..lease.end).map(|at| self.driver.buffer_ring().see(lease.id, at)).collect()
    }

    /// Writes the next bytes of a stream into a buffer.
    fn write(&mut self, index: u32, id: u16, bytes: u16) {
        let Some(stream) = self.streams.get_mut(&index) else { return };
        for at in 0..bytes {
            let byte = byte_of(stream.number, stream.sent + u64::from(at));
            self.driver.buffer_ring().put(id, at, byte);
        }
        stream.sent += u64::from(bytes);
    }

    /// Asserts that a lease has the bytes that follow in its stream, and returns them.
    fn check_bytes(&mut self, index: u32, lease: RawLease) -> Vec<u8> {
        let bytes = self.seen(lease);
        if let Some(stream) = self.streams.get_mut(&index) {
            for &byte in &bytes {
                assert_eq!(
                    byte,
                    byte_of(stream.number, stream.read),
                    "byte {} of socket {index}",
                    stream.read
                );
                stream.read += 1;
            }
        }
        bytes
    }
}

/// The description that the kernel has of a gathered send in flight.
fn described(gathered: &mut Gathered) -> Vec<Unsent> {
    let message = gathered.described();
    // SAFETY: the send is in flight, so it was described, and neither it nor its description has changed since.
    let parts = unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
    parts.iter().map(|part| (part.iov_base.cast_const().cast(), part.iov_len)).collect()
}

/// What a stream says at a place.
fn byte_of(stream: u8, at: u64) -> u8 {
    (at % 251) as u8 ^ stream.wrapping_mul(31)
}

/// The parts of the buffers that only the rig may see.
impl BufRing {
    /// The buffer that the kernel would pick next.
    fn pick(&self, purpose: Use) -> Option<u16> {
        self.offered_ids(purpose).first().copied()
    }

    /// Buffers without a holder.
    fn unheld(&self) -> Vec<u16> {
        let offered = Use::ALL.into_iter().flat_map(|purpose| self.offered_ids(purpose));
        self.unused_ids().iter().copied().chain(offered).collect()
    }
}
