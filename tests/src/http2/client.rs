//! Clients on hyper and its h2 crate.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{tls, within};

/// The body of a request.
type Body = BoxBody<Bytes, std::io::Error>;

/// A connection of hyper's.
#[derive(Debug, Clone)]
pub struct Hyper {
    sender: http2::SendRequest<Body>,
    scheme: &'static str,
}

/// A client in clear text, by prior knowledge.
pub async fn hyper(address: SocketAddr) -> Hyper {
    let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    Hyper::over(stream, "http").await
}

/// A client over TLS, for which ALPN must choose HTTP/2.
pub async fn hyper_over_tls(address: SocketAddr, config: &ClientConfig) -> Hyper {
    let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let config = tls::offering(config, &["h2", "http/1.1"]);
    let name = ServerName::try_from(tls::NAME).expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = within("a handshake", connecting).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "what ALPN chose");
    Hyper::over(stream, "https").await
}

impl Hyper {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        scheme: &'static str,
    ) -> Self {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        // As large as browsers have them.
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        let handshake = builder.handshake(TokioIo::new(stream));
        let (sender, connection) = within("a handshake", handshake).await.expect("a handshake");
        tokio::spawn(connection);
        Self { sender, scheme }
    }

    /// Sends a request for `path` at the host of the tests; errors are those of the h2 crate.
    ///
    /// # Errors
    /// When the stream is reset before the head of its response.
    pub async fn send(&self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let mut sender = self.sender.clone();
        within("a stream", sender.ready()).await?;
        within("a response", sender.send_request(request)).await
    }

    /// A request for this path.
    pub fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        let uri = format!("{}://{}{path}", self.scheme, tls::NAME);
        Request::builder().method(method).uri(uri).body(body).expect("a request")
    }

    /// A request with a body of known length, and all of its response.
    pub async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, Bytes) {
        let request = self.request(method, path, full(body));
        let response = self.send(request).await.expect("a response");
        let status = response.status().as_u16();
        let body = within("the body", response.into_body().collect()).await.expect("a whole body");
        (status, body.to_bytes())
    }
}

/// A body of known length.
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}
