//! Gets a connection to a server of a group: a kept one, or a new one.

use std::io;

use sluice_sys::Conn;

use crate::answer::Answer;
use crate::shard::Shard;
use crate::upstream::group::{Group, Server};
use crate::upstream::h1::Up;

/// A kept connection to the server whose turn it is. The usual case, and nothing in it waits.
pub(crate) fn kept<'s>(shard: &Shard, group: &'s Group) -> Option<Up<'s>> {
    let found = group.turn(sluice_sys::now_ms(), |server| Some((server, server.take_idle()?)));
    let (server, conn) = found?;
    shard.counters.upstream_reuses.increment();
    Some(Up::new(server, conn, true))
}

/// A new connection to the server whose turn it is, or to the next one that can be reached.
///
/// # Errors
/// The answer for the client when there is none.
pub(crate) async fn connected<'s>(shard: &Shard, group: &'s Group) -> Result<Up<'s>, Answer<'static>> {
    let mut answer = Answer::NoneAvailable;
    for _ in group.servers() {
        let Some(server) = group.turn(sluice_sys::now_ms(), Some) else { break };
        match connect(server, shard.times.upstream_connect).await {
            Ok(conn) => {
                conn.set_read_ahead(server.read_ahead());
                shard.counters.upstream_connects.increment();
                return Ok(Up::new(server, conn, false));
            }
            Err(error) => {
                shard.counters.upstream_connect_errors.increment();
                answer = answer_for(&error);
                if answer == Answer::UpstreamTimeout {
                    shard.counters.upstream_connect_timeouts.increment();
                }
                if answer != Answer::NoneAvailable {
                    server.pass_over(sluice_sys::now_ms());
                }
            }
        }
    }
    Err(answer)
}

/// Tries the server's addresses, the one that worked last first.
async fn connect(server: &Server, timeout_ms: u64) -> io::Result<Conn> {
    let count = server.addresses.len();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for turn in 0..count {
        let at = (server.preferred.get() + turn) % count;
        match Conn::connect(server.addresses[at], timeout_ms).await {
            Ok(conn) => {
                server.preferred.set(at);
                return Ok(conn);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A lack of our own (descriptors, ports, memory) is not the server's fault and may pass.
fn answer_for(error: &io::Error) -> Answer<'static> {
    match error.raw_os_error() {
        Some(libc_errno::ETIMEDOUT) => Answer::UpstreamTimeout,
        Some(
            libc_errno::EMFILE
            | libc_errno::ENFILE
            | libc_errno::EADDRNOTAVAIL
            | libc_errno::ENOMEM
            | libc_errno::ENOBUFS,
        ) => Answer::NoneAvailable,
        _ => Answer::Unreachable,
    }
}

/// Linux errno values (asm-generic/errno.h), the same on every architecture we build for.
mod libc_errno {
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const EADDRNOTAVAIL: i32 = 99;
    pub(super) const ENOBUFS: i32 = 105;
    pub(super) const ETIMEDOUT: i32 = 110;
}
