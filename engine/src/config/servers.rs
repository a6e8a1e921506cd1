//! The servers of an `[[upstream]]`: those of `servers`, and those that have a table of their own.

use super::address::{Scheme, UpstreamServer, server_url};
use super::problem::{Fault, Located, Origin, Report};
use super::table::{Top, UpstreamKeys, UpstreamServerKeys};
use super::values::{Field, Values};

/// The key of plain servers, for messages.
const SERVERS: &str = "upstream.servers";

/// The servers of both lists, as far as they are in order.
pub(super) fn check_servers(
    raw: &Values,
    keys: &UpstreamKeys,
    top: &Top,
    report: &mut Report,
) -> Vec<UpstreamServer> {
    let mut servers: Vec<UpstreamServer> = Vec::new();
    let has_zones = has_zones(keys, top, report);
    for text in keys.servers.value().into_iter().flatten() {
        match UpstreamServer::parse(&text.value) {
            Err(fault) => report.error(&text.at, SERVERS, fault),
            Ok(server) => {
                let server = UpstreamServer { is_near: !has_zones, ..server };
                add(server, &mut servers, (&text.at, SERVERS), report);
            }
        }
    }
    for table in keys.server.iter().filter(|table| !table.is_faulty) {
        if let Some((server, at)) = check_server(table, (top, has_zones), report) {
            add(server, &mut servers, (&at, "upstream.server.url"), report);
        }
    }
    let may_be_empty = keys.servers_file.given().is_some() && keys.servers == Field::Absent;
    if keys.server.is_empty() && keys.servers != Field::Faulty && is_empty(keys) && !may_be_empty {
        let at = keys.servers.given().map_or(&raw.at, |given| &given.at);
        let hint = "add servers = [\"http://127.0.0.1:9000\"]";
        report.error(at, SERVERS, Fault::new("an upstream needs at least one server").hint(hint));
    }
    check_some_is_used(keys, &servers, report);
    servers
}

fn is_empty(keys: &UpstreamKeys) -> bool {
    keys.servers.value().is_none_or(Vec::is_empty)
}

fn add(
    server: UpstreamServer,
    servers: &mut Vec<UpstreamServer>,
    (at, key): (&Origin, &str),
    report: &mut Report,
) {
    if servers.iter().any(|known| known.is_same(&server)) {
        let fault = Fault::new(format!("`{}` is there twice", server.authority));
        let hint = format!(
            "for a larger share write it once: [[upstream.server]] with url = \"{}\" and weight = 2",
            server_url(server.scheme, &server.authority)
        );
        report.error(at, key, fault.hint(hint));
    } else {
        servers.push(server);
    }
}

/// Whether servers differ by their zone. Without a zone of this proxy they do not.
fn has_zones(keys: &UpstreamKeys, top: &Top, report: &mut Report) -> bool {
    let zone_of = |table: &Values| UpstreamServerKeys::settle(table).zone.given().map(|zone| zone.at.clone());
    let Some(at) = keys.server.iter().find_map(zone_of) else { return false };
    if top.zone == Field::Absent {
        let fault = Fault::new("the zone of this proxy is not known, so that all zones are alike");
        report.warn(&at, "upstream.server.zone", fault.hint("add zone = \"...\" at the top"));
    }
    top.zone.given().is_some()
}

/// One `[[upstream.server]]`, and where its URL is written.
fn check_server(
    table: &Values,
    (top, has_zones): (&Top, bool),
    report: &mut Report,
) -> Option<(UpstreamServer, Origin)> {
    let keys = UpstreamServerKeys::settle(table);
    let url = match &keys.url {
        Field::Given(url) => url,
        Field::Faulty => return None,
        Field::Absent => {
            let fault = Fault::new("a server needs a url").hint("add url = \"http://127.0.0.1:9000\"");
            report.error(&table.at, "upstream.server.url", fault);
            return None;
        }
    };
    let is_near = !has_zones || keys.zone.value() == top.zone.value();
    match UpstreamServer::parse(&url.value) {
        Ok(server) => {
            let (weight, is_backup) = (keys.weight, keys.backup);
            let connections = keys.connections.value().copied();
            let server = UpstreamServer { weight, is_backup, connections, is_near, ..server };
            Some((server, url.at.clone()))
        }
        Err(fault) => {
            report.error(&url.at, "upstream.server.url", fault);
            None
        }
    }
}

/// Some server has to get requests while all are well.
fn check_some_is_used(keys: &UpstreamKeys, servers: &[UpstreamServer], report: &mut Report) {
    let Some(last) = keys.server.last() else { return };
    if !is_whole(keys, servers) || servers.iter().any(|server| server.weight > 0 && !server.is_backup) {
        return;
    }
    let is_backup = servers.iter().any(|server| server.is_backup);
    let (key, why, hint) = match is_backup {
        true => {
            ("upstream.server.backup", "every server is a backup or has weight 0", "one has to be neither")
        }
        false => ("upstream.server.weight", "every server has weight 0", "give one a weight of 1 or more"),
    };
    report.error(&last.at, key, Fault::new(why).hint(hint));
}

/// Whether every server that is written could be read.
pub(super) fn is_whole(keys: &UpstreamKeys, servers: &[UpstreamServer]) -> bool {
    let plain = keys.servers.value().map_or(0, Vec::len);
    let has_all = keys.servers != Field::Faulty && plain + keys.server.len() == servers.len();
    has_all && keys.servers_file.given().is_none()
}

/// The first server of a scheme, as it is written.
pub(super) fn server_of(
    keys: &UpstreamKeys,
    servers: &[UpstreamServer],
    scheme: Scheme,
) -> Option<Located<String>> {
    servers.iter().find(|server| server.scheme == scheme)?;
    let has_scheme = |text: &Located<String>| {
        UpstreamServer::parse(&text.value).is_ok_and(|server| server.scheme == scheme)
    };
    let plain = keys.servers.value().into_iter().flatten().cloned();
    let tables =
        keys.server.iter().filter_map(|table| UpstreamServerKeys::settle(table).url.given().cloned());
    plain.chain(tables).find(has_scheme)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Raw};

    fn check(top: &str, upstream: &str) -> Result<Config, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]{top}\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\n{upstream}"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        Config::check(&raw).map_err(|errors| errors.to_string())
    }

    #[test]
    fn servers_of_both_lists_make_up_the_group() {
        let config = check(
            "\nzone = \"b\"",
            "servers = [\"http://a\"]\n[[upstream.server]]\nurl = \"http://b\"\nweight = 3\nzone = \"b\"\n\
             [[upstream.server]]\nurl = \"http://c\"\nbackup = true\n",
        )
        .unwrap();
        let seen: Vec<_> = config.upstreams[0]
            .servers
            .iter()
            .map(|server| (&*server.authority, server.weight, server.is_backup, server.is_near))
            .collect();
        // Those without a zone are in another one than ours.
        assert_eq!(seen, [("a", 1, false, false), ("b", 3, false, true), ("c", 1, true, false)]);
        let inline = check("", "server = [{ url = \"h2c://a\", weight = 2 }]").unwrap();
        assert_eq!(inline.upstreams[0].servers[0].weight, 2);
        assert_eq!(inline.upstreams[0].protocol, crate::config::UpstreamProtocol::H2);
    }

    #[test]
    fn a_server_may_have_more_connections_or_fewer_than_the_others() {
        let limits = |upstream: &str| {
            let config = check("", upstream).unwrap();
            let group = &config.upstreams[0];
            let of_servers: Vec<u32> =
                group.servers.iter().map(|server| group.connections_max(server)).collect();
            (of_servers, group.limits_connections())
        };
        let two = "servers = [\"http://a\"]\nserver = [{ url = \"http://b\"";
        assert_eq!(limits(&format!("{two} }}]")), (vec![0, 0], false));
        assert_eq!(limits(&format!("{two}, connections = 5 }}]")), (vec![0, 5], true));
        assert_eq!(limits(&format!("{two}, connections = 0 }}]")), (vec![0, 0], false));
        let limited = format!("limits.upstream_connections = 9\n{two}, connections");
        assert_eq!(limits(&format!("{limited} = 5 }}]")), (vec![9, 5], true));
        assert_eq!(limits(&format!("{limited} = 0 }}]")), (vec![9, 0], true));
    }

    #[test]
    fn each_mistake_is_one_error_at_its_place() {
        for (upstream, wanted) in [
            (
                "servers = [\"http://a\"]\nserver = [{ url = \"http://a\" }]",
                "f.toml:7:19: upstream.server.url: `a` is there twice (hint: for a larger share write it once: \
                 [[upstream.server]] with url = \"http://a\" and weight = 2)",
            ),
            ("server = [{ weight = 2 }]", "f.toml:6:11: upstream.server.url: a server needs a url"),
            (
                "server = [{ url = \"a:80\" }]",
                "f.toml:6:19: upstream.server.url: `a:80`: the scheme is missing",
            ),
            (
                "server = [{ url = \"http://a\", weight = 1001 }]",
                "upstream.server.weight: 1001 is too large (hint: at most 1000)",
            ),
            (
                "server = [{ url = \"http://a\", connections = 1000001 }]",
                "upstream.server.connections: 1000001 is too large (hint: at most 1000000)",
            ),
            (
                "server = [{ url = \"http://a\", weight = 0 }]",
                "f.toml:6:11: upstream.server.weight: every server has weight 0",
            ),
            (
                "server = [{ url = \"http://a\", weight = 0 }, { url = \"http://b\", backup = true }]",
                "upstream.server.backup: every server is a backup or has weight 0 (hint: one has to be neither)",
            ),
            ("servers = []", "f.toml:6:11: upstream.servers: an upstream needs at least one server"),
            (
                "servers = [\"http://a\"]\nweight = 2",
                "upstream.weight: unknown key (hint: `weight` belongs in [[upstream.server]])",
            ),
            (
                "server = \"http://a\"",
                "expected a list of tables, found a string (hint: write servers = [\"http://a\"], or server = [{ url",
            ),
            (
                "server = { url = \"http://a\" }",
                "expected a list of tables, found one table (hint: write [[upstream.server]]",
            ),
        ] {
            let errors = check("", upstream).unwrap_err();
            assert!(errors.lines().count() == 1 && errors.contains(wanted), "{upstream}: {errors}");
        }
    }

    #[test]
    fn a_zone_means_nothing_without_one_of_our_own() {
        let config = check("", "server = [{ url = \"http://a\", zone = \"b\" }]").unwrap();
        assert!(config.upstreams[0].servers[0].is_near);
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("add zone = \"...\" at the top"), "{warnings:?}");
    }
}
