//! A client's HTTP/2 connection: as many requests at once as it may have, each on a stream of its own.
//!
//! [`begin`] and [`resume`] are given the connection when it has something to read, and drive it until it rests or ends. A request
//! is served by [`serve_stream`], in a worker of its own.

mod request;
mod responder;

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;

use sluice_proto::grpc::Call;
use sluice_proto::h1::TlsIdentity;
use sluice_proto::h2::{ErrorCode, HeadLines, StreamKey};
use sluice_proto::{BodyLength, Method};
use sluice_sys::{now_ms, partial_bytes, spawn};

pub(crate) use self::request::RequestBody;
pub(crate) use self::responder::Responder;

use crate::connection::Accepted;
use crate::connection::history::History;
use crate::connection::inbox::Inbox;
use crate::connection::tls::{self, PeerDetails, Tls};
use crate::downstream;
use crate::exchange::decision::{Decision, Refusal, call_of};
use crate::exchange::ended::Ended;
use crate::exchange::{self, failure};
use crate::grpc_web::TextBody;
use crate::h2::{Driven, Driver, Ending, Parked, Session, Stream, StreamReader, waiting_bytes};
use crate::message::{Aborted, Cause, Repeat, Side};
use crate::port::TunnelEnd;
use crate::record::Destination;
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::stream_tunnel::StreamTunnel;
use crate::websocket::WebSocket;

/// The first bytes of a client that speaks HTTP/2 without having asked.
//= https://www.rfc-editor.org/rfc/rfc9113#section-3.4
pub(crate) const PREFACE_BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Begins a connection whose client speaks HTTP/2.
pub(crate) async fn begin(shard: &Rc<Shard>, accepted: Accepted) {
    shard.counters.h2_connections.increment();
    let snapshot = shard.snapshot();
    let is_one_too_many = accepted.is_one_too_many(snapshot.limits.connections_per_address);
    let Accepted { link, inbox, history, .. } = accepted;
    let session = Session::new(link, Side::Downstream, shard, &snapshot.http2.rules);
    if is_one_too_many {
        shard.crowded.set(shard.crowded.get() + 1);
        return refuse(shard, session, inbox, history).await;
    }
    serve(shard, session, inbox, history, None).await;
}

/// Goes on with one that was parked.
pub(crate) async fn resume(shard: &Rc<Shard>, resumed: crate::h2::Resumed) {
    let crate::h2::Resumed { session, inbox } = resumed;
    let conn = session.link().transport();
    let history = History::load(conn, shard.snapshot().limits.connection_age, now_ms());
    if conn.is_late() {
        return expire(shard, session, inbox, history).await;
    }
    // The rest of a frame has the time that its beginning had left.
    let left_ms = has_begun(&session, &inbox, &history).then(|| conn.deadline_in_ms());
    serve(shard, session, inbox, history, left_ms).await;
}

/// Its time is over, or all are to end.
async fn expire(shard: &Rc<Shard>, session: Rc<Session>, mut inbox: Inbox, history: History) {
    session.link().transport().set_deadline(crate::connection::LINGER_MS);
    let last_id = session.last_id();
    session.go_away(last_id, ErrorCode::NO_ERROR);
    drive(shard, &session, &mut inbox, &history).await;
    close(session, inbox, history, Ending::Rest).await;
}

/// Its client's address has too many connections, and this is one of them.
async fn refuse(shard: &Rc<Shard>, session: Rc<Session>, mut inbox: Inbox, history: History) {
    session.link().transport().set_deadline(crate::connection::LINGER_MS);
    session.go_away(0, ErrorCode::ENHANCE_YOUR_CALM);
    let driven = drive(shard, &session, &mut inbox, &history).await;
    close(session, inbox, history, driven.ending).await;
}

/// Drives a connection until it is parked or has ended.
async fn serve(
    shard: &Rc<Shard>,
    mut session: Rc<Session>,
    mut inbox: Inbox,
    mut history: History,
    mut left_ms: Option<u64>,
) {
    loop {
        session.link().transport().clear_deadline();
        let Driven { ending, begun } = drive(shard, &session, &mut inbox, &history).await;
        history.note_requests(begun);
        left_ms = left_ms.filter(|_| begun == 0);
        if ending != Ending::Rest {
            return close(session, inbox, history, ending).await;
        }
        if session.is_going_away() {
            return leave(session, inbox, history).await;
        }
        let snapshot = shard.snapshot();
        let idle_ms = match has_begun(&session, &inbox, &history) {
            true => left_ms.unwrap_or(snapshot.times.request_head),
            false => snapshot.times.keep_alive_idle.min(history.end_ms.saturating_sub(now_ms())),
        };
        if is_crowded(&snapshot, &session, &inbox) {
            shard.counters.partial_heads_refused.increment();
            session.go_away(session.last_id(), ErrorCode::ENHANCE_YOUR_CALM);
            continue;
        }
        history.store(session.link().transport());
        match Parked::park(session, inbox, idle_ms) {
            None => return,
            Some(resumed) => (session, inbox) = (resumed.session, resumed.inbox),
        }
        left_ms = has_begun(&session, &inbox, &history).then_some(idle_ms);
    }
}

/// Whether the rest of something is awaited for a bounded time: of a frame, a header block, or the first request.
fn has_begun(session: &Session, inbox: &Inbox, history: &History) -> bool {
    !inbox.is_empty() || !session.is_between_frames() || history.requests == 0
}

/// Whether frames that have begun take more memory than they may.
fn is_crowded(snapshot: &Snapshot, session: &Session, inbox: &Inbox) -> bool {
    let bytes = inbox.unread().len() + session.gathered_bytes();
    bytes > 0
        && partial_bytes() + tls::waiting_bytes() + waiting_bytes() + bytes
            > snapshot.limits.partial_heads_bytes
}

async fn drive(shard: &Rc<Shard>, session: &Rc<Session>, inbox: &mut Inbox, history: &History) -> Driven {
    let snapshot = shard.snapshot();
    let limits = &snapshot.limits;
    let requests_left = limits.requests_per_connection.saturating_sub(history.requests);
    let (stall_ms, abuse) = (snapshot.times.write_stall, snapshot.http2.abuse);
    drop(snapshot);
    Driver::new(session, inbox, stall_ms, abuse).until(requests_left, history.end_ms).await
}

/// Ends a connection that was announced to end: what the client sends still (PING, WINDOW_UPDATE) must not cut off the last responses.
async fn leave(session: Rc<Session>, inbox: Inbox, history: History) {
    if let Some(accepted) = into_accepted(session, inbox, history) {
        accepted.linger().await;
    }
}

fn into_accepted(session: Rc<Session>, inbox: Inbox, history: History) -> Option<Accepted> {
    let link = Rc::into_inner(session).and_then(Session::into_link)?;
    Some(Accepted { link, inbox, history, pieces: 0 })
}

/// Ends a connection in good order.
async fn close(session: Rc<Session>, inbox: Inbox, history: History, ending: Ending) {
    let Some(accepted) = into_accepted(session, inbox, history) else { return };
    match ending {
        Ending::Rest | Ending::Gone => accepted.close().await,
        Ending::Broken => accepted.linger().await,
        // A flood of them must not linger, and a peer that does not answer takes no alert.
        Ending::Abusive | Ending::Dead => drop(accepted),
    }
}

/// Serves the request of one stream.
pub(crate) async fn serve_stream(shard: &Rc<Shard>, session: Rc<dyn Any>, number: u64) {
    let session = session.downcast().unwrap_or_else(|_| unreachable!("streams are of sessions"));
    let key = StreamKey { slot: (number >> 32) as u16, id: number as u32 };
    let stream = Stream::new(session, key);
    let snapshot = shard.snapshot();
    let ended = serve_request(shard, &snapshot, &stream).await;
    match ended {
        Ended::Tunnel(mut upstream) => match upstream.frames.take() {
            Some(agreed) => {
                spawn(WebSocket::new(shard, TunnelEnd::Stream(stream), *upstream, agreed).run());
            }
            None => spawn(StreamTunnel::new(shard, TunnelEnd::Stream(stream), *upstream).run()),
        },
        Ended::Answered { is_request_sent, .. } => {
            // The rest of a request that was answered early is not wanted.
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.1
            stream.code.set(ErrorCode::NO_ERROR);
            if is_request_sent {
                stream.session.note_success();
            }
        }
        Ended::Interrupted(interrupted) => {
            stream.code.set(code_of(interrupted.aborted, interrupted.repeat));
        }
    }
}

/// The error code for an exchange that broke off.
//= https://www.rfc-editor.org/rfc/rfc9113#section-7
fn code_of(aborted: Aborted, repeat: Repeat) -> ErrorCode {
    match (aborted.side, aborted.cause) {
        _ if repeat == Repeat::Possible => ErrorCode::REFUSED_STREAM,
        (Side::Upstream, Cause::Reset(code)) if code == ErrorCode::CANCEL.0 => ErrorCode::CANCEL,
        (Side::Downstream, Cause::Fault(_)) => ErrorCode::PROTOCOL_ERROR,
        (Side::Downstream, Cause::Abusive | Cause::Crowded) => ErrorCode::ENHANCE_YOUR_CALM,
        (Side::Downstream, _) | (_, Cause::Overdue) => ErrorCode::CANCEL,
        (Side::Upstream, _) => ErrorCode::INTERNAL_ERROR,
    }
}

/// Has the request of a stream answered.
async fn serve_request(shard: &Rc<Shard>, snapshot: &Snapshot, stream: &Stream) -> Ended {
    let mut lines = RequestLines::new();
    let head = stream.take_head().expect("a stream begins with its head");
    shard.counters.requests.increment();
    let expect_continue = Cell::new(false);
    let (responder, decided, length) =
        match begin_request(shard, snapshot, stream, (&head, &mut lines), &expect_continue) {
            Ok(begun) => begun,
            Err(aborted) => {
                let responder = Responder::new(shard, snapshot, stream, &expect_continue);
                let ended = failure::refuse_head(downstream::Responder::H2(&responder), aborted).await;
                responder.record.finish(0, &shard.counters, Destination::default());
                return ended;
            }
        };
    // It is written as the server will get it, or is not needed.
    drop(head);
    let to_client = downstream::Responder::H2(&responder);
    let decision = match &decided {
        Ok(decision) => decision,
        Err(refusal) => {
            if refusal.is_guess() {
                stream.session.note_guess();
            }
            let ended = failure::refuse(to_client, refusal).await;
            responder.record.finish(0, &shard.counters, refusal.destination());
            return ended;
        }
    };
    let min_rate = snapshot.request_body_min_rate();
    let reader = StreamReader::new(stream, length, decision.route.body_bytes_max, min_rate);
    let body = RequestBody::new(reader, &responder);
    let mut body = match decision.is_text() {
        false => downstream::RequestBody::H2(body),
        true => downstream::RequestBody::H2Text(TextBody::new(body)),
    };
    let ended = exchange::run(shard, snapshot, &mut body, to_client, decision, &mut lines).await;
    responder.record.finish(body.bytes(), &shard.counters, decision.destination());
    ended
}

type Begun<'a> = (Responder<'a>, Result<Decision<'a>, Refusal<'a>>, BodyLength);

/// Judges a request, and writes its head as a server will get it.
fn begin_request<'a>(
    shard: &'a Shard,
    snapshot: &'a Snapshot,
    stream: &'a Stream,
    (head, lines): (&HeadLines, &mut RequestLines),
    expect_continue: &'a Cell<bool>,
) -> Result<Begun<'a>, Aborted> {
    if let Some(fault) = stream.fault() {
        return Err(Aborted::by(Side::Downstream, Cause::Fault(fault)));
    }
    let head = head.request();
    expect_continue.set(head.expect_continue);
    let link = stream.session.link();
    let peer = link.transport().peer().map_err(|error| Aborted::io(Side::Downstream, &error))?;
    let details = link.tls().and_then(Tls::peer);
    let shown: Option<TlsIdentity<'_>> = details.as_deref().map(PeerDetails::identity);
    let number = shard.request_ids.next();
    let scratch = &mut *shard.scratch.borrow_mut();
    let identity = &snapshot.identity;
    let client = identity.client(peer, (link, shown.as_ref()), &head, number, &mut scratch.client);
    let call = Call::of(&head);
    let decided = Decision::new(shard, snapshot, (&head, call), &client, lines);
    let mut responder = Responder::new(shard, snapshot, stream, expect_continue);
    responder.is_head_only = head.method == Method::Head;
    (responder.route, responder.lines) = downstream::route_of(shard, &decided);
    responder.call = call_of(&decided, call);
    Ok((responder, decided, head.body))
}
