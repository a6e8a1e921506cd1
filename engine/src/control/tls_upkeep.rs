//! What listeners with TLS show, kept up to date: certificates whose files have changed or that an authority has made, answers to
//! its challenges, and the keys of session tickets.
//!
//! The control thread looks about once a second. Shards are sent a message when there is something new, and no connection is
//! touched.

use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};
use std::time::Duration;

use sluice_tls::certificates::{Certificate, CertificateSet};

use super::acme::{self, AcmeEvent, Answers, Stored};
use super::expiry::Expiry;
use super::live::{LiveCertificate, LiveTls};
use super::ticket_ring::TicketRing;
pub(crate) use super::watched::Occasion;
use super::watched::{self, Look, Watched};
use crate::config::Config;
use crate::tls::files::now_s;
use crate::tls::material::{CurrentMaterial, Material};

/// How often files and ages are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Everything that may change in front of running shards.
pub(crate) struct TlsUpkeep {
    watched: Vec<Watched>,
    /// By ACME.
    issued: Option<Issued>,
    answers: Answers,
    tickets: TicketRing,
    current: Arc<CurrentMaterial>,
}

/// The certificate of an authority, or what stands in for it.
struct Issued {
    stored: Stored,
    expiry: Expiry,
}

impl TlsUpkeep {
    /// For the certificates of this configuration, which are in force. From now on that of an authority is too.
    ///
    /// # Errors
    /// One line: a host of `[acme]` is none.
    pub(crate) fn new(
        config: &Config,
        tickets: TicketRing,
        current: &Arc<CurrentMaterial>,
        now_s: u64,
    ) -> Result<TlsUpkeep, String> {
        let certificates = current.get().certificates.all.clone();
        let pairs = config.certificates.iter().zip(&certificates);
        let watched =
            pairs.map(|(files, certificate)| Watched::new(files, certificate, signed(now_s))).collect();
        let issued = match (&config.acme, &config.state_dir) {
            (Some(acme), Some(state_dir)) => {
                let stored = acme::stored(acme, state_dir, &certificates)?;
                Some(Issued { stored, expiry: Expiry::default() })
            }
            _ => None,
        };
        let current = current.clone();
        let upkeep = TlsUpkeep { watched, issued, answers: Answers::default(), tickets, current };
        upkeep.current.replace(upkeep.material());
        Ok(upkeep)
    }

    /// Begins to order certificates, if the configuration names an authority.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start_acme<E: From<AcmeEvent> + Send + 'static>(
        &self,
        config: &Config,
        events: SyncSender<E>,
    ) -> std::io::Result<()> {
        self.issued.as_ref().map_or(Ok(()), |issued| acme::start(config, &issued.stored, events))
    }

    /// Puts in force what an authority has made or wants to see. Shards have to take it over; then the reply is due.
    pub(crate) fn take_over(&mut self, event: AcmeEvent) -> Option<Sender<()>> {
        let reply = match event {
            AcmeEvent::Answers(answers, reply) => {
                self.answers = answers;
                Some(reply)
            }
            AcmeEvent::Certificate(certificate) => {
                if let Some(issued) = &mut self.issued {
                    watched::say_in_force(
                        &issued.stored.name(),
                        "new certificate",
                        &certificate.facts,
                        now_s(),
                    );
                    issued.stored.certificate = Some(certificate);
                    issued.stored.is_stand_in = false;
                }
                None
            }
        };
        self.current.replace(self.material());
        reply
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
        if let Some(Issued { stored, expiry }) = &mut self.issued
            && let Some(certificate) = stored.issued()
        {
            expiry.say(&stored.name(), certificate, signed(now_s));
        }
        let has_changed = self.tickets.look(now_s) | has_other;
        if has_changed {
            self.current.replace(self.material());
        }
        has_changed
    }

    fn material(&self) -> Material {
        let issued = self.issued.iter().filter_map(|issued| issued.stored.certificate.as_ref());
        let all = self.watched.iter().map(Watched::certificate).chain(issued).cloned().collect();
        Material {
            certificates: CertificateSet { all, challenges: self.answers.certificates.clone() },
            challenge_texts: self.answers.texts.clone(),
            tickets: self.tickets.keys().clone(),
        }
    }

    /// For metrics.
    pub(crate) fn live(&self, now_s: u64) -> LiveTls {
        let live = |file: String, certificate: &Certificate| LiveCertificate {
            certificate: file,
            name: certificate.facts.display_name().to_owned(),
            expires_s: certificate.facts.not_after_s,
        };
        let watched = self.watched.iter().map(|watched| live(watched.name(), watched.certificate()));
        let issued = self.issued.iter().filter_map(|issued| {
            issued.stored.issued().map(|certificate| live(issued.stored.name(), certificate))
        });
        LiveTls {
            certificates: watched.chain(issued).collect(),
            ticket_key_age_s: now_s.saturating_sub(self.tickets.newest_s()),
        }
    }
}

/// Times of certificates may be before 1970.
fn signed(now_s: u64) -> i64 {
    i64::try_from(now_s).unwrap_or(i64::MAX)
}
