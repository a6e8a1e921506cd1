//! `resolve` of an upstream: how the names of its servers are resolved, and resolved again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::problem::{Fault, Report};
use super::table::{ResolveKeys, UpstreamKeys};

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// The shortest time between two questions for a name, whatever its TTL is.
    pub min: Duration,
    /// The longest one.
    pub max: Duration,
    /// Each address of a name is a server; else they are one together.
    pub each: bool,
    /// The servers that are asked; those of this system if there are none.
    pub nameservers: Vec<SocketAddr>,
}

pub(super) fn check_resolve(keys: &UpstreamKeys, report: &mut Report) -> Resolve {
    let of_resolve = match keys.resolve.given() {
        Some(written) => ResolveKeys::settle(&written.value),
        None => ResolveKeys::default(),
    };
    let written = keys.resolve.given().map(|written| &written.value);
    if of_resolve.min > of_resolve.max
        && let Some(at) =
            written.and_then(|values| values.field("min").given().or(values.field("max").given()))
    {
        let fault = Fault::new("min is above max").hint("min is for short TTLs, max for long ones");
        report.error(&at.at, "upstream.resolve.min", fault);
    }
    let mut nameservers = Vec::new();
    for text in of_resolve.nameservers.value().into_iter().flatten() {
        let ip = text.value.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
        match ip.or_else(|_| text.value.parse()) {
            Ok(address) => nameservers.push(address),
            Err(_) => {
                let fault = Fault::new(format!("`{}` is not the address of a name server", text.value));
                let fault = fault
                    .hint("write an address, with or without a port: 10.0.0.2, 127.0.0.1:5353, [::1]:53");
                report.error(&text.at, "upstream.resolve.nameservers", fault);
            }
        }
    }
    Resolve { min: of_resolve.min, max: of_resolve.max, each: of_resolve.each, nameservers }
}
