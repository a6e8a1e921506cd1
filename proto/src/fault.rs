//! Why a message was refused: one variant per cause.
//!
//! Owns the wording, the counter name and the status of each cause. Never decides who is notified: a fault in a request is
//! answered with [`Fault::status`], a fault in a response becomes 502 and closes the upstream connection, both in the caller.

use core::fmt;

/// Declares the enum and its three texts side by side, so that a cause cannot exist without a status, a name and a reason.
macro_rules! faults {
    ($($variant:ident $status:literal $name:literal $reason:literal,)+) => {
        /// The cause for which a message was refused. Nothing of the message may be forwarded and the connection it came on
        /// cannot be used again: after a fault the start of the next message is unknown.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $(#[doc = concat!($reason, " (", stringify!($status), ")")] $variant,)+
        }

        impl Fault {
            /// Every cause, in declaration order: `Fault::ALL[fault as usize] == fault`, for tables of counters.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// The status a request with this fault is answered with. Responses with any fault are answered with 502.
            pub const fn status(self) -> u16 {
                match self { $(Fault::$variant => $status,)+ }
            }

            /// The cause in snake_case, for the name of a counter.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)+ }
            }

            /// The cause in one short line of English, for an answer's body or a log line.
            pub const fn reason(self) -> &'static str {
                match self { $(Fault::$variant => $reason,)+ }
            }
        }
    };
}

faults! {
    // The syntax of lines.
    LeadingEmptyLines 400 "leading_empty_lines" "too many empty lines before the request",
    BareLf 400 "bare_lf" "line ended by LF without CR",
    BareCr 400 "bare_cr" "CR without LF",
    ObsFold 400 "obs_fold" "field folded over several lines",
    SpaceBeforeFields 400 "space_before_fields" "whitespace before the first field",
    SpaceInFieldName 400 "space_in_field_name" "whitespace before the colon of a field",
    MissingColon 400 "missing_colon" "field line without a colon",
    EmptyFieldName 400 "empty_field_name" "field without a name",
    UnderscoredFieldName 400 "underscored_field_name" "field name that reads like another one by its underscores",
    InvalidFieldName 400 "invalid_field_name" "invalid byte in a field name",
    InvalidFieldValue 400 "invalid_field_value" "control byte in a field value",

    Malformed 400 "malformed" "malformed head",

    // The request line.
    InvalidMethod 400 "invalid_method" "method is not a token",
    MethodTooLong 501 "method_too_long" "method is too long",
    RequestLineSpacing 400 "request_line_spacing" "request line is not separated by single spaces",
    InvalidTarget 400 "invalid_target" "invalid request target",
    InvalidPercentEncoding 400 "invalid_percent_encoding" "malformed percent-encoding in the request target",
    FragmentInTarget 400 "fragment_in_target" "fragment in the request target",
    MisdirectedScheme 421 "misdirected_scheme" "the scheme of the target is not that of the connection",
    AsteriskForm 400 "asterisk_form" "asterisk as the target of a method other than OPTIONS",
    MissingVersion 400 "missing_version" "request line without an HTTP version",
    InvalidVersion 400 "invalid_version" "malformed HTTP version",
    UnsupportedVersion 505 "unsupported_version" "the version is neither HTTP/1.0 nor HTTP/1.1",

    // Fields of HTTP/2.
    SpaceAroundFieldValue 400 "space_around_field_value" "whitespace around a field value in HTTP/2",
    ConnectionSpecificField 400 "connection_specific_field" "field of a connection in HTTP/2",
    MissingPseudoHeader 400 "missing_pseudo_header" "missing pseudo-header field",
    RepeatedPseudoHeader 400 "repeated_pseudo_header" "repeated pseudo-header field",
    LatePseudoHeader 400 "late_pseudo_header" "pseudo-header field behind other fields",
    UnexpectedPseudoHeader 400 "unexpected_pseudo_header" "pseudo-header field that is unknown or out of place",
    InvalidProtocol 400 "invalid_protocol" "CONNECT to something that is no protocol of a tunnel",

    // The path.
    PathAboveRoot 400 "path_above_root" "path leads above the root",
    DotSegment 400 "dot_segment" "dot segment in the path",
    HiddenDotSegment 400 "hidden_dot_segment" "dot segment beside a parameter or an encoded slash",
    RepeatedSlash 400 "repeated_slash" "repeated slash in the path",
    EncodedSlash 400 "encoded_slash" "encoded slash in the path",
    Backslash 400 "backslash" "backslash in the path",
    EncodedControl 400 "encoded_control" "encoded control character in the path",
    OverlongEncoding 400 "overlong_encoding" "overlong UTF-8 in the path",
    RawUtf8 400 "raw_utf8" "UTF-8 in the target that is not percent-encoded",
    PathParameter 400 "path_parameter" "parameter in the path",

    // The status line.
    InvalidStatus 400 "invalid_status" "malformed status line",
    InterimInHttp10 400 "interim_in_http10" "1xx status in HTTP/1.0",
    SwitchingInHttp2 400 "switching_in_http2" "101 in HTTP/2",
    InterimWithEnd 400 "interim_with_end" "interim answer that ends its stream",
    TooManyInterim 400 "too_many_interim" "too many interim answers",

    // Limits.
    RequestLineTooLong 414 "request_line_too_long" "request line is too long",
    HeadTooLarge 431 "head_too_large" "head is too large",
    TooManyFields 431 "too_many_fields" "too many fields",
    TooManyConnectionOptions 431 "too_many_connection_options" "too many connection options",

    // Routing.
    MissingHost 400 "missing_host" "Host field is missing",
    RepeatedHost 400 "repeated_host" "repeated Host field",
    EmptyHost 400 "empty_host" "Host field is empty",
    InvalidHost 400 "invalid_host" "invalid Host field",
    HostMismatch 400 "host_mismatch" "Host field differs from the request target",

    // Framing.
    LengthWithTransferEncoding 400 "length_with_transfer_encoding" "both Content-Length and Transfer-Encoding",
    RepeatedContentLength 400 "repeated_content_length" "repeated Content-Length field",
    InvalidContentLength 400 "invalid_content_length" "invalid Content-Length field",
    LengthMismatch 400 "length_mismatch" "body is not as long as Content-Length says",
    TransferEncodingInHttp10 400 "transfer_encoding_in_http10" "Transfer-Encoding in HTTP/1.0",
    EmptyTransferEncoding 400 "empty_transfer_encoding" "empty transfer coding",
    ChunkedNotFinal 400 "chunked_not_final" "final transfer coding is not chunked",
    ChunkedTwice 400 "chunked_twice" "transfer coding chunked applied twice",
    UnsupportedCoding 501 "unsupported_coding" "unsupported transfer coding",

    TraceWithBody 400 "trace_with_body" "TRACE with a body",
    ConnectWithBody 400 "connect_with_body" "CONNECT with a body",
    BodyNotAllowed 400 "body_not_allowed" "body announced with a status that has none",

    // Expectations.
    InvalidMaxForwards 400 "invalid_max_forwards" "Max-Forwards is not a number",
    Expectation 417 "expectation" "unknown expectation",

    // Upgrades.
    UpgradeRequest 400 "upgrade_request" "an offer to change protocols by another method than GET, or with a body",
    WebSocketKey 400 "websocket_key" "Sec-WebSocket-Key is missing, repeated or malformed",
    WebSocketVersion 400 "websocket_version" "Sec-WebSocket-Version is missing, repeated or not a number",

    // Bodies.
    InvalidChunkSize 400 "invalid_chunk_size" "malformed chunk size",
    ChunkSizeOverflow 400 "chunk_size_overflow" "chunk size is too large",
    InvalidChunkExtension 400 "invalid_chunk_extension" "malformed chunk extension",
    ChunkExtensionTooLong 400 "chunk_extension_too_long" "chunk extensions are too long",
    MissingChunkEnd 400 "missing_chunk_end" "chunk data is not followed by CRLF",
    TrailersTooLarge 431 "trailers_too_large" "trailer section is too large",
    TooManyTrailers 431 "too_many_trailers" "too many trailer fields",
    InvalidBase64 400 "invalid_base64" "gRPC-Web body is not base64",
    CutShort 400 "cut_short" "connection closed in the middle of a body",

    // Streams of HTTP/2.
    DataBeforeHead 400 "data_before_head" "data before the head",
    FrameBehindEnd 400 "frame_behind_end" "frame behind the end of its stream",
    TrailersWithoutEnd 400 "trailers_without_end" "second head, or trailers that do not end their stream",
    InvalidPriority 400 "invalid_priority" "stream that depends on itself, or malformed priority",
    EmptyWindowUpdate 400 "empty_window_update" "window update of 0",
    WindowOverflow 400 "window_overflow" "window is made larger than it may be",
    WindowOverrun 400 "window_overrun" "more data than the window of the stream allows",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn every_fault_has_its_own_name_and_sits_at_its_index() {
        let names: BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        assert_eq!(names.len(), Fault::ALL.len());
        for (index, &fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(fault as usize, index);
            assert!((400..=505).contains(&fault.status()), "{fault}");
            assert!(fault.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
    }
}
