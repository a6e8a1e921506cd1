//! `compare`: the same work for sluice and other proxies, in turns on the same CPUs, as ratios.
//!
//! All servers run at once and idle while it is not their turn; [`workload`] says what the work is, [`values`] how
//! figures become ratios, [`report`] how they are printed. `foundation` does the same with minimal relays.

mod h2load;
mod report;
mod values;
mod workload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use sluice_sys::raise_descriptor_limit;

use crate::Failure;
use crate::capacity::{self, CapacityArgs};
use crate::files::ReportArgs;
use crate::interrupt::Interrupt;
use crate::lanes::{CpuList, LaneArgs};
use crate::load;
use crate::machine::Setting;
use crate::peers::{Order, Peer, Running, free_address};
use crate::procfs::{Server, connections_opened};
use crate::progress::{Line, bar};
use crate::tls::Pair;
use crate::units::{parse_count, parse_duration};
use values::Values;
use workload::Shape;

pub use report::Report;
pub use workload::{Case, Figure, Front};

/// Descriptors of this process that are not connections.
const DESCRIPTORS_RESERVED: u64 = 128;
/// The load of the cases has at most so many connections.
const CONNECTIONS_MAX: u64 = 4_000;
/// Memory hardly differs between rounds, and each starts every server anew.
const IDLE_ROUNDS_MAX: usize = 3;

const KEYS: &str = "\
Files: NAME.json (all values), NAME.md (tables), NAME.svg (ratios) in --out.
JSON keys:
  setting   date, command, version, kernel, cpu, cpus, memory_bytes, note
  peers (name: version), reference, rounds, seconds (of a measurement), rate, idle_connections, elapsed_s, interrupted
  cases     per kind of work: case, title, figures, health
  figures   figure, title, servers (by name): values (one per round), median, ratio (median of the ratios to the
            reference in the same round; null without any), ratio_quartiles
  health    by server: requests, errors (kind: count), reconnects, behind (requests due and not sent),
            tls_kinds (version, suite, group: count of handshakes), other_handshakes (full where they should be resumed, or the
            other way round),
            unexplained_connects (one per round: connections opened on the machine meanwhile, per request, that the
            load does not explain)
  doubts    sentences: which figures are not those of a healthy server, and why
  failures  sentences: measurements that failed
Exit code 1 when a server could not be started or a measurement failed, 130 after Ctrl-C; the report is written.";

/// How the work is measured, for every server.
#[derive(Clone, Debug, Args)]
pub struct WorkArgs {
    /// How often each server has its turn
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// How long each measurement takes
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time before each measurement, and 250 us more for each connection
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Requests, or messages, per second of the fixed rate
    #[arg(long, value_name = "PER SECOND", default_value = "10k", value_parser = parse_count)]
    pub rate: u64,
    /// Idle connections to hold for the memory figure
    #[arg(long, value_name = "N", default_value = "9k", value_parser = parse_count)]
    pub idle: u64,
    /// The CPU of the servers
    #[arg(long, value_name = "CPU", default_value = "0")]
    pub server_cpu: usize,
    /// Where the report goes.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The threads of the load; the origin shares the first one's CPU [default: CPU 1].
    #[command(flatten)]
    pub lanes: LaneArgs,
}

/// Flags of `compare`.
#[derive(Clone, Debug, Args)]
#[command(after_help = KEYS)]
pub struct CompareArgs {
    /// Servers to compare [default: those of sluice, nginx, haproxy, envoy, pingora, nghttpx that are installed]; relay-bare,
    /// which passes bytes, is the least that WebSocket costs
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', value_enum)]
    pub peers: Vec<Peer>,
    /// The server that ratios refer to [default: nginx, else the last one]
    #[arg(long, value_name = "NAME", value_enum)]
    pub reference: Option<Peer>,
    /// What to measure [default: everything, requests by HTTP/2 where h2load is installed]; TLS by sluice, nginx and haproxy, HTTP/2
    /// by these and nghttpx, WebSocket by sluice, nginx, haproxy and relay-bare, over HTTP/2 not by nginx
    #[arg(long, value_name = "CASE,CASE,...", value_delimiter = ',', value_enum)]
    pub cases: Vec<Case>,
    /// How it is measured.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// Flags of `foundation`.
#[derive(Clone, Debug, Args)]
#[command(after_help = KEYS)]
pub struct FoundationArgs {
    /// Relays to compare [default: all this binary was built with]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', value_enum)]
    pub peers: Vec<Peer>,
    /// The relay that ratios refer to [default: relay-bare, else the last one]
    #[arg(long, value_name = "NAME", value_enum)]
    pub reference: Option<Peer>,
    /// What to measure
    #[arg(
        long,
        value_name = "CASE,CASE,...",
        value_delimiter = ',',
        value_enum,
        default_value = "small64,small1000,fixed-rate,idle"
    )]
    pub cases: Vec<Case>,
    /// How it is measured.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// Compares proxies and writes the report.
///
/// # Errors
/// When a server cannot be started, a measurement failed, or the report cannot be written.
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    let mut peers = args.peers.clone();
    if peers.is_empty() {
        peers = Peer::PROXIES.into_iter().filter(|peer| peer.binary().is_some()).collect();
    }
    if peers.is_empty() {
        let names = Peer::PROXIES.map(Peer::name).join(", ");
        return Err(Failure::Usage(format!("none of {names} is installed")));
    }
    let cases = if args.cases.is_empty() { default_cases() } else { args.cases.clone() };
    if h2load::binary().is_none() && cases.iter().any(|case| case.streams().is_some()) {
        return Err(Failure::Usage("HTTP/2 needs h2load (package nghttp2-client)".into()));
    }
    compare("compare", &peers, args.reference.unwrap_or(Peer::Nginx), &cases, &args.work)
}

/// All that can be measured here.
fn default_cases() -> Vec<Case> {
    let can = |case: &Case| match case.streams() {
        Some(_) if *case == Case::H2h2 => h2load::binary().is_some() && Peer::Nghttpd.binary().is_some(),
        Some(_) => h2load::binary().is_some(),
        None => true,
    };
    Case::ALL.into_iter().filter(can).collect()
}

/// Compares the minimal relays with each other: why there is a ring of our own.
///
/// # Errors
/// As [`run`].
pub fn run_foundation(args: &FoundationArgs) -> Result<(), Failure> {
    if cfg!(not(feature = "runtimes")) {
        eprintln!(
            "sluice-bench: built without the cargo feature runtimes: the relays on tokio, monoio and glommio are left \
             out (cargo build --release -p sluice-bench --features runtimes)"
        );
    }
    let peers = if args.peers.is_empty() { Peer::relays() } else { args.peers.clone() };
    compare("foundation", &peers, args.reference.unwrap_or(Peer::RelayBare), &args.cases, &args.work)
}

fn compare(
    subcommand: &str,
    peers: &[Peer],
    reference: Peer,
    cases: &[Case],
    work: &WorkArgs,
) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let peers = unique(peers);
    let reference = if peers.contains(&reference) { reference } else { peers[peers.len() - 1] };
    if !cases.iter().any(|case| peers.iter().any(|peer| peer.speaks(case.front()))) {
        let names: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
        let what = if cases.iter().all(|case| case.is_tls()) {
            "TLS is not terminated"
        } else if cases.iter().any(|case| case.front().is_http2()) {
            "HTTP/2 is not spoken"
        } else {
            "WebSocket is not passed on"
        };
        return Err(Failure::Usage(format!("{what} by {}", names.join(", "))));
    }
    work.report.make_dir()?;
    let mut comparison = Comparison::start(work, &peers, cases, &interrupt)?;
    comparison.measure(cases);
    let report = comparison.report(reference);
    drop(comparison);
    print!("{}", report.markdown());
    let svg = crate::plot::bars(&report.bars());
    work.report.write(subcommand, report.setting.day(), &report.json(), &report.markdown(), &svg)?;
    for doubt in &report.doubts {
        eprintln!("sluice-bench: warning: {doubt}");
    }
    match report.failures.first() {
        _ if report.interrupted => Err(Failure::Interrupted),
        Some(first) => {
            let count = report.failures.len();
            Err(Failure::Target(format!("{count} measurements failed, the first of them: {first}")))
        }
        None => Ok(()),
    }
}

/// Each of them once, in their order.
fn unique(peers: &[Peer]) -> Vec<Peer> {
    let mut unique = Vec::new();
    for peer in peers {
        if !unique.contains(peer) {
            unique.push(*peer);
        }
    }
    unique
}

struct Comparison<'a> {
    args: &'a WorkArgs,
    interrupt: &'a Interrupt,
    lanes: LaneArgs,
    /// Idle connections: those asked for, as far as the descriptors go.
    idle: u64,
    origin: Running,
    /// The origin of cases with HTTP/2 on both sides.
    http2_origin: Option<Running>,
    /// By what they speak: each that speaks it, for the cases with it.
    servers: BTreeMap<Front, Vec<Running>>,
    /// The certificate of those with TLS.
    pair: Option<Arc<Pair>>,
    values: Values,
    rounds: usize,
    failures: Vec<String>,
    pace: Pace,
}

impl<'a> Comparison<'a> {
    /// Starts the origin and all servers.
    fn start(
        args: &'a WorkArgs,
        peers: &[Peer],
        cases: &[Case],
        interrupt: &'a Interrupt,
    ) -> Result<Comparison<'a>, Failure> {
        let mut lanes = args.lanes.clone();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if lanes.cpus.is_none() && lanes.threads.is_none() && cpus > 1 {
            lanes.cpus = Some(CpuList(vec![1]));
        }
        let address = free_address()?;
        let cpu = lanes.lanes().first().and_then(|lane| lane.cpu);
        let origin = Order {
            peer: Peer::Origin,
            listen: address,
            origin: address,
            cpu,
            connections: 0,
            busy: 0,
            is_patient: false,
            front: Front::Clear,
            tls: None,
        };
        let http2_origin = match cases.contains(&Case::H2h2) {
            true => Some(Order { peer: Peer::Nghttpd, listen: free_address()?, ..origin.clone() }.start()?),
            false => None,
        };
        let origin = origin.start()?;
        let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, 1 << 20));
        let mut comparison = Comparison {
            args,
            interrupt,
            lanes,
            idle: args.idle.min(descriptors.saturating_sub(DESCRIPTORS_RESERVED)),
            origin,
            http2_origin,
            servers: BTreeMap::new(),
            pair: None,
            values: Values::default(),
            rounds: 0,
            failures: Vec::new(),
            pace: Pace::new(),
        };
        if cases.iter().any(|case| case.is_tls()) {
            comparison.pair = Some(Arc::new(Pair::generate()?));
        }
        for front in cases.iter().map(|case| case.front()) {
            if !comparison.servers.contains_key(&front) {
                let started = comparison.start_all(front, peers)?;
                comparison.servers.insert(front, started);
            }
        }
        Ok(comparison)
    }

    /// Starts those that speak this, for loads.
    fn start_all(&self, front: Front, peers: &[Peer]) -> Result<Vec<Running>, Failure> {
        let start = |&peer: &Peer| self.order(peer, front, CONNECTIONS_MAX, CONNECTIONS_MAX)?.start();
        peers.iter().filter(|peer| peer.speaks(front)).map(start).collect()
    }

    fn order(&self, peer: Peer, front: Front, connections: u64, busy: u64) -> Result<Order, Failure> {
        // The origin of this tool speaks HTTP/2 for gRPC only.
        let origin =
            self.http2_origin.as_ref().filter(|_| front == Front::H2h2).unwrap_or(&self.origin).address;
        let tls = self.pair.clone().filter(|_| front.is_tls());
        let (listen, cpu) = (free_address()?, Some(self.args.server_cpu));
        Ok(Order { peer, listen, origin, cpu, connections, busy, is_patient: false, front, tls })
    }

    /// The servers that take part in a case.
    fn servers(&self, case: Case) -> &[Running] {
        self.servers.get(&case.front()).map_or(&[], |servers| servers)
    }

    fn measure(&mut self, cases: &[Case]) {
        let rounds = usize::from(self.args.rounds);
        let idle_rounds = rounds.min(IDLE_ROUNDS_MAX);
        // Memory last: it takes servers of its own.
        let (idle, loads): (Vec<Case>, Vec<Case>) = cases.iter().partition(|case| case.is_idle());
        let total = |cases: &[Case], rounds: usize| {
            cases.iter().map(|&case| self.servers(case).len() * rounds).sum::<usize>()
        };
        self.pace.total = total(&loads, rounds) + total(&idle, idle_rounds);
        for round in 0..rounds {
            for &case in loads.iter().chain(idle.iter().filter(|_| round < idle_rounds)) {
                // No server always comes after the same one.
                let count = self.servers(case).len();
                for turn in 0..count {
                    self.turn(case, (turn + round) % count, round);
                }
            }
            if self.interrupt.is_set() {
                break;
            }
            self.rounds = round + 1;
            self.pace.line.say(&format!("round {} of {rounds} done", round + 1));
        }
        self.pace.line.clear();
    }

    /// One server's turn at one kind of work.
    fn turn(&mut self, case: Case, number: usize, round: usize) {
        if self.interrupt.is_set() {
            return;
        }
        let peer = self.servers(case)[number].peer;
        self.pace.show(&format!("{}, {}", peer.name(), case.title()));
        let measured = match case {
            Case::Idle | Case::TlsIdle => self.measure_idle(case, peer, round),
            _ => self.measure_load(case, number, round),
        };
        self.pace.done += 1;
        if let Err(failure) = measured
            && !self.interrupt.is_set()
        {
            let title = case.title();
            self.failures.push(format!("{}, {title}, round {}: {failure}", peer.name(), round + 1));
        }
    }

    fn measure_load(&mut self, case: Case, number: usize, round: usize) -> Result<(), Failure> {
        let server = &self.servers(case)[number];
        let (peer, address) = (server.peer, server.address);
        let target = format!("http://{address}/").parse().map_err(Failure::Usage)?;
        let (args, lanes) = (self.args, self.lanes.clone());
        let shape = Shape { target, lanes, duration: args.duration, warmup: args.warmup, rate: args.rate };
        let connects = connections_opened();
        let loaded = match case.load(&shape) {
            Some(load) => load::measure(&load, self.interrupt)?,
            None => self.measure_streams(case, address)?,
        };
        if self.interrupt.is_set() {
            return Ok(());
        }
        let connects = connections_opened().zip(connects).map_or(0, |(after, before)| after - before);
        self.values.health(case, peer.name()).add(case, &loaded, connects);
        loaded.verdict()?;
        for &figure in case.figures() {
            if let Some(value) = figure.of(&loaded) {
                self.values.add(case, figure, peer.name(), round, value);
            }
        }
        Ok(())
    }

    /// A load over HTTP/2.
    fn measure_streams(&self, case: Case, address: SocketAddr) -> Result<load::Report, Failure> {
        let unknown = || Failure::Target("its process is not to be seen".into());
        let server = Server::listening_on(address).ok_or_else(unknown)?;
        let (connections, streams, path) = case.streams().ok_or_else(unknown)?;
        let scheme = if case.is_tls() { "https" } else { "http" };
        let job = h2load::Job {
            url: format!("{scheme}://{address}/{path}"),
            connections,
            streams,
            duration: self.args.duration,
            warmup: self.args.warmup,
            cpu: self.lanes.lanes().first().and_then(|lane| lane.cpu),
        };
        h2load::measure(&job, &server, self.interrupt)
    }

    /// Memory per idle connection of a fresh server: one that has served others keeps memory to serve from.
    fn measure_idle(&mut self, case: Case, peer: Peer, round: usize) -> Result<(), Failure> {
        let server = self.order(peer, case.front(), self.idle, 0)?.start()?;
        let unknown = || Failure::Target("its process is not to be seen".into());
        let seen = Server::listening_on(server.address).ok_or_else(unknown)?;
        let start = seen.usage().map_err(|_| unknown())?.rss_bytes;
        // The first half takes up what the allocator has kept from buffers of requests; the second half is weighed.
        let brief = CapacityArgs::brief(server.address, vec![self.idle / 2, self.idle], self.lanes.clone());
        let args = CapacityArgs { tls: case.tls_args(), ..brief };
        let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, 1 << 20));
        let report = capacity::measure_running(&args, descriptors, self.interrupt)?;
        report.verdict(false)?;
        let last = report.steps.last().and_then(|step| step.target.as_ref()).ok_or_else(unknown)?;
        let bytes = last.user_bytes_per_further_connection.ok_or_else(unknown)?;
        self.values.add(case, Figure::RssStartKib, peer.name(), round, start as f64 / 1024.0);
        self.values.add(case, Figure::BytesPerConnection, peer.name(), round, bytes);
        Ok(())
    }

    fn report(&self, reference: Peer) -> Report {
        // With TLS they name their library too.
        let servers = self.servers.values().flatten();
        let peers: BTreeMap<String, String> =
            servers.map(|server| (server.peer.name().to_owned(), server.described())).collect();
        let cases = self.values.results(reference.name());
        let doubts = cases.iter().flat_map(|case| {
            let of_server = |(name, health): (&String, &values::Health)| {
                let doubts = health.doubts().into_iter();
                doubts.map(|doubt| format!("{name}, {}: {doubt}", case.title)).collect::<Vec<_>>()
            };
            let kinds = case.negotiated();
            let differ = (kinds.len() > 1).then(|| {
                format!("{}: the servers did not negotiate the same: {}", case.title, kinds.join(", "))
            });
            case.health.iter().flat_map(of_server).chain(differ).collect::<Vec<_>>()
        });
        Report {
            setting: Setting::now(self.args.report.note.clone()),
            peers,
            reference: reference.name().to_owned(),
            rounds: self.rounds,
            seconds: self.args.duration.as_secs_f64(),
            rate: self.args.rate,
            idle_connections: self.idle,
            elapsed_s: self.pace.begin.elapsed().as_secs_f64(),
            interrupted: self.interrupt.is_set(),
            doubts: doubts.collect(),
            cases,
            failures: self.failures.clone(),
        }
    }
}

/// How far it is, and how long it will take.
struct Pace {
    begin: Instant,
    done: usize,
    total: usize,
    line: Line,
}

impl Pace {
    fn new() -> Pace {
        Pace { begin: Instant::now(), done: 0, total: 0, line: Line::new() }
    }

    fn show(&mut self, what: &str) {
        let (done, total, elapsed) = (self.done, self.total, self.begin.elapsed());
        self.line.show(|| pace_line(done, total, elapsed, what));
    }
}

fn pace_line(done: usize, total: usize, elapsed: Duration, what: &str) -> String {
    let left = elapsed.as_secs_f64() / done.max(1) as f64 * total.saturating_sub(done) as f64;
    let left = if done == 0 { String::new() } else { format!(", {left:.0} s left") };
    format!("{} {done} of {total} measured{left}; now {what}", bar(done as f64 / total.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_what_is_left() {
        let line = pace_line(5, 20, Duration::from_secs(10), "nginx");
        assert_eq!(line, "[######..................] 5 of 20 measured, 30 s left; now nginx");
        assert!(!pace_line(0, 20, Duration::from_secs(1), "nginx").contains("left"));
    }
}
