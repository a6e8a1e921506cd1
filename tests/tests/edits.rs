//! What a route changes on the way: fields of requests and responses, the path and the Host that servers get, with values of the
//! request; and clients that try to write more with them than they may.

use sluice_tests::{
    client::{self, Raw},
    http2::Http2,
    origin::{self, Real},
    proxy::{self, Proxy, config_file},
};

/// A group called `app` with this server.
fn app(server: impl std::fmt::Display) -> String {
    format!("[[upstream]]\nname = \"app\"\nservers = [\"{server}\"]\n")
}

/// Origins of both versions, each with the URL of its server.
async fn origins() -> [(String, Real); 2] {
    let (h1, h2) = (origin::real("real").await, origin::real_http2("real").await);
    [(format!("http://{}", h1.address), h1), (format!("h2c://{}", h2.address), h2)]
}

/// Sends a GET by both versions of HTTP, and returns both statuses.
async fn ask_both(proxy: &Proxy, path: &str, fields: &[(&str, &str)]) -> [u16; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let by_h1 =
        client::exchange(proxy.address, format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).await;
    let mut http2 = Http2::connect(proxy.address).await;
    let stream = http2.ask("GET", path, fields).await;
    [by_h1.status(), http2.answer(stream).await.status()]
}

const REQUEST_FIELDS: &str = r#"
[[route]]
path = "/users/{id}/{*rest}"
upstream = "app"
[route.request_headers]
remove = ["Cookie", "X-Secret"]
set = ["X-User: ${header.X-Auth}", "X-Empty: ${header.X-None}", "X-Id: ${path.id}", "X-Via: ${method} ${client.ip} ${scheme}", "X-Global: route", "Via: none", "X-Session: ${cookie.session}", "X-Page: ${query.page}"]
add = ["Accept: text/extra", "X-Where: ${host} ${authority} ${path} ${query} ${uri}"]
"#;

#[tokio::test]
async fn servers_get_the_fields_of_the_route() {
    for (url, origin) in origins().await {
        let global =
            "request_headers = { set = [\"X-Global: file\", \"X-File: file\"], remove = [\"X-Old\"] }\n";
        let proxy = Proxy::configured(1, &format!("{global}{}{REQUEST_FIELDS}", app(&url))).await;
        let fields = [
            ("accept", "text/plain"),
            ("cookie", "a=1; session=s3"),
            ("x-auth", "alice"),
            ("x-empty", "of the client"),
            ("x-secret", "1"),
            ("x_secret", "2"),
            ("x-old", "1"),
            ("x-user", "forged"),
            ("x-kept", "kept"),
        ];
        assert_eq!(ask_both(&proxy, "/users/a%2Cb/x/y?page=7&q", &fields).await, [200, 200]);
        let seen = origin.seen();
        assert_eq!(seen.len(), 2);
        for seen in seen {
            for (name, wanted) in [
                ("x-user", Some("alice")),
                ("x-empty", None),
                ("x-id", Some("a%2Cb")),
                ("x-global", Some("route")),
                ("x-file", Some("file")),
                ("via", Some("none")),
                ("x-session", Some("s3")),
                ("x-page", Some("7")),
                ("x-where", Some("test test /users/a%2Cb/x/y page=7&q /users/a%2Cb/x/y?page=7&q")),
                ("x-via", Some("GET 127.0.0.1 http")),
                ("x-kept", Some("kept")),
                ("cookie", None),
                ("x-secret", None),
                ("x_secret", None),
                ("x-old", None),
            ] {
                assert_eq!(seen.field(name), wanted, "{name} over {:?}: {:?}", seen.version, seen.fields);
            }
            let accepted: Vec<_> = seen.fields.get_all("accept").iter().collect();
            assert_eq!(accepted, ["text/plain", "text/extra"]);
            assert_eq!(seen.fields.get_all("x-user").iter().count(), 1);
        }
    }
}

#[tokio::test]
async fn the_id_is_the_one_that_the_server_gets() {
    let origin = origin::real("real").await;
    let tables = "[[route]]\nupstream = \"app\"\nresponse_headers.set = [\"X-Request-Id: ${request.id}\"]\n";
    let proxy = Proxy::configured(1, &(app(format!("http://{}", origin.address)) + tables)).await;
    let response = client::get(proxy.address, "/").await;
    let id = response.field("X-Request-Id").expect("an id").to_owned();
    assert_eq!(origin.only().field("x-request-id"), Some(&*id));
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
}

const RESPONSE_FIELDS: &str = r#"
[[route]]
upstream = "app"
[route.response_headers]
remove = ["X-Powered-By", "Server"]
set = ["Cache-Control: no-store", "X-For: ${client.ip} ${path}"]
add = ["Set-Cookie: c=2", "X-Fixed: 1"]
[[route]]
path = "/fixed"
upstream = "app"
response_headers = { set = ["Cache-Control: no-store"], remove = ["Date"] }
[[route]]
path = "/gone"
upstream = "gone"
response_headers = { set = ["X-For: ${path}", "Server: mine"], remove = ["Retry-After"] }
"#;

/// `HTTP/1.1 200 OK` with fields that routes change, behind an interim response that they do not.
const RESPONSE: &str = "HTTP/1.1 103 Early Hints\r\nX-Powered-By: early\r\n\r\nHTTP/1.1 200 OK\r\nX-Powered-By: php\r\nServer: s\r\n\
                        cache-control: public\r\nCache-Control: max-age=1\r\nSet-Cookie: c=1\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn clients_get_the_fields_of_the_route() {
    let origin = origin::answers(RESPONSE).await;
    let refusing = origin::refusing();
    let gone = format!("[[upstream]]\nname = \"gone\"\nservers = [\"http://{}\"]\n", refusing.address);
    let tables = [app(format!("http://{}", origin.address)), gone, RESPONSE_FIELDS.to_owned()].concat();
    let proxy = Proxy::configured(1, &tables).await;
    let mut h1 = Raw::connect(proxy.address).await;
    let mut h2 = Http2::connect(proxy.address).await;
    for round in 0..2 {
        let response = h1.ask("GET", "/a").await;
        assert_eq!(response.interim[0].fields.first("X-Powered-By"), Some("early"));
        let over_h1 = |name: &str| response.head.fields.all(name).map(str::to_owned).collect::<Vec<_>>();
        let answer = h2.get("/a").await;
        assert_eq!(answer.interim[0].first("x-powered-by"), Some("early"));
        let head = answer.head.as_ref().expect("a head");
        let over_h2 = |name: &str| head.all(name).map(str::to_owned).collect::<Vec<_>>();
        for (name, wanted) in [
            ("x-powered-by", &[][..]),
            ("server", &[]),
            ("cache-control", &["no-store"]),
            ("x-for", &["127.0.0.1 /a"]),
            ("set-cookie", &["c=1", "c=2"]),
            ("x-fixed", &["1"]),
            ("content-length", &["2"]),
        ] {
            assert_eq!(
                (over_h1(name), over_h2(name)),
                (
                    wanted.iter().map(|v| (*v).to_owned()).collect(),
                    wanted.iter().map(|v| (*v).to_owned()).collect()
                ),
                "{name}, round {round}"
            );
        }
        assert!(over_h1("date").len() == 1 && over_h2("date").len() == 1);
        let (fixed, fixed_h2) = (h1.ask("GET", "/fixed").await, h2.get("/fixed").await);
        assert_eq!((fixed.field("Cache-Control"), fixed.field("Date")), (Some("no-store"), None));
        assert_eq!((fixed_h2.field("cache-control"), fixed_h2.field("date")), (Some("no-store"), None));
        // Responses of our own are changed too.
        let (gone, gone_h2) = (h1.ask("GET", "/gone?x").await, h2.get("/gone?x").await);
        assert_eq!((gone.status(), gone_h2.status()), (502, 502));
        assert_eq!((gone.field("X-For"), gone.field("Server")), (Some("/gone"), Some("mine")));
        assert_eq!((gone_h2.field("x-for"), gone_h2.field("server")), (Some("/gone"), Some("mine")));
        assert!(gone.text().contains("could not be reached"));
    }
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_tunnel_opens_with_the_fields_of_its_route() {
    let origin = origin::switches_and_echoes().await;
    let route = "[[route]]\nupstream = \"app\"\nupgrade = [\"own\"]\nresponse_headers.set = [\"X-Path: ${path}\"]\nrewrite = \"/inner${path}\"\n";
    let proxy = Proxy::configured(1, &(app(format!("http://{}", origin.address)) + route)).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET /t HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status().expect("a status"), head.fields.first("X-Path")), (101, Some("/t")));
    assert!(origin.recorder.text().starts_with("GET /inner/t HTTP/1.1\r\n"), "{}", origin.recorder.text());
}

const TARGETS: &str = r#"
[[route]]
path_prefix = "/api/v1"
upstream = "app"
strip_prefix = "/api"
[[route]]
path = "/users/{id}/{*rest}"
upstream = "app"
rewrite = "/v2/${path.id}/${path.rest}"
set_host = "${path.id}.internal:81"
[[route]]
path = "/find/{what}"
upstream = "app"
rewrite = "/search?q=${path.what}&user=${header.X-User}"
[[route]]
path = "/files/{*rest}"
upstream = "app"
rewrite = "/files/${header.X-Dir}/${path.rest}"
[[route]]
upstream = "app"
rewrite = "/all?from=${uri}"
"#;

#[tokio::test]
async fn servers_get_another_target() {
    for (url, origin) in origins().await {
        let proxy = Proxy::configured(1, &(app(&url) + TARGETS)).await;
        for (path, wanted) in [
            ("/api/v1/x?q=1", "test/v1/x?q=1"),
            ("/%61pi//v1", "test/v1"),
            ("/users/bob/x/y%2Cz?q", "bob.internal:81/v2/bob/x/y%2Cz?q"),
            ("/users/bob/", "bob.internal:81/v2/bob/"),
            ("/find/a&b=c", "test/search?q=a%26b%3Dc&user=a%20b%2F..%2F%3F"),
            ("/other?a=1&b=2", "test/all?from=%2Fother%3Fa%3D1%26b%3D2"),
        ] {
            let before = origin.seen().len();
            assert_eq!(ask_both(&proxy, path, &[("x-user", "a b/../?")]).await, [200, 200], "{path}");
            for seen in &origin.seen()[before..] {
                let whole = match seen.field("host") {
                    Some(host) => format!("{host}{}", seen.target),
                    None => seen.target.trim_start_matches("http://").to_owned(),
                };
                assert_eq!(whole, wanted, "{path} over {:?}", seen.version);
            }
        }
    }
}

/// A value of the client gets no further than its place.
#[tokio::test]
async fn no_client_gets_out_of_the_path_or_the_host() {
    let origin = origin::real("real").await;
    let proxy = Proxy::configured(1, &(app(format!("http://{}", origin.address)) + TARGETS)).await;
    for dir in ["..", ".", "%2e%2e", "../..", "..%2f..", "a b", "\u{e9}"] {
        let before = origin.seen().len();
        for status in ask_both(&proxy, "/files/x", &[("x-dir", dir)]).await {
            assert!(matches!(status, 200 | 400), "{dir}: {status}");
        }
        for seen in &origin.seen()[before..] {
            let inner = seen.target.strip_prefix("/files/").expect("a path below /files/");
            let dir = inner.strip_suffix("/x").expect("a file");
            assert!(!dir.is_empty() && dir != "." && dir != ".." && !dir.contains('/'), "{}", seen.target);
        }
    }
    // Dots alone are the directory above, however they get there.
    assert_eq!(ask_both(&proxy, "/files/x", &[("x-dir", "..")]).await, [400, 400]);
    for id in ["a%2Cb", "evil.example%3A80", "a@b", "a,b", "a;b"] {
        let before = origin.seen().len();
        assert_eq!(ask_both(&proxy, &format!("/users/{id}/x"), &[]).await, [400, 400], "{id}");
        assert_eq!(origin.seen().len(), before, "{id}");
    }
    for injected in ["x%0d%0aInjected:%201", "x%0aInjected:1", "%20HTTP/1.1%0d%0aInjected:1"] {
        let path = format!("/find/{injected}?{injected}");
        ask_both(&proxy, &path, &[("x-user", injected)]).await;
    }
    for seen in origin.seen() {
        assert!(seen.field("injected").is_none(), "{seen:?}");
    }
}

#[tokio::test]
async fn variables_of_the_environment_and_of_requests_live_together() {
    let origin = origin::real("real").await;
    let tables = format!(
        "{}[[route]]\nupstream = \"app\"\nrequest_headers.set = [\"X-Mixed: ${{SLUICE_TEST}} ${{method}} $${{method}}\"]\n",
        app(format!("http://{}", origin.address))
    );
    let file = config_file(".toml", &format!("listen = [\"127.0.0.1:0\"]\nshards = 1\n{tables}"));
    let mut command = tokio::process::Command::new(proxy::binary().await);
    command.arg("--config").arg(file.path()).env("SLUICE_TEST", "of ${host} here");
    let proxy = Proxy::spawn(command, Some(file)).await;
    assert_eq!(client::get(proxy.address, "/").await.status(), 200);
    assert_eq!(origin.only().field("x-mixed"), Some("of ${host} here GET ${method}"));
}
