//! Repairs heads of old servers: what RFC 9112 lets a recipient forgive, and nothing else.
//!
//! A head that was refused is written anew without the fault, and then read by the same strict parser as any other. So a leniency can
//! add no reading of its own, what goes on to the client is as strict as ever, and heads without a fault never come here. Asked for by
//! upstream (`lenient` of the configuration), for responses only.

use alloc::vec::Vec;

use crate::ascii;
use crate::limits::HeadLimits;

/// What is forgiven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lenient(u8);

impl Lenient {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// LF for CRLF in heads.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
    pub const BARE_LF: Self = Self(1);
    /// Whitespace behind the size of a chunk.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-7.1.1
    pub const CHUNK_PADDING: Self = Self(1 << 1);
    /// Several Content-Length that are the same.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    pub const EQUAL_LENGTHS: Self = Self(1 << 2);
    /// Content-Length and Transfer-Encoding with 204 or an interim status.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    pub const FRAMING_204: Self = Self(1 << 3);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is forgiven.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A head that was repaired, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// How many bytes of the original it has.
    pub bytes: usize,
    /// Where it ends, or what follows it, depends on who reads it: bytes that follow may be those of this response to its server.
    pub is_ambiguous: bool,
}

/// Writes the response head at the start of `bytes` into `out` without what is forgiven: the lines that have come as a whole, so that
/// the verdict does not depend on how they arrive. `None` if it has a fault of these kinds that is not forgiven, or is too large. The
/// parser finds any other fault in what was written.
#[cold]
pub fn repair_response(
    bytes: &[u8],
    limits: &HeadLimits,
    lenient: Lenient,
    out: &mut Vec<u8>,
) -> Option<Repaired> {
    let window = &bytes[..bytes.len().min(limits.head_bytes())];
    let mut repair =
        Repair { lenient, has_no_content: has_no_content(window), length: None, is_ambiguous: false };
    out.clear();
    let mut at = 0;
    while let Some(len) = memchr::memchr(b'\n', &window[at..]) {
        let is_first = at == 0;
        let line = &window[at..at + len];
        at += len + 1;
        let content = match line.strip_suffix(b"\r") {
            Some(content) => content,
            None if lenient.has(Lenient::BARE_LF) => {
                repair.is_ambiguous = true;
                line
            }
            None => return None,
        };
        if is_first || content.is_empty() {
            out.extend_from_slice(content);
            out.extend_from_slice(b"\r\n");
        } else {
            repair.put_field(content, out)?;
        }
        if content.is_empty() {
            return Some(Repaired { bytes: at, is_ambiguous: repair.is_ambiguous });
        }
    }
    if window.len() == limits.head_bytes() {
        return None;
    }
    if at == 0 {
        out.extend_from_slice(window);
    }
    Some(Repaired { bytes: window.len(), is_ambiguous: repair.is_ambiguous })
}

struct Repair<'a> {
    lenient: Lenient,
    has_no_content: bool,
    /// The first Content-Length.
    length: Option<&'a [u8]>,
    is_ambiguous: bool,
}

impl<'a> Repair<'a> {
    /// Writes a field line, unless it is one too many.
    fn put_field(&mut self, line: &'a [u8], out: &mut Vec<u8>) -> Option<()> {
        let (name, value) = line.split_at(memchr::memchr(b':', line).unwrap_or(line.len()));
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_framing = is_length || name.eq_ignore_ascii_case(b"transfer-encoding");
        let is_clean = value.iter().all(|&byte| ascii::is_field_content(byte));
        if is_framing && is_clean && self.has_no_content && self.lenient.has(Lenient::FRAMING_204) {
            // A server that sends content nevertheless sends it where the next response belongs.
            self.is_ambiguous = true;
            return Some(());
        }
        if is_length && !value.is_empty() && self.lenient.has(Lenient::EQUAL_LENGTHS) {
            return self.put_length(&value[1..], out);
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        Some(())
    }

    /// Writes a Content-Length, if it is the first one; all have to be the same.
    fn put_length(&mut self, value: &'a [u8], out: &mut Vec<u8>) -> Option<()> {
        for member in ascii::list_members(value) {
            ascii::parse_decimal(member)?;
            match self.length {
                Some(first) if first == member => {}
                Some(_) => return None,
                None => {
                    self.length = Some(member);
                    out.extend_from_slice(b"Content-Length: ");
                    out.extend_from_slice(member);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        Some(())
    }
}

/// Whether the status line at the start is of 204 or an interim response. 101 is none: its framing is that of another protocol.
fn has_no_content(head: &[u8]) -> bool {
    let status = head.get("HTTP/1.1 ".len().."HTTP/1.1 204".len());
    matches!(status, Some(b"204" | [b'1', b'0'..=b'9', b'0'..=b'9'])) && status != Some(b"101")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::h1::{HeadStore, Parsed, parse_response};
    use crate::message::{BodyLength, RequestKind};
    use alloc::string::String;

    /// What a strict reading of the repaired head finds, with the fields; or the fault.
    fn read(head: &str, lenient: Lenient) -> Result<(u16, BodyLength, String, bool), Option<Fault>> {
        let mut out = Vec::new();
        let behind = [head.as_bytes(), b"behind\n\r\n"].concat();
        let limits = HeadLimits::default();
        let repaired = repair_response(&behind, &limits, lenient, &mut out).ok_or(None)?;
        let mut store = HeadStore::default();
        match parse_response(&out, &mut store, &limits, &RequestKind::Other) {
            Ok(Parsed::Complete { head: found, bytes }) => {
                assert_eq!((bytes, repaired.bytes), (out.len(), head.len()), "{head:?}");
                let fields = found
                    .fields()
                    .map(|field| alloc::format!("{}={};", field.name, field.value.escape_ascii()));
                Ok((found.status, found.body, fields.collect(), repaired.is_ambiguous))
            }
            Ok(Parsed::Partial) => panic!("{head:?} is whole"),
            Err(fault) => Err(Some(fault)),
        }
    }

    const ALL: Lenient =
        Lenient::BARE_LF.and(Lenient::CHUNK_PADDING).and(Lenient::EQUAL_LENGTHS).and(Lenient::FRAMING_204);

    #[test]
    fn lf_ends_lines_where_it_is_forgiven() {
        let five = |fields: &str| Ok((200, BodyLength::Length(5), fields.into(), true));
        for (head, fields) in [
            ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", "Content-Length=5;"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n", "Content-Length=5;"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\nA: b\r\n\r\n", "Content-Length=5;A=b;"),
            ("HTTP/1.1 200\nContent-Length: 5\n\r\n", "Content-Length=5;"),
        ] {
            assert_eq!(read(head, Lenient::BARE_LF), five(fields), "{head:?}");
            assert_eq!(read(head, Lenient::EQUAL_LENGTHS.and(Lenient::FRAMING_204)), Err(None), "{head:?}");
        }
        for (head, fault) in [
            ("HTTP/1.1 200 OK\nA: b\n c\n\n", Fault::ObsFold),
            ("HTTP/1.1 200 OK\n A: b\n\n", Fault::SpaceBeforeFields),
            ("HTTP/1.1 200 OK\nA: b\rc\n\n", Fault::BareCr),
            ("HTTP/1.1 200 OK\nA: b\r\r\n\n", Fault::BareCr),
            ("HTTP/1.1 200 OK\nA\n\n", Fault::MissingColon),
            ("HTTP/1.1 204 OK\nContent-Length: 1\0\n\n", Fault::InvalidFieldValue),
            ("HTTP/1.1 204 OK\nContent-Length: 1\r2\n\n", Fault::BareCr),
            ("HTTP/1.1 200 OK\nA: \0\n\n", Fault::InvalidFieldValue),
            (
                "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
                Fault::LengthWithTransferEncoding,
            ),
            ("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5\n\n", Fault::RepeatedContentLength),
            ("\nHTTP/1.1 200 OK\n\n", Fault::InvalidVersion),
        ] {
            assert_eq!(read(head, Lenient::BARE_LF), Err(Some(fault)), "{head:?}");
        }
    }

    #[test]
    fn lengths_that_are_the_same_become_one() {
        let lenient = Lenient::EQUAL_LENGTHS;
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:5,5 ,5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCONTENT-LENGTH: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5, 5\r\n\r\n",
        ] {
            let found = (200, BodyLength::Length(5), "Content-Length=5;".into(), false);
            assert_eq!(read(head, lenient), Ok(found), "{head:?}");
        }
        for lengths in
            ["5, 6", "5, 05", "5,", ",5", "5, x", "5 5", "+5, +5", "5;5", "", "5, 5\r\nContent-Length: 6"]
        {
            let head = alloc::format!("HTTP/1.1 200 OK\r\nContent-Length: {lengths}\r\n\r\n");
            assert_eq!(read(&head, lenient), Err(None), "{lengths:?}");
        }
        for (fields, fault) in [
            ("Content-Length: 5, 5\r\nTransfer-Encoding: chunked", Fault::LengthWithTransferEncoding),
            ("Content-Length : 5\r\nContent-Length: 5", Fault::SpaceInFieldName),
            ("Content-Length: 5\r\n\tContent-Length: 5", Fault::ObsFold),
        ] {
            let head = alloc::format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert_eq!(read(&head, lenient), Err(Some(fault)), "{fields:?}");
        }
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n";
        assert_eq!(read(both, Lenient::FRAMING_204), Err(Some(Fault::InvalidContentLength)));
    }

    #[test]
    fn responses_without_content_need_no_framing() {
        let lenient = Lenient::FRAMING_204;
        for (status, fields) in [
            (204, "Content-Length: 5"),
            (204, "Transfer-Encoding: chunked"),
            (204, "Content-Length: 5\r\nTransfer-Encoding: chunked"),
            (204, "Content-Length: 5\r\nContent-Length: 6"),
            (103, "content-length: 7"),
        ] {
            let head = alloc::format!("HTTP/1.1 {status} X\r\n{fields}\r\nA: b\r\n\r\n");
            assert_eq!(read(&head, lenient), Ok((status, BodyLength::None, "A=b;".into(), true)), "{head:?}");
        }
        for (status, fields, fault) in [
            (101, "Content-Length: 5", Fault::BodyNotAllowed),
            (205, "Content-Length: 5\r\nContent-Length: 5", Fault::RepeatedContentLength),
            (204, "Content-Length: 5\0", Fault::InvalidFieldValue),
            (204, "Content-Length : 5", Fault::SpaceInFieldName),
        ] {
            let head = alloc::format!("HTTP/1.1 {status} X\r\n{fields}\r\n\r\n");
            assert_eq!(read(&head, lenient), Err(Some(fault)), "{head:?}");
        }
    }

    #[test]
    fn a_head_may_come_in_any_pieces() {
        let head = "HTTP/1.1 204 X\nContent-Length: 5, 5\r\nA: b\nContent-Length: 5\n\n";
        let (mut out, mut store) = (Vec::new(), HeadStore::default());
        let limits = HeadLimits::default();
        for len in 0..head.len() {
            repair_response(&head.as_bytes()[..len], &limits, ALL, &mut out)
                .expect("nothing is wrong with it");
            let parsed = parse_response(&out, &mut store, &limits, &RequestKind::Other);
            assert!(matches!(parsed, Ok(Parsed::Partial)), "{len}: {parsed:?}");
        }
        assert_eq!(read(head, ALL), Ok((204, BodyLength::None, "A=b;".into(), true)));
        for line in ["A: b\n", "A: bbbbbbbb"] {
            let long = alloc::format!("HTTP/1.1 200 X\n{}", line.repeat(10_000));
            assert_eq!(repair_response(long.as_bytes(), &limits, ALL, &mut out), None);
        }
    }
}
