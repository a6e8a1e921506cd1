//! The part of `GET /metrics` that has labels of the configuration: servers, groups and routes. The numbers of all shards are added up
//! here, on the thread that answers; no shard is asked.

use std::fmt::Write as _;

use super::metrics::label;
use crate::traffic::{BOUNDS_MS, total};
use crate::upstream::board::{ServerBoard, ServerEntry, ServerNumbers};

/// A series by server: its name, its type, its help, and its value.
type ByServer = (&'static str, &'static str, &'static str, fn(&ServerEntry) -> u64);

const BY_SERVER: &[ByServer] = &[
    ("up", "gauge", "0 while health checks hold the server down, else 1.", |server| {
        u64::from(!server.health.is_down())
    }),
    ("ejected", "gauge", "1 while the server is ejected, else 0.", |server| u64::from(server.is_ejected())),
    ("active_requests", "gauge", "Requests and tunnels that are with the server.", |server| {
        sum(server, |numbers| numbers.active.value())
    }),
    (
        "failures_total",
        "counter",
        "Attempts without a response, or with a status that counts as a failure.",
        |server| sum(server, |numbers| numbers.failures.value()),
    ),
    ("ejections_total", "counter", "How often the server was ejected.", |server| {
        sum(server, |numbers| numbers.ejections.value())
    }),
    ("retries_total", "counter", "Requests that the server had and that were sent again.", |server| {
        sum(server, |numbers| numbers.retries.value())
    }),
    ("connects_total", "counter", "Connections made to the server.", |server| {
        sum(server, |numbers| numbers.connects.value())
    }),
    ("connect_errors_total", "counter", "Connections to the server that could not be made.", |server| {
        sum(server, |numbers| numbers.connect_errors.value())
    }),
];

fn sum(server: &ServerEntry, value: fn(&ServerNumbers) -> u64) -> u64 {
    server.numbers().map(value).sum()
}

/// All series with labels of the configuration.
pub(super) fn text(board: &ServerBoard) -> String {
    let mut text = String::new();
    servers(&mut text, board);
    groups(&mut text, board);
    routes(&mut text, board);
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn servers(text: &mut String, board: &ServerBoard) {
    let mut all = Vec::new();
    board.for_each_entry(|entry| {
        let (upstream, url) = entry.name();
        all.push((format!("upstream=\"{}\",server=\"{}\"", label(upstream), label(url)), entry.clone()));
    });
    for (name, kind, help, value) in BY_SERVER {
        let name = format!("sluice_upstream_server_{name}");
        head(text, &name, kind, help);
        for (labels, server) in &all {
            let _ = writeln!(text, "{name}{{{labels}}} {}", value(server));
        }
    }
    let name = "sluice_upstream_server_responses_total";
    head(text, name, "counter", "Responses of the server by the class of their status.");
    for (labels, server) in &all {
        let classes = total(server.numbers().map(|numbers| numbers.responses.values()));
        // It has sent none of the class `none`.
        for (class, count) in &classes[1..] {
            let _ = writeln!(text, "{name}{{{labels},class=\"{class}\"}} {count}");
        }
    }
    let name = "sluice_upstream_server_response_seconds";
    head(text, name, "histogram", "From the sending of a request to the head of its response.");
    for (labels, server) in &all {
        histogram(text, name, labels, server);
    }
}

fn histogram(text: &mut String, name: &str, labels: &str, server: &ServerEntry) {
    let (mut counts, mut sum_ms) = ([0; BOUNDS_MS.len() + 1], 0);
    for (of_shard, ms) in server.numbers().map(|numbers| numbers.times.values()) {
        counts.iter_mut().zip(of_shard).for_each(|(sum, count)| *sum += count);
        sum_ms += ms;
    }
    let mut within = 0;
    for (count, bound) in counts.iter().zip(BOUNDS_MS) {
        within += count;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{}\"}} {within}", f64::from(bound) / 1e3);
    }
    within += counts[BOUNDS_MS.len()];
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {within}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}", sum_ms as f64 / 1e3);
    let _ = writeln!(text, "{name}_count{{{labels}}} {within}");
}

fn groups(text: &mut String, board: &ServerBoard) {
    let mut all = Vec::new();
    board.traffic.for_each_group(|name, shards| {
        let classes = total(shards.iter().map(|shard| shard.responses.values()));
        let refused: u64 = shards.iter().map(|shard| shard.refused.value()).sum();
        let opened: u64 = shards.iter().map(|shard| shard.opened.value()).sum();
        all.push((format!("upstream=\"{}\"", label(name)), classes, refused, opened));
    });
    let name = "sluice_upstream_responses_total";
    head(text, name, "counter", "Requests to the upstream by the class of the response that the client got.");
    for (labels, classes, ..) in &all {
        for (class, count) in classes {
            let _ = writeln!(text, "{name}{{{labels},class=\"{class}\"}} {count}");
        }
    }
    let name = "sluice_upstream_breaker_refusals_total";
    head(text, name, "counter", "Requests that the breaker of the upstream has refused.");
    for (labels, _, refused, _) in &all {
        let _ = writeln!(text, "{name}{{{labels}}} {refused}");
    }
    let name = "sluice_upstream_breaker_opened_total";
    head(text, name, "counter", "How often the breaker of the upstream has opened, on any shard.");
    for (labels, _, _, opened) in &all {
        let _ = writeln!(text, "{name}{{{labels}}} {opened}");
    }
}

fn routes(text: &mut String, board: &ServerBoard) {
    let name = "sluice_route_responses_total";
    head(text, name, "counter", "Requests of the route by the class of the response that the client got.");
    board.traffic.for_each_route(|(number, host, path), classes| {
        for (class, count) in classes {
            let _ = writeln!(
                text,
                "{name}{{route=\"{number}\",host=\"{}\",path=\"{}\",class=\"{class}\"}} {count}",
                label(host),
                label(path)
            );
        }
    });
}
