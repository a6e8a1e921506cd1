//! Parts of a request by their names: parameters of the query, cookies. Read where they lie, in the order in which they came.
//!
//! What clients send need not follow a grammar, so every text has a reading: a query is split at `&`, parameters are decoded as forms
//! encode them (`+` is a space, a `%` without two digits is itself); cookies are split at `;`, and lose whitespace and one pair of
//! quotes round the value.

use sluice_proto::FieldId;
use sluice_proto::fields::Fields;

use super::hash::{find_byte, is_same};

/// The values of the parameters of this name, as they were sent.
pub fn query_values(query: &str, name: impl AsRef<[u8]>) -> impl Iterator<Item = &[u8]> {
    let parameters = pieces(query.as_bytes(), b'&');
    parameters.filter(|parameter| !parameter.is_empty()).filter_map(move |parameter| {
        let (key, value) = match find_byte(parameter, b'=') {
            Some(end) => (&parameter[..end], &parameter[end + 1..]),
            None => (parameter, &[][..]),
        };
        is_decoded(key, name.as_ref()).then_some(value)
    })
}

/// The values of the cookies of this name.
//= https://www.rfc-editor.org/rfc/rfc6265#section-5.4
pub fn cookie_values<'f>(fields: &Fields<'f>, name: impl AsRef<[u8]>) -> impl Iterator<Item = &'f [u8]> {
    let pairs = fields.values(FieldId::Cookie).flat_map(|value| pieces(value, b';'));
    pairs.filter_map(move |pair| cookie_value(pair, name.as_ref()))
}

/// Whether one of the values of the cookies of this name is as wanted: the same in one loop, for those who ask often.
#[inline]
pub(super) fn any_cookie(fields: &Fields<'_>, name: &[u8], mut is_wanted: impl FnMut(&[u8]) -> bool) -> bool {
    for mut rest in fields.values(FieldId::Cookie) {
        loop {
            let end = find_byte(rest, b';');
            let pair = end.map_or(rest, |end| &rest[..end]);
            if cookie_value(pair, name).is_some_and(&mut is_wanted) {
                return true;
            }
            let Some(end) = end else { break };
            rest = &rest[end + 1..];
        }
    }
    false
}

/// The value of a pair, if it has this name.
#[inline]
fn cookie_value<'f>(pair: &'f [u8], name: &[u8]) -> Option<&'f [u8]> {
    // Most pairs have another name: what follows it is looked at behind that only.
    let (found, rest) = pair.trim_ascii_start().split_at_checked(name.len())?;
    if !is_same(found, name) {
        return None;
    }
    let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    //= https://www.rfc-editor.org/rfc/rfc6265#section-4.1.1
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(bare.unwrap_or(value))
}

/// What is between the separators, word by word.
fn pieces(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = find_byte(text, separator);
        rest = end.map(|end| &text[end + 1..]);
        Some(end.map_or(text, |end| &text[..end]))
    })
}

/// Whether an encoded text means this one.
#[inline]
pub(super) fn is_decoded(encoded: &[u8], text: &[u8]) -> bool {
    match (encoded.first(), text.first()) {
        // Most parameters have another name, which differs in its first byte.
        (Some(first), Some(wanted)) if first != wanted && !matches!(first, b'%' | b'+') => false,
        // Nothing becomes longer by being decoded, and few texts are encoded.
        _ if encoded.len() < text.len() => false,
        _ if is_encoded(encoded) => decoded(encoded).eq(text.iter().copied()),
        _ => is_same(encoded, text),
    }
}

/// The bytes that an encoded text means.
pub fn decoded(encoded: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = encoded;
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        rest = after;
        match (first, after) {
            (b'+', _) => Some(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            },
            _ => Some(first),
        }
    })
}

/// Whether the text is not what it means.
pub(super) fn is_encoded(text: &[u8]) -> bool {
    find_byte(text, b'%').is_some() || find_byte(text, b'+').is_some()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::with_head;

    #[test]
    fn parameters_by_their_decoded_names() {
        let values = |query: &'static str, name: &str| {
            let values = query_values(query, name);
            values.map(|value| String::from_utf8(decoded(value).collect()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(values("a=1&b=2&a=3", "a"), ["1", "3"]);
        assert_eq!(values("debug", "debug"), [""]);
        assert_eq!(values("a=&aa=1&A=2&xa=3", "a"), [""]);
        assert_eq!(values("%61=%31+%2B&a%20b=c=d", "a"), ["1 +"]);
        assert_eq!(values("a+b=1&a%20b=c=d", "a b"), ["1", "c=d"]);
        assert_eq!(values("a=%&a=%4&a=%zz&a=100%", "a"), ["%", "%4", "%zz", "100%"]);
        assert_eq!(values("&&=1&", ""), ["1"]);
        assert_eq!(values("", "a"), [""; 0]);
        assert_eq!(values("a;b=1", "b"), [""; 0]);
    }

    #[test]
    fn cookies_by_their_names() {
        let head = "Cookie: a=1; b=\"2\";a = 3 ;aa=4; A=5\r\nX: a=6\r\ncookie: a=\r\ncookie: a; b=\"\r\n";
        with_head("/", head, |head| {
            let values = |name: &str| {
                let fields = head.field_list();
                let values = cookie_values(&fields, name);
                values.map(|value| str::from_utf8(value).unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(values("a"), ["1", "3", ""]);
            assert_eq!(values("b"), ["2", "\""]);
            assert_eq!(values("c"), [""; 0]);
            for name in ["a", "b", "c", "aa", "A", ""] {
                let mut in_one_loop = Vec::new();
                let collect = |value: &[u8]| {
                    in_one_loop.push(str::from_utf8(value).unwrap().to_owned());
                    false
                };
                assert!(!any_cookie(&head.field_list(), name.as_bytes(), collect));
                assert_eq!(in_one_loop, values(name), "{name}");
            }
            assert!(any_cookie(&head.field_list(), b"a", |value| value == b"3"));
        });
    }
}
