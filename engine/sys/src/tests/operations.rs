//! Operations whose future or connection is gone before they have ended.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::pin::pin;
use std::time::Duration;

use super::{LOOPBACK, buf, pair, receive_all, run, small, start};
use crate::driver::{self, Wake};
use crate::key::{Key, Kind};
use crate::op::Payload;
use crate::ring::Completion;
use crate::table::Flags;
use crate::*;

/// Turns of the loop, until the kernel has ended what was cancelled.
async fn until_nothing_is_in_flight() {
    for _ in 0..100 {
        if driver::with(|driver| driver.outstanding().in_flight) == 0 {
            return;
        }
        sleep(20).await;
    }
    panic!("{:?}", driver::with(|driver| driver.outstanding()));
}

#[test]
fn a_wait_for_a_socket_ends_with_its_future() {
    let left = run(&small(), async {
        let (conn, _peer) = pair().await;
        {
            let mut readable = pin!(conn.readable(0));
            start(readable.as_mut()).await;
            assert_eq!(driver::with(|driver| driver.outstanding().in_flight), 1);
        }
        until_nothing_is_in_flight().await;
        let mut big = Buf::large();
        big.resize(64 << 20, 7);
        let stuck = conn.send(big, 0);
        {
            let mut writable = pin!(conn.writable(0));
            start(writable.as_mut()).await;
        }
        drop(conn);
        assert!(stuck.await.result.is_err());
        until_nothing_is_in_flight().await;
    });
    assert_eq!(left, Outstanding::default());
}

/// A task that polls by hand until a receive is out of the kernel has no future that could end the wait.
#[test]
fn a_disarm_may_be_left_while_it_is_pending() {
    let left = run(&small(), async {
        let is_armed = || driver::with(|driver| driver.table().at(0).flags.has(Flags::ARMED));
        let (first, mut first_peer) = pair().await;
        start(pin!(first.receive())).await;
        assert!(is_armed() && first.poll_disarmed().is_pending());
        // Nothing waits for that any more; the next receive gets its bytes all the same.
        first_peer.write_all(b"first").expect("write");
        assert_eq!(receive_all(&first, 5).await, b"first");
        start(pin!(first.receive())).await;
        poll_fn(|_| first.poll_disarmed()).await;
        assert!(!is_armed() && first.is_quiet());

        // All in one turn: the receive is still in the kernel when another connection has the slot and receives.
        start(pin!(first.receive())).await;
        assert!(is_armed() && first.poll_disarmed().is_pending());
        drop(first);
        let listener = TcpListener::bind(LOOPBACK).expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (mut second_peer, _) = listener.accept().expect("accept");
        let index = driver::with(|driver| driver.open_socket(stream.into_raw_fd()));
        assert_eq!(index, 0, "the slot of the first");
        let second = Conn::from_index(index);
        start(pin!(second.receive())).await;
        // The kernel closes the first connection when its receive has ended.
        first_peer.set_nonblocking(true).expect("non-blocking");
        let limit = Timer::new(20_000);
        while first_peer.read(&mut [0]).is_err() {
            assert!(limit.poll_expired().is_pending(), "the first connection stays open");
            sleep(1).await;
        }
        sleep(1).await;
        assert!(is_armed(), "the receive that ended was not the second's");
        second_peer.write_all(b"second").expect("write");
        assert_eq!(receive_all(&second, 6).await, b"second");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_connect_ends_with_its_future() {
    let left = run(&small(), async {
        let bound = BoundListener::bind(LOOPBACK, 1).expect("bind");
        let address = bound.local().expect("address");
        // The backlog is full when the kernel drops the next attempt, so that it would be repeated for minutes.
        let mut backlog = Vec::new();
        while let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            backlog.push(client);
        }
        {
            let mut connect = pin!(Conn::connect(address, 0));
            start(connect.as_mut()).await;
            sleep(20).await;
            assert_eq!(driver::with(|driver| driver.outstanding().in_flight), 1);
        }
        until_nothing_is_in_flight().await;
        assert_eq!(sockets_open(), 0);
    });
    assert_eq!(left, Outstanding::default());
}

/// A send that ended short goes on with its rest, but not on whatever socket has its slot by then.
#[test]
fn the_rest_of_a_send_does_not_go_to_the_next_connection() {
    let left = run(&small(), async {
        let (first, _first_peer) = pair().await;
        let mut big = Buf::large();
        big.resize(64 << 20, b'1');
        let op = driver::with(|driver| driver.send(0, Payload::SendBuf { buf: big, sent: 0 }, 0.into()));
        sleep(20).await;
        // All in one turn: the kernel has not ended the send when another connection has the slot.
        drop(first);
        let listener = TcpListener::bind(LOOPBACK).expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (mut peer, _) = listener.accept().expect("accept");
        let index = driver::with(|driver| driver.open_socket(stream.into_raw_fd()));
        assert_eq!(index, 0, "the slot of the first");
        let second = Conn::from_index(index);
        // As if the kernel had sent some of it and then no more.
        let key = Key::new(Kind::Op, driver::with(|driver| driver.op_generation(op)), op);
        let short = Completion { key, result: 10, flags: 0 };
        assert_eq!(driver::with(|driver| driver.complete(short)), Wake::NoTask);
        assert!(second.send(buf(b"2"), 2_000).await.result.is_ok());
        drop(second);
        sleep(20).await;
        let mut arrived = Vec::new();
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        let end = peer.read_to_end(&mut arrived);
        assert_eq!((end.ok(), &*arrived), (Some(1), &b"2"[..]));
        assert!(driver::with(|driver| driver.poll_op(op)).is_ready());
    });
    assert_eq!(left, Outstanding::default());
}
