//! The bytes of a connection, both ways: code that reads and writes messages does not depend on the transport below.
//!
//! Owns the socket. Times, addresses and the end of a connection are matters of the socket ([`Link::transport`]); its bytes go
//! through [`Link::receive`] and [`Link::send`], unless they need no processing ([`Link::plain_to_receive`], [`Link::plain_to_send`]).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sluice_proto::h1::Scheme;
use sluice_sys::{Buf, Conn, Lease, Leases, Patience, Sending};

use super::tls::Tls;

/// A connection to a client or a server.
pub(crate) enum Link {
    /// The bytes that are sent and received are those of the messages.
    Plain(Conn),
    /// They are sealed in records.
    Tls(Tls),
}

impl Link {
    /// The socket: for times, addresses and the end of the connection.
    #[inline]
    pub(crate) fn transport(&self) -> &Conn {
        match self {
            Link::Plain(conn) => conn,
            Link::Tls(tls) => tls.conn(),
        }
    }

    /// The scheme of requests that come by it.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-4.2
    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Link::Plain(_) => Scheme::Http,
            Link::Tls(_) => Scheme::Https,
        }
    }

    /// The same, of a link that is not needed any more.
    pub(crate) fn into_transport(self) -> Conn {
        match self {
            Link::Plain(conn) => conn,
            Link::Tls(tls) => tls.into_conn(),
        }
    }

    /// The socket, if bytes may be moved from it as they are.
    #[inline]
    pub(crate) fn plain_to_receive(&self) -> Option<&Conn> {
        match self {
            Link::Plain(conn) => Some(conn),
            Link::Tls(_) => None,
        }
    }

    /// The socket, if bytes may be moved to it as they are: also where the kernel seals them.
    #[inline]
    pub(crate) fn plain_to_send(&self) -> Option<&Conn> {
        match self {
            Link::Plain(conn) => Some(conn),
            Link::Tls(tls) => tls.offloaded(0),
        }
    }

    /// So many bytes were moved to the socket by other means.
    pub(crate) fn count_moved(&self, bytes: u64) {
        if let Link::Tls(tls) = self {
            tls.offloaded(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
    }

    /// The socket for a send of so many bytes as they are; else the session that seals them.
    #[inline]
    fn sender(&self, bytes: impl FnOnce() -> usize) -> Result<&Conn, &Tls> {
        match self {
            Link::Plain(conn) => Ok(conn),
            // At least one record each.
            Link::Tls(tls) => tls.offloaded(bytes().max(1)).ok_or(tls),
        }
    }

    /// The session of TLS, if there is one.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        match self {
            Link::Plain(_) => None,
            Link::Tls(tls) => Some(tls),
        }
    }

    /// The next bytes; `None` once the peer has finished sending.
    ///
    /// # Errors
    /// Those of [`Conn::receive`]; what a peer has done against the rules of TLS; an end without its announcement.
    #[inline]
    pub(crate) async fn receive(&self) -> io::Result<Option<Data>> {
        match self {
            Link::Plain(conn) => Ok(conn.receive().await?.map(Data::Lease)),
            Link::Tls(tls) => poll_fn(|context| tls.poll_receive(context)).await,
        }
    }

    /// The same for a task that has no room for a future; if there are none yet, it is polled again when they come.
    #[inline]
    pub(crate) fn poll_receive(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<Data>>> {
        match self {
            Link::Plain(conn) => {
                Pin::new(&mut conn.receive()).poll(context).map_ok(|lease| lease.map(Data::Lease))
            }
            Link::Tls(tls) => tls.poll_receive_or_rest(context),
        }
    }

    /// Bytes that have arrived already, if any.
    #[inline]
    pub(crate) fn receive_ready(&self) -> Option<Data> {
        match self {
            Link::Plain(conn) => conn.receive_ready().map(Data::Lease),
            Link::Tls(tls) => tls.receive_ready(),
        }
    }

    /// Whether no bytes and no end have arrived that are not taken yet.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Link::Plain(conn) => conn.is_quiet(),
            Link::Tls(tls) => !tls.has_received() && tls.conn().is_quiet(),
        }
    }

    /// Sends all of it, after what was sent before; see [`Conn::send`].
    #[inline]
    pub(crate) fn send(&self, data: impl Into<Data>, patience: impl Into<Patience>) -> Sending {
        let data = data.into();
        match (self.sender(|| data.bytes().len()), data) {
            (Ok(conn), Data::Buf(buf)) => conn.send(buf, patience),
            (Ok(conn), Data::Lease(lease)) => conn.send_lease(lease, patience),
            (Err(tls), data) => tls.send(&[data.bytes()], patience.into()).0,
        }
    }

    /// The same for bytes that may have to be sent again on another connection: how many go out, and the bytes, unless the end of
    /// the send hands them back.
    pub(crate) fn send_for_now(
        &self,
        buf: Buf,
        patience: impl Into<Patience>,
    ) -> (Sending, usize, Option<Buf>) {
        match self.sender(|| buf.len()) {
            Ok(conn) => {
                let bytes = buf.len();
                (conn.send(buf, patience), bytes, None)
            }
            Err(tls) => {
                let (sending, bytes) = tls.send(&[&buf], patience.into());
                (sending, bytes, Some(buf))
            }
        }
    }

    /// Sends all of it, after what was sent before, with the end of the connection; see [`Conn::send_last`].
    pub(crate) fn send_last(&self, buf: Buf, patience: impl Into<Patience>) -> Sending {
        match self {
            Link::Plain(conn) => conn.send_last(buf, patience),
            // The alert follows when there is room for it: see `settled`.
            Link::Tls(tls) if tls.is_offloaded() => self.send(buf, patience),
            Link::Tls(tls) => tls.send_last(&buf, patience.into()),
        }
    }

    /// Sends a head, if there is one, and received bytes behind it, out of the buffers they came in.
    pub(crate) fn send_behind(&self, head: Option<Buf>, mut parts: Leases, patience: Patience) -> Sending {
        let bytes = || head.as_ref().map_or(0, |head| head.len()) + parts.bytes();
        let conn = match self.sender(bytes) {
            Ok(conn) => conn,
            Err(tls) => return tls.send_behind(head.as_ref(), parts, patience),
        };
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

    /// What was received and is still sealed keeps no receive buffer from others while it waits.
    pub(crate) fn release_buffers(&self) {
        if let Link::Tls(tls) = self {
            tls.release_buffers();
        }
    }

    /// Whether the peer's side is known to have ended although its socket is silent: a receive says how.
    pub(crate) fn has_ended(&self) -> bool {
        self.tls().is_some_and(Tls::has_ended)
    }

    /// Whether bytes were received that are still sealed.
    pub(crate) fn has_received(&self) -> bool {
        self.tls().is_some_and(Tls::has_received)
    }

    /// Gives up what only a busy connection needs; says whether nothing was received that is not taken yet.
    pub(crate) fn rest(&self) -> bool {
        match self {
            Link::Plain(_) => true,
            Link::Tls(tls) => tls.rest(),
        }
    }

    /// Waits until the end may be announced. The kernel keeps a record that it has sealed and has no room for; where it has room, all
    /// of it goes out with the next record. Otherwise the end of the connection could overtake it.
    pub(crate) async fn settled(&self) {
        if self.tls().is_some_and(Tls::is_offloaded) {
            let conn = self.transport();
            conn.flushed().await;
            // A connection that has failed has no end to announce.
            let _ = conn.writable(super::LINGER_MS).await;
        }
    }

    /// Says that nothing more will be sent, where the protocol has words for it; the socket stays open. Sent at most once.
    pub(crate) fn announce_end(&self) {
        if let Link::Tls(tls) = self {
            tls.close();
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
