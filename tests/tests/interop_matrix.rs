//! One table: HTTP/1.1 and HTTP/2, in clear text and over TLS, on both sides of the proxy, and in each of the sixteen pairs the
//! same messages by hyper: all kinds of bodies, trailers, interim responses, cookies, early responses, cancellation.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody, channel::Channel, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    header::HeaderValue,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use sluice_tests::{
    client::Raw,
    http2::{
        Http2,
        frames::{self, flag},
    },
    origin, pattern,
    proxy::Proxy,
    sides::{Side, between},
    tls::{self, Authority, BOTH, End, Identity, NAME},
    websocket::Io,
    within,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const LENGTHS: [usize; 6] = [0, 1, 16_384, 65_535, 65_536, 300_000];
/// No buffer on the way has room for it.
const LARGE: usize = 5_000_000;

type Body = BoxBody<Bytes, std::convert::Infallible>;
type Done<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

type Check = fn(&Cell) -> Done<'_>;

/// Ends a check with these words unless it holds.
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// A pair of sides.
struct Cell {
    downstream: Side,
    proxy: Proxy,
    authority: Authority,
}

/// A connection of hyper's.
enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

async fn connect(side: Side, address: SocketAddr, authority: &Authority) -> Box<dyn Io> {
    let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    if !side.is_tls() {
        return Box::new(stream);
    }
    let config = tls::offering(&authority.client(BOTH), &[side.alpn()]);
    let connecting = TlsConnector::from(Arc::new(config));
    let connecting = connecting.connect(ServerName::try_from(NAME).expect("a name"), stream);
    let stream = within("a handshake", connecting).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(side.alpn().as_bytes()), "what ALPN chose");
    Box::new(stream)
}

impl Cell {
    async fn sender(&self) -> Sender {
        let io = TokioIo::new(connect(self.downstream, self.proxy.address, &self.authority).await);
        if self.downstream.is_http2() {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            Sender::H2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            Sender::H1(sender)
        }
    }

    /// A request on a connection of its own, which ends with its response.
    async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Body,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let scheme = if self.downstream.is_tls() { "https" } else { "http" };
        let answer = match self.sender().await {
            Sender::H1(mut sender) => {
                let request = request.uri(path).header("host", NAME).body(body).expect("a request");
                within("a response", sender.send_request(request)).await
            }
            Sender::H2(mut sender) => {
                let uri = format!("{scheme}://{NAME}{path}");
                within("a response", sender.send_request(request.uri(uri).body(body).expect("a request")))
                    .await
            }
        };
        answer.map_err(|error| format!("{method} {path}: {error:?}"))
    }

    /// All of a response: its status, fields, content and trailers.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Body,
    ) -> Result<Whole, String> {
        let (head, body) = self.send(method, path, fields, body).await?.into_parts();
        let body = within("the body", body.collect()).await;
        let body = body.map_err(|error| format!("{method} {path}: {error:?}"))?;
        let trailers = body.trailers().cloned();
        Ok(Whole { status: head.status.as_u16(), fields: head.headers, trailers, content: body.to_bytes() })
    }
}

struct Whole {
    status: u16,
    fields: HeaderMap,
    trailers: Option<HeaderMap>,
    content: Bytes,
}

impl Whole {
    fn field(&self, name: &str) -> Option<&HeaderValue> {
        self.fields.get(name)
    }
}

fn empty() -> Body {
    Empty::new().boxed()
}

fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).boxed()
}

fn frames_of(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + Sync + 'static>) -> Body {
    StreamBody::new(stream::iter(frames.into_iter().map(Ok))).boxed()
}

// ---- what is checked in each cell ----

/// Bodies of known and unknown length, of which the response begins before or after their end.
async fn bodies(cell: &Cell) -> Result<(), String> {
    for length in LENGTHS {
        let expected = pattern::bytes(length);
        for path in ["/echo", "/copy"] {
            for body in [full(expected.clone()), frames_of(pattern::pieces(length as u64).map(Frame::data))] {
                let echo = cell.ask("POST", path, &[], body).await?;
                ensure!(
                    echo.status == 200 && echo.content == expected,
                    "POST {path}: {} of {length}",
                    echo.content.len()
                );
            }
        }
        for path in ["/bytes", "/chunked"] {
            let answer = cell.ask("GET", &format!("{path}/{length}"), &[], empty()).await?;
            let is_right = answer.status == 200 && answer.content == expected;
            ensure!(is_right, "GET {path}: {} of {length}", answer.content.len());
        }
    }
    Ok(())
}

/// An echo that streams in both directions at once.
async fn large_bodies(cell: &Cell) -> Result<(), String> {
    let body = frames_of(pattern::pieces(LARGE as u64).map(Frame::data));
    let mut echo = cell.send("POST", "/echo", &[], body).await?.into_body();
    let mut check = pattern::Check::default();
    while let Some(frame) = within("the echo", echo.frame()).await {
        let data = frame.map_err(|error| format!("{error:?}"))?.into_data();
        check.feed(&data.map_err(|frame| format!("{frame:?}"))?);
    }
    ensure!(check.seen() == LARGE as u64, "{} bytes came back", check.seen());
    Ok(())
}

async fn trailers(cell: &Cell) -> Result<(), String> {
    for pieces in [vec![], vec!["hello ", "world"], vec!["x"; 200]] {
        let sum = HeaderMap::from_iter([("x-sum".parse().expect("a name"), HeaderValue::from_static("11"))]);
        let expected = pieces.concat();
        let data = pieces.into_iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let frames: Vec<_> = data.chain([Frame::trailers(sum)]).collect();
        let mut fields = vec![("te", "trailers"), ("trailer", "x-sum")];
        if !cell.downstream.is_http2() {
            fields.push(("connection", "te"));
        }
        let echo = cell.ask("POST", "/echo", &fields, frames_of(frames)).await?;
        let sum = echo.trailers.as_ref().and_then(|trailers| trailers.get("x-sum"));
        ensure!(
            echo.content == expected && sum.is_some_and(|sum| sum == "11"),
            "{expected}: {:?}",
            echo.trailers
        );
    }
    Ok(())
}

async fn methods_and_statuses(cell: &Cell) -> Result<(), String> {
    let head = cell.ask("HEAD", "/bytes/77", &[], empty()).await?;
    let length = head.field("content-length").is_some_and(|length| length == "77");
    ensure!(
        head.status == 200 && length && head.content.is_empty(),
        "HEAD: {} {:?}",
        head.status,
        head.fields
    );
    for method in ["GET", "DELETE", "OPTIONS", "PUT"] {
        for status in [204, 304, 404, 503] {
            let answer = cell.ask(method, &format!("/status/{status}"), &[], empty()).await?;
            let has_content = status > 400;
            let is_right = answer.status == status && answer.content.is_empty() != has_content;
            ensure!(is_right, "{method} {status}: {} {:?}", answer.status, answer.content);
        }
    }
    Ok(())
}

/// HTTP/2 sends them in pieces; HTTP/1.1 has one line for all (RFC 9113, section 8.2.3).
async fn cookies(cell: &Cell) -> Result<(), String> {
    let crumbs: &[(&str, &str)] = match cell.downstream.is_http2() {
        true => &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")],
        false => &[("cookie", "a=1; b=2; c=3")],
    };
    let seen = cell.ask("GET", "/cookies", crumbs, empty()).await?.content;
    // Over HTTP/2 a server joins them itself.
    let seen = String::from_utf8_lossy(&seen).replace('|', "; ");
    ensure!(seen == "a=1; b=2; c=3", "the server has seen {seen}");
    let answer = cell.ask("GET", "/set-cookies", &[], empty()).await?;
    let lines: Vec<_> = answer.fields.get_all("set-cookie").iter().collect();
    ensure!(lines == ["one=1", "two=2"], "{lines:?}");
    Ok(())
}

/// A whole response of a server that reads nothing of the upload, which does not end.
async fn early_responses(cell: &Cell) -> Result<(), String> {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"part")).await.expect("there is room for one");
    let answer = cell.ask("POST", "/early/403", &[], body.boxed()).await?;
    ensure!(
        (answer.status, &*answer.content) == (403, &b"real"[..]),
        "{} {:?}",
        answer.status,
        answer.content
    );
    Ok(())
}

/// A client that leaves in the middle of a response: the server learns of it.
async fn cancellation(cell: &Cell) -> Result<(), String> {
    let mut answer = cell.send("GET", "/drip", &[], empty()).await?.into_body();
    let first = within("a part", answer.frame()).await;
    ensure!(matches!(first, Some(Ok(_))), "{first:?}");
    drop(answer);
    within("the server learns of it", async {
        loop {
            let count = cell.ask("GET", "/given-up", &[], empty()).await?;
            if count.content == "1" {
                return Ok(());
            }
        }
    })
    .await
}

// ---- the table ----

const CHECKS: [(&str, Check); 7] = [
    ("bodies", |cell| Box::pin(bodies(cell))),
    ("large bodies", |cell| Box::pin(large_bodies(cell))),
    ("trailers", |cell| Box::pin(trailers(cell))),
    ("methods and statuses", |cell| Box::pin(methods_and_statuses(cell))),
    ("cookies", |cell| Box::pin(cookies(cell))),
    ("early responses", |cell| Box::pin(early_responses(cell))),
    ("cancellation", |cell| Box::pin(cancellation(cell))),
];

/// An origin in clear text, secured where its side is.
async fn secured(origin: SocketAddr, side: Side, identity: &Identity) -> (SocketAddr, Option<tls::Server>) {
    if !side.is_tls() {
        return (origin, None);
    }
    let mut config = identity.server(BOTH);
    config.alpn_protocols = vec![side.alpn().into()];
    let server = tls::serve(origin, config, End::Proper).await;
    (server.address, Some(server))
}

/// All cells with servers of this side.
async fn rows(upstream: Side) {
    let mut wrong = Vec::new();
    for downstream in Side::ALL {
        let authority = Authority::new();
        let identity = authority.issue(&[NAME, "127.0.0.1"]);
        let real =
            if upstream.is_http2() { origin::real_http2("real").await } else { origin::real("real").await };
        let (address, _secured) = secured(real.address, upstream, &identity).await;
        let proxy = between(downstream, upstream, address, &identity, &authority.ca_file(), &[]).await;
        let cell = Cell { downstream, proxy, authority };
        for (what, check) in CHECKS {
            if let Err(error) = check(&cell).await {
                wrong.push(format!("{what}, {downstream:?} to {upstream:?}: {error}"));
            }
        }
        let version = if upstream.is_http2() { hyper::Version::HTTP_2 } else { hyper::Version::HTTP_11 };
        assert!(real.seen().iter().all(|seen| seen.version == version), "another version than {version:?}");
        let is_over =
            |now: &sluice_tests::proxy::Counters| now.connections == 0 && now.named("h2_streams") == 0;
        cell.proxy.counters_until("nothing is left", is_over).await;
        cell.proxy.drain().await.assert_clean();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_servers_of_http1() {
    rows(Side::H1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_servers_of_http1_over_tls() {
    rows(Side::H1Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_servers_of_http2() {
    rows(Side::H2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_servers_of_http2_over_tls() {
    rows(Side::H2Tls).await;
}

// ---- interim responses, of which hyper's servers have none ----

/// Sends 103 twice before the final response.
async fn hinting(upstream: Side) -> (SocketAddr, Box<dyn Send>) {
    if upstream.is_http2() {
        let origin = origin::reacts(&[], |_, stream, request| {
            let hint = frames::headers(stream, 0, frames::block(&[(":status", "103"), ("link", "</a>")]));
            request.is_complete.then(|| [hint.repeat(2), origin::answer(stream, "final")].concat())
        })
        .await;
        return (origin.origin.address, Box::new(origin));
    }
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(2);
    let origin = origin::answers(format!("{hint}{}", origin::ok("final"))).await;
    (origin.address, Box::new(origin))
}

/// The statuses of a response and what came before it, with the links of these.
async fn statuses(downstream: Side, proxy: &Proxy, authority: &Authority) -> Vec<(u16, String)> {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let line = |fields: &sluice_tests::wire::Fields, status: u16| {
        (status, fields.first("link").unwrap_or_default().to_owned())
    };
    let mut all = Vec::new();
    if downstream.is_http2() {
        let mut client = match downstream.is_tls() {
            true => Http2::connect_tls(proxy.address, &authority.client(BOTH)).await,
            false => Http2::connect(proxy.address).await,
        };
        let scheme = if downstream.is_tls() { "https" } else { "http" };
        let stream = client.next_stream();
        let fields = [(":method", "GET"), (":scheme", scheme), (":authority", NAME), (":path", "/")];
        client.send(frames::headers(stream, flag::END_STREAM, frames::block(&fields))).await;
        let answer = client.answer(stream).await;
        let status =
            |fields: &sluice_tests::wire::Fields| fields.first(":status").and_then(|text| text.parse().ok());
        all.extend(answer.interim.iter().map(|fields| line(fields, status(fields).unwrap_or_default())));
        all.push((answer.status(), answer.text()));
        return all;
    }
    let mut raw = None;
    let mut secure = None;
    if downstream.is_tls() {
        let client = secure.insert(tls::Client::connect(proxy.address, &authority.client(BOTH)).await);
        client.send(GET).await;
    } else {
        raw.insert(Raw::connect(proxy.address).await).send(GET).await;
    }
    for _ in 0..2 {
        let head = match (&mut raw, &mut secure) {
            (Some(raw), _) => raw.head().await,
            (_, secure) => secure.as_mut().expect("one of them").head().await,
        };
        all.push(line(&head.fields, head.status().expect("a status")));
    }
    let answer = match (&mut raw, &mut secure) {
        (Some(raw), _) => raw.answer_to("GET").await,
        (_, secure) => secure.as_mut().expect("one of them").answer_to("GET").await,
    };
    all.push((answer.status(), answer.text()));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_in_all_pairs() {
    let expected = [(103, "</a>".to_owned()), (103, "</a>".to_owned()), (200, "final".to_owned())];
    for upstream in Side::ALL {
        for downstream in Side::ALL {
            let authority = Authority::new();
            let identity = authority.issue(&[NAME, "127.0.0.1"]);
            let (origin, _alive) = hinting(upstream).await;
            let (address, _secured) = secured(origin, upstream, &identity).await;
            let proxy = between(downstream, upstream, address, &identity, &authority.ca_file(), &[]).await;
            let got = statuses(downstream, &proxy, &authority).await;
            assert_eq!(got, expected, "{downstream:?} to {upstream:?}");
        }
    }
}
