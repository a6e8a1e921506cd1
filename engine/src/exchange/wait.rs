//! The wait for a response, and what it says about the server: its response, its failure, or that it is silent. Each attempt is noted
//! here once, for ejection and for the circuit breaker.

use sluice_sys::now_ms;

use super::state::{Exchange, Upload};
use crate::message::{Aborted, Cause, Repeat, Side};
use crate::upstream::breaker::{Admission, Breaker};
use crate::upstream::ejection::Failure;
use crate::upstream::stream::{Unanswered, UpstreamStream};

impl Exchange<'_> {
    /// Whether the breaker of the group lets the request through.
    #[cold]
    pub(super) fn is_admitted(&self, breaker: &Breaker) -> bool {
        let admission = breaker.admit(now_ms());
        self.responder.record().is_admitted(admission);
        if admission == Admission::None {
            self.shard.counters.upstream_breaker_refused.increment();
        }
        admission != Admission::None
    }

    /// A request was sent: the wait for its response begins.
    #[inline]
    pub(super) fn begin_wait(&self, repeat: Repeat) {
        self.responder.record().is_sent();
        self.can_move.set(repeat == Repeat::Possible);
    }

    /// The server has asked for as much time again.
    #[cold]
    pub(super) fn renew_wait(&self) {
        self.responder.record().is_sent();
    }

    /// How long to wait for the response before looking whether its server is silent.
    #[inline]
    pub(super) fn first_wait_ms(&self) -> u64 {
        self.decision.group.patience_ms().min(self.decision.route.upstream_response_ms)
    }

    /// The head of the final response has come.
    #[inline]
    pub(super) fn note_answer(&self, status: u16) {
        let (now_ms, group) = (now_ms(), self.decision.group);
        let record = self.responder.record();
        let times = (now_ms, now_ms.saturating_sub(record.sent_ms().unwrap_or(now_ms)));
        record.with_server(|server| group.note_answer(server, status, times));
    }

    /// An interim response has come.
    #[cold]
    pub(super) fn note_life(&self) {
        self.responder.record().with_server(|server| self.decision.group.note_life(server, now_ms()));
    }

    /// The response has not come yet: how much longer to wait, if that was not all the time there is, and if the server is not
    /// silent towards all.
    #[cold]
    pub(super) fn go_on_waiting(&self, unanswered: Unanswered) -> Result<u64, Unanswered> {
        let (now_ms, group) = (now_ms(), self.decision.group);
        let since_ms = self.responder.record().sent_ms().unwrap_or(now_ms);
        let waited_ms = now_ms.saturating_sub(since_ms);
        let left_ms = self.decision.route.upstream_response_ms.saturating_sub(waited_ms);
        if left_ms == 0 {
            return Err(unanswered);
        }
        let mut is_ejected = false;
        if unanswered.is_silent {
            let judge = |server: &_| is_ejected = group.judge_silence(server, (now_ms, since_ms));
            self.responder.record().with_server(judge);
        }
        // Without a budget it goes on waiting: retries must not multiply an outage.
        if is_ejected && self.can_move.get() && self.repeats_left.get() > 0 && self.spend() {
            return Err(Unanswered { aborted: Aborted::by(Side::Upstream, Cause::Ejected), is_silent: true });
        }
        Ok(left_ms.min(group.patience_ms()))
    }

    /// No response came, or it broke off. What happens behind its head is no failure here.
    #[cold]
    pub(super) fn note_failure(&self, used: &UpstreamStream, unanswered: &Unanswered) {
        let (group, server) = (self.decision.group, used.server());
        if self.responder.record().is_answered_by_server() {
            return;
        }
        let failure = match (unanswered.aborted.side, unanswered.aborted.cause) {
            (Side::Downstream, _) => return self.note_abandoned(),
            // It was counted, or is what the client asked for.
            (_, Cause::Ejected | Cause::Unwanted | Cause::UnaskedUpgrade | Cause::IgnoredOffer) => return,
            (_, Cause::TimedOut) => Failure::Timeout,
            _ if used.is_stale(unanswered) => return group.note_stale(server),
            (_, Cause::Fault(_)) => Failure::Malformed,
            _ => Failure::Closed,
        };
        group.note_failure(server, failure, now_ms());
    }

    /// The client has left, or the time of its request is over. If that was after a long silence of the server, it counts. A server
    /// that waits for the rest of a request is not silent: else clients that stop in the middle could have servers ejected.
    #[cold]
    pub(super) fn note_abandoned(&self) {
        if self.upload.get() == Upload::Running {
            return;
        }
        let (record, group) = (self.responder.record(), self.decision.group);
        let Some(since_ms) = record.sent_ms().filter(|_| !record.is_answered_by_server()) else { return };
        let times = (now_ms(), since_ms);
        if times.0.saturating_sub(since_ms) >= group.patience_ms() {
            self.responder.record().with_server(|server| _ = group.judge_silence(server, times));
        }
    }
}
