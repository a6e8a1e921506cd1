//! The `sluice-bench` binary: everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    sluice_bench::run(sluice_bench::Cli::parse())
}
