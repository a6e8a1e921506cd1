//! Names of servers to addresses, once at start and never on a shard.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::config::Config;
use crate::upstream::servers::Resolved;

/// The addresses of all servers.
///
/// # Errors
/// The first name that cannot be resolved.
pub(crate) fn resolve(config: &Config) -> Result<Resolved, String> {
    let of_server = |server: &crate::config::UpstreamServer| -> Result<Vec<SocketAddr>, String> {
        let found = (server.host.as_str(), server.port).to_socket_addrs();
        let mut addresses: Vec<SocketAddr> = found
            .map_err(|error| {
                format!(
                    "cannot resolve server `{}`: {error} (hint: check the name, or write an address)",
                    server.authority
                )
            })?
            .collect();
        addresses.dedup();
        Ok(addresses)
    };
    config.upstreams.iter().map(|group| group.servers.iter().map(of_server).collect()).collect()
}
