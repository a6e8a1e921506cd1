//! A line of progress on stderr: on a terminal one line that moves, elsewhere a line now and then.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
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

/// The time of a run that says nothing until its end, shown on a terminal until this is dropped.
pub(crate) struct Countdown {
    /// Dropped first, which ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Countdown {
    const PERIOD: Duration = Duration::from_millis(250);

    /// Starts; `total` is `None` where the end is not known.
    pub(crate) fn start(total: Option<Duration>) -> Countdown {
        if !std::io::stderr().is_terminal() {
            return Countdown { stop: None, thread: None };
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let (mut line, begin) = (Line::new(), Instant::now());
            while stopped.recv_timeout(Countdown::PERIOD) == Err(RecvTimeoutError::Timeout) {
                line.show(|| countdown_line(begin.elapsed(), total));
            }
            line.clear();
        });
        Countdown { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Countdown {
    fn drop(&mut self) {
        self.stop = None;
        // A panic in it has been printed already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn countdown_line(elapsed: Duration, total: Option<Duration>) -> String {
    let Some(total) = total else { return format!("running for {} s", elapsed.as_secs()) };
    let left = total.saturating_sub(elapsed).as_secs_f64();
    let share = elapsed.as_secs_f64() / total.as_secs_f64().max(1e-3);
    format!("{} {} of {:.0} s, {left:.0} s left", bar(share), elapsed.as_secs(), total.as_secs_f64())
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
    fn a_countdown_ends() {
        let line = countdown_line(Duration::from_secs(3), Some(Duration::from_secs(12)));
        assert_eq!(line, "[######..................] 3 of 12 s, 9 s left");
        assert!(countdown_line(Duration::from_secs(13), Some(Duration::from_secs(12))).ends_with("0 s left"));
        assert_eq!(countdown_line(Duration::from_secs(3), None), "running for 3 s");
    }

    #[test]
    fn the_bar_fills() {
        assert_eq!(bar(0.5), "[############............]");
        assert_eq!(
            (bar(0.0), bar(7.0)),
            (format!("[{}]", ".".repeat(BAR)), format!("[{}]", "#".repeat(BAR)))
        );
    }
}
