//! Certificates that Sluice signs itself: the answer to a challenge, and the one that stands in for the first of an authority.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sluice_tls::certificates::Certificate;

/// How long they are valid: longer than anyone waits for an authority.
const VALID: Duration = Duration::from_secs(365 * 24 * 3600);

/// Peers whose clocks are behind accept them too.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The certificate that answers a TLS-ALPN-01 challenge.
///
/// # Errors
/// One line: the host is none.
//= https://www.rfc-editor.org/rfc/rfc8737#section-3
pub(super) fn challenge(host: &str, digest: &[u8]) -> Result<Certificate, String> {
    make(&[host.to_owned()], vec![CustomExtension::new_acme_identifier(digest)])
}

/// One for these hosts that no client trusts.
///
/// # Errors
/// One line: a host is none.
pub(super) fn stand_in(hosts: &[String]) -> Result<Certificate, String> {
    make(hosts, Vec::new())
}

fn make(hosts: &[String], extensions: Vec<CustomExtension>) -> Result<Certificate, String> {
    let sign = || {
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Sluice, self-signed");
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + VALID).into());
        params.custom_extensions = extensions;
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    let (certificate, key) =
        sign().map_err(|error: rcgen::Error| format!("a certificate cannot be made: {error}"))?;
    Certificate::new(Path::new("self-signed"), vec![certificate], PrivateKeyDer::Pkcs8(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_challenge_has_its_digest_and_one_name() {
        let certificate = challenge("shop.example", &[7; 32]).unwrap();
        assert_eq!(certificate.facts.names, ["shop.example"]);
        // id-pe-acmeIdentifier, critical, an octet string of 32 bytes.
        let mut wanted = vec![0x06, 8, 0x2b, 6, 1, 5, 5, 7, 1, 31, 1, 1, 0xff, 4, 34, 4, 32];
        wanted.extend([7; 32]);
        assert!(certificate.chain[0].windows(wanted.len()).any(|window| window == wanted));
    }
}
