//! Pairs made by rcgen, whole and broken.

use std::fs;
use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;

/// A folder for the files of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Certificate and key in PEM, self-signed.
fn pair(name: &str, kind: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(kind).unwrap();
    (params(name).self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn pairs_of_every_kind_are_read() {
    let folder = Folder::new();
    for (kind, text) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ECDSA P-256"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "ECDSA P-384"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "ECDSA P-521"),
        (&rcgen::PKCS_ED25519, "Ed25519"),
        (&rcgen::PKCS_RSA_SHA256, "RSA 2048"),
    ] {
        let (cert, key) = pair("App.Example", kind);
        let apart = Certificate::load(&folder.file("cert", &cert), &folder.file("key", &key), None).unwrap();
        assert_eq!(
            (apart.facts.key.as_str(), &apart.facts.names[..]),
            (text, &["app.example".to_owned()][..])
        );
        let both = folder.file("both", format!("{key}{cert}"));
        let together = Certificate::load(&both, &both, None).unwrap();
        assert_eq!((together.facts, together.chain), (apart.facts, apart.chain));
    }
}
