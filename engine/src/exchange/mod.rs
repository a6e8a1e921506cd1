//! One request and its answer, phases in order: read the head, find the route, get a server, send the request, relay the
//! answer. The file to read first.
//!
//! Neither side's protocol shows here: heads are `sluice_proto` heads, bodies are parts that `relay` moves. A request that
//! has arrived whole is sent in one piece and can be sent again; one whose body is still coming is streamed while the
//! answer may already be on its way back.

mod response;
mod failure;
mod upgrade;
mod decision;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use sluice_proto::{BodyLength, RequestHead};
use sluice_sys::{Buf, Conn, ReadAhead, Timer};

use self::decision::{Decision, Refusal};
use self::failure::{
    answer_for_server, give_up, give_up_on_head, give_up_on_request, give_up_overdue, refuse_request,
};
use self::response::{Downstream, Finished, Interrupted, Response};
use self::upgrade::Switch;
use crate::downstream::h1::{Down, ExpectContinue, Read, RequestBody};
use crate::h1::{BodyProgress, BodyWriter};
use crate::identity::Client;
use crate::message::{Aborted, Cause, Side};
use crate::min_rate::MinRate;
use crate::relay::{append_if_complete, relay};
use crate::shard::Shard;
use crate::upstream::connect::{Repeat, connect_new, take_idle};

pub(crate) use self::upgrade::TunnelUpstream;

/// What becomes of the client's connection.
pub(crate) enum Next {
    /// It may send another request.
    Request,
    /// Its next request has begun and the rest of the head has not arrived.
    Wait,
    /// It is closed in good order.
    Close,
    /// It is closed while the client may still be sending.
    Linger,
    /// It is gone, or what was sent is incomplete by its own framing, or nothing is worth waiting for.
    Drop,
    /// It is reset: only that tells the client that what it got is incomplete.
    Abort,
    /// It carries another protocol from now on, to this server.
    Tunnel(Box<TunnelUpstream>),
}

/// How far an exchange has come, for those who must know when it breaks off.
struct Progress {
    upload: Cell<Upload>,
    /// Bytes of the final answer may have been sent.
    is_answering: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    Running,
    Done,
    /// The server takes no more of the request.
    Failed,
}

/// Serves one request.
pub(crate) async fn run(shard: &Shard, down: &mut Down<'_>) -> Next {
    let mut wire = Buf::small();
    let is_one_too_many = down.is_one_too_many();
    let decision = |head: &RequestHead<'_>, client: &Client<'_>| {
        if is_one_too_many {
            Err(Refusal::of_connection(shard, head))
        } else {
            Decision::new(shard, head, client, &mut wire)
        }
    };
    let decision = match down.read_request(decision).await {
        Ok(Read::Request(decision)) => decision,
        Ok(Read::Incomplete) => return Next::Wait,
        Ok(Read::Nothing) => return Next::Drop,
        Err(aborted) => return cold!(give_up_on_head(shard, down, aborted)),
    };
    shard.counters.requests.increment();
    let mut decision = match decision {
        Ok(decision) => decision,
        Err(refusal) => return cold!(refuse_request(down, refusal)),
    };
    decision.is_persistent &= !down.is_last_request() && !decision.is_over_for(down);
    decision.connection_end_ms = down.history.end_ms;
    let limit_ms = shard.route_limits[decision.route].request_ms;
    let timer = (limit_ms > 0).then(|| Timer::new(limit_ms));
    let served = {
        let mut serving = pin!(serve(down, &decision, wire));
        poll_fn(|context| match (serving.as_mut().poll(context), &timer) {
            (Poll::Ready(next), _) => Poll::Ready(Some(next)),
            (Poll::Pending, Some(timer)) => timer.poll_expired().map(|()| None),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await
    };
    match served {
        Some(next) => next,
        None => cold!(give_up_overdue(down, &decision)),
    }
}

/// Sends the request in one piece if it has arrived whole, else piece by piece, and relays the answer.
async fn serve(down: &mut Down<'_>, decision: &Decision, mut wire: Buf) -> Next {
    let shard = down.shard;
    let expect_continue = ExpectContinue::new(decision.expect_continue);
    let pace = MinRate::by_rate(shard.times.body_idle, shard.body_rate, shard.times.body_rate_grace);
    let mut body = BodyProgress::new(decision.body, shard.route_limits[decision.route].body_bytes_max, pace)
        .with_trailers(decision.trailers);
    let (mut arrived, _) = RequestBody::new(down, &mut body, &expect_continue);
    match append_if_complete(&mut arrived, decision.body, &mut wire) {
        Ok(true) => {
            decision.progress.upload.set(Upload::Done);
            down.inbox.join();
            send_whole(down, decision, wire).await
        }
        Ok(false) => cold!(send_streamed(down, decision, wire, &mut body, &expect_continue)),
        Err(aborted) => cold!(give_up_on_request(shard, down, aborted, decision.kind)),
    }
}

/// Sends a request that is all there; once more on a new connection if a kept one turns out to be dead.
async fn send_whole(down: &mut Down<'_>, decision: &Decision, mut wire: Buf) -> Next {
    let shard = down.shard;
    let expect_continue = ExpectContinue::new(false);
    let group = &shard.groups[decision.upstream];
    let repeat = if decision.is_idempotent { Repeat::Possible } else { Repeat::Impossible };
    let mut reused = take_idle(shard, group, decision.identity(down), repeat);
    loop {
        let mut up = match reused.take() {
            Some(up) => up,
            None => match cold!(connect_new(shard, group, decision.identity(down))) {
                Ok(up) => up,
                Err(answer) => return cold!(answer_for_server(down, decision, answer)),
            },
        };
        decision.name_server(&mut wire, &up);
        if decision.switch != Switch::None {
            // What it says behind its answer may be a flood.
            up.conn().set_read_ahead(ReadAhead::OneBuffer);
        }
        let (wire_bytes, is_reused) = (wire.len() as u64, up.is_reused);
        let (conn, receiver) = up.split();
        let sending = conn.send(wire, shard.times.write_stall);
        let receiver = if is_reused { receiver.not_before(&sending) } else { receiver };
        conn.set_deadline(shard.times.upstream_response);
        let answer = Response { shard, decision, expect_continue: &expect_continue };
        let result = {
            let download = pin!(answer.relay_to(&down.conn, receiver));
            unless_gone(&down.conn, download).await
        };
        let interrupted = match result {
            Ok(finished) => {
                if finished.downstream == Downstream::Tunnel {
                    sending.detach();
                    return Next::Tunnel(TunnelUpstream::of(up, decision.upstream, shard));
                }
                up.note_answer(finished.is_large);
                // An answer can come before the request was sent to its end; then the connection is of no further use.
                let is_sent = sending.try_finish().is_ok_and(|sent| sent.result.is_ok());
                if finished.is_upstream_persistent && is_sent {
                    up.give_back(shard);
                }
                // Nobody has the end of the answer yet, so what has come is not because of it.
                let is_persistent =
                    finished.downstream == Downstream::Persistent && !decision.is_over_for(down);
                return if is_persistent { Next::Request } else { Next::Close };
            }
            Err(interrupted) => interrupted,
        };
        let is_dead = up.is_reused && interrupted.is_silent && interrupted.aborted.cause != Cause::TimedOut;
        // A request with an effect may be repeated only if the server cannot have seen it: its end acknowledges all that
        // had come before it. A reset acknowledges nothing, and so proves nothing.
        //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
        let is_unseen = || {
            interrupted.aborted.cause == Cause::Closed
                && up.conn().unacknowledged_bytes().is_ok_and(|bytes| bytes == wire_bytes)
        };
        let is_repeatable = || decision.is_idempotent || is_unseen();
        if is_dead && is_repeatable() {
            drop(up);
            if let Some(buf) = cold!(sending).buf {
                shard.counters.upstream_retries.increment();
                wire = buf;
                continue;
            }
        }
        return cold!(give_up(shard, down, decision, &interrupted));
    }
}

/// Sends a request whose body is still coming, and relays the answer as soon as there is one.
async fn send_streamed(
    down: &mut Down<'_>,
    decision: &Decision,
    mut wire: Buf,
    body: &mut BodyProgress,
    expect_continue: &ExpectContinue,
) -> Next {
    let shard = down.shard;
    let group = &shard.groups[decision.upstream];
    let mut up = match take_idle(shard, group, decision.identity(down), Repeat::Impossible) {
        Some(up) => up,
        None => {
            // What has come of the body keeps no buffer from others while a server is looked for.
            down.inbox.join();
            match cold!(connect_new(shard, group, decision.identity(down))) {
                Ok(up) => up,
                Err(answer) => return cold!(answer_for_server(down, decision, answer)),
            }
        }
    };
    decision.name_server(&mut wire, &up);
    let is_reused = up.is_reused;
    let (conn, receiver) = up.split();
    let sending = conn.send(wire, shard.times.write_stall);
    let receiver = if is_reused { receiver.not_before(&sending) } else { receiver };
    conn.clear_deadline();
    let result = {
        let (mut body, client) = RequestBody::new(down, body, expect_continue);
        let is_chunked = decision.body == BodyLength::Chunked;
        let mut to_server = BodyWriter::new(conn, None, is_chunked, Side::Upstream, shard.times.write_stall);
        let upload = pin!(relay(&mut body, &mut to_server));
        let answer = Response { shard, decision, expect_continue };
        let download = pin!(answer.relay_to(client, receiver));
        let download = pin!(unless_gone(client, download));
        both_ways(upload, download, &decision.progress, || conn.set_deadline(shard.times.upstream_response))
            .await
    };
    let is_sent = decision.progress.upload.get() == Upload::Done;
    match result {
        Ok(finished) => {
            up.note_answer(finished.is_large);
            if finished.is_upstream_persistent && is_sent {
                up.give_back(shard);
            }
            match (finished.downstream == Downstream::Persistent, is_sent) {
                (true, true) => Next::Request,
                (false, true) => Next::Close,
                (_, false) => Next::Linger,
            }
        }
        Err(interrupted) => cold!(give_up(shard, down, decision, &interrupted)),
    }
}

/// Runs upload and download side by side until the answer is complete or one of them breaks off.
async fn both_ways(
    mut upload: Pin<&mut impl Future<Output = Result<(), Aborted>>>,
    mut download: Pin<&mut impl Future<Output = Result<Finished, Interrupted>>>,
    progress: &Progress,
    on_sent: impl Fn(),
) -> Result<Finished, Interrupted> {
    poll_fn(|context| {
        if progress.upload.get() == Upload::Running
            && let Poll::Ready(result) = upload.as_mut().poll(context)
        {
            if let Err(aborted @ Aborted { side: Side::Downstream, .. }) = result {
                return Poll::Ready(Err(Interrupted::by(aborted)));
            }
            // A server that takes no more of the request may have answered it all the same.
            progress.upload.set(if result.is_ok() { Upload::Done } else { Upload::Failed });
            if !progress.is_answering.get() {
                on_sent();
            }
        }
        download.as_mut().poll(context)
    })
    .await
}

/// Waits for the answer as long as there is a client to have it.
async fn unless_gone(
    client: &Conn,
    mut download: Pin<&mut impl Future<Output = Result<Finished, Interrupted>>>,
) -> Result<Finished, Interrupted> {
    let mut failure = pin!(client.failed());
    poll_fn(|context| {
        if let Poll::Ready(result) = download.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        let failed = failure.as_mut().poll(context);
        failed.map(|error| Err(Interrupted::by(Aborted::io(Side::Downstream, &error))))
    })
    .await
}
