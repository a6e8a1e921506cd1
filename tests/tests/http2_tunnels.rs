//! Tunnels of which at least one side is a stream of HTTP/2: WebSocket by extended CONNECT (RFC 8441) in all pairs with Upgrade of
//! HTTP/1.1, and CONNECT. Messages, ends and resets of either side, slow readers, refusals, and what each side may see of the other.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, ext::Protocol, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_tests::{
    assert_took,
    client::Raw,
    http2::{
        Ended, Http2,
        frames::{self, Frame, PREFACE, code, flag, kind, setting},
    },
    origin::{self, Go, Http2Origin, Origin, Peer},
    pattern,
    proxy::{Counters, Proxy},
    tls::{self, Authority, BOTH, End, NAME},
    within,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, protocol::Role},
};

/// No buffer on the way has room for it.
const LARGE: usize = 16 << 20;

const WS_ROUTE: &str = "upgrade = [\"websocket\"]";

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
type AnyIo = Box<dyn Io>;

/// A protocol, in clear text or over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    H1,
    H2,
    H2Tls,
}

impl Side {
    const ALL: [Self; 3] = [Self::H1, Self::H2, Self::H2Tls];
}

/// A server that runs until it is dropped.
struct Server {
    address: SocketAddr,
    _alive: Vec<Box<dyn Send>>,
}

// ---- servers by others ----

/// Sends every message back.
async fn echo_messages(io: impl Io) {
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
    // Else the stream is reset.
    let _ = socket.get_mut().shutdown().await;
}

/// tungstenite behind Upgrade of HTTP/1.1, which checks the handshake.
async fn tungstenite_server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut clients = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            clients.spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Server { address, _alive: vec![Box::new(server)] }
}

/// hyper's HTTP/2 with extended CONNECT, and tungstenite's frames on its streams. Every connection may carry many.
async fn hyper_server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.enable_connect_protocol();
            connections.spawn(builder.serve_connection(TokioIo::new(stream), service_fn(accept_websocket)));
        }
    });
    Server { address, _alive: vec![Box::new(server)] }
}

async fn accept_websocket(
    mut request: Request<hyper::body::Incoming>,
) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
    let fields = request.headers();
    let is_one = request.method() == "CONNECT"
        && protocol.as_deref() == Some("websocket")
        && fields.get("sec-websocket-version").is_some_and(|version| version == "13")
        && ["sec-websocket-key", "connection", "upgrade", "content-length"]
            .iter()
            .all(|name| !fields.contains_key(*name));
    let mut answer = Response::new(Empty::new());
    if !is_one {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(answer);
    }
    if let Some(offered) = fields.get("sec-websocket-protocol").cloned() {
        answer.headers_mut().insert("sec-websocket-protocol", offered);
    }
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            echo_messages(TokioIo::new(upgraded)).await;
        }
    });
    Ok(answer)
}

async fn server(side: Side, authority: &Authority) -> Server {
    match side {
        Side::H1 => tungstenite_server().await,
        Side::H2 => hyper_server().await,
        Side::H2Tls => {
            let mut plain = hyper_server().await;
            let mut config = authority.issue(&["localhost", NAME]).server(BOTH);
            config.alpn_protocols = vec![b"h2".to_vec()];
            let secured = tls::serve(plain.address, config, End::Proper).await;
            plain.address = secured.address;
            plain._alive.push(Box::new(secured));
            plain
        }
    }
}

/// A group for servers of this side.
fn group(name: &str, side: Side, address: SocketAddr, authority: &Authority) -> String {
    match side {
        Side::H1 => format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{address}\"]\n"),
        Side::H2 => format!("[[upstream]]\nname = \"{name}\"\nservers = [\"h2c://{address}\"]\n"),
        Side::H2Tls => format!(
            "[[upstream]]\nname = \"{name}\"\nservers = [\"https://{address}\"]\nprotocol = \"h2\"\n\
             tls = {{ ca = \"{}\", server_name = \"localhost\" }}\n",
            authority.ca_file().display()
        ),
    }
}

/// Both listeners and a route for WebSocket.
async fn proxy_to(side: Side, address: SocketAddr, more: &str) -> (Proxy, Authority) {
    let authority = Authority::new();
    let proxy = proxy_with(&authority, side, address, more).await;
    (proxy, authority)
}

async fn proxy_with(authority: &Authority, side: Side, address: SocketAddr, more: &str) -> Proxy {
    let group = group("app", side, address, authority);
    Proxy::configured(
        1,
        &format!("{more}{group}[[route]]\nupstream = \"app\"\n{WS_ROUTE}\nconnect = [443]\n"),
    )
    .await
}

// ---- clients by others ----

/// A connection of hyper's on which tunnels are opened.
#[derive(Clone)]
struct Tunnels {
    sender: hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    scheme: &'static str,
}

impl Tunnels {
    async fn over(scheme: &'static str, io: AnyIo) -> Self {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(64 << 20);
        let (sender, connection) =
            within("a handshake", builder.handshake(TokioIo::new(io))).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { sender, scheme }
    }

    /// Asks for a WebSocket by extended CONNECT. The settings that permit it may still be on their way.
    async fn ask(&self, fields: &[(&str, &str)]) -> Response<hyper::body::Incoming> {
        let deadline = Instant::now() + sluice_tests::PATIENCE;
        loop {
            let mut request = Request::builder()
                .method("CONNECT")
                .uri(format!("{}://{NAME}/chat", self.scheme))
                .extension(Protocol::from_static("websocket"))
                .header("sec-websocket-version", "13");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let mut sender = self.sender.clone();
            sender.ready().await.expect("a stream");
            match within("an answer", sender.send_request(request.body(Empty::new()).expect("a request")))
                .await
            {
                Ok(answer) => return answer,
                Err(error) if Instant::now() < deadline && format!("{error:?}").contains("protocol") => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    async fn open(&self) -> WebSocketStream<AnyIo> {
        let answer = self.ask(&[]).await;
        assert_eq!(answer.status(), 200);
        for gone in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
            assert!(!answer.headers().contains_key(gone), "{gone}: {answer:?}");
        }
        let upgraded = within("the stream", hyper::upgrade::on(answer)).await.expect("a tunnel");
        let io: AnyIo = Box::new(TokioIo::new(upgraded));
        WebSocketStream::from_raw_socket(io, Role::Client, None).await
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// A WebSocket through the proxy.
async fn client(side: Side, proxy: &Proxy) -> WebSocketStream<AnyIo> {
    let io: AnyIo = Box::new(connect(proxy.address).await);
    match side {
        Side::H1 => {
            let (socket, answer) =
                within("the handshake", client_async("ws://test/chat", io)).await.expect("a handshake");
            assert_eq!(answer.status(), 101);
            socket
        }
        Side::H2 | Side::H2Tls => Tunnels::over("http", io).await.open().await,
    }
}

async fn over_tls(address: SocketAddr, authority: &Authority) -> AnyIo {
    let config = tls::offering(&authority.client(BOTH), &["h2"]);
    let name = rustls::pki_types::ServerName::try_from(NAME).expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, connect(address).await);
    Box::new(within("a handshake", connecting).await.expect("a handshake"))
}

async fn echoes(socket: &mut WebSocketStream<AnyIo>, message: Message) {
    socket.send(message.clone()).await.expect("it is taken");
    let echo = within("the echo", socket.next()).await.expect("an echo").expect("a message");
    assert!(echo == message, "{} bytes came back as {}", message.len(), echo.len());
}

async fn closes(mut socket: WebSocketStream<AnyIo>) {
    socket.close(None).await.expect("it is taken");
    let closing = within("the closing handshake", socket.next()).await.expect("a frame").expect("a frame");
    assert!(closing.is_close(), "{closing:?}");
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    // Else the stream is reset.
    let _ = socket.get_mut().shutdown().await;
}

/// No tunnel is open, and so many were.
async fn until_over(proxy: &Proxy, opened: u64) -> Counters {
    let is_over = |now: &Counters| now.named("tunnels") == 0 && now.named("tunnels_opened") == opened;
    proxy.counters_until("all tunnels are over", is_over).await
}

/// The same, and so many of them were aborted.
async fn assert_over(proxy: &Proxy, opened: u64, aborted: u64) {
    let after = until_over(proxy, opened).await;
    assert_eq!(after.named("tunnels_aborted"), aborted, "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_in_all_pairs() {
    for to in Side::ALL {
        let authority = Authority::new();
        let server = server(to, &authority).await;
        let proxy = proxy_with(&authority, to, server.address, "").await;
        for from in [Side::H1, Side::H2] {
            let mut socket = client(from, &proxy).await;
            for message in [
                Message::text("hello"),
                Message::binary(Vec::new()),
                Message::text("x".repeat(70_000)),
                Message::binary(pattern::bytes(LARGE)),
            ] {
                echoes(&mut socket, message).await;
            }
            closes(socket).await;
        }
        // tungstenite may end a connection by a reset, behind the closing handshake.
        until_over(&proxy, 2).await;
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_over_tls_and_many_streams_of_one_connection() {
    let server = server(Side::H2, &Authority::new()).await;
    let authority = Authority::new();
    let identity = authority.issue(&[NAME]);
    let tables = format!(
        "listen_tls = [\"127.0.0.1:0\"]\nshards = 1\n[[certificate]]\ncert = \"{}\"\nkey = \"{}\"\n{}[[route]]\nupstream = \"app\"\n{WS_ROUTE}\n",
        identity.cert_file.display(),
        identity.key_file.display(),
        group("app", Side::H2, server.address, &authority),
    );
    let proxy = tls::configured(&tables).await;
    let tunnels = Tunnels::over("https", over_tls(proxy.address, &authority).await).await;
    let mut sockets = JoinSet::new();
    for nth in 0..20 {
        let tunnels = tunnels.clone();
        sockets.spawn(async move {
            let mut socket = tunnels.open().await;
            for _ in 0..20 {
                echoes(&mut socket, Message::text(format!("number {nth}"))).await;
            }
            echoes(&mut socket, Message::binary(pattern::bytes(200_000))).await;
            closes(socket).await;
        });
    }
    while let Some(ended) = sockets.join_next().await {
        ended.expect("it passes");
    }
    until_over(&proxy, 20).await;
    let counters = proxy.counters().await;
    assert_eq!((counters.connections, counters.upstream_connections), (1, 1), "{counters:?}");
}

// ---- by frames ----

/// Fields of an extended CONNECT.
fn extended<'a>(protocol: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let fixed = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ];
    fixed.into_iter().chain(more.iter().copied()).collect()
}

async fn offer_with(client: &mut Http2, fields: &[(&str, &str)]) -> u32 {
    let stream = client.next_stream();
    client.send(frames::headers(stream, 0, frames::block(&extended("websocket", fields)))).await;
    stream
}

async fn offer(client: &mut Http2) -> u32 {
    offer_with(client, &[]).await
}

/// A tunnel that is open.
async fn open(client: &mut Http2) -> u32 {
    let stream = offer(client).await;
    client.until("the head", |all| all.stream(stream).is_some_and(|one| one.status() != 0)).await;
    assert_eq!(client.stream(stream).map(sluice_tests::http2::Answer::status), Some(200), "{client:?}");
    stream
}

async fn hear(client: &mut Http2, stream: u32, bytes: usize) -> Vec<u8> {
    client.until("bytes", |all| all.stream(stream).is_some_and(|one| one.body.len() >= bytes)).await;
    client.streams[&stream].body.clone()
}

/// The key in a request, and what answers it.
async fn accept_offer(peer: &mut Peer) -> io::Result<()> {
    let request = peer.request().await?;
    let key = request.head.fields.first("sec-websocket-key").expect("a key").to_owned();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket";
    peer.send(format!("{head}\r\nSec-WebSocket-Accept: {accept}\r\nX-Own: 1\r\n\r\n")).await
}

/// How often a server was told of a reset.
#[derive(Clone, Debug, Default)]
struct Resets(Arc<AtomicUsize>);

impl Resets {
    fn note(&self, is_reset: bool) {
        self.0.fetch_add(usize::from(is_reset), Ordering::Relaxed);
    }

    async fn until_one(&self) {
        sluice_tests::eventually("the server learns of a reset", || async {
            self.0.load(Ordering::Relaxed) == 1
        })
        .await;
    }
}

/// What a server does when its client has spoken.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Sends it back, and its end.
    Echo,
    /// Says goodbye and finishes, and goes on to listen.
    Finish,
    Reset,
    /// Reads nothing any more.
    Nothing,
}

/// An HTTP/1.1 server that opens tunnels, by hand.
async fn h1_server(act: Act, resets: Resets) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let resets = resets.clone();
        async move {
            accept_offer(&mut peer).await?;
            if matches!(act, Act::Nothing) {
                std::future::pending::<()>().await;
            }
            let mut heard = 0;
            while let Some(bytes) = peer
                .some()
                .await
                .inspect_err(|error| resets.note(error.kind() == io::ErrorKind::ConnectionReset))?
            {
                heard += bytes.len();
                match act {
                    Act::Echo => peer.send(bytes).await?,
                    Act::Finish if heard == 5 => {
                        peer.send("bye").await?;
                        peer.half_close().await?;
                    }
                    Act::Reset => return peer.reset(),
                    Act::Finish | Act::Nothing => {}
                }
            }
            if matches!(act, Act::Finish) {
                return Ok(());
            }
            peer.half_close().await
        }
    })
    .await
}

const CONNECTS: &[(u16, u32)] = &[(8, 1)];

/// The same over HTTP/2: each stream is a tunnel.
async fn h2_server(act: Act, resets: Resets) -> Http2Origin {
    Http2Origin::scripted(CONNECTS, move |_, mut http| {
        let resets = resets.clone();
        async move {
            let mut done = std::collections::BTreeMap::<u32, (usize, bool)>::new();
            let mut reset = std::collections::BTreeSet::new();
            if matches!(act, Act::Nothing) {
                http.gives_credit = false;
                http.try_send(frames::settings_ack()).await?;
            }
            loop {
                let mut out = Vec::new();
                for (&stream, one) in &http.streams {
                    if matches!(one.ended, Some(Ended::Reset(_))) {
                        resets.note(one.ended == Some(Ended::Reset(code::CANCEL)) && reset.insert(stream));
                        continue;
                    }
                    let is_new = !done.contains_key(&stream);
                    let (heard, has_ended) = done.entry(stream).or_default();
                    if is_new {
                        out.extend(frames::headers(
                            stream,
                            0,
                            frames::block(&[(":status", "200"), ("x-own", "1")]),
                        ));
                    }
                    let fresh = &one.body[*heard..];

                    *heard = one.body.len();
                    match act {
                        Act::Echo => {
                            out.extend(fresh.chunks(16_384).flat_map(|piece| frames::data(stream, 0, piece)));
                        }
                        Act::Finish if *heard >= 5 && !*has_ended => {
                            out.extend(frames::data(stream, flag::END_STREAM, "bye"));
                            *has_ended = true;
                        }
                        Act::Reset if !fresh.is_empty() => out.extend(frames::reset(stream, code::CANCEL)),
                        Act::Finish | Act::Reset | Act::Nothing => {}
                    }
                    if one.is_complete && !*has_ended && matches!(act, Act::Echo) {
                        out.extend(frames::data(stream, flag::END_STREAM, ""));
                        *has_ended = true;
                    }
                }
                if !out.is_empty() {
                    http.try_send(out).await?;
                }
                if !http.more().await? {
                    return Ok(());
                }
            }
        }
    })
    .await
}

/// Keeps a server of either protocol.
enum Script {
    H1(Origin, Resets),
    H2(Http2Origin, Resets),
}

impl Script {
    async fn new(side: Side, act: Act) -> Self {
        let resets = Resets::default();
        match side {
            Side::H1 => Self::H1(h1_server(act, resets.clone()).await, resets),
            Side::H2 | Side::H2Tls => Self::H2(h2_server(act, resets.clone()).await, resets),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::H1(origin, _) => origin.address,
            Self::H2(origin, _) => origin.address,
        }
    }

    fn resets(&self) -> &Resets {
        let (Self::H1(_, resets) | Self::H2(_, resets)) = self;
        resets
    }
}

const TEXT: [Side; 2] = [Side::H1, Side::H2];

/// Field by field: what belongs to one version stays with it, the rest passes.
#[tokio::test]
async fn each_side_sees_a_handshake_of_its_own() {
    let fields = [
        ("sec-websocket-protocol", "chat, x"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "http://a"),
    ];
    let origin = h1_server(Act::Echo, Resets::default()).await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer_with(&mut client, &fields).await;
    client.send(frames::data(stream, 0, "hello")).await;
    assert_eq!(hear(&mut client, stream, 5).await, b"hello");
    let answer = &client.streams[&stream];
    assert_eq!((answer.status(), answer.field("x-own")), (200, Some("1")));
    for gone in ["sec-websocket-accept", "upgrade", "connection"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    let seen = origin.recorder.text();
    let head = &seen[..seen.find("\r\n\r\n").expect("a head") + 4];
    assert!(head.starts_with("GET /chat HTTP/1.1\r\nHost: test\r\n"), "{head}");
    for (name, value) in fields.iter().chain(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
    ]) {
        let lines =
            head.lines().filter(|line| line.to_lowercase() == format!("{name}: {value}").to_lowercase());
        assert_eq!(lines.count(), 1, "{name}: {head}");
    }
    assert!(!head.contains(":protocol"), "{head}");
}

/// Bytes and ends of a client pass, half by half, in both directions.
#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    for to in TEXT {
        // The client ends first.
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = open(&mut client).await;
        client.send(frames::data(stream, flag::END_STREAM, "hello")).await;
        let answer = client.answer(stream).await;
        assert_eq!((&*answer.text(), answer.ended), ("hello", Some(Ended::Properly)), "{to:?}");
        assert_over(&proxy, 1, 0).await;
        client.assert_open().await;

        // The server ends first, and still hears.
        let server = Script::new(to, Act::Finish).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = open(&mut client).await;
        client.send(frames::data(stream, 0, "hello")).await;
        client.until("its end", |all| all.stream(stream).is_some_and(|one| one.is_complete)).await;
        client.send(frames::data(stream, 0, "and more")).await;
        client.assert_open().await;
        assert_eq!(proxy.counters().await.named("tunnels"), 1, "{to:?}");
        client.send(frames::data(stream, flag::END_STREAM, "")).await;
        let answer = client.answer(stream).await;
        assert_eq!((&*answer.text(), answer.ended), ("bye", Some(Ended::Properly)), "{to:?}");
        assert_over(&proxy, 1, 0).await;
        if let Script::H1(origin, _) = server {
            origin.recorder.wait_for("its end", |all| all[0].ended).await;
            assert!(origin.recorder.text().ends_with("helloand more"), "{}", origin.recorder.text());
        }
    }
}

/// The same from a client of HTTP/1.1.
#[tokio::test]
async fn fin_and_end_stream_stand_for_each_other() {
    for act in [Act::Echo, Act::Finish] {
        let origin = h2_server(act, Resets::default()).await;
        let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
        let mut client = upgraded(&proxy).await;
        client.send("hello").await;
        let expected: &[u8] = if matches!(act, Act::Echo) { b"hello" } else { b"bye" };
        let mut heard = Vec::new();
        if matches!(act, Act::Echo) {
            client.half_close().await;
        }
        while let Some(bytes) = client.some().await.expect("bytes") {
            heard.extend_from_slice(&bytes);
        }
        assert_eq!(heard, expected);
        if matches!(act, Act::Finish) {
            assert_eq!(proxy.counters().await.named("tunnels"), 1);
            client.half_close().await;
        }
        assert_over(&proxy, 1, 0).await;
    }
}

/// A tunnel of an HTTP/1.1 client.
async fn upgraded(proxy: &Proxy) -> Raw {
    let mut client = Raw::connect(proxy.address).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert_eq!(head.status().expect("a status"), 101, "{head:?}");
    assert_eq!(head.fields.first("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.fields.first("upgrade"), Some("websocket"));
    client
}

#[tokio::test]
async fn resets_pass_in_both_directions() {
    for to in TEXT {
        // By the server.
        let server = Script::new(to, Act::Reset).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = open(&mut client).await;
        client.send(frames::data(stream, 0, "hello")).await;
        assert_eq!(client.reset_code(stream).await, code::CANCEL, "{to:?}");
        client.assert_open().await;
        if to == Side::H2 {
            let mut client = upgraded(&proxy).await;
            client.acknowledge();
            client.send("hello").await;
            let end = within("a reset", client.some()).await;
            assert!(
                end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset),
                "{end:?}"
            );
        }
        assert_over(&proxy, if to == Side::H2 { 2 } else { 1 }, if to == Side::H2 { 2 } else { 1 }).await;

        // By the client.
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let (stream, other) = (open(&mut client).await, open(&mut client).await);
        client.send(frames::data(stream, 0, "hello")).await;
        hear(&mut client, stream, 5).await;
        client.send(frames::reset(stream, code::CANCEL)).await;
        server.resets().until_one().await;
        proxy.counters_until("one tunnel", |now| now.named("tunnels") == 1).await;
        client.send(frames::data(other, 0, "still here")).await;
        assert_eq!(hear(&mut client, other, 10).await, b"still here", "{to:?}");
        drop(client);
        assert_over(&proxy, 2, 2).await;
    }
}

/// A server that reads nothing stops its own stream, after what the windows have room for; its neighbours go on.
#[tokio::test]
async fn a_stuck_server_stops_its_own_stream_only() {
    for to in TEXT {
        let stuck = Script::new(to, Act::Nothing).await;
        let lively = Script::new(to, Act::Echo).await;
        let authority = Authority::new();
        let proxy = Proxy::configured(
            1,
            &format!(
                "{}{}[[route]]\nupstream = \"stuck\"\n{WS_ROUTE}\n[[route]]\nupstream = \"lively\"\nhost = \"lively\"\n{WS_ROUTE}\n",
                group("stuck", to, stuck.address(), &authority),
                group("lively", to, lively.address(), &authority),
            ),
        )
        .await;
        let mut client = Http2::connect(proxy.address).await;
        let dead = open(&mut client).await;
        let mut fields = extended("websocket", &[]);
        fields[3] = (":authority", "lively");
        let alive = client.next_stream();
        client.send(frames::headers(alive, 0, frames::block(&fields))).await;
        // More than the proxy may keep: as much as it gives credit for, until it gives no more.
        let mut sent = 0;
        let piece = vec![b'x'; 16_384];
        let before = proxy.resident_bytes();
        let mut pauses = 0;
        while pauses < 20 {
            let credit = client.credit.get(&dead).copied().unwrap_or(0) + 65_535;
            let shared = client.credit.get(&0).copied().unwrap_or(0) + 65_535;
            if credit.min(shared) >= sent + piece.len() as u64 {
                client.send(frames::data(dead, 0, &piece)).await;
                sent += piece.len() as u64;
                pauses = 0;
                client.glance().await;
            } else {
                client.assert_open().await;
                pauses += 1;
            }
            assert!(sent < 64 << 20, "{to:?}: the proxy takes all of it");
        }
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "{to:?}: {grown} bytes for {sent} bytes that nothing takes");
        client.send(frames::data(alive, 0, "hello")).await;
        assert_eq!(hear(&mut client, alive, 5).await, b"hello", "{to:?}");
        let counters = proxy.counters().await;
        assert_eq!((counters.named("tunnels"), counters.named("tunnels_aborted")), (2, 0));
    }
}

/// A client that opens no window stops its own stream only.
#[tokio::test]
async fn a_stuck_client_stops_its_own_stream_only() {
    for to in TEXT {
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut stuck = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 10)]).await;
        let stream = open(&mut stuck).await;
        stuck.gives_credit = false;
        let all = pattern::bytes(20_000);
        stuck
            .send(all.chunks(10_000).flat_map(|piece| frames::data(stream, 0, piece)).collect::<Vec<_>>())
            .await;
        assert_eq!(hear(&mut stuck, stream, 10).await, pattern::bytes(10));
        // Beside it, on the same connections.
        let other = open(&mut stuck).await;
        stuck.send(frames::data(other, 0, "0123456789")).await;
        assert_eq!(hear(&mut stuck, other, 10).await, b"0123456789", "{to:?}");
        // ... and it goes on where it was stopped.
        stuck.send(frames::window_update(stream, 100_000)).await;
        assert_eq!(hear(&mut stuck, stream, 20_000).await, pattern::bytes(20_000), "{to:?}");
    }
}

/// One that takes nothing for too long is cut off.
#[tokio::test]
async fn a_stalled_client_is_cut_off() {
    for to in TEXT {
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "[timeouts]\nwrite_stall = \"300ms\"\n").await;
        let mut client = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 10)]).await;
        let stream = open(&mut client).await;
        client.gives_credit = false;
        let begun = Instant::now();
        client.send(frames::data(stream, 0, [b'x'; 1000])).await;
        assert_eq!(client.reset_code(stream).await, code::CANCEL, "{to:?}");
        assert_took(begun, Duration::from_millis(300), Duration::from_secs(30));
        assert_over(&proxy, 1, 1).await;
    }
}

#[tokio::test]
async fn silent_tunnels_end() {
    for to in TEXT {
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "[timeouts]\ntunnel_idle = \"400ms\"\n").await;
        let mut client = Http2::connect(proxy.address).await;
        let begun = Instant::now();
        let stream = open(&mut client).await;
        assert_eq!(client.reset_code(stream).await, code::CANCEL, "{to:?}");
        assert_took(begun, Duration::from_millis(400), Duration::from_secs(1800));
        assert_over(&proxy, 1, 0).await;
        assert_eq!(proxy.counters().await.named("tunnel_idle_timeouts"), 1);
    }
}

#[tokio::test]
async fn a_refusal_passes_with_its_body() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let origin = origin::answers(refusal).await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    let answer = client.answer(stream).await;
    assert_eq!((answer.status(), &*answer.text()), (403, "no"));
    client.assert_open().await;

    let origin = Http2Origin::scripted(CONNECTS, |_, mut http| async move {
        http.wait(|http| http.streams.get(&1).is_some_and(|one| one.head.is_some())).await?;
        let head = frames::block(&[(":status", "403"), ("content-length", "2")]);
        http.try_send([frames::headers(1, 0, head), frames::data(1, flag::END_STREAM, "no")].concat())
            .await?;
        while http.more().await? {}
        Ok(())
    })
    .await;
    let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    let answer = client.answer(stream).await;
    assert_eq!((answer.status(), &*answer.text()), (403, "no"));
    assert_eq!(proxy.counters().await.named("tunnels_opened"), 0);
}

#[tokio::test]
async fn a_route_that_does_not_allow_it_refuses() {
    let origin = h1_server(Act::Echo, Resets::default()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    for fields in [
        extended("websocket", &[]),
        extended("own", &[]),
        vec![(":method", "CONNECT"), (":authority", "test:443")],
    ] {
        let stream = client.next_stream();
        client.send(frames::headers(stream, 0, frames::block(&fields))).await;
        assert_eq!(client.answer(stream).await.status(), 400, "{fields:?}");
    }
    client.assert_open().await;
    assert_eq!(proxy.counters().await.named("tunnels_refused"), 3);
    assert_eq!(origin.recorder.connections(), 0);
}

/// The client cannot check the answer to a key that it has not made.
#[tokio::test]
async fn a_server_that_has_not_understood_the_handshake_is_a_bad_gateway() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for answer in [
        format!("{switch}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        format!("{switch}\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
    ] {
        let origin = origin::answers(answer.clone()).await;
        let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = offer(&mut client).await;
        assert_eq!(client.answer(stream).await.status(), 502, "{answer}");
        client.assert_open().await;
        let counters = proxy.counters().await;
        assert_eq!(
            (counters.named("upstream_bad_responses"), counters.named("tunnels_opened")),
            (1, 0),
            "{answer}"
        );
    }
}

/// It gets nothing that it has not permitted; other requests are not concerned.
#[tokio::test]
async fn a_server_without_extended_connect_gets_none() {
    let origin = Http2Origin::scripted(&[], |_, mut http| async move {
        loop {
            let asked: Vec<u32> = http.streams.keys().copied().collect();
            for stream in asked {
                let request = http.streams.remove(&stream).expect("it is there");
                let method = request.field(":method").unwrap_or("nothing").to_owned();
                http.try_send(origin::answer(stream, &method)).await?;
            }
            if !http.more().await? {
                return Ok(());
            }
        }
    })
    .await;
    let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..2 {
        let stream = offer(&mut client).await;
        let answer = client.answer(stream).await;
        assert_eq!(answer.status(), 502);
        assert!(answer.text().contains("extended CONNECT"), "{}", answer.text());
    }
    assert_eq!(client.get("/").await.text(), "GET");
    assert_eq!(proxy.counters().await.named("upstream_bad_responses"), 2);
    assert_eq!(origin.accepted(), 1);
}

/// Whether a client's bytes have the head of a request in them.
fn has_request(bytes: &[u8]) -> bool {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or_default();
    while let Some((frame, length)) = Frame::parse(rest) {
        if frame.kind == kind::HEADERS {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

/// Its settings decide, so they are waited for; and no longer than for a connection.
#[tokio::test]
async fn the_settings_of_a_server_are_waited_for() {
    let go = Go::new();
    let gate = go.clone();
    let late = Origin::scripted(move |mut peer: Peer| {
        let gate = gate.clone();
        async move {
            let mut heard = peer.some().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            gate.wait().await?;
            peer.send(frames::settings(CONNECTS)).await?;
            while !has_request(&heard) {
                heard.extend(peer.some().await?.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            peer.send(frames::headers(1, 0, frames::block(&[(":status", "200")]))).await?;
            peer.send(frames::data(1, 0, "hello")).await?;
            peer.until_closed().await
        }
    })
    .await;
    let (proxy, _) = proxy_to(Side::H2, late.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    late.recorder.wait_for("the preface", |all| all.iter().any(|one| one.bytes.len() >= 24)).await;
    client.assert_open().await;
    assert!(!has_request(&late.recorder.traffic()[0].bytes), "it was asked before it had permitted that");
    go.steps(1);
    assert_eq!(hear(&mut client, stream, 5).await, b"hello");

    let never = Origin::scripted(|mut peer: Peer| async move { peer.until_closed().await }).await;
    let (proxy, _) = proxy_to(Side::H2, never.address, "[timeouts]\nupstream_connect = \"300ms\"\n").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    assert_eq!(client.answer(stream).await.status(), 504);

    let leaves = Origin::scripted(|mut peer: Peer| async move { peer.some().await.map(drop) }).await;
    let (proxy, _) = proxy_to(Side::H2, leaves.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    assert_eq!(client.answer(stream).await.status(), 502);
    assert_eq!(leaves.recorder.connections(), 1);
}

#[tokio::test]
async fn connect_is_a_tunnel_over_http2() {
    for fields in ["", "Content-Length: 10\r\n"] {
        let origin = origin::answers_and_echoes(format!("HTTP/1.1 200 Fine\r\n{fields}\r\n")).await;
        let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.next_stream();
        let connect = frames::block(&[(":method", "CONNECT"), (":authority", "a:443")]);
        client.send(frames::headers(stream, 0, connect)).await;
        client.until("the head", |all| all.stream(stream).is_some_and(|one| one.status() != 0)).await;
        client.send(frames::data(stream, flag::END_STREAM, "hello")).await;
        let answer = client.answer(stream).await;
        assert_eq!((answer.status(), answer.field("content-length"), &*answer.text()), (200, None, "hello"));
        assert!(origin.recorder.text().starts_with("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n"));
        assert_over(&proxy, 1, 0).await;
    }
    // A failed connection is a CONNECT_ERROR (RFC 9113, section 8.5).
    let origin = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.send("HTTP/1.1 200 Fine\r\n\r\n").await?;
        peer.some().await?;
        peer.reset()
    })
    .await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.next_stream();
    client
        .send(frames::headers(stream, 0, frames::block(&[(":method", "CONNECT"), (":authority", "a:443")])))
        .await;
    client.until("the head", |all| all.stream(stream).is_some_and(|one| one.status() != 0)).await;
    client.send(frames::data(stream, 0, "hello")).await;
    assert_eq!(client.reset_code(stream).await, 10);
    // Between two connections of HTTP/2.
    let origin = h2_server(Act::Echo, Resets::default()).await;
    let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.next_stream();
    client
        .send(frames::headers(stream, 0, frames::block(&[(":method", "CONNECT"), (":authority", "a:443")])))
        .await;
    client.send(frames::data(stream, flag::END_STREAM, "hello")).await;
    let answer = client.answer(stream).await;
    assert_eq!((answer.status(), &*answer.text(), answer.ended), (200, "hello", Some(Ended::Properly)));
}

/// Other protocols than WebSocket, where the route has them.
#[tokio::test]
async fn other_protocols_pass_by_extended_connect() {
    for to in TEXT {
        let server = match to {
            Side::H1 => Script::H1(origin::switches_and_echoes().await, Resets::default()),
            _ => Script::new(to, Act::Echo).await,
        };
        let group = group("app", to, server.address(), &Authority::new());
        let tables = format!("{group}[[route]]\nupstream = \"app\"\nupgrade = [\"own\"]\n");
        let proxy = Proxy::configured(1, &tables).await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.next_stream();
        client.send(frames::headers(stream, 0, frames::block(&extended("own", &[])))).await;
        client.send(frames::data(stream, 0, "hello")).await;
        assert_eq!(hear(&mut client, stream, 5).await, b"hello", "{to:?}");
        assert_eq!(proxy.counters().await.named("tunnels_opened"), 1);
    }
}

/// A drain leaves tunnels their time, and then ends them.
#[tokio::test]
async fn a_drain_ends_tunnels_after_its_time() {
    let server = Script::new(Side::H2, Act::Echo).await;
    let (proxy, _) = proxy_to(Side::H2, server.address(), "drain_timeout = \"1s\"\n").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = open(&mut client).await;
    proxy.signal(rustix::process::Signal::TERM);
    client.until("GOAWAY", |all| !all.go_aways.is_empty()).await;
    client.send(frames::data(stream, 0, "hello")).await;
    assert_eq!(hear(&mut client, stream, 5).await, b"hello");
    client.closed().await;
}

#[tokio::test]
async fn hyper_reads_a_refusal() {
    let origin = origin::answers("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let answer = Tunnels::over("http", Box::new(connect(proxy.address).await)).await.ask(&[]).await;
    assert_eq!(answer.status(), 401);
    let body = within("the body", answer.into_body().collect()).await.expect("a body").to_bytes();
    assert_eq!(body, "no");
}

/// Bytes of memory of the proxy for a quiet tunnel between two connections of HTTP/2, which carry many.
#[tokio::test]
async fn quiet_tunnels_take_little_memory() {
    const EACH: usize = 100;
    const CONNECTIONS: usize = 20;
    let server = Script::new(Side::H2, Act::Echo).await;
    let (proxy, _) = proxy_to(Side::H2, server.address(), "").await;
    let mut clients = Vec::new();
    let mut measured = 0;
    for nth in 0..CONNECTIONS {
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..EACH {
            open(&mut client).await;
        }
        clients.push(client);
        if nth == 0 {
            measured = proxy.resident_bytes();
        }
    }
    let tunnels = ((CONNECTIONS - 1) * EACH) as u64;
    let bytes = proxy.resident_bytes().saturating_sub(measured) / tunnels;
    println!("{bytes} bytes per quiet tunnel, of a debug build");
    assert!(bytes < 4096, "{bytes} bytes per quiet tunnel");
    let counters = proxy.counters().await;
    // One for each connection that has streams, and none for a tunnel.
    assert_eq!(
        (counters.named("tunnels"), counters.tasks_busy),
        ((EACH * CONNECTIONS) as u64, CONNECTIONS as u64),
        "{counters:?}"
    );
    let mut buffer = clients.pop().expect("a client");
    buffer.send(frames::data(1, 0, "hello")).await;
    assert_eq!(hear(&mut buffer, 1, 5).await, b"hello");
}
