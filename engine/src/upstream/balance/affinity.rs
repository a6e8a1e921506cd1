//! What of a request decides about its server: a hash of what it has in common with others, and the server that its cookie names.
//! Found once, when the request is decided about, and only where its group asks for it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use sluice_proto::{FieldId, RequestHead};

use super::BalanceRules;
use super::sticky::parse_id;
use crate::config::{BalancePolicy, HashBy};

/// Which server a request is for; nothing for most. Small, since every request keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    /// 0 for none.
    hash: u32,
    /// The tag of the id in its cookie, 0 for none.
    server: u32,
}

impl Affinity {
    pub(super) fn hash(self) -> Option<u64> {
        (self.hash != 0).then_some(u64::from(self.hash))
    }

    pub(super) fn server(self) -> Option<u32> {
        (self.server != 0).then_some(self.server)
    }

    /// What these rules ask of a request. `path` is the normal form, without a query; CONNECT has none.
    #[inline(never)]
    pub(crate) fn of(
        rules: &BalanceRules,
        head: &RequestHead<'_>,
        path: Option<&str>,
        client: SocketAddr,
    ) -> Affinity {
        let by = rules.hash_by.as_ref().filter(|_| rules.policy == BalancePolicy::Hash);
        let hash = by.and_then(|by| match by {
            HashBy::Client => Some(hash_of_address(client.ip())),
            HashBy::Path => path.map(|path| hash_of([path.as_bytes()])),
            HashBy::Header(name) => header(head, name).map(|value| hash_of([value])),
            HashBy::Cookie(name) => cookie(head, name).map(|value| hash_of([value])),
        });
        let named = rules.sticky.as_ref().and_then(|sticky| cookie(head, &sticky.cookie));
        Affinity { hash: hash.map_or(0, fold), server: named.and_then(parse_id).map_or(0, fold) }
    }

    #[cfg(test)]
    pub(crate) fn by_hash(hash: u64) -> Affinity {
        Affinity { hash: fold(hash), server: 0 }
    }

    #[cfg(test)]
    pub(crate) fn by_cookie(value: &str) -> Affinity {
        Affinity { hash: 0, server: parse_id(value.as_bytes()).map_or(0, fold) }
    }
}

/// The value of the first field of this name, if it is not empty.
fn header<'h>(head: &RequestHead<'h>, name: &str) -> Option<&'h [u8]> {
    let value = match FieldId::classify(name.as_bytes()) {
        FieldId::Other => {
            head.fields().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        }
        id => head.field_list().first(id),
    };
    value.filter(|value| !value.is_empty())
}

/// The value of the first cookie of this name, if it is not empty.
//= https://www.rfc-editor.org/rfc/rfc6265#section-4.2.1
fn cookie<'h>(head: &RequestHead<'h>, name: &str) -> Option<&'h [u8]> {
    let pairs = head.field_list().values(FieldId::Cookie).flat_map(|line| line.split(|&byte| byte == b';'));
    let value = |pair: &'h [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    pairs.into_iter().find_map(value).filter(|value| !value.is_empty())
}

/// An IPv6 network of 64 bits is one client, as for limits.
fn hash_of_address(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => hash_of([&v4.octets()[..]]),
        IpAddr::V6(v6) => hash_of([&v6.octets()[..8]]),
    }
}

/// FNV-1a of the parts in a row, finished so that every bit depends on all of them. The same in all versions of Sluice: proxies
/// side by side send equal requests to one server.
pub(super) fn hash_of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> u64 {
    let bytes = parts.into_iter().flatten();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// The finisher of SplitMix64: different numbers stay different and look nothing like each other.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// Both halves of a number in one. Never 0.
pub(super) fn fold(number: u64) -> u32 {
    // What is cut off is in the other half.
    ((number ^ number >> 32) as u32).max(1)
}

/// A random number to begin with. The standard library seeds its hashers from the system's.
pub(super) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_proto::HeadLimits;
    use sluice_proto::h1::{HeadStore, Parsed, parse_request};

    use super::*;
    use crate::config::Sticky;

    fn affinity(by: HashBy, request: &str, client: &str) -> Affinity {
        let rules = BalanceRules {
            policy: BalancePolicy::Hash,
            hash_by: Some(by),
            sticky: Some(Sticky { cookie: "srv".into(), attributes: String::new(), secret: String::new() }),
            slow_start: Duration::ZERO,
            hash_load: None,
        };
        let mut store = HeadStore::default();
        let request = format!("GET /a?b HTTP/1.1\r\nHost: a\r\n{request}\r\n");
        let parsed = parse_request(request.as_bytes(), &mut store, &HeadLimits::default());
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
        Affinity::of(&rules, &head, Some(head.path), format!("{client}:1").parse().unwrap())
    }

    #[test]
    fn a_hash_goes_by_what_is_configured() {
        let key = |value: &[u8]| Some(u64::from(fold(hash_of([value]))));
        let client = |client: &str| affinity(HashBy::Client, "X: 1\r\n", client).hash();
        assert_eq!(client("192.0.2.1"), client("[::ffff:192.0.2.1]"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("[2001:db8::1]"), client("[2001:db8::2:3]"));
        assert_ne!(client("[2001:db8::1]"), client("[2001:db8:0:1::1]"));
        let by = |by: HashBy, request: &str| affinity(by, request, "192.0.2.1").hash();
        let user = || HashBy::Header("x-user".into());
        assert_eq!(by(user(), "X-USER: 7\r\nX-User: 8\r\n"), key(&b"7"[..]));
        assert_eq!(by(user(), "X-User:\r\n"), None);
        assert_eq!(by(user(), ""), None);
        assert_eq!(by(HashBy::Header("Host".into()), ""), key(&b"a"[..]));
        let sid = || HashBy::Cookie("sid".into());
        assert_eq!(by(sid(), "Cookie: xsid=1; sid=2; sid=3\r\n"), key(&b"2"[..]));
        assert_eq!(by(sid(), "Cookie: a=1\r\nCookie:sid=4\r\n"), key(&b"4"[..]));
        assert_eq!(by(sid(), "Cookie: sid=\r\n"), None);
        assert_eq!(by(HashBy::Path, ""), key(&b"/a"[..]));
    }

    #[test]
    fn hashes_are_the_same_in_every_version() {
        // Proxies of different versions side by side would send equal requests to different servers.
        assert_eq!(hash_of([&b"10.0.0.1:80"[..], &b""[..]]), 0xdf1d_561f_bd00_135a);
    }

    #[test]
    fn a_cookie_names_a_server_only_in_its_own_form() {
        let named =
            |cookie: &str| affinity(HashBy::Path, &format!("Cookie: {cookie}\r\n"), "192.0.2.1").server();
        assert_eq!(named("srv=00000000000000ff"), Some(255));
        for other in ["srv=00000000000000FF", "srv=ff", "srv=+0000000000000ff", "srv=", "srvx=1"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
