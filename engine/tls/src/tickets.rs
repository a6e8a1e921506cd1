//! The keys of stateless session tickets (RFC 8446 section 4.6.1, RFC 5077): one ring of keys for all shards, which the control
//! plane makes, rotates and keeps in a file.

/// A ring of keys: the newest one makes tickets, all of them open them. Immutable; a rotation makes another one.
#[derive(Clone, Debug)]
pub struct TicketKeys {
    _private: (),
}

impl TicketKeys {
    /// One fresh key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate(_now_s: u64) -> Result<TicketKeys, String> {
        todo!()
    }

    /// The same ring with a fresh key in front, without those older than a ticket lives.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn rotate(&self, _now_s: u64, _lifetime_s: u64) -> Result<TicketKeys, String> {
        todo!()
    }

    /// When the newest key was made, in seconds since 1970.
    pub fn newest_s(&self) -> u64 {
        todo!()
    }

    /// For a file that only its owner may read.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// From such a file.
    ///
    /// # Errors
    /// One line: the file is not one of ours, or is damaged.
    pub fn from_bytes(_bytes: &[u8]) -> Result<TicketKeys, String> {
        todo!()
    }
}
