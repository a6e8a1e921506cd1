//! Records of TLS behind a handshake: arbitrary bytes, and properly sealed records of a peer that does as the fuzzer likes. Data
//! come out exactly and in order, or the session ends with a fault, behind which it opens nothing; what is not authentic never
//! comes out at all; limits hold.
//!
//! The first byte of the input chooses version, suite, side and mode.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_tls::record::{
    Contexts, Fault, IDLE_RECORDS_MAX, KEY_UPDATES_MAX, MESSAGE_BYTES_MAX, Opened, PLAINTEXT_BYTES_MAX,
    Session, Side, Suite, TICKETS_MAX, Traffic, Version, WARNINGS_MAX, record_bytes,
};

/// Content types.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let version = if kind & 1 == 0 { Version::Tls13 } else { Version::Tls12 };
    let side = if kind & 2 == 0 { Side::Server } else { Side::Client };
    let suite = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305][usize::from(kind >> 2) % 3];
    if kind & 0x80 == 0 {
        Conversation::new(version, suite, side).run(rest);
    } else {
        arbitrary(session(version, suite, side), rest);
    }
});

fn session(version: Version, suite: Suite, side: Side) -> Session {
    let (key_bytes, secret_bytes) = match suite {
        Suite::Aes128Gcm => (16, 32),
        Suite::Aes256Gcm => (32, 48),
        Suite::ChaCha20Poly1305 => (32, 32),
    };
    let secret_bytes = if version == Version::Tls13 { secret_bytes } else { 0 };
    let (keys, ivs, secrets) = ([[1; 32], [2; 32]], [[3; 12], [4; 12]], [[5; 48], [6; 48]]);
    let traffic = |i: usize| Traffic {
        key: &keys[i][..key_bytes],
        iv: &ivs[i],
        sequence: 1,
        secret: &secrets[i][..secret_bytes],
    };
    let (opening, sealing) = if side == Side::Server { (0, 1) } else { (1, 0) };
    Session::new(version, suite, side, &traffic(opening), &traffic(sealing))
}

/// Bytes that were never sealed: nothing comes out.
fn arbitrary(mut session: Session, mut bytes: &[u8]) {
    let mut contexts = Contexts::default();
    while let Ok(Some(len)) = record_bytes(bytes) {
        if len > bytes.len() {
            break;
        }
        let (record, rest) = bytes.split_at(len);
        session.open(&mut contexts, &mut record.to_vec()).expect_err("a record that was never sealed");
        bytes = rest;
    }
    // Whatever is taken for a record.
    session.open(&mut contexts, &mut bytes.to_vec()).expect_err("a record that was never sealed");
}

/// A session and the peer that the fuzzer plays.
struct Conversation {
    version: Version,
    side: Side,
    session: Session,
    contexts: Contexts,
    peer: Session,
    peer_contexts: Contexts,
    /// What the peer has sent of handshake messages that is not a whole one.
    partial: Vec<u8>,
    key_updates: u8,
    idle_records: u8,
    warnings: u8,
    owes_reply: bool,
    /// The last record of the peer has changed its key.
    has_new_key: bool,
}

/// What a record of the peer has to become.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Data(Vec<u8>),
    Tickets(Vec<Vec<u8>>),
    Nothing,
    Closed,
    Aborted(u8),
    Fault,
}

impl Conversation {
    fn new(version: Version, suite: Suite, side: Side) -> Conversation {
        let other_side = if side == Side::Server { Side::Client } else { Side::Server };
        Conversation {
            version,
            side,
            session: session(version, suite, side),
            contexts: Contexts::default(),
            peer: session(version, suite, other_side),
            peer_contexts: Contexts::default(),
            partial: Vec::new(),
            key_updates: 0,
            idle_records: 0,
            warnings: 0,
            owes_reply: false,
            has_new_key: false,
        }
    }

    /// Steps: what to do, a length, so many bytes.
    fn run(mut self, mut input: &[u8]) {
        while let Some((&[step, len], rest)) = input.split_first_chunk() {
            let (content, rest) = rest.split_at(usize::from(len).min(rest.len()));
            input = rest;
            let goes_on = match step % 8 {
                0 | 1 => self.record(DATA, content, step),
                2 | 3 => self.record(HANDSHAKE, content, step),
                4 => self.record(ALERT, content, step),
                5 => self.record(step >> 3, content, step),
                6 => self.tampered(content, step),
                _ => {
                    self.answer(content, step);
                    true
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// A record as it should be, with padding or more bytes if the step says so. Whether the conversation goes on.
    fn record(&mut self, kind: u8, content: &[u8], step: u8) -> bool {
        let content = content.repeat(if step & 0x40 == 0 { 1 } else { 65 });
        let mut sealed = Vec::new();
        let expected = if self.version == Version::Tls13 {
            let mut inner = content;
            inner.push(kind);
            inner.resize(inner.len() + if step & 0x80 == 0 { 0 } else { usize::from(step) }, 0);
            // The last byte of these goes where the type of the content is.
            let (&last, front) = inner.split_last().expect("a type at least");
            self.peer.seal_any(&mut self.peer_contexts, last, front, &mut sealed);
            self.expected_inner(&inner)
        } else {
            self.peer.seal_any(&mut self.peer_contexts, kind, &content, &mut sealed);
            self.expected(kind, &content)
        };
        assert_eq!(record_bytes(&sealed).ok(), self.is_a_record(kind).then_some(Some(sealed.len())));
        let found = self.open(&mut sealed);
        assert_eq!(found, expected);
        assert_eq!(self.session.owes_reply(), self.owes_reply);
        if std::mem::take(&mut self.has_new_key) {
            self.peer.skip_to_next_key(&mut self.peer_contexts);
        }
        let goes_on = matches!(found, Expected::Data(_) | Expected::Tickets(_) | Expected::Nothing);
        if !goes_on {
            let mut late = Vec::new();
            self.peer.seal_any(&mut self.peer_contexts, DATA, b"late", &mut late);
            assert!(matches!(self.open(&mut late), Expected::Closed | Expected::Fault));
        }
        goes_on
    }

    /// TLS 1.3: content, its type, zeros.
    fn expected_inner(&mut self, inner: &[u8]) -> Expected {
        let end = inner.iter().rposition(|&byte| byte != 0);
        match end {
            Some(end) if inner.len() <= PLAINTEXT_BYTES_MAX + 1 => self.expected(inner[end], &inner[..end]),
            _ => Expected::Fault,
        }
    }

    /// TLS 1.2 shows the type of the content.
    fn is_a_record(&self, kind: u8) -> bool {
        self.version == Version::Tls13 || (20..=23).contains(&kind)
    }

    /// A record with one byte changed, in which nothing else is wrong.
    fn tampered(&mut self, content: &[u8], step: u8) -> bool {
        let mut sealed = Vec::new();
        self.peer.seal_any(&mut self.peer_contexts, DATA, content, &mut sealed);
        let at = usize::from(step >> 3) * 7 % sealed.len();
        sealed[at] ^= 1 << (step >> 5);
        assert_eq!(self.open(&mut sealed), Expected::Fault);
        false
    }

    /// What the session seals is what its peer opens.
    fn answer(&mut self, content: &[u8], step: u8) {
        if step & 0x10 != 0 {
            self.contexts.clear();
        }
        let parts: Vec<&[u8]> = content.chunks(usize::from(step >> 5) + 1).collect();
        let mut out = Vec::new();
        self.session.seal_parts(&mut self.contexts, &parts, &mut out).expect("a key that is new");
        self.owes_reply = false;
        let (mut rest, mut data) = (&mut out[..], Vec::new());
        while let Some(len) = record_bytes(rest).expect("records") {
            let (record, behind) = rest.split_at_mut(len);
            match self.peer.open(&mut self.peer_contexts, record) {
                Ok(Opened::Data(range)) => data.extend_from_slice(&record[range]),
                Ok(Opened::Nothing) => {}
                // Without data between them, the session has replied too often for a peer that is as strict.
                Err(Fault::Flood) => return self.begin_again(),
                other => panic!("{other:?}"),
            }
            rest = behind;
        }
        assert_eq!(data, content);
    }

    /// With new sessions.
    fn begin_again(&mut self) {
        *self = Conversation::new(self.version, self.session.suite(), self.side);
    }

    fn open(&mut self, record: &mut [u8]) -> Expected {
        match self.session.open(&mut self.contexts, record) {
            Ok(Opened::Data(range)) => {
                assert!(!range.is_empty());
                Expected::Data(record[range].to_vec())
            }
            Ok(Opened::Ticket(first)) => {
                let others = std::iter::from_fn(|| self.session.next_ticket());
                Expected::Tickets([first].into_iter().chain(others).collect())
            }
            Ok(Opened::Nothing) => Expected::Nothing,
            Ok(Opened::Closed) => Expected::Closed,
            Ok(Opened::Aborted(description)) => Expected::Aborted(description),
            Err(_) => Expected::Fault,
        }
    }

    /// The rules, stated a second time.
    fn expected(&mut self, kind: u8, content: &[u8]) -> Expected {
        if !self.partial.is_empty() && kind != HANDSHAKE || content.len() > PLAINTEXT_BYTES_MAX {
            return Expected::Fault;
        }
        match kind {
            DATA if !content.is_empty() => {
                (self.key_updates, self.idle_records) = (0, 0);
                Expected::Data(content.to_vec())
            }
            DATA => self.idle(Expected::Nothing),
            ALERT => self.expected_alert(content),
            HANDSHAKE if self.version == Version::Tls13 && !content.is_empty() => {
                self.expected_messages(content)
            }
            _ => Expected::Fault,
        }
    }

    fn idle(&mut self, then: Expected) -> Expected {
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX { Expected::Fault } else { then }
    }

    fn expected_alert(&mut self, content: &[u8]) -> Expected {
        let &[level @ 1..=2, description] = content else { return Expected::Fault };
        let is_warning = if self.version == Version::Tls12 { level == 1 } else { description == 90 };
        match description {
            0 => Expected::Closed,
            _ if is_warning => {
                self.warnings += 1;
                if self.warnings > WARNINGS_MAX { Expected::Fault } else { Expected::Nothing }
            }
            _ => Expected::Aborted(description),
        }
    }

    fn expected_messages(&mut self, content: &[u8]) -> Expected {
        self.partial.extend_from_slice(content);
        let (mut tickets, mut is_update) = (Vec::new(), false);
        while let Some(&kind) = self.partial.first() {
            if kind != 24 && (kind != 4 || self.side == Side::Server) {
                return Expected::Fault;
            }
            if self.partial.len() < 4 {
                break;
            }
            let len = usize::from(self.partial[1]) << 16
                | usize::from(self.partial[2]) << 8
                | usize::from(self.partial[3]);
            if len > MESSAGE_BYTES_MAX || kind == 24 && len != 1 {
                return Expected::Fault;
            }
            if self.partial.len() < 4 + len {
                break;
            }
            let behind = self.partial.split_off(4 + len);
            let message = std::mem::replace(&mut self.partial, behind);
            if kind == 4 {
                tickets.push(message[4..].to_vec());
            } else if self.partial.is_empty() && message[4] <= 1 {
                is_update = true;
                self.key_updates += 1;
                self.owes_reply |= message[4] == 1;
            } else {
                return Expected::Fault;
            }
        }
        tickets.truncate(TICKETS_MAX);
        let expected = if tickets.is_empty() { Expected::Nothing } else { Expected::Tickets(tickets) };
        if !is_update {
            return self.idle(expected);
        }
        if self.key_updates > KEY_UPDATES_MAX {
            self.owes_reply = self.session.owes_reply();
            return Expected::Fault;
        }
        self.has_new_key = true;
        expected
    }
}
