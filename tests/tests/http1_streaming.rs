//! Bodies pass while they are made: nothing is held back, nothing is lost, however long they are.

use std::time::Duration;

use sluice_tests::{
    client::Raw,
    origin, pattern,
    proxy::Proxy,
    wire::{Framing, Reader},
    within, within_time,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

const BIG: u64 = 50_000_000;

/// What 50 MB may take in a debug build on a shared machine.
const BIG_PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn the_first_bytes_of_an_upload_do_not_wait_for_the_last() {
    let uploads = [
        ("Content-Length: 10", "first", "\r\n\r\nfirst", "later"),
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n", "first", "5\r\nlater\r\n0\r\n\r\n"),
    ];
    for (framing, first, arrived, rest) in uploads {
        let origin = origin::answers(origin::ok("done")).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{first}")).await;
        let has = |all: &[origin::Traffic]| {
            all.first().is_some_and(|traffic| String::from_utf8_lossy(&traffic.bytes).contains(arrived))
        };
        origin.recorder.wait_for("the first half of the upload", has).await;
        client.send(rest).await;
        assert_eq!(client.answer_to("POST").await.text(), "done");
    }
}

#[tokio::test]
async fn a_body_in_two_parts_ends_where_it_says() {
    let uploads = [
        ("Content-Length: 10", "first", "later"),
        ("Transfer-Encoding: chunked", "a\r\nfirst", "later\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n", "5\r\nlater\r\n0\r\n\r\n"),
    ];
    for (framing, first, rest) in uploads {
        let origin = origin::answers(origin::ok("done")).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("POST /1 HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{first}")).await;
        let has = |all: &[origin::Traffic]| {
            all.first().is_some_and(|traffic| String::from_utf8_lossy(&traffic.bytes).contains("first"))
        };
        origin.recorder.wait_for("the first half of the upload", has).await;
        // Right behind the second half comes another request: not a byte of it belongs to the body.
        client.send(format!("{rest}GET /2 HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        assert_eq!(client.answer_to("POST").await.text(), "done", "{framing}");
        assert_eq!(client.answer_to("GET").await.text(), "done", "{framing}: the request behind the body");
        let arrived = origin.recorder.text();
        let requests = arrived.matches(" HTTP/1.1\r\n").count();
        assert!(requests == 2 && arrived.contains("GET /2 "), "{framing}: {arrived}");
    }
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    const EVENTS: &[&str] = &["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"];
    let go = origin::Go::new();
    let origin = origin::sends_events(EVENTS, go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n").await;
    assert_eq!(client.head().await.status().unwrap(), 200);
    let mut stream = String::new();
    for event in EVENTS {
        while !stream.contains(event) {
            let piece = client.some().await.unwrap().expect("the stream goes on");
            stream.push_str(&String::from_utf8_lossy(&piece));
        }
        // The origin sends the next event only now: this one did not wait for it.
        go.steps(1);
    }
    while !stream.ends_with("0\r\n\r\n") {
        let piece = client.some().await.unwrap().expect("the end of the chunks");
        stream.push_str(&String::from_utf8_lossy(&piece));
    }
}

#[tokio::test]
async fn a_head_does_not_wait_for_its_body() {
    let origin = origin::stalls_after(0).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head().await.status().unwrap(), 200);
}

#[tokio::test]
async fn big_downloads_are_exact() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    for kind in ["bytes", "chunked"] {
        let (mut reader, mut writer) = Raw::connect(proxy.address).await.split();
        writer
            .write_all(format!("GET /{kind}/{BIG} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(within_time(BIG_PATIENCE, kind, read_pattern(&mut reader)).await, BIG);
    }
}

#[tokio::test]
async fn big_uploads_are_exact() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    for framing in [Framing::Length(BIG), Framing::Chunked] {
        let (mut reader, mut writer) = Raw::connect(proxy.address).await.split();
        within_time(BIG_PATIENCE, "the upload", send_pattern(&mut writer, "/digest", framing)).await;
        let answer = within("the answer", reader.response("POST")).await.unwrap();
        assert_eq!(answer.text(), BIG.to_string(), "{framing:?}");
    }
}

#[tokio::test]
async fn an_echo_flows_both_ways_at_once() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    for framing in [Framing::Length(BIG), Framing::Chunked] {
        let (mut reader, mut writer) = Raw::connect(proxy.address).await.split();
        let both =
            async { tokio::join!(send_pattern(&mut writer, "/echo", framing), read_pattern(&mut reader)).1 };
        assert_eq!(within_time(BIG_PATIENCE, "the echo", both).await, BIG, "{framing:?}");
    }
}

/// Posts [`BIG`] bytes of the pattern.
async fn send_pattern(writer: &mut (impl AsyncWrite + Unpin), path: &str, framing: Framing) {
    let field = match framing {
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
        _ => format!("Content-Length: {BIG}"),
    };
    writer
        .write_all(format!("POST {path} HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    for piece in pattern::pieces(BIG) {
        if framing == Framing::Chunked {
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            writer.write_all(&chunk).await.unwrap();
        } else {
            writer.write_all(&piece).await.unwrap();
        }
    }
    if framing == Framing::Chunked {
        writer.write_all(b"0\r\n\r\n").await.unwrap();
    }
}

/// Reads a 200 with a body of the pattern; how long it was.
async fn read_pattern(reader: &mut Reader<impl AsyncRead + Unpin>) -> u64 {
    let head = reader.head().await.unwrap();
    assert_eq!(head.status().unwrap(), 200);
    let mut check = pattern::Check::default();
    reader.body_to(head.response_framing("GET").unwrap(), |piece| check.feed(piece)).await.unwrap();
    check.seen()
}

/// Chunks that are framed as we would frame them go on as they came, others are framed anew; a body may have both, and be cut
/// anywhere on its way.
#[tokio::test]
async fn chunks_stay_whole_however_they_are_framed_and_cut() {
    let large = |length: usize, first: usize| -> Vec<u8> {
        (first..first + length).map(|nth| b'a' + (nth % 23) as u8).collect()
    };
    let sizes = [1_usize, 15, 16, 4_095, 4_096, 4_097, 16_384, 40_000, 3];
    for forms in [["{:x}", "{:x}"], ["{:X}", "0{:x}"], ["{:x};name=value", "{:x}"], ["000{:x}", "{:X};a"]] {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let (mut body, mut cuts) = (Vec::new(), Vec::new());
        for (nth, &size) in sizes.iter().enumerate() {
            let data = large(size, body.len());
            let digits = if forms[nth % 2].contains('X') { format!("{size:X}") } else { format!("{size:x}") };
            let line = forms[nth % 2].replace("{:x}", &digits).replace("{:X}", &digits);
            // In the size line, behind it, in the data, and before and in the end of the chunk.
            let line_end = answer.len() + line.len() + 2;
            let places =
                [answer.len() + 1, line_end, line_end + size / 2, line_end + size, line_end + size + 1];
            cuts.extend(places.into_iter().skip(nth % 3).step_by(2));
            answer.extend_from_slice(line.as_bytes());
            answer.extend_from_slice(b"\r\n");
            answer.extend_from_slice(&data);
            answer.extend_from_slice(b"\r\n");
            body.extend_from_slice(&data);
        }
        for end in ["0\r\n\r\n", "00\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n"] {
            let mut whole = answer.clone();
            whole.extend_from_slice(end.as_bytes());
            for cuts in [Vec::new(), cuts.clone(), vec![answer.len() + 2]] {
                let origin = origin::answers_in_pieces(whole.clone(), cuts.clone()).await;
                let proxy = Proxy::to(origin.address).await;
                let mut client = Raw::connect(proxy.address).await;
                for nth in 0..2 {
                    let response = client.ask("GET", "/").await;
                    assert!(response.body == body, "{forms:?} {end:?} {cuts:?} {nth}");
                }
            }
        }
    }
}
