//! A certificate and its key for the servers that this tool starts: the same for all of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::Failure;

/// The name that the certificate is for.
pub(crate) const NAME: &str = "localhost";

/// The certificate's kind, for reports.
pub(crate) const KIND: &str = "ECDSA P-256";

/// A self-signed certificate for [`NAME`], in PEM, and its key.
#[derive(Debug)]
pub(crate) struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    /// Makes a new one: ECDSA on P-256.
    pub(crate) fn generate() -> Result<Pair, Failure> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned(), "127.0.0.1".to_owned()])
            .map_err(|error| Failure::Target(format!("cannot make a certificate: {error}")))?;
        Ok(Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// Writes `cert.pem`, `key.pem`, and both in `pair.pem`, which HAProxy wants.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let both = self.certificate.clone() + &self.key;
        for (name, text) in [("cert.pem", &self.certificate), ("key.pem", &self.key), ("pair.pem", &both)] {
            let path = dir.join(name);
            let mut options = OpenOptions::new();
            // Keys are for their owner.
            let file = options.write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|error| Failure::Target(format!("cannot write {}: {error}", path.display())))?;
        }
        Ok(())
    }
}
