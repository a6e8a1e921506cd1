//! What a peer may do and is abuse when repeated: the kinds, the thresholds and the counters.
//!
//! | kind | is counted for |
//! |---|---|
//! | `Ping` | each PING that wants an answer, but for one after data that was sent |
//! | `Settings` | each SETTINGS after the first, and each ACK that nothing waits for |
//! | `Ignored` | each PRIORITY, PRIORITY_UPDATE, frame of an unknown type, and RST_STREAM of a stream that is closed |
//! | `Empty` | DATA without content and without END_STREAM; HEADERS and CONTINUATION without content and without END_HEADERS |
//! | `Reset` | RST_STREAM of a stream that neither both sides have ended nor the caller has closed: work goes on behind it (rapid reset) |
//! | `Broken` | each stream that we reset because the peer broke a rule on it (MadeYouReset) |
//! | `TinyWindow` | WINDOW_UPDATE of less than [`TINY_WINDOW`] bytes, where the window is small already ([`SMALL_WINDOW`]), or where no data was sent that it could answer |
//! | `Refused` | each stream beyond the number that we allow |
//! | `TinyData` | DATA of 1 to [`TINY_DATA`] - 1 bytes without END_STREAM |

/// An update below this many bytes is tiny.
pub(super) const TINY_WINDOW: u32 = 64;

/// With an update that is tiny, a window below this many bytes makes us write frames that are tiny.
pub(super) const SMALL_WINDOW: u32 = 1_024;

/// Updates that one DATA frame of ours gives reason for: of its stream and of the connection.
pub(super) const UPDATES_FOR_DATA: u8 = 2;

/// PINGs that it gives reason for.
pub(super) const PINGS_FOR_DATA: u8 = 1;

/// DATA below this many bytes is tiny. A gRPC message of one byte has 6 with its prefix, as has a masked frame of a WebSocket.
pub(super) const TINY_DATA: u32 = 6;

/// What a peer may do and is abuse when repeated. The budget is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// PING, unless data was sent since the last one.
    Ping,
    /// SETTINGS again.
    Settings,
    /// PRIORITY, PRIORITY_UPDATE, and frames of unknown types.
    Ignored,
    /// DATA or CONTINUATION without content that end nothing.
    Empty,
    /// A reset of a stream that was not answered yet.
    Reset,
    /// A stream that we had to reset for what the peer did on it.
    Broken,
    /// WINDOW_UPDATE of very little.
    TinyWindow,
    /// A stream beyond the number that we allow.
    Refused,
    /// DATA of very little that ends nothing.
    TinyData,
}

impl Abuse {
    /// How many kinds there are.
    pub const COUNT: usize = 9;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Ping,
        Self::Settings,
        Self::Ignored,
        Self::Empty,
        Self::Reset,
        Self::Broken,
        Self::TinyWindow,
        Self::Refused,
        Self::TinyData,
    ];
}

/// How often each kind has come since the caller last asked.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: [u16; Abuse::COUNT],
}

impl Counters {
    pub(super) const fn new() -> Self {
        Self { counts: [0; Abuse::COUNT] }
    }

    pub(super) fn count(&mut self, abuse: Abuse) {
        let count = &mut self.counts[abuse as usize];
        *count = count.saturating_add(1);
    }

    #[inline]
    pub(super) fn take(&mut self) -> Option<[u16; Abuse::COUNT]> {
        let counts = core::mem::take(&mut self.counts);
        (counts != [0; Abuse::COUNT]).then_some(counts)
    }
}
