//! The bytes of a connection, both ways: code that reads and writes messages does not depend on the transport below.
//!
//! Owns the socket. Times, addresses and the end of a connection are matters of the socket ([`Link::transport`]); its bytes go
//! through [`Link::receive`] and [`Link::send`], unless they need no processing ([`Link::plain`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sluice_sys::{Buf, Conn, Lease, Leases, Patience, Sending};

/// A connection to a client or a server.
pub(crate) enum Link {
    /// The bytes that are sent and received are those of the messages.
    Plain(Conn),
}

impl Link {
    /// The socket: for times, addresses and the end of the connection.
    #[inline]
    pub(crate) fn transport(&self) -> &Conn {
        match self {
            Link::Plain(conn) => conn,
        }
    }

    /// The scheme of requests that come by it.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Link::Plain(_) => "http",
        }
    }

    /// The same, of a link that is not needed any more.
    pub(crate) fn into_transport(self) -> Conn {
        match self {
            Link::Plain(conn) => conn,
        }
    }

    /// The socket, if bytes may be moved to and from it as they are.
    #[inline]
    pub(crate) fn plain(&self) -> Option<&Conn> {
        match self {
            Link::Plain(conn) => Some(conn),
        }
    }

    /// The next bytes; `None` once the peer has finished sending.
    ///
    /// # Errors
    /// Those of [`Conn::receive`].
    #[inline]
    pub(crate) async fn receive(&self) -> io::Result<Option<Lease>> {
        match self {
            Link::Plain(conn) => conn.receive().await,
        }
    }

    /// The same for a task that has no room for a future; if there are none yet, it is polled again when they come.
    #[inline]
    pub(crate) fn poll_receive(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<Lease>>> {
        match self {
            Link::Plain(conn) => Pin::new(&mut conn.receive()).poll(context),
        }
    }

    /// Bytes that have arrived already, if any.
    #[inline]
    pub(crate) fn receive_ready(&self) -> Option<Lease> {
        match self {
            Link::Plain(conn) => conn.receive_ready(),
        }
    }

    /// Sends all of it, after what was sent before; see [`Conn::send`].
    #[inline]
    pub(crate) fn send(&self, data: impl Into<Data>, patience: impl Into<Patience>) -> Sending {
        match (self, data.into()) {
            (Link::Plain(conn), Data::Buf(buf)) => conn.send(buf, patience),
            (Link::Plain(conn), Data::Lease(lease)) => conn.send_lease(lease, patience),
        }
    }

    /// Sends all of it, after what was sent before, with the end of the connection; see [`Conn::send_last`].
    pub(crate) fn send_last(&self, buf: Buf, patience: impl Into<Patience>) -> Sending {
        match self {
            Link::Plain(conn) => conn.send_last(buf, patience),
        }
    }

    /// Sends a head, if there is one, and received bytes behind it, out of the buffers they came in.
    pub(crate) fn send_behind(&self, head: Option<Buf>, mut parts: Leases, patience: Patience) -> Sending {
        let Link::Plain(conn) = self;
        match (head, parts.len()) {
            (Some(head), 0) => conn.send(head, patience),
            (None, 1) => conn.send_lease(parts.pop().expect("there is one"), patience),
            (head, 1) => {
                let only = parts.pop().expect("there is one");
                conn.send_with(head.unwrap_or_else(Buf::small), only, patience)
            }
            (head, _) => conn.send_with(head.unwrap_or_else(Buf::small), parts, patience),
        }
    }
}

/// A part of a body: in a receive buffer, or in one of ours.
#[derive(Debug)]
pub(crate) enum Data {
    Lease(Lease),
    Buf(Buf),
}

impl Data {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Data::Lease(lease) => lease,
            Data::Buf(buf) => buf,
        }
    }
}

impl From<Buf> for Data {
    fn from(buf: Buf) -> Data {
        Data::Buf(buf)
    }
}

impl From<Lease> for Data {
    fn from(lease: Lease) -> Data {
        Data::Lease(lease)
    }
}
