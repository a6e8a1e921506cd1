//! Moves bytes from one plain connection to another through a kernel pipe, without a copy to user space.
//!
//! The ring only reports when a socket is ready; splice(2) itself is called directly. Bytes that a slow reader has not taken
//! are in the pipe and the two socket buffers: kernel memory, bounded by the pipe's size.
//!
//! Bodies ([`run`], called by `relay`) and tunnels share one machine, [`Splicing`], which is polled by hand: it is 16 bytes in the
//! task of its user, and the rest of it is kept with the pipe in the shard's stock. So splicing allocates nothing once the stock
//! has what it needs.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sluice_sys::{Patience, Pipe, Ready, Spliced, Timer, now_ms};

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
const FALSE_ALARMS_MAX: u32 = 4;
const FALSE_ALARM_PAUSE_MS: u64 = 1;

/// Moves the rest of a body; returns how much of it. Less than all when bytes had been received ahead meanwhile, when the
/// caller does not wait for more, or when something is in the way of splice(2): then a receive takes it.
pub(crate) async fn run<'c>(from: &mut PlainRest<'c>, to: &mut PlainSink<'c>) -> Result<u64, Aborted> {
    // Without a pipe the body is received and sent like any other.
    let Some(mut splicing) = Splicing::begin() else { return Ok(0) };
    poll_fn(|context| splicing.poll(from, to, context)).await
}

/// Bytes on their way from one connection to another. Dropped before its end, it takes with it what the pipe holds.
pub(crate) struct Splicing<'c> {
    transfer: TransferInUse,
    /// Waits borrow their connection (see [`Ready`]), so they are not kept with the pipe, which outlives it.
    phase: Phase<'c>,
}

enum Phase<'c> {
    /// Takes the sender's receive out of the kernel's hands.
    Disarming,
    /// A send of the ring may still be under way, such as the head of this very message: spliced bytes must not overtake it.
    Flushing,
    Filling,
    WaitingForBytes(Ready<'c>),
    Draining,
    WaitingForRoom(Ready<'c>),
    /// The reader's socket is reported as writable and takes nothing, time and again: that has to pass by itself.
    Pausing(Timer),
}

impl<'c> Splicing<'c> {
    /// `None` when there is no pipe for it.
    pub(crate) fn begin() -> Option<Splicing<'c>> {
        Some(Splicing { transfer: TransferInUse::take()?, phase: Phase::Disarming })
    }

    /// Moves what can be moved by now; ready like [`run`]. To be polled with the same two ends until then.
    pub(crate) fn poll(
        &mut self,
        from: &mut PlainRest<'c>,
        to: &mut PlainSink<'c>,
        context: &mut Context<'_>,
    ) -> Poll<Result<u64, Aborted>> {
        loop {
            self.phase = match &mut self.phase {
                Phase::Disarming => {
                    ready!(from.conn.poll_disarmed());
                    Phase::Flushing
                }
                Phase::Flushing => {
                    ready!(to.conn.poll_flushed());
                    if !from.conn.is_quiet() {
                        return Poll::Ready(Ok(0));
                    }
                    Phase::Filling
                }
                Phase::Filling => match self.transfer.fill(from)? {
                    Some(phase) => phase,
                    None => return Poll::Ready(Ok(self.transfer.moved)),
                },
                Phase::WaitingForBytes(readable) => {
                    let waited = ready!(Pin::new(readable).poll(context));
                    end_wait_for_bytes(from, waited.map_err(|error| Aborted::io(from.side, &error)))?;
                    Phase::Filling
                }
                Phase::Draining => self.transfer.drain(to)?,
                Phase::WaitingForRoom(writable) => {
                    let waited = ready!(Pin::new(writable).poll(context));
                    if let Some(min_rate) = &mut to.min_rate {
                        min_rate.end_send(now_ms());
                    }
                    waited.map_err(|error| Aborted::sending(to.side, &error))?;
                    Phase::Draining
                }
                Phase::Pausing(timer) => {
                    ready!(timer.poll_expired());
                    Phase::Draining
                }
            };
        }
    }
}

/// A pipe, and how far the bytes have come that go through it.
struct Transfer {
    pipe: Pipe,
    /// Bytes that went into the pipe.
    moved: u64,
    /// When the reader last took some of what the pipe holds.
    taken_ms: u64,
    /// How often one of the sockets was ready and was not, since something moved.
    false_alarms: u32,
}

impl Transfer {
    fn new() -> Option<Transfer> {
        Some(Transfer { pipe: Pipe::new().ok()?, moved: 0, taken_ms: 0, false_alarms: 0 })
    }

    /// Moves bytes into the pipe and says what comes next; `None` when no more are to be moved.
    fn fill<'c>(&mut self, from: &mut PlainRest<'c>) -> Result<Option<Phase<'c>>, Aborted> {
        if self.moved == from.bytes {
            return Ok(None);
        }
        if let Some(bytes) = self.fill_once(from)? {
            self.moved += bytes;
            (self.false_alarms, self.taken_ms) = (0, now_ms());
            return Ok(Some(Phase::Draining));
        }
        // The socket is reported as readable and nothing moves: splice(2) stops at the mark of urgent data, receiving passes it.
        if self.false_alarms == FALSE_ALARMS_MAX {
            return Ok(None);
        }
        self.false_alarms += 1;
        wait_for_bytes(from)
    }

    /// Moves bytes into the pipe; returns how many, or none if the socket has none.
    fn fill_once(&mut self, from: &mut PlainRest<'_>) -> Result<Option<u64>, Aborted> {
        let left = usize::try_from(from.bytes - self.moved).unwrap_or(usize::MAX);
        let wanted = left.min(self.pipe.capacity());
        match self.pipe.fill_from(from.conn, wanted) {
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

    /// Moves some of what the pipe holds on and says what comes next.
    fn drain<'c>(&mut self, to: &mut PlainSink<'c>) -> Result<Phase<'c>, Aborted> {
        if self.pipe.held() == 0 {
            return Ok(Phase::Filling);
        }
        if self.drain_once(to)? {
            (self.false_alarms, self.taken_ms) = (0, now_ms());
            return Ok(Phase::Draining);
        }
        if now_ms() >= self.taken_ms + u64::from(to.stall_ms) {
            return Err(Aborted::by(to.side, Cause::Stalled));
        }
        if self.false_alarms == FALSE_ALARMS_MAX {
            return Ok(Phase::Pausing(Timer::new(FALSE_ALARM_PAUSE_MS)));
        }
        self.false_alarms += 1;
        Ok(wait_for_room(to))
    }

    /// Moves some of what the pipe holds on; says whether the other side took any.
    fn drain_once(&mut self, to: &mut PlainSink<'_>) -> Result<bool, Aborted> {
        match self.pipe.drain_into(to.conn) {
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
}

/// A wait until the sender's socket has more; `None` when the caller does not wait for it.
fn wait_for_bytes<'c>(from: &mut PlainRest<'c>) -> Result<Option<Phase<'c>>, Aborted> {
    let Some(min_rate) = &mut from.min_rate else { return Ok(None) };
    let patience_ms = min_rate.begin_wait(now_ms()).map_err(|cause| Aborted::by(from.side, cause))?;
    Ok(Some(Phase::WaitingForBytes(from.conn.readable(patience_ms))))
}

fn end_wait_for_bytes(from: &mut PlainRest<'_>, waited: Result<(), Aborted>) -> Result<(), Aborted> {
    match &mut from.min_rate {
        Some(min_rate) => min_rate.end_wait(now_ms(), waited),
        None => waited,
    }
}

/// A wait until the other side may take something.
fn wait_for_room<'c>(to: &mut PlainSink<'c>) -> Phase<'c> {
    let total_ms = to.min_rate.as_mut().map_or(0, |min_rate| min_rate.begin_send(now_ms(), 0));
    Phase::WaitingForRoom(to.conn.writable(Patience { stall_ms: to.stall_ms.into(), total_ms }))
}

#[derive(Default)]
struct Stock {
    // Boxed, so that a transfer is one pointer wide in the tasks of those who use it, and none is allocated as it is taken.
    #[allow(clippy::vec_box)]
    kept: Vec<Box<Transfer>>,
    in_use: usize,
    /// With so many descriptors open in the shard, no pipe is taken: connections go first. 0 for no such bound.
    descriptors_max: u32,
}

thread_local! {
    static STOCK: RefCell<Stock> = const {
        RefCell::new(Stock { kept: Vec::new(), in_use: 0, descriptors_max: 0 })
    };
}

/// A transfer from the shard's stock, which it goes back to if its pipe is empty. A pipe that still holds bytes is never used
/// again: they belong to a client.
struct TransferInUse(Option<Box<Transfer>>);

impl TransferInUse {
    /// `None` when the shard has enough pipes in use already, when its connections need the descriptors, or when the system
    /// has no more.
    fn take() -> Option<TransferInUse> {
        STOCK.with_borrow_mut(|stock| {
            let open = sluice_sys::sockets_open() + PIPE_DESCRIPTORS * (stock.in_use as u32 + 1);
            let is_short = stock.descriptors_max > 0 && open > stock.descriptors_max;
            if stock.in_use >= PIPES_MAX || is_short {
                return None;
            }
            let mut transfer = stock.kept.pop().or_else(|| Transfer::new().map(Box::new))?;
            (transfer.moved, transfer.false_alarms) = (0, 0);
            stock.in_use += 1;
            Some(TransferInUse(Some(transfer)))
        })
    }
}

impl Deref for TransferInUse {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        self.0.as_ref().expect("a transfer in use is there")
    }
}

impl DerefMut for TransferInUse {
    fn deref_mut(&mut self) -> &mut Transfer {
        self.0.as_mut().expect("a transfer in use is there")
    }
}

impl Drop for TransferInUse {
    fn drop(&mut self) {
        let transfer = self.0.take().filter(|transfer| transfer.pipe.held() == 0);
        STOCK.with_borrow_mut(|stock| {
            stock.in_use -= 1;
            if stock.kept.len() < PIPES_KEPT {
                stock.kept.extend(transfer);
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use sluice_sys::{Buf, Conn, Outstanding, Runtime, Settings, next_connection, sleep};

    use super::*;
    use crate::message::Side;
    use crate::min_rate::MinRate;

    const LONG_MS: u32 = 20_000;

    /// A connection and the other end of it.
    async fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let conn = Conn::connect(listener.local_addr().expect("address"), 1_000).await.expect("connect");
        let (peer, _) = listener.accept().expect("accept");
        peer.set_read_timeout(Some(Duration::from_millis(LONG_MS.into()))).expect("timeout");
        (conn, peer)
    }

    #[test]
    fn spliced_bytes_do_not_overtake_a_send() {
        /// More than a socket takes at once.
        const SENT_BYTES: usize = 16 << 20;
        let main = async {
            let ((from, mut source), (to, mut sink)) = (pair().await, pair().await);
            source.write_all(b"behind").expect("write");
            let mut before = Buf::large();
            before.resize(SENT_BYTES, b'.');
            to.send(before, 0).detach();
            let reader = thread::spawn(move || {
                let mut all = vec![0; SENT_BYTES + 6];
                sink.read_exact(&mut all).map(|()| all)
            });
            let mut min_rate = MinRate::by_pauses(LONG_MS.into());
            let mut rest =
                PlainRest { conn: &from, bytes: 6, min_rate: Some(&mut min_rate), side: Side::Downstream };
            let mut to = PlainSink { conn: &to, stall_ms: LONG_MS, min_rate: None, side: Side::Upstream };
            assert_eq!(run(&mut rest, &mut to).await, Ok(6));
            while !reader.is_finished() {
                sleep(5).await;
            }
            let all = reader.join().expect("the reader").expect("all of it");
            assert_eq!(&all[SENT_BYTES..], b"behind");
            assert!(all[..SENT_BYTES].iter().all(|&byte| byte == b'.'));
        };
        let runtime = Runtime::new(&Settings::default()).expect("a runtime");
        let left = runtime.run(main, async || drop(next_connection().await)).expect("a ring");
        assert_eq!(left, Outstanding::default());
    }
}
