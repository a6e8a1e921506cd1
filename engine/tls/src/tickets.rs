//! The keys of stateless session tickets (RFC 8446 section 4.6.1, RFC 5077): one ring of keys for all shards, which the control
//! plane makes, rotates and keeps in a file.
//!
//! A ticket is the name of its key (16 bytes), a nonce (12), and the session sealed with AES-256-GCM. It opens only for a listener
//! that judges client certificates in the same way: else a client without certificate could resume a session of another listener
//! where none is required. Rustls adds that the name (SNI), the version and the cipher have to be the same.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use rustls::server::ProducesTickets;
use zeroize::{Zeroize, Zeroizing};

/// The most keys in a ring: a week of tickets at a rotation of twelve hours.
pub const KEYS_MAX: usize = 16;

const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// A ticket is at least this much longer than its session.
const OVERHEAD_BYTES: usize = NAME_BYTES + NONCE_LEN + TAG_BYTES;

/// How long clients are asked to keep a ticket. The real limit is that of its key: a ticket whose key is gone leads to a full
/// handshake. Twelve hours pass before the first key of a ring with the default rotation stops making tickets.
const LIFETIME_HINT_S: u32 = 12 * 60 * 60;

/// In front of a ring in a file; the last byte is the version of the format.
const MAGIC: [u8; 16] = *b"sluice-tickets\0\x01";
const ENTRY_BYTES: usize = NAME_BYTES + KEY_BYTES + 8;
const CHECKSUM_BYTES: usize = 32;

/// A ring of keys: the newest one makes tickets, all of them open them. Immutable; a rotation makes another one.
#[derive(Clone)]
pub struct TicketKeys {
    /// The newest first; never empty.
    keys: Vec<TicketKey>,
}

#[derive(Clone)]
struct TicketKey {
    name: [u8; NAME_BYTES],
    key: [u8; KEY_BYTES],
    made_s: u64,
}

impl TicketKeys {
    /// One fresh key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate(now_s: u64) -> Result<TicketKeys, String> {
        Ok(TicketKeys { keys: vec![TicketKey::generate(now_s)?] })
    }

    /// The same ring with a fresh key in front, without those older than a ticket lives.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn rotate(&self, now_s: u64, lifetime_s: u64) -> Result<TicketKeys, String> {
        let mut keys = Vec::with_capacity(KEYS_MAX);
        keys.push(TicketKey::generate(now_s)?);
        // A clock that was set back makes a key of the future: it is as young as the one just made.
        let is_alive = |key: &&TicketKey| now_s.saturating_sub(key.made_s) < lifetime_s;
        keys.extend(self.keys.iter().filter(is_alive).take(KEYS_MAX - 1).cloned());
        Ok(TicketKeys { keys })
    }

    /// The same ring without keys that are older than a ticket lives; `None` if there are none. The newest one stays.
    pub fn without_old(&self, now_s: u64, lifetime_s: u64) -> Option<TicketKeys> {
        let is_alive = |key: &TicketKey| now_s.saturating_sub(key.made_s) < lifetime_s;
        let (newest, older) = self.keys.split_first()?;
        if older.iter().all(is_alive) {
            return None;
        }
        let kept = older.iter().filter(|key| is_alive(key));
        Some(TicketKeys { keys: [newest].into_iter().chain(kept).cloned().collect() })
    }

    /// When the newest key was made, in seconds since 1970.
    pub fn newest_s(&self) -> u64 {
        self.keys[0].made_s
    }

    /// How many keys open tickets.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// For a file that only its owner may read.
    pub fn to_bytes(&self) -> Vec<u8> {
        // In one piece: a vector that grows leaves copies of the keys behind.
        let mut bytes = Vec::with_capacity(MAGIC.len() + 1 + self.keys.len() * ENTRY_BYTES + CHECKSUM_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(self.keys.len() as u8);
        for key in &self.keys {
            bytes.extend_from_slice(&key.name);
            bytes.extend_from_slice(&key.key);
            bytes.extend_from_slice(&key.made_s.to_be_bytes());
        }
        let checksum = digest::digest(&digest::SHA256, &bytes);
        bytes.extend_from_slice(checksum.as_ref());
        bytes
    }

    /// From such a file.
    ///
    /// # Errors
    /// One line: the file is not one of ours, or is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<TicketKeys, String> {
        let (version, kind) = (MAGIC.len() - 1, &MAGIC[..MAGIC.len() - 1]);
        if !bytes.starts_with(kind) {
            return Err("not a file of ticket keys".to_owned());
        }
        if bytes.get(version) != Some(&MAGIC[version]) {
            return Err("ticket keys of another version of the format".to_owned());
        }
        let count = usize::from(bytes.get(MAGIC.len()).copied().unwrap_or(0));
        let content_bytes = MAGIC.len() + 1 + count * ENTRY_BYTES;
        if count == 0 || count > KEYS_MAX || bytes.len() != content_bytes + CHECKSUM_BYTES {
            return Err("ticket keys are damaged: wrong length".to_owned());
        }
        let (content, checksum) = bytes.split_at(content_bytes);
        if digest::digest(&digest::SHA256, content).as_ref() != checksum {
            return Err("ticket keys are damaged: wrong checksum".to_owned());
        }
        let keys = content[MAGIC.len() + 1..].chunks_exact(ENTRY_BYTES).map(TicketKey::from_entry).collect();
        Ok(TicketKeys { keys })
    }

    /// What makes and opens tickets for listeners with this `context`. Each shard has one of its own.
    pub(crate) fn producer(&self, context: [u8; 32]) -> Arc<dyn ProducesTickets> {
        let keys = self.keys.iter().map(|key| (key.name, key.expanded())).collect();
        Arc::new(Producer { keys, context })
    }
}

/// Without the keys.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made: Vec<u64> = self.keys.iter().map(|key| key.made_s).collect();
        f.debug_struct("TicketKeys").field("made_s", &made).finish_non_exhaustive()
    }
}

impl TicketKey {
    fn generate(now_s: u64) -> Result<TicketKey, String> {
        let mut key = TicketKey { name: [0; NAME_BYTES], key: [0; KEY_BYTES], made_s: now_s };
        let filled = rand::fill(&mut key.name).and_then(|()| rand::fill(&mut key.key));
        filled.map_err(|_| "the system has no random numbers for ticket keys".to_owned())?;
        Ok(key)
    }

    fn from_entry(entry: &[u8]) -> TicketKey {
        let (name, rest) = entry.split_at(NAME_BYTES);
        let (key, made_s) = rest.split_at(KEY_BYTES);
        let mut read = TicketKey { name: [0; NAME_BYTES], key: [0; KEY_BYTES], made_s: 0 };
        read.name.copy_from_slice(name);
        read.key.copy_from_slice(key);
        read.made_s = made_s.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        read
    }

    fn expanded(&self) -> LessSafeKey {
        let unbound =
            UnboundKey::new(&AES_256_GCM, &self.key).expect("the key is as long as the cipher wants it");
        LessSafeKey::new(unbound)
    }
}

impl Drop for TicketKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The ring with its keys expanded, for one listener on one shard.
struct Producer {
    keys: Vec<([u8; NAME_BYTES], LessSafeKey)>,
    /// A digest of how client certificates are judged.
    context: [u8; 32],
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Producer {
    fn additional_data(&self, name: &[u8; NAME_BYTES]) -> Aad<[u8; NAME_BYTES + 32]> {
        let mut data = [0; NAME_BYTES + 32];
        data[..NAME_BYTES].copy_from_slice(name);
        data[NAME_BYTES..].copy_from_slice(&self.context);
        Aad::from(data)
    }
}

impl ProducesTickets for Producer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_HINT_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (name, key) = self.keys.first()?;
        // Random nonces of 96 bits are good for 2^32 tickets of a key (NIST SP 800-38D section 8.3): 99,000 a second for the
        // twelve hours of a key, and shards need no counter in common.
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = Zeroizing::new(plain.to_vec());
        let tag = key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            self.additional_data(name),
            &mut sealed,
        );
        let tag = tag.ok()?;
        let mut ticket = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&sealed);
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        // Names are no secrets: they may be compared in any time.
        let (name, key) = self.keys.iter().find(|(candidate, _)| candidate == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let plain_bytes = key.open_in_place(nonce, self.additional_data(name), &mut opened).ok()?.len();
        opened.truncate(plain_bytes);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: [u8; 32] = [7; 32];

    #[test]
    fn a_ticket_opens_with_the_ring_that_made_it() {
        let keys = TicketKeys::generate(1_000).unwrap();
        let ticket = keys.producer(CONTEXT).encrypt(b"session").unwrap();
        assert_eq!(ticket.len(), b"session".len() + OVERHEAD_BYTES);
        assert!(!ticket.windows(7).any(|window| window == b"session"));
        assert_eq!(keys.producer(CONTEXT).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        let again = keys.producer(CONTEXT).encrypt(b"session").unwrap();
        assert_ne!(ticket, again, "nonces differ");
    }

    #[test]
    fn a_ticket_is_no_good_for_listeners_that_judge_clients_otherwise() {
        let keys = TicketKeys::generate(1_000).unwrap();
        let ticket = keys.producer(CONTEXT).encrypt(b"session").unwrap();
        assert_eq!(keys.producer([8; 32]).decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_short_ticket_does_not_open() {
        let producer = TicketKeys::generate(1_000).unwrap().producer(CONTEXT);
        let ticket = producer.encrypt(b"session").unwrap();
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert_eq!(producer.decrypt(&changed), None, "byte {place}");
            assert_eq!(producer.decrypt(&ticket[..place]), None, "{place} bytes");
        }
    }

    #[test]
    fn a_rotated_ring_opens_old_tickets_until_their_key_is_gone() {
        let first = TicketKeys::generate(1_000).unwrap();
        let ticket = first.producer(CONTEXT).encrypt(b"session").unwrap();
        let second = first.rotate(1_050, 100).unwrap();
        assert_eq!((second.count(), second.newest_s()), (2, 1_050));
        assert_eq!(second.producer(CONTEXT).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        let newer = second.producer(CONTEXT).encrypt(b"session").unwrap();
        assert_eq!(first.producer(CONTEXT).decrypt(&newer), None, "the newest key makes tickets");
        let third = second.rotate(1_100, 100).unwrap();
        assert_eq!(third.count(), 2);
        assert_eq!(third.producer(CONTEXT).decrypt(&ticket), None);
        assert!(third.producer(CONTEXT).decrypt(&newer).is_some());
    }

    #[test]
    fn old_keys_can_be_dropped_between_rotations() {
        let first = TicketKeys::generate(1_000).unwrap();
        let ticket = first.producer(CONTEXT).encrypt(b"session").unwrap();
        let second = first.rotate(1_050, 100).unwrap();
        assert!(second.without_old(1_099, 100).is_none());
        let kept = second.without_old(1_100, 100).unwrap();
        assert_eq!((kept.count(), kept.newest_s()), (1, 1_050));
        assert_eq!(kept.producer(CONTEXT).decrypt(&ticket), None);
        assert!(kept.without_old(9_000, 100).is_none(), "there is always a key that makes tickets");
    }

    #[test]
    fn a_ring_has_a_bounded_number_of_keys() {
        let mut keys = TicketKeys::generate(0).unwrap();
        for now_s in 1..100 {
            keys = keys.rotate(now_s, u64::MAX).unwrap();
        }
        assert_eq!((keys.count(), keys.newest_s()), (KEYS_MAX, 99));
        assert_eq!(TicketKeys::from_bytes(&keys.to_bytes()).unwrap().count(), KEYS_MAX);
    }

    #[test]
    fn a_ring_reads_back_from_its_file() {
        let keys = TicketKeys::generate(1_000).unwrap().rotate(2_000, 5_000).unwrap();
        let ticket = keys.producer(CONTEXT).encrypt(b"session").unwrap();
        let read = TicketKeys::from_bytes(&keys.to_bytes()).unwrap();
        assert_eq!((read.count(), read.newest_s()), (2, 2_000));
        assert_eq!(read.producer(CONTEXT).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    }

    #[test]
    fn a_damaged_file_is_recognized() {
        let bytes = TicketKeys::generate(1_000).unwrap().to_bytes();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(TicketKeys::from_bytes(&changed).is_err(), "byte {place}");
            assert!(TicketKeys::from_bytes(&bytes[..place]).is_err(), "{place} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(TicketKeys::from_bytes(&longer).is_err());
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let keys = TicketKeys::generate(1_234).unwrap();
        assert_eq!(format!("{keys:?}"), "TicketKeys { made_s: [1234], .. }");
    }
}
