//! Every size limit of the parsers, with its default and its hard cap.
//!
//! Owns the numbers, not their enforcement: each is checked where the bytes are met (`h1::head`, `h1::chunked`) and each has
//! a [`Fault`](crate::Fault) of its own, so that a counter can say which one was hit.

/// The most field lines any configuration may allow; the parser keeps this many slots on its stack.
pub const FIELDS_HARD_MAX: usize = 256;

/// The largest head any configuration may allow, in bytes; field offsets and lengths are stored for heads up to this size.
pub const HEAD_BYTES_HARD_MAX: usize = 65_536;

/// The longest method that is forwarded, in bytes. The longest registered one (`UPDATEREDIRECTREF`) has 17.
pub const METHOD_BYTES_MAX: usize = 32;

/// Empty lines skipped before a request line. RFC 9112 asks for at least one; old clients send one after a POST body.
pub const LEADING_LINES_MAX: usize = 2;

/// Members of the Connection list, empty ones too; each may have to be compared with every field, so their number is bounded.
pub const CONNECTION_OPTIONS_MAX: usize = 32;

/// Interim answers (1xx) passed on before the final one. Beyond: [`Fault::TooManyInterim`](crate::Fault). Servers send one or
/// two; a server that never comes to its point must not keep a client busy.
pub const INTERIM_ANSWERS_MAX: u8 = 16;

/// Limits on one message head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Longest request line in bytes, without its CRLF. Beyond: [`Fault::RequestLineTooLong`](crate::Fault), 414.
    pub request_line_bytes_max: usize,
    /// Largest head in bytes, from the first byte of the start line to the final CRLFCRLF, at most [`HEAD_BYTES_HARD_MAX`].
    /// Beyond: [`Fault::HeadTooLarge`](crate::Fault), 431.
    pub head_bytes_max: usize,
    /// Most field lines, at most [`FIELDS_HARD_MAX`]. Beyond: [`Fault::TooManyFields`](crate::Fault), 431.
    pub fields_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { request_line_bytes_max: 8_192, head_bytes_max: 16_384, fields_max: 100 }
    }
}

impl HeadLimits {
    /// As far as limits can be raised.
    pub const HARD_MAX: Self = Self {
        request_line_bytes_max: HEAD_BYTES_HARD_MAX,
        head_bytes_max: HEAD_BYTES_HARD_MAX,
        fields_max: FIELDS_HARD_MAX,
    };

    /// `head_bytes_max` under its hard cap, which offsets in [`FieldSpan`](crate::fields::FieldSpan) rely on.
    pub(crate) fn head_bytes(&self) -> usize {
        self.head_bytes_max.min(HEAD_BYTES_HARD_MAX)
    }

    /// `fields_max` under its hard cap.
    pub(crate) fn fields(&self) -> usize {
        self.fields_max.min(FIELDS_HARD_MAX)
    }
}

/// Limits on the parts of a chunked body that are not data. The data itself is limited by its relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Most bytes of chunk extensions, on one chunk-size line and in the whole body beyond one for each byte of data: a body
    /// must not be made of extensions. Beyond: [`Fault::ChunkExtensionTooLong`](crate::Fault).
    pub extension_bytes_max: usize,
    /// Most bytes of the trailer section, its final CRLF included. Beyond: [`Fault::TrailersTooLarge`](crate::Fault).
    pub trailer_bytes_max: usize,
    /// Most trailer field lines. Beyond: [`Fault::TooManyTrailers`](crate::Fault).
    pub trailer_fields_max: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { extension_bytes_max: 256, trailer_bytes_max: 8_192, trailer_fields_max: 32 }
    }
}
