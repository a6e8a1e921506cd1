//! tungstenite, an implementation by others, judges the same frames.

use alloc::vec::Vec;
use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::reader::{Event, Fault, Kind, Reader, Rules, Sender};

extern crate std;

/// Bytes to read, and nowhere to write to.
struct Wire(Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How reading ends.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All frames are in order, so many messages and control frames.
    Fine(usize),
    Closed,
    Broken,
}

fn ours(bytes: &[u8], sender: Sender) -> (Verdict, Option<Fault>) {
    let mut reader = Reader::new(Rules { sender, has_deflate: false });
    let (mut rest, mut messages) = (bytes, 0);
    while !rest.is_empty() {
        match reader.read(rest) {
            Err(fault) => return (Verdict::Broken, Some(fault)),
            Ok((used, event)) => {
                rest = &rest[used..];
                if let Event::Frame(frame, _) = event {
                    messages += usize::from(frame.is_final || frame.kind.is_control());
                    if matches!(frame.kind, Kind::Close(_)) {
                        return (Verdict::Closed, None);
                    }
                }
            }
        }
    }
    (Verdict::Fine(messages), None)
}

fn theirs(bytes: &[u8], sender: Sender) -> Verdict {
    let role = if sender == Sender::Client { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default();
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(bytes.to_vec())), role, Some(config));
    let mut messages = 0;
    loop {
        match socket.read() {
            Ok(message) if message.is_close() => return Verdict::Closed,
            Ok(_) => messages += 1,
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return Verdict::Fine(messages);
            }
            Err(Error::Protocol(_)) => return Verdict::Broken,
            Err(error) => panic!("{error}"),
        }
    }
}

#[derive(Clone, Debug)]
struct Made {
    first: u8,
    bytes: u8,
    is_masked: bool,
    wide: u8,
}

fn made() -> impl Strategy<Value = Made> {
    let first = prop_oneof![
        6 => prop::sample::select(&[0x81_u8, 0x82, 0x89, 0x8a, 0x01, 0x02, 0x00, 0x80][..]),
        1 => any::<u8>(),
    ];
    let wide = prop_oneof![8 => Just(0_u8), 1 => Just(2), 1 => Just(8)];
    (first, 0..=140_u8, prop::bool::weighted(0.95), wide).prop_map(|(first, bytes, is_masked, wide)| Made {
        first,
        bytes,
        is_masked,
        wide,
    })
}

impl Made {
    fn is_wider_than_needed(&self) -> bool {
        self.wide == 8 || self.wide == 2 && self.bytes < 126
    }

    /// The frame on the wire: of text, and of a valid code where a Close has one.
    fn write(&self, out: &mut Vec<u8>, sender: Sender) {
        let is_masked = self.is_masked == (sender == Sender::Client);
        let mask = if is_masked { 0x80 } else { 0 };
        let length = usize::from(self.bytes);
        out.push(self.first);
        match self.wide {
            8 => {
                out.push(mask | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
            wide if wide == 2 || length > 125 => {
                out.push(mask | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => out.push(mask | length as u8),
        }
        let key = if is_masked { [1, 2, 3, 4] } else { [0; 4] };
        if is_masked {
            out.extend_from_slice(&key);
        }
        let is_close = self.first & 0xf == 8;
        let byte = |at: usize| if is_close && at < 2 { [3, 0xe8][at] } else { b'a' };
        out.extend((0..length).map(|at| byte(at) ^ key[at % 4]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn tungstenite_agrees(frames in prop::collection::vec(made(), 1..6), is_client in any::<bool>()) {
        let sender = if is_client { Sender::Client } else { Sender::Server };
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes, sender));
        let (ours, fault) = ours(&bytes, sender);
        // It takes lengths in more bytes than they need.
        if frames.iter().any(Made::is_wider_than_needed) {
            prop_assert!(!matches!(ours, Verdict::Fine(_)), "{:?}", ours);
        } else {
            prop_assert_eq!(ours, theirs(&bytes, sender), "{:?}", fault);
        }
    }
}
