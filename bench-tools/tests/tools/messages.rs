//! Messages and their echoes: WebSocket and gRPC, our client against foreign servers, foreign clients against our origin.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::assert_documented;
use crate::support::{Origin, PATIENCE, count, one_at_a_time, skip, tool};

fn load(flags: &[&str]) -> (Output, Value) {
    let output = tool().args(["load", "--json", "--warmup", "0ms"]).args(flags).output().expect("runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn within_patience(talk: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, talk).await.expect("no answer for too long");
}

/// A server that gives each of its connections to `serve`.
fn server<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime(), async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("an address")).expect("it waits");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream));
            }
        });
    });
    receiver.recv().expect("it listens")
}

/// A WebSocket server by tungstenite that sends each message back, after a ping; and how many it has seen.
fn tungstenite() -> (SocketAddr, Arc<AtomicU64>) {
    let seen = Arc::new(AtomicU64::new(0));
    let its = seen.clone();
    let address = server(move |stream| {
        let seen = its.clone();
        async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_binary() {
                    seen.fetch_add(1, Ordering::SeqCst);
                    let ping = Message::Ping(Bytes::from_static(b"there?"));
                    if socket.send(ping).await.is_err() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    (address, seen)
}

#[test]
fn messages_on_websockets_are_counted_as_the_server_counts_them() {
    let (address, seen) = tungstenite();
    let url = format!("http://{address}/chat");
    let (output, json) = load(&["--ws", "--url", &url, "-c", "4", "-n", "200", "--message", "300"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((count(&json, "/requests"), seen.load(Ordering::SeqCst)), (200, 200), "{json}");
    assert_eq!(json.pointer("/errors"), Some(&serde_json::json!({})), "{json}");
    assert!(count(&json, "/connect_ns/max") > 0, "the handshake is a part of connecting: {json}");
    assert!(count(&json, "/bytes") >= 200 * 300, "{json}");
    assert_eq!(json.pointer("/message/framing").and_then(Value::as_str), Some("websocket"));
    assert_eq!(count(&json, "/message/bytes"), 300);
    assert_documented("load", &json);
}

#[test]
fn the_origin_sends_messages_back() {
    let origin = Origin::start();
    for (flags, requests) in [
        (&["--ws"][..], 300),
        (&["--ws", "--message", "100k"], 50),
        (&["--ws", "--h2", "--streams", "8"], 300),
        (&["--ws", "--h2", "--streams", "3", "--message", "300k"], 50),
        (&["--grpc", "--h2", "--streams", "20"], 300),
        (&["--grpc", "--h2", "--streams", "3", "--message", "300k"], 50),
        (&["--grpc", "--h2", "--streams", "2", "--new-connections"], 40),
    ] {
        let url = origin.url("/anything");
        let number = requests.to_string();
        let (output, json) = load(&[&["--url", &url, "-c", "3", "-n", &number], flags].concat());
        assert!(output.status.success(), "{flags:?}: {output:?}");
        assert_eq!(count(&json, "/requests"), requests, "{flags:?}: {json}");
        assert_eq!(json.pointer("/errors"), Some(&serde_json::json!({})), "{flags:?}: {json}");
    }
}

#[test]
fn an_open_loop_of_messages_keeps_its_rate() {
    let origin = Origin::start();
    for flags in [&["--ws", "-c", "20"][..], &["--grpc", "--h2", "-c", "2", "--streams", "10"]] {
        let url = origin.url("/");
        let (output, json) = load(&[&["--url", &url, "--rate", "300", "--duration", "1s"], flags].concat());
        assert!(output.status.success(), "{output:?}");
        let due = (count(&json, "/requests") + count(&json, "/behind")) as f64;
        let rate = due / json.pointer("/elapsed_s").and_then(Value::as_f64).expect("a time");
        assert!((200.0..=400.0).contains(&rate), "{flags:?}: {rate}: {json}");
        assert!(count(&json, "/send_lag_ns/max") > 0, "{json}");
    }
}

#[test]
fn the_origin_is_a_websocket_server_to_others() {
    let origin = Origin::start();
    let url = format!("ws://{}/chat", origin.address);
    runtime().block_on(within_patience(async move {
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("it takes up the offer");
        let long = Bytes::from(vec![7; 200_000]);
        for message in [Message::text("hello"), Message::binary(long), Message::text("")] {
            socket.send(message.clone()).await.expect("sends");
            assert_eq!(socket.next().await.expect("an echo").expect("a frame"), message);
        }
        socket.send(Message::Ping(Bytes::from_static(b"p"))).await.expect("sends");
        assert_eq!(
            socket.next().await.expect("a pong").expect("a frame"),
            Message::Pong(Bytes::from_static(b"p"))
        );
        socket.close(None).await.expect("closes");
        while let Some(frame) = socket.next().await {
            assert!(frame.expect("no error, but an end").is_close());
        }
    }));
}

/// A call on our origin by the `h2` crate: what came back, and the trailers.
async fn call(address: SocketAddr, pieces: &[Bytes]) -> (HeaderMap, Vec<u8>, Option<HeaderMap>) {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::task::spawn_local(async move { connection.await.expect("it ends well") });
    let request = Request::builder().method(Method::POST).uri("http://origin/service/method");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let (response, mut body) = client.send_request(request.body(()).expect("a head"), false).expect("sends");
    let mut response = response.await.expect("its head comes before the first message");
    let mut received = Vec::new();
    for piece in pieces {
        body.send_data(piece.clone(), false).expect("sends");
        let sent = received.len() + piece.len();
        while received.len() < sent {
            let data = response.body_mut().data().await.expect("an echo").expect("data");
            response.body_mut().flow_control().release_capacity(data.len()).expect("capacity");
            received.extend_from_slice(&data);
        }
    }
    body.send_data(Bytes::new(), true).expect("ends");
    assert!(response.body_mut().data().await.is_none_or(|data| data.is_ok_and(|data| data.is_empty())));
    let trailers = response.body_mut().trailers().await.expect("an end");
    (response.headers().clone(), received, trailers)
}

#[test]
fn the_origin_is_a_grpc_server_to_others() {
    let origin = Origin::start();
    let local = tokio::task::LocalSet::new();
    let talk = async {
        // The last is more than the windows let through at once.
        let mut pieces = [&b"\0\0\0\0\x03abc"[..], b"\0\0\0", b"\0\x02de"].map(Bytes::from_static).to_vec();
        pieces.push([&[0, 0, 3, 0, 0][..], &[7; 3 << 16]].concat().into());
        let (head, received, trailers) = call(origin.address, &pieces).await;
        assert_eq!(head["content-type"], "application/grpc");
        assert_eq!(received, pieces.concat());
        assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    };
    local.block_on(&runtime(), within_patience(talk));
}

/// A gRPC server of the `h2` crate that sends back what comes, and how many calls it has seen.
fn calls() -> (SocketAddr, Arc<AtomicU64>) {
    let seen = Arc::new(AtomicU64::new(0));
    let its = seen.clone();
    let address = server(move |stream| {
        let seen = its.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.headers()["content-type"], "application/grpc");
                assert_eq!(request.headers()["te"], "trailers");
                seen.fetch_add(1, Ordering::SeqCst);
                tokio::task::spawn_local(async move {
                    let head = Response::builder().body(()).expect("a head");
                    let Ok(mut echo) = respond.send_response(head, false) else { return };
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        let _ = echo.send_data(data, false);
                    }
                });
            }
        }
    });
    (address, seen)
}

#[test]
fn calls_stay_open_for_all_their_messages() {
    let (address, seen) = calls();
    let url = format!("http://{address}/service/method");
    let flags = ["-c", "2", "--streams", "3", "-n", "100", "--message", "20k"];
    let (output, json) = load(&[&["--grpc", "--h2", "--url", &url][..], &flags].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!((count(&json, "/requests"), seen.load(Ordering::SeqCst)), (100, 6), "{json}");
    assert_eq!(json.pointer("/errors"), Some(&serde_json::json!({})), "{json}");
    assert_eq!(json.pointer("/message/framing").and_then(Value::as_str), Some("grpc"));
}

/// A server of the `h2` crate without RFC 8441 that ends calls in the way that their path says.
async fn end_calls(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    // Dropped, they would be reset.
    let mut kept = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let head = |status: StatusCode| Response::builder().status(status);
        match request.uri().path() {
            "/trailers" => {
                let mut body = respond
                    .send_response(head(StatusCode::OK).body(()).expect("a head"), false)
                    .expect("sends");
                let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), 14.into())]);
                body.send_trailers(trailers).expect("sends");
            }
            "/only" => {
                let status = HeaderValue::from_static("4");
                let head = head(StatusCode::OK).header("grpc-status", status).body(()).expect("a head");
                respond.send_response(head, true).expect("sends");
            }
            "/other" => {
                let head = head(StatusCode::OK).body(()).expect("a head");
                let mut body = respond.send_response(head, false).expect("sends");
                body.send_data(vec![b'x'; 105].into(), false).expect("sends");
                kept.push((request, body));
            }
            _ => {
                let head = head(StatusCode::NOT_FOUND).body(()).expect("a head");
                respond.send_response(head, true).expect("sends");
            }
        }
    }
}

#[test]
fn failures_of_messages_have_their_kinds() {
    let address = server(end_calls);
    for (path, kind) in [
        ("/trailers", "grpc_status_14"),
        ("/only", "grpc_status_4"),
        ("/other", "malformed_answer"),
        ("/missing", "status_404"),
    ] {
        let url = format!("http://{address}{path}");
        let (output, json) = load(&["--grpc", "--h2", "--url", &url, "-c", "1", "-n", "4"]);
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        assert_eq!(count(&json, &format!("/errors/{kind}")), 4, "{path}: {json}");
    }
    let url = format!("http://{address}/");
    let (_, json) = load(&["--ws", "--h2", "--url", &url, "-c", "1", "-n", "2"]);
    assert_eq!(count(&json, "/errors/no_extended_connect"), 2, "{json}");
    let http = server(async |mut stream| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    });
    let (_, json) = load(&["--ws", "--url", &format!("http://{http}/"), "-c", "1", "-n", "2"]);
    assert_eq!(count(&json, "/errors/status_403"), 2, "{json}");
}

#[test]
fn flags_of_messages_that_do_not_fit_are_refused() {
    for flags in [
        &["load", "--grpc"][..],
        &["load", "--ws", "--grpc", "--h2"],
        &["load", "--ws", "--body", "3"],
        &["load", "--ws", "--message", "2M"],
        &["capacity", "--ws", "--tls", "--start", "sluice", "--out", "/dev/null/x"],
        &["compare", "--peers", "nginx", "--cases", "wsh2", "--out", "/dev/null/x"],
    ] {
        let output = tool().args(flags).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
    }
}

#[test]
fn a_capacity_run_holds_websockets() {
    let origin = Origin::start();
    for h2 in [&[][..], &["--h2"]] {
        let dir = tempfile::tempdir().expect("a directory");
        let output = tool()
            .args(["capacity", "--ws", "--path", "/live", "--target", &origin.address.to_string()])
            .args(["--steps", "50,200", "--hold", "600ms", "--active", "10%", "--interval", "100ms"])
            .args(h2)
            .args(["--name", "ws", "--out"])
            .arg(dir.path())
            .output()
            .expect("runs");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("one message on a WebSocket (`/live`) echoed"), "{said}");
        let json = std::fs::read(dir.path().join("ws.json")).expect("a report");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        for (step, held) in [50, 200].into_iter().enumerate() {
            assert_eq!(count(&json, &format!("/steps/{step}/held")), held, "{json}");
            assert_eq!(count(&json, &format!("/steps/{step}/failed")), 0, "{json}");
            assert!(count(&json, &format!("/steps/{step}/active/requests")) > 0, "{json}");
        }
        assert_eq!(json["websocket"], true);
        assert_documented("capacity", &json);
    }
}

#[test]
fn servers_pass_messages_on() {
    let _turn = one_at_a_time();
    for (peer, cases, figure) in [
        ("relay-bare", "ws64", "cpu_us_per_request"),
        ("nginx", "ws64,grpc1000", "p99_us"),
        ("haproxy", "ws64,wsh2,grpc1000,grpc-rate", "p99_us"),
        ("nghttpx", "wsh2,grpc1000", "p99_us"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let flags =
            ["--rounds", "1", "--duration", "500ms", "--threads", "1", "--rate", "200", "--name", "c"];
        let mut command = tool();
        command.args(["compare", "--peers", peer, "--cases", cases]).args(flags);
        let output = command.arg("--out").arg(dir.path()).output().expect("runs");
        if String::from_utf8_lossy(&output.stderr).contains("not installed") {
            skip(&format!("{peer} is not installed"));
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        let json = std::fs::read(dir.path().join("c.json")).expect("a report");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        let results = json["cases"].as_array().expect("cases");
        assert_eq!(results.len(), cases.split(',').count(), "{json}");
        for result in results {
            let health = &result["health"][peer];
            assert_eq!(health["errors"], serde_json::json!({}), "{result}");
            assert!(health["requests"].as_u64().is_some_and(|requests| requests >= 64), "{result}");
            let figures = result["figures"].as_array().expect("figures");
            let found = figures.iter().find(|one| one["figure"] == figure).expect("the figure");
            assert!(found["servers"][peer]["median"].as_f64().is_some_and(|us| us > 1.0), "{result}");
        }
    }
}
