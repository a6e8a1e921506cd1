//! HTTP/2 against a server of the `h2` crate: what is counted is what it saw.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use h2::Reason;
use http::{Response, StatusCode};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::assert_documented;
use crate::support::{count, tool};

/// What the server saw.
#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    requests: AtomicU64,
    body_bytes: AtomicU64,
    fields: AtomicU64,
    at_once: AtomicU64,
    most_at_once: AtomicU64,
}

/// A server that answers by path: `/bytes/N`, `/reset`, `/refuse` (REFUSED_STREAM once for each connection), `/leave` (GOAWAY after
/// each tenth request), `/never`.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    fn start() -> Server {
        Server::of(None)
    }

    fn with_tls(protocol: &str) -> Server {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = pair.signing_key.serialize_der().try_into().expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a pair");
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Server::of(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn of(tls: Option<TlsAcceptor>) -> Server {
        let seen = Arc::new(Seen::default());
        let its = seen.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                sender.send(listener.local_addr().expect("an address")).expect("it waits");
                while let Ok((stream, _)) = listener.accept().await {
                    let (tls, seen) = (tls.clone(), its.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, seen).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    serve(stream, seen).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        Server { address: receiver.recv().expect("it listens"), seen }
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.address)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Seen>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let mut requests = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        requests += 1;
        if requests == 10 && request.uri().path() == "/leave" {
            connection.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond, seen.clone(), requests));
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Arc<Seen>,
    nth: u64,
) {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    seen.fields.fetch_max(request.headers().len() as u64, Ordering::SeqCst);
    let at_once = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_at_once.fetch_max(at_once, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        seen.body_bytes.fetch_add(data.len() as u64, Ordering::SeqCst);
        let _ = body.flow_control().release_capacity(data.len());
    }
    tokio::task::yield_now().await;
    seen.at_once.fetch_sub(1, Ordering::SeqCst);
    if path == "/reset" {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    if path == "/refuse" && nth == 1 {
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    if path == "/never" {
        return std::future::pending().await;
    }
    let bytes = path.strip_prefix("/bytes/").and_then(|bytes| bytes.parse().ok()).unwrap_or(3);
    let status = if path == "/missing" { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let head = Response::builder().status(status).body(()).expect("a head");
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(vec![b'x'; bytes].into(), true);
    }
}

fn load(flags: &[&str]) -> (Output, Value) {
    let output = tool().args(["load", "--h2", "--json", "--warmup", "0ms"]).args(flags).output();
    let output = output.expect("runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

#[test]
fn every_request_is_counted_as_the_server_counts_it() {
    for (scheme, server) in [("http", Server::start()), ("https", Server::with_tls("h2"))] {
        let url = server.url(scheme, "/bytes/20000");
        let (output, json) = load(&["--url", &url, "-c", "3", "--streams", "8", "-n", "500"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!((count(&json, "/requests"), count(&json, "/streams")), (500, 8), "{json}");
        assert!(count(&json, "/bytes") >= 500 * 20_000, "{json}");
        let seen = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        assert_eq!(seen(&server.seen.requests), 500);
        assert!(seen(&server.seen.connections) <= 4, "as many as were asked for");
        let at_once = seen(&server.seen.most_at_once);
        assert!((2..=24).contains(&at_once), "{at_once} at once");
        assert_documented("load", &json);
    }
}

#[test]
fn bodies_go_through_windows() {
    let server = Server::start();
    let url = server.url("http", "/");
    let (output, json) = load(&["--url", &url, "-c", "2", "--streams", "4", "-n", "20", "--body", "300000"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(count(&json, "/requests"), 20);
    assert_eq!(server.seen.body_bytes.load(Ordering::SeqCst), 20 * 300_000);
}

#[test]
fn an_open_loop_of_streams_keeps_its_rate() {
    let server = Server::start();
    let url = server.url("http", "/bytes/10");
    let flags = ["-c", "2", "--streams", "50", "--rate", "300", "--duration", "1s"];
    let (output, json) = load(&[&["--url", &url][..], &flags].concat());
    assert!(output.status.success(), "{output:?}");
    let requests = count(&json, "/requests");
    assert!((150..=310).contains(&requests), "{json}");
    assert!(count(&json, "/send_lag_ns/max") > 0, "{json}");
}

#[test]
fn failures_of_streams_have_their_kinds() {
    let server = Server::start();
    for (path, kind) in [("/reset", "stream_reset_2"), ("/missing", "status_404"), ("/never", "timeout")] {
        let url = server.url("http", path);
        let (output, json) =
            load(&["--url", &url, "-c", "1", "--streams", "4", "-n", "4", "--timeout", "300ms"]);
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        assert_eq!(count(&json, &format!("/errors/{kind}")), 4, "{path}: {json}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            // Until the client has had enough: unread bytes would make the end a reset.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let (_, json) = load(&["--url", &url, "-c", "1", "-n", "4"]);
    assert!(count(&json, "/errors/malformed_answer") > 0, "it speaks HTTP/1.1: {json}");
}

#[test]
fn requests_that_were_not_begun_are_sent_again() {
    let server = Server::start();
    for path in ["/refuse", "/leave"] {
        let url = server.url("http", path);
        let (output, json) = load(&["--url", &url, "-c", "2", "--streams", "4", "-n", "100"]);
        assert!(output.status.success(), "{path}: {output:?}");
        assert_eq!(count(&json, "/requests"), 100, "{path}: {json}");
        assert_eq!(json.pointer("/errors"), Some(&serde_json::json!({})), "{path}: {json}");
    }
    assert!(server.seen.connections.load(Ordering::SeqCst) >= 6, "it left after ten requests each time");
}

#[test]
fn flags_and_servers_that_do_not_fit_are_refused() {
    let server = Server::with_tls("http/1.1");
    let (output, _) = load(&["--url", &server.url("https", "/"), "-n", "1"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.starts_with("sluice-bench: no TLS with ") && stderr.lines().count() == 1, "{stderr}");
    let output = tool().args(["load", "--streams", "2"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_capacity_run_holds_connections_of_http2() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let output = tool()
        .args(["capacity", "--h2", "--head", "browser", "--target", &server.address.to_string()])
        .args(["--steps", "50,200", "--hold", "600ms", "--active", "10%", "--interval", "100ms"])
        .args(["--name", "h2", "--out"])
        .arg(dir.path())
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    let json = std::fs::read(dir.path().join("h2.json")).expect("a report");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    for (step, held) in [50, 200].into_iter().enumerate() {
        assert_eq!(count(&json, &format!("/steps/{step}/held")), held, "{json}");
        assert_eq!(count(&json, &format!("/steps/{step}/failed")), 0, "{json}");
        assert!(count(&json, &format!("/steps/{step}/active/requests")) > 0, "{json}");
    }
    assert_eq!(server.seen.fields.load(Ordering::SeqCst), 15, "a browser's, and its three cookies are apart");
    assert_documented("capacity", &json);
}
