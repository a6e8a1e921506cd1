//! The h2 crate at the other end: as a client of our server, and as a server of our client.

use std::time::Duration;

use bytes::Bytes;
use sluice_proto::h2::{Role, Rules};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;

use crate::peers::{Client, EchoServer, Random, body};
use crate::rig::{End, RULES};

const SEEDS: u64 = 12;

fn rules(random: &mut Random) -> Rules {
    Rules {
        streams_max: 1 + random.below(60) as u32,
        stream_window: 1 + random.below(100_000) as u32,
        stream_window_max: 0,
        connection_window: 65_535 + random.below(100_000) as u32,
        write_bytes_max: 1_000 + random.below(30_000) as u32,
        coalesced_bytes_max: 40 * 1024,
        decoder_table_bytes: random.below(5_000) as u32,
        encoder_table_bytes: random.below(5_000) as u32,
        ..RULES
    }
}

/// Each seed on a runtime of its own, with time enough for any host.
fn for_seeds(run: impl AsyncFn(Random)) {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let ended = runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(120), run(Random::new(seed))).await });
        ended.unwrap_or_else(|_| panic!("seed {seed} does not end"));
    }
}

/// Writes what is to be sent, and reads what there is. False at the end.
async fn exchange(end: &mut End, io: &mut DuplexStream, random: &mut Random) -> bool {
    let out = std::mem::take(&mut end.out);
    if io.write_all(&out).await.is_err() {
        return false;
    }
    let mut bytes = vec![0; 1 + random.below(20_000)];
    let read = if random.is_one_of(4) { 1 } else { bytes.len() };
    // What both ends hold back by chance must not stop them.
    match tokio::time::timeout(Duration::from_millis(2), io.read(&mut bytes[..read])).await {
        Ok(Ok(0) | Err(_)) => return false,
        Ok(Ok(len)) => end.feed(&bytes[..len]),
        Err(_) => {}
    }
    true
}

#[test]
fn a_client_of_the_h2_crate_gets_its_echo() {
    for_seeds(async |mut random| {
        let (theirs, mut ours) = tokio::io::duplex(1 + random.below(60_000));
        let mut end = End::new(Role::Server, rules(&mut random));
        let sizes: Vec<(usize, bool)> =
            (0..40).map(|_| (random.below(40_000), random.is_one_of(6))).collect();
        let window = 1 + random.below(100_000) as u32;
        let mut clients = JoinSet::new();
        clients.spawn(run_client(theirs, sizes, window));
        let mut echo = EchoServer::default();
        while exchange(&mut end, &mut ours, &mut random).await {
            echo.act(&mut end, &mut random);
        }
        drop(ours);
        while let Some(ended) = clients.join_next().await {
            ended.expect("no panic");
        }
        assert!(echo.served > 0);
    });
}

async fn run_client(io: DuplexStream, sizes: Vec<(usize, bool)>, window: u32) {
    let builder = h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(io);
    let (client, connection) = builder.await.expect("a handshake");
    let mut requests = JoinSet::new();
    for (number, (len, is_dropped)) in sizes.into_iter().enumerate() {
        let client = client.clone();
        requests.spawn(run_request(client, number as u32, len, is_dropped));
    }
    drop(client);
    let connection = tokio::spawn(connection);
    while let Some(ended) = requests.join_next().await {
        ended.expect("no panic");
    }
    connection.await.expect("no panic").expect("no error of the connection");
}

async fn run_request(client: h2::client::SendRequest<Bytes>, number: u32, len: usize, is_dropped: bool) {
    let sent = body(number, len);
    loop {
        let mut client = client.clone().ready().await.expect("a connection");
        let request = http::Request::post("http://a/path").body(()).expect("a request");
        let (response, mut sender) = client.send_request(request, false).expect("a stream");
        sender.send_data(Bytes::from(sent.clone()), true).expect("a body");
        if is_dropped {
            tokio::task::yield_now().await;
            return;
        }
        let response = match response.await {
            Ok(response) => response,
            // The server still works on streams that were dropped.
            Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let mut echoed = response.into_body();
        let mut received = Vec::new();
        while let Some(part) = echoed.data().await {
            let part = part.expect("data");
            received.extend_from_slice(&part);
            echoed.flow_control().release_capacity(part.len()).expect("capacity");
        }
        assert!(received == sent, "request {number}");
        return;
    }
}

#[test]
fn a_server_of_the_h2_crate_echoes() {
    for_seeds(async |mut random| {
        let (theirs, mut ours) = tokio::io::duplex(1 + random.below(60_000));
        let mut end = End::new(Role::Client, rules(&mut random));
        let (window, streams_max) = (1 + random.below(100_000) as u32, 1 + random.below(50) as u32);
        let server = tokio::spawn(run_server(theirs, window, streams_max));
        let mut client = Client::new(60, 20_000);
        while !client.is_done() {
            client.act(&mut end, &mut random);
            assert!(exchange(&mut end, &mut ours, &mut random).await, "the connection ended");
        }
        assert_eq!(client.echoed + client.cancelled, 60);
        drop(ours);
        server.await.expect("no panic");
    });
}

async fn run_server(io: DuplexStream, window: u32, streams_max: u32) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(window).max_concurrent_streams(streams_max);
    let mut connection = builder.handshake::<_, Bytes>(io).await.expect("a handshake");
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let response = http::Response::new(());
        // An error is a stream that the client has reset.
        let Ok(mut sender) = respond.send_response(response, false) else { continue };
        streams.spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
                if sender.send_data(part, false).is_err() {
                    return;
                }
            }
            let _ = sender.send_data(Bytes::new(), true);
        });
    }
}
