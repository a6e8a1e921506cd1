//! Plain system calls on sockets: before a socket is in the ring, and where the ring has no operation.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::address::UNIX_PEER;
use crate::op::SockAddr;

/// Ends both directions of a socket, so that a waiting task sees an end.
pub(crate) fn shutdown_both(fd: RawFd) {
    // SAFETY: shutdown takes no memory; an invalid descriptor is an error we need not know.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Ends our direction of a connection.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: shutdown takes no memory; an error says that the connection has ended already.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Whether a socket has a peer.
pub(crate) fn is_connected(fd: RawFd) -> bool {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut bytes = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the storage is as long as stated and lives through the call.
    unsafe { libc::getpeername(fd, (&raw mut storage).cast(), &raw mut bytes) == 0 }
}

/// Resets a connection at once, whoever in the kernel has still a hold on its socket.
pub(crate) fn disconnect(fd: RawFd) {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let bytes = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address is as long as stated and lives through the call; an error says that there is nothing to reset.
    unsafe { libc::connect(fd, &raw const nowhere, bytes) };
}

/// The next connection in a listener's queue, without waiting for one.
pub(crate) fn accept_queued(fd: RawFd) -> Option<RawFd> {
    // SAFETY: F_SETFL takes an int; the listener has no other status flag that we set.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    // SAFETY: null addresses say that the peer's is not wanted.
    let accepted = unsafe {
        libc::accept4(
            fd,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
        )
    };
    check(accepted).ok()
}

/// Whether a connection is over in both directions, or has failed.
pub(super) fn has_hung_up(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one pollfd that lives through the call, which does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Whether the peer has finished sending, whatever of that is unread, or the connection is over.
pub(super) fn has_ended(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd that lives through the call, which does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Bytes given to the kernel that the peer's kernel has not acknowledged.
pub(super) fn unacknowledged(fd: RawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes an int, which lives through the call.
    check(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// The state that a receive would find in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peeked {
    /// It would have to wait.
    Nothing,
    Bytes,
    /// The peer has finished sending, and all it sent was received.
    End,
    Error,
}

/// Looks into a socket and leaves it as it is.
pub(crate) fn peek(fd: RawFd) -> Peeked {
    let mut byte = 0_u8;
    // SAFETY: the buffer is one byte long and lives through the call.
    let peeked = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match peeked {
        0 => Peeked::End,
        1.. => Peeked::Bytes,
        _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Peeked::Nothing,
        _ => Peeked::Error,
    }
}

pub(super) fn tcp_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket takes no memory.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just gave us this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn bind(fd: RawFd, address: &SocketAddr) -> io::Result<()> {
    let (address, bytes) = SockAddr::new(address);
    // SAFETY: the address is a sockaddr of the given length and lives through the call.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), bytes) }).map(drop)
}

pub(crate) fn set_option(fd: RawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is an int of the given size and lives through the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), bytes) }).map(drop)
}

/// The address at the other end of a socket; [`UNIX_PEER`] on a Unix socket.
pub(crate) fn peer_of(fd: RawFd) -> io::Result<SocketAddr> {
    name_of(fd, libc::getpeername)
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

pub(super) fn name_of(fd: RawFd, call: NameCall) -> io::Result<SocketAddr> {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut bytes = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the storage is as long as stated and lives through the call.
    check(unsafe { call(fd, (&raw mut storage).cast(), &raw mut bytes) })?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in; the storage is large and aligned enough.
            let v4 = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
            Ok(SocketAddr::from((v4.sin_addr.s_addr.to_ne_bytes(), u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: likewise a sockaddr_in6.
            let v6 = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in6>() };
            Ok(SocketAddr::from((v6.sin6_addr.s6_addr, u16::from_be(v6.sin6_port))))
        }
        libc::AF_UNIX => Ok(UNIX_PEER),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
