//! What a route lookup costs, and that it does not depend on the number of routes.
//!
//! `cargo bench -p sluice --bench route`. The bar: 10,000 routes within twice the time of 10. Both tables are
//! made of the same mix (exact hosts, host suffixes, parameters, prefixes, methods), and both are asked for all
//! their routes in a random order, so that the large table pays for its cache misses.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice::config::{Config, Raw};
use sluice::route::{Lookup, RouteTable};

/// Requests in one round; the same for every table, so that the requests themselves cost the same.
const REQUESTS: usize = 4096;

struct Request {
    host: String,
    path: String,
    method: &'static str,
}

/// The text of route `i`, and a request that it answers.
fn route(i: usize) -> (String, Request) {
    let service = i / 20;
    let request = |host: &str, path: String, method| Request { host: host.to_owned(), path, method };
    match i % 5 {
        0 => (
            format!("host = \"s{service}.example.com\"\npath = \"/v1/items{i}/{{id}}\""),
            request(&format!("s{service}.example.com:8080"), format!("/v1/items{i}/4711"), "GET"),
        ),
        1 => (
            format!("host = \"*.t{service}.example.org\"\npath_prefix = \"/app{i}\""),
            request(&format!("www.t{service}.example.org"), format!("/app{i}/static/site.css"), "GET"),
        ),
        2 => (
            format!("path = \"/api/v2/users/{{user}}/things{i}\"\nmethods = [\"GET\", \"POST\"]"),
            request("api.example.net", format!("/api/v2/users/alice/things{i}"), "POST"),
        ),
        3 => (
            format!("path = \"/files{i}/{{*rest}}\""),
            request("files.example.net", format!("/files{i}/2026/09/report.pdf"), "GET"),
        ),
        _ => (
            format!("host = \"s{service}.example.com\"\npath = \"/v1/health/check{i}\""),
            request(&format!("s{service}.example.com"), format!("/v1/health/check{i}"), "GET"),
        ),
    }
}

fn table_of(routes: impl Iterator<Item = String>) -> RouteTable {
    let mut text = "listen = [\"127.0.0.1:0\"]\n[[upstream]]\nname = \"app\"\n".to_owned();
    text.push_str("servers = [\"http://127.0.0.1:9000\"]\n");
    for route in routes {
        let _ = write!(text, "[[route]]\nupstream = \"app\"\n{route}\n");
    }
    let raw = Raw::parse(Path::new("bench.toml"), text).expect("the text is TOML");
    RouteTable::build(&Config::check(&raw).expect("the routes are in order"))
}

/// Numbers below `n` in an order that no predictor learns, without a dependency on a random generator.
fn shuffled(n: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % n
    })
}

fn run(table: &RouteTable, requests: &[Request]) {
    for request in requests {
        let found = table.lookup(black_box(&request.host), black_box(&request.path), request.method);
        assert!(matches!(black_box(found), Lookup::Found(_)));
    }
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    for routes in [10, 100, 1_000, 10_000] {
        let table = table_of((0..routes).map(|i| route(i).0));
        let requests: Vec<_> = shuffled(routes).take(REQUESTS).map(|i| route(i).1).collect();
        for request in &requests {
            let found = table.lookup(&request.host, &request.path, request.method);
            assert!(matches!(found, Lookup::Found(_)), "{} {}", request.host, request.path);
        }
        group.bench_function(BenchmarkId::new("mixed", routes), |b| b.iter(|| run(&table, &requests)));
    }
    let table = table_of(std::iter::once(String::new()));
    let requests: Vec<_> = shuffled(1_000).take(REQUESTS).map(|i| route(i).1).collect();
    group.bench_function("catch-all", |b| b.iter(|| run(&table, &requests)));
    group.finish();
}

criterion_group!(benches, lookups);
criterion_main!(benches);
