//! A pipe to move bytes between sockets without copying them to user space: splice(2).
//!
//! The ring only waits for readiness ([`Conn::readable`], [`Conn::writable`]); the moving itself is a plain system
//! call, because IORING_OP_SPLICE is handed to a worker thread of the kernel for every call (measured: slower).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::socket::{Conn, check};

/// The result of a splice call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    /// So many bytes moved.
    Bytes(usize),
    /// The source has ended.
    End,
    /// Nothing can move now: wait for readiness.
    NotReady,
}

/// A kernel pipe.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    /// Bytes in the pipe.
    held: usize,
}

impl Pipe {
    /// Room the pipe asks the kernel for: what a slow reader may keep in kernel memory.
    const WANTED_BYTES: usize = 256 * 1024;

    /// A new pipe, as large as the kernel grants.
    ///
    /// # Errors
    /// What pipe2(2) says.
    pub fn new() -> io::Result<Pipe> {
        let mut fds = [-1; 2];
        // SAFETY: the array has room for both descriptors.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        // SAFETY: the kernel just gave us these descriptors; nothing else owns them.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        // SAFETY: F_SETPIPE_SZ takes an int.
        let granted =
            unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, Self::WANTED_BYTES as libc::c_int) };
        // Refused beyond fs.pipe-user-pages-soft; then the pipe stays as small as it was made.
        // SAFETY: F_GETPIPE_SZ takes nothing.
        let actual = unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) };
        let capacity = usize::try_from(granted.max(actual)).unwrap_or(4096);
        Ok(Pipe { read, write, capacity, held: 0 })
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Bytes the kernel granted the pipe.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Moves up to `count` bytes from a connection into the pipe. The connection's receive must be disarmed.
    ///
    /// # Errors
    /// The errors of splice(2), except EAGAIN.
    pub fn fill_from(&mut self, conn: &Conn, count: usize) -> io::Result<Spliced> {
        let spliced = splice(conn.fd(), self.write.as_raw_fd(), count)?;
        if let Spliced::Bytes(bytes) = spliced {
            self.held += bytes;
        }
        Ok(spliced)
    }

    /// Moves what the pipe holds into a connection that has no send under way.
    ///
    /// # Errors
    /// As [`Pipe::fill_from`].
    pub fn drain_into(&mut self, conn: &Conn) -> io::Result<Spliced> {
        debug_assert!(!conn.is_sending(), "spliced bytes must not overtake a send");
        let spliced = splice(self.read.as_raw_fd(), conn.fd(), self.held)?;
        if let Spliced::Bytes(bytes) = spliced {
            self.held -= bytes;
        }
        Ok(spliced)
    }
}

fn splice(from: RawFd, to: RawFd, count: usize) -> io::Result<Spliced> {
    // SAFETY: null offsets mean that both ends are streams; splice touches no memory of ours.
    let moved = unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            count,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    match usize::try_from(moved) {
        Ok(0) => Ok(Spliced::End),
        Ok(bytes) => Ok(Spliced::Bytes(bytes)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(Spliced::NotReady),
            error => Err(error),
        },
    }
}
