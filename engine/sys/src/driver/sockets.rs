//! Sockets of a shard from the opening to the closing of their descriptor.

use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types};

use super::{Driver, Kept};
use crate::key::{Key, Kind, NONE};
use crate::op::State;
use crate::socket::SHARED;
use crate::table::{Flags, Table};

impl Driver {
    pub(crate) fn open_socket(&mut self, fd: RawFd) -> u32 {
        self.table.insert(fd, Flags::NONE)
    }

    pub(crate) fn open_timer(&mut self) -> u32 {
        self.table.insert(-1, Flags::NONE)
    }

    /// One that is shared is accepted from by other rings too.
    pub(crate) fn open_listener(&mut self, fd: RawFd, id: u8, is_shared: bool) -> u32 {
        let index = self.table.insert(fd, Flags::LISTENER);
        let entry = self.table.at(index);
        entry.listener = id;
        entry.owner_byte = if is_shared { SHARED } else { 0 };
        self.arm_accept(index);
        index
    }

    pub(crate) fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Gives up a socket: what waits for it in the kernel is cancelled, received bytes go back, the descriptor is
    /// closed by the ring. The slot is free at once; completions still on their way find another generation.
    pub(crate) fn close(&mut self, index: u32) {
        self.retire(index);
        if self.table.at(index).flags.has(Flags::IDLE) {
            // A destructor of others' may use the driver: the loop drops it.
            if let Kept::State(state) = self.take_kept(index) {
                self.abandoned.push(state);
            }
        }
        self.waits.forget(&mut self.table.at(index).waiter);
        if self.table.at(index).flags.has(Flags::ACCEPTED) {
            self.connections -= 1;
            self.limit.closed(self.connections);
            self.forget_peer(index);
            self.connections_changed();
        }
        self.deadlines.remove(&mut self.table, index);
        self.table.remove(index);
    }

    /// The part of closing that frees everything but the slot, for a socket whose handle still lives.
    pub(super) fn retire(&mut self, index: u32) {
        self.drop_unread(index);
        self.unstarve(index);
        let entry = self.table.at(index);
        let (fd, flags, mut send) = (entry.fd, entry.flags, entry.send);
        entry.fd = -1;
        entry.send = NONE;
        entry.flags.set(Flags::ENDED);
        entry.flags.clear(Flags::ARMED);
        match flags.has(Flags::ARMED) && !flags.has(Flags::STOPPING) {
            true if flags.has(Flags::LISTENER) => self.cancel(self.table.key(Kind::Accept, index)),
            // The peer's end is awaited below: it must show.
            true if self.is_holding(index) => self.cancel(self.table.key(Kind::Receive, index)),
            true => end_receiving(fd),
            false => {}
        }
        while send != NONE {
            let next = self.ops.at(send).next;
            match self.ops.at(send).state {
                State::InFlight => self.cancel(self.ops.key(send)),
                _ => self.finish_queued(send, -libc::ECANCELED),
            }
            send = next;
        }
        if fd >= 0 && self.is_holding(index) {
            self.close_held(index, fd);
        } else if fd >= 0 {
            self.close_descriptor(fd);
        }
    }

    pub(super) fn close_descriptor(&mut self, fd: RawFd) {
        let close = opcode::Close::new(types::Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: close refers to no memory.
        unsafe { self.push(close, Key::IGNORED) };
    }
}

/// Makes the kernel end the receive that is armed on a connection.
///
/// A cancel would walk one of at most 256 buckets of the ring's armed requests: at a million connections that is
/// four thousand steps for each one that is closed. This sends nothing and takes the same time at any number.
fn end_receiving(fd: RawFd) {
    // SAFETY: shutdown takes no memory; a failure means that the connection has ended, and the receive with it.
    unsafe { libc::shutdown(fd, libc::SHUT_RD) };
}
