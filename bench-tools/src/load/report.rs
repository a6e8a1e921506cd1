//! What `load` found.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::LoadArgs;
use super::lane::{LaneRun, Window};
use super::plan::Plan;
use super::tally::Tally;
use crate::Failure;
use crate::latency::Latency;
use crate::messages::Framing;
use crate::procfs::Server;
use crate::tls::TlsReport;
use crate::units::{show_bytes, show_count, show_ns};

/// More failed requests than this share are a failed run.
const FAULTS_TOLERATED: f64 = 0.01;
/// A tool that uses more of its CPUs than this may be what is measured.
const TOOL_SHARE_MAX: f64 = 0.9;
/// Less time than this gives no result.
const WINDOW_MIN_S: f64 = 0.01;
/// CPUs with less idle time than this may be.
const IDLE_SHARE_MIN: f64 = 0.03;

/// The tool's own CPU time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ToolCpu {
    /// In user mode.
    pub user_s: f64,
    /// In the kernel.
    pub system_s: f64,
    /// Of the wall time of one CPU.
    pub share: f64,
    /// Share of the CPUs it ran on that was idle.
    pub idle_share: f64,
}

/// What the server under load used.
#[derive(Clone, Debug, Serialize)]
pub struct ServerCpu {
    /// Its name.
    pub name: String,
    /// Its processes.
    pub pids: Vec<u32>,
    /// CPU time within the measured time.
    pub cpu_s: f64,
    /// The same per answered request, in microseconds.
    pub cpu_us_per_request: f64,
    /// The part of it in user mode.
    pub user_share: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
}

/// Messages that were sent, each when the last had come back.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Messages {
    /// How they are framed.
    pub framing: Framing,
    /// Bytes of each, without its frame.
    pub bytes: u64,
}

/// The result of a run; its fields are the keys of the JSON object.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub url: String,
    /// Connections over all threads.
    pub connections: u64,
    /// Requests at once on each of them; `None` for HTTP/1.1.
    pub streams: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// What was sent in place of requests.
    pub message: Option<Messages>,
    /// Requests due per second in an open loop.
    pub rate: Option<u64>,
    /// The measured time.
    pub elapsed_s: f64,
    /// Whether the user ended it.
    pub interrupted: bool,
    /// Whether the process of the target ended.
    pub target_died: bool,
    /// Requests answered.
    pub requests: u64,
    /// Per second.
    pub requests_per_s: f64,
    /// Bytes received.
    pub bytes: u64,
    /// Per second.
    pub bytes_per_s: f64,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Connections made again.
    pub reconnects: u64,
    /// Latency of the answers.
    pub latency_ns: Latency,
    /// Latency of connecting.
    pub connect_ns: Latency,
    /// Delay of sending.
    pub send_lag_ns: Latency,
    /// Requests due and not sent.
    pub behind: u64,
    /// TLS handshakes; `None` in clear text.
    pub tls: Option<TlsReport>,
    /// What the tool used.
    pub tool_cpu: ToolCpu,
    /// What the server used.
    pub server: Option<ServerCpu>,
    /// Doubts about the figures.
    pub warnings: Vec<String>,
}

impl Report {
    pub(super) fn new(
        args: &LoadArgs,
        plan: &Plan,
        threads: usize,
        runs: &[LaneRun],
        interrupted: bool,
    ) -> Report {
        let mut tally = Tally::default();
        let (mut requests_per_s, mut bytes_per_s) = (0.0, 0.0);
        for run in runs {
            tally.add(&run.tally);
            let seconds = run.window.elapsed.as_secs_f64().max(1e-9);
            requests_per_s += run.tally.latency.len() as f64 / seconds;
            bytes_per_s += run.tally.bytes as f64 / seconds;
        }
        let window = runs.first().map(|run| run.window).unwrap_or_default();
        let requests = tally.latency.len();
        let server = plan.server.clone();
        let mut report = Report {
            url: plan.target.to_string(),
            connections: args.connections,
            streams: plan.streams,
            message: args
                .messages
                .framing()
                .map(|framing| Messages { framing, bytes: args.messages.message }),
            threads,
            rate: args.rate,
            elapsed_s: window.elapsed.as_secs_f64(),
            interrupted,
            target_died: server.as_ref().is_some_and(Server::is_gone),
            requests,
            requests_per_s,
            bytes: tally.bytes,
            bytes_per_s,
            errors: tally.faults.iter().map(|(fault, &count)| (fault.name(), count)).collect(),
            reconnects: tally.reconnects,
            latency_ns: Latency::of(&tally.latency),
            connect_ns: Latency::of(&tally.connect),
            send_lag_ns: Latency::of(&tally.send_lag),
            behind: runs.iter().map(|run| run.behind).sum(),
            tls: plan.tls.as_ref().map(|_| tally.tls.report()),
            tool_cpu: ToolCpu::of(runs, &window),
            server: server.and_then(|server| ServerCpu::of(server, &window, requests)),
            warnings: Vec::new(),
        };
        report.warnings = report.doubts(args.lanes.cpus.is_some());
        report
    }

    /// What may make these the tool's figures rather than the server's.
    fn doubts(&self, is_pinned: bool) -> Vec<String> {
        let mut doubts = Vec::new();
        let share = self.tool_cpu.share / self.threads as f64;
        if self.elapsed_s < WINDOW_MIN_S {
            return doubts;
        }
        if share > TOOL_SHARE_MAX {
            doubts.push(format!(
                "the tool itself used {:.0} % of its CPUs and was the bottleneck: give it more (--cpus, --threads)",
                share * 100.0
            ));
        } else if is_pinned && self.rate.is_none() && self.tool_cpu.idle_share < IDLE_SHARE_MIN {
            doubts.push(
                "the CPUs of the tool had no idle time, so that rate and latency are limited by it and by what else \
                 runs there; the server's CPU per request is not"
                    .into(),
            );
        }
        if self.behind > 0 {
            doubts.push(format!(
                "{} requests were due and not sent: the rate is more than the server or the tool can take",
                show_count(self.behind)
            ));
        }
        doubts
    }

    /// One line of JSON.
    ///
    /// # Panics
    /// Never: it is plain data.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// Lines for people.
    ///
    /// # Panics
    /// Never: writing to a string cannot fail.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let loop_kind = match self.rate {
            Some(rate) => format!("open loop at {} per second", show_count(rate)),
            None => "closed loop".into(),
        };
        let (connections, threads) = (show_count(self.connections), self.threads);
        writeln!(out, "{}: {connections} connections, {threads} threads, {loop_kind}", self.url)?;
        if let Some(Messages { framing, bytes }) = self.message {
            let streams =
                self.streams.map_or(String::new(), |streams| format!(", {streams} streams on each"));
            let bytes = show_count(bytes);
            writeln!(out, "messages   {} of {bytes} bytes with their echoes{streams}", framing.title())?;
        }
        let per_second = show_count(self.requests_per_s.round() as u64);
        let requests = show_count(self.requests);
        writeln!(out, "requests   {requests} in {:.2} s, {per_second} per second", self.elapsed_s)?;
        let rate = show_bytes(self.bytes_per_s as u64);
        writeln!(out, "received   {}, {rate} per second", show_bytes(self.bytes))?;
        write_latency(out, "latency", self.latency_ns)?;
        if self.connect_ns.max > 0 {
            write_latency(out, "connect", self.connect_ns)?;
        }
        if let Some(tls) = &self.tls {
            writeln!(out, "TLS        {}", tls.text())?;
        }
        if self.rate.is_some() {
            write_latency(out, "send lag", self.send_lag_ns)?;
        }
        if self.errors.is_empty() {
            writeln!(out, "errors     none")?;
        }
        for (kind, count) in &self.errors {
            writeln!(out, "errors     {kind} {}", show_count(*count))?;
        }
        if self.reconnects > 0 {
            writeln!(out, "reconnects {}", show_count(self.reconnects))?;
        }
        if let Some(server) = &self.server {
            writeln!(
                out,
                "server     {}: {:.2} µs CPU per request ({:.0} % in user mode), {:.0} % of a CPU, {} resident",
                server.name,
                server.cpu_us_per_request,
                server.user_share * 100.0,
                server.cpu_s / self.elapsed_s.max(1e-9) * 100.0,
                show_bytes(server.rss_bytes)
            )?;
        }
        let cpu = self.tool_cpu;
        let (share, idle) = (cpu.share * 100.0, cpu.idle_share * 100.0);
        writeln!(out, "this tool  {share:.0} % of a CPU; its CPUs were {idle:.0} % idle")
    }

    /// Whether the run counts as a success.
    ///
    /// # Errors
    /// When nothing was answered, or more than 1 % of the requests failed.
    pub fn verdict(&self) -> Result<(), Failure> {
        let failed = self.failed();
        let all = self.requests + failed;
        let died = if self.target_died { "the target's process ended: " } else { "" };
        if failed as f64 > FAULTS_TOLERATED * all as f64 {
            let (failed, all, kinds) = (show_count(failed), show_count(all), self.error_kinds());
            return Err(Failure::Target(format!("{died}{failed} of {all} requests failed ({kinds})")));
        }
        if self.requests == 0 && !self.interrupted {
            return Err(Failure::Target(format!("{died}{} answered no request in time", self.url)));
        }
        Ok(())
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// What went wrong, in one line.
    pub fn error_kinds(&self) -> String {
        let kind = |(name, &count): (&String, &u64)| format!("{name} {}", show_count(count));
        self.errors.iter().map(kind).collect::<Vec<_>>().join(", ")
    }
}

impl ToolCpu {
    fn of(runs: &[LaneRun], window: &Window) -> ToolCpu {
        let (user_s, system_s) = (window.tool_user.as_secs_f64(), window.tool_system.as_secs_f64());
        let idle: f64 = runs.iter().map(|run| run.window.idle_share).sum();
        ToolCpu {
            user_s,
            system_s,
            share: (user_s + system_s) / window.elapsed.as_secs_f64().max(1e-9),
            idle_share: idle / runs.len().max(1) as f64,
        }
    }
}

impl ServerCpu {
    fn of(server: Server, window: &Window, requests: u64) -> Option<ServerCpu> {
        let (before, after) = window.server?;
        let cpu_s = after.on_cpu.saturating_sub(before.on_cpu).as_secs_f64();
        let user = after.user.saturating_sub(before.user).as_secs_f64();
        let system = after.system.saturating_sub(before.system).as_secs_f64();
        Some(ServerCpu {
            name: server.name,
            pids: server.pids,
            cpu_s,
            cpu_us_per_request: cpu_s * 1e6 / requests.max(1) as f64,
            user_share: user / (user + system).max(1e-9),
            rss_bytes: after.rss_bytes,
        })
    }
}

fn write_latency(out: &mut String, name: &str, latency: Latency) -> std::fmt::Result {
    let [min, mean, p50, p90] = [latency.min, latency.mean, latency.p50, latency.p90].map(show_ns);
    let [p99, p99_9, max] = [latency.p99, latency.p99_9, latency.max].map(show_ns);
    writeln!(
        out,
        "{name:<10} min {min}, avg {mean}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}"
    )
}
