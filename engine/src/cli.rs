//! The command line: what can be asked of `sluice`, and its help.
//!
//! Only shapes and help texts; values are judged by `config`, which treats a flag like a key of the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{
    Choice, ForwardingFlags, HostFlags, LimitFlags, PathFlags, ProxyProtocolOut, SendHost, TimeoutFlags,
    parse_duration, parse_listen,
};

const EXAMPLES: &str = "\
Examples:
  sluice --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000
  sluice --config sluice.toml --shards 2
  sluice check --config sluice.toml
  sluice demo

Durations are written 500ms, 10s, 2m or 1h; sizes 16KiB, 1MiB, 1GiB or a number of bytes.
Flags override the file. Progress and errors go to stderr.
Exit codes: 0 done, 1 wrong configuration, 2 wrong flags, 71 the kernel failed a shard's ring,
78 this machine cannot run Sluice (the message says why).";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "Reverse proxy for bare-metal Linux: one io_uring shard per core",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Another task than to run the proxy.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run the proxy.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Tasks other than running the proxy.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration file: exit 0, or 1 with every error by file, line and key
    Check(CheckArgs),
    /// Start an embedded origin and a proxy in front of it, and say what to try
    Demo(DemoArgs),
    /// Show nodes, caches, CPUs and network cards, and where the shards go
    Topology(TopologyArgs),
}

/// Flags of a run. Without `--config`, `--listen` and `--upstream` are needed.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Configuration file; *.json is read as JSON, everything else as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to accept connections on; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// The same, where every connection begins with a PROXY protocol header; repeatable
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen_proxy_protocol: Vec<String>,
    /// Address or network (CIDR) that may send PROXY protocol headers there [default: everybody]; repeatable
    #[arg(long, value_name = "CIDR", requires = "listen_proxy_protocol")]
    pub proxy_protocol_from: Vec<String>,
    /// Server for every request, as http://host:port; repeatable: round robin. Replaces upstreams and routes of
    /// the file
    #[arg(long, value_name = "URL")]
    pub upstream: Vec<String>,
    /// With --upstream: begin connections to servers with a PROXY protocol header; each then serves one client only
    /// [default: off]
    #[arg(long, value_name = "off|v1|v2", value_parser = ProxyProtocolOut::parse, requires = "upstream")]
    pub upstream_proxy_protocol: Option<ProxyProtocolOut>,
    /// With --upstream: the Host that servers get, the client's or their own [default: client]
    #[arg(long, value_name = "client|server", value_parser = SendHost::parse, requires = "upstream")]
    pub upstream_host: Option<SendHost>,
    /// With --upstream: protocol that clients may change to by Upgrade, such as websocket; repeatable [default: none]
    #[arg(long, value_name = "PROTOCOL", requires = "upstream")]
    pub upgrade: Vec<String>,
    /// With --upstream: port, or first and last, that clients may reach by CONNECT through the server, such as 443 or
    /// 8000-8999; repeatable [default: none]
    #[arg(long, value_name = "PORTS", requires = "upstream")]
    pub connect: Vec<String>,
    /// Which CPUs get a shard.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// How shards use the machine.
    #[command(flatten)]
    pub host: HostFlags,
    /// After SIGTERM or SIGINT, how long requests in flight may take to finish; a second signal ends at once
    /// [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub drain_timeout: Option<Duration>,
    /// Address for `GET /metrics`, counters and memory of all shards for Prometheus; whoever reaches it may read
    /// [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<String>,
    /// `[timeouts]`.
    #[command(flatten)]
    pub timeouts: TimeoutFlags,
    /// `[limits]`.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// `[paths]`.
    #[command(flatten)]
    pub paths: PathFlags,
    /// `[forwarding]`.
    #[command(flatten)]
    pub forwarding: ForwardingFlags,
}

/// How many shards, and where.
#[derive(Debug, Clone, Default, Args)]
pub struct ShardArgs {
    /// Number of shards, each on a CPU of its own: cores first, then hyper-threads [default: one per core this process
    /// may use, no more than a cgroup quota allows]
    #[arg(long, value_name = "N", conflicts_with = "cpus")]
    pub shards: Option<u64>,
    /// Which CPUs: pack (fill one cache, one node, before the next), spread (nodes and caches in turn), node=N, or
    /// cpus=LIST [default: pack]
    #[arg(long, value_name = "POLICY", conflicts_with = "cpus")]
    pub placement: Option<String>,
    /// Short for --placement cpus=LIST: the CPUs to run a shard on, such as 0-3,8
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// One shard per hyper-thread instead of one per core
    #[arg(long)]
    pub smt: bool,
    /// Cores to leave for interrupts and the control plane [default: 0]
    #[arg(long, value_name = "N")]
    pub reserve: Option<u64>,
}

/// `sluice check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Configuration file; *.json is read as JSON, everything else as TOML
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `sluice demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Address and port of the proxy
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// Which CPUs get a shard.
    #[command(flatten)]
    pub shards: ShardArgs,
}

/// `sluice topology`.
#[derive(Debug, Clone, Args)]
pub struct TopologyArgs {
    /// For tools: one JSON object (docs/topology.md has its keys)
    #[arg(long)]
    pub json: bool,
    /// For scripts/tune-host: the files that send the queues of network cards to the shards, a line each: file, value,
    /// what it is, with tabs in between
    #[arg(long, conflicts_with = "json")]
    pub interrupts: bool,
    /// Place the shards as this configuration file asks; flags override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the machine from a copy of /sys and /proc below this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Instead of a plan, the shards of the running process with this id: where they run, where their memory is, and what
    /// they have counted
    #[arg(long, value_name = "PID", conflicts_with_all = ["shards", "placement", "cpus", "smt", "reserve", "config", "root"])]
    pub live: Option<u32>,
    /// Which CPUs get a shard.
    #[command(flatten)]
    pub shards: ShardArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_flags() {
        let cli = Cli::try_parse_from([
            "sluice",
            "--listen",
            "127.0.0.1:1",
            "--listen",
            "127.0.0.1:2",
            "--upstream",
            "http://a",
            "--timeout-request-head",
            "5s",
            "--limit-head-bytes",
            "8KiB",
        ])
        .unwrap();
        assert_eq!(cli.run.listen.len(), 2);
        assert_eq!(cli.run.timeouts.request_head, Some(Duration::from_secs(5)));
        assert_eq!(cli.run.limits.head_bytes, Some(8192));
        assert!(cli.command.is_none());
    }

    #[test]
    fn bad_flags_are_clap_errors_with_hints() {
        for (args, words) in [
            (vec!["--shards", "1", "--cpus", "0"], "cannot be used with"),
            (vec!["--placement", "pack", "--cpus", "0"], "cannot be used with"),
            (vec!["--timeout-request-head", "5"], "did you mean 5s"),
            (vec!["--lisen", "x"], "--listen"),
            (vec!["demo", "--listen", "8080"], "did you mean 127.0.0.1:8080"),
            (vec!["check"], "--config"),
        ] {
            let error = Cli::try_parse_from(["sluice"].iter().chain(&args)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{args:?}: {error}");
        }
    }

    #[test]
    fn demo_has_its_address() {
        let cli = Cli::try_parse_from(["sluice", "demo"]).unwrap();
        let Some(Command::Demo(demo)) = cli.command else { panic!("demo") };
        assert_eq!(demo.listen.to_string(), "127.0.0.1:8080");
    }
}
