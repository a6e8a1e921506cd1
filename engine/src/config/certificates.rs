//! `[[certificate]]`: files of certificates and keys. They are read while the configuration is checked, so that a missing or
//! unusable one is an error at its line; nothing of them is kept.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sluice_tls::certificates::{Certificate, load_roots, utc};

use super::problem::{Fault, Located, Origin, Report};
use super::table::{CertificateKeys, Top};
use super::values::Field;

/// A certificate that expires sooner than this is a warning: those of a public authority are renewed a month before.
const EXPIRES_SOON_S: i64 = 14 * 24 * 3600;

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

/// A pair and what goes with it, under these names of keys. Every file that cannot be read is an error of its own.
pub(super) fn check_pair(
    cert: &Located<PathBuf>,
    key: &Field<PathBuf>,
    ocsp: &Field<PathBuf>,
    names: [&'static str; 3],
    report: &mut Report,
) -> Option<CertificateFiles> {
    if *key == Field::Faulty || *ocsp == Field::Faulty {
        return None;
    }
    let all = [Some(cert), key.given(), ocsp.given()].into_iter().zip(names);
    let files: Vec<_> = all.filter_map(|(file, name)| Some((file?, name))).collect();
    let unread = files.iter().filter(|(file, name)| !check_readable(file, name, report)).count();
    if unread > 0 {
        return None;
    }
    let paths = CertificateFiles {
        cert: cert.value.clone(),
        key: key.value().unwrap_or(&cert.value).clone(),
        ocsp: ocsp.value().cloned(),
    };
    // A line begins with the name of the file that it is about.
    let place = |line: &str| -> (Origin, &'static str) {
        let is_about = |file: &Located<PathBuf>| line.starts_with(&format!("{}: ", file.value.display()));
        let found = files.iter().rev().find(|(file, _)| is_about(file));
        found.map_or((cert.at.clone(), names[0]), |(file, name)| (file.at.clone(), name))
    };
    match Certificate::load_with_warnings(&paths.cert, &paths.key, paths.ocsp.as_deref(), now_s()) {
        Err(line) => {
            let (at, name) = place(&line);
            report.error(&at, name, Fault::new(line));
            return None;
        }
        Ok((certificate, lines)) => {
            let soon = expires_soon(certificate.facts.not_after_s, now_s());
            let soon = soon.map(|what| format!("{}: {what}", paths.cert.display()));
            for line in lines.into_iter().chain(soon) {
                let (at, name) = place(&line);
                report.warn(&at, name, Fault::new(line));
            }
        }
    }
    Some(paths)
}

/// Seconds since 1970.
fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

fn expires_soon(not_after_s: i64, now_s: i64) -> Option<String> {
    let left_s = not_after_s.saturating_sub(now_s);
    (0..EXPIRES_SOON_S).contains(&left_s).then(|| {
        let days = left_s / (24 * 3600);
        format!("the certificate expires on {}, in {days} days", utc(not_after_s))
    })
}

/// A file of authorities.
pub(super) fn check_roots(file: &Located<PathBuf>, key: &str, report: &mut Report) {
    if !check_readable(file, key, report) {
        return;
    }
    match load_roots(Some(&file.value)) {
        Err(line) => report.error(&file.at, key, Fault::new(line)),
        Ok(roots) => roots.warnings.into_iter().for_each(|line| report.warn(&file.at, key, Fault::new(line))),
    }
}

fn check_readable(file: &Located<PathBuf>, key: &str, report: &mut Report) -> bool {
    let read = read_a_byte(&file.value);
    if let Err(error) = &read {
        let fault = Fault::new(format!("cannot read {}: {error}", file.value.display()));
        let fault = match error.kind() {
            std::io::ErrorKind::PermissionDenied => fault.hint("Sluice's user needs to be able to read it"),
            _ => fault,
        };
        report.error(&file.at, key, fault);
    }
    read.is_ok()
}

fn read_a_byte(file: &Path) -> std::io::Result<()> {
    File::open(file)?.read(&mut [0]).map(|_| ())
}
