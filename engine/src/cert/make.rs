//! `sluice cert make`: a certificate with its key, self-signed or signed by a CA of one's own.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use sluice_tls::certificates::{Certificate, CertificateFacts, hex, utc};

use crate::cli::{CertKind, CertMakeArgs};

/// Peers whose clocks are behind accept the certificate too.
const BACKDATE_S: i64 = 3600;

/// How long they are valid if `--days` does not say it.
const DAYS: i64 = 365;
const CA_DAYS: i64 = 3650;

const DAY_S: i64 = 86_400;

/// The longest common name (RFC 5280, ub-common-name).
const COMMON_NAME_MAX: usize = 64;

/// Makes a pair and writes it. Says what was written and how to use it.
///
/// # Errors
/// One line: a name that is none, a CA that cannot be read, files that are there already.
pub(crate) fn make(args: &CertMakeArgs, now_s: i64) -> Result<String, String> {
    let files = Files::of(args);
    files.check_free(args.force)?;
    let ca = match (&args.ca, &args.ca_key) {
        (Some(cert), Some(key)) => Some(Authority::load(cert, key, now_s)?),
        _ => None,
    };
    let key = match args.key_type {
        CertKind::Ecdsa => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        CertKind::Rsa => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
    };
    let key = key.map_err(|error| format!("cannot make a key: {error}"))?;
    let params = if args.make_ca { ca_params(args, &key, now_s) } else { server_params(args, &ca, now_s) }?;
    let text = match &ca {
        Some(ca) => {
            let signed =
                params.signed_by(&key, &ca.issuer).map_err(|error| format!("cannot sign: {error}"))?;
            signed.pem() + &ca.chain_pem
        }
        None => params.self_signed(&key).map_err(|error| format!("cannot sign: {error}"))?.pem(),
    };
    files.write(&text, &key.serialize_pem(), args.force)?;
    let written = sluice_tls::certificates::read_certificates(&files.cert)?;
    let facts = written.first().map(CertificateFacts::of).ok_or("the certificate was not written")??;
    Ok(files.introduction(args, &facts))
}

/// The authority that signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificates, where clients do not have them: an authority that another one has signed.
    chain_pem: String,
    not_after_s: i64,
}

impl Authority {
    fn load(cert: &Path, key: &Path, now_s: i64) -> Result<Authority, String> {
        let pair = Certificate::load(cert, key, None)?;
        let file = cert.display();
        if !pair.is_authority() {
            return Err(format!(
                "{file}: is not the certificate of a CA (hint: make one with sluice cert make --make-ca)"
            ));
        }
        if pair.facts.not_after_s <= now_s {
            let when = utc(pair.facts.not_after_s);
            return Err(format!(
                "{file}: the CA expired on {when} (hint: make one with sluice cert make --make-ca)"
            ));
        }
        let unusable = |error: rcgen::Error| format!("{file}: this CA cannot sign: {error}");
        let signing = KeyPair::try_from(&pair.key).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_der(&pair.chain[0], signing).map_err(unusable)?;
        let is_root = pair.facts.subject == pair.facts.issuer;
        let chain_pem = if is_root { String::new() } else { certificates_text(cert)? };
        Ok(Authority { issuer, chain_pem, not_after_s: pair.facts.not_after_s })
    }
}

/// The CERTIFICATE blocks of a file, which may have the key too.
fn certificates_text(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let blocks = text.split_inclusive("-----END CERTIFICATE-----");
    let begin =
        |block: &str| block.find("-----BEGIN CERTIFICATE-----").map(|at| block[at..].to_owned() + "\n");
    Ok(blocks.filter(|block| block.ends_with("-----END CERTIFICATE-----")).filter_map(begin).collect())
}

/// What server and client certificates have in common.
fn base_params(names: Vec<String>, not_before_s: i64, not_after_s: i64) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names).map_err(|error| format!("--host: {error}"))?;
    params.distinguished_name = DistinguishedName::new();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before_s.max(0).unsigned_abs());
    params.not_after = epoch + Duration::from_secs(not_after_s.max(0).unsigned_abs());
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn server_params(
    args: &CertMakeArgs,
    ca: &Option<Authority>,
    now_s: i64,
) -> Result<CertificateParams, String> {
    let wanted = now_s + args.days.map_or(DAYS, i64::from) * DAY_S;
    let not_after_s = ca.as_ref().map_or(wanted, |ca| wanted.min(ca.not_after_s));
    let mut params = base_params(args.host.clone(), now_s - BACKDATE_S, not_after_s)?;
    if let Some(name) = args.host.iter().find(|name| name.len() <= COMMON_NAME_MAX) {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if args.key_type == CertKind::Rsa {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    // A client may show it too: trials of client certificates need no other command.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn ca_params(args: &CertMakeArgs, key: &KeyPair, now_s: i64) -> Result<CertificateParams, String> {
    let not_after_s = now_s + args.days.map_or(CA_DAYS, i64::from) * DAY_S;
    let mut params = base_params(Vec::new(), now_s - BACKDATE_S, not_after_s)?;
    // Two CAs of the same name would be taken for one another: each has part of its key in its name.
    let id = params.key_identifier(key);
    let name = format!("Sluice trial CA {}", hex(id.get(..4).unwrap_or_default()));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// Checks a name of `--host`, and brings it to lower case.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_host(text: &str) -> Result<String, String> {
    let is_address = text.parse::<IpAddr>().is_ok();
    if is_address {
        return Ok(text.to_owned());
    }
    if text.contains("://") || text.contains('/') {
        return Err("a name or an address without scheme and path, such as app.example".to_owned());
    }
    let name = text.to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !labels.split('.').all(is_label) {
        return Err(
            "not a DNS name or an address; without a port, such as app.example, *.app.example, 127.0.0.1"
                .to_owned(),
        );
    }
    Ok(name)
}

/// Where the pair is written.
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(args: &CertMakeArgs) -> Files {
        let (cert, key) = if args.make_ca { ("ca.pem", "ca-key.pem") } else { ("cert.pem", "key.pem") };
        let folder = args.out.clone().unwrap_or_default();
        Files {
            cert: args.cert.clone().unwrap_or_else(|| folder.join(cert)),
            key: args.key.clone().unwrap_or_else(|| folder.join(key)),
        }
    }

    /// Nothing is written if one of them is there.
    fn check_free(&self, force: bool) -> Result<(), String> {
        if self.cert == self.key {
            return Err(format!("{}: --cert and --key have to be two files", self.cert.display()));
        }
        let taken = [&self.cert, &self.key].into_iter().find(|path| path.symlink_metadata().is_ok());
        match taken {
            Some(path) if !force => Err(format!(
                "{}: already exists (hint: --force replaces it, --out names another folder)",
                path.display()
            )),
            _ => Ok(()),
        }
    }

    fn write(&self, cert: &str, key: &str, force: bool) -> Result<(), String> {
        for path in [&self.cert, &self.key] {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            }
        }
        write(&self.key, key, 0o600, force)?;
        write(&self.cert, cert, 0o644, force).inspect_err(|_| {
            // A key without its certificate would be in the way of the next attempt.
            let _ = fs::remove_file(&self.key);
        })
    }

    /// What was written, and how to use it.
    fn introduction(&self, args: &CertMakeArgs, facts: &CertificateFacts) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        let signed = if facts.subject == facts.issuer { "itself" } else { facts.issuer.as_str() };
        let valid_to = utc(facts.not_after_s);
        let about = if facts.names.is_empty() { facts.subject.clone() } else { facts.names.join(", ") };
        let written = format!(
            "certificate  {cert}\nkey          {key} (mode 600)\nfor          {about}\nsigned by    {signed}\nvalid to     {valid_to}\n"
        );
        if args.make_ca {
            return format!(
                "{written}\nSign certificates with it, and let clients trust it:\n  \
                 sluice cert make --host NAME --ca {cert} --ca-key {key}\n  curl --cacert {cert} https://NAME/\n"
            );
        }
        let trusted = args.ca.as_ref().map_or(cert.to_string(), |ca| ca.display().to_string());
        let host = facts.names.first().map_or("localhost", String::as_str);
        let host = if host.starts_with("*.") { host.replacen('*', "www", 1) } else { host.to_owned() };
        let (resolve, host) = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => (String::new(), format!("[{address}]")),
            Ok(_) => (String::new(), host),
            Err(_) => (format!("--resolve {host}:8443:127.0.0.1 "), host),
        };
        format!(
            "{written}\nUse it:\n  sluice --listen-tls 127.0.0.1:8443 --tls-cert {cert} --tls-key {key} --upstream \
             http://127.0.0.1:9000\n  curl --cacert {trusted} {resolve}https://{host}:8443/\n"
        )
    }
}

/// Writes a new file with this mode from its first byte on. An old one is replaced whole, never written to: neither its mode nor
/// what a link points to is taken over.
fn write(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if force && path.symlink_metadata().is_ok() {
        fs::remove_file(path).map_err(failed)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    // The umask may have taken something away.
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, host) in [
            ("App.Example", "app.example"),
            ("*.example", "*.example"),
            ("localhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("a_b.example", "a_b.example"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(host));
        }
        let long = "a".repeat(64);
        for text in [
            "",
            "https://a",
            "a/b",
            "a:443",
            "a b",
            "a..b",
            "*.*.a",
            "a.*",
            "*",
            "-a",
            "a-",
            "é.example",
            &long,
        ] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }
}
