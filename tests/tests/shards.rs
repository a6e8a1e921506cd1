//! Where shards run, where their memory is, and which of them gets a connection.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_tests::{
    PATIENCE,
    client::{self, Raw},
    cpus::{connect_from, two_cpus, usable_cpus},
    many_connections, origin,
    proxy::{self, Proxy},
    shards_possible, skip,
};
use tokio::process::Command;

#[tokio::test]
async fn live_shows_where_every_shard_is_and_what_it_did() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    for _ in 0..5 {
        assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    }
    let shards = proxy.live().await;
    assert_eq!(shards.len(), 1);
    let shard = &shards[0];
    assert_eq!(shard["may_run_on"], shard["cpu"].to_string());
    assert_eq!(shard["runs_on"], shard["cpu"]);
    assert_eq!(shard["counters"]["requests"], 5);
    if shard.get("pages_error").is_none() {
        assert!(shard["pages_on_node"].as_u64() > Some(20), "{shard}");
        let nodes = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
        if nodes.trim() == "0" {
            assert_eq!(shard["pages_off_node"], 0, "{shard}");
        }
        let parts: Vec<_> = shard["memory"].as_array().unwrap().iter().map(|part| &part["what"]).collect();
        let heap = HEAP_IS_FOUND.then_some("heap");
        for part in ["ring", "receive buffers", "socket table", "stack"].into_iter().chain(heap) {
            assert!(parts.contains(&&Value::from(part)), "{part} in {parts:?}");
        }
    }
    let table = proxy::run(&["topology", "--live", &proxy.pid().to_string()]).await;
    let row = table.stdout.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!((row.first(), row.last()), (Some(&"0"), Some(&"5")), "{}", table.stdout);
    proxy.drain().await.assert_clean();
}

/// What a shard keeps for its clients is among its pages, however much that is. The C library's arena grows by 64 MiB at a time;
/// this is more.
#[tokio::test]
async fn pages_are_counted_wherever_the_heap_has_them() {
    if !HEAP_IS_FOUND {
        return skip("only GNU's C library has the heaps of a thread where others find them");
    }
    const BEGUN: usize = 60_000;
    let many = many_connections(1_200, 1).await;
    let origin = origin::real("real").await;
    let limits = ["--limit-head-bytes", "64KiB", "--limit-partial-heads-bytes", "1GiB"];
    let flags = [&limits[..], &["--timeout-request-head", "5m"]].concat();
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let (before, resident) = (pages(&proxy.live().await[0], ""), proxy.resident_bytes());
    let mut clients = Vec::new();
    for nth in 1..=many.count {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET / HTTP/1.1\r\nX-Begun: {}", "x".repeat(BEGUN))).await;
        clients.push(client);
        if nth % 200 == 0 || nth == many.count {
            proxy.counters_until("all have begun", |now| now.named("partial_heads") == nth as u64).await;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let live = loop {
        let live = proxy.live().await;
        if live[0].get("pages_error").is_some() {
            return skip("pages cannot be counted here: move_pages is refused");
        }
        let on_the_heap = pages(&live[0], "heap") * PAGE_BYTES;
        if on_the_heap > (many.count * BEGUN) as u64 {
            break live;
        }
        // A head has begun by its first bytes; all of them may come later.
        assert!(Instant::now() < deadline, "{on_the_heap}: {live:#?}");
    };
    // Nearly all that the process has is its one shard's.
    let (grown, resident) = ((pages(&live[0], "") - before) * PAGE_BYTES, proxy.resident_bytes() - resident);
    assert!(grown * 10 > resident * 9, "{grown} of {resident}: {live:#?}");
}

/// Shards that shared an arena would take memory from each other's nodes.
#[tokio::test]
async fn shards_have_heaps_of_their_own_whatever_the_environment_says() {
    let origin = origin::real("real").await;
    let mut command = Command::new(proxy::binary().await);
    let upstream = format!("http://{}", origin.address);
    let shards = usable_cpus().len().min(shards_possible()).to_string();
    command.args(["--listen", "127.0.0.1:0", "--shards", &shards, "--upstream", &upstream]);
    command.env("MALLOC_ARENA_MAX", "1");
    let proxy = Proxy::spawn(command, None).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    for shard in proxy.live().await {
        if HEAP_IS_FOUND && shard.get("pages_error").is_none() {
            assert!(pages(&shard, "heap") > 0, "{shard}");
        }
    }
    proxy.drain().await.assert_clean();
}

const PAGE_BYTES: u64 = 4096;

/// The binary has the C library that these tests have.
const HEAP_IS_FOUND: bool = cfg!(target_env = "gnu");

/// Pages of a part of a shard's memory (of all of it for ""), wherever they are.
fn pages(shard: &Value, what: &str) -> u64 {
    let sum = |part: &Value| -> u64 {
        ["pages_on_node", "pages_off_node", "pages_unknown"]
            .iter()
            .map(|key| part[*key].as_u64().unwrap())
            .sum()
    };
    if what.is_empty() {
        return sum(shard);
    }
    shard["memory"].as_array().unwrap().iter().find(|part| part["what"] == what).map_or(0, sum)
}

#[tokio::test]
async fn live_of_another_process_is_one_clear_line() {
    let asked = proxy::run(&["topology", "--live", &std::process::id().to_string()]).await;
    assert_eq!(asked.code, Some(1));
    assert_eq!(asked.stderr.lines().count(), 1, "{}", asked.stderr);
    assert!(asked.stderr.contains("hint: is it a sluice"), "{}", asked.stderr);
}

#[tokio::test]
async fn without_pinning_shards_may_run_anywhere() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--pinning", "off"]).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    assert_eq!(proxy.live().await[0]["may_run_on"], own);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn huge_pages_serve_or_are_refused_with_the_number_needed() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--huge-pages", "transparent"]).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    let modes = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let warned = proxy.stderr().iter().any(|line| line.contains("transparent huge pages are switched off"));
    assert_eq!(warned, !modes.contains("[always]") && !modes.contains("[madvise]"), "{:?}", proxy.stderr());
    proxy.drain().await.assert_clean();
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    if free.is_ok_and(|free| free.trim() == "0") {
        let upstream = format!("http://{}", origin.address);
        let fixed = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream];
        let refused = proxy::run(&[&fixed[..], &["--huge-pages", "reserved"]].concat()).await;
        assert_eq!(refused.code, Some(78));
        assert!(refused.stderr.contains("set 130 of 2048 KiB aside"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn busy_poll_says_what_it_costs_or_that_the_kernel_lacks_it() {
    let origin = origin::real("real").await;
    let upstream = format!("http://{}", origin.address);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
    let flags = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream, "--busy-poll", "50us"];
    if version < (6, 9) {
        let refused = proxy::run(&flags).await;
        assert_eq!(refused.code, Some(78));
        assert!(refused.stderr.contains("6.9 or newer"), "{}", refused.stderr);
        return;
    }
    let mut older = Command::new(env!("CARGO_BIN_EXE_without"));
    let refused = proxy::finish({
        older.arg("napi").arg(proxy::binary().await).args(flags);
        older
    })
    .await;
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    let last = refused.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("cannot poll network queues") && last.contains("6.9 or newer"), "{last}");
    let proxy = Proxy::start(&flags).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    let cost = proxy.line("busy poll: ").await;
    assert!(cost.contains("up to 50 us") && cost.contains("5.0 % of a core"), "{cost}");
    proxy.drain().await.assert_clean();
}

/// Eight connections of unequal load, all received on one CPU: after a while the busier shard has no more than a quarter more to do
/// than the mean. Where connections stay where they were received, it has twice as much forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_is_shared_out_by_moving_connections() {
    let Some(cpus) = two_cpus() else { return };
    let list = format!("{},{}", cpus[0], cpus[1]);
    let origin = origin::answers(origin::ok("x")).await;
    let upstream = format!("http://{}", origin.address);
    for steering in ["cpu", "load"] {
        let fixed = ["--listen", "127.0.0.1:0", "--limit-requests-per-connection=0"];
        let flags = [&fixed[..], &["--cpus", &list, "--steering", steering]].concat();
        let proxy = Proxy::start(&[&flags[..], &["--upstream", &upstream]].concat()).await;
        let connections = connect_from(cpus[0], proxy.address, 8);
        let clients: Vec<_> = connections
            .into_iter()
            .zip([4_u64, 5, 7, 9, 12, 16, 22, 30])
            .map(|(connection, pause_ms)| tokio::spawn(ask_on_and_on(connection, pause_ms)))
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if steering == "cpu" {
            let ratio = busiest_to_mean(&proxy).await;
            assert!(ratio > 1.9, "{ratio}: the test needs all connections at one shard");
        } else {
            // A busy neighbour may take a CPU away, and the load moves again.
            let shared_out = async || busiest_to_mean(&proxy).await <= 1.25;
            sluice_tests::eventually("both have about as much to do", shared_out).await;
        }
        for client in clients {
            client.abort();
            assert!(client.await.expect_err("it asks on and on").is_cancelled());
        }
        let counters = proxy.counters_until("all are closed", |now| now.connections == 0).await;
        assert_eq!((counters.client_aborts, counters.local_responses), (0, 0));
        proxy.drain().await.assert_clean();
    }
}

/// Asks for the same again and again, and looks at every answer.
async fn ask_on_and_on(connection: TcpStream, pause_ms: u64) {
    connection.set_nonblocking(true).expect("non-blocking");
    let mut client = Raw::over(tokio::net::TcpStream::from_std(connection).expect("a connection"));
    loop {
        let answer = client.ask("GET", "/").await;
        assert_eq!((answer.status(), answer.text()), (200, "x".to_owned()));
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// How many times the mean of all shards the busiest one serves. Over a while, since requests come one by one.
async fn busiest_to_mean(proxy: &Proxy) -> f64 {
    let before = requests(proxy).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = requests(proxy).await;
    let done: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    *done.iter().max().unwrap() as f64 * done.len() as f64 / done.iter().sum::<u64>() as f64
}

/// Requests served by every shard.
async fn requests(proxy: &Proxy) -> Vec<u64> {
    let shards = proxy.live().await;
    shards.iter().map(|shard| shard["counters"]["requests"].as_u64().expect("a number")).collect()
}

/// Connections go over to the other shard while requests come on all of them, with bodies both ways: no answer fails, none is
/// mixed up with another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_connections_lose_nothing() {
    let Some(cpus) = two_cpus() else { return };
    let list = format!("{},{}", cpus[0], cpus[1]);
    let origin = origin::repeats_targets(3_000).await;
    let upstream = format!("http://{}", origin.address);
    let flags = ["--listen", "127.0.0.1:0", "--cpus", &list, "--steering", "load", "--upstream", &upstream];
    let proxy = Proxy::start(&flags).await;
    // Thirty on one CPU: more than the first shard keeps, so that the last are moved before their first byte.
    let clients: Vec<_> = connect_from(cpus[0], proxy.address, 30)
        .into_iter()
        .enumerate()
        .map(|(number, connection)| {
            tokio::spawn(async move {
                connection.set_nonblocking(true).expect("non-blocking");
                let mut client =
                    Raw::over(tokio::net::TcpStream::from_std(connection).expect("a connection"));
                for request in 0..200 {
                    let target = format!("/{number}-{request}");
                    let answer = client.ask("GET", &target).await;
                    assert_eq!((answer.status(), answer.text()), (200, origin::repeated(&target, 3_000)));
                    // The first half of the clients goes to sleep for a while: loads change.
                    if number % 2 == 0 && request == 50 {
                        tokio::time::sleep(Duration::from_millis(700)).await;
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("every answer is right");
    }
    let counters = proxy.counters().await;
    assert_eq!((counters.requests, counters.local_responses, counters.client_aborts), (6_000, 0, 0));
    assert!(counters.connections_migrated_out > 0, "{counters:?}");
    assert_eq!(counters.connections_migrated_out, counters.connections_migrated_in);
    proxy.drain().await.assert_clean();
}

/// Everything that threads can share is on the list of docs/sharing.md, with who writes it and when.
#[test]
fn what_shards_share_is_on_the_list() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let list = std::fs::read_to_string(root.join("docs/sharing.md")).expect("the list");
    let mut sharing = Vec::new();
    let mut directories =
        ["engine/src", "engine/sys/src", "engine/tls/src"].map(|part| root.join(part)).to_vec();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            let shares = |line: &str| {
                let line = line.trim_start();
                let words = ["Arc<", "Atomic", "Mutex", "RwLock", "OnceLock", "LazyLock", "static "];
                let is_lifetime = line.contains("'static ") && !line.starts_with("static ");
                !line.starts_with("//") && !is_lifetime && words.iter().any(|word| line.contains(word))
            };
            // Tests stand at the end of a file, or in a file of their own.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let path = path.strip_prefix(root).expect("below the workspace").display().to_string();
            if !path.contains("/tests") && !path.ends_with("fixture.rs") && code.lines().any(shares) {
                sharing.push(path);
            }
        }
    }
    sharing.sort();
    let missing: Vec<_> = sharing.iter().filter(|path| !list.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "not in docs/sharing.md: {missing:?}");
    let listed = list.lines().filter(|line| line.starts_with("| `")).flat_map(|line| {
        line.split('|')
            .nth(1)
            .unwrap_or_default()
            .split(", ")
            .map(|file| file.trim().trim_matches('`').to_owned())
    });
    let gone: Vec<_> = listed.filter(|path| !sharing.contains(path)).collect();
    assert!(gone.is_empty(), "in docs/sharing.md without need: {gone:?}");
}
