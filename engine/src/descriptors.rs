//! How many descriptors there are, and how shards and the two sides of a shard share them.

use sluice_sys::HostUnsupported;

use crate::config::Config;
use crate::launch_error::LaunchError;
use crate::log;
use crate::upstream::stock::Descriptors;

/// Descriptors a shard needs beside its connections: ring, doorbell, listeners, a few upstream connections.
const DESCRIPTORS_PER_SHARD: u64 = 32;

/// This part of the descriptors (one in so many) is kept from clients, for connections to servers and pipes.
const UPSTREAM_SHARE: u64 = 32;

/// ... but not more than this.
const UPSTREAM_DESCRIPTORS_MAX: u64 = 8_192;

/// Most health checks at once.
const CHECKS_MAX: u64 = 512;

/// ... but not more than this part of the descriptors (one in so many).
const CHECKS_SHARE: u64 = 16;

/// How many health checks may be under way at once.
pub(crate) fn places_for_checks(config: &Config) -> Result<usize, LaunchError> {
    Ok(check_places(config, raise(0)?.now) as usize)
}

/// As many as there are servers to check, for either kind of place, within what the descriptors allow; 0 if there are none.
fn check_places(config: &Config, descriptors: u64) -> u64 {
    let checked = config.upstreams.iter().filter(|group| group.health.is_some());
    let servers: usize = checked.map(|group| group.servers.len()).sum();
    (2 * servers as u64).min(CHECKS_MAX).min((descriptors / CHECKS_SHARE).max(2))
}

/// Raises the descriptor limit. Returns how many client connections all shards may have together, and what the part of each in
/// the descriptors is.
pub(crate) fn descriptors_for(config: &Config, shards: usize) -> Result<(u32, Descriptors), LaunchError> {
    let Raised { before, now, needed } = raise(shards)?;
    if now > before {
        log::info(format_args!("descriptor limit raised from {before} to {now}"));
    }
    let for_checks = check_places(config, now).min(now - needed);
    let (connections, descriptors) =
        share_out(now - needed - for_checks, config.limits.connections as u64, shards as u64);
    log::debug(format_args!(
        "descriptors: {now}, {needed} of them beside connections; at most {connections} client connections"
    ));
    Ok((connections, descriptors))
}

/// The limit of descriptors.
pub(crate) struct Raised {
    before: u64,
    now: u64,
    /// What shards need beside connections.
    needed: u64,
}

/// Raises the descriptor limit as far as it goes.
///
/// # Errors
/// It is too low for so many shards.
pub(crate) fn raise(shards: usize) -> Result<Raised, LaunchError> {
    let limit = sluice_sys::raise_descriptor_limit();
    let (before, now) =
        limit.map_err(|error| LaunchError::Refused(format!("cannot read RLIMIT_NOFILE: {error}")))?;
    let needed = DESCRIPTORS_PER_SHARD * shards as u64 + 16;
    if now < needed {
        return Err(LaunchError::HostUnsupported(HostUnsupported::new(
            format!("the descriptor limit is {now}, {shards} shards need at least {needed}"),
            "raise RLIMIT_NOFILE (ulimit -n; LimitNOFILE= in systemd), or run fewer shards",
        )));
    }
    Ok(Raised { before, now, needed })
}

/// Shares descriptors out: clients may have all but those that are kept for servers, on whichever shards they are, since the
/// kernel may give all clients to one shard; idle connections to servers are counted by the shard's equal part.
fn share_out(descriptors: u64, connections: u64, shards: u64) -> (u32, Descriptors) {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let for_servers = (descriptors / UPSTREAM_SHARE).min(UPSTREAM_DESCRIPTORS_MAX);
    let for_clients = descriptors - for_servers;
    let configured = if connections == 0 { u64::MAX } else { connections };
    let of_a_shard =
        Descriptors { all: narrow(descriptors / shards), for_servers: narrow(for_servers / shards) };
    (narrow(configured.min(for_clients)), of_a_shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out() {
        let servers = |all, for_servers| Descriptors { all, for_servers };
        assert_eq!(share_out(19_952, 0, 1), (19_329, servers(19_952, 623)));
        assert_eq!(share_out(19_952, 4_000, 2), (4_000, servers(9_976, 311)));
        assert_eq!(share_out(1 << 20, 0, 4), ((1 << 20) - (1 << 13), servers(1 << 18, 1 << 11)));
        assert_eq!(share_out(5, 0, 4), (5, servers(1, 0)));
    }

    #[test]
    fn checks_have_places_by_their_servers_and_the_descriptors() {
        let line = crate::config::CommandLine::default().with("--listen", "127.0.0.1:1");
        let servers = |count: usize, health: bool| {
            let add = |line: crate::config::CommandLine, n| line.with("--upstream", format!("http://s{n}"));
            let line = (0..count).fold(line.clone(), add);
            let mut config = crate::config::resolve(&line).unwrap();
            let check = crate::config::HealthCheck::default();
            config.upstreams[0].health = health.then_some(check);
            config
        };
        assert_eq!(check_places(&servers(9, false), 20_000), 0);
        assert_eq!(check_places(&servers(9, true), 20_000), 18);
        assert_eq!(check_places(&servers(9, true), 64), 4);
        assert_eq!(check_places(&servers(9, true), 10), 2);
        assert_eq!(check_places(&servers(900, true), 20_000), CHECKS_MAX);
    }
}
