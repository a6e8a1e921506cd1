//! Handshakes on bytes that no peer sends: those of the fuzzer, and those of the other side with some of them changed, in any
//! pieces. The first byte says which; the rest is bytes, or pairs of a piece's length and a change.

#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use sluice_tls::certificates::{Certificate, CertificateSet};
use sluice_tls::handshake::{
    Alpn, ClientConfig, ClientHandshake, ClientSettings, HandshakeFailure, MinVersion, Progress,
    ServerConfig, ServerHandshake, ServerSettings, ServerVerification,
};
use sluice_tls::record::record_bytes;
use sluice_tls::tickets::TicketKeys;

/// A flight is a few kilobytes; a peer that makes us send without end is a fault.
const OUT_BYTES_MAX: usize = 64 * 1024;

fn server() -> &'static ServerConfig {
    static CONFIG: OnceLock<ServerConfig> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let pair = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let certificate = Certificate::new(Path::new("fuzz"), vec![pair.cert.der().clone()], key).unwrap();
        let set = CertificateSet { all: vec![Arc::new(certificate)], ..CertificateSet::default() };
        let settings = ServerSettings { alpn: vec![Alpn::Http1], ..ServerSettings::default() };
        ServerConfig::new(&settings, &set, &Arc::new(TicketKeys::generate(0).unwrap())).unwrap()
    })
}

fn client() -> (ClientHandshake, Vec<u8>) {
    let settings = ClientSettings {
        min_version: MinVersion::Tls12,
        verification: ServerVerification::Off,
        pins: Vec::new(),
        certificate: None,
        alpn: vec![Alpn::Http1],
        key_log: None,
    };
    let mut hello = Vec::new();
    let name = ServerName::try_from("a.example").unwrap();
    let handshake = ClientHandshake::new(&ClientConfig::new(&settings).unwrap(), name, &mut hello).unwrap();
    (handshake, hello)
}

/// One side: what it has received and not used, and whether it is done.
struct End<A> {
    advance: A,
    inbox: Vec<u8>,
    end: Option<Result<Progress, HandshakeFailure>>,
}

impl<A: FnMut(&[u8], &mut Vec<u8>) -> (usize, Result<Progress, HandshakeFailure>)> End<A> {
    fn new(advance: A) -> End<A> {
        End { advance, inbox: Vec::new(), end: None }
    }

    fn receive(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.end.is_some() {
            return;
        }
        self.inbox.extend_from_slice(piece);
        let before = out.len();
        let (used, result) = (self.advance)(&self.inbox, out);
        assert!(used <= self.inbox.len());
        assert!(out.len() - before <= OUT_BYTES_MAX);
        self.inbox.drain(..used);
        match result {
            Ok(Progress::More) => {
                let is_whole =
                    matches!(record_bytes(&self.inbox), Ok(Some(bytes)) if bytes <= self.inbox.len());
                assert!(!is_whole, "a whole record was left");
            }
            Ok(Progress::Done) => self.end = Some(result),
            Err(_) => {
                let (used, again) = (self.advance)(&self.inbox, &mut Vec::new());
                assert!(used == 0 && again.is_err(), "a failed handshake goes on");
                self.end = Some(result);
            }
        }
    }
}

fn raw(input: &[u8], receive: &mut dyn FnMut(&[u8])) {
    let mut rest = input;
    while let Some((length, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        receive(piece);
        rest = behind;
    }
}

fn against_each_other(mut steps: &[u8]) {
    let (mut client, mut to_server) = client();
    let mut server = ServerHandshake::new(server());
    let mut to_client = Vec::new();
    let mut server_end = End::new(|input: &[u8], out: &mut Vec<u8>| server.advance(input, out));
    let mut client_end = End::new(|input: &[u8], out: &mut Vec<u8>| client.advance(input, out));
    // One piece for each side in turn; without steps the rest goes in one.
    while !(to_server.is_empty() && to_client.is_empty()) {
        let (length, change) = match steps {
            [length, change, behind @ ..] => {
                steps = behind;
                (usize::from(*length) * 4, *change)
            }
            _ => (usize::MAX, 0),
        };
        let piece = take(&mut to_server, length, change);
        server_end.receive(&piece, &mut to_client);
        let piece = take(&mut to_client, length, change.reverse_bits());
        client_end.receive(&piece, &mut to_server);
    }
    let is_done = [&server_end.end, &client_end.end].map(|end| *end == Some(Ok(Progress::Done)));
    drop((server_end, client_end));
    assert!(!is_done[0] || server.finish().is_ok());
    assert!(!is_done[1] || client.finish().is_ok());
}

/// The first bytes of a flight, at least one; the last of them changed.
fn take(flight: &mut Vec<u8>, length: usize, change: u8) -> Vec<u8> {
    let mut piece: Vec<u8> = flight.drain(..length.clamp(1, flight.len().max(1)).min(flight.len())).collect();
    // Most pieces stay as they are, or no handshake would get far.
    if let Some(last) = piece.last_mut().filter(|_| change.count_ones() == 7) {
        *last ^= change;
    }
    piece
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    match mode % 3 {
        0 => {
            let (mut handshake, mut out) = (ServerHandshake::new(server()), Vec::new());
            let mut end = End::new(|input: &[u8], out: &mut Vec<u8>| handshake.advance(input, out));
            raw(rest, &mut |piece| end.receive(piece, &mut out));
            assert!(end.end != Some(Ok(Progress::Done)), "a handshake without keys");
        }
        1 => {
            let ((mut handshake, _), mut out) = (client(), Vec::new());
            let mut end = End::new(|input: &[u8], out: &mut Vec<u8>| handshake.advance(input, out));
            raw(rest, &mut |piece| end.receive(piece, &mut out));
            assert!(end.end != Some(Ok(Progress::Done)), "a handshake without keys");
        }
        _ => against_each_other(rest),
    }
});
