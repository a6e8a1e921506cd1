//! What a client is told when its request is refused or breaks off: by a status while none has been sent, else by how its
//! connection ends. Each failure is counted here, once.

use sluice_proto::h1::ConnectionField;
use sluice_proto::{Fault, RequestKind};

use super::decision::{Decision, Refusal};
use super::response::Interrupted;
use super::{Next, Upload};
use crate::abuse::Abuse;
use crate::answer::{Answer, ResponseFraming};
use crate::downstream::h1::Down;
use crate::message::{Aborted, Cause, Side};
use crate::shard::Shard;

/// Answers a request that has no route or is too large.
pub(super) async fn refuse_request(down: &Down<'_>, mut refusal: Refusal<'_>) -> Next {
    if refusal.is_persistent() && refusal.answer.status() >= 400 {
        // Reaching the limit makes this the connection's last request.
        let _ = down.note_abuse(Abuse::Refusal);
    }
    if down.is_last_request() {
        refusal.framing.connection = ConnectionField::Close;
    }
    refuse(down, refusal).await
}

async fn refuse(down: &Down<'_>, refusal: Refusal<'_>) -> Next {
    let is_persistent = refusal.is_persistent();
    match down.answer(refusal.answer, &refusal.framing).await {
        Ok(()) if is_persistent => Next::Request,
        Ok(()) => Next::Linger,
        Err(_) => Next::Drop,
    }
}

/// Answers a request for which there is no server. Its body, if it has one, was not read to its end.
pub(super) async fn answer_for_server(down: &Down<'_>, decision: &Decision, answer: Answer<'_>) -> Next {
    answer_instead(down, decision, answer, decision.body.is_empty()).await
}

/// A head that is at fault, or was left unfinished.
pub(super) async fn give_up_on_head(shard: &Shard, down: &Down<'_>, aborted: Aborted) -> Next {
    // A connection that ends without a byte of a head has asked for nothing.
    if !(down.inbox.is_empty() && matches!(aborted.cause, Cause::Closed | Cause::Failed(_))) {
        shard.counters.requests.increment();
    }
    match aborted.cause {
        Cause::TimedOut => shard.counters.head_timeouts.increment(),
        Cause::Crowded => shard.counters.begun_heads_refused.increment(),
        Cause::Fault(Fault::RequestLineTooLong) => shard.counters.request_lines_too_long.increment(),
        Cause::Fault(Fault::HeadTooLarge | Fault::TooManyFields) => {
            shard.counters.heads_too_large.increment();
        }
        _ => {}
    }
    let next = refuse_aborted(shard, down, aborted, RequestKind::Other).await;
    if matches!(next, Next::Linger)
        && matches!(aborted.cause, Cause::TimedOut | Cause::Crowded | Cause::Abusive)
    {
        // Nothing is on its way that would overtake the answer by a reset, or it drips; a flood of them must not linger.
        return Next::Drop;
    }
    next
}

/// A body that is at fault, or was left unfinished.
pub(super) async fn give_up_on_request(
    shard: &Shard,
    down: &Down<'_>,
    aborted: Aborted,
    kind: RequestKind,
) -> Next {
    match aborted.cause {
        Cause::TimedOut => shard.counters.body_timeouts.increment(),
        Cause::TooSlow => shard.counters.bodies_too_slow.increment(),
        Cause::TooLarge => shard.counters.bodies_too_large.increment(),
        _ => {}
    }
    refuse_aborted(shard, down, aborted, kind).await
}

async fn refuse_aborted(shard: &Shard, down: &Down<'_>, aborted: Aborted, kind: RequestKind) -> Next {
    match aborted.cause {
        Cause::Fault(_) => shard.counters.bad_requests.increment(),
        Cause::Stalled | Cause::Closed | Cause::Failed(_) | Cause::UnaskedUpgrade | Cause::UnaskedAnswer => {
            shard.counters.client_aborts.increment();
        }
        Cause::TooLarge | Cause::TimedOut | Cause::TooSlow | Cause::Crowded | Cause::Abusive => {}
    }
    let Some(answer) = Answer::for_aborted(aborted) else { return Next::Drop };
    let framing =
        ResponseFraming { connection: ConnectionField::Close, is_head_only: kind == RequestKind::Head };
    refuse(down, Refusal { answer, framing }).await
}

/// The answer has begun, so no status can tell the client any more: what it gets must not look complete.
fn break_off(shard: &Shard, interrupted: &Interrupted) -> Next {
    match (interrupted.aborted.side, interrupted.aborted.cause) {
        (Side::Upstream, Cause::TimedOut) => {
            shard.counters.upstream_body_timeouts.increment();
            shard.counters.upstream_cuts.increment();
        }
        (Side::Upstream, _) => shard.counters.upstream_cuts.increment(),
        (Side::Downstream, Cause::TimedOut) => shard.counters.body_timeouts.increment(),
        (Side::Downstream, Cause::TooSlow) => shard.counters.bodies_too_slow.increment(),
        (Side::Downstream, Cause::TooLarge) => shard.counters.bodies_too_large.increment(),
        (Side::Downstream, Cause::Fault(_)) => shard.counters.bad_requests.increment(),
        (Side::Downstream, _) => shard.counters.client_aborts.increment(),
    }
    // Nor does a client that takes nothing need what the kernel still holds for it.
    let is_stalled = interrupted.aborted == Aborted::by(Side::Downstream, Cause::Stalled);
    if interrupted.is_close_delimited || is_stalled { Next::Abort } else { Next::Drop }
}

/// Answers in place of the server. The connection survives that if all of the request was read.
async fn answer_instead(down: &Down<'_>, decision: &Decision, answer: Answer<'_>, is_read: bool) -> Next {
    let is_persistent = decision.is_persistent && is_read && !decision.is_over_for(down);
    let framing = ResponseFraming {
        connection: decision.connection_field(is_persistent),
        is_head_only: decision.kind == RequestKind::Head,
    };
    refuse(down, Refusal { answer, framing }).await
}

/// The exchange took longer than it may.
pub(super) async fn give_up_overdue(down: &Down<'_>, decision: &Decision) -> Next {
    let progress = &decision.progress;
    down.shard.counters.requests_overdue.increment();
    // What is on its way, an interim answer or one of ours, must not be followed by another.
    if progress.is_answering.get() || down.conn.is_sending() {
        return Next::Abort;
    }
    let is_sent = progress.upload.get() != Upload::Running;
    let answer = if is_sent { Answer::UpstreamTimeout } else { Answer::OVERDUE };
    answer_instead(down, decision, answer, progress.upload.get() == Upload::Done).await
}

/// An exchange broke off: tell the client, by a status while that is possible, else by how its connection ends.
pub(super) async fn give_up(
    shard: &Shard,
    down: &Down<'_>,
    decision: &Decision,
    interrupted: &Interrupted,
) -> Next {
    let progress = &decision.progress;
    if progress.is_answering.get() {
        return break_off(shard, interrupted);
    }
    if interrupted.aborted.side == Side::Downstream {
        return give_up_on_request(shard, down, interrupted.aborted, decision.kind).await;
    }
    match interrupted.aborted.cause {
        Cause::TimedOut => shard.counters.upstream_timeouts.increment(),
        Cause::Closed | Cause::Failed(_) => shard.counters.upstream_closed.increment(),
        _ => shard.counters.upstream_bad_responses.increment(),
    }
    let Some(answer) = Answer::for_aborted(interrupted.aborted) else { return Next::Drop };
    answer_instead(down, decision, answer, progress.upload.get() == Upload::Done).await
}
