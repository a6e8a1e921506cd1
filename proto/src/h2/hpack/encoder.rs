//! Writes blocks. Without a table of its own it has no memory and no state but the size that the peer knows of.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::static_table::{self, FIRST_DYNAMIC};
use super::string::{Prefix, write_integer, write_known_literal, write_plain, write_plain_name, write_short};
use super::table::{self, Name, Table};
use super::{Header, Indexing, TABLE_BYTES_DEFAULT, TABLE_BYTES_MAX};

/// The representations of section 6.
const INDEXED: Prefix = Prefix(0x80, 7);
const LITERAL_INSERTED: Prefix = Prefix(0x40, 6);
const SIZE_UPDATE: Prefix = Prefix(0x20, 5);
const LITERAL_NEVER: Prefix = Prefix(0x10, 4);
const LITERAL: Prefix = Prefix(0x00, 4);

/// The place of `:status`.
const STATUS: u8 = 8;

/// The table from which our blocks are written.
#[derive(Debug)]
pub struct Encoder {
    /// Takes no memory before it has an entry.
    indexed: Option<Box<Indexed>>,
    /// The size that the peer's decoder has for our table.
    announced: u32,
    /// The size that we want from the next block on.
    wanted: u32,
    /// The size in this block: 0 is no table.
    size: u32,
    /// The smallest table that the peer allowed since the last block.
    lowest: u32,
}

/// The table, and a hash of each entry.
#[derive(Debug)]
struct Indexed {
    table: Table,
    /// Oldest first, as the entries are.
    hashes: VecDeque<Hash>,
}

/// Where a name is in the tables.
#[derive(Clone, Copy)]
enum Named<'a> {
    Static(u8),
    /// In any case.
    Bytes(&'a [u8]),
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// One without a table.
    pub const fn new() -> Self {
        Self {
            indexed: None,
            announced: TABLE_BYTES_DEFAULT,
            wanted: 0,
            size: 0,
            lowest: TABLE_BYTES_DEFAULT,
        }
    }

    /// The peer allows a table of so many bytes, and we want at most `own` of them, and never more than [`TABLE_BYTES_MAX`]. Holds
    /// from the next block on. Before any such call the peer allows 4,096, and we want none.
    pub fn set_limit(&mut self, peer: u32, own: u32) {
        self.lowest = self.lowest.min(peer);
        self.wanted = peer.min(own).min(TABLE_BYTES_MAX);
    }

    /// Begins a block: says how large the table is, if that has changed.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let lowest = core::mem::replace(&mut self.lowest, u32::MAX);
        //= https://www.rfc-editor.org/rfc/rfc7541#section-4.2
        if lowest < self.announced || (self.wanted == 0 && self.indexed.is_some()) {
            self.announce(out, lowest.min(self.wanted));
        }
        if self.wanted > 0 && self.wanted != self.announced {
            self.announce(out, self.wanted);
        }
        self.size = self.wanted;
    }

    /// Whether this block may make use of a table.
    pub(crate) fn has_table(&self) -> bool {
        self.size > 0
    }

    fn announce(&mut self, out: &mut Vec<u8>, size: u32) {
        write_integer(out, SIZE_UPDATE, size as usize);
        self.announced = size;
        if size == 0 {
            self.indexed = None;
        } else if let Some(indexed) = &mut self.indexed {
            indexed.set_max(size);
        }
    }

    /// Writes `:status`.
    pub fn status(&mut self, out: &mut Vec<u8>, status: u16) {
        debug_assert!((100..1_000).contains(&status));
        let digit = |value: u16| b'0' + (value % 10) as u8;
        let digits = [digit(status / 100), digit(status / 10), digit(status)];
        self.write(out, Named::Static(STATUS), &digits, Indexing::Allowed);
    }

    /// Writes a field; the name in any case.
    pub fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: Indexing) {
        let named = static_table::place_of(name).map_or(Named::Bytes(name), Named::Static);
        self.write(out, named, value, indexing);
    }

    /// The same for a name at this place of the static table.
    pub fn known_field(&mut self, out: &mut Vec<u8>, static_name: u8, value: &[u8], indexing: Indexing) {
        debug_assert!(static_table::entry(static_name.into()).is_some());
        self.write(out, Named::Static(static_table::first_place(static_name)), value, indexing);
    }

    fn write(&mut self, out: &mut Vec<u8>, name: Named<'_>, value: &[u8], indexing: Indexing) {
        if let Named::Static(place) = name
            && indexing != Indexing::Never
            && let Some(index) = static_table::index_of(place, value)
        {
            out.push(INDEXED.0 | index);
            return;
        }
        match indexing {
            Indexing::Allowed if self.size > 0 => self.write_indexed(out, name, value),
            Indexing::Allowed | Indexing::Without => write_literal(out, LITERAL, name, value),
            Indexing::Never => write_literal(out, LITERAL_NEVER, name, value),
        }
    }

    /// Writes an index of the table, or a literal that gets one.
    fn write_indexed(&mut self, out: &mut Vec<u8>, name: Named<'_>, value: &[u8]) {
        // A large entry would evict most others.
        if size_of_entry(name, value) > self.size as usize / 4 * 3 {
            write_literal(out, LITERAL, name, value);
            return;
        }
        let size = self.size;
        let indexed = self.indexed.get_or_insert_with(|| Box::new(Indexed::new(size)));
        let hash = Hash::of(name, value);
        match indexed.find(hash, name, value) {
            Found::Field(index) => write_integer(out, INDEXED, (FIRST_DYNAMIC + index) as usize),
            Found::Name(index) => {
                write_integer(out, LITERAL_INSERTED, (FIRST_DYNAMIC + index) as usize);
                write_short(out, value);
                indexed.insert(hash, Name::Entry(index), value);
            }
            Found::Nothing => indexed.write_new(out, hash, name, value),
        }
    }

    /// Makes the memory exact.
    pub fn compact(&mut self) {
        if let Some(indexed) = &mut self.indexed {
            indexed.table.compact();
            indexed.hashes.shrink_to_fit();
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.indexed.as_ref().map_or(0, |indexed| {
            let hashes = indexed.hashes.capacity() * size_of::<Hash>();
            size_of::<Indexed>() + hashes + indexed.table.heap_bytes()
        })
    }
}

fn write_literal(out: &mut Vec<u8>, literal: Prefix, name: Named<'_>, value: &[u8]) {
    match name {
        Named::Static(place) => write_known_literal(out, literal, place, value),
        Named::Bytes(name) => {
            out.push(literal.0);
            write_plain_name(out, name);
            write_plain(out, value);
        }
    }
}

/// What a field counts in a table (section 4.1).
fn size_of_entry(name: Named<'_>, value: &[u8]) -> usize {
    let stored = match name {
        Named::Static(_) => value.len(),
        Named::Bytes(name) => name.len().saturating_add(value.len()),
    };
    table::size_of_entry(name.place(), stored)
}

impl Named<'_> {
    fn place(self) -> u8 {
        match self {
            Self::Static(place) => place,
            Self::Bytes(_) => 0,
        }
    }

    fn is_of(self, entry: &Header<'_>) -> bool {
        match self {
            Self::Static(place) => entry.static_name == place,
            Self::Bytes(name) => entry.static_name == 0 && entry.name.eq_ignore_ascii_case(name),
        }
    }
}

/// What the table has of a field.
enum Found {
    Field(u32),
    Name(u32),
    Nothing,
}

impl Indexed {
    const fn new(size: u32) -> Self {
        Self { table: Table::new(size), hashes: VecDeque::new() }
    }

    fn set_max(&mut self, max: u32) {
        self.table.set_max(max);
        self.forget_evicted();
    }

    fn find(&self, hash: Hash, name: Named<'_>, value: &[u8]) -> Found {
        debug_assert_eq!(self.hashes.len(), self.table.len());
        let mut found = Found::Nothing;
        for (index, known) in self.hashes.iter().rev().enumerate() {
            if known.name != hash.name {
                continue;
            }
            let Some(entry) = self.table.entry(index as u32).filter(|entry| name.is_of(entry)) else {
                continue;
            };
            if known.value == hash.value && entry.value == value {
                return Found::Field(index as u32);
            }
            // Names of the static table have shorter indexes there.
            if entry.static_name == 0 {
                found = Found::Name(index as u32);
            }
        }
        found
    }

    /// Writes a field of which the table has nothing.
    fn write_new(&mut self, out: &mut Vec<u8>, hash: Hash, name: Named<'_>, value: &[u8]) {
        match name {
            Named::Static(place) => {
                write_integer(out, LITERAL_INSERTED, place.into());
                write_short(out, value);
                self.insert(hash, Name::Static(place), value);
            }
            Named::Bytes(name) => {
                out.push(LITERAL_INSERTED.0);
                let lower = name.to_ascii_lowercase();
                write_short(out, &lower);
                write_short(out, value);
                self.insert(hash, Name::Bytes(&lower), value);
            }
        }
    }

    fn insert(&mut self, hash: Hash, name: Name<'_>, value: &[u8]) {
        self.table.insert(name, value);
        self.hashes.push_back(hash);
        self.forget_evicted();
    }

    fn forget_evicted(&mut self) {
        let evicted = self.hashes.len() - self.table.len();
        self.hashes.drain(..evicted);
    }
}

/// Of a name and a value, to compare few entries in full.
#[derive(Clone, Copy, Debug)]
struct Hash {
    name: u16,
    value: u16,
}

impl Hash {
    fn of(name: Named<'_>, value: &[u8]) -> Self {
        let name = match name {
            Named::Static(place) => place.into(),
            Named::Bytes(name) => name_hash(name),
        };
        let (words, rest) = value.as_chunks::<8>();
        let hash =
            words.iter().fold(value.len() as u64, |hash, word| mixed(hash ^ u64::from_le_bytes(*word)));
        let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self { name, value: (mixed(hash ^ rest) >> 48) as u16 }
    }
}

/// Its length and a few letters, in lower case: fields of one message seldom have these in common.
fn name_hash(name: &[u8]) -> u16 {
    let letter = |at: usize| name.get(at).map_or(0, |byte| u16::from(byte | 0x20));
    let (middle, last) = (letter(name.len() / 2), letter(name.len().wrapping_sub(1)));
    (name.len() as u16).wrapping_mul(0x1021) ^ middle << 7 ^ last
}

fn mixed(hash: u64) -> u64 {
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
