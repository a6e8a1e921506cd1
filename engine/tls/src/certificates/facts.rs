//! What a certificate says.

use std::net::{Ipv4Addr, Ipv6Addr};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::nom::Parser as _;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::CertificateFacts;
use super::der::{self, Reader};
use super::text::distinguished_name;

/// The longest certificate that is read: what a handshake can carry.
pub(super) const DER_MAX: usize = 0xffff;

const SUBJECT_ALT_NAME: &str = "2.5.29.17";

impl CertificateFacts {
    /// Of one certificate.
    ///
    /// # Errors
    /// One line: it cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
        let parsed = parse(certificate)?;
        let alt_names = alt_names(&parsed);
        let usable = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        Ok(CertificateFacts {
            names: alt_names.iter().filter_map(host_name).filter(usable).collect(),
            subject: distinguished_name(parsed.subject()),
            issuer: distinguished_name(parsed.issuer()),
            not_before_s: parsed.validity().not_before.timestamp(),
            not_after_s: parsed.validity().not_after.timestamp(),
            key: key_kind(parsed.public_key()),
            fingerprint: sha256(certificate),
            spki: sha256(parsed.public_key().raw),
        })
    }

    /// What to call it in a message: its first name, else its subject.
    pub fn display_name(&self) -> &str {
        self.names.first().map_or(&self.subject, String::as_str)
    }

    /// Whole days until it expires; negative when it has.
    pub fn days_left(&self, now_s: i64) -> i64 {
        self.not_after_s.saturating_sub(now_s).div_euclid(86_400)
    }
}

/// Parses a certificate, but of its extensions only that they are there.
pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    if certificate.len() > DER_MAX {
        return Err(format!(
            "is a certificate of {} bytes, at most {DER_MAX} can be sent",
            certificate.len()
        ));
    }
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    match parser.parse(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("is not a certificate: there are bytes behind its end".to_owned()),
        Err(error) => {
            let why = match error {
                x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => {
                    error.to_string()
                }
                x509_parser::nom::Err::Incomplete(_) => "its end is missing".to_owned(),
            };
            Err(format!("is not a certificate: {why}"))
        }
    }
}

/// The content of an extension.
pub(super) fn extension<'a>(certificate: &X509Certificate<'a>, oid: &str) -> Option<&'a [u8]> {
    let wanted = |extension: &&x509_parser::prelude::X509Extension<'a>| extension.oid.to_id_string() == oid;
    certificate.extensions().iter().find(wanted).map(|extension| extension.value)
}

/// What subjectAltName says, without what cannot be read.
pub(super) fn alt_names<'a>(certificate: &X509Certificate<'a>) -> Vec<GeneralName<'a>> {
    let value = extension(certificate, SUBJECT_ALT_NAME).unwrap_or_default();
    SubjectAlternativeName::from_der(value).map(|(_, names)| names.general_names).unwrap_or_default()
}

/// A name that a client can ask for.
fn host_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(address) => address_text(address),
        _ => None,
    }
}

/// An address as it is written.
pub(super) fn address_text(bytes: &[u8]) -> Option<String> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string());
    v4().or_else(|_| v6()).ok()
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> String {
    let kind = key.algorithm.algorithm.to_id_string();
    let curve = || key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let curve = || curve().map_or_else(|| "of a curve without a name".to_owned(), |oid| oid.to_id_string());
    algorithm_name(&kind, &curve, &|| modulus_bits(&key.subject_public_key.data))
}

/// The bits of the modulus at the front of an RSA public key.
fn modulus_bits(key: &[u8]) -> usize {
    let modulus = Reader::new(key).enter(der::SEQUENCE).and_then(|mut key| key.take(der::INTEGER));
    modulus.map_or(0, der::bits)
}

/// What operators call an algorithm, by its object identifier, that of its curve, and its bits.
pub(super) fn algorithm_name(oid: &str, curve: &dyn Fn() -> String, bits: &dyn Fn() -> usize) -> String {
    match oid {
        "1.2.840.113549.1.1.1" => format!("RSA {}", bits()),
        "1.2.840.113549.1.1.10" => format!("RSA-PSS {}", bits()),
        "1.2.840.10045.2.1" => {
            let curve = curve();
            let name = match curve.as_str() {
                "1.2.840.10045.3.1.7" => "P-256",
                "1.3.132.0.34" => "P-384",
                "1.3.132.0.35" => "P-521",
                "1.3.132.0.10" => "secp256k1",
                other => other,
            };
            format!("ECDSA {name}")
        }
        "1.3.101.112" => "Ed25519".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        "1.2.840.10040.4.1" => "DSA".to_owned(),
        "2.16.840.1.101.3.4.3.17" => "ML-DSA-44".to_owned(),
        "2.16.840.1.101.3.4.3.18" => "ML-DSA-65".to_owned(),
        "2.16.840.1.101.3.4.3.19" => "ML-DSA-87".to_owned(),
        other => other.to_owned(),
    }
}
