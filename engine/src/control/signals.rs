//! Signals, as events on a channel.

use std::io;
use std::sync::mpsc::SyncSender;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// A request of the operator, by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// SIGTERM or SIGINT: drain; the second time, end at once.
    End,
    /// SIGUSR1: print the counters.
    Report,
}

/// Sends a request for every signal from now on.
///
/// # Errors
/// The error of sigaction(2), or of starting the thread.
pub(crate) fn listen<E: From<Request> + Send + 'static>(events: SyncSender<E>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
    let forward = move || {
        for signal in signals.forever() {
            let request = if signal == SIGUSR1 { Request::Report } else { Request::End };
            if events.send(request.into()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map(drop)
}
