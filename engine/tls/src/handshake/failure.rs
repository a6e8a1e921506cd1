//! Errors of rustls in the words of operators: which check failed, and what to do about it where that is known.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use rustls_pki_types::UnixTime;

use super::drive::Trouble;
use super::verify::PinMismatch;
use super::{FailureKind, HandshakeFailure};
use crate::certificates::utc;

/// Who the peer is, in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Server,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Client => "client",
            Peer::Server => "server",
        }
    }
}

impl HandshakeFailure {
    pub(super) fn new(kind: FailureKind, reason: impl Into<String>) -> HandshakeFailure {
        HandshakeFailure { kind, reason: reason.into() }
    }

    pub(super) fn of(peer: Peer, trouble: &Trouble) -> HandshakeFailure {
        match trouble {
            Trouble::Rustls(error) => of_error(peer, error),
            Trouble::TooManyBytes => {
                let reason =
                    format!("the {} has sent a handshake message in too many small records", peer.name());
                HandshakeFailure::new(FailureKind::Protocol, reason)
            }
        }
    }

    /// The peer has closed before the handshake was complete.
    pub(super) fn interrupted(peer: Peer, has_sent: bool) -> HandshakeFailure {
        let peer = peer.name();
        let reason = if has_sent {
            format!("the {peer} has closed the connection within the handshake, without an alert")
        } else {
            format!("the {peer} has closed the connection before its first message was complete")
        };
        HandshakeFailure::new(FailureKind::Protocol, reason)
    }

    /// First bytes that are not TLS.
    pub(super) fn not_tls(peer: Peer, first: &[u8]) -> HandshakeFailure {
        let is_http = match peer {
            Peer::Client => first.first().is_some_and(u8::is_ascii_uppercase),
            Peer::Server => first.starts_with(b"H"),
        };
        let reason = match (peer, is_http) {
            (Peer::Client, true) => "the client does not speak TLS; this looks like plain HTTP on a TLS port",
            (Peer::Client, false) => {
                "the client does not speak TLS: its first byte does not begin a handshake"
            }
            (Peer::Server, true) => {
                "the server does not speak TLS; this looks like plain HTTP: is http:// meant?"
            }
            (Peer::Server, false) => "the server does not speak TLS: its first byte begins no record of TLS",
        };
        HandshakeFailure::new(FailureKind::Protocol, reason)
    }
}

fn of_error(peer: Peer, error: &Error) -> HandshakeFailure {
    let name = peer.name();
    match error {
        Error::AlertReceived(alert) => of_alert(peer, *alert),
        Error::InvalidCertificate(error) => {
            let reason = format!("the {name}'s certificate {}", of_certificate(peer, error));
            HandshakeFailure::new(FailureKind::Certificate, reason)
        }
        Error::NoCertificatesPresented => {
            HandshakeFailure::new(FailureKind::Certificate, format!("the {name} has shown no certificate"))
        }
        Error::NoApplicationProtocol => {
            let reason = format!(
                "no protocol in common with the {name} (ALPN): it offers none of those that are served here"
            );
            HandshakeFailure::new(FailureKind::NothingInCommon, reason)
        }
        Error::PeerIncompatible(what) => {
            HandshakeFailure::new(FailureKind::NothingInCommon, of_incompatible(peer, what))
        }
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            HandshakeFailure::new(
                FailureKind::Protocol,
                format!("the {name} has sent a record that is too long"),
            )
        }
        Error::DecryptError => HandshakeFailure::new(
            FailureKind::Protocol,
            format!(
                "a record of the {name} cannot be decrypted: it was damaged on the way, or belongs to another session"
            ),
        ),
        Error::InvalidMessage(what) => {
            let reason = format!("the {name} has sent a message that cannot be read ({what:?})");
            HandshakeFailure::new(FailureKind::Protocol, reason)
        }
        other => HandshakeFailure::new(
            FailureKind::Protocol,
            format!("the {name} breaks the rules of TLS ({other})"),
        ),
    }
}

fn of_incompatible(peer: Peer, what: &PeerIncompatible) -> String {
    let name = peer.name();
    let lacking = match what {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => "no protocol version",
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher",
        PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
            "no key exchange group"
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "no signature algorithm for the certificate's key"
        }
        other => return format!("the {name} lacks what TLS needs here ({other:?})"),
    };
    format!("{lacking} in common with the {name} ({what:?})")
}

fn of_certificate(peer: Peer, error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired: it was valid until {}", date(*not_after))
        }
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid yet: it begins {}", date(*not_before))
        }
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented = match presented.as_slice() {
                [] => "no name at all".to_owned(),
                // As webpki writes them for people of Rust: DnsName("a.example").
                names => names.iter().map(|name| plain_name(name)).collect::<Vec<_>>().join(", "),
            };
            format!("is not valid for {}, only for {presented}", expected.to_str())
        }
        CertificateError::UnknownIssuer => match peer {
            Peer::Client => {
                "is not from one of the authorities that are trusted for clients (unknown issuer)".to_owned()
            }
            Peer::Server => {
                "is not from a trusted authority (unknown issuer): set the CA file of this upstream, or \
                             have the server send its intermediate certificates"
                    .to_owned()
            }
        },
        CertificateError::Revoked => "was revoked".to_owned(),
        CertificateError::BadSignature => {
            "is not signed by its issuer's key, or its key did not sign the handshake".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("is not for a {} (extended key usage)", peer.name())
        }
        CertificateError::BadEncoding => "cannot be read".to_owned(),
        CertificateError::UnhandledCriticalExtension => {
            "has a critical extension that is not known".to_owned()
        }
        CertificateError::Other(other) => {
            if let Some(mismatch) = other.0.downcast_ref::<PinMismatch>() {
                return mismatch.to_string();
            }
            let text = other.0.to_string();
            if text.contains("CaUsedAsEndEntity") {
                return "is that of an authority (CA:TRUE) and cannot be a server's or client's own: `sluice cert` makes a pair"
                    .to_owned();
            }
            format!("is not accepted: {text}")
        }
        other => format!("is not accepted: {other}"),
    }
}

/// `DnsName("a.example")` and `IpAddress(10.0.0.1)` as `a.example` and `10.0.0.1`.
fn plain_name(shown: &str) -> &str {
    let inner = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(shown).trim_matches('"')
}

fn of_alert(peer: Peer, alert: AlertDescription) -> HandshakeFailure {
    let number = u8::from(alert);
    let hint = match (peer, number) {
        (Peer::Client, 42 | 46 | 48) => ": it does not accept our certificate",
        (Peer::Client, 45) => ": it holds our certificate for expired",
        (Peer::Server, 42 | 46 | 48) => ": it does not accept our client certificate",
        (Peer::Server, 116) => ": it wants a client certificate",
        (Peer::Server, 40) => ": no cipher, group or signature in common, or it wants a client certificate",
        (Peer::Server, 112) => ": it has no certificate for the name that was asked for",
        (_, 70) => ": no protocol version in common",
        (_, 71) => ": no cipher is strong enough for it",
        (_, 120) => ": no protocol in common (ALPN)",
        _ => "",
    };
    let reason =
        format!("the {} has given up with the alert {} ({number}){hint}", peer.name(), alert_name(number));
    HandshakeFailure::new(FailureKind::Alert(number), reason)
}

/// The name of an alert in the RFCs.
//= https://www.rfc-editor.org/rfc/rfc8446#section-6
pub(super) fn alert_name(number: u8) -> &'static str {
    match number {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown",
    }
}

fn date(time: UnixTime) -> String {
    utc(time.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_their_names() {
        let failure = of_alert(Peer::Server, AlertDescription::UnknownCA);
        assert_eq!(failure.kind, FailureKind::Alert(48));
        assert_eq!(
            failure.reason,
            "the server has given up with the alert unknown_ca (48): it does not accept our client certificate"
        );
    }

    #[test]
    fn names_are_shown_plain() {
        assert_eq!(plain_name("DnsName(\"a.example\")"), "a.example");
        assert_eq!(plain_name("IpAddress(10.0.0.1)"), "10.0.0.1");
        assert_eq!(plain_name("b.example"), "b.example");
    }
}
