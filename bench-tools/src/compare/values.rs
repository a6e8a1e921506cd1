//! What was measured, by kind of work and server, and what it comes to: medians of ratios paired by round, since the
//! machine's pace drifts and ratios do not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::workload::{Case, Figure};
use crate::load::Report as Loaded;
use crate::units::show_count;

/// More connections than this per request, beyond those that are kept, mean that a server does not keep its own.
const CONNECTS_TOLERATED: f64 = 0.05;
/// So many connections per measurement are the noise of whatever else runs.
const CONNECTS_NOISE: u64 = 200;
/// A larger share of requests that were due and not sent could change the 99.9th percentile.
const BEHIND_TOLERATED: f64 = 0.001;
/// More connections than this per request that a server closed between requests are reported.
const RECONNECTS_TOLERATED: f64 = 0.01;
/// A larger share of handshakes of the other kind would change the figures.
const HANDSHAKES_TOLERATED: f64 = 0.01;

/// One kind of work.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// Which.
    pub case: Case,
    /// For people.
    pub title: &'static str,
    /// What was read off it.
    pub figures: Vec<FigureResult>,
    /// How well each server did it.
    pub health: BTreeMap<String, Health>,
}

impl CaseResult {
    /// All that servers negotiated for TLS: one suite, or their figures are not those of the same work.
    pub(super) fn negotiated(&self) -> Vec<&str> {
        let kinds: BTreeSet<&str> =
            self.health.values().flat_map(|health| health.tls_kinds.keys()).map(String::as_str).collect();
        kinds.into_iter().collect()
    }
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
    /// Median of the ratios to the reference in the same round; `None` without such a round,
    pub ratio: Option<f64>,
    /// and their quartiles.
    pub ratio_quartiles: Option<(f64, f64)>,
}

/// How well a server did a kind of work, over all rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Health {
    /// Requests answered.
    pub requests: u64,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Connections that the server closed between requests.
    pub reconnects: u64,
    /// Fixed rate: requests that were due and not sent.
    pub behind: u64,
    /// TLS: what was negotiated, and how often.
    pub tls_kinds: BTreeMap<String, u64>,
    /// TLS: handshakes that were full where they should resume a session, or the other way round.
    pub other_handshakes: u64,
    /// Per round: connections that were opened on this machine meanwhile and that the load does not explain, per
    /// request.
    pub unexplained_connects: Vec<f64>,
}

impl Health {
    /// Adds a measurement during which so many connections were opened on this machine.
    pub(super) fn add(&mut self, case: Case, loaded: &Loaded, connects: u64) {
        self.requests += loaded.requests;
        for (kind, count) in &loaded.errors {
            *self.errors.entry(kind.clone()).or_insert(0) += count;
        }
        self.reconnects += loaded.reconnects;
        self.behind += loaded.behind;
        // Each client connection may want one to the origin, or one for each stream that stays open.
        let per_connection = loaded.message.and(loaded.streams).unwrap_or(1);
        let expected = match case {
            case if case.has_new_connections() => connects,
            _ => 2 * (loaded.connections * per_connection + loaded.reconnects) + CONNECTS_NOISE,
        };
        if let Some(tls) = &loaded.tls {
            for (kind, count) in &tls.kinds {
                *self.tls_kinds.entry(kind.clone()).or_insert(0) += count;
            }
            self.other_handshakes +=
                if case.tls_args().resume { tls.handshakes - tls.resumed } else { tls.resumed };
        }
        let unexplained = connects.saturating_sub(expected);
        self.unexplained_connects.push(unexplained as f64 / loaded.requests.max(1) as f64);
    }

    /// Why the figures may not be those of a healthy server, in sentences.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let failed: u64 = self.errors.values().sum();
        if failed > 0 {
            let kinds: Vec<String> =
                self.errors.iter().map(|(kind, &count)| format!("{kind} {}", show_count(count))).collect();
            let (failed, all) = (show_count(failed), show_count(self.requests + failed));
            doubts.push(format!("{failed} of {all} requests failed ({})", kinds.join(", ")));
        }
        if self.reconnects as f64 > RECONNECTS_TOLERATED * self.requests as f64 {
            doubts.push(format!("it closed {} connections between requests", show_count(self.reconnects)));
        }
        if self.behind as f64 > BEHIND_TOLERATED * self.requests as f64 {
            let behind = show_count(self.behind);
            doubts.push(format!(
                "{behind} requests were due and never sent: the rate is more than it, or the load, can take, and the \
                 latencies leave those requests out"
            ));
        }
        if self.other_handshakes as f64 > HANDSHAKES_TOLERATED * self.requests as f64 {
            let other = show_count(self.other_handshakes);
            doubts.push(format!(
                "{other} handshakes were full where they should resume a session, or the other way round"
            ));
        }
        // Whatever else runs on the machine opens connections too, but hardly in most of the rounds.
        let share = quantile(&self.unexplained_connects, 0.5).unwrap_or(0.0);
        if share > CONNECTS_TOLERATED {
            doubts.push(format!(
                "{:.0} connections were opened for each 100 requests in half of the rounds or more: it seems to connect to \
                 its origin anew instead of keeping connections, unless something else on this machine did",
                share * 100.0
            ));
        }
        doubts
    }
}

/// Values by case, figure, server and round, where a round that failed is missing; and how well each server did.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    figures: BTreeMap<(Case, Figure, String), BTreeMap<usize, f64>>,
    health: BTreeMap<(Case, String), Health>,
}

impl Values {
    pub(super) fn add(&mut self, case: Case, figure: Figure, server: &str, round: usize, value: f64) {
        self.figures.entry((case, figure, server.to_owned())).or_default().insert(round, value);
    }

    pub(super) fn health(&mut self, case: Case, server: &str) -> &mut Health {
        self.health.entry((case, server.to_owned())).or_default()
    }

    /// The results of the cases that have any.
    pub(super) fn results(&self, reference: &str) -> Vec<CaseResult> {
        let figure_of = |case: Case, figure: Figure| {
            let keys = self.figures.keys().filter(|key| (key.0, key.1) == (case, figure));
            let servers: BTreeMap<String, ServerResult> =
                keys.map(|key| (key.2.clone(), self.result(key, reference))).collect();
            (!servers.is_empty()).then(|| FigureResult { figure, title: figure.title(), servers })
        };
        let case_of = |case: Case| {
            let figures: Vec<FigureResult> =
                case.figures().iter().filter_map(|&figure| figure_of(case, figure)).collect();
            let health = self.health.iter().filter(|(key, _)| key.0 == case);
            let health = health.map(|(key, health)| (key.1.clone(), health.clone())).collect();
            (!figures.is_empty()).then(|| CaseResult { case, title: case.title(), figures, health })
        };
        Case::ALL.into_iter().filter_map(case_of).collect()
    }

    fn result(&self, key: &(Case, Figure, String), reference: &str) -> ServerResult {
        let by_round = &self.figures[key];
        let values: Vec<f64> = by_round.values().copied().collect();
        let base = self.figures.get(&(key.0, key.1, reference.to_owned()));
        let ratios: Vec<f64> = by_round
            .iter()
            .filter_map(|(round, value)| Some(value / base?.get(round)?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        ServerResult {
            median: quantile(&values, 0.5).unwrap_or(0.0),
            values,
            ratio: quantile(&ratios, 0.5),
            ratio_quartiles: quantile(&ratios, 0.25).zip(quantile(&ratios, 0.75)),
        }
    }
}

/// A quantile by linear interpolation, if there are values.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
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
        let is_07 = |ratio: f64| (ratio - 0.7).abs() < 1e-9;
        assert!(sluice.ratio.is_some_and(is_07));
        assert!(sluice.ratio_quartiles.is_some_and(|(low, high)| is_07(low) && is_07(high)));
        assert_eq!(sluice.values.len(), 4);
    }

    #[test]
    fn without_the_reference_there_is_no_ratio() {
        let mut values = Values::default();
        values.add(Case::Body10m, Figure::CpuUsPerRequest, "sluice", 0, 7.0);
        values.add(Case::Body10m, Figure::GbPerCpuS, "sluice", 0, 7.0);
        values.add(Case::Body10m, Figure::GbPerCpuS, "nginx", 0, 0.0);
        let results = values.results("nginx");
        for figure in &results[0].figures {
            let sluice = &figure.servers["sluice"];
            assert_eq!((sluice.ratio, sluice.ratio_quartiles), (None, None));
        }
    }

    #[test]
    fn quantiles() {
        let close = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-9);
        assert!(close(quantile(&[4.0, 1.0, 2.0], 0.5), 2.0));
        assert!(close(quantile(&[1.0, 2.0], 0.25), 1.25));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_healthy_server_raises_no_doubt() {
        let healthy =
            Health { requests: 10_000, unexplained_connects: vec![0.0, 0.9, 0.01], ..Health::default() };
        assert!(healthy.doubts().is_empty());
        let failing = Health { errors: BTreeMap::from([("reset".into(), 2)]), ..healthy.clone() };
        assert_eq!(failing.doubts(), ["2 of 10,002 requests failed (reset 2)"]);
        let late = Health { behind: 11, ..healthy.clone() };
        assert!(late.doubts()[0].starts_with("11 requests were due and never sent"));
        let closing = Health { reconnects: 101, ..healthy.clone() };
        assert!(closing.doubts()[0].starts_with("it closed 101 connections"));
        let full = Health { other_handshakes: 101, ..healthy.clone() };
        assert!(full.doubts()[0].starts_with("101 handshakes were full where"));
        assert!(Health { behind: 9, reconnects: 99, ..healthy.clone() }.doubts().is_empty());
        let connecting = Health { unexplained_connects: vec![0.0, 0.5, 0.4], ..healthy };
        assert!(connecting.doubts()[0].starts_with("40 connections were opened for each 100 requests"));
    }
}
