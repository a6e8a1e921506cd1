//! Answers as bytes: small ones are appended to what is about to be sent, large ones come from prepared buffers that
//! are sent again and again. In steady state nothing is allocated and no large body is copied.

use std::time::{Duration, SystemTime};

use sluice_sys::{Buf, LARGE_BYTES};

/// Bodies up to this length are sent together with their head.
pub(super) const INLINE_BYTES: usize = 32 * 1024;
/// Length of a piece of a larger body: with a head in front it still fits a large buffer.
pub(super) const CHUNK_BYTES: usize = LARGE_BYTES - 512;
/// Data of one chunk of a chunked body.
const FRAME_BYTES: usize = 16 * 1024;
/// Chunks in a prepared buffer of them.
const FRAMES: usize = 15;
/// Data in such a buffer.
pub(super) const FRAMED_BYTES: usize = FRAMES * FRAME_BYTES;
/// Prepared buffers kept.
const KEPT: usize = 128;

/// The fixed offset of the date: every head begins with the same status line.
const DATE_AT: usize = b"HTTP/1.1 200 OK\r\nDate: ".len();
const DATE_BYTES: usize = 29;

/// What bodies are made of: 64 printable bytes, again and again.
const PATTERN: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-\n";

/// The answers of one lane.
pub(super) struct Answers {
    body: Vec<u8>,
    /// The Date of answers and the second it belongs to.
    date: [u8; DATE_BYTES],
    date_second: u64,
    /// Heads with the first piece of a large body, by its whole length.
    beginnings: Vec<(u64, Buf)>,
    /// Pieces of [`CHUNK_BYTES`].
    chunks: Vec<Buf>,
    /// Pieces of [`FRAMED_BYTES`], as chunks of a chunked body.
    framed: Vec<Buf>,
}

impl Answers {
    pub(super) fn new() -> Answers {
        let body = PATTERN.iter().copied().cycle().take(CHUNK_BYTES).collect();
        let mut answers = Answers {
            body,
            date: [b' '; DATE_BYTES],
            date_second: u64::MAX,
            beginnings: Vec::new(),
            chunks: Vec::new(),
            framed: Vec::new(),
        };
        answers.set_clock(0);
        answers
    }

    /// Brings the Date up to date; `now_ms` is the runtime's own time, so that most calls read no clock.
    pub(super) fn set_clock(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if second != self.date_second {
            self.date_second = second;
            let text = httpdate::fmt_http_date(SystemTime::now() + Duration::from_millis(1));
            self.date.copy_from_slice(text.as_bytes());
        }
    }

    /// Appends the head of an answer with a body of known length.
    pub(super) fn append_head(&self, out: &mut Vec<u8>, length: u64) {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: ");
        out.extend_from_slice(&self.date);
        out.extend_from_slice(b"\r\nContent-Type: application/octet-stream\r\nContent-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// Appends a head and a body of at most [`INLINE_BYTES`].
    pub(super) fn append_bytes(&self, out: &mut Vec<u8>, length: usize) {
        self.append_head(out, length as u64);
        self.append_body(out, length);
    }

    /// Appends so many bytes of a body, at most [`CHUNK_BYTES`].
    pub(super) fn append_body(&self, out: &mut Vec<u8>, length: usize) {
        out.extend_from_slice(&self.body[..length]);
    }

    /// Appends an answer with a text; a status that has no body goes without.
    pub(super) fn append_text(&self, out: &mut Vec<u8>, status: u16, text: &str, wants_body: bool) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(&self.date);
        if matches!(status, 204 | 304) {
            out.extend_from_slice(b"\r\n\r\n");
            return;
        }
        out.extend_from_slice(b"\r\nContent-Type: text/plain\r\nContent-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(text.len()).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        if wants_body {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Appends the head of an answer with a chunked body.
    pub(super) fn append_chunked_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: ");
        out.extend_from_slice(&self.date);
        out.extend_from_slice(
            b"\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
    }

    /// Appends data of ours, less than [`FRAMED_BYTES`], as chunks.
    pub(super) fn append_framed(&self, out: &mut Vec<u8>, length: usize) {
        for data in self.body[..length].chunks(FRAME_BYTES) {
            append_chunk(out, data);
        }
    }

    /// A prepared piece of a chunked body.
    pub(super) fn take_framed(&mut self) -> Buf {
        self.framed.pop().unwrap_or_else(|| {
            let mut buf = Buf::large();
            self.append_framed(&mut buf, FRAMED_BYTES);
            buf
        })
    }

    /// Gives a sent piece back.
    pub(super) fn keep_framed(&mut self, buf: Buf) {
        if self.framed.len() < KEPT {
            self.framed.push(buf);
        }
    }

    /// The head and the first piece of a body so long that what is left is a whole number of chunks.
    pub(super) fn take_beginning(&mut self, length: u64) -> Buf {
        let kept = self.beginnings.iter().rposition(|(of, _)| *of == length);
        if let Some(at) = kept {
            let (_, mut buf) = self.beginnings.swap_remove(at);
            buf[DATE_AT..DATE_AT + DATE_BYTES].copy_from_slice(&self.date);
            return buf;
        }
        let mut buf = Buf::large();
        self.append_head(&mut buf, length);
        let first = usize::try_from(length % CHUNK_BYTES as u64).unwrap_or(0);
        buf.extend_from_slice(&self.body[..first]);
        buf
    }

    /// Gives a sent beginning back for the next answer of this length.
    pub(super) fn keep_beginning(&mut self, length: u64, buf: Buf) {
        if self.beginnings.len() == KEPT {
            self.beginnings.remove(0);
        }
        self.beginnings.push((length, buf));
    }

    /// One chunk of a body.
    pub(super) fn take_chunk(&mut self) -> Buf {
        self.chunks.pop().unwrap_or_else(|| {
            let mut buf = Buf::large();
            buf.extend_from_slice(&self.body);
            buf
        })
    }

    /// Gives a sent chunk back.
    pub(super) fn keep_chunk(&mut self, buf: Buf) {
        if self.chunks.len() < KEPT {
            self.chunks.push(buf);
        }
    }
}

/// The end of a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends one chunk of a chunked body; no data appends nothing, since an empty chunk is the end.
pub(super) fn append_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = data.len();
    while left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left % 16];
        left /= 16;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => " OK",
        201 => " Created",
        204 => " No Content",
        304 => " Not Modified",
        400 => " Bad Request",
        404 => " Not Found",
        500 => " Internal Server Error",
        502 => " Bad Gateway",
        503 => " Service Unavailable",
        // An empty reason is allowed, the space in front of it is not optional.
        _ => " ",
    }
}

#[cfg(test)]
mod tests {
    use sluice_sys::LARGE_ROOM_BYTES;

    use super::*;

    #[test]
    fn the_date_is_where_beginnings_overwrite_it() {
        let mut answers = Answers::new();
        let fresh = answers.take_beginning(100_000);
        let text = fresh.to_vec();
        answers.keep_beginning(100_000, fresh);
        let again = answers.take_beginning(100_000);
        assert_eq!(text, **again);
        assert!(text[DATE_AT..].starts_with(&answers.date));
        assert_eq!(&text[DATE_AT + DATE_BYTES..][..2], b"\r\n");
    }

    #[test]
    fn beginnings_and_chunks_add_up() {
        let mut answers = Answers::new();
        for length in [INLINE_BYTES as u64 + 1, CHUNK_BYTES as u64, 10 << 20] {
            let beginning = answers.take_beginning(length);
            let head = beginning.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            let chunks = length / CHUNK_BYTES as u64;
            assert_eq!((beginning.len() - head) as u64 + chunks * answers.take_chunk().len() as u64, length);
            assert!(beginning.capacity() <= LARGE_ROOM_BYTES);
        }
    }

    #[test]
    fn chunks_read_back() {
        let mut answers = Answers::new();
        let mut wire = answers.take_framed().to_vec();
        answers.append_framed(&mut wire, 100);
        append_chunk(&mut wire, b"");
        wire.extend_from_slice(LAST_CHUNK);
        let mut chunked = crate::http::chunked::Chunked::default();
        let (mut rest, mut data) = (&wire[..], 0);
        while !rest.is_empty() {
            let (taken, piece) = chunked.next(rest).expect("well formed");
            data += piece.len();
            rest = &rest[taken..];
        }
        assert!(chunked.is_done() && answers.take_framed().capacity() <= LARGE_ROOM_BYTES);
        assert_eq!(data, FRAMED_BYTES + 100);
    }
}
