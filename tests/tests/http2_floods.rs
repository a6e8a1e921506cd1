//! Attacks by means that only HTTP/2 has: each ends, costs little memory, and a neighbour on the same shard is served meanwhile.
//!
//! An attack goes on until the proxy ends the connection, or to its own bound where the proxy may as well bear it. What it must not
//! do is named in each test: reach the origin, go on, grow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice_tests::{
    client::Raw,
    http2::{
        Http2,
        frames::{self, code, flag, kind, setting},
    },
    origin::{self, Real},
    proxy::Proxy,
    within_time,
};
use tokio::task::JoinHandle;

/// Growth of the proxy's memory that an attack may cause: buffers of a shard, code that is used for the first time.
const GROWTH_BYTES: u64 = 48 << 20;

/// Requests of the neighbours that must be answered while an attack goes on.
const SERVED: usize = 10;

/// Frames after which an attack must have been ended.
const FRAMES: usize = 100_000;

/// What was asked for before an attack.
const WARM: &str = "/bytes/3000000";

/// How long an attack may take as a whole.
const LIMIT: Duration = Duration::from_secs(120);

/// Two neighbours of the attacker, HTTP/2 and HTTP/1.1, that ask one thing after the other.
struct Neighbours {
    served: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Neighbours {
    async fn of(proxy: &Proxy) -> Self {
        let (served, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (mut http2, mut http1) = (Http2::connect(proxy.address).await, Raw::connect(proxy.address).await);
        assert_eq!(http2.get("/neighbour").await.text(), "real");
        let (count, over) = (served.clone(), is_over.clone());
        let by_http2 = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(http2.get("/neighbour").await.text(), "real");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let (count, over) = (served.clone(), is_over.clone());
        let by_http1 = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(http1.ask("GET", "/neighbour").await.text(), "real");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { served, is_over, tasks: [by_http2, by_http1] }
    }

    /// They were served all the time, and still are.
    async fn are_fine(self) {
        let so_far = self.served.load(Ordering::Relaxed);
        while self.served.load(Ordering::Relaxed) < so_far.max(SERVED) + 2 {
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "a neighbour was not served");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a neighbour that was served");
        }
    }
}

/// A proxy under attack, with one shard, in front of a good origin.
struct Target {
    proxy: Proxy,
    origin: Real,
    neighbours: Neighbours,
    resident: u64,
}

impl Target {
    async fn with(flags: &[&str]) -> Self {
        let origin = origin::real("real").await;
        let proxy = Proxy::to_with(origin.address, flags).await;
        let neighbours = Neighbours::of(&proxy).await;
        // What every connection and every body costs once is no growth.
        let mut warm = Http2::connect(proxy.address).await;
        warm.get(WARM).await;
        let resident = proxy.resident_bytes();
        Self { proxy, origin, neighbours, resident }
    }

    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn attacker(&self) -> Http2 {
        self.attacker_with(&[]).await
    }

    async fn attacker_with(&self, settings: &[(u16, u32)]) -> Http2 {
        let mut attacker = Http2::connect_with(self.proxy.address, settings).await;
        attacker.until("settings", |all| all.frames.contains_key(&kind::SETTINGS)).await;
        attacker
    }

    /// Requests that have reached the origin, but for those of the neighbours.
    fn attacks_at_the_origin(&self) -> usize {
        self.origin.seen().iter().filter(|seen| seen.target != "/neighbour" && seen.target != WARM).count()
    }

    fn assert_small(&self) {
        let grown = self.proxy.resident_bytes().saturating_sub(self.resident);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes more than before");
    }

    /// The neighbours are served, the memory is what it was, and nothing of the attacks is left.
    async fn assert_unharmed(self) {
        self.assert_small();
        let Self { proxy, neighbours, .. } = self;
        neighbours.are_fine().await;
        proxy.counters_until("nothing is left", |now| now.connections == 0 && now.tasks_busy == 0).await;
        proxy.drain().await.assert_clean();
    }
}

/// Sends `frames(n)` for n = 0, 1, ... until the proxy ends the connection, at most [`FRAMES`] times, and waits for that end, which
/// comes sooner than that of an idle connection. Gives back the code of the GOAWAY.
async fn until_ended(
    target: &Target,
    attacker: &mut Http2,
    frames: impl Fn(usize) -> Vec<u8>,
) -> Option<u32> {
    let mut sent = 0;
    let flood = async {
        while sent < FRAMES {
            let piece: Vec<u8> = (sent..sent + 50).flat_map(&frames).collect();
            // What is sent after the GOAWAY may make the proxy's kernel throw it away.
            if !attacker.push(&piece).await || !attacker.glance().await || !attacker.go_aways.is_empty() {
                break;
            }
            sent += 50;
            target.assert_small();
        }
        attacker.closed().await
    };
    let code = within_time(LIMIT, "the end of the attack", flood).await;
    target.assert_small();
    code
}

/// The same, and the end is for too much of it all, if the GOAWAY has not been lost with the connection.
async fn is_too_much(target: &Target, attacker: &mut Http2, frames: impl Fn(usize) -> Vec<u8>) {
    let code = until_ended(target, attacker, frames).await;
    assert!(matches!(code, Some(code::ENHANCE_YOUR_CALM) | None), "{code:?}");
}

/// The number of the stream of the nth request.
fn stream(nth: usize) -> u32 {
    2 * nth as u32 + 1
}

// ---- resets ----

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    let target = Target::new().await;
    let mut attacker = target.attacker().await;
    is_too_much(&target, &mut attacker, |nth| {
        let request = frames::headers(stream(nth), flag::END_STREAM, frames::get("/delay/1000"));
        [request, frames::reset(stream(nth), code::CANCEL)].concat()
    })
    .await;
    let arrived = target.attacks_at_the_origin();
    assert!(arrived <= 1_000, "{arrived} at the origin");
    target.assert_unharmed().await;
}

/// The same at most as fast as requests end: the server still works on what was reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_free_no_room_at_the_origin() {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to(origin.address).await;
    let mut attacker = Http2::connect(proxy.address).await;
    attacker.until("settings", |all| all.settings.contains_key(&setting::MAX_CONCURRENT_STREAMS)).await;
    let limit = attacker.settings[&setting::MAX_CONCURRENT_STREAMS] as usize;
    for nth in 0..4 * limit {
        let request = frames::headers(stream(nth), flag::END_STREAM, frames::get("/"));
        if !attacker.push(&[request, frames::reset(stream(nth), code::CANCEL)].concat()).await {
            break;
        }
        let open = origin.recorder.traffic().iter().filter(|one| !one.ended).count();
        assert!(open <= 2 * limit, "{open} connections to the origin");
    }
    drop(attacker);
    proxy.counters_until("all is over", |now| now.connections == 0 && now.upstream_connections == 0).await;
}

/// CVE-2025-8671: frames that force the proxy to reset a stream whose request is at the origin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_you_reset() {
    type Violation = fn(u32) -> Vec<u8>;
    let violations: [(&str, Violation); 4] = [
        ("a window update of nothing", |stream| frames::window_update(stream, 0)),
        ("a window that overflows", |stream| frames::window_update(stream, 0x7fff_ffff)),
        ("a stream that depends on itself", |stream| {
            frames::frame(kind::PRIORITY, 0, stream, [&stream.to_be_bytes()[..], &[1]].concat())
        }),
        ("a priority of a wrong length", |stream| frames::frame(kind::PRIORITY, 0, stream, [0; 4])),
    ];
    for (what, violation) in violations {
        let target = Target::new().await;
        let mut attacker = target.attacker().await;
        until_ended(&target, &mut attacker, |nth| {
            let request = frames::headers(stream(nth), flag::END_STREAM, frames::get("/delay/1000"));
            [request, violation(stream(nth))].concat()
        })
        .await;
        let arrived = target.attacks_at_the_origin();
        assert!(arrived <= 1_000, "{what}: {arrived} at the origin");
        target.assert_unharmed().await;
    }
}

/// Requests that are malformed, each of which costs a decoded head and a reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests() {
    let target = Target::new().await;
    let mut attacker = target.attacker().await;
    is_too_much(&target, &mut attacker, |nth| frames::headers(stream(nth), flag::END_STREAM, [])).await;
    assert_eq!(target.attacks_at_the_origin(), 0);
    target.assert_unharmed().await;
}

/// Requests beyond the number of streams, each of which is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit() {
    let target = Target::new().await;
    let mut attacker = target.attacker().await;
    until_ended(&target, &mut attacker, |nth| {
        frames::headers(stream(nth), flag::END_STREAM, frames::get("/delay/60000"))
    })
    .await;
    let arrived = target.attacks_at_the_origin();
    assert!(arrived <= 1_000, "{arrived} at the origin");
    target.assert_unharmed().await;
}

// ---- frames without end ----

/// CVE-2024-27316.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation_without_end() {
    let field = frames::block(&[("x-more", &"m".repeat(1000))]);
    for content in [vec![], field] {
        let target = Target::new().await;
        let mut attacker = target.attacker().await;
        attacker.send(frames::frame(kind::HEADERS, flag::END_STREAM, 1, frames::get("/"))).await;
        is_too_much(&target, &mut attacker, |_| frames::frame(kind::CONTINUATION, 0, 1, &content)).await;
        assert_eq!(target.attacks_at_the_origin(), 0);
        target.assert_unharmed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_without_content() {
    for (flags, payload) in
        [(0, vec![]), (flag::PADDED, vec![0]), (flag::PADDED, [&[200][..], &[0; 200]].concat())]
    {
        let target = Target::new().await;
        let mut attacker = target.attacker().await;
        attacker.open("POST", "/copy", &[]).await;
        is_too_much(&target, &mut attacker, |_| frames::data(1, flags, &payload)).await;
        target.assert_unharmed().await;
    }
}

/// Frames that the proxy has to look at, or to answer, and that nothing comes of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_the_connection() {
    type Flood = fn(usize) -> Vec<u8>;
    let floods: [(&str, Flood); 9] = [
        ("PING", |nth| frames::ping((nth as u64).to_be_bytes())),
        ("SETTINGS", |_| frames::settings(&[])),
        ("SETTINGS that change windows", |nth| {
            frames::settings(&[(setting::INITIAL_WINDOW_SIZE, nth as u32 % 2)])
        }),
        ("SETTINGS that change tables", |nth| {
            frames::settings(&[(setting::HEADER_TABLE_SIZE, 4096 * (nth as u32 % 2))])
        }),
        ("acknowledgements of nothing", |_| frames::settings_ack()),
        ("PRIORITY", |nth| frames::frame(kind::PRIORITY, 0, stream(nth), [0, 0, 0, 0, 1])),
        ("PRIORITY_UPDATE", |_| frames::frame(kind::PRIORITY_UPDATE, 0, 0, [0, 0, 0, 1, b'u', b'=', b'1'])),
        ("an unknown type", |_| frames::frame(0xbe, 0, 0, [0; 8])),
        ("WINDOW_UPDATE of one byte", |_| frames::window_update(0, 1)),
    ];
    for (what, flood) in floods {
        let target = Target::new().await;
        let mut attacker = target.attacker().await;
        println!("{what}");
        until_ended(&target, &mut attacker, flood).await;
        target.assert_unharmed().await;
    }
}

/// Answers that the attacker does not read must not pile up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_frames_that_are_not_read() {
    let target = Target::with(&["--timeout-write-stall=1s"]).await;
    for piece in [frames::ping(*b"not read"), frames::settings(&[])] {
        let mut attacker = Http2::connect_with_window(target.proxy.address, 4096, &[]).await;
        let flood: Vec<u8> = piece.repeat(1_000);
        // As long as it is taken: the proxy may stop reading, or read what comes after its GOAWAY for a while.
        within_time(LIMIT, "the end of the attack", async {
            while attacker.try_send(&flood).await.is_ok() {
                target.assert_small();
            }
        })
        .await;
    }
    target.assert_unharmed().await;
}

// ---- heads that grow ----

/// One entry of the table, 4,000 bytes, named by one byte thousands of times: 64 MB of fields in 16 KB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_by_reference() {
    let target = Target::new().await;
    let mut attacker = target.attacker().await;
    let first = [frames::get("/first"), frames::indexed_literal("x-bomb", &"b".repeat(4_000))].concat();
    attacker.send(frames::headers(1, flag::END_STREAM, first)).await;
    assert_eq!(attacker.answer(1).await.status(), 200);
    let bomb = [frames::get("/bomb"), vec![0x80 | 62; 16_000]].concat();
    for nth in 1..200 {
        let request = frames::headers(stream(nth), flag::END_STREAM, &bomb);
        if !attacker.push(&request).await || !attacker.go_aways.is_empty() {
            break;
        }
        target.assert_small();
    }
    assert!(attacker.streams.values().skip(1).all(|answer| answer.status() != 200), "{attacker:?}");
    assert!(target.origin.seen().iter().all(|seen| seen.target != "/bomb"));
    drop(attacker);
    target.assert_unharmed().await;
}

/// CVE-2026-49975: cookie crumbs of a few bytes, each of which counts 32 bytes more, on streams that are never read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_crumbs_on_stuck_streams() {
    let target = Target::new().await;
    let mut attacker = target.attacker_with(&[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
    let crumb = [frames::get("/first"), frames::indexed_literal("cookie", "a")].concat();
    attacker.send(frames::headers(1, flag::END_STREAM, crumb)).await;
    let bomb = [frames::get("/bomb"), vec![0x80 | 62; 16_000]].concat();
    for nth in 1..200 {
        let request = frames::headers(stream(nth), flag::END_STREAM, &bomb);
        if !attacker.push(&request).await || !attacker.go_aways.is_empty() {
            break;
        }
        target.assert_small();
    }
    assert!(target.origin.seen().iter().all(|seen| seen.target != "/bomb"));
    drop(attacker);
    target.assert_unharmed().await;
}

// ---- readers that do not read ----

/// Requests of the attacker that are open at a time.
async fn ask_for_bodies(attacker: &mut Http2, count: usize, path: &str) {
    for nth in 0..count {
        attacker.send(frames::headers(stream(nth), flag::END_STREAM, frames::get(path))).await;
    }
}

/// Windows of nothing: the responses wait with little memory, and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_stay_closed() {
    let target = Target::with(&["--timeout-write-stall=2s"]).await;
    let mut attackers = Vec::new();
    for _ in 0..10 {
        let mut attacker = target.attacker_with(&[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
        attacker.gives_credit = false;
        ask_for_bodies(&mut attacker, 64, "/chunked/1000000").await;
        attackers.push(attacker);
    }
    for attacker in &mut attackers {
        // Each stream is reset, or the connection ended.
        let all_reset = |all: &Http2| all.streams.values().filter(|one| one.ended.is_some()).count() == 64;
        attacker.until_or_end("the end of the stuck streams", all_reset).await;
        target.assert_small();
        assert!(attacker.streams.values().all(|one| one.body.is_empty()), "data without a window");
    }
    drop(attackers);
    target.assert_unharmed().await;
}

/// A byte at a time: each costs the proxy a frame of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_of_one_byte() {
    let target = Target::new().await;
    let mut attacker = target.attacker_with(&[(setting::INITIAL_WINDOW_SIZE, 1)]).await;
    attacker.gives_credit = false;
    ask_for_bodies(&mut attacker, 50, "/bytes/1000000").await;
    until_ended(&target, &mut attacker, |nth| frames::window_update(stream(nth % 50), 1)).await;
    target.assert_unharmed().await;
}

/// Windows as large as they can be, and a connection that is not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_not_read() {
    let target = Target::with(&["--timeout-write-stall=2s"]).await;
    let mut attackers = Vec::new();
    for _ in 0..10 {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
        let mut attacker = Http2::connect_with_window(target.proxy.address, 4096, &settings).await;
        attacker.send(frames::window_update(0, 0x7fff_ffff - 65_535)).await;
        ask_for_bodies(&mut attacker, 64, "/chunked/1000000").await;
        attackers.push(attacker);
    }
    let ended = |now: &sluice_tests::proxy::Counters| now.connections == 2;
    target.proxy.counters_until("only the neighbours are left", ended).await;
    target.assert_small();
    drop(attackers);
    target.assert_unharmed().await;
}

/// Uploads that begin and stop: streams are held for no longer than the time for a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_stop() {
    let target = Target::with(&["--timeout-body-idle=1s"]).await;
    let mut attacker = target.attacker().await;
    for nth in 0..64 {
        let head = frames::block(&frames::request("POST", "/copy", &[("content-length", "1000")]));
        attacker
            .send([frames::headers(stream(nth), 0, head), frames::data(stream(nth), 0, "x")].concat())
            .await;
    }
    attacker
        .until("the end of all", |all| all.streams.values().filter(|one| one.ended.is_some()).count() == 64)
        .await;
    assert!(attacker.streams.values().all(|one| matches!(one.status(), 0 | 408)), "{attacker:?}");
    drop(attacker);
    target.assert_unharmed().await;
}
