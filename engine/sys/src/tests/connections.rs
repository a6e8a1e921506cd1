//! Connections between their messages: idle, parked, kept, counted, late; and messages from thread to thread.

use std::cell::RefCell;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use super::{LOOPBACK, buf, pair, receive_all, run, small};
use crate::*;

#[test]
fn announced_ends_go_with_their_connection() {
    let left = run(&small(), async {
        let (conn, _peer) = pair().await;
        let actual = conn.peer().expect("a name");
        assert_eq!(conn.proxied(), None);
        let [one, two] = ["[2001:db8::7]:1", "192.0.2.1:2"].map(|end| end.parse().expect("an address"));
        conn.set_proxied(one, two);
        assert_eq!((conn.peer().expect("a name"), conn.proxied()), (one, Some((one, two))));
        conn.set_proxied(two, one);
        assert_eq!((conn.peer().expect("a name"), conn.proxied()), (two, Some((two, one))));
        drop(conn);
        // The next tenant of the slot knows nothing of it.
        let (next, _peer) = pair().await;
        assert_eq!(next.proxied(), None);
        assert_eq!(next.peer().expect("a name").ip(), actual.ip());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn the_ends_of_a_connection_are_asked_of_the_kernel_once() {
    let left = run(&small(), async {
        let (conn, peer) = pair().await;
        let ends = (peer.local_addr().expect("a name"), peer.peer_addr().expect("a name"));
        assert_eq!(conn.ends().expect("names"), ends);
        assert!(conn.keep_idle(10_000));
        drop(peer);
        sleep(20).await;
        assert!(!conn.reuse());
        assert!(conn.local().is_err(), "there is no socket any more to ask");
        assert_eq!(conn.ends().expect("remembered"), ends);
        // What is announced comes before what the kernel says.
        let (conn, _peer) = pair().await;
        let [one, two] = ["[2001:db8::7]:1", "192.0.2.1:2"].map(|end| end.parse().expect("an address"));
        conn.set_proxied(one, two);
        assert_eq!(conn.ends().expect("announced"), (one, two));
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
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker).expect("a ring");
    assert_eq!(left, Outstanding::default());
    let mut seen = seen.borrow().clone();
    seen.sort_unstable();
    assert_eq!(seen, [[0; 20], [1; 20], [2; 20]].concat());
}

/// A worker that parks every connection with the bytes it has sent, and writes down what it was given and how it went on.
fn collect(
    seen: &Rc<RefCell<Vec<String>>>,
) -> impl FnMut() -> std::pin::Pin<Box<dyn Future<Output = ()>>> + 'static {
    let seen = seen.clone();
    move || {
        let seen = seen.clone();
        Box::pin(async move {
            loop {
                let (conn, kept) = next_partial_connection().await;
                let (mut received, pieces) =
                    kept.map_or((Vec::new(), 0), |kept| (kept.bytes.to_vec(), kept.pieces));
                if pieces == 0 {
                    conn.set_deadline(3_000);
                }
                while let Some(lease) = conn.receive_ready() {
                    received.extend_from_slice(&lease);
                }
                let Err(conn) = conn.park_with(&received, pieces + 1) else { continue };
                let how = match conn.receive().await {
                    Ok(None) => "ended".to_owned(),
                    other => other.map(drop).unwrap_err().kind().to_string(),
                };
                seen.borrow_mut().push(format!(
                    "{} after {}, {how}",
                    String::from_utf8_lossy(&received),
                    pieces + 1
                ));
            }
        })
    }
}

#[test]
fn a_parked_connection_keeps_its_bytes() {
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
            assert_eq!((connections_partial(), workers_busy(), buffers_held().0), (2, 0, 0));
        }
        assert_eq!(close_idle(), 0, "a message has begun");
        drop(leaves);
        sleep(64).await;
        assert_eq!(connections_partial(), 1);
        // Bytes that go on coming do not move the deadline.
        let begun_ms = now_ms();
        while connections_open() > 0 {
            let _ = drips.write_all(b".");
            sleep(64).await;
            assert!(now_ms() < begun_ms + 20_000);
        }
        assert_eq!(connections_partial(), 0);
        let mut open = TcpStream::connect(address).expect("connect");
        open.write_all(b"left at the end").expect("write");
        sleep(64).await;
        assert_eq!(connections_partial(), 1);
    };
    let worker = collect(&seen);
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker).expect("a ring");
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
        assert_eq!((conn.connections_of_peer(), conn.owner_data()), (3, (0, 0)), "the first of three");
        conn.set_peer("192.0.2.1:1".parse().expect("an address"));
        assert_eq!((conn.connections_of_peer(), conn.peer().expect("a peer").port()), (1, 1));
        conn.set_peer("127.0.0.1:1".parse().expect("an address"));
        assert_eq!(conn.connections_of_peer(), 3);
    };
    let runtime = Runtime::new(&small()).expect("a runtime");
    runtime.count_peers(counts.share(0), PeerBounds { noted_above: 2, owner_word: 7, accept_max: 3 });
    assert_eq!(runtime.run(main, worker), Ok(Outstanding::default()));
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

        let (idle_conn, mut peer) = pair().await;
        assert!(idle_conn.keep_idle(100));
        sleep(200).await;
        assert_eq!(peer.read(&mut [0; 1]).expect("an end"), 0);
        assert!(!idle_conn.reuse());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_resting_connection_is_useless_after_unasked_bytes_or_an_end() {
    let left = run(&small(), async {
        let (good, _good_peer) = pair().await;
        let (spoken, mut speaker) = pair().await;
        let (ended, ender) = pair().await;
        assert!(good.keep_idle(60_000) && spoken.keep_idle(60_000) && ended.keep_idle(60_000));
        speaker.write_all(b"HTTP/1.1 200 injected").expect("write");
        drop(ender);
        sleep(50).await;
        assert!(good.reuse());
        assert!(!spoken.reuse());
        assert!(!ended.reuse());
        assert_eq!(buffers_held().0, 0);
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
    MsgRingSender::new().expect("ring_sender").ring(&doorbell, 7).expect("ring");
    let left = run(&small(), async move {
        doorbell.ring(8);
        sleep(10).await;
    });
    assert_eq!((left, thread.join().expect("thread")), (Outstanding::default(), Outstanding::default()));
}

#[test]
fn a_send_begins_when_the_kernel_has_taken_some_of_it() {
    let left = run(&small(), async {
        let ((first, mut first_peer), (second, mut second_peer)) = (pair().await, pair().await);
        assert!(first.keep_idle(10_000) && second.keep_idle(10_000));
        // Both receives are in the kernel.
        sleep(20).await;
        assert!(second.reuse());
        second_peer.write_all(b"wake").expect("write");
        first_peer.write_all(b"earlier").expect("write");
        // One turn brings both, and this task runs between the two.
        assert_eq!(&*receive_all(&second, 4).await, b"wake");
        assert!(first.reuse(), "what came has not been seen yet");
        let sending = first.send(buf(b"request"), 0);
        assert!(!sending.has_begun());
        assert_eq!(&*receive_all(&first, 7).await, b"earlier");
        assert!(!sending.has_begun(), "these bytes are older than the request");
        first_peer.write_all(b"later").expect("write");
        assert_eq!(&*receive_all(&first, 5).await, b"later");
        assert!(sending.has_begun());
        drop(sending);
    });
    assert_eq!(left, Outstanding::default());
}
