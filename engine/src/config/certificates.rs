//! `[[certificate]]`: files of certificates and keys. They are read while the configuration is checked, so that a missing or
//! unusable one is an error at its line; nothing of them is kept.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::problem::{Fault, Located, Report};
use super::table::{CertificateKeys, Top};
use super::values::Field;

/// A certificate and its key, by their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// Its key; the same file where that has both.
    pub key: PathBuf,
    /// The OCSP response to staple.
    pub ocsp: Option<PathBuf>,
}

/// All that are written.
pub(super) fn check_certificates(top: &Top, report: &mut Report) -> Vec<CertificateFiles> {
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for raw in top.certificate.iter().filter(|raw| !raw.is_faulty) {
        let keys = CertificateKeys::settle(raw);
        let cert = match &keys.cert {
            Field::Given(cert) => cert,
            Field::Faulty => continue,
            Field::Absent => {
                let fault = Fault::new("a certificate needs its file").hint("add cert = \"FILE\"");
                report.error(&raw.at, "certificate.cert", fault);
                continue;
            }
        };
        if !seen.insert(cert.value.clone()) {
            let fault = Fault::new(format!("{} is there twice", cert.value.display()));
            report.error(&cert.at, "certificate.cert", fault);
            continue;
        }
        let names = ["certificate.cert", "certificate.key", "certificate.ocsp"];
        all.extend(check_pair(cert, &keys.key, &keys.ocsp, names, report));
    }
    all
}

/// A pair and what goes with it, under these names of keys.
pub(super) fn check_pair(
    cert: &Located<PathBuf>,
    key: &Field<PathBuf>,
    ocsp: &Field<PathBuf>,
    names: [&str; 3],
    report: &mut Report,
) -> Option<CertificateFiles> {
    let mut is_there = check_readable(cert, names[0], report);
    for (field, name) in [(key, names[1]), (ocsp, names[2])] {
        is_there &= match field {
            Field::Given(file) => check_readable(file, name, report),
            Field::Absent => true,
            Field::Faulty => false,
        };
    }
    let files = CertificateFiles {
        cert: cert.value.clone(),
        key: key.value().unwrap_or(&cert.value).clone(),
        ocsp: ocsp.value().cloned(),
    };
    is_there.then_some(files)
}

/// A file of authorities.
pub(super) fn check_roots(file: &Located<PathBuf>, key: &str, report: &mut Report) {
    check_readable(file, key, report);
}

fn check_readable(file: &Located<PathBuf>, key: &str, report: &mut Report) -> bool {
    let read = read_a_byte(&file.value);
    if let Err(error) = &read {
        let fault = Fault::new(format!("cannot read {}: {error}", file.value.display()));
        report.error(&file.at, key, fault);
    }
    read.is_ok()
}

fn read_a_byte(file: &Path) -> std::io::Result<()> {
    File::open(file)?.read(&mut [0]).map(|_| ())
}
