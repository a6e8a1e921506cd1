//! What happens to the fields of a message on its way: taken out, added, or left exactly as they were.

use sluice_tests::{
    client::{self, Raw},
    origin,
    proxy::Proxy,
};

#[tokio::test]
async fn hop_by_hop_fields_of_a_request_stay_here() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let request = "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, X-Private\r\nConnection: x-too\r\n\
        X-Private: 1\r\nX-Too: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nX-Kept: 3\r\n\r\n";
    assert_eq!(client::exchange(proxy.address, request).await.status(), 200);
    let seen = origin.only();
    for name in ["x-private", "x-too", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    assert_eq!(seen.field("x-kept"), Some("3"));
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_response_stay_there() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: X-Private, close\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: close\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nok";
    let origin = origin::answers_and_closes(answer).await;
    let proxy = Proxy::to(origin.address).await;
    let answer = client::get(proxy.address, "/").await;
    for name in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert_eq!(answer.field("x-kept"), Some("2"));
    for option in ["x-private", "close"] {
        assert!(!answer.head.fields.lists("connection", option), "{option} was for us, not for the client");
    }
}

#[tokio::test]
async fn connection_cannot_take_the_framing_or_the_host_away() {
    for named in ["Content-Length", "Host", "X-Forwarded-For"] {
        let origin = origin::real("real").await;
        let proxy = Proxy::to(origin.address).await;
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: test\r\nConnection: {named}\r\nContent-Length: 4\r\n\r\nbody"
        );
        let answer = client::exchange(proxy.address, request).await;
        // Refusing is as good as seeing through it.
        if answer.status() != 400 {
            let seen = origin.only();
            assert_eq!((&*answer.text(), seen.field("host")), ("body", Some("test")), "{named}");
            assert!(seen.field("x-forwarded-for").is_some(), "{named}");
        }
    }
}

#[tokio::test]
async fn the_origin_learns_who_asked_for_what() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    client::exchange(proxy.address, "GET / HTTP/1.1\r\nHost: shop.example:8443\r\n\r\n").await;
    let seen = origin.only();
    assert_eq!(seen.field("host"), Some("shop.example:8443"), "Host is preserved");
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("shop.example:8443"));
    assert!(seen.field("via").is_some_and(|via| via.starts_with("1.1 ")), "{seen:?}");
}

#[tokio::test]
async fn the_last_word_on_the_client_is_ours() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let forged = "GET / HTTP/1.0\r\nHost: test\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: admin\r\nVia: 1.1 other\r\n\r\n";
    client::exchange(proxy.address, forged).await;
    let seen = origin.only();
    let last = |name| seen.field(name).and_then(|value| value.rsplit(',').next()).map(str::trim);
    assert_eq!(last("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(last("x-forwarded-proto"), Some("http"), "a client cannot claim TLS");
    assert_eq!(last("x-forwarded-host"), Some("test"), "a client cannot claim another host");
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.3
    let via: Vec<_> = seen.fields.get_all("via").iter().filter_map(|via| via.to_str().ok()).collect();
    let via = via.join(", ");
    assert!(via.starts_with("1.1 other, 1.0 "), "each hop adds itself with the version it received: {via}");
}

#[tokio::test]
async fn date_is_added_only_where_it_is_missing() {
    let without = origin::answers(origin::ok("ok")).await;
    let proxy = Proxy::to(without.address).await;
    let answer = client::get(proxy.address, "/").await;
    let date = answer.field("date").expect("a Date");
    assert!(date.ends_with(" GMT") && date.len() == "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");

    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    let with = origin::answers(format!(
        "HTTP/1.1 200 OK\r\nDate: {old}\r\nServer: other\r\nContent-Length: 0\r\n\r\n"
    ))
    .await;
    let proxy = Proxy::to(with.address).await;
    let answer = client::get(proxy.address, "/").await;
    assert_eq!(answer.head.fields.all("date").collect::<Vec<_>>(), [old]);
    assert_eq!(answer.field("server"), Some("other"), "the origin's own Server is kept");
}

#[tokio::test]
async fn repeated_fields_keep_their_number_and_order() {
    let cookies = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-Between: x\r\nSet-Cookie: b=2, c\r\nContent-Length: 0\r\n\r\n";
    let origin = origin::answers(cookies).await;
    let proxy = Proxy::to(origin.address).await;
    let request = "GET / HTTP/1.1\r\nHost: test\r\nCookie: one\r\nAccept: a\r\nCookie: two\r\nX-Empty:\r\nX-Latin: caf\u{e9}\r\n\r\n";
    let answer = client::exchange(proxy.address, request).await;
    assert_eq!(answer.head.fields.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2, c"]);
    let arrived = origin.recorder.text();
    let order = ["Cookie: one", "Accept: a", "Cookie: two", "X-Empty:", "X-Latin: caf\u{e9}\r\n"]
        .map(|line| arrived.to_lowercase().find(&line.to_lowercase()));
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?} in {arrived}");
}

#[tokio::test]
async fn target_and_reason_pass_unchanged() {
    let origin = origin::answers("HTTP/1.1 299 Quite Unusual\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = Proxy::to(origin.address).await;
    let target = "/a/b/c%20d;v=1/~x?q=%41&&r=//../&s=a+b?c";
    let answer = client::get(proxy.address, target).await;
    assert_eq!(answer.head.start, "HTTP/1.1 299 Quite Unusual");
    assert!(
        origin.recorder.text().starts_with(&format!("GET {target} HTTP/1.1\r\n")),
        "{}",
        origin.recorder.text()
    );
}

#[tokio::test]
async fn a_large_field_passes_both_ways() {
    let large = "v".repeat(6000);
    let origin =
        origin::answers(format!("HTTP/1.1 200 OK\r\nX-Large: {large}\r\nContent-Length: 0\r\n\r\n")).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Large: {large}\r\n\r\n")).await;
        assert!(
            client.answer_to("GET").await.field("x-large") == Some(&large),
            "the field came back changed"
        );
    }
    assert_eq!(origin.recorder.text().matches(&large).count(), 3);
}
