//! Where servers come from: names, which are resolved again by their TTL, and files, which are read again when they change.
//!
//! At the start all names are resolved at once. Then a thread of its own has a task for each name and each file, on an event loop of
//! tokio. When a group has other servers, it puts them on the list (`upstream::members`), and an event has the control thread send
//! shards there. What was known stays in force as long as there is nothing better: a name server that does not answer, or a file that
//! cannot be used, changes nothing.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::sleep;

use super::resolve::{Answer, Asker, by_system, fixed};
use super::servers_file::{self, ServersFile};
use crate::blueprint::Blueprint;
use crate::config::{Config, UpstreamGroup, UpstreamServer};
use crate::log;
use crate::upstream::members::{GroupMembers, Member, Membership};

/// How long to wait after a question without an answer, at least.
const RETRY: Duration = Duration::from_secs(1);

/// How long changes are gathered before shards hear of them: to take over a list costs what it is long.
const GATHERING: Duration = Duration::from_millis(20);

/// How often the control thread is reminded of a change while it has no time for it.
const REMINDER: Duration = Duration::from_millis(5);

/// Some group has other servers: the list has them.
pub(crate) struct MembersChanged;

/// What an entry of a group's list has come to.
pub(crate) struct Resolved {
    server: UpstreamServer,
    is_of_file: bool,
    members: Vec<Member>,
}

/// The entries of each group, as they were at the start.
pub(crate) type AllResolved = Vec<Vec<Resolved>>;

/// The servers of all groups at the start.
///
/// # Errors
/// The first name that cannot be resolved, or file that cannot be read.
pub(crate) fn resolve(config: &Config) -> Result<AllResolved, String> {
    let mut errors = Vec::new();
    let groups = resolve_all(config, &mut errors)?;
    errors.into_iter().next().map_or(Ok(groups), Err)
}

/// Everything that keeps names from being resolved and files from being read.
#[cfg(feature = "cli")]
pub(crate) fn obstacles(config: &Config) -> Vec<String> {
    let mut errors = Vec::new();
    match resolve_all(config, &mut errors) {
        Ok(_) => errors,
        Err(error) => vec![error],
    }
}

/// The servers that these entries come to.
pub(crate) fn members(all: &AllResolved) -> Vec<GroupMembers> {
    let of_group = |entries: &Vec<Resolved>| {
        let members = entries.iter().flat_map(|entry| entry.members.iter().cloned());
        GroupMembers::from(distinct(members))
    };
    all.iter().map(of_group).collect()
}

fn resolve_all(config: &Config, errors: &mut Vec<String>) -> Result<AllResolved, String> {
    let runtime = event_loop()?;
    LocalSet::new().block_on(&runtime, async {
        let begun: Vec<_> = config.upstreams.iter().map(|group| begin(group, errors)).collect();
        let mut groups = Vec::new();
        for group in begun {
            let mut resolved = Vec::new();
            for asked in group {
                match asked.await {
                    Ok(Ok(entry)) => resolved.push(entry),
                    Ok(Err(why)) => errors.push(why),
                    Err(error) => errors.push(error.to_string()),
                }
            }
            groups.push(resolved);
        }
        Ok(groups)
    })
}

/// Asks for all names of a group at once.
fn begin(group: &UpstreamGroup, errors: &mut Vec<String>) -> Vec<JoinHandle<Result<Resolved, String>>> {
    let asker = Rc::new(Asker::new(&group.resolve));
    let of_file = match group.servers_file.as_ref().map(|file| servers_file::read(file, group)) {
        Some(Ok(servers)) => servers,
        Some(Err(why)) => {
            errors.push(why);
            Vec::new()
        }
        None => Vec::new(),
    };
    let is_ours = !group.resolve.nameservers.is_empty();
    let written = group.servers.iter().map(|server| (server, false));
    let all = written.chain(of_file.iter().map(|server| (server, true)));
    all.map(|(server, is_of_file)| {
        let (asker, server) = (asker.clone(), server.clone());
        spawn_local(async move {
            let members = ask_first(&asker, &server, is_ours).await?;
            Ok(Resolved { server, is_of_file, members })
        })
    })
    .collect()
}

fn event_loop() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|error| format!("cannot make an event loop for names: {error}"))
}

/// At the start, what DNS does not know may be known to the C library, unless we have name servers of our own.
async fn ask_first(asker: &Asker, server: &UpstreamServer, is_ours: bool) -> Result<Vec<Member>, String> {
    let why = match asker.ask(server).await {
        Ok((members, _)) => return Ok(members),
        Err(why) => why,
    };
    if !is_ours
        && !server.is_srv
        && let Ok(addresses) = by_system(server)
    {
        return Ok(vec![Member { server: server.clone(), addresses }]);
    }
    Err(format!(
        "cannot resolve server `{}`: {why} (hint: check the name, or write an address)",
        server.authority
    ))
}

/// Each server once: names may lead to the same one, with the share of the first then.
fn distinct(members: impl IntoIterator<Item = Member>) -> Vec<Member> {
    let mut members: Vec<Member> = members.into_iter().collect();
    let mut seen = HashSet::new();
    let is_new: Vec<bool> = members.iter().map(|member| seen.insert(member.server.identity())).collect();
    let mut is_new = is_new.into_iter();
    members.retain(|_| is_new.next().unwrap_or(false));
    members
}

/// Begins to look after names and files, if there are any. Every change is reported to the thread of checks, and to the control thread.
///
/// # Errors
/// One line: no thread.
pub(crate) fn start<E>(
    blueprint: &Arc<Blueprint>,
    resolved: AllResolved,
    changed: watch::Sender<()>,
    events: SyncSender<E>,
) -> Result<(), String>
where
    E: From<MembersChanged> + Send + 'static,
{
    let is_moving = |group: &UpstreamGroup| {
        group.servers_file.is_some() || group.servers.iter().any(UpstreamServer::is_resolved)
    };
    let groups = blueprint.config.upstreams.iter().cloned().enumerate().zip(resolved);
    let groups: Vec<_> = groups.filter(|((_, group), _)| is_moving(group)).collect();
    if groups.is_empty() {
        return Ok(());
    }
    let (runtime, blueprint) = (event_loop()?, blueprint.clone());
    let live = move || LocalSet::new().block_on(&runtime, look_after(groups, blueprint, changed, events));
    let started = thread::Builder::new().name("names".into()).spawn(live);
    started.map(drop).map_err(|error| format!("cannot start a thread for names: {error}"))
}

async fn look_after<E: From<MembersChanged>>(
    groups: Vec<((usize, UpstreamGroup), Vec<Resolved>)>,
    blueprint: Arc<Blueprint>,
    changed: watch::Sender<()>,
    events: SyncSender<E>,
) {
    let Blueprint { membership, config, servers, .. } = &*blueprint;
    let has_changed = Rc::new(Notify::new());
    let begin = |(group, resolved)| Source::begin(group, resolved, membership, &has_changed);
    let sources: Vec<Rc<Source>> = groups.into_iter().map(begin).collect();
    loop {
        has_changed.notified().await;
        // Names that are new together, such as those of a file, are answered in quick succession.
        sleep(GATHERING).await;
        let publish = |any: bool, source: &Rc<Source>| source.publish() | any;
        if !sources.iter().fold(false, publish) {
            continue;
        }
        servers.cover(&config.upstreams, &membership.now());
        changed.send_replace(());
        loop {
            match events.try_send(MembersChanged.into()) {
                Ok(()) => break,
                // It must not be waited for here: names are resolved in time.
                Err(TrySendError::Full(_)) => sleep(REMINDER).await,
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

/// Where the servers of one group come from.
struct Source {
    number: usize,
    group: UpstreamGroup,
    asker: Asker,
    /// The entries of the configuration and of the file, in this order.
    entries: RefCell<Vec<Rc<Entry>>>,
    membership: Arc<Membership>,
    has_changed: Rc<Notify>,
}

/// An entry of a list of servers.
struct Entry {
    server: UpstreamServer,
    is_of_file: bool,
    /// What it came to; nothing yet if it is new.
    members: RefCell<Vec<Member>>,
    /// The task that resolves it again.
    task: RefCell<Option<JoinHandle<()>>>,
}

impl Entry {
    /// What it came to, with the share that a line of a file says now. Shares by SRV records come with their next answer, soon.
    fn with_share_of(&self, server: &UpstreamServer) -> Vec<Member> {
        let mut members = self.members.borrow().clone();
        for known in members.iter_mut().map(|member| &mut member.server).filter(|_| !server.is_srv) {
            *known = UpstreamServer { at: known.at, ..server.clone() };
        }
        members
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.get_mut().iter().for_each(JoinHandle::abort);
    }
}

impl Source {
    fn begin(
        (number, group): (usize, UpstreamGroup),
        resolved: Vec<Resolved>,
        membership: &Arc<Membership>,
        has_changed: &Rc<Notify>,
    ) -> Rc<Source> {
        let source = Rc::new(Source {
            number,
            asker: Asker::new(&group.resolve),
            entries: RefCell::default(),
            membership: membership.clone(),
            has_changed: has_changed.clone(),
            group,
        });
        resolved.into_iter().for_each(|entry| source.add(entry));
        if let Some(path) = source.group.servers_file.clone() {
            spawn_local(source.clone().follow(ServersFile::new(path)));
        }
        source
    }

    /// Takes over what the file says whenever it has changed.
    async fn follow(self: Rc<Self>, mut file: ServersFile) {
        loop {
            if let Some(servers) = file.look(&self.group) {
                self.take_over(&servers);
            }
            sleep(servers_file::LOOK).await;
        }
    }

    /// Adds an entry, and resolves its name from now on, if it has one.
    fn add(self: &Rc<Self>, resolved: Resolved) {
        let Resolved { server, is_of_file, members } = resolved;
        let is_fixed = !server.is_resolved();
        let members =
            if is_fixed && members.is_empty() { fixed(&server).unwrap_or_default() } else { members };
        let is_known = is_fixed && !members.is_empty();
        let members = RefCell::new(members);
        let entry = Rc::new(Entry { server, is_of_file, members, task: RefCell::default() });
        self.entries.borrow_mut().push(entry.clone());
        if is_known {
            return;
        }
        let (source, weak) = (self.clone(), Rc::downgrade(&entry));
        let task = spawn_local(async move {
            let mut is_failing = false;
            loop {
                let Some(entry) = weak.upgrade() else { return };
                let asked = source.asker.ask(&entry.server).await;
                let wait = source.note(&entry, asked, &mut is_failing);
                let is_fixed = !entry.server.is_resolved();
                drop(entry);
                if is_fixed {
                    return;
                }
                sleep(wait).await;
            }
        });
        entry.task.replace(Some(task));
    }

    /// Takes over an answer, or keeps what was known; how long to wait until the next question.
    fn note(&self, entry: &Entry, asked: Result<Answer, String>, is_failing: &mut bool) -> Duration {
        let (name, url) = (&self.group.name, entry.server.url());
        match asked {
            Ok((members, wait)) => {
                if std::mem::take(is_failing) {
                    log::info(format_args!("upstream {name}: {url} is resolved again"));
                }
                let before = entry.members.replace(members);
                let now = entry.members.borrow();
                let is_same = before.len() == now.len()
                    && now.iter().all(|member| before.iter().any(|known| known.is_same(member)));
                if is_same {
                    // The order of addresses says nothing.
                    drop(now);
                    entry.members.replace(before);
                } else {
                    if !before.is_empty() {
                        let (before, now) = (show(&before), show(&now));
                        log::info(format_args!("upstream {name}: {url} is at {now} now, not at {before}"));
                    }
                    self.has_changed.notify_one();
                }
                wait
            }
            Err(why) => {
                if !std::mem::replace(is_failing, true) {
                    let stay = match entry.members.borrow().is_empty() {
                        true => "it gets no requests",
                        false => "its addresses stay in force",
                    };
                    log::warn(format_args!("upstream {name}: {url} cannot be resolved, {stay}: {why}"));
                }
                self.group.resolve.min.max(RETRY)
            }
        }
    }

    /// The file has these servers now.
    fn take_over(self: &Rc<Self>, servers: &[UpstreamServer]) {
        let now: HashSet<&UpstreamServer> = servers.iter().collect();
        let is_gone = |entry: &mut Rc<Entry>| entry.is_of_file && !now.contains(&entry.server);
        let gone: Vec<Rc<Entry>> = self.entries.borrow_mut().extract_if(.., is_gone).collect();
        let of_file: Vec<Rc<Entry>> =
            self.entries.borrow().iter().filter(|entry| entry.is_of_file).cloned().collect();
        let stays: HashSet<&UpstreamServer> = of_file.iter().map(|entry| &entry.server).collect();
        let before: HashMap<_, _> = gone.iter().map(|entry| (entry.server.identity(), entry)).collect();
        let new = servers.iter().filter(|server| !stays.contains(server));
        let mut added = 0;
        for server in new {
            // One that has another share only stays where it is.
            let before = before.get(&server.identity());
            let members = before.map_or_else(Vec::new, |entry| entry.with_share_of(server));
            self.add(Resolved { server: server.clone(), is_of_file: true, members });
            added += 1;
        }
        let (name, all, gone) = (&self.group.name, servers.len(), gone.len());
        if added > 0 || gone > 0 {
            let text = format_args!(
                "upstream {name}: servers_file has {all} servers now ({added} new, {gone} gone)"
            );
            log::info(text);
        }
        self.has_changed.notify_one();
    }

    /// Puts the servers on the list, if they are others than before; says so. A group keeps those that it had rather than have none.
    fn publish(&self) -> bool {
        let entries = self.entries.borrow();
        let members = distinct(entries.iter().flat_map(|entry| entry.members.borrow().clone()));
        if members.is_empty() || *members == *self.membership.now()[self.number] {
            return false;
        }
        self.membership.replace(self.number, members.into());
        true
    }
}

/// Addresses, and what is written behind a server in a file.
fn show(members: &[Member]) -> String {
    let of_member = |Member { server, addresses }: &Member| {
        let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let weight = if server.weight == 1 { String::new() } else { format!(" weight={}", server.weight) };
        format!("{addresses}{weight}{}", if server.is_backup { " backup" } else { "" })
    };
    members.iter().map(of_member).collect::<Vec<_>>().join(", ")
}
