//! The way back: from the head of the server's answer to the end of its body, at the client. Informational answers go
//! before it. What breaks on the way is returned to the caller as [`Interrupted`].

use sluice_proto::h1::{
    ConnectionField, FinalResponsePlan, RequestFacts, ResponseForwarding, ResponsePlan, Reuse, write_response,
};
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::{BodyLength, Fault, ResponseHead};
use sluice_sys::{Buf, Conn, now_ms};

use super::Upload;
use super::decision::Decision;
use super::upgrade::Switch;
use crate::downstream::h1::ExpectContinue;
use crate::h1::{BodyProgress, BodyWriter, Last};
use crate::message::{Aborted, Cause, Side};
use crate::min_rate::MinRate;
use crate::relay::{append_if_complete, relay};
use crate::shard::Shard;
use crate::upstream::h1::{Receiver, Unanswered};

/// The way back: from the server's head to the end of its body.
pub(super) struct Response<'a> {
    pub(super) shard: &'a Shard,
    pub(super) decision: &'a Decision,
    pub(super) expect_continue: &'a ExpectContinue,
}

/// An answer that went through.
pub(super) struct Finished {
    pub(super) is_large: bool,
    pub(super) is_upstream_persistent: bool,
    pub(super) downstream: Downstream,
}

/// What the answer has made of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Downstream {
    Persistent,
    Closing,
    /// What follows is no HTTP any more.
    Tunnel,
}

/// An answer that did not.
pub(super) struct Interrupted {
    pub(super) aborted: Aborted,
    /// The server had not sent one byte.
    pub(super) is_silent: bool,
    /// The client can only tell by a reset.
    pub(super) is_close_delimited: bool,
}

impl Interrupted {
    pub(super) fn by(aborted: Aborted) -> Interrupted {
        Interrupted { aborted, is_silent: false, is_close_delimited: false }
    }
}

impl Response<'_> {
    pub(super) async fn relay_to(
        &self,
        client: &Conn,
        mut server: Receiver<'_>,
    ) -> Result<Finished, Interrupted> {
        // A buffer for the head is taken when there is one: thousands of exchanges may wait for their server.
        let mut out = None;
        let mut interims = 0;
        let reply = loop {
            let kind = self.decision.kind;
            match server.read_response(self.shard, kind, |head| self.begin(client, head, &mut out)).await {
                Ok(ResponsePlan::Final(reply)) => break reply,
                Ok(ResponsePlan::Interim { .. }) if interims == INTERIM_ANSWERS_MAX => {
                    let cause = Cause::Fault(Fault::TooManyInterim);
                    return Err(Interrupted::by(Aborted::by(Side::Upstream, cause)));
                }
                Ok(ResponsePlan::Interim { .. }) => {
                    interims += 1;
                    cold!(self.send_interim(client, out.take().unwrap_or_else(Buf::small)))?;
                }
                // Its head was written if it is what was asked for.
                Ok(ResponsePlan::Upgrade) => {
                    let head = out.filter(|head: &Buf| !head.is_empty());
                    let unasked = || Interrupted::by(Aborted::by(Side::Upstream, Cause::UnaskedUpgrade));
                    return head.map(|head| self.open_tunnel(client, head)).ok_or_else(unasked);
                }
                Err(Unanswered { aborted, is_silent }) => {
                    return Err(Interrupted {
                        is_silent: is_silent && interims == 0,
                        ..Interrupted::by(aborted)
                    });
                }
            }
        };
        let mut out = out.unwrap_or_else(Buf::small);
        let last = if reply.is_downstream_persistent { Last::Detach } else { Last::Await };
        let is_chunked = reply.framing == BodyLength::Chunked;
        let pace = MinRate::by_pauses(self.shard.times.upstream_body_idle);
        let mut progress = BodyProgress::new(reply.body, u64::MAX, pace).with_trailers(reply.trailers);
        let mut body = server.body(&mut progress);
        let is_whole = append_if_complete(&mut body, reply.framing, &mut out).map_err(Interrupted::by)?;
        let mut to_client =
            BodyWriter::new(client, Some(out), is_chunked, Side::Downstream, self.shard.times.write_stall)
                .with_last(last)
                .with_pace(self.shard.response_pace())
                .with_mark(&self.decision.progress.is_answering);
        let is_close_delimited = reply.framing == BodyLength::UntilClose;
        let relayed =
            if is_whole { to_client.finish().await } else { cold!(relay(&mut body, &mut to_client)) };
        relayed.map_err(|aborted| Interrupted { is_close_delimited, ..Interrupted::by(aborted) })?;
        Ok(Finished {
            is_large: progress.is_large(),
            is_upstream_persistent: reply.is_upstream_persistent,
            downstream: if reply.is_downstream_persistent {
                Downstream::Persistent
            } else {
                Downstream::Closing
            },
        })
    }

    /// Sends the head that tells the client of its tunnel.
    #[cold]
    fn open_tunnel(&self, client: &Conn, head: Buf) -> Finished {
        self.decision.progress.is_answering.set(true);
        client.send(head, self.shard.times.write_stall).detach();
        Finished { is_large: false, is_upstream_persistent: false, downstream: Downstream::Tunnel }
    }

    /// Writes a response head for the client.
    fn begin(&self, client: &Conn, head: &ResponseHead<'_>, out: &mut Option<Buf>) -> ResponsePlan {
        let out = out.get_or_insert_with(Buf::small);
        //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
        // Other interim answers leave a client that waits for 100 where it was.
        if head.status == 100 || !head.is_interim() {
            self.expect_continue.is_given();
        }
        let is_offer = self.decision.switch != Switch::None;
        if is_offer && self.decision.write_opening(self.shard, head, out) {
            return ResponsePlan::Upgrade;
        }
        // What has come behind an offer that is not taken up may be no request.
        let is_over = self.shard.is_draining() || (is_offer && client.has_unread());
        let is_old = now_ms() >= self.decision.connection_end_ms;
        let is_request_sent = self.decision.progress.upload.get() == Upload::Done;
        let asked = RequestFacts {
            version: self.decision.version,
            is_persistent: self.decision.is_persistent && is_request_sent && !is_over && !is_old,
            // A server that answers before it has the body may leave it unread, and take it for its next request.
            reuse: if is_request_sent { self.decision.reuse } else { Reuse::Forbidden },
        };
        let reply = asked.reply(head);
        match &reply {
            ResponsePlan::Interim { is_wanted: true } => {
                let interim = ResponseForwarding {
                    version_to: self.decision.version,
                    body: BodyLength::None,
                    connection: ConnectionField::Omit,
                    date: None,
                };
                write_response(out, head, &interim);
            }
            ResponsePlan::Final(reply) => {
                if is_old && self.decision.is_persistent {
                    self.shard.counters.connections_aged.increment();
                }
                self.write_final(head, reply, out);
            }
            ResponsePlan::Interim { .. } | ResponsePlan::Upgrade => {}
        }
        reply
    }

    fn write_final(&self, head: &ResponseHead<'_>, reply: &FinalResponsePlan, out: &mut Buf) {
        self.shard.clock.with_date(now_ms(), |date| {
            let forwarding = ResponseForwarding {
                version_to: self.decision.version,
                body: reply.framing,
                connection: reply.connection,
                date: Some(date),
            };
            write_response(out, head, &forwarding);
        });
    }

    async fn send_interim(&self, client: &Conn, interim: Buf) -> Result<(), Interrupted> {
        if interim.is_empty() {
            return Ok(());
        }
        let sent = client.send(interim, self.shard.times.write_stall).await;
        sent.result.map_err(|error| Interrupted::by(Aborted::sending(Side::Downstream, &error)))
    }
}
