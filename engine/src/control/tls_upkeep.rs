//! What listeners with TLS show, kept up to date: certificates whose files have changed, and the keys of session tickets. The
//! control thread looks about once a second; shards are sent a message when there is something new, and no connection is touched.

use std::sync::Arc;
use std::time::Duration;

use sluice_tls::certificates::CertificateSet;

use super::live::{LiveCertificate, LiveTls};
use super::ticket_ring::TicketRing;
pub(crate) use super::watched::Occasion;
use super::watched::{Look, Watched};
use crate::config::Config;
use crate::tls::material::{CurrentMaterial, Material};

/// How often files and ages are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Everything that may change in front of running shards.
pub(crate) struct TlsUpkeep {
    watched: Vec<Watched>,
    tickets: TicketRing,
    current: Arc<CurrentMaterial>,
}

impl TlsUpkeep {
    /// For the certificates of this configuration, which are in force.
    pub(crate) fn new(
        config: &Config,
        tickets: TicketRing,
        current: &Arc<CurrentMaterial>,
        now_s: u64,
    ) -> TlsUpkeep {
        let certificates = current.get().certificates.all.clone();
        let pairs = config.certificates.iter().zip(&certificates);
        let watched =
            pairs.map(|(files, certificate)| Watched::new(files, certificate, signed(now_s))).collect();
        TlsUpkeep { watched, tickets, current: current.clone() }
    }

    /// Looks at everything once. Says whether shards have to take over what is in force now.
    pub(crate) fn look(&mut self, now_s: u64, occasion: Occasion) -> bool {
        let look = |watched: &mut Watched| {
            let is_other = watched.look(signed(now_s), occasion) == Look::Replaced;
            watched.say_expiry(signed(now_s));
            is_other
        };
        // All of them, also behind one that has changed.
        let has_other = self.watched.iter_mut().map(look).fold(false, |any, is_other| any | is_other);
        let has_changed = self.tickets.look(now_s) | has_other;
        if has_changed {
            self.current.replace(self.material());
        }
        has_changed
    }

    fn material(&self) -> Material {
        let all = self.watched.iter().map(|watched| watched.certificate().clone()).collect();
        Material {
            certificates: CertificateSet { all, ..CertificateSet::default() },
            tickets: self.tickets.keys().clone(),
        }
    }

    /// For metrics.
    pub(crate) fn live(&self, now_s: u64) -> LiveTls {
        let certificate = |watched: &Watched| {
            let facts = &watched.certificate().facts;
            LiveCertificate {
                certificate: watched.name(),
                name: facts.display_name().to_owned(),
                expires_s: facts.not_after_s,
            }
        };
        LiveTls {
            certificates: self.watched.iter().map(certificate).collect(),
            ticket_key_age_s: now_s.saturating_sub(self.tickets.newest_s()),
        }
    }
}

/// Times of certificates may be before 1970.
fn signed(now_s: u64) -> i64 {
    i64::try_from(now_s).unwrap_or(i64::MAX)
}
