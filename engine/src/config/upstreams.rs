//! Groups of servers: what a checked one holds, and the checking of each.

use std::collections::BTreeMap;

use super::address::UpstreamServer;
use super::choices::{ProxyProtocolOut, SendHost};
use super::problem::{Fault, Origin, Report};
use super::table::{Limits, Timeouts, Top, UpstreamKeys};
use super::upstream_tls::{UpstreamTls, check_upstream_tls};
use super::values::{Field, Values};

/// Servers that requests are spread over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamGroup {
    /// Its name, as routes say it.
    pub name: String,
    /// At least one server.
    pub servers: Vec<UpstreamServer>,
    /// What a new connection to a server begins with.
    pub proxy_protocol: ProxyProtocolOut,
    /// Which Host servers get, unless a route says otherwise.
    pub send_host: SendHost,
    /// TLS with those servers that are `https://`.
    pub tls: UpstreamTls,
    /// Its own timeouts, and the global ones.
    pub timeouts: Timeouts,
    /// Its own limits, and the global ones.
    pub limits: Limits,
}

/// The groups, as far as they are in order.
pub(super) struct Upstreams {
    pub(super) groups: Vec<UpstreamGroup>,
    /// What each says of timeouts and limits, over what the file says.
    pub(super) scopes: Vec<(Values, Values)>,
    /// Index of a group by its name.
    pub(super) numbers: BTreeMap<String, usize>,
    /// Where each group got its name.
    pub(super) origins: Vec<Origin>,
    /// Some group has no readable name, so a route may well mean that one.
    pub(super) some_unnamed: bool,
}

pub(super) fn check_upstreams(top: &Top, whole: &Origin, report: &mut Report) -> Upstreams {
    let mut upstreams = Upstreams {
        groups: Vec::new(),
        scopes: Vec::new(),
        numbers: BTreeMap::new(),
        origins: Vec::new(),
        some_unnamed: false,
    };
    let raws = &top.upstream;
    if raws.is_empty() {
        let hint = match whole {
            Origin::CommandLine => "add --upstream http://127.0.0.1:9000, or --config FILE",
            _ => "add [[upstream]] with name = \"app\" and servers = [\"http://127.0.0.1:9000\"]",
        };
        report.error(whole, "upstream", Fault::new("no server to send requests to").hint(hint));
    }
    for raw in raws.iter() {
        if raw.is_faulty {
            upstreams.some_unnamed = true;
            continue;
        }
        let keys = UpstreamKeys::settle(raw);
        let servers = check_servers(raw, &keys, report);
        let tls = check_upstream_tls(&keys, &servers, report);
        let name = match &keys.name {
            Field::Given(name) => name,
            Field::Faulty => {
                upstreams.some_unnamed = true;
                continue;
            }
            Field::Absent => {
                let fault = Fault::new("an upstream needs a name").hint("add name = \"app\"");
                report.error(&raw.at, "upstream.name", fault);
                upstreams.some_unnamed = true;
                continue;
            }
        };
        if name.value.is_empty() {
            report.error(&name.at, "upstream.name", Fault::new("the name is empty"));
            upstreams.some_unnamed = true;
        } else if upstreams.numbers.contains_key(&name.value) {
            let fault = Fault::new(format!("a second upstream is called `{}`", name.value));
            report.error(&name.at, "upstream.name", fault.hint("put all servers into one `servers` list"));
        } else {
            let timeouts = Values::scoped(&keys.timeouts, &top.timeouts);
            let limits = Values::scoped(&keys.limits, &top.limits);
            upstreams.numbers.insert(name.value.clone(), upstreams.groups.len());
            upstreams.groups.push(UpstreamGroup {
                name: name.value.clone(),
                servers,
                proxy_protocol: keys.proxy_protocol,
                send_host: keys.send_host,
                tls,
                timeouts: Timeouts::settle(&timeouts),
                limits: Limits::settle(&limits),
            });
            upstreams.scopes.push((timeouts, limits));
            upstreams.origins.push(name.at.clone());
        }
    }
    upstreams
}

fn check_servers(raw: &Values, keys: &UpstreamKeys, report: &mut Report) -> Vec<UpstreamServer> {
    let key = "upstream.servers";
    let mut servers: Vec<UpstreamServer> = Vec::new();
    match &keys.servers {
        Field::Faulty => {}
        Field::Given(given) if !given.value.is_empty() => {
            for text in &given.value {
                match UpstreamServer::parse(&text.value) {
                    Err(fault) => report.error(&text.at, key, fault),
                    Ok(server) if servers.contains(&server) => {
                        let fault = Fault::new(format!("`{}` is there twice", server.authority));
                        report.error(&text.at, key, fault.hint("each server gets the same share"));
                    }
                    Ok(server) => servers.push(server),
                }
            }
        }
        Field::Given(_) | Field::Absent => {
            let at = keys.servers.given().map_or(&raw.at, |given| &given.at);
            let hint = "add servers = [\"http://127.0.0.1:9000\"]";
            report.error(at, key, Fault::new("an upstream needs at least one server").hint(hint));
        }
    }
    servers
}
