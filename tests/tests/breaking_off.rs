//! Exchanges and connections that end at rare moments: while an answer is on its way, at the first moment of a drain, after
//! the last answer.

use std::{io::ErrorKind, time::Duration};

use rustix::process::Signal;
use sluice_tests::{
    client::Raw,
    origin,
    proxy::{Counters, Proxy},
    within,
};
use tokio::time::sleep;

/// A 504 behind it would be read as the answer to the next request by a client that takes the 103 for complete.
#[tokio::test]
async fn a_request_that_is_overdue_behind_a_stuck_103_is_reset() {
    let origin = origin::only_hints().await;
    let flags = ["--timeout-request=500ms", "--limit-head-bytes=65536"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut client = Raw::connect_narrow(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let is_over = |now: &Counters| now.named("request_timeouts") == 1 && now.connections == 0;
    let counters = proxy.counters_until("the request is overdue and its client gone", is_over).await;
    assert_eq!((counters.named("write_stalls"), counters.local_responses), (0, 0), "{counters:?}");
    let mut received = Vec::new();
    let end = loop {
        match client.some().await {
            Ok(Some(bytes)) => received.extend_from_slice(&bytes),
            Ok(None) => panic!("an end that looks regular"),
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let received = String::from_utf8_lossy(&received);
    assert!(received.starts_with("HTTP/1.1 103 ") && !received.contains(" 504 "), "{received}");
}

/// Uploads that fail when the server's answer has begun: flags for the proxy, what the client sends behind the head, and
/// the counter that says so.
const FAILED_UPLOADS: &[(&[&str], &str, &str)] = &[
    (
        &["--limit-body-min-rate=1000", "--timeout-body-min-rate-grace=400ms"],
        "4\r\nslow\r\n",
        "bodies_too_slow",
    ),
    (&["--timeout-body-idle=400ms"], "4\r\nstop\r\n", "body_timeouts"),
    (&["--limit-body-bytes=10"], "b\r\nmuch too lo\r\n", "bodies_too_large"),
    (&[], "4\r\nmore than four\r\n", "bad_requests"),
];

#[tokio::test]
async fn an_upload_that_fails_in_mid_answer_is_counted_and_its_answer_cut() {
    for &(flags, bytes, counter) in FAILED_UPLOADS {
        let origin = origin::early_answer_to_a_post().await;
        let proxy = Proxy::to_with(origin.address, flags).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(head.status().unwrap(), 200, "{counter}");
        client.send(bytes).await;
        let error = client.body_to(head.response_framing("POST").unwrap(), |_| ()).await.unwrap_err();
        let is_cut = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind());
        assert!(is_cut, "{counter}: {error}");
        let ended = |now: &Counters| now.connections + now.upstream_connections == 0;
        let counters = proxy.counters_until("nothing is left", ended).await;
        for &(_, _, name) in FAILED_UPLOADS {
            assert_eq!(counters.named(name), u64::from(name == counter), "{name} after {counter}");
        }
        assert_eq!((counters.client_aborts, counters.named("upstream_truncated")), (0, 0), "{counter}");
    }
}

/// A client that was accepted last has not had time to ask. The drain leaves it 20 ms; a busy host may let them pass before the
/// test has sent its request, so it tries again.
#[tokio::test]
async fn a_request_that_arrives_as_a_drain_begins_is_served() {
    const TRIES: usize = 20;
    let origin = origin::answers(origin::ok("served")).await;
    for _ in 0..TRIES {
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        proxy.counters_until("it is accepted", |now| now.connections == 1).await;
        proxy.signal(Signal::TERM);
        proxy.line("draining").await;
        // Long enough for a shard to close what it may close at once.
        sleep(Duration::from_millis(5)).await;
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let answer = client.response("GET").await;
        proxy.stopped().await.assert_clean();
        if let Ok(answer) = answer {
            assert_eq!(answer.text(), "served");
            assert!(answer.head.fields.lists("connection", "close"), "{:?}", answer.head);
            return;
        }
    }
    panic!("{TRIES} drains closed a client that was about to ask");
}

/// After its last answer a client may go on sending for two seconds, that the answer reaches it. Not for ever.
#[tokio::test]
async fn lingering_for_a_client_that_goes_on_ends() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::configured(
        1,
        &format!(
            "[[upstream]]\nname = \"o\"\nservers = [\"http://{}\"]\n[[route]]\npath = \"/\"\nupstream = \"o\"\n",
            origin.address
        ),
    )
    .await;
    let refused = "POST /unknown HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n";
    let (mut silent, mut dripping) = (Raw::connect(proxy.address).await, Raw::connect(proxy.address).await);
    for client in [&mut silent, &mut dripping] {
        client.send(refused).await;
        assert_eq!(client.answer_to("POST").await.status(), 404);
        assert!(client.some().await.unwrap().is_none(), "the answer was the last");
    }
    assert!(proxy.counters().await.connections > 0, "a reset would overtake the answers");
    let dripping = async {
        while dripping.try_send("x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let gone = proxy.counters_until("both are gone", |now| now.connections == 0);
    within("their end", async { tokio::join!(gone, dripping) }).await;
    drop(silent);
}
