//! The authorities by which the certificates of peers are verified.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;

use super::pem::{certificates, refusal};

/// Authorities, and what is to be said of them.
#[derive(Clone, Debug)]
pub struct Roots {
    /// For rustls.
    pub store: Arc<RootCertStore>,
    /// A line for each certificate that was left out.
    pub warnings: Vec<String>,
}

/// Reads the authorities of a PEM file, or those of the system.
///
/// # Errors
/// One line: no file, none in it, none on this system.
pub fn load_roots(path: Option<&Path>) -> Result<Roots, String> {
    match path {
        Some(path) => from_file(path),
        None => from_system(rustls_native_certs::load_native_certs()),
    }
}

fn from_file(path: &Path) -> Result<Roots, String> {
    let mut store = RootCertStore::empty();
    let mut warnings = Vec::new();
    for (at, certificate) in certificates(path)?.into_iter().enumerate() {
        if let Err(error) = store.add(certificate) {
            warnings.push(format!("{}: certificate {} is not used: {error}", path.display(), at + 1));
        }
    }
    if store.is_empty() {
        let what = format_args!("none of its {} certificates can be used as an authority", warnings.len());
        return Err(refusal(path, what, "name the PEM file of the CA that signs the peers' certificates"));
    }
    Ok(Roots { store: Arc::new(store), warnings })
}

pub(super) fn from_system(read: rustls_native_certs::CertificateResult) -> Result<Roots, String> {
    let mut store = RootCertStore::empty();
    let mut warnings: Vec<_> =
        read.errors.iter().map(|error| format!("authorities of the system: {error}")).collect();
    let (_, unusable) = store.add_parsable_certificates(read.certs);
    if unusable > 0 {
        warnings.push(format!("authorities of the system: {unusable} certificates cannot be used"));
    }
    if store.is_empty() {
        let why = warnings.first().map_or(String::new(), |first| format!(": {first}"));
        return Err(format!(
            "this system has no certificate authorities{why} (hint: install the package ca-certificates, or name a file \
             with --upstream-ca)"
        ));
    }
    Ok(Roots { store: Arc::new(store), warnings })
}
