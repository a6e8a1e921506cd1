//! What a comparison found: medians of ratios paired by round, since the machine's pace drifts and ratios do not.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::workload::{Case, Figure};
use crate::machine::Setting;
use crate::plot::Bars;

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
    /// Whether the user ended it.
    pub interrupted: bool,
    /// The results.
    pub cases: Vec<CaseResult>,
    /// Measurements that failed, and why.
    pub failures: Vec<String>,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// Which.
    pub case: Case,
    /// For people.
    pub title: &'static str,
    /// What was read off it.
    pub figures: Vec<FigureResult>,
}

/// One figure for all servers.
#[derive(Clone, Debug, Serialize)]
pub struct FigureResult {
    /// Which.
    pub figure: Figure,
    /// For people.
    pub title: &'static str,
    /// By server.
    pub servers: BTreeMap<String, ServerResult>,
}

/// One figure of one server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerResult {
    /// One value per round.
    pub values: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// Median of the ratios to the reference in the same round,
    pub ratio: f64,
    /// and their quartiles.
    pub ratio_quartiles: (f64, f64),
}

/// Values by case, figure and server; a round that failed is missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(BTreeMap<(Case, Figure, String), BTreeMap<usize, f64>>);

impl Values {
    pub(super) fn add(&mut self, case: Case, figure: Figure, server: &str, round: usize, value: f64) {
        self.0.entry((case, figure, server.to_owned())).or_default().insert(round, value);
    }

    /// The results of the cases that have any.
    pub(super) fn results(&self, reference: &str) -> Vec<CaseResult> {
        let figure_of = |case: Case, figure: Figure| {
            let keys = self.0.keys().filter(|key| (key.0, key.1) == (case, figure));
            let servers: BTreeMap<String, ServerResult> =
                keys.map(|key| (key.2.clone(), self.result(key, reference))).collect();
            (!servers.is_empty()).then(|| FigureResult { figure, title: figure.title(), servers })
        };
        let case_of = |case: Case| {
            let figures: Vec<FigureResult> =
                case.figures().iter().filter_map(|&figure| figure_of(case, figure)).collect();
            (!figures.is_empty()).then(|| CaseResult { case, title: case.title(), figures })
        };
        Case::ALL.into_iter().filter_map(case_of).collect()
    }

    fn result(&self, key: &(Case, Figure, String), reference: &str) -> ServerResult {
        let by_round = &self.0[key];
        let values: Vec<f64> = by_round.values().copied().collect();
        let base = self.0.get(&(key.0, key.1, reference.to_owned()));
        let ratios: Vec<f64> = by_round
            .iter()
            .filter_map(|(round, value)| Some(value / base?.get(round)?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        ServerResult {
            median: quantile(&values, 0.5),
            values,
            ratio: quantile(&ratios, 0.5),
            ratio_quartiles: (quantile(&ratios, 0.25), quantile(&ratios, 0.75)),
        }
    }
}

/// A quantile by linear interpolation; 0 of nothing.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
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
        self.write(&mut out).expect("writing to a string");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Comparison of reverse proxies\n\n{}", self.setting.markdown())?;
        for (name, version) in &self.peers {
            writeln!(out, "- {name}: {version}")?;
        }
        let (rounds, seconds, reference) = (self.rounds, self.seconds, &self.reference);
        writeln!(
            out,
            "\n{rounds} rounds of {seconds} s each, the servers taking turns; one worker each on one CPU, load and \
             origin together on another. **Ratios** are to {reference} in the same round: their median, and their \
             quartiles in brackets. Values are medians and drift with the machine; ratios are what counts. With both \
             on one machine, requests/s and latency of a closed loop are limited by the load and the origin as well: \
             CPU per request is not.\n"
        )?;
        if self.interrupted {
            writeln!(out, "Interrupted: this is what was measured until then.\n")?;
        }
        for case in &self.cases {
            let detail = match case.case {
                Case::FixedRate => format!(": {} per second", self.rate),
                Case::Idle => format!(": {}", self.idle_connections),
                _ => String::new(),
            };
            writeln!(out, "## {}{detail}\n", case.title)?;
            self.write_case(out, case)?;
        }
        for failure in &self.failures {
            writeln!(out, "Failed: {failure}\n")?;
        }
        Ok(())
    }

    fn write_case(&self, out: &mut String, case: &CaseResult) -> std::fmt::Result {
        write!(out, "| server |")?;
        for figure in &case.figures {
            write!(out, " {} | ratio |", figure.title)?;
        }
        writeln!(out, "\n|---|{}", "---:|---:|".repeat(case.figures.len()))?;
        for name in self.peers.keys() {
            write!(out, "| {name} |")?;
            for figure in &case.figures {
                match figure.servers.get(name) {
                    Some(result) => {
                        let (low, high) = result.ratio_quartiles;
                        write!(out, " {:.2} | {:.2} ({low:.2}-{high:.2}) |", result.median, result.ratio)?;
                    }
                    None => write!(out, " - | - |")?,
                }
            }
            writeln!(out)?;
        }
        writeln!(out)
    }

    /// The chart: the first figure of each case, as ratios.
    pub fn bars(&self) -> Bars {
        let groups = self.cases.iter().filter_map(|case| {
            let figure = case.figures.first()?;
            let bars = figure.servers.iter().map(|(name, result)| (name.clone(), result.ratio)).collect();
            // A ratio has no unit.
            let what = figure.title.split(',').next().unwrap_or_default();
            Some((format!("{}: {what}", case.title), bars))
        });
        Bars { title: format!("Relative to {} (less is better)", self.reference), groups: groups.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_paired_by_round() {
        let mut values = Values::default();
        // The machine gets twice as slow from round to round; the ratio stays.
        for (round, pace) in [1.0, 2.0, 4.0].into_iter().enumerate() {
            values.add(Case::Small64, Figure::CpuUsPerRequest, "nginx", round, 10.0 * pace);
            values.add(Case::Small64, Figure::CpuUsPerRequest, "sluice", round, 7.0 * pace);
        }
        values.add(Case::Small64, Figure::CpuUsPerRequest, "sluice", 3, 1.0);
        let results = values.results("nginx");
        let sluice = &results[0].figures[0].servers["sluice"];
        assert!((sluice.ratio - 0.7).abs() < 1e-9 && (sluice.ratio_quartiles.1 - 0.7).abs() < 1e-9);
        assert_eq!(sluice.values.len(), 4);
    }

    #[test]
    fn quantiles() {
        assert!((quantile(&[4.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-9);
        assert!((quantile(&[1.0, 2.0], 0.25) - 1.25).abs() < 1e-9);
        assert!(quantile(&[], 0.5).abs() < 1e-9);
    }
}
