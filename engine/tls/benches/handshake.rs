//! What a handshake costs the server: microseconds per handshake, the client's share left out.
//!
//!     cargo bench -p sluice-tls --bench handshake

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use sluice_tls::handshake::{
    Alpn, ClientConfig, ClientHandshake, ClientSettings, MinVersion, Progress, ServerConfig, ServerHandshake,
    ServerVerification,
};

const ROUNDS: usize = 3_000;

fn client() -> ClientConfig {
    let settings = ClientSettings {
        min_version: MinVersion::Tls12,
        verification: ServerVerification::Off,
        pins: Vec::new(),
        certificate: None,
        alpn: vec![Alpn::Http1],
        key_log: None,
    };
    ClientConfig::new(&settings).unwrap()
}

/// One handshake; how long the server has worked, and whether the session was resumed.
fn round(server: &ServerConfig, client: &ClientConfig) -> (Duration, bool) {
    let (mut to_server, mut to_client, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
    let name = ServerName::try_from(common::NAME).unwrap();
    let mut client = ClientHandshake::new(client, name, &mut to_server).unwrap();
    let begun = Instant::now();
    let mut server = ServerHandshake::new(server);
    spent += begun.elapsed();
    let mut is_done = false;
    loop {
        let begun = Instant::now();
        let (used, result) = server.advance(&to_server, &mut to_client);
        spent += begun.elapsed();
        to_server.drain(..used);
        let is_served = result.unwrap() == Progress::Done;
        if !is_done {
            let (used, result) = client.advance(&to_client, &mut to_server);
            to_client.drain(..used);
            is_done = result.unwrap() == Progress::Done;
        }
        if is_served {
            break;
        }
    }
    let begun = Instant::now();
    let established = server.finish().unwrap();
    spent += begun.elapsed();
    store_tickets(client, &mut to_client);
    (spent, established.is_resumed)
}

/// Gives the client its tickets, for the next round.
fn store_tickets(client: ClientHandshake, from_server: &mut [u8]) {
    use sluice_tls::record::{Contexts, Opened, record_bytes};
    let mut established = client.finish().unwrap();
    let (mut contexts, mut rest) = (Contexts::default(), from_server);
    while let Ok(Some(bytes)) = record_bytes(rest) {
        let (record, behind) = rest.split_at_mut(bytes);
        if let (Ok(Opened::Ticket(ticket)), Some(tickets)) =
            (established.session.open(&mut contexts, record), &mut established.tickets)
        {
            tickets.store(&ticket);
        }
        rest = behind;
    }
}

fn main() {
    for (name, kind) in
        [("ECDSA P-256", &rcgen::PKCS_ECDSA_P256_SHA256), ("RSA 2048", &rcgen::PKCS_RSA_SHA256)]
    {
        let (server, _) = common::listener(kind);
        let same = client();
        for wants_resumed in [false, true] {
            let mut spent: Vec<Duration> = (0..ROUNDS)
                .map(|_| if wants_resumed { round(&server, &same) } else { round(&server, &client()) })
                .filter(|(_, is_resumed)| *is_resumed == wants_resumed)
                .map(|(spent, _)| spent)
                .collect();
            spent.sort_unstable();
            let at = |part: usize| {
                spent.get(spent.len() * part / 100).map_or(0.0, |spent| spent.as_secs_f64() * 1e6)
            };
            let kind = if wants_resumed { "resumed" } else { "full" };
            println!("{name} {kind}: median {:.0} us, tenth {:.0} us of {}", at(50), at(10), spent.len());
        }
    }
}
