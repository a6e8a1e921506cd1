//! The tools against each other, as a user runs them: the origin behaves as it says, the load counts what happens,
//! reports say what they promise. `failures` is about everything that goes wrong.
#![forbid(unsafe_code)]

mod failures;
mod http2;
mod messages;
mod support;
mod tls;

use std::process::Output;
use std::time::Instant;

use serde_json::Value;
use support::{Origin, PATIENCE, count, one_at_a_time, skip, tool};

fn load(flags: &[&str]) -> (Output, Value) {
    let output = tool().arg("load").args(["--json", "--warmup", "50ms"]).args(flags).output().expect("runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

const CLOSE: &str = "Host: x\r\nConnection: close\r\n\r\n";

#[test]
fn the_origin_answers_by_path() {
    let origin = Origin::start();
    let get = |path: &str| origin.talk(format!("GET {path} HTTP/1.1\r\n{CLOSE}").as_bytes());
    for (path, bytes) in [("/bytes/0", 0), ("/bytes/5", 5), ("/bytes/300000", 300_000)] {
        let answer = get(path);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {bytes}")));
        assert_eq!(body.len(), bytes);
    }
    assert!(get("/chunked/5").ends_with("\r\n\r\n5\r\n01234\r\n0\r\n\r\n"));
    assert!(get("/status/503").starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    assert!(get("/nowhere").starts_with("HTTP/1.1 404 "));
    assert_eq!(get("/reset"), "");
    assert!(origin.talk(b"not http\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start();
    let wire = format!(
        "GET /bytes/3 HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\nContent-Length: 4\r\n\r\nback\
         GET /bytes/40000 HTTP/1.1\r\n\r\nHEAD /bytes/9 HTTP/1.1\r\n{CLOSE}"
    );
    let answers = origin.talk(wire.as_bytes());
    let lengths: Vec<&str> =
        answers.split("Content-Length: ").skip(1).filter_map(|rest| rest.split("\r\n").next()).collect();
    assert_eq!(lengths, ["3", "4", "40000", "9"]);
    assert!(answers.contains("\r\n\r\nback"));
    assert!(answers.ends_with("Content-Length: 9\r\n\r\n"));
}

#[test]
fn an_echo_streams_chunks_back() {
    let origin = Origin::start();
    let wire = format!(
        "PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{CLOSE}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    assert!(origin.talk(wire.as_bytes()).ends_with("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"));
}

#[test]
fn delays_keep_their_time() {
    let origin = Origin::start();
    let begin = Instant::now();
    // By the coarse timer it would be 32 ms. On a busy host it may need more than one try.
    loop {
        let (output, json) = load(&["--url", &origin.url("/delay/20"), "-c", "4", "--requests", "40"]);
        assert!(output.status.success(), "{output:?}");
        assert!(count(&json, "/latency_ns/min") >= 20_000_000, "{json}");
        if count(&json, "/latency_ns/p50") < 30_000_000 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{json}");
    }
}

#[test]
fn the_load_counts_requests_and_bytes() {
    let origin = Origin::start();
    let (output, json) = load(&["--url", &origin.url("/bytes/1000"), "-c", "8", "--requests", "500"]);
    assert!(output.status.success(), "{output:?}");
    assert!((500..=508).contains(&count(&json, "/requests")), "{json}");
    assert!(count(&json, "/bytes") > 500 * 1_000);
    assert_eq!(json.pointer("/errors"), Some(&Value::Object(serde_json::Map::new())));
    assert_eq!(json.pointer("/server/name").and_then(Value::as_str), Some("sluice-bench"));
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let origin = Origin::start();
    let (output, json) = load(&["--url", &origin.url("/"), "-c", "4", "--rate", "500", "--duration", "1s"]);
    assert!(output.status.success(), "{output:?}");
    // On a busy machine some are sent late, and counted as such, and the second is a longer one.
    let due = (count(&json, "/requests") + count(&json, "/behind")) as f64;
    let rate = due / json.pointer("/elapsed_s").and_then(Value::as_f64).expect("a time");
    assert!((400.0..=650.0).contains(&rate), "{rate}: {json}");
}

#[test]
fn mixes_bodies_and_new_connections() {
    let origin = Origin::start();
    let url = origin.url("/");
    let (output, json) = load(&[
        "--url",
        &url,
        "--path",
        "/bytes/1@3",
        "--path",
        "/echo",
        "--body",
        "50k",
        "-c",
        "2",
        "-n",
        "80",
    ]);
    assert!(output.status.success(), "{output:?}");
    assert!(count(&json, "/bytes") > 20 * 50_000, "every fourth is an echo: {json}");
    let (output, json) = load(&["--url", &url, "--new-connections", "-c", "2", "-n", "50", "--sources", "3"]);
    assert!(output.status.success(), "{output:?}");
    assert!(count(&json, "/connect_ns/max") > 0 && count(&json, "/reconnects") == 0, "{json}");
}

#[test]
fn failures_have_their_kinds() {
    let origin = Origin::start();
    for (path, kind) in [
        ("/status/500", "status_500"),
        ("/reset", "closed_early"),
        ("/reset/10", "reset"),
        ("/stall", "timeout"),
        ("/stall/10", "timeout"),
    ] {
        let url = origin.url(path);
        let (output, json) = load(&["--url", &url, "-c", "2", "--duration", "1s", "--timeout", "300ms"]);
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        assert!(count(&json, &format!("/errors/{kind}")) > 0, "{path}: {json}");
    }
}

fn capacity(origin: &Origin, name: &str, flags: &[&str]) -> (Output, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let output = tool()
        .args(["capacity", "--target", &origin.address.to_string(), "--name", name, "--out"])
        .arg(dir.path())
        .args(flags)
        .output()
        .expect("runs");
    for extension in ["md", "svg"] {
        assert!(dir.path().join(format!("{name}.{extension}")).exists(), "{output:?}");
    }
    let json = std::fs::read(dir.path().join(format!("{name}.json"))).expect("a report");
    (output, serde_json::from_slice(&json).expect("JSON"))
}

#[test]
fn a_capacity_run_holds_what_it_opened() {
    let origin = Origin::start();
    let flags = ["--steps", "50,200", "--hold", "600ms", "--active", "10%", "--interval", "100ms"];
    let (output, json) = capacity(&origin, "holds", &flags);
    assert!(output.status.success(), "{output:?}");
    for (step, held) in [50, 200].into_iter().enumerate() {
        assert_eq!(count(&json, &format!("/steps/{step}/held")), held, "{json}");
        assert_eq!(count(&json, &format!("/steps/{step}/failed")), 0);
        assert!(count(&json, &format!("/steps/{step}/active/requests")) > 0);
        assert!(count(&json, &format!("/steps/{step}/connect_ns/max")) > 0);
        assert!(count(&json, &format!("/steps/{step}/target/rss_bytes")) > 0);
    }
    assert_eq!(json.pointer("/limit"), Some(&Value::Null));
}

/// A short comparison of two relays of ours.
fn foundation(flags: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    let _turn = one_at_a_time();
    let output = tool()
        .args(["foundation", "--peers", "relay-bare,relay-ring", "--duration", "1s", "--warmup", "100ms"])
        .args(["--threads", "1", "--name", "f", "--out"])
        .arg(dir.path())
        .args(flags)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    let json = std::fs::read(dir.path().join("f.json")).expect("a report");
    serde_json::from_slice(&json).expect("JSON")
}

#[test]
fn a_comparison_tells_ratios_for_every_server() {
    let json = foundation(&["--cases", "small64", "--rounds", "2"]);
    assert_eq!(json.pointer("/reference").and_then(Value::as_str), Some("relay-bare"));
    let servers = json.pointer("/cases/0/figures/0/servers").and_then(Value::as_object).expect("servers");
    for name in ["relay-bare", "relay-ring"] {
        assert_eq!(servers[name]["values"].as_array().map(Vec::len), Some(2), "{json}");
        assert!(servers[name]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{json}");
        assert!(count(&json, &format!("/cases/0/health/{name}/requests")) > 0, "{json}");
    }
}

#[test]
fn a_comparison_tells_memory_per_idle_connection() {
    let json = foundation(&["--cases", "idle", "--idle", "100", "--rounds", "1"]);
    assert_eq!(json.pointer("/cases/0/case").and_then(Value::as_str), Some("idle"));
    assert_eq!(count(&json, "/idle_connections"), 100);
    // The relay keeps a task and a connection for each.
    let bytes = json.pointer("/cases/0/figures/0/servers/relay-ring/median").and_then(Value::as_f64);
    assert!(bytes.is_some_and(|bytes| bytes > 16.0), "{json}");
}

#[test]
fn every_peer_that_is_installed_does_its_work() {
    let _turn = one_at_a_time();
    for peer in ["nginx", "haproxy", "envoy", "pingora"] {
        let dir = tempfile::tempdir().expect("a directory");
        let flags =
            ["--cases", "small64", "--rounds", "1", "--duration", "1s", "--threads", "1", "--name", "c"];
        let mut command = tool();
        command.args(["compare", "--peers", peer]).args(flags).arg("--out").arg(dir.path());
        let output = command.output().expect("runs");
        if String::from_utf8_lossy(&output.stderr).contains("not installed") {
            skip(&format!("{peer} is not installed"));
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        let json = std::fs::read(dir.path().join("c.json")).expect("a report");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        assert!(count(&json, &format!("/cases/0/health/{peer}/requests")) > 0, "{json}");
        let errors = json.pointer(&format!("/cases/0/health/{peer}/errors")).and_then(Value::as_object);
        assert!(errors.is_some_and(serde_json::Map::is_empty), "{json}");
    }
}

#[test]
fn servers_of_http2_do_the_same_work() {
    let _turn = one_at_a_time();
    for (peer, cases) in
        [("nginx", "h2c32x1,h2s32x32"), ("haproxy", "h2c32x32,h2h2"), ("nghttpx", "h2c32x32,h2h2")]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = ["--rounds", "1", "--duration", "500ms", "--threads", "1", "--name", "c"];
        let mut command = tool();
        command.args(["compare", "--peers", peer, "--cases", cases]).args(flags);
        let output = command.arg("--out").arg(dir.path()).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("not installed") || said.contains("needs h2load") {
            skip(&format!("{peer}, nghttpd or h2load is not installed"));
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        let json = std::fs::read(dir.path().join("c.json")).expect("a report");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        for result in json["cases"].as_array().expect("cases") {
            let health = &result["health"][peer];
            assert_eq!(health["errors"], serde_json::json!({}), "{result}");
            assert!(health["requests"].as_u64().is_some_and(|requests| requests >= 64), "{result}");
            let cpu = result.pointer(&format!("/figures/0/servers/{peer}/median")).and_then(Value::as_f64);
            assert!(cpu.is_some_and(|us| us > 1.0), "{result}");
        }
        assert_eq!(json["cases"].as_array().map(Vec::len), Some(2), "{json}");
    }
}

#[test]
fn servers_with_tls_do_the_same_handshakes() {
    let _turn = one_at_a_time();
    for peer in ["nginx", "haproxy"] {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = ["--rounds", "1", "--duration", "1s", "--threads", "1", "--idle", "2k", "--name", "c"];
        let mut command = tool();
        command.args(["compare", "--peers", peer, "--cases", "tls1k,tlsfull,tlsresumed,tlsidle"]).args(flags);
        let output = command.arg("--out").arg(dir.path()).output().expect("runs");
        if String::from_utf8_lossy(&output.stderr).contains("not installed") {
            skip(&format!("{peer} is not installed"));
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        let json = std::fs::read(dir.path().join("c.json")).expect("a report");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        let version = json.pointer(&format!("/peers/{peer}")).and_then(Value::as_str);
        assert!(version.is_some_and(|version| version.contains(", OpenSSL ")), "{json}");
        for (case, handshakes) in [("tls1k", false), ("tlsfull", true), ("tlsresumed", true)] {
            let result = json["cases"].as_array().and_then(|all| all.iter().find(|one| one["case"] == case));
            let result = result.expect("a result");
            let health = &result["health"][peer];
            assert_eq!(health["errors"], serde_json::json!({}), "{case}: {health}");
            let kinds = health["tls_kinds"].as_object().expect("kinds");
            assert!(kinds.keys().eq(["TLS 1.3 TLS_AES_128_GCM_SHA256 X25519"]), "{case}: {health}");
            // Those that began without a ticket.
            assert!(health["other_handshakes"].as_u64().is_some_and(|other| other <= 64), "{case}: {health}");
            let figure = &result["figures"][1];
            assert_eq!(figure["figure"] == "handshakes_per_cpu_s", handshakes, "{figure}");
            assert!(figure["servers"][peer]["median"].as_f64().is_some_and(|value| value > 0.0), "{figure}");
        }
        let idle = json.pointer("/cases/3/figures/0/servers").expect("bytes per connection");
        assert!(idle[peer]["median"].as_f64().is_some_and(|bytes| bytes > 2_000.0), "{json}");
    }
}

#[test]
fn cases_with_tls_need_a_server_with_tls() {
    let flags =
        ["compare", "--peers", "relay-bare,relay-ring", "--cases", "tls1k,tlsidle", "--out", "/dev/null/x"];
    let output = tool().args(flags).output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stderr, b"sluice-bench: TLS is not terminated by relay-bare, relay-ring\n");
}

#[test]
fn a_rate_that_is_not_kept_is_reported() {
    let json = foundation(&["--cases", "fixed-rate", "--rate", "5M", "--rounds", "1"]);
    let doubts = json.pointer("/doubts").and_then(Value::as_array).expect("doubts");
    let reported = |doubt: &Value| doubt.as_str().is_some_and(|doubt| doubt.contains("due and never sent"));
    assert!(doubts.iter().any(reported), "{json}");
}

/// Names that a program chose rather than this tool: servers, kinds of error, caches and counters of the kernel.
const OPEN_ENDED: [&str; 10] = [
    "peers",
    "servers",
    "health",
    "errors",
    "open_errors",
    "hold_errors",
    "slabs",
    "refusals",
    "kinds",
    "tls_kinds",
];

/// Every key of a document, except those below open-ended ones, which are looked through for their own.
fn keys(json: &Value, is_open: bool, found: &mut Vec<String>) {
    match json {
        Value::Object(object) => {
            for (key, value) in object {
                if !is_open {
                    found.push(key.clone());
                }
                keys(value, OPEN_ENDED.contains(&key.as_str()), found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, false, found)),
        _ => {}
    }
}

fn assert_documented(subcommand: &str, json: &Value) {
    let help = tool().args([subcommand, "--help"]).output().expect("runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let (_, documented) = help.split_once("JSON keys").expect("they are documented");
    let words: Vec<&str> = documented.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let mut found = Vec::new();
    keys(json, false, &mut found);
    assert!(found.len() > 10, "{json}");
    for key in found {
        assert!(words.contains(&key.as_str()), "{subcommand} --help does not tell of the key {key}");
    }
}

#[test]
fn every_key_of_the_reports_is_documented() {
    let origin = Origin::start();
    let (_, json) = load(&["--url", &origin.url("/"), "-c", "2", "--rate", "200", "--duration", "200ms"]);
    assert_documented("load", &json);
    let (_, json) = capacity(&origin, "keys", &["--steps", "20,40", "--hold", "200ms"]);
    assert_documented("capacity", &json);
    let json = foundation(&["--cases", "fixed-rate", "--rounds", "1"]);
    assert_documented("foundation", &json);
    assert_documented("compare", &json);
}
