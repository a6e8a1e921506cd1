//! Answers as bytes: small ones are appended to what is about to be sent, large ones come from prepared buffers that
//! are sent again and again. In steady state nothing is allocated and no large body is copied.

use std::time::{Duration, SystemTime};

use sluice_sys::{Buf, LARGE_BYTES};

/// Bodies up to this length are sent together with their head.
pub(super) const INLINE_BYTES: usize = 32 * 1024;
/// Length of a piece of a larger body: with a head in front it still fits a large buffer.
pub(super) const CHUNK_BYTES: usize = LARGE_BYTES - 512;
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
        out.extend_from_slice(&self.body[..length]);
    }

    /// Appends an answer with a text.
    pub(super) fn append_text(&self, out: &mut Vec<u8>, status: &str, text: &str, wants_body: bool) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(&self.date);
        out.extend_from_slice(b"\r\nContent-Type: text/plain\r\nContent-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(text.len()).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        if wants_body {
            out.extend_from_slice(text.as_bytes());
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

#[cfg(test)]
mod tests {
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
            assert!(beginning.capacity() <= LARGE_BYTES);
        }
    }
}
