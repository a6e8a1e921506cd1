//! Deadlines without a socket. They are entries of the socket table too, so that one wheel serves both.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::task::Poll;

use crate::driver;

/// A deadline of its own, for waits that are not about one socket.
pub struct Timer {
    index: u32,
    _on_this_thread: PhantomData<*const u8>,
}

impl Timer {
    /// A timer that goes off `after_ms` from now.
    pub fn new(after_ms: u64) -> Timer {
        let index = driver::with(|driver| {
            let index = driver.open_timer();
            driver.set_deadline(index, after_ms);
            index
        });
        Timer { index, _on_this_thread: PhantomData }
    }

    /// Whether the timer has gone off; if not, the task is polled again when it does.
    pub fn poll_expired(&self) -> Poll<()> {
        driver::with(|driver| driver.poll_expired(self.index))
    }

    /// Starts the timer anew.
    pub fn reset(&self, after_ms: u64) {
        driver::with(|driver| driver.set_deadline(self.index, after_ms));
    }

    /// Waits until the timer has gone off.
    pub async fn expired(&self) {
        poll_fn(|_| self.poll_expired()).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        driver::try_with(|driver| driver.close(self.index));
    }
}

/// Waits for a time.
pub async fn sleep(ms: u64) {
    Timer::new(ms).expired().await;
}
