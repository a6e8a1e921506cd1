//! Groups of servers: what a checked one holds, and the checking of each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use sluice_proto::h1::Lenient;

use super::address::{Scheme, UpstreamServer};
use super::balancing::{Balancing, check_balancing};
use super::choices::{ProxyProtocolOut, SendHost, UpstreamProtocol};
use super::ejection::{Breaker, Ejection, check_breaker, check_ejection};
use super::health::{HealthCheck, check_health};
use super::policy::is_local;
use super::problem::{Fault, Origin, Report, parse_word};
use super::resolve::{Resolve, check_resolve};
use super::retry::{Retry, check_written};
use super::servers::{check_servers, server_of};
use super::table::{Limits, Timeouts, Top, UpstreamKeys};
use super::upstream_tls::{UpstreamTls, check_upstream_tls};
use super::values::{Field, Values};

/// Servers that requests are spread over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamGroup {
    /// Its name, as routes say it.
    pub name: String,
    /// The servers that are written; at least one if there is no file.
    pub servers: Vec<UpstreamServer>,
    /// The file that has further ones.
    pub servers_file: Option<PathBuf>,
    /// How their names are resolved.
    pub resolve: Resolve,
    /// Whether there may be TLS with servers of this group.
    pub has_tls: bool,
    /// Where connections to its servers come from; the kernel chooses if it is empty.
    pub source_addresses: Vec<IpAddr>,
    /// The version of HTTP that its servers are asked in.
    pub protocol: UpstreamProtocol,
    /// What is forgiven in responses of its servers.
    pub lenient: Lenient,
    /// What a new connection to a server begins with.
    pub proxy_protocol: ProxyProtocolOut,
    /// Which Host servers get, unless a route says otherwise.
    pub send_host: SendHost,
    /// TLS with those servers that are `https://`.
    pub tls: UpstreamTls,
    /// Which of its servers gets a request.
    pub balancing: Balancing,
    /// How its servers are checked, if they are.
    pub health: Option<HealthCheck>,
    /// When a server that fails requests gets none for a time.
    pub ejection: Ejection,
    /// When requests to all of them are refused at once, if they ever are.
    pub breaker: Option<Breaker>,
    /// When its servers get a request again, unless a route says otherwise.
    pub retry: Retry,
    /// Its own timeouts, and the global ones.
    pub timeouts: Timeouts,
    /// Its own limits, and the global ones.
    pub limits: Limits,
}

impl UpstreamGroup {
    /// Most connections to a server of it; 0 for no limit.
    pub fn connections_max(&self, server: &UpstreamServer) -> u32 {
        server.connections.unwrap_or(self.limits.upstream_connections)
    }

    /// Whether connections to any of its servers are limited, or may be by its file.
    pub fn limits_connections(&self) -> bool {
        self.limits.upstream_connections > 0
            || self.servers_file.is_some()
            || self.servers.iter().any(|server| self.connections_max(server) > 0)
    }
}

/// The groups, as far as they are in order.
pub(super) struct Upstreams {
    pub(super) groups: Vec<UpstreamGroup>,
    /// What each says of timeouts, limits and retries, over what the file says.
    pub(super) scopes: Vec<(Values, Values, Values)>,
    /// Index of a group by its name.
    pub(super) numbers: BTreeMap<String, usize>,
    /// Where each group got its name.
    pub(super) origins: Vec<Origin>,
    /// Some group has no readable name, so a route may well mean that one.
    pub(super) some_unnamed: bool,
}

#[expect(clippy::too_many_lines, reason = "one line for each part of a group")]
pub(super) fn check_upstreams(top: &Top, whole: &Origin, report: &mut Report) -> Upstreams {
    let mut upstreams = Upstreams {
        groups: Vec::new(),
        scopes: Vec::new(),
        numbers: BTreeMap::new(),
        origins: Vec::new(),
        some_unnamed: false,
    };
    let raws = &top.upstream;
    if raws.is_empty() && !top.route.iter().any(is_local) {
        report_none(whole, report);
    }
    for raw in raws.iter() {
        if raw.is_faulty {
            upstreams.some_unnamed = true;
            continue;
        }
        let keys = UpstreamKeys::settle(raw);
        let servers = check_servers(raw, &keys, top, report);
        let balancing = check_balancing(raw, &keys, report);
        let resolve = check_resolve(&keys, report);
        let servers_file = check_servers_file(&keys, report);
        let has_tls = may_have_tls(&keys, &servers);
        let source_addresses = check_sources(&keys, report);
        let tls = check_upstream_tls(&keys, &servers, report);
        let protocol = check_protocol(raw, &keys, &servers, report);
        let lenient = check_lenient(&keys, protocol, report);
        let health = check_health(&keys, &servers, report);
        let ejection = check_ejection(&keys, report);
        let breaker = check_breaker(&keys, report);
        let retry = check_written(keys.retry.given(), &top.retry, report);
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
                servers_file,
                resolve,
                has_tls,
                source_addresses,
                protocol,
                lenient,
                proxy_protocol: keys.proxy_protocol,
                send_host: keys.send_host,
                tls,
                balancing,
                health,
                ejection,
                breaker,
                retry: Retry::settle(&retry),
                timeouts: Timeouts::settle(&timeouts),
                limits: Limits::settle(&limits),
            });
            upstreams.scopes.push((timeouts, limits, retry));
            upstreams.origins.push(name.at.clone());
        }
    }
    upstreams
}

fn report_none(whole: &Origin, report: &mut Report) {
    let hint = match whole {
        Origin::CommandLine => "add --upstream http://127.0.0.1:9000, or --config FILE",
        _ => "add [[upstream]] with name = \"app\" and servers = [\"http://127.0.0.1:9000\"]",
    };
    report.error(whole, "upstream", Fault::new("no server to send requests to").hint(hint));
}

/// Whether a server has TLS, or one of the file may have it.
fn may_have_tls(keys: &UpstreamKeys, servers: &[UpstreamServer]) -> bool {
    servers.iter().any(|server| server.scheme.is_secure())
        || (keys.servers_file.given().is_some() && keys.tls.given().is_some())
}

fn check_sources(keys: &UpstreamKeys, report: &mut Report) -> Vec<IpAddr> {
    let mut sources = Vec::new();
    for text in keys.source_addresses.value().into_iter().flatten() {
        let key = "upstream.source_addresses";
        match text.value.parse::<IpAddr>() {
            Ok(ip) if sources.contains(&ip) => {
                report.error(&text.at, key, Fault::new(format!("`{ip}` is there twice")));
            }
            Ok(ip) if ip.is_unspecified() => {
                let fault = Fault::new(format!("`{ip}` is no address of a host"));
                report.error(&text.at, key, fault.hint("leave it out: then the kernel chooses"));
            }
            Ok(ip) => sources.push(ip),
            Err(_) => {
                let fault = Fault::new(format!("`{}` is not an address", text.value));
                report.error(
                    &text.at,
                    key,
                    fault.hint("write addresses of this host, without ports, such as 10.0.0.5"),
                );
            }
        }
    }
    sources
}

/// The protocol that is written, or that of the schemes.
fn check_protocol(
    raw: &Values,
    keys: &UpstreamKeys,
    servers: &[UpstreamServer],
    report: &mut Report,
) -> UpstreamProtocol {
    let h2c = server_of(keys, servers, Scheme::H2c);
    let http = server_of(keys, servers, Scheme::Http);
    let protocol = match (&keys.protocol, h2c, http) {
        (Field::Given(given), Some(h2c), _) if given.value == UpstreamProtocol::H1 => {
            let fault = Fault::new(format!("`{}` is HTTP/2, and protocol is h1", h2c.value));
            report.error(&h2c.at, "upstream.servers", fault.hint("write http://, or leave out protocol"));
            return UpstreamProtocol::H1;
        }
        (Field::Given(given), _, _) => given.value,
        (Field::Absent, Some(h2c), Some(_)) => {
            let fault = Fault::new("the servers of an upstream speak one protocol: h2c:// beside http://");
            report.error(&h2c.at, "upstream.servers", fault.hint("make two upstreams of them"));
            return UpstreamProtocol::H1;
        }
        (_, Some(_), _) => UpstreamProtocol::H2,
        _ => UpstreamProtocol::H1,
    };
    if let Some(given) = raw.field("proxy_protocol").given()
        && protocol == UpstreamProtocol::H2
        && keys.proxy_protocol != ProxyProtocolOut::Off
    {
        let fault = Fault::new("clients share HTTP/2 connections, so that no header can name one");
        let hint = match given.at {
            Origin::Flag(_) => "leave out --upstream-proxy-protocol, or ask the servers in HTTP/1.1",
            _ => "leave out proxy_protocol, or ask the servers in HTTP/1.1",
        };
        report.error(&given.at, "upstream.proxy_protocol", fault.hint(hint));
    }
    protocol
}

/// What may be forgiven, by the words for it.
const LENIENT: [(&str, Lenient); 4] = [
    ("bare-lf", Lenient::BARE_LF),
    ("chunk-padding", Lenient::CHUNK_PADDING),
    ("equal-lengths", Lenient::EQUAL_LENGTHS),
    ("204-framing", Lenient::FRAMING_204),
];

fn check_lenient(keys: &UpstreamKeys, protocol: UpstreamProtocol, report: &mut Report) -> Lenient {
    let mut lenient = Lenient::NONE;
    let Some(given) = keys.lenient.given() else { return lenient };
    if protocol == UpstreamProtocol::H2 && !given.value.is_empty() {
        let fault = Fault::new("HTTP/2 has neither line ends nor chunks to be lenient about");
        report.error(&given.at, "upstream.lenient", fault.hint("leave it out"));
    }
    for text in &given.value {
        match LENIENT.iter().find(|(word, _)| *word == text.value) {
            Some((_, more)) => lenient = lenient.and(*more),
            None => {
                let words = LENIENT.map(|(word, _)| word);
                let fault = parse_word(&words, &text.value).expect_err("it is none of the words");
                report.error(&text.at, "upstream.lenient", fault);
            }
        }
    }
    lenient
}

/// The file with further servers, which has to be there. What is in it is read when names are resolved.
fn check_servers_file(keys: &UpstreamKeys, report: &mut Report) -> Option<PathBuf> {
    let given = keys.servers_file.given()?;
    if let Err(error) = std::fs::File::open(&given.value) {
        let fault = Fault::new(format!("cannot read {}: {error}", given.value.display()));
        let hint = "write the file first, with a server in each line, such as http://10.0.0.9:80 weight=3";
        report.error(&given.at, "upstream.servers_file", fault.hint(hint));
    }
    Some(given.value.clone())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{CommandLine, Config, Raw, resolve};

    fn check(upstream: &str) -> Result<Config, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\n{upstream}"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        Config::check(&raw).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_protocol_is_that_of_the_scheme_unless_it_is_written() {
        for (upstream, wanted) in [
            ("servers = [\"http://a\"]", UpstreamProtocol::H1),
            ("servers = [\"https://a\"]", UpstreamProtocol::H1),
            ("servers = [\"h2c://a\"]", UpstreamProtocol::H2),
            ("servers = [\"h2c://a\", \"https://b\"]", UpstreamProtocol::H2),
            ("servers = [\"http://a\", \"https://b\"]\nprotocol = \"h2\"", UpstreamProtocol::H2),
            ("servers = [\"h2c://a\", \"http://b\"]\nprotocol = \"h2\"", UpstreamProtocol::H2),
            ("servers = [\"https://a\"]\nprotocol = \"h1\"\nproxy_protocol = \"v2\"", UpstreamProtocol::H1),
            ("servers = [\"h2c://a\"]\nproxy_protocol = \"off\"", UpstreamProtocol::H2),
        ] {
            let config = check(upstream).unwrap_or_else(|errors| panic!("{upstream}: {errors}"));
            assert_eq!(config.upstreams[0].protocol, wanted, "{upstream}");
        }
    }

    #[test]
    fn protocols_that_exclude_each_other_are_one_error() {
        for (upstream, words) in [
            (
                "servers = [\"http://a\", \"h2c://b\"]",
                "f.toml:6:24: upstream.servers: the servers of an upstream speak one protocol",
            ),
            (
                "servers = [\"h2c://a\"]\nprotocol = \"h1\"",
                "f.toml:6:12: upstream.servers: `h2c://a` is HTTP/2, and protocol is h1",
            ),
            (
                "servers = [\"h2c://a\"]\nprotocol = \"h3\"",
                "f.toml:7:12: upstream.protocol: `h3` is none of h1, h2",
            ),
            (
                "servers = [\"h2c://a\", \"http://a\"]\nprotocol = \"h2\"",
                "f.toml:6:23: upstream.servers: `a` is there twice",
            ),
            (
                "servers = [\"h2c://a\"]\nproxy_protocol = \"v1\"",
                "f.toml:7:18: upstream.proxy_protocol: clients share HTTP/2 connections",
            ),
            (
                "servers = [\"https://a\"]\nprotocol = \"h2\"\nproxy_protocol = \"v2\"",
                "f.toml:8:18: upstream.proxy_protocol: clients share HTTP/2 connections",
            ),
            (
                "servers = [\"http://a\"]\nlenient = [\"bare-lf\", \"bare-cr\"]",
                "f.toml:7:23: upstream.lenient: `bare-cr` is none of bare-lf, chunk-padding, equal-lengths, 204-framing",
            ),
            (
                "servers = [\"h2c://a\"]\nlenient = [\"bare-lf\"]",
                "f.toml:7:11: upstream.lenient: HTTP/2 has neither line ends nor chunks",
            ),
            (
                "servers = [\"http://a\"]\nsource_addresses = [\"10.0.0.1:80\"]",
                "f.toml:7:21: upstream.source_addresses: `10.0.0.1:80` is not an address",
            ),
            (
                "servers = [\"http://a\"]\nsource_addresses = [\"0.0.0.0\"]",
                "`0.0.0.0` is no address of a host",
            ),
            (
                "servers = [\"h2c://a\"]\ntls.verify = false",
                "f.toml:7:14: upstream.tls.verify: no server of this upstream has TLS",
            ),
        ] {
            let errors = check(upstream).unwrap_err();
            assert!(errors.lines().count() == 1 && errors.contains(words), "{upstream}: {errors}");
        }
    }

    #[test]
    fn flags_choose_the_protocol_too() {
        let listen = CommandLine::default().with("--listen", "127.0.0.1:0");
        let h2c = resolve(&listen.clone().with("--upstream", "h2c://a:1")).unwrap();
        assert_eq!(h2c.upstreams[0].protocol, UpstreamProtocol::H2);
        let tls = listen.clone().with("--upstream", "https://a").with("--upstream-protocol", "h2");
        assert_eq!(resolve(&tls).unwrap().upstreams[0].protocol, UpstreamProtocol::H2);
        let errors = resolve(&listen.with("--upstream", "h2c://a").with("--upstream-proxy-protocol", "v2"));
        let errors = errors.unwrap_err().to_string();
        assert!(errors.starts_with("--upstream-proxy-protocol: clients share"), "{errors}");
    }
}
