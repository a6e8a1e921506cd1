//! A connection of HTTP/2 as either end: arbitrary bytes give the same events in any pieces, and nothing is read behind a failure.
//!
//! The first byte chooses the end and the length of the pieces; the preface and SETTINGS of the peer come before the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::h1::Scheme;
use sluice_proto::h2::{ErrorCode, Event, HeadLines, Role, Rules, Session, StreamKey};
use sluice_proto::{HeadLimits, RequestKind};

/// Small, so that the fuzzer finds the limits.
const RULES: Rules = Rules {
    head: HeadLimits { request_line_bytes_max: 64, head_bytes_max: 512, fields_max: 8 },
    streams_max: 3,
    stream_window: 200,
    stream_window_max: 200,
    connection_window: 65_535,
    frame_bytes_max: 16_384,
    decoder_table_bytes: 256,
    encoder_table_bytes: 0,
    write_bytes_max: 64,
    coalesced_bytes_max: 40 * 1024,
    connect_protocol: true,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";

/// Events as text, with the bytes of data, all of one stream that follow each other in one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    events: Vec<String>,
    data: Vec<(u32, Vec<u8>)>,
    out: Vec<u8>,
    is_over: bool,
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, wire)) = input.split_first() else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let whole = read(role, wire, wire.len().max(1));
    assert_eq!(read(role, wire, usize::from(first >> 1) + 1), whole);
    assert_eq!(read(role, wire, 1), whole);
});

fn read(role: Role, wire: &[u8], step: usize) -> Seen {
    let mut seen = Seen::default();
    let mut session = Session::new(role, Scheme::Http, &RULES, &mut seen.out);
    let mut lines = HeadLines::new();
    let preface = if role == Role::Server { PREFACE } else { b"" };
    let start = [preface, SETTINGS, SETTINGS_ACK].concat();
    take(&mut session, &start, start.len(), &mut lines, &mut seen);
    for _ in 0..3 {
        // Streams that are opened and not used: everything on them is an error.
        assert_eq!(session.open(RequestKind::Other, &RULES).is_some(), role == Role::Client);
    }
    take(&mut session, wire, step, &mut lines, &mut seen);
    assert!(session.streams() <= RULES.streams_max as usize);
    assert!(session.heap_bytes() < 64 * 1024, "{} bytes", session.heap_bytes());
    seen
}

fn take(session: &mut Session, wire: &[u8], step: usize, lines: &mut HeadLines, seen: &mut Seen) {
    let mut input = Vec::new();
    for piece in wire.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            match session.receive(&input, lines, &RULES, &mut seen.out) {
                Ok((used, Event::Nothing)) => {
                    assert!(used == 0 && (input.len() <= 64 || seen.is_over));
                    break;
                }
                Ok((used, event)) => {
                    assert!(used > 0 && !seen.is_over);
                    note(session, &input, event, lines, seen);
                    input.drain(..used);
                }
                Err(fault) => {
                    assert!(!seen.is_over && seen.out.len() >= 17);
                    assert_eq!(seen.out[seen.out.len() - 14], 7, "no GOAWAY");
                    seen.events.push(format!("{fault:?}"));
                    seen.is_over = true;
                }
            }
        }
    }
}

fn note(session: &mut Session, input: &[u8], event: Event, lines: &HeadLines, seen: &mut Seen) {
    match event {
        Event::Handled | Event::Priority(_) => return,
        Event::Data { key, range, is_end } => {
            let (data, mut none) = (&input[range], Vec::new());
            match seen.data.last_mut().filter(|(id, _)| *id == key.id) {
                Some((_, before)) => before.extend_from_slice(data),
                None => {
                    none.extend_from_slice(data);
                    seen.data.push((key.id, none));
                }
            }
            if is_end {
                seen.events.push(format!("end of {}", key.id));
            }
            return;
        }
        Event::Head { key, fault: None, .. } => seen.events.push(format!("{:?} {:?}", key, lines.request())),
        // The caller is done with it.
        Event::Reset { key, .. } | Event::Broken { key, .. } => {
            session.close(key, ErrorCode::CANCEL, &mut seen.out);
            let stale = StreamKey { id: key.id.wrapping_add(2), ..key };
            session.close(stale, ErrorCode::CANCEL, &mut seen.out);
        }
        _ => {}
    }
    seen.events.push(format!("{event:?}"));
}
