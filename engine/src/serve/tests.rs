//! A worker's size, and changes of the snapshot while requests are under way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use sluice_sys::{Runtime, Settings, spawn};
use sluice_tls::tickets::TicketKeys;

use super::*;
use crate::budget::Budget;
use crate::config::Config;
use crate::route::RouteTable;
use crate::snapshot::Snapshot;
use crate::tls::files::TlsFiles;
use crate::tls::listeners::TlsListeners;
use crate::tls::servers::TlsUpstreams;
use crate::upstream::board::ServerBoard;
use crate::upstream::members::{GroupMembers, Member, Membership};
use crate::upstream::stock::Descriptors;

/// A worker is held as long as its request is in flight: a thousand of them should stay in a core's L2 cache.
#[test]
fn a_worker_is_small() {
    fn size_of_worker<F>(_: impl FnOnce(&Rc<Shard>) -> F) -> usize {
        size_of::<F>()
    }
    let bytes = size_of_worker(worker);
    assert!(bytes <= 2_760, "{bytes}");
}

const BUDGET: Budget = Budget { receive_buffers: 256, partial_heads_bytes: 1 << 20, connections: 100 };

/// A server that answers `name` on kept connections, and for `/slow` waits until it may go on.
struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    slow: Arc<AtomicUsize>,
    may_go_on: Arc<AtomicBool>,
}

impl Origin {
    fn start(name: &'static str) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = Origin {
            address: listener.local_addr().expect("an address"),
            connections: Arc::default(),
            slow: Arc::default(),
            may_go_on: Arc::default(),
        };
        let (connections, slow, may_go_on) =
            (origin.connections.clone(), origin.slow.clone(), origin.may_go_on.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, SeqCst);
                let (slow, may_go_on) = (slow.clone(), may_go_on.clone());
                thread::spawn(move || answer_all(stream, name, &slow, &may_go_on));
            }
        });
        origin
    }

    fn config(&self, request_timeout: &str) -> Config {
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\n[timeouts]\nrequest = \"{request_timeout}\"\n[[upstream]]\nname = \"app\"\n\
             servers = [\"http://{}\"]\n[[route]]\nupstream = \"app\"\n",
            self.address
        );
        let name = format!("sluice-switch-{}-{}.toml", std::process::id(), self.address.port());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a file");
        let config = crate::config::check_file(Path::new(&path)).expect("a configuration");
        let _ = std::fs::remove_file(path);
        config
    }
}

fn answer_all(mut stream: TcpStream, name: &str, slow: &AtomicUsize, may_go_on: &AtomicBool) {
    while let Some(head) = read_head(&mut stream) {
        if head.starts_with("GET /slow") {
            slow.fetch_add(1, SeqCst);
            while !may_go_on.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// One request on a kept connection; the body of the answer, which has one byte.
fn ask(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").expect("a connection");
    let head = read_head(stream).expect("a response");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let mut body = [0];
    stream.read_exact(&mut body).expect("a body");
    String::from_utf8(body.to_vec()).expect("a name")
}

/// A shard on a thread of its own. `script` runs beside it, and the shard ends with it.
fn with_shard<F: Future<Output = ()> + 'static>(
    config: &Config,
    server: SocketAddr,
    clients: impl FnOnce(SocketAddr) + Send + 'static,
    script: impl FnOnce(Rc<Shard>) -> F + Send + 'static,
) {
    let runtime = Runtime::new(&Settings { buffers: 256, sockets_expected: 1_024, ..Settings::default() });
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(lacking) => return eprintln!("skipped: {lacking}"),
    };
    let listener = BoundListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 64).expect("a port");
    let address = listener.local().expect("an address");
    let routes = Arc::new(RouteTable::build(config));
    let descriptors = Descriptors { all: 500, for_servers: 100 };
    let tickets = Arc::new(TicketKeys::generate(0).expect("random numbers"));
    let files = TlsFiles::load(config, &tickets).expect("no files are named");
    let listeners = TlsListeners::new(&files).expect("no listener has TLS");
    let tls = (listeners, TlsUpstreams::default());
    let shard = Rc::new(Shard::new(
        config,
        (&Arc::new(Membership::new(members(config, server))), &Arc::new(ServerBoard::new(1)), 0),
        routes,
        &BUDGET,
        descriptors,
        Arc::default(),
        tls,
    ));
    let clients = thread::spawn(move || clients(address));
    let own = shard.clone();
    let main = async move {
        spawn(run(own.clone(), vec![listener], None));
        script(own).await;
        while !clients.is_finished() {
            sleep(1).await;
        }
        clients.join().expect("clients are content");
    };
    runtime.run(main, || worker(&shard)).expect("the ring goes on");
}

/// The one server of the configuration, at this address.
fn members(config: &Config, address: SocketAddr) -> Vec<GroupMembers> {
    let server = config.upstreams[0].servers[0].clone();
    vec![[Member { server, addresses: vec![address.into()] }].into()]
}

fn snapshot_of(shard: &Shard, config: &Config, server: SocketAddr) -> Snapshot {
    let routes = Arc::new(RouteTable::build(config));
    Snapshot::new(config, &members(config, server), routes, &BUDGET, &shard.servers, &TlsUpstreams::default())
}

/// Requests under way end by the configuration that they began with; the next one on the same connection goes by the new one.
#[test]
fn a_request_goes_by_one_snapshot_and_the_next_by_the_newest() {
    let (old, new) = (Origin::start("A"), Origin::start("B"));
    let (slow, may_go_on) = (old.slow.clone(), old.may_go_on.clone());
    let is_switched = Arc::new(AtomicBool::new(false));
    let switched = is_switched.clone();
    let clients = move |address| {
        let mut kept = TcpStream::connect(address).expect("a connection");
        assert_eq!(ask(&mut kept, "/"), "A");
        let waiting = thread::spawn(move || {
            let mut waiting = TcpStream::connect(address).expect("a connection");
            [ask(&mut waiting, "/slow"), ask(&mut waiting, "/")]
        });
        while !is_switched.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(ask(&mut kept, "/"), "B");
        may_go_on.store(true, SeqCst);
        assert_eq!(waiting.join().expect("both answers"), ["A", "B"]);
    };
    let (first, second) = (old.config("60s"), new.config("60s"));
    with_shard(&first, old.address, clients, move |shard| async move {
        while slow.load(SeqCst) == 0 {
            sleep(1).await;
        }
        shard.switch_to(snapshot_of(&shard, &second, new.address));
        switched.store(true, SeqCst);
        // The server of the old configuration is forgotten when its last exchange is over.
        let count = || {
            shard.servers.forget_unused();
            let mut servers = 0;
            shard.servers.for_each(|_| servers += 1);
            servers
        };
        while count() > 1 {
            sleep(1).await;
        }
    });
}

/// Under load, and time and again: no request is lost, and connections to a server that stays are kept.
#[test]
fn snapshots_change_under_load() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 200;
    let origin = Origin::start("A");
    let connections = origin.connections.clone();
    let is_done = Arc::new(AtomicBool::new(false));
    let done = is_done.clone();
    let clients = move |address| {
        let client = move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            (0..REQUESTS).for_each(|_| assert_eq!(ask(&mut stream, "/"), "A"));
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(client)).collect();
        clients.into_iter().for_each(|client| client.join().expect("every answer"));
        done.store(true, SeqCst);
    };
    let configs = [origin.config("60s"), origin.config("30s")];
    let address = origin.address;
    with_shard(&configs[0].clone(), address, clients, move |shard| async move {
        let mut switches = 0;
        while !is_done.load(SeqCst) {
            switches += 1;
            shard.switch_to(snapshot_of(&shard, &configs[switches % 2], address));
            sleep(1).await;
        }
        assert!(switches > 10, "{switches}");
    });
    assert!(connections.load(SeqCst) <= CLIENTS, "{}", connections.load(SeqCst));
}
