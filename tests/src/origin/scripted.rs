//! Scripted origins, each named by what it does wrong, or does rarely.
//!
//! Owns the scripts; each is a few lines of exact bytes in the order in which they go out. Where bytes have
//! to reach the client before the script may go on, the test says so through a [`Go`].

use std::{io, sync::Arc, time::Duration};

use tokio::sync::{Barrier, Semaphore};

use super::{Origin, Peer};
use crate::pattern;

/// The length that scripts promise when they do not mean to keep the promise.
pub const PROMISED: usize = 100_000;

/// The test's word to a waiting script: go on.
#[derive(Debug, Clone)]
pub struct Go(Arc<Semaphore>);

impl Go {
    /// A word that has not been given yet.
    #[expect(clippy::new_without_default, reason = "a default says nothing about whether it was given")]
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets a script take this many steps, now or when it comes to them.
    pub fn steps(&self, steps: usize) {
        self.0.add_permits(steps);
    }

    /// Waits for the next step.
    ///
    /// # Errors
    /// None that tests could see; scripts pass it on.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.acquire().await.map_err(io::Error::other)?.forget();
        Ok(())
    }
}

/// A 200 with this body and a Content-Length.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Reads requests and answers each with `answer`, byte for byte.
pub async fn answers(answer: impl Into<Vec<u8>>) -> Origin {
    let answer = answer.into();
    Origin::scripted(move |mut peer: Peer| {
        let answer = answer.clone();
        async move {
            loop {
                peer.request().await?;
                peer.send(&answer).await?;
            }
        }
    })
    .await
}

/// Answers requests with `answer`, byte for byte, when there are `count` of them: all are in flight at once then.
pub async fn answers_together(count: usize, answer: impl Into<Vec<u8>>) -> Origin {
    let (answer, barrier) = (answer.into(), Arc::new(Barrier::new(count)));
    Origin::scripted(move |mut peer: Peer| {
        let (answer, barrier) = (answer.clone(), barrier.clone());
        async move {
            loop {
                peer.request().await?;
                barrier.wait().await;
                peer.send(&answer).await?;
            }
        }
    })
    .await
}

/// Reads a request, answers it with `answer`, byte for byte, and then echoes whatever comes until its end.
pub async fn answers_and_echoes(answer: impl Into<Vec<u8>>) -> Origin {
    let answer = answer.into();
    Origin::scripted(move |mut peer: Peer| {
        let answer = answer.clone();
        async move {
            peer.request().await?;
            peer.send(&answer).await?;
            echo(peer).await
        }
    })
    .await
}

/// Accepts every offer to change protocols and CONNECT, and then echoes all bytes until their end. Other
/// requests get a 200.
pub async fn switches_and_echoes() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        loop {
            let head = peer.request().await?.head;
            match (head.method(), head.fields.first("upgrade")) {
                ("CONNECT", _) => peer.send("HTTP/1.1 200 Connected\r\n\r\n").await?,
                (_, Some(protocol)) => peer.send(switching(protocol)).await?,
                _ => {
                    peer.answer("no tunnel").await?;
                    continue;
                }
            }
            return echo(peer).await;
        }
    })
    .await
}

/// A 101 to this protocol, fit for WebSocket too (with the key of the example in RFC 6455).
pub fn switching(protocol: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
}

async fn echo(mut peer: Peer) -> io::Result<()> {
    while let Some(bytes) = peer.some().await? {
        peer.send(bytes).await?;
    }
    Ok(())
}

/// Expects a PROXY protocol line at the start of each connection and answers every request on it with that line.
pub async fn expects_proxy_line() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        let line = peer.line().await?;
        loop {
            peer.request().await?;
            peer.answer(&line).await?;
        }
    })
    .await
}

/// Takes whatever comes and never says a word.
pub async fn only_listens() -> Origin {
    Origin::scripted(|mut peer: Peer| async move { peer.until_closed().await }).await
}

/// Answers the first request of the first connection with `first`, byte for byte, and all others with `then`.
pub async fn answers_first(first: impl Into<Vec<u8>>, then: impl Into<Vec<u8>>) -> Origin {
    let (first, then) = (first.into(), then.into());
    Origin::scripted(move |mut peer: Peer| {
        let (first, then) = (first.clone(), then.clone());
        async move {
            for served in 0.. {
                peer.request().await?;
                peer.send(if peer.nth + served == 0 { &first } else { &then }).await?;
            }
            Ok(())
        }
    })
    .await
}

/// Answers with a chunk that is good and one that is none, in one piece with the head, or `later` on a signal.
pub async fn breaks_mid_chunks(later: bool, go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.request().await?;
            let (good, bad) = ([chunked_head().as_bytes(), &chunk(b"abc")].concat(), b"xyz\r\n0\r\n\r\n");
            if later {
                peer.send(good).await?;
                go.wait().await?;
                peer.send(bad).await?;
            } else {
                peer.send([&good[..], bad].concat()).await?;
            }
            peer.until_closed().await
        }
    })
    .await
}

/// Answers the first request of each connection with `answer`, byte for byte, and closes.
pub async fn answers_and_closes(answer: impl Into<Vec<u8>>) -> Origin {
    let answer = answer.into();
    Origin::scripted(move |mut peer: Peer| {
        let answer = answer.clone();
        async move {
            peer.request().await?;
            peer.send(&answer).await
        }
    })
    .await
}

/// Answers every request with `answer`, one byte at a time. The pause keeps the bytes apart on the wire.
pub async fn drips(answer: &'static str) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            peer.request().await?;
            for byte in answer.as_bytes().chunks(1) {
                peer.send(byte).await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await
}

/// Answers every request with `answer`, cut at these places. The pauses keep the pieces apart on the wire.
pub async fn answers_in_pieces(answer: Vec<u8>, cuts: Vec<usize>) -> Origin {
    let pieces = Arc::new((answer, cuts));
    Origin::scripted(move |mut peer: Peer| {
        let pieces = pieces.clone();
        async move {
            let (answer, cuts) = &*pieces;
            loop {
                peer.request().await?;
                let mut from = 0;
                for &cut in cuts.iter().chain([&answer.len()]) {
                    peer.send(&answer[from..cut]).await?;
                    from = cut;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    })
    .await
}

/// Accepts and closes without a word.
pub async fn closes_after_accept() -> Origin {
    Origin::scripted(|_| async { Ok(()) }).await
}

/// Reads the request and resets the connection instead of answering.
pub async fn resets_before_head() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.reset()
    })
    .await
}

/// Reads the request and never answers.
pub async fn never_answers() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.until_closed().await
    })
    .await
}

/// Begins a head and never ends it.
pub async fn stalls_in_the_head() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        peer.send("HTTP/1.1 200 OK\r\nX-Half").await?;
        peer.until_closed().await
    })
    .await
}

/// Reads requests and answers each on a signal.
pub async fn answers_on_signal(go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            loop {
                peer.request().await?;
                go.wait().await?;
                peer.send(ok("signalled")).await?;
            }
        }
    })
    .await
}

/// Promises a body of [`PROMISED`] bytes, sends the first `sent` of them and then nothing more.
pub async fn stalls_after(sent: usize) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        peer.request().await?;
        peer.send(promise()).await?;
        peer.send(pattern::bytes(sent)).await?;
        peer.until_closed().await
    })
    .await
}

/// Promises a body of [`PROMISED`] bytes and closes after `sent` of them.
pub async fn closes_mid_body(sent: usize) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        peer.request().await?;
        peer.send(promise()).await?;
        peer.send(pattern::bytes(sent)).await
    })
    .await
}

/// Sends one whole chunk of `sent` bytes and closes where the next chunk should begin.
pub async fn closes_mid_chunks(sent: usize) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        peer.request().await?;
        peer.send(chunked_head()).await?;
        peer.send(chunk(&pattern::bytes(sent))).await
    })
    .await
}

/// Promises a body of [`PROMISED`] bytes and resets the connection after `sent` of them, on a signal:
/// a reset overtakes what is still queued.
pub async fn resets_mid_body(sent: usize, go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.request().await?;
            peer.send(promise()).await?;
            peer.send(pattern::bytes(sent)).await?;
            go.wait().await?;
            peer.reset()
        }
    })
    .await
}

/// Answers the first request of each connection and then closes it, while the proxy has it in its pool.
pub async fn closes_idle_after_first_answer() -> Origin {
    answers_and_closes(ok("once")).await
}

/// Answers the first request of each connection; on a signal, closes its side of it, and reports that by `closed`. Later
/// bytes are read and not answered.
pub async fn ends_idle_on_signal(go: Go, closed: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let (go, closed) = (go.clone(), closed.clone());
        async move {
            peer.request().await?;
            peer.send(ok("once")).await?;
            go.wait().await?;
            peer.half_close().await?;
            closed.steps(1);
            peer.until_closed().await
        }
    })
    .await
}

/// Answers the first request of the first connection; reads the second one and closes without an answer, as
/// an origin does whose idle timeout fires while the request is on its way. Later connections are fine.
pub async fn dies_on_reuse() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        for served in 0.. {
            peer.request().await?;
            if peer.nth == 0 && served == 1 {
                break;
            }
            peer.send(ok("alive")).await?;
        }
        Ok(())
    })
    .await
}

/// Answers with something that is not HTTP.
pub async fn garbage() -> Origin {
    answers_and_closes(*b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is not HTTP\r\n\r\n").await
}

/// Refuses after the request head, before the body was read, and then takes in what still comes.
pub async fn early_answer() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nrefused").await?;
        peer.until_closed().await
    })
    .await
}

/// Begins to answer POST after the request head, and ends the answer when the body has arrived. Answers name the connection.
pub async fn early_answer_to_a_post() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        loop {
            let head = peer.head().await?;
            let body = format!("connection {}", peer.nth);
            let answer = ok(&body);
            let (early, late) = answer.split_at(answer.len() - 5);
            if head.method() == "POST" {
                peer.send(early).await?;
                peer.body_to(head.request_framing()?, |_| ()).await?;
                peer.send(late).await?;
            } else {
                peer.send(&answer).await?;
            }
        }
    })
    .await
}

/// Answers `served` requests of the first connection with its number, then sends `poison` on a signal, which nothing asked
/// for. Other connections answer with their number only.
pub async fn speaks_unasked(served: usize, poison: &'static str, go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            let body = format!("connection {}", peer.nth);
            for _ in 0..if peer.nth == 0 { served } else { usize::MAX } {
                peer.request().await?;
                peer.answer(&body).await?;
            }
            go.wait().await?;
            peer.send(poison).await?;
            peer.until_closed().await
        }
    })
    .await
}

/// Refuses after the request head and, on a signal, closes with the body unread, which resets the connection.
pub async fn early_answer_and_close(go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.head().await?;
            let answer = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 7\r\n\r\nrefused";
            peer.send(answer).await?;
            go.wait().await
        }
    })
    .await
}

/// Answers with a body that ends with the connection.
pub async fn until_close_body(body: &'static str) -> Origin {
    answers_and_closes(format!("HTTP/1.1 200 OK\r\n\r\n{body}")).await
}

/// Speaks HTTP/1.0 as it was: no length, no persistence.
pub async fn http10() -> Origin {
    answers_and_closes(*b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nfrom 1995").await
}

/// Reads the head of an upload, and the body only on a signal; then answers with the count of its bytes.
pub async fn slow_reader(go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            let head = peer.head().await?;
            go.wait().await?;
            let mut check = pattern::Check::default();
            peer.body_to(head.request_framing()?, |piece| check.feed(piece)).await?;
            peer.send(ok(&check.seen().to_string())).await
        }
    })
    .await
}

/// Sends two interim answers before the final one.
pub async fn sends_100_103_then_200() -> Origin {
    answers(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n{}",
        ok("final")
    ))
    .await
}

/// Says `100 Continue` after the head of a request, and answers with its body.
pub async fn continues() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        loop {
            let head = peer.head().await?;
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
            let mut body = Vec::new();
            peer.body_to(head.request_framing()?, |piece| body.extend_from_slice(piece)).await?;
            peer.send(ok(&String::from_utf8_lossy(&body))).await?;
        }
    })
    .await
}

/// Says `103 Early Hints` after the head of a request and no more until it has the body, which is its answer.
pub async fn hints_and_waits() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        loop {
            let head = peer.head().await?;
            peer.send("HTTP/1.1 103 Early Hints\r\n\r\n").await?;
            let mut body = Vec::new();
            peer.body_to(head.request_framing()?, |piece| body.extend_from_slice(piece)).await?;
            peer.send(ok(&String::from_utf8_lossy(&body))).await?;
        }
    })
    .await
}

/// Answers with the body and the trailers of the request, chunked, announced by `Trailer`.
pub async fn echoes_trailers() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        loop {
            let request = peer.request().await?;
            let names: Vec<_> = request.trailers.0.iter().map(|(name, _)| &**name).collect();
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {}\r\n\r\n{:x}\r\n",
                names.join(", "),
                request.body.len()
            )
            .into_bytes();
            answer.extend_from_slice(&request.body);
            answer.extend_from_slice(b"\r\n0\r\n");
            for (name, value) in &request.trailers.0 {
                answer.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            answer.extend_from_slice(b"\r\n");
            peer.send(answer).await?;
        }
    })
    .await
}

/// Sends each of `events` as one chunk, the next one only on a signal, like a server of events.
pub async fn sends_events(events: &'static [&'static str], go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.request().await?;
            peer.send(chunked_head()).await?;
            for event in events {
                peer.send(chunk(event.as_bytes())).await?;
                go.wait().await?;
            }
            peer.send("0\r\n\r\n").await?;
            peer.until_closed().await
        }
    })
    .await
}

/// Begins its answer to `/slow` at once and ends it on a signal; answers all else with the target.
pub async fn takes_its_time(go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            loop {
                let request = peer.request().await?;
                if request.head.target() == "/slow" {
                    peer.send(chunked_head()).await?;
                    go.wait().await?;
                    peer.send("0\r\n\r\n").await?;
                } else {
                    peer.answer(request.head.target()).await?;
                }
            }
        }
    })
    .await
}

/// Answers every request with `length` bytes of the pattern, as fast as they are taken.
pub async fn floods(length: u64) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            peer.request().await?;
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await?;
            for piece in pattern::pieces(length) {
                peer.send(piece).await?;
            }
        }
    })
    .await
}

/// Answers every request with chunks, 64 KiB each, of the pattern, `length` bytes in all, as fast as they are taken.
pub async fn floods_in_chunks(length: u64) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            peer.request().await?;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for piece in pattern::pieces(length) {
                peer.send(format!("{:x}\r\n", piece.len())).await?;
                peer.send(piece).await?;
                peer.send("\r\n").await?;
            }
            peer.send("0\r\n\r\n").await?;
        }
    })
    .await
}

/// How a scripted connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// With a FIN.
    Close,
    /// With a RST.
    Reset,
}

/// Promises `promised` bytes of the pattern, sends `sent` of them and, on a signal, ends the connection.
pub async fn cuts_large_body(promised: usize, sent: usize, cut: Cut, go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.request().await?;
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n")).await?;
            peer.send(pattern::bytes(sent)).await?;
            go.wait().await?;
            match cut {
                Cut::Close => Ok(()),
                Cut::Reset => peer.reset(),
            }
        }
    })
    .await
}

/// Sends a part of its answer before it reads the upload and a part after it, `half` bytes of the pattern in
/// all; the second half only on a signal.
pub async fn pauses_after_the_upload(half: usize, go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            let whole = pattern::bytes(2 * half);
            let head = peer.head().await?;
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", whole.len())).await?;
            peer.send(&whole[..half / 2]).await?;
            peer.body_to(head.request_framing()?, |_| ()).await?;
            peer.send(&whole[half / 2..half]).await?;
            go.wait().await?;
            peer.send(&whole[half..]).await?;
            peer.until_closed().await
        }
    })
    .await
}

/// Answers each request with what it understood: method, target, length of the body; one for `/wait` on a signal.
pub async fn names_requests(go: Go) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let go = go.clone();
        async move {
            loop {
                let request = peer.request().await?;
                let (head, length) = (&request.head, request.body.len());
                if head.target() == "/wait" {
                    go.wait().await?;
                }
                peer.send(ok(&format!("{} {} {length}", head.method(), head.target()))).await?;
            }
        }
    })
    .await
}

/// Answers every request with `length` bytes: its target, over and over.
pub async fn repeats_targets(length: usize) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            let head = peer.request().await?.head;
            peer.send(ok(&repeated(head.target(), length))).await?;
        }
    })
    .await
}

/// The answer of [`repeats_targets`].
pub fn repeated(target: &str, length: usize) -> String {
    target.chars().cycle().take(length).collect()
}

/// Answers with the target; to `/large` with `length` bytes of the pattern and an unsolicited answer.
pub async fn says_too_much_after_a_large_answer(length: usize) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            let head = peer.request().await?.head;
            if head.target() == "/large" {
                let start = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
                peer.send([start, pattern::bytes(length), ok("poison").into_bytes()].concat()).await?;
            } else {
                peer.send(ok(head.target())).await?;
            }
        }
    })
    .await
}

/// Answers, but takes a POST and then resets the connection, so soon that not even the kernel has acknowledged it.
pub async fn resets_after_a_post() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        while peer.request().await?.head.method() != "POST" {
            peer.send(ok("served")).await?;
        }
        peer.reset()
    })
    .await
}

/// Sends `count` interim answers of some 6,000 bytes each before the final one.
pub async fn hints(count: usize) -> Origin {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: </{}>\r\n\r\n", "x".repeat(6000));
    Origin::scripted(move |mut peer: Peer| {
        let hint = hint.clone();
        async move {
            peer.request().await?;
            for _ in 0..count {
                peer.send(&hint).await?;
            }
            peer.send(ok("final")).await
        }
    })
    .await
}

/// Sends an interim answer of some 60,000 bytes after the other and never a final one.
pub async fn only_hints() -> Origin {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: </{}>\r\n\r\n", "x".repeat(60_000));
    Origin::scripted(move |mut peer: Peer| {
        let hint = hint.clone();
        async move {
            peer.request().await?;
            loop {
                peer.send(&hint).await?;
            }
        }
    })
    .await
}

/// On a signal, answers with `length` bytes of the pattern in pieces small and large. The pauses keep them apart on
/// the wire.
pub async fn large_answer_in_pieces(length: usize, go: Go) -> Origin {
    const PIECES: [usize; 3] = [3_000, 20_000, 40_000];
    let body: Arc<[u8]> = pattern::bytes(length).into();
    Origin::scripted(move |mut peer: Peer| {
        let (go, body) = (go.clone(), body.clone());
        async move {
            peer.request().await?;
            go.wait().await?;
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await?;
            let mut rest = &body[..];
            for nth in peer.nth.. {
                let (piece, more) = rest.split_at(PIECES[nth % PIECES.len()].min(rest.len()));
                peer.send(piece).await?;
                if more.is_empty() {
                    break;
                }
                rest = more;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            peer.until_closed().await
        }
    })
    .await
}

/// Answers in chunks of one byte: to `/flood` without end, else `count` of them.
pub async fn tiny_chunks(count: usize) -> Origin {
    Origin::scripted(move |mut peer: Peer| async move {
        loop {
            let head = peer.request().await?.head;
            peer.send(chunked_head()).await?;
            while head.target() == "/flood" {
                peer.send(chunk(b"x").repeat(5_000)).await?;
            }
            peer.send([chunk(b"x").repeat(count), b"0\r\n\r\n".to_vec()].concat()).await?;
        }
    })
    .await
}

/// Answers the first request of the first connection and never another one.
pub async fn falls_silent_after_the_first_answer() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        if peer.nth == 0 {
            peer.request().await?;
            peer.send(ok("alive")).await?;
        }
        peer.until_closed().await
    })
    .await
}

/// Answers the first request of the first connection; to every other one it says `103 Early Hints` and closes.
pub async fn hints_and_dies_on_reuse() -> Origin {
    Origin::scripted(|mut peer: Peer| async move {
        if peer.nth == 0 {
            peer.request().await?;
            peer.send(ok("alive")).await?;
        }
        peer.request().await?;
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await
    })
    .await
}

/// Answers the first request of each connection; reads a part of the second one and says that it will send no more (FIN),
/// with the rest of the request unread and unacknowledged until the test says so.
pub async fn finishes_within_the_second_request(go: Go) -> Origin {
    Origin::scripted_with_window(4096, move |mut peer: Peer| {
        let go = go.clone();
        async move {
            peer.request().await?;
            peer.send(ok("alive")).await?;
            peer.head().await?;
            peer.half_close().await?;
            go.wait().await
        }
    })
    .await
}

fn promise() -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {PROMISED}\r\n\r\n")
}

fn chunked_head() -> &'static str {
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
