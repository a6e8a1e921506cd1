//! Checks by a request: HTTP in either version, and gRPC.

use std::cell::RefCell;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use sluice_proto::grpc_health::{self, Serving};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::timeout;

use super::probe::{Io, reason};
use super::target::Target;
use crate::config::HttpCheck;

/// How we are called.
const AGENT: &str = concat!("sluice/", env!("CARGO_PKG_VERSION"), " (health check)");

/// The largest head of a response over HTTP/2; over HTTP/1.1 hyper's buffer is its bound.
const HEAD_BYTES_MAX: u32 = 64 << 10;

/// What is taken of a body. The rest of a longer one is left: its status is known.
const BODY_BYTES_MAX: usize = 64 << 10;

/// How long the end of a connection may take after a good response.
const FAREWELL: Duration = Duration::from_millis(50);

/// Whether a check has passed, or why not.
pub(super) type Verdict = Result<(), String>;

/// The tasks of one connection: they end with the check at the latest.
#[derive(Default)]
struct Tasks(Rc<RefCell<JoinSet<()>>>);

/// Begins tasks of a connection. It is kept by some of them, so it must not keep them.
#[derive(Clone)]
struct Spawner(Weak<RefCell<JoinSet<()>>>);

impl<F: Future + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        if let Some(tasks) = self.0.upgrade() {
            tasks.borrow_mut().spawn_local(async move { drop(task.await) });
        }
    }
}

impl Tasks {
    fn spawner(&self) -> Spawner {
        Spawner(Rc::downgrade(&self.0))
    }

    /// Lets the connection end in order, if that is a matter of a moment.
    async fn finish(self) {
        let mut tasks = std::mem::take(&mut *self.0.borrow_mut());
        // What is left is broken off.
        let _ = timeout(FAREWELL, async { while tasks.join_next().await.is_some() {} }).await;
    }
}

/// GET, and the status.
pub(super) async fn check(target: &Target, check: &HttpCheck, stream: impl Io + 'static) -> Verdict {
    let request = Request::builder().method(Method::GET).header(USER_AGENT, AGENT).header(ACCEPT, "*/*");
    let request = match target.is_http2 {
        true => request.uri(address(target, &check.path)?),
        false => {
            request.uri(check.path.as_str()).header(HOST, target.host.as_str()).header(CONNECTION, "close")
        }
    };
    let request = request.body(Full::default()).map_err(|error| reason(&error))?;
    let tasks = Tasks::default();
    let response = send(target, request, stream, &tasks).await?;
    let status = response.status().as_u16();
    if !check.statuses.has(status) {
        return Err(format!("status {status}"));
    }
    read_body(response).await?;
    spawn_local(tasks.finish());
    Ok(())
}

/// grpc.health.v1.Health/Check, and what it says.
pub(super) async fn check_grpc(
    target: &Target,
    service: &str,
    within: Duration,
    stream: impl Io + 'static,
) -> Verdict {
    let request = Request::builder()
        .method(Method::POST)
        .uri(address(target, grpc_health::PATH)?)
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{}m", within.as_millis()));
    let body = Full::new(Bytes::from(grpc_health::request(service)));
    let request = request.body(body).map_err(|error| reason(&error))?;
    let tasks = Tasks::default();
    let response = send(target, request, stream, &tasks).await?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(format!("status {status} of HTTP in response to a gRPC call"));
    }
    let is_grpc = |value: &[u8]| value.to_ascii_lowercase().starts_with(b"application/grpc");
    if !response.headers().get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes())) {
        return Err("the response is not gRPC (its content-type is another one)".to_owned());
    }
    let at_once = grpc_status(response.headers());
    let (body, trailers) = read_body(response).await?;
    let status = trailers.as_ref().and_then(grpc_status).or(at_once);
    match status.as_deref() {
        Some("0") => {}
        Some(status) => return Err(failed_call(status, service)),
        None => return Err("the call ended without grpc-status".to_owned()),
    }
    match grpc_health::parse_response(&body) {
        Ok(Serving::Serving) => {}
        Ok(serving) => return Err(serving.name().to_owned()),
        Err(malformed) => return Err(malformed.reason().to_owned()),
    }
    spawn_local(tasks.finish());
    Ok(())
}

fn address(target: &Target, path: &str) -> Result<Uri, String> {
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(target.host.as_str()).path_and_query(path);
    uri.build().map_err(|error| reason(&error))
}

fn grpc_status(fields: &HeaderMap) -> Option<String> {
    let status = fields.get("grpc-status")?;
    let digits = status.to_str().unwrap_or_default();
    Some(if digits.len() <= 3 { digits.to_owned() } else { String::new() })
}

fn failed_call(status: &str, service: &str) -> String {
    match status {
        "5" => format!("the server does not know the service `{service}` (NOT_FOUND)"),
        "12" => "the server has no health service (UNIMPLEMENTED)".to_owned(),
        status => format!("grpc-status {status}"),
    }
}

/// Sends a request and waits for the head of the response.
async fn send(
    target: &Target,
    request: Request<Full<Bytes>>,
    stream: impl Io + 'static,
    tasks: &Tasks,
) -> Result<Response<Incoming>, String> {
    let stream = TokioIo::new(stream);
    let sent = if target.is_http2 {
        let mut builder = http2::Builder::new(tasks.spawner());
        builder
            .max_header_list_size(HEAD_BYTES_MAX)
            .initial_stream_window_size(BODY_BYTES_MAX as u32)
            .initial_connection_window_size(BODY_BYTES_MAX as u32);
        let (mut sender, connection) = builder.handshake(stream).await.map_err(|error| reason(&error))?;
        tasks.spawner().execute(connection);
        sender.send_request(request).await
    } else {
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true).max_buf_size(BODY_BYTES_MAX);
        let (mut sender, connection) = builder.handshake(stream).await.map_err(|error| reason(&error))?;
        tasks.spawner().execute(connection);
        sender.send_request(request).await
    };
    sent.map_err(|error| reason(&error))
}

/// Reads a body to its end, or as much of it as is of interest, and its trailers.
async fn read_body(response: Response<Incoming>) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut body = response.into_body();
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the response was not complete: {}", reason(&error)))?;
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(other) => trailers = other.into_trailers().ok(),
        }
        if bytes.len() > BODY_BYTES_MAX {
            break;
        }
    }
    Ok((bytes, trailers))
}
