//! Conditions of routes in the form in which they are evaluated: one run of bytes for the conditions of a route, so that evaluating
//! them reads a line of the cache or two, however many routes there are. Routes with the same conditions share it.
//!
//! Evaluating allocates nothing but the memory that the searches of [`Matchers`] keep.

use std::cell::RefCell;
use std::net::IpAddr;

use regex::bytes::Regex;
use sluice_proto::fields::Fields;
use sluice_sys::UNIX_PEER;

use super::hash::{KeyMap, find_byte, is_same};
use super::parts::{any_cookie, decoded, is_decoded, is_encoded, query_values};
use crate::config::{Condition, Expression, Networks, Subject, Test};

/// The parts of a request that a lookup goes by.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    /// The authority as the request gives it, port and trailing dot allowed; empty if there is none.
    pub host: &'r str,
    /// The path without its query (or `*`, or nothing), in its matching form ([`sluice_proto::path::PathForms`]).
    pub path: &'r str,
    /// The method.
    pub method: &'r str,
    /// Path and query as received.
    pub target: &'r str,
    /// The header fields.
    pub fields: Fields<'r>,
    /// The client's address.
    pub client: IpAddr,
}

impl<'r> Asked<'r> {
    fn query(&self) -> &'r str {
        find_byte(self.target.as_bytes(), b'?').map_or("", |mark| &self.target[mark + 1..])
    }
}

/// A shard's means to search by the expressions of a table: compiled forms that it shares with no other, and room for decoded texts.
#[derive(Debug, Default)]
pub struct Matchers {
    regexes: Box<[Regex]>,
    decoded: RefCell<Vec<u8>>,
}

impl Matchers {
    /// For the expressions of these numbers in the table.
    pub(super) fn new(regexes: &[Regex]) -> Matchers {
        Matchers { regexes: regexes.into(), decoded: RefCell::default() }
    }

    /// Whether the expression of this number finds something.
    pub(super) fn is_match(&self, number: u32, text: &[u8]) -> bool {
        self.regexes[number as usize].is_match(text)
    }

    /// The expression of this number, for the groups that it finds.
    pub(super) fn regex(&self, number: u32) -> Option<&Regex> {
        self.regexes.get(number as usize)
    }

    /// The same for an encoded text.
    fn is_match_decoded(&self, number: u32, encoded: &[u8]) -> bool {
        if !is_encoded(encoded) {
            return self.is_match(number, encoded);
        }
        let mut text = self.decoded.borrow_mut();
        text.clear();
        text.extend(decoded(encoded));
        self.is_match(number, &text)
    }
}

/// Where the conditions of a route are, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) count: u32,
}

/// The conditions of all routes.
///
/// A condition is eight bytes, what it looks at and which test (a byte each), the length of its name (2 bytes) and of its value (4),
/// and then these two. The value of an expression is its number; networks are ranges, of IPv4 in place of a name, of IPv6 in place of
/// a value.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    code: Vec<u8>,
}

const HEADER: u8 = 0;
const QUERY: u8 = 1;
const COOKIE: u8 = 2;
const CLIENT: u8 = 3;

const PRESENT: u8 = 0;
const EQUALS: u8 = 1;
const MATCHES: u8 = 2;
/// Beside the test: the condition holds where the rest does not.
const NOT: u8 = 0x80;
/// The same: peers on Unix sockets are among the clients.
const UNIX: u8 = 0x40;

/// Bytes before the name.
const LEAD_BYTES: usize = 8;

impl Conditions {
    /// Whether all of these hold.
    #[inline]
    pub(super) fn all_hold(&self, span: Span, asked: &Asked<'_>, matchers: &Matchers) -> bool {
        let mut rest = &self.code[span.start as usize..];
        (0..span.count).all(|_| {
            let (condition, after) = Encoded::read(rest);
            rest = after;
            condition.holds(asked, matchers)
        })
    }
}

/// One condition in its place.
struct Encoded<'c> {
    subject: u8,
    test: u8,
    name: &'c [u8],
    value: &'c [u8],
}

impl<'c> Encoded<'c> {
    /// The first condition, and what follows it.
    #[inline]
    fn read(code: &'c [u8]) -> (Encoded<'c>, &'c [u8]) {
        let (lead, rest) = code.split_first_chunk::<LEAD_BYTES>().expect("the builder has written it");
        let &[subject, test, n0, n1, v0, v1, v2, v3] = lead;
        let (name, rest) = rest.split_at(usize::from(u16::from_le_bytes([n0, n1])));
        let (value, rest) = rest.split_at(u32::from_le_bytes([v0, v1, v2, v3]) as usize);
        (Encoded { subject, test, name, value }, rest)
    }

    #[inline]
    fn holds(&self, asked: &Asked<'_>, matchers: &Matchers) -> bool {
        let is_so = match self.subject {
            HEADER => asked.fields.values_named(self.name).any(|value| self.fits(value, matchers)),
            COOKIE => any_cookie(&asked.fields, self.name, |value| self.fits(value, matchers)),
            QUERY => query_values(asked.query(), self.name).any(|value| self.fits_decoded(value, matchers)),
            _ => self.has_address(asked.client),
        };
        is_so != (self.test & NOT != 0)
    }

    #[inline]
    fn fits(&self, value: &[u8], matchers: &Matchers) -> bool {
        match self.test & !NOT {
            PRESENT => true,
            EQUALS => is_same(value, self.value),
            _ => matchers.is_match(self.number(), value),
        }
    }

    fn fits_decoded(&self, value: &[u8], matchers: &Matchers) -> bool {
        match self.test & !NOT {
            PRESENT => true,
            EQUALS => is_decoded(value, self.value),
            _ => matchers.is_match_decoded(self.number(), value),
        }
    }

    /// The number of its expression.
    fn number(&self) -> u32 {
        self.value.first_chunk().map_or(super::NONE, |bytes| u32::from_le_bytes(*bytes))
    }

    fn has_address(&self, client: IpAddr) -> bool {
        match client.to_canonical() {
            // They have no address, so no network of addresses means them.
            ip if ip == UNIX_PEER.ip() => self.test & UNIX != 0,
            IpAddr::V4(address) => {
                let address = address.to_bits();
                let of = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
                self.name.as_chunks::<8>().0.iter().any(|range| {
                    let (first, last) = range.as_chunks::<4>().0.split_at(1);
                    (of(&first[0])..=of(&last[0])).contains(&address)
                })
            }
            IpAddr::V6(address) => {
                let address = address.to_bits();
                let of = |bytes: &[u8; 16]| u128::from_le_bytes(*bytes);
                self.value.as_chunks::<32>().0.iter().any(|range| {
                    let (first, last) = range.as_chunks::<16>().0.split_at(1);
                    (of(&first[0])..=of(&last[0])).contains(&address)
                })
            }
        }
    }
}

/// The conditions and the expressions of a table being filled.
#[derive(Default)]
pub(super) struct Builder {
    code: Vec<u8>,
    known: KeyMap<Vec<u8>, u32>,
    regexes: Vec<Regex>,
    numbers: KeyMap<String, u32>,
}

impl Builder {
    /// Adds the conditions of a route.
    pub(super) fn add(&mut self, conditions: &[Condition]) -> Span {
        let mut code = Vec::new();
        // All must hold, so their order is free: those first that cost least.
        let mut ordered: Vec<_> = conditions.iter().collect();
        ordered.sort_by_key(|condition| cost(condition));
        ordered.into_iter().for_each(|condition| self.encode(condition, &mut code));
        let count = conditions.len() as u32;
        if let Some(&start) = self.known.get(&code) {
            return Span { start, count };
        }
        let start = self.code.len() as u32;
        self.code.extend_from_slice(&code);
        self.known.insert(code, start);
        Span { start, count }
    }

    /// The number of an expression.
    pub(super) fn regex(&mut self, expression: &Expression) -> u32 {
        if let Some(&number) = self.numbers.get(expression.text()) {
            return number;
        }
        let number = self.regexes.len() as u32;
        self.regexes.push(expression.regex().clone());
        self.numbers.insert(expression.text().to_owned(), number);
        number
    }

    fn encode(&mut self, condition: &Condition, code: &mut Vec<u8>) {
        let number;
        let (test, value) = match &condition.test {
            Test::Present => (PRESENT, &[][..]),
            Test::Equals(value) => (EQUALS, value.as_bytes()),
            Test::Matches(expression) => {
                number = self.regex(expression).to_le_bytes();
                (MATCHES, &number[..])
            }
        };
        let test = if condition.is_not { test | NOT } else { test };
        match &condition.subject {
            Subject::Header(name) => write(code, (HEADER, test), name.as_bytes(), value),
            Subject::Query(name) => write(code, (QUERY, test), name.as_bytes(), value),
            Subject::Cookie(name) => write(code, (COOKIE, test), name.as_bytes(), value),
            Subject::Client(networks, _) => {
                let (v4, v6) = ranges(networks);
                let test = if networks.has_unix() { test | UNIX } else { test };
                write(code, (CLIENT, test), &v4, &v6);
            }
        }
    }

    pub(super) fn finish(self) -> (Conditions, Vec<Regex>) {
        (Conditions { code: self.code }, self.regexes)
    }
}

/// What a condition costs beside others: an address is compared, fields are searched by name, a query and cookies are split, and an
/// expression costs more than all these.
fn cost(condition: &Condition) -> (bool, u8) {
    let subject = match condition.subject {
        Subject::Client(..) => 0,
        Subject::Header(_) => 1,
        Subject::Query(_) => 2,
        Subject::Cookie(_) => 3,
    };
    (matches!(condition.test, Test::Matches(_)), subject)
}

fn write(code: &mut Vec<u8>, (subject, test): (u8, u8), name: &[u8], value: &[u8]) {
    // A condition is 8 KiB long at most, and a network of IPv4 takes at least as much as text.
    let name_len = u16::try_from(name.len()).expect("names are short");
    let value_len = u32::try_from(value.len()).expect("values are short");
    code.extend_from_slice(&[subject, test]);
    code.extend_from_slice(&name_len.to_le_bytes());
    code.extend_from_slice(&value_len.to_le_bytes());
    code.extend_from_slice(name);
    code.extend_from_slice(value);
}

fn ranges(networks: &Networks) -> (Vec<u8>, Vec<u8>) {
    let (v4, v6) = networks.ranges();
    (
        v4.iter().flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()].concat()).collect(),
        v6.iter().flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()].concat()).collect(),
    )
}

/// Evaluates single conditions, for explanations.
#[cfg(any(feature = "cli", test))]
pub(crate) fn failing<'c>(conditions: &'c [Condition], asked: &Asked<'_>) -> Vec<&'c Condition> {
    let fails = |condition: &&Condition| {
        let mut builder = Builder::default();
        let span = builder.add(std::slice::from_ref(condition));
        let (conditions, regexes) = builder.finish();
        !conditions.all_hold(span, asked, &Matchers::new(&regexes))
    };
    conditions.iter().filter(fails).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::with_head;

    fn holds(text: &str, client: &str, target: &str, head: &str) -> bool {
        let condition = Condition::parse(text).unwrap();
        with_head(target, head, |head| {
            let asked = Asked {
                host: "a",
                path: "/",
                method: "GET",
                target: head.path_and_query,
                fields: head.field_list(),
                client: client.parse().unwrap(),
            };
            failing(std::slice::from_ref(&condition), &asked).is_empty()
        })
    }

    #[test]
    fn each_condition_and_its_opposite() {
        let head = "X-Version: 2\r\nX-Version: 3\r\nX-Empty:\r\nX-Bytes: \u{e9}t\u{e9}\r\nCookie: user=ann; beta=\"1\"\r\n";
        for (text, is_so) in [
            ("header x-version", true),
            ("header X-VERSION = 2", true),
            ("header x-version = 3", true),
            ("header x-version = 23", false),
            ("header x-version = 2, 3", false),
            ("header x-version ~ ^[34]$", true),
            ("header x-version ~ ^[45]$", false),
            ("header x-versio", false),
            ("header x-empty", true),
            ("header x-empty =", true),
            ("header x-absent =", false),
            ("header x-bytes ~ ^.t.*$", false),
            ("header x-bytes = \u{e9}t\u{e9}", true),
            ("cookie user = ann", true),
            ("cookie user = Ann", false),
            ("cookie User", false),
            ("cookie beta = 1", true),
            ("cookie user ~ nn$", true),
            ("query q = a b", true),
            ("query q ~ ^a b$", true),
            ("query q = a+b", false),
            ("query plain ~ ^x$", true),
            ("query debug", true),
            ("query debug =", true),
            ("query deb", false),
            ("client 10.0.0.0/8", true),
            ("client 11.0.0.0/8 10.1.0.0/16", true),
            ("client 10.2.0.0/16 ::/0", false),
            ("client unix:", false),
        ] {
            assert_eq!(holds(text, "10.1.2.3", "/?q=a%20b&debug&plain=x", head), is_so, "{text}");
            assert_eq!(
                holds(&format!("not {text}"), "10.1.2.3", "/?q=a%20b&debug&plain=x", head),
                !is_so,
                "not {text}"
            );
        }
        for (client, is_so) in
            [("2001:db8::7", true), ("2001:db9::", false), ("::ffff:10.0.0.1", true), ("10.0.0.2", false)]
        {
            assert_eq!(holds("client 2001:db8::/32 10.0.0.1", client, "/", ""), is_so, "{client}");
        }
        let unix = UNIX_PEER.ip().to_string();
        assert!(
            holds("client 10.0.0.0/8 unix:", &unix, "/", "")
                && !holds("client 0.0.0.0/0 ::/0", &unix, "/", "")
        );
    }

    #[test]
    fn the_same_conditions_are_kept_once() {
        let of = |text: &str| vec![Condition::parse(text).unwrap()];
        let mut builder = Builder::default();
        let first = builder.add(&of("header a ~ x"));
        let other = builder.add(&of("header a = x"));
        assert_eq!(builder.add(&of("header a ~ x")), first);
        assert_ne!(first, other);
        builder.add(&of("cookie a ~ x"));
        assert_eq!(builder.finish().1.len(), 1, "one expression");
    }
}
