//! The records after a handshake: opened in place, sealed from their source.
//!
//! A [`Session`] is all that an idle connection keeps: keys, nonces, sequence numbers and traffic secrets. The contexts that
//! ciphers work with are made when they are needed ([`Contexts`]) and given up when the connection is parked.

mod alerts;
mod kernel;
mod keys;
mod messages;
mod seal;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use kernel::{Control, KERNEL_PIECE_BYTES};
use keys::{EXPLICIT_NONCE_BYTES, Keys, has_explicit_nonce};
pub use messages::{MESSAGE_BYTES_MAX, TICKETS_MAX};
use messages::{Message, Messages, UpdateRequest};
pub use seal::{JOINED_PIECE_BYTES_MAX, KEY_RECORDS_MAX};
use sluice_sys::aead::{Aead, TAG_BYTES};

/// The most bytes of plaintext in a record.
//= https://www.rfc-editor.org/rfc/rfc8446#section-5.1
pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// The content type, the version and the length in front of every record.
pub const HEADER_BYTES: usize = 5;

/// The most bytes of a whole record, header included (TLS 1.2 allows 2,048 beyond the plaintext, TLS 1.3 256).
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + 2_048;

/// The protocol version of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The cipher of a session's records; those that rustls offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-128 in Galois/counter mode, with SHA-256.
    Aes128Gcm,
    /// AES-256 in Galois/counter mode, with SHA-384.
    Aes256Gcm,
    /// ChaCha20 and Poly1305, with SHA-256.
    ChaCha20Poly1305,
}

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to us.
    Opening,
    /// From us to the peer.
    Sealing,
}

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client is the peer.
    Server,
    /// The server is the peer.
    Client,
}

/// The secrets of one direction as they come out of a handshake.
pub struct Traffic<'a> {
    /// The key of the cipher.
    pub key: &'a [u8],
    /// The fixed part of the nonce: 12 bytes. In TLS 1.2 with AES-GCM the implicit 4 bytes, or these and the 8 with which the
    /// sequence number is mixed to make the explicit part (rustls hands them out so, and has used the first of them).
    pub iv: &'a [u8],
    /// The number of the next record.
    pub sequence: u64,
    /// The traffic secret, from which the next key is made (TLS 1.3); empty in TLS 1.2.
    pub secret: &'a [u8],
}

/// What the kernel needs to seal or open in our place (kernel TLS).
#[derive(Clone, Copy)]
pub struct KernelKeys<'a> {
    /// The protocol version.
    pub version: Version,
    /// The cipher.
    pub suite: Suite,
    /// The key of the cipher.
    pub key: &'a [u8],
    /// The IV. In TLS 1.2 with AES-GCM 4 bytes of salt and the explicit nonce from which the kernel counts on: none that it
    /// comes to was used before.
    pub iv: [u8; 12],
    /// The number of the next record.
    pub sequence: u64,
}

/// What a connection keeps between two requests. A connection that waits for a request holds one of these, so its size counts.
pub struct Session {
    opening: Keys,
    sealing: Keys,
    /// The beginning of a handshake message, or tickets: on few connections, for a short time.
    messages: Option<Box<Messages>>,
    version: Version,
    suite: Suite,
    side: Side,
    incoming: Incoming,
    outgoing: Outgoing,
    /// KeyUpdates since there were data.
    key_updates: u8,
    /// Other records since there were data.
    idle_records: u8,
    warnings: u8,
}

/// The state of the peer's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incoming {
    Open,
    /// It was closed, or the peer has given up.
    Closed,
    /// A record was at fault.
    Failed,
}

/// The state of our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Open,
    /// A KeyUpdate goes before the next data.
    OwesReply,
    Closed,
    /// The kernel seals.
    InKernel,
    /// It did, up to the end.
    ClosedInKernel,
}

/// The ciphers of a session, ready for use; apart from it, since a parked connection has none. They belong to one session, and
/// are cleared before another one takes them.
#[derive(Debug, Default)]
pub struct Contexts {
    opening: Aead,
    sealing: Aead,
}

/// A record that was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Application data: this part of the record.
    Data(Range<usize>),
    /// Nothing for the application. A reply may be due ([`Session::owes_reply`]).
    Nothing,
    /// To a client: the body of a NewSessionTicket, for [`crate::handshake::ClientTickets`]. A record may have brought others:
    /// [`Session::next_ticket`].
    Ticket(Vec<u8>),
    /// The peer has ended its side properly (close_notify): nothing follows.
    Closed,
    /// The peer has given up with this alert: nothing follows.
    Aborted(u8),
}

/// Why a peer's record ends the connection; [`Session::alert`] says so to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The record is longer than any may be.
    Overflow,
    /// The record is not authentic.
    BadMac,
    /// A type of record or message that is not expected here.
    Unexpected,
    /// A message that cannot be read.
    Malformed,
    /// A value that is not allowed.
    IllegalParameter,
    /// A TLS 1.2 peer wants another handshake.
    Renegotiation,
    /// Too many records or messages in a row that carry nothing.
    Flood,
    /// The key may not be used for another record (TLS 1.2).
    KeyExhausted,
    /// The peer wants another key of us, and the kernel seals with the one it has.
    KeyInKernel,
}

/// The most KeyUpdates in a row, without data between them.
pub const KEY_UPDATES_MAX: u8 = 32;

/// The most records in a row that bring neither data nor a KeyUpdate: empty ones, pieces of messages, tickets.
pub const IDLE_RECORDS_MAX: u8 = 32;

/// The most alerts of a connection that do not end it.
pub const WARNINGS_MAX: u8 = 4;

const TYPE_CHANGE_CIPHER_SPEC: u8 = 20;
const TYPE_ALERT: u8 = 21;
const TYPE_HANDSHAKE: u8 = 22;
const TYPE_APPLICATION_DATA: u8 = 23;

/// Handshake messages of TLS 1.2 that begin another handshake.
const TYPE_HELLO_REQUEST: u8 = 0;
const TYPE_CLIENT_HELLO: u8 = 1;

/// What a record of TLS 1.3 may have beyond the plaintext, and one of TLS 1.2.
const EXPANSION_BYTES_MAX_13: usize = 256;
const EXPANSION_BYTES_MAX_12: usize = 2_048;

/// The length of the record at the front of `bytes`, header included; `None` if the header is not all there.
///
/// # Errors
/// It is no record, or too long a one.
pub fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(kind) = bytes.first() else { return Ok(None) };
    if !(TYPE_CHANGE_CIPHER_SPEC..=TYPE_APPLICATION_DATA).contains(kind) {
        return Err(Fault::Unexpected);
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let record_bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if record_bytes > RECORD_BYTES_MAX { Err(Fault::Overflow) } else { Ok(Some(record_bytes)) }
}

impl Session {
    /// The session behind a handshake.
    ///
    /// # Panics
    /// When key, IV or secret are not those of the suite.
    pub fn new(
        version: Version,
        suite: Suite,
        side: Side,
        opening: &Traffic<'_>,
        sealing: &Traffic<'_>,
    ) -> Session {
        Session {
            opening: Keys::new(version, suite, opening),
            sealing: Keys::new(version, suite, sealing),
            messages: None,
            version,
            suite,
            side,
            incoming: Incoming::Open,
            outgoing: Outgoing::Open,
            key_updates: 0,
            idle_records: 0,
            warnings: 0,
        }
    }

    /// Opens one whole record in place. Behind the end of the peer's side, or a fault, nothing is opened any more.
    ///
    /// # Errors
    /// The connection is to be ended.
    pub fn open(&mut self, contexts: &mut Contexts, record: &mut [u8]) -> Result<Opened, Fault> {
        let Some((header, body)) = record.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Err(Fault::Malformed);
        };
        Ok(match self.open_body(contexts, *header, body)? {
            Opened::Data(range) => Opened::Data(range.start + HEADER_BYTES..range.end + HEADER_BYTES),
            other => other,
        })
    }

    /// As [`Session::open`], of a record whose header lies elsewhere; data are a part of its body.
    ///
    /// # Errors
    /// As there.
    pub fn open_body(
        &mut self,
        contexts: &mut Contexts,
        header: [u8; HEADER_BYTES],
        body: &mut [u8],
    ) -> Result<Opened, Fault> {
        match self.incoming {
            Incoming::Open => {}
            //= https://www.rfc-editor.org/rfc/rfc8446#section-6.1
            // What follows close_notify is ignored.
            Incoming::Closed => return Ok(Opened::Closed),
            Incoming::Failed => return Err(Fault::Unexpected),
        }
        let opened = self.open_record(contexts, header, body);
        match opened {
            Ok(Opened::Closed | Opened::Aborted(_)) => self.incoming = Incoming::Closed,
            Ok(_) => {}
            Err(_) => self.incoming = Incoming::Failed,
        }
        opened
    }

    /// A further ticket of the record that brought [`Opened::Ticket`]. What is not asked for is dropped with the next one.
    pub fn next_ticket(&mut self) -> Option<Vec<u8>> {
        let messages = self.messages.as_mut()?;
        let ticket = messages.tickets.pop_front();
        if messages.is_empty() {
            self.messages = None;
        }
        ticket
    }

    fn open_record(
        &mut self,
        contexts: &mut Contexts,
        header: [u8; HEADER_BYTES],
        body: &mut [u8],
    ) -> Result<Opened, Fault> {
        if record_bytes(&header)? != Some(HEADER_BYTES + body.len()) {
            return Err(Fault::Malformed);
        }
        let (kind, content) = match self.version {
            Version::Tls12 => self.decrypt_12(contexts, header, body)?,
            Version::Tls13 => self.decrypt_13(contexts, header, body)?,
        };
        let has_partial = self.messages.as_ref().is_some_and(|messages| !messages.partial.is_empty());
        //= https://www.rfc-editor.org/rfc/rfc8446#section-5.1
        // Nothing else comes between the pieces of a handshake message.
        if has_partial && kind != TYPE_HANDSHAKE {
            return Err(Fault::Unexpected);
        }
        match (kind, self.version) {
            (TYPE_APPLICATION_DATA, _) => self.handle_data(content),
            (TYPE_ALERT, _) => self.handle_alert(&body[content]),
            (TYPE_HANDSHAKE, Version::Tls13) => self.handle_handshake(contexts, &body[content]),
            (TYPE_HANDSHAKE, Version::Tls12) => Err(self.fault_of_handshake_12(&body[content])),
            //= https://www.rfc-editor.org/rfc/rfc8446#section-5
            // That includes ChangeCipherSpec.
            _ => Err(Fault::Unexpected),
        }
    }

    /// Decrypts a record of TLS 1.3; where its content lies, and of which type it is.
    //= https://www.rfc-editor.org/rfc/rfc8446#section-5.2
    fn decrypt_13(
        &mut self,
        contexts: &mut Contexts,
        header: [u8; HEADER_BYTES],
        sealed: &mut [u8],
    ) -> Result<(u8, Range<usize>), Fault> {
        if header[0] != TYPE_APPLICATION_DATA {
            return Err(Fault::Unexpected);
        }
        if sealed.len() > PLAINTEXT_BYTES_MAX + EXPANSION_BYTES_MAX_13 {
            return Err(Fault::Overflow);
        }
        let sequence = self.opening.take_sequence().ok_or(Fault::KeyExhausted)?;
        let nonce = self.opening.nonce(sequence);
        let cipher = keyed(&mut contexts.opening, self.suite, &self.opening);
        let len = cipher.open_in_place(&nonce, &header, sealed).map_err(|_| Fault::BadMac)?;
        if len > PLAINTEXT_BYTES_MAX + 1 {
            return Err(Fault::Overflow);
        }
        //= https://www.rfc-editor.org/rfc/rfc8446#section-5.4
        // The type is the last byte that is not zero: padding follows it.
        let end = sealed[..len].iter().rposition(|&byte| byte != 0).ok_or(Fault::Unexpected)?;
        Ok((sealed[end], 0..end))
    }

    /// The same for TLS 1.2.
    //= https://www.rfc-editor.org/rfc/rfc5246#section-6.2.3.3
    fn decrypt_12(
        &mut self,
        contexts: &mut Contexts,
        header: [u8; HEADER_BYTES],
        body: &mut [u8],
    ) -> Result<(u8, Range<usize>), Fault> {
        let body_bytes = body.len();
        if body.len() > PLAINTEXT_BYTES_MAX + EXPANSION_BYTES_MAX_12 {
            return Err(Fault::Overflow);
        }
        let sequence = self.opening.take_sequence().ok_or(Fault::KeyExhausted)?;
        let (nonce, sealed) = if has_explicit_nonce(self.version, self.suite) {
            let (explicit, sealed) =
                body.split_first_chunk_mut::<EXPLICIT_NONCE_BYTES>().ok_or(Fault::BadMac)?;
            (self.opening.nonce_with(explicit), sealed)
        } else {
            (self.opening.nonce(sequence), body)
        };
        let plaintext_bytes = sealed.len().checked_sub(TAG_BYTES).ok_or(Fault::BadMac)?;
        let additional = additional_12(sequence, &header, plaintext_bytes);
        let cipher = keyed(&mut contexts.opening, self.suite, &self.opening);
        let len = cipher.open_in_place(&nonce, &additional, sealed).map_err(|_| Fault::BadMac)?;
        if len > PLAINTEXT_BYTES_MAX {
            return Err(Fault::Overflow);
        }
        let kind = header[0];
        let end = body_bytes - TAG_BYTES;
        Ok((kind, end - len..end))
    }

    fn handle_data(&mut self, content: Range<usize>) -> Result<Opened, Fault> {
        if content.is_empty() {
            self.count_idle_record()?;
            return Ok(Opened::Nothing);
        }
        self.key_updates = 0;
        self.idle_records = 0;
        Ok(Opened::Data(content))
    }

    fn handle_alert(&mut self, content: &[u8]) -> Result<Opened, Fault> {
        match alerts::parse(self.version, content)? {
            alerts::Meaning::Close => Ok(Opened::Closed),
            alerts::Meaning::Abort(description) => Ok(Opened::Aborted(description)),
            alerts::Meaning::Warning => {
                count(&mut self.warnings, WARNINGS_MAX)?;
                Ok(Opened::Nothing)
            }
        }
    }

    fn handle_handshake(&mut self, contexts: &mut Contexts, content: &[u8]) -> Result<Opened, Fault> {
        //= https://www.rfc-editor.org/rfc/rfc8446#section-5.1
        if content.is_empty() {
            return Err(Fault::Unexpected);
        }
        let mut messages = self.messages.take();
        // Tickets that were not asked for are given up.
        let mut joined =
            messages.as_mut().map(|messages| std::mem::take(&mut messages.partial)).unwrap_or_default();
        let mut rest = if joined.is_empty() {
            content
        } else {
            joined.extend_from_slice(content);
            &joined
        };
        let mut kept = Messages::default();
        let mut has_key_update = false;
        while let Some((message, behind)) = messages::parse(self.side, rest)? {
            rest = behind;
            match message {
                //= https://www.rfc-editor.org/rfc/rfc8446#section-5.1
                // What follows a change of keys is sealed with the new one.
                Message::KeyUpdate(_) if !rest.is_empty() => return Err(Fault::Unexpected),
                Message::KeyUpdate(request) => {
                    has_key_update = true;
                    self.handle_key_update(contexts, request)?;
                }
                Message::Ticket(body) if kept.tickets.len() < TICKETS_MAX => {
                    kept.tickets.push_back(body.to_vec());
                }
                Message::Ticket(_) => {}
            }
        }
        if !has_key_update {
            self.count_idle_record()?;
        }
        kept.partial.extend_from_slice(rest);
        let first = kept.tickets.pop_front();
        if !kept.is_empty() {
            self.messages = Some(Box::new(kept));
        }
        Ok(first.map_or(Opened::Nothing, Opened::Ticket))
    }

    fn handle_key_update(&mut self, contexts: &mut Contexts, request: UpdateRequest) -> Result<(), Fault> {
        count(&mut self.key_updates, KEY_UPDATES_MAX)?;
        contexts.opening.clear();
        self.opening.update(self.suite);
        match (request, self.outgoing) {
            (UpdateRequest::Requested, Outgoing::Open) => self.outgoing = Outgoing::OwesReply,
            (UpdateRequest::Requested, Outgoing::InKernel) => return Err(Fault::KeyInKernel),
            _ => {}
        }
        Ok(())
    }

    /// Which fault a handshake message of TLS 1.2 is: there are none behind a handshake.
    fn fault_of_handshake_12(&self, content: &[u8]) -> Fault {
        match (self.side, content.first()) {
            (Side::Client, Some(&TYPE_HELLO_REQUEST)) | (Side::Server, Some(&TYPE_CLIENT_HELLO)) => {
                Fault::Renegotiation
            }
            _ => Fault::Unexpected,
        }
    }

    fn count_idle_record(&mut self) -> Result<(), Fault> {
        count(&mut self.idle_records, IDLE_RECORDS_MAX)
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cipher.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// What the kernel needs for one direction.
    pub fn kernel_keys(&self, direction: Direction) -> KernelKeys<'_> {
        let keys = match direction {
            Direction::Opening => &self.opening,
            Direction::Sealing => &self.sealing,
        };
        KernelKeys {
            version: self.version,
            suite: self.suite,
            key: keys.key(self.suite),
            iv: keys.kernel_iv(self.version, self.suite),
            sequence: keys.sequence(),
        }
    }
}

impl Contexts {
    /// Gives up the ciphers.
    pub fn clear(&mut self) {
        self.opening.clear();
        self.sealing.clear();
    }
}

/// The cipher of a direction; it is made where there is none.
fn keyed<'a>(cipher: &'a mut Aead, suite: Suite, keys: &Keys) -> &'a Aead {
    if !cipher.is_keyed() {
        cipher.set_key(suite.algorithm(), keys.key(suite));
    }
    cipher
}

/// What a record of TLS 1.2 is authenticated with beside its content: number, type, version and length of the plaintext.
//= https://www.rfc-editor.org/rfc/rfc5246#section-6.2.3.3
fn additional_12(sequence: u64, header: &[u8; HEADER_BYTES], plaintext_bytes: usize) -> [u8; 13] {
    let mut additional = [0; 13];
    additional[..8].copy_from_slice(&sequence.to_be_bytes());
    additional[8..11].copy_from_slice(&header[..3]);
    let plaintext_bytes =
        u16::try_from(plaintext_bytes).expect("less than a record, whose length has 16 bits");
    additional[11..].copy_from_slice(&plaintext_bytes.to_be_bytes());
    additional
}

/// Counts one more of what the peer may do `max` times.
fn count(counter: &mut u8, max: u8) -> Result<(), Fault> {
    if *counter == max {
        return Err(Fault::Flood);
    }
    *counter += 1;
    Ok(())
}
