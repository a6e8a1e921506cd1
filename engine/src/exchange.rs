//! One request and its answer, phases in order: read the head, find the route, get a server, send the request, relay the
//! answer. The file to read first.
//!
//! Neither side's protocol shows here: heads are `sluice_proto` heads, bodies are parts that `relay` moves. A request that
//! has arrived whole is sent in one piece and can be sent again; one whose body is still coming is streamed while the
//! answer may already be on its way back.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use sluice_proto::h1::{
    Asked, ConnectionField, FinalReply, Forwarding, Reply, ResponseForwarding, Reuse, replace_host,
    write_request, write_response,
};
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::path::forms;
use sluice_proto::{BodyLength, Fault, Method, RequestHead, RequestKind, ResponseHead, TrailerRule, Version};
use sluice_sys::{Buf, Conn, Timer, now_ms};

use crate::answer::{Answer, Shape};
use crate::config::SendHost;
use crate::downstream::h1::{Down, GoAhead, Read, RequestBody};
use crate::h1::{BodyProgress, BodyWriter, Last};
use crate::identity::Client;
use crate::message::{Aborted, Cause, Side};
use crate::misbehaviour::Misdeed;
use crate::pace::Pace;
use crate::path_policy;
use crate::relay::{relay, take_whole};
use crate::route::{Lookup, RouteTarget};
use crate::shard::Shard;
use crate::upstream::connect::{Behalf, connected, kept};
use crate::upstream::h1::{Receiver, Unanswered, Up};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It may send another request.
    Request,
    /// Its next request has begun and the rest of the head has not arrived.
    Wait,
    /// It is closed in good order.
    Close,
    /// It is closed while the client may still be sending.
    Linger,
    /// It is gone, or what was sent is incomplete by its own framing.
    Drop,
    /// It is reset: only that tells the client that what it got is incomplete.
    Abort,
}

/// What was decided about a request when its head was read.
struct Plan {
    upstream: usize,
    route: usize,
    kind: RequestKind,
    version: Version,
    body: BodyLength,
    is_persistent: bool,
    is_idempotent: bool,
    expect_continue: bool,
    /// When the client's connection is too old.
    connection_end_ms: u64,
    progress: Progress,
    /// Whether the server's connection may serve another request afterwards.
    reuse: Reuse,
    trailers: TrailerRule,
    /// The client, for servers that are told of it.
    client: SocketAddr,
    send_host: SendHost,
}

/// Why a request goes nowhere.
struct Refusal<'t> {
    answer: Answer<'t>,
    shape: Shape,
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

/// An answer that went through.
struct Finished {
    is_large: bool,
    is_upstream_persistent: bool,
    is_downstream_persistent: bool,
}

/// An answer that did not.
struct Cut {
    aborted: Aborted,
    /// The server had not sent one byte.
    is_silent: bool,
    /// The client can only tell by a reset.
    is_close_delimited: bool,
}

impl Cut {
    fn by(aborted: Aborted) -> Cut {
        Cut { aborted, is_silent: false, is_close_delimited: false }
    }
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
    let mut plan = match down.read_request(plan).await {
        Ok(Read::Request(Ok(plan))) => plan,
        Ok(Read::Request(Err(refusal))) => return refuse_request(down, refusal).await,
        Ok(Read::Incomplete) => return Next::Wait,
        Ok(Read::Nothing) => return Next::Drop,
        Err(aborted) => return give_up_on_head(shard, down, aborted).await,
    };
    plan.is_persistent &= !down.is_last_request();
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
        None => give_up_overdue(down, &plan).await,
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
            send_whole(down, plan, wire).await
        }
        Ok(false) => send_streamed(down, plan, wire, &mut body, &go_ahead).await,
        Err(aborted) => give_up_on_request(shard, down, aborted, plan.kind).await,
    }
}

impl Plan {
    /// Judges a request, and writes its head as the server will see it.
    fn new<'t>(
        shard: &'t Shard,
        head: &RequestHead<'_>,
        client: &Client<'_>,
        wire: &mut Buf,
    ) -> Result<Plan, Refusal<'t>> {
        shard.counters.requests.increment();
        if head.wants_tunnel() {
            shard.counters.bad_requests.increment();
            return Err(Refusal::new(head, Answer::NoTunnel).and_close());
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
        if head.max_forwards() == Some(0) {
            let trace =
                Answer::Refused { status: 501, why: "TRACE ends here by Max-Forwards and is not answered" };
            let is_trace = head.method == Method::Trace;
            return Err(Refusal::new(head, if is_trace { trace } else { Answer::FinalRecipient }));
        }
        let mut path_store = shard.path_store.borrow_mut();
        let paths = forms(head.path_and_query, head.path, &shard.paths.rules, &mut path_store)
            .map_err(|fault| Refusal::of_path(shard, head, fault))?;
        let RouteTarget { upstream, route } =
            match shard.routes.lookup(head.authority, paths.matching, head.method.as_str()) {
                Lookup::Found(target) => target,
                Lookup::MethodNotAllowed { allow } => {
                    return Err(Refusal::new(head, Answer::MethodNotAllowed { allow }));
                }
                Lookup::NotFound => {
                    shard.counters.no_route.increment();
                    return Err(Refusal::new(head, Answer::NoRoute));
                }
            };
        let respelled = shard.paths.respelled(head, &paths, route, &shard.counters);
        let respelled = respelled.map_err(|fault| Refusal::of_path(shard, head, fault))?;
        let head = respelled.as_ref().unwrap_or(head);
        let body_bytes_max = shard.route_limits[route].body_bytes_max;
        if matches!(head.body, BodyLength::Length(bytes) if bytes > body_bytes_max) {
            shard.counters.bodies_too_large.increment();
            return Err(Refusal::new(head, Answer::BODY_TOO_LARGE));
        }
        // A client of HTTP/1.0 need not name a host.
        let send_host = if head.authority.is_empty() { SendHost::Server } else { shard.send_host[route] };
        let host = if send_host == SendHost::Client { head.authority } else { "" };
        let identity = &shard.identity.policy;
        write_request(wire, head, &Forwarding { identity, sender: client.sender, host, body: head.body });
        Ok(Plan {
            upstream,
            route,
            kind: RequestKind::from(head.method),
            version: head.version,
            body: head.body,
            is_persistent: head.persistent,
            is_idempotent: head.method.is_idempotent(),
            expect_continue: head.expect_continue,
            connection_end_ms: u64::MAX,
            progress: Progress { upload: Cell::new(Upload::Running), is_answering: Cell::new(false) },
            reuse: Reuse::after(head),
            trailers: head.trailers,
            client: client.address,
            send_host,
        })
    }

    /// For whom a connection to a server is wanted.
    fn behalf<'a>(&self, down: &'a Down<'_>) -> Behalf<'a> {
        Behalf { conn: &down.conn, client: self.client }
    }

    /// Puts the name of the server that was chosen into the head, if that is the Host it gets.
    fn name_server(&self, wire: &mut Buf, up: &Up<'_>) {
        if self.send_host == SendHost::Server {
            replace_host(wire, up.authority());
        }
    }

    fn connection_field(&self, is_persistent: bool) -> ConnectionField {
        ConnectionField::of(self.version, is_persistent)
    }
}

impl<'t> Refusal<'t> {
    /// The connection survives a refusal if no body follows that somebody would have to read.
    fn new(head: &RequestHead<'_>, answer: Answer<'t>) -> Refusal<'t> {
        let is_persistent = head.persistent && head.body.is_empty();
        let shape = Shape {
            connection: ConnectionField::of(head.version, is_persistent),
            is_head_only: RequestKind::from(head.method) == RequestKind::Head,
        };
        Refusal { answer, shape }
    }

    /// The path has two readings, or one that nobody means well with: the end of the connection, as with every broken rule.
    #[cold]
    fn of_path(shard: &Shard, head: &RequestHead<'_>, fault: Fault) -> Refusal<'t> {
        shard.counters.bad_requests.increment();
        path_policy::count_refused(fault, &shard.counters);
        Refusal::new(head, Answer::Refused { status: fault.status(), why: fault.reason() }).and_close()
    }

    /// The connection ends with the answer.
    fn and_close(mut self) -> Refusal<'t> {
        self.shape.connection = ConnectionField::Close;
        self
    }

    /// The client has too many connections, and this is one of them.
    fn of_connection(shard: &Shard, head: &RequestHead<'_>) -> Refusal<'t> {
        shard.counters.requests.increment();
        shard.crowded.set(shard.crowded.get() + 1);
        Refusal::new(head, Answer::TooManyConnections).and_close()
    }

    fn is_persistent(&self) -> bool {
        self.shape.connection != ConnectionField::Close
    }
}

/// Sends a request that is all there; once more on a new connection if a kept one turns out to be dead.
async fn send_whole(down: &mut Down<'_>, plan: &Plan, mut wire: Buf) -> Next {
    let shard = down.shard;
    let go_ahead = GoAhead::new(false);
    let group = &shard.groups[plan.upstream];
    let mut reused = kept(shard, group, plan.behalf(down));
    loop {
        let mut up = match reused.take() {
            Some(up) => up,
            None => match connected(shard, group, plan.behalf(down)).await {
                Ok(up) => up,
                Err(answer) => return answer_for_server(down, plan, answer).await,
            },
        };
        plan.name_server(&mut wire, &up);
        let wire_bytes = wire.len() as u64;
        let (conn, receiver) = up.split();
        let sending = conn.send(wire, shard.times.write_stall);
        conn.set_deadline(shard.times.upstream_response);
        let answer = Answering { shard, plan, go_ahead: &go_ahead };
        let result = {
            let download = pin!(answer.relay_to(&down.conn, receiver));
            unless_gone(&down.conn, download).await
        };
        let cut = match result {
            Ok(finished) => {
                up.note_answer(finished.is_large);
                // An answer can come before the request was sent to its end; then the connection is of no further use.
                let is_sent = sending.try_finish().is_ok_and(|sent| sent.result.is_ok());
                if finished.is_upstream_persistent && is_sent {
                    up.give_back(shard);
                }
                return if finished.is_downstream_persistent { Next::Request } else { Next::Close };
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
            if let Some(buf) = sending.await.buf {
                shard.counters.upstream_retries.increment();
                wire = buf;
                continue;
            }
        }
        return give_up(shard, down, plan, &cut).await;
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
    let mut up = match kept(shard, group, plan.behalf(down)) {
        Some(up) => up,
        None => match connected(shard, group, plan.behalf(down)).await {
            Ok(up) => up,
            Err(answer) => return answer_for_server(down, plan, answer).await,
        },
    };
    plan.name_server(&mut wire, &up);
    let (conn, receiver) = up.split();
    conn.send(wire, shard.times.write_stall).detach();
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
            match (finished.is_downstream_persistent, is_sent) {
                (true, true) => Next::Request,
                (false, true) => Next::Close,
                (_, false) => Next::Linger,
            }
        }
        Err(cut) => give_up(shard, down, plan, &cut).await,
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

/// The way back: from the server's head to the end of its body.
struct Answering<'a> {
    shard: &'a Shard,
    plan: &'a Plan,
    go_ahead: &'a GoAhead,
}

impl Answering<'_> {
    async fn relay_to(&self, client: &Conn, mut server: Receiver<'_>) -> Result<Finished, Cut> {
        let mut out = Buf::small();
        let mut interims = 0;
        let reply = loop {
            let kind = self.plan.kind;
            match server.read_response(self.shard, kind, |head| self.begin(head, &mut out)).await {
                Ok(Reply::Final(reply)) => break reply,
                Ok(Reply::Interim { .. }) if interims == INTERIM_ANSWERS_MAX => {
                    let cause = Cause::Fault(Fault::TooManyInterim);
                    return Err(Cut::by(Aborted::by(Side::Upstream, cause)));
                }
                Ok(Reply::Interim { .. }) => {
                    interims += 1;
                    self.send_interim(client, &mut out).await?;
                }
                // Upgrade was not forwarded, so there is nothing to switch to.
                Ok(Reply::Upgrade) => {
                    return Err(Cut::by(Aborted::by(Side::Upstream, Cause::UnaskedUpgrade)));
                }
                Err(Unanswered { aborted, is_silent }) => {
                    return Err(Cut { is_silent: is_silent && interims == 0, ..Cut::by(aborted) });
                }
            }
        };
        let last = if reply.is_downstream_persistent { Last::Detach } else { Last::Await };
        let is_chunked = reply.framing == BodyLength::Chunked;
        let pace = Pace::by_pauses(self.shard.times.upstream_body_idle);
        let mut progress = BodyProgress::new(reply.body, u64::MAX, pace).with_trailers(reply.trailers);
        let mut body = server.body(&mut progress);
        let is_whole = take_whole(&mut body, reply.framing, &mut out).map_err(Cut::by)?;
        let mut to_client =
            BodyWriter::new(client, Some(out), is_chunked, Side::Downstream, self.shard.times.write_stall)
                .with_last(last)
                .with_mark(&self.plan.progress.is_answering);
        let is_close_delimited = reply.framing == BodyLength::UntilClose;
        let relayed =
            if is_whole { to_client.finish().await } else { relay(&mut body, &mut to_client).await };
        relayed.map_err(|aborted| Cut { is_close_delimited, ..Cut::by(aborted) })?;
        Ok(Finished {
            is_large: progress.is_large(),
            is_upstream_persistent: reply.is_upstream_persistent,
            is_downstream_persistent: reply.is_downstream_persistent,
        })
    }

    /// Writes a response head for the client.
    fn begin(&self, head: &ResponseHead<'_>, out: &mut Buf) -> Reply {
        self.go_ahead.is_given();
        let is_old = now_ms() >= self.plan.connection_end_ms;
        let asked = Asked {
            version: self.plan.version,
            is_persistent: self.plan.is_persistent
                && self.plan.progress.upload.get() == Upload::Done
                && !self.shard.is_draining()
                && !is_old,
            reuse: self.plan.reuse,
        };
        let reply = asked.reply(head);
        match &reply {
            Reply::Interim { is_wanted: true } => {
                let interim = ResponseForwarding {
                    version_to: self.plan.version,
                    body: BodyLength::None,
                    connection: ConnectionField::Omit,
                    date: None,
                };
                write_response(out, head, &interim);
            }
            Reply::Final(reply) => {
                if is_old && self.plan.is_persistent {
                    self.shard.counters.connections_aged.increment();
                }
                self.write_final(head, reply, out);
            }
            Reply::Interim { .. } | Reply::Upgrade => {}
        }
        reply
    }

    fn write_final(&self, head: &ResponseHead<'_>, reply: &FinalReply, out: &mut Buf) {
        self.shard.clock.with_date(now_ms(), |date| {
            let forwarding = ResponseForwarding {
                version_to: self.plan.version,
                body: reply.framing,
                connection: reply.connection,
                date: Some(date),
            };
            write_response(out, head, &forwarding);
        });
    }

    async fn send_interim(&self, client: &Conn, out: &mut Buf) -> Result<(), Cut> {
        if out.is_empty() {
            return Ok(());
        }
        let interim = std::mem::replace(out, Buf::small());
        let sent = client.send(interim, self.shard.times.write_stall).await;
        sent.result.map_err(|error| Cut::by(Aborted::sending(Side::Downstream, &error)))
    }
}

/// Answers a request that has no route or is too large.
async fn refuse_request(down: &Down<'_>, mut refusal: Refusal<'_>) -> Next {
    if refusal.is_persistent() && refusal.answer.status() >= 400 {
        // Reaching the limit makes this the connection's last request.
        let _ = down.note_misdeed(Misdeed::Refusal);
    }
    if down.is_last_request() {
        refusal.shape.connection = ConnectionField::Close;
    }
    refuse(down, refusal).await
}

async fn refuse(down: &Down<'_>, refusal: Refusal<'_>) -> Next {
    let is_persistent = refusal.is_persistent();
    match down.answer(refusal.answer, &refusal.shape).await {
        Ok(()) if is_persistent => Next::Request,
        Ok(()) => Next::Linger,
        Err(_) => Next::Drop,
    }
}

/// Answers a request for which there is no server. Its body, if it has one, was not read to its end.
async fn answer_for_server(down: &Down<'_>, plan: &Plan, answer: Answer<'_>) -> Next {
    let is_persistent = plan.is_persistent && plan.body.is_empty();
    let shape = Shape {
        connection: plan.connection_field(is_persistent),
        is_head_only: plan.kind == RequestKind::Head,
    };
    refuse(down, Refusal { answer, shape }).await
}

/// A head that is at fault, or was left unfinished.
async fn give_up_on_head(shard: &Shard, down: &mut Down<'_>, aborted: Aborted) -> Next {
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
    if next == Next::Linger && matches!(aborted.cause, Cause::TimedOut | Cause::Crowded | Cause::Misbehaved) {
        // Nothing is on its way that would overtake the answer by a reset, or it drips; a flood of them must not linger.
        down.forget_unread();
        return Next::Close;
    }
    next
}

/// A body that is at fault, or was left unfinished.
async fn give_up_on_request(shard: &Shard, down: &Down<'_>, aborted: Aborted, kind: RequestKind) -> Next {
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
        Cause::Stalled | Cause::Closed | Cause::Failed(_) | Cause::UnaskedUpgrade => {
            shard.counters.client_aborts.increment();
        }
        Cause::TooLarge | Cause::TimedOut | Cause::TooSlow | Cause::Crowded | Cause::Misbehaved => {}
    }
    let Some(answer) = Answer::for_aborted(aborted) else { return Next::Drop };
    let shape = Shape { connection: ConnectionField::Close, is_head_only: kind == RequestKind::Head };
    refuse(down, Refusal { answer, shape }).await
}

/// The answer has begun, so no status can tell the client any more: what it gets must not look complete.
fn break_off(shard: &Shard, cut: &Cut) -> Next {
    match (cut.aborted.side, cut.aborted.cause) {
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
    let is_stalled = cut.aborted == Aborted::by(Side::Downstream, Cause::Stalled);
    if cut.is_close_delimited || is_stalled { Next::Abort } else { Next::Drop }
}

/// The exchange took longer than it may.
async fn give_up_overdue(down: &Down<'_>, plan: &Plan) -> Next {
    let progress = &plan.progress;
    down.shard.counters.requests_overdue.increment();
    // What is on its way, an interim answer or one of ours, must not be followed by another.
    if progress.is_answering.get() || down.conn.is_sending() {
        return Next::Abort;
    }
    let is_sent = progress.upload.get() != Upload::Running;
    let answer = if is_sent { Answer::UpstreamTimeout } else { Answer::OVERDUE };
    let is_persistent = plan.is_persistent && progress.upload.get() == Upload::Done;
    let shape = Shape {
        connection: plan.connection_field(is_persistent),
        is_head_only: plan.kind == RequestKind::Head,
    };
    refuse(down, Refusal { answer, shape }).await
}

/// An exchange broke off: tell the client, by a status while that is possible, else by how its connection ends.
async fn give_up(shard: &Shard, down: &Down<'_>, plan: &Plan, cut: &Cut) -> Next {
    let progress = &plan.progress;
    if progress.is_answering.get() {
        return break_off(shard, cut);
    }
    if cut.aborted.side == Side::Downstream {
        return give_up_on_request(shard, down, cut.aborted, plan.kind).await;
    }
    match cut.aborted.cause {
        Cause::TimedOut => shard.counters.upstream_timeouts.increment(),
        Cause::Closed | Cause::Failed(_) => shard.counters.upstream_closed.increment(),
        _ => shard.counters.upstream_bad_responses.increment(),
    }
    let Some(answer) = Answer::for_aborted(cut.aborted) else { return Next::Drop };
    let is_persistent = plan.is_persistent && progress.upload.get() == Upload::Done;
    let shape = Shape {
        connection: plan.connection_field(is_persistent),
        is_head_only: plan.kind == RequestKind::Head,
    };
    refuse(down, Refusal { answer, shape }).await
}
