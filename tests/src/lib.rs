//! Support for the end-to-end tests: everything that stands around the proxy while it is looked at.
//!
//! Owns the running `sluice` process ([`proxy`]), the clients in front of it ([`client`]), the origins
//! behind it ([`origin`]), a tiny HTTP/1.1 reader for both ([`wire`]) and bytes that can be recognised
//! again ([`pattern`]), and tables of raw bytes ([`strict`]). It shares no code with the proxy, so that a misreading of the RFCs on one side
//! cannot hide the same misreading on the other. Every wait in here ends within [`PATIENCE`].

pub mod client;
pub mod cpus;
pub mod machine;
pub mod origin;
pub mod pattern;
pub mod proxy;
pub mod strict;
pub mod wire;

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long anything that should happen soon may take, on a busy machine and in a debug build.
pub const PATIENCE: Duration = Duration::from_secs(10);

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

/// Lets this process, and the proxies it starts, open as many descriptors as the host permits: the usual
/// 1,024 are too few for a thousand connections with both ends in one process.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
}
