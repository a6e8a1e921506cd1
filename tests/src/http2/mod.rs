//! HTTP/2 by its frames, for peers that obey the RFC and for those that do not.
//!
//! Owns the frames as bytes ([`frames`]) and [`Http2`], a connection from either side that sends what it is given, and puts together
//! what comes back stream by stream. Field blocks are written as plain literals and read by `loona-hpack`, an implementation
//! that is neither ours nor the h2 crate's. [`hyper`](fn@hyper) makes clients on the h2 crate.

pub mod frames;

mod client;
mod connection;

pub use self::{
    client::{Hyper, full, hyper, hyper_over_tls},
    connection::{Answer, Ended, Http2},
};
