//! Bytes of a connection that have arrived and were not used yet: usually one receive buffer, read in place.
//!
//! Only what straddles two buffers (a head that came in pieces) is copied together. The same for clients and servers.

use std::io;
use std::task::{Context, Poll, ready};

use sluice_sys::{Buf, Lease};

use super::link::{Data, Link};

/// Room that joined pieces begin with.
const JOINED_BYTES_MIN: usize = 256;

/// Unread bytes, in order.
#[derive(Default)]
pub(crate) struct Inbox {
    held: Held,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    /// In the buffer the kernel put them into.
    Lease(Lease),
    /// Copied together; the first `start` bytes are used up.
    Joined { buf: Buf, start: usize },
}

impl Inbox {
    /// The bytes kept of a message that had only begun.
    pub(crate) fn resume(buf: Buf) -> Inbox {
        if buf.is_empty() { Inbox::default() } else { Inbox { held: Held::Joined { buf, start: 0 } } }
    }

    /// Bytes that have arrived and are not used yet.
    pub(crate) fn unread(&self) -> &[u8] {
        match &self.held {
            Held::Nothing => &[],
            Held::Lease(lease) => lease,
            Held::Joined { buf, start } => &buf[*start..],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.held, Held::Nothing)
    }

    /// The first `count` unread bytes are used.
    pub(crate) fn consume(&mut self, count: usize) {
        let is_used_up = match &mut self.held {
            Held::Nothing => return debug_assert_eq!(count, 0),
            // Compared before it is changed: a read of both ends would wait for the write of one.
            Held::Lease(lease) if lease.len() == count => true,
            Held::Lease(lease) => {
                lease.advance(count);
                false
            }
            Held::Joined { buf, start } => {
                *start += count;
                *start == buf.len()
            }
        };
        if is_used_up {
            self.held = Held::Nothing;
        }
    }

    /// Takes the first `count` unread bytes out; in their receive buffer if they are in one.
    pub(crate) fn take(&mut self, count: usize) -> Data {
        if let Held::Lease(lease) = &mut self.held {
            let taken = lease.split_to(count);
            if lease.is_empty() {
                self.held = Held::Nothing;
            }
            return Data::Lease(taken);
        }
        let is_whole = matches!(&self.held, Held::Joined { buf, start: 0 } if buf.len() == count);
        if is_whole && let Held::Joined { buf, .. } = std::mem::take(&mut self.held) {
            return Data::Buf(buf);
        }
        let mut buf = Buf::with_room(count);
        buf.extend_from_slice(&self.unread()[..count]);
        self.consume(count);
        Data::Buf(buf)
    }

    /// Adds what has arrived already; says whether there was anything.
    pub(crate) fn take_ready(&mut self, link: &Link) -> bool {
        link.receive_ready().map(|data| self.add(data)).is_some()
    }

    /// Waits for more bytes; `false` once the peer has finished sending.
    ///
    /// # Errors
    /// Those of [`Link::receive`].
    pub(crate) async fn receive(&mut self, link: &Link) -> io::Result<bool> {
        self.join();
        let data = link.receive().await?;
        Ok(data.map(|data| self.add(data)).is_some())
    }

    /// The same for a task that has no room for a future.
    ///
    /// # Errors
    /// Those of [`Link::receive`].
    pub(crate) fn poll_receive(&mut self, link: &Link, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.take_ready(link) {
            return Poll::Ready(Ok(true));
        }
        self.join();
        let data = ready!(link.poll_receive(context))?;
        Poll::Ready(Ok(data.map(|data| self.add(data)).is_some()))
    }

    /// Adds what was received by other means.
    pub(crate) fn put(&mut self, data: Data) {
        self.add(data);
    }

    fn add(&mut self, data: Data) {
        if self.is_empty() {
            self.held = match data {
                Data::Lease(lease) => Held::Lease(lease),
                Data::Buf(buf) => Held::Joined { buf, start: 0 },
            };
            return;
        }
        self.join();
        if let Held::Joined { buf, start } = &mut self.held {
            buf.drain(..*start);
            *start = 0;
            buf.extend_from_slice(data.bytes());
        }
    }

    /// Moves unread bytes to memory of their own, so that they keep no receive buffer from others: a piece of a head may wait
    /// long for the next, and a request behind another for its turn.
    pub(crate) fn join(&mut self) {
        if let Held::Lease(lease) = &self.held {
            let mut buf = Buf::tiny(lease.len().next_power_of_two().max(JOINED_BYTES_MIN));
            buf.extend_from_slice(lease);
            self.held = Held::Joined { buf, start: 0 };
        }
    }
}
