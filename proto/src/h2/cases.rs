//! Heads that RFC 9113 section 8 and RFC 8441 allow, and heads that they do not, each with its section.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::head::{Block, HeadFault, HeadLines};
use super::hpack::Header;
use crate::fault::Fault;
use crate::fields::FieldId;
use crate::h1::Scheme;
use crate::limits::HeadLimits;
use crate::message::{BodyLength, Method, RequestKind, TargetText, Version};
use crate::trailers::Trailers;

use Fault as F;
use HeadFault::{Malformed, Refused};

/// The names of the static table in its order.
const STATIC_NAMES: &str = ":authority :method :method :path :path :scheme :scheme :status :status :status :status :status :status \
    :status accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow authorization \
    cache-control content-disposition content-encoding content-language content-length content-location content-range content-type \
    cookie date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
    link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie \
    strict-transport-security transfer-encoding user-agent vary via www-authenticate";

fn static_name(name: &str) -> u8 {
    STATIC_NAMES.split_whitespace().position(|known| known == name).map_or(0, |at| at as u8 + 1)
}

const HTTPS: Block = Block::Request { scheme: Scheme::Https, allows_protocol: true };
const PLAIN: Block = Block::Request { scheme: Scheme::Http, allows_protocol: false };
const ANSWER: Block = Block::Response(RequestKind::Other);

/// What every request in the tables below begins with unless it says otherwise.
const GET: &str = ":method=GET|:scheme=https|:path=/|:authority=a.example";

/// Reads fields `name=value`, with `|` between them.
fn take(lines: &mut HeadLines, block: Block, fields: &str, limits: &HeadLimits, by_place: bool) {
    lines.begin(block);
    for field in fields.split('|').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let static_name = if by_place { static_name(name) } else { 0 };
        let header =
            Header { name: name.as_bytes(), value: value.as_bytes(), static_name, is_never_indexed: false };
        lines.add(header, limits);
    }
}

/// Reads a block, once with the places of names in the static table and once without.
fn read(block: Block, fields: &str, is_end: bool) -> (HeadLines, Result<(), HeadFault>) {
    let limits = HeadLimits::default();
    let (mut with, mut without) = (HeadLines::new(), HeadLines::new());
    take(&mut with, block, fields, &limits, true);
    take(&mut without, block, fields, &limits, false);
    let result = with.finish(is_end);
    assert_eq!(result, without.finish(is_end), "{fields}");
    assert_eq!(with.bytes, without.bytes, "{fields}");
    (with, result)
}

fn result(block: Block, fields: &str, is_end: bool) -> Result<(), HeadFault> {
    read(block, fields, is_end).1
}

#[test]
fn requests_are_judged_by_their_fields() {
    for (section, fields, expected) in [
        ("8.2.1 lower case", "x-one=1|x.two~=|accept=*/*", Ok(())),
        ("8.2.1", "X-One=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "Accept=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "x one=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "x:one=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "x\0=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "x\r\ny=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "x\u{7f}=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "caf\u{e9}=1", Err(Malformed(F::InvalidFieldName))),
        ("8.2.1", "=1", Err(Malformed(F::EmptyFieldName))),
        ("8.2.1 values", "x=a b\tc\u{e9}", Ok(())),
        ("8.2.1", "x=a\0b", Err(Malformed(F::InvalidFieldValue))),
        ("8.2.1", "x=a\rb", Err(Malformed(F::InvalidFieldValue))),
        ("8.2.1", "accept=a\nb", Err(Malformed(F::InvalidFieldValue))),
        (
            "8.2.1",
            "x=a very long value behind which there is a line\r\nend: 1",
            Err(Malformed(F::InvalidFieldValue)),
        ),
        ("RFC 9110 5.5", "x=a\u{1}b", Err(Malformed(F::InvalidFieldValue))),
        ("RFC 9110 5.5", "x=a\u{7f}b", Err(Malformed(F::InvalidFieldValue))),
        ("8.2.1", "x= a", Err(Malformed(F::SpaceAroundFieldValue))),
        ("8.2.1", "x=a\t", Err(Malformed(F::SpaceAroundFieldValue))),
        ("8.2.1", "accept=a ", Err(Malformed(F::SpaceAroundFieldValue))),
        ("8.2.1", "cookie= ", Err(Malformed(F::SpaceAroundFieldValue))),
        ("8.2.2", "connection=x", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "proxy-connection=keep-alive", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "keep-alive=5", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "transfer-encoding=chunked", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "upgrade=websocket", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "http2-settings=AAMAAABkAARAAAAAAAIAAAAA", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2 TE", "te=trailers", Ok(())),
        ("8.2.2", "te=Trailers", Ok(())),
        ("8.2.2", "te=gzip", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "te=trailers, deflate", Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", "te=", Err(Malformed(F::ConnectionSpecificField))),
        ("8.3", "x=1|:path=/", Err(Malformed(F::LatePseudoHeader))),
        ("8.3", "host=a.example|:protocol=x", Err(Malformed(F::LatePseudoHeader))),
        ("8.3", ":path=/", Err(Malformed(F::RepeatedPseudoHeader))),
        ("8.3", ":authority=a.example", Err(Malformed(F::RepeatedPseudoHeader))),
        ("8.3", ":status=200", Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.3", ":unknown=1", Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.3", ":=1", Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.3", ":Path=/", Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.3.1 Host", "host=a.example", Ok(())),
        ("8.3.1", "host=A.example:443", Ok(())),
        ("8.3.1", "host=b.example", Err(Malformed(F::HostMismatch))),
        ("8.3.1", "host=a.example:80", Err(Malformed(F::HostMismatch))),
        ("8.3.1", "host=", Err(Malformed(F::EmptyHost))),
        ("8.3.1", "host=u@a.example", Err(Malformed(F::InvalidHost))),
        ("8.3.1", "host=a.example|host=a.example", Err(Malformed(F::RepeatedHost))),
        ("8.1.1", "content-length=0", Ok(())),
        ("8.1.1", "content-length=1", Err(Malformed(F::LengthMismatch))),
        ("RFC 9110 8.6", "content-length=0|content-length=0", Err(Malformed(F::RepeatedContentLength))),
        ("RFC 9110 8.6", "content-length=+0", Err(Malformed(F::InvalidContentLength))),
        ("RFC 9110 8.6", "content-length=", Err(Malformed(F::InvalidContentLength))),
        ("RFC 9110 10.1.1", "expect=100-continue", Ok(())),
        ("RFC 9110 10.1.1", "expect=x", Err(Refused(F::Expectation))),
        ("no field that reads like another", "x_forwarded_for=1", Err(Refused(F::UnderscoredFieldName))),
        ("RFC 9110 7.6.2, not for GET", "max-forwards=x", Ok(())),
    ] {
        let fields = format!("{GET}|{fields}");
        assert_eq!(result(HTTPS, &fields, true), expected, "{section}: {fields:?}");
    }
}

#[test]
fn requests_are_judged_by_their_pseudo_header_fields() {
    let long_path = format!(":method=GET|:scheme=https|:authority=a|:path=/{}", "a".repeat(8_192));
    let fitting_path = format!(":method=GET|:scheme=https|:authority=a|:path=/{}", "a".repeat(8_192 - 14));
    let long_method = format!(":method={}|:scheme=https|:authority=a|:path=/", "A".repeat(33));
    for (section, fields, expected) in [
        ("8.3.1", GET, Ok(())),
        ("8.3.1 any order", ":authority=a|:path=/|:scheme=https|:method=GET", Ok(())),
        ("8.3.1", ":method=GET|:scheme=HTTPS|:path=/|:authority=a", Ok(())),
        ("8.3.1", "", Err(Malformed(F::MissingPseudoHeader))),
        ("8.3.1", ":scheme=https|:path=/|:authority=a", Err(Malformed(F::MissingPseudoHeader))),
        ("8.3.1", ":method=GET|:path=/|:authority=a", Err(Malformed(F::MissingPseudoHeader))),
        ("8.3.1", ":method=GET|:scheme=https|:authority=a", Err(Malformed(F::MissingPseudoHeader))),
        ("8.3.1", ":method=|:scheme=https|:path=/|:authority=a", Err(Malformed(F::InvalidMethod))),
        ("8.3.1", ":method=G T|:scheme=https|:path=/|:authority=a", Err(Malformed(F::InvalidMethod))),
        ("8.3.1", ":method=get|:scheme=https|:path=/|:authority=a", Ok(())),
        ("8.3.1", &long_method, Err(Refused(F::MethodTooLong))),
        ("8.3.1", ":method=GET|:scheme=|:path=/|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=ftp|:path=/|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=http|:path=/|:authority=a", Err(Malformed(F::MisdirectedScheme))),
        ("8.3.1", ":method=GET|:scheme=https|:path=|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=a|:authority=a", Err(Malformed(F::InvalidTarget))),
        (
            "8.3.1",
            ":method=GET|:scheme=https|:path=https://a/|:authority=a",
            Err(Malformed(F::InvalidTarget)),
        ),
        ("8.3.1", ":method=GET|:scheme=https|:path=*|:authority=a", Err(Malformed(F::AsteriskForm))),
        ("8.3.1", ":method=OPTIONS|:scheme=https|:path=*|:authority=a", Ok(())),
        ("8.3.1", ":method=OPTIONS|:scheme=https|:path=*a|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=/a b|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=/a\r\n|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("3987 3.1", ":method=GET|:scheme=https|:path=/\u{e9}?\u{e9}|:authority=a", Ok(())),
        ("house", ":method=GET|:scheme=https|:path=/\u{85}|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=\u{e9}|:authority=a", Err(Malformed(F::InvalidTarget))),
        (
            "8.3.1",
            ":method=GET|:scheme=https|:path=/\u{e9}#|:authority=a",
            Err(Malformed(F::FragmentInTarget)),
        ),
        ("8.3.1", ":method=GET|:scheme=https|:path=/|:authority=\u{e9}", Err(Malformed(F::InvalidTarget))),
        ("house", ":method=GET|:scheme=https|:path=/?100%|:authority=a", Ok(())),
        ("8.3.1", ":method=GET|:scheme=https|:path=/a#b|:authority=a", Err(Malformed(F::FragmentInTarget))),
        (
            "as HTTP/1.1",
            ":method=GET|:scheme=https|:path=/%zz|:authority=a",
            Err(Refused(F::InvalidPercentEncoding)),
        ),
        ("as HTTP/1.1", &long_path, Err(Refused(F::RequestLineTooLong))),
        ("as HTTP/1.1", &fitting_path, Ok(())),
        ("8.3.1", ":method=GET|:scheme=https|:path=/|:authority=", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=/|:authority=u@a", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=/|:authority=a/b", Err(Malformed(F::InvalidTarget))),
        ("8.3.1", ":method=GET|:scheme=https|:path=/|host=a", Ok(())),
        ("8.3.1", ":method=GET|:scheme=https|:path=/", Err(Malformed(F::MissingHost))),
        ("8.3.1", ":method=GET|:scheme=https|:path=/|host=", Err(Malformed(F::EmptyHost))),
    ] {
        assert_eq!(result(HTTPS, fields, false), expected, "{section}: {fields:?}");
    }
    assert_eq!(result(PLAIN, ":method=GET|:scheme=http|:path=/|:authority=a:80|host=a", true), Ok(()));
}

#[test]
fn methods_have_rules_of_their_own() {
    for (section, fields, expected) in [
        ("8.5", ":method=CONNECT|:authority=a:443", Ok(())),
        ("8.5", ":method=CONNECT|:authority=[::1]:443|host=[::1]:443", Ok(())),
        ("8.5", ":method=CONNECT|:authority=a", Err(Malformed(F::InvalidTarget))),
        ("8.5", ":method=CONNECT|:authority=a:0", Err(Malformed(F::InvalidTarget))),
        ("8.5", ":method=CONNECT|:authority=a:443|host=A", Ok(())),
        ("8.5", ":method=CONNECT|:authority=a:443|host=b", Err(Malformed(F::HostMismatch))),
        ("8.5", ":method=CONNECT|:authority=a:443|host=a:80", Err(Malformed(F::HostMismatch))),
        ("8.5", ":method=CONNECT", Err(Malformed(F::MissingPseudoHeader))),
        ("8.5", ":method=CONNECT|host=a:443", Err(Malformed(F::MissingPseudoHeader))),
        ("8.5", ":method=CONNECT|:authority=a:443|:path=/", Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.5", ":method=CONNECT|:authority=a:443|:scheme=https", Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.5", ":method=CONNECT|:authority=a:443|content-length=1", Err(Malformed(F::ConnectWithBody))),
        (
            "RFC 9110 9.3.8",
            ":method=TRACE|:scheme=https|:path=/|:authority=a",
            Err(Refused(F::TraceWithBody)),
        ),
        (
            "RFC 9110 7.6.2",
            ":method=OPTIONS|:scheme=https|:path=/|:authority=a|max-forwards=x",
            Err(Refused(F::InvalidMaxForwards)),
        ),
        (
            "RFC 9110 7.6.2",
            ":method=OPTIONS|:scheme=https|:path=/|:authority=a|max-forwards=1|max-forwards=1",
            Err(Refused(F::InvalidMaxForwards)),
        ),
    ] {
        assert_eq!(result(HTTPS, fields, false), expected, "{section}: {fields:?}");
    }
}

/// RFC 8441 section 4, and section 3 for who may use it.
#[test]
fn extended_connect_is_an_offer() {
    let whole = ":method=CONNECT|:protocol=websocket|:scheme=https|:path=/chat?x|:authority=a.example";
    let (lines, accepted) = read(HTTPS, &format!("{whole}|sec-websocket-version=13|content-length=0"), false);
    assert_eq!(accepted, Ok(()));
    let head = lines.request();
    assert_eq!((head.method, head.body, head.wants_upgrade), (Method::Get, BodyLength::None, true));
    assert_eq!((head.path, head.path_and_query, head.authority), ("/chat", "/chat?x", "a.example"));
    assert_eq!(head.offers().collect::<Vec<_>>(), [b"websocket"]);
    assert!(head.wants_tunnel());
    assert!(lines.bytes.ends_with(b"upgrade: websocket\r\n"));
    assert_eq!(head.field_list().single(FieldId::Upgrade), Some(&b"websocket"[..]));

    for (block, fields, fault) in [
        (Block::Request { scheme: Scheme::Https, allows_protocol: false }, whole, F::UnexpectedPseudoHeader),
        (
            HTTPS,
            ":method=GET|:protocol=websocket|:scheme=https|:path=/|:authority=a",
            F::UnexpectedPseudoHeader,
        ),
        (HTTPS, ":method=CONNECT|:protocol=x|:path=/|:authority=a", F::MissingPseudoHeader),
        (HTTPS, ":method=CONNECT|:protocol=x|:scheme=https|:authority=a", F::MissingPseudoHeader),
        (HTTPS, ":method=CONNECT|:protocol=x|:scheme=https|:path=/|host=a", F::MissingPseudoHeader),
        (HTTPS, ":method=CONNECT|:protocol=x|:scheme=https|:path=*|:authority=a", F::AsteriskForm),
        (HTTPS, ":method=CONNECT|:protocol=|:scheme=https|:path=/|:authority=a", F::InvalidProtocol),
        (HTTPS, ":method=CONNECT|:protocol=x, y|:scheme=https|:path=/|:authority=a", F::InvalidProtocol),
        (HTTPS, ":method=CONNECT|:protocol=x\r\ny|:scheme=https|:path=/|:authority=a", F::InvalidProtocol),
        (HTTPS, ":method=CONNECT|:protocol=h2c|:scheme=https|:path=/|:authority=a", F::InvalidProtocol),
        (
            HTTPS,
            ":method=CONNECT|:protocol=x|:protocol=x|:scheme=https|:path=/|:authority=a",
            F::RepeatedPseudoHeader,
        ),
    ] {
        assert_eq!(result(block, fields, false), Err(Malformed(fault)), "{fields}");
    }
    assert_eq!(
        result(HTTPS, &format!("{whole}|content-length=1"), false),
        Err(Malformed(F::ConnectWithBody))
    );
}

/// RFC 8441 section 5: as over HTTP/1.1, but for the key.
#[test]
fn websocket_over_http2_has_a_version_and_no_key() {
    let offer = |fields: &str| {
        let whole =
            format!(":method=CONNECT|:protocol=WebSocket|:scheme=https|:path=/|:authority=a|{fields}");
        let (lines, accepted) = read(HTTPS, &whole, false);
        assert_eq!(accepted, Ok(()));
        crate::upgrade::check_offer(&lines.request(), "websocket")
    };
    assert_eq!(offer("sec-websocket-version=13"), Ok(()));
    for fields in [
        "",
        "sec-websocket-version=8",
        "sec-websocket-version=x",
        "sec-websocket-version=13|sec-websocket-version=13",
    ] {
        assert_eq!(offer(fields), Err(F::WebSocketVersion), "{fields}");
    }
}

#[test]
fn a_request_says_what_its_fields_said() {
    let fields = ":method=PATCHY|:scheme=https|:path=/a?b?c|:authority=A.example:8443|host=a.example:8443|cookie=a=1|\
                  x-one=1|cookie=b=2|te=trailers|expect=100-continue|content-length=05|cookie=";
    let (lines, accepted) = read(HTTPS, fields, false);
    assert_eq!(accepted, Ok(()));
    let head = lines.request();
    assert_eq!((head.method, head.version), (Method::Other("PATCHY"), Version::Http2));
    assert_eq!((head.path_and_query, head.path, head.authority), ("/a?b?c", "/a", "A.example:8443"));
    assert_eq!((head.body, head.expect_continue), (BodyLength::Length(5), true));
    assert!(head.persistent && !head.wants_upgrade && head.accepts_trailers() && !head.wants_tunnel());
    let fields: Vec<_> = head.fields().map(|field| format!("{field:?}")).collect();
    assert_eq!(
        fields,
        ["cookie: a=1; b=2; ", "x-one: 1", "te: trailers", "expect: 100-continue", "content-length: 05"]
    );
    assert!(head.field_list().has(FieldId::Cookie) && !head.field_list().has(FieldId::Host));

    let raw = ":method=GET|:scheme=https|:path=/\u{e9}?\u{e9}%|:authority=a";
    let (lines, _) = read(HTTPS, raw, true);
    let head = lines.request();
    assert_eq!((head.path_and_query, head.path, head.authority), ("/%C3%A9?%C3%A9%", "/%C3%A9", "a"));
    assert!(head.target_text == TargetText::Utf8);

    let (lines, _) = read(HTTPS, ":method=GET|:scheme=https|:path=/|host=B:1", true);
    assert_eq!((lines.request().authority, lines.request().body), ("B:1", BodyLength::None));
    let (lines, _) = read(HTTPS, ":method=CONNECT|:authority=a:443", true);
    let head = lines.request();
    assert_eq!((head.method, head.path, head.path_and_query), (Method::Connect, "", "a:443"));
    assert_eq!((head.authority, head.body), ("a:443", BodyLength::None));
    let (lines, _) = read(HTTPS, GET, false);
    assert_eq!(lines.request().body, BodyLength::Streamed);
}

/// RFC 9113 section 8.2.3.
#[test]
fn cookie_crumbs_become_one_line() {
    for (fields, expected) in [
        ("cookie=a", "cookie: a\r\n"),
        ("cookie=a|cookie=b|cookie=c", "cookie: a; b; c\r\n"),
        ("x=1|cookie=a|cookie=b|y=2|cookie=c|cookie=d", "x: 1\r\ncookie: a; b; c; d\r\ny: 2\r\n"),
        ("cookie=a|x=1|cookie=b|y=2|cookie=c", "cookie: a; b; c\r\nx: 1\r\ny: 2\r\n"),
    ] {
        let (lines, accepted) = read(HTTPS, &format!("{GET}|{fields}"), true);
        assert_eq!(accepted, Ok(()));
        let written: String = lines
            .request()
            .fields()
            .map(|field| format!("{}: {}\r\n", field.name, field.value.escape_ascii()))
            .collect();
        assert_eq!(written, expected, "{fields}");
        for span in &lines.spans {
            let line = &lines.bytes[span.name_start()..span.line_end()];
            assert!(line.ends_with(b"\r\n") && span.is_canonical(), "{}", line.escape_ascii());
        }
    }
    // Of a response they are fields like any other.
    let (lines, _) = read(ANSWER, ":status=200|cookie=a|cookie=b", true);
    assert_eq!(lines.response().fields().count(), 2);
}

#[test]
fn responses_are_judged() {
    use BodyLength::{Length, None, Streamed};
    let connect = Block::Response(RequestKind::Connect);
    let head = Block::Response(RequestKind::Head);
    for (section, block, fields, is_end, expected) in [
        ("8.3.2", ANSWER, ":status=200", false, Ok((200, Streamed))),
        ("8.1", ANSWER, ":status=200", true, Ok((200, Length(0)))),
        ("8.1.1", ANSWER, ":status=200|content-length=5", false, Ok((200, Length(5)))),
        ("8.1.1", ANSWER, ":status=200|content-length=5", true, Err(Malformed(F::LengthMismatch))),
        ("8.1.1", ANSWER, ":status=200|content-length=0", true, Ok((200, Length(0)))),
        ("8.1.1 no content by definition", ANSWER, ":status=304|content-length=5", true, Ok((304, None))),
        ("8.1.1", head, ":status=200|content-length=5", true, Ok((200, None))),
        ("8.1.1", head, ":status=200|content-length=5", false, Ok((200, None))),
        ("RFC 9110 8.6", ANSWER, ":status=204|content-length=5", true, Err(Malformed(F::BodyNotAllowed))),
        ("RFC 9110 8.6", ANSWER, ":status=204|content-length=0", true, Ok((204, None))),
        ("8.5", connect, ":status=200", false, Ok((200, None))),
        ("8.5", connect, ":status=200|content-length=5", false, Ok((200, None))),
        ("8.5", connect, ":status=403|content-length=5", false, Ok((403, Length(5)))),
        ("8.1", ANSWER, ":status=100", false, Ok((100, None))),
        ("8.1", ANSWER, ":status=103|link=x", false, Ok((103, None))),
        ("8.1", ANSWER, ":status=103", true, Err(Malformed(F::InterimWithEnd))),
        ("8.6", ANSWER, ":status=101", false, Err(Malformed(F::SwitchingInHttp2))),
        ("8.3.2", ANSWER, "", true, Err(Malformed(F::MissingPseudoHeader))),
        ("8.3.2", ANSWER, "server=x", true, Err(Malformed(F::MissingPseudoHeader))),
        ("8.3.2", ANSWER, ":status=", true, Err(Malformed(F::InvalidStatus))),
        ("8.3.2", ANSWER, ":status=20", true, Err(Malformed(F::InvalidStatus))),
        ("8.3.2", ANSWER, ":status=0200", true, Err(Malformed(F::InvalidStatus))),
        ("8.3.2", ANSWER, ":status=2x0", true, Err(Malformed(F::InvalidStatus))),
        ("8.3.2", ANSWER, ":status=099", true, Err(Malformed(F::InvalidStatus))),
        ("9110 15", ANSWER, ":status=600", true, Ok((600, Length(0)))),
        ("9110 15", ANSWER, ":status=999", false, Ok((999, Streamed))),
        ("8.3.2", ANSWER, ":status=599", true, Ok((599, Length(0)))),
        ("8.3", ANSWER, ":status=200|:status=200", true, Err(Malformed(F::RepeatedPseudoHeader))),
        ("8.3", ANSWER, "x=1|:status=200", true, Err(Malformed(F::LatePseudoHeader))),
        ("8.3", ANSWER, ":status=200|:path=/", true, Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.3", ANSWER, ":method=GET|:status=200", true, Err(Malformed(F::UnexpectedPseudoHeader))),
        ("8.2.2", ANSWER, ":status=200|connection=close", true, Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.2", ANSWER, ":status=200|te=trailers", true, Err(Malformed(F::ConnectionSpecificField))),
        ("8.2.1", ANSWER, ":status=200|Server=x", true, Err(Malformed(F::InvalidFieldName))),
        (
            "8.1.1",
            ANSWER,
            ":status=200|content-length=1|content-length=1",
            false,
            Err(Malformed(F::RepeatedContentLength)),
        ),
        (
            "names of theirs",
            ANSWER,
            ":status=200|x_forwarded_for=1|host=b|expect=x",
            true,
            Ok((200, Length(0))),
        ),
    ] {
        let (lines, result) = read(block, fields, is_end);
        let found = result.map(|()| (lines.response().status, lines.response().body));
        assert_eq!(found, expected, "{section}: {fields:?}");
    }
    let (lines, _) = read(ANSWER, ":status=200|date=x|server=y", true);
    let head = lines.response();
    assert!(head.has_date && head.persistent && !head.until_close && head.reason.is_empty());
    assert_eq!(head.version, Version::Http2);
}

#[test]
fn trailers_are_filtered_as_those_of_chunks() {
    let read = |fields: &str| {
        let mut lines = HeadLines::new();
        let limits = HeadLimits { head_bytes_max: 200, fields_max: 3, ..HeadLimits::default() };
        take(&mut lines, Block::Trailers, fields, &limits, true);
        lines.finish_trailers().map(|has_fields| {
            let mut trailers = Trailers::default();
            lines.copy_trailers(&mut trailers);
            has_fields.then(|| trailers.iter().map(|field| field.name.to_string()).collect::<Vec<_>>())
        })
    };
    assert_eq!(read(""), Ok(None));
    assert_eq!(
        read("grpc-status=0|content-length=x|x-sum=1"),
        Ok(Some(["grpc-status".into(), "x-sum".into()].into()))
    );
    assert_eq!(read("content-length=1|host=a|x-client-cert=1"), Ok(None));
    assert_eq!(read(":status=200"), Err(Malformed(F::UnexpectedPseudoHeader)));
    assert_eq!(read("x=1|:path=/"), Err(Malformed(F::LatePseudoHeader)));
    assert_eq!(read("X=1"), Err(Malformed(F::InvalidFieldName)));
    assert_eq!(read("transfer-encoding=chunked"), Err(Malformed(F::ConnectionSpecificField)));
    assert_eq!(read("te=trailers"), Err(Malformed(F::ConnectionSpecificField)));
    assert_eq!(read("a=1|b=1|c=1|d=1"), Err(Refused(F::TooManyTrailers)));
    assert_eq!(read(&format!("a={}", "x".repeat(168))), Err(Refused(F::TrailersTooLarge)));
    assert!(read(&format!("a={}", "x".repeat(167))).is_ok());
}

/// RFC 9113 section 10.5.1.
#[test]
fn heads_are_limited_in_size_and_number() {
    let limits = HeadLimits { head_bytes_max: 400, fields_max: 4, ..HeadLimits::default() };
    let read = |fields: &str| {
        let mut lines = HeadLines::new();
        take(&mut lines, HTTPS, &format!("{GET}|{fields}"), &limits, true);
        (lines.finish(true), lines.bytes.len() + lines.crumbs_len())
    };
    // The four pseudo-header fields count for 10 + 12 + 6 + 19 + 4 * 32 = 175.
    assert_eq!(read(&format!("x={}", "y".repeat(400 - 175 - 33))).0, Ok(()));
    assert_eq!(read(&format!("x={}", "y".repeat(400 - 175 - 32))), (Err(Refused(F::HeadTooLarge)), 0));
    assert_eq!(read("a=1|b=1|c=1|d=1").0, Ok(()));
    assert_eq!(read("a=1|b=1|c=1|d=1|e=1").0, Err(Refused(F::TooManyFields)));
    // Each crumb costs as much as a field, although it is none.
    assert_eq!(read("cookie=|cookie=|cookie=|cookie=|cookie=").0, Ok(()));
    assert_eq!(read("cookie=|cookie=|cookie=|cookie=|cookie=|cookie=").0, Err(Refused(F::HeadTooLarge)));
    // After a fault nothing is copied.
    let many = format!("X=1{}", "|y=1".repeat(1_000));
    assert_eq!(read(&many), (Err(Malformed(F::InvalidFieldName)), 0));
}

#[test]
fn a_head_does_not_remember_the_one_before() {
    let limits = HeadLimits::default();
    let mut lines = HeadLines::new();
    let whole = ":method=CONNECT|:protocol=x|:scheme=https|:path=/a?b|:authority=a|cookie=1|x=2|cookie=3|priority=u=1, i";
    for fields in [whole, "X=1", ":method=GET|host=x"] {
        take(&mut lines, HTTPS, fields, &limits, true);
        let _ = lines.finish(true);
        if fields == whole {
            assert_eq!(lines.priority(), (1, true));
        }
        let (fresh, _) = read(HTTPS, GET, true);
        take(&mut lines, HTTPS, GET, &limits, true);
        assert_eq!(lines.finish(true), Ok(()));
        assert_eq!(format!("{:?}", lines.request()), format!("{:?}", fresh.request()));
        assert_eq!(lines.priority(), (3, false));
    }
    take(&mut lines, ANSWER, ":status=200", &limits, true);
    assert_eq!(lines.finish(true), Ok(()));
    assert_eq!(lines.response().fields().count(), 0);
}
