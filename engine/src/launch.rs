//! From a configuration to running shards, and from a signal to their end. Runs on the control thread.
//!
//! Every shard is made on its own thread, pinned and with its memory from the node of its CPU; it says that it is ready,
//! and waits; when all are ready they accept together. If one cannot start, none does, and the process says why.
//! What comes after the start is in `control::shard_set`.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use sluice_sys::{
    BoundListener, Doorbell, HostUnsupported, HugePages, PeerBounds, PeerCounts, RingFailed, Runtime,
    Settings,
};

use crate::balance::ShardPeers;
use crate::budget::Budget;
use crate::config::Config;
use crate::connection::history::ONE_TOO_MANY;
use crate::control::freshness::Freshness;
use crate::control::metrics::Metrics;
use crate::control::shard_set::{Event, Member, ShardSet};
use crate::control::signals::{self, Request};
use crate::control::{live, resolve};
use crate::counters::Counters;
use crate::listen::{Reserved, SteeringMethod, why_not_bound};
use crate::placement::{Plan, ShardPlace};
use crate::route::RouteTable;
use crate::serve;
use crate::shard::Shard;
use crate::topology::Topology;
use crate::upstream::servers::Resolved;
use crate::upstream::stock::Descriptors;

/// Descriptors a shard needs beside its connections: ring, doorbell, listeners, a few upstream connections.
const DESCRIPTORS_PER_SHARD: u64 = 32;

/// This part of the descriptors (one in so many) is kept from clients, for connections to servers and pipes.
const UPSTREAM_SHARE: u64 = 32;

/// ... but not more than this.
const UPSTREAM_DESCRIPTORS_MAX: u64 = 8_192;

/// Threads beside the shards, by a generous count.
const OTHER_THREADS: usize = 16;

/// Why the proxy does not run, or not any more.
#[derive(Debug)]
pub enum LaunchError {
    /// The host lacks something.
    HostUnsupported(HostUnsupported),
    /// The configuration asks for something that is not to be had now.
    Refused(String),
    /// It ran, and a shard cannot go on.
    RingFailed {
        /// The shard.
        shard: usize,
        /// What the kernel said.
        error: RingFailed,
    },
}

impl std::fmt::Display for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HostUnsupported(unsupported) => unsupported.fmt(f),
            Self::Refused(why) => f.write_str(why),
            Self::RingFailed { shard, error } => {
                write!(
                    f,
                    "shard {shard} cannot go on: {error}; the process ends at once, its supervisor should start it again"
                )
            }
        }
    }
}

impl std::error::Error for LaunchError {}

impl LaunchError {
    /// EX_OSERR of sysexits.h.
    const RING_FAILED: u8 = 71;

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::HostUnsupported(_) => ExitCode::from(HostUnsupported::EXIT_CODE),
            Self::Refused(_) => ExitCode::FAILURE,
            Self::RingFailed { .. } => ExitCode::from(Self::RING_FAILED),
        }
    }
}

impl From<HostUnsupported> for LaunchError {
    fn from(unsupported: HostUnsupported) -> Self {
        Self::HostUnsupported(unsupported)
    }
}

/// What every shard is made from.
struct Blueprint {
    config: Config,
    resolved: Resolved,
    listen: Vec<SocketAddr>,
    connections_max: u32,
    /// What each shard may use.
    budget: Budget,
    descriptors: Descriptors,
    /// Connections by their client's address, if they are limited.
    peers: Option<Arc<PeerCounts>>,
    /// The routes, once for every node that shards take their memory from: built by the first shard there.
    routes: Vec<(usize, OnceLock<Arc<RouteTable>>)>,
}

impl Blueprint {
    /// The routing table in the memory of a node.
    fn routes_on(&self, node: usize) -> Arc<RouteTable> {
        let build = || Arc::new(RouteTable::build(&self.config));
        match self.routes.iter().find(|(known, _)| *known == node) {
            Some((_, table)) => table.get_or_init(build).clone(),
            None => build(),
        }
    }
}

/// Takes the address for metrics before anything is served.
fn bind_metrics(address: SocketAddr) -> Result<Metrics, LaunchError> {
    Metrics::bind(address).map_err(|error| why_not_bound("for metrics ", address, &error))
}

fn serve_metrics(metrics: Metrics, events: Sender<Event>) -> Result<(), LaunchError> {
    let refused = |error: io::Error| LaunchError::Refused(format!("cannot serve metrics: {error}"));
    eprintln!("sluice: metrics on http://{}/metrics", metrics.address().map_err(refused)?);
    metrics.serve(events).map_err(refused)
}

/// Runs the proxy until it is told to end.
///
/// # Errors
/// [`LaunchError`] if it cannot start, or if the ring of a shard fails.
pub fn run(
    config: Config,
    topology: &Topology,
    plan: &Plan,
    when_ready: impl FnOnce(&[SocketAddr]),
) -> Result<(), LaunchError> {
    sluice_sys::reserve_arenas(plan.shards.len() + OTHER_THREADS);
    let (events, inbox) = channel();
    signals::listen(events.clone())
        .map_err(|error| LaunchError::Refused(format!("cannot listen for signals: {error}")))?;
    let budget = Budget::of_shard(&config.limits, topology, plan.shards.len());
    let (connections_max, descriptors) = descriptors_for(&config, plan.shards.len())?;
    let connections_max =
        u32::try_from(budget.connections.min(u64::from(connections_max))).unwrap_or(u32::MAX);
    let resolved = resolve::resolve(&config).map_err(LaunchError::Refused)?;
    let wanted: Vec<SocketAddr> = config.listeners.iter().map(|listener| listener.address).collect();
    let reserved = Reserved::bind(&wanted)?;
    let listen = reserved.addresses();
    let metrics = config.metrics.map(bind_metrics).transpose()?;
    let mut nodes: Vec<usize> = plan.shards.iter().map(|place| place.memory_node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let routes = nodes.into_iter().map(|node| (node, OnceLock::new())).collect();
    let peers = (config.limits.connections_per_address > 0).then(|| PeerCounts::new(plan.shards.len()));
    let blueprint =
        Arc::new(Blueprint { config, resolved, listen, connections_max, budget, descriptors, peers, routes });
    let (method, board) =
        SteeringMethod::choose(blueprint.config.host.steering, topology, plan, blueprint.listen.len());
    let (mut shard_set, go) = start(&blueprint, plan, &method, &events, &inbox)?;
    if !plan.reserved.is_empty() {
        sluice_sys::pin_to_cpus(plan.reserved.iter()).map_err(|error| {
            LaunchError::Refused(format!("cannot move to CPU {}: {error}", plan.reserved))
        })?;
    }
    // Every shard listens by now: the sockets that kept the ports may go, and so may our hold on the programs.
    drop((reserved, method));
    for (shard, sender) in go.into_iter().enumerate() {
        let _ = sender.send(board.as_ref().map(|board| shard_set.peers(shard, board)));
    }
    if let Some(metrics) = metrics {
        serve_metrics(metrics, events.clone())?;
    }
    if let Err(error) = live::listen(events) {
        eprintln!("sluice: warning: `sluice topology --live` will not find this process: {error}");
    }
    if blueprint.config.host.huge_pages == HugePages::Transparent && !sluice_sys::has_transparent_huge_pages()
    {
        eprintln!(
            "sluice: warning: transparent huge pages are switched off in this kernel, receive buffers have ordinary ones \
             (hint: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled)"
        );
    }
    if let Some(warning) = sluice_sys::kernel_warning() {
        eprintln!("sluice: warning: {warning}");
    }
    if let Some(time) = blueprint.config.host.busy_poll {
        eprintln!("sluice: {}", cost_of_busy_poll(time));
    }
    if let Some(line) = budget.explain(topology) {
        eprintln!("sluice: {line}");
    }
    for address in &blueprint.listen {
        eprintln!("sluice: listening on {address}");
    }
    eprintln!("sluice: ready ({} shard{})", plan.shards.len(), if plan.shards.len() == 1 { "" } else { "s" });
    when_ready(&blueprint.listen);
    shard_set.command(&inbox, &blueprint.config)
}

/// What polling costs, so that nobody wonders about processors that are busy without work.
fn cost_of_busy_poll(time: Duration) -> String {
    format!(
        "busy poll: a shard spends up to {} us of processor time before each sleep: {:.1} % of a core at 1,000 sleeps a \
         second, a whole core at {:.0}",
        time.as_micros(),
        time.as_secs_f64() * 1_000.0 * 100.0,
        1.0 / time.as_secs_f64(),
    )
}

/// So many connections above the limit of their address are let in, to be told so by a 429; those beyond are closed as they
/// come, since one that says nothing would hold its descriptor all the same.
fn politely_refused(limit: u32) -> u32 {
    (limit / 4).max(8)
}

/// Raises the descriptor limit and says how many client connections a shard may have, and what its part of the descriptors is.
fn descriptors_for(config: &Config, shards: usize) -> Result<(u32, Descriptors), LaunchError> {
    let limit = sluice_sys::raise_descriptor_limit();
    let (before, now) =
        limit.map_err(|error| LaunchError::Refused(format!("cannot read RLIMIT_NOFILE: {error}")))?;
    if now > before {
        eprintln!("sluice: descriptor limit raised from {before} to {now}");
    }
    let needed = DESCRIPTORS_PER_SHARD * shards as u64 + 16;
    if now < needed {
        return Err(LaunchError::HostUnsupported(HostUnsupported::new(
            format!("the descriptor limit is {now}, {shards} shards need at least {needed}"),
            "raise RLIMIT_NOFILE (ulimit -n; LimitNOFILE= in systemd), or run fewer shards",
        )));
    }
    Ok(share_out(now - needed, config.limits.connections as u64, shards as u64))
}

/// Shares descriptors out: clients of one shard may have all but those that are kept for servers, since the kernel may give all
/// clients to one shard; idle connections to servers are counted by the shard's equal part.
fn share_out(descriptors: u64, connections: u64, shards: u64) -> (u32, Descriptors) {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let for_servers = (descriptors / UPSTREAM_SHARE).min(UPSTREAM_DESCRIPTORS_MAX);
    let for_clients = descriptors - for_servers;
    let configured = if connections == 0 { u64::MAX } else { connections };
    let of_a_shard =
        Descriptors { all: narrow(descriptors / shards), for_servers: narrow(for_servers / shards) };
    (narrow(configured.min(for_clients)), of_a_shard)
}

/// Lets a shard begin.
type Go = Sender<Option<ShardPeers>>;

/// Starts the threads and waits until all shards are ready to accept; returns what lets them begin.
fn start(
    blueprint: &Arc<Blueprint>,
    plan: &Plan,
    method: &SteeringMethod,
    events: &Sender<Event>,
    inbox: &Receiver<Event>,
) -> Result<(ShardSet, Vec<Go>), LaunchError> {
    let mut shard_set = ShardSet::new(blueprint.config.host.steering, method.name())?;
    let mut go = Vec::new();
    for place in &plan.shards {
        let (begin, wait) = channel();
        start_shard(blueprint, place, method, events.clone(), wait)?;
        go.push(begin);
    }
    while shard_set.len() < plan.shards.len() {
        match inbox.recv() {
            Ok(Event::Ready(member)) => shard_set.add(*member),
            Ok(Event::CannotStart(error)) => return Err(error),
            Ok(Event::Asked(Request::End)) => {
                return Err(LaunchError::Refused("ended before it was ready".into()));
            }
            Ok(Event::Asked(Request::Report) | Event::Live(_) | Event::Metrics(_) | Event::Ended { .. }) => {}
            Err(_) => unreachable!("this thread holds a sender"),
        }
    }
    Ok((shard_set, go))
}

/// Opens a shard's listeners and starts its thread, one shard after the other, so that listeners have the numbers of their
/// shards. Done from the shard's own CPU, so that what the kernel allocates for both is near it.
fn start_shard(
    blueprint: &Arc<Blueprint>,
    place: &ShardPlace,
    method: &SteeringMethod,
    events: Sender<Event>,
    wait: Receiver<Option<ShardPeers>>,
) -> Result<(), LaunchError> {
    let start = || {
        let listeners = method.open(&blueprint.listen, place)?;
        let (blueprint, place) = (blueprint.clone(), place.clone());
        thread::Builder::new()
            .name(format!("shard-{}", place.shard))
            .spawn(move || shard_thread(&blueprint, &place, listeners, &events, &wait))
            .map(drop)
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

/// The life of a shard's thread.
fn shard_thread(
    blueprint: &Blueprint,
    place: &ShardPlace,
    listeners: Vec<BoundListener>,
    events: &Sender<Event>,
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
        connections_max: blueprint.connections_max,
        sockets_expected: blueprint.connections_max.min(1 << 22),
        first_byte_ms: u64::try_from(blueprint.config.timeouts.header.as_millis()).unwrap_or(u64::MAX),
        huge_pages: blueprint.config.host.huge_pages,
        busy_poll: blueprint.config.host.busy_poll,
        buffers: blueprint.budget.receive_buffers,
        read_ahead_bytes: blueprint.config.limits.read_ahead_bytes,
        ..Settings::default()
    };
    let runtime = Runtime::new(&settings)?;
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
    let shard = Shard::new(
        &blueprint.config,
        &blueprint.resolved,
        routes,
        &blueprint.budget,
        blueprint.descriptors,
        counters.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out() {
        let servers = |all, for_servers| Descriptors { all, for_servers };
        assert_eq!(share_out(19_952, 0, 1), (19_329, servers(19_952, 623)));
        assert_eq!(share_out(19_952, 4_000, 2), (4_000, servers(9_976, 311)));
        assert_eq!(share_out(1 << 20, 0, 4), ((1 << 20) - (1 << 13), servers(1 << 18, 1 << 11)));
        assert_eq!(share_out(5, 0, 4), (5, servers(1, 0)));
    }
}
