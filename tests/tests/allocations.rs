//! A request on a kept connection costs no heap allocation once the proxy is warm, also one whose path has to be spelled anew.

use sluice_tests::{
    client::Raw,
    origin,
    proxy::{Proxy, counting_binary},
};
use tokio::process::Command;

const CONNECTIONS: usize = 4;
const REQUESTS: usize = 10_000;
/// Paths as they are mostly sent, and one that is forwarded and compared in forms of its own.
const TARGETS: [&str; 2] = ["/", "/a/..//%62/%40?q=1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_allocate_nothing() {
    let origin = origin::answers(origin::ok(&"x".repeat(1024))).await;
    let mut command = Command::new(counting_binary().await);
    let upstream = format!("http://{}", origin.address);
    command.args(["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream]);
    // The connections must outlive the measurement.
    command.arg("--limit-requests-per-connection=0");
    let proxy = Proxy::spawn(command, None).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Raw::connect(proxy.address).await);
    }
    let clients = ask_all(clients, 500).await;
    let before = allocations(&proxy).await;
    let clients = ask_all(clients, REQUESTS / CONNECTIONS).await;
    let grown = allocations(&proxy).await - before;
    assert_eq!(clients.len(), CONNECTIONS, "all were open to the end");
    assert_eq!(grown, 0, "allocations of the shard during {REQUESTS} requests");
}

async fn allocations(proxy: &Proxy) -> u64 {
    let counted = proxy.counters().await.allocations;
    assert_ne!(counted, 0, "starting allocates, so this binary does not count");
    counted
}

/// Sends `requests` on each connection, all connections at once.
async fn ask_all(clients: Vec<Raw>, requests: usize) -> Vec<Raw> {
    let asking = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            for target in TARGETS.iter().cycle().take(requests) {
                assert_eq!(client.ask("GET", target).await.body.len(), 1024);
            }
            client
        })
    });
    let mut clients = Vec::new();
    for client in asking.collect::<Vec<_>>() {
        clients.push(client.await.expect("every request is answered"));
    }
    clients
}
