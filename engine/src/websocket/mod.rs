//! A WebSocket whose frames are read: bytes both ways as in other tunnels, and frames of ours between those of the peers.
//!
//! For routes that ask for it, whatever carries the two ends. A direction takes the next bytes when the last ones have gone on. Heads of
//! frames are read as they pass and held back until they are judged, so what a peer has got ends within a payload or between
//! two frames; payload is passed as it came. At a limit, a broken frame, a peer that does not answer and in a drain both peers get a
//! Close frame, and have a bounded time for theirs and for the end of their connection.

mod closing;
mod flow;
mod lateness;
mod rules;

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_proto::ws::{CloseCode, write_close, write_ping};
use sluice_sys::{Buf, Timer, now_ms};

pub(crate) use self::rules::{Agreed, FrameRules};

use self::flow::{Flow, Input, Refused, Way};
use self::rules::Rate;
use crate::connection::link::Data;
use crate::exchange::ended::TunnelUpstream;
use crate::message::{Aborted, Side};
use crate::min_rate::short;
use crate::port::{Port, TunnelEnd};
use crate::shard::Shard;
use crate::tunnel::Open;

const SIDES: [Side; 2] = [Side::Downstream, Side::Upstream];

/// The two ends, and how far each direction has come.
pub(crate) struct WebSocket {
    /// By side.
    ports: [Port; 2],
    /// By the side whose frames they carry.
    flows: [Flow; 2],
    open: Open,
    rules: Rc<FrameRules>,
    /// Of the client's messages.
    rate: Rate,
    /// Goes off when something may be late; and when that is, in 32 bits of milliseconds as all times here.
    timer: Timer,
    timer_ms: u32,
    /// When bytes last went on.
    last_ms: u32,
    phase: Phase,
    /// The side that did not answer.
    dead: Option<Side>,
    /// By which it is woken when a drain begins.
    sleeper: Sleeper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Frames are carried.
    Open,
    /// Both peers get a Close of ours, since this time.
    Closing { since_ms: u32 },
    /// One side has failed, and this is what it had sent before.
    Failed(Failure),
}

/// Which side failed first, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    side: Side,
    cause: FailureCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureCause {
    /// It took nothing of what waited for it.
    Stalled,
    /// It has reset its stream or its connection, or that has failed.
    Broken,
}

/// How it ended.
enum Ending {
    /// Both sides had finished.
    Finished,
    /// A closing handshake took too long.
    Unclosed,
    /// One side failed.
    Cut(Failure),
}

/// A place among the tasks that a drain wakes.
struct Sleeper {
    shard: Rc<Shard>,
    number: u32,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.shard.drivers.leave(self.number);
    }
}

impl WebSocket {
    /// The tunnel between these ends, whose frames are read by these rules.
    pub(crate) fn new(
        shard: &Rc<Shard>,
        client: TunnelEnd,
        upstream: TunnelUpstream,
        agreed: Agreed,
    ) -> WebSocket {
        let TunnelUpstream { end, server, .. } = upstream;
        // The connection of a stream is counted by itself.
        let counted = Some(server).filter(|_| matches!(end, TunnelEnd::Link(_)));
        let now_ms = now_ms() as u32;
        let (client, from_client) = Port::of(client);
        let (server, from_server) = Port::of(end);
        let idle_ms = short(shard.snapshot().times.tunnel_idle);
        let ping_ms = agreed.rules.ping_idle_ms;
        let first_ms = if ping_ms > 0 { idle_ms.min(ping_ms) } else { idle_ms };
        let flow = |side, inbox| Flow::new(side, inbox, agreed.has_deflate, now_ms);
        WebSocket {
            ports: [client, server],
            flows: [flow(Side::Downstream, from_client), flow(Side::Upstream, from_server)],
            open: Open::new(shard.clone(), counted),
            rules: agreed.rules,
            rate: Rate::default(),
            timer: Timer::new(first_ms.into()),
            timer_ms: now_ms.wrapping_add(first_ms),
            last_ms: now_ms,
            phase: Phase::Open,
            dead: None,
            sleeper: Sleeper { shard: shard.clone(), number: shard.drivers.enter() },
        }
    }

    /// Carries frames until the tunnel's end.
    #[expect(clippy::manual_async_fn, reason = "the future of an async fn has room for every argument twice")]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> {
        async move {
            let ending = poll_fn(|context| self.poll_carry(context)).await;
            self.end(&ending);
        }
    }

    fn poll_carry(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        self.sleeper.shard.drivers.sleep(self.sleeper.number, context);
        if self.phase == Phase::Open && self.open.shard.is_draining() {
            self.open.shard.counters.websocket_drained.increment();
            self.close([CloseCode::GoingAway; 2]);
        }
        // What one direction or the time finds may concern the other. It goes one way only, so this ends.
        loop {
            let before = self.progress();
            for side in SIDES {
                if let Poll::Ready(Err(aborted)) = self.poll_flow(side, context) {
                    self.fail(aborted);
                }
            }
            self.watch_streams(context);
            match self.poll_time() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ending)) => return Poll::Ready(ending),
                Poll::Pending if self.progress() == before => break,
                Poll::Pending => {}
            }
        }
        if let Phase::Failed(failure) = self.phase {
            // Bytes that the failed side had sent before still go out, as far as we hold them.
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            let is_sent = !self.flows[failure.side as usize].is_in_hand();
            return if is_sent { Poll::Ready(Ending::Cut(failure)) } else { Poll::Pending };
        }
        let is_over = |flow: &Flow| matches!(flow.way, Way::Closed) && flow.input == Input::Ended;
        if self.flows.iter().all(is_over) { Poll::Ready(Ending::Finished) } else { Poll::Pending }
    }

    /// How far the end has come.
    fn progress(&self) -> (Phase, [(Input, [bool; 3]); 2]) {
        let of = |flow: &Flow| {
            (flow.input, [flow.is_closed(), flow.is_answered(), matches!(flow.way, Way::Closed)])
        };
        (self.phase, [of(&self.flows[0]), of(&self.flows[1])])
    }

    /// Carries the frames of one side to the other, with ours between them, and then their end.
    fn poll_flow(&mut self, side: Side, context: &mut Context<'_>) -> Poll<Result<(), Aborted>> {
        loop {
            match self.phase {
                Phase::Failed(failure) if failure.side != side => return Poll::Pending,
                Phase::Failed(_) => return self.poll_sent(side, context),
                Phase::Open | Phase::Closing { .. } => ready!(self.poll_sent(side, context))?,
            }
            if self.send_ours(side) {
                continue;
            }
            ready!(self.poll_finished(side));
            let flow = &mut self.flows[side as usize];
            if flow.input == Input::Ended {
                return Poll::Ready(Ok(()));
            }
            if flow.inbox.is_empty() {
                let received = ready!(self.ports[side as usize].poll_receive(side, context))?;
                flow.heard(now_ms() as u32);
                match received {
                    Some(data) => flow.inbox.put(data),
                    None => {
                        flow.input = Input::Ended;
                        continue;
                    }
                }
            }
            self.take_in(side);
        }
    }

    /// Waits until what is on its way to the other side has gone on.
    fn poll_sent(&mut self, side: Side, context: &mut Context<'_>) -> Poll<Result<(), Aborted>> {
        let flow = &mut self.flows[side as usize];
        let Way::Sending(outgoing) = &mut flow.way else { return Poll::Ready(Ok(())) };
        let sent = ready!(self.ports[side.other() as usize].poll_sent(side.other(), outgoing, context));
        flow.way = Way::Idle;
        let passed = sent?;
        // A sender that had to wait was not silent.
        let now_ms = now_ms() as u32;
        if passed > 0 {
            flow.heard(now_ms);
            self.last_ms = now_ms;
            self.ports[side as usize].have_passed(passed);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a frame of ours to the other side, if one is due and its frame has come to its end; says whether it did.
    fn send_ours(&mut self, side: Side) -> bool {
        let flow = &mut self.flows[side as usize];
        let may_send = matches!(flow.way, Way::Idle) && !flow.is_closed() && flow.is_between_frames();
        if !flow.is_due() || !may_send {
            return false;
        }
        let key = (side == Side::Downstream).then(masking_key);
        let mut frame = Buf::small();
        if let Some(code) = flow.close_due.take() {
            write_close(&mut frame, code, key);
            (flow.has_closed, flow.is_ping_due) = (true, false);
        } else {
            flow.is_ping_due = false;
            write_ping(&mut frame, key);
            let asked = &mut self.flows[side.other() as usize];
            (asked.is_asked, asked.since_ms) = (true, now_ms() as u32);
            asked.reader.expect_pong();
            self.wake_within(self.rules.ping_timeout_ms);
        }
        self.send(side, frame.into(), 0);
        true
    }

    /// Passes on the end where nothing more will go to the other side; pending while that is under way.
    fn poll_finished(&mut self, side: Side) -> Poll<()> {
        let [flow, back] = [&self.flows[side as usize], &self.flows[side.other() as usize]];
        let has_ended = flow.input == Input::Ended;
        let is_last = match self.phase {
            Phase::Open | Phase::Failed(_) => has_ended,
            //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.1
            Phase::Closing { .. } => match flow.is_closed() {
                true => back.is_answered(),
                // A frame that its side did not finish leaves no place for a Close.
                false => has_ended && !flow.is_between_frames(),
            },
        };
        let flow = &mut self.flows[side as usize];
        if matches!(flow.way, Way::Idle) && is_last {
            flow.way = Way::Flushing;
        }
        if matches!(flow.way, Way::Flushing) {
            ready!(self.ports[side.other() as usize].poll_finish());
            flow.way = Way::Closed;
        }
        Poll::Ready(())
    }

    /// Reads what has come of one side, and begins to pass it on.
    fn take_in(&mut self, side: Side) {
        let flow = &mut self.flows[side as usize];
        if flow.is_discarded() {
            let bytes = flow.discard() as u32;
            return self.ports[side as usize].have_passed(bytes);
        }
        let (rules, rate, now_ms) = (&self.rules, &mut self.rate, now_ms());
        let scan = flow.scan(|frame| {
            if frame.message_bytes > rules.message_bytes_max {
                Some(Refused::TooLarge)
            } else if side == Side::Downstream && !rate.allows(frame, rules, now_ms) {
                Some(Refused::TooMany)
            } else {
                None
            }
        });
        let data = (scan.pass > 0).then(|| flow.inbox.take(scan.pass));
        flow.inbox.consume(scan.skip);
        let is_closed = flow.reader.is_closed();
        if scan.skip > 0 {
            self.ports[side as usize].have_passed(scan.skip as u32);
        }
        if let Some(prefix) = scan.prefix {
            self.send(side, prefix.into(), 0);
        }
        if let Some(data) = data {
            let bytes = data.bytes().len() as u32;
            self.send(side, data, bytes);
        }
        if let Some(refused) = scan.refused {
            self.refuse(side, refused);
        } else if is_closed {
            self.wake_within(self.rules.close_timeout_ms);
        }
    }

    /// Begins to send to the other side; behind what is on its way to it, if there is something. So many bytes of this side have
    /// gone on when it has ended.
    fn send(&mut self, side: Side, data: Data, bytes: u32) {
        let stall_ms = self.open.stall_ms();
        let outgoing = self.ports[side.other() as usize].send(data, bytes, stall_ms);
        if outgoing.has_to_wait() {
            self.wake_within(stall_ms);
        }
        self.flows[side as usize].way = Way::Sending(outgoing);
    }

    /// Whether a Close frame has gone through, of either peer or of ours.
    fn is_closed(&self) -> bool {
        self.flows.iter().any(Flow::is_closed)
    }
}

/// A key for a frame to a server, which cannot be known before.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.3
fn masking_key() -> [u8; 4] {
    // The standard library seeds its hashers from the system's random numbers, and no two in the same way.
    let bytes = RandomState::new().build_hasher().finish().to_ne_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both of its ends, both of its readers, and what is on its way.
    #[test]
    fn a_tunnel_whose_frames_are_read_is_small() {
        fn size_of_run<F>(_: impl FnOnce(WebSocket) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_run(WebSocket::run);
        assert!(bytes <= 336, "{bytes}");
    }

    #[test]
    fn masking_keys_differ() {
        let keys: std::collections::HashSet<_> = (0..1_000).map(|_| masking_key()).collect();
        assert!(keys.len() > 990, "{}", keys.len());
    }
}
