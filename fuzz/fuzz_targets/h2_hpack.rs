//! HPACK: any blocks are read alike, whether the tables are made exact in between or not; what is seen is within bounds, and can be
//! written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::h2::hpack::{Decoder, Encoder, HpackFault, Indexing};

/// More blocks than this say nothing new.
const BLOCKS_MAX: usize = 64;

/// Name, value, never indexed.
type Field = (Vec<u8>, Vec<u8>, bool);

fuzz_target!(|input: &[u8]| {
    let (mut one, mut other, mut again) = (Decoder::new(), Decoder::new(), Decoder::new());
    let mut encoder = Encoder::new();
    let mut scratch = Vec::new();
    let mut rest = input;
    for _ in 0..BLOCKS_MAX {
        // A byte of steps and the length of a block.
        let Some((&[steps, len], bytes)) = rest.split_first_chunk() else { return };
        let (block, left) = bytes.split_at(usize::from(len).min(bytes.len()));
        rest = left;
        if steps & 1 != 0 {
            let limit = u32::from(steps) * 8;
            one.set_limit(limit);
            other.set_limit(limit);
            again.set_limit(limit);
            encoder.set_limit(limit, 1_000);
        }
        other.compact();
        let seen = read(&mut one, block, &mut scratch);
        assert_eq!(seen, read(&mut other, block, &mut Vec::new()));
        assert!(one.heap_bytes() <= 3 * 4_096);
        let Ok(fields) = seen else { return };
        let written = write(&mut encoder, &fields, steps);
        let lower = |(name, value, never): Field| (name.to_ascii_lowercase(), value, never);
        let fields = fields.into_iter().map(lower).collect();
        assert_eq!(read(&mut again, &written, &mut scratch), Ok(fields));
    }
});

fn read(decoder: &mut Decoder, block: &[u8], scratch: &mut Vec<u8>) -> Result<Vec<Field>, HpackFault> {
    let mut fields = Vec::new();
    decoder.decode(block, scratch, |field| {
        assert!(field.static_name <= 61);
        fields.push((field.name.to_vec(), field.value.to_vec(), field.is_never_indexed));
    })?;
    Ok(fields)
}

fn write(encoder: &mut Encoder, fields: &[Field], steps: u8) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value, never) in fields {
        let indexing = match never {
            true => Indexing::Never,
            false if steps & 2 != 0 => Indexing::Without,
            false => Indexing::Allowed,
        };
        encoder.field(&mut out, name, value, indexing);
    }
    if steps & 4 != 0 {
        encoder.compact();
    }
    out
}
