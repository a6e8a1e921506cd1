//! The progress line: on a terminal a bar that moves, elsewhere a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::units::show_count;

const BAR: usize = 24;
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes to stderr.
pub(super) struct Progress {
    is_terminal: bool,
    written: Option<Instant>,
    what: &'static str,
    /// The last reading, for the rate.
    last: (Instant, u64),
    rate: f64,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress {
            is_terminal: std::io::stderr().is_terminal(),
            written: None,
            what: "",
            last: (Instant::now(), 0),
            rate: 0.0,
        }
    }

    /// So many of a total are done; `held` connections are open.
    pub(super) fn show(&mut self, what: &'static str, done: u64, total: u64, held: u64) {
        if self.what != what {
            (self.what, self.last, self.rate) = (what, (Instant::now(), done), 0.0);
        }
        let elapsed = self.last.0.elapsed().as_secs_f64();
        if elapsed >= 0.5 {
            let now = done.saturating_sub(self.last.1) as f64 / elapsed;
            // Smoothed, so that the time left does not jump.
            self.rate = if self.rate == 0.0 { now } else { 0.7 * self.rate + 0.3 * now };
            self.last = (Instant::now(), done);
        }
        let is_due = self.is_terminal || self.written.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if is_due {
            self.written = Some(Instant::now());
            self.write(&line(what, done, total, held, self.rate));
        }
    }

    /// A remark on a line of its own.
    pub(super) fn say(&mut self, text: &str) {
        self.clear();
        eprintln!("sluice-bench: {text}");
        self.written = None;
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }

    fn write(&self, line: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("sluice-bench: {line}");
        }
    }
}

fn line(what: &str, done: u64, total: u64, held: u64, rate: f64) -> String {
    let filled = (done as f64 / total.max(1) as f64 * BAR as f64).min(BAR as f64) as usize;
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled));
    let left = total.saturating_sub(done);
    let pace = match rate {
        rate if left == 0 || rate < 0.01 => String::new(),
        rate => format!(", {}/s, {:.0} s left", show_count(rate as u64), left as f64 / rate),
    };
    let (done, total, held) = (show_count(done), show_count(total), show_count(held));
    format!("{what} [{bar}] {done}/{total}, {held} held{pace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_the_time_left_shrinks() {
        let half = line("opening", 500, 1_000, 400, 100.0);
        assert_eq!(half, "opening [############............] 500/1,000, 400 held, 100/s, 5 s left");
        assert!(line("opening", 2_000, 1_000, 0, 1.0).contains(&"#".repeat(BAR)));
        assert!(!line("opening", 0, 1_000, 0, 0.0).contains("left"));
    }
}
