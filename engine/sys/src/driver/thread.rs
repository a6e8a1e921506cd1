//! The driver of a thread: a pointer that handles reach it through.

use std::cell::Cell;

use super::Driver;

thread_local! {
    /// The driver of this thread; null while somebody uses it and where there is none.
    static DRIVER: Cell<*mut Driver> = const { Cell::new(std::ptr::null_mut()) };
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
    // Debug builds take the pointer out for the time of the call, so that a nested call finds none and panics.
    let pointer = if cfg!(debug_assertions) { DRIVER.replace(std::ptr::null_mut()) } else { DRIVER.get() };
    // SAFETY: the pointer comes from `install` and stays valid until `uninstall` removes it. It is the only reference:
    // closures passed here are all in this crate, and neither they nor the driver call back into handles (a driver never
    // drops a `Lease`, a `Conn` or a future, and never polls); every debug build checks that.
    let driver = unsafe { pointer.as_mut() }?;
    let result = f(driver);
    if cfg!(debug_assertions) {
        DRIVER.set(pointer);
    }
    Some(result)
}

/// Bars this thread from another runtime: handles into the memory of an earlier one are still about.
pub(crate) fn spend_thread() {
    IS_SPENT.set(true);
}

/// Makes the driver reachable from handles on this thread.
pub(crate) fn install(driver: Box<Driver>) {
    assert!(DRIVER.get().is_null() && !IS_SPENT.get(), "this thread has, or had, a runtime already");
    DRIVER.set(Box::into_raw(driver));
}

/// Takes the driver back.
pub(crate) fn uninstall() -> Option<Box<Driver>> {
    let pointer = DRIVER.replace(std::ptr::null_mut());
    // SAFETY: a non-null pointer in the cell came from Box::into_raw in `install`, and it was just removed.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
}
