//! Ejection: servers that hang, die, fail and flap, while clients send requests; when they lose their turn, and when they get it back.

use std::{net::SocketAddr, time::Duration};

use sluice_tests::{
    client::{self, Raw},
    eventually,
    origin::{Origin, Peer},
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
        "steering = \"off\"\nmetrics = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\nservers = [{}]\n{keys}\n",
        urls.join(", ")
    );
    Proxy::configured(shards, &tables).await
}

/// Waits until clients have got so many more responses.
async fn more(load: &Load, count: usize) {
    let wanted = load.count() + count;
    eventually("more responses", async || load.count() >= wanted).await;
}

/// What `/metrics` has.
async fn metrics(proxy: &Proxy) -> String {
    let line = proxy.line("metrics on http://").await;
    let address: SocketAddr = line.trim_end_matches("/metrics").parse().unwrap();
    client::get(address, "/metrics").await.text()
}

/// The value of a series of a server, all of whose labels are `labels` behind those of the server.
fn of_server(metrics: &str, name: &str, server: &ServerProcess, labels: &str) -> u64 {
    let series =
        format!("sluice_upstream_server_{name}{{upstream=\"app\",server=\"{}\"{labels}}} ", server.url());
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
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

/// Requests that leave an ejected server all at once are retries too. Without a budget they stay.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_no_request_leaves_an_ejected_server() {
    let servers = servers(2).await;
    let keys = "retry = { budget = 0, budget_min = 0 }\nejection = { time = \"60s\" }";
    let proxy = proxy(1, &servers, keys).await;
    let load = Load::start(proxy.address, 8, "GET /", PAUSE);
    more(&load, 100).await;
    servers[1].hang();
    proxy.line(&format!("upstream app: {} is ejected for 1m: ", servers[1].url())).await;
    proxy.counters_until("they look again", |now| now.named("upstream_retry_budget_exhausted") >= 8).await;
    assert_eq!(proxy.counters().await.named("upstream_retries_timeout"), 0);
    // They were not lost for that.
    servers[1].go_on();
    let outcomes = load.stop().await;
    assert!(errors(&outcomes).is_empty(), "{:?}", errors(&outcomes));
    proxy.drain().await.assert_clean();
}

/// A queue that is full is a limit of the proxy, and says nothing about the servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_opens_no_breaker() {
    let slow = Origin::scripted(|mut peer: Peer| async move {
        loop {
            peer.request().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.answer("slow").await?;
        }
    })
    .await;
    let tables = format!(
        "[[route]]\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\nservers = [\"http://{}\"]\n\
         limits = {{ upstream_connections = 1, upstream_queue = 1 }}\n\
         breaker = {{ failure_percent = 50, window = 20, time = \"60s\" }}\n",
        slow.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let load = Load::start(proxy.address, 8, "GET /", PAUSE);
    // An open breaker would leave the queue empty.
    proxy.counters_until("many are refused", |now| now.named("upstream_queue_overflows") >= 200).await;
    load.stop().await;
    assert_eq!(proxy.counters().await.named("upstream_breaker_refused"), 0);
}

/// The same where another server gets each request after a while: none of them waits for long, and the silence counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_ejected_where_requests_are_hedged() {
    for shards in [1, 2] {
        let servers = servers(2).await;
        let keys = "retry = { hedge_after = \"150ms\", budget = 100 }\nejection = { time = \"60s\" }";
        let proxy = proxy(shards, &servers, keys).await;
        let load = Load::start(proxy.address, 8, "GET /", PAUSE);
        more(&load, 200).await;
        servers[1].hang();
        let line = proxy.line(&format!("upstream app: {} is ejected for 1m: ", servers[1].url())).await;
        assert!(line.contains("began no response"), "{line}");
        // Requests go to the other one, and pay nothing for that.
        eventually("no request is sent twice", async || {
            let before = proxy.counters().await.named("upstream_hedges");
            more(&load, 200).await;
            proxy.counters().await.named("upstream_hedges") == before
        })
        .await;
        let outcomes = load.stop().await;
        assert!(errors(&outcomes).is_empty(), "{shards} shards: {:?}", errors(&outcomes));
        servers[1].go_on();
        proxy.drain().await.assert_clean();
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

/// 10,000 requests, while one of three is killed and started again a few times: no client sees an error.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_of_three_is_killed_and_restarted_no_request_fails() {
    for shards in [1, 2] {
        let mut servers = servers(3).await;
        let proxy = proxy(shards, &servers, "ejection.time = \"200ms\"").await;
        let load = Load::start(proxy.address, 16, "GET /", Duration::ZERO);
        for _ in 0..3 {
            more(&load, 500).await;
            servers[1].kill().await;
            more(&load, 1_000).await;
            servers[1].restart().await;
        }
        eventually("10,000 requests", async || load.count() >= 10_000).await;
        let outcomes = load.stop().await;
        assert!(errors(&outcomes).is_empty(), "{shards} shards: {:?}", errors(&outcomes));
        assert_eq!(by_server(&outcomes).len(), 3);
        let text = metrics(&proxy).await;
        assert!(of_server(&text, "connect_errors_total", &servers[1], "") > 0, "{text}");
        proxy.drain().await.assert_clean();
    }
}

/// Statuses count where they are written: a server that answers them only is ejected, and never both.
#[tokio::test(flavor = "multi_thread")]
async fn not_all_servers_are_ejected_whatever_they_answer() {
    let servers = servers(2).await;
    let keys = "ejection = { statuses = \"502-504\", failures = 3, time = \"100ms\", percent_max = 100 }";
    let proxy = proxy(2, &servers, keys).await;
    let load = Load::start(proxy.address, 8, "GET /status/503", PAUSE);
    eventually("one is ejected several times", async || {
        let text = metrics(&proxy).await;
        let count = |server| of_server(&text, "ejections_total", server, "");
        let ejected = |server| of_server(&text, "ejected", server, "");
        assert!(ejected(&servers[0]) + ejected(&servers[1]) <= 1, "{text}");
        count(&servers[0]) + count(&servers[1]) >= 3
    })
    .await;
    let outcomes = load.stop().await;
    let all_of_servers = |error: &str| error.starts_with("503 ") && !error.contains("no server");
    let odd: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !matches!(&outcome.result, Err(error) if all_of_servers(error)))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    proxy.drain().await.assert_clean();
}

/// Where all servers hang, the cause is what they share: none is ejected, and all answer when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn where_all_are_silent_none_is_ejected() {
    let servers = servers(2).await;
    let proxy = proxy(1, &servers, "ejection = { silence = \"100ms\" }").await;
    let load = Load::start(proxy.address, 8, "GET /", PAUSE);
    more(&load, 100).await;
    servers.iter().for_each(ServerProcess::hang);
    tokio::time::sleep(Duration::from_secs(1)).await;
    servers.iter().for_each(ServerProcess::go_on);
    more(&load, 100).await;
    let outcomes = load.stop().await;
    assert!(errors(&outcomes).is_empty(), "{:?}", errors(&outcomes));
    let text = metrics(&proxy).await;
    let ejected = servers.iter().filter(|server| of_server(&text, "ejected", server, "") > 0).count();
    assert!(ejected <= 1, "{text}");
    proxy.drain().await.assert_clean();
}

/// Clients that stop in the middle of their requests, and leave. Servers that wait for the rest are not silent.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_half_a_request_have_no_server_ejected() {
    let servers = servers(2).await;
    let keys = "balance = \"hash\"\nhash_by = \"path\"\nejection = { failures = 2, silence = \"50ms\" }";
    let proxy = proxy(1, &servers, keys).await;
    assert_eq!(client::get(proxy.address, "/").await.status(), 200);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf").await;
        clients.push(client);
    }
    proxy.counters_until("all are under way", |now| now.tasks_busy >= 6).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(clients);
    proxy.counters_until("all have left", |now| now.tasks_busy == 0).await;
    let text = metrics(&proxy).await;
    let ejections: u64 = servers.iter().map(|server| of_server(&text, "ejections_total", server, "")).sum();
    assert_eq!(ejections, 0, "{text}");
    proxy.drain().await.assert_clean();
}

/// Its servers get copies of requests only, whose responses nothing is to have: they are signs of life all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gets_copies_only_is_back_after_a_trial() {
    let (app, mut shadows) = (servers(1).await, servers(2).await);
    let tables = format!(
        "[[route]]\nupstream = \"app\"\nmirror.upstream = \"shadow\"\n[[upstream]]\nname = \"app\"\nservers = [\"{}\"]\n\
         [[upstream]]\nname = \"shadow\"\nservers = [\"{}\", \"{}\"]\nejection = {{ failures = 1, time = \"200ms\" }}\n",
        app[0].url(),
        shadows[0].url(),
        shadows[1].url()
    );
    let proxy = Proxy::configured(1, &tables).await;
    let load = Load::start(proxy.address, 2, "GET /", PAUSE);
    more(&load, 20).await;
    shadows[1].kill().await;
    proxy.line(&format!("upstream shadow: {} is ejected for ", shadows[1].url())).await;
    shadows[1].restart().await;
    proxy.line(&format!("upstream shadow: {} is back: ", shadows[1].url())).await;
    assert!(errors(&load.stop().await).is_empty());
    proxy.drain().await.assert_clean();
}

/// A slow server among fast ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_many_times_slower_is_ejected() {
    let fast = servers(2).await;
    let slow = ServerProcess::start(PROGRAM, "slow:100").await;
    let all: Vec<ServerProcess> = fast.into_iter().chain([slow]).collect();
    let proxy = proxy(1, &all, "ejection.latency = 4").await;
    let load = Load::start(proxy.address, 8, "GET /", PAUSE);
    let line =
        proxy.line(&format!("upstream app: {} is ejected for 10s: responses take ", all[2].url())).await;
    assert!(line.contains(" ms on average, those of other servers "), "{line}");
    let outcomes = load.stop().await;
    assert!(errors(&outcomes).is_empty(), "{:?}", errors(&outcomes));
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_by_failures_and_closes_by_a_response() {
    let servers = servers(1).await;
    let keys = "breaker = { failure_percent = 50, window = 20, time = \"300ms\" }";
    let proxy = proxy(1, &servers, keys).await;
    for _ in 0..20 {
        assert_eq!(client::get(proxy.address, "/status/500").await.text(), "one");
    }
    proxy
        .line("upstream app: the breaker is open for 300ms: 20 of the last 20 requests on a shard failed")
        .await;
    let refused = client::get(proxy.address, "/").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("too many requests to these servers"), "{}", refused.text());
    eventually("it closes", async || client::get(proxy.address, "/").await.status() == 200).await;
    proxy.line("upstream app: the breaker is closed: ").await;
    assert_eq!(client::get(proxy.address, "/").await.status(), 200);
    let text = metrics(&proxy).await;
    assert!(text.contains("sluice_upstream_breaker_opened_total{upstream=\"app\"} 1\n"), "{text}");
    assert!(proxy.counters().await.named("upstream_breaker_refused") >= 1);
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_bounds_the_requests_under_way() {
    for shards in [1, 2] {
        let servers = servers(1).await;
        let proxy = proxy(shards, &servers, "breaker = { requests = 4 }").await;
        let waiting = Load::start(proxy.address, 12, "GET /after/2000", Duration::from_secs(60));
        // Two shards may each admit one at the same moment.
        let most = 4 + shards - 1;
        eventually("the others are refused", async || waiting.count() >= 12 - most).await;
        assert!(
            waiting
                .so_far()
                .iter()
                .all(|outcome| outcome.result.as_ref().is_err_and(|why| why.starts_with("503")))
        );
        let text = metrics(&proxy).await;
        let active = of_server(&text, "active_requests", &servers[0], "");
        assert!((4 - 1..=most as u64).contains(&active), "{active}");
        eventually("those are answered", async || waiting.count() == 12).await;
        assert_eq!(client::get(proxy.address, "/").await.status(), 200, "there is room again");
        drop(waiting);
        proxy.drain().await;
    }
}

/// The series of servers, groups and routes, after requests of each class.
#[tokio::test]
async fn metrics_have_servers_groups_and_routes() {
    let servers = servers(2).await;
    let proxy = proxy(1, &servers, "").await;
    for path in ["/", "/", "/status/404", "/status/404", "/status/503", "/status/503"] {
        client::get(proxy.address, path).await;
    }
    let text = metrics(&proxy).await;
    for server in &servers {
        for (class, count) in [("1xx", 0), ("2xx", 1), ("3xx", 0), ("4xx", 1), ("5xx", 1)] {
            let labels = format!(",class=\"{class}\"");
            assert_eq!(of_server(&text, "responses_total", server, &labels), count, "{class} {text}");
        }
        assert_eq!(of_server(&text, "response_seconds_count", server, ""), 3);
        assert_eq!(of_server(&text, "response_seconds_bucket", server, ",le=\"+Inf\""), 3);
        assert!(of_server(&text, "connects_total", server, "") >= 1);
        assert_eq!(of_server(&text, "up", server, ""), 1);
        assert_eq!(of_server(&text, "active_requests", server, ""), 0);
    }
    for series in [
        "sluice_upstream_responses_total{upstream=\"app\",class=\"4xx\"} 2",
        "sluice_route_responses_total{route=\"1\",host=\"any host\",path=\"any path\",class=\"5xx\"} 2",
        "sluice_route_responses_total{route=\"1\",host=\"any host\",path=\"any path\",class=\"none\"} 0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} is not in {text}");
    }
    // Each series has a help and a type, once.
    for name in ["upstream_server_responses_total", "upstream_responses_total", "route_responses_total"] {
        for what in ["HELP", "TYPE"] {
            let lines = text.lines().filter(|line| line.starts_with(&format!("# {what} sluice_{name} ")));
            assert_eq!(lines.count(), 1, "{what} {name}");
        }
    }
    proxy.drain().await.assert_clean();
}
