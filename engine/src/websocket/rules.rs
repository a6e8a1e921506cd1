//! What a route asks of frames, in the form that a tunnel needs, and the rate of a client's messages.

use std::rc::Rc;
use std::time::Duration;

use sluice_proto::ws::{Frame, Kind};

use crate::config::WebSocketFrames;
use crate::min_rate::short;

/// The rules of one route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FrameRules {
    /// The largest message, as it is sent; `u64::MAX` for any.
    pub(super) message_bytes_max: u64,
    rate: Option<RateRules>,
    /// 0 for never.
    pub(super) ping_idle_ms: u32,
    pub(super) ping_timeout_ms: u32,
    pub(super) close_timeout_ms: u32,
}

/// How many messages there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RateRules {
    /// The time for one.
    step_ns: u64,
    burst: u32,
}

/// The rules of a tunnel's frames, and what its handshake has agreed on.
pub(crate) struct Agreed {
    pub(crate) rules: Rc<FrameRules>,
    /// RSV1 has a meaning (permessage-deflate).
    pub(crate) has_deflate: bool,
}

impl FrameRules {
    pub(crate) fn new(keys: &WebSocketFrames) -> FrameRules {
        let unlimited = |bytes| if bytes == 0 { u64::MAX } else { bytes };
        let rate = (keys.message_rate > 0).then(|| RateRules {
            step_ns: NS_PER_SECOND / u64::from(keys.message_rate),
            burst: keys.message_burst.max(1),
        });
        FrameRules {
            message_bytes_max: unlimited(keys.message_bytes),
            rate,
            ping_idle_ms: ms(keys.ping_idle),
            ping_timeout_ms: ms(keys.ping_timeout),
            close_timeout_ms: ms(keys.close_timeout),
        }
    }
}

fn ms(time: Duration) -> u32 {
    short(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

const NS_PER_SECOND: u64 = 1_000_000_000;

/// A further frame of a message with less than this counts as a message: else nothing would bound their number.
const TINY_BYTES: u64 = 126;

/// How far a client has used up its messages: the time at which all that it has sent would be due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    due_ns: u64,
}

impl Rate {
    /// Counts a frame; says whether it is within the rate.
    pub(super) fn allows(&mut self, frame: &Frame, rules: &FrameRules, now_ms: u64) -> bool {
        let Some(RateRules { step_ns, burst }) = rules.rate else { return true };
        if !is_counted(frame) {
            return true;
        }
        let now_ns = now_ms.saturating_mul(NS_PER_SECOND / 1_000);
        let due_ns = self.due_ns.max(now_ns) + step_ns;
        let is_within = due_ns - now_ns <= step_ns * u64::from(burst);
        if is_within {
            self.due_ns = due_ns;
        }
        is_within
    }
}

/// Whether a frame counts as a message.
fn is_counted(frame: &Frame) -> bool {
    match frame.kind {
        Kind::Text | Kind::Binary | Kind::Ping | Kind::Pong => true,
        Kind::Continuation => !frame.is_final && frame.bytes < TINY_BYTES,
        // The first ends the connection, the second was asked for.
        Kind::Close(_) | Kind::OurPong => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(message_rate: u32, message_burst: u32) -> FrameRules {
        let zero = Duration::ZERO;
        FrameRules::new(&WebSocketFrames {
            message_bytes: 0,
            message_rate,
            message_burst,
            ping_idle: zero,
            ping_timeout: zero,
            close_timeout: zero,
        })
    }

    fn frame(kind: Kind, bytes: u64, is_final: bool) -> Frame {
        Frame { kind, is_final, bytes, message_bytes: bytes }
    }

    #[test]
    fn a_burst_is_allowed_and_the_rate_after_it() {
        let rules = rules(10, 3);
        let (mut rate, text) = (Rate::default(), frame(Kind::Text, 5, true));
        let start_ms = 7_000;
        let mut count = |now_ms| (0..100).take_while(|_| rate.allows(&text, &rules, now_ms)).count();
        assert_eq!(count(start_ms), 3);
        assert_eq!(count(start_ms + 99), 0);
        assert_eq!(count(start_ms + 100), 1);
        assert_eq!(count(start_ms + 350), 2);
        assert_eq!(count(start_ms + 60_000), 3, "a pause earns no more than a burst");
    }

    #[test]
    fn the_highest_rate_and_none_at_all() {
        let text = frame(Kind::Text, 5, true);
        let (highest, none) = (rules(1_000_000, 1_000_000), rules(0, 0));
        let mut rate = Rate::default();
        assert_eq!((0..2_000_000).take_while(|_| rate.allows(&text, &highest, 5)).count(), 1_000_000);
        let mut rate = Rate::default();
        assert!((0..1_000).all(|_| rate.allows(&text, &none, 5)));
    }

    #[test]
    fn pieces_of_a_message_count_where_they_are_tiny() {
        for (kind, bytes, is_final, counts) in [
            (Kind::Text, 1 << 40, false, true),
            (Kind::Binary, 0, true, true),
            (Kind::Ping, 0, true, true),
            (Kind::Pong, 0, true, true),
            (Kind::Continuation, 125, false, true),
            (Kind::Continuation, 126, false, false),
            (Kind::Continuation, 0, true, false),
            (Kind::OurPong, 8, true, false),
            (Kind::Close(None), 0, true, false),
        ] {
            assert_eq!(is_counted(&frame(kind, bytes, is_final)), counts, "{kind:?} {bytes}");
        }
    }
}
