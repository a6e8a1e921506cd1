//! SIGINT and SIGTERM: the first asks for a clean end with what was measured, a second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Failure;

/// Whether the user asked for the end. Cloned into every lane.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// What sigaction(2) says.
    pub fn catch() -> Result<Interrupt, Failure> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set by the first.
            let caught =
                signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.flag.clone())
                    .and_then(|_| signal_hook::flag::register(signal, interrupt.flag.clone()));
            caught.map_err(|error| Failure::Usage(format!("cannot catch signals: {error}")))?;
        }
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}
