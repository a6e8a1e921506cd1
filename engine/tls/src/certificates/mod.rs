//! Certificates with their keys: read from PEM files, described, and judged by people and metrics.
//!
//! [`Certificate::load`] reads a pair; [`CertificateFacts`] is what a certificate says, [`PeerCertificate`] the same of a client's
//! in the form of header fields, and [`load_roots`] the authorities by which the certificates of peers are verified. Nothing here
//! panics, whatever the bytes are, and every text is printable ASCII.

mod chain;
mod der;
mod facts;
mod key;
mod load;
mod ocsp;
mod peer;
mod pem;
mod roots;
mod text;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use chain::{BadLink, bad_links};
pub use peer::PeerCertificate;
pub use pem::certificates as read_certificates;
pub use roots::{Roots, load_roots};
pub use text::{base64, hex, utc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate with its chain and its key.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate first, then its chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The OCSP response to staple.
    pub ocsp: Option<Vec<u8>>,
    /// What it says.
    pub facts: CertificateFacts,
}

/// What a certificate says, for people, metrics and the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DNS names and addresses that it is for, in lower case (subjectAltName).
    pub names: Vec<String>,
    /// The subject as text (RFC 4514).
    pub subject: String,
    /// The issuer as text (RFC 4514).
    pub issuer: String,
    /// Valid from, in seconds since 1970.
    pub not_before_s: i64,
    /// Valid to, in seconds since 1970.
    pub not_after_s: i64,
    /// Such as `ECDSA P-256` or `RSA 2048`.
    pub key: String,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// SHA-256 of its SubjectPublicKeyInfo, for pinning.
    pub spki: [u8; 32],
}

/// The certificates of the process. The first one is for clients that ask for no name, or for one that no certificate has.
#[derive(Clone, Debug, Default)]
pub struct CertificateSet {
    /// In the order of the configuration.
    pub all: Vec<Arc<Certificate>>,
    /// Those of ACME's TLS-ALPN-01 by the name they are for, in lower case: shown only to clients that offer `acme-tls/1` alone.
    //= https://www.rfc-editor.org/rfc/rfc8737#section-3
    pub challenges: Vec<(String, Arc<Certificate>)>,
}
