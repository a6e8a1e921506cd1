//! What rustls says while it works on a record of one connection: its traffic secrets, and the name that the client asked for.
//!
//! Rustls shares its `KeyLog` and its resolver of certificates between all connections of a configuration, and says to neither
//! which connection it works for. So each call of rustls is made within [`observe`]: what the two hear meanwhile goes to a slot of
//! the thread, and the slot's content belongs to the connection whose record was given.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;

use rustls::{CommonState, ConnectionTrafficSecrets, ExtractedSecrets, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroize;

use super::{Alpn, ClientTickets, Established, FailureKind, HandshakeFailure, KeyLogFile};
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

/// A complete handshake, before its record layer is made.
pub(super) struct Complete {
    pub(super) version: Option<ProtocolVersion>,
    pub(super) alpn: Option<Alpn>,
    pub(super) peer_certificates: Vec<CertificateDer<'static>>,
    pub(super) is_resumed: bool,
    pub(super) observed: Observed,
}

impl Complete {
    /// What was agreed on, before rustls' connection gives up its keys.
    pub(super) fn of(connection: &CommonState, observed: Observed) -> Complete {
        Complete {
            version: connection.protocol_version(),
            alpn: connection.alpn_protocol().and_then(Alpn::of),
            peer_certificates: connection.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            observed,
        }
    }

    /// With its record layer.
    pub(super) fn establish(
        mut self,
        side: Side,
        keys: &ExtractedSecrets,
        tickets: Option<ClientTickets>,
    ) -> Result<Established, HandshakeFailure> {
        let session = self.session(side, keys)?;
        Ok(Established {
            session,
            alpn: self.alpn,
            server_name: self.observed.server_name.take(),
            peer_certificates: self.peer_certificates,
            is_resumed: self.is_resumed,
            tickets,
        })
    }

    fn session(&self, side: Side, keys: &ExtractedSecrets) -> Result<Session, HandshakeFailure> {
        let version = match self.version {
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            other => return Err(internal(&format!("a session of version {other:?}"))),
        };
        let (ours, theirs) = self.secrets(side);
        let is_fit = match version {
            Version::Tls13 => !ours.is_empty() && !theirs.is_empty(),
            Version::Tls12 => ours.is_empty() && theirs.is_empty(),
        };
        if !is_fit {
            return Err(internal("traffic secrets are missing, or of another version"));
        }
        let (suite, rx_key, rx_iv) = parts(version, &keys.rx.1)?;
        let (_, tx_key, tx_iv) = parts(version, &keys.tx.1)?;
        let opening = Traffic { key: rx_key, iv: rx_iv, sequence: keys.rx.0, secret: theirs };
        let sealing = Traffic { key: tx_key, iv: tx_iv, sequence: keys.tx.0, secret: ours };
        Ok(Session::new(version, suite, side, &opening, &sealing))
    }

    /// The traffic secrets with which we seal, and with which we open; empty in TLS 1.2.
    pub(super) fn secrets(&self, side: Side) -> (&[u8], &[u8]) {
        let (client, server) =
            (self.observed.client_secret.as_slice(), self.observed.server_secret.as_slice());
        match side {
            Side::Server => (server, client),
            Side::Client => (client, server),
        }
    }
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

/// The caller goes on with a handshake that has failed.
pub(super) const AFTER_FAILURE: &str = "a handshake goes on after it has failed";
