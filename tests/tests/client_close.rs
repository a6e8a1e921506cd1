//! Clients that end their side of a connection while they wait: `on_client_close`, over HTTP/1.1 with and without TLS, in front of
//! servers of HTTP/1.1 and HTTP/2.

use sluice_tests::{
    client::Raw,
    http2::{Ended, frames::code},
    origin::{self, Go, Origin},
    proxy::Proxy,
    tls::{self, BOTH, Client, ONLY_12, ONLY_13},
    upstream,
};

const GET: &str = "GET /it HTTP/1.1\r\nHost: a.example\r\n\r\n";
const CANCEL: &[&str] = &["--on-client-close", "cancel"];

async fn asked(origin: &Origin, requests: usize) {
    let has = |all: &[origin::Traffic]| {
        let text: String = all.iter().map(|one| String::from_utf8_lossy(&one.bytes).into_owned()).collect();
        text.matches("\r\n\r\n").count() >= requests
    };
    origin.recorder.wait_for("the request", has).await;
}

async fn assert_cancelled(proxy: &Proxy, origin: &Origin) {
    origin.recorder.wait_for("the end of the server's connection", |all| all[0].ended).await;
    let counters = proxy.counters_until("no connection", |now| now.connections == 0).await;
    assert_eq!((counters.named("requests_cancelled"), counters.client_aborts), (1, 1), "{counters:?}");
    assert_eq!((counters.requests, counters.local_responses), (1, 0), "{counters:?}");
}

#[tokio::test]
async fn a_client_that_ends_its_side_gets_its_response_unless_it_is_configured() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    for flags in [&[][..], &["--on-client-close", "finish"]] {
        let proxy = Proxy::to_with(origin.address, flags).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(GET).await;
        client.half_close().await;
        proxy.counters_until("the request is under way", |now| now.tasks_busy > 0).await;
        go.steps(1);
        assert_eq!(client.answer_to("GET").await.text(), "signalled");
        client.assert_closed().await;
        let counters = proxy.counters().await;
        assert_eq!((counters.named("requests_cancelled"), counters.client_aborts), (0, 0));
    }
}

#[tokio::test]
async fn a_cancelled_request_ends_the_connection_to_its_server() {
    for (request, upload) in [
        (GET, ""),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ""),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let origin = origin::never_answers().await;
        let proxy = Proxy::to_with(origin.address, CANCEL).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(request).await;
        asked(&origin, 1).await;
        client.send(upload).await;
        if !upload.is_empty() {
            origin.recorder.wait_for("the body", |all| all[0].bytes.ends_with(b"0\r\n\r\n")).await;
        }
        client.half_close().await;
        client.assert_closed().await;
        assert_cancelled(&proxy, &origin).await;
    }
}

#[tokio::test]
async fn requests_behind_the_one_under_way_are_no_end() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, CANCEL).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(GET).await;
    asked(&origin, 1).await;
    client.send(GET).await;
    proxy.counters().await;
    go.steps(2);
    for _ in 0..2 {
        assert_eq!(client.answer_to("GET").await.text(), "signalled");
    }
    // The end behind them is one.
    client.send(GET).await;
    client.send(GET).await;
    asked(&origin, 3).await;
    client.half_close().await;
    client.assert_closed().await;
    let counters = proxy.counters_until("no connection", |now| now.connections == 0).await;
    assert_eq!(counters.named("requests_cancelled"), 1, "{counters:?}");
    assert_eq!(origin.recorder.text().matches("GET /it").count(), 3, "the fourth goes nowhere");
}

#[tokio::test]
async fn a_response_that_has_begun_goes_on() {
    let go = Go::new();
    let origin = origin::sends_events(&["one", "two"], go.clone()).await;
    let proxy = Proxy::to_with(origin.address, CANCEL).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(GET).await;
    let head = client.head().await;
    client.half_close().await;
    proxy.counters().await;
    go.steps(2);
    let mut body = Vec::new();
    let framing = head.response_framing("GET").expect("a framing");
    client.body_to(framing, |part| body.extend_from_slice(part)).await.expect("all of it");
    assert_eq!(body, b"onetwo");
    assert_eq!(proxy.counters().await.named("requests_cancelled"), 0);
}

#[tokio::test]
async fn a_route_decides_for_itself() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let tables = format!(
        "on_client_close = \"cancel\"\n[[upstream]]\nname = \"app\"\nservers = [\"http://{}\"]\n\
         [[route]]\nupstream = \"app\"\n[[route]]\nupstream = \"app\"\npath = \"/slow\"\non_client_close = \"finish\"\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.half_close().await;
    asked(&origin, 1).await;
    go.steps(1);
    assert_eq!(client.answer_to("GET").await.text(), "signalled");
    let mut client = Raw::connect(proxy.address).await;
    client.send(GET).await;
    client.half_close().await;
    client.assert_closed().await;
    assert_eq!(proxy.counters().await.named("requests_cancelled"), 1);
}

#[tokio::test]
async fn a_stream_to_a_server_is_reset() {
    let origin = origin::reacts(&[], |_, _, _| None).await;
    let proxy = upstream::proxy_to(origin.origin.address, CANCEL).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(GET).await;
    origin.wait_for("the request", |seen| !seen.requests.is_empty()).await;
    client.half_close().await;
    client.assert_closed().await;
    let is_reset = |seen: &origin::Arrivals| seen.requests[&(0, 1)].ended == Some(Ended::Reset(code::CANCEL));
    origin.wait_for("RST_STREAM", is_reset).await;
    assert_eq!(proxy.counters().await.named("requests_cancelled"), 1);
}

/// By its alert alone, also behind a request that waits for its turn.
#[tokio::test]
async fn an_end_of_tls_is_one() {
    for (versions, ends_connection) in [(ONLY_12, false), (ONLY_13, false), (BOTH, true)] {
        let origin = origin::never_answers().await;
        let (proxy, authority) = tls::proxy_to(origin.address, CANCEL).await;
        let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
        client.send(GET).await;
        asked(&origin, 1).await;
        match ends_connection {
            true => client.half_close().await,
            false => client.announce_end().await,
        }
        assert_cancelled(&proxy, &origin).await;
    }
}

#[tokio::test]
async fn requests_over_tls_behind_the_one_under_way_are_answered() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let (proxy, authority) = tls::proxy_to(origin.address, CANCEL).await;
    let mut client = Client::connect(proxy.address, &authority.client(BOTH)).await;
    client.send(GET).await;
    asked(&origin, 1).await;
    // In a record each, the last one in two.
    for part in [GET, &GET[..20], &GET[20..]] {
        client.send(part).await;
    }
    go.steps(3);
    for _ in 0..3 {
        assert_eq!(client.answer_to("GET").await.text(), "signalled");
    }
    client.half_close().await;
    client.assert_closed().await;
    let counters = proxy.counters().await;
    assert_eq!((counters.requests, counters.named("requests_cancelled")), (3, 0));
}
