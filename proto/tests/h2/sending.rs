//! What we send keeps to what the peer allows.

use sluice_proto::RequestKind;
use sluice_proto::h2::{ErrorCode, Role, Rules, StreamKey};

use crate::rig::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n";

fn server_with_stream(settings: &[u8]) -> End {
    let mut end = End::server(RULES);
    end.feed(&[settings, &headers(1, END_STREAM, block::GET)].concat());
    end.respond(1, OK, false);
    end.start_over();
    end
}

fn lens(frames: &[Frame]) -> Vec<(u8, u8, usize)> {
    frames.iter().map(|(kind, flags, _, payload)| (*kind, *flags, payload.len())).collect()
}

/// Sections 4.2 and 6.9.
#[test]
fn data_keep_to_windows_and_frame_sizes() {
    let mut end = server_with_stream(b"");
    assert_eq!(end.send(1, &[7; 100_000], true), 65_535);
    assert_eq!(
        lens(&end.written()),
        [(DATA, 0, 16_384), (DATA, 0, 16_384), (DATA, 0, 16_384), (DATA, 0, 16_383)]
    );
    assert_eq!(end.session.sendable(end.key(1)), 0);
    end.start_over();
    // The stream's window alone, then the connection's.
    end.feed(&window_update(1, 100));
    assert_eq!((end.session.sendable(end.key(1)), end.send(1, b"x", false)), (0, 0));
    end.feed(&window_update(0, 60));
    assert_eq!(end.session.sendable(end.key(1)), 60);
    assert_eq!(end.send(1, &[7; 60], true), 60);
    assert_eq!(lens(&end.written()), [(DATA, END_STREAM, 60)]);
    assert!(end.session.is_sent(end.key(1)));
    assert_eq!((end.session.sendable(end.key(1)), end.send(1, b"x", true)), (0, 0));
    assert_eq!(end.written().len(), 1);
}

/// Section 6.5.2: larger frames, but none beyond what we want.
#[test]
fn data_keep_to_the_bound_of_the_rules() {
    let mut end = server_with_stream(&setting(5, 100_000));
    end.rules.write_bytes_max = 30_000;
    end.send(1, &[7; 60_000], false);
    assert_eq!(lens(&end.written()), [(DATA, 0, 30_000), (DATA, 0, 30_000)]);
}

/// Section 6.9.2: a setting changes windows of streams that are open, also below zero.
#[test]
fn settings_change_windows() {
    let mut end = server_with_stream(&setting(4, 100));
    assert_eq!(end.send(1, &[7; 200], false), 100);
    end.feed(&setting(4, 40));
    assert_eq!(end.session.sendable(end.key(1)), 0);
    end.feed(&window_update(1, 70));
    assert_eq!(end.session.sendable(end.key(1)), 10);
    end.feed(&setting(4, 50));
    assert_eq!(end.session.sendable(end.key(1)), 20);
}

/// Section 6.9: an end without data needs no window.
#[test]
fn the_end_needs_no_window() {
    let mut end = server_with_stream(&setting(4, 0));
    assert_eq!(end.send(1, b"x", true), 0);
    assert!(end.written().is_empty() && !end.session.is_sent(end.key(1)));
    assert_eq!(end.send(1, b"", true), 0);
    assert_eq!(lens(&end.written()), [(DATA, END_STREAM, 0)]);
}

/// Section 6.10.
#[test]
fn large_heads_are_continued() {
    let mut end = End::server(RULES);
    end.feed(&headers(1, END_STREAM, block::GET));
    let value = "v".repeat(9_000);
    end.respond(
        1,
        &format!("HTTP/1.1 200 OK\r\nX-A: {value}\r\nX-B: {value}\r\nX-C: {value}\r\nX-D: {value}\r\n\r\n"),
        true,
    );
    let written = end.written();
    let kinds: Vec<(u8, u8)> = written.iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(kinds[0], (HEADERS, END_STREAM));
    assert_eq!(*kinds.last().expect("frames"), (CONTINUATION, END_HEADERS));
    assert!(kinds.len() > 1 && written.iter().all(|frame| frame.2 == 1 && frame.3.len() <= 16_384));
    // And are read again.
    let rules = Rules { head: sluice_proto::HeadLimits { head_bytes_max: 65_536, ..RULES.head }, ..RULES };
    let mut client = End::client(rules);
    client.feed(&end.out);
    assert_eq!(client.seen, [Seen::Head { id: 1, is_end: true, fault: None }]);
    assert_eq!(client.lines.response().fields().filter(|field| field.value == value.as_bytes()).count(), 4);
}

/// Section 5.1.2, and 5.1.1 at the last number.
#[test]
fn clients_open_as_many_streams_as_the_server_allows() {
    let mut end = End::client(RULES);
    assert_eq!(end.session.openable(&end.rules), 1);
    end.feed(&setting(3, 3));
    assert_eq!((end.session.openable(&end.rules), end.session.open(RequestKind::Other, &RULES)), (0, None));
    end.close(1, ErrorCode::CANCEL);
    assert_eq!(end.session.openable(&end.rules), 1);
    let key = end.request("GET", "", true);
    assert_eq!(key.id, 7);
    end.close(7, ErrorCode::CANCEL);
    // Section 6.8.
    end.feed(&frame(GOAWAY, 0, 0, &[0; 8]));
    assert!(end.session.is_going_away());
    assert_eq!((end.session.openable(&end.rules), end.session.open(RequestKind::Other, &RULES)), (0, None));
}

/// A server whose settings have not come yet takes 100 streams.
#[test]
fn before_settings_a_bound_is_assumed() {
    let rules = Rules { streams_max: 1_000, ..RULES };
    let mut end = End::new(Role::Client, rules);
    assert_eq!(end.session.openable(&rules), 100);
    end.feed(&frame(SETTINGS, 0, 0, b""));
    assert_eq!(end.session.openable(&rules), 1_000);
}

/// A stream that was opened and not used leaves no trace, and its number is left out.
#[test]
fn streams_that_were_not_used_are_not_reset() {
    let mut end = End::client(RULES);
    let key = end.session.open(RequestKind::Other, &end.rules).expect("room");
    end.session.close(key, ErrorCode::CANCEL, &mut end.out);
    assert!(end.out.is_empty());
    let key = end.request("GET", "", true);
    assert_eq!(key.id, 9);
}

/// Keys of streams that were closed mean nothing, also when their place is used again.
#[test]
fn stale_keys_do_nothing() {
    let mut end = server_with_stream(b"");
    let old = end.key(1);
    end.close(1, ErrorCode::CANCEL);
    end.feed(&headers(3, 0, block::POST));
    end.respond(3, OK, false);
    end.start_over();
    assert_eq!(end.key(3).slot, old.slot);
    for key in [old, StreamKey { slot: old.slot, id: 0 }, StreamKey { slot: u16::MAX, id: 3 }] {
        let (session, out) = (&mut end.session, &mut end.out);
        assert_eq!(session.send_data(key, b"x", true, &RULES, out), 0);
        session.give_back(key, 100, &RULES, out);
        session.close(key, ErrorCode::CANCEL, out);
        assert!(session.is_sent(key) && session.sendable(key) == 0 && out.is_empty());
    }
    assert_eq!(end.session.streams(), 1);
}

/// Section 5.4.2: what was reset by either side sends nothing more.
#[test]
fn streams_that_were_reset_send_nothing() {
    for bytes in [reset(1, ErrorCode::CANCEL), window_update(1, 0)] {
        let mut end = server_with_stream(b"");
        end.feed(&bytes);
        end.out.clear();
        assert_eq!(end.send(1, b"x", true), 0);
        assert!(end.session.is_sent(end.key(1)));
        end.close(1, ErrorCode::CANCEL);
        assert!(end.out.is_empty());
    }
}

/// Section 8.1: a response that is complete before its request has been read.
#[test]
fn close_resets_what_has_not_ended() {
    let mut end = End::server(RULES);
    end.feed(&headers(1, 0, block::POST));
    end.respond(1, "HTTP/1.1 204 No Content\r\n\r\n", true);
    end.start_over();
    end.close(1, ErrorCode::NO_ERROR);
    assert_eq!(end.written(), [(RST_STREAM, 0, 1, vec![0; 4])]);
    end.start_over();
    end.feed(&headers(3, END_STREAM, block::GET));
    end.respond(3, "HTTP/1.1 204 No Content\r\n\r\n", true);
    end.start_over();
    end.close(3, ErrorCode::NO_ERROR);
    assert!(end.out.is_empty());
}

/// Section 6.8: the last stream of a GOAWAY is never higher than before.
#[test]
fn go_away_never_names_a_higher_stream() {
    let mut end = End::server(RULES);
    end.session.go_away((1 << 31) - 1, ErrorCode::NO_ERROR, &mut end.out);
    end.session.go_away(3, ErrorCode::NO_ERROR, &mut end.out);
    end.session.go_away(5, ErrorCode::NO_ERROR, &mut end.out);
    let ids: Vec<u8> = end.written().iter().map(|frame| frame.3[3]).collect();
    assert_eq!(ids, [0xff, 3, 3]);
}

/// Section 6.7.
#[test]
fn pings_are_answered_and_sent() {
    let mut end = End::server(RULES);
    end.session.ping(*b"answerme", &mut end.out);
    assert_eq!(end.out, ping());
    end.feed(&pong());
    assert_eq!(end.seen, [Seen::Pong]);
}

/// Section 6.5.3: settings that come in pieces are in force when they are acknowledged, not before.
#[test]
fn settings_in_pieces_are_in_force_at_once() {
    let mut end = server_with_stream(b"");
    end.rules.encoder_table_bytes = 8_192;
    end.feed(&headers(3, END_STREAM, block::GET));
    // A header table of 5,000 bytes, an initial window of 10, frames of 20,000 bytes.
    let settings =
        frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x13, 0x88, 0, 4, 0, 0, 0, 10, 0, 5, 0, 0, 0x4e, 0x20]);
    for &byte in &settings[..settings.len() - 1] {
        end.feed(&[byte]);
        assert_eq!((end.session.sendable(end.key(1)), end.written().len()), (65_535, 0));
    }
    // A block begins with the size of the table where that is another.
    end.respond(3, OK, false);
    assert!(end.written().iter().all(|frame| frame.3[0] & 0xe0 != 0x20), "{:?}", end.written());
    end.out.clear();
    end.feed(&settings[settings.len() - 1..]);
    assert_eq!((end.session.sendable(end.key(1)), end.written().len()), (10, 1));
}
