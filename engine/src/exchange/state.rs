//! One exchange under way: its decision and its progress, for code that handles its interruption.

use std::cell::Cell;
use std::rc::Rc;

use sluice_proto::grpc::Messages;
use sluice_proto::grpc_web::Form;

use super::decision::Decision;
use super::kept::Kept;
use crate::downstream::Responder;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::upstream::stream::Rest;

/// A request and its response.
pub(super) struct Exchange<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) decision: &'a Decision<'a>,
    pub(super) responder: Responder<'a>,
    pub(super) upload: Cell<Upload>,
    /// The server had all of the request before it answered. One that answers before may leave the rest unread, and take it for
    /// its next request.
    pub(super) was_sent_first: Cell<bool>,
    /// Where the response of a call is in its messages, if trailers may end it early.
    pub(super) messages: Cell<Option<Messages>>,
    /// The form of gRPC-Web that the response is brought into.
    pub(super) bridged: Cell<Option<Form>>,
    /// Whether another server may have the request if the one that has it is ejected.
    pub(super) can_move: Cell<bool>,
    /// What follows the part of the request that is sent first.
    pub(super) rest: Cell<Rest>,
    /// How often it may be sent again.
    pub(super) repeats_left: Cell<u8>,
    /// The next attempt is for another server.
    pub(super) is_elsewhere: Cell<bool>,
    /// A response head has come that is for the client.
    pub(super) has_head: Cell<bool>,
    /// The copy of a request whose body is still coming.
    pub(super) kept: Kept,
}

/// How far the request is on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    Running,
    Done,
    /// The server takes no more of the request.
    Failed,
}

impl Exchange<'_> {
    /// Whether the server has taken all of the request, as far as it is known.
    pub(super) fn is_sent(&self) -> bool {
        self.upload.get() == Upload::Done
    }
}
