//! The time that a server takes until it answers, as one shard sees it: the peak counts at once and is forgotten over some seconds
//! ("peak EWMA", as in Finagle and Linkerd). A server without requests
//! becomes better with time, so that it is tried again.

use std::cell::Cell;

/// After so long a peak has lost two thirds of its weight.
const MEMORY_MS: f32 = 10_000.0;

/// Below this the clock of a shard does not tell one from another.
const SHORTEST_MS: f32 = 1.0;

/// What is known of one server.
#[derive(Default)]
pub(crate) struct Latency {
    average_ms: Cell<f32>,
    /// When it was noted last.
    noted_ms: Cell<u64>,
    is_known: Cell<bool>,
}

impl Latency {
    /// A response head has come after so long, or none has.
    pub(crate) fn note(&self, waited_ms: u32, now_ms: u64) {
        let waited = waited_ms as f32;
        let average = self.average_ms.get();
        let new = if self.is_known.replace(true) && waited < average {
            let old_part = part_left(now_ms.saturating_sub(self.noted_ms.get()));
            average * old_part + waited * (1.0 - old_part)
        } else {
            waited
        };
        self.average_ms.set(new);
        self.noted_ms.set(now_ms);
    }

    /// What a request has to expect now, in milliseconds; `None` if there was none yet. Nothing is forgotten while a request is with
    /// the server: it may hang.
    pub(super) fn expected_ms(&self, now_ms: u64, is_idle: bool) -> Option<f32> {
        let passed_ms = if is_idle { now_ms.saturating_sub(self.noted_ms.get()) } else { 0 };
        let old_part = part_left(passed_ms);
        self.is_known.get().then(|| (self.average_ms.get() * old_part).max(SHORTEST_MS))
    }
}

/// The part of something that is left after so long.
fn part_left(passed_ms: u64) -> f32 {
    (-(passed_ms as f32) / MEMORY_MS).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let latency = Latency::default();
        assert_eq!(latency.expected_ms(5, true), None);
        latency.note(10, 1_000);
        assert_eq!(latency.expected_ms(1_000, true), Some(10.0));
        latency.note(400, 1_000);
        assert_eq!(latency.expected_ms(1_000, true), Some(400.0));
        // Short ones of the same moment do not hide it.
        latency.note(10, 1_000);
        assert_eq!(latency.expected_ms(1_000, true), Some(400.0));
        latency.note(10, 11_000);
        let after_a_while = latency.expected_ms(11_000, true).unwrap();
        assert!((150.0..160.0).contains(&after_a_while), "{after_a_while}");
        // Without requests it becomes better too, and never nothing.
        let later = latency.expected_ms(21_000, true).unwrap();
        assert!((50.0..60.0).contains(&later), "{later}");
        assert_eq!(latency.expected_ms(1_000_000, true), Some(1.0));
        let while_asked = latency.expected_ms(1_000_000, false).unwrap();
        assert!((150.0..160.0).contains(&while_asked), "{while_asked}");
    }
}
