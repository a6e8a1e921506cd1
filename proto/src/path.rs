//! One path, one spelling: the normal form of RFC 3986 section 6.2.2, and the form that routes are compared with.
//!
//! Owns what a path means: percent-encoding, dot segments, repeated slashes, slashes in disguise, parameters. Never looks at the
//! query, which belongs to the server, nor at routes. [`forms`] is called once for every request, whatever its version, and the
//! patterns of the configuration pass through it too, so that both sides of a comparison are spelled alike.
//!
//! A proxy that decides by one reading of a path while the server behind it acts on another guards nothing: `/admin` is closed,
//! `/%61dmin`, `//admin`, `/x/../admin`, `/x/..;/admin` and `/x%2f..%2fadmin` are open. Therefore what was compared is what is
//! forwarded, and what has two readings even then is refused:
//!
//! - encoded unreserved characters are decoded, other encodings get upper-case digits, and what a URI cannot hold
//!   (`|`, `[`, `"` and the like, which browsers send as they are) is encoded;
//! - dot segments are removed after that; one that leads above the root, or that only shows to a server which cuts off
//!   parameters or decodes slashes, is refused;
//! - NUL and overlong UTF-8 are refused always, the rest is a choice ([`PathRules`]).
//!
//! Encoded sub-delimiters (`%40` for `@`) stay encoded, because RFC 3986 section 2.2 does not let a proxy say that they mean the
//! same. Most servers do, so a route takes both: the matching form has them decoded. Nothing is decoded twice.

use alloc::string::String;

use crate::ascii::{PCHAR, UNRESERVED};
use crate::fault::Fault;

/// How spellings that servers read differently are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRules {
    /// `.` and `..` segments, written out or encoded.
    pub dot_segments: DotSegments,
    /// Two slashes or more in a row.
    pub repeated_slashes: RepeatedSlashes,
    /// `%2F`.
    pub encoded_slash: SlashLike,
    /// `\` and `%5C`.
    pub backslash: SlashLike,
    /// `%01` to `%1F` and `%7F`.
    pub encoded_controls: EncodedControls,
    /// `;` in a segment and what follows it there.
    pub parameters: Parameters,
}

/// The strictest reading with which ordinary sites work.
impl Default for PathRules {
    fn default() -> Self {
        Self {
            dot_segments: DotSegments::Remove,
            repeated_slashes: RepeatedSlashes::Merge,
            encoded_slash: SlashLike::Refuse,
            backslash: SlashLike::Refuse,
            encoded_controls: EncodedControls::Refuse,
            parameters: Parameters::Keep,
        }
    }
}

/// How `.` and `..` segments are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotSegments {
    /// They are resolved.
    //= https://www.rfc-editor.org/rfc/rfc3986#section-5.2.4
    Remove,
    /// The request is refused.
    Refuse,
}

/// How empty segments before the last one are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedSlashes {
    /// They become one slash.
    Merge,
    /// They stay, and are other paths than those with one slash.
    Keep,
    /// The request is refused.
    Refuse,
}

/// How a byte that some servers take for a slash is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlashLike {
    /// The request is refused.
    Refuse,
    /// It stays encoded and separates nothing.
    Keep,
    /// It becomes a slash.
    Slash,
}

/// How encoded control characters other than NUL are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedControls {
    /// The request is refused.
    Refuse,
    /// They stay encoded.
    Keep,
}

/// How a `;` in a segment is handled, with the bytes behind it.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// It is a part of the segment like any other.
    Keep,
    /// Routes do not see it; it is forwarded.
    Ignore,
    /// The request is refused.
    Refuse,
}

/// A path in the forms that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathForms<'a> {
    /// The normal form, and the query as it was received.
    pub path_and_query: &'a str,
    /// The same without the query.
    pub path: &'a str,
    /// The form that is compared with routes.
    pub matching: &'a str,
    /// The normal form is what was received.
    pub is_as_received: bool,
    /// The normal form has a `%2F`.
    pub has_encoded_slash: bool,
    /// The path received had dot segments.
    pub had_dot_segments: bool,
}

/// Room for the forms of a path; one for all requests of a shard, so that it does not grow any more after a while.
#[derive(Debug, Default)]
pub struct PathStore {
    target: String,
    matching: String,
}

/// Brings a path into its forms. `path` is the beginning of `path_and_query`; `*`, which is no path, stays what it is.
///
/// A path that needs no care, which is nearly every one, is recognised in one pass, borrowed and not copied. The normal form is
/// no longer than the path received, but for bytes that a URI cannot hold, of which each takes three.
///
/// # Errors
///
/// The first [`Fault`] by segment.
#[inline]
pub fn normalize<'a>(
    path_and_query: &'a str,
    path: &'a str,
    rules: &PathRules,
    store: &'a mut PathStore,
) -> Result<PathForms<'a>, Fault> {
    if is_plain(path.as_bytes()) {
        return Ok(PathForms {
            path_and_query,
            path,
            matching: path,
            is_as_received: true,
            has_encoded_slash: false,
            had_dot_segments: false,
        });
    }
    careful_forms(path_and_query, path, rules, store)
}

/// True for a path that is its own normal form and its own matching form under all rules: bytes in common use, no empty segment
/// but the last, and none that begins with a dot. Says false of some others too.
///
/// Whole windows at a time and without a branch inside, so that the compiler makes vector code of it. Windows overlap by one
/// byte, since a slash and what follows it are looked at together, and the last one by as much as it takes.
#[inline]
fn is_plain(path: &[u8]) -> bool {
    match path {
        [b'/', rest @ ..] => match rest.len() {
            0..8 => is_each_plain(path),
            8..16 => is_window_plain::<8>(path) && is_window_plain::<8>(&path[path.len() - 9..]),
            _ => are_windows_plain(path),
        },
        _ => path == b"*",
    }
}

/// The same for 17 bytes or more.
fn are_windows_plain(path: &[u8]) -> bool {
    const WINDOW: usize = 16;
    let last = path.len() - WINDOW - 1;
    let mut start = 0;
    while start < last {
        if !is_window_plain::<WINDOW>(&path[start..]) {
            return false;
        }
        start += WINDOW;
    }
    is_window_plain::<WINDOW>(&path[last..])
}

/// The same for the first `N + 1` bytes, of which the first one is known to be good.
#[inline]
fn is_window_plain<const N: usize>(path: &[u8]) -> bool {
    let (Some(before), Some(bytes)) = (path.first_chunk::<N>(), path[1..].first_chunk::<N>()) else {
        return false;
    };
    let mut is_plain = true;
    for (&before, &byte) in before.iter().zip(bytes) {
        is_plain &= is_common(byte) & !is_special_pair(before, byte);
    }
    is_plain
}

/// The same for a few bytes.
#[inline]
fn is_each_plain(path: &[u8]) -> bool {
    path.windows(2).all(|pair| is_common(pair[1]) & !is_special_pair(pair[0], pair[1]))
}

/// A subset of pchar and the slash in few comparisons: letters, digits, `& ' ( ) * + , - . / :` and `= @ _ ~`.
#[inline]
fn is_common(byte: u8) -> bool {
    let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let is_between = byte.wrapping_sub(b'&') <= b':' - b'&';
    is_letter | is_between | (byte == b'_') | (byte == b'=') | (byte == b'~') | (byte == b'@')
}

/// `//` or `/.`: the slash is the dot's successor.
#[inline]
fn is_special_pair(before: u8, byte: u8) -> bool {
    (before == b'/') & ((byte | 1) == b'/')
}

#[cold]
#[inline(never)]
fn careful_forms<'a>(
    path_and_query: &'a str,
    path: &'a str,
    rules: &PathRules,
    store: &'a mut PathStore,
) -> Result<PathForms<'a>, Fault> {
    let PathStore { target, matching } = store;
    let mut writer = Writer { rules, out: target, segment: 0, is_split: false, seen: Seen::default() };
    writer.write(path)?;
    let seen = writer.seen;
    let len = target.len();
    let is_as_received = *target == *path;
    let path_and_query = if is_as_received {
        path_and_query
    } else {
        target.push_str(&path_and_query[path.len()..]);
        target
    };
    let path = &path_and_query[..len];
    let matching = if seen.reserved || (seen.parameter && rules.parameters == Parameters::Ignore) {
        write_matching(path, rules, matching);
        matching
    } else {
        path
    };
    let has_encoded_slash = rules.encoded_slash == SlashLike::Keep && path.contains("%2F");
    let had_dot_segments = seen.dots;
    Ok(PathForms { path_and_query, path, matching, is_as_received, has_encoded_slash, had_dot_segments })
}

/// An element that the writer has found.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// An encoded sub-delimiter, `:` or `@`.
    reserved: bool,
    /// A `;`, encoded or not.
    parameter: bool,
    /// A dot segment.
    dots: bool,
}

/// Writes the normal form of a path, segment by segment.
struct Writer<'a> {
    rules: &'a PathRules,
    out: &'a mut String,
    /// Where the slash of the segment under way stands.
    segment: usize,
    /// The segment under way holds something that divides it for some servers.
    is_split: bool,
    seen: Seen,
}

/// One character of a path, however it was spelled.
#[derive(Clone, Copy)]
enum Char {
    Slash,
    Literal(u8),
    Encoded(u8),
}

impl Writer<'_> {
    /// `path` begins with a slash.
    fn write(&mut self, path: &str) -> Result<(), Fault> {
        self.out.clear();
        let mut rest = path.strip_prefix('/').ok_or(Fault::InvalidTarget)?;
        self.out.push('/');
        loop {
            // Most of any path can be copied as it is.
            let is_plain = |byte| PCHAR.contains(byte) && byte != b';';
            let plain_len = rest.bytes().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
            self.out.push_str(&rest[..plain_len]);
            rest = &rest[plain_len..];
            if rest.is_empty() {
                return self.close_segment(Place::Last);
            }
            let (char, len) = read_char(rest.as_bytes(), self.rules)?;
            match char {
                Char::Slash => {
                    self.close_segment(Place::Inner)?;
                    self.segment = self.out.len();
                    self.is_split = false;
                    self.out.push('/');
                }
                Char::Literal(byte) => {
                    self.note_divider(byte)?;
                    self.out.push(char::from(byte));
                }
                Char::Encoded(byte) => {
                    self.note_divider(byte)?;
                    self.seen.reserved |= PCHAR.contains(byte);
                    put_encoded(self.out, byte);
                }
            }
            rest = &rest[len..];
        }
    }

    /// Takes note of a character at which some servers divide a segment.
    fn note_divider(&mut self, byte: u8) -> Result<(), Fault> {
        match byte {
            b';' if self.rules.parameters == Parameters::Refuse => return Err(Fault::PathParameter),
            b';' => self.seen.parameter = true,
            b'/' | b'\\' => {}
            _ => return Ok(()),
        }
        self.is_split = true;
        Ok(())
    }

    /// Judges the segment that has just been written. What is taken back leaves no slash behind, but for the last segment, whose
    /// slash says that it names a directory.
    //= https://www.rfc-editor.org/rfc/rfc3986#section-5.2.4
    fn close_segment(&mut self, place: Place) -> Result<(), Fault> {
        if self.is_split && has_hidden_dots(&self.out[self.segment + 1..]) {
            return Err(Fault::HiddenDotSegment);
        }
        let segment = &self.out[self.segment + 1..];
        self.seen.dots |= matches!(segment, "." | "..");
        let keep_until = match segment {
            "." | ".." if self.rules.dot_segments == DotSegments::Refuse => return Err(Fault::DotSegment),
            "." => self.segment,
            // RFC 3986 stays at the root instead; no honest client gets there.
            ".." => self.out[..self.segment].rfind('/').ok_or(Fault::PathAboveRoot)?,
            "" if place == Place::Inner => match self.rules.repeated_slashes {
                RepeatedSlashes::Merge => self.segment,
                RepeatedSlashes::Keep => return Ok(()),
                RepeatedSlashes::Refuse => return Err(Fault::RepeatedSlash),
            },
            _ => return Ok(()),
        };
        self.out.truncate(keep_until);
        if place == Place::Last {
            self.out.push('/');
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Inner,
    Last,
}

/// The first character of `rest`, which is not empty, and how many bytes it takes.
fn read_char(rest: &[u8], rules: &PathRules) -> Result<(Char, usize), Fault> {
    match *rest {
        [b'/', ..] => Ok((Char::Slash, 1)),
        [b'\\', ..] => Ok((slash_like(b'\\', rules.backslash, Fault::Backslash)?, 1)),
        [b'%', ref digits @ ..] => {
            let byte = decode(digits).ok_or(Fault::InvalidPercentEncoding)?;
            Ok((judge_encoded(byte, &digits[2..], rules)?, 3))
        }
        [byte, ..] if PCHAR.contains(byte) => Ok((Char::Literal(byte), 1)),
        // No byte of a URI. Its encoding is the only thing it can mean.
        [byte, ..] if byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#') => Ok((Char::Encoded(byte), 1)),
        _ => Err(Fault::InvalidTarget),
    }
}

/// What an encoded byte stands for; `after` follows it.
//= https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2
fn judge_encoded(byte: u8, after: &[u8], rules: &PathRules) -> Result<Char, Fault> {
    match byte {
        b'/' => slash_like(b'/', rules.encoded_slash, Fault::EncodedSlash),
        b'\\' => slash_like(b'\\', rules.backslash, Fault::Backslash),
        0 => Err(Fault::EncodedControl),
        1..=0x1f | 0x7f if rules.encoded_controls == EncodedControls::Refuse => Err(Fault::EncodedControl),
        0xc0.. if is_overlong(byte, after) => Err(Fault::OverlongEncoding),
        _ if UNRESERVED.contains(byte) => Ok(Char::Literal(byte)),
        _ => Ok(Char::Encoded(byte)),
    }
}

fn slash_like(byte: u8, rule: SlashLike, fault: Fault) -> Result<Char, Fault> {
    match rule {
        SlashLike::Refuse => Err(fault),
        SlashLike::Keep => Ok(Char::Encoded(byte)),
        SlashLike::Slash => Ok(Char::Slash),
    }
}

/// True when `lead` and the encoded byte at the start of `after` begin a character that has a shorter encoding, as `%C0%AF` is a
/// slash to a careless decoder.
//= https://www.rfc-editor.org/rfc/rfc3629#section-3
fn is_overlong(lead: u8, after: &[u8]) -> bool {
    let next = match after {
        [b'%', digits @ ..] => decode(digits),
        _ => None,
    };
    matches!(
        (lead, next),
        (0xc0 | 0xc1, Some(0x80..=0xbf)) | (0xe0, Some(0x80..=0x9f)) | (0xf0, Some(0x80..=0x8f))
    )
}

/// True when a part of `segment` is a dot segment to a server that decodes slashes or cuts off parameters. The segment is in
/// normal form and has such parts.
fn has_hidden_dots(segment: &str) -> bool {
    let mut part = 0;
    let mut at = 0;
    let bytes = segment.as_bytes();
    let is_dots = |part: &[u8]| matches!(part, b"." | b"..");
    while let Some(&byte) = bytes.get(at) {
        let len = match (byte, bytes.get(at + 1..at + 3)) {
            (b';', _) => 1,
            (b'%', Some(b"3B" | b"2F" | b"5C")) => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        if is_dots(&bytes[part..at]) {
            return true;
        }
        at += len;
        part = at;
    }
    is_dots(&bytes[part..])
}

/// Writes the matching form of a path in normal form.
fn write_matching(path: &str, rules: &PathRules, out: &mut String) {
    out.clear();
    let mut rest = path;
    while let Some(byte) = rest.bytes().next() {
        let decoded = if byte == b'%' { decode(&rest.as_bytes()[1..]) } else { None };
        let decoded = decoded.filter(|&byte| PCHAR.contains(byte));
        match (decoded.unwrap_or(byte), rules.parameters) {
            (b';', Parameters::Ignore) => rest = &rest[rest.find('/').unwrap_or(rest.len())..],
            // A segment of nothing but parameters is an empty one.
            (b'/', _) if rules.repeated_slashes != RepeatedSlashes::Keep && out.ends_with('/') => {
                rest = &rest[1..];
            }
            (char, _) => {
                out.push(char::from(char));
                rest = &rest[if decoded.is_some() { 3 } else { 1 }..];
            }
        }
    }
}

/// The byte that two hexadecimal digits stand for.
//= https://www.rfc-editor.org/rfc/rfc3986#section-2.1
fn decode(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let &[high, low, ..] = digits else { return None };
    u8::try_from(value(high)? << 4 | value(low)?).ok()
}

/// Appends a path and a query with their UTF-8 in the form that a URI can hold: a server that decodes it has what was sent.
//= https://www.rfc-editor.org/rfc/rfc3987#section-3.1
#[cold]
pub fn encode_utf8(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii() { out.push(char::from(byte)) } else { put_encoded(out, byte) }
    }
}

fn put_encoded(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 0xf)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_looks_plain_is() {
        let mut store = PathStore::default();
        let strictest = PathRules {
            dot_segments: DotSegments::Refuse,
            repeated_slashes: RepeatedSlashes::Refuse,
            parameters: Parameters::Refuse,
            ..PathRules::default()
        };
        // Every byte at every place of every length up to three windows, and every pair of the special ones.
        for (len, at, before) in
            (2..50).flat_map(|len| (1..len).flat_map(move |at| [(len, at, b'/'), (len, at, b'b')]))
        {
            for byte in 0..128_u8 {
                let mut path = alloc::vec![b'a'; len];
                path[0] = b'/';
                match at {
                    1 => {}
                    // No second slash but the one under test.
                    2 if before == b'/' => continue,
                    _ => path[at - 1] = before,
                }
                let before = path[at - 1];
                path[at] = byte;
                let path = core::str::from_utf8(&path).unwrap();
                let is_common = byte.is_ascii_alphanumeric() || b"&'()*+,-./:=@_~".contains(&byte);
                let is_special = before == b'/' && matches!(byte, b'.' | b'/');
                assert_eq!(is_plain(path.as_bytes()), is_common && !is_special, "{path:?}");
                if is_common && !is_special {
                    let careful = careful_forms(path, path, &strictest, &mut store);
                    let careful = careful.unwrap_or_else(|fault| panic!("{path:?}: {fault}"));
                    assert!(careful.is_as_received && careful.matching == path, "{path:?}");
                }
            }
        }
    }
}
