//! What a client offers, read from its first bytes before a handshake begins (RFC 8446 section 4.1.2).
//!
//! All lengths are checked when a message is read, so the accessors cannot fail: what they walk over fits. Nothing is allocated for
//! a ClientHello in one record.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use aws_lc_rs::digest;

/// The most bytes of a message: three times those of a browser with post-quantum key shares and tickets, with room for those of
/// tickets with client certificates.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The most records that a message may be split into: clients that hide their name from middleboxes use a few.
const RECORDS_MAX: usize = 64;

/// The content type of handshakes: the first byte of a connection with TLS.
pub const HANDSHAKE: u8 = 22;

const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;
/// Version and random number.
const FIXED_BYTES: usize = 34;

const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// A ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// Its message, without record headers.
    pub message: Cow<'a, [u8]>,
    /// Where the ciphers are in the message.
    ciphers: Range<usize>,
    /// Where the extensions are, without the length in front.
    extensions: Range<usize>,
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
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, u8> {
    let is_tls = |bytes: &[u8]| match bytes {
        [] => true,
        [kind] => *kind == HANDSHAKE,
        [kind, major, ..] => *kind == HANDSHAKE && *major == 3,
    };
    if !is_tls(bytes) {
        return Ok(Parsed::NotTls);
    }
    let mut joined = Cow::Borrowed(&[][..]);
    let mut rest = bytes;
    for _ in 0..RECORDS_MAX {
        // A record behind the first one is judged by what is there of it, before it is complete.
        if !is_tls(rest) {
            return Err(UNEXPECTED_MESSAGE);
        }
        let Some(body_bytes) = body_bytes(rest)? else { return Ok(Parsed::Partial) };
        let fragment = &rest[RECORD_HEADER_BYTES..];
        let is_whole = fragment.len() >= body_bytes;
        let fragment = &fragment[..body_bytes.min(fragment.len())];
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
        let message_bytes = message_bytes(&joined)?;
        if !is_whole {
            return Ok(Parsed::Partial);
        }
        rest = &rest[RECORD_HEADER_BYTES + body_bytes..];
        match message_bytes {
            Some(message_bytes) if joined.len() == message_bytes => {
                return Ok(Parsed::Complete(ClientHello::new(joined)?, bytes.len() - rest.len()));
            }
            // A client sends nothing behind it before it has the server's answer.
            Some(message_bytes) if joined.len() > message_bytes => return Err(UNEXPECTED_MESSAGE),
            _ => {}
        }
    }
    Err(ILLEGAL_PARAMETER)
}

/// The length that the header at the front names.
fn body_bytes(record: &[u8]) -> Result<Option<usize>, u8> {
    let Some((header, _)) = record.split_first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
    match usize::from(u16::from_be_bytes([header[3], header[4]])) {
        // Handshake records are never empty.
        0 => Err(DECODE_ERROR),
        long if long > crate::record::PLAINTEXT_BYTES_MAX => Err(RECORD_OVERFLOW),
        bytes => Ok(Some(bytes)),
    }
}

/// The length of the message with its header, if the header is there.
fn message_bytes(message: &[u8]) -> Result<Option<usize>, u8> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(UNEXPECTED_MESSAGE);
    }
    let Some((header, _)) = message.split_first_chunk::<MESSAGE_HEADER_BYTES>() else { return Ok(None) };
    let bytes = MESSAGE_HEADER_BYTES + u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if bytes > MESSAGE_BYTES_MAX { Err(ILLEGAL_PARAMETER) } else { Ok(Some(bytes)) }
}

impl<'a> ClientHello<'a> {
    fn new(message: Cow<'a, [u8]>) -> Result<ClientHello<'a>, u8> {
        let (ciphers, extensions) = shape(&message).ok_or(DECODE_ERROR)?;
        Ok(ClientHello { message, ciphers, extensions })
    }

    /// The version in front, from before `supported_versions`.
    pub fn legacy_version(&self) -> u16 {
        number(&self.message[MESSAGE_HEADER_BYTES..])
    }

    /// The ciphers, the client's preferred one first, GREASE (RFC 8701) among them.
    pub fn ciphers(&self) -> impl Iterator<Item = u16> + Clone + '_ {
        numbers(&self.message[self.ciphers.clone()])
    }

    /// The extensions with their contents, in their order.
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &[u8])> + Clone + '_ {
        Extensions(&self.message[self.extensions.clone()])
    }

    /// The content of the first extension of this kind.
    pub fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions().find(|(found, _)| *found == kind).map(|(_, content)| content)
    }

    /// The name that the client asks for, as it has written it.
    //= https://www.rfc-editor.org/rfc/rfc6066#section-3
    pub fn sni(&self) -> Option<&str> {
        const HOST_NAME: u8 = 0;
        let (names, _) = sized::<2>(self.extension(SERVER_NAME)?)?;
        let (kind, rest) = names.split_first()?;
        let (name, _) = sized::<2>(rest)?;
        if *kind == HOST_NAME { std::str::from_utf8(name).ok() } else { None }
    }

    /// The protocols on offer, the preferred one first.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> + Clone + '_ {
        let names = self.extension(ALPN).and_then(sized::<2>).map_or(&[][..], |(names, _)| names);
        Names(names)
    }

    /// The versions on offer, the preferred one first, GREASE among them; none of a client before TLS 1.3.
    pub fn versions(&self) -> impl Iterator<Item = u16> + Clone + '_ {
        let list = self.extension(SUPPORTED_VERSIONS).and_then(sized::<1>);
        numbers(list.map_or(&[][..], |(list, _)| list))
    }

    /// The groups on offer, GREASE among them.
    pub fn groups(&self) -> impl Iterator<Item = u16> + Clone + '_ {
        self.listed(SUPPORTED_GROUPS)
    }

    /// The signatures that the client can check.
    pub fn signature_algorithms(&self) -> impl Iterator<Item = u16> + Clone + '_ {
        self.listed(SIGNATURE_ALGORITHMS)
    }

    fn listed(&self, kind: u16) -> impl Iterator<Item = u16> + Clone + '_ {
        numbers(self.extension(kind).and_then(sized::<2>).map_or(&[][..], |(list, _)| list))
    }

    /// The fingerprint of the client's software by JA4 (FoxIO, `technical_details/JA4.md`), of TLS over TCP.
    pub fn ja4(&self) -> String {
        let (mut ciphers, mut extensions) = (Vec::new(), Vec::new());
        ciphers.extend(self.ciphers().filter(is_known));
        extensions.extend(self.extensions().map(|(kind, _)| kind).filter(is_known));
        let (cipher_count, extension_count) = (ciphers.len().min(99), extensions.len().min(99));
        let name = if self.extension(SERVER_NAME).is_some() { 'd' } else { 'i' };
        let [first, last] = self.ja4_alpn();
        ciphers.sort_unstable();
        // Both are in the first part already.
        extensions.retain(|kind| *kind != SERVER_NAME && *kind != ALPN);
        extensions.sort_unstable();
        let mut hashed = list_of(extensions.into_iter());
        let signatures = list_of(self.signature_algorithms().filter(is_known));
        if !hashed.is_empty() && !signatures.is_empty() {
            hashed = format!("{hashed}_{signatures}");
        }
        let ciphers = short_hash(&list_of(ciphers.into_iter()));
        let version = self.ja4_version();
        format!(
            "t{version}{name}{cipher_count:02}{extension_count:02}{first}{last}_{ciphers}_{}",
            short_hash(&hashed)
        )
    }

    /// The newest version on offer.
    fn ja4_version(&self) -> &'static str {
        let newest = self.versions().filter(is_known).max();
        match newest.unwrap_or_else(|| self.legacy_version()) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0x0002 => "s2",
            _ => "00",
        }
    }

    /// The first and the last character of the first protocol; those of its bytes in hexadecimal if one of them is no letter or
    /// digit.
    fn ja4_alpn(&self) -> [char; 2] {
        let Some(name) = self.alpn().next() else { return ['0', '0'] };
        let (Some(first), Some(last)) = (name.first(), name.last()) else { return ['0', '0'] };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            return [char::from(*first), char::from(*last)];
        }
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        [digit(first >> 4), digit(last & 0xf)]
    }
}

/// Where ciphers and extensions are, if all lengths fit.
fn shape(message: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    let place = |rest: &[u8]| message.len() - rest.len();
    let rest = message.get(MESSAGE_HEADER_BYTES + FIXED_BYTES..)?;
    let (session_id, rest) = sized::<1>(rest)?;
    let (ciphers, rest) = sized::<2>(rest)?;
    let cipher_range = place(rest) - ciphers.len()..place(rest);
    let (compressions, rest) = sized::<1>(rest)?;
    let fits =
        session_id.len() <= 32 && !ciphers.is_empty() && ciphers.len() % 2 == 0 && !compressions.is_empty();
    if !fits {
        return None;
    }
    if rest.is_empty() {
        // A client of TLS 1.2 may have no extensions at all.
        return Some((cipher_range, message.len()..message.len()));
    }
    let (extensions, rest) = sized::<2>(rest)?;
    let mut remaining = extensions;
    while !remaining.is_empty() {
        let (kind, content) = (remaining.get(..2)?, remaining.get(2..)?);
        let (content, behind) = sized::<2>(content)?;
        if !is_content(number(kind), content) {
            return None;
        }
        remaining = behind;
    }
    let start = message.len() - extensions.len();
    rest.is_empty().then_some((cipher_range, start..message.len()))
}

/// Whether an extension that is read here has the shape that it should have.
fn is_content(kind: u16, content: &[u8]) -> bool {
    let whole =
        |list: Option<(&[u8], &[u8])>| list.is_some_and(|(list, rest)| !list.is_empty() && rest.is_empty());
    let numbers =
        |list: Option<(&[u8], &[u8])>| whole(list) && list.is_some_and(|(list, _)| list.len() % 2 == 0);
    match kind {
        SERVER_NAME => {
            let names = sized::<2>(content);
            let is_entry = |names: &[u8]| {
                let name = names.get(1..).and_then(sized::<2>);
                name.is_some_and(|(name, _)| !name.is_empty())
            };
            whole(names) && names.is_some_and(|(names, _)| is_entry(names))
        }
        ALPN => {
            let names = sized::<2>(content);
            whole(names)
                && names.is_some_and(|(names, _)| {
                    Names(names).map(<[u8]>::len).all(|len| len > 0) && Names(names).fits()
                })
        }
        SUPPORTED_VERSIONS => numbers(sized::<1>(content)),
        SUPPORTED_GROUPS | SIGNATURE_ALGORITHMS => numbers(sized::<2>(content)),
        _ => true,
    }
}

/// What a length of `N` bytes says, and what is behind it.
fn sized<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

/// The first two bytes; 0 if there are fewer.
fn number(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |pair| u16::from_be_bytes(*pair))
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> + Clone + '_ {
    bytes.chunks_exact(2).map(number)
}

/// Extensions one behind the other.
#[derive(Clone)]
struct Extensions<'a>(&'a [u8]);

impl<'a> Iterator for Extensions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let (content, rest) = sized::<2>(self.0.get(2..)?)?;
        let kind = number(self.0);
        self.0 = rest;
        Some((kind, content))
    }
}

/// Names with a length of one byte in front.
#[derive(Clone)]
struct Names<'a>(&'a [u8]);

impl Names<'_> {
    /// They end where the list ends.
    fn fits(mut self) -> bool {
        while self.next().is_some() {}
        self.0.is_empty()
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (name, rest) = sized::<1>(self.0)?;
        self.0 = rest;
        Some(name)
    }
}

/// Not one of those that clients mix in so that servers stay tolerant (GREASE, RFC 8701 section 2).
fn is_known(value: &u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high != low || high & 0x0f != 0x0a
}

/// `002f,1301`.
fn list_of(values: impl Iterator<Item = u16>) -> String {
    let mut list = String::new();
    for value in values {
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(list, "{comma}{value:04x}");
    }
    list
}

/// The first twelve digits of the SHA-256; zeros of nothing.
fn short_hash(list: &str) -> String {
    let mut hash = String::with_capacity(12);
    if list.is_empty() {
        return "000000000000".to_owned();
    }
    for byte in &digest::digest(&digest::SHA256, list.as_bytes()).as_ref()[..6] {
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

#[cfg(test)]
mod tests;
