//! Messages about the end of a certificate, and of its OCSP response: when it comes near, when it has come, and daily.

use sluice_tls::certificates::{Certificate, utc};

use crate::log;

/// A certificate that expires sooner than this is worth a message: those of a public authority are renewed a month before.
const SOON_S: i64 = 14 * DAY_S;

const DAY_S: i64 = 24 * 3600;

/// How near an end is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    #[default]
    Far,
    Soon,
    Past,
}

impl End {
    fn of(end_s: i64, now_s: i64) -> End {
        match end_s.saturating_sub(now_s) {
            ..=0 => End::Past,
            1..SOON_S => End::Soon,
            _ => End::Far,
        }
    }
}

/// What was said last about an end, and when.
#[derive(Debug, Default)]
struct Said {
    end: End,
    at_s: i64,
}

impl Said {
    /// Whether there is something to say: more than before, or the same a day later.
    fn is_due(&mut self, end: End, now_s: i64) -> bool {
        let is_due = end != End::Far && (end > self.end || now_s.saturating_sub(self.at_s) >= DAY_S);
        if is_due || end < self.end {
            *self = Said { end, at_s: now_s };
        }
        is_due
    }
}

/// What was said about a certificate.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    certificate: Said,
    ocsp: Said,
}

impl Expiry {
    /// Of a certificate of the configuration: its check has warned of it at the start, but not as an error.
    pub(super) fn of_checked(certificate: &Certificate, now_s: i64) -> Expiry {
        let end = End::of(certificate.facts.not_after_s, now_s).min(End::Soon);
        let ocsp = certificate.ocsp_next_update_s().map_or(End::Far, |next_s| End::of(next_s, now_s));
        Expiry { certificate: Said { end, at_s: now_s }, ocsp: Said { end: ocsp, at_s: now_s } }
    }

    /// Says what is to be said of this certificate now, under this name.
    pub(super) fn say(&mut self, name: &str, certificate: &Certificate, now_s: i64) {
        let facts = &certificate.facts;
        let end = End::of(facts.not_after_s, now_s);
        if self.certificate.is_due(end, now_s) {
            let when = utc(facts.not_after_s);
            match end {
                End::Past => log::error(format_args!(
                    "{name}: the certificate expired on {when}: clients refuse it (hint: renew it, it is taken over at once)"
                )),
                _ => {
                    let days = facts.days_left(now_s);
                    log::warn(format_args!("{name}: the certificate expires on {when}, in {days} days"));
                }
            }
        }
        let next_s = certificate.ocsp_next_update_s();
        let past = next_s.filter(|&next_s| End::of(next_s, now_s) == End::Past);
        if self.ocsp.is_due(past.map_or(End::Far, |_| End::Past), now_s)
            && let Some(next_s) = past
        {
            log::warn(format_args!(
                "{name}: the OCSP response expired on {} (hint: fetch it again, it is taken over at once)",
                utc(next_s)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_when_it_comes_near_when_it_has_come_and_daily() {
        let end_s = 100 * DAY_S;
        let mut said = Said::default();
        let mut is_due = |now_s| said.is_due(End::of(end_s, now_s), now_s);
        assert!(!is_due(end_s - SOON_S));
        assert!(is_due(end_s - SOON_S + 1));
        assert!(!is_due(end_s - SOON_S + DAY_S));
        assert!(is_due(end_s - SOON_S + 1 + DAY_S));
        assert!(!is_due(end_s - SOON_S + 2 + DAY_S));
        assert!(is_due(end_s - 1));
        assert!(is_due(end_s), "expired is another message");
        assert!(!is_due(end_s + 1));
        assert!(is_due(end_s + DAY_S));
    }

    #[test]
    fn a_renewed_certificate_begins_anew() {
        let mut said = Said::default();
        assert!(said.is_due(End::Past, 1));
        assert!(!said.is_due(End::Far, 2));
        assert!(said.is_due(End::Soon, 3));
    }
}
