//! TLS with clients: what `listen_tls`, `[[listener]]` and `[tls]` come to, and what they need of each other.
//!
//! A listener inherits version and profile from `[tls]`. What a listener cannot do without another part of the file (a certificate,
//! an authority for clients) is checked here, once all parts are known.

use std::path::PathBuf;
use std::time::Duration;

use sluice_tls::handshake::{MinVersion, Profile};

use super::address::UpstreamServer;
use super::certificates::check_roots;
use super::checked::Config;
use super::choices::Choice;
use super::listeners::Listener;
use super::problem::{Fault, Origin, Report};
use super::table::{ListenerKeys, TlsKeys, Top};
use super::upstream_tls::UpstreamTls;
use super::values::{Field, Values};

/// The port of `https://` where none is written.
pub const HTTPS_PORT: u16 = 443;

/// Which connections of a listener are TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// All of them.
    On,
    /// Those that begin with a TLS handshake. The others are HTTP.
    Detect,
}

impl Choice for Option<TlsMode> {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", None), ("on", Some(TlsMode::On)), ("detect", Some(TlsMode::Detect))];
}

/// Whether clients are asked for certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificatesMode {
    /// They are not.
    #[default]
    Off,
    /// They are, and may have none.
    Optional,
    /// They are, and their handshakes fail without one.
    Required,
}

impl Choice for ClientCertificatesMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

/// What `https_redirect` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpsRedirect {
    /// Requests are answered where they are.
    Off,
    /// To the usual port.
    Usual,
    /// To this port.
    Port(u16),
}

impl HttpsRedirect {
    /// Reads `true`, `false` or a port.
    ///
    /// # Errors
    /// Anything else.
    pub(crate) fn parse(text: &str) -> Result<HttpsRedirect, Fault> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        match (text, text.parse::<u16>()) {
            ("true", _) => Ok(HttpsRedirect::Usual),
            ("false", _) => Ok(HttpsRedirect::Off),
            (_, Ok(port)) if is_number && port != 0 => Ok(HttpsRedirect::Port(port)),
            _ => Err(Fault::new(format!("`{text}` is neither true nor a port (1 to 65535)"))),
        }
    }
}

/// TLS at a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Which connections are TLS.
    pub mode: TlsMode,
    /// The oldest version; 1.3 in the modern profile.
    pub min_version: MinVersion,
    /// Ciphers and groups.
    pub profile: Profile,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificatesMode,
    /// The authorities of clients' certificates; there is a file where clients are asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether the kernel may seal large responses.
    pub kernel_tls: bool,
}

/// What all listeners have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The file that secrets are written to.
    pub key_log: Option<PathBuf>,
    /// Age at which the key of session tickets is replaced.
    pub ticket_rotation: Duration,
    /// How long a ticket can be used; not below the rotation.
    pub ticket_lifetime: Duration,
}

impl Default for TlsSettings {
    fn default() -> TlsSettings {
        check_settings(&TlsKeys::default(), &mut Report::default())
    }
}

/// What the other parts of the file need to know of the listeners.
#[derive(Debug, Default)]
pub(super) struct ListenerFacts {
    /// Where the first listener with TLS is written, and its key.
    pub(super) tls_at: Option<(Origin, &'static str)>,
    /// Some listener takes connections without TLS.
    pub(super) takes_clear_text: bool,
    /// Some listener asks clients for certificates.
    pub(super) asks_for_certificates: bool,
    /// Some listener could not be read: it may well be the one that is missing.
    pub(super) some_unread: bool,
}

impl ListenerFacts {
    /// Certainly no listener has TLS.
    pub(super) fn has_no_tls(&self) -> bool {
        self.tls_at.is_none() && !self.some_unread
    }
}

// ---- [tls] ----

pub(super) fn check_settings(keys: &TlsKeys, report: &mut Report) -> TlsSettings {
    if let (Profile::Modern, Some(given)) = (keys.profile, keys.min_version.given())
        && given.value == MinVersion::Tls12
    {
        report.error(&given.at, "tls.min_version", modern_is_13());
    }
    if let Some(given) = keys.key_log.given() {
        check_key_log(&given.value, &given.at, report);
    }
    TlsSettings {
        key_log: keys.key_log.value().cloned(),
        ticket_rotation: keys.ticket_rotation,
        ticket_lifetime: keys.ticket_lifetime,
    }
}

fn modern_is_13() -> Fault {
    Fault::new("the modern profile is TLS 1.3 only, and min_version is 1.2")
        .hint("leave min_version out, or write profile = \"intermediate\"")
}

fn check_key_log(file: &std::path::Path, at: &Origin, report: &mut Report) {
    let key = "tls.key_log";
    match file.parent() {
        Some(directory) if !directory.is_dir() => {
            report.error(at, key, Fault::new(format!("there is no directory {}", directory.display())));
        }
        _ => {
            let what = format!("the secrets of all TLS connections are written to {}", file.display());
            report.warn(
                at,
                key,
                Fault::new(what).hint("whoever reads it can read the traffic: remove key_log after use"),
            );
        }
    }
}

/// A ticket whose key is gone before its time is of no use.
pub(super) fn check_tickets(written: &Values, settings: &TlsSettings, report: &mut Report) {
    let is_faulty = |key| *written.field(key) == Field::Faulty;
    if settings.ticket_lifetime >= settings.ticket_rotation
        || is_faulty("ticket_lifetime")
        || is_faulty("ticket_rotation")
    {
        return;
    }
    let at = |key| written.field(key).given().map(|given| &given.at);
    let lifetime = at("ticket_lifetime").map(|at| (at, "tls.ticket_lifetime"));
    let rotation = at("ticket_rotation").map(|at| (at, "tls.ticket_rotation"));
    let Some((at, key)) = lifetime.or(rotation) else { return };
    let fault = Fault::new(
        "ticket_lifetime is below ticket_rotation: a key would be in use for longer than its tickets are",
    );
    report.error(at, key, fault.hint("lower ticket_rotation too"));
}

// ---- listeners ----

/// A listener of `listen_tls`: all of it by `[tls]`.
pub(super) fn plain_listener_tls(defaults: &TlsKeys) -> ListenerTls {
    ListenerTls {
        mode: TlsMode::On,
        min_version: min_version(defaults.min_version.value(), defaults.profile),
        profile: defaults.profile,
        client_certificates: ClientCertificatesMode::Off,
        client_ca: None,
        kernel_tls: defaults.kernel_tls,
    }
}

fn min_version(written: Option<&MinVersion>, profile: Profile) -> MinVersion {
    match profile {
        Profile::Modern => MinVersion::Tls13,
        Profile::Intermediate => written.copied().unwrap_or(MinVersion::Tls12),
    }
}

/// TLS of a `[[listener]]`.
pub(super) fn check_listener_tls(
    raw: &Values,
    keys: &ListenerKeys,
    defaults: &TlsKeys,
    report: &mut Report,
) -> Option<ListenerTls> {
    let Some(mode) = keys.tls else {
        check_no_tls(raw, keys, report);
        return None;
    };
    let profile = keys.profile.value().copied().unwrap_or(defaults.profile);
    check_profile(keys, defaults, profile, report);
    let written = keys.min_version.value().or(defaults.min_version.value());
    Some(ListenerTls {
        mode,
        min_version: min_version(written, profile),
        profile,
        client_certificates: keys.client_certificates,
        client_ca: check_client_ca(raw, keys, report),
        kernel_tls: keys.kernel_tls.value().copied().unwrap_or(defaults.kernel_tls),
    })
}

/// Of a listener without TLS, what only one with TLS can have.
fn check_no_tls(raw: &Values, keys: &ListenerKeys, report: &mut Report) {
    let asks = keys.client_certificates != ClientCertificatesMode::Off;
    let is_meant = |key: &str| key != "client_certificates" || asks;
    let of_tls = ["min_version", "profile", "client_certificates", "client_ca", "kernel_tls"];
    let given =
        of_tls.iter().filter(|key| is_meant(key)).find_map(|key| Some((key, raw.field(key).given()?)));
    if let Some((key, given)) = given
        && *raw.field("tls") != Field::Faulty
    {
        let fault = Fault::new("this listener has no TLS").hint("add tls = \"on\"");
        report.error(&given.at, &format!("listener.{key}"), fault);
    }
}

/// The conflict within `[tls]` is reported there, not at every listener.
fn check_profile(keys: &ListenerKeys, defaults: &TlsKeys, profile: Profile, report: &mut Report) {
    let of_default = || defaults.min_version.value() == Some(&MinVersion::Tls12);
    match (profile, keys.min_version.given(), keys.profile.given()) {
        (Profile::Modern, Some(given), _) if given.value == MinVersion::Tls12 => {
            report.error(&given.at, "listener.min_version", modern_is_13());
        }
        (Profile::Modern, None, Some(given)) if of_default() => {
            let fault = Fault::new("the modern profile is TLS 1.3 only, and min_version in [tls] is 1.2");
            report.error(&given.at, "listener.profile", fault.hint("add min_version = \"1.3\" here"));
        }
        _ => {}
    }
}

fn check_client_ca(raw: &Values, keys: &ListenerKeys, report: &mut Report) -> Option<PathBuf> {
    let mode = raw.field("client_certificates");
    match (keys.client_certificates, &keys.client_ca) {
        (ClientCertificatesMode::Off, Field::Given(given)) if *mode != Field::Faulty => {
            let fault = Fault::new("this listener asks clients for no certificate");
            let hint = "add client_certificates = \"required\", or \"optional\"";
            report.error(&given.at, "listener.client_ca", fault.hint(hint));
        }
        (ClientCertificatesMode::Optional | ClientCertificatesMode::Required, Field::Absent) => {
            let fault = Fault::new(
                "clients are asked for certificates, and no authority is named that may issue them",
            );
            let at = mode.given().map_or(&raw.at, |given| &given.at);
            report.error(at, "listener.client_certificates", fault.hint("add client_ca = \"FILE\""));
        }
        (_, Field::Given(given)) => check_roots(given, "listener.client_ca", report),
        _ => {}
    }
    keys.client_ca.value().cloned()
}

/// The port that requests without TLS are sent to.
pub(super) fn check_redirect(keys: &ListenerKeys, own_port: Option<u16>, report: &mut Report) -> Option<u16> {
    let given = keys.https_redirect.given()?;
    let port = match (given.value, keys.tls, own_port) {
        (HttpsRedirect::Off, _, _) => return None,
        (_, Some(TlsMode::On), _) => {
            let fault = Fault::new("this listener takes nothing but TLS, so there is nothing to redirect");
            let hint = "write it in the [[listener]] for http://, or write tls = \"detect\"";
            report.error(&given.at, "listener.https_redirect", fault.hint(hint));
            return None;
        }
        (HttpsRedirect::Port(port), _, _) => port,
        (HttpsRedirect::Usual, Some(TlsMode::Detect), Some(own)) if own != 0 => own,
        (HttpsRedirect::Usual, _, _) => HTTPS_PORT,
    };
    if keys.tls.is_none() && own_port == Some(port) {
        let fault = Fault::new(format!("this listener itself is on port {port}, and has no TLS"));
        report.error(
            &given.at,
            "listener.https_redirect",
            fault.hint("write the port of a listener with TLS"),
        );
        return None;
    }
    Some(port)
}

// ---- what the parts need of each other ----

/// A listener with TLS has a certificate to show, and a certificate a listener that shows it.
pub(super) fn check_together(top: &Top, facts: &ListenerFacts, report: &mut Report) {
    let first = top.certificate.first();
    if let (Some((at, key)), None, Field::Absent) = (&facts.tls_at, first, &top.acme) {
        let fault = Fault::new("TLS needs a certificate");
        let hint = match at {
            Origin::Flag(_) => {
                "add --tls-cert FILE --tls-key FILE, or try: sluice cert make --host localhost"
            }
            _ => {
                "add [[certificate]] with cert = \"FILE\" and key = \"FILE\", \
                 or --tls-cert FILE --tls-key FILE, or try: sluice cert make --host localhost"
            }
        };
        report.error(at, key, fault.hint(hint));
    }
    if let Some(raw) = first.filter(|_| facts.has_no_tls()) {
        let fault = Fault::new("no listener has TLS, so no client sees this certificate");
        let hint = match raw.at {
            Origin::Flag(_) => "add --listen-tls 127.0.0.1:8443",
            _ => "add listen_tls = [\"127.0.0.1:8443\"], or tls = \"on\" to a [[listener]]",
        };
        report.warn(&raw.at, "certificate", fault.hint(hint));
    }
}

/// What servers are to learn of clients, and no listener finds out.
pub(super) fn check_forwarded(written: &Values, facts: &ListenerFacts, report: &mut Report) {
    let is_set =
        |key| written.field(key).given().filter(|given| given.value == super::values::Value::Boolean(true));
    if let Some(given) = is_set("client_certificate")
        && !facts.asks_for_certificates
        && !facts.some_unread
    {
        let fault = Fault::new("no listener asks clients for certificates");
        let hint = "add client_certificates = \"optional\" and client_ca to a [[listener]] with TLS";
        report.warn(&given.at, "forwarding.client_certificate", fault.hint(hint));
    }
    if let Some(given) = is_set("ja4")
        && facts.has_no_tls()
    {
        report.warn(
            &given.at,
            "forwarding.ja4",
            Fault::new("no listener has TLS, so there is no fingerprint"),
        );
    }
}

/// How a listener is named where its TLS matters.
pub(super) fn describe(listener: &Listener) -> String {
    let what = match &listener.tls {
        None => "",
        Some(ListenerTls { mode: TlsMode::On, .. }) => " (TLS)",
        Some(ListenerTls { mode: TlsMode::Detect, .. }) => " (TLS or clear text)",
    };
    format!("{}{what}", listener.address)
}

impl Config {
    /// Which listeners a request to this route can come from and which servers it goes to, a comment line each; empty where none of
    /// them has TLS.
    pub fn explain_tls(&self, route: usize) -> String {
        let Some(group) = self
            .routes
            .get(route)
            .filter(|route| !route.is_local())
            .and_then(|route| self.upstreams.get(route.upstream))
        else {
            return String::new();
        };
        let has_tls = self.listeners.iter().any(|listener| listener.tls.is_some())
            || group.servers.iter().any(|server| server.scheme.is_secure());
        if !has_tls {
            return String::new();
        }
        let from = self.listeners.iter().map(|listener| format!("# from {}\n", explain_listener(listener)));
        let to = group.servers.iter().map(|server| format!("# to {}\n", explain_server(server, &group.tls)));
        from.chain(to).collect()
    }
}

fn explain_listener(listener: &Listener) -> String {
    let mut text = format!("{}: ", listener.address);
    match &listener.tls {
        None => text.push_str("clear text"),
        Some(tls) => {
            let (oldest, profile) = (tls.min_version.word(), tls.profile.word());
            let mode = if tls.mode == TlsMode::Detect { "clear text or " } else { "" };
            let clients = tls.client_certificates.word();
            text += &format!("{mode}TLS from {oldest}, profile {profile}, client certificates {clients}");
        }
    }
    if let Some(port) = listener.https_redirect {
        text += &format!("; 308 to https:// at port {port} instead of clear text");
    }
    text
}

fn explain_server(server: &UpstreamServer, tls: &UpstreamTls) -> String {
    let mut text = format!("{}: ", server.url());
    if !server.scheme.is_secure() {
        return text + "clear text";
    }
    text += &format!("TLS from {}", tls.min_version.word());
    if tls.verify {
        let name = tls.server_name.as_deref().unwrap_or(&server.host);
        let authorities = match &tls.ca {
            Some(file) => format!("those of {}", file.display()),
            None => "this system's".to_owned(),
        };
        text += &format!(", verified as {name}, authorities: {authorities}");
    } else {
        text += ", not verified";
    }
    match tls.pins.len() {
        0 => {}
        1 => text += ", 1 pin",
        count => text += &format!(", {count} pins"),
    }
    if tls.certificate.is_some() {
        text += ", with a certificate of ours";
    }
    text
}
