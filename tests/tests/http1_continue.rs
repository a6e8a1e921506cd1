//! `Expect: 100-continue` in all the ways in which origins treat it, and interim answers in general.

use sluice_tests::{
    client::{self, Raw},
    origin,
    proxy::Proxy,
};

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[tokio::test]
async fn the_origin_says_continue() {
    let origin = origin::continues().await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=30s"]).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..2 {
        client.send(EXPECTING).await;
        assert_eq!(client.head().await.status().unwrap(), 100);
        client.send("body").await;
        let answer = client.answer_to("POST").await;
        assert_eq!((&*answer.text(), answer.interim.len()), ("body", 0), "100 comes once");
    }
    assert!(origin.recorder.text().to_lowercase().contains("\r\nexpect: 100-continue\r\n"));
}

#[tokio::test]
async fn the_proxy_says_continue_where_the_origin_ignores_the_question() {
    let origin = origin::answers(origin::ok("taken")).await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=100ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(EXPECTING).await;
    assert_eq!(client.head().await.status().unwrap(), 100);
    client.send("body").await;
    let answer = client.answer_to("POST").await;
    assert_eq!((&*answer.text(), answer.interim.len()), ("taken", 0));
    assert!(origin.recorder.text().ends_with("\r\n\r\nbody"));
}

#[tokio::test]
async fn the_proxy_says_continue_where_the_origin_says_something_else() {
    let origin = origin::hints_and_waits().await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=300ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(EXPECTING).await;
    assert_eq!(client.head().await.status().unwrap(), 103);
    assert_eq!(client.head().await.status().unwrap(), 100, "hints are no leave to send the body");
    client.send("body").await;
    let answer = client.answer_to("POST").await;
    assert_eq!((&*answer.text(), answer.interim.len()), ("body", 0));
}

#[tokio::test]
async fn a_final_answer_comes_without_a_100() {
    let origin = origin::early_answer().await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=30s"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(EXPECTING).await;
    let answer = client.answer_to("POST").await;
    assert_eq!((answer.status(), &*answer.text(), answer.interim.len()), (403, "refused", 0));
}

#[tokio::test]
async fn a_client_may_ask_and_not_wait() {
    let origin = origin::continues().await;
    let proxy = Proxy::to(origin.address).await;
    let answer = client::exchange(proxy.address, format!("{EXPECTING}body")).await;
    assert_eq!((answer.status(), &*answer.text()), (200, "body"));
}

#[tokio::test]
async fn an_expectation_without_a_body_is_harmless() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=100ms"]).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.answer_to("GET").await.text(), "real");
    client.assert_open().await;
}

#[tokio::test]
async fn interim_answers_are_relayed_in_order() {
    let origin = origin::sends_100_103_then_200().await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        let answer = client.ask("GET", "/").await;
        assert_eq!((answer.status(), &*answer.text()), (200, "final"));
        let hints = answer.interim.last().expect("the early hints");
        assert_eq!(hints.status().unwrap(), 103);
        assert_eq!(hints.fields.first("link"), Some("</style.css>; rel=preload"));
        // An unsolicited 100 has no meaning: passing it on or not are both fine.
        assert!(answer.interim.len() <= 2, "{:?}", answer.interim);
    }
}

#[tokio::test]
async fn http10_clients_get_no_interim_answers() {
    let origin = origin::sends_100_103_then_200().await;
    let proxy = Proxy::to(origin.address).await;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    let answer = client::exchange(proxy.address, "GET / HTTP/1.0\r\nHost: test\r\n\r\n").await;
    assert_eq!((answer.status(), answer.interim.len()), (200, 0));
}

#[tokio::test]
async fn http10_clients_cannot_expect_anything() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--timeout-expect-continue-wait=50ms"]).await;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    let request =
        "POST /echo HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody";
    let answer = client::exchange(proxy.address, request).await;
    assert_eq!((answer.status(), &*answer.text(), answer.interim.len()), (200, "body", 0));
}
