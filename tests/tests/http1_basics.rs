//! What HTTP/1.1 is made of: methods, the ways in which bodies end, versions, persistence and pipelining.

use std::time::Duration;

use sluice_tests::{
    client::{self, Raw},
    origin, pattern,
    proxy::Proxy,
    wire::Framing,
};

#[tokio::test]
async fn every_method_reaches_the_origin() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let methods = ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "PROPFIND"];
    for method in methods {
        assert_eq!(client.ask(method, "/any").await.status(), 200, "{method}");
    }
    let seen: Vec<_> = origin.seen().iter().map(|seen| seen.method.to_string()).collect();
    assert_eq!(seen, methods);
}

/// RFC 9110 section 7.6.2.
#[tokio::test]
async fn max_forwards_is_counted_down_and_ends_here_at_zero() {
    let origin = origin::echoes_trailers().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for (method, status) in [("OPTIONS", 200), ("TRACE", 501)] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n")).await;
        let answer = client.answer_to(method).await;
        assert_eq!((answer.status(), answer.field("server")), (status, Some("sluice")), "{method}");
    }
    assert_eq!(origin.recorder.text(), "");
    client.send("OPTIONS / HTTP/1.1\r\nHost: test\r\nMax-Forwards: 2\r\n\r\n").await;
    origin
        .recorder
        .wait_for("the request", |all| all.iter().any(|one| one.bytes.ends_with(b"\r\n\r\n")))
        .await;
    assert!(origin.recorder.text().contains("Max-Forwards: 1\r\n"));
}

#[tokio::test]
async fn bodies_with_a_length_pass_both_ways() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for (method, length) in [("POST", 0), ("PUT", 1), ("POST", 8192), ("PUT", 100_000), ("DELETE", 17)] {
        let head = format!("{method} /copy HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        client.send(head).await;
        client.send(pattern::bytes(length)).await;
        let answer = client.answer_to(method).await;
        assert_eq!((answer.status(), answer.framing), (200, Framing::Length(length as u64)));
        pattern::assert_exact(&answer.body, length);
    }
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways_with_their_trailers() {
    let origin = origin::echoes_trailers().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..2 {
        let upload = "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
            Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n05\r\nworld\r\n0\r\nX-Sum: 11\r\n\r\n";
        client.send(upload).await;
        let answer = client.answer_to("POST").await;
        assert_eq!((&*answer.text(), answer.framing), ("hello world", Framing::Chunked));
        assert_eq!(answer.trailers.first("x-sum"), Some("11"), "trailers of the response");
    }
    let arrived = origin.recorder.text().to_lowercase();
    assert_eq!(arrived.matches("x-sum: 11\r\n\r\n").count(), 2, "trailers of the request: {arrived}");
    assert!(!arrived.contains("content-length"), "{arrived}");
}

#[tokio::test]
async fn chunk_extensions_are_read_over() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let upload = "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;name=value\r\nabc\r\nA;quoted=\"a;b\"\r\n0123456789\r\n0;last\r\n\r\n";
    assert_eq!(client::exchange(proxy.address, upload).await.text(), "abc0123456789");
}

#[tokio::test]
async fn a_chunked_answer_of_unknown_length_stays_whole() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for length in [0, 1, 65_536, 1_000_000] {
        let answer = client.ask("GET", &format!("/chunked/{length}")).await;
        assert_eq!(answer.framing, Framing::Chunked);
        pattern::assert_exact(&answer.body, length);
    }
}

#[tokio::test]
async fn head_tells_the_length_and_sends_no_body() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let answer = client.ask("HEAD", "/bytes/1000").await;
    assert_eq!(answer.field("content-length"), Some("1000"));
    assert_eq!(client.ask("HEAD", "/chunked/1000").await.status(), 200);
    client.assert_open().await;
}

#[tokio::test]
async fn answers_204_and_304_have_no_body() {
    for head in
        ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"]
    {
        let origin = origin::answers(head).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        for _ in 0..3 {
            let answer = client.ask("GET", "/").await;
            assert_eq!(
                (answer.status().to_string(), answer.framing),
                (head[9..12].to_owned(), Framing::Empty)
            );
            assert_eq!(answer.field("transfer-encoding"), None);
        }
        assert_eq!(origin.recorder.connections(), 1, "an answer without a body frees its connection");
    }
}

#[tokio::test]
async fn http10_is_answered_and_closed() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /bytes/100 HTTP/1.0\r\n\r\n").await;
    let answer = client.answer_to("GET").await;
    pattern::assert_exact(&answer.body, 100);
    client.assert_closed().await;
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
    assert!(origin.only().field("host").is_some(), "a proxy sends Host even if the client did not");
}

#[tokio::test]
async fn http10_with_keep_alive_stays_open() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        client.send("GET /bytes/100 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = client.answer_to("GET").await;
        assert!(answer.head.fields.lists("connection", "keep-alive"), "{:?}", answer.head);
        assert_eq!(answer.body.len(), 100);
    }
}

#[tokio::test]
async fn http10_gets_a_chunked_answer_without_chunks() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    for connection in ["close", "keep-alive"] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET /chunked/50000 HTTP/1.0\r\nConnection: {connection}\r\n\r\n")).await;
        let answer = client.answer_to("GET").await;
        assert_eq!((answer.framing, answer.field("transfer-encoding")), (Framing::UntilClose, None));
        pattern::assert_exact(&answer.body, 50_000);
    }
}

#[tokio::test]
async fn an_http10_origin_is_understood() {
    let origin = origin::http10().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let answer = client.ask("GET", "/").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "from 1995"));
    assert!(
        answer.head.start.starts_with("HTTP/1.1 "),
        "the version is the proxy's own: {}",
        answer.head.start
    );
}

#[tokio::test]
async fn connections_are_kept_and_reused_on_both_sides() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..10 {
        assert_eq!(client.ask("GET", "/").await.text(), "real");
    }
    let counters = proxy.counters().await;
    assert_eq!((counters.connections, counters.requests), (1, 10), "{counters:?}");
    assert_eq!((counters.upstream_connects, counters.upstream_reuses), (1, 9), "{counters:?}");
}

#[tokio::test]
async fn a_connection_closes_after_its_last_permitted_request() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--limit-requests-per-connection=3"]).await;
    let mut client = Raw::connect(proxy.address).await;
    for last in [false, false, true] {
        let answer = client.ask("GET", "/").await;
        assert_eq!(answer.head.fields.lists("connection", "close"), last, "{:?}", answer.head);
    }
    client.assert_closed().await;
}

#[tokio::test]
async fn idle_upstream_connections_are_kept_for_a_time() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-idle=300ms"]).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "ok");
    assert_eq!(proxy.counters().await.upstream_connections, 1);
    origin.recorder.wait_for("the end of the idle connection", |all| all[0].ended).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "ok");
    assert_eq!(origin.recorder.connections(), 2);
}

#[tokio::test]
async fn no_upstream_connection_is_kept_where_none_may_be() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-upstream-idle-connections=0"]).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/").await.text(), "ok");
    }
    assert_eq!(origin.recorder.connections(), 3);
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\nGET /late HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let answer = client.answer_to("GET").await;
    assert!(answer.head.fields.lists("connection", "close"), "{:?}", answer.head);
    client.assert_closed().await;
    assert_eq!(origin.only().target, "/", "what follows a last request is not a request");
}

#[tokio::test]
async fn a_client_outlives_the_connection_close_of_an_origin() {
    let origin =
        origin::answers_and_closes("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..5 {
        let answer = client.ask("GET", "/").await;
        assert_eq!(answer.text(), "ok");
        assert!(!answer.head.fields.lists("connection", "close"), "{:?}", answer.head);
    }
    assert_eq!(origin.recorder.connections(), 5);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let requests: String =
        (0..20).map(|n| format!("GET /fill/{n}/{} HTTP/1.1\r\nHost: test\r\n\r\n", n * 700)).collect();
    for piece in [requests.len(), 100, 7] {
        let (mut answers, mut client) = Raw::connect(proxy.address).await.split();
        let sending = async {
            for piece in requests.as_bytes().chunks(piece) {
                tokio::io::AsyncWriteExt::write_all(&mut client, piece).await.unwrap();
            }
        };
        let reading = async {
            for n in 0..20 {
                let answer = answers.response("GET").await.unwrap();
                assert_eq!(answer.body, vec![n as u8; n * 700], "answer {n} in pieces of {piece}");
            }
        };
        sluice_tests::within("20 answers", async { tokio::join!(sending, reading) }).await;
    }
}

#[tokio::test]
async fn pipelined_bodies_stay_with_their_requests() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client
        .send(
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nfirst\
             POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n\
             HEAD /bytes/9 HTTP/1.1\r\nHost: test\r\n\r\n\
             POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nfourth",
        )
        .await;
    for (method, body) in [("POST", "first"), ("POST", "second"), ("HEAD", ""), ("POST", "fourth")] {
        assert_eq!(client.answer_to(method).await.text(), body);
    }
}

#[tokio::test]
async fn wherever_requests_are_split_the_answers_are_the_same() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let requests = "POST /copy HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello world\
        GET /bytes/3 HTTP/1.1\r\nHost: test\r\nX-Long: 0123456789\r\n\r\n\
        POST /copy HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
        1;a=b\r\nh\r\nA\r\nello world\r\n0\r\nX-Sum: 11\r\n\r\n\
        HEAD /bytes/5 HTTP/1.1\r\nHost: test\r\n\r\n\
        PUT /copy HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nend";
    for first in 1..requests.len() {
        let mut client = Raw::connect(proxy.address).await;
        let second = first + (requests.len() - first) / 3;
        for piece in [&requests[..first], &requests[first..second], &requests[second..]] {
            client.drip(piece, requests.len(), Duration::from_micros(100)).await.unwrap();
        }
        let bodies = [
            ("POST", "hello world"),
            ("GET", "\0\u{1}\u{2}"),
            ("POST", "hello world"),
            ("HEAD", ""),
            ("PUT", "end"),
        ];
        for (method, body) in bodies {
            let answer = client.answer_to(method).await;
            assert_eq!((answer.status(), &*answer.text()), (200, body), "split at {first} and {second}");
        }
    }
}

#[tokio::test]
async fn bodies_around_the_sizes_of_buffers_pass() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for size in [4, 8, 16, 32, 48, 64, 128, 256].map(|kib| kib << 10) {
        // A head of 100 bytes or so in the same buffer moves the boundary.
        for length in [size - 200, size - 1, size, size + 1] {
            let sized = format!("Content-Length: {length}\r\n\r\n");
            let body = pattern::bytes(length);
            client
                .send([format!("POST /copy HTTP/1.1\r\nHost: test\r\n{sized}").as_bytes(), &body].concat())
                .await;
            pattern::assert_exact(&client.answer_to("POST").await.body, length);
            let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
            let head = format!("POST /copy HTTP/1.1\r\nHost: test\r\n{chunked}");
            client.send([head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()).await;
            pattern::assert_exact(&client.answer_to("POST").await.body, length);
            pattern::assert_exact(&client.ask("GET", &format!("/chunked/{length}")).await.body, length);
        }
    }
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let request =
        "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.drip(request, 1, Duration::from_millis(1)).await.unwrap();
    assert_eq!(client.answer_to("POST").await.text(), "abc");
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    let origin =
        origin::drips("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/").await.text(), "abc");
    client.assert_open().await;
}

#[tokio::test]
async fn an_empty_line_before_the_request_is_ignored() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
    let answer = client::exchange(proxy.address, "\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(answer.await.status(), 200);
}

#[tokio::test]
async fn an_absolute_target_is_accepted_and_forwarded_as_a_path() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    let request = "GET http://test/path?query HTTP/1.1\r\nHost: test\r\n\r\n";
    assert_eq!(client::exchange(proxy.address, request).await.status(), 200);
    let seen = origin.only();
    assert_eq!((&*seen.target, seen.field("host")), ("/path?query", Some("test")));
}
