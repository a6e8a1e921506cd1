//! The CPUs this process may use, and connections from a certain one of them.

use std::net::{SocketAddr, TcpStream};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs this process may use.
pub fn usable_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the CPUs of this thread");
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Two of them, the first and the last; says that something is skipped where there is only one.
#[track_caller]
pub fn two_cpus() -> Option<[usize; 2]> {
    match usable_cpus().as_slice() {
        [first, .., last] => Some([*first, *last]),
        _ => {
            crate::skip("two shards need two CPUs");
            None
        }
    }
}

/// Connections over loopback: they are received on the CPU that makes them.
pub fn connect_from(cpu: usize, address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = move || {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).expect("a CPU of ours");
        (0..count).map(|_| TcpStream::connect(address).expect("a connection")).collect()
    };
    std::thread::spawn(connect).join().expect("connected")
}
