//! How a WebSocket whose frames are read ends: by a Close of ours to both peers, by a side that has failed, and what each end gets.

use std::task::Context;

use sluice_proto::h2::ErrorCode;
use sluice_proto::ws::CloseCode;
use sluice_sys::now_ms;

use super::flow::{Flow, Input, Refused, Way};
use super::{Ending, Failure, FailureCause, Phase, SIDES, WebSocket};
use crate::connection::inbox::Inbox;
use crate::message::{Aborted, Cause, Side};
use crate::port::Port;

impl WebSocket {
    /// A frame of this side does not go on: both peers get a Close.
    #[cold]
    pub(super) fn refuse(&mut self, side: Side, refused: Refused) {
        let counters = &self.open.shard.counters;
        let (counter, code, input) = match refused {
            Refused::Broken(fault) => {
                crate::log::debug(format_args!("WebSocket: {}", fault.reason()));
                (&counters.websocket_frames_broken, CloseCode::ProtocolError, Input::Lost)
            }
            Refused::TooLarge => {
                (&counters.websocket_messages_too_large, CloseCode::MessageTooBig, Input::Refused)
            }
            Refused::TooMany => {
                (&counters.websocket_messages_too_many, CloseCode::PolicyViolation, Input::Refused)
            }
        };
        // Those of a tunnel that is closed already have no consequence.
        if self.phase == Phase::Open {
            counter.increment();
        }
        self.flows[side as usize].input = input;
        let mut codes = [CloseCode::GoingAway; 2];
        codes[side as usize] = code;
        self.close(codes);
    }

    /// Has both peers get a Close with these codes, by side, each at the end of its frame.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.2
    pub(super) fn close(&mut self, codes: [CloseCode; 2]) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Closing { since_ms: now_ms() as u32 };
        self.wake_within(self.rules.close_timeout_ms);
        for side in SIDES {
            let flow = &mut self.flows[side.other() as usize];
            if !flow.is_closed() {
                flow.close_due = Some(codes[side as usize]);
            }
        }
    }

    /// Takes note of streams that have failed where no direction waits for their bytes any more.
    pub(super) fn watch_streams(&mut self, context: &Context<'_>) {
        for side in SIDES {
            let (Port::Stream(stream), Input::Ended) =
                (&self.ports[side as usize], self.flows[side as usize].input)
            else {
                continue;
            };
            if matches!(self.flows[side.other() as usize].way, Way::Closed) {
                continue;
            }
            match stream.failed() {
                Some(aborted) => self.fail(aborted),
                None => stream.wait(context),
            }
        }
    }

    /// One side has failed. Only the first failure counts: what follows is its consequence. In a closing handshake, or behind one,
    /// it is an end like others.
    pub(super) fn fail(&mut self, aborted: Aborted) {
        let side = aborted.side;
        if self.phase == Phase::Open && self.flows.iter().all(Flow::is_closed) {
            self.phase = Phase::Closing { since_ms: now_ms() as u32 };
        }
        match self.phase {
            Phase::Failed(_) => {}
            Phase::Open => {
                let cause = if aborted.cause == Cause::Stalled {
                    FailureCause::Stalled
                } else {
                    FailureCause::Broken
                };
                self.phase = Phase::Failed(Failure { side, cause });
            }
            Phase::Closing { .. } => {
                let from_it = &mut self.flows[side as usize];
                (from_it.input, from_it.inbox) = (Input::Ended, Inbox::default());
                self.flows[side.other() as usize].way = Way::Closed;
            }
        }
    }

    pub(super) fn end(self, ending: &Ending) {
        let counters = &self.open.shard.counters;
        let code = match *ending {
            Ending::Finished => ErrorCode::NO_ERROR,
            Ending::Unclosed => {
                counters.websocket_close_timeouts.increment();
                ErrorCode::CANCEL
            }
            //= https://www.rfc-editor.org/rfc/rfc8441#section-5
            // "RST exceptions are represented with the RST_STREAM frame ... with the CANCEL ... error code."
            Ending::Cut(_) => {
                counters.tunnels_aborted.increment();
                ErrorCode::CANCEL
            }
        };
        for (port, side) in self.ports.into_iter().zip(SIDES) {
            match port {
                Port::Stream(stream) => stream.code.set(code),
                Port::Link(link) => {
                    let conn = link.into_transport();
                    let has_all = || conn.is_acknowledged().unwrap_or(true);
                    let is_reset = match *ending {
                        Ending::Finished => self.dead == Some(side) && !has_all(),
                        // One that takes nothing needs nothing of what the kernel still holds for it.
                        Ending::Unclosed => !has_all(),
                        Ending::Cut(failure) if failure.side == side => {
                            failure.cause == FailureCause::Stalled
                        }
                        // So that it does not take what it got for complete; but not where that would throw away what is
                        // still on its way to it.
                        Ending::Cut(_) => has_all(),
                    };
                    if is_reset {
                        conn.abort();
                    }
                }
            }
        }
    }
}
