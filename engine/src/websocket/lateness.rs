//! What may be late in a WebSocket whose frames are read: bytes of either side, what a stream does not take, an answer to a Ping, and
//! the end of a closing handshake. One timer stands for all.

use std::task::{Poll, ready};

use sluice_proto::ws::CloseCode;
use sluice_sys::now_ms;

use super::flow::{Flow, Input, Way};
use super::{Ending, Phase, SIDES, WebSocket};
use crate::message::{Aborted, Cause, Side};

impl WebSocket {
    /// Looks whether something is late; says whether there may be something to do now.
    pub(super) fn poll_time(&mut self) -> Poll<Result<(), Ending>> {
        ready!(self.timer.poll_expired());
        let now_ms = now_ms() as u32;
        let left_ms = self.look(now_ms)?.max(1);
        self.timer.reset(left_ms.into());
        self.timer_ms = now_ms.wrapping_add(left_ms);
        Poll::Ready(Ok(()))
    }

    /// Does what is due at this time; says when to look again.
    fn look(&mut self, now_ms: u32) -> Result<u32, Ending> {
        let mut left_ms = self.look_at_silence(now_ms)?;
        for side in SIDES {
            left_ms = left_ms.min(self.look_at_stall(side, now_ms));
            left_ms = left_ms.min(self.look_at_peer(side, now_ms));
        }
        Ok(left_ms)
    }

    /// Whether both sides are silent for too long, or a closing handshake takes too long.
    fn look_at_silence(&mut self, now_ms: u32) -> Result<u32, Ending> {
        let close_ms = self.rules.close_timeout_ms;
        let (limit_ms, silent_ms) = match self.phase {
            Phase::Closing { since_ms: then_ms } => (close_ms, now_ms.wrapping_sub(then_ms)),
            Phase::Open | Phase::Failed(_) => {
                let is_moving = self.flows.iter().any(Flow::is_in_hand);
                let silent_ms = if is_moving { 0 } else { now_ms.wrapping_sub(self.last_ms) };
                (
                    if self.is_closed() { close_ms.min(self.open.idle_ms()) } else { self.open.idle_ms() },
                    silent_ms,
                )
            }
        };
        match limit_ms.saturating_sub(silent_ms) {
            0 if self.phase == Phase::Open && !self.is_closed() => {
                self.open.shard.counters.tunnel_idle_timeouts.increment();
                self.close([CloseCode::GoingAway; 2]);
                Ok(close_ms)
            }
            0 => Err(Ending::Unclosed),
            left_ms => Ok(left_ms),
        }
    }

    /// Whether one side, a stream, takes nothing of what the other has sent.
    fn look_at_stall(&mut self, side: Side, now_ms: u32) -> u32 {
        let Way::Sending(outgoing) = &self.flows[side as usize].way else { return u32::MAX };
        let Some(left_ms) = outgoing.patience_ms(now_ms, self.open.stall_ms()) else { return u32::MAX };
        if left_ms == 0 {
            self.flows[side as usize].way = Way::Closed;
            self.fail(Aborted::by(side.other(), Cause::Stalled));
        }
        left_ms
    }

    /// Asks a peer that is silent for long, and closes the tunnel of one that does not answer.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.2
    fn look_at_peer(&mut self, side: Side, now_ms: u32) -> u32 {
        let rules = self.rules.clone();
        let flow = &mut self.flows[side as usize];
        if rules.ping_idle_ms == 0 || self.phase != Phase::Open || flow.is_discarded() {
            return u32::MAX;
        }
        if flow.is_in_hand() {
            // It is not read while what it has sent waits for the other side.
            flow.heard(now_ms);
        }
        let limit_ms = if flow.is_asked { rules.ping_timeout_ms } else { rules.ping_idle_ms };
        let left_ms = limit_ms.saturating_sub(now_ms.wrapping_sub(flow.since_ms));
        match (left_ms, flow.is_asked) {
            (0, false) => {
                let to_it = &mut self.flows[side.other() as usize];
                // No Ping follows a Close. One that is due goes out at the end of the frame under way.
                to_it.is_ping_due = !to_it.is_closed();
                rules.ping_idle_ms
            }
            (0, true) => {
                self.open.shard.counters.websocket_ping_timeouts.increment();
                self.close([CloseCode::GoingAway; 2]);
                (self.flows[side as usize].input, self.dead) = (Input::Ended, Some(side));
                rules.close_timeout_ms
            }
            (left_ms, _) => left_ms,
        }
    }

    /// Has the time looked at no later than this.
    pub(super) fn wake_within(&mut self, ms: u32) {
        let now_ms = now_ms() as u32;
        let left_ms = self.timer_ms.wrapping_sub(now_ms) as i32;
        let ms = ms.max(1);
        if left_ms > 0 && left_ms as u32 > ms {
            self.timer.reset(ms.into());
            self.timer_ms = now_ms.wrapping_add(ms);
        }
    }
}
