//! Answers that wait for their time, without a task: the connection and its bytes are an entry in a heap, and the
//! lane's main task sends what is due at every tick.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use sluice_sys::{Buf, Conn};

use crate::ticker::Ticker;

/// How often due answers are looked for while there are any.
const BUSY_PERIOD: Duration = Duration::from_millis(1);
/// How often the lane looks up when there are none.
const IDLE_PERIOD: Duration = Duration::from_millis(100);

/// An answer that is due at a time.
struct Waiting {
    due: Instant,
    number: u64,
    conn: Conn,
    out: Buf,
}

/// The answers of a lane that wait.
pub(super) struct Delayed {
    ticker: Ticker,
    heap: RefCell<Heap>,
}

#[derive(Default)]
struct Heap {
    waiting: BinaryHeap<Reverse<Waiting>>,
    count: u64,
}

impl Delayed {
    pub(super) fn new() -> Result<Delayed, crate::Failure> {
        Ok(Delayed { ticker: Ticker::start(IDLE_PERIOD)?, heap: RefCell::default() })
    }

    /// Keeps an answer until its time.
    pub(super) fn add(&self, delay: Duration, conn: Conn, out: Buf) {
        let mut heap = self.heap.borrow_mut();
        if heap.waiting.is_empty() {
            self.ticker.set_period(BUSY_PERIOD);
        }
        heap.count += 1;
        let number = heap.count;
        heap.waiting.push(Reverse(Waiting { due: Instant::now() + delay, number, conn, out }));
    }

    /// Waits for the next tick.
    pub(super) async fn tick(&self) {
        self.ticker.tick().await;
    }

    /// An answer whose time has come.
    pub(super) fn next_due(&self) -> Option<(Conn, Buf)> {
        let mut heap = self.heap.borrow_mut();
        if heap.waiting.is_empty() {
            self.ticker.set_period(IDLE_PERIOD);
            return None;
        }
        let is_due = heap.waiting.peek().is_some_and(|Reverse(first)| first.due <= Instant::now());
        if !is_due {
            return None;
        }
        heap.waiting.pop().map(|Reverse(first)| (first.conn, first.out))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}
