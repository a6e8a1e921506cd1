//! The end of a connection as it is announced to a client: twice, so that no request is lost that is on its way.
//!
//! The first GOAWAY asks for no further requests and refuses none. Once its PING is answered, all that the client had sent before
//! it knew have come: the second names the last of them.

use sluice_sys::Timer;

/// Goes out behind the first announcement.
pub(super) const PING: [u8; 8] = *b"leaving!";

/// How long its answer is awaited.
const ANSWER_MS: u64 = 1_000;

/// How far the announcement has come.
//= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
pub(super) enum Leaving {
    No,
    /// The client will know soon.
    Announced {
        timer: Timer,
        is_answered: bool,
    },
    Now,
}

impl Leaving {
    pub(super) fn announced() -> Leaving {
        Leaving::Announced { timer: Timer::new(ANSWER_MS), is_answered: false }
    }

    /// An answer to a PING has come.
    pub(super) fn note_pong(&mut self, data: [u8; 8]) {
        if let Leaving::Announced { is_answered, .. } = self {
            *is_answered |= data == PING;
        }
    }

    /// Whether the client knows, or has had the time for it.
    pub(super) fn is_known(&self) -> bool {
        match self {
            Leaving::Announced { timer, is_answered } => *is_answered || timer.poll_expired().is_ready(),
            Leaving::No | Leaving::Now => false,
        }
    }

    /// Whether requests may come that were sent before the client knew.
    pub(super) fn is_awaiting(&self) -> bool {
        matches!(self, Leaving::Announced { .. })
    }
}
