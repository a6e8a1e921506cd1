//! TLS without sockets: bytes in, bytes out.
//!
//! [`handshake`] drives rustls to the end of a handshake and takes the secrets out of it; [`record`] opens and seals the records
//! that follow, in the buffers they lie in. [`certificates`] reads key pairs and picks one for a client; [`tickets`] are the keys
//! with which sessions are resumed on any shard. [`client_hello`] reads what a client offers before any of this begins.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod client_hello;
pub mod handshake;
mod keyed_id;
pub mod record;
pub mod tickets;

pub use keyed_id::keyed_id;
