//! Receive buffers: who gets one when there are few, who has to give one up, and what becomes of their memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{buf, pair, receive_all, run, small, start};
use crate::driver;
use crate::rig::Rig;
use crate::*;

/// A full buffer of a rig.
const FULL: u16 = 64;

/// Buffers of a rig; three quarters of them are for bodies, and with an eighth left they are scarce.
const BUFFERS: u16 = 128;
const BODIES: usize = 96;
const ENOUGH: usize = 16;

/// The 256th buffer once made the length of a queue 0: what was in it was lost, and read over.
#[test]
fn three_hundred_buffers_for_one_socket_end_it_and_none_is_lost() {
    let mut rig = Rig::with_buffers(512);
    let socket = rig.open();
    rig.receive(socket);
    for _ in 0..300 {
        rig.deliver(socket, FULL, true);
        rig.check();
        rig.turn(0);
    }
    assert!(rig.has_failed(socket) && rig.stats().queues_overrun == 1, "{:?}", rig.stats());
    assert_eq!(rig.queued(socket), 0, "nothing can be read behind a gap");
    rig.close(socket);
    rig.check();
}

#[test]
fn small_pieces_that_nothing_reads_share_a_buffer() {
    let mut rig = Rig::with_buffers(32);
    let socket = rig.open();
    rig.receive(socket);
    for _ in 0..3 * FULL {
        rig.deliver(socket, 1, true);
        rig.turn(0);
    }
    assert_eq!(rig.queued(socket), 3);
    for _ in 0..3 {
        // Their bytes are checked as they are read.
        rig.receive(socket);
        rig.drop_lease();
    }
    rig.check();
    assert_eq!(rig.queued(socket), 0);
}

#[test]
fn bodies_leave_the_last_quarter_to_heads() {
    let mut rig = Rig::with_buffers(BUFFERS);
    for _ in 0..BODIES + 10 {
        let socket = rig.open();
        rig.set_read_ahead(socket, ReadAhead::Body);
        rig.receive(socket);
        rig.turn(0);
        rig.deliver(socket, FULL, false);
    }
    rig.check();
    let (messages, bodies) = rig.available();
    assert_eq!((messages, bodies), (32, 0));
    let head = rig.open();
    rig.receive(head);
    rig.deliver(head, FULL, true);
    assert_eq!(rig.queued(head), 1);
}

/// A stuck body: a receive of a body, and its bytes on their way to a peer that takes none.
fn stuck_body(rig: &mut Rig) -> (u32, u32) {
    let (from, to) = (rig.open(), rig.open());
    rig.set_read_ahead(from, ReadAhead::Body);
    rig.receive(from);
    rig.turn(0);
    rig.deliver(from, FULL, false);
    rig.receive(from);
    rig.send_lease(to, true);
    (from, to)
}

#[test]
fn a_body_that_finds_no_buffer_gets_the_one_that_was_held_longest() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let stuck: Vec<_> = (0..BODIES)
        .map(|_| {
            let pair = stuck_body(&mut rig);
            rig.turn(1);
            pair
        })
        .collect();
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, FULL, false);
    assert!(!rig.is_armed(late), "it found none");
    // For a while nothing is taken from those that are only slow ...
    rig.turn(700);
    rig.settle();
    assert_eq!(rig.stats().buffers_reclaimed, 0);
    rig.turn(200);
    rig.settle();
    rig.turn(1);
    // ... then from the first one, and no more than is needed.
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    assert!(rig.is_armed(late), "it is fed");
    rig.deliver(late, FULL, false);
    assert_eq!(rig.queued(late), 1);
    rig.complete_send(stuck[0].1, 1);
    rig.complete_send(stuck[1].1, i32::from(FULL));
    rig.check();
}

#[test]
fn what_nothing_reads_is_dropped_with_its_connection_when_heads_are_short_of_buffers() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let unread: Vec<u32> = (0..usize::from(BUFFERS) - ENOUGH + 1)
        .map(|_| {
            let socket = rig.open();
            rig.receive(socket);
            rig.turn(1);
            rig.deliver(socket, FULL, false);
            socket
        })
        .collect();
    // One is missing to what is enough.
    rig.turn(1);
    assert_eq!(rig.stats().buffers_reclaimed, 0);
    rig.turn(900);
    assert_eq!(rig.stats().buffers_reclaimed, 1, "just enough of them");
    assert!(rig.has_failed(unread[0]) && !rig.has_failed(unread[1]));
    rig.check();
}

#[test]
fn age_decides_and_not_the_number_of_a_buffer() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let warm = rig.open();
    for _ in 0..8 {
        rig.receive(warm);
        rig.turn(0);
        rig.deliver(warm, FULL, false);
        rig.receive(warm);
        rig.drop_lease();
    }
    // The next buffer on offer is the ninth; the first comes later.
    let unread: Vec<u32> = (0..usize::from(BUFFERS) - ENOUGH + 1)
        .map(|_| {
            let socket = rig.open();
            rig.receive(socket);
            rig.turn(1);
            rig.deliver(socket, FULL, false);
            socket
        })
        .collect();
    rig.turn(1_000);
    let failed: Vec<usize> = (0..unread.len()).filter(|&nth| rig.has_failed(unread[nth])).collect();
    assert_eq!(failed, [0]);
}

/// Bytes that a task has copied into a send of its own, while it still has the rest of the buffer.
#[test]
fn a_task_that_holds_a_buffer_and_waits_for_a_stuck_send_is_ended() {
    let mut rig = Rig::with_buffers(BUFFERS);
    for task in 0..BODIES as u32 {
        let (from, to) = (rig.open(), rig.open());
        rig.poll_as(task);
        rig.set_read_ahead(from, ReadAhead::Body);
        rig.receive(from);
        rig.turn(1);
        rig.deliver(from, FULL, false);
        rig.receive(from);
        rig.send_byte(to);
    }
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, FULL, false);
    rig.turn(1_000);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
}

/// A send that nothing waits for keeps its buffer all the same.
#[test]
fn a_detached_send_gives_its_buffer_up_too() {
    let mut rig = Rig::with_buffers(BUFFERS);
    for _ in 0..BODIES {
        let (from, to) = (rig.open(), rig.open());
        rig.set_read_ahead(from, ReadAhead::Body);
        rig.receive(from);
        rig.turn(1);
        rig.deliver(from, FULL, false);
        rig.receive(from);
        rig.send_lease(to, false);
    }
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, FULL, false);
    rig.turn(1_000);
    rig.settle();
    rig.turn(1);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    assert!(rig.is_armed(late));
    rig.check();
}

#[test]
fn what_is_offered_after_a_peak_is_withdrawn() {
    let mut rig = Rig::with_buffers(1024);
    let at_first = rig.offered();
    for _ in 0..300 {
        let socket = rig.open();
        rig.receive(socket);
        rig.deliver(socket, FULL, false);
        if !rig.is_armed(socket) && rig.queued(socket) == 0 {
            rig.turn(0);
        }
        rig.close(socket);
    }
    rig.turn(0);
    assert!(rig.offered() > 4 * at_first, "{} offered", rig.offered());
    for _ in 0..20 {
        assert!(rig.offered() == at_first || rig.may_sleep_ms() == Some(1_000), "it wakes up to withdraw");
        rig.turn(1_000);
        rig.check();
    }
    assert_eq!(rig.offered(), at_first);
}

#[test]
fn a_receive_that_ended_at_its_bound_goes_on_where_nothing_is_left_behind() {
    let mut rig = Rig::with_buffers(BUFFERS);
    for (bytes, goes_on) in [(FULL - 1, true), (FULL, false)] {
        let socket = rig.open();
        rig.receive(socket);
        rig.deliver(socket, bytes, false);
        assert_eq!(rig.is_armed(socket), goes_on, "{bytes} bytes");
        // With a backlog it does not, however small.
        rig.deliver(socket, FULL, false);
        rig.deliver(socket, 1, false);
        assert!(!rig.is_armed(socket));
    }
}

/// A task that waits until its receive is out of the kernel needs no buffer to notice it.
#[test]
fn a_disarm_that_meets_a_lack_of_buffers_is_over() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let socket = rig.open();
    rig.receive(socket);
    rig.disarm(socket);
    assert!(rig.end_receive(socket, -libc::ENOBUFS), "the task is woken");
    assert!(!rig.is_armed(socket));
}

/// A burst of requests that grew what is on offer for messages.
fn burst(rig: &mut Rig) {
    let sockets: Vec<u32> = (0..120).map(|_| rig.open()).collect();
    for _ in 0..6 {
        for &socket in &sockets {
            rig.receive(socket);
            rig.deliver(socket, FULL, false);
            rig.receive(socket);
            rig.drop_lease();
        }
        for &socket in &sockets {
            rig.deliver(socket, FULL, false);
        }
        rig.turn(1);
        sockets.iter().for_each(|&socket| rig.receive(socket));
        (0..120).for_each(|_| rig.drop_lease());
        rig.turn(1);
    }
    sockets.into_iter().for_each(|socket| rig.close(socket));
    rig.turn(1);
}

#[test]
fn no_connection_is_ended_for_buffers_that_are_only_on_offer() {
    let mut rig = Rig::with_buffers(BUFFERS);
    burst(&mut rig);
    for _ in 0..BODIES - 1 {
        stuck_body(&mut rig);
        rig.turn(20);
    }
    rig.settle();
    assert_eq!(rig.stats().buffers_reclaimed, 0);
    rig.check();
}

#[test]
fn holders_that_cannot_be_ended_do_not_shield_the_others() {
    let mut rig = Rig::with_buffers(512);
    // In the hands of a task that waits for something else.
    for task in 0..300 {
        rig.poll_as(1_000 + task);
        let socket = rig.open();
        rig.set_read_ahead(socket, ReadAhead::Body);
        rig.receive(socket);
        rig.turn(1);
        rig.deliver(socket, FULL, false);
        rig.receive(socket);
    }
    rig.poll_as(1);
    for _ in 0..84 {
        let (from, to) = (rig.open(), rig.open());
        rig.set_read_ahead(from, ReadAhead::Body);
        rig.receive(from);
        rig.turn(1);
        rig.deliver(from, FULL, false);
        rig.receive(from);
        rig.send_last_lease(to);
    }
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, FULL, false);
    rig.turn(1_000);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
}

#[test]
fn closed_sockets_wait_for_no_buffer() {
    let mut rig = Rig::with_buffers(BUFFERS);
    for _ in 0..BODIES {
        stuck_body(&mut rig);
    }
    rig.turn(100);
    for _ in 0..40 {
        let socket = rig.open();
        rig.set_read_ahead(socket, ReadAhead::Body);
        rig.receive(socket);
        rig.deliver(socket, FULL, false);
        rig.close(socket);
    }
    rig.turn(1);
    assert_eq!(rig.stats().buffers_reclaimed, 0);
}

#[test]
fn for_heads_the_oldest_is_ended_be_it_a_body() {
    let mut rig = Rig::with_buffers(BUFFERS);
    for _ in 0..BODIES {
        stuck_body(&mut rig);
    }
    rig.turn(3_600_000);
    let requests: Vec<u32> = (0..20)
        .map(|_| {
            let socket = rig.open();
            rig.receive(socket);
            rig.turn(0);
            rig.deliver(socket, FULL, false);
            socket
        })
        .collect();
    rig.turn(600);
    rig.settle();
    assert!(rig.stats().buffers_reclaimed > 0);
    assert!(requests.iter().all(|&socket| !rig.has_failed(socket)), "the bodies are older");
}

#[test]
fn the_fewer_are_left_the_sooner_they_are_taken_back() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let hold_all = |rig: &mut Rig| {
        while rig.available().0 > 0 {
            let socket = rig.open();
            rig.receive(socket);
            rig.turn(0);
            rig.deliver(socket, FULL, false);
        }
    };
    hold_all(&mut rig);
    // What was on offer for bodies comes first.
    rig.turn(2);
    assert_eq!((rig.stats().buffers_reclaimed, rig.available().0), (0, ENOUGH));
    hold_all(&mut rig);
    rig.turn(2);
    assert_eq!(rig.stats().buffers_reclaimed, ENOUGH as u64);
    assert_eq!(rig.available().0, ENOUGH);
}

#[test]
fn sockets_that_found_no_buffer_are_fed_in_their_order_and_only_if_they_are_wanted() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let holders: Vec<u32> = (0..BODIES)
        .map(|_| {
            let socket = rig.open();
            rig.set_read_ahead(socket, ReadAhead::Body);
            rig.receive(socket);
            rig.turn(0);
            rig.deliver(socket, FULL, false);
            rig.receive(socket);
            socket
        })
        .collect();
    let starved: Vec<u32> = (0..4)
        .map(|_| {
            let socket = rig.open();
            rig.set_read_ahead(socket, ReadAhead::Body);
            rig.receive(socket);
            rig.deliver(socket, FULL, false);
            assert!(!rig.is_armed(socket));
            socket
        })
        .collect();
    // The first is taken out of the line by its task, the second is closed.
    rig.disarm(starved[0]);
    rig.close(starved[1]);
    rig.drop_lease();
    rig.turn(0);
    let armed: Vec<bool> = starved.iter().filter(|s| **s != starved[1]).map(|s| rig.is_armed(*s)).collect();
    assert_eq!(armed, [false, true, false], "one buffer, one receive");
    rig.drop_lease();
    rig.turn(0);
    assert!(rig.is_armed(starved[3]));
    // A task that waits again is armed like any other: the mark of having found none is gone.
    rig.receive(starved[0]);
    assert!(rig.is_armed(starved[0]));
    holders.into_iter().for_each(|socket| rig.close(socket));
    rig.check();
}

#[test]
fn as_many_are_fed_at_once_as_there_are_buffers() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let wait = |rig: &mut Rig| {
        let socket = rig.open();
        rig.set_read_ahead(socket, ReadAhead::Body);
        rig.receive(socket);
        rig.turn(0);
        rig.deliver(socket, FULL, false);
        rig.receive(socket);
        socket
    };
    for _ in 0..BODIES {
        wait(&mut rig);
    }
    let starved: Vec<u32> = (0..10).map(|_| wait(&mut rig)).collect();
    (0..6).for_each(|_| rig.drop_lease());
    rig.turn(0);
    let armed = starved.iter().filter(|socket| rig.is_armed(**socket)).count();
    assert_eq!(armed, 6);
}

#[test]
fn a_closed_socket_that_goes_on_receiving_is_cancelled_again() {
    let mut rig = Rig::with_buffers(BUFFERS);
    let socket = rig.open();
    rig.receive(socket);
    rig.close(socket);
    let pushed = rig.pushed();
    rig.deliver_late(true);
    assert_eq!(rig.pushed(), pushed + 1);
    rig.deliver_late(false);
    assert_eq!(rig.pushed(), pushed + 1);
    rig.check();
}

#[test]
fn a_backlog_is_not_fed() {
    let mut rig = Rig::with_buffers(32);
    let hoarder = rig.open();
    rig.receive(hoarder);
    rig.deliver(hoarder, FULL, true);
    // Its receive finds no buffer while it has one that nothing has read.
    rig.end_receive(hoarder, -libc::ENOBUFS);
    rig.turn(0);
    assert!(!rig.is_armed(hoarder));
    rig.receive(hoarder);
    assert!(!rig.is_armed(hoarder), "it had one");
    rig.receive(hoarder);
    assert!(rig.is_armed(hoarder));
}

#[test]
fn buffers_stay_in_one_place_whatever_happens() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    for _ in 0..20 {
        let mut rig = Rig::with_buffers(32);
        for _ in 0..2_000 {
            rig.step(random(), random());
        }
    }
}

// ---- through the kernel ----

/// The kernel picks a buffer before it looks for bytes: a silent socket that found none counted as one that is kept from its
/// bytes.
#[test]
fn a_silent_peer_is_not_short_of_a_buffer() {
    let settings = Settings { buffers: 2, read_ahead_bytes: 0, ..small() };
    let left = run(&settings, async {
        let (first, mut first_peer) = pair().await;
        let (second, mut second_peer) = pair().await;
        first_peer.write_all(b"x").expect("write");
        let _all = first.receive().await.expect("receive").expect("bytes");
        second_peer.write_all(b"y").expect("write");
        let _there_are = second.receive().await.expect("receive").expect("bytes");
        let (silent, _peer) = pair().await;
        let before = stats().recv_buffers_exhausted;
        let mut receive = Box::pin(async { silent.receive().await.map(drop) });
        start(receive.as_mut()).await;
        sleep(100).await;
        assert_eq!(stats().recv_buffers_exhausted, before);
    });
    assert_eq!(left, Outstanding::default());
}

/// Writes until the peer takes nothing more for a while; returns how much it took.
fn flood(mut peer: TcpStream) -> std::thread::JoinHandle<(TcpStream, u64)> {
    std::thread::spawn(move || {
        peer.set_write_timeout(Some(Duration::from_millis(300))).expect("timeout");
        let mut sent = 0;
        loop {
            let piece: Vec<u8> = (sent..sent + 4096).map(|at| (at % 251) as u8).collect();
            match peer.write(&piece) {
                Ok(bytes) => sent += bytes as u64,
                Err(_) => return (peer, sent),
            }
        }
    })
}

/// A multishot receive once delivered 33 buffers before its cancel came, and one that had starved as many again.
#[test]
fn a_flood_that_nothing_reads_takes_no_more_than_its_bound() {
    for read_ahead_bytes in [3 * 1024, 0] {
        let settings = Settings { buffers: 1024, read_ahead_bytes, ..small() };
        let left = run(&settings, async move {
            let (conn, peer) = pair().await;
            let mut receive = Box::pin(async { conn.receive().await.map(drop) });
            start(receive.as_mut()).await;
            drop(receive);
            let flood = flood(peer);
            while !flood.is_finished() {
                sleep(20).await;
            }
            let bound = if read_ahead_bytes == 0 { 2 } else { 4 };
            let held = buffers_held().1;
            assert!((1..=bound).contains(&held), "{held} buffers of 1 KiB");
            let (_peer, sent) = flood.join().expect("the peer's thread");
            // Nothing of it is lost.
            let mut read = 0;
            while read < sent {
                let lease = conn.receive().await.expect("receive").expect("bytes");
                for &byte in lease.iter() {
                    assert_eq!(u64::from(byte), read % 251, "byte {read}");
                    read += 1;
                }
            }
        });
        assert_eq!(left, Outstanding::default());
    }
}

#[test]
fn idle_memory_goes_back_to_the_system_after_a_peak() {
    let left = run(&Settings { buffers: 1024, ..small() }, async {
        let mut conns = Vec::new();
        for _ in 0..200 {
            let (conn, mut peer) = pair().await;
            peer.write_all(&[7; 1000]).expect("write");
            conns.push((conn, peer));
        }
        let mut leases = Vec::new();
        for (conn, _) in &conns {
            leases.push(conn.receive().await.expect("receive").expect("bytes"));
        }
        let touched = || driver::with(|driver| driver.buffer_ring().touched());
        assert!(touched() >= 200);
        drop(leases);
        drop(conns);
        // Nothing happens any more, but for the timer of this wait.
        while touched() > 96 {
            sleep(3_000).await;
        }
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_shard_whose_bodies_hold_all_they_may_still_reads_heads() {
    let settings = Settings { buffers: 64, ..small() };
    let left = run(&settings, async {
        let mut stuck = Vec::new();
        for _ in 0..60 {
            let (conn, mut peer) = pair().await;
            conn.set_read_ahead(ReadAhead::Body);
            peer.write_all(&[1; 1000]).expect("write");
            stuck.push((conn, peer));
        }
        let mut leases = Vec::new();
        for (conn, _) in stuck.iter().take(48) {
            leases.push(conn.receive().await.expect("receive").expect("bytes"));
        }
        let mut waiting = Box::pin(async { stuck[48].0.receive().await.map(drop) });
        start(waiting.as_mut()).await;
        while stats().recv_buffers_exhausted == 0 {
            sleep(1).await;
        }
        for _ in 0..100 {
            let (conn, mut peer) = pair().await;
            peer.write_all(b"head").expect("write");
            assert_eq!(receive_all(&conn, 4).await, b"head");
            conn.send(buf(b"answer"), 0).await.result.expect("sent");
            peer.read_exact(&mut [0; 6]).expect("read");
        }
    });
    assert_eq!(left, Outstanding::default());
}
