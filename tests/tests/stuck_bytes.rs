//! Bytes that wait inside the proxy for a slow reader: in a pipe, in hand, in the kernel. How long they may wait, and what
//! becomes of them when their sender breaks off.

use std::time::Duration;

use sluice_tests::{
    client::{self, Raw},
    origin::{self, Go, Origin, Peer},
    pattern,
    proxy::{Counters, Proxy},
    wire::Framing,
    within,
};
use tokio::time::{interval, sleep, timeout};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A pipe of 256 KiB may take longer than the time of a stall, as long as some of it goes on: here it takes four seconds, in
/// steps of one or two.
#[tokio::test]
async fn a_steady_reader_gets_all_however_long_a_pipe_takes() {
    const BYTES: u64 = 500_000;
    const BYTES_PER_READ: u64 = 1_250;
    let origin = origin::floods(BYTES).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-write-stall=3s"]).await;
    // Where a large answer has come from, the next ones are spliced.
    pattern::assert_exact(&client::get(proxy.address, "/").await.body, BYTES as usize);
    let mut client = Raw::connect_narrow(proxy.address).await;
    client.send(GET).await;
    client.head().await;
    let mut check = pattern::Check::default();
    // It makes up for what a busy host has kept from it.
    let mut steps = interval(Duration::from_millis(25));
    for _ in 0..BYTES / BYTES_PER_READ {
        steps.tick().await;
        let piece = Framing::Length(BYTES_PER_READ);
        client.body_to(piece, |bytes| check.feed(bytes)).await.expect("a steady reader is not cut off");
    }
    assert_eq!((check.seen(), proxy.counters().await.named("write_stalls")), (BYTES, 0));
}

/// Each of them gives its pipe back.
#[tokio::test]
async fn pipes_are_used_also_after_hundreds_of_large_bodies() {
    const LARGE: &str = "/bytes/200000";
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    let is_spliced = |now: &Counters| now.pipes_kept > 0;
    while !is_spliced(&proxy.counters().await) {
        pattern::assert_exact(&client.ask("GET", LARGE).await.body, 200_000);
    }
    // A shard has 512 pipes.
    for _ in 0..600 {
        pattern::assert_exact(&client.ask("GET", LARGE).await.body, 200_000);
    }
    let kept = proxy.counters().await.pipes_kept;
    let mut stuck = Raw::connect_narrow(proxy.address).await;
    stuck.send("GET /bytes/3000000 HTTP/1.1\r\nHost: test\r\n\r\n").await;
    stuck.head().await;
    proxy.counters_until("a pipe is in use", |now| now.pipes_kept == kept - 1).await;
    stuck.reset();
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";

/// A tunnel to this origin from a client that takes little.
async fn narrow_tunnel(origin: &Origin, flags: &[&str]) -> (Proxy, Raw) {
    let proxy = Proxy::to_with(origin.address, &[&["--upgrade", "own"], flags].concat()).await;
    let mut client = Raw::connect_narrow(proxy.address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.status().unwrap(), 101);
    (proxy, client)
}

/// An origin that opens the tunnel, sends so many bytes of the pattern and resets the connection when the test says so.
async fn resets_after(bytes: usize, go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.request().await?;
            peer.send(SWITCHING).await?;
            peer.send(pattern::bytes(bytes)).await?;
            go.wait().await?;
            peer.reset()
        }
    })
    .await
}

/// Reads all that comes, which must be the pattern, to its end of either kind.
async fn all_of_it(client: &mut Raw) -> u64 {
    let mut check = pattern::Check::default();
    while let Ok(Some(bytes)) = client.some().await {
        check.feed(&bytes);
    }
    check.seen()
}

/// A reset of ours would throw away what the client's kernel has not acknowledged.
//= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
#[tokio::test]
async fn a_reset_of_the_server_does_not_overtake_what_is_unacknowledged() {
    // The proxy's kernel has room for all of it, and the client's for a quarter.
    const BYTES: usize = 20_000;
    let go = Go::new();
    let origin = resets_after(BYTES, go.clone()).await;
    let (proxy, mut client) = narrow_tunnel(&origin, &[]).await;
    go.steps(1);
    let is_over = |now: &Counters| now.named("tunnels_aborted") == 1 && now.upstream_connections == 0;
    proxy.counters_until("the tunnel is cut", is_over).await;
    assert_eq!(all_of_it(&mut client).await, BYTES as u64);
}

/// What was received before the reset still goes out, when its reader makes room for it.
#[tokio::test]
async fn a_reset_of_the_server_does_not_cost_what_is_in_hand() {
    let (go, full) = (Go::new(), Go::new());
    let (origin_go, origin_full) = (go.clone(), full.clone());
    let origin = Origin::scripted(move |mut peer: Peer| {
        let (go, full) = (origin_go.clone(), origin_full.clone());
        async move {
            peer.request().await?;
            peer.send(SWITCHING).await?;
            let flood = peer.send(pattern::bytes(40_000_000));
            assert!(timeout(Duration::from_secs(1), flood).await.is_err(), "the proxy has taken 40 MB");
            full.steps(1);
            go.wait().await?;
            peer.reset()
        }
    })
    .await;
    let (proxy, mut client) = narrow_tunnel(&origin, &[]).await;
    within("a full proxy", full.wait()).await.unwrap();
    go.steps(1);
    // The reset is noticed when something is to be sent.
    client.send("x").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(proxy.counters().await.named("tunnels_aborted"), 0, "some of it is in hand");
    all_of_it(&mut client).await;
    let is_over = |now: &Counters| now.named("tunnels_aborted") == 1 && now.upstream_connections == 0;
    proxy.counters_until("the tunnel is cut", is_over).await;
}

/// Bytes that wait for their reader are no silence.
#[tokio::test]
async fn a_stuck_reader_is_not_idle() {
    let origin = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.send(SWITCHING).await?;
        for piece in pattern::pieces(2_000_000) {
            peer.send(piece).await?;
        }
        peer.until_closed().await
    })
    .await;
    let flags = ["--timeout-tunnel-idle=300ms", "--timeout-write-stall=30s"];
    let (proxy, mut client) = narrow_tunnel(&origin, &flags).await;
    // Several times as long as a tunnel may be silent.
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(proxy.counters().await.named("tunnel_idle_timeouts"), 0);
    assert_eq!(all_of_it(&mut client).await, 2_000_000);
    let silent = |now: &Counters| now.named("tunnel_idle_timeouts") == 1 && now.connections == 0;
    let counters = proxy.counters_until("the silence behind it ends the tunnel", silent).await;
    assert_eq!((counters.named("tunnels_aborted"), counters.named("write_stalls")), (0, 0), "{counters:?}");
}
