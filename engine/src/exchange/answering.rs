//! The way back: from the head of the server's answer to the end of its body, at the client. Informational answers go
//! before it. What breaks on the way is told to the caller as a [`Cut`]; nobody is told anything here.

use sluice_proto::h1::{
    Asked, ConnectionField, FinalReply, Reply, ResponseForwarding, Reuse, write_response,
};
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::{BodyLength, Fault, ResponseHead};
use sluice_sys::{Buf, Conn, now_ms};

use super::Upload;
use super::offer::Switch;
use super::plan::Plan;
use crate::downstream::h1::GoAhead;
use crate::h1::{BodyProgress, BodyWriter, Last};
use crate::message::{Aborted, Cause, Side};
use crate::pace::Pace;
use crate::relay::{relay, take_whole};
use crate::seldom::seldom;
use crate::shard::Shard;
use crate::upstream::h1::{Receiver, Unanswered};

/// The way back: from the server's head to the end of its body.
pub(super) struct Answering<'a> {
    pub(super) shard: &'a Shard,
    pub(super) plan: &'a Plan,
    pub(super) go_ahead: &'a GoAhead,
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
pub(super) struct Cut {
    pub(super) aborted: Aborted,
    /// The server had not sent one byte.
    pub(super) is_silent: bool,
    /// The client can only tell by a reset.
    pub(super) is_close_delimited: bool,
}

impl Cut {
    pub(super) fn by(aborted: Aborted) -> Cut {
        Cut { aborted, is_silent: false, is_close_delimited: false }
    }
}

impl Answering<'_> {
    pub(super) async fn relay_to(&self, client: &Conn, mut server: Receiver<'_>) -> Result<Finished, Cut> {
        // A buffer for the head is taken when there is one: thousands of exchanges may wait for their server.
        let mut out = None;
        let mut interims = 0;
        let reply = loop {
            let kind = self.plan.kind;
            match server.read_response(self.shard, kind, |head| self.begin(client, head, &mut out)).await {
                Ok(Reply::Final(reply)) => break reply,
                Ok(Reply::Interim { .. }) if interims == INTERIM_ANSWERS_MAX => {
                    let cause = Cause::Fault(Fault::TooManyInterim);
                    return Err(Cut::by(Aborted::by(Side::Upstream, cause)));
                }
                Ok(Reply::Interim { .. }) => {
                    interims += 1;
                    seldom!(self.send_interim(client, out.take().unwrap_or_else(Buf::small)))?;
                }
                // Its head was written if it is what was asked for.
                Ok(Reply::Upgrade) => {
                    let head = out.filter(|head: &Buf| !head.is_empty());
                    let unasked = || Cut::by(Aborted::by(Side::Upstream, Cause::UnaskedUpgrade));
                    return head.map(|head| self.open_tunnel(client, head)).ok_or_else(unasked);
                }
                Err(Unanswered { aborted, is_silent }) => {
                    return Err(Cut { is_silent: is_silent && interims == 0, ..Cut::by(aborted) });
                }
            }
        };
        let mut out = out.unwrap_or_else(Buf::small);
        let last = if reply.is_downstream_persistent { Last::Detach } else { Last::Await };
        let is_chunked = reply.framing == BodyLength::Chunked;
        let pace = Pace::by_pauses(self.shard.times.upstream_body_idle);
        let mut progress = BodyProgress::new(reply.body, u64::MAX, pace).with_trailers(reply.trailers);
        let mut body = server.body(&mut progress);
        let is_whole = take_whole(&mut body, reply.framing, &mut out).map_err(Cut::by)?;
        let mut to_client =
            BodyWriter::new(client, Some(out), is_chunked, Side::Downstream, self.shard.times.write_stall)
                .with_last(last)
                .with_pace(self.shard.response_pace())
                .with_mark(&self.plan.progress.is_answering);
        let is_close_delimited = reply.framing == BodyLength::UntilClose;
        let relayed =
            if is_whole { to_client.finish().await } else { seldom!(relay(&mut body, &mut to_client)) };
        relayed.map_err(|aborted| Cut { is_close_delimited, ..Cut::by(aborted) })?;
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
        self.plan.progress.is_answering.set(true);
        client.send(head, self.shard.times.write_stall).detach();
        Finished { is_large: false, is_upstream_persistent: false, downstream: Downstream::Tunnel }
    }

    /// Writes a response head for the client.
    fn begin(&self, client: &Conn, head: &ResponseHead<'_>, out: &mut Option<Buf>) -> Reply {
        let out = out.get_or_insert_with(Buf::small);
        //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
        // Other interim answers leave a client that waits for 100 where it was.
        if head.status == 100 || !head.is_interim() {
            self.go_ahead.is_given();
        }
        let is_offer = self.plan.switch != Switch::None;
        if is_offer && self.plan.write_opening(self.shard, head, out) {
            return Reply::Upgrade;
        }
        // What has come behind an offer that is not taken up may be no request.
        let is_over = self.shard.is_draining() || (is_offer && client.has_unread());
        let is_old = now_ms() >= self.plan.connection_end_ms;
        let is_request_sent = self.plan.progress.upload.get() == Upload::Done;
        let asked = Asked {
            version: self.plan.version,
            is_persistent: self.plan.is_persistent && is_request_sent && !is_over && !is_old,
            // A server that answers before it has the body may leave it unread, and take it for its next request.
            reuse: if is_request_sent { self.plan.reuse } else { Reuse::Forbidden },
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

    async fn send_interim(&self, client: &Conn, interim: Buf) -> Result<(), Cut> {
        if interim.is_empty() {
            return Ok(());
        }
        let sent = client.send(interim, self.shard.times.write_stall).await;
        sent.result.map_err(|error| Cut::by(Aborted::sending(Side::Downstream, &error)))
    }
}
