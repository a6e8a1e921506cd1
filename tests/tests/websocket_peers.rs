//! WebSocket by programs that others wrote, on both sides: Python's websockets and Node's `ws`, and tungstenite behind Upgrade and
//! extended CONNECT. `programs/` has what they say: messages of all sizes, in frames of their own, compressed, pings, and closes by
//! either side.

use std::net::SocketAddr;

use sluice_tests::{
    peers::{Program, Server, directory, text},
    proxy::Proxy,
    sides::{Side, between},
    tls::{Authority, Identity, NAME},
    websocket::{self, Echo},
};

/// What serves, while it lives.
enum Running {
    Program(Server),
    Tungstenite(Echo),
}

impl Running {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Program(server) => server.address,
            Self::Tungstenite(echo) => echo.address,
        }
    }
}

/// Servers of all kinds, by the protocol that they speak.
async fn servers() -> Vec<(&'static str, Side, Running)> {
    let mut all = vec![
        ("tungstenite", Side::H1, Running::Tungstenite(websocket::echo().await)),
        ("tungstenite on hyper", Side::H2, Running::Tungstenite(websocket::http2_echo().await)),
    ];
    if let Some(server) = Program::python("websocket_server.py").serve(&[]).await {
        all.push(("websockets", Side::H1, Running::Program(server)));
    }
    for (side, protocol) in [(Side::H1, "h1"), (Side::H2, "h2")] {
        if let Some(server) = Program::node("ws_server.mjs").serve(&[text(&directory()), protocol]).await {
            all.push(("ws", side, Running::Program(server)));
        }
    }
    all
}

/// Every client through this proxy.
async fn ask(from: Side, proxy: &Proxy, authority: &Authority) -> Vec<(&'static str, Result<(), String>)> {
    let ca = authority.ca_file();
    let url = format!("{}://{}/chat", if from.is_tls() { "wss" } else { "ws" }, proxy.address);
    let trust: &[&str] = if from.is_tls() { &[text(&ca)] } else { &[] };
    let ws = Program::node("ws_client.mjs");
    let protocol = if from.is_http2() { "h2" } else { "h1" };
    let ws = ws.ask(&[&[text(&directory()), protocol, &url], trust].concat()).await;
    let websockets = match from.is_http2() {
        // It has none.
        true => None,
        false => Program::python("websocket_client.py").ask(&[&[&*url], trust].concat()).await,
    };
    [("ws", ws), ("websockets", websockets)]
        .into_iter()
        .filter_map(|(name, end)| Some((name, end?)))
        .collect()
}

async fn rows(from: Side) {
    let authority = Authority::new();
    let identity: Identity = authority.issue(&[NAME, "127.0.0.1"]);
    let ca = authority.ca_file();
    let mut wrong = Vec::new();
    for (server, to, running) in servers().await {
        let flags = ["--upgrade", "websocket"];
        let proxy = between(from, to, running.address(), &identity, &ca, &flags).await;
        for (client, end) in ask(from, &proxy, &authority).await {
            if let Err(what) = end {
                wrong.push(format!("{client} by {from:?} to {server} by {to:?}: {what}"));
            }
        }
        proxy
            .counters_until("no tunnel is left", |now| now.named("tunnels") == 0 && now.connections == 0)
            .await;
        proxy.drain().await.assert_clean();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_by_upgrade() {
    rows(Side::H1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_by_upgrade_over_tls() {
    rows(Side::H1Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_by_extended_connect() {
    rows(Side::H2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_by_extended_connect_over_tls() {
    rows(Side::H2Tls).await;
}
