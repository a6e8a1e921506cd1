//! The rules of RFC 9113 that a receiver checks, each by its section. Every case is read whole and in pieces, with the same outcome.

use sluice_proto::Fault;
use sluice_proto::h2::{Abuse, ErrorCode, Role};

use crate::rig::*;

/// What a case leads to.
#[derive(Debug)]
enum Outcome {
    /// A connection error.
    Connection(ErrorCode),
    /// A stream error; the connection goes on.
    Stream(u32, ErrorCode, Fault),
    /// This is seen, and the connection goes on.
    Goes(Vec<Seen>),
}

use Outcome::{Connection, Goes, Stream};

/// What happens before the outcome.
enum Step {
    Bytes(Vec<u8>),
    /// Server: the response to this stream, whole.
    Answer(u32),
    Close(u32),
    GoAway(u32),
}

struct Case {
    name: &'static str,
    role: Role,
    steps: Vec<Step>,
    outcome: Outcome,
}

fn bytes(bytes: Vec<u8>) -> Step {
    Step::Bytes(bytes)
}

/// The cases of one role: `section and name, frames and steps => outcome`.
macro_rules! cases {
    ($role:expr; $($name:literal: [$($step:expr),* $(,)?] => $outcome:expr;)+) => {
        vec![$(Case { name: $name, role: $role, steps: vec![$($step.into()),*], outcome: $outcome }),+]
    };
}

impl From<Vec<u8>> for Step {
    fn from(frame: Vec<u8>) -> Self {
        bytes(frame)
    }
}

fn get(id: u32) -> Vec<u8> {
    headers(id, END_STREAM, block::GET)
}

fn post(id: u32) -> Vec<u8> {
    headers(id, 0, block::POST)
}

fn head(id: u32, is_end: bool) -> Seen {
    Seen::Head { id, is_end, fault: None }
}

fn content(id: u32, len: usize, is_end: bool) -> Seen {
    Seen::Data { id, bytes: vec![b'd'; len], is_end }
}

fn padded(kind: u8, flags: u8, id: u32, padding: u8, inner: &[u8]) -> Vec<u8> {
    let payload = [&[padding], inner, &vec![0; usize::from(padding)]].concat();
    frame(kind, flags | PADDED, id, &payload)
}

fn priority(id: u32, parent: u32) -> Vec<u8> {
    frame(PRIORITY, 0, id, &[&parent.to_be_bytes()[..], &[7]].concat())
}

fn headers_with_parent(id: u32, parent: u32, block: &[u8]) -> Vec<u8> {
    let payload = [&parent.to_be_bytes()[..], &[7], block].concat();
    frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, id, &payload)
}

fn go_away(last_id: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&last_id.to_be_bytes()[..], &[0; 4]].concat())
}

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
const CLOSED: ErrorCode = ErrorCode::STREAM_CLOSED;
const CALM: ErrorCode = ErrorCode::ENHANCE_YOUR_CALM;
const TOP: u32 = (1 << 31) - 1;

fn frames_of_any_kind() -> Vec<Case> {
    cases! { Role::Server;
        "4.1 reserved bits and unknown flags are ignored": [
            frame(HEADERS, END_HEADERS | END_STREAM | 0xd2, 1 | 1 << 31, block::GET),
        ] => Goes(vec![head(1, true)]);
        "4.1 unknown types are ignored": [frame(0x55, 0xff, 7, b"whatever"), frame(0x54, 0, 0, b"")] => Goes(vec![]);
        "5.5 unknown types do not come within a header block": [
            frame(HEADERS, END_STREAM, 1, block::GET), frame(0x55, 0, 1, b""),
        ] => Connection(PROTOCOL);
        "4.2 the largest frame": [frame(0x55, 0, 0, &[0; 16_384])] => Goes(vec![]);
        "4.2 a frame that is too large": [frame(DATA, 0, 1, &[0; 16_385])] => Connection(SIZE);
        "4.2 a frame of unknown type that is too large": [frame(0x55, 0, 1, &[0; 16_385])] => Connection(SIZE);
        "4.3 a block that cannot be decoded": [headers(1, END_STREAM, block::INVALID)] => Connection(ErrorCode::COMPRESSION_ERROR);
        "4.3 a block of trailers that cannot be decoded": [post(1), headers(1, END_STREAM, block::INVALID)]
            => Connection(ErrorCode::COMPRESSION_ERROR);
        "4.3 a block that cannot be decoded of a stream that is ignored": [
            post(1), Step::Close(1), headers(1, END_STREAM, block::INVALID),
        ] => Connection(ErrorCode::COMPRESSION_ERROR);
        "6.6 PUSH_PROMISE to a server": [frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])] => Connection(PROTOCOL);
    }
}

fn states() -> Vec<Case> {
    cases! { Role::Server;
        "5.1 idle: DATA": [data(1, 0, 1)] => Connection(PROTOCOL);
        "5.1 idle: RST_STREAM": [reset(1, PROTOCOL)] => Connection(PROTOCOL);
        "5.1 idle: WINDOW_UPDATE": [window_update(1, 1)] => Connection(PROTOCOL);
        "5.1 idle: CONTINUATION": [frame(CONTINUATION, END_HEADERS, 1, block::GET)] => Connection(PROTOCOL);
        "5.1 idle: PRIORITY": [priority(1, 3)] => Goes(vec![]);
        "5.1 idle: WINDOW_UPDATE on an even stream": [window_update(2, 1)] => Connection(PROTOCOL);
        "5.1 idle: RST_STREAM on an even stream": [reset(2, PROTOCOL)] => Connection(PROTOCOL);
        "5.1 half-closed (remote): DATA": [get(1), data(1, 0, 1)] => Stream(1, CLOSED, Fault::FrameBehindEnd);
        "5.1 half-closed (remote): HEADERS": [get(1), headers(1, END_STREAM, block::TRAILERS)]
            => Stream(1, CLOSED, Fault::FrameBehindEnd);
        "5.1 half-closed (remote): WINDOW_UPDATE": [get(1), window_update(1, 1)]
            => Goes(vec![head(1, true), Seen::Window(Some(1))]);
        "5.1 half-closed (remote): PRIORITY": [get(1), priority(1, 3)] => Goes(vec![head(1, true)]);
        "5.1 half-closed (remote): RST_STREAM": [get(1), reset(1, PROTOCOL)]
            => Goes(vec![head(1, true), Seen::Reset { id: 1, code: PROTOCOL }]);
        "5.1 half-closed (local): DATA": [post(1), Step::Answer(1), data(1, END_STREAM, 2)]
            => Goes(vec![head(1, false), content(1, 2, true)]);
        "5.1 half-closed (local): WINDOW_UPDATE": [post(1), Step::Answer(1), window_update(1, 100)] => Goes(vec![head(1, false)]);
        "5.1 closed by the peer's RST_STREAM: DATA": [post(1), reset(1, PROTOCOL), data(1, 0, 1)] => Connection(CLOSED);
        "5.1 closed by the peer's RST_STREAM: HEADERS": [post(1), reset(1, PROTOCOL), headers(1, END_STREAM, block::TRAILERS)]
            => Connection(CLOSED);
        "5.1 closed by the peer's RST_STREAM: RST_STREAM": [post(1), reset(1, PROTOCOL), reset(1, PROTOCOL)]
            => Goes(vec![head(1, false), Seen::Reset { id: 1, code: PROTOCOL }]);
        "5.1 closed by the peer's RST_STREAM, place free: DATA": [post(1), reset(1, PROTOCOL), Step::Close(1), data(1, 0, 1)]
            => Connection(CLOSED);
        "5.1 closed by both ends: DATA": [get(1), Step::Answer(1), data(1, 0, 1)] => Connection(CLOSED);
        "5.1 closed by both ends: HEADERS": [get(1), Step::Answer(1), headers(1, END_STREAM, block::GET)] => Connection(CLOSED);
        "5.1 closed by both ends: WINDOW_UPDATE, RST_STREAM, PRIORITY": [
            get(1), Step::Answer(1), window_update(1, 100), reset(1, PROTOCOL), priority(1, 3),
        ] => Goes(vec![head(1, true)]);
        "5.1 closed by both ends, place free: DATA": [get(1), Step::Answer(1), Step::Close(1), data(1, 0, 1)] => Connection(CLOSED);
        "5.1 closed by both ends, place free: HEADERS": [get(1), Step::Answer(1), Step::Close(1), get(1)] => Connection(CLOSED);
        "5.1 closed by both ends, place free: WINDOW_UPDATE, RST_STREAM, PRIORITY": [
            get(1), Step::Answer(1), Step::Close(1), window_update(1, 100), reset(1, PROTOCOL), priority(1, 3),
        ] => Goes(vec![head(1, true)]);
        "5.1 closed by our RST_STREAM: all frames are ignored": [
            post(1), Step::Close(1), data(1, 0, 90), window_update(1, 100), window_update(1, 0), priority(1, 3),
            headers(1, END_STREAM, block::TRAILERS), reset(1, PROTOCOL),
        ] => Goes(vec![head(1, false)]);
        "5.1 closed by our RST_STREAM, place not free: all frames are ignored": [
            headers(1, 0, block::POST_5), data(1, 0, 6), data(1, 0, 6), window_update(1, 100),
            headers(1, END_STREAM, block::TRAILERS), reset(1, PROTOCOL),
        ] => Goes(vec![head(1, false), Seen::Broken { id: 1, fault: Fault::LengthMismatch }]);
        "5.1.1 even numbers": [get(2)] => Connection(PROTOCOL);
        "5.1.1 lower numbers": [get(5), get(3)] => Connection(PROTOCOL);
        "5.1.1 lower numbers, behind a gap": [get(1), get(7), get(9), get(5)] => Connection(PROTOCOL);
        "5.1.1 numbers that were used": [get(1), get(3), Step::Answer(1), Step::Close(1), get(1)] => Connection(CLOSED);
        "5.1.1 gaps are allowed": [get(1), get(9), get(TOP)] => Goes(vec![head(1, true), head(9, true), head(TOP, true)]);
        "5.1.2 more streams than are allowed": [get(1), get(3), get(5), get(7), get(9)]
            => Goes(vec![head(1, true), head(3, true), head(5, true), head(7, true)]);
        "5.1.2 a place is free again": [get(1), get(3), get(5), get(7), Step::Answer(3), Step::Close(3), get(9)]
            => Goes(vec![head(1, true), head(3, true), head(5, true), head(7, true), head(9, true)]);
        "5.1.2 data of a stream that was refused": [get(1), get(3), get(5), get(7), post(9), data(9, 0, 5), reset(9, PROTOCOL)]
            => Goes(vec![head(1, true), head(3, true), head(5, true), head(7, true)]);
        "5.3.1 HEADERS that depend on themselves": [headers_with_parent(1, 1, block::GET)]
            => Stream(1, PROTOCOL, Fault::InvalidPriority);
        "5.3.1 the exclusive bit is no part of the number": [headers_with_parent(1, 1 | 1 << 31, block::GET)]
            => Stream(1, PROTOCOL, Fault::InvalidPriority);
        "5.3.1 HEADERS that depend on others": [headers_with_parent(1, 5 | 1 << 31, block::GET)] => Goes(vec![head(1, true)]);
        "5.3.1 PRIORITY that depends on itself": [post(1), priority(1, 1)] => Stream(1, PROTOCOL, Fault::InvalidPriority);
        "5.3.1 PRIORITY of an idle stream that depends on itself": [priority(1, 1)] => Connection(PROTOCOL);
        "6.8 streams above our GOAWAY are ignored": [
            post(1), Step::GoAway(1), post(3), data(3, 0, 5), window_update(3, 0), data(1, END_STREAM, 1), reset(3, PROTOCOL),
        ] => Goes(vec![head(1, false), content(1, 1, true)]);
        "6.8 a first GOAWAY refuses nothing": [Step::GoAway(TOP), get(1)] => Goes(vec![head(1, true)]);
    }
}

fn data_and_headers() -> Vec<Case> {
    cases! { Role::Server;
        "6.1 DATA on stream 0": [data(0, 0, 1)] => Connection(PROTOCOL);
        "6.1 padding": [post(1), padded(DATA, END_STREAM, 1, 20, b"dd")] => Goes(vec![head(1, false), content(1, 2, true)]);
        "6.1 nothing but padding": [post(1), padded(DATA, 0, 1, 20, b""), padded(DATA, END_STREAM, 1, 0, b"")]
            => Goes(vec![head(1, false), content(1, 0, true)]);
        "6.1 padding as long as the frame": [post(1), frame(DATA, PADDED, 1, &[3, 0, 0])] => Connection(PROTOCOL);
        "6.1 padding longer than the frame": [post(1), frame(DATA, PADDED, 1, &[200, 0, 0])] => Connection(PROTOCOL);
        "6.1 no room for the padding's length": [post(1), frame(DATA, PADDED, 1, b"")] => Connection(SIZE);
        "6.2 HEADERS on stream 0": [get(0)] => Connection(PROTOCOL);
        "6.2 padding": [padded(HEADERS, END_HEADERS | END_STREAM, 1, 9, block::GET)] => Goes(vec![head(1, true)]);
        "6.2 padding longer than the frame": [frame(HEADERS, END_HEADERS | PADDED, 1, &[7, 0x82, 0x86])] => Connection(PROTOCOL);
        "6.2 padding and priority, and nothing else": [
            frame(HEADERS, PADDED | WITH_PRIORITY | END_STREAM, 1, &[1, 0, 0, 0, 3, 7, 0]),
            frame(CONTINUATION, END_HEADERS, 1, block::GET),
        ] => Goes(vec![head(1, true)]);
        "6.2 too short for priority": [frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[0, 0, 0, 0])] => Connection(SIZE);
        "6.2 too short for padding": [frame(HEADERS, END_HEADERS | PADDED, 1, b"")] => Connection(SIZE);
        "6.2 another stream's frame within a block": [frame(HEADERS, 0, 1, block::GET), ping()] => Connection(PROTOCOL);
        "6.2 HEADERS within a block": [frame(HEADERS, 0, 1, block::GET), get(3)] => Connection(PROTOCOL);
        "6.2 SETTINGS within a block": [frame(HEADERS, 0, 1, block::GET), frame(SETTINGS, 0, 0, b"")] => Connection(PROTOCOL);
        "6.10 blocks in pieces": [
            frame(HEADERS, END_STREAM, 1, &block::GET[..2]), frame(CONTINUATION, 0, 1, &block::GET[2..4]),
            frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, END_HEADERS, 1, &block::GET[4..]), get(3),
        ] => Goes(vec![head(1, true), head(3, true)]);
        "6.10 trailers in pieces": [
            post(1), frame(HEADERS, END_STREAM, 1, &block::TRAILERS[..2]), frame(CONTINUATION, END_HEADERS, 1, &block::TRAILERS[2..]),
        ] => Goes(vec![head(1, false), Seen::Trailers { id: 1, fields: 1 }]);
        "6.10 CONTINUATION of another stream": [
            frame(HEADERS, END_STREAM, 1, &block::GET[..2]), frame(CONTINUATION, END_HEADERS, 3, &block::GET[2..]),
        ] => Connection(PROTOCOL);
        "6.10 CONTINUATION on stream 0": [
            frame(HEADERS, END_STREAM, 1, &block::GET[..2]), frame(CONTINUATION, END_HEADERS, 0, &block::GET[2..]),
        ] => Connection(PROTOCOL);
        "6.10 CONTINUATION behind the end of a block": [get(1), frame(CONTINUATION, END_HEADERS, 1, b"")] => Connection(PROTOCOL);
        "6.10 CONTINUATION behind DATA": [post(1), data(1, 0, 5), frame(CONTINUATION, END_HEADERS, 1, b"")] => Connection(PROTOCOL);
        "10.5.1 a block in too many frames": [
            frame(HEADERS, END_STREAM, 1, block::GET),
            frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, 0, 1, b""),
            frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, 0, 1, b""),
        ] => Connection(CALM);
        "10.5.1 a block that is too large": [frame(HEADERS, 0, 1, &[0x82; 16_384]), frame(CONTINUATION, 0, 1, &[0x82; 4_097])]
            => Connection(CALM);
        "8.1 trailers": [post(1), data(1, 0, 5), headers(1, END_STREAM, block::TRAILERS)]
            => Goes(vec![head(1, false), content(1, 5, false), Seen::Trailers { id: 1, fields: 1 }]);
        "8.1 trailers that end nothing": [post(1), headers(1, 0, block::TRAILERS)]
            => Stream(1, PROTOCOL, Fault::TrailersWithoutEnd);
        "8.1.1 a malformed request": [headers(1, END_STREAM, block::MALFORMED)]
            => Stream(1, PROTOCOL, Fault::MissingPseudoHeader);
        "8.1.1 content-length is kept": [headers(1, 0, block::POST_5), data(1, 0, 2), data(1, END_STREAM, 3)]
            => Goes(vec![head(1, false), content(1, 5, true)]);
        "8.1.1 content-length is kept, with trailers": [
            headers(1, 0, block::POST_5), data(1, 0, 5), headers(1, END_STREAM, block::TRAILERS),
        ] => Goes(vec![head(1, false), content(1, 5, false), Seen::Trailers { id: 1, fields: 1 }]);
        "8.1.1 padding is no content": [headers(1, 0, block::POST_5), padded(DATA, END_STREAM, 1, 9, b"ddddd")]
            => Goes(vec![head(1, false), content(1, 5, true)]);
        "8.1.1 more data than content-length": [headers(1, 0, block::POST_5), data(1, 0, 6)]
            => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 less data than content-length": [headers(1, 0, block::POST_5), data(1, END_STREAM, 4)]
            => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 less data than content-length, with trailers": [
            headers(1, 0, block::POST_5), data(1, 0, 4), headers(1, END_STREAM, block::TRAILERS),
        ] => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 no data, but content-length": [headers(1, END_STREAM, block::POST_5)]
            => Stream(1, PROTOCOL, Fault::LengthMismatch);
    }
}

fn small_frames() -> Vec<Case> {
    cases! { Role::Server;
        "6.3 PRIORITY on stream 0": [priority(0, 1)] => Connection(PROTOCOL);
        "6.3 PRIORITY of another size": [post(1), frame(PRIORITY, 0, 1, &[0; 4])] => Stream(1, SIZE, Fault::InvalidPriority);
        "6.3 PRIORITY of another size, of an idle stream": [frame(PRIORITY, 0, 1, &[0; 6])] => Connection(SIZE);
        "6.4 RST_STREAM on stream 0": [reset(0, PROTOCOL)] => Connection(PROTOCOL);
        "6.4 RST_STREAM of another size": [post(1), frame(RST_STREAM, 0, 1, &[0; 5])] => Connection(SIZE);
        "6.4 unknown error codes": [post(1), reset(1, ErrorCode(77))]
            => Goes(vec![head(1, false), Seen::Reset { id: 1, code: ErrorCode(77) }]);
        "6.5 SETTINGS on a stream": [frame(SETTINGS, 0, 1, b"")] => Connection(PROTOCOL);
        "6.5 SETTINGS ACK with settings": [frame(SETTINGS, ACK, 0, &[0, 3, 0, 0, 0, 1])] => Connection(SIZE);
        "6.5 SETTINGS of another size": [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0])] => Connection(SIZE);
        "6.5 SETTINGS": [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1, 0, 3, 0, 0, 0, 9])] => Goes(vec![Seen::Settings]);
        "6.5.2 unknown settings": [setting(0xfe, 9)] => Goes(vec![Seen::Settings]);
        "6.5.2 SETTINGS_HEADER_TABLE_SIZE": [setting(1, u32::MAX)] => Goes(vec![Seen::Settings]);
        "6.5.2 SETTINGS_ENABLE_PUSH": [setting(2, 1), setting(2, 0)] => Goes(vec![Seen::Settings, Seen::Settings]);
        "6.5.2 invalid SETTINGS_ENABLE_PUSH": [setting(2, 2)] => Connection(PROTOCOL);
        "6.5.2 the largest SETTINGS_INITIAL_WINDOW_SIZE": [setting(4, TOP)] => Goes(vec![Seen::Settings]);
        "6.5.2 invalid SETTINGS_INITIAL_WINDOW_SIZE": [setting(4, TOP + 1)] => Connection(FLOW);
        "6.5.2 SETTINGS_MAX_FRAME_SIZE": [setting(5, 16_384), setting(5, 0xff_ffff)] => Goes(vec![Seen::Settings, Seen::Settings]);
        "6.5.2 SETTINGS_MAX_FRAME_SIZE too small": [setting(5, 16_383)] => Connection(PROTOCOL);
        "6.5.2 SETTINGS_MAX_FRAME_SIZE too large": [setting(5, 0x100_0000)] => Connection(PROTOCOL);
        "RFC 8441 3 invalid SETTINGS_ENABLE_CONNECT_PROTOCOL": [setting(8, 2)] => Connection(PROTOCOL);
        "RFC 8441 3 SETTINGS_ENABLE_CONNECT_PROTOCOL taken back": [setting(8, 1), setting(8, 0)] => Connection(PROTOCOL);
        "RFC 9218 2.1 invalid SETTINGS_NO_RFC7540_PRIORITIES": [setting(9, 2)] => Connection(PROTOCOL);
        "6.7 PING on a stream": [frame(PING, 0, 1, &[0; 8])] => Connection(PROTOCOL);
        "6.7 PING of another size": [frame(PING, 0, 0, &[0; 7])] => Connection(SIZE);
        "6.7 PING ACK": [frame(PING, ACK, 0, &[0; 8])] => Goes(vec![Seen::Pong]);
        "6.8 GOAWAY on a stream": [frame(GOAWAY, 0, 1, &[0; 8])] => Connection(PROTOCOL);
        "6.8 GOAWAY too short": [frame(GOAWAY, 0, 0, &[0; 7])] => Connection(SIZE);
        "6.8 GOAWAY with debug data": [frame(GOAWAY, 0, 0, &[0; 500])]
            => Goes(vec![Seen::GoAway { last_id: 0, code: ErrorCode::NO_ERROR }]);
        "6.8 GOAWAY twice": [go_away(TOP | 1 << 31), go_away(6)] => Goes(vec![
            Seen::GoAway { last_id: TOP, code: ErrorCode::NO_ERROR }, Seen::GoAway { last_id: 6, code: ErrorCode::NO_ERROR },
        ]);
        "6.8 GOAWAY names a higher stream": [go_away(6), go_away(8)] => Connection(PROTOCOL);
        "6.9 WINDOW_UPDATE of another size": [frame(WINDOW_UPDATE, 0, 0, &[0; 5])] => Connection(SIZE);
        "6.9 WINDOW_UPDATE of 0 on the connection": [window_update(0, 0)] => Connection(PROTOCOL);
        "6.9 WINDOW_UPDATE of 0, but the reserved bit": [window_update(0, 1 << 31)] => Connection(PROTOCOL);
        "6.9 WINDOW_UPDATE of 0 on a stream": [get(1), window_update(1, 0)] => Stream(1, PROTOCOL, Fault::EmptyWindowUpdate);
        "6.9 WINDOW_UPDATE": [get(1), window_update(1, 7), window_update(0, 7)]
            => Goes(vec![head(1, true), Seen::Window(Some(1)), Seen::Window(None)]);
        "6.9.1 the largest window of the connection": [window_update(0, TOP - 65_535)] => Goes(vec![Seen::Window(None)]);
        "6.9.1 a window of the connection that is too large": [window_update(0, TOP - 65_534)] => Connection(FLOW);
        "6.9.1 the largest window of a stream": [get(1), window_update(1, TOP - 65_535)]
            => Goes(vec![head(1, true), Seen::Window(Some(1))]);
        "6.9.1 a window of a stream that is too large": [get(1), window_update(1, TOP - 65_534)]
            => Stream(1, FLOW, Fault::WindowOverflow);
        "6.9.1 the stream's window": [post(1), data(1, 0, 100)] => Goes(vec![head(1, false), content(1, 100, false)]);
        "6.9.1 the stream's window is not kept": [post(1), data(1, 0, 60), data(1, 0, 41)]
            => Stream(1, FLOW, Fault::WindowOverrun);
        "6.9.1 padding counts": [post(1), padded(DATA, 0, 1, 40, &[b'd'; 60])] => Stream(1, FLOW, Fault::WindowOverrun);
        "6.9.2 a setting makes windows too large": [get(1), window_update(1, TOP - 65_535), setting(4, 65_536)] => Connection(FLOW);
        "6.9.2 a setting makes windows smaller and larger": [get(1), setting(4, 0), setting(4, TOP)]
            => Goes(vec![head(1, true), Seen::Settings, Seen::Settings]);
        "RFC 9218 7.1 PRIORITY_UPDATE": [
            frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"), frame(PRIORITY_UPDATE, 0, 0, &[1; 200]),
        ] => Goes(vec![]);
        "RFC 9218 7.1 PRIORITY_UPDATE on a stream": [frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\x01u=1")] => Connection(PROTOCOL);
        "RFC 9218 7.1 PRIORITY_UPDATE of stream 0": [frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\0u=1")] => Connection(PROTOCOL);
        "RFC 9218 7.1 PRIORITY_UPDATE too short": [frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0")] => Connection(SIZE);
    }
}

/// A client with streams 1 (GET), 3 (HEAD) and 5 (POST, goes on).
fn clients() -> Vec<Case> {
    cases! { Role::Client;
        "3.4, 8.1 a response": [headers(1, 0, block::OK), data(1, 0, 3), data(1, END_STREAM, 3)]
            => Goes(vec![head(1, false), content(1, 6, true)]);
        "8.1 interim responses": [headers(1, 0, block::CONTINUE), headers(1, 0, block::CONTINUE), headers(1, END_STREAM, block::OK)]
            => Goes(vec![head(1, false), head(1, false), head(1, true)]);
        "8.1 an interim response that ends its stream": [headers(1, END_STREAM, block::CONTINUE)]
            => Stream(1, PROTOCOL, Fault::InterimWithEnd);
        "8.1 a second final response": [headers(1, 0, block::OK), headers(1, 0, block::OK)]
            => Stream(1, PROTOCOL, Fault::TrailersWithoutEnd);
        "8.1 a second final response that ends the stream": [headers(1, 0, block::OK), headers(1, END_STREAM, block::OK)]
            => Stream(1, PROTOCOL, Fault::UnexpectedPseudoHeader);
        "8.1 an interim response behind the final one": [headers(1, 0, block::OK), headers(1, 0, block::CONTINUE)]
            => Stream(1, PROTOCOL, Fault::TrailersWithoutEnd);
        "8.1 trailers": [headers(1, 0, block::OK), headers(1, END_STREAM, block::TRAILERS)]
            => Goes(vec![head(1, false), Seen::Trailers { id: 1, fields: 1 }]);
        "8.1 DATA before HEADERS": [data(1, END_STREAM, 1)] => Stream(1, PROTOCOL, Fault::DataBeforeHead);
        "8.1 DATA behind an interim response": [headers(1, 0, block::CONTINUE), data(1, END_STREAM, 1)]
            => Stream(1, PROTOCOL, Fault::DataBeforeHead);
        "8.1 trailers without a response": [headers(1, END_STREAM, block::TRAILERS)]
            => Stream(1, PROTOCOL, Fault::MissingPseudoHeader);
        "8.1.1 content-length": [headers(1, 0, block::OK_5), data(1, END_STREAM, 5)] => Goes(vec![head(1, false), content(1, 5, true)]);
        "8.1.1 more than content-length": [headers(1, 0, block::OK_5), data(1, 0, 6)]
            => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 less than content-length": [headers(1, 0, block::OK_5), data(1, END_STREAM, 4)]
            => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 HEAD has a length and no data": [headers(3, END_STREAM, block::OK_5)] => Goes(vec![head(3, true)]);
        "8.1.1 HEAD, ended by empty data": [headers(3, 0, block::OK_5), data(3, END_STREAM, 0)]
            => Goes(vec![head(3, false), content(3, 0, true)]);
        "8.1.1 HEAD with data": [headers(3, 0, block::OK_5), data(3, END_STREAM, 5)] => Stream(3, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 204 with data": [headers(1, 0, block::NO_CONTENT), data(1, END_STREAM, 5)] => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1.1 304 with data": [headers(1, 0, block::NOT_MODIFIED), data(1, END_STREAM, 5)]
            => Stream(1, PROTOCOL, Fault::LengthMismatch);
        "8.1 a response before the request has ended": [headers(5, END_STREAM, block::OK), reset(5, ErrorCode::NO_ERROR)]
            => Goes(vec![head(5, true), Seen::Reset { id: 5, code: ErrorCode::NO_ERROR }]);
        "5.1 HEADERS behind the end": [headers(5, END_STREAM, block::OK), headers(5, END_STREAM, block::TRAILERS)]
            => Stream(5, CLOSED, Fault::FrameBehindEnd);
        "5.1 HEADERS on a closed stream": [headers(1, END_STREAM, block::OK), headers(1, END_STREAM, block::TRAILERS)]
            => Connection(CLOSED);
        "5.1 HEADERS on a closed stream without a place": [
            headers(1, END_STREAM, block::OK), Step::Close(1), headers(1, END_STREAM, block::OK),
        ] => Connection(CLOSED);
        "5.1 frames behind our RST_STREAM": [Step::Close(1), headers(1, 0, block::OK), data(1, END_STREAM, 50), window_update(1, 9)]
            => Goes(vec![]);
        "5.1 idle: HEADERS": [headers(7, END_STREAM, block::OK)] => Connection(PROTOCOL);
        "5.1 idle: DATA": [data(7, 0, 1)] => Connection(PROTOCOL);
        "5.1 idle: WINDOW_UPDATE": [window_update(7, 1)] => Connection(PROTOCOL);
        "5.1 idle: RST_STREAM": [reset(7, PROTOCOL)] => Connection(PROTOCOL);
        "5.1.1 HEADERS on an even stream": [headers(2, END_STREAM, block::OK)] => Connection(PROTOCOL);
        "5.1.1 DATA on an even stream": [data(2, END_STREAM, 1)] => Connection(PROTOCOL);
        "6.6, 8.4 PUSH_PROMISE": [frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])] => Connection(PROTOCOL);
        "6.5.2 a server that enables push": [setting(2, 1)] => Connection(PROTOCOL);
        "6.5.2 a server that does not": [setting(2, 0)] => Goes(vec![Seen::Settings]);
        "6.5.3 an ACK": [settings_ack()] => Goes(vec![]);
        "RFC 9218 7.1 PRIORITY_UPDATE of a server": [frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1")] => Connection(PROTOCOL);
        "6.8 GOAWAY": [go_away(3)] => Goes(vec![Seen::GoAway { last_id: 3, code: ErrorCode::NO_ERROR }]);
        "10.3 a response that is too large": [headers(1, END_STREAM, &[&[0x88][..], &[0x90; 130]].concat())]
            => Stream(1, CALM, Fault::TooManyFields);
    }
}

fn run(case: &Case, step: usize) -> (Vec<Seen>, Vec<Frame>) {
    let mut end = match case.role {
        Role::Server => End::server(RULES),
        Role::Client => End::client(RULES),
    };
    for action in &case.steps {
        match action {
            Step::Bytes(bytes) => end.feed_in(bytes, step),
            Step::Answer(id) => end.respond(*id, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            Step::Close(id) => end.close(*id, ErrorCode::CANCEL),
            Step::GoAway(last_id) => end.session.go_away(*last_id, ErrorCode::NO_ERROR, &mut end.out),
        }
    }
    // Whether it goes on.
    end.feed(&ping());
    (end.seen.clone(), end.written())
}

fn check(case: &Case) {
    let name = case.name;
    let (seen, written) = run(case, usize::MAX);
    for step in [1, 7] {
        assert_eq!(run(case, step), (seen.clone(), written.clone()), "{name}, in pieces of {step}");
    }
    let goes_on = written.last().is_some_and(|frame| *frame == (PING, ACK, 0, b"answerme".to_vec()));
    match &case.outcome {
        Connection(code) => {
            assert_eq!(seen.last(), Some(&Seen::Failed(*code)), "{name}: {seen:?}");
            let (kind, _, id, payload) = written.last().expect("GOAWAY");
            assert_eq!((*kind, *id, &payload[4..]), (GOAWAY, 0, &code.0.to_be_bytes()[..]), "{name}");
        }
        Stream(id, code, fault) => {
            assert_eq!(seen.last(), Some(&Seen::Broken { id: *id, fault: *fault }), "{name}: {seen:?}");
            let expected = (RST_STREAM, 0, *id, code.0.to_be_bytes().to_vec());
            assert!(goes_on && written.contains(&expected), "{name}: {written:?}");
        }
        Goes(expected) => {
            assert_eq!(seen, *expected, "{name}");
            assert!(goes_on, "{name}: {written:?}");
        }
    }
}

#[test]
fn frames_of_any_kind_are_checked() {
    frames_of_any_kind().iter().for_each(check);
}

#[test]
fn states_of_streams_are_checked() {
    states().iter().for_each(check);
}

#[test]
fn data_and_headers_are_checked() {
    data_and_headers().iter().for_each(check);
}

#[test]
fn small_frames_are_checked() {
    small_frames().iter().for_each(check);
}

#[test]
fn clients_check_their_servers() {
    clients().iter().for_each(check);
}

/// Section 3.4.
#[test]
fn the_preface_of_a_client_comes_first() {
    for (bytes, outcome) in [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r".to_vec(), Err(PROTOCOL)),
        (b"GET / HTTP/1.1\r\n".to_vec(), Err(PROTOCOL)),
        ([PREFACE, &ping()].concat(), Err(PROTOCOL)),
        ([PREFACE, &settings_ack()].concat(), Err(PROTOCOL)),
        ([PREFACE, &get(1)].concat(), Err(PROTOCOL)),
        ([PREFACE, &frame(0x55, 0, 0, b"")].concat(), Err(PROTOCOL)),
        ([PREFACE, &setting(3, 7)].concat(), Ok(Seen::Settings)),
    ] {
        for step in [1, 5, 100] {
            let mut end = End::new(Role::Server, RULES);
            end.feed_in(&bytes, step);
            let expected = match &outcome {
                Ok(seen) => seen.clone(),
                Err(code) => Seen::Failed(*code),
            };
            assert_eq!(end.seen, [expected], "{}", bytes.escape_ascii());
        }
    }
    let mut end = End::new(Role::Client, RULES);
    end.feed(&ping());
    assert_eq!(end.seen, [Seen::Failed(PROTOCOL)]);
}

/// Section 3.4: what we send first, and section 6.5.2.
#[test]
fn our_preface_announces_our_settings() {
    let rules = sluice_proto::h2::Rules { connection_window: 100_000, ..RULES };
    let server = End::new(Role::Server, rules);
    let settings = |written: &[Frame]| -> Vec<(u16, u32)> {
        assert_eq!(written[0].0, SETTINGS);
        let pairs = written[0].3.chunks(6);
        pairs
            .map(|s| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]])))
            .collect()
    };
    let written = server.written();
    assert_eq!(settings(&written), [(1, 4_096), (4, 100), (5, 16_384), (6, 4_096), (9, 1), (3, 4), (8, 1)]);
    assert_eq!(written[1], (WINDOW_UPDATE, 0, 0, 34_465_u32.to_be_bytes().to_vec()));
    let client = End::new(Role::Client, rules);
    assert!(client.out.starts_with(PREFACE));
    assert_eq!(settings(&client.written()), [(1, 4_096), (4, 100), (5, 16_384), (6, 4_096), (9, 1), (2, 0)]);
}

/// Section 6.5.3: settings are acknowledged, and ours are in force when they are.
#[test]
fn our_window_is_in_force_when_it_is_acknowledged() {
    for (window, is_smaller) in [(100, true), (100_000, false)] {
        let rules = sluice_proto::h2::Rules { stream_window: window, connection_window: 1 << 20, ..RULES };
        let mut end = End::new(Role::Server, rules);
        end.feed(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat());
        assert_eq!(end.written().last(), Some(&(SETTINGS, ACK, 0, Vec::new())));
        let before =
            [post(1), data(1, 0, 16_384), data(1, 0, 16_384), data(1, 0, 16_384), data(1, 0, 16_383)]
                .concat();
        end.feed(&before);
        assert!(matches!(end.seen.last(), Some(Seen::Data { id: 1, .. })), "{:?}", end.seen.last());
        let mut beyond = End::new(Role::Server, rules);
        beyond.feed(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &before, &data(1, 0, 1)].concat());
        assert_eq!(beyond.seen.last(), Some(&Seen::Broken { id: 1, fault: Fault::WindowOverrun }));
        end.feed(&settings_ack());
        end.feed(&data(1, 0, 1));
        assert_eq!(end.seen.last() == Some(&Seen::Broken { id: 1, fault: Fault::WindowOverrun }), is_smaller);
        // A stream that begins now.
        end.feed(&[post(3), data(3, 0, 101)].concat());
        assert_eq!(end.seen.last() == Some(&Seen::Broken { id: 3, fault: Fault::WindowOverrun }), is_smaller);
    }
}

/// Section 6.9.1: the connection's window, which data that nothing takes opens again.
#[test]
fn the_window_of_the_connection_is_kept_and_opens_again() {
    let rules = sluice_proto::h2::Rules { stream_window: 1 << 20, ..RULES };
    let mut end = End::server(rules);
    let full =
        [post(1), data(1, 0, 16_384), data(1, 0, 16_384), data(1, 0, 16_384), data(1, 0, 16_383)].concat();
    end.feed(&full);
    end.feed(&data(1, 0, 1));
    assert_eq!(end.seen.last(), Some(&Seen::Failed(FLOW)));

    let mut end = End::server(rules);
    end.feed(&full);
    end.session.give_back_shared(40_000, &rules, &mut end.out);
    assert_eq!(end.written().last(), Some(&(WINDOW_UPDATE, 0, 0, 40_000_u32.to_be_bytes().to_vec())));
    end.close(1, ErrorCode::CANCEL);
    end.out.clear();
    // Data for a stream that was reset, with padding, and padding of a stream that goes on.
    end.feed(&[data(1, 0, 16_384), data(1, 0, 16_000), padded(DATA, 0, 1, 200, &[0; 300])].concat());
    assert_eq!(end.written(), [(WINDOW_UPDATE, 0, 0, 32_885_u32.to_be_bytes().to_vec())]);
    end.feed(&[post(3), padded(DATA, 0, 3, 255, b"")].concat());
    assert!(matches!(end.seen.last(), Some(Seen::Head { id: 3, .. })), "{:?}", end.seen);
}

/// Section 6.9.1: a stream whose data is padding does not stall.
#[test]
fn padding_is_given_back_at_once() {
    let mut end = End::server(RULES);
    end.feed(&post(1));
    for _ in 0..100 {
        end.feed(&padded(DATA, 0, 1, 98, b""));
    }
    assert_eq!(end.seen, [head(1, false)]);
    let updates = end.written();
    assert_eq!(updates.iter().filter(|frame| frame.2 == 1).count(), 100);
}

/// Section 5.1.2.
#[test]
fn refused_streams_are_reset_and_counted() {
    let mut end = End::server(RULES);
    end.feed(&[get(1), get(3), get(5), get(7), get(9), get(11)].concat());
    let refused = |id| (RST_STREAM, 0, id, ErrorCode::REFUSED_STREAM.0.to_be_bytes().to_vec());
    assert_eq!(end.written(), [refused(9), refused(11)]);
    assert_eq!((end.abuses(), end.session.last_id()), (abuse(Abuse::Refused, 2), 11));
    // A reset does not free the place of a stream.
    end.feed(&[reset(1, ErrorCode::CANCEL), get(13)].concat());
    assert_eq!(end.written().last(), Some(&refused(13)));
    end.close(1, ErrorCode::CANCEL);
    end.feed(&get(15));
    assert_eq!(end.seen.last(), Some(&head(15, true)));
}

/// Section 4.3: a block that is refused or ignored still changes the table.
#[test]
fn blocks_of_refused_and_ignored_streams_are_decoded() {
    // x: one enters the table, and is named from there.
    let enters = [block::GET, b"\x40\x01x\x03one"].concat();
    let uses = [block::GET, b"\xbe"].concat();
    let mut end = End::server(RULES);
    end.feed(&[get(1), get(3), get(5), get(7), headers(9, END_STREAM, &enters)].concat());
    end.close(1, ErrorCode::CANCEL);
    end.feed(&headers(11, END_STREAM, &uses));
    assert_eq!(end.seen.last(), Some(&head(11, true)));
    assert!(end.lines.request().fields().any(|field| field.name == "x" && field.value == b"one"));

    let mut end = End::server(RULES);
    end.session.go_away(0, ErrorCode::NO_ERROR, &mut end.out);
    end.feed(&[headers(1, END_STREAM, &enters), headers(3, END_STREAM, &uses), ping()].concat());
    assert_eq!((end.seen.len(), end.written().last().map(|frame| frame.0)), (0, Some(PING)));
}

/// What a peer may repeat.
#[test]
fn abuses_are_counted() {
    let empty_block = [
        frame(HEADERS, END_STREAM, 3, b""),
        frame(CONTINUATION, 0, 3, b""),
        frame(CONTINUATION, END_HEADERS, 3, block::GET),
    ];
    let cases: [(Vec<u8>, Abuses); 11] = [
        ([ping(), ping()].concat(), abuse(Abuse::Ping, 2)),
        (pong(), Abuses::new()),
        ([frame(SETTINGS, 0, 0, b""), settings_ack()].concat(), abuse(Abuse::Settings, 2)),
        (
            [priority(1, 3), frame(0x55, 0, 0, b""), frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01")].concat(),
            abuse(Abuse::Ignored, 3),
        ),
        (
            [post(1), data(1, 0, 0), padded(DATA, 0, 1, 5, b""), data(1, END_STREAM, 0)].concat(),
            abuse(Abuse::Empty, 2),
        ),
        (empty_block.concat(), abuse(Abuse::Empty, 2)),
        (
            [post(1), data(1, 0, 1), data(1, 0, 5), data(1, 0, 6), data(1, END_STREAM, 1)].concat(),
            abuse(Abuse::TinyData, 2),
        ),
        ([get(1), reset(1, ErrorCode::CANCEL)].concat(), abuse(Abuse::Reset, 1)),
        ([get(1), window_update(1, 0)].concat(), abuse(Abuse::Broken, 1)),
        (headers(1, END_STREAM, block::MALFORMED), abuse(Abuse::Broken, 1)),
        (
            [get(1), window_update(1, 63), window_update(0, 64), window_update(0, 1)].concat(),
            abuse(Abuse::TinyWindow, 2),
        ),
    ];
    for (bytes, expected) in cases {
        let mut end = End::server(RULES);
        end.feed(&bytes);
        assert_eq!(end.abuses(), expected, "{:?}", frames(&bytes));
        assert_eq!(end.session.take_abuses(), None);
    }
    // Updates that answer data are none, unless the window is small.
    let mut end = End::server(RULES);
    end.feed(&get(1));
    end.respond(1, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", false);
    end.send(1, b"some", false);
    end.feed(&[window_update(1, 4), window_update(0, 4)].concat());
    assert_eq!(end.abuses(), []);
    end.feed(&window_update(0, 4));
    assert_eq!(end.abuses(), abuse(Abuse::TinyWindow, 1));
    // As gRPC clients do when data comes, to measure the way.
    end.feed(&[ping(), ping()].concat());
    assert_eq!(end.abuses(), abuse(Abuse::Ping, 1));
    end.feed(&setting(4, 4));
    end.session.take_abuses();
    end.send(1, b"s", false);
    end.feed(&window_update(1, 1));
    assert_eq!(end.abuses(), abuse(Abuse::TinyWindow, 1));
}

/// Section 7 of RFC 9218.
#[test]
fn priorities_are_kept_and_updated() {
    let mut end = End::server(RULES);
    end.feed(&headers(1, END_STREAM, &[block::GET, b"\x00\x08priority\x06u=1, i"].concat()));
    let key = end.key(1);
    assert_eq!(end.session.priority(key), (1, true));
    end.feed(&frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=6"));
    assert_eq!(end.session.priority(key), (6, false));
}

#[test]
fn nothing_is_on_the_heap_before_and_after_streams() {
    let mut end = End::server(RULES);
    assert_eq!(end.session.heap_bytes(), 0);
    end.feed_in(&get(1), 3);
    assert!(end.session.heap_bytes() > 0);
    end.session.compact();
    end.respond(1, "HTTP/1.1 204 No Content\r\n\r\n", true);
    end.close(1, ErrorCode::NO_ERROR);
    end.session.compact();
    assert_eq!(end.session.heap_bytes(), 0);
    // In the middle of a block and of data nothing is lost.
    end.feed(&frame(HEADERS, 0, 3, &block::POST[..3]));
    end.session.compact();
    end.feed(&frame(CONTINUATION, END_HEADERS, 3, &block::POST[3..])[..11]);
    end.session.compact();
    end.feed(&frame(CONTINUATION, END_HEADERS, 3, &block::POST[3..])[11..]);
    end.feed(&data(3, END_STREAM, 9)[..12]);
    end.session.compact();
    end.feed(&data(3, END_STREAM, 9)[12..]);
    assert_eq!(end.seen, [head(1, true), head(3, false), content(3, 9, true)]);
}

#[test]
fn the_end_is_between_frames_or_within_one() {
    let mut end = End::server(RULES);
    assert!(end.session.is_between_frames());
    end.feed(&get(1)[..9]);
    assert!(!end.session.is_between_frames());
    end.feed(&get(1)[9..]);
    assert!(end.session.is_between_frames());
    end.feed(&frame(HEADERS, 0, 3, block::GET));
    assert!(!end.session.is_between_frames());
}

/// The caller may close a stream in the middle of a frame of its data.
#[test]
fn data_of_a_stream_that_is_closed_meanwhile_are_skipped() {
    let mut end = End::server(RULES);
    end.feed(&[post(1), data(1, 0, 50)[..19].to_vec()].concat());
    end.close(1, ErrorCode::CANCEL);
    end.feed(&data(1, 0, 50)[19..]);
    end.feed(&get(3));
    assert_eq!(end.seen, [head(1, false), content(1, 10, false), head(3, true)]);
}

/// Section 6.9: empty data need no window, also where ours has become negative.
#[test]
fn an_empty_end_is_accepted_behind_a_window_that_became_smaller() {
    let mut end = End::new(Role::Server, RULES);
    end.feed(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &post(1), &data(1, 0, 500), &settings_ack()].concat());
    end.feed(&data(1, END_STREAM, 0));
    assert_eq!(end.seen.last(), Some(&content(1, 500, true)));
}

/// Section 5.1: PRIORITY may come at any time, and so may its errors.
#[test]
fn a_stream_error_behind_the_end_of_its_stream_is_sent() {
    let mut end = End::server(RULES);
    end.feed(&get(1));
    end.respond(1, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true);
    let _ = end.written();
    end.feed(&frame(PRIORITY, 0, 1, &[0; 4]));
    assert_eq!(end.written().last().map(|frame| frame.0), Some(RST_STREAM));
    assert_eq!(end.abuses(), abuse(Abuse::Broken, 1));
}
