//! Conditions, regular expressions and splits of routes, as clients of both versions meet them; what `explain` and `check` say of them.

use std::net::Ipv4Addr;

use sluice_tests::{
    client::{self, Raw},
    http2::Http2,
    origin::{self, Real},
    proxy::{Finished, Proxy, config_file, run},
};

/// Origins that answer with their names, and a proxy before them. What `routes` has for `NAME` of `[[route]]` tables is an upstream.
async fn routed(names: &[&'static str], routes: &str) -> (Proxy, Vec<Real>) {
    let mut tables = String::new();
    let mut origins = Vec::new();
    for name in names {
        let origin = origin::real(name).await;
        let server = origin.address;
        tables.push_str(&format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{server}\"]\n"));
        origins.push(origin);
    }
    (Proxy::configured(1, &(tables + routes)).await, origins)
}

/// What answers: an origin, or a status with the Allow field.
async fn found(proxy: &Proxy, method: &str, target: &str, lines: &str) -> String {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let answer = client::exchange(proxy.address, request).await;
    match (answer.status(), answer.field("allow")) {
        (200, _) => answer.text(),
        (status, Some(allow)) => format!("{status} {allow}"),
        (status, None) => status.to_string(),
    }
}

const CONDITIONS: &str = "
[[route]]
upstream = 'rest'
[[route]]
path_prefix = '/api'
when = ['header X-Version = 2']
upstream = 'v2'
[[route]]
path_prefix = '/api'
when = ['header x-version ~ ^[0-9]+$', 'cookie beta']
upstream = 'beta'
[[route]]
path_prefix = '/api'
when = ['query debug', 'not header x-version']
methods = ['GET', 'PUT']
upstream = 'debug'
[[route]]
path_prefix = '/admin'
when = ['client 127.0.0.2 10.0.0.0/8']
upstream = 'admin'
[[route]]
path_regex = '^/api/(?<id>[0-9]+)$'
upstream = 'number'
[[route]]
path = '/api/7'
upstream = 'seven'
";
const ORIGINS: [&str; 7] = ["rest", "v2", "beta", "debug", "admin", "number", "seven"];

#[tokio::test]
async fn requests_go_where_their_conditions_hold() {
    let (proxy, _origins) = routed(&ORIGINS, CONDITIONS).await;
    let mut wrong = Vec::new();
    for (method, target, lines, expected) in [
        ("GET", "/api", "", "rest"),
        ("GET", "/api/x", "X-Version: 2\r\n", "v2"),
        ("GET", "/api/x", "x-version: 1\r\nX-VERSION: 2\r\n", "v2"),
        ("GET", "/api/x", "X-Version: 1, 2\r\n", "rest"),
        ("GET", "/api/x", "X-Version: 2\r\nCookie: a=b; beta=\r\n", "beta"),
        ("GET", "/api/x", "X-Version: 3\r\nCookie: a=b\r\nCookie: beta=1\r\n", "beta"),
        ("GET", "/api/x", "X-Version: 3\r\nCookie: Beta=1\r\n", "rest"),
        ("GET", "/api/x?debug", "", "debug"),
        ("GET", "/api/x?a=1&%64ebug=%zz", "", "debug"),
        ("GET", "/api/x?nodebug", "", "rest"),
        ("GET", "/api/x?debug", "X-Version: 2\r\n", "v2"),
        // The routes that hold lack the method, so no wider one gets it.
        ("POST", "/api/x?debug", "", "405 GET, HEAD, PUT"),
        ("POST", "/api/x", "", "rest"),
        ("GET", "/admin", "", "rest"),
        ("GET", "/api/8", "X-Version: 2\r\n", "number"),
        ("GET", "/api/%38", "", "number"),
        ("GET", "/api/7", "", "seven"),
        ("GET", "/x/api/8", "", "rest"),
    ] {
        let found = found(&proxy, method, target, lines).await;
        if found != expected {
            wrong.push(format!("{method} {target} {lines:?}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut client = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.address).await;
    assert_eq!(client.ask("GET", "/admin").await.text(), "admin");
}

/// Cookies may come in pieces there, and the host is no field.
#[tokio::test]
async fn conditions_hold_over_http2() {
    let (proxy, _origins) = routed(&ORIGINS, CONDITIONS).await;
    let mut client = Http2::connect(proxy.address).await;
    let version = ("x-version", "2");
    for (path, fields, expected) in [
        ("/api/x", &[version][..], "v2"),
        ("/api/x", &[version, ("cookie", "a=b"), ("cookie", "beta=1")], "beta"),
        ("/api/x?debug", &[], "debug"),
        ("/api/9", &[], "number"),
        ("/api/x", &[], "rest"),
    ] {
        let stream = client.ask("GET", path, fields).await;
        assert_eq!(client.answer(stream).await.text(), expected, "{path} {fields:?}");
    }
}

/// The client behind a trusted proxy is the one that it names, and an untrusted one names nobody.
#[tokio::test]
async fn client_conditions_follow_trusted_proxies() {
    let (proxy, _origins) =
        routed(&ORIGINS, &format!("[forwarding]\ntrusted_proxies = ['127.0.0.3']\n{CONDITIONS}")).await;
    let forwarded = "GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.2.3\r\n\r\n";
    for (source, expected) in [(3, "admin"), (1, "rest")] {
        let mut client = Raw::connect_from(Ipv4Addr::new(127, 0, 0, source), proxy.address).await;
        client.send(forwarded).await;
        assert_eq!(client.answer_to("GET").await.text(), expected, "127.0.0.{source}");
    }
}

#[tokio::test]
async fn split_by_turns_and_by_cookie() {
    let routes = "
[[route]]
path = '/turns'
split = [{ upstream = 'a', weight = 3 }, { upstream = 'b', weight = 1 }, { upstream = 'c', weight = 0 }]
[[route]]
path = '/cookie'
split = [{ upstream = 'a' }, { upstream = 'b' }]
split_by = 'cookie user'
";
    let (proxy, origins) = routed(&["a", "b", "c"], routes).await;
    let mut client = Raw::connect(proxy.address).await;
    let mut turns = String::new();
    for _ in 0..12 {
        turns += &client.ask("GET", "/turns").await.text();
    }
    assert_eq!(turns, "aabaaabaaaba");
    assert_eq!(origins[2].seen().len(), 0);

    let mut of_user = async |user: usize| {
        client.send(format!("GET /cookie HTTP/1.1\r\nHost: a\r\nCookie: x=1; user={user}\r\n\r\n")).await;
        client.answer_to("GET").await.text()
    };
    let mut first = Vec::new();
    for user in 0..40 {
        first.push(of_user(user).await);
    }
    for user in (0..40).rev() {
        assert_eq!(of_user(user).await, first[user], "user {user}");
    }
    let count = first.iter().filter(|name| *name == "a").count();
    assert!((8..=32).contains(&count), "{count} of 40 users at a");

    // Another process decides the same.
    let (other, _origins) = routed(&["a", "b", "c"], routes).await;
    for (user, name) in first.iter().enumerate() {
        assert_eq!(found(&other, "GET", "/cookie", &format!("Cookie: user={user}\r\n")).await, *name);
    }
    // Without the cookie by turns.
    let mut without = String::new();
    for _ in 0..4 {
        without += &found(&other, "GET", "/cookie", "Cookie: nouser=1\r\n").await;
    }
    assert_eq!(without, "abab");
}

// ---- what the operator is shown ----

const SHOP: &str = "listen = ['127.0.0.1:0']
[[upstream]]
name = 'stable'
servers = ['http://10.0.0.1:9001', 'http://10.0.0.2:9001']
[[upstream]]
name = 'canary'
servers = ['http://10.0.0.3:9002']
[[route]]
upstream = 'stable'
[[route]]
host = '*.shop.example'
path_prefix = '/cart'
methods = ['GET']
when = ['header x-version']
split = [{ upstream = 'stable', weight = 95 }, { upstream = 'canary', weight = 5 }]
split_by = 'cookie user'
[[route]]
host = '*.shop.example'
path_prefix = '/cart'
when = ['header x-version', 'cookie beta']
upstream = 'canary'
send_host = 'server'
[[route]]
host = '*.shop.example'
path_prefix = '/cart'
methods = ['GET']
when = ['cookie beta = 2']
upstream = 'canary'
[[route]]
host = 'eu.shop.example'
path = '/cart/{id}'
when = ['client 10.0.0.0/8']
upstream = 'canary'
";

async fn explain(text: &str, arguments: &[&str]) -> Finished {
    let file = config_file(".toml", text);
    let path = file.path().to_str().expect("UTF-8").to_owned();
    run(&[&["explain", "--config", &path], arguments].concat()).await
}

#[track_caller]
fn assert_lines(finished: &Finished, lines: &[&str]) {
    assert_shown(finished, 0, lines);
}

/// The same for a request that no route gets, or that is refused.
#[track_caller]
fn assert_refused(finished: &Finished, lines: &[&str]) {
    assert_shown(finished, 3, lines);
}

#[track_caller]
fn assert_shown(finished: &Finished, code: i32, lines: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    let mut rest = finished.stdout.as_str();
    for line in lines {
        let at =
            rest.find(line).unwrap_or_else(|| panic!("no {line:?} (in this order) in {}", finished.stdout));
        rest = &rest[at + line.len()..];
    }
}

#[tokio::test]
async fn explain_says_who_wins_why_and_what_is_sent() {
    let version = ["-H", "X-Version: 2", "-H", "Cookie: beta=1; user=7"];
    let request = "GET http://EU.shop.example:8080/cart/%37?a=%zz";
    let shown = explain(SHOP, &[&[request], &version[..]].concat()).await;
    assert_lines(
        &shown,
        &[
            "compared with routes as /cart/7",
            "route 2 (",
            ":10:1) gets it",
            "*.shop.example; /cart and below; GET; when header x-version\n",
            "split by cookie user, by turns without it:",
            "95.0 % upstream stable (http://10.0.0.1:9001, http://10.0.0.2:9001)",
            "5.0 % upstream canary",
            "other routes with this host and path:",
            "route 5 (",
            "passed over: client 10.0.0.0/8 does not hold",
            "route 3 (",
            "lost by method (3): the other one names it",
            "route 4 (",
            "passed over: cookie beta = 2 does not hold",
            "route 1 (",
            "lost by host (1)",
            "sent to upstream stable:\n  GET /cart/7?a=%zz HTTP/1.1\n  Host: EU.shop.example:8080\n",
            "X-Version: 2\n",
            "X-Forwarded-For: 127.0.0.1\n",
            "Which route gets a request is decided by, in this order:\n  1. host",
            "5. the order in the file",
        ],
    );
    let inside = explain(SHOP, &["eu.shop.example/cart/7", "--client", "10.1.1.1"]).await;
    assert_lines(
        &inside,
        &["from 10.1.1.1", "route 5 (", "gets it", "upstream canary", "X-Forwarded-For: 10.1.1.1"],
    );
    // GET names no method, so the one with more conditions, which has its servers' Host.
    let posted = explain(SHOP, &[&["POST http://a.shop.example/cart"], &version[..]].concat()).await;
    assert_lines(&posted, &["route 3 (", "gets it", "POST /cart HTTP/1.1\n  Host: 10.0.0.3:9002\n"]);
}

#[tokio::test]
async fn explain_says_who_gets_copies_when_it_is_sent_again_and_what_becomes_of_the_response() {
    let text = "listen = ['127.0.0.1:0']
[[upstream]]
name = 'app'
servers = ['http://10.0.0.1:9001']
[[upstream]]
name = 'shadow'
servers = ['http://10.0.0.9:9001']
[[route]]
upstream = 'app'
path = '/u/{id}'
mirror = { upstream = 'shadow', percent = 10 }
retry = { attempts = 3, on = ['connect', 503], hedge_after = '100ms' }
response_headers = { set = ['X-User: ${path.id}'], add = ['Vary: X'], remove = ['Server'] }
";
    let shown = explain(text, &["http://a/u/17"]).await;
    assert_lines(
        &shown,
        &[
            "upstream app (http://10.0.0.1:9001)",
            "copies of 10 % to upstream shadow (http://10.0.0.9:9001)",
            "sent 3 times at most, again for connect, 503, if it is idempotent; to a second server too after 100ms",
            "sent to upstream app:",
            "fields of the response:\n  without Server\n  X-User: 17 (in place of others)\n  Vary: X (added)\n",
        ],
    );
}

#[tokio::test]
async fn explain_says_what_is_refused() {
    let restricted = SHOP.replace("when = ['header x-version', 'cookie beta']", "methods = ['PUT']");
    let shown = explain(&restricted, &["POST a.shop.example/cart", "-H", "x-version: 1"]).await;
    assert_refused(
        &shown,
        &["405, Allow: GET, HEAD, PUT", "route 2 (", "lost by method (3): it has others", "Which route"],
    );
    let nowhere = explain(
        &SHOP.replacen("upstream = 'stable'\n[[", "path = '/x'\nupstream = 'stable'\n[[", 1),
        &["b/y"],
    )
    .await;
    assert_refused(&nowhere, &["404: no route"]);
    for (request, words) in [("GET a/%00", "400"), ("GET a/../..", "400"), ("G@T a/", "400")] {
        assert_refused(&explain(SHOP, &[request]).await, &[words]);
    }
    let wrong = explain(&SHOP.replace("header x-version'", "heder x-version'"), &["a/"]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("did you mean `header x-version`"), "{}", wrong.stderr);
}

/// One error for each slip, at its line.
#[tokio::test]
async fn what_is_wrong_with_conditions_and_splits_is_said_once() {
    for (from, to, at, words) in [
        (
            "'header x-version', 'cookie beta'",
            "'header x', 'not header x'",
            ":20:21:",
            "never holds together",
        ),
        ("'header x-version', 'cookie beta'", "'header x', 'header X'", ":20:21:", "is there twice"),
        ("'cookie beta = 2'", "'cookie beta ~ ('", ":27:9:", "not a regular expression"),
        ("path = '/cart/{id}'", "path_regex = '^/(?!x)'", ":31:14:", "look-around"),
        ("path = '/cart/{id}'", "path_regex = '~* ^/x'", ":31:14:", "path_regex = '(?i)^/x'"),
        ("path = '/cart/{id}'", "path = '/x'\npath_regex = 'x'", ":32:14:", "exclude each other"),
        ("split_by = 'cookie user'", "split_by = 'user'", ":16:12:", "\"cookie NAME\""),
        ("weight = 5 }", "weight = 5 }, { upstream = 'canary' }", ":15:", "is there twice"),
        (
            "upstream = 'canary', weight = 5",
            "upstream = 'canari', weight = 5",
            ":15:",
            "did you mean `canary`",
        ),
        ("weight = 95 }, { upstream = 'canary', weight = 5", "weight = 0", ":15:9:", "no weight is above 0"),
        ("split_by = 'cookie user'", "upstream = 'stable'", ":15:9:", "exclude each other"),
        ("send_host = 'server'", "split_by = 'client'", ":22:12:", "nothing to split"),
        (
            "when = ['header x-version', 'cookie beta']",
            "methods = ['GET']\nwhen = ['header X-Version']",
            ":17:1:",
            "a second route for GET",
        ),
    ] {
        let text = SHOP.replacen(from, to, 1);
        assert_ne!(text, SHOP, "{from}");
        let file = config_file(".toml", &text);
        let checked = run(&["check", "--config", file.path().to_str().expect("UTF-8")]).await;
        let errors: Vec<&str> = checked.stderr.lines().filter(|line| !line.starts_with("warning:")).collect();
        assert_eq!((checked.code, errors.len()), (Some(1), 1), "{to}: {checked:?}");
        assert!(errors[0].contains(at) && errors[0].contains(words), "{to}: {}", errors[0]);
    }
}

#[tokio::test]
async fn check_warns_of_routes_that_get_no_request() {
    let text = SHOP.replace("when = ['cookie beta = 2']", "when = ['header x-version = 2']");
    let file = config_file(".toml", &text);
    let name = file.path().to_str().expect("UTF-8");
    let checked = run(&["check", "--config", name]).await;
    assert_eq!((checked.code, checked.stderr.lines().count()), (Some(0), 1), "{checked:?}");
    let places =
        [format!("warning: {name}:23:1: route: no request comes here"), format!("it is at {name}:10:1")];
    places.iter().for_each(|words| assert!(checked.stderr.contains(words), "{words}: {}", checked.stderr));
}

/// As with clients, who may be refused it.
#[tokio::test]
async fn explain_takes_utf8_as_requests_do() {
    let routes = "[[route]]\npath_prefix = '/gr%C3%BCn'\nupstream = 'a'\n[[upstream]]\nname = 'a'\nservers = ['http://127.0.0.1:9']\n";
    let text = format!("listen = ['127.0.0.1:0']\n{routes}");
    assert_lines(
        &explain(&text, &["http://test/grün/tee"]).await,
        &["route 1 (", " gets it", "GET /gr%C3%BCn/tee HTTP/1.1"],
    );
    let refused = explain(&format!("paths.raw_utf8 = 'refuse'\n{text}"), &["http://test/grün/tee"]).await;
    assert_refused(&refused, &["400: UTF-8 in the target"]);
}
