//! Sends that stand in line, and sends of two parts.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::time::Duration;

use super::{buf, pair, run, small, start};
use crate::driver;
use crate::rig::Rig;
use crate::*;

/// Bytes that no socket takes at once.
pub(super) const STUCK_BYTES: usize = 16 << 20;

pub(super) fn stuck() -> Buf {
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

// ---- a head, and what follows it in another buffer ----

/// A lease of `count` bytes that count up, and what it was received on.
async fn received(count: usize) -> (Conn, TcpStream, Lease) {
    let (conn, mut peer) = pair().await;
    peer.write_all(&counting(0, count)).expect("write");
    let mut lease = conn.receive().await.expect("receive").expect("bytes");
    while lease.len() < count {
        drop(lease);
        peer.write_all(&counting(0, count)).expect("write");
        lease = conn.receive().await.expect("receive").expect("bytes");
    }
    (conn, peer, lease)
}

pub(super) fn counting(first: usize, count: usize) -> Vec<u8> {
    (first..first + count).map(|at| (at % 251) as u8).collect()
}

fn counting_buf(first: usize, count: usize) -> Buf {
    let mut buf = Buf::large();
    buf.extend_from_slice(&counting(first, count));
    buf
}

#[test]
fn a_head_and_a_lease_go_out_in_one_operation() {
    let left = run(&small(), async {
        let (_from, _source, mut lease) = received(1_000).await;
        let (to, mut sink) = pair().await;
        let kept = lease.split_to(10);
        let mut head = buf(b"head|");
        // A head that fills its buffer, too.
        while head.len() < head.capacity() {
            head.push(b'h');
        }
        let all = [&head[..], &lease[..]].concat();
        let sending = to.send_with(head, lease, 1_000);
        assert_eq!(driver::with(|driver| driver.outstanding().in_flight), 1);
        let sent = sending.await;
        sent.result.expect("sent");
        assert_eq!(sent.buf.as_deref().map(|head| &head[..5]), Some(&b"head|"[..]));
        assert!(*kept == counting(0, 10) && buffers_held().0 == 1, "its own piece went back");
        drop(kept);
        assert_eq!(buffers_held().0, 0);
        let mut got = vec![0; all.len()];
        sink.read_exact(&mut got).expect("read");
        assert!(got == all, "other bytes than were sent");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn either_part_may_be_empty() {
    let left = run(&small(), async {
        let (to, mut sink) = pair().await;
        let (_from, _source, mut lease) = received(3).await;
        let none = lease.split_to(0);
        let sendings = [
            to.send_with(buf(b""), lease, 0),
            to.send_with(buf(b"a"), none, 0),
            to.send_with(buf(b""), buf(b"b"), 0),
            to.send_with(buf(b""), buf(b""), 0),
            to.send_with(buf(b"c"), buf(b""), 0),
        ];
        for sending in sendings {
            sending.await.result.expect("sent");
        }
        let mut got = [0; 6];
        sink.read_exact(&mut got).expect("read");
        assert_eq!(got, [0, 1, 2, b'a', b'b', b'c']);
    });
    assert_eq!(left, Outstanding::default());
}

/// The kernel takes parts of it many times over, ending in the head and in the body.
#[test]
fn a_send_of_two_parts_goes_on_where_it_ended_short() {
    const HEAD: usize = 5 << 20;
    const BODY: usize = 7 << 20;
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let sending = conn.send_with(counting_buf(0, HEAD), counting_buf(HEAD, BODY), 0);
        let behind = conn.send(buf(b"behind"), 0);
        assert!(!sending.has_begun());
        let limit = Timer::new(20_000);
        while !sending.has_begun() {
            assert!(limit.poll_expired().is_pending(), "the kernel has taken what it takes");
            sleep(1).await;
        }
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; HEAD + BODY + 6];
            peer.read_exact(&mut all).expect("all of it");
            all
        });
        assert_eq!(sending.await.buf.map(|head| head.len()), Some(HEAD));
        behind.await.result.expect("sent");
        while !reader.is_finished() {
            sleep(5).await;
        }
        let all = reader.join().expect("the reader");
        assert!(all == [counting(0, HEAD + BODY), b"behind".to_vec()].concat());
    });
    assert_eq!(left, Outstanding::default());
}

/// Every place at which the kernel may stop, and the next one.
#[test]
fn short_counts_end_in_the_head_between_the_parts_and_in_the_body() {
    for first in 1..12 {
        for second in 1..12 {
            let mut rig = Rig::with_buffers(32);
            let (from, to) = (rig.open(), rig.open());
            rig.receive(from);
            rig.deliver(from, 8, false);
            rig.receive(from);
            rig.send_lease_with(to, 5, false);
            // What is left is compared with what was to be sent.
            for taken in [first, second, 64] {
                if rig.is_sending(to) {
                    rig.complete_send(to, taken);
                }
                rig.check();
            }
            assert!(!rig.is_sending(to), "{first} and {second} of 13");
            rig.check();
        }
    }
}

#[test]
fn a_send_of_two_parts_that_stalls_gives_both_back() {
    let left = run(&small(), async {
        let (_from, _source, lease) = received(1_000).await;
        let (conn, peer) = pair().await;
        let sending = conn.send_with(stuck(), lease, 100);
        assert_eq!(buffers_held().0, 1);
        let sent = sending.await;
        assert_eq!(sent.result.expect_err("stuck").kind(), ErrorKind::TimedOut);
        assert_eq!(sent.buf.map(|head| head.len()), Some(STUCK_BYTES));
        assert_eq!((buffers_held().0, stats().sends_stalled), (0, 1));
        drop((conn, peer));
    });
    assert_eq!(left, Outstanding::default());
}

/// The future goes, and the connection: the kernel has both parts until it says so.
#[test]
fn a_send_of_two_parts_outlives_its_future_and_not_its_connection() {
    let left = run(&small(), async {
        let (_from, _source, lease) = received(1_000).await;
        let (conn, _peer) = pair().await;
        conn.send_with(stuck(), lease, 0).detach();
        sleep(40).await;
        assert_eq!(buffers_held().0, 1);
        drop(conn);
        assert_eq!(buffers_held().0, 1, "the kernel may still read it");
        let limit = Timer::new(20_000);
        while buffers_held().0 > 0 {
            assert!(limit.poll_expired().is_pending(), "it never came back");
            sleep(5).await;
        }
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_send_of_two_parts_is_given_up_for_its_buffer() {
    let mut rig = Rig::with_buffers(128);
    let stuck: Vec<u32> = (0..96)
        .map(|_| {
            let (from, to) = (rig.open(), rig.open());
            rig.set_read_ahead(from, ReadAhead::Body);
            rig.receive(from);
            rig.turn(1);
            rig.deliver(from, 64, false);
            rig.receive(from);
            rig.send_lease_with(to, 5, false);
            to
        })
        .collect();
    let late = rig.open();
    rig.set_read_ahead(late, ReadAhead::Body);
    rig.receive(late);
    rig.deliver(late, 64, false);
    assert!(!rig.is_armed(late));
    rig.turn(1_000);
    rig.settle();
    rig.turn(1);
    assert_eq!(rig.stats().buffers_reclaimed, 1);
    assert!(rig.is_armed(late) && !rig.is_sending(stuck[0]) && rig.is_sending(stuck[1]));
    rig.check();
}

pub(super) fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The look at a kept connection before a request that must go out once: `cargo test --release -p sluice-sys a_peek_costs -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_peek_costs() {
    const LOOKS: u32 = 100_000;
    let left = run(&small(), async {
        let (conn, _peer) = pair().await;
        for round in 0..9 {
            let before = thread_cpu_time();
            assert!((0..LOOKS).all(|_| conn.is_quiet_by_peek()));
            let spent = thread_cpu_time() - before;
            println!("round {round}: {:.2} us", spent.as_secs_f64() * 1e6 / f64::from(LOOKS));
        }
    });
    assert_eq!(left, Outstanding::default());
}

/// The ways to send a head and a body that was received: `cargo test --release -p sluice-sys parts_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_two_parts_cost() {
    const MESSAGES: u32 = 6_400;
    type Way = fn(&Conn, Buf, Lease) -> [Option<Sending>; 2];
    let ways: [(&str, Way); 3] = [
        ("two sends", |to, head, body| [Some(to.send(head, 5_000)), Some(to.send_lease(body, 5_000))]),
        ("one of a copy", |to, mut head, body| {
            head.extend_from_slice(&body);
            drop(body);
            [Some(to.send(head, 5_000)), None]
        }),
        ("one of two parts", |to, head, body| [Some(to.send_with(head, body, 5_000)), None]),
    ];
    for (body_bytes, pairs) in [(256, 1), (16_384, 1), (1_024, 64), (4_096, 64), (16_384, 64)] {
        let settings = Settings { submission_entries: 256, buffers: 1024, buffer_bytes: 16_384, ..small() };
        let left = run(&settings, async move {
            let (message, mut got) = (vec![7; body_bytes], vec![0; 300 + body_bytes]);
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for _ in 0..pairs {
                from.push(pair().await);
                to.push(pair().await);
            }
            for round in 0..9 {
                let mut line = format!("{body_bytes} bytes on {pairs} connections, round {round}:");
                for (name, way) in ways {
                    let mut spent = Duration::ZERO;
                    for _ in 0..MESSAGES / pairs {
                        let mut messages = Vec::new();
                        for (conn, source) in &mut from {
                            source.write_all(&message).expect("write");
                            let body = conn.receive().await.expect("receive").expect("bytes");
                            assert_eq!(body.len(), body_bytes);
                            let mut head = Buf::small();
                            head.resize(300, b'h');
                            messages.push((head, body));
                        }
                        let before = thread_cpu_time();
                        let ways =
                            messages.into_iter().zip(&to).map(|((head, body), (to, _))| way(to, head, body));
                        for sending in ways.collect::<Vec<_>>().into_iter().flatten().flatten() {
                            sending.await.result.expect("sent");
                        }
                        spent += thread_cpu_time() - before;
                        to.iter_mut().for_each(|(_, sink)| sink.read_exact(&mut got).expect("read"));
                    }
                    line += &format!("  {name} {:.2} us", spent.as_secs_f64() * 1e6 / f64::from(MESSAGES));
                }
                println!("{line}");
            }
        });
        assert_eq!(left, Outstanding::default());
    }
}

/// Segments that this end of a connection has received (`tcpi_segs_in`).
fn segments_received(stream: &TcpStream) -> u32 {
    let mut info = [0_u32; 64];
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as stated to `info`, which lives through the call.
    let result = unsafe {
        let to = info.as_mut_ptr().cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut bytes)
    };
    assert_eq!((result, bytes >= 144), (0, true), "it has counted segments since Linux 4.2");
    info[35]
}

#[test]
fn the_last_bytes_and_the_end_are_one_segment() {
    let left = run(&small(), async {
        let segments = async |is_last: bool| {
            let (conn, mut peer) = pair().await;
            let before = segments_received(&peer);
            let send = if is_last { Conn::send_last } else { Conn::send };
            send(&conn, buf(b"the end"), 0).await.result.expect("sent");
            drop(conn);
            sleep(1).await;
            let mut all = Vec::new();
            peer.read_to_end(&mut all).expect("all of it");
            assert_eq!(all, b"the end");
            segments_received(&peer) - before
        };
        // A host that stops for 200 ms sends the bytes before.
        let mut last = Vec::new();
        while last.last() != Some(&1) {
            last.push(segments(true).await);
            assert!(last.len() < 10, "{last:?}");
        }
        assert_eq!(segments(false).await, 2);
    });
    assert_eq!(left, Outstanding::default());
}

/// What a peer says meanwhile is answered with a reset when the connection is closed: behind the last bytes, not in place of them.
#[test]
fn bytes_that_arrive_at_the_end_do_not_discard_the_last_ones() {
    let left = run(&small(), async {
        for is_armed in [false, true] {
            let (conn, mut peer) = pair().await;
            if is_armed {
                start(pin!(conn.receive())).await;
            }
            conn.send_last(buf(b"the end"), 0).await.result.expect("sent");
            peer.write_all(b"more").expect("written");
            drop(conn);
            sleep(1).await;
            let mut all = [0; 7];
            peer.read_exact(&mut all).unwrap_or_else(|error| panic!("{error}, armed: {is_armed}"));
            assert_eq!(&all, b"the end");
        }
    });
    assert_eq!(left, Outstanding::default());
}
