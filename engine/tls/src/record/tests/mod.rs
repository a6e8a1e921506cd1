//! Tests of the record layer: two sessions of ours that are each other's peer here, rustls as the peer in `against_rustls`.

mod faults;
mod keys;
mod peer;
mod against_rustls;
mod seal;

use super::*;

pub(super) const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
pub(super) const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];

pub(super) fn all_kinds() -> impl Iterator<Item = (Version, Suite)> {
    VERSIONS.into_iter().flat_map(|version| SUITES.into_iter().map(move |suite| (version, suite)))
}

/// A session and its contexts.
pub(super) struct End {
    pub(super) session: Session,
    pub(super) contexts: Contexts,
}

impl End {
    pub(super) fn new(session: Session) -> End {
        End { session, contexts: Contexts::default() }
    }

    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Fault> {
        self.session.open(&mut self.contexts, record)
    }

    /// Opens every record of `wire`, parts of which have to be whole, and returns the data.
    pub(super) fn open_all(&mut self, mut wire: &mut [u8]) -> Result<Vec<u8>, Fault> {
        let mut data = Vec::new();
        while let Some(len) = record_bytes(wire)? {
            let (record, rest) = wire.split_at_mut(len);
            if let Opened::Data(range) = self.open(record)? {
                data.extend_from_slice(&record[range]);
            }
            wire = rest;
        }
        assert!(wire.is_empty(), "records are whole");
        Ok(data)
    }

    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.seal(&mut self.contexts, plaintext, &mut out).unwrap();
        out
    }

    pub(super) fn seal_any(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.seal_any(&mut self.contexts, kind, content, &mut out);
        out
    }

    /// Our KeyUpdate.
    pub(super) fn update(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.update_key(&mut self.contexts, &mut out);
        out
    }
}

/// A server and its client, which have begun with this number.
pub(super) fn pair_at(version: Version, suite: Suite, sequence: u64) -> [End; 2] {
    pair_of(version, suite, sequence, 1)
}

pub(super) fn pair(version: Version, suite: Suite) -> [End; 2] {
    pair_at(version, suite, 0)
}

/// The same with secrets of their own.
pub(super) fn pair_of(version: Version, suite: Suite, sequence: u64, seed: u8) -> [End; 2] {
    let secret_bytes = match (version, suite) {
        (Version::Tls12, _) => 0,
        (_, Suite::Aes256Gcm) => 48,
        _ => 32,
    };
    let key_bytes = suite.algorithm().key_bytes();
    let (keys, secrets) = ([[seed; 32], [seed + 1; 32]], [[seed + 2; 48], [seed + 3; 48]]);
    let ivs = [[seed + 4; 12], [seed + 5; 12]];
    let traffic = |i: usize| Traffic {
        key: &keys[i][..key_bytes],
        iv: &ivs[i],
        sequence,
        secret: &secrets[i][..secret_bytes],
    };
    [
        End::new(Session::new(version, suite, Side::Server, &traffic(0), &traffic(1))),
        End::new(Session::new(version, suite, Side::Client, &traffic(1), &traffic(0))),
    ]
}

#[test]
fn an_idle_connection_keeps_little() {
    assert!(size_of::<Session>() <= 208, "{} bytes", size_of::<Session>());
}

#[test]
fn the_length_of_a_record_is_known_from_its_header() {
    let header = [23, 3, 3, 0x48, 0];
    for len in 0..HEADER_BYTES {
        assert_eq!(record_bytes(&header[..len]), Ok(None));
    }
    assert_eq!(record_bytes(&header), Ok(Some(RECORD_BYTES_MAX)));
    assert_eq!(record_bytes(&[23, 3, 3, 0x48, 1]), Err(Fault::Overflow));
    for kind in 0..=255 {
        let expected = if (20..=23).contains(&kind) { Ok(Some(5)) } else { Err(Fault::Unexpected) };
        assert_eq!(record_bytes(&[kind, 3, 3, 0, 0]), expected);
        assert_eq!(record_bytes(&[kind]), expected.map(|_| None), "the first byte is enough");
    }
}
