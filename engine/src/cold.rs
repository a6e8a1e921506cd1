//! Keeps the code of rare cases out of the code that every request runs through.
//!
//! The compiler makes one function of everything that is awaited while a request is served, with refusals, retries and streamed
//! uploads between the steps of an ordinary GET. That was 32 KB, as much as the first-level instruction cache holds, and every
//! request loaded most of it again. A future that is awaited by `cold!` is code of its own, laid out as the unlikely branch.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Awaits a future that few requests come to.
macro_rules! cold {
    ($future:expr) => {{
        let mut future = ::std::pin::pin!($future);
        ::std::future::poll_fn(|context| $crate::cold::poll(future.as_mut(), context)).await
    }};
}

/// Polls it, out of line.
#[cold]
#[inline(never)]
pub(crate) fn poll<F: Future>(future: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(context)
}
