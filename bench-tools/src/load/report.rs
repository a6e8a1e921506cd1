//! What `load` prints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::LoadArgs;
use super::closed::LaneRun;
use super::tally::Tally;
use crate::Failure;
use crate::latency::Latency;
use crate::units::{show_bytes, show_count, show_ns};

/// More failed requests than this share are a failed run.
const FAULTS_TOLERATED: f64 = 0.01;

/// The tool's own CPU time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ToolCpu {
    user_s: f64,
    system_s: f64,
    /// Of the wall time of one CPU.
    share: f64,
}

/// The result of a run; its fields are the keys of the JSON object.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    url: String,
    connections: u64,
    threads: usize,
    elapsed_s: f64,
    requests: u64,
    requests_per_s: f64,
    bytes: u64,
    bytes_per_s: f64,
    errors: BTreeMap<String, u64>,
    reconnects: u64,
    latency_ns: Latency,
    tool_cpu: ToolCpu,
    interrupted: bool,
}

impl Report {
    pub(super) fn new(args: &LoadArgs, threads: usize, runs: Vec<LaneRun>, interrupted: bool) -> Report {
        let mut tally = Tally::default();
        let (mut requests_per_s, mut bytes_per_s) = (0.0, 0.0);
        let mut longest = Duration::ZERO;
        let mut cpu = (Duration::ZERO, Duration::ZERO);
        for run in runs {
            tally.add(&run.tally);
            let seconds = run.elapsed.as_secs_f64().max(1e-9);
            requests_per_s += run.tally.latency.len() as f64 / seconds;
            bytes_per_s += run.tally.bytes as f64 / seconds;
            if run.elapsed >= longest {
                (longest, cpu) = (run.elapsed, run.cpu);
            }
        }
        let (user_s, system_s) = (cpu.0.as_secs_f64(), cpu.1.as_secs_f64());
        Report {
            url: args.url.to_string(),
            connections: args.connections,
            threads,
            elapsed_s: longest.as_secs_f64(),
            requests: tally.latency.len(),
            requests_per_s,
            bytes: tally.bytes,
            bytes_per_s,
            errors: tally.faults.iter().map(|(fault, &count)| (fault.name(), count)).collect(),
            reconnects: tally.reconnects,
            latency_ns: Latency::of(&tally.latency),
            tool_cpu: ToolCpu {
                user_s,
                system_s,
                share: (user_s + system_s) / longest.as_secs_f64().max(1e-9),
            },
            interrupted,
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let latency = self.latency_ns;
        writeln!(
            out,
            "{}: {} connections, {} threads",
            self.url,
            show_count(self.connections),
            self.threads
        )?;
        writeln!(
            out,
            "requests   {} in {:.2} s, {} per second",
            show_count(self.requests),
            self.elapsed_s,
            show_count(self.requests_per_s.round() as u64)
        )?;
        let rate = show_bytes(self.bytes_per_s as u64);
        writeln!(out, "received   {}, {rate} per second", show_bytes(self.bytes))?;
        for (name, value) in [
            ("min", latency.min),
            ("avg", latency.mean),
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p99_9),
            ("max", latency.max),
        ] {
            writeln!(out, "latency    {name:<6}{:>10}", show_ns(value))?;
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
        let cpu = self.tool_cpu;
        writeln!(
            out,
            "this tool  {:.0} % of a CPU (user {:.2} s, system {:.2} s)",
            cpu.share * 100.0,
            cpu.user_s,
            cpu.system_s
        )
    }

    /// Whether the run counts as a success.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let failed: u64 = self.errors.values().sum();
        if self.requests == 0 && !self.interrupted {
            return Err(Failure::Target(format!("{} answered no request", self.url)));
        }
        if failed as f64 > FAULTS_TOLERATED * (self.requests + failed) as f64 {
            return Err(Failure::Target(format!(
                "{} of {} requests failed",
                show_count(failed),
                show_count(self.requests + failed)
            )));
        }
        Ok(())
    }
}
