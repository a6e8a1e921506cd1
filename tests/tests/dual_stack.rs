//! `[::]` is every address of IPv6 and of IPv4: both kinds of clients are served, and those of IPv4 are what they are, in header
//! fields, PROXY protocol headers, lists of networks and limits.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use sluice_tests::{
    client::{self, Raw},
    has_ipv6, origin,
    proxy::{self, Proxy},
};

/// One shard that listens as `listen` says (with `@` for a port of its own), and that port.
async fn start(listen: &[&str], origin: SocketAddr, flags: &[&str]) -> (Proxy, u16) {
    let listen: Vec<String> = match free_port(listen) {
        Some(port) => listen.iter().map(|flag| flag.replace('@', &port.to_string())).collect(),
        None => listen.iter().map(ToString::to_string).collect(),
    };
    let upstream = format!("http://{origin}");
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let fixed = ["--shards", "1", "--upstream", &upstream];
    let proxy = Proxy::start(&[&listen[..], &fixed, flags].concat()).await;
    let port = proxy.address.port();
    (proxy, port)
}

/// A port that no socket has, if one is asked for. Below those that the kernel gives away, so that no other test gets it.
fn free_port(listen: &[&str]) -> Option<u16> {
    listen.iter().any(|flag| flag.contains('@')).then(|| {
        let first = 10_000 + (std::process::id() % 10_000) as u16;
        (first..).find(|&port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok()).expect("a port")
    })
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn v6(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, port))
}

#[tokio::test]
async fn clients_of_both_families_are_served_and_named() {
    if !has_ipv6() {
        return;
    }
    let origin = origin::real("real").await;
    let flags =
        ["--trusted-proxy", "127.0.0.1/32", "--forwarding-real-ip", "set", "--forwarding-fields", "both"];
    let (proxy, port) = start(&["--listen", "[::]:0"], origin.address, &flags).await;
    let connect = async |last| Raw::connect_from(Ipv4Addr::new(127, 0, 0, last), v4(port)).await;
    for (mut client, source, forwarded, real) in [
        // Trusted by its network of IPv4, so what it says is continued.
        (connect(1).await, "192.0.2.1, 127.0.0.1", "for=192.0.2.1;", "192.0.2.1"),
        (connect(2).await, "127.0.0.2", "for=127.0.0.2;", "127.0.0.2"),
        (Raw::connect(v6(port)).await, "::1", "for=\"[::1]\";", "::1"),
    ] {
        client.send("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n").await;
        assert_eq!(client.answer_to("GET").await.text(), "real");
        let seen = origin.seen().pop().expect("a request");
        assert_eq!(seen.field("x-forwarded-for"), Some(source), "{seen:?}");
        assert_eq!(seen.field("x-real-ip"), Some(real), "{seen:?}");
        assert!(seen.field("forwarded").unwrap_or_default().starts_with(forwarded), "{seen:?}");
        drop(client);
    }
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn servers_get_proxy_headers_of_the_right_family() {
    if !has_ipv6() {
        return;
    }
    let origin = origin::expects_proxy_line().await;
    let flags = ["--upstream-proxy-protocol", "v1"];
    let (_proxy, port) = start(&["--listen", "[::]:0"], origin.address, &flags).await;
    for (address, line) in [(v4(port), "PROXY TCP4 127.0.0.1 127.0.0.1 "), (v6(port), "PROXY TCP6 ::1 ::1 ")]
    {
        let line_seen = client::get(address, "/").await.text();
        assert!(
            line_seen.starts_with(line) && line_seen.trim_end().ends_with(&format!(" {port}")),
            "{line_seen}"
        );
    }
}

#[tokio::test]
async fn who_may_send_proxy_headers_is_found_by_ipv4_networks() {
    if !has_ipv6() {
        return;
    }
    let origin = origin::real("real").await;
    let listen = ["--listen-proxy-protocol", "[::]:0", "--proxy-protocol-from", "127.0.0.0/8"];
    let (proxy, port) = start(&listen, origin.address, &[]).await;
    let request = "PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n";
    assert_eq!(client::exchange(v4(port), request).await.text(), "real");
    assert_eq!(origin.only().field("x-forwarded-for"), Some("198.51.100.7"));
    let mut forbidden = Raw::connect(v6(port)).await;
    let _ = forbidden.try_send(request).await;
    forbidden.assert_closed().await;
    proxy.counters_until("it is counted", |now| now.proxy_headers_forbidden == 1).await;
}

/// As addresses of IPv6, all of IPv4 would be in one network of 64 bits.
#[tokio::test]
async fn ipv4_addresses_are_limited_one_by_one() {
    if !has_ipv6() {
        return;
    }
    let origin = origin::real("real").await;
    let flags = ["--limit-connections-per-address", "1"];
    let (_proxy, port) = start(&["--listen", "[::]:0"], origin.address, &flags).await;
    let mut first = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 2), v4(port)).await;
    assert_eq!(first.ask("GET", "/").await.status(), 200);
    let mut other = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 3), v4(port)).await;
    assert_eq!(other.ask("GET", "/").await.status(), 200);
    let mut ipv6 = Raw::connect(v6(port)).await;
    assert_eq!(ipv6.ask("GET", "/").await.status(), 200);
    let mut second = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 2), v4(port)).await;
    assert_eq!(second.ask("GET", "/").await.status(), 429);
}

/// Each has a socket of its own then: the one for IPv4 expects PROXY headers here, the other does not.
#[tokio::test]
async fn all_of_ipv4_may_be_listed_beside_all_of_ipv6() {
    if !has_ipv6() {
        return;
    }
    let origin = origin::real("real").await;
    for ipv4 in ["0.0.0.0:@", "127.0.0.1:@"] {
        for listen in [
            ["--listen", "[::]:@", "--listen-proxy-protocol", ipv4],
            ["--listen-proxy-protocol", ipv4, "--listen", "[::]:@"],
        ] {
            let flags = ["--proxy-protocol-from", "127.0.0.1"];
            let (proxy, port) = start(&listen, origin.address, &flags).await;
            let request =
                "PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n";
            assert_eq!(client::exchange(v4(port), request).await.text(), "real", "{listen:?}");
            assert_eq!(client::get(v6(port), "/").await.text(), "real", "{listen:?}");
            proxy.drain().await.assert_clean();
        }
    }
}

#[tokio::test]
async fn a_port_that_another_process_has_for_ipv4_is_refused() {
    if !has_ipv6() {
        return;
    }
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let listen = format!("[::]:{}", other.local_addr().expect("bound").port());
    let refused =
        proxy::run(&["--shards", "1", "--upstream", "http://127.0.0.1:1", "--listen", &listen]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let words = "another process listens there, on IPv6 or IPv4 ([::] is for both)";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    // By itself each family is free to have.
    let listen = listen.replace("[::]", "[::1]");
    let proxy =
        Proxy::start(&["--shards", "1", "--upstream", "http://127.0.0.1:1", "--listen", &listen]).await;
    assert_eq!(client::get(proxy.address, "/").await.status(), 502);
}
