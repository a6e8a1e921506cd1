//! The `sluice` binary: everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sluice::{cli::Cli, commands};

/// The C library's, with a ledger of where shards have their memory: docs/topology.md says why.
#[global_allocator]
static ALLOCATOR: sluice_sys::Heap = sluice_sys::Heap;

fn main() -> ExitCode {
    commands::run(&Cli::parse())
}
