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

/// The same with one more line, or table, in its upstream.
fn in_upstream(line: &str) -> String {
    file("", "", "").replace("[[route]]", &format!("{line}\n[[route]]"))
}

/// The same with this line as its only route.
fn local(line: &str) -> String {
    file("", "", "").replace("[[route]]\nupstream = \"app\"\n", &format!("[[route]]\n{line}"))
}

/// Keys that stand in the right table by another name.
#[tokio::test]
async fn what_others_call_a_key_here() {
    let route = |line: &str| file("", "", line);
    assert_errors(vec![
        (route("timeouts.connect = \"1s\""), "7:10: timeouts.connect: unknown key (hint: write `upstream_connect`)"),
        (
            in_upstream("health.uri = \"/healthz\""),
            "5:8: upstream.health.uri: unknown key (hint: write `path`, such as path = \"/healthz\")",
        ),
        (
            in_upstream("sticky.name = \"srv\""),
            "5:8: upstream.sticky.name: unknown key (hint: write `cookie`, such as cookie = \"srv\")",
        ),
        (
            local("split = [{ name = \"app\", weight = 1 }]"),
            "6:12: route.split.name: unknown key (hint: write `upstream`, such as { upstream = \"app\", weight = 1 })",
        ),
        (
            in_upstream("[[upstream.server]]\naddress = \"127.0.0.1:1\""),
            "6:1: upstream.server.address: unknown key (hint: write `url`, such as url = \"http://10.0.0.9:80\")",
        ),
        (
            in_upstream("keepalive = 32"),
            "5:1: upstream.keepalive: unknown key (hint: connections are kept anyway; write \
             `limits.upstream_idle_connections` for the most of them)",
        ),
        (
            in_upstream("timeouts.keepalive = \"30s\""),
            "5:10: timeouts.keepalive: unknown key (hint: write `keep_alive_idle` for connections of clients, \
             `upstream_idle` for kept ones to servers)",
        ),
        (
            in_upstream("resolve.valid = \"30s\""),
            "5:9: upstream.resolve.valid: unknown key (hint: names are resolved by their TTL; write `max` for the longest \
             time, `min` for the shortest)",
        ),
        (
            route("request_headers = [\"X-A: 1\"]"),
            "7:19: route.request_headers: expected a table, found a list (hint: this is a table, such as \
             { set = [\"Name: value\"] }, with `add` and `remove` beside `set`)",
        ),
        (
            route("response_headers.remove = [\"X-A: 1\"]"),
            "7:28: response_headers.remove: `X-A: 1`: a field is left out by its name, whatever its value is (hint: write \
             remove = [\"X-A\"])",
        ),
    ])
    .await;
}

/// Values as other proxies have them.
#[tokio::test]
async fn words_and_conditions_of_others() {
    let route = |line: &str| file("", "", line);
    assert_errors(vec![
        (
            route("path_regex = '^/a/([0-9]+)$'\nrewrite = \"/${path.1}\""),
            "8:11: route.rewrite: `${path.1}`: the path of this route has no {1} (hint: parameters have names: write \
             (?<id>...) in path_regex, and ${path.id} here)",
        ),
        (
            route("error_pages = { 502 = \"/502.html\" }"),
            "7:15: error_pages: expected a list of tables, found one table (hint: write [[error_pages]], or [[route.error_pages]] behind a route, with \
             status = \"502\" and file = \"502.html\", once for each page)",
        ),
        (
            route("when = [\"header X-Version: 2\"]"),
            "7:9: route.when: `header X-Version: 2`: neither = nor ~ behind the name (hint: did you mean \
             `header X-Version = 2`)",
        ),
        (
            route("when = [\"src 10.0.0.0/8\"]"),
            "7:9: route.when: `src 10.0.0.0/8` is not a condition (hint: did you mean `client 10.0.0.0/8`)",
        ),
        (
            in_upstream("balance = \"least_conn\""),
            "5:11: upstream.balance: `least_conn` is none of round_robin, least_requests, two_choices, hash (hint: write \
             \"least_requests\")",
        ),
        (
            in_upstream("balance = \"ip_hash\""),
            "5:11: upstream.balance: `ip_hash` is none of round_robin, least_requests, two_choices, hash (hint: write \
             \"hash\", with hash_by = \"client\" beside it)",
        ),
        (
            in_upstream("balance = \"random\""),
            "5:11: upstream.balance: `random` is none of round_robin, least_requests, two_choices, hash (hint: write \
             \"two_choices\": the better of two at random)",
        ),
    ])
    .await;
}

#[tokio::test]
async fn values_in_a_form_of_others() {
    let route = |line: &str| file("", "", line);
    assert_errors(vec![
        (
            local("redirect = \"301 https://example.com${uri}\""),
            "6:12: route.redirect: `301 https://example.com${uri}`: the status has a key of its own (hint: write \
             redirect = \"https://example.com${uri}\" and redirect_status = 301)",
        ),
        (
            file("", "", "").replace("[\"http://127.0.0.1:9000\"]", "[{ url = \"http://127.0.0.1:9000\", weight = 2 }]"),
            "4:12: upstream.servers: expected a string, found a table (hint: write `server` for servers with settings of \
             their own: server = [{ url = \"http://10.0.0.9:80\", weight = 2 }])",
        ),
        (
            route("mirror = { upstream = \"app\", percent = \"10%\" }"),
            "7:40: route.mirror.percent: `10%` is not a whole number (hint: write 10, without the sign and the quotes)",
        ),
        (
            route("mirror = \"shadow\""),
            "7:10: route.mirror: expected a table, found a string (hint: this is a table, such as { upstream = \"shadow\" })",
        ),
        (
            in_upstream("servers_file = \"/nowhere/servers\""),
            "5:16: upstream.servers_file: cannot read /nowhere/servers: No such file or directory (os error 2) (hint: write \
             the file first, with a server in each line, such as http://10.0.0.9:80 weight=3)",
        ),
        (
            route("request_headers.set = [\"X-A: ${remote_addr}\"]"),
            "7:24: `${remote_addr}` is no variable of requests, and the environment has none of this name (hint: did you mean ${client.ip})",
        ),
        (
            route("request_headers.set = [\"X-A: ${header_host}\"]"),
            "7:24: `${header_host}` is no variable of requests, and the environment has none of this name (hint: did you mean ${host})",
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
