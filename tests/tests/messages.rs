//! What an operator reads who writes what other proxies call it, or a value as it is written elsewhere: one error, at its place,
//! that says what to write instead. The texts are an interface: a new one is a line here.

use sluice_tests::{
    client, origin,
    proxy::{Proxy, config_file, run},
};

/// A file that is in order, with `top` on its first line and `route` at the end of its only route.
fn file(top: &str, server: &str, route: &str) -> String {
    let top = if top.is_empty() { "listen = [\"127.0.0.1:80\"]" } else { top };
    let server = if server.is_empty() { "http://127.0.0.1:9000" } else { server };
    format!(
        "{top}\n[[upstream]]\nname = \"app\"\nservers = [\"{server}\"]\n[[route]]\nupstream = \"app\"\n{route}\n"
    )
}

/// The only error of a file, behind the file's name.
async fn only_error(text: &str) -> Result<String, String> {
    let file = config_file(".toml", text);
    let path = file.path().to_string_lossy().into_owned();
    let checked = run(&["check", "--config", &path]).await;
    match (checked.code, checked.stderr.lines().collect::<Vec<_>>().as_slice()) {
        (Some(1), [error]) => {
            Ok(error.strip_prefix(&path).unwrap_or(error).trim_start_matches(':').to_owned())
        }
        (code, _) => Err(format!("exit code {code:?}, not one error:\n{}", checked.stderr)),
    }
}

/// Checks all files and reports all that differ.
async fn assert_errors(table: Vec<(String, &str)>) {
    let mut wrong = String::new();
    for (text, wanted) in table {
        match only_error(&text).await {
            Ok(error) if error == wanted => {}
            Ok(other) | Err(other) => wrong.push_str(&format!("\n{text}is  {other}\nnot {wanted}\n")),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn addresses() {
    const BOTH: &str = "for all its addresses, IPv6 and IPv4)";
    let listen = |address: &str| file(&format!("listen = [\"{address}\"]"), "", "");
    let server = |server: &str| file("", server, "");
    let port = format!(
        "1:11: listen: `:8080` is not an address and a port (hint: did you mean 127.0.0.1:8080 for this host alone, or \
         [::]:8080 {BOTH}"
    );
    let metrics = format!(
        "1:11: metrics: `:9145` is not an address and a port (hint: did you mean 127.0.0.1:9145 for this host alone, or \
         [::]:9145 {BOTH}"
    );
    assert_errors(vec![
        (listen(":8080"), &port),
        (file("metrics = \":9145\"\nlisten = [\"127.0.0.1:80\"]", "", ""), &metrics),
        (
            listen("unix:run/sluice.sock"),
            "1:11: listen: `unix:run/sluice.sock`: the path of a Unix socket begins with a slash (hint: unix:/run/app.sock, or unix:@name in the \
             abstract namespace)",
        ),
        (
            server("unix:app.sock"),
            "4:12: upstream.servers: `unix:app.sock`: the path of a Unix socket begins with a slash (hint: unix:/run/app.sock, or unix:@name in the \
             abstract namespace)",
        ),
        (
            server("http://unix:/run/app.sock:/"),
            "4:12: upstream.servers: `http://unix:/run/app.sock:/` is not how a Unix socket is written (hint: did you mean \
             unix:/run/app.sock)",
        ),
        (
            server("http://bücher.example:81"),
            "4:12: upstream.servers: `http://bücher.example:81`: this is not a host name (hint: did you mean \
             http://xn--bcher-kva.example:81)",
        ),
        (
            server("fastcgi://127.0.0.1:9000"),
            "4:12: upstream.servers: `fastcgi://127.0.0.1:9000`: servers are asked in HTTP/1.1 or HTTP/2 only (hint: use an \
             http://, https:// or h2c:// server)",
        ),
        (
            server("grpc://127.0.0.1:50051"),
            "4:12: upstream.servers: `grpc://127.0.0.1:50051`: gRPC is HTTP/2 (hint: write h2c://127.0.0.1:50051)",
        ),
        (
            server("h2://app.internal"),
            "4:12: upstream.servers: `h2://app.internal`: HTTP/2 over TLS is https:// (hint: write https://app.internal, and \
             protocol = \"h2\")",
        ),
        (
            file("listen = [\"127.0.0.1:80\"]\nforwarding.trusted_proxies = [\"10.0.0.0/255.0.0.0\"]", "", ""),
            "2:31: forwarding.trusted_proxies: `10.0.0.0/255.0.0.0` is not an address or a network (hint: did you mean \
             10.0.0.0/8)",
        ),
    ])
    .await;
}

#[tokio::test]
async fn hosts_and_paths() {
    let route = |line: &str| file("", "", line);
    assert_errors(vec![
        (
            route("host = \"bücher.example\""),
            "7:8: route.host: `bücher.example` is not a host name: only letters, digits, `-`, `_` and dots are possible \
             (hint: clients send it in ASCII: did you mean xn--bcher-kva.example)",
        ),
        (
            route("host = \".example.com\""),
            "7:8: route.host: `.example.com` is not a host name: it starts with a dot (hint: *.example.com is every name \
             below example.com; example.com itself needs a route of its own)",
        ),
        (
            route("host = \"_\""),
            "7:8: route.host: `_` is not a host (hint: leave `host` out to match every host)",
        ),
        (
            route("host = '~^www\\.'"),
            "7:8: route.host: `~^www\\.`: a host is no regular expression (hint: write a name, or *.example.com for every \
             name below example.com)",
        ),
        (
            route("path = \"~ ^/api\""),
            "7:8: route.path: `~ ^/api`: a path is no regular expression (hint: path_prefix = \"/api\" is /api and \
             everything below; in `path`, {name} is one segment and {*rest} all that follow; path_regex takes an expression)",
        ),
        (
            route("path = \"= /login\""),
            "7:8: route.path: `= /login`: `path` is exact by itself (hint: write path = \"/login\")",
        ),
        (
            route("path = \"^~ /img\""),
            "7:8: route.path: `^~ /img`: a prefix has a key of its own (hint: write path_prefix = \"/img\")",
        ),
        (
            route("path = \"/u/:id\""),
            "7:8: route.path: `/u/:id`: `:id` is not a wildcard (hint: did you mean /u/{id}; a colon as such is %3A)",
        ),
        (
            route("path = \"/u/<id>/x\""),
            "7:8: route.path: `/u/<id>/x`: `<id>` is not a wildcard (hint: did you mean /u/{id}/x)",
        ),
        (
            route("path = \"/u/*rest\""),
            "7:8: route.path: `/u/*rest`: `*rest` is not a wildcard (hint: did you mean /u/{*rest})",
        ),
        (
            route("path = \"/api/*\""),
            "7:8: route.path: `/api/*`: `*` is not a wildcard (hint: write {name} for one segment, {*rest} for all that \
             follow)",
        ),
        (
            route("path_prefix = \"/api/*\""),
            "7:15: route.path_prefix: `/api/*`: a prefix has no wildcards (hint: everything below is meant in any case: \
             write /api/)",
        ),
        (
            route("path = \"/%zz\""),
            "7:8: route.path: `/%zz`: `%zz` is not a percent-encoded byte (hint: two hexadecimal digits follow a %, as in \
             %20; a percent sign itself is %25)",
        ),
        (
            route("path = \"/a b\""),
            "7:8: route.path: `/a b`: ' ' cannot stand in a path (hint: percent-encoded, as clients send it: /a%20b)",
        ),
        (
            route("upgrade = [\"ws\"]"),
            "7:12: route.upgrade: `ws` is a scheme, not the protocol that a client asks for (hint: did you mean \
             \"websocket\")",
        ),
    ])
    .await;
}

#[tokio::test]
async fn times_sizes_and_counts() {
    let timeout = |value: &str| file("", "", &format!("[timeouts]\nrequest = {value}"));
    let size = |value: &str| file("", "", &format!("[limits]\nbody_bytes = {value}"));
    let count = |value: &str| file("", "", &format!("[limits]\nconnections = {value}"));
    assert_errors(vec![
        (timeout("\"1.5s\""), "8:11: timeouts.request: `1.5s` is not a duration (hint: did you mean 1500ms)"),
        (timeout("\"1h30m\""), "8:11: timeouts.request: `1h30m` is not a duration (hint: did you mean 90m)"),
        (timeout("\"1d\""), "8:11: timeouts.request: `1d` is not a duration (hint: did you mean 24h)"),
        (timeout("10"), "8:11: timeouts.request: a duration needs a unit (hint: did you mean \"10s\")"),
        (timeout("\"-5s\""), "8:11: timeouts.request: `-5s` is negative (hint: write 0 or more)"),
        (
            timeout("\"off\""),
            "8:11: timeouts.request: `off` is not a number (hint: 0 means no limit, where that is possible)",
        ),
        (size("\"12.5MiB\""), "8:14: limits.body_bytes: `12.5MiB` is not a size (hint: did you mean 12800KiB)"),
        (size("\"10m\""), "8:14: limits.body_bytes: `10m` is not a size (hint: did you mean 10MiB)"),
        (
            size("12.5MiB"),
            "8:18: not valid TOML: invalid float, expected nothing (hint: text stands between quotation marks, such as \
             \"10s\")",
        ),
        (count("\"10k\""), "8:15: limits.connections: `10k` is not a whole number (hint: did you mean 10000)"),
        (count("\"1,000\""), "8:15: limits.connections: `1,000` is not a whole number (hint: did you mean 1000)"),
        (count("\"-5\""), "8:15: limits.connections: `-5` is negative (hint: write 0 or more)"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_toml_and_what_is_not_there() {
    assert_errors(vec![
        (
            "listen: [\"127.0.0.1:80\"]\n".to_owned(),
            "1:7: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_` (hint: write key = value)",
        ),
        (
            "server {\n    listen 80;\n}\n".to_owned(),
            "1:8: not valid TOML: key with no value, expected `=` (hint: this looks like the file of another proxy: \
             Sluice reads TOML or JSON, as in examples/minimal.toml)",
        ),
        (
            "{\"listen\": [\"127.0.0.1:80\"]}\n".to_owned(),
            "1:1: not valid TOML: invalid key-value pair, expected key (hint: this looks like JSON: give the file a name \
             that ends in .json)",
        ),
        (
            file("", "", "[[route]]\npath = \"/x\"\nupstream = \"zebra\""),
            "9:12: route.upstream: there is no upstream `zebra` (hint: the only upstream is `app`)",
        ),
        (
            "listen = [\"127.0.0.1:80\"]\n[[route]]\nupstream = \"app\"\n".to_owned(),
            " upstream: no server to send requests to (hint: add [[upstream]] with name = \"app\" and servers = \
             [\"http://127.0.0.1:9000\"])",
        ),
    ])
    .await;
}

#[tokio::test]
async fn flags_are_answered_like_keys() {
    let mut wrong = String::new();
    for (flags, wanted) in [
        (
            ["--metrics", ":9145"],
            "--metrics: `:9145` is not an address and a port (hint: did you mean 127.0.0.1:9145 for this host alone",
        ),
        (
            ["--listen", "unix:run/sluice.sock"],
            "the path of a Unix socket begins with a slash (hint: unix:/run/app.sock",
        ),
        (["--limit-connections", "10k"], "`10k` is not a whole number (hint: did you mean 10000)"),
        (["--limit-connections=-5", "--smt"], "`-5` is negative (hint: write 0 or more)"),
        (["--limit-body-bytes", "12.5MiB"], "`12.5MiB` is not a size (hint: did you mean 12800KiB)"),
        (["--timeout-request", "1.5s"], "`1.5s` is not a duration (hint: did you mean 1500ms)"),
    ] {
        let fixed = ["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1"];
        let refused = run(&[&fixed[..], &flags].concat()).await;
        let count = refused.stderr.lines().filter(|line| line.contains("(hint: ")).count();
        if !matches!(refused.code, Some(1 | 2)) || count != 1 || !refused.stderr.contains(wanted) {
            wrong.push_str(&format!(
                "\n{flags:?}: exit code {:?}\nis  {}not {wanted}\n",
                refused.code, refused.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A misspelled key is not called missing as well.
#[tokio::test]
async fn one_slip_in_a_key_is_one_error() {
    let whole = file("", "", "");
    let with = |right: &str, wrong: &str| whole.replacen(right, wrong, 1);
    assert_errors(vec![
        (with("listen", "listne"), "1:1: listne: unknown key (hint: did you mean `listen`)"),
        (
            with("[[upstream]]", "[[upstreams]]"),
            "2:3: upstreams: unknown key (hint: did you mean `upstream`)",
        ),
        (with("[[route]]", "[[routes]]"), "5:3: routes: unknown key (hint: did you mean `route`)"),
        (with("name", "nmae"), "3:1: upstream.nmae: unknown key (hint: did you mean `name`)"),
        (
            with("servers", "server"),
            "4:11: upstream.server: expected a table, found a string (hint: write servers = [\"http://127.0.0.1:9000\"], or \
             server = [{ url = \"http://127.0.0.1:9000\" }])",
        ),
        (
            with("upstream = ", "upstrem = "),
            "6:1: route.upstrem: unknown key (hint: did you mean `upstream`)",
        ),
    ])
    .await;
}

#[tokio::test]
async fn keys_of_other_proxies_and_lists() {
    let route = |line: &str| file("", "", line);
    assert_errors(vec![
        (
            route("redirect = \"https://example.com\""),
            "7:12: route.redirect: `upstream` and `redirect` exclude each other (hint: keep one of them)",
        ),
        (
            route("gzip = true"),
            "7:1: route.gzip: unknown key (hint: not there yet: bodies pass as servers encode them)",
        ),
        (
            route("rewrites = \"/x\""),
            "7:1: route.rewrites: unknown key (hint: did you mean `rewrite`)",
        ),
        (
            route("proxy_pass = \"http://a\""),
            "7:1: route.proxy_pass: unknown key (hint: write `upstream` in a [[route]], with the name of an [[upstream]])",
        ),
        (
            route("[[upstream]]\nname = \"b\"\nservers = [\"http://b\"]\nweight = 2\n[[route]]\nupstream = \"b\"\npath = \"/b\""),
            "10:1: upstream.weight: unknown key (hint: `weight` belongs in [[upstream.server]])",
        ),
        (
            route("health_check = \"/health\""),
            "7:1: route.health_check: unknown key (hint: write `health` in an [[upstream]], such as \
             health = { path = \"/healthz\" })",
        ),
        (
            file("listen = \"127.0.0.1:80\"", "", ""),
            "1:10: listen: expected a list of strings, found a string (hint: write [\"127.0.0.1:80\"])",
        ),
        (
            route("path = [\"/a\"]"),
            "7:8: route.path: expected a string, found a list (hint: write the value without the brackets)",
        ),
    ])
    .await;
}

/// The body of an answer of ours begins with the reason phrase; what follows does not repeat it.
#[tokio::test]
async fn answers_say_more_than_their_status() {
    let origin = origin::real("real").await;
    let config = format!(
        "[[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n[[route]]\nupstream = \"real\"\npath = \"/\"\n\
         methods = [\"POST\"]\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &config).await;
    for (request, text) in [
        ("GET / HTTP/2.0", "HTTP Version Not Supported: the version is neither HTTP/1.0 nor HTTP/1.1\n"),
        ("GET / HTTP/1.1", "Method Not Allowed: the path is served, but not by this method\n"),
        ("POST /x HTTP/1.1", "Not Found: no route for this host and path\n"),
    ] {
        let answer = client::exchange(proxy.address, format!("{request}\r\nHost: a\r\n\r\n")).await;
        assert_eq!(answer.text(), text, "{request}");
    }
}
