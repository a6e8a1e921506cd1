//! The dynamic table (RFC 7541, section 2.3.2): both sides of a connection have one of these.
//!
//! The bytes of all entries lie in one vector, oldest first, without gaps; an entry has a record of six bytes besides. Names of the
//! static table are not stored. Takes no memory before the first entry.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use super::static_table;
use super::{Header, TABLE_BYTES_MAX};

/// What an entry counts besides its name and its value (section 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// The least that `bytes` grows by: growing copies everything.
const GROWTH_MIN: usize = 256;

/// Entries, the newest of which is index 0.
#[derive(Default)]
pub(super) struct Table {
    /// Entries lie from `start` to the end.
    bytes: Vec<u8>,
    records: VecDeque<Record>,
    start: usize,
    /// Of all entries, as section 4.1 counts.
    size: u32,
    /// What `size` never exceeds.
    max: u32,
    /// Position of the end of `bytes`.
    end: u16,
}

/// Where an entry begins. It ends where the next begins.
#[derive(Clone, Copy)]
struct Record {
    /// In all bytes that ever were in the table, modulo 65,536: a table is smaller, so moving its bytes changes no record.
    position: u16,
    /// Of the stored name: 0 for a name of the static table.
    name_len: u16,
    static_name: u8,
}

/// The name of a new entry.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Static(u8),
    Bytes(&'a [u8]),
    /// That of the entry with this index.
    Entry(u32),
}

impl Table {
    pub(super) const fn new(max: u32) -> Self {
        Self { bytes: Vec::new(), records: VecDeque::new(), start: 0, size: 0, max, end: 0 }
    }

    pub(super) fn max(&self) -> u32 {
        self.max
    }

    /// Evicts what is too much (section 4.3).
    pub(super) fn set_max(&mut self, max: u32) {
        self.max = max.min(TABLE_BYTES_MAX);
        self.evict_to(self.max);
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The entry with this index.
    pub(super) fn entry(&self, index: u32) -> Option<Header<'_>> {
        let (record, at, end) = self.place(index)?;
        let (name, value) = self.bytes.get(at..end)?.split_at_checked(record.name_len.into())?;
        let name = if record.static_name > 0 { static_name(record.static_name) } else { name };
        Some(Header { name, value, static_name: record.static_name, is_never_indexed: false })
    }

    /// The record with this index, and where its bytes are.
    fn place(&self, index: u32) -> Option<(Record, usize, usize)> {
        let place = self.records.len().checked_sub(index as usize)?.checked_sub(1)?;
        let record = *self.records.get(place)?;
        let first = self.records.front()?.position;
        let next = self.records.get(place + 1).map_or(self.end, |next| next.position);
        let offset = |position: u16| self.start + usize::from(position.wrapping_sub(first));
        Some((record, offset(record.position), offset(next)))
    }

    /// Adds an entry and evicts what is too much (section 4.4). An entry that is larger than the table leaves it empty.
    pub(super) fn insert(&mut self, name: Name<'_>, value: &[u8]) {
        let (name, static_name) = match name {
            Name::Static(known) => (Name::Bytes(&[]), known),
            Name::Bytes(_) => (name, 0),
            Name::Entry(index) => match self.place(index) {
                Some((record, ..)) if record.static_name > 0 => (Name::Bytes(&[]), record.static_name),
                _ => (name, 0),
            },
        };
        let name_len = match name {
            Name::Bytes(name) => name.len(),
            Name::Entry(index) => self.place(index).map_or(0, |(record, ..)| record.name_len.into()),
            Name::Static(_) => 0,
        };
        let stored = name_len.saturating_add(value.len());
        let size = size_of_entry(static_name, stored);
        let Some(others) = (self.max as usize).checked_sub(size) else {
            self.evict_to(0);
            return;
        };
        self.make_room(stored);
        match name {
            Name::Bytes(name) => self.bytes.extend_from_slice(name),
            Name::Entry(index) => self.repeat_name(index),
            Name::Static(_) => {}
        }
        self.bytes.extend_from_slice(value);
        // Only now: the entry whose name was taken may be evicted for this one.
        self.evict_to(others as u32);
        self.records.push_back(Record { position: self.end, name_len: name_len as u16, static_name });
        self.end = self.end.wrapping_add(stored as u16);
        self.size += size as u32;
    }

    fn repeat_name(&mut self, index: u32) {
        if let Some((record, at, _)) = self.place(index) {
            self.bytes.extend_from_within(at..at + usize::from(record.name_len));
        }
    }

    /// Room for `more` bytes behind the entries: evicted bytes are used again when there are enough of them, so that an inserted
    /// byte is moved a few times at most.
    fn make_room(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return;
        }
        let live = self.bytes.len() - self.start;
        if self.start >= live / 2 && self.bytes.capacity() - live >= more {
            self.bytes.drain(..self.start);
        } else {
            let mut larger = Vec::with_capacity(live + more + (live / 2).max(GROWTH_MIN));
            larger.extend_from_slice(&self.bytes[self.start..]);
            self.bytes = larger;
        }
        self.start = 0;
    }

    fn evict_to(&mut self, size: u32) {
        while self.size > size
            && let Some(oldest) = self.records.pop_front()
        {
            let next = self.records.front().map_or(self.end, |next| next.position);
            let stored = usize::from(next.wrapping_sub(oldest.position));
            self.start += stored;
            self.size -= size_of_entry(oldest.static_name, stored) as u32;
        }
    }

    /// Makes the memory exact.
    pub(super) fn compact(&mut self) {
        // Into new memory: what shrinks in place leaves a hole behind that is too small for the next table.
        if self.bytes.capacity() > self.bytes.len() - self.start {
            self.bytes = self.bytes[self.start..].into();
            self.start = 0;
        }
        if self.records.capacity() > self.records.len() {
            self.records = self.records.iter().copied().collect();
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.records.capacity() * size_of::<Record>()
    }
}

fn static_name(place: u8) -> &'static [u8] {
    static_table::entry(place.into()).map_or(&[], |(name, _)| name)
}

/// What an entry counts of which so many bytes are stored (section 4.1).
pub(super) fn size_of_entry(place: u8, stored: usize) -> usize {
    let name_len = if place > 0 { static_name(place).len() } else { 0 };
    stored.saturating_add(name_len + ENTRY_OVERHEAD)
}

/// Without its bytes, which may be secrets.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("entries", &self.records.len())
            .field("size", &self.size)
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn entries_survive_being_made_compact_and_nothing_else_is_kept() {
        let mut table = Table::new(400);
        for nth in 0..100 {
            table.insert(Name::Bytes(b"x-name"), format!("value {nth}").as_bytes());
            if nth % 3 != 0 {
                continue;
            }
            table.compact();
            let stored: usize = (0..table.len() as u32)
                .map(|index| {
                    let entry = table.entry(index).expect("an entry");
                    assert_eq!(entry.name, b"x-name");
                    assert_eq!(entry.value, format!("value {}", nth - index as usize).as_bytes());
                    entry.name.len() + entry.value.len()
                })
                .sum();
            assert_eq!(table.bytes.capacity(), stored, "what was evicted is gone");
        }
        assert!(table.len() > 3);
    }
}
