//! The way a request took, as earlier proxies recorded it: X-Forwarded-For, Forwarded, and which of it is trusted.
//!
//! Owns the reading of both lists from their end, where the nearest proxy wrote, and the walk to the client's address. Knows
//! no configuration: the caller says which addresses are those of trusted proxies.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;

use crate::ascii::{TOKEN, trim_ows};
use crate::fields::{FieldId, Fields};

/// A list of the addresses that a request came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HopList {
    /// Addresses with commas in between, with or without a port. No standard has it, all proxies write it.
    #[default]
    XForwardedFor,
    /// `for=`, `by=`, `host=`, `proto=`.
    //= https://www.rfc-editor.org/rfc/rfc7239#section-4
    Forwarded,
}

impl HopList {
    /// The field that carries the list.
    pub fn field(self) -> FieldId {
        match self {
            Self::XForwardedFor => FieldId::XForwardedFor,
            Self::Forwarded => FieldId::Forwarded,
        }
    }
}

/// What an element of Forwarded says about one hop, each part only where it is well-formed.
//= https://www.rfc-editor.org/rfc/rfc7239#section-5
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Element<'a> {
    /// `for=`, where it is an address.
    pub address: Option<IpAddr>,
    /// `host=`, without its quotes.
    pub host: Option<&'a [u8]>,
    /// `proto=`, without its quotes.
    pub proto: Option<&'a [u8]>,
}

/// The element of Forwarded that is about `client`, as [`client_address`] has found it in that list.
pub fn element_of<'a>(fields: &Fields<'a>, client: IpAddr) -> Option<Element<'a>> {
    let mut elements = fields.values(FieldId::Forwarded).rev().flat_map(elements);
    loop {
        // No trusted proxy has vouched for anything beyond an entry without an address.
        let element = elements.next()??;
        if element.address?.to_canonical() == client {
            return Some(element);
        }
    }
}

/// The elements in a value of Forwarded, the last one first; `None` for one that is malformed.
fn elements(value: &[u8]) -> impl Iterator<Item = Option<Element<'_>>> {
    entries(value, HopList::Forwarded).map(parse_element)
}

/// The address of the client of a request that came from `peer`: past trusted proxies, from the end of the list, to the first
/// address that is not one of theirs. An entry that is no address ends the walk before it, because no trusted proxy has
/// vouched for what is left of it.
pub fn client_address(
    fields: &Fields<'_>,
    list: HopList,
    peer: IpAddr,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    let mut hops = fields.values(list.field()).rev().flat_map(|value| hops(value, list));
    while is_trusted(client)
        && let Some(Some(hop)) = hops.next()
    {
        client = hop;
    }
    client
}

/// The addresses in the value of a list field, the last one first; `None` for an entry that is no address. IPv4 addresses that
/// are mapped into IPv6 are given as what they are.
pub fn hops(value: &[u8], list: HopList) -> impl Iterator<Item = Option<IpAddr>> {
    entries(value, list).map(move |entry| {
        let address = match list {
            HopList::XForwardedFor => parse_node(trim_ows(entry), Brackets::Optional),
            HopList::Forwarded => parse_element(entry).and_then(|element| element.address),
        };
        address.map(|address| address.to_canonical())
    })
}

/// The entries of a list, the last one first.
fn entries(value: &[u8], list: HopList) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    core::iter::from_fn(move || {
        let (before, entry) = split_last_entry(rest?, list);
        rest = before;
        Some(entry)
    })
}

/// The last entry, and what is in front of its comma. A comma between quotes is part of the entry; looked at from the end,
/// quotes left open further to the left change nothing about the entries behind them.
fn split_last_entry(value: &[u8], list: HopList) -> (Option<&[u8]>, &[u8]) {
    let mut is_quoted = false;
    let comma = value.iter().rposition(|&byte| {
        is_quoted ^= byte == b'"' && list == HopList::Forwarded;
        byte == b',' && !is_quoted
    });
    match comma {
        Some(at) => (Some(&value[..at]), &value[at + 1..]),
        None => (None, value),
    }
}

/// Reads an element. Nothing at all when some part of it is not as it should be.
//= https://www.rfc-editor.org/rfc/rfc7239#section-4
fn parse_element(element: &[u8]) -> Option<Element<'_>> {
    let mut read = Element::default();
    for pair in element.split(|&byte| byte == b';').map(trim_ows).filter(|pair| !pair.is_empty()) {
        let equals = memchr::memchr(b'=', pair)?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        let value = unquote(value)?;
        if !is_token(name) {
            return None;
        }
        //= https://www.rfc-editor.org/rfc/rfc7239#section-4
        // "Each parameter MUST NOT occur more than once per field-value" element. `unknown` and `_hidden` are no addresses.
        let is_repeated = match () {
            () if name.eq_ignore_ascii_case(b"for") => {
                read.address.replace(parse_node(value, Brackets::Needed)?).is_some()
            }
            () if name.eq_ignore_ascii_case(b"host") => read.host.replace(value).is_some(),
            () if name.eq_ignore_ascii_case(b"proto") => read.proto.replace(value).is_some(),
            () => false,
        };
        if is_repeated {
            return None;
        }
    }
    Some(read)
}

/// A token, or what is between quotes. A value that needs a backslash is none that names a node.
fn unquote(value: &[u8]) -> Option<&[u8]> {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    match inner {
        Some(inner) => (!inner.iter().any(|byte| matches!(byte, b'"' | b'\\'))).then_some(inner),
        None => is_token(value).then_some(value),
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN.contains(byte))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Brackets {
    /// Around every IPv6 address.
    Needed,
    /// Around IPv6 addresses with a port.
    Optional,
}

/// An address with or without a port.
//= https://www.rfc-editor.org/rfc/rfc7239#section-6
fn parse_node(node: &[u8], brackets: Brackets) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    if let Some(rest) = node.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().ok().filter(|_| is_whole).map(IpAddr::V6);
    }
    match node.split_once(':') {
        None => node.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some((address, port)) if is_port(port) && address.contains('.') => {
            address.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        Some(_) if brackets == Brackets::Optional => node.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some(_) => None,
    }
}

/// Up to five digits, or an obfuscated one.
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nodes_are_read_strictly() {
        for (node, address) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:80", Some("192.0.2.7")),
            ("192.0.2.7:_port", Some("192.0.2.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("::1", Some("::1")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:65535", Some("2001:db8::7")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("example.com", None),
            ("192.0.2", None),
            ("192.0.2.07", None),
            ("192.0.2.7:", None),
            ("192.0.2.7:123456", None),
            ("192.0.2.7:8o", None),
            ("192.0.2.7 ", None),
            ("[192.0.2.7]", None),
            ("[2001:db8::7", None),
            ("[2001:db8::7]x", None),
            ("[2001:db8::7]:", None),
            ("[fe80::1%eth0]", None),
            ("2001:db8::7%1", None),
            ("\u{661}.0.0.1", None),
        ] {
            assert_eq!(parse_node(node.as_bytes(), Brackets::Optional), address.map(ip), "{node}");
        }
        assert_eq!(parse_node(b"2001:db8::7", Brackets::Needed), None);
    }

    fn all(value: &str, list: HopList) -> Vec<Option<IpAddr>> {
        hops(value.as_bytes(), list).collect()
    }

    #[test]
    fn x_forwarded_for_is_read_from_its_end() {
        let list = HopList::XForwardedFor;
        assert_eq!(all("192.0.2.1", list), [Some(ip("192.0.2.1"))]);
        assert_eq!(
            all("192.0.2.1,\t::1 , ::ffff:192.0.2.3", list),
            [Some(ip("192.0.2.3")), Some(ip("::1")), Some(ip("192.0.2.1"))]
        );
        assert_eq!(all("a, ,192.0.2.1", list), [Some(ip("192.0.2.1")), None, None]);
        assert_eq!(all("", list), [None]);
        // Quotes mean nothing here.
        assert_eq!(all("\",192.0.2.1", list), [Some(ip("192.0.2.1")), None]);
    }

    #[test]
    fn forwarded_is_read_from_its_end() {
        let list = HopList::Forwarded;
        let one = [Some(ip("192.0.2.1"))];
        for value in [
            "for=192.0.2.1",
            "For=\"192.0.2.1\"",
            "FOR=\"192.0.2.1:80\";proto=http;by=\"[::1]:1\"",
            "proto=https; for=192.0.2.1 ;host=\"a,b;c=d\"".split_once("host").unwrap().0,
            ";for=192.0.2.1;;",
        ] {
            assert_eq!(all(value, list), one, "{value}");
        }
        for value in [
            "",
            "for",
            "for=",
            "for=\"\"",
            "for=unknown",
            "for=_hidden",
            "for=192.0.2.1:80",
            "for=2001:db8::1",
            "for=[2001:db8::1]",
            "for=\"2001:db8::1\"",
            "for=192.0.2.1;for=192.0.2.1",
            "for=192.0.2.1;x",
            "for=192.0.2.1;=x",
            "for=192.0.2.1;x=",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=\"192.0.2.1",
            "for=\"192.0.2\\.1\"",
            "proto=http",
            "192.0.2.1",
        ] {
            assert_eq!(all(value, list), [None], "{value}");
        }
        assert_eq!(
            all("for=192.0.2.1, for=\"[2001:db8::7]:80\";host=\"a,b\"", list),
            [Some(ip("2001:db8::7")), Some(ip("192.0.2.1"))]
        );
        // A client cannot swallow what a proxy appended by leaving its quotes open.
        assert_eq!(all("for=\"x, for=192.0.2.1", list), [Some(ip("192.0.2.1")), None]);
    }

    #[test]
    fn any_bytes_on_the_left_leave_the_right_alone() {
        for list in [HopList::XForwardedFor, HopList::Forwarded] {
            let right: &[u8] = if list == HopList::Forwarded { b",for=192.0.2.1" } else { b",192.0.2.1" };
            for byte in 0..=u8::MAX {
                let value = [b"x", &[byte][..], right].concat();
                assert_eq!(hops(&value, list).next(), Some(Some(ip("192.0.2.1"))), "{byte}");
            }
        }
    }
}
