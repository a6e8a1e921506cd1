//! The static table (RFC 7541, appendix A), and the place of a name in it.
//!
//! [`place_of`] finds a name by a perfect hash of its length and three of its bytes, which the compiler checks.

const STATIC_ENTRIES: usize = 61;

/// The index of the newest entry of the dynamic table.
pub(super) const FIRST_DYNAMIC: u32 = STATIC_ENTRIES as u32 + 1;

/// The first of them is index 1.
static ENTRIES: [(&[u8], &[u8]); STATIC_ENTRIES] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

const HASH_FACTOR: u32 = 0x01e9_dfe9;
const HASH_SHIFT: u32 = 25;

/// The place of a name for its hash, 0 for none. Several entries with one name: the first of them.
const PLACES: [u8; 1 << (32 - HASH_SHIFT)] = places();

/// The entry with this index.
pub(super) fn entry(index: u32) -> Option<(&'static [u8], &'static [u8])> {
    ENTRIES.get(index.checked_sub(1)? as usize).copied()
}

/// The first index with this name, in any case.
pub(super) fn place_of(name: &[u8]) -> Option<u8> {
    let place = PLACES[slot(name)?];
    let (found, _) = entry(place.into())?;
    is_in_any_case(found, name).then_some(place)
}

/// Whether `name` is `known`, which has lower-case letters, hyphens and colons. Eight bytes at once: it is asked for every field.
fn is_in_any_case(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    // Letters are what has the bit above the one that makes them upper or lower case.
    let differ = |known: u64, name: u64| (known ^ name) & !((known >> 1) & 0x2020_2020_2020_2020);
    let (known_words, known_rest) = known.as_chunks::<8>();
    let (name_words, name_rest) = name.as_chunks::<8>();
    let words = known_words.iter().zip(name_words);
    let differs = words.fold(0, |bits, (a, b)| bits | differ(u64::from_le_bytes(*a), u64::from_le_bytes(*b)));
    let rest = known_rest.iter().zip(name_rest);
    rest.fold(differs, |bits, (a, b)| bits | differ((*a).into(), (*b).into())) == 0
}

/// The first place with the name of this one.
pub(super) fn first_place(place: u8) -> u8 {
    match place {
        3 => 2,
        5 => 4,
        7 => 6,
        9..=14 => 8,
        _ => place,
    }
}

/// The index of this value with the name whose first place this is.
pub(super) fn index_of(place: u8, value: &[u8]) -> Option<u8> {
    let indexes = match place {
        2 => 2..=3,
        4 => 4..=5,
        6 => 6..=7,
        8 => 8..=14,
        16 => 16..=16,
        _ => return None,
    };
    indexes.into_iter().find(|&index| entry(index.into()).is_some_and(|(_, known)| known == value))
}

/// Where a name is found in [`PLACES`]: its length, first, middle and last byte, in lower case.
const fn slot(name: &[u8]) -> Option<usize> {
    if name.is_empty() {
        return None;
    }
    let (first, middle, last) = (name[0], name[name.len() / 2], name[name.len() - 1]);
    let key = u32::from_le_bytes([first | 0x20, middle | 0x20, last | 0x20, name.len() as u8]);
    Some((key.wrapping_mul(HASH_FACTOR) >> HASH_SHIFT) as usize)
}

const fn places() -> [u8; 1 << (32 - HASH_SHIFT)] {
    let mut places = [0; 1 << (32 - HASH_SHIFT)];
    let mut index = 0;
    while index < ENTRIES.len() {
        let (name, value) = ENTRIES[index];
        let Some(slot) = slot(name) else { panic!("a name is empty") };
        // Only names with values have several entries, and those lie beside each other.
        let is_new = places[slot] == 0;
        assert!(is_new || !value.is_empty(), "two names have one hash");
        if is_new {
            places[slot] = index as u8 + 1;
        }
        index += 1;
    }
    places
}
