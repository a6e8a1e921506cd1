//! Sluice: a reverse proxy for bare-metal Linux, one `io_uring` shard per core.
//!
//! The library holds everything the `sluice` binary does; `main.rs` only reads the command line.
//! Modules stand in the order in which a starting proxy, and then a request, meets them.
#![forbid(unsafe_code)]

#[macro_use]
mod cold;
pub mod exit;
pub mod log;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod commands;
#[cfg(feature = "cli")]
mod cert;
#[cfg(feature = "cli")]
mod preflight;
#[cfg(feature = "cli")]
mod version;
pub mod config;
pub mod topology;
pub mod placement;
pub mod steering;
mod budget;
mod bulk;
mod descriptors;
mod launch_error;
pub mod launch;
mod blueprint;
mod listen;
mod shard_thread;
mod balance;
pub mod control;
mod shard;
mod sleepers;
mod serve;
mod snapshot;
mod connection;
mod downstream;
mod client_address;
mod identity;
mod abuse;
mod exchange;
mod message;
mod path_policy;
pub mod policy;
mod request_lines;
pub mod route;
#[cfg(feature = "cli")]
mod explain;
mod upstream;
mod grpc_web;
mod h1;
mod h2;
mod min_rate;
mod record;
mod relay;
mod splice;
mod tls;
mod traffic;
mod trailers;
mod body_writer;
mod tunnel;
mod stream_tunnel;
mod websocket;
mod port;
mod answer;

mod clock;
pub mod counters;
#[cfg(feature = "cli")]
pub mod demo;

#[cfg(test)]
mod docs;
