//! Certificates, settings, and the other ends.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ExtractedSecrets, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::super::drive::HEADER_BYTES;
use super::super::secrets::Complete;
use super::super::*;
use crate::certificates::{Certificate, CertificateFacts, CertificateSet};
use crate::record::Side;
use crate::tickets::TicketKeys;

pub(super) const NAME: &str = "a.example";

/// The kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    P256,
    P384,
    Rsa,
    Ed25519,
}

pub(super) const KINDS: [Kind; 4] = [Kind::P256, Kind::P384, Kind::Rsa, Kind::Ed25519];

fn key(kind: Kind) -> KeyPair {
    // One is enough for all tests: to find primes takes long.
    static RSA: OnceLock<KeyPair> = OnceLock::new();
    let algorithm = match kind {
        Kind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Kind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        Kind::Ed25519 => &rcgen::PKCS_ED25519,
        Kind::Rsa => {
            let key = RSA.get_or_init(|| KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
            return KeyPair::try_from(key.serialize_der()).unwrap();
        }
    };
    KeyPair::generate_for(algorithm).unwrap()
}

/// An authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities of the same name are taken for each other.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = key(Kind::P256);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    pub(super) fn certificate(&self, names: &[&str], kind: Kind) -> Certificate {
        self.certificate_of(names, kind, |_| {})
    }

    pub(super) fn certificate_of(
        &self,
        names: &[&str],
        kind: Kind,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let owned: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(owned.clone()).unwrap();
        change(&mut params);
        let key = key(kind);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let facts = CertificateFacts {
            names: owned,
            subject: "test".to_owned(),
            issuer: "test".to_owned(),
            not_before_s: 0,
            not_after_s: 0,
            key: format!("{kind:?}"),
            fingerprint: [0; 32],
            spki: [0; 32],
        };
        Certificate {
            chain: vec![certificate, self.certificate.clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            ocsp: None,
            facts,
        }
    }
}

pub(super) fn set(certificates: impl IntoIterator<Item = Certificate>) -> CertificateSet {
    CertificateSet { all: certificates.into_iter().map(Arc::new).collect(), challenges: Vec::new() }
}

pub(super) fn tickets() -> Arc<TicketKeys> {
    Arc::new(TicketKeys::generate(1_000).unwrap())
}

pub(super) fn server_settings() -> ServerSettings {
    ServerSettings { alpn: vec![Alpn::Http1], ..ServerSettings::default() }
}

/// A server with these settings and one ECDSA certificate.
pub(super) fn server(authority: &Authority, settings: &ServerSettings) -> ServerConfig {
    ServerConfig::new(settings, &set([authority.certificate(&[NAME], Kind::P256)]), &tickets()).unwrap()
}

/// What a plain rustls connection says about its traffic secrets.
#[derive(Debug, Default)]
pub(super) struct Heard(pub(super) Mutex<Vec<(String, Vec<u8>)>>);

impl rustls::KeyLog for Heard {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
    }
}

impl Heard {
    pub(super) fn last(&self, label: &str) -> Vec<u8> {
        let all = self.0.lock().unwrap();
        all.iter()
            .rev()
            .find(|(found, _)| found == label)
            .map(|(_, secret)| secret.clone())
            .unwrap_or_default()
    }
}

/// The settings of a plain rustls client, which resumes its sessions.
pub(super) struct Plain {
    pub(super) config: rustls::ClientConfig,
    pub(super) heard: Arc<Heard>,
}

pub(super) const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(super) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Plain {
    pub(super) fn new(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        shown: Option<&Certificate>,
    ) -> Plain {
        Plain::with(authority, versions, shown, |_| {})
    }

    pub(super) fn with(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        shown: Option<&Certificate>,
        change: impl FnOnce(&mut rustls::crypto::CryptoProvider),
    ) -> Plain {
        let mut provider = default_provider();
        change(&mut provider);
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
        let builder =
            builder.with_protocol_versions(versions).unwrap().with_root_certificates(authority.roots());
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => builder.with_client_auth_cert(shown.chain.clone(), shown.key.clone_key()).unwrap(),
        };
        let heard = Arc::new(Heard::default());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_secret_extraction = true;
        config.key_log = Arc::clone(&heard) as Arc<_>;
        Plain { config, heard }
    }

    pub(super) fn connect(&self, name: &str) -> rustls::ClientConnection {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        rustls::ClientConnection::new(Arc::new(self.config.clone()), name).unwrap()
    }
}

/// A plain rustls server.
pub(super) fn plain_server(
    certificate: &Certificate,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<Arc<RootCertStore>>,
) -> (Arc<rustls::ServerConfig>, Arc<Heard>) {
    let provider = Arc::new(default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config =
        builder.with_single_cert(certificate.chain.clone(), certificate.key.clone_key()).unwrap();
    let heard = Arc::new(Heard::default());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true;
    config.key_log = Arc::clone(&heard) as Arc<_>;
    (Arc::new(config), heard)
}

/// Pseudo-random numbers: where bytes are split.
pub(super) struct Splits(u64);

impl Splits {
    pub(super) fn new(seed: u64) -> Splits {
        Splits(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self, max: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        1 + (self.0 >> 33) as usize % max
    }
}

pub(super) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// The end of a handshake on our side as a server: what is left of the client's bytes.
pub(super) type ServerEnd = Result<Vec<u8>, HandshakeFailure>;

/// What was sent to the other end, and what it says of it.
pub(super) struct Answer {
    pub(super) alert: Option<rustls::Error>,
}

/// Drives our server against a client, whose bytes come in pieces; the client sends a request together with its last flight.
pub(super) fn serve(
    handshake: &mut ServerHandshake,
    client: &mut rustls::ClientConnection,
    splits: &mut Splits,
) -> (ServerEnd, Answer) {
    client.writer().write_all(REQUEST).unwrap();
    let (mut inbox, mut answer) = (Vec::new(), Answer { alert: None });
    for _ in 0..10 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let mut out = Vec::new();
        let mut end = None;
        let mut rest = &flight[..];
        while !rest.is_empty() && end.is_none() {
            let (piece, behind) = rest.split_at(splits.next(400).min(rest.len()));
            rest = behind;
            inbox.extend_from_slice(piece);
            let (used, result) = handshake.advance(&inbox, &mut out);
            inbox.drain(..used);
            end = match result {
                Ok(Progress::More) => {
                    assert!(inbox.len() < HEADER_BYTES || !is_whole(&inbox), "a whole record was left");
                    None
                }
                Ok(Progress::Done) => Some(Ok(())),
                Err(failure) => Some(Err(failure)),
            };
        }
        inbox.extend_from_slice(rest);
        deliver(client, &out, &mut answer);
        if let Some(end) = end {
            return (end.map(|()| inbox), answer);
        }
    }
    (Err(handshake.interrupted()), answer)
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

fn deliver(client: &mut rustls::ClientConnection, mut bytes: &[u8], answer: &mut Answer) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        if let Err(error) = client.process_new_packets() {
            answer.alert.get_or_insert(error);
            return;
        }
    }
}

/// Both sides have the same keys, sequence numbers and traffic secrets, and nothing of the request was opened.
pub(super) fn assert_same_secrets(
    side: Side,
    ours: (&Complete, &ExtractedSecrets),
    theirs: &ExtractedSecrets,
    heard: &Heard,
) {
    let (complete, keys) = ours;
    assert_eq!(shown(&keys.rx.1), shown(&theirs.tx.1));
    assert_eq!(shown(&keys.tx.1), shown(&theirs.rx.1));
    assert_eq!(keys.tx.0, theirs.rx.0, "all that we have sent was read");
    let (sealing, opening) = complete.secrets(side);
    let (client, server) = (heard.last("CLIENT_TRAFFIC_SECRET_0"), heard.last("SERVER_TRAFFIC_SECRET_0"));
    let (ours, theirs) = match side {
        Side::Server => (server, client),
        Side::Client => (client, server),
    };
    assert_eq!((sealing, opening), (&ours[..], &theirs[..]));
}

fn shown(secrets: &rustls::ConnectionTrafficSecrets) -> (&'static str, Vec<u8>, Vec<u8>) {
    use rustls::ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    match secrets {
        Aes128Gcm { key, iv } => ("aes-128", key.as_ref().to_vec(), iv.as_ref().to_vec()),
        Aes256Gcm { key, iv } => ("aes-256", key.as_ref().to_vec(), iv.as_ref().to_vec()),
        Chacha20Poly1305 { key, iv } => ("chacha", key.as_ref().to_vec(), iv.as_ref().to_vec()),
        _ => panic!("another cipher"),
    }
}

/// Drives our client against a plain server, whose bytes come in pieces. Gives what is left of the server's bytes.
pub(super) fn connect(
    handshake: &mut ClientHandshake,
    first: Vec<u8>,
    server: &mut rustls::ServerConnection,
    splits: &mut Splits,
) -> Result<Vec<u8>, HandshakeFailure> {
    let (mut inbox, mut out) = (Vec::new(), first);
    let mut is_done = false;
    for _ in 0..10 {
        let mut sent = &std::mem::take(&mut out)[..];
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
            let _ = server.process_new_packets();
        }
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut rest = &flight[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(splits.next(400).min(rest.len()));
            rest = behind;
            inbox.extend_from_slice(piece);
            if is_done {
                continue;
            }
            let (used, result) = handshake.advance(&inbox, &mut out);
            inbox.drain(..used);
            is_done = result? == Progress::Done;
        }
        if is_done && out.is_empty() {
            return Ok(inbox);
        }
    }
    Err(handshake.interrupted())
}

/// Reads all plaintext that has arrived.
pub(super) fn plaintext(connection: &mut rustls::ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The connection has no end yet: the rest is "would block".
    let _ = connection.reader().read_to_end(&mut bytes);
    bytes
}
