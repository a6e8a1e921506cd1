//! The side of a client: a connection to a server of an upstream.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use super::{Alpn, Established, HandshakeFailure, KeyLogFile, MinVersion, Progress};
use crate::certificates::Certificate;

/// How a server's certificate is judged.
#[derive(Clone, Debug)]
pub enum ServerVerification {
    /// It has to be valid for the name, from one of these authorities.
    Roots(Arc<RootCertStore>),
    /// Any is accepted.
    Off,
}

/// The settings of an upstream.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The oldest version.
    pub min_version: MinVersion,
    /// How the server's certificate is judged.
    pub verification: ServerVerification,
    /// SHA-256 of SubjectPublicKeyInfo: if there are any, a certificate of the chain must have one of them.
    pub pins: Vec<[u8; 32]>,
    /// What we show if the server asks.
    pub certificate: Option<Arc<Certificate>>,
    /// The protocols on offer, the preferred one first.
    pub alpn: Vec<Alpn>,
    /// Where secrets are written.
    pub key_log: Option<KeyLogFile>,
}

/// What the handshakes of one upstream on one shard have in common: its sessions are resumed within it.
#[derive(Clone)]
pub struct ClientConfig {
    _private: (),
}

impl ClientConfig {
    /// Of these settings.
    ///
    /// # Errors
    /// One line: a certificate that cannot be used.
    pub fn new(_settings: &ClientSettings) -> Result<ClientConfig, String> {
        todo!()
    }
}

/// A handshake under way.
pub struct ClientHandshake {
    _private: (),
}

impl ClientHandshake {
    /// Begins one and appends its first message to `out`.
    ///
    /// # Errors
    /// The name cannot be asked for.
    pub fn new(
        _config: &ClientConfig,
        _name: ServerName<'static>,
        _out: &mut Vec<u8>,
    ) -> Result<ClientHandshake, HandshakeFailure> {
        todo!()
    }

    /// As [`ServerHandshake::advance`](super::ServerHandshake::advance).
    pub fn advance(
        &mut self,
        _input: &[u8],
        _out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, HandshakeFailure>) {
        todo!()
    }

    /// The session, and what was agreed on.
    ///
    /// # Errors
    /// Rustls does not hand out the secrets.
    pub fn finish(self) -> Result<Established, HandshakeFailure> {
        todo!()
    }
}

/// Stores the tickets that a server sends after the handshake.
pub struct ClientTickets {
    _private: (),
}

impl ClientTickets {
    /// Stores one for the next connection. One that cannot be used is dropped.
    pub fn store(&mut self, _message: &[u8]) {
        todo!()
    }
}
