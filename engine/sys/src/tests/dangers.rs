//! The dangers of a completion-based ring, each as a test that bears its name, before any feature uses the ring.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::{LOOPBACK, buf, pair, receive_all, run, small, start};
use crate::driver::{self, Wake};
use crate::key::{Key, Kind};
use crate::op::Payload;
use crate::ring::Completion;
use crate::*;

#[test]
fn drop_before_completion() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let address = {
            let buf = Buf::small();
            let address = buf.as_ptr();
            let mut fill = pin!(conn.fill(buf, usize::MAX, 0));
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
            "it is still open: {read:?}"
        );
        assert_eq!(sockets_open(), 0);
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
        peer.write_all(b"never to be read").expect("write");
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
        let mut fill = pin!(filling.fill(Buf::large(), usize::MAX, 0));
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
        let first =
            driver::with(|driver| driver.send(0, Payload::SendBuf { buf: buf(b"x"), sent: 0 }, 0.into()));
        let stale = Key::new(Kind::Op, driver::with(|driver| driver.op_generation(first)), first);
        while driver::with(|driver| driver.poll_op(first)).is_pending() {
            sleep(1).await;
        }
        let sending = conn.send(buf(b"y"), 0);
        let forged = Completion { key: stale, result: -libc::EIO, flags: 0 };
        assert_eq!(driver::with(|driver| driver.complete(forged)), Wake::NoTask);
        assert!(sending.await.result.is_ok(), "the old key must not end the new operation");
        let mut got = [0; 2];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"xy");

        let stale = driver::with(|driver| driver.table().key(Kind::Receive, 0));
        drop(conn);
        let (conn, mut peer) = pair().await;
        let forged = Completion { key: stale, result: 0, flags: 0 };
        assert_eq!(driver::with(|driver| driver.complete(forged)), Wake::NoTask);
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
        let polls: Vec<_> =
            (0..64).map(|_| driver::with(|driver| driver.poll_ready(0, 1, 0.into()))).collect();
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
fn connections_never_see_each_others_bytes() {
    let settings = Settings { buffers: 8, buffer_bytes: 256, ..small() };
    let left = run(&settings, async {
        let done = Rc::new(Cell::new(0));
        for fill in [b'a', b'b', b'c'] {
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
        while done.get() < 3 {
            sleep(5).await;
        }
        assert!(stats().recv_buffers_exhausted > 0, "the test must run the ring dry");
    });
    assert_eq!(left, Outstanding::default());
}
