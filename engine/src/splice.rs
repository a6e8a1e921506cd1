//! Moves bytes from one plain connection to another through a kernel pipe, without a copy to user space.
//!
//! The ring only reports when a socket is ready; splice(2) itself is called directly. Bytes that a slow reader has not taken
//! are in the pipe and the two socket buffers: kernel memory, bounded by the pipe's size.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use sluice_sys::{Patience, Pipe, Spliced, now_ms, sleep};

use crate::message::{Aborted, Cause, PlainRest, PlainSink};

/// Bodies with less to come are cheaper to receive and send (measured: reports/).
pub(crate) const SPLICE_BYTES_MIN: u64 = 64 * 1024;

/// Empty pipes kept by a shard for the next body.
const PIPES_KEPT: usize = 16;

/// Pipes a shard has in use at most: what slow readers may keep in kernel memory, at 256 KiB each. Bodies beyond are
/// received and sent.
const PIPES_MAX: usize = 512;

/// Descriptors of a pipe.
const PIPE_DESCRIPTORS: u32 = 2;

/// How often a socket may be reported as ready and then not be, before time is given it to become so.
const FALSE_ALARMS_MAX: usize = 4;
const FALSE_ALARM_PAUSE_MS: u64 = 1;

#[derive(Default)]
struct Stock {
    // Boxed, so that a pipe is one pointer wide in the tasks of those who use it.
    #[allow(clippy::vec_box)]
    kept: Vec<Box<Pipe>>,
    in_use: usize,
    /// With so many descriptors open in the shard, no pipe is taken: connections go first. 0 for no such bound.
    descriptors_max: u32,
}

thread_local! {
    static STOCK: RefCell<Stock> = const {
        RefCell::new(Stock { kept: Vec::new(), in_use: 0, descriptors_max: 0 })
    };
}

/// Moves the rest of a body; returns how much of it. Less than all when bytes had been received ahead meanwhile, when the
/// caller does not wait for more, or when something is in the way of splice(2): then a receive takes it.
pub(crate) async fn run(from: &mut PlainRest<'_>, to: &mut PlainSink<'_>) -> Result<u64, Aborted> {
    // Without a pipe the body is received and sent like any other.
    let Some(mut pipe) = PipeInUse::take() else { return Ok(0) };
    from.conn.disarm().await;
    // A send of the ring may still be under way, such as the head of this very message: spliced bytes must not overtake it.
    to.conn.flushed().await;
    if !from.conn.is_quiet() {
        return Ok(0);
    }
    let mut moved = 0;
    let mut false_alarms = 0;
    while moved < from.bytes {
        match fill(&mut pipe, from, moved)? {
            Some(bytes) => moved += bytes,
            // The socket is reported as readable and nothing moves: splice(2) stops at the mark of urgent data, receiving
            // passes it.
            None if false_alarms == FALSE_ALARMS_MAX => break,
            None => {
                false_alarms += 1;
                let Some(min_rate) = &mut from.min_rate else { break };
                let patience_ms = min_rate.begin_wait(now_ms());
                let patience_ms = patience_ms.map_err(|cause| Aborted::by(from.side, cause))?;
                let waited = from.conn.readable(patience_ms).await;
                min_rate.end_wait(now_ms(), waited.map_err(|error| Aborted::io(from.side, &error)))?;
                continue;
            }
        }
        false_alarms = 0;
        let mut moved_ms = now_ms();
        while pipe.held() > 0 {
            if drain(&mut pipe, to)? {
                (false_alarms, moved_ms) = (0, now_ms());
                continue;
            }
            if now_ms() >= moved_ms + u64::from(to.stall_ms) {
                return Err(Aborted::by(to.side, Cause::Stalled));
            }
            // The socket is reported as writable and takes nothing, time and again: that has to pass by itself.
            if false_alarms == FALSE_ALARMS_MAX {
                sleep(FALSE_ALARM_PAUSE_MS).await;
            } else {
                false_alarms += 1;
                wait_for_room(to).await?;
            }
        }
        false_alarms = 0;
    }
    Ok(moved)
}

/// Moves bytes into the pipe; returns how many, or none if the socket has none. `moved` were moved before.
fn fill(pipe: &mut Pipe, from: &mut PlainRest<'_>, moved: u64) -> Result<Option<u64>, Aborted> {
    let wanted = usize::try_from(from.bytes - moved).unwrap_or(usize::MAX).min(pipe.capacity());
    match pipe.fill_from(from.conn, wanted) {
        Ok(Spliced::Bytes(bytes)) => {
            if let Some(min_rate) = &mut from.min_rate {
                min_rate.received(bytes as u64);
            }
            Ok(Some(bytes as u64))
        }
        Ok(Spliced::NotReady) => Ok(None),
        // A receive tells of it.
        Ok(Spliced::End) if from.min_rate.is_none() => Ok(None),
        Ok(Spliced::End) => Err(Aborted::by(from.side, Cause::Closed)),
        Err(error) => Err(Aborted::io(from.side, &error)),
    }
}

/// Waits until the other side may take something.
async fn wait_for_room(to: &mut PlainSink<'_>) -> Result<(), Aborted> {
    let total_ms = to.min_rate.as_mut().map_or(0, |min_rate| min_rate.begin_send(now_ms(), 0));
    let waited = to.conn.writable(Patience { stall_ms: to.stall_ms.into(), total_ms }).await;
    if let Some(min_rate) = &mut to.min_rate {
        min_rate.end_send(now_ms());
    }
    waited.map_err(|error| Aborted::sending(to.side, &error))
}

/// Moves some of what the pipe holds on; says whether the other side took any.
fn drain(pipe: &mut Pipe, to: &mut PlainSink<'_>) -> Result<bool, Aborted> {
    match pipe.drain_into(to.conn) {
        Ok(Spliced::Bytes(bytes)) => {
            if let Some(min_rate) = &mut to.min_rate {
                min_rate.received(bytes as u64);
            }
            Ok(true)
        }
        Ok(Spliced::NotReady) => Ok(false),
        Ok(Spliced::End) => Err(Aborted::by(to.side, Cause::Closed)),
        Err(error) => Err(Aborted::io(to.side, &error)),
    }
}

/// A pipe from the shard's stock, which it goes back to if it is empty. One that still holds bytes is never used again:
/// they belong to a client.
struct PipeInUse(Option<Box<Pipe>>);

impl PipeInUse {
    /// `None` when the shard has enough pipes in use already, when its connections need the descriptors, or when the system
    /// has no more.
    fn take() -> Option<PipeInUse> {
        STOCK.with_borrow_mut(|stock| {
            let open = sluice_sys::sockets_open() + PIPE_DESCRIPTORS * (stock.in_use as u32 + 1);
            let is_short = stock.descriptors_max > 0 && open > stock.descriptors_max;
            if stock.in_use >= PIPES_MAX || is_short {
                return None;
            }
            let pipe = stock.kept.pop().or_else(|| Pipe::new().ok().map(Box::new))?;
            stock.in_use += 1;
            Some(PipeInUse(Some(pipe)))
        })
    }
}

impl Deref for PipeInUse {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        self.0.as_ref().expect("a pipe in use is there")
    }
}

impl DerefMut for PipeInUse {
    fn deref_mut(&mut self) -> &mut Pipe {
        self.0.as_mut().expect("a pipe in use is there")
    }
}

impl Drop for PipeInUse {
    fn drop(&mut self) {
        let pipe = self.0.take().filter(|pipe| pipe.held() == 0);
        STOCK.with_borrow_mut(|stock| {
            stock.in_use -= 1;
            if stock.kept.len() < PIPES_KEPT {
                stock.kept.extend(pipe);
            }
        });
    }
}

/// From now on this shard takes no pipe with so many descriptors open.
pub(crate) fn bound_descriptors(open_max: u32) {
    STOCK.with_borrow_mut(|stock| stock.descriptors_max = open_max);
}

/// Empty pipes this shard keeps.
pub(crate) fn pipes_kept() -> usize {
    STOCK.with_borrow(|stock| stock.kept.len())
}
