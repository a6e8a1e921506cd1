//! HPACK: what is written is read back, whatever the tables have been through; and an independent implementation agrees.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use sluice_proto::h2::hpack::{Decoder, Encoder, HpackFault, Indexing};

/// A field as it is read: whether it is never indexed, name, value.
type Seen = (bool, Vec<u8>, Vec<u8>);

/// Names of the static table, others, and such as differ from them a little.
const NAMES: &[&str] = &[
    ":status",
    ":path",
    ":authority",
    "cache-control",
    "Content-Type",
    "content-typf",
    "content\rtype",
    "SET-COOKIE",
    "x-request-id",
    "X-Request-ID",
    "x-b3-spanid",
    "",
    "a",
];

fn try_decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Seen>, HpackFault> {
    let mut seen = Vec::new();
    // Rubbish in the room must not matter.
    decoder.decode(block, &mut vec![0xa5; block.len() % 64], |field| {
        seen.push((field.is_never_indexed, field.name.to_vec(), field.value.to_vec()));
        if field.static_name > 0 {
            assert_eq!(field.name, static_name(field.static_name));
        }
    })?;
    Ok(seen)
}

fn static_name(place: u8) -> Vec<u8> {
    let mut name = Vec::new();
    let seen = Decoder::new().decode(&[0x80 | place], &mut Vec::new(), |field| name.extend(field.name));
    seen.expect("a place in the static table");
    name
}

#[derive(Clone, Debug)]
enum Step {
    Limits { peer: u32, own: u32 },
    Compact,
    Block(Vec<(String, Vec<u8>, Indexing)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = || select(&[0, 31, 33, 60, 100, 150, 300, 1_000, 4_096, 65_535][..]);
    let value = prop_oneof![
        select(&["", "200", "/", "302", "text/html", "no-cache"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
        "[a-z0-9=;]{0,60}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..200),
        (0_usize..300).prop_map(|len| vec![b'e'; len]),
    ];
    let name = prop_oneof![
        select(NAMES).prop_map(str::to_owned),
        "[a-zA-Z-]{0,40}",
        (120_usize..270).prop_map(|len| "N".repeat(len))
    ];
    let indexing = select(&[Indexing::Allowed, Indexing::Allowed, Indexing::Without, Indexing::Never][..]);
    let step = prop_oneof![
        1 => (size(), size()).prop_map(|(peer, own)| Step::Limits { peer, own }),
        1 => Just(Step::Compact),
        6 => vec((name, value, indexing), 1..8).prop_map(Step::Block),
    ];
    vec(step, 1..20)
}

/// A representation of section 6, with any index.
fn representation() -> impl Strategy<Value = Vec<u8>> {
    let integer = |first: u8, bits: u32, value: usize| {
        let mask = (1 << bits) - 1;
        if value < mask { vec![first | value as u8] } else { vec![first | mask as u8, (value - mask) as u8] }
    };
    let string = || {
        prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(|text| [&[text.len() as u8][..], &text].concat()),
            // Random bits, the last of which may be padding.
            (vec(any::<u8>(), 0..40), 0..9).prop_map(|(mut text, padding)| {
                text.iter_mut().rev().take(1).for_each(|last| *last |= (0xff_u32 >> (8 - padding)) as u8);
                [&[0x80 | text.len() as u8][..], &text].concat()
            }),
            // Five bytes are eight symbols of five bits, without padding.
            (0_usize..8).prop_map(|fives| [&[0x80 | (fives * 5) as u8][..], &vec![0; fives * 5]].concat()),
        ]
    };
    let literal = move |first: u8, bits: u32| {
        let named = (1_usize..70, string())
            .prop_map(move |(index, value)| [integer(first, bits, index), value].concat());
        let new = (string(), string()).prop_map(move |(name, value)| [vec![first], name, value].concat());
        prop_oneof![named, new]
    };
    prop_oneof![
        3 => (1_usize..68).prop_map(move |index| integer(0x80, 7, index)),
        4 => literal(0x40, 6),
        1 => literal(0x10, 4),
        1 => literal(0x00, 4),
    ]
}

fn foreign_decoded(decoder: &mut loona_hpack::Decoder<'_>, block: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    decoder.decode(block).ok()
}

fn without_marks(seen: Vec<Seen>) -> Vec<(Vec<u8>, Vec<u8>)> {
    seen.into_iter().map(|(_, name, value)| (name, value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_written_is_read_back(steps in steps()) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut foreign = loona_hpack::Decoder::new();
        for step in steps {
            match step {
                Step::Limits { peer, own } => {
                    encoder.set_limit(peer, own);
                    decoder.set_limit(peer);
                    foreign.set_max_allowed_table_size(65_535);
                }
                Step::Compact => {
                    encoder.compact();
                    decoder.compact();
                    prop_assert!(decoder.heap_bytes() <= 65_535);
                }
                Step::Block(fields) => {
                    let mut out = Vec::new();
                    encoder.begin(&mut out);
                    for (name, value, indexing) in &fields {
                        encoder.field(&mut out, name.as_bytes(), value, *indexing);
                    }
                    let wanted = fields.iter().map(|(name, value, indexing)| {
                        (*indexing == Indexing::Never, name.to_ascii_lowercase().into_bytes(), value.clone())
                    });
                    let wanted: Vec<Seen> = wanted.collect();
                    prop_assert_eq!(try_decode(&mut decoder, &out), Ok(wanted.clone()));
                    prop_assert_eq!(foreign_decoded(&mut foreign, &out), Some(without_marks(wanted)));
                }
            }
        }
    }

    #[test]
    fn a_foreign_encoder_is_read(blocks in vec(vec((select(NAMES), "[ -~]{0,80}"), 0..12), 1..12)) {
        let mut decoder = Decoder::new();
        let mut foreign = loona_hpack::Encoder::new();
        for fields in blocks {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            let block = foreign.encode(fields.iter().copied());
            let seen = try_decode(&mut decoder, &block).expect("a valid block");
            let seen = without_marks(seen);
            let seen: Vec<_> = seen.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
            prop_assert_eq!(seen, fields);
        }
    }

    /// Representations with any indexes and small tables: the same fields, or a fault, as in the foreign decoder (which takes size
    /// updates anywhere, and not at the end of a block).
    #[test]
    fn a_foreign_decoder_agrees(
        size in select(&[0_u8, 30, 34, 60, 90, 120, 158][..]),
        blocks in vec(vec(representation(), 1..6), 1..40),
    ) {
        let mut decoder = Decoder::new();
        let mut foreign = loona_hpack::Decoder::new();
        let mut update = if size < 31 { vec![0x20 | size] } else { vec![0x3f, size - 31] };
        for block in blocks {
            update.extend(block.concat());
            let ours = try_decode(&mut decoder, &update);
            let theirs = foreign_decoded(&mut foreign, &update);
            update.clear();
            prop_assert_eq!(ours.as_ref().ok().cloned().map(without_marks), theirs, "{:?}", ours);
            if ours.is_err() {
                break;
            }
        }
    }

    #[test]
    fn any_bytes_give_the_same_twice(blocks in vec(vec(any::<u8>(), 0..60), 1..8), limit in 0_u32..200) {
        let (mut one, mut other) = (Decoder::new(), Decoder::new());
        for (at, block) in blocks.iter().enumerate() {
            if at == 1 {
                one.set_limit(limit);
                other.set_limit(limit);
            }
            other.compact();
            prop_assert_eq!(try_decode(&mut one, block), try_decode(&mut other, block));
        }
    }
}
