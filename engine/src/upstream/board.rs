//! What the whole process knows of servers: what checks say of them, written by the thread that checks (`control::health`), until
//! when they are ejected, written by the shard that ejects one, and for each shard the numbers that it alone writes.
//!
//! Shards do not look here for a request unless a total of all shards decides. They copy whether a server is down or ejected when
//! a message says that something has changed, and when a configuration is put in force. Entries go by name, so that what is known
//! of a server survives a change of configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crossbeam_utils::CachePadded;

use crate::config::{Scheme, UpstreamGroup, UpstreamServer};
use crate::counters::Counter;
use crate::traffic::{ByClass, Times, Traffic};
use crate::upstream::capacity::{Capacity, Keepers, Waiting};
use crate::upstream::members::GroupMembers;

/// So many lines are written to the log about a server in [`LINES_MS`].
const LINES_MAX: u64 = 10;
const LINES_MS: u64 = 10_000;

/// The identity of a server: its group, and its address as configured.
type Name = (String, Scheme, String);

/// All servers.
pub(crate) struct ServerBoard {
    shards: usize,
    servers: Mutex<BTreeMap<Name, Arc<ServerEntry>>>,
    /// Those that no group has any more, as long as exchanges are with them: a server that is there again meanwhile is the same one,
    /// with the connections that it has.
    left: Mutex<BTreeMap<Name, Weak<ServerEntry>>>,
    /// By group, the requests that wait for a server of it, where connections are limited.
    waiting: Mutex<BTreeMap<String, Arc<Waiting>>>,
    pub(crate) keepers: Arc<Keepers>,
    /// The numbers of groups and routes.
    pub(crate) traffic: Traffic,
    reporter: Arc<Reporter>,
}

/// Where shards report what has become of servers and groups: the control thread writes it to the log and tells the other shards.
#[derive(Default)]
pub(crate) struct Reporter(OnceLock<Box<dyn Fn(Report) + Send + Sync>>);

/// Something has become of a server or a group.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) upstream: String,
    /// Its address; empty if it is about the group.
    pub(crate) server: String,
    pub(crate) change: ServerChange,
    /// Enough was written about it a moment ago.
    pub(crate) is_silent: bool,
}

/// What has become of it.
#[derive(Debug)]
pub(crate) enum ServerChange {
    Ejected {
        why: String,
        time_ms: u64,
        /// How many of how many servers of the group are out.
        out: usize,
        of: usize,
    },
    Restored,
    /// So many of the last requests to the group have failed.
    BreakerOpened {
        failures: u32,
        of: u32,
        time_ms: u64,
    },
    BreakerClosed,
}

/// One server.
pub(crate) struct ServerEntry {
    pub(crate) health: ServerHealth,
    /// Its group and its URL.
    name: (String, String),
    reporter: Arc<Reporter>,
    /// Until when it is ejected, in the milliseconds that all shards count, and in the last byte which ejection in a row it is.
    ejection: AtomicU64,
    /// How long it is ejected for.
    ejection_ms: AtomicU64,
    /// Since when lines of the log about it are counted, and in the last byte how many there were.
    lines: AtomicU64,
    /// Its connections, where they are limited.
    capacity: OnceLock<Arc<Capacity>>,
    /// By shard, each made by that shard, so that it lies in memory near to it.
    numbers: Box<[OnceLock<Arc<CachePadded<ServerNumbers>>>]>,
}

/// The ejection of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EjectionWord {
    /// Until when, in the milliseconds that all shards count: below 2 to the 56th, which is two million years.
    pub(crate) until_ms: u64,
    /// Which ejection in a row it is; 0 for none.
    pub(crate) level: u8,
    /// How long it is.
    pub(crate) time_ms: u64,
}

/// What one shard has to say of a server. Each shard alone writes its own.
#[derive(Debug, Default)]
pub(crate) struct ServerNumbers {
    /// Requests under way.
    pub(crate) active: Counter,
    /// Its responses.
    pub(crate) responses: ByClass,
    /// From the sending of a request to the head of its response.
    pub(crate) times: Times,
    /// Connections made to it.
    pub(crate) connects: Counter,
    /// Connections that could not be made.
    pub(crate) connect_errors: Counter,
    /// Requests that it had, and that were sent again.
    pub(crate) retries: Counter,
    /// Attempts that it has failed.
    pub(crate) failures: Counter,
    /// How often this shard has ejected it.
    pub(crate) ejections: Counter,
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
        let keepers = Arc::new(Keepers::new(shards));
        ServerBoard {
            shards,
            servers: Mutex::default(),
            left: Mutex::default(),
            waiting: Mutex::default(),
            keepers,
            traffic: Traffic::new(shards),
            reporter: Arc::default(),
        }
    }

    /// Where shards report to.
    pub(crate) fn reporter(&self) -> &Arc<Reporter> {
        &self.reporter
    }

    /// Adds the servers of these groups that are not there yet, and forgets those that no group has any more. They are up until a
    /// check says otherwise.
    pub(crate) fn cover(&self, groups: &[UpstreamGroup], members: &[GroupMembers]) {
        let mut names = BTreeSet::new();
        // All of them at once, for those who look at the same time.
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, members) in groups.iter().zip(members) {
            for member in &**members {
                self.entry_in(&mut servers, group, &member.server);
                names.insert(name(&group.name, &member.server));
            }
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, entry| entry.strong_count() > 0);
        servers.retain(|name, entry| {
            let is_member = names.contains(name);
            if !is_member {
                left.insert(name.clone(), Arc::downgrade(entry));
            }
            is_member
        });
    }

    /// The entry of a server, made if there is none.
    pub(crate) fn entry(&self, group: &UpstreamGroup, server: &UpstreamServer) -> Arc<ServerEntry> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        self.entry_in(&mut servers, group, server)
    }

    fn entry_in(
        &self,
        servers: &mut BTreeMap<Name, Arc<ServerEntry>>,
        group: &UpstreamGroup,
        server: &UpstreamServer,
    ) -> Arc<ServerEntry> {
        let name = name(&group.name, server);
        let entry = servers.entry(name.clone()).or_insert_with(|| {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = left.remove(&name).and_then(|entry| entry.upgrade()) {
                return entry;
            }
            let (name, reporter) = ((group.name.clone(), server.name()), self.reporter.clone());
            Arc::new(ServerEntry { name, reporter, ..ServerEntry::new(self.shards) })
        });
        entry.health.is_checked.store(group.health.is_some(), Relaxed);
        entry.clone()
    }

    /// Calls `f` with each server.
    pub(crate) fn for_each_entry(&self, f: impl FnMut(&Arc<ServerEntry>)) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(f);
    }

    /// The requests that wait for a server of this group.
    pub(crate) fn waiting(&self, group: &str) -> Arc<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Waiting::new(self.keepers.clone()));
        waiting.entry(group.to_owned()).or_insert_with(new).clone()
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
            name: Default::default(),
            reporter: Arc::default(),
            ejection: AtomicU64::new(0),
            ejection_ms: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            capacity: OnceLock::new(),
            numbers: (0..shards).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Its group and its URL.
    pub(crate) fn name(&self) -> (&str, &str) {
        (&self.name.0, &self.name.1)
    }

    /// Its ejection, as the shard has it that has ejected it.
    pub(crate) fn ejection(&self) -> EjectionWord {
        let word = self.ejection.load(SeqCst);
        EjectionWord { until_ms: word >> 8, level: word as u8, time_ms: self.ejection_ms.load(Relaxed) }
    }

    /// Whether it is ejected.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejection().level > 0
    }

    /// Written by the shard that ejects it or has it back. Sequentially consistent, so that of two shards that eject two servers at
    /// the same time one at least sees the other's.
    pub(crate) fn set_ejection(&self, ejection: EjectionWord) {
        self.ejection_ms.store(ejection.time_ms, Relaxed);
        self.ejection.store(ejection.until_ms << 8 | u64::from(ejection.level), SeqCst);
    }

    /// Reports what has become of it.
    pub(crate) fn report(&self, now_ms: u64, change: ServerChange) {
        let word = self.lines.load(Relaxed);
        let (since_ms, lines) = (word >> 8, word & 0xff);
        let (since_ms, lines) = if now_ms < since_ms + LINES_MS { (since_ms, lines) } else { (now_ms, 0) };
        let is_silent = lines >= LINES_MAX;
        // Below 256, and two shards that report at the same time may write a line more.
        self.lines.store(since_ms << 8 | (lines + 1).min(LINES_MAX), Relaxed);
        let (upstream, server) = self.name.clone();
        self.reporter.report(Report { upstream, server, change, is_silent });
    }

    /// Its connections, for which requests of its group wait.
    pub(crate) fn capacity(&self, waiting: &Arc<Waiting>) -> Arc<Capacity> {
        self.capacity.get_or_init(|| Arc::new(Capacity::new(waiting.clone()))).clone()
    }

    /// The numbers of this shard, which calls this on its own thread.
    pub(crate) fn numbers_of(&self, shard: usize) -> Arc<CachePadded<ServerNumbers>> {
        self.numbers[shard].get_or_init(Arc::default).clone()
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.numbers.len()
    }

    /// Those of all shards that know the server.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = &ServerNumbers> {
        self.numbers.iter().filter_map(|numbers| numbers.get().map(|numbers| &***numbers))
    }
}

impl Reporter {
    /// From now on reports go here. The first call holds.
    pub(crate) fn send_to(&self, take: impl Fn(Report) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(take));
    }

    pub(crate) fn report(&self, report: Report) {
        if let Some(take) = self.0.get() {
            take(report);
        }
    }
}

fn name(group: &str, server: &UpstreamServer) -> Name {
    (group.to_owned(), server.scheme, server.label())
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
