//! The records after a handshake: opened in place, sealed from their source.
//!
//! A [`Session`] is all that an idle connection keeps: keys, nonces, sequence numbers and traffic secrets. The contexts that
//! ciphers work with are made when they are needed ([`Contexts`]) and given up when the connection is parked.

use std::ops::Range;

use zeroize::Zeroize;

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
    /// The fixed part of the nonce: 12 bytes; in TLS 1.2 with AES-GCM the implicit 4 bytes.
    pub iv: &'a [u8],
    /// The number of the next record.
    pub sequence: u64,
    /// The traffic secret, from which the next key is made (TLS 1.3); empty in TLS 1.2.
    pub secret: &'a [u8],
}

/// What a connection keeps between two requests.
pub struct Session {
    _private: (),
}

/// The ciphers of a session, ready for use; apart from it, since a parked connection has none.
#[derive(Default)]
pub struct Contexts {
    _private: (),
}

/// A record that was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Application data: this part of the record.
    Data(Range<usize>),
    /// Nothing for the application. A reply may be due ([`Session::owes_reply`]).
    Nothing,
    /// To a client: a message for [`crate::handshake::ClientTickets`].
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
    /// A TLS 1.2 peer wants another handshake.
    Renegotiation,
    /// Too many records or messages in a row that carry nothing.
    Flood,
    /// The key may not be used for another record (TLS 1.2).
    KeyExhausted,
}

/// The length of the record at the front of `bytes`, header included; `None` if the header is not all there.
///
/// # Errors
/// It is no record, or too long a one.
pub fn record_bytes(_bytes: &[u8]) -> Result<Option<usize>, Fault> {
    todo!()
}

impl Session {
    /// The session behind a handshake.
    ///
    /// # Panics
    /// When key or IV are not those of the suite.
    pub fn new(
        _version: Version,
        _suite: Suite,
        _side: Side,
        _opening: &Traffic<'_>,
        _sealing: &Traffic<'_>,
    ) -> Session {
        todo!()
    }

    /// Opens one whole record in place.
    ///
    /// # Errors
    /// The connection is to be ended.
    pub fn open(&mut self, _contexts: &mut Contexts, _record: &mut [u8]) -> Result<Opened, Fault> {
        todo!()
    }

    /// Appends application data to `out`, in as few records as it takes; first what is owed to the peer.
    ///
    /// # Errors
    /// The key may not be used any more (TLS 1.2).
    pub fn seal(
        &mut self,
        _contexts: &mut Contexts,
        _plaintext: &[u8],
        _out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        todo!()
    }

    /// The same for several parts.
    ///
    /// # Errors
    /// As [`Session::seal`].
    pub fn seal_parts(
        &mut self,
        _contexts: &mut Contexts,
        _parts: &[&[u8]],
        _out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        todo!()
    }

    /// As [`Session::open`], of a record whose header is apart.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_body(
        &mut self,
        _contexts: &mut Contexts,
        _header: [u8; HEADER_BYTES],
        _body: &mut [u8],
    ) -> Result<Opened, Fault> {
        todo!()
    }

    /// How many bytes `plaintext_bytes` of application data become at most, with a reply in front of them.
    pub fn sealed_bytes_max(&self, _plaintext_bytes: usize) -> usize {
        todo!()
    }

    /// Whether the peer waits for a reply (to a KeyUpdate) although there is no data for it.
    pub fn owes_reply(&self) -> bool {
        todo!()
    }

    /// Appends what is owed to the peer.
    pub fn reply(&mut self, _contexts: &mut Contexts, _out: &mut Vec<u8>) {
        todo!()
    }

    /// Appends the alert that ends our side (close_notify). Nothing may be sealed behind it.
    pub fn close(&mut self, _contexts: &mut Contexts, _out: &mut Vec<u8>) {
        todo!()
    }

    /// Appends the alert for a fault of the peer. Nothing may be sealed behind it.
    pub fn alert(&mut self, _contexts: &mut Contexts, _fault: Fault, _out: &mut Vec<u8>) {
        todo!()
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        todo!()
    }

    /// The cipher.
    pub fn suite(&self) -> Suite {
        todo!()
    }
}

impl Contexts {
    /// Gives up the ciphers.
    pub fn clear(&mut self) {
        todo!()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The secrets.
        let _ = <[u8; 0] as Zeroize>::zeroize;
    }
}
