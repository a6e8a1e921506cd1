//! Configuration: read once into a raw form, checked once into the only form the engine sees.
//!
//! `source` turns TOML or JSON into one tree with positions, `raw` knows keys and types, `checked` knows what
//! values mean together, with a file for each part that has much to it. `settings` is the table of every timeout and
//! limit, `choices` of everything that is one of a few words. Every error is found in one run and says where it is.
//! Called once at start (and by `sluice check`); never on the data path.

mod address;
mod checked;
mod choices;
mod host;
mod forwarding;
mod listeners;
mod networks;
mod pattern;
mod problem;
mod raw;
mod routes;
mod settings;
mod shards;
mod source;
mod tunnels;
mod units;
mod upstreams;

pub use address::{UpstreamServer, parse_listen};
pub use checked::Config;
pub use choices::{Choice, ChoiceSetting, PathFlags, PathForward, Paths, RawPaths, all as choices};
pub use forwarding::{FieldsSent, Forwarding, ForwardingFlags, RawForwarding};
pub use host::{Host, HostFlags, RawHost};
pub use listeners::{Listener, ProxyProtocolIn, RawListener};
pub use networks::Networks;
pub use pattern::{HOST_BYTES_MAX, HostPattern, PathPattern, Segment, Tail};
pub use problem::{ConfigErrors, Fault, Located, Origin, Problem, Report};
pub use raw::{FLAG_UPSTREAM, Field, Raw, RawRoute, RawUpstream};
pub use routes::{Methods, Route, RoutePaths};
pub use settings::{
    LimitFlags, Limits, RawLimits, RawTimeouts, Setting, TimeoutFlags, Timeouts, all as settings,
};
pub use shards::{Policy, RawShards, ShardChoice, ShardPer};
pub use tunnels::RouteTunnels;
pub use units::{parse_bytes, parse_duration, show_bytes, show_duration};
pub use upstreams::{ProxyProtocolOut, SendHost, UpstreamGroup};

use std::path::Path;

use crate::cli::RunArgs;

/// The configuration that the command line asks for: its file, if it names one, with its flags on top.
///
/// # Errors
/// Everything that is wrong, in the order of the file; flags first.
pub fn resolve(flags: &RunArgs) -> Result<Config, ConfigErrors> {
    let mut raw = match &flags.config {
        Some(file) => Raw::load(file)?,
        None => Raw::default(),
    };
    raw.merge(flags);
    Config::check(&raw)
}

/// The configuration in a file, for `sluice check`.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn check_file(file: &Path) -> Result<Config, ConfigErrors> {
    Config::check(&Raw::load(file)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn run(args: &[&str]) -> Result<Config, ConfigErrors> {
        let cli =
            Cli::try_parse_from(["sluice"].iter().chain(args)).unwrap_or_else(|error| panic!("{error}"));
        resolve(&cli.run)
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
        let file = example("sluice.toml");
        let config = run(&[
            "--config",
            &file,
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
        assert_eq!(config.routes.len(), 7);
    }

    #[test]
    fn upstream_flag_replaces_the_files_routes_and_says_so() {
        let config = run(&["--config", &example("sluice.toml"), "--upstream", "http://a"]).unwrap();
        assert_eq!((config.upstreams.len(), config.routes.len()), (1, 1));
        let warning = config.warnings[0].to_string();
        assert_eq!(warning, "--upstream: replaces the 2 upstreams and 7 routes of the file");
    }

    #[test]
    fn wrong_flags_are_told_together() {
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
    fn missing_file_is_one_clear_line() {
        let errors = run(&["--config", "/nonexistent.toml", "--listen", "x"]).unwrap_err();
        assert_eq!(errors.errors.len(), 1);
        assert!(errors.to_string().starts_with("/nonexistent.toml: cannot read: No such file"));
    }
}
