//! Frames: their heads, read and written, and the small frames in whole.

use alloc::vec::Vec;

use super::error::ErrorCode;

/// The size of the head of a frame.
//= https://www.rfc-editor.org/rfc/rfc9113#section-4.1
pub(super) const HEAD_BYTES: usize = 9;

/// The largest frame of a peer that has not set another size.
//= https://www.rfc-editor.org/rfc/rfc9113#section-4.2
pub(super) const FRAME_BYTES_MAX: u32 = 16_384;

/// The largest number of a stream, and the largest window.
pub(super) const TOP: u32 = (1 << 31) - 1;

/// Types of frames.
//= https://www.rfc-editor.org/rfc/rfc9113#section-6
pub(super) mod kind {
    pub(in crate::h2) const DATA: u8 = 0x0;
    pub(in crate::h2) const HEADERS: u8 = 0x1;
    pub(in crate::h2) const PRIORITY: u8 = 0x2;
    pub(in crate::h2) const RST_STREAM: u8 = 0x3;
    pub(in crate::h2) const SETTINGS: u8 = 0x4;
    pub(in crate::h2) const PUSH_PROMISE: u8 = 0x5;
    pub(in crate::h2) const PING: u8 = 0x6;
    pub(in crate::h2) const GOAWAY: u8 = 0x7;
    pub(in crate::h2) const WINDOW_UPDATE: u8 = 0x8;
    pub(in crate::h2) const CONTINUATION: u8 = 0x9;
    //= https://www.rfc-editor.org/rfc/rfc9218#section-7.1
    pub(in crate::h2) const PRIORITY_UPDATE: u8 = 0x10;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in crate::h2) const END_STREAM: u8 = 0x1;
    pub(in crate::h2) const ACK: u8 = 0x1;
    pub(in crate::h2) const END_HEADERS: u8 = 0x4;
    pub(in crate::h2) const PADDED: u8 = 0x8;
    pub(in crate::h2) const PRIORITY: u8 = 0x20;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Of the payload.
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// The stream; 0 is the connection.
    pub(super) id: u32,
}

impl FrameHead {
    /// Reads the head at the start of `input`, if it is there in whole. The reserved bit is ignored.
    #[inline]
    pub(super) fn read(input: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = input.first_chunk::<HEAD_BYTES>()?;
        Some(Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            id: u32::from_be_bytes([d, e, f, g]) & TOP,
        })
    }

    #[inline]
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(super) fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [d, e, f, g] = self.id.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    #[inline]
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }
}

/// The four bytes at the start of `payload`, if they are there.
#[inline]
pub(super) fn read_u32(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|&bytes| u32::from_be_bytes(bytes))
}

pub(super) fn write_reset(out: &mut Vec<u8>, id: u32, code: ErrorCode) {
    FrameHead { len: 4, kind: kind::RST_STREAM, flags: 0, id }.write(out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn write_window_update(out: &mut Vec<u8>, id: u32, increment: u32) {
    debug_assert!((1..=TOP).contains(&increment));
    FrameHead { len: 4, kind: kind::WINDOW_UPDATE, flags: 0, id }.write(out);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(super) fn write_ping(out: &mut Vec<u8>, flags: u8, data: [u8; 8]) {
    FrameHead { len: 8, kind: kind::PING, flags, id: 0 }.write(out);
    out.extend_from_slice(&data);
}

pub(super) fn write_go_away(out: &mut Vec<u8>, last_id: u32, code: ErrorCode) {
    FrameHead { len: 8, kind: kind::GOAWAY, flags: 0, id: 0 }.write(out);
    out.extend_from_slice(&(last_id & TOP).to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn write_settings_ack(out: &mut Vec<u8>) {
    FrameHead { len: 0, kind: kind::SETTINGS, flags: flag::ACK, id: 0 }.write(out);
}

/// Begins a header block: leaves room for the head of its frame. The block is to follow at the end of `out`.
pub(super) fn begin_block(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    start
}

/// Ends a header block that began at `start`: it becomes HEADERS, and CONTINUATION as often as it takes.
//= https://www.rfc-editor.org/rfc/rfc9113#section-4.3
pub(super) fn end_block(out: &mut Vec<u8>, start: usize, id: u32, is_end: bool, frame_bytes_max: u32) {
    let end_stream = if is_end { flag::END_STREAM } else { 0 };
    let block = out.len() - start - HEAD_BYTES;
    let max = frame_bytes_max as usize;
    if block <= max {
        let head =
            FrameHead { len: block as u32, kind: kind::HEADERS, flags: flag::END_HEADERS | end_stream, id };
        out[start..start + HEAD_BYTES].copy_from_slice(&head.bytes());
        return;
    }
    let frames = block.div_ceil(max);
    out.resize(out.len() + (frames - 1) * HEAD_BYTES, 0);
    for frame in (0..frames).rev() {
        let len = max.min(block - frame * max);
        let (from, head_at) = (start + HEAD_BYTES + frame * max, start + frame * (max + HEAD_BYTES));
        out.copy_within(from..from + len, head_at + HEAD_BYTES);
        let (kind, first) = if frame == 0 { (kind::HEADERS, end_stream) } else { (kind::CONTINUATION, 0) };
        let last = if frame == frames - 1 { flag::END_HEADERS } else { 0 };
        let head = FrameHead { len: len as u32, kind, flags: first | last, id };
        out[head_at..head_at + HEAD_BYTES].copy_from_slice(&head.bytes());
    }
}
