//! `tls` of an `[[upstream]]`: how the certificates of its `https://` servers are judged, and what we show them.

use std::net::IpAddr;
use std::path::PathBuf;

use sluice_tls::handshake::MinVersion;

use super::address::UpstreamServer;
use super::certificates::{CertificateFiles, check_pair, check_roots};
use super::pattern::check_name;
use super::problem::{Fault, Located, Origin, Report};
use super::servers::is_whole;
use super::table::{UpstreamKeys, UpstreamTlsKeys};
use super::values::{Field, Values};

/// TLS with the servers of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities of their certificates, instead of those of this system.
    pub ca: Option<PathBuf>,
    /// Whether a certificate has to be valid for the name, and from one of the authorities.
    pub verify: bool,
    /// The name they are asked for and verified by, instead of their own.
    pub server_name: Option<String>,
    /// What they get to see where they ask for a certificate.
    pub certificate: Option<CertificateFiles>,
    /// SHA-256 of SubjectPublicKeyInfo: with any of these, one must be in the server's chain.
    pub pins: Vec<[u8; 32]>,
    /// The oldest version.
    pub min_version: MinVersion,
}

impl Default for UpstreamTls {
    fn default() -> UpstreamTls {
        UpstreamTls {
            ca: None,
            verify: true,
            server_name: None,
            certificate: None,
            pins: Vec::new(),
            min_version: MinVersion::default(),
        }
    }
}

/// What `tls` of an upstream comes to.
pub(super) fn check_upstream_tls(
    keys: &UpstreamKeys,
    servers: &[UpstreamServer],
    report: &mut Report,
) -> UpstreamTls {
    let Some(written) = keys.tls.given() else { return UpstreamTls::default() };
    let of_tls = UpstreamTlsKeys::settle(&written.value);
    check_is_of_use(keys, written, servers, report);
    check_verification(&of_tls, &written.value, report);
    let certificate = match (&of_tls.cert, &of_tls.key) {
        (Field::Given(cert), key) => {
            let names = ["upstream.tls.cert", "upstream.tls.key", ""];
            check_pair(cert, key, &Field::Absent, names, report)
        }
        (Field::Absent, Field::Given(key)) => {
            let fault = Fault::new("a key without its certificate").hint("add cert = \"FILE\"");
            report.error(&key.at, "upstream.tls.key", fault);
            None
        }
        _ => None,
    };
    UpstreamTls {
        ca: of_tls.ca.value().cloned(),
        verify: of_tls.verify,
        server_name: check_server_name(&of_tls.server_name, report),
        certificate,
        pins: check_pins(&of_tls.pins, report),
        min_version: of_tls.min_version,
    }
}

/// Without an `https://` server all of it is for nothing, and a server that was to have TLS may have none.
fn check_is_of_use(
    keys: &UpstreamKeys,
    written: &Located<Values>,
    servers: &[UpstreamServer],
    report: &mut Report,
) {
    let has_tls = servers.iter().any(|server| server.scheme.is_secure());
    let is_whole = is_whole(keys, servers);
    let first = written.value.iter().find_map(|(key, field)| Some((key.name, field.given()?)));
    if let Some((name, given)) = first
        && !has_tls
        && is_whole
    {
        let fault = Fault::new("no server of this upstream has TLS");
        let hint = match given.at {
            Origin::Flag(_) => "write --upstream https://...",
            _ => "write the servers as https://",
        };
        report.error(&given.at, &format!("upstream.tls.{name}"), fault.hint(hint));
    }
}

fn check_verification(keys: &UpstreamTlsKeys, written: &Values, report: &mut Report) {
    if let Some(ca) = keys.ca.given() {
        check_roots(ca, "upstream.tls.ca", report);
    }
    let Some(verify) = written.field("verify").given().filter(|_| !keys.verify) else { return };
    let has_pins = keys.pins.value().is_some_and(|pins| !pins.is_empty());
    match keys.ca.given() {
        Some(ca) => {
            let fault = Fault::new("certificates are not verified, so there is no use for authorities");
            report.error(&ca.at, "upstream.tls.ca", fault.hint("leave out `ca`, or verify = false"));
        }
        None if has_pins => {
            let fault =
                Fault::new("names and dates of the servers' certificates are not verified, only their pins");
            report.warn(&verify.at, "upstream.tls.verify", fault);
        }
        None => {
            let fault = Fault::new(
                "the servers' certificates are not verified: whoever is in between can read and change all traffic",
            );
            let hint = "name the authority by ca = \"FILE\", or the server's key by pins";
            report.warn(&verify.at, "upstream.tls.verify", fault.hint(hint));
        }
    }
}

fn check_server_name(field: &Field<String>, report: &mut Report) -> Option<String> {
    let given = field.given()?;
    let name = given.value.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if name.parse::<IpAddr>().is_err()
        && let Err(why) = check_name(name)
    {
        let fault = Fault::new(format!("`{}` is not a host name: {why}", given.value));
        report.error(&given.at, "upstream.tls.server_name", fault);
        return None;
    }
    Some(name.to_owned())
}

fn check_pins(field: &Field<Vec<Located<String>>>, report: &mut Report) -> Vec<[u8; 32]> {
    let key = "upstream.tls.pins";
    let Some(given) = field.given() else { return Vec::new() };
    if given.value.is_empty() {
        report.error(&given.at, key, Fault::new("no pin is left").hint("leave `pins` out"));
    }
    let mut pins = Vec::new();
    for pin in &given.value {
        match parse_pin(&pin.value) {
            None => {
                let fault = Fault::new(format!("`{}` is not a pin", pin.value));
                let hint = "sha256/ and 44 characters of Base64: `sluice cert show FILE` prints that of a certificate";
                report.error(&pin.at, key, fault.hint(hint));
            }
            Some(known) if pins.contains(&known) => {
                report.error(&pin.at, key, Fault::new(format!("`{}` is there twice", pin.value)));
            }
            Some(new) => pins.push(new),
        }
    }
    pins
}

/// `sha256/` and 32 bytes in Base64, as `curl --pinnedpubkey` has them with two slashes.
fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let base64 = text.strip_prefix("sha256/")?;
    let base64 = base64.strip_prefix('/').unwrap_or(base64);
    // A slash is also a digit: the second one belongs to it where the length says so.
    let base64 = if base64.len() == 43 { &text["sha256/".len()..] } else { base64 };
    decode_32_bytes(base64)
}

/// 32 bytes are 43 digits of Base64 and one `=`.
//= https://www.rfc-editor.org/rfc/rfc4648#section-4
fn decode_32_bytes(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_suffix('=').filter(|digits| digits.len() == 43)?;
    let mut bytes = [0; 33];
    for (four, three) in digits.as_bytes().chunks(4).zip(bytes.chunks_mut(3)) {
        let mut bits = 0;
        for place in 0..4 {
            bits = bits << 6 | four.get(place).map_or(Some(0), |&digit| digit_of(digit))?;
        }
        three.copy_from_slice(&u32::to_be_bytes(bits)[1..]);
    }
    // The last digit has two bits too many.
    (bytes[32] == 0).then(|| bytes.first_chunk().copied()).flatten()
}

fn digit_of(byte: u8) -> Option<u32> {
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(digit))
}
