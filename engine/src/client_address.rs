//! A client's address as text, written without the machinery of `std::fmt`: it goes into every request.

use std::net::IpAddr;

/// The longest textual IPv6 address.
const TEXT_BYTES: usize = 45;

/// An IP address as text; IPv6 without brackets.
pub(crate) struct ClientAddress {
    text: [u8; TEXT_BYTES],
    len: u8,
}

impl ClientAddress {
    pub(crate) fn new(ip: IpAddr) -> ClientAddress {
        let mut address = ClientAddress { text: [0; TEXT_BYTES], len: 0 };
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                for (at, octet) in v4.octets().into_iter().enumerate() {
                    if at > 0 {
                        address.push(b".");
                    }
                    address.push(itoa::Buffer::new().format(octet).as_bytes());
                }
            }
            IpAddr::V6(v6) => {
                use std::io::Write;
                let mut rest = &mut address.text[..];
                // Cannot fail: the text fits.
                let _ = write!(rest, "{v6}");
                address.len = (TEXT_BYTES - rest.len()) as u8;
            }
        }
        address
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)]).expect("an address is ASCII")
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.text[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_standard_library_writes() {
        for text in [
            "127.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "::1",
            "2001:db8::ff00:42:8329",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert_eq!(ClientAddress::new(text.parse().unwrap()).as_str(), text);
        }
        assert_eq!(ClientAddress::new("::ffff:10.1.2.3".parse().unwrap()).as_str(), "10.1.2.3");
    }
}
