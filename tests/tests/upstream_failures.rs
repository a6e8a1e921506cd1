//! Origins that fail in every phase: what the client gets, and what it must never get.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sluice_tests::{
    client::{self, Raw},
    origin::{self, Go, Origin},
    pattern,
    proxy::Proxy,
    wire::{Framing, Response},
    within,
};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn refused_is_502() {
    let refusing = origin::refusing();
    let proxy = Proxy::to(refusing.address).await;
    for _ in 0..3 {
        // A server that is known to refuse may be called unavailable.
        assert_ours(&client::get(proxy.address, "/").await, &[502, 503]);
    }
}

#[tokio::test]
async fn a_group_without_a_working_server_answers_at_once() {
    let refusing = [origin::refusing(), origin::refusing()];
    let [a, b] = refusing.each_ref().map(|refusing| format!("http://{}", refusing.address));
    let flags = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &a, "--upstream", &b];
    let proxy = Proxy::start(&[&flags[..], &["--timeout-upstream-connect", "1m"]].concat()).await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_ours(&client::get(proxy.address, "/").await, &[502, 503]);
    }
    assert!(begun.elapsed() < Duration::from_secs(55), "a connection was waited for: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_dead_server_of_a_group_is_passed_over() {
    let (refusing, alive) = (origin::refusing(), origin::real("alive").await);
    let [a, b] = [refusing.address, alive.address].map(|address| format!("http://{address}"));
    let flags = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &a, "--upstream", &b];
    let proxy = Proxy::start(&flags).await;
    let mut client = Raw::connect(proxy.address).await;
    for nth in 0..10 {
        // Nothing was sent to the server that refused, so asking the other one is safe.
        assert_eq!(client.ask("GET", "/").await.text(), "alive", "request {nth}");
    }
}

#[tokio::test]
async fn a_connect_that_hangs_is_504() {
    let unreachable = origin::unreachable().await;
    let proxy = Proxy::to_with(unreachable.address, &["--timeout-upstream-connect=300ms"]).await;
    let begun = Instant::now();
    assert_ours(&client::get(proxy.address, "/").await, &[504]);
    assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_504() {
    for origin in [origin::never_answers().await, origin::stalls_in_the_head().await] {
        let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-response=300ms"]).await;
        let begun = Instant::now();
        assert_ours(&client::get(proxy.address, "/").await, &[504]);
        assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
        origin.recorder.wait_for("the end of the abandoned connection", |all| all[0].ended).await;
    }
}

#[tokio::test]
async fn an_end_before_the_head_is_502() {
    for origin in [origin::closes_after_accept().await, origin::resets_before_head().await] {
        let proxy = Proxy::to(origin.address).await;
        for method in ["GET", "POST"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nok");
            assert_ours(&client::exchange(proxy.address, request).await, &[502]);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_502() {
    assert_502(origin::garbage().await, "garbage").await;
}

/// Heads that must not be passed on, each with its fault.
#[rustfmt::skip]
const BAD_ANSWERS: &[(&str, &str)] = &[
    ("another version",       "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("no version",            "200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("two digits",            "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    ("four digits",           "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    ("letters",               "HTTP/1.1 2xx OK\r\nContent-Length: 0\r\n\r\n"),
    ("below 100",             "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
    ("unsolicited 101",     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    ("a length and chunks",   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths",           "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("a list of lengths",     "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab"),
    ("a signed length",       "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab"),
    ("a negative length",     "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nab"),
    ("a length too large",    "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\na"),
    ("an unknown coding",     "HTTP/1.1 200 OK\r\nTransfer-Encoding: br, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last",      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunks in HTTP/1.0",    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("no colon",              "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n"),
    ("a space before a colon","HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 0\r\n\r\n"),
    ("NUL in a value",        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
    ("a bare CR in a value",  "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"),
];

#[tokio::test]
async fn a_malformed_head_is_502() {
    let mut wrong = Vec::new();
    for (name, answer) in BAD_ANSWERS {
        let origin = origin::answers_and_closes(*answer).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        match client.response("GET").await {
            Ok(answer) if answer.status() == 502 => {}
            Ok(answer) => wrong.push(format!("{name}: {}", answer.head.start)),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "instead of 502:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_oversized_head_is_502() {
    let field = format!("X: {}\r\n", "x".repeat(50_000));
    let many = "X: 1\r\n".repeat(5000);
    for fields in [field, many] {
        let origin = origin::answers(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n")).await;
        assert_502(origin, "an oversized head").await;
    }
}

#[tokio::test]
async fn a_body_that_is_cut_is_never_whole() {
    let sent = 5000;
    for origin in [origin::closes_mid_body(sent).await, origin::closes_mid_chunks(sent).await] {
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let framing = client.head().await.response_framing("GET").unwrap();
        let mut check = pattern::Check::default();
        let cut = client.body_to(framing, |piece| check.feed(piece)).await.unwrap_err();
        assert_is_cut(cut.kind());
        assert!(check.seen() <= sent as u64);
    }
}

#[tokio::test]
async fn a_reset_mid_body_is_passed_on() {
    let (sent, go) = (5000, Go::new());
    let origin = origin::resets_mid_body(sent, go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head().await.status().unwrap(), 200);
    client.body_to(Framing::Length(sent as u64), |_| ()).await.unwrap();
    go.steps(1);
    let rest = Framing::Length((origin::PROMISED - sent) as u64);
    assert_is_cut(client.body_to(rest, |_| ()).await.unwrap_err().kind());
}

#[tokio::test]
async fn a_cut_is_a_reset_where_the_end_of_the_connection_would_be_the_end_of_the_body() {
    let origin = origin::closes_mid_chunks(5000).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response("GET").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_body_that_stalls_is_cut() {
    let origin = origin::stalls_after(5000).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-body-idle=300ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_is_cut(client.response("GET").await.unwrap_err().kind());
    origin.recorder.wait_for("the end of the stalled connection", |all| all[0].ended).await;
}

#[tokio::test]
async fn a_bad_chunk_mid_body_is_a_cut() {
    // Seen with the head, it is a 502. Once the client has the head and the first chunk there is only the cut.
    for is_later in [false, true] {
        let go = Go::new();
        let origin = origin::breaks_mid_chunks(is_later, go.clone()).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        if is_later {
            assert_eq!(client.head().await.status().unwrap(), 200);
            assert_eq!(client.some().await.unwrap().expect("the first chunk"), "3\r\nabc\r\n");
            go.steps(1);
            match client.some().await {
                Ok(more) => assert_eq!(more, None, "bytes behind the good chunk"),
                Err(error) => assert_is_cut(error.kind()),
            }
        } else {
            assert_ours(&client.answer_to("GET").await, &[502]);
        }
        proxy
            .counters_until("the broken connection is not pooled", |now| now.upstream_connections == 0)
            .await;
        let counters = proxy.counters().await;
        let counted = ["upstream_bad_responses", "upstream_truncated", "local_responses"]
            .map(|name| counters.named(name));
        assert_eq!(counted, if is_later { [0, 1, 0] } else { [1, 0, 1] });
    }
}

#[tokio::test]
async fn a_body_until_close_ends_cleanly() {
    let origin = origin::until_close_body("until the end").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let answer = client.ask("GET", "/").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "until the end"));
}

#[tokio::test]
async fn what_follows_an_answer_is_not_the_next_answer() {
    let poisoned = format!("{}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", origin::ok("good"));
    let origin = origin::answers(poisoned).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for nth in 0..5 {
        assert_eq!(client.ask("GET", "/").await.text(), "good", "answer {nth}");
    }
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// What a server sends unsolicited, right behind an answer or later, answers no request.
#[tokio::test]
async fn what_an_idle_server_says_is_not_the_next_answer() {
    for (pause_ms, poison) in [
        (0, POISON),
        (50, POISON),
        (0, "HTTP/1.1 100 Continue\r\n\r\n"),
        (50, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        (50, "\r\n"),
        (50, "H"),
    ] {
        for method in ["GET", "POST"] {
            let go = Go::new();
            let origin = origin::speaks_unasked(1, poison, go.clone()).await;
            let proxy = Proxy::to(origin.address).await;
            assert_eq!(client::get(proxy.address, "/").await.text(), "connection 0");
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            go.steps(1);
            proxy.counters_until("the connection is closed", |now| now.upstream_connections == 0).await;
            let answer = Raw::connect(proxy.address).await.ask(method, "/").await;
            assert_eq!(answer.text(), "connection 1", "{method} after {pause_ms} ms and {poison:?}");
        }
    }
}

/// The request and what the server sent before it wait for the proxy together, in either order.
#[tokio::test]
async fn what_came_before_a_request_was_sent_is_not_its_answer() {
    let get = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
    let streamed = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nx";
    for is_request_first in [false, true] {
        for (request, rest, statuses) in
            [(get, "", &[200][..]), (post, "", &[200, 502]), (streamed, "x", &[200, 502])]
        {
            let go = Go::new();
            let origin = origin::speaks_unasked(2, POISON, go.clone()).await;
            let proxy = Proxy::to(origin.address).await;
            let mut client = Raw::connect(proxy.address).await;
            for _ in 0..2 {
                assert_eq!(client.ask("GET", "/").await.text(), "connection 0");
            }
            // Both lie in the proxy's sockets before it goes on; the pauses keep them in order.
            let pause = || tokio::time::sleep(Duration::from_millis(50));
            proxy.signal(Signal::STOP);
            pause().await;
            if is_request_first {
                client.send(request).await;
                pause().await;
            }
            go.steps(1);
            pause().await;
            if !is_request_first {
                client.send(request).await;
                pause().await;
            }
            proxy.signal(Signal::CONT);
            let _ = client.try_send(rest).await;
            let answer = client.answer_to("GET").await;
            let what = format!("{request:?}, request first: {is_request_first}");
            assert!(statuses.contains(&answer.status()), "{what}: {:?}", answer.head);
            assert!(answer.status() != 200 || answer.text() == "connection 1", "{what}: {}", answer.text());
            assert_eq!(client::get(proxy.address, "/").await.text(), "connection 1", "{what}");
        }
    }
}

#[tokio::test]
async fn a_body_where_none_may_be_is_not_the_next_answer() {
    let poison = "Content-Length: 39\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n ";
    for (method, status, wanted) in
        [("HEAD", "200 OK", 200), ("GET", "204 No Content", 502), ("GET", "304 Not Modified", 304)]
    {
        let first = format!("HTTP/1.1 {status}\r\n{poison}");
        let origin = origin::answers_first(first, origin::ok("good")).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(client.ask(method, "/").await.status(), wanted, "{method} {status}");
        // The connection with more on it is not used again, and the client's is.
        assert_eq!(client.ask("GET", "/").await.text(), "good", "{method} {status}");
        assert_eq!(proxy.counters().await.upstream_connects, 2, "{method} {status}");
    }
}

#[tokio::test]
async fn a_closed_idle_connection_is_not_used() {
    let origin = origin::closes_idle_after_first_answer().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for nth in 0..5 {
        let body = format!("n={nth}");
        client
            .send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
            .await;
        assert_eq!(client.answer_to("POST").await.text(), "once", "request {nth}");
        proxy
            .counters_until("the pool lets go of a closed connection", |now| now.upstream_connections == 0)
            .await;
    }
}

#[tokio::test]
async fn a_get_on_a_stale_connection_is_sent_again() {
    let origin = origin::dies_on_reuse().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for nth in 0..5 {
        assert_eq!(client.ask("GET", "/").await.text(), "alive", "request {nth}");
    }
    assert_eq!((proxy.counters().await.upstream_retries, origin.recorder.connections()), (1, 2));
}

#[tokio::test]
async fn a_post_on_a_stale_connection_is_sent_once() {
    let origin = origin::dies_on_reuse().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/").await.text(), "alive");
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
    client.send("POST /once HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_ours(&client.answer_to("POST").await, &[502]);
    let arrived = origin.recorder.text();
    assert_eq!(arrived.matches("POST /once").count(), 1, "the origin may have acted on it: {arrived}");
}

#[tokio::test]
async fn posts_racing_with_the_close_of_their_connection_stay_whole() {
    let origin = origin::closes_idle_after_first_answer().await;
    let proxy = Proxy::to(origin.address).await;
    for nth in 100..200 {
        let request = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nn={nth}");
        let answer = client::exchange(proxy.address, request).await;
        assert!(answer.status() == 502 || answer.text() == "once", "request {nth}: {:?}", answer.head);
        let arrived = origin.recorder.text();
        assert!(arrived.matches(&format!("n={nth}")).count() <= 1, "request {nth} arrived twice");
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_uploads() {
    let go = Go::new();
    // The second one closes with bytes unread, and that is a reset; it would overtake an answer that is still on its way.
    for origin in [origin::early_answer().await, origin::early_answer_and_close(go.clone()).await] {
        let proxy = Proxy::to(origin.address).await;
        let (mut reader, mut writer) = Raw::connect(proxy.address).await.split();
        let length = 5_000_000;
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let uploading = async {
            for piece in pattern::pieces(length) {
                if writer.write_all(&piece).await.is_err() {
                    // The proxy has hung up, as it may.
                    break;
                }
            }
        };
        let answering = async {
            let answer = reader.response("POST").await;
            go.steps(1);
            answer
        };
        let both = async { tokio::join!(uploading, answering).1 };
        let answer = within("the answer", both).await.unwrap();
        assert_eq!((answer.status(), &*answer.text()), (403, "refused"));
    }
}

/// A server that answers before it has the body may never read it, and then takes it for its next request.
#[tokio::test]
async fn an_answer_that_began_before_its_request_ended_uses_the_connection_up() {
    let origin = origin::early_answer_to_a_post().await;
    let proxy = Proxy::to(origin.address).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "connection 0");
    for chunked in [false, true] {
        let before = origin.recorder.connections();
        let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 5" };
        let (first, rest) = if chunked { ("2\r\nab\r\n", "3\r\ncde\r\n0\r\n\r\n") } else { ("ab", "cde") };
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{first}")).await;
        let head = client.head().await;
        assert_eq!((head.status().unwrap(), head.fields.lists("connection", "close")), (200, true));
        client.send(rest).await;
        client.body_to(Framing::Length(12), |_| ()).await.unwrap();
        client.assert_closed().await;
        let next = client::get(proxy.address, "/").await;
        assert_eq!(next.text(), format!("connection {before}"), "chunked: {chunked}");
    }
}

async fn assert_502(origin: Origin, what: &str) {
    let proxy = Proxy::to(origin.address).await;
    let answer = client::get(proxy.address, "/").await;
    assert_eq!(answer.status(), 502, "{what}");
    assert_ours(&answer, &[502]);
    proxy.counters_until("the connection is dropped", |now| now.upstream_connections == 0).await;
}

/// An answer by the proxy itself with one of these statuses.
fn assert_ours(answer: &Response, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status()), "{:?} instead of {statuses:?}", answer.head);
    assert_eq!(answer.field("server"), Some("sluice"));
    assert!((1..500).contains(&answer.body.len()), "a short body, not {:?}", answer.text());
}

fn assert_is_cut(kind: ErrorKind) {
    assert!(matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{kind:?}");
}
