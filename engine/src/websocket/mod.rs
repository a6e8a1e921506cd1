//! A WebSocket whose frames are read: bytes both ways as in other tunnels, and frames of ours between those of the peers.
//!
//! For routes that ask for it, whatever carries the two ends. A direction takes the next bytes when the last ones have gone on. Heads of
//! frames are read as they pass and held back until they are judged, so what a peer has got ends within a payload or between
//! two frames; payload is passed as it came. At a limit, a broken frame, a peer that does not answer and in a drain both peers get a
//! Close frame, and have a bounded time for theirs and for the end of their connection.

mod flow;
mod rules;

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_proto::h2::ErrorCode;
use sluice_proto::ws::{CloseCode, write_close, write_ping};
use sluice_sys::{Buf, Timer, now_ms};

pub(crate) use self::rules::{Agreed, FrameRules};

use self::flow::{Flow, Input, Refused, Way};
use self::rules::Rate;
use crate::connection::inbox::Inbox;
use crate::connection::link::Data;
use crate::exchange::ended::TunnelUpstream;
use crate::message::{Aborted, Cause, Side};
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
                flow.is_heard(now_ms() as u32);
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
        let passed = match &mut flow.way {
            Way::Idle | Way::Flushing | Way::Closed => return Poll::Ready(Ok(())),
            Way::Sending { sending, bytes } => {
                let sent = ready!(Pin::new(sending).poll(context)).result;
                let bytes = *bytes;
                flow.way = Way::Idle;
                sent.map_err(|error| Aborted::sending(side.other(), &error))?;
                bytes
            }
            Way::Pushing { bytes, left, since_ms } => {
                let Port::Stream(stream) = &self.ports[side.other() as usize] else {
                    unreachable!("data is pushed to streams")
                };
                if let Some(aborted) = stream.failed() {
                    flow.way = Way::Idle;
                    return Poll::Ready(Err(aborted));
                }
                if let Some(unsent) = stream.unsent_bytes() {
                    if unsent != *left {
                        (*left, *since_ms) = (unsent, now_ms() as u32);
                    }
                    stream.wait(context);
                    return Poll::Pending;
                }
                let bytes = *bytes;
                flow.way = Way::Idle;
                bytes
            }
        };
        // A sender that had to wait was not silent.
        let now_ms = now_ms() as u32;
        if passed > 0 {
            flow.is_heard(now_ms);
            self.last_ms = now_ms;
            self.ports[side as usize].have_passed(passed);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a frame of ours to the other side, if one is due and its frame has come to its end; says whether it did.
    fn send_ours(&mut self, side: Side) -> bool {
        let flow = &mut self.flows[side as usize];
        let is_due = flow.close_due.is_some() || flow.is_ping_due;
        if !is_due || !matches!(flow.way, Way::Idle) || flow.is_closed() || !flow.is_between_frames() {
            return false;
        }
        let key = (side == Side::Downstream).then(masking_key);
        let mut frame = Buf::small();
        if let Some(code) = flow.close_due.take() {
            write_close(&mut frame, code, key);
            (flow.has_closed, flow.is_ping_due) = (true, false);
        } else if std::mem::take(&mut flow.is_ping_due) {
            write_ping(&mut frame, key);
            let asked = &mut self.flows[side.other() as usize];
            (asked.is_asked, asked.since_ms) = (true, now_ms() as u32);
            asked.reader.expect_pong();
            self.wake_within(self.rules.ping_timeout_ms);
        } else {
            return false;
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
        let stall_ms = self.stall_ms();
        let way = match &self.ports[side.other() as usize] {
            Port::Link(link) => Way::Sending { sending: link.send(data, u64::from(stall_ms)), bytes },
            Port::Stream(stream) => {
                stream.send(data.bytes(), false);
                let left = stream.unsent_bytes().unwrap_or(0);
                Way::Pushing { bytes, left, since_ms: now_ms() as u32 }
            }
        };
        if matches!(way, Way::Pushing { left, .. } if left > 0) {
            self.wake_within(stall_ms);
        }
        self.flows[side as usize].way = way;
    }

    /// A frame of this side does not go on: both peers get a Close.
    #[cold]
    fn refuse(&mut self, side: Side, refused: Refused) {
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
    fn close(&mut self, codes: [CloseCode; 2]) {
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
    fn watch_streams(&mut self, context: &Context<'_>) {
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
    fn fail(&mut self, aborted: Aborted) {
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

    /// Looks whether something is late; says whether there may be something to do now.
    fn poll_time(&mut self) -> Poll<Result<(), Ending>> {
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
                (if self.is_closed() { close_ms.min(self.idle_ms()) } else { self.idle_ms() }, silent_ms)
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
        let Way::Pushing { since_ms: then_ms, .. } = self.flows[side as usize].way else { return u32::MAX };
        let left_ms = self.stall_ms().saturating_sub(now_ms.wrapping_sub(then_ms));
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
            flow.is_heard(now_ms);
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

    /// Whether a Close frame has gone through, of either peer or of ours.
    fn is_closed(&self) -> bool {
        self.flows.iter().any(Flow::is_closed)
    }

    /// Has the time looked at no later than this.
    fn wake_within(&mut self, ms: u32) {
        let now_ms = now_ms() as u32;
        let left_ms = self.timer_ms.wrapping_sub(now_ms) as i32;
        let ms = ms.max(1);
        if left_ms > 0 && left_ms as u32 > ms {
            self.timer.reset(ms.into());
            self.timer_ms = now_ms.wrapping_add(ms);
        }
    }

    /// Longest time in which a side may take nothing of what waits for it, by the configuration in force.
    fn stall_ms(&self) -> u32 {
        short(self.open.shard.snapshot().times.write_stall)
    }

    /// Longest time in which neither side sends a byte.
    fn idle_ms(&self) -> u32 {
        short(self.open.shard.snapshot().times.tunnel_idle)
    }

    fn end(self, ending: &Ending) {
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
