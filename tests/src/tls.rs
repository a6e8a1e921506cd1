//! TLS around the proxy: certificates, clients and servers on rustls, and a client that makes records by hand.
//!
//! Owns [`Authority`] and [`Identity`] (by rcgen), [`Client`] (an HTTP client over TLS that tells a proper end from a cut),
//! [`serve`] (TLS in front of any origin of these tests) and [`Records`], which seals whatever a test wants sealed. Record keys
//! come from the secrets that rustls logs and are expanded here, so that nothing is shared with the proxy's own record layer.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{aead, hkdf};
pub use rcgen::date_time_ymd as date;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SignatureAlgorithm,
};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, KeyLog, ProtocolVersion,
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs as provider},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    process::Command,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    PATIENCE,
    proxy::Proxy,
    wire::{Reader, Response},
    within,
};

/// The name that clients ask for.
pub const NAME: &str = "a.example";

/// Records of TLS.
pub mod kind {
    /// ChangeCipherSpec.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// Alerts.
    pub const ALERT: u8 = 21;
    /// Handshake messages.
    pub const HANDSHAKE: u8 = 22;
    /// Application data.
    pub const DATA: u8 = 23;
}

/// An authority that issues certificates, and a directory for their files.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    files: TempDir,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two have one name: a certificate of another one has an unknown issuer, not a wrong signature.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {} of the tests", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        Self { issuer: issuer.expect("a certificate"), files: TempDir::new().expect("a directory") }
    }

    /// A certificate for these names, with an ECDSA key.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
    }

    /// The same with another kind of key, and changes to what it says.
    pub fn issue_with(
        &self,
        names: &[&str],
        key: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let (params, key) = parts(names, key, change);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.identity(cert.der().clone(), &cert.pem(), &key)
    }

    /// A certificate that is its own authority.
    pub fn self_signed(&self, names: &[&str]) -> Identity {
        let (params, key) = parts(names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
        let cert = params.self_signed(&key).expect("a certificate");
        self.identity(cert.der().clone(), &cert.pem(), &key)
    }

    fn identity(&self, cert: CertificateDer<'static>, pem: &str, key: &KeyPair) -> Identity {
        let (cert_file, key_file) = (self.file(pem), self.file(&key.serialize_pem()));
        Identity { cert, cert_file, key_file, key: key.serialize_der() }
    }

    /// A file of its own certificate, to trust it by.
    pub fn ca_file(&self) -> PathBuf {
        self.file(&self.issuer.pem())
    }

    fn file(&self, text: &str) -> PathBuf {
        let nth = std::fs::read_dir(self.files.path()).expect("our directory").count();
        let path = self.files.path().join(format!("{nth}.pem"));
        std::fs::write(&path, text).expect("a writable directory");
        path
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        roots
    }

    /// What a client has that trusts this authority.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(versions, provider::default_provider())
    }

    /// The same with these suites and groups.
    pub fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        provider: CryptoProvider,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(versions).expect("versions of the provider");
        let mut config = builder.with_root_certificates(self.roots()).with_no_client_auth();
        config.enable_secret_extraction = true;
        config
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn parts(
    names: &[&str],
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names and addresses");
    params.distinguished_name.push(DnType::CommonName, "a server of the tests");
    change(&mut params);
    (params, KeyPair::generate_for(algorithm).expect("a key"))
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub cert: CertificateDer<'static>,
    /// Its file, in PEM.
    pub cert_file: PathBuf,
    /// The file of its key.
    pub key_file: PathBuf,
    key: Vec<u8>,
}

impl Identity {
    /// What a server has that shows this certificate.
    pub fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions of the provider");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = builder.with_no_client_auth().with_single_cert(vec![self.cert.clone()], key);
        config.expect("a pair")
    }

    /// The SHA-256 of its public key in Base64, by which browsers name it.
    pub fn key_digest(&self) -> String {
        let key = KeyPair::try_from(&*self.key).expect("our key");
        let key = rcgen::PublicKeyData::subject_public_key_info(&key);
        base64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key).as_ref())
    }

    /// The flags of a listener that shows it.
    pub fn flags(&self) -> [&str; 4] {
        [
            "--tls-cert",
            self.cert_file.to_str().expect("plain text"),
            "--tls-key",
            self.key_file.to_str().expect("plain text"),
        ]
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().chain(&[0; 2]).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        for nth in 0..4 {
            let is_padding = nth > three.len();
            text.push(if is_padding { '=' } else { char::from(DIGITS[bits >> (18 - 6 * nth) & 63]) });
        }
    }
    text
}

/// What a client has that offers these protocols by ALPN.
pub fn offering(config: &ClientConfig, protocols: &[&str]) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A proxy with this configuration.
pub async fn configured(text: &str) -> Proxy {
    let config = crate::proxy::config_file(".toml", text);
    let mut command = Command::new(crate::proxy::binary().await);
    command.arg("--config").arg(config.path());
    Proxy::spawn(command, Some(config)).await
}

/// A proxy with TLS and one shard in front of this origin, and the authority of its certificate.
pub async fn proxy_to(origin: SocketAddr, flags: &[&str]) -> (Proxy, Authority) {
    let authority = Authority::new();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    let upstream = format!("http://{origin}");
    let fixed = ["--listen-tls", "127.0.0.1:0", "--upstream", &upstream];
    let shards: &[&str] = if flags.contains(&"--shards") { &[] } else { &["--shards", "1"] };
    let proxy = Proxy::start(&[&fixed, shards, &identity.flags()[..], flags].concat()).await;
    (proxy, authority)
}

/// An HTTP client over TLS.
#[derive(Debug)]
pub struct Client {
    reader: Reader<TlsStream<TcpStream>>,
}

impl Client {
    /// Connects and asks for [`NAME`].
    pub async fn connect(address: SocketAddr, config: &ClientConfig) -> Self {
        Self::try_connect(address, config, NAME).await.expect("a handshake")
    }

    /// Connects and asks for this name; an error if the handshake fails.
    pub async fn try_connect(address: SocketAddr, config: &ClientConfig, name: &str) -> io::Result<Self> {
        let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
        Self::over(stream, config, name).await
    }

    /// The same with a receive buffer of about `bytes`.
    pub async fn connect_with_window(address: SocketAddr, config: &ClientConfig, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        let stream = within("connect", socket.connect(address)).await.expect("the proxy accepts");
        Self::over(stream, config, NAME).await.expect("a handshake")
    }

    /// The handshake on a connection.
    pub async fn over(stream: TcpStream, config: &ClientConfig, name: &str) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connecting = TlsConnector::from(Arc::new(config.clone())).connect(name, stream);
        Ok(Self { reader: Reader::new(within("a handshake", connecting).await?) })
    }

    /// The connection as rustls sees it.
    pub fn tls(&mut self) -> &ClientConnection {
        self.reader.stream().get_ref().1
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the proxy takes the bytes");
    }

    /// Sends these bytes to a proxy that may have hung up.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("sending", async {
            self.reader.stream().write_all(bytes.as_ref()).await?;
            self.reader.stream().flush().await
        })
        .await
    }

    /// Has the next bytes sealed with another key, and asks for the same.
    pub fn refresh_keys(&mut self) {
        self.reader.stream().get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
    }

    /// Sends a bodyless request and reads the response; the connection stays open.
    pub async fn ask(&mut self, method: &str, target: &str) -> Response {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n")).await;
        self.answer_to(method).await
    }

    /// Reads a final response; an error if it is cut, malformed or does not come.
    pub async fn response(&mut self, method: &str) -> io::Result<Response> {
        timeout(PATIENCE, self.reader.response(method)).await?
    }

    /// Reads a final response.
    pub async fn answer_to(&mut self, method: &str) -> Response {
        self.response(method).await.expect("a whole response")
    }

    /// The next head.
    pub async fn head(&mut self) -> crate::wire::Head {
        within("a head", self.reader.head()).await.expect("a head")
    }

    /// Waits for the proper end of the connection (close_notify), without another byte.
    pub async fn assert_closed(&mut self) {
        let end = within("the end", self.reader.some()).await;
        assert!(matches!(end, Ok(None)), "instead of close_notify: {end:?}");
    }

    /// Ends our side by close_notify alone: no FIN follows.
    pub async fn announce_end(&mut self) {
        self.reader.stream().get_mut().1.send_close_notify();
        within("sending", self.reader.stream().flush()).await.expect("the proxy takes it");
    }

    /// Ends our side: close_notify, then FIN.
    pub async fn half_close(&mut self) {
        self.reader.stream().shutdown().await.expect("shutdown");
    }

    /// The stream behind it, of which nothing was read ahead.
    pub fn into_stream(self) -> TlsStream<TcpStream> {
        let (stream, ahead) = self.reader.into_parts();
        assert!(ahead.is_empty(), "more than was expected");
        stream
    }
}

/// How a server over TLS passes the end of the origin behind it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By close_notify.
    Proper,
    /// By FIN alone.
    Cut,
    /// By close_notify, and before it with another key for each of the first pieces of a response, in both directions.
    ProperWithNewKeys,
}

/// A server over TLS; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many handshakes were completed, and how many of them were resumptions.
    pub handshakes: Arc<Mutex<(usize, usize)>>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// TLS in front of an origin, which gets the bytes in clear text on a connection of its own.
pub async fn serve(origin: SocketAddr, config: ServerConfig, end: End) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback");
    let address = listener.local_addr().expect("bound");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshakes = Arc::new(Mutex::new((0, 0)));
    let counted = handshakes.clone();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            connections.spawn(async move {
                let secure = acceptor.accept(stream).await?;
                let is_resumed = secure.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                {
                    let mut counted = counted.lock().expect("no panic while it is held");
                    counted.0 += 1;
                    counted.1 += usize::from(is_resumed);
                }
                let plain = TcpStream::connect(origin).await?;
                plain.set_nodelay(true)?;
                pass_on(secure, plain, end).await
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Server { address, handshakes, accepting }
}

async fn pass_on(
    mut secure: tokio_rustls::server::TlsStream<TcpStream>,
    mut plain: TcpStream,
    end: End,
) -> io::Result<()> {
    match end {
        End::Proper => return tokio::io::copy_bidirectional(&mut secure, &mut plain).await.map(drop),
        End::ProperWithNewKeys => return pass_on_with_new_keys(secure, plain).await,
        End::Cut => {}
    }
    let (mut from_client, mut to_client) = tokio::io::split(secure);
    let (mut from_origin, mut to_origin) = plain.split();
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_origin) => {}
        _ = tokio::io::copy(&mut from_origin, &mut to_client) => { to_client.flush().await?; }
    }
    let stream = from_client.unsplit(to_client).into_inner().0;
    // What was sent arrives, and behind it nothing but FIN.
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut stream = TcpStream::from_std({
        stream.set_nonblocking(true)?;
        stream
    })?;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    Ok(())
}

async fn pass_on_with_new_keys(
    mut secure: tokio_rustls::server::TlsStream<TcpStream>,
    mut plain: TcpStream,
) -> io::Result<()> {
    /// Each is answered with an update, of which rustls permits 32 without data between them.
    const UPDATES_MAX: usize = 25;
    let (mut request, mut response) = (vec![0; 32 * 1024], vec![0; 100_000]);
    let mut updates = 0;
    loop {
        tokio::select! {
            count = secure.read(&mut request) => match count? {
                0 => return secure.shutdown().await,
                count => {
                    updates = 0;
                    plain.write_all(&request[..count]).await?;
                }
            },
            count = plain.read(&mut response) => match count? {
                0 => return secure.shutdown().await,
                count => {
                    if updates < UPDATES_MAX {
                        secure.get_mut().1.refresh_traffic_keys().map_err(io::Error::other)?;
                        updates += 1;
                    }
                    secure.write_all(&response[..count]).await?;
                    secure.flush().await?;
                }
            },
        }
    }
}

/// The first message of a handshake: one record.
pub fn client_hello(config: &ClientConfig) -> Vec<u8> {
    let name = ServerName::try_from(NAME).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config.clone()), name).expect("a configuration");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("room");
    hello
}

/// The content of a record in records of so many bytes.
pub fn in_records_of(size: usize, record: &[u8]) -> Vec<u8> {
    let kind = record[0];
    record[5..].chunks(size).flat_map(|piece| [&header(kind, piece.len())[..], piece].concat()).collect()
}

/// A client that seals and opens records itself.
pub struct Records {
    stream: TcpStream,
    received: Vec<u8>,
    /// The direction from us to the proxy.
    pub seal: Keys,
    /// The direction from the proxy to us.
    pub open: Keys,
}

/// The keys of one direction.
pub struct Keys {
    algorithm: &'static aead::Algorithm,
    digest: hkdf::Algorithm,
    version: ProtocolVersion,
    secret: Vec<u8>,
    key: aead::LessSafeKey,
    iv: Vec<u8>,
    /// The number of the next record.
    pub sequence: u64,
}

impl Records {
    /// Connects and shakes hands.
    pub async fn connect(address: SocketAddr, config: &ClientConfig) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
        Self::over(stream, config).await
    }

    /// The handshake on a connection.
    pub async fn over(stream: TcpStream, config: &ClientConfig) -> Self {
        Self::over_changed(stream, config, |hello| hello).await
    }

    /// The same with another spelling of the first record.
    pub async fn over_changed(
        mut stream: TcpStream,
        config: &ClientConfig,
        change: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let log = Arc::new(Log::default());
        let mut config = config.clone();
        config.key_log = log.clone();
        let name = ServerName::try_from(NAME).expect("a name");
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let mut bytes = vec![0; 32 * 1024];
        let mut change = Some(change);
        loop {
            let mut out = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut out).expect("room");
            }
            if let Some(change) = change.take() {
                out = change(out);
            }
            within("sending", stream.write_all(&out)).await.expect("the proxy takes the bytes");
            if !connection.is_handshaking() {
                break;
            }
            let count = within("the handshake", stream.read(&mut bytes)).await.expect("bytes");
            assert!(count > 0, "the proxy closed within the handshake");
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                connection.read_tls(&mut rest).expect("room");
                connection.process_new_packets().expect("a good handshake");
            }
        }
        let version = connection.protocol_version().expect("behind the handshake");
        let suite = connection.negotiated_cipher_suite().expect("behind the handshake").suite();
        let secrets = connection.dangerous_extract_secrets().expect("permitted");
        let log = log.0.lock().expect("no panic while it is held");
        let of = |label: &str| log.iter().find(|(found, _)| found == label).map(|(_, secret)| secret.clone());
        let seal = Keys::new(version, suite, of("CLIENT_TRAFFIC_SECRET_0"), secrets.tx);
        let open = Keys::new(version, suite, of("SERVER_TRAFFIC_SECRET_0"), secrets.rx);
        drop(log);
        Self { stream, received: Vec::new(), seal, open }
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("sending", self.stream.write_all(bytes)).await
    }

    /// Sends one record.
    pub async fn send(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let record = self.seal.seal(kind, content, 0);
        self.send_bytes(&record).await
    }

    /// Sends application data in one record.
    pub async fn data(&mut self, content: impl AsRef<[u8]>) {
        self.send(kind::DATA, content.as_ref()).await.expect("the proxy takes the bytes");
    }

    /// Announces another key for what we send; `1` asks for the same.
    pub async fn update_key(&mut self, request: u8) -> io::Result<()> {
        self.send(kind::HANDSHAKE, &[24, 0, 0, 1, request]).await?;
        self.seal.update();
        Ok(())
    }

    /// The next record: its type and content; `None` at the end of the connection.
    pub async fn next(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some(header) = self.received.first_chunk::<5>() {
                let bytes = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
                if self.received.len() >= bytes {
                    let record: Vec<_> = self.received.drain(..bytes).collect();
                    return self.open.open(&record).map(Some);
                }
            }
            let count = within("a record", self.stream.read_buf(&mut self.received)).await?;
            if count == 0 {
                let is_whole = self.received.is_empty();
                return if is_whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next record with data; follows updates of the key.
    pub async fn next_data(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.next().await? {
                Some((kind::DATA, content)) => return Ok(content),
                Some((kind::HANDSHAKE, message)) if message.first() == Some(&24) => self.open.update(),
                Some((kind::HANDSHAKE, _)) => {}
                other => return Err(io::Error::other(format!("instead of data: {other:?}"))),
            }
        }
    }

    /// Reads data until they contain `end`.
    pub async fn data_until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(end) {
            all.extend(self.next_data().await.unwrap_or_else(|error| {
                panic!("{error}, behind {:?}", String::from_utf8_lossy(&all));
            }));
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// The alert that the proxy ends the connection with; `None` if it ends without one.
    pub async fn last_alert(&mut self) -> Option<u8> {
        let mut last = None;
        loop {
            match self.next().await {
                Ok(Some((kind::ALERT, alert))) => last = alert.get(1).copied(),
                Ok(Some((kind::HANDSHAKE, message))) if message.first() == Some(&24) => self.open.update(),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return last,
            }
        }
    }
}

impl Keys {
    fn new(
        version: ProtocolVersion,
        suite: CipherSuite,
        secret: Option<Vec<u8>>,
        (sequence, keys): (u64, ConnectionTrafficSecrets),
    ) -> Self {
        let (algorithm, key, iv) = match &keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => panic!("an unknown cipher"),
        };
        let is_384 = suite == CipherSuite::TLS13_AES_256_GCM_SHA384;
        let digest = if is_384 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 };
        let iv = iv.as_ref().to_vec();
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key.as_ref()).expect("a key"));
        Self { algorithm, digest, version, secret: secret.unwrap_or_default(), key, iv, sequence }
    }

    /// Goes on with the next key.
    //= https://www.rfc-editor.org/rfc/rfc8446#section-7.2
    pub fn update(&mut self) {
        let secret = hkdf::Prk::new_less_safe(self.digest, &self.secret);
        self.secret = expand(&secret, "traffic upd", self.secret.len());
        let secret = hkdf::Prk::new_less_safe(self.digest, &self.secret);
        let key = expand(&secret, "key", self.algorithm.key_len());
        self.iv = expand(&secret, "iv", 12);
        self.key =
            aead::LessSafeKey::new(aead::UnboundKey::new(self.algorithm, &key).expect("a key of its length"));
        self.sequence = 0;
    }

    /// One record, with this many bytes of padding (TLS 1.3).
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let sequence = self.sequence;
        self.sequence += 1;
        let mut body = content.to_vec();
        if self.version == ProtocolVersion::TLSv1_3 {
            body.push(kind);
            body.resize(body.len() + padding, 0);
            let header = header(kind::DATA, body.len() + 16);
            let nonce = self.mixed_nonce(sequence);
            self.key.seal_in_place_append_tag(nonce, aead::Aad::from(header), &mut body).expect("it seals");
            return [&header[..], &body].concat();
        }
        let has_explicit = self.algorithm != &aead::CHACHA20_POLY1305;
        let explicit = sequence.to_be_bytes();
        let nonce = if has_explicit { self.explicit_nonce(explicit) } else { self.mixed_nonce(sequence) };
        let additional = additional_12(sequence, kind, body.len());
        self.key.seal_in_place_append_tag(nonce, aead::Aad::from(additional), &mut body).expect("it seals");
        let explicit = if has_explicit { &explicit[..] } else { &[] };
        [&header(kind, body.len() + explicit.len())[..], explicit, &body].concat()
    }

    fn open(&mut self, record: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        let (header, body) = record.split_at(5);
        let sequence = self.sequence;
        self.sequence += 1;
        let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "a record that cannot be opened");
        if self.version == ProtocolVersion::TLSv1_3 {
            let header: [u8; 5] = header.try_into().expect("five bytes");
            let mut body = body.to_vec();
            let nonce = self.mixed_nonce(sequence);
            let opened = self.key.open_in_place(nonce, aead::Aad::from(header), &mut body).map_err(wrong)?;
            let end = opened.iter().rposition(|&byte| byte != 0).expect("a type");
            return Ok((opened[end], opened[..end].to_vec()));
        }
        let has_explicit = self.algorithm != &aead::CHACHA20_POLY1305;
        let (explicit, sealed) = body.split_at(if has_explicit { 8 } else { 0 });
        let nonce = match explicit.try_into() {
            Ok(explicit) => self.explicit_nonce(explicit),
            Err(_) => self.mixed_nonce(sequence),
        };
        let additional = additional_12(sequence, header[0], sealed.len() - 16);
        let mut sealed = sealed.to_vec();
        let opened =
            self.key.open_in_place(nonce, aead::Aad::from(additional), &mut sealed).map_err(wrong)?;
        Ok((header[0], opened.to_vec()))
    }

    fn mixed_nonce(&self, sequence: u64) -> aead::Nonce {
        let mut nonce: [u8; 12] = self.iv[..].try_into().expect("12 bytes");
        nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, of)| *byte ^= of);
        aead::Nonce::assume_unique_for_key(nonce)
    }

    fn explicit_nonce(&self, explicit: [u8; 8]) -> aead::Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.iv[..4]);
        nonce[4..].copy_from_slice(&explicit);
        aead::Nonce::assume_unique_for_key(nonce)
    }
}

/// The header of a record.
pub fn header(kind: u8, bytes: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(bytes).expect("16 bits").to_be_bytes();
    [kind, 3, 3, high, low]
}

fn additional_12(sequence: u64, kind: u8, bytes: usize) -> [u8; 13] {
    let mut additional = [0; 13];
    additional[..8].copy_from_slice(&sequence.to_be_bytes());
    additional[8..].copy_from_slice(&header(kind, bytes));
    additional
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

//= https://www.rfc-editor.org/rfc/rfc8446#section-7.1
fn expand(secret: &hkdf::Prk, label: &str, bytes: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let length = u16::try_from(bytes).expect("short").to_be_bytes();
    let info = [&length[..], &[label.len() as u8], label.as_bytes(), &[0]];
    let mut out = vec![0; bytes];
    secret.expand(&info, Length(bytes)).expect("short").fill(&mut out).expect("its length");
    out
}

/// The secrets of one connection, by their labels.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().expect("no panic while it is held").push((label.to_owned(), secret.to_vec()));
    }
}

/// The usual kind of key.
pub const ECDSA: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
/// A key of the older kind.
pub const RSA: &SignatureAlgorithm = &rcgen::PKCS_RSA_SHA256;

/// Both versions.
pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
/// TLS 1.2 alone.
pub const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
/// TLS 1.3 alone.
pub const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// A provider that has only suites whose name contains this.
pub fn only_suite(name: &str) -> CryptoProvider {
    let mut provider = provider::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains(name));
    assert!(!provider.cipher_suites.is_empty(), "no suite {name}");
    provider
}
