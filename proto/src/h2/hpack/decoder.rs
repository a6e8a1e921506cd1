//! Reads blocks: representations (RFC 7541, section 6) and the size of the table (section 4.2).

use alloc::vec::Vec;

use super::huffman;
use super::static_table::{self, FIRST_DYNAMIC};
use super::string::Reader;
use super::table::{Name, Table};
use super::{Header, HpackFault, TABLE_BYTES_DEFAULT, TABLE_BYTES_MAX};

/// Size updates at the start of a block: the smallest size since the last block, and the final one.
const SIZE_UPDATES_MAX: usize = 2;

/// Of [`Decoder::lowered`]: larger than any table.
const NOT_LOWERED: u32 = u32::MAX;

/// The table from which the peer's blocks are read. Takes no memory before it has an entry.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The largest size that the peer may choose.
    limit: u32,
    /// The smallest limit since the last block, if the table may be larger: the next block must begin with such a size.
    /// [`NOT_LOWERED`] otherwise: an `Option` would make each connection 8 bytes larger.
    lowered: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder whose peer may use the 4,096 bytes that hold before any setting.
    pub const fn new() -> Self {
        Self { table: Table::new(TABLE_BYTES_DEFAULT), limit: TABLE_BYTES_DEFAULT, lowered: NOT_LOWERED }
    }

    /// The peer has acknowledged this as the largest table (SETTINGS_HEADER_TABLE_SIZE): at most [`TABLE_BYTES_MAX`], so that
    /// nothing larger may be announced.
    pub fn set_limit(&mut self, bytes: u32) {
        debug_assert!(bytes <= TABLE_BYTES_MAX);
        self.limit = bytes.min(TABLE_BYTES_MAX);
        if self.limit < self.lowered.min(self.table.max()) {
            self.lowered = self.limit;
        }
    }

    /// Reads a whole block and shows each field. `scratch` is room for decoded strings: whatever it contains is of no importance,
    /// and it keeps its length, so that it is filled with zeros once only.
    ///
    /// # Errors
    /// What breaks RFC 7541.
    pub fn decode(
        &mut self,
        block: &[u8],
        scratch: &mut Vec<u8>,
        mut see: impl FnMut(Header<'_>),
    ) -> Result<(), HpackFault> {
        let mut block = Reader::new(block);
        self.read_size_updates(&mut block)?;
        while let Some(first) = block.byte() {
            if first & 0x80 != 0 {
                see(self.indexed(block.integer(first, 7)?)?);
            } else if first & 0x40 != 0 {
                self.literal(block.integer(first, 6)?, &mut block, scratch, Keep::Insert, &mut see)?;
            } else if first & 0x20 != 0 {
                return Err(HpackFault("a table size update is not at the start of a block"));
            } else {
                let keep = if first & 0x10 != 0 { Keep::Never } else { Keep::Not };
                self.literal(block.integer(first, 4)?, &mut block, scratch, keep, &mut see)?;
            }
        }
        Ok(())
    }

    fn read_size_updates(&mut self, block: &mut Reader<'_>) -> Result<(), HpackFault> {
        let mut updates = 0;
        while let Some(first) = block.peek().filter(|first| first & 0xe0 == 0x20) {
            let _ = block.byte();
            let max = block.integer(first, 5)?;
            updates += 1;
            if updates > SIZE_UPDATES_MAX {
                return Err(HpackFault("a block begins with more than two table size updates"));
            }
            if max > self.limit {
                return Err(HpackFault("a table size update is above the limit"));
            }
            if max <= self.lowered {
                self.lowered = NOT_LOWERED;
            }
            self.table.set_max(max);
        }
        //= https://www.rfc-editor.org/rfc/rfc7541#section-4.2
        if self.lowered != NOT_LOWERED {
            return Err(HpackFault(
                "a block does not begin with the table size update that the limit asks for",
            ));
        }
        Ok(())
    }

    /// The field of an index (section 2.3.3).
    fn indexed(&self, index: u32) -> Result<Header<'_>, HpackFault> {
        if let Some((name, value)) = static_table::entry(index) {
            return Ok(Header { name, value, static_name: index as u8, is_never_indexed: false });
        }
        let entry = index.checked_sub(FIRST_DYNAMIC).and_then(|index| self.table.entry(index));
        entry.ok_or(HpackFault("an index is not in the tables"))
    }

    /// A literal field, whose name has this index, or follows (section 6.2).
    fn literal(
        &mut self,
        index: u32,
        block: &mut Reader<'_>,
        scratch: &mut Vec<u8>,
        keep: Keep,
        see: &mut impl FnMut(Header<'_>),
    ) -> Result<(), HpackFault> {
        let room_needed = huffman::decoded_max(block.len());
        if scratch.len() < room_needed {
            scratch.resize(room_needed, 0);
        }
        let room = scratch.as_mut_slice();
        let is_never_indexed = matches!(keep, Keep::Never);
        let (name, value) = if index == 0 {
            let (name, room) = block.string(room)?;
            let (value, _) = block.string(room)?;
            see(Header { name, value, static_name: 0, is_never_indexed });
            (Name::Bytes(name), value)
        } else {
            let (value, _) = block.string(room)?;
            let named = self.indexed(index)?;
            let static_name = named.static_name;
            see(Header { value, is_never_indexed, ..named });
            match index.checked_sub(FIRST_DYNAMIC) {
                Some(entry) => (Name::Entry(entry), value),
                None => (Name::Static(static_name), value),
            }
        };
        if matches!(keep, Keep::Insert) {
            self.table.insert(name, value);
        }
        Ok(())
    }

    /// Makes the memory exact, for a connection that goes to rest.
    pub fn compact(&mut self) {
        self.table.compact();
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.table.heap_bytes()
    }
}

/// What becomes of a literal field.
#[derive(Clone, Copy)]
enum Keep {
    Insert,
    Not,
    Never,
}
