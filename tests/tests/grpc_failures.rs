//! Failures of our own as gRPC clients read them, and the time that a call says it has. The calls come by HTTP/1.1 here: what is said
//! does not depend on the version.

use std::time::{Duration, Instant};

use sluice_tests::{assert_took, client::Raw, origin, proxy::Proxy};

const CALL: &str = "POST /a.Service/Method HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nContent-Length: 5\r\n";
const MESSAGE: &str = "\0\0\0\0\0";

fn call(kind: &str, fields: &str) -> String {
    format!("{CALL}Content-Type: {kind}\r\n{fields}\r\n{MESSAGE}")
}

/// A proxy to an origin that never answers, with this time for requests.
async fn to_silence(request: &str) -> (origin::Origin, Proxy) {
    let origin = origin::never_answers().await;
    let proxy = Proxy::to_with(origin.address, &[request]).await;
    (origin, proxy)
}

#[tokio::test]
async fn the_time_of_a_call_is_the_shorter_one() {
    for (of_all, of_call, least) in [
        ("--timeout-request=0s", "200m", 200),
        ("--timeout-request=1h", "200m", 200),
        ("--timeout-request=300ms", "1H", 300),
        ("--timeout-request=300ms", "soon", 300),
    ] {
        let (origin, proxy) = to_silence(of_all).await;
        let mut client = Raw::connect(proxy.address).await;
        let begun = Instant::now();
        client.send(call("application/grpc+proto", &format!("grpc-timeout: {of_call}\r\n"))).await;
        let answer = client.answer_to("POST").await;
        assert_took(begun, Duration::from_millis(least), Duration::from_secs(30));
        let said = (answer.status(), answer.field("grpc-status"), answer.field("content-type"));
        assert_eq!(said, (200, Some("4"), Some("application/grpc")), "{of_all} {of_call}");
        assert_eq!(answer.field("grpc-message"), Some("the server did not answer in time"));
        assert_eq!(answer.text(), "");
        assert_eq!(proxy.counters().await.named("request_timeouts"), 1);
        // The server hears how much time there is.
        let sent = origin.recorder.text();
        assert!(sent.contains(&format!("grpc-timeout: {of_call}")), "{sent}");
    }
}

#[tokio::test]
async fn other_requests_have_no_such_time_and_read_a_status() {
    let (_origin, proxy) = to_silence("--timeout-request=400ms").await;
    for kind in ["application/grpc-web", "text/plain"] {
        let mut client = Raw::connect(proxy.address).await;
        let begun = Instant::now();
        client.send(call(kind, "grpc-timeout: 1m\r\n")).await;
        let answer = client.answer_to("POST").await;
        assert_took(begun, Duration::from_millis(400), Duration::from_secs(30));
        assert_eq!((answer.status(), answer.field("grpc-status")), (504, None), "{kind}");
    }
}

#[tokio::test]
async fn a_call_that_goes_nowhere_learns_why() {
    let origin = origin::answers(origin::ok("reached")).await;
    let upstream = format!("[[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n", origin.address);
    let dead = "[[upstream]]\nname = \"dead\"\nservers = [\"http://127.0.0.1:1\"]\n";
    let route = |path: &str, upstream: &str, rest: &str| {
        format!("[[route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n{rest}\n")
    };
    let routes = [
        route("/a/Get", "real", "methods = [\"GET\"]"),
        route("/a/Small", "real", "limits.body_bytes = 1"),
        route("/a/Dead", "dead", ""),
    ];
    let proxy = Proxy::configured(1, &format!("{upstream}{dead}{}", routes.concat())).await;
    for (path, status, said) in [
        ("/a/None", "12", "no route for this host and path"),
        ("/a/Get", "2", "the path is served, but not by this method"),
        ("/a/Small", "8", "the request body is larger than allowed here"),
        ("/a/Dead", "14", "the server could not be reached"),
        ("/a%2Fb", "13", ""),
    ] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(call("application/grpc", "").replace("/a.Service/Method", path)).await;
        let answer = client.answer_to("POST").await;
        assert_eq!((answer.status(), answer.field("grpc-status")), (200, Some(status)), "{path}");
        let message = answer.field("grpc-message").unwrap_or_default();
        assert!(message.contains(said) && !message.is_empty(), "{path}: {message}");
    }
    assert_eq!(origin.recorder.connections(), 0);
}
