//! WebSockets by their bytes, over Upgrade of HTTP/1.1 and extended CONNECT of HTTP/2 (RFC 8441), for either side of the proxy: what
//! follows the handshake is a stream of bytes, to be sent and read frame by frame, or given to tungstenite.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Response, ext::Protocol, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::within;

/// A protocol of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// Upgrade.
    One,
    /// Extended CONNECT, in clear text.
    Two,
}

/// Both of them on both sides, the client's first.
pub const PAIRS: [(Http, Http); 4] =
    [(Http::One, Http::One), (Http::One, Http::Two), (Http::Two, Http::One), (Http::Two, Http::Two)];

/// The bytes behind a handshake.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One end of a WebSocket.
pub struct Socket {
    io: Box<dyn Io>,
    /// It is the client: what it sends is masked.
    is_client: bool,
    unread: Vec<u8>,
}

/// A frame as it came, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte.
    pub first: u8,
    /// It was masked with this key.
    pub key: Option<[u8; 4]>,
    /// Unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a Close frame.
    pub fn code(&self) -> Option<u16> {
        let bytes = self.payload.get(..2).filter(|_| self.first == 0x88)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// The key that clients mask with here.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame on the wire, its length in the fewest bytes.
pub fn frame(first: u8, payload: &[u8], is_masked: bool) -> Vec<u8> {
    let mut out = head(first, payload.len() as u64, is_masked);
    let key = if is_masked { KEY } else { [0; 4] };
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// The head of a frame of this length.
pub fn head(first: u8, bytes: u64, is_masked: bool) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    let mut out = vec![first];
    match bytes {
        0..=125 => out.push(mask | bytes as u8),
        126..=0xffff => {
            out.push(mask | 126);
            out.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&bytes.to_be_bytes());
        }
    }
    if is_masked {
        out.extend_from_slice(&KEY);
    }
    out
}

impl Socket {
    /// One end over anything.
    pub fn over(io: Box<dyn Io>, is_client: bool) -> Self {
        Self { io, is_client, unread: Vec::new() }
    }

    /// The bytes below it.
    pub fn into_io(self) -> Box<dyn Io> {
        self.io
    }

    /// Opens one through the proxy.
    pub async fn open(http: Http, proxy: SocketAddr, path: &str) -> Self {
        let io = match http {
            Http::One => open_h1(proxy, path).await,
            Http::Two => open_h2(proxy, path).await,
        };
        Self::over(io, true)
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("it is taken");
    }

    /// The same, of which the other side may be gone.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("the bytes are taken", async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        })
        .await
    }

    /// Sends a frame.
    pub async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        let bytes = frame(first, payload, self.is_client);
        self.send(&bytes).await;
    }

    /// The next frame; `None` once the other side has finished or has reset the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = parse(&self.unread) {
                self.unread.drain(..used);
                assert_eq!(frame.key.is_some(), !self.is_client, "{frame:?}");
                return Some(frame);
            }
            let mut buffer = vec![0; 64 * 1024];
            match within("a frame or the end", self.io.read(&mut buffer)).await {
                Ok(0) | Err(_) => {
                    assert!(self.unread.is_empty(), "half a frame: {:?}", self.unread);
                    return None;
                }
                Ok(bytes) => self.unread.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    /// Panics unless the next frame is this one.
    pub async fn expect(&mut self, first: u8, payload: &[u8]) {
        let frame = self.frame().await.expect("a frame");
        assert_eq!((frame.first, &frame.payload[..]), (first, payload));
    }

    /// Panics unless the next frame is a Close with this code.
    pub async fn expect_close(&mut self, code: u16) {
        let frame = self.frame().await.unwrap_or_else(|| panic!("an end instead of Close {code}"));
        assert_eq!(frame.code(), Some(code), "{frame:?}");
    }

    /// Answers a Close with this code and waits for the end of the connection, which it then ends too.
    pub async fn close_in_order(mut self, code: u16) {
        self.expect_close(code).await;
        self.send_frame(0x88, &code.to_be_bytes()).await;
        assert_eq!(self.frame().await, None);
        let _ = self.io.shutdown().await;
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        let _ = self.io.shutdown().await;
    }
}

/// The first frame, if all of it is there, and its length on the wire.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        length => (length.into(), 2),
    };
    let mut key = None;
    if second & 0x80 != 0 {
        key = Some(bytes.get(at..at + 4)?.try_into().ok()?);
        at += 4;
    }
    let end = at + usize::try_from(length).ok()?;
    let of_key: [u8; 4] = key.unwrap_or_default();
    let payload =
        bytes.get(at..end)?.iter().zip(of_key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((Frame { first, key, payload }, end))
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

async fn open_h1(proxy: SocketAddr, path: &str) -> Box<dyn Io> {
    let mut stream = connect(proxy).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("it is taken");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    Box::new(stream)
}

/// Asks by extended CONNECT; the settings that permit it may still be on their way.
async fn open_h2(proxy: SocketAddr, path: &str) -> Box<dyn Io> {
    let io = TokioIo::new(connect(proxy).await);
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = within("a handshake", builder.handshake(io)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let deadline = Instant::now() + crate::PATIENCE;
    loop {
        let request = Request::builder()
            .method("CONNECT")
            .uri(format!("http://test{path}"))
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        sender.ready().await.expect("a stream");
        match within("an answer", sender.send_request(request)).await {
            Ok(answer) => {
                assert_eq!(answer.status(), 200);
                let upgraded = within("the stream", hyper::upgrade::on(answer)).await.expect("a tunnel");
                return Box::new(Kept { io: TokioIo::new(upgraded), _sender: sender });
            }
            Err(error) if Instant::now() < deadline && format!("{error:?}").contains("protocol") => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A stream, and what keeps its connection open.
struct Kept<I, S> {
    io: I,
    _sender: S,
}

impl<I: AsyncRead + Unpin, S: Unpin> AsyncRead for Kept<I, S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin, S: Unpin> AsyncWrite for Kept<I, S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// A server of WebSockets; it stops when dropped. Each that is opened comes out of [`Server::next`].
pub struct Server {
    /// What an upstream writes.
    pub url: String,
    sockets: mpsc::UnboundedReceiver<Socket>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// A server of this protocol, with these extensions in its answers (empty for none).
    pub async fn start(http: Http, extensions: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, sockets) = mpsc::unbounded_channel();
        let extensions: Arc<str> = extensions.into();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                match http {
                    Http::One => tokio::spawn(accept_h1(stream, extensions.clone(), sender.clone())),
                    Http::Two => tokio::spawn(accept_h2(stream, extensions.clone(), sender.clone())),
                };
            }
        });
        let scheme = if http == Http::One { "http" } else { "h2c" };
        Self { url: format!("{scheme}://{address}"), sockets, accepting }
    }

    /// The next one that was opened.
    pub async fn next(&mut self) -> Socket {
        within("a WebSocket at the server", self.sockets.recv()).await.expect("the server runs")
    }
}

async fn accept_h1(mut stream: TcpStream, extensions: Arc<str>, opened: mpsc::UnboundedSender<Socket>) {
    let head = read_head(&mut stream).await;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let extensions = match &*extensions {
        "" => String::new(),
        names => format!("Sec-WebSocket-Extensions: {names}\r\n"),
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
    );
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        let _ = opened.send(Socket::over(Box::new(stream), false));
    }
}

async fn accept_h2(stream: TcpStream, extensions: Arc<str>, opened: mpsc::UnboundedSender<Socket>) {
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let (extensions, opened) = (extensions.clone(), opened.clone());
        async move {
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrading.await {
                    let _ = opened.send(Socket::over(Box::new(TokioIo::new(upgraded)), false));
                }
            });
            let mut answer = Response::new(Empty::<Bytes>::new());
            if !extensions.is_empty() {
                let value = extensions.parse().expect("a value");
                answer.headers_mut().insert("sec-websocket-extensions", value);
            }
            Ok::<_, hyper::Error>(answer)
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    // A stream that is not read leaves room to the others.
    builder
        .enable_connect_protocol()
        .initial_stream_window_size(1 << 16)
        .initial_connection_window_size(1 << 24);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
