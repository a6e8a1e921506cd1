//! Windows of streams that grow with the distance of the peer: as much is to be under way as a round trip takes.
//!
//! When a stream's window opens again, a PING goes out with it. What comes on this stream until the answer is what the window let
//! through in one round trip; if that is most of the window, twice as much is let through from then on. A stream that is not read
//! keeps its window, since a window grows only as it opens again; all together, the streams of a connection get as much more as
//! `http2.connection_window` says.

use sluice_proto::h2::{Rules, StreamKey};

use super::session::Inner;

/// The data of the PING.
pub(super) const PING: [u8; 8] = *b"how far?";

/// A connection whose windows need not grow is asked again after this time.
const AGAIN_MS: u64 = 1_000;

/// What is known of the way to the peer.
#[derive(Default)]
pub(super) struct Bandwidth {
    /// What a stream's window is to be, beyond the setting; 0 as long as the setting will do.
    target: u32,
    /// By how much the windows of all streams are larger than by the setting.
    pub(super) widened: u32,
    /// What has come on a stream since the PING.
    sample: Option<(StreamKey, u32)>,
    /// When a PING may go out again.
    again_ms: u64,
}

impl Inner {
    /// Data of a stream has come.
    #[inline]
    pub(super) fn note_received(&mut self, key: StreamKey, bytes: u32) {
        if let Some((sampled, sum)) = &mut self.bandwidth.sample
            && *sampled == key
        {
            *sum = sum.saturating_add(bytes);
        }
    }

    /// The window of a stream was opened again: it grows if the way is known to be long, which is asked if it may be.
    pub(super) fn grow(&mut self, key: StreamKey, rules: &Rules, now_ms: u64) {
        if rules.stream_window_max <= rules.stream_window {
            return;
        }
        self.widen(key, rules);
        let is_due = self.bandwidth.sample.is_none() && now_ms >= self.bandwidth.again_ms;
        if is_due && self.bandwidth.target < rules.stream_window_max {
            self.bandwidth.sample = Some((key, 0));
            let (machine, out) = self.machine_and_out();
            machine.ping(PING, out);
        }
    }

    fn widen(&mut self, key: StreamKey, rules: &Rules) {
        let present = rules.stream_window.saturating_add(self.machine.widened(key));
        let left = rules.connection_window.saturating_sub(self.bandwidth.widened);
        let by = self.bandwidth.target.saturating_sub(present).min(left);
        if by > 0 {
            self.bandwidth.widened += by;
            self.machine.widen(key, by);
        }
    }

    /// A stream is over: what it had more is for the others.
    pub(super) fn narrow(&mut self, key: StreamKey) {
        self.bandwidth.widened = self.bandwidth.widened.saturating_sub(self.machine.widened(key));
    }

    /// The answer to the PING has come.
    pub(super) fn note_round_trip(&mut self, rules: &Rules, now_ms: u64) {
        let Some((key, bytes)) = self.bandwidth.sample.take() else { return };
        let present = rules.stream_window.saturating_add(self.machine.widened(key));
        if bytes >= present / 3 * 2 {
            self.bandwidth.target = present.saturating_mul(2).min(rules.stream_window_max);
        } else {
            self.bandwidth.again_ms = now_ms + AGAIN_MS;
        }
    }
}
