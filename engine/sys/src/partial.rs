//! The bytes that parked connections have sent of a message that is not complete, outside of any task and of any buffer.
//!
//! A connection that drips costs its entry and one slot here: its bytes, eight more, and what rounds them up to eight. Slots of
//! one size lie side by side without holes: the last one moves to where one was taken, and its owner is notified. They lie in pages
//! that serve any size, so that connections that all send a byte more leave no unusable room behind.

use crate::buf::Buf;

/// The beginning of a message, kept while the connection that sent it is parked.
#[derive(Debug)]
pub struct PartialMessage {
    /// The bytes that have arrived.
    pub bytes: Buf,
    /// How many times the connection was parked with them.
    pub pieces: u32,
}

/// A slot that has another number now, and the socket that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) owner: u32,
    pub(crate) slot: u32,
}

/// Sizes of slots are multiples of this.
const STEP_BYTES: usize = 8;
/// What a slot begins with: its owner, the number of its bytes, and how often they were parked.
const HEADER_BYTES: usize = 8;
/// The high bits of a slot's number are its size in steps, less one; the low ones its place among those of its size.
pub(crate) const PLACE_BITS: u32 = 25;
/// Messages of more bytes than the largest slot takes, about a kilobyte, have memory of their own. No slot has all high bits of
/// its number set: these numbers are for states (see `side_tables`) and for none at all.
const LARGE: usize = (1 << (u32::BITS - PLACE_BITS)) - 2;
/// The largest slot.
const SLOT_BYTES_MAX: usize = LARGE * STEP_BYTES;
const PAGE_BYTES: usize = 16 * 1024;
/// Empty pages that are kept for the next slots.
const SPARE_PAGES: usize = 4;

/// The kept bytes of all parked connections.
#[derive(Default)]
pub(crate) struct KeptBytes {
    /// Slots by their size.
    blocks: Vec<Block>,
    spare: Vec<Page>,
    large: Vec<Large>,
    count: usize,
    bytes: usize,
}

type Page = Box<[u8]>;

/// Slots of one size.
#[derive(Default)]
struct Block {
    slot_bytes: usize,
    count: usize,
    pages: Vec<Page>,
}

impl Block {
    fn of_size(size: usize) -> Block {
        Block { slot_bytes: (size + 1) * STEP_BYTES, ..Block::default() }
    }

    fn slots_per_page(&self) -> usize {
        PAGE_BYTES / self.slot_bytes
    }

    fn at(&mut self, place: usize) -> &mut [u8] {
        let start = place % self.slots_per_page() * self.slot_bytes;
        let page = place / self.slots_per_page();
        &mut self.pages[page][start..start + self.slot_bytes]
    }

    /// A place at the end.
    fn add(&mut self, spare: &mut Vec<Page>) -> usize {
        if self.count == self.pages.len() * self.slots_per_page() {
            self.pages.push(spare.pop().unwrap_or_else(|| vec![0; PAGE_BYTES].into()));
        }
        self.count += 1;
        self.count - 1
    }

    /// Takes a place out of the middle: the last slot is there now. Says whether there is one.
    fn remove(&mut self, place: usize, spare: &mut Vec<Page>) -> bool {
        self.count -= 1;
        let is_last = place == self.count;
        if !is_last {
            let mut slot = [0; SLOT_BYTES_MAX];
            let slot = &mut slot[..self.slot_bytes];
            slot.copy_from_slice(self.at(self.count));
            self.at(place).copy_from_slice(slot);
        }
        if self.count == (self.pages.len() - 1) * self.slots_per_page() {
            let page = self.pages.pop().filter(|_| spare.len() < SPARE_PAGES);
            spare.extend(page);
            if self.pages.is_empty() {
                self.pages = Vec::new();
            }
        }
        !is_last
    }
}

struct Large {
    owner: u32,
    pieces: u32,
    bytes: Box<[u8]>,
}

impl KeptBytes {
    /// Keeps bytes for a socket.
    pub(crate) fn put(&mut self, owner: u32, bytes: &[u8], pieces: u32) -> u32 {
        self.count += 1;
        self.bytes += bytes.len();
        let size = (HEADER_BYTES + bytes.len()).div_ceil(STEP_BYTES) - 1;
        if size >= LARGE {
            self.large.push(Large { owner, pieces, bytes: bytes.into() });
            return number(LARGE, self.large.len() - 1);
        }
        if self.blocks.is_empty() {
            self.blocks.extend((0..LARGE).map(Block::of_size));
        }
        let block = &mut self.blocks[size];
        let place = block.add(&mut self.spare);
        let (header, rest) = block.at(place).split_at_mut(HEADER_BYTES);
        header[..4].copy_from_slice(&owner.to_ne_bytes());
        header[4..6].copy_from_slice(&(bytes.len() as u16).to_ne_bytes());
        header[6..].copy_from_slice(&u16::try_from(pieces).unwrap_or(u16::MAX).to_ne_bytes());
        rest[..bytes.len()].copy_from_slice(bytes);
        number(size, place)
    }

    /// Takes back what was kept in a slot; the owner of the slot that takes its place, if one does, has to be notified.
    pub(crate) fn take(&mut self, slot: u32) -> (PartialMessage, Option<Moved>) {
        let (size, place) = ((slot >> PLACE_BITS) as usize, (slot & ((1 << PLACE_BITS) - 1)) as usize);
        let (kept, moved_owner) =
            if size == LARGE { self.take_large(place) } else { self.take_small(size, place) };
        self.count -= 1;
        self.bytes -= kept.bytes.len();
        (kept, moved_owner.map(|owner| Moved { owner, slot }))
    }

    fn take_small(&mut self, size: usize, place: usize) -> (PartialMessage, Option<u32>) {
        let block = &mut self.blocks[size];
        let ([_, _, _, _, len_low, len_high, pieces_low, pieces_high], rest) =
            block.at(place).split_first_chunk::<HEADER_BYTES>().expect("a slot has a header");
        let len = usize::from(u16::from_ne_bytes([*len_low, *len_high]));
        let pieces = u32::from(u16::from_ne_bytes([*pieces_low, *pieces_high]));
        let mut bytes = Buf::small();
        bytes.extend_from_slice(&rest[..len]);
        let has_moved = block.remove(place, &mut self.spare);
        let owner = has_moved.then(|| block.at(place).first_chunk().map(|owner| u32::from_ne_bytes(*owner)));
        (PartialMessage { bytes, pieces }, owner.flatten())
    }

    fn take_large(&mut self, place: usize) -> (PartialMessage, Option<u32>) {
        let large = self.large.swap_remove(place);
        let mut bytes = Buf::small();
        bytes.extend_from_slice(&large.bytes);
        if self.large.is_empty() {
            self.large = Vec::new();
        }
        (PartialMessage { bytes, pieces: large.pieces }, self.large.get(place).map(|moved| moved.owner))
    }

    /// Whether no slot has a number any more: 33 million connections in the middle of a message.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= (1 << PLACE_BITS) - 1
    }

    /// Connections that have something here.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn number(size: usize, place: usize) -> u32 {
    // The caller has asked `is_full`.
    assert!(place < (1 << PLACE_BITS) - 1);
    (size as u32) << PLACE_BITS | place as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owners and what they have, for comparison.
    #[derive(Default)]
    struct Owners {
        all: KeptBytes,
        slots: Vec<Option<(u32, Vec<u8>)>>,
    }

    impl Owners {
        fn put(&mut self, owner: usize, bytes: Vec<u8>) {
            let slot = self.all.put(owner as u32, &bytes, bytes.len() as u32 + 1);
            self.slots.resize_with(self.slots.len().max(owner + 1), || None);
            self.slots[owner] = Some((slot, bytes));
        }

        fn take(&mut self, owner: usize) {
            let Some((slot, bytes)) = self.slots[owner].take() else { return };
            let (kept, moved) = self.all.take(slot);
            assert_eq!((&*kept.bytes, kept.pieces), (&bytes, bytes.len() as u32 + 1));
            if let Some(Moved { owner, slot }) = moved {
                self.slots[owner as usize].as_mut().expect("it is there").0 = slot;
            }
        }

        fn room(&self) -> usize {
            let pages =
                self.all.blocks.iter().map(|block| block.pages.len()).sum::<usize>() + self.all.spare.len();
            pages * PAGE_BYTES
        }
    }

    #[test]
    fn everybody_gets_back_what_was_theirs() {
        let mut owners = Owners::default();
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for round in 0..20_000 {
            let owner = random(300) as usize;
            if owners.slots.get(owner).is_some_and(Option::is_some) {
                owners.take(owner);
            } else {
                let len = if random(20) == 0 { random(3_000) } else { random(60) };
                owners.put(owner, vec![round as u8; len as usize]);
            }
            let held = || owners.slots.iter().flatten();
            assert_eq!(owners.all.len(), held().count());
            assert_eq!(owners.all.bytes(), held().map(|(_, bytes)| bytes.len()).sum::<usize>());
        }
        (0..300).for_each(|owner| owners.take(owner));
        assert_eq!((owners.all.len(), owners.all.bytes()), (0, 0));
    }

    #[test]
    fn a_slot_is_eight_bytes_more_than_what_it_holds_and_a_flood_gives_back_its_room() {
        let mut owners = Owners::default();
        (0..10_000).for_each(|owner| owners.put(owner, vec![b'x'; 40]));
        let room_for = |slot_bytes: usize| 10_000_usize.div_ceil(PAGE_BYTES / slot_bytes) * PAGE_BYTES;
        assert_eq!(owners.room(), room_for(48));
        // All of them say a byte more, one after the other, and then they go.
        for owner in 0..10_000 {
            owners.take(owner);
            owners.put(owner, vec![b'x'; 41]);
            assert!(owners.room() <= room_for(56) + (SPARE_PAGES + 2) * PAGE_BYTES);
        }
        (0..10_000).for_each(|owner| owners.take(owner));
        assert_eq!(owners.room(), SPARE_PAGES * PAGE_BYTES);
    }
}
