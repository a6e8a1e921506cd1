//! What parked connections have said so far of a message that is not complete: their bytes, exactly as many as there are,
//! outside of any task and of any receive buffer. A connection that drips costs its entry, a slot here and its bytes.

/// The beginning of a message, kept while the connection that sent it is parked.
#[derive(Debug, Default)]
pub struct Kept {
    /// The bytes that have arrived.
    pub bytes: Box<[u8]>,
    /// How many times the connection was parked with them.
    pub pieces: u32,
}

/// The kept bytes of all parked connections.
#[derive(Default)]
pub(crate) struct KeptBytes {
    slots: Vec<Kept>,
    free: Vec<u32>,
    bytes: usize,
}

impl KeptBytes {
    pub(crate) fn put(&mut self, kept: Kept) -> u32 {
        self.bytes += kept.bytes.len();
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = kept;
            return slot;
        }
        self.slots.push(kept);
        self.slots.len() as u32 - 1
    }

    pub(crate) fn take(&mut self, slot: u32) -> Kept {
        let kept = std::mem::take(&mut self.slots[slot as usize]);
        self.free.push(slot);
        self.bytes -= kept.bytes.len();
        if self.free.len() == self.slots.len() {
            // The last one of a flood gives back the room that the flood took.
            *self = KeptBytes::default();
        }
        kept
    }

    /// Connections that have something here.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &[u8]) -> Kept {
        Kept { bytes: text.into(), pieces: 1 }
    }

    #[test]
    fn what_was_put_is_taken_and_room_is_given_back() {
        let mut all = KeptBytes::default();
        let (first, second) = (all.put(kept(b"a")), all.put(kept(b"b")));
        assert_eq!(&*all.take(first).bytes, b"a");
        assert_eq!(all.put(kept(b"c")), first);
        assert_eq!(&*all.take(second).bytes, b"b");
        assert_eq!((all.len(), all.bytes()), (1, 1));
        assert_eq!(&*all.take(first).bytes, b"c");
        assert_eq!((all.len(), all.bytes(), all.slots.capacity(), all.free.capacity()), (0, 0, 0, 0));
    }
}
