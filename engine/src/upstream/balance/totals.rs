//! Requests that other shards have with each server. Each shard writes its own number; the others' are copied every few
//! milliseconds, and requests go by the copies. So a shard knows its own requests exactly, and of the others' as many as there were
//! at most [`Totals::every_ms`] ago: the total that it goes by differs from the true one by no more than the requests which the other
//! shards have begun or ended since.

use std::cell::Cell;
use std::rc::Rc;

use super::Member;
use crate::upstream::server::Server;

/// So many numbers are read in a millisecond at most, each from memory that another core has just written.
const READS_PER_MS: usize = 64;

/// Copies are never older than this, however many shards and servers there are.
const EVERY_MS_MAX: u64 = 100;

/// When the numbers of other shards are copied.
pub(super) struct Totals {
    /// There are others.
    is_shared: bool,
    pub(super) every_ms: u64,
    next_ms: Cell<u64>,
}

impl Totals {
    pub(super) fn new(servers: &[Rc<Server>]) -> Totals {
        let shards = servers.first().map_or(1, |server| server.entry().shards());
        // Not more than 100.
        let every_ms = ((shards * servers.len()).div_ceil(READS_PER_MS) as u64).clamp(1, EVERY_MS_MAX);
        Totals { is_shared: shards > 1, every_ms, next_ms: Cell::new(0) }
    }

    /// Copies the numbers of the other shards, if the copies are too old.
    pub(super) fn refresh(&self, members: &[Member], servers: &[Rc<Server>], now_ms: u64) {
        if !self.is_shared || now_ms < self.next_ms.get() {
            return;
        }
        self.next_ms.set(now_ms + self.every_ms);
        for (member, server) in members.iter().zip(servers) {
            let all: u64 = server.entry().numbers().map(|numbers| numbers.active.value()).sum();
            member.others.set(all.saturating_sub(server.numbers.active.value()));
        }
    }
}
