//! What is forgiven to old servers, by `lenient` of their upstream: what the client gets, and whether the connection is used again.

use sluice_tests::{client::Raw, origin, proxy::Proxy};

const ALL: &str = "lenient = [\"bare-lf\", \"chunk-padding\", \"equal-lengths\", \"204-framing\"]";

/// A response, the word that forgives it, what the client gets (status, fields and body), and whether its connection is kept.
struct Case {
    word: &'static str,
    response: &'static str,
    method: &'static str,
    seen: &'static str,
    is_kept: bool,
}

const fn case(word: &'static str, response: &'static str, seen: &'static str, is_kept: bool) -> Case {
    Case { word, response, method: "GET", seen, is_kept }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("bare-lf", "HTTP/1.1 200 OK\nContent-Length: 2\nX: 1\n\nok", "200 content-length=2 x=1 ok", false),
    case("bare-lf", "HTTP/1.1 200 OK\r\nContent-Length: 2\nX: 1\r\n\r\nok", "200 content-length=2 x=1 ok", false),
    case("bare-lf", "HTTP/1.1 103 Hints\nX: 0\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 content-length=2 ok", false),
    case("bare-lf", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n", "200 transfer-encoding=chunked ok", false),
    case("chunk-padding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2   \r\nok\r\n0 \t\r\n\r\n", "200 transfer-encoding=chunked ok", true),
    case("equal-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "200 content-length=2 ok", true),
    case("equal-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: 1\r\nContent-Length: 2\r\n\r\nok", "200 x=1 content-length=2 ok", true),
    Case { method: "HEAD", ..case("equal-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\n", "200 content-length=2 ", true) },
    case("204-framing", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", "204 ", false),
    case("204-framing", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n", "204 x=1 ", false),
    case("204-framing", "HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 content-length=2 ok", false),
];

async fn proxy_to(origin: &origin::Origin, lenient: &str) -> Proxy {
    let tables = format!(
        "[[upstream]]\nname = \"old\"\nservers = [\"http://{}\"]\n{lenient}\n[[route]]\nupstream = \"old\"\n",
        origin.address
    );
    Proxy::configured(1, &tables).await
}

async fn ask(proxy: &Proxy, method: &str) -> (Raw, String) {
    let mut client = Raw::connect(proxy.address).await;
    let answer = client.ask(method, "/").await;
    let status = answer.status();
    let fields = ["x", "content-length", "transfer-encoding"].map(|name| {
        let values: Vec<_> = answer.head.fields.all(name).map(|value| format!("{name}={value} ")).collect();
        values.concat()
    });
    let body = if status == 502 { String::new() } else { answer.text() };
    // The order of the fields is no matter here.
    let mut parts: Vec<_> =
        format!("{status} {}{body}", fields.concat()).split(' ').map(str::to_owned).collect();
    parts.sort();
    (client, parts.join(" "))
}

fn sorted(seen: &str) -> String {
    let mut parts: Vec<_> = seen.split(' ').collect();
    parts.sort_unstable();
    parts.join(" ")
}

#[tokio::test]
async fn old_servers_are_forgiven_what_their_upstream_says() {
    for case in CASES {
        let origin = origin::answers(case.response).await;
        for (lenient, is_forgiven) in [
            (format!("lenient = [\"{}\"]", case.word), true),
            (ALL.to_owned(), true),
            (
                ALL.replace(&format!("\"{}\"", case.word), "")
                    .replace("[, ", "[")
                    .replace(", ,", ",")
                    .replace(", ]", "]"),
                false,
            ),
            (String::new(), false),
        ] {
            let before = origin.recorder.connections();
            let proxy = proxy_to(&origin, &lenient).await;
            let (_, seen) = ask(&proxy, case.method).await;
            if !is_forgiven {
                let what = seen.split(' ').find(|part| *part == "502");
                let is_cut = case.word == "chunk-padding";
                assert!(what.is_some() || is_cut, "{lenient}: {:?}: {seen}", case.response);
                continue;
            }
            assert_eq!(seen, sorted(case.seen), "{lenient}: {:?}", case.response);
            ask(&proxy, case.method).await;
            let used = origin.recorder.connections() - before;
            assert_eq!(used, if case.is_kept { 1 } else { 2 }, "{lenient}: {:?}", case.response);
        }
    }
}

/// Nor is the connection of a response that the client does not get, since its request is sent again.
#[tokio::test]
async fn a_repaired_response_that_is_unwanted_ends_its_connection_too() {
    let origin = origin::answers("HTTP/1.1 503 Late\nContent-Length: 2\n\nno").await;
    let keys = "lenient = [\"bare-lf\"]\nretry = { attempts = 3, on = [503] }";
    let proxy = proxy_to(&origin, keys).await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.status(), 503);
    let counters = proxy.counters().await;
    assert_eq!((counters.named("upstream_retries"), origin.recorder.connections()), (2, 3));
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn what_has_two_readings_is_refused_all_the_same() {
    for response in [
        "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\nok",
        "HTTP/1.1 200 OK\nX: 1\n Content-Length: 2\n\nok",
        "HTTP/1.1 200 OK\nContent-Length: 2\rX: 1\n\nok",
        "HTTP/1.1 200 OK\nContent-Length : 2\n\nok",
        "HTTP/1.1 101 Switching\r\nContent-Length: 2\r\n\r\n",
    ] {
        let origin = origin::answers(response).await;
        let proxy = proxy_to(&origin, ALL).await;
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(client.ask("GET", "/").await.status(), 502, "{response:?}");
        assert_eq!(proxy.counters().await.named("upstream_bad_responses"), 1, "{response:?}");
    }
}

/// Clients get no such leniency.
#[tokio::test]
async fn requests_are_as_strict_as_ever() {
    let origin = origin::answers(origin::ok("reached")).await;
    let proxy = proxy_to(&origin, ALL).await;
    for request in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nok",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(request).await;
        assert_eq!(client.answer_to("GET").await.status(), 400, "{request:?}");
    }
    let mut client = Raw::connect(proxy.address).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer_to("POST").await.status(), 400);
}
