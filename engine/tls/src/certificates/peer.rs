//! The certificate of a client, as header fields carry it to a server.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::facts::{address_text, alt_names, parse, sha256};
use super::text::{append, distinguished_name, escape, hex};

/// What a server is sent of a client's certificate. All of it is printable ASCII, and no text is longer than 2 KiB: `...` in
/// place of a part says that the rest did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject (RFC 4514), such as `CN=client,O=Example`.
    pub subject: String,
    /// What subjectAltName says, such as `DNS:a.example,IP:10.0.0.1`; commas in a name are escaped.
    pub alt_names: String,
    /// SHA-256 of the certificate in lower-case hexadecimal.
    pub fingerprint: String,
}

impl PeerCertificate {
    /// Of one certificate.
    ///
    /// # Errors
    /// One line: it cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<PeerCertificate, String> {
        let parsed = parse(certificate)?;
        Ok(PeerCertificate {
            subject: distinguished_name(parsed.subject()),
            alt_names: names_text(&alt_names(&parsed)),
            fingerprint: hex(&sha256(certificate)),
        })
    }
}

fn names_text(names: &[GeneralName<'_>]) -> String {
    let mut text = String::new();
    for name in names.iter().filter_map(name_text) {
        let separator = if text.is_empty() { "" } else { "," };
        if !append(&mut text, &format!("{separator}{name}")) {
            break;
        }
    }
    text
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    Some(match name {
        GeneralName::DNSName(name) => format!("DNS:{}", escape(name.as_bytes())),
        GeneralName::RFC822Name(name) => format!("email:{}", escape(name.as_bytes())),
        GeneralName::URI(name) => format!("URI:{}", escape(name.as_bytes())),
        GeneralName::IPAddress(bytes) => format!("IP:{}", address_text(bytes)?),
        GeneralName::DirectoryName(name) => {
            format!("DirName:{}", escape(distinguished_name(name).as_bytes()))
        }
        _ => return None,
    })
}
