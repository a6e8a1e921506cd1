//! PROXY protocol headers: read in front of a client's first byte, written in front of a server's.

use std::{net::SocketAddr, time::Duration};

use sluice_tests::{
    client::Raw,
    origin::{self, Origin},
    proxy::Proxy,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A proxy that requires the header.
async fn requiring(origin: SocketAddr, flags: &[&str]) -> Proxy {
    let upstream = format!("http://{origin}");
    let fixed = ["--listen-proxy-protocol", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream];
    Proxy::start(&[&fixed[..], flags].concat()).await
}

/// A proxy that sends the header.
async fn sending(origin: SocketAddr, version: &str, flags: &[&str]) -> Proxy {
    Proxy::to_with(origin, &[&["--upstream-proxy-protocol", version][..], flags].concat()).await
}

/// Version 2, TCP over IPv4, 198.51.100.7:4711 to 192.0.2.1:443, with these TLVs behind.
fn binary(tlvs: &[u8]) -> Vec<u8> {
    let len = (12 + tlvs.len()) as u16;
    let ends = [198, 51, 100, 7, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb];
    [SIGNATURE, &[0x21, 0x11], &len.to_be_bytes(), &ends, tlvs].concat()
}

const LINE: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// The last value of a field at the origin.
fn last(origin: &Origin, name: &str) -> Option<String> {
    let text = origin.recorder.text();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.rev().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

#[tokio::test]
async fn the_source_is_the_client() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address, &["--proxy-protocol-from", "127.0.0.0/8"]).await;
    let v6 = [
        SIGNATURE,
        &[0x21, 0x21, 0, 36],
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        &[0; 15],
        &[1, 0, 1, 0, 2],
    ]
    .concat();
    for (header, client) in [
        (LINE.to_vec(), "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:198.51.100.9 ::1 1 2\r\n".to_vec(), "198.51.100.9"),
        (binary(b""), "198.51.100.7"),
        (binary(b"\x01\0\x02h2\x20\0\x05\0\0\0\0\x01\x04\0\0"), "198.51.100.7"),
        (v6, "2001:db8::7"),
        // The balancer's own.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ([SIGNATURE, &[0x20, 0, 0, 0]].concat(), "127.0.0.1"),
        ([SIGNATURE, &[0x21, 0, 0, 3, 1, 2, 3]].concat(), "127.0.0.1"),
        ([SIGNATURE, &[0x21, 0x31, 0, 216], &[0; 216][..]].concat(), "127.0.0.1"),
    ] {
        let shown = header.escape_ascii().to_string();
        // In one piece with the request, then byte by byte, then the header alone and requests later.
        let mut client_of = Raw::connect(proxy.address).await;
        client_of.send([&header[..], REQUEST].concat()).await;
        assert_eq!(client_of.answer_to("GET").await.status(), 200, "{shown}");
        assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some(client), "{shown}");
        // The connection stays that client's.
        client_of.ask("GET", "/again").await;
        assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some(client), "{shown}");

        let mut dripping = Raw::connect(proxy.address).await;
        dripping.drip([&header[..], REQUEST].concat(), 1, Duration::from_micros(200)).await.expect("taken");
        assert_eq!(dripping.answer_to("GET").await.status(), 200, "{shown}");
        assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some(client), "{shown}");

        let mut late = Raw::connect(proxy.address).await;
        late.send(&header).await;
        proxy.counters_until("the header is read", |counters| counters.tasks_busy == 0).await;
        assert_eq!(late.ask("GET", "/late").await.status(), 200, "{shown}");
        assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some(client), "{shown}");
    }
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn pipelined_requests_and_bodies_behind_a_header_are_not_lost() {
    let origin = origin::real("real").await;
    let proxy = requiring(origin.address, &[]).await;
    let mut client = Raw::connect(proxy.address).await;
    let post = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.send([LINE, post, post, &post[..post.len() - 2]].concat()).await;
    for _ in 0..2 {
        assert_eq!(client.answer_to("POST").await.text(), "hello");
    }
    client.send("lo").await;
    assert_eq!(client.answer_to("POST").await.text(), "hello");
    assert!(origin.seen().iter().all(|seen| seen.field("x-forwarded-for") == Some("198.51.100.7")));
}

#[tokio::test]
async fn what_is_no_header_closes_the_connection() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address, &[]).await;
    let cases: Vec<Vec<u8>> = vec![
        REQUEST.to_vec(),
        [&LINE[..LINE.len() - 2], b"\n", REQUEST].concat(),
        [b"PROXY TCP4 198.51.100.7 192.0.2.1 04711 443\r\n", REQUEST].concat(),
        [b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n", REQUEST].concat(),
        [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        [SIGNATURE, &[0x11, 0x11, 0, 12], &[0; 12], REQUEST].concat(),
        [SIGNATURE, &[0x21, 0x11, 0, 11], &[0; 11], REQUEST].concat(),
        [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
        [&binary(b"\x03\0\x04\0\0\0\0")[..], REQUEST].concat(),
        [&binary(b"\x04\0\x09")[..], REQUEST].concat(),
        vec![0],
    ];
    for case in &cases {
        let mut client = Raw::connect(proxy.address).await;
        // It may be gone before all was sent.
        let _ = client.try_send(case).await;
        client.closed().await.unwrap_or_else(|why| panic!("{}: {why}", case.escape_ascii()));
    }
    // A header that is cut short.
    let mut client = Raw::connect(proxy.address).await;
    client.send(&LINE[..20]).await;
    client.half_close().await;
    client.assert_closed().await;
    let counters = proxy.counters_until("all are gone", |counters| counters.connections == 0).await;
    assert_eq!(counters.proxy_headers_malformed, cases.len() as u64 + 1);
    assert_eq!((counters.requests, origin.recorder.connections()), (0, 0));
    // A second header is a malformed request.
    let mut client = Raw::connect(proxy.address).await;
    client.send([LINE, LINE, REQUEST].concat()).await;
    assert_eq!(client.answer_to("GET").await.status(), 400);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_listener_that_expects_none_takes_none() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to(origin.address).await;
    for header in [LINE.to_vec(), binary(b"")] {
        let mut client = Raw::connect(proxy.address).await;
        client.send([&header[..], REQUEST].concat()).await;
        assert_eq!(client.answer_to("GET").await.status(), 400);
    }
    assert_eq!(origin.recorder.connections(), 0);
}

#[tokio::test]
async fn only_those_who_may_can_send_it() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address, &["--proxy-protocol-from", "10.0.0.0/8"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send([LINE, REQUEST].concat()).await;
    client.assert_closed().await;
    let counters = proxy.counters().await;
    assert_eq!((counters.proxy_headers_forbidden, counters.requests), (1, 0));
    assert_eq!(origin.recorder.connections(), 0);
}

#[tokio::test]
async fn a_header_must_come_in_time() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy =
        requiring(origin.address, &["--timeout-proxy-header", "300ms", "--timeout-request-head", "400ms"])
            .await;
    // From its first byte, however many follow.
    let mut slow = Raw::connect(proxy.address).await;
    let _ = slow.drip(LINE, 1, Duration::from_millis(50)).await;
    slow.assert_closed().await;
    let counters = proxy.counters_until("it is gone", |counters| counters.connections == 0).await;
    assert_eq!((counters.proxy_headers_late, counters.proxy_headers_malformed), (1, 0));
    // One that says nothing, before the header or behind it, has the time of a request head.
    let mut silent = Raw::connect(proxy.address).await;
    let mut half_silent = Raw::connect(proxy.address).await;
    half_silent.send(LINE).await;
    silent.assert_closed().await;
    half_silent.assert_closed().await;
    proxy
        .counters_until("both are gone", |counters| counters.connections == 0 && counters.tasks_busy == 0)
        .await;
}

#[tokio::test]
async fn trust_is_a_matter_of_the_source() {
    let origin = origin::answers(origin::ok("ok")).await;
    // The balancer is on loopback; what its clients claim is theirs.
    let flags = [
        "--proxy-protocol-from",
        "127.0.0.1",
        "--trusted-proxy",
        "127.0.0.1",
        "--trusted-proxy",
        "10.0.0.0/8",
    ];
    let proxy = requiring(origin.address, &flags).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let mut client = Raw::connect(proxy.address).await;
    client.send([LINE, request].concat()).await;
    client.answer_to("GET").await;
    assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some("198.51.100.7"));
    let mut client = Raw::connect(proxy.address).await;
    client.send([b"PROXY TCP4 10.1.2.3 10.0.0.1 1 2\r\n", &request[..]].concat()).await;
    client.answer_to("GET").await;
    assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some("6.6.6.6, 10.1.2.3"));
}

#[tokio::test]
async fn listeners_of_both_kinds_live_together() {
    let origin = origin::answers(origin::ok("ok")).await;
    let tables = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
         proxy_protocol_from = [\"127.0.0.1\"]\n\
         [[upstream]]\nname = \"o\"\nservers = [\"http://{}\"]\n[[route]]\nupstream = \"o\"\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let plain = proxy.address;
    let listening: Vec<SocketAddr> =
        proxy.messages().iter().filter_map(|line| line.strip_prefix("listening on ")?.parse().ok()).collect();
    assert_eq!((listening.len(), listening[0]), (2, plain));
    let mut client = Raw::connect(plain).await;
    client.ask("GET", "/").await;
    assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some("127.0.0.1"));
    let mut client = Raw::connect(listening[1]).await;
    client.send([LINE, REQUEST].concat()).await;
    client.answer_to("GET").await;
    assert_eq!(last(&origin, "X-Forwarded-For").as_deref(), Some("198.51.100.7"));
}

#[tokio::test]
async fn idle_connections_behind_a_balancer_stay_small() {
    let many = sluice_tests::many_connections(2_000, 1).await;
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address, &[]).await;
    let mut clients = Vec::new();
    let before = proxy.resident_bytes();
    for _ in 0..many.count {
        let mut client = Raw::connect(proxy.address).await;
        client.send(LINE).await;
        clients.push(client);
    }
    proxy
        .counters_until("all wait", |counters| {
            counters.connections == many.count as u64 && counters.tasks_busy == 0
        })
        .await;
    let grown = proxy.resident_bytes().saturating_sub(before);
    // 52 bytes of the table and 68 aside; the rest is receive buffers that were touched on the way.
    assert!(grown < 8 << 20, "{grown} bytes");
    for client in clients.iter_mut().take(50) {
        assert_eq!(client.ask("GET", "/").await.status(), 200);
    }
    drop(clients);
    proxy.counters_until("all are gone", |counters| counters.connections == 0).await;
}

#[tokio::test]
async fn the_client_is_announced_once_per_connection() {
    let origin = origin::expects_proxy_line().await;
    let proxy = sending(origin.address, "v1", &[]).await;
    let mut first = Raw::connect(proxy.address).await;
    let mut second = Raw::connect(proxy.address).await;
    let mut lines = Vec::new();
    for turn in 0..3 {
        for (nth, client) in [&mut first, &mut second].into_iter().enumerate() {
            let line = client.ask("GET", "/").await.text();
            let words: Vec<&str> = line.split(' ').collect();
            let port = client.local().port().to_string();
            let wanted =
                ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1", &port, &proxy.address.port().to_string()];
            assert_eq!(words, wanted, "turn {turn}, client {nth}");
            lines.push(line);
        }
    }
    // Kept connections were used again, each for the client it was announced for.
    assert_eq!(origin.recorder.connections(), 2);
    let counters = proxy.counters().await;
    assert_eq!((counters.upstream_connects, counters.upstream_reuses), (2, 4));
    // A third client gets none of theirs.
    let mut third = Raw::connect(proxy.address).await;
    assert!(!lines.contains(&third.ask("GET", "/").await.text()));
    assert_eq!(origin.recorder.connections(), 3);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn the_oldest_of_many_kept_connections_goes() {
    let origin = origin::expects_proxy_line().await;
    let proxy = sending(origin.address, "v1", &["--limit-upstream-idle-connections", "2"]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Raw::connect(proxy.address).await;
        client.ask("GET", "/").await;
        clients.push(client);
    }
    proxy.counters_until("two are kept", |counters| counters.upstream_connections == 2).await;
    let connects = proxy.counters().await.upstream_connects;
    for client in clients.iter_mut().skip(2) {
        client.ask("GET", "/").await;
    }
    assert_eq!(proxy.counters().await.upstream_connects, connects, "the last two had theirs");
    clients[0].ask("GET", "/").await;
    assert_eq!(proxy.counters().await.upstream_connects, connects + 1);
}

#[tokio::test]
async fn a_client_that_was_announced_is_announced_again() {
    let origin = origin::expects_proxy_line().await;
    let upstream = format!("http://{}", origin.address);
    let proxy = Proxy::start(&[
        "--listen-proxy-protocol",
        "127.0.0.1:0",
        "--shards",
        "1",
        "--upstream",
        &upstream,
        "--upstream-proxy-protocol",
        "v1",
        "--trusted-proxy",
        "10.0.0.0/8",
    ])
    .await;
    let ask = async |header: &[u8], fields: &str| {
        let mut client = Raw::connect(proxy.address).await;
        client.send([header, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()].concat()).await;
        client.answer_to("GET").await.text()
    };
    assert_eq!(ask(LINE, "").await, "PROXY TCP4 198.51.100.7 192.0.2.1 4711 443");
    assert_eq!(
        ask(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n", "").await,
        "PROXY TCP6 2001:db8::7 2001:db8::1 1 2"
    );
    assert_eq!(
        ask(b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 1 2\r\n", "").await,
        "PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 1 2"
    );
    // A trusted proxy speaks for many clients on one connection: each gets its own.
    let balancer = b"PROXY TCP4 10.0.0.9 192.0.2.1 4711 443\r\n";
    let mut client = Raw::connect(proxy.address).await;
    client.send(balancer).await;
    for (list, text) in [
        ("198.51.100.1", "PROXY TCP4 198.51.100.1 192.0.2.1 0 443"),
        ("198.51.100.2", "PROXY TCP4 198.51.100.2 192.0.2.1 0 443"),
        ("198.51.100.1", "PROXY TCP4 198.51.100.1 192.0.2.1 0 443"),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {list}\r\n\r\n")).await;
        assert_eq!(client.answer_to("GET").await.text(), text);
    }
}

#[tokio::test]
async fn a_request_that_is_streamed_follows_the_header_too() {
    let origin = origin::expects_proxy_line().await;
    let proxy = sending(origin.address, "v1", &[]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n").await;
    for _ in 0..20 {
        client.send([b'x'; 10_000]).await;
    }
    assert!(client.answer_to("POST").await.text().starts_with("PROXY TCP4 127.0.0.1 "));
}

#[tokio::test]
async fn version_two_is_what_it_should_be() {
    let origin = origin::only_listens().await;
    let proxy = sending(origin.address, "v2", &[]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(REQUEST).await;
    origin
        .recorder
        .wait_for("the request", |all| all.iter().any(|one| one.bytes.ends_with(b"\r\n\r\n")))
        .await;
    let bytes = origin.recorder.traffic()[0].bytes.clone();
    let ports = [client.local().port().to_be_bytes(), proxy.address.port().to_be_bytes()].concat();
    let wanted =
        [SIGNATURE, &[0x21, 0x11, 0, 12, 127, 0, 0, 1, 127, 0, 0, 1], &ports, b"GET / HTTP/1.1\r\n"].concat();
    assert!(bytes.starts_with(&wanted), "{}", bytes.escape_ascii());
}
