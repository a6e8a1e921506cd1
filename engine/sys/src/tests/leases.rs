//! Received bytes that several hold apart: pieces of one buffer.

use std::io::{Read, Write};
use std::time::Duration;

use super::{pair, run, small};
use crate::rig::Rig;
use crate::*;

/// A lease of all these bytes, which fit into one buffer, and the peer's end of the connection.
async fn received(bytes: &[u8]) -> (Conn, std::net::TcpStream, Lease) {
    let (conn, mut peer) = pair().await;
    peer.write_all(bytes).expect("write");
    let lease = conn.receive().await.expect("receive").expect("bytes");
    assert_eq!(&*lease, bytes);
    (conn, peer, lease)
}

#[test]
fn a_buffer_goes_back_with_the_last_of_its_pieces() {
    let left = run(&small(), async {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let (_conn, _peer, mut rest) = received(b"head|body|next").await;
            let (head, body) = (rest.split_to(5), rest.split_to(5));
            let mut pieces = [Some(head), Some(body), Some(rest)];
            for (dropped, nth) in order.into_iter().enumerate() {
                assert_eq!(buffers_held().0, 1, "{dropped} of three are gone");
                assert_eq!(pieces[nth].as_deref(), Some([&b"head|"[..], b"body|", b"next"][nth]));
                pieces[nth] = None;
            }
            assert_eq!(buffers_held().0, 0, "{order:?}");
        }
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_piece_without_bytes_holds_no_buffer() {
    let left = run(&small(), async {
        let (_conn, _peer, mut lease) = received(b"all").await;
        let none = lease.split_to(0);
        assert_eq!((&*none, &*lease), (&b""[..], &b"all"[..]));
        let all = lease.split_to(3);
        assert_eq!((&*all, &*lease), (&b"all"[..], &b""[..]));
        assert_eq!(buffers_held().0, 1);
        drop(all);
        assert_eq!(buffers_held().0, 0);
        // They are leases like others.
        let (conn, mut peer) = pair().await;
        assert!(conn.send_lease(none, 0).await.result.is_ok());
        assert!(lease.is_small() && lease.split_to(0).is_empty());
        assert!(lease.into_buf().is_empty());
        conn.send(super::buf(b"x"), 0).await.result.expect("sent");
        peer.read_exact(&mut [0]).expect("read");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
#[should_panic(expected = "count <= self.raw.len()")]
fn no_more_is_split_off_than_there_is() {
    run(&small(), async {
        let (_conn, _peer, mut lease) = received(b"four").await;
        lease.advance(2);
        drop(lease.split_to(3));
    });
}

/// What a record layer does: each record is decrypted in place while what came before it is still held.
#[test]
fn a_piece_is_written_in_place_and_its_neighbours_stay() {
    let left = run(&small(), async {
        let (_conn, _peer, mut rest) = received(b"-first--second--third-").await;
        let (first, mut second) = (rest.split_to(7), rest.split_to(8));
        second.advance(1);
        second.truncate(6);
        second.make_ascii_uppercase();
        second[0] = b'_';
        assert_eq!((&*first, &*second, &*rest), (&b"-first-"[..], &b"_ECOND"[..], &b"-third-"[..]));
        rest.fill(b'.');
        assert_eq!((&*first, &*second, &*rest), (&b"-first-"[..], &b"_ECOND"[..], &b"......."[..]));
    });
    assert_eq!(left, Outstanding::default());
}

/// The most pieces that there can be: 65,535, which is also the most that the number of them can count.
#[test]
fn a_buffer_falls_into_single_bytes() {
    let settings = Settings { buffers: 8, buffer_bytes: 65_535, ..small() };
    let left = run(&settings, async {
        let (conn, mut peer) = pair().await;
        let writer = std::thread::spawn(move || {
            let all: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
            // Until there was a full buffer.
            let _ = peer.write_all(&all);
        });
        let (mut lease, mut at) = (conn.receive().await.expect("receive").expect("bytes"), 0_usize);
        while lease.len() < 65_535 {
            at += lease.len();
            drop(lease);
            sleep(1).await;
            lease = conn.receive().await.expect("receive").expect("a full buffer");
        }
        conn.abort();
        while buffers_held().0 > 1 {
            sleep(1).await;
        }
        let mut pieces: Vec<Lease> = (1..65_535).map(|_| lease.split_to(1)).collect();
        pieces.push(lease);
        let bytes = pieces.iter().map(|piece| <[u8; 1]>::try_from(&**piece).expect("one byte")[0]);
        assert!(bytes.eq((at..at + 65_535).map(|at| (at % 251) as u8)));
        let last = pieces.swap_remove(30_000);
        drop(pieces);
        assert_eq!(buffers_held().0, 1);
        drop(last);
        assert_eq!(buffers_held().0, 0);
        while !writer.is_finished() {
            sleep(1).await;
        }
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_small_piece_is_copied_out_and_does_not_pin_its_buffer() {
    let left = run(&small(), async {
        let (_conn, _peer, mut rest) = received(&[b'x'; 1_000]).await;
        let tail = rest.split_to(128);
        assert!(tail.is_small() && !rest.is_small(), "an eighth of 1,024 bytes");
        rest.truncate(129);
        assert!(!rest.is_small());
        drop(rest);
        assert_eq!(buffers_held().0, 1);
        let kept = tail.into_buf();
        assert_eq!(buffers_held().0, 0);
        assert_eq!((&kept[..], kept.capacity()), (&[b'x'; 128][..], 128));
    });
    assert_eq!(left, Outstanding::default());
}

/// Three streams of one connection, each to a server of its own.
#[test]
fn pieces_are_sent_apart_and_give_the_buffer_back_with_the_last_send() {
    let left = run(&small(), async {
        let (_from, _source, mut rest) = received(b"one, two, three").await;
        let mut sendings = Vec::new();
        let mut sinks = Vec::new();
        for (nth, piece) in [rest.split_to(5), rest.split_to(5), rest].into_iter().enumerate() {
            let (to, sink) = pair().await;
            assert!(nth == 0 || buffers_held().0 == 1);
            sendings.push(to.send_lease(piece, 1_000));
            sinks.push((to, sink));
        }
        // The first server has gone.
        let (first, _) = sinks.remove(0);
        drop(first);
        for sending in sendings {
            let _ = sending.await;
        }
        assert_eq!(buffers_held().0, 0);
        for ((_, sink), piece) in sinks.iter_mut().zip(["two, ", "three"]) {
            sink.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            let mut got = [0; 5];
            sink.read_exact(&mut got).expect("read");
            assert_eq!(&got, piece.as_bytes());
        }
    });
    assert_eq!(left, Outstanding::default());
}

// ---- who is ended for a buffer in pieces ----

/// A full buffer of a rig, and how many of its buffers are for bodies.
const FULL: u16 = 64;
const BUFFERS: u16 = 128;
const BODIES: usize = 96;

/// A task receives a buffer of a body.
fn receive_body(rig: &mut Rig, task: u32) {
    let from = rig.open();
    rig.poll_as(task);
    rig.set_read_ahead(from, ReadAhead::Body);
    rig.receive(from);
    rig.turn(1);
    rig.deliver(from, FULL, false);
    rig.receive(from);
}

/// All buffers of bodies but so many are in the hands of tasks that wait for nothing, and a body finds none once these are held
/// too.
fn hold_bodies_but(rig: &mut Rig, count: usize) {
    (0..BODIES - count).for_each(|nth| receive_body(rig, 1_000 + nth as u32));
}

fn find_no_buffer(rig: &mut Rig) -> u32 {
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, FULL, false);
    assert!(!rig.is_armed(late));
    late
}

#[test]
fn every_send_that_owns_a_piece_is_given_up_for_its_buffer() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let to = [rig.open(), rig.open(), rig.open()];
    receive_body(&mut rig, 1);
    rig.split_lease(20);
    rig.split_lease(20);
    // The task waits for one of them; nothing waits for the others, and one stands in line behind another.
    rig.send_lease(to[0], true);
    rig.send_lease(to[1], false);
    rig.send_byte(to[2]);
    rig.send_lease(to[2], false);
    rig.check();
    hold_bodies_but(&mut rig, 1);
    let late = find_no_buffer(&mut rig);
    rig.turn(1_000);
    assert_eq!(rig.stats().buffers_reclaimed, 3);
    rig.settle();
    rig.turn(1);
    assert!(rig.is_armed(late), "the buffer came back");
    rig.check();
}

/// A send's place in the table goes to the next send; the rest of the buffer has another holder.
#[test]
fn a_send_that_is_over_is_not_taken_for_the_holder_of_what_is_left() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let (to, bystander) = (rig.open(), rig.open());
    receive_body(&mut rig, 1);
    rig.split_lease(20);
    rig.send_last_lease(to);
    rig.complete_send(to, 64);
    rig.settle();
    rig.check();
    rig.poll_as(2);
    rig.send_byte(bystander);
    hold_bodies_but(&mut rig, 1);
    let late = find_no_buffer(&mut rig);
    rig.turn(1_000);
    assert_eq!(rig.stats().buffers_reclaimed, 0, "no send has any of it");
    // The task that received it answers for the rest once it waits for a send.
    rig.poll_as(1);
    rig.send_byte(to);
    rig.turn(1_000);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    rig.check();
    rig.close(late);
}

#[test]
fn a_send_that_has_ended_does_not_shield_what_its_buffer_waits_for() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let to = rig.open();
    receive_body(&mut rig, 1);
    rig.split_lease(20);
    // Its task has not collected it yet, and waits for another one.
    rig.send_last_lease(to);
    rig.complete_send(to, 64);
    rig.send_byte(to);
    hold_bodies_but(&mut rig, 1);
    find_no_buffer(&mut rig);
    rig.turn(1_000);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    rig.check();
}

#[test]
fn a_piece_is_as_old_as_its_buffer() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let to = [rig.open(), rig.open()];
    receive_body(&mut rig, 1);
    rig.turn(500);
    receive_body(&mut rig, 2);
    // The older one is split and sent later.
    rig.poll_as(2);
    rig.send_last_lease(to[1]);
    rig.turn(500);
    rig.split_lease(32);
    rig.poll_as(1);
    rig.send_lease(to[0], true);
    rig.drop_lease();
    hold_bodies_but(&mut rig, 2);
    find_no_buffer(&mut rig);
    rig.turn(1);
    rig.settle();
    rig.turn(1);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    rig.complete_send(to[1], 64);
    assert!(!rig.is_sending(to[0]) && !rig.is_sending(to[1]));
    rig.check();
}

#[test]
fn buffers_in_pieces_are_neither_withdrawn_nor_returned_to_the_system() {
    let mut rig = Rig::with_buffers(1024);
    for task in 0..200 {
        receive_body(&mut rig, task);
        rig.split_lease(1);
        // The greater part goes, the first byte stays.
        rig.drop_lease();
    }
    rig.check();
    for _ in 0..40 {
        rig.turn(1_000);
        rig.check();
    }
    (0..200).for_each(|_| rig.drop_lease());
    rig.check();
    assert_eq!(rig.available().1, 768, "all that are for bodies");
}
