//! Ejection: servers that hang, die, fail and flap, while clients send requests; when they lose their turn, and when they get it back.

use std::time::Duration;

use sluice_tests::{
    eventually,
    processes::{Load, ServerProcess, by_server, errors},
    proxy::Proxy,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_server");

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(3);

/// Names of servers.
const NAMES: [&str; 3] = ["one", "two", "three"];

async fn servers(count: usize) -> Vec<ServerProcess> {
    let mut servers = Vec::new();
    for name in &NAMES[..count] {
        servers.push(ServerProcess::start(PROGRAM, name).await);
    }
    servers
}

/// A proxy in front of them, with these keys of their upstream.
async fn proxy(shards: usize, servers: &[ServerProcess], keys: &str) -> Proxy {
    let urls: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.url())).collect();
    let tables = format!(
        "steering = \"off\"\n[[route]]\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\nservers = [{}]\n{keys}\n",
        urls.join(", ")
    );
    Proxy::configured(shards, &tables).await
}

/// Waits until clients have got so many more responses.
async fn more(load: &Load, count: usize) {
    let wanted = load.count() + count;
    eventually("more responses", async || load.count() >= wanted).await;
}

/// The default settings: one of two hangs, and no request that may be sent again gets an error, neither in the first seconds nor by
/// the trials after them.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_of_two_hangs_no_request_fails() {
    for shards in [1, 2] {
        let servers = servers(2).await;
        let proxy = proxy(shards, &servers, "").await;
        let load = Load::start(proxy.address, 8, "GET /", PAUSE);
        more(&load, 200).await;
        assert_eq!(by_server(&load.so_far()).len(), 2, "both have answered");
        servers[1].hang();
        let line = proxy.line(&format!("upstream app: {} is ejected for 10s: ", servers[1].url())).await;
        assert!(line.contains("began no response") && line.ends_with("; 1 of 2 servers out"), "{line}");
        // Nothing is lost with these either, since they are no trials.
        let posts = Load::start(proxy.address, 2, "POST /", PAUSE);
        proxy.line(&format!("upstream app: {} is ejected for 20s: ", servers[1].url())).await;
        more(&load, 200).await;
        let (outcomes, posted) = (load.stop().await, posts.stop().await);
        assert!(errors(&outcomes).is_empty(), "{shards} shards: {:?}", errors(&outcomes));
        assert!(errors(&posted).is_empty(), "{shards} shards: {:?}", errors(&posted));
        assert!(posted.len() > 100, "{}", posted.len());
        servers[1].go_on();
        proxy.drain().await;
    }
}

/// It goes on, and gets its part of the requests again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_on_is_back_after_a_trial() {
    for shards in [1, 2] {
        let servers = servers(2).await;
        let proxy = proxy(shards, &servers, "ejection = { time = \"500ms\", silence = \"200ms\" }").await;
        let load = Load::start(proxy.address, 8, "GET /", PAUSE);
        more(&load, 100).await;
        servers[1].hang();
        proxy.line(&format!("upstream app: {} is ejected for 500ms", servers[1].url())).await;
        servers[1].go_on();
        proxy.line(&format!("upstream app: {} is back: ", servers[1].url())).await;
        // Every shard has learnt it.
        eventually("both answer on every shard", async || {
            let before = load.count();
            more(&load, 100).await;
            let last = by_server(&load.so_far()[before..]);
            last.values().all(|count| *count >= 30) && last.len() == 2
        })
        .await;
        let outcomes = load.stop().await;
        assert!(errors(&outcomes).is_empty(), "{:?}", errors(&outcomes));
        proxy.drain().await.assert_clean();
    }
}
