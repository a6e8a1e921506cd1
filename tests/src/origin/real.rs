//! A well-behaved origin on hyper, an HTTP implementation that is not ours.
//!
//! Owns its answers, chosen by path: `/echo` (begins before the upload has ended), `/copy` (begins after it),
//! `/digest` (its length), `/bytes/N`, `/chunked/N`, `/fill/BYTE/N`, `/status/CODE`, `/delay/MS`, `/cookies` (its lines, between
//! bars), `/set-cookies`, `/early/CODE` (reads nothing of the upload), `/drip` (without end) and `/given-up` (how many of these
//! were given up); anything else is 200 with the name of the origin.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, channel::Channel, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{COOKIE, HeaderValue, SET_COOKIE, TRAILER},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::{JoinHandle, JoinSet};

use super::listen;
use crate::pattern;

/// The body of a response.
pub type Body = BoxBody<Bytes, hyper::Error>;

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
    let given_up = Arc::new(AtomicUsize::new(0));
    answering(version, move |request| answer(name, request, given_up.clone())).await
}

/// A hyper origin of this version (HTTP/1.1 or HTTP/2) with answers of its own.
pub async fn answering<F, S>(version: Version, answer: F) -> Real
where
    F: Fn(Request<Incoming>) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Result<Response<Body>, hyper::Error>> + Send + 'static,
{
    let listener = listen().await;
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (log, answer) = (log.clone(), answer.clone());
            let service = service_fn(move |request| {
                log.lock().expect("no test panics while it holds the lock").push(note(&request));
                answer(request)
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

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
    given_up: Arc<AtomicUsize>,
) -> Result<Response<Body>, hyper::Error> {
    // Without it hyper sends no trailers by HTTP/1.1.
    let trailer = request.headers().get(TRAILER).cloned();
    let cookies = request.headers().get_all(COOKIE).iter().map(|line| line.to_str().unwrap_or_default());
    let cookies = cookies.collect::<Vec<_>>().join("|");
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
        "cookies" => full(cookies),
        "drip" => drip(given_up),
        "given-up" => full(given_up.load(Ordering::Relaxed).to_string()),
        "digest" => full(digest(request.into_body()).await?.to_string()),
        _ => full(name),
    });
    match kind {
        "echo" => response.headers_mut().extend(trailer.map(|names| (TRAILER, names))),
        "set-cookies" => {
            response
                .headers_mut()
                .extend(["one=1", "two=2"].map(|one| (SET_COOKIE, HeaderValue::from_static(one))));
        }
        "status" | "early" => {
            *response.status_mut() = StatusCode::from_u16(number as u16).unwrap_or_default();
        }
        "delay" => tokio::time::sleep(Duration::from_millis(number)).await,
        _ => {}
    }
    if response.status() == StatusCode::NO_CONTENT || response.status() == StatusCode::NOT_MODIFIED {
        *response.body_mut() = full("");
    }
    Ok(response)
}

/// A body of known length.
pub fn full(body: impl Into<Bytes>) -> Body {
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

/// A response without end; counts when its client has left, which hyper sees when it writes.
fn drip(given_up: Arc<AtomicUsize>) -> Body {
    const PAUSE: Duration = Duration::from_millis(20);
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        while sender.send_data(Bytes::from_static(b"part")).await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
        given_up.fetch_add(1, Ordering::Relaxed);
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
