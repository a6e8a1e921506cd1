//! Sluice: a reverse proxy for bare-metal Linux, one `io_uring` shard per core.
//!
//! The library holds everything the `sluice` binary does; `main.rs` only reads the command line and calls it.
//! Modules stand in the order in which a starting proxy, and then a request, meets them.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod placement;
pub mod route;
pub mod topology;
