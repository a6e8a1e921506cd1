//! A shard's listeners with TLS: what their handshakes have in common, and how many are under way.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use sluice_tls::handshake::{ClientCertificates, ServerConfig, ServerSettings};

use super::files::{ListenerFiles, TlsFiles};
use super::material::{CurrentMaterial, Material};
use crate::config::TlsMode;
use crate::connection::tls::{AskedName, NameHash};
use crate::route::bare_name;

/// The listeners of a shard, by number.
pub(crate) struct TlsListeners {
    by_listener: Vec<Option<TlsListener>>,
    current: Arc<CurrentMaterial>,
    /// The answers to HTTP-01 challenges of ACME, by token.
    challenges: RefCell<Vec<(String, String)>>,
    has_challenges: Cell<bool>,
    pub(crate) handshakes: Rc<Handshakes>,
}

/// A listener with TLS.
pub(crate) struct TlsListener {
    pub(crate) mode: TlsMode,
    pub(crate) kernel_tls: bool,
    settings: ServerSettings,
    config: RefCell<ServerConfig>,
}

impl TlsListeners {
    /// Those of the configuration.
    ///
    /// # Errors
    /// One line: a key that cannot be used.
    pub(crate) fn new(files: &TlsFiles) -> Result<TlsListeners, String> {
        let material = files.material.get();
        let listener = |listener: &ListenerFiles| {
            let (mode, settings) = (listener.mode, listener.settings.clone());
            let config = RefCell::new(server_config(&settings, &material)?);
            Ok(TlsListener { mode, kernel_tls: listener.kernel_tls, settings, config })
        };
        let all = files.listeners.iter().map(|listener_| listener_.as_ref().map(listener).transpose());
        let mut by_listener = all.collect::<Result<Vec<_>, String>>()?;
        if by_listener.iter().all(Option::is_none) {
            by_listener.clear();
        }
        Ok(TlsListeners {
            by_listener,
            current: files.material.clone(),
            challenges: RefCell::default(),
            has_challenges: Cell::new(false),
            handshakes: Rc::default(),
        })
    }

    /// From now on clients see the certificates that are in force now; handshakes under way end with theirs.
    ///
    /// # Errors
    /// One line: a key that cannot be used. Everything stays as it was then.
    pub(crate) fn renew(&self) -> Result<(), String> {
        let material = self.current.get();
        self.has_challenges.set(!material.challenge_texts.is_empty());
        self.challenges.replace(material.challenge_texts.clone());
        let listeners = self.by_listener.iter().flatten();
        let configs: Vec<ServerConfig> = listeners
            .clone()
            .map(|listener| server_config(&listener.settings, &material))
            .collect::<Result<_, String>>()?;
        for (listener, config) in listeners.zip(configs) {
            listener.config.replace(config);
        }
        Ok(())
    }

    /// Whether an authority is about to check that hosts are ours, by requests.
    #[inline]
    pub(crate) fn has_challenges(&self) -> bool {
        self.has_challenges.get()
    }

    /// The number of the challenge that this path is for.
    //= https://www.rfc-editor.org/rfc/rfc8555#section-8.3
    pub(crate) fn challenge_of(&self, path: &str) -> Option<u8> {
        let token = path.strip_prefix("/.well-known/acme-challenge/")?;
        let at = self.challenges.borrow().iter().position(|(known, _)| known == token)?;
        u8::try_from(at).ok()
    }

    /// The answer to the challenge with this number; empty if it is gone.
    pub(crate) fn with_challenge(&self, number: u8, write: impl FnOnce(&str)) {
        let challenges = self.challenges.borrow();
        write(challenges.get(usize::from(number)).map_or("", |(_, text)| text));
    }

    /// The listener with this number, if it has TLS.
    #[inline]
    pub(crate) fn of(&self, listener: u8) -> Option<&TlsListener> {
        self.by_listener.get(usize::from(listener))?.as_ref()
    }
}

impl TlsListener {
    pub(crate) fn config(&self) -> ServerConfig {
        self.config.borrow().clone()
    }

    /// The name that a client asks for, as its connection keeps it.
    pub(crate) fn asked(&self, name: &str) -> AskedName {
        let certificate = self.config.borrow().certificate_of(name);
        AskedName { name: NameHash::of(name.as_bytes()), certificate }
    }

    /// Whether a request for this authority may come over a connection that was opened for this name: it is the same host, or one
    /// with the same certificate, for which browsers reuse a connection.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.20
    pub(crate) fn serves_both(&self, asked: AskedName, authority: &str) -> bool {
        let host = bare_name(authority);
        NameHash::of(host) == asked.name || self.serves_other(asked, host)
    }

    #[cold]
    fn serves_other(&self, asked: AskedName, host: &[u8]) -> bool {
        // Where clients are asked for certificates, the name may be what one was asked for.
        if !matches!(self.settings.client_certificates, ClientCertificates::Off) {
            return false;
        }
        let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
        let name = str::from_utf8(host).unwrap_or_default().to_ascii_lowercase();
        self.config.borrow().certificate_of(&name) == asked.certificate
    }
}

fn server_config(settings: &ServerSettings, material: &Material) -> Result<ServerConfig, String> {
    ServerConfig::new(settings, &material.certificates, &material.tickets)
}

/// The party that an address is counted as: itself, or its network of 64 bits.
pub(crate) fn party_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Handshakes under way.
#[derive(Default)]
pub(crate) struct Handshakes {
    count: Cell<usize>,
    /// The turn of the loop in which one was last at work, and how many were in it.
    turn: Cell<u64>,
    steps: Cell<u32>,
    /// Only where they are limited.
    by_address: RefCell<HashMap<IpAddr, u32>>,
}

/// Counts as one of them until it is dropped.
pub(crate) struct Handshaking {
    handshakes: Rc<Handshakes>,
    address: Option<IpAddr>,
}

impl Handshakes {
    /// Whether one may do a step in this turn of the loop.
    pub(crate) fn may_step(&self, turn: u64, steps_max: u32) -> bool {
        let steps = if self.turn.replace(turn) == turn { self.steps.get() } else { 0 };
        self.steps.set((steps + 1).min(steps_max));
        steps < steps_max
    }

    /// One more, of this address if its handshakes are counted; `None` if there are as many as there may be.
    pub(crate) fn begin(
        self: &Rc<Self>,
        count_max: usize,
        address: Option<(IpAddr, u32)>,
    ) -> Option<Handshaking> {
        if count_max > 0 && self.count.get() >= count_max {
            return None;
        }
        if let Some((address, address_max)) = address {
            let mut by_address = self.by_address.borrow_mut();
            let count = by_address.entry(address).or_insert(0);
            if *count >= address_max {
                return None;
            }
            *count += 1;
        }
        self.count.set(self.count.get() + 1);
        Some(Handshaking { handshakes: self.clone(), address: address.map(|(address, _)| address) })
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.handshakes.count.set(self.handshakes.count.get() - 1);
        if let Some(address) = self.address {
            let mut by_address = self.handshakes.by_address.borrow_mut();
            if let Some(count) = by_address.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&address);
                }
            }
        }
    }
}

/// What names are hashed with: unknown outside, so that no two names can be found that are taken for one.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl NameHash {
    /// Of a name in any case: a few nanoseconds, and no allocation.
    pub(crate) fn of(name: &[u8]) -> NameHash {
        let mut hasher = HASHER.build_hasher();
        for part in name.chunks(8) {
            // No name holds zeros, so that these end it.
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            word.make_ascii_lowercase();
            hasher.write(&word);
        }
        NameHash(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};
    use sluice_tls::certificates::{Certificate, CertificateSet};
    use sluice_tls::tickets::TicketKeys;

    fn certificate(folder: &Path, names: &[&str]) -> Arc<Certificate> {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let file = folder.join("both.pem");
        std::fs::write(&file, made.pem() + &key.serialize_pem()).unwrap();
        Arc::new(Certificate::load(&file, &file, None).unwrap())
    }

    #[test]
    fn a_connection_is_for_the_certificate_that_it_was_opened_with() {
        let folder = tempfile::TempDir::new().unwrap();
        let material = |names: &[&[&str]]| Material {
            challenge_texts: Vec::new(),
            certificates: CertificateSet {
                all: names.iter().map(|names| certificate(folder.path(), names)).collect(),
                ..CertificateSet::default()
            },
            tickets: Arc::new(TicketKeys::generate(1_000).unwrap()),
        };
        let current =
            Arc::new(CurrentMaterial::new(material(&[&["a.example", "b.example"], &["c.example"]])));
        let listener =
            ListenerFiles { mode: TlsMode::On, settings: ServerSettings::default(), kernel_tls: false };
        let files =
            TlsFiles { listeners: vec![Some(listener)], upstreams: Vec::new(), material: current.clone() };
        let listeners = TlsListeners::new(&files).unwrap();
        let listener = listeners.of(0).unwrap();
        let opened = listener.asked("a.example");
        let serves = |authority| listener.serves_both(opened, authority);
        assert!(serves("a.example") && serves("B.example:1") && serves("d.example") && !serves("c.example"));

        // Renewed, and in another order.
        current.replace(material(&[&["c.example"], &["B.example", "a.example"]]));
        listeners.renew().unwrap();
        assert!(serves("a.example") && serves("b.example") && !serves("c.example") && !serves("d.example"));

        // Another one is for the second name now. The first is where the connection leads, whatever became of it.
        current.replace(material(&[&["a.example"], &["b.example"]]));
        listeners.renew().unwrap();
        assert!(serves("A.example.") && !serves("b.example"));
    }

    #[test]
    fn names_are_hashed_in_any_case() {
        let of = |name: &str| NameHash::of(name.as_bytes());
        assert_eq!(of("Shop.EXAMPLE.com"), of("shop.example.com"));
        let all =
            ["", "a", "a.example", "b.example", "a.example.com", "a.example.co", "12345678", "1234567", "A@"];
        for (at, name) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| of(other) != of(name)), "{name}");
        }
        // A letter and what differs from it by the bit for its case.
        assert_ne!(of("[a]"), of("{a}"));
        assert_ne!(of("a-b"), of("a\rb"));
    }
}
