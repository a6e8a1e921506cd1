//! Why a connection could not be made: a lack of resources here, or a failure of the server or the network.

use std::fmt;
use std::io;

/// Why there is no connection to an address.
#[derive(Debug)]
pub struct ConnectError(io::Error);

/// The side that an error of connecting is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCause {
    /// This process or this host has no descriptor left.
    OutOfDescriptors,
    /// This host has no port left for that address.
    OutOfPorts,
    /// The kernel has no memory left for a socket.
    OutOfMemory,
    /// The server did not answer in time.
    TimedOut,
    /// The server, or a router on the way to it, refused.
    Refused,
}

impl ConnectError {
    /// What kind of error it is.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }

    /// The side it is on.
    pub fn cause(&self) -> ConnectCause {
        match self.0.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ConnectCause::OutOfDescriptors,
            Some(libc::EADDRNOTAVAIL) => ConnectCause::OutOfPorts,
            Some(libc::ENOMEM | libc::ENOBUFS) => ConnectCause::OutOfMemory,
            Some(libc::ETIMEDOUT) => ConnectCause::TimedOut,
            _ => ConnectCause::Refused,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> ConnectError {
        ConnectError(error)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> io::Error {
        error.0
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::tests::{LOOPBACK, no_worker};
    use crate::{Conn, Outstanding, Runtime, Settings};

    #[test]
    fn a_lack_of_our_own_is_not_the_servers_fault() {
        let cause = |errno| ConnectError::from(io::Error::from_raw_os_error(errno)).cause();
        for (errno, expected) in [
            (libc::EMFILE, ConnectCause::OutOfDescriptors),
            (libc::ENFILE, ConnectCause::OutOfDescriptors),
            (libc::EADDRNOTAVAIL, ConnectCause::OutOfPorts),
            (libc::ENOMEM, ConnectCause::OutOfMemory),
            (libc::ENOBUFS, ConnectCause::OutOfMemory),
            (libc::ETIMEDOUT, ConnectCause::TimedOut),
            (libc::ECONNREFUSED, ConnectCause::Refused),
            (libc::EHOSTUNREACH, ConnectCause::Refused),
        ] {
            assert_eq!(cause(errno), expected, "{errno}");
        }
        let no_address = ConnectError::from(io::Error::from(io::ErrorKind::AddrNotAvailable));
        assert_eq!(no_address.cause(), ConnectCause::Refused);
    }

    #[test]
    fn a_closed_port_refuses_and_a_full_backlog_times_out() {
        let settings =
            Settings { submission_entries: 8, buffers: 8, buffer_bytes: 64, ..Settings::default() };
        let main = async {
            let closed = TcpListener::bind(LOOPBACK).expect("bind").local_addr().expect("address");
            let refused = Conn::connect(closed, 1_000).await.expect_err("nothing listens");
            assert_eq!(refused.cause(), ConnectCause::Refused, "{refused}");
            let listener = crate::BoundListener::bind(LOOPBACK, 1).expect("bind");
            let full = listener.local().expect("address");
            let mut waiting = Vec::new();
            let late = loop {
                match Conn::connect(full, 200).await {
                    Ok(conn) => waiting.push(conn),
                    Err(error) => break error,
                }
            };
            assert_eq!(late.cause(), ConnectCause::TimedOut, "{late}");
        };
        let left = Runtime::new(&settings).expect("a runtime").run(main, no_worker).expect("a ring");
        assert_eq!(left, Outstanding::default());
    }
}
