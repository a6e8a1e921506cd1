//! Pairs from files, and what is to be said of them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::pem::{certificates_of, read, refusal};
use super::text::utc;
use super::{Certificate, CertificateFacts, chain, key, ocsp};

impl Certificate {
    /// Reads a pair from PEM files. Both may be one file. The chain is brought into order: the certificate of the key first.
    ///
    /// # Errors
    /// One line that names the file, says what is wrong and how to mend it: not there, not readable, no certificate in it, an
    /// encrypted key, a key that is not the certificate's.
    pub fn load(cert: &Path, key: &Path, ocsp: Option<&Path>) -> Result<Certificate, String> {
        load(cert, key, ocsp).map(|(certificate, _)| certificate)
    }

    /// As [`Certificate::load`], with everything that is to be said of it at this time (in seconds since 1970), each line with the
    /// name of its file.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn load_with_warnings(
        cert: &Path,
        key: &Path,
        ocsp: Option<&Path>,
        now_s: i64,
    ) -> Result<(Certificate, Vec<String>), String> {
        let (certificate, is_sorted_here) = load(cert, key, ocsp)?;
        let mut warnings = Vec::new();
        if is_sorted_here {
            let name = cert.display();
            warnings.push(format!(
                "{name}: the chain is not in order, it is sent with the certificate of the key first"
            ));
        }
        let mode = std::fs::metadata(key).map_or(0, |facts| facts.permissions().mode());
        if mode & 0o004 != 0 {
            let name = key.display();
            warnings
                .push(format!("{name}: every user of this host can read the key (hint: chmod 640 {name})"));
        }
        warnings.extend(
            certificate.warnings(now_s).into_iter().map(|line| format!("{}: {line}", cert.display())),
        );
        Ok((certificate, warnings))
    }

    /// A pair that is in memory already, its chain with the certificate first. Messages call it `name`.
    ///
    /// # Errors
    /// One line: a certificate that cannot be read, a key that is not the certificate's or is not supported.
    pub fn new(
        name: &Path,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Certificate, String> {
        pair((name, chain), (name, key)).map(|(certificate, _)| certificate)
    }

    /// It is marked as that of an authority.
    pub fn is_authority(&self) -> bool {
        self.chain.first().is_some_and(chain::is_authority)
    }

    /// What is to be said of it at this time, in seconds since 1970. It is served all the same.
    pub fn warnings(&self, now_s: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for (at, certificate) in self.chain.iter().enumerate() {
            let facts = CertificateFacts::of(certificate);
            warnings.extend(facts.ok().and_then(|facts| validity_warning(at, &facts, now_s)));
        }
        if self.facts.names.is_empty() {
            warnings.push("the certificate has no subjectAltName: clients accept it for no name".to_owned());
        }
        if self.is_authority() {
            warnings.push(
                "the certificate is marked as a CA: some clients refuse it as that of a server".to_owned(),
            );
        }
        for link in chain::bad_links(&self.chain) {
            let (place, before) = (link.place, link.place - 1);
            warnings.push(format!(
                "certificate {place} of the chain is `{}`, but the issuer of certificate {before} is `{}`",
                link.subject, link.wanted
            ));
        }
        warnings.extend(self.staple_warnings(now_s));
        warnings
    }

    /// When there will be a newer OCSP response than the one that is stapled, in seconds since 1970.
    pub fn ocsp_next_update_s(&self) -> Option<i64> {
        self.staple()?.next_update_s
    }

    fn staple(&self) -> Option<ocsp::Staple> {
        self.ocsp.as_ref().zip(self.chain.first()).and_then(|(response, leaf)| ocsp::of(response, leaf))
    }

    fn staple_warnings(&self, now_s: i64) -> Vec<String> {
        let Some(staple) = self.staple() else { return Vec::new() };
        let mut warnings = Vec::new();
        if staple.is_revoked {
            warnings.push("the OCSP response says that the certificate was revoked".to_owned());
        }
        if let Some(next) = staple.next_update_s.filter(|&next| next <= now_s) {
            warnings.push(format!("the OCSP response expired on {}", utc(next)));
        }
        warnings
    }
}

fn validity_warning(at: usize, facts: &CertificateFacts, now_s: i64) -> Option<String> {
    let which = match at {
        0 => "the certificate".to_owned(),
        _ => format!("certificate {} of the chain, `{}`,", at + 1, facts.subject),
    };
    if now_s > facts.not_after_s {
        Some(format!("{which} expired on {}", utc(facts.not_after_s)))
    } else if now_s < facts.not_before_s {
        Some(format!("{which} is not valid before {}", utc(facts.not_before_s)))
    } else {
        None
    }
}

/// The pair, and whether its chain had to be sorted.
fn load(cert: &Path, key: &Path, ocsp: Option<&Path>) -> Result<(Certificate, bool), String> {
    let cert_bytes = read(cert)?;
    let certificates = certificates_of(cert, &cert_bytes)?;
    let private =
        if key == cert { key::read_key(key, &cert_bytes) } else { key::read_key(key, &read(key)?) }?;
    let (mut certificate, is_sorted_here) = pair((cert, certificates), (key, private))?;
    if let Some(path) = ocsp {
        let response = read(path)?.to_vec();
        ocsp::check(path, &response, &certificate.chain[0])?;
        certificate.ocsp = Some(response);
    }
    Ok((certificate, is_sorted_here))
}

fn pair(
    (cert, mut chain): (&Path, Vec<CertificateDer<'static>>),
    (key, private): (&Path, PrivateKeyDer<'static>),
) -> Result<(Certificate, bool), String> {
    let broken = |place: usize, why: String| {
        refusal(cert, format_args!("certificate {} {why}", place + 1), "copy the file again, all of it")
    };
    let mut all = Vec::new();
    for (place, certificate) in chain.iter().enumerate() {
        all.push(CertificateFacts::of(certificate).map_err(|why| broken(place, why))?);
    }
    let Some(first) = all.first() else { return Err(refusal(cert, "no certificate", "add one")) };
    let signing = key::signing_key(key, &private)?;
    let Some(leaf) = key::owner(&*signing, &chain) else {
        let kind = key::kind_of(&private).unwrap_or_else(|| "unknown".to_owned());
        let what = format_args!(
            "the key ({kind}) does not belong to the certificate in {} (`{}`, {})",
            cert.display(),
            first.display_name(),
            first.key
        );
        return Err(refusal(key, what, "name the key that the certificate was requested with"));
    };
    let is_sorted_here = chain::sort(&mut chain, leaf);
    let facts = all.swap_remove(leaf);
    Ok((Certificate { chain, key: private, ocsp: None, facts }, is_sorted_here))
}
