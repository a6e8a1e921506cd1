//! Listening sockets: bound by the thread that opens the port, started by the shard that accepts from them.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::Poll;

use super::calls::{bind, check, name_of, set_option, tcp_socket};
use super::timer::Timer;
use super::unix::{self, SocketFile};
use crate::address::UnixAddress;
use crate::driver;
use crate::steer::{self, Slot, SteeringProgram};

/// In the owner byte of a listener: see [`Listener::behind_balancer`].
pub(crate) const BEHIND_BALANCER: u8 = 1;

/// In the owner byte of a listener: other shards accept from the same socket.
pub(crate) const SHARED: u8 = 2;

/// Where to listen, and for which families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOn {
    address: SocketAddr,
    is_ipv6_only: bool,
}

impl ListenOn {
    /// `address` without IPv4, also if it is `::`.
    pub fn without_ipv4(address: SocketAddr) -> ListenOn {
        ListenOn { address, is_ipv6_only: address.is_ipv6() }
    }

    /// A socket that may bind there.
    fn socket(self) -> io::Result<OwnedFd> {
        let fd = tcp_socket(&self.address)?;
        if self.address.is_ipv6() {
            // Set in both cases: the default is net.ipv6.bindv6only.
            let only = libc::c_int::from(self.is_ipv6_only);
            set_option(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only)?;
        }
        set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        Ok(fd)
    }
}

/// `::` is every address of IPv6 and of IPv4.
impl From<SocketAddr> for ListenOn {
    fn from(address: SocketAddr) -> ListenOn {
        ListenOn { address, is_ipv6_only: address.is_ipv6() && !address.ip().is_unspecified() }
    }
}

/// A listening socket that was bound but belongs to no shard yet; it can be made by one thread and used by another.
#[derive(Debug)]
pub struct BoundListener {
    /// Its place in the program of its port. Before the descriptor: the place is to be empty when the listener closes.
    slot: Option<Slot>,
    fd: OwnedFd,
    /// Other shards accept from the same socket.
    is_shared: bool,
}

impl BoundListener {
    /// Finds out whether a Unix socket can be made there.
    ///
    /// # Errors
    /// `AddrInUse` when a process listens there or the path is no socket, else what the file system says.
    pub fn probe_unix(address: &UnixAddress) -> io::Result<()> {
        unix::probe(address)
    }

    /// Binds a Unix socket without listening, and makes its file with these permissions: connections are refused until a
    /// [`share`](BoundListener::share) of it listens. What an earlier process has left at the path is removed.
    ///
    /// # Errors
    /// As [`probe_unix`](BoundListener::probe_unix), and what socket(2), bind(2) and chmod(2) say.
    pub fn reserve_unix(address: &UnixAddress, mode: u32) -> io::Result<(BoundListener, Option<SocketFile>)> {
        let (fd, file) = unix::bind(address, mode)?;
        Ok((BoundListener { slot: None, fd, is_shared: true }, file))
    }

    /// The same socket for one more shard, listening: SO_REUSEPORT has no Unix sockets, so that shards accept from one.
    ///
    /// # Errors
    /// What fcntl(2) and listen(2) say.
    pub fn share(&self, backlog: u32) -> io::Result<BoundListener> {
        let fd = self.fd.try_clone()?;
        // SAFETY: listen takes no memory.
        check(unsafe { libc::listen(fd.as_raw_fd(), i32::try_from(backlog).unwrap_or(i32::MAX)) })?;
        Ok(BoundListener { slot: None, fd, is_shared: true })
    }

    /// Binds with SO_REUSEPORT and listens. Connections queue up (at most `backlog`, capped by net.core.somaxconn)
    /// until a shard accepts them.
    ///
    /// # Errors
    /// What socket(2), bind(2) and listen(2) say.
    pub fn bind(on: impl Into<ListenOn>, backlog: u32) -> io::Result<BoundListener> {
        let listener = BoundListener::reserve(on)?;
        // SAFETY: listen takes no memory.
        check(unsafe { libc::listen(listener.fd.as_raw_fd(), i32::try_from(backlog).unwrap_or(i32::MAX)) })?;
        Ok(listener)
    }

    /// Finds out whether the address is free for one process alone: with SO_REUSEPORT, a second instance would
    /// silently share the port of the first.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn probe(on: impl Into<ListenOn>) -> io::Result<()> {
        let on = on.into();
        bind(on.socket()?.as_raw_fd(), &on.address)
    }

    /// Binds without listening: holds the port (useful with port 0) while connections are still refused.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn reserve(on: impl Into<ListenOn>) -> io::Result<BoundListener> {
        let on = on.into();
        let fd = on.socket()?;
        let raw = fd.as_raw_fd();
        set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        // Accepted sockets inherit these.
        set_option(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        // HTTP knows no urgent data; out of line, its mark would stop splice(2) while the socket is reported as readable.
        set_option(raw, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
        bind(raw, &on.address)?;
        Ok(BoundListener { slot: None, fd, is_shared: false })
    }

    /// Of the listeners of this port, this one is for connections that are received on `cpu`.
    ///
    /// # Errors
    /// The error of setsockopt(2) for SO_INCOMING_CPU.
    pub fn prefer_incoming_cpu(&self, cpu: usize) -> io::Result<()> {
        steer::prefer_incoming_cpu(self.raw_fd(), cpu)
    }

    /// Decides for all listeners of this port: connections received on the first CPU of a pair go to the listener with the
    /// second as its number, counted from 0 in the order in which they began to listen; others by the kernel's hash.
    ///
    /// # Errors
    /// The error of setsockopt(2) for SO_ATTACH_REUSEPORT_CBPF.
    pub fn steer_by_cpu(&self, listeners: &[(usize, usize)]) -> io::Result<()> {
        steer::steer_by_cpu(self.raw_fd(), listeners)
    }

    /// The program decides for all listeners of this port from now on, and this one is the shard's.
    ///
    /// # Errors
    /// The error of bpf(2) for the listener, or of setsockopt(2) for SO_ATTACH_REUSEPORT_EBPF.
    pub fn steer_by_program(&mut self, program: &SteeringProgram, shard: usize) -> io::Result<()> {
        self.slot = Some(program.admit(self.raw_fd(), shard)?);
        Ok(())
    }

    /// Empties its place in the program of its port.
    #[cfg(test)]
    pub(crate) fn leave_program(&mut self) {
        self.slot = None;
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The bound address, with the port the kernel picked.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn local(&self) -> io::Result<SocketAddr> {
        name_of(self.fd.as_raw_fd(), libc::getsockname)
    }
}

/// A listener of this shard. Accepted connections are parked until their first bytes and then given to a worker.
/// Dropping it stops accepting.
pub struct Listener {
    index: u32,
    slot: Option<Slot>,
    _on_this_thread: PhantomData<*const u8>,
}

impl Listener {
    /// Starts accepting. `id` comes back from [`Conn::listener`](crate::Conn::listener).
    pub fn start(bound: BoundListener, id: u8) -> Listener {
        let BoundListener { slot, fd, is_shared } = bound;
        let fd = std::os::fd::IntoRawFd::into_raw_fd(fd);
        let index = driver::with(|driver| driver.open_listener(fd, id, is_shared));
        Listener { index, slot, _on_this_thread: PhantomData }
    }

    /// Who connects is not the client: accepted connections are not counted for their peer (see
    /// [`Runtime::count_peers`](crate::Runtime::count_peers)) before [`Conn::set_proxied`](crate::Conn::set_proxied) or
    /// [`Conn::peer`](crate::Conn::peer).
    #[must_use]
    pub fn behind_balancer(self) -> Listener {
        driver::with(|driver| driver.table().at(self.index).owner_byte |= BEHIND_BALANCER);
        self
    }

    /// Stops accepting; connections that were made up to now are served, also those the kernel has not handed out yet.
    /// The kernel has `within_ms` to end its accept; after that what it still accepts is closed.
    pub async fn stop(mut self, within_ms: u64) {
        // No connection is sent here any more.
        drop(self.slot.take());
        let limit = Timer::new(within_ms);
        poll_fn(|_| match driver::with(|driver| driver.poll_disarmed(self.index)) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => limit.poll_expired(),
        })
        .await;
        driver::with(|driver| driver.accept_queued(self.index));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.slot.take());
        driver::try_with(|driver| driver.close(self.index));
    }
}
