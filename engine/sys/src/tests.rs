//! The dangers of a completion-based ring, each as a test that bears its name, before any feature uses the ring.

mod handover;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::driver::{self, Outstanding, Wake};
use crate::key::{Key, Kind};
use crate::op::Payload;
use crate::ring::Completion;
use crate::*;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn small() -> Settings {
    Settings {
        submission_entries: 8,
        buffers: 64,
        buffer_bytes: 1024,
        sockets_expected: 4096,
        ..Settings::default()
    }
}

fn run(settings: &Settings, main: impl Future<Output = ()> + 'static) -> Outstanding {
    Runtime::new(settings).expect("a runtime").run(main, no_worker)
}

async fn no_worker() {
    drop(next_connection().await);
}

/// A connection of the runtime and the other end of it, which is the standard library's.
async fn pair() -> (Conn, TcpStream) {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let conn = Conn::connect(listener.local_addr().expect("address"), 1_000).await.expect("connect");
    let (peer, _) = listener.accept().expect("accept");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    (conn, peer)
}

/// Polls a future once; it must not be ready.
async fn start(mut future: std::pin::Pin<&mut impl Future>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

fn buf(bytes: &[u8]) -> Buf {
    let mut buf = Buf::small();
    buf.extend_from_slice(bytes);
    buf
}

async fn receive_all(conn: &Conn, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend_from_slice(&conn.receive().await.expect("receive").expect("more bytes"));
    }
    all
}

#[test]
fn drop_before_completion() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let address = {
            let buf = Buf::small();
            let address = buf.as_ptr();
            let mut fill = pin!(conn.fill(buf, 0));
            start(fill.as_mut()).await;
            address
        };
        // The future is gone and the kernel may still write: the buffer must not be handed out again.
        let other = Buf::small();
        assert_ne!(other.as_ptr(), address);
        peer.write_all(b"late").expect("write");
        sleep(50).await;
        assert_eq!(driver::with(|driver| driver.outstanding().in_flight), 0);
        drop(other);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn accept_completes_after_drop_closes_fd() {
    let left = run(&small(), async {
        let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
        let address = bound.local().expect("address");
        let listener = Listener::start(bound, 0);
        sleep(40).await;
        let mut client = TcpStream::connect(address).expect("connect");
        // The accept has completed in the kernel; its completion is read after the listener is gone.
        drop(listener);
        sleep(100).await;
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        let read = client.read(&mut [0; 1]);
        assert!(
            !matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock),
            "nobody closed it: {read:?}"
        );
        assert_eq!(sockets_open(), 0);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn announced_ends_go_with_their_connection() {
    let left = run(&small(), async {
        let (conn, _peer) = pair().await;
        let actual = conn.peer().expect("a name");
        assert_eq!(conn.announced(), None);
        let [one, two] = ["[2001:db8::7]:1", "192.0.2.1:2"].map(|end| end.parse().expect("an address"));
        conn.announce(one, two);
        assert_eq!((conn.peer().expect("a name"), conn.announced()), (one, Some((one, two))));
        conn.announce(two, one);
        assert_eq!((conn.peer().expect("a name"), conn.announced()), (two, Some((two, one))));
        drop(conn);
        // The next tenant of the slot knows nothing of it.
        let (next, _peer) = pair().await;
        assert_eq!(next.announced(), None);
        assert_eq!(next.peer().expect("a name").ip(), actual.ip());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn cancelled_op_returns_ring_buffer() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let mut receive = Box::pin(async { conn.receive().await.map(drop) });
        start(receive.as_mut()).await;
        sleep(40).await;
        peer.write_all(b"nobody reads this").expect("write");
        drop(receive);
        drop(conn);
        sleep(100).await;
        assert_eq!(buffers_held().0, 0);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn closing_is_not_put_off_by_a_peer_that_never_pauses() {
    let settings = Settings { buffers: 1024, ..small() };
    let left = run(&settings, async {
        let (conn, mut peer) = pair().await;
        let flood = std::thread::spawn(move || {
            let until = std::time::Instant::now() + Duration::from_secs(5);
            while peer.write_all(&[b'x'; 65536]).is_ok() {
                if std::time::Instant::now() > until {
                    return false;
                }
            }
            true
        });
        drop(conn.receive().await);
        drop(conn);
        while !flood.is_finished() {
            sleep(50).await;
        }
        assert!(flood.join().expect("the peer's thread"), "still open after five seconds");
        assert_eq!(buffers_held().0, 0);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn submit_error_keeps_op() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let sending = conn.send(buf(b"hello"), 0);
        driver::with(|driver| driver.ring().enter_errors.extend([libc::EAGAIN, libc::EBUSY, libc::EINTR]));
        let sent = sending.await;
        assert!(sent.result.is_ok());
        assert!(driver::with(|driver| driver.ring().enter_errors.is_empty()));
        let mut got = [0; 5];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"hello");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn ring_drop_drains() {
    // Ends with a receive, a fill, a stuck send and a connect under way.
    let left = run(&small(), async {
        let (receiving, _peer) = pair().await;
        let (filling, _peer2) = pair().await;
        let (sending, _peer3) = pair().await;
        let mut receive = pin!(receiving.receive());
        start(receive.as_mut()).await;
        let mut fill = pin!(filling.fill(Buf::large(), 0));
        start(fill.as_mut()).await;
        let mut big = Buf::large();
        big.resize(64 << 20, 7);
        let mut send = pin!(sending.send(big, 0));
        start(send.as_mut()).await;
        sleep(40).await;
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn stale_cqe_hits_no_new_op() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let first = driver::with(|driver| driver.send(0, Payload::SendBuf { buf: buf(b"x"), sent: 0 }, 0));
        let stale = Key::new(Kind::Op, driver::with(|driver| driver.op_generation(first)), first);
        while driver::with(|driver| driver.poll_op(first)).is_pending() {
            sleep(1).await;
        }
        let sending = conn.send(buf(b"y"), 0);
        let forged = Completion { key: stale, result: -libc::EIO, flags: 0 };
        assert_eq!(driver::with(|driver| driver.complete(forged)), Wake::Nobody);
        assert!(sending.await.result.is_ok(), "the old key must not end the new operation");
        let mut got = [0; 2];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"xy");

        let stale = driver::with(|driver| driver.table().key(Kind::Receive, 0));
        drop(conn);
        let (conn, mut peer) = pair().await;
        let forged = Completion { key: stale, result: 0, flags: 0 };
        assert_eq!(driver::with(|driver| driver.complete(forged)), Wake::Nobody);
        peer.write_all(b"z").expect("write");
        assert_eq!(receive_all(&conn, 1).await, b"z", "the old end must not end the new connection");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn full_queue_applies_pressure() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let (other, mut other_peer) = pair().await;
        // Far more than the submission queue holds, while the kernel takes nothing for a while.
        driver::with(|driver| driver.ring().enter_errors.extend([libc::EBUSY; 40]));
        let polls: Vec<_> = (0..64).map(|_| driver::with(|driver| driver.poll_ready(0, 1, 0))).collect();
        assert!(driver::with(|driver| driver.ring().backlog_len()) > 0);
        let sends: Vec<Sending> = (0..200_u8).map(|n| other.send(buf(&[n]), 0)).collect();
        for sending in sends {
            assert!(sending.await.result.is_ok());
        }
        let mut got = [0; 200];
        other_peer.read_exact(&mut got).expect("read");
        assert!(got.iter().enumerate().all(|(at, &byte)| byte as usize == at), "sends keep their order");
        peer.write_all(b"!").expect("write");
        for op in polls {
            while driver::with(|driver| driver.poll_op(op)).is_pending() {
                sleep(1).await;
            }
        }
        drop(conn);
    });
    assert_eq!(left, Outstanding::default());
}

/// Buffers are poisoned when they are returned (see `BufRing::give_back`), so a byte that is read from a buffer after
/// it changed hands is seen here too.
#[test]
fn two_connections_never_see_each_others_bytes() {
    let settings = Settings { buffers: 8, buffer_bytes: 256, ..small() };
    let left = run(&settings, async {
        let done = Rc::new(Cell::new(0));
        for fill in [b'a', b'b'] {
            let (conn, mut peer) = pair().await;
            let done = done.clone();
            let writer = std::thread::spawn(move || {
                for size in (1..2_000).map(|n| n * 37 % 1_500 + 1) {
                    peer.write_all(&vec![fill; size]).expect("write");
                }
            });
            spawn(async move {
                let mut kept = Vec::new();
                while let Some(lease) = conn.receive().await.expect("receive") {
                    // Hold a few leases, so that the ring runs dry and buffers change hands out of order.
                    kept.push(lease);
                    if kept.len() == 3 {
                        let lease = kept.remove(kept.len() / 2);
                        assert!(lease.iter().all(|&byte| byte == fill), "foreign bytes");
                    }
                }
                assert!(kept.iter().flat_map(|lease| lease.iter()).all(|&byte| byte == fill));
                writer.join().expect("writer");
                done.set(done.get() + 1);
            });
        }
        while done.get() < 2 {
            sleep(5).await;
        }
        assert!(stats().buffers_ran_dry > 0, "the test must run the ring dry");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_slow_reader_stops_the_receive_and_loses_nothing() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let writer = std::thread::spawn(move || {
            let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
            peer.write_all(&bytes).expect("write");
        });
        let mut got = Vec::new();
        while got.len() < 1_000_000 {
            sleep(1).await;
            got.extend_from_slice(&conn.receive().await.expect("receive").expect("bytes"));
            while let Some(lease) = conn.receive_ready() {
                got.extend_from_slice(&lease);
            }
        }
        assert!(got.iter().enumerate().all(|(at, &byte)| byte as usize == at % 251));
        assert!(stats().receives_stopped > 0 || stats().buffers_ran_dry > 0);
        writer.join().expect("writer");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn idle_connections_wake_a_worker_with_their_bytes() {
    let served = Rc::new(RefCell::new(Vec::new()));
    let seen = served.clone();
    let main = async move {
        let bound = BoundListener::bind(LOOPBACK, 128).expect("bind");
        let address = bound.local().expect("address");
        let _listener = Listener::start(bound, 3);
        let mut clients: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(address).expect("connect")).collect();
        sleep(50).await;
        assert_eq!(workers_busy(), 0);
        assert_eq!(connections_idle(), 20);
        for round in 0..3_u8 {
            for client in &mut clients {
                client.write_all(&[round]).expect("write");
            }
            sleep(50).await;
        }
        assert_eq!(connections_idle(), 20);
        drop(clients);
        sleep(50).await;
        assert_eq!(connections_idle(), 0, "an end closes an idle connection");
    };
    let worker = move || {
        let served = served.clone();
        async move {
            loop {
                let conn = next_connection().await;
                assert_eq!(conn.listener(), 3);
                let lease = conn.receive().await.expect("receive").expect("bytes");
                served.borrow_mut().push(lease[0]);
                drop(lease);
                let _ = conn.park(10_000);
            }
        }
    };
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker);
    assert_eq!(left, Outstanding::default());
    let mut seen = seen.borrow().clone();
    seen.sort_unstable();
    assert_eq!(seen, [[0; 20], [1; 20], [2; 20]].concat());
}

/// A worker that parks every connection with what it has said, and writes down what it was given and how it went on.
fn collect(
    seen: &Rc<RefCell<Vec<String>>>,
) -> impl FnMut() -> std::pin::Pin<Box<dyn Future<Output = ()>>> + 'static {
    let seen = seen.clone();
    move || {
        let seen = seen.clone();
        Box::pin(async move {
            loop {
                let (conn, kept) = next_begun_connection().await;
                let kept = kept.unwrap_or_default();
                if kept.pieces == 0 {
                    conn.set_deadline(3_000);
                }
                let mut said = kept.bytes.to_vec();
                while let Some(lease) = conn.receive_ready() {
                    said.extend_from_slice(&lease);
                }
                let kept = Kept { bytes: said.clone().into(), pieces: kept.pieces + 1 };
                let Err((conn, kept)) = conn.park_with(kept) else { continue };
                let how = match conn.receive().await {
                    Ok(None) => "ended".to_owned(),
                    other => other.map(drop).unwrap_err().kind().to_string(),
                };
                seen.borrow_mut().push(format!(
                    "{} after {}, {how}",
                    String::from_utf8_lossy(&kept.bytes),
                    kept.pieces
                ));
            }
        })
    }
}

#[test]
fn a_parked_connection_keeps_what_it_has_said() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let bound = BoundListener::bind(LOOPBACK, 64).expect("bind");
    let address = bound.local().expect("address");
    let main = async move {
        let _listener = Listener::start(bound, 0);
        let mut drips = TcpStream::connect(address).expect("connect");
        let mut leaves = TcpStream::connect(address).expect("connect");
        for byte in b"abc" {
            drips.write_all(&[*byte]).expect("write");
            leaves.write_all(&[*byte]).expect("write");
            sleep(64).await;
            assert_eq!((connections_begun(), workers_busy(), buffers_held().0), (2, 0, 0));
        }
        assert_eq!(close_idle(), 0, "a message has begun");
        drop(leaves);
        sleep(64).await;
        assert_eq!(connections_begun(), 1);
        // Bytes that go on coming do not move the deadline.
        let begun_ms = now_ms();
        while connections_open() > 0 {
            let _ = drips.write_all(b".");
            sleep(64).await;
            assert!(now_ms() < begun_ms + 20_000);
        }
        assert_eq!(connections_begun(), 0);
        let mut open = TcpStream::connect(address).expect("connect");
        open.write_all(b"left at the end").expect("write");
        sleep(64).await;
        assert_eq!(connections_begun(), 1);
    };
    let worker = collect(&seen);
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker);
    assert_eq!(left, Outstanding::default());
    let seen = seen.borrow();
    assert!(seen.contains(&"abc after 4, ended".to_owned()), "{seen:?}");
    assert!(seen.iter().any(|line| line.starts_with("abc.") && line.ends_with("timed out")), "{seen:?}");
}

#[test]
fn connections_are_counted_by_their_peer() {
    let bound = BoundListener::bind(LOOPBACK, 64).expect("bind");
    let address = bound.local().expect("address");
    let counts = PeerCounts::new(1);
    let main = async move {
        let _listener = Listener::start(bound, 0);
        let mut clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("connect")).collect();
        sleep(50).await;
        assert_eq!((connections_open(), stats().accepted, stats().peer_refused), (3, 5, 2));
        clients.clear();
        sleep(50).await;
        clients.extend((0..3).map(|_| TcpStream::connect(address).expect("connect")));
        sleep(50).await;
        assert_eq!(
            (connections_open(), stats().peer_refused),
            (3, 2),
            "those that were closed count no more"
        );
        clients[0].write_all(b"x").expect("write");
        sleep(50).await;
        assert_eq!(connections_open(), 2);
    };
    let worker = || async {
        let conn = next_connection().await;
        assert_eq!((conn.connections_of_peer(), conn.notes()), (3, (0, 0)), "the first of three");
        conn.set_peer("192.0.2.1:1".parse().expect("an address"));
        assert_eq!((conn.connections_of_peer(), conn.peer().expect("a peer").port()), (1, 1));
        conn.set_peer("127.0.0.1:1".parse().expect("an address"));
        assert_eq!(conn.connections_of_peer(), 3);
    };
    let runtime = Runtime::new(&small()).expect("a runtime");
    runtime.count_peers(counts.share(0), PeerBounds { noted_above: 2, tag: 7, accept_max: 3 });
    assert_eq!(runtime.run(main, worker), Outstanding::default());
    assert_eq!(counts.share(0).total(LOOPBACK.ip()), 0);
}

#[test]
fn deadlines_end_receives_sends_connects_and_idle_connections() {
    let left = run(&small(), async {
        let (conn, _peer) = pair().await;
        conn.set_deadline(100);
        assert_eq!(conn.receive().await.map(drop).expect_err("late").kind(), ErrorKind::TimedOut);
        conn.clear_deadline();
        let mut big = Buf::large();
        big.resize(64 << 20, 7);
        let sent = conn.send(big, 100).await;
        assert_eq!(sent.result.expect_err("stuck").kind(), ErrorKind::TimedOut);

        let (idle, mut peer) = pair().await;
        idle.park(100).expect("parks");
        sleep(200).await;
        assert_eq!(peer.read(&mut [0; 1]).expect("an end"), 0);

        let (resting, mut peer) = pair().await;
        assert!(resting.rest(100));
        sleep(200).await;
        assert_eq!(peer.read(&mut [0; 1]).expect("an end"), 0);
        assert!(!resting.resume());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_resting_connection_is_useless_after_unasked_bytes_or_an_end() {
    let left = run(&small(), async {
        let (good, _good_peer) = pair().await;
        let (spoken, mut speaker) = pair().await;
        let (ended, ender) = pair().await;
        assert!(good.rest(60_000) && spoken.rest(60_000) && ended.rest(60_000));
        speaker.write_all(b"HTTP/1.1 200 injected").expect("write");
        drop(ender);
        sleep(50).await;
        assert!(good.resume());
        assert!(!spoken.resume());
        assert!(!ended.resume());
        assert_eq!(buffers_held().0, 0);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn leases_are_sent_from_where_they_arrived() {
    let left = run(&small(), async {
        let (from, mut source) = pair().await;
        let (to, mut sink) = pair().await;
        source.write_all(b"--through--").expect("write");
        let mut lease = from.receive().await.expect("receive").expect("bytes");
        lease.advance(2);
        lease.truncate(7);
        assert!(to.send_lease(lease, 1_000).await.result.is_ok());
        let mut got = [0; 7];
        sink.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"through");
        assert_eq!(buffers_held().0, 0);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn disarmed_connections_fill_buffers_and_splice() {
    let left = run(&small(), async {
        let (from, mut source) = pair().await;
        let (to, mut sink) = pair().await;
        source.write_all(b"head").expect("write");
        assert_eq!(receive_all(&from, 4).await, b"head");
        from.disarm().await;
        source.write_all(&[9; 5_000]).expect("write");
        let mut filled = 0;
        while filled < 5_000 {
            filled += from.fill(Buf::large(), 1_000).await.expect("fill").len();
        }
        source.write_all(b"spliced").expect("write");
        from.readable(1_000).await.expect("readable");
        let mut pipe = Pipe::new().expect("pipe");
        assert_eq!(pipe.fill_from(&from, 100).expect("fill"), Spliced::Bytes(7));
        assert_eq!(pipe.drain_into(&to).expect("drain"), Spliced::Bytes(7));
        let mut got = [0; 7];
        sink.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"spliced");
        source.write_all(b"again").expect("write");
        assert_eq!(receive_all(&from, 5).await, b"again");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_half_closed_peer_gets_the_rest_of_its_answer() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let mut big = Buf::large();
        big.resize(16 << 20, 7);
        conn.send(big, 60_000).detach();
        conn.park(60_000).expect("parks");
        peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
        sleep(50).await;
        assert_eq!((connections_idle(), close_idle()), (1, 0), "still sending");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all.len())
        });
        while connections_idle() > 0 {
            sleep(5).await;
        }
        // The close itself goes out with the next turn.
        sleep(50).await;
        assert_eq!(reader.join().expect("reader").expect("a clean end"), 16 << 20);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn receiving_one_by_one_leaves_the_rest_in_the_socket() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        conn.set_read_ahead(ReadAhead::OneBuffer);
        peer.write_all(&[1; 3_000]).expect("write");
        assert_eq!(conn.receive().await.expect("receive").expect("bytes").len(), 1024);
        sleep(20).await;
        assert!(conn.is_quiet(), "the rest waits in the socket");
        conn.set_read_ahead(ReadAhead::Buffers);
        assert_eq!(receive_all(&conn, 1_976).await, [1; 1_976]);

        // A pooled connection changes its way of receiving while it rests.
        conn.set_read_ahead(ReadAhead::OneBuffer);
        assert!(conn.rest(60_000));
        sleep(20).await;
        assert!(conn.resume());
        peer.write_all(&[2; 3_000]).expect("write");
        sleep(20).await;
        assert_eq!(conn.receive().await.expect("receive").expect("bytes").len(), 1024);
        assert!(conn.is_quiet());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn nothing_is_sent_behind_a_fragment() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let mut big = Buf::large();
        big.resize(64 << 20, 7);
        let (first, second) = (conn.send(big, 100), conn.send(buf(b"behind"), 0));
        assert_eq!(first.await.result.expect_err("stuck").kind(), ErrorKind::TimedOut);
        assert!(second.await.result.is_err());
        assert!(conn.send(buf(b"later"), 0).await.result.is_err());
        drop(conn);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = peer.read_to_end(&mut all);
            assert!(all.iter().all(|&byte| byte == 7));
        });
        while !reader.is_finished() {
            sleep(5).await;
        }
        reader.join().expect("only the fragment");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_failure_is_noticed_behind_an_end_and_behind_unread_bytes() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let mut receive = Box::pin(async { conn.receive().await.map(drop) });
        start(receive.as_mut()).await;
        drop(receive);
        peer.write_all(b"ahead").expect("write");
        peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
        sleep(50).await;
        let mut failed = Box::pin(conn.failed());
        start(failed.as_mut()).await;
        // Closing with unread bytes resets.
        conn.send(buf(b"unread"), 0).await.result.expect("sent");
        drop(peer);
        failed.await;
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn receives_and_sends_wait_although_sockets_are_non_blocking() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let echo = std::thread::spawn(move || {
            let mut all = vec![0; 4 << 20];
            std::thread::sleep(Duration::from_millis(100));
            peer.read_exact(&mut all).expect("read");
            for piece in all.chunks(1_000) {
                peer.write_all(piece).expect("write");
            }
            peer
        });
        let mut big = Buf::large();
        big.extend((0..4 << 20).map(|n: u32| (n % 251) as u8));
        let sending = conn.send(big, 5_000);
        let got = receive_all(&conn, 4 << 20).await;
        assert!(got.iter().enumerate().all(|(at, &byte)| byte as usize == at % 251));
        assert!(sending.await.result.is_ok());
        drop(echo.join().expect("echo"));
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn messages_cross_threads() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        run(&small(), async move {
            sender.send(Doorbell::of_this_thread().expect("doorbell")).expect("send");
            assert_eq!([next_message().await, next_message().await], [7, 8]);
        })
    });
    let doorbell = receiver.recv().expect("doorbell");
    Courier::new().expect("courier").ring(&doorbell, 7).expect("ring");
    let left = run(&small(), async move {
        doorbell.ring(8);
        sleep(10).await;
    });
    assert_eq!((left, thread.join().expect("thread")), (Outstanding::default(), Outstanding::default()));
}

#[test]
fn unacknowledged_bytes_are_told() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        assert_eq!(conn.unacknowledged_bytes().expect("tcp_info"), 0);
        conn.send(buf(b"hello"), 0).await.result.expect("sent");
        peer.read_exact(&mut [0; 5]).expect("read");
        assert_eq!(conn.unacknowledged_bytes().expect("tcp_info"), 0);
        // The peer is gone for good: what is sent now meets a reset and is never acknowledged.
        drop(peer);
        sleep(20).await;
        conn.send(buf(b"lost"), 0).await.result.expect("sent into the void");
        sleep(20).await;
        assert_eq!(conn.unacknowledged_bytes().expect("tcp_info"), 4);
    });
    assert_eq!(left, Outstanding::default());
}
