//! Certificates of peers: any DER is read or refused, and what a server is sent of it stays in its header field and its place in
//! the list. The same bytes are an OCSP response too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sluice_tls::certificates::{Certificate, CertificateFacts, PeerCertificate, bad_links, hex, utc};

/// A certificate that responses may be about.
const STAPLED: &[u8] = include_bytes!("../corpus/tls_certificate/staple");

fuzz_target!(|input: &[u8]| {
    let certificate = CertificateDer::from(input);
    let (facts, peer) = (CertificateFacts::of(&certificate), PeerCertificate::of(&certificate));
    assert_eq!(facts.is_ok(), peer.is_ok());
    staple(input);
    let (Ok(facts), Ok(peer)) = (facts, peer) else { return };

    for text in [&peer.subject, &peer.alt_names, &facts.subject, &facts.issuer] {
        assert!(text.len() <= 2048, "{} bytes", text.len());
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
    }
    assert_eq!((&peer.subject, &peer.fingerprint), (&facts.subject, &hex(&facts.fingerprint)));
    for name in &facts.names {
        assert!(
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
        );
    }
    let kinds = ["DNS:", "email:", "URI:", "IP:", "DirName:"];
    for name in parts(&peer.alt_names) {
        assert!(name == "..." || kinds.iter().any(|kind| name.starts_with(kind)), "{}", peer.alt_names);
    }
    for time in [facts.not_before_s, facts.not_after_s] {
        assert!(utc(time).ends_with(" UTC"));
        facts.days_left(time);
    }
    bad_links(&[certificate.clone(), CertificateDer::from(STAPLED), certificate]);
});

/// What is said of a certificate with this response.
fn staple(response: &[u8]) {
    let chain = vec![CertificateDer::from(STAPLED)];
    let facts = CertificateFacts::of(&chain[0]).expect("a seed");
    let key = PrivateKeyDer::Pkcs8(Vec::new().into());
    let stapled = Certificate { chain, key, ocsp: Some(response.to_vec()), facts };
    for line in stapled.warnings(i64::MAX) {
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
    }
}

/// The parts of a list between commas that are not escaped.
fn parts(list: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut is_escaped = false;
    for c in list.chars() {
        if c == ',' && !is_escaped {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    if !list.is_empty() {
        parts.push(part);
    }
    parts
}
