//! Spellings of a path: which route they meet, what arrives at the server, and which are refused.

use sluice_tests::{
    client::{self, Raw},
    origin::{self, Origin},
    proxy::{self, Proxy},
};

/// What must become of a target: it arrives so at an origin, or it is refused with 400.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Arrives(&'static str, String),
    Refused,
    NoRoute,
    Other(String),
}

use Fate::{NoRoute, Refused};

fn at(origin: &'static str, target: &str) -> Fate {
    Fate::Arrives(origin, target.to_owned())
}

/// Origins that write down what arrives and answer with their names, and a proxy that routes to them.
struct Site {
    proxy: Proxy,
    origins: Vec<(&'static str, Origin)>,
}

impl Site {
    /// One origin per route, by name; each route is its name and its keys. `paths` is what stands in `[paths]`.
    async fn new(paths: &str, routes: &[(&'static str, &str)]) -> Self {
        let mut tables = format!("[paths]\n{paths}\n");
        let mut origins = Vec::new();
        for (name, keys) in routes {
            let origin = origin::answers(origin::ok(name)).await;
            let server = origin.address;
            tables.push_str(&format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{server}\"]\n"));
            tables.push_str(&format!("[[route]]\nupstream = \"{name}\"\n{keys}\n"));
            origins.push((*name, origin));
        }
        Self { proxy: Proxy::configured(1, &tables).await, origins }
    }

    /// A guarded part and the rest.
    async fn guarded(paths: &str) -> Self {
        Self::new(paths, &[("admin", "path_prefix = \"/admin\""), ("open", "path = \"/{*rest}\"")]).await
    }

    /// How many bytes each origin has seen.
    fn seen(&self) -> Vec<usize> {
        self.origins.iter().map(|(_, origin)| origin.recorder.text().len()).collect()
    }

    /// Sends one request on a connection of its own; says what became of it, by the bytes that arrived at the origins.
    async fn fate(&self, request: &str) -> Fate {
        let before = self.seen();
        let answer = client::exchange(self.proxy.address, request).await;
        let after = self.seen();
        let arrived = self.origins.iter().zip(before).find_map(|((name, origin), before)| {
            let text = origin.recorder.text();
            let head = text.get(before..).filter(|head| !head.is_empty())?;
            let target = head.split(' ').nth(1).unwrap_or_default();
            Some((*name, target.to_owned()))
        });
        let is_ours = answer.field("server") == Some("sluice");
        match (answer.status(), arrived) {
            (200, Some((name, target))) if answer.text() == name => Fate::Arrives(name, target),
            (400, None) if is_ours && answer.head.fields.lists("connection", "close") => Refused,
            (404, None) if is_ours => NoRoute,
            (status, arrived) => {
                Fate::Other(format!("{status}, {arrived:?}, {after:?} bytes at the origins"))
            }
        }
    }

    /// Sends each target and compares; names all that met another fate.
    async fn assert(&self, cases: &[(&str, Fate)]) {
        let mut wrong = Vec::new();
        for (target, want) in cases {
            let fate = self.fate(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            if fate != *want {
                wrong.push(format!("{target}: {fate:?}, not {want:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }
}

#[tokio::test]
async fn every_spelling_of_a_path_meets_its_route_and_arrives_in_one_form() {
    let site = Site::guarded("").await;
    let spellings = [
        "/admin",
        "/%61dmin",
        "/%61%64%6d%69%6E",
        "//admin",
        "///admin",
        "/./admin",
        "/.//./admin",
        "/%2e/admin",
        "/a/../admin",
        "/a/%2e%2e/admin",
        "/a/%2E%2E/admin",
        "/a/.%2e/admin",
        "/a/%2e./admin",
        "/a//../admin",
        "/a/b/../..//admin",
        "/a/b/../../admin",
        "http://a/x/../%61dmin",
        "http://a//admin",
    ];
    site.assert(&spellings.map(|spelling| (spelling, at("admin", "/admin")))).await;
    site.assert(&[
        ("/x/../admin/%7euser/", at("admin", "/admin/~user/")),
        ("/admin/..", at("open", "/")),
        ("/admin/../x", at("open", "/x")),
        ("/admin/.", at("admin", "/admin/")),
        ("/admin//", at("admin", "/admin/")),
        // Other paths, to every server that goes by RFC 3986.
        ("/Admin", at("open", "/Admin")),
        ("/admin;x", at("open", "/admin;x")),
        ("/admin%20", at("open", "/admin%20")),
        ("/%2561dmin", at("open", "/%2561dmin")),
        ("/...", at("open", "/...")),
        ("/.well-known/x", at("open", "/.well-known/x")),
        ("/caf%c3%a9", at("open", "/caf%C3%A9")),
        ("/a|b[1]^\"<>`{}", at("open", "/a%7Cb%5B1%5D%5E%22%3C%3E%60%7B%7D")),
        ("/-._~!$&'()*+,;=:@", at("open", "/-._~!$&'()*+,;=:@")),
        ("/%21%3a%40", at("open", "/%21%3A%40")),
    ])
    .await;
    let counters = site.proxy.counters().await;
    assert_eq!((counters.bad_requests, counters.requests), (0, 33));
    // All but /admin and the seven others that were normal as they came.
    assert_eq!(counters.paths_normalised, 33 - 8);
}

/// In routes too: what is compared is encoded.
#[tokio::test]
async fn a_query_may_hold_any_percent_sign_and_utf8_is_encoded() {
    let site = Site::guarded("").await;
    site.assert(&[
        ("/admin?discount=100%", at("admin", "/admin?discount=100%")),
        ("/a?%zz&%u20ac&%", at("open", "/a?%zz&%u20ac&%")),
        ("/caf\u{e9}?q=\u{20ac}%&\u{1f600}", at("open", "/caf%C3%A9?q=%E2%82%AC%&%F0%9F%98%80")),
        ("/%63af%c3%a9\u{e9}", at("open", "/caf%C3%A9%C3%A9")),
        ("http://a?\u{e9}", at("open", "/?%C3%A9")),
        ("/\u{e9}/../admin?\u{e9}", at("admin", "/admin?%C3%A9")),
        ("/\u{e9}//..//admin", at("admin", "/admin")),
        ("/a\u{ff0f}..\u{ff0f}admin", at("open", "/a%EF%BC%8F..%EF%BC%8Fadmin")),
    ])
    .await;

    let received = Site::guarded("forward = \"received\"").await;
    received.assert(&[("/caf\u{e9}%7e?\u{e9}%", at("open", "/caf%C3%A9%7e?%C3%A9%"))]).await;

    let strict = Site::guarded("raw_utf8 = \"refuse\"").await;
    strict
        .assert(&[
            ("/caf\u{e9}", Refused),
            ("/?\u{e9}", Refused),
            ("/caf%c3%a9?100%", at("open", "/caf%C3%A9?100%")),
        ])
        .await;
    assert_eq!(strict.proxy.counters().await.paths_refused_bytes, 2);
}

#[tokio::test]
async fn paths_with_two_readings_are_refused_and_reach_no_server() {
    let site = Site::guarded("").await;
    let dots = [
        "/..",
        "/../admin",
        "/%2e%2e/admin",
        "/a/../../admin",
        "/a/..;/admin",
        "/a/..;x=y/admin",
        "/a/.;/admin",
        "/a/%2e%2e%3b/admin",
        "http://a/../admin",
    ];
    let slashes =
        ["/a%2fadmin", "/a%2F..%2Fadmin", "/admin%2f", "/%2fadmin", "/a\\admin", "/a%5cadmin", "/a%5C.."];
    let bytes =
        ["/admin%00", "/%00", "/a%0d%0aX:y", "/a%7f", "/%c0%afadmin", "/%c0%ae%c0%ae/admin", "/%e0%80%af"];
    let syntax =
        ["/%zz", "/%2", "/%", "/a%u002e", "/a%?%41", "/\u{e9}%zz", "/\u{85}", "/a?\u{9f}", "http://\u{e9}/"];
    for group in [&dots[..], &slashes, &bytes, &syntax] {
        site.assert(&group.iter().map(|target| (*target, Refused)).collect::<Vec<_>>()).await;
    }
    assert_eq!(site.seen(), [0, 0]);
    let counters = site.proxy.counters().await;
    assert_eq!(counters.paths_refused_dots, dots.len() as u64);
    assert_eq!(counters.paths_refused_slashes, slashes.len() as u64);
    assert_eq!(counters.paths_refused_bytes, bytes.len() as u64);
    assert_eq!(counters.bad_requests, (dots.len() + slashes.len() + bytes.len() + syntax.len()) as u64);
    // The shard is as well as before.
    site.assert(&[("/admin", at("admin", "/admin"))]).await;
}

#[tokio::test]
async fn each_setting_about_slashes_and_dots_decides_about_its_own_spelling() {
    let cases: &[(&str, &[(&str, Fate)])] = &[
        (
            "dot_segments = \"refuse\"",
            &[("/a/../admin", Refused), ("/a/%2e/admin", Refused), ("/..a/.b", at("open", "/..a/.b"))],
        ),
        (
            "repeated_slashes = \"keep\"",
            &[
                ("//admin", at("open", "//admin")),
                ("/http://h//x", at("open", "/http://h//x")),
                ("/a//../admin", at("open", "/a/admin")),
            ],
        ),
        (
            "repeated_slashes = \"refuse\"",
            &[("//admin", Refused), ("/admin//", Refused), ("/b/", at("open", "/b/"))],
        ),
        (
            "encoded_slash = \"keep\"",
            &[
                ("/group%2fadmin", at("open", "/group%2Fadmin")),
                ("/admin%2f", at("open", "/admin%2F")),
                ("/admin/a%2Fb", at("admin", "/admin/a%2Fb")),
                ("/x/..%2fadmin", Refused),
                ("/x%2f..%2Fadmin", Refused),
                ("/x\\admin", Refused),
            ],
        ),
        (
            "encoded_slash = \"slash\"",
            &[
                ("/x%2f..%2Fadmin", at("admin", "/admin")),
                ("/%2fadmin", at("admin", "/admin")),
                ("/admin%2fx", at("admin", "/admin/x")),
                ("/..%2fadmin", Refused),
            ],
        ),
        (
            "backslash = \"keep\"",
            &[("/a\\b", at("open", "/a%5Cb")), ("/a%5cb", at("open", "/a%5Cb")), ("/x\\..\\admin", Refused)],
        ),
        (
            "backslash = \"slash\"",
            &[
                ("/x\\..\\admin", at("admin", "/admin")),
                ("/x%5c..%5Cadmin", at("admin", "/admin")),
                ("/x%2fy", Refused),
            ],
        ),
    ];
    for (paths, targets) in cases {
        Site::guarded(paths).await.assert(targets).await;
    }
}

#[tokio::test]
async fn each_other_setting_decides_about_its_own_spelling() {
    let cases: &[(&str, &[(&str, Fate)])] = &[
        ("encoded_controls = \"keep\"", &[("/a%0d%0a%7f", at("open", "/a%0D%0A%7F")), ("/a%00", Refused)]),
        (
            "parameters = \"ignore\"",
            &[
                ("/admin;x=1", at("admin", "/admin;x=1")),
                ("/admin%3bx", at("admin", "/admin%3Bx")),
                ("/;x/admin;y/z;", at("admin", "/;x/admin;y/z;")),
                ("/x/..;/admin", Refused),
            ],
        ),
        (
            "parameters = \"refuse\"",
            &[("/admin;x=1", Refused), ("/admin%3Bx", Refused), ("/x?a;b", at("open", "/x?a;b"))],
        ),
        (
            "forward = \"received\"",
            &[
                ("/%61dmin//", at("admin", "/%61dmin//")),
                ("/x/../admin", Refused),
                ("/admin/%2e", Refused),
                ("/a|b", at("open", "/a|b")),
                ("http://a//admin", at("admin", "//admin")),
                ("/x/..%2fadmin", Refused),
                ("/../admin", Refused),
            ],
        ),
    ];
    for (paths, targets) in cases {
        Site::guarded(paths).await.assert(targets).await;
    }
}

#[tokio::test]
async fn settings_come_by_flags_too() {
    let origin = origin::answers(origin::ok("flags")).await;
    let flags = ["--path-encoded-slash=keep", "--path-repeated-slashes=keep", "--path-parameters=refuse"];
    let proxy = Proxy::to_with(origin.address, &flags).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "//a%2fb").await.status(), 200);
    assert!(origin.recorder.text().starts_with("GET //a%2Fb HTTP/1.1\r\n"), "{}", origin.recorder.text());
    assert_eq!(client.ask("GET", "/a;b").await.status(), 400);
    let refused = proxy::run(&["--listen=127.0.0.1:0", "--upstream=http://a", "--path-backslash=kepe"]).await;
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("did you mean `keep`"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_route_can_keep_encoded_slashes_and_the_clients_spelling() {
    let routes = [
        ("projects", "path_prefix = \"/projects\"\npaths.encoded_slash = \"keep\""),
        (
            "objects",
            "path_prefix = \"/objects\"\npaths.encoded_slash = \"keep\"\npaths.forward = \"received\"",
        ),
        ("as-is", "path_prefix = \"/as-is\"\npaths.forward = \"received\""),
        ("one", "path = \"/one%2fsegment/{x}\"\npaths.encoded_slash = \"keep\""),
        ("other", "path_prefix = \"/other\""),
    ];
    let site = Site::new("", &routes).await;
    site.assert(&[
        ("/projects/group%2fname/files", at("projects", "/projects/group%2Fname/files")),
        ("/projects/%67roup%2Fname", at("projects", "/projects/group%2Fname")),
        ("/projects/a%2Fb", at("projects", "/projects/a%2Fb")),
        ("/projects/..%2fother", Refused),
        ("/projects/x%2f..%2f..%2fother", Refused),
        ("/objects/a%2fb//c", at("objects", "/objects/a%2fb//c")),
        ("/x/../objects/%61", Refused),
        ("/x/../projects/%61", at("projects", "/projects/a")),
        ("/x%2fy/../other", at("other", "/other")),
        ("/objects/../other/%61", at("other", "/other/a")),
        ("/as-is/%61", at("as-is", "/as-is/%61")),
        ("/as-is/a%2fb", Refused),
        ("/one%2Fsegment/%61", at("one", "/one%2Fsegment/a")),
        ("/one/segment/a", NoRoute),
        ("/other/a%2Fb", Refused),
        ("/other%2Fb", NoRoute),
    ])
    .await;
}

#[tokio::test]
async fn patterns_are_spelled_like_paths() {
    let routes = [
        ("me", "path = \"/users/@me\""),
        ("user", "path = \"/users/{id}\""),
        ("umlaut", "path = \"/caf%c3%a9\""),
        ("plain", "path_prefix = \"/%61%2Fpart\"\npaths.encoded_slash = \"keep\""),
        ("space", "path = \"/a%20b/{*rest}\""),
    ];
    let site = Site::new("", &routes).await;
    site.assert(&[
        ("/users/@me", at("me", "/users/@me")),
        // The route of both; which of the two it is stays for the server to say.
        ("/users/%40me", at("me", "/users/%40me")),
        ("/users/%40%6de", at("me", "/users/%40me")),
        ("/users/7", at("user", "/users/7")),
        ("/users/.", NoRoute),
        ("/users/x/..", NoRoute),
        ("/users/x/../7", at("user", "/users/7")),
        ("/caf%C3%A9", at("umlaut", "/caf%C3%A9")),
        ("/caf%c3%A9", at("umlaut", "/caf%C3%A9")),
        ("/a%2fpart/x", at("plain", "/a%2Fpart/x")),
        ("/a/part", NoRoute),
        ("//a%20b//", at("space", "/a%20b/")),
    ])
    .await;
}

#[tokio::test]
async fn the_query_is_not_touched() {
    let site = Site::guarded("parameters = \"refuse\"").await;
    let query = "?a=/../b//c&d=%2f%2e%2e%5c%00%c0%af;x|y\\[z]&e=%61?%7e";
    for (path, arrives) in [("/admin", "/admin"), ("/x/..//%61dmin", "/admin")] {
        let target = format!("{path}{query}");
        site.assert(&[(&target, at("admin", &format!("{arrives}{query}")))]).await;
    }
    // Nor is a path that only the query makes look special.
    site.assert(&[
        ("/?/../admin", at("open", "/?/../admin")),
        ("/x/..?//", at("open", "/?//")),
        ("http://a?%2f", at("open", "/?%2f")),
    ])
    .await;
}

#[tokio::test]
async fn asterisk_and_absolute_form_stay_what_they_are() {
    let site = Site::new("", &[("admin", "path_prefix = \"/admin\""), ("all", "")]).await;
    for (request, want) in [
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", at("all", "*")),
        ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", at("all", "*")),
        ("OPTIONS /x/../admin HTTP/1.1\r\nHost: a\r\n\r\n", at("admin", "/admin")),
        ("GET http://a/%61dmin?%61 HTTP/1.1\r\nHost: a\r\n\r\n", at("admin", "/admin?%61")),
        ("GET http://a/%61dmin HTTP/1.1\r\nHost: b\r\n\r\n", Refused),
        ("GET http://a\\b/admin HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
        ("GET http://a/..%2fadmin HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
        ("GET /x/../admin HTTP/1.0\r\n\r\n", at("admin", "/admin")),
    ] {
        assert_eq!(site.fate(request).await, want, "{request:?}");
    }
}

#[tokio::test]
async fn a_respelled_path_leaves_nothing_behind_for_the_next_request() {
    let site = Site::guarded("").await;
    let mut client = Raw::connect(site.proxy.address).await;
    let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let long = format!("/x/../{}", "%61".repeat(1000));
    let targets = [&long, "/x/..//b?q", "/c", "/%7e?", "//", "/d%40"];
    client.send(targets.map(head).concat()).await;
    for _ in targets {
        assert_eq!(client.answer_to("GET").await.status(), 200);
    }
    let arrived: Vec<String> = site.origins[1]
        .1
        .recorder
        .text()
        .lines()
        .filter_map(|line| {
            let target = line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
            Some(target.to_owned())
        })
        .collect();
    assert_eq!(arrived, [&format!("/{}", "a".repeat(1000)), "/b?q", "/c", "/~?", "/", "/d%40"]);
}

#[tokio::test]
async fn a_body_behind_a_bad_path_is_no_request() {
    let site = Site::guarded("").await;
    let mut client = Raw::connect(site.proxy.address).await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = smuggled.len();
    let head = format!("POST /..;/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    client.send(format!("{head}{smuggled}")).await;
    assert_eq!(client.answer_to("POST").await.status(), 400);
    client.assert_closed().await;
    assert_eq!(site.seen(), [0, 0]);
    // HEAD is refused without a body.
    let mut client = Raw::connect(site.proxy.address).await;
    let answer = client.ask("HEAD", "/a%00").await;
    assert_eq!((answer.status(), answer.body.len()), (400, 0));
    client.assert_closed().await;
}

#[tokio::test]
async fn a_body_comes_with_a_respelled_path() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client
        .send("POST /x/../%65cho HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    client.send("4\r\ndefg\r\n0\r\n\r\n").await;
    assert_eq!(client.answer_to("POST").await.text(), "abcdefg");
    assert_eq!(origin.only().target, "/echo");
}

#[tokio::test]
async fn a_pattern_that_no_request_can_have_is_refused_with_a_hint() {
    let tables = "listen = [\"127.0.0.1:0\"]\n[[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:9\"]\n\
                  [[route]]\nupstream = \"a\"\npath = \"/a%2Fb\"\n[[route]]\nupstream = \"a\"\npath = \"/a/%2e%2e/b\"\n";
    let config = proxy::config_file(".toml", tables);
    let path = config.path().to_str().expect("a path in ASCII");
    let finished = proxy::run(&["check", "--config", path]).await;
    assert_eq!(finished.code, Some(1));
    for words in
        [":7:8: route.path: ", "add paths.encoded_slash = \"keep\"", ":10:8: route.path: ", "dot segment"]
    {
        assert!(finished.stderr.contains(words), "{words}: {}", finished.stderr);
    }
}
