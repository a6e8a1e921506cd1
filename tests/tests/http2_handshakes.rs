//! How a stream of HTTP/2 becomes a tunnel, by extended CONNECT (RFC 8441) or CONNECT: what each side sees of the other, refusals,
//! servers that do not know of it.

use std::io;

use sluice_tests::{
    http2::{
        Ended, Http2,
        frames::{self, Frame, PREFACE, flag, kind},
    },
    origin::{self, Go, Http2Origin, Origin, Peer},
    proxy::Proxy,
    sides::Side,
    tls::Authority,
    tunnels::{
        Act, CONNECTS, Resets, Script, TEXT, assert_over, extended, group, h1_server, h2_server, hear, offer,
        offer_with, proxy_to,
    },
};

/// Field by field: what belongs to one version stays with it, the rest passes.
#[tokio::test]
async fn each_side_sees_a_handshake_of_its_own() {
    let fields = [
        ("sec-websocket-protocol", "chat, x"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "http://a"),
    ];
    let origin = h1_server(Act::Echo, Resets::default()).await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer_with(&mut client, &fields).await;
    client.send(frames::data(stream, 0, "hello")).await;
    assert_eq!(hear(&mut client, stream, 5).await, b"hello");
    let answer = &client.streams[&stream];
    assert_eq!((answer.status(), answer.field("x-own")), (200, Some("1")));
    for gone in ["sec-websocket-accept", "upgrade", "connection"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    let seen = origin.recorder.text();
    let head = &seen[..seen.find("\r\n\r\n").expect("a head") + 4];
    assert!(head.starts_with("GET /chat HTTP/1.1\r\nHost: test\r\n"), "{head}");
    for (name, value) in fields.iter().chain(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
    ]) {
        let lines =
            head.lines().filter(|line| line.to_lowercase() == format!("{name}: {value}").to_lowercase());
        assert_eq!(lines.count(), 1, "{name}: {head}");
    }
    assert!(!head.contains(":protocol"), "{head}");
}

#[tokio::test]
async fn a_refusal_passes_with_its_body() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let origin = origin::answers(refusal).await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    let answer = client.answer(stream).await;
    assert_eq!((answer.status(), &*answer.text()), (403, "no"));
    client.assert_open().await;

    let origin = Http2Origin::scripted(CONNECTS, |_, mut http| async move {
        http.wait(|http| http.streams.get(&1).is_some_and(|one| one.head.is_some())).await?;
        let head = frames::block(&[(":status", "403"), ("content-length", "2")]);
        http.try_send([frames::headers(1, 0, head), frames::data(1, flag::END_STREAM, "no")].concat())
            .await?;
        while http.more().await? {}
        Ok(())
    })
    .await;
    let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    let answer = client.answer(stream).await;
    assert_eq!((answer.status(), &*answer.text()), (403, "no"));
    assert_eq!(proxy.counters().await.named("tunnels_opened"), 0);
}

#[tokio::test]
async fn a_route_that_does_not_allow_it_refuses() {
    let origin = h1_server(Act::Echo, Resets::default()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    for fields in [
        extended("websocket", &[]),
        extended("own", &[]),
        vec![(":method", "CONNECT"), (":authority", "test:443")],
    ] {
        let stream = client.next_stream();
        client.send(frames::headers(stream, 0, frames::block(&fields))).await;
        assert_eq!(client.answer(stream).await.status(), 400, "{fields:?}");
    }
    client.assert_open().await;
    assert_eq!(proxy.counters().await.named("tunnels_refused"), 3);
    assert_eq!(origin.recorder.connections(), 0);
}

/// The client cannot check the answer to a key that it has not made.
#[tokio::test]
async fn a_server_that_has_not_understood_the_handshake_is_a_bad_gateway() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for answer in [
        format!("{switch}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        format!("{switch}\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
    ] {
        let origin = origin::answers(answer.clone()).await;
        let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = offer(&mut client).await;
        assert_eq!(client.answer(stream).await.status(), 502, "{answer}");
        client.assert_open().await;
        let counters = proxy.counters().await;
        assert_eq!(
            (counters.named("upstream_bad_responses"), counters.named("tunnels_opened")),
            (1, 0),
            "{answer}"
        );
    }
}

/// It gets nothing that it has not permitted; other requests are not concerned.
#[tokio::test]
async fn a_server_without_extended_connect_gets_none() {
    let origin = Http2Origin::scripted(&[], |_, mut http| async move {
        loop {
            let asked: Vec<u32> = http.streams.keys().copied().collect();
            for stream in asked {
                let request = http.streams.remove(&stream).expect("it is there");
                let method = request.field(":method").unwrap_or("nothing").to_owned();
                http.try_send(origin::answer(stream, &method)).await?;
            }
            if !http.more().await? {
                return Ok(());
            }
        }
    })
    .await;
    let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..2 {
        let stream = offer(&mut client).await;
        let answer = client.answer(stream).await;
        assert_eq!(answer.status(), 502);
        assert!(answer.text().contains("extended CONNECT"), "{}", answer.text());
    }
    assert_eq!(client.get("/").await.text(), "GET");
    assert_eq!(proxy.counters().await.named("upstream_bad_responses"), 2);
    assert_eq!(origin.accepted(), 1);
}

/// Whether a client's bytes have the head of a request in them.
fn has_request(bytes: &[u8]) -> bool {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or_default();
    while let Some((frame, length)) = Frame::parse(rest) {
        if frame.kind == kind::HEADERS {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

/// Its settings decide, so they are waited for; and no longer than for a connection.
#[tokio::test]
async fn the_settings_of_a_server_are_waited_for() {
    let go = Go::new();
    let gate = go.clone();
    let late = Origin::scripted(move |mut peer: Peer| {
        let gate = gate.clone();
        async move {
            let mut heard = peer.some().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            gate.wait().await?;
            peer.send(frames::settings(CONNECTS)).await?;
            while !has_request(&heard) {
                heard.extend(peer.some().await?.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            peer.send(frames::headers(1, 0, frames::block(&[(":status", "200")]))).await?;
            peer.send(frames::data(1, 0, "hello")).await?;
            peer.until_closed().await
        }
    })
    .await;
    let (proxy, _) = proxy_to(Side::H2, late.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    late.recorder.wait_for("the preface", |all| all.iter().any(|one| one.bytes.len() >= 24)).await;
    client.assert_open().await;
    assert!(!has_request(&late.recorder.traffic()[0].bytes), "it was asked before it had permitted that");
    go.steps(1);
    assert_eq!(hear(&mut client, stream, 5).await, b"hello");

    let never = Origin::scripted(|mut peer: Peer| async move { peer.until_closed().await }).await;
    let (proxy, _) = proxy_to(Side::H2, never.address, "[timeouts]\nupstream_connect = \"300ms\"\n").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    assert_eq!(client.answer(stream).await.status(), 504);

    let leaves = Origin::scripted(|mut peer: Peer| async move { peer.some().await.map(drop) }).await;
    let (proxy, _) = proxy_to(Side::H2, leaves.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = offer(&mut client).await;
    assert_eq!(client.answer(stream).await.status(), 502);
    assert_eq!(leaves.recorder.connections(), 1);
}

#[tokio::test]
async fn connect_is_a_tunnel_over_http2() {
    for fields in ["", "Content-Length: 10\r\n"] {
        let origin = origin::answers_and_echoes(format!("HTTP/1.1 200 Fine\r\n{fields}\r\n")).await;
        let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.next_stream();
        let connect = frames::block(&[(":method", "CONNECT"), (":authority", "a:443")]);
        client.send(frames::headers(stream, 0, connect)).await;
        client.until("the head", |all| all.stream(stream).is_some_and(|one| one.status() != 0)).await;
        client.send(frames::data(stream, flag::END_STREAM, "hello")).await;
        let answer = client.answer(stream).await;
        assert_eq!((answer.status(), answer.field("content-length"), &*answer.text()), (200, None, "hello"));
        assert!(origin.recorder.text().starts_with("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n"));
        assert_over(&proxy, 1, 0).await;
    }
    // A failed connection is a CONNECT_ERROR (RFC 9113, section 8.5).
    let origin = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.send("HTTP/1.1 200 Fine\r\n\r\n").await?;
        peer.some().await?;
        peer.reset()
    })
    .await;
    let (proxy, _) = proxy_to(Side::H1, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.next_stream();
    client
        .send(frames::headers(stream, 0, frames::block(&[(":method", "CONNECT"), (":authority", "a:443")])))
        .await;
    client.until("the head", |all| all.stream(stream).is_some_and(|one| one.status() != 0)).await;
    client.send(frames::data(stream, 0, "hello")).await;
    assert_eq!(client.reset_code(stream).await, 10);
    // Between two connections of HTTP/2.
    let origin = h2_server(Act::Echo, Resets::default()).await;
    let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.next_stream();
    client
        .send(frames::headers(stream, 0, frames::block(&[(":method", "CONNECT"), (":authority", "a:443")])))
        .await;
    client.send(frames::data(stream, flag::END_STREAM, "hello")).await;
    let answer = client.answer(stream).await;
    assert_eq!((answer.status(), &*answer.text(), answer.ended), (200, "hello", Some(Ended::Properly)));
}

/// Other protocols than WebSocket, where the route has them.
#[tokio::test]
async fn other_protocols_pass_by_extended_connect() {
    for to in TEXT {
        let server = match to {
            Side::H1 => Script::H1(origin::switches_and_echoes().await, Resets::default()),
            _ => Script::new(to, Act::Echo).await,
        };
        let group = group("app", to, server.address(), &Authority::new());
        let tables = format!("{group}[[route]]\nupstream = \"app\"\nupgrade = [\"own\"]\n");
        let proxy = Proxy::configured(1, &tables).await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.next_stream();
        client.send(frames::headers(stream, 0, frames::block(&extended("own", &[])))).await;
        client.send(frames::data(stream, 0, "hello")).await;
        assert_eq!(hear(&mut client, stream, 5).await, b"hello", "{to:?}");
        assert_eq!(proxy.counters().await.named("tunnels_opened"), 1);
    }
}
