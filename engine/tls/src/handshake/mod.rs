//! Handshakes by rustls, to the point where the secrets are taken out and [`crate::record`] goes on.
//!
//! One record is given to rustls at a time, so that it never sees application data: what a client sends together with the end of
//! its handshake stays with the caller.

mod client;
mod drive;
mod failure;
mod pick;
mod provider;
mod secrets;
mod server;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

pub use client::{ClientConfig, ClientHandshake, ClientSettings, ClientTickets, ServerVerification};
pub use pick::CertificateId;
pub use server::{ClientCertificates, ServerConfig, ServerHandshake, ServerSettings};

pub use rustls_pki_types::ServerName;

use crate::record::Session;

/// The oldest version that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Which ciphers and groups are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// TLS 1.3, and TLS 1.2 with forward secrecy and AEAD ciphers.
    #[default]
    Intermediate,
    /// TLS 1.3 only.
    Modern,
}

/// A protocol that was agreed on by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// `acme-tls/1` (RFC 8737): an authority has seen its challenge certificate; the connection is to be closed. It is on offer only
    /// while there are such certificates, and never one of the settings.
    AcmeChallenge,
}

impl Alpn {
    /// Its name in messages.
    pub fn name(self) -> &'static [u8] {
        match self {
            Alpn::Http1 => b"http/1.1",
            Alpn::Http2 => b"h2",
            Alpn::AcmeChallenge => b"acme-tls/1",
        }
    }

    fn of(name: &[u8]) -> Option<Alpn> {
        [Alpn::Http1, Alpn::Http2, Alpn::AcmeChallenge].into_iter().find(|alpn| alpn.name() == name)
    }
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes of the peer are needed.
    More,
    /// It is complete: call `finish`. What is left of the input belongs to the session.
    Done,
}

/// The end of a handshake that failed. The alert for the peer, if there is one to send, was appended to the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeFailure {
    /// What kind of failure, for counters.
    pub kind: FailureKind,
    /// One line for the log: what failed, and what to do about it where that is known.
    pub reason: String,
}

/// Kinds of failures that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The bytes are not TLS, or break its rules.
    Protocol,
    /// No version, cipher, group or protocol in common.
    NothingInCommon,
    /// No certificate for that name.
    UnknownName,
    /// The peer's certificate is missing or not accepted.
    Certificate,
    /// It was not complete in its time.
    Late,
    /// The peer has given up, by an alert.
    Alert(u8),
}

/// A finished handshake.
pub struct Established {
    /// The records from here on.
    pub session: Session,
    /// The protocol that both sides agreed on.
    pub alpn: Option<Alpn>,
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// The certificates of the peer, its own first; empty if it has shown none.
    pub peer_certificates: Vec<rustls_pki_types::CertificateDer<'static>>,
    /// The session of an earlier connection was resumed.
    pub is_resumed: bool,
    /// Of a client: what stores the tickets that the server sends.
    pub tickets: Option<ClientTickets>,
}

/// Where the secrets of connections are written for debugging (SSLKEYLOGFILE).
pub type KeyLogFile = Arc<std::sync::Mutex<std::fs::File>>;
