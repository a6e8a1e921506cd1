//! One hash table for all literal segments of all path trees: (node, segment) to node.
//!
//! Open addressing with linear probing, at most half full. An entry fills half a cache line and holds the
//! segment itself if it is short, so that a step down the tree reads one line.

use super::NONE;
use super::hash::{KeyMap, hash, is_same};

/// Longest segment that lies in its entry.
const INLINE_BYTES: usize = 16;

/// All literal segments.
#[derive(Debug, Clone)]
pub(super) struct Segments {
    /// A power of two of entries.
    entries: Vec<Entry>,
    /// Segments that are too long for their entry, one after the other.
    long: Vec<u8>,
}

/// A segment that leads from one node to another.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Entry {
    parent: u32,
    /// [`NONE`] marks a free entry.
    child: u32,
    len: u32,
    /// Where the segment starts in `long`, if it is long.
    long_start: u32,
    inline: [u8; INLINE_BYTES],
}

impl Entry {
    const FREE: Self = Self { parent: NONE, child: NONE, len: 0, long_start: 0, inline: [0; INLINE_BYTES] };
}

impl Segments {
    /// The node that `segment` leads to from `parent`, or [`NONE`].
    #[inline]
    pub(super) fn find(&self, parent: u32, segment: &str) -> u32 {
        let segment = segment.as_bytes();
        let mask = self.entries.len() - 1;
        let mut slot = hash(parent, segment) as usize & mask;
        loop {
            let entry = &self.entries[slot];
            if entry.child == NONE {
                return NONE;
            }
            if entry.parent == parent
                && entry.len as usize == segment.len()
                && is_same(self.text(entry), segment)
            {
                return entry.child;
            }
            slot = (slot + 1) & mask;
        }
    }

    #[inline]
    fn text<'s>(&'s self, entry: &'s Entry) -> &'s [u8] {
        let len = entry.len as usize;
        if len <= INLINE_BYTES {
            &entry.inline[..len]
        } else {
            &self.long[entry.long_start as usize..][..len]
        }
    }
}

/// The table being filled.
#[derive(Default)]
pub(super) struct Builder {
    children: KeyMap<(u32, String), u32>,
    /// The keys in the order of their coming: the same configuration gives the same table.
    order: Vec<(u32, String, u32)>,
}

impl Builder {
    /// The node that `segment` leads to from `parent`; `fresh` if it was not known.
    pub(super) fn child(&mut self, parent: u32, segment: &str, fresh: u32) -> u32 {
        *self.children.entry((parent, segment.to_owned())).or_insert_with(|| {
            self.order.push((parent, segment.to_owned(), fresh));
            fresh
        })
    }

    /// `number_of` is what stands for a node.
    pub(super) fn finish(self, number_of: impl Fn(u32) -> u32) -> Segments {
        // Half full at most, and never without a free entry, which ends every search.
        let capacity = (self.order.len() * 2).next_power_of_two().max(2);
        let mut segments = Segments { entries: vec![Entry::FREE; capacity], long: Vec::new() };
        for (parent, segment, child) in self.order {
            let text = segment.as_bytes();
            let mut entry = Entry { parent, child: number_of(child), len: text.len() as u32, ..Entry::FREE };
            if text.len() <= INLINE_BYTES {
                entry.inline[..text.len()].copy_from_slice(text);
            } else {
                entry.long_start = segments.long.len() as u32;
                segments.long.extend_from_slice(text);
            }
            let mut slot = hash(parent, text) as usize & (capacity - 1);
            while segments.entries[slot].child != NONE {
                slot = (slot + 1) & (capacity - 1);
            }
            segments.entries[slot] = entry;
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let mut builder = Builder::default();
        let names: Vec<_> = (0..500).map(|i| "x".repeat(i % 40) + &i.to_string()).collect();
        for (i, name) in names.iter().enumerate() {
            assert_eq!(builder.child(i as u32 % 7, name, i as u32), i as u32);
        }
        assert_eq!(builder.child(3, &names[3], 999), 3);
        let segments = builder.finish(|child| child);
        for (i, name) in names.iter().enumerate() {
            assert_eq!(segments.find(i as u32 % 7, name), i as u32);
            assert_eq!(segments.find(i as u32 % 7 + 1, name), NONE);
            assert_eq!(segments.find(i as u32 % 7, &format!("{name}y")), NONE);
        }
        assert_eq!(Builder::default().finish(|child| child).find(0, ""), NONE);
    }

    #[test]
    fn entry_is_half_a_cache_line() {
        assert_eq!(size_of::<Entry>(), 32);
    }
}
