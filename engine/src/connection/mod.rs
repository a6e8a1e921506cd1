//! Connections below every protocol: bytes in, bytes out, and the history of a client's connection.
//!
//! An [`Accepted`] connection is with a worker as long as it has something to read or to send. Between two messages it is
//! parked: then it has neither a task nor a buffer, only its entry in the ring's table.

pub(crate) mod history;
pub(crate) mod inbox;
pub(crate) mod link;
pub(crate) mod proxy_protocol;
pub(crate) mod proxy_senders;
pub(crate) mod tls;

use std::any::Any;
use std::rc::Rc;

use sluice_sys::{Buf, Conn, PartialMessage, Work, next_work, now_ms};

use self::history::{AgeLimit, History};
use self::inbox::Inbox;
use self::link::Link;
use self::tls::Tls;

/// After the last response on a connection, how long to take in what the client still sends, so that it gets to read the
/// response instead of a reset.
//= https://www.rfc-editor.org/rfc/rfc9112#section-9.6
pub(crate) const LINGER_MS: u64 = 2_000;

/// A client's connection with a worker.
pub(crate) struct Accepted {
    pub(crate) link: Link,
    /// Received bytes that nothing has used yet.
    pub(crate) inbox: Inbox,
    pub(crate) history: History,
    /// How often it was parked with a part of the message that is read now.
    pub(crate) pieces: u32,
}

/// Work of a worker: a connection that has bytes to read, or whose time is over.
pub(crate) enum Arrived {
    /// Before or after its handshake, if there is one.
    Accepted(Accepted),
    /// In the middle of something that has left its state with the connection.
    Parked(Conn, Box<dyn Any>),
    /// A stream of a session, by its number.
    Stream(Rc<dyn Any>, u64),
}

/// One end of a tunnel, as it is when that is opened.
pub(crate) struct End {
    pub(crate) link: Link,
    /// Received bytes that the tunnel is to carry.
    pub(crate) inbox: Inbox,
}

impl Accepted {
    /// Waits for a client that has sent something.
    #[inline]
    pub(crate) async fn next(age: impl Fn() -> AgeLimit) -> Arrived {
        match next_work().await {
            Work::Connection(conn, partial) => Arrived::Accepted(Accepted::plain(conn, partial, age())),
            Work::Session(conn, state) => match Tls::resume(conn, state) {
                Ok(tls) => Arrived::Accepted(Accepted::secure(tls, age())),
                Err((conn, state)) => Arrived::Parked(conn, state),
            },
            Work::Stream(session, number) => Arrived::Stream(session, number),
        }
    }

    fn plain(conn: Conn, partial: Option<PartialMessage>, age: AgeLimit) -> Accepted {
        let partial = partial.map(|partial| (partial.bytes, partial.pieces));
        Accepted::new(Link::Plain(conn), partial, age)
    }

    /// A connection over TLS, after its handshake.
    pub(crate) fn secure(tls: Tls, age: AgeLimit) -> Accepted {
        let partial = tls.take_waiting();
        Accepted::new(Link::Tls(tls), partial, age)
    }

    pub(crate) fn new(link: Link, partial: Option<(Buf, u32)>, age: AgeLimit) -> Accepted {
        let history = History::load(link.transport(), age, now_ms());
        let (inbox, pieces) = match partial {
            Some((bytes, pieces)) => (Inbox::resume(bytes), pieces),
            None => (Inbox::default(), 0),
        };
        Accepted { link, inbox, history, pieces }
    }

    /// Parks the connection between two messages; hands it back when there is more to read after all.
    pub(crate) fn park(self, idle_ms: u64) -> Option<Accepted> {
        self.history.store(self.link.transport());
        let link = match self.link {
            Link::Plain(conn) => Link::Plain(conn.park(idle_ms).err()?),
            Link::Tls(tls) => Link::Tls(tls.park(idle_ms).err()?),
        };
        Some(Accepted { link, ..self })
    }

    /// Parks the connection in the middle of a message: what there is of it waits without a task and without a receive
    /// buffer. Hands it back when there is more to read after all.
    #[cold]
    pub(crate) fn park_partial(self) -> Option<Accepted> {
        self.history.store(self.link.transport());
        match self.link {
            Link::Plain(conn) => {
                let conn = conn.park_with(self.inbox.unread(), self.pieces).err()?;
                Some(Accepted { link: Link::Plain(conn), ..self })
            }
            Link::Tls(tls) => {
                let tls = tls.park_waiting(self.inbox.unread(), self.pieces).err()?;
                let inbox = tls.take_waiting().map_or(self.inbox, |(bytes, _)| Inbox::resume(bytes));
                Some(Accepted { link: Link::Tls(tls), inbox, ..self })
            }
        }
    }

    /// Whether the time of a connection that was parked between two messages is over.
    pub(crate) fn is_expired(&self) -> bool {
        self.pieces == 0 && self.link.transport().is_late() && self.link.is_quiet()
    }

    /// Whether the client's address has more connections than these.
    pub(crate) fn is_address_crowded(&self, connections_max: u32) -> bool {
        connections_max != u32::MAX && self.link.transport().connections_of_peer() > connections_max
    }

    /// Whether the client asks for the first time on a connection that was one too many for its address and still is.
    pub(crate) fn is_one_too_many(&self, connections_max: u32) -> bool {
        let History { is_one_too_many, requests, .. } = self.history;
        is_one_too_many && requests == 0 && self.is_address_crowded(connections_max)
    }

    /// Closes after everything was sent; lingers if the client has sent more than was read.
    pub(crate) async fn close(mut self) {
        let has_sent_more = self.drop_inbox();
        self.link.settled().await;
        self.link.announce_end();
        self.link.transport().flushed().await;
        if has_sent_more || has_unread(&self.link, &self.inbox) {
            self.linger().await;
        }
    }

    /// Closes a connection whose client may still be sending.
    pub(crate) async fn linger(mut self) {
        self.drop_inbox();
        self.link.settled().await;
        self.link.announce_end();
        let conn = self.link.transport();
        conn.flushed().await;
        conn.shutdown_write();
        conn.set_deadline(LINGER_MS);
        while let Ok(Some(_)) = conn.receive().await {}
    }

    /// Closes with a reset.
    pub(crate) fn abort(self) {
        self.link.into_transport().abort();
    }

    /// What the client has sent behind its last request keeps no buffer from others while the connection ends; says whether
    /// there was anything.
    fn drop_inbox(&mut self) -> bool {
        !std::mem::take(&mut self.inbox).is_empty()
    }
}

/// Whether the peer has sent more than was read.
#[inline(never)]
pub(crate) fn has_unread(link: &Link, inbox: &Inbox) -> bool {
    // After a large body no receive is armed, and only the socket knows what else has come.
    !inbox.is_empty() || link.has_received() || link.transport().has_unread()
}
