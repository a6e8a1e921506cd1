//! Relays the response to the client, from its head to the end of its body; interim responses before it. A failure is returned
//! to the caller, which decides what the client gets.

use std::cell::Ref;

use sluice_proto::grpc_web::Web;
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::ws::has_deflate;
use sluice_proto::{BodyLength, Fault, FieldId, ResponseHead, Trailers};
use sluice_sys::{Buf, now_ms};

use super::state::Exchange;
use super::upgrade::Switch;
use crate::body_writer::BodyWriter;
use crate::config::BalancePolicy;
use crate::downstream::{Added, Afterwards, Responder};
use crate::message::{Aborted, BodySink, COPY_BYTES_MAX, Cause, Side};
use crate::min_rate::MinRate;
use crate::relay::{Appended, append_if_complete, relay};
use crate::upstream::stream::{ResponseBody, ResponseStream, Rest, Unanswered};

/// A response that went through.
pub(super) struct Finished {
    pub(super) is_large: bool,
    /// The following bytes are no HTTP any more.
    pub(super) is_tunnel: bool,
    /// They are WebSocket whose messages may be compressed.
    pub(super) has_deflate: bool,
}

/// The kind of a response head.
enum Kind {
    Interim,
    /// 102: the server is at work.
    Processing,
    /// 100 (Continue), which says nothing of the request.
    Continue,
    /// It is a failure for which the request is sent again.
    Unwanted,
    /// It opens the tunnel that was asked for.
    Tunnel {
        has_deflate: bool,
    },
    /// It opens a tunnel, or says so, and it was not asked for that.
    UnaskedTunnel,
    /// It is a success without the tunnel, which a client of HTTP/2 would take for one.
    NoTunnel,
    Final,
}

impl Exchange<'_> {
    /// Relays the response from its head to its end.
    pub(super) async fn relay_response(
        &self,
        server: &mut ResponseStream<'_>,
    ) -> Result<Finished, Unanswered> {
        // A buffer for the head is taken when there is one: thousands of exchanges may wait for their server.
        let mut out = None;
        let (mut interims, mut is_silent_yet) = (0, true);
        loop {
            let limits = (&self.snapshot.limits.head, self.decision.group.rules.lenient);
            let kind = self.decision.kind;
            let read = server.read_head(self.shard, limits, kind, |head| self.begin(head, &mut out));
            match read.await {
                Ok(Kind::Final) => break,
                Ok(Kind::Unwanted) => return Err(by_server(Cause::Unwanted)),
                Ok(Kind::Interim | Kind::Continue | Kind::Processing) if interims == INTERIM_ANSWERS_MAX => {
                    return Err(by_server(Cause::Fault(Fault::TooManyInterim)));
                }
                Ok(kind @ (Kind::Interim | Kind::Continue | Kind::Processing)) => {
                    interims += 1;
                    self.note_life();
                    is_silent_yet &= matches!(kind, Kind::Continue);
                    //= https://www.rfc-editor.org/rfc/rfc2518#section-10.1
                    // "MUST send a final response after the request has been completed": it takes longer than a client may expect.
                    if matches!(kind, Kind::Processing) && self.is_sent() {
                        self.renew_wait();
                        server.expect_within(self.decision.route.upstream_response_ms);
                    }
                    let interim = out.take().unwrap_or_else(Buf::small);
                    cold!(self.responder.send_interim(interim)).map_err(unanswered)?;
                }
                Ok(Kind::Tunnel { has_deflate }) => {
                    self.responder.open_tunnel(out.unwrap_or_else(Buf::small));
                    return Ok(Finished { is_large: false, is_tunnel: true, has_deflate });
                }
                Ok(Kind::UnaskedTunnel) => return Err(by_server(Cause::UnaskedUpgrade)),
                Ok(Kind::NoTunnel) => return Err(by_server(Cause::IgnoredOffer)),
                Err(Unanswered { aborted, is_silent }) => {
                    let unanswered = Unanswered { aborted, is_silent: is_silent && is_silent_yet };
                    if aborted.cause != Cause::TimedOut {
                        return Err(unanswered);
                    }
                    server.expect_within(self.go_on_waiting(unanswered)?);
                }
            }
        }
        let mut out = out.unwrap_or_else(Buf::small);
        let min_rate = MinRate::by_pauses(self.decision.route.upstream_body_idle_ms);
        let mut body = server.body(min_rate);
        let bridged = self.bridged.get();
        let appended = match bridged {
            None => append_if_small(&mut body, &mut out).map_err(unanswered)?,
            Some(_) => Appended::Part,
        };
        let mut to_client = self.responder.body(out, bridged);
        let relayed = match (appended, self.was_sent_first.get()) {
            (Appended::All(None), true) => to_client.finish_whole().await,
            // The response is not kept from a client that is still sending.
            (Appended::All(None), false) => to_client.finish().await,
            (Appended::All(trailers), _) => cold!(finish_with(&mut to_client, trailers.as_deref())),
            (Appended::Part, _) => cold!(self.relay_rest(&mut body, &mut to_client)),
        };
        relayed.map_err(unanswered)?;
        Ok(Finished { is_large: body.is_large(), is_tunnel: false, has_deflate: false })
    }

    /// Writes a response head for the client.
    fn begin(&self, head: &ResponseHead<'_>, out: &mut Option<Buf>) -> Kind {
        let out = out.get_or_insert_with(Buf::small);
        if head.is_interim() {
            return self.begin_interim(head, out);
        }
        self.note_answer(head.status);
        if self.decision.route.retry.has_statuses() && self.is_unwanted(head.status) {
            return Kind::Unwanted;
        }
        self.has_head.set(true);
        let set_cookie = match &self.decision.group.rules.balance {
            None => None,
            Some(_) => self.note_choice(head),
        };
        let set_cookie = set_cookie.as_deref();
        if self.decision.switch != Switch::None && self.decision.is_tunnel_opened(head) {
            self.responder.write_tunnel_head(head, Added { content_type: None, set_cookie }, out);
            return Kind::Tunnel { has_deflate: has_deflate(head) };
        }
        if head.status == 101 {
            return Kind::UnaskedTunnel;
        }
        //= https://www.rfc-editor.org/rfc/rfc8441#section-5
        // A 2xx opens the tunnel there, where HTTP/1.1 has 101 for it.
        if self.decision.switch != Switch::None
            && matches!(self.responder, Responder::H2(_))
            && (200..=299).contains(&head.status)
        {
            return Kind::NoTunnel;
        }
        let is_request_sent = self.is_sent();
        self.was_sent_first.set(is_request_sent);
        if self.rest.get() == Rest::Body {
            self.kept.forget();
        }
        // The client may stop in the middle of a body that is not wanted any more, and nothing would tell the rest of it from
        // the next request.
        let afterwards = if is_request_sent { Afterwards::GoOn } else { Afterwards::Close };
        match self.decision.call.web() {
            None => {
                let added = Added { content_type: None, set_cookie };
                self.responder.write_head(head, added, afterwards, out);
            }
            Some(web) => self.write_web_head(web, head, (set_cookie, afterwards), out),
        }
        Kind::Final
    }

    /// Writes an interim response head. The client has got its 100 (Continue) already if the request is sent again.
    fn begin_interim(&self, head: &ResponseHead<'_>, out: &mut Buf) -> Kind {
        let is_continue = head.status == 100;
        if !is_continue {
            self.has_head.set(true);
        }
        if !is_continue || self.is_first_attempt() {
            self.responder.write_interim(head, out);
        }
        match head.status {
            100 => Kind::Continue,
            102 => Kind::Processing,
            _ => Kind::Interim,
        }
    }

    /// The server that was chosen has answered: notes how long that took, where choices go by it. The cookie by which the client
    /// comes back to it, if there is to be one.
    #[inline(never)]
    fn note_choice(&self, head: &ResponseHead<'_>) -> Option<Ref<'_, str>> {
        // It may answer before it has all of the request, and then the time is the client's.
        if head.status != 101 && self.is_sent() {
            self.note_latency();
        }
        let mut cookie = None;
        let group = self.decision.group;
        self.responder
            .record()
            .with_server(|server| cookie = group.set_cookie(server, self.decision.affinity));
        cookie
    }

    /// The server took as long as it does now, from the end of the request.
    pub(super) fn note_latency(&self) {
        let rules = self.decision.group.rules.balance.as_ref();
        let record = self.responder.record();
        if rules.is_some_and(|rules| rules.policy == BalancePolicy::TwoChoices)
            && let Some(sent_ms) = record.sent_ms()
        {
            let now_ms = now_ms();
            let waited_ms = u32::try_from(now_ms.saturating_sub(sent_ms)).unwrap_or(u32::MAX);
            record.with_server(|server| server.latency.note(waited_ms, now_ms));
        }
    }

    /// The same for a client of gRPC-Web. It gets a response that is none of gRPC as it is.
    #[cold]
    fn write_web_head(
        &self,
        web: Web,
        head: &ResponseHead<'_>,
        (set_cookie, afterwards): (Option<&str>, Afterwards),
        out: &mut Buf,
    ) {
        let mut content_type = Buf::small();
        let of_server = head.field_list().single(FieldId::ContentType);
        if !of_server.is_some_and(|value| web.write_answer(value, &mut content_type)) {
            let added = Added { content_type: None, set_cookie };
            return self.responder.write_head(head, added, afterwards, out);
        }
        let mut head = *head;
        // Without a body, what would be trailers is in the head.
        if !head.body.is_empty() {
            head.body = BodyLength::Streamed;
            self.bridged.set(Some(web.answer));
        }
        let added = Added { content_type: Some(&content_type), set_cookie };
        self.responder.write_head(&head, added, afterwards, out);
    }

    /// Relays a body, or what there is behind a head that has none.
    async fn relay_rest(
        &self,
        body: &mut ResponseBody<'_>,
        to_client: &mut BodyWriter<'_>,
    ) -> Result<(), Aborted> {
        let is_of_stream = body.is_of_stream();
        let has_none = body.length() == BodyLength::None;
        if is_of_stream && !has_none {
            to_client.expect_trailers();
        }
        let relayed = match self.may_end_early(body) {
            false => relay(body, to_client).await,
            true => {
                let mut watched = self.watched(body);
                relay(&mut watched, to_client).await
            }
        };
        match relayed {
            // Some servers answer HEAD with content: the response was complete before it.
            Err(Aborted { side: Side::Upstream, .. }) if is_of_stream && has_none => to_client.finish().await,
            relayed => relayed,
        }
    }
}

/// Adds a small body to the head in `out` if all of it has arrived; says whether it had.
fn append_if_small(body: &mut ResponseBody<'_>, out: &mut Buf) -> Result<Appended, Aborted> {
    let length = body.length();
    let is_small = matches!(length, BodyLength::Length(bytes) if bytes <= COPY_BYTES_MAX as u64);
    if is_small { append_if_complete(body, length, false, out) } else { Ok(Appended::Part) }
}

/// Ends a body that has trailers although its length was announced, as HTTP/2 permits.
async fn finish_with(to_client: &mut BodyWriter<'_>, trailers: Option<&Trailers>) -> Result<(), Aborted> {
    to_client.expect_trailers();
    to_client.add_end(trailers);
    to_client.finish().await
}

fn by_server(cause: Cause) -> Unanswered {
    unanswered(Aborted::by(Side::Upstream, cause))
}

fn unanswered(aborted: Aborted) -> Unanswered {
    Unanswered { aborted, is_silent: false }
}
