//! From a listener's completions to connections in the table.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::{opcode, types};

use super::{Driver, Wake};
use crate::connection_limit::LimitShare;
use crate::key::Kind;
use crate::ring::Completion;
use crate::socket::{BEHIND_BALANCER, SHARED};
use crate::table::{Entry, Flags};

/// How long a listener waits before it accepts again after descriptors or memory ran out.
const ACCEPT_PAUSE_MS: u64 = 100;

impl Driver {
    pub(super) fn accepted(&mut self, completion: Completion) -> Wake {
        let fd = completion.result;
        let Some(listener) = self.table.current(completion.key) else {
            // The listener is gone, yet a connection was accepted: the descriptor is ours to close.
            if fd >= 0 {
                self.close_descriptor(fd);
            }
            return Wake::NoTask;
        };
        let entry = self.table.at(listener);
        if !completion.has_more() {
            entry.flags.clear(Flags::ARMED);
            if entry.flags.has(Flags::STOPPING) {
                let wake = self.waits.take(&mut entry.waiter);
                if fd >= 0 {
                    self.admit(fd, listener);
                }
                return wake;
            }
        }
        match -fd {
            ..=0 => self.admit(fd, listener),
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => {
                self.stats.accept_errors += 1;
                self.set_deadline(listener, ACCEPT_PAUSE_MS);
                return Wake::NoTask;
            }
            libc::ECANCELED => return Wake::NoTask,
            _ => self.stats.accept_errors += 1,
        }
        self.arm_accept(listener);
        Wake::NoTask
    }

    pub(crate) fn limit_connections(&mut self, share: LimitShare) {
        debug_assert_eq!(self.connections, 0, "every connection has a place of this limit");
        self.limit = share;
    }

    /// Admits what waits in the queue of a listener that is no longer armed.
    pub(crate) fn accept_queued(&mut self, listener: u32) {
        while let Some(fd) = crate::socket::accept_queued(self.table.at(listener).fd) {
            self.admit(fd, listener);
        }
    }

    fn admit(&mut self, fd: RawFd, listener: u32) {
        let Entry { listener: id, owner_byte, .. } = *self.table.at(listener);
        let is_announced_later = owner_byte & BEHIND_BALANCER != 0;
        if let Some(shard) = self.better_place() {
            self.stats.accepted += 1;
            // SAFETY: the kernel has just given us this descriptor, and it is in no entry.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            self.pass_on(fd, id, !is_announced_later, shard);
            return;
        }
        if !self.limit.has_place(self.connections) {
            self.stats.accept_refused += 1;
            self.close_descriptor(fd);
            return;
        }
        self.stats.accepted += 1;
        let index = self.table.insert(fd, Flags::IDLE);
        self.table.at(index).flags.set(Flags::ACCEPTED);
        self.connections += 1;
        self.connections_changed();
        self.table.at(index).listener = id;
        // Behind a load balancer, the peer is the balancer until its header has named the client.
        if is_announced_later || self.may_stay(index) {
            self.set_deadline(index, self.first_byte_ms);
            self.arm_receive(index);
        }
    }

    /// Whether a new connection may stay; closes it if not.
    pub(super) fn may_stay(&mut self, index: u32) -> bool {
        if self.peers.is_none() || self.is_peer_welcome(index) {
            return true;
        }
        self.stats.peer_refused += 1;
        self.close(index);
        false
    }

    pub(super) fn arm_accept(&mut self, index: u32) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ARMED) {
            return;
        }
        entry.flags.set(Flags::ARMED);
        let (fd, flags) = (types::Fd(entry.fd), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
        // The kernel wakes the ring that has waited for longest. One that accepts again and again would stay the first; one that
        // comes back for each connection goes behind the others, so that they take turns.
        let accept = match entry.owner_byte & SHARED {
            0 => opcode::AcceptMulti::new(fd).flags(flags).build(),
            _ => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(flags).build(),
        };
        let key = self.table.key(Kind::Accept, index);
        // SAFETY: an accept that does not ask for the peer's address refers to no memory.
        unsafe { self.push(accept, key) };
    }
}
