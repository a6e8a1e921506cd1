//! Our server against plain rustls clients.

use std::io::{Read as _, Seek as _};

use rustls::ProtocolVersion;

use super::peers::*;
use super::*;
use crate::record::Side;

/// A type of record.
const APPLICATION_DATA: u8 = 23;

/// One handshake that succeeds, with the secrets compared.
pub(super) fn shake(
    config: &ServerConfig,
    plain: &Plain,
    name: &str,
    seed: u64,
) -> Result<secrets::Complete, HandshakeFailure> {
    let mut handshake = ServerHandshake::new(config);
    let mut client = plain.connect(name);
    let (end, answer) = serve(&mut handshake, &mut client, &mut Splits::new(seed));
    let rest = end?;
    assert_eq!(answer.alert, None);
    assert!(!client.is_handshaking());
    let (complete, keys) = handshake.extract()?;
    // Only a full handshake of TLS 1.2 ends with the server's flight.
    let ends_with_ours = complete.version == Some(ProtocolVersion::TLSv1_2) && !complete.is_resumed;
    let expected = if ends_with_ours { None } else { Some(&APPLICATION_DATA) };
    assert_eq!(rest.first(), expected, "the request is left, unopened");
    let request_record = 1;
    while client.wants_write() {
        client.write_tls(&mut std::io::sink()).unwrap();
    }
    let theirs = client.dangerous_extract_secrets().unwrap();
    assert_eq!(keys.rx.0 + request_record, theirs.tx.0);
    assert_same_secrets(Side::Server, (&complete, &keys), &theirs, &plain.heard);
    Ok(complete)
}

#[test]
fn every_version_key_and_client_mode() {
    let authority = Authority::new();
    let shown = authority.certificate(&["client.example"], Kind::P256);
    let modes = [
        ClientCertificates::Off,
        ClientCertificates::Optional(authority.roots()),
        ClientCertificates::Required(authority.roots()),
    ];
    let mut seed = 0;
    for kind in KINDS {
        let certificates = set([authority.certificate(&[NAME], kind)]);
        for mode in &modes {
            let settings = ServerSettings { client_certificates: mode.clone(), ..server_settings() };
            let config = ServerConfig::new(&settings, &certificates, &tickets()).unwrap();
            for versions in [TLS12, TLS13] {
                for client_certificate in [None, Some(&shown)] {
                    seed += 1;
                    let plain = Plain::new(&authority, versions, client_certificate);
                    let result = shake(&config, &plain, NAME, seed);
                    if client_certificate.is_none() && matches!(mode, ClientCertificates::Required(_)) {
                        assert_eq!(result.err().map(|failure| failure.kind), Some(FailureKind::Certificate));
                        continue;
                    }
                    let complete = result.unwrap();
                    let is_asked = !matches!(mode, ClientCertificates::Off);
                    let expected: &[_] =
                        client_certificate.filter(|_| is_asked).map_or(&[], |shown| &shown.chain);
                    assert_eq!(complete.peer_certificates, expected);
                    assert_eq!(complete.alpn, Some(Alpn::Http1));
                    assert_eq!(complete.observed.server_name.as_deref(), Some(NAME));
                    assert_eq!(complete.version, Some(versions[0].version));
                    assert!(!complete.is_resumed);
                }
            }
        }
    }
}

#[test]
fn any_split_gives_the_same_handshake() {
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    for versions in [TLS12, TLS13] {
        let plain = Plain::new(&authority, versions, None);
        for seed in 0..40 {
            shake(&config, &plain, NAME, seed).unwrap();
        }
    }
}

#[test]
fn secrets_stay_with_their_connection() {
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    let plains = [Plain::new(&authority, TLS13, None), Plain::new(&authority, TLS13, None)];
    let mut clients = plains.each_ref().map(|plain| plain.connect(NAME));
    let mut handshakes = [ServerHandshake::new(&config), ServerHandshake::new(&config)];
    // Both are in the middle of their handshakes at the same time, and end in the other order.
    let mut flights = [Vec::new(), Vec::new()];
    for place in [0, 1] {
        let mut hello = Vec::new();
        clients[place].write_tls(&mut hello).unwrap();
        let (used, result) = handshakes[place].advance(&hello, &mut flights[place]);
        assert_eq!((used, result), (hello.len(), Ok(Progress::More)));
    }
    for place in [1, 0] {
        clients[place].read_tls(&mut &flights[place][..]).unwrap();
        clients[place].process_new_packets().unwrap();
        let (mut last, mut out) = (Vec::new(), Vec::new());
        clients[place].write_tls(&mut last).unwrap();
        assert_eq!(handshakes[place].advance(&last, &mut out), (last.len(), Ok(Progress::Done)));
        clients[place].read_tls(&mut &out[..]).unwrap();
        clients[place].process_new_packets().unwrap();
    }
    for ((handshake, client), plain) in handshakes.into_iter().zip(clients).zip(&plains) {
        let (complete, keys) = handshake.extract().unwrap();
        let theirs = client.dangerous_extract_secrets().unwrap();
        assert_same_secrets(Side::Server, (&complete, &keys), &theirs, &plain.heard);
    }
}

#[test]
fn secrets_are_written_to_the_key_log() {
    let authority = Authority::new();
    let mut file = tempfile::tempfile().unwrap();
    let key_log = Some(Arc::new(std::sync::Mutex::new(file.try_clone().unwrap())));
    let config = server(&authority, &ServerSettings { key_log, ..server_settings() });
    let (new, old) = (Plain::new(&authority, TLS13, None), Plain::new(&authority, TLS12, None));
    shake(&config, &new, NAME, 1).unwrap();
    shake(&config, &old, NAME, 2).unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let labels: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    for label in ["CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0", "CLIENT_RANDOM"] {
        assert!(labels.contains(&label), "{label} in {labels:?}");
    }
    let secret = new.heard.last("CLIENT_TRAFFIC_SECRET_0");
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = text.lines().find(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 ")).unwrap();
    assert_eq!(line.split(' ').nth(1).map(str::len), Some(64));
    assert!(line.ends_with(&format!(" {hex}")));
}

#[test]
fn the_cipher_is_what_the_clients_processor_computes_well() {
    use rustls::CipherSuite as Suite;
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    let agreed = |versions, first: &[Suite]| {
        let plain = Plain::with(&authority, versions, None, |provider| {
            provider.cipher_suites.sort_by_key(|suite| !first.contains(&suite.suite()));
        });
        let (mut client, mut handshake) = (plain.connect(NAME), ServerHandshake::new(&config));
        serve(&mut handshake, &mut client, &mut Splits::new(9)).0.unwrap();
        client.negotiated_cipher_suite().unwrap().suite()
    };
    // Rustls' clients name AES-256 first.
    assert_eq!(agreed(TLS13, &[]), Suite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(agreed(TLS12, &[]), Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    let chacha13 = Suite::TLS13_CHACHA20_POLY1305_SHA256;
    let chacha12 = Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    assert_eq!(agreed(TLS13, &[chacha13]), chacha13);
    assert_eq!(agreed(TLS12, &[chacha12]), chacha12);
}

#[test]
fn every_group_is_served_and_the_hybrid_one_is_offered() {
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    for group in [X25519MLKEM768, X25519, SECP256R1, SECP384R1] {
        let plain = Plain::with(&authority, TLS13, None, |provider| provider.kx_groups = vec![group]);
        shake(&config, &plain, NAME, 3).unwrap();
    }
    // The client's first share is for a group that we do not have: it is asked again (HelloRetryRequest).
    let odd = rustls::crypto::aws_lc_rs::kx_group::SECP256R1MLKEM768;
    let plain = Plain::with(&authority, TLS13, None, |provider| provider.kx_groups = vec![odd, SECP384R1]);
    shake(&config, &plain, NAME, 4).unwrap();
}

#[test]
fn a_client_may_offer_no_protocol() {
    let authority = Authority::new();
    let config = server(&authority, &server_settings());
    let mut plain = Plain::new(&authority, TLS13, None);
    plain.config.alpn_protocols.clear();
    assert_eq!(shake(&config, &plain, NAME, 5).unwrap().alpn, None);
}
