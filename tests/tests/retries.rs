//! When a request is sent again: kept bodies, servers that close at random or are killed, statuses, timeouts, the budget, and what
//! must reach a server once only.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sluice_tests::{
    client::Raw,
    http2::{Http2, frames},
    origin::{self, Go, Origin, Peer, ok},
    pattern,
    proxy::Proxy,
    upstream::{assert_nothing_left, proxy_to},
};

/// One shard in front of these servers, with these keys of the upstream.
async fn in_front_of(servers: &[SocketAddr], keys: &str) -> Proxy {
    let servers: Vec<_> = servers.iter().map(|address| format!("\"http://{address}\"")).collect();
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nservers = [{}]\n{keys}\n[[route]]\nupstream = \"app\"\n",
        servers.join(", ")
    );
    Proxy::configured(1, &tables).await
}

/// How often each target has arrived, over all connections of some origins.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<BTreeMap<String, usize>>>);

impl Arrivals {
    fn note(&self, target: &str) {
        *self.0.lock().unwrap().entry(target.to_owned()).or_default() += 1;
    }

    fn of(&self, target: &str) -> usize {
        self.0.lock().unwrap().get(target).copied().unwrap_or(0)
    }

    fn all(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }
}

/// Answers a few requests of each connection, and then closes it: idle, or with the next request read in part or as a whole, in
/// order or by a reset. A request that is answered is answered with the length of its body.
async fn closes_at_random(arrivals: Arrivals) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let arrivals = arrivals.clone();
        async move {
            let seed = peer.nth.wrapping_mul(0x9E37_79B9) >> 4;
            for _ in 0..1 + seed % 5 {
                let request = peer.request().await?;
                arrivals.note(request.head.target());
                peer.answer(&request.body.len().to_string()).await?;
            }
            match seed / 5 % 4 {
                0 => return Ok(()),
                1 => {
                    peer.head().await?;
                }
                2 => {
                    let request = peer.request().await?;
                    arrivals.note(request.head.target());
                }
                _ => {
                    peer.head().await?;
                    return peer.reset();
                }
            }
            Ok(())
        }
    })
    .await
}

/// Mixed requests, bodies in several pieces. What is idempotent never fails, and what is not is never there twice.
#[tokio::test]
async fn servers_that_close_at_random_fail_no_idempotent_request() {
    let requests = std::env::var("SLUICE_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let arrivals = Arrivals::default();
    let origin = closes_at_random(arrivals.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut clients = Vec::new();
    for client in 0..8 {
        let (address, arrivals) = (proxy.address, arrivals.clone());
        clients.push(tokio::spawn(async move {
            let (mut wrong, mut lost) = (Vec::new(), 0);
            let mut raw = Raw::connect(address).await;
            for nth in 0..requests / 8 {
                let method = ["GET", "PUT", "POST", "HEAD", "DELETE", "PUT"][nth % 6];
                let target = format!("/{client}/{nth}");
                let length = if matches!(method, "PUT" | "POST") { 1 + nth * 37 % 20_000 } else { 0 };
                let body = pattern::bytes(length);
                let head =
                    format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
                raw.send(head).await;
                for piece in body.chunks(length.div_ceil(3).max(1)) {
                    tokio::task::yield_now().await;
                    raw.send(piece).await;
                }
                let answer = raw.answer_to(method).await;
                if method == "POST" {
                    lost += usize::from(answer.status() != 200);
                    if !matches!(answer.status(), 200 | 502) || arrivals.of(&target) > 1 {
                        wrong.push(format!(
                            "{method} {target}: {} {}",
                            answer.status(),
                            arrivals.of(&target)
                        ));
                    }
                    if answer.field("connection") == Some("close") {
                        raw = Raw::connect(address).await;
                    }
                } else if answer.status() != 200 || (method != "HEAD" && answer.text() != length.to_string())
                {
                    wrong.push(format!("{method} {target}: {} {}", answer.status(), answer.text()));
                    break;
                }
            }
            (wrong, lost)
        }));
    }
    let (mut wrong, mut lost) = (Vec::new(), 0);
    for client in clients {
        let (more, posts) = client.await.unwrap();
        wrong.extend(more);
        lost += posts;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let counters = proxy.counters().await;
    println!("{requests} requests: {lost} POST lost; {:?}", counters.all);
    assert!(counters.named("upstream_retries_stale") > 20, "{counters:?}");
    assert_eq!(counters.named("bodies_kept_bytes"), 0);
    assert_nothing_left(proxy).await;
}

/// Answers the first request; closes on a signal when it has read the head of the second one, and takes all others.
async fn closes_within_the_second(go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            for served in 0.. {
                if peer.nth == 0 && served == 1 {
                    peer.head().await?;
                    go.wait().await?;
                    return Ok(());
                }
                let request = peer.request().await?;
                peer.answer(&format!(
                    "{} {}",
                    request.body.len(),
                    pattern::bytes(request.body.len()) == request.body
                ))
                .await?;
            }
            Ok(())
        }
    })
    .await
}

/// A PUT whose body of this size goes on after its server has gone; how it was answered.
async fn put_across_a_close(size: usize, is_chunked: bool, first: usize) -> (u16, String, u64) {
    let go = Go::new();
    let origin = closes_within_the_second(go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/first").await.status(), 200);
    let body = pattern::bytes(size);
    let chunk = |bytes: &[u8]| match (is_chunked, bytes.len()) {
        (false, _) | (true, 0) => bytes.to_vec(),
        (true, length) => [format!("{length:x}\r\n").as_bytes(), bytes, b"\r\n"].concat(),
    };
    let framing =
        if is_chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {size}") };
    let (before, after) = body.split_at(first);
    let head = format!("PUT /second HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
    client.send([head.as_bytes(), &chunk(before)].concat()).await;
    origin
        .recorder
        .wait_for("the head of the second", |all| {
            String::from_utf8_lossy(&all[0].bytes).contains("PUT /second")
        })
        .await;
    go.steps(1);
    origin
        .recorder
        .wait_for("its end, or another connection", |all| all.len() > 1 || all[0].ended || size > 0)
        .await;
    let end: &[u8] = if is_chunked { b"0\r\n\r\n" } else { b"" };
    let rest = [&chunk(after), end].concat();
    let _ = client.drip(rest, 16 * 1024, Duration::from_millis(1)).await;
    let answer = client.answer_to("PUT").await;
    let counters = proxy.counters().await;
    (answer.status(), answer.text(), counters.upstream_retries)
}

#[tokio::test]
async fn a_body_that_is_still_coming_is_sent_again_up_to_a_limit() {
    const LIMIT: usize = 48 * 1024;
    for is_chunked in [false, true] {
        for (size, first) in [(1, 0), (2, 1), (3_000, 1_000), (LIMIT, 0), (LIMIT, 5_000)] {
            let (status, text, retries) = put_across_a_close(size, is_chunked, first).await;
            let wanted = (200, format!("{size} true"), 1);
            assert_eq!(
                (status, text, retries),
                wanted,
                "{size} bytes, {first} at first, chunked: {is_chunked}"
            );
        }
    }
    let (status, _, retries) = put_across_a_close(LIMIT + 1, false, 100).await;
    assert_eq!((status, retries), (502, 0), "above the limit");
}

#[tokio::test]
async fn a_body_that_turns_out_to_be_too_large_is_kept_no_longer() {
    let go = Go::new();
    let origin = closes_within_the_second(go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.ask("GET", "/first").await;
    client.send("PUT /second HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\nx").await;
    proxy.counters_until("a copy is made", |now| now.named("bodies_kept_bytes") > 0).await;
    client.send("x".repeat(60_000)).await;
    proxy.counters_until("it is given up", |now| now.named("bodies_kept_bytes") == 0).await;
    go.steps(1);
    let answer = client.answer_to("PUT").await;
    assert_eq!((answer.status(), proxy.counters().await.upstream_retries), (502, 0));
}

#[tokio::test]
async fn bodies_are_not_kept_beyond_the_memory_for_them() {
    let go = Go::new();
    let origin = closes_within_the_second(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-kept-bodies-bytes=1KiB"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.ask("GET", "/first").await;
    client.send("PUT /second HTTP/1.1\r\nHost: test\r\nContent-Length: 2000\r\n\r\n").await;
    proxy.counters_until("it is not kept", |now| now.named("bodies_not_kept") == 1).await;
    go.steps(1);
    assert_eq!(client.answer_to("PUT").await.status(), 502);
}

/// The client is told once to go on, whichever server it was.
#[tokio::test]
async fn a_server_that_leaves_after_its_100_is_made_good_for() {
    let origin = Origin::scripted(|mut peer: Peer| async move {
        for served in 0.. {
            let head = peer.head().await?;
            if head.method() == "PUT" {
                peer.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
                if peer.nth == 0 {
                    assert_eq!(served, 1);
                    return Ok(());
                }
            }
            let mut length = 0;
            peer.body_to(head.request_framing()?, |piece| length += piece.len()).await?;
            peer.answer(&length.to_string()).await?;
        }
        Ok(())
    })
    .await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.ask("GET", "/").await;
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await.status().unwrap(), 100);
    proxy.counters_until("it is sent again", |now| now.upstream_retries == 1).await;
    client.send("body").await;
    let answer = client.answer_to("PUT").await;
    assert_eq!((answer.status(), &*answer.text(), answer.interim.len()), (200, "4", 0), "{answer:?}");
}

#[tokio::test]
async fn a_new_connection_that_ends_is_made_good_for_by_another_server() {
    let (bad, good) = (origin::resets_before_head().await, origin::answers(ok("good")).await);
    let proxy = in_front_of(&[bad.address, good.address], "ejection.failures = 0").await;
    let mut client = Raw::connect(proxy.address).await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "GET"] {
        assert_eq!(client.ask(method, "/").await.status(), 200, "{method}");
    }
    assert!(proxy.counters().await.named("upstream_retries_reset") > 0);
    let mut statuses = Vec::new();
    for nth in 0..6 {
        let mut client = Raw::connect(proxy.address).await;
        let request = format!("POST /post{nth}x HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
        client.send(request).await;
        statuses.push(client.answer_to("POST").await.status());
        let arrived = bad.recorder.text() + &good.recorder.text();
        assert_eq!(
            arrived.matches(&format!("POST /post{nth}x")).count(),
            1,
            "sent once, whatever comes of it"
        );
    }
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    // With no other server there is nobody to make it good: the same one would fail again.
    let alone = Proxy::to(bad.address).await;
    let before = bad.recorder.connections();
    assert_eq!(Raw::connect(alone.address).await.ask("GET", "/").await.status(), 502);
    assert_eq!(bad.recorder.connections(), before + 1);
}

#[tokio::test]
async fn nothing_is_sent_again_where_that_is_off() {
    for keys in ["retry.attempts = 1", "retry.on = []"] {
        let (bad, good) = (origin::resets_before_head().await, origin::answers(ok("good")).await);
        let proxy = in_front_of(&[bad.address, good.address], keys).await;
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(Raw::connect(proxy.address).await.ask("GET", "/").await.status());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 502, 502], "{keys}");
    }
    // Nor is another server tried if the first one cannot be reached.
    let (refusing, good) = (origin::refusing(), origin::answers(ok("good")).await);
    let proxy = in_front_of(&[refusing.address, good.address], "retry.on = [\"stale\"]").await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.status(), 502);
}

const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nRetry-After: 60\r\n\r\ndown";

#[tokio::test]
async fn a_status_of_the_list_is_asked_for_elsewhere() {
    let (bad, good) = (origin::answers(UNAVAILABLE).await, origin::answers(ok("good")).await);
    let proxy = in_front_of(&[bad.address, good.address], "retry.on = [\"stale\", 503]").await;
    let mut client = Raw::connect(proxy.address).await;
    for nth in 0..10 {
        let answer = client.ask(["GET", "DELETE"][nth % 2], "/").await;
        assert_eq!((answer.status(), &*answer.text()), (200, "good"), "{nth}");
    }
    let counters = proxy.counters().await;
    assert!(counters.named("upstream_retries_status") >= 5, "{counters:?}");
    assert_eq!(counters.upstream_connects, 2, "the connection of a small response goes on");
    // What has an effect is passed on as it is.
    let mut statuses = [0; 2];
    for _ in 0..6 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").await;
        let answer = client.answer_to("POST").await;
        statuses[usize::from(answer.status() == 200)] += 1;
    }
    assert!(statuses[0] > 0 && statuses[1] > 0, "{statuses:?}");
}

#[tokio::test]
async fn the_last_response_is_passed_on() {
    let origin = origin::answers(UNAVAILABLE).await;
    let proxy = in_front_of(&[origin.address], "retry = { on = [503], attempts = 3 }").await;
    let answer = Raw::connect(proxy.address).await.ask("GET", "/").await;
    assert_eq!((answer.status(), &*answer.text(), answer.field("retry-after")), (503, "down", Some("60")));
    assert_eq!(origin.recorder.text().matches("GET / ").count(), 3);
    // A route may think otherwise.
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"http://{}\"]\nretry.on = [503]\n\
         [[route]]\nupstream = \"app\"\nretry.attempts = 2\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/route").await.status(), 503);
    assert_eq!(origin.recorder.text().matches("GET /route ").count(), 2);
}

#[tokio::test]
async fn a_post_is_sent_again_where_the_configuration_says_so() {
    let (bad, good) = (origin::answers(UNAVAILABLE).await, origin::answers(ok("good")).await);
    let keys = "retry = { on = [503], non_idempotent = true }";
    let proxy = in_front_of(&[bad.address, good.address], keys).await;
    let mut client = Raw::connect(proxy.address).await;
    for nth in 0..6 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n").await;
        client.drip("body", 2, Duration::from_millis(2)).await.unwrap();
        assert_eq!(client.answer_to("POST").await.text(), "good", "{nth}");
    }
    assert!(bad.recorder.text().contains("POST"));
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_try() {
    let (bad, good) = (origin::only_listens().await, origin::answers(ok("good")).await);
    let keys = "retry = { on = [\"timeout\"], per_try_timeout = \"200ms\" }";
    let proxy = in_front_of(&[bad.address, good.address], keys).await;
    for _ in 0..4 {
        assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), "good");
    }
    assert!(proxy.counters().await.named("upstream_retries_timeout") > 0);
    // The client's request is over at its own time, however many tries are left.
    let keys = "retry = { on = [\"timeout\"], per_try_timeout = \"400ms\", attempts = 10 }\ntimeouts.request = \"1s\"";
    let proxy = in_front_of(&[bad.address], keys).await;
    let begun = Instant::now();
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.status(), 504);
    assert!(begun.elapsed() < Duration::from_millis(3_500), "{:?}", begun.elapsed());
    assert_eq!(proxy.counters().await.named("request_timeouts"), 1);
}

/// An outage is not multiplied: servers get a fifth more, not three times as much.
#[tokio::test]
async fn the_budget_bounds_what_servers_get_that_fail() {
    const REQUESTS: usize = 300;
    let origin = origin::answers(UNAVAILABLE).await;
    let keys = "retry = { on = [503], attempts = 4, budget = 20, budget_min = 0 }";
    let proxy = in_front_of(&[origin.address], keys).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..REQUESTS {
        assert_eq!(client.ask("GET", "/").await.text(), "down");
    }
    let counters = proxy.counters().await;
    let arrived = origin.recorder.text().matches("GET / ").count();
    assert!((REQUESTS..=REQUESTS + REQUESTS / 5).contains(&arrived), "{arrived}");
    assert_eq!(counters.upstream_retries as usize, arrived - REQUESTS);
    assert!(counters.named("upstream_retry_budget_exhausted") > 0);
}

/// One of three servers dies and comes back, again and again.
#[tokio::test]
async fn a_server_that_is_killed_and_restarted_fails_no_safe_request() {
    let requests = std::env::var("SLUICE_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    async fn start(address: Option<SocketAddr>) -> Origin {
        Origin::scripted_at(address, |mut peer: Peer| async move {
            loop {
                peer.request().await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
                peer.answer("alive").await?;
            }
        })
        .await
    }
    let mut origins = [start(None).await, start(None).await, start(None).await];
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let proxy = in_front_of(&addresses, "").await;
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..16 {
        let (address, done) = (proxy.address, done.clone());
        clients.push(tokio::spawn(async move {
            let mut client = Raw::connect(address).await;
            for nth in 0..requests / 16 {
                let answer = client.ask(["GET", "HEAD", "OPTIONS"][nth % 3], "/").await;
                if answer.status() != 200 {
                    return Err(format!("{nth}: {answer:?}"));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }));
    }
    let mut kills = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        let address = origins[0].address;
        // Its connections end with it, and for a while its port refuses new ones.
        origins[0] = start(None).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        origins[0] = start(Some(address)).await;
        tokio::time::sleep(Duration::from_millis(120)).await;
        kills += 1;
    }
    println!("{} requests, {kills} kills; {:?}", done.load(Ordering::Relaxed), proxy.counters().await.all);
    for client in clients {
        assert_eq!(client.await.unwrap(), Ok(()));
    }
    assert!(kills >= 2, "{kills}");
}

/// The server says that it has done nothing: that counts for every method, also while the body is still coming.
#[tokio::test]
async fn a_stream_that_is_refused_within_its_body_is_sent_again() {
    for by_go_away in [false, true] {
        let origin = origin::Http2Origin::scripted(&[], move |nth, mut http| async move {
            if nth == 0 {
                http.wait(|http| http.streams.contains_key(&1)).await?;
                let refusal = match by_go_away {
                    true => frames::go_away(0, frames::code::NO_ERROR),
                    false => frames::reset(1, frames::code::REFUSED_STREAM),
                };
                http.try_send(refusal).await?;
            }
            let stream = if nth == 0 { 3 } else { 1 };
            http.wait(|http| http.streams.get(&stream).is_some_and(|one| one.is_complete)).await?;
            let length = http.streams[&stream].text().len();
            http.try_send(origin::answer(stream, &length.to_string())).await?;
            while http.more().await? {}
            Ok(())
        })
        .await;
        let proxy = proxy_to(origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.open("POST", "/", &[("content-length", "3000")]).await;
        client.send(frames::data(stream, 0, "x".repeat(1_000))).await;
        proxy.counters_until("it was refused", |now| now.named("upstream_retries_refused") == 1).await;
        client.send(frames::data(stream, frames::flag::END_STREAM, "x".repeat(2_000))).await;
        assert_eq!(client.answer(stream).await.text(), "3000", "by GOAWAY: {by_go_away}");
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// Nothing of it stays: neither the request nor the connection that it waited on.
#[tokio::test]
async fn a_client_that_leaves_between_two_tries_leaves_nothing() {
    let (bad, silent) = (origin::answers(UNAVAILABLE).await, origin::never_answers().await);
    let proxy = in_front_of(&[bad.address, silent.address], "retry.on = [503]").await;
    for nth in 1..=4 {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        silent.recorder.wait_for("the second try", |all| all.len() >= nth).await;
        client.reset();
    }
    proxy.counters_until("all is given up", |now| now.tasks_busy == 0 && now.connections == 0).await;
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn servers_that_accept_and_close_are_not_asked_for_ever() {
    let (one, other) = (origin::closes_after_accept().await, origin::closes_after_accept().await);
    let proxy = in_front_of(&[one.address, other.address], "").await;
    for nth in 1..=5 {
        assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.status(), 502);
        let connections = one.recorder.connections() + other.recorder.connections();
        assert!(connections <= nth * 4, "{connections} connections for {nth} requests");
    }
}

/// A POST that went out on a connection whose server had closed it without having read a byte is sent again; what was read is not.
#[tokio::test]
async fn a_post_to_a_server_that_has_left_is_sent_again_unseen() {
    let (go, closed) = (Go::new(), Go::new());
    let origin = origin::ends_idle_on_signal(go.clone(), closed.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let arrivals = Arrivals::default();
    for nth in 0..5 {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("POST /n{nth}x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody")).await;
        assert_eq!(client.answer_to("POST").await.text(), "once");
        go.steps(1);
        closed.wait().await.unwrap();
        arrivals.note("answered");
    }
    assert_eq!(arrivals.all(), 5);
    for nth in 0..5 {
        assert_eq!(origin.recorder.text().matches(&format!("POST /n{nth}x")).count(), 1);
    }
}
