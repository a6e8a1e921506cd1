//! Support for the end-to-end tests: everything that stands around the proxy while it is looked at.
//!
//! Owns the running `sluice` process ([`proxy`]), the clients in front of it ([`client`]), the origins
//! behind it ([`origin`]), a tiny HTTP/1.1 reader for both ([`wire`]) and bytes that can be recognised
//! again ([`pattern`]), and tables of raw bytes ([`strict`]). It shares no code with the proxy, so that a misreading of the RFCs on one side
//! cannot hide the same misreading on the other. Every wait in here ends within [`PATIENCE`].

pub mod client;
pub mod cpus;
pub mod dns;
pub mod grpc_codec;
pub mod http2;
pub mod machine;
pub mod origin;
pub mod pattern;
pub mod peers;
pub mod processes;
pub mod proxy;
pub mod sides;
pub mod strict;
pub mod tls;
pub mod tls_client;
pub mod tunnels;
pub mod unix;
pub mod upstream;
pub mod websocket;
pub mod websocket_frames;
pub mod wire;

use std::{
    io::Write as _,
    net::{Ipv6Addr, TcpListener},
    panic::Location,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Mutex, MutexGuard};

/// How long anything may take, on a busy machine and in a debug build. Only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits `event` for at most [`PATIENCE`]; `what` names it in the panic of a test that waited in vain.
pub async fn within<F: Future>(what: &str, event: F) -> F::Output {
    within_time(PATIENCE, what, event).await
}

/// Awaits `event` for at most `limit`, for the few things that are slow by design.
pub async fn within_time<F: Future>(limit: Duration, what: &str, event: F) -> F::Output {
    match tokio::time::timeout(limit, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// Asks `probe` again and again until it is true, for states of another process that no event announces.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    const PAUSE: Duration = Duration::from_millis(20);
    within(what, async {
        while !probe().await {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

/// Panics unless something ended by its own time: not sooner than `least` after `begun`, give or take the steps of the
/// timers, and before `default` could have ended it, which is in force where the setting does nothing. A busy machine
/// may take any time in between.
#[track_caller]
pub fn assert_took(begun: Instant, least: Duration, default: Duration) {
    let took = begun.elapsed();
    assert!((least.mul_f32(0.95)..default.mul_f32(0.95)).contains(&took), "{took:?} instead of {least:?}");
}

/// Says in one line on stderr what is not tested here and why. The test harness captures what tests print; this line is
/// for everyone who runs them.
#[track_caller]
pub fn skip(why: &str) {
    let caller = Location::caller();
    let line = format!("SKIPPED {}:{}: {why}\n", caller.file(), caller.line());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether this host has an IPv6 loopback address; says that something is skipped where not.
#[track_caller]
pub fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        skip("this host has no address ::1");
    }
    has
}

/// Lets this process, and the proxies it starts, open as many descriptors as the host permits: the usual
/// 1,024 are too few for a thousand connections with both ends in one process. Returns how many that is.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
    limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// How many shards this user may have at a time, by the memory that he may lock: a ring and its buffers take less than 1 MiB.
/// No matter for root.
pub fn shards_possible() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    const IPC_LOCK: u64 = 1 << 14;
    match getrlimit(Resource::Memlock).current {
        Some(bytes) if capabilities & IPC_LOCK == 0 => usize::try_from(bytes >> 20).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

/// The turn of a test with many connections, and how many it may have.
pub struct Many {
    /// So many connections.
    pub count: usize,
    _turn: MutexGuard<'static, ()>,
}

/// As many of `wanted` connections as this host's descriptors permit, if each takes `each` of them in one process; says so
/// where these are fewer. Tests of one program that ask for this take turns: what they have open adds up.
#[track_caller]
pub fn many_connections(wanted: usize, each: usize) -> impl Future<Output = Many> {
    /// Standard streams, listeners, rings, what the runtimes need, and what the other tests of the file have open.
    const OTHERS: usize = 500;
    static TURN: Mutex<()> = Mutex::const_new(());
    let possible = raise_descriptor_limit().saturating_sub(OTHERS) / each;
    if possible < wanted {
        skip(&format!("{possible} connections instead of {wanted}: too few descriptors (ulimit -Hn)"));
    }
    async move { Many { count: possible.min(wanted), _turn: TURN.lock().await } }
}
