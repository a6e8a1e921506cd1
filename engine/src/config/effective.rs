//! What a configuration comes to: every key with its value and the place that the value came from.

use std::fmt::Write as _;

use sluice_proto::path::SlashLike;

use super::choices::Choice;
use super::key::{Key, Kind};
use super::raw::Raw;
use super::table::{RouteKeys, Top, UpstreamKeys};
use super::values::{Field, Value, Values};

/// The column at which origins begin, where values leave room for it.
const ORIGIN_COLUMN: usize = 44;

/// The whole configuration as a TOML file, each line with the origin of its value.
pub fn effective(raw: &Raw) -> String {
    let top = Top::settle(&raw.top);
    let mut out = String::new();
    write_keys(&mut out, &raw.top);
    for (name, table) in [
        ("timeouts", &top.timeouts),
        ("limits", &top.limits),
        ("paths", &top.paths),
        ("forwarding", &top.forwarding),
        ("http2", &top.http2),
        ("retry", &top.retry),
        ("tls", &top.tls),
    ]
    .into_iter()
    .chain(top.request_headers.value().map(|table| ("request_headers", table)))
    .chain(top.response_headers.value().map(|table| ("response_headers", table)))
    .chain(top.acme.value().map(|acme| ("acme", acme)))
    {
        let _ = write!(out, "\n[{name}]\n");
        write_keys(&mut out, table);
    }
    for pages in top.error_pages.iter() {
        write_table(&mut out, "error_pages", pages, &[]);
    }
    for certificate in top.certificate.iter() {
        write_table(&mut out, "certificate", certificate, &[]);
    }
    for listener in top.listener.iter() {
        write_table(&mut out, "listener", listener, &[]);
    }
    for upstream in top.upstream.iter() {
        let keys = UpstreamKeys::settle(upstream);
        let mut tables = vec![
            ("timeouts", Values::scoped(&keys.timeouts, &top.timeouts)),
            ("limits", Values::scoped(&keys.limits, &top.limits)),
            ("retry", Values::scoped(&keys.retry, &top.retry)),
        ];
        tables.extend(keys.resolve.value().map(|resolve| ("resolve", resolve.clone())));
        // Defaults too would be an error where no server has TLS.
        tables.extend(keys.tls.value().map(|tls| ("tls", tls.clone())));
        // Its presence turns checks on.
        tables.extend(keys.health.value().map(|health| ("health", health.clone())));
        tables.extend(keys.sticky.value().map(|sticky| ("sticky", sticky.clone())));
        write_table(&mut out, "upstream", upstream, &tables);
        for server in keys.server.iter() {
            write_table(&mut out, "upstream.server", server, &[]);
        }
    }
    for route in top.route.iter() {
        write_route(&mut out, &top, route);
    }
    out
}

/// The same for one route, by its number in the order of the file, from 0.
pub fn explain(raw: &Raw, number: usize) -> Option<String> {
    let top = Top::settle(&raw.top);
    let mut out = String::new();
    write_route(&mut out, &top, top.route.get(number)?);
    Some(out.trim_start().to_owned())
}

fn write_route(out: &mut String, top: &Top, route: &Values) {
    let keys = RouteKeys::settle(route);
    let upstream = top.upstream.iter().map(UpstreamKeys::settle).find(|upstream| {
        let name = |field: &Field<String>| field.given().map(|given| given.value.clone());
        name(&upstream.name).is_some() && name(&upstream.name) == name(&keys.upstream)
    });
    let upstream = upstream.unwrap_or_default();
    let mut tables = vec![
        ("timeouts", Values::scoped(&keys.timeouts, &Values::scoped(&upstream.timeouts, &top.timeouts))),
        ("limits", Values::scoped(&keys.limits, &Values::scoped(&upstream.limits, &top.limits))),
        ("paths", Values::scoped(&keys.paths, &top.paths)),
        ("retry", Values::scoped(&keys.retry, &Values::scoped(&upstream.retry, &top.retry))),
    ];
    // Defaults too would be a warning where nothing is written.
    tables.extend(keys.websocket.value().map(|websocket| ("websocket", websocket.clone())));
    tables.extend(keys.mirror.value().map(|mirror| ("mirror", mirror.clone())));
    tables.extend(keys.respond.value().map(|respond| ("respond", respond.clone())));
    tables.extend(keys.request_headers.value().map(|changes| ("request_headers", changes.clone())));
    tables.extend(keys.response_headers.value().map(|changes| ("response_headers", changes.clone())));
    write_table(out, "route", route, &tables);
    for pages in keys.error_pages.iter() {
        write_table(out, "route.error_pages", pages, &[]);
    }
}

/// One table of a list, and those in it.
fn write_table(out: &mut String, name: &str, values: &Values, tables: &[(&str, Values)]) {
    let _ = write!(out, "\n[[{name}]]");
    let _ =
        writeln!(out, "{}# {}", " ".repeat(ORIGIN_COLUMN.saturating_sub(name.len() + 4).max(1)), values.at);
    write_keys(out, values);
    let scope = values.section().scope();
    for (inner, table) in tables {
        for (key, field) in
            table.iter().filter(|(key, field)| key.scopes.has(scope) && !is_global(key, field))
        {
            write_key(out, &format!("{inner}.{}", key.name), key, field);
        }
    }
}

/// Whether a value is one that no table of a list may have for itself: which route it is depends on how slashes are read.
fn is_global(key: &Key, field: &Field<Value>) -> bool {
    key.name == "encoded_slash"
        && field.given().is_some_and(|given| given.value == Value::Text(SlashLike::Slash.word().to_owned()))
}

fn write_keys(out: &mut String, values: &Values) {
    // `cpus` stands for a placement: beside it there is none, not that of the default.
    let has_cpus = values.section().name.is_empty() && values.field("cpus").given().is_some();
    for (key, field) in values.iter().filter(|(key, _)| !(has_cpus && key.name == "placement")) {
        write_key(out, key.name, key, field);
    }
}

fn write_key(out: &mut String, name: &str, key: &Key, field: &Field<Value>) {
    // What was included is here already.
    let is_elsewhere = match &key.kind {
        Kind::Table(_) => true,
        Kind::Tables(section) => !section.is_nested(),
        _ => key.name == "include",
    };
    if is_elsewhere {
        return;
    }
    let (value, origin) = match field.given() {
        Some(given) => (given.value.show(&key.kind), given.at.to_string()),
        None if key.default.is_empty() => return,
        None => (Value::default_of(key).show(&key.kind), "default".to_owned()),
    };
    let line = format!("{name} = {value}");
    let _ = writeln!(out, "{line:ORIGIN_COLUMN$}  # {origin}");
}
