//! A well-behaved origin on hyper, an HTTP implementation that is not ours.
//!
//! Owns its answers, chosen by path: `/echo` (begins before the upload has ended), `/copy` (begins after it),
//! `/digest` (its length), `/bytes/N`, `/chunked/N`, `/fill/BYTE/N`, `/status/CODE`, `/delay/MS`; anything
//! else is 200 with the name of the origin.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, channel::Channel, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::{JoinHandle, JoinSet};

use super::listen;
use crate::pattern;

type Body = BoxBody<Bytes, hyper::Error>;

/// The head of a request as hyper understood it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// The protocol version.
    pub version: Version,
    /// The fields.
    pub fields: HeaderMap,
}

impl Seen {
    /// The value of the first field line of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A running hyper origin; it stops when dropped.
#[derive(Debug)]
pub struct Real {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl Real {
    /// The requests that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics while it holds the lock").clone()
    }

    /// The only request that arrived.
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "requests at the origin: {seen:?}");
        seen.remove(0)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A hyper origin that answers unknown paths with `name`.
pub async fn real(name: &'static str) -> Real {
    speaking(Version::HTTP_11, name).await
}

/// The same over HTTP/2, by prior knowledge.
pub async fn real_http2(name: &'static str) -> Real {
    speaking(Version::HTTP_2, name).await
}

async fn speaking(version: Version, name: &'static str) -> Real {
    let listener = listen().await;
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let log = log.clone();
            let service = service_fn(move |request| {
                log.lock().expect("no test panics while it holds the lock").push(note(&request));
                answer(name, request)
            });
            connections.spawn(async move {
                let stream = TokioIo::new(stream);
                if version == Version::HTTP_2 {
                    let http = http2::Builder::new(TokioExecutor::new());
                    return http.serve_connection(stream, service).await;
                }
                http1::Builder::new().half_close(true).serve_connection(stream, service).await
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Real { address, seen, accepting }
}

fn note(request: &Request<Incoming>) -> Seen {
    Seen {
        method: request.method().clone(),
        target: request.uri().to_string(),
        version: request.version(),
        fields: request.headers().clone(),
    }
}

async fn answer(name: &'static str, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let kind = parts.next().unwrap_or_default();
    let number = parts.next_back().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default();
    let mut response = Response::new(match kind {
        "echo" => request.into_body().boxed(),
        "copy" => full(request.into_body().collect().await?.to_bytes()),
        "bytes" => full(pattern::bytes(number as usize)),
        "fill" => {
            let byte = parts.next().and_then(|byte| byte.parse().ok()).unwrap_or(b'?');
            full(vec![byte; number as usize])
        }
        "chunked" => streamed(number),
        "digest" => full(digest(request.into_body()).await?.to_string()),
        _ => full(name),
    });
    match kind {
        "status" => *response.status_mut() = StatusCode::from_u16(number as u16).unwrap_or_default(),
        "delay" => tokio::time::sleep(Duration::from_millis(number)).await,
        _ => {}
    }
    if response.status() == StatusCode::NO_CONTENT || response.status() == StatusCode::NOT_MODIFIED {
        *response.body_mut() = full("");
    }
    Ok(response)
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(never).boxed()
}

/// `length` bytes of the pattern, of which hyper does not know the length: chunked, or until close for HTTP/1.0.
fn streamed(length: u64) -> Body {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        for piece in pattern::pieces(length) {
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
    });
    body.map_err(never).boxed()
}

/// Checks the pattern of an upload and counts it, without keeping it.
async fn digest(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut check = pattern::Check::default();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            check.feed(&data);
        }
    }
    Ok(check.seen())
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}
