//! One server as a shard sees it: its idle connections, how many are in use, and whether it gets requests.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use sluice_proto::proxy_protocol::Ends;
use sluice_sys::{Address, ReadAhead};

use crate::config::{ProxyProtocolOut, UpstreamProtocol, UpstreamTls};
use crate::connection::link::Link;
use crate::upstream::balance::latency::Latency;
use crate::upstream::board::{ServerEntry, ServerNumbers};
use crate::upstream::capacity::{Capacity, Full, Place, Turn};
use crate::upstream::dial::Dialer;
use crate::upstream::ejection::Outlier;
use crate::upstream::group::GroupRules;
use crate::upstream::lifetime::UsedUp;
use crate::upstream::queue::Queue;
use crate::upstream::sessions::Sessions;
use crate::upstream::stock::{Peak, Stock};
use crate::upstream::tls::ServerTls;

/// How long a server is passed over after a connection to it failed, if its group has others.
pub(crate) const BACK_OFF_MS: u64 = 1_000;

/// After a large answer, so many small ones are still received as if a large one could follow.
const LARGE_MEMORY: u8 = 8;

/// It was no candidate of a choice since it is up.
const NOT_CHOSEN: u64 = u64::MAX;

/// When a server gets requests, and how many, by the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// In comparison with the others; 0 for only those that stick to it.
    pub(crate) weight: u32,
    /// Only while no other can get them.
    pub(crate) is_backup: bool,
    /// It is in our zone, or zones play no part.
    pub(crate) is_near: bool,
}

impl Default for Share {
    fn default() -> Share {
        Share { weight: 1, is_backup: false, is_near: true }
    }
}

/// The identity of a server across configurations: entries with equal keys share connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerKey {
    /// The group that it serves in.
    pub(crate) group: String,
    /// Host and port as configured.
    pub(crate) authority: String,
    /// Where it can be reached; the first address that works is used.
    pub(crate) addresses: Vec<Address>,
    /// The header that begins a connection.
    pub(crate) proxy_protocol: ProxyProtocolOut,
    /// The version of HTTP.
    pub(crate) protocol: UpstreamProtocol,
    /// How connections to it are secured.
    pub(crate) tls: Option<UpstreamTls>,
}

/// One server, and this shard's idle connections to it.
pub(crate) struct Server {
    pub(crate) key: ServerKey,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) dialer: Dialer,
    /// Connections that wait for the next request, the last one used on top.
    idle: RefCell<Vec<Link>>,
    /// Its connections by HTTP/2.
    pub(crate) sessions: Sessions,
    /// How many connections it may have, of all shards together; 0 for no limit.
    connections_max: Cell<u32>,
    /// Where they are counted then.
    limited: RefCell<Option<Limited>>,
    /// Those of this shard that could be given up, as other shards know it.
    spare: Cell<u32>,
    /// Connections in use.
    busy: Cell<u32>,
    /// Requests under way, over connections of either protocol.
    requests: Cell<u32>,
    /// What the whole process knows of it.
    entry: Arc<ServerEntry>,
    /// The part of that which this shard writes.
    pub(crate) numbers: Arc<CachePadded<ServerNumbers>>,
    /// How many were in use at once, lately.
    peak: Peak,
    /// The connections that all servers of the shard may have.
    stock: Rc<Stock>,
    /// How many small answers ago the last large one was, counted down from [`LARGE_MEMORY`].
    large_lately: Cell<u8>,
    /// Until when, in the shard's milliseconds, to pass it over.
    failed_until_ms: Cell<u64>,
    /// What requests to it have come to.
    pub(crate) outlier: Outlier,
    /// When it gets requests, and how many.
    share: Cell<Share>,
    /// The first choice that could have been it since it is up.
    up_since_ms: Cell<u64>,
    /// How long it takes to answer; noted only where a choice goes by it.
    pub(crate) latency: Latency,
    /// Checks hold it down.
    is_down: Cell<bool>,
    /// Whether checks count.
    is_checked: Cell<bool>,
}

/// Where the connections of a server are counted that may have so many only.
struct Limited {
    capacity: Arc<Capacity>,
    /// Requests of this shard that wait for a server of its group.
    queue: Rc<Queue>,
}

impl Server {
    pub(crate) fn new(
        key: ServerKey,
        tls: Option<ServerTls>,
        stock: Rc<Stock>,
        (entry, shard): (Arc<ServerEntry>, usize),
    ) -> Server {
        Server {
            numbers: entry.numbers_of(shard),
            entry,
            requests: Cell::new(0),
            key,
            tls,
            dialer: Dialer::default(),
            idle: RefCell::new(Vec::new()),
            sessions: Sessions::default(),
            connections_max: Cell::new(0),
            limited: RefCell::new(None),
            spare: Cell::new(0),
            busy: Cell::new(0),
            peak: Peak::default(),
            stock,
            large_lately: Cell::new(0),
            failed_until_ms: Cell::new(0),
            outlier: Outlier::default(),
            share: Cell::new(Share::default()),
            up_since_ms: Cell::new(NOT_CHOSEN),
            latency: Latency::default(),
            is_down: Cell::new(false),
            is_checked: Cell::new(false),
        }
    }

    /// Connections to it that are worth having, busy and idle. Those that serve one client only are worth having as long as that
    /// client may be there.
    fn wanted(&self) -> u32 {
        match self.key.proxy_protocol {
            ProxyProtocolOut::Off => self.peak.wanted(),
            ProxyProtocolOut::V1 | ProxyProtocolOut::V2 => {
                self.peak.wanted().max(sluice_sys::connections_open())
            }
        }
    }

    /// What the whole process knows of it.
    pub(crate) fn entry(&self) -> &ServerEntry {
        &self.entry
    }

    /// From now on checks count, or do not.
    pub(crate) fn heed_checks(&self, is_checked: bool) {
        self.is_checked.set(is_checked);
        self.look_at_health();
    }

    /// Takes over what checks say, and other shards that have ejected it. Idle connections to a server that they hold down are closed, and those by HTTP/2 take no further
    /// requests.
    pub(crate) fn look_at_health(&self) {
        let is_down = self.is_checked.get() && self.entry.health.is_down();
        if is_down && !self.is_down.replace(is_down) {
            self.close_idle();
            self.sessions.leave_all();
        }
        if is_down {
            self.up_since_ms.set(NOT_CHOSEN);
        }
        self.is_down.set(is_down);
        self.look_at_ejection();
    }

    /// Whether checks hold it down.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.get()
    }

    /// Whether a connection to it failed a moment ago, it is ejected, or it has as many connections as it may and none is free.
    pub(crate) fn is_passed_over(&self, now_ms: u64) -> bool {
        self.failed_until_ms.get() > now_ms || self.is_full()
    }

    /// A connection to it failed.
    pub(crate) fn pass_over(&self, now_ms: u64) {
        self.pass_over_until(now_ms + BACK_OFF_MS);
    }

    pub(super) fn pass_over_until(&self, until_ms: u64) {
        self.failed_until_ms.set(self.failed_until_ms.get().max(until_ms));
    }

    pub(super) fn pass_over_no_more(&self) {
        self.failed_until_ms.set(0);
        // Its share grows again.
        self.up_since_ms.set(NOT_CHOSEN);
    }

    /// Requests and tunnels of this shard that are with it.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// One more request, or one less. The shard's number on the board counts all its connections to the server, also those of
    /// entries with other keys.
    fn add_request(&self) {
        self.requests.set(self.requests.get() + 1);
        self.numbers.active.increment();
    }

    fn remove_request(&self) {
        self.requests.set(self.requests.get() - 1);
        self.numbers.active.set(self.numbers.active.value() - 1);
    }

    /// When it gets requests, and how many.
    pub(crate) fn share(&self) -> Share {
        self.share.get()
    }

    /// The same by the configuration that is in force from now on.
    pub(crate) fn set_share(&self, share: Share) {
        self.share.set(share);
    }

    /// Since when requests can be sent to it: the first choice that could have been it after it was found, or was up again, and the
    /// end of the last time in which it was passed over.
    pub(crate) fn ready_since_ms(&self, now_ms: u64) -> u64 {
        if self.up_since_ms.get() == NOT_CHOSEN {
            self.up_since_ms.set(now_ms);
        }
        self.up_since_ms.get().max(self.failed_until_ms.get())
    }

    /// A connection is in use from now on.
    pub(crate) fn begin_use(&self) {
        let busy = self.busy.get() + 1;
        self.busy.set(busy);
        self.peak.note(busy);
    }

    /// A connection is in use no more.
    pub(crate) fn end_use(&self) {
        self.busy.set(self.busy.get() - 1);
    }

    /// Whether it is this server at other addresses.
    pub(crate) fn is_heir_of(&self, old: &Server) -> bool {
        ServerKey { addresses: old.key.addresses.clone(), ..self.key.clone() } == old.key
    }

    /// Takes the idle connections of its predecessor that go to an address which is its own too.
    pub(crate) fn take_over_idle(&self, old: &Server) {
        let is_ours = |link: &mut Link| {
            let peer = link.transport().remote();
            peer.is_ok_and(|peer| self.key.addresses.contains(&Address::Inet(peer)))
        };
        let idle: Vec<Link> = old.idle.borrow_mut().extract_if(.., is_ours).collect();
        self.idle.borrow_mut().extend(idle);
        self.dialer.forget_order();
    }

    /// A connection to this server was made.
    pub(crate) fn opened(&self) {
        self.stock.opened();
    }

    /// A connection to this server that was in use is closed.
    pub(crate) fn closed(&self) {
        self.stock.closed(1);
    }

    /// An idle connection for which `is_good` holds. Those for which it does not are dropped on the way, and so are those that
    /// have ended meanwhile.
    pub(crate) fn take_idle(&self, is_good: impl Fn(&Link) -> bool) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        while let Some(link) = idle.pop() {
            if link.transport().reuse() && is_good(&link) {
                drop(idle);
                self.note_spare();
                return Some(link);
            }
            self.stock.closed(1);
        }
        drop(idle);
        self.note_spare();
        None
    }

    /// The same among the connections that the server knows to be of one client.
    pub(crate) fn take_idle_of(&self, ends: &Ends, is_good: impl Fn(&Link) -> bool) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let announced = Some((ends.source, ends.destination));
        while let Some(at) = idle.iter().rposition(|link| link.transport().proxied() == announced) {
            let link = idle.remove(at);
            if link.transport().reuse() && is_good(&link) {
                drop(idle);
                self.note_spare();
                return Some(link);
            }
            self.stock.closed(1);
        }
        drop(idle);
        self.note_spare();
        None
    }

    /// Keeps a connection for the next request, if it is good, has requests and time left, and there is room for it beside the
    /// others and in the shard's stock. Else it is closed.
    pub(crate) fn keep(&self, link: Link, rules: &GroupRules) -> KeepResult {
        if !link.rest() {
            self.stock.closed(1);
            return KeepResult::Ended;
        }
        let conn = link.transport();
        if self.connections_max.get() > 0 && self.cedes_one(None) {
            self.stock.closed(1);
            return KeepResult::Ceded;
        }
        let (mut idle_ms, idle_max) = (rules.idle_ms, rules.idle_connections_max);
        if rules.lifetime.is_limited() {
            match rules.lifetime.note_request(conn) {
                Ok(left_ms) => idle_ms = idle_ms.min(left_ms),
                Err(why) => {
                    self.stock.closed(1);
                    return KeepResult::UsedUp(why);
                }
            }
        }
        conn.set_read_ahead(self.read_ahead());
        let mut idle = self.idle.borrow_mut();
        // Only one client has a use for it, and the one that has waited longest may never come back.
        if conn.proxied().is_some()
            && (idle.len() >= idle_max || self.stock.is_exceeded())
            && !idle.is_empty()
        {
            idle.remove(0);
            self.stock.closed(1);
        }
        if idle.len() >= idle_max || self.stock.is_exceeded() {
            self.stock.closed(1);
            return KeepResult::NoRoom;
        }
        if !conn.keep_idle(idle_ms) {
            self.stock.closed(1);
            return KeepResult::Ended;
        }
        idle.push(link);
        drop(idle);
        self.note_spare();
        KeepResult::Idle
    }

    /// A second has passed: drops what has ended, and lets the peak fade.
    pub(crate) fn tick(&self) {
        self.drop_ended();
        self.peak.tick(self.busy.get());
    }

    /// Idle connections beyond those that are worth having.
    pub(crate) fn surplus(&self) -> usize {
        let idle = self.idle();
        (idle + self.busy.get() as usize).saturating_sub(self.wanted() as usize).min(idle)
    }

    /// Closes so many of the idle connections, if there are as many, those first that were not used for longest; returns how
    /// many.
    pub(crate) fn close_oldest(&self, count: usize) -> usize {
        let mut idle = self.idle.borrow_mut();
        let count = count.min(idle.len());
        idle.drain(..count);
        self.stock.closed(count);
        drop(idle);
        self.note_spare();
        count
    }

    /// Idle connections, with those that have ended since the last tick.
    pub(crate) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    fn drop_ended(&self) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|link| link.transport().is_quiet());
        self.stock.closed(before - idle.len());
        drop(idle);
        self.note_spare();
    }

    /// Takes note of the size of an answer's body. Where answers are large, their bytes are left in the socket for
    /// splicing instead of being received ahead.
    pub(crate) fn note_answer(&self, is_large: bool) {
        let memory = if is_large { LARGE_MEMORY } else { self.large_lately.get().saturating_sub(1) };
        self.large_lately.set(memory);
    }

    /// How connections to this server should receive.
    pub(crate) fn read_ahead(&self) -> ReadAhead {
        if self.large_lately.get() > 0 { ReadAhead::OneBuffer } else { ReadAhead::Buffers }
    }

    /// Drops what has ended and counts what is left: busy and idle connections.
    pub(crate) fn connections(&self) -> (u32, usize) {
        self.drop_ended();
        let (busy, idle) = self.sessions.count();
        (self.busy.get() + busy, self.idle() + idle)
    }

    /// Closes the idle connections.
    pub(crate) fn close_idle(&self) {
        self.close_oldest(usize::MAX);
    }
}

/// Where the number of its connections is limited.
impl Server {
    /// From now on it may have so many connections, of all shards together; 0 for no limit. Requests wait in this queue then.
    pub(crate) fn limit_connections(&self, max: u32, queue: Option<&Rc<Queue>>) {
        let limited = queue
            .filter(|_| max > 0)
            .map(|queue| Limited { capacity: self.entry.capacity(queue.waiting()), queue: queue.clone() });
        self.connections_max.set(if limited.is_some() { max } else { 0 });
        self.limited.replace(limited);
    }

    /// Whether it has as many connections as it may, and none of this shard is free.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.connections_max.get() > 0 && self.is_used_up()
    }

    #[cold]
    fn is_used_up(&self) -> bool {
        let is_full = |limited: &Limited| limited.capacity.is_full(self.connections_max.get());
        self.limited.borrow().as_ref().is_some_and(is_full)
            && match self.key.protocol {
                UpstreamProtocol::H1 => self.idle() == 0,
                UpstreamProtocol::H2 => !self.sessions.is_usable(),
            }
    }

    /// A place for a new connection, if places are counted.
    ///
    /// # Errors
    /// All are taken.
    #[inline]
    pub(crate) fn take_place(&self, turn: Turn) -> Result<Option<Place>, Full> {
        match self.connections_max.get() {
            0 => Ok(None),
            max => self.take_counted(max, turn),
        }
    }

    #[cold]
    fn take_counted(&self, max: u32, turn: Turn) -> Result<Option<Place>, Full> {
        self.limited.borrow().as_ref().map(|limited| limited.capacity.take(max, turn)).transpose()
    }

    /// Whether its requests wait in this queue.
    pub(crate) fn is_of(&self, queue: &Queue) -> bool {
        self.limited.borrow().as_ref().is_some_and(|limited| std::ptr::eq(&*limited.queue, queue))
    }

    /// Whether a connection is given up for a request of another shard, which it counts as then. `waited_ms` is for where none
    /// waits here.
    #[cold]
    fn cedes_one(&self, waited_ms: Option<u64>) -> bool {
        let limited = self.limited.borrow();
        let Some(Limited { capacity, queue }) = limited.as_ref() else { return false };
        let now_ms = sluice_sys::now_ms();
        let ours_ms = queue.oldest_ms().map(|since_ms| now_ms - since_ms).or(waited_ms);
        let max = self.connections_max.get();
        let cedes = capacity.is_wanted_elsewhere(queue.shard(), max, now_ms, ours_ms);
        if cedes {
            capacity.cede(1);
        }
        cedes
    }

    /// Gives up so many connections for other shards, if there are as many that can be spared; says how many.
    pub(crate) fn give_up(&self, most: u32) -> u32 {
        let given = match self.key.protocol {
            UpstreamProtocol::H1 => {
                self.drop_ended();
                self.close_oldest(most as usize) as u32
            }
            UpstreamProtocol::H2 => {
                (0..most).take_while(|_| self.count_spare() > 0 && self.sessions.leave_one()).count() as u32
            }
        };
        self.note_spare();
        if let Some(limited) = &*self.limited.borrow() {
            limited.capacity.cede(given);
        }
        given
    }

    /// Connections that can be given up: idle ones, and all but one of those that requests share.
    fn count_spare(&self) -> u32 {
        match self.key.protocol {
            UpstreamProtocol::H1 => self.idle() as u32,
            UpstreamProtocol::H2 => {
                let open = self.sessions.count_staying();
                if self.requests.get() == 0 { open } else { open.saturating_sub(1) }
            }
        }
    }

    /// Says how many connections can be given up, if others want to know.
    #[inline]
    pub(crate) fn note_spare(&self) {
        if self.connections_max.get() > 0 {
            self.publish_spare();
        }
    }

    #[cold]
    fn publish_spare(&self) {
        let now = self.count_spare();
        let before = self.spare.replace(now);
        if let Some(limited) = self.limited.borrow().as_ref().filter(|_| now != before) {
            limited.queue.note_spare(before, now);
        }
    }

    /// A request is over: its connection, or its stream, may be free.
    #[cold]
    fn released(&self) {
        // One that requests share is given up as a whole, so not for a request that has just come, unless it is idle.
        let waited_ms = if self.requests.get() == 0 { None } else { Some(0) };
        if self.key.protocol == UpstreamProtocol::H2
            && self.sessions.count_staying() > 0
            && self.cedes_one(waited_ms)
        {
            self.sessions.leave_one();
        }
        self.note_spare();
        self.call_first();
    }

    /// There may be something for a request that waits here.
    pub(crate) fn call_first(&self) {
        if let Some(limited) = &*self.limited.borrow() {
            limited.queue.call_first();
        }
    }
}

/// A server that a request or a tunnel is with, which counts as long as this lives.
pub(crate) struct ServerInUse(Rc<Server>);

impl ServerInUse {
    pub(crate) fn new(server: Rc<Server>) -> ServerInUse {
        server.add_request();
        server.note_spare();
        ServerInUse(server)
    }
}

impl Deref for ServerInUse {
    type Target = Rc<Server>;

    fn deref(&self) -> &Rc<Server> {
        &self.0
    }
}

impl Drop for ServerInUse {
    fn drop(&mut self) {
        self.0.remove_request();
        if self.0.connections_max.get() > 0 {
            self.0.released();
        }
    }
}

/// The fate of a connection after its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepResult {
    Idle,
    /// The server has closed it, or sent unsolicited bytes.
    Ended,
    /// There are as many as there may be.
    NoRoom,
    /// It was closed for a request of another shard.
    Ceded,
    /// It has carried as many requests, or is as old, as it may.
    UsedUp(UsedUp),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::stock::Descriptors;

    #[test]
    fn requests_count_as_long_as_they_are_with_a_server() {
        let entry = Arc::new(ServerEntry::new(2));
        let on_shard = |shard| {
            let key = ServerKey {
                group: "app".into(),
                authority: "a:1".into(),
                addresses: Vec::new(),
                proxy_protocol: ProxyProtocolOut::Off,
                protocol: UpstreamProtocol::H1,
                tls: None,
            };
            let stock = Rc::new(Stock::new(Descriptors { all: 100, for_servers: 10 }));
            Rc::new(Server::new(key, None, stock, (entry.clone(), shard)))
        };
        let (here, there) = (on_shard(0), on_shard(1));
        let first = ServerInUse::new(here.clone());
        let second = ServerInUse::new(here.clone());
        let third = ServerInUse::new(there);
        let of_all = || entry.numbers().map(|numbers| numbers.active.value()).sum::<u64>();
        assert_eq!((here.requests(), of_all()), (2, 3));
        drop((first, third));
        assert_eq!((here.requests(), of_all()), (1, 1));
        drop(second);
        assert_eq!((here.requests(), of_all()), (0, 0));
        assert!(!here.entry().health.is_down());
    }
}
