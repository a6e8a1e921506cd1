//! The life of a shard: accepts, hands connections to workers, drains and ends.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::rc::Rc;

use sluice_sys::{BoundListener, Listener, next_message, now_ms, sleep, spawn};

use crate::balance::{self, ShardPeers};
use crate::connection::{Accepted, Arrived};
use crate::control::Message;
use crate::downstream::{self, Changed};
use crate::log;
use crate::shard::Shard;
use crate::upstream::{queue, upkeep};

/// How often a draining shard looks whether it is empty.
const DRAIN_LOOK_MS: u64 = 20;

/// Accepts and serves until a drain is over.
pub(crate) async fn run(shard: Rc<Shard>, listeners: Vec<BoundListener>, peers: Option<ShardPeers>) {
    if let Some(peers) = peers {
        spawn(balance::run(peers));
    }
    spawn(upkeep::run(shard.clone()));
    spawn(queue::keep(shard.clone()));
    let snapshot = shard.snapshot();
    let start = |(bound, id)| {
        let listener = Listener::start(bound, id);
        if snapshot.proxy_senders.is_expected(id) { listener.behind_balancer() } else { listener }
    };
    let listeners: Vec<Listener> = listeners.into_iter().zip(0..).map(start).collect();
    drop(snapshot);
    loop {
        match Message::from_number(next_message().await) {
            Some(Message::Publish) => shard.publish(),
            Some(Message::Drain) => break,
            Some(Message::Renew) => renew(&shard),
            Some(Message::Members) => shard.take_over_members(),
            Some(Message::Health) => shard.servers.for_each(|server| server.look_at_health()),
            None => {}
        }
    }
    shard.is_draining.set(true);
    shard.drivers.wake_all();
    sluice_sys::leave_shard_set();
    spawn(go_on_publishing(shard.clone()));
    let until_ms = now_ms() + shard.snapshot().times.drain;
    for listener in listeners {
        listener.stop(until_ms.saturating_sub(now_ms())).await;
    }
    drain(until_ms).await;
    end_sessions(&shard, until_ms).await;
    shard.servers.for_each(|server| server.close_idle());
    shard.publish();
}

/// Takes over the certificates that are in force now.
fn renew(shard: &Shard) {
    if let Err(error) = shard.tls.renew() {
        log::error(format_args!("the new certificates are not used, the old ones stay: {error}"));
    }
}

/// A worker: serves one connection after the other.
pub(crate) fn worker(shard: &Rc<Shard>) -> impl Future<Output = ()> + use<> {
    let shard = shard.clone();
    async move {
        loop {
            let arrived = Accepted::next(|| shard.snapshot().limits.connection_age).await;
            let accepted = match arrived {
                Arrived::Accepted(accepted) if downstream::is_begun(&shard, &accepted) => accepted,
                Arrived::Stream(session, number) => {
                    downstream::h2::serve_stream(&shard, session, number).await;
                    continue;
                }
                arrived => match cold!(downstream::begin(&shard, arrived)) {
                    Some(accepted) => accepted,
                    None => continue,
                },
            };
            let Some(changed) = downstream::h1::serve(&shard, accepted).await else { continue };
            match *changed {
                Changed::Tunnel(tunnel) => spawn(tunnel.run()),
                Changed::StreamTunnel(tunnel) => spawn(tunnel.run()),
                Changed::WebSocket(tunnel) => spawn(tunnel.run()),
                Changed::Http2(accepted) => cold!(downstream::h2::begin(&shard, accepted)),
            }
        }
    }
}

/// Waits until every connection is closed, or the drain's time is over.
async fn drain(until_ms: u64) {
    while sluice_sys::connections_open() > 0 && now_ms() < until_ms {
        // First a moment for the requests of connections that were accepted last.
        sleep(DRAIN_LOOK_MS.min(until_ms - now_ms())).await;
        sluice_sys::close_idle();
    }
}

/// Waits until connections to servers by HTTP/2 have said that they end.
async fn end_sessions(shard: &Shard, until_ms: u64) {
    let is_any = || {
        let mut is_any = false;
        shard.servers.for_each(|server| is_any |= server.sessions.count() != (0, 0));
        is_any
    };
    shard.drivers.wake_all();
    while is_any() && now_ms() < until_ms {
        sleep(1).await;
    }
}

async fn go_on_publishing(shard: Rc<Shard>) {
    loop {
        if let Some(Message::Publish) = Message::from_number(next_message().await) {
            shard.publish();
        }
    }
}
