//! One request and its answer on a connection.

use std::io;
use std::net::SocketAddr;

use sluice_sys::{Buf, Conn};

use super::tally::Fault;
use crate::http::response::{Answer, ResponseReader};

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Something went wrong.
    Fault(Fault),
    /// The connection had ended before a byte of the answer came: if it was used before, it was merely stale.
    Stale,
}

/// Connects, and says in a tally's terms why not.
///
/// # Errors
/// The kind of failure.
pub(super) async fn connect(
    source: Option<SocketAddr>,
    address: SocketAddr,
    timeout_ms: u64,
) -> Result<Conn, Fault> {
    Conn::connect_from(source, address, timeout_ms).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        io::ErrorKind::TimedOut => Fault::ConnectTimeout,
        _ => Fault::Connect(error.raw_os_error().unwrap_or(0)),
    })
}

/// Sends a request and reads its answer.
///
/// # Errors
/// Why there is none.
pub(super) async fn exchange(
    conn: &Conn,
    request: &[u8],
    reader: &mut ResponseReader,
    timeout_ms: u64,
) -> Result<Answer, Broken> {
    let mut out = Buf::small();
    out.extend_from_slice(request);
    conn.send(out, timeout_ms).detach();
    conn.set_deadline(timeout_ms);
    reader.start(false);
    loop {
        match conn.receive().await {
            Ok(Some(lease)) => match reader.read(&lease) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(_) => return Err(Broken::Fault(Fault::Malformed)),
            },
            Ok(None) => match reader.ended() {
                Some(answer) => return Ok(answer),
                None if reader.has_begun() => return Err(Broken::Fault(Fault::Closed)),
                None => return Err(Broken::Stale),
            },
            Err(error) => return Err(broken(&error, reader.has_begun())),
        }
    }
}

fn broken(error: &io::Error, has_begun: bool) -> Broken {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if !has_begun => Broken::Stale,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Broken::Fault(Fault::Reset),
        io::ErrorKind::TimedOut => Broken::Fault(Fault::Timeout),
        _ => Broken::Fault(Fault::Io(error.raw_os_error().unwrap_or(0))),
    }
}
