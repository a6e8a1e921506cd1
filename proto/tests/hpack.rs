//! HPACK: the examples of RFC 7541, and what a decoder has to refuse.

use sluice_proto::h2::hpack::{Decoder, Encoder, Header, HpackFault, Indexing};

type Field = (String, String);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn try_decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackFault> {
    let mut fields = Vec::new();
    decoder.decode(block, &mut Vec::new(), |field| fields.push((text(field.name), text(field.value))))?;
    Ok(fields)
}

fn decode(decoder: &mut Decoder, block: &str) -> Vec<Field> {
    try_decode(decoder, &bytes(block)).expect("a valid block")
}

fn refused(decoder: &mut Decoder, block: &str) -> &'static str {
    try_decode(decoder, &bytes(block)).expect_err("a block that must be refused").0
}

fn fields(lines: &[&str]) -> Vec<Field> {
    let field = |line: &&str| {
        let (name, value) = line[1..].split_once(": ").expect("a name and a value");
        (format!("{}{name}", &line[..1]), value.to_owned())
    };
    lines.iter().map(field).collect()
}

/// Appendix C.3 and C.4.
const REQUESTS: [&[&str]; 3] = [
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

/// Appendix C.5 and C.6.
const RESPONSES: [&[&str]; 3] = [
    &[
        ":status: 302",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ],
    &[
        ":status: 307",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ],
    &[
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: https://www.example.com",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ],
];

const C3: [&str; 3] = [
    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "8286 84be 5808 6e6f 2d63 6163 6865",
    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
];

const C4: [&str; 3] = [
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
];

const C5: [&str; 3] = [
    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 \
     7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "4803 3330 37c1 c0bf",
    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 \
     444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
     3d31",
];

const C6: [&str; 3] = [
    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 \
     e9ae 82ae 43d3",
    "4883 640e ffc1 c0bf",
    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b \
     3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
];

#[test]
fn decodes_single_fields_of_appendix_c() {
    // C.2.1 to C.2.4.
    for (block, line) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key: custom-header"),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path"),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret"),
        ("82", ":method: GET"),
    ] {
        assert_eq!(decode(&mut Decoder::new(), block), fields(&[line]));
    }
}

#[test]
fn decodes_requests_of_appendix_c() {
    for blocks in [C3, C4] {
        let mut decoder = Decoder::new();
        for (block, lines) in blocks.iter().zip(REQUESTS) {
            assert_eq!(decode(&mut decoder, block), fields(lines));
        }
        // What C.3.3 says about the table.
        assert_eq!(
            decode(&mut decoder, "be bf c0"),
            fields(&["custom-key: custom-value", "cache-control: no-cache", ":authority: www.example.com"])
        );
        assert!(refused(&mut decoder, "c1").contains("index"));
    }
}

#[test]
fn decodes_responses_of_appendix_c_and_evicts() {
    for blocks in [C5, C6] {
        let mut decoder = Decoder::new();
        decoder.set_limit(256);
        let mut update = "3fe1 01".to_owned();
        for (block, lines) in blocks.iter().zip(RESPONSES) {
            update.push_str(block);
            assert_eq!(decode(&mut decoder, &update), fields(lines));
            update.clear();
        }
        // What C.5.3 says about the table.
        let table: Vec<&str> = [5, 4, 2].iter().map(|at| RESPONSES[2][*at]).collect();
        assert_eq!(decode(&mut decoder, "be bf c0"), fields(&table));
        assert!(refused(&mut decoder, "c1").contains("index"));
    }
}

#[test]
fn encodes_the_examples_of_appendix_c() {
    // With a table, strings are written in the shorter form, and as they are if both are equal ("307").
    let equal = C6[1].replace("4883 640e ff", "4803 3330 37");
    let responses = [C6[0], &equal, C6[2]];
    for (size, lines, blocks) in [(4_096, REQUESTS, C4), (256, RESPONSES, responses)] {
        let mut encoder = Encoder::new();
        encoder.set_limit(size, size);
        let mut update = if size == 256 { bytes("3fe1 01") } else { Vec::new() };
        for (lines, block) in lines.iter().zip(blocks) {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value) in fields(lines) {
                match name.as_str() {
                    ":status" => encoder.status(&mut out, value.parse().expect("a status")),
                    _ => encoder.field(&mut out, name.as_bytes(), value.as_bytes(), Indexing::Allowed),
                }
            }
            update.extend(bytes(block));
            assert_eq!(out, update);
            update.clear();
        }
    }
}

#[test]
fn encodes_without_a_table() {
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    encoder.begin(&mut out);
    encoder.field(&mut out, b"Custom-Key", b"custom-header", Indexing::Allowed);
    encoder.known_field(&mut out, 5, b"/sample/path", Indexing::Without);
    encoder.field(&mut out, b"Password", b"secret", Indexing::Never);
    encoder.field(&mut out, b":method", b"GET", Indexing::Without);
    encoder.known_field(&mut out, 2, b"GET", Indexing::Never);
    let expected = "000a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572 \
        040c 2f73 616d 706c 652f 7061 7468 1008 7061 7373 776f 7264 0673 6563 7265 74 82 1203 4745 54";
    assert_eq!(out, bytes(expected));
    assert_eq!(encoder.heap_bytes(), 0);
}

#[test]
fn keeps_never_indexed_and_static_names() {
    let seen = |decoder: &mut Decoder, block: &str| {
        let mut seen = Vec::new();
        let see = |field: Header<'_>| seen.push((field.static_name, field.is_never_indexed));
        decoder.decode(&bytes(block), &mut Vec::new(), see).expect("a valid block");
        seen
    };
    let mut decoder = Decoder::new();
    let block = "82 4101 61 4003 666f 6f01 62 0f0f 0163 1f0f 0164 7e01 65";
    let expected = [(2, false), (1, false), (0, false), (30, false), (30, true), (0, false)];
    assert_eq!(seen(&mut decoder, block), expected);
    // Entries of the table remember it: the newest has the name of an entry.
    assert_eq!(seen(&mut decoder, "be bf c0"), [(0, false), (0, false), (1, false)]);
    assert_eq!(seen(&mut decoder, "7f01 01 62 be"), [(1, false), (1, false)]);
}

#[test]
fn refuses_indexes_outside_the_tables() {
    for block in ["80", "be", "ff80 8080 00", "7f00 0161", "0f80 0101 61"] {
        assert!(refused(&mut Decoder::new(), block).contains("index"), "{block}");
    }
}

#[test]
fn refuses_integers_that_are_long_or_cut_off() {
    for block in ["ff80 8080 8000", "ffff ffff ff0f", "7fff ffff ff7f", "3f80 8080 8000", "007f 8080 8080 00"]
    {
        assert_eq!(refused(&mut Decoder::new(), block), "an integer is too long", "{block}");
    }
    for block in ["ff", "ff80", "7f", "0f", "1f", "3f", "3fff", "007f", "007f ff"] {
        assert_eq!(refused(&mut Decoder::new(), block), "an integer is cut off", "{block}");
    }
}

#[test]
fn refuses_strings_that_are_cut_off() {
    for block in ["40", "4003 6161", "4001 61", "4001 6105 61", "41", "4101", "0f2b", "0083 1f1f"] {
        assert!(refused(&mut Decoder::new(), block).ends_with("is cut off"), "{block}");
    }
}

#[test]
fn reads_huffman_strings_to_their_last_bit() {
    let value = |hex: &str| {
        let string = bytes(hex);
        let block = [&[0x41, 0x80 | string.len() as u8][..], &string].concat();
        try_decode(&mut Decoder::new(), &block).map(|mut fields| fields.remove(0).1)
    };
    // "a" is 00011 and "&" is 11111000; "0" is five zeros, ten bytes of which are sixteen symbols without padding.
    let zeros = "00".repeat(10);
    for (hex, text) in [("", ""), ("1f", "a"), ("f8", "&"), ("1fc7", "a&"), (&zeros, &"0".repeat(16))] {
        assert_eq!(value(hex).as_deref(), Ok(text), "{hex}");
    }
    // Padding: zeros, mixed, a whole byte, two; EOS alone, behind a symbol, before one, long before the end.
    let eos_early = format!("ffff ffff{}", "1f".repeat(12));
    for hex in [
        "18",
        "1e",
        "1fff",
        "ff",
        "ffff",
        "ffffff",
        "ffff fffc",
        "ffff ffff",
        "1fff ffff ff",
        "ffff fffc 1f",
        &eos_early,
    ] {
        assert!(value(hex).is_err(), "{hex}");
    }
    // A code of thirty bits, with its padding, with a wrong one, and cut off.
    assert_eq!(value("ffff fff3").as_deref(), Ok("\n"));
    assert!(value("ffff fff0").is_err());
    assert!(value("ffff ff").is_err());
}

#[test]
fn takes_size_updates_at_the_start_of_a_block_only() {
    for block in ["8220", "2020 20", "2082 20"] {
        assert!(refused(&mut Decoder::new(), block).contains("table size update"), "{block}");
    }
    // 4,097 and 4,096 bytes, then twice.
    assert_eq!(refused(&mut Decoder::new(), "3fe2 1f"), "a table size update is above the limit");
    assert_eq!(decode(&mut Decoder::new(), "3fe1 1f82"), fields(&[":method: GET"]));
    assert_eq!(decode(&mut Decoder::new(), "203f e11f 82"), fields(&[":method: GET"]));
}

#[test]
fn wants_a_size_update_when_the_limit_was_lowered() {
    let lowered = |limits: &[u32]| {
        let mut decoder = Decoder::new();
        limits.iter().for_each(|limit| decoder.set_limit(*limit));
        decoder
    };
    let missing = "a block does not begin with the table size update that the limit asks for";
    for block in ["82", "", "3f46 82"] {
        let fault = if block == "3f46 82" { "a table size update is above the limit" } else { missing };
        assert_eq!(refused(&mut lowered(&[100]), block), fault, "{block}");
    }
    // It was 100 in between, and 0 even before that.
    assert_eq!(refused(&mut lowered(&[100, 4_096]), "3fe1 1f82"), missing);
    assert_eq!(refused(&mut lowered(&[0, 100, 4_096]), "3f45 3fe1 1f82"), missing);
    assert_eq!(decode(&mut lowered(&[100, 4_096]), "3f45 3fe1 1f82").len(), 1);
    assert_eq!(decode(&mut lowered(&[100, 50, 100]), "2182").len(), 1);
    // Once is enough, and a table that is small already needs none.
    let mut decoder = lowered(&[100]);
    assert_eq!(decode(&mut decoder, "2a82").len(), 1);
    assert_eq!(decode(&mut decoder, "82").len(), 1);
    decoder.set_limit(10);
    assert_eq!(decode(&mut decoder, "82").len(), 1);
    decoder.set_limit(9);
    assert_eq!(refused(&mut decoder, "82"), missing);
    assert_eq!(decode(&mut lowered(&[4_096, 65_535]), "82").len(), 1);
}

/// Size updates to 60 and 38 bytes.
const SIZE_60: &str = "3f1d";
const SIZE_38: &str = "3f07";
/// `foo: bar` counts 38.
const FOO_BAR: &str = "4003 666f 6f03 6261 72";

#[test]
fn evicts_the_oldest_when_an_entry_needs_room() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, &format!("{SIZE_38} {FOO_BAR}"));
    assert_eq!(decode(&mut decoder, "be"), fields(&["foo: bar"]));
    // The name is that of the entry which is evicted for the new one, which does not fit: 39.
    assert_eq!(decode(&mut decoder, "7e04 6261 7273"), fields(&["foo: bars"]));
    assert!(refused(&mut decoder, "be").contains("index"));

    let mut decoder = Decoder::new();
    decode(&mut decoder, &format!("{SIZE_60} {FOO_BAR}"));
    for value in ["bars", "clubs", "pubs"] {
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        let seen = decode(&mut decoder, &format!("7e{:02x}{hex} be", value.len()));
        assert_eq!(seen, vec![("foo".to_owned(), value.to_owned()); 2]);
        assert!(refused(&mut decoder, "bf").contains("index"));
    }
}

#[test]
fn smaller_tables_lose_the_oldest_entries() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, &format!("{FOO_BAR} 4101 61 4101 62"));
    // 38 + 43 + 43: with 86 the first is gone, with 85 the second, with 42 the last.
    assert_eq!(decode(&mut decoder, "3f37 be bf"), fields(&[":authority: b", ":authority: a"]));
    assert!(refused(&mut decoder, "c0").contains("index"));
    assert_eq!(decode(&mut decoder, "3f36 be"), fields(&[":authority: b"]));
    assert!(refused(&mut decoder, "bf").contains("index"));
    assert!(refused(&mut decoder, "3f0b be").contains("index"));
}

#[test]
fn memory_is_that_of_the_entries_at_rest() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, "8286 84 0001 6101 62");
    assert_eq!(decoder.heap_bytes(), 0);
    decode(&mut decoder, &format!("{FOO_BAR} 4101 61"));
    assert!(decoder.heap_bytes() > 0);
    decoder.compact();
    // Seven bytes of strings (":authority" is known), and six for each entry.
    assert_eq!(decoder.heap_bytes(), 7 + 2 * 6);
    assert_eq!(decode(&mut decoder, "be bf"), fields(&[":authority: a", "foo: bar"]));
    decode(&mut decoder, "20");
    decoder.compact();
    assert_eq!(decoder.heap_bytes(), 0);
}

#[test]
fn memory_stays_bounded_under_endless_insertions() {
    let mut decoder = Decoder::new();
    for round in 0..20_000 {
        let value = "x".repeat(round * 7 % 120);
        let block = [&[0x40, 1, b'a', value.len() as u8], value.as_bytes()].concat();
        assert_eq!(try_decode(&mut decoder, &block), Ok(vec![("a".to_owned(), value)]));
        assert!(decoder.heap_bytes() < 2 * 4_096, "{}", decoder.heap_bytes());
    }
}

#[test]
fn announces_sizes_of_our_table() {
    let mut encoder = Encoder::new();
    let mut begin = |limits: &[(u32, u32)]| {
        limits.iter().for_each(|(peer, own)| encoder.set_limit(*peer, *own));
        let mut out = Vec::new();
        encoder.begin(&mut out);
        out
    };
    assert_eq!(begin(&[]), []);
    assert_eq!(begin(&[(65_536, 0)]), []);
    // No table of ours is larger than what the peer allows now, but it has to see that.
    assert_eq!(begin(&[(100, 0)]), [0x20]);
    assert_eq!(begin(&[(50, 0), (4_096, 0)]), []);
    assert_eq!(begin(&[(4_096, 4_096)]), bytes("3fe1 1f"));
    assert_eq!(begin(&[(100, 4_096), (4_096, 4_096)]), bytes("3f45 3fe1 1f"));
    assert_eq!(begin(&[(100, 50), (4_096, 50)]), bytes("3f13"));
    assert_eq!(begin(&[(60, 50), (4_096, 50)]), []);
    assert_eq!(begin(&[(100_000, 100_000)]), bytes("3fe0 ff03"));
}

#[test]
fn large_fields_do_not_empty_our_table() {
    let mut encoder = Encoder::new();
    encoder.set_limit(100, 100);
    let mut write = |name: &str, value: &str| {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.field(&mut out, name.as_bytes(), value.as_bytes(), Indexing::Allowed);
        out
    };
    assert_eq!(write("foo", "bar")[..3], bytes("3f45 40"));
    assert_eq!(write("foo", "bar"), [0xbe]);
    // 41 and 75 bytes are at most three quarters, 76 are not.
    assert_eq!(write("name", &"x".repeat(40))[0], 0);
    assert_eq!(write("FOO", "bar"), [0xbe]);
    assert_eq!(write("name", &"x".repeat(39))[0], 0x40);
    assert_eq!(write("foo", "bar")[0], 0x40);
}

#[test]
fn a_table_that_is_given_up_is_forgotten_on_both_sides() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for own in [4_096, 0, 4_096, 200, 0] {
        encoder.set_limit(4_096, own);
        for _ in 0..2 {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            encoder.field(&mut out, b"foo", b"bar", Indexing::Allowed);
            assert_eq!(try_decode(&mut decoder, &out), Ok(fields(&["foo: bar"])));
        }
        assert_eq!(encoder.heap_bytes() > 0, own > 0);
    }
}
