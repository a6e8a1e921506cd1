//! The side of a server.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoClientAuth, NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::{ExtractedSecrets, RootCertStore};

use super::drive::{self, Trouble};
use super::failure::Peer;
use super::pick::{CertificateId, Picker};
use super::provider::{self, Preference};
use super::secrets::{self, Complete, Observed, SecretsLog};
use super::{Alpn, Established, FailureKind, HandshakeFailure, KeyLogFile, MinVersion, Profile, Progress};
use crate::certificates::CertificateSet;
use crate::client_hello::{self, Parsed};
use crate::record::Side;
use crate::tickets::TicketKeys;

/// Browsers open several connections at once, and use a ticket once: two let the second connection of a visit resume as well. A
/// ticket costs about 5 microseconds.
const TICKETS: usize = 2;

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
    /// For clients whose processor computes AES well.
    aes: Arc<rustls::ServerConfig>,
    /// For those that put ChaCha20 first.
    chacha: Arc<rustls::ServerConfig>,
    picker: Arc<Picker>,
}

impl ServerConfig {
    /// Of a listener with these certificates and ticket keys.
    ///
    /// # Errors
    /// One line: a key that cannot be used.
    pub fn new(
        settings: &ServerSettings,
        certificates: &CertificateSet,
        tickets: &Arc<TicketKeys>,
    ) -> Result<ServerConfig, String> {
        let provider = provider::provider(Preference::Aes);
        let verifier = client_verifier(&settings.client_certificates, &provider)?;
        let picker = Arc::new(Picker::new(certificates, &provider)?);
        let ticketer = tickets.producer(context(&settings.client_certificates));
        let key_log = Arc::new(SecretsLog::new(settings.key_log.clone()));
        let versions = provider::versions(settings.min_version, settings.profile);
        let mut protocols: Vec<Vec<u8>> = settings.alpn.iter().map(|alpn| alpn.name().to_vec()).collect();
        if !certificates.challenges.is_empty() {
            protocols.push(Alpn::AcmeChallenge.name().to_vec());
        }
        let config = |preference| {
            let builder = rustls::ServerConfig::builder_with_provider(provider::provider(preference));
            let builder = builder.with_protocol_versions(versions).map_err(|error| error.to_string())?;
            let builder = builder.with_client_cert_verifier(Arc::clone(&verifier));
            let mut config = builder.with_cert_resolver(Arc::clone(&picker) as Arc<_>);
            config.alpn_protocols.clone_from(&protocols);
            config.ticketer = Arc::clone(&ticketer);
            // Tickets hold all of a session: it costs no memory here, and is resumed on any shard and after a restart.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = TICKETS;
            config.key_log = Arc::clone(&key_log) as Arc<_>;
            config.enable_secret_extraction = true;
            // A request in early data can be replayed by anyone who has seen it (RFC 8470).
            config.max_early_data_size = 0;
            config.ignore_client_order = true;
            Ok::<_, String>(Arc::new(config))
        };
        Ok(ServerConfig { aes: config(Preference::Aes)?, chacha: config(Preference::ChaCha)?, picker })
    }

    /// The certificate for clients that ask for this name, in lower case. An address is no name, and leads to the certificate for
    /// clients of that address that ask for none.
    pub fn certificate_of(&self, name: &str) -> CertificateId {
        self.picker.certificate_of(name)
    }

    /// The settings for a client, by its first record.
    fn for_client(&self, first_record: &[u8]) -> Result<&Arc<rustls::ServerConfig>, OldVersion> {
        // In several records, or refused by rustls in a moment.
        let Ok(Parsed::Complete(hello, _)) = client_hello::parse(first_record) else { return Ok(&self.aes) };
        if hello.legacy_version() < TLS12 && hello.versions().next().is_none() {
            return Err(OldVersion(hello.legacy_version()));
        }
        match provider::preference(hello.ciphers()) {
            Preference::Aes => Ok(&self.aes),
            Preference::ChaCha => Ok(&self.chacha),
        }
    }
}

const TLS12: u16 = 0x0303;

/// The newest version of a client from before TLS 1.2. Rustls would find fault with the extensions that it does not have.
struct OldVersion(u16);

impl OldVersion {
    fn refuse(&self, out: &mut Vec<u8>) -> HandshakeFailure {
        // In the version that the client speaks, or it could not read it.
        let [major, minor] = self.0.to_be_bytes();
        out.extend_from_slice(&[ALERT, major, minor, 0, 2, FATAL, PROTOCOL_VERSION]);
        let newest = match minor {
            2 => "TLS 1.1",
            1 => "TLS 1.0",
            _ => "SSL 3",
        };
        let reason = format!("no protocol version in common with the client: {newest} is its newest");
        HandshakeFailure::new(FailureKind::NothingInCommon, reason)
    }
}

/// A type of record, a level, and an alert.
const ALERT: u8 = 21;
const FATAL: u8 = 2;
const PROTOCOL_VERSION: u8 = 70;

fn client_verifier(
    wanted: &ClientCertificates,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder =
        |roots| WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
    let built = match wanted {
        ClientCertificates::Off => return Ok(Arc::new(NoClientAuth)),
        ClientCertificates::Optional(roots) => builder(roots).allow_unauthenticated().build(),
        ClientCertificates::Required(roots) => builder(roots).build(),
    };
    built.map_err(|error| format!("no authority to check clients by: {error}"))
}

/// A digest of how client certificates are judged: sessions are resumed only where this is the same.
fn context(wanted: &ClientCertificates) -> [u8; 32] {
    let (mode, roots) = match wanted {
        ClientCertificates::Off => (0, None),
        ClientCertificates::Optional(roots) => (1, Some(roots)),
        ClientCertificates::Required(roots) => (2, Some(roots)),
    };
    let mut anchors: Vec<_> = roots.map(|roots| roots.roots.iter().collect()).unwrap_or_default();
    // The order in a file has no meaning.
    anchors.sort_by_key(|anchor| (anchor.subject.as_ref(), anchor.subject_public_key_info.as_ref()));
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&[mode]);
    for anchor in anchors {
        let constraints: &[u8] = anchor.name_constraints.as_ref().map_or(&[], AsRef::as_ref);
        for part in [anchor.subject.as_ref(), anchor.subject_public_key_info.as_ref(), constraints] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    let mut context = [0; 32];
    context.copy_from_slice(hash.finish().as_ref());
    context
}

/// A handshake under way.
pub struct ServerHandshake {
    state: State,
    observed: Observed,
    /// Records whose handshake message is not complete.
    waiting: Vec<u8>,
}

enum State {
    /// No record has arrived: nothing is held for rustls yet.
    Fresh(ServerConfig),
    Running(Box<UnbufferedServerConnection>),
    Failed,
}

impl ServerHandshake {
    /// Begins one; no bytes were read.
    pub fn new(config: &ServerConfig) -> ServerHandshake {
        ServerHandshake {
            state: State::Fresh(config.clone()),
            observed: Observed::default(),
            waiting: Vec::new(),
        }
    }

    /// The same for a client that has connected to this address: if it asks for no name, it gets the certificate of the address.
    pub fn at(config: &ServerConfig, local_address: IpAddr) -> ServerHandshake {
        let mut handshake = ServerHandshake::new(config);
        handshake.observed.local_address = Some(local_address);
        handshake
    }

    /// Takes whole records off the front of `input` until more are needed or the handshake is complete, and appends to `out` what
    /// is to be sent. Says how many bytes were used, also when it fails.
    pub fn advance(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, HandshakeFailure>) {
        if let (State::Fresh(_), Some(first)) = (&self.state, input.first())
            && *first != client_hello::HANDSHAKE
        {
            self.state = State::Failed;
            return (0, Err(HandshakeFailure::not_tls(Peer::Client, input)));
        }
        if let State::Failed = self.state {
            return (0, Err(secrets::internal(secrets::AFTER_FAILURE)));
        }
        let mut used = 0;
        while let Some(bytes) = drive::record_bytes(&input[used..]) {
            let record = &input[used..used + bytes];
            used += bytes;
            match self.take(record, out) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => return (used, Ok(Progress::Done)),
                Err(failure) => {
                    self.state = State::Failed;
                    return (used, Err(failure));
                }
            }
        }
        (used, Ok(Progress::More))
    }

    fn take(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeFailure> {
        if let State::Fresh(config) = &self.state {
            let config = config.for_client(record).map_err(|old| old.refuse(out))?;
            let connection = UnbufferedServerConnection::new(Arc::clone(config));
            let connection = connection.map_err(|error| secrets::internal(&error.to_string()))?;
            self.state = State::Running(Box::new(connection));
        }
        let State::Running(connection) = &mut self.state else {
            return Err(secrets::internal(secrets::AFTER_FAILURE));
        };
        let waiting = &mut self.waiting;
        secrets::observe(&mut self.observed, || drive::give(&mut **connection, waiting, record, out))
            .map_err(|trouble| failure(&trouble))
    }

    /// The client has closed its side before the handshake was complete.
    pub fn interrupted(&self) -> HandshakeFailure {
        HandshakeFailure::interrupted(Peer::Client, matches!(self.state, State::Running(_)))
    }

    /// The session, and what was agreed on.
    ///
    /// # Errors
    /// Rustls does not hand out the secrets.
    pub fn finish(self) -> Result<Established, HandshakeFailure> {
        let (complete, keys) = self.extract()?;
        complete.establish(Side::Server, &keys, None)
    }

    pub(super) fn extract(self) -> Result<(Complete, ExtractedSecrets), HandshakeFailure> {
        let State::Running(connection) = self.state else {
            return Err(secrets::internal("a handshake that has not begun was finished"));
        };
        let complete = Complete::of(&connection, self.observed);
        let (keys, _) = connection
            .dangerous_into_kernel_connection()
            .map_err(|error| secrets::internal(&error.to_string()))?;
        Ok((complete, keys))
    }
}

fn failure(trouble: &Trouble) -> HandshakeFailure {
    match trouble {
        // The only error of this kind on this side: the picker has none.
        Trouble::Rustls(rustls::Error::General(text)) if text.contains("certificate") => {
            HandshakeFailure::new(
                FailureKind::UnknownName,
                "there is no certificate for the name that the client asks for",
            )
        }
        other => HandshakeFailure::of(Peer::Client, other),
    }
}
