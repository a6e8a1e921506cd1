//! Names of servers to addresses: by DNS with what /etc/hosts and /etc/resolv.conf say, and never on a shard.

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record};
use sluice_sys::Address;

use crate::config::{Resolve, UpstreamServer};
use crate::upstream::members::Member;

/// So long a name server has for its answer, and so often it is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// The files by which this system resolves names.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// How soon the name of a backup is asked for again if it could not be resolved, in seconds at most.
const BACKUP_AGAIN_SECONDS: u32 = 10;

/// The largest weight of a server, as in configurations.
const WEIGHT_MAX: u64 = 1_000;

/// What changes when a file does: its inode, size and time.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The servers that one entry of a list comes to, and for how long that is known.
pub(super) type Answer = (Vec<Member>, Duration);

/// Asks for names, by the rules of one upstream.
pub(super) struct Asker {
    rules: Resolve,
    /// It is made anew when the files of the system change.
    resolver: RefCell<Option<(TokioResolver, [Stamp; 2])>>,
}

impl Asker {
    pub(super) fn new(rules: &Resolve) -> Asker {
        Asker { rules: rules.clone(), resolver: RefCell::new(None) }
    }

    /// The servers that are meant by an entry of a list.
    ///
    /// # Errors
    /// Why its name cannot be resolved.
    pub(super) async fn ask(&self, server: &UpstreamServer) -> Result<Answer, String> {
        let max = self.rules.max;
        if !server.is_resolved() {
            return Ok((fixed(server)?, max));
        }
        let resolver = self.resolver()?;
        let (members, ttl) = if server.is_srv {
            self.targets(&resolver, server).await?
        } else {
            let (addresses, ttl) = addresses(&resolver, &server.host).await?;
            (self.members(server, &addresses), ttl)
        };
        Ok((members, Duration::from_secs(ttl.into()).clamp(self.rules.min, max)))
    }

    /// One server, or one for each address.
    fn members(&self, server: &UpstreamServer, addresses: &[IpAddr]) -> Vec<Member> {
        let at = |ip: &IpAddr| Address::Inet(SocketAddr::new(*ip, server.port));
        if !self.rules.each {
            return vec![Member { server: server.clone(), addresses: addresses.iter().map(at).collect() }];
        }
        let each = |ip: &IpAddr| Member {
            server: UpstreamServer { at: Some(*ip), ..server.clone() },
            addresses: vec![at(ip)],
        };
        addresses.iter().map(each).collect()
    }

    /// The hosts that SRV records name: those that come first by priority with their weights, and the others as backups.
    //= https://www.rfc-editor.org/rfc/rfc2782
    async fn targets(
        &self,
        resolver: &TokioResolver,
        server: &UpstreamServer,
    ) -> Result<(Vec<Member>, u32), String> {
        let found = resolver.srv_lookup(server.host.as_str()).await.map_err(|error| error.to_string())?;
        let mut ttl = ttl_of(found.answers());
        let of_record = |record: &'_ Record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        };
        let mut records: Vec<_> = found.answers().iter().filter_map(of_record).collect();
        records.sort_by_key(|srv| srv.priority);
        let first = records.first().ok_or("there are no SRV records")?.priority;
        let levels: Vec<(u16, u16)> = records.iter().map(|srv| (srv.priority, srv.weight)).collect();
        let mut members = Vec::new();
        for (srv, weight) in records.iter().zip(weights(&levels, server.weight)) {
            let name = srv.target.to_ascii();
            let host = name.trim_end_matches('.');
            // "A Target of '.' means that the service is decidedly not available at this domain." No service is at port 0.
            if host.is_empty() || srv.port == 0 {
                continue;
            }
            let is_first = srv.priority == first;
            let (addresses, address_ttl) = match addresses(resolver, &name).await {
                Err(_) if !is_first => {
                    ttl = ttl.min(BACKUP_AGAIN_SECONDS);
                    continue;
                }
                found => found?,
            };
            ttl = ttl.min(address_ttl);
            let target = UpstreamServer {
                authority: format!("{host}:{}", srv.port),
                host: host.to_owned(),
                port: srv.port,
                is_srv: false,
                weight,
                is_backup: server.is_backup || !is_first,
                ..server.clone()
            };
            members.extend(self.members(&target, &addresses));
        }
        if members.is_empty() {
            return Err("its SRV records say that there is no such service".to_owned());
        }
        Ok((members, ttl))
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let stamps = SYSTEM_FILES.map(stamp);
        let mut known = self.resolver.borrow_mut();
        match &*known {
            Some((resolver, of)) if *of == stamps => Ok(resolver.clone()),
            _ => {
                let made = make_resolver(&self.rules.nameservers).map_err(|error| error.to_string())?;
                *known = Some((made.clone(), stamps));
                Ok(made)
            }
        }
    }
}

/// The weights of servers whose records have these priorities and weights, in ascending order of priority, where the whole entry has a
/// weight of its own. Those of a priority are in their smallest terms, so that servers that are alike have the weights of all others.
fn weights(records: &[(u16, u16)], of_entry: u32) -> Vec<u32> {
    let of_level = |level: &[(u16, u16)]| {
        //= https://www.rfc-editor.org/rfc/rfc2782
        // "records with weight 0 should have a very small chance of being selected", all of them an equal one if there are no others.
        let weights: Vec<u64> = level.iter().map(|&(_, weight)| u64::from(weight.max(1))).collect();
        let divisor = weights.iter().copied().fold(0, divisor);
        let most = weights.iter().max().map_or(1, |most| most / divisor * u64::from(of_entry));
        let scaled = move |weight: u64| match weight / divisor * u64::from(of_entry) {
            0 => 0,
            weight if most <= WEIGHT_MAX => weight,
            weight => (weight * WEIGHT_MAX / most).max(1),
        };
        weights
            .into_iter()
            .map(move |weight| u32::try_from(scaled(weight)).unwrap_or(u32::MAX))
            .collect::<Vec<_>>()
    };
    records.chunk_by(|one, other| one.0 == other.0).flat_map(of_level).collect()
}

/// The greatest common one.
fn divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { divisor(other, one % other) }
}

fn stamp(path: &str) -> Stamp {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

fn make_resolver(nameservers: &[SocketAddr]) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if nameservers.is_empty() {
        TokioResolver::builder(provider)?
    } else {
        let servers = nameservers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            let at_port = |connection: &mut ConnectionConfig| connection.port = address.port();
            server.connections.iter_mut().for_each(at_port);
            server
        });
        TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), servers.collect()),
            provider,
        )
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(ANSWER_WITHIN);
    options.attempts = options.attempts.min(ATTEMPTS);
    // When to ask again is decided here.
    options.cache_size = 0;
    builder.build()
}

/// The addresses of a host, those first that this host has a way to, and their TTL in seconds.
async fn addresses(resolver: &TokioResolver, host: &str) -> Result<(Vec<IpAddr>, u32), String> {
    let found = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
    let ttl = ttl_of(found.as_lookup().answers());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in found.iter() {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    //= https://www.rfc-editor.org/rfc/rfc6724#section-6
    // Rule 1: "Avoid unusable destinations"; and by precedence, IPv6 before IPv4.
    addresses.sort_by_key(|ip| (!has_route(*ip), ip.is_ipv4()));
    Ok((addresses, ttl))
}

/// The shortest TTL of what was found; CNAMEs on the way count too.
fn ttl_of(records: &[Record]) -> u32 {
    records.iter().map(|record| record.ttl).min().unwrap_or(0)
}

/// Whether the kernel has a way to this address. Nothing is sent.
fn has_route(ip: IpAddr) -> bool {
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(any).and_then(|socket| socket.connect((ip, 9))).is_ok()
}

/// A server that no name server is asked for: one with a literal address or a Unix socket, or on this host.
pub(super) fn fixed(server: &UpstreamServer) -> Result<Vec<Member>, String> {
    let addresses = match &server.unix {
        Some(unix) => vec![Address::Unix(unix.clone())],
        None => by_system(server)?,
    };
    Ok(vec![Member { addresses, server: server.clone() }])
}

/// The addresses by the C library, which may know more than DNS (/etc/nsswitch.conf).
pub(super) fn by_system(server: &UpstreamServer) -> Result<Vec<Address>, String> {
    let found = (server.host.as_str(), server.port).to_socket_addrs();
    let mut addresses: Vec<Address> = found.map_err(|error| error.to_string())?.map(Address::Inet).collect();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_records_are_shares_of_their_priority() {
        for (records, of_entry, wanted) in [
            (&[(0, 33), (0, 33), (0, 33)][..], 1, &[1, 1, 1][..]),
            (&[(0, 0), (0, 0)], 1, &[1, 1]),
            (&[(0, 10), (0, 60), (5, 7), (5, 7)], 1, &[1, 6, 1, 1]),
            (&[(0, 10), (0, 60)], 3, &[3, 18]),
            (&[(0, 10), (0, 60)], 0, &[0, 0]),
            // As rarely as the algorithm of the RFC has it.
            (&[(0, 0), (0, 20)], 1, &[1, 20]),
            (&[(0, 1), (0, 65_535), (0, 32_768)], 1, &[1, 1_000, 500]),
            (&[(0, 1), (0, 1)], 1_000, &[1_000, 1_000]),
            (&[(0, 65_535)], 1_000, &[1_000]),
            (&[], 1, &[]),
        ] {
            assert_eq!(weights(records, of_entry), wanted, "{records:?} {of_entry}");
        }
    }
}
