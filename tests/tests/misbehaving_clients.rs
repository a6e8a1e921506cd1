//! Clients that are slow, vanish, or never meant well: each gets what is due, and none takes memory,
//! connections or other clients with it.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use sluice_tests::{
    assert_took,
    client::{self, Raw},
    many_connections,
    origin::{self, Origin},
    pattern,
    proxy::{Counters, Proxy},
    wire::Framing,
};

/// The timeouts in these tests.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_head_that_drips_is_408() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-request-head=300ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    let begun = Instant::now();
    // Every byte comes well within the timeout; only the head as a whole does not.
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", "x".repeat(2000));
    let dripping = client.drip(head, 1, Duration::from_millis(30));
    let _ = tokio::time::timeout(SHORT * 2, dripping).await;
    assert_eq!(client.answer_to("GET").await.status(), 408);
    client.assert_closed().await;
    assert_took(begun, SHORT, Duration::from_secs(10));
    assert_eq!(origin.recorder.text(), "");
}

#[tokio::test]
async fn a_body_that_stops_is_408() {
    for (framing, start) in [("Content-Length: 10", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n")] {
        let origin = origin::answers(origin::ok("reached")).await;
        let proxy = Proxy::to_with(origin.address, &["--timeout-body-idle=300ms"]).await;
        let mut client = Raw::connect(proxy.address).await;
        let begun = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{start}")).await;
        assert_eq!(client.answer_to("POST").await.status(), 408, "{framing}");
        client.assert_closed().await;
        assert_took(begun, SHORT, Duration::from_secs(30));
        origin.recorder.wait_for("the end of the unfinished upload", |all| all[0].ended).await;
        assert!(!origin.recorder.text().contains("\r\n0\r\n"), "the unfinished body must not look finished");
    }
}

#[tokio::test]
async fn a_body_that_drips_within_the_timeout_is_taken() {
    let origin = origin::real("real").await;
    let proxy =
        Proxy::to_with(origin.address, &["--timeout-body-idle=3s", "--timeout-request-head=3s"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n").await;
    // As a whole it takes longer than either.
    client.drip("0123456789", 1, Duration::from_millis(400)).await.unwrap();
    assert_eq!(client.answer_to("POST").await.text(), "0123456789");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_silence() {
    let origin = origin::real("real").await;
    // The wait for the first request may count as idle time or as part of the head.
    let flags = ["--timeout-keep-alive-idle=300ms", "--timeout-request-head=300ms"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut used = Raw::connect(proxy.address).await;
    assert_eq!(used.ask("GET", "/").await.status(), 200);
    let mut fresh = Raw::connect(proxy.address).await;
    for client in [&mut used, &mut fresh] {
        client.assert_closed().await;
    }
    proxy.counters_until("no connection is left", |now| now.connections == 0).await;
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_answer() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    for path in ["/bytes/10", "/bytes/1000000", "/chunked/1000000", "/delay/200"] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        client.half_close().await;
        assert_eq!(client.answer_to("GET").await.status(), 200, "{path}");
        client.assert_closed().await;
    }
}

#[tokio::test]
async fn half_a_request_and_the_end_is_nothing() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: te").await;
    client.half_close().await;
    client.assert_closed().await;
    assert_nothing_left(&proxy).await;
    let counters = proxy.counters().await;
    assert_eq!((counters.client_aborts, counters.bad_requests, counters.local_responses), (1, 0, 0));
    assert_eq!(origin.recorder.text(), "");
}

#[tokio::test]
async fn an_upload_that_is_cut_is_never_whole_at_the_origin() {
    for (framing, start) in [("Content-Length: 10", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n")] {
        for reset in [false, true] {
            let origin = origin::answers(origin::ok("reached")).await;
            let proxy = Proxy::to(origin.address).await;
            let mut client = Raw::connect(proxy.address).await;
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{start}")).await;
            arrived(&origin, "abc").await;
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            origin.recorder.wait_for("the end of the cut upload", |all| all[0].ended).await;
            assert!(!origin.recorder.text().contains("\r\n0\r\n"), "{}", origin.recorder.text());
            assert_nothing_left(&proxy).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_vanishes_mid_answer_frees_the_origin() {
    let origin = origin::floods(200_000_000).await;
    let proxy = Proxy::to(origin.address).await;
    for reset in [false, true] {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        assert_eq!(client.head().await.status().unwrap(), 200);
        client.body_to(Framing::Length(1_000_000), |_| ()).await.unwrap();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        assert_nothing_left(&proxy).await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_waits_frees_the_origin() {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").await;
    arrived(&origin, "GET /wait").await;
    client.reset();
    origin.recorder.wait_for("the end of the pointless request", |all| all[0].ended).await;
    assert_nothing_left(&proxy).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let origin = origin::floods(200_000_000).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-write-stall=300ms"]).await;
    let mut client = Raw::connect_with_window(proxy.address, 4096).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    arrived(&origin, "GET /").await;
    assert_nothing_left(&proxy).await;
}

#[tokio::test]
async fn a_slow_reader_costs_no_memory() {
    let origin = origin::floods(200_000_000).await;
    let proxy = Proxy::to(origin.address).await;
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    // One answer at full speed touches every buffer that the proxy will ever use for one.
    let mut fast = Raw::connect(proxy.address).await;
    fast.send(request).await;
    fast.head().await;
    fast.body_to(Framing::Length(20_000_000), |_| ()).await.unwrap();
    fast.reset();
    assert_nothing_left(&proxy).await;

    let before = proxy.resident_bytes();
    let mut slow = Raw::connect_with_window(proxy.address, 16 * 1024).await;
    slow.send(request).await;
    slow.head().await;
    let mut check = pattern::Check::default();
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        check.feed(&slow.some().await.unwrap().expect("the answer goes on"));
        assert_hardly_grown(&proxy, before);
    }
    // It was slow, not lost: what follows comes in order. All of it would take this window a while.
    slow.body_to(Framing::Length(20_000_000), |piece| check.feed(piece)).await.unwrap();
}

#[tokio::test]
async fn a_slow_origin_holds_the_upload_back() {
    const LENGTH: u64 = 50_000_000;
    let go = origin::Go::new();
    let origin = origin::slow_reader(go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    // One upload at full speed touches every buffer that the proxy will ever use for one.
    go.steps(1);
    let mut fast = Raw::connect(proxy.address).await;
    fast.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    for piece in pattern::pieces(LENGTH) {
        fast.send(piece).await;
    }
    assert_eq!(fast.answer_to("POST").await.text(), LENGTH.to_string());

    let before = proxy.resident_bytes();
    let mut slow = Raw::connect(proxy.address).await;
    slow.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    let mut is_held_back = false;
    for piece in pattern::pieces(LENGTH) {
        let sending = slow.send(piece);
        tokio::pin!(sending);
        // Once nothing more is taken, everything between here and the origin is full.
        if !is_held_back && tokio::time::timeout(4 * SHORT, &mut sending).await.is_err() {
            is_held_back = true;
            assert_hardly_grown(&proxy, before);
            go.steps(1);
        }
        if is_held_back {
            sending.await;
        }
    }
    assert!(is_held_back, "the upload stops while the origin does not read, and goes on when it does");
    assert_eq!(slow.answer_to("POST").await.text(), LENGTH.to_string());
}

#[tokio::test]
async fn a_pipeline_without_a_reader_is_held_back() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    // One large answer touches every buffer that the proxy will ever use for one connection.
    assert_eq!(client::get(proxy.address, "/bytes/20000000").await.status(), 200);
    let before = proxy.resident_bytes();
    let mut client = Raw::connect_with_window(proxy.address, 4096).await;
    let requests = "GET /bytes/10000 HTTP/1.1\r\nHost: test\r\n\r\n".repeat(1000);
    // A million requests are more than any buffer on the way: the proxy must stop taking them.
    let flood = async {
        for _ in 0..1000 {
            let _ = client.try_send(&requests).await;
        }
    };
    assert!(
        tokio::time::timeout(SHORT * 5, flood).await.is_err(),
        "a million requests were taken unanswered"
    );
    assert_hardly_grown(&proxy, before);
    client.reset();
    assert_nothing_left(&proxy).await;
}

#[tokio::test]
async fn garbage_hurts_no_neighbour() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut bystander = Raw::connect(proxy.address).await;
    for nth in 1..=100_u32 {
        let mut client = Raw::connect(proxy.address).await;
        // Noise that is the same in every run: a multiplicative generator.
        let noise: Vec<u8> =
            (1..=nth * 37).map(|i| (i.wrapping_mul(2_654_435_761 ^ nth) >> 24) as u8).collect();
        let _ = client.try_send(noise).await;
        let _ = client.try_send("\r\n\r\n").await;
        let answer = client.response("GET").await;
        let refused = answer.as_ref().map_or_else(
            |error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof),
            |answer| (400..506).contains(&answer.status()),
        );
        assert!(refused, "noise {nth}: {answer:?}");
        if nth % 10 == 0 {
            assert_eq!(bystander.ask("GET", "/").await.text(), "real");
        }
    }
    drop(bystander);
    proxy.counters_until("all are gone", |now| now.connections == 0 && now.buffers_held == 0).await;
    assert!(origin.seen().iter().all(|seen| seen.target == "/"), "noise reached the origin");
}

#[tokio::test]
async fn a_thousand_silent_connections_hurt_no_neighbour() {
    let many = many_connections(1_000, 1).await;
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut silent = Vec::new();
    for _ in 0..many.count {
        silent.push(Raw::connect(proxy.address).await);
    }
    proxy.counters_until("all are accepted", |now| now.connections == many.count as u64).await;
    assert_eq!(proxy.counters().await.buffers_held, 0, "an idle connection holds no buffer");
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    drop(silent);
    assert_nothing_left(&proxy).await;
}

async fn arrived(origin: &Origin, what: &str) {
    let has = |all: &[origin::Traffic]| {
        all.iter().any(|traffic| String::from_utf8_lossy(&traffic.bytes).contains(what))
    };
    origin.recorder.wait_for(what, has).await;
}

/// Waits until the last client has left no trace but a pooled connection to a healthy origin.
async fn assert_nothing_left(proxy: &Proxy) {
    let nothing = |now: &Counters| {
        now.connections == 0 && now.tasks_busy == 0 && now.buffers_held == 0 && now.upstream_connections <= 1
    };
    proxy.counters_until("nothing is left", nothing).await;
}

/// What is held back is 20 MB or more. Some of the receive buffers may have come into use for the first time: on a busy machine
/// a turn of the loop finds more of them filled.
fn assert_hardly_grown(proxy: &Proxy, before: u64) {
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 8_000_000, "the proxy has grown by {grown} bytes");
}
