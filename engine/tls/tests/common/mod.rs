//! A listener with one certificate of an authority, for tests from outside of the crate.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use rustls_pki_types::PrivateKeyDer;
use sluice_tls::certificates::{Certificate, CertificateFacts, CertificateSet};
use sluice_tls::handshake::{Alpn, ServerConfig, ServerSettings};
use sluice_tls::tickets::TicketKeys;

pub(crate) const NAME: &str = "a.example";

/// A listener with this kind of key and its authority's certificate in PEM.
pub(crate) fn listener(kind: &'static SignatureAlgorithm) -> (ServerConfig, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // The same name as that of the certificate would make it look self-signed.
    authority.distinguished_name.push(DnType::CommonName, "authority");
    let authority_key = KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate_for(kind).unwrap();
    let params = CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    let facts = CertificateFacts {
        names: vec![NAME.to_owned()],
        subject: NAME.to_owned(),
        issuer: "authority".to_owned(),
        not_before_s: 0,
        not_after_s: 0,
        key: String::new(),
        fingerprint: [0; 32],
        spki: [0; 32],
    };
    let certificate = Certificate {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        ocsp: None,
        facts,
    };
    let set = CertificateSet { all: vec![Arc::new(certificate)], challenges: Vec::new() };
    let settings = ServerSettings { alpn: vec![Alpn::Http1], ..ServerSettings::default() };
    let keys = Arc::new(TicketKeys::generate(0).unwrap());
    (ServerConfig::new(&settings, &set, &keys).unwrap(), authority_certificate.pem())
}
