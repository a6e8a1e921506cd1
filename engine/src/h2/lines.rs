//! Heads that were decoded and wait for their exchange: their memory is kept by the shard and used again.

use std::cell::RefCell;

use sluice_proto::h2::HeadLines;

/// So many are kept: a shard with thousands of streams at once makes more, and frees them.
const KEPT: usize = 256;

thread_local! {
    // Boxed, so that a head that waits is a pointer.
    #[allow(clippy::vec_box)]
    static STOCK: RefCell<Vec<Box<HeadLines>>> = const { RefCell::new(Vec::new()) };
}

/// Room for a head; returns to the stock when dropped.
#[derive(Debug)]
pub(crate) struct Lines(Option<Box<HeadLines>>);

impl Lines {
    pub(crate) fn take() -> Lines {
        Lines(Some(STOCK.with_borrow_mut(Vec::pop).unwrap_or_default()))
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
        let _ = STOCK.try_with(|stock| {
            let mut stock = stock.borrow_mut();
            if stock.len() < KEPT && lines.heap_bytes() <= KEPT_BYTES {
                stock.push(lines);
            }
        });
    }
}

/// What has grown beyond this is not kept.
const KEPT_BYTES: usize = 8 * 1024;
