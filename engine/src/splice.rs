//! Moves bytes from one plain connection to another through a kernel pipe, without seeing them.
//!
//! The ring only says when a socket is ready; splice(2) itself is called directly, on sockets that are non-blocking for the
//! time of the transfer. The bytes a slow reader has not taken yet sit in the pipe and the two socket buffers: kernel
//! memory, bounded by the pipe's size.

use std::cell::RefCell;
use std::io;

use sluice_sys::{Pipe, Spliced};

use crate::message::{Aborted, Cause, PlainRest, PlainSink};

/// Bodies with less to come are cheaper to receive and send (measured: reports/).
pub(crate) const SPLICE_BYTES_MIN: u64 = 64 * 1024;

/// Empty pipes kept by a shard for the next body.
const PIPES_KEPT: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Moves the rest of a body; returns how much of it. Less than all only when bytes had been received ahead meanwhile:
/// those come first.
pub(crate) async fn run(from: &PlainRest<'_>, to: &PlainSink<'_>) -> Result<u64, Aborted> {
    from.conn.disarm().await;
    if !from.conn.is_quiet() {
        return Ok(0);
    }
    let mut pipe = take_pipe().map_err(|error| Aborted::io(from.side, &error))?;
    let _modes = (from.conn.non_blocking(), to.conn.non_blocking());
    let mut left = from.bytes;
    while left > 0 || pipe.held() > 0 {
        if left > 0 && pipe.held() == 0 {
            left -= fill(&mut pipe, from, left).await?;
        }
        match pipe.drain_into(to.conn) {
            Ok(Spliced::Bytes(_)) => {}
            Ok(Spliced::NotReady) => {
                to.conn.writable(to.stall_ms).await.map_err(|error| Aborted::io(to.side, &error))?;
            }
            Ok(Spliced::End) => return Err(Aborted::by(to.side, Cause::Closed)),
            Err(error) => return Err(Aborted::io(to.side, &error)),
        }
    }
    keep_pipe(pipe);
    Ok(from.bytes)
}

/// Waits for bytes and moves them into the pipe; returns how many.
async fn fill(pipe: &mut Pipe, from: &PlainRest<'_>, left: u64) -> Result<u64, Aborted> {
    loop {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(pipe.capacity());
        match pipe.fill_from(from.conn, wanted) {
            Ok(Spliced::Bytes(bytes)) => return Ok(bytes as u64),
            Ok(Spliced::NotReady) => {
                from.conn.readable(from.idle_ms).await.map_err(|error| Aborted::io(from.side, &error))?;
            }
            Ok(Spliced::End) => return Err(Aborted::by(from.side, Cause::Closed)),
            Err(error) => return Err(Aborted::io(from.side, &error)),
        }
    }
}

fn take_pipe() -> io::Result<Pipe> {
    match PIPES.with_borrow_mut(Vec::pop) {
        Some(pipe) => Ok(pipe),
        None => Pipe::new(),
    }
}

/// Empty pipes this shard keeps.
pub(crate) fn pipes_kept() -> usize {
    PIPES.with_borrow(Vec::len)
}

/// Keeps an empty pipe. One that still holds bytes is never used again: they are somebody's.
fn keep_pipe(pipe: Pipe) {
    PIPES.with_borrow_mut(|pipes| {
        if pipe.held() == 0 && pipes.len() < PIPES_KEPT {
            pipes.push(pipe);
        }
    });
}
