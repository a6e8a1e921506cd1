//! What TLS needs beyond a connection: the files that the configuration names, read by the control thread, and what each shard
//! makes of them.
//!
//! [`files`] reads keys, certificates and authorities at the start. [`material`] is what may be exchanged while shards run: the
//! certificates and the keys of tickets. [`listeners`] and [`servers`] are a shard's own: no two shards share a count of references
//! on the way of a handshake.

pub(crate) mod files;
pub(crate) mod listeners;
pub(crate) mod material;
pub(crate) mod servers;
