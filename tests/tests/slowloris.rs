//! Thousands of connections that drip a request head, a byte a second each: they take hardly more memory than idle ones,
//! end on time, and nobody else waits for them.
//!
//! Prints its figures (`--nocapture`). For those in reports/, a release build on a machine that does nothing else:
//! `SLUICE_BIN=target/release/sluice cargo test -p sluice-tests --test slowloris -- --nocapture`.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use sluice_tests::{
    client::Raw,
    origin,
    proxy::{Counters, Proxy},
    raise_descriptor_limit, within_time,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval_at, sleep},
};

const CONNECTIONS: usize = 5_000;

/// How long a head may take.
const HEADER: Duration = Duration::from_secs(15);

/// What a connection that drips may take beside what an idle one does. Some 40 bytes of it are what it has said.
const BYTES_PER_DRIPPING: u64 = 80;

/// Pages of receive buffers that come into use when many clients speak at once: so many, however many clients there are.
const BUFFER_BYTES: u64 = 64 * 4_096;

/// How much larger the proxy may be after it has answered all of them than with as many idle ones.
const GROWN_BYTES: u64 = 3_000_000;

/// How long the normal client is looked at in each phase.
const LOOK: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_dripping_connections_are_as_good_as_idle() {
    raise_descriptor_limit();
    let origin = origin::real("real").await;
    let header = format!("--timeout-header={}s", HEADER.as_secs());
    let proxy = Proxy::to_with(origin.address, &[&header, "--limit-requests-per-connection=0"]).await;

    let mut normal = Raw::connect(proxy.address).await;
    ask(&mut normal, LOOK / 7).await;
    let empty = proxy.resident_bytes();
    let alone = percentiles(ask(&mut normal, LOOK).await);

    let idle = connect_all(proxy.address).await;
    proxy.counters_until("all are accepted", |now| now.connections == CONNECTIONS as u64 + 1).await;
    let with_idle = proxy.resident_bytes();
    let beside_idle = percentiles(ask(&mut normal, LOOK).await);
    drop(idle);
    proxy.counters_until("the idle ones are gone", |now| now.connections == 1).await;

    let begun = Instant::now();
    let mut dripping = JoinSet::new();
    for (nth, (stream, made)) in connect_all(proxy.address).await.into_iter().enumerate() {
        let offset = Duration::from_secs(1).mul_f64(nth as f64 / CONNECTIONS as f64);
        dripping.spawn(drip(stream, made, offset));
    }
    let all_begun = |now: &Counters| now.named("heads_begun") == CONNECTIONS as u64;
    let counters = proxy.counters_until("all have begun a head", all_begun).await;
    assert!(counters.tasks_busy <= 1 && counters.buffers_held <= 64, "{counters:?}");
    let beside_dripping =
        percentiles(ask(&mut normal, LOOK.min((HEADER / 2).saturating_sub(begun.elapsed()))).await);
    let with_dripping = proxy.resident_bytes();
    let cpu = proxy.cpu_time();
    sleep(Duration::from_secs(2)).await;
    let cpu = (proxy.cpu_time() - cpu) / 2;

    let ends = within_time(HEADER * 4, "the end of all", dripping.join_all()).await;
    let afterwards = proxy.resident_bytes();
    let (first, last) = (ends.iter().map(|end| end.at).min(), ends.iter().map(|end| end.at).max());
    let after = proxy.counters_until("they are gone", |now| now.connections == 1).await;

    let each = |bytes: u64| bytes.saturating_sub(empty) / CONNECTIONS as u64;
    println!(
        "resident: {empty} bytes with none, {with_idle} with {CONNECTIONS} idle ({} each)",
        each(with_idle)
    );
    println!(
        "          {with_dripping} with {CONNECTIONS} dripping ({} each), {afterwards} after",
        each(with_dripping)
    );
    println!("{cpu:?} of CPU a second for their {CONNECTIONS} bytes");
    println!("ended between {first:?} and {last:?} after they began, {HEADER:?} allowed");
    println!(
        "p50, p99 of a normal client: {alone:?} alone, {beside_idle:?} beside idle ones, {beside_dripping:?} beside dripping"
    );

    assert!(
        with_dripping <= with_idle + BUFFER_BYTES + BYTES_PER_DRIPPING * CONNECTIONS as u64,
        "{with_idle} {with_dripping}"
    );
    assert!(afterwards <= with_idle + GROWN_BYTES, "{with_idle} {afterwards}");
    let refused = ends.iter().filter(|end| end.got.starts_with(b"HTTP/1.1 408 ")).count();
    // A byte may cross the answer and turn it into a reset; not many do.
    assert!(refused > CONNECTIONS * 9 / 10, "{refused} were told so");
    assert_eq!(after.named("head_timeouts"), CONNECTIONS as u64);
    assert!(first.is_some_and(|at| at > HEADER.mul_f32(0.95)), "{first:?}");
    assert!(last.is_some_and(|at| at < HEADER + Duration::from_secs(10)), "{last:?}");
    // Twice its time, and what a busy machine may add to either: a shard that they keep busy would show all the same.
    assert!(beside_dripping.0 < 2 * beside_idle.0 + Duration::from_millis(20), "{beside_dripping:?}");
    assert!(beside_dripping.1 < 2 * beside_idle.1 + Duration::from_millis(250), "{beside_dripping:?}");
    normal.assert_open().await;
    drop(normal);
    proxy.drain().await.assert_clean();
}

/// The connections, and when each was begun.
async fn connect_all(address: SocketAddr) -> Vec<(TcpStream, Instant)> {
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        let begun = Instant::now();
        all.push((TcpStream::connect(address).await.expect("the proxy accepts"), begun));
    }
    all
}

/// How a dripping connection ended.
struct End {
    /// After it was made.
    at: Duration,
    got: Vec<u8>,
}

/// Sends the beginning of a head and then a byte a second, until the proxy has had enough.
async fn drip(mut stream: TcpStream, made: Instant, offset: Duration) -> End {
    let mut got = Vec::new();
    let ended: io::Result<()> = async {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: slow\r\nX: ").await?;
        // From the first byte on, so that the bytes of all of them are spread over each second.
        let mut seconds = interval_at(tokio::time::Instant::now() + offset, Duration::from_secs(1));
        loop {
            tokio::select! {
                read = stream.read_buf(&mut got) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                _ = seconds.tick() => stream.write_all(b"x").await?,
            }
        }
    }
    .await;
    drop(ended);
    End { at: made.elapsed(), got }
}

/// Times of requests one after the other, a little apart.
async fn ask(client: &mut Raw, how_long: Duration) -> Vec<Duration> {
    let until = Instant::now() + how_long;
    let mut times = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        assert_eq!(client.ask("GET", "/").await.status(), 200);
        times.push(begun.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
    times
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
