//! Whether a request is sent again, and to whom: by what went wrong, how often it was sent, what is at hand of it, and a budget.
//!
//! What is safe is not decided by settings alone. A request with an effect goes out again only if a server has provably done
//! nothing about it, or the configuration says so.

use sluice_sys::{Buf, now_ms};

use super::state::{Exchange, Upload};
use super::upgrade::Switch;
use crate::config::{Retry, RetryCause, RetryCauses, UpstreamProtocol};
use crate::message::{Cause, Repeat, Side};
use crate::snapshot::ms;
use crate::upstream::stream::{Rest, Unanswered, UpstreamStream};
use sluice_proto::BodyLength;

/// When requests of a route are sent again.
pub(crate) struct RetryRules {
    /// How often a request is sent again at most.
    pub(super) repeats_max: u8,
    on: RetryCauses,
    non_idempotent: bool,
    body_bytes_max: usize,
    /// 0 for never.
    pub(super) hedge_after_ms: u64,
    statuses: Box<[(u16, u16)]>,
}

impl RetryRules {
    pub(crate) fn new(retry: &Retry) -> RetryRules {
        RetryRules {
            repeats_max: u8::try_from(retry.attempts.saturating_sub(1)).unwrap_or(u8::MAX),
            on: retry.on,
            non_idempotent: retry.non_idempotent,
            body_bytes_max: retry.body_bytes,
            hedge_after_ms: ms(retry.hedge_after),
            statuses: retry.statuses.as_slice().into(),
        }
    }

    /// How many servers are tried for a connection.
    pub(super) fn servers_max(&self) -> usize {
        if self.on.has(RetryCause::Connect) { usize::MAX } else { 1 }
    }

    #[inline]
    pub(super) fn has_statuses(&self) -> bool {
        !self.statuses.is_empty()
    }
}

/// Why a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Stale,
    Refused,
    Reset,
    Timeout,
    Status,
}

impl Exchange<'_> {
    fn rules(&self) -> &RetryRules {
        &self.decision.route.retry
    }

    /// Whether the request was sent to no other server before.
    pub(super) fn is_first_attempt(&self) -> bool {
        self.repeats_left.get() == self.rules().repeats_max
    }

    /// Whether it does no harm to send the request twice.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
    fn is_harmless(&self) -> bool {
        self.decision.is_idempotent || self.rules().non_idempotent
    }

    /// Whether a copy of the rest of the request is made while it is sent.
    pub(super) fn wants_copy(&self) -> bool {
        let rules = self.rules();
        // A server of HTTP/2 can say that it has done nothing, whatever the request is.
        let is_of_use = self.is_harmless() || self.decision.group.rules.protocol == UpstreamProtocol::H2;
        let bytes = match self.decision.sent_body() {
            BodyLength::Length(bytes) => bytes,
            BodyLength::Streamed | BodyLength::None => 0,
        };
        rules.body_bytes_max > 0
            && bytes <= rules.body_bytes_max as u64
            && is_of_use
            && self.repeats_left.get() > 0
            && self.decision.switch == Switch::None
    }

    /// Begins a copy of what is sent now: `first` with so much of the body in it.
    #[cold]
    pub(super) fn keep_copy(&self, first: &[u8], body_bytes: usize) {
        let max = self.rules().body_bytes_max;
        let whole = match self.decision.sent_body() {
            BodyLength::Length(bytes) => usize::try_from(bytes).unwrap_or(max).min(max),
            BodyLength::Streamed | BodyLength::None => max,
        };
        self.kept.begin(self.shard, first, whole.saturating_sub(body_bytes));
    }

    /// Whether a response with this status is not for the client, since the request is sent again. That is paid for here.
    #[cold]
    pub(super) fn is_unwanted(&self, status: u16) -> bool {
        let is_among = |&(first, last): &(u16, u16)| (first..=last).contains(&status);
        self.rules().statuses.iter().any(is_among)
            && self.is_harmless()
            && self.is_at_hand()
            && self.repeats_left.get() > 0
            && self.spend()
    }

    /// Whether another server may have the request now, whatever this one does with it.
    pub(super) fn repeat_now(&self) -> Repeat {
        let can_repeat = self.decision.is_idempotent && self.is_at_hand();
        if can_repeat { Repeat::Possible } else { Repeat::Impossible }
    }

    /// Whether all is there that was taken of the request.
    fn is_at_hand(&self) -> bool {
        self.rest.get() == Rest::Nothing || self.kept.is_there()
    }

    /// One more of what may become too much for servers that fail.
    pub(super) fn spend(&self) -> bool {
        let may = self.decision.group.budget.spend(now_ms());
        if !may {
            self.shard.counters.upstream_retry_budget_exhausted.increment();
        }
        may
    }

    /// Gives up the server that has not answered for another attempt, if there may be one: then the request is in order again.
    /// Says so.
    pub(super) async fn may_go_on(
        &self,
        server: &mut Option<UpstreamStream>,
        unanswered: &Unanswered,
    ) -> Option<Buf> {
        let again = self.why_again(server.as_ref()?, unanswered)?;
        let bytes = match self.rest.get() {
            Rest::Body => {
                *server = None;
                let (bytes, is_whole) = self.kept.take()?;
                self.rest.set(if is_whole { Rest::Nothing } else { Rest::Body });
                self.upload.set(if is_whole { Upload::Done } else { Upload::Running });
                bytes
            }
            Rest::Nothing if again == Again::Status => {
                server.take()?.put_back(self.shard, &self.decision.group.rules).await?
            }
            Rest::Nothing => server.take()?.take_back().await?,
        };
        self.repeats_left.set(self.repeats_left.get() - 1);
        self.count(again);
        self.is_elsewhere.set(!matches!(again, Again::Stale | Again::Refused));
        // Of a server that has closed one connection no other is of use.
        if matches!(again, Again::Timeout | Again::Status) {
            *server = self.take_idle(self.responder.record().server().as_ref());
        }
        Some(bytes)
    }

    fn count(&self, again: Again) {
        let counters = &self.shard.counters;
        counters.upstream_retries.increment();
        self.responder.record().with_server(|server| server.numbers.retries.increment());
        match again {
            Again::Stale => counters.upstream_retries_stale.increment(),
            Again::Refused => counters.upstream_retries_refused.increment(),
            Again::Reset => counters.upstream_retries_reset.increment(),
            Again::Timeout => counters.upstream_retries_timeout.increment(),
            Again::Status => counters.upstream_retries_status.increment(),
        }
    }

    /// The reason to send the request again, if there is one.
    fn why_again(&self, server: &UpstreamStream, unanswered: &Unanswered) -> Option<Again> {
        let Unanswered { aborted, is_silent } = *unanswered;
        if aborted.side == Side::Downstream || self.repeats_left.get() == 0 || !self.is_at_hand() {
            return None;
        }
        if aborted.cause == Cause::Unwanted {
            return Some(Again::Status);
        }
        // That it goes on elsewhere was paid for.
        if aborted.cause == Cause::Ejected {
            return Some(Again::Timeout);
        }
        if !is_silent {
            return None;
        }
        let on = self.rules().on;
        if server.is_refused() && on.has(RetryCause::Refused) {
            return Some(Again::Refused);
        }
        if server.is_stale(unanswered) && on.has(RetryCause::Stale) {
            let is_unseen = || self.rest.get() == Rest::Nothing && server.is_unprocessed(aborted);
            return (self.is_harmless() || is_unseen()).then_some(Again::Stale);
        }
        let again = match aborted.cause {
            Cause::TimedOut if on.has(RetryCause::Timeout) => Again::Timeout,
            Cause::Closed | Cause::Reset(_) | Cause::Failed(_)
                if on.has(RetryCause::Reset) && self.decision.group.has_other(server.server()) =>
            {
                Again::Reset
            }
            _ => return None,
        };
        (self.is_harmless() && self.spend()).then_some(again)
    }
}
