//! One request and its answer, phases in order: read the head, find the route, get a server, send the request, relay the
//! answer. The file to read first.
//!
//! Neither side's protocol shows here: heads are `sluice_proto` heads, bodies are parts that `relay` moves. A request that
//! has arrived whole is sent in one piece and can be sent again; one whose body is still coming is streamed while the
//! answer may already be on its way back.

mod answering;
mod failure;
mod offer;
mod plan;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use sluice_proto::{BodyLength, RequestHead};
use sluice_sys::{Buf, Conn, ReadAhead, Timer};

use self::answering::{Answering, Cut, Downstream, Finished};
use self::failure::{
    answer_for_server, give_up, give_up_on_head, give_up_on_request, give_up_overdue, refuse_request,
};
use self::offer::Switch;
use self::plan::{Plan, Refusal};
use crate::downstream::h1::{Down, GoAhead, Read, RequestBody};
use crate::h1::{BodyProgress, BodyWriter};
use crate::identity::Client;
use crate::message::{Aborted, Cause, Side};
use crate::pace::Pace;
use crate::relay::{relay, take_whole};
use crate::seldom::seldom;
use crate::shard::Shard;
use crate::upstream::connect::{Repeat, connected, kept};

pub(crate) use self::offer::Onward;

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
    Tunnel(Box<Onward>),
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
    let plan = |head: &RequestHead<'_>, client: &Client<'_>| {
        if is_one_too_many {
            Err(Refusal::of_connection(shard, head))
        } else {
            Plan::new(shard, head, client, &mut wire)
        }
    };
    let plan = match down.read_request(plan).await {
        Ok(Read::Request(plan)) => plan,
        Ok(Read::Incomplete) => return Next::Wait,
        Ok(Read::Nothing) => return Next::Drop,
        Err(aborted) => return seldom!(give_up_on_head(shard, down, aborted)),
    };
    shard.counters.requests.increment();
    let mut plan = match plan {
        Ok(plan) => plan,
        Err(refusal) => return seldom!(refuse_request(down, refusal)),
    };
    plan.is_persistent &= !down.is_last_request() && !plan.is_over_for(down);
    plan.connection_end_ms = down.history.end_ms;
    let limit_ms = shard.route_limits[plan.route].request_ms;
    let timer = (limit_ms > 0).then(|| Timer::new(limit_ms));
    let served = {
        let mut serving = pin!(serve(down, &plan, wire));
        poll_fn(|context| match (serving.as_mut().poll(context), &timer) {
            (Poll::Ready(next), _) => Poll::Ready(Some(next)),
            (Poll::Pending, Some(timer)) => timer.poll_expired().map(|()| None),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await
    };
    match served {
        Some(next) => next,
        None => seldom!(give_up_overdue(down, &plan)),
    }
}

/// Sends the request in one piece if it has arrived whole, else piece by piece, and relays the answer.
async fn serve(down: &mut Down<'_>, plan: &Plan, mut wire: Buf) -> Next {
    let shard = down.shard;
    let go_ahead = GoAhead::new(plan.expect_continue);
    let pace = Pace::by_rate(shard.times.body_idle, shard.body_rate, shard.times.body_rate_grace);
    let mut body = BodyProgress::new(plan.body, shard.route_limits[plan.route].body_bytes_max, pace)
        .with_trailers(plan.trailers);
    let (mut arrived, _) = RequestBody::new(down, &mut body, &go_ahead);
    match take_whole(&mut arrived, plan.body, &mut wire) {
        Ok(true) => {
            plan.progress.upload.set(Upload::Done);
            down.inbox.join();
            send_whole(down, plan, wire).await
        }
        Ok(false) => seldom!(send_streamed(down, plan, wire, &mut body, &go_ahead)),
        Err(aborted) => seldom!(give_up_on_request(shard, down, aborted, plan.kind)),
    }
}

/// Sends a request that is all there; once more on a new connection if a kept one turns out to be dead.
async fn send_whole(down: &mut Down<'_>, plan: &Plan, mut wire: Buf) -> Next {
    let shard = down.shard;
    let go_ahead = GoAhead::new(false);
    let group = &shard.groups[plan.upstream];
    let repeat = if plan.is_idempotent { Repeat::Possible } else { Repeat::Impossible };
    let mut reused = kept(shard, group, plan.behalf(down), repeat);
    loop {
        let mut up = match reused.take() {
            Some(up) => up,
            None => match seldom!(connected(shard, group, plan.behalf(down))) {
                Ok(up) => up,
                Err(answer) => return seldom!(answer_for_server(down, plan, answer)),
            },
        };
        plan.name_server(&mut wire, &up);
        if plan.switch != Switch::None {
            // What it says behind its answer may be a flood.
            up.conn().set_read_ahead(ReadAhead::OneBuffer);
        }
        let (wire_bytes, is_reused) = (wire.len() as u64, up.is_reused);
        let (conn, receiver) = up.split();
        let sending = conn.send(wire, shard.times.write_stall);
        let receiver = if is_reused { receiver.not_before(&sending) } else { receiver };
        conn.set_deadline(shard.times.upstream_response);
        let answer = Answering { shard, plan, go_ahead: &go_ahead };
        let result = {
            let download = pin!(answer.relay_to(&down.conn, receiver));
            unless_gone(&down.conn, download).await
        };
        let cut = match result {
            Ok(finished) => {
                if finished.downstream == Downstream::Tunnel {
                    sending.detach();
                    return Next::Tunnel(Onward::of(up, plan.upstream, shard));
                }
                up.note_answer(finished.is_large);
                // An answer can come before the request was sent to its end; then the connection is of no further use.
                let is_sent = sending.try_finish().is_ok_and(|sent| sent.result.is_ok());
                if finished.is_upstream_persistent && is_sent {
                    up.give_back(shard);
                }
                // Nobody has the end of the answer yet, so what has come is not because of it.
                let is_persistent = finished.downstream == Downstream::Persistent && !plan.is_over_for(down);
                return if is_persistent { Next::Request } else { Next::Close };
            }
            Err(cut) => cut,
        };
        let is_dead = up.is_reused && cut.is_silent && cut.aborted.cause != Cause::TimedOut;
        // A request with an effect may be repeated only if the server cannot have seen it: its end acknowledges all that
        // had come before it. A reset acknowledges nothing, and so proves nothing.
        //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
        let is_unseen = || {
            cut.aborted.cause == Cause::Closed
                && up.conn().unacknowledged_bytes().is_ok_and(|bytes| bytes == wire_bytes)
        };
        let is_repeatable = || plan.is_idempotent || is_unseen();
        if is_dead && is_repeatable() {
            drop(up);
            if let Some(buf) = seldom!(sending).buf {
                shard.counters.upstream_retries.increment();
                wire = buf;
                continue;
            }
        }
        return seldom!(give_up(shard, down, plan, &cut));
    }
}

/// Sends a request whose body is still coming, and relays the answer as soon as there is one.
async fn send_streamed(
    down: &mut Down<'_>,
    plan: &Plan,
    mut wire: Buf,
    body: &mut BodyProgress,
    go_ahead: &GoAhead,
) -> Next {
    let shard = down.shard;
    let group = &shard.groups[plan.upstream];
    let mut up = match kept(shard, group, plan.behalf(down), Repeat::Impossible) {
        Some(up) => up,
        None => {
            // What has come of the body keeps no buffer from others while a server is looked for.
            down.inbox.join();
            match seldom!(connected(shard, group, plan.behalf(down))) {
                Ok(up) => up,
                Err(answer) => return seldom!(answer_for_server(down, plan, answer)),
            }
        }
    };
    plan.name_server(&mut wire, &up);
    let is_reused = up.is_reused;
    let (conn, receiver) = up.split();
    let sending = conn.send(wire, shard.times.write_stall);
    let receiver = if is_reused { receiver.not_before(&sending) } else { receiver };
    conn.clear_deadline();
    let result = {
        let (mut body, client) = RequestBody::new(down, body, go_ahead);
        let is_chunked = plan.body == BodyLength::Chunked;
        let mut to_server = BodyWriter::new(conn, None, is_chunked, Side::Upstream, shard.times.write_stall);
        let upload = pin!(relay(&mut body, &mut to_server));
        let answer = Answering { shard, plan, go_ahead };
        let download = pin!(answer.relay_to(client, receiver));
        let download = pin!(unless_gone(client, download));
        both_ways(upload, download, &plan.progress, || conn.set_deadline(shard.times.upstream_response)).await
    };
    let is_sent = plan.progress.upload.get() == Upload::Done;
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
        Err(cut) => seldom!(give_up(shard, down, plan, &cut)),
    }
}

/// Runs upload and download side by side until the answer is complete or one of them breaks off.
async fn both_ways(
    mut upload: Pin<&mut impl Future<Output = Result<(), Aborted>>>,
    mut download: Pin<&mut impl Future<Output = Result<Finished, Cut>>>,
    progress: &Progress,
    on_sent: impl Fn(),
) -> Result<Finished, Cut> {
    poll_fn(|context| {
        if progress.upload.get() == Upload::Running
            && let Poll::Ready(result) = upload.as_mut().poll(context)
        {
            if let Err(aborted @ Aborted { side: Side::Downstream, .. }) = result {
                return Poll::Ready(Err(Cut::by(aborted)));
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
    mut download: Pin<&mut impl Future<Output = Result<Finished, Cut>>>,
) -> Result<Finished, Cut> {
    let mut failure = pin!(client.failed());
    poll_fn(|context| {
        if let Poll::Ready(result) = download.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        let failed = failure.as_mut().poll(context);
        failed.map(|error| Err(Cut::by(Aborted::io(Side::Downstream, &error))))
    })
    .await
}
