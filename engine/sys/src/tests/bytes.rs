//! Bytes on their way through: received, held back, lent, spliced, sent, cut off.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::{buf, pair, receive_all, run, small, start};
use crate::driver;
use crate::*;

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
        // Where the kernel cannot bound a receive, buffers come one by one and nothing has to be stopped.
        let is_bounded = driver::with(|driver| driver.bounds_receives());
        assert!(
            stats().reads_paused > 0 || !is_bounded,
            "it was received on and on, for a reader that did not keep up"
        );
        writer.join().expect("writer");
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
            filled += from.fill(Buf::large(), LARGE_BYTES, 1_000).await.expect("fill").len();
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

/// What is behind it belongs to the next message.
#[test]
fn a_buffer_is_filled_no_further_than_was_asked_for() {
    let left = run(&small(), async {
        let (from, mut source) = pair().await;
        from.disarm().await;
        source.write_all(&[9; 5_000]).expect("write");
        let mut filled = 0;
        while filled < 4_000 {
            let buf = from.fill(Buf::large(), 4_000 - filled, 1_000).await.expect("fill");
            filled += buf.len();
        }
        assert_eq!(filled, 4_000);
        assert_eq!(receive_all(&from, 1_000).await, [9; 1_000]);
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
        peer.shutdown(Shutdown::Write).expect("shutdown");
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
        assert!(conn.keep_idle(60_000));
        sleep(20).await;
        assert!(conn.reuse());
        peer.write_all(&[2; 3_000]).expect("write");
        sleep(20).await;
        assert_eq!(conn.receive().await.expect("receive").expect("bytes").len(), 1024);
        assert!(conn.is_quiet());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn what_closing_would_answer_with_a_reset_is_known() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        assert!(!conn.has_unread());
        // No turn lies between, so these are in the socket only.
        peer.write_all(b"more").expect("write");
        assert!(conn.has_unread());
        assert_eq!(receive_all(&conn, 4).await, b"more");
        assert!(!conn.has_unread(), "all was taken");
        peer.write_all(b"the last").expect("write");
        peer.shutdown(Shutdown::Write).expect("shutdown");
        assert!(conn.has_unread(), "bytes before the end");
        assert_eq!(receive_all(&conn, 8).await, b"the last");
        assert!(!conn.has_unread(), "an end is nothing unread");
        drop(conn);
        // The close itself goes out with the next turn.
        sleep(20).await;
        assert_eq!(peer.read(&mut [0]).expect("an end, not a reset"), 0);
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
        peer.shutdown(Shutdown::Write).expect("shutdown");
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

/// Where that is a reason to give up: with an armed receive at once, behind bytes that were sent ahead at the next look.
#[test]
fn the_end_of_a_peer_is_noticed_behind_whatever_it_has_sent() {
    let left = run(&small(), async {
        for (is_armed, ahead) in [(true, &b""[..]), (true, b"ahead"), (false, b""), (false, b"ahead")] {
            let (conn, mut peer) = pair().await;
            if is_armed {
                let mut receive = Box::pin(async { conn.receive().await.map(drop) });
                start(receive.as_mut()).await;
            }
            let mut look = None;
            let mut has_left = Box::pin(std::future::poll_fn(|_| conn.poll_left(&mut look)));
            start(has_left.as_mut()).await;
            peer.write_all(ahead).expect("write");
            sleep(20).await;
            start(has_left.as_mut()).await;
            peer.shutdown(Shutdown::Write).expect("shutdown");
            let error = has_left.await;
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{is_armed} {ahead:?}");
            // It can still be sent to.
            let mut look = None;
            let mut failed = Box::pin(std::future::poll_fn(|_| conn.poll_failed(&mut look)));
            start(failed.as_mut()).await;
        }
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
fn unacknowledged_bytes_are_reported() {
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

/// What is received of a body for one wait is bounded, and nothing is received behind it until that is wanted.
#[test]
fn a_body_is_received_in_several_buffers_at_a_time() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        peer.write_all(&[7; 200_000]).expect("write");
        conn.set_read_ahead(ReadAhead::BodyBuffers);
        let mut bytes = 0;
        let mut most = 0;
        while bytes < 200_000 {
            bytes += conn.receive().await.expect("bytes").expect("no end").len();
            // Nothing is armed while others have their turn.
            sleep(1).await;
            let mut held = 0;
            while let Some(lease) = conn.receive_ready() {
                (bytes, held) = (bytes + lease.len(), held + 1);
            }
            most = most.max(held);
        }
        let bound = small().read_ahead_bytes / small().buffer_bytes;
        assert!(most <= bound, "{most} of {bound}");
        if driver::with(|driver| driver.bounds_receives()) {
            assert!(most > 0, "one by one");
        }
        // A wait that a little has ended goes on to its bound, and not beyond.
        peer.write_all(b"a little").expect("write");
        let mut bytes = conn.receive().await.expect("bytes").expect("no end").len();
        peer.write_all(&[7; 200_000]).expect("write");
        for _ in 0..20 {
            sleep(1).await;
        }
        while let Some(lease) = conn.receive_ready() {
            bytes += lease.len();
        }
        let most = small().read_ahead_bytes + small().buffer_bytes;
        assert!(bytes <= most as usize, "{bytes} of {most}");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn buffers_are_short_when_more_than_a_quarter_is_held() {
    let left = run(&Settings { buffers: 8, ..small() }, async {
        let (conn, mut peer) = pair().await;
        let mut held = Vec::new();
        for count in 1..=3 {
            peer.write_all(b"x").expect("write");
            held.push(conn.receive().await.expect("bytes").expect("no end"));
            assert_eq!(are_buffers_short(), count > 2, "{count} of 8");
        }
        drop(held.pop());
        assert!(!are_buffers_short());
    });
    assert_eq!(left, Outstanding::default());
}

/// A peer that takes a little now and then makes progress for ever; a send has a time in all.
#[test]
fn a_send_ends_at_its_time_whatever_its_progress() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let mut big = Buf::large();
        big.resize(64 << 20, 7);
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 100_000];
            while peer.read(&mut piece).is_ok_and(|bytes| bytes > 0) {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let sent = conn.send(big, Patience { stall_ms: 5_000, total_ms: 300 }).await;
        assert_eq!(sent.result.expect_err("cut off").kind(), ErrorKind::TimedOut);
        assert_eq!((stats().sends_too_slow, stats().sends_stalled), (1, 0));
        drop(conn);
        while !reader.is_finished() {
            sleep(5).await;
        }
        // The next operation in its place has time.
        let (conn, mut peer) = pair().await;
        let filling = conn.fill(Buf::small(), usize::MAX, 0);
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            peer.write_all(b"late").expect("write");
            peer
        });
        assert_eq!(&**filling.await.expect("bytes"), b"late");
        drop(late.join());
    });
    assert_eq!(left, Outstanding::default());
}

/// The kernel asks for more only when a third of its buffer is gone: at this pace, less often than the stall time.
#[test]
fn a_steady_reader_does_not_stall_a_send() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let mut big = Buf::large();
        big.resize(12 << 20, 7);
        let reader = std::thread::spawn(move || {
            let (mut piece, mut all) = (vec![0; 16 << 10], 0);
            while let Ok(bytes @ 1..) = peer.read(&mut piece) {
                all += bytes;
                // Steady at first, and then as fast as can be.
                if all < 3 << 20 {
                    std::thread::sleep(Duration::from_millis(30));
                }
            }
            all
        });
        // Long enough for a reader that a busy host holds up.
        conn.send(big, 600).await.result.expect("all of it");
        drop(conn);
        while !reader.is_finished() {
            sleep(5).await;
        }
        assert_eq!(reader.join().expect("the reader"), 12 << 20);
    });
    assert_eq!(left, Outstanding::default());
}
