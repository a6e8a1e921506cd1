//! With rustls at the other end: what one seals, the other opens, in any sizes, cut anywhere, across changes of keys.

use proptest::prelude::*;
use rustls::{AlertDescription, Error};

use super::peer::Peer;
use super::*;

/// One step of a conversation.
#[derive(Clone, Debug)]
enum Step {
    /// We send parts of these lengths.
    Ours(Vec<usize>),
    /// The peer sends so many bytes.
    Theirs(usize),
    /// We send a record with so many zeros of padding (TLS 1.3), or an empty one.
    Padded(usize, usize),
    Empty,
    OurUpdate,
    TheirUpdate,
    /// We reply without data.
    Reply,
    /// Our ciphers are given up.
    Park,
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![Just(1), Just(16_384), 0..=16_384usize, 0..300usize];
    prop_oneof![
        3 => prop::collection::vec(size(), 0..4).prop_map(Step::Ours),
        3 => size().prop_map(Step::Theirs),
        1 => (0..16_000usize, 0..383usize).prop_map(|(content, zeros)| Step::Padded(content, zeros)),
        1 => Just(Step::Empty),
        1 => Just(Step::OurUpdate),
        1 => Just(Step::TheirUpdate),
        1 => Just(Step::Reply),
        1 => Just(Step::Park),
    ]
}

/// Bytes that follow each other in a stream.
#[derive(Default)]
struct Stream(usize);

impl Stream {
    fn take(&mut self, len: usize) -> Vec<u8> {
        self.0 += len;
        (self.0 - len..self.0).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect()
    }
}

/// Both ends, and what is on its way.
struct Talk {
    ours: End,
    peer: Peer,
    pieces: Vec<usize>,
    sent: [Stream; 2],
}

impl Talk {
    /// Our end reads `wire` as it comes in pieces.
    fn receive(&mut self, wire: &[u8]) -> Vec<u8> {
        let (mut inbox, mut data, mut rest) = (Vec::new(), Vec::new(), wire);
        for &len in self.pieces.iter().cycle() {
            let (piece, behind) = rest.split_at(len.clamp(1, rest.len().max(1)).min(rest.len()));
            rest = behind;
            inbox.extend_from_slice(piece);
            while let Some(len) = record_bytes(&inbox).unwrap().filter(|&len| len <= inbox.len()) {
                match self.ours.open(&mut inbox[..len]).unwrap() {
                    Opened::Data(range) => data.extend_from_slice(&inbox[range]),
                    Opened::Nothing | Opened::Ticket(_) => {}
                    ended => panic!("{ended:?}"),
                }
                inbox.drain(..len);
            }
            if rest.is_empty() {
                break;
            }
        }
        assert!(inbox.is_empty(), "whole records were sent");
        data
    }

    fn deliver(&mut self, wire: &[u8], expected: &[u8]) {
        let taken = self.peer.take(wire, &self.pieces).unwrap();
        assert!(taken == expected, "{} bytes of {}", taken.len(), expected.len());
        // What the peer replies to an update.
        let reply = self.peer.pending();
        assert_eq!(self.receive(&reply), b"");
    }

    fn step(&mut self, step: &Step) {
        let is_13 = self.ours.session.version() == Version::Tls13;
        match step {
            Step::Ours(parts) => {
                let data: Vec<Vec<u8>> = parts.iter().map(|&len| self.sent[0].take(len)).collect();
                let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
                let mut wire = Vec::new();
                let End { session, contexts } = &mut self.ours;
                session.seal_parts(contexts, &slices, &mut wire).unwrap();
                assert!(!session.owes_reply());
                self.deliver(&wire, &data.concat());
            }
            Step::Theirs(len) => {
                let data = self.sent[1].take(*len);
                let wire = self.peer.send(&data);
                assert!(self.receive(&wire) == data);
            }
            Step::Padded(len, zeros) if is_13 && !self.ours.session.owes_reply() => {
                let data = self.sent[0].take(*len);
                let mut padded = data.clone();
                padded.push(TYPE_APPLICATION_DATA);
                padded.resize(padded.len() + zeros, 0);
                let wire = self.ours.seal_any(0, &padded);
                self.deliver(&wire, &data);
            }
            Step::Padded(..) => {}
            Step::Empty => {
                let wire = self.ours.seal_any(TYPE_APPLICATION_DATA, b"");
                self.deliver(&wire, b"");
            }
            Step::OurUpdate if is_13 => {
                let wire = self.ours.update();
                self.deliver(&wire, b"");
            }
            Step::TheirUpdate if is_13 => {
                let wire = self.peer.update();
                assert_eq!(self.receive(&wire), b"");
                assert!(self.ours.session.owes_reply());
            }
            Step::OurUpdate | Step::TheirUpdate => {}
            Step::Reply => {
                let mut wire = Vec::new();
                let End { session, contexts } = &mut self.ours;
                session.reply(contexts, &mut wire);
                self.deliver(&wire, b"");
            }
            Step::Park => self.ours.contexts.clear(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn a_conversation_arrives_as_it_was_sent(
        steps in prop::collection::vec(step(), 1..24),
        pieces in prop::collection::vec(1..20_000usize, 1..6),
        small in prop::collection::vec(1..40usize, 1..6),
    ) {
        for (version, suite) in all_kinds() {
            for (side, pieces) in [(Side::Server, &pieces), (Side::Client, &small)] {
                let (ours, peer) = Peer::new(version, suite, side, 0);
                let mut talk = Talk { ours, peer, pieces: pieces.clone(), sent: <[Stream; 2]>::default() };
                for step in &steps {
                    talk.step(step);
                }
                let mut closing = Vec::new();
                talk.ours.session.close(&mut talk.ours.contexts, &mut closing);
                prop_assert!(!talk.peer.has_closed());
                talk.peer.take(&closing, &[closing.len()]).unwrap();
                prop_assert!(talk.peer.has_closed());
                let mut closing = talk.peer.close();
                prop_assert_eq!(talk.ours.open(&mut closing), Ok(Opened::Closed));
            }
        }
    }
}

#[test]
fn a_hundred_generations_of_keys() {
    for suite in SUITES {
        let (mut ours, mut peer) = Peer::new(Version::Tls13, suite, Side::Server, 0);
        for round in 0..100_u8 {
            ours.open_all(&mut peer.update()).unwrap();
            assert_eq!(peer.take(&ours.seal(&[round; 50]), &[50]).unwrap(), [round; 50]);
            assert_eq!(ours.open_all(&mut peer.send(&[round; 30])).unwrap(), [round; 30]);
        }
    }
}

#[test]
fn tickets_of_a_server_reach_its_client() {
    for tickets in 0..4 {
        let (mut ours, mut peer) = Peer::new(Version::Tls13, Suite::Aes128Gcm, Side::Client, tickets);
        let mut wire = peer.send(b"response");
        let (mut rest, mut found, mut data) = (&mut wire[..], Vec::new(), Vec::new());
        while let Some(len) = record_bytes(rest).unwrap() {
            let (record, behind) = rest.split_at_mut(len);
            match ours.open(record).unwrap() {
                Opened::Ticket(ticket) => {
                    found.push(ticket);
                    found.extend(std::iter::from_fn(|| ours.session.next_ticket()));
                }
                Opened::Data(range) => data.extend_from_slice(&record[range]),
                other => panic!("{other:?}"),
            }
            rest = behind;
        }
        assert_eq!((found.len(), &data[..]), (tickets, &b"response"[..]));
    }
}

#[test]
fn every_alert_is_understood() {
    for (version, suite) in all_kinds() {
        for side in [Side::Server, Side::Client] {
            for (fault, description) in [
                (Fault::Overflow, AlertDescription::RecordOverflow),
                (Fault::BadMac, AlertDescription::BadRecordMac),
                (Fault::Unexpected, AlertDescription::UnexpectedMessage),
                (Fault::Malformed, AlertDescription::DecodeError),
                (Fault::IllegalParameter, AlertDescription::IllegalParameter),
                (Fault::Renegotiation, AlertDescription::NoRenegotiation),
                (Fault::Flood, AlertDescription::UnexpectedMessage),
                (Fault::KeyExhausted, AlertDescription::InternalError),
            ] {
                let (mut ours, mut peer) = Peer::new(version, suite, side, 0);
                let mut wire = Vec::new();
                ours.session.alert(&mut ours.contexts, fault, &mut wire);
                assert_eq!(peer.take(&wire, &[wire.len()]), Err(Error::AlertReceived(description)));
            }
        }
    }
}

#[test]
fn an_alert_of_rustls_is_understood() {
    for (version, suite) in all_kinds() {
        let (mut ours, mut peer) = Peer::new(version, suite, Side::Server, 0);
        let mut wire = ours.seal(b"data");
        *wire.last_mut().unwrap() ^= 1;
        assert_eq!(peer.take(&wire, &[wire.len()]), Err(Error::DecryptError));
        assert_eq!(ours.open(&mut peer.pending()), Ok(Opened::Aborted(20)));
    }
}

#[test]
fn connections_with_rustls_are_apart() {
    for (version, suite) in all_kinds() {
        let (mut ours, mut peer) = Peer::new(version, suite, Side::Server, 0);
        let (mut other, mut other_peer) = Peer::new(version, suite, Side::Server, 0);
        assert_eq!(other.open(&mut peer.send(b"secret")), Err(Fault::BadMac));
        assert_eq!(other_peer.take(&ours.seal(b"secret"), &[1_000]), Err(Error::DecryptError));
    }
}
