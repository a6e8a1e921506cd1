//! The command line.

use clap::{Parser, Subcommand};

use crate::capacity::CapacityArgs;
use crate::child::ChildArgs;
use crate::compare::{CompareArgs, FoundationArgs};
use crate::load::LoadArgs;
use crate::origin::OriginArgs;
use crate::relay::RelayArgs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sluice-bench",
    version,
    about = "Load, origin and capacity measurement for Sluice and other HTTP servers",
    after_help = "Progress and errors go to stderr, results to stdout.\n\
                  Exit codes: 0 done, 1 the target failed, 2 wrong flags, 78 this machine cannot run the tool, 130\n\
                  a report cut short by Ctrl-C.",
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve static answers as cheaply as possible
    Origin(OriginArgs),
    /// Send requests and report rate, latency and errors
    Load(Box<LoadArgs>),
    /// Open connections until a goal or a limit, hold them, and report what they cost
    Capacity(Box<CapacityArgs>),
    /// Put the same work through sluice and other proxies, in turns, and report ratios
    Compare(Box<CompareArgs>),
    /// Compare the same minimal relay on our ring and on other runtimes (cargo feature `runtimes`)
    Foundation(Box<FoundationArgs>),
    /// Run one of those relays
    #[command(hide = true)]
    Relay(RelayArgs),
    /// Become a program that ends with this tool
    #[command(hide = true)]
    Child(ChildArgs),
}
