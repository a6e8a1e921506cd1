//! Memory that a connection needs while it is at work: lent by the shard, so that one that rests between two requests has none, and
//! none is made when it goes on.

use std::cell::RefCell;
use std::rc::Rc;

use super::session::Session;

/// So many are kept, with room for so many streams at most.
const KEPT: usize = 256;
const SLOTS_KEPT: usize = 256;

thread_local! {
    static STOCK: RefCell<Vec<Rc<Session>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that was used before, if there is some. It has no connection and no shard.
pub(super) fn take() -> Option<Rc<Session>> {
    STOCK.with_borrow_mut(Vec::pop)
}

/// Keeps it for the next connection.
pub(super) fn keep(session: Rc<Session>) {
    let is_small = session.slots_capacity() <= SLOTS_KEPT;
    STOCK.with_borrow_mut(|stock| {
        if is_small && stock.len() < KEPT {
            stock.push(session);
        }
    });
}
