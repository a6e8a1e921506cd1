//! Which certificate a client gets.

use rustls_pki_types::{CertificateDer, ServerName};

use super::peers::*;
use super::*;
use crate::certificates::CertificateSet;

/// The certificate that a client sees; it accepts any.
fn seen(
    config: &ServerConfig,
    hello: &ClientSettings,
    name: &str,
    at: Option<&str>,
) -> CertificateDer<'static> {
    let (mut out, mut to_client) = (Vec::new(), Vec::new());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientHandshake::new(&ClientConfig::new(hello).unwrap(), name, &mut out).unwrap();
    let mut server = match at {
        Some(address) => ServerHandshake::at(config, address.parse().unwrap()),
        None => ServerHandshake::new(config),
    };
    for _ in 0..5 {
        let (used, result) = server.advance(&std::mem::take(&mut out), &mut to_client);
        assert!(used > 0 && result.is_ok(), "{result:?}");
        let (_, result) = client.advance(&std::mem::take(&mut to_client), &mut out);
        if result.unwrap() == Progress::Done {
            return client.extract().unwrap().0.peer_certificates[0].clone();
        }
    }
    panic!("the handshake does not end");
}

fn any_server() -> ClientSettings {
    ClientSettings {
        min_version: MinVersion::Tls12,
        verification: ServerVerification::Off,
        pins: Vec::new(),
        certificate: None,
        alpn: vec![Alpn::Http1],
        key_log: None,
    }
}

#[test]
fn by_name_then_wildcard_then_the_first_one() {
    let authority = Authority::new();
    let certificates = set([
        authority.certificate(&["first.example", "10.0.0.9"], Kind::P256),
        authority.certificate(&["*.a.example"], Kind::P256),
        authority.certificate(&["www.a.example", "A.example"], Kind::P256),
        authority.certificate(&["10.0.0.1", "2001:db8::1"], Kind::P256),
        authority.certificate(&["www.a.example"], Kind::P256),
    ]);
    let config = ServerConfig::new(&server_settings(), &certificates, &tickets()).unwrap();
    let table: [(&str, Option<&str>, usize); 14] = [
        ("first.example", None, 0),
        ("www.a.example", None, 2),
        ("WWW.A.Example", None, 2),
        ("a.example", None, 2),
        ("b.a.example", None, 1),
        ("B.A.example", None, 1),
        // A wildcard stands for one label, neither for two nor for none.
        ("c.b.a.example", None, 0),
        ("unknown.example", None, 0),
        ("example", None, 0),
        // No name: the address that the client has connected to.
        ("192.0.2.1", None, 0),
        ("10.0.0.1", Some("10.0.0.1"), 3),
        ("10.0.0.1", Some("::ffff:10.0.0.1"), 3),
        ("10.0.0.1", Some("2001:db8::1"), 3),
        ("10.0.0.1", Some("192.0.2.1"), 0),
    ];
    for (name, at, expected) in table {
        let found = seen(&config, &any_server(), name, at);
        let place = certificates.all.iter().position(|certificate| certificate.chain[0] == found);
        assert_eq!(place, Some(expected), "{name} at {at:?}");
    }
    // The same without a handshake, as far as clients can tell certificates apart.
    for (name, at, expected) in table {
        let name =
            if name == "10.0.0.1" { at.unwrap().replace("::ffff:", "") } else { name.to_ascii_lowercase() };
        let same = |other: &str| config.certificate_of(&name) == config.certificate_of(other);
        let by = ["first.example", "b.a.example", "a.example", "2001:db8::1"];
        let found: Vec<_> = (0..by.len()).filter(|&place| same(by[place])).collect();
        assert_eq!(found, [expected], "{name}");
    }
    // A name counts for more than the address.
    let found = seen(&config, &any_server(), "b.a.example", Some("10.0.0.1"));
    assert_eq!(found, certificates.all[1].chain[0]);
}

#[test]
fn the_key_that_the_client_can_check() {
    let authority = Authority::new();
    let certificates = set([
        authority.certificate(&[NAME, "b.example"], Kind::Rsa),
        authority.certificate(&["b.example", NAME], Kind::P256),
        authority.certificate(&["c.example"], Kind::Rsa),
    ]);
    let config = ServerConfig::new(&server_settings(), &certificates, &tickets()).unwrap();
    let shown = |plain: &Plain, name| {
        let (mut client, mut handshake) = (plain.connect(name), ServerHandshake::new(&config));
        serve(&mut handshake, &mut client, &mut Splits::new(1)).0.unwrap();
        let found = client.peer_certificates().unwrap()[0].clone();
        certificates.all.iter().position(|certificate| certificate.chain[0] == found).unwrap()
    };
    for versions in [TLS12, TLS13] {
        let both = Plain::new(&authority, versions, None);
        assert_eq!(shown(&both, NAME), 1);
        assert_eq!(shown(&both, "c.example"), 2);
    }
    let only_rsa_ciphers = Plain::with(&authority, TLS12, None, |provider| {
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    });
    assert_eq!(shown(&only_rsa_ciphers, NAME), 0);
    // The default has both keys too: the second certificate is for the names of the first one.
    assert_eq!(seen(&config, &any_server(), "unknown.example", None), certificates.all[1].chain[0]);
}

#[test]
fn challenge_certificates_are_for_acme_alone() {
    let authority = Authority::new();
    let challenge = Arc::new(authority.certificate(&[NAME], Kind::P256));
    let mut certificates = set([authority.certificate(&[NAME], Kind::P256)]);
    certificates.challenges.push(("A.Example".to_owned(), Arc::clone(&challenge)));
    let config = ServerConfig::new(&server_settings(), &certificates, &tickets()).unwrap();
    let try_alpn = |config: &ServerConfig, name: &str, protocols: &[&[u8]]| {
        let mut plain = Plain::new(&authority, TLS13, None);
        plain.config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let (mut client, mut handshake) = (plain.connect(name), ServerHandshake::new(config));
        serve(&mut handshake, &mut client, &mut Splits::new(1)).0?;
        let found = client.peer_certificates().unwrap()[0].clone();
        Ok::<_, HandshakeFailure>((found, handshake.extract()?.0.alpn))
    };
    let acme: &[u8] = b"acme-tls/1";
    let (found, alpn) = try_alpn(&config, NAME, &[acme]).unwrap();
    assert_eq!((found, alpn), (challenge.chain[0].clone(), Some(Alpn::AcmeChallenge)));
    let (found, alpn) = try_alpn(&config, NAME, &[acme, b"http/1.1"]).unwrap();
    assert_eq!((found, alpn), (certificates.all[0].chain[0].clone(), Some(Alpn::Http1)));
    let (found, _) = try_alpn(&config, NAME, &[b"http/1.1"]).unwrap();
    assert_eq!(found, certificates.all[0].chain[0]);
    let other_name = try_alpn(&config, "b.example", &[acme]).unwrap_err();
    assert_eq!(other_name.kind, FailureKind::UnknownName);
    // Without challenges the protocol is not on offer.
    let without = CertificateSet { challenges: Vec::new(), ..certificates.clone() };
    let config = ServerConfig::new(&server_settings(), &without, &tickets()).unwrap();
    assert_eq!(try_alpn(&config, NAME, &[acme]).unwrap_err().kind, FailureKind::NothingInCommon);
}

/// As authorities want to see them (RFC 8737 section 3): with a critical extension that rustls refuses to read.
#[test]
fn challenge_certificates_may_have_acme_identifiers() {
    let authority = Authority::new();
    let challenge = authority.certificate_of(&[NAME], Kind::P256, |params| {
        params.custom_extensions.push(rcgen::CustomExtension::new_acme_identifier(&[7; 32]));
    });
    let mut certificates = set([authority.certificate(&[NAME], Kind::P256)]);
    certificates.challenges.push((NAME.to_owned(), Arc::new(challenge)));
    assert!(ServerConfig::new(&server_settings(), &certificates, &tickets()).is_ok());
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let authority = Authority::new();
    let mut certificate = authority.certificate(&[NAME], Kind::P256);
    certificate.key = authority.certificate(&[NAME], Kind::P256).key;
    let error = ServerConfig::new(&server_settings(), &set([certificate]), &tickets()).err().unwrap();
    assert_eq!(error, "the key is not that of the certificate of test");
}

#[test]
fn the_ocsp_response_is_stapled() {
    let authority = Authority::new();
    let mut certificate = authority.certificate(&[NAME], Kind::P256);
    certificate.ocsp = Some(b"a response".to_vec());
    let provider = provider::provider(provider::Preference::Aes);
    let certified = pick::certified(&certificate, &provider).unwrap();
    assert_eq!(certified.ocsp.as_deref(), Some(&b"a response"[..]));
}
