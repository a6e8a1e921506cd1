//! WebSocket servers by tungstenite, behind Upgrade of HTTP/1.1 and behind extended CONNECT of hyper's HTTP/2.
//!
//! Owns what they do: every message comes back. `close CODE REASON` closes like that, `abort` cuts the connection, and `ping` is
//! answered by a ping and, when that is answered, by `ponged`, as the servers in `programs/` do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::{
    HeaderMap, Request, Response, StatusCode, body::Incoming, ext::Protocol, server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        self, Message,
        handshake::server,
        protocol::{CloseFrame, Role},
    },
};

/// Whatever a WebSocket may run over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
    _server: JoinSet<()>,
}

impl Echo {
    /// The fields of the handshakes so far.
    pub fn heads(&self) -> Vec<HeaderMap> {
        self.heads.lock().expect("no test panics while it holds the lock").clone()
    }
}

type Heads = Arc<Mutex<Vec<HeaderMap>>>;

async fn listening<S: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(tokio::net::TcpStream, Heads) -> S + Send + 'static,
) -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let heads = Heads::default();
    let (mut server, noted) = (JoinSet::new(), heads.clone());
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            connections.spawn(serve(stream, noted.clone()));
        }
    });
    Echo { address, heads, _server: server }
}

/// tungstenite behind Upgrade of HTTP/1.1, which checks the handshake. A connection for each.
pub async fn echo() -> Echo {
    listening(async |stream, heads| {
        // tungstenite wants this kind of error.
        #[allow(clippy::result_large_err)]
        let choose = |request: &server::Request, mut response: server::Response| {
            note(&heads, request.headers());
            choose_chat(request.headers(), response.headers_mut());
            Ok(response)
        };
        if let Ok(socket) = accept_hdr_async(stream, choose).await {
            talk(socket).await;
        }
    })
    .await
}

/// hyper's HTTP/2 with extended CONNECT, and tungstenite's frames on its streams. Every connection may carry many.
pub async fn http2_echo() -> Echo {
    listening(async |stream, heads| {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.enable_connect_protocol();
        let service = service_fn(move |request| accept(request, heads.clone()));
        // The end of a connection is no failure of the test.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

fn note(heads: &Heads, fields: &HeaderMap) {
    heads.lock().expect("no test panics while it holds the lock").push(fields.clone());
}

/// Of the subprotocols that are offered, `chat` is chosen.
fn choose_chat(offered: &HeaderMap, answer: &mut HeaderMap) {
    const NAME: &str = "sec-websocket-protocol";
    if offered.get(NAME).is_some_and(|names| names.as_bytes().starts_with(b"chat")) {
        answer.insert(NAME, "chat".parse().expect("a value"));
    }
}

async fn accept(
    mut request: Request<Incoming>,
    heads: Heads,
) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
    let fields = request.headers();
    note(&heads, fields);
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
    choose_chat(fields, answer.headers_mut());
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            talk(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await).await;
        }
    });
    Ok(answer)
}

async fn talk(mut socket: WebSocketStream<impl Io>) {
    // An error is the end, or `abort`.
    if matches!(converse(&mut socket).await, Ok(Ended::Properly)) {
        // Else a stream is reset.
        let _ = socket.get_mut().shutdown().await;
    }
}

enum Ended {
    Properly,
    Aborted,
}

async fn converse(socket: &mut WebSocketStream<impl Io>) -> tungstenite::Result<Ended> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) if text.as_str() == "abort" => return Ok(Ended::Aborted),
            Message::Text(text) if text.as_str() == "ping" => {
                socket.send(Message::Ping("are you there".into())).await?;
                while !socket.next().await.is_none_or(|next| next.is_ok_and(|next| next.is_pong())) {}
                socket.send(Message::text("ponged")).await?;
            }
            Message::Text(text) if text.as_str().starts_with("close ") => {
                let mut words = text.as_str().split(' ').skip(1);
                let code = words.next().and_then(|code| code.parse::<u16>().ok()).unwrap_or(1000);
                let reason = words.next().unwrap_or_default().to_owned().into();
                socket.close(Some(CloseFrame { code: code.into(), reason })).await?;
            }
            message if message.is_text() || message.is_binary() => socket.send(message).await?,
            _ => {}
        }
    }
    Ok(Ended::Properly)
}
