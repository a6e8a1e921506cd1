//! The thread of a shard: its CPU, its memory, everything the shard owns, and its life.
//!
//! A shard is made on its own thread, pinned and with its memory from the node of its CPU, so that all of it is near. It reports
//! that it is ready, waits until all shards are, and runs to its end.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread;
use std::time::Instant;

use crossbeam_utils::CachePadded;
use sluice_sys::{BoundListener, Doorbell, PeerBounds, Runtime, Settings};

use crate::balance::ShardPeers;
use crate::blueprint::Blueprint;
use crate::connection::history::ONE_TOO_MANY;
use crate::control::freshness::Freshness;
use crate::control::member::Member;
use crate::control::shard_set::Event;
use crate::counters::Counters;
use crate::launch_error::LaunchError;
use crate::listen::{Reserved, SteeringMethod};
use crate::placement::ShardPlace;
use crate::serve;
use crate::shard::Shard;
use crate::tls::listeners::TlsListeners;
use crate::tls::servers::TlsUpstreams;

/// Lets a shard begin.
pub(crate) type Go = Sender<Option<ShardPeers>>;

/// Opens a shard's listeners and starts its thread, one shard after the other, so that listeners have the numbers of their
/// shards. Done from the shard's own CPU, so that what the kernel allocates for both is near it.
pub(crate) fn start(
    blueprint: &Arc<Blueprint>,
    place: &ShardPlace,
    (reserved, method): (&Reserved, &SteeringMethod),
    events: SyncSender<Event>,
) -> Result<Go, LaunchError> {
    let (go, wait) = channel();
    let start = || {
        let listeners = method.open(reserved, place)?;
        let (blueprint, place) = (blueprint.clone(), place.clone());
        thread::Builder::new()
            .name(format!("shard-{}", place.shard))
            .spawn(move || live(&blueprint, &place, listeners, &events, &wait))
            .map(|_| go)
            .map_err(|error| LaunchError::Refused(format!("cannot start a thread: {error}")))
    };
    if blueprint.config.host.pinning {
        sluice_sys::while_visiting(place.cpu, &memory_nodes(place), start)
    } else {
        start()
    }
}

/// The nodes to take a shard's memory from, best first; none where there is no choice.
fn memory_nodes(place: &ShardPlace) -> Vec<usize> {
    if place.memory_fallbacks.is_empty() && place.memory_node == place.node {
        return Vec::new();
    }
    std::iter::once(place.memory_node).chain(place.memory_fallbacks.iter().copied()).collect()
}

/// The life of the thread.
fn live(
    blueprint: &Blueprint,
    place: &ShardPlace,
    listeners: Vec<BoundListener>,
    events: &SyncSender<Event>,
    go: &Receiver<Option<ShardPeers>>,
) {
    let (runtime, member, shard) = match make_shard(blueprint, place) {
        Ok(made) => made,
        Err(error) => {
            let _ = events.send(Event::CannotStart(error));
            return;
        }
    };
    if events.send(Event::Ready(Box::new(member))).is_err() {
        return;
    }
    let Ok(peers) = go.recv() else { return };
    let shard = Rc::new(shard);
    let outcome = runtime.run(serve::run(shard.clone(), listeners, peers), || serve::worker(&shard));
    let _ = events.send(Event::Ended { shard: place.shard, outcome });
}

fn no_policy(error: &io::Error) -> String {
    format!(
        "the kernel refuses a memory policy ({error}): memory comes from the node of the CPU as long as there is any \
         (hint: CAP_SYS_NICE, or a seccomp profile that allows set_mempolicy)"
    )
}

/// Settles the thread on its CPU and node, then makes everything the shard owns, so that all of it is near.
fn make_shard(blueprint: &Blueprint, place: &ShardPlace) -> Result<(Runtime, Member, Shard), LaunchError> {
    let refused = |what: &str, error: io::Error| {
        LaunchError::Refused(format!("shard {}: {what}: {error}", place.shard))
    };
    let (mut memory_node, mut warning) = (place.memory_node, None);
    if blueprint.config.host.pinning {
        sluice_sys::pin_to_cpu(place.cpu)
            .map_err(|error| refused(&format!("cannot pin to CPU {}", place.cpu), error))?;
        match memory_nodes(place).as_slice() {
            [] => {}
            nodes => match sluice_sys::prefer_memory_of(nodes) {
                Ok(node) => memory_node = node,
                Err(error) => warning = Some(no_policy(&error)),
            },
        }
    }
    let settings = Settings {
        sockets_expected: blueprint.connections_max.min(1 << 22),
        first_byte_ms: u64::try_from(blueprint.config.timeouts.request_head.as_millis()).unwrap_or(u64::MAX),
        huge_pages: blueprint.config.host.huge_pages,
        busy_poll: blueprint.config.host.busy_poll,
        buffers: blueprint.budget.receive_buffers,
        read_ahead_bytes: blueprint.config.limits.read_ahead_bytes,
        ..Settings::default()
    };
    let runtime = Runtime::new(&settings)?;
    runtime.limit_connections(blueprint.connection_limit.share(place.shard));
    if let Some(peers) = &blueprint.peers {
        let limit = blueprint.config.limits.connections_per_address;
        let bounds = PeerBounds {
            noted_above: limit,
            owner_word: ONE_TOO_MANY,
            accept_max: limit.saturating_add(politely_refused(limit)),
        };
        runtime.count_peers(peers.share(place.shard), bounds);
    }
    let doorbell =
        Doorbell::of_this_thread().map_err(|error| refused("no descriptor for the doorbell", error))?;
    let counters: Arc<CachePadded<Counters>> = Arc::default();
    let routes = blueprint.routes_on(memory_node);
    let of_tls = |error| LaunchError::Refused(error);
    let listeners = TlsListeners::new(&blueprint.tls).map_err(of_tls)?;
    let upstreams = TlsUpstreams::new(&blueprint.tls).map_err(of_tls)?;
    let shard = Shard::new(
        &blueprint.config,
        (&blueprint.membership, &blueprint.servers, place.shard),
        routes,
        &blueprint.budget,
        blueprint.descriptors,
        counters.clone(),
        (listeners, upstreams),
    );
    let member = Member {
        place: place.clone(),
        memory_node,
        doorbell,
        counters,
        freshness: Freshness::new(Instant::now()),
        memory: sluice_sys::shard_memory(),
        thread: sluice_sys::thread_id(),
        warning,
    };
    Ok((runtime, member, shard))
}

/// So many connections above the limit of their address are let in, to get a 429; those beyond are closed as they
/// come, since a silent one would hold its descriptor nevertheless.
fn politely_refused(limit: u32) -> u32 {
    (limit / 4).max(8)
}
