//! Clients that misuse TLS: first bytes, handshakes that stop, records by hand, floods, and who sees which bytes.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use sluice_tests::{
    assert_took,
    client::Raw,
    http2::frames,
    many_connections,
    origin::{self, Go},
    pattern,
    proxy::Proxy,
    tls::{self, BOTH, Client, NAME, ONLY_12, ONLY_13, Records, kind},
    within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

const GET: &str = "GET /it HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// Alerts.
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;

/// What comes until the connection ends, clean or not.
async fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut all)).await;
    all
}

async fn half_handshake(address: SocketAddr, config: &ClientConfig) -> TcpStream {
    let mut stream = within("connect", TcpStream::connect(address)).await.unwrap();
    stream.write_all(&tls::client_hello(config)).await.unwrap();
    stream
}

async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    within("connect", socket.connect(address)).await.unwrap()
}

async fn assert_serves(proxy: &Proxy, config: &ClientConfig) {
    let response = Client::connect(proxy.address, config).await.ask("GET", "/neighbour").await;
    assert_eq!(response.status(), 200);
}

// ---- first bytes ----

#[tokio::test]
async fn first_bytes_that_begin_no_handshake_are_refused() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let alert = |description: u8| vec![21, 3, 3, 0, 2, 2, description];
    let plain = |bytes: &[u8]| bytes.starts_with(b"HTTP/1.1 400 ");
    let mut wrong = Vec::new();
    let plain_cases: [&[u8]; 4] = [GET.as_bytes(), b"\0\0\0\0", b"\x80\x2e\x01\x03\x01", b"\xff"];
    for case in plain_cases {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(case).await.unwrap();
        let answer = until_end(&mut stream).await;
        if !plain(&answer) {
            wrong.push(format!("{case:?}: {:?}", String::from_utf8_lossy(&answer)));
        }
    }
    let counters = proxy.counters().await;
    assert_eq!(counters.named("tls_not_tls"), 4);
    let hello = tls::client_hello(&authority.client(BOTH));
    let mut other_message = hello.clone();
    other_message[5] = 11;
    let mut too_long = hello.clone();
    too_long[6] = 0xff;
    let cases: [(&str, Vec<u8>, u8); 4] = [
        ("a record too long", [&[22, 3, 1, 0xff, 0xff][..], &[1; 64]].concat(), RECORD_OVERFLOW),
        ("another message", other_message, UNEXPECTED_MESSAGE),
        ("a message too long", too_long, 47),
        ("an empty record", vec![22, 3, 1, 0, 0], 50),
    ];
    for (name, case, expected) in cases {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&case).await.unwrap();
        let answer = until_end(&mut stream).await;
        if answer != alert(expected) {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let counters = proxy.counters().await;
    assert_eq!(counters.named("tls_handshakes_malformed"), 4, "{counters:?}");
    assert_eq!(origin.recorder.connections(), 0);
    assert_serves(&proxy, &authority.client(BOTH)).await;
}

#[tokio::test]
async fn a_first_message_that_is_cut_ends_with_its_connection() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let hello = tls::client_hello(&authority.client(BOTH));
    let cuts = [1, 4, 5, 6, 9, hello.len() / 2, hello.len() - 1];
    for cut in cuts {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&hello[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(until_end(&mut stream).await, b"", "behind {cut} bytes");
    }
    let count = cuts.len() as u64;
    proxy.counters_until("all are counted", |now| now.named("tls_handshakes_unfinished") == count).await;
    proxy.counters_until("none is left", |now| now.connections == 0 && now.tasks_busy == 0).await;
    assert_serves(&proxy, &authority.client(BOTH)).await;
}

#[tokio::test]
async fn a_first_message_may_come_in_many_records() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        for size in [32, 100, 700] {
            let stream = TcpStream::connect(proxy.address).await.unwrap();
            let config = authority.client(versions);
            let mut client =
                Records::over_changed(stream, &config, |hello| tls::in_records_of(size, &hello)).await;
            client.data(GET).await;
            assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"), "in records of {size}");
        }
    }
    // With a header of five bytes for each byte, that is no client of any use.
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let hello = tls::client_hello(&authority.client(ONLY_13));
    stream.write_all(&tls::in_records_of(1, &hello)).await.unwrap();
    let answer = until_end(&mut stream).await;
    assert!(answer.is_empty() || answer[0] == kind::ALERT, "{answer:?}");
    proxy.counters_until("none is left", |now| now.tasks_busy == 0).await;
}

// ---- handshakes that stop ----

#[tokio::test]
async fn a_handshake_ends_by_its_timeout() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &["--timeout-tls-handshake", "1s"]).await;
    let config = authority.client(BOTH);
    let default = Duration::from_secs(10);
    let least = Duration::from_secs(1);
    let hello = tls::client_hello(&config);
    // A part, all of the first message, and a byte every now and then.
    for sent in [1, 100, hello.len()] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&hello[..sent]).await.unwrap();
        until_end(&mut stream).await;
        assert_took(begun, least, default);
    }
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address).await;
    let _ = client.drip(&hello, 1, Duration::from_millis(100)).await;
    client.assert_closed().await;
    assert_took(begun, least, default);
    let counters = proxy.counters_until("late ones", |now| now.named("tls_handshakes_late") >= 3).await;
    assert_eq!(counters.tasks_busy, 0);
    assert_serves(&proxy, &config).await;
}

#[tokio::test]
async fn handshakes_beyond_the_limit_are_refused() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &["--limit-tls-handshakes", "3"]).await;
    let config = authority.client(BOTH);
    let mut open = Vec::new();
    for begun in 1..=3 {
        open.push(half_handshake(proxy.address, &config).await);
        proxy.counters_until("one more", |now| now.named("tls_handshakes") == begun).await;
    }
    let mut refused = half_handshake(proxy.address, &config).await;
    assert_eq!(until_end(&mut refused).await, b"");
    let counters = proxy.counters().await;
    assert_eq!((counters.named("tls_handshakes_refused"), counters.named("tls_handshakes")), (1, 3));
    open.pop();
    proxy.counters_until("one has left", |now| now.connections == 2).await;
    assert_serves(&proxy, &config).await;
}

#[tokio::test]
async fn handshakes_of_one_address_beyond_the_limit_are_refused() {
    let origin = origin::answers(origin::ok("fine")).await;
    let flags = ["--limit-tls-handshakes-per-address", "2"];
    let (proxy, authority) = tls::proxy_to(origin.address, &flags).await;
    let config = authority.client(BOTH);
    let hello = tls::client_hello(&config);
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let mut open = Vec::new();
    for begun in 1..=2 {
        let mut stream = connect_from(greedy, proxy.address).await;
        stream.write_all(&hello).await.unwrap();
        open.push(stream);
        proxy.counters_until("one more", |now| now.named("tls_handshakes") == begun).await;
    }
    let mut refused = connect_from(greedy, proxy.address).await;
    refused.write_all(&hello).await.unwrap();
    assert_eq!(until_end(&mut refused).await, b"");
    assert_eq!(proxy.counters().await.named("tls_handshakes_refused"), 1);
    let stream = connect_from(Ipv4Addr::new(127, 0, 0, 3), proxy.address).await;
    let mut other = Client::over(stream, &config, NAME).await.expect("another address");
    assert_eq!(other.ask("GET", "/").await.status(), 200);
    drop(open);
    proxy.counters_until("both have left", |now| now.connections == 1).await;
    let stream = connect_from(greedy, proxy.address).await;
    Client::over(stream, &config, NAME).await.expect("its handshakes are over");
}

/// With 2 MiB for what the allocator keeps at hand.
#[tokio::test]
async fn two_thousand_half_handshakes_take_little_memory_and_no_worker() {
    const BYTES_EACH_MAX: u64 = 16 * 1024;
    let many = many_connections(2_000, 1).await;
    let origin = origin::answers(origin::ok("fine")).await;
    let flags = ["--limit-tls-handshakes", "10000", "--timeout-tls-handshake", "10m"];
    let (proxy, authority) = tls::proxy_to(origin.address, &flags).await;
    let config = authority.client(BOTH);
    let mut neighbour = Client::connect(proxy.address, &config).await;
    neighbour.ask("GET", "/").await;
    let before = proxy.resident_bytes();
    let hello = tls::client_hello(&config);
    let mut open = Vec::new();
    for nth in 0..many.count {
        let mut stream = within("connect", TcpStream::connect(proxy.address)).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        open.push(stream);
        if nth % 100 == 0 {
            assert_eq!(neighbour.ask("GET", "/between").await.status(), 200);
        }
    }
    let all = many.count as u64 + 1;
    proxy
        .counters_until("all have begun", |now| now.named("tls_handshakes") == all && now.tasks_busy == 0)
        .await;
    let grown = proxy.resident_bytes().saturating_sub(before);
    let each = grown / all;
    println!("{each} bytes for each of {all}");
    assert!(grown <= BYTES_EACH_MAX * all + (2 << 20), "{each} bytes each");
    assert_eq!(neighbour.ask("GET", "/behind").await.status(), 200);
    drop(open);
    proxy.counters_until("all have left", |now| now.connections == 1).await;
    neighbour.ask("GET", "/after").await;
}

// ---- records ----

#[tokio::test]
async fn a_record_that_never_completes_holds_no_worker_and_ends_by_the_timeout() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &["--timeout-request-head", "1s"]).await;
    for versions in [ONLY_12, ONLY_13] {
        for (first, cut) in [("", 3), ("", 5), ("", 20), ("GET / HT", 1), ("GET / HT", 30)] {
            let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
            // The first request takes the connection out of the time for a new one.
            client.data(GET).await;
            client.data_until("fine").await;
            let begun = Instant::now();
            if !first.is_empty() {
                client.data(first).await;
            }
            let record = client.seal.seal(kind::DATA, &[b'A'; 100], 0);
            client.send_bytes(&record[..cut]).await.unwrap();
            proxy.counters_until("it is parked", |now| now.tasks_busy == 0 && now.connections == 1).await;
            client.last_alert().await;
            assert_took(begun, Duration::from_secs(1), Duration::from_secs(10));
            proxy.counters_until("it has ended", |now| now.connections == 0 && now.buffers_held == 0).await;
        }
    }
    assert!(!origin.recorder.text().contains("AAAA"));
}

/// The beginning of a record keeps a connection of HTTP/2 from nothing but its own rest: its shard goes on with others.
#[tokio::test]
async fn a_cut_record_of_http2_ends_by_the_timeout_and_keeps_no_shard() {
    let origin = origin::answers(origin::ok("fine")).await;
    let flags = ["--timeout-request-head", "1s", "--shards", "1"];
    let (proxy, authority) = tls::proxy_to(origin.address, &flags).await;
    let plain = authority.client(BOTH);
    let config = tls::offering(&plain, &["h2"]);
    for cut in [1, 5, 30] {
        let mut client = Records::connect(proxy.address, &config).await;
        client.data([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames::settings(&[])].concat()).await;
        let begun = Instant::now();
        let record = client.seal.seal(kind::DATA, &frames::ping([7; 8]), 0);
        client.send_bytes(&record[..cut]).await.unwrap();
        let mut neighbour = Client::connect(proxy.address, &plain).await;
        for _ in 0..5 {
            assert_eq!(neighbour.ask("GET", "/").await.status(), 200);
        }
        proxy.counters_until("it has ended", |now| now.connections == 1).await;
        assert_took(begun, Duration::from_secs(1), Duration::from_secs(10));
        drop(neighbour);
        proxy.counters_until("both have ended", |now| now.connections == 0 && now.buffers_held == 0).await;
    }
    let mut client = Records::connect(proxy.address, &config).await;
    client.data([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames::settings(&[])].concat()).await;
    let record = client.seal.seal(
        kind::DATA,
        &frames::headers(
            1,
            5,
            frames::block(&[(":method", "GET"), (":scheme", "https"), (":authority", NAME), (":path", "/")]),
        ),
        0,
    );
    client.send_bytes(&record[..7]).await.unwrap();
    proxy.counters_until("it waits", |now| now.buffers_held == 0).await;
    client.send_bytes(&record[7..]).await.unwrap();
    client.data_until("fine").await;
}

#[tokio::test]
async fn a_record_of_a_parked_connection_goes_on_where_it_stopped() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        for cut in [1, 4, 5, 6, 25] {
            let record = client.seal.seal(kind::DATA, GET.as_bytes(), 0);
            client.send_bytes(&record[..cut]).await.unwrap();
            proxy.counters_until("it is parked", |now| now.tasks_busy == 0 && now.buffers_held == 0).await;
            client.send_bytes(&record[cut..]).await.unwrap();
            assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"), "cut behind {cut} bytes");
        }
    }
}

#[tokio::test]
async fn a_record_that_was_changed_ends_its_connection() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for suite in [
        "TLS13_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ] {
        let versions = if suite.starts_with("TLS13") { ONLY_13 } else { ONLY_12 };
        let config = authority.client_with(versions, tls::only_suite(suite));
        for (name, change) in [("tag", usize::MAX), ("content", 14)] {
            let mut client = Records::connect(proxy.address, &config).await;
            let mut record = client.seal.seal(kind::DATA, GET.as_bytes(), 0);
            let at = change.min(record.len() - 1);
            record[at] ^= 1;
            client.send_bytes(&record).await.unwrap();
            let begun = Instant::now();
            assert_eq!(client.last_alert().await, Some(BAD_RECORD_MAC), "{suite}: {name}");
            // At once, not when a request would be late.
            assert_took(begun, Duration::ZERO, Duration::from_secs(10));
        }
        // One that is sent twice, one that is left out.
        let mut client = Records::connect(proxy.address, &config).await;
        let record = client.seal.seal(kind::DATA, b"GET /twice", 0);
        client.send_bytes(&[&record[..], &record].concat()).await.unwrap();
        assert_eq!(client.last_alert().await, Some(BAD_RECORD_MAC), "{suite}: twice");
        if suite.contains("13") || suite.contains("CHACHA") {
            let mut client = Records::connect(proxy.address, &config).await;
            client.seal.seal(kind::DATA, b"x", 0);
            client.data(GET).await;
            assert_eq!(client.last_alert().await, Some(BAD_RECORD_MAC), "{suite}: left out");
        }
    }
    assert_eq!(origin.recorder.text(), "");
    proxy.counters_until("none is left", |now| now.connections == 0 && now.buffers_held == 0).await;
}

#[tokio::test]
async fn a_changed_record_in_a_body_cuts_the_request() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        client.data("POST /digest HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2000\r\n\r\n").await;
        client.data(pattern::bytes(1000)).await;
        let mut record = client.seal.seal(kind::DATA, &[b'X'; 1000], 0);
        *record.last_mut().unwrap() ^= 1;
        client.send_bytes(&record).await.unwrap();
        let mut answered = Vec::new();
        let alert = loop {
            match client.next().await {
                Ok(Some((kind::ALERT, alert))) => break Some(alert[1]),
                Ok(Some((kind::DATA, data))) => answered.extend(data),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break None,
            }
        };
        assert!(!String::from_utf8_lossy(&answered).contains(" 200 "), "a cut upload was answered");
        assert_eq!(alert, Some(BAD_RECORD_MAC));
    }
    proxy.counters_until("none is left", |now| now.connections == 0 && now.buffers_held == 0).await;
}

#[tokio::test]
async fn records_of_the_wrong_kind_or_length_end_their_connection() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let config = authority.client(versions);
        let is_13 = versions[0] == ONLY_13[0];
        // Not sealed at all.
        let mut cases: Vec<(&str, Vec<u8>, u8)> = vec![
            ("no record", b"GET / HTTP/1.1\r\n".to_vec(), UNEXPECTED_MESSAGE),
            ("too long", [&tls::header(kind::DATA, 20_000)[..], &[0; 100]].concat(), RECORD_OVERFLOW),
            ("in clear text", [&tls::header(kind::DATA, 40)[..], &[b'A'; 40]].concat(), BAD_RECORD_MAC),
        ];
        if is_13 {
            let change = [&tls::header(kind::CHANGE_CIPHER_SPEC, 1)[..], &[1]].concat();
            cases.push(("ChangeCipherSpec", change, UNEXPECTED_MESSAGE));
        }
        for (name, bytes, expected) in cases {
            let mut client = Records::connect(proxy.address, &config).await;
            client.send_bytes(&bytes).await.unwrap();
            assert_eq!(client.last_alert().await, Some(expected), "{name}");
        }
        // Sealed.
        let finished = [20, 0, 0, 1, 0];
        let cases: [(&str, u8, &[u8], u8); 3] = [
            ("ChangeCipherSpec", kind::CHANGE_CIPHER_SPEC, &[1], UNEXPECTED_MESSAGE),
            ("another handshake message", kind::HANDSHAKE, &finished, UNEXPECTED_MESSAGE),
            ("an alert of three bytes", kind::ALERT, &[2, 0, 0], 50),
        ];
        for (name, kind, content, expected) in cases {
            let mut client = Records::connect(proxy.address, &config).await;
            client.send(kind, content).await.unwrap();
            assert_eq!(client.last_alert().await, Some(expected), "{name}");
        }
        // Another handshake.
        if !is_13 {
            let mut client = Records::connect(proxy.address, &config).await;
            let hello = tls::client_hello(&config);
            client.send(kind::HANDSHAKE, &hello[5..]).await.unwrap();
            assert_eq!(client.last_alert().await, Some(100), "renegotiation");
        }
    }
    assert_eq!(origin.recorder.text(), "");
}

#[tokio::test]
async fn floods_of_records_that_carry_nothing_end_their_connection() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let head = "POST /flood HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n";
    // Before a request, and within one.
    for before in ["", "GET /par", head] {
        for (versions, name, most) in [
            (ONLY_13, "updates", 32),
            (ONLY_13, "empty", 32),
            (ONLY_12, "empty", 32),
            (ONLY_12, "warnings", 4),
        ] {
            // As many as are allowed, and one more.
            for count in [most, most + 1] {
                let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
                if !before.is_empty() {
                    client.data(before).await;
                }
                for _ in 0..count {
                    let sent = match name {
                        "updates" => client.update_key(0).await,
                        "empty" => client.send(kind::DATA, b"").await,
                        _ => client.send(kind::ALERT, &[1, 90]).await,
                    };
                    sent.unwrap();
                }
                if count > most {
                    assert_eq!(
                        client.last_alert().await,
                        Some(UNEXPECTED_MESSAGE),
                        "{name} behind {before:?}"
                    );
                    continue;
                }
                let rest = match before {
                    "" => GET,
                    "GET /par" => "t HTTP/1.1\r\nHost: a.example\r\n\r\n",
                    _ => "0123456789",
                };
                client.data(rest).await;
                assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"), "{count} {name}");
            }
        }
    }
    // Data in between make it a client like any other.
    let mut client = Records::connect(proxy.address, &authority.client(ONLY_13)).await;
    for _ in 0..5 {
        for _ in 0..20 {
            client.update_key(0).await.unwrap();
            client.send(kind::DATA, b"").await.unwrap();
        }
        client.data(GET).await;
        client.data_until("fine").await;
    }
    proxy.counters_until("one is left", |now| now.connections == 1 && now.buffers_held == 0).await;
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn requests_for_new_keys_are_answered_with_bounded_memory() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let mut client = Records::connect(proxy.address, &authority.client(ONLY_13)).await;
    for _ in 0..30 {
        client.update_key(1).await.unwrap();
    }
    client.data(GET).await;
    // However many were asked for, each answer is one update, and the response is sealed with the last key.
    assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"));
    client.update_key(1).await.unwrap();
    client.data(GET).await;
    assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"));
}

/// What a client asks for while it gets a response is done behind it at the latest.
#[tokio::test]
async fn keys_change_while_a_response_is_sent() {
    const LENGTH: usize = 6_000_000;
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let stream = within("connect", socket.connect(proxy.address)).await.unwrap();
    let mut client = Records::over(stream, &authority.client(ONLY_13)).await;
    let mut updates = 0;
    for _ in 0..3 {
        client.data(format!("GET /bytes/{LENGTH} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
        let (mut answer, mut body_at, mut records) = (Vec::new(), None, 0);
        while body_at.is_none_or(|at| answer.len() < at + LENGTH) {
            match within("a record", client.next()).await.expect("a good record") {
                Some((kind::DATA, data)) => answer.extend(data),
                Some((kind::HANDSHAKE, message)) if message[0] == 24 => {
                    assert_eq!(message, [24, 0, 0, 1, 0], "an update that asks for nothing");
                    client.open.update();
                    updates += 1;
                }
                Some((kind::HANDSHAKE, _)) => {}
                other => panic!("{other:?}"),
            }
            records += 1;
            if records % 40 == 1 && records < 400 {
                client.update_key(1).await.unwrap();
            }
            let end = || answer.windows(4).position(|four| four == b"\r\n\r\n");
            body_at = body_at.or_else(|| Some(end()? + 4));
        }
        pattern::assert_exact(&answer[body_at.expect("found")..], LENGTH);
    }
    assert!(updates >= 2, "{updates} updates in three responses");
}

#[tokio::test]
async fn bodies_arrive_whole_however_their_records_are_cut() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        let mut seed = 12345_u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for length in [1, 16_384, 16_385, 40_000, 300_000, 1_000_000] {
            let head = format!("POST /copy HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n");
            let mut wire = Vec::new();
            for piece in head.as_bytes().chunks(7) {
                wire.extend(client.seal.seal(kind::DATA, piece, 0));
            }
            let body = pattern::bytes(length);
            let mut rest = &body[..];
            while !rest.is_empty() {
                let size = [1, 100, 5_000, 16_384][random(4)].min(rest.len());
                let padding = random(200).min(16_384 - size);
                wire.extend(client.seal.seal(kind::DATA, &rest[..size], padding));
                rest = &rest[size..];
            }
            let mut at = 0;
            while at < wire.len() {
                let size = [1, 4, 1_000, 16_406, 60_000][random(5)].min(wire.len() - at);
                client.send_bytes(&wire[at..at + size]).await.unwrap();
                at += size;
            }
            let mut answer = Vec::new();
            let whole = loop {
                answer.extend(client.next_data().await.expect("data"));
                let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
                if let Some(end) = end.filter(|end| answer.len() >= end + 4 + length) {
                    break end + 4;
                }
            };
            pattern::assert_exact(&answer[whole..], length);
        }
    }
}

// ---- ends ----

#[tokio::test]
async fn an_idle_connection_is_closed_properly_in_time_and_by_a_drain() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &["--timeout-keep-alive-idle", "1s"]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
        client.ask("GET", "/").await;
        let begun = Instant::now();
        client.assert_closed().await;
        assert_took(begun, Duration::from_secs(1), Duration::from_secs(75));
    }
    drop(proxy);
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let mut clients = Vec::new();
    for versions in [ONLY_12, ONLY_13, ONLY_12, ONLY_13] {
        let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
        client.ask("GET", "/").await;
        clients.push(client);
    }
    let mut halves = Vec::new();
    for _ in 0..4 {
        halves.push(half_handshake(proxy.address, &authority.client(BOTH)).await);
    }
    let stopping = tokio::spawn(proxy.drain());
    for client in &mut clients {
        client.assert_closed().await;
    }
    drop(halves);
    stopping.await.unwrap().assert_clean();
}

#[tokio::test]
async fn a_response_under_way_is_complete_in_a_drain() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let mut client = Client::connect(proxy.address, &authority.client(BOTH)).await;
    client.send(GET).await;
    origin
        .recorder
        .wait_for("the request", |all| all.iter().any(|one| one.bytes.ends_with(b"\r\n\r\n")))
        .await;
    let pid = proxy.pid();
    let stopping = tokio::spawn(proxy.drain());
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    go.steps(1);
    assert_eq!(client.answer_to("GET").await.status(), 200);
    client.assert_closed().await;
    stopping.await.unwrap().assert_clean();
}

#[tokio::test]
async fn a_client_that_reads_nothing_disturbs_no_neighbour() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let config = authority.client(BOTH);
    let mut silent = Vec::new();
    for nth in 0..50 {
        let mut client = Client::connect_with_window(proxy.address, &config, 4096).await;
        let path = ["bytes", "chunked"][nth % 2];
        client.send(format!("GET /{path}/20000000 HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
        silent.push(client);
    }
    let mut neighbour = Client::connect(proxy.address, &config).await;
    for _ in 0..50 {
        pattern::assert_exact(&neighbour.ask("GET", "/bytes/100000").await.body, 100_000);
    }
    // One of them reads after all.
    let mut late = silent.swap_remove(0);
    pattern::assert_exact(&late.answer_to("GET").await.body, 20_000_000);
    drop((silent, late, neighbour));
    proxy.counters_until("all have left", |now| now.connections == 0 && now.buffers_held == 0).await;
}

#[tokio::test]
async fn no_connection_sees_the_plaintext_of_another() {
    const CLIENTS: usize = 60;
    const ROUNDS: usize = 12;
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let configs = [authority.client(ONLY_12), authority.client(ONLY_13)];
    let mut clients = JoinSet::new();
    for nth in 0..CLIENTS {
        let (config, address) = (configs[nth % 2].clone(), proxy.address);
        clients.spawn(async move {
            let own = nth as u8 + 1;
            let mut client = Client::connect(address, &config).await;
            for round in 0..ROUNDS {
                let length = (nth * 7919 + round * 104_729) % 90_001;
                let path = ["/echo", "/copy"][round % 2];
                let head =
                    format!("POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n");
                client.send(head).await;
                for piece in vec![own; length].chunks(1 + (nth * 31 + round * 997) % 20_000) {
                    // A proxy that has ended the connection says why in what it has sent.
                    if client.try_send(piece).await.is_err() {
                        break;
                    }
                }
                let answer = client.response("POST").await;
                let answer = answer.unwrap_or_else(|error| {
                    panic!("client {nth}, round {round}, {length} bytes to {path}: {error}");
                });
                assert_eq!(answer.body.len(), length, "client {nth}, round {round}");
                let found: BTreeSet<_> = answer.body.iter().copied().collect();
                assert!(found.iter().all(|&byte| byte == own), "client {nth} has {found:?}");
                // A response that begins before the end of the upload may end the connection.
                if round % 5 == 4 || answer.field("connection") == Some("close") {
                    client = Client::connect(address, &config).await;
                }
            }
        });
    }
    while let Some(joined) = within("all clients", clients.join_next()).await {
        joined.unwrap();
    }
    proxy.counters_until("all have left", |now| now.connections == 0 && now.buffers_held == 0).await;
    proxy.drain().await.assert_clean();
}

/// A client that ends its side between two requests, or in the middle of a head, gets our alert and nothing else: no response,
/// and no abuse is counted.
#[tokio::test]
async fn an_end_between_requests_is_answered_by_an_end() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let config = authority.client(ONLY_13);
    for begun in ["", "GET /be"] {
        let mut client = Records::connect(proxy.address, &config).await;
        client.data(GET).await;
        client.data_until("fine").await;
        if !begun.is_empty() {
            client.data(begun).await;
        }
        // A connection that stays open below: only the alert says that the client has ended.
        client.send(kind::ALERT, &[1, 0]).await.unwrap();
        let (kind, content) = client.next().await.unwrap().expect("an alert");
        assert_eq!((kind, content), (kind::ALERT, vec![1, 0]), "{begun:?}");
    }
    proxy.counters_until("none is left", |now| now.connections == 0).await;
    assert_eq!(proxy.live().await[0]["counters"]["abuse_dripped_heads"], 0);
}

/// What follows close_notify is no request any more.
#[tokio::test]
async fn nothing_behind_the_end_of_the_client_is_served() -> io::Result<()> {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        let mut wire = client.seal.seal(kind::DATA, GET.as_bytes(), 0);
        wire.extend(client.seal.seal(kind::ALERT, &[1, 0], 0));
        wire.extend(client.seal.seal(kind::DATA, b"GET /late HTTP/1.1\r\nHost: a.example\r\n\r\n", 0));
        client.send_bytes(&wire).await?;
        assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"));
        assert_eq!(client.last_alert().await, Some(0), "close_notify");
    }
    assert!(!origin.recorder.text().contains("/late"));
    Ok(())
}
