//! What a comparison found, as JSON, as Markdown and as a chart.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::values::{CaseResult, ServerResult};
use super::workload::Case;
use crate::machine::Setting;
use crate::plot::Bars;
use crate::tls::KIND as CERTIFICATE;
use crate::units::show_count;

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Machine, kernel, command.
    pub setting: Setting,
    /// Servers and their versions.
    pub peers: BTreeMap<String, String>,
    /// The server that ratios refer to.
    pub reference: String,
    /// Rounds, each of them all cases with all servers.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Requests per second of the fixed rate.
    pub rate: u64,
    /// Idle connections.
    pub idle_connections: u64,
    /// Seconds it all took.
    pub elapsed_s: f64,
    /// Whether the user ended it.
    pub interrupted: bool,
    /// The results.
    pub cases: Vec<CaseResult>,
    /// What makes figures of a server doubtful.
    pub doubts: Vec<String>,
    /// Measurements that failed, and why.
    pub failures: Vec<String>,
}

/// How servers become comparable, proxies and relays.
const PROXIES: &str = "configured to do the same work (bench-tools/peers)";
const RELAYS: &str = "the same relay written for each runtime, the bare one passing bytes without a look at them \
(bench-tools/src/relay)";

const HOW: &str = "\
Servers take turns within each round: one worker each on one CPU, load and origin together on another. Values are medians over the rounds and drift with the machine. **Ratios** are what \
this report says: each server to the reference in the same round, their median, and their quartiles in brackets.";

/// What the machine hides. It is in every report, since reports travel alone.
const LIMITS: &str = "\
## What this does not show

- Load, origin and server share one machine: with two CPUs a closed loop is as fast as the slower of them, so that \
requests/s and latency understate the cheaper server. CPU per request does not depend on who is slower.
- Loopback is no network: no interrupts, no packet loss, no NIC offload, no delay, and delivery is charged to the \
sender. Several workers or shards are not measured.
- Latencies at a fixed rate count from when a request was due. Those of a server near its limit say that it is near its \
limit.
";

/// What a relay is not.
const LIMITS_OF_RELAYS: &str = "\
- The relays keep a task, its buffers and an upstream connection per client connection; their memory is that of such a \
design on each runtime, not that of sluice.
";

impl Report {
    /// The JSON document.
    ///
    /// # Panics
    /// Never: it is plain data.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }

    /// The report for people.
    ///
    /// # Panics
    /// Never: writing to a string cannot fail.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("writing to a string");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let is_foundation = self.peers.keys().all(|name| name.starts_with("relay-"));
        let title = if is_foundation {
            "The same relay on several runtimes"
        } else {
            "Comparison of reverse proxies"
        };
        writeln!(out, "# {title}\n\n{}", self.setting.markdown())?;
        for (name, version) in &self.peers {
            writeln!(out, "- {name}: {version}")?;
        }
        let (seconds, reference) = (self.seconds, &self.reference);
        let rounds = if self.rounds == 1 { "1 round".into() } else { format!("{} rounds", self.rounds) };
        writeln!(
            out,
            "- {rounds} of {seconds} s per measurement, {:.0} s in all; {}\n- reference: {reference}\n\n{HOW}\n",
            self.elapsed_s,
            if is_foundation { RELAYS } else { PROXIES }
        )?;
        if self.interrupted {
            writeln!(out, "Interrupted: this is what was measured until then.\n")?;
        }
        for case in &self.cases {
            let detail = match case.case {
                case if case.has_rate() => format!(": {} per second", show_count(self.rate)),
                Case::Idle | Case::TlsIdle => format!(": {}", show_count(self.idle_connections)),
                _ => String::new(),
            };
            writeln!(out, "## {}{detail}\n", case.title)?;
            self.write_case(out, case)?;
            if case.case.is_tls() && !case.case.is_idle() {
                writeln!(out, "{}, certificate {CERTIFICATE}.\n", case.negotiated().join(", "))?;
            }
        }
        for failure in &self.failures {
            writeln!(out, "Failed: {failure}\n")?;
        }
        write!(out, "{LIMITS}{}", if is_foundation { LIMITS_OF_RELAYS } else { "" })
    }

    fn write_case(&self, out: &mut String, case: &CaseResult) -> std::fmt::Result {
        write!(out, "| server |")?;
        for figure in &case.figures {
            write!(out, " {} | ratio |", figure.title)?;
        }
        writeln!(out, "\n|---|{}", "---:|---:|".repeat(case.figures.len()))?;
        let doubts =
            |name: &String| case.health.get(name).map(super::values::Health::doubts).unwrap_or_default();
        for name in self.peers.keys() {
            let mark = if doubts(name).is_empty() { "" } else { " (!)" };
            write!(out, "| {name}{mark} |")?;
            for figure in &case.figures {
                write!(out, " {} |", figure.servers.get(name).map_or("- | -".into(), cells))?;
            }
            writeln!(out)?;
        }
        writeln!(out)?;
        for name in self.peers.keys() {
            for doubt in doubts(name) {
                writeln!(out, "(!) {name}: {doubt}.\n")?;
            }
        }
        Ok(())
    }

    /// The chart: the first figure of each case, as ratios.
    pub fn bars(&self) -> Bars {
        let groups = self.cases.iter().filter_map(|case| {
            let figure = case.figures.first()?;
            let bar = |(name, result): (&String, &ServerResult)| Some((name.clone(), result.ratio?));
            let bars: Vec<_> = figure.servers.iter().filter_map(bar).collect();
            // A ratio has no unit.
            let what = figure.title.split(',').next().unwrap_or_default();
            (!bars.is_empty()).then(|| (format!("{}: {what}", case.title), bars))
        });
        Bars { title: format!("Relative to {} (less is better)", self.reference), groups: groups.collect() }
    }
}

/// A value and its ratio.
fn cells(result: &ServerResult) -> String {
    match (result.ratio, result.ratio_quartiles) {
        (Some(ratio), Some((low, high))) => {
            format!("{:.2} | {ratio:.2} ({low:.2}-{high:.2})", result.median)
        }
        _ => format!("{:.2} | -", result.median),
    }
}
