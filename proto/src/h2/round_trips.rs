//! Heads that are written and read again, and blocks of anything.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::encode::{encode_request, encode_response, encode_trailers};
use super::head::{Block, HeadFault, HeadLines, ResponseFields};
use super::hpack::{Decoder, Encoder, Header};
use crate::fields::FieldId;
use crate::h1::{
    ClientIdentity, Forwarding, HeadStore, IdentityPolicy, Parsed, Scheme, Trust, parse_request,
    parse_response, write_request, write_upgrade_request,
};
use crate::limits::HeadLimits;
use crate::message::{BodyLength, Method, RequestKind};
use crate::trailers::Trailers;

const SENDER: ClientIdentity<'static> = ClientIdentity {
    peer: b"192.0.2.7",
    client: b"192.0.2.7",
    trust: Trust::Untrusted,
    proto: "http",
    request_id: 0xab,
    tls: None,
};

const REQUEST: Block = Block::Request { scheme: Scheme::Http, allows_protocol: true };

/// Both ends of the compression of one direction.
struct Wire {
    encoder: Encoder,
    decoder: Decoder,
    lines: HeadLines,
}

type Shown = Vec<(String, String, bool)>;

impl Wire {
    fn new(table: u32) -> Self {
        let mut encoder = Encoder::new();
        encoder.set_limit(4_096, table);
        Self { encoder, decoder: Decoder::new(), lines: HeadLines::new() }
    }

    /// Reads a block; returns its fields as they came and whether they must not be indexed.
    fn read(&mut self, block: Block, bytes: &[u8]) -> Shown {
        let limits = HeadLimits::default();
        let mut shown = Vec::new();
        let lines = &mut self.lines;
        lines.begin(block);
        let result = self.decoder.decode(bytes, &mut Vec::new(), |header: Header<'_>| {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            shown.push((text(header.name), text(header.value), header.is_never_indexed));
            lines.add(header, &limits);
        });
        assert_eq!(result, Ok(()));
        shown
    }

    /// Sends a request of HTTP/1.1 through the writer; returns the fields of the block.
    fn send(&mut self, request: &str, protocol: Option<&str>) -> Shown {
        let mut store = HeadStore::default();
        let parsed = parse_request(request.as_bytes(), &mut store, &HeadLimits::default());
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?} {request}") };
        let identity = &IdentityPolicy::default();
        let forwarding =
            Forwarding { identity, sender: SENDER, host: "up.example", body: head.body, edits: None };
        let mut written = Vec::new();
        let spans = match protocol {
            None => write_request(&mut written, &head, &forwarding),
            Some(protocol) => write_upgrade_request(&mut written, &head, &forwarding, protocol),
        };
        let mut block = Vec::new();
        encode_request(&mut self.encoder, &mut block, spans.parts(&written), Scheme::Http);
        self.read(REQUEST, &block)
    }

    fn respond(&mut self, response: &str, kind: RequestKind, fields: &ResponseFields<'_>) -> Shown {
        let mut store = HeadStore::default();
        let parsed = parse_response(response.as_bytes(), &mut store, &HeadLimits::default(), &kind);
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?} {response}") };
        let mut block = Vec::new();
        encode_response(&mut self.encoder, &mut block, &head, fields);
        self.read(Block::Response(kind), &block)
    }
}

/// `name: value`, with a `!` in front of those that must not be indexed.
fn shown(fields: &Shown) -> Vec<String> {
    let one = |(name, value, is_never): &(String, String, bool)| {
        format!("{}{name}: {value}", if *is_never { "!" } else { "" })
    };
    fields.iter().map(one).collect()
}

/// The fields that every request gets on its way.
const ADDED: [&str; 6] = [
    "x-forwarded-for: 192.0.2.7",
    "x-forwarded-proto: http",
    "x-forwarded-host: a.example",
    "x-forwarded-port: 80",
    "x-request-id: 000000000000000000000000000000ab",
    "via: 1.1 sluice",
];

#[test]
fn a_request_is_sent_with_what_http2_has() {
    let request = "POST /a?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nX-Mixed-Case: Yes\r\nConnection: TE, x-hop\r\nTE: trailers\r\n\
                   X-Hop: 1\r\nAuthorization: Basic eA==\r\nCookie: short=1; session=0123456789abcdef\r\nExpect: 100-continue\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    for (table, cookies) in [
        (0, &["cookie: short=1; session=0123456789abcdef"][..]),
        (4_096, &["!cookie: short=1", "cookie: session=0123456789abcdef"]),
    ] {
        let mut wire = Wire::new(table);
        let start =
            [":method: POST", ":scheme: http", ":authority: up.example", ":path: /a?b", "accept: */*"];
        let middle = ["x-mixed-case: Yes", "!authorization: Basic eA=="];
        let end = ["expect: 100-continue", "te: trailers"];
        let expected = [&start[..], &middle, cookies, &ADDED, &end].concat();
        for _ in 0..2 {
            assert_eq!(shown(&wire.send(request, None)), expected);
            assert_eq!(wire.lines.finish(false), Ok(()));
            assert_eq!(wire.lines.request().body, BodyLength::Streamed);
        }
    }
}

#[test]
fn cookies_with_odd_spaces_stay_whole() {
    let mut wire = Wire::new(4_096);
    for cookie in ["a;  b", "a ; b", "a;b", "a; \tb; c"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {cookie}\r\n\r\n");
        wire.send(&request, None);
        assert_eq!(wire.lines.finish(true), Ok(()), "{cookie}");
        assert_eq!(wire.lines.request().field_list().single(FieldId::Cookie), Some(cookie.as_bytes()));
    }
}

#[test]
fn connect_and_offers_have_forms_of_their_own() {
    let mut wire = Wire::new(0);
    let sent = shown(&wire.send("CONNECT t.example:443 HTTP/1.1\r\nHost: t.example:443\r\n\r\n", None));
    assert_eq!(sent[..2], [":method: CONNECT", ":authority: t.example:443"]);
    assert!(!sent.iter().any(|field| field.starts_with(":path") || field.starts_with(":scheme")));
    assert_eq!(wire.lines.finish(false), Ok(()));

    let offer = "GET /ws?x HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let sent = shown(&wire.send(offer, Some("websocket")));
    let start = [
        ":method: CONNECT",
        ":protocol: websocket",
        ":scheme: http",
        ":authority: up.example",
        ":path: /ws?x",
        "sec-websocket-version: 13",
    ];
    assert_eq!(sent, [&start[..], &ADDED].concat());
    assert_eq!(wire.lines.finish(false), Ok(()));
    let head = wire.lines.request();
    assert_eq!((head.method, head.offers().next()), (Method::Get, Some(&b"websocket"[..])));
    assert_eq!(crate::upgrade::check_offer(&head, "websocket"), Ok(()));

    // And on to a server of HTTP/1.1, which gets a key of ours, whatever the client has sent.
    let key = Header { name: b"sec-websocket-key", value: b"x", static_name: 0, is_never_indexed: false };
    wire.lines.begin(REQUEST);
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", "/ws?x"),
        ("sec-websocket-version", "13"),
    ] {
        let header = Header { name: name.as_bytes(), value: value.as_bytes(), ..key };
        wire.lines.add(header, &HeadLimits::default());
    }
    wire.lines.add(key, &HeadLimits::default());
    assert_eq!(wire.lines.finish(false), Ok(()));
    let head = wire.lines.request();
    let identity = &IdentityPolicy::default();
    let forwarding = Forwarding { identity, sender: SENDER, host: "x", body: head.body, edits: None };
    let mut written = Vec::new();
    let mut spans = write_upgrade_request(&mut written, &head, &forwarding, "websocket");
    for host in ["longer.example", "x"] {
        spans.set_authority(&mut written, host);
        assert_eq!(spans.parts(&written).offer(), Some(&b"websocket"[..]));
    }
    let text = String::from_utf8(written).unwrap();
    assert!(text.starts_with("GET /ws?x HTTP/1.1\r\nHost: x\r\nsec-websocket-version: 13\r\n"), "{text}");
    let end = "Via: 2 sluice\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAqw==\r\nUpgrade: websocket\r\n\r\n";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(text.to_ascii_lowercase().matches("sec-websocket-key").count(), 1, "{text}");
}

#[test]
fn fields_that_must_not_be_indexed_never_are_behind_us() {
    let mut wire = Wire::new(4_096);
    wire.lines.begin(REQUEST);
    for (name, value, is_never_indexed) in [
        (":method", "GET", false),
        (":scheme", "http", false),
        (":path", "/", false),
        (":authority", "a.example", false),
        ("accept", "secret", true),
        ("accept-encoding", "gzip", false),
        ("x-token", "secret", true),
    ] {
        let header =
            Header { name: name.as_bytes(), value: value.as_bytes(), static_name: 0, is_never_indexed };
        wire.lines.add(header, &HeadLimits::default());
    }
    assert_eq!(wire.lines.finish(true), Ok(()));
    let head = wire.lines.request();
    let identity = &IdentityPolicy::default();
    let forwarding =
        Forwarding { identity, sender: SENDER, host: "up.example", body: head.body, edits: None };
    let (mut written, mut block) = (Vec::new(), Vec::new());
    let spans = write_request(&mut written, &head, &forwarding);
    encode_request(&mut wire.encoder, &mut block, spans.parts(&written), Scheme::Http);
    let sent = shown(&wire.read(REQUEST, &block));
    for expected in ["!accept: secret", "accept-encoding: gzip", "!x-token: secret"] {
        assert!(sent.iter().any(|field| field == expected), "{expected} {sent:?}");
    }
}

#[test]
fn a_response_is_sent_without_its_connection() {
    let fields = ResponseFields {
        date: Some("NOW"),
        hsts: Some("Strict-Transport-Security: max-age=9\r\n"),
        set_cookie: Some("Set-Cookie: srv=1; Path=/\r\n"),
        ..ResponseFields::default()
    };
    let response = "HTTP/1.1 200 Fine\r\nServer: up\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 007\r\n\
                    Set-Cookie: a=0123456789abcdef0123456789\r\nStrict-Transport-Security: max-age=1\r\nProxy-Authenticate: x\r\nETag: \"x\"\r\n\r\n";
    for table in [0, 4_096] {
        let mut wire = Wire::new(table);
        for _ in 0..2 {
            assert_eq!(
                shown(&wire.respond(response, RequestKind::Other, &fields)),
                [
                    ":status: 200",
                    "server: up",
                    "content-length: 7",
                    "!set-cookie: a=0123456789abcdef0123456789",
                    "etag: \\\"x\\\"",
                    "strict-transport-security: max-age=9",
                    "!set-cookie: srv=1; Path=/",
                    "date: NOW"
                ]
            );
            assert_eq!(wire.lines.finish(false), Ok(()));
        }
    }
    let mut wire = Wire::new(0);
    let own = "HTTP/1.1 304 X\r\nDate: then\r\nContent-Length: 5\r\nstrict-transport-security: x\r\n\r\n";
    assert_eq!(
        shown(&wire.respond(
            own,
            RequestKind::Other,
            &ResponseFields { date: Some("NOW"), ..ResponseFields::default() }
        )),
        [":status: 304", "date: then", "content-length: 5", "strict-transport-security: x"]
    );
    for status in [103, 204] {
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        let sent = wire.respond(&text, RequestKind::Other, &ResponseFields::default());
        assert_eq!(shown(&sent), [format!(":status: {status}")]);
    }
    // Switching protocols is what a 2xx to extended CONNECT says.
    let switch = "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: y\r\n\r\n";
    let sent = wire.respond(switch, RequestKind::Connect, &ResponseFields::default());
    assert_eq!(shown(&sent), [":status: 200", "sec-websocket-protocol: y"]);
    assert_eq!(wire.lines.finish(false), Ok(()));
}

#[test]
fn trailers_go_through() {
    let mut wire = Wire::new(0);
    wire.lines.begin(Block::Trailers);
    for (name, value) in [("grpc-status", "0"), ("grpc-message", "")] {
        let header = Header {
            name: name.as_bytes(),
            value: value.as_bytes(),
            static_name: 0,
            is_never_indexed: false,
        };
        wire.lines.add(header, &HeadLimits::default());
    }
    assert_eq!(wire.lines.finish_trailers(), Ok(true));
    let mut trailers = Trailers::default();
    wire.lines.copy_trailers(&mut trailers);
    let mut block = Vec::new();
    encode_trailers(&mut wire.encoder, &mut block, &trailers);
    assert_eq!(shown(&wire.read(Block::Trailers, &block)), ["grpc-status: 0", "grpc-message: "]);
    assert_eq!(wire.lines.finish_trailers(), Ok(true));
    let mut again = Trailers::default();
    wire.lines.copy_trailers(&mut again);
    assert_eq!(again, trailers);
}

const NAMES: &[&str] = &[
    "Accept",
    "accept-language",
    "User-Agent",
    "X-One",
    "Cookie",
    "Authorization",
    "Referer",
    "ETag",
    "X-Forwarded-Ssl",
    "TE",
    "Via",
    "Sec-WebSocket-Version",
    "Priority",
    "Content-Type",
];
const VALUES: &[&str] =
    &["", "1", "a; b=2", "trailers", "a,b ;\tc", "0123456789abcdef0123456789", "u=1, i", "caf\u{e9}"];

fn request() -> impl Strategy<Value = String> {
    let line =
        select(&["GET /", "POST /a/b?c=%20d", "HEAD /?", "OPTIONS *", "PROPFIND //x", "DELETE /{a}"][..]);
    let framing = select(
        &["", "Content-Length: 0\r\n", "Content-Length: 12\r\n", "Transfer-Encoding: chunked\r\n"][..],
    );
    let connection = select(&["", "Connection: x-one\r\n", "Connection: close, TE\r\n"][..]);
    (line, connection, vec((select(NAMES), select(VALUES)), 0..8), framing).prop_map(
        |(line, connection, fields, framing)| {
            let mut head = format!("{line} HTTP/1.1\r\nHost: a.example:80\r\n{connection}");
            fields.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
            head + framing + "\r\n"
        },
    )
}

/// Fields that are nearly those of a head.
fn header() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, u8, bool)> {
    let names: &[&[u8]] = &[
        b":method",
        b":scheme",
        b":path",
        b":authority",
        b":protocol",
        b":status",
        b":x",
        b"",
        b"host",
        b"cookie",
        b"te",
        b"X",
        b"expect",
        b"content-length",
        b"priority",
        b"upgrade",
        b"max-forwards",
        b"x_real_ip",
        b"trailer",
        b"a\xff",
    ];
    let values: &[&[u8]] = &[
        b"",
        b"GET",
        b"CONNECT",
        b"TRACE",
        b"https",
        b"http",
        b"/",
        b"*",
        b"/?a#%4",
        b"a:443",
        b"a",
        b"200",
        b"101",
        b"103",
        b"websocket",
        b"trailers",
        b"100-continue",
        b" ",
        b"5",
        b"\xff",
        b"\r\n",
        b"u=9",
    ];
    let name = prop_oneof![9 => select(names).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..6)];
    let value = prop_oneof![9 => select(values).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..20)];
    (name, value, any::<bool>()).prop_map(|(name, value, never)| (name, value, 0, never))
}

proptest! {
    /// What a request says arrives at the other end of a connection of HTTP/2, however it is compressed.
    #[test]
    fn requests_survive_the_way(requests in vec(request(), 1..5), table in select(&[0_u32, 100, 4_096][..])) {
        let mut wire = Wire::new(table);
        for text in &requests {
            let mut store = HeadStore::default();
            let parsed = parse_request(text.as_bytes(), &mut store, &HeadLimits::default());
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?} {text}") };
            wire.send(text, None);
            prop_assert_eq!(wire.lines.finish(head.body.is_empty()), Ok(()));
            let got = wire.lines.request();
            prop_assert_eq!(
                (got.method, got.path_and_query, got.path, got.authority, got.accepts_trailers()),
                (head.method, head.path_and_query, head.path, "up.example", head.accepts_trailers())
            );
            prop_assert_eq!(got.body, head.body);

            let identity = &IdentityPolicy::default();
            let forwarding = Forwarding { identity, sender: SENDER, host: "up.example", body: head.body, edits: None };
            let mut written = Vec::new();
            let spans = write_request(&mut written, &head, &forwarding);
            let hop = ["connection", "transfer-encoding"];
            let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
            for (name, value) in spans.parts(&written).fields() {
                let name = name.escape_ascii().to_string().to_ascii_lowercase();
                match expected.iter_mut().find(|(known, _)| name == "cookie" && known == "cookie") {
                    _ if hop.contains(&&*name) => {}
                    Some((_, line)) => line.extend([b"; ", value].concat()),
                    None => expected.push((name, value.to_vec())),
                }
            }
            let found: Vec<_> = got.fields().map(|field| (field.name.to_string(), field.value.to_vec())).collect();
            prop_assert_eq!(found, expected);
        }
    }

    /// No sequence of fields does more than be refused, and what is accepted can be used.
    #[test]
    fn blocks_of_anything_are_judged(
        fields in vec(header(), 0..12),
        block in select(&[
            REQUEST,
            Block::Request { scheme: Scheme::Https, allows_protocol: false },
            Block::Response(RequestKind::Other),
            Block::Response(RequestKind::Connect),
            Block::Trailers,
        ][..]),
        is_end in any::<bool>(),
    ) {
        let limits = HeadLimits { request_line_bytes_max: 30, head_bytes_max: 500, fields_max: 6 };
        let mut lines = HeadLines::new();
        lines.begin(block);
        for (name, value, static_name, is_never_indexed) in &fields {
            let (static_name, is_never_indexed) = (*static_name, *is_never_indexed);
            lines.add(Header { name, value, static_name, is_never_indexed }, &limits);
        }
        let result = match block {
            Block::Trailers => lines.finish_trailers().map(|_| ()),
            _ => lines.finish(is_end),
        };
        match (block, result) {
            (_, Err(HeadFault::Malformed(_) | HeadFault::Refused(_))) | (Block::Trailers, _) => {}
            (Block::Request { .. }, Ok(())) => {
                let head = lines.request();
                prop_assert!(head.path_and_query.starts_with(head.path) && !head.authority.is_empty());
                prop_assert!(head.path.starts_with('/') || head.path == "*" || head.method == Method::Connect);
                prop_assert_eq!(head.wants_upgrade, head.offers().count() == 1);
                prop_assert!(!head.field_list().has(FieldId::Host) && !head.field_list().has(FieldId::Connection));
                prop_assert!(head.field_list().values(FieldId::Cookie).count() <= 1);
            }
            (Block::Response(_), Ok(())) => {
                let head = lines.response();
                prop_assert!((100..=999).contains(&head.status) && head.status != 101);
                prop_assert!(!(is_end && head.body == BodyLength::Streamed));
            }
        }
        // Each line reads as HTTP/1.1 reads it: nothing in a value begins another.
        let text: Vec<u8> = lines.spans.iter().flat_map(|span| lines.bytes[span.name_start()..span.line_end()].iter().copied()).collect();
        let head = [b"HTTP/1.1 200 X\r\n", &text[..], b"\r\n"].concat();
        if !lines.fields().has(FieldId::ContentLength) && result.is_ok() {
            let mut store = HeadStore::default();
            let parsed = parse_response(&head, &mut store, &HeadLimits::default(), &RequestKind::Other);
            let Ok(Parsed::Complete { head, bytes }) = parsed else { panic!("{parsed:?} {}", text.escape_ascii()) };
            prop_assert_eq!((head.fields().count(), bytes), (lines.spans.len(), text.len() + 18));
        }
    }
}
