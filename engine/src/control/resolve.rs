//! Names of servers to addresses, once at start and never on a shard.

use std::net::ToSocketAddrs;

use sluice_sys::Address;

use crate::config::{Config, UpstreamServer};
use crate::log;
use crate::upstream::servers::Resolved;

/// The addresses of all servers.
///
/// # Errors
/// The first name that cannot be resolved.
pub(crate) fn resolve(config: &Config) -> Result<Resolved, String> {
    let resolve = |server| {
        let addresses = of_server(server)?;
        log::debug(format_args!("server {} is at {addresses:?}", server.authority));
        Ok(addresses)
    };
    config.upstreams.iter().map(|group| group.servers.iter().map(resolve).collect()).collect()
}

/// The addresses of one server.
///
/// # Errors
/// Why its name cannot be resolved.
pub(crate) fn of_server(server: &UpstreamServer) -> Result<Vec<Address>, String> {
    if let Some(unix) = &server.unix {
        return Ok(vec![Address::Unix(unix.clone())]);
    }
    let found = (server.host.as_str(), server.port).to_socket_addrs();
    let mut addresses: Vec<Address> = found
        .map_err(|error| {
            format!(
                "cannot resolve server `{}`: {error} (hint: check the name, or write an address)",
                server.authority
            )
        })?
        .map(Address::Inet)
        .collect();
    addresses.dedup();
    Ok(addresses)
}
