//! A session of ours with rustls at its other end.

use std::sync::{Arc, LazyLock, Mutex};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, KeyLog, ProtocolVersion,
    RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::*;

static KEY_PAIR: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.der().clone(), made.signing_key.serialize_der())
});

/// The traffic secrets of a handshake.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
    }
}

impl Secrets {
    fn of(&self, label: &str) -> Vec<u8> {
        let secrets = self.0.lock().unwrap();
        secrets.iter().find(|(of, _)| of == label).map(|(_, secret)| secret.clone()).unwrap_or_default()
    }
}

fn rustls_suite(version: Version, suite: Suite) -> SupportedCipherSuite {
    use aws_lc_rs::cipher_suite::*;
    match (version, suite) {
        (Version::Tls12, Suite::Aes128Gcm) => TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        (Version::Tls12, Suite::Aes256Gcm) => TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        (Version::Tls12, Suite::ChaCha20Poly1305) => TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        (Version::Tls13, Suite::Aes128Gcm) => TLS13_AES_128_GCM_SHA256,
        (Version::Tls13, Suite::Aes256Gcm) => TLS13_AES_256_GCM_SHA384,
        (Version::Tls13, Suite::ChaCha20Poly1305) => TLS13_CHACHA20_POLY1305_SHA256,
    }
}

/// A server and a client of rustls, before their handshake.
fn connections(version: Version, suite: Suite, tickets: usize, key_log: &Arc<Secrets>) -> [Connection; 2] {
    let (certificate, key) = &*KEY_PAIR;
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![rustls_suite(version, suite)],
        ..aws_lc_rs::default_provider()
    });
    let versions = match version {
        Version::Tls12 => [&rustls::version::TLS12],
        Version::Tls13 => [&rustls::version::TLS13],
    };
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key.clone().into()))
        .unwrap();
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = tickets;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    client.key_log = Arc::clone(key_log) as Arc<dyn KeyLog>;
    let name = ServerName::try_from("localhost").unwrap();
    [
        Connection::Server(ServerConnection::new(Arc::new(server)).unwrap()),
        Connection::Client(ClientConnection::new(Arc::new(client), name).unwrap()),
    ]
}

/// What a connection of rustls has to send.
fn outgoing(connection: &mut Connection) -> Vec<u8> {
    let mut wire = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut wire).unwrap();
    }
    wire
}

fn incoming(connection: &mut Connection, mut wire: &[u8]) -> Result<(), rustls::Error> {
    while !wire.is_empty() {
        connection.read_tls(&mut wire).unwrap();
        connection.process_new_packets()?;
    }
    Ok(())
}

fn key_and_iv(secrets: &ConnectionTrafficSecrets) -> (&[u8], &[u8]) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => unreachable!("no other suite was offered"),
    }
}

/// rustls, behind a handshake.
pub(super) struct Peer {
    connection: Connection,
}

impl Peer {
    /// A session of ours on `side`, rustls on the other. A server of rustls sends so many tickets behind it.
    pub(super) fn new(version: Version, suite: Suite, side: Side, tickets: usize) -> (End, Peer) {
        let key_log = Arc::new(Secrets::default());
        let [mut server, mut client] = connections(version, suite, tickets, &key_log);
        while server.is_handshaking() || client.is_handshaking() {
            incoming(&mut server, &outgoing(&mut client)).unwrap();
            // What a server sends behind its handshake is left to the session.
            if client.is_handshaking() {
                incoming(&mut client, &outgoing(&mut server)).unwrap();
            }
        }
        let (ours, mut connection) = match side {
            Side::Server => (server, client),
            Side::Client => (client, server),
        };
        connection.set_buffer_limit(None);
        let expected = match version {
            Version::Tls12 => ProtocolVersion::TLSv1_2,
            Version::Tls13 => ProtocolVersion::TLSv1_3,
        };
        assert_eq!(ours.protocol_version(), Some(expected));
        let secrets = ours.dangerous_extract_secrets().unwrap();
        let (of_client, of_server) =
            (key_log.of("CLIENT_TRAFFIC_SECRET_0"), key_log.of("SERVER_TRAFFIC_SECRET_0"));
        let (opening, sealing) = match side {
            Side::Server => (of_client, of_server),
            Side::Client => (of_server, of_client),
        };
        fn traffic<'a>(
            (sequence, secrets): &'a (u64, ConnectionTrafficSecrets),
            secret: &'a [u8],
        ) -> Traffic<'a> {
            let (key, iv) = key_and_iv(secrets);
            Traffic { key, iv, sequence: *sequence, secret }
        }
        let session = Session::new(
            version,
            suite,
            side,
            &traffic(&secrets.rx, &opening),
            &traffic(&secrets.tx, &sealing),
        );
        (End::new(session), Peer { connection })
    }

    /// Takes records, in pieces of these lengths, over and over, and returns the data.
    pub(super) fn take(&mut self, wire: &[u8], pieces: &[usize]) -> Result<Vec<u8>, rustls::Error> {
        use std::io::Read;
        let (mut rest, mut data) = (wire, Vec::new());
        for &len in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(len.clamp(1, rest.len()));
            rest = behind;
            let mut unread = piece;
            while !unread.is_empty() {
                self.connection.read_tls(&mut unread).unwrap();
                let taken = self.connection.process_new_packets().map(|_| ());
                // The end of the stream, or that there is no more yet: both say that all was read.
                let _ = self.connection.reader().read_to_end(&mut data);
                taken?;
            }
        }
        Ok(data)
    }

    pub(super) fn send(&mut self, data: &[u8]) -> Vec<u8> {
        use std::io::Write;
        self.connection.writer().write_all(data).unwrap();
        self.pending()
    }

    pub(super) fn pending(&mut self) -> Vec<u8> {
        outgoing(&mut self.connection)
    }

    pub(super) fn update(&mut self) -> Vec<u8> {
        match &mut self.connection {
            Connection::Client(client) => client.refresh_traffic_keys(),
            Connection::Server(server) => server.refresh_traffic_keys(),
        }
        .unwrap();
        self.pending()
    }

    pub(super) fn close(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        self.pending()
    }

    pub(super) fn has_closed(&mut self) -> bool {
        self.connection.process_new_packets().unwrap().peer_has_closed()
    }
}
