//! The in-flight table: one slot per one-shot operation, which owns what the kernel reads or writes until the
//! operation's final completion, whatever became of the future that started it.
//!
//! An operation is queued behind another send of the same socket, in flight, or done. It has an owner as long as the
//! future that started it lives; without one it is an orphan, and being done only frees what it held. `driver` moves
//! operations between these states; nothing else touches them.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::buf::Buf;
use crate::driver::{Closing, Waits};
use crate::gather::Gathered;
use crate::key::{Key, Kind, NONE};
use crate::lease::RawLease;
use crate::message::Doorbell;
use crate::prefetch::prefetch;
use crate::wheel::{Link, Links, NEVER};

/// The memory that an operation owns while the kernel may use it.
pub(crate) enum Payload {
    Nothing,
    /// Nothing either; the operation waits until the peer has taken something.
    Room,
    /// Bytes of ours on their way out; the first `sent` of them are gone.
    SendBuf {
        buf: Buf,
        sent: usize,
    },
    /// Received bytes on their way out; what was sent is cut off the front.
    SendLease(RawLease),
    /// Bytes of ours and others behind them, on their way out in one operation; the first `sent` of all are gone.
    SendParts {
        head: Buf,
        body: RawPart,
        sent: usize,
    },
    /// Bytes of ours and several leases behind them, likewise.
    SendGathered(Gathered),
    /// A buffer that a receive fills, up to this many bytes.
    Fill(Buf, u32),
    /// The peer's address of a connect; only the kernel reads it.
    Address(Box<SockAddr>),
    /// A connection that its peer is to end too.
    Closing(Box<Closing>),
    /// The ring that a message goes to: open until the kernel has sent it.
    Message {
        _doorbell: Doorbell,
    },
}

impl Payload {
    /// Ends with the socket or with its future, since its result has no other use.
    pub(crate) fn is_cancelled_with_its_future(&self) -> bool {
        matches!(self, Payload::Nothing | Payload::Room | Payload::Fill(..) | Payload::Address(_))
    }

    /// Counts bytes that were sent; says whether all are gone.
    pub(crate) fn is_sent_by(&mut self, bytes: usize) -> bool {
        match self {
            Payload::SendBuf { buf, sent } => {
                *sent += bytes;
                *sent >= buf.len()
            }
            Payload::SendLease(lease) => {
                lease.start += bytes as u16;
                lease.start >= lease.end
            }
            Payload::SendParts { head, body, sent } => {
                *sent += bytes;
                *sent >= head.len() + body.len()
            }
            Payload::SendGathered(gathered) => gathered.is_sent_by(bytes),
            _ => true,
        }
    }

    /// Some bytes of a send are gone. Of a leased buffer that is not known.
    pub(crate) fn is_begun(&self) -> bool {
        match self {
            Payload::SendBuf { sent, .. } | Payload::SendParts { sent, .. } => *sent > 0,
            Payload::SendGathered(gathered) => gathered.is_begun(),
            _ => false,
        }
    }

    /// Where a receive writes, and how much; for the kernel, from the payload in its slot.
    pub(crate) fn room(&mut self) -> (*mut u8, u32) {
        let Payload::Fill(buf, bytes_max) = self else { unreachable!("only a fill has room") };
        // Pooled buffers may be larger than what was asked for.
        let bytes = u32::try_from(buf.capacity()).unwrap_or(u32::MAX).min(*bytes_max);
        (buf.as_mut_ptr(), bytes)
    }

    /// Where the address of a connect is, likewise.
    pub(crate) fn address(&mut self) -> *const libc::sockaddr {
        let Payload::Address(address) = self else { unreachable!("only a connect has an address") };
        (&raw const **address).cast()
    }

    /// The received bytes that a send owns.
    pub(crate) fn leases(&self) -> &[RawLease] {
        match self {
            Payload::SendLease(lease) | Payload::SendParts { body: RawPart::Lease(lease), .. } => {
                std::slice::from_ref(lease)
            }
            Payload::SendGathered(gathered) => gathered.leases(),
            _ => &[],
        }
    }

    fn is_send(&self) -> bool {
        matches!(
            self,
            Payload::SendBuf { .. }
                | Payload::SendLease(_)
                | Payload::SendParts { .. }
                | Payload::SendGathered(_)
        )
    }
}

/// The parts sent behind a head.
pub(crate) enum RawPart {
    Lease(RawLease),
    Buf(Buf),
}

impl RawPart {
    pub(crate) fn len(&self) -> usize {
        match self {
            RawPart::Lease(lease) => lease.len(),
            RawPart::Buf(buf) => buf.len(),
        }
    }
}

/// A message of two parts as the kernel reads it: sendmsg's header and the vector behind it.
#[repr(C)]
struct TwoParts {
    header: libc::msghdr,
    parts: [libc::iovec; 2],
}

/// Describes a message of two parts to the kernel, in the room that the first one's buffer has behind its bytes: it is freed
/// when they are.
pub(crate) fn describe_parts(head: &mut Buf, parts: [Unsent; 2]) -> *const libc::msghdr {
    debug_assert!(head.spare_capacity_mut().len() >= DESCRIPTION_BYTES, "`reserve_description` comes first");
    let room = head.spare_capacity_mut().as_mut_ptr();
    let room = room.wrapping_add(room.align_offset(align_of::<TwoParts>())).cast::<TwoParts>();
    let vector = room.wrapping_byte_add(std::mem::offset_of!(TwoParts, parts)).cast();
    let (header, parts) = (message_of(vector, parts.len()), parts.map(vector_of));
    // SAFETY: `room` is aligned, and the description fits behind it: that is asked for above, with as much more as aligning
    // takes at most.
    unsafe { room.write(TwoParts { header, parts }) };
    room.cast()
}

/// The header of a message of so many parts.
pub(crate) fn message_of(vector: *mut libc::iovec, parts: usize) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr: no name, no vector, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vector;
    header.msg_iovlen = parts;
    header
}

/// One part of a message.
pub(crate) fn vector_of((start, len): Unsent) -> libc::iovec {
    libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len }
}

/// Room for a description, wherever it has to begin.
const DESCRIPTION_BYTES: usize = size_of::<TwoParts>() + align_of::<TwoParts>() - 1;

/// Makes room for [`describe_parts`] behind the bytes of a buffer.
pub(crate) fn reserve_description(head: &mut Buf) {
    head.reserve(DESCRIPTION_BYTES);
}

/// Where bytes are that are still to be sent, and how many.
pub(crate) type Unsent = (*const u8, usize);

/// A socket address as the kernel reads it.
#[repr(C)]
pub(crate) union SockAddr {
    pub(crate) v4: libc::sockaddr_in,
    pub(crate) v6: libc::sockaddr_in6,
}

impl SockAddr {
    pub(crate) fn new(address: &SocketAddr) -> (SockAddr, libc::socklen_t) {
        match address {
            SocketAddr::V4(v4) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (SockAddr { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                (SockAddr { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Behind another send of the same socket; the kernel does not know it yet.
    Queued,
    InFlight,
    Done,
}

pub(crate) struct Op {
    pub(crate) payload: Payload,
    pub(crate) state: State,
    /// A future exists that will collect the result.
    pub(crate) is_owned: bool,
    pub(crate) timed_out: bool,
    /// Its bytes wait in the socket for the end of the connection.
    pub(crate) is_last: bool,
    generation: u32,
    /// The task to poll when it is done.
    pub(crate) waiter: u32,
    /// The socket entry it works on; none for a message.
    pub(crate) socket: u32,
    /// Whether the socket entry still has the tenant this operation was started for.
    pub(crate) socket_generation: u32,
    pub(crate) result: i32,
    /// The send queued behind this one, or the next free slot.
    pub(crate) next: u32,
    /// The last send queued behind this one, or itself; only of the send at the head of its socket's line. Kept here, so
    /// that a connection without a send pays nothing for it.
    pub(crate) last: u32,
    /// A send that makes no progress for this long is cancelled; 0: never.
    pub(crate) stall_ms: u32,
    /// The tick at which it is cancelled whatever its progress; [`NEVER`] for none.
    pub(crate) until: u32,
    link: Link,
}

const _: () = assert!(size_of::<Op>() == 88, "what a connection with a send costs");

#[derive(Default)]
pub(crate) struct Ops {
    slots: Vec<Op>,
    free: u32,
    /// Operations the kernel knows.
    in_flight: u32,
    /// How often a slot was looked at.
    #[cfg(test)]
    pub(crate) looks: u64,
}

impl Ops {
    pub(crate) fn new() -> Ops {
        Ops { slots: Vec::new(), free: NONE, ..Ops::default() }
    }

    /// Operations whose completion is still to come.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) fn insert(&mut self, socket: u32, socket_generation: u32, payload: Payload) -> u32 {
        let index = if self.free == NONE {
            self.slots.push(Op {
                payload: Payload::Nothing,
                state: State::Free,
                is_owned: false,
                timed_out: false,
                is_last: false,
                generation: 0,
                waiter: NONE,
                socket: NONE,
                socket_generation: 0,
                result: 0,
                next: NONE,
                last: NONE,
                stall_ms: 0,
                until: NEVER,
                link: Link::UNLINKED,
            });
            self.slots.len() as u32 - 1
        } else {
            let index = self.free;
            self.free = self.slots[index as usize].next;
            index
        };
        let op = &mut self.slots[index as usize];
        op.payload = payload;
        op.state = State::Queued;
        op.is_owned = true;
        op.timed_out = false;
        op.is_last = false;
        op.waiter = NONE;
        op.socket = socket;
        op.socket_generation = socket_generation;
        op.result = 0;
        op.next = NONE;
        op.last = index;
        index
    }

    /// The kernel gets to know the operation: from now on its payload stays where it is.
    pub(crate) fn start(&mut self, index: u32) -> Key {
        self.in_flight += 1;
        let op = &mut self.slots[index as usize];
        op.state = State::InFlight;
        Key::new(Kind::Op, op.generation, index)
    }

    /// The slot a completion is for; `None` if the slot has another tenant by now.
    pub(crate) fn completed(&mut self, key: Key) -> Option<u32> {
        let op = self.slots.get(key.index() as usize)?;
        let current = Key::new(Kind::Op, op.generation, key.index());
        if current != key || op.state != State::InFlight {
            return None;
        }
        self.in_flight -= 1;
        Some(key.index())
    }

    /// The socket entry that an operation in flight works on, and whose tenant is meant.
    pub(crate) fn socket_of(&self, key: Key) -> Option<(u32, u32)> {
        let op = self.slots.get(key.index() as usize)?;
        let is_current = Key::new(Kind::Op, op.generation, key.index()) == key;
        (is_current && op.socket != NONE).then_some((op.socket, op.socket_generation))
    }

    pub(crate) fn key(&self, index: u32) -> Key {
        Key::new(Kind::Op, self.slots[index as usize].generation, index)
    }

    /// The slot is looked at soon, if there is one.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32) {
        if let Some(op) = self.slots.get(index as usize) {
            prefetch((&raw const *op).cast(), size_of::<Op>());
        }
    }

    /// What is in its place for a waiter: the number of a task in nearly all cases.
    #[inline]
    pub(crate) fn waiter(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(NONE, |op| op.waiter)
    }

    pub(crate) fn at(&mut self, index: u32) -> &mut Op {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        &mut self.slots[index as usize]
    }

    /// The tasks that wait for a send, each with that send. Walks the table.
    pub(crate) fn awaited_sends(&self, waits: &Waits) -> HashMap<u32, u32> {
        let sends = self.slots.iter().zip(0..).filter(|(op, _)| op.is_send() && op.state != State::Free);
        sends.flat_map(|(op, index)| waits.tasks(op.waiter).map(move |task| (task, index))).collect()
    }

    /// The sends under way that own a piece of a receive buffer, each with that buffer, in the order of the buffers. Walks the
    /// table.
    pub(crate) fn sends_of_buffers(&self) -> Vec<(u16, u32)> {
        let is_under_way = |op: &Op| matches!(op.state, State::Queued | State::InFlight);
        let sends = self.slots.iter().zip(0..).filter(|(op, _)| is_under_way(op));
        let pieces =
            sends.flat_map(|(op, index)| op.payload.leases().iter().map(move |lease| (lease.id, index)));
        let mut sends: Vec<_> = pieces.collect();
        sends.sort_unstable();
        sends.dedup();
        sends
    }

    /// Frees a slot and hands out what it owned.
    pub(crate) fn free(&mut self, index: u32) -> Payload {
        let free = self.free;
        let op = &mut self.slots[index as usize];
        debug_assert_ne!(op.state, State::Free);
        op.state = State::Free;
        op.generation = op.generation.wrapping_add(1);
        op.next = free;
        self.free = index;
        std::mem::replace(&mut op.payload, Payload::Nothing)
    }

    /// Connections that their peers are to end too. Walks the table.
    pub(crate) fn closing(&self) -> Vec<u32> {
        let slots = self.slots.iter().zip(0..);
        let is_closing = |op: &Op| op.state == State::InFlight && matches!(op.payload, Payload::Closing(_));
        slots.filter(|(op, _)| is_closing(op)).map(|(_, index)| index).collect()
    }

    /// Slots that are in use.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn indices(&self) -> Vec<u32> {
        (0..self.slots.len() as u32)
            .filter(|&index| self.slots[index as usize].state != State::Free)
            .collect()
    }

    /// Whether a future is left that could collect an operation.
    pub(crate) fn has_owners(&self) -> bool {
        self.slots.iter().any(|op| op.state != State::Free && op.is_owned)
    }

    /// Started or queued operations that were not collected yet; for the report at the end and for tests.
    pub(crate) fn occupied(&self) -> usize {
        self.slots.iter().filter(|op| op.state != State::Free).count()
    }
}

impl Op {
    pub(crate) fn is_send(&self) -> bool {
        self.payload.is_send()
    }

    /// It goes on when the peer takes something.
    pub(crate) fn waits_for_reader(&self) -> bool {
        self.payload.is_send() || matches!(self.payload, Payload::Room)
    }
}

impl Links for Ops {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.slots[index as usize].link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run under Miri (`cargo +nightly miri test -p sluice-sys what_the_kernel`), this also finds a pointer that was taken before
    /// its target came to rest.
    #[test]
    fn what_the_kernel_has_a_pointer_to_stays_where_it_is() {
        let mut ops = Ops::new();
        let (address, _) = SockAddr::new(&SocketAddr::from(([192, 0, 2, 7], 80)));
        let connect = ops.insert(0, 0, Payload::Address(Box::new(address)));
        let fill = ops.insert(0, 0, Payload::Fill(Buf::tiny(16), u32::MAX));
        let address = ops.at(connect).payload.address();
        let (start, room) = ops.at(fill).payload.room();
        ops.start(connect);
        ops.start(fill);
        // The table moves as it grows, and its slots are looked at.
        let more: Vec<u32> = (0..1_000).map(|_| ops.insert(0, 0, Payload::Nothing)).collect();
        more.into_iter().for_each(|op| drop(ops.free(op)));
        ops.at(connect).timed_out = true;
        // SAFETY: the operations are in the table, which has kept what they own in place; the address is one of IPv4, and the
        // buffer has room for so many bytes.
        let port = unsafe {
            start.write_bytes(7, room as usize);
            (*address.cast::<libc::sockaddr_in>()).sin_port
        };
        assert_eq!(port, 80_u16.to_be());
        let Payload::Fill(mut buf, _) = ops.free(fill) else { panic!("it owned a buffer") };
        // SAFETY: all of the room was written.
        unsafe { buf.set_len(room as usize) };
        assert!(room >= 16 && buf.iter().all(|&byte| byte == 7));
    }

    /// Under Miri, this also finds a description that is misplaced or lies in memory that is not the buffer's.
    #[test]
    fn two_parts_are_described_behind_the_first() {
        for len in [0, 1, 7, 8, 13] {
            let (mut head, mut body) = (Buf::tiny(len), Buf::tiny(3));
            head.resize(len, b'h');
            body.extend_from_slice(b"abc");
            reserve_description(&mut head);
            let mut ops = Ops::new();
            let op = ops.insert(0, 0, Payload::SendParts { head, body: RawPart::Buf(body), sent: 0 });
            let Payload::SendParts { head, body: RawPart::Buf(body), .. } = &mut ops.at(op).payload else {
                panic!("it owns two buffers")
            };
            let parts = [(head.as_ptr(), head.len()), (body.as_ptr(), body.len())];
            let message = describe_parts(head, parts);
            // The table moves as it grows.
            for _ in 0..100 {
                ops.insert(0, 0, Payload::Nothing);
            }
            let mut read: Vec<u8> = Vec::new();
            // SAFETY: the message is as it was described, in memory that the table has kept in place, as are both parts.
            unsafe {
                assert_eq!(((*message).msg_iovlen, (*message).msg_controllen), (2, 0));
                for part in std::slice::from_raw_parts((*message).msg_iov, 2) {
                    read.extend_from_slice(std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len));
                }
            }
            assert_eq!(read, [&vec![b'h'; len][..], b"abc"].concat());
        }
    }
}
