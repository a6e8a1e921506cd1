//! OCSP responses (RFC 6960), as far as it takes to see whether one is worth stapling.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer as _};

use super::der::{self, Reader};
use super::facts::parse;
use super::pem::refusal;

/// What a response says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staple {
    /// The certificate was revoked.
    pub(super) is_revoked: bool,
    /// When a newer one will be there, in seconds since 1970.
    pub(super) next_update_s: Option<i64>,
}

/// Why a response is not worth stapling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Unreadable,
    Status(u8),
    OtherCertificate,
}

/// Checks the response of a file for a certificate.
///
/// # Errors
/// One line: not a response, not a successful one, for another certificate.
pub(super) fn check(
    path: &Path,
    response: &[u8],
    certificate: &CertificateDer<'_>,
) -> Result<Staple, String> {
    let fetch = "fetch it again: openssl ocsp -issuer CHAIN -cert CERT -url URL -respout FILE";
    staple(response, certificate).map_err(|fault| match fault {
        Fault::Unreadable => refusal(path, "is not an OCSP response in DER", fetch),
        Fault::Status(status) => {
            refusal(path, format_args!("is an OCSP response without success: {}", name(status)), fetch)
        }
        Fault::OtherCertificate => refusal(path, "is an OCSP response for another certificate", fetch),
    })
}

/// What a response says of a certificate, if it says anything.
pub(super) fn of(response: &[u8], certificate: &CertificateDer<'_>) -> Option<Staple> {
    staple(response, certificate).ok()
}

fn name(status: u8) -> String {
    match status {
        1 => "malformedRequest".to_owned(),
        2 => "internalError".to_owned(),
        3 => "tryLater".to_owned(),
        5 => "sigRequired".to_owned(),
        6 => "unauthorized".to_owned(),
        other => format!("status {other}"),
    }
}

fn staple(response: &[u8], certificate: &CertificateDer<'_>) -> Result<Staple, Fault> {
    let mut outer = Reader::new(response).enter(der::SEQUENCE).ok_or(Fault::Unreadable)?;
    match outer.take(der::ENUMERATED) {
        Some([0]) => {}
        Some([status]) => return Err(Fault::Status(*status)),
        _ => return Err(Fault::Unreadable),
    }
    let mut singles = singles(outer).ok_or(Fault::Unreadable)?;
    let serial = parse(certificate).map_err(|_| Fault::Unreadable)?.tbs_certificate.raw_serial().to_vec();
    while let Some(single) = singles.enter(der::SEQUENCE) {
        let (found, staple) = read_single(single).ok_or(Fault::Unreadable)?;
        if found == serial {
            return Ok(staple);
        }
    }
    Err(Fault::OtherCertificate)
}

/// The list `responses` of a BasicOCSPResponse.
fn singles(mut outer: Reader<'_>) -> Option<Reader<'_>> {
    let mut bytes = outer.enter(0xa0)?.enter(der::SEQUENCE)?;
    bytes.take(der::OID)?;
    let mut data = bytes.enter(der::OCTET_STRING)?.enter(der::SEQUENCE)?.enter(der::SEQUENCE)?;
    if data.peek() == Some(0xa0) {
        data.any()?;
    }
    // responderID, by name or by key; then producedAt.
    data.any()?;
    data.take(der::GENERALIZED_TIME)?;
    data.enter(der::SEQUENCE)
}

/// The serial number that a SingleResponse is about, and what it says.
fn read_single(mut single: Reader<'_>) -> Option<(&[u8], Staple)> {
    let mut id = single.enter(der::SEQUENCE)?;
    id.take(der::SEQUENCE)?;
    id.take(der::OCTET_STRING)?;
    id.take(der::OCTET_STRING)?;
    let serial = id.take(der::INTEGER)?;
    let (status, _) = single.any()?;
    single.take(der::GENERALIZED_TIME)?;
    let next = single.take(0xa0).and_then(|time| ASN1Time::from_der(time).ok());
    Some((
        serial,
        Staple { is_revoked: status == 0xa1, next_update_s: next.map(|(_, time)| time.timestamp()) },
    ))
}
