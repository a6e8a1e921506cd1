//! The hash for route keys: short texts, hashed often.
//!
//! Tables are filled from the configuration only, so a peer that finds colliding texts gains nothing: it cannot
//! put them into a table, and every hit is compared in full. That leaves speed as the only aim.

/// Hashes `bytes`, starting from `seed`.
#[inline]
pub(super) fn hash(seed: u32, bytes: &[u8]) -> u32 {
    let mut state = u64::from(seed) ^ (bytes.len() as u64) << 32;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        state = mix(state ^ u64::from_le_bytes(*word));
    }
    fold(mix(state ^ load_tail(tail)))
}

/// Like [`hash`], blind to the case of ASCII letters.
#[inline]
pub(super) fn hash_ignore_case(seed: u32, bytes: &[u8]) -> u32 {
    let mut state = u64::from(seed) ^ (bytes.len() as u64) << 32;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        state = mix(state ^ lower(u64::from_le_bytes(*word)));
    }
    fold(mix(state ^ lower(load_tail(tail))))
}

/// The same hash for the maps by which a table is built.
#[derive(Default)]
pub(super) struct KeyHasher(u32);

impl std::hash::Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(self.0, bytes);
    }

    fn finish(&self) -> u64 {
        // Maps look at the highest bits too.
        mix(u64::from(self.0))
    }
}

/// A map by the keys of routes.
pub(super) type KeyMap<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<KeyHasher>>;

/// Where `wanted` first stands. Segments and names are a few words long: word by word beats both a loop over
/// bytes and a call of a vectorised search.
#[inline]
pub(super) fn find_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let zeros = zero_bytes(u64::from_le_bytes(*word) ^ (LOW * u64::from(wanted)));
        if zeros != 0 {
            return Some(i * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    // What is left, without a loop over bytes: a word that overlaps the one before it.
    match bytes.last_chunk::<8>() {
        _ if tail.is_empty() => None,
        Some(last) => {
            let zeros = zero_bytes(u64::from_le_bytes(*last) ^ (LOW * u64::from(wanted)));
            (zeros != 0).then(|| bytes.len() - 8 + zeros.trailing_zeros() as usize / 8)
        }
        None => tail.iter().position(|&b| b == wanted),
    }
}

/// Whether both are the same, word by word for the same reason.
#[inline]
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match (one.last_chunk::<8>(), other.last_chunk::<8>()) {
        // The last word overlaps the one before it.
        (Some(one_end), Some(other_end)) => {
            one_end == other_end && one.as_chunks::<8>().0 == other.as_chunks::<8>().0
        }
        _ => load_tail(one) == load_tail(other),
    }
}

/// One in each byte.
const LOW: u64 = 0x0101_0101_0101_0101;

/// The high bits of the bytes that are zero; only the lowest of them is certain.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // A byte that is zero borrows into its high bit.
    word.wrapping_sub(LOW) & !word & HIGH
}

/// Up to seven bytes as one word, without a loop over single bytes.
#[inline]
fn load_tail(tail: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (tail.first_chunk::<4>(), tail.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
    }
    match tail {
        [] => 0,
        &[a] => u64::from(a),
        &[a, b] => u64::from(a) | u64::from(b) << 8,
        &[a, b, c, ..] => u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16,
    }
}

/// Sets the case bit of every byte. Folds a few other bytes together too (`@` and backquote), which costs a
/// comparison at worst.
#[inline]
fn lower(word: u64) -> u64 {
    word | 0x2020_2020_2020_2020
}

/// One multiplication to 128 bits, both halves kept.
#[inline]
fn mix(word: u64) -> u64 {
    let product = u128::from(word ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
    (product as u64) ^ (product >> 64) as u64
}

#[inline]
fn fold(word: u64) -> u32 {
    (word ^ word >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn spreads_numbered_names() {
        let names: Vec<_> = (0..100_000).map(|i| format!("name-{i}")).collect();
        let hashes: HashSet<_> = names.iter().map(|name| hash(7, name.as_bytes())).collect();
        // 100,000 of 2^32: about one collision is chance.
        assert!(hashes.len() > 99_990, "{}", hashes.len());
        let low: HashSet<_> = names.iter().take(1000).map(|n| hash(7, n.as_bytes()) & 0x7FF).collect();
        assert!(low.len() > 700, "{}", low.len());
    }

    #[test]
    fn a_byte_is_found_where_it_first_stands() {
        for length in 0..40 {
            // Neighbours of the byte in value, and itself with its high bit.
            for filler in [b'.', b'0', b'/' | 0x80, 0] {
                let mut text = vec![filler; length];
                assert_eq!(find_byte(&text, b'/'), None);
                for i in (0..length).rev() {
                    text[i] = b'/';
                    assert_eq!(find_byte(&text, b'/'), Some(i), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn same_texts_are_those_without_another_byte() {
        for length in 0..40 {
            let text: Vec<u8> = (0..length).collect();
            assert!(is_same(&text, &text.clone()));
            for i in 0..text.len() {
                let mut other = text.clone();
                other[i] ^= 0x80;
                assert!(
                    !is_same(&text, &other) && !is_same(&text, &text[..i]) && !is_same(&text[i + 1..], &text)
                );
            }
        }
    }

    #[test]
    fn length_seed_and_every_byte_count() {
        let text = b"abcdefghijklmnopq";
        let mut seen = HashSet::new();
        for length in 0..text.len() {
            assert!(seen.insert(hash(0, &text[..length])));
            for i in 0..length {
                let mut other = text[..length].to_vec();
                other[i] ^= 1;
                assert_ne!(hash(0, &other), hash(0, &text[..length]));
            }
        }
        assert_ne!(hash(0, text), hash(1, text));
        assert_eq!(hash_ignore_case(0, b"Example.COM"), hash_ignore_case(0, b"example.com"));
    }
}
