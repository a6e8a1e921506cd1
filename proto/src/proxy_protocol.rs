//! The PROXY protocol, versions 1 and 2: what a balancer says about a client before the client's first byte.
//!
//! Owns the reading of a header at the start of a connection and the writing of one. By the specification of HAProxy
//! (proxy-protocol.txt); the section is named where a rule is applied. Never decides who may send a header: that is the
//! caller's business, and all that the protocol's safety rests on.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, its CRLF included. Section 2.1.
pub const LINE_BYTES_MAX: usize = 107;

/// The longest header of version 2 that is read, its 16 fixed bytes included. The format allows 64 KiB; what is sent in
/// practice, certificates' names among it, stays far below this.
pub const HEADER_BYTES_MAX: usize = 4_096;

/// The longest header that is written.
pub const WRITTEN_BYTES_MAX: usize = LINE_BYTES_MAX;

/// How version 2 begins. Section 2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE_START: &[u8] = b"PROXY ";
/// The fixed part of version 2: signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;
/// Two addresses and two ports.
const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
/// Two paths.
const UNIX_BYTES: usize = 216;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;
/// What stands before the TLVs inside of [`TLV_SSL`]: a byte of flags, and the result of the verification.
const SSL_FIXED_BYTES: usize = 5;
const UNIQUE_ID_BYTES_MAX: usize = 128;

/// The two ends of a client's connection to the first proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// The result of reading the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing is wrong so far; call again, with the same bytes and more.
    Partial,
    /// The header is complete.
    Complete {
        /// The client's connection; `None` when the header names none that could be used (LOCAL, UNKNOWN, UNSPEC, UNIX, UDP):
        /// then the connection itself is the client's.
        ends: Option<Ends>,
        /// Bytes of the header. What follows is the client's.
        bytes: usize,
    },
}

/// Why there is no header. The connection cannot be used: its client is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// The first bytes are those of no header.
    Absent,
    /// A line of version 1 without an end, or a header of version 2 above [`HEADER_BYTES_MAX`].
    TooLong,
    /// A line of version 1 that breaks a rule.
    Line,
    /// A version, command, family or transport that does not exist.
    Unknown,
    /// Shorter than its addresses need.
    TooShort,
    /// A TLV that does not end with the header, or is there twice where it must not be.
    Tlv,
    /// The checksum is wrong.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "no PROXY protocol header",
            Self::TooLong => "PROXY protocol header is too long",
            Self::Line => "malformed PROXY protocol line",
            Self::Unknown => "unknown PROXY protocol version, command, family or transport",
            Self::TooShort => "PROXY protocol header is too short for its addresses",
            Self::Tlv => "malformed TLV in a PROXY protocol header",
            Self::Checksum => "wrong checksum in a PROXY protocol header",
        })
    }
}

impl core::error::Error for Malformed {}

/// Reads the header at the start of `bytes`, of either version.
///
/// # Errors
///
/// The bytes are, or can only become, something other than a valid header. A verdict does not change when more bytes come.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let starts_like = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
    if starts_like(LINE_START) {
        parse_line(bytes)
    } else if starts_like(SIGNATURE) {
        parse_binary(bytes)
    } else {
        Err(Malformed::Absent)
    }
}

/// Version 1, section 2.1.
fn parse_line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(line_feed) = memchr::memchr(b'\n', window) else {
        return if window.len() < LINE_BYTES_MAX { Ok(Parsed::Partial) } else { Err(Malformed::TooLong) };
    };
    // "The receiver must not tolerate a single CR or LF character to end the line"
    let line = window[..line_feed].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    let complete = |ends| Ok(Parsed::Complete { ends, bytes: line_feed + 1 });
    let text = line.strip_prefix(LINE_START).ok_or(Malformed::Line)?;
    if let Some(rest) = text.strip_prefix(b"UNKNOWN") {
        // "the receiver must ignore anything presented before the CRLF"
        let is_whole_word = rest.is_empty() || rest.starts_with(b" ");
        return if is_whole_word && !rest.contains(&b'\r') { complete(None) } else { Err(Malformed::Line) };
    }
    complete(Some(parse_ends(text).ok_or(Malformed::Line)?))
}

/// `TCP4 source destination source-port destination-port`, single spaces in between.
fn parse_ends(text: &[u8]) -> Option<Ends> {
    let mut words = core::str::from_utf8(text).ok()?.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse().ok().map(IpAddr::V4),
            "TCP6" => word.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (parse_port(words.next()?)?, parse_port(words.next()?)?);
    let ends = Ends {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    };
    words.next().is_none().then_some(ends)
}

/// "Heading zeroes are not permitted", and a sign is none of the digits.
fn parse_port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| is_plain)
}

/// Version 2, section 2.2.
fn parse_binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.get(12).is_some_and(|version_and_command| !matches!(version_and_command, 0x20 | 0x21)) {
        return Err(Malformed::Unknown);
    }
    let [.., version_and_command, family, len_high, len_low] = match bytes.first_chunk::<FIXED_BYTES>() {
        Some(fixed) => *fixed,
        None => return Ok(Parsed::Partial),
    };
    let is_local = version_and_command == 0x20;
    // For LOCAL "the protocol block including the family" is ignored.
    let address_bytes = if is_local { 0 } else { address_bytes(family)? };
    let len = usize::from(u16::from_be_bytes([len_high, len_low]));
    if len < address_bytes {
        return Err(Malformed::TooShort);
    }
    if FIXED_BYTES + len > HEADER_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    let Some(header) = bytes.get(..FIXED_BYTES + len) else { return Ok(Parsed::Partial) };
    // Behind LOCAL and UNSPEC nothing is known to be TLVs, and nothing of it is used.
    if address_bytes > 0 {
        check_tlvs(header, FIXED_BYTES + address_bytes)?;
    }
    let ends = match family {
        _ if is_local => None,
        0x11 => header[FIXED_BYTES..].first_chunk().map(ends_v4),
        0x21 => header[FIXED_BYTES..].first_chunk().map(ends_v6),
        // "falls back to the UNSPEC mode for the valid combinations ... that it does not support"
        _ => None,
    };
    Ok(Parsed::Complete { ends, bytes: header.len() })
}

/// How many bytes the addresses of a family take, by the 14th byte.
fn address_bytes(family_and_transport: u8) -> Result<usize, Malformed> {
    match (family_and_transport >> 4, family_and_transport & 0xf) {
        (0, 0..=2) | (1..=3, 0) => Ok(0),
        (1, 1 | 2) => Ok(INET_BYTES),
        (2, 1 | 2) => Ok(INET6_BYTES),
        (3, 1 | 2) => Ok(UNIX_BYTES),
        _ => Err(Malformed::Unknown),
    }
}

fn ends_v4(block: &[u8; INET_BYTES]) -> Ends {
    let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
    with_ports(Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into(), ports)
}

fn ends_v6(block: &[u8; INET6_BYTES]) -> Ends {
    let (mut source, mut destination, mut ports) = ([0; 16], [0; 16], [0; 4]);
    source.copy_from_slice(&block[..16]);
    destination.copy_from_slice(&block[16..32]);
    ports.copy_from_slice(&block[32..]);
    with_ports(Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), ports)
}

fn with_ports(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Ends {
    Ends {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    }
}

/// Checks the TLVs from `start`: each must end within the header and the last with it. The checksum is verified if there is
/// one; of the others only the lengths are looked at, also inside of the one that has TLVs of its own. Section 2.2.
fn check_tlvs(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut checksum_at = None;
    let mut tlvs = Tlvs { bytes: header, at: start };
    while let Some((kind, value)) = tlvs.next()? {
        let is_fine = match kind {
            TLV_CRC32C => value.len() == 4 && checksum_at.replace(tlvs.at - value.len()).is_none(),
            TLV_UNIQUE_ID => value.len() <= UNIQUE_ID_BYTES_MAX,
            TLV_SSL => {
                let mut inner = Tlvs { bytes: value, at: SSL_FIXED_BYTES };
                while inner.next()?.is_some() {}
                value.len() >= SSL_FIXED_BYTES
            }
            _ => true,
        };
        if !is_fine {
            return Err(Malformed::Tlv);
        }
    }
    match checksum_at {
        Some(at) if !has_checksum(header, at) => Err(Malformed::Checksum),
        _ => Ok(()),
    }
}

/// TLVs one behind the other: a byte for the kind, two for the length, the value.
struct Tlvs<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tlvs<'a> {
    /// The kind and the value of the next one; `None` behind the last.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let ([kind, len_high, len_low], rest) = rest.split_first_chunk().ok_or(Malformed::Tlv)?;
        let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        let value = rest.get(..len).ok_or(Malformed::Tlv)?;
        self.at += 3 + len;
        Ok(Some((*kind, value)))
    }
}

/// Whether the four bytes at `at` are the CRC-32C of the header in which they are zero. Section 2.2.3.
fn has_checksum(header: &[u8], at: usize) -> bool {
    let (before, rest) = header.split_at(at);
    let Some((text, after)) = rest.split_first_chunk::<4>() else { return false };
    let parts = [before, &[0; 4], after];
    let crc = parts
        .into_iter()
        .flatten()
        .fold(!0, |crc: u32, byte| CRC32C[usize::from(crc as u8 ^ byte)] ^ (crc >> 8));
    !crc == u32::from_be_bytes(*text)
}

/// CRC-32C, reflected, a byte at a time. RFC 4960 appendix B.
static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// A header of version 1 for a client without an address, as on a Unix socket. Section 2.1.
pub const UNKNOWN_V1: &[u8] = b"PROXY UNKNOWN\r\n";

/// The same of version 2: PROXY, UNSPEC, and no addresses. Section 2.2.
pub const UNKNOWN_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";

/// Appends a header of version 1. Where only one of the addresses is IPv4, it is written as mapped into IPv6.
pub fn write_v1(out: &mut Vec<u8>, ends: &Ends) {
    use fmt::Write as _;
    let Ends { source, destination } = ends;
    let mut line = Line(out);
    // Writing to a vector does not fail.
    let _ = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => write!(line, "PROXY TCP4 {from} {to}"),
        (from, to) => write!(line, "PROXY TCP6 {} {}", v6(from), v6(to)),
    };
    let _ = write!(line, " {} {}\r\n", source.port(), destination.port());
}

/// Appends a header of version 2. Where only one of the addresses is IPv4, it is written as mapped into IPv6.
pub fn write_v2(out: &mut Vec<u8>, ends: &Ends) {
    let Ends { source, destination } = ends;
    out.extend_from_slice(SIGNATURE);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, INET_BYTES as u8]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, INET6_BYTES as u8]);
            out.extend_from_slice(&v6(from).octets());
            out.extend_from_slice(&v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

struct Line<'a>(&'a mut Vec<u8>);

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
