//! HTTP/2 to servers: trailers, interim and early responses, fields, how streams end on either side, and what stops one stream and
//! no other.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::{HeaderMap, body::Frame as BodyFrame};
use sluice_tests::{
    client::{Raw, exchange},
    http2::{
        Answer, Ended, Http2,
        frames::{self, code, flag, setting},
        hyper,
    },
    origin::{self, Reacting},
    pattern,
    upstream::{assert_nothing_left, by_connection, path, proxy_to},
    within,
};

// ---- messages ----

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
        request
            .is_complete
            .then(|| [interim("103"), interim("102"), origin::answer(stream, "final")].concat())
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
        http.try_send(origin::answer(1, "final")).await?;
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
        let early = || [origin::answer(stream, "early"), frames::reset(stream, code::NO_ERROR)].concat();
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
                Some([late, origin::answer(stream, "late")].concat())
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
                        http.try_send(origin::answer(stream, &length.to_string())).await?;
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
