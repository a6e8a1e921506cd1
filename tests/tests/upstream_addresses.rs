//! Which addresses connections to servers go to and come from: several addresses of a name, and source addresses.

use std::net::{Ipv4Addr, SocketAddr};

use sluice_tests::{client::Raw, proxy::Proxy};
use tokio::net::TcpListener;

/// A server that answers each request with the address it came from.
async fn echoes_peers(address: SocketAddr) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind(address).await.expect("an address of this host");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let peer = peer.ip().to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{peer}",
                peer.len()
            );
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

fn upstream(server: &str, keys: &str) -> String {
    format!("[[upstream]]\nname = \"a\"\nservers = [\"{server}\"]\n{keys}\n[[route]]\nupstream = \"a\"\n")
}

#[tokio::test]
async fn connections_come_from_the_source_addresses_in_turn() {
    let server = echoes_peers((Ipv4Addr::LOCALHOST, 0).into()).await;
    // One of the other family is of no use for this server.
    let keys = "source_addresses = [\"127.0.0.5\", \"::1\", \"127.0.0.6\"]";
    let proxy = Proxy::configured(1, &upstream(&format!("http://{server}"), keys)).await;
    let mut client = Raw::connect(proxy.address).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(client.ask("GET", "/").await.text());
    }
    assert!(seen.iter().all(|source| ["127.0.0.5", "127.0.0.6"].contains(&source.as_str())), "{seen:?}");
    assert!(["127.0.0.5", "127.0.0.6"].iter().all(|source| seen.iter().any(|one| one == source)), "{seen:?}");
    proxy.drain().await.assert_clean();
}

/// An address that this host does not have (TEST-NET-1) has no port for anyone.
#[tokio::test]
async fn a_source_address_without_ports_gives_way_to_the_next() {
    let server = echoes_peers((Ipv4Addr::LOCALHOST, 0).into()).await;
    let target = format!("http://{server}");
    let proxy =
        Proxy::configured(1, &upstream(&target, "source_addresses = [\"192.0.2.1\", \"127.0.0.6\"]")).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..4 {
        assert_eq!(client.ask("GET", "/").await.text(), "127.0.0.6");
    }
    let proxy = Proxy::configured(1, &upstream(&target, "source_addresses = [\"192.0.2.1\"]")).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..2 {
        assert_eq!(client.ask("GET", "/").await.status(), 503);
    }
    let said: Vec<_> = proxy.messages().into_iter().filter(|line| line.contains("cannot connect")).collect();
    assert!(said.len() == 1 && said[0].contains("source_addresses 192.0.2.1: none"), "{said:?}");
}
