//! Tests of the ring through the real kernel, and what they have in common.

mod buffers;
mod bytes;
mod closing;
mod connections;
mod dangers;
mod gathered;
mod handles;
mod handover;
mod leases;
mod operations;
mod sends;
mod wakers;
mod work;

use std::future::{Future, poll_fn};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::task::Poll;
use std::time::Duration;

use crate::*;

/// Says in one line on stderr what is not tested here and why, past the capture of the test harness.
#[track_caller]
pub(crate) fn skip(why: &str) {
    let caller = std::panic::Location::caller();
    let line = format!("SKIPPED {}:{}: {why}\n", caller.file(), caller.line());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

/// Some tests count what they allocate.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

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
    Runtime::new(settings).expect("a runtime").run(main, no_worker).expect("a ring")
}

pub(crate) async fn no_worker() {
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
