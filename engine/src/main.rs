//! The `sluice` binary: everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sluice::{cli::Cli, commands};

#[cfg(feature = "count-alloc")]
#[global_allocator]
static ALLOCATOR: sluice_sys::CountingAllocator = sluice_sys::CountingAllocator;

fn main() -> ExitCode {
    commands::run(&Cli::parse())
}
