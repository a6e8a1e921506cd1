//! `sluice cert show`: what the certificates of a file say.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sluice_tls::certificates::{BadLink, CertificateFacts, bad_links, base64, hex, read_certificates, utc};

/// The certificates of a file.
pub(crate) struct Shown {
    file: String,
    certificates: Vec<CertificateFacts>,
    bad_links: Vec<BadLink>,
}

/// Reads the certificates of a file.
///
/// # Errors
/// One line: the file cannot be read, or a certificate in it.
pub(crate) fn show(path: &Path) -> Result<Shown, String> {
    let chain = read_certificates(path)?;
    let mut certificates = Vec::with_capacity(chain.len());
    for (at, certificate) in chain.iter().enumerate() {
        let facts = CertificateFacts::of(certificate);
        certificates.push(facts.map_err(|why| format!("{}: certificate {} {why}", path.display(), at + 1))?);
    }
    Ok(Shown { file: path.display().to_string(), certificates, bad_links: bad_links(&chain) })
}

impl Shown {
    /// For people.
    pub(crate) fn draw(&self, now_s: i64) -> String {
        let mut text = String::new();
        let count = self.certificates.len();
        for (at, facts) in self.certificates.iter().enumerate() {
            let number = if count == 1 { String::new() } else { format!(" ({} of {count})", at + 1) };
            let _ = writeln!(text, "{}{number}", self.file);
            for (name, value) in rows(facts, now_s) {
                let _ = writeln!(text, "  {name:<12} {value}");
            }
            for link in self.bad_links.iter().filter(|link| link.place == at + 2) {
                let _ = writeln!(
                    text,
                    "  {:<12} the next certificate is not its issuer, but {}",
                    "chain", link.subject
                );
            }
        }
        text
    }

    /// For tools.
    pub(crate) fn to_json(&self, now_s: i64) -> Value {
        let certificates: Vec<_> =
            self.certificates.iter().map(|facts| certificate_json(facts, now_s)).collect();
        json!({
            "file": self.file,
            "certificates": certificates,
            "chain_in_order": self.bad_links.is_empty(),
        })
    }
}

fn rows(facts: &CertificateFacts, now_s: i64) -> [(&'static str, String); 8] {
    let names = if facts.names.is_empty() { "none".to_owned() } else { facts.names.join(", ") };
    [
        ("names", names),
        ("subject", facts.subject.clone()),
        ("issuer", if facts.issuer == facts.subject { "itself".to_owned() } else { facts.issuer.clone() }),
        ("key", facts.key.clone()),
        ("valid from", utc(facts.not_before_s)),
        ("valid to", format!("{} ({})", utc(facts.not_after_s), time_left(facts, now_s))),
        ("fingerprint", hex(&facts.fingerprint)),
        ("pin", base64(&facts.spki)),
    ]
}

fn time_left(facts: &CertificateFacts, now_s: i64) -> String {
    if now_s < facts.not_before_s {
        return "not valid yet".to_owned();
    }
    if now_s > facts.not_after_s {
        return format!("EXPIRED {} days ago", (now_s - facts.not_after_s) / 86_400);
    }
    format!("{} days left", facts.days_left(now_s))
}

fn certificate_json(facts: &CertificateFacts, now_s: i64) -> Value {
    json!({
        "names": facts.names,
        "subject": facts.subject,
        "issuer": facts.issuer,
        "key": facts.key,
        "not_before_s": facts.not_before_s,
        "not_after_s": facts.not_after_s,
        "days_left": facts.days_left(now_s),
        "fingerprint_sha256": hex(&facts.fingerprint),
        "pin_sha256": base64(&facts.spki),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_certificate() {
        let facts = CertificateFacts {
            names: Vec::new(),
            subject: "CN=a".to_owned(),
            issuer: "CN=a".to_owned(),
            not_before_s: 1000,
            not_after_s: 1000 + 10 * 86_400,
            key: String::new(),
            fingerprint: [0; 32],
            spki: [0; 32],
        };
        for (now_s, text) in [
            (999, "not valid yet"),
            (1000, "10 days left"),
            (1001, "9 days left"),
            (facts.not_after_s, "0 days left"),
            (facts.not_after_s + 3 * 86_400, "EXPIRED 3 days ago"),
        ] {
            assert_eq!(time_left(&facts, now_s), text);
        }
    }
}
