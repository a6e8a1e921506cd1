//! A send of a head and several leases behind it, in one operation.
//!
//! What the kernel reads of it and the list of the leases lie in the room behind the head's bytes: nothing is allocated, a slot
//! of the in-flight table is as small as without them, and they live as long as the head.

use std::ptr::NonNull;

use crate::buf::Buf;
use crate::lease::{LEASES_MAX, RawLease};
use crate::op::{Unsent, message_of, vector_of};

/// The head, and the leases.
const PARTS_MAX: usize = 1 + LEASES_MAX;

/// The room behind the head's bytes.
#[repr(C)]
struct Room {
    header: libc::msghdr,
    parts: [libc::iovec; PARTS_MAX],
    leases: [RawLease; LEASES_MAX],
    control: Control,
}

/// Control data of a record that the kernel seals: its type.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    content_type: u8,
}

/// Bytes of the control data without what fills them up.
const CONTROL_BYTES: usize = std::mem::offset_of!(Control, content_type) + 1;

/// The bytes of a room, wherever it has to begin.
const ROOM_BYTES: usize = size_of::<Room>() + align_of::<Room>() - 1;

/// A head and leases on their way out in one operation.
pub(crate) struct Gathered {
    /// Nothing changes it as long as it is in here, so the room behind its bytes stays where it is.
    head: Buf,
    /// Bytes of all parts that are gone.
    sent: usize,
    /// Bytes of all leases.
    body_bytes: u32,
    /// Leases in the room, at most [`LEASES_MAX`].
    leases: u8,
    /// The first ones of them, which were given back; at most as many as there are.
    given_back: u8,
    /// The type of the record that the kernel is to seal, if it is not application data.
    content_type: Option<u8>,
}

impl Gathered {
    /// # Panics
    /// When there are too many leases.
    pub(crate) fn new(mut head: Buf, leases: &[RawLease]) -> Gathered {
        let mut list = [RawLease::EMPTY; LEASES_MAX];
        list[..leases.len()].copy_from_slice(leases);
        head.reserve(ROOM_BYTES);
        let mut gathered = Gathered {
            head,
            sent: 0,
            // At most six times 65,535.
            body_bytes: leases.iter().map(|lease| lease.len() as u32).sum(),
            leases: leases.len() as u8,
            given_back: 0,
            content_type: None,
        };
        // SAFETY: the room is aligned, and was reserved above.
        unsafe { (&raw mut (*gathered.room()).leases).write(list) };
        gathered
    }

    /// A record of this type, for the kernel to seal.
    pub(crate) fn record(content_type: u8, content: Buf) -> Gathered {
        Gathered { content_type: Some(content_type), ..Gathered::new(content, &[]) }
    }

    fn room(&mut self) -> *mut Room {
        let behind = self.head.as_mut_ptr().wrapping_add(self.head.len());
        behind.wrapping_add(behind.align_offset(align_of::<Room>())).cast()
    }

    /// All leases that it ever had.
    fn list(&self) -> &[RawLease] {
        let behind = self.head.as_ptr().wrapping_add(self.head.len());
        let room = behind.wrapping_add(behind.align_offset(align_of::<Room>())).cast::<Room>();
        // SAFETY: `new` has reserved the room and written the list, at the same place: nothing changes the head. Nothing writes
        // to the list again, and the head, which owns its memory, is borrowed as long as the list.
        let list = unsafe { &(*room).leases };
        &list[..usize::from(self.leases)]
    }

    /// The leases that it has.
    pub(crate) fn leases(&self) -> &[RawLease] {
        &self.list()[usize::from(self.given_back)..]
    }

    /// Counts bytes that were sent; says whether all are gone.
    pub(crate) fn is_sent_by(&mut self, bytes: usize) -> bool {
        self.sent += bytes;
        self.sent >= self.head.len() + self.body_bytes as usize
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.sent > 0
    }

    /// Hands out a lease whose bytes are all gone, in order.
    pub(crate) fn take_sent(&mut self) -> Option<RawLease> {
        let next = usize::from(self.given_back);
        let lease = *self.list().get(next)?;
        let end = self.head.len() + self.list()[..=next].iter().map(|lease| lease.len()).sum::<usize>();
        if end > self.sent {
            return None;
        }
        self.given_back += 1;
        Some(lease)
    }

    /// Describes what is left to the kernel. The description is good until the next one, or until the head goes. Not inlined:
    /// other sends pass by here, and their code stays as short as without it.
    #[inline(never)]
    pub(crate) fn describe(&mut self, start_of: impl Fn(RawLease) -> NonNull<u8>) -> *const libc::msghdr {
        let (parts, count) = self.unsent(start_of);
        let room = self.room();
        // SAFETY: the room is aligned and was reserved; its list is left alone.
        unsafe {
            let vector = &raw mut (*room).parts;
            vector.write(parts.map(vector_of));
            (&raw mut (*room).header).write(message_of(vector.cast(), count));
            if let Some(content_type) = self.content_type {
                let control = &raw mut (*room).control;
                control.write(Control::of(content_type));
                (*room).header.msg_control = control.cast();
                (*room).header.msg_controllen = size_of::<Control>() as _;
            }
        }
        room.cast_const().cast()
    }

    /// The rest of each part that has any left, and how many these are.
    fn unsent(&self, start_of: impl Fn(RawLease) -> NonNull<u8>) -> ([Unsent; PARTS_MAX], usize) {
        let (mut parts, mut count) = ([(std::ptr::dangling(), 0); PARTS_MAX], 0);
        let of_head = self.head.get(self.sent..).unwrap_or_default();
        if !of_head.is_empty() {
            parts[0] = (of_head.as_ptr(), of_head.len());
            count = 1;
        }
        let mut sent = self.sent.saturating_sub(self.head.len());
        for lease in self.list() {
            let left = lease.behind(sent);
            sent -= lease.len() - left.len();
            if left.len() > 0 {
                parts[count] = (start_of(left).as_ptr().cast_const(), left.len());
                count += 1;
            }
        }
        (parts, count)
    }

    /// The description that the kernel has.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn described(&mut self) -> *const libc::msghdr {
        self.room().cast_const().cast()
    }

    #[cfg(test)]
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// The head, and how much of all is gone.
    pub(crate) fn into_head(self) -> (Buf, usize) {
        (self.head, self.sent)
    }
}

impl Control {
    fn of(content_type: u8) -> Control {
        // SAFETY: all zeroes is a valid cmsghdr.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_level = libc::SOL_TLS;
        header.cmsg_type = libc::TLS_SET_RECORD_TYPE;
        header.cmsg_len = CONTROL_BYTES as _;
        Control { header, content_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Ops, Payload};

    fn gathered(ops: &mut Ops, op: u32) -> &mut Gathered {
        let Payload::SendGathered(gathered) = &mut ops.at(op).payload else { panic!("it is gathered") };
        gathered
    }

    /// Under Miri (`cargo +nightly miri test -p sluice-sys gathered`), this also finds a room that is misplaced, one that is
    /// read where nothing was written, and memory that is not the buffer's.
    #[test]
    fn a_gathered_send_is_described_behind_its_head() {
        let mut memory: Vec<u8> = (0..60).collect();
        let memory = NonNull::new(memory.as_mut_ptr()).expect("memory");
        let start_of = |lease: RawLease| {
            // SAFETY: all leases are of these sixty bytes.
            unsafe { memory.add(usize::from(lease.id) * 10 + usize::from(lease.start)) }
        };
        let of = |id, start, end| RawLease { id, start, end };
        let leases = [of(5, 0, 10), of(1, 3, 4), of(2, 0, 0), of(0, 1, 9), of(3, 2, 4), of(4, 0, 10)];
        for (head_bytes, count) in [(0, 6), (1, 5), (7, 4), (8, 3), (13, 1), (0, 0)] {
            let mut head = Buf::tiny(head_bytes);
            head.resize(head_bytes, b'h');
            let mut all = head.to_vec();
            for lease in &leases[..count] {
                all.extend((lease.start..lease.end).map(|at| (lease.id * 10 + at) as u8));
            }
            let mut ops = Ops::new();
            let op = ops.insert(0, 0, Payload::SendGathered(Gathered::new(head, &leases[..count])));
            let mut taken = Vec::new();
            for sent in 0..=all.len() {
                let message = gathered(&mut ops, op).describe(start_of);
                assert_eq!(gathered(&mut ops, op).described(), message);
                // The table moves as it grows, and the list is looked at.
                for _ in 0..20 {
                    ops.insert(0, 0, Payload::Nothing);
                }
                assert_eq!(gathered(&mut ops, op).leases(), &leases[taken.len()..count]);
                let mut read: Vec<u8> = Vec::new();
                // SAFETY: the message is as it was described, in memory that the table has kept in place, as are its parts.
                unsafe {
                    assert_eq!((*message).msg_controllen, 0);
                    for part in std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) {
                        assert_ne!(part.iov_len, 0);
                        read.extend_from_slice(std::slice::from_raw_parts(
                            part.iov_base.cast(),
                            part.iov_len,
                        ));
                    }
                }
                assert_eq!(read, all[sent..]);
                assert_eq!(gathered(&mut ops, op).is_sent_by(1), sent + 1 >= all.len());
                taken.extend(std::iter::from_fn(|| gathered(&mut ops, op).take_sent()));
            }
            assert_eq!(taken, leases[..count]);
        }
    }

    #[test]
    fn a_record_has_its_type_as_control_data() {
        let mut content = Buf::tiny(2);
        content.extend_from_slice(&[1, 0]);
        let mut record = Gathered::record(21, content);
        let message = record.describe(|_| unreachable!("there is no lease"));
        // SAFETY: the message is as it was described, behind the bytes of the record, which lives on.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(message);
            assert_eq!(
                ((*control).cmsg_level, (*control).cmsg_type),
                (libc::SOL_TLS, libc::TLS_SET_RECORD_TYPE)
            );
            assert_eq!((*control).cmsg_len, libc::CMSG_LEN(1) as _);
            assert_eq!((*message).msg_controllen, libc::CMSG_SPACE(1) as _);
            assert_eq!(*libc::CMSG_DATA(control), 21);
            assert!(libc::CMSG_NXTHDR(message, control).is_null());
            assert_eq!(((*message).msg_iovlen, (*(*message).msg_iov).iov_len), (1, 2));
        }
        assert!(record.is_sent_by(2));
    }
}
