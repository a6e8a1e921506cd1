//! `capacity`: how many connections a server on this machine holds, what each of them costs, and what the limit is.
//!
//! The [`coordinator`] goes through the steps: open connections, hold them with a share of them active, take stock.
//! The [`lane`]s do the opening and holding. Where opening fails, [`limit`] says why. Only what was measured is
//! reported; nothing is extrapolated.

mod board;
mod coordinator;
mod lane;
mod limit;
mod ports;
mod progress;
mod report;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sluice_sys::raise_descriptor_limit;

use crate::Failure;
use crate::compare::Front;
use crate::files::ReportArgs;
use crate::http::prepared::{HeadKind, Prepared};
use crate::interrupt::Interrupt;
use crate::lanes::{self, LaneArgs};
use crate::load::{self, LoadArgs, Target};
use crate::messages::{Framing, MessageArgs};
use crate::peers::{Order, Peer, Running, free_address};
use crate::procfs::{Server, sysctl};
use crate::tls::{NAME, Pair, Protocol, TlsArgs, TlsPlan};
use crate::units::{parse_count, parse_duration};
use board::Board;
use coordinator::Coordinator;
use lane::Orders;
use limit::DESCRIPTORS_RESERVED;
use ports::PortPlan;

pub use limit::Limit;
pub use report::{Report, Step};

/// Steps of `--until-limit`: 1, 2, 5, 10, ... thousand, up to this many.
const UNTIL_LIMIT_MAX: u64 = 5_000_000;

/// Connections of the short load that fills the target's pools before the baseline is taken.
const WARM_UP_CONNECTIONS: u64 = 256;
/// Requests on each of them.
const WARM_UP_REQUESTS: u64 = 64;

/// Every connection is looked at twice while it is held, within these bounds.
const SWEEP_LEAST: Duration = Duration::from_secs(1);
const SWEEP_MOST: Duration = Duration::from_secs(30);

/// Time between that load and the baseline.
const SETTLING: Duration = Duration::from_secs(1);

const KEYS: &str = "\
Files: NAME.json (all figures), NAME.md (tables), NAME.svg (latency distribution, rate and memory) in --out.
JSON keys:
  setting   date, command, version, kernel, cpu, cpus, memory_bytes, note
  target, path, websocket, server (name, pids), tls (null, or handshakes, resumed, resumed_share, kinds: as of load), active,
            interval_s, hold_s, interrupted
  ports     the plan: sources, destinations, ports_per_pair
  baseline  rss_bytes of the target after a short load, slab_bytes, tcp_memory_bytes
  steps     per step: connections (the goal), opened, failed, held (at the end), lost, success_rate, open_s,
            connections_per_s, connect_ns, connect_distribution (percentile, ns), first_request_ns, open_errors,
            hold_errors, active (connections, requests, requests_per_s, request_ns, request_distribution, send_lag_ns),
            target (rss_bytes, user_bytes_per_connection, user_bytes_per_further_connection, cpu_open_s,
            cpu_us_per_open, cpu_hold_share, descriptors), kernel (tcp_in_use, tcp_time_wait, tcp_memory_bytes, slab_bytes,
            kernel_bytes_per_connection, slabs), refusals, idle_share, tool_rss_bytes
  limit     null, or kind, connections, message, fix
Latencies are objects of nanoseconds: min, mean, p50, p90, p99, p99_9, max. Kernel memory counts both ends.
Exit code 1 when a step was not reached, or the target died.";

/// A share, as `1%` or `0.01`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

fn parse_share(text: &str) -> Result<Share, String> {
    let (number, factor) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.parse::<f64>().ok().map(|number| number * factor);
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    share.map(Share).ok_or_else(|| format!("'{text}' is no share: write 1% or 0.01"))
}

fn parse_target(text: &str) -> Result<SocketAddr, String> {
    let mut addresses =
        text.to_socket_addrs().map_err(|error| format!("'{text}' is no HOST:PORT: {error}"))?;
    addresses.next().ok_or_else(|| format!("'{text}' has no address"))
}

/// Flags of `capacity`.
#[derive(Clone, Debug, Args)]
#[command(after_help = KEYS)]
pub struct CapacityArgs {
    /// The HTTP server to measure
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = parse_target)]
    pub target: SocketAddr,
    /// Start this server (with an origin behind it) instead, and stop it in the end
    #[arg(long, value_name = "SERVER", value_enum, conflicts_with = "target")]
    pub start: Option<Peer>,
    /// The CPU for the server to start; the origin behind it runs where the tool runs
    #[arg(long, value_name = "CPU", requires = "start")]
    pub server_cpu: Option<usize>,
    /// What to ask it for
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,
    /// Ask by HTTP/2: by TLS as ALPN names it, in clear text without asking (prior knowledge)
    #[arg(long)]
    pub h2: bool,
    /// Hold WebSockets, each after a message and its echo; with --h2 on a stream each (RFC 8441)
    #[arg(long)]
    pub ws: bool,
    /// Bytes of such a message
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = parse_count, requires = "ws")]
    pub message: u64,
    /// Ask as such a client does: what a server keeps of a connection of HTTP/2 depends on its fields
    #[arg(long, value_name = "KIND", default_value = "plain", value_enum)]
    pub head: HeadKind,
    /// Numbers of connections to go through
    #[arg(
        long, value_name = "N,N,...", value_delimiter = ',', value_parser = parse_count, default_value = "1k,10k"
    )]
    pub steps: Vec<u64>,
    /// Go on (1k, 2k, 5k, 10k, ...) until no more connections can be opened
    #[arg(long, conflicts_with = "steps")]
    pub until_limit: bool,
    /// How long to hold the connections of each step
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub hold: Duration,
    /// Share of the held connections that send requests
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = parse_share)]
    pub active: Share,
    /// An active connection sends one request in this time
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub interval: Duration,
    /// A connection or an answer that takes longer is an error
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Connections being opened at a time
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub openers: u16,
    /// Connect to so many addresses, the target's and those that follow it: it must listen on them
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub destinations: u16,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Where the report goes.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The threads that connect.
    #[command(flatten)]
    pub lanes: LaneArgs,
}

impl CapacityArgs {
    /// Steps held for a moment, for the memory they take.
    pub(crate) fn brief(target: SocketAddr, steps: Vec<u64>, lanes: LaneArgs) -> CapacityArgs {
        CapacityArgs {
            target,
            start: None,
            server_cpu: None,
            path: "/".into(),
            h2: false,
            ws: false,
            message: 100,
            head: HeadKind::Plain,
            steps,
            until_limit: false,
            hold: Duration::from_secs(1),
            active: Share(0.0),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            openers: 64,
            destinations: 1,
            tls: TlsArgs::default(),
            report: ReportArgs::default(),
            lanes,
        }
    }

    /// The goals, ascending; the last one of `--until-limit` is where the descriptors end.
    fn goals(&self, descriptors: u64) -> Result<Vec<u64>, Failure> {
        if self.until_limit {
            let most = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
            let rounds = [1_000, 10_000, 100_000, 1_000_000].into_iter();
            let goals = rounds.flat_map(|power| [power, 2 * power, 5 * power]);
            let mut goals: Vec<u64> = goals.filter(|&goal| goal < most && goal <= UNTIL_LIMIT_MAX).collect();
            goals.extend((most <= UNTIL_LIMIT_MAX).then_some(most + DESCRIPTORS_RESERVED));
            return Ok(goals);
        }
        if self.steps.is_empty() || !self.steps.is_sorted_by(|a, b| a < b) || self.steps[0] == 0 {
            return Err(Failure::Usage("--steps are numbers that grow, such as 1k,10k,100k".into()));
        }
        Ok(self.steps.clone())
    }
}

/// Measures and writes the report.
///
/// # Errors
/// When the target cannot be reached or died, a step was not reached, or the report cannot be written.
pub fn run(args: &CapacityArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, 1 << 20));
    let goals = args.goals(descriptors)?;
    if let Some(flag) = args.tls.dependent().filter(|_| !args.tls.tls) {
        return Err(Failure::Usage(format!("{flag} needs --tls")));
    }
    args.report.make_dir()?;
    let mut args = args.clone();
    let servers = start(&mut args, goals.last().copied().unwrap_or(0))?;
    args.target = servers.last().map_or(args.target, |server| server.address);
    let args = &args;
    warm_up(args, goals[0], &interrupt)?;
    // Written before anything is closed: closing a million connections takes a while, and nothing may be lost by then.
    let report = measure(args, &goals, descriptors, &interrupt, |report| {
        print!("{}", report.markdown());
        write(args, report)
    })?;
    drop(servers);
    report.verdict(args.until_limit)
}

/// Measures a target that runs already, with a warm-up and without a report on disk.
///
/// # Errors
/// When the target cannot be reached or the host cannot run a ring.
pub(crate) fn measure_running(
    args: &CapacityArgs,
    descriptors: u64,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let goals = args.goals(descriptors)?;
    warm_up(args, goals[0], interrupt)?;
    measure(args, &goals, descriptors, interrupt, |_| Ok(()))
}

/// The origin and the server to be measured, in this order, if they are to be started. The report's note says with which flags.
fn start(args: &mut CapacityArgs, connections: u64) -> Result<Vec<Running>, Failure> {
    let Some(peer) = args.start else { return Ok(Vec::new()) };
    let beside = args.lanes.lanes().first().and_then(|lane| lane.cpu);
    if args.tls.tls && !peer.has_tls() {
        return Err(Failure::Usage(format!(
            "{} does not terminate TLS here: start it yourself",
            peer.name()
        )));
    }
    if args.tls.tls && args.ws {
        return Err(Failure::Usage("--start with --ws is in clear text: start the server yourself".into()));
    }
    let address = free_address()?;
    let mut order = Order {
        peer: Peer::Origin,
        listen: address,
        origin: address,
        cpu: beside,
        connections,
        busy: 0,
        is_patient: true,
        front: match (args.ws, args.h2) {
            (true, true) => Front::WsH2,
            (true, false) => Front::Ws,
            (false, _) if args.tls.tls => Front::Tls,
            (false, _) => Front::Clear,
        },
        tls: None,
    };
    if peer == Peer::Origin {
        order.cpu = args.server_cpu;
        return Ok(vec![order.start()?]);
    }
    let origin = order.start()?;
    let tls = args.tls.tls.then(Pair::generate).transpose()?.map(Arc::new);
    if tls.is_some() {
        args.tls.server_name.get_or_insert_with(|| NAME.to_owned());
    }
    let order = Order { peer, listen: free_address()?, cpu: args.server_cpu, tls, ..order };
    if !order.flags().is_empty() {
        let flags = format!("{} with {}", peer.name(), order.flags());
        let note = &mut args.report.note;
        *note = Some(note.take().map_or(flags.clone(), |note| format!("{note}; {flags}")));
    }
    Ok(vec![origin, order.start()?])
}

/// A short load, so that what the target keeps for any load is not counted as the price of held connections.
fn warm_up(args: &CapacityArgs, first_goal: u64, interrupt: &Interrupt) -> Result<(), Failure> {
    let url: Target = format!("http://{}{}", args.target, args.path).parse().map_err(Failure::Usage)?;
    let tls = args.tls.clone();
    let load = |connections: u64, requests: u64| {
        let requests = Some(requests);
        let brief = LoadArgs::brief(url.clone(), connections, args.timeout, args.lanes.clone());
        let messages = MessageArgs { ws: args.ws, message: args.message, ..MessageArgs::default() };
        let (h2, head) = (args.h2, args.head);
        let load = LoadArgs { requests, h2, head, messages, tls: tls.clone(), ..brief };
        load::measure(&load, interrupt)?.verdict()
    };
    // A number of requests, not a time: an emulated machine may need a second for the first.
    let connections = WARM_UP_CONNECTIONS.min(first_goal);
    load(1, 1)?;
    load(connections, connections * WARM_UP_REQUESTS)?;
    // What the load leaves in the kernel (closed sockets, freed slabs) should not be part of the baseline.
    std::thread::sleep(SETTLING);
    Ok(())
}

/// Goes through the steps; the report is handed to `finished` while the connections are still held.
fn measure(
    args: &CapacityArgs,
    goals: &[u64],
    descriptors: u64,
    interrupt: &Interrupt,
    finished: impl FnOnce(&Report) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    let most = goals.last().copied().unwrap_or(0);
    let range = |at| sysctl("net/ipv4/ip_local_port_range", at);
    let range = (range(0).unwrap_or(32_768), range(1).unwrap_or(60_999));
    let ports = Arc::new(PortPlan::new(args.target, most, args.destinations, range));
    let protocol = if args.h2 { Protocol::Http2 } else { Protocol::Http1 };
    let tls = || TlsPlan::new(&args.tls, &args.target.ip().to_string(), protocol);
    let orders = Orders {
        ports: ports.clone(),
        request: Arc::new([request(args)]),
        protocol,
        tls: args.tls.tls.then(tls).transpose()?,
        timeout_ms: args.timeout.as_millis().max(1) as u64,
        openers: u64::from(args.openers),
        active: args.active.0,
        interval: args.interval,
        sweep: (args.hold / 2).clamp(SWEEP_LEAST, SWEEP_MOST),
        connections_max: most.min(descriptors),
    };
    let lanes = args.lanes.lanes();
    let board = Arc::new(Board::new(lanes.len()));
    let server = Server::listening_on(args.target);
    std::thread::scope(|scope| {
        let its_board = board.clone();
        let inputs = lanes.iter().map(|_| orders.clone()).collect();
        let threads = scope.spawn(move || {
            lanes::run(&lanes, inputs, |lane, orders| lane::run(orders, lane, its_board.clone()))
        });
        let has_stopped = || threads.is_finished();
        let coordinator =
            Coordinator::new(args, &board, &ports, server, descriptors, interrupt, &has_stopped);
        let report = coordinator.run(goals);
        let written = finished(&report);
        board.order(board::Phase::End, 0);
        threads.join().expect("a lane panicked")?;
        written.map(|()| report)
    })
}

fn request(args: &CapacityArgs) -> Prepared {
    let host = match &args.tls.server_name {
        Some(name) => format!("{name}:{}", args.target.port()),
        None => args.target.to_string(),
    };
    let fields = args.head.fields();
    if args.ws {
        return Prepared::opening(Framing::WebSocket, &args.path, &host, fields, args.message);
    }
    Prepared::new("GET", &args.path, &host, fields, 0)
}

fn write(args: &CapacityArgs, report: &Report) -> Result<(), Failure> {
    let svg = crate::plot::svg(&report.panels());
    let subcommand = args.start.map_or("capacity".into(), |peer| format!("capacity-{}", peer.name()));
    args.report.write(&subcommand, report.setting.day(), &report.json(), &report.markdown(), &svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: CapacityArgs,
    }

    fn args(flags: &[&str]) -> CapacityArgs {
        Only::parse_from([&["x"], flags].concat()).args
    }

    #[test]
    fn goals_of_the_command_line() {
        assert_eq!(args(&["--steps", "1k,1M"]).goals(100).expect("ascending"), [1_000, 1_000_000]);
        assert!(args(&["--steps", "2k,1k"]).goals(100).is_err());
    }

    #[test]
    fn until_the_limit_ends_where_descriptors_end() {
        let goals = args(&["--until-limit"]).goals(20_000).expect("goals");
        assert_eq!(goals, [1_000, 2_000, 5_000, 10_000, 20_000]);
        let goals = args(&["--until-limit"]).goals(1 << 30).expect("goals");
        assert_eq!(goals.last(), Some(&5_000_000));
    }

    #[test]
    fn shares() {
        assert_eq!(parse_share("1%"), Ok(Share(0.01)));
        assert_eq!(parse_share("0.5"), Ok(Share(0.5)));
        assert!(parse_share("101%").is_err() && parse_share("x").is_err());
    }
}
