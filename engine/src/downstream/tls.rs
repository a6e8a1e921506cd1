//! TLS at the beginning of a client's connection: its ClientHello, the handshake, and the session behind it.
//!
//! A connection in the middle of its handshake has no worker: what there is of its ClientHello waits as the beginning of a head
//! does, and later the handshake is the state that the connection is parked with. [`secure`] begins, [`resume`] goes on.

use std::any::Any;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sluice_proto::grpc::Call;
use sluice_proto::h1::ConnectionField;
use sluice_sys::{Buf, Conn, UNIX_PEER, now_ms, partial_bytes, stats};
use sluice_tls::certificates::PeerCertificate;
use sluice_tls::client_hello::{self, Parsed};
use sluice_tls::handshake::{Alpn, Established, FailureKind, HandshakeFailure, Progress, ServerHandshake};

use crate::answer::{Answer, ResponseFraming};
use crate::config::TlsMode;
use crate::connection::Accepted;
use crate::connection::link::Link;
use crate::connection::tls::{PeerDetails, Tls, waiting_bytes};
use crate::log;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::tls::listeners::{Handshaking, TlsListener, party_of};

/// A ClientHello in more pieces than this is dripped: any network delivers it in a few.
const HELLO_PIECES_MAX: u32 = 64;

/// So many steps of handshakes are taken in one turn of the loop: each takes a tenth of a millisecond or more, and connections that
/// are open already are not to wait for many of them.
const STEPS_PER_TURN: u32 = 4;

/// A fatal alert in clear text, before there are keys.
const FATAL_ALERT: [u8; 6] = [21, 3, 3, 0, 2, 2];

/// A handshake that waits for its client: the state that its connection is parked with.
struct Shaking {
    handshake: ServerHandshake,
    /// Received and not used yet: less than a record.
    rest: Vec<u8>,
    ja4: Option<Box<str>>,
    _counted: Handshaking,
}

/// The result of a step.
enum Stepped {
    More,
    Done,
    Failed,
}

/// Begins the handshake of a connection, or goes on reading its first message. Returns the connection when it can be served.
pub(super) async fn secure(
    shard: &Rc<Shard>,
    mut accepted: Accepted,
    listener: &TlsListener,
) -> Option<Accepted> {
    let snapshot = shard.snapshot();
    if accepted.pieces == 0 {
        accepted.link.transport().set_deadline(snapshot.times.tls_handshake);
    }
    loop {
        match client_hello::parse(accepted.inbox.unread()) {
            Ok(Parsed::NotTls) if listener.mode == TlsMode::Detect => return Some(accepted),
            Ok(Parsed::Complete(hello, _)) => {
                let ja4 = snapshot.identity.forwards_ja4().then(|| hello.ja4().into());
                return begin(shard, &snapshot, accepted, listener, ja4).await;
            }
            Ok(Parsed::NotTls) => {
                shard.counters.tls_not_tls.increment();
                refuse_plain(shard, accepted.link.transport());
                accepted.linger().await;
                return None;
            }
            Err(alert) => {
                shard.counters.tls_handshakes_malformed.increment();
                let [kind, high, low, len_high, len_low, fatal] = FATAL_ALERT;
                send(accepted.link.transport(), &[kind, high, low, len_high, len_low, fatal, alert]);
                accepted.linger().await;
                return None;
            }
            Ok(Parsed::Partial) => {}
        }
        if accepted.inbox.take_ready(&accepted.link) {
            continue;
        }
        accepted = wait_for_hello(shard, &snapshot, accepted)?;
        match accepted.inbox.receive(&accepted.link).await {
            Ok(true) => {}
            // A connection that was opened and closed again has asked for nothing.
            _ if accepted.inbox.is_empty() => return None,
            _ => {
                note_unfinished(shard, accepted.link.transport());
                return None;
            }
        }
    }
}

/// Parks a connection in the middle of its ClientHello; hands it back when there is more to read, or its time is over.
fn wait_for_hello(shard: &Shard, snapshot: &Snapshot, mut accepted: Accepted) -> Option<Accepted> {
    let conn = accepted.link.transport();
    if !conn.is_quiet() || conn.is_late() {
        return Some(accepted);
    }
    accepted.pieces += 1;
    let bytes = partial_bytes() + waiting_bytes() + accepted.inbox.unread().len();
    if accepted.pieces > HELLO_PIECES_MAX || bytes > snapshot.limits.partial_heads_bytes {
        shard.counters.tls_handshakes_refused.increment();
        return None;
    }
    accepted.park_partial()
}

/// Says in clear text that this port is for TLS.
fn refuse_plain(shard: &Shard, conn: &Conn) {
    let mut out = Buf::small();
    let framing = ResponseFraming {
        connection: ConnectionField::Close,
        is_head_only: false,
        call: Call::None,
        hsts: None,
        page: None,
        edits: None,
    };
    shard.clock.with_date(now_ms(), |date| Answer::NOT_TLS.write(&mut out, date, &framing));
    conn.send(out, crate::connection::LINGER_MS).detach();
}

fn send(conn: &Conn, bytes: &[u8]) {
    let mut out = Buf::tiny(bytes.len());
    out.extend_from_slice(bytes);
    conn.send(out, crate::connection::LINGER_MS).detach();
}

/// Begins the handshake behind a complete ClientHello.
async fn begin(
    shard: &Rc<Shard>,
    snapshot: &Snapshot,
    accepted: Accepted,
    listener: &TlsListener,
    ja4: Option<Box<str>>,
) -> Option<Accepted> {
    let conn = accepted.link.into_transport();
    let address_max = snapshot.limits.tls_handshakes_per_address;
    let address = (address_max > 0).then(|| conn.peer().ok()).flatten();
    // Peers on Unix sockets have no address to count them by.
    let address = address.filter(|peer| *peer != UNIX_PEER).map(|peer| (party_of(peer.ip()), address_max));
    let limit = snapshot.limits.tls_handshakes;
    let Some(counted) = shard.tls.handshakes.begin(limit, address) else {
        shard.counters.tls_handshakes_refused.increment();
        return None;
    };
    shard.counters.tls_handshakes.increment();
    let config = listener.config();
    let handshake = match conn.local() {
        Ok(local) => ServerHandshake::at(&config, local.ip()),
        Err(_) => return None,
    };
    let rest = accepted.inbox.unread().to_vec();
    let shaking = Box::new(Shaking { handshake, rest, ja4, _counted: counted });
    go_on(shard, snapshot, conn, shaking).await
}

/// Goes on with a handshake whose connection was parked.
pub(super) async fn resume(shard: &Rc<Shard>, conn: Conn, state: Box<dyn Any>) -> Option<Accepted> {
    let snapshot = shard.snapshot();
    let shaking = state.downcast().expect("a handshake is the only other state of a connection");
    go_on(shard, &snapshot, conn, shaking).await
}

/// Takes steps until the handshake is complete or waits for its client.
async fn go_on(
    shard: &Rc<Shard>,
    snapshot: &Snapshot,
    mut conn: Conn,
    mut shaking: Box<Shaking>,
) -> Option<Accepted> {
    loop {
        while let Some(lease) = conn.receive_ready() {
            shaking.rest.extend_from_slice(&lease);
        }
        wait_for_turn(shard).await;
        match step(shard, &conn, &mut shaking) {
            Stepped::More => {}
            Stepped::Done => return finish(shard, snapshot, conn, *shaking),
            Stepped::Failed => {
                Accepted::new(Link::Plain(conn), None, snapshot.limits.connection_age).linger().await;
                return None;
            }
        }
        if conn.is_late() {
            shard.counters.tls_handshakes_late.increment();
            return None;
        }
        let left_ms = conn.deadline_in_ms();
        let state;
        (conn, state) = conn.park_with_state(shaking, left_ms).err()?;
        shaking = state.downcast().expect("it was put there");
        match conn.receive().await {
            Ok(Some(lease)) => shaking.rest.extend_from_slice(&lease),
            _ => {
                note_unfinished(shard, &conn);
                return None;
            }
        }
    }
}

/// The client has left, or has taken too long.
fn note_unfinished(shard: &Shard, conn: &Conn) {
    let counters = &shard.counters;
    let counter =
        if conn.is_late() { &counters.tls_handshakes_late } else { &counters.tls_handshakes_unfinished };
    counter.increment();
}

/// Waits until few handshakes have been at work in this turn of the loop.
async fn wait_for_turn(shard: &Shard) {
    poll_fn(|context| {
        if shard.tls.handshakes.may_step(stats().loop_iterations, STEPS_PER_TURN) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn step(shard: &Shard, conn: &Conn, shaking: &mut Shaking) -> Stepped {
    let mut out = Buf::small();
    let (used, result) = shaking.handshake.advance(&shaking.rest, &mut out);
    shaking.rest.drain(..used);
    if !out.is_empty() {
        // A client that does not take it in time has no time left for the handshake either.
        conn.send(out, conn.deadline_in_ms().max(1)).detach();
    }
    match result {
        Ok(Progress::More) => Stepped::More,
        Ok(Progress::Done) => Stepped::Done,
        Err(failure) => {
            note_failure(shard, conn, &failure);
            Stepped::Failed
        }
    }
}

fn note_failure(shard: &Shard, conn: &Conn, failure: &HandshakeFailure) {
    let counters = &shard.counters;
    let counter = match failure.kind {
        FailureKind::Protocol => &counters.tls_handshakes_malformed,
        FailureKind::NothingInCommon | FailureKind::UnknownName => &counters.tls_handshakes_unmatched,
        FailureKind::Certificate => &counters.tls_client_certificates_refused,
        FailureKind::Late => &counters.tls_handshakes_late,
        FailureKind::Alert(_) => &counters.tls_handshakes_rejected,
    };
    counter.increment();
    log::debug(format_args!(
        "TLS handshake with {}: {}",
        conn.peer().map_or_else(|_| "a client".to_owned(), |peer| peer.to_string()),
        failure.reason
    ));
}

/// The connection behind its handshake. Parks it if its first request has not come with the end of the handshake.
fn finish(shard: &Shard, snapshot: &Snapshot, conn: Conn, shaking: Shaking) -> Option<Accepted> {
    let Shaking { handshake, rest, ja4, .. } = shaking;
    let established = match handshake.finish() {
        Ok(established) => established,
        Err(failure) => {
            note_failure(shard, &conn, &failure);
            return None;
        }
    };
    if established.is_resumed {
        shard.counters.tls_resumptions.increment();
    }
    if established.alpn == Some(Alpn::AcmeChallenge) {
        return None;
    }
    let peer = PeerDetails { certificate: certificate_of(&established), ja4 };
    let name = established.server_name.as_deref();
    let asked = name.and_then(|name| Some(shard.tls.of(conn.listener())?.asked(name)));
    // From here on the client has the time of a new connection for its first request.
    conn.set_deadline(snapshot.times.request_head);
    let tls = Tls::new(conn, established, asked, peer, &rest);
    let accepted = Accepted::secure(tls, snapshot.limits.connection_age);
    if rest.is_empty() { accepted.park(snapshot.times.request_head) } else { Some(accepted) }
}

/// What servers and routes may ask about the client's certificate.
fn certificate_of(established: &Established) -> Option<PeerCertificate> {
    let certificate = established.peer_certificates.first()?;
    // One that was accepted can be read.
    PeerCertificate::of(certificate).ok()
}
