//! What a route lookup costs, and that it does not depend on the number of routes.
//!
//! `cargo bench -p sluice --bench route`. The bars: 10,000 routes within twice the time of 10; at most 200 ns at 50,000 routes with four
//! conditions each; 50,000 routes built in 250 ms. All tables are made of the same mix (exact hosts, host suffixes, parameters,
//! prefixes, methods), and are asked for all their routes in a random order, so that the large ones pay for their cache misses.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice::config::{Config, Raw};
use sluice::route::{Asked, Lookup, Matchers, RouteTable};
use sluice_proto::h1::{HeadStore, Parsed, parse_request};
use sluice_proto::{HeadLimits, RequestHead};

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
    RouteTable::build(&config_of(routes))
}

fn config_of(routes: impl Iterator<Item = String>) -> Config {
    Config::check(&raw_of(routes)).expect("the routes are in order")
}

fn raw_of(routes: impl Iterator<Item = String>) -> Raw {
    let mut text = "listen = [\"127.0.0.1:0\"]\n[[upstream]]\nname = \"app\"\n".to_owned();
    text.push_str("servers = [\"http://127.0.0.1:9000\"]\n");
    for route in routes {
        let _ = write!(text, "[[route]]\nupstream = \"app\"\n{route}\n");
    }
    Raw::parse(Path::new("bench.toml"), text).expect("the text is TOML")
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

/// Four conditions that hold for [`HEAD`] and are no other route's: those would be kept once.
fn conditions(i: usize) -> String {
    let network = format!("172.{}.{}.0/24", 16 + i / 256 % 16, i % 256);
    format!(
        "when = [\"header x-version = 2\", \"not cookie opt-out-{i}\", \"query v = 1\", \"client 10.0.0.0/8 {network}\"]\n"
    )
}

/// What a browser sends, with two fields of its own. One for all requests: a head that was just read is in the nearest cache.
const HEAD: &str = "GET /x?page=1&v=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)\r\n\
    Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip, br\r\nX-Version: 2\r\n\
    Cookie: theme=dark; user=u1\r\nReferer: https://a.example/x\r\n\r\n";

/// The same for each of these requests.
fn asked<'r>(requests: &'r [Request], head: &RequestHead<'r>) -> Vec<Asked<'r>> {
    let of = |request: &'r Request| Asked {
        host: &request.host,
        path: &request.path,
        method: request.method,
        target: head.path_and_query,
        fields: head.field_list(),
        client: Ipv4Addr::new(10, 0, 0, 7).into(),
    };
    requests.iter().map(of).collect()
}

fn run((table, matchers): (&RouteTable, &Matchers), requests: &[Asked<'_>]) {
    for request in requests {
        let found = table.lookup(black_box(request), matchers);
        assert!(matches!(black_box(found), Lookup::Found(_)));
    }
}

fn lookups(criterion: &mut Criterion) {
    let mut store = HeadStore::default();
    let Ok(Parsed::Complete { head, .. }) =
        parse_request(HEAD.as_bytes(), &mut store, &HeadLimits::default())
    else {
        panic!("it is a head")
    };
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    let mut measure = |name: BenchmarkId, table: &RouteTable, routes: usize| {
        let requests: Vec<_> = shuffled(routes).take(REQUESTS).map(|i| route(i).1).collect();
        let (asked, matchers) = (asked(&requests, &head), table.matchers());
        run((table, &matchers), &asked);
        group.bench_function(name, |b| b.iter(|| run((table, &matchers), &asked)));
    };
    for routes in [10, 1_000, 10_000, 50_000] {
        let plain = table_of((0..routes).map(|i| route(i).0));
        measure(BenchmarkId::new("mixed", routes), &plain, routes);
        let conditional = table_of((0..routes).map(|i| conditions(i) + &route(i).0));
        measure(BenchmarkId::new("four-conditions", routes), &conditional, routes);
    }
    measure(BenchmarkId::from_parameter("catch-all"), &table_of(std::iter::once(String::new())), 1_000);
    group.finish();
}

fn builds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10);
    for routes in [5_000, 50_000] {
        let config = config_of((0..routes).map(|i| conditions(i) + &route(i).0));
        let name = |what| BenchmarkId::new(what, routes);
        group.bench_function(name("table"), |b| b.iter(|| RouteTable::build(black_box(&config))));
        let raw = raw_of((0..routes).map(|i| conditions(i) + &route(i).0));
        group.bench_function(name("check"), |b| b.iter(|| Config::check(black_box(&raw))));
    }
    group.finish();
}

criterion_group!(benches, lookups, builds);
criterion_main!(benches);
