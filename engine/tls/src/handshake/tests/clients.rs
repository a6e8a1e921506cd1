//! Our client against plain rustls servers.

use std::io::Write as _;

use rcgen::{BasicConstraints, IsCa};
use rustls_pki_types::ServerName;

use super::peers::*;
use super::*;
use crate::certificates::Certificate;
use crate::record::Side;

pub(super) fn settings(verification: ServerVerification) -> ClientSettings {
    ClientSettings {
        min_version: MinVersion::Tls12,
        verification,
        pins: Vec::new(),
        certificate: None,
        alpn: vec![Alpn::Http1],
        key_log: None,
    }
}

fn trusting(authority: &Authority) -> ClientSettings {
    settings(ServerVerification::Roots(authority.roots()))
}

/// One handshake, with the secrets compared; gives the session's tickets a chance.
fn shake(
    config: &ClientConfig,
    server: &(Arc<rustls::ServerConfig>, Arc<Heard>),
    name: &str,
    seed: u64,
) -> Result<secrets::Complete, HandshakeFailure> {
    let mut first = Vec::new();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut handshake = ClientHandshake::new(config, name, &mut first)?;
    let mut plain = rustls::ServerConnection::new(Arc::clone(&server.0)).unwrap();
    let rest = connect(&mut handshake, first, &mut plain, &mut Splits::new(seed))?;
    assert!(!plain.is_handshaking());
    let (complete, keys, kernel) = handshake.extract()?;
    // What is left is the server's tickets: as many records of application data.
    let tickets = tickets_of(&rest, &keys.rx.1);
    assert_eq!(tickets.is_empty(), complete.version == Some(rustls::ProtocolVersion::TLSv1_2));
    let mut store = ClientTickets { connection: Box::new(kernel) };
    tickets.iter().for_each(|ticket| store.store(ticket));
    let mut theirs = plain.dangerous_extract_secrets().unwrap();
    assert_eq!(keys.rx.0 + tickets.len() as u64, theirs.tx.0);
    theirs.tx.0 = keys.rx.0;
    assert_same_secrets(Side::Client, (&complete, &keys), &theirs, &server.1);
    Ok(complete)
}

/// Opens records of TLS 1.3 (RFC 8446 section 5.2) with the first key, and gives their handshake messages.
fn tickets_of(mut rest: &[u8], secrets: &rustls::ConnectionTrafficSecrets) -> Vec<Vec<u8>> {
    use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use rustls::ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    let (algorithm, key, iv) = match secrets {
        Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => panic!("another cipher"),
    };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
    let mut tickets = Vec::new();
    while !rest.is_empty() {
        let (header, behind) = rest.split_at(5);
        let (body, behind) = behind.split_at(usize::from(u16::from_be_bytes([header[3], header[4]])));
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        nonce[11] ^= tickets.len() as u8;
        let mut opened = body.to_vec();
        let plain =
            key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut opened).unwrap();
        assert_eq!(plain.pop_type(), 22);
        tickets.push(plain[..plain.len() - 1].to_vec());
        rest = behind;
    }
    tickets
}

trait InnerType {
    fn pop_type(&self) -> u8;
}

impl InnerType for &mut [u8] {
    fn pop_type(&self) -> u8 {
        *self.last().unwrap()
    }
}

#[test]
fn every_version_and_key_with_and_without_client_certificate() {
    let authority = Authority::new();
    let shown = Arc::new(authority.certificate(&["client.example"], Kind::P256));
    let mut seed = 0;
    for kind in KINDS {
        let certificate = authority.certificate(&[NAME], kind);
        for versions in [TLS12, TLS13] {
            for own in [None, Some(&shown)] {
                seed += 1;
                let clients = own.map(|_| authority.roots());
                let server = plain_server(&certificate, versions, clients);
                let settings = ClientSettings { certificate: own.cloned(), ..trusting(&authority) };
                let config = ClientConfig::new(&settings).unwrap();
                let complete = shake(&config, &server, NAME, seed).unwrap();
                assert_eq!(complete.alpn, Some(Alpn::Http1));
                assert_eq!(complete.peer_certificates, certificate.chain);
                assert!(!complete.is_resumed);
                assert!(shake(&config, &server, NAME, seed).unwrap().is_resumed, "{versions:?}");
                let other = ClientConfig::new(&settings).unwrap();
                assert!(
                    !shake(&other, &server, NAME, seed).unwrap().is_resumed,
                    "sessions belong to one upstream"
                );
            }
        }
    }
}

#[test]
fn a_request_may_follow_at_once() {
    let authority = Authority::new();
    let (config, heard) = plain_server(&authority.certificate(&[NAME], Kind::P256), TLS13, None);
    let (mut plain, mut first) = (rustls::ServerConnection::new(config).unwrap(), Vec::new());
    plain.writer().write_all(b"greeting").unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut handshake =
        ClientHandshake::new(&ClientConfig::new(&trusting(&authority)).unwrap(), name, &mut first).unwrap();
    let rest = connect(&mut handshake, first, &mut plain, &mut Splits::new(1)).unwrap();
    assert_eq!(plaintext(&mut plain), b"");
    let records = rest.split_inclusive(|_| false).count();
    assert_eq!((records, rest[0]), (1, 23), "tickets and greeting are left");
    assert!(!heard.last("SERVER_TRAFFIC_SECRET_0").is_empty());
}

/// The SHA-256 of a certificate's public key, by another way than that of the code under test.
fn pin(authority: &Authority) -> [u8; 32] {
    digest_of(&authority.certificate)
}

fn digest_of(certificate: &rustls_pki_types::CertificateDer<'_>) -> [u8; 32] {
    let anchor = rustls::server::ParsedCertificate::try_from(certificate).unwrap();
    let spki = anchor.subject_public_key_info();
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki).as_ref().try_into().unwrap()
}

/// The end of a handshake with a server that shows this certificate.
fn try_with(
    settings: &ClientSettings,
    certificate: &Certificate,
    name: &str,
) -> Result<(), HandshakeFailure> {
    let mut ends = [TLS12, TLS13].map(|versions| {
        let config = ClientConfig::new(settings).unwrap();
        shake(&config, &plain_server(certificate, versions, None), name, 3).map(|_| ())
    });
    let last = std::mem::replace(&mut ends[1], Ok(()));
    assert_eq!(ends[0], last, "both versions judge alike");
    last
}

#[track_caller]
fn assert_refused(settings: &ClientSettings, certificate: &Certificate, name: &str, reason: &str) {
    let failure = try_with(settings, certificate, name).unwrap_err();
    assert_eq!((failure.kind, failure.reason.as_str()), (FailureKind::Certificate, reason));
}

#[test]
fn a_failed_check_has_its_name() {
    let authority = Authority::new();
    let good = authority.certificate(&[NAME, "10.0.0.1"], Kind::P256);
    let trusting = trusting(&authority);
    try_with(&trusting, &good, NAME).unwrap();
    try_with(&trusting, &good, "10.0.0.1").unwrap();
    assert_refused(
        &trusting,
        &good,
        "b.example",
        "the server's certificate is not valid for b.example, only for a.example, 10.0.0.1",
    );
    let expired = authority.certificate_of(&[NAME], Kind::P256, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 2, 29);
    });
    let reason = "the server's certificate has expired: it was valid until 2020-02-29 00:00:00 UTC";
    assert_refused(&trusting, &expired, NAME, reason);
    let future = authority.certificate_of(&[NAME], Kind::P256, |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    });
    assert_refused(
        &trusting,
        &future,
        NAME,
        "the server's certificate is not valid yet: it begins 4000-01-01 00:00:00 UTC",
    );
    let unknown = settings(ServerVerification::Roots(Authority::new().roots()));
    let failure = try_with(&unknown, &good, NAME).unwrap_err();
    assert!(
        failure.reason.starts_with("the server's certificate is not from a trusted authority"),
        "{failure:?}"
    );
    let authoritys_own = authority.certificate_of(&[NAME], Kind::P256, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let failure = try_with(&trusting, &authoritys_own, NAME).unwrap_err();
    assert!(failure.reason.contains("that of an authority (CA:TRUE)"), "{failure:?}");
    // None of this counts when it is off.
    for certificate in [&good, &expired, &future] {
        try_with(&settings(ServerVerification::Off), certificate, "b.example").unwrap();
    }
}

#[test]
fn a_pinned_key_is_the_servers_or_that_of_its_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.certificate(&[NAME], Kind::P256);
    for verification in [ServerVerification::Off, ServerVerification::Roots(authority.roots())] {
        let with =
            |pins: &[[u8; 32]]| ClientSettings { pins: pins.to_vec(), ..settings(verification.clone()) };
        try_with(&with(&[digest_of(&good.chain[0])]), &good, NAME).unwrap();
        try_with(&with(&[[1; 32], pin(&authority)]), &good, NAME).unwrap();
        let hex: String = digest_of(&good.chain[0]).iter().map(|byte| format!("{byte:02x}")).collect();
        let reason = format!(
            "the server's certificate does not have a pinned key: the SHA-256 of its public key is {hex}"
        );
        assert_refused(&with(&[pin(&other)]), &good, NAME, &reason);
        // The certificate of the pinned authority is sent along, but has nothing to do with the server's.
        let mut chain = good.chain.clone();
        chain.push(other.certificate.clone());
        let decorated =
            Certificate { chain, key: good.key.clone_key(), ocsp: None, facts: good.facts.clone() };
        let failure = try_with(&with(&[pin(&other)]), &decorated, NAME).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Certificate);
    }
}

#[test]
fn without_verification_the_server_still_has_the_key_of_its_certificate() {
    let authority = Authority::new();
    let good = authority.certificate(&[NAME], Kind::P256);
    let thief = authority.certificate(&[NAME], Kind::P256);
    for versions in [TLS12, TLS13] {
        // A server that shows the certificate of another one, and signs with its own key.
        let (server, heard) = plain_server(&thief, versions, None);
        let mut stolen = (*server).clone();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&thief.key).unwrap();
        let shown = Arc::new(rustls::sign::CertifiedKey::new(good.chain.clone(), key));
        stolen.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
        let pins = vec![digest_of(&good.chain[0])];
        let config =
            ClientConfig::new(&ClientSettings { pins, ..settings(ServerVerification::Off) }).unwrap();
        let failure = shake(&config, &(Arc::new(stolen), heard), NAME, 1).err().unwrap();
        assert_eq!(failure.kind, FailureKind::Certificate);
        assert!(failure.reason.contains("its key did not sign the handshake"), "{failure:?}");
    }
}

#[test]
fn an_old_server_is_refused() {
    let authority = Authority::new();
    let server = plain_server(&authority.certificate(&[NAME], Kind::P256), TLS12, None);
    let settings = ClientSettings { min_version: MinVersion::Tls13, ..trusting(&authority) };
    let failure = shake(&ClientConfig::new(&settings).unwrap(), &server, NAME, 1).err().unwrap();
    // The server itself refuses a client that offers TLS 1.3 alone.
    assert_eq!(failure.kind, FailureKind::Alert(70));
    assert_eq!(
        failure.reason,
        "the server has given up with the alert protocol_version (70): no protocol version in common"
    );
}

#[test]
fn a_server_that_wants_a_certificate_says_so() {
    let authority = Authority::new();
    let server = plain_server(&authority.certificate(&[NAME], Kind::P256), TLS12, Some(authority.roots()));
    let failure = shake(&ClientConfig::new(&trusting(&authority)).unwrap(), &server, NAME, 1).err().unwrap();
    assert!(matches!(failure.kind, FailureKind::Alert(40 | 42 | 116)), "{failure:?}");
}

#[test]
fn a_server_without_tls_is_named() {
    let authority = Authority::new();
    let config = ClientConfig::new(&trusting(&authority)).unwrap();
    let start =
        |out: &mut Vec<u8>| ClientHandshake::new(&config, ServerName::try_from(NAME).unwrap(), out).unwrap();
    for (answer, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "plain HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "begins no record of TLS"),
    ] {
        let (mut first, mut out) = (Vec::new(), Vec::new());
        let (used, result) = start(&mut first).advance(answer, &mut out);
        let failure = result.unwrap_err();
        assert_eq!((used, failure.kind, out.is_empty()), (0, FailureKind::Protocol, true));
        assert!(failure.reason.contains(part), "{failure:?}");
    }
    let handshake = start(&mut Vec::new());
    assert!(handshake.interrupted().reason.contains("before its first message"), "nothing was received");
}
