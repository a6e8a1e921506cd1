//! A client's HTTP/1.1 connection: one request after the other, answered in order.
//!
//! [`serve`] owns the connection from the bytes that woke it until it is idle again or closed. `exchange` does what lies
//! between a request and its response; `persistence` decides whether the connection goes on after it.

mod body;
mod persistence;
mod request;
mod responder;

use std::rc::Rc;

use sluice_proto::grpc::Call;
use sluice_proto::h1::Framing;
use sluice_proto::{RequestHead, TrailerRule};
use sluice_sys::{ReadAhead, now_ms};

pub(crate) use self::body::RequestBody;
pub(crate) use self::responder::Responder;

use self::body::ExpectContinue;
use self::persistence::{Next, Persistence};
use self::request::{HeadReader, Read, note_abuse};
use crate::abuse::{Abuse, Score};
use crate::connection::history::History;
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::connection::{Accepted, End, has_unread};
use crate::downstream::{self, Changed};
use crate::exchange::decision::{Decision, Refusal, call_of};
use crate::exchange::ended::{Ended, TunnelUpstream};
use crate::exchange::{self, failure};
use crate::grpc_web::TextBody;
use crate::h1::{BodyProgress, BodyReader};
use crate::identity::Client;
use crate::message::{Aborted, Cause, Side};
use crate::port::TunnelEnd;
use crate::record::{Destination, Record};
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::stream_tunnel::StreamTunnel;
use crate::tunnel::Tunnel;
use crate::websocket::WebSocket;

/// How a connection that was served goes on.
enum Served {
    /// Its next request has begun and the rest of the head has not arrived.
    Wait,
    Next(Next),
    Tunnel(Box<TunnelUpstream>),
    /// The client speaks HTTP/2.
    Http2,
}

/// The tunnel of a client to the end that its server has.
fn tunnel(shard: &Rc<Shard>, client: End, mut upstream: TunnelUpstream) -> Changed {
    if let Some(agreed) = upstream.frames.take() {
        return Changed::WebSocket(WebSocket::new(shard, TunnelEnd::Link(client), upstream, agreed));
    }
    match upstream.end {
        TunnelEnd::Link(end) => Changed::Tunnel(Tunnel::between(shard, client, end, upstream.server)),
        TunnelEnd::Stream(_) => {
            Changed::StreamTunnel(StreamTunnel::new(shard, TunnelEnd::Link(client), upstream))
        }
    }
}

/// Serves a connection that has bytes to read until it is idle, gone, or the end of a tunnel.
pub(crate) async fn serve(shard: &Rc<Shard>, mut accepted: Accepted) -> Option<Box<Changed>> {
    loop {
        // A client that does not read its responses is not served: the next request waits until the last response is with
        // the kernel. Usually it has been for long.
        accepted.link.transport().flushed().await;
        let snapshot = shard.snapshot();
        match serve_request(shard, &snapshot, &mut accepted).await {
            // Also in a drain: the response had begun before it, so the client may have sent its next request in good faith.
            Served::Next(Next::Request) => accepted.history.note_requests(1),
            Served::Wait => {
                // Without it the connection is parked.
                accepted = accepted.park_partial()?;
                continue;
            }
            Served::Next(Next::Close) => {
                cold!(accepted.close());
                return None;
            }
            Served::Next(Next::Linger) => {
                cold!(accepted.linger());
                return None;
            }
            Served::Next(Next::Drop) => {
                // Its end is announced, unless that would have to wait for a slow reader.
                if accepted.link.tls().is_some() && !accepted.link.transport().is_sending() {
                    cold!(accepted.close());
                }
                return None;
            }
            Served::Next(Next::Abort) => {
                accepted.abort();
                return None;
            }
            Served::Http2 => return Some(Box::new(Changed::Http2(accepted))),
            Served::Tunnel(upstream) => {
                let client = End { link: accepted.link, inbox: accepted.inbox };
                return Some(Box::new(tunnel(shard, client, *upstream)));
            }
        }
        // An upload may have changed it.
        accepted.link.transport().set_read_ahead(ReadAhead::Buffers);
        if accepted.inbox.is_empty() {
            let age_ms = accepted.history.end_ms.saturating_sub(now_ms());
            accepted = accepted.park(snapshot.times.keep_alive_idle.min(age_ms))?;
        }
    }
}

/// A request whose head was read.
struct Begun<'a> {
    responder: Responder<'a>,
    trailers: TrailerRule,
    decided: Result<Decision<'a>, Refusal<'a>>,
}

/// Reads the next request and has it answered.
async fn serve_request(shard: &Rc<Shard>, snapshot: &Snapshot, accepted: &mut Accepted) -> Served {
    let mut lines = RequestLines::new();
    let is_one_too_many = accepted.is_one_too_many(snapshot.limits.connections_per_address);
    let Accepted { link, inbox, history, pieces } = accepted;
    let mut begun = None;
    let begin = |head: &RequestHead<'_>, client: &Client<'_>| {
        let call = Call::of(head);
        let decided = match is_one_too_many {
            true => Err(Refusal::of_connection(shard)),
            false => Decision::new(shard, snapshot, (head, call), client, &mut lines),
        };
        let (route, lines) = downstream::route_of(shard, &decided);
        begun = Some(Begun {
            responder: Responder {
                shard,
                snapshot,
                link,
                expect_continue: ExpectContinue::new(head.expect_continue),
                persistence: Persistence::new(head, history.end_ms),
                route,
                lines,
                call: call_of(&decided, call),
                record: Record::new(),
            },
            trailers: head.trailers,
            decided,
        });
    };
    match (HeadReader { shard, snapshot, link, inbox, history, pieces }).read(begin).await {
        Ok(Read::Request) => {}
        Ok(Read::Incomplete) => return Served::Wait,
        Ok(Read::Http2) => return Served::Http2,
        Ok(Read::Nothing) => return Served::Next(Next::Drop),
        Err(aborted) => {
            let is_begun = !inbox.is_empty();
            return Served::Next(cold!(refuse_head(shard, snapshot, link, aborted, is_begun)));
        }
    }
    let Begun { responder, trailers, decided } = begun.as_ref().expect("a head that was read was seen");
    shard.counters.requests.increment();
    let decision = match decided {
        Ok(decision) => decision,
        Err(refusal) => return Served::Next(cold!(refuse(responder, history, inbox, refusal))),
    };
    responder.persistence.judge(history, link, inbox, shard, &snapshot.limits);
    if decision.may_send_early() {
        responder.persistence.forbid();
    }
    let mut body = request_body(responder, decision, *trailers, inbox, &history.score);
    let to_client = downstream::Responder::H1(responder);
    let ended = exchange::run(shard, snapshot, &mut body, to_client, decision, &mut lines).await;
    responder.record.finish(body.bytes(), &shard.counters, decision.destination());
    drop(body);
    match ended {
        Ended::Tunnel(upstream) => Served::Tunnel(upstream),
        ended => {
            let record = &responder.record;
            Served::Next(responder.persistence.after(&ended, record, || has_unread(link, inbox)))
        }
    }
}

/// The reader of the body of a request whose head was read.
fn request_body<'a>(
    responder: &'a Responder<'_>,
    decision: &Decision<'_>,
    trailers: TrailerRule,
    inbox: &'a mut Inbox,
    score: &'a Score,
) -> downstream::RequestBody<'a> {
    let Responder { shard, snapshot, link, expect_continue, .. } = responder;
    let min_rate = snapshot.request_body_min_rate();
    let progress =
        BodyProgress::new(Framing::of_request(decision.body), decision.route.body_bytes_max, min_rate);
    let progress = progress.with_trailers(trailers);
    let reader = BodyReader { link, inbox, progress, side: Side::Downstream };
    let body = RequestBody { reader, expect_continue, shard, snapshot, score };
    match decision.is_text() {
        false => downstream::RequestBody::H1(body),
        true => downstream::RequestBody::H1Text(TextBody::new(body)),
    }
}

/// Answers a request that has no route or is too large.
async fn refuse(responder: &Responder<'_>, history: &History, inbox: &Inbox, refusal: &Refusal<'_>) -> Next {
    let Responder { persistence, shard, snapshot, link, record, .. } = responder;
    if persistence.may_persist() && refusal.is_guess() {
        // Reaching the limit makes this the connection's last request.
        let _ = note_abuse(shard, snapshot, history, Abuse::Refusal);
    }
    persistence.judge(history, link, inbox, shard, &snapshot.limits);
    let ended = failure::refuse(downstream::Responder::H1(responder), refusal).await;
    record.finish(0, &shard.counters, refusal.destination());
    persistence.after(&ended, record, || has_unread(link, inbox))
}

/// Answers a head that is at fault, or was left unfinished. `is_begun`: bytes of it are there.
async fn refuse_head(
    shard: &Shard,
    snapshot: &Snapshot,
    link: &Link,
    aborted: Aborted,
    is_begun: bool,
) -> Next {
    // A connection that ends without a byte of a head has asked for nothing.
    if is_begun || !matches!(aborted.cause, Cause::Closed | Cause::Failed(_)) {
        shard.counters.requests.increment();
    }
    let (expect_continue, persistence) = (ExpectContinue::new(false), Persistence::none());
    let (route, lines, call) = (None, None.into(), Call::None);
    let record = Record::new();
    let responder =
        Responder { shard, snapshot, link, expect_continue, persistence, route, lines, call, record };
    let ended = failure::refuse_head(downstream::Responder::H1(&responder), aborted).await;
    responder.record.finish(0, &shard.counters, Destination::default());
    Persistence::after_head(aborted, matches!(ended, Ended::Answered { .. }))
}
