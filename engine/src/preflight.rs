//! What would keep this host from running a configuration that is in order by itself: what a start finds, found before.

use std::io;
use std::path::Path;

use crate::config::{Config, UpstreamGroup};
use crate::control::names;
use crate::descriptors;
use crate::listen::{Reserved, why_not_bound};
use crate::log;
use crate::placement;
use crate::topology::Topology;

/// Every obstacle, a line each. An address in use is a warning on stderr: the process that has it may be this proxy.
pub(crate) fn obstacles(config: &Config) -> Vec<String> {
    let mut obstacles = names::obstacles(config);
    obstacles.extend(no_authorities(config));
    match shards(config) {
        Ok(shards) => obstacles.extend(descriptors::raise(shards).err().map(|error| error.to_string())),
        Err(why) => obstacles.push(why),
    }
    let listen = config.listeners.iter().map(|listener| ("", listener.address.clone()));
    for (purpose, address) in listen.chain(config.metrics.map(|address| ("for metrics ", address.into()))) {
        match Reserved::try_one(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                log::plain(format_args!("warning: {}", why_not_bound(purpose, &address, &error)));
            }
            Err(error) => obstacles.push(why_not_bound(purpose, &address, &error).to_string()),
            Ok(()) => {}
        }
    }
    obstacles
}

/// Servers are verified by the authorities of this system, and it has none.
fn no_authorities(config: &Config) -> Option<String> {
    let needs_those_of_the_system = |group: &UpstreamGroup| {
        let has_tls = group.servers.iter().any(|server| server.scheme.is_secure());
        has_tls && group.tls.verify && group.tls.ca.is_none()
    };
    let group = config.upstreams.iter().find(|group| needs_those_of_the_system(group))?;
    let why = sluice_tls::certificates::load_roots(None).err()?;
    Some(format!("upstream `{}`: {why}", group.name))
}

/// How many shards there would be.
fn shards(config: &Config) -> Result<usize, String> {
    let topology = Topology::read(Path::new("/")).map_err(|error| error.to_string())?;
    let plan = placement::plan(&topology, &config.shards).map_err(|error| error.to_string())?;
    Ok(plan.shards.len())
}
