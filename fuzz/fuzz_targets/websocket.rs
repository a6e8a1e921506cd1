//! Frames of WebSocket: any pieces give the same frames and faults, what goes on is a beginning of what came and ends within a payload
//! or between frames, and it reads back as the same frames.
//!
//! The first byte of the input chooses the length of the pieces, the second who sends and what is agreed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::ws::{Event, Fault, Frame, Kind, PING_PAYLOAD, Reader, Rules, Sender, is_close_code};

#[derive(Debug, Default, PartialEq)]
struct Seen {
    frames: Vec<(Frame, u64)>,
    passed: Vec<u8>,
    behind_close: usize,
    fault: Option<Fault>,
    is_between_frames: bool,
}

fuzz_target!(|input: &[u8]| {
    let [step, agreed, bytes @ ..] = input else { return };
    let sender = if agreed & 1 == 0 { Sender::Client } else { Sender::Server };
    let mut reader = Reader::new(Rules { sender, has_deflate: agreed & 2 != 0 });
    if agreed & 4 != 0 {
        reader.expect_pong();
    }
    let whole = read(reader.clone(), sender, bytes, bytes.len().max(1));
    assert_eq!(read(reader.clone(), sender, bytes, usize::from(*step).max(1)), whole);
    assert!(bytes.starts_with(&whole.passed));
    for (nth, (frame, came)) in whole.frames.iter().enumerate() {
        let is_last = nth + 1 == whole.frames.len();
        assert!(*came <= frame.bytes && (is_last || *came == frame.bytes), "{frame:?}");
        assert!(!frame.kind.is_control() || frame.bytes <= 125 && frame.is_final);
        match frame.kind {
            Kind::Close(code) => assert!(is_last && code.is_none_or(is_close_code)),
            Kind::OurPong => assert!(frame.bytes == PING_PAYLOAD.len() as u64 && agreed & 4 != 0),
            _ => {}
        }
    }
    let again = read(reader, sender, &whole.passed, 7);
    assert_eq!((&again.frames, &again.passed, again.fault), (&whole.frames, &whole.passed, None));
    assert_eq!(again.is_between_frames, whole.is_between_frames);
});

fn read(mut reader: Reader, sender: Sender, bytes: &[u8], step: usize) -> Seen {
    let mut seen = Seen::default();
    'pieces: for piece in bytes.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (used, event) = match reader.read(rest) {
                Ok(read) => read,
                Err(fault) => {
                    seen.fault = Some(fault);
                    break 'pieces;
                }
            };
            assert!(used > 0);
            match event {
                Event::Held => assert_eq!(used, rest.len()),
                Event::Frame(frame, before) => {
                    let head_bytes = if sender == Sender::Client { 6 } else { 2 };
                    // What is judged with a head is payload all the same.
                    let taken = match frame.kind {
                        Kind::Close(_) => frame.bytes.min(2),
                        Kind::OurPong => frame.bytes,
                        Kind::Pong => before as u64 + used as u64 - head_bytes,
                        _ => 0,
                    };
                    seen.frames.push((frame, taken));
                    seen.passed.extend_from_slice(reader.held(before));
                    seen.passed.extend_from_slice(&rest[..used]);
                }
                Event::Payload => {
                    seen.frames.last_mut().expect("a frame").1 += used as u64;
                    seen.passed.extend_from_slice(&rest[..used]);
                }
                Event::BehindClose => seen.behind_close += used,
            }
            rest = &rest[used..];
        }
    }
    seen.is_between_frames = reader.is_between_frames();
    seen
}
