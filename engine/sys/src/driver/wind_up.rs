//! The end of a driver: everything that was lent to the kernel comes back.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use super::{BATCH, Driver};
use crate::ring::Wait;
use crate::table::Flags;

impl Driver {
    /// Closes all sockets and waits, for at most `patience`, until the kernel has given back what it was lent.
    pub(crate) fn wind_up(&mut self, patience: Duration) {
        self.is_ending = true;
        self.handles_left |= self.has_handles();
        self.part();
        if let Some(doorbell) = &self.doorbell {
            doorbell.close();
        }
        self.end_closing();
        for index in self.table.with_flag(Flags::OPEN) {
            self.close(index);
        }
        let until = Instant::now() + patience;
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        // Receives have no slot in the table any more; an enter that finds nothing after a pause says they are done.
        let mut quiet = 0;
        while (self.ops.in_flight() > 0 || quiet < 2) && Instant::now() < until {
            let pause = if self.ops.in_flight() > 0 { Duration::from_millis(10) } else { Duration::ZERO };
            if self.ring.enter(Wait::AtMost(pause.max(Duration::from_millis(1)))).is_err() {
                return;
            }
            let completions = self.ring.completions(&mut batch);
            quiet = if completions.len() == 0 { quiet + 1 } else { 0 };
            for completion in completions {
                self.complete(completion);
            }
        }
    }

    /// Whether handles are left now that all tasks are gone: sockets and timers that the table does not own itself, and
    /// operations that are waited for. (Leases show as buffers that do not come back.)
    fn has_handles(&mut self) -> bool {
        let open = self.table.with_flag(Flags::OPEN);
        let owned_by_a_handle = |index: u32| !self.table.at(index).flags.has(Flags::IDLE);
        self.ops.has_owners() || open.into_iter().any(owned_by_a_handle)
    }

    /// Whether handles were left when the runtime ended: they must not meet another one.
    pub(crate) fn handles_left(&self) -> bool {
        self.handles_left
    }

    /// The ring has failed: memory that was lent to the kernel may never come back.
    pub(crate) fn has_failed(&self) -> bool {
        self.ring.has_failed()
    }

    /// Operations, sockets and buffers that have not come back.
    pub(crate) fn outstanding(&self) -> Outstanding {
        Outstanding {
            sockets: self.table.open(),
            operations: self.ops.occupied() as u32,
            in_flight: self.ops.in_flight(),
            buffers: self.buffers.held(),
        }
    }
}

/// The resources that a runtime still holds. All zero after a clean end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Sockets, listeners and timers that are open.
    pub sockets: u32,
    /// Operations that were not collected.
    pub operations: u32,
    /// Operations that the kernel has not completed.
    pub in_flight: u32,
    /// Receive buffers held outside the kernel.
    pub buffers: u32,
}
