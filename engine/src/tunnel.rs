//! A tunnel: bytes both ways between two connections that have left HTTP, until both sides have finished or one has failed.
//!
//! Owns both connections, in a task of its own, since tunnels live long and are mostly silent. A silent one holds no buffer, and
//! its task is 104 bytes: each direction is a small machine ([`Way`]) that is polled by hand, where an `async fn` would keep room
//! for its largest step all the time. What a burst has to remember beyond that is kept with its pipe (see `splice`). How a tunnel
//! came about, and what it carries, does not matter here. Started by `serve` when an exchange has ended in one.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_sys::{ReadAhead, Sending, now_ms};

use crate::connection::End;
use crate::connection::link::Link;
use crate::message::{Aborted, Cause, PlainRest, PlainSink, Side};
use crate::min_rate::short;
use crate::shard::Shard;
use crate::splice::Splicing;
use crate::upstream::server::ServerInUse;

/// A piece of this size fills its receive buffer: there is probably more, which splice(2) moves at less cost.
const FULL_BYTES: usize = 16 * 1024;

/// Bytes that are spliced at once; then others get their turn.
const BURST_BYTES: u64 = 512 * 1024;

/// The two connections, and when something last moved between them.
pub(crate) struct Tunnel {
    client: Link,
    server: Link,
    open: Open,
    /// When something last moved, in 32 bits of milliseconds: the longest silence is far shorter.
    last_ms: Cell<u32>,
    failure: Cell<Option<Failure>>,
}

/// How a tunnel ended.
enum Ending {
    /// Both sides had finished sending.
    Finished,
    /// Neither side sent a byte for too long.
    Idle,
    /// One side failed.
    Cut(Failure),
}

/// Which side failed first, and how.
#[derive(Clone, Copy)]
enum Failure {
    /// It took nothing of what waited for it.
    Stalled(Side),
    Broken(Side),
}

impl Tunnel {
    /// A tunnel between these ends. What waits to be sent to either of them goes before all else.
    pub(crate) fn between(shard: &Rc<Shard>, client: End, server: End, of: ServerInUse) -> Tunnel {
        let tunnel = Tunnel {
            client: client.link,
            server: server.link,
            open: Open::new(shard.clone(), Some(of)),
            last_ms: Cell::new(now_ms() as u32),
            failure: Cell::new(None),
        };
        for (side, mut inbox) in [(Side::Downstream, client.inbox), (Side::Upstream, server.inbox)] {
            let (from, to) = tunnel.ends(side);
            // Nothing is received that cannot be passed on: a sender that floods a stuck reader keeps no buffers from others.
            from.transport().set_read_ahead(ReadAhead::Body);
            from.transport().clear_deadline();
            // The worker may have watched the client while it waited for the server.
            from.transport().forget_waiters();
            let bytes = inbox.unread().len();
            if bytes > 0 {
                // If it fails, so does what follows.
                to.send(inbox.take(bytes), u64::from(tunnel.open.stall_ms())).detach();
            }
        }
        tunnel
    }

    /// Carries bytes until the tunnel's end.
    #[expect(clippy::manual_async_fn, reason = "the future of an async fn has room for every argument twice")]
    pub(crate) fn run(self) -> impl Future<Output = ()> {
        async move {
            // The client's connection keeps the time for both.
            self.client.transport().set_deadline(self.open.idle_ms().into());
            match (Carry { tunnel: &self, ways: [const { Way::Steady(Step::Receiving) }; 2] }).await {
                Ending::Finished => {}
                Ending::Idle => self.open.shard.counters.tunnel_idle_timeouts.increment(),
                Ending::Cut(failure) => {
                    self.open.shard.counters.tunnels_aborted.increment();
                    self.cut(failure);
                }
            }
        }
    }

    /// The source and the destination of this side's bytes.
    fn ends(&self, side: Side) -> (&Link, &Link) {
        match side {
            Side::Downstream => (&self.client, &self.server),
            Side::Upstream => (&self.server, &self.client),
        }
    }

    /// Splices the other bytes that one side has sent by now.
    fn poll_burst<'t>(
        &'t self,
        side: Side,
        splicing: &mut Splicing<'t>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Aborted>> {
        let (from, to) = self.ends(side);
        let (Some(source), Some(target)) = (from.plain_to_receive(), to.plain_to_send()) else {
            return Poll::Ready(Ok(()));
        };
        let mut rest = PlainRest { conn: source, bytes: BURST_BYTES, min_rate: None, side };
        let mut sink =
            PlainSink { conn: target, stall_ms: self.open.stall_ms(), min_rate: None, side: side.other() };
        splicing.poll(&mut rest, &mut sink, context).map_ok(|moved| to.count_moved(moved))
    }

    /// What was in hand has been sent.
    fn put_down(&self) {
        self.last_ms.set(now_ms() as u32);
    }

    /// Only the first failure counts: what follows is its consequence.
    fn fail(&self, aborted: &Aborted) {
        let failure =
            if aborted.cause == Cause::Stalled { Failure::Stalled } else { Failure::Broken }(aborted.side);
        self.failure.set(self.failure.get().or(Some(failure)));
    }

    /// Whether nothing has moved for so long. To be asked before the client's receive takes the deadline for its own.
    fn is_idle(&self, is_moving: bool) -> bool {
        if !self.client.transport().is_late() {
            return false;
        }
        let silent_ms = if is_moving { 0 } else { since_ms(self.last_ms.get(), now_ms()) };
        let left_ms = self.open.idle_ms().saturating_sub(silent_ms);
        if left_ms > 0 {
            self.client.transport().set_deadline(left_ms.into());
        }
        left_ms == 0
    }

    /// Closes both connections after one of them has failed. The other end gets a reset, so that it does not take what it
    /// got for complete; but not where that would throw away what is still on its way to it.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
    // "the intermediary MUST attempt to send any outstanding data that came from the closed side to the other side"
    fn cut(self, failure: Failure) {
        let (failed, other) = match failure.side() {
            Side::Downstream => (self.client.into_transport(), self.server.into_transport()),
            Side::Upstream => (self.server.into_transport(), self.client.into_transport()),
        };
        // One that takes nothing needs nothing of what the kernel still holds for it.
        if let Failure::Stalled(_) = failure {
            failed.abort();
        }
        if other.is_acknowledged().unwrap_or(true) {
            other.abort();
        }
    }
}

impl Failure {
    fn side(self) -> Side {
        match self {
            Failure::Stalled(side) | Failure::Broken(side) => side,
        }
    }
}

/// How long ago that was, of which the low 32 bits were kept.
pub(crate) fn since_ms(then_ms: u32, now_ms: u64) -> u32 {
    (now_ms as u32).wrapping_sub(then_ms)
}

/// Carries bytes both ways until both sides have finished, one has failed, or neither has sent a byte for too long.
struct Carry<'t> {
    tunnel: &'t Tunnel,
    /// By the side whose bytes they carry.
    ways: [Way<'t>; 2],
}

impl Future for Carry<'_> {
    type Output = Ending;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ending> {
        let Carry { tunnel, ways } = &mut *self;
        if tunnel.is_idle(ways.iter().any(Way::is_in_hand)) {
            return Poll::Ready(Ending::Idle);
        }
        for side in [Side::Downstream, Side::Upstream] {
            if let Poll::Ready(Err(aborted)) = ways[side as usize].poll(tunnel, side, context) {
                tunnel.fail(&aborted);
            }
        }
        if let Some(failure) = tunnel.failure.get() {
            // Bytes that the failed side had sent before still go out, as far as we hold them.
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            let is_sent = !ways[failure.side() as usize].is_in_hand();
            return if is_sent { Poll::Ready(Ending::Cut(failure)) } else { Poll::Pending };
        }
        if ways.iter().all(Way::is_closed) {
            return Poll::Ready(Ending::Finished);
        }
        // Its deadline is to wake us also when nothing waits for bytes of the client.
        let _ = tunnel.client.transport().poll_late();
        Poll::Pending
    }
}

/// One direction: 16 bytes, since the phase of the splicing tells the two apart.
enum Way<'t> {
    Steady(Step),
    /// Moves what else has come past our memory.
    Bursting(Splicing<'t>),
}

/// One direction without a burst.
enum Step {
    /// Waits for the next bytes of its side. There is nothing in hand.
    Receiving,
    /// Sends what was received.
    Sending { sending: Sending, is_full: bool },
    /// Its side has finished; what was sent before is still with us.
    Flushing,
    /// The other side knows that this one has finished, or this direction has failed.
    Closed,
}

impl<'t> Way<'t> {
    /// Carries the bytes of one side to the other, and then its end.
    fn poll(
        &mut self,
        tunnel: &'t Tunnel,
        side: Side,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Aborted>> {
        while !self.is_closed() {
            *self = match ready!(self.poll_next(tunnel, side, context)) {
                Ok(next) => next,
                Err(aborted) => {
                    *self = Way::Steady(Step::Closed);
                    return Poll::Ready(Err(aborted));
                }
            };
        }
        Poll::Ready(Ok(()))
    }

    /// What it does next, when it has done what it does now.
    fn poll_next(
        &mut self,
        tunnel: &'t Tunnel,
        side: Side,
        context: &mut Context<'_>,
    ) -> Poll<Result<Way<'t>, Aborted>> {
        let (from, to) = tunnel.ends(side);
        let step = match self {
            Way::Steady(Step::Receiving) => match ready!(from.poll_receive(context)) {
                Err(error) => return Poll::Ready(Err(Aborted::io(side, &error))),
                Ok(None) => Step::Flushing,
                Ok(Some(data)) => {
                    // Bytes that are sealed here cannot be spliced.
                    let is_full = data.bytes().len() >= FULL_BYTES
                        && from.plain_to_receive().and(to.plain_to_send()).is_some();
                    Step::Sending { sending: to.send(data, u64::from(tunnel.open.stall_ms())), is_full }
                }
            },
            Way::Steady(Step::Sending { sending, is_full }) => {
                let sent = ready!(Pin::new(sending).poll(context)).result;
                sent.map_err(|error| Aborted::sending(side.other(), &error))?;
                if *is_full && let Some(splicing) = Splicing::begin() {
                    return Poll::Ready(Ok(Way::Bursting(splicing)));
                }
                tunnel.put_down();
                Step::Receiving
            }
            Way::Bursting(splicing) => {
                ready!(tunnel.poll_burst(side, splicing, context))?;
                tunnel.put_down();
                Step::Receiving
            }
            Way::Steady(Step::Flushing) => {
                to.announce_end();
                ready!(to.transport().poll_flushed());
                to.transport().shutdown_write();
                Step::Closed
            }
            Way::Steady(Step::Closed) => Step::Closed,
        };
        Poll::Ready(Ok(Way::Steady(step)))
    }

    /// Something was received and is not sent yet. A side that takes it too slowly is the concern of `timeouts.write_stall`.
    fn is_in_hand(&self) -> bool {
        matches!(self, Way::Bursting(_) | Way::Steady(Step::Sending { .. }))
    }

    fn is_closed(&self) -> bool {
        matches!(self, Way::Steady(Step::Closed))
    }
}

/// Counts an open tunnel, as such and as a use of its server.
pub(crate) struct Open {
    pub(crate) shard: Rc<Shard>,
    /// Unless its connection serves others too.
    server: Option<ServerInUse>,
}

impl Open {
    pub(crate) fn new(shard: Rc<Shard>, server: Option<ServerInUse>) -> Open {
        shard.counters.tunnels_opened.increment();
        if let Some(server) = &server {
            server.opened();
            server.begin_use();
        }
        shard.tunnels.set(shard.tunnels.get() + 1);
        Open { shard, server }
    }

    /// Longest time in which a side may take nothing of what waits for it: that of the configuration in force, so that a tunnel has
    /// no room for it.
    pub(crate) fn stall_ms(&self) -> u32 {
        short(self.shard.snapshot().times.write_stall)
    }

    /// Longest time in which neither side sends a byte.
    pub(crate) fn idle_ms(&self) -> u32 {
        short(self.shard.snapshot().times.tunnel_idle)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.end_use();
            server.closed();
        }
        self.shard.tunnels.set(self.shard.tunnels.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be as many tunnels as connections, most of them silent: with two entries of the ring's table, the executor's
    /// place of the task and what the allocator adds, 104 bytes make 241 of a silent one.
    #[test]
    fn a_tunnel_is_small() {
        fn size_of_run<F>(_: impl FnOnce(Tunnel) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_run(Tunnel::run);
        assert!(bytes <= 104, "{bytes}");
    }

    #[test]
    fn silence_is_measured_across_the_wrap_of_its_time() {
        for then_ms in [0, 86_400_000, u64::from(u32::MAX) - 5, 7 << 40] {
            for silent_ms in [0, 3, 86_400_000] {
                assert_eq!(u64::from(since_ms(then_ms as u32, then_ms + silent_ms)), silent_ms);
            }
        }
    }
}
