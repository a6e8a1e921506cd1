//! A line of progress on stderr: on a terminal one line that moves, elsewhere a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const BAR: usize = 24;
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes to stderr.
pub(crate) struct Line {
    is_terminal: bool,
    written: Option<Instant>,
}

impl Line {
    pub(crate) fn new() -> Line {
        Line { is_terminal: std::io::stderr().is_terminal(), written: None }
    }

    /// Shows how things are, in place of what was shown before.
    pub(crate) fn show(&mut self, line: impl Fn() -> String) {
        if self.is_terminal {
            eprint!("\r\x1b[K{}", line());
            let _ = std::io::stderr().flush();
        } else if self.written.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            eprintln!("sluice-bench: {}", line());
            self.written = Some(Instant::now());
        }
    }

    /// A remark on a line of its own.
    pub(crate) fn say(&mut self, text: &str) {
        self.clear();
        eprintln!("sluice-bench: {text}");
        self.written = None;
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}

/// A bar that is full at a share of 1.
pub(crate) fn bar(share: f64) -> String {
    let filled = (share * BAR as f64).clamp(0.0, BAR as f64) as usize;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        assert_eq!(bar(0.5), "[############............]");
        assert_eq!(
            (bar(0.0), bar(7.0)),
            (format!("[{}]", ".".repeat(BAR)), format!("[{}]", "#".repeat(BAR)))
        );
    }
}
