//! `compare`: the same work for sluice and other proxies, in turns on the same CPUs, told as ratios.
//!
//! All servers run at once and idle while it is not their turn; [`workload`] says what the work is, [`report`] how the
//! figures become ratios.

mod report;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use sluice_sys::raise_descriptor_limit;

use crate::Failure;
use crate::capacity::{self, CapacityArgs};
use crate::interrupt::Interrupt;
use crate::lanes::{CpuList, LaneArgs};
use crate::load;
use crate::machine::Setting;
use crate::peers::{Order, Peer, Running, free_address};
use crate::procfs::Server;
use crate::units::{parse_count, parse_duration};
use report::Values;
use workload::Shape;

pub use report::Report;
pub use workload::{Case, Figure};

/// Descriptors of this process that are not connections.
const DESCRIPTORS_RESERVED: u64 = 128;
/// The load of the cases has at most so many connections.
const CONNECTIONS_MAX: u64 = 1_000;

const KEYS: &str = "\
Files: NAME.json (all values), NAME.md (tables), NAME.svg (ratios) in --out.
JSON keys: setting, peers (name: version), reference, rounds, seconds, rate, idle_connections, interrupted, failures,
cases: case, title, figures: figure, title, servers (by name): values (one per round), median, ratio (median of the
ratios to the reference in the same round), ratio_quartiles.
Exit code 1 when a server could not be started or a measurement failed.";

/// Flags of `compare`.
#[derive(Clone, Debug, Args)]
#[command(after_help = KEYS)]
pub struct CompareArgs {
    /// Servers to compare [default: those of sluice, nginx, haproxy, envoy that are installed]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', value_enum)]
    pub peers: Vec<Peer>,
    /// The server that ratios refer to [default: nginx, else the last one]
    #[arg(long, value_name = "NAME", value_enum)]
    pub reference: Option<Peer>,
    /// What to measure [default: everything]
    #[arg(long, value_name = "CASE,CASE,...", value_delimiter = ',', value_enum)]
    pub cases: Vec<Case>,
    /// How often each server has its turn
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// How long each measurement takes
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time before each measurement
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Requests per second of the fixed rate
    #[arg(long, value_name = "PER SECOND", default_value = "10k", value_parser = parse_count)]
    pub rate: u64,
    /// Idle connections to hold for the memory figure
    #[arg(long, value_name = "N", default_value = "9k", value_parser = parse_count)]
    pub idle: u64,
    /// The CPU of the servers [default: 0]
    #[arg(long, value_name = "CPU", default_value = "0")]
    pub server_cpu: usize,
    /// Directory for the report
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub out: PathBuf,
    /// Name of the report's files [default: compare-DATE]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Write the JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A remark for the report
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// The threads of the load; the origin shares the first one's CPU [default: CPU 1].
    #[command(flatten)]
    pub lanes: LaneArgs,
}

/// Compares and writes the report.
///
/// # Errors
/// When a server cannot be started, a measurement failed, or the report cannot be written.
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let peers = peers(args)?;
    let wanted = args.reference.unwrap_or(Peer::Nginx);
    let reference = if peers.contains(&wanted) { wanted } else { peers[peers.len() - 1] };
    std::fs::create_dir_all(&args.out)
        .map_err(|error| Failure::Usage(format!("cannot make {}: {error}", args.out.display())))?;
    let cases = if args.cases.is_empty() { Case::ALL.to_vec() } else { args.cases.clone() };
    let mut comparison = Comparison::start(args, &peers, &interrupt)?;
    comparison.measure(&cases);
    let report = comparison.report(reference);
    print!("{}", report.markdown());
    write(args, &report)?;
    match report.failures.first() {
        _ if report.interrupted => Err(Failure::Interrupted),
        Some(first) => {
            let count = report.failures.len();
            Err(Failure::Target(format!("{count} measurements failed, the first of them: {first}")))
        }
        None => Ok(()),
    }
}

/// Compares the minimal relays with each other: why there is a ring of our own.
///
/// # Errors
/// As [`run`].
pub fn run_foundation(mut args: CompareArgs) -> Result<(), Failure> {
    if args.peers.is_empty() {
        args.peers = Peer::relays();
    }
    args.reference = args.reference.or(Some(Peer::RelayBare));
    if args.cases.is_empty() {
        args.cases = vec![Case::Small64, Case::Small1000, Case::FixedRate, Case::Idle];
    }
    args.name = args.name.or_else(|| Some(format!("foundation-{}", Setting::now(None).day())));
    run(&args)
}

fn peers(args: &CompareArgs) -> Result<Vec<Peer>, Failure> {
    let mut peers = args.peers.clone();
    if peers.is_empty() {
        peers = Peer::PROXIES.into_iter().filter(|peer| peer.binary().is_some()).collect();
    }
    peers.dedup();
    if peers.is_empty() {
        return Err(Failure::Usage("none of sluice, nginx, haproxy and envoy is installed".into()));
    }
    Ok(peers)
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    interrupt: &'a Interrupt,
    lanes: LaneArgs,
    origin: Running,
    servers: Vec<Running>,
    values: Values,
    rounds: usize,
    failures: Vec<String>,
}

impl<'a> Comparison<'a> {
    /// Starts the origin and all servers.
    fn start(
        args: &'a CompareArgs,
        peers: &[Peer],
        interrupt: &'a Interrupt,
    ) -> Result<Comparison<'a>, Failure> {
        let mut lanes = args.lanes.clone();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if lanes.cpus.is_none() && lanes.threads.is_none() && cpus > 1 {
            lanes.cpus = Some(CpuList(vec![1]));
        }
        let address = free_address()?;
        let cpu = lanes.lanes().first().and_then(|lane| lane.cpu);
        let origin =
            Order { peer: Peer::Origin, listen: address, origin: address, cpu, connections: 0 }.start()?;
        let mut comparison = Comparison {
            args,
            interrupt,
            lanes,
            origin,
            servers: Vec::new(),
            values: Values::default(),
            rounds: 0,
            failures: Vec::new(),
        };
        for &peer in peers {
            let server = comparison.order(peer, CONNECTIONS_MAX)?.start()?;
            comparison.servers.push(server);
        }
        Ok(comparison)
    }

    fn order(&self, peer: Peer, connections: u64) -> Result<Order, Failure> {
        let (origin, cpu) = (self.origin.address, Some(self.args.server_cpu));
        Ok(Order { peer, listen: free_address()?, origin, cpu, connections })
    }

    fn measure(&mut self, cases: &[Case]) {
        for round in 0..usize::from(self.args.rounds) {
            for &case in cases.iter().filter(|&&case| case != Case::Idle) {
                // Nobody always comes after the same neighbour.
                for turn in 0..self.servers.len() {
                    if self.interrupt.is_set() {
                        return;
                    }
                    self.measure_one(case, (turn + round) % self.servers.len(), round);
                }
            }
            self.rounds = round + 1;
            eprintln!("sluice-bench: round {} of {} done", round + 1, self.args.rounds);
        }
        if cases.contains(&Case::Idle) {
            for number in 0..self.servers.len() {
                if self.interrupt.is_set() {
                    return;
                }
                self.measure_idle(self.servers[number].peer);
            }
        }
    }

    fn measure_one(&mut self, case: Case, number: usize, round: usize) {
        let (peer, address) = (self.servers[number].peer, self.servers[number].address);
        let Ok(target) = format!("http://{address}/").parse() else { return };
        let (args, lanes) = (self.args, self.lanes.clone());
        let shape = Shape { target, lanes, duration: args.duration, warmup: args.warmup, rate: args.rate };
        let Some(load) = case.load(&shape) else { return };
        let loaded = load::measure(&load, self.interrupt);
        let verdict = loaded.and_then(|loaded| loaded.verdict().map(|()| loaded));
        match verdict {
            Ok(_) if self.interrupt.is_set() => {}
            Ok(loaded) => {
                for &figure in case.figures() {
                    if let Some(value) = figure.of(&loaded) {
                        self.values.add(case, figure, peer.name(), round, value);
                    }
                }
            }
            Err(failure) => {
                let title = case.title();
                self.failures.push(format!("{}, {title}, round {}: {failure}", peer.name(), round + 1));
            }
        }
    }

    /// Memory per idle connection of a fresh server: one that has served others keeps memory to serve from.
    fn measure_idle(&mut self, peer: Peer) {
        let measured = self.idle_figures(peer);
        match measured {
            Ok((start_kib, per_connection)) => {
                self.values.add(Case::Idle, Figure::RssStartKib, peer.name(), 0, start_kib);
                self.values.add(Case::Idle, Figure::BytesPerConnection, peer.name(), 0, per_connection);
            }
            Err(failure) => self.failures.push(format!("{}, idle connections: {failure}", peer.name())),
        }
    }

    fn idle_figures(&self, peer: Peer) -> Result<(f64, f64), Failure> {
        let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, 1 << 20));
        let most = self.args.idle.min(descriptors.saturating_sub(DESCRIPTORS_RESERVED));
        let server = self.order(peer, most)?.start()?;
        let unknown = || Failure::Target("its process is not to be seen".into());
        let seen = Server::listening_on(server.address).ok_or_else(unknown)?;
        let start = seen.usage().map_err(|_| unknown())?.rss_bytes;
        let args = CapacityArgs::brief(server.address, vec![most / 3, most], self.lanes.clone());
        let report = capacity::measure_running(&args, descriptors, self.interrupt)?;
        report.verdict(false)?;
        let last = report.steps.last().and_then(|step| step.target.as_ref()).ok_or_else(unknown)?;
        let bytes = last.user_bytes_per_further_connection.ok_or_else(unknown)?;
        Ok((start as f64 / 1024.0, bytes))
    }

    fn report(&self, reference: Peer) -> Report {
        let peers: BTreeMap<String, String> = self
            .servers
            .iter()
            .map(|server| (server.peer.name().to_owned(), server.peer.version()))
            .collect();
        Report {
            setting: Setting::now(self.args.note.clone()),
            peers,
            reference: reference.name().to_owned(),
            rounds: self.rounds,
            seconds: self.args.duration.as_secs_f64(),
            rate: self.args.rate,
            idle_connections: self.args.idle,
            interrupted: self.interrupt.is_set(),
            cases: self.values.results(reference.name()),
            failures: self.failures.clone(),
        }
    }
}

fn write(args: &CompareArgs, report: &Report) -> Result<(), Failure> {
    let name = args.name.clone().unwrap_or_else(|| format!("compare-{}", report.setting.day()));
    let svg = crate::plot::bars(&report.bars());
    crate::files::write(&args.out, &name, &report.json(), &report.markdown(), &svg, args.json.as_deref())
}
