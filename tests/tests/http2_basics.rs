//! Requests over HTTP/2 to an HTTP/1.1 origin: prefaces, interim and early responses, rules of fields, streams side by side,
//! how streams end on either side, limits, timeouts.

use std::time::Duration;

use sluice_tests::{
    client::Raw,
    http2::{
        Ended, Http2,
        frames::{self, PREFACE, code, flag, kind, setting},
        hyper,
    },
    origin::{self, Go, Origin},
    pattern,
    proxy::Proxy,
    tls::{self, BOTH, NAME},
};
use tokio::task::JoinSet;

// ---- messages ----

/// One piece with everything, and bytes one at a time: the client waits for nothing.
#[tokio::test]
async fn the_preface_and_a_request_come_in_any_pieces() {
    let origin = origin::answers(origin::ok("fine")).await;
    let proxy = Proxy::to(origin.address).await;
    let request = frames::headers(1, flag::END_STREAM, frames::get("/"));
    let all = [PREFACE, &frames::settings(&[]), &request].concat();
    for size in [all.len(), 1, 23, 24, 25] {
        let mut client = Http2::connect_silently(proxy.address).await;
        for piece in all.chunks(size) {
            client.send(piece).await;
            // It keeps the pieces apart on the wire.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let answer = client.answer(1).await;
        assert_eq!((answer.status(), &*answer.text()), (200, "fine"), "pieces of {size}");
        assert_eq!(client.settings_acks, 1, "pieces of {size}");
        client.assert_open().await;
    }
}

/// HTTP/1.1 on the same listener is what it was, and an offer of h2c by Upgrade is not accepted (RFC 9113, section 3.1).
#[tokio::test]
async fn http1_and_offers_of_h2c_on_the_same_listener() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut http2 = Http2::connect(proxy.address).await;
    let mut http1 = Raw::connect(proxy.address).await;
    assert_eq!(http2.get("/").await.text(), "real");
    assert_eq!(http1.ask("GET", "/").await.text(), "real");
    let offer = "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    http1.send(offer).await;
    let answer = http1.answer_to("GET").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "real"));
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| seen.field("http2-settings").is_none() && seen.field("upgrade").is_none())
    );
}

/// Over TLS the protocol is the one that ALPN chose, and no other.
#[tokio::test]
async fn over_tls_alpn_decides() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let config = authority.client(BOTH);
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&[], None),
    ] {
        let mut client = tls::Client::connect(proxy.address, &tls::offering(&config, offered)).await;
        assert_eq!(client.tls().alpn_protocol(), chosen, "{offered:?}");
        if chosen != Some(b"h2") {
            assert_eq!(client.ask("GET", "/").await.text(), "real", "{offered:?}");
        }
    }
    let mut client = Http2::connect_tls(proxy.address, &config).await;
    let stream = client.next_stream();
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", NAME), (":path", "/")];
    client.send(frames::headers(stream, flag::END_STREAM, frames::block(&fields))).await;
    assert_eq!(client.answer(stream).await.text(), "real");
}

#[tokio::test]
async fn interim_responses_come_before_the_final_one() {
    let origin = origin::sends_100_103_then_200().await;
    let proxy = Proxy::to(origin.address).await;
    let answer = Http2::connect(proxy.address).await.get("/").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "final"));
    let hints: Vec<_> = answer.interim.iter().filter(|head| head.first(":status") == Some("103")).collect();
    assert_eq!(hints.len(), 1, "{:?}", answer.interim);
    assert_eq!(hints[0].first("link"), Some("</style.css>; rel=preload"));
}

#[tokio::test]
async fn an_expected_100_comes_before_the_body_is_sent() {
    let origin = origin::continues().await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=30s"]).await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..2 {
        let fields = [("expect", "100-continue"), ("content-length", "4")];
        let stream = client.open("POST", "/", &fields).await;
        client.until("a 100", |all| all.stream(stream).is_some_and(|one| one.interim.len() == 1)).await;
        client.send(frames::data(stream, flag::END_STREAM, "body")).await;
        let answer = client.answer(stream).await;
        assert_eq!((answer.status(), &*answer.text(), answer.interim.len()), (200, "body", 1));
    }
}

#[tokio::test]
async fn an_unknown_expectation_is_refused() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.ask("GET", "/", &[("expect", "a-miracle")]).await;
    assert_eq!(client.answer(stream).await.status(), 417);
    assert_eq!(client.get("/").await.status(), 200);
}

/// A whole response before the upload is over, and then RST_STREAM with NO_ERROR (RFC 9113, section 8.1).
#[tokio::test]
async fn an_early_response_is_whole_and_stops_the_upload() {
    let origin = origin::early_answer().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.open("POST", "/", &[("content-length", "1000000")]).await;
    client.send(frames::data(stream, 0, [b'x'; 1000])).await;
    client
        .until("RST_STREAM after the response", |all| {
            matches!(all.stream(stream).and_then(|one| one.ended), Some(Ended::Reset(_)))
        })
        .await;
    let answer = client.stream(stream).expect("an answer").clone();
    assert_eq!((answer.status(), &*answer.text(), answer.is_complete), (403, "refused", true));
    assert_eq!(answer.ended, Some(Ended::Reset(code::NO_ERROR)));
    // What was under way is no fault.
    client.send(frames::data(stream, 0, [b'x'; 1000])).await;
    client.send(frames::data(stream, flag::END_STREAM, "end")).await;
    client.assert_open().await;
    assert_eq!(client.get("/again").await.status(), 403);
    assert!(client.go_aways.is_empty());
}

// ---- fields ----

async fn arrived(fields: &[(&str, &str)]) -> String {
    let origin = origin::answers(origin::ok("")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.next_stream();
    client.send(frames::headers(stream, flag::END_STREAM, frames::block(fields))).await;
    assert_eq!(client.answer(stream).await.status(), 200, "{fields:?}");
    origin.recorder.text()
}

#[tokio::test]
async fn cookies_are_joined_and_other_fields_are_not() {
    let cookies = [("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("x", "2"), ("cookie", "c=3")];
    let text = arrived(&frames::request("GET", "/", &cookies)).await.to_lowercase();
    assert_eq!(text.matches("\r\ncookie: ").count(), 1, "{text}");
    assert!(text.contains("\r\ncookie: a=1; b=2; c=3\r\n"), "{text}");
    assert!(text.contains("\r\nx: 1\r\n") && text.contains("\r\nx: 2\r\n"), "{text}");
}

#[tokio::test]
async fn the_authority_becomes_host() {
    for (fields, host) in [
        (&[(":authority", "one.example")][..], "one.example"),
        (&[(":authority", "one.example"), ("host", "one.example")], "one.example"),
        (&[("host", "two.example")], "two.example"),
        (&[(":authority", "one.example:8080")], "one.example:8080"),
    ] {
        let pseudo = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b=c")];
        let text = arrived(&[&pseudo, fields].concat()).await;
        assert!(text.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{text}");
        let hosts: Vec<_> = text
            .lines()
            .filter_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned))
            .collect();
        assert_eq!(hosts, [host], "{fields:?}: {text}");
    }
}

/// RFC 9113, sections 8.1.1, 8.2 and 8.3: malformed requests are stream errors, which the origin never sees.
#[tokio::test]
async fn malformed_requests_are_reset() {
    let origin = origin::answers(origin::ok("fine")).await;
    let proxy = Proxy::to(origin.address).await;
    let good = frames::request("GET", "/", &[]);
    let with = |name, value| [&good[..], &[(name, value)]].concat();
    let without = |name| good.iter().copied().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    let instead = |name, value| {
        good.iter().map(|&(found, old)| (found, if found == name { value } else { old })).collect::<Vec<_>>()
    };
    let after: Vec<_> = [&[("x", "1")], &good[..]].concat();
    let table = [
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "websocket")),
        ("te", with("te", "gzip")),
        ("a name in upper case", with("X-Upper", "1")),
        ("an empty name", with("", "1")),
        ("a space in a name", with("a b", "1")),
        ("a colon in a name", with("a:b", "1")),
        ("CR LF in a value", with("x", "1\r\ny: 2")),
        ("NUL in a value", with("x", "1\0")),
        ("a space before a value", with("x", " 1")),
        ("a space after a value", with("x", "1 ")),
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        ("an empty :path", instead(":path", "")),
        (":path without a slash", instead(":path", "index")),
        ("a space in :path", instead(":path", "/a b")),
        ("CR LF in :path", instead(":path", "/ HTTP/1.1\r\nx: y")),
        ("a method that is no token", instead(":method", "GET /x")),
        ("two :path", with(":path", "/other")),
        ("two :authority", with(":authority", "test")),
        ("an unknown pseudo-header field", with(":other", "1")),
        (":status in a request", with(":status", "200")),
        ("a pseudo-header field after a field", after),
        ("another Host", with("host", "other.example")),
        ("user information", instead(":authority", "me@test")),
        ("content without the length that was promised", with("content-length", "5")),
        ("a length that is no number", with("content-length", "0x0")),
    ];
    let mut wrong = Vec::new();
    for (what, fields) in &table {
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.next_stream();
        client.send(frames::headers(stream, flag::END_STREAM, frames::block(fields))).await;
        let answer = client.answer(stream).await;
        if answer.ended != Some(Ended::Reset(code::PROTOCOL_ERROR)) {
            wrong.push(format!("{what}: {} {:?}", answer.status(), answer.ended));
        }
        // The table of the decoder and the connection are as before.
        assert_eq!(client.get("/").await.text(), "fine", "{what}");
    }
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    let text = origin.recorder.text();
    assert_eq!(text.matches("GET / HTTP/1.1\r\n").count(), table.len(), "{text}");
}

#[tokio::test]
async fn a_body_that_differs_from_its_length_is_an_error() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    for (length, sent) in [("10", &b"short"[..]), ("3", b"longer"), ("0", b"x")] {
        let stream = client.open("POST", "/copy", &[("content-length", length)]).await;
        client.send(frames::data(stream, flag::END_STREAM, sent)).await;
        assert_eq!(client.reset_code(stream).await, code::PROTOCOL_ERROR, "{length} for {}", sent.len());
    }
    assert_eq!(client.get("/").await.text(), "real");
}

#[tokio::test]
async fn fields_of_the_connection_to_the_origin_stay_there() {
    let response = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                    X-Kept: Yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let origin = origin::answers(response).await;
    let proxy = Proxy::to(origin.address).await;
    let answer = Http2::connect(proxy.address).await.get("/").await;
    let head = answer.head.clone().expect("a head");
    for name in ["connection", "keep-alive", "x-hop", "transfer-encoding"] {
        assert_eq!(head.first(name), None, "{head:?}");
    }
    assert!(head.0.iter().all(|(name, _)| *name == name.to_lowercase()), "{head:?}");
    assert_eq!((head.first("x-kept"), &*answer.text()), (Some("Yes"), "body"));
    assert_eq!(head.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
}

// ---- streams ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_at_once_get_their_own_bytes() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let client = hyper(proxy.address).await;
    let mut streams = JoinSet::new();
    for nth in 0..100_usize {
        let client = client.clone();
        streams.spawn(async move {
            for round in 0..5 {
                let length = [0, 1, 100, 4_095, 16_384, 16_385, 70_000][(nth + round) % 7];
                let path = ["/echo", "/copy"][nth % 2];
                let (status, echo) = client.ask("POST", path, vec![nth as u8; length]).await;
                assert_eq!(status, 200);
                assert!(echo == vec![nth as u8; length], "stream {nth}, round {round}, {length} bytes");
            }
        });
    }
    streams.join_all().await;
    let counters = proxy.counters().await;
    assert_eq!((counters.requests, counters.connections), (500, 1));
}

/// They are at the origin together, before the first of them is answered.
#[tokio::test]
async fn requests_of_one_connection_are_served_side_by_side() {
    let origin = origin::answers_together(100, origin::ok("together")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(client.ask("GET", "/", &[]).await);
    }
    for stream in streams {
        assert_eq!(client.answer(stream).await.text(), "together");
    }
}

/// A stream without a window stops itself, and no other.
#[tokio::test]
async fn a_stream_that_is_not_read_stops_no_other() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 1000)]).await;
    client.gives_credit = false;
    client.send([frames::settings_ack(), frames::window_update(0, 1 << 30)].concat()).await;
    let stuck = client.ask("GET", "/bytes/5000000", &[]).await;
    client.until("a full window", |all| all.stream(stuck).is_some_and(|one| one.body.len() == 1000)).await;
    for _ in 0..20 {
        assert_eq!(client.get("/bytes/900").await.body.len(), 900);
    }
    assert_eq!(
        client.stream(stuck).expect("a part of it").body.len(),
        1000,
        "not a byte more than the window"
    );
    client.gives_credit = true;
    client.send(frames::window_update(stuck, 1 << 30)).await;
    pattern::assert_exact(&client.answer(stuck).await.body, 5_000_000);
}

/// The window of an upload whose origin reads nothing closes, and the streams beside it go on.
#[tokio::test]
async fn an_upload_that_is_not_read_stops_no_other() {
    let (slow, real) = (origin::slow_reader(Go::new()).await, origin::real("real").await);
    let tables = format!(
        "[[upstream]]\nname = \"slow\"\nservers = [\"http://{}\"]\n[[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
         [[route]]\npath_prefix = \"/slow\"\nupstream = \"slow\"\n[[route]]\nupstream = \"real\"\n",
        slow.address, real.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut client = Http2::connect(proxy.address).await;
    client.until("settings", |all| !all.settings.is_empty()).await;
    let stuck = client.open("POST", "/slow", &[]).await;
    // As much as its window takes and no more, whatever the origin's kernel takes of it.
    let window = client.settings.get(&setting::INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535);
    client.upload_part(stuck, &pattern::bytes(window as usize)).await.expect("it fits into the window");
    for length in [0, 1, 30_000, 300_000] {
        let stream = client.open("POST", "/copy", &[]).await;
        client.upload(stream, &pattern::bytes(length)).await.expect("the connection's window opens again");
        pattern::assert_exact(&client.answer(stream).await.body, length);
    }
    assert!(client.stream(stuck).is_none(), "the upload goes on");
}

/// Whether the origin has not answered yet, or the client takes no answer.
#[tokio::test]
async fn more_streams_than_permitted_are_refused() {
    let (silent, real) = (origin::never_answers().await, origin::real("real").await);
    for (origin, is_tls) in
        [(silent.address, false), (silent.address, true), (real.address, false), (real.address, true)]
    {
        let (plain, secure);
        let mut client = if is_tls {
            secure = tls::proxy_to(origin, &[]).await;
            Http2::connect_tls(secure.0.address, &secure.1.client(BOTH)).await
        } else {
            plain = Proxy::to(origin).await;
            Http2::connect(plain.address).await
        };
        client.gives_credit = false;
        client
            .send([frames::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]), frames::settings_ack()].concat())
            .await;
        client.until("settings", |all| all.settings_acks == 2).await;
        let limit = client.settings[&setting::MAX_CONCURRENT_STREAMS];
        assert!((1..=1000).contains(&limit), "{limit}");
        let scheme = if is_tls { "https" } else { "http" };
        let authority = if is_tls { NAME } else { "test" };
        let fields =
            [(":method", "GET"), (":scheme", scheme), (":authority", authority), (":path", "/bytes/10")];
        for _ in 0..limit {
            let stream = client.next_stream();
            client.send(frames::headers(stream, flag::END_STREAM, frames::block(&fields))).await;
        }
        let beyond = client.next_stream();
        client.send(frames::headers(beyond, flag::END_STREAM, frames::block(&fields))).await;
        assert_eq!(client.reset_code(beyond).await, code::REFUSED_STREAM);
        client.assert_open().await;
    }
}

// ---- ends ----

/// Waits until every connection to the origin has ended.
async fn all_ended(origin: &Origin, count: usize) {
    let is_over = |all: &[origin::Traffic]| all.len() == count && all.iter().all(|one| one.ended);
    origin.recorder.wait_for("the end of the requests at the origin", is_over).await;
}

#[tokio::test]
async fn a_reset_by_the_client_cancels_the_request_at_the_origin() {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let streams = [client.ask("GET", "/a", &[]).await, client.open("POST", "/b", &[]).await];
    origin
        .recorder
        .wait_for("both", |all| all.len() == 2 && all.iter().all(|one| !one.bytes.is_empty()))
        .await;
    for stream in streams {
        client.send(frames::reset(stream, code::CANCEL)).await;
    }
    all_ended(&origin, 2).await;
    client.assert_open().await;
    proxy.counters_until("no stream", |now| now.upstream_connections == 0 && now.tasks_busy <= 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_all_its_requests() {
    for by_reset in [false, true] {
        let origin = origin::stalls_after(1000).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..10 {
            client.ask("GET", "/", &[]).await;
        }
        client
            .until("their begin", |all| {
                all.streams.values().filter(|one| one.body.len() == 1000).count() == 10
            })
            .await;
        if by_reset {
            client.reset_connection();
        } else {
            drop(client);
        }
        all_ended(&origin, 10).await;
        proxy.counters_until("all is over", |now| now.connections == 0 && now.tasks_busy == 0).await;
        proxy.drain().await.assert_clean();
    }
}

/// Never END_STREAM: the client must not take a part for the whole.
#[tokio::test]
async fn a_response_that_is_cut_ends_with_a_reset() {
    let go = Go::new();
    for origin in [
        origin::closes_mid_body(1000).await,
        origin::closes_mid_chunks(1000).await,
        origin::resets_mid_body(1000, go.clone()).await,
        origin::breaks_mid_chunks(true, go.clone()).await,
    ] {
        let proxy = Proxy::to(origin.address).await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.ask("GET", "/", &[]).await;
        client.until("a part", |all| all.stream(stream).is_some_and(|one| !one.body.is_empty())).await;
        go.steps(1);
        let answer = client.answer(stream).await;
        assert_eq!(answer.status(), 200);
        assert!(matches!(answer.ended, Some(Ended::Reset(code)) if code != code::NO_ERROR), "{answer:?}");
        assert!(!answer.is_complete);
        client.assert_open().await;
    }
}

#[tokio::test]
async fn a_response_that_never_began_is_a_502() {
    for origin in
        [origin::closes_after_accept().await, origin::resets_before_head().await, origin::garbage().await]
    {
        let proxy = Proxy::to(origin.address).await;
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..2 {
            let answer = client.get("/").await;
            assert_eq!((answer.status(), answer.ended), (502, Some(Ended::Properly)));
        }
        client.assert_open().await;
    }
    let refusing = origin::refusing();
    let proxy = Proxy::to(refusing.address).await;
    assert_eq!(Http2::connect(proxy.address).await.get("/").await.status(), 502);
}

/// GOAWAY, then the responses that were under way (RFC 9113, section 6.8), then the end.
#[tokio::test]
async fn a_drain_ends_what_was_begun() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let (mut idle, mut busy) = (Http2::connect(proxy.address).await, Http2::connect(proxy.address).await);
    idle.assert_open().await;
    let stream = busy.ask("GET", "/", &[]).await;
    origin.recorder.wait_for("the request", |all| all.iter().any(|one| !one.bytes.is_empty())).await;
    let draining = tokio::spawn(proxy.drain());
    assert_eq!(idle.closed().await, Some(code::NO_ERROR));
    busy.until("GOAWAY", |all| !all.go_aways.is_empty()).await;
    go.steps(1);
    assert_eq!(busy.answer(stream).await.status(), 200);
    assert_eq!(busy.closed().await, Some(code::NO_ERROR));
    assert!(busy.go_aways.iter().all(|(last, _)| *last >= stream), "{:?}", busy.go_aways);
    draining.await.expect("no panic").assert_clean();
}

// ---- limits and timeouts ----

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_and_the_connection_goes_on() {
    let origin = origin::real("real").await;
    let flags = ["--limit-head-bytes=8KiB", "--limit-request-line-bytes=2000", "--limit-header-fields=20"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut client = Http2::connect(proxy.address).await;
    client.until("settings", |all| !all.settings.is_empty()).await;
    assert_eq!(client.settings.get(&setting::MAX_HEADER_LIST_SIZE), Some(&8192), "it is announced");
    let (long, path) = ("x".repeat(9000), format!("/{}", "p".repeat(3000)));
    let names: Vec<String> = (0..30).map(|nth| format!("x-{nth}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    // Crumbs are one field; each has its overhead nevertheless (RFC 9113, sections 8.2.3 and 10.5.1).
    let crumbs = vec![("cookie", "a=1"); 30];
    let crumbled = vec![("cookie", "a=1"); 250];
    // Of 40 bytes each by RFC 9113, section 10.5.1.
    let small = vec![("a", "bcdefgh"); 19];
    for (path, fields, status) in [
        ("/", vec![("x-long", &*long)], 431),
        ("/", many, 431),
        ("/", crumbs, 200),
        ("/", crumbled, 431),
        (&*path, vec![], 414),
        ("/", small[..10].to_vec(), 200),
    ] {
        let stream = client.ask("GET", path, &fields).await;
        let answer = client.answer(stream).await;
        assert_eq!(answer.status(), status, "{} fields, the first {:?}", fields.len(), fields.first());
    }
    assert_eq!(origin.seen().len(), 2);
    assert!(client.go_aways.is_empty());
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-body-bytes=1000"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let announced = client.open("POST", "/copy", &[("content-length", "1001")]).await;
    client.until("a response", |all| all.stream(announced).is_some_and(|one| one.status() == 413)).await;
    let surprising = client.open("POST", "/copy", &[]).await;
    client.send(frames::data(surprising, 0, [b'x'; 600])).await;
    client.send(frames::data(surprising, 0, [b'x'; 600])).await;
    client.until("a response", |all| all.stream(surprising).is_some_and(|one| one.status() == 413)).await;
    let fitting = client.open("POST", "/copy", &[]).await;
    client.send(frames::data(fitting, flag::END_STREAM, [b'x'; 1000])).await;
    assert_eq!(client.answer(fitting).await.body.len(), 1000);
}

#[tokio::test]
async fn a_body_that_stalls_is_a_408_and_a_server_that_stalls_a_504() {
    let origin = origin::never_answers().await;
    let flags = ["--timeout-body-idle=300ms", "--timeout-upstream-response=400ms"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut client = Http2::connect(proxy.address).await;
    let upload = client.open("POST", "/", &[("content-length", "10")]).await;
    client.send(frames::data(upload, 0, "five5")).await;
    let waiting = client.ask("GET", "/", &[]).await;
    client.until("a 408", |all| all.stream(upload).is_some_and(|one| one.status() == 408)).await;
    assert_eq!(client.answer(waiting).await.status(), 504);
    client.assert_open().await;
}

/// Without a request, between requests, in the preface, in a head: each ends.
#[tokio::test]
async fn silent_connections_end() {
    let origin = origin::real("real").await;
    let flags = ["--timeout-keep-alive-idle=300ms", "--timeout-request-head=400ms"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut idle = Http2::connect(proxy.address).await;
    assert_eq!(idle.get("/").await.status(), 200);
    assert_eq!(idle.closed().await, Some(code::NO_ERROR), "after a request");
    let mut fresh = Http2::connect(proxy.address).await;
    assert_eq!(fresh.closed().await, Some(code::NO_ERROR), "without a request");
    let mut cut = Http2::connect_silently(proxy.address).await;
    cut.send(&PREFACE[..10]).await;
    cut.closed().await;
    let mut begun = Http2::connect(proxy.address).await;
    begun.send(frames::frame(kind::HEADERS, flag::END_STREAM, 1, frames::get("/"))).await;
    begun.closed().await;
    assert!(begun.streams.is_empty(), "an answer to a part of a request");
    proxy.counters_until("all have ended", |now| now.connections == 0).await;
}

/// A stream counts as activity, however long its response takes.
#[tokio::test]
async fn a_connection_with_a_stream_is_not_idle() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-keep-alive-idle=200ms"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.ask("GET", "/", &[]).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    go.steps(1);
    assert_eq!(client.answer(stream).await.status(), 200);
}

/// Small frames, padding and priorities change nothing.
#[tokio::test]
async fn padding_and_priority_are_skipped() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.next_stream();
    let block = frames::block(&frames::request("POST", "/copy", &[]));
    let padded = [&[3][..], &[0, 0, 0, 0, 16], &block, &[0; 3]].concat();
    client.send(frames::headers(stream, flag::PADDED | flag::PRIORITY, padded)).await;
    for nth in 0..100_u8 {
        let padded = [&[nth][..], &[nth; 5], &vec![0; usize::from(nth)]].concat();
        client.send(frames::data(stream, flag::PADDED, padded)).await;
    }
    client.send(frames::data(stream, flag::END_STREAM, [])).await;
    let expected: Vec<u8> = (0..100).flat_map(|nth| [nth; 5]).collect();
    assert!(client.answer(stream).await.body == expected);
}

/// Field blocks in many CONTINUATION frames, and heads that use the table.
#[tokio::test]
async fn heads_in_pieces_and_by_the_table() {
    let origin = origin::answers(origin::ok("fine")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let block = [frames::get("/pieces"), frames::indexed_literal("x-kept", "in the table")].concat();
    let third = block.len() / 3;
    let head = frames::frame(kind::HEADERS, flag::END_STREAM, 1, &block[..third]);
    let middle = frames::frame(kind::CONTINUATION, 0, 1, &block[third..2 * third]);
    let last = frames::frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[2 * third..]);
    for piece in [head, middle, last] {
        client.send(piece).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(client.answer(1).await.text(), "fine");
    let block = [frames::get("/table"), vec![0x80 | 62]].concat();
    client.send(frames::headers(3, flag::END_STREAM, block)).await;
    assert_eq!(client.answer(3).await.text(), "fine");
    let text = origin.recorder.text().to_lowercase();
    assert_eq!(text.matches("\r\nx-kept: in the table\r\n").count(), 2, "{text}");
}

/// Both protocols meet the same rules of identity.
#[tokio::test]
async fn forwarding_fields_are_those_of_http1() {
    let origin = origin::answers(origin::ok("")).await;
    let proxy = Proxy::to(origin.address).await;
    let spoofed = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.ask("GET", "/", &spoofed).await;
    assert_eq!(client.answer(stream).await.status(), 200);
    let text = origin.recorder.text().to_lowercase();
    assert!(text.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{text}");
    assert!(text.contains("\r\nx-forwarded-proto: http\r\n") && !text.contains("192.0.2.1"), "{text}");
}
