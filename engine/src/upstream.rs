//! The side of the servers: groups of them, and this shard's connections to each.

pub(crate) mod connect;
pub(crate) mod group;
pub(crate) mod h1;
pub(crate) mod stock;
pub(crate) mod upkeep;
