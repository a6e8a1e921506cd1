//! Files of certificates and keys: read, and split into their PEM blocks.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

/// The longest file that is read: a bundle of all authorities has a quarter of it.
const FILE_MAX: u64 = 1 << 20;

/// An error about a file: one line, with its cure.
pub(super) fn refusal(path: &Path, what: impl std::fmt::Display, hint: impl std::fmt::Display) -> String {
    format!("{}: {what} (hint: {hint})", path.display())
}

/// The bytes of a file, which may be those of a key.
///
/// # Errors
/// One line: not there, not readable, empty, too large.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let outcome = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    match outcome {
        Ok(0) => Err(refusal(path, "the file is empty", "write the PEM blocks of certificate or key to it")),
        Ok(size) if size as u64 > FILE_MAX => {
            Err(refusal(path, "the file is larger than 1 MiB", "name a PEM file of certificates or a key"))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Why a file cannot be read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => refusal(path, "no such file", "check the path, and whether it is mounted"),
        ErrorKind::PermissionDenied => {
            refusal(path, "permission denied", "let the user that runs sluice read it: chgrp and chmod 640")
        }
        ErrorKind::IsADirectory => refusal(path, "is a directory", "name a file in it"),
        _ => refusal(path, error, "see whether another program can read it"),
    }
}

/// What a file looks like that is not PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    /// One DER value.
    Der,
    /// A PKCS#12 store.
    Pkcs12,
    /// It is text.
    No,
}

impl Binary {
    pub(super) fn of(bytes: &[u8]) -> Binary {
        let content = super::der::Reader::new(bytes).enter(super::der::SEQUENCE);
        match content.map(|mut content| content.take(super::der::INTEGER)) {
            Some(Some([3])) => Binary::Pkcs12,
            Some(_) => Binary::Der,
            None => Binary::No,
        }
    }
}

/// The labels of the blocks, such as `CERTIFICATE`, in their order.
pub(super) fn labels(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|&byte| byte == b'\n');
    let label = |line: &[u8]| {
        let line = line.trim_ascii();
        line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----").map(super::text::escape)
    };
    lines.filter_map(label).collect()
}

/// What a file has, for a message.
pub(super) fn contents(labels: &[String]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for label in labels {
        if !kinds.contains(&label.as_str()) && kinds.len() < 4 {
            kinds.push(label);
        }
    }
    if kinds.is_empty() { "no PEM block at all".to_owned() } else { format!("only {}", kinds.join(", ")) }
}

/// The blocks that have a meaning here.
///
/// # Errors
/// One line: a block is broken.
pub(super) fn blocks(path: &Path, bytes: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    use rustls_pki_types::pem::Error;
    let read: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect();
    read.map_err(|error| {
        let what = match error {
            Error::MissingSectionEnd { .. } => "a PEM block has no END line".to_owned(),
            Error::IllegalSectionStart { .. } => "a BEGIN line does not end in five dashes".to_owned(),
            Error::Base64Decode(_) => "a PEM block is not base64".to_owned(),
            other => format!("a PEM block is broken: {other:?}"),
        };
        refusal(path, what, "copy the file again, all of it")
    })
}

/// All certificates of a file, in their order.
///
/// # Errors
/// One line that names the file: not there, not readable, no certificate in it.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_of(path, &read(path)?)
}

/// As [`certificates`], of bytes that were read already.
pub(super) fn certificates_of(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let blocks = blocks(path, bytes)?;
    let is_certificate = |kind| kind == SectionKind::Certificate;
    let found: Vec<_> = blocks
        .into_iter()
        .filter(|(kind, _)| is_certificate(*kind))
        .map(|(_, der)| CertificateDer::from(der))
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let file = path.display();
    Err(match Binary::of(bytes) {
        Binary::Der => refusal(
            path,
            "is DER, not PEM",
            format_args!("openssl x509 -inform der -in {file} -out {file}.pem, and name that file"),
        ),
        Binary::Pkcs12 => refusal(
            path,
            "is a PKCS#12 store, not PEM",
            format_args!("openssl pkcs12 -in {file} -nodes -out {file}.pem, and name that file"),
        ),
        Binary::No => refusal(
            path,
            format_args!("no CERTIFICATE block in it, {}", contents(&labels(bytes))),
            "name the PEM file with the certificate and its chain",
        ),
    })
}
