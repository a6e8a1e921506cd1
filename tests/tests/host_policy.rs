//! Which Host a server gets: the client's, or its own.

use sluice_tests::{client, origin, proxy::Proxy};

fn host(text: &str) -> &str {
    text.split("\r\nHost: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or_default()
}

#[tokio::test]
async fn the_client_s_unless_it_is_asked_for() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to(origin.address).await;
    client::exchange(proxy.address, "GET / HTTP/1.1\r\nHost: Shop.example:81\r\n\r\n").await;
    assert_eq!(host(&origin.recorder.text()), "Shop.example:81");
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to_with(origin.address, &["--upstream-host", "server"]).await;
    client::exchange(proxy.address, "GET / HTTP/1.1\r\nHost: Shop.example:81\r\n\r\n").await;
    let text = origin.recorder.text();
    assert_eq!(host(&text), origin.address.to_string());
    assert!(text.contains("X-Forwarded-Host: Shop.example:81\r\n"), "the client's is not lost: {text}");
}

#[tokio::test]
async fn each_server_gets_its_own_and_routes_differ() {
    let (one, two) = (origin::answers(origin::ok("ok")).await, origin::answers(origin::ok("ok")).await);
    let tables = format!(
        "[[upstream]]\nname = \"both\"\nservers = [\"http://{}\", \"http://localhost:{}\"]\nsend_host = \"server\"\n\
         [[route]]\nupstream = \"both\"\n[[route]]\npath = \"/kept\"\nupstream = \"both\"\nsend_host = \"client\"\n",
        one.address,
        two.address.port()
    );
    let proxy = Proxy::configured(1, &tables).await;
    let body = "x".repeat(100_000);
    for _ in 0..3 {
        for target in ["/", "/kept"] {
            // Once for each server.
            for _ in 0..2 {
                let answer = client::exchange(
                    proxy.address,
                    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"),
                );
                assert_eq!(answer.await.status(), 200);
            }
        }
        // One that is streamed.
        for _ in 0..2 {
            let length = body.len();
            let post =
                format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n{body}");
            assert_eq!(client::exchange(proxy.address, post).await.status(), 200);
        }
    }
    for (origin, name) in
        [(&one, one.address.to_string()), (&two, format!("localhost:{}", two.address.port()))]
    {
        let text = origin.recorder.text();
        let hosts = |start: &str| -> Vec<&str> { text.split(start).skip(1).map(host).collect() };
        assert_eq!(hosts("GET / "), [&*name; 3]);
        assert_eq!(hosts("GET /kept "), ["a.example"; 3]);
        assert_eq!(hosts("POST / "), [&*name; 3]);
        assert_eq!(text.matches(&body).count(), 3, "bodies are whole");
    }
}

#[tokio::test]
async fn a_retry_names_the_next_server() {
    let (dying, living) = (origin::dies_on_reuse().await, origin::answers(origin::ok("ok")).await);
    let tables = format!(
        "[[upstream]]\nname = \"both\"\nservers = [\"http://{}\", \"http://{}\"]\nsend_host = \"server\"\n\
         [[route]]\nupstream = \"both\"\n",
        dying.address, living.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut client = client::Raw::connect(proxy.address).await;
    for _ in 0..6 {
        assert_eq!(client.ask("GET", "/").await.status(), 200);
    }
    assert!(proxy.counters().await.upstream_retries > 0);
    for origin in [&dying, &living] {
        let text = origin.recorder.text();
        let own = origin.address.to_string();
        assert!(text.split("GET / ").skip(1).all(|request| host(request) == own), "{text}");
    }
}

#[tokio::test]
async fn without_a_host_it_is_the_server_s() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to(origin.address).await;
    client::exchange(proxy.address, "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(host(&origin.recorder.text()), origin.address.to_string());
}
