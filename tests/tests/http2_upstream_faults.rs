//! Servers that break the rules of HTTP/2: what is a fault of one stream, what ends the connection, and what a client sees of it.

use sluice_tests::{
    http2::{
        Ended, Http2,
        frames::{self, code, flag, kind, setting},
    },
    origin::{self},
    proxy::Proxy,
    upstream::{assert_nothing_left, by_connection, path, proxy_to},
};

fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frames::headers_in_pieces(stream, flags, &frames::block(fields))
}

/// Faults of one stream: 502 for it, and the connection goes on.
#[tokio::test]
async fn faults_of_a_stream_are_a_502_and_the_connection_goes_on() {
    let long = "x".repeat(40_000);
    let ok = (":status", "200");
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("no :status", head(1, flag::END_STREAM, &[("x", "1")])),
        ("a :status that is none", head(1, flag::END_STREAM, &[(":status", "abc")])),
        ("a status of 101", head(1, 0, &[(":status", "101")])),
        (":status twice", head(1, flag::END_STREAM, &[ok, ok])),
        (":path in a response", head(1, flag::END_STREAM, &[ok, (":path", "/")])),
        ("connection", head(1, flag::END_STREAM, &[ok, ("connection", "close")])),
        ("a name in upper case", head(1, flag::END_STREAM, &[ok, ("X", "1")])),
        ("CR LF in a value", head(1, flag::END_STREAM, &[ok, ("x", "1\r\nset-cookie: a=b")])),
        ("an interim response with the end", head(1, flag::END_STREAM, &[(":status", "103")])),
        ("a length without its content", head(1, flag::END_STREAM, &[ok, ("content-length", "5")])),
        ("two lengths", head(1, 0, &[ok, ("content-length", "5"), ("content-length", "6")])),
        ("data before the head", frames::data(1, 0, "early")),
        ("a head that is too large", head(1, flag::END_STREAM, &[ok, ("x", &long)])),
        ("interim responses without end", (0..100).flat_map(|_| head(1, 0, &[(":status", "103")])).collect()),
        ("WINDOW_UPDATE of 0", frames::window_update(1, 0)),
        (
            "a window that is too large",
            [frames::window_update(1, 0x7fff_ffff), frames::window_update(1, 1)].concat(),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, bytes) in table {
        let origin = origin::reacts(&[], move |nth, stream, request| {
            if stream == 1 {
                request.head.is_some().then(|| bytes.clone())
            } else {
                by_connection(nth, stream, request)
            }
        })
        .await;
        let proxy = proxy_to(origin.origin.address, &["--limit-head-bytes=32KiB"]).await;
        let mut client = Http2::connect(proxy.address).await;
        let status = client.get("/first").await.status();
        let after = client.get("/after").await.text();
        let retries = proxy.counters().await.upstream_retries;
        if (status, &*after, retries, origin.origin.accepted()) != (502, "0", 0, 1) {
            wrong.push(format!(
                "{what}: {status}, then {after:?}, {retries} retries, {} connections",
                origin.origin.accepted()
            ));
        }
        drop(client);
        assert_nothing_left(proxy).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Faults behind the head of a response: it must not look complete.
#[tokio::test]
async fn faults_behind_the_head_cut_the_response() {
    let begun = |length: &str| head(1, 0, &[(":status", "200"), ("content-length", length)]);
    let streamed = head(1, 0, &[(":status", "200")]);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("too little content", [begun("100000"), frames::data(1, flag::END_STREAM, "short")].concat()),
        ("too much content", [begun("100"), frames::data(1, 0, [b'x'; 16_000])].concat()),
        (
            "a second head",
            [streamed.clone(), frames::data(1, 0, "part"), head(1, 0, &[(":status", "200")])].concat(),
        ),
        (
            "trailers with :status",
            [streamed, frames::data(1, 0, "part"), head(1, flag::END_STREAM, &[(":status", "200")])].concat(),
        ),
    ];
    for (what, bytes) in table {
        let origin = origin::reacts(&[], move |nth, stream, request| {
            if stream == 1 {
                request.head.is_some().then(|| bytes.clone())
            } else {
                by_connection(nth, stream, request)
            }
        })
        .await;
        let proxy = proxy_to(origin.origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        let stream = client.ask("GET", "/first", &[]).await;
        let answer = client.answer(stream).await;
        assert!(!answer.is_complete, "{what}: {answer:?}");
        assert!(
            matches!(answer.ended, Some(Ended::Reset(code)) if code != code::NO_ERROR)
                || answer.status() == 502,
            "{what}: {answer:?}"
        );
        assert_eq!(client.get("/after").await.status(), 200, "{what}");
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// More than a stream's window: that stream is reset, also while its client takes nothing.
#[tokio::test]
async fn data_beyond_the_window_of_a_stream_resets_it() {
    let origin = origin::reacts(&[], |nth, stream, request| {
        if path(request) == "/after" {
            return by_connection(nth, stream, request);
        }
        let data = frames::data(stream, 0, [b'x'; 16_384]).repeat(20);
        request.is_complete.then(|| [head(stream, 0, &[(":status", "200")]), data].concat())
    })
    .await;
    let proxy = proxy_to(origin.origin.address, &[]).await;
    let mut client = Http2::connect(proxy.address).await;
    client.gives_credit = false;
    client.ask("GET", "/stuck", &[]).await;
    let ended = |all: &origin::Arrivals| {
        all.requests.get(&(0, 1)).is_some_and(|one| one.ended == Some(Ended::Reset(code::FLOW_CONTROL_ERROR)))
    };
    origin.wait_for("the end of the stream", ended).await;
    let mut neighbour = Http2::connect(proxy.address).await;
    assert_eq!(neighbour.get("/after").await.text(), "0");
    drop((client, neighbour));
    assert_nothing_left(proxy).await;
}

/// Faults of the connection: 502 for its streams, a new connection for what follows, and neighbours on others go on.
#[tokio::test]
async fn faults_of_the_connection_end_it() {
    let promise = [&2_u32.to_be_bytes()[..], &frames::get("/pushed")].concat();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("DATA on stream 0", frames::data(0, 0, "x")),
        ("HEADERS on an idle stream", head(99, flag::END_STREAM, &[(":status", "200")])),
        ("HEADERS on a stream of the server", head(2, flag::END_STREAM, &[(":status", "200")])),
        ("DATA on an idle stream", frames::data(99, 0, "x")),
        ("PUSH_PROMISE", frames::frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, promise)),
        (
            "a block that is not valid",
            frames::headers(1, flag::END_STREAM, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "a block that is not continued",
            [frames::frame(kind::HEADERS, 0, 1, []), frames::ping([0; 8])].concat(),
        ),
        (
            "a block without end",
            [
                frames::frame(kind::HEADERS, 0, 1, []),
                frames::frame(kind::CONTINUATION, 0, 1, [0; 16_384]).repeat(20),
            ]
            .concat(),
        ),
        ("a frame that is too large", frames::data(1, 0, vec![0; 100_000])),
        ("WINDOW_UPDATE of 0 for the connection", frames::window_update(0, 0)),
        ("settings out of range", frames::settings(&[(setting::INITIAL_WINDOW_SIZE, u32::MAX)])),
        ("the end", vec![]),
    ];
    for (what, bytes) in table {
        let (bad, is_end) = (bytes.clone(), what == "the end");
        let origin = origin::Http2Origin::scripted(&[], move |nth, mut http| {
            let bad = bad.clone();
            async move {
                http.wait(|http| http.streams.get(&1).is_some_and(|one| one.is_complete)).await?;
                if nth > 0 || is_end {
                    http.try_send(origin::answer(1, &nth.to_string())).await?;
                } else {
                    http.try_send(&bad).await?;
                }
                if !is_end {
                    while http.more().await? {}
                }
                Ok(())
            }
        })
        .await;
        let proxy = proxy_to(origin.address, &[]).await;
        let mut client = Http2::connect(proxy.address).await;
        let post = client.ask("POST", "/first", &[]).await;
        let status = client.answer(post).await.status();
        assert_eq!(status, if is_end { 200 } else { 502 }, "{what}");
        assert_eq!(client.get("/after").await.text(), "1", "{what}");
        drop(client);
        assert_nothing_left(proxy).await;
    }
}

/// Frames without end that the protocol permits take neither memory nor the turn of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_by_a_server_take_no_memory() {
    let update = frames::window_update(0, 1);
    for (what, frame) in [
        ("PING", frames::ping(*b"flooding")),
        ("SETTINGS", frames::settings(&[(setting::HEADER_TABLE_SIZE, 4096)])),
        ("WINDOW_UPDATE", update),
        ("PRIORITY", frames::frame(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 16])),
        ("frames of an unknown type", frames::frame(0xbe, 0, 1, b"?")),
        ("empty DATA", frames::data(1, 0, [])),
    ] {
        let flood = frame.repeat(200_000 / frame.len());
        let flooding = origin::reacts(&[], move |_, stream, request| {
            let begun = || head(stream, 0, &[(":status", "200")]);
            let all = || [begun(), flood.repeat(5), frames::data(stream, flag::END_STREAM, "end")].concat();
            request.is_complete.then(all)
        })
        .await;
        let fine = origin::real_http2("fine").await;
        let tables = format!(
            "[[upstream]]\nname = \"fine\"\nservers = [\"h2c://{}\"]\n[[upstream]]\nname = \"flooding\"\nservers = [\"h2c://{}\"]\n\
             [[route]]\nupstream = \"fine\"\n[[route]]\npath_prefix = \"/flood\"\nupstream = \"flooding\"\n",
            fine.address, flooding.origin.address
        );
        let proxy = Proxy::configured(1, &tables).await;
        let (mut client, mut neighbour) =
            (Http2::connect(proxy.address).await, Http2::connect(proxy.address).await);
        assert_eq!(neighbour.get("/").await.text(), "fine");
        let before = proxy.resident_bytes();
        let stream = client.ask("GET", "/flood", &[]).await;
        for _ in 0..20 {
            assert_eq!(neighbour.get("/").await.text(), "fine", "{what}");
        }
        client.answer(stream).await;
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{what}: {grown} bytes more");
        drop((client, neighbour));
        assert_nothing_left(proxy).await;
    }
}
