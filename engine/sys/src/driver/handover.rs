//! Connections that go from one shard to another: the descriptor travels in a message, the socket stays as it is.
//!
//! Only an idle connection leaves: nothing of it is unread, unsent or in a task. Its receive is taken out of the kernel
//! first, so that whatever the client sends from then on waits in the socket until the other shard has armed one. If the
//! client was faster, its request is served here and the connection leaves the next time it is idle.
//!
//! The descriptor and what belongs to it (peer, owner data, deadline) are put down at the other shard's doorbell, and a message
//! says so. They are owned in every state: until the other shard takes them they belong to its doorbell, which closes the
//! descriptor when that shard ends. A message that does not arrive is answered by taking them back, if they are still there.

use std::any::Any;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::Driver;
use crate::key::{Key, Kind, NONE};
use crate::load_board::{BUSY_WORK, LoadBoard};
use crate::message::{Doorbell, NUMBER_BITS};
use crate::ring::Completion;
use crate::side_tables::ProxiedAddresses;
use crate::table::{Entry, Flags};

/// Connections that may be on their way out at once.
const LEAVING_MAX: usize = 64;

/// Samples kept between two looks at the load.
const SAMPLES: usize = 256;

/// A shard never gives away an accepted connection that it has fewer than so many of.
const KEPT_MIN: u32 = 8;

/// A connection of this shard, as long as it is here and open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId {
    index: u32,
    generation: u32,
}

/// A connection and how often it was met among the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<C = ConnectionId> {
    /// The connection.
    pub connection: C,
    /// Samples that were its.
    pub samples: u32,
}

/// A connection between two shards: its descriptor and what belongs to it.
#[derive(Debug)]
pub(crate) struct Handed {
    fd: OwnedFd,
    listener: u8,
    owner_byte: u8,
    owner_word: u32,
    peer: Option<SocketAddr>,
    /// What a proxy in front of us announced about it.
    announced: Option<ProxiedAddresses>,
    /// Accepted a moment ago, and by the wrong shard: the limit of connections has not been looked at.
    is_new: bool,
    /// The limit of its peer's address has not been looked at.
    is_unchecked: bool,
    idle_ms: u64,
    /// What it was parked with.
    session: Option<Box<dyn Any + Send>>,
}

#[cfg(test)]
impl Handed {
    /// A connection of which nothing but its descriptor is known.
    pub(crate) fn of_test(fd: std::os::fd::RawFd) -> Handed {
        // SAFETY: tests give descriptors that they have just been given.
        let fd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        let (peer, announced) = (None, None);
        Handed {
            fd,
            listener: 0,
            owner_byte: 0,
            owner_word: 0,
            peer,
            announced,
            is_new: false,
            is_unchecked: false,
            idle_ms: 0,
            session: None,
        }
    }
}

/// The other shards, and what is known about this one's load.
pub(crate) struct ShardSet {
    me: usize,
    board: Arc<LoadBoard>,
    doorbells: Vec<Doorbell>,
    /// Shards that connections may be given to: the nearest, those further away, and so on.
    proximity: Vec<Vec<usize>>,
    /// For every shard: how many connections it had when this one looked, and how many of this one's are on their way there.
    seen: Vec<(u64, u64)>,
    /// Accepted connections that this shard keeps without looking at others.
    keep: u32,
    leaving: Vec<(ConnectionId, usize)>,
    samples: Vec<ConnectionId>,
    /// Completions until the next sample, and between two.
    countdown: u32,
    every: u32,
    /// Completions up to the last look.
    completions: u64,
}

impl Driver {
    /// Makes this the shard `me` of those on the board. Once.
    pub(crate) fn join(
        &mut self,
        me: usize,
        board: Arc<LoadBoard>,
        doorbells: Vec<Doorbell>,
        proximity: Vec<Vec<usize>>,
    ) {
        assert!(self.shard_set.is_none() && self.parted.is_none(), "a runtime joins once");
        self.shard_set = Some(Box::new(ShardSet {
            me,
            board,
            seen: vec![(0, 0); doorbells.len()],
            doorbells,
            proximity,
            keep: KEPT_MIN,
            leaving: Vec::with_capacity(LEAVING_MAX),
            samples: Vec::with_capacity(SAMPLES),
            countdown: 1,
            every: 1,
            completions: self.stats.completions,
        }));
        self.connections_changed();
    }

    /// Neither gives nor wants connections any more.
    pub(crate) fn part(&mut self) {
        if let Some(shard_set) = self.shard_set.take() {
            shard_set.board.close(shard_set.me);
            self.parted = Some(shard_set);
        }
    }

    /// Shows how many connections there are.
    pub(super) fn connections_changed(&self) {
        if let Some(shard_set) = &self.shard_set {
            shard_set.board.set_connections(shard_set.me, self.connections);
        }
    }

    // ---- what the load is made of ----

    /// Notes whose completion this was, now and then.
    pub(super) fn sample(&mut self, completion: &Completion) {
        let Some(shard_set) = &mut self.shard_set else { return };
        shard_set.countdown -= 1;
        if shard_set.countdown > 0 {
            return;
        }
        shard_set.countdown = shard_set.every;
        let index = match completion.key.kind() {
            Kind::Receive => self.table.current(completion.key),
            Kind::Op => self
                .ops
                .socket_of(completion.key)
                .filter(|&(socket, generation)| self.table.is_current(socket, generation))
                .map(|(socket, _)| socket),
            _ => None,
        };
        let Some(index) = index else { return };
        if self.table.at(index).flags.has(Flags::ACCEPTED) && shard_set.samples.len() < SAMPLES {
            shard_set.samples.push(ConnectionId { index, generation: self.table.generation(index) });
        }
    }

    /// What this shard had to do since the last look, in completions, and whose they were; decides on nothing. Connections
    /// that were to leave and have not yet, stay.
    pub(crate) fn take_load(&mut self, shares: &mut Vec<Share>) -> u64 {
        shares.clear();
        let Some(shard_set) = &mut self.shard_set else { return 0 };
        let completions = self.stats.completions - shard_set.completions;
        shard_set.completions = self.stats.completions;
        shard_set.samples.sort_unstable();
        for connection in shard_set.samples.drain(..) {
            match shares.last_mut() {
                Some(share) if share.connection == connection => share.samples += 1,
                _ => shares.push(Share { connection, samples: 1 }),
            }
        }
        // An odd distance, since a request is the same few completions over and over.
        shard_set.every = u32::try_from(completions / SAMPLES as u64).unwrap_or(u32::MAX) | 1;
        shard_set.countdown = shard_set.countdown.clamp(1, shard_set.every);
        shard_set.leaving.clear();
        shard_set.seen.iter_mut().for_each(|(_, on_their_way)| *on_their_way = 0);
        let all = (0..shard_set.board.shards()).map(|shard| shard_set.board.connections(shard)).sum::<u64>();
        let mean = u32::try_from(all / shard_set.board.shards() as u64).unwrap_or(u32::MAX);
        shard_set.keep = (mean.saturating_add(mean / 4)).max(KEPT_MIN);
        completions
    }

    // ---- leaving ----

    /// The shard that an accepted connection is better given to, if there is one.
    pub(super) fn better_place(&mut self) -> Option<usize> {
        let shard_set = self.shard_set.as_mut()?;
        if self.connections < shard_set.keep {
            return None;
        }
        let ShardSet { me, proximity, board, seen, .. } = &mut **shard_set;
        let mut expected = |&shard: &usize| {
            let (before, on_their_way) = &mut seen[shard];
            let now = board.connections(shard);
            *on_their_way = on_their_way.saturating_sub(now.saturating_sub(*before));
            *before = now;
            (now + *on_their_way, shard)
        };
        let mine = u64::from(self.connections);
        // Away from the CPU that receives it a connection costs more (reports/scaling-2026-11-20.md): it goes for the sake of the
        // work alone. Many connections may have little to do, and a burst of them says nothing yet.
        let work = board.work(*me).unwrap_or(0);
        let has_less_to_do = |theirs: u64| theirs + theirs / 4 + u64::from(BUSY_WORK) <= work;
        // A difference that pays for the message, and the more so the further it goes.
        let mut margin = 1;
        for distance in proximity.iter() {
            let open = distance.iter().filter(|&&shard| board.work(shard).is_some_and(has_less_to_do));
            if let Some((theirs, least)) = open.map(&mut expected).min()
                && theirs + margin * (theirs / 4 + u64::from(KEPT_MIN) / 2) <= mine
            {
                seen[least].1 += 1;
                return Some(least);
            }
            margin *= 2;
        }
        None
    }

    /// Sends a connection to another shard as soon as it is idle. Asked again from time to time: it may be forgotten.
    pub(crate) fn hand_over(&mut self, connection: ConnectionId, to: usize) {
        let ConnectionId { index, generation } = connection;
        let Some(shard_set) = &mut self.shard_set else { return };
        if !self.table.is_current(index, generation) || shard_set.leaving.len() == LEAVING_MAX {
            return;
        }
        shard_set.leaving.push((connection, to));
        self.try_to_leave(index);
    }

    /// Whether a connection is to leave, and where to.
    #[inline]
    fn destination(&self, index: u32) -> Option<usize> {
        let shard_set = self.shard_set.as_ref().filter(|shard_set| !shard_set.leaving.is_empty())?;
        let connection = ConnectionId { index, generation: self.table.generation(index) };
        shard_set.leaving.iter().find(|(leaving, _)| *leaving == connection).map(|(_, to)| *to)
    }

    /// Called whenever a connection may have become ready to leave; does nothing for those that are to stay. Says whether
    /// it has left.
    #[inline]
    pub(super) fn try_to_leave(&mut self, index: u32) -> bool {
        match self.destination(index) {
            Some(to) => self.leave_if_at_rest(index, to),
            None => false,
        }
    }

    /// Out of the way of the many connections that go nowhere.
    #[cold]
    fn leave_if_at_rest(&mut self, index: u32, to: usize) -> bool {
        let is_quiet = self.is_quiet(index);
        let entry = self.table.at(index);
        // With another waiter, a beginning of a message or a state is kept here (see `idle`).
        let may_go = entry.waiter == NONE || entry.has_session();
        let is_at_rest = entry.flags.has(Flags::IDLE) && entry.send == NONE && may_go;
        if !is_quiet || !is_at_rest {
            return false;
        }
        if entry.flags.has(Flags::ARMED) {
            self.stop_receive(index);
            return false;
        }
        self.depart(index, to);
        true
    }

    /// A connection is not to leave any more.
    fn stay(&mut self, index: u32) {
        if let Some(shard_set) = &mut self.shard_set {
            shard_set.leaving.retain(|(connection, _)| connection.index != index);
        }
    }

    fn depart(&mut self, index: u32, to: usize) {
        self.unstarve(index);
        let idle_ms = self.deadline_in_ms(index);
        let peer = self.table.peer(index);
        let waiter = std::mem::replace(&mut self.table.at(index).waiter, NONE);
        let session = if waiter == NONE { None } else { self.states.take_session(waiter) };
        let entry = self.table.at(index);
        let Entry { listener, owner_byte, owner_word, .. } = *entry;
        let fd = entry.take_fd();
        let announced = self.table.proxied(index);
        let (is_new, is_unchecked) = (false, false);
        let handed = Handed {
            fd,
            listener,
            owner_byte,
            owner_word,
            peer,
            announced,
            is_new,
            is_unchecked,
            idle_ms,
            session,
        };
        self.forget_peer(index);
        self.deadlines.remove(&mut self.table, index);
        self.table.remove(index);
        self.connections -= 1;
        self.limit.closed(self.connections);
        self.connections_changed();
        self.stay(index);
        self.post_handed(handed, to);
    }

    /// Sends a descriptor on its way.
    pub(super) fn post_handed(&mut self, handed: Handed, to: usize) {
        let Some(doorbell) = self.shard_set.as_ref().map(|shard_set| shard_set.doorbells[to].clone()) else {
            return self.arrive(handed);
        };
        let number = match doorbell.put(Box::new(handed)) {
            Ok(number) => number,
            Err(handed) => return self.arrive(*handed),
        };
        self.stats.connections_migrated_out += 1;
        let key = Key::with_payload(Kind::Handed, 0).bits();
        let message = opcode::MsgRingData::new(types::Fd(doorbell.ring_fd()), 0, key, None).build();
        let returned = Key::with_payload(Kind::Returned, (to as u64) << NUMBER_BITS | number);
        // SAFETY: a message carries its data by value. The descriptor of the ring stays open until it is sent: the set has
        // the doorbell, and is kept when it is parted from.
        unsafe { self.push(message.flags(squeue::Flags::SKIP_SUCCESS), returned) };
    }

    /// A new connection that is better off elsewhere, before anything of it is here.
    pub(super) fn pass_on(&mut self, fd: OwnedFd, listener: u8, is_unchecked: bool, to: usize) {
        let (owner_byte, owner_word, peer, announced) = (0, 0, None, None);
        let (is_new, idle_ms, session) = (true, self.first_byte_ms, None);
        let handed = Handed {
            fd,
            listener,
            owner_byte,
            owner_word,
            peer,
            announced,
            is_new,
            is_unchecked,
            idle_ms,
            session,
        };
        self.post_handed(handed, to);
    }

    /// The name of this connection for other shards.
    #[cfg(test)]
    pub(crate) fn connection_id(&self, index: u32) -> ConnectionId {
        ConnectionId { index, generation: self.table.generation(index) }
    }

    // ---- arriving ----

    /// A message says that there are connections for this shard. All are taken, also those whose messages are to come.
    pub(super) fn fetch_handed(&mut self) {
        let Some(doorbell) = self.doorbell.clone() else { return };
        while let Some(handed) = doorbell.take() {
            self.stats.connections_migrated_in += 1;
            self.arrive(*handed);
        }
    }

    /// A message of ours has not arrived. Its connection may be gone all the same: another message had it fetched, or the
    /// other shard closed it as it ended.
    pub(super) fn take_back(&mut self, completion: Completion) {
        let payload = completion.key.payload();
        let (to, number) = ((payload >> NUMBER_BITS) as usize, payload & ((1 << NUMBER_BITS) - 1));
        let shard_set = self.shard_set.as_ref().or(self.parted.as_ref());
        if let Some(handed) = shard_set.and_then(|shard_set| shard_set.doorbells[to].take_back(number)) {
            self.stats.connections_migration_failed += 1;
            self.arrive(*handed);
        }
    }

    fn arrive(&mut self, handed: Handed) {
        if self.is_ending {
            return;
        }
        // One that was served before has had a place in the shard that it comes from.
        if handed.is_new && !self.limit.has_place(self.connections) {
            self.stats.accept_refused += 1;
            return;
        }
        let index = self.table.insert(handed.fd.into_raw_fd(), Flags::IDLE);
        let entry = self.table.at(index);
        entry.flags.set(Flags::ACCEPTED);
        entry.listener = handed.listener;
        (entry.owner_byte, entry.owner_word) = (handed.owner_byte, handed.owner_word);
        self.connections += 1;
        self.limit.keep(self.connections);
        self.connections_changed();
        match (handed.announced, handed.peer) {
            (Some(announced), _) => self.set_proxied(index, announced),
            (None, Some(peer)) => self.set_peer(index, peer),
            (None, None) => {}
        }
        if handed.is_unchecked && !self.may_stay(index) {
            return;
        }
        if let Some(session) = handed.session {
            if self.states.is_full() {
                return self.close(index);
            }
            self.table.at(index).waiter = self.states.put_session(session);
        }
        self.set_deadline(index, handed.idle_ms);
        self.arm_receive(index);
    }
}
