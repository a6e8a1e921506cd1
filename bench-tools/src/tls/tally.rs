//! Handshakes, counted by a lane and reported.

use std::collections::BTreeMap;

use rustls::client::ClientConnection;
use rustls::{HandshakeKind, ProtocolVersion};
use serde::Serialize;

use crate::units::show_count;

/// What was negotiated: version, suite, group (none in a resumed handshake of TLS 1.2).
type Kind = [&'static str; 3];

/// The handshakes of a lane.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsTally {
    handshakes: u64,
    resumed: u64,
    /// Of all handshakes, those before the measured time included.
    kinds: BTreeMap<Kind, u64>,
}

/// Handshakes of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TlsReport {
    /// Handshakes done within the measured time.
    pub handshakes: u64,
    /// Those of them that resumed a session.
    pub resumed: u64,
    /// The share of these; `None` without a handshake.
    pub resumed_share: Option<f64>,
    /// Version, suite and group: the number of handshakes with them, those before the measured time included.
    pub kinds: BTreeMap<String, u64>,
}

impl TlsTally {
    /// Counts a handshake that is done; as one of the measured time or not.
    pub(super) fn add_one(&mut self, tls: &ClientConnection, is_measured: bool) {
        *self.kinds.entry(kind(tls)).or_insert(0) += 1;
        if is_measured {
            self.handshakes += 1;
            self.resumed += u64::from(tls.handshake_kind() == Some(HandshakeKind::Resumed));
        }
    }

    /// Begins the measured time: forgets all but what was negotiated.
    pub(crate) fn restart(&mut self) {
        (self.handshakes, self.resumed) = (0, 0);
    }

    /// Adds another's counts.
    pub(crate) fn add(&mut self, other: &TlsTally) {
        self.handshakes += other.handshakes;
        self.resumed += other.resumed;
        for (&kind, count) in &other.kinds {
            *self.kinds.entry(kind).or_insert(0) += count;
        }
    }

    /// For the report.
    pub(crate) fn report(&self) -> TlsReport {
        // rustls' names of the suites of TLS 1.3 are its own.
        let name = |kind: &Kind| kind.join(" ").replace(" TLS13_", " TLS_").trim_end().to_owned();
        TlsReport {
            handshakes: self.handshakes,
            resumed: self.resumed,
            resumed_share: (self.handshakes > 0).then(|| self.resumed as f64 / self.handshakes as f64),
            kinds: self.kinds.iter().map(|(kind, &count)| (name(kind), count)).collect(),
        }
    }
}

fn kind(tls: &ClientConnection) -> Kind {
    let version = match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "",
    };
    let suite = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
    let group =
        tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).unwrap_or_default();
    [version, suite, group]
}

impl TlsReport {
    /// One line for people.
    pub fn text(&self) -> String {
        let kinds: Vec<String> = match self.kinds.len() {
            1 => self.kinds.keys().cloned().collect(),
            _ => self.kinds.iter().map(|(kind, count)| format!("{kind} ({})", show_count(*count))).collect(),
        };
        let resumed =
            self.resumed_share.map_or(String::new(), |share| format!(", {:.1} % resumed", share * 100.0));
        format!("{}; {} handshakes{resumed}", kinds.join(", "), show_count(self.handshakes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_add_up_and_the_kinds_outlive_the_warm_up() {
        let kind = ["TLS 1.2", "SUITE", ""];
        let mut one = TlsTally { handshakes: 4, resumed: 3, kinds: BTreeMap::from([(kind, 4)]) };
        one.restart();
        one.add(&TlsTally { handshakes: 4, resumed: 1, kinds: BTreeMap::from([(kind, 6)]) });
        let report = one.report();
        assert_eq!((report.handshakes, report.resumed, report.resumed_share), (4, 1, Some(0.25)));
        assert_eq!(report.kinds, BTreeMap::from([("TLS 1.2 SUITE".into(), 10)]));
        assert_eq!(report.text(), "TLS 1.2 SUITE; 4 handshakes, 25.0 % resumed");
        assert_eq!(TlsTally::default().report().resumed_share, None);
    }
}
