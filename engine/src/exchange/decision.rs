//! The judgement of a request by its head: a decision, with the head as the server will see it already written, or a refusal.
//! Everything here happens while the head lies in the receive buffer, before a server is chosen.

use std::cell::Cell;
use std::net::SocketAddr;

use sluice_proto::h1::{ConnectionField, Forwarding, Reuse, replace_host, write_request};
use sluice_proto::path::normalize;
use sluice_proto::{BodyLength, Fault, Method, RequestHead, RequestKind, TrailerRule, Version};
use sluice_sys::Buf;

use super::upgrade::Switch;
use super::{Progress, Upload};
use crate::answer::{Answer, ResponseFraming};
use crate::config::SendHost;
use crate::downstream::h1::Down;
use crate::identity::Client;
use crate::path_policy;
use crate::route::{Lookup, RouteTarget};
use crate::shard::Shard;
use crate::upstream::connect::ProxyIdentity;
use crate::upstream::h1::Up;

/// What was decided about a request when its head was read.
pub(super) struct Decision {
    pub(super) upstream: usize,
    pub(super) route: usize,
    pub(super) kind: RequestKind,
    pub(super) version: Version,
    pub(super) body: BodyLength,
    pub(super) is_persistent: bool,
    pub(super) is_idempotent: bool,
    pub(super) expect_continue: bool,
    /// When the client's connection is too old.
    pub(super) connection_end_ms: u64,
    pub(super) progress: Progress,
    /// Whether the server's connection may serve another request afterwards.
    pub(super) reuse: Reuse,
    pub(super) trailers: TrailerRule,
    pub(super) switch: Switch,
    /// The client, for servers that are told of it.
    pub(super) client: SocketAddr,
    pub(super) send_host: SendHost,
}

/// Why a request goes nowhere.
pub(super) struct Refusal<'t> {
    pub(super) answer: Answer<'t>,
    pub(super) framing: ResponseFraming,
}

impl Decision {
    /// Judges a request, and writes its head as the server will see it.
    pub(super) fn new<'t>(
        shard: &'t Shard,
        head: &RequestHead<'_>,
        client: &Client<'_>,
        wire: &mut Buf,
    ) -> Result<Decision, Refusal<'t>> {
        if head.wants_tunnel() {
            return Decision::of_tunnel(shard, head, client, wire);
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
        if head.max_forwards() == Some(0) {
            let trace =
                Answer::Refused { status: 501, why: "TRACE ends here by Max-Forwards and is not answered" };
            let is_trace = head.method == Method::Trace;
            return Err(Refusal::new(head, if is_trace { trace } else { Answer::FinalRecipient }));
        }
        let mut path_store = shard.path_store.borrow_mut();
        let paths = normalize(head.path_and_query, head.path, &shard.paths.rules, &mut path_store)
            .map_err(|fault| Refusal::of_path(shard, head, fault))?;
        let RouteTarget { upstream, route } = route_of(shard, head, paths.matching)?;
        let normalized = shard.paths.normalized(head, &paths, route, &shard.counters);
        let normalized = normalized.map_err(|fault| Refusal::of_path(shard, head, fault))?;
        let head = normalized.as_ref().unwrap_or(head);
        let body_bytes_max = shard.route_limits[route].body_bytes_max;
        if matches!(head.body, BodyLength::Length(bytes) if bytes > body_bytes_max) {
            shard.counters.bodies_too_large.increment();
            return Err(Refusal::new(head, Answer::BODY_TOO_LARGE));
        }
        // A client of HTTP/1.0 need not name a host.
        let send_host = if head.authority.is_empty() { SendHost::Server } else { shard.send_host[route] };
        let host = if send_host == SendHost::Client { head.authority } else { "" };
        let identity = &shard.identity.policy;
        write_request(wire, head, &Forwarding { identity, sender: client.sender, host, body: head.body });
        Ok(Decision {
            upstream,
            route,
            kind: RequestKind::from(head.method),
            version: head.version,
            body: head.body,
            is_persistent: head.persistent,
            is_idempotent: head.method.is_idempotent(),
            expect_continue: head.expect_continue,
            connection_end_ms: u64::MAX,
            progress: Progress { upload: Cell::new(Upload::Running), is_answering: Cell::new(false) },
            reuse: Reuse::after(head),
            trailers: head.trailers,
            switch: Switch::None,
            client: client.address,
            send_host,
        })
    }

    /// For whom a connection to a server is wanted.
    pub(super) fn identity<'a>(&self, down: &'a Down<'_>) -> ProxyIdentity<'a> {
        ProxyIdentity { conn: &down.conn, client: self.client }
    }

    /// Puts the name of the server that was chosen into the head, if that is the Host it gets.
    pub(super) fn name_server(&self, wire: &mut Buf, up: &Up<'_>) {
        if self.send_host == SendHost::Server {
            replace_host(wire, up.authority());
        }
    }

    pub(super) fn connection_field(&self, is_persistent: bool) -> ConnectionField {
        ConnectionField::of(self.version, is_persistent)
    }
}

/// The route of a request with this path, or the refusal if there is none.
#[inline]
pub(super) fn route_of<'t>(
    shard: &'t Shard,
    head: &RequestHead<'_>,
    path: &str,
) -> Result<RouteTarget, Refusal<'t>> {
    match shard.routes.lookup(head.authority, path, head.method.as_str()) {
        Lookup::Found(target) => Ok(target),
        Lookup::MethodNotAllowed { allow } => Err(Refusal::new(head, Answer::MethodNotAllowed { allow })),
        Lookup::NotFound => {
            shard.counters.no_route.increment();
            Err(Refusal::new(head, Answer::NoRoute))
        }
    }
}

impl<'t> Refusal<'t> {
    /// The connection survives a refusal if no body follows that somebody would have to read.
    #[cold]
    pub(super) fn new(head: &RequestHead<'_>, answer: Answer<'t>) -> Refusal<'t> {
        let is_persistent = head.persistent && head.body.is_empty();
        let framing = ResponseFraming {
            connection: ConnectionField::of(head.version, is_persistent),
            is_head_only: RequestKind::from(head.method) == RequestKind::Head,
        };
        Refusal { answer, framing }
    }

    /// The path has two readings, or one that nobody means well with: the end of the connection, as with every broken rule.
    #[cold]
    pub(super) fn of_path(shard: &Shard, head: &RequestHead<'_>, fault: Fault) -> Refusal<'t> {
        shard.counters.bad_requests.increment();
        path_policy::count_refused(fault, &shard.counters);
        Refusal::new(head, Answer::Refused { status: fault.status(), why: fault.reason() }).and_close()
    }

    /// The connection ends with the answer.
    pub(super) fn and_close(mut self) -> Refusal<'t> {
        self.framing.connection = ConnectionField::Close;
        self
    }

    /// The client has too many connections, and this is one of them.
    pub(super) fn of_connection(shard: &Shard, head: &RequestHead<'_>) -> Refusal<'t> {
        shard.crowded.set(shard.crowded.get() + 1);
        Refusal::new(head, Answer::TooManyConnections).and_close()
    }

    pub(super) fn is_persistent(&self) -> bool {
        self.framing.connection != ConnectionField::Close
    }
}
