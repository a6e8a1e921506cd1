//! Chunked bodies: any pieces give the same events, and what comes out can be written and read again.
//!
//! The first byte of the input chooses the length of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::h1::{BodyDecoder, BodyEvent, CHUNK_END, write_chunk_size, write_last_chunk};
use sluice_proto::{ChunkLimits, Fault, TrailerRule, Trailers};

/// Small, so that the fuzzer finds the limits.
const LIMITS: ChunkLimits =
    ChunkLimits { extension_bytes_max: 32, trailer_bytes_max: 128, trailer_fields_max: 4 };

/// All data, the trailers, and how it went on: bytes used when the body ended, `None` when it did not.
type Outcome = (Vec<u8>, Option<Trailers>, Result<Option<usize>, Fault>);

fuzz_target!(|input: &[u8]| {
    let Some((&step, wire)) = input.split_first() else { return };
    let whole = decode(wire, wire.len().max(1), LIMITS);
    assert_eq!(decode(wire, usize::from(step).max(1), LIMITS), whole);
    assert_eq!(decode(wire, 1, LIMITS), whole);
    assert_ne!(whole.2, Err(Fault::Malformed), "a fault without a name");
    let (data, _, end) = &whole;
    assert_eq!(&decode_with(wire, 3, LIMITS, TrailerRule::Drop), &(data.clone(), None, *end));

    for step in [1, 3, wire.len().max(1)] {
        check_passing(wire, step, data, *end);
    }

    if let (data, trailers, Ok(Some(used))) = whole {
        assert!(wire[..used].ends_with(b"\r\n"));
        check_round_trip(data, trailers);
    }
});

fn decode(wire: &[u8], step: usize, limits: ChunkLimits) -> Outcome {
    decode_with(wire, step, limits, TrailerRule::Keep)
}

fn decode_with(wire: &[u8], step: usize, limits: ChunkLimits, trailers: TrailerRule) -> Outcome {
    let mut decoder = BodyDecoder::new(sluice_proto::h1::Framing::Chunked, limits).with_trailers(trailers);
    let (mut data, mut trailers, mut used_before) = (Vec::new(), None, 0);
    for piece in wire.chunks(step) {
        let mut rest = piece;
        loop {
            match decoder.next(rest) {
                Err(fault) => return (data, trailers, Err(fault)),
                Ok((used, event)) => {
                    used_before += used;
                    match event {
                        BodyEvent::Data(range) => {
                            assert!(!range.is_empty() && range.end == used);
                            data.extend_from_slice(&rest[range]);
                        }
                        BodyEvent::Trailers(found) => {
                            assert!(trailers.replace(found).is_none(), "trailers come once")
                        }
                        BodyEvent::End => return (data, trailers, Ok(Some(used_before))),
                        BodyEvent::NeedMore => {
                            assert_eq!(used, rest.len(), "NeedMore uses up its input");
                            break;
                        }
                    }
                    rest = &rest[used..];
                }
            }
        }
    }
    assert_eq!(decoder.on_eof(), if decoder.is_done() { Ok(()) } else { Err(Fault::CutShort) });
    // Pieces that end with the body's last byte leave the final event to the next call.
    let end = matches!(decoder.next(b""), Ok((0, BodyEvent::End))).then_some(used_before);
    (data, trailers, Ok(end))
}

/// Chunks that are passed as they are, and the others framed anew, say the same, and are at fault where the same bytes are.
fn check_passing(wire: &[u8], step: usize, data: &[u8], end: Result<Option<usize>, Fault>) {
    let mut decoder = BodyDecoder::new(sluice_proto::h1::Framing::Chunked, LIMITS);
    let (mut out, mut found, mut is_ended) = (Vec::new(), None, false);
    'pieces: for piece in wire.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let passed = match decoder.pass_chunks(rest, 4) {
                Ok(passed) => passed,
                Err(fault) => {
                    found = Some(Err(fault));
                    break 'pieces;
                }
            };
            assert!(passed.data_bytes <= passed.bytes as u64);
            out.extend_from_slice(&rest[..passed.bytes]);
            rest = &rest[passed.bytes..];
            if passed.is_end {
                is_ended = true;
                found = Some(Ok(()));
                break 'pieces;
            }
            if rest.is_empty() {
                break;
            }
            match decoder.next(rest) {
                Err(fault) => {
                    found = Some(Err(fault));
                    break 'pieces;
                }
                Ok((used, event)) => {
                    if let BodyEvent::Data(range) = &event {
                        write_chunk_size(&mut out, range.len());
                        out.extend_from_slice(&rest[range.clone()]);
                        out.extend_from_slice(CHUNK_END);
                    }
                    if event == BodyEvent::End {
                        found = Some(Ok(()));
                        break 'pieces;
                    }
                    rest = &rest[used..];
                }
            }
        }
    }
    match (found, end) {
        (Some(Err(fault)), Err(other)) => assert_eq!(fault, other),
        (Some(Err(fault)), _) => panic!("{fault:?} in chunks that are good"),
        // What was passed before the fault may end in the middle of a chunk.
        (_, Err(_)) => return,
        (Some(Ok(())), Ok(_)) if is_ended => {}
        (Some(Ok(())), Ok(_)) => write_last_chunk(&mut out, None),
        (None, Ok(_)) => {}
    }
    let (again, _, _) = decode(&out, out.len().max(1), ChunkLimits::default());
    assert!(again == data || found.is_some_and(|found| found.is_err()), "other data");
}

fn check_round_trip(data: Vec<u8>, trailers: Option<Trailers>) {
    let mut wire = Vec::new();
    for piece in data.chunks(7) {
        write_chunk_size(&mut wire, piece.len());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(CHUNK_END);
    }
    write_last_chunk(&mut wire, trailers.as_ref());
    let len = wire.len();
    let (again, found, end) = decode(&wire, 5, ChunkLimits::default());
    assert_eq!((again, end), (data, Ok(Some(len))));
    let text = |trailers: Option<Trailers>| trailers.map(|trailers| format!("{trailers:?}"));
    assert_eq!(text(found), text(trailers));
}
