//! The 64 bits that travel with an operation through the kernel and come back in its completion.
//!
//! A key names a slot (`index`), the kind of the slot, and the tenant of the slot (`generation`). Slots are reused at once; a
//! completion for an earlier tenant has another generation and is ignored.

/// No slot: the end of a list, or no task.
pub(crate) const NONE: u32 = u32::MAX;

const KIND_SHIFT: u32 = 60;
const GENERATION_SHIFT: u32 = 32;

/// Generations are this wide in a key; counters wrap within it.
pub(crate) const GENERATION_MASK: u32 = (1 << (KIND_SHIFT - GENERATION_SHIFT)) - 1;

/// The kind of the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No task waits for it: cancel, close.
    Ignored,
    /// The multishot receive of a socket entry.
    Receive,
    /// The multishot accept of a listener entry.
    Accept,
    /// A one-shot operation in the operation table.
    Op,
    /// A message from another ring.
    Message,
    /// A message from another ring with a connection.
    Handed,
    /// Such a message of our own that did not arrive.
    Returned,
    /// Tasks were woken on other threads.
    Woken,
}

/// A packed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) const IGNORED: Key = Key::new(Kind::Ignored, 0, 0);
    pub(crate) const MESSAGE: Key = Key::new(Kind::Message, 0, 0);
    pub(crate) const WOKEN: Key = Key::new(Kind::Woken, 0, 0);

    pub(crate) const fn new(kind: Kind, generation: u32, index: u32) -> Key {
        let generation = (generation & GENERATION_MASK) as u64;
        Key((kind as u64) << KIND_SHIFT | generation << GENERATION_SHIFT | index as u64)
    }

    pub(crate) const fn from_bits(bits: u64) -> Key {
        Key(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn kind(self) -> Kind {
        match self.0 >> KIND_SHIFT {
            1 => Kind::Receive,
            2 => Kind::Accept,
            3 => Kind::Op,
            4 => Kind::Message,
            5 => Kind::Handed,
            6 => Kind::Returned,
            7 => Kind::Woken,
            _ => Kind::Ignored,
        }
    }

    #[cfg(test)]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32 & GENERATION_MASK
    }

    /// A key that names no slot but carries an address: those of user space are far narrower.
    pub(crate) fn with_payload(kind: Kind, payload: u64) -> Key {
        debug_assert_eq!(payload >> KIND_SHIFT, 0);
        Key((kind as u64) << KIND_SHIFT | payload)
    }

    pub(crate) fn payload(self) -> u64 {
        self.0 & ((1 << KIND_SHIFT) - 1)
    }

    pub(crate) fn index(self) -> u32 {
        self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        for kind in [
            Kind::Ignored,
            Kind::Receive,
            Kind::Accept,
            Kind::Op,
            Kind::Message,
            Kind::Handed,
            Kind::Returned,
            Kind::Woken,
        ] {
            let carried = Key::from_bits(Key::with_payload(kind, 0x7fff_ffff_fff8).bits());
            assert_eq!((carried.kind(), carried.payload()), (kind, 0x7fff_ffff_fff8));
            let key = Key::from_bits(Key::new(kind, 0x0abc_def1, 0xfedc_ba98).bits());
            assert_eq!((key.kind(), key.generation(), key.index()), (kind, 0x0abc_def1, 0xfedc_ba98));
        }
    }

    #[test]
    fn generation_wraps_without_touching_the_kind() {
        let key = Key::new(Kind::Op, u32::MAX, 7);
        assert_eq!((key.kind(), key.generation(), key.index()), (Kind::Op, GENERATION_MASK, 7));
    }
}
