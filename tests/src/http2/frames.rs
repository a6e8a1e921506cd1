//! Frames of RFC 9113 as bytes, right or wrong.

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 9;

/// The types of frames.
#[allow(missing_docs, reason = "by their names in the RFC")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const PRIORITY_UPDATE: u8 = 16;
}

/// Their flags.
#[allow(missing_docs, reason = "by their names in the RFC")]
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes.
#[allow(missing_docs, reason = "by their names in the RFC")]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Identifiers of settings.
#[allow(missing_docs, reason = "by their names in the RFC")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// A frame that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream, 0 for the connection.
    pub stream: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame at the start of `bytes` and its whole length, if all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let payload = rest.get(..length)?.to_vec();
        let stream = number(&header[5..]) & 0x7fff_ffff;
        Some((Self { kind: header[3], flags: header[4], stream, payload }, HEADER_BYTES + length))
    }

    /// Whether it has this flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The settings that it carries.
    pub fn settings(&self) -> Vec<(u16, u32)> {
        let pairs = self.payload.chunks_exact(6);
        pairs.map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), number(&pair[2..]))).collect()
    }

    /// The content of DATA or HEADERS without padding and priority.
    pub fn content(&self) -> &[u8] {
        let mut content = &self.payload[..];
        if self.has(flag::PADDED) {
            content = &content[1..content.len() - usize::from(content[0])];
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            content = &content[5..];
        }
        content
    }

    /// The number at this place of the payload: an error code, an increment, the last stream.
    pub fn number_at(&self, at: usize) -> u32 {
        number(&self.payload[at..])
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = u32::try_from(payload.len()).expect("a length of 24 bits").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// SETTINGS with these.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, payload)
}

/// The acknowledgement of SETTINGS.
pub fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, [])
}

/// PING.
pub fn ping(data: [u8; 8]) -> Vec<u8> {
    frame(kind::PING, 0, 0, data)
}

/// HEADERS with a whole block.
pub fn headers(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

/// A block as HEADERS and as many CONTINUATION as frames of 16,384 bytes make necessary.
pub fn headers_in_pieces(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = block.chunks(16_384).collect();
    let mut bytes = Vec::new();
    for (nth, piece) in pieces.iter().enumerate() {
        let end = if nth + 1 == pieces.len() { flag::END_HEADERS } else { 0 };
        let (kind, flags) = if nth == 0 { (kind::HEADERS, flags | end) } else { (kind::CONTINUATION, end) };
        bytes.extend(frame(kind, flags, stream, piece));
    }
    bytes
}

/// DATA; `flags` may end the stream.
pub fn data(stream: u32, flags: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::DATA, flags, stream, content)
}

/// RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

/// WINDOW_UPDATE.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

/// GOAWAY.
pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// PRIORITY_UPDATE of a stream (RFC 9218, section 7.1).
pub fn priority_update(stream: u32, priority: &str) -> Vec<u8> {
    frame(kind::PRIORITY_UPDATE, 0, 0, [&stream.to_be_bytes(), priority.as_bytes()].concat())
}

/// A field block: each field a literal that enters no table, without Huffman.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        literal(&mut bytes, name.as_bytes());
        literal(&mut bytes, value.as_bytes());
    }
    bytes
}

/// One field that enters the table of the decoder, from where index 62 has it until the next one does.
pub fn indexed_literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x40];
    literal(&mut bytes, name.as_bytes());
    literal(&mut bytes, value.as_bytes());
    bytes
}

/// A string of a field block.
fn literal(bytes: &mut Vec<u8>, text: &[u8]) {
    // An integer with a prefix of seven bits (RFC 7541, section 5.1).
    match u8::try_from(text.len()) {
        Ok(length @ ..=126) => bytes.push(length),
        _ => {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text);
}

/// The fields of a request for `test` in clear text, these after the pseudo-header fields.
pub fn request<'a>(method: &'a str, path: &'a str, fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    [&pseudo, fields].concat()
}

/// The block of a GET for `path`.
pub fn get(path: &str) -> Vec<u8> {
    block(&request("GET", path, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_part_of_it_does_not() {
        let bytes = frame(kind::DATA, flag::PADDED, 7, [2, b'h', b'i', 0, 0]);
        let (parsed, length) = Frame::parse(&bytes).expect("a whole frame");
        assert_eq!((parsed.stream, parsed.content(), length), (7, &b"hi"[..], bytes.len()));
        assert!(Frame::parse(&bytes[..bytes.len() - 1]).is_none());
    }

    #[test]
    fn long_literals_are_read_by_another_decoder() {
        let long = "x".repeat(5_000);
        let block =
            block(&[(":path", "/"), ("x-long", &long), ("x-126", &long[..126]), ("x-127", &long[..127])]);
        let fields = loona_hpack::Decoder::new().decode(&block).expect("a block");
        let lengths: Vec<_> = fields.iter().map(|(_, value)| value.len()).collect();
        assert_eq!(lengths, [1, 5_000, 126, 127]);
    }
}
