//! Versions, ciphers and groups on offer (RFC 9325), at both ends.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::{MinVersion, Profile};

/// Which cipher a server takes if a client has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// The processor has instructions for AES.
    Aes,
    /// It has none, and computes ChaCha20 several times as fast.
    ChaCha,
}

/// The versions from this one on.
pub(super) fn versions(
    min_version: MinVersion,
    profile: Profile,
) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static MODERN: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match (min_version, profile) {
        (MinVersion::Tls12, Profile::Intermediate) => &BOTH,
        _ => &MODERN,
    }
}

/// AES-128 comes first: it is as safe as AES-256 against all that is known (Grover's search does not parallelize), costs less for
/// each byte, and an idle session is a third smaller. OpenSSL's clients name AES-256 first without a need for it.
const AES_FIRST: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

const CHACHA_FIRST: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// Rustls' provider with our ciphers and groups. Groups are taken in the client's order by servers, and offered in this one by
/// clients: the hybrid with ML-KEM first, since what is recorded today can be read by the quantum computers of tomorrow.
pub(super) fn provider(preference: Preference) -> Arc<CryptoProvider> {
    let suites = match preference {
        Preference::Aes => AES_FIRST,
        Preference::ChaCha => CHACHA_FIRST,
    };
    let groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    Arc::new(CryptoProvider { cipher_suites: suites.to_vec(), kx_groups: groups, ..default_provider() })
}

/// What a client's list of ciphers says about its processor: browsers name ChaCha20 first where AES is slow. This is what OpenSSL's
/// `PrioritizeChaCha` does.
pub(super) fn preference(ciphers: impl Iterator<Item = u16>) -> Preference {
    const CHACHA: [u16; 3] = [0x1303, 0xcca8, 0xcca9];
    let is_grease = |cipher: &u16| cipher & 0x0f0f == 0x0a0a;
    let first = ciphers.into_iter().find(|cipher| !is_grease(cipher));
    if first.is_some_and(|cipher| CHACHA.contains(&cipher)) { Preference::ChaCha } else { Preference::Aes }
}
