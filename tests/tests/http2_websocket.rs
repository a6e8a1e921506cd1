//! WebSocket of which at least one side is a stream of HTTP/2 (RFC 8441), in all pairs with Upgrade of HTTP/1.1, by hyper and
//! tungstenite.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_tests::{
    origin, pattern,
    proxy::Proxy,
    sides::Side,
    tls::{self, Authority, BOTH, End, NAME},
    tunnels::{WS_ROUTE, group, proxy_to, proxy_with, until_over},
    websocket::{self, Echo, Io},
    within,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, protocol::Role},
};

/// No buffer on the way has room for it.
const LARGE: usize = 16 << 20;

type AnyIo = Box<dyn Io>;

/// What serves, and how long it lives.
struct Server {
    address: SocketAddr,
    _alive: (Echo, Option<tls::Server>),
}

async fn server(side: Side, authority: &Authority) -> Server {
    let echo = if side.is_http2() { websocket::http2_echo().await } else { websocket::echo().await };
    if !side.is_tls() {
        return Server { address: echo.address, _alive: (echo, None) };
    }
    let mut config = authority.issue(&["localhost", NAME]).server(BOTH);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let secured = tls::serve(echo.address, config, End::Proper).await;
    Server { address: secured.address, _alive: (echo, Some(secured)) }
}

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
        Side::H1 | Side::H1Tls => {
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
    if socket.close(None).await.is_err() {
        // The server has read it, answered and reset its stream, as HTTP/2 lets it, before this side was done with sending.
        return;
    }
    let closing = within("the closing handshake", socket.next()).await.expect("a frame").expect("a frame");
    assert!(closing.is_close(), "{closing:?}");
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    // Else the stream is reset.
    let _ = socket.get_mut().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_in_all_pairs() {
    for to in [Side::H1, Side::H2, Side::H2Tls] {
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

#[tokio::test]
async fn hyper_reads_a_refusal() {
    let origin = origin::answers("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let answer = Tunnels::over("http", Box::new(connect(proxy.address).await)).await.ask(&[]).await;
    assert_eq!(answer.status(), 401);
    let body = within("the body", answer.into_body().collect()).await.expect("a body").to_bytes();
    assert_eq!(body, "no");
}
