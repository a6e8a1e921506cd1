//! The command line: what can be asked of `sluice`, and its help.
//!
//! Flags of the configuration come from its table of keys, and their values are judged there like those of a file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::config::{CommandLine, Key, Kind, Section, flags, list_flags, parse_listen_tcp};
use crate::exit::Exit;
use crate::log::Level;

const EXAMPLES: &str = "\
Examples:
  sluice --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000
  sluice --listen-tls 127.0.0.1:8443 --tls-cert cert.pem --tls-key key.pem --upstream https://127.0.0.1:9443
  sluice -c sluice.toml --shards 2
  sluice -t -c sluice.toml
  sluice demo

Durations are written 500ms, 10s, 2m or 1h; sizes 16KiB, 1MiB, 1GiB or a number of bytes.
Flags override the file, --set overrides flags. Without flags, SLUICE_CONFIG or /etc/sluice/sluice.toml is read.
Messages go to stderr.

Exit codes:
";

fn after_help() -> String {
    format!("{EXAMPLES}{}", Exit::table())
}

/// The file that is read where the command line names none.
pub const DEFAULT_FILE: &str = "/etc/sluice/sluice.toml";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    long_version = crate::version::details(),
    about = "Reverse proxy for bare-metal Linux: one io_uring shard per core",
    after_long_help = after_help(),
    after_help = "`sluice --help` has the other flags and examples.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// Another task than to run the proxy.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Check the configuration and exit, as `sluice check` does
    #[arg(short = 't', long = "test")]
    pub test: bool,
    /// How to run the proxy.
    #[command(flatten)]
    pub run: RunFlags,
}

/// Tasks other than running the proxy.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration, and whether this host can run it: exit 0, or 1 with every error by file, line and key
    Check(CheckArgs),
    /// Say which route a request comes to and why, and what is sent where
    Explain(ExplainArgs),
    /// Show what a configuration comes to, and where each value came from
    Config(ConfigArgs),
    /// Print the JSON Schema of a configuration file, for editors
    Schema,
    /// Start an embedded origin and a proxy in front of it, and say what to try
    Demo(DemoArgs),
    /// Show nodes, caches, CPUs and network cards, and where the shards go
    Topology(TopologyArgs),
    /// Make a certificate for trials, or show what is in a file of certificates
    Cert {
        /// What is to be done.
        #[command(subcommand)]
        task: CertTask,
    },
    /// Print completions for a shell
    #[cfg(feature = "completions")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for man(1)
    #[cfg(feature = "completions")]
    Man,
    /// Print version, commit and features
    Version,
}

/// Flags of the configuration.
#[derive(Debug, Clone, Default)]
pub struct RunFlags {
    /// What they say.
    pub line: CommandLine,
}

/// Those of them that say which messages are written, and how.
#[derive(Debug, Clone, Default)]
pub struct LogFlags {
    /// What they say.
    pub line: CommandLine,
}

/// Those of them that place shards.
#[derive(Debug, Clone, Default)]
pub struct PlacementFlags {
    /// What they say.
    pub line: CommandLine,
}

/// The keys that [`PlacementFlags`] set.
const PLACEMENT: [&str; 5] = ["shards", "placement", "cpus", "smt", "reserve"];

/// The keys that [`LogFlags`] set.
const MESSAGES: [&str; 2] = ["log_format", "log_level"];

/// Flags for a level.
const LEVELS: [(&str, char, &str, Level, &str); 2] = [
    ("-q", 'q', "quiet", Level::Warn, "Only warnings and errors: short for --log-level warn"),
    ("-v", 'v', "verbose", Level::Debug, "Details too: short for --log-level debug"),
];

/// The flags that short help has.
const COMMON: [&str; 12] = [
    "--config",
    "--listen",
    "--listen-tls",
    "--tls-cert",
    "--tls-key",
    "--upstream",
    "--shards",
    "--cpus",
    "--placement",
    "--metrics",
    "--drain-timeout",
    "--set",
];

impl Args for RunFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("--config")
            .short('c')
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(
                "Configuration file, - for standard input; *.json is read as JSON, everything else as TOML",
            );
        let set = Arg::new("--set")
            .long("set")
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .help("Set a key of the configuration, such as limits.head_bytes=32KiB; repeatable");
        let of_lists = list_flags().map(|flag| {
            let arg = Arg::new(flag.flag)
                .long(&flag.flag[2..])
                .value_name(flag.placeholder)
                .action(ArgAction::Append)
                .hide_short_help(!COMMON.contains(&flag.flag))
                .help(flag.doc);
            if flag.requires.is_empty() { arg } else { arg.requires(flag.requires) }
        });
        let of_keys = flags().map(|(section, key)| key_arg(section, key));
        command.arg(config).arg(set).args(level_args()).args(of_lists).args(of_keys)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl Args for LogFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(level_args()).args(args_of(&MESSAGES))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// `-q` and `-v`.
fn level_args() -> impl Iterator<Item = Arg> {
    LEVELS.into_iter().map(|(id, short, long, _, help)| {
        let others = LEVELS.iter().map(|(other, ..)| *other).filter(move |other| *other != id);
        let arg = Arg::new(id).short(short).long(long).action(ArgAction::SetTrue).help(help);
        arg.conflicts_with_all(others.chain(["--log-level"]))
    })
}

/// The flags of these keys at the top of the file.
fn args_of(keys: &'static [&'static str]) -> impl Iterator<Item = Arg> {
    let wanted = flags().filter(move |(section, key)| section.name.is_empty() && keys.contains(&key.name));
    wanted.map(|(section, key)| key_arg(section, key))
}

impl Args for PlacementFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(args_of(&PLACEMENT))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The flag of a key.
fn key_arg(section: &'static Section, key: &'static Key) -> Arg {
    let help = match key.default {
        "" => key.doc.to_owned(),
        default => format!("{} [default: {default}]", key.doc),
    };
    let arg = Arg::new(key.flag)
        .long(&key.flag[2..])
        .help(help)
        .help_heading(if section.name.is_empty() { "Shards and the machine" } else { section.heading })
        .hide_short_help(!COMMON.contains(&key.flag));
    match key.kind {
        Kind::Boolean => arg.action(ArgAction::SetTrue),
        _ => arg.value_name(key.kind.placeholder()).action(ArgAction::Append),
    }
}

/// What the flags say, in their order.
fn line_of(matches: &ArgMatches) -> CommandLine {
    let known = list_flags().map(|flag| flag.flag).chain(flags().map(|(_, key)| key.flag));
    let mut given = Vec::new();
    for flag in known {
        // Another command may not have it.
        let Ok(Some(values)) = matches.try_get_raw(flag) else { continue };
        if matches.value_source(flag) != Some(clap::parser::ValueSource::CommandLine) {
            continue;
        }
        let places = matches.indices_of(flag).into_iter().flatten();
        let texts = values.map(|value| value.to_string_lossy().into_owned());
        let is_switch = matches!(matches.try_get_one::<bool>(flag), Ok(Some(_)));
        let texts = texts.map(|text| if is_switch { "true".to_owned() } else { text });
        given.extend(places.zip(texts).map(|(place, text)| (place, flag, text)));
    }
    for (id, _, _, level, _) in LEVELS {
        if matches.try_get_one::<bool>(id).ok().flatten() == Some(&true) {
            given.push((matches.index_of(id).unwrap_or(0), "--log-level", level.word().to_owned()));
        }
    }
    given.sort_by_key(|(place, ..)| *place);
    let set = matches.try_get_many::<String>("--set").ok().flatten().into_iter().flatten().cloned();
    CommandLine {
        config: matches.try_get_one::<PathBuf>("--config").ok().flatten().cloned(),
        flags: given.into_iter().map(|(_, flag, text)| (flag.into(), text)).collect(),
        set: set.collect(),
    }
}

macro_rules! from_matches {
    ($($flags:ty),+) => { $(
        impl FromArgMatches for $flags {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self { line: line_of(matches) })
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.line = line_of(matches);
                Ok(())
            }
        }
    )+ };
}
from_matches!(RunFlags, LogFlags, PlacementFlags);

impl RunFlags {
    /// The command line, with a file where it names none: that of `SLUICE_CONFIG`, or the default one where no flag says what
    /// to do.
    pub fn with_file(&self) -> CommandLine {
        let mut line = self.line.clone();
        if line.config.is_none() {
            let default = PathBuf::from(DEFAULT_FILE);
            let named = std::env::var_os("SLUICE_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
            line.config = named.or_else(|| (line.says_nothing() && default.exists()).then_some(default));
        }
        line
    }
}

/// `sluice check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Configuration file: the same as --config
    #[arg(value_name = "FILE", conflicts_with = "--config")]
    pub file: Option<PathBuf>,
    /// Show one route as it comes out, with the origin of each value: its number in the file from 1, or what it is asked for,
    /// such as "GET api.example.com/v1/users"
    #[arg(long, value_name = "ROUTE")]
    pub explain: Option<String>,
    /// What is checked.
    #[command(flatten)]
    pub run: RunFlags,
}

/// `sluice explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// Method and URL, such as "GET http://api.example.com/v1/users?page=2"; GET and http:// may be left out
    pub request: String,
    /// Header field of the request; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Address that the request comes from
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub client: IpAddr,
    /// By which configuration.
    #[command(flatten)]
    pub run: RunFlags,
}

/// `sluice config`.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Every key with its value and where that came from, which is what is shown in any case
    #[arg(long)]
    pub effective: bool,
    /// What is shown.
    #[command(flatten)]
    pub run: RunFlags,
}

/// `sluice demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Address and port of the proxy [default: 127.0.0.1:8080, with --tls 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen_tcp)]
    pub listen: Option<SocketAddr>,
    /// Serve https:// with a certificate that is made for this run
    #[arg(long)]
    pub tls: bool,
    /// Which CPUs get a shard.
    #[command(flatten)]
    pub placement: PlacementFlags,
    /// Which messages are written, and how.
    #[command(flatten)]
    pub log: LogFlags,
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
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the machine from a copy of /sys and /proc below this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Instead of a plan, the shards of the running process with this id: where they run, where their memory is, and what
    /// they have counted
    #[arg(long, value_name = "PID", conflicts_with_all = ["--shards", "--placement", "--cpus", "--smt", "--reserve", "config", "root"])]
    pub live: Option<u32>,
    /// Which CPUs get a shard.
    #[command(flatten)]
    pub placement: PlacementFlags,
}

/// The tasks of `sluice cert`.
#[derive(Debug, Clone, Subcommand)]
pub enum CertTask {
    /// Make a certificate and its key: self-signed, or signed by a CA that --make-ca made
    #[command(after_long_help = CERT_EXAMPLES)]
    Make(CertMakeArgs),
    /// Show names, issuer, key, validity, fingerprint and pin of each certificate in PEM files
    Show(CertShowArgs),
}

const CERT_EXAMPLES: &str = "\
Examples:
  sluice cert make --host localhost --host 127.0.0.1
  sluice cert make --make-ca --out trial
  sluice cert make --host app.example --ca trial/ca.pem --ca-key trial/ca-key.pem --out trial";

/// `sluice cert make`.
#[derive(Debug, Clone, Args)]
pub struct CertMakeArgs {
    /// A DNS name or an address that it is for, such as app.example, *.app.example or 127.0.0.1; repeatable
    #[arg(long, value_name = "NAME", required_unless_present = "make_ca", value_parser = crate::cert::parse_host)]
    pub host: Vec<String>,
    /// Make a CA, which signs certificates by --ca and --ca-key
    #[arg(long, conflicts_with_all = ["host", "ca"])]
    pub make_ca: bool,
    /// The folder for cert.pem and key.pem, or ca.pem and ca-key.pem [default: the current one]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cert", "key"])]
    pub out: Option<PathBuf>,
    /// The file for the certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The file for the key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// How long it is valid, at most as long as its CA [default: 365, a CA: 3650]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=36500))]
    pub days: Option<u16>,
    /// Kind of the key: ECDSA with P-256, or RSA with 2048 bits
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub key_type: CertKind,
    /// The certificate of the CA that signs
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub ca: Option<PathBuf>,
    /// The key of the CA that signs
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub ca_key: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

/// Kinds of keys that are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CertKind {
    /// P-256.
    #[default]
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

/// `sluice cert show`.
#[derive(Debug, Clone, Args)]
pub struct CertShowArgs {
    /// PEM files
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// For tools: one JSON array with an object for each file (docs/tls.md has its keys)
    #[arg(long)]
    pub json: bool,
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
    fn long_help_has_every_flag() {
        let help = Cli::command().render_long_help().to_string();
        for (_, key) in flags() {
            assert!(
                help.contains(&format!("{} ", key.flag)) || help.contains(&format!("{}\n", key.flag)),
                "{}",
                key.flag
            );
        }
        for flag in list_flags() {
            assert!(help.contains(&format!("{} <{}>", flag.flag, flag.placeholder)), "{}", flag.flag);
        }
    }

    #[test]
    fn flags_keep_their_order_and_their_values() {
        let args = "sluice --listen 127.0.0.1:1 --limit-head-bytes 8KiB --smt --listen 127.0.0.1:2 --upstream http://a \
                    --set limits.body_bytes=1 -c f.toml";
        let cli = Cli::try_parse_from(args.split(' ')).unwrap();
        let flags: Vec<_> =
            cli.run.line.flags.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        assert_eq!(
            flags,
            [
                "--listen=127.0.0.1:1",
                "--limit-head-bytes=8KiB",
                "--smt=true",
                "--listen=127.0.0.1:2",
                "--upstream=http://a"
            ]
        );
        assert_eq!(cli.run.line.set, ["limits.body_bytes=1"]);
        assert_eq!(cli.run.line.config, Some(PathBuf::from("f.toml")));
        assert!(cli.command.is_none());
    }

    #[test]
    fn unknown_flags_are_errors_with_hints() {
        for (args, words) in [
            (vec!["--lisen", "x"], "--listen"),
            (vec!["--upgrade", "websocket"], "--upstream"),
            (vec!["demo", "--listen", "8080"], "did you mean 127.0.0.1:8080"),
        ] {
            let error = Cli::try_parse_from(["sluice"].iter().chain(&args)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{args:?}: {error}");
        }
    }

    #[test]
    fn every_subcommand_takes_the_flags_that_it_shows() {
        let cli = Cli::try_parse_from(["sluice", "demo", "--shards", "2"]).unwrap();
        let Some(Command::Demo(demo)) = cli.command else { panic!("demo") };
        assert_eq!((demo.listen, demo.tls), (None, false));
        assert_eq!(demo.placement.line.flags, [("--shards".into(), "2".to_owned())]);
        let cli = Cli::try_parse_from(["sluice", "check", "--listen", "x", "--explain", "1"]).unwrap();
        let Some(Command::Check(check)) = cli.command else { panic!("check") };
        assert_eq!((check.explain.as_deref(), check.run.line.flags.len()), (Some("1"), 1));
    }
}
