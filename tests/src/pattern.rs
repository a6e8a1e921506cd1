//! Bytes that can be recognised again wherever they turn up.
//!
//! Owns the body pattern: byte `i` of a body is `i % 251`. The period is a prime, so a block of the
//! usual buffer sizes that is lost, doubled or swapped with another breaks the pattern at once, which
//! says more than a checksum: the offset of the first wrong byte.

use std::sync::LazyLock;

use bytes::Bytes;

/// The pattern repeats after this many bytes.
const PERIOD: usize = 251;

/// A whole number of periods, long enough that big bodies are sent and compared in large blocks.
static TILE: LazyLock<Bytes> =
    LazyLock::new(|| (0..PERIOD * 256).map(|i| (i % PERIOD) as u8).collect::<Vec<_>>().into());

/// The first `length` bytes of the pattern.
pub fn bytes(length: usize) -> Vec<u8> {
    // Block by block: byte by byte takes a debug build longer than everything else in a test.
    let mut whole = Vec::with_capacity(length);
    pieces(length as u64).for_each(|piece| whole.extend_from_slice(&piece));
    whole
}

/// The first `length` bytes of the pattern in cheap blocks, for bodies that need not exist as a whole.
pub fn pieces(length: u64) -> impl Iterator<Item = Bytes> {
    let tile = TILE.len() as u64;
    (0..length.div_ceil(tile)).map(move |nth| TILE.slice(..(length - nth * tile).min(tile) as usize))
}

/// Checks a body against the pattern while it arrives.
#[derive(Debug, Default)]
pub struct Check {
    seen: u64,
}

impl Check {
    /// Compares the next bytes of the body; panics with the offset of the first wrong one.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let phase = (self.seen % PERIOD as u64) as usize;
            let length = bytes.len().min(TILE.len() - phase);
            let expected = &TILE[phase..phase + length];
            if bytes[..length] != *expected {
                let wrong = bytes.iter().zip(expected).position(|(a, b)| a != b).unwrap_or_default();
                panic!(
                    "byte {} is {:#04x}, not {:#04x}",
                    self.seen + wrong as u64,
                    bytes[wrong],
                    expected[wrong]
                );
            }
            self.seen += length as u64;
            bytes = &bytes[length..];
        }
    }

    /// How many bytes of the pattern have arrived.
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

/// Panics unless `body` is exactly the first `length` bytes of the pattern.
pub fn assert_exact(body: &[u8], length: usize) {
    let mut check = Check::default();
    check.feed(body);
    assert_eq!(check.seen(), length as u64, "length of the body");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_pattern_and_pass_the_check() {
        let length = PERIOD * 1000 + 17;
        let whole = bytes(length);
        assert_eq!(whole.len(), length);
        let mut check = Check::default();
        whole.chunks(777).for_each(|piece| check.feed(piece));
        assert_eq!(check.seen(), length as u64);
    }

    #[test]
    #[should_panic(expected = "byte 4096 is")]
    fn a_lost_block_is_noticed_where_it_is_missing() {
        let whole = bytes(16 * 1024);
        let mut check = Check::default();
        check.feed(&whole[..4096]);
        check.feed(&whole[8192..]);
    }
}
