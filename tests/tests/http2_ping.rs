//! PING to peers that have fallen silent: those that answer stay, those that do not lose their connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sluice_tests::{
    assert_took,
    http2::{Http2, frames::kind},
    origin::{self, Http2Origin},
    proxy::Proxy,
};

/// A proxy in front of HTTP/2 servers that asks peers so often.
async fn proxy_to(origin: std::net::SocketAddr, keys: &str) -> Proxy {
    let group = format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"h2c://{origin}\"]\n[[route]]\nupstream = \"app\"\n"
    );
    Proxy::configured(1, &format!("[http2]\n{keys}\n{group}")).await
}

const OFTEN: &str = "upstream_ping_idle = \"200ms\"\nping_timeout = \"300ms\"\n";

/// Answers the first request of each connection from `good_from` on, and falls silent: it reads nothing any more.
async fn falls_silent(good_from: usize, answered: u32) -> Http2Origin {
    Http2Origin::scripted(&[], move |nth, mut http| async move {
        for stream in (1..).step_by(2) {
            http.wait(|http| http.streams.get(&stream).is_some_and(|one| one.is_complete)).await?;
            if nth < good_from && stream > answered {
                std::future::pending::<()>().await;
            }
            http.try_send(origin::answer(stream, &nth.to_string())).await?;
        }
        Ok(())
    })
    .await
}

/// Its requests do not wait for their timeouts, and the next ones get another connection.
#[tokio::test]
async fn a_silent_server_loses_its_connection() {
    let origin = falls_silent(1, 0).await;
    let proxy = proxy_to(origin.address, OFTEN).await;
    let mut client = Http2::connect(proxy.address).await;
    let begun = Instant::now();
    assert_eq!(client.get("/").await.status(), 502);
    assert_took(begun, Duration::from_millis(500), Duration::from_secs(60));
    assert_eq!(proxy.counters().await.named("h2_ping_timeouts"), 1);
    assert_eq!(client.get("/").await.text(), "1");
    assert_eq!(origin.accepted(), 2);
}

/// On a connection that has served others, a request that has no effect is sent again elsewhere.
#[tokio::test]
async fn a_request_to_a_server_that_fell_silent_is_repeated() {
    let origin = falls_silent(1, 1).await;
    let proxy = proxy_to(origin.address, OFTEN).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "0");
    assert_eq!(client.get("/").await.text(), "1");
    let counters = proxy.counters().await;
    assert_eq!((counters.named("h2_ping_timeouts"), counters.upstream_retries), (1, 1));
}

/// A server that takes its time and answers PINGs is alive.
#[tokio::test]
async fn a_slow_server_that_answers_stays() {
    let pings = Arc::new(AtomicUsize::new(0));
    let seen = pings.clone();
    let origin = Http2Origin::scripted(&[], move |_, mut http| {
        let seen = seen.clone();
        async move {
            http.wait(|http| http.frames.get(&kind::PING).is_some_and(|count| *count >= 4)).await?;
            seen.store(http.frames[&kind::PING], Ordering::Relaxed);
            http.try_send(origin::answer(1, "at last")).await?;
            while http.more().await? {}
            Ok(())
        }
    })
    .await;
    let proxy = proxy_to(origin.address, "upstream_ping_idle = \"50ms\"\nping_timeout = \"30s\"\n").await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.text(), "at last");
    assert!(pings.load(Ordering::Relaxed) >= 4);
    assert_eq!(proxy.counters().await.named("h2_ping_timeouts"), 0);
    assert_eq!(client.frames.get(&kind::PING), None, "clients are not asked by default");
}

#[tokio::test]
async fn clients_are_asked_where_that_is_configured() {
    let origin = origin::http2_only_listens().await;
    let keys = "ping_idle = \"100ms\"\nping_timeout = \"400ms\"\nupstream_ping_idle = \"0s\"\n";
    let proxy = proxy_to(origin.address, keys).await;
    let mut client = Http2::connect(proxy.address).await;
    client.ask("GET", "/", &[]).await;
    client.until("PINGs", |all| all.frames.get(&kind::PING).is_some_and(|count| *count >= 3)).await;
    assert_eq!(proxy.counters().await.named("h2_ping_timeouts"), 0);
    // It reads nothing from here on, so that no PING is answered.
    proxy.counters_until("it is taken for dead", |now| now.named("h2_ping_timeouts") == 1).await;
    proxy.counters_until("its connection is gone", |now| now.connections == 0).await;
    client.closed().await;
}
