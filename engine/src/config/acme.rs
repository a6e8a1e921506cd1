//! `[acme]`: certificates from an authority.

use std::path::{Path, PathBuf};

use super::certificates::check_roots;
use super::choices::Choice;
use super::pattern::check_name;
use super::problem::{Fault, Located, Origin, Report};
use super::table::{AcmeKeys, Top};
use super::tls::ListenerFacts;
use super::values::{Field, Values};

/// How an authority sees that a host is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// By a TLS handshake on port 443.
    //= https://www.rfc-editor.org/rfc/rfc8737
    TlsAlpn01,
    /// By a request on port 80.
    //= https://www.rfc-editor.org/rfc/rfc8555#section-8.3
    Http01,
}

impl Choice for AcmeChallenge {
    const WORDS: &'static [(&'static str, Self)] =
        &[("tls-alpn-01", Self::TlsAlpn01), ("http-01", Self::Http01)];
}

/// Where certificates come from, and for which hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The authority's directory, an `https://` address.
    pub directory: String,
    /// Where the authority reports problems: `mailto:` addresses.
    pub contact: Vec<String>,
    /// The hosts, in lower case; at least one.
    pub hosts: Vec<String>,
    /// What the authority's own server is verified by, instead of this system's authorities.
    pub ca: Option<PathBuf>,
    /// How the authority sees that a host is ours.
    pub challenge: AcmeChallenge,
}

/// What `[acme]` comes to, if there is one.
pub(super) fn check_acme(
    top: &Top,
    facts: &ListenerFacts,
    state_dir: Option<&Path>,
    report: &mut Report,
) -> Option<Acme> {
    let written = top.acme.given()?;
    let keys = AcmeKeys::settle(&written.value);
    check_surroundings(written, &keys, facts, report);
    if state_dir.is_none() && top.state_dir != Field::Faulty {
        let fault = Fault::new("ACME needs a directory for its account and its certificates");
        report.error(
            &written.at,
            "acme",
            fault.hint("add state_dir = \"/var/lib/sluice\" at the top of the file"),
        );
    }
    if let Some(ca) = keys.ca.given() {
        check_roots(ca, "acme.ca", report);
    }
    let directory = check_directory(&keys, &written.value, report);
    let hosts = check_hosts(&keys.hosts, &written.at, report);
    let contact = check_contact(&keys.contact, report);
    Some(Acme { directory, contact, hosts, ca: keys.ca.value().cloned(), challenge: keys.challenge })
}

/// The listeners that certificates and challenges need.
fn check_surroundings(
    written: &Located<Values>,
    keys: &AcmeKeys,
    facts: &ListenerFacts,
    report: &mut Report,
) {
    if facts.has_no_tls() {
        let fault = Fault::new("no listener has TLS, so no client sees these certificates");
        let hint = "add listen_tls = [\"[::]:443\"], or tls = \"on\" to a [[listener]]";
        report.error(&written.at, "acme", fault.hint(hint));
    } else if keys.challenge == AcmeChallenge::Http01 && !facts.takes_clear_text && !facts.some_unread {
        let fault = Fault::new("http-01 comes to port 80 in clear text, and every listener is TLS");
        let at = written.value.field("challenge").given().map_or(&written.at, |given| &given.at);
        report.error(at, "acme.challenge", fault.hint("add listen = [\"[::]:80\"], or use tls-alpn-01"));
    }
}

fn check_directory(keys: &AcmeKeys, written: &Values, report: &mut Report) -> String {
    let text = &keys.directory;
    let host = text.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    if let Some(given) = written.field("directory").given()
        && host.is_none_or(|host| host.is_empty() || text.contains(char::is_whitespace))
    {
        let fault = Fault::new(format!("`{text}` is not an https:// address"));
        let hint =
            "the authority's directory, such as https://acme-staging-v02.api.letsencrypt.org/directory";
        report.error(&given.at, "acme.directory", fault.hint(hint));
    }
    text.clone()
}

fn check_hosts(field: &Field<Vec<Located<String>>>, at: &Origin, report: &mut Report) -> Vec<String> {
    let key = "acme.hosts";
    let given = match field {
        Field::Given(given) if !given.value.is_empty() => given,
        Field::Faulty => return Vec::new(),
        _ => {
            let at = field.given().map_or(at, |given| &given.at);
            let fault =
                Fault::new("no host to get a certificate for").hint("add hosts = [\"www.example.com\"]");
            report.error(at, key, fault);
            return Vec::new();
        }
    };
    let mut hosts = Vec::new();
    for host in &given.value {
        let name = host.value.to_ascii_lowercase();
        match check_host(&name) {
            Err(fault) => report.error(&host.at, key, fault),
            Ok(()) if hosts.contains(&name) => {
                report.error(&host.at, key, Fault::new(format!("`{name}` is there twice")));
            }
            Ok(()) => hosts.push(name),
        }
    }
    hosts
}

fn check_host(name: &str) -> Result<(), Fault> {
    if name.starts_with("*.") {
        let fault = Fault::new(format!("`{name}`: neither challenge is for a wildcard"));
        return Err(fault.hint("name each host, or bring a certificate of your own by [[certificate]]"));
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(Fault::new(format!("`{name}`: certificates are for names")));
    }
    if !name.contains('.') {
        return Err(Fault::new(format!("`{name}`: no authority knows a name without a dot")));
    }
    check_name(name).map_err(|why| Fault::new(format!("`{name}` is not a host name: {why}")))
}

fn check_contact(field: &Field<Vec<Located<String>>>, report: &mut Report) -> Vec<String> {
    let mut contact = Vec::new();
    for item in field.value().into_iter().flatten() {
        let mail = item.value.strip_prefix("mailto:").unwrap_or(&item.value);
        let is_mail =
            mail.split_once('@').is_some_and(|(user, host)| !user.is_empty() && check_name(host).is_ok());
        if is_mail && !mail.contains(char::is_whitespace) {
            contact.push(format!("mailto:{mail}"));
        } else {
            let fault = Fault::new(format!("`{}` is not a mail address", item.value));
            report.error(&item.at, "acme.contact", fault.hint("such as admin@example.com"));
        }
    }
    contact
}
