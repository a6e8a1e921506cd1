//! Threads and CPUs.

use std::io;
use std::time::Duration;

/// Pins the calling thread to one CPU.
///
/// # Errors
/// EINVAL when the CPU is offline or not allowed by the cpuset, or the number is out of the kernel's range.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    pin_to_cpus([cpu])
}

/// Lets the calling thread run on these CPUs only.
///
/// # Errors
/// EINVAL when none of them is online and allowed by the cpuset, or a number is out of the kernel's range.
pub fn pin_to_cpus(cpus: impl IntoIterator<Item = usize>) -> io::Result<()> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        if cpu >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the number was checked against the size of the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set_affinity(&set)
}

/// The CPUs the calling thread may run on.
pub(crate) fn affinity() -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let bytes = size_of::<libc::cpu_set_t>();
    // SAFETY: the set is as long as stated and lives through the call; 0 is the calling thread.
    crate::socket::check(unsafe { libc::sched_getaffinity(0, bytes, &raw mut set) })?;
    Ok(set)
}

/// Lets the calling thread run on these CPUs.
pub(crate) fn set_affinity(set: &libc::cpu_set_t) -> io::Result<()> {
    let bytes = size_of::<libc::cpu_set_t>();
    // SAFETY: the set is as long as stated and lives through the call; 0 is the calling thread.
    crate::socket::check(unsafe { libc::sched_setaffinity(0, bytes, std::ptr::from_ref(set)) }).map(drop)
}

/// The CPU the calling thread runs on now.
#[cfg(test)]
pub(crate) fn current_cpu() -> Option<usize> {
    // SAFETY: sched_getcpu takes no memory.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> i32 {
    // SAFETY: gettid takes no memory.
    unsafe { libc::gettid() }
}

/// CPU time this process has used: in user mode and in the kernel.
pub fn process_cpu_time() -> (Duration, Duration) {
    // SAFETY: all zeroes is a valid rusage, which the call overwrites.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives through the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1_000);
    (time(usage.ru_utime), time(usage.ru_stime))
}
