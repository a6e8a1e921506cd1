//! gRPC by implementations that others wrote, through the proxy: grpcio of Python and grpc-go call each other and themselves, in
//! clear text and over TLS on either side. `programs/` has the calls.

use sluice_tests::{
    peers::{Program, text},
    sides::{Side, between},
    tls::{Authority, NAME},
};

const SIDES: [Side; 2] = [Side::H2, Side::H2Tls];

fn servers() -> [(&'static str, Program); 2] {
    [("grpcio", Program::python("grpc_server.py")), ("grpc-go", Program::go("go-grpc", "serve"))]
}

fn clients() -> [(&'static str, Program); 2] {
    [("grpcio", Program::python("grpc_client.py")), ("grpc-go", Program::go("go-grpc", "call"))]
}

/// All clients through the proxy to all servers of this side.
async fn rows(upstream: Side) {
    let authority = Authority::new();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    let ca = authority.ca_file();
    let pair = [text(&identity.key_file), text(&identity.cert_file)];
    let mut wrong = Vec::new();
    for (server, program) in servers() {
        let Some(running) = program.serve(if upstream.is_tls() { &pair } else { &[] }).await else {
            continue;
        };
        for downstream in SIDES {
            let proxy = between(downstream, upstream, running.address, &identity, &ca, &[]).await;
            let address = proxy.address.to_string();
            let trust: &[&str] = if downstream.is_tls() { &[text(&ca), NAME] } else { &[] };
            for (client, program) in clients() {
                if let Some(Err(what)) = program.ask(&[&[&*address], trust].concat()).await {
                    wrong.push(format!("{client} by {downstream:?} to {server} by {upstream:?}: {what}"));
                }
            }
            // One more connection may be made while the first is.
            let counters = proxy.counters().await;
            assert!(counters.upstream_connects <= 4, "{counters:?}");
            proxy.counters_until("no stream is left", |now| now.named("h2_streams") == 0).await;
            proxy.drain().await.assert_clean();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_all_kinds_to_servers_in_clear_text() {
    rows(Side::H2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_all_kinds_to_servers_over_tls() {
    rows(Side::H2Tls).await;
}
