//! How a server's certificate is judged: by authorities, and by pinned keys.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ServerVerification;

/// A SHA-256 of SubjectPublicKeyInfo.
type Pin = [u8; 32];

/// Judges the certificates of an upstream's servers.
#[derive(Debug)]
pub(super) struct Verifier {
    /// By authorities; `None`: any is accepted.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// No certificate has a pinned key.
#[derive(Debug)]
pub(super) struct PinMismatch {
    seen: Option<Pin>,
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seen) = self.seen else {
            return f.write_str("has no key that can be compared with the pins");
        };
        f.write_str("does not have a pinned key: the SHA-256 of its public key is ")?;
        seen.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::error::Error for PinMismatch {}

impl Verifier {
    pub(super) fn new(
        verification: &ServerVerification,
        pins: &[Pin],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, String> {
        let authorities = match verification {
            ServerVerification::Off => None,
            ServerVerification::Roots(roots) => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
                Some(builder.build().map_err(|error| format!("no authority to check servers by: {error}"))?)
            }
        };
        Ok(Verifier {
            authorities,
            pins: pins.to_vec(),
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// A pinned key is that of the server's certificate, or of an authority that has issued it. A chain may hold certificates that
    /// have nothing to do with it, and anyone can send those of the pinned authority along: so it has to lead there.
    fn check_pins(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let seen = pin(end_entity);
        if self.pins.is_empty() || seen.is_some_and(|seen| self.pins.contains(&seen)) {
            return Ok(());
        }
        let mut anchors = RootCertStore::empty();
        for certificate in intermediates {
            if pin(certificate).is_some_and(|seen| self.pins.contains(&seen)) {
                // One that cannot be an authority is none.
                let _ = anchors.add(certificate.clone().into_owned());
            }
        }
        if anchors.is_empty() {
            let mismatch = OtherError(Arc::new(PinMismatch { seen }));
            return Err(Error::InvalidCertificate(CertificateError::Other(mismatch)));
        }
        let end_entity = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &end_entity,
            &anchors,
            intermediates,
            now,
            self.algorithms.all,
        )
    }
}

/// The SHA-256 of a certificate's SubjectPublicKeyInfo.
fn pin(certificate: &CertificateDer<'_>) -> Option<Pin> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let digest = digest::digest(&digest::SHA256, parsed.tbs_certificate.subject_pki.raw);
    digest.as_ref().try_into().ok()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(authorities) = &self.authorities {
            authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        self.check_pins(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    // Also without authorities: the server has to have the key of the certificate that it shows, or a pin would mean nothing.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
