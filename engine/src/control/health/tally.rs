//! How many checks it takes until a server is down, or up again.

/// The checks of one server in a row.
#[derive(Debug)]
pub(super) struct Tally {
    rise: u32,
    fall: u32,
    is_down: bool,
    /// Checks in a row that say otherwise.
    against: u32,
    /// No check of this process is over yet.
    is_new: bool,
}

/// A server is down, or up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) is_down: bool,
    /// So many checks in a row have said so.
    pub(super) checks: u32,
}

impl Tally {
    /// One that goes on from what is known.
    pub(super) fn new(rise: u32, fall: u32, is_down: bool) -> Tally {
        Tally { rise, fall, is_down, against: 0, is_new: true }
    }

    /// A check is over. The first one decides alone: until then the server was taken to be up without any proof.
    pub(super) fn note(&mut self, has_passed: bool) -> Option<Change> {
        let is_first = std::mem::replace(&mut self.is_new, false);
        if has_passed != self.is_down {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match self.is_down {
            false if is_first => 1,
            false => self.fall,
            true => self.rise,
        };
        if self.against < enough {
            return None;
        }
        self.is_down = !self.is_down;
        let checks = std::mem::take(&mut self.against);
        Some(Change { is_down: self.is_down, checks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The changes that checks lead to: `.` passes, `x` fails. `D` and `U` stand where the server went down or up, `-` elsewhere.
    fn changes(rise: u32, fall: u32, is_down: bool, checks: &str) -> String {
        let mut tally = Tally::new(rise, fall, is_down);
        let note = |check| match tally.note(check == '.') {
            None => '-',
            Some(Change { is_down: true, .. }) => 'D',
            Some(Change { is_down: false, .. }) => 'U',
        };
        checks.chars().map(note).collect()
    }

    #[test]
    fn fall_and_rise_count_checks_in_a_row() {
        assert_eq!(changes(2, 3, false, ".xxx..xx.xxx"), "---D-U-----D");
        assert_eq!(changes(2, 3, false, ".xx.xx.xxx"), "---------D");
        assert_eq!(changes(3, 1, false, ".x.x..x..."), "-D-------U");
        assert_eq!(changes(1, 1, false, ".x.x"), "-DUD");
    }

    #[test]
    fn the_first_check_decides_alone_unless_the_server_is_known_to_be_down() {
        assert_eq!(changes(2, 3, false, "x.."), "D-U");
        assert_eq!(changes(2, 3, true, "..xxx"), "-U--D");
        assert_eq!(changes(2, 3, true, "x.."), "--U");
    }

    #[test]
    fn a_change_says_how_many_checks_it_took() {
        let mut tally = Tally::new(2, 3, false);
        let noted: Vec<_> = [true, false, false, false, true, true].map(|check| tally.note(check)).into();
        assert_eq!(noted[3], Some(Change { is_down: true, checks: 3 }));
        assert_eq!(noted[5], Some(Change { is_down: false, checks: 2 }));
    }
}
