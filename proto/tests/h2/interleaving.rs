//! A hundred streams between two sessions: every byte arrives on its stream and in order, whatever the windows and the pieces.

use proptest::prelude::*;
use sluice_proto::h2::{Role, Rules};

use crate::peers::{Client, EchoServer, Random};
use crate::rig::{End, RULES};

/// Moves some of what one end has written to the other, in pieces of any size.
fn carry(from: &mut End, to: &mut End, random: &mut Random) {
    let len = random.below(from.out.len() + 1);
    let mut rest = &from.out[..len];
    while !rest.is_empty() {
        let most = [1, 9, 100, 20_000][random.below(4)];
        let (piece, behind) = rest.split_at(rest.len().min(random.below(most) + 1));
        to.feed(piece);
        rest = behind;
    }
    from.out.drain(..len);
}

fn rules() -> impl Strategy<Value = Rules> {
    let windows = (prop_oneof![1_u32..20, 20_u32..3_000, 3_000_u32..200_000], 65_535_u32..300_000);
    let frames = (prop_oneof![1_u32..40, 1_000_u32..40_000], 16_384_u32..40_000);
    let tables = (0_u32..5_000, 0_u32..5_000);
    (windows, frames, tables, 1_u32..130).prop_map(|(windows, frames, tables, streams_max)| Rules {
        stream_window: windows.0,
        stream_window_max: 0,
        connection_window: windows.1,
        write_bytes_max: frames.0,
        coalesced_bytes_max: 40 * 1024,
        frame_bytes_max: frames.1,
        decoder_table_bytes: tables.0,
        encoder_table_bytes: tables.1,
        streams_max,
        ..RULES
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_hundred_streams_interleave(theirs in rules(), ours in rules(), seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let (mut client, mut server) = (End::new(Role::Client, theirs), End::new(Role::Server, ours));
        let (mut requests, mut echo) = (Client::new(100, 600), EchoServer::default());
        let mut turns = 0;
        while !(requests.is_done() && echo.is_idle() && client.out.is_empty() && server.out.is_empty()) {
            turns += 1;
            prop_assert!(turns < 3_000_000, "no end: {} echoed, {} cancelled", requests.echoed, requests.cancelled);
            requests.act(&mut client, &mut random);
            carry(&mut client, &mut server, &mut random);
            echo.act(&mut server, &mut random);
            carry(&mut server, &mut client, &mut random);
        }
        prop_assert_eq!(requests.echoed + requests.cancelled, 100);
        prop_assert!(client.session.is_between_frames() && server.session.is_between_frames());
        prop_assert_eq!((client.session.streams(), server.session.streams()), (0, 0));
    }
}
