//! Looks for bytes of a kind sixteen at a time.
//!
//! Owns the few comparisons that scanning a head consists of, and [`find`], which applies one of them to a slice of any length.
//! What a byte means is the caller's business. `wide` makes SSE2 or NEON instructions of it, without `unsafe` here.

use wide::u8x16;

/// Bytes of a block.
const LEN: usize = 16;

/// The place of the first byte from `from` on for which `kind` sets its bit; bit n stands for byte n of a block.
#[inline(always)]
pub(crate) fn find(bytes: &[u8], from: usize, kind: impl Fn(Block) -> u32) -> Option<usize> {
    let mut at = from;
    while let Some(block) = bytes.get(at..)?.first_chunk() {
        let found = kind(Block::new(block));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += LEN;
    }
    find_in_rest(bytes, at, kind)
}

/// The same for less than a block.
#[inline(always)]
fn find_in_rest(bytes: &[u8], at: usize, kind: impl Fn(Block) -> u32) -> Option<usize> {
    let rest = &bytes[at..];
    let found = match bytes.last_chunk() {
        // The last block has some bytes of the one before it.
        Some(block) => kind(Block::new(block)) >> (LEN - rest.len()),
        None => {
            let mut block = [0; LEN];
            block[..rest.len()].copy_from_slice(rest);
            kind(Block::new(&block)) & ((1 << rest.len()) - 1)
        }
    };
    (found != 0).then(|| at + found.trailing_zeros() as usize)
}

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(crate) struct Block(u8x16);

impl Block {
    #[inline(always)]
    fn new(bytes: &[u8; LEN]) -> Self {
        Self(u8x16::from(*bytes))
    }

    /// Which bytes are this one.
    #[inline(always)]
    pub(crate) fn equal(self, byte: u8) -> u32 {
        self.0.simd_eq(u8x16::splat(byte)).to_bitmask()
    }

    /// Which bytes are this or below.
    #[inline(always)]
    pub(crate) fn up_to(self, byte: u8) -> u32 {
        self.0.simd_le(u8x16::splat(byte)).to_bitmask()
    }

    /// Which bytes are not ASCII.
    #[inline(always)]
    pub(crate) fn beyond_ascii(self) -> u32 {
        self.0.to_bitmask()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_what_they_say() {
        for round in 0..256_u32 {
            // Every value comes at every place.
            let bytes: [u8; LEN] = core::array::from_fn(|at| (round + at as u32 * 89) as u8);
            let mask = |is_wanted: &dyn Fn(u8) -> bool| {
                let bits = bytes.iter().enumerate().map(|(at, &byte)| u32::from(is_wanted(byte)) << at);
                bits.sum::<u32>()
            };
            let block = Block::new(&bytes);
            for byte in [0, b'\t', 0x1f, b' ', b':', 0x7f, 0x80, 0xff] {
                assert_eq!(block.equal(byte), mask(&|found| found == byte), "{byte}");
                assert_eq!(block.up_to(byte), mask(&|found| found <= byte), "{byte}");
            }
            assert_eq!(block.beyond_ascii(), mask(&|found| !found.is_ascii()));
        }
    }

    #[test]
    fn finds_what_a_search_byte_by_byte_finds() {
        for len in 0..50 {
            for at in 0..len {
                for from in [0, 1, at / 2, at, at + 1, len] {
                    let mut bytes = alloc::vec![b'a'; len];
                    bytes[at..].fill(b':');
                    let wanted =
                        bytes[from..].iter().position(|&byte| byte == b':').map(|place| from + place);
                    assert_eq!(find(&bytes, from, |block| block.equal(b':')), wanted, "{len} {at} {from}");
                }
            }
        }
        assert_eq!(find(b"", 0, |block| block.up_to(0xff)), None);
        assert_eq!(find(b"abc", 4, |block| block.up_to(0xff)), None);
    }
}
