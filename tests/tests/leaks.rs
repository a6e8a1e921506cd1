//! Ten seconds of everything on a thousand connections, and garbage on ten thousand, leave no connection, task, buffer or
//! descriptor.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use sluice_tests::{
    client::Raw,
    cpus::usable_cpus,
    many_connections,
    origin::{self, Origin},
    pattern,
    proxy::{Counters, Proxy},
    within_time,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const CONNECTIONS: usize = 1000;
const RUN: Duration = Duration::from_secs(10);

/// How long all of them together may take to end on a busy machine.
const ENDING: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_leave_nothing_behind() {
    // Both ends of both connections of each.
    let many = many_connections(CONNECTIONS, 3).await;
    let (real, bad) = (origin::real("real").await, origin::closes_mid_body(3000).await);
    let tunnels = origin::switches_and_echoes().await;
    let proxy = start(&real, &bad, &tunnels).await;
    let before = proxy.descriptors();

    let until = Instant::now() + RUN;
    let mut clients = JoinSet::new();
    for nth in 0..many.count {
        let address = proxy.address;
        clients.spawn(async move {
            let mut round = nth;
            // However slow this host is, each does several things.
            while Instant::now() < until || round < nth + 3 {
                Habit::ALL[round % Habit::ALL.len()].visit(address).await;
                round += 1;
            }
        });
    }
    within_time(RUN + ENDING, "the last client", clients.join_all()).await;

    let nothing = |now: &Counters| {
        (now.connections, now.upstream_connections, now.tasks_busy, now.buffers_held) == (0, 0, 0, 0)
            && now.named("tunnels") == 0
    };
    let after = proxy.counters_until("nothing is left", nothing).await;
    assert!(after.named("tunnels_opened") > 100, "{after:?}");
    assert!(after.requests > many.count as u64, "the run was not idle: {after:?}");
    assert_same_descriptors(&before, &proxy.descriptors(), &after);
    proxy.drain().await.assert_clean();
}

/// Nothing more than before but the pipes that a shard keeps for later, and says so.
fn assert_same_descriptors(before: &[String], after: &[String], counters: &Counters) {
    let (sockets_before, others_before) = kinds(before);
    let (sockets_after, others_after) = kinds(after);
    assert_eq!(sockets_after, sockets_before, "sockets left behind: {after:#?}");
    let kept = 2 * counters.pipes_kept as usize;
    assert_eq!(others_after, others_before + kept, "descriptors left behind: {after:#?}; {counters:?}");
}

/// How many descriptors are sockets, and how many are not.
fn kinds(descriptors: &[String]) -> (usize, usize) {
    let sockets = descriptors.iter().filter(|link| link.starts_with("socket:")).count();
    (sockets, descriptors.len() - sockets)
}

/// Two shards in front of a good origin, under `/bad` of one that cuts every body, and under `/tunnel` of one that leaves HTTP.
async fn start(real: &origin::Real, bad: &Origin, tunnels: &Origin) -> Proxy {
    Proxy::configured(
        usable_cpus().len().min(2),
        &format!(
            "[timeouts]\nupstream_idle = \"1s\"\nrequest_head = \"2s\"\nbody_idle = \"2s\"\n\
         [[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
         [[upstream]]\nname = \"bad\"\nservers = [\"http://{}\"]\n\
         [[route]]\npath_prefix = \"/\"\nupstream = \"real\"\nupgrade = [\"own\"]\n\
         [[upstream]]\nname = \"tunnels\"\nservers = [\"http://{}\"]\n\
         [[route]]\npath = \"/bad\"\nupstream = \"bad\"\n\
         [[route]]\npath = \"/tunnel\"\nupstream = \"tunnels\"\nupgrade = [\"own\"]\n",
            real.address, bad.address, tunnels.address
        ),
    )
    .await
}

/// What a client does with one connection.
#[derive(Debug, Clone, Copy)]
enum Habit {
    KeepsAsking,
    Pipelines,
    Uploads,
    Downloads,
    MeetsABadOrigin,
    ResetsMidDownload,
    ResetsMidUpload,
    HalfCloses,
    SendsGarbage,
    StallsInTheHead,
    VanishesWaiting,
    LeavesATunnel,
    ResetsATunnel,
    IsRefusedATunnel,
}

impl Habit {
    const ALL: [Self; 14] = [
        Self::KeepsAsking,
        Self::Pipelines,
        Self::Uploads,
        Self::Downloads,
        Self::MeetsABadOrigin,
        Self::ResetsMidDownload,
        Self::ResetsMidUpload,
        Self::HalfCloses,
        Self::SendsGarbage,
        Self::StallsInTheHead,
        Self::VanishesWaiting,
        Self::LeavesATunnel,
        Self::ResetsATunnel,
        Self::IsRefusedATunnel,
    ];

    /// One connection from its beginning to its end. What comes back is checked elsewhere; here it only has to
    /// come, and then what counts is what it leaves behind.
    async fn visit(self, address: SocketAddr) {
        let mut client = Raw::connect(address).await;
        match self {
            Self::KeepsAsking => {
                for _ in 0..5 {
                    self.ask(&mut client, "GET", "/bytes/1000", b"").await;
                }
            }
            Self::Pipelines => {
                let _ = client.try_send("GET /bytes/500 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10)).await;
                for _ in 0..10 {
                    self.read(&mut client, "GET").await;
                }
            }
            Self::Uploads => self.ask(&mut client, "POST", "/echo", &pattern::bytes(30_000)).await,
            Self::Downloads => self.ask(&mut client, "GET", "/chunked/100000", b"").await,
            Self::MeetsABadOrigin => self.ask(&mut client, "GET", "/bad", b"").await,
            Self::HalfCloses => {
                let _ = client.try_send("GET /bytes/20000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
                client.half_close().await;
                self.read(&mut client, "GET").await;
            }
            Self::SendsGarbage => {
                let _ = client.try_send([&[0xff; 300], &b"\r\n\r\n"[..]].concat()).await;
                self.read(&mut client, "GET").await;
            }
            Self::LeavesATunnel | Self::ResetsATunnel => {
                let offer = "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";
                let _ = client.try_send([offer.as_bytes(), &pattern::bytes(30_000)].concat()).await;
                let mut back = 0;
                while back < 30_000
                    && let Ok(Some(bytes)) = client.some().await
                {
                    back += bytes.len();
                }
                match self {
                    Self::ResetsATunnel => client.reset(),
                    _ => client.half_close_if_open().await,
                }
            }
            Self::IsRefusedATunnel => {
                let offer =
                    "GET /bytes/10 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";
                let _ = client.try_send([offer.as_bytes(), &pattern::bytes(3_000)].concat()).await;
                self.read(&mut client, "GET").await;
            }
            Self::ResetsMidDownload
            | Self::ResetsMidUpload
            | Self::StallsInTheHead
            | Self::VanishesWaiting => {
                self.vanish(client).await;
            }
        }
    }

    /// Leaves in the middle of something.
    async fn vanish(self, mut client: Raw) {
        let begun = match self {
            Self::ResetsMidDownload => "GET /bytes/1000000 HTTP/1.1\r\nHost: a\r\n\r\n",
            Self::ResetsMidUpload => "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\nabc",
            Self::VanishesWaiting => "GET /delay/500 HTTP/1.1\r\nHost: a\r\n\r\n",
            _ => "GET / HTTP/1.1\r\nHo",
        };
        let _ = client.try_send(begun).await;
        if matches!(self, Self::ResetsMidDownload) {
            let _ = client.some().await;
        } else {
            sleep(Duration::from_millis(100)).await;
        }
        if !matches!(self, Self::VanishesWaiting) {
            client.reset();
        }
    }

    async fn ask(self, client: &mut Raw, method: &str, path: &str, body: &[u8]) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = client.try_send([head.as_bytes(), body].concat()).await;
        self.read(client, method).await;
    }

    /// Whatever comes will do, but not that nothing does.
    async fn read(self, client: &mut Raw, method: &str) {
        if let Err(error) = client.response(method).await {
            assert_ne!(error.kind(), ErrorKind::TimedOut, "{self:?} was kept waiting");
        }
    }
}

/// Connections that bring garbage, and how many of them at a time.
const GARBAGE: u64 = 10_000;
const AT_ONCE: usize = 400;

/// Bytes of no meaning, requests cut at every place, good beginnings with bad ends, resets in the middle of everything, and
/// good requests to origins that do the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_ten_thousand_connections_leaves_nothing_behind() {
    let many = many_connections(AT_ONCE, 6).await;
    let origins = BadOrigins::start().await;
    let proxy = Proxy::configured(usable_cpus().len().min(2), &origins.config()).await;
    let before = proxy.descriptors();

    let mut clients = JoinSet::new();
    for lane in 0..many.count as u64 {
        let address = proxy.address;
        clients.spawn(async move {
            for nth in 0..GARBAGE / AT_ONCE as u64 {
                Garbage::new(lane * 1_000 + nth).visit(address).await;
            }
        });
    }
    within_time(ENDING, "the last client", clients.join_all()).await;

    let nothing = |now: &Counters| {
        (
            now.connections,
            now.upstream_connections,
            now.tasks_busy,
            now.buffers_held,
            now.named("partial_heads"),
        ) == (0, 0, 0, 0, 0)
    };
    let after = proxy.counters_until("nothing is left", nothing).await;
    let visits = many.count as u64 * (GARBAGE / AT_ONCE as u64);
    assert_eq!(after.named("accepted"), visits, "{after:?}");
    // Every phase was reached: heads and bodies that are wrong, late or cut, and servers that are.
    for name in [
        "bad_requests",
        "request_head_timeouts",
        "client_aborts",
        "local_responses",
        "upstream_bad_responses",
        "upstream_closed",
        "upstream_truncated",
        "upstream_timeouts",
    ] {
        assert!(after.named(name) > 10, "{name}: {after:?}");
    }
    assert_same_descriptors(&before, &proxy.descriptors(), &after);
    proxy.drain().await.assert_clean();
}

/// A good origin and the worst ones, each under a path of its own.
struct BadOrigins {
    good: origin::Real,
    bad: Vec<(&'static str, Origin)>,
}

impl BadOrigins {
    async fn start() -> Self {
        let [go, close] = [origin::Go::new(), origin::Go::new()];
        go.steps(GARBAGE as usize);
        close.steps(GARBAGE as usize);
        let bad = vec![
            ("/cuts", origin::closes_mid_body(3000).await),
            ("/cuts-chunks", origin::closes_mid_chunks(3000).await),
            ("/cuts-large", origin::cuts_large_body(1_000_000, 300_000, origin::Cut::Reset, go).await),
            ("/stalls", origin::stalls_after(70_000).await),
            ("/resets", origin::resets_before_head().await),
            ("/silent", origin::never_answers().await),
            ("/half", origin::stalls_in_the_head().await),
            ("/garbage", origin::garbage().await),
            ("/early", origin::early_answer_and_close(close).await),
            ("/closes", origin::closes_after_accept().await),
        ];
        Self { good: origin::real("real").await, bad }
    }

    fn config(&self) -> String {
        let mut text = "[timeouts]\nrequest_head = \"2s\"\nbody_idle = \"500ms\"\nupstream_idle = \"1s\"\n\
             upstream_response = \"500ms\"\nupstream_body_idle = \"500ms\"\nwrite_stall = \"1s\"\n\
             request = \"5s\"\n"
            .to_owned();
        let good = ("/", self.good.address);
        let bad = self.bad.iter().map(|(path, origin)| (*path, origin.address));
        for (path, address) in bad.chain([good]) {
            text += &format!(
                "[[upstream]]\nname = \"{path}\"\nservers = [\"http://{address}\"]\n\
                 [[route]]\npath_prefix = \"{path}\"\nupstream = \"{path}\"\n"
            );
        }
        text
    }
}

/// One connection full of garbage, the same for the same number in every run.
struct Garbage(u64);

impl Garbage {
    fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn noise(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most) + 1).map(|_| self.below(256) as u8).collect()
    }

    /// A request that is in order, often to an origin that is not.
    fn request(&mut self) -> Vec<u8> {
        let path = self.pick(&[
            "/",
            "/bytes/100",
            "/bytes/300000",
            "/chunked/50000",
            "/nowhere",
            "/delay/50",
            "/cuts",
            "/cuts-chunks",
            "/cuts-large",
            "/stalls",
            "/resets",
            "/silent",
            "/half",
            "/garbage",
            "/early",
            "/closes",
        ]);
        let length = self.pick(&[0, 10, 3_000, 80_000]);
        let body = "x".repeat(length);
        match self.below(4) {
            0 => format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"),
            1 if length > 0 => format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            ),
            _ => format!("GET {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: garbage\r\nAccept: */*\r\n\r\n"),
        }
        .into_bytes()
    }

    /// What the connection brings.
    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = self.request();
        match self.below(6) {
            0 => self.noise(3_000),
            // Cut anywhere, mostly in the head.
            1 | 2 => {
                let most = if self.below(3) > 0 { bytes.len().min(120) } else { bytes.len() };
                bytes.truncate(self.below(most) + 1);
                bytes
            }
            // A good beginning with a bad end.
            3 => {
                bytes.truncate(self.below(bytes.len()) + 1);
                [bytes, self.noise(3_000)].concat()
            }
            // One byte is another.
            4 => {
                let at = self.below(bytes.len().min(150));
                bytes[at] = self.below(256) as u8;
                bytes
            }
            _ => (0..self.below(4) + 1).flat_map(|_| self.request()).collect(),
        }
    }

    async fn visit(mut self, address: SocketAddr) {
        let mut client = Raw::connect(address).await;
        let bytes = self.bytes();
        let pieces = self.below(3) + 1;
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            // A reader of nothing stops its sender; what counts is what is left of both.
            if !matches!(timeout(Duration::from_millis(300), client.try_send(piece)).await, Ok(Ok(()))) {
                break;
            }
            tokio::task::yield_now().await;
        }
        match self.below(5) {
            0 => client.reset(),
            1 => {
                sleep(Duration::from_millis(self.below(40) as u64)).await;
                client.reset();
            }
            2 => {
                let _ = timeout(Duration::from_millis(200), client.some()).await;
            }
            3 => {
                client.half_close_if_open().await;
                let _ = timeout(Duration::from_secs(1), client.read_to_end()).await;
            }
            // Silence until the other side has had enough of it.
            _ => drop(timeout(Duration::from_secs(3), client.read_to_end()).await),
        }
    }
}
