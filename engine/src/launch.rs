//! From a configuration to running shards, and from a signal to their end. Runs on the control thread.
//!
//! Every shard is made on its own pinned thread, says that it is ready, and waits; when all are ready they accept
//! together. If one cannot start, none does, and the process says why.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use sluice_sys::{BoundListener, Courier, Doorbell, Outstanding, Runtime, Settings, Unfit};

use crate::config::Config;
use crate::control::signals::{self, Request};
use crate::control::{Message, resolve};
use crate::counters::Counters;
use crate::placement::{Plan, ShardPlace};
use crate::shard::{Resolved, Shard};

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: u32 = 65_535;

/// Descriptors a shard needs beside its connections: ring, doorbell, listeners, a few upstream connections.
const DESCRIPTORS_PER_SHARD: u64 = 32;

/// This part of the descriptors (one in so many) is kept from clients, for connections to servers.
const UPSTREAM_SHARE: u64 = 32;

/// ... but not more than this.
const UPSTREAM_DESCRIPTORS_MAX: u64 = 8_192;

/// How long a shard may take to bring its counters up to date for a report.
const PUBLISH_PATIENCE: Duration = Duration::from_millis(500);

/// Why the proxy does not run.
#[derive(Debug)]
pub enum LaunchError {
    /// The host lacks something.
    Unfit(Unfit),
    /// The configuration asks for something that is not to be had now.
    Refused(String),
}

impl std::fmt::Display for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for LaunchError {}

impl LaunchError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unfit(_) => ExitCode::from(Unfit::EXIT_CODE),
            Self::Refused(_) => ExitCode::FAILURE,
        }
    }
}

impl From<Unfit> for LaunchError {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

/// What the control thread waits for.
enum Event {
    Asked(Request),
    Ready(Doorbell),
    CannotStart(LaunchError),
    Ended(Outstanding),
}

impl From<Request> for Event {
    fn from(request: Request) -> Self {
        Event::Asked(request)
    }
}

/// What every shard is made from.
struct Blueprint {
    config: Config,
    resolved: Resolved,
    listen: Vec<SocketAddr>,
    connections_max: u32,
}

/// The running shards, as the control thread sees them.
struct Fleet {
    doorbells: Vec<Doorbell>,
    counters: Vec<Arc<CachePadded<Counters>>>,
    courier: Courier,
}

/// Runs the proxy until it is told to end.
///
/// # Errors
/// [`LaunchError`] if it cannot start; once it runs it ends well.
pub fn run(config: Config, plan: &Plan, when_ready: impl FnOnce(&[SocketAddr])) -> Result<(), LaunchError> {
    let (events, inbox) = channel();
    signals::listen(events.clone())
        .map_err(|error| LaunchError::Refused(format!("cannot listen for signals: {error}")))?;
    let connections_max = descriptors_for(&config, plan.shards.len())?;
    let resolved = resolve::resolve(&config).map_err(LaunchError::Refused)?;
    let reserved = reserve(&config.listen)?;
    let listen: Vec<SocketAddr> = reserved.iter().map(|(_, address)| *address).collect();
    let blueprint = Arc::new(Blueprint { config, resolved, listen, connections_max });
    let (mut fleet, go) = start(&blueprint, plan, &events, &inbox)?;
    if !plan.reserved.is_empty() {
        sluice_sys::pin_to_cpus(plan.reserved.iter()).map_err(|error| {
            LaunchError::Refused(format!("cannot move to CPU {}: {error}", plan.reserved))
        })?;
    }
    // Every shard listens by now; the sockets that kept the ports may go.
    drop(reserved);
    for sender in go {
        let _ = sender.send(());
    }
    for address in &blueprint.listen {
        eprintln!("sluice: listening on {address}");
    }
    eprintln!("sluice: ready ({} shard{})", plan.shards.len(), if plan.shards.len() == 1 { "" } else { "s" });
    when_ready(&blueprint.listen);
    fleet.command(&inbox, blueprint.config.drain_timeout);
    Ok(())
}

/// Raises the descriptor limit and says how many client connections a shard may have.
fn descriptors_for(config: &Config, shards: usize) -> Result<u32, LaunchError> {
    let limit = sluice_sys::raise_descriptor_limit();
    let (before, now) =
        limit.map_err(|error| LaunchError::Refused(format!("cannot read RLIMIT_NOFILE: {error}")))?;
    if now > before {
        eprintln!("sluice: descriptor limit raised from {before} to {now}");
    }
    let needed = DESCRIPTORS_PER_SHARD * shards as u64 + 16;
    if now < needed {
        return Err(LaunchError::Unfit(Unfit::new(
            format!("the descriptor limit is {now}, {shards} shards need at least {needed}"),
            "raise RLIMIT_NOFILE (ulimit -n; LimitNOFILE= in systemd), or run fewer shards",
        )));
    }
    // Clients must not take the descriptors that connections to servers need.
    let for_clients = now - needed - (now / UPSTREAM_SHARE).min(UPSTREAM_DESCRIPTORS_MAX);
    let configured = match config.limits.connections {
        0 => u64::MAX,
        limit => limit as u64,
    };
    Ok(u32::try_from(configured.min(for_clients)).unwrap_or(u32::MAX))
}

/// Binds every address once, which finds out now what cannot be bound, and fixes the port where it was left open.
fn reserve(listen: &[SocketAddr]) -> Result<Vec<(BoundListener, SocketAddr)>, LaunchError> {
    let reserve_one = |address: &SocketAddr| {
        // The shards share the port; another process must not have it already.
        BoundListener::probe(*address)?;
        let bound = BoundListener::reserve(*address)?;
        let local = bound.local()?;
        Ok((bound, local))
    };
    listen
        .iter()
        .map(|address| {
            reserve_one(address).map_err(|error| LaunchError::Refused(why_not_bound(*address, &error)))
        })
        .collect()
}

fn why_not_bound(address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "this host does not have that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root, or CAP_NET_BIND_SERVICE",
        _ => "see bind(2)",
    };
    format!("cannot listen on {address}: {error} (hint: {hint})")
}

/// Starts the threads and waits until all shards are ready to accept; returns what lets them begin.
fn start(
    blueprint: &Arc<Blueprint>,
    plan: &Plan,
    events: &Sender<Event>,
    inbox: &Receiver<Event>,
) -> Result<(Fleet, Vec<Sender<()>>), LaunchError> {
    let mut fleet = Fleet { doorbells: Vec::new(), counters: Vec::new(), courier: Courier::new()? };
    let mut go = Vec::new();
    for place in &plan.shards {
        let (begin, wait) = channel();
        let counters: Arc<CachePadded<Counters>> = Arc::default();
        let (blueprint, events, place, mine) =
            (blueprint.clone(), events.clone(), place.clone(), counters.clone());
        thread::Builder::new()
            .name(format!("shard-{}", place.shard))
            .spawn(move || shard_thread(&blueprint, &place, mine, &events, &wait))
            .map_err(|error| LaunchError::Refused(format!("cannot start a thread: {error}")))?;
        fleet.counters.push(counters);
        go.push(begin);
    }
    while fleet.doorbells.len() < plan.shards.len() {
        match inbox.recv() {
            Ok(Event::Ready(doorbell)) => fleet.doorbells.push(doorbell),
            Ok(Event::CannotStart(error)) => return Err(error),
            Ok(Event::Asked(Request::End)) => {
                return Err(LaunchError::Refused("ended before it was ready".into()));
            }
            Ok(Event::Asked(Request::Report) | Event::Ended(_)) => {}
            Err(_) => unreachable!("this thread holds a sender"),
        }
    }
    Ok((fleet, go))
}

/// The life of a shard's thread.
fn shard_thread(
    blueprint: &Blueprint,
    place: &ShardPlace,
    counters: Arc<CachePadded<Counters>>,
    events: &Sender<Event>,
    go: &Receiver<()>,
) {
    let made = make_shard(blueprint, place, counters);
    let (runtime, doorbell, shard, listeners) = match made {
        Ok(made) => made,
        Err(error) => {
            let _ = events.send(Event::CannotStart(error));
            return;
        }
    };
    if events.send(Event::Ready(doorbell)).is_err() || go.recv().is_err() {
        return;
    }
    let shard = Rc::new(shard);
    let left = runtime.run(shard.clone().run(listeners), || shard.worker());
    let _ = events.send(Event::Ended(left));
}

/// Pins the thread, then makes everything the shard owns, so that all of it is near its CPU.
fn make_shard(
    blueprint: &Blueprint,
    place: &ShardPlace,
    counters: Arc<CachePadded<Counters>>,
) -> Result<(Runtime, Doorbell, Shard, Vec<BoundListener>), LaunchError> {
    let refused = |what: &str, error: io::Error| {
        LaunchError::Refused(format!("shard {}: {what}: {error}", place.shard))
    };
    sluice_sys::pin_to_cpu(place.cpu)
        .map_err(|error| refused(&format!("cannot pin to CPU {}", place.cpu), error))?;
    let settings = Settings {
        connections_max: blueprint.connections_max,
        sockets_expected: blueprint.connections_max.min(1 << 22),
        first_byte_ms: u64::try_from(blueprint.config.timeouts.header.as_millis()).unwrap_or(u64::MAX),
        ..Settings::default()
    };
    let runtime = Runtime::new(&settings)?;
    let doorbell =
        Doorbell::of_this_thread().map_err(|error| refused("no descriptor for the doorbell", error))?;
    let bind = |address: &SocketAddr| {
        BoundListener::bind(*address, BACKLOG)
            .map_err(|error| LaunchError::Refused(why_not_bound(*address, &error)))
    };
    let listeners = blueprint.listen.iter().map(bind).collect::<Result<_, _>>()?;
    let shard = Shard::new(&blueprint.config, &blueprint.resolved, counters);
    Ok((runtime, doorbell, shard, listeners))
}

impl Fleet {
    /// Does what signals ask for until all shards have ended.
    fn command(&mut self, inbox: &Receiver<Event>, drain_timeout: Duration) {
        let mut running = self.doorbells.len();
        let mut left = Outstanding::default();
        let mut is_draining = false;
        while running > 0 {
            match inbox.recv() {
                Ok(Event::Asked(Request::Report)) => self.report(),
                Ok(Event::Asked(Request::End)) if is_draining => {
                    eprintln!("sluice: ended at once, by a second signal");
                    return;
                }
                Ok(Event::Asked(Request::End)) => {
                    is_draining = true;
                    eprintln!("sluice: draining for at most {drain_timeout:?}; a second signal ends at once");
                    self.tell_all(Message::Drain);
                }
                Ok(Event::Ended(outstanding)) => {
                    running -= 1;
                    left.sockets += outstanding.sockets;
                    left.buffers += outstanding.buffers;
                    left.in_flight += outstanding.in_flight;
                }
                Ok(Event::Ready(_) | Event::CannotStart(_)) | Err(_) => {}
            }
        }
        self.say_leftover(&left);
        eprintln!("sluice: stopped");
    }

    fn tell_all(&mut self, message: Message) {
        for doorbell in &self.doorbells {
            // A shard that has ended needs no telling.
            let _ = self.courier.ring(doorbell, message as i32);
        }
    }

    /// Prints the counters of all shards, summed up, as one line of JSON.
    fn report(&mut self) {
        let published =
            |fleet: &Fleet| fleet.counters.iter().map(|shard| shard.published.value()).sum::<u64>();
        let before = published(self);
        self.tell_all(Message::Publish);
        let step = Duration::from_millis(2);
        let mut waited = Duration::ZERO;
        while published(self) < before + self.counters.len() as u64 && waited < PUBLISH_PATIENCE {
            thread::sleep(step);
            waited += step;
        }
        let mut line = String::new();
        for (name, value) in self.totals() {
            let _ = write!(line, "{}\"{name}\":{value}", if line.is_empty() { "" } else { "," });
        }
        eprintln!("sluice: counters {{{line}}}");
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let mut totals: Vec<(&'static str, u64)> = Vec::new();
        for shard in &self.counters {
            for (at, (name, value)) in shard.values().enumerate() {
                match totals.get_mut(at) {
                    Some((_, total)) => *total += value,
                    None => totals.push((name, value)),
                }
            }
        }
        totals.push(("descriptors", std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64));
        totals
    }

    fn say_leftover(&self, left: &Outstanding) {
        let total = |name: &str| {
            self.totals().iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
        };
        eprintln!(
            "sluice: leftover connections={} upstream_connections={} tasks_busy={} buffers_held={}",
            total("connections"),
            total("upstream_connections"),
            total("tasks_busy"),
            u64::from(left.buffers).max(total("buffers_held")),
        );
    }
}
