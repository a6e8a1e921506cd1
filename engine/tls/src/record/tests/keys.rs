//! Keys: updates both ways, limits, nonces.

use super::*;

/// A KeyUpdate that requests one in return.
const REQUESTING: [u8; 5] = [24, 0, 0, 1, 1];

#[test]
fn a_key_update_is_answered_before_the_next_data_and_once() {
    for suite in SUITES {
        let [mut server, mut client] = pair(Version::Tls13, suite);
        for _ in 0..3 {
            let mut wire = client.seal_any(TYPE_HANDSHAKE, &REQUESTING);
            client.session.skip_to_next_key(&mut client.contexts);
            assert_eq!(server.open(&mut wire), Ok(Opened::Nothing));
        }
        assert!(server.session.owes_reply());
        let mut wire = server.seal(b"data");
        assert!(!server.session.owes_reply());
        let update_bytes = record_bytes(&wire).unwrap().unwrap();
        let generation = client.session.kernel_keys(Direction::Opening).key.to_vec();
        assert_eq!(client.open(&mut wire[..update_bytes]), Ok(Opened::Nothing));
        assert_ne!(client.session.kernel_keys(Direction::Opening).key, generation, "a new key");
        assert!(!client.session.owes_reply(), "an answer is not answered");
        assert_eq!(client.open_all(&mut wire[update_bytes..]), Ok(b"data".to_vec()));
        assert_eq!(server.open_all(&mut client.seal(b"more")), Ok(b"more".to_vec()));
        assert_eq!(client.open_all(&mut server.seal(b"and more")), Ok(b"and more".to_vec()));
    }
}

#[test]
fn an_answer_may_go_by_itself() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let mut out = Vec::new();
    server.session.reply(&mut server.contexts, &mut out);
    assert!(out.is_empty(), "nothing is owed");
    let mut wire = client.seal_any(TYPE_HANDSHAKE, &REQUESTING);
    server.open(&mut wire).unwrap();
    server.session.reply(&mut server.contexts, &mut out);
    assert!(!server.session.owes_reply());
    assert_eq!(client.open(&mut out), Ok(Opened::Nothing));
    assert_eq!(client.open_all(&mut server.seal(b"data")), Ok(b"data".to_vec()));
}

#[test]
fn a_closed_side_answers_nothing() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    let mut out = Vec::new();
    server.session.close(&mut server.contexts, &mut out);
    let closed = out.len();
    server.open(&mut client.seal_any(TYPE_HANDSHAKE, &REQUESTING)).unwrap();
    assert!(!server.session.owes_reply());
    server.session.reply(&mut server.contexts, &mut out);
    server.session.alert(&mut server.contexts, Fault::BadMac, &mut out);
    server.session.close(&mut server.contexts, &mut out);
    assert_eq!(server.session.seal(&mut server.contexts, b"late", &mut out), Err(Fault::Unexpected));
    assert_eq!(out.len(), closed);
    assert_eq!(client.open(&mut out), Ok(Opened::Closed));
}

#[test]
fn the_key_is_changed_in_time() {
    for suite in SUITES {
        let [mut server, mut client] = pair_at(Version::Tls13, suite, KEY_RECORDS_MAX - 1);
        let first = server.session.kernel_keys(Direction::Sealing).key.to_vec();
        let mut wire = server.seal(b"last of its key");
        assert_eq!(record_bytes(&wire), Ok(Some(wire.len())), "one record");
        assert_eq!(server.session.kernel_keys(Direction::Sealing).key, first);
        wire.extend(server.seal(&[5; 20_000]));
        let keys = server.session.kernel_keys(Direction::Sealing);
        assert!(keys.key != first && keys.sequence == 2);
        assert_eq!(client.open_all(&mut wire).map(|data| data.len()), Ok(15 + 20_000));
        assert!(!client.session.owes_reply(), "none was requested");
    }
}

#[test]
fn the_key_is_changed_between_two_records_of_one_call() {
    let [mut server, mut client] = pair_at(Version::Tls13, Suite::Aes256Gcm, KEY_RECORDS_MAX - 1);
    let plaintext: Vec<u8> = (0..50_000).map(|i| (i % 251) as u8).collect();
    let mut wire = server.seal(&plaintext);
    assert!(wire.len() <= server.session.sealed_bytes_max(plaintext.len()));
    assert_eq!(server.session.kernel_keys(Direction::Sealing).sequence, 3);
    assert_eq!(client.open_all(&mut wire), Ok(plaintext));
}

#[test]
fn a_key_of_tls_12_is_exhausted() {
    for suite in [Suite::Aes128Gcm, Suite::Aes256Gcm] {
        let [mut server, mut client] = pair_at(Version::Tls12, suite, KEY_RECORDS_MAX - 2);
        let mut out = Vec::new();
        let (session, contexts) = (&mut server.session, &mut server.contexts);
        assert_eq!(session.seal(contexts, &[1; 3 * PLAINTEXT_BYTES_MAX], &mut out), Err(Fault::KeyExhausted));
        assert!(out.is_empty());
        session.seal(contexts, &[1; 2 * PLAINTEXT_BYTES_MAX], &mut out).unwrap();
        assert_eq!(session.seal(contexts, b"x", &mut out), Err(Fault::KeyExhausted));
        let sealed = out.len();
        session.alert(contexts, Fault::KeyExhausted, &mut out);
        assert_eq!(client.open_all(&mut out[..sealed]).map(|data| data.len()), Ok(2 * PLAINTEXT_BYTES_MAX));
        assert_eq!(client.open(&mut out[sealed..]), Ok(Opened::Aborted(80)));
    }
}

#[test]
fn sequence_numbers_never_wrap() {
    let suite = Suite::ChaCha20Poly1305;
    let [mut server, mut client] = pair_at(Version::Tls12, suite, u64::from(u32::MAX) - 65);
    assert_eq!(client.open_all(&mut server.seal(b"last")), Ok(b"last".to_vec()));
    assert_eq!(server.session.seal(&mut server.contexts, b"x", &mut Vec::new()), Err(Fault::KeyExhausted));
    for version in VERSIONS {
        let [mut server, mut client] = pair_at(version, suite, u64::from(u32::MAX));
        assert_eq!(server.seal_any(TYPE_APPLICATION_DATA, b"x"), b"", "a record without a number");
        let mut closing = Vec::new();
        server.session.close(&mut server.contexts, &mut closing);
        assert!(closing.is_empty());
        let [mut other, _] = pair_at(version, suite, 0);
        assert_eq!(client.open(&mut other.seal(b"x")), Err(Fault::KeyExhausted));
    }
}

#[test]
fn every_record_has_a_nonce_of_its_own() {
    // TLS 1.2 with AES-GCM shows the explicit part.
    let [mut server, _] = pair_at(Version::Tls12, Suite::Aes128Gcm, 1);
    let wire = server.seal(&[1; 5 * PLAINTEXT_BYTES_MAX]);
    let record = PLAINTEXT_BYTES_MAX + HEADER_BYTES + EXPLICIT_NONCE_BYTES + TAG_BYTES;
    let mut explicit: Vec<u64> = wire
        .chunks(record)
        .map(|record| u64::from_be_bytes(record[HEADER_BYTES..HEADER_BYTES + 8].try_into().unwrap()))
        .collect();
    // What rustls has used for its Finished, and what the kernel counts on from.
    let begin = server.session.kernel_keys(Direction::Opening).iv;
    assert_eq!(begin[..4], [5; 4]);
    let first = u64::from_be_bytes([6; 8]);
    explicit.push(first);
    let kernel = server.session.kernel_keys(Direction::Sealing);
    assert_eq!(kernel.iv[..4], [6; 4]);
    let counted_from = u64::from_be_bytes(kernel.iv[4..].try_into().unwrap());
    assert!(explicit.iter().all(|&used| counted_from.wrapping_sub(used) > 1 << 31));
    explicit.sort_unstable();
    explicit.dedup();
    assert_eq!(explicit.len(), 6);
}

#[test]
fn four_bytes_of_iv_are_enough_for_tls_12() {
    let traffic = |key: &'static [u8; 16]| Traffic { key, iv: &[9; 4], sequence: 1, secret: &[] };
    let new = |side, opening, sealing| {
        End::new(Session::new(Version::Tls12, Suite::Aes128Gcm, side, &traffic(opening), &traffic(sealing)))
    };
    let mut server = new(Side::Server, &[1; 16], &[2; 16]);
    let mut client = new(Side::Client, &[2; 16], &[1; 16]);
    let mut wire = server.seal(b"data");
    assert_eq!(wire[5..13], [0, 0, 0, 0, 0, 0, 0, 1], "the number");
    assert_eq!(client.open_all(&mut wire), Ok(b"data".to_vec()));
}

#[test]
fn two_sessions_never_open_records_of_each_other() {
    for (version, suite) in all_kinds() {
        let [mut server, mut client] = pair_of(version, suite, 0, 1);
        let [mut other_server, mut other_client] = pair_of(version, suite, 0, 101);
        assert_eq!(other_client.open(&mut server.seal(b"secret")), Err(Fault::BadMac));
        assert_eq!(other_server.open(&mut client.seal(b"secret")), Err(Fault::BadMac));
        // Nor a session its own, nor one twice, nor in another order.
        let [mut server, mut client] = pair_of(version, suite, 0, 1);
        assert_eq!(server.open(&mut server_record(version, suite)), Err(Fault::BadMac));
        let wire = client.seal(b"first");
        let [mut server, _] = pair_of(version, suite, 0, 1);
        server.open(&mut wire.clone()).unwrap();
        assert_eq!(server.open(&mut wire.clone()), Err(Fault::BadMac), "a replay");
        let [mut server, _] = pair_of(version, suite, 0, 1);
        assert_eq!(server.open(&mut client.seal(b"second")), Err(Fault::BadMac), "a gap");
    }
}

fn server_record(version: Version, suite: Suite) -> Vec<u8> {
    pair_of(version, suite, 0, 1)[0].seal(b"secret")
}

#[test]
fn contexts_may_be_given_up_at_any_time() {
    for (version, suite) in all_kinds() {
        let [mut server, mut client] = pair(version, suite);
        for round in 0..5_u8 {
            let mut wire = server.seal(&[round; 100]);
            server.contexts.clear();
            assert_eq!(client.open_all(&mut wire), Ok(vec![round; 100]));
            client.contexts.clear();
        }
    }
}

#[test]
fn the_kernel_seals_only_where_nothing_is_owed() {
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    server.open(&mut client.seal_any(TYPE_HANDSHAKE, &REQUESTING)).unwrap();
    assert!(!server.session.may_go_to_kernel(1), "a reply is owed");
    server.seal(b"data");
    assert!(server.session.may_go_to_kernel(1));
    assert!(
        !server.session.may_go_to_kernel(KEY_RECORDS_MAX * KERNEL_PIECE_BYTES),
        "more than a key is good for"
    );
    assert!(!server.session.count_in_kernel(1), "it is not there yet");
    server.session.close(&mut server.contexts, &mut Vec::new());
    assert!(!server.session.may_go_to_kernel(1), "our side has ended");
}

#[test]
fn a_session_in_the_kernel_ends_by_one_alert() {
    let alert = |description, level| Control { content_type: TYPE_ALERT, content: [level, description] };
    let [mut server, mut client] = pair(Version::Tls13, Suite::Aes128Gcm);
    server.session.go_to_kernel();
    assert!(server.session.is_in_kernel() && !server.session.may_go_to_kernel(1));
    let data = server.open_all(&mut client.seal(b"request"));
    assert_eq!(data, Ok(b"request".to_vec()), "what comes is opened here");
    let mut update = client.seal_any(TYPE_HANDSHAKE, &[24, 0, 0, 1, 0]);
    client.session.skip_to_next_key(&mut client.contexts);
    assert_eq!(server.open(&mut update), Ok(Opened::Nothing), "a key of the peer's own");
    let fault = server.open(&mut client.seal_any(TYPE_HANDSHAKE, &REQUESTING));
    assert_eq!(fault, Err(Fault::KeyInKernel));
    assert_eq!(server.session.alert_in_kernel(Fault::KeyInKernel), Some(alert(80, 2)));
    assert_eq!(server.session.close_in_kernel(), None);
    assert!(server.session.is_in_kernel() && !server.session.count_in_kernel(1));
    let mut out = Vec::new();
    server.session.close(&mut server.contexts, &mut out);
    server.session.alert(&mut server.contexts, Fault::BadMac, &mut out);
    assert_eq!(server.session.seal(&mut server.contexts, b"late", &mut out), Err(Fault::Unexpected));
    assert!(out.is_empty(), "nothing is sealed here any more");
    let [mut server, _] = pair(Version::Tls12, Suite::Aes128Gcm);
    server.session.go_to_kernel();
    assert_eq!(server.session.close_in_kernel(), Some(alert(0, 1)));
}

#[test]
fn a_key_in_the_kernel_wears_out() {
    for version in VERSIONS {
        let [mut server, _] = pair_at(version, Suite::Aes128Gcm, KEY_RECORDS_MAX / 2 - 3);
        server.session.go_to_kernel();
        assert!(server.session.count_in_kernel(KERNEL_PIECE_BYTES + 1) && !server.session.is_key_half_used());
        assert!(server.session.count_in_kernel(1) && server.session.is_key_half_used());
        assert!(server.session.count_in_kernel(u64::MAX), "what was begun is counted");
        assert!(!server.session.count_in_kernel(0));
    }
}
