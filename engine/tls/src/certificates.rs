//! Certificates with their keys: read from PEM files, described, and picked by the name that a client asks for.

use std::path::Path;
use std::sync::Arc;

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
    /// The subject as text.
    pub subject: String,
    /// The issuer as text.
    pub issuer: String,
    /// Valid from and to, in seconds since 1970.
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

impl Certificate {
    /// Reads a pair from PEM files.
    ///
    /// # Errors
    /// One line that names the file, says what is wrong and how to mend it: not there, not readable, no certificate in it, an
    /// encrypted key, a key that is not the certificate's.
    pub fn load(_cert: &Path, _key: &Path, _ocsp: Option<&Path>) -> Result<Certificate, String> {
        todo!()
    }
}

impl CertificateFacts {
    /// Of one certificate.
    ///
    /// # Errors
    /// One line: it cannot be read.
    pub fn of(_certificate: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
        todo!()
    }
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
