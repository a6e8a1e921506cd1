//! The state of a shard's ring: which sockets exist, what is in flight, who waits for what.
//!
//! Handles (`Conn`, `Lease`, `Sending`, ...) reach the driver through a thread-local pointer, which keeps them a few
//! bytes wide. Inside, a completion is turned into a [`Wake`]: the one task that waited for it, or none. The
//! driver never polls a task and never runs foreign code, so it is never entered twice.

mod accept;
mod buffers;
mod closing;
mod handover;
mod idle;
mod messages;
mod operations;
mod peers;
mod receive;
mod send;
mod sockets;
mod thread;
mod timers;
mod waits;
mod wind_up;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::Waker;
use std::time::Instant;

use io_uring::{cqueue, opcode, squeue, types};

use crate::Settings;
use crate::buf_ring::BufRing;
use crate::connection_limit::{ConnectionLimit, LimitShare};
use crate::executor::SOON;
use crate::files::{HugePages, use_ordinary_pages};
use crate::host_unsupported::HostUnsupported;
use crate::key::{Key, Kind, NONE};
use crate::message::Doorbell;
use crate::op::Ops;
use crate::pages::MemoryRange;
use crate::partial::KeptBytes;
use crate::peers::PeerShare;
use crate::ring::{Completion, Ring, RingFailed};
use crate::side_tables::States;
use crate::table::Table;
use crate::wheel::Wheel;

#[cfg(test)]
pub(crate) use closing::CLOSING_MS;
pub(crate) use closing::Closing;
pub(crate) use handover::Handed;
pub use handover::{ConnectionId, Share};
pub(crate) use idle::Kept;
pub(crate) use thread::{install, spend_thread, try_with, uninstall, with};
pub(crate) use waits::Waits;
pub use wind_up::Outstanding;

/// When the first runtime of the process was made: all of them count their time from there, so that a time means the same on
/// the shard that a connection is given to.
static STARTED: OnceLock<Instant> = OnceLock::new();

/// Completions read from the ring at a time.
pub(crate) const BATCH: usize = 32;

/// The task that a completion concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    NoTask,
    /// A task that waited for it.
    Task(u32),
    /// An idle connection that has bytes now and needs a worker.
    Worker(u32),
}

/// Work for a worker.
pub(crate) enum Job {
    /// A connection that was parked.
    Connection(u32),
    Stream(StreamJob),
}

/// A stream: a session, and which of its streams.
pub(crate) struct StreamJob {
    pub(crate) session: Rc<dyn Any>,
    pub(crate) stream: u64,
}

/// Work of the loop between two system calls although nothing has completed.
pub(crate) struct Errands {
    /// Tasks that come soon, or [`NONE`]: one that was woken, and a worker for a stream.
    pub(crate) soon: u32,
    pub(crate) soon_worker: u32,
    /// A task that was woken.
    pub(crate) task: Option<u32>,
    /// A stream that waits for a worker.
    pub(crate) stream: Option<StreamJob>,
    /// The state of a connection that was closed, to be dropped.
    pub(crate) state: Option<Box<dyn Any>>,
}

/// What a runtime did since it started. Read by the shard and published with its own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Accept failed for lack of descriptors or memory.
    pub accept_errors: u64,
    /// Connections closed at once because the limit of connections was reached.
    pub accept_refused: u64,
    /// Connections closed at once because their peer's address had too many.
    pub peer_refused: u64,
    /// The kernel found no receive buffer.
    pub recv_buffers_exhausted: u64,
    /// A socket's receive came to its bound, or was stopped, with bytes in its queue that nothing had taken.
    pub reads_paused: u64,
    /// Connections ended because they held receive buffers the longest when others found none.
    pub buffers_reclaimed: u64,
    /// Connections ended because more was received for them than their queue takes.
    pub queues_overrun: u64,
    /// Sends, and waits for room to send, given up because the peer took nothing in its time.
    pub sends_stalled: u64,
    /// Sends, and waits for room to send, given up because the peer took too little in all its time.
    pub sends_too_slow: u64,
    /// Idle connections closed because their deadline had passed.
    pub idle_expired: u64,
    /// Connections given to other shards.
    pub connections_migrated_out: u64,
    /// Connections that other shards gave to this one.
    pub connections_migrated_in: u64,
    /// Of those given away, the ones that came back because the other shard could not be reached.
    pub connections_migration_failed: u64,
    /// Completions read.
    pub completions: u64,
    /// Turns of the loop, one io_uring_enter each.
    pub loop_iterations: u64,
}

/// How much one armed receive takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadAheadBytes {
    /// As many bytes as this, or a buffer more: a multishot receive that ends by itself (Linux 6.17).
    Bounded { accepted: u32, connected: u32 },
    /// The kernel cannot bound a multishot receive, or none is wanted: every buffer is asked for by itself.
    OneBuffer,
}

pub(crate) struct Driver {
    // By the time these are dropped `wind_up` has seen the kernel give everything back; else they are leaked.
    ring: Ring,
    buffers: BufRing,
    table: Table,
    ops: Ops,
    /// Deadlines of sockets: what they wait to receive.
    deadlines: Wheel,
    /// Deadlines of operations: a send without progress, a connect.
    stalls: Wheel,
    /// Sockets whose receive found no buffer.
    starved: buffers::Starved,
    /// When buffers were last taken back from their holders, and when their memory is to be looked at again.
    reclaimed_ms: u64,
    trim_due_ms: u64,
    /// How much an armed receive may take before it has to be armed again: from a client, from a server.
    read_ahead: ReadAheadBytes,
    /// The bytes that parked connections have sent of an incomplete message.
    kept: KeptBytes,
    /// The state that connections are parked with.
    states: States,
    /// Of connections that were closed; to be dropped outside of the driver.
    abandoned: Vec<Box<dyn Any>>,
    /// What is attached to sockets, by their index, until no connection of theirs exists any more.
    held: HashMap<u32, Box<dyn Any>>,
    /// The task being polled.
    pub(crate) current: u32,
    /// Who waits for what, and the tasks to poll although nothing of theirs completed in the kernel.
    pub(crate) waits: Waits,
    /// Workers that exist, parked or serving.
    pub(crate) workers: u32,
    /// Workers that wait for a connection, the last one on top.
    pub(crate) parked_workers: Vec<u32>,
    /// When some of them are to be looked at again, if they are.
    pub(crate) workers_trim_in_ms: Option<u64>,
    /// For the worker that is polled next.
    pub(crate) handed: Option<Job>,
    /// Streams that wait for a worker.
    pub(crate) streams: VecDeque<StreamJob>,
    messages: VecDeque<i32>,
    message_waiter: u32,
    /// Accepted connections that are open.
    pub(crate) connections: u32,
    /// The limit of connections, which shards may share.
    limit: LimitShare,
    /// Counts connections by their peer's address, if there is a limit.
    peers: Option<PeerShare>,
    started: Instant,
    now_ms: u64,
    first_byte_ms: u64,
    /// The other shards, where connections are shared with them.
    shard_set: Option<Box<handover::ShardSet>>,
    /// ... where they were: messages to them may still be on their way.
    parted: Option<Box<handover::ShardSet>>,
    /// Where others reach this runtime, once it was asked for.
    doorbell: Option<Doorbell>,
    /// Handles were left when the runtime ended.
    handles_left: bool,
    /// Nothing new is wanted.
    is_ending: bool,
    pub(crate) stats: Stats,
}

impl Driver {
    pub(crate) fn new(settings: &Settings) -> Result<Driver, HostUnsupported> {
        assert!(
            (64..=u32::from(u16::MAX)).contains(&settings.buffer_bytes),
            "lengths in a buffer are 16 bits wide"
        );
        let mut ring = Ring::new(settings.submission_entries, settings.submission_entries * 8)?;
        crate::probe::check(&ring)?;
        if let Some(time) = settings.busy_poll {
            ring.poll_busily(time).map_err(|error| HostUnsupported::from_busy_poll(&error))?;
        }
        let read_ahead = if settings.read_ahead_bytes > 0 && ring.bounds_multishot()? {
            ReadAheadBytes::Bounded {
                accepted: settings.buffer_bytes,
                connected: settings.read_ahead_bytes.max(settings.buffer_bytes),
            }
        } else {
            ReadAheadBytes::OneBuffer
        };
        let buffers = BufRing::new(&ring, settings.buffers, settings.buffer_bytes, settings.huge_pages)?;
        let table = Table::new(settings.sockets_expected as usize, buffers.count());
        if settings.huge_pages == HugePages::Off {
            table.memory().iter().for_each(|range| use_ordinary_pages(range.start, range.bytes));
        }
        let waits = Waits::new().map_err(|error| HostUnsupported::from_eventfd(&error))?;
        let started = *STARTED.get_or_init(Instant::now);
        let now_ms = started.elapsed().as_millis() as u64;
        Ok(Driver {
            ring,
            buffers,
            table,
            ops: Ops::new(),
            deadlines: Wheel::starting_at(now_ms),
            stalls: Wheel::starting_at(now_ms),
            starved: buffers::Starved::default(),
            reclaimed_ms: now_ms,
            trim_due_ms: 0,
            read_ahead,
            kept: KeptBytes::default(),
            states: States::new(),
            abandoned: Vec::new(),
            held: HashMap::new(),
            current: NONE,
            waits,
            workers: 0,
            parked_workers: Vec::new(),
            workers_trim_in_ms: None,
            handed: None,
            streams: VecDeque::new(),
            messages: VecDeque::new(),
            message_waiter: NONE,
            connections: 0,
            limit: ConnectionLimit::new(1, settings.connections_max).share(0),
            peers: None,
            started,
            now_ms,
            first_byte_ms: settings.first_byte_ms,
            shard_set: None,
            parted: None,
            doorbell: None,
            handles_left: false,
            is_ending: false,
            stats: Stats::default(),
        })
    }

    /// Submits, waits if nothing is ready, and brings the clock up to date.
    pub(crate) fn turn(&mut self) -> Result<(), RingFailed> {
        self.prepare();
        self.stats.loop_iterations += 1;
        let entered = self.ring.enter(self.wait());
        self.now_ms = self.started.elapsed().as_millis() as u64;
        entered
    }

    /// Has as many receive buffers on offer, and as many receives armed, as can be.
    fn prepare(&mut self) {
        self.reclaim();
        self.feed_starved();
        self.trim_buffers();
        self.buffers.offer();
    }

    pub(crate) fn completions<'a>(
        &mut self,
        into: &'a mut [MaybeUninit<cqueue::Entry>; BATCH],
    ) -> impl ExactSizeIterator<Item = Completion> + Clone + use<'a> {
        self.ring.completions(into)
    }

    /// Says who waits for a completion that comes soon ([`NONE`] if that is no task), and begins to look at one that comes later.
    #[inline]
    pub(crate) fn look_ahead(&mut self, soon: Option<Completion>, later: Option<Completion>) -> u32 {
        match later.map(|later| (later.key.kind(), later.key.index())) {
            Some((Kind::Receive, index)) => self.table.prefetch(index),
            Some((Kind::Op, index)) => self.ops.prefetch(index),
            _ => {}
        }
        match soon.map(|soon| (soon.key.kind(), soon.key.index())) {
            Some((Kind::Receive, index)) => self.table.waiter(index),
            Some((Kind::Op, index)) => self.ops.waiter(index),
            _ => NONE,
        }
    }

    /// Applies a completion and says who waits for it.
    pub(crate) fn complete(&mut self, completion: Completion) -> Wake {
        self.stats.completions += 1;
        self.sample(&completion);
        match completion.key.kind() {
            Kind::Ignored => Wake::NoTask,
            Kind::Receive => self.received(completion),
            Kind::Accept => self.accepted(completion),
            Kind::Op => self.op_completed(completion),
            Kind::Message => {
                self.messages.push_back(completion.result);
                self.waits.take(&mut self.message_waiter)
            }
            Kind::Handed => {
                self.fetch_handed();
                Wake::NoTask
            }
            Kind::Returned => {
                self.take_back(completion);
                Wake::NoTask
            }
            Kind::Woken => {
                self.woken(completion);
                Wake::NoTask
            }
        }
    }

    /// Has the ring look after what other threads wake.
    pub(crate) fn arm_wakes(&mut self) {
        let eventfd = types::Fd(self.waits.eventfd());
        let poll = opcode::PollAdd::new(eventfd, libc::POLLIN as u32).multi(true).build();
        // SAFETY: a poll refers to no memory.
        unsafe { self.push(poll, Key::WOKEN) };
    }

    #[cold]
    fn woken(&mut self, completion: Completion) {
        if !completion.has_more() && completion.result != -libc::ECANCELED && !self.is_ending {
            self.arm_wakes();
        }
        self.waits.fetch_woken();
    }

    /// One of each kind of errand, so that none waits for another kind to come to its end.
    pub(crate) fn next_errands(&mut self) -> Errands {
        Errands {
            soon: self.waits.ready_behind(SOON),
            soon_worker: self.soon_worker(),
            task: self.waits.next_ready(),
            stream: self.streams.pop_front(),
            state: self.abandoned.pop(),
        }
    }

    /// The worker that gets one of the next streams.
    fn soon_worker(&self) -> u32 {
        let behind = self.parked_workers.len().checked_sub(SOON + 1);
        match behind {
            Some(at) if self.streams.len() > SOON => self.parked_workers[at],
            _ => NONE,
        }
    }

    pub(crate) fn has_errands(&self) -> bool {
        self.waits.is_any_ready() || !self.streams.is_empty() || !self.abandoned.is_empty()
    }

    /// The task that is polled from now on, and its waker.
    #[inline]
    pub(crate) fn begin_poll(&mut self, task: u32) -> Waker {
        self.current = task;
        self.waits.task_ref(task).waker()
    }

    /// The memory of ring, buffers and sockets.
    pub(crate) fn memory(&self) -> Vec<MemoryRange> {
        [self.ring.memory(), &self.buffers.memory(), &self.table.memory()].concat()
    }

    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push(&mut self, entry: squeue::Entry, key: Key) {
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(entry.user_data(key.bits())) };
    }

    #[cfg(test)]
    pub(crate) fn op_generation(&self, index: u32) -> u32 {
        self.ops.key(index).generation()
    }

    /// Whether this kernel bounds a multishot receive.
    #[cfg(test)]
    pub(crate) fn bounds_receives(&self) -> bool {
        self.read_ahead != ReadAheadBytes::OneBuffer
    }

    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn buffer_ring(&mut self) -> &mut BufRing {
        &mut self.buffers
    }

    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn ops(&mut self) -> &mut Ops {
        &mut self.ops
    }

    /// What a turn does before its system call, so many milliseconds after the last.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn prepare_turn(&mut self, after_ms: u64) {
        self.now_ms += after_ms;
        self.prepare();
    }
}
