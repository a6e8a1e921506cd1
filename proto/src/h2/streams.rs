//! The streams of a connection: places that are used again, found by number.

use alloc::vec::Vec;

use super::flow::{ReceiveWindow, SendWindow};
use super::session::StreamKey;
use crate::message::RequestKind;

/// No place.
const NONE: u16 = u16::MAX;

/// How far one side of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Its head, which is not an interim one, has not come yet.
    Idle,
    /// Data may follow.
    Open,
    /// END_STREAM.
    Ended,
}

/// Who has reset a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    No,
    ByPeer,
    ByUs,
}

/// No length was announced.
pub(super) const ANY_LENGTH: u64 = u64::MAX;

/// A stream that has a place, until the caller closes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Of the protocol; 0 where the place is free.
    pub(super) id: u32,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// By how much its window is larger than by our setting.
    pub(super) widened: u32,
    /// What is still to come of the length that was announced, or [`ANY_LENGTH`].
    pub(super) content_left: u64,
    /// Our side.
    pub(super) local: Half,
    /// The peer's side.
    pub(super) remote: Half,
    pub(super) reset: Reset,
    /// Client: which request this is.
    pub(super) kind: RequestKind,
    pub(super) urgency: u8,
    pub(super) is_incremental: bool,
    /// Of a free place: the next one.
    next_free: u16,
}

impl Stream {
    pub(super) const fn new(id: u32, send: SendWindow, receive: ReceiveWindow) -> Self {
        Self {
            id,
            send,
            receive,
            widened: 0,
            content_left: ANY_LENGTH,
            local: Half::Idle,
            remote: Half::Idle,
            reset: Reset::No,
            kind: RequestKind::Other,
            urgency: 3,
            is_incremental: false,
            next_free: NONE,
        }
    }

    /// Whether we may send on it.
    #[inline]
    pub(super) fn takes(&self) -> bool {
        self.reset == Reset::No && self.local != Half::Ended
    }

    /// Whether both sides are through.
    pub(super) fn is_over(&self) -> bool {
        self.reset != Reset::No || (self.local == Half::Ended && self.remote == Half::Ended)
    }
}

/// The places.
#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    /// A power of two in size, at least twice as many as slots: the slot at the hash of its number, or the next free behind.
    index: Vec<u16>,
    first_free: u16,
    used: u16,
}

impl Default for Streams {
    fn default() -> Self {
        Self { slots: Vec::new(), index: Vec::new(), first_free: NONE, used: 0 }
    }
}

impl Streams {
    /// How many may have a place at once.
    pub(super) const MAX: u32 = (NONE >> 1) as u32;

    pub(super) fn len(&self) -> usize {
        usize::from(self.used)
    }

    /// The slot of the stream with this number.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<u16> {
        let mask = self.index.len().checked_sub(1)?;
        let mut at = home(id, mask);
        loop {
            let slot = self.index[at];
            if slot == NONE {
                return None;
            }
            if self.slots[usize::from(slot)].id == id {
                return Some(slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// A stream that [`Self::find`] has found.
    #[inline]
    pub(super) fn at(&mut self, slot: u16) -> &mut Stream {
        &mut self.slots[usize::from(slot)]
    }

    #[inline]
    pub(super) fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.slots.get(usize::from(key.slot)).filter(|stream| stream.id == key.id && key.id != 0)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots.get_mut(usize::from(key.slot)).filter(|stream| stream.id == key.id && key.id != 0)
    }

    /// All that have a place.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().filter(|stream| stream.id != 0)
    }

    /// Gives the stream a place. There must be fewer than [`Self::MAX`].
    pub(super) fn insert(&mut self, stream: Stream) -> StreamKey {
        debug_assert!(stream.id != 0 && self.len() < Self::MAX as usize && self.find(stream.id).is_none());
        let slot = self.first_free;
        if slot == NONE {
            self.slots.push(stream);
            let slot = (self.slots.len() - 1) as u16;
            self.used += 1;
            self.enter_new(slot, stream.id);
            return StreamKey { slot, id: stream.id };
        }
        self.first_free = self.slots[usize::from(slot)].next_free;
        self.slots[usize::from(slot)] = stream;
        self.used += 1;
        self.enter(slot, stream.id);
        StreamKey { slot, id: stream.id }
    }

    /// Frees the place of a stream.
    pub(super) fn remove(&mut self, key: StreamKey) {
        debug_assert!(self.get(key).is_some());
        self.leave(key.slot, key.id);
        let stream = &mut self.slots[usize::from(key.slot)];
        stream.id = 0;
        stream.next_free = self.first_free;
        self.first_free = key.slot;
        self.used -= 1;
    }

    /// Enters a slot that was just pushed: the index grows with them.
    fn enter_new(&mut self, slot: u16, id: u32) {
        if self.slots.len() * 2 <= self.index.len() {
            return self.enter(slot, id);
        }
        self.index.clear();
        self.index.resize((self.slots.len() * 2).next_power_of_two(), NONE);
        for slot in 0..self.slots.len() {
            let id = self.slots[slot].id;
            if id != 0 {
                self.enter(slot as u16, id);
            }
        }
    }

    fn enter(&mut self, slot: u16, id: u32) {
        let mask = self.index.len() - 1;
        let mut at = home(id, mask);
        while self.index[at] != NONE {
            at = (at + 1) & mask;
        }
        self.index[at] = slot;
    }

    /// Takes a slot out of the index and moves those behind it up, so that a search may end at the first gap.
    fn leave(&mut self, slot: u16, id: u32) {
        let mask = self.index.len() - 1;
        let mut gap = home(id, mask);
        while self.index[gap] != slot {
            gap = (gap + 1) & mask;
        }
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let other = self.index[at];
            if other == NONE {
                break;
            }
            let wanted = home(self.slots[usize::from(other)].id, mask);
            if at.wrapping_sub(wanted) & mask >= at.wrapping_sub(gap) & mask {
                self.index[gap] = other;
                gap = at;
            }
        }
        self.index[gap] = NONE;
    }

    /// Makes the memory exact: none where no stream has a place.
    pub(super) fn compact(&mut self) {
        if self.used == 0 {
            *self = Self::default();
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>() + self.index.capacity() * size_of::<u16>()
    }
}

/// Where a number is looked for first. A peer's streams follow each other by two.
#[inline]
fn home(id: u32, mask: usize) -> usize {
    (id >> 1) as usize & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    fn stream(id: u32) -> Stream {
        Stream::new(id, SendWindow::new(1), ReceiveWindow::new(1))
    }

    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
    }

    #[test]
    fn nothing_is_allocated_before_the_first_and_after_the_last_stream() {
        let mut streams = Streams::default();
        assert_eq!((streams.heap_bytes(), streams.find(1)), (0, None));
        let key = streams.insert(stream(1));
        assert!(streams.heap_bytes() > 0);
        streams.compact();
        assert_eq!(streams.find(1), Some(key.slot));
        streams.remove(key);
        streams.compact();
        assert_eq!((streams.heap_bytes(), streams.find(1)), (0, None));
    }

    proptest! {
        /// As a map of numbers to slots would do it. Few homes, so that they collide.
        #[test]
        fn streams_are_found_as_in_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..48), 1..400)) {
            let (mut streams, mut map) = (Streams::default(), BTreeMap::new());
            let mut most = 0;
            for (is_insert, number) in steps {
                // Every eighth: all of them have the same home while there are few.
                let id = number * 16 + 1;
                match (is_insert, map.get(&id).copied()) {
                    (true, None) => { map.insert(id, streams.insert(stream(id))); }
                    (false, Some(key)) => { streams.remove(key); map.remove(&id); prop_assert!(streams.get(key).is_none()); }
                    _ => {}
                }
                most = most.max(map.len());
                prop_assert_eq!(streams.len(), map.len());
                for number in 0..48 {
                    let id = number * 16 + 1;
                    prop_assert_eq!(streams.find(id), map.get(&id).map(|key| key.slot));
                }
                let mut slots: Vec<u16> = map.values().map(|key| key.slot).collect();
                slots.sort_unstable();
                slots.dedup();
                prop_assert_eq!(slots.len(), map.len());
                prop_assert!(slots.last().is_none_or(|&last| usize::from(last) < most));
            }
        }
    }
}
