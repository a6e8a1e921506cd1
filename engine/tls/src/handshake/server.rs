//! The side of a server.

use std::sync::Arc;

use rustls::RootCertStore;

use super::{Alpn, Established, HandshakeFailure, KeyLogFile, MinVersion, Profile, Progress};
use crate::certificates::CertificateSet;
use crate::tickets::TicketKeys;

/// Whether clients show certificates.
#[derive(Clone, Debug, Default)]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    Off,
    /// They are asked, and may have none.
    Optional(Arc<RootCertStore>),
    /// Those without are refused.
    Required(Arc<RootCertStore>),
}

/// The settings of a listener.
#[derive(Clone, Debug, Default)]
pub struct ServerSettings {
    /// The oldest version.
    pub min_version: MinVersion,
    /// Ciphers and groups.
    pub profile: Profile,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// The protocols on offer, the preferred one first.
    pub alpn: Vec<Alpn>,
    /// Where secrets are written.
    pub key_log: Option<KeyLogFile>,
}

/// What the handshakes of one listener on one shard have in common.
#[derive(Clone)]
pub struct ServerConfig {
    _private: (),
}

impl ServerConfig {
    /// Of a listener with these certificates and ticket keys.
    ///
    /// # Errors
    /// One line: a key that cannot be used.
    pub fn new(
        _settings: &ServerSettings,
        _certificates: &CertificateSet,
        _tickets: &Arc<TicketKeys>,
    ) -> Result<ServerConfig, String> {
        todo!()
    }
}

/// A handshake under way.
pub struct ServerHandshake {
    _private: (),
}

impl ServerHandshake {
    /// Begins one; no bytes were read.
    pub fn new(_config: &ServerConfig) -> ServerHandshake {
        todo!()
    }

    /// Takes whole records off the front of `input` until more are needed or the handshake is complete, and appends to `out` what
    /// is to be sent. Says how many bytes were used, also when it fails.
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
