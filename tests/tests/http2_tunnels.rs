//! What passes through tunnels of which at least one side is a stream of HTTP/2, and how they end: ends and resets of either side,
//! slow readers, silence, drain, memory.

use std::{
    io,
    time::{Duration, Instant},
};

use sluice_tests::{
    assert_took,
    http2::{
        Ended, Http2,
        frames::{self, code, flag, setting},
    },
    pattern,
    proxy::Proxy,
    sides::Side,
    tls::Authority,
    tunnels::{
        Act, Resets, Script, TEXT, WS_ROUTE, assert_over, extended, group, h2_server, hear, open, proxy_to,
        upgraded,
    },
    within,
};

/// Bytes and ends of a client pass, half by half, in both directions.
#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    for to in TEXT {
        // The client ends first.
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = open(&mut client).await;
        client.send(frames::data(stream, flag::END_STREAM, "hello")).await;
        let answer = client.answer(stream).await;
        assert_eq!((&*answer.text(), answer.ended), ("hello", Some(Ended::Properly)), "{to:?}");
        assert_over(&proxy, 1, 0).await;
        client.assert_open().await;

        // The server ends first, and still hears.
        let server = Script::new(to, Act::Finish).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = open(&mut client).await;
        client.send(frames::data(stream, 0, "hello")).await;
        client.until("its end", |all| all.stream(stream).is_some_and(|one| one.is_complete)).await;
        client.send(frames::data(stream, 0, "and more")).await;
        client.assert_open().await;
        assert_eq!(proxy.counters().await.named("tunnels"), 1, "{to:?}");
        client.send(frames::data(stream, flag::END_STREAM, "")).await;
        let answer = client.answer(stream).await;
        assert_eq!((&*answer.text(), answer.ended), ("bye", Some(Ended::Properly)), "{to:?}");
        assert_over(&proxy, 1, 0).await;
        if let Script::H1(origin, _) = server {
            origin.recorder.wait_for("its end", |all| all[0].ended).await;
            assert!(origin.recorder.text().ends_with("helloand more"), "{}", origin.recorder.text());
        }
    }
}

/// The same from a client of HTTP/1.1.
#[tokio::test]
async fn fin_and_end_stream_stand_for_each_other() {
    for act in [Act::Echo, Act::Finish] {
        let origin = h2_server(act, Resets::default()).await;
        let (proxy, _) = proxy_to(Side::H2, origin.address, "").await;
        let mut client = upgraded(&proxy).await;
        client.send("hello").await;
        let expected: &[u8] = if matches!(act, Act::Echo) { b"hello" } else { b"bye" };
        let mut heard = Vec::new();
        if matches!(act, Act::Echo) {
            client.half_close().await;
        }
        while let Some(bytes) = client.some().await.expect("bytes") {
            heard.extend_from_slice(&bytes);
        }
        assert_eq!(heard, expected);
        if matches!(act, Act::Finish) {
            assert_eq!(proxy.counters().await.named("tunnels"), 1);
            client.half_close().await;
        }
        assert_over(&proxy, 1, 0).await;
    }
}

#[tokio::test]
async fn resets_pass_in_both_directions() {
    for to in TEXT {
        // By the server.
        let server = Script::new(to, Act::Reset).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = open(&mut client).await;
        client.send(frames::data(stream, 0, "hello")).await;
        assert_eq!(client.reset_code(stream).await, code::CANCEL, "{to:?}");
        client.assert_open().await;
        if to == Side::H2 {
            let mut client = upgraded(&proxy).await;
            client.acknowledge();
            client.send("hello").await;
            let end = within("a reset", client.some()).await;
            assert!(
                end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset),
                "{end:?}"
            );
        }
        assert_over(&proxy, if to == Side::H2 { 2 } else { 1 }, if to == Side::H2 { 2 } else { 1 }).await;

        // By the client.
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut client = Http2::connect(proxy.address).await;
        let (stream, other) = (open(&mut client).await, open(&mut client).await);
        client.send(frames::data(stream, 0, "hello")).await;
        hear(&mut client, stream, 5).await;
        client.send(frames::reset(stream, code::CANCEL)).await;
        server.resets().until_one().await;
        proxy.counters_until("one tunnel", |now| now.named("tunnels") == 1).await;
        client.send(frames::data(other, 0, "still here")).await;
        assert_eq!(hear(&mut client, other, 10).await, b"still here", "{to:?}");
        drop(client);
        assert_over(&proxy, 2, 2).await;
    }
}

/// A server that reads nothing stops its own stream, after what the windows have room for; its neighbours go on.
#[tokio::test]
async fn a_stuck_server_stops_its_own_stream_only() {
    for to in TEXT {
        let stuck = Script::new(to, Act::Nothing).await;
        let lively = Script::new(to, Act::Echo).await;
        let authority = Authority::new();
        let proxy = Proxy::configured(
            1,
            &format!(
                "{}{}[[route]]\nupstream = \"stuck\"\n{WS_ROUTE}\n[[route]]\nupstream = \"lively\"\nhost = \"lively\"\n{WS_ROUTE}\n",
                group("stuck", to, stuck.address(), &authority),
                group("lively", to, lively.address(), &authority),
            ),
        )
        .await;
        let mut client = Http2::connect(proxy.address).await;
        let dead = open(&mut client).await;
        let mut fields = extended("websocket", &[]);
        fields[3] = (":authority", "lively");
        let alive = client.next_stream();
        client.send(frames::headers(alive, 0, frames::block(&fields))).await;
        // More than the proxy may keep: as much as it gives credit for, until it gives no more.
        let mut sent = 0;
        let piece = vec![b'x'; 16_384];
        let before = proxy.resident_bytes();
        let mut pauses = 0;
        while pauses < 20 {
            let credit = client.credit.get(&dead).copied().unwrap_or(0) + 65_535;
            let shared = client.credit.get(&0).copied().unwrap_or(0) + 65_535;
            if credit.min(shared) >= sent + piece.len() as u64 {
                client.send(frames::data(dead, 0, &piece)).await;
                sent += piece.len() as u64;
                pauses = 0;
                client.glance().await;
            } else {
                client.assert_open().await;
                pauses += 1;
            }
            assert!(sent < 64 << 20, "{to:?}: the proxy takes all of it");
        }
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "{to:?}: {grown} bytes for {sent} bytes that nothing takes");
        client.send(frames::data(alive, 0, "hello")).await;
        assert_eq!(hear(&mut client, alive, 5).await, b"hello", "{to:?}");
        let counters = proxy.counters().await;
        assert_eq!((counters.named("tunnels"), counters.named("tunnels_aborted")), (2, 0));
    }
}

/// A client that opens no window stops its own stream only.
#[tokio::test]
async fn a_stuck_client_stops_its_own_stream_only() {
    for to in TEXT {
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "").await;
        let mut stuck = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 10)]).await;
        let stream = open(&mut stuck).await;
        stuck.gives_credit = false;
        let all = pattern::bytes(20_000);
        stuck
            .send(all.chunks(10_000).flat_map(|piece| frames::data(stream, 0, piece)).collect::<Vec<_>>())
            .await;
        assert_eq!(hear(&mut stuck, stream, 10).await, pattern::bytes(10));
        // Beside it, on the same connections.
        let other = open(&mut stuck).await;
        stuck.send(frames::data(other, 0, "0123456789")).await;
        assert_eq!(hear(&mut stuck, other, 10).await, b"0123456789", "{to:?}");
        // ... and it goes on where it was stopped.
        stuck.send(frames::window_update(stream, 100_000)).await;
        assert_eq!(hear(&mut stuck, stream, 20_000).await, pattern::bytes(20_000), "{to:?}");
    }
}

/// One that takes nothing for too long is cut off.
#[tokio::test]
async fn a_stalled_client_is_cut_off() {
    for to in TEXT {
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "[timeouts]\nwrite_stall = \"300ms\"\n").await;
        let mut client = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 10)]).await;
        let stream = open(&mut client).await;
        client.gives_credit = false;
        let begun = Instant::now();
        client.send(frames::data(stream, 0, [b'x'; 1000])).await;
        assert_eq!(client.reset_code(stream).await, code::CANCEL, "{to:?}");
        assert_took(begun, Duration::from_millis(300), Duration::from_secs(30));
        assert_over(&proxy, 1, 1).await;
    }
}

#[tokio::test]
async fn silent_tunnels_end() {
    for to in TEXT {
        let server = Script::new(to, Act::Echo).await;
        let (proxy, _) = proxy_to(to, server.address(), "[timeouts]\ntunnel_idle = \"400ms\"\n").await;
        let mut client = Http2::connect(proxy.address).await;
        let begun = Instant::now();
        let stream = open(&mut client).await;
        assert_eq!(client.reset_code(stream).await, code::CANCEL, "{to:?}");
        assert_took(begun, Duration::from_millis(400), Duration::from_secs(1800));
        assert_over(&proxy, 1, 0).await;
        assert_eq!(proxy.counters().await.named("tunnel_idle_timeouts"), 1);
    }
}

/// A drain leaves tunnels their time, and then ends them.
#[tokio::test]
async fn a_drain_ends_tunnels_after_its_time() {
    let server = Script::new(Side::H2, Act::Echo).await;
    let (proxy, _) = proxy_to(Side::H2, server.address(), "drain_timeout = \"1s\"\n").await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = open(&mut client).await;
    proxy.signal(rustix::process::Signal::TERM);
    client.until("GOAWAY", |all| !all.go_aways.is_empty()).await;
    client.send(frames::data(stream, 0, "hello")).await;
    assert_eq!(hear(&mut client, stream, 5).await, b"hello");
    client.closed().await;
}

/// Bytes of memory of the proxy for a quiet tunnel between two connections of HTTP/2, which carry many.
#[tokio::test]
async fn quiet_tunnels_take_little_memory() {
    const EACH: usize = 100;
    const CONNECTIONS: usize = 20;
    let server = Script::new(Side::H2, Act::Echo).await;
    let (proxy, _) = proxy_to(Side::H2, server.address(), "").await;
    let mut clients = Vec::new();
    let mut measured = 0;
    for nth in 0..CONNECTIONS {
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..EACH {
            open(&mut client).await;
        }
        clients.push(client);
        if nth == 0 {
            measured = proxy.resident_bytes();
        }
    }
    let tunnels = ((CONNECTIONS - 1) * EACH) as u64;
    let bytes = proxy.resident_bytes().saturating_sub(measured) / tunnels;
    println!("{bytes} bytes per quiet tunnel, of a debug build");
    assert!(bytes < 4096, "{bytes} bytes per quiet tunnel");
    let counters = proxy.counters().await;
    // One for each connection that has streams, and none for a tunnel.
    assert_eq!(
        (counters.named("tunnels"), counters.tasks_busy),
        ((EACH * CONNECTIONS) as u64, CONNECTIONS as u64),
        "{counters:?}"
    );
    let mut buffer = clients.pop().expect("a client");
    buffer.send(frames::data(1, 0, "hello")).await;
    assert_eq!(hear(&mut buffer, 1, 5).await, b"hello");
}
