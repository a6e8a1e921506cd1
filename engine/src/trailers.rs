//! Trailers of a body on their way: calls of gRPC end with them, so their memory is kept by the shard and used again.

use std::cell::RefCell;
use std::ops::Deref;

use sluice_proto::Trailers;
use sluice_proto::h2::HeadLines;

/// So many are kept, of this size at most.
const KEPT: usize = 1_024;
const KEPT_BYTES: usize = 1_024;

thread_local! {
    // Boxed, so that trailers that wait are a pointer.
    #[allow(clippy::vec_box)]
    static STOCK: RefCell<Vec<Box<Trailers>>> = const { RefCell::new(Vec::new()) };
}

/// The trailers of one body; their memory returns to the stock when dropped.
#[derive(Debug)]
pub(crate) struct BodyTrailers(Option<Box<Trailers>>);

impl BodyTrailers {
    /// Those that were decoded last.
    pub(crate) fn of(lines: &HeadLines) -> BodyTrailers {
        let mut trailers = take();
        lines.copy_trailers(&mut trailers);
        BodyTrailers(Some(trailers))
    }

    pub(crate) fn copy_of(others: &Trailers) -> BodyTrailers {
        let mut trailers = take();
        trailers.copy_from(others);
        BodyTrailers(Some(trailers))
    }
}

fn take() -> Box<Trailers> {
    STOCK.with_borrow_mut(Vec::pop).unwrap_or_default()
}

impl From<Trailers> for BodyTrailers {
    fn from(trailers: Trailers) -> BodyTrailers {
        BodyTrailers(Some(Box::new(trailers)))
    }
}

impl Deref for BodyTrailers {
    type Target = Trailers;

    fn deref(&self) -> &Trailers {
        self.0.as_ref().expect("they are there until they are dropped")
    }
}

impl Drop for BodyTrailers {
    fn drop(&mut self) {
        let Some(mut trailers) = self.0.take().filter(|trailers| trailers.heap_bytes() <= KEPT_BYTES) else {
            return;
        };
        trailers.clear();
        // A thread that is ending has no stock any more.
        let _ = STOCK.try_with(|stock| {
            let mut stock = stock.borrow_mut();
            if stock.len() < KEPT {
                stock.push(trailers);
            }
        });
    }
}
