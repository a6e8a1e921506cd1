//! Requests on connections that have served others: which are sent again, and which must reach a server once only.
//!
//! The plain cases are in `upstream_failures`.

use std::time::{Duration, Instant};

use sluice_tests::{
    client::Raw,
    origin::{self, Go, Origin},
    proxy::Proxy,
};

/// A proxy that has a connection to this origin, and a client that got its first answer on it.
async fn served_once(origin: &Origin, flags: &[&str]) -> (Proxy, Raw) {
    let proxy = Proxy::to_with(origin.address, flags).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/first").await.text(), "alive");
    (proxy, client)
}

/// The second request went out once, on the connection of the first.
async fn assert_sent_once(proxy: &Proxy, origin: &Origin, request: &str) {
    let counters = proxy.counters().await;
    assert_eq!((counters.upstream_reuses, counters.upstream_retries), (1, 0), "{counters:?}");
    assert_eq!(origin.recorder.connections(), 1);
    assert_eq!(origin.recorder.text().matches(request).count(), 1, "{}", origin.recorder.text());
}

/// The server has acknowledged a part of it, so it may have acted on it.
//= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
#[tokio::test]
async fn a_post_that_was_read_in_part_is_not_sent_again() {
    let go = Go::new();
    let origin = origin::finishes_within_the_second_request(go.clone()).await;
    let (proxy, mut client) = served_once(&origin, &[]).await;
    // It has to be there as a whole, in one receive buffer, when the proxy looks at it: only such requests are sent again.
    let body = "x".repeat(14_000);
    client.send(format!("POST /part HTTP/1.1\r\nHost: test\r\nContent-Length: 14000\r\n\r\n{body}")).await;
    assert_eq!(client.answer_to("POST").await.status(), 502);
    assert_sent_once(&proxy, &origin, "POST /part").await;
    let read = origin.recorder.text();
    assert!(!read.ends_with(&body), "the origin was to read a part of it");
    go.steps(1);
}

/// It waits for the answer once. A server that thinks for too long is no reason to make it think again.
#[tokio::test]
async fn a_get_whose_server_is_silent_is_not_sent_again() {
    let origin = origin::falls_silent_after_the_first_answer().await;
    let (proxy, mut client) = served_once(&origin, &["--timeout-upstream-response=2s"]).await;
    let begun = Instant::now();
    assert_eq!(client.ask("GET", "/second").await.status(), 504);
    let took = begun.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_millis(3_500)).contains(&took), "{took:?}");
    assert_sent_once(&proxy, &origin, "GET /second").await;
    assert_eq!(proxy.counters().await.named("upstream_timeouts"), 1);
}

/// An interim answer is a word from a server that has seen the request.
#[tokio::test]
async fn a_get_that_was_answered_by_103_is_not_sent_again() {
    let origin = origin::hints_and_dies_on_reuse().await;
    let (proxy, mut client) = served_once(&origin, &[]).await;
    let answer = client.ask("GET", "/second").await;
    assert_eq!((answer.status(), answer.interim.len()), (502, 1), "{answer:?}");
    assert_sent_once(&proxy, &origin, "GET /second").await;
}
