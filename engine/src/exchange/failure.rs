//! What a client is told when its request is refused or breaks off: by a status while none has been sent, else by how its
//! connection or stream ends. Each failure is counted here, once.

use sluice_proto::Fault;

use super::decision::Refusal;
use super::ended::{Ended, Interrupted, Origin};
use super::state::{Exchange, Upload};
use crate::answer::Answer;
use crate::downstream::{Afterwards, Responder};
use crate::message::{Aborted, Cause, Reach, Side};
use crate::shard::Shard;

/// Answers a request that goes nowhere.
pub(crate) async fn refuse(responder: Responder<'_>, refusal: &Refusal<'_>) -> Ended {
    match responder.answer(refusal.answer, refusal.afterwards).await {
        Ok(()) => Ended::Answered { by: Origin::Local, is_request_sent: true },
        Err(aborted) => Ended::Interrupted(Interrupted::by(aborted)),
    }
}

/// A head that is at fault, or was left unfinished. `is_begun`: bytes of it are there.
pub(crate) async fn refuse_head(
    shard: &Shard,
    responder: Responder<'_>,
    aborted: Aborted,
    is_begun: bool,
) -> Ended {
    // A connection that ends without a byte of a head has asked for nothing.
    if is_begun || !matches!(aborted.cause, Cause::Closed | Cause::Failed(_)) {
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
    refuse_aborted(shard, responder, aborted).await
}

/// A body that is at fault, or was left unfinished.
pub(super) async fn give_up_on_request(shard: &Shard, responder: Responder<'_>, aborted: Aborted) -> Ended {
    match aborted.cause {
        Cause::TimedOut => shard.counters.body_timeouts.increment(),
        Cause::TooSlow => shard.counters.bodies_too_slow.increment(),
        Cause::TooLarge => shard.counters.bodies_too_large.increment(),
        _ => {}
    }
    refuse_aborted(shard, responder, aborted).await
}

async fn refuse_aborted(shard: &Shard, responder: Responder<'_>, aborted: Aborted) -> Ended {
    match aborted.cause {
        Cause::Fault(_) => shard.counters.bad_requests.increment(),
        Cause::Stalled | Cause::Closed | Cause::Failed(_) | Cause::UnaskedUpgrade | Cause::UnaskedAnswer => {
            shard.counters.client_aborts.increment();
        }
        Cause::TooLarge
        | Cause::TimedOut
        | Cause::Overdue
        | Cause::TooSlow
        | Cause::Crowded
        | Cause::Abusive => {}
    }
    match Answer::for_aborted(aborted) {
        Some(answer) => refuse(responder, &Refusal { answer, afterwards: Afterwards::Close }).await,
        None => Ended::Interrupted(Interrupted::by(aborted)),
    }
}

/// The response has begun, so no status can tell the client any more: what it gets must not look complete.
fn break_off(shard: &Shard, interrupted: Interrupted) -> Ended {
    let aborted = interrupted.aborted;
    match (aborted.side, aborted.cause) {
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
    Ended::Interrupted(interrupted)
}

impl Exchange<'_> {
    /// Answers a request for which there is no server. Its body, if it has one, was not read to its end.
    pub(super) async fn answer_for_server(&self, answer: Answer<'_>) -> Ended {
        let is_read = self.decision.body.is_empty();
        let afterwards = if is_read { Afterwards::GoOn } else { Afterwards::Close };
        refuse(self.responder, &Refusal { answer, afterwards }).await
    }

    /// The exchange took longer than it may.
    pub(super) async fn give_up_overdue(&self) -> Ended {
        self.shard.counters.requests_overdue.increment();
        if !self.responder.may_begin() {
            return Ended::Interrupted(Interrupted::by(Aborted::by(Side::Upstream, Cause::Overdue)));
        }
        let is_sent = self.upload.get() != Upload::Running;
        let answer = if is_sent { Answer::UpstreamTimeout } else { Answer::OVERDUE };
        self.answer_instead(answer).await
    }

    /// The exchange broke off: tell the client, by a status while that is possible, else by how its connection or stream ends.
    pub(super) async fn give_up(&self, interrupted: Interrupted) -> Ended {
        let (shard, aborted) = (self.shard, interrupted.aborted);
        if self.responder.has_begun() {
            return break_off(shard, interrupted);
        }
        if aborted.reach == Reach::Connection {
            return give_up_on_request(shard, self.responder, aborted).await;
        }
        match aborted.cause {
            Cause::TimedOut => shard.counters.upstream_timeouts.increment(),
            Cause::Closed | Cause::Failed(_) => shard.counters.upstream_closed.increment(),
            _ => shard.counters.upstream_bad_responses.increment(),
        }
        match Answer::for_aborted(aborted) {
            Some(answer) => self.answer_instead(answer).await,
            None => Ended::Interrupted(interrupted),
        }
    }

    /// Answers in place of the server. The connection survives that if all of the request was read.
    async fn answer_instead(&self, answer: Answer<'_>) -> Ended {
        let afterwards = if self.is_sent() { Afterwards::GoOn } else { Afterwards::Close };
        refuse(self.responder, &Refusal { answer, afterwards }).await
    }
}
