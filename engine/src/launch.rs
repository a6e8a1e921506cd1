//! From a configuration to running shards, and from a signal to their end. Runs on the control thread.
//!
//! Every shard is made on its own thread (`shard_thread`), reports that it is ready, and waits; when all are ready they accept
//! together. If one cannot start, none does, and the process says why. What comes after the start is in `control::shard_set`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sluice_sys::{Address, HugePages};
use sluice_tls::tickets::TicketKeys;
use tokio::sync::watch;

use crate::blueprint::Blueprint;
use crate::budget::Budget;
use crate::config::{Config, Host};
use crate::control::metrics::Metrics;
use crate::control::shard_set::{Event, ShardSet};
use crate::control::signals::{self, Request};
use crate::control::ticket_ring::TicketRing;
use crate::control::tls_upkeep::TlsUpkeep;
use crate::control::{health, live, names};
use crate::descriptors::{descriptors_for, places_for_checks};
pub use crate::launch_error::LaunchError;
use crate::listen::{Reserved, SteeringMethod, why_not_bound};
use crate::log::{self, Level};
use crate::placement::Plan;
use crate::shard_thread::{self, Go};
use crate::tls::files::{TlsFiles, now_s};
use crate::topology::Topology;
use crate::upstream::board::ServerBoard;

/// Threads beside the shards, by a generous count.
const OTHER_THREADS: usize = 16;

/// Events that may wait for the control thread. Their places are allocated here: without a bound, the shard that sends first
/// would allocate them in its heap, and threads on other nodes would be the first to write to some of its pages.
const EVENTS_MAX: usize = 64;

/// Runs the proxy until a signal ends it.
///
/// # Errors
/// [`LaunchError`] if it cannot start, or if the ring of a shard fails.
pub fn run(
    config: Config,
    topology: &Topology,
    plan: &Plan,
    when_ready: impl FnOnce(&[Address]),
) -> Result<(), LaunchError> {
    sluice_sys::reserve_arenas(plan.shards.len() + OTHER_THREADS);
    sluice_sys::reserve_runtimes(plan.shards.len());
    let (events, inbox) = sync_channel(EVENTS_MAX);
    signals::listen(events.clone())
        .map_err(|error| LaunchError::Refused(format!("cannot listen for signals: {error}")))?;
    let budget = Budget::of_shard(&config.limits, topology, plan.shards.len());
    let descriptors = descriptors_for(&config, plan.shards.len())?;
    let resolved = names::resolve(&config).map_err(LaunchError::Refused)?;
    let members = names::members(&resolved);
    let (tls, mut upkeep) = load_tls(&config).map_err(LaunchError::Refused)?;
    let reserved = Reserved::bind(&config.listeners)?;
    let metrics = config.metrics.map(bind_metrics).transpose()?;
    let listen = reserved.addresses();
    let blueprint = Arc::new(Blueprint::new(config, (members, tls), listen, budget, descriptors, plan));
    let (method, board) =
        SteeringMethod::choose(blueprint.config.host.steering, topology, plan, blueprint.listen.len());
    let (mut shard_set, go) = start(&blueprint, plan, (&reserved, &method), &events, &inbox)?;
    if !plan.reserved.is_empty() {
        sluice_sys::pin_to_cpus(plan.reserved.iter()).map_err(|error| {
            LaunchError::Refused(format!("cannot move to CPU {}: {error}", plan.reserved))
        })?;
    }
    // Every shard listens by now: the sockets that kept the ports may go, and so may our hold on the programs.
    drop(method);
    shard_set.keep_files(reserved.release());
    for (shard, sender) in go.into_iter().enumerate() {
        let _ = sender.send(board.as_ref().map(|board| shard_set.peers(shard, board)));
    }
    if let Some(metrics) = metrics {
        serve_metrics(metrics, events.clone(), blueprint.servers.clone())?;
    }
    if let Some(upkeep) = &upkeep {
        let started = upkeep.start_acme(&blueprint.config, events.clone());
        started.map_err(|error| LaunchError::Refused(format!("cannot start a thread for ACME: {error}")))?;
    }
    let places = places_for_checks(&blueprint.config)?;
    let (changed, changes) = watch::channel(());
    health::start(&blueprint, places, changes, events.clone()).map_err(LaunchError::Refused)?;
    names::start(&blueprint, resolved, changed, events.clone()).map_err(LaunchError::Refused)?;
    if let Err(error) = live::listen(events) {
        log::warn(format_args!("`sluice topology --live` will not find this process: {error}"));
    }
    report_host(&blueprint.config.host);
    if let Some(line) = budget.explain(topology) {
        log::info(line);
    }
    for address in &blueprint.listen {
        log::write(
            Level::Info,
            format_args!("listening on {address}"),
            &[("address", address.to_string().into())],
        );
    }
    let shards = plan.shards.len();
    log::write(
        Level::Info,
        format_args!("ready ({shards} shard{})", if shards == 1 { "" } else { "s" }),
        &[("shards", shards.into())],
    );
    when_ready(&blueprint.listen);
    shard_set.command(&inbox, &blueprint.config, upkeep.as_mut())
}

/// Reads what TLS needs; and where listeners have TLS, what keeps it up to date.
fn load_tls(config: &Config) -> Result<(TlsFiles, Option<TlsUpkeep>), String> {
    let now_s = now_s();
    if config.listeners.iter().all(|listener| listener.tls.is_none()) {
        let tickets = Arc::new(TicketKeys::generate(now_s)?);
        return Ok((TlsFiles::load(config, &tickets)?, None));
    }
    let tickets = TicketRing::start(config, now_s)?;
    let tls = TlsFiles::load(config, tickets.keys())?;
    let upkeep = TlsUpkeep::new(config, tickets, &tls.material, now_s)?;
    Ok((tls, Some(upkeep)))
}

/// Starts the threads and waits until all shards are ready to accept; returns what lets them begin.
fn start(
    blueprint: &Arc<Blueprint>,
    plan: &Plan,
    (reserved, method): (&Reserved, &SteeringMethod),
    events: &SyncSender<Event>,
    inbox: &Receiver<Event>,
) -> Result<(ShardSet, Vec<Go>), LaunchError> {
    let servers = blueprint.servers.clone();
    let reports = events.clone();
    // A shard never waits for the control thread: a report that it has no room for is lost.
    blueprint.servers.reporter().send_to(move |report| drop(reports.try_send(Event::Upstream(report))));
    let mut shard_set = ShardSet::new(blueprint.config.host.steering, method.name(), servers)?;
    let start = |place| shard_thread::start(blueprint, place, (reserved, method), events.clone());
    let go = plan.shards.iter().map(start).collect::<Result<_, _>>()?;
    while shard_set.len() < plan.shards.len() {
        match inbox.recv() {
            Ok(Event::Ready(member)) => shard_set.add(member),
            Ok(Event::CannotStart(error)) => return Err(error),
            Ok(Event::Asked(Request::End(_))) => {
                return Err(LaunchError::Refused("ended before it was ready".into()));
            }
            Ok(
                Event::Asked(Request::Report | Request::Reload)
                | Event::Live(_)
                | Event::Metrics(_)
                | Event::Acme(_)
                | Event::Health(_)
                | Event::Upstream(_)
                | Event::Members(_)
                | Event::Ended { .. },
            ) => {}
            Err(_) => unreachable!("this thread holds a sender"),
        }
    }
    Ok((shard_set, go))
}

/// Takes the address for metrics before anything is served.
fn bind_metrics(address: SocketAddr) -> Result<Metrics, LaunchError> {
    Metrics::bind(address).map_err(|error| why_not_bound("for metrics ", &address.into(), &error))
}

fn serve_metrics(
    metrics: Metrics,
    events: SyncSender<Event>,
    servers: Arc<ServerBoard>,
) -> Result<(), LaunchError> {
    let refused = |error: io::Error| LaunchError::Refused(format!("cannot serve metrics: {error}"));
    let address = metrics.address().map_err(refused)?;
    log::write(
        Level::Info,
        format_args!("metrics on http://{address}/metrics"),
        &[("address", address.to_string().into())],
    );
    metrics.serve(events, servers).map_err(refused)
}

/// What the kernel lacks of what the configuration asks for, or what that costs.
fn report_host(host: &Host) {
    if host.huge_pages == HugePages::Transparent && !sluice_sys::has_transparent_huge_pages() {
        log::warn(
            "transparent huge pages are switched off in this kernel, receive buffers have ordinary ones (hint: echo madvise \
             > /sys/kernel/mm/transparent_hugepage/enabled)",
        );
    }
    if let Some(warning) = sluice_sys::kernel_warning() {
        log::warn(warning);
    }
    if let Some(time) = host.busy_poll {
        log::info(cost_of_busy_poll(time));
    }
}

/// The cost of polling: processors are busy without work.
fn cost_of_busy_poll(time: Duration) -> String {
    format!(
        "busy poll: a shard spends up to {} us of processor time before each sleep: {:.1} % of a core at 1,000 sleeps a \
         second, a whole core at {:.0}",
        time.as_micros(),
        time.as_secs_f64() * 1_000.0 * 100.0,
        1.0 / time.as_secs_f64(),
    )
}
