//! PROXY protocol headers in front of a client's first byte, on the listeners that are configured to expect them.
//!
//! A listener either requires the header or does not look for it; nothing is guessed from the bytes. Nothing else is read
//! before the header, and a connection without a valid one is closed without a response.

use sluice_proto::proxy_protocol::{Ends, Parsed, parse};

use super::Accepted;
use crate::config::Networks;
use crate::counters::Counters;
use crate::message::{Aborted, Cause, Side};
use crate::snapshot::Snapshot;

/// Reads the header of one of `senders` and notes whose connection it is; says whether there was a good one.
pub(crate) async fn read_header(
    accepted: &mut Accepted,
    senders: &Networks,
    snapshot: &Snapshot,
    counters: &Counters,
) -> bool {
    match read(accepted, senders, snapshot).await {
        Ok(()) => return true,
        Err(Refused::Sender) => counters.proxy_headers_forbidden.increment(),
        Err(Refused::Header) => counters.proxy_headers_malformed.increment(),
        Err(Refused::Late) => counters.proxy_headers_late.increment(),
        Err(Refused::Gone) => counters.client_aborts.increment(),
    }
    false
}

enum Refused {
    /// The peer may not send a header.
    Sender,
    /// The bytes are no header.
    Header,
    /// It did not come in time.
    Late,
    /// The connection failed.
    Gone,
}

async fn read(accepted: &mut Accepted, senders: &Networks, snapshot: &Snapshot) -> Result<(), Refused> {
    let peer = accepted.link.transport().peer().map_err(|_| Refused::Gone)?;
    if !senders.is_empty() && !senders.contains(peer.ip()) {
        return Err(Refused::Sender);
    }
    let mut is_waiting = false;
    loop {
        let conn = accepted.link.transport();
        match parse(accepted.inbox.unread()) {
            Ok(Parsed::Complete { ends, bytes }) => {
                accepted.inbox.consume(bytes);
                let ends = match ends {
                    Some(ends) => ends,
                    // A connection of the balancer's own, or one that it cannot name the client of.
                    None => Ends { source: peer, destination: conn.local().map_err(|_| Refused::Gone)? },
                };
                conn.set_proxied(ends.source, ends.destination);
                accepted.history.is_one_too_many =
                    accepted.is_address_crowded(snapshot.limits.connections_per_address);
                // Now the client has the time of a new connection for its first request.
                conn.set_deadline(snapshot.times.request_head);
                return Ok(());
            }
            Ok(Parsed::Partial) => {}
            Err(_) => return Err(Refused::Header),
        }
        if accepted.inbox.take_ready(&accepted.link) {
            continue;
        }
        if !is_waiting {
            is_waiting = true;
            conn.set_deadline(snapshot.times.proxy_header);
        }
        match accepted.inbox.receive(&accepted.link).await {
            Ok(true) => {}
            Ok(false) => return Err(Refused::Header),
            Err(error) if Aborted::io(Side::Downstream, &error).cause == Cause::TimedOut => {
                return Err(Refused::Late);
            }
            Err(_) => return Err(Refused::Gone),
        }
    }
}
