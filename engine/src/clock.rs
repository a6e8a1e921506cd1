//! The date for Date fields, written once a second. The shard's time of day costs no system call: the ring's clock says
//! when a second is over.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::time::SystemTime;

/// The current date as text.
pub(crate) struct Clock {
    /// Such as `Sun, 06 Nov 1994 08:49:37 GMT`.
    text: RefCell<String>,
    /// The shard's time, in milliseconds, up to which the text holds.
    valid_until_ms: Cell<u64>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { text: RefCell::default(), valid_until_ms: Cell::new(0) }
    }

    /// Calls `f` with the date at the shard's time `now_ms`.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1
    pub(crate) fn with_date<R>(&self, now_ms: u64, f: impl FnOnce(&str) -> R) -> R {
        if now_ms >= self.valid_until_ms.get() {
            self.write(now_ms);
        }
        f(&self.text.borrow())
    }

    fn write(&self, now_ms: u64) {
        let now = SystemTime::now();
        let mut text = self.text.borrow_mut();
        text.clear();
        // Writing to a string does not fail, and the room of the last date is enough for the next.
        let _ = write!(text, "{}", httpdate::HttpDate::from(now));
        let into_second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_millis());
        self.valid_until_ms.set(now_ms + u64::from(1_000 - into_second));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_date_and_keeps_it_for_a_second() {
        let clock = Clock::new();
        let first = clock.with_date(5, str::to_owned);
        assert!(httpdate::parse_http_date(&first).is_ok());
        assert!((6..=1_005).contains(&clock.valid_until_ms.get()));
        assert_eq!(clock.with_date(5, str::to_owned), first);
    }
}
