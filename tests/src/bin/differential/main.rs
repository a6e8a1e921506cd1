//! The requests of `src/strict` through sluice, nginx and HAProxy: `scripts/differential`.
//!
//! Owns starting the three in front of an origin each, the verdict of each on every case, and the report of where they
//! differ. What the differences mean is in `why`. Prints Markdown on stdout.

mod peers;
mod why;

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_tests::{
    client::Raw,
    origin::{Origin, Peer},
    strict::{RequestCase, arrived, requests, show},
};

use crate::peers::{PROXIES, Running};

/// A proxy that was silent for so long will send nothing more.
const SILENCE: Duration = Duration::from_millis(400);

/// The verdicts on one case, in the order of [`PROXIES`].
struct Row {
    topic: &'static str,
    case: RequestCase,
    verdicts: [String; 3],
}

#[tokio::main]
async fn main() {
    let [sluice, nginx, haproxy] = PROXIES;
    let (sluice, nginx, haproxy) = tokio::join!(judge(sluice), judge(nginx), judge(haproxy));
    let (versions, verdicts): (Vec<_>, Vec<_>) = [sluice, nginx, haproxy].into_iter().unzip();
    let cases = requests::all().flat_map(|(topic, cases)| cases.into_iter().map(move |case| (topic, case)));
    let rows: Vec<Row> = cases
        .enumerate()
        .map(|(nth, (topic, case))| Row {
            topic,
            case,
            verdicts: [0, 1, 2].map(|of| verdicts[of][nth].clone()),
        })
        .collect();
    report(&versions, &rows);
}

/// Runs every case through one proxy; its version, and its verdicts.
async fn judge(proxy: peers::Proxy) -> (String, Vec<String>) {
    let origin = Origin::scripted(answers_all).await;
    let running = Running::start(proxy, origin.address).await;
    let mut verdicts = Vec::new();
    for (_, cases) in requests::all() {
        for case in cases {
            verdicts.push(verdict(&running, &origin, &case).await);
        }
    }
    (running.version(), verdicts)
}

async fn answers_all(mut peer: Peer) -> std::io::Result<()> {
    loop {
        let request = peer.request().await?;
        let body = if request.head.method() == "HEAD" { "" } else { "ok" };
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}")).await?;
    }
}

/// What a proxy makes of a case: which requests reach the origin, and the status of a refusal.
async fn verdict(running: &Running, origin: &Origin, case: &RequestCase) -> String {
    let before: Vec<usize> = origin.recorder.traffic().iter().map(|traffic| traffic.bytes.len()).collect();
    let mut client = Raw::connect(running.address).await;
    let _ = client.try_send(&case.bytes).await;
    let (mut received, mut is_closed) = (Vec::new(), false);
    while let Ok(more) = tokio::time::timeout(SILENCE, client.some()).await {
        match more {
            Ok(Some(bytes)) => received.extend_from_slice(&bytes),
            _ => {
                is_closed = true;
                break;
            }
        }
    }
    let traffic = origin.recorder.traffic();
    let news = traffic.iter().enumerate().map(|(nth, traffic)| {
        let read = before.get(nth).copied().unwrap_or(0);
        arrived(&traffic.bytes[read..])
    });
    let mut seen: Vec<String> = news.flatten().map(|text| line(&text)).collect();
    // Several connections to one origin: which of them was first, only a clock could tell.
    seen.sort();
    let refusals: Vec<String> =
        statuses(&received).into_iter().filter(|status| *status >= 400).map(|s| s.to_string()).collect();
    let own = statuses(&received).iter().filter(|status| **status == 200).count() > seen.len();
    let mut parts = Vec::new();
    if !seen.is_empty() {
        parts.push(format!("passes {}", seen.join(" + ")));
    }
    if own {
        parts.push("answers 200 itself".to_owned());
    }
    if !refusals.is_empty() {
        parts.push(refusals.join(" + "));
    }
    match (parts.is_empty(), is_closed) {
        (true, true) if received.is_empty() => "closes".to_owned(),
        (true, true) => "answers without a head".to_owned(),
        (true, false) => "waits".to_owned(),
        (false, _) => parts.join(", then "),
    }
}

/// A request that arrived, in a few characters: method and target, Host where it is not `a`, whether it has a body.
fn line(text: &str) -> String {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let start: String = head.split("\r\n").next().unwrap_or_default().chars().take(40).collect();
    let mut line = start.trim_end_matches(" HTTP/1.1").trim_end_matches(" HTTP/1.0").to_owned();
    let host = head
        .split("\r\n")
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned));
    if let Some(host) = host.filter(|host| host != "a") {
        line += &format!(" of {host}");
    }
    if body.ends_with("[cut]") {
        line += " (cut)";
    } else if !body.is_empty() {
        line += &format!(" ({} bytes)", body.len());
    }
    line
}

/// The statuses in what a client received, interim ones left out.
fn statuses(received: &[u8]) -> Vec<u16> {
    let text = show(received);
    let after = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    after.filter(|status: &u16| *status >= 200).collect()
}

fn is_refused(verdict: &str) -> bool {
    !verdict.contains("passes")
}

fn report(versions: &[String], rows: &[Row]) {
    println!("# Raw requests through Sluice, nginx and HAProxy\n");
    println!(
        "Made by `scripts/differential`, which runs the {} requests of `tests/src/strict/requests`",
        rows.len()
    );
    println!("through {}, each in front of an origin of its own that writes down", versions.join(", "));
    println!(
        "what arrives. Configurations are the plainest that proxy (`tests/src/bin/differential/peers.rs`). `passes` names the"
    );
    println!(
        "requests that reached the origin, `(n bytes)` the body it read, `(cut)` one that never ended; a number is the status of a"
    );
    println!(
        "refusal; `closes` is an end without a word, `waits` means that the proxy takes the request for unfinished.\n"
    );
    summary(rows);
    let mut by_topic: BTreeMap<usize, Vec<&Row>> = BTreeMap::new();
    let topics: Vec<_> = requests::all().map(|(topic, _)| topic).collect();
    for row in rows.iter().filter(|row| !agrees(row)) {
        by_topic
            .entry(topics.iter().position(|topic| *topic == row.topic).unwrap_or(0))
            .or_default()
            .push(row);
    }
    for (topic, rows) in by_topic {
        println!("## {}\n\n{}\n", topics[topic], why::topic(topics[topic]));
        println!("| case | section | Sluice | nginx | HAProxy |\n|---|---|---|---|---|");
        for Row { case, verdicts: [sluice, nginx, haproxy], .. } in rows {
            println!(
                "| {} | {} | {} | {} | {} |",
                case.name,
                case.section,
                cell(sluice),
                cell(nginx),
                cell(haproxy)
            );
        }
        println!();
    }
}

/// The same as far as an origin is concerned: refused by all, however, or the same requests let through.
fn agrees(row: &Row) -> bool {
    let [sluice, nginx, haproxy] = &row.verdicts;
    let same = |other: &String| sluice == other || (is_refused(sluice) && is_refused(other));
    same(nginx) && same(haproxy)
}

fn summary(rows: &[Row]) {
    let count = |test: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| test(row)).count();
    let refuses = |of: usize| move |row: &Row| is_refused(&row.verdicts[of]);
    let alone = |row: &Row| {
        is_refused(&row.verdicts[0]) && !(is_refused(&row.verdicts[1]) && is_refused(&row.verdicts[2]))
    };
    println!("| | Sluice | nginx | HAProxy |\n|---|---:|---:|---:|");
    println!(
        "| lets nothing through | {} | {} | {} |",
        count(&refuses(0)),
        count(&refuses(1)),
        count(&refuses(2))
    );
    println!(
        "\nAll three agree on {} of {} requests. Sluice refuses {} that at least one other lets through;",
        count(&agrees),
        rows.len(),
        count(&alone)
    );
    let laxer: Vec<&Row> = rows
        .iter()
        .filter(|row| {
            !is_refused(&row.verdicts[0]) && row.verdicts[1..].iter().any(|verdict| is_refused(verdict))
        })
        .collect();
    println!("it lets {} through that at least one other refuses: {}\n", laxer.len(), why::LAXER);
    println!("| Sluice lets through | nginx | HAProxy | why |\n|---|---|---|---|");
    for row in laxer {
        println!(
            "| {} ({}) | {} | {} | {} |",
            row.case.name,
            row.case.section,
            cell(&row.verdicts[1]),
            cell(&row.verdicts[2]),
            why::laxer(row.case.name)
        );
    }
    println!();
}

fn cell(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    text.replace('|', "\\|")
}
