//! The Host field: RFC 9112 section 3.2, RFC 9110 section 7.2.

use crate::strict::{RequestCase, last, passes, refused};

fn host(value: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")
}

fn bad(name: &'static str, section: &'static str, value: &str) -> RequestCase {
    refused(400, name, section, host(value))
}

fn good(name: &'static str, section: &'static str, value: &str) -> RequestCase {
    passes(name, section, host(value), [&host(value)])
}

#[rustfmt::skip]
pub(super) fn cases() -> Vec<RequestCase> {
    vec![
        refused(400, "no Host", "3.2", "GET / HTTP/1.1\r\n\r\n"),
        refused(400, "no Host but other fields", "3.2", "GET / HTTP/1.1\r\nX: 1\r\n\r\n"),
        refused(400, "no Host but absolute-form", "3.2", "GET http://a/ HTTP/1.1\r\n\r\n"),
        refused(400, "the same Host twice", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        refused(400, "two Hosts", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        refused(400, "two Hosts in different case", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n"),
        refused(400, "two Hosts, the second empty", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n"),
        refused(400, "two Hosts in HTTP/1.0", "3.2", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        refused(400, "two Hosts with absolute-form", "3.2", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        refused(400, "a Host with a space before its colon", "5.1", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        refused(400, "a second Host with a space before its colon", "5.1", "GET / HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n"),
        refused(400, "a second Host that is folded", "5.2", "GET / HTTP/1.1\r\nHost: a\r\n Host: b\r\n\r\n"),
        bad("an empty Host", "3.2", ""),
        bad("a Host of spaces", "3.2", " \t "),
        bad("an empty Host with a port", "9110 7.2", ":80"),
        bad("a Host with a space", "9110 7.2", "a b"),
        bad("a Host with a tab", "9110 7.2", "a\tb"),
        bad("a Host with a path", "9110 7.2", "a/b"),
        bad("a Host with a query", "9110 7.2", "a?b"),
        bad("a Host with a fragment", "9110 7.2", "a#b"),
        bad("a Host with a user", "9110 7.2", "u@a"),
        bad("a Host with a user and a port", "9110 7.2", "a:80@b"),
        bad("a Host with a scheme", "9110 7.2", "http://a"),
        bad("a Host with a backslash", "9110 7.2", "a\\b"),
        bad("a Host in quotes", "9110 7.2", "\"a\""),
        bad("a Host with angle brackets", "9110 7.2", "<a>"),
        bad("a Host with braces", "9110 7.2", "${a}"),
        bad("a Host with a port of letters", "9110 7.2", "a:b"),
        bad("a Host with a negative port", "9110 7.2", "a:-1"),
        bad("a Host with a signed port", "9110 7.2", "a:+80"),
        bad("a Host with a port out of range", "9110 7.2", "a:65536"),
        bad("a Host with a port of six digits", "9110 7.2", "a:000080"),
        bad("a Host with two ports", "9110 7.2", "a:80:80"),
        bad("a Host with a space before the port", "9110 7.2", "a :80"),
        bad("a Host with a space in the port", "9110 7.2", "a:8 0"),
        bad("two Hosts in one, with a space", "9110 7.2", "a, b"),
        bad("two Hosts in one", "house 9110 7.2", "a,b"),
        bad("a Host with a semicolon", "house 9110 7.2", "a;b"),
        bad("a Host with a percent-encoding", "house 3986 3.2.2", "a%2eb"),
        bad("a Host with a malformed percent-encoding", "3986 2.1", "a%2"),
        bad("a Host with an encoded NUL", "house 3986 3.2.2", "a%00"),
        bad("a Host with an apostrophe", "house 9110 7.2", "a'b"),
        bad("an IPv6 address without brackets", "3986 3.2.2", "::1"),
        bad("an IPv6 address with one bracket", "3986 3.2.2", "[::1"),
        bad("an IPv6 address and more", "3986 3.2.2", "[::1]a"),
        bad("an IPv6 address with a zone", "3986 3.2.2", "[fe80::1%25eth0]"),
        bad("a malformed IPv6 address", "3986 3.2.2", "[1::2::3]"),
        bad("an address of the future", "3986 3.2.2", "[v1.a]"),
        bad("empty brackets", "3986 3.2.2", "[]"),
        bad("a Host in UTF-8", "3986 3.2.2", "caf\u{e9}"),
        refused(400, "a Host with NUL", "9110 7.2", "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n"),
        refused(400, "a bad Host in HTTP/1.0", "3.2", "GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
        refused(400, "an empty Host with absolute-form", "3.2", "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n"),
        good("a Host in capitals", "9110 7.2", "A.Example"),
        good("a Host with a port", "9110 7.2", "a:8080"),
        good("a Host with a colon and no port", "3986 3.2.3", "a:"),
        good("a Host with a dot at its end", "3986 3.2.2", "a.example."),
        good("a Host with an underscore", "3986 3.2.2", "my_service"),
        good("an IPv4 address", "3986 3.2.2", "192.0.2.1:80"),
        good("an IPv6 address", "3986 3.2.2", "[2001:db8::1]:80"),
        passes("a Host with white space around it", "5.1", "GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n", ["GET / HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("a Host that comes last", "3.2", "GET / HTTP/1.1\r\nX: 1\r\nhost:a\r\n\r\n", ["GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"]),
        last("no Host in HTTP/1.0 but absolute-form", "3.2.2", "GET http://a/ HTTP/1.0\r\n\r\n", ["GET / HTTP/1.1\r\nHost: a\r\n\r\n"]),
    ]
}
