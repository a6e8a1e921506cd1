//! Host and port: the value of Host, the authority of a target, later `:authority` of HTTP/2.
//!
//! Owns the check that such a text is what it claims to be, and the comparison of two of them. Never resolves a name.

use core::net::Ipv6Addr;

use crate::ascii::{self, HOST_NAME};

/// A valid `host [":" port]`, taken apart.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.2
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host, never empty: a name, an IPv4 address, or an IPv6 address in its brackets. Case kept.
    pub host: &'a str,
    /// The port, when one was written. `host:` with nothing after the colon is allowed by the grammar and means none.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Takes `text` apart, or `None` when it is not a valid authority. Userinfo (`user@`) is refused.
    ///
    /// So are hosts with percent-encodings or sub-delims (`a%2eb`, `a,b`, `a;b`). The URI grammar has them, no name system does,
    /// and what they stand for depends on who decodes them: a list of hosts to one, a single name to another.
    //= https://www.rfc-editor.org/rfc/rfc3986#section-3.2
    //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2.4
    pub fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let host_len =
            if bytes.first() == Some(&b'[') { ip_literal_len(text)? } else { host_name_len(bytes)? };
        let (host, rest) = text.split_at_checked(host_len)?;
        let port = match rest.as_bytes() {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(parse_port(digits)?),
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// True when both name the same place for a scheme with this default port.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2.3
    pub fn is_same_as(&self, other: &Self, port_default: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(port_default) == other.port.unwrap_or(port_default)
    }
}

/// The length of the `[IPv6]` at the start of `text`. IPvFuture is refused: there is no such version.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.2.2
fn ip_literal_len(text: &str) -> Option<usize> {
    let (address, _) = text.strip_prefix('[')?.split_once(']')?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(address.len() + "[]".len())
}

/// The length of the non-empty name or IPv4 address at the start of `text`, up to a colon or the end.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.2.2
fn host_name_len(text: &[u8]) -> Option<usize> {
    let len = text.iter().position(|&b| !HOST_NAME.contains(b)).unwrap_or(text.len());
    (len > 0).then_some(len)
}

/// A port of 1 to 5 digits that fits in 16 bits.
fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 {
        return None;
    }
    u16::try_from(ascii::parse_decimal(digits)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_authorities_are_taken_apart() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("Example.COM:8080", "Example.COM", Some(8080)),
            ("127.0.0.1:0", "127.0.0.1", Some(0)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
            ("example.com:", "example.com", None),
            ("my_service.internal", "my_service.internal", None),
        ] {
            assert_eq!(Authority::parse(text), Some(Authority { host, port }), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@host",
            "host:8o",
            "host:-1",
            "host:65536",
            "host:000080",
            "host:80:80",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.a]",
            "[]",
            "a%zz",
            "a%2",
            "a%2eb",
            "a,b",
            "a;b",
            "a'b",
            "a=b",
            "a+b",
            "a\\b",
            "a?b",
            "a#b",
            "h\u{e9}",
            "a\"b",
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }

    #[test]
    fn comparison_knows_default_ports_and_case() {
        let parse = |text: &'static str| Authority::parse(text).unwrap();
        assert!(parse("a.example").is_same_as(&parse("A.Example:80"), 80));
        assert!(!parse("a.example").is_same_as(&parse("a.example:80"), 443));
        assert!(!parse("a.example").is_same_as(&parse("b.example"), 80));
    }
}
