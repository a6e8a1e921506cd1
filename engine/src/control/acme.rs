//! Certificates from an authority by ACME (RFC 8555): ordered when there is none for the hosts, and again at two thirds of its
//! life.
//!
//! A thread of its own asks the authority, one blocking request after the other. What clients see is in the hands of the control
//! thread: this one sends it answers to challenges and certificates as events, and waits until shards have taken over answers.
//! Account and certificate are kept in `state_dir/acme/AUTHORITY/`.

mod https;
mod order;
mod pairs;

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread;
use std::time::Duration;

use instant_acme::{Account, AccountCredentials, NewAccount};
use sluice_tls::certificates::{Certificate, CertificateFacts, utc};
use zeroize::Zeroizing;

use self::https::Https;
use super::state_file;
use crate::config::{Acme, Config};
use crate::log;
use crate::tls::files::now_s;

const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.pem";

/// After a failure, and twice as long after each one that follows. Authorities limit failures for each host: Let's Encrypt to five
/// an hour.
const RETRY_FIRST: Duration = Duration::from_secs(120);
const RETRY_MAX: Duration = Duration::from_secs(12 * 3600);

/// The clock may be set while this thread sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// How long the control thread may take to put answers in force.
const SHOW_PATIENCE: Duration = Duration::from_secs(30);

/// The answers to challenges that are pending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// Of TLS-ALPN-01: certificates by host.
    pub(crate) certificates: Vec<(String, Arc<Certificate>)>,
    /// Of HTTP-01: texts by token.
    pub(crate) texts: Vec<(String, String)>,
}

impl Answers {
    fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.texts.is_empty()
    }
}

/// What is to be put in force.
pub(crate) enum AcmeEvent {
    /// These answers and no others; a reply says that shards have them.
    Answers(Answers, Sender<()>),
    /// A certificate.
    Certificate(Arc<Certificate>),
}

/// What listeners show for the hosts at the start.
pub(crate) struct Stored {
    /// `None` if other certificates are for all of the hosts.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// None of the authority was there: clients do not trust this one.
    pub(crate) is_stand_in: bool,
    /// Its file.
    pub(crate) file: PathBuf,
}

impl Stored {
    /// What it is called in messages and metrics.
    pub(crate) fn name(&self) -> String {
        self.file.display().to_string()
    }

    /// The certificate, if an authority has made it.
    pub(crate) fn issued(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref().filter(|_| !self.is_stand_in)
    }
}

/// Where account and certificate of an authority are: a trial with another one leaves them alone.
fn directory(acme: &Acme, state_dir: &Path) -> PathBuf {
    let address = acme.directory.trim_start_matches("https://");
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-');
    let name: String = address.chars().map(|char| if is_plain(char) { char } else { '_' }).collect();
    // A name of dots alone would lead elsewhere.
    state_dir.join("acme").join(format!("at-{name}"))
}

/// The certificate of an earlier order for these hosts, or one of our own for those that `others` do not have.
///
/// # Errors
/// One line: a host is none.
pub(crate) fn stored(acme: &Acme, state_dir: &Path, others: &[Arc<Certificate>]) -> Result<Stored, String> {
    let file = directory(acme, state_dir).join(CERTIFICATE);
    let read = state_file::read(&file).and_then(|content| match content {
        Some(_) => Certificate::load(&file, &file, None).map(Some),
        None => Ok(None),
    });
    let found = read.unwrap_or_else(|why| {
        log::warn(format_args!("{why}: another certificate is ordered"));
        None
    });
    if let Some(certificate) = found.filter(|certificate| covers(&certificate.facts, &acme.hosts)) {
        return Ok(Stored { certificate: Some(Arc::new(certificate)), is_stand_in: false, file });
    }
    // A certificate that clients trust is not to compete with one that they do not.
    let has_other = |host: &String| others.iter().any(|other| is_for(&other.facts, host));
    let without: Vec<_> = acme.hosts.iter().filter(|host| !has_other(host)).cloned().collect();
    let certificate = match without.as_slice() {
        [] => None,
        hosts => {
            log::info(format_args!(
                "ACME: no certificate for {} yet: clients see a self-signed one until the authority has made one",
                hosts.join(", ")
            ));
            Some(Arc::new(pairs::stand_in(hosts)?))
        }
    };
    Ok(Stored { certificate, is_stand_in: true, file })
}

fn is_for(facts: &CertificateFacts, host: &str) -> bool {
    let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    facts.names.iter().any(|name| name == host || Some(name) == wildcard.as_ref())
}

fn covers(facts: &CertificateFacts, hosts: &[String]) -> bool {
    hosts.iter().all(|host| facts.names.contains(host))
}

/// Begins to order certificates, the first one at once if there is none.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start<E>(config: &Config, stored: &Stored, events: SyncSender<E>) -> std::io::Result<()>
where
    E: From<AcmeEvent> + Send + 'static,
{
    let (Some(acme), Some(state_dir)) = (&config.acme, &config.state_dir) else { return Ok(()) };
    let current = stored.issued().map(|certificate| certificate.facts.clone());
    let mut client = Client {
        acme: acme.clone(),
        directory: directory(acme, state_dir),
        send: Box::new(move |event| events.send(event.into()).is_ok()),
    };
    thread::Builder::new().name("acme".into()).spawn(move || client.live(current)).map(drop)
}

/// When a certificate is ordered anew: at two thirds of its life.
fn renewal_s(facts: &CertificateFacts) -> i64 {
    facts.not_before_s + (facts.not_after_s - facts.not_before_s) / 3 * 2
}

/// The pause after so many failures in a row, of which a random part is left out: many hosts are not to come back at once.
fn pause(failures: u32) -> Duration {
    let whole = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX);
    let random = (RandomState::new().hash_one(failures) % 1_000) as u32;
    whole - whole / 5_000 * random
}

/// The side of the authority's client.
struct Client {
    acme: Acme,
    directory: PathBuf,
    /// To the control thread; says whether it is there.
    send: Box<dyn Fn(AcmeEvent) -> bool + Send>,
}

impl Client {
    /// The life of the thread.
    fn live(&mut self, mut current: Option<CertificateFacts>) {
        let mut failures = 0;
        loop {
            let due_s = current.as_ref().map_or(0, renewal_s);
            let left_s = u64::try_from(due_s.saturating_sub_unsigned(now_s())).unwrap_or(0);
            if left_s > 0 {
                thread::sleep(Duration::from_secs(left_s).min(SLEEP_MAX));
                continue;
            }
            match self.renew() {
                Ok(facts) => {
                    failures = 0;
                    current = Some(facts);
                }
                Err(why) => {
                    failures += 1;
                    let pause = pause(failures);
                    log::error(format_args!(
                        "ACME: no certificate for {}: {why} (next attempt in {} s)",
                        self.acme.hosts.join(", "),
                        pause.as_secs()
                    ));
                    thread::sleep(pause);
                }
            }
        }
    }

    /// Gets a certificate, keeps it, and puts it in force.
    fn renew(&self) -> Result<CertificateFacts, String> {
        let account = self.account()?;
        let mut show = |answers| self.show(answers);
        let (key, chain) = order::order(&account, &self.acme.hosts, self.acme.challenge, &mut show)?;
        let content = Zeroizing::new(format!("{key}{chain}"));
        state_file::write(&self.directory, CERTIFICATE, content.as_bytes())?;
        let file = self.directory.join(CERTIFICATE);
        let certificate = Certificate::load(&file, &file, None)?;
        let facts = certificate.facts.clone();
        if !covers(&facts, &self.acme.hosts) {
            return Err(format!("the authority has made one for {} only", facts.names.join(", ")));
        }
        if renewal_s(&facts).saturating_sub_unsigned(now_s()) <= 0 {
            return Err(format!("the authority has made one that ends on {}", utc(facts.not_after_s)));
        }
        if !(self.send)(AcmeEvent::Certificate(Arc::new(certificate))) {
            return Err("Sluice ends".to_owned());
        }
        Ok(facts)
    }

    /// Puts these answers in force, and waits until shards have them.
    fn show(&self, answers: Answers) -> Result<(), String> {
        let (reply, replied) = channel();
        let is_there = (self.send)(AcmeEvent::Answers(answers, reply));
        match is_there && replied.recv_timeout(SHOW_PATIENCE).is_ok() {
            true => Ok(()),
            false => Err("the control thread does not answer".to_owned()),
        }
    }

    /// The account that was made before, or a new one.
    fn account(&self) -> Result<Account, String> {
        let https =
            || Https::new(self.acme.ca.as_deref()).map(|https| Account::builder_with_http(Box::new(https)));
        let path = self.directory.join(ACCOUNT);
        if let Some(content) = state_file::read(&path)? {
            let credentials: AccountCredentials = serde_json::from_slice(&content).map_err(|error| {
                format!("{}: {error} (hint: remove it to get another account)", path.display())
            })?;
            return order::run("the account", https()?.from_credentials(credentials));
        }
        let contact: Vec<&str> = self.acme.contact.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = https()?.create(&new, self.acme.directory.clone(), None);
        let (account, credentials) = order::run("the account", made)?;
        let content = serde_json::to_vec(&credentials).map(Zeroizing::new);
        state_file::write(&self.directory, ACCOUNT, &content.map_err(|error| error.to_string())?)?;
        log::info(format_args!("ACME: new account at {}, kept in {}", self.acme.directory, path.display()));
        Ok(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        for failures in 1..100 {
            let whole = RETRY_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_MAX);
            let pause = pause(failures);
            assert!(pause <= whole && pause >= whole / 5 * 4, "{failures}: {pause:?}");
        }
        // Five failures an hour at most.
        let first_five: Duration = (1..=5).map(|failures| pause(failures) + Duration::ZERO).sum();
        assert!(first_five > Duration::from_secs(2_900), "{first_five:?}");
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let mut facts = pairs::stand_in(&["a.example".to_owned()]).unwrap().facts;
        (facts.not_before_s, facts.not_after_s) = (1_000, 1_000 + 90 * 86_400);
        assert_eq!(renewal_s(&facts), 1_000 + 60 * 86_400);
    }

    #[test]
    fn a_stand_in_is_for_hosts_without_a_certificate_alone() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = ["a.example", "b.example", "www.c.example"].map(str::to_owned);
        let acme = Acme { hosts: hosts.to_vec(), ..acme("https://a/dir") };
        let other = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            Arc::new(pairs::stand_in(&names).unwrap())
        };
        let names = |others: &[_]| {
            let stored = stored(&acme, folder.path(), others).unwrap();
            assert!(stored.is_stand_in && stored.issued().is_none());
            stored.certificate.map(|certificate| certificate.facts.names.clone())
        };
        assert_eq!(names(&[]).unwrap(), hosts);
        assert_eq!(names(&[other(&["a.example"]), other(&["*.c.example"])]).unwrap(), ["b.example"]);
        assert_eq!(names(&[other(&["a.example", "b.example", "*.c.example"])]), None);
    }

    fn acme(directory: &str) -> Acme {
        Acme {
            directory: directory.to_owned(),
            contact: Vec::new(),
            hosts: Vec::new(),
            ca: None,
            challenge: crate::config::AcmeChallenge::Http01,
        }
    }

    #[test]
    fn every_authority_has_a_folder_of_its_own() {
        let of = |address: &str| directory(&acme(address), Path::new("/s"));
        assert_eq!(of("https://acme.example:14000/dir"), Path::new("/s/acme/at-acme.example_14000_dir"));
        assert_eq!(of("https://../.."), Path::new("/s/acme/at-.._.."));
    }
}
