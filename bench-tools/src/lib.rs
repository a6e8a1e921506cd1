//! Measuring tools for Sluice and any other HTTP server, each a subcommand of `sluice-bench`.
//!
//! [`origin`] is a server too cheap to be in the way; [`load`] sends requests and times the answers; [`capacity`] opens
//! and holds connections up to a limit and names it; [`compare`] gives the same work to several proxies. All run on the ring of `sluice-sys`, one thread and one runtime
//! per *lane* ([`lanes`]). Nothing here is used by the proxy.
#![forbid(unsafe_code)]

pub mod capacity;
mod child;
mod cli;
pub mod compare;
mod failure;
pub mod fault;
mod files;
pub mod http;
mod http2;
pub mod interrupt;
pub mod lanes;
pub mod latency;
pub mod load;
pub mod machine;
pub mod messages;
pub mod origin;
pub mod peers;
pub mod plot;
pub mod procfs;
mod progress;
pub mod relay;
pub mod ticker;
pub mod tls;
pub mod units;
mod websocket;
mod wire;

use std::process::ExitCode;

pub use cli::{Cli, Command};
pub use failure::Failure;

/// Runs a subcommand to its end. Failures go to stderr, with the exit code that belongs to them.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Origin(args) => origin::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Capacity(args) => capacity::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Foundation(args) => compare::run_foundation(&args),
        Command::Relay(args) => relay::run(&args),
        Command::Child(args) => child::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sluice-bench: {failure}");
            failure.exit_code()
        }
    }
}
