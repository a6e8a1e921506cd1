//! The Huffman code of strings (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: the lengths say everything. Decoding looks up [`WINDOW`] bits at once, which are one or two of the
//! usual symbols; longer codes, which text does not have, are found by their length.

use alloc::vec::Vec;

/// Bits of a lookup: as many as two symbols of usual text have.
const WINDOW: u32 = 11;
/// The symbol that ends the code and must not be in a string.
const EOS: usize = 256;
const LONGEST: usize = 30;

#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// One or two symbols at the beginning of a window.
#[derive(Clone, Copy)]
struct Step {
    symbols: [u8; 2],
    /// Bits of the first symbol; 0 if its code is longer than the window.
    first: u8,
    /// Bits of both, or of the first if the second is not in the window.
    both: u8,
}

impl Step {
    const fn symbols(self) -> usize {
        1 + (self.first != self.both) as usize
    }
}

/// Codes of one length.
#[derive(Clone, Copy)]
struct Length {
    /// The first code that is longer, in the highest bits.
    end: u64,
    /// The first code, in the highest bits.
    start: u64,
    /// The place of its symbol in `BY_CODE`.
    place: u16,
}

static CODES: [u32; EOS + 1] = CODE.codes;
static STEPS: [Step; 1 << WINDOW] = steps();
static BY_LENGTH: [Length; LONGEST + 1] = CODE.by_length;
static BY_CODE: [u16; EOS + 1] = CODE.by_code;

const CODE: Code = code();

struct Code {
    codes: [u32; EOS + 1],
    by_length: [Length; LONGEST + 1],
    by_code: [u16; EOS + 1],
}

/// Numbers the codes of a length in the order of their symbols, and the lengths one after the other.
const fn code() -> Code {
    let mut all = Code {
        codes: [0; EOS + 1],
        by_length: [Length { end: 0, start: 0, place: 0 }; LONGEST + 1],
        by_code: [0; EOS + 1],
    };
    let (mut next, mut place, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        all.by_length[length].start = (next as u64) << (64 - length);
        all.by_length[length].place = place as u16;
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] as usize == length {
                all.codes[symbol] = next;
                all.by_code[place] = symbol as u16;
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        // The longest codes end where 64 bits do.
        all.by_length[length].end = if length == LONGEST { u64::MAX } else { (next as u64) << (64 - length) };
        length += 1;
    }
    assert!(next == 1 << LONGEST && place == EOS + 1, "the lengths make no complete code");
    all
}

const fn steps() -> [Step; 1 << WINDOW] {
    let mut steps = [Step { symbols: [0; 2], first: 0, both: 0 }; 1 << WINDOW];
    let mut symbol = 0;
    while symbol < EOS {
        let length = LENGTHS[symbol];
        if length as u32 <= WINDOW {
            let spare = WINDOW - length as u32;
            let mut rest = 0;
            while rest < 1 << spare {
                let window = (CODE.codes[symbol] as usize) << spare | rest;
                steps[window] = Step { symbols: [symbol as u8, 0], first: length, both: length };
                rest += 1;
            }
        }
        symbol += 1;
    }
    let mut window = 0;
    while window < steps.len() {
        let step = steps[window];
        let next = steps[(window << step.first) & (steps.len() - 1)];
        if step.first > 0 && next.first > 0 && (step.first + next.first) as u32 <= WINDOW {
            steps[window].symbols[1] = next.symbols[0];
            steps[window].both = step.first + next.first;
        }
        window += 1;
    }
    steps
}

/// Room in which `decode` puts a string of so many bytes: a symbol has at least five bits, and symbols are written in pairs.
pub(super) const fn decoded_max(len: usize) -> usize {
    len / 5 * 8 + 10
}

/// Decodes a string into `out` and returns its length, or `None` if it breaks section 5.2.
pub(super) fn decode(input: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut bits = Bits { acc: 0, count: 0, rest: input };
    let mut written = 0;
    while bits.fill() {
        // As many windows as 56 bits have.
        for _ in 0..56 / WINDOW {
            let step = STEPS[(bits.acc >> (64 - WINDOW)) as usize];
            if step.first == 0 {
                break;
            }
            out.get_mut(written..written + 2)?.copy_from_slice(&step.symbols);
            written += step.symbols();
            bits.skip(step.both);
        }
        if STEPS[(bits.acc >> (64 - WINDOW)) as usize].first == 0 {
            // A code that is too long may also begin in what is left of the bits.
            if bits.count < LONGEST as u32 && !bits.fill() {
                break;
            }
            let (symbol, length) = long_symbol(bits.acc)?;
            *out.get_mut(written)? = symbol;
            written += 1;
            bits.skip(length);
        }
    }
    decode_end(bits, out, written)
}

/// The last bytes, whose last bits may be padding.
fn decode_end(mut bits: Bits<'_>, out: &mut [u8], mut written: usize) -> Option<usize> {
    loop {
        bits.fill_end();
        // What follows the end is padding as well, so that no code is complete there.
        let padded = bits.acc | u64::MAX.checked_shr(bits.count).unwrap_or(0);
        let step = STEPS[(padded >> (64 - WINDOW)) as usize];
        if step.first > 0 && u32::from(step.both) <= bits.count {
            out.get_mut(written..written + 2)?.copy_from_slice(&step.symbols);
            written += step.symbols();
            bits.skip(step.both);
            continue;
        }
        let (symbol, length) = match step.first {
            0 if padded == u64::MAX && bits.count < 8 => return Some(written),
            0 => long_symbol(padded)?,
            first => (step.symbols[0], first),
        };
        if u32::from(length) > bits.count {
            return None;
        }
        *out.get_mut(written)? = symbol;
        written += 1;
        bits.skip(length);
    }
}

/// The symbol whose code begins here and is longer than a window, and its length. `None` for EOS.
#[cold]
fn long_symbol(acc: u64) -> Option<(u8, u8)> {
    let length = (WINDOW as usize + 1..=LONGEST).find(|&length| acc < BY_LENGTH[length].end)?;
    let Length { start, place, .. } = BY_LENGTH[length];
    let symbol = BY_CODE.get(usize::from(place) + ((acc - start) >> (64 - length)) as usize)?;
    Some((u8::try_from(*symbol).ok()?, length as u8))
}

/// Bits of a string, the next one highest. Bits behind the first `count` are zero or those that follow in `rest`.
struct Bits<'a> {
    acc: u64,
    count: u32,
    rest: &'a [u8],
}

impl Bits<'_> {
    /// Makes it 56 bits or more, if there are still eight bytes.
    fn fill(&mut self) -> bool {
        let Some(word) = self.rest.first_chunk::<8>() else { return false };
        self.acc |= u64::from_be_bytes(*word) >> self.count;
        self.rest = &self.rest[((63 - self.count) / 8) as usize..];
        self.count |= 56;
        true
    }

    /// Makes it as many as there are bytes for.
    fn fill_end(&mut self) {
        while self.count <= 56
            && let Some((byte, rest)) = self.rest.split_first()
        {
            self.acc |= u64::from(*byte) << (56 - self.count);
            self.count += 8;
            self.rest = rest;
        }
    }

    fn skip(&mut self, count: u8) {
        self.acc <<= count;
        self.count -= u32::from(count);
    }
}

/// Bytes of a string when it is encoded.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

/// Encodes a string at the end of `out`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut acc, mut count) = (0_u64, 0);
    for byte in text {
        let symbol = usize::from(*byte);
        acc = acc << LENGTHS[symbol] | u64::from(CODES[symbol]);
        count += u32::from(LENGTHS[symbol]);
        if count >= 32 {
            count -= 32;
            out.extend_from_slice(&((acc >> count) as u32).to_be_bytes());
        }
    }
    // Padding is the beginning of EOS: ones.
    let padded = (acc << (32 - count) | u64::from(u32::MAX >> count)) as u32;
    out.extend_from_slice(&padded.to_be_bytes()[..count.div_ceil(8) as usize]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn there_and_back(text: &[u8]) {
        let mut encoded = Vec::new();
        encode(text, &mut encoded);
        assert_eq!(encoded.len(), encoded_len(text));
        let mut room = vec![0; decoded_max(encoded.len())];
        let len = decode(&encoded, &mut room).expect("what was encoded");
        assert_eq!(&room[..len], text);
    }

    /// Beside any other symbol, in the bytes that are read in words and in the last ones.
    #[test]
    fn every_symbol_comes_back() {
        for first in 0..=255 {
            for second in 0..=255 {
                there_and_back(&[first, second]);
                there_and_back(&[first, b'0', second, b'X', b'0', first, second, b'e', b'e', b'0']);
            }
        }
    }

    /// As many as words of eight bytes have, and a few more, so that the end is anywhere.
    #[test]
    fn every_length_comes_back() {
        for symbol in [b'0', b'3', b'X', b'&', b'!', b'#', b'\\', 0x80, 0xff, 0, b'\n'] {
            for len in 0..70 {
                there_and_back(&vec![symbol; len]);
            }
        }
    }

    /// Lengths that are complete may still be those of other symbols.
    #[test]
    fn a_foreign_decoder_has_the_same_code() {
        for symbol in 0..=255 {
            let mut string = Vec::new();
            encode(&[symbol, b'0', symbol], &mut string);
            let mut block = vec![0, 1, b'a', 0x80 | string.len() as u8];
            block.extend(string);
            let fields = loona_hpack::Decoder::new().decode(&block).expect("what was encoded");
            assert_eq!(fields, [(vec![b'a'], vec![symbol, b'0', symbol])]);
        }
    }

    #[test]
    fn room_that_is_too_small_is_no_panic() {
        for len in 0..40 {
            let mut encoded = Vec::new();
            encode(&[b'0'; 40], &mut encoded);
            assert_eq!(decode(&encoded, &mut vec![0; len]), None);
        }
    }
}
