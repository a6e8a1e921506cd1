//! What is attached to a connection lives as long as its peer may have the connection.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Instant;

use super::*;

/// Says when it is dropped.
struct Held(Rc<Cell<bool>>);

impl Drop for Held {
    fn drop(&mut self) {
        // A destructor may use the runtime.
        drop(Timer::new(1_000));
        self.0.set(true);
    }
}

fn held() -> (Box<Held>, Rc<Cell<bool>>) {
    let is_dropped = Rc::new(Cell::new(false));
    (Box::new(Held(is_dropped.clone())), is_dropped)
}

async fn pair_holding() -> (Conn, TcpStream, Rc<Cell<bool>>) {
    let listener = TcpListener::bind(LOOPBACK).expect("bind");
    let (held, is_dropped) = held();
    let address = listener.local_addr().expect("address");
    let conn = Conn::connect_holding(Some(held), None, &address.into(), 1_000).await.expect("connect");
    let (peer, _) = listener.accept().expect("accept");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    (conn, peer, is_dropped)
}

async fn until(is_dropped: &Cell<bool>) {
    let begun = Instant::now();
    while !is_dropped.get() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never dropped");
        sleep(1).await;
    }
}

#[test]
fn it_lives_until_the_peer_has_ended_the_connection() {
    let main = async {
        // With a receive in the kernel, and without one; both with bytes that we have not read.
        for is_armed in [true, false] {
            let (conn, mut peer, is_dropped) = pair_holding().await;
            if is_armed {
                start(std::pin::pin!(conn.receive())).await;
            } else {
                peer.write_all(b"unread").expect("write");
            }
            conn.send(buf(b"last words"), 0).detach();
            conn.flushed().await;
            let begun = Instant::now();
            drop(conn);
            sleep(5).await;
            // On a host that is busy elsewhere the peer's time may be over.
            let is_in_time = || begun.elapsed() < Duration::from_millis(driver::CLOSING_MS / 2);
            assert!(!is_dropped.get() || !is_in_time(), "the peer has the connection");
            let mut words = Vec::new();
            let read = peer.read_to_end(&mut words);
            assert!(read.is_ok() && words == b"last words" || !is_in_time(), "{read:?} {words:?} {is_armed}");
            drop(peer);
            until(&is_dropped).await;
        }
    };
    assert_eq!(run(&small(), main), Outstanding::default());
}

#[test]
fn a_peer_that_does_not_end_it_is_reset() {
    let main = async {
        let (conn, mut peer, is_dropped) = pair_holding().await;
        drop(conn);
        let begun = Instant::now();
        until(&is_dropped).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(driver::CLOSING_MS * 9 / 10), "{took:?}");
        // The kernel of the peer has no connection any more.
        let mut byte = [0];
        assert_eq!(peer.read(&mut byte).expect("our end came first"), 0);
        let error = peer.write(b"x").expect_err("it was reset");
        assert!(
            [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe].contains(&error.kind()),
            "{error}"
        );
    };
    assert_eq!(run(&small(), main), Outstanding::default());
}

#[test]
fn it_goes_with_an_attempt_that_is_given_up_or_refused() {
    let main = async {
        let (given_up, is_dropped) = held();
        let listener = TcpListener::bind(LOOPBACK).expect("bind");
        let address = listener.local_addr().expect("address");
        {
            let there = address.into();
            let mut connecting = std::pin::pin!(Conn::connect_holding(Some(given_up), None, &there, 1_000));
            start(connecting.as_mut()).await;
            assert!(!is_dropped.get());
        }
        until(&is_dropped).await;
        // Whatever came of the attempt at the peer's side is over.
        listener.set_nonblocking(true).expect("a listener");
        if let Ok((mut peer, _)) = listener.accept() {
            peer.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            assert!(matches!(peer.read(&mut [0]), Ok(0) | Err(_)), "it is open");
        }
        drop(listener);
        let (refused, is_dropped) = held();
        Conn::connect_holding(Some(refused), None, &address.into(), 1_000)
            .await
            .expect_err("nothing listens");
        until(&is_dropped).await;
    };
    assert_eq!(run(&small(), main), Outstanding::default());
}

#[test]
fn it_goes_when_the_peer_ends_an_idle_connection() {
    let main = async {
        let (conn, peer, is_dropped) = pair_holding().await;
        assert!(conn.keep_idle(60_000));
        drop(peer);
        until(&is_dropped).await;
        assert!(!conn.reuse());
        let (conn, _peer, is_dropped) = pair_holding().await;
        assert!(conn.keep_idle(20));
        until(&is_dropped).await;
        assert!(!conn.reuse());
    };
    assert_eq!(run(&small(), main), Outstanding::default());
}

#[test]
fn the_end_of_a_runtime_waits_for_no_peer() {
    let main = async {
        let (conn, peer, _) = pair_holding().await;
        let (open, other, _) = pair_holding().await;
        drop(conn);
        std::mem::forget((peer, other));
        sleep(5).await;
        drop(open);
    };
    assert_eq!(run(&small(), main), Outstanding::default());
}
