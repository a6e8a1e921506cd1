//! An end of a tunnel that is not spliced: a connection, or a stream of HTTP/2. Bytes in and out, and the end of each.

use std::task::{Context, Poll, ready};

use sluice_sys::ReadAhead;

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
