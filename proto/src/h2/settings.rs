//! Settings: ours as they are announced, the peer's as they come.
//= https://www.rfc-editor.org/rfc/rfc9113#section-6.5

use alloc::vec::Vec;

use super::error::{ErrorCode, SessionFault};
use super::flow::INITIAL_WINDOW;
use super::frame::{FRAME_BYTES_MAX, FrameHead, TOP, kind};
use super::hpack::TABLE_BYTES_MAX;
use super::session::{Role, Rules};

mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(super) const ENABLE_PUSH: u16 = 0x2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(super) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    //= https://www.rfc-editor.org/rfc/rfc8441#section-3
    pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
    //= https://www.rfc-editor.org/rfc/rfc9218#section-2.1
    pub(super) const NO_RFC7540_PRIORITIES: u16 = 0x9;
}

/// The size of one setting.
pub(super) const SETTING_BYTES: u32 = 6;

/// Streams that a client opens before it knows the server's bound: what RFC 9113 recommends servers to allow at least.
const STREAMS_UNTIL_KNOWN: u32 = 100;

/// The settings of the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSettings {
    pub(super) initial_window: u32,
    pub(super) frame_bytes_max: u32,
    pub(super) streams_max: u32,
}

/// What a setting changes outside of [`PeerSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    HeaderTable(u32),
    /// In force at the end of the frame, so that a frame of many such settings costs no more than one.
    InitialWindow(u32),
    ConnectProtocol(bool),
}

impl PeerSettings {
    /// Before any has come.
    pub(super) const fn new() -> Self {
        Self {
            initial_window: INITIAL_WINDOW,
            frame_bytes_max: FRAME_BYTES_MAX,
            streams_max: STREAMS_UNTIL_KNOWN,
        }
    }

    /// Takes in one setting.
    pub(super) fn set(&mut self, bytes: [u8; 6], us: Role) -> Result<Change, SessionFault> {
        let [a, b, c, d, e, f] = bytes;
        let value = u32::from_be_bytes([c, d, e, f]);
        match u16::from_be_bytes([a, b]) {
            id::HEADER_TABLE_SIZE => return Ok(Change::HeaderTable(value)),
            //= https://www.rfc-editor.org/rfc/rfc9113#section-6.5.2
            // "A client MUST treat receipt of a SETTINGS frame with SETTINGS_ENABLE_PUSH set to 1 as a connection error"
            id::ENABLE_PUSH if value > 1 || (value == 1 && us == Role::Client) => {
                return protocol("invalid SETTINGS_ENABLE_PUSH");
            }
            id::MAX_CONCURRENT_STREAMS => self.streams_max = value,
            id::INITIAL_WINDOW_SIZE if value > TOP => {
                let code = ErrorCode::FLOW_CONTROL_ERROR;
                return Err(SessionFault { code, reason: "SETTINGS_INITIAL_WINDOW_SIZE is too large" });
            }
            id::INITIAL_WINDOW_SIZE => return Ok(Change::InitialWindow(value)),
            id::MAX_FRAME_SIZE if !(FRAME_BYTES_MAX..=0xff_ffff).contains(&value) => {
                return protocol("invalid SETTINGS_MAX_FRAME_SIZE");
            }
            id::MAX_FRAME_SIZE => self.frame_bytes_max = value,
            //= https://www.rfc-editor.org/rfc/rfc8441#section-3
            id::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return protocol("invalid SETTINGS_ENABLE_CONNECT_PROTOCOL");
            }
            id::ENABLE_CONNECT_PROTOCOL => return Ok(Change::ConnectProtocol(value == 1)),
            //= https://www.rfc-editor.org/rfc/rfc9218#section-2.1
            id::NO_RFC7540_PRIORITIES if value > 1 => {
                return protocol("invalid SETTINGS_NO_RFC7540_PRIORITIES");
            }
            // Unknown ones are ignored.
            _ => {}
        }
        Ok(Change::None)
    }

    /// The first SETTINGS begin: what they do not name has the value of the RFC.
    pub(super) fn begin(&mut self) {
        self.streams_max = u32::MAX;
    }
}

fn protocol<T>(reason: &'static str) -> Result<T, SessionFault> {
    Err(SessionFault { code: ErrorCode::PROTOCOL_ERROR, reason })
}

/// Writes our settings.
pub(super) fn write(out: &mut Vec<u8>, role: Role, rules: &Rules) {
    let start = out.len();
    FrameHead { len: 0, kind: kind::SETTINGS, flags: 0, id: 0 }.write(out);
    let mut put = |id: u16, value: u32| {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    };
    put(id::HEADER_TABLE_SIZE, decoder_table_bytes(rules));
    put(id::INITIAL_WINDOW_SIZE, rules.stream_window.clamp(1, TOP));
    put(id::MAX_FRAME_SIZE, frame_bytes_max(rules));
    put(id::MAX_HEADER_LIST_SIZE, rules.head.head_bytes() as u32);
    put(id::NO_RFC7540_PRIORITIES, 1);
    match role {
        Role::Client => put(id::ENABLE_PUSH, 0),
        Role::Server => put(id::MAX_CONCURRENT_STREAMS, rules.streams_max),
    }
    if role == Role::Server && rules.connect_protocol {
        put(id::ENABLE_CONNECT_PROTOCOL, 1);
    }
    // Fewer than 256 bytes.
    out[start + 2] = (out.len() - start - super::frame::HEAD_BYTES) as u8;
}

/// The largest frame that we announce.
pub(super) fn frame_bytes_max(rules: &Rules) -> u32 {
    rules.frame_bytes_max.clamp(FRAME_BYTES_MAX, 0xff_ffff)
}

/// The largest table that we announce.
pub(super) fn decoder_table_bytes(rules: &Rules) -> u32 {
    rules.decoder_table_bytes.min(TABLE_BYTES_MAX)
}
