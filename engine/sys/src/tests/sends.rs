//! Sends that stand in line, and sends of two parts.

use std::future::{Future, poll_fn};
use std::io::Read;
use std::pin::pin;

use super::{buf, pair, run, small, start};
use crate::driver;
use crate::*;

/// Bytes that no socket takes at once.
const STUCK_BYTES: usize = 16 << 20;

fn stuck() -> Buf {
    let mut big = Buf::large();
    big.resize(STUCK_BYTES, 7);
    big
}

/// How many slots of the in-flight table something looks at.
fn looks(of: impl FnOnce()) -> u64 {
    let before = driver::with(|driver| driver.ops().looks);
    of();
    driver::with(|driver| driver.ops().looks) - before
}

#[test]
fn ten_thousand_sends_in_line_cost_as_much_each_as_the_first() {
    const IN_LINE: u32 = 10_000;
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        conn.send(stuck(), 0).detach();
        let send = |number: u32| {
            let mut numbered = Buf::tiny(4);
            numbered.extend_from_slice(&number.to_be_bytes());
            conn.send(numbered, 0).detach();
        };
        let first = looks(|| send(0));
        let most = (1..IN_LINE).map(|number| looks(|| send(number))).max();
        assert_eq!(most, Some(first));
        let mut flushed = pin!(conn.flushed());
        let waits = looks(|| assert!(driver::with(|driver| driver.poll_flushed(0)).is_pending()));
        assert!(waits <= first, "{waits} slots to wait for the last of them, {first} to join them");
        start(flushed.as_mut()).await;

        let reader = std::thread::spawn(move || {
            let mut all = vec![0; STUCK_BYTES + IN_LINE as usize * 4];
            peer.read_exact(&mut all).expect("all of it");
            all
        });
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            flushed.as_mut().poll(context)
        })
        .await;
        assert!(!conn.is_sending() && polls <= 2, "it waits for the last one: {polls} polls");
        while !reader.is_finished() {
            sleep(5).await;
        }
        let all = reader.join().expect("the reader");
        let numbers =
            all[STUCK_BYTES..].chunks_exact(4).map(|four| u32::from_be_bytes(four.try_into().expect("four")));
        assert!(numbers.eq(0..IN_LINE), "they keep their order");
    });
    assert_eq!(left, Outstanding::default());
}

/// The line goes on to be joined while it gets shorter at its head.
#[test]
fn a_line_of_sends_is_joined_while_it_moves() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        conn.send(stuck(), 0).detach();
        for number in 0..64_u8 {
            conn.send(buf(&[number]), 0).detach();
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).expect("all of it");
            all
        });
        let mut number = 64;
        while conn.is_sending() {
            if number < 255 {
                conn.send(buf(&[number]), 0).detach();
                number += 1;
            }
            sleep(0).await;
        }
        drop(conn);
        while !reader.is_finished() {
            sleep(5).await;
        }
        let all = reader.join().expect("the reader");
        assert!(all[STUCK_BYTES..].iter().copied().eq(0..number), "{:?}", &all[STUCK_BYTES..]);
    });
    assert_eq!(left, Outstanding::default());
}
