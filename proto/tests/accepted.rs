//! Heads that must pass, and what is understood of them: the other half of `refused.rs`.

use sluice_proto::h1::{HeadStore, Parsed, Scheme, parse_request, parse_response};
use sluice_proto::{
    BodyLength, Fault, FieldId, HeadLimits, Method, RequestHead, RequestKind, ResponseHead, TargetText,
    TrailerRule, Version,
};

/// Parses a complete request, checks that nothing more than it was consumed, and hands it to `look`.
fn with_request(bytes: &[u8], look: impl FnOnce(&RequestHead<'_>)) {
    let mut store = HeadStore::default();
    let followed = [bytes, b"NEXT"].concat();
    match parse_request(&followed, &mut store, &HeadLimits::default()) {
        Ok(Parsed::Complete { head, bytes: used }) => {
            assert_eq!(used, bytes.len(), "{}", bytes.escape_ascii());
            look(&head);
        }
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
    for len in 0..bytes.len() {
        let prefix = parse_request(&bytes[..len], &mut store, &HeadLimits::default());
        assert!(matches!(prefix, Ok(Parsed::Partial)), "{len} of {}: {prefix:?}", bytes.escape_ascii());
    }
}

fn with_response(bytes: &[u8], kind: RequestKind, look: impl FnOnce(&ResponseHead<'_>)) {
    let mut store = HeadStore::default();
    match parse_response(bytes, &mut store, &HeadLimits::default(), &kind) {
        Ok(Parsed::Complete { head, bytes: used }) => {
            assert_eq!(used, bytes.len());
            look(&head);
        }
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
    for len in 0..bytes.len() {
        let prefix = parse_response(&bytes[..len], &mut store, &HeadLimits::default(), &kind);
        assert!(matches!(prefix, Ok(Parsed::Partial)), "{len} of {}: {prefix:?}", bytes.escape_ascii());
    }
}

#[test]
fn an_ordinary_request() {
    with_request(
        b"GET /a/b?c=d HTTP/1.1\r\nHost: A.example:8080\r\naccept:  */* \t\r\nEmpty:\r\n\r\n",
        |head| {
            assert_eq!(head.method, Method::Get);
            assert_eq!(
                (head.path_and_query, head.path, head.authority),
                ("/a/b?c=d", "/a/b", "A.example:8080")
            );
            assert_eq!((head.version, head.body), (Version::Http11, BodyLength::None));
            assert!(head.persistent && !head.expect_continue && !head.wants_upgrade);
            let fields: Vec<_> = head.fields().map(|field| (field.id, field.name, field.value)).collect();
            assert_eq!(
                fields,
                [
                    (FieldId::Host, "Host", b"A.example:8080" as &[u8]),
                    (FieldId::Accept, "accept", b"*/*"),
                    (FieldId::Other, "Empty", b""),
                ]
            );
            assert_eq!(head.field_list().first(FieldId::Accept), Some(b"*/*" as &[u8]));
            assert!(!head.field_list().has(FieldId::Cookie) && !head.field_list().has(FieldId::Other));
        },
    );
}

#[test]
fn empty_lines_before_a_request_are_consumed() {
    with_request(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.path, "/"));
}

#[test]
fn values_may_hold_any_text() {
    with_request(b"GET / HTTP/1.1\r\nHost: a\r\nA: \xff\xfe: \"\t\x80\r\n\r\n", |head| {
        assert_eq!(head.fields().nth(1).unwrap().value, b"\xff\xfe: \"\t\x80");
    });
}

#[test]
fn targets_browsers_really_send() {
    with_request(b"GET /a|b{c}^`\"<>\\?d=[e]|{f}&%20=%C3%A9 HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
        assert_eq!(head.path, "/a|b{c}^`\"<>\\");
    });
    with_request(b"GET /?discount=100% HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
        assert_eq!((head.path_and_query, head.path), ("/?discount=100%", "/"));
    });
}

#[test]
fn utf8_in_a_target_is_percent_encoded() {
    for (target, path_and_query, path) in [
        ("/caf\u{e9}?q=\u{20ac}%&\u{1f600}", "/caf%C3%A9?q=%E2%82%AC%&%F0%9F%98%80", "/caf%C3%A9"),
        ("http://a?\u{e9}", "/?%C3%A9", "/"),
        ("/%c3%a9\u{e9}", "/%c3%a9%C3%A9", "/%c3%a9%C3%A9"),
    ] {
        with_request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), |head| {
            assert_eq!((head.path_and_query, head.path), (path_and_query, path));
            assert!(head.target_text == TargetText::Utf8 && head.authority == "a");
        });
    }
    with_request(b"GET /%c3%a9 HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
        assert_eq!(head.target_text, TargetText::Ascii);
    });
}

#[test]
fn absolute_form_is_reduced() {
    with_request(b"GET http://a.example/p?q HTTP/1.1\r\nHost: A.example:80\r\n\r\n", |head| {
        assert_eq!((head.path_and_query, head.path, head.authority), ("/p?q", "/p", "a.example"));
    });
    with_request(b"GET HTTP://a.example?q HTTP/1.1\r\nHost: a.example\r\n\r\n", |head| {
        assert_eq!((head.path_and_query, head.path), ("/?q", "/"));
    });
    with_request(b"GET http://a.example HTTP/1.0\r\n\r\n", |head| {
        assert_eq!((head.path_and_query, head.authority), ("/", "a.example"));
    });
    with_request(b"OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", |head| {
        assert_eq!(head.path_and_query, "*");
    });
}

#[test]
fn an_authority_may_be_missing_where_none_is_needed() {
    for head in [
        b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n" as &[u8],
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost:\r\n\r\n",
    ] {
        with_request(head, |head| assert_eq!(head.authority, ""));
    }
    with_request(b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", |head| {
        assert_eq!(head.authority, "[2001:db8::1]:80");
    });
}

#[test]
fn any_token_is_a_method() {
    with_request(b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
        assert_eq!(head.method, Method::Other("M-SEARCH"));
    });
}

#[test]
fn bodies_of_requests() {
    for (fields, body) in [
        ("", BodyLength::None),
        ("Content-Length: 0\r\n", BodyLength::Length(0)),
        ("content-length: 0012\r\n", BodyLength::Length(12)),
        ("Transfer-Encoding: chunked\r\n", BodyLength::Streamed),
        ("Transfer-Encoding:\tCHUNKED \r\n", BodyLength::Streamed),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let bytes = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            with_request(bytes.as_bytes(), |head| assert_eq!(head.body, body));
        }
    }
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, connection, persistent) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed, , \"close\"\r\n", true),
        ("1.2", "", true),
        ("1.9", "Connection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        with_request(bytes.as_bytes(), |head| assert_eq!(head.persistent, persistent, "{bytes:?}"));
        let bytes = format!("HTTP/{version} 204 X\r\n{connection}\r\n");
        with_response(bytes.as_bytes(), RequestKind::Other, |head| assert_eq!(head.persistent, persistent));
    }
}

#[test]
fn expectations_count_only_with_a_body_in_http11() {
    for (version, fields, waits) in [
        ("1.1", "Content-Length: 3\r\nExpect: 100-continue\r\n", true),
        ("1.1", "Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n", true),
        ("1.1", "Content-Length: 0\r\nExpect: 100-continue\r\n", false),
        ("1.1", "Expect: 100-continue\r\n", false),
        ("1.0", "Content-Length: 3\r\nExpect: 100-continue\r\n", false),
        ("1.0", "Content-Length: 3\r\nExpect: something-else\r\n", false),
    ] {
        let bytes = format!("PUT / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        with_request(bytes.as_bytes(), |head| assert_eq!(head.expect_continue, waits, "{bytes:?}"));
    }
}

#[test]
fn upgrades_need_both_fields_and_http11() {
    for (version, fields, wants) in [
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true),
        ("1.1", "Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", true),
        ("1.1", "Upgrade: websocket\r\n", false),
        ("1.1", "Connection: Upgrade\r\n", false),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", false),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        with_request(bytes.as_bytes(), |head| assert_eq!(head.wants_upgrade, wants, "{bytes:?}"));
    }
}

#[test]
fn only_offers_to_leave_http_want_a_tunnel() {
    for (offer, wants) in [
        ("websocket", true),
        ("h2c", false),
        ("TLS/1.2, h2c", false),
        ("HTTP/2.0", false),
        ("h2c, websocket", true),
        ("", true),
    ] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {offer}\r\n\r\n");
        with_request(bytes.as_bytes(), |head| assert_eq!(head.wants_tunnel(), wants, "{offer}"));
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: {offer}\r\n\r\n");
        with_request(bytes.as_bytes(), |head| assert!(!head.wants_tunnel(), "{offer}"));
    }
}

#[test]
fn connect_has_an_authority_and_no_path() {
    for bytes in [
        "CONNECT a.example:443 HTTP/1.1\r\nHost: A.example:443\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.0\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.Example\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:\r\n\r\n",
    ] {
        with_request(bytes.as_bytes(), |head| {
            assert_eq!(
                (head.path_and_query, head.path, head.authority),
                ("a.example:443", "", "a.example:443")
            );
            assert!(head.wants_tunnel() && head.body.is_empty());
        });
    }
}

#[test]
fn trailers_go_with_the_fields_that_connection_names() {
    for (connection, rule) in
        [("close, TE", TrailerRule::Keep), ("X-Sum", TrailerRule::Drop), ("close, ETag", TrailerRule::Drop)]
    {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
        with_request(bytes.as_bytes(), |head| assert_eq!(head.trailers, rule, "{connection}"));
        let bytes = format!("HTTP/1.1 204 X\r\nConnection: {connection}\r\n\r\n");
        with_response(bytes.as_bytes(), RequestKind::Other, |head| assert_eq!(head.trailers, rule));
    }
}

#[test]
fn bodies_of_responses() {
    for (status, fields, kind, body) in [
        (200, "", RequestKind::Other, BodyLength::Streamed),
        (200, "Content-Length: 5\r\n", RequestKind::Other, BodyLength::Length(5)),
        (200, "Content-Length: 0\r\n", RequestKind::Other, BodyLength::Length(0)),
        (404, "Transfer-Encoding: chunked\r\n", RequestKind::Other, BodyLength::Streamed),
        (200, "Content-Length: 5\r\n", RequestKind::Head, BodyLength::None),
        (200, "Transfer-Encoding: chunked\r\n", RequestKind::Head, BodyLength::None),
        (304, "Content-Length: 5\r\n", RequestKind::Other, BodyLength::None),
        (204, "", RequestKind::Other, BodyLength::None),
        (204, "Content-Length: 0\r\n", RequestKind::Other, BodyLength::None),
        (101, "Upgrade: x\r\n", RequestKind::Other, BodyLength::None),
        (200, "", RequestKind::Connect, BodyLength::None),
        (404, "", RequestKind::Connect, BodyLength::Streamed),
    ] {
        let bytes = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        with_response(bytes.as_bytes(), kind, |head| {
            assert_eq!((head.status, head.body), (status, body), "{bytes:?}");
            assert_eq!(head.persistent, !head.until_close);
            assert_eq!(head.until_close, body == BodyLength::Streamed && !fields.contains("chunked"));
        });
    }
}

#[test]
fn status_lines_in_all_their_forms() {
    for (line, reason) in [
        ("HTTP/1.1 200 OK", b"OK" as &[u8]),
        ("HTTP/1.1 200 ", b""),
        ("HTTP/1.1 200", b""),
        ("HTTP/1.1 200  Two  words\t", b" Two  words\t"),
        ("HTTP/1.1 599 caf\u{e9}", "caf\u{e9}".as_bytes()),
        ("HTTP/1.1 600 X", b"X"),
        ("HTTP/1.2 999 X", b"X"),
    ] {
        for fields in ["", "Date: now\r\n"] {
            let bytes = format!("{line}\r\n{fields}\r\n");
            with_response(bytes.as_bytes(), RequestKind::Head, |head| {
                assert_eq!(head.reason, reason);
                assert_eq!(head.has_date, !fields.is_empty());
            });
        }
    }
}

#[test]
fn the_store_serves_any_number_of_heads() {
    let mut store = HeadStore::default();
    for count in [0, 99, 3, 50] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count));
        let Ok(Parsed::Complete { head, .. }) =
            parse_request(bytes.as_bytes(), &mut store, &HeadLimits::default())
        else {
            panic!("{count}")
        };
        assert_eq!(head.fields().count(), count + 1);
    }
}

/// The scheme of an absolute target is that of the connection, and its default port goes without saying.
#[test]
fn absolute_targets_have_the_scheme_of_their_connection() {
    let read = |scheme, head: &str| {
        let mut store = HeadStore::default();
        store.set_scheme(scheme);
        match parse_request(head.as_bytes(), &mut store, &HeadLimits::default()) {
            Ok(Parsed::Complete { head, .. }) => Ok((head.path.to_owned(), head.authority.to_owned())),
            Ok(Parsed::Partial) => panic!("all of it is there"),
            Err(fault) => Err(fault),
        }
    };
    let target = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let path = |authority: &str| Ok(("/p".to_owned(), authority.to_owned()));
    assert_eq!(read(Scheme::Https, &target("https://a/p", "a:443")), path("a"));
    assert_eq!(read(Scheme::Https, &target("HTTPS://a:443/p", "a")), path("a:443"));
    assert_eq!(read(Scheme::Http, &target("http://a/p", "a:80")), path("a"));
    assert_eq!(read(Scheme::Https, &target("https://a/p", "a:80")), Err(Fault::HostMismatch));
    assert_eq!(read(Scheme::Http, &target("http://a/p", "a:443")), Err(Fault::HostMismatch));
    assert_eq!(read(Scheme::Https, &target("http://a/p", "a")), Err(Fault::MisdirectedScheme));
    assert_eq!(read(Scheme::Http, &target("https://a/p", "a")), Err(Fault::MisdirectedScheme));
    assert_eq!(read(Scheme::Https, "GET /p HTTP/1.1\r\nHost: a\r\n\r\n"), path("a"));
}
