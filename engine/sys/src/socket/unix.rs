//! Unix domain sockets (unix(7)): their connections to servers, and the files of listeners.
//!
//! Connecting and binding are plain system calls: on one host the kernel knows the result at once.

use std::any::Any;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Conn;
use super::calls::check;
use super::timer::sleep;
use crate::address::UnixAddress;
use crate::connect_error::ConnectError;
use crate::driver;

/// How long to wait at first before a server whose queue is full is tried again; then twice as long each time.
const FULL_WAIT_MS: u64 = 1;

/// The longest such wait.
const FULL_WAIT_MAX_MS: u64 = 32;

/// Connects within `timeout_ms` (0: as long as it takes). The queue of a server may be full, and the kernel tells no one when it
/// has room again: it is tried now and then.
///
/// # Errors
/// The errors of socket(2) and connect(2); ETIMEDOUT when the queue was full until the time was over.
pub(super) async fn connect(
    held: Option<Box<dyn Any>>,
    address: &UnixAddress,
    timeout_ms: u64,
) -> Result<Conn, ConnectError> {
    let fd = socket()?;
    let until_ms = crate::now_ms().saturating_add(if timeout_ms == 0 { u64::MAX } else { timeout_ms });
    let mut wait_ms = FULL_WAIT_MS;
    loop {
        match try_connect(fd.as_raw_fd(), address) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let left_ms = until_ms.saturating_sub(crate::now_ms());
        if left_ms == 0 {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT).into());
        }
        sleep(wait_ms.min(left_ms)).await;
        wait_ms = (wait_ms * 2).min(FULL_WAIT_MAX_MS);
    }
    let raw = fd.into_raw_fd();
    let index = driver::with(|driver| driver.open_socket(raw));
    if let Some(held) = held {
        driver::with(|driver| driver.hold(index, held));
    }
    Ok(Conn::from_index(index))
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes no memory.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: the kernel just gave us this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn try_connect(fd: RawFd, address: &UnixAddress) -> io::Result<()> {
    let (name, bytes) = sockaddr(address);
    // SAFETY: the name is a sockaddr_un of which so many bytes are written, and lives through the call.
    check(unsafe { libc::connect(fd, (&raw const name).cast(), bytes) }).map(drop)
}

/// As the kernel reads it. The length covers the zero byte behind a path; a name in the abstract namespace has none.
fn sockaddr(address: &UnixAddress) -> (libc::sockaddr_un, libc::socklen_t) {
    let name = address.sun_path();
    let mut sun_path: [libc::c_char; 108] = [0; 108];
    for (to, from) in sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let zero_behind = usize::from(address.path().is_some());
    let bytes = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name.len() + zero_behind;
    let name = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path };
    (name, bytes as libc::socklen_t)
}

/// Finds out whether a socket can be made there: no process may listen yet. What is left of one that has ended does not matter.
///
/// # Errors
/// `AddrInUse` when a process listens there or the path is no socket, else what the file system says.
pub(super) fn probe(address: &UnixAddress) -> io::Result<()> {
    if let Some(path) = address.path() {
        match fs::symlink_metadata(path) {
            Ok(file) if !file.file_type().is_socket() => return Err(io::ErrorKind::AddrInUse.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return fs::metadata(path.parent().unwrap_or(path)).map(drop);
            }
            Err(error) => return Err(error),
        }
    }
    match try_connect(socket()?.as_raw_fd(), address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
        Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Binds a socket, whose file gets these permissions, without listening. The file that an earlier process has left there is
/// removed, if nothing listens on it.
///
/// # Errors
/// As [`probe`], and what socket(2), bind(2) and chmod(2) say.
pub(super) fn bind(address: &UnixAddress, mode: u32) -> io::Result<(OwnedFd, Option<SocketFile>)> {
    probe(address)?;
    let fd = socket()?;
    let (name, bytes) = sockaddr(address);
    if let Some(path) = address.path() {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The file gets these permissions less the umask: never more than are asked for, not even for a moment.
        // SAFETY: fchmod takes no memory.
        check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
    }
    // SAFETY: the name is a sockaddr_un of which so many bytes are written, and lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), bytes) })?;
    let Some(path) = address.path() else { return Ok((fd, None)) };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    SocketFile::of(path).map(|file| (fd, Some(file)))
}

/// The file of a listener. Dropping it removes the file, unless another process has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Its device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), identity: identity(path)? })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
