//! What records cost: `cargo bench -p sluice-tls --bench records`.
//!
//! A round of a request (200 bytes opened) and a response (1 KB sealed), with ciphers that are kept and with ciphers that are made
//! anew, as a connection does that was parked; long records by themselves; and rustls' `ServerConnection` doing the same. The
//! client's side of a round is not measured: its records are made beforehand, in batches.

use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use sluice_tls::record::{
    Contexts, Opened, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Session, Side, Suite, Traffic, Version,
};

const REQUEST: [u8; 200] = [b'q'; 200];
const RESPONSE: [u8; 1024] = [b'r'; 1024];

/// Records that a client makes at a time.
const BATCH: u64 = 256;

fn session(suite: Suite, side: Side) -> Session {
    let (key_bytes, secret_bytes) = if suite == Suite::Aes128Gcm { (16, 32) } else { (32, 48) };
    let keys = [[1; 32], [2; 32]];
    let traffic = |i: usize| Traffic {
        key: &keys[i][..key_bytes],
        iv: &[3; 12],
        sequence: 0,
        secret: &[4; 48][..secret_bytes],
    };
    let (opening, sealing) = if side == Side::Server { (0, 1) } else { (1, 0) };
    Session::new(Version::Tls13, suite, side, &traffic(opening), &traffic(sealing))
}

/// Runs `round` on records of `plaintext` that a client makes, and counts only its time.
fn with_client(
    iterations: u64,
    suite: Suite,
    plaintext: &[u8],
    mut round: impl FnMut(&mut [u8]),
) -> Duration {
    let (mut client, mut contexts) = (session(suite, Side::Client), Contexts::default());
    let mut records: Vec<Vec<u8>> = vec![Vec::with_capacity(RECORD_BYTES_MAX); BATCH as usize];
    let (mut time, mut left) = (Duration::ZERO, iterations);
    while left > 0 {
        let batch = &mut records[..left.min(BATCH) as usize];
        left -= batch.len() as u64;
        for record in &mut *batch {
            record.clear();
            client.seal(&mut contexts, plaintext, record).expect("a key of TLS 1.3");
        }
        let begin = Instant::now();
        for record in batch {
            round(record);
        }
        time += begin.elapsed();
    }
    time
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open 200 B, seal 1 KB");
    for suite in [Suite::Aes128Gcm, Suite::Aes256Gcm] {
        for is_kept in [true, false] {
            let ciphers = if is_kept { "kept" } else { "made anew" };
            group.bench_function(format!("{suite:?}, ciphers {ciphers}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let (mut server, mut contexts) = (session(suite, Side::Server), Contexts::default());
                    let mut out = Vec::with_capacity(RECORD_BYTES_MAX);
                    with_client(iterations, suite, &REQUEST, |record| {
                        assert!(matches!(server.open(&mut contexts, record), Ok(Opened::Data(_))));
                        out.clear();
                        server.seal(&mut contexts, black_box(&RESPONSE), &mut out).expect("a key of TLS 1.3");
                        if !is_kept {
                            contexts.clear();
                        }
                    })
                });
            });
        }
    }
    group.bench_function("Aes128Gcm, rustls", |bencher| {
        bencher.iter_custom(|iterations| {
            rustls_rounds(iterations, &REQUEST, |server, out| {
                let mut request = [0; REQUEST.len()];
                server.reader().read_exact(&mut request).expect("a request");
                server.writer().write_all(black_box(&RESPONSE)).expect("room");
                out.clear();
                server.write_tls(out).expect("a vector");
            })
        });
    });
    group.finish();
}

fn long_records(criterion: &mut Criterion) {
    const LONG: [u8; PLAINTEXT_BYTES_MAX] = [b'x'; PLAINTEXT_BYTES_MAX];
    let mut group = criterion.benchmark_group("16 KB");
    group.throughput(Throughput::Bytes(LONG.len() as u64));
    for suite in [Suite::Aes128Gcm, Suite::Aes256Gcm] {
        group.bench_function(format!("{suite:?}, seal"), |bencher| {
            let (mut server, mut contexts) = (session(suite, Side::Server), Contexts::default());
            let mut out = Vec::with_capacity(RECORD_BYTES_MAX);
            bencher.iter(|| {
                out.clear();
                server.seal(&mut contexts, black_box(&LONG), &mut out).expect("a key of TLS 1.3");
            });
        });
        group.bench_function(format!("{suite:?}, open"), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut server, mut contexts) = (session(suite, Side::Server), Contexts::default());
                with_client(iterations, suite, &LONG, |record| {
                    assert!(matches!(server.open(&mut contexts, record), Ok(Opened::Data(_))));
                })
            });
        });
    }
    group.bench_function("Aes128Gcm, rustls, seal", |bencher| {
        let (mut server, _) = rustls_pair();
        let mut out = Vec::with_capacity(RECORD_BYTES_MAX);
        bencher.iter(|| {
            server.writer().write_all(black_box(&LONG)).expect("room");
            out.clear();
            server.write_tls(&mut out).expect("a vector");
        });
    });
    group.bench_function("Aes128Gcm, rustls, open", |bencher| {
        let mut inbox = vec![0; LONG.len()];
        bencher.iter_custom(|iterations| {
            rustls_rounds(iterations, &LONG, |server, _| {
                server.reader().read_exact(&mut inbox).expect("a record");
            })
        });
    });
    group.finish();
}

/// As `with_client`, for connections of rustls.
fn rustls_rounds(
    iterations: u64,
    plaintext: &[u8],
    mut round: impl FnMut(&mut ServerConnection, &mut Vec<u8>),
) -> Duration {
    let (mut server, mut client) = rustls_pair();
    let mut out = Vec::with_capacity(RECORD_BYTES_MAX);
    let (mut time, mut left) = (Duration::ZERO, iterations);
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let records: Vec<Vec<u8>> = (0..batch).map(|_| sealed_by_rustls(&mut client, plaintext)).collect();
        let begin = Instant::now();
        for record in records {
            let mut rest = &record[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).expect("room");
                server.process_new_packets().expect("a good record");
            }
            round(&mut server, &mut out);
        }
        time += begin.elapsed();
    }
    time
}

fn sealed_by_rustls(client: &mut ClientConnection, plaintext: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES_MAX);
    client.writer().write_all(plaintext).expect("room");
    client.write_tls(&mut record).expect("a vector");
    record
}

fn rustls_pair() -> (ServerConnection, ClientConnection) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    });
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)
        })
        .expect("a configuration");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a configuration")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a connection");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a connection");
    while server.is_handshaking() || client.is_handshaking() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("a vector");
        server.read_tls(&mut &wire[..]).expect("room");
        server.process_new_packets().expect("a handshake");
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("a vector");
        }
        client.read_tls(&mut &wire[..]).expect("room");
        client.process_new_packets().expect("a handshake");
    }
    (server, client)
}

criterion_group!(benches, rounds, long_records);
criterion_main!(benches);
