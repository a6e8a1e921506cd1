//! The waker of a task: its number, packed into the pointer of a `RawWaker`, without memory of its own.
//!
//! A waker says which runtime, which task, and which tenant of the task's number is meant. Cloning and dropping one does
//! nothing, on any thread. Waking on the runtime's own thread puts the task into the runtime's queue, unless the number has
//! another tenant by now.
//!
//! Waking on any other thread, or while the driver is in use, adds the task to a locked set of its runtime and writes to the
//! runtime's eventfd, which the ring polls. A library may wake from a thread of its own, and a wake that is ignored is a task
//! that hangs, so such wakes are delivered. They cost a lock and a system call; no request needs one.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::driver;

const TASK_BITS: u32 = 28;
const GENERATION_BITS: u32 = 20;
const RUNTIME_BITS: u32 = 16;
const _: () = assert!(TASK_BITS + GENERATION_BITS + RUNTIME_BITS == usize::BITS, "a waker is one pointer");

/// Tasks of a runtime have smaller numbers.
pub(crate) const TASKS_MAX: u32 = 1 << TASK_BITS;

/// Generations of a task's number wrap within this many bits: a waker that has missed a million tenants may wake the next one,
/// which finds that it has nothing to do.
pub(crate) const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// A tenant of a task's number in one of the process's runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskRef(usize);

impl TaskRef {
    pub(crate) fn new(runtime: u16, generation: u32, task: u32) -> TaskRef {
        debug_assert!(task < TASKS_MAX && generation <= GENERATION_MASK);
        TaskRef(
            usize::from(runtime) << (TASK_BITS + GENERATION_BITS)
                | (generation as usize) << TASK_BITS
                | task as usize,
        )
    }

    pub(crate) fn runtime(self) -> u16 {
        (self.0 >> (TASK_BITS + GENERATION_BITS)) as u16
    }

    #[cfg(test)]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> TASK_BITS) as u32 & GENERATION_MASK
    }

    pub(crate) fn task(self) -> u32 {
        self.0 as u32 & (TASKS_MAX - 1)
    }

    /// The waker of the task.
    #[inline]
    pub(crate) fn waker(self) -> Waker {
        // SAFETY: the functions of VTABLE only compute with the bits of the pointer and follow it nowhere; each may be called
        // on any thread, any number of times, at any time: `wake` goes by the calling thread's own driver or by RUNTIMES,
        // which is locked. There is nothing to count or to free.
        unsafe { Waker::from_raw(self.raw()) }
    }

    fn raw(self) -> RawWaker {
        RawWaker::new(std::ptr::without_provenance(self.0), &VTABLE)
    }

    fn of(data: *const ()) -> TaskRef {
        TaskRef(data.addr())
    }
}

/// A static, so that two wakers of a task are found to be the same (`Waker::will_wake` compares its address).
static VTABLE: RawWakerVTable = RawWakerVTable::new(|data| TaskRef::of(data).raw(), wake, wake, |_| {});

fn wake(data: *const ()) {
    let task = TaskRef::of(data);
    // None inside the driver, and on a thread without one.
    let is_done = driver::try_with(|driver| driver.waits.wake(task));
    if is_done != Some(true) {
        wake_elsewhere(task);
    }
}

#[cold]
fn wake_elsewhere(task: TaskRef) {
    let runtimes = RUNTIMES.read().unwrap_or_else(PoisonError::into_inner);
    // Without it, the runtime has ended, and with it the task.
    if let Some((_, runtime)) = runtimes.all.iter().find(|(number, _)| *number == task.runtime()) {
        runtime.wake(task);
    }
}

/// The runtimes that exist.
static RUNTIMES: RwLock<Runtimes> = RwLock::new(Runtimes { all: Vec::new(), next: 0 });

struct Runtimes {
    /// With their numbers.
    all: Vec<(u16, Arc<Mailbox>)>,
    /// The number of the next one, if it is free: as late as can be a number means another runtime.
    next: u16,
}

/// Takes the memory of the list of runtimes, for so many of them, from the calling thread's heap: else it is in that of the first
/// shard, and all others write to it. To be called before the shards are made.
pub fn reserve_runtimes(count: usize) {
    RUNTIMES.write().unwrap_or_else(PoisonError::into_inner).all.reserve(count);
}

/// The tasks of a runtime that were woken elsewhere.
struct Mailbox {
    eventfd: OwnedFd,
    woken: Mutex<HashSet<TaskRef>>,
}

impl Mailbox {
    fn wake(&self, task: TaskRef) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = woken.is_empty();
        woken.insert(task);
        drop(woken);
        if is_first {
            // SAFETY: eight readable bytes. A full counter is an error, and has been seen by then.
            unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const ONE).cast(), size_of_val(&ONE)) };
        }
    }
}

static ONE: u64 = 1;

/// A runtime's number, and its own end of what others wake.
pub(crate) struct Registration {
    pub(crate) runtime: u16,
    mailbox: Arc<Mailbox>,
    /// The memory of the set that was emptied last.
    spare: HashSet<TaskRef>,
}

impl Registration {
    /// # Errors
    /// The error of eventfd(2).
    pub(crate) fn new() -> io::Result<Registration> {
        // SAFETY: eventfd takes no memory.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if eventfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        let eventfd = unsafe { OwnedFd::from_raw_fd(eventfd) };
        let mailbox = Arc::new(Mailbox { eventfd, woken: Mutex::default() });
        let mut runtimes = RUNTIMES.write().unwrap_or_else(PoisonError::into_inner);
        let runtime = (0..=u16::MAX)
            .map(|step| runtimes.next.wrapping_add(step))
            .find(|number| runtimes.all.iter().all(|(other, _)| other != number))
            .expect("a process has fewer runtimes than that");
        runtimes.next = runtime.wrapping_add(1);
        runtimes.all.push((runtime, mailbox.clone()));
        Ok(Registration { runtime, mailbox, spare: HashSet::new() })
    }

    pub(crate) fn eventfd(&self) -> RawFd {
        self.mailbox.eventfd.as_raw_fd()
    }

    /// The tasks that were woken elsewhere since the last call.
    pub(crate) fn take_woken(&mut self) -> HashSet<TaskRef> {
        let mut counter = 0_u64;
        // SAFETY: eight writable bytes. Before the set is emptied: who finds it empty writes again.
        unsafe { libc::read(self.eventfd(), (&raw mut counter).cast(), size_of_val(&counter)) };
        let spare = std::mem::take(&mut self.spare);
        let mut woken = self.mailbox.woken.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *woken, spare)
    }

    /// Keeps the memory of an emptied set.
    pub(crate) fn reuse(&mut self, mut woken: HashSet<TaskRef>) {
        woken.clear();
        self.spare = woken;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut runtimes = RUNTIMES.write().unwrap_or_else(PoisonError::into_inner);
        runtimes.all.retain(|(number, _)| *number != self.runtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        for (runtime, generation, task) in
            [(0, 0, 0), (u16::MAX, 0, 0), (0, GENERATION_MASK, 0), (0, 0, TASKS_MAX - 1), (513, 70_001, 99)]
        {
            let packed = TaskRef::new(runtime, generation, task);
            assert_eq!((packed.runtime(), packed.generation(), packed.task()), (runtime, generation, task));
        }
    }

    #[test]
    fn wakers_of_a_task_are_the_same_and_those_of_others_are_not() {
        let [first, next, other] =
            [(4, 7), (5, 7), (4, 8)].map(|(generation, task)| TaskRef::new(1, generation, task).waker());
        assert!(first.will_wake(&first.clone()));
        assert!(!first.will_wake(&next) && !first.will_wake(&other));
    }
}
