//! Reads the frames of one direction as they pass.
//!
//! A head is judged as a whole, before any of it goes on: who passes bytes on holds back what a reader has not judged yet
//! ([`Reader::held`]), so that what was passed on always ends within a payload or between two frames.

use super::write::{PING_PAYLOAD, is_close_code};

/// The longest head: two bytes, a length of eight, a key of four. What else is judged with a head fits in too: the code of a Close,
/// the payload of a Pong that may be for us.
const HEAD_BYTES_MAX: usize = 14;

/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;

/// Who sends the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Server,
}

/// What is agreed for one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who sends.
    pub sender: Sender,
    /// Whether RSV1 has a meaning (permessage-deflate).
    pub has_deflate: bool,
}

/// Reads frames.
#[derive(Clone, Debug)]
pub struct Reader {
    rules: Rules,
    /// What has come of a head.
    head: [u8; HEAD_BYTES_MAX],
    held: u8,
    /// A message has begun, and its last frame has not come.
    is_in_message: bool,
    /// A Pong with our payload is ours.
    expects_pong: bool,
    is_closed: bool,
    /// What is still to come of the payload.
    payload_left: u64,
    /// The frames of the message so far.
    message_bytes: u64,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The beginning of a head: the reader keeps it.
    Held,
    /// A frame begins. So many bytes of its head had come before: [`Reader::held`] has them.
    Frame(Frame, usize),
    /// Payload.
    Payload,
    /// Bytes behind a Close frame, which mean nothing.
    BehindClose,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// It is the last of its message.
    pub is_final: bool,
    /// The length of its payload.
    pub bytes: u64,
    /// The length of its message so far, this frame included, as it is sent. 0 for control frames.
    pub message_bytes: u64,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first of a message of text.
    Text,
    /// The first of a message of bytes.
    Binary,
    /// A further one of a message.
    Continuation,
    /// Nothing follows it. With its code, if it has one.
    Close(Option<u16>),
    /// To be answered.
    Ping,
    /// The answer to a Ping of the other peer, or to none.
    Pong,
    /// The answer to our own Ping: all of it is in the head.
    OurPong,
}

impl Kind {
    /// Whether it stands between the frames of a message.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5
    pub fn is_control(self) -> bool {
        !matches!(self, Kind::Text | Kind::Binary | Kind::Continuation)
    }
}

/// The rule that a frame breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// RSV2, RSV3, or RSV1 where it has no meaning.
    ReservedBits,
    /// An opcode without a meaning.
    ReservedOpcode,
    /// A client's frame is not masked.
    Unmasked,
    /// A server's frame is masked.
    Masked,
    /// A control frame has more than 125 bytes.
    ControlTooLong,
    /// A control frame is in pieces.
    ControlFragmented,
    /// A further frame of a message that has not begun.
    NothingToContinue,
    /// A message begins within another.
    MessageUnfinished,
    /// A length in more bytes than it needs.
    LengthNotMinimal,
    /// A length of more than 63 bits.
    LengthTooLarge,
    /// A Close frame with one byte.
    CloseWithoutCode,
    /// A Close frame with a code that must not be sent.
    CloseCode,
}

impl Fault {
    /// The rule, in words.
    pub fn reason(self) -> &'static str {
        match self {
            Fault::ReservedBits => "a reserved bit is set",
            Fault::ReservedOpcode => "a reserved opcode",
            Fault::Unmasked => "a frame of a client is not masked",
            Fault::Masked => "a frame of a server is masked",
            Fault::ControlTooLong => "a control frame has more than 125 bytes",
            Fault::ControlFragmented => "a control frame is fragmented",
            Fault::NothingToContinue => "a continuation without a message",
            Fault::MessageUnfinished => "a message begins within another",
            Fault::LengthNotMinimal => "a length is not encoded in the fewest bytes",
            Fault::LengthTooLarge => "a length has more than 63 bits",
            Fault::CloseWithoutCode => "a Close frame has half a code",
            Fault::CloseCode => "a Close frame has a code that must not be sent",
        }
    }
}

impl Reader {
    /// A reader of the first bytes behind the handshake.
    pub fn new(rules: Rules) -> Reader {
        Reader {
            rules,
            head: [0; HEAD_BYTES_MAX],
            held: 0,
            is_in_message: false,
            expects_pong: false,
            is_closed: false,
            payload_left: 0,
            message_bytes: 0,
        }
    }

    /// Reads some of `bytes`, of which there is at least one; says how many.
    ///
    /// # Errors
    /// A frame that breaks a rule. Nothing of it has gone on if heads are held back, and nothing more can be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Event), Fault> {
        if self.payload_left > 0 {
            let count = usize::try_from(self.payload_left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.payload_left -= count as u64;
            return Ok((count, Event::Payload));
        }
        if self.is_closed {
            return Ok((bytes.len(), Event::BehindClose));
        }
        let before = usize::from(self.held);
        let mut used = 0;
        loop {
            let wanted = self.wanted()?;
            let held = usize::from(self.held);
            if wanted == held {
                break;
            }
            let count = (wanted - held).min(bytes.len() - used);
            if count == 0 {
                return Ok((used, Event::Held));
            }
            self.head[held..held + count].copy_from_slice(&bytes[used..used + count]);
            self.held += count as u8;
            used += count;
        }
        let frame = self.begin()?;
        self.held = 0;
        Ok((used, Event::Frame(frame, before)))
    }

    /// The first bytes of the head that was read last: as many as had come before, by its event.
    pub fn held(&self, count: usize) -> &[u8] {
        &self.head[..count]
    }

    /// Whether the last byte was the end of a frame, apart from what is held.
    pub fn is_between_frames(&self) -> bool {
        self.payload_left == 0
    }

    /// Whether a Close frame has come, as a whole.
    pub fn is_closed(&self) -> bool {
        self.is_closed && self.payload_left == 0
    }

    /// A Ping of ours is on its way to this peer.
    pub fn expect_pong(&mut self) {
        self.expects_pong = true;
    }

    /// How many bytes there must be of the head, as far as it is known by now.
    fn wanted(&self) -> Result<usize, Fault> {
        if self.held < 2 {
            return Ok(2);
        }
        let [first, second] = [self.head[0], self.head[1]];
        if self.held == 2 {
            self.check(first, second)?;
        }
        let length = second & 0x7f;
        let of_length = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let of_key = if self.rules.sender == Sender::Client { 4 } else { 0 };
        let of_payload = match first & 0xf {
            0x8 => usize::from(length.min(2)),
            0xa if self.expects_pong && usize::from(length) == PING_PAYLOAD.len() => PING_PAYLOAD.len(),
            _ => 0,
        };
        Ok(2 + of_length + of_key + of_payload)
    }

    /// Judges the first two bytes of a head.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
    fn check(&self, first: u8, second: u8) -> Result<(), Fault> {
        let (is_final, opcode, length) = (first & 0x80 != 0, first & 0xf, u64::from(second & 0x7f));
        let is_first = matches!(opcode, 0x1 | 0x2);
        //= https://www.rfc-editor.org/rfc/rfc7692#section-6
        // "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and non-first fragments".
        let allowed = if self.rules.has_deflate && is_first { 0x40 } else { 0 };
        if first & 0x70 & !allowed != 0 {
            return Err(Fault::ReservedBits);
        }
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
        // "a client MUST mask all frames that it sends to the server"; "A server MUST NOT mask any frames".
        match (self.rules.sender, second & 0x80 != 0) {
            (Sender::Client, false) => return Err(Fault::Unmasked),
            (Sender::Server, true) => return Err(Fault::Masked),
            _ => {}
        }
        match opcode {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
            0x0 if !self.is_in_message => Err(Fault::NothingToContinue),
            0x1 | 0x2 if self.is_in_message => Err(Fault::MessageUnfinished),
            0x0..=0x2 => Ok(()),
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5
            // "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."
            0x8..=0xa if !is_final => Err(Fault::ControlFragmented),
            0x8..=0xa if length > CONTROL_BYTES_MAX => Err(Fault::ControlTooLong),
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
            // "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer".
            0x8 if length == 1 => Err(Fault::CloseWithoutCode),
            0x8..=0xa => Ok(()),
            _ => Err(Fault::ReservedOpcode),
        }
    }

    /// The frame of a head that is complete.
    fn begin(&mut self) -> Result<Frame, Fault> {
        let (is_final, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0xf);
        let (bytes, of_length) = self.length()?;
        let (kind, taken) = self.kind(opcode, 2 + of_length)?;
        self.payload_left = bytes - taken;
        let mut message_bytes = 0;
        if !kind.is_control() {
            message_bytes = self.message_bytes.saturating_add(bytes);
            self.is_in_message = !is_final;
            self.message_bytes = if is_final { 0 } else { message_bytes };
        }
        Ok(Frame { kind, is_final, bytes, message_bytes })
    }

    /// The length of the payload, and of what tells it beyond the second byte.
    fn length(&self) -> Result<(u64, usize), Fault> {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
        // "the minimal number of bytes MUST be used to encode the length"; "the most significant bit MUST be 0".
        let (bytes, of_length, least) = match self.head[1] & 0x7f {
            126 => (u64::from(u16::from_be_bytes([self.head[2], self.head[3]])), 2, 126),
            127 => {
                let mut eight = [0; 8];
                eight.copy_from_slice(&self.head[2..10]);
                (u64::from_be_bytes(eight), 8, 1 << 16)
            }
            length => (length.into(), 0, 0),
        };
        if bytes < least {
            return Err(Fault::LengthNotMinimal);
        }
        if bytes >> 63 != 0 {
            return Err(Fault::LengthTooLarge);
        }
        Ok((bytes, of_length))
    }

    /// What a frame is, by its head and what was held with it, and how much of its payload that was.
    fn kind(&mut self, opcode: u8, after_length: usize) -> Result<(Kind, u64), Fault> {
        let of_key = if self.rules.sender == Sender::Client { 4 } else { 0 };
        let start = after_length + of_key;
        let byte = |at: usize| {
            let key = if of_key > 0 { self.head[after_length + at % 4] } else { 0 };
            self.head[start + at] ^ key
        };
        let taken = usize::from(self.held) - start;
        let kind = match opcode {
            0x0 => Kind::Continuation,
            0x1 => Kind::Text,
            0x2 => Kind::Binary,
            0x8 if taken == 2 => match u16::from_be_bytes([byte(0), byte(1)]) {
                code if is_close_code(code) => Kind::Close(Some(code)),
                _ => return Err(Fault::CloseCode),
            },
            0x8 => Kind::Close(None),
            0x9 => Kind::Ping,
            _ if taken > 0 && (0..taken).map(byte).eq(PING_PAYLOAD) => Kind::OurPong,
            _ => Kind::Pong,
        };
        match kind {
            Kind::Close(_) => self.is_closed = true,
            Kind::OurPong => self.expects_pong = false,
            _ => {}
        }
        Ok((kind, taken as u64))
    }
}
