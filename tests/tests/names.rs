//! Where servers come from: names that are resolved again by their TTL, SRV records, and files that change.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use sluice_tests::{
    client::{self, Raw},
    dns::Dns,
    eventually,
    proxy::{self, Proxy, config_file},
    within,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};

/// A server that answers each request with its own name, on kept connections.
struct Server {
    address: SocketAddr,
    open: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, name: &'static str) -> Server {
    let address = listener.local_addr().expect("bound");
    let open = watch::Sender::new(0);
    let count = open.clone();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            let count = count.clone();
            connections.spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|bytes| bytes > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                }
                count.send_modify(|count| *count -= 1);
            });
        }
    });
    Server { address, open, task }
}

/// Servers at one port of several addresses of this host.
async fn servers<const N: usize>(names: [(&'static str, &str); N]) -> Vec<Server> {
    'ports: loop {
        let first = TcpListener::bind((names[0].1, 0)).await.expect("an address of this host");
        let port = first.local_addr().expect("bound").port();
        let mut listeners = vec![first];
        for (_, address) in &names[1..] {
            match TcpListener::bind((*address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'ports,
            }
        }
        let mut servers = Vec::new();
        for (listener, (name, _)) in listeners.into_iter().zip(names) {
            servers.push(serve(listener, name).await);
        }
        return servers;
    }
}

fn upstream(servers: &str, keys: &str) -> String {
    format!("[[upstream]]\nname = \"a\"\n{servers}\n{keys}\n[[route]]\nupstream = \"a\"\n")
}

fn at(name: &str, server: &Server) -> String {
    format!("servers = [\"http://{name}:{}\"]", server.address.port())
}

/// How often which server answers.
async fn answers(proxy: &Proxy, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Raw::connect(proxy.address).await;
    let mut answers = BTreeMap::new();
    for _ in 0..requests {
        *answers.entry(client.ask("GET", "/").await.text()).or_default() += 1;
    }
    answers
}

/// Until all requests go to this server.
async fn settles_on(proxy: &Proxy, name: &str) {
    eventually(name, async || answers(proxy, 4).await.keys().eq([name])).await;
}

/// Clients that ask all the time; every response that is not 200 is an error.
async fn under_load(address: SocketAddr, mut ended: watch::Receiver<bool>) -> usize {
    let mut client = Raw::connect(address).await;
    let mut requests = 0;
    while !*ended.borrow_and_update() {
        assert_eq!(client.ask("GET", "/").await.status(), 200);
        requests += 1;
    }
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_moves_under_load_without_an_error() {
    let dns = Dns::start().await;
    let servers = servers([("old", "127.0.0.2"), ("new", "127.0.0.3")]).await;
    dns.set("app.test", 1, &["127.0.0.2"]);
    let proxy = Proxy::configured(1, &upstream(&at("app.test", &servers[0]), &dns.keys(""))).await;
    settles_on(&proxy, "old").await;
    let (end, ended) = watch::channel(false);
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(under_load(proxy.address, ended.clone()))).collect();
    dns.set("app.test", 1, &["127.0.0.3"]);
    let begun = Instant::now();
    let port = servers[0].address.port();
    proxy
        .line(&format!(
            "upstream a: http://app.test:{port} is at 127.0.0.3:{port} now, not at 127.0.0.2:{port}"
        ))
        .await;
    settles_on(&proxy, "new").await;
    let took = begun.elapsed();
    // Connections to the old address end: the idle ones at once, the busy ones with their requests.
    let mut open = servers[0].open.subscribe();
    within("the old server is left alone", open.wait_for(|open| *open == 0)).await.expect("it is there");
    end.send_replace(true);
    for client in clients {
        assert!(within("a client", client).await.expect("no error") > 0);
    }
    // TTL and a second; the rest is for a busy machine.
    assert!(took < Duration::from_secs(2 + 8), "{took:?}");
    assert_eq!(proxy.counters().await.named("local_responses"), 0);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn what_was_known_stays_while_the_name_server_is_silent_or_knows_nothing() {
    let dns = Dns::start().await;
    let servers = servers([("old", "127.0.0.2"), ("new", "127.0.0.3")]).await;
    dns.set("app.test", 0, &["127.0.0.2"]);
    let proxy = Proxy::configured(1, &upstream(&at("app.test", &servers[0]), &dns.keys(""))).await;
    dns.be_silent(true);
    proxy
        .line(&format!(
            "upstream a: http://app.test:{} cannot be resolved, its addresses stay",
            servers[0].address.port()
        ))
        .await;
    assert_eq!(answers(&proxy, 10).await, BTreeMap::from([("old".to_owned(), 10)]));
    dns.set("app.test", 0, &[]);
    dns.be_silent(false);
    let asked = dns.questions();
    eventually("more questions", async || dns.questions() > asked + 4).await;
    assert_eq!(answers(&proxy, 10).await, BTreeMap::from([("old".to_owned(), 10)]));
    let said = proxy.messages().iter().filter(|line| line.contains("cannot be resolved")).count();
    assert_eq!(said, 1, "once for each time");
    dns.set("app.test", 0, &["127.0.0.3"]);
    settles_on(&proxy, "new").await;
    proxy.line("upstream a: http://app.test:").await;
}

#[tokio::test]
async fn each_address_is_a_server_if_that_is_asked_for() {
    let dns = Dns::start().await;
    let servers = servers([("2", "127.0.0.2"), ("3", "127.0.0.3"), ("4", "127.0.0.4")]).await;
    dns.set("app.test", 0, &["127.0.0.2", "127.0.0.3"]);
    let health = "\nhealth = { check = \"tcp\", interval = \"50ms\" }";
    let keys = format!("{}{health}", dns.keys(", each = true"));
    let proxy = Proxy::configured(1, &upstream(&at("app.test", &servers[0]), &keys)).await;
    let counted = |names: [&str; 2]| BTreeMap::from(names.map(|name| (name.to_owned(), 10)));
    assert_eq!(answers(&proxy, 20).await, counted(["2", "3"]));
    dns.set("app.test", 0, &["127.0.0.4", "127.0.0.3"]);
    eventually("the third", async || answers(&proxy, 20).await == counted(["3", "4"])).await;
    // The connection to the address that has stayed has stayed too.
    assert!(*servers[1].open.borrow() >= 1);
    eventually("the end of the others", async || *servers[0].open.borrow() == 0).await;
    // Those that are checked are those that there are.
    let wanted: Vec<String> = ["127.0.0.3", "127.0.0.4"]
        .map(|ip| format!("http://app.test:{} ({ip})", servers[0].address.port()))
        .into();
    let checked = async || {
        let live = proxy.whole_live().await;
        let servers = live["servers"].as_array().expect("a list").clone();
        let names: Vec<_> =
            servers.iter().filter_map(|server| server["server"].as_str().map(str::to_owned)).collect();
        names == wanted && servers.iter().all(|server| server["checks_passed"].as_u64() > Some(0))
    };
    eventually("the checks of those that there are", checked).await;
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn srv_records_name_hosts_and_ports() {
    let dns = Dns::start().await;
    let [one, two, three] = [
        servers([("one", "127.0.0.2")]).await.remove(0),
        servers([("two", "127.0.0.3")]).await.remove(0),
        servers([("three", "127.0.0.4")]).await.remove(0),
    ];
    dns.set("h2.test", 60, &["127.0.0.2"]);
    dns.set("h3.test", 60, &["127.0.0.3"]);
    dns.set("h4.test", 60, &["127.0.0.4"]);
    let port = |server: &Server| server.address.port();
    dns.set_services(
        "_http._tcp.app.test",
        0,
        &[(10, 1, port(&one), "h2.test"), (10, 1, port(&two), "h3.test"), (20, 1, port(&three), "h4.test")],
    );
    let keys = format!("send_host = \"server\"\n{}", dns.keys(""));
    let proxy =
        Proxy::configured(1, &upstream("servers = [\"srv+http://_http._tcp.app.test\"]", &keys)).await;
    // The lowest priority has all requests.
    assert_eq!(answers(&proxy, 20).await, BTreeMap::from(["one", "two"].map(|name| (name.to_owned(), 10))));
    let counted = |counts: [(&str, usize); 2]| counts.map(|(name, count)| (name.to_owned(), count)).into();
    // Weights are shares; a host of a higher priority that does not resolve is no matter.
    dns.set_services(
        "_http._tcp.app.test",
        0,
        &[
            (20, 1, port(&three), "h4.test"),
            (10, 10, port(&one), "h2.test"),
            (10, 30, port(&two), "h3.test"),
            (30, 1, 80, "missing.test"),
        ],
    );
    eventually("shares by weight", async || answers(&proxy, 20).await == counted([("one", 5), ("two", 15)]))
        .await;
    // A higher priority gets requests when the lower ones are gone, and none from then on that they are back.
    dns.set("h2.test", 0, &["127.0.0.5"]);
    dns.set("h3.test", 0, &["127.0.0.5"]);
    eventually("the backup", async || answers(&proxy, 4).await.keys().eq(["three"])).await;
    dns.set("h3.test", 0, &["127.0.0.3"]);
    eventually("no backup", async || answers(&proxy, 4).await.keys().eq(["two"])).await;
    dns.set_services("_http._tcp.app.test", 0, &[(20, 1, port(&three), "h4.test")]);
    settles_on(&proxy, "three").await;
    proxy.drain().await.assert_clean();
}

/// A dead address costs a quarter of a second, not the whole time to connect.
#[tokio::test]
async fn an_address_that_does_not_answer_delays_no_request_for_long() {
    let dns = Dns::start().await;
    let server = servers([("alive", "127.0.0.3")]).await.remove(0);
    // Nobody accepts here, and the queue is full: the kernel drops what comes.
    let dead = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    dead.bind(&SocketAddr::from(([127, 0, 0, 2], server.address.port())).into()).expect("a free port");
    dead.listen(0).expect("a bound socket");
    let _fills_the_queue =
        std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 2], server.address.port())))
            .expect("room for one");
    dns.set("app.test", 60, &["127.0.0.2", "127.0.0.3"]);
    let keys = format!("timeouts.upstream_connect = \"10m\"\n{}", dns.keys(""));
    let proxy = Proxy::configured(1, &upstream(&at("app.test", &server), &keys)).await;
    assert_eq!(answers(&proxy, 3).await.keys().collect::<Vec<_>>(), ["alive"]);
    // The attempt that was given up holds nothing.
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_name_that_does_not_resolve_at_the_start_is_an_error() {
    let dns = Dns::start().await;
    let text = format!(
        "listen = [\"127.0.0.1:0\"]\n{}",
        upstream("servers = [\"http://missing.test\"]", &dns.keys(""))
    );
    let config = config_file(".toml", &text);
    let config = config.path().to_str().expect("a path");
    for arguments in [&["--config", config][..], &["check", "--config", config]] {
        let finished = proxy::run(arguments).await;
        assert!(
            finished.code == Some(1) && finished.stderr.contains("cannot resolve server `missing.test`"),
            "{finished:?}"
        );
    }
}

/// A new file in the place of the old one.
fn put(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).expect("a writable folder");
    fs::rename(&temporary, path).expect("a writable folder");
}

#[tokio::test]
async fn servers_of_a_file_change_with_it_and_a_bad_file_changes_nothing() {
    let servers = servers([("2", "127.0.0.2"), ("3", "127.0.0.3"), ("4", "127.0.0.4")]).await;
    let line = |n: usize| format!("http://{}\n", servers[n].address);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("servers");
    put(&path, &format!("# our servers\n\n{}", line(0)));
    let file = format!("servers_file = \"{}\"", path.display());
    let proxy = Proxy::configured(1, &upstream("", &file)).await;
    assert_eq!(answers(&proxy, 10).await.keys().collect::<Vec<_>>(), ["2"]);
    put(&path, &format!("{} # with a remark\n{}", line(1).trim(), line(2)));
    let both = || BTreeMap::from(["3", "4"].map(|name| (name.to_owned(), 10)));
    eventually("the others", async || answers(&proxy, 20).await == both()).await;
    for (bad, words) in [
        (format!("{}ftp://a\n", line(0)), ":2: `ftp://a`: this scheme is not supported"),
        (String::new(), "there is no server in it"),
        (format!("{0}{0}", line(0)), "is there twice"),
        (format!("{} weight=1001\n", line(0).trim()), ":1: `weight=1001` is too large (hint: at most 1000)"),
        (format!("{} weight=x\n", line(0).trim()), ":1: `weight=x`: "),
        (
            format!("{} max_conns=3\n", line(0).trim()),
            ":1: `max_conns=3` says nothing here (hint: behind a server are weight=3, backup, connections=50)",
        ),
        (format!("{} backup=yes\n", line(0).trim()), ":1: `backup=yes` says nothing here"),
        (format!("{} weight=2 weight=3\n", line(0).trim()), ":1: `weight` is there twice"),
        (format!("{0}{1} weight=2\n", line(0), line(0).trim()), ":2: `http://"),
        (format!("{} backup\n", line(0).trim()), "every server is a backup or has weight 0"),
        ("h2c://127.0.0.1:1\n".to_owned(), ":1: `h2c://127.0.0.1:1` is HTTP/2"),
        ("https://127.0.0.1:1\n".to_owned(), ":1: `https://127.0.0.1:1` is TLS"),
    ] {
        put(&path, &bad);
        let is_said = async || {
            proxy
                .messages()
                .iter()
                .any(|line| line.starts_with("upstream a: its servers stay: ") && line.contains(words))
        };
        eventually(words, is_said).await;
        assert_eq!(answers(&proxy, 20).await, both(), "{bad}");
    }
    fs::remove_file(&path).expect("our file");
    eventually("a line for it", async || proxy.messages().iter().any(|line| line.contains("cannot read")))
        .await;
    assert_eq!(answers(&proxy, 20).await, both());
    put(&path, &line(0));
    settles_on(&proxy, "2").await;
    proxy.drain().await.assert_clean();
}

/// How many servers there are for shards.
async fn servers_in_force(metrics: &str) -> usize {
    let answer = client::reqwest().get(metrics).send().await.expect("metrics");
    let text = answer.text().await.expect("text");
    text.lines().filter(|line| line.starts_with("sluice_upstream_server_up{")).count()
}

/// Thousands of servers are in force all at once, not by and by, and so is what corrects them.
#[tokio::test]
async fn a_long_file_is_taken_over_as_a_whole() {
    const MANY: usize = 2_000;
    let servers = servers([("2", "127.0.0.2")]).await;
    let good = format!("http://{}\n", servers[0].address);
    let many: String = (0..MANY).map(|n| format!("http://127.1.{}.{}:9\n", n / 200, n % 200 + 1)).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("servers");
    put(&path, &good);
    let group = upstream("", &format!("servers_file = \"{}\"", path.display()));
    let proxy = Proxy::configured(1, &format!("metrics = \"127.0.0.1:0\"\n{group}")).await;
    let metrics = format!("http://{}", proxy.line("metrics on http://").await);
    assert_eq!(servers_in_force(&metrics).await, 1);
    for (text, before, now) in [(&many, 1, MANY), (&good, MANY, 1)] {
        put(&path, text);
        eventually("the other servers", async || {
            let count = servers_in_force(&metrics).await;
            assert!([before, now].contains(&count), "{count} of {now} servers are in force");
            count == now
        })
        .await;
    }
    settles_on(&proxy, "2").await;
    assert!(proxy.messages().iter().any(|line| line.contains("has 2000 servers now (2000 new, 1 gone)")));
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn servers_of_a_file_have_weights_and_backups() {
    let servers = servers([("2", "127.0.0.2"), ("3", "127.0.0.3"), ("4", "127.0.0.4")]).await;
    let dns = Dns::start().await;
    dns.set("app.test", 0, &["127.0.0.2"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("servers");
    let write = |shares: [&str; 3]| {
        let hosts = [format!("app.test:{}", servers[0].address.port())];
        let others = servers[1..].iter().map(|server| server.address.to_string());
        let hosts = hosts.into_iter().chain(others).zip(shares);
        let lines = hosts.map(|(host, share)| format!("http://{host}{share}\n"));
        put(&path, &lines.collect::<String>());
    };
    write([" weight=4", "", " backup"]);
    let file = format!("servers_file = \"{}\"", path.display());
    let proxy = Proxy::configured(1, &upstream("", &format!("{file}\n{}", dns.keys("")))).await;
    let counted = |counts: [(&str, usize); 2]| counts.map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(answers(&proxy, 20).await, counted([("2", 16), ("3", 4)]));
    let connects = proxy.counters().await.upstream_connects;
    // No name is asked for: other shares are no other servers.
    dns.be_silent(true);
    write([" weight=1 # as all", "\tweight=3  connections=5", " backup"]);
    eventually("other shares", async || answers(&proxy, 20).await == counted([("2", 5), ("3", 15)])).await;
    assert_eq!(proxy.counters().await.upstream_connects, connects, "connections are kept");
    write([" weight=0", " weight=0", ""]);
    settles_on(&proxy, "4").await;
    proxy.drain().await.assert_clean();
}
