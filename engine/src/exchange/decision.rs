//! The decision about a request by its head: its route and servers, with the head already written as a server will get it, or a
//! refusal. All of it is made while the head is in the receive buffer, before a server is chosen.

use std::borrow::Cow;
use std::net::SocketAddr;

use sluice_proto::grpc::Call;
use sluice_proto::grpc_web::{Form, Web, WebType};
use sluice_proto::h1::{Forwarding, Reuse, write_web_request};
use sluice_proto::path::{PathForms, normalize};
use sluice_proto::{BodyLength, Fault, FieldId, Method, RequestHead, RequestKind, TargetText, grpc};
use sluice_sys::Buf;

use super::upgrade::Switch;
use super::{arrival, policy};
use crate::answer::Answer;
use crate::config::{RawUtf8, SendHost};
use crate::downstream::Afterwards;
use crate::identity::Client;
use crate::path_policy;
use crate::record::Destination;
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::{Found, Route, Snapshot};
use crate::upstream::balance::affinity::Affinity;
use crate::upstream::group::Group;

/// The decision about a request, made when its head was read.
pub(crate) struct Decision<'s> {
    pub(crate) route: &'s Route,
    pub(crate) group: &'s Group,
    pub(crate) kind: RequestKind,
    /// How long the body is, as it comes.
    pub(crate) body: BodyLength,
    /// How the request is a call of gRPC, on its route.
    pub(crate) call: Call,
    pub(crate) is_idempotent: bool,
    /// Whether the server's connection may serve another request afterwards.
    pub(crate) reuse: Reuse,
    pub(crate) switch: Switch,
    /// The Sec-WebSocket-Key that the server has to answer.
    pub(crate) websocket_key: Option<Box<[u8; 24]>>,
    /// The longest time for the request, 0 for no limit. Keys allow a day, and a call of gRPC waits no longer than 49.
    pub(crate) request_ms: u32,
    pub(crate) send_host: SendHost,
    /// The client, for servers whose connections begin with a PROXY protocol header.
    pub(crate) client: SocketAddr,
    /// What the request asks for in a server.
    pub(crate) affinity: Affinity,
}

/// Why a request goes nowhere.
pub(crate) struct Refusal<'s> {
    answer: Answer<'s>,
    pub(crate) afterwards: Afterwards,
    /// The route that it had nevertheless.
    pub(crate) route: Option<&'s Route>,
    /// The text that the answer has: where the client is sent, or the methods that are allowed for this request.
    text: Option<Buf>,
}

impl<'s> Decision<'s> {
    /// Judges a request, and writes its head as the server will see it.
    pub(crate) fn new(
        shard: &Shard,
        snapshot: &'s Snapshot,
        (head, call): (&RequestHead<'_>, Call),
        client: &Client<'_>,
        lines: &mut RequestLines,
    ) -> Result<Decision<'s>, Refusal<'s>> {
        if shard.tls.has_challenges()
            && let Some(number) = shard.tls.challenge_of(head.path)
        {
            return Err(Refusal::new(head, Answer::AcmeChallenge { number }));
        }
        arrival::check(shard, snapshot, head, client.link)?;
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
        if head.max_forwards() == Some(0) {
            return Err(Refusal::of_last_hop(head));
        }
        let fault = |fault| Refusal::of_path(shard, fault);
        if head.target_text == TargetText::Utf8 && snapshot.raw_utf8 == RawUtf8::Refuse {
            return Err(fault(Fault::RawUtf8));
        }
        let mut path_store = shard.path_store.borrow_mut();
        let is_connect = head.method == Method::Connect;
        // CONNECT has no path.
        let paths = match is_connect {
            true => None,
            false => Some(
                normalize(head.path_and_query, head.path, &snapshot.path_rules, &mut path_store)
                    .map_err(fault)?,
            ),
        };
        let matching = paths.as_ref().map_or("", |paths| paths.matching);
        let way = find(shard, snapshot, (head, matching), client.address)?;
        let decided = Decision::on_route(shard, snapshot, way, (head, paths.as_ref(), call), client, lines);
        decided.map_err(|refusal| Refusal { route: Some(way.0), ..refusal })
    }

    /// The same once the route is known.
    #[inline]
    fn on_route(
        shard: &Shard,
        snapshot: &'s Snapshot,
        (route, group): (&'s Route, Option<&'s Group>),
        (received, paths, call): (&RequestHead<'_>, Option<&PathForms<'_>>, Call),
        client: &Client<'_>,
        lines: &mut RequestLines,
    ) -> Result<Decision<'s>, Refusal<'s>> {
        if let Some(policy) = &route.policy {
            policy::prepare(policy, (shard, snapshot), (received, paths), client)?;
        }
        if route.client_certificate && !client.has_certificate() {
            shard.counters.client_certificates_missing.increment();
            return Err(Refusal::new(received, Answer::NO_CLIENT_CERTIFICATE));
        }
        let is_connect = received.method == Method::Connect;
        let normalized = match paths {
            None => None,
            Some(paths) => path_policy::normalized(&route.paths, received, paths, &shard.counters)
                .map_err(|fault| Refusal::of_path(shard, fault))?,
        };
        let head = normalized.as_ref().unwrap_or(received);
        if let Some(policy) = &route.policy
            && let Some(answer) = &policy.answer
        {
            return Err(policy::answer(answer, policy, (shard, snapshot), (received, paths), client));
        }
        let Some(group) = group else { return Err(Refusal::new(head, Answer::NoRoute)) };
        let switch = if head.wants_tunnel() { Switch::of(shard, head, route)? } else { Switch::None };
        let body = if switch == Switch::None { head.body } else { BodyLength::None };
        if matches!(body, BodyLength::Length(bytes) if bytes > route.body_bytes_max) {
            shard.counters.bodies_too_large.increment();
            return Err(Refusal::new(head, Answer::BODY_TOO_LARGE));
        }
        let send_host = match (switch, head.authority) {
            (Switch::Connect, _) => SendHost::Client,
            _ if route.sets_host() => SendHost::Client,
            // A client of HTTP/1.0 need not name a host.
            (_, "") => SendHost::Server,
            _ => route.send_host,
        };
        let host = if send_host == SendHost::Client { head.authority } else { "" };
        let call = if switch == Switch::None { call_on(Some(route), call) } else { call.without_web() };
        let forwarding = Forwarding {
            identity: &snapshot.identity.policy,
            sender: client.identity,
            host,
            body: sent_body(call, body),
            edits: None,
        };
        match &route.policy {
            None => write_request((switch, call), head, route, &forwarding, lines),
            Some(policy) => {
                let (of, heads) = ((shard, snapshot, route), (received, head, paths));
                policy::write(policy, of, heads, client, (switch, call, &forwarding), lines)?;
            }
        }
        let websocket_key = match switch {
            Switch::None | Switch::Connect => None,
            Switch::Protocol(_) => switch.websocket_key(head, route, client.identity.request_id),
        };
        let affinity = affinity(group, head, paths, client);
        Ok(Decision {
            route,
            group,
            kind: RequestKind::from(head.method),
            body,
            call,
            is_idempotent: head.method.is_idempotent(),
            reuse: if is_connect { Reuse::Forbidden } else { Reuse::after(head) },
            switch,
            websocket_key,
            request_ms: u32::try_from(request_ms(route, head, call)).unwrap_or(u32::MAX),
            send_host,
            client: client.address,
            affinity,
        })
    }
}

impl Decision<'_> {
    /// What the request is counted for.
    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination { route: Some(self.route), group: Some(self.group) }
    }

    /// How long the body is as the server gets it.
    pub(crate) fn sent_body(&self) -> BodyLength {
        sent_body(self.call, self.body)
    }

    /// Whether the body comes as text, and goes on without.
    pub(crate) fn is_text(&self) -> bool {
        self.call.web().is_some_and(|web| web.request == Form::Text)
    }
}

/// What the request asks for in a server, where its group goes by that.
#[inline]
fn affinity(
    group: &Group,
    head: &RequestHead<'_>,
    paths: Option<&PathForms<'_>>,
    client: &Client<'_>,
) -> Affinity {
    match &group.rules.balance {
        None => Affinity::default(),
        Some(rules) => Affinity::of(rules, head, paths.map(|paths| paths.path), client.address),
    }
}

/// The time that the route has for a request; a gRPC call may want less.
#[inline]
fn request_ms(route: &Route, head: &RequestHead<'_>, call: Call) -> u64 {
    if call == Call::None {
        return route.request_ms;
    }
    match (grpc::timeout_ms(&head.field_list()), route.request_ms) {
        (None, of_route) => of_route,
        (Some(of_call), 0) => of_call,
        (Some(of_call), of_route) => of_call.min(of_route),
    }
}

/// How a request that was decided about like this is a call of gRPC.
pub(crate) fn call_of(decided: &Result<Decision<'_>, Refusal<'_>>, call: Call) -> Call {
    match decided {
        Ok(decision) => decision.call,
        Err(refusal) => call_on(refusal.route, call),
    }
}

/// The same on this route: not every one knows gRPC-Web.
fn call_on(route: Option<&Route>, call: Call) -> Call {
    if route.is_some_and(|route| route.grpc_web) { call } else { call.without_web() }
}

/// The length of this body of a call as a server of gRPC gets it.
fn sent_body(call: Call, body: BodyLength) -> BodyLength {
    match (call, body) {
        (Call::Web(Web { request: Form::Text, .. }), BodyLength::Length(1..)) => BodyLength::Streamed,
        _ => body,
    }
}

/// Writes the head of a request as a server will get it.
#[inline]
pub(super) fn write_request(
    (switch, call): (Switch, Call),
    head: &RequestHead<'_>,
    route: &Route,
    forwarding: &Forwarding<'_>,
    lines: &mut RequestLines,
) {
    match call {
        Call::Web(_) => write_grpc(head, forwarding, lines),
        Call::None | Call::Grpc => switch.write(head, route, forwarding, lines),
    }
}

/// Writes the head of a call that came as gRPC-Web.
#[cold]
fn write_grpc(head: &RequestHead<'_>, forwarding: &Forwarding<'_>, lines: &mut RequestLines) {
    let web = head.field_list().single(FieldId::ContentType).and_then(WebType::parse);
    let web = web.expect("its type was read before");
    lines.write(|out| write_web_request(out, head, forwarding, web));
}

/// The route of a request with this path and its servers, or the refusal if there is none.
#[inline]
fn find<'s>(
    shard: &Shard,
    snapshot: &'s Snapshot,
    (head, path): (&RequestHead<'_>, &str),
    client: SocketAddr,
) -> Result<(&'s Route, Option<&'s Group>), Refusal<'s>> {
    match snapshot.find(head, path, client.ip()) {
        Found::Route(route, group) => Ok((route, group)),
        Found::MethodNotAllowed { allow: Cow::Borrowed(allow) } => {
            Err(Refusal::new(head, Answer::MethodNotAllowed { allow }))
        }
        Found::MethodNotAllowed { allow: Cow::Owned(allow) } => Err(Refusal::with_allow(head, &allow)),
        Found::Nothing => {
            shard.counters.no_route.increment();
            Err(Refusal::new(head, Answer::NoRoute))
        }
    }
}

impl<'s> Refusal<'s> {
    /// The connection survives a refusal if what follows the head can only be the next request: no body, and none of the bytes that
    /// a client may send ahead into a tunnel.
    #[cold]
    pub(crate) fn new(head: &RequestHead<'_>, answer: Answer<'s>) -> Refusal<'s> {
        let is_read = head.body.is_empty() && !head.wants_tunnel();
        Refusal::then(answer, if is_read { Afterwards::GoOn } else { Afterwards::Close })
    }

    /// One of which it is known how the connection goes on.
    pub(super) fn then(answer: Answer<'s>, afterwards: Afterwards) -> Refusal<'s> {
        Refusal { answer, afterwards, route: None, text: None }
    }

    /// The client is to ask at this place.
    #[cold]
    pub(super) fn to_https(head: &RequestHead<'_>, location: &str) -> Refusal<'s> {
        let refusal = Refusal::new(head, Answer::HttpsRedirect { location: "" });
        refusal.with_text(location)
    }

    /// The same by a route.
    pub(super) fn redirect(head: &RequestHead<'_>, status: u16, location: Buf) -> Refusal<'s> {
        Refusal { text: Some(location), ..Refusal::new(head, Answer::Redirect { status, location: "" }) }
    }

    /// Routes with conditions hold for this request, and none of them has its method.
    #[cold]
    fn with_allow(head: &RequestHead<'_>, allow: &str) -> Refusal<'s> {
        Refusal::new(head, Answer::MethodNotAllowed { allow: "" }).with_text(allow)
    }

    fn with_text(self, text: &str) -> Refusal<'s> {
        let mut written = Buf::small();
        written.extend_from_slice(text.as_bytes());
        Refusal { text: Some(written), ..self }
    }

    /// What the request is counted for.
    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination { route: self.route, group: None }
    }

    pub(crate) fn answer(&self) -> Answer<'_> {
        let Some(text) = &self.text else { return self.answer };
        // It was written as ASCII.
        let text = str::from_utf8(text).unwrap_or_default();
        match self.answer {
            Answer::Redirect { status, .. } => Answer::Redirect { status, location: text },
            Answer::HttpsRedirect { .. } => Answer::HttpsRedirect { location: text },
            Answer::MethodNotAllowed { .. } => Answer::MethodNotAllowed { allow: text },
            answer => answer,
        }
    }

    /// The client has asked for the answer of the last server that the request may reach, and that is this one.
    #[cold]
    fn of_last_hop(head: &RequestHead<'_>) -> Refusal<'s> {
        let is_trace = head.method == Method::Trace;
        Refusal::new(head, if is_trace { Answer::TRACE_ENDS_HERE } else { Answer::FinalRecipient })
    }

    /// The path is ambiguous or leads out of the tree: the connection ends, as with every broken rule.
    #[cold]
    pub(crate) fn of_path(shard: &Shard, fault: Fault) -> Refusal<'s> {
        shard.counters.bad_requests.increment();
        path_policy::count_refused(fault, &shard.counters);
        let answer = Answer::Refused { status: fault.status(), why: fault.reason() };
        Refusal::then(answer, Afterwards::Close)
    }

    /// The offer to leave HTTP breaks a rule.
    #[cold]
    pub(super) fn of_offer(shard: &Shard, fault: Fault) -> Refusal<'s> {
        shard.counters.bad_requests.increment();
        let answer = Answer::Refused { status: fault.status(), why: fault.reason() };
        Refusal::then(answer, Afterwards::Close)
    }

    /// The client has too many connections, and this is one of them.
    #[cold]
    pub(crate) fn of_connection(shard: &Shard) -> Refusal<'s> {
        shard.crowded.set(shard.crowded.get() + 1);
        Refusal::then(Answer::TooManyConnections, Afterwards::Close)
    }

    /// Whether the client may be guessing what there is, on a connection that goes on.
    pub(crate) fn is_guess(&self) -> bool {
        // An answer that a route has for everyone says nothing of who asks.
        let is_of_route = matches!(self.answer, Answer::Fixed(_));
        self.afterwards == Afterwards::GoOn && self.answer.status() >= 400 && !is_of_route
    }
}
