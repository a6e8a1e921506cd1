//! Frames of WebSocket (RFC 6455, section 5) as both ends of a measurement need them. Bytes in, pieces out; no sockets.

use crate::http::Malformed;

/// The longest head: two bytes, a length of eight, a mask.
const HEAD_BYTES_MAX: usize = 14;
/// Control frames have no more than this.
pub(crate) const CONTROL_BYTES_MAX: u64 = 125;

/// What a frame is.
pub(crate) mod opcode {
    pub(crate) const CONTINUATION: u8 = 0;
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) opcode: u8,
    /// The message ends with it.
    pub(crate) is_final: bool,
    /// Frames of clients have one.
    pub(crate) mask: Option<[u8; 4]>,
    /// Of its payload.
    pub(crate) length: u64,
}

impl FrameHead {
    /// How many bytes a head that begins with these two has.
    fn bytes_of(start: [u8; 2]) -> usize {
        let length = match start[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if start[1] & 0x80 == 0 { 0 } else { 4 }
    }

    /// Reads a whole head.
    fn read(head: &[u8]) -> Result<FrameHead, Malformed> {
        let (first, second) = (head[0], head[1]);
        let is_masked = second & 0x80 != 0;
        let length_end = head.len() - if is_masked { 4 } else { 0 };
        let length = match second & 0x7f {
            small @ 0..=125 => u64::from(small),
            _ => head[2..length_end].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
        };
        let mask = is_masked.then(|| head[length_end..].try_into().expect("four bytes are left"));
        let frame = FrameHead { opcode: first & 0x0f, is_final: first & 0x80 != 0, mask, length };
        let is_small = match frame.opcode {
            opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => true,
            opcode::CLOSE | opcode::PING | opcode::PONG => frame.is_final && length <= CONTROL_BYTES_MAX,
            _ => return Err(Malformed),
        };
        // No extension is negotiated that would use one of the three bits behind the first.
        if first & 0x70 == 0 && is_small { Ok(frame) } else { Err(Malformed) }
    }

    /// Appends the head.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.push(self.opcode | if self.is_final { 0x80 } else { 0 });
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.length {
            0..=125 => out.push(self.length as u8 | masked),
            126..=0xffff => {
                out.push(126 | masked);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                out.push(127 | masked);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| &mask[..]));
    }
}

/// Appends a frame as a client sends it: with a mask, always the same, since these bytes are sent again and again.
pub(crate) fn write_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    FrameHead { opcode, is_final: true, mask: Some(mask), length: payload.len() as u64 }.write(out);
    append_unmasked(out, payload, mask, 0);
}

/// Appends a part of a payload, which begins so many bytes after the payload's beginning, without its mask (or with one: it is the
/// same).
pub(crate) fn append_unmasked(out: &mut Vec<u8>, data: &[u8], mut mask: [u8; 4], offset: u64) {
    mask.rotate_left((offset % 4) as usize);
    let start = out.len();
    out.extend_from_slice(data);
    let mask_word = u32::from_ne_bytes(mask);
    let (words, rest) = out[start..].as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ mask_word).to_ne_bytes();
    }
    rest.iter_mut().zip(mask).for_each(|(byte, key)| *byte ^= key);
}

/// A part of a frame's payload; empty only if the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) head: FrameHead,
    /// Where it begins in the payload.
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
}

impl Piece<'_> {
    /// Whether the frame is complete with it.
    pub(crate) fn is_last(&self) -> bool {
        self.offset + self.data.len() as u64 == self.head.length
    }
}

/// Reads the frames of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct FrameReader {
    /// The beginning of a head.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is read, and how much of that has come.
    frame: Option<(FrameHead, u64)>,
}

impl FrameReader {
    /// Takes bytes up to the end of a piece; returns how many. Without a piece it has taken all.
    pub(crate) fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Piece<'a>>), Malformed> {
        let mut used = 0;
        let (head, offset) = match self.frame {
            Some(frame) => frame,
            None => {
                let Some(head) = self.take_head(bytes, &mut used)? else { return Ok((used, None)) };
                (head, 0)
            }
        };
        let rest = &bytes[used..];
        if rest.is_empty() && head.length > offset {
            self.frame = Some((head, offset));
            return Ok((used, None));
        }
        let count = usize::try_from(head.length - offset).unwrap_or(usize::MAX).min(rest.len());
        let piece = Piece { head, offset, data: &rest[..count] };
        self.frame = (!piece.is_last()).then_some((head, offset + count as u64));
        Ok((used + count, Some(piece)))
    }

    /// The head, once all of it has come.
    fn take_head(&mut self, bytes: &[u8], used: &mut usize) -> Result<Option<FrameHead>, Malformed> {
        loop {
            let wanted = match self.head_bytes {
                0 | 1 => 2,
                _ => FrameHead::bytes_of([self.head[0], self.head[1]]),
            };
            if self.head_bytes == wanted {
                self.head_bytes = 0;
                return FrameHead::read(&self.head[..wanted]).map(Some);
            }
            let count = (wanted - self.head_bytes).min(bytes.len() - *used);
            if count == 0 {
                return Ok(None);
            }
            self.head[self.head_bytes..][..count].copy_from_slice(&bytes[*used..][..count]);
            self.head_bytes += count;
            *used += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames in these bytes, however they are split: opcode, end, payload without its mask.
    fn frames(parts: &[&[u8]]) -> Result<Vec<(u8, bool, Vec<u8>)>, Malformed> {
        let mut reader = FrameReader::default();
        let mut frames: Vec<(u8, bool, Vec<u8>)> = Vec::new();
        for part in parts {
            let mut rest = *part;
            loop {
                let (used, piece) = reader.next(rest)?;
                rest = &rest[used..];
                let Some(piece) = piece else { break };
                if piece.offset == 0 {
                    frames.push((piece.head.opcode, piece.head.is_final, Vec::new()));
                }
                let (_, _, payload) = frames.last_mut().expect("pushed");
                append_unmasked(payload, piece.data, piece.head.mask.unwrap_or_default(), piece.offset);
                assert_eq!(piece.is_last(), payload.len() as u64 == piece.head.length);
            }
            assert!(rest.is_empty());
        }
        Ok(frames)
    }

    #[test]
    fn any_split_gives_the_same_frames() {
        let mut wire = Vec::new();
        let long: Vec<u8> = (0..300).map(|at| at as u8).collect();
        write_masked(&mut wire, opcode::TEXT, b"");
        write_masked(&mut wire, opcode::BINARY, b"0123456");
        write_masked(&mut wire, opcode::PING, b"p");
        let plain = FrameHead { opcode: opcode::CONTINUATION, is_final: false, mask: None, length: 300 };
        plain.write(&mut wire);
        wire.extend_from_slice(&long);
        let expected = vec![
            (opcode::TEXT, true, vec![]),
            (opcode::BINARY, true, b"0123456".to_vec()),
            (opcode::PING, true, b"p".to_vec()),
            (opcode::CONTINUATION, false, long),
        ];
        for at in 0..=wire.len() {
            assert_eq!(frames(&[&wire[..at], &wire[at..]]), Ok(expected.clone()), "{at}");
        }
        assert_eq!(frames(&wire.chunks(1).collect::<Vec<_>>()), Ok(expected));
    }

    #[test]
    fn lengths_have_three_forms() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let mut wire = Vec::new();
            FrameHead { opcode: opcode::BINARY, is_final: true, mask: None, length }.write(&mut wire);
            assert_eq!(wire.len(), FrameHead::bytes_of([wire[0], wire[1]]));
            assert_eq!(FrameHead::read(&wire).map(|head| head.length), Ok(length));
        }
    }

    #[test]
    fn frames_of_extensions_and_long_control_frames_are_refused() {
        for wire in [&[0xc2_u8, 0][..], &[0x83, 0], &[0x09, 0], &[0x89, 126, 0, 126], &[0x8b, 0]] {
            assert_eq!(frames(&[wire]), Err(Malformed), "{wire:?}");
        }
    }
}
