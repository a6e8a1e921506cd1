//! PROXY protocol headers: tables of what is read and refused, and what must hold for any bytes.

use std::net::SocketAddr;

use proptest::prelude::*;
use sluice_proto::proxy_protocol::{
    Ends, HEADER_BYTES_MAX, Malformed, Parsed, UNKNOWN_V1, UNKNOWN_V2, WRITTEN_BYTES_MAX, parse, write_v1,
    write_v2,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn ends(source: &str, destination: &str) -> Ends {
    Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// A header of version 2 with the length that belongs to its block.
fn binary(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &len, block].concat()
}

const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdb, 0xfc, 0x01, 0xbb];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    binary(0x21, 0x11, &[&V4, tlvs].concat())
}

#[test]
fn lines_are_read() {
    for (line, wanted) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443", Some(ends("192.0.2.7:56324", "198.51.100.1:443"))),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0", Some(ends("255.255.255.255:65535", "0.0.0.0:0"))),
        ("PROXY TCP6 2001:db8::7 ::1 1 2", Some(ends("[2001:db8::7]:1", "[::1]:2"))),
        (
            "PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::ffff:c000:201 1 2",
            Some(ends("[2001:db8::7]:1", "[::ffff:192.0.2.1]:2")),
        ),
        ("PROXY UNKNOWN", None),
        ("PROXY UNKNOWN ", None),
        ("PROXY UNKNOWN ffff::1 whatever \t\0 it says", None),
    ] {
        let bytes = format!("{line}\r\n");
        let wanted = Ok(Parsed::Complete { ends: wanted, bytes: bytes.len() });
        assert_eq!(parse(bytes.as_bytes()), wanted, "{line}");
        assert_eq!(parse(format!("{bytes}GET / HTTP/1.1\r\n").as_bytes()), wanted, "{line}: what follows");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
    assert_eq!(parse(longest.as_bytes()), Ok(Parsed::Complete { ends: None, bytes: 107 }));
    let longer = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 15));
    assert_eq!(parse(longer.as_bytes()), Err(Malformed::TooLong));
}

#[test]
fn lines_that_break_a_rule_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 1\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY TCP4\t192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 56324 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 56324 443\r\n",
        "PROXY TCP4 ::ffff:192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 56324 443\r\n",
        "PROXY TCP6 2001:db8::7::1 ::1 56324 443\r\n",
        "PROXY TCP6 [2001:db8::7] ::1 56324 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 056324 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +56324 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 00\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\u{e9}\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN a\rb\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed::Line), "{line:?}");
    }
}

#[test]
fn other_first_bytes_are_no_header() {
    for bytes in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 ",
        "P ",
        "PROXX",
        "PROXY\tTCP4",
        "\n",
        "\r\n\r\n\0\r\nQUIT\r",
        "\r\nGET",
        "\0",
    ] {
        assert_eq!(parse(bytes.as_bytes()), Err(Malformed::Absent), "{bytes:?}");
    }
    assert_eq!(parse(b""), Ok(Parsed::Partial));
}

#[test]
fn binary_headers_are_read() {
    let v4 = ends("192.0.2.7:56316", "198.51.100.1:443");
    let v6_block: Vec<u8> = [
        &"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets()[..],
        &"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets(),
        &[0, 1, 0, 2],
    ]
    .concat();
    for (name, bytes, wanted) in [
        ("TCP over IPv4", binary(0x21, 0x11, &V4), Some(v4)),
        ("TCP over IPv6", binary(0x21, 0x21, &v6_block), Some(ends("[2001:db8::7]:1", "[2001:db8::1]:2"))),
        ("LOCAL", binary(0x20, 0x00, b""), None),
        ("LOCAL with a block that means nothing", binary(0x20, 0x11, b"x"), None),
        ("LOCAL with a family that does not exist", binary(0x20, 0xff, &V4), None),
        ("UNSPEC", binary(0x21, 0x00, b""), None),
        ("UNSPEC with something", binary(0x21, 0x00, b"something"), None),
        ("INET without a transport", binary(0x21, 0x10, b""), None),
        ("UDP over IPv4", binary(0x21, 0x12, &V4), None),
        ("UDP over IPv6", binary(0x21, 0x22, &v6_block), None),
        ("UNIX stream", binary(0x21, 0x31, &[b'/'; 216]), None),
        ("UNIX datagram", binary(0x21, 0x32, &[0; 216]), None),
        ("TLVs", with_tlvs(b"\x01\0\x02h2\x04\0\0\xe0\0\x01x"), Some(v4)),
        (
            "a TLV about TLS, with its own",
            with_tlvs(b"\x20\0\x0f\x07\0\0\0\0\x21\0\x07TLSv1.3\x02\0\0"),
            Some(v4),
        ),
        ("a TLV about TLS without its own", with_tlvs(b"\x20\0\x05\0\0\0\0\x01"), Some(v4)),
        ("the longest", with_tlvs(&[&[0x04, 0x0f, 0xe1], &[0; 4_065][..]].concat()), Some(v4)),
    ] {
        let wanted = Ok(Parsed::Complete { ends: wanted, bytes: bytes.len() });
        assert!(bytes.len() <= HEADER_BYTES_MAX);
        assert_eq!(parse(&bytes), wanted, "{name}");
        assert_eq!(parse(&[&bytes, &b"GET /"[..]].concat()), wanted, "{name}: what follows");
    }
}

#[test]
fn binary_headers_that_break_a_rule_are_refused() {
    for (name, bytes, wanted) in [
        ("version 1", binary(0x11, 0x11, &V4), Malformed::Unknown),
        ("version 3", binary(0x31, 0x11, &V4), Malformed::Unknown),
        ("command 2", binary(0x22, 0x11, &V4), Malformed::Unknown),
        ("family 4", binary(0x21, 0x41, &V4), Malformed::Unknown),
        ("transport 3", binary(0x21, 0x13, &V4), Malformed::Unknown),
        ("UNSPEC with transport 3", binary(0x21, 0x03, &V4), Malformed::Unknown),
        ("too short for IPv4", binary(0x21, 0x11, &V4[..11]), Malformed::TooShort),
        ("too short for IPv6", binary(0x21, 0x21, &[0; 35]), Malformed::TooShort),
        ("too short for UDP", binary(0x21, 0x12, &V4[..11]), Malformed::TooShort),
        ("too short for UNIX", binary(0x21, 0x31, &[0; 215]), Malformed::TooShort),
        ("too long", with_tlvs(&[&[0x04, 0x0f, 0xe2], &[0; 4_066][..]].concat()), Malformed::TooLong),
        ("one byte of a TLV", with_tlvs(&[0x04]), Malformed::Tlv),
        ("two bytes of a TLV", with_tlvs(&[0x04, 0]), Malformed::Tlv),
        ("a TLV without its value", with_tlvs(&[0x04, 0, 1]), Malformed::Tlv),
        ("a TLV beyond the end", with_tlvs(&[0x04, 0xff, 0xff, 1]), Malformed::Tlv),
        ("bytes behind the last TLV", with_tlvs(&[0x04, 0, 0, 9]), Malformed::Tlv),
        ("a TLV about TLS that is too short", with_tlvs(b"\x20\0\x04\x01\0\0\0"), Malformed::Tlv),
        (
            "one inside that ends beyond it",
            with_tlvs(b"\x20\0\x08\x01\0\0\0\0\x21\0\x01\x04\0\0"),
            Malformed::Tlv,
        ),
        ("half a one inside", with_tlvs(b"\x20\0\x07\x01\0\0\0\0\x21\0"), Malformed::Tlv),
        ("an id of 129 bytes", with_tlvs(&[&[5, 0, 129], &[7; 129][..]].concat()), Malformed::Tlv),
        ("a checksum of three bytes", with_tlvs(&[0x03, 0, 3, 1, 2, 3]), Malformed::Tlv),
        ("a wrong checksum", with_tlvs(&[0x03, 0, 4, 1, 2, 3, 4]), Malformed::Checksum),
        ("two checksums", with_tlvs(&[0x03, 0, 4, 1, 2, 3, 4, 0x03, 0, 4, 1, 2, 3, 4]), Malformed::Tlv),
    ] {
        assert_eq!(parse(&bytes), Err(wanted), "{name}");
    }
}

/// CRC-32C bit by bit, for comparison with the table; checked by the example of RFC 3720 appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}

#[test]
fn a_checksum_is_verified() {
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    // In front of another TLV and behind one.
    for (before, after) in [(&b""[..], &b"\x04\0\x01x"[..]), (b"\x04\0\x01x", b"")] {
        let mut bytes = with_tlvs(&[before, &[0x03, 0, 4, 0, 0, 0, 0], after].concat());
        let at = 16 + 12 + before.len() + 3;
        let sum = crc32c(&bytes);
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        assert!(matches!(parse(&bytes), Ok(Parsed::Complete { ends: Some(_), .. })));
        // All but the byte that says that there is a checksum.
        for changed in (16..bytes.len()).filter(|&changed| changed != at - 3) {
            let mut damaged = bytes.clone();
            damaged[changed] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {changed}");
        }
    }
}

#[test]
fn written_headers_are_those_of_the_specification() {
    let written = |write: fn(&mut Vec<u8>, &Ends), source, destination| {
        let mut out = Vec::new();
        write(&mut out, &ends(source, destination));
        out
    };
    let line = |source, destination| String::from_utf8(written(write_v1, source, destination)).unwrap();
    assert_eq!(
        line("192.0.2.7:56324", "198.51.100.1:443"),
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
    );
    assert_eq!(line("[2001:db8::7]:1", "[::1]:2"), "PROXY TCP6 2001:db8::7 ::1 1 2\r\n");
    assert_eq!(line("192.0.2.7:1", "[::1]:2"), "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n");
    assert_eq!(written(write_v2, "192.0.2.7:56316", "198.51.100.1:443"), binary(0x21, 0x11, &V4));
    assert_eq!(written(write_v2, "[2001:db8::7]:1", "192.0.2.1:2").len(), 16 + 36);
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 4]>().prop_map(|octets| std::net::Ipv4Addr::from(octets).to_ipv6_mapped().into()),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

/// Bytes that are nearly a header.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let lines = "PROXY (TCP4|TCP6|UNKNOWN|TCP)( [0-9a-f.:]{0,12}){0,5}[ \\r]?\\r?\\n?[GE]{0,3}"
        .prop_map(String::into_bytes);
    let fixed = prop_oneof![Just(0x20_u8), Just(0x21), any::<u8>()];
    let family = prop_oneof![Just(0_u8), Just(0x11), Just(0x21), Just(0x31), any::<u8>()];
    let block = proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..80);
    let binary = (fixed, family, block).prop_map(|(fixed, family, block)| binary(fixed, family, &block));
    prop_oneof![lines, binary, proptest::collection::vec(any::<u8>(), 0..30)]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(source in socket_address(), destination in socket_address(), rest in any::<Vec<u8>>()) {
        let same = |a: SocketAddr, b: SocketAddr| (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port());
        for write in [write_v1, write_v2] {
            let mut bytes = Vec::new();
            write(&mut bytes, &Ends { source, destination });
            let len = bytes.len();
            prop_assert!(len <= WRITTEN_BYTES_MAX);
            bytes.extend_from_slice(&rest);
            let parsed = parse(&bytes);
            let Ok(Parsed::Complete { ends: Some(read), bytes: used }) = parsed else { panic!("{parsed:?}") };
            prop_assert_eq!(used, len);
            prop_assert!(same(read.source, source) && same(read.destination, destination), "{:?}", read);
            for cut in 0..len {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Partial), "at {}", cut);
            }
        }
    }

    #[test]
    fn a_verdict_is_final(bytes in nearly_a_header()) {
        let mut verdict = Ok(Parsed::Partial);
        for len in 0..=bytes.len() {
            let now = parse(&bytes[..len]);
            if verdict != Ok(Parsed::Partial) {
                prop_assert_eq!(now, verdict, "at {} of {}", len, bytes.escape_ascii());
            }
            if let Ok(Parsed::Complete { bytes: used, .. }) = now {
                prop_assert!(used <= len);
            }
            verdict = now;
        }
    }
}

#[test]
fn headers_without_addresses_are_complete() {
    for header in [UNKNOWN_V1, UNKNOWN_V2] {
        assert_eq!(parse(header), Ok(Parsed::Complete { ends: None, bytes: header.len() }));
    }
}
