//! What rustls says while it works on a record of one connection: its traffic secrets, and the name that the client asked for.
//!
//! Rustls shares its `KeyLog` and its resolver of certificates between all connections of a configuration, and says to neither
//! which connection it works for. So each call of rustls is made within [`observe`]: what the two hear meanwhile goes to a slot of
//! the thread, and the slot's content belongs to the connection whose record was given.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;

use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};
use zeroize::Zeroize;

use super::{FailureKind, HandshakeFailure, KeyLogFile};
use crate::record::{Session, Side, Suite, Traffic, Version};

/// The longest secret: that of a cipher with SHA-384.
const SECRET_BYTES_MAX: usize = 48;

/// A traffic secret.
#[derive(Default)]
pub(super) struct Secret {
    bytes: Bytes,
    len: usize,
}

struct Bytes([u8; SECRET_BYTES_MAX]);

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes([0; SECRET_BYTES_MAX])
    }
}

impl Secret {
    fn set(&mut self, secret: &[u8]) {
        self.len = secret.len().min(SECRET_BYTES_MAX);
        self.bytes.0[..self.len].copy_from_slice(&secret[..self.len]);
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes.0[..self.len]
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.0.zeroize();
    }
}

/// What was heard of one connection.
#[derive(Default)]
pub(super) struct Observed {
    client_secret: Secret,
    server_secret: Secret,
    /// The name that the client asked for.
    pub(super) server_name: Option<Box<str>>,
    /// To the resolver: the address that the client has connected to.
    pub(super) local_address: Option<IpAddr>,
}

thread_local! {
    static SLOT: RefCell<Observed> = RefCell::default();
}

/// Calls rustls for the connection that `known` belongs to, and adds to it what is heard meanwhile.
pub(super) fn observe<R>(known: &mut Observed, call: impl FnOnce() -> R) -> R {
    /// Takes the slot's content back, also when the call panics: it must not stay for the next connection.
    struct Visit<'a>(&'a mut Observed);
    impl Visit<'_> {
        fn exchange(&mut self) {
            SLOT.with_borrow_mut(|slot| std::mem::swap(slot, self.0));
        }
    }
    impl Drop for Visit<'_> {
        fn drop(&mut self) {
            self.exchange();
        }
    }
    let mut visit = Visit(known);
    visit.exchange();
    call()
}

/// To the connection whose record is being worked on.
pub(super) fn note(write: impl FnOnce(&mut Observed)) {
    SLOT.with_borrow_mut(write);
}

/// Hears the secrets of all connections of a configuration.
pub(super) struct SecretsLog {
    file: Option<KeyLogFile>,
}

impl SecretsLog {
    pub(super) fn new(file: Option<KeyLogFile>) -> SecretsLog {
        SecretsLog { file }
    }
}

impl std::fmt::Debug for SecretsLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretsLog").field("has_file", &self.file.is_some()).finish()
    }
}

const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

impl rustls::KeyLog for SecretsLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        note(|observed| match label {
            CLIENT_SECRET => observed.client_secret.set(secret),
            SERVER_SECRET => observed.server_secret.set(secret),
            _ => {}
        });
        if let Some(file) = &self.file {
            write_line(file, label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.file.is_some() || label == CLIENT_SECRET || label == SERVER_SECRET
    }
}

/// One line in the form of NSS (SSLKEYLOGFILE): label, client random, secret.
fn write_line(file: &KeyLogFile, label: &str, client_random: &[u8], secret: &[u8]) {
    let mut line = String::with_capacity(label.len() + 3 + 2 * (client_random.len() + secret.len()));
    line.push_str(label);
    for part in [client_random, secret] {
        line.push(' ');
        for byte in part {
            // Writing to a string cannot fail.
            let _ = write!(line, "{byte:02x}");
        }
    }
    line.push('\n');
    // A full disk must not end connections. A lock poisoned by another thread guards nothing that could be half done.
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = file.write_all(line.as_bytes());
}

/// The record layer of a finished handshake.
pub(super) fn session(
    side: Side,
    version: Option<ProtocolVersion>,
    extracted: &ExtractedSecrets,
    observed: &Observed,
) -> Result<Session, HandshakeFailure> {
    let version = match version {
        Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
        Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
        other => return Err(internal(&format!("a session of version {other:?}"))),
    };
    let (ours, theirs) = match side {
        Side::Server => (&observed.server_secret, &observed.client_secret),
        Side::Client => (&observed.client_secret, &observed.server_secret),
    };
    let (ours, theirs) = match version {
        Version::Tls13 if ours.len == 0 || theirs.len == 0 => {
            return Err(internal("no traffic secrets"));
        }
        Version::Tls13 => (ours.as_slice(), theirs.as_slice()),
        Version::Tls12 => (&[][..], &[][..]),
    };
    let (rx_suite, rx_key, rx_iv) = parts(version, &extracted.rx.1)?;
    let (_, tx_key, tx_iv) = parts(version, &extracted.tx.1)?;
    let opening = Traffic { key: rx_key, iv: rx_iv, sequence: extracted.rx.0, secret: theirs };
    let sealing = Traffic { key: tx_key, iv: tx_iv, sequence: extracted.tx.0, secret: ours };
    Ok(Session::new(version, rx_suite, side, &opening, &sealing))
}

/// The fixed part of the nonce of AES-GCM in TLS 1.2; rustls appends where its own explicit part begins.
//= https://www.rfc-editor.org/rfc/rfc5288#section-3
const IMPLICIT_BYTES: usize = 4;
const NONCE_BYTES: usize = 12;

fn parts(
    version: Version,
    secrets: &ConnectionTrafficSecrets,
) -> Result<(Suite, &[u8], &[u8]), HandshakeFailure> {
    let gcm_iv_bytes = match version {
        Version::Tls13 => NONCE_BYTES,
        Version::Tls12 => IMPLICIT_BYTES,
    };
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
            Ok((Suite::Aes128Gcm, key.as_ref(), &iv.as_ref()[..gcm_iv_bytes]))
        }
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            Ok((Suite::Aes256Gcm, key.as_ref(), &iv.as_ref()[..gcm_iv_bytes]))
        }
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            Ok((Suite::ChaCha20Poly1305, key.as_ref(), iv.as_ref()))
        }
        _ => Err(internal("a cipher without a record layer")),
    }
}

/// Something that our settings of rustls exclude.
pub(super) fn internal(reason: &str) -> HandshakeFailure {
    HandshakeFailure { kind: FailureKind::Protocol, reason: format!("internal error: {reason}") }
}
