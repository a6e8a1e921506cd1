//! A request on a kept connection costs no heap allocation once the proxy is warm, also one whose path has to be spelled anew;
//! nor do a thousand at once, nor what passes through a tunnel.

use std::time::{Duration, Instant};

use sluice_tests::{
    client::Raw,
    has_ipv6,
    http2::{
        Http2,
        frames::{self, flag},
    },
    many_connections,
    origin::{self, Origin},
    proxy::{Proxy, config_file, counting_binary},
    tls,
    wire::Reader,
};
use tokio::{
    io::AsyncWriteExt,
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    process::Command,
};

const CONNECTIONS: usize = 4;
const REQUESTS: usize = 10_000;
/// Paths as they are mostly sent, and one that is forwarded and compared in forms of its own.
const TARGETS: [&str; 2] = ["/", "/a/..//%62/%40?q=1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_allocate_nothing() {
    let proxy = Counting::start("--listen", "127.0.0.1:0", &[]).await;
    proxy.assert_no_allocation(&[], "").await;
}

/// Conditions of every kind, one of them for a text that is decoded first, an expression for the path, and both kinds of split.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_conditions_allocate_nothing() {
    let origin = origin::answers(origin::ok(&"x".repeat(1024))).await;
    let server = origin.address;
    let tables = format!(
        "listen = ['127.0.0.1:0']\nshards = 1\nlimits.requests_per_connection = 0\n\
         [[upstream]]\nname = 'a'\nservers = ['http://{server}']\n[[upstream]]\nname = 'b'\nservers = ['http://{server}']\n\
         [[route]]\npath_prefix = '/b'\nwhen = ['cookie none']\nupstream = 'a'\n\
         [[route]]\npath_regex = '^/b/@?%40?$'\n\
         when = ['header x-v ~ ^[0-9]+$', 'query q ~ ^1 ?$', 'cookie user', 'client 127.0.0.0/8', 'not header none']\n\
         split = [{{ upstream = 'a' }}, {{ upstream = 'b' }}]\nsplit_by = 'cookie user'\n\
         [[route]]\nsplit = [{{ upstream = 'a' }}, {{ upstream = 'b', weight = 3 }}]\n"
    );
    let file = config_file(".toml", &tables);
    let mut command = Command::new(counting_binary().await);
    command.arg("--config").arg(file.path());
    let proxy = Counting { proxy: Proxy::spawn(command, Some(file)).await, _origin: origin };
    proxy.assert_no_allocation(&[], "X-V: 17\r\nCookie: a=1; user=7\r\n").await;
}

/// A path, a Host and fields made of each request; a redirect and an answer of the route's own. Room for the texts comes from stocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_requests_and_fixed_answers_allocate_nothing() {
    let origin = origin::answers(origin::ok("ok")).await;
    let tables = format!(
        "listen = [\"127.0.0.1:0\"]\nshards = 1\n[[upstream]]\nname = \"a\"\nservers = [\"http://{}\"]\n{EDITS}",
        origin.address
    );
    let config = config_file(".toml", &tables);
    let mut command = Command::new(counting_binary().await);
    command.arg("--config").arg(config.path());
    let proxy = Proxy::spawn(command, Some(config)).await;
    let mut h1 = Raw::connect(proxy.address).await;
    let mut h2 = Http2::connect(proxy.address).await;
    let mut ask_all = async |count: usize| {
        for _ in 0..count / 6 {
            for (path, status) in [("/x/7/y?q=1", 200), ("/go/z", 302), ("/fixed", 200)] {
                assert_eq!(h1.ask("GET", path).await.status(), status);
                assert_eq!(h2.get(path).await.status(), status);
            }
            h2.streams.clear();
        }
    };
    ask_all(1_000).await;
    let mut grown = Vec::new();
    while grown.last() != Some(&0) {
        let before = allocations(&proxy).await;
        ask_all(REQUESTS / 2).await;
        grown.push(allocations(&proxy).await - before);
        assert!(is_warming_up(&grown), "{grown:?} allocations");
    }
}

const EDITS: &str = r#"
[[route]]
path = "/x/{id}/{*rest}"
upstream = "a"
rewrite = "/v2/${path.id}/${path.rest}?${query}&h=${host}"
set_host = "h${path.id}.internal"
request_headers = { set = ["X-Client: ${client.ip}", "X-Id: ${request.id}"], add = ["X-Fixed: 1"], remove = ["Cookie"] }
response_headers = { set = ["X-Path: ${path}", "Server: mine"], add = ["X-Fixed: 1"] }
[[route]]
path = "/go/{where}"
redirect = "https://${host}/${path.where}"
[[route]]
path = "/fixed"
respond = { body = "fixed" }
response_headers.set = ["X-Path: ${uri}"]
"#;

/// A handshake allocates, a request behind it does not: sessions, ciphers and the buffers of records come from stocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_tls_allocate_nothing() {
    let authority = tls::Authority::new();
    let identity = authority.issue(&[tls::NAME]);
    let proxy = Counting::start("--listen-tls", "127.0.0.1:0", &identity.flags()).await;
    for versions in [tls::ONLY_13, tls::ONLY_12] {
        let config = authority.client(versions);
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(tls::Client::connect(proxy.proxy.address, &config).await);
        }
        let mut ask_all = async |count: usize| {
            for _ in 0..count {
                for client in &mut clients {
                    assert_eq!(client.ask("GET", "/").await.status(), 200);
                }
            }
        };
        ask_all(200).await;
        let mut grown = Vec::new();
        while grown.last() != Some(&0) {
            let before = allocations(&proxy.proxy).await;
            ask_all(REQUESTS / CONNECTIONS / 2).await;
            grown.push(allocations(&proxy.proxy).await - before);
            assert!(is_warming_up(&grown), "{grown:?} allocations during {} requests each", REQUESTS / 2);
        }
    }
}

/// One request after the other, between which the connections rest, and many at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_by_http2_allocate_nothing() {
    let proxy = Counting::start("--listen", "127.0.0.1:0", &["--limit-requests-per-connection=0"]).await;
    for at_once in [1, 20] {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Http2::connect(proxy.proxy.address).await);
        }
        let mut ask_all = async |count: usize| {
            for _ in 0..count / at_once {
                for client in &mut clients {
                    let mut streams = Vec::new();
                    for _ in 0..at_once {
                        streams.push(client.ask("GET", "/", &[("x-some", "field")]).await);
                    }
                    for stream in streams {
                        assert_eq!(client.answer(stream).await.status(), 200);
                    }
                    client.streams.clear();
                }
            }
        };
        ask_all(REQUESTS / CONNECTIONS / 2).await;
        let mut grown = Vec::new();
        while grown.last() != Some(&0) {
            let before = allocations(&proxy.proxy).await;
            ask_all(REQUESTS / CONNECTIONS / 2).await;
            grown.push(allocations(&proxy.proxy).await - before);
            assert!(is_warming_up(&grown), "{grown:?} allocations, {at_once} at once");
        }
    }
}

/// With their trailers, on shared connections to a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_grpc_allocate_nothing() {
    let origin = origin::ends_calls().await;
    let mut command = Command::new(counting_binary().await);
    let upstream = format!("h2c://{}", origin.address);
    command.args(["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream]);
    let proxy = Proxy::spawn(command, None).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut call = async |count: usize| {
        for _ in 0..count / 10 {
            let mut streams = Vec::new();
            for _ in 0..10 {
                let stream = client.open("POST", "/S/M", &[("content-type", "application/grpc")]).await;
                client.send(frames::data(stream, flag::END_STREAM, b"\0\0\0\0\x03abc")).await;
                streams.push(stream);
            }
            for stream in streams {
                let answer = client.answer(stream).await;
                let trailers = answer.trailers.expect("a status");
                assert_eq!(trailers.first("grpc-status"), Some("0"));
            }
            client.streams.clear();
        }
    };
    call(500).await;
    let mut grown = Vec::new();
    while grown.last() != Some(&0) {
        let before = allocations(&proxy).await;
        call(REQUESTS / CONNECTIONS).await;
        grown.push(allocations(&proxy).await - before);
        assert!(is_warming_up(&grown), "{grown:?} allocations");
    }
}

/// What is decoded and encoded on the way takes its memory from stocks. The server sends no trailers, which take memory of their own
/// over HTTP/1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_grpc_web_allocate_nothing() {
    const MESSAGE: &str = "\0\0\0\0\x03abc";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
    let origin = origin::answers(format!("{head}8\r\n{MESSAGE}\r\n0\r\n\r\n")).await;
    let tables = format!(
        "[limits]\nrequests_per_connection = 0\n[[upstream]]\nname = \"a\"\nservers = [\"http://{}\"]\n\
         [[route]]\nupstream = \"a\"\ngrpc_web = true\n",
        origin.address
    );
    let config = config_file(".toml", &format!("listen = [\"127.0.0.1:0\"]\nshards = 1\n{tables}"));
    let mut command = Command::new(counting_binary().await);
    command.arg("--config").arg(config.path());
    let proxy = Proxy::spawn(command, Some(config)).await;
    let mut client = Raw::connect(proxy.address).await;
    let mut call = async |count: usize| {
        for _ in 0..count {
            client
                .send(
                    "POST /S/M HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web-text\r\ngrpc-timeout: 1H\r\n\
                     Content-Length: 12\r\n\r\nAAAAAANhYmM=",
                )
                .await;
            assert_eq!(client.answer_to("POST").await.text(), "AAAAAANhYmM=");
        }
    };
    call(200).await;
    let mut grown = Vec::new();
    while grown.last() != Some(&0) {
        let before = allocations(&proxy).await;
        call(REQUESTS / CONNECTIONS).await;
        grown.push(allocations(&proxy).await - before);
        assert!(is_warming_up(&grown), "{grown:?} allocations");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_found_past_trusted_proxies_allocate_nothing() {
    let flags = ["--trusted-proxy", "::1", "--trusted-proxy", "fd00::/8", "--forwarding-fields", "both"];
    if !has_ipv6() {
        return;
    }
    let proxy =
        Counting::start("--listen", "[::1]:0", &[&flags[..], &["--forwarding-real-ip", "set"]].concat())
            .await;
    let fields = "X-Forwarded-For: 6.6.6.6, [2001:db8::7]:4711, fd00::1, fd00:1:2:3:4:5:6:7\r\n\
        X-Forwarded-Proto: https\r\nX-Request-Id: a\r\nX_Custom: b\r\nX-Forwarded-Prefix: /c\r\n";
    proxy.assert_no_allocation(&[], fields).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_announced_on_both_sides_allocate_nothing() {
    let flags = ["--proxy-protocol-from", "::1", "--upstream-proxy-protocol", "v1"];
    if !has_ipv6() {
        return;
    }
    let origin = origin::expects_proxy_line().await;
    let proxy = Counting::in_front_of(origin, "--listen-proxy-protocol", "[::1]:0", &flags).await;
    proxy.assert_no_allocation(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_announced_to_servers_allocate_nothing() {
    for listen in loopback() {
        let origin = origin::expects_proxy_line().await;
        let proxy =
            Counting::in_front_of(origin, "--listen", listen, &["--upstream-proxy-protocol", "v1"]).await;
        proxy.assert_no_allocation(&[], "").await;
    }
}

/// What a peak takes is kept as long as the next ones need it, although memory that nothing needs is given back every second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_in_flight_allocate_nothing() {
    let many = many_connections(1_000, 2).await;
    peaks_allocate_nothing(many.count, 1024).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_in_flight_allocate_nothing() {
    let many = many_connections(64, 2).await;
    peaks_allocate_nothing(many.count, 100_000).await;
}

/// Has so many requests in flight at once, again and again for some seconds, on connections that are kept.
async fn peaks_allocate_nothing(in_flight: usize, body_bytes: usize) {
    /// Memory is given back every second.
    const LOOKS: Duration = Duration::from_secs(3);
    /// The host may keep a round from meeting in time, and then some of the memory of a peak goes.
    const WINDOWS: usize = 6;
    let origin = origin::answers_together(in_flight, origin::ok(&"x".repeat(body_bytes))).await;
    let proxy = Counting::in_front_of(origin, "--listen", "127.0.0.1:0", &[]).await;
    let mut clients = Vec::new();
    for _ in 0..in_flight {
        clients.push(Raw::connect(proxy.proxy.address).await);
    }
    clients = ask_all(clients, "", 5).await;
    let mut grown = Vec::new();
    while grown.last() != Some(&0) {
        assert!(grown.len() < WINDOWS, "{grown:?} allocations with {in_flight} requests in flight");
        let (before, began) = (allocations(&proxy.proxy).await, Instant::now());
        while began.elapsed() < LOOKS {
            clients = ask_all(clients, "", 5).await;
        }
        assert_eq!(clients.len(), in_flight, "all were open to the end");
        grown.push(allocations(&proxy.proxy).await - before);
    }
}

/// Floods that are spliced, and small messages there and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_tunnels_allocates_nothing() {
    const MESSAGES: usize = 2_500;
    const FLOOD: usize = 1_000_000;
    let origin = origin::switches_and_echoes().await;
    let proxy = Counting::in_front_of(origin, "--listen", "127.0.0.1:0", &["--upgrade", "own"]).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Raw::connect(proxy.proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n").await;
        assert_eq!(client.head().await.status().unwrap(), 101);
        clients.push(client.split());
    }
    let talk = async |clients: Vec<_>, messages| {
        let talking =
            clients.into_iter().map(|(mut reader, mut writer): (Reader<OwnedReadHalf>, OwnedWriteHalf)| {
                tokio::spawn(async move {
                    for bytes in [FLOOD; 8].into_iter().chain(std::iter::repeat_n(100, messages)) {
                        let sent = vec![b'x'; bytes];
                        let saying = tokio::spawn(async move {
                            writer.write_all(&sent).await.expect("the proxy takes it");
                            writer
                        });
                        let mut back = 0;
                        while back < bytes {
                            back += reader.some().await.expect("no error").expect("all comes back").len();
                        }
                        writer = saying.await.expect("all was sent");
                    }
                    (reader, writer)
                })
            });
        let mut clients = Vec::new();
        for client in talking.collect::<Vec<_>>() {
            clients.push(client.await.expect("every message comes back"));
        }
        clients
    };
    let mut clients = talk(clients, 500).await;
    let mut grown = Vec::new();
    while grown.last() != Some(&0) {
        let before = allocations(&proxy.proxy).await;
        clients = talk(clients, MESSAGES).await;
        assert_eq!(clients.len(), CONNECTIONS, "all were open to the end");
        grown.push(allocations(&proxy.proxy).await - before);
        let messages = CONNECTIONS * MESSAGES;
        assert!(is_warming_up(&grown), "{grown:?} allocations of the shard during {messages} messages each");
    }
}

/// Whether so many allocations in one round after the other may be those of new peaks: more floods or receives that met than ever
/// before. How many meet is the host's affair, but there is an end to it; what each request allocates comes to thousands.
fn is_warming_up(grown: &[u64]) -> bool {
    grown.len() <= 6 && grown.iter().all(|&grown| grown < 30)
}

/// IPv6 peers have their addresses beside the table: that must not cost anything when they come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_and_go_allocate_nothing() {
    for listen in loopback() {
        let proxy = Counting::start("--listen", listen, &[]).await;
        let come_and_go = async |count: usize| {
            for _ in 0..count {
                let mut client = Raw::connect(proxy.proxy.address).await;
                client.ask("GET", "/").await;
            }
            proxy.proxy.counters_until("all are gone", |counters| counters.connections == 0).await;
        };
        come_and_go(300).await;
        let before = allocations(&proxy.proxy).await;
        come_and_go(1_000).await;
        assert_eq!(allocations(&proxy.proxy).await - before, 0, "allocations for connections to {listen}");
    }
}

/// A free port of each kind of loopback address that this host has.
fn loopback() -> impl Iterator<Item = &'static str> {
    ["127.0.0.1:0"].into_iter().chain(has_ipv6().then_some("[::1]:0"))
}

/// A proxy that counts its allocations, in front of an origin of its own.
struct Counting {
    proxy: Proxy,
    _origin: Origin,
}

impl Counting {
    async fn start(listen: &str, address: &str, flags: &[&str]) -> Self {
        let origin = origin::answers(origin::ok(&"x".repeat(1024))).await;
        Self::in_front_of(origin, listen, address, flags).await
    }

    async fn in_front_of(origin: Origin, listen: &str, address: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(counting_binary().await);
        let upstream = format!("http://{}", origin.address);
        command.args([listen, address, "--shards", "1", "--upstream", &upstream]).args(flags);
        // The connections must outlive the measurement.
        command.arg("--limit-requests-per-connection=0");
        Self { proxy: Proxy::spawn(command, None).await, _origin: origin }
    }

    /// Ten thousand requests with these fields, on connections that begin with these bytes.
    async fn assert_no_allocation(&self, begin: &[u8], fields: &'static str) {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Raw::connect(self.proxy.address).await;
            client.send(begin).await;
            clients.push(client);
        }
        let mut clients = ask_all(clients, fields, 500).await;
        let mut grown = Vec::new();
        while grown.last() != Some(&0) {
            let before = allocations(&self.proxy).await;
            clients = ask_all(clients, fields, REQUESTS / CONNECTIONS).await;
            assert_eq!(clients.len(), CONNECTIONS, "all were open to the end");
            grown.push(allocations(&self.proxy).await - before);
            assert!(
                is_warming_up(&grown),
                "{grown:?} allocations of the shard during {REQUESTS} requests each"
            );
        }
    }
}

async fn allocations(proxy: &Proxy) -> u64 {
    let counted = proxy.counters().await.allocations;
    assert_ne!(counted, 0, "starting allocates, so this binary does not count");
    counted
}

/// Sends `requests` on each connection, all connections at once.
async fn ask_all(clients: Vec<Raw>, fields: &'static str, requests: usize) -> Vec<Raw> {
    let asking = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            for target in TARGETS.iter().cycle().take(requests) {
                client.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).await;
                assert_eq!(client.answer_to("GET").await.status(), 200);
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
