//! ClientHellos whole, in pieces, and broken; the published examples of JA4.

use proptest::prelude::*;

use super::*;

fn sized16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

fn list16(values: &[u16]) -> Vec<u8> {
    sized16(&values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<_>>())
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized16(content)].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    sized16(&[&[0][..], &sized16(name.as_bytes())].concat())
}

fn protocols(names: &[&[u8]]) -> Vec<u8> {
    sized16(&names.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect::<Vec<_>>())
}

fn message(ciphers: &[u16], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = sized16(&extensions.concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &list16(ciphers), &[1, 0], &extensions].concat();
    [&[1, 0][..], &sized16(&body)].concat()
}

fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    message.chunks(fragment_bytes).flat_map(|part| [&[22, 3, 1][..], &sized16(part)].concat()).collect()
}

const CHROME_CIPHERS: [u16; 16] = [
    0x3a3a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
    0x009d, 0x002f, 0x0035,
];
const CHROME_SIGNATURES: [u16; 8] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];

/// The extensions of the example in `technical_details/JA4.md`, with GREASE at both ends.
fn chrome_extensions(has_signatures: bool) -> Vec<Vec<u8>> {
    let order = [
        0x1a1a_u16, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012,
        0x002b, 0xff01, 0x000b, 0x000a, 0x0015, 0xfafa,
    ];
    let content = |kind| match kind {
        0x0000 => server_name("Example.org"),
        0x000a => list16(&[0x2a2a, 0x11ec, 0x001d]),
        0x000d => list16(&CHROME_SIGNATURES),
        0x0010 => protocols(&[b"h2", b"http/1.1"]),
        0x002b => vec![6, 0x4a, 0x4a, 3, 4, 3, 3],
        _ => Vec::new(),
    };
    let kept = order.into_iter().filter(|kind| has_signatures || *kind != 0x000d);
    kept.map(|kind| extension(kind, &content(kind))).collect()
}

fn chrome() -> Vec<u8> {
    message(&CHROME_CIPHERS, &chrome_extensions(true))
}

fn whole(bytes: &[u8]) -> ClientHello<'_> {
    let Ok(Parsed::Complete(hello, used)) = parse(bytes) else { panic!("{:?}", parse(bytes)) };
    assert_eq!(used, bytes.len());
    hello
}

fn ja4(ciphers: &[u16], extensions: &[Vec<u8>]) -> String {
    whole(&records(&message(ciphers, extensions), 16_000)).ja4()
}

#[test]
fn the_parts_of_a_message_are_read() {
    let bytes = records(&chrome(), 16_000);
    let hello = whole(&bytes);
    assert!(matches!(hello.message, Cow::Borrowed(_)), "nothing is copied");
    assert_eq!(hello.sni(), Some("Example.org"));
    assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert_eq!(hello.versions().collect::<Vec<_>>(), [0x4a4a, 0x0304, 0x0303]);
    assert_eq!(hello.ciphers().collect::<Vec<_>>(), CHROME_CIPHERS);
    assert_eq!(hello.groups().collect::<Vec<_>>(), [0x2a2a, 0x11ec, 0x001d]);
    assert_eq!(hello.signature_algorithms().collect::<Vec<_>>(), CHROME_SIGNATURES);
    assert_eq!((hello.legacy_version(), hello.extensions().count()), (0x0303, 18));
}

#[test]
fn bytes_behind_the_record_are_left_alone() {
    let record = records(&chrome(), 16_000);
    let bytes = [&record[..], b"more"].concat();
    assert!(matches!(parse(&bytes), Ok(Parsed::Complete(_, used)) if used == record.len()));
}

#[test]
fn a_message_without_extensions_is_whole() {
    let body = [&[3, 3][..], &[7; 32], &[0], &list16(&[0xc02b]), &[1, 0]].concat();
    let bytes = records(&[&[1, 0][..], &sized16(&body)].concat(), 16_000);
    let hello = whole(&bytes);
    assert_eq!((hello.sni(), hello.alpn().count(), hello.versions().count()), (None, 0, 0));
    assert_eq!(hello.ja4(), format!("t12i010000_{}_000000000000", short_hash("c02b")));
}

#[test]
fn first_bytes_of_other_protocols_are_not_tls() {
    for first in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0",
        b"\x80\x2e\x01\x00\x02",
        b"\x16\x02",
        b"\x15\x03\x01",
        b"\x00",
    ] {
        assert_eq!(parse(first), Ok(Parsed::NotTls), "{first:?}");
    }
    assert_eq!(parse(b""), Ok(Parsed::Partial));
    assert_eq!(parse(b"\x16"), Ok(Parsed::Partial));
}

#[test]
fn what_no_client_sends_is_refused_at_once() {
    // A record without content, too long a record, another message, too long a message.
    assert_eq!(parse(&[22, 3, 1, 0, 0]), Err(DECODE_ERROR));
    assert_eq!(parse(&[22, 3, 1, 0x40, 1]), Err(RECORD_OVERFLOW));
    assert_eq!(parse(&[22, 3, 1, 0, 4, 2]), Err(UNEXPECTED_MESSAGE));
    assert_eq!(parse(&[22, 3, 1, 0, 4, 1, 0, 0x40, 1]), Err(ILLEGAL_PARAMETER));
    // Another kind of record within the message.
    let mut split = records(&chrome(), 100);
    split[105] = 23;
    assert_eq!(parse(&split[..106]), Err(UNEXPECTED_MESSAGE));
    // Another message in the same record.
    let two = [chrome(), chrome()].concat();
    assert_eq!(parse(&records(&two, 16_000)), Err(UNEXPECTED_MESSAGE));
}

#[test]
fn too_many_records_are_refused() {
    let message = chrome();
    let fits = message.len().div_ceil(RECORDS_MAX);
    assert!(matches!(parse(&records(&message, fits)), Ok(Parsed::Complete(..))));
    assert_eq!(parse(&records(&message, 1)), Err(ILLEGAL_PARAMETER));
}

#[test]
fn a_length_that_does_not_fit_is_refused() {
    let broken = [
        extension(SERVER_NAME, &sized16(&[0, 0, 0])),
        extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a']),
        extension(SERVER_NAME, &[]),
        extension(ALPN, &protocols(&[b""])),
        extension(ALPN, &sized16(&[9, b'a'])),
        extension(ALPN, &[&protocols(&[b"h2"])[..], b"x"].concat()),
        extension(SUPPORTED_VERSIONS, &[3, 3, 4, 3]),
        extension(SUPPORTED_VERSIONS, &[0]),
        extension(SUPPORTED_GROUPS, &sized16(&[0])),
        extension(SIGNATURE_ALGORITHMS, &list16(&[])),
        vec![0xff, 1, 0, 9],
        vec![0xff],
    ];
    for extension in broken {
        let bytes = records(&message(&[0x1301], std::slice::from_ref(&extension)), 16_000);
        assert_eq!(parse(&bytes), Err(DECODE_ERROR), "{extension:?}");
    }
    assert_eq!(parse(&records(&message(&[], &[]), 16_000)), Err(DECODE_ERROR));
}

#[test]
fn ja4_is_that_of_the_published_example() {
    assert_eq!(ja4(&CHROME_CIPHERS, &chrome_extensions(true)), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    assert!(ja4(&CHROME_CIPHERS, &chrome_extensions(false)).starts_with("t13d1515h2_8daaf6152771_"));
}

#[test]
fn ja4_hashes_are_those_of_the_published_lists() {
    assert_eq!(
        short_hash("0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01"),
        "6d807ffa2a79"
    );
    assert_eq!(short_hash(""), "000000000000");
}

#[test]
fn ja4_shows_protocols_as_the_published_table_does() {
    let table: [(&[u8], &str); 9] = [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (&[0xab], "ab"),
        (&[0xab, 0xcd], "ad"),
        (&[0x30, 0xab], "3b"),
        (&[0x30, 0x31, 0xab, 0xcd], "3d"),
        (&[0x30, 0xab, 0xcd, 0x31], "01"),
        (&[0x0a, 0x0a], "0a"),
    ];
    for (name, shown) in table {
        let fingerprint = ja4(&[0x1301], &[extension(ALPN, &protocols(&[name]))]);
        assert_eq!(&fingerprint[8..10], shown, "{name:?}");
    }
    assert!(ja4(&[0x1301], &[extension(0xff01, &[0])]).starts_with("t12i010100_"));
}

#[test]
fn ja4_takes_the_newest_version_whatever_its_place() {
    let of = |versions: &[u8]| {
        let content = [&[versions.len() as u8][..], versions].concat();
        ja4(&[0x1301], &[extension(SUPPORTED_VERSIONS, &content)])
    };
    assert_eq!(&of(&[3, 3, 3, 4, 0xfa, 0xfa])[1..3], "13");
    assert_eq!(&of(&[3, 1, 3, 2])[1..3], "11");
    // No GREASE, though it looks like it: counted, and unknown.
    assert_eq!(&of(&[0x1a, 0x2a])[1..3], "00");
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_message(fragment_bytes in 20usize..600, cut in 0usize..700) {
        let bytes = records(&chrome(), fragment_bytes);
        let cut = cut.min(bytes.len() - 1);
        prop_assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Partial));
        let Ok(Parsed::Complete(hello, used)) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(&hello.message[..], &chrome()[..]);
        prop_assert_eq!(hello.ja4(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn a_changed_byte_never_panics(place in 0usize..500, value in any::<u8>()) {
        let mut bytes = records(&chrome(), 16_000);
        let place = place % bytes.len();
        bytes[place] = value;
        if let Ok(Parsed::Complete(hello, _)) = parse(&bytes) {
            let _ = (hello.ja4(), hello.sni(), hello.alpn().count(), hello.groups().count());
        }
    }
}
