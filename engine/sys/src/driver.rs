//! The state of a shard's ring: which sockets exist, what is in flight, who waits for what.
//!
//! Handles (`Conn`, `Lease`, `Sending`, ...) reach the driver through a thread-local pointer, which keeps them a few
//! bytes wide. Inside, a completion is turned into a [`Wake`]: the one task that waited for it, or nobody. The
//! driver never polls a task and never runs foreign code, so it is never entered twice.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::task::Poll;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, squeue, types};

use crate::Settings;
use crate::buf::Buf;
use crate::buf_ring::{BufRing, GROUP};
use crate::key::{Key, Kind, NONE};
use crate::lease::RawLease;
use crate::op::{Ops, Payload, State};
use crate::ring::{Completion, Ring, Wait};
use crate::table::{Flags, QUEUE_MAX, QUEUE_MAX_UNREAD, Table};
use crate::unfit::Unfit;
use crate::wheel::{NEVER, Wheel};

/// How long a listener waits before it accepts again after descriptors or memory ran out.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Completions read from the ring at a time.
pub(crate) const BATCH: usize = 32;

thread_local! {
    /// The driver of this thread; null while somebody uses it and where there is none.
    static DRIVER: Cell<*mut Driver> = const { Cell::new(std::ptr::null_mut()) };
    static IS_SPENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on this thread's driver.
///
/// # Panics
/// Outside a runtime, or when called from inside itself: both are mistakes of ours.
pub(crate) fn with<R>(f: impl FnOnce(&mut Driver) -> R) -> R {
    try_with(f).expect("called outside of a sluice-sys runtime")
}

/// Like [`with`], but says `None` outside a runtime: for destructors.
pub(crate) fn try_with<R>(f: impl FnOnce(&mut Driver) -> R) -> Option<R> {
    // Debug builds take the pointer out for the time of the call, so that a nested call finds none and panics.
    let pointer = if cfg!(debug_assertions) { DRIVER.replace(std::ptr::null_mut()) } else { DRIVER.get() };
    // SAFETY: the pointer comes from `install` and stays valid until `uninstall` removes it. It is the only reference:
    // closures passed here are all in this crate, and neither they nor the driver call back into handles (a driver never
    // drops a `Lease`, a `Conn` or a future, and never polls); every debug build checks that.
    let driver = unsafe { pointer.as_mut() }?;
    let result = f(driver);
    if cfg!(debug_assertions) {
        DRIVER.set(pointer);
    }
    Some(result)
}

/// Bars this thread from another runtime: handles into the memory of an earlier one are still about.
pub(crate) fn spend_thread() {
    IS_SPENT.set(true);
}

/// Makes the driver reachable from handles on this thread.
pub(crate) fn install(driver: Box<Driver>) {
    assert!(DRIVER.get().is_null() && !IS_SPENT.get(), "this thread has, or had, a runtime already");
    DRIVER.set(Box::into_raw(driver));
}

/// Takes the driver back.
pub(crate) fn uninstall() -> Option<Box<Driver>> {
    let pointer = DRIVER.replace(std::ptr::null_mut());
    // SAFETY: a non-null pointer in the cell came from Box::into_raw in `install`, and it was just removed.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
}

/// Whom a completion concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Nobody,
    /// A task that waited for it.
    Task(u32),
    /// An idle connection that has bytes now and needs a worker.
    Worker(u32),
}

/// What a runtime did since it started. Read by the shard and published with its own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Accept failed for lack of descriptors or memory.
    pub accept_errors: u64,
    /// Connections closed at once because `connections_max` was reached.
    pub accept_refused: u64,
    /// The kernel found no receive buffer.
    pub buffers_ran_dry: u64,
    /// A socket's receive was stopped because its queue was full.
    pub receives_stopped: u64,
    /// Idle connections closed because their deadline had passed.
    pub idle_expired: u64,
    /// Completions read.
    pub completions: u64,
    /// Turns of the loop, one io_uring_enter each.
    pub turns: u64,
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
    /// Sockets whose receive found no buffer, in the order of finding none.
    starved: VecDeque<u32>,
    /// The task being polled.
    pub(crate) current: u32,
    /// Tasks to poll although nothing of theirs completed in the kernel.
    pub(crate) ready: VecDeque<u32>,
    /// Workers that exist, parked or serving.
    pub(crate) workers: u32,
    /// Workers that wait for a connection, the last one on top.
    pub(crate) parked_workers: Vec<u32>,
    /// The connection for the worker that is polled next.
    pub(crate) handed: Option<u32>,
    messages: VecDeque<i32>,
    message_waiter: u32,
    /// Accepted connections that are open.
    pub(crate) connections: u32,
    connections_max: u32,
    started: Instant,
    now_ms: u64,
    first_byte_ms: u64,
    pub(crate) stats: Stats,
}

impl Driver {
    pub(crate) fn new(settings: &Settings) -> Result<Driver, Unfit> {
        assert!(
            (64..=u32::from(u16::MAX)).contains(&settings.buffer_bytes),
            "lengths in a buffer are 16 bits wide"
        );
        let ring = Ring::new(settings.submission_entries, settings.submission_entries * 8)?;
        crate::probe::check(&ring)?;
        let buffers = BufRing::new(&ring, settings.buffers, settings.buffer_bytes).map_err(|error| {
            Unfit::new(
                format!("the kernel refuses the receive buffer ring: {error}"),
                "raise RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in systemd) or the memory cgroup",
            )
        })?;
        let table = Table::new(settings.sockets_expected as usize, buffers.count());
        Ok(Driver {
            ring,
            buffers,
            table,
            ops: Ops::new(),
            deadlines: Wheel::new(),
            stalls: Wheel::new(),
            starved: VecDeque::new(),
            current: NONE,
            ready: VecDeque::new(),
            workers: 0,
            parked_workers: Vec::new(),
            handed: None,
            messages: VecDeque::new(),
            message_waiter: NONE,
            connections: 0,
            connections_max: settings.connections_max,
            started: Instant::now(),
            now_ms: 0,
            first_byte_ms: settings.first_byte_ms,
            stats: Stats::default(),
        })
    }

    // ---- one turn ----

    /// Submits, waits if nothing is ready, and brings the clock up to date.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        self.feed_starved();
        self.buffers.offer();
        self.stats.turns += 1;
        let entered = self.ring.enter(self.wait());
        self.now_ms = self.started.elapsed().as_millis() as u64;
        entered
    }

    fn wait(&self) -> Wait {
        let next =
            [&self.deadlines, &self.stalls].into_iter().filter_map(|wheel| wheel.next_in_ms(self.now_ms));
        next.min().map_or(Wait::Forever, |ms| Wait::AtMost(Duration::from_millis(ms)))
    }

    pub(crate) fn completions<'a>(
        &mut self,
        into: &'a mut [MaybeUninit<cqueue::Entry>; BATCH],
    ) -> impl ExactSizeIterator<Item = Completion> + use<'a> {
        self.ring.completions(into)
    }

    /// Applies a completion and says who waits for it.
    pub(crate) fn complete(&mut self, completion: Completion) -> Wake {
        self.stats.completions += 1;
        match completion.key.kind() {
            Kind::Ignored => Wake::Nobody,
            Kind::Receive => self.received(completion),
            Kind::Accept => self.accepted(completion),
            Kind::Op => self.op_completed(completion),
            Kind::Message => {
                self.messages.push_back(completion.result);
                wake_of(&mut self.message_waiter)
            }
        }
    }

    /// One deadline that has passed and whom it concerns; `None` when none is left.
    pub(crate) fn expire(&mut self) -> Option<Wake> {
        if let Some(index) = self.stalls.expire(&mut self.ops, self.now_ms) {
            self.ops.at(index).timed_out = true;
            self.cancel(self.ops.key(index));
            return Some(Wake::Nobody);
        }
        let index = self.deadlines.expire(&mut self.table, self.now_ms)?;
        let entry = self.table.at(index);
        entry.flags.set(Flags::EXPIRED);
        if entry.flags.has(Flags::LISTENER) {
            self.arm_accept(index);
        } else if entry.flags.has(Flags::IDLE) {
            self.stats.idle_expired += 1;
            self.close(index);
        } else if entry.flags.has(Flags::RESTING) {
            self.stats.idle_expired += 1;
            self.retire(index);
        } else {
            return Some(wake_of(&mut entry.waiter));
        }
        Some(Wake::Nobody)
    }

    /// Sends that are under way on a socket.
    pub(crate) fn is_sending(&mut self, index: u32) -> bool {
        self.table.at(index).send != NONE
    }

    /// Milliseconds since the driver was made, as of this turn.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    // ---- sockets ----

    pub(crate) fn open_socket(&mut self, fd: RawFd) -> u32 {
        self.table.insert(fd, Flags::NONE)
    }

    pub(crate) fn open_timer(&mut self) -> u32 {
        self.table.insert(-1, Flags::TIMER)
    }

    pub(crate) fn open_listener(&mut self, fd: RawFd, id: u8) -> u32 {
        let index = self.table.insert(fd, Flags::LISTENER);
        self.table.at(index).listener = id;
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
        if self.table.at(index).flags.has(Flags::ACCEPTED) {
            self.connections -= 1;
        }
        self.deadlines.remove(&mut self.table, index);
        self.table.remove(index);
    }

    /// The part of closing that frees everything but the slot, for a socket whose handle still lives.
    fn retire(&mut self, index: u32) {
        while let Some(lease) = self.table.queue_pop(index) {
            self.give_back(lease);
        }
        let entry = self.table.at(index);
        let (fd, flags, mut send) = (entry.fd, entry.flags, entry.send);
        entry.fd = -1;
        entry.send = NONE;
        entry.flags.set(Flags::ENDED);
        entry.flags.clear(Flags::ARMED);
        if flags.has(Flags::ARMED) && !flags.has(Flags::STOPPING) {
            let kind = if flags.has(Flags::LISTENER) { Kind::Accept } else { Kind::Receive };
            self.cancel(self.table.key(kind, index));
        }
        while send != NONE {
            let next = self.ops.at(send).next;
            match self.ops.at(send).state {
                State::InFlight => self.cancel(self.ops.key(send)),
                _ => self.finish_op(send, -libc::ECANCELED),
            }
            send = next;
        }
        if fd >= 0 {
            let close = opcode::Close::new(types::Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS);
            // SAFETY: close refers to no memory.
            unsafe { self.push(close, Key::IGNORED) };
        }
    }

    pub(crate) fn set_deadline(&mut self, index: u32, after_ms: u64) {
        self.table.at(index).flags.clear(Flags::EXPIRED);
        let tick = Wheel::tick_after(self.now_ms, after_ms);
        self.deadlines.set(&mut self.table, index, tick);
    }

    pub(crate) fn clear_deadline(&mut self, index: u32) {
        self.table.at(index).flags.clear(Flags::EXPIRED);
        self.deadlines.set(&mut self.table, index, NEVER);
    }

    /// Hands the connection to the table until bytes arrive. Refused when bytes or an end are there already.
    pub(crate) fn park(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::IDLE, idle_ms)
    }

    /// Keeps the connection open with nobody waiting on it. Refused like [`Driver::park`].
    pub(crate) fn rest(&mut self, index: u32, idle_ms: u64) -> bool {
        self.let_go(index, Flags::RESTING, idle_ms)
    }

    fn let_go(&mut self, index: u32, flag: Flags, idle_ms: u64) -> bool {
        if !self.is_quiet(index) {
            return false;
        }
        let entry = self.table.at(index);
        // Without an armed receive, nobody has looked at the socket itself.
        if flag == Flags::RESTING && !entry.flags.has(Flags::ARMED) && !crate::socket::is_silent(entry.fd) {
            return false;
        }
        entry.flags.set(flag);
        entry.waiter = NONE;
        self.set_deadline(index, idle_ms);
        self.arm_receive(index);
        true
    }

    /// Ends [`Driver::rest`]; says whether the connection can still be used.
    pub(crate) fn resume(&mut self, index: u32) -> bool {
        self.table.at(index).flags.clear(Flags::RESTING);
        self.clear_deadline(index);
        self.is_quiet(index)
    }

    /// Neither bytes nor an end have arrived.
    pub(crate) fn is_quiet(&mut self, index: u32) -> bool {
        let entry = self.table.at(index);
        entry.queue_len == 0 && entry.error().is_none() && !entry.flags.has(Flags::ENDED)
    }

    /// Closes every connection that the table owns and that has nothing left to send; returns how many.
    pub(crate) fn close_idle(&mut self) -> usize {
        let mut idle = self.table.with_flag(Flags::IDLE);
        idle.retain(|&index| self.table.at(index).send == NONE);
        for &index in &idle {
            self.close(index);
        }
        idle.len()
    }

    // ---- receiving ----

    pub(crate) fn poll_receive(&mut self, index: u32) -> Poll<io::Result<Option<RawLease>>> {
        if let Some(lease) = self.table.queue_pop(index) {
            self.table.at(index).flags.clear(Flags::WANTED);
            return Poll::Ready(Ok(Some(lease)));
        }
        let current = self.current;
        let entry = self.table.at(index);
        if let Some(errno) = entry.error() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if entry.flags.has(Flags::ENDED) {
            return Poll::Ready(Ok(None));
        }
        if entry.flags.has(Flags::EXPIRED) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        entry.waiter = current;
        entry.flags.set(Flags::WANTED);
        self.arm_receive(index);
        Poll::Pending
    }

    /// Waits until the connection has failed, as the armed receive tells; `None` if none is armed to tell it.
    pub(crate) fn poll_failed(&mut self, index: u32) -> Poll<Option<i32>> {
        let current = self.current;
        let entry = self.table.at(index);
        if let Some(errno) = entry.error() {
            return Poll::Ready(Some(errno));
        }
        if !entry.flags.has(Flags::ARMED) || entry.flags.has(Flags::STOPPING) {
            return Poll::Ready(None);
        }
        entry.waiter = current;
        Poll::Pending
    }

    /// Waits until the multishot receive of a socket is out of the kernel, so that bytes can be received otherwise.
    pub(crate) fn poll_disarmed(&mut self, index: u32) -> Poll<()> {
        let current = self.current;
        let entry = self.table.at(index);
        if !entry.flags.has(Flags::ARMED) {
            // Nor must it be armed again when buffers come back.
            entry.flags.clear(Flags::STARVED);
            return Poll::Ready(());
        }
        entry.waiter = current;
        self.stop_receive(index);
        Poll::Pending
    }

    pub(crate) fn poll_expired(&mut self, index: u32) -> Poll<()> {
        let current = self.current;
        let entry = self.table.at(index);
        if entry.flags.has(Flags::EXPIRED) {
            return Poll::Ready(());
        }
        entry.waiter = current;
        Poll::Pending
    }

    fn received(&mut self, completion: Completion) -> Wake {
        if let Some(id) = completion.buffer() {
            self.buffers.take(id);
        }
        let Some(index) = self.table.current(completion.key) else {
            self.give_back_picked(completion);
            return Wake::Nobody;
        };
        let entry = self.table.at(index);
        if !completion.has_more() {
            entry.flags.clear(Flags::ARMED);
            entry.flags.clear(Flags::STOPPING);
        }
        match (completion.result, completion.buffer()) {
            (bytes @ 1.., Some(id)) => return self.bytes_arrived(index, id, bytes as u16),
            (0, _) => entry.flags.set(Flags::ENDED),
            (errno, _) if errno == -libc::ENOBUFS => {
                self.starve(index);
                return Wake::Nobody;
            }
            // Stopped on request; whoever waits arms it again when the queue is empty.
            (errno, _) if errno == -libc::ECANCELED => {
                let is_left_alone = entry.flags.has(Flags::RESTING) || entry.flags.has(Flags::IDLE);
                let wake = wake_of(&mut entry.waiter);
                if is_left_alone {
                    self.arm_receive(index);
                }
                return wake;
            }
            (errno, _) => entry.fail(-errno),
        }
        self.give_back_picked(completion);
        self.ended(index)
    }

    fn bytes_arrived(&mut self, index: u32, id: u16, bytes: u16) -> Wake {
        self.table.queue_push(index, id, bytes);
        let entry = self.table.at(index);
        let is_scarce = self.buffers.available() < usize::from(self.buffers.count() / 4);
        let queue_max = match entry.flags.has(Flags::WANTED) {
            _ if is_scarce => 1,
            false => QUEUE_MAX_UNREAD,
            true => QUEUE_MAX,
        };
        if entry.queue_len >= queue_max && entry.flags.has(Flags::ARMED) && !entry.flags.has(Flags::IDLE) {
            self.stop_receive(index);
            self.stats.receives_stopped += 1;
        }
        let entry = self.table.at(index);
        if entry.flags.has(Flags::IDLE) {
            entry.flags.clear(Flags::IDLE);
            return Wake::Worker(index);
        }
        if entry.flags.has(Flags::RESTING) {
            // Bytes that nobody asked for: whatever they are, no request may get them as its answer.
            self.retire(index);
            return Wake::Nobody;
        }
        wake_of(&mut entry.waiter)
    }

    fn ended(&mut self, index: u32) -> Wake {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::IDLE) {
            // A peer that only has finished sending still gets the rest of its answer; see `next_send`.
            if entry.send == NONE || entry.error().is_some() {
                self.close(index);
            }
        } else if entry.flags.has(Flags::RESTING) {
            self.retire(index);
        } else {
            return wake_of(&mut entry.waiter);
        }
        Wake::Nobody
    }

    fn arm_receive(&mut self, index: u32) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ARMED) || entry.flags.has(Flags::STARVED) {
            return;
        }
        entry.flags.set(Flags::ARMED);
        let fd = types::Fd(entry.fd);
        let receive = if entry.flags.has(Flags::ONE_BY_ONE) {
            // Length 0: as much as the buffer that the kernel picks holds.
            let receive = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(GROUP).build();
            receive.flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, GROUP).build()
        };
        let key = self.table.key(Kind::Receive, index);
        // SAFETY: the entry refers to no memory but the buffer group, which lives as long as the ring.
        unsafe { self.push(receive, key) };
    }

    /// Chooses how the next receives are armed; one that is armed otherwise is exchanged.
    pub(crate) fn set_one_by_one(&mut self, index: u32, is_wanted: bool) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ONE_BY_ONE) == is_wanted {
            return;
        }
        if is_wanted {
            entry.flags.set(Flags::ONE_BY_ONE);
        } else {
            entry.flags.clear(Flags::ONE_BY_ONE);
        }
        if is_wanted && entry.flags.has(Flags::ARMED) {
            self.stop_receive(index);
        }
    }

    fn stop_receive(&mut self, index: u32) {
        let entry = self.table.at(index);
        if !entry.flags.has(Flags::STOPPING) {
            entry.flags.set(Flags::STOPPING);
            let kind = if entry.flags.has(Flags::LISTENER) { Kind::Accept } else { Kind::Receive };
            self.cancel(self.table.key(kind, index));
        }
    }

    fn starve(&mut self, index: u32) {
        self.stats.buffers_ran_dry += 1;
        self.buffers.ran_dry();
        self.table.at(index).flags.set(Flags::STARVED);
        self.starved.push_back(index);
    }

    /// Arms receives again that found no buffer: as many as there are buffers now, so that they do not all come back
    /// with the same complaint.
    fn feed_starved(&mut self) {
        let mut to_arm = self.buffers.available();
        while to_arm > 0 {
            let Some(index) = self.starved.pop_front() else { return };
            let entry = self.table.at(index);
            // Without the flag it was closed or disarmed meanwhile.
            if entry.flags.has(Flags::STARVED) {
                entry.flags.clear(Flags::STARVED);
                self.arm_receive(index);
                to_arm -= 1;
            }
        }
    }

    pub(crate) fn buffer_base(&self, id: u16) -> NonNull<u8> {
        self.buffers.bytes(id)
    }

    pub(crate) fn give_back(&mut self, lease: RawLease) {
        self.buffers.give_back(lease.id);
    }

    fn give_back_picked(&mut self, completion: Completion) {
        if let Some(id) = completion.buffer() {
            self.buffers.give_back(id);
        }
    }

    /// Receive buffers held outside the kernel, now and at most.
    pub(crate) fn buffers_held(&self) -> (u32, u32) {
        (self.buffers.held(), self.buffers.held_max())
    }

    // ---- accepting ----

    fn accepted(&mut self, completion: Completion) -> Wake {
        let fd = completion.result;
        let Some(listener) = self.table.current(completion.key) else {
            // The listener is gone, yet somebody was accepted: the descriptor is ours to close.
            if fd >= 0 {
                self.close_descriptor(fd);
            }
            return Wake::Nobody;
        };
        let entry = self.table.at(listener);
        if !completion.has_more() {
            entry.flags.clear(Flags::ARMED);
            if entry.flags.has(Flags::STOPPING) {
                let wake = wake_of(&mut entry.waiter);
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
                return Wake::Nobody;
            }
            libc::ECANCELED => return Wake::Nobody,
            _ => self.stats.accept_errors += 1,
        }
        self.arm_accept(listener);
        Wake::Nobody
    }

    /// Admits what waits in the queue of a listener that is no longer armed.
    pub(crate) fn accept_queued(&mut self, listener: u32) {
        while let Some(fd) = crate::socket::accept_queued(self.table.at(listener).fd) {
            self.admit(fd, listener);
        }
    }

    fn admit(&mut self, fd: RawFd, listener: u32) {
        if self.connections >= self.connections_max {
            self.stats.accept_refused += 1;
            self.close_descriptor(fd);
            return;
        }
        self.stats.accepted += 1;
        let id = self.table.at(listener).listener;
        let index = self.table.insert(fd, Flags::IDLE);
        self.table.at(index).flags.set(Flags::ACCEPTED);
        self.connections += 1;
        self.table.at(index).listener = id;
        self.set_deadline(index, self.first_byte_ms);
        self.arm_receive(index);
    }

    fn arm_accept(&mut self, index: u32) {
        let entry = self.table.at(index);
        if entry.flags.has(Flags::ARMED) {
            return;
        }
        entry.flags.set(Flags::ARMED);
        let accept = opcode::AcceptMulti::new(types::Fd(entry.fd))
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build();
        let key = self.table.key(Kind::Accept, index);
        // SAFETY: multishot accept refers to no memory.
        unsafe { self.push(accept, key) };
    }

    fn close_descriptor(&mut self, fd: RawFd) {
        let close = opcode::Close::new(types::Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: close refers to no memory.
        unsafe { self.push(close, Key::IGNORED) };
    }

    // ---- operations ----

    /// Sends in order: behind a send of the same socket that is still under way, this one waits in line.
    pub(crate) fn send(&mut self, index: u32, payload: Payload, stall_ms: u64) -> u32 {
        let op = self.ops.insert(index, self.table.generation(index), payload);
        self.ops.at(op).stall_ms = u32::try_from(stall_ms).unwrap_or(u32::MAX);
        let head = self.table.at(index).send;
        if self.table.at(index).fd < 0 || self.table.at(index).flags.has(Flags::SEND_BROKEN) {
            self.finish_op(op, -libc::EPIPE);
        } else if head == NONE {
            self.table.at(index).send = op;
            self.submit_send(op);
        } else {
            let mut last = head;
            while self.ops.at(last).next != NONE {
                last = self.ops.at(last).next;
            }
            self.ops.at(last).next = op;
        }
        op
    }

    /// Waits until no send of the socket is under way.
    pub(crate) fn poll_flushed(&mut self, index: u32) -> Poll<()> {
        let mut last = self.table.at(index).send;
        if last == NONE {
            return Poll::Ready(());
        }
        while self.ops.at(last).next != NONE {
            last = self.ops.at(last).next;
        }
        self.ops.at(last).waiter = self.current;
        Poll::Pending
    }

    fn submit_send(&mut self, op: u32) {
        let slot = self.ops.at(op);
        let (socket, stall_ms) = (slot.socket, u64::from(slot.stall_ms));
        let (start, len) = match &slot.payload {
            Payload::SendBuf { buf, sent } => (buf[*sent..].as_ptr(), buf.len() - sent),
            Payload::SendLease(lease) => {
                // SAFETY: start lies inside the leased buffer.
                let start = unsafe { self.buffers.bytes(lease.id).add(usize::from(lease.start)) };
                (start.as_ptr().cast_const(), lease.len())
            }
            _ => unreachable!("only sends are sent"),
        };
        if stall_ms > 0 {
            self.stalls.set(&mut self.ops, op, Wheel::tick_after(self.now_ms, stall_ms));
        }
        let fd = types::Fd(self.table.at(socket).fd);
        let send = opcode::Send::new(fd, start, len as u32).flags(libc::MSG_NOSIGNAL).build();
        let key = self.ops.start(op);
        // SAFETY: the bytes belong to the payload, which the table keeps in place until the completion: a Buf's
        // heap block does not move with it, and a leased buffer is not given back before.
        unsafe { self.push(send, key) };
    }

    /// Receives into a buffer of ours. The socket's multishot receive must be out of the kernel.
    pub(crate) fn fill(&mut self, index: u32, mut buf: Buf, stall_ms: u64) -> u32 {
        buf.clear();
        let (start, room) = (buf.as_mut_ptr(), buf.capacity() as u32);
        let fd = types::Fd(self.table.at(index).fd);
        let receive = opcode::Recv::new(fd, start, room).build();
        self.start_op(index, Payload::Fill(buf), receive, stall_ms)
    }

    pub(crate) fn connect(&mut self, index: u32, address: &std::net::SocketAddr, stall_ms: u64) -> u32 {
        let (address, bytes) = crate::op::SockAddr::new(address);
        let address = Box::new(address);
        let fd = types::Fd(self.table.at(index).fd);
        let connect = opcode::Connect::new(fd, (&raw const *address).cast(), bytes).build();
        self.start_op(index, Payload::Address { _address: address }, connect, stall_ms)
    }

    /// Waits until the socket can be read or written, without doing it.
    pub(crate) fn poll_ready(&mut self, index: u32, events: u32, stall_ms: u64) -> u32 {
        let fd = types::Fd(self.table.at(index).fd);
        self.start_op(index, Payload::Nothing, opcode::PollAdd::new(fd, events).build(), stall_ms)
    }

    fn start_op(&mut self, index: u32, payload: Payload, entry: squeue::Entry, stall_ms: u64) -> u32 {
        let op = self.ops.insert(index, self.table.generation(index), payload);
        if stall_ms > 0 {
            self.stalls.set(&mut self.ops, op, Wheel::tick_after(self.now_ms, stall_ms));
        }
        let key = self.ops.start(op);
        // SAFETY: what the entry points to is heap memory owned by the payload, which the table now keeps until
        // the completion.
        unsafe { self.push(entry, key) };
        op
    }

    fn op_completed(&mut self, completion: Completion) -> Wake {
        let Some(index) = self.ops.completed(completion.key) else {
            return Wake::Nobody;
        };
        let is_send = self.ops.at(index).is_send();
        let result =
            if is_send { self.send_goes_on(index, completion.result) } else { Some(completion.result) };
        let Some(result) = result else { return Wake::Nobody };
        self.stalls.set(&mut self.ops, index, NEVER);
        let is_late = self.ops.at(index).timed_out && result == -libc::ECANCELED;
        let result = if is_late { -libc::ETIMEDOUT } else { result };
        if is_send {
            self.next_send(index, result);
        }
        let wake = wake_of(&mut self.ops.at(index).waiter);
        self.finish_op(index, result);
        wake
    }

    /// Counts what was sent and submits the rest; the final result once there is no rest or it cannot go on. Never a
    /// success for a part.
    fn send_goes_on(&mut self, index: u32, result: i32) -> Option<i32> {
        let op = self.ops.at(index);
        let Ok(bytes) = usize::try_from(result) else { return Some(result) };
        if op.payload.is_sent_by(bytes) {
            return Some(result);
        }
        let (socket, generation, timed_out) = (op.socket, op.socket_generation, op.timed_out);
        if timed_out || !self.table.is_current(socket, generation) || self.table.at(socket).fd < 0 {
            return Some(-libc::ECANCELED);
        }
        self.submit_send(index);
        None
    }

    /// The send at the head of its socket's line has ended: the next one goes, or none ever again.
    fn next_send(&mut self, index: u32, result: i32) {
        let op = self.ops.at(index);
        let (socket, generation, next, is_owned) = (op.socket, op.socket_generation, op.next, op.is_owned);
        if !self.table.is_current(socket, generation) || self.table.at(socket).send != index {
            return;
        }
        if result < 0 {
            self.break_sends(socket, next, result);
            if !is_owned {
                self.unsent(socket, -result);
            }
            return;
        }
        self.table.at(socket).send = next;
        if next != NONE {
            self.submit_send(next);
            return;
        }
        let flags = self.table.at(socket).flags;
        if flags.has(Flags::IDLE) && flags.has(Flags::ENDED) {
            self.close(socket);
        }
    }

    /// A send ended before its last byte: what stands in line behind it, and all that would come later, must not follow
    /// a fragment.
    fn break_sends(&mut self, socket: u32, mut next: u32, result: i32) {
        let entry = self.table.at(socket);
        entry.send = NONE;
        entry.flags.set(Flags::SEND_BROKEN);
        while next != NONE {
            let following = self.ops.at(next).next;
            let waiter = std::mem::replace(&mut self.ops.at(next).waiter, NONE);
            if waiter != NONE {
                self.ready.push_back(waiter);
            }
            self.finish_op(next, result);
            next = following;
        }
    }

    /// A send that nobody waits for failed: make sure that whoever reads the connection learns of it.
    fn unsent(&mut self, socket: u32, errno: i32) {
        let entry = self.table.at(socket);
        if entry.flags.has(Flags::IDLE) {
            self.close(socket);
        } else {
            entry.fail(errno);
            // Ends the receive that is armed, and with it the wait.
            crate::socket::shutdown_both(entry.fd);
        }
    }

    fn finish_op(&mut self, index: u32, result: i32) {
        let op = self.ops.at(index);
        op.result = result;
        if op.is_owned {
            op.state = State::Done;
        } else {
            self.free_op(index);
        }
    }

    fn free_op(&mut self, index: u32) -> Payload {
        let payload = self.ops.free(index);
        match payload {
            Payload::SendLease(lease) => {
                self.give_back(lease);
                Payload::Nothing
            }
            other => other,
        }
    }

    /// Collects a finished operation: its result and what it owned.
    pub(crate) fn poll_op(&mut self, index: u32) -> Poll<(i32, Payload)> {
        let current = self.current;
        let op = self.ops.at(index);
        if op.state != State::Done {
            op.waiter = current;
            return Poll::Pending;
        }
        let result = op.result;
        Poll::Ready((result, self.free_op(index)))
    }

    /// The future of an operation is gone. Sends go on; what only that future could use is cancelled.
    pub(crate) fn orphan(&mut self, index: u32) {
        let op = self.ops.at(index);
        op.is_owned = false;
        op.waiter = NONE;
        match op.state {
            State::Done => drop(self.free_op(index)),
            State::InFlight if op.payload.is_cancelled_with_its_future() => self.cancel(self.ops.key(index)),
            _ => {}
        }
    }

    fn cancel(&mut self, key: Key) {
        let cancel = opcode::AsyncCancel::new(key.bits()).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: cancel refers to no memory.
        unsafe { self.push(cancel, Key::IGNORED) };
    }

    // ---- messages ----

    pub(crate) fn post(&mut self, ring: RawFd, value: i32) {
        let message = opcode::MsgRingData::new(types::Fd(ring), value, Key::MESSAGE.bits(), None).build();
        // SAFETY: a message carries its data by value.
        unsafe { self.push(message.flags(squeue::Flags::SKIP_SUCCESS), Key::IGNORED) };
    }

    pub(crate) fn poll_message(&mut self) -> Poll<i32> {
        match self.messages.pop_front() {
            Some(value) => Poll::Ready(value),
            None => {
                self.message_waiter = self.current;
                Poll::Pending
            }
        }
    }

    pub(crate) fn ring_fd(&self) -> RawFd {
        self.ring.fd()
    }

    // ---- the end ----

    /// Closes all sockets and waits, for at most `patience`, until the kernel has given back what it was lent.
    pub(crate) fn wind_up(&mut self, patience: Duration) {
        for index in self.table.with_flag(Flags::OPEN) {
            self.close(index);
        }
        let until = Instant::now() + patience;
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        // Receives have no slot in the table any more; an enter that finds nothing after a pause says they are done.
        let mut quiet = 0;
        while (self.ops.in_flight() > 0 || quiet < 2) && Instant::now() < until {
            let pause = if self.ops.in_flight() > 0 { Duration::from_millis(10) } else { Duration::ZERO };
            if self.ring.enter(Wait::AtMost(pause.max(Duration::from_millis(1)))).is_err() {
                return;
            }
            let completions = self.ring.completions(&mut batch);
            quiet = if completions.len() == 0 { quiet + 1 } else { 0 };
            for completion in completions {
                self.complete(completion);
            }
        }
    }

    /// Operations, sockets and buffers that have not come back.
    pub(crate) fn outstanding(&self) -> Outstanding {
        Outstanding {
            sockets: self.table.open(),
            operations: self.ops.occupied() as u32,
            in_flight: self.ops.in_flight(),
            buffers: self.buffers.held(),
        }
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

    #[cfg(test)]
    pub(crate) fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }
}

/// What a runtime still holds. All zero after a clean end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Sockets, listeners and timers that are open.
    pub sockets: u32,
    /// Operations that were not collected.
    pub operations: u32,
    /// Operations that the kernel has not completed.
    pub in_flight: u32,
    /// Receive buffers held outside the kernel.
    pub buffers: u32,
}

fn wake_of(waiter: &mut u32) -> Wake {
    match std::mem::replace(waiter, NONE) {
        NONE => Wake::Nobody,
        task => Wake::Task(task),
    }
}
