//! Requests for a tunnel, by Upgrade or CONNECT: whether their route allows it, and whether a server's response opens it.
//!
//! Owns everything that only such requests need. They are rare, so it is all kept out of the code of other requests.

use sluice_proto::h1::{Forwarding, write_request, write_upgrade_request};
use sluice_proto::upgrade::{
    WEBSOCKET, accepts_key, check_offer, client_key, is_known_version, is_taken_up, key_of,
};
use sluice_proto::{Method, RequestHead, RequestKind, ResponseHead};

use super::decision::{Decision, Refusal};
use crate::answer::Answer;
use crate::config::RouteTunnels;
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::Route;
use crate::upstream::sessions::Purpose;
use crate::websocket::Agreed;

/// The protocol that a server was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Nothing. The usual case.
    None,
    /// The protocol with this number among those that the route allows.
    Protocol(u16),
    /// A connection by CONNECT.
    Connect,
}

impl Switch {
    /// The tunnel that a request asks for, if its route allows it and the request is valid.
    #[cold]
    pub(super) fn of<'s>(
        shard: &Shard,
        head: &RequestHead<'_>,
        route: &Route,
    ) -> Result<Switch, Refusal<'s>> {
        let Some(switch) = Switch::find(head, &route.tunnels) else {
            shard.counters.tunnels_refused.increment();
            return Err(Refusal::new(head, Answer::NoTunnel));
        };
        if let Some(protocol) = switch.protocol(&route.tunnels) {
            check_offer(head, protocol).map_err(|fault| Refusal::of_offer(shard, fault))?;
            let is_read = route.frames.is_some() && protocol.eq_ignore_ascii_case(WEBSOCKET);
            if is_read && !is_known_version(head) {
                shard.counters.tunnels_refused.increment();
                return Err(Refusal::new(head, Answer::WebSocketVersion));
            }
        }
        Ok(switch)
    }

    /// The first of the client's offers that is allowed.
    fn find(head: &RequestHead<'_>, allowed: &RouteTunnels) -> Option<Switch> {
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

    /// The Sec-WebSocket-Key that the server gets: the client's, or one that is made for a client of HTTP/2, which has none.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
    #[cold]
    pub(super) fn websocket_key(
        self,
        head: &RequestHead<'_>,
        route: &Route,
        request_id: u128,
    ) -> Option<Box<[u8; 24]>> {
        let protocol = self.protocol(&route.tunnels)?;
        let key = || Box::new(client_key(head).unwrap_or_else(|| key_of(request_id)));
        protocol.eq_ignore_ascii_case(WEBSOCKET).then(key)
    }

    /// Writes the head of a request as a server gets it, with the offer if there is one.
    #[inline]
    pub(super) fn write(
        self,
        head: &RequestHead<'_>,
        route: &Route,
        forwarding: &Forwarding<'_>,
        lines: &mut RequestLines,
    ) {
        match self.protocol(&route.tunnels) {
            None => lines.write(|out| write_request(out, head, forwarding)),
            Some(protocol) => lines.write(|out| write_upgrade_request(out, head, forwarding, protocol)),
        }
    }
}

impl Decision<'_> {
    /// Whether what the client sends before it knows that its offer was taken up may not be read as a request if it was not.
    /// WebSocket clients wait; others may not.
    //= https://www.rfc-editor.org/rfc/rfc9931#section-8
    // "proxy servers MUST close the underlying connection when rejecting a CONNECT request"
    pub(crate) fn may_send_early(&self) -> bool {
        match self.switch {
            Switch::None => false,
            Switch::Connect => true,
            Switch::Protocol(_) => {
                let protocol = self.switch.protocol(&self.route.tunnels);
                !protocol.is_some_and(|name| name.eq_ignore_ascii_case(WEBSOCKET))
            }
        }
    }

    /// How the frames of the tunnel are read, if they are.
    #[cold]
    pub(super) fn agreed(&self, has_deflate: bool) -> Option<Agreed> {
        let protocol = self.switch.protocol(&self.route.tunnels)?;
        let rules = self.route.frames.clone().filter(|_| protocol.eq_ignore_ascii_case(WEBSOCKET))?;
        Some(Agreed { rules, has_deflate })
    }

    /// What a stream to a server is for. A response that opens a tunnel has no body.
    pub(crate) fn purpose(&self) -> Purpose {
        match self.switch {
            Switch::None => Purpose { kind: self.kind, is_offer: false },
            Switch::Connect => Purpose { kind: RequestKind::Connect, is_offer: false },
            Switch::Protocol(_) => Purpose { kind: RequestKind::Connect, is_offer: true },
        }
    }

    /// Whether a server's response opens the tunnel that was asked for.
    #[cold]
    pub(super) fn is_tunnel_opened(&self, head: &ResponseHead<'_>) -> bool {
        match self.switch.protocol(&self.route.tunnels) {
            Some(protocol) => {
                is_taken_up(head, protocol)
                    && self.websocket_key.as_ref().is_none_or(|key| accepts_key(head, &key[..]))
            }
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            // "Any 2xx (Successful) response indicates that the sender ... will switch to tunnel mode"
            None => self.switch == Switch::Connect && (200..=299).contains(&head.status),
        }
    }
}
