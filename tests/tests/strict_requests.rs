//! Every request of the tables in `src/strict/requests` through the proxy, at an origin that writes down what arrives:
//! what is refused reaches no origin, what passes arrives exactly as it is written anew, however the bytes were cut.

use std::io::ErrorKind;

use sluice_tests::{
    client::Raw,
    origin::{Origin, Peer, Recorder},
    proxy::Proxy,
    strict::{Fate, RequestCase, SENTINEL, arrived, arrived_whole, requests, show},
    wire::Response,
};

/// How the bytes of a case go out.
#[derive(Debug, Clone, Copy)]
enum Pieces {
    /// All at once.
    Whole,
    /// A few bytes at a time.
    Small,
}

#[tokio::test]
async fn every_request_meets_its_fate() {
    run(Pieces::Whole).await;
}

#[tokio::test]
async fn every_request_meets_the_same_fate_in_small_pieces() {
    run(Pieces::Small).await;
}

/// Proxies that work at the same time, each on topics of its own.
const LANES: usize = 4;

/// Where a route lets some of it through.
const TUNNELS: &[&str] = &["--upgrade", "websocket", "--upgrade", "own/1", "--connect", "443"];

#[tokio::test]
async fn every_request_for_a_tunnel_meets_its_fate() {
    for (pieces, cases) in [
        (Pieces::Whole, requests::tunnels()),
        (Pieces::Small, requests::tunnels()),
        (Pieces::Whole, requests::early_bytes()),
    ] {
        let (count, wrong) = lane(TUNNELS, vec![("tunnels", cases)], pieces).await;
        assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    }
}

async fn run(pieces: Pieces) {
    let topics = |nth| requests::all().skip(nth).step_by(LANES).collect();
    let lanes: Vec<_> = (0..LANES).map(|nth| tokio::spawn(lane(&[], topics(nth), pieces))).collect();
    let (mut count, mut wrong) = (0, Vec::new());
    for lane in lanes {
        let (cases, flaws) = lane.await.expect("a lane runs to its end");
        count += cases;
        wrong.extend(flaws);
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} requests");
}

/// Some topics through one proxy with these flags: how many cases, and which went wrong.
async fn lane(
    flags: &[&str],
    topics: Vec<(&'static str, Vec<RequestCase>)>,
    pieces: Pieces,
) -> (usize, Vec<String>) {
    let origin = Origin::scripted(answers_all).await;
    let proxy = Proxy::to_with(origin.address, flags).await;
    let mut arrivals =
        Arrivals { recorder: origin.recorder.clone(), read: Vec::new(), may_be_late: false, bytes_before: 0 };
    let (mut count, mut wrong) = (0, Vec::new());
    for (topic, cases) in topics {
        for case in cases {
            count += 1;
            let mut client = Raw::connect(proxy.address).await;
            send(&mut client, &case.bytes, pieces, count).await;
            if let Err(what) = check(&mut client, &case, &mut arrivals).await {
                wrong.push(format!("{topic}: {} ({}): {what}", case.name, case.section));
                // What it left behind must not be blamed on the next one.
                arrivals.new_texts();
            }
            arrivals.may_be_late = matches!(case.fate, Fate::Cut(_));
            arrivals.bytes_before = arrivals.bytes();
        }
    }
    let late = arrivals.new_texts();
    wrong.extend(late.into_iter().map(|text| format!("late at the origin: {text:?}")));
    Raw::connect(proxy.address).await.assert_open().await;
    (count, wrong)
}

/// Reads requests and answers each with `ok`.
async fn answers_all(mut peer: Peer) -> std::io::Result<()> {
    loop {
        let request = peer.request().await?;
        let body = if request.head.method() == "HEAD" { "" } else { "ok" };
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}")).await?;
    }
}

/// Sends to a proxy that may hang up before the end.
async fn send(client: &mut Raw, bytes: &[u8], pieces: Pieces, seed: usize) {
    let mut rest = bytes;
    let mut random = seed as u32;
    // Large heads in as many pieces as others: every piece is looked at on its own.
    let len_max = 9.max(bytes.len() / 64);
    while !rest.is_empty() {
        // A linear congruential generator: any numbers do, as long as they are the same next time.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = match pieces {
            Pieces::Whole => rest.len(),
            Pieces::Small => rest.len().min(1 + (random >> 16) as usize % len_max),
        };
        let (piece, more) = rest.split_at(len);
        if client.try_send(piece).await.is_err() {
            return;
        }
        rest = more;
        tokio::task::yield_now().await;
    }
}

/// Says what became of a case that should not have.
async fn check(client: &mut Raw, case: &RequestCase, arrivals: &mut Arrivals) -> Result<(), String> {
    match &case.fate {
        Fate::Refused(status) => {
            refusal(client, *status).await?;
            if arrivals.bytes() != arrivals.bytes_before && !arrivals.may_be_late {
                return Err(format!("at the origin: {:?}", arrivals.parts()));
            }
            same(&[], &arrivals.new_texts())
        }
        Fate::Cut(status) => {
            refusal(client, *status).await?;
            same(&[], &arrivals.new_texts())
        }
        Fate::Answered(status) => {
            let answer = read(client, "GET").await?;
            ours(&answer, *status)?;
            goes_on(client).await?;
            same(&[SENTINEL.to_owned()], &arrivals.new_texts())
        }
        Fate::Forwarded(seen) => {
            answers(client, seen).await?;
            goes_on(client).await?;
            same(&[seen.as_slice(), &[SENTINEL.to_owned()]].concat(), &arrivals.new_texts())
        }
        Fate::Last(seen) => {
            answers(client, seen).await?;
            client.closed().await?;
            same(seen, &arrivals.new_texts())
        }
        Fate::Then(seen, status) => {
            answers(client, seen).await?;
            refusal(client, *status).await?;
            same(seen, &arrivals.new_texts())
        }
    }
}

async fn read(client: &mut Raw, method: &str) -> Result<Response, String> {
    client.response(method).await.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    })
}

/// One good answer for each request that should have arrived.
async fn answers(client: &mut Raw, seen: &[String]) -> Result<(), String> {
    for request in seen {
        let method = request.split(' ').next().unwrap_or_default();
        let answer = read(client, method).await?;
        if answer.status() != 200 {
            return Err(format!("{} instead of 200: {}", answer.status(), answer.text()));
        }
    }
    Ok(())
}

/// The refusal in our own words, then the end.
async fn refusal(client: &mut Raw, status: u16) -> Result<(), String> {
    let answer = read(client, "GET").await?;
    ours(&answer, status)?;
    if !answer.head.fields.lists("connection", "close") {
        return Err("no Connection: close".to_owned());
    }
    client.closed().await
}

fn ours(answer: &Response, status: u16) -> Result<(), String> {
    if answer.status() != status {
        return Err(format!("{} instead of {status}: {}", answer.status(), answer.text()));
    }
    if answer.field("server") == Some("sluice") { Ok(()) } else { Err("not our own word".to_owned()) }
}

/// The next request on the connection is read as what it is.
async fn goes_on(client: &mut Raw) -> Result<(), String> {
    client.try_send(SENTINEL).await.map_err(|error| format!("the connection ended: {error}"))?;
    match read(client, "GET").await {
        Ok(answer) if answer.status() == 200 => Ok(()),
        Ok(answer) => Err(format!("the next request got {}: {}", answer.status(), answer.text())),
        Err(error) => Err(format!("the next request got no answer: {error}")),
    }
}

fn same(expected: &[String], found: &[String]) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("at the origin: {found:?}, not {expected:?}")) }
}

/// What has arrived since the last look.
struct Arrivals {
    recorder: Recorder,
    /// Bytes of each connection that were whole requests.
    read: Vec<usize>,
    /// The last case was cut: parts of it may still be on their way to the origin.
    may_be_late: bool,
    /// How many bytes had arrived before this case.
    bytes_before: usize,
}

impl Arrivals {
    /// Whole requests.
    fn new_texts(&mut self) -> Vec<String> {
        let traffic = self.recorder.traffic();
        self.read.resize(traffic.len(), 0);
        let news = traffic.iter().zip(&mut self.read).flat_map(|(traffic, read)| {
            let (texts, bytes) = arrived_whole(&traffic.bytes[*read..]);
            *read += bytes;
            texts
        });
        news.collect()
    }

    /// Everything that is not of an earlier whole request.
    fn parts(&self) -> Vec<String> {
        let traffic = self.recorder.traffic();
        let read = self.read.iter().copied().chain(std::iter::repeat(0));
        traffic.iter().zip(read).flat_map(|(traffic, read)| arrived(&traffic.bytes[read..])).collect()
    }

    /// How many bytes have arrived, on all connections.
    fn bytes(&self) -> usize {
        self.recorder.traffic().iter().map(|traffic| traffic.bytes.len()).sum()
    }
}

#[test]
fn tables_hold_what_they_mean_to() {
    let cases: Vec<_> = requests::all().flat_map(|(_, cases)| cases).collect();
    let smuggling = cases.iter().filter(|case| show(&case.bytes).contains("/admin")).count();
    assert!(cases.len() >= 300 && smuggling >= 40, "{} cases, {smuggling} of smuggling", cases.len());
    assert!(cases.iter().all(|case| !case.section.is_empty()));
}
