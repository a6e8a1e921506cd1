//! `GET /metrics`, as a monitoring system asks for it, and as others do.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use sluice_tests::{
    client::{self, Raw},
    origin,
    proxy::{self, Proxy},
};

/// A proxy that tells metrics, and where.
async fn with_metrics(origin: SocketAddr) -> (Proxy, SocketAddr) {
    let proxy = Proxy::to_with(origin, &["--metrics", "127.0.0.1:0"]).await;
    let line = proxy.line("metrics on http://").await;
    let address = line.trim_end_matches("/metrics");
    let address = address.parse().unwrap();
    (proxy, address)
}

/// The value of a line of the text format.
fn value(text: &str, series: &str) -> Option<u64> {
    let (_, number) =
        text.lines().filter_map(|line| line.rsplit_once(' ')).find(|(name, _)| *name == series)?;
    number.parse().ok()
}

#[tokio::test]
async fn metrics_are_the_counters_and_pages_of_every_shard() {
    let origin = origin::real("real").await;
    let (proxy, metrics) = with_metrics(origin.address).await;
    for _ in 0..7 {
        assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    }
    let held = Raw::connect(proxy.address).await;
    let answer = client::reqwest().get(format!("http://{metrics}/metrics")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    let text = answer.text().await.unwrap();
    assert_eq!(value(&text, "sluice_requests_total{shard=\"0\"}"), Some(7), "{text}");
    assert_eq!(value(&text, "sluice_connections{shard=\"0\"}"), Some(1), "{text}");
    assert!(text.contains("# TYPE sluice_requests_total counter\n"));
    assert!(text.contains("# TYPE sluice_connections gauge\n"));
    assert!(text.lines().any(|line| line.starts_with("sluice_shard_info{shard=\"0\",cpu=")), "{text}");
    let age = text.lines().find_map(|line| line.strip_prefix("sluice_counters_age_seconds{shard=\"0\"} "));
    assert!(age.is_some_and(|age| age.parse::<f64>().unwrap() < 5.0), "{text}");
    let live = &proxy.live().await[0];
    if live.get("pages_error").is_none() {
        let pages = value(&text, "sluice_memory_pages{shard=\"0\",part=\"receive buffers\",node=\"local\"}");
        assert!(pages > Some(0), "{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(series.starts_with("sluice_") && series.ends_with('}'), "{line}");
        assert!(number.parse::<f64>().is_ok(), "{line}");
    }
    assert_each_once(&text);
    drop(held);
    proxy.drain().await.assert_clean();
}

/// A second family or series of one name is an error to Prometheus.
fn assert_each_once(text: &str) {
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let key = match line.strip_prefix("# ") {
            Some(about) => about.split(' ').take(2).collect::<Vec<_>>().join(" "),
            None => line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned(),
        };
        assert!(seen.insert(key), "{line} is there twice");
    }
}

#[tokio::test]
async fn other_requests_are_refused_with_a_reason() {
    let origin = origin::real("real").await;
    let (proxy, metrics) = with_metrics(origin.address).await;
    for (request, status) in [
        ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200),
        ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
        ("GET /metrics HTTP/1.1\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\r\n\r\n", 400),
    ] {
        let mut visitor = Raw::connect(metrics).await;
        visitor.send(request).await;
        let method = request.split(' ').next().unwrap();
        assert_eq!(visitor.answer_to(method).await.status(), status, "{request}");
        visitor.assert_closed().await;
    }
    // A silent one delays no other for long.
    let silent = Raw::connect(metrics).await;
    let answer = client::get(metrics, "/metrics").await;
    assert_eq!(answer.status(), 200);
    drop(silent);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn an_address_that_is_taken_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let upstream = ["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"];
    let finished = proxy::run(&[&upstream[..], &["--metrics", &address]].concat()).await;
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(
        finished.stderr.contains(&format!("cannot listen for metrics on {address}")),
        "{}",
        finished.stderr
    );
    let finished = proxy::run(&[&upstream[..], &["--metrics", "9145"]].concat()).await;
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("metrics: `9145` is not an address and a port"), "{}", finished.stderr);
}
