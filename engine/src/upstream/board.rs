//! What the whole process knows of servers: what checks say of them, written by the thread that checks (`control::health`), and for
//! each shard the numbers that it alone writes.
//!
//! Shards do not look here for a request unless a total of all shards decides. They copy whether a server is down when a message says
//! that something has changed, and when a configuration is put in force. Entries go by name, so that what is known of a server
//! survives a change of configuration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_utils::CachePadded;

use crate::config::{Config, Scheme, UpstreamGroup, UpstreamServer};
use crate::counters::Counter;

/// The identity of a server: its group, and its address as configured.
type Name = (String, Scheme, String);

/// All servers.
pub(crate) struct ServerBoard {
    shards: usize,
    servers: Mutex<BTreeMap<Name, Arc<ServerEntry>>>,
}

/// One server.
pub(crate) struct ServerEntry {
    pub(crate) health: ServerHealth,
    /// By shard, each made by that shard, so that it lies in memory near to it.
    numbers: Box<[OnceLock<Arc<CachePadded<ServerNumbers>>>]>,
}

/// What one shard has to say of a server. Each shard alone writes its own.
#[derive(Debug, Default)]
pub(crate) struct ServerNumbers {
    /// Requests under way.
    pub(crate) active: Counter,
}

/// What checks say of one server.
#[derive(Debug, Default)]
pub(crate) struct ServerHealth {
    is_checked: AtomicBool,
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

impl ServerBoard {
    /// For so many shards.
    pub(crate) fn new(shards: usize) -> ServerBoard {
        ServerBoard { shards, servers: Mutex::default() }
    }

    /// Adds the servers of a configuration that are not there yet. They are up until a check says otherwise.
    pub(crate) fn cover(&self, config: &Config) {
        for group in &config.upstreams {
            for server in &group.servers {
                self.entry(group, server);
            }
        }
    }

    /// The entry of a server, made if there is none.
    pub(crate) fn entry(&self, group: &UpstreamGroup, server: &UpstreamServer) -> Arc<ServerEntry> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = servers.entry(name(&group.name, server));
        let entry = entry.or_insert_with(|| Arc::new(ServerEntry::new(self.shards)));
        entry.health.is_checked.store(group.health.is_some(), Relaxed);
        entry.clone()
    }

    /// Calls `f` with group, scheme, address and what is known, for each.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&str, Scheme, &str, &ServerEntry)) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for ((group, scheme, authority), entry) in &*servers {
            f(group, *scheme, authority, entry);
        }
    }
}

impl ServerEntry {
    /// A server of which nothing is known, for so many shards.
    pub(crate) fn new(shards: usize) -> ServerEntry {
        ServerEntry {
            health: ServerHealth::default(),
            numbers: (0..shards).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The numbers of this shard, which calls this on its own thread.
    pub(crate) fn numbers_of(&self, shard: usize) -> Arc<CachePadded<ServerNumbers>> {
        self.numbers[shard].get_or_init(Arc::default).clone()
    }

    /// Those of all shards that know the server.
    #[cfg_attr(not(test), expect(dead_code, reason = "no total is needed yet"))]
    pub(crate) fn numbers(&self) -> impl Iterator<Item = &ServerNumbers> {
        self.numbers.iter().filter_map(|numbers| numbers.get().map(|numbers| &***numbers))
    }
}

fn name(group: &str, server: &UpstreamServer) -> Name {
    (group.to_owned(), server.scheme, server.authority.clone())
}

impl ServerHealth {
    /// Whether it is checked.
    pub(crate) fn is_checked(&self) -> bool {
        self.is_checked.load(Relaxed)
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
