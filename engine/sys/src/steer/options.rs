//! Steering by socket options. Neither of the two ways needs a capability.

use std::io;
use std::os::fd::RawFd;

use crate::socket::{check, set_option};

/// The most instructions of a classic BPF program.
const INSTRUCTIONS_MAX: usize = 4096;

/// A listener's index that no group has: the kernel then decides by its hash.
const NO_SHARD: u32 = u32::MAX;

/// This listener is for connections that are received on `cpu`.
pub(crate) fn prefer_incoming_cpu(fd: RawFd, cpu: usize) -> io::Result<()> {
    let cpu = i32::try_from(cpu).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, cpu)
}

/// Connections that are received on the first CPU of a pair go to the listener with the second as its index: listeners of
/// a port are numbered in the order in which they began to listen. Others go by the kernel's hash.
pub(crate) fn steer_by_cpu(fd: RawFd, listeners: &[(usize, usize)]) -> io::Result<()> {
    let mut program = program(listeners);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let bytes = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the option takes a sock_fprog of this size, which names as many instructions as there are; the kernel
    // checks and copies them during the call.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            bytes,
        )
    })
    .map(drop)
}

/// Loads the number of the CPU, compares it with one after the other, returns the index behind the one that matches.
fn program(listeners: &[(usize, usize)]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let cpu = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, cpu)];
    for &(cpu, listener) in listeners.iter().take((INSTRUCTIONS_MAX - 2) / 2) {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, cpu as u32));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, listener as u32));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, NO_SHARD));
    program
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::os::fd::{FromRawFd as _, OwnedFd};

    use crate::cpu::{affinity, pin_to_cpu};
    use crate::socket::{BoundListener, accept_queued};

    /// Takes what waits at a listener; returns how many there were.
    fn landed(listener: &BoundListener) -> usize {
        let accepted = std::iter::from_fn(|| accept_queued(listener.raw_fd()));
        // SAFETY: the descriptors were just accepted and have no other owner.
        accepted.inspect(|&fd| drop(unsafe { OwnedFd::from_raw_fd(fd) })).count()
    }

    /// Connections made on a CPU over loopback are received there: each lands at the listener of its CPU, and by the
    /// kernel's hash where the program does not name the CPU.
    #[test]
    fn connections_land_at_the_listener_of_their_cpu() {
        let allowed = affinity().unwrap();
        // SAFETY: the set is read only and the number below its size.
        let cpus: Vec<usize> = (0..1024).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) }).collect();
        let first = BoundListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 256).unwrap();
        let address = first.local().unwrap();
        let listeners: Vec<BoundListener> = std::iter::once(first)
            .chain(cpus[1..].iter().map(|_| BoundListener::bind(address, 256).unwrap()))
            .collect();
        // Backwards, so that neither order nor numbers coincide by chance.
        let pairs: Vec<(usize, usize)> = cpus.iter().rev().copied().zip(0..).collect();
        listeners[0].steer_by_cpu(&pairs).unwrap();
        for (cpu, index) in pairs {
            let connected = std::thread::spawn(move || {
                pin_to_cpu(cpu).unwrap();
                (0..20).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
            });
            let clients = connected.join().unwrap();
            assert_eq!(landed(&listeners[index]), clients.len(), "CPU {cpu}");
        }
        listeners[0].steer_by_cpu(&[]).unwrap();
        let _clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let by_hash: Vec<usize> = listeners.iter().map(landed).collect();
        assert_eq!(by_hash.iter().sum::<usize>(), 64);
        assert!(cpus.len() < 2 || by_hash.iter().all(|&count| count < 64), "{by_hash:?}");
    }
}
