//! Messages on a connection or stream that stays open: each is sent, and its echo read before the next. Bytes in, echoes out; no
//! sockets.

use clap::Args;
use serde::Serialize;

use crate::fault::Fault;
use crate::units::parse_count;
use crate::websocket::{FrameReader, Piece, opcode, write_masked};

/// Which framing messages have, by which each is found in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Frames of RFC 6455.
    WebSocket,
    /// A byte and a length before each.
    Grpc,
}

/// Which messages are sent in place of requests.
#[derive(Clone, Debug, Args)]
pub struct MessageArgs {
    /// Messages on WebSockets, each sent when the last has come back (any path of the origin); with --h2 by extended CONNECT
    /// (RFC 8441)
    #[arg(long, conflicts_with_all = ["method", "body", "grpc"])]
    pub ws: bool,
    /// Messages on bidirectional calls of gRPC, each sent when the last has come back (any path of the origin)
    #[arg(long, requires = "h2", conflicts_with_all = ["method", "body"])]
    pub grpc: bool,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = parse_count)]
    pub message: u64,
}

impl Default for MessageArgs {
    fn default() -> MessageArgs {
        MessageArgs { ws: false, grpc: false, message: 100 }
    }
}

impl MessageArgs {
    /// How they are framed, if there are any.
    pub(crate) fn framing(&self) -> Option<Framing> {
        self.ws.then_some(Framing::WebSocket).or(self.grpc.then_some(Framing::Grpc))
    }
}

impl Framing {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Framing::WebSocket => "WebSocket",
            Framing::Grpc => "gRPC",
        }
    }
}

/// A message that is sent again and again.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) framing: Framing,
    plain: Vec<u8>,
}

impl Message {
    /// One of so many bytes.
    pub(crate) fn new(framing: Framing, bytes: u64) -> Message {
        Message { framing, plain: (0..bytes).map(|at| b'a' + (at % 26) as u8).collect() }
    }

    /// Appends it as it is sent.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.framing {
            Framing::WebSocket => write_masked(out, opcode::BINARY, &self.plain),
            Framing::Grpc => {
                // Not compressed.
                out.push(0);
                out.extend_from_slice(&(self.plain.len() as u32).to_be_bytes());
                out.extend_from_slice(&self.plain);
            }
        }
    }
}

/// Reads the echoes on one connection or stream.
#[derive(Clone, Debug)]
pub(crate) struct EchoReader {
    frames: FrameReader,
    /// Bytes of the echo that have come. Of gRPC: those before the message too.
    echoed: usize,
    /// The payload of a ping.
    ping: Vec<u8>,
    /// Pongs to be sent.
    pongs: Vec<u8>,
}

/// Length and compression of a message of gRPC.
const GRPC_PREFIX_BYTES: usize = 5;

impl EchoReader {
    pub(crate) fn new() -> EchoReader {
        EchoReader { frames: FrameReader::default(), echoed: 0, ping: Vec::new(), pongs: Vec::new() }
    }

    /// What is to be sent in between.
    pub(crate) fn take_pongs(&mut self) -> Option<Vec<u8>> {
        (!self.pongs.is_empty()).then(|| std::mem::take(&mut self.pongs))
    }

    /// Takes received bytes; true when the echo of the message is complete with them.
    pub(crate) fn read(&mut self, bytes: &[u8], message: &Message) -> Result<bool, Fault> {
        match message.framing {
            Framing::WebSocket => self.read_frames(bytes, message),
            Framing::Grpc => self.read_grpc(bytes, message),
        }
    }

    fn read_frames(&mut self, mut bytes: &[u8], message: &Message) -> Result<bool, Fault> {
        let mut is_complete = false;
        loop {
            let (used, piece) = self.frames.next(bytes).map_err(|_| Fault::Malformed)?;
            bytes = &bytes[used..];
            let Some(piece) = piece else { return Ok(is_complete) };
            match piece.head.opcode {
                // Frames of servers have no mask.
                _ if piece.head.mask.is_some() => return Err(Fault::Malformed),
                opcode::CLOSE => return Err(Fault::Closed),
                opcode::PING => self.take_ping(piece),
                opcode::PONG => {}
                // Nothing was sent that this could be the echo of.
                _ if is_complete => return Err(Fault::Malformed),
                _ => is_complete = self.take_data(piece, message)?,
            }
        }
    }

    fn take_data(&mut self, piece: Piece<'_>, message: &Message) -> Result<bool, Fault> {
        if !message.plain[self.echoed..].starts_with(piece.data) {
            return Err(Fault::Malformed);
        }
        self.echoed += piece.data.len();
        if !(piece.is_last() && piece.head.is_final) {
            return Ok(false);
        }
        let echoed = std::mem::take(&mut self.echoed);
        if echoed == message.plain.len() { Ok(true) } else { Err(Fault::Malformed) }
    }

    fn take_ping(&mut self, piece: Piece<'_>) {
        self.ping.extend_from_slice(piece.data);
        if piece.is_last() {
            write_masked(&mut self.pongs, opcode::PONG, &self.ping);
            self.ping.clear();
        }
    }

    fn read_grpc(&mut self, mut bytes: &[u8], message: &Message) -> Result<bool, Fault> {
        let length = message.plain.len();
        if self.echoed < GRPC_PREFIX_BYTES {
            let [a, b, c, d] = (length as u32).to_be_bytes();
            let prefix = [0, a, b, c, d];
            let count = bytes.len().min(GRPC_PREFIX_BYTES - self.echoed);
            if bytes[..count] != prefix[self.echoed..][..count] {
                return Err(Fault::Malformed);
            }
            self.echoed += count;
            bytes = &bytes[count..];
        }
        if self.echoed < GRPC_PREFIX_BYTES {
            return Ok(false);
        }
        if !message.plain[self.echoed - GRPC_PREFIX_BYTES..].starts_with(bytes) {
            return Err(Fault::Malformed);
        }
        self.echoed += bytes.len();
        let is_complete = self.echoed == GRPC_PREFIX_BYTES + length;
        if is_complete {
            self.echoed = 0;
        }
        Ok(is_complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::FrameHead;

    /// How often an echo was complete, with these bytes in pieces of this size.
    fn echoes(wire: &[u8], message: &Message, size: usize) -> Result<usize, Fault> {
        let mut reader = EchoReader::new();
        let mut complete = 0;
        for piece in wire.chunks(size) {
            complete += usize::from(reader.read(piece, message)?);
        }
        assert_eq!(reader.echoed, 0, "nothing was left over");
        Ok(complete)
    }

    fn frame(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        FrameHead { opcode, is_final, mask: None, length: payload.len() as u64 }.write(&mut wire);
        wire.extend_from_slice(payload);
        wire
    }

    #[test]
    fn echoes_of_websocket_are_read_whatever_the_split() {
        let message = Message::new(Framing::WebSocket, 5);
        let whole = frame(opcode::BINARY, true, b"abcde");
        let parts = [
            frame(opcode::BINARY, false, b"ab"),
            frame(opcode::PING, true, b"?"),
            frame(opcode::CONTINUATION, true, b"cde"),
        ];
        for wire in [whole, parts.concat()] {
            for size in 1..=wire.len() {
                assert_eq!(echoes(&wire, &message, size), Ok(1), "{size}");
            }
        }
        let mut reader = EchoReader::new();
        assert_eq!(reader.read(&frame(opcode::PING, true, b"?"), &message), Ok(false));
        let pong = reader.take_pongs().expect("a ping came");
        assert_eq!((pong[0], pong[1], reader.take_pongs()), (0x8a, 0x81, None));
    }

    #[test]
    fn what_is_no_echo_is_malformed() {
        let message = Message::new(Framing::WebSocket, 5);
        for payload in [&b"abcdf"[..], b"abcdef", b"abcd", b""] {
            let wire = frame(opcode::BINARY, true, payload);
            assert_eq!(EchoReader::new().read(&wire, &message), Err(Fault::Malformed), "{payload:?}");
        }
        let twice = frame(opcode::BINARY, true, b"abcde").repeat(2);
        assert_eq!(EchoReader::new().read(&twice, &message), Err(Fault::Malformed));
        let mut masked = Vec::new();
        message.write(&mut masked);
        assert_eq!(EchoReader::new().read(&masked, &message), Err(Fault::Malformed));
        let close = frame(opcode::CLOSE, true, b"");
        assert_eq!(EchoReader::new().read(&close, &message), Err(Fault::Closed));
    }

    #[test]
    fn echoes_of_grpc_are_read_whatever_the_split() {
        let message = Message::new(Framing::Grpc, 7);
        let mut wire = Vec::new();
        message.write(&mut wire);
        assert_eq!(wire, b"\0\0\0\0\x07abcdefg");
        for size in 1..=wire.len() {
            assert_eq!(echoes(&wire, &message, size), Ok(1), "{size}");
        }
        for at in 0..wire.len() {
            let mut other = wire.clone();
            other[at] ^= 1;
            assert_eq!(EchoReader::new().read(&other, &message), Err(Fault::Malformed), "{at}");
        }
        let empty = Message::new(Framing::Grpc, 0);
        assert_eq!(echoes(b"\0\0\0\0\0", &empty, 2), Ok(1));
    }
}
