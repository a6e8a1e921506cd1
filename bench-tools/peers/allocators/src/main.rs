//! The `sluice` binary on other allocators, by feature: mimalloc or jemalloc; without one, on the C library's, as `sluice` is.
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
