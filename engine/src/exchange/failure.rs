//! What a client gets when its request is refused or breaks off: by a status while none has been sent, else by how its
//! connection or stream ends. The record learns of each failure here, once.

use super::decision::Refusal;
use super::ended::{Ended, Interrupted, Origin};
use super::state::{Exchange, Upload};
use crate::answer::Answer;
use crate::downstream::{Afterwards, Responder};
use crate::message::{Aborted, Cause, Reach, Side};
use crate::record::Phase;
use crate::upstream::queue::Unavailable;

/// Answers a request that goes nowhere.
pub(crate) async fn refuse(responder: Responder<'_>, refusal: &Refusal<'_>) -> Ended {
    match responder.answer(refusal.answer(), refusal.afterwards).await {
        Ok(()) => Ended::Answered { by: Origin::Local, is_request_sent: true },
        Err(aborted) => Ended::Interrupted(Interrupted::by(aborted)),
    }
}

/// A head that is at fault, or was left unfinished.
pub(crate) async fn refuse_head(responder: Responder<'_>, aborted: Aborted) -> Ended {
    responder.record().is_broken(Phase::Head, aborted);
    refuse_aborted(responder, aborted).await
}

async fn refuse_aborted(responder: Responder<'_>, aborted: Aborted) -> Ended {
    match Answer::for_aborted(aborted) {
        Some(answer) => refuse(responder, &Refusal::then(answer, Afterwards::Close)).await,
        None => Ended::Interrupted(Interrupted::by(aborted)),
    }
}

impl Exchange<'_> {
    /// Ends an exchange for which there is no server. The body of the request, if it has one, was not read to its end.
    pub(super) async fn give_up_unserved(&self, unavailable: Unavailable) -> Ended {
        let answer = match unavailable {
            Unavailable::Answer(answer) => answer,
            Unavailable::Gone(aborted) => return self.give_up(Interrupted::by(aborted)).await,
        };
        if matches!(answer, Answer::UpstreamFull { .. }) {
            self.responder.record().is_over_limit();
        }
        let is_read = self.decision.body.is_empty();
        let afterwards = if is_read { Afterwards::GoOn } else { Afterwards::Close };
        refuse(self.responder, &Refusal::then(answer, afterwards)).await
    }

    /// The exchange took longer than it may.
    pub(super) async fn give_up_overdue(&self) -> Ended {
        self.note_abandoned();
        let overdue = Aborted::by(Side::Upstream, Cause::Overdue);
        self.responder.record().is_broken(Phase::Response, overdue);
        if !self.responder.may_begin() {
            if let Some(ended) = self.end_early().await {
                return ended;
            }
            return Ended::Interrupted(Interrupted::by(overdue));
        }
        let is_sent = self.upload.get() != Upload::Running;
        if is_sent {
            self.note_latency();
        }
        let answer = if is_sent { Answer::UpstreamTimeout } else { Answer::OVERDUE };
        self.answer_instead(answer).await
    }

    /// A body that is at fault, or was left unfinished, before its request was sent.
    pub(super) async fn give_up_on_request(&self, aborted: Aborted) -> Ended {
        self.responder.record().is_broken(Phase::Request, aborted);
        refuse_aborted(self.responder, aborted).await
    }

    /// The exchange broke off: tell the client, by a status while that is possible, else by how its connection or stream ends.
    pub(super) async fn give_up(&self, interrupted: Interrupted) -> Ended {
        let aborted = interrupted.aborted;
        let record = self.responder.record();
        if record.has_begun() {
            // No status can tell the client any more: what it gets must not look complete.
            record.is_broken(Phase::Response, aborted);
            return Ended::Interrupted(interrupted);
        }
        if aborted.reach == Reach::Connection {
            return self.give_up_on_request(aborted).await;
        }
        record.is_broken(Phase::Request, aborted);
        if (aborted.side, aborted.cause) == (Side::Upstream, Cause::TimedOut) {
            self.note_latency();
        }
        match Answer::for_aborted(aborted) {
            Some(answer) => self.answer_instead(answer).await,
            None => Ended::Interrupted(interrupted),
        }
    }

    /// Answers in place of the server. The connection survives that if all of the request was read.
    async fn answer_instead(&self, answer: Answer<'_>) -> Ended {
        let afterwards = if self.is_sent() { Afterwards::GoOn } else { Afterwards::Close };
        refuse(self.responder, &Refusal::then(answer, afterwards)).await
    }
}
