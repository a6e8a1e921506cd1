//! A second copy of a request, to another server, when the first one takes too long: which is answered, and what becomes of the other.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use sluice_tests::{
    client::Raw,
    http2::{Ended, frames::code},
    origin::{self, Go, Http2Origin, Origin, Peer, ok},
    proxy::Proxy,
    upstream::assert_nothing_left,
};

/// One shard in front of these servers, in this order, with a second copy after 100 ms.
async fn hedging(scheme: &str, servers: &[SocketAddr], keys: &str) -> Proxy {
    let servers: Vec<_> = servers.iter().map(|address| format!("\"{scheme}://{address}\"")).collect();
    let tables = format!(
        "[[upstream]]\nname = \"app\"\nservers = [{}]\n[upstream.retry]\nhedge_after = \"100ms\"\n{keys}\n\
         [[route]]\nupstream = \"app\"\n",
        servers.join(", ")
    );
    Proxy::configured(1, &tables).await
}

/// Reads requests, and answers each with this text after a while.
async fn answers_after(pause: Duration, text: &'static str) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            peer.request().await?;
            tokio::time::sleep(pause).await;
            peer.answer(text).await?;
        }
    })
    .await
}

#[tokio::test]
async fn the_second_server_answers_for_one_that_hangs() {
    let (silent, good) = (origin::never_answers().await, origin::answers(ok("good")).await);
    let proxy = hedging("http", &[silent.address, good.address], "").await;
    let begun = Instant::now();
    for nth in 0..6 {
        let answer = Raw::connect(proxy.address).await.ask("GET", &format!("/{nth}")).await;
        assert_eq!((answer.status(), &*answer.text()), (200, "good"), "{nth}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    // What the other one had is given up at once.
    silent.recorder.wait_for("its connections end", |all| all.iter().all(|one| one.ended)).await;
    let counters = proxy.counters().await;
    let hedges = counters.named("upstream_hedges");
    assert!((3..=6).contains(&hedges), "{counters:?}");
    assert_eq!(counters.named("upstream_hedges_won"), hedges);
    assert_eq!(counters.upstream_retries, 0);
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn the_first_server_may_still_win() {
    let (slow, silent) =
        (answers_after(Duration::from_millis(600), "slow").await, origin::never_answers().await);
    let proxy = hedging("http", &[slow.address, silent.address], "").await;
    let answer = Raw::connect(proxy.address).await.ask("GET", "/").await;
    assert_eq!(answer.text(), "slow");
    silent.recorder.wait_for("the second one is given up", |all| all.len() == 1 && all[0].ended).await;
    let counters = proxy.counters().await;
    assert_eq!((counters.named("upstream_hedges"), counters.named("upstream_hedges_won")), (1, 0));
    assert_nothing_left(proxy).await;
}

/// It ends with the head of the response, however long its body takes.
#[tokio::test]
async fn the_other_is_given_up_when_the_head_has_come() {
    let go = Go::new();
    let waits = go.clone();
    let slow = Origin::scripted(move |mut peer: Peer| {
        let go = waits.clone();
        async move {
            peer.request().await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl").await?;
            go.wait().await?;
            peer.send("ow").await
        }
    })
    .await;
    let silent = origin::never_answers().await;
    let proxy = hedging("http", &[slow.address, silent.address], "").await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    silent.recorder.wait_for("the second one is given up", |all| all.len() == 1 && all[0].ended).await;
    go.steps(1);
    assert_eq!(client.answer_to("GET").await.text(), "slow");
    drop(client);
    assert_nothing_left(proxy).await;
}

/// Over HTTP/2 it is a stream that is reset, and its connection goes on.
#[tokio::test]
async fn the_stream_that_lost_is_reset() {
    let silent = Http2Origin::scripted(&[], |_, mut http| async move {
        http.wait(|http| {
            http.streams.get(&1).is_some_and(|one| one.ended == Some(Ended::Reset(code::CANCEL)))
        })
        .await?;
        while http.more().await? {}
        Ok(())
    })
    .await;
    let good =
        origin::reacts(&[], |_, stream, request| request.is_complete.then(|| origin::answer(stream, "good")))
            .await;
    let proxy = hedging("h2c", &[silent.address, good.origin.address], "").await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), "good");
    assert_eq!(proxy.counters().await.named("upstream_hedges_won"), 1);
    assert_eq!(silent.accepted(), 1);
    proxy.counters_until("both connections go on", |now| now.upstream_connections == 2).await;
    assert_nothing_left(proxy).await;
}

/// A request with an effect, and one whose body is still coming, are with one server only.
#[tokio::test]
async fn what_may_not_be_sent_twice_is_not() {
    let one = answers_after(Duration::from_millis(500), "one").await;
    let other = answers_after(Duration::from_millis(500), "other").await;
    let proxy = hedging("http", &[one.address, other.address], "").await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("POST /post HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_eq!(client.answer_to("POST").await.status(), 200);
    client.send("PUT /put HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbo").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send("dy").await;
    assert_eq!(client.answer_to("PUT").await.status(), 200);
    let arrived = one.recorder.text() + &other.recorder.text();
    assert_eq!((arrived.matches("POST /post").count(), arrived.matches("PUT /put").count()), (1, 1));
    assert_eq!(proxy.counters().await.named("upstream_hedges"), 0);
}

#[tokio::test]
async fn a_hedge_needs_another_server_and_a_budget() {
    let slow = answers_after(Duration::from_millis(400), "slow").await;
    let alone = hedging("http", &[slow.address], "").await;
    assert_eq!(Raw::connect(alone.address).await.ask("GET", "/").await.text(), "slow");
    assert_eq!(alone.counters().await.named("upstream_hedges"), 0);
    let other = answers_after(Duration::from_millis(400), "slow").await;
    let poor = hedging("http", &[slow.address, other.address], "budget = 0\nbudget_min = 0").await;
    assert_eq!(Raw::connect(poor.address).await.ask("GET", "/").await.text(), "slow");
    let counters = poor.counters().await;
    assert_eq!(
        (counters.named("upstream_hedges"), counters.named("upstream_retry_budget_exhausted")),
        (0, 1)
    );
}

/// One that fails while the other is asked leaves the other; the end of both is an end.
#[tokio::test]
async fn one_that_fails_leaves_the_other() {
    async fn dies_after(pause: Duration) -> Origin {
        Origin::scripted(move |mut peer: Peer| async move {
            peer.request().await?;
            tokio::time::sleep(pause).await;
            peer.reset()
        })
        .await
    }
    let (dying, slow) = (
        dies_after(Duration::from_millis(300)).await,
        answers_after(Duration::from_millis(900), "slow").await,
    );
    let proxy = hedging("http", &[dying.address, slow.address], "").await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), "slow");
    assert_nothing_left(proxy).await;
    let other = dies_after(Duration::from_millis(500)).await;
    let proxy = hedging("http", &[dying.address, other.address], "attempts = 2").await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.status(), 502);
    assert_nothing_left(proxy).await;
}

/// The one that fails counts for its server although the other one has answered.
#[tokio::test]
async fn a_failure_counts_whoever_answers() {
    let broken = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        peer.reset()
    })
    .await;
    let slow = answers_after(Duration::from_millis(600), "slow").await;
    let keys = "[upstream.ejection]\nfailures = 2\ntime = \"60s\"";
    let proxy = hedging("http", &[broken.address, slow.address], keys).await;
    for _ in 0..4 {
        assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), "slow");
    }
    proxy
        .line(&format!(
            "upstream app: http://{} is ejected for 1m: 2 requests in a row failed",
            broken.address
        ))
        .await;
}

/// The server that has the request is not connected to once more where the other one cannot be reached.
#[tokio::test]
async fn without_another_server_the_first_one_gets_no_second_connection() {
    let slow = answers_after(Duration::from_millis(400), "slow").await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = hedging("http", &[slow.address, closed], "").await;
    // The first request: only its hedge finds out that the other one refuses.
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), "slow");
    assert_eq!(proxy.counters().await.named("upstream_hedges"), 1);
    assert_eq!(slow.recorder.connections(), 1);
    assert_nothing_left(proxy).await;
}

/// A server that gets only what sticks to it is no second one.
#[tokio::test]
async fn a_server_without_a_share_is_not_asked() {
    let (slow, leaving) =
        (answers_after(Duration::from_millis(400), "slow").await, origin::answers(ok("leaving")).await);
    let keys = format!("[[upstream.server]]\nurl = \"http://{}\"\nweight = 0\n", leaving.address);
    let proxy = hedging("http", &[slow.address], &keys).await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), "slow");
    assert_eq!(proxy.counters().await.named("upstream_hedges"), 0);
}

#[tokio::test]
async fn a_client_that_leaves_ends_both() {
    let (one, other) = (origin::never_answers().await, origin::never_answers().await);
    let proxy = hedging("http", &[one.address, other.address], "").await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    for origin in [&one, &other] {
        origin.recorder.wait_for("both are asked", |all| all.len() == 1).await;
    }
    client.reset();
    for origin in [&one, &other] {
        origin.recorder.wait_for("both are given up", |all| all[0].ended).await;
    }
    assert_nothing_left(proxy).await;
}
