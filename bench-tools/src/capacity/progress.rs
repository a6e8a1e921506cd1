//! The progress of a capacity run: how many are open, at which rate, and the time left.

use std::time::{Duration, Instant};

use crate::progress::{Line, bar};
use crate::units::show_count;

/// Shown while connections are opened and held.
pub(super) struct Progress {
    line: Line,
    is_opening: bool,
    /// The last reading, for the rate.
    last: (Instant, u64),
    rate: f64,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { line: Line::new(), is_opening: false, last: (Instant::now(), 0), rate: 0.0 }
    }

    /// So many of a total were tried; `held` connections are open.
    pub(super) fn opening(&mut self, done: u64, total: u64, held: u64) {
        if done < self.last.1 || !self.is_opening {
            (self.is_opening, self.last, self.rate) = (true, (Instant::now(), done), 0.0);
        }
        let elapsed = self.last.0.elapsed().as_secs_f64();
        if elapsed >= 0.5 {
            let now = (done - self.last.1) as f64 / elapsed;
            // Smoothed, so that the time left does not jump.
            self.rate = if self.rate == 0.0 { now } else { 0.7 * self.rate + 0.3 * now };
            self.last = (Instant::now(), done);
        }
        let rate = self.rate;
        self.line.show(|| opening_line(done, total, held, rate));
    }

    /// Connections have been held for so long.
    pub(super) fn holding(&mut self, elapsed: Duration, total: Duration, held: u64) {
        self.is_opening = false;
        let share = elapsed.as_secs_f64() / total.as_secs_f64().max(1e-3);
        let (elapsed, total, held) = (elapsed.as_secs(), total.as_secs(), show_count(held));
        self.line.show(|| format!("holding {} {elapsed} of {total} s, {held} held", bar(share)));
    }

    /// A remark on a line of its own.
    pub(super) fn say(&mut self, text: &str) {
        self.line.say(text);
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        self.line.clear();
    }
}

fn opening_line(done: u64, total: u64, held: u64, rate: f64) -> String {
    let left = total.saturating_sub(done);
    let pace = match rate {
        rate if left == 0 || rate < 0.01 => String::new(),
        rate => format!(", {}/s, {:.0} s left", show_count(rate as u64), left as f64 / rate),
    };
    let bar = bar(done as f64 / total.max(1) as f64);
    let (done, total, held) = (show_count(done), show_count(total), show_count(held));
    format!("opening {bar} {done} of {total}, {held} held{pace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_the_time_left_shrinks() {
        let half = opening_line(500, 1_000, 400, 100.0);
        assert_eq!(half, "opening [############............] 500 of 1,000, 400 held, 100/s, 5 s left");
        assert!(opening_line(2_000, 1_000, 0, 1.0).contains(&"#".repeat(24)));
        assert!(!opening_line(0, 1_000, 0, 0.0).contains("left"));
    }
}
