//! Sealing: how data are cut into records.

use proptest::prelude::*;

use super::*;

/// The lengths of the records of `wire`, without header and what a cipher adds.
fn plaintext_lengths(mut wire: &[u8], expansion: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let Some(len) = record_bytes(wire).unwrap() {
        lengths.push(len - expansion);
        wire = &wire[len..];
    }
    lengths
}

fn lengths_of(parts: &[usize]) -> Vec<usize> {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let data: Vec<Vec<u8>> = parts.iter().zip(1..).map(|(&len, byte)| vec![byte; len]).collect();
    let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut out = Vec::new();
    server.session.seal_parts(&mut server.contexts, &slices, &mut out).unwrap();
    let lengths = plaintext_lengths(&out, HEADER_BYTES + 1 + TAG_BYTES);
    assert_eq!(client.open_all(&mut out), Ok(data.concat()));
    lengths
}

#[test]
fn short_pieces_share_a_record_and_long_ones_are_not_copied() {
    const FULL: usize = PLAINTEXT_BYTES_MAX;
    const SHORT: usize = JOINED_PIECE_BYTES_MAX - 1;
    assert_eq!(lengths_of(&[]), []);
    assert_eq!(lengths_of(&[0, 0]), []);
    assert_eq!(lengths_of(&[300]), [300]);
    assert_eq!(lengths_of(&[300, 1_000]), [1_300], "a head and a body");
    assert_eq!(lengths_of(&[300, 0, 7, 0]), [307]);
    assert_eq!(lengths_of(&[300, FULL, FULL, 100]), [300, FULL, FULL, 100]);
    assert_eq!(lengths_of(&[FULL + 5, 7, 2 * FULL]), [FULL, 12, FULL, FULL]);
    assert_eq!(lengths_of(&[SHORT; 10]), [8 * SHORT, 2 * SHORT], "no more than a record holds");
    assert_eq!(lengths_of(&[300, SHORT + 1, 5]), [300, SHORT + 1, 5]);
    assert_eq!(lengths_of(&[FULL * 3 + 1]), [FULL, FULL, FULL, 1]);
}

#[test]
fn what_is_appended_to_stays() {
    let [mut server, mut client] = pair(Version::Tls12, Suite::Aes128Gcm);
    let mut out = b"before".to_vec();
    server.session.seal_parts(&mut server.contexts, &[b"a", b"b"], &mut out).unwrap();
    server.session.close(&mut server.contexts, &mut out);
    assert_eq!(&out[..6], b"before");
    assert_eq!(client.open_all(&mut out[6..]), Ok(b"ab".to_vec()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any parts come out as they went in, within the stated length and without memory being moved.
    #[test]
    fn parts_come_out_in_order(
        parts in prop::collection::vec(
            prop_oneof![0..30usize, 2_000..2_100usize, 16_300..16_400usize, 0..70_000usize],
            0..8,
        ),
        kind in 0..6usize,
    ) {
        let (version, suite) = all_kinds().nth(kind).unwrap();
        let [mut server, mut client] = pair(version, suite);
        let mut next = 0_u32;
        let data: Vec<Vec<u8>> = parts
            .iter()
            .map(|&len| (0..len).map(|_| { next += 1; (next % 251) as u8 }).collect())
            .collect();
        let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut out = Vec::new();
        server.session.seal_parts(&mut server.contexts, &slices, &mut out).unwrap();
        prop_assert_eq!(client.open_all(&mut out).unwrap(), data.concat());

        let all = data.concat();
        let bytes_max = server.session.sealed_bytes_max(all.len());
        let mut out = Vec::with_capacity(bytes_max);
        let memory = out.as_ptr();
        server.session.seal(&mut server.contexts, &all, &mut out).unwrap();
        prop_assert!(out.len() <= bytes_max && out.as_ptr() == memory);
        prop_assert_eq!(client.open_all(&mut out).unwrap(), all);
    }
}
