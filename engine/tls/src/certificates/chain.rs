//! The order of a chain: each certificate is issued by the next one.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::AuthorityKeyIdentifier;
use x509_parser::prelude::FromDer as _;

use super::der::{self, Reader};
use super::facts::{extension, parse};
use super::text::distinguished_name;

const SUBJECT_KEY_ID: &str = "2.5.29.14";
const AUTHORITY_KEY_ID: &str = "2.5.29.35";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";

/// A certificate of a chain that did not issue the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLink {
    /// Its place, from 1.
    pub place: usize,
    /// Its subject.
    pub subject: String,
    /// The issuer that the one before it names.
    pub wanted: String,
}

/// Whether the names and the key identifiers of both say that `issuer` has signed `certificate`. The signature is the clients'
/// to check.
fn is_issued_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return false;
    }
    let wanted = extension(certificate, AUTHORITY_KEY_ID)
        .and_then(|value| AuthorityKeyIdentifier::from_der(value).ok())
        .and_then(|(_, identifier)| identifier.key_identifier.map(|key| key.0));
    let has = extension(issuer, SUBJECT_KEY_ID).and_then(|value| Reader::new(value).take(der::OCTET_STRING));
    match (wanted, has) {
        (Some(wanted), Some(has)) => wanted == has,
        _ => true,
    }
}

/// Brings a chain into order: the certificate at `leaf` first, then the issuer of each, then what does not belong to it. Says
/// whether that changed anything.
pub(super) fn sort(chain: &mut Vec<CertificateDer<'static>>, leaf: usize) -> bool {
    let order = order(chain, leaf);
    let is_changed = !order.is_sorted();
    if is_changed {
        *chain = order.into_iter().map(|place| chain[place].clone()).collect();
    }
    is_changed
}

fn order(chain: &[CertificateDer<'_>], leaf: usize) -> Vec<usize> {
    let parsed: Vec<_> = chain.iter().map(|certificate| parse(certificate).ok()).collect();
    let mut order = vec![leaf];
    let mut left: Vec<usize> = (0..chain.len()).filter(|&place| place != leaf).collect();
    let mut last = leaf;
    while let Some(certificate) = &parsed[last] {
        let issues =
            |&place: &usize| parsed[place].as_ref().is_some_and(|issuer| is_issued_by(certificate, issuer));
        let Some(found) = left.iter().position(issues) else { break };
        last = left.remove(found);
        order.push(last);
    }
    order.extend(left);
    order
}

/// Where a chain breaks.
pub fn bad_links(chain: &[CertificateDer<'_>]) -> Vec<BadLink> {
    let bad = |(at, pair): (usize, &[CertificateDer<'_>])| {
        let (Ok(certificate), Ok(next)) = (parse(&pair[0]), parse(&pair[1])) else { return None };
        (!is_issued_by(&certificate, &next)).then(|| BadLink {
            place: at + 2,
            subject: distinguished_name(next.subject()),
            wanted: distinguished_name(certificate.issuer()),
        })
    };
    chain.windows(2).enumerate().filter_map(bad).collect()
}

/// Whether a certificate is marked as that of an authority.
pub(super) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = parse(certificate) else { return false };
    let constraints =
        extension(&parsed, BASIC_CONSTRAINTS).and_then(|value| Reader::new(value).enter(der::SEQUENCE));
    constraints.and_then(|mut constraints| constraints.take(0x01)).is_some_and(|flag| flag != [0])
}
