//! How long a send may take.

/// How long a send, or a wait for room to send, may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// Longest time without progress, in milliseconds; 0 for no limit.
    pub stall_ms: u64,
    /// Longest time in all, whatever the progress, in milliseconds; 0 for no limit.
    pub total_ms: u64,
}

impl From<u64> for Patience {
    /// Only the time without progress, in milliseconds, is limited.
    fn from(stall_ms: u64) -> Patience {
        Patience { stall_ms, total_ms: 0 }
    }
}
