//! Integers and strings (RFC 7541, section 5).

use alloc::vec::Vec;

use super::HpackFault;
use super::huffman;

/// Bytes of an integer behind its prefix. 28 bits are more than any length or index that is accepted.
const INTEGER_BYTES_MAX: usize = 4;
/// The bit of a string's first byte that says Huffman.
const HUFFMAN: u8 = 0x80;

/// What is left of a block.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next byte, which is not taken.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// The integer that begins in the lowest `prefix` bits of `first` (section 5.1).
    pub(super) fn integer(&mut self, first: u8, prefix: u32) -> Result<u32, HpackFault> {
        let mask = (1 << prefix) - 1;
        let value = u32::from(first) & mask;
        if value < mask {
            return Ok(value);
        }
        self.long_integer(value)
    }

    fn long_integer(&mut self, mut value: u32) -> Result<u32, HpackFault> {
        for at in 0..INTEGER_BYTES_MAX {
            let byte = self.byte().ok_or(HpackFault("an integer is cut off"))?;
            value += u32::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(HpackFault("an integer is too long"))
    }

    /// A string (section 5.2) and what it leaves of `room`, which it is in if it was encoded.
    pub(super) fn string<'r>(&mut self, room: &'r mut [u8]) -> Result<(&'r [u8], &'r mut [u8]), HpackFault>
    where
        'a: 'r,
    {
        let first = self.byte().ok_or(HpackFault("a field is cut off"))?;
        let len = self.integer(first, 7)? as usize;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(HpackFault("a string is cut off"))?;
        self.rest = rest;
        if first & HUFFMAN == 0 {
            return Ok((bytes, room));
        }
        let len = huffman::decode(bytes, room).ok_or(HpackFault("a string breaks the Huffman code"))?;
        let (text, room) = room.split_at_mut(len);
        Ok((text, room))
    }
}

/// How an integer begins: the highest bits of its first byte, and how many bits are left for the number.
#[derive(Clone, Copy)]
pub(super) struct Prefix(pub u8, pub u32);

const PLAIN_LEN: Prefix = Prefix(0, 7);
const HUFFMAN_LEN: Prefix = Prefix(HUFFMAN, 7);

/// Writes an integer (section 5.1).
#[inline]
pub(super) fn write_integer(out: &mut Vec<u8>, Prefix(first, bits): Prefix, value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        out.push(first | value as u8);
    } else {
        out.push(first | mask as u8);
        write_long_integer(out, value - mask);
    }
}

fn write_long_integer(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a string as it is.
#[inline]
pub(super) fn write_plain(out: &mut Vec<u8>, text: &[u8]) {
    write_integer(out, PLAIN_LEN, text.len());
    out.extend_from_slice(text);
}

/// Writes the place of a name and a value as it is: the usual lengths at once.
#[inline]
pub(super) fn write_known_literal(out: &mut Vec<u8>, literal: Prefix, place: u8, value: &[u8]) {
    let Prefix(first, bits) = literal;
    let mask = (1_u8 << bits) - 1;
    if value.len() < 0x7f && place >= mask && place - mask < 0x80 {
        out.extend_from_slice(&[first | mask, place - mask, value.len() as u8]);
        out.extend_from_slice(value);
    } else {
        write_integer(out, literal, place.into());
        write_plain(out, value);
    }
}

/// Writes a name in lower case.
pub(super) fn write_plain_name(out: &mut Vec<u8>, name: &[u8]) {
    write_integer(out, PLAIN_LEN, name.len());
    let begin = out.len();
    out.extend_from_slice(name);
    out[begin..].make_ascii_lowercase();
}

/// Writes a string in whichever form is shorter. It costs more, so it is for what is written once.
pub(super) fn write_short(out: &mut Vec<u8>, text: &[u8]) {
    let encoded = huffman::encoded_len(text);
    if encoded < text.len() {
        write_integer(out, HUFFMAN_LEN, encoded);
        huffman::encode(text, out);
    } else {
        write_plain(out, text);
    }
}
