//! Windows that close and open again by every means, streams that share one, and what a connection may leave unfinished.

use std::time::Duration;

use sluice_tests::{
    http2::{
        Http2,
        frames::{self, setting},
    },
    origin, pattern,
    proxy::Proxy,
    within_time,
};
use tokio::time::sleep;

/// A client whose streams have this window, on a connection with as much as there may be.
async fn with_window(proxy: &Proxy, bytes: u32) -> Http2 {
    let mut client = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, bytes)]).await;
    client.gives_credit = false;
    client.send([frames::settings_ack(), frames::window_update(0, 1 << 30)].concat()).await;
    client
}

/// RFC 9113, section 6.9.2: the windows of streams that are open change with the setting.
#[tokio::test]
async fn a_setting_opens_the_windows_of_streams_that_wait() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = with_window(&proxy, 0).await;
    let stream = client.ask("GET", "/bytes/30000", &[]).await;
    client.until("a head", |all| all.stream(stream).is_some()).await;
    client.send(frames::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])).await;
    pattern::assert_exact(&client.answer(stream).await.body, 30_000);
}

/// Also where its window is closed when it is answered, and beside a download that has its turn first.
#[tokio::test]
async fn a_response_of_the_proxys_own_waits_for_its_window() {
    let origin = origin::real("real").await;
    let routes = format!(
        "[[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n[[route]]\npath_prefix = \"/bytes\"\nupstream = \"real\"\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &routes).await;
    let mut client = with_window(&proxy, 0).await;
    let large = client.ask("GET", "/bytes/5000000", &[]).await;
    let refused = client.ask("GET", "/nowhere", &[]).await;
    client.until("a head", |all| all.stream(refused).is_some()).await;
    assert!(client.stream(refused).is_some_and(|one| one.ended.is_none()), "its body waits");
    client.send(frames::window_update(refused, 1_000)).await;
    let answer = client.answer(refused).await;
    assert_eq!((answer.status(), answer.text().is_empty()), (404, false));
    client.gives_credit = true;
    client.send(frames::window_update(large, 1 << 30)).await;
    let beside = client.ask("GET", "/nowhere", &[]).await;
    client.send(frames::window_update(beside, 1_000)).await;
    assert!(!client.answer(beside).await.text().is_empty());
    pattern::assert_exact(&client.answer(large).await.body, 5_000_000);
}

/// What a client announces concerns streams of the server, of which there are none: its own go on.
#[tokio::test]
async fn a_client_that_announces_its_end_gets_its_responses() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = with_window(&proxy, 1_000).await;
    let stream = client.ask("GET", "/bytes/30000", &[]).await;
    client.until("a full window", |all| all.stream(stream).is_some_and(|one| one.body.len() == 1_000)).await;
    client.send(frames::go_away(0, 0)).await;
    client.send(frames::window_update(stream, 1 << 20)).await;
    pattern::assert_exact(&client.answer(stream).await.body, 30_000);
}

/// Sends as much as the window lets through, so often, with the answers to PING late, as if the way were long. The widest window.
async fn widest_window(client: &mut Http2, stream: u32, steps: usize) -> usize {
    const HALF: usize = 32 * 1024;
    client.answers_pings = false;
    let mut widest = 0;
    for step in 0..steps {
        client.until("a window", |all| all.window(stream) >= HALF).await;
        let window = client.window(stream);
        widest = widest.max(window);
        client.upload_part(stream, &vec![0; window]).await.expect("an upload");
        if step % 8 == 7 {
            client.answer_pings().await;
        }
    }
    widest
}

/// A window grows as far as a round trip uses it up, and no farther than it may.
#[tokio::test]
async fn the_window_of_a_long_upload_from_far_away_grows() {
    const MIB: usize = 1 << 20;
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.open("POST", "/copy", &[]).await;
    let widest = widest_window(&mut client, stream, 200).await;
    assert!((MIB / 2..=MIB).contains(&widest), "{widest}");
    let proxy = Proxy::to_with(origin.address, &["--http2-stream-window-max=256KiB"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.open("POST", "/copy", &[]).await;
    let widest = widest_window(&mut client, stream, 100).await;
    assert!((MIB / 8..=MIB / 4).contains(&widest), "{widest}");
}

#[tokio::test]
async fn windows_that_are_not_used_up_or_may_not_grow_stay() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to_with(origin.address, &["--http2-stream-window-max=64KiB"]).await;
    let mut client = Http2::connect(proxy.address).await;
    let stream = client.open("POST", "/copy", &[]).await;
    assert!(widest_window(&mut client, stream, 50).await <= 65_536);
    assert!(client.pings.is_empty(), "nothing asks how far away it is");
    let proxy = Proxy::to(origin.address).await;
    let mut near = Http2::connect(proxy.address).await;
    let stream = near.open("POST", "/copy", &[]).await;
    near.answers_pings = false;
    for _ in 0..500 {
        near.until("a window", |all| all.window(stream) >= 8_192).await;
        near.upload_part(stream, &[0; 8_192]).await.expect("an upload");
        near.answer_pings().await;
        assert!(near.window(stream) <= 65_536);
    }
}

/// A window of the connection that opens a little at a time is for all streams in turn.
#[tokio::test]
async fn streams_take_turns_at_the_window_of_the_connection() {
    const STREAMS: usize = 8;
    const STEP: u32 = 16_384;
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let settings = [(setting::INITIAL_WINDOW_SIZE, 1 << 30)];
    let mut client = Http2::connect_with(proxy.address, &settings).await;
    client.gives_credit = false;
    client.send(frames::settings_ack()).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(client.ask("GET", "/bytes/400000", &[]).await);
    }
    let received = |all: &Http2| all.streams.values().map(|one| one.body.len()).sum::<usize>();
    let mut granted = 65_535;
    client.until("the first window", |all| received(all) == granted).await;
    for _ in 0..4 * STREAMS {
        granted += STEP as usize;
        client.send(frames::window_update(0, STEP)).await;
        client.until("what the window lets through", |all| received(all) == granted).await;
    }
    let bodies: Vec<usize> = streams.iter().map(|id| client.streams[id].body.len()).collect();
    assert!(bodies.iter().all(|bytes| *bytes >= STEP as usize), "{bodies:?}");
}

/// Bodies that are on their way when their requests are refused end nothing else.
#[tokio::test]
async fn bodies_of_many_refused_requests_are_skipped() {
    let origin = origin::real("real").await;
    let routes = format!(
        "[[upstream]]\nname = \"real\"\nservers = [\"http://{}\"]\n[[route]]\npath_prefix = \"/copy\"\nupstream = \"real\"\n",
        origin.address
    );
    let proxy = Proxy::configured(1, &routes).await;
    let mut client = Http2::connect(proxy.address).await;
    let mut refused = Vec::new();
    for _ in 0..120 {
        refused.push(client.open("POST", "/nowhere", &[]).await);
    }
    client
        .until("all resets", |all| all.streams.values().filter(|one| one.ended.is_some()).count() == 120)
        .await;
    for stream in &refused {
        client.send(frames::data(*stream, 0, [b'x'; 100])).await;
    }
    let stream = client.open("POST", "/copy", &[]).await;
    client.upload(stream, &pattern::bytes(1_000)).await.expect("the connection goes on");
    pattern::assert_exact(&client.answer(stream).await.body, 1_000);
}

/// A header block that is dripped has the time of a head, however many bytes come.
#[tokio::test]
async fn a_dripped_header_block_ends_in_time() {
    let origin = origin::real("real").await;
    let proxy =
        Proxy::to_with(origin.address, &["--timeout-request-head=2s", "--timeout-keep-alive-idle=60s"]).await;
    let mut client = Http2::connect(proxy.address).await;
    assert_eq!(client.get("/").await.status(), 200);
    // HEADERS of 1,000 bytes on the next stream, without END_HEADERS.
    let stream = client.next_stream();
    client.send(&frames::headers(stream, 0, [0; 1_000])[..9]).await;
    let dripped = async {
        while client.push(b"\x00").await && client.glance().await {
            sleep(Duration::from_millis(100)).await;
        }
    };
    within_time(Duration::from_secs(30), "the end of the connection", dripped).await;
    assert_eq!(origin.seen().len(), 1);
}

/// RFC 9218, sections 4.1, 7.1 and 10: what is urgent goes first, also when that is said later.
#[tokio::test]
async fn urgent_streams_are_sent_first() {
    const STEP: u32 = 2_500;
    // Comes with its head in one piece.
    const BODY: usize = 10_000;
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Http2::connect_with(proxy.address, &[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]).await;
    client.gives_credit = false;
    client.send(frames::settings_ack()).await;
    // The window of the connection is used up before the others ask.
    let first = client.ask("GET", "/bytes/65535", &[]).await;
    client.answer(first).await;
    let path = format!("/bytes/{BODY}");
    let late = client.ask("GET", &path, &[("priority", "u=6")]).await;
    let usual = client.ask("GET", &path, &[]).await;
    let urgent = client.ask("GET", &path, &[("priority", "u=1")]).await;
    let became_urgent = client.ask("GET", &path, &[("priority", "u=7")]).await;
    for stream in [late, usual, urgent, became_urgent] {
        client.until("a head", |all| all.stream(stream).is_some()).await;
    }
    client.send(frames::priority_update(became_urgent, "u=0")).await;
    let mut ended = Vec::new();
    for _ in 0..20 {
        let received = |all: &Http2| all.streams.values().map(|answer| answer.body.len()).sum::<usize>();
        let before = received(&client);
        client.send(frames::window_update(0, STEP)).await;
        let left = 65_535 + 4 * BODY - before;
        client.until("a window's worth", |all| received(all) - before == left.min(STEP as usize)).await;
        for stream in [late, usual, urgent, became_urgent] {
            if !ended.contains(&stream) && client.stream(stream).is_some_and(|one| one.body.len() == BODY) {
                ended.push(stream);
            }
        }
        if ended.len() == 4 {
            break;
        }
    }
    assert_eq!(ended, [became_urgent, urgent, usual, late]);
}
