//! What a proxy has to know of gRPC over HTTP/2: which requests are calls, how long a call may take, and how a failure of our own
//! is said.
//!
//! The rules are those of gRPC's PROTOCOL-HTTP2.md. Messages inside of bodies are no concern of this module.

use alloc::vec::Vec;

use crate::fields::{FieldId, Fields};

/// The most digits of a timeout.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// How a call has ended, as `grpc-status` says it. Those that we have a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// None of the others fits.
    Unknown = 2,
    /// The time of the call is over.
    DeadlineExceeded = 4,
    /// The caller may not do that.
    PermissionDenied = 7,
    /// A limit was met.
    ResourceExhausted = 8,
    /// There is no such method.
    Unimplemented = 12,
    /// The request was malformed.
    Internal = 13,
    /// There is no server at the moment; the call may be repeated.
    Unavailable = 14,
    /// It is not known who the caller is.
    Unauthenticated = 16,
}

impl Status {
    /// The status for a failure that would be this status of HTTP. As in gRPC's http-grpc-status-mapping.md, except where our
    /// reason has a name in gRPC: a time is over (408, 504), a limit is met (413, 431).
    pub fn of_http(status: u16) -> Status {
        match status {
            400 => Status::Internal,
            401 => Status::Unauthenticated,
            403 => Status::PermissionDenied,
            404 => Status::Unimplemented,
            408 | 504 => Status::DeadlineExceeded,
            413 | 431 => Status::ResourceExhausted,
            429 | 502 | 503 => Status::Unavailable,
            _ => Status::Unknown,
        }
    }

    /// As `grpc-status` has it.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Whether a message with these fields belongs to a gRPC call: `application/grpc`, or with `+` and the format of its messages
/// behind it. gRPC-Web (`application/grpc-web`) is another protocol.
pub fn is_call(fields: &Fields<'_>) -> bool {
    fields.has(FieldId::ContentType) && fields.single(FieldId::ContentType).is_some_and(is_type)
}

fn is_type(value: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some((name, rest)) = value.split_at_checked(TYPE.len()) else { return false };
    name.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// How long the call may take from now on, in milliseconds: rounded up, and at least 1. `None` if it says nothing of that, or
/// nothing that can be read.
pub fn timeout_ms(fields: &Fields<'_>) -> Option<u64> {
    let mut timeouts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("grpc-timeout"));
    let timeout = timeouts.next()?;
    if timeouts.next().is_some() { None } else { parse_timeout(timeout.value) }
}

/// Reads `100m`: 1 to 8 digits and a unit.
pub fn parse_timeout(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_number || digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let ms = match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1_000,
        b'm' => number,
        b'u' => number.div_ceil(1_000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    };
    Some(ms.max(1))
}

/// Appends a text as `grpc-message` has it: bytes other than those of printable ASCII, and `%`, as `%` and two digits.
pub fn write_message(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::*;
    use crate::HeadLimits;
    use crate::h1::{HeadStore, Parsed, parse_request};

    /// What `ask` says of the fields of a request.
    fn of_request<R>(fields: &str, ask: impl FnOnce(&Fields<'_>) -> R) -> R {
        let text = format!("POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n");
        let mut store = HeadStore::default();
        match parse_request(text.as_bytes(), &mut store, &HeadLimits::default()) {
            Ok(Parsed::Complete { head, .. }) => ask(&head.field_list()),
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn calls_are_known_by_their_type() {
        for (value, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC+json", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcs", false),
            ("application/grp", false),
            ("text/plain", false),
        ] {
            assert_eq!(of_request(&format!("Content-Type: {value}\r\n"), is_call), wanted, "{value}");
        }
        assert!(!of_request("", is_call));
        let twice = "Content-Type: application/grpc\r\nContent-Type: application/grpc\r\n";
        assert!(!of_request(twice, is_call));
    }

    #[test]
    fn timeouts_have_up_to_eight_digits_and_a_unit() {
        for (value, wanted) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("250m", Some(250)),
            ("1001u", Some(2)),
            ("1u", Some(1)),
            ("1000001n", Some(2)),
            ("99999999n", Some(100)),
            ("0m", Some(1)),
            ("99999999H", Some(359_999_996_400_000)),
            ("123456789m", None),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            ("5 S", None),
            ("1.5S", None),
        ] {
            assert_eq!(parse_timeout(value.as_bytes()), wanted, "{value}");
        }
    }

    #[test]
    fn the_timeout_of_a_request_is_that_of_its_one_field() {
        assert_eq!(of_request("grpc-timeout: 5S\r\n", timeout_ms), Some(5_000));
        assert_eq!(of_request("Grpc-Timeout:  20m \r\n", timeout_ms), Some(20));
        assert_eq!(of_request("grpc-timeout: 5S\r\ngrpc-timeout: 6S\r\n", timeout_ms), None);
        assert_eq!(of_request("grpc-timeout: soon\r\n", timeout_ms), None);
        assert_eq!(of_request("", timeout_ms), None);
    }

    #[test]
    fn messages_are_printable_ascii() {
        for (text, wanted) in [
            ("no route for this host and path", "no route for this host and path"),
            ("%2F is 100%", "%252F is 100%25"),
            ("a\r\nb\u{7f}~ é", "a%0D%0Ab%7F~ %C3%A9"),
        ] {
            let mut out = Vec::new();
            write_message(&mut out, text);
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }

    #[test]
    fn every_status_of_ours_has_one_of_grpc() {
        for (http, grpc) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (405, 2),
            (408, 4),
            (413, 8),
            (414, 2),
            (417, 2),
            (421, 2),
            (429, 14),
            (431, 8),
            (500, 2),
            (501, 2),
            (502, 14),
            (503, 14),
            (504, 4),
            (505, 2),
        ] {
            assert_eq!(Status::of_http(http).number(), grpc, "{http}");
        }
    }
}
