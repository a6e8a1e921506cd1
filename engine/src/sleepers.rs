//! Tasks that sleep until something of their own happens, and can all be woken at once.

use std::cell::RefCell;
use std::task::{Context, Waker};

/// Their wakers, by a number that each has for as long as it is there.
#[derive(Default)]
pub(crate) struct Sleepers {
    inner: RefCell<Places>,
}

#[derive(Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Sleepers {
    /// A number for a task.
    pub(crate) fn enter(&self) -> u32 {
        let mut inner = self.inner.borrow_mut();
        inner.free.pop().unwrap_or_else(|| {
            inner.wakers.push(None);
            inner.wakers.len() as u32 - 1
        })
    }

    /// The task that has the number sleeps.
    pub(crate) fn sleep(&self, number: u32, context: &Context<'_>) {
        let place = &mut self.inner.borrow_mut().wakers[number as usize];
        if place.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *place = Some(context.waker().clone());
        }
    }

    /// The number is free.
    pub(crate) fn leave(&self, number: u32) {
        let mut inner = self.inner.borrow_mut();
        inner.wakers[number as usize] = None;
        inner.free.push(number);
    }

    /// Wakes all.
    pub(crate) fn wake_all(&self) {
        self.inner.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }
}
