//! Loads over HTTP/2 by h2load, a client that is not ours (package nghttp2-client).
//!
//! h2load counts its requests and says nothing of when each was sent, so that the server's CPU time is taken over a whole run: a
//! fixed number of requests, found by a run before it that warms the server up. What connecting costs is a part of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::load::{Report as Loaded, ServerCpu, ToolCpu};
use crate::procfs::{Server, Usage};
use crate::tls::TlsReport;
use crate::{Failure, child};

/// The suite that the other rows with TLS negotiate.
const SUITE: &str = "TLS_AES_128_GCM_SHA256";
/// A run may take so many times its planned time.
const OVERTIME: u32 = 20;

/// A load.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// What is asked for.
    pub(super) url: String,
    pub(super) connections: u64,
    /// Streams on each of them at a time.
    pub(super) streams: u64,
    pub(super) duration: Duration,
    pub(super) warmup: Duration,
    pub(super) cpu: Option<usize>,
}

/// What a run printed at its end.
#[derive(Debug, Default, PartialEq)]
struct Printed {
    requests_per_s: f64,
    elapsed_s: f64,
    succeeded: u64,
    failed: u64,
    bytes: u64,
    tls: Option<String>,
}

/// Where h2load is, if it is installed.
pub(super) fn binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("h2load")).find(|file| file.is_file())
}

/// Runs it against a server on this machine.
///
/// # Errors
/// When it is not installed, fails, or the server cannot be looked at.
pub(super) fn measure(job: &Job, server: &Server, interrupt: &Interrupt) -> Result<Loaded, Failure> {
    let missing = || Failure::Target("h2load is not installed (package nghttp2-client)".into());
    let binary = binary().ok_or_else(missing)?;
    let unknown = |_| Failure::Target("the server's process has ended".into());
    let step = job.connections * job.streams;
    let (warm, _) = job.run(&binary, step * 2, interrupt)?;
    let per_warmup = (warm.requests_per_s * job.warmup.as_secs_f64()) as u64;
    let (warm, _) = job.run(&binary, per_warmup.max(step * 2), interrupt)?;
    let requests = (warm.requests_per_s * job.duration.as_secs_f64()) as u64;
    let before = server.usage().map_err(unknown)?;
    let (printed, tool) = job.run(&binary, requests.max(step * 2), interrupt)?;
    let after = server.usage().map_err(unknown)?;
    Ok(job.report(&printed, tool, server, before, after))
}

impl Job {
    /// A run with so many requests, and the CPU time of h2load.
    fn run(
        &self,
        binary: &Path,
        requests: u64,
        interrupt: &Interrupt,
    ) -> Result<(Printed, Duration), Failure> {
        let fail = |what: String| Failure::Target(format!("h2load: {what}"));
        let mut command = child::command(binary, self.cpu);
        command.args(["-t", "1", "-c", &self.connections.to_string(), "-m", &self.streams.to_string()]);
        command.args(["-n", &requests.to_string(), "--tls13-ciphers", SUITE, &self.url]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut running = command.spawn().map_err(|error| fail(error.to_string()))?;
        let stdout = running.stdout.take();
        let reading = thread::spawn(move || {
            let mut text = String::new();
            stdout.map(|mut stdout| stdout.read_to_string(&mut text));
            text
        });
        let pid = running.id();
        let (begin, limit) = (Instant::now(), self.duration.max(Duration::from_secs(1)) * OVERTIME);
        let mut tool = Duration::ZERO;
        let status = loop {
            tool = on_cpu(pid).unwrap_or(tool);
            if let Some(status) = running.try_wait().map_err(|error| fail(error.to_string()))? {
                break status;
            }
            if interrupt.is_set() || begin.elapsed() > limit {
                let _ = running.kill();
            }
            thread::sleep(Duration::from_millis(5));
        };
        let text = reading.join().unwrap_or_default();
        let printed = parse(&text).filter(|_| status.success() || interrupt.is_set());
        printed.map(|printed| (printed, tool)).ok_or_else(|| fail(last_lines(&text)))
    }

    fn report(
        &self,
        printed: &Printed,
        tool: Duration,
        server: &Server,
        before: Usage,
        after: Usage,
    ) -> Loaded {
        let cpu_s = after.on_cpu.saturating_sub(before.on_cpu).as_secs_f64();
        let user = after.user.saturating_sub(before.user).as_secs_f64();
        let system = after.system.saturating_sub(before.system).as_secs_f64();
        let errors = [("failed", printed.failed)].into_iter().filter(|(_, count)| *count > 0);
        let handshakes = |kind: &String| TlsReport {
            handshakes: self.connections,
            resumed: 0,
            resumed_share: Some(0.0),
            kinds: [(kind.clone(), self.connections)].into(),
        };
        Loaded {
            url: self.url.clone(),
            // The server may want a connection to the origin for each stream.
            connections: self.connections * self.streams,
            streams: Some(self.streams),
            message: None,
            threads: 1,
            rate: None,
            elapsed_s: printed.elapsed_s,
            interrupted: false,
            target_died: server.is_gone(),
            requests: printed.succeeded,
            requests_per_s: printed.requests_per_s,
            bytes: printed.bytes,
            bytes_per_s: printed.bytes as f64 / printed.elapsed_s.max(1e-9),
            errors: errors.map(|(name, count)| (name.to_owned(), count)).collect(),
            reconnects: 0,
            latency_ns: Latency::default(),
            connect_ns: Latency::default(),
            send_lag_ns: Latency::default(),
            behind: 0,
            tls: printed.tls.as_ref().map(handshakes),
            tool_cpu: ToolCpu {
                user_s: tool.as_secs_f64(),
                system_s: 0.0,
                share: tool.as_secs_f64() / printed.elapsed_s.max(1e-9),
                idle_share: 1.0,
            },
            server: Some(ServerCpu {
                name: server.name.clone(),
                pids: server.pids.clone(),
                cpu_s,
                cpu_us_per_request: cpu_s * 1e6 / printed.succeeded.max(1) as f64,
                user_share: user / (user + system).max(1e-9),
                rss_bytes: after.rss_bytes,
            }),
            warnings: Vec::new(),
        }
    }
}

/// CPU time of a process of one thread so far.
fn on_cpu(pid: u32) -> Option<Duration> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/schedstat")).ok()?.read_to_string(&mut text).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// Reads the lines at the end; `None` if they are not there, or no request was sent over HTTP/2.
fn parse(text: &str) -> Option<Printed> {
    let line = |begin: &str| text.lines().find_map(|line| line.strip_prefix(begin)).map(str::trim);
    // finished in 1.01s, 98765.43 req/s, 101.23MB/s
    let mut finished = line("finished in ")?.split(", ");
    let elapsed_s = seconds(finished.next()?)?;
    let requests_per_s = finished.next()?.strip_suffix(" req/s")?.parse().ok()?;
    // requests: 1000 total, 1000 started, 1000 done, 990 succeeded, 10 failed, 10 errored, 0 timeout
    let count = |name: &str| {
        let mut parts = line("requests: ")?.split(", ");
        parts.find_map(|part| part.strip_suffix(name))?.trim().parse::<u64>().ok()
    };
    // traffic: 1.01MB (1059000) total, 9.10KB (9320) headers (space savings 94.00%), 1000.00KB (1024000) data
    let data = line("traffic: ")?.rsplit(", ").next()?;
    let bytes = data.split(['(', ')']).nth(1)?.parse().ok()?;
    let protocol = line("Application protocol: ")?;
    let words = |name: &str| line(name).map(str::to_owned);
    let tls = words("TLS Protocol: ").map(|version| {
        let group = words("Server Temp Key: ").unwrap_or_default();
        let group = group.split_whitespace().next().unwrap_or_default().to_owned();
        format!("{} {} {group}", version.replace("TLSv", "TLS "), words("Cipher: ").unwrap_or_default())
    });
    let printed = Printed {
        requests_per_s,
        elapsed_s,
        succeeded: count(" succeeded")?,
        failed: count(" failed")?,
        bytes,
        tls,
    };
    protocol.starts_with("h2").then_some(printed)
}

/// A time as h2load prints it: `1.01s`, `12.3ms`, `850us`.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|letter: char| letter.is_ascii_alphabetic())?);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "starting benchmark...\nspawning thread #0: 32 total client(s). 1000 total requests\n\
        TLS Protocol: TLSv1.3\nCipher: TLS_AES_128_GCM_SHA256\nServer Temp Key: X25519 253 bits\n\
        Application protocol: h2\nprogress: 100% done\n\nfinished in 500.50ms, 1998.00 req/s, 2.05MB/s\n\
        requests: 1000 total, 1000 started, 1000 done, 990 succeeded, 10 failed, 10 errored, 0 timeout\n\
        status codes: 990 2xx, 0 3xx, 0 4xx, 10 5xx\n\
        traffic: 1.01MB (1059000) total, 9.10KB (9320) headers (space savings 94.00%), 990.00KB (1013760) data\n";

    #[test]
    fn what_it_prints_is_read() {
        let printed = parse(PRINTED).expect("a run");
        assert_eq!((printed.succeeded, printed.failed, printed.bytes), (990, 10, 1_013_760));
        assert!((printed.elapsed_s - 0.5005).abs() < 1e-9 && (printed.requests_per_s - 1998.0).abs() < 1e-9);
        assert_eq!(printed.tls.as_deref(), Some("TLS 1.3 TLS_AES_128_GCM_SHA256 X25519"));
    }

    #[test]
    fn a_run_over_http1_or_without_an_end_is_none() {
        assert_eq!(parse(&PRINTED.replace("protocol: h2", "protocol: http/1.1")), None);
        assert_eq!(parse(&PRINTED.replace("finished in", "stopped in")), None);
        assert_eq!(seconds("1.5m"), None);
    }
}
