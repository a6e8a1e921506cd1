//! A client's address as text, written without the machinery of `std::fmt`: it goes into every request.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use sluice_proto::h1::UNIX_TEXT;
use sluice_sys::UNIX_PEER;

/// An IP address as text; IPv6 without brackets.
pub(crate) struct AddressText {
    bytes: [u8; IPV6_BYTES_MAX],
    len: usize,
}

/// Longest text of an IPv6 address: eight groups of four digits and seven colons.
const IPV6_BYTES_MAX: usize = 39;

/// Every octet in digits, with a dot behind it, and how many bytes that is.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut table = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (mut digits, mut place) = (0, 100);
        while place > 0 {
            // A zero counts behind another digit, or as the last.
            if octet >= place || place == 1 {
                table[octet].0[digits] = b'0' + (octet / place % 10) as u8;
                digits += 1;
            }
            place /= 10;
        }
        table[octet].1 = digits as u8 + 1;
        octet += 1;
    }
    table
};

impl Default for AddressText {
    fn default() -> AddressText {
        AddressText { bytes: [0; IPV6_BYTES_MAX], len: 0 }
    }
}

impl AddressText {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Replaces it.
    pub(crate) fn write(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            ip if ip == UNIX_PEER.ip() => self.write_unix(),
            IpAddr::V4(v4) => self.write_v4(v4),
            IpAddr::V6(v6) => {
                let mut rest = &mut self.bytes[..];
                // The longest there is has room, so this does not fail.
                let _ = write!(rest, "{v6}");
                self.len = IPV6_BYTES_MAX - rest.len();
            }
        }
    }

    /// A peer on a Unix socket has no address: the word of nginx for it.
    #[cold]
    fn write_unix(&mut self) {
        self.bytes[..UNIX_TEXT.len()].copy_from_slice(UNIX_TEXT);
        self.len = UNIX_TEXT.len();
    }

    fn write_v4(&mut self, v4: Ipv4Addr) {
        self.len = 0;
        for octet in v4.octets() {
            let (digits, len) = OCTETS[usize::from(octet)];
            self.bytes[self.len..self.len + digits.len()].copy_from_slice(&digits);
            self.len += usize::from(len);
        }
        // Without the last dot.
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_standard_library_writes() {
        let mut text = AddressText::default();
        let mut written = |ip: IpAddr| {
            text.write(ip);
            String::from_utf8(text.as_bytes().to_vec()).unwrap()
        };
        for octet in 0..=255_u8 {
            let ip = IpAddr::from([octet, 255 - octet, octet.rotate_left(3), octet / 7]);
            assert_eq!(written(ip), ip.to_string());
        }
        for ip in ["::1", "2001:db8::ff00:42:8329", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "127.0.0.1"] {
            assert_eq!(written(ip.parse().unwrap()), ip);
        }
        assert_eq!(written("::ffff:10.1.2.3".parse().unwrap()), "10.1.2.3");
    }
}
