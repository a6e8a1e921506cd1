//! What a handshake holds while the client keeps the server waiting. The pages of the process are counted, since half of it is in
//! the heap of aws-lc, which no allocator of Rust sees; so this is the only test of its process.

mod common;

use rustls_pki_types::ServerName;
use sluice_tls::handshake::{
    Alpn, ClientConfig, ClientHandshake, ClientSettings, MinVersion, Progress, ServerHandshake,
    ServerVerification,
};

/// The most bytes that a handshake holds behind the ClientHello and the server's flight.
const HANDSHAKE_BYTES_MAX: usize = 8 * 1024;
const HANDSHAKES: usize = 2_000;

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_half_handshake_holds_a_bounded_number_of_bytes() {
    let (config, _) = common::listener(&rcgen::PKCS_ECDSA_P256_SHA256);
    let mut all = Vec::new();
    for min_version in [MinVersion::Tls12, MinVersion::Tls13] {
        let settings = ClientSettings {
            min_version,
            verification: ServerVerification::Off,
            pins: Vec::new(),
            certificate: None,
            alpn: vec![Alpn::Http1],
            key_log: None,
        };
        let mut hello = Vec::new();
        let name = ServerName::try_from(common::NAME).unwrap();
        let client = ClientHandshake::new(&ClientConfig::new(&settings).unwrap(), name, &mut hello).unwrap();
        drop(client);
        let mut held = Vec::with_capacity(HANDSHAKES);
        let mut before = 0;
        let mut out = Vec::with_capacity(1 << 16);
        for count in 0..HANDSHAKES {
            // The first ones fill what the process needs but once.
            if count == HANDSHAKES / 10 {
                before = resident_bytes();
            }
            let mut handshake = ServerHandshake::new(&config);
            out.clear();
            assert_eq!(handshake.advance(&hello, &mut out), (hello.len(), Ok(Progress::More)));
            assert!(!out.is_empty());
            held.push(handshake);
        }
        let each = (resident_bytes() - before) / (HANDSHAKES - HANDSHAKES / 10);
        println!("{min_version:?}: {each} bytes and {} in place", size_of::<ServerHandshake>());
        assert!(each <= HANDSHAKE_BYTES_MAX, "{each} bytes");
        // What is freed would serve the next version's.
        all.push(held);
    }
    // Before its first record it holds nothing but itself.
    assert!(size_of::<ServerHandshake>() <= 320, "{}", size_of::<ServerHandshake>());
}
