//! Peers whose bytes come, stop or end at the worst moment. Each of these tests was a bug once, and says which.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sluice_tests::{
    client::Raw,
    many_connections,
    origin::{self, Go, Origin},
    pattern,
    proxy::{Counters, Proxy},
    wire::Framing,
    within,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// Large enough to pass unseen.
const LARGE: usize = 3_000_000;

/// Nothing for twice as long, with an answer of the proxy in between, means that nothing more will come.
const QUIET: Duration = Duration::from_millis(800);

/// Who waits for so long is served only because others were given up: their server is waited for as long
/// (`upstream_response`).
const STARVED: Duration = Duration::from_secs(55);

/// Pieces of requests that the proxy once received ahead from every client that waits for an answer, each in a
/// buffer of its own.
const PIECES: usize = 8;

/// Receive buffers of a shard that is short of them: 256.
const FEW_BUFFERS: &str = "[limits]\nreceive_buffers_bytes = \"4MiB\"\n";

/// So many clients with a piece each want more buffers than there are.
const HOGS: usize = 400;

/// The body went past the head: a head was handed to the ring, which sends at the end of the turn, and the body spliced
/// at once if it waited in the socket. The origin took the body for the next request.
#[tokio::test]
async fn a_body_never_overtakes_its_head() {
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: admin\r\n\r\n";
    let go = Go::new();
    let origin = origin::names_requests(go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    // The body has to be in the socket when its head is read: what was received ahead before it must be just enough to
    // stop receiving.
    for ahead in 0..=PIECES {
        let body = "x".repeat(ahead) + &SMUGGLED.repeat(5000);
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").await;
        proxy.counters().await;
        let length = body.len();
        client.send(format!("POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n")).await;
        let (pieces, rest) = body.split_at(ahead);
        send_in_pieces(&mut client, &proxy, pieces).await;
        let (at_once, later) = rest.split_at(30_000);
        client.send(at_once).await;
        proxy.counters().await;
        go.steps(1);
        client.send(later).await;
        assert_eq!(client.answer_to("GET").await.text(), "GET /wait 0");
        assert_eq!(
            client.answer_to("POST").await.text(),
            format!("POST /p {length}"),
            "{ahead} pieces ahead"
        );
    }
}

/// A reset before the acknowledgement was taken for proof that the origin had not seen the request, and the request
/// was sent again: the origin charged twice.
#[tokio::test]
async fn a_post_that_met_a_reset_is_not_repeated() {
    let origin = origin::resets_after_a_post().await;
    let proxy = Proxy::to(origin.address).await;
    for posts in 1..=5 {
        let mut client = Raw::connect(proxy.address).await;
        // After a few questions and answers the origin's kernel acknowledges with the next answer, not at once.
        for _ in 0..4 {
            assert_eq!(client.ask("GET", "/").await.text(), "served");
        }
        client.send("POST /pay HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(client.answer_to("POST").await.status(), 502);
        assert_eq!(origin.recorder.text().matches("POST /pay").count(), posts);
    }
}

/// When the answer to a client that did not read was given up half sent, the answers queued behind it were sent all the
/// same: the client took the next head for the rest of a body.
#[tokio::test]
async fn nothing_follows_an_answer_that_was_given_up() {
    const STALL: Duration = Duration::from_millis(500);
    let origin = origin::repeats_targets(12_000).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-write-stall=500ms"]).await;
    let mut client = Raw::connect_with_window(proxy.address, 4096).await;
    ask_without_reading(&mut client, &origin, &proxy, 400).await;
    // Whether it is closed is not the question, so this may end either way.
    let _ = timeout(4 * STALL, proxy.counters_until("it is cut off", |now| now.connections == 0)).await;
    let error = loop {
        match client.response("GET").await {
            Ok(answer) => assert_repeats(&answer.text(), 12_000),
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
}

/// A client that asked again and again and read nothing was served on, and its answers collected in memory. Requests
/// that come all at once were held back already; these come one by one.
#[tokio::test]
async fn answers_that_are_not_read_are_not_collected() {
    let origin = origin::repeats_targets(15_000).await;
    let proxy = Proxy::to(origin.address).await;
    let before = proxy.resident_bytes();
    let mut client = Raw::connect_with_window(proxy.address, 4096).await;
    let asked = ask_without_reading(&mut client, &origin, &proxy, 1000).await;
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 4_000_000, "the proxy has grown by {grown} bytes in {asked} requests");
    // It was held back, not lost.
    for nth in 0..asked {
        assert_eq!(
            client.answer_to("GET").await.text(),
            origin::repeated(&target(nth), 15_000),
            "answer {nth}"
        );
    }
}

/// One byte at a time, clients that waited for an answer took all receive buffers of their shard, and all others
/// waited until their requests timed out. Now those that have held a buffer the longest give it up.
#[tokio::test]
async fn pieces_of_requests_starve_no_neighbour() {
    let many = many_connections(HOGS + 1, 2).await;
    let (slow, real) = (origin::never_answers().await, origin::real("real").await);
    let proxy = waiting_room(&slow, "real", &real.address.to_string()).await;
    let mut neighbour = Raw::connect(proxy.address).await;
    let mut hogs = hogs(&proxy, many.count).await;
    for piece in 0..2 * PIECES {
        for hog in &mut hogs {
            // Some are ended meanwhile.
            let _ = hog.try_send("G").await;
        }
        let begun = Instant::now();
        assert_eq!(neighbour.ask("GET", "/").await.text(), "real");
        assert!(begun.elapsed() < STARVED, "{:?} after piece {piece}", begun.elapsed());
    }
    if many.count > HOGS {
        proxy.counters_until("buffers are scarce", |now| now.named("recv_buffers_reclaimed") > 0).await;
    }
}

/// Applications do answer a byte at a time, so it is no misdeed. It takes the shard as long as 16 KiB of it take, and then
/// others have their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_chunks_of_servers_are_passed_on_and_starve_no_neighbour() {
    const COUNT: usize = 3_000;
    let origin = origin::tiny_chunks(COUNT).await;
    let proxy = Proxy::to(origin.address).await;
    let mut floods = Vec::new();
    for _ in 0..4 {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET /flood HTTP/1.1\r\nHost: test\r\n\r\n").await;
        client.head().await;
        floods
            .push(tokio::spawn(async move { while client.some().await.is_ok_and(|some| some.is_some()) {} }));
    }
    let mut neighbour = Raw::connect(proxy.address).await;
    for nth in 0..10 {
        let begun = Instant::now();
        let answer = neighbour.ask("GET", "/").await;
        assert_eq!(answer.body, vec![b'x'; COUNT], "answer {nth}");
        assert!(begun.elapsed() < STARVED, "{:?} for answer {nth}", begun.elapsed());
    }
    assert!(floods.iter().all(|flood| !flood.is_finished()), "they go on and on");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
}

/// With the last receive buffers in use, a receive that had found none was armed again while the same bytes were being
/// spliced: parts of a body went missing.
#[tokio::test]
async fn large_answers_survive_a_lack_of_buffers() {
    let many = many_connections(HOGS, 2).await;
    const LENGTH: usize = 1_000_000;
    let go = Go::new();
    let (slow, large) =
        (origin::never_answers().await, origin::large_answer_in_pieces(LENGTH, go.clone()).await);
    let proxy = waiting_room(&slow, "large", &large.address.to_string()).await;
    let mut downloads = Vec::new();
    for _ in 0..80 {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        downloads.push(client);
    }
    let mut hogs = hogs(&proxy, many.count).await;
    for _ in 0..PIECES {
        for hog in &mut hogs {
            let _ = hog.try_send("G").await;
        }
        proxy.counters().await;
    }
    go.steps(downloads.len());
    let mut reading = JoinSet::new();
    for mut client in downloads {
        reading.spawn(async move {
            client.head().await;
            // Checked as it comes: without what went missing it would never end.
            let mut check = pattern::Check::default();
            client.body_to(Framing::Length(LENGTH as u64), |piece| check.feed(piece)).await.unwrap();
        });
    }
    // Buffers come back a few at a time, and every task that waits for one wakes.
    for hog in hogs.drain(..many.count.min(150)) {
        hog.reset();
        sleep(Duration::from_millis(10)).await;
    }
    within("eighty large answers", reading.join_all()).await;
}

/// Urgent data stopped splice(2) at its mark, while the socket was reported as readable: the shard asked again and again.
#[tokio::test]
async fn an_urgent_byte_keeps_no_shard_busy() {
    const MARK: usize = 300_000;
    let origin = origin::names_requests(Go::new()).await;
    let proxy = Proxy::to(origin.address).await;
    let body = pattern::bytes(LARGE);
    let mut client = Raw::connect(proxy.address).await;
    client.send(format!("POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    client.send(&body[..MARK]).await;
    let begun = |all: &[origin::Traffic]| all.first().is_some_and(|traffic| traffic.bytes.len() > MARK);
    origin.recorder.wait_for("what comes before the urgent byte", begun).await;
    client.send_urgent(body[MARK]).await;
    client.send(&body[MARK + 1..2 * MARK]).await;
    proxy.counters().await;
    let (before, look) = (proxy.cpu_time(), Duration::from_secs(1));
    sleep(look).await;
    let used = proxy.cpu_time() - before;
    assert!(used < look / 5, "{used:?} of processor time in {look:?} without a byte");
    // HTTP knows no urgent data: the byte is one like any other, in its place.
    client.send(&body[2 * MARK..]).await;
    assert_eq!(client.answer_to("POST").await.status(), 200);
    let traffic = origin.recorder.traffic().swap_remove(0).bytes;
    pattern::assert_exact(&traffic[traffic.len() - LARGE..], LARGE);
}

/// What an origin sent behind a spliced answer stayed in the socket, unseen, and the connection went to the next
/// request, whose answer it became: one client could poison another's.
#[tokio::test]
async fn what_follows_a_large_answer_is_not_the_answer_to_the_next_of_a_pipeline() {
    let origin = origin::says_too_much_after_a_large_answer(LARGE).await;
    let proxy = Proxy::to(origin.address).await;
    for _ in 0..3 {
        let mut client = Raw::connect(proxy.address).await;
        let targets = ["/large", "/1", "/2", "/3"];
        client
            .send(targets.map(|target| format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).concat())
            .await;
        pattern::assert_exact(&client.answer_to("GET").await.body, LARGE);
        for target in &targets[1..] {
            assert_eq!(client.answer_to("GET").await.text(), *target);
        }
    }
}

/// Without descriptors for a pipe, an answer was cut in the middle.
#[tokio::test]
async fn large_bodies_pass_without_a_descriptor_to_spare() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/").await.text(), "real");
    proxy.refuse_descriptors();
    for _ in 0..3 {
        pattern::assert_exact(&client.ask("GET", &format!("/bytes/{LARGE}")).await.body, LARGE);
        client.send(format!("POST /copy HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n")).await;
        client.send(pattern::bytes(LARGE)).await;
        pattern::assert_exact(&client.answer_to("POST").await.body, LARGE);
    }
}

/// Connections that were accepted, but whose request was not read yet, counted as idle when the drain began.
#[tokio::test]
async fn a_drain_answers_what_came_before_it() {
    let origin = origin::real("real").await;
    // More than the kernel hands out at once.
    const CLIENTS: usize = 400;
    for round in 0..3 {
        let proxy = Proxy::to(origin.address).await;
        // Stopped, so that connections, requests and the signal are there all at once.
        proxy.signal(Signal::STOP);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
            clients.push(client);
        }
        proxy.signal(Signal::TERM);
        proxy.signal(Signal::CONT);
        for (nth, client) in clients.iter_mut().enumerate() {
            let answer = client.response("GET").await;
            let is_served = answer.as_ref().is_ok_and(|answer| answer.text() == "real");
            assert!(is_served, "round {round}, client {nth}: {answer:?}");
        }
        drop(clients);
        proxy.stopped().await.assert_clean();
    }
}

/// Interim answers were passed on without end, and collected in memory if the client did not read them.
#[tokio::test]
async fn a_flood_of_interim_answers_ends() {
    let origin = origin::hints(4_000).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    for _ in 0..16 {
        assert_eq!(client.head().await.status().unwrap(), 103);
    }
    assert_eq!(client.head().await.status().unwrap(), 502);
}

/// A client that had sent enough ahead was not received from any more, and then not even its reset was noticed: its
/// request, its buffers and its connection to the origin stayed.
#[tokio::test]
async fn a_client_that_sent_ahead_and_left_is_noticed() {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to(origin.address).await;
    for ahead in [0, 1, 2, PIECES, 2 * PIECES] {
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let busy = |now: &Counters| now.upstream_connections == 1;
        proxy.counters_until("the request is under way", busy).await;
        send_in_pieces(&mut client, &proxy, &"G".repeat(ahead)).await;
        client.reset();
        let nothing = |now: &Counters| {
            (now.connections, now.upstream_connections, now.tasks_busy, now.buffers_held) == (0, 0, 0, 0)
        };
        proxy.counters_until(&format!("nothing is left, {ahead} pieces ahead"), nothing).await;
    }
}

/// Sends byte after byte. Between two of them the proxy tells its counters, so that it receives each on its own.
async fn send_in_pieces(client: &mut Raw, proxy: &Proxy, bytes: &str) {
    for piece in bytes.as_bytes().chunks(1) {
        client.send(piece).await;
        proxy.counters().await;
    }
}

fn target(nth: usize) -> String {
    format!("/{nth:05}/")
}

/// Sends one request after the other, each once the one before is answered, and reads nothing, until the proxy takes
/// no more of them, or `most`; says how many were sent.
async fn ask_without_reading(client: &mut Raw, origin: &Origin, proxy: &Proxy, most: usize) -> usize {
    for nth in 0..most {
        client.send(format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", target(nth))).await;
        let line = format!("GET {} ", target(nth));
        let has = |all: &[origin::Traffic]| {
            let tail = all
                .last()
                .map_or(&[][..], |traffic| &traffic.bytes[traffic.bytes.len().saturating_sub(500)..]);
            String::from_utf8_lossy(tail).contains(&line)
        };
        // A host may stop for a while; by the time the proxy has reported its counters it has had its turn.
        if timeout(QUIET, origin.recorder.wait_for(&line, has)).await.is_err() {
            proxy.counters().await;
            if timeout(QUIET, origin.recorder.wait_for(&line, has)).await.is_err() {
                return nth + 1;
            }
        }
        // By now it has passed the answer on too.
        proxy.counters().await;
    }
    most
}

/// Panics unless all of `body` is one target, over and over.
fn assert_repeats(body: &str, length: usize) {
    assert_eq!(body, origin::repeated(&body[..target(0).len()], length));
}

/// One shard, where requests for `/wait` go to an origin that never answers, and all others to another.
async fn waiting_room(slow: &Origin, name: &str, other: &str) -> Proxy {
    let tables = format!(
        "{FEW_BUFFERS}[[upstream]]\nname = \"slow\"\nservers = [\"http://{}\"]\n\
         [[upstream]]\nname = \"{name}\"\nservers = [\"http://{other}\"]\n\
         [[route]]\npath = \"/wait\"\nupstream = \"slow\"\n\
         [[route]]\npath_prefix = \"/\"\nupstream = \"{name}\"\n",
        slow.address
    );
    Proxy::configured(1, &tables).await
}

/// This many clients, each with a request under way that is never answered.
async fn hogs(proxy: &Proxy, count: usize) -> Vec<Raw> {
    let requests = proxy.counters().await.requests + count as u64;
    let mut hogs = Vec::new();
    for _ in 0..count {
        let mut hog = Raw::connect(proxy.address).await;
        hog.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").await;
        hogs.push(hog);
    }
    proxy.counters_until("all of them wait", |now| now.requests >= requests).await;
    hogs
}
