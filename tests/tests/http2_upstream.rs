//! HTTP/2 to servers: messages in all pairs, how requests share connections, what is repeated, how streams end on either side,
//! what stops one stream and no other, and servers that break the rules.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::{HeaderMap, body::Frame as BodyFrame};
use rustix::process::Signal;
use sluice_tests::{
    client::{Raw, exchange},
    http2::{
        Answer, Ended, Http2, Hyper,
        frames::{self, code, flag, kind, setting},
        full, hyper,
    },
    origin::{self, Go, Reacting},
    pattern,
    proxy::Proxy,
    tls::{self, Authority, BOTH, End, NAME},
    within,
};
use tokio::task::JoinSet;

const LARGE: usize = 20_000_000;

async fn proxy_to(origin: std::net::SocketAddr, flags: &[&str]) -> Proxy {
    let target = format!("h2c://{origin}");
    let fixed = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &target];
    Proxy::start(&[&fixed, flags].concat()).await
}

/// Nothing is left of what was at work, and nothing remains at the end.
async fn assert_nothing_left(proxy: Proxy) {
    proxy
        .counters_until("nothing at work", |now| {
            let named = |name| now.named(name);
            named("h2_streams") == 0
                && named("h2_bodies_buffered") == 0
                && now.tasks_busy == 0
                && now.connections == 0
        })
        .await;
    proxy.drain().await.assert_clean();
}

/// A complete response.
fn answer(stream: u32, body: &str) -> Vec<u8> {
    origin::answer(stream, body)
}

/// Answers requests that are complete with the number of their connection.
fn by_connection(nth: usize, stream: u32, request: &Answer) -> Option<Vec<u8>> {
    request.is_complete.then(|| answer(stream, &nth.to_string()))
}

fn path(request: &Answer) -> &str {
    request.field(":path").unwrap_or_default()
}

// ---- messages ----

async fn messages(client: &Hyper) {
    for length in [0, 1, 16_384, 65_535, 65_536, 1_000_000] {
        let body = pattern::bytes(length);
        for path in ["/echo", "/copy"] {
            let (status, echo) = client.ask("POST", path, body.clone()).await;
            assert_eq!(status, 200);
            pattern::assert_exact(&echo, length);
        }
        for path in ["/bytes", "/chunked"] {
            let (status, answer) = client.ask("GET", &format!("{path}/{length}"), "").await;
            assert_eq!(status, 200);
            pattern::assert_exact(&answer, length);
        }
    }
    for (method, path, status) in
        [("DELETE", "/status/204", 204), ("GET", "/status/304", 304), ("OPTIONS", "/status/404", 404)]
    {
        assert_eq!(client.ask(method, path, "").await.0, status);
    }
    let head = client.send(client.request("HEAD", "/bytes/77", full(""))).await.expect("a response");
    assert_eq!(head.headers()["content-length"], "77");
    assert!(head.into_body().collect().await.expect("no body").to_bytes().is_empty());
}

async fn large_both_ways(client: &Hyper) {
    let pieces = pattern::pieces(LARGE as u64).map(|piece| Ok(BodyFrame::data(piece)));
    let body = StreamBody::new(futures_util::stream::iter(pieces)).boxed();
    let response = client.send(client.request("POST", "/echo", body)).await.expect("a response");
    let (mut body, mut check) = (response.into_body(), pattern::Check::default());
    while let Some(frame) = within("the echo", body.frame()).await {
        check.feed(&frame.expect("a whole body").into_data().expect("no trailers"));
    }
    assert_eq!(check.seen(), LARGE as u64);
}

async fn http1_messages(proxy: &Proxy) {
    let client = sluice_tests::client::reqwest();
    for length in [0, 1, 65_536, 5_000_000] {
        let echo =
            client.post(proxy.url("/copy")).body(pattern::bytes(length)).send().await.expect("a response");
        pattern::assert_exact(&echo.bytes().await.expect("a whole body"), length);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(
            pattern::pieces(length as u64).map(Ok::<_, std::io::Error>),
        ));
        let echo = client.post(proxy.url("/echo")).body(body).send().await.expect("a response");
        pattern::assert_exact(&echo.bytes().await.expect("a whole body"), length);
    }
    let mut raw = Raw::connect(proxy.address).await;
    let head = raw.ask("HEAD", "/bytes/77").await;
    assert_eq!((head.status(), head.field("content-length")), (200, Some("77")), "{head:?}");
    assert_eq!(raw.ask("GET", "/status/204").await.status(), 204);
    assert_eq!(raw.ask("GET", "/").await.text(), "real");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_a_server_in_clear_text() {
    let origin = origin::real_http2("real").await;
    let proxy = proxy_to(origin.address, &[]).await;
    let client = hyper(proxy.address).await;
    messages(&client).await;
    large_both_ways(&client).await;
    http1_messages(&proxy).await;
    assert!(origin.seen().iter().all(|seen| seen.version == hyper::Version::HTTP_2));
    drop(client);
    assert_nothing_left(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_a_server_over_tls() {
    let real = origin::real_http2("real").await;
    let authority = Authority::new();
    let mut config = authority.issue(&["127.0.0.1", NAME]).server(BOTH);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let server = tls::serve(real.address, config, End::Proper).await;
    let (ca, target) = (authority.ca_file(), format!("https://{}", server.address));
    let ca = ca.to_str().expect("a path");
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--shards",
        "1",
        "--upstream",
        &target,
        "--upstream-ca",
        ca,
        "--upstream-protocol",
        "h2",
    ];
    let proxy = Proxy::start(&flags).await;
    let client = hyper(proxy.address).await;
    messages(&client).await;
    large_both_ways(&client).await;
    http1_messages(&proxy).await;
    drop(client);
    assert_nothing_left(proxy).await;
}

/// In one piece with the request, and behind a body that comes later; with and without a length.
#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let origin = origin::real_http2("real").await;
    let proxy = proxy_to(origin.address, &[]).await;
    let client = hyper(proxy.address).await;
    for pieces in [vec![], vec!["hello ", "world"], vec!["x"; 200]] {
        let expected = pieces.concat();
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "11".parse().unwrap())]);
        let data = pieces.into_iter().map(|piece| Ok(BodyFrame::data(Bytes::from_static(piece.as_bytes()))));
        let frames: Vec<_> = data.chain([Ok(BodyFrame::trailers(trailers))]).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let mut request = client.request("POST", "/echo", body);
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let response = client.send(request).await.expect("a response");
        let whole = within("the end", response.into_body().collect()).await.expect("a whole body");
        assert_eq!(whole.trailers().and_then(|trailers| trailers.get("x-sum")).expect("the trailer"), "11");
        assert_eq!(whole.to_bytes(), expected);
    }
    let chunked = "POST /echo HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n";
    let mut http1 = Raw::connect(proxy.address).await;
    http1.send(chunked).await;
    let answer = http1.answer_to("POST").await;
    assert_eq!(&*answer.text(), "hello");
    assert_eq!(answer.trailers.first("x-sum"), Some("5"));
}

/// HTTP/2 permits trailers behind a body whose length was announced.
#[tokio::test]
async fn trailers_behind_an_announced_length_pass() {
    for length in [5, 100_000] {
        let origin = origin::reacts(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)], move |_, stream, request| {
            let body = vec![b'x'; length];
            let count = length.to_string();
            let head =
                frames::headers(stream, 0, frames::block(&[(":status", "200"), ("content-length", &count)]));
            let data: Vec<u8> =
                body.chunks(16_000).flat_map(|piece| frames::data(stream, 0, piece)).collect();
            let trailers = frames::headers(stream, flag::END_STREAM, frames::block(&[("x-sum", "5")]));
            request.trailers.is_some().then(|| [head, data, trailers].concat())
        })
        .await;
        let proxy = proxy_to(origin.origin.address, &["--http2-stream-window=1MiB"]).await;
        let mut client = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]).await;
        let count = length.to_string();
        let stream = client.open("POST", "/", &[("content-length", &count)]).await;
        client.upload_part(stream, &vec![b'x'; length]).await.expect("it is taken");
        client.send(frames::headers(stream, flag::END_STREAM, frames::block(&[("x-sum", "7")]))).await;
        let answer = client.answer(stream).await;
        assert_eq!((answer.status(), answer.body.len()), (200, length));
        assert_eq!(answer.trailers.expect("trailers").first("x-sum"), Some("5"));
        let arrived = &origin.arrivals().requests[&(0, 1)];
        assert_eq!(arrived.trailers.as_ref().and_then(|trailers| trailers.first("x-sum")), Some("7"));
        assert_eq!(arrived.body.len(), length);
    }
}

#[tokio::test]
async fn interim_responses_and_an_expected_100_pass() {
    let origin = origin::reacts(&[], |_, stream, request| {
        if request.head.is_some() && !request.is_complete {
            // It comes once for each stream, so the final response comes from elsewhere.
            return None;
        }
        let interim =
            |status| frames::headers(stream, 0, frames::block(&[(":status", status), ("link", "</a>")]));
        request.is_complete.then(|| [interim("103"), interim("102"), answer(stream, "final")].concat())
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &["--timeout-expect-continue-wait=100ms"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status(), answer.interim.len(), &*answer.text()), (200, 2, "final"));
    let fields = [("expect", "100-continue"), ("content-length", "4")];
    let stream = client.open("POST", "/", &fields).await;
    client.until("a 100", |all| all.stream(stream).is_some_and(|one| one.interim.len() == 1)).await;
    client.send(frames::data(stream, flag::END_STREAM, "body")).await;
    assert_eq!(client.answer(stream).await.text(), "final");
    let mut http1 = Raw::connect(proxy.address).await;
    http1.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(http1.head().await.status().expect("a status"), 100);
    http1.send("body").await;
    for status in [103, 102] {
        assert_eq!(http1.head().await.status().expect("a status"), status);
    }
    assert_eq!(http1.answer_to("POST").await.text(), "final");
}

/// A server's 100 asks for the body, whose length is not known.
#[tokio::test]
async fn a_100_of_the_server_passes() {
    let origin = origin::Http2Origin::scripted(&[], |_, mut http| async move {
        http.wait(|http| http.streams.contains_key(&1)).await?;
        http.try_send(frames::headers(1, 0, frames::block(&[(":status", "100")]))).await?;
        http.wait(|http| http.streams[&1].is_complete).await?;
        http.try_send(answer(1, "final")).await?;
        while http.more().await? {}
        Ok(())
    })
    .await;
    let proxy = proxy_to(origin.address, &["--timeout-expect-continue-wait=60s"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.open("POST", "/", &[("expect", "100-continue")]).await;
    client.until("a 100", |all| all.stream(stream).is_some_and(|one| one.interim.len() == 1)).await;
    client.send(frames::data(stream, flag::END_STREAM, "body")).await;
    assert_eq!(client.answer(stream).await.text(), "final");
}

/// A whole response, and then RST_STREAM with NO_ERROR in the middle of the upload (RFC 9113, section 8.1).
#[tokio::test]
async fn an_early_response_is_passed_on_as_a_whole() {
    let origin = origin::reacts(&[], |_, stream, request| {
        let early = || [answer(stream, "early"), frames::reset(stream, code::NO_ERROR)].concat();
        (!request.body.is_empty()).then(early)
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    for fields in [&[("content-length", "1000000")][..], &[]] {
        let stream = client.open("POST", "/", fields).await;
        client.send(frames::data(stream, 0, [b'x'; 1000])).await;
        client.until("the response", |all| all.stream(stream).is_some_and(|one| one.is_complete)).await;
        assert_eq!(client.stream(stream).expect("there").text(), "early");
    }
    let mut http1 = Raw::connect(proxy.address).await;
    http1.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    let answer = http1.answer_to("POST").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "early"));
    assert_eq!(origin.origin.accepted(), 1, "the connection goes on");
    drop((client, http1));
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn fields_are_those_of_http2() {
    let origin = origin::reacts(&[], by_connection).await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let request = "GET /a?b=c HTTP/1.1\r\nHost: one.example:81\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                   TE: trailers, gzip\r\nCookie: a=1; b=2\r\nCookie: c=3\r\nX-Mixed-Case: Kept\r\n\r\n";
    assert_eq!(exchange(proxy.address, request).await.status(), 200);
    let arrived = origin.arrivals().requests[&(0, 1)].clone();
    let head = arrived.head.as_ref().expect("a head");
    for (name, value) in
        [(":method", "GET"), (":scheme", "http"), (":path", "/a?b=c"), (":authority", "one.example:81")]
    {
        assert_eq!(head.all(name).collect::<Vec<_>>(), [value], "{head:?}");
    }
    for gone in ["host", "connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert_eq!(head.first(gone), None, "{gone}");
    }
    assert!(head.all("te").all(|te| te == "trailers"), "{head:?}");
    assert_eq!(head.first("x-mixed-case"), Some("Kept"));
    let cookies: Vec<&str> = head.all("cookie").collect();
    assert_eq!(cookies.join("; "), "a=1; b=2; c=3");
    assert!(head.0.iter().all(|(name, _)| *name == name.to_lowercase()), "{head:?}");
}

// ---- connections ----

async fn together(proxy: &Proxy, clients: usize, each: usize) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let mut client = Http2::connect(proxy.address).await;
        let mut streams = Vec::new();
        for _ in 0..each {
            streams.push(client.ask("GET", "/", &[]).await);
        }
        all.spawn(async move {
            for stream in streams {
                assert_eq!(client.answer(stream).await.status(), 200);
            }
        });
    }
    all
}

/// Answers on demand, all that there is.
async fn holds(settings: &'static [(u16, u32)], go: Go) -> origin::Http2Origin {
    origin::Http2Origin::scripted(settings, move |_, mut http| {
        let go = go.clone();
        async move {
            let mut answered = 0;
            let mut is_told = false;
            loop {
                tokio::select! {
                    biased;
                    more = http.more() => if !more? { return Ok(()) },
                    told = go.wait(), if !is_told => {
                        told?;
                        go.steps(1);
                        is_told = true;
                    }
                }
                let open: Vec<u32> = http.streams.range(answered + 1..).map(|(id, _)| *id).collect();
                if is_told {
                    for stream in open {
                        http.try_send(answer(stream, "held")).await?;
                        answered = stream;
                    }
                }
            }
        }
    })
    .await
}

/// Of 20 clients with 4 requests each on one connection, and with connections for 10 at most.
#[tokio::test]
async fn many_clients_share_few_connections() {
    for (settings, flags, least, most) in [
        (&[][..], vec![], 1, 1),
        (&[], vec!["--limit-upstream-streams=10"], 8, 10),
        (&[(setting::MAX_CONCURRENT_STREAMS, 10)], vec![], 8, 10),
        (&[(setting::MAX_CONCURRENT_STREAMS, 1)], vec![], 80, 82),
    ] {
        let go = Go::new();
        let origin = holds(settings, go.clone()).await;
        let proxy = proxy_to(origin.address, &flags).await;
        let mut clients = together(&proxy, 20, 4).await;
        proxy
            .counters_until("all are on their way", |now| {
                now.requests == 80 && now.named("upstream_connections") >= least
            })
            .await;
        go.steps(1);
        while let Some(ended) = clients.join_next().await {
            ended.expect("all responses");
        }
        let accepted = origin.accepted() as u64;
        assert!((least..=most).contains(&accepted), "{accepted} connections with {settings:?} {flags:?}");
        assert_nothing_left(proxy).await;
    }
}

/// Before the last stream is used, and no sooner.
#[tokio::test]
async fn the_next_connection_is_made_before_the_streams_are_used_up() {
    let go = Go::new();
    let origin = holds(&[(setting::MAX_CONCURRENT_STREAMS, 16)], go.clone()).await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    client.ask("GET", "/", &[]).await;
    let is_busy = |now: &sluice_tests::proxy::Counters| {
        now.upstream_connections == 1 && now.named("upstream_idle") == 0
    };
    proxy.counters_until("the first connection", is_busy).await;
    for _ in 1..13 {
        client.ask("GET", "/", &[]).await;
    }
    proxy.counters_until("13 requests", |now| now.requests == 13).await;
    assert_eq!(proxy.counters().await.upstream_connects, 1);
    client.ask("GET", "/", &[]).await;
    proxy.counters_until("the second connection", |now| now.named("upstream_connections") == 2).await;
    go.steps(1);
    client.until("all", |all| all.streams.values().filter(|one| one.is_complete).count() == 14).await;
}

/// Settings that come later: fewer streams than there are, and then more again.
#[tokio::test]
async fn a_limit_that_is_lowered_later_holds() {
    let origin = origin::Http2Origin::scripted(&[], |nth, mut http| async move {
        let mut answered = 0;
        loop {
            http.wait(|http| http.streams.range(answered + 1..).any(|(_, one)| one.is_complete)).await?;
            let open: Vec<u32> = http.streams.range(answered + 1..).map(|(id, _)| *id).collect();
            if nth == 0 && answered > 0 {
                assert!(open.len() <= 1, "more streams than were permitted");
            }
            answered = open[0];
            let lower = frames::settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]);
            http.try_send([lower, answer(answered, "fine")].concat()).await?;
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "fine");
    }
    let streams = [client.ask("GET", "/", &[]).await, client.ask("GET", "/", &[]).await];
    for stream in streams {
        assert_eq!(client.answer(stream).await.text(), "fine");
    }
    drop(client);
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_goaway() {
    let origin = origin::reacts(&[], by_connection).await;
    let proxy = proxy_to(origin.origin.address, &["--timeout-upstream-idle=300ms"]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "0");
    let all = origin.wait_for("the end", |all| all.ended.contains(&0)).await;
    assert_eq!(all.go_aways.get(&0), Some(&code::NO_ERROR));
    proxy.counters_until("no connection", |now| now.upstream_connections == 0).await;
    assert_eq!(client.get("/").await.text(), "1");
}

/// What waits for one connection shares its failure, however long that takes.
#[tokio::test]
async fn a_server_that_is_down_is_tried_once_for_all_that_wait() {
    let refusing = origin::refusing();
    let hanging = origin::unreachable().await;
    let silent = origin::never_answers().await;
    let garbage = origin::garbage().await;
    for (address, status, connects_max) in [
        (refusing.address, 502, 400),
        (hanging.address, 504, 20),
        // Servers that do not speak HTTP/2: one waits for a request, one answers with something else.
        (silent.address, 504, 20),
        (garbage.address, 502, 400),
    ] {
        let flags = ["--timeout-upstream-connect=700ms", "--http2-streams=1000"];
        let proxy = proxy_to(address, &flags).await;
        let mut client = Http2::connect(proxy.address).await;
        let mut streams = Vec::new();
        for _ in 0..500 {
            streams.push(client.ask("GET", "/", &[]).await);
        }
        for stream in streams {
            assert_eq!(client.answer(stream).await.status(), status);
        }
        let now = proxy.counters().await;
        let connects = now.upstream_connects + now.named("upstream_connect_errors");
        assert!(
            connects <= connects_max,
            "{connects} connects for 500 requests, each of which is a {status}"
        );
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// A server that permits no stream, or leaves at once, is not connected to again and again.
#[tokio::test]
async fn a_server_without_streams_is_a_503() {
    let leaves = origin::Http2Origin::scripted(&[], |_, mut http| async move {
        http.try_send(frames::go_away(0, code::NO_ERROR)).await?;
        while http.more().await? {}
        Ok(())
    })
    .await;
    let none = origin::reacts(&[(setting::MAX_CONCURRENT_STREAMS, 0)], by_connection).await;
    for origin in [&leaves, &none.origin] {
        let proxy = proxy_to(origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..3 {
            let status = client.get("/").await.status();
            assert!([502, 503].contains(&status), "{status}");
        }
        assert!(origin.accepted() <= 12, "{} connections for 3 requests", origin.accepted());
        drop(client);
        proxy.counters_until("no connection", |now| now.upstream_connections == 0).await;
        assert_nothing_left(proxy).await;
    }
}

// ---- what is repeated ----

/// Streams above the last one of GOAWAY are repeated on another connection, POST with a complete body too; others go on.
#[tokio::test]
async fn goaway_repeats_what_was_not_processed() {
    let origin = origin::Http2Origin::scripted(&[], |nth, mut http| async move {
        if nth == 0 {
            http.wait(|http| {
                [1, 3, 5].iter().all(|id| http.streams.get(id).is_some_and(|one| one.is_complete))
            })
            .await?;
            http.try_send(frames::go_away(1, code::NO_ERROR)).await?;
        }
        let mut answered = 0;
        loop {
            http.wait(|http| http.streams.range(answered + 1..).any(|(_, one)| one.is_complete)).await?;
            answered = *http.streams.range(answered + 1..).next().expect("one").0;
            let request = &http.streams[&answered];
            let text = format!("{nth} {} {}", path(request), request.text());
            http.try_send(answer(answered, &text)).await?;
            if nth == 0 {
                while http.more().await? {}
                return Ok(());
            }
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    let first = client.ask("GET", "/first", &[]).await;
    proxy.counters_until("the first", |now| now.upstream_connects == 1).await;
    let second = client.ask("GET", "/second", &[]).await;
    let block = frames::block(&frames::request("POST", "/third", &[("content-length", "4")]));
    let third = client.next_stream();
    client
        .send([frames::headers(third, 0, block), frames::data(third, flag::END_STREAM, "body")].concat())
        .await;
    assert_eq!(client.answer(first).await.text(), "0 /first ");
    assert_eq!(client.answer(second).await.text(), "1 /second ");
    assert_eq!(client.answer(third).await.text(), "1 /third body");
    assert_eq!(proxy.counters().await.upstream_retries, 2);
    assert_eq!(client.get("/later").await.text(), "1 /later ");
    drop(client);
    assert_nothing_left(proxy).await;
}

/// Also when it has a body of unknown length and trailers that have come completely, as gRPC calls do.
#[tokio::test]
async fn a_refused_request_is_repeated_with_its_body_and_trailers() {
    let origin = origin::reacts(&[], |_, stream, request| {
        let refused = || frames::reset(stream, code::REFUSED_STREAM);
        let text = || answer(stream, &format!("{} {}", request.text(), request.trailers.is_some()));
        request.is_complete.then(|| if stream <= 3 { refused() } else { text() })
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    let block = frames::block(&frames::request("POST", "/", &[("te", "trailers")]));
    let trailers = frames::headers(1, flag::END_STREAM, frames::block(&[("x-sum", "1")]));
    let stream = client.next_stream();
    client
        .send([frames::headers(stream, 0, block), frames::data(stream, 0, "body"), trailers].concat())
        .await;
    assert_eq!(client.answer(stream).await.text(), "body true");
    assert_eq!(proxy.counters().await.upstream_retries, 2);
    drop(client);
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn a_server_that_always_refuses_is_not_asked_for_ever() {
    let origin = origin::resets_requests(code::REFUSED_STREAM).await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    for nth in 1..=3 {
        let status = client.get("/").await.status();
        assert_eq!(status, 502);
        assert_eq!(proxy.counters().await.upstream_retries, 3 * nth);
    }
    drop(client);
    assert_nothing_left(proxy).await;
}

/// Refused by one server, taken by the other.
#[tokio::test]
async fn a_refused_request_goes_to_another_server() {
    let (refusing, taking) =
        (origin::resets_requests(code::REFUSED_STREAM).await, origin::real_http2("real").await);
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"h2c://{}\", \"h2c://{}\"]\n[[route]]\nupstream = \"app\"\n",
        refusing.address, taking.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "real");
    }
    assert!(proxy.counters().await.upstream_retries >= 5);
}

/// The connection is lost with requests on it: what has no effect goes out once more, the rest fails.
#[tokio::test]
async fn a_lost_connection_repeats_what_has_no_effect_once() {
    let origin = origin::Http2Origin::scripted(&[], |nth, mut http| async move {
        if nth == 0 {
            http.wait(|http| http.streams.get(&1).is_some_and(|one| one.is_complete)).await?;
            http.try_send(answer(1, "warm")).await?;
            http.wait(|http| http.streams.len() == 4 && http.streams.values().all(|one| one.is_complete))
                .await?;
            let begun = frames::headers(7, 0, frames::block(&[(":status", "200")]));
            http.try_send([begun, frames::data(7, 0, "part")].concat()).await?;
            // The part is on its way to its client before the end.
            http.try_send(frames::ping(*b"a moment")).await?;
            return http.wait(|http| !http.pongs.is_empty()).await;
        }
        loop {
            http.wait(|http| http.streams.values().any(|one| one.is_complete)).await?;
            let streams: Vec<u32> = std::mem::take(&mut http.streams).into_keys().collect();
            for stream in streams {
                http.try_send(answer(stream, "again")).await?;
            }
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "warm");
    let get = client.ask("GET", "/", &[]).await;
    let post = client.ask("POST", "/", &[]).await;
    let begun = client.ask("GET", "/begun", &[]).await;
    assert_eq!(client.answer(get).await.text(), "again");
    assert_eq!(client.answer(post).await.status(), 502);
    let cut = client.answer(begun).await;
    assert!(matches!(cut.ended, Some(Ended::Reset(code)) if code != code::NO_ERROR), "{cut:?}");
    assert_eq!(proxy.counters().await.upstream_retries, 1);
    drop(client);
    assert_nothing_left(proxy).await;
}

/// A server that ends its connection while it is idle, in the moment in which the next request comes: it does not fail, whatever its
/// method.
#[tokio::test]
async fn a_connection_that_ended_while_idle_is_not_used() {
    let (go, gone) = (Go::new(), Go::new());
    let (leave, left) = (go.clone(), gone.clone());
    let origin = origin::Http2Origin::scripted(&[], move |nth, mut http| {
        let (go, gone) = (leave.clone(), left.clone());
        async move {
            http.wait(|http| http.streams.get(&1).is_some_and(|one| one.is_complete)).await?;
            http.try_send(answer(1, &nth.to_string())).await?;
            // What it has to acknowledge is read, so that its end is an orderly one.
            tokio::select! {
                told = go.wait() => told?,
                ended = http.wait(|_| false) => ended?,
            }
            drop(http);
            gone.steps(1);
            Ok(())
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "0");
    for nth in 1..=5 {
        client.assert_open().await;
        proxy.freeze().await;
        let stream = client.ask("POST", "/", &[]).await;
        go.steps(1);
        within("the end", gone.wait()).await.expect("it ends");
        proxy.signal(Signal::CONT);
        assert_eq!(client.answer(stream).await.text(), nth.to_string());
    }
    drop(client);
    assert_nothing_left(proxy).await;
}

// ---- ends of streams ----

/// A client that resets, leaves or is cut off: the server's stream is cancelled, and its connection goes on.
#[tokio::test]
async fn a_client_that_leaves_cancels_its_stream_at_the_server() {
    let origin = origin::reacts(&[], |nth, stream, request| {
        let head = || frames::headers(stream, 0, frames::block(&[(":status", "200")]));
        match path(request) {
            "/begun" => Some([head(), frames::data(stream, 0, "part")].concat()),
            "/fine" => by_connection(nth, stream, request),
            _ => None,
        }
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut took = Vec::new();
    for target in ["/waits", "/begun"] {
        let stream = client.ask("GET", target, &[]).await;
        wait_for_request(&origin, target).await;
        let begun = Instant::now();
        client.send(frames::reset(stream, code::CANCEL)).await;
        wait_for_cancel(&origin, target).await;
        took.push(begun.elapsed());
    }
    let upload = client.open("POST", "/upload", &[]).await;
    client.send(frames::data(upload, 0, "part")).await;
    wait_for_request(&origin, "/upload").await;
    let begun = Instant::now();
    drop(client);
    wait_for_cancel(&origin, "/upload").await;
    took.push(begun.elapsed());
    // One that has only ended its own side of an HTTP/1.1 connection still waits for the response.
    let mut http1 = Raw::connect(proxy.address).await;
    http1.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n").await;
    wait_for_request(&origin, "/cut").await;
    let begun = Instant::now();
    http1.reset();
    wait_for_cancel(&origin, "/cut").await;
    took.push(begun.elapsed());
    println!("cancelled at the server after {took:?}");
    assert_eq!(
        exchange(proxy.address, "GET /fine HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.text(),
        "0"
    );
    assert_eq!(origin.origin.accepted(), 1, "the connection goes on");
    assert_nothing_left(proxy).await;
}

fn is_cancelled(request: &Answer) -> bool {
    request.ended == Some(Ended::Reset(code::CANCEL))
}

async fn wait_for_request(origin: &Reacting, target: &str) {
    origin.wait_for(target, |all| all.requests.values().any(|one| path(one) == target)).await;
}

async fn wait_for_cancel(origin: &Reacting, target: &str) {
    let is_it = |one: &Answer| path(one) == target && is_cancelled(one);
    origin.wait_for(&format!("the end of {target}"), |all| all.requests.values().any(is_it)).await;
}

/// 300 streams that are given up at once, each with data on its way, are no reason to end the connection of the others.
#[tokio::test]
async fn many_that_leave_at_once_do_not_end_the_connection() {
    let origin = origin::reacts(&[(setting::MAX_CONCURRENT_STREAMS, 1000)], |nth, stream, request| {
        let head = || frames::headers(stream, 0, frames::block(&[(":status", "200")]));
        match path(request) {
            "/stuck" => Some([head(), frames::data(stream, 0, [b'x'; 1000])].concat()),
            // More data of all that were given up, as if it had been on its way.
            "/late" => {
                let late: Vec<u8> =
                    (0..stream / 2).flat_map(|nth| frames::data(nth * 2 + 1, 0, [b'y'; 100])).collect();
                Some([late, answer(stream, "late")].concat())
            }
            _ => by_connection(nth, stream, request),
        }
    })
    .await;
    let proxy =
        proxy_to(origin.origin.address, &["--limit-upstream-streams=1000", "--http2-streams=1000"]).await;
    let mut leaving = Http2::connect(proxy.address).await;
    for _ in 0..300 {
        leaving.ask("GET", "/stuck", &[]).await;
    }
    leaving
        .until("all have begun", |all| {
            all.streams.values().filter(|one| one.body.len() == 1000).count() == 300
        })
        .await;
    drop(leaving);
    origin
        .wait_for("all are cancelled", |all| {
            all.requests.values().filter(|one| is_cancelled(one)).count() == 300
        })
        .await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/late").await.text(), "late");
    assert_eq!(client.get("/after").await.text(), "0");
    assert_eq!(origin.origin.accepted(), 1);
    drop(client);
    assert_nothing_left(proxy).await;
}

/// In the middle of a response: RST_STREAM for clients of HTTP/2, a cut connection for others. The code of a cancellation passes.
#[tokio::test]
async fn a_reset_by_the_server_reaches_the_client() {
    for (sent, expected) in [
        (code::CANCEL, code::CANCEL),
        (code::INTERNAL_ERROR, code::INTERNAL_ERROR),
        // Without a complete response it is none.
        (code::NO_ERROR, code::INTERNAL_ERROR),
        (code::REFUSED_STREAM, code::INTERNAL_ERROR),
    ] {
        let origin = origin::resets_responses(sent).await;
        let proxy = proxy_to(origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..2 {
            let stream = client.ask("GET", "/", &[]).await;
            assert_eq!(client.reset_code(stream).await, expected, "for {sent}");
            let answer = client.stream(stream).expect("there");
            assert!(!answer.is_complete && answer.status() == 200);
        }
        let mut http1 = Raw::connect(proxy.address).await;
        http1.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let part = http1.response("GET").await;
        // Nothing of it may have been sent when the reset came.
        let is_known = part.as_ref().map_or(true, |part| part.status() == 502);
        assert!(is_known, "a part is not the whole: {sent}, {part:?}");
        assert_eq!(origin.accepted(), 1, "the connection goes on");
        let before = origin::resets_requests(sent).await;
        let refused = proxy_to(before.address, &[]).await;
        assert_eq!(
            Http2::connect(refused.address).await.get("/").await.status(),
            502,
            "{sent} before a response"
        );
        drop((client, http1));
        assert_nothing_left(proxy).await;
    }
}

#[tokio::test]
async fn a_response_that_is_late_is_a_504_and_no_matter_for_others() {
    let origin = origin::reacts(&[], |nth, stream, request| {
        if path(request) == "/late" { None } else { by_connection(nth, stream, request) }
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &["--timeout-upstream-response=400ms"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let late = client.ask("GET", "/late", &[]).await;
    assert_eq!(client.get("/").await.text(), "0");
    assert_eq!(client.answer(late).await.status(), 504);
    wait_for_cancel(&origin, "/late").await;
    assert_eq!(client.get("/").await.text(), "0");
    assert_eq!(proxy.counters().await.upstream_retries, 0);
    drop(client);
    assert_nothing_left(proxy).await;
}

// ---- isolation of streams ----

/// 100 clients that read nothing of their large responses, and one that reads, on one connection to the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_stop_their_own_streams_only() {
    const READERS: usize = 100;
    let origin = origin::real_http2("real").await;
    let proxy = proxy_to(origin.address, &["--limit-upstream-streams=200"]).await;
    assert_eq!(hyper(proxy.address).await.ask("GET", "/bytes/10", "").await.0, 200);
    let before = proxy.resident_bytes();
    let mut stuck = Vec::new();
    for _ in 0..READERS / 10 {
        let mut client = Http2::connect_with_window(proxy.address, 4096, &[]).await;
        client.gives_credit = false;
        for _ in 0..10 {
            client.ask("GET", "/bytes/10000000", &[]).await;
        }
        stuck.push(client);
    }
    // As much as the windows of their streams let through.
    proxy
        .counters_until("all wait", |now| {
            now.named("h2_streams") == READERS as u64 && now.requests == READERS as u64 + 1
        })
        .await;
    let reader = hyper(proxy.address).await;
    for _ in 0..3 {
        let (status, body) = reader.ask("GET", "/bytes/5000000", "").await;
        assert_eq!(status, 200);
        pattern::assert_exact(&body, 5_000_000);
    }
    let (_, echo) = reader.ask("POST", "/copy", pattern::bytes(1_000_000)).await;
    pattern::assert_exact(&echo, 1_000_000);
    assert_eq!(proxy.counters().await.upstream_connects, 1, "all on one connection");
    let held = proxy.counters().await.named("h2_bodies_buffered");
    assert!(held <= READERS as u64 * 65_536, "{held} bytes wait for {READERS} readers");
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < READERS as u64 * 256 * 1024, "{grown} bytes for {READERS} readers that are stuck");
    drop((stuck, reader));
    assert_nothing_left(proxy).await;
}

/// Uploads to a server that opens no window for them, beside others on the same connection.
#[tokio::test]
async fn a_stream_without_a_window_stops_alone() {
    let origin =
        origin::Http2Origin::scripted(&[(setting::INITIAL_WINDOW_SIZE, 0)], |_, mut http| async move {
            let mut opened = std::collections::BTreeSet::new();
            loop {
                if !http.more().await? {
                    return Ok(());
                }
                let streams: Vec<(u32, bool, bool)> = http
                    .streams
                    .iter()
                    .map(|(id, one)| (*id, path(one) == "/fine", one.is_complete))
                    .collect();
                for (stream, is_fine, is_complete) in streams {
                    if is_fine && opened.insert(stream) {
                        http.try_send(frames::window_update(stream, 1 << 20)).await?;
                    }
                    if is_complete {
                        let length = http.streams.remove(&stream).expect("there").body.len();
                        http.try_send(answer(stream, &length.to_string())).await?;
                    }
                }
            }
        })
        .await;
    let proxy = proxy_to(origin.address, &["--timeout-write-stall=60s"]).await;
    let mut client = Http2::connect(proxy.address).await;
    client.until("settings", |all| !all.settings.is_empty()).await;
    for _ in 0..20 {
        let stuck = client.open("POST", "/stuck", &[]).await;
        client.upload_part(stuck, &pattern::bytes(30_000)).await.expect("it fits into the window");
    }
    for length in [1, 30_000, 300_000] {
        let fine = client.open("POST", "/fine", &[]).await;
        client.upload(fine, &pattern::bytes(length)).await.expect("windows open");
        assert_eq!(client.answer(fine).await.text(), length.to_string());
    }
    assert_eq!(client.get("/get").await.text(), "0");
    assert_eq!(origin.accepted(), 1);
    drop(client);
    assert_nothing_left(proxy).await;
}

// ---- servers that break the rules ----

fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frames::headers_in_pieces(stream, flags, &frames::block(fields))
}

/// Faults of one stream: 502 for it, and the connection goes on.
#[tokio::test]
async fn faults_of_a_stream_are_a_502_and_the_connection_goes_on() {
    let long = "x".repeat(40_000);
    let ok = (":status", "200");
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("no :status", head(1, flag::END_STREAM, &[("x", "1")])),
        ("a :status that is none", head(1, flag::END_STREAM, &[(":status", "abc")])),
        ("a status of 101", head(1, 0, &[(":status", "101")])),
        (":status twice", head(1, flag::END_STREAM, &[ok, ok])),
        (":path in a response", head(1, flag::END_STREAM, &[ok, (":path", "/")])),
        ("connection", head(1, flag::END_STREAM, &[ok, ("connection", "close")])),
        ("a name in upper case", head(1, flag::END_STREAM, &[ok, ("X", "1")])),
        ("CR LF in a value", head(1, flag::END_STREAM, &[ok, ("x", "1\r\nset-cookie: a=b")])),
        ("an interim response with the end", head(1, flag::END_STREAM, &[(":status", "103")])),
        ("a length without its content", head(1, flag::END_STREAM, &[ok, ("content-length", "5")])),
        ("two lengths", head(1, 0, &[ok, ("content-length", "5"), ("content-length", "6")])),
        ("data before the head", frames::data(1, 0, "early")),
        ("a head that is too large", head(1, flag::END_STREAM, &[ok, ("x", &long)])),
        ("interim responses without end", (0..100).flat_map(|_| head(1, 0, &[(":status", "103")])).collect()),
        ("WINDOW_UPDATE of 0", frames::window_update(1, 0)),
        (
            "a window that is too large",
            [frames::window_update(1, 0x7fff_ffff), frames::window_update(1, 1)].concat(),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, bytes) in table {
        let origin = origin::reacts(&[], move |nth, stream, request| {
            if stream == 1 {
                request.head.is_some().then(|| bytes.clone())
            } else {
                by_connection(nth, stream, request)
            }
        })
        .await;
        let proxy = proxy_to(origin.origin.address, &["--limit-head-bytes=32KiB"]).await;
        let mut client = Http2::connect(proxy.address).await;
        let status = client.get("/first").await.status();
        let after = client.get("/after").await.text();
        let retries = proxy.counters().await.upstream_retries;
        if (status, &*after, retries, origin.origin.accepted()) != (502, "0", 0, 1) {
            wrong.push(format!(
                "{what}: {status}, then {after:?}, {retries} retries, {} connections",
                origin.origin.accepted()
            ));
        }
        drop(client);
        assert_nothing_left(proxy).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Faults behind the head of a response: it must not look complete.
#[tokio::test]
async fn faults_behind_the_head_cut_the_response() {
    let begun = |length: &str| head(1, 0, &[(":status", "200"), ("content-length", length)]);
    let streamed = head(1, 0, &[(":status", "200")]);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("too little content", [begun("100000"), frames::data(1, flag::END_STREAM, "short")].concat()),
        ("too much content", [begun("100"), frames::data(1, 0, [b'x'; 16_000])].concat()),
        (
            "a second head",
            [streamed.clone(), frames::data(1, 0, "part"), head(1, 0, &[(":status", "200")])].concat(),
        ),
        (
            "trailers with :status",
            [streamed, frames::data(1, 0, "part"), head(1, flag::END_STREAM, &[(":status", "200")])].concat(),
        ),
    ];
    for (what, bytes) in table {
        let origin = origin::reacts(&[], move |nth, stream, request| {
            if stream == 1 {
                request.head.is_some().then(|| bytes.clone())
            } else {
                by_connection(nth, stream, request)
            }
        })
        .await;
        let proxy = proxy_to(origin.origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.ask("GET", "/first", &[]).await;
        let answer = client.answer(stream).await;
        assert!(!answer.is_complete, "{what}: {answer:?}");
        assert!(
            matches!(answer.ended, Some(Ended::Reset(code)) if code != code::NO_ERROR)
                || answer.status() == 502,
            "{what}: {answer:?}"
        );
        assert_eq!(client.get("/after").await.status(), 200, "{what}");
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// More than a stream's window: that stream is reset, also while its client takes nothing.
#[tokio::test]
async fn data_beyond_the_window_of_a_stream_resets_it() {
    let origin = origin::reacts(&[], |nth, stream, request| {
        if path(request) == "/after" {
            return by_connection(nth, stream, request);
        }
        let data = frames::data(stream, 0, [b'x'; 16_384]).repeat(20);
        request.is_complete.then(|| [head(stream, 0, &[(":status", "200")]), data].concat())
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    client.gives_credit = false;
    client.ask("GET", "/stuck", &[]).await;
    let ended = |all: &origin::Arrivals| {
        all.requests.get(&(0, 1)).is_some_and(|one| one.ended == Some(Ended::Reset(code::FLOW_CONTROL_ERROR)))
    };
    origin.wait_for("the end of the stream", ended).await;
    let mut neighbour = Http2::connect(proxy.address).await;
    assert_eq!(neighbour.get("/after").await.text(), "0");
    drop((client, neighbour));
    assert_nothing_left(proxy).await;
}

/// Faults of the connection: 502 for its streams, a new connection for what follows, and neighbours on others go on.
#[tokio::test]
async fn faults_of_the_connection_end_it() {
    let promise = [&2_u32.to_be_bytes()[..], &frames::get("/pushed")].concat();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("DATA on stream 0", frames::data(0, 0, "x")),
        ("HEADERS on an idle stream", head(99, flag::END_STREAM, &[(":status", "200")])),
        ("HEADERS on a stream of the server", head(2, flag::END_STREAM, &[(":status", "200")])),
        ("DATA on an idle stream", frames::data(99, 0, "x")),
        ("PUSH_PROMISE", frames::frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, promise)),
        (
            "a block that is not valid",
            frames::headers(1, flag::END_STREAM, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "a block that is not continued",
            [frames::frame(kind::HEADERS, 0, 1, []), frames::ping([0; 8])].concat(),
        ),
        (
            "a block without end",
            [
                frames::frame(kind::HEADERS, 0, 1, []),
                frames::frame(kind::CONTINUATION, 0, 1, [0; 16_384]).repeat(20),
            ]
            .concat(),
        ),
        ("a frame that is too large", frames::data(1, 0, vec![0; 100_000])),
        ("WINDOW_UPDATE of 0 for the connection", frames::window_update(0, 0)),
        ("settings out of range", frames::settings(&[(setting::INITIAL_WINDOW_SIZE, u32::MAX)])),
        ("the end", vec![]),
    ];
    for (what, bytes) in table {
        let (bad, is_end) = (bytes.clone(), what == "the end");
        let origin = origin::Http2Origin::scripted(&[], move |nth, mut http| {
            let bad = bad.clone();
            async move {
                http.wait(|http| http.streams.get(&1).is_some_and(|one| one.is_complete)).await?;
                if nth > 0 || is_end {
                    http.try_send(answer(1, &nth.to_string())).await?;
                } else {
                    http.try_send(&bad).await?;
                }
                if !is_end {
                    while http.more().await? {}
                }
                Ok(())
            }
        })
        .await;
        let proxy = proxy_to(origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        let post = client.ask("POST", "/first", &[]).await;
        let status = client.answer(post).await.status();
        assert_eq!(status, if is_end { 200 } else { 502 }, "{what}");
        assert_eq!(client.get("/after").await.text(), "1", "{what}");
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// Frames without end that the protocol permits take neither memory nor the turn of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_by_a_server_take_no_memory() {
    let update = frames::window_update(0, 1);
    for (what, frame) in [
        ("PING", frames::ping(*b"flooding")),
        ("SETTINGS", frames::settings(&[(setting::HEADER_TABLE_SIZE, 4096)])),
        ("WINDOW_UPDATE", update),
        ("PRIORITY", frames::frame(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 16])),
        ("frames of an unknown type", frames::frame(0xbe, 0, 1, b"?")),
        ("empty DATA", frames::data(1, 0, [])),
    ] {
        let flood = frame.repeat(200_000 / frame.len());
        let flooding = origin::reacts(&[], move |_, stream, request| {
            let begun = || head(stream, 0, &[(":status", "200")]);
            let all = || [begun(), flood.repeat(5), frames::data(stream, flag::END_STREAM, "end")].concat();
            request.is_complete.then(all)
        })
        .await;
        let fine = origin::real_http2("fine").await;
        let tables = format!(
            "[[upstream]]\nname = \"fine\"\nservers = [\"h2c://{}\"]\n[[upstream]]\nname = \"flooding\"\nservers = [\"h2c://{}\"]\n\
             [[route]]\nupstream = \"fine\"\n[[route]]\npath_prefix = \"/flood\"\nupstream = \"flooding\"\n",
            fine.address, flooding.origin.address
        );
        let proxy = Proxy::configured(1, &tables).await;
        let (mut client, mut neighbour) =
            (Http2::connect(proxy.address).await, Http2::connect(proxy.address).await);
        assert_eq!(neighbour.get("/").await.text(), "fine");
        let before = proxy.resident_bytes();
        let stream = client.ask("GET", "/flood", &[]).await;
        for _ in 0..20 {
            assert_eq!(neighbour.get("/").await.text(), "fine", "{what}");
        }
        client.answer(stream).await;
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{what}: {grown} bytes more");
        drop((client, neighbour));
        assert_nothing_left(proxy).await;
    }
}
