//! A request for a tunnel, by Upgrade or CONNECT: whether its route goes along, and what a server's answer makes of it.
//!
//! Owns everything about such requests that others need not know; they are rare, so it is all out of the way of the others.

use std::cell::Cell;

use sluice_proto::h1::{ConnectionField, Forwarding, ResponseForwarding, Reuse, write_request};
use sluice_proto::h1::{write_response, write_upgrade_request};
use sluice_proto::path::normalize;
use sluice_proto::upgrade::{WEBSOCKET, check_offer, is_taken_up};
use sluice_proto::{BodyLength, Method, RequestHead, RequestKind, ResponseHead, Version};
use sluice_sys::{Buf, now_ms};

use super::decision::{Decision, Refusal, route_of};
use super::{Progress, Upload};
use crate::answer::Answer;
use crate::config::{RouteTunnels, SendHost};
use crate::downstream::h1::Down;
use crate::identity::Client;
use crate::shard::Shard;
use crate::tunnel::End;
use crate::upstream::group::ServerId;
use crate::upstream::h1::Up;

/// What a server was offered to change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Nothing. The usual case.
    None,
    /// The protocol with this number among those that the route allows.
    Protocol(u16),
    /// What CONNECT asks for.
    Connect,
}

/// The server's end of a tunnel that an exchange has ended in.
pub(crate) struct TunnelUpstream {
    pub(crate) server: End,
    pub(crate) id: ServerId,
}

impl Decision {
    /// Judges a request for a tunnel as [`Decision::new`] judges others. Every refusal ends the connection: what follows the head
    /// may not be HTTP.
    #[cold]
    pub(super) fn of_tunnel<'t>(
        shard: &'t Shard,
        head: &RequestHead<'_>,
        client: &Client<'_>,
        wire: &mut Buf,
    ) -> Result<Decision, Refusal<'t>> {
        let mut path_store = shard.path_store.borrow_mut();
        let is_connect = head.method == Method::Connect;
        let fault = |fault| Refusal::of_path(shard, head, fault);
        // CONNECT has no path.
        let paths = if is_connect {
            None
        } else {
            Some(
                normalize(head.path_and_query, head.path, &shard.paths.rules, &mut path_store)
                    .map_err(fault)?,
            )
        };
        let matching = paths.as_ref().map_or("", |paths| paths.matching);
        let target = route_of(shard, head, matching).map_err(Refusal::and_close)?;
        let route = target.route;
        let normalized = match &paths {
            None => None,
            Some(paths) => shard.paths.normalized(head, paths, route, &shard.counters).map_err(fault)?,
        };
        let head = normalized.as_ref().unwrap_or(head);
        let allowed = &shard.route_tunnels[route];
        let switch = Switch::of(head, allowed).ok_or_else(|| {
            shard.counters.tunnels_refused.increment();
            Refusal::new(head, Answer::NoTunnel).and_close()
        })?;
        let send_host = if is_connect { SendHost::Client } else { shard.send_host[route] };
        let host = if send_host == SendHost::Client { head.authority } else { "" };
        let identity = &shard.identity.policy;
        let fwd = Forwarding { identity, sender: client.sender, host, body: BodyLength::None };
        let protocol = switch.protocol(allowed);
        match protocol {
            Some(protocol) => {
                check_offer(head, protocol).map_err(fault)?;
                write_upgrade_request(wire, head, &fwd, protocol);
            }
            None => write_request(wire, head, &fwd),
        }
        Ok(Decision {
            upstream: target.upstream,
            route,
            kind: RequestKind::from(head.method),
            version: head.version,
            body: BodyLength::None,
            // What a client sends before it knows that its offer was taken up must not be read as a request if it was not.
            // WebSocket clients wait; others may not.
            //= https://www.rfc-editor.org/rfc/rfc9931#section-8
            // "proxy servers MUST close the underlying connection when rejecting a CONNECT request"
            is_persistent: head.persistent
                && protocol.is_some_and(|name| name.eq_ignore_ascii_case(WEBSOCKET)),
            is_idempotent: head.method.is_idempotent(),
            expect_continue: false,
            connection_end_ms: u64::MAX,
            progress: Progress { upload: Cell::new(Upload::Running), is_answering: Cell::new(false) },
            reuse: if is_connect { Reuse::Forbidden } else { Reuse::after(head) },
            trailers: head.trailers,
            switch,
            client: client.address,
            send_host,
        })
    }

    /// Writes the head of an answer that opens the tunnel which was asked for; says whether it does.
    #[cold]
    pub(super) fn write_opening(&self, shard: &Shard, head: &ResponseHead<'_>, out: &mut Buf) -> bool {
        let is_opening = match self.switch.protocol(&shard.route_tunnels[self.route]) {
            Some(protocol) => is_taken_up(head, protocol),
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            // "Any 2xx (Successful) response indicates that the sender ... will switch to tunnel mode"
            None => self.switch == Switch::Connect && (200..=299).contains(&head.status),
        };
        if is_opening {
            shard.clock.with_date(now_ms(), |date| {
                let forwarding = ResponseForwarding {
                    version_to: Version::Http11,
                    // "A server MUST NOT send any Transfer-Encoding or Content-Length header fields in a 2xx (Successful)
                    // response to CONNECT": so neither is passed on. A 101 has none.
                    body: BodyLength::UntilClose,
                    connection: ConnectionField::Omit,
                    date: Some(date),
                };
                write_response(out, head, &forwarding);
            });
        }
        is_opening
    }

    /// The client's connection may serve another request only if the client has said nothing yet: after an offer that was not
    /// taken up, nobody could tell what it was meant for.
    #[inline]
    pub(super) fn is_over_for(&self, down: &Down<'_>) -> bool {
        self.switch != Switch::None && down.has_unread()
    }
}

impl Switch {
    /// The first of the client's offers that is allowed.
    fn of(head: &RequestHead<'_>, allowed: &RouteTunnels) -> Option<Switch> {
        if head.method == Method::Connect {
            let port = head.authority.rsplit(':').next().and_then(|digits| digits.parse().ok())?;
            return allowed.connect.iter().any(|ports| ports.contains(&port)).then_some(Switch::Connect);
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
        // "recipients SHOULD use case-insensitive comparison when matching each protocol-name to supported protocols"
        let number = |offer: &[u8]| {
            allowed.upgrade.iter().position(|protocol| protocol.as_bytes().eq_ignore_ascii_case(offer))
        };
        let number = head.offers().find_map(number)?;
        u16::try_from(number).ok().map(Switch::Protocol)
    }

    fn protocol(self, allowed: &RouteTunnels) -> Option<&str> {
        match self {
            Switch::Protocol(number) => Some(&allowed.upgrade[usize::from(number)]),
            Switch::None | Switch::Connect => None,
        }
    }
}

impl TunnelUpstream {
    /// The end of a server that has gone along.
    #[cold]
    pub(super) fn of(up: Up<'_>, group: usize, shard: &Shard) -> Box<TunnelUpstream> {
        let (end, server) = up.into_end();
        let number = shard.groups[group].servers().iter().position(|other| std::ptr::eq(other, server));
        let number = number.expect("a server of its group");
        Box::new(TunnelUpstream { server: end, id: (group as u32, number as u32) })
    }
}
