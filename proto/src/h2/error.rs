//! Error codes, and what ends a whole connection.

/// Why a stream or a connection ends.
//= https://www.rfc-editor.org/rfc/rfc9113#section-7
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u32);

#[allow(missing_docs)] // By their names in the RFC.
impl ErrorCode {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xa);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);
}

/// A connection error: the connection ends with GOAWAY.
//= https://www.rfc-editor.org/rfc/rfc9113#section-5.4.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFault {
    /// The code that the peer gets.
    pub code: ErrorCode,
    /// The rule that was broken, for people.
    pub reason: &'static str,
}
