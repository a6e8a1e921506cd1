//! Health checks: what a check is, how its failures are reported, how many of them count, and which servers get requests.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use sluice_tests::{
    client, eventually,
    origin::{self, Go, Origin, Peer},
    proxy::Proxy,
    tls::{self, Authority, BOTH, End, NAME},
    within,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

/// What a server does now.
const FINE: u16 = 200;
const HANGS: u16 = 0;

/// A server of HTTP/1.1 that answers checks (`/healthz`) with a status, and everything else with its name; unless it hangs.
struct Server {
    origin: Origin,
    state: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(name: &'static str) -> Server {
        let state = Arc::new(AtomicU16::new(FINE));
        let (checks, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let its = (state.clone(), checks.clone(), requests.clone());
        let origin = Origin::scripted(move |mut peer: Peer| {
            let (state, checks, requests) = its.clone();
            async move {
                loop {
                    let request = peer.request().await?;
                    let is_check = request.head.target() == "/healthz";
                    if is_check { &checks } else { &requests }.fetch_add(1, SeqCst);
                    match state.load(SeqCst) {
                        HANGS => peer.until_closed().await?,
                        status if is_check => {
                            peer.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await?;
                        }
                        _ => peer.answer(name).await?,
                    }
                }
            }
        })
        .await;
        Server { origin, state, checks, requests }
    }

    fn address(&self) -> SocketAddr {
        self.origin.address
    }

    fn becomes(&self, state: u16) {
        self.state.store(state, SeqCst);
    }

    fn checks(&self) -> usize {
        self.checks.load(SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// An upstream with this name and these servers, `keys` of its `health`, and a route for `/NAME`.
fn upstream(name: &str, servers: &[String], health: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    format!(
        "[[upstream]]\nname = \"{name}\"\nservers = [{}]\nhealth = {{ {health} }}\n[[route]]\npath_prefix = \"/{name}\"\n\
         upstream = \"{name}\"\n",
        servers.join(", ")
    )
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Checks often, and gives up soon.
const OFTEN: &str = "path = \"/healthz\", interval = \"20ms\", timeout = \"5s\"";

/// A counter of a server that is checked, as `sluice topology --live` has it.
async fn live(proxy: &Proxy, upstream: &str, key: &str) -> serde_json::Value {
    let live = proxy.whole_live().await;
    let servers = live["servers"].as_array().expect("a list of servers").clone();
    servers.iter().find(|server| server["upstream"] == upstream).expect("it is checked")[key].clone()
}

/// Lines on stderr that say this of servers.
fn said(proxy: &Proxy, what: &str) -> Vec<String> {
    proxy.messages().into_iter().filter(|line| line.contains(what)).collect()
}

/// Waits until the shard has heard of a server that is down: the line about it is written before that.
async fn only_good_ones_answer(proxy: &Proxy) {
    eventually("answers of good servers", || async {
        for _ in 0..10 {
            if client::get(proxy.address, "/app").await.text() != "good" {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test]
async fn every_failure_has_its_reason() {
    let refused = origin::refusing();
    let unreachable = origin::unreachable().await;
    let answers = |answer: &'static str| origin::answers_and_closes(answer);
    let not_found = answers("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    let found = answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let silent = origin::only_listens().await;
    let stalls = origin::stalls_in_the_head().await;
    let stalls_in_body = origin::stalls_after(10).await;
    let drips = origin::drips("HTTP/1.1 200 OK\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n").await;
    let closes = origin::closes_after_accept().await;
    let cuts = origin::closes_mid_body(10).await;
    let garbage = origin::garbage().await;
    let endless_head = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.send("HTTP/1.1 200 OK\r\n").await?;
        loop {
            peer.send(format!("X: {}\r\n", "a".repeat(1_000))).await?;
        }
    })
    .await;
    let endless_hints = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        loop {
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100)).await?;
        }
    })
    .await;
    let soon = "timeout = \"100ms\"";
    let late = "timeout = \"30s\"";
    let cases = [
        ("refused", refused.address, late, "Connection refused"),
        ("unreachable", unreachable.address, soon, "no connection within 100ms"),
        ("status", not_found.address, late, "status 404"),
        ("other-status", found.address, "timeout = \"30s\", status = [204, \"300-599\"]", "status 200"),
        ("silent", silent.address, soon, "no response within 100ms"),
        ("stalls", stalls.address, soon, "no response within 100ms"),
        ("stalls-in-body", stalls_in_body.address, soon, "no response within 100ms"),
        ("drips", drips.address, soon, "no response within 100ms"),
        ("closes", closes.address, late, "connection "),
        ("cuts", cuts.address, late, "the response was not complete: "),
        ("garbage", garbage.address, late, "invalid HTTP "),
        ("endless-head", endless_head.address, late, "head is too large"),
        ("endless-hints", endless_hints.address, late, "sends too much"),
    ];
    let tables = cases.iter().map(|(name, address, keys, _)| {
        upstream(name, &[http(*address)], &format!("interval = \"50ms\", {keys}"))
    });
    let proxy = Proxy::configured(1, &tables.collect::<String>()).await;
    let mut wrong = Vec::new();
    for (name, address, _, reason) in cases {
        let line = proxy.line(&format!("upstream {name}: http://{address} is down: a check failed: ")).await;
        if !line.contains(reason) || !line.ends_with("; none of 1 servers is up: requests get 503") {
            wrong.push(format!("{name}: {line}, not {reason}"));
        }
        // It is not asked any more, as soon as the shard has heard of it.
        let path = format!("/{name}");
        let is_refused = || async { client::get(proxy.address, &path).await.status() == 503 };
        eventually("a 503 without a server", is_refused).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(proxy.counters().await.named("servers_down"), 13);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn responses_with_an_expected_status_pass_whatever_their_body() {
    let answers = |answer: &'static str| origin::answers_and_closes(answer);
    let redirect = answers("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await;
    let no_content = answers("HTTP/1.1 204 No Content\r\n\r\n").await;
    let chunked = answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n").await;
    let until_close = origin::until_close_body("abc").await;
    let http10 = origin::http10().await;
    let hints = origin::hints(3).await;
    let flood = origin::floods(1 << 40).await;
    let chunked_flood = origin::floods_in_chunks(1 << 40).await;
    let teapot = answers("HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n").await;
    let odd = answers("HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n").await;
    let tcp = origin::only_listens().await;
    let cases = [
        ("redirect", redirect.address, "check = \"http\""),
        ("no-content", no_content.address, "status = 204"),
        ("chunked", chunked.address, "status = \"200-299\""),
        ("until-close", until_close.address, "path = \"/a?b=c\""),
        ("http10", http10.address, "path = \"/\""),
        ("hints", hints.address, "path = \"/\""),
        ("flood", flood.address, "path = \"/\""),
        ("chunked-flood", chunked_flood.address, "path = \"/\""),
        ("teapot", teapot.address, "status = [200, \"410-420\"]"),
        ("odd", odd.address, "status = \"600-999\""),
        ("tcp", tcp.address, "check = \"tcp\""),
    ];
    let tables = cases.iter().map(|(name, address, keys)| {
        upstream(name, &[http(*address)], &format!("interval = \"20ms\", timeout = \"30s\", {keys}"))
    });
    let proxy = Proxy::configured(1, &tables.collect::<String>()).await;
    for (name, ..) in cases {
        eventually(&format!("{name} passes"), || async {
            live(&proxy, name, "checks_passed").await.as_u64().unwrap() >= 3
        })
        .await;
    }
    assert_eq!(said(&proxy, "is down"), Vec::<String>::new());
    assert!(until_close.recorder.text().starts_with("GET /a?b=c HTTP/1.1\r\n"));
    assert_eq!(tcp.recorder.text(), "", "a check by tcp sends nothing");
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_check_is_a_request_with_the_servers_host() {
    let (plain, named, other_port) =
        (origin::real("plain").await, origin::real("named").await, origin::real("port").await);
    let version_2 = origin::real_http2("h2").await;
    let port = other_port.address.port();
    let tables = [
        upstream("plain", &[http(plain.address)], "interval = \"20ms\""),
        upstream(
            "named",
            &[http(named.address)],
            "interval = \"20ms\", path = \"/up?x=1\", host = \"app.internal\"",
        ),
        upstream("port", &[http(plain.address)], &format!("interval = \"20ms\", port = {port}")),
        upstream("h2", &[format!("h2c://{}", version_2.address)], "interval = \"20ms\", path = \"/up\""),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    let agent = concat!("sluice/", env!("CARGO_PKG_VERSION"), " (health check)");
    for (server, target, host) in [
        (&plain, "/", plain.address.to_string()),
        (&named, "/up?x=1", "app.internal".to_owned()),
        (&other_port, "/", other_port.address.to_string()),
        (&version_2, "/up", version_2.address.to_string()),
    ] {
        eventually("a check", || async { !server.seen().is_empty() }).await;
        let seen = &server.seen()[0];
        // Over HTTP/2 hyper has it with scheme and authority.
        assert_eq!(seen.method.as_str(), "GET");
        assert_eq!(seen.target.trim_start_matches(&format!("http://{host}")), target);
        assert_eq!(seen.field("user-agent"), Some(agent));
        if server.address != version_2.address {
            assert_eq!(seen.field("host"), Some(host.as_str()));
            assert_eq!(seen.field("connection"), Some("close"));
        }
    }
    assert_eq!(said(&proxy, "is down"), Vec::<String>::new());
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn rise_and_fall_are_counted_exactly() {
    // `.` passes, `x` fails; then all pass.
    const SCRIPT: &str = ".xx.xxx.x...xx.";
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Origin::scripted(move |mut peer: Peer| {
        let count = count.clone();
        async move {
            peer.request().await?;
            let number = count.fetch_add(1, SeqCst);
            let status = if SCRIPT.as_bytes().get(number) == Some(&b'x') { 500 } else { 200 };
            peer.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await
        }
    })
    .await;
    let health = "interval = \"20ms\", timeout = \"30s\", fall = 3, rise = 2";
    let proxy = Proxy::configured(1, &upstream("app", &[http(origin.address)], health)).await;
    eventually("all of the script", || async { asked.load(SeqCst) > SCRIPT.len() + 2 }).await;
    let server = format!("upstream app: http://{}", origin.address);
    assert_eq!(
        said(&proxy, "upstream app: "),
        [
            format!(
                "{server} is down: 3 checks in a row failed, the last one: status 500; none of 1 servers is up: requests get 503"
            ),
            format!("{server} is up: 2 checks in a row passed; 1 of 1 servers is up"),
        ]
    );
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn checks_are_made_once_for_the_process() {
    const INTERVAL: Duration = Duration::from_millis(50);
    let server = Server::start("a").await;
    let health = "path = \"/healthz\", interval = \"50ms\", timeout = \"30s\"";
    let begun = Instant::now();
    let shards = sluice_tests::shards_possible().min(2);
    let proxy = Proxy::configured(shards, &upstream("app", &[http(server.address())], health)).await;
    eventually("checks", || async { server.checks() >= 20 }).await;
    let seen = server.checks();
    // At most one for each interval, which is a tenth shorter at times, and the first one.
    let most = begun.elapsed().as_secs_f64() / INTERVAL.mul_f64(0.9).as_secs_f64() + 1.0;
    assert!(seen as f64 <= most, "{seen} checks in {:?}", begun.elapsed());
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_hung_server_gets_no_more_requests_until_it_is_back() {
    let (good, bad) = (Server::start("good").await, Server::start("bad").await);
    let health = "path = \"/healthz\", interval = \"20ms\", timeout = \"2s\"";
    let shards = sluice_tests::shards_possible().min(2);
    let servers = [http(good.address()), http(bad.address())];
    // Longer than this test: nothing else is to close kept connections.
    let table = upstream("app", &servers, health);
    let table = table.replacen("health =", "timeouts.upstream_idle = \"1h\"\nhealth =", 1);
    let proxy = Proxy::configured(shards, &table).await;
    // Both have kept connections then, and have passed a check: the first one decides alone, the second comes after it.
    eventually("requests at both", || async {
        client::get(proxy.address, "/app").await;
        good.requests() > 0 && bad.requests() > 0 && bad.checks() >= 2
    })
    .await;
    bad.becomes(HANGS);
    let line = proxy.line(&format!("upstream app: {} is down: ", servers[1])).await;
    assert_eq!(line, "3 checks in a row failed, the last one: no response within 2s; 1 of 2 servers is up");
    // Its kept connections are closed, so that every shard has heard of it.
    let is_closed = |traffic: &[origin::Traffic]| {
        traffic.iter().all(|one| one.ended || one.bytes.windows(8).any(|b| b == b"/healthz"))
    };
    bad.origin.recorder.wait_for("the end of kept connections", is_closed).await;
    let before = bad.requests();
    for _ in 0..100 {
        let answer = client::get(proxy.address, "/app").await;
        assert_eq!((answer.status(), answer.text()), (200, "good".to_owned()));
    }
    assert_eq!(bad.requests(), before, "a server that is down got a request");
    assert_eq!(proxy.counters().await.named("servers_down"), 1);
    bad.becomes(FINE);
    proxy
        .line(&format!("upstream app: {} is up: 2 checks in a row passed; 2 of 2 servers are up", servers[1]))
        .await;
    eventually("requests reach it again", || async {
        client::get(proxy.address, "/app").await.text() == "bad"
    })
    .await;
    assert_eq!(proxy.counters().await.named("servers_down"), 0);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_left_out_from_the_first_check_on() {
    let (good, refusing) = (Server::start("good").await, origin::refusing());
    let servers = [http(good.address()), http(refusing.address)];
    let proxy = Proxy::configured(1, &upstream("app", &servers, OFTEN)).await;
    proxy.line(&format!("upstream app: {} is down: a check failed: Connection refused", servers[1])).await;
    only_good_ones_answer(&proxy).await;
    let before = proxy.counters().await.named("upstream_connect_errors");
    for _ in 0..50 {
        assert_eq!(client::get(proxy.address, "/app").await.text(), "good");
    }
    assert_eq!(proxy.counters().await.named("upstream_connect_errors"), before);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn while_all_are_down_requests_get_503_or_are_tried() {
    let (refuses, tries) = (Server::start("refuses").await, Server::start("tries").await);
    for server in [&refuses, &tries] {
        server.becomes(503);
    }
    let tables = [
        upstream("refuses", &[http(refuses.address())], OFTEN),
        upstream("tries", &[http(tries.address())], &format!("{OFTEN}, all_down = \"try\"")),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    for (name, end) in [
        ("refuses", "none of 1 servers is up: requests get 503"),
        ("tries", "none of 1 servers is up: requests are sent as if there were no checks"),
    ] {
        let line = proxy.line(&format!("upstream {name}: ")).await;
        assert!(line.ends_with(end), "{line}");
    }
    // The shard hears of it a moment after the log.
    eventually("it is down", || async { client::get(proxy.address, "/refuses").await.status() == 503 }).await;
    let answer = client::get(proxy.address, "/refuses").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(client::get(proxy.address, "/tries").await.text(), "tries");
    assert_eq!(proxy.counters().await.named("upstream_all_down"), 2);
    refuses.becomes(FINE);
    eventually("it is up again", || async { client::get(proxy.address, "/refuses").await.status() == 200 })
        .await;
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn checks_begin_with_the_proxy_header_that_servers_expect() {
    let (v1, v2, elsewhere) =
        (origin::only_listens().await, origin::only_listens().await, origin::only_listens().await);
    let health = "interval = \"20ms\", timeout = \"100ms\"";
    let table = |name: &str, address: SocketAddr, version: &str, health: &str| {
        let table = upstream(name, &[http(address)], health);
        table.replacen("health =", &format!("proxy_protocol = \"{version}\"\nhealth ="), 1)
    };
    let other = format!("{health}, port = {}", elsewhere.address.port());
    let tables = [
        table("v1", v1.address, "v1", health),
        table("v2", v2.address, "v2", health),
        table("elsewhere", v1.address, "v1", &other),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    for (origin, start) in [
        (&v1, &b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n"[..]),
        (&v2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET / HTTP/1.1\r\n"),
        (&elsewhere, b"GET / HTTP/1.1\r\n"),
    ] {
        let begins = |traffic: &[origin::Traffic]| traffic.iter().any(|one| one.bytes.starts_with(start));
        origin.recorder.wait_for("a check", begins).await;
    }
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn checks_over_tls_judge_certificates_as_requests_do() {
    let (authority, unknown) = (Authority::new(), Authority::new());
    let clear = Server::start("clear").await;
    let good = tls::serve(clear.address(), authority.issue(&[NAME]).server(BOTH), End::Proper).await;
    let foreign = tls::serve(clear.address(), unknown.issue(&[NAME]).server(BOTH), End::Proper).await;
    let other_name =
        tls::serve(clear.address(), authority.issue(&["b.example"]).server(BOTH), End::Proper).await;
    let silent = origin::only_listens().await;
    let often = "interval = \"20ms\", timeout = \"30s\", path = \"/healthz\"";
    let keys = |keys: &str, port: Option<u16>| match port {
        None => keys.to_owned(),
        Some(port) => format!("{keys}, port = {port}, tls = false"),
    };
    let cases = [
        ("good", good.address, keys(often, None), None),
        ("good-tcp", good.address, "check = \"tcp\", interval = \"20ms\", timeout = \"30s\"".into(), None),
        ("plain-port", foreign.address, keys(often, Some(clear.address().port())), None),
        ("foreign", foreign.address, keys(often, None), Some("TLS: invalid peer certificate: UnknownIssuer")),
        (
            "foreign-tcp",
            foreign.address,
            "check = \"tcp\", timeout = \"30s\"".into(),
            Some("TLS: invalid peer certificate: UnknownIssuer"),
        ),
        (
            "name",
            other_name.address,
            keys(often, None),
            Some("TLS: invalid peer certificate: certificate not valid for name"),
        ),
        ("clear", clear.address(), "timeout = \"100ms\"".into(), Some("no TLS handshake within 100ms")),
        (
            "silent",
            silent.address,
            "check = \"tcp\", timeout = \"100ms\"".into(),
            Some("no TLS handshake within 100ms"),
        ),
    ];
    let tables = cases.iter().map(|(name, address, keys, _)| {
        let tls =
            format!("tls.ca = \"{}\"\ntls.server_name = \"{NAME}\"\nhealth =", authority.ca_file().display());
        upstream(name, &[format!("https://{address}")], keys).replacen("health =", &tls, 1)
    });
    let proxy = Proxy::configured(1, &tables.collect::<String>()).await;
    let mut wrong = Vec::new();
    for (name, address, _, reason) in &cases {
        match reason {
            Some(reason) => {
                let line = proxy
                    .line(&format!("upstream {name}: https://{address} is down: a check failed: "))
                    .await;
                if !line.starts_with(reason) {
                    wrong.push(format!("{name}: {line}, not {reason}"));
                }
            }
            None => {
                eventually(name, || async {
                    live(&proxy, name, "checks_passed").await.as_u64().unwrap() >= 2
                })
                .await;
                assert_eq!(live(&proxy, name, "up").await, true, "{name}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (all, resumed) = *good.handshakes.lock().unwrap();
    assert!(all > 3 && resumed == 0, "a check has resumed a session: no certificate was shown");
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn lack_of_descriptors_is_not_the_servers_fault() {
    let server = Server::start("a").await;
    let proxy = Proxy::configured(1, &upstream("app", &[http(server.address())], OFTEN)).await;
    eventually("a check", || async { server.checks() > 0 }).await;
    proxy.refuse_descriptors();
    let line = proxy.line(&format!("upstream app: http://{} was not checked: ", server.address())).await;
    assert!(line.starts_with("Too many open files"), "{line}");
    assert_eq!(said(&proxy, "is down"), Vec::<String>::new());
}

#[tokio::test]
async fn checks_that_hang_delay_no_others_and_are_bounded() {
    const HUNG: usize = 400;
    // The kernel accepts, and nothing answers.
    let bind = |n: usize| {
        std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 2 + (n / 250) as u8, 1 + (n % 250) as u8), 0))
    };
    let hung: Vec<_> = (0..HUNG).map(|n| bind(n).expect("a port on loopback")).collect();
    let addresses: Vec<String> = hung.iter().map(|one| http(one.local_addr().unwrap())).collect();
    let good = Server::start("good").await;
    let tables = [
        upstream("hung", &addresses, "interval = \"20ms\", timeout = \"2s\""),
        upstream("good", &[http(good.address())], OFTEN),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    eventually("all are down", || async { proxy.counters().await.named("servers_down") == HUNG as u64 })
        .await;
    let sockets = || proxy.descriptors().iter().filter(|link| link.starts_with("socket:")).count();
    let (checks, late) = (good.checks(), live(&proxy, "good", "checks_late").await);
    let mut most = 0;
    eventually("more checks", || {
        most = most.max(sockets());
        async { good.checks() >= checks + 30 }
    })
    .await;
    assert_eq!(live(&proxy, "good", "checks_late").await, late, "a check waited for those that hang");
    assert!((200..300).contains(&most), "{most} sockets with {HUNG} servers that hang");
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn metrics_name_servers_that_are_down() {
    let (up, down) = (Server::start("up").await, Server::start("down").await);
    down.becomes(500);
    let table = upstream("app", &[http(up.address()), http(down.address())], OFTEN);
    let proxy = Proxy::configured(1, &format!("metrics = \"127.0.0.1:0\"\n{table}")).await;
    proxy.line("upstream app: ").await;
    let metrics = proxy.line("metrics on http://").await;
    let text = client::reqwest().get(format!("http://{metrics}")).send().await.unwrap().text().await.unwrap();
    let series = |name: &str, server: &Server, more: &str| {
        let start = format!("{name}{{upstream=\"app\",server=\"{}\"{more}}} ", http(server.address()));
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.unwrap_or_else(|| panic!("no {start} in {text}")).parse::<u64>().expect("a number")
    };
    assert_eq!(series("sluice_upstream_server_up", &up, ""), 1);
    assert_eq!(series("sluice_upstream_server_up", &down, ""), 0);
    assert!(series("sluice_health_checks_total", &down, ",result=\"failed\"") > 0);
    assert_eq!(series("sluice_health_checks_total", &down, ",result=\"passed\""), 0);
    assert_eq!(series("sluice_health_checks_late_total", &up, ""), 0);
    assert!(text.contains("# TYPE sluice_upstream_server_up gauge\n"));
    let counters = proxy.counters().await;
    assert!(counters.named("health_checks") >= counters.named("health_checks_failed"));
    assert!(counters.named("health_checks_failed") > 0);
    proxy.drain().await.assert_clean();
}

// ---- HTTP/2 ----

/// A server of HTTP/2; it stops when dropped.
struct Http2Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
    /// Connections that have ended.
    ended: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers checks with its status, `/app/slow` when it may go on, and everything else with its name.
async fn http2_server(name: &'static str, go: Go) -> Http2Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let status = Arc::new(AtomicU16::new(FINE));
    let (requests, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (its_status, its_requests, its_ended) = (status.clone(), requests.clone(), ended.clone());
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (status, requests, go) = (its_status.clone(), its_requests.clone(), go.clone());
            let ended = its_ended.clone();
            tokio::spawn(async move {
                let is_check = Arc::new(AtomicUsize::new(0));
                let seen = is_check.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let (status, requests, go, seen) =
                        (status.clone(), requests.clone(), go.clone(), seen.clone());
                    async move {
                        let mut response = Response::new(Full::new(Bytes::from_static(name.as_bytes())));
                        match request.uri().path() {
                            "/healthz" => {
                                seen.store(1, SeqCst);
                                *response.status_mut() = status.load(SeqCst).try_into().expect("a status");
                            }
                            path => {
                                requests.fetch_add(1, SeqCst);
                                if path == "/app/slow" {
                                    go.wait().await.expect("the test holds it");
                                }
                            }
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                if is_check.load(SeqCst) == 0 {
                    ended.fetch_add(1, SeqCst);
                }
            });
        }
    });
    Http2Server { address, status, requests, ended, accepting }
}

#[tokio::test]
async fn shared_connections_to_a_server_that_is_down_take_no_more_requests() {
    let (go, free) = (Go::new(), Go::new());
    free.steps(1_000);
    let (good, bad) = (http2_server("good", free).await, http2_server("bad", go.clone()).await);
    let servers = [&good, &bad].map(|server| format!("h2c://{}", server.address));
    let proxy = Proxy::configured(1, &upstream("app", &servers, OFTEN)).await;
    eventually("both have connections", || async {
        client::get(proxy.address, "/app").await;
        good.requests.load(SeqCst) > 0 && bad.requests.load(SeqCst) > 0
    })
    .await;
    // Of two requests in turn one is under way at `bad`.
    let before = bad.requests.load(SeqCst);
    let address = proxy.address;
    let slow = [(); 2].map(|()| tokio::spawn(async move { client::get(address, "/app/slow").await.text() }));
    eventually("it is under way", || async { bad.requests.load(SeqCst) > before }).await;
    bad.status.store(500, SeqCst);
    proxy.line(&format!("upstream app: {} is down: 3 checks in a row failed", servers[1])).await;
    only_good_ones_answer(&proxy).await;
    let before = bad.requests.load(SeqCst);
    for _ in 0..50 {
        assert_eq!(client::get(proxy.address, "/app").await.text(), "good");
    }
    assert_eq!(bad.requests.load(SeqCst), before, "a server that is down got a request");
    // What was under way ends as it should, and the connection with it.
    go.steps(1);
    let mut texts = Vec::new();
    for slow in slow {
        texts.push(within("a slow response", slow).await.expect("a response"));
    }
    texts.sort();
    assert_eq!(texts, ["bad", "good"]);
    eventually("the connection has ended", || async { bad.ended.load(SeqCst) > 0 }).await;
    bad.status.store(FINE, SeqCst);
    proxy.line(&format!("upstream app: {} is up: 2 checks in a row passed", servers[1])).await;
    eventually("requests reach it again", || async {
        client::get(proxy.address, "/app").await.text() == "bad"
    })
    .await;
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn checks_by_http2_are_bounded_too() {
    let endless = Origin::scripted(|mut peer: Peer| async move {
        // Settings, and PINGs without end.
        peer.send(b"\0\0\0\x04\0\0\0\0\0").await?;
        loop {
            peer.send(b"\0\0\x08\x06\0\0\0\0\0pingpong".repeat(1_000)).await?;
        }
    })
    .await;
    let version_1 = origin::answers_and_closes(origin::ok("x")).await;
    let silent = origin::http2_only_listens().await;
    let cases = [
        ("endless", endless.address, "timeout = \"30s\""),
        ("version-1", version_1.address, "timeout = \"30s\""),
        ("silent", silent.address, "timeout = \"100ms\", interval = \"20ms\""),
    ];
    let tables =
        cases.iter().map(|(name, address, keys)| upstream(name, &[format!("h2c://{address}")], keys));
    let proxy = Proxy::configured(1, &tables.collect::<String>()).await;
    let mut reasons = Vec::new();
    for (name, address, _) in cases {
        reasons
            .push(proxy.line(&format!("upstream {name}: h2c://{address} is down: a check failed: ")).await);
    }
    assert!(reasons[0].contains("sends too much") || reasons[0].contains("calm"), "{reasons:#?}");
    assert!(reasons[2].starts_with("no response within 100ms"), "{reasons:#?}");
    // A check that was given up leaves no connection behind.
    eventually("more checks", || async { silent.accepted() >= 30 }).await;
    let sockets = proxy.descriptors().iter().filter(|link| link.starts_with("socket:")).count();
    assert!(sockets < 25, "{sockets} sockets");
    proxy.drain().await.assert_clean();
}

// ---- gRPC ----

/// Serves a gRPC service on every connection.
async fn serve_grpc<S, B>(service: S, tls: Option<ServerConfig>) -> SocketAddr
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = tls.map(|mut config| {
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (service, acceptor) = (TowerToHyperService::new(service.clone()), acceptor.clone());
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = match acceptor {
                    None => builder.serve_connection(TokioIo::new(stream), service).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                        Err(_) => Ok(()),
                    },
                };
            });
        }
    });
    address
}

/// A response that no health service gives.
async fn grpc_answers(fields: &'static [(&'static str, &'static str)], body: &'static [u8]) -> SocketAddr {
    let service = tower::service_fn(move |_: Request<Incoming>| async move {
        let mut response = Response::builder();
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(body))).expect("a response"))
    });
    serve_grpc(service, None).await
}

#[tokio::test]
async fn grpc_servers_are_asked_by_the_health_protocol() {
    const SERVICE: &str = "shop.v1.Orders";
    let authority = Authority::new();
    let (reporter, health) = health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let clear = serve_grpc(health.clone(), None).await;
    let secure = serve_grpc(health, Some(authority.issue(&[NAME]).server(BOTH))).await;
    let grpc = "check = \"grpc\", interval = \"20ms\", timeout = \"30s\"";
    let ca =
        format!("tls.ca = \"{}\"\ntls.server_name = \"{NAME}\"\nhealth =", authority.ca_file().display());
    let named = format!("{grpc}, service = \"{SERVICE}\"");
    let tables = [
        upstream("whole", &[format!("h2c://{clear}")], grpc),
        upstream("one", &[format!("h2c://{clear}")], &named),
        upstream("tls", &[format!("https://{secure}")], &named).replacen(
            "health =",
            &format!("protocol = \"h2\"\n{ca}"),
            1,
        ),
        upstream("unknown", &[format!("h2c://{clear}")], &format!("{grpc}, service = \"a.B\"")),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    let line = proxy.line(&format!("upstream unknown: h2c://{clear} is down: a check failed: ")).await;
    assert!(line.starts_with("the server does not know the service `a.B` (NOT_FOUND);"), "{line}");
    let passed =
        async |name: &str, checks: u64| live(&proxy, name, "checks_passed").await.as_u64().unwrap() >= checks;
    for name in ["whole", "one", "tls"] {
        eventually(name, || passed(name, 2)).await;
    }
    assert_eq!(said(&proxy, "is down").len(), 1);
    reporter.set_service_status(SERVICE, ServingStatus::NotServing).await;
    for (name, url) in [("one", format!("h2c://{clear}")), ("tls", format!("https://{secure}"))] {
        let line = proxy.line(&format!("upstream {name}: {url} is down: ")).await;
        assert!(line.starts_with("3 checks in a row failed, the last one: NOT_SERVING; none of 1"), "{line}");
    }
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    for (name, url) in [("one", format!("h2c://{clear}")), ("tls", format!("https://{secure}"))] {
        proxy.line(&format!("upstream {name}: {url} is up: 2 checks in a row passed")).await;
    }
    reporter.set_service_status(SERVICE, ServingStatus::Unknown).await;
    eventually("the second end", || async {
        said(&proxy, "upstream one: ").last().is_some_and(|line| line.contains("the last one: UNKNOWN;"))
    })
    .await;
    assert_eq!(live(&proxy, "whole", "up").await, true);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn grpc_failures_have_their_reason() {
    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    let cases = [
        (
            "unimplemented",
            grpc_answers(&[GRPC, ("grpc-status", "12")], b"").await,
            "the server has no health service (UNIMPLEMENTED)",
        ),
        ("unavailable", grpc_answers(&[GRPC, ("grpc-status", "14")], b"").await, "grpc-status 14"),
        (
            "no-status",
            grpc_answers(&[GRPC], b"\0\0\0\0\x02\x08\x01").await,
            "the call ended without grpc-status",
        ),
        ("html", grpc_answers(&[("content-type", "text/html")], b"hello").await, "the response is not gRPC"),
        (
            "two",
            grpc_answers(&[GRPC, ("grpc-status", "0")], b"\0\0\0\0\x02\x08\x01\0\0\0\0\0").await,
            "the response is not exactly one message",
        ),
        (
            "compressed",
            grpc_answers(&[GRPC, ("grpc-status", "0")], b"\x01\0\0\0\x02\x08\x01").await,
            "the message is compressed",
        ),
        (
            "empty",
            grpc_answers(&[GRPC, ("grpc-status", "0")], b"").await,
            "the response is not exactly one message",
        ),
    ];
    let tables = cases.iter().map(|(name, address, _)| {
        upstream(name, &[format!("h2c://{address}")], "check = \"grpc\", timeout = \"30s\"")
    });
    let proxy = Proxy::configured(1, &tables.collect::<String>()).await;
    let mut wrong = Vec::new();
    for (name, address, reason) in cases {
        let line = proxy.line(&format!("upstream {name}: h2c://{address} is down: a check failed: ")).await;
        if !line.starts_with(reason) {
            wrong.push(format!("{name}: {line}, not {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    proxy.drain().await.assert_clean();
}
