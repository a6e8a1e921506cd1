//! An end of a tunnel that is not spliced: a connection, or a stream of HTTP/2. Bytes in and out, and the end of each.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sluice_sys::{ReadAhead, Sending, now_ms};

use crate::connection::End;
use crate::connection::inbox::Inbox;
use crate::connection::link::{Data, Link};
use crate::h2::Stream;
use crate::message::{Aborted, Side};

/// One end, as an exchange leaves it.
pub(crate) enum TunnelEnd {
    Link(End),
    Stream(Stream),
}

/// One end of a tunnel at work.
pub(crate) enum Port {
    Link(Link),
    Stream(Stream),
}

/// Bytes on their way out of a port.
pub(crate) enum Outgoing {
    /// So many, to a connection, which looks itself whether they stall.
    Sending { sending: Sending, bytes: u32 },
    /// The same to a stream; so many are left, and were at this time, in 32 bits of milliseconds.
    Pushing { bytes: u32, left: u32, since_ms: u32 },
}

impl Outgoing {
    /// So long the peer may still take nothing of them, of `stall_ms`; `None` where that is looked at elsewhere, or nothing is left.
    pub(crate) fn patience_ms(&self, now_ms: u32, stall_ms: u32) -> Option<u32> {
        match self {
            Outgoing::Sending { .. } => None,
            Outgoing::Pushing { since_ms, .. } => {
                Some(stall_ms.saturating_sub(now_ms.wrapping_sub(*since_ms)))
            }
        }
    }

    /// Whether they wait for the window of a stream.
    pub(crate) fn has_to_wait(&self) -> bool {
        matches!(self, Outgoing::Pushing { left, .. } if *left > 0)
    }
}

impl Port {
    /// An end at work, and what has come from it before.
    pub(crate) fn of(end: TunnelEnd) -> (Port, Inbox) {
        let End { link, inbox } = match end {
            TunnelEnd::Link(end) => end,
            TunnelEnd::Stream(stream) => return (Port::Stream(stream), Inbox::default()),
        };
        let conn = link.transport();
        conn.set_read_ahead(ReadAhead::Body);
        conn.clear_deadline();
        // The worker may have watched it while it waited for the other side.
        conn.forget_waiters();
        (Port::Link(link), inbox)
    }

    /// The next bytes; `None` once the peer has finished.
    pub(crate) fn poll_receive(
        &self,
        side: Side,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Data>, Aborted>> {
        match self {
            Port::Link(link) => link.poll_receive(context).map_err(|error| Aborted::io(side, &error)),
            Port::Stream(stream) => stream.poll_receive(context),
        }
    }

    /// Begins to send data; for `bytes` of the other side.
    pub(crate) fn send(&self, data: Data, bytes: u32, stall_ms: u32) -> Outgoing {
        match self {
            Port::Link(link) => Outgoing::Sending { sending: link.send(data, u64::from(stall_ms)), bytes },
            Port::Stream(stream) => {
                stream.send(data.bytes(), false);
                let left = stream.unsent_bytes().unwrap_or(0);
                Outgoing::Pushing { bytes, left, since_ms: now_ms() as u32 }
            }
        }
    }

    /// Waits until what was sent to this end, which is that of `side`, is with the kernel or in a window; says for how many bytes of the
    /// other side it was.
    pub(crate) fn poll_sent(
        &self,
        side: Side,
        outgoing: &mut Outgoing,
        context: &mut Context<'_>,
    ) -> Poll<Result<u32, Aborted>> {
        match outgoing {
            Outgoing::Sending { sending, bytes } => {
                let sent = ready!(Pin::new(sending).poll(context)).result;
                sent.map_err(|error| Aborted::sending(side, &error))?;
                Poll::Ready(Ok(*bytes))
            }
            Outgoing::Pushing { bytes, left, since_ms } => {
                let Port::Stream(stream) = self else { unreachable!("data is pushed to streams") };
                if let Some(aborted) = stream.failed() {
                    return Poll::Ready(Err(aborted));
                }
                let Some(unsent) = stream.unsent_bytes() else { return Poll::Ready(Ok(*bytes)) };
                if unsent != *left {
                    (*left, *since_ms) = (unsent, now_ms() as u32);
                }
                stream.wait(context);
                Poll::Pending
            }
        }
    }

    /// So many bytes that came from here have gone on.
    pub(crate) fn have_passed(&self, bytes: u32) {
        if let Port::Stream(stream) = self {
            stream.session.give_back(stream.key, bytes);
        }
    }

    /// Passes on the end of the other side.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.5
    // "the END_STREAM flag ... is treated as being equivalent to the TCP FIN bit"
    pub(crate) fn poll_finish(&self) -> Poll<()> {
        match self {
            Port::Link(link) => {
                link.announce_end();
                ready!(link.transport().poll_flushed());
                link.transport().shutdown_write();
            }
            Port::Stream(stream) => stream.end(None),
        }
        Poll::Ready(())
    }
}
