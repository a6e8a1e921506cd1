//! TLS to a target: what the flags ask for, checked once, and a client of it for each lane.
//!
//! The client offers AES-128-GCM first and X25519 first, so that servers that leave the choice to it do the same work. A
//! [`Session`] is one connection's; [`tally`] counts handshakes; [`pair`] makes the certificate of servers that this
//! tool starts. Sockets are the caller's.

mod pair;
mod session;
mod tally;
mod tickets;
mod trust;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls::client::{ClientConnection, Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::Failure;
pub(crate) use pair::{KIND, NAME, Pair};
pub(crate) use session::Session;
pub use tally::TlsReport;
pub(crate) use tally::TlsTally;
use tickets::Tickets;
use trust::AcceptAny;

/// How TLS is spoken.
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line")]
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// Speak TLS to the target
    #[arg(long)]
    pub tls: bool,
    /// TLS: accept only certificates signed by those of this PEM file, and only for the name that was asked for
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// TLS: accept any certificate, without a look at its signatures; the default without --ca
    #[arg(long)]
    pub insecure: bool,
    /// TLS: the server's name in SNI, in its certificate and in the Host field [default: the target's; an address is not
    /// sent in SNI]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// TLS: offer only this version [default: both]
    #[arg(long, value_name = "VERSION", value_enum)]
    pub tls_version: Option<TlsVersion>,
    /// TLS: resume sessions where there is a ticket left or a session of TLS 1.2
    #[arg(long, conflicts_with = "no_resume")]
    pub resume: bool,
    /// TLS: make a full handshake on each connection; the default
    #[arg(long)]
    pub no_resume: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// RFC 5246
    #[value(name = "1.2")]
    V12,
    /// RFC 8446
    #[value(name = "1.3")]
    V13,
}

impl TlsVersion {
    fn offered(version: Option<TlsVersion>) -> Vec<&'static SupportedProtocolVersion> {
        match version {
            None => vec![&version::TLS13, &version::TLS12],
            Some(TlsVersion::V12) => vec![&version::TLS12],
            Some(TlsVersion::V13) => vec![&version::TLS13],
        }
    }
}

impl TlsArgs {
    /// The first flag that only means something with TLS.
    pub(crate) fn dependent(&self) -> Option<&'static str> {
        let flags = [
            (self.ca.is_some(), "--ca"),
            (self.insecure, "--insecure"),
            (self.server_name.is_some(), "--server-name"),
            (self.tls_version.is_some(), "--tls-version"),
            (self.resume, "--resume"),
            (self.no_resume, "--no-resume"),
        ];
        flags.into_iter().find_map(|(is_set, flag)| is_set.then_some(flag))
    }
}

/// Suites in the order in which they are offered.
const SUITES: [SupportedCipherSuite; 9] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Groups likewise; the first one's key share is sent at once.
const GROUPS: [&dyn SupportedKxGroup; 3] = [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// Checked flags.
#[derive(Clone, Debug)]
pub(crate) struct TlsPlan {
    config: ClientConfig,
    name: ServerName<'static>,
    resumes: bool,
    protocol: Protocol,
}

/// What is spoken over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As a client asks for it in its handshake.
    fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        }
    }

    /// Whether a handshake has led to it. A server that says nothing speaks HTTP/1.1.
    fn is_agreed(self, negotiated: Option<&[u8]>) -> bool {
        match negotiated {
            Some(name) => name == self.alpn(),
            None => self == Protocol::Http1,
        }
    }
}

/// Makes the sessions of one lane; lanes share no tickets.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    protocol: Protocol,
}

impl TlsPlan {
    /// Checks the flags, and reads the certificates to be trusted. `host` is asked for unless the flags name another.
    pub(crate) fn new(args: &TlsArgs, host: &str, protocol: Protocol) -> Result<TlsPlan, Failure> {
        let host = args.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::Usage(format!("'{host}' is no name of a server")))?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: SUITES.to_vec(),
            kx_groups: GROUPS.to_vec(),
            ..aws_lc_rs::default_provider()
        });
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&TlsVersion::offered(args.tls_version))
            .map_err(|error| Failure::Usage(format!("TLS: {error}")))?;
        let mut config = match &args.ca {
            Some(file) => builder.with_webpki_verifier(verifier(file, provider)?),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider))),
        }
        .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Ok(TlsPlan { config, name, resumes: args.resume, protocol })
    }

    /// The client of a lane.
    pub(crate) fn client(&self) -> Client {
        let mut config = self.config.clone();
        if self.resumes {
            config.resumption = Resumption::store(Arc::new(Tickets::default()));
        }
        Client { config: Arc::new(config), name: self.name.clone(), protocol: self.protocol }
    }

    /// Makes one handshake on a connection, so that a wrong target or certificate is reported at once.
    pub(crate) fn try_on(&self, mut stream: TcpStream, timeout: Duration) -> Result<(), Failure> {
        let address =
            stream.peer_addr().map_or_else(|_| "the target".into(), |peer: SocketAddr| peer.to_string());
        let fail = |error: &dyn std::fmt::Display| Failure::Target(format!("no TLS with {address}: {error}"));
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        stream
            .set_read_timeout(timeout)
            .and_then(|()| stream.set_write_timeout(timeout))
            .map_err(|error| fail(&error))?;
        let mut tls = self.client().connection().map_err(|error| fail(&error))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).map_err(|error| fail(&explained(&error)))?;
        }
        if !self.protocol.is_agreed(tls.alpn_protocol()) {
            return Err(fail(&"it speaks no HTTP/2 (ALPN)"));
        }
        tls.send_close_notify();
        // The handshake is what was to be tried.
        let _ = tls.write_tls(&mut stream);
        Ok(())
    }
}

/// What went wrong in a handshake, with what is likely behind it.
fn explained(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the handshake took too long".into(),
        io::ErrorKind::UnexpectedEof => "it closed the connection during the handshake".into(),
        _ => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(message)) => {
                format!("what it answers is not TLS ({message:?})")
            }
            _ => error.to_string(),
        },
    }
}

impl Client {
    fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config.clone(), self.name.clone())
    }
}

fn verifier(file: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Failure> {
    let shown = file.display();
    let fail = |error: &dyn std::fmt::Display| Failure::Usage(format!("--ca {shown}: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fail(&error))? {
        let certificate = certificate.map_err(|error| fail(&error))?;
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    if roots.is_empty() {
        return Err(fail(&"it holds no certificate"));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| fail(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_need_tls_are_known() {
        assert_eq!(TlsArgs::default().dependent(), None);
        assert_eq!(TlsArgs { resume: true, ..TlsArgs::default() }.dependent(), Some("--resume"));
        let args = TlsArgs { server_name: Some("a".into()), tls: true, ..TlsArgs::default() };
        assert_eq!(args.dependent(), Some("--server-name"));
    }

    #[test]
    fn names_and_files_are_checked() {
        let plan = |args: &TlsArgs| {
            TlsPlan::new(args, "127.0.0.1", Protocol::Http1).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(plan(&TlsArgs::default()), Ok(()));
        let args = TlsArgs { server_name: Some("a b".into()), ..TlsArgs::default() };
        assert_eq!(plan(&args), Err("'a b' is no name of a server".into()));
        let args = TlsArgs { ca: Some("/nowhere/ca.pem".into()), ..TlsArgs::default() };
        assert!(plan(&args).is_err_and(|error| error.starts_with("--ca /nowhere/ca.pem: ")));
    }
}
