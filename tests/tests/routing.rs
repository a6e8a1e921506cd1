//! From host, path and method to an origin; 404 and 405 where there is none.

use sluice_tests::{
    client::{self, Raw},
    origin::{self, Real},
    proxy::Proxy,
};

/// Origins that answer with their names, and a proxy that routes to them.
struct Routed {
    proxy: Proxy,
    _origins: Vec<Real>,
}

impl Routed {
    /// One origin per route; each route is its name and its keys.
    async fn new(routes: &[(&'static str, &str)]) -> Self {
        let mut tables = String::new();
        let mut origins = Vec::new();
        for (name, keys) in routes {
            let origin = origin::real(name).await;
            let server = origin.address;
            tables.push_str(&format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{server}\"]\n"));
            tables.push_str(&format!("[[route]]\nupstream = \"{name}\"\n{keys}\n"));
            origins.push(origin);
        }
        Self { proxy: Proxy::configured(1, &tables).await, _origins: origins }
    }

    /// Where each request goes: `(method, host, path)` to the name of an origin, or to a status.
    async fn assert(&self, requests: &[(&str, &str, &str, &str)]) {
        let mut wrong = Vec::new();
        for (method, host, path, expected) in requests {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = client::exchange(self.proxy.address, request).await;
            let found = if answer.status() == 200 { answer.text() } else { answer.status().to_string() };
            if found != *expected {
                wrong.push(format!("{method} {host} {path}: {found}, not {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn hosts_exact_then_by_suffix_then_any() {
    let routes = [
        ("exact", "host = \"example.com\""),
        ("suffix", "host = \"*.example.com\""),
        ("deeper", "host = \"*.eu.example.com\""),
        ("any", "path_prefix = \"/any\""),
    ];
    let requests = [
        ("GET", "example.com", "/", "exact"),
        ("GET", "EXAMPLE.com", "/", "exact"),
        ("GET", "example.com:8080", "/", "exact"),
        ("GET", "example.com.", "/", "exact"),
        ("GET", "a.example.com", "/", "suffix"),
        ("GET", "a.b.example.com:1", "/x", "suffix"),
        ("GET", "a.eu.example.com", "/", "deeper"),
        ("GET", "eu.example.com", "/", "suffix"),
        ("GET", "badexample.com", "/", "404"),
        ("GET", "example.com.evil.org", "/", "404"),
        ("GET", "other.org", "/any/thing", "any"),
        ("GET", "127.0.0.1", "/any", "any"),
    ];
    Routed::new(&routes).await.assert(&requests).await;
}

#[tokio::test]
async fn paths_literal_then_param_then_rest_then_prefix() {
    let routes = [
        ("user", "path = \"/users/{id}\""),
        ("me", "path = \"/users/me\""),
        ("posts", "path = \"/users/{id}/posts\""),
        ("static", "path = \"/static/{*rest}\""),
        ("logo", "path = \"/static/logo.png\""),
        ("api", "path_prefix = \"/api\""),
        ("v2", "path_prefix = \"/api/v2\""),
    ];
    let requests = [
        ("GET", "a", "/users/7", "user"),
        ("GET", "a", "/users/me", "me"),
        ("GET", "a", "/users/me?x=/static/y", "me"),
        ("GET", "a", "/users/me/posts", "posts"),
        ("GET", "a", "/users/", "404"),
        ("GET", "a", "/users", "404"),
        ("GET", "a", "/users/7/friends", "404"),
        ("GET", "a", "/static/logo.png", "logo"),
        ("GET", "a", "/static/css/a/b.css", "static"),
        ("GET", "a", "/static/", "static"),
        ("GET", "a", "/api", "api"),
        ("GET", "a", "/api?x", "api"),
        ("GET", "a", "/api/v1/x", "api"),
        ("GET", "a", "/api/v2", "v2"),
        ("GET", "a", "/api/v2/x/y", "v2"),
        ("GET", "a", "/api/v20", "api"),
        ("GET", "a", "/apis", "404"),
        ("GET", "a", "/", "404"),
    ];
    Routed::new(&routes).await.assert(&requests).await;
}

#[tokio::test]
async fn several_hosts_of_one_route() {
    let routes = [
        ("two", "hosts = [\"one.example\", \"*.two.example\"]\npath = \"/item\"\nmethods = [\"GET\"]"),
        ("write", "host = \"one.example\"\npath = \"/item\"\nmethods = [\"PUT\"]"),
        ("exact", "hosts = [\"a.two.example\"]"),
    ];
    let routed = Routed::new(&routes).await;
    let requests = [
        ("GET", "one.example", "/item", "two"),
        ("GET", "ONE.example:80", "/item", "two"),
        ("GET", "b.two.example", "/item", "two"),
        ("GET", "c.b.two.example", "/item", "two"),
        ("GET", "a.two.example", "/item", "exact"),
        ("GET", "two.example", "/item", "404"),
        ("GET", "b.two.example", "/other", "404"),
        ("GET", "three.example", "/item", "404"),
        ("PUT", "one.example", "/item", "write"),
        ("PUT", "b.two.example", "/item", "405"),
        ("POST", "one.example", "/item", "405"),
    ];
    routed.assert(&requests).await;
    // Each host has the methods of its own routes.
    for (host, allowed, others) in [
        ("one.example", &["GET", "HEAD", "PUT"][..], &["POST"][..]),
        ("b.two.example", &["GET", "HEAD"], &["PUT"]),
    ] {
        let request = format!("DELETE /item HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = client::exchange(routed.proxy.address, request).await;
        let allow = &answer.head.fields;
        assert_eq!(answer.status(), 405);
        assert!(allowed.iter().all(|method| allow.lists("allow", method)), "{host}: {allow:?}");
        assert!(!others.iter().any(|method| allow.lists("allow", method)), "{host}: {allow:?}");
    }
}

#[tokio::test]
async fn methods_choose_among_routes_of_one_path() {
    let routes = [
        ("read", "path = \"/item\"\nmethods = [\"GET\"]"),
        ("write", "path = \"/item\"\nmethods = [\"PUT\", \"POST\"]"),
        ("any", "path = \"/free\""),
    ];
    let routed = Routed::new(&routes).await;
    let requests = [
        ("GET", "a", "/item", "read"),
        ("PUT", "a", "/item", "write"),
        ("POST", "a", "/item", "write"),
        ("DELETE", "a", "/item", "405"),
        ("get", "a", "/item", "405"),
        ("PROPFIND", "a", "/free", "any"),
    ];
    routed.assert(&requests).await;

    let answer = client::exchange(routed.proxy.address, "DELETE /item HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let allow = &answer.head.fields;
    assert!(
        ["GET", "HEAD", "PUT", "POST"].iter().all(|method| allow.lists("allow", method)),
        "{:?}",
        answer.head
    );
    assert_eq!(answer.field("server"), Some("sluice"));
}

#[tokio::test]
async fn a_missing_route_is_ours_to_tell() {
    let routed = Routed::new(&[("only", "path = \"/only\"")]).await;
    let mut client = Raw::connect(routed.proxy.address).await;
    let answer = client.ask("GET", "/other").await;
    assert_eq!((answer.status(), answer.field("server")), (404, Some("sluice")));
    assert!((1..500).contains(&answer.body.len()), "a short body, not {:?}", answer.text());
    // The answer to HEAD has the same head and no body.
    let answer = client::exchange(routed.proxy.address, "HEAD /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status(), answer.body.len()), (404, 0));
}

#[tokio::test]
async fn a_body_without_a_route_does_not_become_the_next_request() {
    let routed = Routed::new(&[("only", "path = \"/only\"")]).await;
    let mut client = Raw::connect(routed.proxy.address).await;
    let smuggled = "GET /only HTTP/1.1\r\nHost: a\r\n\r\n";
    client
        .send(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()))
        .await;
    assert_eq!(client.answer_to("POST").await.status(), 404);
    // Reading over the body and closing are both right; answering it is not.
    let _ = client.try_send("GET /y HTTP/1.1\r\nHost: a\r\n\r\n").await;
    if let Ok(next) = client.response("GET").await {
        assert_eq!(next.status(), 404, "the body was taken for a request");
    }
}

#[tokio::test]
async fn servers_of_a_group_take_turns() {
    let (first, second) = (origin::real("first").await, origin::real("second").await);
    let upstreams = [first.address, second.address].map(|address| format!("http://{address}"));
    let [a, b] = &upstreams;
    let flags = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", a, "--upstream", b];
    let proxy = Proxy::start(&flags).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..20 {
        client.ask("GET", "/").await;
    }
    assert_eq!((first.seen().len(), second.seen().len()), (10, 10));
}
