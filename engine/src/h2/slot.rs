//! What a stream has beside its state in the protocol machine: bytes that wait on either side, and the task that waits for them.

use std::collections::VecDeque;
use std::task::Waker;

use sluice_proto::Fault;
use sluice_sys::{Buf, Timer};

use super::lines::Lines;
use crate::message::Aborted;
use crate::trailers::BodyTrailers;

/// The state of one stream.
#[derive(Default)]
pub(super) struct Slot {
    /// The stream that it is for; 0 while it is free.
    pub(super) id: u32,
    /// Heads that were received and not taken yet.
    pub(super) heads: VecDeque<Lines>,
    /// The head that was refused.
    pub(super) fault: Option<Fault>,
    /// The server has said that it did not process the stream (REFUSED_STREAM, or beyond the last id of its GOAWAY).
    pub(super) is_unprocessed: bool,
    /// Received data that was not taken yet.
    pub(super) received: Option<Buf>,
    /// Received data for which the connection's window was not opened again.
    pub(super) withheld: u32,
    pub(super) incoming: Incoming,
    /// Data that waits for windows, or for its turn, from `sent` on.
    pub(super) to_send: Option<Buf>,
    pub(super) sent: u32,
    /// It is the last, and these are behind it.
    pub(super) is_last: bool,
    pub(super) trailers: Option<BodyTrailers>,
    /// Runs while its exchange waits, for data or for its data to be sent.
    pub(super) receive_timer: Option<Timer>,
    pub(super) send_timer: Option<SendTimer>,
    /// It is among those that take turns.
    pub(super) has_turn: bool,
    /// Neither side has anything more to say, for this reason.
    pub(super) failed: Option<Aborted>,
    /// The task of its exchange.
    pub(super) waiter: Option<Waker>,
}

/// The end of what is received, if it has come.
#[derive(Default)]
pub(super) enum Incoming {
    #[default]
    Open,
    End(Option<BodyTrailers>),
}

/// How long data may wait to be sent.
pub(super) struct SendTimer {
    pub(super) timer: Timer,
    /// When all of it has to be sent.
    pub(super) end_ms: u64,
    /// What was left when it was last looked at.
    pub(super) unsent: usize,
}

impl Slot {
    /// Data that waits to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        self.to_send.as_ref().map_or(&[], |buf| &buf[self.sent as usize..])
    }

    /// Whether anything waits to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.to_send.is_some() || self.is_last
    }

    /// All data is on its way; the trailers that follow it.
    pub(super) fn data_is_sent(&mut self) -> Option<BodyTrailers> {
        self.to_send = None;
        self.sent = 0;
        self.is_last = false;
        self.trailers.take()
    }

    pub(super) fn wake(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Makes it free, and keeps what memory is worth keeping.
    pub(super) fn clear(&mut self) {
        self.heads.clear();
        let heads = std::mem::take(&mut self.heads);
        *self = Slot { heads, ..Slot::default() };
    }
}
