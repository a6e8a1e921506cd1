//! What checks say of servers: one entry for each that is checked, written by the thread that checks (`control::health`).
//!
//! Shards do not look here for a request. They copy whether a server is down when a message says that something has changed, and when
//! a configuration is put in force. Entries go by name, so that what is known of a server survives a change of configuration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, Scheme, UpstreamServer};

/// The identity of a server: its group, and its address as configured.
type Name = (String, Scheme, String);

/// All servers that are checked.
#[derive(Default)]
pub(crate) struct HealthBoard {
    servers: Mutex<BTreeMap<Name, Arc<ServerHealth>>>,
}

/// What checks say of one server.
#[derive(Debug, Default)]
pub(crate) struct ServerHealth {
    is_down: AtomicBool,
    passed: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
}

/// How often a server was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CheckCounts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Those that had to wait for others for longer than their interval.
    pub(crate) late: u64,
}

impl HealthBoard {
    /// Adds the servers of a configuration that are checked and not there yet. They are up until a check says otherwise.
    pub(crate) fn cover(&self, config: &Config) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for group in config.upstreams.iter().filter(|group| group.health.is_some()) {
            for server in &group.servers {
                servers.entry(name(&group.name, server)).or_default();
            }
        }
    }

    /// What is known of a server, if it is checked.
    pub(crate) fn find(&self, group: &str, server: &UpstreamServer) -> Option<Arc<ServerHealth>> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(&name(group, server)).cloned()
    }

    /// Calls `f` with group, scheme, address and what is known, for each.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&str, Scheme, &str, &ServerHealth)) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for ((group, scheme, authority), health) in &*servers {
            f(group, *scheme, authority, health);
        }
    }
}

fn name(group: &str, server: &UpstreamServer) -> Name {
    (group.to_owned(), server.scheme, server.authority.clone())
}

impl ServerHealth {
    #[cfg(test)]
    pub(crate) fn new() -> ServerHealth {
        ServerHealth::default()
    }

    /// Whether checks hold it down.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    /// Only for the thread that checks.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Relaxed);
    }

    /// A check is over. Only for the thread that checks.
    pub(crate) fn count(&self, has_passed: bool) {
        let counter = if has_passed { &self.passed } else { &self.failed };
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }

    /// A check had to wait for longer than its interval. Only for the thread that checks.
    pub(crate) fn count_late(&self) {
        self.late.store(self.late.load(Relaxed) + 1, Relaxed);
    }

    pub(crate) fn counts(&self) -> CheckCounts {
        CheckCounts {
            passed: self.passed.load(Relaxed),
            failed: self.failed.load(Relaxed),
            late: self.late.load(Relaxed),
        }
    }
}
