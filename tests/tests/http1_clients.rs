//! The same requests by HTTP clients that others wrote, each with its own idea of how to put them on the wire.

use std::{convert::Infallible, fs};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, channel::Channel};
use hyper::{HeaderMap, Request, StatusCode, body::Frame, header::TRAILER};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use sluice_tests::{client, origin, pattern, proxy::Proxy, within};
use tokio::task::JoinSet;

#[tokio::test]
async fn reqwest_gets_and_posts() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let client = client::reqwest();
    for length in [0, 1, 8192, 1_000_000] {
        let body = pattern::bytes(length);
        let echo = client.post(proxy.url("/echo")).body(body.clone()).send().await.unwrap();
        assert!(echo.status() == 200 && echo.bytes().await.unwrap() == body, "{length} bytes posted");
        let answer = client.get(proxy.url(&format!("/chunked/{length}"))).send().await.unwrap();
        pattern::assert_exact(&answer.bytes().await.unwrap(), length);
    }
    let head = client.head(proxy.url("/bytes/10")).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "10");
    assert_eq!(client.get(proxy.url("/status/404")).send().await.unwrap().status(), 404);
    assert_eq!(client.delete(proxy.url("/status/204")).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn hyper_streams_a_body_with_trailers() {
    let origin = origin::echoes_trailers().await;
    let proxy = Proxy::to(origin.address).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Channel<Bytes, Infallible>>();
    for _ in 0..3 {
        let (mut sender, body) = Channel::new(1);
        let request = Request::post(proxy.url("/")).header(TRAILER, "x-sum").header("te", "trailers");
        let request = request.header("connection", "te").body(body).unwrap();
        let sending = async move {
            for piece in ["hello ", "world"] {
                sender.send_data(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "11".parse().unwrap())]);
            sender.send(Frame::trailers(trailers)).await.unwrap();
        };
        let (answer, ()) = within("the echo", async { tokio::join!(client.request(request), sending) }).await;
        let answer = within("its end", answer.unwrap().into_body().collect()).await.unwrap();
        assert_eq!(answer.trailers().and_then(|trailers| trailers.get("x-sum")).unwrap(), "11");
        assert_eq!(answer.to_bytes(), "hello world");
    }
}

#[tokio::test]
async fn hyper_reuses_its_connection() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    for _ in 0..20 {
        let answer = client.get(proxy.url("/bytes/1000").parse().unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        pattern::assert_exact(&answer.into_body().collect().await.unwrap().to_bytes(), 1000);
    }
    assert_eq!(proxy.counters().await.connections, 1);
}

#[tokio::test]
async fn sixty_four_clients_at_once_get_their_own_bytes() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let client = client::reqwest();
    let mut clients = JoinSet::new();
    for nth in 0..64_usize {
        let (client, url) = (client.clone(), proxy.url(["/echo", "/copy"][nth % 2]));
        clients.spawn(async move {
            for round in 0..12_usize {
                // Sizes around the usual buffer sizes, and bytes that only this client sends.
                let length =
                    [0, 1, 100, 4095, 4096, 4097, 16_384, 65_537][(nth + round) % 8] * (1 + round % 3);
                let body = vec![nth as u8; length];
                let echo = client.post(&url).body(body.clone()).send().await.unwrap();
                assert!(echo.bytes().await.unwrap() == body, "client {nth}, round {round}, {length} bytes");
            }
        });
    }
    clients.join_all().await;
    let counters = proxy.counters().await;
    assert_eq!(counters.requests, 64 * 12);
}

#[tokio::test]
async fn curl_uploads_and_downloads() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name).to_string_lossy().into_owned();
    let (upload, first, second) = (path("upload"), path("first"), path("second"));
    let body = pattern::bytes(2_000_000);
    fs::write(&upload, &body).unwrap();
    let url = proxy.url("/copy");
    let variants: [&[&str]; 4] =
        [&[], &["-H", "Expect: 100-continue"], &["-H", "Transfer-Encoding: chunked"], &["-H", "Expect:"]];
    for options in variants {
        let fixed =
            ["-sS", "--fail", "-w", "%{http_code} %{num_connects};", "-T", &upload, "-o", &first, &url];
        let again = ["-T", &upload, "-o", &second, &url];
        let Some(output) = client::program("curl", &[options, &fixed, &again].concat()).await else { return };
        assert_eq!(output, "200 1;200 0;", "{options:?}: two answers on one connection");
        assert!(fs::read(&first).unwrap() == body && fs::read(&second).unwrap() == body, "{options:?}");
    }
}

#[tokio::test]
async fn curl_speaks_http10_and_head() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let Some(old) = client::program("curl", &["-sS", "--fail", "-0", &proxy.url("/chunked/5")]).await else {
        return;
    };
    assert_eq!(old, "\0\u{1}\u{2}\u{3}\u{4}");
    let head = client::program("curl", &["-sS", "--fail", "-I", &proxy.url("/bytes/77")]).await.unwrap();
    assert!(head.to_lowercase().contains("\r\ncontent-length: 77\r\n"), "{head}");
}

#[tokio::test]
async fn python_is_content() {
    run_script("python3", "client.py").await;
}

#[tokio::test]
async fn node_is_content() {
    run_script("node", "client.mjs").await;
}

async fn run_script(interpreter: &str, script: &str) {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let path = format!("{}/programs/{script}", env!("CARGO_MANIFEST_DIR"));
    if let Some(output) = client::program(interpreter, &[&path, &proxy.address.to_string()]).await {
        assert_eq!(output.trim(), "fine");
    }
}
