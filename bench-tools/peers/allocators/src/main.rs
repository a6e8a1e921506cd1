//! The `sluice` binary on other allocators, by feature: mimalloc, jemalloc, or its own; without any, the C library's as it is.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "tikv-jemallocator")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "sluice-sys")]
#[global_allocator]
static ALLOCATOR: sluice_sys::Heap = sluice_sys::Heap;

fn main() -> ExitCode {
    sluice::commands::run(&sluice::cli::Cli::parse())
}
