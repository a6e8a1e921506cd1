//! Windows: how much may be sent, and how much the peer may send.
//= https://www.rfc-editor.org/rfc/rfc9113#section-6.9

use super::frame::TOP;

/// Every window, before any setting or update.
//= https://www.rfc-editor.org/rfc/rfc9113#section-6.9.2
pub(super) const INITIAL_WINDOW: u32 = 65_535;

/// A window was made larger than it may be, or was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overrun;

/// What the peer lets us send. Negative when a setting has made it smaller than what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendWindow(i32);

impl SendWindow {
    pub(super) const fn new(bytes: u32) -> Self {
        debug_assert!(bytes <= TOP);
        Self(bytes as i32)
    }

    /// How much may be sent.
    #[inline]
    pub(super) fn open(self) -> u32 {
        self.0.max(0) as u32
    }

    /// An update, or the difference of two settings.
    #[inline]
    pub(super) fn shift(&mut self, by: i64) -> Result<(), Overrun> {
        self.0 = i32::try_from(i64::from(self.0) + by).map_err(|_| Overrun)?;
        Ok(())
    }

    /// So much was sent.
    #[inline]
    pub(super) fn take(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.open());
        self.0 -= bytes as i32;
    }
}

/// What we let the peer send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiveWindow {
    /// What it may send now. Negative when our setting has made it smaller than what is under way.
    open: i32,
    /// What was used up since it was last told.
    unannounced: u32,
}

impl ReceiveWindow {
    pub(super) const fn new(bytes: u32) -> Self {
        debug_assert!(bytes <= TOP);
        Self { open: bytes as i32, unannounced: 0 }
    }

    /// So much has come.
    #[inline]
    pub(super) fn take(&mut self, bytes: u32) -> Result<(), Overrun> {
        // An empty frame needs no window, also where it is negative.
        if bytes > self.open.max(0) as u32 {
            return Err(Overrun);
        }
        self.open -= bytes as i32;
        Ok(())
    }

    /// Our setting is in force.
    pub(super) fn shift(&mut self, by: i64) {
        let open = i64::from(self.open) + by;
        self.open = open.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    }

    /// It is to be larger by so much: announced with what is used up next.
    pub(super) fn widen(&mut self, by: u32) {
        self.unannounced = self.unannounced.saturating_add(by);
    }

    /// So much was used up. Says by how much to open the window, once that is worth a frame: half of it. It never becomes larger
    /// than `full`.
    #[inline]
    pub(super) fn give_back(&mut self, bytes: u32, full: u32) -> Option<u32> {
        self.unannounced = self.unannounced.saturating_add(bytes);
        if self.unannounced < (full / 2).max(1) {
            return None;
        }
        let room = (i64::from(full.min(TOP)) - i64::from(self.open)).max(0);
        let increment = i64::from(self.unannounced).min(room).min(i64::from(TOP)) as u32;
        self.unannounced = 0;
        self.open = (i64::from(self.open) + i64::from(increment)) as i32;
        (increment > 0).then_some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_windows_end_at_two_to_the_31_less_one_and_may_be_negative() {
        let mut window = SendWindow::new(INITIAL_WINDOW);
        assert_eq!(window.shift(i64::from(TOP - INITIAL_WINDOW)), Ok(()));
        assert_eq!(window.open(), TOP);
        assert_eq!(window.shift(1), Err(Overrun));
        assert_eq!(window.shift(-i64::from(TOP)), Ok(()));
        assert_eq!(window.shift(-5), Ok(()));
        assert_eq!(window.open(), 0);
        assert_eq!(window.shift(7), Ok(()));
        assert_eq!(window.open(), 2);
    }

    #[test]
    fn receive_windows_are_announced_by_halves_and_never_beyond_full() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.take(101), Err(Overrun));
        assert_eq!(window.take(100), Ok(()));
        assert_eq!(window.take(1), Err(Overrun));
        assert_eq!(window.give_back(49, 100), None);
        assert_eq!(window.give_back(1, 100), Some(50));
        assert_eq!(window.take(51), Err(Overrun));
        // More than was taken.
        assert_eq!(window.give_back(500, 100), Some(50));
        assert_eq!(window.take(101), Err(Overrun));
    }

    #[test]
    fn a_window_that_was_widened_is_announced_whole() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.take(80), Ok(()));
        window.widen(100);
        assert_eq!(window.give_back(50, 200), Some(150));
        assert_eq!(window.take(171), Err(Overrun), "30 of it wait to be used up");
        assert_eq!(window.take(170), Ok(()));
        assert_eq!(window.give_back(200, 200), Some(200));
    }

    #[test]
    fn a_window_of_one_byte_opens_again() {
        let mut window = ReceiveWindow::new(1);
        assert_eq!(window.take(1), Ok(()));
        assert_eq!(window.give_back(1, 1), Some(1));
    }

    #[test]
    fn a_window_that_was_shrunk_below_what_came_opens_again() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.take(100), Ok(()));
        window.shift(-90);
        assert_eq!((window.take(0), window.take(1)), (Ok(()), Err(Overrun)));
        assert_eq!(window.give_back(100, 10), Some(100));
        assert_eq!(window.take(10), Ok(()));
        assert_eq!(window.take(1), Err(Overrun));
    }
}
