//! Ten seconds of everything on a thousand connections leave no connection, task, buffer or descriptor.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use sluice_tests::{
    client::Raw,
    origin::{self, Origin},
    pattern,
    proxy::{Counters, Proxy},
    raise_descriptor_limit, within_time,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

const CONNECTIONS: usize = 1000;
const SHARDS: usize = 2;
const RUN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_leave_nothing_behind() {
    raise_descriptor_limit();
    let (real, bad) = (origin::real("real").await, origin::closes_mid_body(3000).await);
    let proxy = start(&real, &bad).await;
    let before = proxy.descriptors();

    let until = Instant::now() + RUN;
    let mut clients = JoinSet::new();
    for nth in 0..CONNECTIONS {
        let address = proxy.address;
        clients.spawn(async move {
            let mut round = nth;
            while Instant::now() < until {
                Habit::ALL[round % Habit::ALL.len()].visit(address).await;
                round += 1;
            }
        });
    }
    within_time(RUN * 3, "the last client", clients.join_all()).await;

    let nothing = |now: &Counters| {
        (now.connections, now.upstream_connections, now.tasks_busy, now.buffers_held) == (0, 0, 0, 0)
    };
    let after = proxy.counters_until("nothing is left", nothing).await;
    assert!(after.requests > CONNECTIONS as u64, "the run was not idle: {after:?}");
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

/// Two shards in front of a good origin, and under `/bad` of one that cuts every body.
async fn start(real: &origin::Real, bad: &Origin) -> Proxy {
    Proxy::configured(
        SHARDS,
        &format!(
            "[timeouts]\nupstream_idle = \"1s\"\nheader = \"2s\"\nbody_idle = \"2s\"\n\
         [[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
         [[upstream]]\nname = \"bad\"\nservers = [\"http://{}\"]\n\
         [[route]]\npath_prefix = \"/\"\nupstream = \"real\"\n\
         [[route]]\npath = \"/bad\"\nupstream = \"bad\"\n",
            real.address, bad.address
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
}

impl Habit {
    const ALL: [Self; 11] = [
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
