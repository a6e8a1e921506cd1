//! What a client offers, read from its first bytes before a handshake begins (RFC 8446 section 4.1.2).

/// A ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// Its message, without record headers.
    pub message: std::borrow::Cow<'a, [u8]>,
}

/// The result of reading the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// All of it is there, in this many bytes of whole records.
    Complete(ClientHello<'a>, usize),
    /// More bytes are needed.
    Partial,
    /// These are not the first bytes of TLS.
    NotTls,
}

/// Reads the first bytes of a connection: one or several handshake records.
///
/// # Errors
/// A record or message that no client sends; the number is that of the alert.
pub fn parse(_bytes: &[u8]) -> Result<Parsed<'_>, u8> {
    todo!()
}
