//! Futures of what is under way on a connection: receives, sends, and operations of the in-flight table in general.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Conn;
use crate::buf::Buf;
use crate::driver;
use crate::key::NONE;
use crate::lease::Lease;
use crate::op::Payload;

/// Waits for bytes; see [`Conn::receive`].
#[must_use = "futures do nothing unless awaited"]
pub struct Receive<'a> {
    pub(super) conn: &'a Conn,
}

impl Future for Receive<'_> {
    type Output = io::Result<Option<Lease>>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = driver::with(|driver| driver.poll_receive(self.conn.index));
        polled.map(|result| result.map(|lease| lease.map(Lease::from_raw)))
    }
}

/// The future of one operation in the in-flight table. Dropping it makes the operation an orphan.
pub(super) struct Operation {
    /// Its slot; none once it was collected.
    index: u32,
    _on_this_thread: PhantomData<*const u8>,
}

impl Operation {
    pub(super) fn new(index: u32) -> Operation {
        Operation { index, _on_this_thread: PhantomData }
    }
}

impl Future for Operation {
    type Output = (i32, Payload);

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = driver::with(|driver| driver.poll_op(self.index));
        if polled.is_ready() {
            self.index = NONE;
        }
        polled
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.index != NONE {
            driver::try_with(|driver| driver.orphan(self.index));
        }
    }
}

/// Waits until a socket can be read or written; see [`Conn::readable`]. It borrows the connection: the wait has a hold on the
/// socket, which would stay open in the kernel after the connection was closed.
///
/// ```compile_fail
/// async fn outlives(conn: sluice_sys::Conn) {
///     let ready = conn.readable(0);
///     drop(conn);
///     let _ = ready.await;
/// }
/// ```
///
/// The other way round it compiles:
///
/// ```
/// async fn is_outlived(conn: sluice_sys::Conn) {
///     let ready = conn.readable(0);
///     let _ = ready.await;
///     drop(conn);
/// }
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct Ready<'a> {
    pub(super) operation: Operation,
    pub(super) _conn: PhantomData<&'a Conn>,
}

impl Future for Ready<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation)
            .poll(context)
            .map(|(result, _)| if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) })
    }
}

/// A send under way; see [`Conn::send`]. The connection may be used and even dropped meanwhile; dropping it cancels
/// the send.
///
/// Like every handle it is of use to the runtime that made it alone, and stays on its thread:
///
/// ```compile_fail
/// fn is_sent_to_another_thread<T: Send>() {}
/// is_sent_to_another_thread::<sluice_sys::Sending>();
/// ```
#[must_use = "a send whose end is not waited for needs `detach`"]
pub struct Sending(pub(super) Operation);

/// How a send ended.
#[derive(Debug)]
pub struct Sent {
    /// All bytes are with the kernel, or why not.
    pub result: io::Result<()>,
    /// The buffer, when it was one of ours; of several, the head.
    pub buf: Option<Buf>,
}

impl Sending {
    /// Lets the send go on by itself. If it fails, the connection's receive ends.
    pub fn detach(self) {}

    /// Whether the kernel is known to have taken any of it. What was received before that is older than what is sent.
    pub fn has_begun(&self) -> bool {
        driver::with(|driver| driver.has_begun(self.0.index))
    }

    /// The end of the send, if it is over by now.
    ///
    /// # Errors
    /// Hands the send back while it is under way.
    pub fn try_finish(mut self) -> Result<Sent, Sending> {
        match driver::with(|driver| driver.poll_op(self.0.index)) {
            Poll::Ready((result, payload)) => {
                self.0.index = NONE;
                Ok(sent(result, payload))
            }
            Poll::Pending => Err(self),
        }
    }
}

impl Future for Sending {
    type Output = Sent;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Sent> {
        Pin::new(&mut self.0).poll(context).map(|(result, payload)| sent(result, payload))
    }
}

fn sent(result: i32, payload: Payload) -> Sent {
    let buf = if let Payload::SendBuf { buf, .. } = payload { Some(buf) } else { None };
    let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
    Sent { result, buf }
}
