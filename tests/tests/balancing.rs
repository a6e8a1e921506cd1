//! Which server gets a request: each policy over sockets, on one shard and on two, with servers that are slow, hang, vanish and come
//! back; cookies; weights, zones and backups.
//!
//! Bounds, not exact numbers, where the machine or chance decides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use sluice_tests::{
    client::Raw,
    cpus, eventually, http2,
    origin::{self, Origin, Peer, Real},
    proxy::{Proxy, run},
};
use tokio::task::JoinSet;

/// A server that takes as long for every answer as it is told, and says its name.
struct Timed {
    origin: Origin,
    /// Milliseconds; [`HANGS`] for no answer.
    takes: Arc<AtomicU64>,
    requests: Arc<AtomicUsize>,
    /// Under way now.
    active: Arc<AtomicUsize>,
    /// Checks of `/healthz` fail.
    is_down: Arc<AtomicBool>,
}

const HANGS: u64 = u64::MAX;

impl Timed {
    async fn start(name: &'static str, takes_ms: u64) -> Timed {
        let takes = Arc::new(AtomicU64::new(takes_ms));
        let (requests, active) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let is_down = Arc::new(AtomicBool::new(false));
        let its = (takes.clone(), requests.clone(), active.clone(), is_down.clone());
        let origin = Origin::scripted(move |mut peer: Peer| {
            let (takes, requests, active, is_down) = its.clone();
            async move {
                loop {
                    if peer.request().await?.head.target() == "/healthz" {
                        let status = if is_down.load(SeqCst) { 503 } else { 200 };
                        peer.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await?;
                        continue;
                    }
                    requests.fetch_add(1, SeqCst);
                    active.fetch_add(1, SeqCst);
                    match takes.load(SeqCst) {
                        HANGS => {
                            let ended = peer.until_closed().await;
                            active.fetch_sub(1, SeqCst);
                            ended?;
                        }
                        takes_ms => tokio::time::sleep(Duration::from_millis(takes_ms)).await,
                    }
                    active.fetch_sub(1, SeqCst);
                    peer.answer(name).await?;
                }
            }
        })
        .await;
        Timed { origin, takes, requests, active, is_down }
    }

    fn address(&self) -> SocketAddr {
        self.origin.address
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// One upstream with these keys, and a route to it.
fn tables(upstream: &str) -> String {
    format!("[[route]]\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\n{upstream}\n")
}

fn list(servers: impl IntoIterator<Item = SocketAddr>) -> String {
    let urls: Vec<_> = servers.into_iter().map(|address| format!("\"http://{address}\"")).collect();
    format!("servers = [{}]\n", urls.join(", "))
}

fn server(address: SocketAddr, keys: &str) -> String {
    format!("[[upstream.server]]\nurl = \"http://{address}\"\n{keys}\n")
}

/// As many shards as the host has CPUs for, two at most: one, and two if possible.
fn shard_counts() -> Vec<usize> {
    if cpus::usable_cpus().len() > 1 { vec![1, 2] } else { vec![1] }
}

async fn reals<const N: usize>(names: [&'static str; N]) -> Vec<Real> {
    let mut all = Vec::new();
    for name in names {
        all.push(origin::real(name).await);
    }
    all
}

fn addresses(servers: &[Real]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

/// Who answers so many requests, each of a connection of its own, with these fields.
async fn who_answers(
    proxy: &Proxy,
    count: usize,
    fields: impl Fn(usize) -> String,
) -> BTreeMap<String, usize> {
    let mut who = BTreeMap::new();
    for nth in 0..count {
        *who.entry(ask(proxy, &fields(nth)).await.0).or_default() += 1;
    }
    who
}

/// Body, and the value of the cookie `srv` if there is a new one.
async fn ask(proxy: &Proxy, fields: &str) -> (String, Option<String>) {
    let mut client = Raw::connect(proxy.address).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).await;
    let response = client.answer_to("GET").await;
    let cookie = response.field("set-cookie").and_then(|cookie| cookie.strip_prefix("srv="));
    let value = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
    (response.text(), value)
}

/// This many clients ask again and again until each has had so many answers; the statuses.
async fn load(proxy: &Proxy, clients: usize, each: usize) -> BTreeMap<u16, usize> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let address = proxy.address;
        tasks.spawn(async move {
            let mut statuses = Vec::new();
            let mut client = Raw::connect(address).await;
            for _ in 0..each {
                statuses.push(client.ask("GET", "/").await.status());
            }
            statuses
        });
    }
    let mut counts = BTreeMap::new();
    while let Some(statuses) = tasks.join_next().await {
        statuses.expect("no panic").into_iter().for_each(|status| *counts.entry(status).or_default() += 1);
    }
    counts
}

fn named(who: &BTreeMap<String, usize>, name: &str) -> usize {
    who.get(name).copied().unwrap_or(0)
}

#[tokio::test]
async fn turns_go_by_weight() {
    for shards in shard_counts() {
        let servers = reals(["a", "b", "c"]).await;
        let [a, b, c] = addresses(&servers)[..] else { unreachable!() };
        let upstream = list([a]) + &server(b, "weight = 3") + &server(c, "weight = 0");
        let proxy = Proxy::configured(shards, &tables(&upstream)).await;
        let who = who_answers(&proxy, 80, |_| String::new()).await;
        // Each shard is at most one turn of each server off.
        let (a, b) = (named(&who, "a"), named(&who, "b"));
        assert!(a.abs_diff(20) <= 2 * shards && a + b == 80, "{who:?}");
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test]
async fn backups_and_other_zones_are_asked_when_none_else_is_there() {
    let servers = reals(["near", "far", "backup"]).await;
    let [near, far, backup] = addresses(&servers)[..] else { unreachable!() };
    let upstream =
        server(near, "zone = \"a\"") + &server(far, "zone = \"b\"") + &server(backup, "backup = true");
    let text = format!("zone = \"a\"\n{}", tables(&upstream));
    let proxy = Proxy::configured(1, &text).await;
    let mut servers = servers.into_iter();
    for name in ["near", "far", "backup"] {
        // The connections that are kept to the one that has just gone must not be asked once more.
        eventually(&format!("{name} answers"), || async { ask(&proxy, "").await.0 == name }).await;
        let who = who_answers(&proxy, 10, |_| String::new()).await;
        assert_eq!(named(&who, name), 10, "{who:?}");
        drop(servers.next());
    }
}

/// The slow one takes twenty times as long, so that its clients wait there: by turns a third of all requests would go to it.
#[tokio::test]
async fn a_slow_server_gets_less() {
    for balance in ["least_requests", "two_choices"] {
        for shards in shard_counts() {
            let servers =
                [Timed::start("a", 5).await, Timed::start("b", 5).await, Timed::start("slow", 100).await];
            let upstream = list(servers.iter().map(Timed::address)) + &format!("balance = \"{balance}\"");
            let proxy = Proxy::configured(shards, &tables(&upstream)).await;
            let statuses = load(&proxy, 12, 60).await;
            assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
            let counts = servers.each_ref().map(Timed::requests);
            let all: usize = counts.iter().sum();
            assert!(counts[2] * 5 < all && counts[2] > 0, "{balance}, {shards} shards: {counts:?}");
            // It has recovered: it is asked like the others again, once that is noticed.
            servers[2].takes.store(5, SeqCst);
            eventually(&format!("{balance}: it has its part again"), || async {
                let before = servers.each_ref().map(Timed::requests);
                load(&proxy, 6, 20).await;
                let now = servers.each_ref().map(Timed::requests);
                (now[2] - before[2]) * 5 > now.iter().sum::<usize>() - before.iter().sum::<usize>()
            })
            .await;
        }
    }
}

/// By turns, half of all requests would wait for the one that hangs.
#[tokio::test]
async fn a_server_that_hangs_holds_few_requests() {
    for balance in ["least_requests", "two_choices"] {
        let servers = [Timed::start("a", 1).await, Timed::start("hangs", HANGS).await];
        let upstream = list(servers.iter().map(Timed::address))
            + &format!("balance = \"{balance}\"\ntimeouts.upstream_response = \"60s\"");
        let proxy = Proxy::configured(1, &tables(&upstream)).await;
        let mut waiting = JoinSet::new();
        let (address, done) = (proxy.address, Arc::new(AtomicUsize::new(0)));
        for _ in 0..8 {
            let done = done.clone();
            waiting.spawn(async move {
                // A client that meets the server which hangs goes no further.
                let mut client = Raw::connect(address).await;
                loop {
                    assert_eq!(client.ask("GET", "/").await.text(), "a");
                    done.fetch_add(1, SeqCst);
                }
            });
        }
        // Those that hang count: as soon as there are as many as clients that go on, no more come.
        eventually("most go on", || async { done.load(SeqCst) > 2_000 }).await;
        let held = servers[1].active.load(SeqCst);
        assert!(held <= 5, "{balance}: {held} of 8 clients wait");
        waiting.abort_all();
    }
}

#[tokio::test]
async fn equal_keys_meet_the_same_server() {
    for shards in shard_counts() {
        let servers = reals(["a", "b", "c"]).await;
        let hash_by = |by: &str| {
            tables(&format!("{}balance = \"hash\"\nhash_by = \"{by}\"", list(addresses(&servers))))
        };
        let proxy = Proxy::configured(shards, &hash_by("header X-User")).await;
        let other = Proxy::configured(shards, &hash_by("cookie user")).await;
        let mut homes = BTreeMap::new();
        for user in 0..30 {
            let field = format!("X-User: {user}\r\n");
            let home = ask(&proxy, &field).await.0;
            for _ in 0..3 {
                assert_eq!(ask(&proxy, &field).await.0, home, "user {user}");
            }
            // Another proxy that finds the same value elsewhere.
            assert_eq!(ask(&other, &format!("Cookie: a=1; user={user}\r\n")).await.0, home, "user {user}");
            *homes.entry(home).or_insert(0) += 1;
        }
        assert_eq!(homes.len(), 3, "{homes:?}");
        // Without the field: by turns.
        let who = who_answers(&proxy, 30, |_| String::new()).await;
        assert!(who.values().all(|&count| count.abs_diff(10) <= 2 * shards), "{who:?}");
    }
}

#[tokio::test]
async fn keys_of_a_server_that_is_gone_move_and_the_others_stay() {
    let mut servers = reals(["a", "b", "c"]).await;
    let upstream = format!("{}balance = \"hash\"\nhash_by = \"header X-User\"", list(addresses(&servers)));
    let proxy = Proxy::configured(1, &tables(&upstream)).await;
    let mut homes = Vec::new();
    for user in 0..40 {
        homes.push(ask(&proxy, &format!("X-User: {user}\r\n")).await.0);
    }
    drop(servers.remove(1));
    for (user, home) in homes.iter().enumerate() {
        let field = format!("X-User: {user}\r\n");
        match home.as_str() {
            "b" => {
                eventually("another one answers", || async {
                    ["a", "c"].contains(&ask(&proxy, &field).await.0.as_str())
                })
                .await;
            }
            home => assert_eq!(ask(&proxy, &field).await.0, home, "user {user}"),
        }
    }
}

/// All ask with one key: the server that it belongs to has no more than its load of the requests under way.
#[tokio::test]
async fn a_key_that_all_ask_for_is_shared() {
    for shards in shard_counts() {
        let servers = [Timed::start("a", 20).await, Timed::start("b", 20).await, Timed::start("c", 20).await];
        let upstream = list(servers.iter().map(Timed::address))
            + "balance = \"hash\"\nhash_by = \"path\"\nhash_load = 120";
        let proxy = Proxy::configured(shards, &tables(&upstream)).await;
        assert_eq!(load(&proxy, 30, 20).await, [(200, 30 * 20)].into());
        let counts = servers.each_ref().map(Timed::requests);
        let (most, all) = (*counts.iter().max().unwrap(), counts.iter().sum::<usize>());
        // 120 % of a third are 40 %; what the machine adds is not much.
        assert!(
            most * 100 < all * 60 && counts.iter().all(|&count| count > 0),
            "{shards} shards: {counts:?}"
        );
    }
}

#[tokio::test]
async fn a_cookie_brings_a_client_back_also_after_a_restart() {
    let mut servers = reals(["a", "b"]).await;
    let text = tables(
        &(list(addresses(&servers)) + "sticky = { cookie = \"srv\", secret = \"x\", max_age = \"1h\" }"),
    );
    let shards = *shard_counts().last().unwrap();
    let proxy = Proxy::configured(shards, &text).await;
    let (home, cookie) = ask(&proxy, "").await;
    let cookie = cookie.expect("a first request has no cookie");
    let field = format!("Cookie: theme=dark; srv={cookie}\r\n");
    assert!(cookie.len() == 16 && !cookie.contains("127"), "{cookie}");
    for _ in 0..10 {
        assert_eq!(ask(&proxy, &field).await, (home.clone(), None));
    }
    let mut client = Raw::connect(proxy.address).await;
    let line = client.ask("GET", "/").await.field("set-cookie").expect("one").to_owned();
    assert!(line.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{line}");
    // It names nothing.
    for wrong in ["0123456789abcdef", "x", "../../etc", ""] {
        assert!(ask(&proxy, &format!("Cookie: srv={wrong}\r\n")).await.1.is_some(), "{wrong}");
    }
    proxy.drain().await.assert_clean();
    let again = Proxy::configured(shards, &text).await;
    for _ in 0..10 {
        assert_eq!(ask(&again, &field).await, (home.clone(), None));
    }
    // It goes: the other one, with a cookie of its own, which holds.
    servers.remove(usize::from(home == "b"));
    let other = if home == "a" { "b" } else { "a" };
    eventually("the other one answers", || async { ask(&again, &field).await.0 == other }).await;
    let moved = ask(&again, &field).await.1.expect("a new cookie");
    assert_ne!(moved, cookie);
    assert_eq!(ask(&again, &format!("Cookie: srv={moved}\r\n")).await, (other.to_owned(), None));
}

/// The cookie by HTTP/2 on both sides, and beside those of the server.
#[tokio::test]
async fn cookies_are_set_over_http2_too() {
    let server = origin::real_http2("a").await;
    let text = tables(&format!("servers = [\"h2c://{}\"]\nsticky = {{ cookie = \"srv\" }}", server.address));
    let proxy = Proxy::configured(1, &text).await;
    let client = http2::hyper(proxy.address).await;
    let cookies = async |cookie: String| {
        let mut request = client.request("GET", "/set-cookies", http2::full(""));
        request.headers_mut().insert("cookie", cookie.parse().expect("a value"));
        let response = client.send(request).await.expect("a response");
        let cookies = response.headers().get_all("set-cookie").into_iter();
        cookies.map(|cookie| cookie.to_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    let first = cookies("a=1".into()).await;
    let ours = first.iter().find(|cookie| cookie.starts_with("srv=")).expect("ours");
    assert!(first.len() > 1, "{first:?}");
    let named = ours.split(';').next().expect("its pair");
    let second = cookies(format!("a=1; {named}")).await;
    assert_eq!(second.len(), first.len() - 1, "{second:?}");
}

/// The cookie of a WebSocket's handshake.
#[tokio::test]
async fn tunnels_have_cookies_too() {
    let server = origin::switches_and_echoes().await;
    let text = tables(&(list([server.address]) + "sticky = { cookie = \"srv\" }"))
        .replace("upstream = \"app\"\n", "upstream = \"app\"\nupgrade = [\"websocket\"]\n");
    let proxy = Proxy::configured(1, &text).await;
    let mut client = Raw::connect(proxy.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert_eq!(head.status().expect("a status"), 101);
    assert!(head.fields.first("set-cookie").is_some_and(|cookie| cookie.starts_with("srv=")), "{head:?}");
}

/// Checks have it down and up again. Unit tests have the clock that shows how its share grows; here it gets the whole of it again.
#[tokio::test]
async fn a_server_that_comes_back_gets_its_share_again() {
    let (healthy, returns) = (Timed::start("healthy", 0).await, Timed::start("returns", 0).await);
    let upstream = list([healthy.address(), returns.address()])
        + "slow_start = \"1s\"\nhealth = { path = \"/healthz\", interval = \"20ms\", rise = 1, fall = 1 }";
    let proxy = Proxy::configured(1, &tables(&upstream)).await;
    // Both are new, and have the same.
    let who = who_answers(&proxy, 20, |_| String::new()).await;
    assert_eq!((named(&who, "healthy"), named(&who, "returns")), (10, 10));
    returns.is_down.store(true, SeqCst);
    proxy.line("upstream app: http://").await;
    eventually("only the other one is asked", || async {
        named(&who_answers(&proxy, 10, |_| String::new()).await, "healthy") == 10
    })
    .await;
    returns.is_down.store(false, SeqCst);
    eventually("it is asked again", || async { ask(&proxy, "").await.0 == "returns" }).await;
    eventually("it has half of them", || async {
        named(&who_answers(&proxy, 20, |_| String::new()).await, "returns") == 10
    })
    .await;
}

#[tokio::test]
async fn a_choice_that_cannot_be_made_is_one_line() {
    let config = sluice_tests::proxy::config_file(
        ".toml",
        "listen = [\"127.0.0.1:0\"]\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\n\
         servers = [\"http://127.0.0.1:1\", \"http://127.0.0.1:1\"]\n",
    );
    let finished = run(&["check", "--config", &config.path().to_string_lossy()]).await;
    let wanted = "upstream.servers: `127.0.0.1:1` is there twice (hint: for a larger share write it once: \
                  [[upstream.server]] with url = \"http://127.0.0.1:1\" and weight = 2)";
    assert!(finished.stderr.contains(wanted), "{}", finished.stderr);
}
