//! Thousands of connections that drip a request head, a byte every few seconds each: they take hardly more memory than idle ones,
//! end on time, and no other client waits for them.
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
    many_connections, origin,
    proxy::{Counters, Proxy},
    within_time,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval_at, sleep},
};

/// Heads begun before the proxy is waited for.
const AT_ONCE: usize = 32;

/// Connections of each kind. They are all in this process.
const CONNECTIONS: usize = 5_000;

/// How long a head may take at least; longer where it takes long to make so many connections.
const HEADER: Duration = Duration::from_secs(15);

/// What a connection that drips may take beside what an idle one does. Some 40 bytes of it are what it has sent.
const BYTES_PER_DRIPPING: u64 = 80;

/// Pages of receive buffers that come into use when many clients speak at once: so many, however many clients there are.
const BUFFER_BYTES: u64 = 256 * 4_096;

/// How much larger the proxy may be after it has answered all of them than with as many idle ones.
const GROWN_BYTES: u64 = 3_000_000;

/// How many times as long as beside idle connections a request may take beside dripping ones, at the median. The shard handles
/// thousands of bytes a second in between; one that they keep from its work would take seconds.
const TIMES_AS_LONG: u32 = 8;

/// How often the normal clients are looked at, at most, and how long each time. Beside a busy neighbour any one look may go wrong;
/// a shard that is kept from its work shows in all of them.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_secs(3);

/// Between two bytes of a connection. All of them together must leave a debug build on a busy host most of its time, or else
/// it is that which is measured.
const PAUSE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_dripping_connections_are_as_good_as_idle() {
    let many = many_connections(CONNECTIONS, 2).await;
    let origin = origin::real("real").await;
    // Two processes that differ in nothing but what their connections do, side by side: whatever else this host is busy with
    // slows down both.
    let control = Proxy::to_with(origin.address, FLAGS).await;
    let mut normal_control = Raw::connect(control.address).await;
    normal_control.assert_open().await;
    let empty = control.resident_bytes();
    let begun = Instant::now();
    let idle = connect_all(control.address, many.count).await;
    control.counters_until("all are accepted", |now| now.connections == many.count as u64 + 1).await;
    let with_idle = control.resident_bytes();

    // All have to have begun, and the normal clients to have been looked at, before the first of them ends.
    let header = HEADER.max(LOOKS * LOOK + 8 * begun.elapsed());
    let proxy = Proxy::to_with(
        origin.address,
        &[FLAGS, &[&*format!("--timeout-request-head={}ms", header.as_millis())]].concat(),
    )
    .await;
    let mut normal = Raw::connect(proxy.address).await;
    normal.assert_open().await;
    let dripping = begin_all(connect_all(proxy.address, many.count).await, &mut normal).await;
    let all_begun = |now: &Counters| now.named("partial_heads") == many.count as u64;
    let counters = proxy.counters_until("all have begun a head", all_begun).await;
    assert!(counters.tasks_busy <= 1 && counters.buffers_held <= 64, "{counters:?}");
    let cpu = proxy.cpu_time();
    let looked = Instant::now();
    let is_free = |[idle, dripping]: &[Times; 2]| dripping.p50 < TIMES_AS_LONG * idle.p50;
    let mut looks: Vec<[Times; 2]> = Vec::new();
    while looks.len() < LOOKS as usize && !looks.last().is_some_and(is_free) {
        looks.push(ask_both(&mut normal_control, &mut normal).await);
    }
    let cpu = (proxy.cpu_time() - cpu).div_f64(looked.elapsed().as_secs_f64());
    // Also the control has served requests by now, whose code and buffers count.
    let with_idle = with_idle.max(control.resident_bytes());
    let allowed = with_idle + BUFFER_BYTES + BYTES_PER_DRIPPING * many.count as u64;
    let with_dripping = resident_below(&proxy, allowed, looked + LOOKS * LOOK).await;
    assert!(all_begun(&proxy.counters().await), "none has ended yet");

    let ends = within_time(header * 4, "the end of all", dripping.join_all()).await;
    let allowed_after = with_idle + GROWN_BYTES;
    let afterwards = resident_below(&proxy, allowed_after, Instant::now() + LOOKS * LOOK).await;
    let (first, last) = (ends.iter().map(|end| end.at).min(), ends.iter().map(|end| end.at).max());
    let after = proxy.counters_until("they are gone", |now| now.connections == 1).await;

    let each = |bytes: u64| bytes.saturating_sub(empty) / many.count as u64;
    println!(
        "resident: {empty} bytes with none, {with_idle} with {} idle ({} each)",
        many.count,
        each(with_idle)
    );
    println!(
        "          {with_dripping} with as many dripping ({} each), {afterwards} after",
        each(with_dripping)
    );
    println!("{cpu:?} of CPU a second for a byte of each in {PAUSE:?}");
    println!("ended between {first:?} and {last:?} after they began, {header:?} allowed");
    println!("a normal client beside idle ones and beside dripping: {looks:?}");

    assert!(with_dripping <= allowed, "{with_idle} {with_dripping}");
    assert!(afterwards <= allowed_after, "{with_idle} {afterwards}");
    let refused = ends.iter().filter(|end| end.got.starts_with(b"HTTP/1.1 408 ")).count();
    // A byte may cross the answer and turn it into a reset; not many do.
    assert!(refused > many.count * 9 / 10, "{refused} got 408");
    assert_eq!(after.named("request_head_timeouts"), many.count as u64);
    // Every one has its time, and no byte gives it more.
    assert!(first.is_some_and(|at| at > header.mul_f32(0.95)), "{first:?}");
    assert!(last.is_some_and(|at| at < header * 2), "{last:?}");
    assert!(looks.last().is_some_and(is_free), "{looks:?}");
    normal.assert_open().await;
    normal_control.assert_open().await;
    drop((normal, normal_control, idle));
    proxy.drain().await.assert_clean();
    control.drain().await.assert_clean();
}

/// The connections of the normal clients outlive the look at them.
const FLAGS: &[&str] = &["--limit-requests-per-connection=0"];

/// The connections, and when each was begun.
async fn connect_all(address: SocketAddr, count: usize) -> Vec<(TcpStream, Instant)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        all.push((TcpStream::connect(address).await.expect("the proxy accepts"), begun));
    }
    all
}

/// Begins a head on each of them, to be gone on with byte after byte.
async fn begin_all(connections: Vec<(TcpStream, Instant)>, normal: &mut Raw) -> JoinSet<End> {
    let mut dripping = JoinSet::new();
    let count = connections.len();
    for (nth, (mut stream, made)) in connections.into_iter().enumerate() {
        stream.write_all(BEGINNING).await.expect("the proxy reads");
        let offset = PAUSE.mul_f64(nth as f64 / count as f64);
        dripping.spawn(drip(stream, made, offset));
        if nth % AT_ONCE == 0 {
            // What was sent before is read by then, so that it takes no more buffers at once on a host that stalls.
            normal.ask("GET", "/").await;
        }
    }
    dripping
}

/// What the proxy takes, once it is no more than `allowed`, or at the end of the time: buffers that a stall brought into use are
/// given back within seconds.
async fn resident_below(proxy: &Proxy, allowed: u64, end: Instant) -> u64 {
    loop {
        let resident = proxy.resident_bytes();
        if resident <= allowed || Instant::now() > end {
            return resident;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// How a dripping connection ended.
struct End {
    /// After it was made.
    at: Duration,
    got: Vec<u8>,
}

/// What each of them sends at first.
const BEGINNING: &[u8] = b"GET / HTTP/1.1\r\nHost: slow\r\nX: ";

/// Sends byte after byte of a head, until the proxy has had enough.
async fn drip(mut stream: TcpStream, made: Instant, offset: Duration) -> End {
    let mut got = Vec::new();
    let _: io::Result<()> = async {
        // From the first byte on, so that the bytes of all of them are spread evenly.
        let mut pauses = interval_at(tokio::time::Instant::now() + offset, PAUSE);
        loop {
            tokio::select! {
                read = stream.read_buf(&mut got) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                _ = pauses.tick() => if stream.write_all(b"x").await.is_err() {
                    // Too late; what was sent before is still there to be read.
                    return stream.read_to_end(&mut got).await.map(drop);
                },
            }
        }
    }
    .await;
    End { at: made.elapsed(), got }
}

/// The median and the 99th percentile.
#[derive(Debug)]
#[expect(
    dead_code,
    reason = "shown, not compared: beside a busy neighbour the slowest tell of the neighbour"
)]
struct Times {
    p50: Duration,
    p99: Duration,
}

/// The times of requests of two clients, which take turns, a little apart.
async fn ask_both(one: &mut Raw, other: &mut Raw) -> [Times; 2] {
    let until = Instant::now() + LOOK;
    let mut times = [Vec::new(), Vec::new()];
    while Instant::now() < until {
        for (client, times) in [&mut *one, &mut *other].into_iter().zip(&mut times) {
            let begun = Instant::now();
            assert_eq!(client.ask("GET", "/").await.status(), 200);
            times.push(begun.elapsed());
            sleep(Duration::from_millis(1)).await;
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        Times { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    })
}
