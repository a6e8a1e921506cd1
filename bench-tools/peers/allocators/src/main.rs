//! The `sluice` binary on another allocator: mimalloc or jemalloc by feature, else the C library's without a ledger.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "tikv-jemallocator")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sluice::commands::run(&sluice::cli::Cli::parse())
}
