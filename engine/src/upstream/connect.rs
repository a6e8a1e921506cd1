//! Gets a connection to a server of a group: a kept one, or a new one.

use std::net::SocketAddr;
use std::rc::Rc;

use sluice_proto::h1::Reuse;
use sluice_proto::proxy_protocol::{self, Ends};
use sluice_sys::{Buf, Conn, ConnectCause, ConnectError, UNIX_PEER};

use crate::answer::Answer;
use crate::config::{ProxyProtocolOut, UpstreamProtocol};
use crate::connection::link::Link;
use crate::message::Repeat;
use crate::shard::Shard;
use crate::upstream::balance::affinity::Affinity;
use crate::upstream::capacity::{Full, Place, Turn};
use crate::upstream::dial::{dial, report};
use crate::upstream::ejection::Failure;
use crate::upstream::group::{Group, GroupRules, Wanted};
use crate::upstream::h1::ServerConnection;
use crate::upstream::h2::ServerStream;
use crate::upstream::server::{Server, ServerInUse};
use crate::upstream::sessions::Purpose;
use crate::upstream::stream::UpstreamStream;

/// The ring closes a descriptor with the next turn of the loop.
const CLOSING_MS: u64 = 2;

/// For whom a connection is wanted, and what for.
#[derive(Clone, Copy)]
pub(crate) struct ProxyIdentity<'a> {
    /// The connection of the client, or of a proxy that it came by. A copy of a request has none.
    pub(crate) conn: Option<&'a Conn>,
    pub(crate) client: &'a SocketAddr,
    /// Whether the connection may serve others afterwards.
    pub(crate) reuse: Reuse,
    pub(crate) purpose: Purpose,
    /// Whether the request can be sent again.
    pub(crate) repeat: Repeat,
    /// Another server than this one, rather or in any case.
    pub(crate) not: Option<&'a Rc<Server>>,
    pub(crate) elsewhere: Elsewhere,
    /// How many servers are tried for a connection.
    pub(crate) servers_max: usize,
    /// What the request asks for in a server.
    pub(crate) affinity: &'a Affinity,
}

/// Whether a request may go to the server that it is not meant for, if there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Rather,
    Must,
}

impl ProxyIdentity<'_> {
    /// This server, if the request may go there.
    #[inline]
    fn admitted(&self, server: &Rc<Server>) -> Option<Rc<Server>> {
        let is_refused =
            self.elsewhere == Elsewhere::Must && self.not.is_some_and(|not| Rc::ptr_eq(not, server));
        (!is_refused).then(|| server.clone())
    }

    /// The server that it asks for.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { not: self.not, ..Wanted::now(self.repeat, *self.affinity) }
    }

    /// The client's connection as it is announced to a server: from the client to the address it connected to.
    fn ends(self) -> Ends {
        // Without names there is no connection any more, which its receive will tell.
        let destination =
            self.conn.and_then(|conn| conn.ends().ok()).map_or(*self.client, |(_, destination)| destination);
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Ends { source: plain(*self.client), destination: plain(destination) }
    }
}

/// A kept connection to the server whose turn it is: the usual case, without a wait. If clients are announced to servers, one on
/// which the same client was announced. For a request that cannot be sent again, one whose socket was checked: the ring reports
/// the end of a connection only with the next iteration of the loop.
pub(crate) fn take_idle(
    shard: &Rc<Shard>,
    group: &Group,
    identity: ProxyIdentity<'_>,
) -> Option<UpstreamStream> {
    if is_behind_others(group) {
        return None;
    }
    take_free(shard, group, identity)
}

/// Whether requests wait for a server of the group: they go first.
#[inline]
fn is_behind_others(group: &Group) -> bool {
    group.rules.queue.as_ref().is_some_and(|queue| !queue.is_empty())
}

/// The same for a request whose turn it is.
#[inline]
pub(super) fn take_free(
    shard: &Rc<Shard>,
    group: &Group,
    identity: ProxyIdentity<'_>,
) -> Option<UpstreamStream> {
    let repeat = identity.repeat;
    if group.rules.protocol == UpstreamProtocol::H2 {
        return open_stream(shard, group, identity);
    }
    let is_good = |link: &Link| repeat == Repeat::Possible || is_fresh(shard, link);
    let found = group.pick(identity.wanted(), |server| match group.rules.proxy_protocol {
        ProxyProtocolOut::Off => Some((identity.admitted(server)?, server.take_idle(is_good)?)),
        ProxyProtocolOut::V1 | ProxyProtocolOut::V2 => {
            Some((identity.admitted(server)?, server.take_idle_of(&identity.ends(), is_good)?))
        }
    });
    let (server, link) = found?;
    shard.counters.upstream_reuses.increment();
    Some(UpstreamStream::H1(ServerConnection::new(server, link, true, identity.reuse)))
}

/// A stream of a connection that is there, to the server whose turn it is.
fn open_stream(shard: &Rc<Shard>, group: &Group, identity: ProxyIdentity<'_>) -> Option<UpstreamStream> {
    let repeat = identity.repeat;
    let is_good = |link: &Link| repeat == Repeat::Possible || is_fresh(shard, link);
    let purpose = identity.purpose;
    let opened = group.pick(identity.wanted(), |server| {
        Some((identity.admitted(server)?, server.sessions.open(purpose, is_good)?))
    });
    let (server, stream) = opened?;
    server.sessions.look_ahead(shard, &server, &group.rules);
    shard.counters.upstream_reuses.increment();
    Some(UpstreamStream::H2(ServerStream::new(server, stream, true)))
}

/// Whether the server has neither closed the connection nor sent anything, by a system call.
fn is_fresh(shard: &Shard, link: &Link) -> bool {
    let is_fresh = link.transport().is_quiet_by_peek();
    if !is_fresh {
        shard.counters.upstream_stale.increment();
    }
    is_fresh
}

/// A new connection to the server whose turn it is, or to the next one that can be reached. Where clients are
/// announced to servers, the announcement goes first.
///
/// # Errors
/// The answer for the client when there is none; [`Answer::FULL`] if servers have as many connections as they may.
pub(crate) async fn connect_new(
    shard: &Rc<Shard>,
    group: &Group,
    identity: ProxyIdentity<'_>,
    turn: Turn,
) -> Result<UpstreamStream, Answer<'static>> {
    if turn == Turn::New && is_behind_others(group) {
        return Err(Answer::FULL);
    }
    shard.stock.leave_room_for(sluice_sys::connections_open());
    if shard.stock.is_full() {
        make_room(shard);
    }
    let mut answer = Answer::NoneAvailable;
    let mut failed: Option<Rc<Server>> = None;
    let count = group.members().len();
    for _ in 0..count.min(identity.servers_max) {
        let Some(server) = group.pick(identity.wanted(), |server| identity.admitted(server)) else {
            if failed.is_none() && group.is_down() {
                shard.counters.upstream_all_down.increment();
            }
            break;
        };
        // It has the request from now on, as far as the others are concerned.
        let _in_use = ServerInUse::new(server.clone());
        // The only one that checks leave is passed over by nothing.
        if failed.as_ref().is_some_and(|failed| Rc::ptr_eq(failed, &server)) {
            break;
        }
        let connected = match group.rules.protocol {
            UpstreamProtocol::H1 => {
                let connecting = async {
                    let place = server.take_place(turn).map_err(|Full| Answer::FULL)?;
                    connect_to(shard, &server, &group.rules, Some(identity), place).await
                };
                connecting.await.map(|link| {
                    server.opened();
                    UpstreamStream::H1(ServerConnection::new(server.clone(), link, false, identity.reuse))
                })
            }
            UpstreamProtocol::H2 => connect_stream(shard, group, &server, identity.purpose, turn).await,
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                if !matches!(error, Answer::NoneAvailable | Answer::FULL | Answer::NO_EXTENDED_CONNECT) {
                    group.note_failure(&server, Failure::Connection, sluice_sys::now_ms());
                }
                (answer, failed) = (error, Some(server));
            }
        }
    }
    // Another server may have failed: those that are full will be free again.
    Err(if group.rules.queue.is_some() && group.is_full() { Answer::FULL } else { answer })
}

/// A connection to this server, secured where it has to be. Without an identity it is for all clients.
pub(super) async fn connect_to(
    shard: &Shard,
    server: &Server,
    rules: &GroupRules,
    identity: Option<ProxyIdentity<'_>>,
    place: Option<Place>,
) -> Result<Link, Answer<'static>> {
    let until_ms = sluice_sys::now_ms() + rules.connect_ms;
    let mut made = dial(server, rules, place).await;
    if made.as_ref().is_err_and(lacks_descriptors) && make_room(shard) {
        sluice_sys::sleep(CLOSING_MS).await;
        let place = server.take_place(Turn::Waited).map_err(|Full| Answer::FULL)?;
        made = dial(server, rules, place).await;
    }
    let conn = made.map_err(|error| note_failure(shard, server, rules, &error))?;
    conn.set_read_ahead(server.read_ahead());
    rules.lifetime.begin(&conn);
    if let Some(identity) = identity {
        announce(&conn, rules.proxy_protocol, identity, shard.snapshot().times.write_stall);
    }
    shard.counters.upstream_connects.increment();
    server.numbers.connects.increment();
    let Some(tls) = &server.tls else { return Ok(Link::Plain(conn)) };
    let secured = tls.secure(shard, conn, server, until_ms).await;
    secured.inspect_err(|_| server.pass_over(sluice_sys::now_ms()))
}

/// Counts a connection that could not be made; the answer for the client.
fn note_failure(shard: &Shard, server: &Server, rules: &GroupRules, error: &ConnectError) -> Answer<'static> {
    shard.counters.upstream_connect_errors.increment();
    report(server, rules, error);
    server.numbers.connect_errors.increment();
    let answer = answer_for(error);
    if answer == Answer::UpstreamTimeout {
        shard.counters.upstream_connect_timeouts.increment();
    }
    if answer != Answer::NoneAvailable {
        server.pass_over(sluice_sys::now_ms());
    }
    answer
}

/// A stream to this server, of a connection that is there by now, or that is made for it and for others that wait. It waits again
/// only if others have got all streams of the new connection.
async fn connect_stream(
    shard: &Rc<Shard>,
    group: &Group,
    server: &Rc<Server>,
    purpose: Purpose,
    turn: Turn,
) -> Result<UpstreamStream, Answer<'static>> {
    let mut has_waited = false;
    loop {
        // A new connection has its first frames to be read.
        let is_good = |link: &Link| has_waited || is_fresh(shard, link);
        if let Some(stream) = server.sessions.open(purpose, is_good) {
            return Ok(UpstreamStream::H2(ServerStream::new(server.clone(), stream, false)));
        }
        if purpose.is_offer && server.sessions.refuse_offers() {
            shard.counters.upstream_bad_responses.increment();
            return Err(Answer::NO_EXTENDED_CONNECT);
        }
        server.sessions.wait(shard, server, &group.rules, turn).await?;
        has_waited = true;
    }
}

/// Closes an idle connection in favour of one that a request needs: the oldest one of the server that has most of them. Says
/// whether there was one.
#[cold]
fn make_room(shard: &Shard) -> bool {
    let mut fullest: Option<Rc<Server>> = None;
    shard.servers.for_each(|server| {
        if fullest.as_ref().is_none_or(|other| server.idle() > other.idle()) {
            fullest = Some(server.clone());
        }
    });
    let closed = fullest.map_or(0, |server| server.close_oldest(1));
    shard.counters.upstream_not_kept.add(closed as u64);
    closed > 0
}

fn lacks_descriptors(error: &ConnectError) -> bool {
    error.cause() == ConnectCause::OutOfDescriptors
}

/// Begins a connection with the header that names the client.
fn announce(conn: &Conn, version: ProxyProtocolOut, identity: ProxyIdentity<'_>, stall_ms: u64) {
    let (write, unknown): (fn(&mut Vec<u8>, &Ends), _) = match version {
        ProxyProtocolOut::Off => return,
        ProxyProtocolOut::V1 => (proxy_protocol::write_v1, proxy_protocol::UNKNOWN_V1),
        ProxyProtocolOut::V2 => (proxy_protocol::write_v2, proxy_protocol::UNKNOWN_V2),
    };
    let ends = identity.ends();
    let mut header = Buf::small();
    if ends.source == UNIX_PEER {
        header.extend_from_slice(unknown);
    } else {
        write(&mut header, &ends);
    }
    conn.set_proxied(ends.source, ends.destination);
    // If it fails, so does the request behind it.
    conn.send(header, stall_ms).detach();
}

/// A lack of our own (descriptors, ports, memory) is not the server's fault and may pass.
fn answer_for(error: &ConnectError) -> Answer<'static> {
    match error.cause() {
        ConnectCause::OutOfDescriptors | ConnectCause::OutOfPorts | ConnectCause::OutOfMemory => {
            Answer::NoneAvailable
        }
        ConnectCause::TimedOut => Answer::UpstreamTimeout,
        ConnectCause::Refused => Answer::Unreachable,
    }
}
