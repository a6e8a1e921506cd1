//! The port plan: which source and destination addresses the connections use.
//!
//! Between one source and one destination there are as many connections as ports in ip_local_port_range. On loopback
//! every address of 127.0.0.0/8 is ours, so the wall of 64k per target is a matter of using several of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

/// Share of the range that is used per pair of addresses. connect(2) looks for a free port among every second one
/// first, so beyond half of the range each connection searches the full half in vain: measured, opening then all but
/// stops (at 193,500 of 200,000 connections from six addresses with 64,512 ports each). Addresses cost nothing.
const FILL: f64 = 0.33;

/// The first source address: out of the way of what else talks on 127.0.0.x.
const FIRST_SOURCE: u32 = u32::from_be_bytes([127, 1, 0, 1]);
const LAST_SOURCE: u32 = u32::from_be_bytes([127, 254, 255, 254]);

/// Which addresses are used for how many connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortPlan {
    /// Source addresses; empty when the kernel chooses.
    pub sources: Vec<Ipv4Addr>,
    /// Destination addresses.
    pub destinations: Vec<SocketAddr>,
    /// Ports that a pair of addresses has.
    pub ports_per_pair: u64,
}

impl PortPlan {
    /// A plan for so many connections to a target; with several destinations, to the addresses that follow its own.
    pub fn new(target: SocketAddr, connections: u64, destinations: u16, range: (u64, u64)) -> PortPlan {
        let ports_per_pair = range.1.saturating_sub(range.0) + 1;
        let loopback = match target.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Some(ip),
            _ => None,
        };
        let Some(ip) = loopback else {
            return PortPlan { sources: Vec::new(), destinations: vec![target], ports_per_pair };
        };
        let destinations: Vec<SocketAddr> = (0..u32::from(destinations.max(1)))
            .map(|number| SocketAddr::from((Ipv4Addr::from(u32::from(ip) + number), target.port())))
            .collect();
        let per_source = ports_per_pair as f64 * FILL * destinations.len() as f64;
        let count = (connections as f64 / per_source).ceil().max(1.0) as u32;
        let last = FIRST_SOURCE.saturating_add(count - 1).min(LAST_SOURCE);
        PortPlan {
            sources: (FIRST_SOURCE..=last).map(Ipv4Addr::from).collect(),
            destinations,
            ports_per_pair,
        }
    }

    /// The source and destination of a connection.
    pub fn pair(&self, number: u64) -> (Option<SocketAddr>, SocketAddr) {
        let destination = self.destinations[(number % self.destinations.len() as u64) as usize];
        let round = number / self.destinations.len() as u64;
        let source = (!self.sources.is_empty())
            .then(|| SocketAddr::from((self.sources[(round % self.sources.len() as u64) as usize], 0)));
        (source, destination)
    }

    /// Connections there are ports for.
    pub fn capacity(&self) -> u64 {
        self.sources.len().max(1) as u64 * self.destinations.len() as u64 * self.ports_per_pair
    }
}

impl std::fmt::Display for PortPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sources, destinations) = (self.sources.len().max(1), self.destinations.len());
        let ports = crate::units::show_count(self.ports_per_pair);
        write!(f, "{sources} source x {destinations} destination addresses x {ports} ports")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const RANGE: (u64, u64) = (32_768, 60_999);

    #[test]
    fn a_million_fits_and_is_spread_evenly() {
        let plan = PortPlan::new(SocketAddr::from(([127, 0, 0, 1], 80)), 1_000_000, 2, RANGE);
        assert!(plan.capacity() > 1_000_000);
        let mut used: HashMap<_, u64> = HashMap::new();
        for number in 0..1_000_000 {
            *used.entry(plan.pair(number)).or_insert(0) += 1;
        }
        assert_eq!(used.len(), plan.sources.len() * 2);
        assert!(used.values().all(|&count| count < plan.ports_per_pair * 2 / 5), "well below one half");
    }

    #[test]
    fn elsewhere_the_kernel_chooses() {
        let target = SocketAddr::from(([192, 0, 2, 1], 80));
        let plan = PortPlan::new(target, 1_000_000, 4, RANGE);
        assert_eq!((plan.pair(7), plan.capacity()), ((None, target), 28_232));
    }
}
