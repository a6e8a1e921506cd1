//! Tunnels in which both sides are silent: they go on, end and fail from either side, from both at once, hundreds of them.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use sluice_tests::{
    PATIENCE, assert_took,
    client::Raw,
    many_connections,
    origin::{Origin, Peer},
    pattern,
    proxy::{Counters, Proxy},
};
use tokio::{sync::watch, time::sleep};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n";

/// What all servers do when they are asked to. They echo what they get, and say "bye" to a client that has finished.
#[derive(Clone, Debug)]
enum Command {
    Wait,
    Speak(String),
    SpeakAndFinish(String),
    Reset,
}

/// An origin that does what it is asked to, on all its connections at once.
async fn commanded(commands: &watch::Sender<Command>) -> Origin {
    let commands = commands.subscribe();
    Origin::scripted(move |peer| obey(peer, commands.clone())).await
}

async fn obey(mut peer: Peer, mut commands: watch::Receiver<Command>) -> io::Result<()> {
    peer.request().await?;
    peer.send(SWITCHING).await?;
    let mut has_finished = false;
    loop {
        tokio::select! {
            received = peer.some() => match received? {
                Some(_) if has_finished => {}
                Some(bytes) => peer.send(bytes).await?,
                None if has_finished => return Ok(()),
                None => return peer.send("bye").await,
            },
            changed = commands.changed(), if !has_finished => {
                changed.expect("the test has the sender");
                let command = commands.borrow_and_update().clone();
                match command {
                    Command::Wait => {}
                    Command::Speak(words) => peer.send(words).await?,
                    Command::SpeakAndFinish(words) => {
                        peer.send(words).await?;
                        peer.half_close().await?;
                        has_finished = true;
                    }
                    Command::Reset => return peer.reset(),
                }
            }
        }
    }
}

/// So many tunnels that are silent, and what to ask of their servers.
struct Silent {
    proxy: Proxy,
    clients: Vec<Raw>,
    commands: watch::Sender<Command>,
    origin: Origin,
}

impl Silent {
    async fn tunnels(count: usize, flags: &[&str]) -> Silent {
        let commands = watch::Sender::new(Command::Wait);
        let origin = commanded(&commands).await;
        let proxy = Proxy::to_with(origin.address, &[&["--upgrade", "own"], flags].concat()).await;
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Raw::connect(proxy.address).await;
            client.send(REQUEST).await;
            assert_eq!(client.head().await.status().unwrap(), 101);
            // Else the proxy would close in place of a reset, so that the head is not lost.
            client.acknowledge();
            clients.push(client);
        }
        let silent = Silent { proxy, clients, commands, origin };
        silent.assert_silent().await;
        silent
    }

    /// All are open, and hold nothing but themselves.
    async fn assert_silent(&self) {
        let count = self.clients.len() as u64;
        let is_silent = |now: &Counters| {
            (now.named("tunnels"), now.tasks_busy, now.buffers_held) == (count, 0, 0)
                && (now.connections, now.upstream_connections) == (count, count)
        };
        self.proxy.counters_until("silence", is_silent).await;
    }

    /// All clients speak, and all servers, in the middle of it.
    async fn all_speak(&mut self, of_clients: Option<&str>, of_servers: Option<Command>) {
        let middle = self.clients.len() / 2;
        for (nth, client) in self.clients.iter_mut().enumerate() {
            if nth == middle
                && let Some(command) = &of_servers
            {
                self.commands.send_replace(command.clone());
            }
            if let Some(words) = of_clients {
                client.send(words).await;
            }
        }
    }

    /// Nothing is left, and so many tunnels were aborted.
    async fn assert_ended(self, aborted: u64) {
        let Silent { proxy, clients, commands, origin } = self;
        drop(clients);
        let after = proxy.counters_until("nothing is left", is_empty).await;
        assert_eq!(after.named("tunnels_aborted"), aborted, "{after:?}");
        assert_eq!(after.named("tunnel_idle_timeouts"), 0, "{after:?}");
        proxy.drain().await.assert_clean();
        drop((commands, origin));
    }
}

fn is_empty(now: &Counters) -> bool {
    (now.connections, now.upstream_connections, now.tasks_busy, now.buffers_held, now.named("tunnels"))
        == (0, 0, 0, 0, 0)
}

/// The next bytes of a client, until there are so many of them.
async fn heard(client: &mut Raw, bytes: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < bytes {
        heard.extend_from_slice(&client.some().await.unwrap().expect("more"));
    }
    heard
}

/// All that a client hears until the end.
async fn heard_to_end(client: &mut Raw) -> Vec<u8> {
    let mut heard = Vec::new();
    while let Some(bytes) = client.some().await.unwrap() {
        heard.extend_from_slice(&bytes);
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_silent_tunnels_go_on_from_either_side() {
    let many = many_connections(400, 2).await;
    let mut silent = Silent::tunnels(many.count, &[]).await;
    for round in 0..3 {
        let (of_client, of_server) = (format!("<client {round}>"), format!("<server {round}>"));
        let speak = || Some(Command::Speak(of_server.clone()));

        silent.all_speak(Some(&of_client), None).await;
        for client in &mut silent.clients {
            assert_eq!(heard(client, of_client.len()).await, of_client.as_bytes());
        }
        silent.assert_silent().await;

        silent.all_speak(None, speak()).await;
        for client in &mut silent.clients {
            assert_eq!(heard(client, of_server.len()).await, of_server.as_bytes());
        }
        silent.assert_silent().await;

        silent.all_speak(Some(&of_client), speak()).await;
        for client in &mut silent.clients {
            let both = String::from_utf8(heard(client, of_client.len() + of_server.len()).await).unwrap();
            let orders = [format!("{of_client}{of_server}"), format!("{of_server}{of_client}")];
            assert!(orders.contains(&both), "{both}");
        }
        silent.assert_silent().await;
    }
    // Far more than a piece, through tunnels that were silent: by bursts, in order.
    let flood = pattern::bytes(300_000);
    for client in silent.clients.iter_mut().take(20) {
        client.send(&flood).await;
        assert!(heard(client, flood.len()).await == flood, "another order");
    }
    silent.assert_silent().await;
    silent.assert_ended(0).await;
}

#[tokio::test]
async fn a_silent_tunnel_ends_from_either_side() {
    // The clients finish: the servers have the last word.
    let mut silent = Silent::tunnels(50, &[]).await;
    for client in &mut silent.clients {
        client.half_close().await;
    }
    for client in &mut silent.clients {
        assert_eq!(heard_to_end(client).await, b"bye");
    }
    silent.assert_ended(0).await;

    // The servers finish: the clients have it.
    let mut silent = Silent::tunnels(50, &[]).await;
    silent.all_speak(None, Some(Command::SpeakAndFinish("bye".into()))).await;
    for client in &mut silent.clients {
        assert_eq!(heard_to_end(client).await, b"bye");
    }
    // Silent and half closed; then the other half.
    silent.assert_silent().await;
    for client in &mut silent.clients {
        client.send("the last word").await;
    }
    silent.assert_silent().await;
    for client in &mut silent.clients {
        client.half_close().await;
    }
    let all_arrived = |all: &[sluice_tests::origin::Traffic]| {
        all.iter().all(|one| one.ended && one.bytes.ends_with(b"the last word"))
    };
    silent.origin.recorder.wait_for("the last words", all_arrived).await;
    silent.assert_ended(0).await;
}

#[tokio::test]
async fn a_silent_tunnel_is_reset_from_either_side() {
    let mut silent = Silent::tunnels(50, &[]).await;
    for client in silent.clients.drain(..) {
        client.reset();
    }
    silent.origin.recorder.wait_for("the resets", |all| all.iter().all(|one| one.ended)).await;
    silent.assert_ended(50).await;

    let mut silent = Silent::tunnels(50, &[]).await;
    silent.all_speak(None, Some(Command::Reset)).await;
    for client in &mut silent.clients {
        assert_eq!(client.some().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    silent.assert_ended(50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_silent_tunnels_speak_and_finish_at_once() {
    let mut silent = Silent::tunnels(100, &[]).await;
    silent.commands.send_replace(Command::SpeakAndFinish("the server's last word".into()));
    for client in &mut silent.clients {
        client.send("the client's last word").await;
        client.half_close().await;
    }
    for client in &mut silent.clients {
        let heard = heard_to_end(client).await;
        // A server that hears a client first echoes it, and may see its end before its own command.
        let heard = String::from_utf8(heard).unwrap();
        let words = heard.replace("the client's last word", "").replace("bye", "");
        assert!(words == "the server's last word" || heard == "the client's last wordbye", "{heard}");
    }
    let all_arrived = |all: &[sluice_tests::origin::Traffic]| {
        all.iter().all(|one| one.ended && one.bytes.ends_with(b"the client's last word"))
    };
    silent.origin.recorder.wait_for("the last words", all_arrived).await;
    silent.assert_ended(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_side_of_silent_tunnels_speaks_as_the_other_is_reset() {
    for round in 0..4 {
        let mut silent = Silent::tunnels(50, &[]).await;
        if round % 2 == 0 {
            silent.commands.send_replace(Command::Reset);
            let mut sent = Vec::new();
            for client in &mut silent.clients {
                // It may be reset by then, and sees that once.
                sent.push(client.try_send("hello").await);
            }
            for (client, sent) in silent.clients.iter_mut().zip(sent) {
                let mut heard = Vec::new();
                let end = loop {
                    match client.some().await {
                        Ok(Some(echo)) => heard.extend_from_slice(&echo),
                        Ok(None) => break None,
                        Err(error) => break Some(error.kind()),
                    }
                };
                // An echo that the client has not acknowledged yet is not thrown away by a reset.
                assert!(heard == b"hello" || heard.is_empty(), "{heard:?}");
                let is_reset = sent.is_err() || end == Some(ErrorKind::ConnectionReset);
                assert!(is_reset || !heard.is_empty(), "{end:?}");
            }
        } else {
            silent.commands.send_replace(Command::Speak("hello".into()));
            for client in silent.clients.drain(..) {
                client.reset();
            }
        }
        silent.assert_ended(50).await;
    }
}

#[tokio::test]
async fn silence_counts_from_the_last_byte() {
    const IDLE: Duration = Duration::from_millis(2_000);
    let mut silent = Silent::tunnels(2, &["--timeout-tunnel-idle=2s"]).await;
    for speaks_first in ["the client", "the server"] {
        // Most of the time is over.
        sleep(IDLE.mul_f32(0.7)).await;
        let begun = Instant::now();
        if speaks_first == "the client" {
            silent.all_speak(Some(speaks_first), None).await;
        } else {
            silent.all_speak(None, Some(Command::Speak(speaks_first.into()))).await;
        }
        for client in &mut silent.clients {
            assert_eq!(heard(client, speaks_first.len()).await, speaks_first.as_bytes());
        }
        if speaks_first == "the server" {
            for client in &mut silent.clients {
                client.assert_closed().await;
            }
            assert_took(begun, IDLE, PATIENCE);
        }
    }
    let after = silent.proxy.counters_until("nothing is left", is_empty).await;
    assert_eq!((after.named("tunnel_idle_timeouts"), after.named("tunnels_aborted")), (2, 0), "{after:?}");
}
