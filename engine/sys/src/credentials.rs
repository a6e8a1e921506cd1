//! The user at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::socket::check;

/// A process, as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its id.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
}

/// Who connected to a Unix socket; for the side that connected, who listens there.
///
/// # Errors
/// The error of getsockopt(2) for SO_PEERCRED.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure is as long as stated and lives through the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    })?;
    Ok(Credentials { pid: credentials.pid, uid: credentials.uid })
}

/// The effective user of this process.
pub fn effective_user() -> u32 {
    // SAFETY: geteuid takes no memory and does not fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ends_are_this_process() {
        let (one, other) = UnixStream::pair().unwrap();
        for end in [one, other] {
            let peer = peer_credentials(end.as_fd()).unwrap();
            assert_eq!((peer.pid as u32, peer.uid), (std::process::id(), effective_user()));
        }
    }
}
