//! Timeouts: when each fires, what the client gets, what it must never get, and which counter counts it.
//!
//! The simplest of each are in `misbehaving_clients` and `upstream_failures`.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use sluice_tests::{
    assert_took,
    client::{self, Raw},
    origin::{self, Go, Origin, Peer},
    pattern,
    proxy::{Counters, Proxy},
    wire::{Framing, Response},
    within,
};
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

fn closes(answer: &Response) -> bool {
    answer.head.fields.lists("connection", "close")
}

async fn assert_counted(proxy: &Proxy, name: &str, count: u64) {
    let reached = |now: &Counters| now.named(name) >= count;
    let counters = proxy.counters_until(name, reached).await;
    assert_eq!(counters.named(name), count, "{name}: {counters:?}");
}

#[tokio::test]
async fn a_head_has_one_deadline_from_the_start_of_its_connection() {
    const HEADER: Duration = Duration::from_millis(800);
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-request-head=800ms"]).await;
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address).await;
    sleep(HEADER / 2).await;
    client.send("GET / HTTP/1.1\r\nHost: te").await;
    let begun_head = |now: &Counters| now.named("partial_heads") == 1;
    let counters = proxy.counters_until("the head is parked", begun_head).await;
    assert_eq!(
        (counters.tasks_busy, counters.buffers_held),
        (0, 0),
        "a begun head holds no task and no buffer"
    );
    // It goes on and on: no byte of it begins the time anew.
    let (mut reader, mut writer) = client.split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            sleep(HEADER / 20).await;
        }
    });
    let answer = within("an answer to half a head", reader.response("GET")).await.expect("an answer");
    assert_took(begun, HEADER, Duration::from_secs(10));
    dripping.abort();
    assert_eq!((answer.status(), closes(&answer)), (408, true));
    proxy.counters_until("it is closed", |now| now.connections == 0).await;
    assert_counted(&proxy, "request_head_timeouts", 1).await;
    assert_counted(&proxy, "partial_heads", 0).await;
}

#[tokio::test]
async fn a_later_head_has_its_time_from_its_first_byte() {
    const HEADER: Duration = Duration::from_millis(600);
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-request-head=600ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.assert_open().await;
    // Being idle for longer than a head may take is no fault.
    sleep(HEADER * 2).await;
    client.assert_open().await;
    // Nor is a head in pieces.
    client.drip("GET / HTTP/1.1\r\nHost: test\r\n\r\n", 3, Duration::from_millis(2)).await.unwrap();
    assert_eq!(client.answer_to("GET").await.text(), "real");
    let begun = Instant::now();
    client.send("GET /").await;
    assert_eq!(client.answer_to("GET").await.status(), 408);
    assert_took(begun, HEADER, Duration::from_secs(10));
    client.assert_closed().await;
}

#[tokio::test]
async fn a_begun_head_behind_a_pipeline_is_finished_later() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHo").await;
    assert_eq!(client.answer_to("GET").await.status(), 200);
    proxy.counters_until("the head is parked", |now| now.named("partial_heads") == 1).await;
    client.send("st: a\r\n\r\n").await;
    assert_eq!(client.answer_to("GET").await.status(), 200);
    let seen = origin.seen();
    assert_eq!(seen.iter().map(|seen| seen.target.as_str()).collect::<Vec<_>>(), ["/1", "/2"]);
    assert_counted(&proxy, "partial_heads", 0).await;
}

#[tokio::test]
async fn a_drain_waits_for_a_begun_head() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    proxy.counters_until("the head is parked", |now| now.named("partial_heads") == 1).await;
    let drained = tokio::spawn(proxy.drain());
    sleep(Duration::from_millis(200)).await;
    client.send("st: a\r\n\r\n").await;
    let answer = client.answer_to("GET").await;
    assert_eq!((answer.status(), closes(&answer)), (200, true));
    drained.await.expect("it ends").assert_clean();
}

const SLOW_BODY: &[&str] =
    &["--limit-body-min-rate=1000", "--timeout-body-min-rate-grace=500ms", "--timeout-body-idle=20s"];

#[tokio::test]
async fn a_body_below_the_rate_is_408() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, SLOW_BODY).await;
    let framings = [
        ("Content-Length: 5000", "x"),
        ("Transfer-Encoding: chunked", "1\r\nx\r\n"),
        // Large enough to pass unseen.
        ("Content-Length: 500000", "x"),
    ];
    for (nth, (framing, piece)) in framings.into_iter().enumerate() {
        let mut client = Raw::connect(proxy.address).await;
        let begun = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n")).await;
        let dripping = client.drip(piece.repeat(500), piece.len(), Duration::from_millis(20));
        let _ = timeout(Duration::from_millis(1500), dripping).await;
        let answer = client.answer_to("POST").await;
        assert_eq!((answer.status(), closes(&answer)), (408, true), "{framing}");
        assert!(answer.text().contains("slowly"), "{}", answer.text());
        assert_took(begun, Duration::from_millis(500), Duration::from_secs(10));
        client.assert_closed().await;
        assert_counted(&proxy, "bodies_too_slow", nth as u64 + 1).await;
    }
    assert!(!origin.recorder.text().contains("\r\n0\r\n"), "an unfinished body must not look finished");
}

#[tokio::test]
async fn a_body_above_the_rate_takes_its_time() {
    let origin = origin::real("real").await;
    let flags = ["--limit-body-min-rate=50", "--timeout-body-min-rate-grace=1s", "--timeout-body-idle=20s"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("POST /digest HTTP/1.1\r\nHost: test\r\nContent-Length: 2000\r\n\r\n").await;
    client.drip(pattern::bytes(2000), 50, Duration::from_millis(50)).await.unwrap();
    assert_eq!(client.answer_to("POST").await.status(), 200);
    assert_counted(&proxy, "bodies_too_slow", 0).await;
}

/// Time in which the client's bytes wait for the server is not held against the client.
#[tokio::test]
async fn a_body_held_back_by_the_server_is_not_slow() {
    const LENGTH: usize = 30_000_000;
    let go = Go::new();
    let origin = origin::slow_reader(go.clone()).await;
    let flags = ["--limit-body-min-rate=1MiB", "--timeout-body-min-rate-grace=2s"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let client = Raw::connect(proxy.address).await;
    let (mut reader, mut writer) = client.split();
    let sending = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        for piece in pattern::pieces(LENGTH as u64) {
            writer.write_all(&piece).await.unwrap();
        }
        writer
    });
    // By now everything between client and origin is full, and longer so than the client's own time lasts.
    sleep(Duration::from_secs(4)).await;
    go.steps(1);
    let answer = within("an answer", reader.response("POST")).await.unwrap();
    assert_eq!(answer.text(), LENGTH.to_string());
    sending.await.unwrap();
}

#[tokio::test]
async fn an_overdue_request_is_504_and_its_connection_goes_on() {
    let origin = origin::real("real").await;
    let proxy = Proxy::configured(
        1,
        &format!(
            "[timeouts]\nrequest = \"1500ms\"\n\
             [[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
             [[route]]\nupstream = \"real\"\n\
             [[route]]\nupstream = \"real\"\npath = \"/delay/2500\"\ntimeouts.request = \"0s\"\n\
             [[route]]\nupstream = \"real\"\npath = \"/delay/60000\"\ntimeouts.request = \"500ms\"\n",
            origin.address
        ),
    )
    .await;
    let mut client = Raw::connect(proxy.address).await;
    for (nth, path, least) in [(1, "/delay/30000", 1500), (2, "/delay/60000", 500)] {
        let begun = Instant::now();
        let answer = client.ask("GET", path).await;
        assert_eq!((answer.status(), closes(&answer)), (504, false), "{path}");
        assert_took(begun, Duration::from_millis(least), Duration::from_secs(30));
        assert_counted(&proxy, "request_timeouts", nth).await;
    }
    assert_eq!(client.ask("GET", "/delay/2500").await.status(), 200, "a route without a limit");
    assert_eq!(client.ask("GET", "/").await.status(), 200);
    proxy.counters_until("nothing is busy", |now| now.tasks_busy == 0 && now.upstream_connections <= 1).await;
}

#[tokio::test]
async fn an_overdue_upload_is_408() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-request=500ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    let begun = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nabc").await;
    let answer = client.answer_to("POST").await;
    assert_eq!((answer.status(), closes(&answer)), (408, true));
    assert_took(begun, Duration::from_millis(500), Duration::from_secs(30));
    client.assert_closed().await;
    assert_counted(&proxy, "request_timeouts", 1).await;
    origin.recorder.wait_for("the end of the overdue upload", |all| all[0].ended).await;
}

#[tokio::test]
async fn an_overdue_answer_is_aborted() {
    // Small, and large enough to pass unseen.
    for sent in [1_000, 90_000] {
        let origin = origin::stalls_after(sent).await;
        // Time enough for what there is of the answer, on a busy machine too.
        let proxy = Proxy::to_with(origin.address, &["--timeout-request=2s"]).await;
        let mut client = Raw::connect(proxy.address).await;
        let begun = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let error = client.response("GET").await.expect_err("an answer that was cut off");
        assert!([ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof].contains(&error.kind()), "{error}");
        assert_took(begun, Duration::from_secs(2), Duration::from_secs(60));
        assert_counted(&proxy, "request_timeouts", 1).await;
        let nothing = |now: &Counters| {
            (now.connections, now.upstream_connections, now.tasks_busy, now.buffers_held) == (0, 0, 0, 0)
        };
        proxy.counters_until("nothing is left", nothing).await;
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_reset_and_counted() {
    let origin = origin::floods(200_000_000).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-write-stall=500ms"]).await;
    let mut client = Raw::connect_with_window(proxy.address, 4096).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_counted(&proxy, "write_stalls", 1).await;
    proxy.counters_until("it is gone", |now| now.connections == 0 && now.tasks_busy == 0).await;
    client.head().await;
    let error = client.body_to(Framing::Length(200_000_000), |_| ()).await.expect_err("a cut body");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "what the kernel still had for it is thrown away");
}

#[tokio::test]
async fn servers_that_are_late_are_counted_by_phase() {
    let unreachable = origin::unreachable().await;
    let proxy = Proxy::to_with(unreachable.address, &["--timeout-upstream-connect=300ms"]).await;
    assert_eq!(client::get(proxy.address, "/").await.status(), 504);
    assert_counted(&proxy, "upstream_connect_timeouts", 1).await;

    // A head that goes on coming is no answer either.
    let slow_head = origin::stalls_in_the_head().await;
    for origin in [origin::never_answers().await, slow_head] {
        let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-response=300ms"]).await;
        let mut client = Raw::connect(proxy.address).await;
        let begun = Instant::now();
        let answer = client.ask("GET", "/").await;
        assert_eq!((answer.status(), closes(&answer)), (504, false));
        assert_took(begun, Duration::from_millis(300), Duration::from_secs(60));
        assert_counted(&proxy, "upstream_timeouts", 1).await;
    }

    for sent in [1_000, 90_000] {
        let origin = origin::stalls_after(sent).await;
        let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-body-idle=300ms"]).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        client.response("GET").await.expect_err("an answer that was cut off");
        assert_counted(&proxy, "upstream_body_timeouts", 1).await;
        assert_counted(&proxy, "upstream_truncated", 1).await;
    }
}

/// RFC 2518, section 10.1: what takes long is at work.
#[tokio::test]
async fn each_102_begins_the_wait_for_a_response_anew() {
    let hints = |status: &'static str, count: usize, is_answered: bool| {
        Origin::scripted(move |mut peer: Peer| async move {
            peer.request().await?;
            for _ in 0..count {
                sleep(Duration::from_millis(1500)).await;
                peer.send(format!("HTTP/1.1 {status}\r\n\r\n")).await?;
            }
            if is_answered {
                sleep(Duration::from_millis(1500)).await;
                peer.send(origin::ok("at last")).await?;
            }
            peer.until_closed().await
        })
    };
    let flags = ["--timeout-upstream-response=3s"];
    let working = async {
        let origin = hints("102 Processing", 3, true).await;
        let proxy = Proxy::to_with(origin.address, &flags).await;
        let answer = client::get(proxy.address, "/").await;
        assert_eq!((answer.status(), answer.interim.len()), (200, 3));
    };
    // One that says no more, and one that says something else.
    let silent = async {
        for (status, count) in [("102 Processing", 1), ("103 Early Hints", 4)] {
            let origin = hints(status, count, false).await;
            let proxy = Proxy::to_with(origin.address, &flags).await;
            let mut client = Raw::connect(proxy.address).await;
            assert_eq!(client.ask("GET", "/").await.status(), 504, "{status}");
            assert_counted(&proxy, "upstream_timeouts", 1).await;
        }
    };
    // The whole request has its own limit.
    let endless = async {
        let origin = hints("102 Processing", 16, true).await;
        let proxy = Proxy::to_with(origin.address, &[flags[0], "--timeout-request=4s"]).await;
        assert_eq!(client::get(proxy.address, "/").await.status(), 504);
        assert_counted(&proxy, "request_timeouts", 1).await;
    };
    tokio::join!(working, silent, endless);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_silence_and_counted() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-keep-alive-idle=400ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.assert_open().await;
    let begun = Instant::now();
    client.assert_closed().await;
    assert_took(begun, Duration::from_millis(400), Duration::from_secs(75));
    assert_counted(&proxy, "idle_timeouts", 1).await;
    assert_counted(&proxy, "local_responses", 0).await;
}
