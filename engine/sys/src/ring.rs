//! One io_uring of one thread: set up, fed and emptied. Owns the kernel's queues and nothing else.
//!
//! The ring does not know what an operation means. `driver` pushes entries and reads completions; between the two
//! lies one system call per turn ([`Ring::enter`]), which submits everything that was pushed, runs the kernel's
//! deferred work and, if asked, waits.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::host_unsupported::HostUnsupported;
use crate::key::Key;
use crate::pages::{MemoryRange, mappings};

const IORING_REGISTER_RING_FDS: libc::c_uint = 20;
const IORING_REGISTER_NAPI: libc::c_uint = 27;
const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4;

/// How long [`Ring::enter`] may sleep when nothing has completed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until something completes or the time is over.
    AtMost(Duration),
    /// Until something completes.
    Forever,
}

/// A completion: whose it is, the result (negative: an errno) and the flags of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) key: Key,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Completion {
    /// More completions follow for this operation.
    pub(crate) fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The receive buffer the kernel picked, if it picked one.
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// The kernel does not go on with a ring, or has lost completions of it: the connections on it are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFailed {
    errno: i32,
}

impl RingFailed {
    /// With the error of io_uring_enter(2).
    pub fn from_errno(errno: i32) -> RingFailed {
        RingFailed { errno }
    }

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

impl fmt::Display for RingFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            libc::EBADR => f.write_str(
                "the kernel had no memory to keep completions of io_uring and dropped some (EBADR)",
            ),
            _ => write!(f, "io_uring_enter failed: {}", self.error()),
        }
    }
}

impl std::error::Error for RingFailed {}

pub(crate) struct Ring {
    ring: IoUring,
    /// What to pass as descriptor to io_uring_enter: an index when the ring could be registered with its thread.
    enter_fd: RawFd,
    enter_flags: u32,
    /// Entries that found the submission queue full while the kernel took none; they go first next time.
    backlog: VecDeque<squeue::Entry>,
    failed: Option<RingFailed>,
    /// The queues, which the kernel allocated and this process has mapped.
    memory: Vec<MemoryRange>,
    /// What is pushed goes nowhere.
    #[cfg(any(test, feature = "rig"))]
    is_detached: bool,
    /// ... and is counted.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) pushed: u32,
    #[cfg(test)]
    pub(crate) enter_errors: VecDeque<i32>,
    #[cfg(test)]
    pub(crate) is_lossy: bool,
}

impl Ring {
    /// A ring for the calling thread alone: SINGLE_ISSUER and DEFER_TASKRUN bind it to this thread.
    ///
    /// # Errors
    /// [`HostUnsupported`] with the cause and the fix where the kernel refuses.
    pub(crate) fn new(submissions: u32, completions: u32) -> Result<Ring, HostUnsupported> {
        let (ring, memory) = with_new_mappings(|| {
            IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_submit_all()
                .setup_cqsize(completions)
                .setup_clamp()
                .build(submissions)
        });
        let ring = ring.map_err(|error| HostUnsupported::from_setup(&error))?;
        let (enter_fd, enter_flags) = match register_with_thread(ring.as_raw_fd()) {
            Ok(index) => (index, IORING_ENTER_REGISTERED_RING),
            Err(_) => (ring.as_raw_fd(), 0),
        };
        Ok(Ring {
            ring,
            enter_fd,
            enter_flags,
            backlog: VecDeque::new(),
            failed: None,
            memory,
            #[cfg(any(test, feature = "rig"))]
            is_detached: false,
            #[cfg(any(test, feature = "rig"))]
            pushed: 0,
            #[cfg(test)]
            enter_errors: VecDeque::new(),
            #[cfg(test)]
            is_lossy: false,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// The memory of the queues.
    pub(crate) fn memory(&self) -> &[MemoryRange] {
        &self.memory
    }

    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Whether no completion is there to be read, here or in the kernel's overflow list.
    pub(crate) fn is_at_rest(&mut self) -> bool {
        !self.ring.submission().cq_overflow() && self.ring.completion().is_empty()
    }

    /// Whether this kernel ends a multishot receive after so many bytes ([`bounded_multishot`]). One that does not know the
    /// bound refuses the entry; one that does looks for the descriptor, which is none.
    ///
    /// # Errors
    /// The error of io_uring_enter(2).
    pub(crate) fn bounds_multishot(&mut self) -> Result<bool, HostUnsupported> {
        let probe = bounded_multishot(types::Fd(-1), 0, 1).user_data(Key::IGNORED.bits());
        // SAFETY: without a descriptor nothing is received, so no memory is used.
        unsafe { self.push(probe) };
        let mut batch = [const { MaybeUninit::uninit() }; 1];
        loop {
            self.enter(Wait::Forever).map_err(|failed| HostUnsupported::from_setup(&failed.error()))?;
            if let Some(completion) = self.completions(&mut batch).next() {
                return Ok(completion.result == -libc::EBADF);
            }
        }
    }

    /// Before a wait sleeps, the kernel polls the network queues that this ring's sockets receive from, for so long.
    pub(crate) fn poll_busily(&self, time: Duration) -> io::Result<()> {
        // `struct io_uring_napi`. The newer kernel's operation 0 registers, its tracking 0 finds the queues by itself.
        #[repr(C)]
        struct Napi {
            busy_poll_us: u32,
            prefer_busy_poll: u8,
            operation: u8,
            pad: [u8; 2],
            tracking: u32,
            resv: u32,
        }
        let busy_poll_us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut napi =
            Napi { busy_poll_us, prefer_busy_poll: 0, operation: 0, pad: [0; 2], tracking: 0, resv: 0 };
        // SAFETY: IORING_REGISTER_NAPI reads one such structure and writes the earlier settings back into it.
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_register, self.fd(), IORING_REGISTER_NAPI, &raw mut napi, 1)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Queues an entry. It is in flight from here on, whatever a later `enter` says: an entry that the kernel did
    /// not take stays queued and is offered again.
    ///
    /// # Safety
    /// What the entry points to (buffer, address) must stay valid and unmoved until its final completion was read.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        #[cfg(any(test, feature = "rig"))]
        if self.is_detached {
            self.pushed = self.pushed.wrapping_add(1);
            return;
        }
        if self.backlog.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: hand over what is there. An error leaves the queue full, then the backlog takes the entry.
            let _ = self.syscall(0, 0, None);
            if self.has_lost_completions() {
                self.fail(libc::EBADR);
            }
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// From now on the kernel gets nothing of what is pushed.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn detach(&mut self) {
        self.is_detached = true;
    }

    /// Entries that wait for room in the submission queue.
    #[cfg(test)]
    pub(crate) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Submits what was pushed, runs deferred kernel work, and waits as asked when no completion is ready.
    ///
    /// The errors of io_uring_enter(2), and what follows:
    ///
    /// | errno | when | what follows |
    /// |---|---|---|
    /// | ETIME | the wait is over | a turn without completions |
    /// | EINTR | a signal came, or the thread was traced or frozen | likewise; signals are the control thread's |
    /// | EBUSY | completions overflowed their queue and not all of them fit into it yet (IORING_SQ_CQ_OVERFLOW) | the turn reads the queue, the next enter moves the rest: every enter asks for events, so none has to look at that flag |
    /// | EAGAIN, ENOMEM | the kernel has no memory for a request | what was not submitted stays in the queue and is offered again each turn |
    /// | EBADR | completions were dropped, since there was no memory to keep them (IORING_FEAT_NODROP keeps all others) | the ring has failed |
    /// | EBADF, EBADFD, ENXIO, EOPNOTSUPP | there is no ring, or it is not enabled, or is being torn down | likewise |
    /// | EEXIST | another thread submitted (SINGLE_ISSUER) | likewise |
    /// | EFAULT, EINVAL, EPERM and any other | arguments that only a mistake of ours makes, or a seccomp filter that came later | likewise |
    ///
    /// A lost completion may be a received buffer out of the middle of any connection's bytes, so nothing that was open may
    /// go on as if all were well. The kernel says EBADR only when it has nothing else to hand over, so the count of
    /// dropped completions in the ring is looked at too, at every enter.
    ///
    /// # Errors
    /// The ring has failed; it is not entered again.
    pub(crate) fn enter(&mut self, wait: Wait) -> Result<(), RingFailed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        self.refill_from_backlog();
        let ready = !self.ring.completion().is_empty();
        let (min_complete, timeout) = match wait {
            _ if ready || !self.backlog.is_empty() => (0, None),
            Wait::Forever => (1, None),
            Wait::AtMost(time) => (1, Some(time)),
        };
        match self.syscall(min_complete, IORING_ENTER_GETEVENTS, timeout) {
            _ if self.has_lost_completions() => Err(self.fail(libc::EBADR)),
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().unwrap_or(0) {
                libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM => Ok(()),
                errno => Err(self.fail(errno)),
            },
        }
    }

    /// Whether the kernel has counted a completion that it could neither queue nor keep.
    fn has_lost_completions(&mut self) -> bool {
        #[cfg(test)]
        if self.is_lossy {
            return true;
        }
        self.ring.completion().overflow() > 0
    }

    fn fail(&mut self, errno: i32) -> RingFailed {
        *self.failed.insert(RingFailed::from_errno(errno))
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    fn refill_from_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the code that pushed the entry first keeps its memory valid until it completes.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Reads up to `into.len()` completions; none once the ring has failed, since what follows a lost one has a gap before it.
    pub(crate) fn completions<'a>(
        &mut self,
        into: &'a mut [MaybeUninit<cqueue::Entry>],
    ) -> impl ExactSizeIterator<Item = Completion> + Clone + use<'a> {
        let into = if self.failed.is_some() { Default::default() } else { into };
        self.ring.completion().fill(into).iter().map(|entry| Completion {
            key: Key::from_bits(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        })
    }

    fn syscall(&mut self, min_complete: u32, flags: u32, timeout: Option<Duration>) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(errno) = self.enter_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let submit = {
            let mut queue = self.ring.submission();
            queue.sync();
            queue.len() as u32
        };
        let mut flags = flags | self.enter_flags;
        let time = timeout.map(types::Timespec::from);
        let args = time.as_ref().map(|time| types::SubmitArgs::new().timespec(time));
        let (arg, arg_bytes) = match &args {
            Some(args) => {
                flags |= IORING_ENTER_EXT_ARG;
                (std::ptr::from_ref(args).cast::<libc::c_void>(), size_of_val(args))
            }
            None => (std::ptr::null(), 0),
        };
        // SAFETY: the descriptor is our ring (or its registered index), `arg` is null or points to a getevents_arg
        // of the given size that lives until the call returns; SubmitArgs is that structure, transparent.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                min_complete,
                flags,
                arg,
                arg_bytes,
            )
        };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(taken as usize) }
    }
}

/// A multishot receive that ends after `bytes_max` bytes, or with the buffer that reaches them (Linux 6.17; kernels before
/// that refuse it).
pub(crate) fn bounded_multishot(fd: types::Fd, group: u16, bytes_max: u32) -> squeue::Entry {
    /// Where struct io_uring_sqe has `optlen`, which the crate has no setter for.
    const OPTLEN_AT: usize = 44;
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    let mut entry = opcode::RecvMulti::new(fd, group).build();
    // SAFETY: an entry is the 64 bytes of struct io_uring_sqe, transparently; these four are plain data.
    unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN_AT).cast::<u32>().write_unaligned(bytes_max) };
    entry
}

/// The same receive, which waits until the socket is readable before it picks a buffer (Linux 5.19).
pub(crate) fn polled_first(mut entry: squeue::Entry) -> squeue::Entry {
    const IORING_RECVSEND_POLL_FIRST: u16 = 1;
    /// Where struct io_uring_sqe has `ioprio`, which the crate has no setter for.
    const IOPRIO_AT: usize = 2;
    // SAFETY: an entry is the 64 bytes of struct io_uring_sqe, transparently; these two are plain data, aligned as it is.
    unsafe { *(&raw mut entry).cast::<u8>().add(IOPRIO_AT).cast::<u16>() |= IORING_RECVSEND_POLL_FIRST };
    entry
}

/// Makes a ring and says where its queues are: the mappings of rings that were not there before.
fn with_new_mappings<R>(make: impl FnOnce() -> R) -> (R, Vec<MemoryRange>) {
    // Rings that other threads make at the same time must not be taken for this one.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let of_rings = || mappings("anon_inode:[io_uring]");
    let before: Vec<_> = of_rings().collect();
    let made = make();
    let new = of_rings().filter(|range| !before.contains(range));
    let memory = new.map(|(start, end)| MemoryRange { what: "ring", start, bytes: end - start }).collect();
    (made, memory)
}

/// Registers the ring's descriptor with its thread, which spares the kernel the look-up at every enter.
fn register_with_thread(ring_fd: RawFd) -> io::Result<RawFd> {
    #[repr(C)]
    struct RsrcUpdate {
        offset: u32,
        resv: u32,
        data: u64,
    }
    let mut update = RsrcUpdate { offset: u32::MAX, resv: 0, data: ring_fd as u64 };
    // SAFETY: IORING_REGISTER_RING_FDS takes one io_uring_rsrc_update, laid out as above, and writes the index back.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring_fd, IORING_REGISTER_RING_FDS, &raw mut update, 1)
    };
    if done == 1 { Ok(update.offset as RawFd) } else { Err(io::Error::last_os_error()) }
}
