//! Making the transport of a connection to a server: which of its addresses, and what the log says of a Unix socket.

use std::cell::Cell;
use std::io;

use sluice_sys::{Address, Conn, ConnectCause, ConnectError, now_ms};

use crate::log;
use crate::upstream::server::Server;

/// So long a shard is silent about a Unix socket that cannot be connected to, after it has said so.
const SILENCE_MS: u64 = 10_000;

/// What a shard remembers of the addresses of one server.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    /// The address that worked last.
    preferred: Cell<usize>,
    /// Until when nothing more is said about failures.
    silent_until_ms: Cell<u64>,
}

/// Tries the server's addresses, the one that worked last first.
///
/// # Errors
/// That of the last address.
pub(super) async fn dial(server: &Server, timeout_ms: u64) -> Result<Conn, ConnectError> {
    let count = server.key.addresses.len();
    let mut last = ConnectError::from(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for turn in 0..count {
        let at = (server.dialer.preferred.get() + turn) % count;
        match Conn::connect_to(None, &server.key.addresses[at], timeout_ms).await {
            Ok(conn) => {
                server.dialer.preferred.set(at);
                return Ok(conn);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Has the log say why a Unix socket cannot be connected to: mostly it is the configuration, or the permissions of a file.
#[cold]
pub(super) fn report_unix(server: &Server, error: &ConnectError) {
    let is_unix = server.key.addresses.iter().any(|address| matches!(address, Address::Unix(_)));
    let dialer = &server.dialer;
    if !is_unix || error.cause() != ConnectCause::Refused || now_ms() < dialer.silent_until_ms.get() {
        return;
    }
    dialer.silent_until_ms.set(now_ms() + SILENCE_MS);
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "the server has not made it, or elsewhere",
        io::ErrorKind::PermissionDenied => {
            "this user needs write permission for it, and search permission for its directories"
        }
        io::ErrorKind::ConnectionRefused => "nothing listens on it: the server has ended, or not begun",
        _ => "see connect(2)",
    };
    let (group, name) = (&server.key.group, &server.key.authority);
    log::warn(format_args!("upstream {group}: cannot connect to {name}: {error} (hint: {hint})"));
}
