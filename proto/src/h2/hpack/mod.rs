//! HPACK (RFC 7541): fields of HTTP/2 as indexes into two tables, and as strings.
//!
//! [`Decoder`] reads the blocks of a peer, [`Encoder`] writes ours. Neither knows what a field means: a name may have any bytes
//! here. The memory of both is bounded by the size that was agreed on for their table, and there is none before the first entry.

mod decoder;
mod encoder;
mod huffman;
mod static_table;
mod string;
mod table;

pub use decoder::Decoder;
pub use encoder::Encoder;

/// The largest dynamic table of either side, in bytes as RFC 7541 counts them: what a record of the table has room for.
pub const TABLE_BYTES_MAX: u32 = 65_535;
/// The size of both tables before any setting (RFC 9113, section 6.5.2).
const TABLE_BYTES_DEFAULT: u32 = 4_096;

/// A field of a block.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The name, as it came: lower case is the caller's check.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The place of the name in the static table (1 to 61), 0 if it was not taken from there. Fields that are indexed in the
    /// dynamic table keep it. Where several places have one name (2 and 3, 4 and 5, 6 and 7, 8 to 14) it is any of them.
    pub static_name: u8,
    /// It must not be put into a table by any recipient behind us either (section 6.2.3).
    pub is_never_indexed: bool,
}

/// A block that cannot be read: the connection ends (COMPRESSION_ERROR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HpackFault(pub &'static str);

/// Whether a field may enter tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// It is likely to come again.
    Allowed,
    /// It is not likely to.
    Without,
    /// It is a secret.
    Never,
}
