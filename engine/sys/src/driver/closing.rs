//! The end of a connection that counts at its server: it is closed so that our side knows when the server's kernel is rid of it.
//!
//! close(2) says nothing about the peer. So our end is announced (FIN), and the descriptor stays open until the peer has ended the
//! connection too, for [`CLOSING_MS`] at most; then it is reset. What was attached to the connection is dropped after that, by the
//! loop, outside of the driver.

use std::any::Any;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{opcode, types};

use super::Driver;
use crate::key::NONE;
use crate::op::Payload;
use crate::socket::{disconnect, is_connected, shutdown_write};

/// How long a peer may take to end a connection after us.
pub(crate) const CLOSING_MS: u64 = 200;

/// How long the end of an attempt to connect may take, which is cancelled by then.
const CANCELLED_MS: u64 = 1;

/// A descriptor that is open until the peer has ended the connection, and what is attached to it.
pub(crate) struct Closing {
    socket: OwnedFd,
    held: Box<dyn Any>,
}

impl Driver {
    /// Attaches something to a socket, which is dropped when no connection of it exists any more, at the peer neither.
    pub(crate) fn hold(&mut self, index: u32, held: Box<dyn Any>) {
        let before = self.held.insert(index, held);
        debug_assert!(before.is_none(), "a socket holds one thing");
    }

    /// Whether something is attached to a socket.
    #[inline]
    pub(super) fn is_holding(&self, index: u32) -> bool {
        !self.held.is_empty() && self.held.contains_key(&index)
    }

    /// Ends a connection that something is attached to; its entry has given up the descriptor.
    #[cold]
    pub(super) fn close_held(&mut self, index: u32, fd: RawFd) {
        // SAFETY: `retire` has taken the descriptor out of the entry, which alone had it, and hands it over here only.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let held = self.held.remove(&index).expect("the caller has asked");
        if self.is_ending {
            // With the process the kernel ends them all.
            self.abandoned.push(held);
            return;
        }
        let is_connected = is_connected(fd);
        if is_connected {
            shutdown_write(fd);
        }
        // An attempt to connect was cancelled: the kernel has to give up its own hold on the socket before it can be ended.
        let patience = if is_connected { CLOSING_MS } else { CANCELLED_MS };
        let op = self.ops.insert(NONE, 0, Payload::Closing(Box::new(Closing { socket, held })));
        self.ops.at(op).is_owned = false;
        self.set_patience(op, patience.into());
        self.start_patience(op);
        let key = self.ops.start(op);
        let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLRDHUP as u32).build();
        // SAFETY: a poll refers to no memory; the descriptor is open as long as the payload, which the table keeps until the
        // completion.
        unsafe { self.push(poll, key) };
    }

    /// The peer has ended the connection too, or has had the time for it.
    pub(super) fn held_closed(&mut self, closing: Closing, result: i32) {
        if result < 0 {
            disconnect(closing.socket.as_raw_fd());
        }
        drop(closing.socket);
        self.abandoned.push(closing.held);
    }

    /// Has those that wait for their peers end now.
    pub(super) fn end_closing(&mut self) {
        for op in self.ops.closing() {
            self.cancel(self.ops.key(op));
        }
    }
}
