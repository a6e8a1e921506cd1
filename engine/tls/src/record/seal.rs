//! Sealing: data, and what the protocol owes to the peer.

use sluice_sys::aead::{NONCE_BYTES, TAG_BYTES};

use super::keys::{EXPLICIT_NONCE_BYTES, has_explicit_nonce};
use super::messages::TYPE_KEY_UPDATE;
use super::{
    Contexts, Fault, HEADER_BYTES, Outgoing, PLAINTEXT_BYTES_MAX, Session, Suite, TYPE_ALERT,
    TYPE_APPLICATION_DATA, TYPE_HANDSHAKE, Version, additional_12, alerts, keyed,
};

/// Records that are sealed with one key. AES-GCM keeps its margin of safety up to 2^24.5 records of full size (RFC 8446,
/// section 5.5); the other suites are not worth a rule of their own. A KeyUpdate or an alert may be one more.
pub const KEY_RECORDS_MAX: u64 = (1 << 24) - 64;

/// Pieces below this are copied together into one record; longer ones are sealed from where they lie.
pub const JOINED_PIECE_BYTES_MAX: usize = 2 * 1024;

/// A KeyUpdate that requests none (RFC 8446, section 4.6.3).
const KEY_UPDATE: [u8; 5] = [TYPE_KEY_UPDATE, 0, 0, 1, 0];

/// Bytes of a record with a KeyUpdate.
const KEY_UPDATE_RECORD_BYTES: usize = HEADER_BYTES + KEY_UPDATE.len() + 1 + TAG_BYTES;

/// The version in the header of every record.
const RECORD_VERSION: [u8; 2] = [3, 3];

/// A record whose header is written: what its content is sealed with.
struct Begun {
    nonce: [u8; NONCE_BYTES],
    additional: [u8; 13],
    additional_bytes: usize,
    /// The type of the content, which follows it in TLS 1.3.
    kind: [u8; 1],
    has_inner_kind: bool,
}

impl Begun {
    fn additional(&self) -> &[u8] {
        &self.additional[..self.additional_bytes]
    }

    fn extra(&self) -> &[u8] {
        if self.has_inner_kind { &self.kind } else { &[] }
    }
}

impl Session {
    /// Appends application data to `out`, in as few records as it takes; first what is owed to the peer.
    ///
    /// # Errors
    /// The key may not be used any more (TLS 1.2), or our side was closed. Nothing is appended then.
    pub fn seal(
        &mut self,
        contexts: &mut Contexts,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        self.seal_parts(contexts, &[plaintext], out)
    }

    /// As [`Session::seal`], for data that lie in several places: short pieces share a record.
    ///
    /// # Errors
    /// As there.
    pub fn seal_parts(
        &mut self,
        contexts: &mut Contexts,
        parts: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        debug_assert_ne!(self.outgoing, Outgoing::InKernel, "two would seal with the same numbers");
        if self.outgoing != Outgoing::Open && self.outgoing != Outgoing::OwesReply {
            return Err(Fault::Unexpected);
        }
        let records: usize = parts.iter().map(|part| part.len().div_ceil(PLAINTEXT_BYTES_MAX)).sum();
        if self.version == Version::Tls12 && records as u64 > self.records_left_12() {
            return Err(Fault::KeyExhausted);
        }
        let plaintext_bytes: usize = parts.iter().map(|part| part.len()).sum();
        out.reserve(self.bytes_max(plaintext_bytes, records));
        self.reply(contexts, out);
        let mut pieces = Pieces { parts, at: 0 };
        while let Some(piece) = pieces.next() {
            self.refresh_key(contexts, out);
            self.seal_piece(contexts, &mut pieces, piece, out);
        }
        Ok(())
    }

    /// How many bytes `plaintext_bytes` of application data become at most, with a reply in front of them.
    pub fn sealed_bytes_max(&self, plaintext_bytes: usize) -> usize {
        self.bytes_max(plaintext_bytes, plaintext_bytes.div_ceil(PLAINTEXT_BYTES_MAX))
    }

    fn bytes_max(&self, plaintext_bytes: usize, records: usize) -> usize {
        let (expansion, updates) = match self.version {
            // A reply, and one KeyUpdate of our own.
            Version::Tls13 => (HEADER_BYTES + 1 + TAG_BYTES, 2 * KEY_UPDATE_RECORD_BYTES),
            Version::Tls12 => (HEADER_BYTES + EXPLICIT_NONCE_BYTES + TAG_BYTES, 0),
        };
        plaintext_bytes + records * expansion + updates
    }

    /// Whether the peer waits for a reply (to a KeyUpdate) although there is no data for it.
    pub fn owes_reply(&self) -> bool {
        self.outgoing == Outgoing::OwesReply
    }

    /// Appends what is owed to the peer.
    //= https://www.rfc-editor.org/rfc/rfc8446#section-4.6.3
    pub fn reply(&mut self, contexts: &mut Contexts, out: &mut Vec<u8>) {
        if self.outgoing == Outgoing::OwesReply {
            self.outgoing = Outgoing::Open;
            self.update_key(contexts, out);
        }
    }

    /// Appends the alert that ends our side (close_notify). Nothing may be sealed behind it.
    pub fn close(&mut self, contexts: &mut Contexts, out: &mut Vec<u8>) {
        self.last_record(contexts, alerts::CLOSE, out);
    }

    /// Appends the alert for a fault of the peer. Nothing may be sealed behind it.
    pub fn alert(&mut self, contexts: &mut Contexts, fault: Fault, out: &mut Vec<u8>) {
        self.last_record(contexts, alerts::for_fault(fault), out);
    }

    /// Ends our side; a second end is none.
    fn last_record(&mut self, contexts: &mut Contexts, alert: [u8; alerts::ALERT_BYTES], out: &mut Vec<u8>) {
        if self.outgoing == Outgoing::Open || self.outgoing == Outgoing::OwesReply {
            self.outgoing = Outgoing::Closed;
            self.seal_control(contexts, TYPE_ALERT, &alert, out);
        }
    }

    /// Records of data that the key of a TLS 1.2 session is still good for.
    fn records_left_12(&self) -> u64 {
        let records_max = match self.suite {
            Suite::Aes128Gcm | Suite::Aes256Gcm => KEY_RECORDS_MAX,
            // Its limit is the sequence number, less those of alerts.
            Suite::ChaCha20Poly1305 => u64::from(u32::MAX) - 64,
        };
        records_max.saturating_sub(self.sealing.sequence())
    }

    /// Changes the key in time (TLS 1.3).
    fn refresh_key(&mut self, contexts: &mut Contexts, out: &mut Vec<u8>) {
        if self.version == Version::Tls13 && self.sealing.sequence() >= KEY_RECORDS_MAX {
            self.update_key(contexts, out);
        }
    }

    /// Appends a KeyUpdate and goes on with the next key.
    pub(super) fn update_key(&mut self, contexts: &mut Contexts, out: &mut Vec<u8>) {
        self.seal_control(contexts, TYPE_HANDSHAKE, &KEY_UPDATE, out);
        contexts.sealing.clear();
        self.sealing.update(self.suite);
    }

    fn seal_control(&mut self, contexts: &mut Contexts, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        if let Some(begun) = self.begin(kind, content.len(), out) {
            let cipher = keyed(&mut contexts.sealing, self.suite, &self.sealing);
            cipher.seal(&begun.nonce, begun.additional(), content, begun.extra(), out);
        }
    }

    /// Appends one record of any type and content, as a peer could send it. TLS 1.3: a `kind` of 0 makes the last bytes of
    /// `content`, that byte and what zeros are in front of it padding.
    #[cfg(any(test, feature = "rig"))]
    pub fn seal_any(&mut self, contexts: &mut Contexts, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        self.seal_control(contexts, kind, content, out);
    }

    /// Goes on with the next key, as if a KeyUpdate had been sent.
    #[cfg(any(test, feature = "rig"))]
    pub fn skip_to_next_key(&mut self, contexts: &mut Contexts) {
        contexts.sealing.clear();
        self.sealing.update(self.suite);
    }

    fn seal_piece(
        &mut self,
        contexts: &mut Contexts,
        pieces: &mut Pieces<'_>,
        piece: Piece<'_>,
        out: &mut Vec<u8>,
    ) {
        let len = match piece {
            Piece::Long(source) => source.len(),
            Piece::Short { bytes } => bytes,
        };
        debug_assert!((1..=PLAINTEXT_BYTES_MAX).contains(&len));
        let begun = self.begin(TYPE_APPLICATION_DATA, len, out).expect("records_left_12, refresh_key");
        let cipher = keyed(&mut contexts.sealing, self.suite, &self.sealing);
        match piece {
            Piece::Long(source) => cipher.seal(&begun.nonce, begun.additional(), source, begun.extra(), out),
            Piece::Short { bytes } => {
                let from = out.len();
                pieces.append(bytes, out);
                cipher.seal_in_place(&begun.nonce, begun.additional(), from, begun.extra(), out);
            }
        }
    }

    /// Appends the header of a record, and takes its number. `None` when numbers have run out.
    fn begin(&mut self, kind: u8, content_bytes: usize, out: &mut Vec<u8>) -> Option<Begun> {
        let sequence = self.sealing.take_sequence()?;
        let nonce = self.sealing.nonce(sequence);
        let has_inner_kind = self.version == Version::Tls13;
        let has_explicit_nonce = has_explicit_nonce(self.version, self.suite);
        let outer_kind = if has_inner_kind { TYPE_APPLICATION_DATA } else { kind };
        let explicit: &[u8] =
            if has_explicit_nonce { &nonce[NONCE_BYTES - EXPLICIT_NONCE_BYTES..] } else { &[] };
        let body_bytes = explicit.len() + content_bytes + usize::from(has_inner_kind) + TAG_BYTES;
        let [high, low] = u16::try_from(body_bytes).expect("a record of at most 2^14 bytes").to_be_bytes();
        let header = [outer_kind, RECORD_VERSION[0], RECORD_VERSION[1], high, low];
        out.extend_from_slice(&header);
        out.extend_from_slice(explicit);
        let (additional, additional_bytes) = match self.version {
            Version::Tls12 => (additional_12(sequence, &header, content_bytes), 13),
            Version::Tls13 => {
                let mut additional = [0; 13];
                additional[..HEADER_BYTES].copy_from_slice(&header);
                (additional, HEADER_BYTES)
            }
        };
        Some(Begun { nonce, additional, additional_bytes, kind: [kind], has_inner_kind })
    }
}

/// The plaintext of one record.
#[derive(Clone, Copy)]
enum Piece<'a> {
    /// One that is sealed from where it lies.
    Long(&'a [u8]),
    /// So many bytes, from several parts, that are copied first.
    Short { bytes: usize },
}

/// Cuts parts into pieces for records.
struct Pieces<'a> {
    parts: &'a [&'a [u8]],
    /// Bytes of the first part that are used.
    at: usize,
}

impl<'a> Pieces<'a> {
    /// The next piece. A short one is taken by `append` before the next is asked for.
    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = loop {
            let (first, behind) = self.parts.split_first()?;
            let rest = &first[self.at..];
            if !rest.is_empty() {
                break rest;
            }
            (self.parts, self.at) = (behind, 0);
        };
        // A piece by itself is never copied.
        let is_alone = self.parts[1..].iter().all(|part| part.is_empty());
        if rest.len() >= JOINED_PIECE_BYTES_MAX || is_alone {
            let piece = &rest[..rest.len().min(PLAINTEXT_BYTES_MAX)];
            self.at += piece.len();
            return Some(Piece::Long(piece));
        }
        let mut bytes = rest.len();
        for part in &self.parts[1..] {
            if part.len() >= JOINED_PIECE_BYTES_MAX || bytes + part.len() > PLAINTEXT_BYTES_MAX {
                break;
            }
            bytes += part.len();
        }
        Some(Piece::Short { bytes })
    }

    /// Appends so many bytes.
    fn append(&mut self, mut bytes: usize, out: &mut Vec<u8>) {
        while bytes > 0 {
            let rest = &self.parts[0][self.at..];
            let taken = &rest[..rest.len().min(bytes)];
            out.extend_from_slice(taken);
            bytes -= taken.len();
            if taken.len() == rest.len() {
                (self.parts, self.at) = (&self.parts[1..], 0);
            } else {
                self.at += taken.len();
            }
        }
    }
}
