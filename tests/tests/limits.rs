//! Limits: what a client at a limit gets, which counter counts it, and that others do not suffer.
//!
//! Those of heads and bodies as such are in `bad_requests`.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use sluice_tests::{
    client::{self, Raw},
    cpus::{connect_from, two_cpus},
    http2::Http2,
    origin,
    proxy::{Counters, Proxy},
    wire::Response,
};

fn closes(answer: &Response) -> bool {
    answer.head.fields.lists("connection", "close")
}

/// The counter `name` reaches `count` and stays there.
async fn assert_counted(proxy: &Proxy, name: &str, count: u64) {
    let reached = |now: &Counters| now.named(name) >= count;
    let counters = proxy.counters_until(name, reached).await;
    assert_eq!(counters.named(name), count, "{name}: {counters:?}");
}

#[tokio::test]
async fn heads_beyond_their_limits_are_counted_by_limit() {
    let origin = origin::real("real").await;
    let flags = ["--limit-request-line-bytes=200", "--limit-head-bytes=2000", "--limit-header-fields=20"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    for (request, counter, count) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(200)), "request_lines_too_long", 1),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2000)), "heads_too_large", 1),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(20)), "heads_too_large", 2),
    ] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(&request).await;
        assert!([414, 431].contains(&client.answer_to("GET").await.status()));
        client.assert_closed().await;
        assert_counted(&proxy, counter, count).await;
    }
}

/// An operator who adds up answers finds as many requests.
#[tokio::test]
async fn every_refused_request_is_counted_as_one() {
    let origin = origin::real("real").await;
    let config = format!(
        "[limits]\nrequest_line_bytes = 200\nhead_bytes = 2000\nheader_fields = 20\nbody_bytes = 10\n\
         [timeouts]\nrequest_head = \"1s\"\n\
         [[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
         [[route]]\nupstream = \"real\"\npath = \"/here\"\nmethods = [\"GET\", \"POST\"]\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &config).await;
    let cases: &[(&str, String, u16)] = &[
        ("served", "GET /here HTTP/1.1\r\nHost: a\r\n\r\n".into(), 200),
        ("malformed", "GET /here HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("not HTTP", "\x16\x03\x01 hello\r\n\r\n".into(), 400),
        ("another version", "GET /here HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
        ("a line too long", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(200)), 414),
        (
            "a head too large",
            format!("GET /here HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2000)),
            431,
        ),
        ("too many fields", format!("GET /here HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(20)), 431),
        ("a path with two readings", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("no route", "GET /there HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404),
        ("another method", "PUT /here HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405),
        (
            "a tunnel",
            "GET /here HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".into(),
            400,
        ),
        ("the end of TRACE", "TRACE /here HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n".into(), 501),
        ("a body too large", "POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n".into(), 413),
        (
            "a chunk malformed",
            "POST /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".into(),
            400,
        ),
        ("half a head", "GET /here HTTP/1.1\r\nHost: a\r\n".into(), 408),
    ];
    for (nth, (what, request, status)) in (1..).zip(cases) {
        let mut client = Raw::connect(proxy.address).await;
        client.send(request).await;
        assert_eq!(client.answer_to("GET").await.status(), *status, "{what}");
        assert_eq!(proxy.counters().await.requests, nth, "{what}");
    }
    let all = cases.len() as u64;
    // One that its client does not finish is one; a connection that ends without a byte is none.
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /he").await;
    proxy.counters_until("its head has begun", |now| now.named("partial_heads") == 1).await;
    drop(client);
    proxy.counters_until("the client is gone", |now| now.client_aborts == 1).await;
    assert_counted(&proxy, "requests", all + 1).await;
    drop(Raw::connect(proxy.address).await);
    proxy
        .counters_until("the connection is gone", |now| {
            now.named("accepted") == all + 2 && now.connections == 0
        })
        .await;
    assert_counted(&proxy, "requests", all + 1).await;
    let counters = proxy.counters().await;
    assert_eq!(
        (counters.local_responses, counters.client_aborts),
        (all - 1, 1),
        "all but the served and the unfinished"
    );
}

#[tokio::test]
async fn unfinished_heads_do_not_fill_the_memory() {
    const LARGE: usize = 12_000;
    let origin = origin::real("real").await;
    let flags = ["--limit-partial-heads-bytes=64KiB", "--timeout-request-head=1m"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let begun = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(LARGE));
    let mut held = Vec::new();
    for nth in 1..=5 {
        let mut client = Raw::connect(proxy.address).await;
        client.send(&begun).await;
        proxy.counters_until("it is kept", |now| now.named("partial_heads") == nth).await;
        held.push(client);
    }
    let mut client = Raw::connect(proxy.address).await;
    client.send(&begun).await;
    let answer = client.answer_to("GET").await;
    assert_eq!((answer.status(), answer.field("retry-after"), closes(&answer)), (503, Some("1"), true));
    client.assert_closed().await;
    assert_counted(&proxy, "partial_heads_refused", 1).await;
    assert_counted(&proxy, "requests", 1).await;
    // Whole requests are served, and what was begun can be finished.
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    for mut client in held {
        client.send("\r\n\r\n").await;
        assert_eq!(client.answer_to("GET").await.text(), "real");
    }
}

#[tokio::test]
async fn a_route_has_its_own_body_limit() {
    let origin = origin::real("real").await;
    let proxy = Proxy::configured(
        1,
        &format!(
            "[limits]\nbody_bytes = 1000\n\
             [[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
             [[route]]\nupstream = \"real\"\n\
             [[route]]\nupstream = \"real\"\npath_prefix = \"/echo/small\"\nlimits.body_bytes = 10\n\
             [[route]]\nupstream = \"real\"\npath_prefix = \"/echo/any\"\nlimits.body_bytes = 0\n",
            origin.address
        ),
    )
    .await;
    let cases = [("/echo", 1000, 1001), ("/echo/small", 10, 11), ("/echo/any", 5000, 0)];
    for (nth, (path, most, too_many)) in cases.into_iter().enumerate() {
        let mut client = Raw::connect(proxy.address).await;
        for (bytes, framing) in
            [(most, "length"), (most, "chunks"), (too_many, "length"), (too_many, "chunks")]
        {
            if bytes == 0 {
                continue;
            }
            let body = "x".repeat(bytes);
            client
                .send(match framing {
                    "length" => {
                        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{body}")
                    }
                    _ => format!(
                        "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n{body}\r\n0\r\n\r\n"
                    ),
                })
                .await;
            let answer = client.answer_to("POST").await;
            let wanted = if bytes == most { 200 } else { 413 };
            assert_eq!(answer.status(), wanted, "{path}, {bytes} bytes by {framing}");
            if wanted == 413 {
                assert!(closes(&answer));
                client.assert_closed().await;
                client = Raw::connect(proxy.address).await;
            }
        }
        assert_counted(&proxy, "bodies_too_large", 2 * (nth as u64 + 1).min(2)).await;
    }
}

/// A chunk that is too large is refused by its size line, not when its bytes come.
#[tokio::test]
async fn a_chunk_beyond_the_limit_is_refused_at_its_size() {
    let origin = origin::answers(origin::ok("")).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-body-bytes=1000"]).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (nth, (before, size)) in
        [("", "3e9"), ("3e8\r\n", "1"), ("190\r\n", "259"), ("", "ffffffffffffffff")].into_iter().enumerate()
    {
        let mut client = Raw::connect(proxy.address).await;
        client.send(head).await;
        if !before.is_empty() {
            let bytes = usize::from_str_radix(before.trim_end(), 16).unwrap();
            client.send(format!("{before}{}\r\n", "x".repeat(bytes))).await;
        }
        client.send(format!("{size}\r\n")).await;
        let answer = client.answer_to("POST").await;
        assert_eq!((answer.status(), closes(&answer)), (413, true), "{before:?} {size}");
        client.assert_closed().await;
        assert_counted(&proxy, "bodies_too_large", nth as u64 + 1).await;
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_its_last_request() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-requests-per-connection=3"]).await;
    for round in 1..=3 {
        let mut client = Raw::connect(proxy.address).await;
        for nth in 1..=3 {
            let answer = client.ask("GET", "/").await;
            assert_eq!((answer.status(), closes(&answer)), (200, nth == 3));
        }
        client.assert_closed().await;
        assert_counted(&proxy, "connections_max_requests", round).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-connections=5"]).await;
    let mut within_limit = Vec::new();
    for _ in 0..5 {
        within_limit.push(Raw::connect(proxy.address).await);
    }
    proxy.counters_until("all are open", |now| now.connections == 5).await;
    for _ in 0..3 {
        Raw::connect(proxy.address).await.assert_closed().await;
    }
    assert_counted(&proxy, "connections_refused", 3).await;
    for client in &mut within_limit {
        client.assert_open().await;
    }
    drop(within_limit.pop());
    proxy.counters_until("one is gone", |now| now.connections == 4).await;
    Raw::connect(proxy.address).await.assert_open().await;
}

/// Two shards, each of which gets the connections that its CPU receives; with a limit for both together.
async fn two_shards(cpus: [usize; 2], limit: usize, origin: &origin::Real) -> Proxy {
    let cpus = format!("{},{}", cpus[0], cpus[1]);
    let (limit, upstream) = (format!("--limit-connections={limit}"), format!("http://{}", origin.address));
    let flags = ["--listen", "127.0.0.1:0", "--steering", "cpu", "--cpus", &cpus, "--upstream", &upstream];
    Proxy::start(&[&flags[..], &[&limit]].concat()).await
}

/// A counter of each shard, once it has come to `count` for both.
async fn connections_by_shard(proxy: &Proxy, count: usize, name: &str) -> Vec<u64> {
    proxy.counters_until(&format!("{count} {name}"), |now| now.named(name) >= count as u64).await;
    let shards = proxy.live().await;
    shards.iter().map(|shard| shard["counters"][name].as_u64().expect("a number")).collect()
}

/// The other shard has none of them, and that is no reason to refuse any.
#[tokio::test]
async fn one_shard_may_have_all_connections_of_the_limit() {
    const LIMIT: usize = 200;
    let Some(cpus) = two_cpus() else { return };
    let origin = origin::real("real").await;
    let proxy = two_shards(cpus, LIMIT, &origin).await;
    let all = connect_from(cpus[0], proxy.address, LIMIT);
    assert_eq!(connections_by_shard(&proxy, LIMIT, "connections").await, [LIMIT as u64, 0]);
    // The shard that has none has none left to give either.
    let more = connect_from(cpus[1], proxy.address, 10);
    assert_eq!(connections_by_shard(&proxy, 10, "connections_refused").await, [0, 10]);
    drop(more);
    for nth in [0, LIMIT / 2, LIMIT - 1] {
        let client = all[nth].try_clone().expect("a descriptor");
        client.set_nonblocking(true).expect("non-blocking");
        let mut client = Raw::over(tokio::net::TcpStream::from_std(client).expect("a connection"));
        assert_eq!(client.ask("GET", "/").await.text(), "real");
    }
    drop(all);
    proxy.drain().await.assert_clean();
}

/// Both shards have clients, and all together are within the limit: also after some have left one shard for the other.
#[tokio::test]
async fn the_limit_of_connections_holds_over_both_shards() {
    const LIMIT: usize = 100;
    let Some(cpus) = two_cpus() else { return };
    let origin = origin::real("real").await;
    let proxy = two_shards(cpus, LIMIT, &origin).await;
    let first = connect_from(cpus[0], proxy.address, 70);
    proxy.counters_until("the first are open", |now| now.connections == 70).await;
    let second = connect_from(cpus[1], proxy.address, 70);
    assert_eq!(connections_by_shard(&proxy, 40, "connections_refused").await, [0, 40]);
    assert_eq!(connections_by_shard(&proxy, LIMIT, "connections").await, [70, 30]);
    drop(first);
    proxy.counters_until("the first are gone", |now| now.connections == 30).await;
    let third = connect_from(cpus[1], proxy.address, 80);
    assert_eq!(connections_by_shard(&proxy, 50, "connections_refused").await, [0, 50]);
    assert_eq!(connections_by_shard(&proxy, LIMIT, "connections").await, [0, LIMIT as u64]);
    drop((second, third));
    proxy.drain().await.assert_clean();
}

/// Over two shards: the limit is one for both.
#[tokio::test]
async fn connections_of_one_address_are_limited() {
    const LIMIT: usize = 4;
    /// Beyond the limit, but let in to get a 429.
    const REFUSED: usize = 8;
    let origin = origin::real("real").await;
    let upstream = format!("http://{}", origin.address);
    let flags = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    let limit = format!("--limit-connections-per-address={LIMIT}");
    let shards = two_cpus().map_or("1", |_| "2");
    let proxy = Proxy::start(&[&flags[..], &["--shards", shards, &limit]].concat()).await;

    let mut served = Vec::new();
    for _ in 0..LIMIT {
        let mut client = Raw::connect(proxy.address).await;
        client.assert_open().await;
        served.push(client);
    }
    for refused in 1..=3 {
        let answer = one_too_many(&proxy).await;
        assert_eq!((answer.status(), answer.field("retry-after"), closes(&answer)), (429, Some("1"), true));
        assert_counted(&proxy, "address_refused", refused).await;
    }
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(Raw::connect(proxy.address).await);
    }
    let full = |now: &Counters| now.named("accepted") == (LIMIT + 3 + 30) as u64;
    let counters = proxy.counters_until("all were accepted", full).await;
    // Two shards that accept at once may each overlook the other's.
    let most = (LIMIT + REFUSED + 2) as u64;
    assert!((LIMIT as u64 + 1..=most).contains(&counters.connections), "{counters:?}");

    // Those that were served before still are, and so are all others.
    for client in &mut served {
        client.assert_open().await;
    }
    Raw::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.address).await.assert_open().await;
    drop(silent);
    drop(served);
    proxy.counters_until("all are gone", |now| now.connections == 0).await;
    Raw::connect(proxy.address).await.assert_open().await;
}

/// Another version of HTTP is no way past it.
#[tokio::test]
async fn connections_by_http2_count_for_the_limit_of_an_address() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-connections-per-address=2"]).await;
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut client = Http2::connect(proxy.address).await;
        assert_eq!(client.get("/").await.status(), 200);
        served.push(client);
    }
    let mut refused = Http2::connect(proxy.address).await;
    assert_eq!(refused.closed().await, Some(ENHANCE_YOUR_CALM));
    assert_counted(&proxy, "address_refused", 1).await;
    for client in &mut served {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(origin.seen().len(), 4);
}

/// Those that came last are refused, and only while they are too many.
#[tokio::test]
async fn the_connections_of_an_address_that_came_first_are_served() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-connections-per-address=2"]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Raw::connect(proxy.address).await);
    }
    proxy.counters_until("all were accepted", |now| now.connections == 4).await;
    let mut last = clients.pop().expect("four");
    let mut third = clients.pop().expect("three");
    for client in &mut clients {
        assert_eq!(client.ask("GET", "/").await.status(), 200);
    }
    assert_eq!(third.ask("GET", "/").await.status(), 429);
    third.assert_closed().await;
    drop((third, clients));
    proxy.counters_until("one is left", |now| now.connections == 1).await;
    assert_eq!(last.ask("GET", "/").await.status(), 200);
    assert_counted(&proxy, "address_refused", 1).await;
}

/// Behind a balancer all connections come from the balancer: those count whose client it names.
#[tokio::test]
async fn behind_a_balancer_the_announced_address_counts() {
    let origin = origin::real("real").await;
    let upstream = format!("http://{}", origin.address);
    let flags = ["--listen-proxy-protocol", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream];
    let proxy = Proxy::start(&[&flags[..], &["--limit-connections-per-address=2"]].concat()).await;
    let connect = async |client: &str| {
        let mut connection = Raw::connect(proxy.address).await;
        connection.send(format!("PROXY TCP4 {client} 192.0.2.1 5000 80\r\n")).await;
        connection
    };
    let mut served = Vec::new();
    // Far more than one address may have.
    for nth in 0..20 {
        let mut client = connect(&format!("198.51.100.{}", nth / 2)).await;
        client.assert_open().await;
        served.push(client);
    }
    let mut client = connect("198.51.100.3").await;
    let answer = client.ask("GET", "/").await;
    assert_eq!((answer.status(), answer.field("retry-after"), closes(&answer)), (429, Some("1"), true));
    client.assert_closed().await;
    assert_counted(&proxy, "address_refused", 1).await;
    for client in &mut served {
        client.assert_open().await;
    }
}

/// What a connection above the limit of its address gets. The one before may not be gone yet.
async fn one_too_many(proxy: &Proxy) -> Response {
    proxy.counters_until("the last one is gone", |now| now.connections == 4).await;
    let mut client = Raw::connect(proxy.address).await;
    let answer = client.ask("GET", "/").await;
    client.assert_closed().await;
    answer
}

#[tokio::test]
async fn an_old_connection_is_closed_after_an_answer() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-connection-age=3s"]).await;
    let mut client = Raw::connect(proxy.address).await;
    assert!(!closes(&client.ask("GET", "/").await));
    // It grows old while it waits.
    let answer = client.ask("GET", "/delay/3200").await;
    assert_eq!((answer.status(), closes(&answer)), (200, true));
    client.assert_closed().await;
    assert_counted(&proxy, "connections_max_age", 1).await;

    // An idle one need not be asked first.
    let mut idle = Raw::connect(proxy.address).await;
    idle.assert_open().await;
    let begun = Instant::now();
    idle.assert_closed().await;
    assert!(begun.elapsed() < Duration::from_secs(60), "its age ended it, not its idleness (75 s)");
    assert_counted(&proxy, "idle_timeouts", 1).await;
}

/// Only `/real` is routed.
async fn with_abuse_score(points: u8, address: std::net::SocketAddr) -> Proxy {
    Proxy::configured(
        1,
        &format!(
            "[timeouts]\nrequest_head = \"1m\"\nbody_idle = \"1m\"\n[limits]\nabuse_score = {points}\nbody_min_rate = 0\n\
             [[upstream]]\nname = \"real\"\nservers = [\"http://{address}\"]\n\
             [[route]]\nupstream = \"real\"\npath_prefix = \"/real\"\n"
        ),
    )
    .await
}

#[tokio::test]
async fn guessing_ends_the_connection() {
    let origin = origin::real("real").await;
    let proxy = with_abuse_score(10, origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let mut refused = 0;
    loop {
        let answer = client.ask("GET", "/admin").await;
        assert_eq!(answer.status(), 404);
        refused += 1;
        if closes(&answer) {
            break;
        }
        assert!(refused < 10, "no limit ends it");
    }
    client.assert_closed().await;
    // Three points each, and one off for going on.
    assert_eq!(refused, 5);
    assert_counted(&proxy, "abuse_refusals", 5).await;
    assert_counted(&proxy, "abuse_closed", 1).await;

    // A slip now and then is forgiven, however long it goes on.
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..20 {
        assert!(!closes(&client.ask("GET", "/admin").await));
        for _ in 0..2 {
            assert!(!closes(&client.ask("GET", "/real").await));
        }
    }
}

#[tokio::test]
async fn empty_lines_before_every_request_end_the_connection() {
    let origin = origin::real("real").await;
    let proxy = with_abuse_score(5, origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let mut served = 0;
    loop {
        client.send("\r\nGET /real HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer_to("GET").await;
        assert_eq!(answer.status(), 200, "the request itself is in order");
        served += 1;
        if closes(&answer) {
            break;
        }
        assert!(served < 10, "no limit ends it");
    }
    client.assert_closed().await;
    assert_eq!(served, 4);
    assert_counted(&proxy, "abuse_empty_lines", 4).await;
    assert_counted(&proxy, "abuse_closed", 1).await;
}

#[tokio::test]
async fn a_head_in_hundreds_of_pieces_is_429() {
    let origin = origin::real("real").await;
    let proxy = with_abuse_score(4, origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /real HTTP/1.1\r\nHost: a\r\nX: ").await;
    // By the time it has reported its counters it has received the last byte, on its own.
    while proxy.counters().await.named("abuse_closed") == 0 {
        client.send("x").await;
    }
    let answer = client.answer_to("GET").await;
    assert_eq!((answer.status(), answer.field("retry-after"), closes(&answer)), (429, Some("1"), true));
    client.assert_closed().await;
    assert_counted(&proxy, "abuse_dripped_heads", 2).await;
    assert_counted(&proxy, "requests", 1).await;
    assert_counted(&proxy, "abuse_closed", 1).await;
}

#[tokio::test]
async fn a_flood_of_tiny_chunks_is_429_and_a_stream_of_them_is_not() {
    let origin = origin::answers(origin::ok("taken")).await;
    let proxy = with_abuse_score(4, origin.address).await;
    let head = "POST /real HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = Raw::connect(proxy.address).await;
    client.send(head).await;
    let _ = client.try_send("1\r\nx\r\n".repeat(20_000)).await;
    let answer = client.answer_to("POST").await;
    assert_eq!((answer.status(), answer.field("retry-after"), closes(&answer)), (429, Some("1"), true));
    client.assert_closed().await;
    assert_counted(&proxy, "abuse_tiny_chunks", 2).await;
    assert!(!origin.recorder.text().contains("\r\n0\r\n"), "the origin must not take it for a whole request");

    let mut client = Raw::connect(proxy.address).await;
    client.send(head).await;
    for _ in 0..200 {
        client.send("1\r\nx\r\n".repeat(10)).await;
        // By the time it has reported its counters it has received them.
        proxy.counters().await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer_to("POST").await.text(), "taken");
    assert_counted(&proxy, "abuse_tiny_chunks", 2).await;
}

/// Only refusals on connections that go on count against them, and an answer of ours below 400 is none.
#[tokio::test]
async fn an_answer_that_is_no_refusal_and_a_refusal_that_closes_are_no_abuse() {
    let origin = origin::real("real").await;
    let proxy = with_abuse_score(4, origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..10 {
        client.send("OPTIONS /real HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n").await;
        assert_eq!(client.answer_to("OPTIONS").await.status(), 200);
    }
    let closing = "GET /unknown HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(client::exchange(proxy.address, closing).await.status(), 404);
    assert_eq!(proxy.counters().await.named("abuse_refusals"), 0);
    assert_eq!(client.ask("GET", "/unknown").await.status(), 404);
    assert_counted(&proxy, "abuse_refusals", 1).await;
}

/// The end is announced before it comes: what a client sends in between is answered (RFC 9113, section 6.8).
#[tokio::test]
async fn the_last_requests_of_a_connection_by_http2_are_answered() {
    const HIGHEST_ID: u32 = (1 << 31) - 1;
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-requests-per-connection=3"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(client.ask("GET", "/", &[]).await);
    }
    for stream in streams {
        assert_eq!(client.answer(stream).await.status(), 200);
    }
    assert_eq!(client.closed().await, Some(0), "without an error");
    let announced: Vec<u32> = client.go_aways.iter().map(|(last_id, _)| *last_id).collect();
    assert_eq!(announced, [HIGHEST_ID, 9]);
    assert_counted(&proxy, "connections_max_requests", 1).await;
}

/// As over HTTP/1.1, a client that tries paths is cut off in the end.
#[tokio::test]
async fn guesses_by_http2_use_up_what_a_connection_may_abuse() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let origin = origin::real("real").await;
    let servers = format!("[[upstream]]\nname = \"app\"\nservers = [\"http://{}\"]\n", origin.address);
    let route = "[[route]]\npath_prefix = \"/there\"\nupstream = \"app\"\n";
    let proxy = Proxy::configured(1, &(servers + route)).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut guesses = 0;
    while client.go_aways.is_empty() {
        assert!(guesses < 1_000, "no end of it");
        guesses += 1;
        let stream = client.ask("GET", "/guessed", &[]).await;
        client
            .until_or_end("an answer", |all| all.stream(stream).is_some_and(|answer| answer.is_complete))
            .await;
    }
    assert_eq!(client.closed().await, Some(ENHANCE_YOUR_CALM));
    assert!(guesses > 100, "{guesses}: a few are no abuse");
    assert_counted(&proxy, "abuse_closed", 1).await;
    assert_counted(&proxy, "abuse_refusals", guesses).await;
}
