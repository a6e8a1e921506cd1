//! Handshakes that a client makes fail: the reason, the alert, and how many bytes were used.

use rcgen::{BasicConstraints, IsCa};
use rustls::AlertDescription;

use super::super::drive::WAITING_BYTES_MAX;
use super::peers::*;
use super::*;

/// How a handshake with this client ends, and the alert that it receives.
fn refused(config: &ServerConfig, plain: &Plain) -> (HandshakeFailure, Option<rustls::Error>) {
    let mut ends = (0..20).map(|seed| {
        let (mut client, mut handshake) = (plain.connect(NAME), ServerHandshake::new(config));
        let (end, answer) = serve(&mut handshake, &mut client, &mut Splits::new(seed));
        (end.unwrap_err(), answer.alert)
    });
    let first = ends.next().unwrap();
    assert!(ends.all(|end| end == first), "whatever the pieces");
    first
}

fn alert(description: AlertDescription) -> Option<rustls::Error> {
    Some(rustls::Error::AlertReceived(description))
}

#[test]
fn nothing_in_common_has_a_name_and_an_alert() {
    let authority = Authority::new();
    let modern = ServerSettings { profile: Profile::Modern, ..server_settings() };
    let modern = server(&authority, &modern);
    let (failure, answer) = refused(&modern, &Plain::new(&authority, TLS12, None));
    assert_eq!(
        (failure.kind, answer),
        (FailureKind::NothingInCommon, alert(AlertDescription::ProtocolVersion))
    );
    assert!(failure.reason.starts_with("no protocol version in common with the client"), "{failure:?}");
    let newer = ServerSettings { min_version: MinVersion::Tls13, ..server_settings() };
    let (failure, _) = refused(&server(&authority, &newer), &Plain::new(&authority, TLS12, None));
    assert_eq!(failure.kind, FailureKind::NothingInCommon);

    let config = server(&authority, &server_settings());
    let mut h3 = Plain::new(&authority, TLS13, None);
    h3.config.alpn_protocols = vec![b"h3".to_vec(), b"spdy/1".to_vec()];
    let (failure, answer) = refused(&config, &h3);
    assert_eq!(
        (failure.kind, answer),
        (FailureKind::NothingInCommon, alert(AlertDescription::NoApplicationProtocol))
    );
    assert!(failure.reason.contains("ALPN"), "{failure:?}");

    let rsa_only = Plain::with(&authority, TLS12, None, |provider| {
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    });
    let (failure, answer) = refused(&config, &rsa_only);
    assert_eq!(
        (failure.kind, answer),
        (FailureKind::NothingInCommon, alert(AlertDescription::HandshakeFailure))
    );
    assert!(failure.reason.contains("in common with the client"), "{failure:?}");

    let odd_group = Plain::with(&authority, TLS13, None, |provider| {
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::SECP256R1MLKEM768];
    });
    let (failure, answer) = refused(&config, &odd_group);
    assert_eq!(
        (failure.kind, answer),
        (FailureKind::NothingInCommon, alert(AlertDescription::HandshakeFailure))
    );
    assert!(failure.reason.starts_with("no key exchange group in common"), "{failure:?}");
}

#[test]
fn a_client_certificate_that_is_not_accepted_has_its_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let required = ServerSettings {
        client_certificates: ClientCertificates::Required(authority.roots()),
        ..server_settings()
    };
    let config = server(&authority, &required);
    let expired = authority.certificate_of(&["client.example"], Kind::P256, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 2, 29);
    });
    let own_authority = authority.certificate_of(&["client.example"], Kind::P256, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let unknown = other.certificate(&["client.example"], Kind::P256);
    let table = [
        (None, "the client has shown no certificate", AlertDescription::CertificateRequired),
        (
            Some(&expired),
            "the client's certificate has expired: it was valid until 2020-02-29 00:00:00 UTC",
            AlertDescription::CertificateExpired,
        ),
        (
            Some(&unknown),
            "the client's certificate is not from one of the authorities that are trusted for clients (unknown issuer)",
            AlertDescription::UnknownCA,
        ),
        (
            Some(&own_authority),
            "the client's certificate is that of an authority (CA:TRUE) and cannot be a server's or client's own: \
             `sluice cert` makes a pair",
            AlertDescription::CertificateUnknown,
        ),
    ];
    for (shown, reason, description) in table {
        let (failure, answer) = refused(&config, &Plain::new(&authority, TLS13, shown));
        assert_eq!((failure.kind, failure.reason.as_str()), (FailureKind::Certificate, reason));
        assert_eq!(answer, alert(description));
        let (failure, _) = refused(&config, &Plain::new(&authority, TLS12, shown));
        assert_eq!((failure.kind, failure.reason.as_str()), (FailureKind::Certificate, reason));
    }
}

#[test]
fn a_client_that_does_not_trust_us_is_named_by_its_alert() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = server(&authority, &server_settings());
    for versions in [TLS12, TLS13] {
        let (failure, _) = refused(&config, &Plain::new(&other, versions, None));
        assert_eq!(failure.kind, FailureKind::Alert(48));
        assert_eq!(
            failure.reason,
            "the client has given up with the alert unknown_ca (48): it does not accept our certificate"
        );
    }
}

/// Gives these bytes to a fresh server: what is used, how it ends, and what is sent.
fn first_bytes(bytes: &[u8]) -> (usize, Result<Progress, HandshakeFailure>, Vec<u8>) {
    let config = server(&Authority::new(), &server_settings());
    let (mut handshake, mut out) = (ServerHandshake::new(&config), Vec::new());
    let (used, result) = handshake.advance(bytes, &mut out);
    if result.is_err() {
        let again = handshake.advance(bytes, &mut out.clone()).1;
        assert!(again.is_err(), "a failed handshake stays so");
        assert!(handshake.finish().is_err());
    }
    (used, result, out)
}

#[test]
fn other_protocols_are_recognized_by_their_first_byte() {
    for (bytes, part) in
        [(&b"GET / HTTP/1.1\r\n"[..], "plain HTTP"), (b"P", "plain HTTP"), (b"\x00\x01", "first byte")]
    {
        let (used, result, out) = first_bytes(bytes);
        let failure = result.unwrap_err();
        assert_eq!((used, failure.kind, out), (0, FailureKind::Protocol, Vec::new()));
        assert!(failure.reason.contains(part), "{failure:?}");
    }
}

/// An alert in clear text.
fn fatal(description: AlertDescription) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description.into()]
}

#[test]
fn records_that_break_the_rules_are_answered_with_alerts() {
    let table: [(&[u8], usize, AlertDescription); 6] = [
        // Too long: the header is enough. A version that is none. No content.
        (&[22, 3, 1, 0x50, 0, 1], 5, AlertDescription::DecodeError),
        (&[22, 9, 1, 0, 1, 1], 5, AlertDescription::DecodeError),
        (&[22, 3, 1, 0, 0, 1], 5, AlertDescription::DecodeError),
        // A message of a server. An empty ClientHello. One of a hundred kilobytes.
        (&[22, 3, 1, 0, 4, 14, 0, 0, 0], 9, AlertDescription::UnexpectedMessage),
        (&[22, 3, 1, 0, 4, 1, 0, 0, 0], 9, AlertDescription::DecodeError),
        (&[22, 3, 1, 0, 4, 1, 1, 0x86, 0xa0], 9, AlertDescription::DecodeError),
    ];
    for (bytes, expected, description) in table {
        let (used, result, out) = first_bytes(bytes);
        let failure = result.unwrap_err();
        assert_eq!((used, failure.kind), (expected, FailureKind::Protocol), "{failure:?}");
        if out != fatal(description) {
            // Rustls does not answer each of them.
            assert_eq!(out, [], "{failure:?}");
        }
    }
    assert_eq!(first_bytes(&[22, 3, 1, 0, 4, 14, 0, 0, 0]).2, fatal(AlertDescription::UnexpectedMessage));
    assert_eq!(first_bytes(&[22, 3, 1, 0x50, 0, 1]).2, fatal(AlertDescription::DecodeError));
}

#[test]
fn a_part_of_a_record_is_left() {
    assert_eq!(first_bytes(&[]), (0, Ok(Progress::More), Vec::new()));
    assert_eq!(first_bytes(&[22, 3, 1, 0, 9, 1, 0, 0]), (0, Ok(Progress::More), Vec::new()));
}

#[test]
fn a_message_in_records_of_one_byte_is_bounded() {
    let config = server(&Authority::new(), &server_settings());
    let (mut handshake, mut out) = (ServerHandshake::new(&config), Vec::new());
    // The header of a message of 65,535 bytes, which never come to an end.
    let mut given = 0;
    let failure = [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0)).find_map(|byte| {
        given += 6;
        handshake.advance(&[22, 3, 1, 0, 1, byte], &mut out).1.err()
    });
    assert_eq!(failure.unwrap().reason, "the client has sent a handshake message in too many small records");
    assert!(given <= WAITING_BYTES_MAX + 6, "{given}");
}

#[test]
fn a_damaged_last_flight_is_refused() {
    use std::io::Read as _;
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    let plain = Plain::new(&authority, TLS13, None);
    let (mut client, mut handshake) = (plain.connect(NAME), ServerHandshake::new(&config));
    let (mut hello, mut flight, mut last) = (Vec::new(), Vec::new(), Vec::new());
    client.write_tls(&mut hello).unwrap();
    handshake.advance(&hello, &mut flight).1.unwrap();
    client.read_tls(&mut (&flight[..]).take(1 << 20)).unwrap();
    client.process_new_packets().unwrap();
    client.write_tls(&mut last).unwrap();
    *last.last_mut().unwrap() ^= 1;
    let mut out = Vec::new();
    let (used, result) = handshake.advance(&last, &mut out);
    assert_eq!(used, last.len());
    assert_eq!(result.as_ref().unwrap_err().kind, FailureKind::Protocol);
    client.read_tls(&mut &out[..]).unwrap();
    let answer = client.process_new_packets().unwrap_err();
    assert_eq!(Some(answer), alert(AlertDescription::BadRecordMac));
}

#[test]
fn a_client_that_leaves_is_named() {
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    let (mut client, mut handshake) =
        (Plain::new(&authority, TLS13, None).connect(NAME), ServerHandshake::new(&config));
    assert!(handshake.interrupted().reason.contains("before its first message was complete"));
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    handshake.advance(&hello, &mut Vec::new()).1.unwrap();
    assert!(handshake.interrupted().reason.contains("within the handshake, without an alert"));
}
