//! Sluice: a reverse proxy for bare-metal Linux, one `io_uring` shard per core.
//!
//! The library holds everything the `sluice` binary does; `main.rs` only reads the command line and calls it.
//! Modules stand in the order in which a starting proxy, and then a request, meets them.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod demo;
pub mod launch;
pub mod placement;
pub mod topology;

mod control;
mod shard;

mod answer;
mod client_address;
mod downstream;
mod exchange;
mod h1;
mod inbox;
mod message;
mod relay;
pub mod route;
mod splice;
mod upstream;

mod clock;
pub mod counters;
