//! Groups of servers and the choice among them: round robin, except servers that checks hold down, or that could not be reached a
//! moment ago.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use sluice_proto::h2;
use sluice_proto::proxy_protocol::Ends;
use sluice_sys::ReadAhead;

use crate::config::{AllDown, ProxyProtocolOut, UpstreamProtocol, UpstreamTls};
use crate::connection::link::Link;
use crate::upstream::health::ServerHealth;
use crate::upstream::sessions::Sessions;
use crate::upstream::stock::{Peak, Stock};
use crate::upstream::tls::ServerTls;

/// How long a server is passed over after a connection to it failed, if its group has others.
pub(crate) const BACK_OFF_MS: u64 = 1_000;

/// After a large answer, so many small ones are still received as if a large one could follow.
const LARGE_MEMORY: u8 = 8;

/// Servers that requests are spread over.
pub(crate) struct Group {
    servers: Vec<Rc<Server>>,
    next: Cell<usize>,
    pub(crate) rules: GroupRules,
}

/// A configuration's rules for the connections to a group's servers.
#[derive(Clone, Debug)]
pub(crate) struct GroupRules {
    /// The header that begins a new connection.
    pub(crate) proxy_protocol: ProxyProtocolOut,
    /// The longest time to connect.
    pub(crate) connect_ms: u64,
    /// How long an idle connection is kept.
    pub(crate) idle_ms: u64,
    /// How many of them to one server.
    pub(crate) idle_connections_max: usize,
    /// The version of HTTP.
    pub(crate) protocol: UpstreamProtocol,
    /// Rules of a connection by HTTP/2.
    pub(crate) http2: Rc<h2::Rules>,
    /// What requests get while checks hold down all servers.
    pub(crate) all_down: AllDown,
}

/// The identity of a server across configurations: entries with equal keys share connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerKey {
    /// The group that it serves in.
    pub(crate) group: String,
    /// Host and port as configured.
    pub(crate) authority: String,
    /// Where it can be reached; the first address that works is used.
    pub(crate) addresses: Vec<SocketAddr>,
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
    /// The address that worked last.
    pub(crate) preferred: Cell<usize>,
    /// Connections that wait for the next request, the last one used on top.
    idle: RefCell<Vec<Link>>,
    /// Its connections by HTTP/2.
    pub(crate) sessions: Sessions,
    /// Connections in use.
    busy: Cell<u32>,
    /// How many were in use at once, lately.
    peak: Peak,
    /// The connections that all servers of the shard may have.
    stock: Rc<Stock>,
    /// How many small answers ago the last large one was, counted down from [`LARGE_MEMORY`].
    large_lately: Cell<u8>,
    /// Until when, in the shard's milliseconds, to pass it over.
    failed_until_ms: Cell<u64>,
    /// Checks hold it down.
    is_down: Cell<bool>,
    /// What checks say, if there are any.
    health: RefCell<Option<Arc<ServerHealth>>>,
}

impl Group {
    pub(crate) fn new(servers: Vec<Rc<Server>>, rules: GroupRules) -> Group {
        Group { servers, next: Cell::new(0), rules }
    }

    pub(crate) fn servers(&self) -> &[Rc<Server>] {
        &self.servers
    }

    /// The server whose turn it is, if `take` finds in it what it wants; else the turn is not used up. `None` too while
    /// all of several servers are passed over, or checks hold down all that there are.
    pub(crate) fn pick<'g, R>(
        &'g self,
        now_ms: u64,
        take: impl FnOnce(&'g Rc<Server>) -> Option<R>,
    ) -> Option<R> {
        let is_open = |at: &usize| {
            let server = &self.servers[*at];
            !server.is_down.get() && server.failed_until_ms.get() <= now_ms
        };
        let at = self.in_turn().find(is_open).or_else(|| self.pick_closed(now_ms))?;
        let taken = take(&self.servers[at])?;
        self.next.set(if at + 1 >= self.servers.len() { 0 } else { at + 1 });
        Some(taken)
    }

    /// The servers by number, from the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let first = self.next.get();
        (first..self.servers.len()).chain(0..first)
    }

    /// A server that is tried although it is passed over: the only one that checks leave. While they leave none, one as without
    /// checks if the rules say so.
    #[cold]
    fn pick_closed(&self, now_ms: u64) -> Option<usize> {
        let mut up = (0..self.servers.len()).filter(|&at| !self.servers[at].is_down.get());
        match (up.next(), up.next()) {
            (Some(only), None) => Some(only),
            (Some(_), Some(_)) => None,
            (None, _) if self.rules.all_down == AllDown::Refuse => None,
            (None, _) if self.servers.len() == 1 => Some(0),
            (None, _) => self.in_turn().find(|&at| self.servers[at].failed_until_ms.get() <= now_ms),
        }
    }

    /// Whether checks hold down all servers.
    #[cold]
    pub(crate) fn is_down(&self) -> bool {
        self.servers.iter().all(|server| server.is_down.get())
    }
}

impl Server {
    pub(crate) fn new(key: ServerKey, tls: Option<ServerTls>, stock: Rc<Stock>) -> Server {
        Server {
            key,
            tls,
            preferred: Cell::new(0),
            idle: RefCell::new(Vec::new()),
            sessions: Sessions::default(),
            busy: Cell::new(0),
            peak: Peak::default(),
            stock,
            large_lately: Cell::new(0),
            failed_until_ms: Cell::new(0),
            is_down: Cell::new(false),
            health: RefCell::new(None),
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

    /// From now on these checks count, or none.
    pub(crate) fn heed(&self, health: Option<Arc<ServerHealth>>) {
        self.health.replace(health);
        self.look_at_health();
    }

    /// Takes over what checks say. Idle connections to a server that they hold down are closed, and those by HTTP/2 take no further
    /// requests.
    pub(crate) fn look_at_health(&self) {
        let is_down = self.health.borrow().as_ref().is_some_and(|health| health.is_down());
        if is_down && !self.is_down.replace(is_down) {
            self.close_idle();
            self.sessions.leave_all();
        }
        self.is_down.set(is_down);
    }

    #[cfg(test)]
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.get()
    }

    pub(crate) fn pass_over(&self, now_ms: u64) {
        self.failed_until_ms.set(now_ms + BACK_OFF_MS);
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
                return Some(link);
            }
            self.stock.closed(1);
        }
        None
    }

    /// The same among the connections that the server knows to be of one client.
    pub(crate) fn take_idle_of(&self, ends: &Ends, is_good: impl Fn(&Link) -> bool) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let announced = Some((ends.source, ends.destination));
        while let Some(at) = idle.iter().rposition(|link| link.transport().proxied() == announced) {
            let link = idle.remove(at);
            if link.transport().reuse() && is_good(&link) {
                return Some(link);
            }
            self.stock.closed(1);
        }
        None
    }

    /// Keeps a connection for the next request, if it is good and there is room for it beside `idle_max - 1` others and in
    /// the shard's stock. Else it is closed.
    pub(crate) fn keep(&self, link: Link, idle_ms: u64, idle_max: usize) -> KeepResult {
        if !link.rest() {
            self.stock.closed(1);
            return KeepResult::Ended;
        }
        let conn = link.transport();
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

/// The fate of a connection after its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepResult {
    Idle,
    /// The server has closed it, or sent unsolicited bytes.
    Ended,
    /// There are as many as there may be.
    NoRoom,
}

#[cfg(test)]
mod tests {
    use sluice_proto::HeadLimits;

    use super::*;
    use crate::upstream::stock::Descriptors;

    fn group(count: usize) -> Group {
        let stock = Rc::new(Stock::new(Descriptors { all: 100, for_servers: 10 }));
        let key = |n: usize| ServerKey {
            group: "app".into(),
            authority: n.to_string(),
            addresses: Vec::new(),
            proxy_protocol: ProxyProtocolOut::Off,
            protocol: UpstreamProtocol::H1,
            tls: None,
        };
        let server = |n: usize| Rc::new(Server::new(key(n), None, stock.clone()));
        let rules = GroupRules {
            proxy_protocol: ProxyProtocolOut::Off,
            connect_ms: 3_000,
            idle_ms: 50_000,
            idle_connections_max: 1_000,
            protocol: UpstreamProtocol::H1,
            http2: Rc::new(h2::Rules {
                head: HeadLimits::default(),
                streams_max: 100,
                stream_window: 65_536,
                stream_window_max: 65_536,
                connection_window: 1_048_576,
                frame_bytes_max: 16_384,
                decoder_table_bytes: 4_096,
                encoder_table_bytes: 0,
                write_bytes_max: 16_384,
                coalesced_bytes_max: 40 * 1024,
                connect_protocol: false,
            }),
            all_down: AllDown::Refuse,
        };
        Group::new((0..count).map(server).collect(), rules)
    }

    fn picks(group: &Group, count: usize, now_ms: u64) -> Vec<&str> {
        (0..count)
            .filter_map(|_| group.pick(now_ms, Some))
            .map(|server| server.key.authority.as_str())
            .collect()
    }

    #[test]
    fn takes_turns_and_passes_over_the_failed() {
        let group = group(3);
        assert_eq!(picks(&group, 4, 0), ["0", "1", "2", "0"]);
        group.servers()[1].pass_over(0);
        assert_eq!(picks(&group, 3, 10), ["2", "0", "2"]);
        assert_eq!(picks(&group, 3, BACK_OFF_MS), ["0", "1", "2"]);
        group.servers().iter().for_each(|server| server.pass_over(0));
        assert!(group.pick(10, Some).is_none());
    }

    fn hold_down(group: &Group, servers: &[usize]) {
        for (at, server) in group.servers().iter().enumerate() {
            let health = ServerHealth::new();
            health.set_down(servers.contains(&at));
            server.heed(Some(Arc::new(health)));
        }
    }

    #[test]
    fn servers_that_checks_hold_down_get_no_turn() {
        let group = group(3);
        hold_down(&group, &[1]);
        assert_eq!(picks(&group, 4, 0), ["0", "2", "0", "2"]);
        // The last one that is up is tried whatever has happened to it, like the only one of a group.
        hold_down(&group, &[0, 1]);
        group.servers()[2].pass_over(0);
        assert_eq!(picks(&group, 2, 10), ["2", "2"]);
        hold_down(&group, &[]);
        assert_eq!(picks(&group, 3, 10), ["0", "1", "0"]);
    }

    #[test]
    fn while_all_are_down_the_rules_decide() {
        for count in [1, 3] {
            let mut group = group(count);
            hold_down(&group, &[0, 1, 2]);
            assert!(group.is_down() && group.pick(0, Some).is_none(), "{count}");
            group.rules.all_down = AllDown::Try;
            assert_eq!(picks(&group, 3, 0), if count == 1 { ["0", "0", "0"] } else { ["0", "1", "2"] });
            // Those that cannot be reached are still passed over, if there are others.
            group.servers()[0].pass_over(0);
            assert_eq!(picks(&group, 2, 10), if count == 1 { ["0", "0"] } else { ["1", "2"] });
        }
    }

    #[test]
    fn a_turn_without_a_find_is_not_used_up() {
        let group = group(2);
        assert!(group.pick(0, |_| None::<()>).is_none());
        assert_eq!(picks(&group, 2, 0), ["0", "1"]);
    }

    #[test]
    fn a_single_server_is_always_tried() {
        let group = group(1);
        group.servers()[0].pass_over(0);
        assert!(group.pick(10, Some).is_some());
    }
}
