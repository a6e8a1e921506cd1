//! Groups of servers and the choice among them: round robin, past servers that could not be reached a moment ago.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use sluice_proto::proxy_protocol::Ends;
use sluice_sys::{Conn, ReadAhead};

use crate::config::ProxyProtocolOut;

/// How long a server is passed over after a connection to it failed, if its group has others.
pub(crate) const BACK_OFF_MS: u64 = 1_000;

/// A full stock of idle connections is searched for dead ones at most this often.
const TIDY_EVERY_MS: u64 = 1_000;

/// After a large answer, so many small ones are still received as if a large one could follow.
const LARGE_MEMORY: u8 = 8;

/// Servers that requests are spread over.
pub(crate) struct Group {
    servers: Vec<Server>,
    next: Cell<usize>,
    /// What a new connection begins with.
    pub(crate) proxy_protocol: ProxyProtocolOut,
}

/// Which server: the number of its group, and its own in the group.
pub(crate) type Place = (u32, u32);

/// One server, and this shard's idle connections to it.
pub(crate) struct Server {
    /// Where it can be reached; the first address that works is used.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The address that worked last.
    pub(crate) preferred: Cell<usize>,
    /// Host and port as configured.
    pub(crate) authority: String,
    /// Connections that wait for the next request, the last one used on top.
    idle: RefCell<Vec<Conn>>,
    /// Connections in use.
    pub(crate) busy: Cell<u32>,
    /// How many small answers ago the last large one was, counted down from [`LARGE_MEMORY`].
    large_lately: Cell<u8>,
    /// When a full stock may be searched for dead connections again.
    tidy_at_ms: Cell<u64>,
    /// Until when, in the shard's milliseconds, to pass it over.
    failed_until_ms: Cell<u64>,
}

impl Group {
    pub(crate) fn new(servers: Vec<Server>, proxy_protocol: ProxyProtocolOut) -> Group {
        Group { servers, next: Cell::new(0), proxy_protocol }
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The server whose turn it is, if `take` finds in it what it wants; else the turn is not used up. `None` too while
    /// all of several servers are passed over.
    pub(crate) fn turn<'g, R>(
        &'g self,
        now_ms: u64,
        take: impl FnOnce(&'g Server) -> Option<R>,
    ) -> Option<R> {
        let count = self.servers.len();
        let is_open = |&at: &usize| count == 1 || self.servers[at].failed_until_ms.get() <= now_ms;
        let first = self.next.get();
        let at = (first..count).chain(0..first).find(is_open)?;
        let taken = take(&self.servers[at])?;
        self.next.set(if at + 1 >= count { 0 } else { at + 1 });
        Some(taken)
    }
}

impl Server {
    pub(crate) fn new(authority: &str, addresses: Vec<SocketAddr>) -> Server {
        Server {
            addresses,
            preferred: Cell::new(0),
            authority: authority.to_owned(),
            idle: RefCell::new(Vec::new()),
            busy: Cell::new(0),
            large_lately: Cell::new(0),
            tidy_at_ms: Cell::new(0),
            failed_until_ms: Cell::new(0),
        }
    }

    pub(crate) fn pass_over(&self, now_ms: u64) {
        self.failed_until_ms.set(now_ms + BACK_OFF_MS);
    }

    /// An idle connection that is still good. Those that have ended meanwhile are dropped on the way.
    pub(crate) fn take_idle(&self) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        while let Some(conn) = idle.pop() {
            if conn.resume() {
                return Some(conn);
            }
        }
        None
    }

    /// The same among the connections that the server knows to be of one client.
    pub(crate) fn take_idle_of(&self, ends: &Ends) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        let announced = Some((ends.source, ends.destination));
        while let Some(at) = idle.iter().rposition(|conn| conn.announced() == announced) {
            let conn = idle.remove(at);
            if conn.resume() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if it is good and there is room.
    pub(crate) fn keep(&self, conn: Conn, idle_ms: u64, idle_max: usize) {
        conn.set_read_ahead(self.read_ahead());
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= idle_max && sluice_sys::now_ms() >= self.tidy_at_ms.get() {
            self.tidy_at_ms.set(sluice_sys::now_ms() + TIDY_EVERY_MS);
            idle.retain(Conn::is_quiet);
        }
        // Only one client has a use for it, and the one that has waited longest may never come back.
        if idle.len() >= idle_max && !idle.is_empty() && conn.announced().is_some() {
            idle.remove(0);
        }
        if idle.len() < idle_max && conn.rest(idle_ms) {
            idle.push(conn);
        }
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

    /// Drops what has ended and counts what is left.
    pub(crate) fn open_connections(&self) -> u64 {
        let mut idle = self.idle.borrow_mut();
        idle.retain(Conn::is_quiet);
        idle.len() as u64 + u64::from(self.busy.get())
    }

    /// Closes the idle connections.
    pub(crate) fn close_idle(&self) {
        self.idle.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(count: usize) -> Group {
        Group::new(
            (0..count).map(|n| Server::new(&n.to_string(), Vec::new())).collect(),
            ProxyProtocolOut::Off,
        )
    }

    fn picks(group: &Group, count: usize, now_ms: u64) -> Vec<&str> {
        (0..count).filter_map(|_| group.turn(now_ms, Some)).map(|server| server.authority.as_str()).collect()
    }

    #[test]
    fn takes_turns_and_passes_over_the_failed() {
        let group = group(3);
        assert_eq!(picks(&group, 4, 0), ["0", "1", "2", "0"]);
        group.servers()[1].pass_over(0);
        assert_eq!(picks(&group, 3, 10), ["2", "0", "2"]);
        assert_eq!(picks(&group, 3, BACK_OFF_MS), ["0", "1", "2"]);
        group.servers().iter().for_each(|server| server.pass_over(0));
        assert!(group.turn(10, Some).is_none());
    }

    #[test]
    fn a_turn_without_a_find_is_not_used_up() {
        let group = group(2);
        assert!(group.turn(0, |_| None::<()>).is_none());
        assert_eq!(picks(&group, 2, 0), ["0", "1"]);
    }

    #[test]
    fn a_single_server_is_always_tried() {
        let group = group(1);
        group.servers()[0].pass_over(0);
        assert!(group.turn(10, Some).is_some());
    }
}
