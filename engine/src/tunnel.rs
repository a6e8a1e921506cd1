//! A tunnel: bytes both ways between two connections that have left HTTP, until both sides have finished or one has failed.
//!
//! Owns both connections, in a task of its own that is a fraction of a worker's, since tunnels live long and are mostly silent:
//! a silent one holds no buffer. How it came about, and what it carries, is nobody's business here. Started by `shard` when an
//! exchange has ended in one.
#![expect(clippy::manual_async_fn, reason = "the future of an async fn has room for every argument twice")]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_sys::{ReadAhead, now_ms};

use crate::connection::End;
use crate::connection::link::Link;
use crate::message::{Aborted, Cause, PlainRest, PlainSink, Side};
use crate::min_rate::short;
use crate::shard::Shard;
use crate::snapshot::Times;
use crate::splice;
use crate::upstream::group::Server;

/// A piece of this size fills its receive buffer: there is probably more, which splice(2) moves at less cost.
const FULL_BYTES: usize = 16 * 1024;

/// Bytes that are spliced at once; then others get their turn.
const BURST_BYTES: u64 = 512 * 1024;

/// The two connections, and when something last moved between them.
pub(crate) struct Tunnel {
    client: Link,
    server: Link,
    /// Whose connection the server's is.
    of: Rc<Server>,
    last_ms: Cell<u64>,
    /// By the side it came from: something was received and is not sent yet. Who takes it too slowly is the concern of
    /// `timeouts.write_stall`.
    in_hand: [Cell<bool>; 2],
    /// Longest time in which a side may take nothing of what waits for it.
    stall_ms: u64,
    /// Longest time in which neither side says anything.
    idle_ms: u64,
}

/// How a tunnel ended.
enum Ending {
    /// Both sides had said all they wanted.
    Finished,
    /// Nobody said anything for too long.
    Idle,
    /// One side failed.
    Cut(Aborted),
}

impl Tunnel {
    /// A tunnel between these ends. What waits to be sent to either of them goes before all else.
    pub(crate) fn between(client: End, server: End, of: Rc<Server>, times: &Times) -> Tunnel {
        let stall_ms = times.write_stall;
        let tunnel = Tunnel {
            client: client.link,
            server: server.link,
            of,
            last_ms: Cell::new(now_ms()),
            in_hand: [Cell::new(false), Cell::new(false)],
            stall_ms,
            idle_ms: times.tunnel_idle,
        };
        for (side, mut said) in [(Side::Downstream, client.inbox), (Side::Upstream, server.inbox)] {
            let (from, to) = tunnel.ends(side);
            // Nothing is received that cannot be passed on: a sender that floods a stuck reader keeps no buffers from others.
            from.transport().set_read_ahead(ReadAhead::Body);
            from.transport().clear_deadline();
            let bytes = said.unread().len();
            if bytes > 0 {
                // If it fails, so does what follows.
                to.send(said.take(bytes), stall_ms).detach();
            }
        }
        tunnel
    }

    /// Carries bytes until the tunnel's end.
    pub(crate) fn run(self, shard: Rc<Shard>) -> impl Future<Output = ()> {
        async move {
            let _open = Open::new(&shard, self.of.clone());
            match self.carry(self.idle_ms).await {
                Ending::Finished => {}
                Ending::Idle => shard.counters.tunnel_idle_timeouts.increment(),
                Ending::Cut(aborted) => {
                    shard.counters.tunnels_aborted.increment();
                    self.cut(aborted);
                }
            }
        }
    }

    /// From whom and to whom goes what this side says.
    fn ends(&self, side: Side) -> (&Link, &Link) {
        match side {
            Side::Downstream => (&self.client, &self.server),
            Side::Upstream => (&self.server, &self.client),
        }
    }

    /// Carries bytes both ways until both sides have finished, one has failed, or none has said anything for `idle_ms`.
    fn carry(&self, idle_ms: u64) -> impl Future<Output = Ending> {
        async move {
            let mut to_server = Way::Open(pin!(self.one_way(Side::Downstream)));
            let mut to_client = Way::Open(pin!(self.one_way(Side::Upstream)));
            let mut failure = None;
            // The client's connection keeps the time for both.
            self.client.transport().set_deadline(idle_ms);
            poll_fn(|context| {
                if self.is_idle(idle_ms) {
                    return Poll::Ready(Ending::Idle);
                }
                let failed = [to_server.poll(context), to_client.poll(context)];
                failure = failure.or(failed[0]).or(failed[1]);
                if let Some(aborted) = failure {
                    // What the failed side had said before is still sent, as far as it is in our hands.
                    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
                    let is_sent = !self.in_hand[aborted.side as usize].get();
                    return if is_sent { Poll::Ready(Ending::Cut(aborted)) } else { Poll::Pending };
                }
                if matches!((&to_server, &to_client), (Way::Closed, Way::Closed)) {
                    return Poll::Ready(Ending::Finished);
                }
                // Its deadline is to wake us also when nobody waits for bytes of the client.
                let _ = self.client.transport().poll_late();
                Poll::Pending
            })
            .await
        }
    }

    /// Carries what one side says to the other, and then that it has finished.
    fn one_way(&self, side: Side) -> impl Future<Output = Result<(), Aborted>> {
        async move {
            let mut is_full;
            let end = loop {
                match self.ends(side).0.receive().await {
                    Err(error) => break Err(Aborted::io(side, &error)),
                    Ok(None) => break Ok(()),
                    Ok(Some(lease)) => {
                        self.pick_up(side);
                        is_full = lease.len() >= FULL_BYTES;
                        let sending = self.ends(side).1.send(lease, self.stall_ms);
                        if let Err(error) = sending.await.result {
                            break Err(Aborted::sending(side.other(), &error));
                        }
                    }
                }
                if is_full && let Err(aborted) = self.burst(side).await {
                    break Err(aborted);
                }
                self.put_down(side);
            };
            self.put_down(side);
            end?;
            let to = self.ends(side).1.transport();
            to.flushed().await;
            to.shutdown_write();
            Ok(())
        }
    }

    /// Moves what else one side has said by now past our memory.
    fn burst(&self, side: Side) -> impl Future<Output = Result<(), Aborted>> {
        async move {
            let (Some(from), Some(to)) = (self.ends(side).0.plain(), self.ends(side).1.plain()) else {
                return Ok(());
            };
            let mut rest = PlainRest { conn: from, bytes: BURST_BYTES, min_rate: None, side };
            let mut sink =
                PlainSink { conn: to, stall_ms: short(self.stall_ms), min_rate: None, side: side.other() };
            splice::run(&mut rest, &mut sink).await.map(drop)
        }
    }

    fn pick_up(&self, side: Side) {
        self.in_hand[side as usize].set(true);
    }

    fn put_down(&self, side: Side) {
        if self.in_hand[side as usize].replace(false) {
            self.last_ms.set(now_ms());
        }
    }

    /// Whether nothing has moved for so long. To be asked before the client's receive takes the deadline for its own.
    fn is_idle(&self, idle_ms: u64) -> bool {
        if !self.client.transport().is_late() {
            return false;
        }
        let is_moving = self.in_hand.iter().any(Cell::get);
        let since_ms = if is_moving { now_ms() } else { self.last_ms.get() };
        let left_ms = (since_ms + idle_ms).saturating_sub(now_ms());
        if left_ms > 0 {
            self.client.transport().set_deadline(left_ms);
        }
        left_ms == 0
    }

    /// Closes both connections after one of them has failed. The other end is told by a reset, so that it does not take what it
    /// got for complete; but not where that would throw away what is still on its way to it.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
    // "the intermediary MUST attempt to send any outstanding data that came from the closed side to the other side"
    fn cut(self, aborted: Aborted) {
        let (failed, other) = match aborted.side {
            Side::Downstream => (self.client.into_transport(), self.server.into_transport()),
            Side::Upstream => (self.server.into_transport(), self.client.into_transport()),
        };
        // One that takes nothing needs nothing of what the kernel still holds for it.
        if aborted.cause == Cause::Stalled {
            failed.abort();
        }
        if other.is_acknowledged().unwrap_or(true) {
            other.abort();
        }
    }
}

/// One direction.
enum Way<'f, F> {
    Open(Pin<&'f mut F>),
    Closed,
}

impl<F: Future<Output = Result<(), Aborted>>> Way<'_, F> {
    /// Goes on; says if it has failed.
    fn poll(&mut self, context: &mut Context<'_>) -> Option<Aborted> {
        let Way::Open(way) = self else { return None };
        let Poll::Ready(result) = way.as_mut().poll(context) else { return None };
        *self = Way::Closed;
        result.err()
    }
}

/// Counts an open tunnel, as such and as a use of its server.
struct Open<'s> {
    shard: &'s Shard,
    server: Rc<Server>,
}

impl<'s> Open<'s> {
    fn new(shard: &'s Shard, server: Rc<Server>) -> Open<'s> {
        shard.counters.tunnels_opened.increment();
        server.opened();
        server.begin_use();
        shard.tunnels.set(shard.tunnels.get() + 1);
        Open { shard, server }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.server.end_use();
        self.server.closed();
        self.shard.tunnels.set(self.shard.tunnels.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be as many tunnels as connections, most of them silent.
    #[test]
    fn a_tunnel_is_small() {
        fn size_of_run<F>(_: impl FnOnce(Tunnel, Rc<Shard>) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_run(Tunnel::run);
        assert!(bytes <= 600, "{bytes}");
    }
}
