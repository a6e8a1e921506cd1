//! Every response of the tables in `src/strict/responses` through the proxy: what it does not understand becomes 502,
//! what is cut is never ended cleanly, and a connection on which a server has sent too much serves no other request.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_tests::{
    client::Raw,
    origin::{Origin, Peer},
    proxy::Proxy,
    strict::responses::{self, Outcome, ResponseCase, Then},
    strict::{SENTINEL, show},
    wire::{Head, Response},
};

/// Apart on the wire, and long enough that the proxy has taken in what came before.
const A_MOMENT: Duration = Duration::from_millis(200);

/// The answer to `/case`, exchanged from case to case.
type Script = Arc<Mutex<(Vec<u8>, Then)>>;

#[tokio::test]
async fn every_response_has_its_outcome() {
    let script: Script = Arc::new(Mutex::new((Vec::new(), Then::Stays)));
    let shared = script.clone();
    let origin = Origin::scripted(move |peer| answers_by(peer, shared.clone())).await;
    let proxy = Proxy::to_with(origin.address, &["--upgrade", "websocket"]).await;
    let (mut count, mut wrong) = (0, Vec::new());
    for (topic, cases) in responses::all() {
        for case in cases {
            count += 1;
            *script.lock().unwrap() = (case.bytes.clone(), case.then);
            if let Err(what) = check(&proxy, &origin, &case).await {
                wrong.push(format!("{topic}: {} ({}): {what}", case.name, case.section));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 100, "{count} cases");
    println!("{count} responses");
}

async fn answers_by(mut peer: Peer, script: Script) -> io::Result<()> {
    loop {
        let request = peer.request().await?;
        if request.head.target() != "/case" {
            peer.answer("sentinel").await?;
            continue;
        }
        let (bytes, then) = script.lock().unwrap().clone();
        peer.send(bytes).await?;
        match then {
            Then::Stays => {}
            Then::Closes => return Ok(()),
            Then::Resets => {
                tokio::time::sleep(A_MOMENT).await;
                return peer.reset();
            }
            Then::Says(more) => {
                tokio::time::sleep(A_MOMENT).await;
                peer.send(more).await?;
            }
        }
    }
}

/// Says what became of a case that should not have.
async fn check(proxy: &Proxy, origin: &Origin, case: &ResponseCase) -> Result<(), String> {
    let mut client = Raw::connect(proxy.address).await;
    client.send(case.request.bytes()).await;
    let answer = client.response(case.request.method()).await;
    let (is_open, is_reused) = match &case.outcome {
        Outcome::BadGateway => {
            ours(&answer.map_err(|error| error.to_string())?)?;
            (true, false)
        }
        Outcome::Passed(seen) => {
            not_hidden(&answer, seen)?;
            (true, true)
        }
        Outcome::Once(seen) => {
            not_hidden(&answer, seen)?;
            (true, false)
        }
        Outcome::Last(seen) => {
            not_hidden(&answer, seen)?;
            (false, false)
        }
        Outcome::Leaves(seen) => {
            not_hidden(&answer, seen)?;
            (false, true)
        }
        Outcome::Aborted => {
            aborted(&answer)?;
            (false, false)
        }
    };
    if let Then::Says(_) = case.then {
        // Until it has arrived, it is unknown whether it will.
        tokio::time::sleep(2 * A_MOMENT).await;
    }
    if is_open {
        sentinel(&mut client).await?;
    } else {
        client.closed().await?;
        sentinel(&mut Raw::connect(proxy.address).await).await?;
    }
    let traffic = origin.recorder.traffic();
    let asked = traffic.iter().rposition(|traffic| show(&traffic.bytes).contains(" /case "));
    let asked_again = traffic.iter().rposition(|traffic| show(&traffic.bytes).contains("/sentinel"));
    // Connections that are not used again are never used again: the one of the case is the last that had its request.
    match (asked == asked_again, is_reused) {
        (true, false) => Err("the server's connection was used again".to_owned()),
        (false, true) => Err("the server's connection was not used again".to_owned()),
        _ => Ok(()),
    }
}

fn ours(answer: &Response) -> Result<(), String> {
    if answer.status() == 502 && answer.field("server") == Some("sluice") {
        Ok(())
    } else {
        Err(format!("not a 502 of ours: {:?} {:?}", answer.head, answer.text()))
    }
}

/// Compares an answer with what it should be.
fn not_hidden(answer: &io::Result<Response>, seen: &str) -> Result<(), String> {
    let answer = answer.as_ref().map_err(|error| format!("{error} instead of {seen:?}"))?;
    let heads = answer.interim.iter().chain([&answer.head]);
    let mut text: String = heads.map(head_text).collect();
    text += &show(&answer.body);
    for (name, value) in &answer.trailers.0 {
        text += &format!("\r\n{name}: {value}");
    }
    if text == seen { Ok(()) } else { Err(format!("{text:?} instead of {seen:?}")) }
}

/// A head as text, without what the proxy adds to every answer.
fn head_text(head: &Head) -> String {
    let fields =
        head.fields.0.iter().filter(|(name, _)| !["date", "via"].contains(&&*name.to_ascii_lowercase()));
    let lines: String = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{}\r\n{lines}\r\n", head.start)
}

/// An answer that cannot be taken for a whole one, or none.
fn aborted(answer: &io::Result<Response>) -> Result<(), String> {
    match answer {
        Ok(whole) => Err(format!("taken for whole: {:?} {:?}", whole.head, whole.text())),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn sentinel(client: &mut Raw) -> Result<(), String> {
    client.try_send(SENTINEL).await.map_err(|error| format!("the connection ended: {error}"))?;
    match client.response("GET").await {
        Ok(answer) if answer.text() == "sentinel" => Ok(()),
        Ok(answer) => Err(format!("the next request got {:?} {:?}", answer.head, answer.text())),
        Err(error) => Err(format!("the next request got no answer: {error}")),
    }
}
