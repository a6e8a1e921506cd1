//! Which shard gets a connection: that of the CPU which received it, chosen by a BPF program where one may be loaded and by
//! socket options where not, and another one if that shard is busy.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::Value;
use sluice_tests::{
    client::Raw,
    cpus::{connect_from, two_cpus},
    eventually, has_ipv6, origin,
    proxy::{self, Proxy},
    skip,
};
use tokio::process::Command;

/// Two shards that the kernel may choose from by all its means, or without BPF.
async fn start(cpus: [usize; 2], steering: &str, bpf: Bpf, origin: SocketAddr) -> Proxy {
    let mut command = match bpf {
        Bpf::AsItIs => Command::new(proxy::binary().await),
        Bpf::Refused => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_without"));
            command.arg("bpf").arg(proxy::binary().await);
            command
        }
    };
    // However fast and for however long a client asks, it keeps its connection.
    command.args(["--listen", "127.0.0.1:0", "--steering", steering, "--limit-requests-per-connection=0"]);
    if TcpListener::bind("[::1]:0").is_ok() {
        command.args(["--listen", "[::1]:0"]);
    }
    command.args(["--cpus", &format!("{},{}", cpus[0], cpus[1]), "--upstream", &format!("http://{origin}")]);
    Proxy::spawn(command, None).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bpf {
    AsItIs,
    Refused,
}

/// What steers, as the running process says.
async fn steered_by(proxy: &Proxy) -> String {
    proxy.whole_live().await["steered_by"].as_str().expect("a text").to_owned()
}

/// The CPU of every shard and how many connections it accepted.
async fn accepted_by_cpu(proxy: &Proxy) -> Vec<(usize, u64)> {
    let number = |value: &Value| value.as_u64().expect("a number");
    let row = |shard: &Value| (number(&shard["cpu"]) as usize, number(&shard["counters"]["accepted"]));
    proxy.live().await.iter().map(row).collect()
}

/// So many connections from a CPU; returns how many each shard's CPU accepted of them.
async fn accepted_of(proxy: &Proxy, address: SocketAddr, from: usize, count: usize) -> Vec<(usize, u64)> {
    let before = accepted_by_cpu(proxy).await;
    let open = proxy.counters().await.connections;
    let connections = connect_from(from, address, count);
    proxy.counters_until("all are accepted", |now| now.connections >= open + count as u64).await;
    let after = accepted_by_cpu(proxy).await;
    drop(connections);
    proxy.counters_until("all are closed", |now| now.connections <= open).await;
    after.into_iter().zip(before).map(|((cpu, after), (_, before))| (cpu, after - before)).collect()
}

#[tokio::test]
async fn connections_reach_the_shard_of_the_cpu_that_received_them() {
    let Some(cpus) = two_cpus() else { return };
    let origin = origin::real("real").await;
    let has_ipv6 = has_ipv6();
    for bpf in [Bpf::AsItIs, Bpf::Refused] {
        let proxy = start(cpus, "cpu", bpf, origin.address).await;
        let line = proxy.line("steering: ").await;
        match (steered_by(&proxy).await.as_str(), bpf) {
            ("BPF program", Bpf::AsItIs) => assert!(line.starts_with("a BPF program chooses"), "{line}"),
            ("socket options", _) => {
                if bpf == Bpf::AsItIs {
                    skip("no BPF program may be loaded here");
                }
                assert!(line.contains("not permitted") && line.contains("hint: CAP_BPF"), "{line}");
            }
            (by, _) => panic!("with BPF {bpf:?}: by {by}"),
        }
        // The port of the second address is in the second line.
        let second = proxy.messages().into_iter().find_map(|line| {
            let address = line.strip_prefix("listening on [::1]:")?;
            Some(SocketAddr::from((Ipv6Addr::LOCALHOST, address.parse().expect("a port"))))
        });
        assert_eq!(second.is_some(), has_ipv6, "{:?}", proxy.stderr());
        for address in [Some(proxy.address), second].into_iter().flatten() {
            for from in cpus {
                for (cpu, accepted) in accepted_of(&proxy, address, from, 40).await {
                    let wanted = if cpu == from { 40 } else { 0 };
                    assert_eq!(accepted, wanted, "received on CPU {from}, accepted on CPU {cpu}, {bpf:?}");
                }
            }
        }
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test]
async fn without_steering_the_hash_decides() {
    let Some(cpus) = two_cpus() else { return };
    let origin = origin::real("real").await;
    let proxy = start(cpus, "off", Bpf::AsItIs, origin.address).await;
    assert_eq!(steered_by(&proxy).await, "hash");
    let accepted = accepted_of(&proxy, proxy.address, cpus[0], 100).await;
    assert!(accepted.iter().all(|(_, accepted)| *accepted > 10), "{accepted:?}");
    assert!(!proxy.messages().iter().any(|line| line.starts_with("steering:")));
    proxy.drain().await.assert_clean();
}

/// One connection keeps the first shard busy, and is all it has, so that it is not given away. What its CPU receives from then
/// on goes to the other shard, if the load counts and a program looks at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connections_avoid_a_busy_shard() {
    let Some(cpus) = two_cpus() else { return };
    let origin = origin::answers(origin::ok("x")).await;
    for steering in ["cpu", "load"] {
        let proxy = start(cpus, steering, Bpf::AsItIs, origin.address).await;
        if steered_by(&proxy).await != "BPF program" {
            return skip("no BPF program may be loaded here");
        }
        let connection = connect_from(cpus[0], proxy.address, 1).pop().expect("one");
        connection.set_nonblocking(true).expect("non-blocking");
        let mut client = Raw::over(tokio::net::TcpStream::from_std(connection).expect("a connection"));
        let busy = tokio::spawn(async move {
            loop {
                let answer = client.ask("GET", "/").await;
                assert_eq!((answer.status(), answer.text()), (200, "x".to_owned()));
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let accepted = async || accepted_of(&proxy, proxy.address, cpus[0], 40).await;
        match steering {
            "cpu" => assert_eq!(accepted().await, [(cpus[0], 40), (cpus[1], 0)]),
            // Beside a busy neighbour either shard may seem busy for a while.
            _ => eventually("most go to the other shard", async || accepted().await[1].1 >= 32).await,
        }
        busy.abort();
        assert!(busy.await.expect_err("it asks on and on").is_cancelled());
        proxy.counters_until("all are closed", |now| now.connections == 0).await;
        proxy.drain().await.assert_clean();
    }
}
