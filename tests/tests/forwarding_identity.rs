//! What a server learns about the client of a request: from untrusted peers, by way of trusted proxies, by configuration.

use std::collections::HashSet;

use sluice_tests::{
    client::{self, Raw},
    origin,
    proxy::{Proxy, run},
};

/// A request in which a client claims everything there is to claim.
const CLAIMS: &str = "GET / HTTP/1.1\r\nHost: shop.example:8443\r\nX-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: www.example\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /p\r\n\
    Forwarded: for=198.51.100.8;proto=https\r\nX-Real-IP: 198.51.100.9\r\nX-Request-Id: claimed-1\r\n\
    Via: 1.1 other\r\nUser_Name: kept\r\n\r\n";

/// Every line with this name, in order.
fn lines<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// What the origin got when `request` was sent through a proxy with these flags.
async fn received(flags: &[&str], request: &str) -> String {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to_with(origin.address, flags).await;
    assert_eq!(client::exchange(proxy.address, request).await.status(), 200);
    origin.recorder.text()
}

#[track_caller]
fn assert_fields(text: &str, wanted: &[(&str, &[&str])]) {
    for (name, values) in wanted {
        assert_eq!(lines(text, name), *values, "{name} in {text}");
    }
}

#[tokio::test]
async fn forwarding_fields_of_an_untrusted_peer_are_dropped() {
    let got = received(&[], CLAIMS).await;
    assert_fields(
        &got,
        &[
            ("X-Forwarded-For", &["127.0.0.1"]),
            ("X-Forwarded-Proto", &["http"]),
            ("X-Forwarded-Host", &["shop.example:8443"]),
            ("X-Forwarded-Port", &["8443"]),
            ("X-Forwarded-Prefix", &[]),
            ("Forwarded", &[]),
            ("X-Real-IP", &[]),
            ("Via", &["1.1 other", "1.1 sluice"]),
            ("User_Name", &["kept"]),
            ("Host", &["shop.example:8443"]),
        ],
    );
    let ids = lines(&got, "X-Request-Id");
    assert!(ids.len() == 1 && ids[0].len() == 32 && ids[0].bytes().all(|b| b.is_ascii_hexdigit()), "{ids:?}");
}

#[tokio::test]
async fn a_trusted_proxy_is_continued() {
    let got = received(&["--trusted-proxy", "127.0.0.0/8", "--forwarding-real-ip", "set"], CLAIMS).await;
    assert_fields(
        &got,
        &[
            ("X-Forwarded-For", &["6.6.6.6, 198.51.100.7, 127.0.0.1"]),
            ("X-Forwarded-Proto", &["https"]),
            ("X-Forwarded-Host", &["www.example"]),
            ("X-Forwarded-Port", &["443"]),
            ("X-Forwarded-Prefix", &["/p"]),
            ("Forwarded", &[]),
            ("X-Real-IP", &["198.51.100.7"]),
            ("X-Request-Id", &["claimed-1"]),
        ],
    );
    // Not in the list, and so untrusted.
    let got = received(&["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1"], CLAIMS).await;
    assert_fields(&got, &[("X-Forwarded-For", &["127.0.0.1"]), ("X-Forwarded-Proto", &["http"])]);
}

#[tokio::test]
async fn the_client_is_the_first_who_is_not_trusted() {
    let flags =
        ["--trusted-proxy", "127.0.0.1", "--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "fd00::/8"];
    let with = |more: &[&'static str]| -> Vec<&'static str> { [&flags[..], more].concat() };
    let real_ip = with(&["--forwarding-real-ip", "set"]);
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to_with(origin.address, &real_ip).await;
    let mut client = Raw::connect(proxy.address).await;
    let mut sent = 0;
    for (list, found) in [
        ("198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("6.6.6.6, [2001:db8::7]:4711, fd00::1, ::ffff:10.9.9.9", "2001:db8::7"),
        ("10.0.0.1", "10.0.0.1"),
        ("198.51.100.7, unknown, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.7, 10.0.0.2, ", "127.0.0.1"),
        ("198.51.100.7;", "127.0.0.1"),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {list}\r\n\r\n")).await;
        client.answer_to("GET").await;
        let text = origin.recorder.text();
        assert_eq!(lines(&text[sent..], "X-Real-IP"), [found], "{list}");
        sent = text.len();
    }
}

#[tokio::test]
async fn forwarded_is_sent_read_and_continued() {
    let got = received(&["--forwarding-fields", "forwarded"], CLAIMS).await;
    assert_fields(
        &got,
        &[
            ("Forwarded", &["for=127.0.0.1;host=\"shop.example:8443\";proto=http"]),
            ("X-Forwarded-For", &[]),
            ("X-Forwarded-Proto", &[]),
            ("X-Forwarded-Host", &[]),
            ("X-Forwarded-Port", &[]),
        ],
    );
    let flags = ["--trusted-proxy", "127.0.0.1", "--forwarding-real-ip", "set", "--forwarding-by", "_edge"];
    let got = received(&[&flags[..], &["--forwarding-fields", "forwarded"]].concat(), CLAIMS).await;
    let ours = "for=127.0.0.1;by=_edge;host=\"shop.example:8443\";proto=http";
    assert_fields(
        &got,
        &[
            ("Forwarded", &[&format!("for=198.51.100.8;proto=https, {ours}")]),
            ("X-Forwarded-For", &[]),
            ("X-Real-IP", &["198.51.100.8"]),
        ],
    );
    // Both are sent, one is trusted: the other begins with what was found in it.
    let got = received(&[&flags[..], &["--forwarding-fields", "both"]].concat(), CLAIMS).await;
    assert_fields(
        &got,
        &[
            ("X-Forwarded-For", &["6.6.6.6, 198.51.100.7, 127.0.0.1"]),
            ("Forwarded", &["for=198.51.100.7;by=_edge;host=\"www.example\";proto=https"]),
            ("X-Real-IP", &["198.51.100.7"]),
        ],
    );
}

/// One list comes from the proxies in front, the other goes to the servers: what is in the one is in the other,
/// and what the proxies do not maintain is trusted no more than from any other client.
#[tokio::test]
async fn one_list_is_translated_into_the_other() {
    let flags = |sent, trusted| {
        ["--trusted-proxy", "127.0.0.1", "--forwarding-fields", sent, "--forwarding-trusted-field", trusted]
    };
    let got = received(&flags("forwarded", "x-forwarded-for"), CLAIMS).await;
    assert_fields(
        &got,
        &[
            ("Forwarded", &["for=198.51.100.7;host=\"www.example\";proto=https"]),
            ("X-Forwarded-For", &[]),
            ("X-Forwarded-Proto", &[]),
        ],
    );
    let claims = "GET / HTTP/1.1\r\nHost: shop.example:8443\r\nX-Forwarded-For: 6.6.6.6\r\n\
        X-Forwarded-Proto: wss\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\n\
        Forwarded: for=198.51.100.8;proto=https;host=www.example, for=127.0.0.1;proto=http\r\n\r\n";
    let translated: &[(&str, &[&str])] = &[
        ("X-Forwarded-For", &["198.51.100.8"]),
        ("X-Forwarded-Proto", &["https"]),
        ("X-Forwarded-Host", &["www.example"]),
        ("X-Forwarded-Port", &[]),
    ];
    let got = received(&flags("x-forwarded", "forwarded"), claims).await;
    assert_fields(&got, translated);
    assert_fields(&got, &[("Forwarded", &[])]);
    let got = received(&flags("both", "forwarded"), claims).await;
    assert_fields(&got, translated);
    let ours = "for=127.0.0.1;host=\"shop.example:8443\";proto=http";
    let theirs = "for=198.51.100.8;proto=https;host=www.example, for=127.0.0.1;proto=http";
    assert_fields(&got, &[("Forwarded", &[&format!("{theirs}, {ours}")])]);
}

#[tokio::test]
async fn an_ipv6_client_is_quoted() {
    if !sluice_tests::has_ipv6() {
        return;
    }
    let origin = origin::answers(origin::ok("ok")).await;
    let upstream = format!("http://{}", origin.address);
    let flags =
        ["--listen", "[::1]:0", "--shards", "1", "--upstream", &upstream, "--forwarding-fields", "both"];
    let proxy = Proxy::start(&flags).await;
    client::get(proxy.address, "/").await;
    let got = origin.recorder.text();
    assert_fields(
        &got,
        &[("X-Forwarded-For", &["::1"]), ("Forwarded", &["for=\"[::1]\";host=\"test\";proto=http"])],
    );
}

#[tokio::test]
async fn everything_can_be_turned_off_or_left_alone() {
    let off = [
        "--forwarding-fields",
        "none",
        "--forwarding-real-ip",
        "remove",
        "--forwarding-request-id",
        "remove",
    ];
    let got = received(
        &[&off[..], &["--forwarding-via", "edge-1", "--trusted-proxy", "127.0.0.1"]].concat(),
        CLAIMS,
    )
    .await;
    for name in [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "Forwarded",
        "X-Real-IP",
        "X-Request-Id",
    ] {
        assert_fields(&got, &[(name, &[])]);
    }
    assert_fields(&got, &[("Via", &["1.1 other", "1.1 edge-1"])]);
    let got = received(&["--forwarding-request-id", "pass"], CLAIMS).await;
    assert_fields(&got, &[("X-Request-Id", &["claimed-1"])]);
}

#[tokio::test]
async fn request_ids_are_unique_and_survive_a_retry() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..200 {
        client.ask("GET", "/").await;
    }
    let text = origin.recorder.text();
    let ids: Vec<&str> = text.split("X-Request-Id: ").skip(1).map(|rest| &rest[..32]).collect();
    assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (200, 200));

    // Sent again on another connection, it is still the same request.
    let origin = origin::dies_on_reuse().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.ask("GET", "/first").await;
    client.ask("GET", "/second").await;
    assert!(proxy.counters().await.upstream_retries > 0);
    let text = origin.recorder.text();
    let second = text.split("GET ").filter(|request| request.starts_with("/second"));
    let ids: HashSet<&str> =
        second.map(|request| request.split("X-Request-Id: ").nth(1).map_or("", |rest| &rest[..32])).collect();
    assert_eq!(ids.len(), 1, "{text}");
}

#[tokio::test]
async fn other_spellings_of_these_fields_reach_no_server() {
    let origin = origin::answers(origin::ok("ok")).await;
    // Not even from a proxy that is trusted.
    for flags in [&[][..], &["--trusted-proxy", "127.0.0.1"]] {
        let proxy = Proxy::to_with(origin.address, flags).await;
        for name in [
            "X_Forwarded_For",
            "x-forwarded_proto",
            "X_REAL_IP",
            "X_Request_Id",
            "X-Request_Id",
            "X_Forwarded-Port",
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: 10.0.0.1\r\n\r\n");
            let answer = client::exchange(proxy.address, request).await;
            assert_eq!(answer.status(), 400, "{name}");
            assert!(answer.text().contains("underscore"), "{}", answer.text());
        }
    }
    assert_eq!(origin.recorder.connections(), 0);
    let got =
        received(&[], "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_Prefix: /x\r\nUser_Name: b\r\n\r\n").await;
    assert_fields(&got, &[("X_Forwarded_Prefix", &[]), ("User_Name", &["b"])]);
}

#[tokio::test]
async fn trailers_carry_none_of_it() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to_with(origin.address, &["--trusted-proxy", "127.0.0.1"]).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\
        X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: 6\r\n\
        X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Prefix: /6\r\n\r\n";
    client::exchange(proxy.address, request).await;
    origin
        .recorder
        .wait_for("the end of the body", |all| {
            all[0].bytes.ends_with(b"\r\n\r\n") && all[0].bytes.windows(5).any(|w| w == b"\r\n0\r\n")
        })
        .await;
    let text = origin.recorder.text();
    let trailers = text.split("\r\n0\r\n").nth(1).expect("a last chunk");
    assert!(!trailers.contains('6'), "{trailers}");
    assert!(trailers.contains("X-Sum: 1"), "{trailers}");
}

#[tokio::test]
async fn wrong_settings_are_reported_with_a_way_out() {
    let start = ["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"];
    for (flags, words) in [
        (["--trusted-proxy", "10.0.0.1/8"], "did you mean 10.0.0.0/8"),
        (["--trusted-proxy", "lb.internal"], "names are not looked up here"),
        (["--forwarding-via", "a b"], "cannot stand in a Via field"),
        (["--forwarding-by", "edge"], "\"_edge\""),
    ] {
        let finished = run(&[&start[..], &flags[..]].concat()).await;
        assert_eq!(finished.code, Some(2), "{flags:?}");
        assert!(
            finished.stderr.contains(words) && finished.stderr.lines().count() == 1,
            "{}",
            finished.stderr
        );
    }
}
