//! Requests that must not be understood: each is refused with its status, and no origin hears of it.

use sluice_tests::{client::Raw, origin, pattern, proxy::Proxy, wire::Response};

/// A refused request: the reason, the exact bytes, and the statuses that are right for it.
type Case = (&'static str, &'static [u8], &'static [u16]);

/// Limits small enough to meet them with readable requests.
const LIMITS: &[&str] = &[
    "--limit-request-line-bytes=200",
    "--limit-head-bytes=2000",
    "--limit-header-fields=20",
    "--limit-body-bytes=1000",
];

#[rustfmt::skip]
const REQUEST_LINES: &[Case] = &[
    ("no version",              b"GET /\r\n\r\n", &[400, 505]),
    ("no target",               b"GET HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("only a method",           b"GET\r\n\r\n", &[400]),
    ("two spaces",              b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a space too late",        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", &[400]),
    ("a space first",           b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("tabs for spaces",         b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a space in the target",   b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a control in the target", b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("NUL in the target",       b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a fragment",              b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a target without slash",  b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a method with brackets",  b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a lower case protocol",   b"GET / http/1.1\r\nHost: a\r\n\r\n", &[400, 505]),
    ("another protocol",        b"GET / SIP/2.0\r\nHost: a\r\n\r\n", &[400, 505]),
    ("two digits of version",   b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", &[400, 505]),
    ("no minor version",        b"GET / HTTP/1\r\nHost: a\r\n\r\n", &[400, 505]),
    ("HTTP/2 in words",         b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", &[505]),
    ("HTTP/3 in words",         b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", &[505]),
    ("HTTP/0.9 in words",       b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", &[400, 505]),
    ("a bare LF after it",      b"GET / HTTP/1.1\nHost: a\r\n\r\n", &[400]),
    ("a bare CR in it",         b"GET /\rHTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("CONNECT",                 b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", &[400, 405, 501]),
    ("a TLS greeting",          b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
    ("noise",                   b"\xff\xfe\xfd\xfc\r\n\r\n", &[400]),
];

#[rustfmt::skip]
const FIELDS: &[Case] = &[
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
    ("no Host",                 b"GET / HTTP/1.1\r\n\r\n", &[400]),
    ("two Hosts",               b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[400]),
    ("a Host with a space",     b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]),
    ("a Host with a path",      b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", &[400]),
    ("a Host with a user",      b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", &[400]),
    //= https://www.rfc-editor.org/rfc/rfc9112#section-5.1
    ("a space before a colon",  b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", &[400]),
    ("a tab before a colon",    b"GET / HTTP/1.1\r\nHost: a\r\nX\t: 1\r\n\r\n", &[400]),
    //= https://www.rfc-editor.org/rfc/rfc9112#section-5.2
    ("a folded line",           b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", &[400]),
    ("a space before the first",b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", &[400]),
    ("no colon",                b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", &[400]),
    ("no name",                 b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", &[400]),
    ("a name with a space",     b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", &[400]),
    ("a name with a bracket",   b"GET / HTTP/1.1\r\nHost: a\r\nX(Y: 1\r\n\r\n", &[400]),
    ("a name beyond ASCII",     b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: 1\r\n\r\n", &[400]),
    ("NUL in a value",          b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", &[400]),
    ("a control in a value",    b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x012\r\n\r\n", &[400]),
    ("DEL in a value",          b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x7f\r\n\r\n", &[400]),
    ("a bare CR in a value",    b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n", &[400]),
    ("a bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", &[400]),
    ("a bare LF at the end",    b"GET / HTTP/1.1\r\nHost: a\r\n\n", &[400]),
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    ("an unknown expectation",  b"GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", &[417]),
];

#[rustfmt::skip]
const FRAMING: &[Case] = &[
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
    ("a length and chunks",     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
    ("chunks and a length",     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", &[400]),
    ("two different lengths",   b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456", &[400]),
    ("a list of lengths",       b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\n123456", &[400]),
    ("a list of equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n12345", &[400]),
    ("a plus",                  b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n12345", &[400]),
    ("a minus",                 b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n12345", &[400]),
    ("hexadecimal",             b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n12345", &[400]),
    ("a space inside",          b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\n1234567890", &[400]),
    ("a fraction",              b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n12345", &[400]),
    ("an empty length",         b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n12345", &[400]),
    ("a length beyond 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n12345", &[400, 413]),
    ("chunked twice",           b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("chunked on two lines",    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("chunked not last",        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("an unknown coding",       b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br, chunked\r\n\r\n0\r\n\r\n", &[501]),
    ("identity",                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", &[400, 501]),
    ("nearly chunked",          b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400, 501]),
    ("chunked and a vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", &[400]),
    ("an empty coding",         b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", &[400, 501]),
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.1
    ("chunks in HTTP/1.0",      b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
];

#[tokio::test]
async fn bad_request_lines_are_refused() {
    refuses_all(REQUEST_LINES).await;
}

#[tokio::test]
async fn bad_fields_are_refused() {
    refuses_all(FIELDS).await;
}

#[tokio::test]
async fn bad_framing_is_refused() {
    refuses_all(FRAMING).await;
}

/// Sends each case on a connection of its own; names all that were answered otherwise.
async fn refuses_all(cases: &[Case]) {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut wrong = Vec::new();
    for (name, request, expected) in cases {
        let mut client = Raw::connect(proxy.address).await;
        client.send(request).await;
        match client.response("GET").await {
            Ok(answer) if expected.contains(&answer.status()) => {
                wrong.extend(flaw(&mut client, &answer).await.map(|flaw| format!("{name}: {flaw}")));
            }
            Ok(answer) => wrong.push(format!("{name}: {} instead of {expected:?}", answer.head.start)),
            Err(error) => wrong.push(format!("{name}: {error} instead of {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(origin.recorder.text(), "", "what reached the origin");
    Raw::connect(proxy.address).await.assert_open().await;
}

/// What is wrong with a refusal: it is our own word, short, and then the connection ends.
async fn flaw(client: &mut Raw, answer: &Response) -> Option<String> {
    if answer.field("server") != Some("sluice") || !answer.head.fields.lists("connection", "close") {
        return Some(format!("without `Server: sluice` or `Connection: close`: {:?}", answer.head));
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1
    if answer.field("date").is_none() {
        return Some(format!("without a Date: {:?}", answer.head));
    }
    if !(1..500).contains(&answer.body.len()) {
        return Some(format!("not a short body: {:?}", answer.text()));
    }
    client.closed().await.err()
}

async fn assert_refusal(client: &mut Raw, answer: &Response) {
    assert_eq!(flaw(client, answer).await, None);
}

#[tokio::test]
async fn what_exceeds_a_limit_is_refused_by_name() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, LIMITS).await;
    let cases = [
        (414, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(200))),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2000))),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(20))),
        (413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n".to_owned()),
        (
            413,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n".to_owned(),
        ),
        // Limits hold before the end is there.
        (414, format!("GET /{}", "x".repeat(300))),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(3000))),
    ];
    for (status, request) in cases {
        let mut client = Raw::connect(proxy.address).await;
        client.send(&request).await;
        let answer = client.answer_to("GET").await;
        assert_eq!(answer.status(), status, "{request}");
        assert_refusal(&mut client, &answer).await;
    }
    assert_eq!(origin.recorder.text(), "", "what reached the origin");
}

#[tokio::test]
async fn what_just_keeps_the_limits_passes() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, LIMITS).await;
    let mut client = Raw::connect(proxy.address).await;
    let line = format!("GET /{} HTTP/1.1", "x".repeat(185));
    let fields = "X: 1\r\n".repeat(19);
    client.send(format!("{line}\r\nHost: a\r\n{fields}\r\n")).await;
    assert_eq!(client.answer_to("GET").await.status(), 200, "200 bytes of request line, 20 fields");
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await;
    client.send(pattern::bytes(1000)).await;
    pattern::assert_exact(&client.answer_to("POST").await.body, 1000);
}

#[tokio::test]
async fn chunks_beyond_the_body_limit_are_refused() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, LIMITS).await;
    let mut client = Raw::connect(proxy.address).await;
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    client
        .send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(3)))
        .await;
    let answer = client.answer_to("POST").await;
    assert_eq!(answer.status(), 413);
    assert_refusal(&mut client, &answer).await;
    assert!(!origin.recorder.text().contains("\r\n0\r\n"), "the origin must not take it for a whole request");
}

#[tokio::test]
async fn bad_chunks_are_refused_and_never_become_a_whole_request() {
    let bodies: &[(&str, &str)] = &[
        ("not a number", "xyz\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a space before", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a space after", "3 \r\nabc\r\n0\r\n\r\n"),
        ("empty", "\r\nabc\r\n0\r\n\r\n"),
        ("17 digits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF", "3\nabc\r\n0\r\n\r\n"),
        ("data longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("data without an end", "3\r\nabc0\r\n\r\n"),
        ("a bare LF after data", "3\r\nabc\n0\r\n\r\n"),
        ("a bare CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("a trailer without a colon", "3\r\nabc\r\n0\r\nX\r\n\r\n"),
        ("a folded trailer", "3\r\nabc\r\n0\r\nX: 1\r\n 2\r\n\r\n"),
    ];
    let origin = origin::answers(origin::ok("taken")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut wrong = Vec::new();
    for (name, body) in bodies {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        match client.response("POST").await {
            Ok(answer) if answer.status() == 400 => {
                wrong.extend(flaw(&mut client, &answer).await.map(|flaw| format!("{name}: {flaw}")));
            }
            Ok(answer) => wrong.push(format!("{name}: {}", answer.head.start)),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "instead of 400:\n{}", wrong.join("\n"));
    assert!(!origin.recorder.text().contains("\r\n0\r\n"), "whole at the origin: {}", origin.recorder.text());
}

#[tokio::test]
async fn an_endless_chunk_line_is_refused() {
    let origin = origin::answers(origin::ok("taken")).await;
    let proxy = Proxy::to(origin.address).await;
    for endless in [format!("3;{}", "x".repeat(100_000)), "0".repeat(100_000)] {
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        // The proxy may hang up before it has taken it all.
        let _ = client.try_send(endless).await;
        assert_eq!(client.answer_to("POST").await.status(), 400);
        client.assert_closed().await;
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, LIMITS).await;
    for _ in 0..20 {
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n").await;
        // A reset on account of these bytes would overtake the answer.
        let _ = client.try_send(pattern::bytes(300_000)).await;
        assert_eq!(client.answer_to("POST").await.status(), 413);
    }
    assert_eq!(origin.recorder.text(), "");
}

#[tokio::test]
async fn a_refusal_ends_a_pipeline_after_the_good_answers() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client
        .send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.answer_to("GET").await.status(), 200);
    let answer = client.answer_to("GET").await;
    assert_eq!(answer.status(), 400);
    assert_refusal(&mut client, &answer).await;
    assert_eq!(origin.only().target, "/1");
}
