//! Changes that a configuration makes to the fields of a message: names to leave out, lines to add.
//!
//! Owns how both are applied to a head, in the buffer that it was written to ([`edit_lines`]); `h2` asks for each field instead, since
//! a block has no lines. Which fields may be changed at all is said by [`is_editable`], once, when a configuration is checked. What
//! is added comes as lines that are finished: variables are filled in elsewhere.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::fields::{FieldId, FieldSet};
use crate::hop_by_hop::HOP_BY_HOP;

/// Names of fields, compared in any case and with `_` for `-`: to recipients that hand fields on as variables (CGI, WSGI, PHP)
/// `X_User` is `X-User`, so whoever removes one means both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldNames {
    ids: FieldSet,
    /// Those that have no id.
    others: Box<[Box<[u8]>]>,
}

impl FieldNames {
    /// The set of these names.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> FieldNames {
        let mut ids = FieldSet::default();
        let mut others: Vec<Box<[u8]>> = Vec::new();
        for name in names {
            match FieldId::classify(name.as_bytes()) {
                FieldId::Other | FieldId::Underscored => others.push(name.as_bytes().into()),
                id => ids.insert(id),
            }
        }
        FieldNames { ids, others: others.into() }
    }

    /// True when there is no name.
    pub fn is_empty(&self) -> bool {
        self.ids == FieldSet::default() && self.others.is_empty()
    }

    /// Whether the name of a field is among them.
    pub fn has(&self, name: &[u8]) -> bool {
        let id = FieldId::classify(name);
        if id.is_known() {
            return self.ids.contains(id);
        }
        self.others.iter().any(|other| is_alike(other, name))
    }
}

fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().zip(other).all(|(&a, &b)| fold(a) == fold(b))
}

/// What is changed about the fields of one message.
#[derive(Clone, Copy, Debug)]
pub struct FieldEdits<'a> {
    /// Fields of these names are left out, whether they were received or are our own.
    pub removed: &'a FieldNames,
    /// Fields that are added behind the others, each as `name: value` and CRLF.
    pub lines: &'a [u8],
}

impl<'a> FieldEdits<'a> {
    /// The fields that are added.
    pub(crate) fn added(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let lines = self.lines.split(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\r"));
        lines.filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }
}

/// Whether a configuration may change a field of this name: not what belongs to one connection, to framing or to the handshake of
/// WebSocket, which is written from what was understood.
pub fn is_editable(name: &str) -> bool {
    const FIXED: FieldSet = HOP_BY_HOP.union(FieldSet::of(&[
        FieldId::Host,
        FieldId::ContentLength,
        FieldId::Expect,
        FieldId::Trailer,
        FieldId::MaxForwards,
        FieldId::SecWebSocketKey,
        FieldId::SecWebSocketVersion,
        FieldId::SecWebSocketProtocol,
        FieldId::SecWebSocketExtensions,
        FieldId::SecWebSocketAccept,
    ]));
    let id = FieldId::classify(name.replace('_', "-").as_bytes());
    !(id.is_known() && FIXED.contains(id))
}

/// Applies changes to the lines of fields that were written to the end of `out`, from `start` on.
pub fn edit_lines(out: &mut Vec<u8>, start: usize, edits: &FieldEdits<'_>) {
    let end = out.len();
    let kept_end = retain(out, start, end, edits.removed);
    out.truncate(kept_end);
    out.extend_from_slice(edits.lines);
}

/// Applies changes to a whole message of our own that begins at `start`: a head, which may have a body behind it.
pub fn edit_message(out: &mut Vec<u8>, start: usize, edits: &FieldEdits<'_>) {
    let written = &out[start..];
    let (Some(first), Some(head)) =
        (memchr::memchr(b'\n', written), memchr::memmem::find(written, b"\r\n\r\n"))
    else {
        debug_assert!(false, "a head has a first line and an end");
        return;
    };
    let (fields_start, fields_end) = (start + first + 1, start + head + "\r\n".len());
    let kept_end = retain(out, fields_start, fields_end, edits.removed);
    out.splice(kept_end..fields_end, edits.lines.iter().copied());
}

/// Moves the lines that stay to the front of those from `start` to `end`; says where they end.
fn retain(out: &mut [u8], start: usize, end: usize, removed: &FieldNames) -> usize {
    if removed.is_empty() {
        return end;
    }
    let (mut kept_end, mut at) = (start, start);
    while at < end {
        let line_end = memchr::memchr(b'\n', &out[at..end]).map_or(end, |line| at + line + 1);
        let name_end = memchr::memchr(b':', &out[at..line_end]).map_or(line_end, |colon| at + colon);
        if !removed.has(&out[at..name_end]) {
            out.copy_within(at..line_end, kept_end);
            kept_end += line_end - at;
        }
        at = line_end;
    }
    kept_end
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn edited(lines: &str, removed: &[&str], added: &str) -> String {
        let removed = &FieldNames::new(removed.iter().copied());
        let mut out = b"GET / HTTP/1.1\r\n".to_vec();
        let start = out.len();
        out.extend_from_slice(lines.as_bytes());
        edit_lines(&mut out, start, &FieldEdits { removed, lines: added.as_bytes() });
        assert!(out.starts_with(b"GET / HTTP/1.1\r\n"));
        String::from_utf8(out.split_off(start)).unwrap()
    }

    #[test]
    fn named_lines_go_and_others_stay_in_order() {
        let lines = "A: 1\r\nCookie: x\r\nB: Cookie: 2\r\ncookie: y\r\nX_User: z\r\nX-User:\r\n";
        assert_eq!(edited(lines, &["COOKIE", "x-user"], "C: 3\r\n"), "A: 1\r\nB: Cookie: 2\r\nC: 3\r\n");
        assert_eq!(edited(lines, &[], ""), lines);
        assert_eq!(edited("", &["a"], "C: 3\r\n"), "C: 3\r\n");
        assert_eq!(edited("Cookie2: a\r\n", &["Cookie"], ""), "Cookie2: a\r\n");
    }

    #[test]
    fn a_message_keeps_its_body() {
        let edit = |message: &str, removed: &str| {
            let removed = &FieldNames::new([removed]);
            let mut out = message.as_bytes().to_vec();
            edit_message(&mut out, 0, &FieldEdits { removed, lines: b"Z: 1\r\n" });
            String::from_utf8(out).unwrap()
        };
        let body = "Server: x\r\n\r\n";
        let message = alloc::format!("HTTP/1.1 200 OK\r\nServer: s\r\nDate: d\r\n\r\n{body}");
        let wanted = alloc::format!("HTTP/1.1 200 OK\r\nDate: d\r\nZ: 1\r\n\r\n{body}");
        assert_eq!(edit(&message, "server"), wanted);
        assert_eq!(edit("HTTP/1.1 204 No Content\r\n\r\n", "a"), "HTTP/1.1 204 No Content\r\nZ: 1\r\n\r\n");
    }

    #[test]
    fn what_frames_a_message_cannot_be_changed() {
        for name in [
            "Host",
            "content-length",
            "Content_Length",
            "Transfer-Encoding",
            "connection",
            "TE",
            "Upgrade",
            "Trailer",
        ] {
            assert!(!is_editable(name), "{name}");
        }
        for name in ["X-A", "Cookie", "Via", "X-Forwarded-For", "Server", "Date", "Content-Type"] {
            assert!(is_editable(name), "{name}");
        }
    }

    #[test]
    fn added_lines_are_read_again() {
        let removed = &FieldNames::default();
        let edits = FieldEdits { removed, lines: b"A: 1\r\nB: x: y\r\n" };
        let added: Vec<_> = edits.added().collect();
        assert_eq!(added, [(&b"A"[..], &b"1"[..]), (b"B", b"x: y")]);
    }
}
