//! Copies of requests for a second group: the client's exchange is what it is without them, and they are bounded.

use std::time::{Duration, Instant};

use sluice_tests::{
    client::{self, Raw},
    http2::{Http2, frames, frames::flag},
    origin,
    proxy::Proxy,
};

/// A route to `app` at this address, with copies for `shadow` at the other.
fn tables(app: impl std::fmt::Display, shadow: impl std::fmt::Display, more: &str) -> String {
    format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"{app}\"]\n[[upstream]]\nname = \"shadow\"\nservers = [\"{shadow}\"]\n\
         [[route]]\nupstream = \"app\"\n{more}\n"
    )
}

const MIRROR: &str = "mirror.upstream = \"shadow\"";

#[tokio::test]
async fn a_second_group_gets_what_the_first_one_gets() {
    let app = origin::answers(origin::ok("app")).await;
    let shadows = (origin::real("shadow").await, origin::real_http2("shadow").await);
    for (url, shadow) in [
        (format!("http://{}", shadows.0.address), &shadows.0),
        (format!("h2c://{}", shadows.1.address), &shadows.1),
    ] {
        let more =
            format!("rewrite = \"/v2${{uri}}\"\nrequest_headers.set = [\"X-A: ${{method}}\"]\n{MIRROR}");
        let proxy = Proxy::configured(1, &tables(format!("http://{}", app.address), url, &more)).await;
        let mut h1 = Raw::connect(proxy.address).await;
        h1.send("POST /copy?q HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody").await;
        assert_eq!(h1.answer_to("POST").await.text(), "app");
        assert_eq!(h1.ask("HEAD", "/bytes/100000").await.status(), 200);
        assert_eq!(h1.ask("GET", "/bytes/100000").await.text(), "app");
        let mut h2 = Http2::connect(proxy.address).await;
        let stream = h2.ask("GET", "/chunked/100000", &[]).await;
        assert_eq!(h2.answer(stream).await.text(), "app");
        let counters = proxy.counters_until("four copies", |all| all.named("mirrors") == 4).await;
        assert_eq!(counters.named("mirrors_failed"), 0);
        let mut targets: Vec<_> = shadow
            .seen()
            .iter()
            .map(|seen| format!("{} {}", seen.method, seen.target.trim_start_matches("http://test")))
            .collect();
        targets.sort_unstable();
        assert_eq!(
            targets,
            ["GET /v2/bytes/100000", "GET /v2/chunked/100000", "HEAD /v2/bytes/100000", "POST /v2/copy?q"]
        );
        assert!(shadow.seen().iter().all(|seen| seen.field("x-a") == Some(seen.method.as_str())));
        proxy.drain().await.assert_clean();
    }
}

/// As many as there are to be, whoever asks.
#[tokio::test]
async fn a_share_is_copied() {
    let (app, shadow) = (origin::real("app").await, origin::real("shadow").await);
    let more = "mirror = { upstream = \"shadow\", percent = 20 }";
    let (app, url) = (format!("http://{}", app.address), format!("http://{}", shadow.address));
    let proxy = Proxy::configured(1, &tables(app, url, more)).await;
    let (mut one, mut other) = (Raw::connect(proxy.address).await, Raw::connect(proxy.address).await);
    for _ in 0..50 {
        one.ask("GET", "/one").await;
        other.ask("GET", "/other").await;
    }
    proxy.counters_until("a fifth of them", |all| all.named("mirrors") == 20).await;
    assert_eq!(shadow.seen().len(), 20);
}

/// Servers that refuse, hang, break off and talk nonsense: no client sees anything of it, nor waits.
#[tokio::test]
async fn whatever_becomes_of_a_copy_the_client_is_served() {
    let app = origin::real("app").await;
    let (refusing, hangs, garbage) =
        (origin::refusing(), origin::never_answers().await, origin::garbage().await);
    let (closes, cuts, endless) = (
        origin::closes_after_accept().await,
        origin::closes_mid_body(10).await,
        origin::drips("HTTP/1.1 200 OK\r\n\r\n").await,
    );
    for shadow in
        [refusing.address, hangs.address, garbage.address, closes.address, cuts.address, endless.address]
    {
        let more = format!("{MIRROR}\ntimeouts.upstream_response = \"1s\"");
        let url = format!("http://{}", app.address);
        let proxy = Proxy::configured(1, &tables(url, format!("http://{shadow}"), &more)).await;
        let mut client = Raw::connect(proxy.address).await;
        for _ in 0..3 {
            assert_eq!(client.ask("GET", "/").await.text(), "app");
        }
        proxy.counters_until("three failures", |all| all.named("mirrors_failed") == 3).await;
        assert_eq!(client.ask("GET", "/").await.text(), "app");
        let counters = proxy.counters().await;
        assert_eq!((counters.named("mirrors"), counters.local_responses), (0, 0));
    }
}

/// 300 requests while the second group hangs: all are answered, and 256 copies are under way.
#[tokio::test]
async fn copies_under_way_are_bounded() {
    let (app, hangs) = (origin::real("app").await, origin::never_answers().await);
    let urls = (format!("http://{}", app.address), format!("http://{}", hangs.address));
    let proxy = Proxy::configured(
        1,
        &tables(urls.0, urls.1, &format!("{MIRROR}\ntimeouts.upstream_response = \"1h\"")),
    )
    .await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..300 {
        assert_eq!(client.ask("GET", "/").await.text(), "app");
    }
    let counters = proxy.counters().await;
    assert_eq!((counters.named("mirrors_dropped"), counters.named("mirrors_failed")), (300 - 256, 0));
    // Those that hang are not waited for.
    let begun = Instant::now();
    drop(client);
    proxy.drain().await;
    assert!(begun.elapsed() < Duration::from_secs(60 * 30));
}

/// A body that is still coming is sent as it comes, to one server only.
#[tokio::test]
async fn a_body_that_is_still_coming_is_not_copied() {
    let (app, shadow) = (origin::real("app").await, origin::real("shadow").await);
    let urls = (format!("http://{}", app.address), format!("http://{}", shadow.address));
    let proxy = Proxy::configured(1, &tables(urls.0, urls.1, MIRROR)).await;
    let mut h1 = Raw::connect(proxy.address).await;
    h1.send("POST /copy HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nhalf").await;
    proxy.counters_until("a body that is incomplete", |all| all.named("mirrors_incomplete") == 1).await;
    h1.send("half").await;
    assert_eq!(h1.answer_to("POST").await.text(), "halfhalf");
    let mut h2 = Http2::connect(proxy.address).await;
    let stream = h2.open("POST", "/copy", &[]).await;
    proxy.counters_until("another", |all| all.named("mirrors_incomplete") == 2).await;
    h2.send(frames::data(stream, flag::END_STREAM, b"late")).await;
    assert_eq!(h2.answer(stream).await.text(), "late");
    assert_eq!(client::get(proxy.address, "/").await.text(), "app");
    proxy.counters_until("one copy", |all| all.named("mirrors") == 1).await;
    assert_eq!(shadow.only().target, "/");
}

/// Tunnels belong to one server.
#[tokio::test]
async fn tunnels_are_not_copied() {
    let (app, shadow) = (origin::switches_and_echoes().await, origin::answers(origin::ok("")).await);
    let urls = (format!("http://{}", app.address), format!("http://{}", shadow.address));
    let proxy =
        Proxy::configured(1, &tables(urls.0, urls.1, &format!("{MIRROR}\nupgrade = [\"own\"]"))).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /t HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n").await;
    assert_eq!(client.head().await.status().expect("a status"), 101);
    let counters = proxy.counters().await;
    let copied = ["mirrors", "mirrors_failed", "mirrors_dropped", "mirrors_incomplete"]
        .map(|name| counters.named(name));
    assert_eq!((copied, shadow.recorder.connections()), ([0; 4], 0));
}
