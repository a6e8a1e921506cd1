//! From the command line to the last line on stderr: starting, refusing to start, draining, and the
//! commands that do not proxy.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sluice_tests::{
    assert_took,
    client::{self, Raw},
    cpus::{two_cpus, usable_cpus},
    has_ipv6, origin,
    proxy::{self, Finished, Proxy, config_file},
};
use tokio::{net::TcpStream, process::Command};

#[tokio::test]
async fn it_says_when_and_where_it_is_ready() {
    let origin = origin::real("real").await;
    let upstream = format!("http://{}", origin.address);
    let listeners = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let shards = usable_cpus().len().min(2);
    let flags = ["--shards", &shards.to_string(), "--upstream", &upstream];
    let proxy = Proxy::start(&[&listeners[..], &flags].concat()).await;
    let stderr = proxy.messages();
    let listening = positions(&stderr, "listening on 127.0.0.1:");
    let ready = positions(&stderr, ["", "ready (1 shard)", "ready (2 shards)"][shards]);
    assert!(listening.len() == 2 && ready.len() == 1 && listening[1] < ready[0], "{stderr:#?}");
    for line in listening {
        let address = stderr[line].rsplit(' ').next().unwrap().parse().expect("an address");
        assert_eq!(client::get(address, "/").await.text(), "real");
    }
}

/// The numbers of the lines that start like this.
fn positions(lines: &[String], start: &str) -> Vec<usize> {
    lines.iter().enumerate().filter(|(_, line)| line.starts_with(start)).map(|(nth, _)| nth).collect()
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_closes_what_is_idle() {
    for signal in [Signal::TERM, Signal::INT] {
        let go = origin::Go::new();
        let origin = origin::answers_on_signal(go.clone()).await;
        let proxy = Proxy::to(origin.address).await;
        let mut idle = Raw::connect(proxy.address).await;
        let mut used = Raw::connect(proxy.address).await;
        go.steps(1);
        assert_eq!(used.ask("GET", "/").await.text(), "signalled");
        let mut busy = Raw::connect(proxy.address).await;
        busy.send("GET /busy HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let has = |all: &[origin::Traffic]| String::from_utf8_lossy(&all[0].bytes).contains("/busy");
        origin.recorder.wait_for("the request in flight", has).await;

        proxy.signal(signal);
        idle.assert_closed().await;
        used.assert_closed().await;
        let refused = async || TcpStream::connect(proxy.address).await.is_err();
        sluice_tests::eventually("new connections are refused", refused).await;
        go.steps(1);
        let answer = busy.answer_to("GET").await;
        assert_eq!(answer.text(), "signalled");
        assert!(answer.head.fields.lists("connection", "close"), "{:?}", answer.head);
        busy.assert_closed().await;
        proxy.stopped().await.assert_clean();
    }
}

#[tokio::test]
async fn a_drain_finishes_a_body_in_flight() {
    const EVENTS: &[&str] = &["one", "two"];
    let go = origin::Go::new();
    let origin = origin::sends_events(EVENTS, go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let framing = client.head().await.response_framing("GET").unwrap();
    proxy.signal(Signal::TERM);
    let refused = async || TcpStream::connect(proxy.address).await.is_err();
    sluice_tests::eventually("the drain begins", refused).await;
    go.steps(EVENTS.len());
    let mut body = Vec::new();
    client.body_to(framing, |piece| body.extend_from_slice(piece)).await.unwrap();
    assert_eq!(body, b"onetwo");
    proxy.stopped().await.assert_clean();
}

/// The answer that was under way when the drain began did not say that it is the last.
#[tokio::test]
async fn a_drain_answers_the_request_behind_an_answer_in_flight() {
    for is_sent_before in [true, false] {
        const NEXT: &str = "POST /next HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
        let go = origin::Go::new();
        let origin = origin::takes_its_time(go.clone()).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
        if is_sent_before {
            client.send(NEXT).await;
        }
        let head = client.head().await;
        assert!(!head.fields.lists("connection", "close"), "{head:?}");
        proxy.signal(Signal::TERM);
        let refused = async || TcpStream::connect(proxy.address).await.is_err();
        sluice_tests::eventually("the drain begins", refused).await;
        if !is_sent_before {
            client.send(NEXT).await;
        }
        go.steps(1);
        client.body_to(head.response_framing("GET").unwrap(), |_| {}).await.unwrap();
        let answer = client.answer_to("POST").await;
        assert_eq!(answer.text(), "/next");
        assert!(answer.head.fields.lists("connection", "close"), "{:?}", answer.head);
        client.assert_closed().await;
        proxy.stopped().await.assert_clean();
    }
}

#[tokio::test]
async fn the_drain_timeout_cuts_what_does_not_end() {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to_with(origin.address, &["--drain-timeout=300ms"]).await;
    let mut client = busy_client(&proxy, &origin).await;
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    assert!(client.response("GET").await.is_err(), "there is no answer to give");
    let stopped = proxy.stopped().await;
    assert_took(begun, Duration::from_millis(300), Duration::from_secs(10));
    assert_eq!(stopped.status.code(), Some(0), "{:#?}", stopped.stderr);
}

#[tokio::test]
async fn a_second_signal_ends_at_once_a_second_after_the_first() {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to_with(origin.address, &["--drain-timeout=10m"]).await;
    let mut client = busy_client(&proxy, &origin).await;
    let mut idle = Raw::connect(proxy.address).await;
    let begun = Instant::now();
    proxy.signal(Signal::TERM);
    idle.assert_closed().await;
    let is_ended = || proxy.messages().iter().any(|line| line.starts_with("ended at once"));
    while !is_ended() {
        assert!(begun.elapsed() < sluice_tests::PATIENCE, "{:#?}", proxy.stderr());
        if begun.elapsed() > Duration::from_secs(1) {
            proxy.signal(Signal::TERM);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stopped = proxy.stopped().await;
    assert_eq!(stopped.status.code(), Some(0), "{:#?}", stopped.stderr);
    assert!(client.response("GET").await.is_err());
}

/// A supervisor may signal the process and its group at once: that is one signal, and aborts no request.
#[tokio::test]
async fn two_signals_at_once_are_one() {
    let go = origin::Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--drain-timeout=10m"]).await;
    let mut client = busy_client(&proxy, &origin).await;
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::INT);
    proxy.line("signal ignored: ").await;
    go.steps(1);
    assert_eq!(client.answer_to("GET").await.text(), "signalled");
    proxy.stopped().await.assert_clean();
}

/// Operators of other proxies send SIGHUP to reload, and log rotation does: it must not abort requests.
#[tokio::test]
async fn a_hangup_ends_nothing_and_a_quit_drains() {
    let go = origin::Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--drain-timeout=10m"]).await;
    let mut client = busy_client(&proxy, &origin).await;
    proxy.signal(Signal::HUP);
    proxy.line("SIGHUP ignored: ").await;
    proxy.signal(Signal::QUIT);
    proxy.line("draining for at most").await;
    go.steps(1);
    assert_eq!(client.answer_to("GET").await.text(), "signalled");
    proxy.stopped().await.assert_clean();
}

/// A client whose request is at an origin that does not answer.
async fn busy_client(proxy: &Proxy, origin: &origin::Origin) -> Raw {
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.recorder.wait_for("the request", |all| all.first().is_some_and(|all| !all.bytes.is_empty())).await;
    client
}

#[tokio::test]
async fn every_shard_has_a_cpu_of_its_own_and_gets_connections() {
    if two_cpus().is_none() {
        return;
    }
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &[]).await;
    assert_eq!(proxy.shard_cpus().len(), 1);

    let upstream = format!("http://{}", origin.address);
    let flags = ["--listen", "127.0.0.1:0", "--shards", "2", "--steering", "off", "--upstream", &upstream];
    let proxy = Proxy::start(&flags).await;
    let shards = proxy.shard_cpus();
    let names: Vec<_> = shards.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["shard-0", "shard-1"]);
    let cpus: BTreeSet<u32> = shards.iter().map(|(_, cpus)| cpus.parse().expect("one CPU")).collect();
    assert_eq!(cpus.len(), 2, "{shards:?}");
    for _ in 0..64 {
        client::get(proxy.address, "/").await;
    }
    // A shard uses its own pool: one request after the other needs one connection per shard.
    assert_eq!(proxy.counters().await.upstream_connects, 2);
}

#[tokio::test]
async fn cpus_are_the_ones_asked_for() {
    let here = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = here.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let last = allowed.trim().rsplit([',', '-']).next().unwrap();
    let origin = origin::real("real").await;
    let upstream = format!("http://{}", origin.address);
    let proxy = Proxy::start(&["--listen", "127.0.0.1:0", "--cpus", last, "--upstream", &upstream]).await;
    assert_eq!(proxy.shard_cpus(), [("shard-0".to_owned(), last.to_owned())]);
}

#[tokio::test]
async fn json_and_flags_over_it_work_like_toml() {
    let origin = origin::real("real").await;
    let text = format!(
        r#"{{"listen": ["127.0.0.1:1"], "shards": 1, "timeouts": {{"request_head": "10s"}},
            "upstream": [{{"name": "o", "servers": ["http://{}"]}}],
            "route": [{{"path": "/json", "upstream": "o"}}]}}"#,
        origin.address
    );
    let file = config_file(".json", &text);
    let mut command = Command::new(proxy::binary().await);
    command.arg("--config").arg(file.path()).args(["--listen", "127.0.0.1:0"]);
    let proxy = Proxy::spawn(command, Some(file)).await;
    assert_eq!(client::get(proxy.address, "/json").await.text(), "real");
    assert_eq!(client::get(proxy.address, "/other").await.status(), 404);
}

#[tokio::test]
async fn names_and_ipv6_are_addresses_too() {
    let origin = origin::real("real").await;
    let upstream = format!("http://localhost:{}", origin.address.port());
    let listen = if has_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let proxy = Proxy::start(&["--listen", listen, "--shards", "1", "--upstream", &upstream]).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "real");
    assert_eq!(origin.only().field("x-forwarded-for"), Some(&*proxy.address.ip().to_string()));
}

const GOOD: &str = "listen = [\"127.0.0.1:8080\"]\n\
    [[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:9000\"]\n\
    [[route]]\npath = \"/\"\nupstream = \"a\"\n";

#[tokio::test]
async fn check_accepts_what_is_right() {
    let finished = check(GOOD).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[tokio::test]
async fn check_names_file_line_and_key_of_every_error() {
    let bad = GOOD.replace("listen =", "lisen =").replace("/\"\nupstream = \"a\"", "/\"\nupstream = \"b\"")
        + "[limits]\nhead_bytes = \"many\"\n[[route]]\npath = \"/\"\nupstream = \"a\"\nmethod = [\"GET\"]\n";
    let finished = check(&bad).await;
    assert_eq!(finished.code, Some(1));
    for (line, word) in [(1, "lisen"), (7, "upstream"), (9, "head_bytes"), (13, "method")] {
        let found = finished
            .stderr
            .lines()
            .any(|message| message.contains(&format!(".toml:{line}:")) && message.contains(word));
        assert!(found, "line {line}, {word}, in:\n{}", finished.stderr);
    }
    assert!(finished.stderr.contains("listen"), "a suggestion:\n{}", finished.stderr);
}

#[tokio::test]
async fn a_route_that_is_there_twice_is_an_error() {
    let finished = check(&format!("{GOOD}[[route]]\npath = \"/\"\nupstream = \"a\"\n")).await;
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains(".toml:8:"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_bad_configuration_does_not_start() {
    let file = config_file(".toml", &GOOD.replace("8080", "80800"));
    let finished = proxy::run(&["--config", file.path().to_str().unwrap()]).await;
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains(".toml:1:"), "{}", finished.stderr);
}

async fn check(text: &str) -> Finished {
    let file = config_file(".toml", text);
    proxy::run(&["check", "--config", file.path().to_str().unwrap()]).await
}

#[tokio::test]
async fn wrong_flags_are_2_and_wrong_values_are_named() {
    let finished = proxy::run(&["--lisen", "127.0.0.1:0"]).await;
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--listen"), "a suggestion: {}", finished.stderr);
    assert_eq!(proxy::run(&["--listen", "127.0.0.1:0"]).await.code, Some(2), "no upstream");
    let finished =
        proxy::run(&["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9", "--shards", "0"]).await;
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("--shards: 0 is too small"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sluice =
        Proxy::start(&["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", "http://127.0.0.1:9"]).await;
    // The kernel would let a second sluice share the port of the first, and split the connections.
    for taken in [other.local_addr().unwrap(), sluice.address] {
        let address = taken.to_string();
        let finished = proxy::run(&["--listen", &address, "--upstream", "http://127.0.0.1:9"]).await;
        assert_ne!(finished.code, Some(0));
        assert!(finished.stderr.contains(&address), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn version_help_and_topology_go_to_stdout() {
    let version = proxy::run(&["--version"]).await;
    assert_eq!((version.code, version.stdout.starts_with("sluice ")), (Some(0), true), "{}", version.stdout);
    let help = proxy::run(&["--help"]).await;
    assert!(help.code == Some(0) && help.stdout.contains("--upstream"), "{}", help.stdout);
    let topology = proxy::run(&["topology"]).await;
    assert!(topology.code == Some(0) && !topology.stdout.is_empty(), "{}", topology.stderr);
    let json = proxy::run(&["topology", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON on stdout");
    for key in ["nodes", "cpus", "caches", "shards"] {
        assert!(json.get(key).is_some(), "{key} in {json}");
    }
}

#[tokio::test]
async fn the_demo_answers_over_tls() {
    let demo = Proxy::start(&["demo", "--tls", "--listen", "127.0.0.1:0", "--shards", "1"]).await;
    let folder = std::env::temp_dir().join(format!("sluice-demo-{}", demo.pid()));
    let ca = folder.join("cert.pem");
    let url = format!("https://{}/", demo.address);
    let asked = std::process::Command::new("curl").arg("-sS").arg("--cacert").arg(&ca).arg(url).output();
    match asked {
        Ok(answer) => {
            let text = String::from_utf8_lossy(&answer.stdout);
            assert!(
                text.contains("Hello from the demo origin"),
                "{text} {}",
                String::from_utf8_lossy(&answer.stderr)
            );
            assert!(text.contains("X-Forwarded-Proto: https"), "{text}");
        }
        Err(error) => eprintln!("skipped the request: curl: {error}"),
    }
    demo.drain().await.assert_clean();
    assert!(!folder.exists(), "the key is gone with the demo");
}

#[tokio::test]
async fn the_demo_answers() {
    let demo = Proxy::start(&["demo", "--listen", "127.0.0.1:0", "--shards", "1"]).await;
    let answer = client::get(demo.address, "/").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.body.is_empty());
    demo.drain().await.assert_clean();
}

#[tokio::test]
async fn too_few_descriptors_are_78() {
    assert_unfit("prlimit", &["--nofile=20"], "descriptor").await;
}

#[tokio::test]
async fn a_forbidden_io_uring_is_78() {
    assert_unfit(env!("CARGO_BIN_EXE_without"), &["io_uring"], "io_uring").await;
}

/// Starts sluice by `wrapper`; it must leave with 78 and a message about `cause`.
async fn assert_unfit(wrapper: &str, arguments: &[&str], cause: &str) {
    let mut command = Command::new(wrapper);
    command.args(arguments).arg(proxy::binary().await);
    command.args(["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", "http://127.0.0.1:9"]);
    let finished = proxy::finish(command).await;
    assert_eq!(finished.code, Some(78), "{}", finished.stderr);
    assert!(finished.stderr.contains(cause), "{}", finished.stderr);
    assert!(!finished.stderr.contains("ready"), "{}", finished.stderr);
}
