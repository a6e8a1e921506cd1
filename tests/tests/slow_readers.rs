//! Hundreds of peers that take nothing, on every path, in a shard with few receive buffers: their neighbours notice nothing,
//! nothing is lost, and what they held comes back.

use std::time::Duration;

use sluice_tests::{
    client::Raw,
    origin::{self, Go, Origin},
    pattern,
    proxy::{Counters, Proxy, config_file},
    raise_descriptor_limit,
    wire::Framing,
    within_time,
};
use tokio::time::sleep;

/// More than the kernel takes for a client that reads nothing.
const LARGE: u64 = 6_000_000;

/// Clients that are stuck: many more than there are receive buffers.
const STUCK: usize = 300;

/// 128 receive buffers for one shard.
const FEW_BUFFERS: &str = "[limits]\nreceive_buffers_bytes = \"2MiB\"\n";

/// A receive buffer and what a client with a small window leaves in the kernel.
const WINDOW: u32 = 4096;

/// One shard with few buffers: `/bulk` goes to one origin, all else to another.
async fn crowded(bulk: &Origin, other: &str) -> Proxy {
    raise_descriptor_limit();
    let tables = format!(
        "{FEW_BUFFERS}[[upstream]]\nname = \"bulk\"\nservers = [\"http://{}\"]\n\
         [[upstream]]\nname = \"other\"\nservers = [\"http://{other}\"]\n\
         [[route]]\npath_prefix = \"/bulk\"\nupstream = \"bulk\"\n\
         [[route]]\npath_prefix = \"/other\"\nupstream = \"other\"\n",
        bulk.address
    );
    Proxy::configured(1, &tables).await
}

/// A request on the way to each neighbour: another upstream, and an answer of the proxy's own.
async fn neighbours_are_served(proxy: &Proxy) {
    for _ in 0..20 {
        let mut neighbour = Raw::connect(proxy.address).await;
        assert_eq!(neighbour.ask("GET", "/other").await.text(), "real");
        let mut lost = Raw::connect(proxy.address).await;
        assert_eq!(lost.ask("GET", "/nowhere").await.status(), 404);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until nothing moves any more: what the stuck ones hold is held.
async fn until_stuck(proxy: &Proxy) {
    let waiting = async {
        let (mut before, mut quiet) = (0, 0);
        while quiet < 5 {
            sleep(Duration::from_millis(20)).await;
            let now = proxy.counters().await.named("completions");
            // Asking is a completion or two.
            quiet = if now - before < 20 { quiet + 1 } else { 0 };
            before = now;
        }
    };
    within_time(Duration::from_secs(60), "everything is stuck", waiting).await;
}

async fn nothing_is_held(proxy: &Proxy) {
    let is_over = |now: &Counters| now.connections == 0 && now.buffers_held == 0 && now.tasks_busy == 0;
    proxy.counters_until("all is given back", is_over).await;
}

/// 1,300 of them once held every buffer of a shard with 16,384, and not even a 404 was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_answers_that_are_not_read_delay_no_neighbour() {
    let (bulk, real) = (origin::floods_in_chunks(LARGE).await, origin::real("real").await);
    let proxy = crowded(&bulk, &real.address.to_string()).await;
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        let mut client = Raw::connect_with_window(proxy.address, WINDOW).await;
        client.send("GET /bulk HTTP/1.1\r\nHost: test\r\n\r\n").await;
        stuck.push(client);
    }
    neighbours_are_served(&proxy).await;
    until_stuck(&proxy).await;
    neighbours_are_served(&proxy).await;
    // A neighbour on the same upstream gets all of its answer.
    let mut same = Raw::connect(proxy.address).await;
    same.send("GET /bulk HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(same.head().await.status().expect("a status"), 200);
    let mut check = pattern::Check::default();
    same.body_to(Framing::Chunked, |piece| check.feed(piece)).await.expect("all of it");
    assert_eq!(check.seen(), LARGE);
    drop((stuck, same));
    nothing_is_held(&proxy).await;
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_no_origin_reads_delay_no_neighbour() {
    let (bulk, real) = (origin::slow_reader(Go::new()).await, origin::real("real").await);
    let proxy = crowded(&bulk, &real.address.to_string()).await;
    let mut stuck = Vec::new();
    for nth in 0..STUCK {
        let mut client = Raw::connect(proxy.address).await;
        let head = if nth % 2 == 0 {
            "POST /bulk HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n".to_owned()
        } else {
            format!("POST /bulk HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n")
        };
        client.send(head).await;
        stuck.push(tokio::spawn(async move {
            // As much as is taken; the rest never is.
            while client.try_send([b'x'; 16 * 1024]).await.is_ok() {}
        }));
    }
    for _ in 0..5 {
        neighbours_are_served(&proxy).await;
        sleep(Duration::from_millis(200)).await;
    }
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
    drop(stuck);
    drop(bulk);
    nothing_is_held(&proxy).await;
}

/// Clients that ask again and again, all at once, and read nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_behind_a_stuck_answer_delay_no_neighbour() {
    let (bulk, real) = (origin::floods(LARGE).await, origin::real("real").await);
    let proxy = crowded(&bulk, &real.address.to_string()).await;
    let requests = "GET /bulk HTTP/1.1\r\nHost: test\r\nX-Pad: 0123456789\r\n\r\n".repeat(700);
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        let mut client = Raw::connect_with_window(proxy.address, WINDOW).await;
        client.send(&requests).await;
        stuck.push(client);
    }
    neighbours_are_served(&proxy).await;
    until_stuck(&proxy).await;
    neighbours_are_served(&proxy).await;
    drop(stuck);
    nothing_is_held(&proxy).await;
}

/// The 256th buffer once overwrote the first: 4 MiB vanished from a stream of requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_behind_a_slow_request_is_answered_to_its_end() {
    const REQUESTS: usize = 6_000;
    let go = Go::new();
    let origin = origin::names_requests(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-requests-per-connection=0"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let (mut reader, mut writer) = client.split();
    let flood: String = (0..REQUESTS)
        .map(|nth| format!("GET /{nth} HTTP/1.1\r\nHost: test\r\nX-Pad: {}\r\n\r\n", "p".repeat(410)))
        .collect();
    let sending = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, flood.as_bytes()).await.expect("all is taken");
        writer
    });
    // It comes while the first request waits; no more of it is received than one client may have.
    proxy.counters_until("it is read ahead", |now| now.named("buffers_held_max") >= 1).await;
    sleep(Duration::from_millis(300)).await;
    assert!(proxy.counters().await.named("buffers_held") <= 4, "{:?}", proxy.counters().await);
    go.steps(1);
    let answers = async {
        assert_eq!(reader.response("GET").await.expect("the first answer").text(), "GET /wait 0");
        for nth in 0..REQUESTS {
            assert_eq!(reader.response("GET").await.expect("an answer").text(), format!("GET /{nth} 0"));
        }
    };
    within_time(Duration::from_secs(60), "all answers", answers).await;
    drop(sending.await.expect("the sender"));
    drop(reader);
    nothing_is_held(&proxy).await;
    proxy.drain().await.assert_clean();
}

/// With plenty of buffers, a reader that is slow and steady gets all, however long a buffer takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_reader_gets_all() {
    for chunked in [true, false] {
        let origin =
            if chunked { origin::floods_in_chunks(LARGE).await } else { origin::floods(LARGE).await };
        let flags = ["--timeout-write-stall=1s", "--timeout-response-min-rate-grace=1s"];
        let proxy = Proxy::to_with(origin.address, &flags).await;
        let mut client = Raw::connect_with_window(proxy.address, WINDOW).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(client.head().await.status().expect("a status"), 200);
        let mut check = pattern::Check::default();
        let framing = if chunked { Framing::Chunked } else { Framing::Length(LARGE) };
        client.body_to(framing, |piece| check.feed(piece)).await.expect("all of it");
        assert_eq!(check.seen(), LARGE);
        assert_eq!(proxy.counters().await.named("responses_too_slow"), 0);
    }
}

/// A client that takes a little now and then never stalls: its rate ends it, on every path of a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_below_the_rate_is_ended() {
    for chunked in [true, false] {
        let origin =
            if chunked { origin::floods_in_chunks(LARGE).await } else { origin::floods(LARGE).await };
        let flags = ["--limit-response-min-rate=100MiB", "--timeout-response-min-rate-grace=300ms"];
        let proxy = Proxy::to_with(origin.address, &flags).await;
        let mut client = Raw::connect_with_window(proxy.address, WINDOW).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        // Some bytes every 50 ms, until it is ended.
        let reading = async {
            while matches!(client.some().await, Ok(Some(_))) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        within_time(Duration::from_secs(60), "the end of the connection", reading).await;
        proxy.counters_until("it is counted", |now| now.named("responses_too_slow") == 1).await;
        nothing_is_held(&proxy).await;
    }
}

/// The configuration file of these tests is one that `check` accepts.
#[tokio::test]
async fn few_buffers_are_a_setting_and_too_many_an_error() {
    let text = |size: &str| {
        format!(
            "listen = [\"127.0.0.1:0\"]\n[limits]\nreceive_buffers_bytes = \"{size}\"\n\
             [[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:1\"]\n[[route]]\nupstream = \"a\"\n"
        )
    };
    let check = async |size| {
        let config = config_file(".toml", &text(size));
        sluice_tests::proxy::run(&["check", "--config", config.path().to_str().expect("a path")]).await
    };
    assert_eq!(check("2MiB").await.code, Some(0));
    let refused = check("1GiB").await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("at most 512MiB"), "{}", refused.stderr);
}
