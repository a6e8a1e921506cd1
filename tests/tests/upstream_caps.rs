//! `limits.upstream_connections`: a server never has more connections, by the view of its own kernel; and who waits for how long then.

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sluice_tests::{
    assert_took,
    client::{self, Raw},
    cpus::{connect_from, two_cpus},
    http2::{
        Http2,
        frames::{self, code},
    },
    origin::{self, Go},
    proxy::{self, Proxy},
    within,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    task::{JoinHandle, JoinSet},
};

/// A server that knows how many connections its kernel had at once.
struct Counting {
    address: SocketAddr,
    most: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Counting {
    /// Serves each connection, whose number it gets; it should never have more than `cap`.
    async fn serving<F, S>(cap: usize, serve: F) -> Counting
    where
        F: Fn(usize, TcpStream) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (most, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted_most, counted) = (most.clone(), accepted.clone());
        let accepting = tokio::spawn(async move {
            let mut scripts = JoinSet::new();
            let served = Arc::new(Mutex::new(BTreeSet::new()));
            while let Ok((stream, peer)) = listener.accept().await {
                // Those before it that the kernel still has were there when this one came. It is asked where there may be one too
                // many only: that takes as long as the host has sockets.
                let older = served.lock().expect("not poisoned").clone();
                let is_suspect = older.len() >= cap;
                let older = if is_suspect { still_open(address.port(), &older) } else { older };
                counted_most.fetch_max(older.len() + 1, Ordering::Relaxed);
                let nth = counted.fetch_add(1, Ordering::Relaxed);
                served.lock().expect("not poisoned").insert(peer.port());
                let (script, served) = (serve(nth, stream), served.clone());
                scripts.spawn(async move {
                    let _ = script.await;
                    served.lock().expect("not poisoned").remove(&peer.port());
                });
                while scripts.try_join_next().is_some() {}
            }
        });
        Counting { address, most, accepted, accepting }
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Which ends of connections over loopback are open: established, or ended by the other side only.
fn still_open(local: u16, remotes: &BTreeSet<u16>) -> BTreeSet<u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's sockets");
    let ours = format!(": 0100007F:{local:04X} 0100007F:");
    let remote = |line: &str| {
        let (port, rest) = line.split_once(&ours)?.1.split_once(' ')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let is_open = rest.starts_with("01 ") || rest.starts_with("08 ");
        (is_open && remotes.contains(&port)).then_some(port)
    };
    table.lines().filter_map(remote).collect()
}

/// Answers requests that come whole, and closes or resets now and then.
async fn answer(mut stream: TcpStream, style: Style, nth: usize) -> io::Result<()> {
    let mut bytes = Vec::new();
    for request in 1.. {
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        bytes.clear();
        let is_last = match style {
            Style::Keeps => false,
            Style::Closes => true,
            Style::ClosesAtTimes => (nth + request).is_multiple_of(5),
            Style::Lingers => (nth + request).is_multiple_of(3),
        };
        let connection = if is_last && style != Style::ClosesAtTimes { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{connection}Content-Length: 2\r\n\r\nok");
        stream.write_all(answer.as_bytes()).await?;
        if is_last && style == Style::Lingers {
            // It takes its time to end a connection that the proxy has ended.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        if is_last {
            return Ok(());
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Keeps,
    Closes,
    /// Without a word.
    ClosesAtTimes,
    Lingers,
}

/// Two shards in front of a server, with these keys.
async fn two_shards(cpus: [usize; 2], server: &str, keys: &str) -> Proxy {
    let text = format!(
        "listen = [\"127.0.0.1:0\"]\ncpus = \"{},{}\"\n[[upstream]]\nname = \"app\"\nservers = [\"{server}\"]\n{keys}\n\
         [[route]]\nupstream = \"app\"\n",
        cpus[0], cpus[1]
    );
    let config = proxy::config_file(".toml", &text);
    let mut command = Command::new(proxy::binary().await);
    command.arg("--config").arg(config.path());
    Proxy::spawn(command, Some(config)).await
}

/// One shard in front of a server, with these keys.
async fn one_shard(server: SocketAddr, keys: &str) -> Proxy {
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"http://{server}\"]\n{keys}\n[[route]]\nupstream = \"app\"\nupgrade = [\"echo\"]\n"
    );
    Proxy::configured(1, &tables).await
}

/// Clients of both shards.
fn clients(proxy: &Proxy, cpus: [usize; 2], each: usize) -> Vec<Raw> {
    let streams = cpus.into_iter().flat_map(|cpu| connect_from(cpu, proxy.address, each));
    let client = |stream: std::net::TcpStream| {
        stream.set_nonblocking(true).expect("a socket");
        Raw::over(TcpStream::from_std(stream).expect("a socket"))
    };
    streams.map(client).collect()
}

/// Each client has this many requests answered, one after the other; some go away in the middle of another one.
async fn churn(clients: Vec<Raw>, requests: usize) {
    let mut all = JoinSet::new();
    for (nth, mut client) in clients.into_iter().enumerate() {
        all.spawn(async move {
            for request in 0..requests {
                let answer = client.ask("GET", "/").await;
                assert_eq!((answer.status(), answer.text()), (200, "ok".into()), "{nth}: {request}");
            }
            if nth % 3 == 0 {
                client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
                client.reset();
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("all responses");
    }
}

/// Waits until nothing is under way.
async fn calm(proxy: &Proxy) -> proxy::Counters {
    proxy.counters_until("calm", |now| now.tasks_busy == 0 && now.named("upstream_waiting") == 0).await
}

const PATIENT: &str = "timeouts.upstream_queue = \"60s\"\ntimeouts.upstream_idle = \"1h\"";

#[tokio::test]
async fn two_shards_never_exceed_the_cap() {
    const CAP: usize = 3;
    let Some(cpus) = two_cpus() else { return };
    for style in [Style::Keeps, Style::Closes, Style::ClosesAtTimes, Style::Lingers] {
        let server = Counting::serving(CAP, move |nth, stream| answer(stream, style, nth)).await;
        let keys = format!("limits.upstream_connections = {CAP}\n{PATIENT}");
        let proxy = two_shards(cpus, &format!("http://{}", server.address), &keys).await;
        for _ in 0..2 {
            churn(clients(&proxy, cpus, 8), 12).await;
        }
        let counters = calm(&proxy).await;
        assert_eq!(server.most(), CAP, "{style:?}: {counters:?}");
        assert!(counters.named("upstream_queued") > 0, "{style:?}: {counters:?}");
        assert!(counters.upstream_connects as usize >= server.accepted(), "{style:?}: {counters:?}");
        proxy.drain().await.assert_clean();
    }
}

/// Streams of few connections, with as many requests under way as there are streams, and more.
#[tokio::test]
async fn shared_connections_never_exceed_the_cap() {
    const CAP: usize = 2;
    let Some(cpus) = two_cpus() else { return };
    let server = Counting::serving(CAP, |nth, stream| async move {
        let mut http = Http2::accept(stream, &[]).await?;
        let mut answered = 0;
        loop {
            if !http.more().await? {
                return Ok(());
            }
            let open: Vec<u32> = http.streams.range(answered + 1..).map(|(id, _)| *id).collect();
            for stream in open {
                http.try_send(origin::answer(stream, "ok")).await?;
                answered = stream;
            }
            if answered > 40 && nth % 2 == 0 {
                http.try_send(frames::go_away(answered, code::NO_ERROR)).await?;
                while http.more().await? {}
                return Ok(());
            }
        }
    })
    .await;
    let keys = format!("limits.upstream_connections = {CAP}\nlimits.upstream_streams = 3\n{PATIENT}");
    let proxy = two_shards(cpus, &format!("h2c://{}", server.address), &keys).await;
    for _ in 0..2 {
        churn(clients(&proxy, cpus, 12), 20).await;
    }
    let counters = calm(&proxy).await;
    assert_eq!(server.most(), CAP, "{counters:?}");
    proxy.drain().await.assert_clean();
}

/// A tunnel has its connection for as long as it is open, and gives its place back with it.
#[tokio::test]
async fn tunnels_are_connections() {
    let server = Counting::serving(2, |_, mut stream| async move {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        stream.write_all(origin::switching("echo").as_bytes()).await?;
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.map(drop)
    })
    .await;
    let keys = "limits.upstream_connections = 2\ntimeouts.upstream_queue = \"60s\"";
    let proxy = one_shard(server.address, keys).await;
    let open = || async {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await;
        client
    };
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let mut client = open().await;
        assert_eq!(client.head().await.status().expect("a status"), 101);
        tunnels.push(client);
    }
    let mut third = open().await;
    proxy.counters_until("it waits", |now| now.named("upstream_waiting") == 1).await;
    tunnels.remove(0).half_close().await;
    assert_eq!(third.head().await.status().expect("a status"), 101);
    assert_eq!((server.most(), server.accepted()), (2, 3));
    drop((tunnels, third));
    proxy.drain().await.assert_clean();
}

/// Requests of these paths wait, in this order.
async fn line_up(proxy: &Proxy, paths: &[&str]) -> Vec<Raw> {
    let mut all = Vec::new();
    let before = proxy.counters().await.named("upstream_waiting");
    for (path, nth) in paths.iter().zip(1..) {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        proxy.counters_until("it waits", |now| now.named("upstream_waiting") == before + nth).await;
        all.push(client);
    }
    all
}

/// A server that is busy with a request, and the client of it.
async fn busy(keys: &str) -> (Go, origin::Origin, Proxy, Raw) {
    let go = Go::new();
    let server = origin::answers_on_signal(go.clone()).await;
    let proxy = one_shard(server.address, &format!("limits.upstream_connections = 1\n{keys}")).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /first HTTP/1.1\r\nHost: test\r\n\r\n").await;
    server.recorder.wait_for("the first request", |all| !all.is_empty() && !all[0].bytes.is_empty()).await;
    (go, server, proxy, client)
}

#[tokio::test]
async fn first_come_first_served() {
    let (go, server, proxy, mut first) = busy(PATIENT).await;
    let mut clients = line_up(&proxy, &["/a", "/b", "/c", "/d"]).await;
    go.steps(1);
    assert_eq!(first.answer_to("GET").await.status(), 200);
    // One that comes now goes behind them.
    first.send("GET /e HTTP/1.1\r\nHost: test\r\n\r\n").await;
    proxy.counters_until("it waits", |now| now.named("upstream_waiting") == 4).await;
    for client in &mut clients {
        go.steps(1);
        assert_eq!(client.answer_to("GET").await.status(), 200);
    }
    go.steps(1);
    assert_eq!(first.answer_to("GET").await.status(), 200);
    let text = server.recorder.text();
    let order: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("GET ")).collect();
    let order: Vec<&str> = order.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(order, ["/first", "/a", "/b", "/c", "/d", "/e"]);
    let counters = calm(&proxy).await;
    assert_eq!((counters.named("upstream_queued"), counters.upstream_connects), (5, 1), "{counters:?}");
    drop((clients, first));
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_may() {
    let (go, _server, proxy, mut first) = busy("timeouts.upstream_queue = \"400ms\"").await;
    let begun = Instant::now();
    let mut late = line_up(&proxy, &["/late"]).await;
    let answer = late[0].answer_to("GET").await;
    assert_took(begun, Duration::from_millis(400), Duration::from_secs(3));
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    assert!(answer.text().contains("no server has become free in time"), "{}", answer.text());
    // Its connection goes on, and so does the queue.
    late[0].send("GET /again HTTP/1.1\r\nHost: test\r\n\r\n").await;
    proxy.counters_until("it waits", |now| now.named("upstream_waiting") == 1).await;
    go.steps(2);
    assert_eq!(first.answer_to("GET").await.status(), 200);
    assert_eq!(late[0].answer_to("GET").await.status(), 200);
    assert_eq!(calm(&proxy).await.named("upstream_queue_timeouts"), 1);
    drop((late, first));
    proxy.drain().await.assert_clean();
}

/// What waits for a full server costs the shard nothing while another one, which has room, is of no use.
#[tokio::test]
async fn a_server_that_is_down_beside_a_full_one_does_not_keep_a_shard_busy() {
    let go = Go::new();
    let server = origin::answers_on_signal(go.clone()).await;
    let dead = origin::refusing();
    let no_socket = tempfile::tempdir().expect("a folder");
    // One fails with a turn of the loop, the other one without.
    for down in [format!("http://{}", dead.address), format!("unix:{}/none", no_socket.path().display())] {
        let tables = format!(
            "[[upstream]]\nname = \"app\"\nservers = [\"http://{}\", \"{down}\"]\nlimits.upstream_connections = 1\n\
             timeouts.upstream_queue = \"400ms\"\nejection.failures = 1\n[[route]]\nupstream = \"app\"\n",
            server.address
        );
        let proxy = Proxy::configured(1, &tables).await;
        let mut first = Raw::connect(proxy.address).await;
        first.send("GET /first HTTP/1.1\r\nHost: test\r\n\r\n").await;
        server
            .recorder
            .wait_for("the first request", |all| all.iter().any(|one| !one.bytes.is_empty()))
            .await;
        for _ in 0..2 {
            let answer = client::get(proxy.address, "/late").await;
            assert!(answer.text().contains("no server has become free in time"), "{down}: {}", answer.text());
        }
        let mut patient = Raw::connect(proxy.address).await;
        patient.send("GET /next HTTP/1.1\r\nHost: test\r\n\r\n").await;
        go.steps(2);
        assert_eq!(first.answer_to("GET").await.status(), 200);
        assert_eq!(patient.answer_to("GET").await.status(), 200);
        let errors = proxy.counters().await.named("upstream_connect_errors");
        assert!(errors < 100, "{down}: {errors} attempts to connect");
        drop((first, patient));
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test]
async fn a_queue_has_an_end() {
    for (keys, waiting) in [
        ("limits.upstream_queue = 3\ntimeouts.upstream_queue = \"60s\"", &["/a", "/b", "/c"][..]),
        ("limits.upstream_queue = 0", &[]),
        ("timeouts.upstream_queue = \"0s\"", &[]),
    ] {
        let (go, server, proxy, mut first) = busy(keys).await;
        let mut clients = line_up(&proxy, waiting).await;
        let answer = client::get(proxy.address, "/too-many").await;
        assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")), "{keys}");
        assert!(answer.text().contains("too many requests wait"), "{}", answer.text());
        go.steps(1 + waiting.len());
        assert_eq!(first.answer_to("GET").await.status(), 200);
        for client in &mut clients {
            assert_eq!(client.answer_to("GET").await.status(), 200);
        }
        let counters = calm(&proxy).await;
        assert_eq!(counters.named("upstream_queue_overflows"), 1, "{keys}: {counters:?}");
        assert_eq!(server.recorder.connections(), 1);
        drop((clients, first));
        proxy.drain().await.assert_clean();
    }
}

/// One client with as many streams as it likes leaves room for others.
#[tokio::test]
async fn one_client_does_not_fill_the_queue() {
    let keys = "limits.upstream_queue = 32\ntimeouts.upstream_queue = \"60s\"";
    let (go, _server, proxy, mut first) = busy(keys).await;
    let mut greedy = Http2::connect(proxy.address).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(greedy.ask("GET", "/greedy", &[]).await);
    }
    let full =
        |now: &proxy::Counters| now.named("upstream_waiting") + now.named("upstream_queue_overflows") == 40;
    let counters = proxy.counters_until("all are in the queue or refused", full).await;
    assert_eq!(counters.named("upstream_waiting"), 16, "{counters:?}");
    let mut others = line_up(&proxy, &["/a", "/b", "/c", "/d"]).await;
    go.steps(1 + 16 + 4);
    assert_eq!(first.answer_to("GET").await.status(), 200);
    for other in &mut others {
        assert_eq!(other.answer_to("GET").await.status(), 200);
    }
    let mut refused = 0;
    for stream in streams {
        refused += usize::from(greedy.answer(stream).await.status() == 503);
    }
    assert_eq!(refused, 24);
    drop((greedy, others, first));
    proxy.drain().await.assert_clean();
}

/// Clients that leave take no turn from those behind them.
#[tokio::test]
async fn a_client_that_leaves_is_taken_out() {
    let (go, server, proxy, mut first) = busy(PATIENT).await;
    let mut leaving = line_up(&proxy, &["/leaves"]).await;
    let mut http2 = Http2::connect(proxy.address).await;
    let stream = http2.ask("GET", "/resets", &[]).await;
    proxy.counters_until("it waits", |now| now.named("upstream_waiting") == 2).await;
    let mut stays = line_up(&proxy, &["/stays"]).await;
    leaving.remove(0).reset();
    proxy.counters_until("it has left", |now| now.named("upstream_waiting") == 2).await;
    http2.send(frames::reset(stream, code::CANCEL)).await;
    let counters = proxy.counters_until("both have left", |now| now.named("upstream_waiting") == 1).await;
    assert_eq!(counters.named("upstream_queue_left"), 2, "{counters:?}");
    go.steps(2);
    assert_eq!(first.answer_to("GET").await.status(), 200);
    assert_eq!(stays[0].answer_to("GET").await.status(), 200);
    let text = server.recorder.text();
    assert!(!text.contains("/leaves") && !text.contains("/resets"), "{text}");
    assert_eq!(calm(&proxy).await.local_responses, 0);
    drop((http2, stays, first));
    proxy.drain().await.assert_clean();
}

/// A drain ends with those that wait.
#[tokio::test]
async fn those_that_wait_are_served_in_a_drain() {
    let (go, _server, proxy, mut first) = busy(PATIENT).await;
    let mut clients = line_up(&proxy, &["/a", "/b"]).await;
    proxy.signal(rustix::process::Signal::TERM);
    proxy.line("draining").await;
    go.steps(3);
    assert_eq!(first.answer_to("GET").await.status(), 200);
    for client in &mut clients {
        assert_eq!(client.answer_to("GET").await.status(), 200);
    }
    proxy.stopped().await.assert_clean();
}

/// The server has one connection, which a shard keeps idle: another shard has it closed, and gets its place.
#[tokio::test]
async fn an_idle_connection_of_one_shard_starves_no_other() {
    let Some(cpus) = two_cpus() else { return };
    for scheme in ["http", "h2c"] {
        let server = Counting::serving(1, move |nth, stream| async move {
            if scheme == "http" {
                return answer(stream, Style::Keeps, nth).await;
            }
            let mut http = Http2::accept(stream, &[]).await?;
            while http.more().await? {
                let open: Vec<u32> = http.streams.keys().copied().collect();
                for stream in open {
                    http.streams.remove(&stream);
                    http.try_send(origin::answer(stream, "ok")).await?;
                }
            }
            Ok(())
        })
        .await;
        let keys = format!("limits.upstream_connections = 1\n{PATIENT}");
        let proxy = two_shards(cpus, &format!("{scheme}://{}", server.address), &keys).await;
        let mut all = clients(&proxy, cpus, 1);
        for turn in 0..4 {
            for client in &mut all {
                assert_eq!(client.ask("GET", "/").await.status(), 200, "{scheme} {turn}");
            }
        }
        let counters = calm(&proxy).await;
        assert_eq!(server.most(), 1, "{scheme}: {counters:?}");
        assert!(counters.named("upstream_ceded") > 0, "{scheme}: {counters:?}");
        drop(all);
        proxy.drain().await.assert_clean();
    }
}

/// One shard keeps the only connection busy without a pause: requests of the other one have their turn.
#[tokio::test]
async fn a_busy_shard_starves_no_other() {
    let Some(cpus) = two_cpus() else { return };
    let server = Counting::serving(1, |nth, stream| answer(stream, Style::Keeps, nth)).await;
    let keys = format!("limits.upstream_connections = 1\n{PATIENT}");
    let proxy = two_shards(cpus, &format!("http://{}", server.address), &keys).await;
    let mut busy = JoinSet::new();
    for stream in connect_from(cpus[0], proxy.address, 6) {
        stream.set_nonblocking(true).expect("a socket");
        let mut client = Raw::over(TcpStream::from_std(stream).expect("a socket"));
        busy.spawn(async move {
            loop {
                assert_eq!(client.ask("GET", "/busy").await.status(), 200);
            }
        });
    }
    let quiet = connect_from(cpus[1], proxy.address, 1).remove(0);
    quiet.set_nonblocking(true).expect("a socket");
    let mut quiet = Raw::over(TcpStream::from_std(quiet).expect("a socket"));
    for nth in 0..20 {
        assert_eq!(quiet.ask("GET", "/quiet").await.status(), 200, "{nth}");
    }
    busy.shutdown().await;
    let counters = calm(&proxy).await;
    assert_eq!(server.most(), 1, "{counters:?}");
    assert_eq!(counters.named("upstream_queue_timeouts"), 0, "{counters:?}");
}

/// A server that hangs has its queue full; its neighbour on the same shard is served as ever.
#[tokio::test]
async fn a_stuck_server_holds_up_its_own_queue_only() {
    let stuck = origin::never_answers().await;
    let well = origin::answers(origin::ok("ok")).await;
    let tables = format!(
        "[[upstream]]\nname = \"stuck\"\nservers = [\"http://{}\"]\nlimits.upstream_connections = 2\nlimits.upstream_queue = 50\n{PATIENT}\n\
         [[upstream]]\nname = \"well\"\nservers = [\"http://{}\"]\nlimits.upstream_connections = 2\n{PATIENT}\n\
         [[route]]\npath = \"/stuck\"\nupstream = \"stuck\"\n[[route]]\nupstream = \"well\"\n",
        stuck.address, well.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET /stuck HTTP/1.1\r\nHost: test\r\n\r\n").await;
        waiting.push(client);
    }
    let full = |now: &proxy::Counters| {
        now.named("upstream_waiting") == 50 && now.named("upstream_queue_overflows") == 8
    };
    proxy.counters_until("its queue is full", full).await;
    churn(vec![Raw::connect(proxy.address).await, Raw::connect(proxy.address).await], 50).await;
    let counters = proxy.counters().await;
    assert!(full(&counters), "{counters:?}");
    assert_eq!(counters.named("buffers_held"), 0, "those that wait hold none: {counters:?}");
}

/// Below the cap nothing is closed, and above it hardly anything: connections are handed on, from request to request.
#[tokio::test]
async fn connections_are_used_again_at_and_below_the_cap() {
    let Some(cpus) = two_cpus() else { return };
    for (cap, each) in [(16, 4), (4, 8)] as [(usize, usize); 2] {
        let server = Counting::serving(cap, |nth, stream| answer(stream, Style::Keeps, nth)).await;
        let keys = format!("limits.upstream_connections = {cap}\n{PATIENT}");
        let proxy = two_shards(cpus, &format!("http://{}", server.address), &keys).await;
        let all = Arc::new(Mutex::new(clients(&proxy, cpus, each)));
        let taken = std::mem::take(&mut *all.lock().expect("not poisoned"));
        within("all requests", churn(taken, 250)).await;
        let counters = calm(&proxy).await;
        let (connects, reuses) = (counters.upstream_connects, counters.upstream_reuses);
        // At the cap, a host that is busy elsewhere lets one shard wait for long now and then.
        let least = if cap > 2 * each { 0.999 } else { 0.8 };
        let share = reuses as f64 / (reuses + connects) as f64;
        assert!(share >= least || connects <= cap as u64, "{share}: {connects} of {reuses} {counters:?}");
        assert!(server.most() <= cap, "{counters:?}");
    }
}

/// A server may have fewer connections than the others, or be the only one that is limited: requests go past it while it is full, and
/// wait where all are.
#[tokio::test]
async fn a_server_has_a_limit_of_its_own() {
    for (of_all, others) in [("limits.upstream_connections = 3\n", 3), ("", 10)] {
        let stuck = [origin::never_answers().await, origin::never_answers().await];
        let tables = format!(
            "[[upstream]]\nname = \"app\"\nservers = [\"http://{}\"]\n{of_all}{PATIENT}\n\
             [[upstream.server]]\nurl = \"http://{}\"\nconnections = 2\n[[route]]\nupstream = \"app\"\n",
            stuck[0].address, stuck[1].address
        );
        let proxy = Proxy::configured(1, &tables).await;
        let mut clients = Vec::new();
        for _ in 0..12 {
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
            clients.push(client);
        }
        let waiting = 12 - 2 - others as u64;
        let counters = proxy
            .counters_until("all are with a server or wait", |now| {
                now.upstream_connections + now.named("upstream_waiting") == 12
            })
            .await;
        assert_eq!(counters.named("upstream_waiting"), waiting, "{of_all}: {counters:?}");
        for (server, most) in stuck.iter().zip([others, 2]) {
            server.recorder.wait_for("all its requests", |all| all.len() == most).await;
        }
        assert_eq!(stuck.each_ref().map(|server| server.recorder.connections()), [others, 2], "{of_all}");
    }
}

/// The only limit of a group is that of one server: requests wait for it when it is the only one.
#[tokio::test]
async fn requests_wait_for_a_server_that_alone_is_limited() {
    let go = Go::new();
    let server = origin::answers_on_signal(go.clone()).await;
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nserver = [{{ url = \"http://{}\", connections = 1 }}]\n{PATIENT}\n\
         [[route]]\nupstream = \"app\"\n",
        server.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut first = Raw::connect(proxy.address).await;
    first.send("GET /first HTTP/1.1\r\nHost: test\r\n\r\n").await;
    server.recorder.wait_for("the first request", |all| !all.is_empty() && !all[0].bytes.is_empty()).await;
    let mut late = line_up(&proxy, &["/a", "/b"]).await;
    go.steps(3);
    for client in std::iter::once(&mut first).chain(&mut late) {
        assert_eq!(client.answer_to("GET").await.status(), 200);
    }
    assert_eq!(server.recorder.connections(), 1);
    drop((first, late));
    proxy.drain().await.assert_clean();
}
