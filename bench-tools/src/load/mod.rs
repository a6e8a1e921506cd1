//! `load`: sends requests over many connections and says how many were answered, how fast, and how many were not.
//!
//! Closed loop: every connection sends its next request when the last answer is complete. Each lane has its own
//! connections and its own tally; they meet in the report.

mod closed;
mod exchange;
mod report;
mod tally;
mod target;

use std::net::TcpStream;
use std::time::Duration;

use clap::Args;
use sluice_sys::raise_descriptor_limit;

use crate::Failure;
use crate::interrupt::Interrupt;
use crate::lanes::{self, LaneArgs};
use crate::units::{parse_count, parse_duration};
use report::Report;

pub use target::Target;

const JSON_KEYS: &str = "\
JSON keys: url, connections, threads, elapsed_s, requests, requests_per_s, bytes, bytes_per_s, errors (kind: count),
reconnects, latency_ns (min, mean, p50, p90, p99, p99_9, max), tool_cpu (user_s, system_s, share: of the wall time of
one CPU), interrupted.
Requests are those answered with 2xx or 3xx within the measured time; bytes count heads and bodies received.
Exit code 1 when nothing was answered or more than 1 % of the requests failed.";

/// Flags of `load`.
#[derive(Clone, Debug, Args)]
#[command(after_help = JSON_KEYS)]
pub struct LoadArgs {
    /// What to ask for
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/bytes/1024")]
    pub url: Target,
    /// Connections, over all threads
    #[arg(long, short = 'c', value_name = "N", default_value = "64", value_parser = parse_count)]
    pub connections: u64,
    /// How long to measure
    #[arg(long, short = 'd', value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Measure so many requests instead of a time
    #[arg(long, short = 'n', value_name = "N", value_parser = parse_count, conflicts_with = "duration")]
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
    /// The threads that send.
    #[command(flatten)]
    pub lanes: LaneArgs,
}

/// Loads the target and prints what was measured.
///
/// # Errors
/// When the target cannot be reached, answers nothing, or too often wrongly.
pub fn run(args: &LoadArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, u64::MAX));
    check(args, descriptors)?;
    let lanes = args.lanes.lanes();
    let inputs = lanes.iter().map(|_| interrupt.clone()).collect();
    let runs = lanes::run(&lanes, inputs, |lane, interrupt| closed::run(args, lane, interrupt))?;
    let report = Report::new(args, lanes.len(), runs, interrupt.is_set());
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    report.verdict()
}

/// Refuses what cannot work before anything is measured.
fn check(args: &LoadArgs, descriptors: u64) -> Result<(), Failure> {
    if args.connections == 0 {
        return Err(Failure::Usage("--connections must be at least 1".into()));
    }
    if args.connections.saturating_add(64) > descriptors {
        return Err(Failure::Usage(format!(
            "{} connections need more descriptors than the limit of {descriptors} (RLIMIT_NOFILE): raise it with \
             ulimit -n, or use fewer connections",
            args.connections
        )));
    }
    let address = args.url.address;
    TcpStream::connect_timeout(&address, args.timeout.max(Duration::from_millis(1)))
        .map(drop)
        .map_err(|error| Failure::Target(format!("cannot connect to {address}: {error}")))
}
