//! Where a stream socket can be: an address of IPv4 or IPv6 with a port, or a Unix domain socket.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `sun_path` has this many bytes (unix(7)). A path has a zero byte behind it, a name in the abstract namespace one before it.
const SUN_PATH_BYTES: usize = 108;

/// Stands for a client on a Unix socket wherever clients have addresses: it has none. No peer on TCP has this one.
pub const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Where a stream socket can be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Over TCP.
    Inet(SocketAddr),
    /// On this host.
    Unix(UnixAddress),
}

/// The name of a Unix domain socket: a path, or a name in the abstract namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixAddress(
    /// As in `sun_path`, without the zero byte behind a path.
    Box<[u8]>,
);

impl UnixAddress {
    /// The socket of a file.
    ///
    /// # Errors
    /// `InvalidInput` when the path is empty, too long for the kernel, or has a zero byte.
    pub fn of_path(path: &Path) -> io::Result<UnixAddress> {
        let bytes = path.as_os_str().as_bytes();
        let is_good = !bytes.is_empty() && bytes.len() < SUN_PATH_BYTES && !bytes.contains(&0);
        if is_good { Ok(UnixAddress(bytes.into())) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// A socket without a file, in the abstract namespace of Linux.
    ///
    /// # Errors
    /// `InvalidInput` when the name is empty, too long for the kernel, or has a zero byte.
    pub fn of_name(name: &str) -> io::Result<UnixAddress> {
        let is_good = !name.is_empty() && name.len() < SUN_PATH_BYTES && !name.bytes().any(|byte| byte == 0);
        if !is_good {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(UnixAddress([b"\0", name.as_bytes()].concat().into()))
    }

    /// The file of the socket; none in the abstract namespace.
    pub fn path(&self) -> Option<&Path> {
        let is_path = self.0.first() != Some(&0);
        is_path.then(|| Path::new(self.as_os_str()))
    }

    /// As tokio takes it: a zero byte before a name in the abstract namespace.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    pub(crate) fn sun_path(&self) -> &[u8] {
        &self.0
    }
}

/// As it is written in a configuration: `unix:/run/app.sock`, or `unix:@name` in the abstract namespace.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => write!(f, "unix:{}", path.display()),
            None => write!(f, "unix:@{}", String::from_utf8_lossy(&self.0[1..])),
        }
    }
}

impl Address {
    /// The address, if it is one of TCP.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// The same host at another port; a Unix socket has none.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Address {
        match self {
            Address::Inet(address) => Address::Inet(SocketAddr::new(address.ip(), port)),
            Address::Unix(_) => self.clone(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_unix_sockets_are_as_long_as_the_kernel_takes_them() {
        let longest = format!("/{}", "a".repeat(SUN_PATH_BYTES - 2));
        let path = UnixAddress::of_path(Path::new(&longest)).unwrap();
        assert_eq!((path.path(), path.to_string()), (Some(Path::new(&longest)), format!("unix:{longest}")));
        let name = UnixAddress::of_name(&"n".repeat(SUN_PATH_BYTES - 1)).unwrap();
        assert_eq!((name.path(), name.sun_path().len()), (None, SUN_PATH_BYTES));
        assert_eq!(UnixAddress::of_name("app").unwrap().to_string(), "unix:@app");
        for path in ["", "/a\0b", &format!("{longest}a")] {
            assert!(UnixAddress::of_path(Path::new(path)).is_err(), "{path:?}");
        }
        for name in ["", "a\0b", &"n".repeat(SUN_PATH_BYTES)] {
            assert!(UnixAddress::of_name(name).is_err(), "{name:?}");
        }
    }
}
