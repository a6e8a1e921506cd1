//! `load`: sends requests over many connections and says how many were answered, how fast, and how many were not.
//!
//! Closed loop (each connection sends its next request when the last answer is complete) or open loop (`--rate`:
//! requests are due at their times). Each [`lane`] has its own connections and its own tally; they meet in the report.

mod lane;
mod lane_h2;
mod mix;
mod plan;
mod report;
mod schedule;
mod tally;
mod target;

use std::time::Duration;

use clap::Args;
use sluice_sys::raise_descriptor_limit;

use crate::Failure;
use crate::http::prepared::HeadKind;
use crate::interrupt::Interrupt;
use crate::lanes::{self, LaneArgs};
use crate::messages::MessageArgs;
use crate::progress::Countdown;
use crate::tls::TlsArgs;
use crate::units::{parse_count, parse_duration};
use plan::Plan;

pub use mix::WeightedPath;
pub use report::{Messages, Report, ServerCpu, ToolCpu};
pub use schedule::Arrival;
pub(crate) use schedule::Schedule;
pub use target::{Scheme, Target};

const JSON_KEYS: &str = "\
JSON keys:
  url, connections, streams (of each, at once; null: HTTP/1.1), threads, rate (null: closed loop), elapsed_s, interrupted, target_died
  message           null, or framing (websocket, grpc) and bytes: then requests are messages, answered by their echo
  requests          answered with a status below 400 within the measured time
  requests_per_s, bytes and bytes_per_s (heads and bodies received)
  errors            kind: count; reconnects: connections made again because they had ended between requests
  latency_ns        min, mean, p50, p90, p99, p99_9, max; in an open loop from when the request was due
  connect_ns        the same of connections made within the measured time, with TLS up to the end of the handshake
  send_lag_ns       open loop: the same, from when a request was due to when it was sent
  behind            open loop: requests that were due and not sent at the end
  tool_cpu          user_s, system_s, share (of the wall time of one CPU), idle_share (of the CPUs it ran on)
  tls               null in clear text, or handshakes (within the measured time), resumed (of these), resumed_share, kinds
                    (version, suite, group: count of handshakes, those of the warm-up included)
  server            name, pids, cpu_s, cpu_us_per_request, user_share, rss_bytes; null when it is not known
  warnings          sentences: what may make the figures those of the tool rather than of the server
Exit code 1 when nothing was answered or more than 1 % of the requests failed, 130 after Ctrl-C: what was measured until
then is printed. A target whose process ends and has no successor ends the run.";

/// Flags of `load`.
#[derive(Clone, Debug, Args)]
#[command(after_help = JSON_KEYS)]
pub struct LoadArgs {
    /// What to ask for; an https:// URL asks for it by TLS, as --tls does
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/bytes/1024")]
    pub url: Target,
    /// Ask for this path instead, so often as its weight says (1 unless given); repeatable
    #[arg(long, value_name = "PATH[@WEIGHT]")]
    pub path: Vec<WeightedPath>,
    /// Method [default: GET, with a body POST]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Send the fields of such a client
    #[arg(long, value_name = "KIND", default_value = "plain", value_enum)]
    pub head: HeadKind,
    /// A header field for every request, as 'Name: value'; repeatable
    #[arg(long, value_name = "FIELD")]
    pub header: Vec<String>,
    /// Send a body of so many bytes
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_count)]
    pub body: u64,
    /// Connections, over all threads
    #[arg(long, short = 'c', value_name = "N", default_value = "64", value_parser = parse_count)]
    pub connections: u64,
    /// HTTP/2: by TLS as ALPN names it, in clear text without asking (prior knowledge)
    #[arg(long)]
    pub h2: bool,
    /// HTTP/2: so many requests at once on each connection, or with --ws and --grpc so many that stay open [default: 1]
    #[arg(long, value_name = "N", requires = "h2", value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub streams: Option<u16>,
    /// A new connection for every request; with --streams N, for every N
    #[arg(long)]
    pub new_connections: bool,
    /// Connect from so many loopback addresses, for more ports
    #[arg(long, value_name = "N", default_value = "1")]
    pub sources: u16,
    /// Open loop: so many requests per second, whatever becomes of them
    #[arg(long, value_name = "PER SECOND", value_parser = parse_count)]
    pub rate: Option<u64>,
    /// Distances between the requests of an open loop
    #[arg(long, value_name = "KIND", default_value = "uniform", value_enum)]
    pub arrival: Arrival,
    /// How long to measure
    #[arg(long, short = 'd', value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Closed loop: measure so many requests instead of a time
    #[arg(
        long, short = 'n', value_name = "N", value_parser = parse_count, conflicts_with_all = ["duration", "rate"]
    )]
    pub requests: Option<u64>,
    /// Run so long before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// An answer that takes longer is an error
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Messages in place of requests.
    #[command(flatten)]
    pub messages: MessageArgs,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The threads that send.
    #[command(flatten)]
    pub lanes: LaneArgs,
}

impl LoadArgs {
    /// A closed loop of one second that is counted from the start.
    pub fn brief(url: Target, connections: u64, timeout: Duration, lanes: LaneArgs) -> LoadArgs {
        LoadArgs {
            url,
            path: Vec::new(),
            method: None,
            head: HeadKind::Plain,
            header: Vec::new(),
            body: 0,
            connections,
            messages: MessageArgs::default(),
            h2: false,
            streams: None,
            new_connections: false,
            sources: 1,
            rate: None,
            arrival: Arrival::Uniform,
            duration: Duration::from_secs(1),
            requests: None,
            warmup: Duration::ZERO,
            timeout,
            json: false,
            tls: TlsArgs::default(),
            lanes,
        }
    }
}

/// Loads the target and prints what was measured.
///
/// # Errors
/// When the target cannot be reached, answers nothing, or too often wrongly.
pub fn run(args: &LoadArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let countdown = Countdown::start(args.requests.is_none().then_some(args.warmup + args.duration));
    let report = measure(args, &interrupt)?;
    drop(countdown);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    for warning in &report.warnings {
        eprintln!("sluice-bench: warning: {warning}");
    }
    report.verdict()?;
    if report.interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Loads the target.
///
/// # Errors
/// When the flags contradict each other, the target cannot be reached, or the host cannot run a ring.
pub fn measure(args: &LoadArgs, interrupt: &Interrupt) -> Result<Report, Failure> {
    let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, u64::MAX));
    let plan = Plan::new(args, descriptors)?;
    let lanes = args.lanes.lanes();
    let inputs = lanes.iter().map(|_| (plan.clone(), interrupt.clone())).collect();
    let runs = lanes::run(&lanes, inputs, |lane, (plan, interrupt)| lane::run(plan, lane, interrupt))?;
    Ok(Report::new(args, &plan, lanes.len(), &runs, interrupt.is_set()))
}
