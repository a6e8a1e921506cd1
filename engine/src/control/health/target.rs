//! What is checked: the servers of a configuration, with addresses, names and TLS as checks need them.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use sluice_sys::Address;
use sluice_tls::handshake::{Alpn, ClientConfig, ClientSettings, ServerName};
use tokio_rustls::TlsConnector;

use crate::blueprint::Blueprint;
use crate::config::{
    Check, HealthCheck, ProxyProtocolOut, UpstreamGroup, UpstreamProtocol, UpstreamServer, host_field,
    server_url,
};
use crate::upstream::board::ServerEntry;
use crate::upstream::members::{GroupMembers, Member};

/// A header of version 1 for a connection that is the proxy's own.
//= https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
const PROXY_V1: &[u8] = b"PROXY UNKNOWN\r\n";

/// The same of version 2: LOCAL, without addresses.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The settings of rustls for one upstream.
pub(super) type TlsSettings = Arc<rustls::ClientConfig>;

/// A group whose servers are checked.
pub(super) struct CheckedGroup {
    pub(super) name: String,
    pub(super) check: HealthCheck,
    /// What is known of them, as many as there are at the moment.
    pub(super) servers: RefCell<Vec<Arc<ServerEntry>>>,
}

impl CheckedGroup {
    /// How many servers there are, and how many of them are up.
    pub(super) fn count(&self) -> (usize, usize) {
        let servers = self.servers.borrow();
        (servers.len(), servers.iter().filter(|server| !server.health.is_down()).count())
    }
}

/// One server that is checked.
pub(super) struct Target {
    /// For messages.
    pub(super) url: String,
    /// Where it can be reached.
    pub(super) addresses: Vec<Address>,
    /// Where connections come from; the kernel chooses if it is empty.
    pub(super) sources: Vec<IpAddr>,
    /// The address that worked last.
    pub(super) preferred: Cell<usize>,
    /// How a connection begins, where servers get a PROXY protocol header.
    pub(super) proxy_header: &'static [u8],
    /// How it is secured, and the name that the certificate has to be for.
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Host and port that it is asked for.
    pub(super) host: String,
    pub(super) is_http2: bool,
}

/// What rustls needs, by upstream; `None` where no check is over TLS.
///
/// # Errors
/// One line: a certificate that cannot be used.
pub(super) fn tls_settings(blueprint: &Blueprint) -> Result<Vec<Option<TlsSettings>>, String> {
    let groups = blueprint.config.upstreams.iter().zip(&blueprint.tls.upstreams);
    groups
        .map(|(group, settings)| match (&group.health, settings) {
            (Some(check), Some(settings)) => {
                let alpn = match (&check.check, is_http2(group, check)) {
                    (Check::Tcp, _) => settings.alpn.clone(),
                    (_, true) => vec![Alpn::Http2],
                    (_, false) => vec![Alpn::Http1],
                };
                ClientConfig::for_checks(&ClientSettings { alpn, ..settings.clone() }).map(Some)
            }
            _ => Ok(None),
        })
        .collect()
}

/// A group that is checked: its number, and its settings of rustls.
pub(super) struct Checked {
    number: usize,
    settings: Option<TlsSettings>,
    pub(super) group: Rc<CheckedGroup>,
}

/// The groups that are checked.
pub(super) fn groups(blueprint: &Blueprint, settings: Vec<Option<TlsSettings>>) -> Vec<Checked> {
    let groups = blueprint.config.upstreams.iter().zip(settings).enumerate();
    groups
        .filter_map(|(number, (group, settings))| {
            let check = group.health.clone()?;
            let group = CheckedGroup { name: group.name.clone(), check, servers: RefCell::default() };
            Some(Checked { number, settings, group: Rc::new(group) })
        })
        .collect()
}

impl Checked {
    /// The servers of the group now.
    pub(super) fn members(&self, blueprint: &Blueprint) -> GroupMembers {
        blueprint.membership.now()[self.number].clone()
    }

    /// What is known of a server, and how it is checked.
    pub(super) fn target(&self, blueprint: &Blueprint, member: &Member) -> (Arc<ServerEntry>, Target) {
        let group = &blueprint.config.upstreams[self.number];
        let entry = blueprint.servers.entry(group, &member.server);
        (entry, target(group, &self.group.check, member, self.settings.as_ref()))
    }
}

fn is_http2(group: &UpstreamGroup, check: &HealthCheck) -> bool {
    group.protocol == UpstreamProtocol::H2 || matches!(check.check, Check::Grpc { .. })
}

fn target(
    group: &UpstreamGroup,
    check: &HealthCheck,
    Member { server, addresses }: &Member,
    settings: Option<&TlsSettings>,
) -> Target {
    let at_port =
        |address: &Address| check.port.map_or_else(|| address.clone(), |port| address.at_port(port));
    let wants_tls = check.tls.unwrap_or(server.scheme.is_secure());
    let tls = settings.filter(|_| wants_tls).map(|settings| {
        let name = group.tls.server_name.as_deref().unwrap_or(&server.host);
        let name = ServerName::try_from(name.to_owned()).expect("the configuration was checked");
        (TlsConnector::from(settings.clone()), name)
    });
    Target {
        url: server_url(server.scheme, &server.label()),
        addresses: addresses.iter().map(at_port).collect(),
        sources: group.source_addresses.clone(),
        preferred: Cell::new(0),
        // Another port is another listener, of which nothing is known.
        proxy_header: match group.proxy_protocol {
            _ if check.port.is_some() => b"",
            ProxyProtocolOut::Off => b"",
            ProxyProtocolOut::V1 => PROXY_V1,
            ProxyProtocolOut::V2 => PROXY_V2,
        },
        tls,
        host: host(check, server),
        is_http2: is_http2(group, check),
    }
}

/// The Host of a check: the one that is written, or the server's own.
fn host(check: &HealthCheck, server: &UpstreamServer) -> String {
    let written = match &check.check {
        Check::Http(http) => http.host.as_ref(),
        Check::Grpc { host, .. } => host.as_ref(),
        Check::Tcp => None,
    };
    match (written, check.port) {
        (Some(host), _) => host.clone(),
        (None, None) => host_field(&server.authority).to_owned(),
        (None, Some(port)) if server.host.contains(':') => format!("[{}]:{port}", server.host),
        (None, Some(port)) => format!("{}:{port}", server.host),
    }
}
