//! PROXY protocol headers in front of a client's first byte, on the listeners that are told to expect them.
//!
//! A listener either requires the header or takes no notice of the protocol; nothing is guessed from the bytes. Until the
//! header was read nothing else is, and a connection without a good one is closed without a word.

use sluice_proto::proxy_protocol::{Ends, Parsed, parse};
use sluice_sys::Conn;

use crate::config::{Listener, Networks, ProxyProtocolIn};
use crate::downstream::h1::Down;
use crate::message::{Aborted, Cause, Side};
use crate::shard::Shard;

/// Who may send headers, by listener; empty where no listener expects any.
pub(crate) struct ProxyProtocol {
    by_listener: Vec<Option<Networks>>,
}

impl ProxyProtocol {
    pub(crate) fn new(listeners: &[Listener]) -> ProxyProtocol {
        let senders = |listener: &Listener| match listener.proxy_protocol {
            ProxyProtocolIn::Off => None,
            ProxyProtocolIn::Required => Some(listener.proxy_protocol_from.clone()),
        };
        let by_listener: Vec<_> = listeners.iter().map(senders).collect();
        ProxyProtocol {
            by_listener: if by_listener.iter().all(Option::is_none) { Vec::new() } else { by_listener },
        }
    }

    /// Whether every connection of a listener begins with a header.
    pub(crate) fn is_expected(&self, listener: u8) -> bool {
        self.by_listener.get(usize::from(listener)).is_some_and(Option::is_some)
    }

    /// Who may send the header that is still to come on a connection; `None` if none is.
    fn senders(&self, conn: &Conn) -> Option<&Networks> {
        if self.by_listener.is_empty() {
            return None;
        }
        let senders = self.by_listener.get(usize::from(conn.listener()))?.as_ref()?;
        conn.proxied().is_none().then_some(senders)
    }
}

/// Whether a header must be read before anything else.
pub(crate) fn is_due(shard: &Shard, conn: &Conn) -> bool {
    shard.proxy_protocol.senders(conn).is_some()
}

/// Reads the header and notes whose connection it is; says whether there was a good one.
pub(crate) async fn read_header(down: &mut Down<'_>) -> bool {
    let counters = &down.shard.counters;
    match read(down).await {
        Ok(()) => return true,
        Err(Refused::Sender) => counters.proxy_headers_forbidden.increment(),
        Err(Refused::Header) => counters.proxy_headers_malformed.increment(),
        Err(Refused::Late) => counters.proxy_headers_late.increment(),
        Err(Refused::Gone) => counters.client_aborts.increment(),
    }
    false
}

enum Refused {
    /// Nobody who may send a header.
    Sender,
    /// What came is no header.
    Header,
    /// It did not come in time.
    Late,
    /// The connection failed.
    Gone,
}

async fn read(down: &mut Down<'_>) -> Result<(), Refused> {
    let shard = down.shard;
    let peer = down.conn.peer().map_err(|_| Refused::Gone)?;
    let Some(senders) = shard.proxy_protocol.senders(&down.conn) else { return Ok(()) };
    if !senders.is_empty() && !senders.contains(peer.ip()) {
        return Err(Refused::Sender);
    }
    let mut is_waiting = false;
    loop {
        match parse(down.inbox.unread()) {
            Ok(Parsed::Complete { ends, bytes }) => {
                down.inbox.consume(bytes);
                let ends = match ends {
                    Some(ends) => ends,
                    // A connection of the balancer's own, or one that it cannot name the client of.
                    None => Ends { source: peer, destination: down.conn.local().map_err(|_| Refused::Gone)? },
                };
                down.conn.set_proxied(ends.source, ends.destination);
                down.history.is_one_too_many = down.is_address_crowded();
                // Now the client has the time of a new connection for its first request.
                down.conn.set_deadline(shard.times.header);
                return Ok(());
            }
            Ok(Parsed::Partial) => {}
            Err(_) => return Err(Refused::Header),
        }
        if down.inbox.take_ready(&down.conn) {
            continue;
        }
        if !is_waiting {
            is_waiting = true;
            down.conn.set_deadline(shard.times.proxy_header);
        }
        match down.inbox.receive(&down.conn).await {
            Ok(true) => {}
            Ok(false) => return Err(Refused::Header),
            Err(error) if Aborted::io(Side::Downstream, &error).cause == Cause::TimedOut => {
                return Err(Refused::Late);
            }
            Err(_) => return Err(Refused::Gone),
        }
    }
}
