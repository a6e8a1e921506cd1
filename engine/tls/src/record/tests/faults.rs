//! What peers do wrong, at the edge of each limit, and the alert that answers it.

use super::*;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// A NewSessionTicket with a body of so many bytes.
fn ticket(body_bytes: usize) -> Vec<u8> {
    let length = u32::try_from(body_bytes).unwrap().to_be_bytes();
    let mut message = vec![4, length[1], length[2], length[3]];
    message.extend((0..body_bytes).map(|i| (i % 251) as u8));
    message
}

/// The first fault of these records, of which all before it are good.
fn fault_of(end: &mut End, mut records: Vec<Vec<u8>>) -> Fault {
    let mut last = records.pop().unwrap();
    for record in &mut records {
        end.open(record).unwrap();
    }
    let fault = end.open(&mut last).unwrap_err();
    assert_eq!(end.open(&mut last), Err(Fault::Unexpected), "nothing is opened behind a fault");
    fault
}

/// What a server makes of these records of its client.
fn fault(version: Version, records: &[(u8, &[u8])]) -> Fault {
    let [mut server, mut client] = pair(version, Suite::Aes128Gcm);
    let records = records.iter().map(|(kind, content)| client.seal_any(*kind, content)).collect();
    fault_of(&mut server, records)
}

/// What a client makes of these records of its server.
fn fault_of_server(version: Version, records: &[(u8, &[u8])]) -> Fault {
    let [mut server, mut client] = pair(version, Suite::Aes128Gcm);
    let records = records.iter().map(|(kind, content)| server.seal_any(*kind, content)).collect();
    fault_of(&mut client, records)
}

#[test]
fn a_flipped_bit_anywhere_is_seen() {
    for (version, suite) in all_kinds() {
        let wire = pair(version, suite)[1].seal(b"plaintext");
        for at in 0..wire.len() * 8 {
            let [mut server, _] = pair(version, suite);
            let mut tampered = wire.clone();
            tampered[at / 8] ^= 1 << (at % 8);
            let fault = server.open(&mut tampered).unwrap_err();
            // Type and length are read before anything is opened.
            let expected: &[Fault] = match at / 8 {
                0 => &[Fault::Unexpected, Fault::BadMac],
                3 | 4 => &[Fault::Malformed, Fault::Overflow],
                _ => &[Fault::BadMac],
            };
            assert!(expected.contains(&fault), "{version:?} {suite:?} bit {at}: {fault:?}");
            assert!(!tampered.windows(9).any(|window| window == b"plaintext"));
        }
        for len in HEADER_BYTES..wire.len() {
            let [mut server, _] = pair(version, suite);
            let mut short = wire[..len].to_vec();
            let body_bytes = u16::try_from(len - HEADER_BYTES).unwrap().to_be_bytes();
            short[3..5].copy_from_slice(&body_bytes);
            assert_eq!(server.open(&mut short), Err(Fault::BadMac), "{len} bytes");
        }
    }
}

#[test]
fn a_record_is_whole() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let mut wire = client.seal(b"data");
    wire.push(0);
    assert_eq!(server.open(&mut wire), Err(Fault::Malformed));
    for len in 0..HEADER_BYTES {
        let [mut server, _] = pair(Version::Tls13, Suite::Aes128Gcm);
        assert_eq!(server.open(&mut wire[..len]), Err(Fault::Malformed));
    }
}

#[test]
fn the_longest_records_and_one_byte_more() {
    const FULL: usize = PLAINTEXT_BYTES_MAX;
    for (version, suite) in all_kinds() {
        let full = vec![7; FULL];
        let [mut server, mut client] = pair(version, suite);
        assert_eq!(server.open_all(&mut client.seal_any(23, &full)), Ok(full.clone()));
        let [mut server, mut client] = pair(version, suite);
        let more = vec![7; FULL + 1];
        assert_eq!(server.open(&mut client.seal_any(23, &more)), Err(Fault::Overflow));
    }
    // With padding, the sum of both.
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let mut padded = vec![7; 100];
    padded.push(23);
    padded.resize(FULL, 0);
    assert_eq!(server.open_all(&mut client.seal_any(0, &padded)), Ok(vec![7; 100]));
    padded.push(0);
    assert_eq!(server.open(&mut client.seal_any(0, &padded)), Err(Fault::Overflow));
    // On the wire, whatever is in them.
    for (version, bytes_max) in [(Version::Tls13, FULL + 256), (Version::Tls12, FULL + 2_048)] {
        for (bytes, expected) in [(bytes_max, Fault::BadMac), (bytes_max + 1, Fault::Overflow)] {
            let [mut server, _] = pair(version, Suite::Aes128Gcm);
            let mut record = vec![23, 3, 3];
            record.extend(u16::try_from(bytes).unwrap().to_be_bytes());
            record.resize(HEADER_BYTES + bytes, 0);
            assert_eq!(server.open(&mut record), Err(expected));
        }
    }
}

#[test]
fn padding_is_taken_off() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes256Gcm);
    for (content, zeros) in [(&b"data"[..], 0), (b"data", 1), (b"data\0\0", 300), (b"", 5), (b"\0", 0)] {
        let mut padded = content.to_vec();
        padded.push(23);
        padded.resize(padded.len() + zeros, 0);
        assert_eq!(server.open_all(&mut client.seal_any(0, &padded)), Ok(content.to_vec()));
    }
    assert_eq!(fault(Version::Tls13, &[(0, &[0; 100])]), Fault::Unexpected, "padding and no type");
    assert_eq!(fault(Version::Tls13, &[(0, &[])]), Fault::Unexpected);
}

#[test]
fn types_that_do_not_belong_behind_a_handshake() {
    for version in VERSIONS {
        assert_eq!(fault(version, &[(TYPE_CHANGE_CIPHER_SPEC, &[1])]), Fault::Unexpected);
        assert_eq!(fault(version, &[(TYPE_HANDSHAKE, &[])]), Fault::Unexpected);
        // Certificate, CertificateRequest, Finished, a type that does not exist.
        for kind in [11, 13, 20, 77] {
            let message = [kind, 0, 0, 1, 0];
            assert_eq!(fault(version, &[(TYPE_HANDSHAKE, &message)]), Fault::Unexpected);
            assert_eq!(fault_of_server(version, &[(TYPE_HANDSHAKE, &message)]), Fault::Unexpected);
            assert_eq!(
                fault(version, &[(TYPE_HANDSHAKE, &message[..1])]),
                Fault::Unexpected,
                "one byte shows it"
            );
        }
    }
    assert_eq!(fault(Version::Tls13, &[(24, b"heartbeat")]), Fault::Unexpected);
    assert_eq!(fault(Version::Tls13, &[(TYPE_HANDSHAKE, &ticket(20))]), Fault::Unexpected, "from a client");
    assert_eq!(fault(Version::Tls12, &[(TYPE_HANDSHAKE, &KEY_UPDATE)]), Fault::Unexpected);
    assert_eq!(fault_of_server(Version::Tls12, &[(TYPE_HANDSHAKE, &ticket(20))]), Fault::Unexpected);
    // Records of TLS 1.3 that are not sealed.
    for record in [&[20, 3, 3, 0, 1, 1][..], &[21, 3, 3, 0, 2, 1, 0], &[22, 3, 3, 0, 5, 24, 0, 0, 1, 0]] {
        let [mut server, _] = pair(Version::Tls13, Suite::Aes128Gcm);
        assert_eq!(server.open(&mut record.to_vec()), Err(Fault::Unexpected));
    }
}

#[test]
fn renegotiation_is_refused() {
    assert_eq!(fault(Version::Tls12, &[(TYPE_HANDSHAKE, &[1, 0, 0, 40])]), Fault::Renegotiation);
    assert_eq!(fault_of_server(Version::Tls12, &[(TYPE_HANDSHAKE, &[0, 0, 0, 0])]), Fault::Renegotiation);
    assert_eq!(fault(Version::Tls12, &[(TYPE_HANDSHAKE, &[0, 0, 0, 0])]), Fault::Unexpected);
    assert_eq!(fault_of_server(Version::Tls12, &[(TYPE_HANDSHAKE, &[1, 0, 0, 40])]), Fault::Unexpected);
    assert_eq!(fault(Version::Tls13, &[(TYPE_HANDSHAKE, &[1, 0, 0, 40])]), Fault::Unexpected);
    assert_eq!(fault_of_server(Version::Tls13, &[(TYPE_HANDSHAKE, &[0, 0, 0, 0])]), Fault::Unexpected);
}

#[test]
fn key_updates_that_are_wrong() {
    let of = |content: &[u8]| fault(Version::Tls13, &[(TYPE_HANDSHAKE, content)]);
    assert_eq!(of(&[24, 0, 0, 1, 2]), Fault::IllegalParameter);
    assert_eq!(of(&[24, 0, 0, 0]), Fault::Malformed);
    assert_eq!(of(&[24, 0, 0, 2]), Fault::Malformed);
    assert_eq!(of(&[24, 1, 0, 1]), Fault::Malformed);
    assert_eq!(of(&[KEY_UPDATE, KEY_UPDATE].concat()), Fault::Unexpected, "it ends its record");
    assert_eq!(of(&[&KEY_UPDATE[..], &[24]].concat()), Fault::Unexpected);
    // The old key is of no use behind it.
    assert_eq!(
        fault(Version::Tls13, &[(TYPE_HANDSHAKE, &KEY_UPDATE), (TYPE_APPLICATION_DATA, b"data")]),
        Fault::BadMac
    );
}

#[test]
fn a_message_in_pieces_is_put_together() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    for byte in KEY_UPDATE {
        assert_eq!(server.open(&mut client.seal_any(TYPE_HANDSHAKE, &[byte])), Ok(Opened::Nothing));
    }
    assert!(server.session.messages.is_none(), "nothing is kept");
    client.session.skip_to_next_key(&mut client.contexts);
    assert_eq!(server.open_all(&mut client.seal(b"data")), Ok(b"data".to_vec()));
}

#[test]
fn nothing_comes_between_the_pieces_of_a_message() {
    for (kind, content) in
        [(TYPE_APPLICATION_DATA, &b"data"[..]), (TYPE_APPLICATION_DATA, b""), (TYPE_ALERT, &[1, 0])]
    {
        assert_eq!(
            fault(Version::Tls13, &[(TYPE_HANDSHAKE, &KEY_UPDATE[..3]), (kind, content)]),
            Fault::Unexpected
        );
    }
}

#[test]
fn tickets_are_handed_out_whole() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let (one, two) = (ticket(100), ticket(37));
    assert_eq!(
        client.open(&mut server.seal_any(TYPE_HANDSHAKE, &one)),
        Ok(Opened::Ticket(one[4..].to_vec()))
    );
    assert_eq!(client.session.next_ticket(), None);
    // Two in a record, and a KeyUpdate behind them.
    let together = [&one[..], &two, &KEY_UPDATE].concat();
    assert_eq!(
        client.open(&mut server.seal_any(TYPE_HANDSHAKE, &together)),
        Ok(Opened::Ticket(one[4..].to_vec()))
    );
    server.session.skip_to_next_key(&mut server.contexts);
    assert_eq!(client.session.next_ticket(), Some(two[4..].to_vec()));
    assert_eq!(client.session.next_ticket(), None);
    assert!(client.session.messages.is_none(), "nothing is kept");
    // One and a half, then the other half.
    let (front, behind) = together[..together.len() - 5].split_at(one.len() + 3);
    assert_eq!(
        client.open(&mut server.seal_any(TYPE_HANDSHAKE, front)),
        Ok(Opened::Ticket(one[4..].to_vec()))
    );
    assert_eq!(client.session.next_ticket(), None);
    assert_eq!(
        client.open(&mut server.seal_any(TYPE_HANDSHAKE, behind)),
        Ok(Opened::Ticket(two[4..].to_vec()))
    );
    assert_eq!(client.open_all(&mut server.seal(b"data")), Ok(b"data".to_vec()));
}

#[test]
fn tickets_have_a_length_and_a_number_that_are_kept() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let longest = ticket(MESSAGE_BYTES_MAX);
    let mut opened = Vec::new();
    for piece in longest.chunks(PLAINTEXT_BYTES_MAX) {
        opened.push(client.open(&mut server.seal_any(TYPE_HANDSHAKE, piece)).unwrap());
    }
    assert_eq!(opened.pop(), Some(Opened::Ticket(longest[4..].to_vec())));
    assert!(opened.iter().all(|opened| *opened == Opened::Nothing));
    let too_long = ticket(MESSAGE_BYTES_MAX + 1);
    assert_eq!(client.open(&mut server.seal_any(TYPE_HANDSHAKE, &too_long[..4])), Err(Fault::Malformed));

    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let many = ticket(10).repeat(100);
    assert!(matches!(client.open(&mut server.seal_any(TYPE_HANDSHAKE, &many)), Ok(Opened::Ticket(_))));
    assert_eq!(std::iter::from_fn(|| client.session.next_ticket()).count(), TICKETS_MAX - 1);
    client.open(&mut server.seal_any(TYPE_HANDSHAKE, &many)).unwrap();
    client.open(&mut server.seal_any(TYPE_HANDSHAKE, &ticket(10))).unwrap();
    assert_eq!(client.session.next_ticket(), None, "those that were not asked for are gone");
}

#[test]
fn alerts() {
    for version in VERSIONS {
        for level in [1, 2] {
            let [mut server, mut client] = pair(version, Suite::Aes128Gcm);
            assert_eq!(server.open(&mut client.seal_any(TYPE_ALERT, &[level, 0])), Ok(Opened::Closed));
            assert_eq!(server.open(&mut client.seal(b"late")), Ok(Opened::Closed), "what follows is ignored");
        }
        let [mut server, mut client] = pair(version, Suite::Aes128Gcm);
        assert_eq!(server.open(&mut client.seal_any(TYPE_ALERT, &[2, 40])), Ok(Opened::Aborted(40)));
        assert_eq!(server.open(&mut client.seal(b"late")), Ok(Opened::Closed));
        assert_eq!(fault(version, &[(TYPE_ALERT, &[])]), Fault::Unexpected);
        assert_eq!(fault(version, &[(TYPE_ALERT, &[1])]), Fault::Malformed);
        assert_eq!(fault(version, &[(TYPE_ALERT, &[1, 0, 1, 0])]), Fault::Malformed);
        assert_eq!(fault(version, &[(TYPE_ALERT, &[3, 40])]), Fault::IllegalParameter);
    }
    // The level says nothing in TLS 1.3.
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    assert_eq!(server.open(&mut client.seal_any(TYPE_ALERT, &[1, 40])), Ok(Opened::Aborted(40)));
}

#[test]
fn a_peer_that_has_closed_still_receives() {
    for version in VERSIONS {
        let [mut server, mut client] = pair(version, Suite::Aes128Gcm);
        let mut closing = Vec::new();
        client.session.close(&mut client.contexts, &mut closing);
        assert_eq!(server.open(&mut closing), Ok(Opened::Closed));
        assert_eq!(client.open_all(&mut server.seal(b"response")), Ok(b"response".to_vec()));
    }
}

#[test]
fn four_warnings_and_no_more() {
    for (version, warning) in
        [(Version::Tls12, [1, 100]), (Version::Tls13, [1, 90]), (Version::Tls13, [2, 90])]
    {
        let [mut server, mut client] = pair(version, Suite::Aes128Gcm);
        for _ in 0..WARNINGS_MAX {
            assert_eq!(server.open(&mut client.seal_any(TYPE_ALERT, &warning)), Ok(Opened::Nothing));
            // Data do not pay for them.
            assert_eq!(server.open_all(&mut client.seal(b"data")), Ok(b"data".to_vec()));
        }
        assert_eq!(server.open(&mut client.seal_any(TYPE_ALERT, &warning)), Err(Fault::Flood));
    }
    assert_eq!(WARNINGS_MAX, 4);
}

/// So many good ones in a row, again after data, and one more is a flood.
fn check_budget(version: Version, max: u8, side: Side, mut send: impl FnMut(&mut End, u8) -> Vec<u8>) {
    let [server, client] = pair(version, Suite::Aes128Gcm);
    let (mut end, mut peer) = if side == Side::Server { (server, client) } else { (client, server) };
    for round in 0..2 {
        for i in 0..max {
            end.open_all(&mut send(&mut peer, i)).unwrap_or_else(|fault| panic!("{fault:?} {round}.{i}"));
        }
        if round == 0 {
            assert_eq!(end.open_all(&mut peer.seal(b"x")), Ok(b"x".to_vec()));
        }
    }
    assert_eq!(end.open_all(&mut send(&mut peer, max)), Err(Fault::Flood));
}

#[test]
fn thirty_two_key_updates_in_a_row_and_no_more() {
    assert_eq!(KEY_UPDATES_MAX, 32);
    check_budget(Version::Tls13, KEY_UPDATES_MAX, Side::Server, |peer, _| peer.update());
    check_budget(Version::Tls13, KEY_UPDATES_MAX, Side::Client, |peer, _| peer.update());
}

#[test]
fn thirty_two_empty_records_in_a_row_and_no_more() {
    assert_eq!(IDLE_RECORDS_MAX, 32);
    for version in VERSIONS {
        check_budget(version, IDLE_RECORDS_MAX, Side::Server, |peer, _| peer.seal_any(23, b""));
    }
    check_budget(Version::Tls13, IDLE_RECORDS_MAX, Side::Server, |peer, _| peer.seal_any(0, &[23, 0, 0, 0]));
    check_budget(Version::Tls13, IDLE_RECORDS_MAX, Side::Client, |peer, _| peer.seal_any(22, &ticket(20)));
    // Key updates in pieces, with their ends between them, and empty records do not pay for each other.
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let mut opened = 0;
    let fault = loop {
        let wire = if opened % 2 == 0 { client.update() } else { client.seal_any(23, b"") };
        match server.open_all(&mut wire.clone()) {
            Ok(_) => opened += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!((fault, opened), (Fault::Flood, 64));
}
