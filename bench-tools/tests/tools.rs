//! The tools against each other, as a user runs them: the origin behaves as it says, the load counts what happens,
//! the capacity run ends with a report whatever becomes of its target.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluice-bench"))
}

/// An origin on a free port.
struct Origin {
    child: Child,
    address: SocketAddr,
}

impl Origin {
    fn start() -> Origin {
        let mut child = tool()
            .args(["origin", "--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
        Origin { child, address: address.expect("an address") }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends bytes on a connection and reads until its end.
    fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        stream.write_all(bytes).expect("writes");
        let mut answer = Vec::new();
        // A reset is an end as well; what came before it counts.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(flags: &[&str]) -> (Output, Value) {
    let output = tool().arg("load").args(["--json", "--warmup", "50ms"]).args(flags).output().expect("runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

fn count(json: &Value, key: &str) -> u64 {
    json.pointer(key).and_then(Value::as_u64).unwrap_or(0)
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
    let (output, json) = load(&["--url", &origin.url("/delay/20"), "-c", "4", "--requests", "40"]);
    assert!(output.status.success(), "{output:?}");
    assert!(count(&json, "/latency_ns/min") >= 20_000_000, "{json}");
    assert!(begin.elapsed() < Duration::from_secs(5), "the coarse timer would take longer");
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
    let requests = count(&json, "/requests");
    assert!((400..=650).contains(&requests), "{json}");
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
        let (output, json) = load(&["--url", &url, "-c", "2", "--duration", "300ms", "--timeout", "100ms"]);
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        assert!(count(&json, &format!("/errors/{kind}")) > 0, "{path}: {json}");
    }
}

#[test]
fn a_target_that_is_not_there_is_told_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let target = free.expect("a port").to_string();
    let (output, _) = load(&["--url", &format!("http://{target}/")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot connect"), "{output:?}");
    let dir = tempfile::tempdir().expect("a directory");
    let output =
        tool().args(["capacity", "--target", &target, "--out"]).arg(dir.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let output = tool().args(["load", "--url", "ftp://x"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
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

#[test]
fn a_target_that_dies_leaves_a_report_that_says_so() {
    let mut origin = Origin::start();
    let address = origin.address;
    std::thread::scope(|scope| {
        let run = scope.spawn(move || {
            let dir = tempfile::tempdir().expect("a directory");
            let flags = ["--steps", "50,100", "--hold", "20s", "--timeout", "1s", "--name", "dies", "--out"];
            let mut command = tool();
            command.args(["capacity", "--target", &address.to_string()]).args(flags).arg(dir.path());
            let output = command.output().expect("runs");
            (output, std::fs::read(dir.path().join("dies.json")).expect("a report"))
        });
        std::thread::sleep(Duration::from_millis(2_500));
        origin.child.kill().expect("kills");
        origin.child.wait().expect("ends");
        let (output, json) = run.join().expect("does not panic");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json.pointer("/limit/kind").and_then(Value::as_str), Some("target_died"), "{json}");
    });
}

#[test]
fn a_comparison_tells_ratios_for_every_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = tool()
        .args(["foundation", "--peers", "relay-bare,relay-ring", "--cases", "small64,idle", "--idle", "300"])
        .args([
            "--rounds",
            "2",
            "--duration",
            "100ms",
            "--warmup",
            "50ms",
            "--threads",
            "1",
            "--name",
            "f",
            "--out",
        ])
        .arg(dir.path())
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    let json = std::fs::read(dir.path().join("f.json")).expect("a report");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json.pointer("/reference").and_then(Value::as_str), Some("relay-bare"));
    let servers = json.pointer("/cases/0/figures/0/servers").and_then(Value::as_object).expect("servers");
    for name in ["relay-bare", "relay-ring"] {
        assert_eq!(servers[name]["values"].as_array().map(Vec::len), Some(2), "{json}");
        assert!(servers[name]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{json}");
    }
    assert_eq!(json.pointer("/cases/1/case").and_then(Value::as_str), Some("idle"));
}

#[test]
fn a_run_cut_short_keeps_what_it_measured() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().expect("a directory");
    let flags = ["--steps", "50,100", "--hold", "20s", "--name", "cut", "--out"];
    let mut run = tool()
        .args(["capacity", "--target", &origin.address.to_string()])
        .args(flags)
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    std::thread::sleep(Duration::from_millis(3_000));
    let pid = rustix::process::Pid::from_raw(run.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    assert_eq!(run.wait().expect("ends").code(), Some(130));
    let json = std::fs::read(dir.path().join("cut.json")).expect("a report");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((count(&json, "/steps/0/held"), json.pointer("/interrupted")), (50, Some(&Value::Bool(true))));
}
