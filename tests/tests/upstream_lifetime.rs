//! How long connections to servers are used: `upstream_connection_age` and `upstream_requests_per_connection`.

use std::time::{Duration, Instant};

use sluice_tests::{
    client::Raw,
    http2::Http2,
    origin::{self, Go},
    proxy::Proxy,
    upstream::{assert_nothing_left, by_connection, proxy_to},
    within,
};

/// One after the other.
async fn ask(client: &mut Raw, count: usize) {
    for nth in 0..count {
        assert_eq!(client.ask("GET", "/").await.status(), 200, "request {nth}");
    }
}

#[tokio::test]
async fn a_connection_has_as_many_requests_as_it_may() {
    let origin = origin::answers(origin::ok("yes")).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-upstream-requests-per-connection=3"]).await;
    let mut client = Raw::connect(proxy.address).await;
    ask(&mut client, 8).await;
    let requests = |all: &[origin::Traffic]| -> Vec<usize> {
        all.iter().map(|one| String::from_utf8_lossy(&one.bytes).matches("GET / ").count()).collect()
    };
    assert_eq!(requests(&origin.recorder.traffic()), [3, 3, 2]);
    origin.recorder.wait_for("the end of those", |all| all[0].ended && all[1].ended && !all[2].ended).await;
    let counters = proxy.counters().await;
    let named = |name| counters.named(name);
    assert_eq!(
        (named("upstream_max_requests"), named("upstream_max_age"), named("upstream_idle")),
        (2, 0, 1),
        "{counters:?}"
    );
    assert_eq!((counters.upstream_connects, counters.upstream_reuses), (3, 5));
    drop(client);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn an_idle_connection_ends_with_its_age() {
    let origin = origin::answers(origin::ok("yes")).await;
    let flags = ["--timeout-upstream-connection-age=2s", "--timeout-upstream-idle=1h"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address).await;
    ask(&mut client, 3).await;
    assert_eq!(origin.recorder.connections(), 1);
    origin.recorder.wait_for("its end", |all| all[0].ended).await;
    assert!(begun.elapsed() >= Duration::from_millis(1_750), "{:?}", begun.elapsed());
    ask(&mut client, 1).await;
    assert_eq!(origin.recorder.connections(), 2);
    drop(client);
    proxy.drain().await.assert_clean();
}

/// It is in use when its time is over: its response is complete, and nothing follows.
#[tokio::test]
async fn a_connection_in_use_ends_with_its_response() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-upstream-connection-age=300ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /late HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.recorder.wait_for("the request", |all| !all.is_empty() && !all[0].bytes.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!origin.recorder.traffic()[0].ended, "not before the response");
    go.steps(1);
    assert_eq!(client.answer_to("GET").await.text(), "signalled");
    origin.recorder.wait_for("its end", |all| all[0].ended).await;
    assert_eq!(proxy.counters().await.named("upstream_max_age"), 1);
    drop(client);
    proxy.drain().await.assert_clean();
}

/// HTTP/2: no stream too many, also when all are asked for at once; GOAWAY, and the responses under way are complete.
#[tokio::test]
async fn a_shared_connection_has_as_many_requests_as_it_may() {
    let origin = origin::reacts(&[], by_connection).await;
    let proxy = proxy_to(origin.origin.address, &["--limit-upstream-requests-per-connection=5"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut streams = Vec::new();
    for _ in 0..23 {
        streams.push(client.ask("GET", "/", &[]).await);
    }
    for stream in streams {
        assert_eq!(client.answer(stream).await.status(), 200);
    }
    let arrivals = origin.wait_for("four that have left", |all| all.ended.len() >= 4).await;
    let requests = |nth| arrivals.requests.keys().filter(|(of, _)| *of == nth).count();
    let all: Vec<usize> = (0..origin.origin.accepted()).map(requests).collect();
    assert!(all.iter().all(|count| *count <= 5) && all.iter().sum::<usize>() == 23, "{all:?}");
    assert!(
        arrivals.ended.iter().all(|nth| arrivals.go_aways.get(nth) == Some(&0)),
        "{:?}",
        arrivals.go_aways
    );
    assert_eq!(proxy.counters().await.named("upstream_max_requests"), 4);
    drop(client);
    assert_nothing_left(proxy).await;
}

#[tokio::test]
async fn a_shared_connection_ends_with_its_age() {
    let origin = origin::reacts(&[], by_connection).await;
    let flags = ["--timeout-upstream-connection-age=1s", "--timeout-upstream-idle=1h"];
    let proxy = proxy_to(origin.origin.address, &flags).await;
    let mut client = Http2::connect(proxy.address).await;
    let steady = async {
        loop {
            let stream = client.ask("GET", "/", &[]).await;
            let answer = client.answer(stream).await;
            assert_eq!(answer.status(), 200);
            if answer.text() == "2" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the third connection", steady).await;
    let arrivals = origin.wait_for("two that have left", |all| all.ended.len() >= 2).await;
    assert_eq!((arrivals.go_aways.get(&0), arrivals.go_aways.get(&1)), (Some(&0), Some(&0)));
    // Without another request.
    origin.wait_for("the end of the idle one", |all| all.ended.len() == 3).await;
    drop(client);
    assert_nothing_left(proxy).await;
}
