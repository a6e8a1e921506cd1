//! What a proxy has to know of gRPC over HTTP/2: which requests are calls, how long a call may take, and how a failure of our own
//! is said.
//!
//! The rules are those of gRPC's PROTOCOL-HTTP2.md. Of messages this module knows where they end, and nothing else.

use alloc::vec::Vec;

use crate::fields::{FieldId, FieldSpan, Fields};
use crate::grpc_web::Web;
use crate::message::{Method, RequestHead};
use crate::trailers::Trailers;

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

/// How a request calls a method of a gRPC service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It does not.
    None,
    /// By gRPC itself.
    Grpc,
    /// By gRPC-Web.
    Web(Web),
}

impl Call {
    /// Judges a request by its type.
    pub fn of(head: &RequestHead<'_>) -> Call {
        if !head.fields.has(FieldId::ContentType) {
            return Call::None;
        }
        if is_call(&head.fields) {
            return Call::Grpc;
        }
        let web = if head.method == Method::Post { Web::of(&head.fields) } else { None };
        web.map_or(Call::None, Call::Web)
    }

    /// What it is where gRPC-Web is not known.
    #[must_use]
    pub fn without_web(self) -> Call {
        if matches!(self, Call::Web(_)) { Call::None } else { self }
    }

    /// How it came as gRPC-Web.
    pub fn web(self) -> Option<Web> {
        match self {
            Call::Web(web) => Some(web),
            Call::None | Call::Grpc => None,
        }
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

/// The trailers of a call that ends with this status.
pub fn trailers(status: Status, message: &str) -> Trailers {
    let mut bytes = Vec::new();
    let mut spans = Vec::new();
    let mut put = |name: &[u8], write: &dyn Fn(&mut Vec<u8>)| {
        let start = bytes.len();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b": ");
        let value_start = bytes.len();
        write(&mut bytes);
        let value = value_start..bytes.len();
        bytes.extend_from_slice(b"\r\n");
        spans.push(FieldSpan::new(name, FieldId::Other, start, value, true));
    };
    put(b"grpc-status", &|out| out.extend_from_slice(itoa::Buffer::new().format(status.number()).as_bytes()));
    put(b"grpc-message", &|out| write_message(out, message));
    Trailers::new(bytes, spans).unwrap_or_else(|| unreachable!("both may stand behind a body"))
}

/// Where the bytes of a body are in its messages: each has a byte of flags and four of its length before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Bytes of the prefix that have come, while they are not all there.
    prefix: u8,
    /// The length that they say so far; behind the prefix, the bytes of the message that are still to come.
    length: [u8; 4],
}

impl Messages {
    const PREFIX: u8 = 5;

    /// Takes in the next bytes of the body.
    pub fn read(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            let length = u32::from_be_bytes(self.length);
            if self.prefix == Self::PREFIX {
                let skipped = data.len().min(length as usize);
                self.length = (length - skipped as u32).to_be_bytes();
                data = &data[skipped..];
            } else {
                // The flags are pushed out by the four bytes behind them.
                self.length = (length << 8 | u32::from(byte)).to_be_bytes();
                self.prefix += 1;
                data = rest;
            }
            if self.prefix == Self::PREFIX && self.length == [0; 4] {
                self.prefix = 0;
            }
        }
    }

    /// Whether all that came are whole messages.
    pub fn is_between(&self) -> bool {
        self.prefix == 0
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
    fn a_body_is_between_messages_where_one_has_ended() {
        // Two messages of 3 bytes and 0 bytes, and one of 300.
        let mut body = b"\0\0\0\0\x03abc\x01\0\0\0\0\0\0\0\x01\x2c".to_vec();
        body.extend([0x80; 300]);
        let ends = [0, 8, 13, 318];
        for step in 1..=body.len() {
            let mut messages = Messages::default();
            let mut at = 0;
            assert!(messages.is_between());
            for piece in body.chunks(step) {
                messages.read(piece);
                at += piece.len();
                assert_eq!(messages.is_between(), ends.contains(&at), "{at} by {step}");
            }
        }
        let mut huge = Messages::default();
        huge.read(&[0, 255, 255, 255, 255, 1, 2]);
        assert!(!huge.is_between());
    }

    #[test]
    fn trailers_have_a_status_and_a_message() {
        let trailers = trailers(Status::DeadlineExceeded, "late: 100%");
        let fields: Vec<_> = trailers.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(fields, [("grpc-status", &b"4"[..]), ("grpc-message", b"late: 100%25")]);
        let mut chunked = Vec::new();
        crate::h1::write_last_chunk(&mut chunked, Some(&trailers));
        assert_eq!(chunked, b"0\r\ngrpc-status: 4\r\ngrpc-message: late: 100%25\r\n\r\n");
    }

    #[test]
    fn a_call_is_known_by_type_and_method() {
        let call = |method: &str, fields: &str| {
            let text = format!("{method} /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n");
            let mut store = HeadStore::default();
            match parse_request(text.as_bytes(), &mut store, &HeadLimits::default()) {
                Ok(Parsed::Complete { head, .. }) => Call::of(&head),
                _ => panic!("{text}"),
            }
        };
        assert_eq!(call("POST", ""), Call::None);
        assert_eq!(call("POST", "Content-Type: text/plain\r\n"), Call::None);
        assert_eq!(call("POST", "Content-Type: application/grpc\r\n"), Call::Grpc);
        let web = "Content-Type: application/grpc-web-text\r\n";
        assert!(matches!(call("POST", web), Call::Web(_)));
        assert_eq!(call("POST", web).without_web(), Call::None);
        assert_eq!(call("PUT", web), Call::None);
        assert_eq!(call("POST", &format!("{web}{web}")), Call::None);
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
