//! Paths: the forms are those of a second implementation that takes its time, and normal forms stay what they are.
//!
//! The first two bytes of the input choose the rules, the rest is the target with its query.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::path::{
    DotSegments, EncodedControls, Parameters, PathRules, PathStore, RepeatedSlashes, SlashLike, normalize,
};

fuzz_target!(|input: &[u8]| {
    let [first, second, target @ ..] = input else { return };
    let Ok(target) = str::from_utf8(target) else { return };
    let path = &target[..target.find('?').unwrap_or(target.len())];
    let rules = rules(*first, *second);
    let mut store = PathStore::default();
    let found = normalize(target, path, &rules, &mut store);
    let wanted = spell_out(path.as_bytes(), &rules);
    if path == "*" {
        return assert!(found.is_ok_and(|forms| forms.is_as_received && forms.matching == path));
    }
    let (Ok(forms), Some(wanted)) = (found, &wanted) else {
        return assert!(found.is_err() && wanted.is_none(), "{path}: {found:?}, not {wanted:?}");
    };
    assert_eq!((forms.path, forms.matching), (wanted.normal.as_str(), wanted.matching.as_str()), "{path}");
    assert_eq!(forms.path_and_query, format!("{}{}", wanted.normal, &target[path.len()..]));
    assert_eq!(forms.is_as_received, forms.path == path);
    assert_eq!(forms.has_encoded_slash, forms.path.contains("%2F"));
    assert_eq!(forms.had_dot_segments, wanted.had_dot_segments);
    let mut other = PathStore::default();
    let again = sluice_proto::path::normalize(forms.path_and_query, forms.path, &rules, &mut other);
    let again = again.expect("a normal form passes");
    assert!(again.is_as_received, "{path}");
    assert_eq!((again.path, again.matching), (forms.path, forms.matching));
});

fn rules(first: u8, second: u8) -> PathRules {
    let slash_like = |bits: u8| match bits & 3 {
        0 | 1 => SlashLike::Refuse,
        2 => SlashLike::Keep,
        _ => SlashLike::Slash,
    };
    PathRules {
        dot_segments: if first & 1 == 0 { DotSegments::Remove } else { DotSegments::Refuse },
        encoded_controls: if first & 2 == 0 { EncodedControls::Keep } else { EncodedControls::Refuse },
        repeated_slashes: match first >> 2 & 3 {
            0 | 1 => RepeatedSlashes::Merge,
            2 => RepeatedSlashes::Keep,
            _ => RepeatedSlashes::Refuse,
        },
        parameters: match first >> 4 & 3 {
            0 | 1 => Parameters::Keep,
            2 => Parameters::Ignore,
            _ => Parameters::Refuse,
        },
        encoded_slash: slash_like(second),
        backslash: slash_like(second >> 2),
    }
}

#[derive(Debug)]
struct Spelled {
    normal: String,
    matching: String,
    had_dot_segments: bool,
}

/// A character of a segment.
#[derive(Clone, Copy, PartialEq)]
enum Char {
    Plain(u8),
    Encoded(u8),
}

type Segment = Vec<Char>;

/// The specification: split into segments, judge and resolve them one by one, write them.
fn spell_out(path: &[u8], rules: &PathRules) -> Option<Spelled> {
    let mut kept: Vec<Segment> = Vec::new();
    let segments = split(path, rules)?;
    let last = segments.len() - 1;
    let had_dot_segments = segments.iter().any(|segment| matches!(&*text_of(segment), "." | ".."));
    for (i, segment) in segments.into_iter().enumerate() {
        let text = text_of(&segment);
        if ["%2F", "%5C", "%3B", ";"].iter().any(|divider| text.contains(divider)) {
            let parts = text.replace("%2F", "/").replace("%5C", "/").replace("%3B", "/").replace(';', "/");
            if parts.split('/').any(|part| part == "." || part == "..") {
                return None;
            }
        }
        if rules.parameters == Parameters::Refuse && (text.contains(';') || text.contains("%3B")) {
            return None;
        }
        let is_dots = text == "." || text == "..";
        if is_dots && rules.dot_segments == DotSegments::Refuse {
            return None;
        }
        if text == ".." {
            kept.pop()?;
        }
        if text.is_empty() && i < last && rules.repeated_slashes == RepeatedSlashes::Refuse {
            return None;
        }
        let is_merged = text.is_empty() && i < last && rules.repeated_slashes == RepeatedSlashes::Merge;
        if !is_dots && !is_merged {
            kept.push(segment);
        } else if i == last {
            kept.push(Segment::new());
        }
    }
    let normal = kept.iter().map(|segment| format!("/{}", text_of(segment))).collect();
    Some(Spelled { normal, matching: matching(&kept, rules), had_dot_segments })
}

/// What routes are compared with.
fn matching(segments: &[Segment], rules: &PathRules) -> String {
    let mut out = String::new();
    for (i, segment) in segments.iter().enumerate() {
        let is_semicolon = |char: &Char| matches!(char, Char::Plain(b';') | Char::Encoded(b';'));
        let end = segment.iter().position(is_semicolon).filter(|_| rules.parameters == Parameters::Ignore);
        let shown: Segment = segment[..end.unwrap_or(segment.len())]
            .iter()
            .map(|&char| match char {
                Char::Encoded(byte) if b"!$&'()*+,;=:@".contains(&byte) => Char::Plain(byte),
                char => char,
            })
            .collect();
        let is_left_out = shown.is_empty() && rules.repeated_slashes != RepeatedSlashes::Keep;
        if !is_left_out || i + 1 == segments.len() {
            out.push('/');
            out.push_str(&text_of(&shown));
        }
    }
    out
}

fn split(path: &[u8], rules: &PathRules) -> Option<Vec<Segment>> {
    let mut segments = vec![Segment::new()];
    let mut rest = path.strip_prefix(b"/")?;
    while let Some((&byte, after)) = rest.split_first() {
        let (decoded, len) = match byte {
            b'%' => (Some(hex(after)?), 3),
            _ => (None, 1),
        };
        rest = &rest[len..];
        let char = match (byte, decoded) {
            (b'/', _) => None,
            (b'\\', _) | (_, Some(b'\\')) => slash_like(b'\\', rules.backslash)?,
            (_, Some(b'/')) => slash_like(b'/', rules.encoded_slash)?,
            (_, Some(0)) => return None,
            (_, Some(byte))
                if byte.is_ascii_control() && rules.encoded_controls == EncodedControls::Refuse =>
            {
                return None;
            }
            (_, Some(byte)) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                Some(Char::Plain(byte))
            }
            (_, Some(byte)) => {
                let next = rest.strip_prefix(b"%").and_then(hex);
                // A character that is overlong begins like one that is not, but for these.
                if matches!((byte, next), (0xc0..=0xc1, Some(0x80..=0xbf)))
                    || matches!((byte, next), (0xe0, Some(0x80..=0x9f)) | (0xf0, Some(0x80..=0x8f)))
                {
                    return None;
                }
                Some(Char::Encoded(byte))
            }
            (byte, None) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) => {
                Some(Char::Plain(byte))
            }
            (byte, None) if b"\"<>[]^`{|}".contains(&byte) => Some(Char::Encoded(byte)),
            _ => return None,
        };
        match char {
            None => segments.push(Segment::new()),
            Some(char) => segments.last_mut()?.push(char),
        }
    }
    Some(segments)
}

/// `Some(None)` for a slash.
fn slash_like(byte: u8, rule: SlashLike) -> Option<Option<Char>> {
    match rule {
        SlashLike::Refuse => None,
        SlashLike::Keep => Some(Some(Char::Encoded(byte))),
        SlashLike::Slash => Some(None),
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digits = str::from_utf8(digits.get(..2)?).ok()?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

fn text_of(segment: &[Char]) -> String {
    let text = |char: &Char| match *char {
        Char::Plain(byte) => char::from(byte).to_string(),
        Char::Encoded(byte) => format!("%{byte:02X}"),
    };
    segment.iter().map(text).collect()
}
