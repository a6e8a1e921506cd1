//! Copies of requests for a second group of servers, whose responses are read and dropped.
//!
//! A copy is a task of its own, made when the request is sent: the client's exchange waits for nothing of it, and learns nothing of
//! how it ends. Copies under way are bounded by number and by time; what is not copied for that or because its body has not come yet
//! is counted.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use sluice_proto::h1::Reuse;
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::{BodyLength, Fault, RequestKind};
use sluice_sys::{Timer, now_ms, spawn};

use super::state::Exchange;
use super::upgrade::Switch;
use crate::config::{MirrorRule, SendHost};
use crate::message::{Aborted, BodySource, Cause, ReadyPart, Repeat, Side};
use crate::min_rate::MinRate;
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::upstream::balance::affinity::Affinity;
use crate::upstream::capacity::Turn;
use crate::upstream::connect::{Elsewhere, ProxyIdentity, connect_new, take_idle};
use crate::upstream::group::Group;
use crate::upstream::sessions::Purpose;
use crate::upstream::stream::{ResponseBody, Rest, UpstreamStream, Used};

/// Copies that one shard has under way at most: each holds its request, and a connection.
const MIRRORS_MAX: u32 = 256;

/// Which requests of a route are copied, and for whom.
pub(crate) struct Mirror {
    /// The number of the group.
    group: usize,
    percent: u8,
    /// Hundredths of a copy that are due.
    due: Cell<u8>,
}

impl Mirror {
    pub(crate) fn new(rule: &MirrorRule) -> Mirror {
        Mirror { group: rule.upstream, percent: rule.percent, due: Cell::new(0) }
    }

    /// Whether this request is one of those that are copied: as many of any hundred in a row as there are to be.
    fn takes_next(&self) -> bool {
        let due = self.due.get() + self.percent;
        self.due.set(due % 100);
        due >= 100
    }
}

/// A copy of a request.
struct Copied {
    shard: Rc<Shard>,
    snapshot: Rc<Snapshot>,
    group: usize,
    lines: RequestLines,
    kind: RequestKind,
    client: SocketAddr,
    sends_own_host: bool,
    /// For all of it, once there is a connection.
    response_ms: u64,
    body_idle_ms: u64,
}

impl Exchange<'_> {
    /// Has a copy of the request sent to a second group, if it is one of those that are copied.
    #[cold]
    pub(super) fn mirror(&self, mirror: &Mirror, lines: &RequestLines) {
        let (shard, decision) = (self.shard, self.decision);
        if decision.switch != Switch::None || !mirror.takes_next() {
            return;
        }
        let snapshot = shard.snapshot();
        if !self.is_sent() {
            shard.counters.mirrors_incomplete.increment();
        } else if shard.mirrors.get() >= MIRRORS_MAX || !std::ptr::eq(&raw const *snapshot, self.snapshot) {
            shard.counters.mirrors_dropped.increment();
        } else {
            shard.mirrors.set(shard.mirrors.get() + 1);
            let copied = Copied {
                shard: shard.clone(),
                snapshot,
                group: mirror.group,
                lines: lines.copy(),
                kind: decision.kind,
                client: decision.client,
                sends_own_host: decision.send_host == SendHost::Server,
                response_ms: decision.route.upstream_response_ms,
                body_idle_ms: decision.route.upstream_body_idle_ms,
            };
            spawn(copied.run());
        }
    }
}

impl Copied {
    async fn run(mut self) {
        let sent = self.send().await;
        let counters = &self.shard.counters;
        if sent.is_some() {
            counters.mirrors.increment();
        } else {
            counters.mirrors_failed.increment();
        }
        self.shard.mirrors.set(self.shard.mirrors.get() - 1);
    }

    /// Sends the request and reads its response to the end. `None` where that failed, however it did.
    async fn send(&mut self) -> Option<()> {
        let Copied { shard, snapshot, .. } = self;
        let (shard, snapshot) = (shard.clone(), snapshot.clone());
        let group = snapshot.group(self.group)?;
        let identity = ProxyIdentity {
            conn: None,
            client: &self.client,
            reuse: Reuse::Allowed,
            purpose: Purpose { kind: self.kind, is_offer: false },
            repeat: Repeat::Impossible,
            not: None,
            elsewhere: Elsewhere::Rather,
            servers_max: usize::MAX,
            // It belongs to no session.
            affinity: &Affinity::default(),
        };
        let mut server = match take_idle(&shard, group, identity) {
            Some(server) => server,
            None => connect_new(&shard, group, identity, Turn::New).await.ok()?,
        };
        let timer = Timer::new(self.response_ms);
        let exchanged = {
            let mut exchange = pin!(self.exchange(&shard, (&snapshot, group), &mut server));
            poll_fn(|context| match exchange.as_mut().poll(context) {
                Poll::Ready(exchanged) => Poll::Ready(exchanged.ok()),
                Poll::Pending => timer.poll_expired().map(|()| None),
            })
            .await
        };
        let is_large = exchanged?;
        server.finish(Used::Whole, is_large, &shard, &group.rules);
        Some(())
    }

    /// Says whether the response was large.
    async fn exchange(
        &mut self,
        shard: &Shard,
        (snapshot, group): (&Snapshot, &Group),
        server: &mut UpstreamStream,
    ) -> Result<bool, Aborted> {
        if self.sends_own_host {
            self.lines.set_authority(server.authority());
        }
        let (used, sent_ms) = (server.server().clone(), now_ms());
        server.send(&mut self.lines, Rest::Nothing, snapshot);
        let (request, mut response) = server.split();
        request.expect_response_within(self.response_ms);
        let mut interims = 0;
        loop {
            let limits = (&snapshot.limits.head, group.rules.lenient);
            let read = response.read_head(shard, limits, self.kind, |head| head.status);
            match read.await.map_err(|unanswered| unanswered.aborted)? {
                101 => return Err(Aborted::by(Side::Upstream, Cause::UnaskedUpgrade)),
                100..=199 if interims == INTERIM_ANSWERS_MAX => {
                    return Err(Aborted::by(Side::Upstream, Cause::Fault(Fault::TooManyInterim)));
                }
                100..=199 => interims += 1,
                status => {
                    // A server that was ejected is back by this too: a group may get copies only.
                    group.note_answer(&used, status, (now_ms(), now_ms().saturating_sub(sent_ms)));
                    break;
                }
            }
        }
        let mut body = response.body(MinRate::by_pauses(self.body_idle_ms));
        // Some servers of HTTP/2 answer HEAD with content: the response was complete before it.
        let is_complete = body.is_of_stream() && body.length() == BodyLength::None;
        match drop_all(&mut body).await {
            Err(aborted) if !is_complete => Err(aborted),
            _ => Ok(body.is_large()),
        }
    }
}

/// Reads a body to its end.
async fn drop_all(body: &mut ResponseBody<'_>) -> Result<(), Aborted> {
    loop {
        match body.show_ready(|_| {})? {
            ReadyPart::Nothing => body.more().await?,
            ReadyPart::Data | ReadyPart::Trailers(_) => {}
            ReadyPart::End => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_requests_as_many_are_copied_as_there_are_to_be() {
        for percent in [1, 7, 50, 99, 100] {
            let mirror = Mirror::new(&MirrorRule { upstream: 0, percent });
            for _ in 0..3 {
                let copied = (0..100).filter(|_| mirror.takes_next()).count();
                assert_eq!(copied, usize::from(percent));
            }
        }
    }
}
