//! gRPC-Web through the proxy to servers of gRPC: both forms, clients of either version, the time of a call, and clients and servers
//! that do not do as they should.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::client::conn::http1;
use hyper::{Request as HttpRequest, Response as HttpResponse, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_tests::{
    client::Raw,
    eventually,
    grpc_codec::Plain,
    http2::{
        Answer, Ended, Http2,
        frames::{self, flag},
    },
    origin::{Http2Origin, Origin, Reacting, reacts},
    proxy::Proxy,
    wire::Framing,
    within,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Request, Response, Status};
use tonic_web::{GrpcWebCall, GrpcWebClientService};
use tower::Service;

// ---- messages ----

fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// The frame of gRPC-Web with these lines.
fn trailers_frame(lines: &str) -> Vec<u8> {
    [&[0x80][..], &(lines.len() as u32).to_be_bytes(), lines.as_bytes()].concat()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_text(data: &[u8]) -> String {
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        let character = |at: usize| char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
        (0..4).map(move |at| if at <= group.len() { character(at) } else { '=' }).collect::<String>()
    };
    data.chunks(3).map(group).collect()
}

/// Group by group, as clients do: padding may be in the middle.
fn from_text(text: &[u8]) -> Vec<u8> {
    assert_eq!(text.len() % 4, 0, "whole groups: {}", text.escape_ascii());
    let value = |&byte: &u8| ALPHABET.iter().position(|&one| one == byte).unwrap_or(0) as u32;
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, byte| bits << 6 | value(byte));
        let padding = group.iter().filter(|&&byte| byte == b'=').count();
        bits.to_be_bytes()[1..4 - padding].to_vec()
    };
    text.chunks(4).flat_map(group).collect()
}

/// The body of an answer with this type.
fn decoded(kind: &str, body: &[u8]) -> Vec<u8> {
    if kind.starts_with("application/grpc-web-text") { from_text(body) } else { body.to_vec() }
}

// ---- servers ----

/// The head of an answer of gRPC.
fn answer_head(stream: u32) -> Vec<u8> {
    frames::headers(stream, 0, frames::block(&[(":status", "200"), ("content-type", "application/grpc")]))
}

fn answer_end(stream: u32) -> Vec<u8> {
    let block = frames::block(&[("grpc-status", "0"), ("grpc-message", "fine")]);
    frames::headers(stream, flag::END_STREAM, block)
}

const END: &str = "grpc-status: 0\r\ngrpc-message: fine\r\n";

/// Sends back what has come, in pieces, and trailers.
fn echo(_: usize, stream: u32, request: &Answer) -> Option<Vec<u8>> {
    let pieces = request.body.chunks(10_001).flat_map(|piece| frames::data(stream, 0, piece));
    request.is_complete.then(|| [answer_head(stream), pieces.collect(), answer_end(stream)].concat())
}

/// A proxy to this server that knows gRPC-Web at `/web`, and elsewhere not.
async fn in_front_of(server: SocketAddr) -> Proxy {
    in_front_of_with(&format!("h2c://{server}"), "").await
}

async fn in_front_of_with(server: &str, rest: &str) -> Proxy {
    let route = |path: &str, rest: &str| {
        format!("[[route]]\npath_prefix = \"{path}\"\nupstream = \"server\"\n{rest}\n")
    };
    let upstream = format!("[[upstream]]\nname = \"server\"\nservers = [\"{server}\"]\n");
    let web = route("/web", &format!("grpc_web = true\n{rest}"));
    Proxy::configured(1, &format!("{upstream}{web}{}", route("/", ""))).await
}

async fn echoing() -> (Reacting, Proxy) {
    let server = reacts(&[], echo).await;
    let proxy = in_front_of(server.origin.address).await;
    (server, proxy)
}

fn h1(kind: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /web/S/M HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nX-Grpc-Web: 1\r\n{fields}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Status, type and body of the answer to a call by either version, which names no other length than that of its framing.
async fn call(
    proxy: &Proxy,
    is_h2: bool,
    kind: &str,
    accept: Option<&str>,
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    if is_h2 {
        let mut client = Http2::connect(proxy.address).await;
        let length = body.len().to_string();
        let mut fields = vec![("content-type", kind), ("x-grpc-web", "1"), ("content-length", &length)];
        fields.extend(accept.map(|accept| ("accept", accept)));
        let stream = client.open("POST", "/web/S/M", &fields).await;
        client.upload(stream, body).await.expect("the proxy takes it");
        let answer = client.answer(stream).await;
        assert_eq!((answer.ended, answer.trailers.is_some()), (Some(Ended::Properly), false), "{answer:?}");
        assert_eq!(answer.field("content-length"), None);
        let kind = answer.field("content-type").unwrap_or_default().to_owned();
        return (answer.status(), kind, answer.body);
    }
    let mut client = Raw::connect(proxy.address).await;
    let accept = accept.map(|accept| format!("Accept: {accept}\r\n")).unwrap_or_default();
    client.send(h1(kind, &accept, body)).await;
    let answer = client.answer_to("POST").await;
    assert_eq!((answer.framing, answer.trailers.0.len()), (Framing::Chunked, 0), "{answer:?}");
    // The connection goes on.
    client.send(h1(kind, &accept, body)).await;
    let again = client.answer_to("POST").await;
    let kind = answer.field("content-type").unwrap_or_default().to_owned();
    assert!(decoded(&kind, &again.body) == decoded(&kind, &answer.body));
    (answer.status(), kind, answer.body)
}

#[tokio::test]
async fn calls_of_both_forms_are_answered_in_the_form_that_is_wanted() {
    let (server, proxy) = echoing().await;
    for is_h2 in [false, true] {
        for (kind, accept, wanted, to_server) in [
            ("application/grpc-web", None, "application/grpc-web", "application/grpc"),
            ("application/grpc-web+proto", None, "application/grpc-web+proto", "application/grpc+proto"),
            ("application/grpc-web-text", None, "application/grpc-web-text", "application/grpc"),
            (
                "application/grpc-web-text+proto",
                Some("application/grpc-web-text"),
                "application/grpc-web-text+proto",
                "application/grpc+proto",
            ),
            (
                "application/grpc-web",
                Some("application/grpc-web-text"),
                "application/grpc-web-text",
                "application/grpc",
            ),
            ("application/grpc-web-text", Some("*/*"), "application/grpc-web-text", "application/grpc"),
        ] {
            for length in [0, 1, 2, 3, 1_000, 50_000] {
                let sent = message(&(0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
                let is_text = kind.starts_with("application/grpc-web-text");
                let body = if is_text { to_text(&sent).into_bytes() } else { sent.clone() };
                let (status, answered, body) = call(&proxy, is_h2, kind, accept, &body).await;
                assert_eq!((status, &*answered), (200, wanted), "{kind} {accept:?}");
                let whole = [sent.clone(), trailers_frame(END)].concat();
                assert!(decoded(wanted, &body) == whole, "{kind} {accept:?} {length} {is_h2}");
                let arrivals = server.arrivals();
                let (_, request) = arrivals.requests.iter().next_back().expect("a request");
                assert!(request.body == sent, "what the server got: {kind} {length}");
                assert_eq!(request.field("content-type"), Some(to_server));
                assert_eq!((request.field("te"), request.field("x-grpc-web")), (Some("trailers"), Some("1")));
                let length = (!is_text).then(|| sent.len().to_string());
                assert_eq!(request.field("content-length"), length.as_deref());
            }
        }
    }
}

#[tokio::test]
async fn text_may_come_in_pieces_with_padding_of_their_own() {
    let (_server, proxy) = echoing().await;
    let parts = [message(b"a"), message(b"bc"), message(b"def"), message(b"")];
    let whole = parts.concat();
    // Each message by itself, and any cut of that.
    let text: String = parts.iter().map(|part| to_text(part)).collect();
    assert!(text.trim_end_matches('=').contains('='));
    for step in [1, 2, 3, 5, text.len()] {
        let mut client = Raw::connect(proxy.address).await;
        client
            .send("POST /web/S/M HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web-text\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for piece in text.as_bytes().chunks(step) {
            client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
        }
        client.send("0\r\n\r\n").await;
        let answer = client.answer_to("POST").await;
        assert_eq!(from_text(&answer.body), [whole.clone(), trailers_frame(END)].concat(), "by {step}");
    }
}

/// Messages pass as they come, in both directions, although the answer is text.
#[tokio::test]
async fn messages_do_not_wait_for_the_next_one() {
    let server = reacts(&[], |_, stream, request| {
        let is_first = request.body == message(b"ab");
        is_first.then(|| [answer_head(stream), frames::data(stream, 0, &request.body)].concat())
    })
    .await;
    let proxy = in_front_of(server.origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let fields = [("content-type", "application/grpc-web-text")];
    let stream = client.open("POST", "/web/S/M", &fields).await;
    client.upload_part(stream, to_text(&message(b"ab")).as_bytes()).await.expect("the proxy takes it");
    // The answer is 7 bytes long: the last group is not held back until it is whole.
    client.until("the first message", |all| all.stream(stream).is_some_and(|one| one.body.len() == 12)).await;
    let answer = client.stream(stream).expect("an answer");
    assert_eq!((from_text(&answer.body), answer.ended), (message(b"ab"), None));
}

#[tokio::test]
async fn an_answer_without_messages_stays_in_its_head() {
    let server = reacts(&[], |_, stream, request| {
        let fields = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", "5"),
            ("content-length", "0"),
        ];
        request.is_complete.then(|| frames::headers(stream, flag::END_STREAM, frames::block(&fields)))
    })
    .await;
    let proxy = in_front_of(server.origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let body = to_text(&message(b"abc"));
        client.send(h1(kind, "", body.as_bytes())).await;
        let answer = client.answer_to("POST").await;
        let said = (answer.status(), answer.field("grpc-status"), answer.field("content-type"));
        assert_eq!(said, (200, Some("5"), Some(kind)));
        assert_eq!((answer.framing, answer.text()), (Framing::Length(0), String::new()));
    }
}

#[tokio::test]
async fn other_requests_and_answers_pass_as_they_are() {
    let server = reacts(&[], |_, stream, request| {
        let length = request.body.len().to_string();
        let fields = [(":status", "418"), ("content-type", "text/html"), ("content-length", &length)];
        let head =
            frames::headers(stream, if length == "0" { flag::END_STREAM } else { 0 }, frames::block(&fields));
        let body =
            if length == "0" { Vec::new() } else { frames::data(stream, flag::END_STREAM, &request.body) };
        request.is_complete.then(|| [head, body].concat())
    })
    .await;
    let proxy = in_front_of(server.origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let body = to_text(&message(b"abc"));
    let call = h1("application/grpc-web", "", body.as_bytes());
    let elsewhere = String::from_utf8(call.clone()).expect("text").replace("/web/", "/");
    let preflight = "OPTIONS /web/S/M HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let put = String::from_utf8(call.clone()).expect("text").replace("POST", "PUT");
    for (request, method, came, sent) in [
        (String::from_utf8(call).expect("text"), "POST", &*body, Some("application/grpc")),
        (elsewhere, "POST", &*body, Some("application/grpc-web")),
        (put, "PUT", &*body, Some("application/grpc-web")),
        (preflight.to_owned(), "OPTIONS", "", None),
    ] {
        client.send(&request).await;
        let answer = client.answer_to(method).await;
        assert_eq!((answer.status(), answer.field("content-type")), (418, Some("text/html")), "{request}");
        assert_eq!(
            (answer.framing, &*answer.text()),
            (Framing::Length(came.len() as u64), came),
            "{request}"
        );
        let arrivals = server.arrivals();
        let (_, request) = arrivals.requests.iter().next_back().expect("a request");
        assert_eq!((request.field("content-type"), &*request.text()), (sent, came));
    }
}

/// Servers of HTTP/1.1 that speak gRPC have their trailers behind the last chunk.
#[tokio::test]
async fn a_server_of_http1_is_a_server_of_grpc_too() {
    let server = Origin::scripted(|mut peer| async move {
        loop {
            let request = peer.request().await?;
            let body = request.body;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\nTransfer-Encoding: chunked\r\n\r\n";
            let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
            peer.send([head.as_bytes(), &chunk, b"0\r\ngrpc-status: 0\r\nGrpc-Message: fine\r\n\r\n"].concat()).await?;
        }
    })
    .await;
    let proxy = in_front_of_with(&format!("http://{}", server.address), "").await;
    for is_h2 in [false, true] {
        for kind in ["application/grpc-web+proto", "application/grpc-web-text+proto"] {
            let sent = message(&[7; 10_000]);
            let is_text = kind.contains("text");
            let body = if is_text { to_text(&sent).into_bytes() } else { sent.clone() };
            let (status, answered, body) = call(&proxy, is_h2, kind, None, &body).await;
            assert_eq!((status, &*answered), (200, kind));
            assert!(decoded(kind, &body) == [sent, trailers_frame(END)].concat(), "{is_h2} {kind}");
        }
    }
    let text = server.recorder.text();
    assert!(
        text.contains("TE: trailers\r\nConnection: TE\r\n")
            && text.contains("Content-Type: application/grpc+proto\r\n")
    );
}

// ---- failures ----

#[tokio::test]
async fn failures_of_our_own_are_in_the_head() {
    let proxy = in_front_of_with("h2c://127.0.0.1:1", "limits.body_bytes = 1000").await;
    let mut client = Raw::connect(proxy.address).await;
    let small = to_text(&message(b"abc"));
    let large = to_text(&message(&[0; 2_000]));
    for (path, kind, body, status, grpc, answered) in [
        ("/web/S/M", "application/grpc-web", &small, 200, Some("14"), "application/grpc-web"),
        (
            "/web/S/M",
            "application/grpc-web-text+proto",
            &small,
            200,
            Some("14"),
            "application/grpc-web-text+proto",
        ),
        ("/web/S/M", "application/grpc-web-text", &large, 200, Some("8"), "application/grpc-web-text"),
        ("/S/M", "application/grpc-web", &small, 502, None, "text/plain; charset=utf-8"),
    ] {
        client
            .send(String::from_utf8(h1(kind, "", body.as_bytes())).expect("text").replace("/web/S/M", path))
            .await;
        let answer = client.answer_to("POST").await;
        let said = (answer.status(), answer.field("grpc-status"), answer.field("content-type"));
        assert_eq!(said, (status, grpc, Some(answered)), "{path} {kind}");
        assert_eq!(answer.text().is_empty(), grpc.is_some());
        client = Raw::connect(proxy.address).await;
    }
}

/// What is no base64 is refused, whole or in the middle, and the neighbours on the connection are not the worse for it.
#[tokio::test]
async fn what_is_no_base64_is_refused() {
    let (server, proxy) = echoing().await;
    let good = to_text(&message(b"neighbour"));
    for bad in ["!!!!", "AAAAA", "AAAA=", "AA=A", "====", "AAAA\r\n", "AAAAAA-_"] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(h1("application/grpc-web-text", "", bad.as_bytes())).await;
        let answer = client.answer_to("POST").await;
        let said = (answer.status(), answer.field("grpc-status"), answer.field("grpc-message"));
        assert_eq!(said, (200, Some("13"), Some("gRPC-Web body is not base64")), "{bad:?}");

        let mut client = Http2::connect(proxy.address).await;
        let fields = [("content-type", "application/grpc-web-text")];
        let neighbour = client.open("POST", "/web/S/M", &fields).await;
        let stream = client.open("POST", "/web/S/M", &fields).await;
        client.upload_part(stream, good.as_bytes()).await.expect("the proxy takes it");
        server.wait_for("the beginning", |all| all.requests.values().any(|one| one.body.len() == 14)).await;
        // It may be reset before its end.
        let _ = client.upload(stream, bad.as_bytes()).await;
        let answer = client.answer(stream).await;
        assert_eq!((answer.status(), answer.field("grpc-status")), (200, Some("13")), "{bad:?} {answer:?}");
        client.upload(neighbour, good.as_bytes()).await.expect("the proxy takes it");
        let answer = client.answer(neighbour).await;
        assert_eq!(from_text(&answer.body), [message(b"neighbour"), trailers_frame(END)].concat());
    }
    assert!(proxy.counters().await.named("bad_requests") >= 14);
}

/// Messages are the server's concern: one that is cut off, and one that announces 4 GiB, pass as they are.
#[tokio::test]
async fn odd_messages_pass_to_the_server() {
    let (server, proxy) = echoing().await;
    for sent in [&b"\0\0\0\0\x09abc"[..], b"\0\xff\xff\xff\xffabc", b"\0\0", b"\x80\0\0\0\0", b"\xff"] {
        let (status, _, body) =
            call(&proxy, true, "application/grpc-web-text", None, to_text(sent).as_bytes()).await;
        assert_eq!((status, from_text(&body)), (200, [sent, &trailers_frame(END)].concat()));
        let arrivals = server.arrivals();
        assert_eq!(arrivals.requests.values().next_back().expect("a request").body, sent);
    }
    // What announces much and sends nothing more is cancelled with its client.
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.open("POST", "/web/S/M", &[("content-type", "application/grpc-web")]).await;
    client.upload_part(stream, b"\0\xff\xff\xff\xffa").await.expect("the proxy takes it");
    server.wait_for("the prefix", |all| all.requests.values().any(|one| one.body.len() == 6)).await;
    client.reset_connection();
    server
        .wait_for("a reset", |all| {
            all.requests.values().any(|one| matches!(one.ended, Some(Ended::Reset(_))))
        })
        .await;
}

/// An answer that breaks off must not look complete.
#[tokio::test]
async fn an_answer_that_breaks_off_has_no_end() {
    let has_begun = Arc::new(Notify::new());
    let told = has_begun.clone();
    let server = Http2Origin::scripted(&[], move |_, mut http| {
        let told = told.clone();
        async move {
            for stream in [1, 3, 5, 7] {
                http.wait(|all| all.stream(stream).is_some_and(|one| one.is_complete)).await?;
                http.try_send([answer_head(stream), frames::data(stream, 0, message(b"abc"))].concat())
                    .await?;
                told.notified().await;
                http.try_send(frames::reset(stream, frames::code::INTERNAL_ERROR)).await?;
            }
            Ok(())
        }
    })
    .await;
    let proxy = in_front_of(server.address).await;
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let body = to_text(&message(b"abc"));
        let mut client = Raw::connect(proxy.address).await;
        client.send(h1(kind, "", body.as_bytes())).await;
        assert_eq!(client.head().await.status().expect("a status"), 200);
        has_begun.notify_one();
        client.body_to(Framing::Chunked, |_| {}).await.expect_err("the last chunk is missing");
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.open("POST", "/web/S/M", &[("content-type", kind)]).await;
        client.upload(stream, body.as_bytes()).await.expect("the proxy takes it");
        client.until("the message", |all| all.stream(stream).is_some_and(|one| !one.body.is_empty())).await;
        has_begun.notify_one();
        let answer = client.answer(stream).await;
        assert!(matches!(answer.ended, Some(Ended::Reset(_))) && !answer.is_complete, "{answer:?}");
    }
}

// ---- the time of a call ----

/// Answers with these bytes of a body, and no end.
async fn stalls_after(body: &'static [u8]) -> (Reacting, Proxy) {
    let server = reacts(&[], move |_, stream, request| {
        let data = if body.is_empty() { Vec::new() } else { frames::data(stream, 0, body) };
        request.is_complete.then(|| [answer_head(stream), data].concat())
    })
    .await;
    let proxy = in_front_of(server.origin.address).await;
    (server, proxy)
}

const WHOLE: &[u8] = b"\0\0\0\0\x03abc";
const LATE: &str = "grpc-status: 4\r\ngrpc-message: the server did not answer in time\r\n";

#[tokio::test]
async fn a_deadline_between_two_messages_ends_the_answer() {
    for sent in [WHOLE, b""] {
        let (server, proxy) = stalls_after(sent).await;
        // The connection goes on each time.
        let mut client = Raw::connect(proxy.address).await;
        for kind in ["application/grpc-web", "application/grpc-web-text"] {
            let body = to_text(WHOLE);
            client.send(h1(kind, "grpc-timeout: 300m\r\n", body.as_bytes())).await;
            let answer = client.answer_to("POST").await;
            assert_eq!(decoded(kind, &answer.body), [sent, &trailers_frame(LATE)].concat());
        }
        // gRPC itself has them as trailers, in either version.
        let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "300m")];
        let mut http2 = Http2::connect(proxy.address).await;
        let stream = http2.open("POST", "/S/M", &fields).await;
        http2.upload(stream, WHOLE).await.expect("the proxy takes it");
        let answer = http2.answer(stream).await;
        assert_eq!((answer.ended, &*answer.body), (Some(Ended::Properly), sent));
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(trailers.first("grpc-status"), Some("4"));
        assert_eq!(trailers.first("grpc-message"), Some("the server did not answer in time"));
        let request = h1("application/grpc", "TE: trailers\r\ngrpc-timeout: 300m\r\n", WHOLE);
        client.send(&request).await;
        let answer = client.answer_to("POST").await;
        assert_eq!((&*answer.body, answer.trailers.first("grpc-status")), (sent, Some("4")));
        // Each was cancelled at the server.
        let arrivals = server
            .wait_for("four resets", |all| {
                all.requests.values().filter(|one| matches!(one.ended, Some(Ended::Reset(_)))).count() == 4
            })
            .await;
        assert!(arrivals.requests.values().all(|one| one.ended == Some(Ended::Reset(frames::code::CANCEL))));
        assert_eq!(proxy.counters().await.named("request_timeouts"), 4);
    }
}

/// Within a message, trailers would be taken for a fault of the server.
#[tokio::test]
async fn a_deadline_within_a_message_is_a_reset() {
    for sent in [&b"\0\0\0\0\x03ab"[..], b"\0\0\0"] {
        let (_server, proxy) = stalls_after(sent).await;
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(h1("application/grpc-web-text", "grpc-timeout: 300m\r\n", to_text(WHOLE).as_bytes()))
            .await;
        client.response("POST").await.expect_err("the last chunk is missing");
        let fields = [("content-type", "application/grpc"), ("grpc-timeout", "300m")];
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.open("POST", "/S/M", &fields).await;
        client.upload(stream, WHOLE).await.expect("the proxy takes it");
        assert_eq!(client.reset_code(stream).await, frames::code::CANCEL);
        assert!(client.stream(stream).expect("an answer").trailers.is_none());
    }
}

/// What is no call has a time, too, and no such end.
#[tokio::test]
async fn other_answers_end_by_a_reset() {
    let server = reacts(&[], |_, stream, request| {
        let head =
            frames::headers(stream, 0, frames::block(&[(":status", "200"), ("content-type", "text/plain")]));
        request.is_complete.then_some(head)
    })
    .await;
    let proxy =
        in_front_of_with(&format!("h2c://{}", server.origin.address), "timeouts.request = \"300ms\"").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.ask("GET", "/web/S/M", &[]).await;
    assert_eq!(client.reset_code(stream).await, frames::code::CANCEL);
}

#[tokio::test]
async fn a_deadline_before_the_answer_is_in_its_head() {
    let server = reacts(&[], |_, _, _| None).await;
    let proxy = in_front_of(server.origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client
        .send(h1("application/grpc-web-text+proto", "grpc-timeout: 200m\r\n", to_text(WHOLE).as_bytes()))
        .await;
    let answer = client.answer_to("POST").await;
    let said = (answer.status(), answer.field("grpc-status"), answer.field("content-type"));
    assert_eq!(said, (200, Some("4"), Some("application/grpc-web-text+proto")));
    let request = server.arrivals().requests.into_values().next().expect("a request");
    assert_eq!(request.field("grpc-timeout"), Some("200m"));
}

// ---- tonic on both sides ----

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

const PIECE: usize = 16_000;

/// `Flood` sends messages without end and counts them, `Repeat` sends ten, `Fail` fails, others give the message back.
async fn answer(request: HttpRequest<Incoming>, sent: Arc<AtomicUsize>) -> HttpResponse<Body> {
    let mut grpc = tonic::server::Grpc::new(Plain);
    let path = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    match &*path {
        "Flood" => {
            let flood = move |_: Request<Bytes>| {
                let sent = sent.clone();
                async move {
                    let messages = stream::repeat_with(move || {
                        sent.fetch_add(1, Ordering::SeqCst);
                        Ok(Bytes::from(vec![b'x'; PIECE]))
                    });
                    Ok(Response::new(Box::pin(messages) as Messages))
                }
            };
            grpc.server_streaming(tower::service_fn(flood), request).await
        }
        "Repeat" => {
            let repeat = |request: Request<Bytes>| async move {
                let messages = stream::iter(vec![Ok::<_, Status>(request.into_inner()); 10]);
                Ok(Response::new(Box::pin(messages) as Messages))
            };
            grpc.server_streaming(tower::service_fn(repeat), request).await
        }
        "Fail" => {
            let fail = |_: Request<Bytes>| async {
                Err::<Response<Bytes>, Status>(Status::new(Code::NotFound, "no such thing: 100%"))
            };
            grpc.unary(tower::service_fn(fail), request).await
        }
        _ => {
            let echo = |request: Request<Bytes>| async { Ok(Response::new(request.into_inner())) };
            grpc.unary(tower::service_fn(echo), request).await
        }
    }
}

/// A server of gRPC by tonic, and how many messages its floods have.
async fn tonic_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let sent = Arc::new(AtomicUsize::new(0));
    let its = sent.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sent = its.clone();
            let service = service_fn(move |request| {
                let sent = sent.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(request, sent).await) }
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // The end of a connection is no failure of the test.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, sent)
}

/// HTTP/1.1 to the proxy.
struct Transport(http1::SendRequest<GrpcWebCall<Body>>);

impl Service<HttpRequest<GrpcWebCall<Body>>> for Transport {
    type Response = HttpResponse<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<HttpResponse<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: HttpRequest<GrpcWebCall<Body>>) -> Self::Future {
        request.headers_mut().insert("host", "test".parse().expect("a value"));
        Box::pin(self.0.send_request(request))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_web_calls_a_server_by_tonic() {
    let (server, _) = tonic_server().await;
    let proxy = in_front_of(server).await;
    let stream = within("a connection", TcpStream::connect(proxy.address)).await.expect("a connection");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let mut client = Grpc::new(GrpcWebClientService::new(Transport(sender)));
    let path =
        |method: &str| format!("/web/{method}").parse::<hyper::http::uri::PathAndQuery>().expect("a path");
    let some = |length: usize| Bytes::from((0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    for length in [0, 1, 20_000, 400_000] {
        within("a client", client.ready()).await.expect("a connection");
        let response = client.unary(Request::new(some(length)), path("Echo"), Plain);
        assert_eq!(within("an answer", response).await.expect("an answer").into_inner(), some(length));
        within("a client", client.ready()).await.expect("a connection");
        let response = client.server_streaming(Request::new(some(length)), path("Repeat"), Plain);
        let mut messages = within("an answer", response).await.expect("an answer").into_inner();
        for _ in 0..10 {
            assert_eq!(within("a message", messages.message()).await.expect("a message"), Some(some(length)));
        }
        assert_eq!(within("the end", messages.message()).await.expect("OK"), None);
    }
    within("a client", client.ready()).await.expect("a connection");
    let response = client.unary(Request::new(some(1)), path("Fail"), Plain);
    let status = within("an answer", response).await.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such thing: 100%"));
}

/// A client that does not read stops the stream of its server, and not its neighbours; memory does not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_stops_its_server_and_nothing_else() {
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let (server, sent) = tonic_server().await;
        let proxy = in_front_of(server).await;
        let neighbour = async || {
            let mut client = Raw::connect(proxy.address).await;
            let body = to_text(&message(&[1; 30_000]));
            client.send(h1("application/grpc-web-text", "", body.as_bytes())).await;
            let whole = from_text(&client.answer_to("POST").await.body);
            assert!(whole.starts_with(&message(&[1; 30_000])));
        };
        neighbour().await;
        let before = proxy.resident_bytes();
        let mut slow = Raw::connect_narrow(proxy.address).await;
        let text =
            h1(kind, "", &if kind.contains("text") { to_text(WHOLE).into_bytes() } else { WHOLE.to_vec() });
        slow.send(String::from_utf8_lossy(&text).replace("/S/M", "/S/Flood")).await;
        eventually("the flood begins", async || sent.load(Ordering::SeqCst) > 0).await;
        // It stands still when nothing was sent between two looks.
        let last = AtomicUsize::new(0);
        eventually("the flood stops", async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = sent.load(Ordering::SeqCst);
            last.swap(now, Ordering::SeqCst) == now
        })
        .await;
        let last = last.into_inner();
        // Windows, and what the kernel takes on both ways.
        assert!(last * PIECE < 8_000_000, "{kind}: {last} messages");
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 4_000_000, "{kind}: {grown} bytes");
        for _ in 0..20 {
            neighbour().await;
        }
        assert!(sent.load(Ordering::SeqCst) - last < 10, "{kind}");
        // It goes on when the client reads.
        while sent.load(Ordering::SeqCst) < last + 20 {
            within("more", slow.some()).await.expect("no error").expect("no end");
        }
        drop(slow);
        proxy.drain().await;
    }
}

#[test]
fn the_text_of_the_tests_is_base64() {
    for (data, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(to_text(data.as_bytes()), text);
        assert_eq!(from_text(text.as_bytes()), data.as_bytes());
    }
}
