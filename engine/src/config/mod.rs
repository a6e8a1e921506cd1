//! Configuration: read once into a raw form, checked once into the only form the engine sees.
//!
//! `table` declares every key, once; `key` says what is known of one. `source` turns TOML or JSON into a tree with positions, `load`
//! reads the files, `values` reads the tree by the table, `raw` lays the command line over it, `checked` settles what values mean
//! together, with a file for each part that has much to it. `schema`, `effective` and the manual come from the same table. Every
//! error is found in one run and says where it is. Called once at start (and by `sluice check`); never on the data path.

mod acme;
mod address;
mod balancing;
mod certificates;
mod checked;
mod choices;
mod conditions;
mod effective;
mod expressions;
mod ejection;
mod foreign;
mod forwarding;
mod health;
mod host;
mod hsts;
mod key;
mod listeners;
mod load;
mod mirror;
mod networks;
mod pattern;
mod policy;
mod policy_content;
mod problem;
mod punycode;
mod raw;
mod reference;
mod resolve;
mod retry;
mod routes;
mod schema;
mod shadows;
mod servers;
mod shards;
mod source;
mod splits;
pub mod table;
mod tls;
#[cfg(test)]
mod tls_tests;
mod tunnels;
mod units;
mod unix;
mod upstream_tls;
mod upstreams;
mod values;

pub use crate::policy::MirrorRule;
pub use acme::{Acme, AcmeChallenge};
pub use address::{Scheme, UpstreamServer, host_field, parse_listen, parse_listen_tcp, server_url};
pub use balancing::{Balancing, HashBy, Sticky};
pub use certificates::CertificateFiles;
pub use checked::Config;
pub use choices::{
    AllDown, BalancePolicy, CheckKind, Choice, FieldsSent, OnClientClose, PathForward, Pinning,
    ProxyProtocolIn, ProxyProtocolOut, RawUtf8, SendHost, UpstreamProtocol,
};
pub use conditions::{Condition, Subject, Test};
pub use effective::{effective, explain};
pub use ejection::{Breaker, Ejection};
pub use expressions::Expression;
pub use forwarding::Forwarding;
pub use health::{Check, HealthCheck, HttpCheck, Statuses};
pub use host::Host;
pub use hsts::Hsts;
pub use key::{Change, Key, Kind, Scopes, Section};
pub use listeners::Listener;
pub use networks::Networks;
pub use pattern::{HOST_BYTES_MAX, HostPattern, PathPattern, Segment, Tail};
pub(crate) use problem::closest;
pub use problem::{ConfigErrors, Fault, Located, Origin, Problem, Report};
pub use raw::{CommandLine, FLAG_UPSTREAM, ListFlag, Raw, list_flags};
pub use reference::reference;
pub use resolve::Resolve;
pub use retry::{Retry, RetryCause, RetryCauses};
pub use routes::{Methods, Route, RoutePaths};
pub use schema::schema;
pub use shards::{Policy, ShardChoice, ShardPer};
pub use splits::{Split, SplitBy};
pub use table::{Http2, Limits, Paths, SECTIONS, Timeouts, flags};
pub use tls::{ClientCertificatesMode, HTTPS_PORT, ListenerTls, TlsMode, TlsSettings};
pub use tunnels::{RouteTunnels, WebSocketFrames};
pub(crate) use units::parse_count;
pub use units::{parse_bytes, parse_duration, show_bytes, show_duration};
pub use upstream_tls::UpstreamTls;
pub use upstreams::UpstreamGroup;
pub use values::{Field, Values};

use std::path::Path;

/// The configuration that the command line asks for, as written: its file, if it names one, with its flags on top.
///
/// # Errors
/// The file cannot be read, or its syntax is broken.
pub fn read(line: &CommandLine) -> Result<Raw, ConfigErrors> {
    let mut raw = match &line.config {
        Some(file) => Raw::load(file)?,
        None => Raw::default(),
    };
    raw.apply(line);
    Ok(raw)
}

/// The same, checked.
///
/// # Errors
/// Everything that is wrong, in the order of the file; flags first.
pub fn resolve(line: &CommandLine) -> Result<Config, ConfigErrors> {
    Config::check(&read(line)?)
}

/// The configuration in a file alone.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn check_file(file: &Path) -> Result<Config, ConfigErrors> {
    Config::check(&Raw::load(file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags and values in turn; `--config` and `--set` among them.
    fn line(args: &[&'static str]) -> CommandLine {
        args.chunks(2).fold(CommandLine::default(), |mut line, pair| match pair[0] {
            "--config" => CommandLine { config: Some(pair[1].into()), ..line },
            "--set" => {
                line.set.push(pair[1].to_owned());
                line
            }
            flag => line.with(flag, pair[1]),
        })
    }

    fn run(args: &[&'static str]) -> Result<Config, ConfigErrors> {
        resolve(&line(args))
    }

    fn over_example(args: &[&'static str]) -> Result<Config, ConfigErrors> {
        resolve(&CommandLine { config: Some(example("sluice.toml").into()), ..line(args) })
    }

    fn example(name: &str) -> String {
        format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn flags_alone_are_enough() {
        let config =
            run(&["--listen", "127.0.0.1:0", "--upstream", "http://a", "--upstream", "http://b:81"]).unwrap();
        assert_eq!(config.upstreams[0].servers[1].authority, "b:81");
        assert_eq!(config.routes[0].path, PathPattern::any());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn flags_override_the_file() {
        let config = over_example(&[
            "--cpus",
            "1",
            "--listen",
            "127.0.0.1:9",
            "--drain-timeout",
            "3s",
            "--timeout-request-head",
            "4s",
            "--limit-head-bytes",
            "32KiB",
            "--path-encoded-slash",
            "keep",
        ])
        .unwrap();
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.shards.policy, Policy::Cpus([1].into_iter().collect()));
        assert_eq!(config.drain_timeout.as_secs(), 3);
        assert_eq!(config.timeouts.request_head.as_secs(), 4);
        assert_eq!(config.limits.head_bytes, 32 << 10);
        assert_eq!(config.paths.encoded_slash.word(), "keep");
        assert_eq!(config.routes.len(), 9);
    }

    #[test]
    fn upstream_flag_replaces_the_files_routes_and_says_so() {
        let config = over_example(&["--upstream", "http://a"]).unwrap();
        assert_eq!((config.upstreams.len(), config.routes.len()), (1, 1));
        let warning = config.warnings[0].to_string();
        assert_eq!(warning, "--upstream: replaces the 2 upstreams and 9 routes of the file");
    }

    #[test]
    fn wrong_flags_are_reported_together() {
        let errors = run(&["--listen", ":80", "--upstream", "a", "--shards", "0"]).unwrap_err().to_string();
        assert_eq!(errors.lines().count(), 3, "{errors}");
        let errors = run(&["--shards", "1"]).unwrap_err().to_string();
        assert_eq!(
            errors,
            "command line: listen: nothing to listen on (hint: add --listen 127.0.0.1:8080)\ncommand line: upstream: \
             no server to send requests to (hint: add --upstream http://127.0.0.1:9000, or --config FILE)"
        );
    }

    #[test]
    fn set_reads_what_a_file_would() {
        let config = over_example(&[
            "--set",
            "limits.head_bytes=32KiB",
            "--set",
            "listen=127.0.0.1:1, 127.0.0.1:2",
            "--set",
            "listen=127.0.0.1:3",
            "--set",
            "forwarding.via=a=b",
            "--set",
            "timeouts.upstream_connect=1s",
        ]);
        assert_eq!(
            config.unwrap_err().to_string(),
            "--set forwarding.via: `a=b` cannot stand in a Via field (hint: a word such as edge-1, or host:port, without spaces)"
        );
        let config =
            over_example(&["--set", "listen=127.0.0.1:1, 127.0.0.1:2", "--set", "listen=127.0.0.1:3"])
                .unwrap();
        let ports: Vec<_> =
            config.listeners.iter().map(|listener| listener.address.inet().unwrap().port()).collect();
        assert_eq!(ports[..3], [1, 2, 3]);
        // The file's own value is wrong no longer than it counts.
        let config =
            over_example(&["--limit-head-bytes", "8KiB", "--set", "limits.head_bytes=32KiB"]).unwrap();
        assert_eq!(config.limits.head_bytes, 32 << 10);
    }

    #[test]
    fn set_refuses_each_slip_once() {
        for (set, wanted) in [
            (
                "limits.head_bytes",
                "--set limits.head_bytes: there is no value (hint: write --set limits.head_bytes=VALUE)",
            ),
            ("limits.head_bytes=", "--set limits.head_bytes: `` is not a size"),
            ("limits.head_bytes=1", "--set limits.head_bytes: 1 is too small"),
            ("limits=5", "--set limits: `limits` is a table"),
            ("upstream=a", "--set upstream: `upstream` is a table"),
            ("limits.=5", "--set limits.: unknown key"),
            (".listen=5", "--set .listen: unknown key (hint: did you mean `listen`)"),
            ("=5", "--set : unknown key"),
            ("", "--set : there is no value"),
            ("route.path=/a", "--set route.path: unknown key"),
            (
                "limits.head_byte=1KiB",
                "--set limits.head_byte: unknown key (hint: did you mean `limits.head_bytes`)",
            ),
            ("listen=", "--set listen: `` "),
            ("smt=yes", "--set smt: `yes` is neither true nor false"),
            ("steering=cup", "--set steering: `cup` is none of"),
            ("include=conf.d/*.toml", "--set include: only a file includes others"),
            ("shards=${N}", "--set shards: `${N}` is not a whole number"),
        ] {
            let error = run(&["--listen", "127.0.0.1:0", "--upstream", "http://a", "--set", set]);
            let error = error.expect_err(set).to_string();
            assert!(error.starts_with(wanted) && error.lines().count() == 1, "{set}: {error}");
        }
    }

    #[test]
    fn missing_file_is_one_clear_line() {
        let errors = run(&["--config", "/nonexistent.toml", "--listen", "x"]).unwrap_err();
        assert_eq!(errors.errors.len(), 1);
        assert!(errors.to_string().starts_with("/nonexistent.toml: cannot read: No such file"));
    }
}
