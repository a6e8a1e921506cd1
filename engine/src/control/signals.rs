//! Signals, as events on a channel.

use std::io;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// A signal to end counts as a second one only after this time: supervisors and terminals may send two at once (to the process
/// and to its group), and that must not abort requests.
pub(crate) const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);

/// A request of the operator, by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// SIGTERM, SIGINT or SIGQUIT, and when it came.
    End(Instant),
    /// SIGHUP, by which other proxies reload: it must not end this one.
    Reload,
    /// SIGUSR1: print the counters.
    Report,
}

/// What signals to end have asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    since: Option<Instant>,
}

/// What to do about a signal to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndBy {
    /// Finish what is in flight.
    Draining,
    /// It came with the first one: go on draining.
    Ignoring,
    /// The operator does not want to wait.
    Aborting,
}

impl Ending {
    /// Takes note of a signal to end that came at this time.
    pub(crate) fn signal(&mut self, at: Instant) -> EndBy {
        match self.since {
            None => {
                self.since = Some(at);
                EndBy::Draining
            }
            Some(first) if at.saturating_duration_since(first) < SECOND_SIGNAL_AFTER => EndBy::Ignoring,
            Some(_) => EndBy::Aborting,
        }
    }
}

/// Sends a request for every signal from now on.
///
/// # Errors
/// The error of sigaction(2), or of starting the thread.
pub(crate) fn listen<E: From<Request> + Send + 'static>(events: SyncSender<E>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1])?;
    let forward = move || {
        for signal in signals.forever() {
            let request = match signal {
                SIGUSR1 => Request::Report,
                SIGHUP => Request::Reload,
                _ => Request::End(Instant::now()),
            };
            if events.send(request.into()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_counts_after_a_second() {
        let start = Instant::now();
        let mut ending = Ending::default();
        let mut signal = |millis| ending.signal(start + Duration::from_millis(millis));
        assert_eq!(signal(5), EndBy::Draining);
        assert_eq!(signal(5), EndBy::Ignoring);
        assert_eq!(signal(900), EndBy::Ignoring);
        // From the first one, not from the last: an operator who repeats it is heard.
        assert_eq!(signal(1_004), EndBy::Ignoring);
        assert_eq!(signal(1_005), EndBy::Aborting);
    }
}
