//! A client's address as text, written without the machinery of `std::fmt`: it goes into every request.

use std::fmt::Write;
use std::net::IpAddr;

/// Replaces `text` by an IP address; IPv6 without brackets. Allocates nothing once `text` has room for one.
pub(crate) fn write_address(text: &mut String, ip: IpAddr) {
    text.clear();
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    text.push('.');
                }
                text.push_str(itoa::Buffer::new().format(octet));
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a string does not fail.
            let _ = write!(text, "{v6}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_standard_library_writes() {
        let mut text = String::new();
        let mut written = |ip: &str| {
            write_address(&mut text, ip.parse().unwrap());
            text.clone()
        };
        for ip in ["127.0.0.1", "255.255.255.255", "0.0.0.0", "::1", "2001:db8::ff00:42:8329"] {
            assert_eq!(written(ip), ip);
        }
        assert_eq!(written("::ffff:10.1.2.3"), "10.1.2.3");
    }
}
