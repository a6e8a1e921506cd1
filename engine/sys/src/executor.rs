//! The loop of a shard: tasks that are polled when the one thing they wait for has happened.
//!
//! A future of this crate that must wait leaves its task's number with what it waits for; the completion hands the number
//! back and the loop polls that task at once, without a waker and without a run queue. Futures that are not ours get a waker
//! (see [`waker`](crate::waker)); a task that is woken by one is polled in the same turn, and nothing sleeps before. Tasks that
//! wake each other have a budget in each turn, so that they do not keep the ring from being served.
//!
//! What wakes is the task, not the context's waker: a combinator that makes wakers of its own and polls only those of its
//! parts whose waker was woken is of no use for futures of this crate; one that polls all its parts (`join!`, `select!`) is.
//!
//! Connection code runs in workers: coroutines that take one connection after another ([`next_connection`]), so that serving
//! builds and drops no future. Parked workers wait on a stack; the one that parked last, whose memory is warm, gets the next
//! connection.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::Settings;
use crate::connection_limit::LimitShare;
use crate::driver::{
    self, BATCH, ConnectionId, Driver, Errands, Job, Kept, Outstanding, Share, Stats, StreamJob, Wake,
};
use crate::heap;
use crate::host_unsupported::HostUnsupported;
use crate::key::NONE;
use crate::load_board::LoadBoard;
use crate::message::Doorbell;
use crate::pages::ShardMemory;
use crate::partial::PartialMessage;
use crate::peers::{PeerBounds, PeerShare};
use crate::prefetch::prefetch;
use crate::ring::RingFailed;
use crate::socket::Conn;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// How long the end of a runtime waits for the kernel to give back what it was lent.
const WIND_UP: Duration = Duration::from_secs(2);

/// Parked connections that get a worker in one turn because they are late.
const LATE_PER_TURN: usize = 64;

/// So often in one turn the loop polls a task that another task has woken, gives a stream to a worker and drops the state of a
/// closed connection.
const ERRANDS_PER_TURN: usize = 256;

/// So far ahead of the completion at hand the task that another one wakes is brought into the cache, and so far the entry by which
/// the task is found.
pub(crate) const SOON: usize = 2;
const LATER: usize = 5;

/// How often it is looked which parked workers nothing needs any more.
const TRIM_MS: u64 = 1_000;

/// So many of them are dropped in one turn: bounded work, also after the peak of a flood.
pub(crate) const TRIMMED_PER_TURN: usize = 256;

/// So many workers that were dropped, one after the other or at once, are the end of a peak: what it had on the heap goes back
/// to the system.
const PEAK_WORKERS: usize = 256;

/// ... when none was dropped for so long, and not more often than that.
const PEAK_OVER_MS: u64 = 5_000;
const GIVE_BACK_EVERY_MS: u64 = 60_000;

/// A shard's ring and the tasks on it. Made and run on one thread.
pub struct Runtime {
    tasks: Tasks,
    completions_per_turn: usize,
    _on_this_thread: PhantomData<*const u8>,
}

/// Where a task's memory is, as it was before its first poll: a future that was polled may have borrowed from itself. Its size is
/// in the bits that are 0 by alignment, so that a silent tunnel pays for one word; it is for hints, which nothing depends on.
#[derive(Clone, Copy)]
struct Place(*const u8);

impl Place {
    const UNIT_BYTES: usize = 256;
    const UNITS: usize = 15;

    fn of(task: &Task) -> Place {
        let start: *const u8 = (&raw const **task).cast();
        let units = size_of_val(&**task).div_ceil(Self::UNIT_BYTES).min(Self::UNITS);
        Place(start.map_addr(|address| address & !Self::UNITS | units))
    }

    #[inline]
    fn prefetch(self) {
        let units = self.0.addr() & Self::UNITS;
        prefetch(self.0.map_addr(|address| address & !Self::UNITS), units * Self::UNIT_BYTES);
    }
}

struct Tasks {
    slots: Vec<Option<Task>>,
    /// Where the memory of each is.
    places: Vec<Place>,
    free: Vec<u32>,
    workers_kept: usize,
    /// The least workers that were parked at the end of a turn since they were last trimmed.
    parked_least: usize,
    trim_due_ms: u64,
    /// The coldest ones that are to be dropped still.
    surplus: usize,
    /// Workers dropped since free memory was last returned, and when the last one was.
    dropped: usize,
    dropped_ms: u64,
    give_back_due_ms: u64,
}

impl Runtime {
    /// Sets up the ring and its buffers on the calling thread, which should be pinned already.
    ///
    /// # Errors
    /// [`HostUnsupported`] says what the host lacks.
    ///
    /// # Panics
    /// When the thread has a runtime already, or has had one of which handles (connections, sends, timers, ...) are left.
    pub fn new(settings: &Settings) -> Result<Runtime, HostUnsupported> {
        driver::install(Box::new(Driver::new(settings)?));
        Ok(Runtime {
            tasks: Tasks::keeping(settings.workers_kept),
            completions_per_turn: settings.completions_per_turn,
            _on_this_thread: PhantomData,
        })
    }

    /// Counts connections by their peer's address from now on, and keeps them within these bounds.
    pub fn count_peers(&self, share: PeerShare, bounds: PeerBounds) {
        driver::with(|driver| driver.count_peers(share, bounds));
    }

    /// Keeps accepted connections within a limit that all shards share, in place of [`Settings::connections_max`]. Before the
    /// first is accepted.
    pub fn limit_connections(&self, share: LimitShare) {
        driver::with(|driver| driver.limit_connections(share));
    }

    /// Runs `main` to its end, with as many workers beside it as there are busy connections. Returns what could not
    /// be given back.
    ///
    /// # Errors
    /// When the kernel refuses to go on with the ring, which it does for no fault of a peer, or has lost completions. All
    /// connections are cut.
    pub fn run<M, W, F>(mut self, main: M, mut worker: W) -> Result<Outstanding, RingFailed>
    where
        M: Future<Output = ()> + 'static,
        W: FnMut() -> F,
        F: Future<Output = ()> + 'static,
    {
        let main = self.tasks.add(Box::pin(main));
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        driver::with(Driver::arm_wakes);
        self.tasks.poll(main);
        while self.tasks.is_alive(main) {
            self.poll_spawned();
            driver::with(Driver::turn)?;
            let mut budget = self.completions_per_turn;
            while budget > 0 {
                let completions = driver::with(|driver| driver.completions(&mut batch));
                let read = completions.len();
                let mut soon = completions.clone().skip(SOON);
                let mut later = completions.clone().skip(LATER);
                for completion in completions {
                    let task = driver::with(|driver| driver.look_ahead(soon.next(), later.next()));
                    self.tasks.prefetch(task);
                    let wake = driver::with(|driver| driver.complete(completion));
                    self.tasks.wake(wake, &mut worker);
                }
                if read < BATCH {
                    break;
                }
                budget = budget.saturating_sub(read);
            }
            self.expire(&mut worker);
            self.run_errands(&mut worker);
            self.tasks.trim();
        }
        // It may own handles.
        drop(worker);
        Ok(self.end())
    }

    /// Wakes whom a deadline concerns. Connections that need a worker for it come in portions, so that a flood of them
    /// which is late all at once does not have that many workers at once; the wheel keeps the others due.
    fn expire<W, F>(&mut self, worker: &mut W)
    where
        W: FnMut() -> F,
        F: Future<Output = ()> + 'static,
    {
        let mut workers = 0;
        while workers < LATE_PER_TURN
            && let Some(wake) = driver::with(Driver::expire)
        {
            workers += usize::from(matches!(wake, Wake::Worker(_)));
            self.tasks.wake(wake, worker);
        }
    }

    /// Gives spawned tasks their first poll. What those spawn is polled after the ring was served.
    fn poll_spawned(&mut self) {
        for task in SPAWNED.take() {
            let id = self.tasks.add(task);
            self.tasks.poll(id);
        }
        for task in SPAWNED.take() {
            let id = self.tasks.add(task);
            driver::with(|driver| driver.waits.make_ready(id));
        }
    }

    /// Polls tasks that were woken by another task's doing, and those that they wake in turn, gives streams to workers, and
    /// drops states, up to a budget. What is left waits until the ring was served, which does not sleep then.
    fn run_errands<W, F>(&mut self, worker: &mut W)
    where
        W: FnMut() -> F,
        F: Future<Output = ()> + 'static,
    {
        for _ in 0..ERRANDS_PER_TURN {
            let Errands { soon, soon_worker, task, stream, state } = driver::with(Driver::next_errands);
            self.tasks.prefetch(soon);
            self.tasks.prefetch(soon_worker);
            if task.is_none() && stream.is_none() && state.is_none() {
                return;
            }
            if let Some(id) = task {
                self.tasks.poll(id);
            }
            if let Some(stream) = stream {
                self.tasks.give(Job::Stream(stream), worker);
            }
            drop(state);
        }
    }

    fn end(mut self) -> Outstanding {
        self.tasks.clear_all();
        driver::with(|driver| driver.wind_up(WIND_UP));
        driver::with(|driver| driver.outstanding())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.tasks.clear_all();
        let Some(mut driver) = driver::uninstall() else { return };
        driver.wind_up(WIND_UP);
        let left = driver.outstanding();
        let is_memory_lent = left.buffers > 0 || left.in_flight > 0 || driver.has_failed();
        if is_memory_lent || driver.handles_left() {
            driver::spend_thread();
        }
        if is_memory_lent {
            // Code outside kept a lease, or the kernel an operation: their memory must outlive them.
            std::mem::forget(driver);
        }
    }
}

impl Tasks {
    fn keeping(workers_kept: usize) -> Tasks {
        Tasks {
            slots: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            workers_kept,
            parked_least: 0,
            trim_due_ms: 0,
            surplus: 0,
            dropped: 0,
            dropped_ms: 0,
            give_back_due_ms: 0,
        }
    }

    fn add(&mut self, task: Task) -> u32 {
        let place = Place::of(&task);
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(task);
            self.places[id as usize] = place;
            id
        } else {
            driver::with(|driver| driver.waits.add_number());
            self.slots.push(Some(task));
            self.places.push(place);
            // Room for the numbers of all tasks, so that their end allocates nothing.
            self.free.reserve(self.slots.capacity());
            self.slots.len() as u32 - 1
        }
    }

    /// Drops all tasks, also those that others spawn as they are dropped.
    fn clear(&mut self) {
        self.slots.clear();
        self.places.clear();
        while !SPAWNED.take().is_empty() {}
    }

    /// Drops also what the driver has of others: streams without a worker and the states of parked connections. Their
    /// destructors may use the driver, and may leave more of it.
    fn clear_all(&mut self) {
        loop {
            self.clear();
            let of_others =
                driver::try_with(|driver| (std::mem::take(&mut driver.streams), driver.take_states()));
            if of_others.is_none_or(|(streams, states)| streams.is_empty() && states.is_empty()) {
                return;
            }
        }
    }

    fn is_alive(&self, id: u32) -> bool {
        self.slots[id as usize].is_some()
    }

    fn wake<W, F>(&mut self, wake: Wake, worker: &mut W)
    where
        W: FnMut() -> F,
        F: Future<Output = ()> + 'static,
    {
        match wake {
            Wake::NoTask => {}
            Wake::Task(id) => self.poll(id),
            Wake::Worker(connection) => self.give(Job::Connection(connection), worker),
        }
    }

    /// Has a worker do this: the one that parked last, or a new one.
    fn give<W, F>(&mut self, job: Job, worker: &mut W)
    where
        W: FnMut() -> F,
        F: Future<Output = ()> + 'static,
    {
        let parked = driver::with(|driver| {
            driver.handed = Some(job);
            driver.parked_workers.pop()
        });
        let id = parked.unwrap_or_else(|| {
            driver::with(|driver| driver.workers += 1);
            self.add(Box::pin(worker()))
        });
        self.poll(id);
        debug_assert!(driver::with(|driver| driver.handed.is_none()), "a worker begins by taking");
    }

    fn poll(&mut self, id: u32) {
        // A number may outlive its task by a completion; then there is no task to poll.
        let Some(Some(task)) = self.slots.get_mut(id as usize) else { return };
        // Dropping it would do nothing.
        let waker = ManuallyDrop::new(driver::with(|driver| driver.begin_poll(id)));
        let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
        driver::with(|driver| driver.current = NONE);
        if polled.is_ready() {
            self.remove(id);
        }
    }

    /// The task is polled soon, if it has not ended.
    #[inline]
    fn prefetch(&self, id: u32) {
        if let Some(place) = self.places.get(id as usize) {
            place.prefetch();
        }
    }

    fn remove(&mut self, id: u32) {
        driver::with(|driver| driver.waits.end_task(id));
        self.slots[id as usize] = None;
        self.free.push(id);
    }

    /// Drops the coldest parked workers, of those that were not needed for a while. What one batch of requests uses and the next
    /// one uses again is not surplus, however many of them are parked in between.
    fn trim(&mut self) {
        let (now_ms, parked) = driver::with(|driver| (driver.now_ms(), driver.parked_workers.len()));
        self.parked_least = self.parked_least.min(parked);
        if now_ms >= self.trim_due_ms {
            self.surplus = self.parked_least.saturating_sub(self.workers_kept);
            self.trim_due_ms = now_ms + TRIM_MS;
            self.parked_least = parked;
        } else if self.surplus == 0 {
            return;
        }
        // Some may be in use again since they were counted.
        self.surplus = self.surplus.min(self.parked_least.saturating_sub(self.workers_kept));
        if self.surplus > 0 {
            self.drop_workers(self.surplus.min(TRIMMED_PER_TURN));
            self.dropped_ms = now_ms;
        } else if self.dropped >= PEAK_WORKERS
            && now_ms >= self.give_back_due_ms.max(self.dropped_ms + PEAK_OVER_MS)
        {
            self.dropped = 0;
            self.give_back_due_ms = now_ms + GIVE_BACK_EVERY_MS;
            heap::give_back_free_memory();
        }
        // A shard that has nothing else to do looks again all the same.
        let is_wanted = parked > self.workers_kept || self.dropped >= PEAK_WORKERS;
        let in_ms = if self.surplus > 0 { Some(0) } else { is_wanted.then_some(TRIM_MS) };
        driver::with(|driver| driver.workers_trim_in_ms = in_ms);
    }

    /// Drops the coldest parked workers.
    fn drop_workers(&mut self, count: usize) {
        self.dropped += count;
        self.surplus -= count;
        self.parked_least -= count;
        let mut parked = driver::with(|driver| {
            driver.workers -= count as u32;
            std::mem::take(&mut driver.parked_workers)
        });
        // Their futures may use the driver. No worker is polled meanwhile, so none parks.
        for id in parked.drain(..count) {
            self.remove(id);
        }
        driver::with(|driver| driver.parked_workers = parked);
    }
}

std::thread_local! {
    /// Tasks spawned since the loop last looked.
    static SPAWNED: std::cell::RefCell<Vec<Task>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Starts a task on this thread's runtime.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    SPAWNED.with_borrow_mut(|spawned| spawned.push(Box::pin(task)));
}

/// Waits for the next connection that has bytes to read. Only for the workers of [`Runtime::run`], all of which park
/// connections without bytes: see [`next_partial_connection`].
pub async fn next_connection() -> Conn {
    next_partial_connection().await.0
}

/// Waits for the next connection that has bytes to read, and says what it was parked with (see [`Conn::park_with`]).
///
/// # Panics
/// When there is other work: workers of a runtime that parks connections with a state or has streams wait by [`next_work`].
pub async fn next_partial_connection() -> (Conn, Option<PartialMessage>) {
    let mut is_parked = false;
    poll_fn(|_| {
        poll_work(&mut is_parked).map(|work| match work {
            Work::Connection(conn, kept) => (conn, kept),
            Work::Session(..) | Work::Stream(..) => {
                panic!("a worker that takes connections alone was given other work")
            }
        })
    })
    .await
}

/// Work for a worker.
#[derive(Debug)]
pub enum Work {
    /// A connection that has bytes to read, and the bytes of a message that came before (see [`Conn::park_with`]).
    Connection(Conn, Option<PartialMessage>),
    /// A connection that has bytes to read, and the state that it was parked with (see [`Conn::park_with_state`]).
    Session(Conn, Box<dyn Any>),
    /// A stream of a session (see [`hand_to_worker`]).
    Stream(Rc<dyn Any>, u64),
}

/// Waits for a connection that has bytes to read, or for a stream. Only for the workers of [`Runtime::run`].
pub async fn next_work() -> Work {
    let mut is_parked = false;
    poll_fn(|_| poll_work(&mut is_parked)).await
}

#[inline]
fn poll_work(is_parked: &mut bool) -> Poll<Work> {
    driver::with(|driver| match driver.handed.take() {
        Some(Job::Connection(index)) => {
            let conn = Conn::from_index(index);
            Poll::Ready(match driver.take_kept(index) {
                Kept::Nothing => Work::Connection(conn, None),
                Kept::Partial(kept) => Work::Connection(conn, Some(kept)),
                Kept::State(state) => Work::Session(conn, state),
            })
        }
        Some(Job::Stream(StreamJob { session, stream })) => Poll::Ready(Work::Stream(session, stream)),
        None => {
            if !*is_parked {
                *is_parked = true;
                driver.parked_workers.push(driver.current);
            }
            Poll::Pending
        }
    })
}

/// Gives a stream of a session to a worker, which gets both by [`next_work`]: in this turn, or in one of the next if there are
/// many, in the order in which they were given. What a stream's number means is for the session to know; that it is not the
/// number of an earlier stream by then, too. Takes no memory but the reference's place in a queue.
///
/// How many wait is for the caller to bound: no more than a peer may have open at once.
pub fn hand_to_worker(session: Rc<dyn Any>, stream: u64) {
    driver::with(|driver| driver.streams.push_back(StreamJob { session, stream }));
}

/// Waits for the next message from another thread (see [`Doorbell`](crate::Doorbell)). One task per runtime.
pub async fn next_message() -> i32 {
    poll_fn(|_| driver::with(Driver::poll_message)).await
}

/// Milliseconds since the first runtime of the process was made, as of this one's current turn: no clock is read.
pub fn now_ms() -> u64 {
    driver::with(|driver| driver.now_ms())
}

/// The counters of this thread's runtime.
pub fn stats() -> Stats {
    driver::with(|driver| driver.stats)
}

/// Workers that serve a connection now.
pub fn workers_busy() -> u32 {
    driver::with(|driver| driver.workers - driver.parked_workers.len() as u32)
}

/// Receive buffers held outside the kernel: now, and the most at once.
pub fn buffers_held() -> (u32, u32) {
    driver::with(|driver| driver.buffers_held())
}

/// Whether so many receive buffers are held, a quarter of them, that bodies should be content with fewer: many of them may be
/// waiting for slow peers.
pub fn are_buffers_short() -> bool {
    driver::with(|driver| driver.are_buffers_short())
}

/// Receive buffers there are.
pub fn buffers_count() -> u16 {
    driver::with(|driver| driver.buffers_count())
}

/// Makes this thread's runtime the shard `me` of those on the board, whose doorbells are in the same order: from now on
/// connections can be given to them. Accepted ones are given to shards that have fewer: first to those in the first of
/// `proximity`, with a greater difference to those in the next, and so on.
pub fn join_shard_set(
    me: usize,
    board: Arc<LoadBoard>,
    doorbells: Vec<Doorbell>,
    proximity: Vec<Vec<usize>>,
) {
    driver::with(|driver| driver.join(me, board, doorbells, proximity));
}

/// Gives no connections to other shards any more and asks them for none.
pub fn leave_shard_set() {
    driver::with(Driver::part);
}

/// How much this shard had to do since the last call, in completions. `shares` says which connections they were for, by a
/// sample of some; a connection that is not there had little to do.
pub fn take_load(shares: &mut Vec<Share>) -> u64 {
    driver::with(|driver| driver.take_load(shares))
}

/// Sends a connection to another shard the next time it is idle, unless [`take_load`] is called before.
pub fn hand_over(connection: ConnectionId, to: usize) {
    driver::with(|driver| driver.hand_over(connection, to));
}

/// Where this shard's memory is: ring, receive buffers, tables, and what its thread has on stack and heap, now and later.
pub fn shard_memory() -> ShardMemory {
    ShardMemory::of_this_thread(driver::with(|driver| driver.memory()))
}
