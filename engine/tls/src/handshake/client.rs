//! The side of a client: a connection to a server of an upstream.

use std::sync::Arc;

use rustls::client::{
    ClientConnectionData, ClientSessionMemoryCache, Resumption, Tls12Resumption, UnbufferedClientConnection,
};
use rustls::kernel::KernelConnection;
use rustls::sign::SingleCertAndKey;
use rustls::{ExtractedSecrets, ProtocolVersion, RootCertStore};
use rustls_pki_types::ServerName;

use super::drive;
use super::failure::Peer;
use super::pick;
use super::provider::{self, Preference};
use super::secrets::{self, Complete, Observed, SecretsLog};
use super::verify::Verifier;
use super::{Alpn, Established, HandshakeFailure, KeyLogFile, MinVersion, Profile, Progress};
use crate::certificates::Certificate;
use crate::record::Side;

/// Tickets of so many servers' names are kept, eight each; an upstream has one name, or one for each server.
const TICKETS_MAX: usize = 8 * 64;

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
    config: Arc<rustls::ClientConfig>,
}

impl ClientConfig {
    /// Of these settings.
    ///
    /// # Errors
    /// One line: a certificate that cannot be used.
    pub fn new(settings: &ClientSettings) -> Result<ClientConfig, String> {
        let mut config = with_verification(settings)?;
        config.key_log = Arc::new(SecretsLog::new(settings.key_log.clone()));
        config.enable_secret_extraction = true;
        let store = Arc::new(ClientSessionMemoryCache::new(TICKETS_MAX));
        config.resumption = Resumption::store(store).tls12_resumption(Tls12Resumption::SessionIdOrTickets);
        Ok(ClientConfig { config: Arc::new(config) })
    }

    /// For connections that rustls drives to their end, such as those of health checks. None resumes a session, so that each verifies
    /// the certificate that the server has now.
    ///
    /// # Errors
    /// One line: a certificate that cannot be used.
    pub fn for_checks(settings: &ClientSettings) -> Result<Arc<rustls::ClientConfig>, String> {
        let mut config = with_verification(settings)?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// What these settings say of servers, ourselves and protocols.
fn with_verification(settings: &ClientSettings) -> Result<rustls::ClientConfig, String> {
    let provider = provider::provider(Preference::Aes);
    let verifier = Verifier::new(&settings.verification, &settings.pins, &provider)?;
    let versions = provider::versions(settings.min_version, Profile::Intermediate);
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).map_err(|error| error.to_string())?;
    // Rustls calls each verifier but its own dangerous: ours asks the same one, and checks pins.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &settings.certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let certified = pick::certified(certificate, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|alpn| alpn.name().to_vec()).collect();
    Ok(config)
}

/// A handshake under way.
pub struct ClientHandshake {
    /// `None`: it has failed.
    connection: Option<Box<UnbufferedClientConnection>>,
    observed: Observed,
    /// Records whose handshake message is not complete.
    waiting: Vec<u8>,
    has_received: bool,
}

impl ClientHandshake {
    /// Begins one and appends its first message to `out`.
    ///
    /// # Errors
    /// The name cannot be asked for.
    pub fn new(
        config: &ClientConfig,
        name: ServerName<'static>,
        out: &mut Vec<u8>,
    ) -> Result<ClientHandshake, HandshakeFailure> {
        let mut observed = Observed::default();
        let mut waiting = Vec::new();
        let connection = secrets::observe(&mut observed, || {
            let connection = UnbufferedClientConnection::new(Arc::clone(&config.config), name);
            let mut connection = connection.map_err(drive::Trouble::Rustls)?;
            drive::run(&mut connection, &mut waiting, out)?;
            Ok(connection)
        });
        let connection = connection.map_err(|trouble| HandshakeFailure::of(Peer::Server, &trouble))?;
        Ok(ClientHandshake { connection: Some(Box::new(connection)), observed, waiting, has_received: false })
    }

    /// As [`ServerHandshake::advance`](super::ServerHandshake::advance).
    pub fn advance(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, HandshakeFailure>) {
        // The first record of a server is a handshake's, or an alert.
        if let (false, Some(first)) = (self.has_received, input.first())
            && !(20..=24).contains(first)
        {
            self.connection = None;
            return (0, Err(HandshakeFailure::not_tls(Peer::Server, input)));
        }
        if self.connection.is_none() {
            return (0, Err(secrets::internal(secrets::AFTER_FAILURE)));
        }
        let mut used = 0;
        while let Some(bytes) = drive::record_bytes(&input[used..]) {
            let record = &input[used..used + bytes];
            used += bytes;
            self.has_received = true;
            match self.take(record, out) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => return (used, Ok(Progress::Done)),
                Err(failure) => {
                    self.connection = None;
                    return (used, Err(failure));
                }
            }
        }
        (used, Ok(Progress::More))
    }

    fn take(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeFailure> {
        let Some(connection) = &mut self.connection else {
            return Err(secrets::internal(secrets::AFTER_FAILURE));
        };
        let waiting = &mut self.waiting;
        secrets::observe(&mut self.observed, || drive::give(&mut **connection, waiting, record, out))
            .map_err(|trouble| HandshakeFailure::of(Peer::Server, &trouble))
    }

    /// The server has closed its side before the handshake was complete.
    pub fn interrupted(&self) -> HandshakeFailure {
        HandshakeFailure::interrupted(Peer::Server, self.has_received)
    }

    /// The session, and what was agreed on.
    ///
    /// # Errors
    /// Rustls does not hand out the secrets.
    pub fn finish(self) -> Result<Established, HandshakeFailure> {
        let (complete, keys, kernel) = self.extract()?;
        // In TLS 1.2 the ticket is part of the handshake.
        let has_tickets = complete.version == Some(ProtocolVersion::TLSv1_3);
        let tickets = has_tickets.then(|| ClientTickets { connection: Box::new(kernel) });
        complete.establish(Side::Client, &keys, tickets)
    }

    pub(super) fn extract(self) -> Result<(Complete, ExtractedSecrets, Kernel), HandshakeFailure> {
        let Some(connection) = self.connection else {
            return Err(secrets::internal("a handshake that has failed was finished"));
        };
        let complete = Complete::of(&connection, self.observed);
        let (keys, kernel) = connection
            .dangerous_into_kernel_connection()
            .map_err(|error| secrets::internal(&error.to_string()))?;
        Ok((complete, keys, kernel))
    }
}

/// What rustls keeps of a connection for its tickets.
pub(super) type Kernel = KernelConnection<ClientConnectionData>;

/// Stores the tickets that a server sends after the handshake.
pub struct ClientTickets {
    pub(super) connection: Box<Kernel>,
}

impl ClientTickets {
    /// Stores them for the next connections: NewSessionTicket messages with their headers, as they come out of a record, or the
    /// body of one. One that cannot be used is dropped.
    pub fn store(&mut self, messages: &[u8]) {
        let mut rest = messages;
        while let Some((body, behind)) = ticket(rest) {
            // The connection goes on without a ticket as well as with one.
            let _ = self.connection.handle_new_session_ticket(body);
            rest = behind;
        }
    }
}

/// The body of the first message, and what is behind it. A body without header begins with the ticket's lifetime: its first byte is
/// 0 (a week is 604,800 seconds), so it is not mistaken for the type of a message.
//= https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
fn ticket(messages: &[u8]) -> Option<(&[u8], &[u8])> {
    const NEW_SESSION_TICKET: u8 = 4;
    match messages {
        [NEW_SESSION_TICKET, a, b, c, rest @ ..] => {
            rest.split_at_checked(u32::from_be_bytes([0, *a, *b, *c]) as usize)
        }
        [0, ..] => Some((messages, &[])),
        _ => None,
    }
}
