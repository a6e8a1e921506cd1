//! Sends of a head and several leases in one operation.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::sends::{STUCK_BYTES, counting, stuck, thread_cpu_time};
use super::{LOOPBACK, buf, pair, run, small};
use crate::driver;
use crate::op::Payload;
use crate::rig::Rig;
use crate::socket::set_option;
use crate::*;

/// A lease of `count` bytes from `first` on, which count up.
async fn lease_of(first: usize, count: usize) -> Lease {
    let (conn, mut peer) = pair().await;
    peer.write_all(&counting(first, count)).expect("write");
    let lease = conn.receive().await.expect("receive").expect("bytes");
    assert!(lease.len() == count && *lease == counting(first, count));
    lease
}

/// So many leases of `each` bytes, which count up from `first` on.
async fn leases_of(first: usize, each: usize, count: usize) -> Leases {
    let mut leases = Leases::new();
    for nth in 0..count {
        leases.push(lease_of(first + nth * each, each).await).expect("a place");
    }
    leases
}

/// A connection that takes as little as it can be made to at once.
async fn narrow_pair() -> (Conn, TcpStream) {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    set_option(listener.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 8_000)
        .expect("a small receive buffer");
    // Windows of less than a segment are announced late.
    set_option(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, 500).expect("small segments");
    let conn = Conn::connect(listener.local_addr().expect("address"), 1_000).await.expect("connect");
    set_option(conn.fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 1).expect("a small send buffer");
    (conn, listener.accept().expect("accept").0)
}

/// How much of the gathered send under way is known to be gone.
fn sent_so_far() -> Option<usize> {
    driver::with(|driver| {
        let ops = driver.ops();
        ops.indices().into_iter().find_map(|op| match &ops.at(op).payload {
            Payload::SendGathered(gathered) => Some(gathered.sent()),
            _ => None,
        })
    })
}

#[test]
fn six_leases_find_a_place_and_go_with_their_list() {
    let left = run(&small(), async {
        let mut leases = Leases::default();
        assert!(leases.is_empty() && !leases.is_full() && leases.bytes() == 0);
        let mut whole = lease_of(0, 100).await;
        leases.push(whole.split_to(0)).expect("no place is needed");
        let mut used = lease_of(0, 8).await;
        used.advance(8);
        leases.push(used).expect("no place is needed");
        assert!(leases.is_empty() && buffers_held().0 == 1);
        for count in 1..=6 {
            assert!(!leases.is_full());
            leases.push(whole.split_to(10)).expect("a place");
            assert_eq!((leases.bytes(), leases.is_empty()), (count * 10, false));
        }
        assert!(leases.is_full());
        let whole = leases.push(whole).expect_err("there are six");
        assert_eq!((&*whole, leases.bytes()), (&counting(60, 40)[..], 60));
        drop(whole);
        assert_eq!(buffers_held().0, 1);
        drop(leases);
        assert_eq!(buffers_held().0, 0);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_head_and_six_leases_go_out_in_one_operation() {
    let left = run(&small(), async {
        let (to, mut sink) = pair().await;
        let leases = leases_of(0, 1_000, 6).await;
        let mut head = buf(b"head|");
        // A head that fills its buffer, too.
        let room = head.capacity();
        head.resize(room, b'h');
        let all = [&head[..], &counting(0, 6_000)].concat();
        let sending = to.send_with(head, leases, 1_000);
        let behind = to.send(buf(b"behind"), 1_000);
        assert_eq!((driver::with(|driver| driver.outstanding().in_flight), buffers_held().0), (1, 6));
        let sent = sending.await;
        sent.result.expect("sent");
        assert_eq!(sent.buf.as_deref().map(|head| &head[..5]), Some(&b"head|"[..]));
        assert_eq!(buffers_held().0, 0);
        behind.await.result.expect("sent");
        let mut got = vec![0; all.len() + 6];
        sink.read_exact(&mut got).expect("read");
        assert!(got == [&all[..], b"behind"].concat(), "other bytes than were sent");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_list_may_be_short_or_empty_and_so_may_the_head() {
    let left = run(&small(), async {
        let (to, mut sink) = pair().await;
        let sendings = [
            to.send_with(buf(b""), Leases::new(), 0),
            to.send_with(buf(b"a"), Leases::new(), 0),
            to.send_with(buf(b""), leases_of(0, 2, 1).await, 0),
            to.send_with(buf(b""), leases_of(2, 2, 2).await, 0),
            to.send_with(buf(b"b"), leases_of(6, 1, 6).await, 0),
        ];
        for sending in sendings {
            sending.await.result.expect("sent");
        }
        let mut got = [0; 14];
        sink.read_exact(&mut got).expect("read");
        assert_eq!(got, *b"a\x00\x01\x02\x03\x04\x05b\x06\x07\x08\x09\x0a\x0b");
    });
    assert_eq!(left, Outstanding::default());
}

/// The kernel stops in each of the seven parts. What is known to be gone holds no buffer any more.
#[test]
fn a_gathered_send_goes_on_where_it_ended_short() {
    const EACH: usize = 16_384;
    const ALL: usize = 7 * EACH;
    let settings = Settings { buffer_bytes: 16_384, ..small() };
    let left = run(&settings, async {
        let (to, mut sink) = narrow_pair().await;
        let mut head = Buf::large();
        head.extend_from_slice(&counting(0, EACH));
        let leases = leases_of(EACH, EACH, 6).await;
        let sending = to.send_with(head, leases, 0);
        let behind = to.send(buf(b"behind"), 0);
        sink.set_nonblocking(true).expect("non-blocking");
        let (mut all, mut ended_in, mut some) = (Vec::new(), HashSet::new(), [0; 4_000]);
        let limit = Timer::new(20_000);
        while all.len() < ALL + 6 {
            assert!(limit.poll_expired().is_pending(), "{} bytes have arrived", all.len());
            match sink.read(&mut some) {
                Ok(count) => all.extend_from_slice(&some[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            sleep(1).await;
            if let Some(sent) = sent_so_far().filter(|sent| *sent < ALL) {
                ended_in.insert(sent / EACH);
                assert_eq!(buffers_held().0 as usize, 7 - (sent / EACH).max(1), "{sent} are gone");
            }
        }
        assert_eq!(ended_in.len(), 7, "{ended_in:?}");
        assert_eq!(sending.await.buf.map(|head| head.len()), Some(EACH));
        behind.await.result.expect("sent");
        assert!(all == [counting(0, ALL), b"behind".to_vec()].concat(), "other bytes than were sent");
    });
    assert_eq!(left, Outstanding::default());
}

/// Every place at which the kernel may stop, and the next one.
#[test]
fn short_counts_end_in_every_part_of_a_gathered_send() {
    for (head_bytes, count) in [(0, 6), (3, 6), (1, 2)] {
        let all = head_bytes + 4 * count;
        for first in 1..=all {
            let mut rig = Rig::with_buffers(32);
            let to = rig.open();
            for second in 1..=all {
                for _ in 0..count {
                    let from = receive(&mut rig, 4);
                    rig.close(from);
                }
                rig.send_leases_with(to, head_bytes as u8, count, false);
                let mut sent = 0;
                // What is left is compared with what was to be sent.
                for taken in [first, second, all] {
                    if rig.is_sending(to) {
                        rig.complete_send(to, taken as i32);
                    }
                    rig.check();
                    sent += taken;
                    let given_back = (sent.saturating_sub(head_bytes) / 4).min(count);
                    assert_eq!(rig.held() as usize, count - given_back, "{sent} of {all}");
                }
                assert!(!rig.is_sending(to), "{first} and {second} of {all}");
            }
        }
    }
}

/// The task gets a buffer of so many bytes, on a connection of its own.
fn receive(rig: &mut Rig, bytes: u16) -> u32 {
    let from = rig.open();
    rig.set_read_ahead(from, ReadAhead::Body);
    rig.receive(from);
    rig.turn(1);
    rig.deliver(from, bytes, false);
    rig.receive(from);
    from
}

/// Stalled at its beginning, and between its parts.
#[test]
fn a_gathered_send_that_stalls_gives_all_back() {
    let settings = Settings { buffer_bytes: 16_384, ..small() };
    let left = run(&settings, async {
        let (conn, peer) = pair().await;
        let sending = conn.send_with(stuck(), leases_of(0, 1_000, 6).await, 100);
        assert_eq!(buffers_held().0, 6);
        let sent = sending.await;
        assert_eq!(sent.result.expect_err("stuck").kind(), ErrorKind::TimedOut);
        assert_eq!(sent.buf.map(|head| head.len()), Some(STUCK_BYTES));
        assert_eq!((buffers_held().0, stats().sends_stalled), (0, 1));
        drop((conn, peer));

        let (conn, peer) = narrow_pair().await;
        let sending = conn.send_with(buf(b"head"), leases_of(0, 16_384, 6).await, 100);
        let limit = Timer::new(20_000);
        while !sending.has_begun() {
            assert!(limit.poll_expired().is_pending(), "the kernel has taken what it takes");
            sleep(1).await;
        }
        assert!((1..=6).contains(&buffers_held().0));
        assert_eq!(sending.await.result.expect_err("stuck").kind(), ErrorKind::TimedOut);
        assert_eq!((buffers_held().0, stats().sends_stalled), (0, 2));
        drop((conn, peer));
    });
    assert_eq!(left, Outstanding::default());
}

/// The future goes, and the connection: the kernel has all parts until it says so.
#[test]
fn a_gathered_send_outlives_its_future_and_not_its_connection() {
    let left = run(&small(), async {
        let leases = leases_of(0, 1_000, 6).await;
        let (conn, _peer) = pair().await;
        conn.send_with(stuck(), leases, 0).detach();
        // In line behind it: never known to the kernel.
        let queued = conn.send_with(buf(b"head"), leases_of(0, 10, 3).await, 0);
        sleep(40).await;
        assert_eq!(buffers_held().0, 9);
        drop(conn);
        assert!(buffers_held().0 >= 6, "the kernel may still read them");
        assert!(queued.await.result.is_err());
        let limit = Timer::new(20_000);
        while buffers_held().0 > 0 {
            assert!(limit.poll_expired().is_pending(), "they never came back");
            sleep(5).await;
        }
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_gathered_send_whose_peer_resets_gives_all_back() {
    let settings = Settings { buffer_bytes: 16_384, ..small() };
    let left = run(&settings, async {
        let (conn, peer) = narrow_pair().await;
        let sending = conn.send_with(buf(b"head"), leases_of(0, 16_384, 6).await, 0);
        let limit = Timer::new(20_000);
        while !sending.has_begun() {
            assert!(limit.poll_expired().is_pending(), "the kernel has taken what it takes");
            sleep(1).await;
        }
        assert!(buffers_held().0 > 0);
        // It has not read what has arrived.
        drop(peer);
        let sent = sending.await;
        let kind = sent.result.expect_err("reset").kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
        assert_eq!((sent.buf.as_deref().map(|head| &head[..]), buffers_held().0), (Some(&b"head"[..]), 0));
        assert!(conn.send_with(buf(b"head"), leases_of(0, 10, 2).await, 0).await.result.is_err());
        assert_eq!(buffers_held().0, 0);
    });
    assert_eq!(left, Outstanding::default());
}

/// The buffer that is needed is in the last of its places.
#[test]
fn a_gathered_send_is_given_up_for_each_of_its_buffers() {
    let mut rig = Rig::with_buffers(128);
    let to = rig.open();
    receive(&mut rig, 64);
    rig.turn(500);
    (0..4).for_each(|_| {
        receive(&mut rig, 64);
    });
    // Behind the others; what is left of it has no bytes and is not sent.
    rig.split_lease(64);
    rig.drop_lease();
    rig.send_leases_with(to, 5, 5, false);
    // Another task has all others, and waits for nothing.
    rig.poll_as(8);
    (0..91).for_each(|_| {
        receive(&mut rig, 64);
    });
    rig.check();
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, 64, false);
    assert!(!rig.is_armed(late));
    rig.turn(600);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    rig.settle();
    rig.turn(1);
    assert!(rig.is_armed(late) && !rig.is_sending(to));
    assert_eq!(rig.held(), 91, "all five went back");
    rig.check();
}

/// Each gives several buffers back: no more sends are ended than it takes.
#[test]
fn no_more_gathered_sends_are_given_up_than_buffers_are_short() {
    let mut rig = Rig::with_buffers(128);
    let slow: Vec<u32> = (0..4).map(|_| rig.open()).collect();
    for &to in &slow {
        (0..5).for_each(|_| {
            receive(&mut rig, 64);
        });
        rig.send_leases_with(to, 5, 5, false);
        rig.turn(100);
    }
    // Another task has all others, and waits for nothing.
    rig.poll_as(8);
    (0..76).for_each(|_| {
        receive(&mut rig, 64);
    });
    rig.check();
    for _ in 0..4 {
        let late = rig.open();
        rig.set_read_ahead(late, ReadAhead::Body);
        rig.receive(late);
        rig.deliver(late, 64, false);
        assert!(!rig.is_armed(late));
    }
    rig.turn(600);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    rig.settle();
    rig.check();
    let sending: Vec<bool> = slow.iter().map(|&to| rig.is_sending(to)).collect();
    assert_eq!(sending, [false, true, true, true], "the oldest one is ended");
}

const LEASES: usize = 4;
type Way = fn(&Conn, Buf, [Lease; LEASES]) -> Vec<Sending>;

/// The ways to send a head and four buffers.
const WAYS: [(&str, Way); 5] = [
    ("a head and four sends", |to, head, bodies| {
        let mut sendings = vec![to.send(head, 5_000)];
        sendings.extend(bodies.map(|body| to.send_lease(body, 5_000)));
        sendings
    }),
    ("four sends, the head with the first", |to, head, [first, others @ ..]| {
        let mut sendings = vec![to.send_with(head, first, 5_000)];
        sendings.extend(others.map(|body| to.send_lease(body, 5_000)));
        sendings
    }),
    ("one of a copy behind the head", |to, head, bodies| {
        let mut all = head;
        all.reserve_exact(bodies.iter().map(Lease::len).sum());
        for body in bodies {
            all.extend_from_slice(&body);
        }
        vec![to.send(all, 5_000)]
    }),
    ("one of a copy in a large buffer", |to, head, bodies| {
        let mut all = Buf::large();
        all.extend_from_slice(&head);
        for body in bodies {
            all.extend_from_slice(&body);
        }
        vec![to.send(all, 5_000)]
    }),
    ("one gathered", |to, head, bodies| {
        let mut leases = Leases::new();
        for body in bodies {
            leases.push(body).expect("a place");
        }
        vec![to.send_with(head, leases, 5_000)]
    }),
];

/// What they cost: `cargo test --release -p sluice-sys what_a_gathered_send_costs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_gathered_send_costs() {
    const MESSAGES: u32 = 3_200;
    for (each, pairs) in [(16_384, 1), (16_384, 32), (4_096, 32)] {
        let settings = Settings { submission_entries: 512, buffers: 1024, buffer_bytes: 16_384, ..small() };
        let left = run(&settings, async move {
            let (message, mut got) = (vec![7; each], vec![0; 300 + LEASES * each]);
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for _ in 0..pairs {
                from.push(pair().await);
                to.push(pair().await);
            }
            for round in 0..9 {
                let mut line = format!("4 x {each} bytes on {pairs} connections, round {round}:");
                for nth in 0..WAYS.len() {
                    // None of them always follows the same one.
                    let (name, way) = WAYS[(nth + round) % WAYS.len()];
                    let mut spent = Duration::ZERO;
                    for _ in 0..MESSAGES / pairs {
                        let mut messages = Vec::new();
                        for (conn, source) in &mut from {
                            let mut bodies = Vec::new();
                            for _ in 0..LEASES {
                                source.write_all(&message).expect("write");
                                let body = conn.receive().await.expect("receive").expect("bytes");
                                assert_eq!(body.len(), each);
                                bodies.push(body);
                            }
                            let mut head = Buf::small();
                            head.resize(300, b'h');
                            messages.push((head, bodies.try_into().expect("four")));
                        }
                        let before = thread_cpu_time();
                        let ways =
                            messages.into_iter().zip(&to).map(|((head, body), (to, _))| way(to, head, body));
                        for sending in ways.collect::<Vec<_>>().into_iter().flatten() {
                            sending.await.result.expect("sent");
                        }
                        spent += thread_cpu_time() - before;
                        to.iter_mut().for_each(|(_, sink)| sink.read_exact(&mut got).expect("read"));
                    }
                    let micros = spent.as_secs_f64() * 1e6 / f64::from(MESSAGES);
                    line += &format!("  {name} {micros:.2} us");
                }
                println!("{line}");
            }
        });
        assert_eq!(left, Outstanding::default());
    }
}
