//! What a capacity run found: the JSON's keys, the Markdown, the charts.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::limit::Limit;
use super::ports::PortPlan;
use crate::Failure;
use crate::fault::Fault;
use crate::latency::Latency;
use crate::machine::Setting;
use crate::plot::{Axis, Panel, Scale, Series, count_label, ns_label};
use crate::procfs::Server;
use crate::tls::TlsReport;
use crate::units::{show_bytes, show_count, show_ns};

/// A capacity run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Machine, kernel, command.
    pub setting: Setting,
    /// Address of the target.
    pub target: String,
    /// What it was asked for.
    pub path: String,
    /// Connections are WebSockets.
    pub websocket: bool,
    /// Its processes, when they could be seen.
    pub server: Option<Server>,
    /// TLS handshakes of all steps; `None` in clear text.
    pub tls: Option<TlsReport>,
    /// The addresses used.
    pub ports: PortPlan,
    /// Share of active connections.
    pub active: f64,
    /// Each sends a request in this time.
    pub interval_s: f64,
    /// How long each step was held.
    pub hold_s: f64,
    /// Whether the user ended the run.
    pub interrupted: bool,
    /// Before the first connection.
    pub baseline: Baseline,
    /// The steps, the last one perhaps not reached.
    pub steps: Vec<Step>,
    /// What kept the run from going on.
    pub limit: Option<Limit>,
}

/// Memory before the first connection, after a short load.
#[derive(Clone, Debug, Serialize)]
pub struct Baseline {
    /// Resident memory of the target.
    pub rss_bytes: u64,
    /// Slab of the machine.
    pub slab_bytes: u64,
    /// TCP buffers of the machine.
    pub tcp_memory_bytes: u64,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The goal: connections tried, those of earlier steps included.
    pub connections: u64,
    /// Opened in this step.
    pub opened: u64,
    /// Failed in this step.
    pub failed: u64,
    /// Open at the end of the step.
    pub held: u64,
    /// Ended by the target or an error while they were held.
    pub lost: u64,
    /// Opened, of those tried.
    pub success_rate: f64,
    /// Seconds it took to open them.
    pub open_s: f64,
    /// Opened per second.
    pub connections_per_s: f64,
    /// From connect to connected.
    pub connect_ns: Latency,
    /// Its distribution: percentile and nanoseconds.
    pub connect_distribution: Vec<(f64, u64)>,
    /// From the first request on a connection to its answer.
    pub first_request_ns: Latency,
    /// Why connections failed.
    pub open_errors: BTreeMap<String, u64>,
    /// Why held ones were lost.
    pub hold_errors: BTreeMap<String, u64>,
    /// The active share.
    pub active: ActiveShare,
    /// What the target used.
    pub target: Option<TargetCost>,
    /// What the kernel used.
    pub kernel: KernelCost,
    /// Counters of refusals that grew.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Share of all CPU time unused while opening.
    pub idle_share: f64,
    /// Resident memory of this tool.
    pub tool_rss_bytes: u64,
}

/// Requests on held connections.
#[derive(Clone, Debug, Serialize)]
pub struct ActiveShare {
    /// Active connections.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// Per second.
    pub requests_per_s: f64,
    /// From sending to the answer.
    pub request_ns: Latency,
    /// Its distribution.
    pub request_distribution: Vec<(f64, u64)>,
    /// How late they were sent: what the tool adds.
    pub send_lag_ns: Latency,
}

/// What the target used.
#[derive(Clone, Debug, Serialize)]
pub struct TargetCost {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Its growth over the baseline, per held connection.
    pub user_bytes_per_connection: f64,
    /// Its growth over the previous step, per connection more.
    pub user_bytes_per_further_connection: Option<f64>,
    /// CPU time while connections were opened.
    pub cpu_open_s: f64,
    /// Per opened connection, with its first request.
    pub cpu_us_per_open: f64,
    /// CPU while they were held, of one CPU.
    pub cpu_hold_share: f64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// What the kernel used, for both ends of the connections.
#[derive(Clone, Debug, Serialize)]
pub struct KernelCost {
    /// TCP sockets.
    pub tcp_in_use: u64,
    /// In TIME_WAIT.
    pub tcp_time_wait: u64,
    /// TCP buffers.
    pub tcp_memory_bytes: u64,
    /// Slab.
    pub slab_bytes: u64,
    /// Growth of slab and buffers since the baseline, per held connection.
    pub kernel_bytes_per_connection: f64,
    /// The caches that grew most, in bytes.
    pub slabs: BTreeMap<String, u64>,
}

/// Percentiles for a chart: denser towards the end.
pub(super) fn distribution(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    const PERCENTILES: [f64; 15] =
        [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0];
    if histogram.is_empty() {
        return Vec::new();
    }
    let value = |percentile: f64| (percentile, histogram.value_at_quantile(percentile / 100.0));
    PERCENTILES.into_iter().map(value).collect()
}

/// Faults by their names.
pub(super) fn names(faults: &BTreeMap<Fault, u64>) -> BTreeMap<String, u64> {
    faults.iter().map(|(fault, &count)| (fault.name(), count)).collect()
}

impl Step {
    /// Whether it was reached.
    fn verdict(&self) -> Result<(), Failure> {
        if self.held >= self.connections {
            return Ok(());
        }
        let kinds = self.open_errors.iter().chain(&self.hold_errors);
        let kinds: Vec<String> =
            kinds.map(|(kind, count)| format!("{kind} {}", show_count(*count))).collect();
        let (held, wanted) = (show_count(self.held), show_count(self.connections));
        Err(Failure::Target(format!("{held} of {wanted} connections were held ({})", kinds.join(", "))))
    }

    /// One line.
    pub fn summary(&self) -> String {
        let target = self.target.as_ref().map_or(String::new(), |target| {
            let rss = show_bytes(target.rss_bytes);
            format!(", target {rss} ({:.0} B per connection)", target.user_bytes_per_connection)
        });
        format!(
            "{} connections: {} held, {} failed, {} lost, {}/s, active p99 {}{target}",
            show_count(self.connections),
            show_count(self.held),
            show_count(self.failed),
            show_count(self.lost),
            show_count(self.connections_per_s as u64),
            show_ns(self.active.request_ns.p99),
        )
    }
}

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
        self.write_head(&mut out).expect("writing to a string");
        self.write_tables(&mut out).expect("writing to a string");
        self.write_errors(&mut out).expect("writing to a string");
        out
    }

    fn write_head(&self, out: &mut String) -> std::fmt::Result {
        let name = self.server.as_ref().map_or("a server", |server| &server.name);
        writeln!(out, "# Connection capacity of {name} at {}\n\n{}", self.target, self.setting.markdown())?;
        match &self.limit {
            Some(limit) => writeln!(
                out,
                "**Limit ({}) at {} connections**: {}. To change it: {}.\n",
                limit.kind,
                show_count(limit.connections),
                limit.message,
                limit.fix
            )?,
            None if self.interrupted => {
                out.push_str("Interrupted: this is what was measured until then.\n\n");
            }
            None => out.push_str("No limit was met.\n\n"),
        }
        let (opened, request) = match self.websocket {
            false => (format!("one `GET {}` answered", self.path), "request"),
            true => (format!("one message on a WebSocket (`{}`) echoed", self.path), "message"),
        };
        writeln!(
            out,
            "Each connection is opened{} and has {opened} before it counts. Each step is held for {} s; \
             {:.3} % of the connections send a {request} every {} s. {}. Load and target share this machine: speed \
             and latency are those of both together.\n",
            if self.tls.is_some() { " by TLS" } else { "" },
            self.hold_s,
            self.active * 100.0,
            self.interval_s,
            self.ports
        )
    }

    fn write_tables(&self, out: &mut String) -> std::fmt::Result {
        if let Some(tls) = &self.tls {
            writeln!(out, "{}.\n", tls.text())?;
        }
        writeln!(out, "| goal | held | failed | lost | success | opened in | per second |")?;
        writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|")?;
        for step in &self.steps {
            writeln!(
                out,
                "| {} | {} | {} | {} | {:.2} % | {:.1} s | {} |",
                show_count(step.connections),
                show_count(step.held),
                show_count(step.failed),
                show_count(step.lost),
                step.success_rate * 100.0,
                step.open_s,
                show_count(step.connections_per_s as u64)
            )?;
        }
        writeln!(out, "\nLatency of connecting:\n\n| held | {LATENCY_HEAD} |\n|---:|{LATENCY_RULE}")?;
        for step in &self.steps {
            writeln!(out, "| {} | {} |", show_count(step.held), latency_cells(step.connect_ns))?;
        }
        writeln!(
            out,
            "\nRequests on held connections:\n\n| held | active | requests/s | {LATENCY_HEAD} | sent late by (p99) \
             |\n|---:|---:|---:|{LATENCY_RULE}---:|"
        )?;
        for step in &self.steps {
            let active = &step.active;
            let latency =
                if active.requests == 0 { NO_LATENCY.into() } else { latency_cells(active.request_ns) };
            writeln!(
                out,
                "| {} | {} | {:.0} | {latency} | {} |",
                show_count(step.held),
                show_count(active.connections),
                active.requests_per_s,
                show_ns(active.send_lag_ns.p99)
            )?;
        }
        self.write_costs(out)
    }

    fn write_costs(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\nTarget before the first connection: {} resident.\n\n| held | target RSS | bytes per connection | per \
             further connection | CPU per open | CPU while held | descriptors | kernel bytes per connection | TCP \
             sockets | tool RSS |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            show_bytes(self.baseline.rss_bytes)
        )?;
        for step in &self.steps {
            let target = match &step.target {
                Some(target) => format!(
                    "{} | {:.1} | {} | {:.1} µs | {:.1} % | {}",
                    show_bytes(target.rss_bytes),
                    target.user_bytes_per_connection,
                    target
                        .user_bytes_per_further_connection
                        .map_or("-".into(), |bytes| format!("{bytes:.1}")),
                    target.cpu_us_per_open,
                    target.cpu_hold_share * 100.0,
                    show_count(target.descriptors)
                ),
                None => "- | - | - | - | - | -".into(),
            };
            writeln!(
                out,
                "| {} | {target} | {:.0} | {} | {} |",
                show_count(step.held),
                step.kernel.kernel_bytes_per_connection,
                show_count(step.kernel.tcp_in_use),
                show_bytes(step.tool_rss_bytes)
            )?;
        }
        Ok(())
    }

    fn write_errors(&self, out: &mut String) -> std::fmt::Result {
        for step in &self.steps {
            let refusals = step.refusals.iter().map(|(name, count)| (format!("kernel: {name}"), count));
            let open = step.open_errors.iter().map(|(name, count)| (format!("open: {name}"), count));
            let hold = step.hold_errors.iter().map(|(name, count)| (format!("held: {name}"), count));
            let all: Vec<String> = open
                .chain(hold)
                .chain(refusals)
                .map(|(name, count)| format!("{name} {}", show_count(*count)))
                .collect();
            if !all.is_empty() {
                writeln!(
                    out,
                    "\nErrors on the way to {}: {}.",
                    show_count(step.connections),
                    all.join(", ")
                )?;
            }
        }
        Ok(())
    }

    /// The charts.
    pub fn panels(&self) -> Vec<Panel> {
        let axis = |title: &str, scale, label| Axis { title: title.into(), scale, label };
        let distribution = |title: &str, points: &dyn Fn(&Step) -> Vec<(f64, u64)>| Panel {
            title: title.into(),
            x: axis("percentile", Scale::Linear, percent_label),
            y: axis("latency", Scale::Log, ns_label),
            series: self
                .steps
                .iter()
                .map(|step| Series { name: curve_name(step), points: tail(&points(step)) })
                .collect(),
        };
        let over = |title: &str, y: Axis, series: Vec<(&str, Figure<'_>)>| Panel {
            title: title.into(),
            x: axis("connections held", Scale::Log, count_label),
            y,
            series: series.into_iter().map(|(name, value)| self.over_connections(name, value)).collect(),
        };
        vec![
            distribution("Connect latency", &|step| step.connect_distribution.clone()),
            distribution("Request latency on held connections", &|step| {
                step.active.request_distribution.clone()
            }),
            over(
                "Connections opened per second",
                axis("per second", Scale::Linear, count_label),
                vec![("opened", &|step| Some(step.connections_per_s))],
            ),
            over(
                "Memory",
                axis("bytes", Scale::Log, bytes_label),
                vec![
                    ("target RSS", &|step| Some(step.target.as_ref()?.rss_bytes as f64)),
                    ("kernel slab", &|step| Some(step.kernel.slab_bytes as f64)),
                    ("TCP buffers", &|step| Some(step.kernel.tcp_memory_bytes as f64)),
                    ("this tool", &|step| Some(step.tool_rss_bytes as f64)),
                ],
            ),
        ]
    }

    fn over_connections(&self, name: &str, value: Figure<'_>) -> Series {
        let points = self.steps.iter().filter_map(|step| Some((step.held as f64, value(step)?)));
        Series { name: name.into(), points: points.filter(|(x, y)| *x > 0.0 && *y > 0.0).collect() }
    }

    /// Whether the run counts as a success.
    ///
    /// # Errors
    /// When the target died, a step that was asked for was not reached, or the user ended the run.
    pub fn verdict(&self, until_limit: bool) -> Result<(), Failure> {
        match &self.limit {
            None if self.interrupted => Err(Failure::Interrupted),
            Some(limit) if !until_limit || matches!(limit.kind, "target_died" | "refused") => {
                let held = show_count(limit.connections);
                Err(Failure::Target(format!("{} at {held} connections; {}", limit.message, limit.fix)))
            }
            None if !until_limit => self.steps.iter().try_for_each(Step::verdict),
            _ => Ok(()),
        }
    }
}

const LATENCY_HEAD: &str = "min | avg | p50 | p90 | p99 | p99.9 | max";
const LATENCY_RULE: &str = "---:|---:|---:|---:|---:|---:|---:|";
/// Where nothing was measured.
const NO_LATENCY: &str = "- | - | - | - | - | - | -";

fn latency_cells(latency: Latency) -> String {
    let Latency { min, mean, p50, p90, p99, p99_9, max } = latency;
    [min, mean, p50, p90, p99, p99_9, max].map(show_ns).join(" | ")
}

/// One figure of a step, if it is known.
type Figure<'a> = &'a dyn Fn(&Step) -> Option<f64>;

fn curve_name(step: &Step) -> String {
    count_label(step.held as f64)
}

/// Percentiles on an axis that gives each further nine the same room: p becomes the number of nines.
fn tail(points: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let nines = |percentile: f64| -((1.0 - percentile / 100.0).max(1e-6)).log10();
    let shown = points.iter().filter(|(percentile, value)| *percentile < 100.0 && *value > 0);
    shown.map(|&(percentile, ns)| (nines(percentile), ns as f64)).collect()
}

fn percent_label(nines: f64) -> String {
    let percent = (1.0 - 10_f64.powf(-nines)) * 100.0;
    let text = format!("{percent:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn bytes_label(bytes: f64) -> String {
    format!("{}B", count_label(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_of_nines() {
        assert_eq!((&*percent_label(0.0), &*percent_label(1.0), &*percent_label(3.0)), ("0", "90", "99.9"));
        let points = tail(&[(0.0, 5), (99.0, 10), (100.0, 20)]);
        assert_eq!(points.len(), 2);
        assert!((points[1].0 - 2.0).abs() < 1e-9);
    }
}
