//! The certificate for a client: by the name it asks for, then by the keys it can check.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};

use super::Alpn;
use super::secrets;
use crate::certificates::{Certificate, CertificateSet};

/// Those for one name, the preferred one first.
#[derive(Default)]
struct Candidates {
    keys: Vec<Arc<CertifiedKey>>,
    /// Of the first of them in the configuration.
    id: CertificateId,
}

/// A number for all certificates of the same names: one for another kind of key, or one that has taken the place of another, is the
/// same to clients. It does not depend on the process; that of no certificate is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertificateId(u32);

/// The certificates of a listener on one shard.
pub(super) struct Picker {
    /// By the whole name.
    exact: HashMap<Box<str>, Candidates>,
    /// `*.a.example` by `a.example`.
    wildcard: HashMap<Box<str>, Candidates>,
    /// By the address that a client has connected to, if it asks for no name.
    address: HashMap<IpAddr, Candidates>,
    /// For all others.
    default: Candidates,
    /// Of ACME, by name.
    challenges: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Picker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picker").field("names", &self.exact.len()).finish_non_exhaustive()
    }
}

impl Picker {
    pub(super) fn new(set: &CertificateSet, provider: &CryptoProvider) -> Result<Picker, String> {
        let mut picker = Picker {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            address: HashMap::new(),
            default: Candidates::default(),
            challenges: HashMap::new(),
        };
        for certificate in &set.all {
            let key = certified(certificate, provider)?;
            let id = CertificateId::of(certificate);
            for name in &certificate.facts.names {
                picker.list(name).add(&key, id);
            }
            let first = &set.all[0];
            // The default may have both kinds of keys: what is for the same names as the first one stands in for it.
            if Arc::ptr_eq(first, certificate) || has_names_of(first, certificate) {
                picker.default.add(&key, id);
            }
        }
        for candidates in picker.lists() {
            candidates.keys.sort_by_key(|key| rank(key));
        }
        for (name, certificate) in &set.challenges {
            // Its key is not checked: rustls reads no certificate with acmeIdentifier, which is critical.
            let (answer, _) = loaded(certificate, provider)?;
            picker.challenges.insert(name.to_ascii_lowercase().into(), Arc::new(answer));
        }
        Ok(picker)
    }

    /// The list for a name of a certificate.
    fn list(&mut self, name: &str) -> &mut Candidates {
        let name = name.to_ascii_lowercase();
        if let Ok(address) = name.parse::<IpAddr>() {
            self.address.entry(address).or_default()
        } else if let Some(suffix) = name.strip_prefix("*.") {
            self.wildcard.entry(suffix.into()).or_default()
        } else {
            self.exact.entry(name.into()).or_default()
        }
    }

    /// The certificate that a name in lower case leads to, or an address without one.
    pub(super) fn certificate_of(&self, name: &str) -> CertificateId {
        match name.parse() {
            Ok(address) => self.candidates(None, Some(address)).id,
            Err(_) => self.candidates(Some(name), None).id,
        }
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Candidates> {
        let named = self.exact.values_mut().chain(self.wildcard.values_mut());
        named.chain(self.address.values_mut()).chain([&mut self.default])
    }

    fn candidates(&self, name: Option<&str>, local_address: Option<IpAddr>) -> &Candidates {
        let found = match name {
            Some(name) => {
                // A wildcard stands for one label (RFC 9525 section 6.3).
                let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
                self.exact.get(name).or_else(parent)
            }
            // An IPv4 client of a socket for both families has an address of IPv6 that stands for its own.
            None => local_address.and_then(|address| self.address.get(&address.to_canonical())),
        };
        found.unwrap_or(&self.default)
    }
}

impl Candidates {
    fn add(&mut self, key: &Arc<CertifiedKey>, id: CertificateId) {
        if self.keys.is_empty() {
            self.id = id;
        }
        self.keys.push(Arc::clone(key));
    }
}

impl CertificateId {
    fn of(certificate: &Certificate) -> CertificateId {
        let mut names: Vec<_> =
            certificate.facts.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        // The operator's certificates: none of them is made so that it is taken for another.
        let digest = digest::digest(&digest::SHA256, names.join(",").as_bytes());
        let start = digest.as_ref().first_chunk().expect("32 bytes");
        CertificateId(u32::from_be_bytes(*start).max(1))
    }
}

impl ResolvesServerCert for Picker {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Rustls has made it lower case, and has dropped what is no DNS name.
        let name = hello.server_name();
        let mut local_address = None;
        secrets::note(|observed| {
            observed.server_name = name.map(Into::into);
            local_address = observed.local_address;
        });
        if !self.challenges.is_empty() && is_challenge(&hello) {
            return self.challenges.get(name?).cloned();
        }
        let candidates = self.candidates(name, local_address);
        let schemes = hello.signature_schemes();
        let usable = candidates.keys.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        // With one that the client cannot check rustls reports what is not in common.
        usable.or(candidates.keys.first()).cloned()
    }
}

/// An authority checks a TLS-ALPN-01 challenge: it offers this protocol alone.
fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|mut names| names.next() == Some(Alpn::AcmeChallenge.name()) && names.next().is_none())
}

fn has_names_of(first: &Certificate, other: &Certificate) -> bool {
    let sorted = |certificate: &Certificate| {
        let mut names = certificate.facts.names.clone();
        names.sort_unstable();
        names
    };
    !first.facts.names.is_empty() && sorted(first) == sorted(other)
}

/// The preferred key first: a signature of ECDSA costs a server a fifth of one of RSA. Few clients can check Ed25519 in
/// certificates, but those that can lose nothing.
fn rank(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    }
}

/// The certificate as rustls wants it.
pub(super) fn certified(
    certificate: &Certificate,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, String> {
    let (certified, of) = loaded(certificate, provider)?;
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(format!("the key is not that of {of}"))
        }
        Err(error) => Err(format!("{of} cannot be used: {error}")),
    }
}

/// The same without a check that the key is the certificate's; and what messages call it.
fn loaded(certificate: &Certificate, provider: &CryptoProvider) -> Result<(CertifiedKey, String), String> {
    let of = format!("the certificate of {}", certificate.facts.subject);
    let key = provider.key_provider.load_private_key(certificate.key.clone_key());
    let key = key.map_err(|error| format!("the key of {of} cannot be used: {error}"))?;
    let mut certified = CertifiedKey::new(certificate.chain.clone(), key);
    certified.ocsp.clone_from(&certificate.ocsp);
    Ok((certified, of))
}
