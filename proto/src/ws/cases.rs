//! The rules of RFC 6455 that a reader of frames checks, each with its section; and that no split of the bytes changes what is read.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::reader::{Event, Fault, Frame, Kind, Reader, Rules, Sender};
use super::write::{CloseCode, PING_PAYLOAD, write_close, write_ping};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn rules(sender: Sender) -> Rules {
    Rules { sender, has_deflate: false }
}

/// What comes of some bytes: frames, how much of the payload of each came, and the fault that ended it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    frames: Vec<(Frame, usize)>,
    /// Everything that may go on, in order.
    passed: Vec<u8>,
    behind_close: usize,
    fault: Option<Fault>,
    is_between_frames: bool,
}

/// Reads `bytes` in pieces of these lengths, again and again.
fn read(mut reader: Reader, bytes: &[u8], pieces: &[usize]) -> Seen {
    let mut seen = Seen { is_between_frames: true, ..Seen::default() };
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(*pieces.next().expect("a length")));
        rest = behind;
        let mut unread = piece;
        while !unread.is_empty() {
            let (used, event) = match reader.read(unread) {
                Ok(read) => read,
                Err(fault) => {
                    seen.fault = Some(fault);
                    return seen;
                }
            };
            assert!(used > 0 && used <= unread.len(), "{event:?}");
            match event {
                Event::Held => assert_eq!(used, unread.len()),
                Event::Frame(frame, before) => {
                    seen.frames.push((frame, 0));
                    seen.passed.extend_from_slice(reader.held(before));
                    seen.passed.extend_from_slice(&unread[..used]);
                }
                Event::Payload => {
                    seen.frames.last_mut().expect("a frame").1 += used;
                    seen.passed.extend_from_slice(&unread[..used]);
                }
                Event::BehindClose => seen.behind_close += used,
            }
            unread = &unread[used..];
        }
    }
    seen.is_between_frames = reader.is_between_frames();
    seen
}

fn read_whole(sender: Sender, bytes: &[u8]) -> Seen {
    let reader = Reader::new(rules(sender));
    let whole = read(reader.clone(), bytes, &[bytes.len().max(1)]);
    for step in [1, 2, 3, 5, 7, 11] {
        assert_eq!(read(reader.clone(), bytes, &[step]), whole, "in pieces of {step}");
    }
    whole
}

/// A frame with its length in the fewest bytes.
fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask = if key.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(mask | length as u8),
        length @ 126..=0xffff => {
            out.push(mask | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(mask | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = key.inspect(|key| out.extend_from_slice(key)).unwrap_or_default();
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn of_client(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some(KEY))
}

fn of_server(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, None)
}

/// The examples of section 5.7.
#[test]
fn the_examples_of_the_rfc_are_read() {
    let hello = [0x81, 0x05, b'H', b'e', b'l', b'l', b'o'];
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(of_client(0x81, b"Hello"), masked);
    for (sender, bytes) in [(Sender::Server, &hello[..]), (Sender::Client, &masked)] {
        let seen = read_whole(sender, bytes);
        let frame = Frame { kind: Kind::Text, is_final: true, bytes: 5, message_bytes: 5 };
        assert_eq!((&seen.frames[..], seen.fault), (&[(frame, 5)][..], None));
        assert_eq!(seen.passed, bytes);
    }
    let in_pieces = [0x01, 0x03, b'H', b'e', b'l', 0x80, 0x02, b'l', b'o'];
    let kinds: Vec<_> = read_whole(Sender::Server, &in_pieces).frames;
    assert_eq!(
        kinds.iter().map(|(frame, _)| (frame.kind, frame.message_bytes)).collect::<Vec<_>>(),
        [(Kind::Text, 3), (Kind::Continuation, 5)]
    );
    for bytes in [256_usize, 65_536] {
        let seen = read_whole(Sender::Server, &of_server(0x82, &vec![7; bytes]));
        assert_eq!((seen.frames[0].0.bytes, seen.frames[0].1), (bytes as u64, bytes));
    }
}

/// Every rule that a frame can break, with its section.
#[test]
fn broken_frames_are_found() {
    for (section, sender, bytes, fault) in [
        ("5.2 RSV1", Sender::Client, of_client(0xc1, b""), Fault::ReservedBits),
        ("5.2 RSV2", Sender::Client, of_client(0xa1, b""), Fault::ReservedBits),
        ("5.2 RSV3", Sender::Server, of_server(0x91, b""), Fault::ReservedBits),
        ("5.2 opcode 3", Sender::Client, of_client(0x83, b""), Fault::ReservedOpcode),
        ("5.2 opcode 7", Sender::Client, of_client(0x87, b""), Fault::ReservedOpcode),
        ("5.2 opcode 11", Sender::Server, of_server(0x8b, b""), Fault::ReservedOpcode),
        ("5.2 opcode 15", Sender::Server, of_server(0x8f, b""), Fault::ReservedOpcode),
        ("5.2 length 125 in 2 bytes", Sender::Server, vec![0x82, 126, 0, 125], Fault::LengthNotMinimal),
        (
            "5.2 length 65535 in 8 bytes",
            Sender::Server,
            vec![0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            Fault::LengthNotMinimal,
        ),
        (
            "5.2 length of 64 bits",
            Sender::Server,
            vec![0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
            Fault::LengthTooLarge,
        ),
        ("5.1 client without mask", Sender::Client, of_server(0x81, b"x"), Fault::Unmasked),
        ("5.1 server with mask", Sender::Server, of_client(0x81, b"x"), Fault::Masked),
        ("5.5 Ping of 126 bytes", Sender::Client, of_client(0x89, &[0; 126]), Fault::ControlTooLong),
        ("5.5 Close of 65536 bytes", Sender::Client, of_client(0x88, &[3; 65_536]), Fault::ControlTooLong),
        ("5.5 Ping in pieces", Sender::Client, of_client(0x09, b""), Fault::ControlFragmented),
        ("5.5 Close in pieces", Sender::Server, of_server(0x08, b""), Fault::ControlFragmented),
        ("5.4 nothing to continue", Sender::Client, of_client(0x80, b""), Fault::NothingToContinue),
        (
            "5.4 nothing to continue any more",
            Sender::Server,
            [of_server(0x01, b"a"), of_server(0x80, b"b"), of_server(0x00, b"c")].concat(),
            Fault::NothingToContinue,
        ),
        (
            "5.4 a message within another",
            Sender::Client,
            [of_client(0x01, b"a"), of_client(0x82, b"b")].concat(),
            Fault::MessageUnfinished,
        ),
        ("5.5.1 half a code", Sender::Client, of_client(0x88, &[3]), Fault::CloseWithoutCode),
        ("7.4.1 code 1005", Sender::Client, of_client(0x88, &[3, 0xed]), Fault::CloseCode),
        ("7.4.1 code 1006", Sender::Server, of_server(0x88, &[3, 0xee]), Fault::CloseCode),
        ("7.4.2 code 0", Sender::Server, of_server(0x88, &[0, 0, b'x']), Fault::CloseCode),
        ("7.4.2 code 5000", Sender::Client, of_client(0x88, &[0x13, 0x88]), Fault::CloseCode),
    ] {
        let seen = read_whole(sender, &bytes);
        assert_eq!(seen.fault, Some(fault), "{section}: {seen:?}");
        assert!(!fault.reason().is_empty());
        // Nothing of the broken frame has gone on, and what had ended between two frames.
        let complete: u64 = seen
            .frames
            .iter()
            .map(|(frame, _)| frame.bytes + 2 + if sender == Sender::Client { 4 } else { 0 })
            .sum();
        assert_eq!(seen.passed.len() as u64, complete, "{section}");
        assert!(seen.frames.iter().all(|(frame, came)| frame.bytes == *came as u64), "{section}");
    }
}

/// RFC 7692 section 6: RSV1 is for the first frame of a message.
#[test]
fn deflate_gives_rsv1_a_meaning() {
    let with_deflate = |sender| Reader::new(Rules { sender, has_deflate: true });
    let read = |bytes: &[u8]| read(with_deflate(Sender::Client), bytes, &[3]).fault;
    assert_eq!(read(&of_client(0xc1, b"abc")), None);
    assert_eq!(read(&[of_client(0x42, b"a"), of_client(0x80, b"b")].concat()), None);
    assert_eq!(read(&[of_client(0x42, b"a"), of_client(0xc0, b"b")].concat()), Some(Fault::ReservedBits));
    assert_eq!(read(&of_client(0xc9, b"")), Some(Fault::ReservedBits));
    assert_eq!(read(&of_client(0xe1, b"")), Some(Fault::ReservedBits));
    assert_eq!(read(&of_client(0xd1, b"")), Some(Fault::ReservedBits));
}

/// Section 5.4: control frames may stand between those of a message, whose sizes add up.
#[test]
fn messages_are_counted_across_their_frames() {
    let bytes = [
        of_client(0x01, &[0; 100]),
        of_client(0x89, b"are you there"),
        of_client(0x00, &[0; 200]),
        of_client(0x80, b""),
        of_client(0x82, &[0; 7]),
    ]
    .concat();
    let seen = read_whole(Sender::Client, &bytes);
    let sums: Vec<_> = seen.frames.iter().map(|(frame, _)| (frame.message_bytes, frame.is_final)).collect();
    assert_eq!(sums, [(100, false), (0, true), (300, false), (300, true), (7, true)]);
    // Sizes that would not fit are still too large.
    let huge = [0x02, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let mut reader = Reader::new(rules(Sender::Server));
    let Ok((10, Event::Frame(frame, 0))) = reader.read(&huge) else { panic!("a frame") };
    assert_eq!(frame.message_bytes, i64::MAX as u64);
    assert!(!reader.is_between_frames());
}

/// Sections 5.5.1 and 1.4: what is behind a Close frame means nothing, whatever it is.
#[test]
fn nothing_follows_a_close_frame() {
    for (payload, code) in
        [(&b""[..], None), (&[3, 0xe8][..], Some(1000)), (&[0x0b, 0xb8, b'o', b'k'][..], Some(3000))]
    {
        let closing = of_client(0x88, payload);
        let seen = read_whole(Sender::Client, &[&closing[..], &[0xff; 40]].concat());
        assert_eq!(seen.frames[0].0.kind, Kind::Close(code));
        assert_eq!((seen.frames.len(), seen.behind_close, seen.fault), (1, 40, None));
        assert_eq!(seen.passed, closing);
    }
    let mut reader = Reader::new(rules(Sender::Server));
    assert!(!reader.is_closed());
    let closing = of_server(0x88, &[3, 0xe8, b'x']);
    assert_eq!(reader.read(&closing).map(|(used, _)| used), Ok(4));
    assert!(!reader.is_closed(), "its reason has not come");
    assert_eq!(reader.read(b"x"), Ok((1, Event::Payload)));
    assert!(reader.is_closed());
}

/// Section 5.5.3: a Pong has the payload of its Ping.
#[test]
fn the_pong_to_our_ping_is_ours_once() {
    for (sender, key) in [(Sender::Client, Some(KEY)), (Sender::Server, None)] {
        let pong = frame(0x8a, &PING_PAYLOAD, key);
        let others =
            [frame(0x8a, b"8 bytes!", key), frame(0x8a, b"short", key), frame(0x8a, b"", key)].concat();
        let bytes = [&others[..], &pong, &pong].concat();
        let mut reader = Reader::new(rules(sender));
        assert!(read(reader.clone(), &pong, &[1]).frames[0].0.kind == Kind::Pong, "nothing was asked");
        reader.expect_pong();
        for step in [1, 2, 6, 13, 14, 15, 100] {
            let kinds: Vec<_> =
                read(reader.clone(), &bytes, &[step]).frames.iter().map(|(frame, _)| frame.kind).collect();
            assert_eq!(kinds, [Kind::Pong, Kind::Pong, Kind::Pong, Kind::OurPong, Kind::Pong], "{step}");
        }
    }
}

/// A head that stops keeps nothing but itself, and no byte of it has gone on.
#[test]
fn half_a_head_waits() {
    let bytes = of_client(0x82, &[1; 70_000]);
    for end in 1..14 {
        let seen = read_whole(Sender::Client, &bytes[..end]);
        assert!(seen.frames.is_empty() && seen.passed.is_empty() && seen.is_between_frames, "{end}");
    }
    assert!(!read_whole(Sender::Client, &bytes[..20]).is_between_frames);
    assert!(size_of::<Reader>() <= 40, "{}", size_of::<Reader>());
}

#[test]
fn our_frames_are_read() {
    for (sender, key) in [(Sender::Client, Some(KEY)), (Sender::Server, None)] {
        let mut bytes = Vec::new();
        write_ping(&mut bytes, key);
        write_close(&mut bytes, CloseCode::MessageTooBig, key);
        let seen = read_whole(sender, &bytes);
        let kinds: Vec<_> = seen.frames.iter().map(|(frame, _)| frame.kind).collect();
        assert_eq!((&kinds[..], seen.fault), (&[Kind::Ping, Kind::Close(Some(1009))][..], None));
    }
}

proptest! {
    /// Frames, and bytes that are none, in any pieces: the same events, and what goes on is a beginning of what came.
    #[test]
    fn any_split_gives_the_same_events(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200), 0..8_u8), 0..8),
        rest in prop::collection::vec(any::<u8>(), 0..40),
        pieces in prop::collection::vec(1..60_usize, 1..20),
        is_client in any::<bool>(),
        has_deflate in any::<bool>(),
        is_asked in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for (first, payload, choice) in frames {
            // Mostly such as go on.
            let first = if choice > 0 { [0x81, 0x82, 0x89, 0x8a, 0x01, 0x80, 0x00][choice as usize - 1] } else { first };
            let payload = if choice == 4 { &PING_PAYLOAD } else { &payload[..] };
            bytes.extend(frame(first, payload, is_client.then_some(KEY)));
        }
        bytes.extend(rest);
        let sender = if is_client { Sender::Client } else { Sender::Server };
        let mut reader = Reader::new(Rules { sender, has_deflate });
        if is_asked {
            reader.expect_pong();
        }
        let whole = read(reader.clone(), &bytes, &[bytes.len().max(1)]);
        prop_assert_eq!(&read(reader.clone(), &bytes, &pieces), &whole);
        prop_assert_eq!(&read(reader, &bytes, &[1]), &whole);
        prop_assert!(bytes.starts_with(&whole.passed));
    }
}
