//! One request and its response, phases in order: take the decision that was made when its head was read, get a server, send
//! the request, relay the response. The file to read first.
//!
//! It depends on neither side's protocol: a client is a `RequestBody` and a `Responder`, a server an `UpstreamStream`, bodies
//! are parts that `relay` moves. A request that has arrived completely is sent in one piece and can be sent again. One whose
//! body is still coming is streamed, while the response may already be on its way back.

mod arrival;
mod deadline;
pub(crate) mod decision;
pub(crate) mod ended;
pub(crate) mod failure;
mod hedge;
mod kept;
pub(crate) mod mirror;
mod policy;
mod response;
pub(crate) mod retry;
mod state;
mod upgrade;
mod wait;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_proto::BodyLength;
use sluice_sys::Timer;

use self::decision::Decision;
use self::ended::{Ended, Interrupted, Origin, TunnelUpstream};
use self::kept::{Kept, KeptBody};
use self::response::Finished;
use self::state::{Exchange, Upload};
use self::upgrade::Switch;
use crate::answer::Answer;
use crate::config::{SendHost, UpstreamProtocol};
use crate::downstream::{RequestBody, Responder};
use crate::message::{Aborted, Repeat, Side};
use crate::relay::{Appended, append_if_complete, relay};
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::upstream::capacity::Turn;
use crate::upstream::connect::{Elsewhere, ProxyIdentity, connect_new, take_idle};
use crate::upstream::queue::{Unavailable, wait_for_server};
use crate::upstream::server::Server;
use crate::upstream::stream::{RequestStream, ResponseStream, Rest, Unanswered, UpstreamStream, Used};

/// Serves one request, whose head has become `lines`.
pub(crate) async fn run(
    shard: &Rc<Shard>,
    snapshot: &Snapshot,
    body: &mut RequestBody<'_>,
    responder: Responder<'_>,
    decision: &Decision<'_>,
    lines: &mut RequestLines,
) -> Ended {
    let limit_ms = u64::from(decision.request_ms);
    let timer = (limit_ms > 0).then(|| Timer::new(limit_ms));
    let (upload, was_sent_first) = (Cell::new(Upload::Running), Cell::new(false));
    let (messages, bridged) = (Cell::new(None), Cell::new(None));
    let can_move = Cell::new(false);
    let exchange = Exchange {
        shard,
        snapshot,
        decision,
        responder,
        upload,
        was_sent_first,
        messages,
        bridged,
        can_move,
        rest: Cell::new(Rest::Body),
        repeats_left: Cell::new(decision.route.retry.repeats_max),
        is_elsewhere: Cell::new(false),
        has_head: Cell::new(false),
        kept: Kept::default(),
    };
    let served = {
        let mut serving = pin!(exchange.serve(body, lines));
        poll_fn(|context| match (serving.as_mut().poll(context), &timer) {
            (Poll::Ready(ended), _) => Poll::Ready(Some(ended)),
            (Poll::Pending, Some(timer)) => timer.poll_expired().map(|()| None),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await
    };
    match served {
        Some(ended) => ended,
        None => cold!(exchange.give_up_overdue()),
    }
}

impl<'a> Exchange<'a> {
    /// Sends the request in one piece if it has arrived whole, else piece by piece, and relays the response. Without one the request
    /// may be sent again: `retry` says when.
    async fn serve(&self, body: &mut RequestBody<'_>, lines: &mut RequestLines) -> Ended {
        if let Some(breaker) = &self.decision.group.breaker
            && !self.is_admitted(breaker)
        {
            return cold!(self.give_up_unserved(Unavailable::Answer(Answer::BreakerOpen)));
        }
        let length = self.decision.body;
        match append_if_complete(body, length, self.is_chunked(), lines.bytes_mut()) {
            Ok(Appended::All(trailers)) => {
                lines.set_trailers(trailers);
                self.upload.set(Upload::Done);
                body.release_buffers();
            }
            Ok(Appended::Part) => {}
            Err(aborted) => return cold!(self.give_up_on_request(aborted)),
        }
        if let Some(mirror) = &self.decision.route.mirror {
            self.mirror(mirror, lines);
        }
        self.rest.set(if self.is_sent() { Rest::Nothing } else { Rest::Body });
        self.decision.group.budget.note_request();
        let mut server = self.take_idle(None);
        loop {
            if server.is_none() {
                // Received bytes of the body keep no buffer from others while a server is looked for.
                body.release_buffers();
                if let Err(unavailable) = cold!(self.connect_new(&mut server)) {
                    return cold!(self.give_up_unserved(unavailable));
                }
            }
            let used = server.as_mut().expect("there is a server by now");
            self.responder.record().has_server(used.server());
            let tried = match self.may_hedge() {
                false => {
                    let tried = self.try_on(used, body, lines).await;
                    if let (Err(unanswered), Some(used)) = (&tried, &server) {
                        self.note_failure(used, unanswered);
                    }
                    tried
                }
                true => cold!(self.try_two(&mut server, lines)),
            };
            let unanswered = match tried {
                Ok(finished) => return self.finish(server, &finished),
                Err(unanswered) => unanswered,
            };
            match cold!(self.may_go_on(&mut server, &unanswered)) {
                Some(bytes) => lines.put_back(bytes),
                None => return cold!(self.give_up(Interrupted::by(unanswered.aborted))),
            }
        }
    }

    /// Whether the body of the request goes out in chunks.
    fn is_chunked(&self) -> bool {
        let is_h1 = self.decision.group.rules.protocol == UpstreamProtocol::H1;
        self.decision.sent_body() == BodyLength::Streamed && is_h1
    }

    /// A kept connection, if there is one; rather not to this server.
    fn take_idle(&self, not: Option<&Rc<Server>>) -> Option<UpstreamStream> {
        take_idle(self.shard, self.decision.group, self.proxy_identity(not))
    }

    /// Whether the request may be sent again whatever a server has done with it.
    fn repeat(&self) -> Repeat {
        let can_repeat =
            self.decision.is_idempotent && (self.rest.get() == Rest::Nothing || self.wants_copy());
        if can_repeat { Repeat::Possible } else { Repeat::Impossible }
    }

    /// A new connection, or while servers have as many as they may, the first one that becomes free; rather not to the server that
    /// was asked last, if another one is to be.
    async fn connect_new(&self, server: &mut Option<UpstreamStream>) -> Result<(), Unavailable> {
        let last = if self.is_elsewhere.get() { self.responder.record().server() } else { None };
        let (group, identity) = (self.decision.group, self.proxy_identity(last.as_ref()));
        let connected = match connect_new(self.shard, group, identity, Turn::New).await {
            Err(Answer::FULL) => {
                let (mut look, on_close) = (None, self.decision.route.on_client_close);
                let gone = |context: &mut Context<'_>| self.responder.poll_gone(&mut look, on_close, context);
                // Boxed: few requests wait, and all others would be larger for it.
                Box::pin(wait_for_server(self.shard, group, identity, gone)).await?
            }
            other => other.map_err(Unavailable::Answer)?,
        };
        *server = Some(connected);
        Ok(())
    }

    /// For whom a connection to a server is wanted, and to which one not.
    fn proxy_identity<'b>(&self, not: Option<&'b Rc<Server>>) -> ProxyIdentity<'b>
    where
        'a: 'b,
    {
        ProxyIdentity {
            conn: Some(self.responder.transport()),
            client: &self.decision.client,
            reuse: self.decision.reuse,
            purpose: self.decision.purpose(),
            repeat: self.repeat(),
            not,
            elsewhere: Elsewhere::Rather,
            servers_max: self.decision.route.retry.servers_max(),
            affinity: &self.decision.affinity,
        }
    }

    /// Sends the request to this server and relays its response.
    async fn try_on(
        &self,
        server: &mut UpstreamStream,
        body: &mut RequestBody<'_>,
        lines: &mut RequestLines,
    ) -> Result<Finished, Unanswered> {
        let rest = self.rest.get();
        if self.decision.send_host == SendHost::Server {
            lines.set_authority(server.authority());
        }
        if self.decision.switch != Switch::None {
            server.expect_tunnel();
        }
        if rest == Rest::Body && self.wants_copy() {
            self.keep_copy(lines.bytes(), lines.parts().1.len());
        }
        server.send(lines, rest, self.snapshot);
        let (request, mut response) = server.split();
        self.begin_wait(self.repeat_now());
        match rest {
            Rest::Nothing => {
                request.expect_response_within(self.first_wait_ms());
                self.respond(&mut response).await
            }
            Rest::Body => cold!(self.respond_while_sending(body, lines, request, &mut response)),
        }
    }

    /// Relays the response as long as there is a client to have it.
    async fn respond(&self, from: &mut ResponseStream<'_>) -> Result<Finished, Unanswered> {
        let mut download = pin!(self.relay_response(from));
        let mut look = None;
        poll_fn(|context| {
            if let Poll::Ready(result) = download.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            let on_close = self.decision.route.on_client_close;
            let gone = self.responder.poll_gone(&mut look, on_close, context);
            gone.map(|aborted| Err(Unanswered { aborted, is_silent: false }))
        })
        .await
    }

    /// Sends a request whose body is still coming, and relays the response as soon as there is one.
    async fn respond_while_sending(
        &self,
        body: &mut RequestBody<'_>,
        lines: &mut RequestLines,
        request: RequestStream<'_>,
        response: &mut ResponseStream<'_>,
    ) -> Result<Finished, Unanswered> {
        request.expect_no_response_yet();
        let mut to_server = request.body(self.decision.sent_body(), self.snapshot);
        let is_chunked = self.is_chunked();
        let mut body = KeptBody { from: body, kept: &self.kept, lines, is_chunked };
        let upload = pin!(relay(&mut body, &mut to_server));
        let download = pin!(self.respond(response));
        let on_sent = || {
            self.begin_wait(self.repeat_now());
            request.expect_response_within(self.first_wait_ms());
        };
        self.both_ways(upload, download, on_sent).await
    }

    /// Runs upload and download side by side until the response is complete or one of them breaks off.
    async fn both_ways(
        &self,
        mut upload: Pin<&mut impl Future<Output = Result<(), Aborted>>>,
        mut download: Pin<&mut impl Future<Output = Result<Finished, Unanswered>>>,
        on_sent: impl Fn(),
    ) -> Result<Finished, Unanswered> {
        poll_fn(|context| {
            if self.upload.get() == Upload::Running
                && let Poll::Ready(result) = upload.as_mut().poll(context)
            {
                if let Err(aborted @ Aborted { side: Side::Downstream, .. }) = result {
                    return Poll::Ready(Err(Unanswered { aborted, is_silent: false }));
                }
                // A server that takes no more of the request may have answered it all the same.
                self.upload.set(if result.is_ok() { Upload::Done } else { Upload::Failed });
                if !self.responder.record().has_begun() {
                    on_sent();
                }
            }
            download.as_mut().poll(context)
        })
        .await
    }

    /// The client has the response.
    fn finish(&self, server: Option<UpstreamStream>, finished: &Finished) -> Ended {
        let server = server.expect("a server has answered");
        if finished.is_tunnel {
            let (end, server) = server.into_end();
            return Ended::Tunnel(Box::new(TunnelUpstream {
                end,
                server,
                is_connect: self.decision.switch == Switch::Connect,
                frames: self.decision.agreed(finished.has_deflate),
            }));
        }
        let is_request_sent = self.is_sent();
        let used = if is_request_sent && self.was_sent_first.get() { Used::Whole } else { Used::Broken };
        server.finish(used, finished.is_large, self.shard, &self.decision.group.rules);
        Ended::Answered { by: Origin::Server, is_request_sent }
    }
}
