//! One request and its answer, phases in order: read the head, find the route, get a server, send the request, relay the
//! answer. The file to read first.
//!
//! Neither side's protocol shows here: heads are `sluice_proto` heads, bodies are parts that `relay` moves. A request that
//! has arrived whole is sent in one piece and can be sent again; one whose body is still coming is streamed while the
//! answer may already be on its way back.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use sluice_proto::h1::{
    Asked, ConnectionField, FinalReply, Forwarding, Reply, ResponseForwarding, Reuse, write_request,
    write_response,
};
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::path::forms;
use sluice_proto::{BodyLength, Fault, Method, RequestHead, RequestKind, ResponseHead, TrailerRule, Version};
use sluice_sys::{Buf, Conn};

use crate::answer::{Answer, Shape};
use crate::downstream::h1::{Down, GoAhead, RequestBody};
use crate::h1::{BodyProgress, BodyWriter, Last};
use crate::identity::Client;
use crate::message::{Aborted, Cause, Side};
use crate::path_policy;
use crate::relay::{relay, take_whole};
use crate::route::Lookup;
use crate::shard::Shard;
use crate::upstream::connect::{connected, kept};
use crate::upstream::h1::{Receiver, Unanswered};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It may send another request.
    Request,
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
    kind: RequestKind,
    version: Version,
    body: BodyLength,
    is_persistent: bool,
    is_idempotent: bool,
    expect_continue: bool,
    /// Whether the server's connection may serve another request afterwards.
    reuse: Reuse,
    trailers: TrailerRule,
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
    let planned = down.read_request(|head, client| Plan::new(shard, head, client, &mut wire)).await;
    let mut plan = match planned {
        Ok(Some(Ok(plan))) => plan,
        Ok(Some(Err(refusal))) => return refuse(down, refusal.on_last_request(down.is_last_request())).await,
        Ok(None) => return Next::Drop,
        Err(aborted) => return give_up_on_request(shard, down, aborted, RequestKind::Other).await,
    };
    plan.is_persistent &= !down.is_last_request();
    let go_ahead = GoAhead::new(plan.expect_continue);
    let mut body = BodyProgress::new(plan.body, shard.body_bytes_max).with_trailers(plan.trailers);
    let mut arrived = RequestBody::new(shard, &down.conn, &mut down.inbox, &mut body, &go_ahead);
    match take_whole(&mut arrived, plan.body, &mut wire) {
        Ok(true) => send_whole(shard, down, &plan, wire).await,
        Ok(false) => send_streamed(shard, down, &plan, wire, body, &go_ahead).await,
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
        let is_too_large = matches!(head.body, BodyLength::Length(bytes) if bytes > shard.body_bytes_max);
        if is_too_large {
            let too_large = Aborted::by(Side::Downstream, Cause::TooLarge);
            shard.counters.bodies_too_large.increment();
            return Err(Refusal::new(head, Answer::for_aborted(too_large).unwrap_or(Answer::NoRoute)));
        }
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
        let target = match shard.routes.lookup(head.authority, paths.matching, head.method.as_str()) {
            Lookup::Found(target) => target,
            Lookup::MethodNotAllowed { allow } => {
                return Err(Refusal::new(head, Answer::MethodNotAllowed { allow }));
            }
            Lookup::NotFound => {
                shard.counters.no_route.increment();
                return Err(Refusal::new(head, Answer::NoRoute));
            }
        };
        let upstream = target.upstream;
        let respelled = shard.paths.respelled(head, &paths, target.route, &shard.counters);
        let respelled = respelled.map_err(|fault| Refusal::of_path(shard, head, fault))?;
        let head = respelled.as_ref().unwrap_or(head);
        let host = match head.authority {
            "" => &shard.groups[upstream].servers()[0].authority,
            authority => authority,
        };
        let identity = &shard.identity.policy;
        write_request(wire, head, &Forwarding { identity, sender: client.sender, host, body: head.body });
        Ok(Plan {
            upstream,
            kind: RequestKind::from(head.method),
            version: head.version,
            body: head.body,
            is_persistent: head.persistent,
            is_idempotent: head.method.is_idempotent(),
            expect_continue: head.expect_continue,
            reuse: Reuse::after(head),
            trailers: head.trailers,
        })
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

    /// The connection ends anyway if this was its last request.
    fn on_last_request(self, is_last: bool) -> Refusal<'t> {
        if is_last { self.and_close() } else { self }
    }

    /// The connection ends with the answer.
    fn and_close(mut self) -> Refusal<'t> {
        self.shape.connection = ConnectionField::Close;
        self
    }
}

/// Sends a request that is all there; once more on a new connection if a kept one turns out to be dead.
async fn send_whole(shard: &Shard, down: &mut Down<'_>, plan: &Plan, mut wire: Buf) -> Next {
    let progress = Progress { upload: Cell::new(Upload::Done), is_answering: Cell::new(false) };
    let go_ahead = GoAhead::new(false);
    let wire_bytes = wire.len() as u64;
    let group = &shard.groups[plan.upstream];
    let mut reused = kept(shard, group);
    loop {
        let mut up = match reused.take() {
            Some(up) => up,
            None => match connected(shard, group).await {
                Ok(up) => up,
                Err(answer) => return answer_for_server(down, plan, answer).await,
            },
        };
        let (conn, receiver) = up.split();
        let sending = conn.send(wire, shard.times.write_stall);
        conn.set_deadline(shard.times.upstream_response);
        let answer = Answering { shard, plan, progress: &progress, go_ahead: &go_ahead };
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
        return give_up(shard, down, plan, &progress, &cut).await;
    }
}

/// Sends a request whose body is still coming, and relays the answer as soon as there is one.
async fn send_streamed(
    shard: &Shard,
    down: &mut Down<'_>,
    plan: &Plan,
    wire: Buf,
    mut body: BodyProgress,
    go_ahead: &GoAhead,
) -> Next {
    let group = &shard.groups[plan.upstream];
    let mut up = match kept(shard, group) {
        Some(up) => up,
        None => match connected(shard, group).await {
            Ok(up) => up,
            Err(answer) => return answer_for_server(down, plan, answer).await,
        },
    };
    let progress = Progress { upload: Cell::new(Upload::Running), is_answering: Cell::new(false) };
    let (conn, receiver) = up.split();
    conn.send(wire, shard.times.write_stall).detach();
    conn.clear_deadline();
    let result = {
        let mut body = RequestBody::new(shard, &down.conn, &mut down.inbox, &mut body, go_ahead);
        let is_chunked = plan.body == BodyLength::Chunked;
        let mut to_server = BodyWriter::new(conn, None, is_chunked, Side::Upstream, shard.times.write_stall);
        let upload = pin!(relay(&mut body, &mut to_server));
        let answer = Answering { shard, plan, progress: &progress, go_ahead };
        let download = pin!(answer.relay_to(&down.conn, receiver));
        let download = pin!(unless_gone(&down.conn, download));
        both_ways(upload, download, &progress, || conn.set_deadline(shard.times.upstream_response)).await
    };
    let is_sent = progress.upload.get() == Upload::Done;
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
        Err(cut) => give_up(shard, down, plan, &progress, &cut).await,
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
    progress: &'a Progress,
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
        let mut progress = BodyProgress::new(reply.body, u64::MAX).with_trailers(reply.trailers);
        let mut body = server.body(self.shard, &mut progress);
        let is_whole = take_whole(&mut body, reply.framing, &mut out).map_err(Cut::by)?;
        let mut to_client =
            BodyWriter::new(client, Some(out), is_chunked, Side::Downstream, self.shard.times.write_stall)
                .with_last(last)
                .with_mark(&self.progress.is_answering);
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
        let asked = Asked {
            version: self.plan.version,
            is_persistent: self.plan.is_persistent
                && self.progress.upload.get() == Upload::Done
                && !self.shard.is_draining(),
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
            Reply::Final(reply) => self.write_final(head, reply, out),
            Reply::Interim { .. } | Reply::Upgrade => {}
        }
        reply
    }

    fn write_final(&self, head: &ResponseHead<'_>, reply: &FinalReply, out: &mut Buf) {
        self.shard.clock.with_date(sluice_sys::now_ms(), |date| {
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
        sent.result.map_err(|error| Cut::by(Aborted::io(Side::Downstream, &error)))
    }
}

/// Answers a request that has no route or is too large.
async fn refuse(down: &Down<'_>, refusal: Refusal<'_>) -> Next {
    let is_persistent = refusal.shape.connection != ConnectionField::Close;
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

/// The request itself is at fault, or the client has left it unfinished.
async fn give_up_on_request(shard: &Shard, down: &Down<'_>, aborted: Aborted, kind: RequestKind) -> Next {
    match aborted.cause {
        Cause::Fault(_) => shard.counters.bad_requests.increment(),
        Cause::TooLarge => shard.counters.bodies_too_large.increment(),
        Cause::TimedOut => shard.counters.request_timeouts.increment(),
        Cause::Closed | Cause::Failed(_) | Cause::UnaskedUpgrade => shard.counters.client_aborts.increment(),
    }
    let Some(answer) = Answer::for_aborted(aborted) else { return Next::Drop };
    let shape = Shape { connection: ConnectionField::Close, is_head_only: kind == RequestKind::Head };
    refuse(down, Refusal { answer, shape }).await
}

/// An exchange broke off: tell the client, by a status while that is possible, else by how its connection ends.
async fn give_up(shard: &Shard, down: &Down<'_>, plan: &Plan, progress: &Progress, cut: &Cut) -> Next {
    if progress.is_answering.get() {
        match cut.aborted.side {
            Side::Upstream => shard.counters.upstream_cuts.increment(),
            Side::Downstream => shard.counters.client_aborts.increment(),
        }
        return if cut.is_close_delimited { Next::Abort } else { Next::Drop };
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
