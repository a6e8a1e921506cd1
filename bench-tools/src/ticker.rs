//! A pulse for a runtime: its own timers count in ticks of some 30 ms, which is right for deadlines and too coarse
//! for an arrival schedule. A thread sleeps and rings the runtime's doorbell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sluice_sys::{Doorbell, MsgRingSender, next_message};

use crate::Failure;

struct Shared {
    period_us: AtomicU64,
    is_over: AtomicBool,
    /// A tick was rung and not taken yet: ringing again would only pile up.
    is_rung: AtomicBool,
}

/// Rings the doorbell of the runtime on whose thread it was started. One per runtime.
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts ticking.
    ///
    /// # Errors
    /// When the host has no ring or descriptor for it.
    pub fn start(period: Duration) -> Result<Ticker, Failure> {
        let no_doorbell = |error| Failure::Usage(format!("no doorbell for the ticker: {error}"));
        let doorbell = Doorbell::of_this_thread().map_err(no_doorbell)?;
        let mut ring_sender = MsgRingSender::new()?;
        let shared = Arc::new(Shared {
            period_us: AtomicU64::new(micros(period)),
            is_over: AtomicBool::new(false),
            is_rung: AtomicBool::new(false),
        });
        let its = shared.clone();
        let thread = thread::spawn(move || {
            while !its.is_over.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_micros(its.period_us.load(Ordering::Relaxed)));
                let is_due = !its.is_rung.swap(true, Ordering::Relaxed);
                if is_due && ring_sender.ring(&doorbell, 0).is_err() {
                    return;
                }
            }
        });
        Ok(Ticker { shared, thread: Some(thread) })
    }

    /// Changes the time between ticks, from now on.
    pub fn set_period(&self, period: Duration) {
        let before = self.shared.period_us.swap(micros(period), Ordering::Relaxed);
        if let Some(thread) = &self.thread
            && before > micros(period)
        {
            thread.thread().unpark();
        }
    }

    /// Waits for the next tick.
    pub async fn tick(&self) {
        next_message().await;
        self.shared.is_rung.store(false, Ordering::Relaxed);
    }
}

fn micros(period: Duration) -> u64 {
    u64::try_from(period.as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread ends after at most one more ring; a panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sys::{Runtime, Settings, next_connection};
    use std::time::Instant;

    #[test]
    fn ticks_come_faster_than_the_wheel() {
        let runtime = Runtime::new(&Settings { buffers: 8, ..Settings::default() }).expect("a runtime");
        let main = async {
            let ticker = Ticker::start(Duration::from_secs(3_600)).expect("a ticker");
            ticker.set_period(Duration::from_millis(1));
            // Twenty ticks of the wheel are 640 ms. On a busy host it may need more than one try.
            let begin = Instant::now();
            loop {
                let begin_of_twenty = Instant::now();
                for _ in 0..20 {
                    ticker.tick().await;
                }
                let took = begin_of_twenty.elapsed();
                if took < Duration::from_millis(400) {
                    break;
                }
                assert!(
                    begin.elapsed() < Duration::from_secs(60),
                    "{took:?} for twenty ticks of a millisecond"
                );
            }
        };
        runtime.run(main, async || drop(next_connection().await)).expect("a ring");
    }
}
