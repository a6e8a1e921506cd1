//! Timeouts of gRPC calls: what is read is what a slow and plain reading says, and any other text is none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::grpc::{parse_timeout, write_message};

fuzz_target!(|input: &[u8]| {
    assert_eq!(parse_timeout(input), plainly(input), "{}", input.escape_ascii());

    // A message is printable, and reads back.
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut message = Vec::new();
    write_message(&mut message, text);
    assert!(message.iter().all(|byte| (b' '..=b'~').contains(byte)));
    assert_eq!(decoded(&message), text.as_bytes());
});

/// In nanoseconds, as a number of any size.
fn plainly(input: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(input).ok()?;
    let digits = text.get(..text.len().checked_sub(1)?)?;
    let ns: u128 = match text.get(digits.len()..)? {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    if digits.len() > 8 || digits.contains('+') {
        return None;
    }
    let ns = digits.parse::<u128>().ok()? * ns;
    u64::try_from(ns.div_ceil(1_000_000).max(1)).ok()
}

fn decoded(message: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(message).expect("ASCII");
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        out.extend_from_slice(part[2..].as_bytes());
    }
    out
}
