//! WebSockets whose frames are read: messages, limits, broken frames, Pings, drains, and peers that misbehave, in all pairs of HTTP/1.1
//! and HTTP/2. What both peers get, how both connections end, and what is counted.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use sluice_tests::{
    assert_took, client, pattern,
    proxy::{Counters, Proxy},
    websocket_frames::{Http, KEY, PAIRS, Server, Socket, frame, head},
    within,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A proxy with a route whose frames are read by these keys, and one without, to the same server.
async fn proxy_to(url: &str, keys: &str, more: &str) -> Proxy {
    let text = format!(
        "{more}\n[[upstream]]\nname = \"app\"\nservers = [\"{url}\"]\n\
         [[route]]\nupstream = \"app\"\nupgrade = [\"websocket\"]\n[route.websocket]\n{keys}\n\
         [[route]]\nupstream = \"app\"\npath = \"/unread\"\nupgrade = [\"websocket\"]\n"
    );
    Proxy::configured(1, &text).await
}

/// Both ends of a WebSocket through a proxy.
struct Through {
    proxy: Proxy,
    server: Server,
    client_end: Socket,
    server_end: Socket,
}

async fn through((from, to): (Http, Http), keys: &str, more: &str) -> Through {
    let mut server = Server::start(to, "").await;
    let proxy = proxy_to(&server.url, keys, more).await;
    let client_end = Socket::open(from, proxy.address, "/").await;
    let server_end = server.next().await;
    Through { proxy, server, client_end, server_end }
}

/// Nothing is left of this many tunnels, none of which was aborted; this was counted once.
async fn assert_over(proxy: &Proxy, opened: u64, counter: &str) {
    let is_over = |now: &Counters| {
        (now.named("tunnels"), now.named("tunnels_opened"), now.buffers_held, now.tasks_busy)
            == (0, opened, 0, 0)
    };
    let after = proxy.counters_until("all is over", is_over).await;
    assert_eq!(after.named("tunnels_aborted"), 0, "{after:?}");
    for name in [
        "websocket_frames_broken",
        "websocket_messages_too_large",
        "websocket_messages_too_many",
        "websocket_ping_timeouts",
        "websocket_drained",
        "websocket_close_timeouts",
        "tunnel_idle_timeouts",
    ] {
        assert_eq!(after.named(name), u64::from(name == counter), "{name}: {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_as_they_come_in_all_pairs() {
    for pair in PAIRS {
        let keys = "frames = true\nmessage_bytes = \"8MiB\"\nmessage_rate = 100000";
        let Through { proxy, server: _server, client_end, server_end } = through(pair, keys, "").await;
        let mut server_end = WebSocketStream::from_raw_socket(server_end.into_io(), Role::Server, None).await;
        let echo = tokio::spawn(async move {
            while let Some(Ok(message)) = server_end.next().await {
                if (message.is_text() || message.is_binary()) && server_end.send(message).await.is_err() {
                    return;
                }
            }
            let _ = tokio::io::AsyncWriteExt::shutdown(server_end.get_mut()).await;
        });
        let mut socket = WebSocketStream::from_raw_socket(client_end.into_io(), Role::Client, None).await;
        let mut messages = vec![Message::binary(Vec::new()), Message::binary(pattern::bytes(6 << 20))];
        messages.extend(
            [1, 125, 126, 127, 4096, 65_535, 65_536, 70_000].map(|bytes| Message::text("x".repeat(bytes))),
        );
        for message in messages {
            socket.send(message.clone()).await.expect("it is taken");
            let echo = within("the echo", socket.next()).await.expect("an echo").expect("a message");
            assert!(echo == message, "{pair:?}: {} bytes came back as {}", message.len(), echo.len());
        }
        socket.send(Message::Ping("there?".into())).await.expect("it is taken");
        assert_eq!(within("pong", socket.next()).await.unwrap().unwrap(), Message::Pong("there?".into()));
        socket.close(None).await.expect("it is taken");
        assert!(within("the closing handshake", socket.next()).await.unwrap().unwrap().is_close());
        while let Some(Ok(_)) = within("the end", socket.next()).await {}
        let _ = tokio::io::AsyncWriteExt::shutdown(socket.get_mut()).await;
        within("the echo ends", echo).await.unwrap();
        let is_over = |now: &Counters| now.named("tunnels") == 0;
        let after = proxy.counters_until("all is over", is_over).await;
        assert_eq!(
            after.named("websocket_frames_broken") + after.named("websocket_close_timeouts"),
            0,
            "{after:?}"
        );
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_split_of_the_bytes_arrives_unchanged() {
    let mut bytes = Vec::new();
    for length in [0, 1, 7, 125, 126, 300, 65_536] {
        bytes.extend(frame(BINARY, &pattern::bytes(length), true));
        bytes.extend(frame(PING, b"between", true));
    }
    bytes.extend([frame(0x01, b"in ", true), frame(0x00, b"three", true), frame(0x80, b"", true)].concat());
    for pair in PAIRS {
        let Through { proxy: _proxy, server: _server, mut client_end, mut server_end } =
            through(pair, "frames = true", "").await;
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            // Byte by byte where heads are, in larger pieces later.
            let (first, rest) = sent.split_at(900);
            for byte in first.chunks(1) {
                client_end.send(byte).await;
            }
            for piece in rest.chunks(4_099) {
                client_end.send(piece).await;
            }
            client_end
        });
        for length in [0, 1, 7, 125, 126, 300, 65_536] {
            let received = server_end.frame().await.expect("a frame");
            assert_eq!(received.key, Some(KEY), "its mask is the client's");
            assert!(
                received.first == BINARY && received.payload == pattern::bytes(length),
                "{pair:?} {length}"
            );
            server_end.expect(PING, b"between").await;
        }
        server_end.expect(0x01, b"in ").await;
        server_end.expect(0x00, b"three").await;
        server_end.expect(0x80, b"").await;
        within("all is sent", sending).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_large_is_refused_at_its_head() {
    for pair in PAIRS {
        let keys = "message_bytes = \"1KiB\"";
        // One at the limit, in two frames, and a head of one above it.
        for (is_client, last) in [(true, head(BINARY, 1025, true)), (false, head(BINARY, 1 << 40, false))] {
            let Through { proxy, server: _server, mut client_end, mut server_end } =
                through(pair, keys, "").await;
            {
                let (from, to) = if is_client {
                    (&mut client_end, &mut server_end)
                } else {
                    (&mut server_end, &mut client_end)
                };
                from.send_frame(0x02, &[7; 1000]).await;
                from.send_frame(0x80, &[8; 24]).await;
                from.send(&last).await;
                to.expect(0x02, &[7; 1000]).await;
                to.expect(0x80, &[8; 24]).await;
            }
            let (mut offender, mut other) =
                if is_client { (client_end, server_end) } else { (server_end, client_end) };
            other.expect_close(1001).await;
            offender.expect_close(1009).await;
            // What was begun goes on, and is followed by the answer to the Close.
            if is_client {
                offender.send(&[0; 1025]).await;
                offender.send_frame(CLOSE, &1009_u16.to_be_bytes()).await;
            } else {
                offender.finish().await;
            }
            other.send_frame(CLOSE, &1001_u16.to_be_bytes()).await;
            assert_eq!(other.frame().await, None, "{pair:?}");
            assert_eq!(offender.frame().await, None, "{pair:?}");
            other.finish().await;
            offender.finish().await;
            assert_over(&proxy, 1, "websocket_messages_too_large").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_messages_are_refused() {
    for pair in PAIRS {
        for (first, payload) in [(TEXT, &b"hi"[..]), (PING, b""), (PONG, b"")] {
            // The server may send as many as it likes.
            let keys = "message_rate = 1\nmessage_burst = 20";
            let Through { proxy, server: _server, mut client_end, mut server_end } =
                through(pair, keys, "").await;
            for _ in 0..60 {
                server_end.send_frame(TEXT, b"news").await;
            }
            for _ in 0..60 {
                client_end.expect(TEXT, b"news").await;
            }
            client_end.send(&frame(first, payload, true).repeat(3_000)).await;
            let mut count = 0;
            let closing = loop {
                let frame = server_end.frame().await.expect("a frame");
                if frame.first == CLOSE {
                    break frame;
                }
                assert_eq!((frame.first, &frame.payload[..]), (first, payload));
                count += 1;
            };
            assert!((20..3_000).contains(&count), "{pair:?}: {count}");
            assert_eq!(closing.code(), Some(1001));
            server_end.send_frame(CLOSE, &1001_u16.to_be_bytes()).await;
            client_end.close_in_order(1008).await;
            assert_eq!(server_end.frame().await, None);
            server_end.finish().await;
            assert_over(&proxy, 1, "websocket_messages_too_many").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_go_no_further() {
    let masked = |first, payload: &[u8]| frame(first, payload, true);
    let cases: [(&str, Vec<u8>); 9] = [
        ("RSV1", masked(0xc1, b"x")),
        ("RSV2", masked(0xa1, b"x")),
        ("opcode", masked(0x83, b"x")),
        ("without a mask", frame(TEXT, b"x", false)),
        ("Ping in pieces", masked(0x09, b"x")),
        ("long Ping", masked(PING, &[0; 126])),
        ("continuation", masked(0x80, b"x")),
        ("code", masked(CLOSE, &[3, 0xed])),
        ("wide length", vec![TEXT, 0x80 | 126, 0, 1, 1, 2, 3, 4, 5]),
    ];
    for pair in PAIRS {
        for (what, bytes) in &cases {
            let Through { proxy, server: _server, mut client_end, mut server_end } =
                through(pair, "frames = true", "").await;
            client_end.send_frame(TEXT, b"before").await;
            client_end.send(&[&bytes[..], &masked(TEXT, b"behind")].concat()).await;
            server_end.expect(TEXT, b"before").await;
            server_end.close_in_order(1001).await;
            client_end.expect_close(1002).await;
            assert_eq!(client_end.frame().await, None, "{pair:?} {what}");
            client_end.finish().await;
            assert_over(&proxy, 1, "websocket_frames_broken").await;
        }
        // The server's, which are not masked.
        let Through { proxy, server: _server, mut client_end, mut server_end } =
            through(pair, "frames = true", "").await;
        server_end.send(&[frame(TEXT, b"before", false), frame(TEXT, b"x", true)].concat()).await;
        client_end.expect(TEXT, b"before").await;
        client_end.close_in_order(1001).await;
        server_end.expect_close(1002).await;
        assert_eq!(server_end.frame().await, None);
        server_end.finish().await;
        assert_over(&proxy, 1, "websocket_frames_broken").await;
    }
}

/// RFC 7692: compressed messages pass where the server has agreed to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_messages_pass_where_that_is_agreed() {
    for (from, to) in PAIRS {
        let mut server = Server::start(to, "permessage-deflate; server_no_context_takeover").await;
        let proxy = proxy_to(&server.url, "frames = true", "").await;
        let mut client_end = Socket::open(from, proxy.address, "/").await;
        let mut server_end = server.next().await;
        client_end.send_frame(0xc1, b"packed").await;
        server_end.expect(0xc1, b"packed").await;
        server_end.send_frame(0xc2, b"packed too").await;
        client_end.expect(0xc2, b"packed too").await;
        client_end.send_frame(0xa1, b"RSV2").await;
        server_end.close_in_order(1001).await;
        client_end.expect_close(1002).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_peers_are_asked_and_those_that_answer_stay() {
    for pair in PAIRS {
        for is_client in [true, false] {
            let keys = "ping_idle = \"150ms\"\nping_timeout = \"1s\"";
            let Through { proxy, server: _server, mut client_end, mut server_end } =
                through(pair, keys, "").await;
            // Both answer for a while.
            for _ in 0..3 {
                for end in [&mut client_end, &mut server_end] {
                    let asked = end.frame().await.expect("a Ping");
                    assert_eq!(asked.first, PING, "{asked:?}");
                    end.send_frame(PONG, &asked.payload).await;
                }
            }
            // Then one does not: no Pong of the other has come to it.
            let (mut silent, mut other) =
                if is_client { (client_end, server_end) } else { (server_end, client_end) };
            let answering = tokio::spawn(async move {
                loop {
                    let frame = other.frame().await.expect("a frame");
                    match frame.first {
                        PING => other.send_frame(PONG, &frame.payload).await,
                        _ => break (frame, other),
                    }
                }
            });
            let (closing, mut other) = within("its end", answering).await.unwrap();
            assert_eq!(closing.code(), Some(1001), "{closing:?}");
            other.send_frame(CLOSE, &closing.payload).await;
            assert_eq!(other.frame().await, None);
            let mut frames = Vec::new();
            while let Some(frame) = silent.frame().await {
                frames.push(frame.first);
            }
            assert!(frames == [PING, CLOSE], "{pair:?}: {frames:x?}");
            other.finish().await;
            silent.finish().await;
            assert_over(&proxy, 1, "websocket_ping_timeouts").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pongs_to_our_pings_keep_no_tunnel_open() {
    for pair in PAIRS {
        let keys = "ping_idle = \"100ms\"\nping_timeout = \"50s\"";
        let begun = Instant::now();
        let Through { proxy, server: _server, client_end, server_end } =
            through(pair, keys, "timeouts.tunnel_idle = \"1s\"").await;
        let mut answering = JoinSet::new();
        for mut end in [client_end, server_end] {
            answering.spawn(async move {
                while let Some(frame) = end.frame().await {
                    let first = if frame.first == PING { PONG } else { CLOSE };
                    end.send_frame(first, &frame.payload).await;
                    if first == CLOSE {
                        assert_eq!(frame.code(), Some(1001));
                        assert_eq!(end.frame().await, None);
                        break;
                    }
                }
                end.finish().await;
            });
        }
        within("both end", async {
            while let Some(ended) = answering.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        assert_took(begun, Duration::from_secs(1), Duration::from_secs(40));
        assert_over(&proxy, 1, "tunnel_idle_timeouts").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_at_the_end_of_a_frame() {
    for pair in PAIRS {
        let Through { proxy, server: _server, mut client_end, mut server_end } =
            through(pair, "frames = true\nclose_timeout = \"1h\"", "drain_timeout = \"1h\"").await;
        // In the middle of a frame of each, and of a head behind the client's.
        let (of_client, of_server) = (frame(BINARY, &[1; 5_000], true), frame(TEXT, &[b'x'; 300], false));
        client_end.send(&of_client[..2_000]).await;
        server_end.send(&of_server[..100]).await;
        let moved = |now: &Counters| now.named("tunnels") == 1 && now.buffers_held == 0;
        proxy.counters_until("they are on their way", moved).await;
        proxy.signal(Signal::TERM);
        tokio::time::sleep(Duration::from_millis(100)).await;
        client_end.send(&[&of_client[2_000..], &[BINARY][..]].concat()).await;
        server_end.expect(BINARY, &[1; 5_000]).await;
        server_end.expect_close(1001).await;
        // The proxy waits for the rest of the server's frame.
        server_end.send(&of_server[100..]).await;
        client_end.expect(TEXT, &[b'x'; 300]).await;
        client_end.expect_close(1001).await;
        // A message that crosses it is no fault, and goes nowhere.
        client_end.send(&frame(BINARY, b"crosses it", true)[1..]).await;
        client_end.send_frame(CLOSE, &1001_u16.to_be_bytes()).await;
        server_end.send_frame(CLOSE, &1001_u16.to_be_bytes()).await;
        assert_eq!((client_end.frame().await, server_end.frame().await), (None, None), "{pair:?}");
        client_end.finish().await;
        server_end.finish().await;
        drop((client_end, server_end));
        // Long before its deadline.
        proxy.stopped().await.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_opened_in_a_drain_is_closed_at_once() {
    let mut server = Server::start(Http::One, "").await;
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = proxy_to(
        &format!("http://{}", slow.local_addr().unwrap()),
        "frames = true",
        "drain_timeout = \"1h\"",
    )
    .await;
    let address = proxy.address;
    let opening = tokio::spawn(async move { Socket::open(Http::One, address, "/").await });
    let (mut late, _) = within("the request", slow.accept()).await.unwrap();
    proxy.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Answered by a server behind it.
    let target = server.url.trim_start_matches("http://").to_owned();
    let mut onward = tokio::net::TcpStream::connect(target).await.unwrap();
    let relaying = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut late, &mut onward).await });
    let (client_end, server_end) = (within("the handshake", opening).await.unwrap(), server.next().await);
    tokio::join!(client_end.close_in_order(1001), server_end.close_in_order(1001));
    proxy.stopped().await.assert_clean();
    relaying.abort();
}

/// Neither answers the Close, and one does not even read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_do_not_close_are_left_after_the_timeout() {
    for pair in PAIRS {
        let keys = "message_bytes = \"64KiB\"\nclose_timeout = \"500ms\"";
        let Through { proxy, server: _server, mut client_end, mut server_end } =
            through(pair, keys, "").await;
        let begun = Instant::now();
        client_end.send(&head(BINARY, 1 << 20, true)).await;
        server_end.expect_close(1001).await;
        client_end.expect_close(1009).await;
        // It goes on sending, and the other says nothing.
        let flood = frame(TEXT, &[b'f'; 1000], true).repeat(20);
        while client_end.try_send(&flood).await.is_ok() && begun.elapsed() < Duration::from_secs(20) {}
        assert_eq!(server_end.frame().await, None, "{pair:?}");
        assert_took(begun, Duration::from_millis(500), Duration::from_secs(5));
        let is_over = |now: &Counters| now.named("tunnels") == 0;
        let after = proxy.counters_until("it is over", is_over).await;
        assert_eq!(after.named("websocket_close_timeouts"), 1, "{after:?}");
        assert_eq!(
            (after.named("websocket_messages_too_large"), after.named("websocket_messages_too_many")),
            (1, 0)
        );
    }
}

/// A closing handshake of the peers' own that does not come to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_without_an_answer_is_bounded() {
    for pair in PAIRS {
        let keys = "frames = true\nclose_timeout = \"500ms\"";
        let Through { proxy, server: _server, mut client_end, mut server_end } =
            through(pair, keys, "").await;
        client_end.send_frame(CLOSE, &[0x03, 0xe8, b'b', b'y', b'e']).await;
        client_end.send(b"anything behind it").await;
        server_end.expect(CLOSE, &[0x03, 0xe8, b'b', b'y', b'e']).await;
        let begun = Instant::now();
        assert_eq!(server_end.frame().await, None, "{pair:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        let is_over = |now: &Counters| now.named("tunnels") == 0;
        let after = proxy.counters_until("it is over", is_over).await;
        assert_eq!(
            (after.named("websocket_close_timeouts"), after.named("tunnels_aborted")),
            (1, 0),
            "{after:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_head_and_drips_hold_nothing_up() {
    for pair in PAIRS {
        let Through { proxy, server: _server, mut client_end, mut server_end } =
            through(pair, "message_bytes = \"1MiB\"", "").await;
        client_end.send(&head(BINARY, 70_000, true)[..5]).await;
        let waits = |now: &Counters| now.named("tunnels") == 1 && now.buffers_held == 0;
        proxy.counters_until("it holds no buffer", waits).await;
        for nth in 0..20_u8 {
            server_end.send_frame(TEXT, &[b'a' + nth]).await;
            client_end.expect(TEXT, &[b'a' + nth]).await;
        }
        // Payload goes on drop by drop, a frame behind it is whole.
        client_end.send(&head(BINARY, 70_000, true)[5..]).await;
        for _ in 0..50 {
            client_end.send(&[KEY[0]]).await;
        }
        client_end.send(&[0; 69_950]).await;
        client_end.send_frame(TEXT, b"last").await;
        assert_eq!(server_end.frame().await.expect("a frame").payload.len(), 70_000, "{pair:?}");
        server_end.expect(TEXT, b"last").await;
        drop((client_end, server_end));
        proxy.counters_until("it is over", |now| now.named("tunnels") == 0 && now.buffers_held == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_reads_stalls_its_own_tunnel_only() {
    for pair in PAIRS {
        let Through { proxy, mut server, mut client_end, server_end } =
            through(pair, "frames = true", "timeouts.write_stall = \"1s\"").await;
        let mut other = Socket::open(pair.0, proxy.address, "/").await;
        let mut other_server = server.next().await;
        let flood = frame(BINARY, &[0; 60_000], true).repeat(10);
        // The server's end is there, and reads nothing.
        let flooding = tokio::spawn(async move { while client_end.try_send(&flood).await.is_ok() {} });
        let mut messages = 0;
        while !flooding.is_finished() {
            other.send_frame(TEXT, b"still here").await;
            other_server.expect(TEXT, b"still here").await;
            messages += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(messages > 0);
        let is_over = |now: &Counters| now.named("tunnels") == 1;
        let after = proxy.counters_until("it is over", is_over).await;
        assert_eq!(after.named("tunnels_aborted"), 1, "{pair:?}: {after:?}");
        drop(server_end);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_of_other_routes_are_not_read() {
    for (from, to) in PAIRS {
        let mut server = Server::start(to, "").await;
        let proxy = proxy_to(&server.url, "message_bytes = \"1\"", "").await;
        let mut client_end = Socket::open(from, proxy.address, "/unread").await;
        let mut server_end = server.next().await;
        // Large, not masked by the client, with all reserved bits.
        let bytes = frame(0xff, &pattern::bytes(100_000), false);
        server_end.send(&bytes).await;
        client_end.expect(0xff, &pattern::bytes(100_000)).await;
        client_end.send(&frame(0xf3, b"anything", true)).await;
        server_end.expect(0xf3, b"anything").await;
        let counters = proxy.counters().await;
        assert_eq!(counters.named("websocket_frames_broken"), 0, "{counters:?}");
    }
}

#[tokio::test]
async fn only_version_13_is_read() {
    let server = Server::start(Http::One, "").await;
    let proxy = proxy_to(&server.url, "frames = true", "").await;
    for (path, version, status) in [("/", "8", 426), ("/", "13", 101), ("/unread", "8", 101)] {
        let mut client = client::Raw::connect(proxy.address).await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: {version}\r\n\r\n"
            ))
            .await;
        let head = client.head().await;
        assert_eq!(head.status().unwrap(), status, "{path} {version}");
        if status == 426 {
            let fields = ["sec-websocket-version", "upgrade"].map(|name| head.fields.first(name));
            assert_eq!(fields, [Some("13"), Some("websocket")]);
            assert!(head.fields.lists("connection", "upgrade") && head.fields.lists("connection", "close"));
        }
    }
}

/// A server by tungstenite that sends every message back.
async fn echo(mut server: Server) {
    let mut clients = JoinSet::new();
    loop {
        let socket = server.next().await;
        clients.spawn(async move {
            let mut socket = WebSocketStream::from_raw_socket(socket.into_io(), Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Node's own client, its package `ws`, and Python's `websockets`: they answer our Pings, understand our codes, and are closed by a drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_by_others_are_content() {
    let server = Server::start(Http::One, "").await;
    let keys = "message_bytes = \"1MiB\"\nmessage_rate = 1000\nping_idle = \"50ms\"\nping_timeout = \"30s\"";
    let proxy = proxy_to(&server.url, keys, "").await;
    let echoing = tokio::spawn(echo(server));
    let (url, programs) =
        (format!("ws://{}/", proxy.address), format!("{}/programs", env!("CARGO_MANIFEST_DIR")));
    let expected = "echo 3\nidle\nclosed 1009\n";
    let clients = [
        ("node", vec![format!("{programs}/websocket_frames.mjs"), url.clone()]),
        ("python3", vec![format!("{programs}/websocket_frames.py"), url.clone()]),
    ];
    let mut too_large = 0;
    for (program, arguments) in clients {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Some(output) = client::program(program, &arguments).await else { continue };
        if let Some(why) = output.strip_prefix("missing: ") {
            sluice_tests::skip(why.trim());
            continue;
        }
        too_large += 1;
        assert_eq!(output, expected, "{program}");
    }
    let is_counted =
        |now: &Counters| now.named("websocket_messages_too_large") == too_large && now.named("tunnels") == 0;
    let after = proxy.counters_until("all are gone", is_counted).await;
    assert_eq!(
        (after.named("websocket_frames_broken"), after.named("websocket_ping_timeouts")),
        (0, 0),
        "{after:?}"
    );
    echoing.abort();
}
