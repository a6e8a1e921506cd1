//! Connections that go from shard to shard: no byte lost, repeated or out of order, whatever happens meanwhile.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{LOOPBACK, small};
use crate::*;

/// Two shards on threads of their own, the first of which listens.
struct Two {
    address: SocketAddr,
    /// Connections given away so far, by both.
    handed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Connections refused for the limit, by each.
    refused: [Arc<AtomicU64>; 2],
    /// Connections by their peer's address.
    peers: Arc<PeerCounts>,
    board: Arc<LoadBoard>,
    shards: Vec<JoinHandle<Outstanding>>,
}

/// What a worker does before it parks a connection.
type BeforePark = fn(&Conn, usize);

impl Two {
    fn start(before_park: BeforePark, near: bool) -> Two {
        Two::limited(before_park, near, u32::MAX)
    }

    /// The same with a limit on the connections of both together.
    fn limited(before_park: BeforePark, near: bool, connections_max: u32) -> Two {
        // Both ends of hundreds of connections are in this process.
        raise_descriptor_limit().expect("a limit");
        let bound = BoundListener::bind(LOOPBACK, 256).expect("bind");
        let address = bound.local().expect("address");
        let (handed, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (board, all_there) = (Arc::new(LoadBoard::new(2)), Arc::new(Barrier::new(2)));
        let (mut senders, mut receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| channel::<Doorbell>()).unzip();
        senders.reverse();
        let mut bound = Some(bound);
        let (peers, limit) = (PeerCounts::new(2), ConnectionLimit::new(2, connections_max));
        let shown = board.clone();
        let refused: [Arc<AtomicU64>; 2] = Default::default();
        let shards = (0..2)
            .map(|me| {
                let (board, handed, stop, all_there) =
                    (board.clone(), handed.clone(), stop.clone(), all_there.clone());
                let (tell, hear) = (senders.pop().expect("one each"), receivers.pop().expect("one each"));
                let listener = bound.take();
                let (share, refused) = (peers.share(me), refused[me].clone());
                // The first keeps places for a while that its connections have left.
                let places = limit.share(me).in_steps_of([4, 1][me]);
                let shard = move || {
                    let runtime = Runtime::new(&small()).expect("a runtime");
                    runtime.limit_connections(places);
                    runtime.count_peers(share, PeerBounds::NONE);
                    meet(me, board, &tell, &hear, near);
                    all_there.wait();
                    let main = async move {
                        let _listener = listener.map(|bound| Listener::start(bound, 3));
                        let mut known = 0;
                        while !stop.load(Relaxed) {
                            sleep(32).await;
                            let out = stats().connections_migrated_out;
                            handed.fetch_add(out - known, Relaxed);
                            known = out;
                            refused.store(stats().accept_refused, Relaxed);
                        }
                        // What is on its way still arrives, and is then closed.
                        sleep(200).await;
                        close_idle();
                    };
                    runtime.run(main, move || echo(me, before_park)).expect("a ring")
                };
                thread::Builder::new().name(format!("two-{me}")).spawn(shard).expect("a thread")
            })
            .collect();
        Two { address, handed, stop, refused, peers, board: shown, shards }
    }

    fn end(self) {
        self.stop.store(true, Relaxed);
        let share = self.peers.share(0);
        for shard in self.shards {
            assert_eq!(shard.join().expect("no panic"), Outstanding::default());
        }
        assert_eq!(share.total(self.address.ip()), 0, "every connection was counted where it was");
    }
}

/// Tells the other shard of this one's doorbell, hears of its, and joins.
fn meet(me: usize, board: Arc<LoadBoard>, tell: &Sender<Doorbell>, hear: &Receiver<Doorbell>, near: bool) {
    let mine = Doorbell::of_this_thread().expect("a doorbell");
    tell.send(mine.clone()).expect("the other one hears");
    let other = hear.recv().expect("the other one tells");
    let doorbells = if me == 0 { vec![mine, other] } else { vec![other, mine] };
    join_shard_set(me, board, doorbells, if near { vec![vec![1 - me]] } else { Vec::new() });
}

/// The session of every other connection: whose it is, and how often it was parked.
struct Session {
    port: u16,
    times: u32,
}

/// A worker that sends everything back. Sessions come back with the connections that were parked with them, on whatever shard.
async fn echo(me: usize, before_park: BeforePark) {
    loop {
        let (mut conn, mut session) = match next_work().await {
            Work::Connection(conn, None) => (conn, None),
            Work::Session(conn, state) => {
                let session = state.downcast::<Session>().expect("a session");
                let port = conn.peer().expect("a peer").port();
                assert_eq!((session.port, session.times), (port, conn.owner_data().0));
                (conn, Some(session))
            }
            other => panic!("{other:?}"),
        };
        if conn.is_late() {
            continue;
        }
        loop {
            match conn.receive().await {
                Ok(Some(lease)) => conn.send_lease(lease, 5_000).detach(),
                Ok(None) | Err(_) => break conn.flushed().await,
            }
            if !conn.is_quiet() {
                continue;
            }
            before_park(&conn, me);
            match park(conn, session.take()) {
                Ok(()) => break,
                Err(back) => (conn, session) = back,
            }
        }
    }
}

fn park(conn: Conn, session: Option<Box<Session>>) -> Result<(), (Conn, Option<Box<Session>>)> {
    let port = conn.peer().expect("a peer").port();
    let session = session.or_else(|| port.is_multiple_of(2).then(|| Box::new(Session { port, times: 0 })));
    let Some(mut session) = session else { return conn.park(20_000).map_err(|conn| (conn, None)) };
    session.times += 1;
    conn.set_owner_data(session.times, 0);
    let parked = conn.park_session(session, 20_000);
    parked.map_err(|(conn, state)| {
        let state: Box<dyn std::any::Any> = state;
        (conn, state.downcast().ok())
    })
}

fn go_to_the_other(conn: &Conn, me: usize) {
    hand_over(conn.id(), 1 - me);
}

fn leave_the_first(conn: &Conn, me: usize) {
    if me == 0 {
        go_to_the_other(conn, me);
    }
}

fn stay(_: &Conn, _: usize) {}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("connect");
    client.set_nodelay(true).expect("no delay");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    client
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

/// Sends bytes that count on and on, in pieces, now and then without waiting for the last ones to come back; every byte that
/// comes back must be the next.
fn count_on(address: SocketAddr, mut seed: u64, until: &dyn Fn() -> bool) -> u64 {
    let mut client = connect(address);
    let (mut sent, mut got) = (0_u64, 0_u64);
    let byte = |at: u64| (at ^ (at >> 8)) as u8;
    let mut bytes = [0; 4096];
    while !until() {
        for _ in 0..=random(&mut seed, 3) {
            let length = 1 + random(&mut seed, 300) as usize;
            let piece: Vec<u8> = (sent..).take(length).map(byte).collect();
            client.write_all(&piece).expect("write");
            sent += length as u64;
        }
        // Mostly all of it is awaited, else some is under way when the next is sent.
        let behind = if random(&mut seed, 4) == 0 { 200 } else { 0 };
        while got + behind < sent {
            let read = client.read(&mut bytes).expect("read");
            assert!(read > 0, "closed after {got} of {sent} bytes");
            for &arrived in &bytes[..read] {
                assert_eq!(arrived, byte(got), "byte {got}");
                got += 1;
            }
        }
    }
    client.shutdown(Shutdown::Write).expect("shutdown");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the rest");
    assert!(rest.iter().zip(got..).all(|(&arrived, at)| arrived == byte(at)));
    assert_eq!(got + rest.len() as u64, sent);
    sent
}

#[test]
fn a_hundred_thousand_handovers_keep_every_byte() {
    let two = Two::start(go_to_the_other, false);
    let (address, handed) = (two.address, two.handed.clone());
    let started = Instant::now();
    let clients: Vec<_> = (1..=16)
        .map(|number| {
            let handed = handed.clone();
            let until = move || handed.load(Relaxed) >= 100_000;
            thread::spawn(move || count_on(address, 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number), &until))
        })
        .collect();
    let bytes: u64 = clients.into_iter().map(|client| client.join().expect("every byte in order")).sum();
    let handed = two.handed.load(Relaxed);
    assert!(two.peers.share(0).total(address.ip()) <= 16);
    two.end();
    assert!(handed >= 100_000, "{handed}");
    println!("{handed} handovers, {bytes} bytes, {:?}", started.elapsed());
}

/// Nanoseconds that the shards of a [`Two`] were on a CPU.
fn shards_cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
    let of_shard = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        name.starts_with("two-").then(|| times.split(' ').next()?.parse::<u64>().ok())?
    };
    tasks.filter_map(of_shard).sum()
}

/// The figure of reports/lending-2026-11-20.md: `cargo test --release -p sluice-sys costs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_handover_costs() {
    const CLIENTS: usize = 64;
    const ECHOES: usize = 400;
    let cost = |before_park: BeforePark| {
        let two = Two::start(before_park, false);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(two.address)).collect();
        let before = shards_cpu_ns();
        for _ in 0..ECHOES {
            clients.iter_mut().for_each(|client| client.write_all(b"x").expect("write"));
            clients.iter_mut().for_each(|client| client.read_exact(&mut [0]).expect("echo"));
        }
        let spent = shards_cpu_ns() - before;
        thread::sleep(Duration::from_millis(100));
        let handed = two.handed.load(Relaxed);
        drop(clients);
        two.end();
        (spent as f64 / (CLIENTS * ECHOES) as f64 / 1e3, handed as f64 / (CLIENTS * ECHOES) as f64)
    };
    for round in 0..9 {
        let ((stays, none), (goes, handed)) = (cost(stay), cost(go_to_the_other));
        assert!(none == 0.0 && handed > 0.5, "{handed}");
        let each = (goes - stays) / handed;
        println!(
            "round {round}: an echo {stays:.2} us, with {handed:.2} handovers {goes:.2} us: {each:.2} us each"
        );
    }
}

/// A hundred connections, every one of which was answered.
fn a_hundred_clients(address: SocketAddr) -> Vec<TcpStream> {
    let mut clients: Vec<_> = (0..100).map(|_| connect(address)).collect();
    for (client, number) in clients.iter_mut().zip(0_u8..) {
        client.write_all(&[number]).expect("write");
    }
    for (client, number) in clients.iter_mut().zip(0_u8..) {
        let mut echoed = [255];
        client.read_exact(&mut echoed).expect("echo");
        assert_eq!(echoed, [number]);
    }
    clients
}

#[test]
fn accepted_connections_go_where_there_are_fewer() {
    let two = Two::start(stay, true);
    two.board.set_work(0, 400);
    let _clients = a_hundred_clients(two.address);
    let handed = || two.handed.load(Relaxed);
    let until = Instant::now() + Duration::from_secs(60);
    while handed() < 30 && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    assert!((30..=50).contains(&handed()), "{}", handed());
    two.end();
}

#[test]
fn accepted_connections_go_only_where_there_is_less_to_do() {
    let two = Two::start(stay, true);
    let mut clients = Vec::new();
    for (mine, theirs) in [(0, 0), (10, 0), (400, 600), (400, 400), (400, 330)] {
        two.board.set_work(0, mine);
        two.board.set_work(1, theirs);
        clients.push(a_hundred_clients(two.address));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(two.handed.load(Relaxed), 0, "{mine} here, {theirs} there");
    }
    two.board.set_work(1, 300);
    let _more = a_hundred_clients(two.address);
    let until = Instant::now() + Duration::from_secs(60);
    while two.handed.load(Relaxed) < 30 && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(two.handed.load(Relaxed) >= 30);
    two.end();
}

/// Sends a byte and says whether it came back.
fn is_echoed(client: &mut TcpStream) -> bool {
    let mut echoed = [0];
    client.write_all(b"x").is_ok() && client.read(&mut echoed).is_ok_and(|read| read == 1)
}

/// One that is served keeps its place on the way, and one that ends gives its place back where it is by then.
#[test]
fn connections_that_move_keep_within_the_limit_of_both_shards() {
    let two = Two::limited(leave_the_first, false, 8);
    let mut clients: Vec<_> = (0..8).map(|_| connect(two.address)).collect();
    assert!(clients.iter_mut().all(is_echoed));
    let refused = || [0, 1].map(|shard: usize| two.refused[shard].load(Relaxed));
    let wait = |is_so: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_so() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    };
    wait(&|| two.board.connections(1) == 8);
    assert_eq!((two.board.connections(0), two.board.connections(1)), (0, 8), "all moved");
    assert!(clients.iter_mut().all(is_echoed));
    assert_eq!(refused(), [0, 0]);
    assert!(!is_echoed(&mut connect(two.address)), "one too many, although its shard has none");
    wait(&|| refused() != [0, 0]);
    assert_eq!(refused(), [1, 0]);
    clients.pop();
    wait(&|| two.board.connections(1) == 7);
    clients.push(connect(two.address));
    assert!(clients.iter_mut().all(is_echoed));
    drop(clients);
    two.end();
}

/// What a proxy in front could have announced: source and destination.
const ANNOUNCED: (SocketAddr, SocketAddr) = (
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 2),
);

/// A connection's notes, listener and peer.
type Seen = (u32, u8, u8, SocketAddr);

#[test]
fn a_connection_that_cannot_be_given_away_comes_back_as_it_was() {
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let served = seen.clone();
    let main = async {
        let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
        let address = bound.local().expect("address");
        let _listener = Listener::start(bound, 5);
        let board = Arc::new(LoadBoard::new(2));
        let mine = Doorbell::of_this_thread().expect("a doorbell");
        join_shard_set(0, board.clone(), vec![mine, Doorbell::out_of_order()], Vec::new());
        let mut client = connect(address);
        for round in 1..=2_u8 {
            client.write_all(&[round]).expect("write");
            sleep(100).await;
            let mut echoed = [0];
            client.read_exact(&mut echoed).expect("echo");
            let counts = (
                stats().connections_migrated_out,
                stats().connections_migration_failed,
                stats().connections_migrated_in,
            );
            assert_eq!((echoed[0], counts), (round, (round.into(), round.into(), 0)));
            assert_eq!((connections_open(), board.connections(0)), (1, 1));
        }
        // Its deadline came back with it: idle for too long, it is closed.
        sleep(900).await;
        assert_eq!((stats().idle_expired, connections_open(), board.connections(0)), (1, 0, 0));
        assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    };
    let worker = move || {
        let served = served.clone();
        async move {
            loop {
                let conn = next_connection().await;
                let lease = conn.receive().await.expect("receive").expect("bytes");
                let (owner_word, owner_byte) = conn.owner_data();
                served.borrow_mut().push((
                    owner_word,
                    owner_byte,
                    conn.listener(),
                    conn.peer().expect("a peer"),
                ));
                conn.set_owner_data(owner_word + 70, owner_byte + 7);
                if owner_word == 0 {
                    conn.set_proxied(ANNOUNCED.0, ANNOUNCED.1);
                } else {
                    assert_eq!(conn.proxied(), Some(ANNOUNCED));
                }
                conn.send_lease(lease, 0).detach();
                hand_over(conn.id(), 1);
                conn.park(600).expect("nothing has come");
            }
        }
    };
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker).expect("a ring");
    assert_eq!(left, Outstanding::default());
    let seen = seen.borrow();
    assert!(seen[0].3.ip().is_loopback());
    assert_eq!(*seen, [(0, 0, 5, seen[0].3), (70, 7, 5, ANNOUNCED.0)]);
}

/// A worker that leaves the beginning of a message with its connection, and gives away what it has parked before.
#[test]
fn a_begun_message_stays_with_its_connection() {
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let served = seen.clone();
    let main = async {
        let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
        let address = bound.local().expect("address");
        let _listener = Listener::start(bound, 0);
        let mine = Doorbell::of_this_thread().expect("a doorbell");
        join_shard_set(0, Arc::new(LoadBoard::new(2)), vec![mine, Doorbell::out_of_order()], Vec::new());
        let mut clients = [connect(address), connect(address)];
        // Each gives the other away, and then itself.
        for piece in ["a half", " head", "."] {
            for client in &mut clients {
                client.write_all(piece.as_bytes()).expect("write");
                sleep(64).await;
            }
        }
        assert_eq!((stats().connections_migrated_out, connections_partial(), partial_bytes()), (0, 0, 0));
    };
    let worker = move || {
        let served = served.clone();
        async move {
            let mut known = Vec::new();
            loop {
                let (conn, kept) = next_partial_connection().await;
                let (mut received, pieces) =
                    kept.map_or((Vec::new(), 0), |kept| (kept.bytes.to_vec(), kept.pieces));
                while let Some(lease) = conn.receive_ready() {
                    received.extend_from_slice(&lease);
                }
                if received.ends_with(b".") {
                    served.borrow_mut().push(String::from_utf8_lossy(&received).into_owned());
                    continue;
                }
                known.push(conn.id());
                conn.park_with(&received, pieces + 1).expect("nothing more has come");
                known.iter().for_each(|&connection| hand_over(connection, 1));
            }
        }
    };
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker).expect("a ring");
    assert_eq!(left, Outstanding::default());
    assert_eq!(*seen.borrow(), ["a half head.", "a half head."]);
}
