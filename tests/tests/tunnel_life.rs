//! What passes through a tunnel, and how it ends: large flows both ways, half-close, silence, stalls, resets, drain; and what a
//! silent tunnel costs.
//!
//! Prints its figures (`--nocapture`).

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sluice_tests::{
    PATIENCE, assert_took,
    client::Raw,
    many_connections,
    origin::{self, Origin, Peer},
    pattern,
    proxy::{Counters, Proxy},
    within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";

async fn proxy_to(origin: &Origin, flags: &[&str]) -> Proxy {
    Proxy::to_with(origin.address, &[&["--upgrade", "own"], flags].concat()).await
}

/// A client at the end of a tunnel.
async fn tunnel(proxy: &Proxy) -> Raw {
    let mut client = Raw::connect(proxy.address).await;
    open(&mut client).await;
    client
}

async fn open(client: &mut Raw) {
    client.send(REQUEST).await;
    assert_eq!(client.head().await.status().unwrap(), 101);
}

/// An origin that accepts and then does what `script` says.
async fn switches_and<F, S>(script: F) -> Origin
where
    F: Fn(Peer) -> S + Copy + Send + Sync + 'static,
    S: Future<Output = std::io::Result<()>> + Send + 'static,
{
    Origin::scripted(move |mut peer: Peer| async move {
        peer.request().await?;
        peer.send(SWITCHING).await?;
        script(peer).await
    })
    .await
}

async fn assert_counted(proxy: &Proxy, name: &str, count: u64) {
    let reached = |now: &Counters| now.named(name) >= count;
    let counters = proxy.counters_until(name, reached).await;
    assert_eq!(counters.named(name), count, "{name}: {counters:?}");
}

fn is_empty(now: &Counters) -> bool {
    (now.connections, now.upstream_connections, now.tasks_busy, now.buffers_held, now.named("tunnels"))
        == (0, 0, 0, 0, 0)
}

/// A message there and back again.
async fn assert_works(client: &mut Raw) {
    client.send("are you there").await;
    let mut echo = Vec::new();
    while echo.len() < 13 {
        echo.extend_from_slice(&client.some().await.unwrap().expect("an echo"));
    }
    assert_eq!(echo, b"are you there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_flows_pass_both_ways_at_once() {
    const BYTES: u64 = 40_000_000;
    let origin = switches_and(|peer| async move {
        let (mut read, mut write) = peer.into_stream().into_split();
        let sending = tokio::spawn(async move {
            for piece in pattern::pieces(BYTES) {
                write.write_all(&piece).await?;
            }
            write.shutdown().await
        });
        let (mut check, mut seen, mut buffer) = (pattern::Check::default(), 0, vec![0; 256 * 1024]);
        while seen < BYTES {
            let bytes = read.read(&mut buffer).await?;
            assert!(bytes > 0, "cut after {seen} bytes");
            check.feed(&buffer[..bytes]);
            seen += bytes as u64;
        }
        sending.await.expect("a sender")
    })
    .await;
    let proxy = proxy_to(&origin, &[]).await;
    let (mut reader, mut writer) = tunnel(&proxy).await.split();
    let sending = tokio::spawn(async move {
        for piece in pattern::pieces(BYTES) {
            writer.write_all(&piece).await.expect("the proxy takes it");
        }
        writer
    });
    let (mut check, mut seen, mut looks) = (pattern::Check::default(), 0, 1);
    while seen < BYTES {
        let bytes = within("bytes", reader.some()).await.unwrap().expect("more");
        check.feed(&bytes);
        seen += bytes.len() as u64;
        if looks * BYTES / 4 < seen {
            looks += 1;
            // One on its way in each direction, and one behind it.
            let counters = proxy.counters().await;
            assert!(counters.buffers_held <= 4, "{counters:?}");
        }
    }
    let writer = within("all is sent", sending).await.unwrap();
    assert!(reader.some().await.unwrap().is_none(), "the server has finished");
    drop(writer);
    let after = proxy.counters_until("nothing is left", is_empty).await;
    // Only now is no pipe in use.
    assert!(after.pipes_kept > 0, "nothing was spliced: {after:?}");
    assert_eq!(after.named("tunnels_aborted"), 0, "{after:?}");
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn small_talk_goes_on_after_a_flood() {
    let origin = origin::switches_and_echoes().await;
    let proxy = proxy_to(&origin, &[]).await;
    let client = tunnel(&proxy).await;
    let (mut reader, mut writer) = client.split();
    for round in 0..3 {
        let flood = pattern::bytes(3_000_000);
        let sending = tokio::spawn(async move {
            writer.write_all(&flood).await.unwrap();
            writer
        });
        let (mut check, mut seen) = (pattern::Check::default(), 0);
        while seen < 3_000_000 {
            let bytes = within("the echo", reader.some()).await.unwrap().expect("more");
            check.feed(&bytes);
            seen += bytes.len();
        }
        writer = sending.await.unwrap();
        for nth in 0..50_u8 {
            writer.write_all(&[nth, round]).await.unwrap();
            let mut echo = Vec::new();
            while echo.len() < 2 {
                echo.extend_from_slice(&within("an echo", reader.some()).await.unwrap().expect("more"));
            }
            assert_eq!(echo, [nth, round]);
        }
        let counters = proxy.counters_until("silence", |now| now.buffers_held == 0).await;
        assert_eq!(counters.named("tunnels"), 1);
    }
}

#[tokio::test]
async fn either_side_may_finish_first() {
    // The client: its end reaches the server, which goes on.
    let origin = switches_and(|mut peer| async move {
        let mut received = Vec::new();
        while let Some(bytes) = peer.some().await? {
            received.extend(bytes);
        }
        sleep(Duration::from_millis(300)).await;
        peer.send(format!("you sent {} bytes", received.len())).await
    })
    .await;
    let proxy = proxy_to(&origin, &[]).await;
    let mut client = tunnel(&proxy).await;
    client.send(pattern::bytes(100_000)).await;
    client.half_close().await;
    let mut answer = Vec::new();
    while let Some(bytes) = client.some().await.unwrap() {
        answer.extend_from_slice(&bytes);
    }
    assert_eq!(answer, b"you sent 100000 bytes");
    drop(client);
    let after = proxy.counters_until("nothing is left", is_empty).await;
    assert_eq!(after.named("tunnels_aborted"), 0, "{after:?}");

    // The server: likewise.
    let origin = switches_and(|mut peer| async move {
        peer.send("that is all").await?;
        peer.half_close().await?;
        peer.until_closed().await
    })
    .await;
    let proxy = proxy_to(&origin, &[]).await;
    let mut client = tunnel(&proxy).await;
    assert_eq!(client.some().await.unwrap().unwrap(), "that is all");
    client.assert_closed().await;
    client.send(pattern::bytes(100_000)).await;
    drop(client);
    let arrived = |all: &[origin::Traffic]| all[0].ended && all[0].bytes.ends_with(&pattern::bytes(100_000));
    origin.recorder.wait_for("all that the client had to say", arrived).await;
    let after = proxy.counters_until("nothing is left", is_empty).await;
    assert_eq!(after.named("tunnels_aborted"), 0, "{after:?}");
}

#[tokio::test]
async fn silence_on_both_sides_ends_it() {
    const IDLE: Duration = Duration::from_millis(800);
    let origin = origin::switches_and_echoes().await;
    let proxy = proxy_to(&origin, &["--timeout-tunnel-idle=800ms"]).await;
    let begun = Instant::now();
    let mut silent = tunnel(&proxy).await;
    silent.assert_closed().await;
    assert_took(begun, IDLE, PATIENCE);
    assert_counted(&proxy, "tunnel_idle_timeouts", 1).await;
    origin.recorder.wait_for("its end at the server", |all| all[0].ended).await;

    // Also after one side has finished.
    let origin = switches_and(|mut peer| async move {
        peer.until_closed().await?;
        // Nothing comes back, and no end.
        std::future::pending().await
    })
    .await;
    let proxy = proxy_to(&origin, &["--timeout-tunnel-idle=800ms"]).await;
    let mut half = tunnel(&proxy).await;
    half.half_close().await;
    half.assert_closed().await;
    let counters = proxy.counters_until("nothing is left", is_empty).await;
    assert_eq!((counters.named("tunnel_idle_timeouts"), counters.named("tunnels_aborted")), (1, 0));
}

#[tokio::test]
async fn traffic_in_one_direction_keeps_it() {
    const IDLE: &str = "--timeout-tunnel-idle=4s";
    // As a whole longer than the time, each of them far shorter.
    const PAUSE: Duration = Duration::from_millis(500);
    // From the client only.
    let origin = switches_and(|mut peer| async move { peer.until_closed().await }).await;
    let proxy = proxy_to(&origin, &[IDLE]).await;
    let mut client = tunnel(&proxy).await;
    for _ in 0..12 {
        sleep(PAUSE).await;
        client.send("x").await;
    }
    origin.recorder.wait_for("all of it", |all| all[0].bytes.ends_with(&[b'x'; 12])).await;
    assert_eq!(proxy.counters().await.named("tunnel_idle_timeouts"), 0);
    // From the server only.
    let origin = switches_and(|mut peer| async move {
        loop {
            sleep(PAUSE).await;
            peer.send("x").await?;
        }
    })
    .await;
    let proxy = proxy_to(&origin, &[IDLE]).await;
    let mut client = tunnel(&proxy).await;
    let mut seen = 0;
    while seen < 12 {
        seen += client.some().await.unwrap().expect("it goes on").len();
    }
    assert_eq!(proxy.counters().await.named("tunnel_idle_timeouts"), 0);
}

#[tokio::test]
async fn timeouts_of_http_end_where_the_tunnel_begins() {
    let origin = origin::switches_and_echoes().await;
    let flags = [
        "--timeout-request=1500ms",
        "--timeout-upstream-response=1500ms",
        "--timeout-upstream-body-idle=1500ms",
        "--timeout-body-idle=1500ms",
        "--timeout-keep-alive-idle=1500ms",
        "--timeout-upstream-idle=1500ms",
        "--timeout-connection-age=1500ms",
        "--timeout-request-head=1500ms",
        "--timeout-write-stall=1500ms",
        "--limit-requests-per-connection=1",
    ];
    let proxy = proxy_to(&origin, &flags).await;
    let mut client = tunnel(&proxy).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(2_000)).await;
        assert_works(&mut client).await;
    }
    let counters = proxy.counters().await;
    for name in
        ["request_timeouts", "connections_max_age", "upstream_timeouts", "idle_timeouts", "write_stalls"]
    {
        assert_eq!(counters.named(name), 0, "{name}: {counters:?}");
    }
}

#[tokio::test]
async fn a_reader_that_has_stopped_stops_its_sender_and_ends_it() {
    let origin = switches_and(|mut peer| async move {
        for piece in pattern::pieces(400_000_000) {
            peer.send(piece).await?;
        }
        Ok(())
    })
    .await;
    let proxy = proxy_to(&origin, &["--timeout-write-stall=1500ms"]).await;
    let mut client = Raw::connect_with_window(proxy.address, 8 * 1024).await;
    open(&mut client).await;
    let held = proxy.counters_until("it is full", |now| now.named("write_stalls") == 0).await;
    let before = proxy.resident_bytes();
    assert!(held.buffers_held < 8, "{held:?}");
    let after = proxy.counters_until("it is over", |now| now.named("write_stalls") > 0).await;
    assert!(after.named("buffers_held_max") < 8, "{after:?}");
    assert!(proxy.resident_bytes() < before + (4 << 20), "memory grew");
    proxy.counters_until("nothing is left", is_empty).await;
    assert_counted(&proxy, "tunnels_aborted", 1).await;
}

#[tokio::test]
async fn a_reset_of_either_side_is_passed_on_and_leaves_nothing() {
    let origin = switches_and(|mut peer| async move {
        while let Some(bytes) = peer.some().await? {
            if bytes.starts_with(b"reset") {
                return peer.reset();
            }
            peer.send(bytes).await?;
        }
        Ok(())
    })
    .await;
    let proxy = proxy_to(&origin, &[]).await;
    let before = proxy.descriptors().len();
    let mut clients = JoinSet::new();
    for nth in 0..200 {
        let mut client = tunnel(&proxy).await;
        clients.spawn(async move {
            client.send(pattern::bytes(1000 * (nth % 40))).await;
            match nth % 4 {
                0 => client.reset(),
                1 => {
                    let _ = timeout(Duration::from_millis(5), client.some()).await;
                    client.reset();
                }
                2 => drop(client),
                _ => {
                    // All that was sent before is back when the last word is sent.
                    let mut back = 0;
                    while back < 1000 * (nth % 40) {
                        back += client.some().await.unwrap().expect("an echo").len();
                    }
                    client.send("reset").await;
                    let end = client.some().await;
                    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
                }
            }
        });
    }
    within("all clients", clients.join_all()).await;
    let after = proxy.counters_until("nothing is left", is_empty).await;
    assert_eq!(after.named("tunnels_opened"), 200);
    assert!(after.named("tunnels_aborted") >= 100, "{after:?}");
    let kept = 2 * after.pipes_kept as usize;
    assert_eq!(proxy.descriptors().len(), before + kept, "{after:?}");
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_drain_leaves_tunnels_their_time() {
    let origin = origin::switches_and_echoes().await;
    // Both sides finish in time.
    let proxy = proxy_to(&origin, &["--drain-timeout=10m"]).await;
    let mut client = tunnel(&proxy).await;
    proxy.signal(Signal::TERM);
    proxy.line("draining").await;
    sleep(Duration::from_millis(300)).await;
    assert_works(&mut client).await;
    drop(client);
    // It ends with the last tunnel, not with the time for it.
    proxy.stopped().await.assert_clean();

    // Or the time is over.
    let proxy = proxy_to(&origin, &["--drain-timeout=1s"]).await;
    let mut client = tunnel(&proxy).await;
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    client.assert_closed().await;
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
    let stopped = proxy.stopped().await;
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
}

#[tokio::test]
async fn tunnels_are_connections_to_the_limits() {
    let origin = origin::switches_and_echoes().await;
    let proxy = proxy_to(&origin, &["--limit-connections=2"]).await;
    let (mut one, _two) = (tunnel(&proxy).await, tunnel(&proxy).await);
    Raw::connect(proxy.address).await.assert_closed().await;
    assert_counted(&proxy, "connections_refused", 1).await;
    assert_works(&mut one).await;
}

/// Both entries of the table, the task and its places: 248.
const BYTES_PER_TUNNEL: u64 = 256;

/// What the allocator may keep of the executor's tables, which have grown.
const BYTES_OF_TABLES: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_holds_no_buffer_and_little_memory() {
    // The server's end too is in this process.
    let many = many_connections(5_000, 2).await;
    let silent = many.count as u64;
    let origin = origin::switches_and_echoes().await;
    let proxy = proxy_to(&origin, &[]).await;
    // What every shard has touched after its first tunnels.
    let mut first = Vec::new();
    for _ in 0..100 {
        first.push(tunnel(&proxy).await);
    }
    let few = proxy.resident_bytes();
    let mut all = Vec::new();
    for _ in 0..silent {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut head = [0; 512];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        all.push(stream);
    }
    let counters = proxy.counters_until("all are open", |now| now.named("tunnels") == silent + 100).await;
    let bytes = proxy.resident_bytes().saturating_sub(few);
    println!("a silent tunnel takes {} bytes of resident memory", bytes / silent);
    assert_eq!((counters.tasks_busy, counters.buffers_held), (0, 0), "{counters:?}");
    assert!(bytes <= silent * BYTES_PER_TUNNEL + BYTES_OF_TABLES, "{bytes} bytes for {silent}");
    drop((all, first));
    proxy.counters_until("nothing is left", is_empty).await;
}
