//! The end of a gRPC call whose time is over when its response has begun: trailers that say so, where the client can have them and
//! takes them for the end of a whole message.

use std::cell::Cell;

use sluice_proto::BodyLength;
use sluice_proto::grpc::{self, Call, Messages, Status};
use sluice_sys::Buf;

use super::ended::{Ended, Interrupted, Origin};
use super::state::Exchange;
use crate::answer::Answer;
use crate::message::{Aborted, BodySink, BodySource, ChunkForm, Part, PlainRest, ReadyPart};
use crate::upstream::stream::ResponseBody;

/// The body of a response, of which it is known whether a message has begun.
pub(super) struct WatchedBody<'a, S> {
    from: &'a mut S,
    messages: &'a Cell<Option<Messages>>,
}

impl Exchange<'_> {
    /// Whether trailers may end this response when the time of its call is over.
    pub(super) fn may_end_early(&self, body: &ResponseBody<'_>) -> bool {
        let is_timed_call = self.decision.call != Call::None && self.decision.request_ms > 0;
        let takes_trailers = || body.length() == BodyLength::Streamed && self.responder.takes_trailers();
        is_timed_call && (self.bridged.get().is_some() || takes_trailers())
    }

    /// The same body, watched for that.
    pub(super) fn watched<'a, S>(&'a self, from: &'a mut S) -> WatchedBody<'a, S> {
        self.messages.set(Some(Messages::default()));
        WatchedBody { from, messages: &self.messages }
    }

    /// Ends the response of a call whose time is over, if all that the client has are whole messages; `None` if it has to be reset.
    /// Within a message, clients take trailers for a fault of the server.
    pub(super) async fn end_early(&self) -> Option<Ended> {
        let is_between = self.messages.get().is_some_and(|messages| messages.is_between());
        if !is_between || self.responder.has_unsent() {
            return None;
        }
        let trailers = grpc::trailers(Status::DeadlineExceeded, Answer::UpstreamTimeout.why());
        let mut to_client = self.responder.body(Buf::small(), self.bridged.get());
        to_client.add_end(Some(&trailers));
        Some(match to_client.finish().await {
            Ok(()) => Ended::Answered { by: Origin::Server, is_request_sent: self.is_sent() },
            Err(aborted) => Ended::Interrupted(Interrupted::by(aborted)),
        })
    }
}

fn note(place: &Cell<Option<Messages>>, data: &[u8]) {
    let mut messages = place.get().unwrap_or_default();
    messages.read(data);
    place.set(Some(messages));
}

impl<S: BodySource> BodySource for WatchedBody<'_, S> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        let messages = self.messages;
        self.from.show_ready(|data| {
            note(messages, data);
            see(data);
        })
    }

    fn ready_part(&mut self, _: ChunkForm) -> Result<Option<Part>, Aborted> {
        let part = self.from.ready_part(ChunkForm::Decoded)?;
        if let Some(Part::Data(data)) = &part {
            note(self.messages, data.bytes());
        }
        Ok(part)
    }

    fn more(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        self.from.more()
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        None
    }

    fn skip(&mut self, _: u64) {
        unreachable!("messages are looked at")
    }
}
