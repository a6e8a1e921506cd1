//! Finds the lines of a head, and what stands where in them, in one pass of sixteen bytes at a time.
//!
//! Owns the syntax of start lines and field lines as far as it takes to accept them. What is not accepted is wrong, or has not
//! all arrived: `diagnose` tells which, so this file knows no faults. What a line means is for `head` and `target` to say.

use core::ops::Range;
use core::str;

use crate::ascii::{self, TOKEN};
use crate::block::{Block, find};
use crate::fields::{FieldId, FieldSpan};
use crate::limits::METHOD_BYTES_MAX;
use crate::message::{Method, Version};

/// Reads the lines of a head in their order. Each `None` means that the head cannot be accepted as it is.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A request line.
//= https://www.rfc-editor.org/rfc/rfc9112#section-3
pub(super) struct RequestLine<'a> {
    pub(super) method: Method<'a>,
    pub(super) target: &'a str,
    /// Where in the target the query begins, with its `?`.
    pub(super) query: Option<usize>,
    /// The target has a `%`, a `#` or a byte beyond ASCII, so it needs a closer look.
    pub(super) has_escapes: bool,
    pub(super) version: Version,
    /// Bytes of the line without its CRLF.
    pub(super) len: usize,
}

/// A status line.
//= https://www.rfc-editor.org/rfc/rfc9112#section-4
pub(super) struct StatusLine<'a> {
    pub(super) version: Version,
    /// Three digits, whatever they say.
    pub(super) status: u16,
    pub(super) reason: &'a [u8],
}

/// A line behind the start line.
pub(super) enum Line {
    Field(FieldSpan),
    /// The empty line: the head is complete.
    End,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// All bytes, those of lines that were read already too.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many bytes the lines accepted so far have, line ends included.
    pub(super) fn len(&self) -> usize {
        self.at
    }

    #[inline]
    pub(super) fn request_line(&mut self) -> Option<RequestLine<'a>> {
        let bytes = self.bytes;
        let method_len = bytes.iter().take(METHOD_BYTES_MAX + 1).position(|&byte| byte == b' ')?;
        let start = method_len + 1;
        let Scanned { end, query, has_escapes } = scan_target(bytes, start);
        if *bytes.get(end)? != b' ' {
            return None;
        }
        let version = match bytes.get(end + 1..)?.first_chunk::<{ "HTTP/1.1\r\n".len() }>()? {
            b"HTTP/1.1\r\n" => Version::Http11,
            b"HTTP/1.0\r\n" => Version::Http10,
            [version @ .., b'\r', b'\n'] => later_version(version)?,
            _ => return None,
        };
        let target = str::from_utf8(&bytes[start..end]).ok().filter(|target| !target.is_empty())?;
        let method = method(&bytes[..method_len])?;
        let len = end + " HTTP/1.1".len();
        self.at = len + "\r\n".len();
        Some(RequestLine { method, target, query, has_escapes, version, len })
    }

    #[inline]
    pub(super) fn status_line(&mut self) -> Option<StatusLine<'a>> {
        let (&[ref version @ .., b' ', hundreds, tens, ones], phrase) =
            self.bytes.split_first_chunk::<{ "HTTP/1.1 200".len() }>()?
        else {
            return None;
        };
        let version = match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            version => later_version(version)?,
        };
        let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
        let status = digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?;
        let phrase = &phrase[..content_end(phrase, 0)?];
        // The space and the phrase are both optional in practice, whatever the grammar says about the space.
        let reason = if phrase.is_empty() { phrase } else { phrase.strip_prefix(b" ")? };
        self.at = "HTTP/1.1 200".len() + phrase.len() + "\r\n".len();
        Some(StatusLine { version, status, reason })
    }

    //= https://www.rfc-editor.org/rfc/rfc9112#section-5
    #[inline(always)]
    pub(super) fn line(&mut self) -> Option<Line> {
        let (bytes, start) = (self.bytes, self.at);
        if *bytes.get(start)? == b'\r' {
            if *bytes.get(start + 1)? != b'\n' {
                return None;
            }
            self.at = start + "\r\n".len();
            return Some(Line::End);
        }
        let colon = find(bytes, start, |block| block.equal(b':'))?;
        let name = &bytes[start..colon];
        let id = FieldId::classify(name);
        // A known name consists of nothing but token characters.
        if !id.is_known() && !is_token(name) {
            return None;
        }
        let line_end = content_end(bytes, colon + 1)?;
        self.at = line_end + "\r\n".len();
        // Nearly always one space, then something that neither begins nor ends with another.
        let content = &bytes[colon + 1..line_end];
        let is_canonical = matches!(content, [b' ', first, ..] if *first > b' ')
            && content.last().is_some_and(|last| *last > b' ');
        let value = if is_canonical { colon + 2..line_end } else { trimmed(content, colon + 1) };
        Some(Line::Field(FieldSpan::new(name, id, start, value, is_canonical)))
    }
}

/// A target that was looked through.
pub(crate) struct Scanned {
    /// Where the first byte is that has no place in a target.
    pub(crate) end: usize,
    /// As in [`RequestLine`].
    pub(crate) query: Option<usize>,
    /// As in [`RequestLine`].
    pub(crate) has_escapes: bool,
}

/// Looks through the target at `start`.
#[inline(always)]
pub(crate) fn scan_target(bytes: &[u8], start: usize) -> Scanned {
    let mut scanned = Scanned { end: start, query: None, has_escapes: false };
    while let Some(at) = find(bytes, scanned.end, not_plain_in_target) {
        match bytes[at] {
            b'?' => scanned.query = scanned.query.or(Some(at - start)),
            b'%' | b'#' | 0x80.. => scanned.has_escapes = true,
            _ => return Scanned { end: at, ..scanned },
        }
        scanned.end = at + 1;
    }
    Scanned { end: bytes.len(), ..scanned }
}

/// Where in the head the value lies whose line has this content behind the colon, at `start`.
#[inline(never)]
fn trimmed(content: &[u8], start: usize) -> Range<usize> {
    let before = content.iter().take_while(|&&byte| ascii::is_ows(byte)).count();
    let value = ascii::trim_ows(content);
    start + before..start + before + value.len()
}

/// HTTP/1.2 to HTTP/1.9, which are read as the highest version of this major one that is known here.
//= https://www.rfc-editor.org/rfc/rfc9110#section-2.5
// "SHOULD process the message as if it was in the highest minor version within that major version to which the recipient is
// conformant"
#[cold]
fn later_version(version: &[u8]) -> Option<Version> {
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']).then_some(Version::Http11)
}

/// The method of this name, if it is a token.
fn method(name: &[u8]) -> Option<Method<'_>> {
    Method::known(name).or_else(|| {
        let name = str::from_utf8(name).ok().filter(|name| is_token(name.as_bytes()))?;
        Some(Method::Other(name))
    })
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| TOKEN.contains(byte))
}

/// Where the line ends whose content begins at `from`, if it ends with CRLF and nothing before is out of place in a field
/// value or a reason phrase.
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.5
#[inline]
fn content_end(bytes: &[u8], from: usize) -> Option<usize> {
    let end = find_control(bytes, from)?;
    (bytes[end] == b'\r' && *bytes.get(end + 1)? == b'\n').then_some(end)
}

/// The place of the first byte from `from` on that no field value has.
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.5
#[inline(always)]
pub(crate) fn find_control(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = find(bytes, from, controls)?;
    while bytes[at] == b'\t' {
        at = find(bytes, at + 1, controls)?;
    }
    Some(at)
}

/// Control characters, tabs included.
#[inline(always)]
fn controls(block: Block) -> u32 {
    block.up_to(0x1f) | block.equal(0x7f)
}

/// What ends a target, has no place in it, or means something in it: controls, space, `%`, `#`, `?`, and what is not ASCII.
#[inline(always)]
fn not_plain_in_target(block: Block) -> u32 {
    let meaningful = block.equal(b'?') | block.equal(b'%') | block.equal(b'#');
    block.up_to(b' ') | block.equal(0x7f) | block.beyond_ascii() | meaningful
}
