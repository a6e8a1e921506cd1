//! The side of the servers: groups of them, this shard's connections to each, and a server's end of one exchange.

pub(crate) mod capacity;
pub(crate) mod connect;
pub(crate) mod balance;
pub(crate) mod board;
pub(crate) mod breaker;
pub(crate) mod dial;
pub(crate) mod ejection;
pub(crate) mod group;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod lifetime;
pub(crate) mod members;
pub(crate) mod retry_budget;
pub(crate) mod queue;
pub(crate) mod server;
pub(crate) mod sessions;
pub(crate) mod servers;
pub(crate) mod stock;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod upkeep;
