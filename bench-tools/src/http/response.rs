//! Where an answer ends, and what it was.

use std::mem::MaybeUninit;

use super::chunked::Chunked;
use super::{FIELDS_MAX, Framing, HEAD_BYTES_MAX, Malformed};

/// A complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Bytes on the wire, head and body.
    pub wire_bytes: u64,
    /// Another request may be sent on this connection.
    pub keeps_alive: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// Reads one answer after another; no more than one is expected at a time.
#[derive(Debug)]
pub struct ResponseReader {
    state: State,
    is_head: bool,
    answer: Answer,
    /// The beginning of a head that came in pieces.
    carry: Vec<u8>,
}

impl Default for ResponseReader {
    fn default() -> ResponseReader {
        let answer = Answer { status: 0, wire_bytes: 0, keeps_alive: false };
        ResponseReader { state: State::Head, is_head: false, answer, carry: Vec::new() }
    }
}

impl ResponseReader {
    /// Expects the answer to a new request.
    pub fn start(&mut self, is_head: bool) {
        self.state = State::Head;
        self.is_head = is_head;
        self.answer.wire_bytes = 0;
        self.carry.clear();
    }

    /// Whether bytes of the answer have come.
    pub fn has_begun(&self) -> bool {
        self.answer.wire_bytes > 0
    }

    /// Takes received bytes; the answer, once it is complete.
    ///
    /// # Errors
    /// [`Malformed`] when they are no answer, or go on after its end.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        self.answer.wire_bytes += bytes.len() as u64;
        let mut rest = bytes;
        if matches!(self.state, State::Head) {
            rest = match self.read_heads(bytes)? {
                Some(used) => &bytes[used..],
                None => return Ok(None),
            };
        }
        let is_complete = match &mut self.state {
            State::Head => unreachable!("the head is complete"),
            State::Length(left) => {
                *left = left.checked_sub(rest.len() as u64).ok_or(Malformed)?;
                *left == 0
            }
            State::Chunked(chunked) => {
                while !rest.is_empty() {
                    let (taken, _) = chunked.next(rest)?;
                    if taken == 0 {
                        return Err(Malformed);
                    }
                    rest = &rest[taken..];
                }
                chunked.is_done()
            }
            State::UntilClose => false,
        };
        Ok(is_complete.then_some(self.answer))
    }

    /// The connection has ended: the answer, if that is how it was to end.
    pub fn ended(&self) -> Option<Answer> {
        matches!(self.state, State::UntilClose).then_some(self.answer)
    }

    /// Reads heads up to the final one; returns how many of `bytes` they took.
    fn read_heads(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let carried = self.carry.len();
        if carried > 0 {
            self.carry.extend_from_slice(bytes);
        }
        let input = if carried > 0 { &self.carry[..] } else { bytes };
        let mut used = 0;
        loop {
            let Some((length, status, framing, keeps_alive)) = parse(&input[used..])? else {
                if input.len() - used > HEAD_BYTES_MAX {
                    return Err(Malformed);
                }
                let left = input[used..].to_vec();
                self.carry = left;
                return Ok(None);
            };
            used += length;
            if status >= 200 || status == 101 {
                self.answer.status = status;
                self.begin_body(status, framing, keeps_alive);
                break;
            }
        }
        let used = used - carried;
        self.carry.clear();
        Ok(Some(used))
    }

    fn begin_body(&mut self, status: u16, framing: Framing, keeps_alive: bool) {
        self.state = match framing {
            _ if self.is_head || matches!(status, 101 | 204 | 304) => State::Length(0),
            Framing { is_chunked: true, .. } => State::Chunked(Chunked::default()),
            Framing { content_length: Some(length), .. } => State::Length(length),
            _ => State::UntilClose,
        };
        self.answer.keeps_alive = keeps_alive && !matches!(self.state, State::UntilClose);
    }
}

type Parsed = Option<(usize, u16, Framing, bool)>;

fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    let framing = Framing::of(response.headers)?;
    Ok(Some((length, response.code.ok_or(Malformed)?, framing, framing.keeps_alive(response.version))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &[u8], is_head: bool) -> Option<Answer> {
        let mut seen = None;
        for at in 0..=wire.len() {
            let mut reader = ResponseReader::default();
            reader.start(is_head);
            let mut answer = None;
            for part in [&wire[..at], &wire[at..]] {
                if !part.is_empty() {
                    answer = reader.read(part).expect("well formed");
                }
            }
            answer = answer.or_else(|| reader.ended());
            assert!(at == 0 || seen == answer, "split at {at}: {answer:?} is not {seen:?}");
            seen = answer;
        }
        seen
    }

    fn answer(status: u16, wire: &[u8], keeps_alive: bool) -> Option<Answer> {
        Some(Answer { status, wire_bytes: wire.len() as u64, keeps_alive })
    }

    #[test]
    fn ends_are_found_for_any_split() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read(wire, false), answer(200, wire, true));
        let wire =
            b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n";
        assert_eq!(read(wire, false), answer(404, wire, false));
        let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(wire, false), answer(204, wire, true));
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(read(wire, true), answer(200, wire, true));
        let wire = b"HTTP/1.1 200 OK\r\n\r\nuntil the end";
        assert_eq!(read(wire, false), answer(200, wire, false));
    }

    #[test]
    fn refuses_garbage_and_unsolicited_bytes() {
        for wrong in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nContent-Length: one\r\n\r\n",
        ] {
            assert_eq!(ResponseReader::default().read(wrong), Err(Malformed));
        }
    }
}
