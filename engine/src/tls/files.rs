//! The files that TLS needs at the start: certificates with their keys, authorities, the log of secrets.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_tls::certificates::{Certificate, CertificateSet, load_roots};
use sluice_tls::handshake::{
    Alpn, ClientCertificates, ClientSettings, KeyLogFile, ServerSettings, ServerVerification,
};
use sluice_tls::tickets::TicketKeys;

use super::material::{CurrentMaterial, Material};
use crate::config::{
    CertificateFiles, ClientCertificatesMode, Config, ListenerTls, TlsMode, UpstreamGroup, UpstreamProtocol,
};
use crate::log;

/// What the configuration says about TLS, with everything read that it names.
pub(crate) struct TlsFiles {
    /// By listener; `None` where it is clear text.
    pub(crate) listeners: Vec<Option<ListenerFiles>>,
    /// By upstream; `None` where no server has https.
    pub(crate) upstreams: Vec<Option<ClientSettings>>,
    pub(crate) material: Arc<CurrentMaterial>,
}

/// What a listener with TLS is to be.
pub(crate) struct ListenerFiles {
    pub(crate) mode: TlsMode,
    pub(crate) settings: ServerSettings,
    /// The kernel may seal large bodies, and can.
    pub(crate) kernel_tls: bool,
}

impl TlsFiles {
    /// Reads them, for listeners with these keys of session tickets.
    ///
    /// # Errors
    /// One line that names the file.
    pub(crate) fn load(config: &Config, tickets: &Arc<TicketKeys>) -> Result<TlsFiles, String> {
        let key_log = config.tls.key_log.as_deref().map(open_key_log).transpose()?;
        let has_kernel_tls = wants_kernel_tls(config) && is_kernel_tls_there();
        let listener = |tls: &ListenerTls, http2: bool| {
            let settings = server_settings(tls, http2, key_log.clone())?;
            Ok(ListenerFiles { mode: tls.mode, settings, kernel_tls: tls.kernel_tls && has_kernel_tls })
        };
        let listeners = config
            .listeners
            .iter()
            .map(|one| one.tls.as_ref().map(|tls| listener(tls, one.http2)).transpose());
        let upstreams = config.upstreams.iter().map(|group| client_settings(group, key_log.clone()));
        Ok(TlsFiles {
            listeners: listeners.collect::<Result<_, String>>()?,
            upstreams: upstreams.collect::<Result<_, String>>()?,
            material: Arc::new(CurrentMaterial::new(Material {
                certificates: load_certificates(&config.certificates)?,
                challenge_texts: Vec::new(),
                tickets: tickets.clone(),
            })),
        })
    }
}

fn wants_kernel_tls(config: &Config) -> bool {
    config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).any(|tls| tls.kernel_tls)
}

/// Says so in the log if the kernel has none: everything works without it.
fn is_kernel_tls_there() -> bool {
    let probed = sluice_sys::probe_kernel_tls();
    if let Err(error) = &probed {
        log::warn(format_args!(
            "kernel_tls has no effect: this kernel has no TLS ({error}); load its module (modprobe tls)"
        ));
    }
    probed.is_ok()
}

/// The certificates that the configuration names.
///
/// # Errors
/// One line that names the file.
pub(crate) fn load_certificates(files: &[CertificateFiles]) -> Result<CertificateSet, String> {
    let all = files.iter().map(|files| load_certificate(files).map(Arc::new));
    Ok(CertificateSet { all: all.collect::<Result<_, String>>()?, ..CertificateSet::default() })
}

fn load_certificate(files: &CertificateFiles) -> Result<Certificate, String> {
    Certificate::load(&files.cert, &files.key, files.ocsp.as_deref())
}

fn server_settings(
    tls: &ListenerTls,
    http2: bool,
    key_log: Option<KeyLogFile>,
) -> Result<ServerSettings, String> {
    let authorities = || load_roots(tls.client_ca.as_deref()).map(|roots| roots.store);
    let client_certificates = match tls.client_certificates {
        ClientCertificatesMode::Off => ClientCertificates::Off,
        ClientCertificatesMode::Optional => ClientCertificates::Optional(authorities()?),
        ClientCertificatesMode::Required => ClientCertificates::Required(authorities()?),
    };
    Ok(ServerSettings {
        min_version: tls.min_version,
        profile: tls.profile,
        client_certificates,
        alpn: if http2 { vec![Alpn::Http2, Alpn::Http1] } else { vec![Alpn::Http1] },
        key_log,
    })
}

fn client_settings(
    group: &UpstreamGroup,
    key_log: Option<KeyLogFile>,
) -> Result<Option<ClientSettings>, String> {
    if !group.has_tls {
        return Ok(None);
    }
    let tls = &group.tls;
    let verification = match tls.verify {
        true => ServerVerification::Roots(load_roots(tls.ca.as_deref())?.store),
        false => ServerVerification::Off,
    };
    Ok(Some(ClientSettings {
        min_version: tls.min_version,
        verification,
        pins: tls.pins.clone(),
        certificate: tls.certificate.as_ref().map(load_certificate).transpose()?.map(Arc::new),
        // Not both: the connections of a group are all for the same protocol.
        alpn: match group.protocol {
            UpstreamProtocol::H1 => vec![Alpn::Http1],
            UpstreamProtocol::H2 => vec![Alpn::Http2],
        },
        key_log,
    }))
}

fn open_key_log(path: &Path) -> Result<KeyLogFile, String> {
    let opened: Result<File, _> = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file =
        opened.map_err(|error| format!("cannot open the log of secrets {}: {error}", path.display()))?;
    Ok(Arc::new(Mutex::new(file)))
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
