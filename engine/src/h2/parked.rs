//! A connection that rests: no streams, no task, no buffer; its tables as small as they can be.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sluice_sys::{Buf, Conn};

use super::session::{Rest, Session};
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::connection::tls::Tls;
use crate::message::Side;
use crate::shard::Shard;

/// Empty boxes that are kept for the next connection that rests.
const KEPT: usize = 256;

thread_local! {
    // Boxed, since each becomes a connection's state.
    #[allow(clippy::vec_box)]
    static STOCK: RefCell<Vec<Box<Parked>>> = const { RefCell::new(Vec::new()) };
    static WAITING_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of frames that have begun, on all connections of the shard that rest.
pub(crate) fn waiting_bytes() -> usize {
    WAITING_BYTES.get()
}

/// The state that a connection is parked with.
#[derive(Default)]
pub(crate) struct Parked {
    session: Option<Rest>,
    /// Over TLS.
    tls: Option<Box<dyn Any>>,
    /// The beginning of a frame.
    rest: Option<Buf>,
}

/// A connection at work again.
pub(crate) struct Resumed {
    pub(crate) session: Rc<Session>,
    pub(crate) inbox: Inbox,
}

impl Parked {
    /// Parks a connection for so long. Hands it back when there is more to read after all.
    pub(crate) fn park(mut session: Rc<Session>, inbox: Inbox, idle_ms: u64) -> Option<Resumed> {
        let Some(link) = Rc::get_mut(&mut session).and_then(|session| session.link.take()) else {
            unreachable!("a connection rests when nothing else has to do with it")
        };
        let (conn, tls) = match link {
            Link::Plain(conn) => (conn, None),
            Link::Tls(tls) => match tls.into_parts() {
                Ok((conn, state)) => (conn, Some(state)),
                Err(tls) => {
                    let (rest, shard) = Session::rest(session);
                    return Some(Resumed::new(&shard, rest, Link::Tls(tls), inbox));
                }
            },
        };
        let (rest, shard) = Session::rest(session);
        let mut parked = STOCK.with_borrow_mut(Vec::pop).unwrap_or_default();
        parked.session = Some(rest);
        parked.tls = tls;
        parked.keep(&inbox);
        let (conn, state) = conn.park_with_state(parked, idle_ms).err()?;
        Some(Parked::resume(&shard, conn, state).unwrap_or_else(|_| unreachable!("what was parked just now")))
    }

    /// The connection that was parked with this state, if it is one of HTTP/2.
    pub(crate) fn resume(
        shard: &Rc<Shard>,
        conn: Conn,
        state: Box<dyn Any>,
    ) -> Result<Resumed, (Conn, Box<dyn Any>)> {
        let mut parked: Box<Parked> = match state.downcast() {
            Ok(parked) => parked,
            Err(state) => return Err((conn, state)),
        };
        WAITING_BYTES.set(WAITING_BYTES.get() - parked.waiting_bytes());
        let rest = parked.session.take().expect("what is parked is whole");
        let link = match parked.tls.take() {
            None => Link::Plain(conn),
            Some(state) => match Tls::resume(conn, state) {
                Ok(tls) => Link::Tls(tls),
                Err(_) => unreachable!("the state of its TLS was kept with it"),
            },
        };
        let inbox = parked.rest.take().map_or_else(Inbox::default, Inbox::resume);
        STOCK.with_borrow_mut(|stock| {
            if stock.len() < KEPT {
                stock.push(parked);
            }
        });
        Ok(Resumed::new(shard, rest, link, inbox))
    }

    fn keep(&mut self, inbox: &Inbox) {
        let unread = inbox.unread();
        if !unread.is_empty() {
            let mut rest = Buf::tiny(unread.len());
            rest.extend_from_slice(unread);
            self.rest = Some(rest);
        }
        WAITING_BYTES.set(WAITING_BYTES.get() + self.waiting_bytes());
    }

    /// Bytes of a frame that has begun, and of a header block that is gathered.
    fn waiting_bytes(&self) -> usize {
        let gathered = self.session.as_ref().map_or(0, Rest::gathered_bytes);
        gathered + self.rest.as_ref().map_or(0, |rest| rest.len())
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // A thread that is ending counts no more.
        let bytes = self.waiting_bytes();
        let _ = WAITING_BYTES.try_with(|waiting| waiting.set(waiting.get() - bytes));
    }
}

impl Resumed {
    fn new(shard: &Rc<Shard>, rest: Rest, link: Link, inbox: Inbox) -> Resumed {
        Resumed { session: Session::begin(rest, link, Side::Downstream, shard), inbox }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what malloc adds it is a piece of 256 bytes: the next ones would be worth 16 more each.
    #[test]
    fn a_connection_that_rests_is_small() {
        assert!(size_of::<Parked>() <= 256, "{}", size_of::<Parked>());
    }
}
