//! Routes without a server: redirects and answers of their own; pages for errors.

use sluice_tests::{
    client::{self, Raw},
    http2::{Http2, frames, frames::flag},
    origin,
    proxy::{Proxy, run},
};

const REDIRECTS: &str = r#"
[[route]]
host = "old.example"
redirect = "https://new.example${uri}"
redirect_status = 308
[[route]]
path = "/users/{id}"
redirect = "/people/${path.id}?from=${host}"
[[route]]
path = "/go/{tenant}"
redirect = "https://${path.tenant}.example/"
redirect_status = 303
[[route]]
path = "/up/{*rest}"
redirect = "${scheme}://${authority}/${path.rest}"
response_headers.set = ["Cache-Control: max-age=60", "X-Was: ${path}"]
"#;

#[tokio::test]
async fn redirects_lead_where_their_route_says() {
    let proxy = Proxy::configured(1, REDIRECTS).await;
    let mut h2 = Http2::connect(proxy.address).await;
    for (host, path, status, location) in [
        ("old.example:81", "/a/%2E/b?q=1&r", 308, "https://new.example/a/b?q=1&r"),
        ("old.example", "*", 308, "https://new.example/"),
        ("test", "/users/a%2Cb?x", 302, "/people/a%2Cb?from=test"),
        ("test", "/go/blue", 303, "https://blue.example/"),
        ("test:81", "/up/x/y", 302, "http://test:81/x/y"),
        ("test", "/up/%2e%2e", 302, "http://test/"),
    ] {
        let method = if path == "*" { "OPTIONS" } else { "GET" };
        let mut client = Raw::connect(proxy.address).await;
        // The first answer leaves the connection open.
        for _ in 0..2 {
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            let response = client.answer_to(method).await;
            let found = (response.status(), response.field("Location"));
            if path == "/up/%2e%2e" {
                // It leads above the route, to none.
                assert_eq!(response.status(), 404);
                continue;
            }
            assert_eq!(found, (status, Some(location)), "{host}{path}");
        }
        if host == "test" && !path.contains("%2e") {
            let answer = h2.get(path).await;
            assert_eq!((answer.status(), answer.field("location")), (status, Some(location)), "{host}{path}");
        }
    }
    let up = client::get(proxy.address, "/up/x").await;
    assert_eq!((up.field("Cache-Control"), up.field("X-Was")), (Some("max-age=60"), Some("/up/x")));
    let odd = client::get(proxy.address, "/go/evil.com%2F").await;
    assert_eq!(odd.status(), 400);
    for tenant in ["a@evil.com", "a:b@evil", "evil.com%3F", "a%0d%0aX:1"] {
        let response = client::get(proxy.address, &format!("/go/{tenant}")).await;
        assert_eq!((response.status(), response.field("X")), (400, None), "{tenant}");
    }
    let connect = "CONNECT old.example:443 HTTP/1.1\r\nHost: old.example:443\r\n\r\n";
    assert_eq!(client::exchange(proxy.address, connect).await.status(), 400);
    proxy.drain().await.assert_clean();
}

/// No server is needed, and none is asked for.
#[tokio::test]
async fn a_configuration_of_redirects_needs_no_upstream() {
    let file = sluice_tests::proxy::config_file(".toml", &format!("listen = [\"127.0.0.1:0\"]\n{REDIRECTS}"));
    let path = file.path().to_str().expect("a name");
    let checked = run(&["check", "--config", path]).await;
    assert!(checked.stderr.is_empty() && checked.code == Some(0), "{checked:?}");
    let printed = run(&["config", "--effective", "--config", path]).await;
    let again = sluice_tests::proxy::config_file(".toml", &printed.stdout);
    let checked = run(&["check", "--config", again.path().to_str().expect("a name")]).await;
    assert!(checked.code == Some(0), "{checked:?} {}", printed.stdout);
}

const ANSWERS: &str = r#"
[[route]]
path = "/robots.txt"
respond = { body = "User-agent: *\n" }
[[route]]
path = "/page"
respond = { status = 203, file = "FILE" }
response_headers = { set = ["Server: mine", "X-Path: ${path}"] }
[[route]]
path = "/forbidden"
respond = { status = 403, type = "application/json", body = "{}" }
[[route]]
path = "/nothing"
respond = { status = 204 }
[[route]]
path = "/bare"
respond = { status = 404 }
"#;

/// A page of 40,000 bytes, more than fits into one send or a window.
fn page() -> String {
    "<p>0123456789</p>\n".repeat(40_000 / 19)
}

#[tokio::test]
async fn routes_answer_themselves() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("page.html");
    std::fs::write(&file, page()).expect("a file");
    let tables = ANSWERS.replace("FILE", file.to_str().expect("a name"));
    let proxy = Proxy::configured(1, &tables).await;
    // Read at the start.
    std::fs::remove_file(&file).expect("it was there");
    let (mut h1, mut h2) = (Raw::connect(proxy.address).await, Http2::connect(proxy.address).await);
    for (path, status, content_type, body) in [
        ("/robots.txt", 200, Some("text/plain; charset=utf-8"), "User-agent: *\n"),
        ("/page", 203, Some("text/html; charset=utf-8"), &page()),
        ("/forbidden", 403, Some("application/json"), "{}"),
        ("/nothing", 204, None, ""),
        ("/bare", 404, None, ""),
    ] {
        let length = (status != 204).then(|| body.len().to_string());
        for method in ["GET", "HEAD"] {
            let body = if method == "HEAD" { "" } else { body };
            let response = h1.ask(method, path).await;
            assert_eq!(
                (response.status(), response.field("Content-Type")),
                (status, content_type),
                "{method} {path}"
            );
            assert_eq!(
                (response.field("Content-Length"), &*response.text()),
                (length.as_deref(), body),
                "{method} {path}"
            );
            let stream = h2.ask(method, path, &[]).await;
            let answer = h2.answer(stream).await;
            assert_eq!(
                (answer.status(), answer.field("content-type")),
                (status, content_type),
                "{method} {path}"
            );
            assert_eq!(
                (answer.field("content-length"), &*answer.text()),
                (length.as_deref(), body),
                "{method} {path}"
            );
        }
    }
    let page = h1.ask("GET", "/page").await;
    assert_eq!((page.field("Server"), page.field("X-Path")), (Some("mine"), Some("/page")));
    // What a route has for everyone is no abuse.
    for _ in 0..150 {
        assert_eq!(h1.ask("GET", "/bare").await.status(), 404);
    }
    assert_eq!(proxy.counters().await.named("abuse_refusals"), 0);
    proxy.drain().await.assert_clean();
}

/// A body that is not read ends the connection over HTTP/1.1, and the stream over HTTP/2.
#[tokio::test]
async fn a_body_is_not_taken_for_the_next_request() {
    let proxy =
        Proxy::configured(1, ANSWERS.split("[[route]]\npath = \"/page\"").next().expect("a beginning")).await;
    let mut h1 = Raw::connect(proxy.address).await;
    let inner = "GET /robots.txt HTTP/1.1\r\nHost: test\r\n\r\n";
    h1.send(format!(
        "POST /robots.txt HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    ))
    .await;
    let response = h1.answer_to("POST").await;
    assert_eq!((response.status(), response.field("Connection")), (200, Some("close")));
    h1.assert_closed().await;
    let mut h2 = Http2::connect(proxy.address).await;
    let stream = h2.open("POST", "/robots.txt", &[]).await;
    assert_eq!(h2.answer(stream).await.status(), 200);
    assert_eq!(h2.get("/robots.txt").await.status(), 200);
    // A gRPC call reads a failure in fields.
    let proxy = Proxy::configured(1, "[[route]]\nrespond = { status = 503, body = \"no\" }\n[[error_pages]]\nstatus = 503\nbody = \"page\"\n").await;
    let mut h2 = Http2::connect(proxy.address).await;
    let stream = h2.open("POST", "/S/M", &[("content-type", "application/grpc")]).await;
    h2.send(frames::data(stream, flag::END_STREAM, b"\0\0\0\0\0")).await;
    let answer = h2.answer(stream).await;
    assert_eq!((answer.status(), answer.field("grpc-status"), &*answer.text()), (200, Some("14"), ""));
    assert_eq!(h2.get("/").await.text(), "no", "an answer of a route is no error of ours");
}

#[tokio::test]
async fn errors_have_their_pages() {
    let refusing = origin::refusing();
    let real = origin::real("real").await;
    let tables = format!(
        "[[error_pages]]\nstatus = [404, \"502-504\"]\nbody = \"<h1>file</h1>\"\ntype = \"text/html\"\n\
         [[upstream]]\nname = \"gone\"\nservers = [\"http://{}\"]\n[[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n\
         [[route]]\npath_prefix = \"/gone\"\nupstream = \"gone\"\n\
         [[route]]\npath = \"/own\"\nupstream = \"gone\"\nerror_pages = [{{ status = 502, body = \"route\" }}]\n\
         [[route]]\npath_prefix = \"/status\"\nmethods = [\"GET\"]\nupstream = \"real\"\n",
        refusing.address, real.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let (mut h1, mut h2) = (Raw::connect(proxy.address).await, Http2::connect(proxy.address).await);
    for (method, path, status, body) in [
        ("GET", "/gone", 502, "<h1>file</h1>"),
        ("HEAD", "/gone", 502, ""),
        ("GET", "/own", 502, "route"),
        ("GET", "/none", 404, "<h1>file</h1>"),
        ("DELETE", "/status/200", 405, "Method Not Allowed: the path is served, but not by this method\n"),
        ("GET", "/status/404", 404, "real"),
        ("GET", "/status/502", 502, "real"),
    ] {
        let response = h1.ask(method, path).await;
        assert_eq!((response.status(), &*response.text()), (status, body), "{method} {path}");
        let stream = h2.ask(method, path, &[]).await;
        let answer = h2.answer(stream).await;
        assert_eq!((answer.status(), &*answer.text()), (status, body), "{method} {path}");
        if body.starts_with('<') {
            assert_eq!(
                (response.field("Content-Type"), answer.field("content-type")),
                (Some("text/html"), Some("text/html"))
            );
            assert_eq!(response.field("Server"), Some("sluice"));
        }
    }
    // Also where a head is at fault, which no route has.
    let broken = "[[error_pages]]\nstatus = 400\nbody = \"broken\"\n[[route]]\nrespond = { status = 200 }\n";
    let proxy = Proxy::configured(1, broken).await;
    let response = client::exchange(proxy.address, "GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!((response.status(), &*response.text()), (400, "broken"));
}
