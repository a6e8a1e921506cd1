//! A second copy of a request that has no response yet, to another server: the first response head wins, and the other attempt is
//! given up. For idempotent requests that are wholly at hand, on routes with `retry.hedge_after`.
//!
//! Boxed: the future of an exchange does not grow by it where it is not configured.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_sys::{Buf, Timer, now_ms};

use super::response::Finished;
use super::state::Exchange;
use super::upgrade::Switch;
use crate::config::SendHost;
use crate::message::Repeat;
use crate::request_lines::RequestLines;
use crate::upstream::capacity;
use crate::upstream::connect::{Elsewhere, ProxyIdentity, connect_new, take_idle};
use crate::upstream::server::Server;
use crate::upstream::stream::{Rest, Unanswered, UpstreamStream};

/// A server with its response, or without one.
type Tried = (UpstreamStream, Result<Finished, Unanswered>);

/// Nothing at all if no other server could be reached.
type Attempt<'e> = Pin<Box<dyn Future<Output = Option<Tried>> + 'e>>;

/// A request with one of two servers, or with both.
struct Race<'e> {
    first: Option<Attempt<'e>>,
    second: Option<Attempt<'e>>,
    /// The one that failed while the other went on.
    failed: Option<(Tried, Turn)>,
}

/// What the poll of a race comes to.
enum Polled {
    /// This one is over; the second attempt, or the first.
    Over(Tried, Turn),
    Pending,
}

/// An attempt that has no response yet. If it is given up for the response of another, the silence of its server counts.
struct Waiting<'e> {
    exchange: &'e Exchange<'e>,
    server: Rc<Server>,
    sent_ms: Cell<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

impl<'a> Exchange<'a> {
    /// Whether a second server is asked if the first one takes too long.
    #[inline]
    pub(super) fn may_hedge(&self) -> bool {
        self.decision.route.retry.hedge_after_ms > 0 && self.may_hedge_this()
    }

    #[cold]
    fn may_hedge_this(&self) -> bool {
        self.rest.get() == Rest::Nothing
            && self.decision.is_idempotent
            && self.repeats_left.get() > 0
            && self.decision.switch == Switch::None
    }

    /// Sends the request to this server, and after a while to a second one. The one whose response is relayed is in `server`
    /// afterwards.
    pub(super) fn try_two<'b>(
        &'b self,
        server: &'b mut Option<UpstreamStream>,
        lines: &'b mut RequestLines,
    ) -> Pin<Box<dyn Future<Output = Result<Finished, Unanswered>> + 'b>> {
        Box::pin(async move {
            let first = server.take().expect("the request is for this one");
            match self.race(first, lines).await {
                Ok((used, result)) => {
                    self.responder.record().has_server(used.server());
                    *server = Some(used);
                    result
                }
                Err(gone) => Err(gone),
            }
        })
    }

    /// Runs both until one has a response, or the client is gone.
    async fn race(&self, mut server: UpstreamStream, lines: &mut RequestLines) -> Result<Tried, Unanswered> {
        let first_server = server.server().clone();
        if self.decision.send_host == SendHost::Server {
            lines.set_authority(server.authority());
        }
        let mut copy = Buf::with_room(lines.bytes().len());
        copy.extend_from_slice(lines.bytes());
        server.send(lines, Rest::Nothing, self.snapshot);
        let mut race = Race {
            first: Some(Box::pin(self.attempt(server, Repeat::Possible))),
            second: None,
            failed: None,
        };
        let timer = Timer::new(self.decision.route.retry.hedge_after_ms);
        let mut at_hand = Some((copy, lines));
        let mut look = None;
        poll_fn(|context| {
            if at_hand.is_some() && timer.poll_expired().is_ready() && !self.has_head.get() {
                let (copy, lines) = at_hand.take().expect("it is there");
                race.second = self.may_begin_second(&first_server).then(|| -> Attempt<'_> {
                    lines.put_back(copy);
                    Box::pin(self.second(first_server.clone(), lines))
                });
            }
            match race.poll(self, context) {
                Polled::Over(tried, turn) => {
                    if turn == Turn::Second && tried.1.is_ok() {
                        self.shard.counters.upstream_hedges_won.increment();
                    }
                    return Poll::Ready(Ok(tried));
                }
                Polled::Pending => {}
            }
            let on_client_close = self.decision.route.on_client_close;
            let gone = self.responder.poll_gone(&mut look, on_client_close, context);
            gone.map(|aborted| {
                self.note_abandoned();
                Err(Unanswered { aborted, is_silent: false })
            })
        })
        .await
    }

    /// The second attempt has come to nothing before it began: the first one is as it was.
    fn end_hedge(&self) {
        self.repeats_left.set(self.repeats_left.get() + 1);
        self.can_move.set(true);
    }

    /// Whether there is another server, and the budget has room for it.
    fn may_begin_second(&self, first: &Rc<Server>) -> bool {
        let may = self.decision.group.has_other(first) && self.spend();
        if may {
            self.repeats_left.set(self.repeats_left.get() - 1);
            // The first one is left where it is as long as the second one may answer.
            self.can_move.set(false);
            self.shard.counters.upstream_hedges.increment();
        }
        may
    }

    /// The second attempt, from its connection on.
    async fn second(&self, first: Rc<Server>, lines: &mut RequestLines) -> Option<Tried> {
        let identity = ProxyIdentity { elsewhere: Elsewhere::Must, ..self.proxy_identity(Some(&first)) };
        let idle = take_idle(self.shard, self.decision.group, identity);
        let mut server = match idle {
            Some(server) => server,
            None => connect_new(self.shard, self.decision.group, identity, capacity::Turn::New).await.ok()?,
        };
        if self.decision.send_host == SendHost::Server {
            lines.set_authority(server.authority());
        }
        server.send(lines, Rest::Nothing, self.snapshot);
        self.attempt(server, Repeat::Impossible).await
    }

    /// Notes a failure of a server, here and not by the caller: of the two that may fail it sees one.
    fn note_tried(&self, (server, result): &Tried) {
        if let Err(unanswered) = result {
            self.note_failure(server, unanswered);
        }
    }

    /// Relays the response of a server that has the request.
    async fn attempt(&self, mut server: UpstreamStream, repeat: Repeat) -> Option<Tried> {
        let waiting =
            Waiting { exchange: self, server: server.server().clone(), sent_ms: Cell::new(now_ms()) };
        let result = {
            let (request, mut response) = server.split();
            self.begin_wait(repeat);
            request.expect_response_within(self.first_wait_ms());
            let mut relaying = pin!(self.relay_response(&mut response));
            // What is noted of a response is noted of its own server, and by the time of its own request.
            poll_fn(|context| {
                let record = self.responder.record();
                record.has_server(&waiting.server);
                record.was_sent(waiting.sent_ms.get());
                let polled = relaying.as_mut().poll(context);
                waiting.sent_ms.set(record.sent_ms().unwrap_or(waiting.sent_ms.get()));
                polled
            })
            .await
        };
        waiting.end();
        Some((server, result))
    }
}

impl Waiting<'_> {
    /// It has a response, or a failure that is noted as such.
    fn end(self) {
        self.sent_ms.set(u64::MAX);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.sent_ms.get() < u64::MAX && self.exchange.has_head.get() {
            let times = (now_ms(), self.sent_ms.get());
            self.exchange.decision.group.note_given_up(&self.server, times);
        }
    }
}

impl Race<'_> {
    /// Polls both. The one that has a head for the client goes on alone; one that fails leaves the other. The first one comes last: if
    /// both are broken off, the record is about the one that has taken longer.
    fn poll(&mut self, exchange: &Exchange<'_>, context: &mut Context<'_>) -> Polled {
        for turn in [Turn::Second, Turn::First] {
            let (this, other) = match turn {
                Turn::First => (&mut self.first, &mut self.second),
                Turn::Second => (&mut self.second, &mut self.first),
            };
            let Some(attempt) = this else { continue };
            match attempt.as_mut().poll(context) {
                Poll::Pending => {}
                Poll::Ready(None) => {
                    *this = None;
                    exchange.end_hedge();
                }
                Poll::Ready(Some(tried))
                    if tried.1.is_err() && other.is_some() && !exchange.has_head.get() =>
                {
                    *this = None;
                    exchange.note_tried(&tried);
                    self.failed = Some((tried, turn));
                }
                Poll::Ready(Some(tried)) => {
                    exchange.note_tried(&tried);
                    return Polled::Over(tried, turn);
                }
            }
            if exchange.has_head.get() && this.is_some() {
                *other = None;
            }
        }
        match self.failed.take_if(|_| self.first.is_none() && self.second.is_none()) {
            Some((tried, turn)) => Polled::Over(tried, turn),
            None => Polled::Pending,
        }
    }
}
