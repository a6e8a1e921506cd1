//! Private keys: read from a file, and compared with a certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::der::{self, Reader};
use super::facts::{algorithm_name, parse};
use super::pem::{Binary, blocks, contents, labels, refusal};

/// The one key of a file.
///
/// # Errors
/// One line: none, several, an encrypted one.
pub(super) fn read_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let labels = labels(bytes);
    let file = path.display();
    let is_encrypted = labels.iter().any(|label| label == "ENCRYPTED PRIVATE KEY")
        || bytes.split(|&byte| byte == b'\n').any(|line| line.starts_with(b"Proc-Type: 4,ENCRYPTED"));
    if is_encrypted {
        let hint = format_args!("openssl pkey -in {file} -out {file}.plain, mode 600, and name that file");
        return Err(refusal(path, "the key is encrypted", hint));
    }
    let mut keys: Vec<_> = blocks(path, bytes)?.into_iter().filter_map(private_key).collect();
    match keys.len() {
        1 => Ok(keys.remove(0)),
        0 => Err(no_key(path, bytes, &labels)),
        several => {
            let what = format_args!("has {several} keys");
            Err(refusal(path, what, "leave only the key of the certificate in it"))
        }
    }
}

fn private_key((kind, der): (SectionKind, Vec<u8>)) -> Option<PrivateKeyDer<'static>> {
    match kind {
        SectionKind::PrivateKey => Some(PrivateKeyDer::Pkcs8(der.into())),
        SectionKind::RsaPrivateKey => Some(PrivateKeyDer::Pkcs1(der.into())),
        SectionKind::EcPrivateKey => Some(PrivateKeyDer::Sec1(der.into())),
        _ => None,
    }
}

/// Why a file has no key.
fn no_key(path: &Path, bytes: &[u8], labels: &[String]) -> String {
    let file = path.display();
    if labels.iter().any(|label| label == "DSA PRIVATE KEY") {
        return unsupported(path, "DSA");
    }
    if labels.iter().any(|label| label == "OPENSSH PRIVATE KEY") {
        let hint = format_args!("ssh-keygen -p -m PKCS8 -f {file}, or make a key for the certificate");
        return refusal(path, "is a key of OpenSSH, not of TLS", hint);
    }
    match Binary::of(bytes) {
        Binary::Der => {
            let hint =
                format_args!("openssl pkey -inform der -in {file} -out {file}.pem, and name that file");
            refusal(path, "is DER, not PEM", hint)
        }
        Binary::Pkcs12 => {
            let hint = format_args!("openssl pkcs12 -in {file} -nodes -out {file}.pem, and name that file");
            refusal(path, "is a PKCS#12 store, not PEM", hint)
        }
        Binary::No => {
            let what = format_args!("no PRIVATE KEY block in it, {}", contents(labels));
            refusal(path, what, "name the PEM file with the key of the certificate")
        }
    }
}

/// The key as it signs.
///
/// # Errors
/// One line: of a kind that is not supported.
pub(super) fn signing_key(path: &Path, key: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, String> {
    any_supported_type(key).map_err(|_| match kind_of(key) {
        Some(kind) => match kind.strip_prefix("RSA ").and_then(|bits| bits.parse::<usize>().ok()) {
            Some(bits) if (2048..=8192).contains(&bits) => broken(path),
            Some(bits) => {
                let what = format_args!("is an RSA key of {bits} bits, 2048 to 8192 are supported");
                refusal(path, what, "make a new key and request a certificate for it")
            }
            None if matches!(kind.as_str(), "ECDSA P-256" | "ECDSA P-384" | "ECDSA P-521" | "Ed25519") => {
                broken(path)
            }
            None => unsupported(path, &kind),
        },
        None => broken(path),
    })
}

fn unsupported(path: &Path, kind: &str) -> String {
    let what = format_args!("keys of kind {kind} are not supported");
    refusal(path, what, "make one of ECDSA P-256 or RSA 2048, and request a certificate for it")
}

fn broken(path: &Path) -> String {
    refusal(path, "the key is broken", format_args!("openssl pkey -check -noout -in {}", path.display()))
}

/// What kind of key it is, by its header.
pub(super) fn kind_of(key: &PrivateKeyDer<'_>) -> Option<String> {
    let rsa_bits = |mut key: Reader<'_>| {
        key.take(der::INTEGER)?;
        key.take(der::INTEGER).map(der::bits)
    };
    let mut outer = Reader::new(key.secret_der()).enter(der::SEQUENCE)?;
    match key {
        PrivateKeyDer::Pkcs1(_) => Some(format!("RSA {}", rsa_bits(outer)?)),
        PrivateKeyDer::Sec1(_) => {
            outer.take(der::INTEGER)?;
            outer.take(der::OCTET_STRING)?;
            let curve = outer.enter(0xa0).and_then(|mut curve| curve.take(der::OID)).and_then(oid_text);
            let curve = || curve.clone().unwrap_or_else(|| "of a curve without a name".to_owned());
            Some(algorithm_name("1.2.840.10045.2.1", &curve, &|| 0))
        }
        PrivateKeyDer::Pkcs8(_) => {
            outer.take(der::INTEGER)?;
            let mut algorithm = outer.enter(der::SEQUENCE)?;
            let kind = oid_text(algorithm.take(der::OID)?)?;
            let curve = algorithm.take(der::OID).and_then(oid_text);
            let curve = || curve.clone().unwrap_or_else(|| "of a curve without a name".to_owned());
            let inner = outer.enter(der::OCTET_STRING).and_then(|mut inner| inner.enter(der::SEQUENCE));
            Some(algorithm_name(&kind, &curve, &|| inner.and_then(rsa_bits).unwrap_or(0)))
        }
        _ => None,
    }
}

/// An object identifier in digits; `None` for those whose parts need more than 63 bits.
fn oid_text(bytes: &[u8]) -> Option<String> {
    let mut parts: Vec<u64> = Vec::new();
    let mut part = 0_u64;
    for &byte in bytes {
        part = part.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            parts.push(part);
            part = 0;
        }
    }
    let (&first, rest) = parts.split_first()?;
    let root = (first / 40).min(2);
    let texts =
        [root, first - root * 40].into_iter().chain(rest.iter().copied()).map(|part| part.to_string());
    Some(texts.collect::<Vec<_>>().join("."))
}

/// The first of the certificates that this key belongs to. A key that does not say its public half fits the first.
pub(super) fn owner(key: &dyn SigningKey, chain: &[CertificateDer<'_>]) -> Option<usize> {
    let Some(public) = key.public_key() else { return Some(0) };
    let has_it = |certificate: &CertificateDer<'_>| {
        parse(certificate).is_ok_and(|parsed| parsed.public_key().raw == public.as_ref())
    };
    chain.iter().position(has_it)
}
