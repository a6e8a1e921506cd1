//! Bodies large enough to pass through the proxy without being looked at: how they begin, end, stop and break,
//! and what they must not do to their neighbours.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sluice_tests::{
    assert_took,
    client::{self, Raw},
    origin::{self, Cut},
    pattern,
    proxy::Proxy,
    wire::Framing,
    within,
};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::sleep};

const LARGE: usize = 5_000_000;

/// The timeouts in these tests.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_connection_goes_on_after_large_bodies() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let (mut answers, mut requests) = Raw::connect(proxy.address).await.split();
    let sending = async {
        for _ in 0..10 {
            let head = format!("POST /copy HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n");
            requests.write_all(head.as_bytes()).await.unwrap();
            requests.write_all(&pattern::bytes(LARGE)).await.unwrap();
            // In one piece with the end of the body, and not part of it.
            requests.write_all(b"GET /bytes/7 HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        }
    };
    let reading = async {
        for _ in 0..10 {
            pattern::assert_exact(&answers.response("POST").await.unwrap().body, LARGE);
            pattern::assert_exact(&answers.response("GET").await.unwrap().body, 7);
        }
    };
    within("ten uploads and what follows them", async { tokio::join!(sending, reading) }).await;
    assert!(origin.seen().iter().all(|seen| ["/copy", "/bytes/7"].contains(&&*seen.target)));
}

#[tokio::test]
async fn requests_that_come_during_a_large_answer_are_kept() {
    const BEHIND: usize = 3000;
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(format!("GET /bytes/{} HTTP/1.1\r\nHost: test\r\n\r\n", 4 * LARGE)).await;
    client.head().await;
    let mut check = pattern::Check::default();
    let body = Framing::Length(2 * LARGE as u64);
    client.body_to(body, |piece| check.feed(piece)).await.unwrap();
    // More than the proxy takes ahead, so it must stop receiving and begin again.
    let (mut reader, mut writer) = client.split();
    let requests = "GET /bytes/9 HTTP/1.1\r\nHost: test\r\n\r\n".repeat(BEHIND);
    let sending = async { writer.write_all(requests.as_bytes()).await.unwrap() };
    let reading = async {
        reader.body_to(body, |piece| check.feed(piece)).await.unwrap();
        for _ in 0..BEHIND {
            pattern::assert_exact(&reader.response("GET").await.unwrap().body, 9);
        }
    };
    within("what stood behind the large answer", async { tokio::join!(sending, reading) }).await;
}

#[tokio::test]
async fn a_large_answer_that_is_cut_is_never_whole() {
    for cut in [Cut::Close, Cut::Reset] {
        let go = origin::Go::new();
        let origin = origin::cuts_large_body(10 * LARGE, LARGE, cut, go.clone()).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        client.head().await;
        let mut check = pattern::Check::default();
        client.body_to(Framing::Length(LARGE as u64), |piece| check.feed(piece)).await.unwrap();
        go.steps(1);
        let error = client.body_to(Framing::Length(1), |_| ()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
        proxy.counters_until("nothing is left", |now| now.connections + now.upstream_connections == 0).await;
    }
}

#[tokio::test]
async fn a_large_answer_that_stalls_is_cut() {
    let origin = origin::cuts_large_body(10 * LARGE, LARGE, Cut::Close, origin::Go::new()).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-body-idle=300ms"]).await;
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(client.response("GET").await.is_err());
    assert_took(begun, SHORT, Duration::from_secs(60));
    proxy.counters_until("nothing is left", |now| now.connections + now.upstream_connections == 0).await;
}

#[tokio::test]
async fn a_large_upload_that_stops_is_408() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-body-idle=2s"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", 2 * LARGE)).await;
    client.send(pattern::bytes(LARGE)).await;
    assert_eq!(client.answer_to("POST").await.status(), 408);
    client.assert_closed().await;
    origin.recorder.wait_for("the end of the unfinished upload", |all| all[0].ended).await;
}

#[tokio::test]
async fn a_large_upload_that_is_cut_is_never_whole_at_the_origin() {
    for reset in [false, true] {
        let origin = origin::answers(origin::ok("reached")).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", 2 * LARGE)).await;
        client.send(pattern::bytes(LARGE)).await;
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        let ended = |all: &[origin::Traffic]| all.first().is_some_and(|traffic| traffic.ended);
        origin.recorder.wait_for("the end of the cut upload", ended).await;
        proxy.counters_until("nothing is left", |now| now.connections + now.upstream_connections == 0).await;
    }
}

#[tokio::test]
async fn what_follows_a_large_answer_is_not_the_next_answer() {
    let mut poisoned = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").into_bytes();
    poisoned.extend(pattern::bytes(LARGE));
    poisoned.extend_from_slice(origin::ok("poison").as_bytes());
    let origin = origin::answers(poisoned).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..5 {
        pattern::assert_exact(&client.ask("GET", "/").await.body, LARGE);
    }
}

#[tokio::test]
async fn a_pause_in_an_answer_during_an_upload_delays_no_neighbour() {
    let go = origin::Go::new();
    let origin = origin::pauses_after_the_upload(LARGE, go.clone()).await;
    let tables = format!(
        "[[upstream]]\nname = \"o\"\nservers = [\"http://{}\"]\n[[route]]\npath = \"/\"\nupstream = \"o\"\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let (mut reader, mut writer) = Raw::connect(proxy.address).await.split();
    let uploading = async {
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(&pattern::bytes(LARGE)).await.unwrap();
    };
    let mut check = pattern::Check::default();
    let half = async {
        reader.head().await.unwrap();
        reader.body_to(Framing::Length(LARGE as u64), |piece| check.feed(piece)).await.unwrap();
    };
    within("the upload and half of the answer", async { tokio::join!(uploading, half) }).await;
    // Everything has been sent and the origin thinks: the shard must be free for others.
    for _ in 0..3 {
        assert_eq!(client::get(proxy.address, "/other").await.status(), 404);
    }
    go.steps(1);
    let rest = reader.body_to(Framing::Length(LARGE as u64), |piece| check.feed(piece));
    within("the other half", rest).await.unwrap();
}

#[tokio::test]
async fn a_drain_cuts_a_large_answer_that_is_not_read() {
    let origin = origin::floods(200_000_000).await;
    let proxy = Proxy::to_with(origin.address, &["--drain-timeout=300ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.head().await;
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    let stopped = proxy.stopped().await;
    assert_eq!(stopped.status.code(), Some(0), "{:#?}", stopped.stderr);
    assert_took(begun, SHORT, Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_of_different_clients_do_not_mix() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let address = proxy.address;
    let mut clients = JoinSet::new();
    for byte in 1..=8_u8 {
        clients.spawn(async move {
            let mut client = Raw::connect(address).await;
            for round in 0..25 {
                let body =
                    client.ask("GET", &format!("/fill/{byte}/{}", 300_000 + 50_000 * round)).await.body;
                let foreign = body.iter().position(|&found| found != byte);
                assert_eq!(
                    (body.len(), foreign),
                    (300_000 + 50_000 * round, None),
                    "client {byte}, round {round}"
                );
            }
        });
    }
    // Meanwhile others leave with what was on its way to them still inside the proxy: a pipe holds more than fits between
    // the proxy and them.
    for _ in 0..4 {
        clients.spawn(async move {
            for _ in 0..25 {
                let mut client = Raw::connect_narrow(address).await;
                client.send("GET /fill/238/3000000 HTTP/1.1\r\nHost: test\r\n\r\n").await;
                client.head().await;
                client.body_to(Framing::Length(20_000), |_| ()).await.unwrap();
                client.reset();
            }
        });
    }
    clients.join_all().await;
}

/// A reset would overtake the answer on its way to the client.
#[tokio::test]
async fn what_a_client_sends_behind_its_last_large_body_does_not_cost_it_the_answer() {
    const BODY_BYTES: usize = 256 * 1024;
    let origin = origin::answers(origin::ok("taken")).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-requests-per-connection=1"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BODY_BYTES}\r\n\r\n")).await;
    // By then the proxy has forwarded the head and waits for bytes to splice.
    sleep(Duration::from_millis(300)).await;
    client.send("x".repeat(BODY_BYTES) + "GET /next HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let answer = client.answer_to("POST").await;
    assert_eq!(
        (answer.status(), &*answer.text(), answer.head.fields.first("connection")),
        (200, "taken", Some("close"))
    );
    assert!(matches!(client.some().await, Ok(None)), "closed by a reset");
}
