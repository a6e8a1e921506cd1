//! Connections of HTTP/2 to servers: how requests share them, when there is another one, how they end, and what is repeated then.

use rustix::process::Signal;
use sluice_tests::{
    eventually,
    http2::{
        Ended, Http2,
        frames::{self, code, flag, setting},
    },
    origin::{self, Go},
    proxy::Proxy,
    upstream::{assert_nothing_left, by_connection, path, proxy_to},
    within,
};
use tokio::task::JoinSet;

// ---- connections ----

async fn together(proxy: &Proxy, clients: usize, each: usize) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let mut client = Http2::connect(proxy.address).await;
        let mut streams = Vec::new();
        for _ in 0..each {
            streams.push(client.ask("GET", "/", &[]).await);
        }
        all.spawn(async move {
            for stream in streams {
                assert_eq!(client.answer(stream).await.status(), 200);
            }
        });
    }
    all
}

/// Answers on demand, all that there is.
async fn holds(settings: &'static [(u16, u32)], go: Go) -> origin::Http2Origin {
    origin::Http2Origin::scripted(settings, move |_, mut http| {
        let go = go.clone();
        async move {
            let mut answered = 0;
            let mut is_told = false;
            loop {
                tokio::select! {
                    biased;
                    more = http.more() => if !more? { return Ok(()) },
                    told = go.wait(), if !is_told => {
                        told?;
                        go.steps(1);
                        is_told = true;
                    }
                }
                let open: Vec<u32> = http.streams.range(answered + 1..).map(|(id, _)| *id).collect();
                if is_told {
                    for stream in open {
                        http.try_send(origin::answer(stream, "held")).await?;
                        answered = stream;
                    }
                }
            }
        }
    })
    .await
}

/// Of 20 clients with 4 requests each on one connection, and with connections for 10 at most.
#[tokio::test]
async fn many_clients_share_few_connections() {
    for (settings, flags, least, most) in [
        (&[][..], vec![], 1, 1),
        (&[], vec!["--limit-upstream-streams=10"], 8, 10),
        (&[(setting::MAX_CONCURRENT_STREAMS, 10)], vec![], 8, 10),
        (&[(setting::MAX_CONCURRENT_STREAMS, 1)], vec![], 80, 82),
    ] {
        let go = Go::new();
        let origin = holds(settings, go.clone()).await;
        let proxy = proxy_to(origin.address, &flags).await;
        let mut clients = together(&proxy, 20, 4).await;
        proxy
            .counters_until("all are on their way", |now| {
                now.requests == 80 && now.named("upstream_connections") >= least
            })
            .await;
        go.steps(1);
        while let Some(ended) = clients.join_next().await {
            ended.expect("all responses");
        }
        let accepted = origin.accepted() as u64;
        assert!((least..=most).contains(&accepted), "{accepted} connections with {settings:?} {flags:?}");
        assert_nothing_left(proxy).await;
    }
}

/// Before the last stream is used, and no sooner.
#[tokio::test]
async fn the_next_connection_is_made_before_the_streams_are_used_up() {
    let go = Go::new();
    let origin = holds(&[(setting::MAX_CONCURRENT_STREAMS, 16)], go.clone()).await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    client.ask("GET", "/", &[]).await;
    let is_busy = |now: &sluice_tests::proxy::Counters| {
        now.upstream_connections == 1 && now.named("upstream_idle") == 0
    };
    proxy.counters_until("the first connection", is_busy).await;
    for _ in 1..13 {
        client.ask("GET", "/", &[]).await;
    }
    proxy.counters_until("13 requests", |now| now.requests == 13).await;
    assert_eq!(proxy.counters().await.upstream_connects, 1);
    client.ask("GET", "/", &[]).await;
    proxy.counters_until("the second connection", |now| now.named("upstream_connections") == 2).await;
    go.steps(1);
    client.until("all", |all| all.streams.values().filter(|one| one.is_complete).count() == 14).await;
}

/// Settings that come later: fewer streams than there are, and then more again.
#[tokio::test]
async fn a_limit_that_is_lowered_later_holds() {
    let origin = origin::Http2Origin::scripted(&[], |nth, mut http| async move {
        let mut answered = 0;
        loop {
            http.wait(|http| http.streams.range(answered + 1..).any(|(_, one)| one.is_complete)).await?;
            let open: Vec<u32> = http.streams.range(answered + 1..).map(|(id, _)| *id).collect();
            if nth == 0 && answered > 0 {
                assert!(open.len() <= 1, "more streams than were permitted");
            }
            answered = open[0];
            let lower = frames::settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]);
            http.try_send([lower, origin::answer(answered, "fine")].concat()).await?;
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "fine");
    }
    let streams = [client.ask("GET", "/", &[]).await, client.ask("GET", "/", &[]).await];
    for stream in streams {
        assert_eq!(client.answer(stream).await.text(), "fine");
    }
    drop(client);
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_goaway() {
    let origin = origin::reacts(&[], by_connection).await;
    let proxy = proxy_to(origin.origin.address, &["--timeout-upstream-idle=300ms"]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "0");
    let all = origin.wait_for("the end", |all| all.ended.contains(&0)).await;
    assert_eq!(all.go_aways.get(&0), Some(&code::NO_ERROR));
    proxy.counters_until("no connection", |now| now.upstream_connections == 0).await;
    assert_eq!(client.get("/").await.text(), "1");
}

/// What waits for one connection shares its failure, however long that takes.
#[tokio::test]
async fn a_server_that_is_down_is_tried_once_for_all_that_wait() {
    let refusing = origin::refusing();
    let hanging = origin::unreachable().await;
    let silent = origin::never_answers().await;
    let garbage = origin::garbage().await;
    for (address, status, connects_max) in [
        (refusing.address, 502, 400),
        (hanging.address, 504, 20),
        // Servers that do not speak HTTP/2: one waits for a request, one answers with something else.
        (silent.address, 504, 20),
        (garbage.address, 502, 400),
    ] {
        let flags = ["--timeout-upstream-connect=700ms", "--http2-streams=1000"];
        let proxy = proxy_to(address, &flags).await;
        let mut client = Http2::connect(proxy.address).await;
        let mut streams = Vec::new();
        for _ in 0..500 {
            streams.push(client.ask("GET", "/", &[]).await);
        }
        for stream in streams {
            assert_eq!(client.answer(stream).await.status(), status);
        }
        let now = proxy.counters().await;
        let connects = now.upstream_connects + now.named("upstream_connect_errors");
        assert!(
            connects <= connects_max,
            "{connects} connects for 500 requests, each of which is a {status}"
        );
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// A server that permits no stream, or leaves at once, is not connected to again and again.
#[tokio::test]
async fn a_server_without_streams_is_a_503() {
    let leaves = origin::Http2Origin::scripted(&[], |_, mut http| async move {
        http.try_send(frames::go_away(0, code::NO_ERROR)).await?;
        while http.more().await? {}
        Ok(())
    })
    .await;
    let none = origin::reacts(&[(setting::MAX_CONCURRENT_STREAMS, 0)], by_connection).await;
    for origin in [&leaves, &none.origin] {
        let proxy = proxy_to(origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..3 {
            let status = client.get("/").await.status();
            assert!([502, 503].contains(&status), "{status}");
        }
        // Four attempts for each, and a connection may be over before it has the request.
        assert!(origin.accepted() <= 3 * 4 * 2, "{} connections for 3 requests", origin.accepted());
        drop(client);
        proxy.counters_until("no connection", |now| now.upstream_connections == 0).await;
        assert_nothing_left(proxy).await;
    }
}

// ---- what is repeated ----

/// Streams above the last one of GOAWAY are repeated on another connection, POST with a complete body too; others go on.
#[tokio::test]
async fn goaway_repeats_what_was_not_processed() {
    let origin = origin::Http2Origin::scripted(&[], |nth, mut http| async move {
        if nth == 0 {
            http.wait(|http| {
                [1, 3, 5].iter().all(|id| http.streams.get(id).is_some_and(|one| one.is_complete))
            })
            .await?;
            http.try_send(frames::go_away(1, code::NO_ERROR)).await?;
        }
        let mut answered = 0;
        loop {
            http.wait(|http| http.streams.range(answered + 1..).any(|(_, one)| one.is_complete)).await?;
            answered = *http.streams.range(answered + 1..).next().expect("one").0;
            let request = &http.streams[&answered];
            let text = format!("{nth} {} {}", path(request), request.text());
            http.try_send(origin::answer(answered, &text)).await?;
            if nth == 0 {
                while http.more().await? {}
                return Ok(());
            }
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    let first = client.ask("GET", "/first", &[]).await;
    proxy.counters_until("the first", |now| now.upstream_connects == 1).await;
    let second = client.ask("GET", "/second", &[]).await;
    let block = frames::block(&frames::request("POST", "/third", &[("content-length", "4")]));
    let third = client.next_stream();
    client
        .send([frames::headers(third, 0, block), frames::data(third, flag::END_STREAM, "body")].concat())
        .await;
    assert_eq!(client.answer(first).await.text(), "0 /first ");
    assert_eq!(client.answer(second).await.text(), "1 /second ");
    assert_eq!(client.answer(third).await.text(), "1 /third body");
    assert_eq!(proxy.counters().await.upstream_retries, 2);
    assert_eq!(client.get("/later").await.text(), "1 /later ");
    drop(client);
    assert_nothing_left(proxy).await;
}

/// Also when it has a body of unknown length and trailers that have come completely, as gRPC calls do.
#[tokio::test]
async fn a_refused_request_is_repeated_with_its_body_and_trailers() {
    let origin = origin::reacts(&[], |_, stream, request| {
        let refused = || frames::reset(stream, code::REFUSED_STREAM);
        let text = || origin::answer(stream, &format!("{} {}", request.text(), request.trailers.is_some()));
        request.is_complete.then(|| if stream <= 3 { refused() } else { text() })
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    let block = frames::block(&frames::request("POST", "/", &[("te", "trailers")]));
    let trailers = frames::headers(1, flag::END_STREAM, frames::block(&[("x-sum", "1")]));
    let stream = client.next_stream();
    client
        .send([frames::headers(stream, 0, block), frames::data(stream, 0, "body"), trailers].concat())
        .await;
    assert_eq!(client.answer(stream).await.text(), "body true");
    assert_eq!(proxy.counters().await.upstream_retries, 2);
    drop(client);
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn a_server_that_always_refuses_is_not_asked_for_ever() {
    let origin = origin::resets_requests(code::REFUSED_STREAM).await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    for nth in 1..=3 {
        let status = client.get("/").await.status();
        assert_eq!(status, 502);
        assert_eq!(proxy.counters().await.upstream_retries, 3 * nth);
    }
    drop(client);
    assert_nothing_left(proxy).await;
}

/// Refused by one server, taken by the other.
#[tokio::test]
async fn a_refused_request_goes_to_another_server() {
    let (refusing, taking) =
        (origin::resets_requests(code::REFUSED_STREAM).await, origin::real_http2("real").await);
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"h2c://{}\", \"h2c://{}\"]\n[[route]]\nupstream = \"app\"\n",
        refusing.address, taking.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut client = Http2::connect(proxy.address).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "real");
    }
    assert!(proxy.counters().await.upstream_retries >= 5);
}

/// The connection is lost with requests on it: what has no effect goes out once more, the rest fails.
#[tokio::test]
async fn a_lost_connection_repeats_what_has_no_effect_once() {
    let origin = origin::Http2Origin::scripted(&[], |nth, mut http| async move {
        if nth == 0 {
            http.wait(|http| http.streams.get(&1).is_some_and(|one| one.is_complete)).await?;
            http.try_send(origin::answer(1, "warm")).await?;
            http.wait(|http| http.streams.len() == 4 && http.streams.values().all(|one| one.is_complete))
                .await?;
            let begun = frames::headers(7, 0, frames::block(&[(":status", "200")]));
            http.try_send([begun, frames::data(7, 0, "part")].concat()).await?;
            // The part is on its way to its client before the end.
            http.try_send(frames::ping(*b"a moment")).await?;
            return http.wait(|http| !http.pongs.is_empty()).await;
        }
        loop {
            http.wait(|http| http.streams.values().any(|one| one.is_complete)).await?;
            let streams: Vec<u32> = std::mem::take(&mut http.streams).into_keys().collect();
            for stream in streams {
                http.try_send(origin::answer(stream, "again")).await?;
            }
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "warm");
    let get = client.ask("GET", "/", &[]).await;
    let post = client.ask("POST", "/", &[]).await;
    let begun = client.ask("GET", "/begun", &[]).await;
    assert_eq!(client.answer(get).await.text(), "again");
    assert_eq!(client.answer(post).await.status(), 502);
    let cut = client.answer(begun).await;
    assert!(matches!(cut.ended, Some(Ended::Reset(code)) if code != code::NO_ERROR), "{cut:?}");
    assert_eq!(proxy.counters().await.upstream_retries, 1);
    drop(client);
    assert_nothing_left(proxy).await;
}

/// Whether an end of a connection to this port of loopback has not heard of the end of the other side.
fn is_connected_to(port: u16) -> bool {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's sockets");
    let remote = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&*remote) && fields.next() == Some(ESTABLISHED)
    })
}

/// A server that ends its connection while it is idle, in the moment in which the next request comes: it does not fail, whatever
/// its method.
#[tokio::test]
async fn a_connection_that_ended_while_idle_is_not_used() {
    let (go, gone) = (Go::new(), Go::new());
    let (leave, left) = (go.clone(), gone.clone());
    let origin = origin::Http2Origin::scripted(&[], move |nth, mut http| {
        let (go, gone) = (leave.clone(), left.clone());
        async move {
            http.wait(|http| http.streams.get(&1).is_some_and(|one| one.is_complete)).await?;
            http.try_send(origin::answer(1, &nth.to_string())).await?;
            // What it has to acknowledge is read, so that its end is an orderly one.
            tokio::select! {
                told = go.wait() => told?,
                ended = http.wait(|_| false) => ended?,
            }
            drop(http);
            gone.steps(1);
            Ok(())
        }
    })
    .await;
    let proxy = proxy_to(origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "0");
    for nth in 1..=5 {
        client.assert_open().await;
        proxy.freeze().await;
        let stream = client.ask("POST", "/", &[]).await;
        go.steps(1);
        within("the end", gone.wait()).await.expect("it ends");
        // On a busy host it takes a moment through the kernel.
        eventually("the end at the proxy", async || !is_connected_to(origin.address.port())).await;
        proxy.signal(Signal::CONT);
        assert_eq!(client.answer(stream).await.text(), nth.to_string());
    }
    drop(client);
    assert_nothing_left(proxy).await;
}
