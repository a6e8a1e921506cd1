//! Keys that a route or an upstream has for itself: each is in force there, and nowhere else.

use std::time::{Duration, Instant};

use sluice_tests::{
    assert_took,
    client::{self, Raw},
    origin,
    proxy::{Counters, Proxy},
};

/// What a route may take where nothing else is said: above what any test waits for.
const DEFAULT: Duration = Duration::from_secs(60);

fn upstream(name: &str, server: impl std::fmt::Display, keys: &str) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{server}\"]\n{keys}\n")
}

fn route(upstream: &str, path: &str, keys: &str) -> String {
    format!("[[route]]\nupstream = \"{upstream}\"\npath = \"{path}\"\n{keys}\n")
}

/// `key` is one of the timeouts that end with 504 where a server does not answer; `other` is the other one.
///
/// Each of three scopes is the shortest once, which shows in the request's end, and the longest once, which shows in its
/// beginning: all else has an hour.
async fn timeouts_of_all_scopes(key: &str, other: &str, counter: &str) {
    const HOUR: &str = "1h";
    let origin = origin::never_answers().await;
    let of = |time: &str| format!("timeouts.{key} = \"{time}\"");
    for (file, least) in
        [(HOUR, [None, Some(300), Some(400)]), ("300ms", [Some(300), Some(1200), Some(1500)])]
    {
        let (of_upstream, of_route) = if file == HOUR { ("300ms", "400ms") } else { ("1200ms", "1500ms") };
        let wide = if file == HOUR { HOUR } else { "300ms" };
        let tables = [
            format!("timeouts = {{ upstream_connect = \"1h\", {other} = \"1h\", {key} = \"{file}\" }}\n"),
            upstream("plain", origin.address, ""),
            upstream("own", origin.address, &of(of_upstream)),
            upstream("wide", origin.address, &of(wide)),
            route("plain", "/file", ""),
            route("own", "/upstream", ""),
            route("wide", "/route", &of(of_route)),
        ];
        let proxy = Proxy::configured(1, &tables.concat()).await;
        let expected = ["/file", "/upstream", "/route"].into_iter().zip(least);
        let expected = expected.filter_map(|(path, least)| Some((path, least?)));
        let mut ended = 0;
        for (path, least) in expected {
            let begun = Instant::now();
            assert_eq!(client::get(proxy.address, path).await.status(), 504, "{key} {path}");
            assert_took(begun, Duration::from_millis(least), DEFAULT);
            ended += 1;
        }
        assert_eq!(proxy.counters().await.named(counter), ended, "{key}");
    }
}

#[tokio::test]
async fn upstream_response_of_file_upstream_and_route() {
    timeouts_of_all_scopes("upstream_response", "request", "upstream_timeouts").await;
}

#[tokio::test]
async fn request_of_file_upstream_and_route() {
    timeouts_of_all_scopes("request", "upstream_response", "request_timeouts").await;
}

#[tokio::test]
async fn upstream_connect_of_one_upstream() {
    let unreachable = origin::unreachable().await;
    let tables = [
        "timeouts.upstream_connect = \"1h\"\n".to_owned(),
        upstream("quick", unreachable.address, "timeouts.upstream_connect = \"300ms\""),
        upstream("patient", unreachable.address, "timeouts.upstream_connect = \"1200ms\""),
        route("quick", "/quick", ""),
        route("patient", "/patient", ""),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    for (path, least) in [("/quick", 300), ("/patient", 1200)] {
        let begun = Instant::now();
        assert_eq!(client::get(proxy.address, path).await.status(), 504, "{path}");
        assert_took(begun, Duration::from_millis(least), DEFAULT);
    }
    assert_eq!(proxy.counters().await.named("upstream_connect_timeouts"), 2);
}

#[tokio::test]
async fn upstream_idle_of_one_upstream() {
    let (brief, lasting) =
        (origin::answers(origin::ok("brief")).await, origin::answers(origin::ok("lasting")).await);
    let tables = [
        upstream("brief", brief.address, "timeouts.upstream_idle = \"300ms\""),
        upstream("lasting", lasting.address, "timeouts.upstream_idle = \"1h\""),
        route("brief", "/brief", ""),
        route("lasting", "/lasting", ""),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    for path in ["/lasting", "/brief"] {
        assert_eq!(client::get(proxy.address, path).await.text(), path[1..]);
    }
    brief.recorder.wait_for("the end of the idle connection", |all| all[0].ended).await;
    assert!(!lasting.recorder.traffic()[0].ended, "the other upstream's has an hour");
    for path in ["/lasting", "/brief"] {
        assert_eq!(client::get(proxy.address, path).await.text(), path[1..]);
    }
    assert_eq!((lasting.recorder.connections(), brief.recorder.connections()), (1, 2));
}

#[tokio::test]
async fn idle_connections_of_one_upstream() {
    let (none, some) = (origin::answers(origin::ok("none")).await, origin::answers(origin::ok("some")).await);
    let tables = [
        upstream("none", none.address, "limits.upstream_idle_connections = 0"),
        upstream("some", some.address, ""),
        route("none", "/none", ""),
        route("some", "/some", ""),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        for path in ["/none", "/some"] {
            assert_eq!(client.ask("GET", path).await.text(), path[1..]);
        }
    }
    assert_eq!((none.recorder.connections(), some.recorder.connections()), (3, 1));
    // The other way round: the file keeps none, one upstream does.
    let tables = tables.concat().replace("connections = 0", "connections = 5");
    let proxy = Proxy::configured(1, &format!("limits.upstream_idle_connections = 0\n{tables}")).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        for path in ["/none", "/some"] {
            assert_eq!(client.ask("GET", path).await.text(), path[1..]);
        }
    }
    assert_eq!((none.recorder.connections(), some.recorder.connections()), (3 + 1, 1 + 3));
}

#[tokio::test]
async fn body_bytes_of_file_upstream_and_route() {
    let origin = origin::real("real").await;
    let tables = [
        "limits.body_bytes = 1000\n".to_owned(),
        upstream("plain", origin.address, ""),
        upstream("own", origin.address, "limits.body_bytes = 2000"),
        route("plain", "/plain", ""),
        route("own", "/upstream", ""),
        route("own", "/route", "limits.body_bytes = 500"),
        route("own", "/any", "limits.body_bytes = 0"),
    ];
    let proxy = Proxy::configured(1, &tables.concat()).await;
    for (path, most) in [("/plain", 1000), ("/upstream", 2000), ("/route", 500)] {
        for (size, status) in [(most, 200), (most + 1, 413)] {
            for body in [
                format!("Content-Length: {size}\r\n\r\n{}", "x".repeat(size)),
                format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)),
            ] {
                let mut client = Raw::connect(proxy.address).await;
                // Refused at its head, the rest of a request may meet a closed connection.
                let _ = client.try_send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{body}")).await;
                assert_eq!(client.answer_to("POST").await.status(), status, "{path} {size} {:.30}", body);
            }
        }
    }
    let body = format!("Content-Length: 5000\r\n\r\n{}", "x".repeat(5000));
    let answer = client::exchange(proxy.address, format!("POST /any HTTP/1.1\r\nHost: a\r\n{body}")).await;
    assert_eq!(answer.status(), 200, "no limit");
    proxy.counters_until("each is counted", |now: &Counters| now.named("bodies_too_large") == 6).await;
}
