//! A tunnel of which at least one end is a stream of HTTP/2: bytes both ways until both sides have finished or one has failed.
//!
//! The counterpart of `tunnel`, and as small: each direction is a machine ([`Way`]) that is polled by hand. A direction takes the next
//! bytes when the last ones have gone on, and opens the windows of their stream then: a reader that is stuck stops its own
//! sender and no other stream. The end of one direction is passed on; the other may go on for as long as its peers like.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_proto::h2::ErrorCode;
use sluice_sys::{Timer, now_ms};

use crate::connection::link::Data;
use crate::exchange::ended::TunnelUpstream;
use crate::message::{Aborted, Cause, Side};
use crate::port::{Outgoing, Port, TunnelEnd};
use crate::shard::Shard;
use crate::tunnel::{Open, since_ms};

/// The two ends, and how far each direction has come.
pub(crate) struct StreamTunnel {
    client: Port,
    server: Port,
    open: Open,
    /// By the side whose bytes they carry.
    ways: [Way; 2],
    /// Goes off when something may be late.
    timer: Timer,
    /// When something last moved, in 32 bits of milliseconds: the longest silence is far shorter.
    last_ms: Cell<u32>,
    failure: Option<Failure>,
    /// It was opened by CONNECT, without a protocol.
    is_connect: bool,
}

/// One direction.
enum Way {
    /// Waits for the next bytes of its side. There is nothing in hand.
    Receiving,
    /// Sends to the other side what was received.
    Sending(Outgoing),
    /// Its side has finished; what was sent before is still with us.
    Flushing,
    /// The other side knows that this one has finished, or this direction has failed.
    Closed,
}

/// Which side failed first, and how.
#[derive(Clone, Copy)]
enum Failure {
    /// It took nothing of what waited for it.
    Stalled(Side),
    /// The peer has reset the stream.
    Reset(Side),
    Broken(Side),
}

/// How it ended.
enum Ending {
    /// Both sides had finished sending.
    Finished,
    /// Neither side sent a byte for too long.
    Idle,
    /// One side failed.
    Cut(Failure),
}

impl StreamTunnel {
    pub(crate) fn new(shard: &Rc<Shard>, client: TunnelEnd, upstream: TunnelUpstream) -> StreamTunnel {
        let TunnelUpstream { end, server, is_connect, .. } = upstream;
        let is_stream = matches!(end, TunnelEnd::Stream(_));
        let (client, from_client) = Port::of(client);
        let (server_port, from_server) = Port::of(end);
        // The connection of a stream is counted by itself.
        let counted = Some(server).filter(|_| !is_stream);
        let mut tunnel = StreamTunnel {
            client,
            server: server_port,
            open: Open::new(shard.clone(), counted),
            ways: [Way::Receiving, Way::Receiving],
            timer: Timer::new(shard.snapshot().times.tunnel_idle),
            last_ms: Cell::new(now_ms() as u32),
            failure: None,
            is_connect,
        };
        for (side, mut inbox) in [(Side::Downstream, from_client), (Side::Upstream, from_server)] {
            let bytes = inbox.unread().len();
            if bytes > 0 {
                tunnel.ways[side as usize] = tunnel.begin_send(side, inbox.take(bytes));
            }
        }
        tunnel
    }

    /// Carries bytes until the tunnel's end.
    #[expect(clippy::manual_async_fn, reason = "the future of an async fn has room for every argument twice")]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> {
        async move {
            let ending = poll_fn(|context| self.poll_carry(context)).await;
            self.end(&ending);
        }
    }

    fn poll_carry(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        for side in [Side::Downstream, Side::Upstream] {
            if let Poll::Ready(Err(aborted)) = self.poll_way(side, context) {
                self.fail(aborted);
            }
        }
        self.watch_streams(context);
        if let Poll::Ready(ending) = self.poll_time() {
            return Poll::Ready(ending);
        }
        if let Some(failure) = self.failure {
            // Bytes that the failed side had sent before still go out, as far as we hold them.
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            let is_sent = !self.ways[failure.side() as usize].is_in_hand();
            return if is_sent { Poll::Ready(Ending::Cut(failure)) } else { Poll::Pending };
        }
        match self.ways {
            [Way::Closed, Way::Closed] => Poll::Ready(Ending::Finished),
            _ => Poll::Pending,
        }
    }

    /// Carries the bytes of one side to the other, and then its end.
    fn poll_way(&mut self, side: Side, context: &mut Context<'_>) -> Poll<Result<(), Aborted>> {
        while !matches!(self.ways[side as usize], Way::Closed) {
            let next = ready!(self.poll_next(side, context));
            let (way, result) = match next {
                Ok(next) => (next, Ok(())),
                Err(aborted) => (Way::Closed, Err(aborted)),
            };
            self.ways[side as usize] = way;
            result?;
        }
        Poll::Ready(Ok(()))
    }

    /// What it does next, when it has done what it does now.
    fn poll_next(&mut self, side: Side, context: &mut Context<'_>) -> Poll<Result<Way, Aborted>> {
        let (from, to) = match side {
            Side::Downstream => (&self.client, &self.server),
            Side::Upstream => (&self.server, &self.client),
        };
        let next = match &mut self.ways[side as usize] {
            Way::Receiving => match ready!(from.poll_receive(side, context))? {
                None => Way::Flushing,
                Some(data) => self.begin_send(side, data),
            },
            Way::Sending(outgoing) => {
                let bytes = ready!(to.poll_sent(side.other(), outgoing, context))?;
                from.have_passed(bytes);
                self.put_down();
                Way::Receiving
            }
            Way::Flushing => {
                ready!(to.poll_finish());
                Way::Closed
            }
            Way::Closed => Way::Closed,
        };
        Poll::Ready(Ok(next))
    }

    /// Begins to send what was received of this side.
    fn begin_send(&self, side: Side, data: Data) -> Way {
        let to = match side {
            Side::Downstream => &self.server,
            Side::Upstream => &self.client,
        };
        let bytes = data.bytes().len() as u32;
        let stall_ms = self.open.stall_ms();
        let outgoing = to.send(data, bytes, stall_ms);
        if outgoing.has_to_wait() {
            // The timer may be set to the end of a longer silence.
            self.timer.reset(stall_ms.min(self.open.idle_ms()).max(1).into());
        }
        Way::Sending(outgoing)
    }

    /// Takes note of streams that have failed where no direction waits for their bytes any more.
    fn watch_streams(&mut self, context: &Context<'_>) {
        for side in [Side::Downstream, Side::Upstream] {
            let port = if side == Side::Downstream { &self.client } else { &self.server };
            let (Port::Stream(stream), Way::Closed) = (port, &self.ways[side as usize]) else { continue };
            match stream.failed() {
                Some(aborted) => self.fail(aborted),
                None => stream.wait(context),
            }
        }
    }

    /// Looks whether a side takes nothing, or both are silent, for too long.
    fn poll_time(&mut self) -> Poll<Ending> {
        while self.timer.poll_expired().is_ready() {
            let now_ms = now_ms();
            let is_moving = self.ways.iter().any(Way::is_in_hand);
            let silent_ms = if is_moving { 0 } else { since_ms(self.last_ms.get(), now_ms) };
            let mut left_ms = self.open.idle_ms().saturating_sub(silent_ms);
            if left_ms == 0 {
                return Poll::Ready(Ending::Idle);
            }
            for side in [Side::Downstream, Side::Upstream] {
                let Way::Sending(outgoing) = &self.ways[side as usize] else { continue };
                let Some(of_way_ms) = outgoing.patience_ms(now_ms as u32, self.open.stall_ms()) else {
                    continue;
                };
                if of_way_ms == 0 {
                    self.ways[side as usize] = Way::Closed;
                    self.failure.get_or_insert(Failure::Stalled(side.other()));
                }
                left_ms = left_ms.min(of_way_ms.max(1));
            }
            self.timer.reset(left_ms.into());
        }
        Poll::Pending
    }

    /// What was in hand has been sent.
    fn put_down(&self) {
        self.last_ms.set(now_ms() as u32);
    }

    /// Only the first failure counts: what follows is its consequence.
    fn fail(&mut self, aborted: Aborted) {
        let failure = match aborted.cause {
            Cause::Stalled => Failure::Stalled,
            Cause::Reset(_) => Failure::Reset,
            _ => Failure::Broken,
        };
        self.failure.get_or_insert(failure(aborted.side));
    }

    fn end(self, ending: &Ending) {
        let counters = &self.open.shard.counters;
        match *ending {
            Ending::Finished => self.set_codes(ErrorCode::NO_ERROR),
            Ending::Idle => {
                counters.tunnel_idle_timeouts.increment();
                self.set_codes(ErrorCode::CANCEL);
            }
            Ending::Cut(failure) => {
                counters.tunnels_aborted.increment();
                self.cut(failure);
            }
        }
    }

    /// The error code that peers of streams get if the streams have not ended both ways.
    fn set_codes(&self, code: ErrorCode) {
        for port in [&self.client, &self.server] {
            if let Port::Stream(stream) = port {
                stream.code.set(code);
            }
        }
    }

    /// Ends both sides after one of them has failed. The other one gets a reset, so that it does not take what it got for complete;
    /// but not where that would throw away what is still on its way to it.
    fn cut(self, failure: Failure) {
        self.set_codes(match failure {
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.5
            // "A proxy treats any error in the TCP connection ... as a stream error of type CONNECT_ERROR."
            Failure::Broken(_) if self.is_connect => ErrorCode::CONNECT_ERROR,
            //= https://www.rfc-editor.org/rfc/rfc8441#section-5
            // "RST exceptions are represented with the RST_STREAM frame ... with the CANCEL ... error code."
            _ => ErrorCode::CANCEL,
        });
        let (failed, other) = match failure.side() {
            Side::Downstream => (self.client, self.server),
            Side::Upstream => (self.server, self.client),
        };
        // One that takes nothing needs nothing of what the kernel still holds for it.
        if let (Failure::Stalled(_), Port::Link(link)) = (failure, failed) {
            link.into_transport().abort();
        }
        if let Port::Link(link) = other {
            let conn = link.into_transport();
            if conn.is_acknowledged().unwrap_or(true) {
                conn.abort();
            }
        }
    }
}

impl Way {
    /// Something was received and is not sent yet.
    fn is_in_hand(&self) -> bool {
        matches!(self, Way::Sending(_))
    }
}

impl Failure {
    fn side(self) -> Side {
        match self {
            Failure::Stalled(side) | Failure::Reset(side) | Failure::Broken(side) => side,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be as many as streams, most of them silent: their slots in the sessions, a timer, and what the executor and the
    /// allocator add come on top.
    #[test]
    fn a_tunnel_is_small() {
        fn size_of_run<F>(_: impl FnOnce(StreamTunnel) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_run(StreamTunnel::run);
        assert!(bytes <= 176, "{bytes}");
    }
}
