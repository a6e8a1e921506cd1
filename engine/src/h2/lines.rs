//! Heads that were decoded and wait for their exchange: their memory is kept by the shard and used again.

use std::cell::RefCell;

use sluice_proto::h2::HeadLines;

/// They are kept up to here: two thousand usual ones, as many as wait while as many streams are served.
const STOCK_BYTES: usize = 2 * 1024 * 1024;

/// What has grown beyond this is not kept.
const KEPT_BYTES: usize = 8 * 1024;

struct Stock {
    // Boxed, so that a head that waits is a pointer.
    #[allow(clippy::vec_box)]
    lines: Vec<Box<HeadLines>>,
    bytes: usize,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { lines: Vec::new(), bytes: 0 }) };
}

impl Stock {
    fn take(&mut self) -> Option<Box<HeadLines>> {
        let lines = self.lines.pop()?;
        self.bytes -= bytes_of(&lines);
        Some(lines)
    }

    fn keep(&mut self, lines: Box<HeadLines>) {
        let bytes = bytes_of(&lines);
        if bytes <= KEPT_BYTES && self.bytes + bytes <= STOCK_BYTES {
            self.bytes += bytes;
            self.lines.push(lines);
        }
    }
}

fn bytes_of(lines: &HeadLines) -> usize {
    size_of::<HeadLines>() + lines.heap_bytes()
}

/// Room for a head; returns to the stock when dropped.
#[derive(Debug)]
pub(crate) struct Lines(Option<Box<HeadLines>>);

impl Lines {
    pub(crate) fn take() -> Lines {
        Lines(Some(STOCK.with_borrow_mut(Stock::take).unwrap_or_default()))
    }
}

impl std::ops::Deref for Lines {
    type Target = HeadLines;

    fn deref(&self) -> &HeadLines {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl std::ops::DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut HeadLines {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let Some(lines) = self.0.take() else { return };
        // A thread that is ending has no stock any more.
        let _ = STOCK.try_with(|stock| stock.borrow_mut().keep(lines));
    }
}
