//! A TLS client on rustls, and certificates by rcgen to put in front of it.
//!
//! The client accepts every certificate and says which one it was shown. It blocks: tests run it on threads of their own, or in a
//! runtime with several.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

use crate::PATIENCE;

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate in PEM.
    pub cert: String,
    /// Its key in PEM.
    pub key: String,
    /// The certificate in DER.
    pub der: Vec<u8>,
}

impl Pair {
    /// A self-signed one for this name, valid since an hour ago, that ends `left` from now.
    pub fn new(name: &str, left: Duration) -> Self {
        Self::ending(name, SystemTime::now() + left)
    }

    /// One that ended an hour ago.
    pub fn expired(name: &str) -> Self {
        Self::ending(name, SystemTime::now() - HOUR)
    }

    fn ending(name: &str, end: SystemTime) -> Self {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        params.not_before = (SystemTime::now() - 2 * HOUR).into();
        params.not_after = end.into();
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        Self { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().to_vec() }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// A client that keeps tickets from connection to connection.
#[derive(Debug, Clone)]
pub struct TlsClient(Arc<ClientConfig>);

/// Whether a client keeps tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tickets {
    /// It does.
    Kept,
    /// Every handshake is a full one.
    Off,
}

impl TlsClient {
    /// Of TLS 1.2 and 1.3.
    pub fn new(tickets: Tickets) -> Self {
        Self::of(rustls::ALL_VERSIONS, tickets, &[])
    }

    /// Of these versions, offering these protocols.
    pub fn of(versions: &[&'static SupportedProtocolVersion], tickets: Tickets, alpn: &[&str]) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions).expect("versions of the provider");
        let verifier = Arc::new(AcceptsAll(provider));
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        if tickets == Tickets::Off {
            config.resumption = Resumption::disabled();
        }
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsConnection> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
        let mut connection = ClientConnection::new(self.0.clone(), name).expect("a configuration");
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(TlsConnection(StreamOwned::new(connection, stream)))
    }
}

/// A connection behind its handshake.
#[derive(Debug)]
pub struct TlsConnection(StreamOwned<ClientConnection, TcpStream>);

impl TlsConnection {
    /// The certificate that was shown, in DER. After a resumption it is that of the first connection.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().and_then(|all| all.first()).expect("a certificate").to_vec()
    }

    /// Whether the session of an earlier connection goes on.
    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// One GET on a connection that is kept; the body of a response with 200 and a Content-Length.
    pub fn get(&mut self, path: &str) -> io::Result<String> {
        String::from_utf8(self.get_bytes(path)?).map_err(io::Error::other)
    }

    /// The same, of any bytes.
    pub fn get_bytes(&mut self, path: &str) -> io::Result<Vec<u8>> {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let (true, Some(length)) = (head.starts_with("http/1.1 200 "), length) else {
            return Err(io::Error::other(format!("unexpected response: {head}")));
        };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(body)
    }

    /// One GET as the last request; all of the response, up to an end that was announced (close_notify).
    pub fn get_last(&mut self, path: &str) -> io::Result<Vec<u8>> {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        // The socket is full meanwhile, so that the end waits for room.
        std::thread::sleep(Duration::from_millis(200));
        let mut response = Vec::new();
        self.0.read_to_end(&mut response)?;
        Ok(response)
    }
}

/// Signatures are verified, names and issuers are not.
#[derive(Debug)]
struct AcceptsAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
