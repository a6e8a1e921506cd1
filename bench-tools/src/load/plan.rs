//! What a load does, checked: the only form that the lanes see.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::LoadArgs;
use super::mix::{Mix, Shape};
use super::schedule::Arrival;
use super::target::{Scheme, Target};
use crate::Failure;
use crate::procfs::Server;
use crate::tls::{Protocol, TlsPlan};

/// Whether a connection serves one request or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connections {
    Kept,
    PerRequest,
}

/// The rate of an open loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) rate: f64,
    pub(super) arrival: Arrival,
}

/// A checked load. Cheap to clone: the requests are shared.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// What is asked for, as it is reported.
    pub(super) target: Target,
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<TlsPlan>,
    pub(super) address: SocketAddr,
    pub(super) mix: std::sync::Arc<Mix>,
    pub(super) connections: u64,
    pub(super) kind: Connections,
    /// Requests at once on a connection of HTTP/2; `None` for HTTP/1.1.
    pub(super) streams: Option<u64>,
    pub(super) open: Option<Open>,
    pub(super) duration: Duration,
    pub(super) requests: Option<u64>,
    pub(super) warmup: Duration,
    pub(super) timeout_ms: u64,
    /// Source addresses, with port 0; none: the kernel's choice.
    pub(super) sources: Vec<SocketAddr>,
    /// The process under load, if it is on this machine and may be seen.
    pub(super) server: Option<Server>,
}

impl Plan {
    /// Checks the flags against each other, the limits and the target.
    pub(super) fn new(args: &LoadArgs, descriptors: u64) -> Result<Plan, Failure> {
        let usage = |message: String| Err(Failure::Usage(message));
        let lanes = args.lanes.lanes().len() as u64;
        if args.connections < lanes {
            return usage(format!("--connections must be at least {lanes}, one per thread"));
        }
        if args.connections.saturating_add(64) > descriptors {
            return usage(format!(
                "{} connections need more descriptors than the limit of {descriptors} (RLIMIT_NOFILE): raise it \
                 with ulimit -n, or use fewer connections",
                args.connections
            ));
        }
        if args.rate.is_some_and(|rate| rate == 0) {
            return usage("--rate must be at least 1".into());
        }
        if args.body > BODY_MAX {
            return usage(format!("--body is at most {BODY_MAX} bytes"));
        }
        if args.messages.message > MESSAGE_MAX {
            return usage(format!("--message is at most {MESSAGE_MAX} bytes"));
        }
        if let Some(field) = args.header.iter().find(|field| !is_field(field)) {
            return usage(format!("'{field}' is no header field: write 'Name: value'"));
        }
        let (target, tls) = target(args)?;
        let address = target.address;
        let sources = sources(args.sources, address)?;
        reach(address, tls.as_ref(), args.timeout)?;
        let kind = if args.new_connections { Connections::PerRequest } else { Connections::Kept };
        let method = args.method.as_deref().unwrap_or(if args.body > 0 { "POST" } else { "GET" });
        let says_close = kind == Connections::PerRequest;
        let messages = args.messages.framing().map(|framing| (framing, args.messages.message));
        let (head, body_bytes) = (args.head, args.body);
        let shape = Shape { method, head, fields: &args.header, body_bytes, says_close, messages };
        Ok(Plan {
            address,
            tls,
            mix: Mix::new(&target, &args.path, &shape).into(),
            connections: args.connections,
            kind,
            streams: args.h2.then(|| u64::from(args.streams.unwrap_or(1))),
            open: args.rate.map(|rate| Open { rate: rate as f64, arrival: args.arrival }),
            duration: args.duration,
            requests: args.requests,
            warmup: args.warmup,
            timeout_ms: args.timeout.as_millis().max(1) as u64,
            sources,
            server: Server::listening_on(address),
            target,
        })
    }
}

/// Most bytes of a request body: it is kept in memory, once per connection that sends it.
const BODY_MAX: u64 = 1 << 30;

/// Most bytes of a message: less than the origin has room for on a stream.
const MESSAGE_MAX: u64 = 1 << 20;

fn is_field(field: &str) -> bool {
    let is_token = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    field.split_once(':').is_some_and(|(name, _)| is_token(name)) && !field.bytes().any(|byte| byte < b' ')
}

/// 127.0.0.1, 127.0.0.2, ...: several loopback addresses have as many times the ports of one.
fn sources(count: u16, address: SocketAddr) -> Result<Vec<SocketAddr>, Failure> {
    let is_loopback_v4 = matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback());
    match count {
        0 | 1 => Ok(Vec::new()),
        _ if !is_loopback_v4 => Err(Failure::Usage("--sources needs a target on 127.0.0.0/8".into())),
        _ => Ok((0..count)
            .map(|number| {
                let [high, low] = (number + 1).to_be_bytes();
                SocketAddr::from((Ipv4Addr::new(127, 0, high, low), 0))
            })
            .collect()),
    }
}

/// What is asked for, under the name that the flags give it, and the TLS to ask for it in.
fn target(args: &LoadArgs) -> Result<(Target, Option<TlsPlan>), Failure> {
    let is_tls = args.tls.tls || args.url.scheme == Scheme::Https;
    if let Some(flag) = args.tls.dependent().filter(|_| !is_tls) {
        return Err(Failure::Usage(format!("{flag} needs --tls or an https:// URL")));
    }
    if !is_tls {
        return Ok((args.url.clone(), None));
    }
    let protocol = if args.h2 { Protocol::Http2 } else { Protocol::Http1 };
    let tls = TlsPlan::new(&args.tls, args.url.host(), protocol)?;
    let mut target = Target { scheme: Scheme::Https, ..args.url.clone() };
    if let Some(name) = &args.tls.server_name {
        target = target.named(name);
    }
    Ok((target, Some(tls)))
}

/// Tries one connection, so that a wrong target is reported at once.
fn reach(address: SocketAddr, tls: Option<&TlsPlan>, timeout: Duration) -> Result<(), Failure> {
    let stream = TcpStream::connect_timeout(&address, timeout.max(Duration::from_millis(1)))
        .map_err(|error| Failure::Target(format!("cannot connect to {address}: {error}")))?;
    tls.map_or(Ok(()), |tls| tls.try_on(stream, timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses() {
        let target = SocketAddr::from(([127, 0, 0, 1], 80));
        let list = sources(300, target).expect("loopback");
        assert_eq!(list[0].to_string(), "127.0.0.1:0");
        assert_eq!(list[299].to_string(), "127.0.1.44:0");
        assert!(sources(2, SocketAddr::from(([10, 0, 0, 1], 80))).is_err());
        assert!(sources(0, target).expect("none").is_empty());
    }

    #[test]
    fn header_fields() {
        assert!(is_field("X-A: b c") && is_field("X:"));
        assert!(!is_field("X-A") && !is_field(": b") && !is_field("A B: c") && !is_field("A: b\r\nC: d"));
    }
}
