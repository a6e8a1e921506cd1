//! Records are opened and sealed without an allocation, also when the ciphers are made anew each time.

use sluice_sys::{CountingAllocator, allocations_of_this_thread};
use sluice_tls::record::{Contexts, Opened, Session, Side, Suite, Traffic, Version, record_bytes};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn session(version: Version, side: Side) -> Session {
    let secret: &[u8] = if version == Version::Tls13 { &[3; 32] } else { &[] };
    let traffic = |key| Traffic { key, iv: &[2; 12], sequence: 1, secret };
    let (opening, sealing) = match side {
        Side::Server => (traffic(&[1; 16]), traffic(&[4; 16])),
        Side::Client => (traffic(&[4; 16]), traffic(&[1; 16])),
    };
    Session::new(version, Suite::Aes128Gcm, side, &opening, &sealing)
}

#[test]
fn records_allocate_nothing() {
    let before = allocations_of_this_thread();
    let mut out = Vec::<u8>::with_capacity(100_000);
    assert_eq!(allocations_of_this_thread(), before + 1, "allocations are counted");

    for version in [Version::Tls12, Version::Tls13] {
        let (mut server, mut client) = (session(version, Side::Server), session(version, Side::Client));
        let (mut of_server, mut of_client) = (Contexts::default(), Contexts::default());
        let body = [7; 40_000];
        let before = allocations_of_this_thread();
        for round in 0..10 {
            out.clear();
            server.seal_parts(&mut of_server, &[b"head", &body[..100], &body], &mut out).unwrap();
            let (mut rest, mut data) = (&mut out[..], 0);
            while let Some(len) = record_bytes(rest).unwrap() {
                let (record, behind) = rest.split_at_mut(len);
                let Ok(Opened::Data(range)) = client.open(&mut of_client, record) else { panic!("data") };
                data += range.len();
                rest = behind;
            }
            assert_eq!(data, 40_104);
            if round % 2 == 0 {
                of_server.clear();
                of_client.clear();
            }
        }
        assert_eq!(allocations_of_this_thread(), before, "{version:?}");
    }
}
