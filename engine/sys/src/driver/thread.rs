//! The driver of a thread: a pointer that handles reach it through.
//!
//! A handle (`Conn`, `Sending`, `Lease`, ...) is a number that means something to one runtime only. A thread may have another
//! runtime after the first one has ended, so a thread on which handles of an ended runtime are left gets none any more: it is
//! spent. Handles need no number of their runtime for that, and nothing is compared when they are used.

use std::cell::Cell;

use super::Driver;

thread_local! {
    /// The driver of this thread; null while it is in use and where there is none.
    static DRIVER: Cell<*mut Driver> = const { Cell::new(std::ptr::null_mut()) };
    /// There are handles that no runtime of this thread must meet.
    static IS_SPENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on this thread's driver.
///
/// # Panics
/// Outside a runtime, or when called from inside itself: both are mistakes of ours.
pub(crate) fn with<R>(f: impl FnOnce(&mut Driver) -> R) -> R {
    try_with(f).expect("called outside of a sluice-sys runtime")
}

/// Like [`with`], but says `None` outside a runtime: for destructors.
pub(crate) fn try_with<R>(f: impl FnOnce(&mut Driver) -> R) -> Option<R> {
    let pointer = DRIVER.replace(std::ptr::null_mut());
    // SAFETY: the pointer comes from `install` and stays valid until `uninstall` removes it, which cannot happen during the
    // call: it was taken out of the cell the line before. For the same reason it is the only reference: a call from inside
    // `f` finds null.
    let driver = unsafe { pointer.as_mut() }?;
    let on_panic = SpendThread;
    let result = f(driver);
    std::mem::forget(on_panic);
    DRIVER.set(pointer);
    Some(result)
}

/// A panic inside the driver leaves it half changed: it is never used again, and its handles must meet no other.
struct SpendThread;

impl Drop for SpendThread {
    fn drop(&mut self) {
        spend_thread();
    }
}

/// Bars this thread from another runtime: handles of an earlier one are still there.
pub(crate) fn spend_thread() {
    IS_SPENT.set(true);
}

/// Makes the driver reachable from handles on this thread.
pub(crate) fn install(driver: Box<Driver>) {
    assert!(DRIVER.get().is_null(), "this thread has a runtime already");
    assert!(!IS_SPENT.get(), "handles of an earlier runtime of this thread are left: use another thread");
    DRIVER.set(Box::into_raw(driver));
}

/// Takes the driver back.
pub(crate) fn uninstall() -> Option<Box<Driver>> {
    let pointer = DRIVER.replace(std::ptr::null_mut());
    // SAFETY: a non-null pointer in the cell came from Box::into_raw in `install`, and it was just removed.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
}
