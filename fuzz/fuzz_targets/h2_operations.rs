//! Two ends of a connection of HTTP/2, ours both, driven by operations: what one sends within its windows the other accepts, and
//! every stream has its own bytes in order.
//!
//! The first bytes choose windows and limits; each pair of others is an operation.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sluice_proto::h1::{
    ClientIdentity, Forwarding, HeadStore, IdentityPolicy, Parsed, Scheme, Trust, parse_request,
    parse_response, write_request,
};
use sluice_proto::h2::{ErrorCode, Event, HeadLines, ResponseFields, Role, Rules, Session, StreamKey};
use sluice_proto::{HeadLimits, RequestKind};

const SENDER: ClientIdentity<'static> = ClientIdentity {
    peer: b"::1",
    client: b"::1",
    trust: Trust::Untrusted,
    proto: "http",
    request_id: 1,
    tls: None,
};

/// A stream as one end knows it.
#[derive(Default)]
struct Known {
    key: Option<StreamKey>,
    has_head: bool,
    sent: usize,
    received: usize,
    has_end: bool,
    owed: u32,
}

struct End {
    session: Session,
    rules: Rules,
    lines: HeadLines,
    input: Vec<u8>,
    out: Vec<u8>,
    streams: BTreeMap<u32, Known>,
    role: Role,
}

fuzz_target!(|input: &[u8]| {
    let Some((start, steps)) = input.split_at_checked(6) else { return };
    let mut client = End::new(Role::Client, &start[..3]);
    let mut server = End::new(Role::Server, &start[3..]);
    for step in steps.chunks_exact(2) {
        let (from, to) =
            if step[0] & 1 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        match step[0] >> 1 & 7 {
            0 | 1 => carry(from, to, usize::from(step[1]) * 8 + 1),
            2 => from.begin(step[1]),
            3 => from.send(step[1], step[0] & 0x80 != 0),
            4 => from.give_back(step[1]),
            5 => from.close(step[1]),
            6 => from.session.compact(),
            _ => from.session.ping([step[1]; 8], &mut from.out),
        }
    }
    while !client.out.is_empty() || !server.out.is_empty() {
        carry(&mut client, &mut server, usize::MAX);
        carry(&mut server, &mut client, usize::MAX);
    }
});

/// Moves bytes from one end to the other, which accepts them.
fn carry(from: &mut End, to: &mut End, len: usize) {
    let len = len.min(from.out.len());
    to.input.extend(from.out.drain(..len));
    to.receive();
}

/// The byte at a place of a stream.
fn content(id: u32, at: usize) -> u8 {
    (id as usize * 31 + at * 7) as u8
}

impl End {
    fn new(role: Role, choice: &[u8]) -> Self {
        let rules = Rules {
            head: HeadLimits { request_line_bytes_max: 1_024, head_bytes_max: 4_096, fields_max: 50 },
            streams_max: u32::from(choice[2] & 15) + 1,
            stream_window: u32::from(choice[0]) * 300 + 1,
            stream_window_max: 0,
            connection_window: 65_535 + u32::from(choice[1]),
            frame_bytes_max: 16_384,
            decoder_table_bytes: u32::from(choice[1]) * 32,
            encoder_table_bytes: u32::from(choice[1]) * 16,
            write_bytes_max: u32::from(choice[2]) * 100 + 1,
            coalesced_bytes_max: 40 * 1024,
            connect_protocol: false,
        };
        let mut out = Vec::new();
        let session = Session::new(role, Scheme::Http, &rules, &mut out);
        Self {
            session,
            rules,
            lines: HeadLines::new(),
            input: Vec::new(),
            out,
            streams: BTreeMap::new(),
            role,
        }
    }

    fn receive(&mut self) {
        loop {
            let received = self.session.receive(&self.input, &mut self.lines, &self.rules, &mut self.out);
            let (used, event) = received.expect("what our other end has sent is accepted");
            match event {
                Event::Nothing => return,
                Event::Head { key, is_end, fault } => {
                    assert_eq!(fault, None);
                    let known = self.streams.entry(key.id).or_default();
                    assert!(!known.has_end);
                    known.key = Some(key);
                    known.has_end = is_end;
                }
                Event::Data { key, range, is_end } => {
                    let known = self.streams.get_mut(&key.id).expect("a stream that is open");
                    for &byte in &self.input[range.clone()] {
                        assert_eq!(byte, content(key.id, known.received));
                        known.received += 1;
                    }
                    known.owed += range.len() as u32;
                    assert!(!known.has_end);
                    known.has_end = is_end;
                }
                Event::Reset { key, .. } => self.forget(key),
                Event::Broken { fault, .. } => panic!("{fault}"),
                Event::Trailers { .. } | Event::GoAway { .. } => panic!("not sent"),
                Event::Handled | Event::Window(_) | Event::Priority(_) | Event::Settings | Event::Pong(_) => {
                }
            }
            self.input.drain(..used);
        }
    }

    /// The stream that an operation means.
    fn choose(&mut self, choice: u8) -> Option<(u32, &mut Known)> {
        let len = self.streams.len();
        self.streams.iter_mut().nth(usize::from(choice) % len.max(1)).map(|(id, known)| (*id, known))
    }

    /// Sends a request, or a response.
    fn begin(&mut self, choice: u8) {
        if self.role == Role::Client {
            let Some(key) = self.session.open(RequestKind::Other, &self.rules) else { return };
            self.streams.insert(key.id, Known { key: Some(key), has_head: true, ..Known::default() });
            let mut store = HeadStore::default();
            let text = b"POST /path HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let Ok(Parsed::Complete { head, .. }) = parse_request(text, &mut store, &HeadLimits::default())
            else {
                panic!("a request")
            };
            let (mut written, identity) = (Vec::new(), IdentityPolicy::default());
            let fwd =
                Forwarding { identity: &identity, sender: SENDER, host: "a", body: head.body, edits: None };
            let spans = write_request(&mut written, &head, &fwd);
            self.session.send_request(key, spans.parts(&written), choice & 1 == 1, &mut self.out);
            return;
        }
        let Some((_, known)) = self.choose(choice) else { return };
        if std::mem::replace(&mut known.has_head, true) {
            return;
        }
        let key = known.key.expect("a stream that is open");
        let mut store = HeadStore::default();
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let Ok(Parsed::Complete { head, .. }) =
            parse_response(text, &mut store, &HeadLimits::default(), &RequestKind::Other)
        else {
            panic!("a response")
        };
        let fields = ResponseFields::default();
        self.session.send_response(key, &head, &fields, false, &mut self.out);
    }

    fn send(&mut self, choice: u8, is_end: bool) {
        let Some((id, known)) = self.choose(choice) else { return };
        if !known.has_head {
            return;
        }
        let (key, at) = (known.key.expect("a stream that is open"), known.sent);
        let data: Vec<u8> = (at..at + usize::from(choice) * 11).map(|at| content(id, at)).collect();
        let before = self.out.len();
        let sent = self.session.send_data(key, &data, is_end, &self.rules, &mut self.out);
        assert!(sent <= data.len() && self.out.len() - before >= sent);
        self.streams.get_mut(&id).expect("the same").sent += sent;
    }

    fn give_back(&mut self, choice: u8) {
        let Some((_, known)) = self.choose(choice) else { return };
        let (key, owed) = (known.key.expect("a stream that is open"), std::mem::take(&mut known.owed));
        self.session.give_back(key, owed, &self.rules, &mut self.out);
        self.session.give_back_shared(owed, &self.rules, &mut self.out);
    }

    fn close(&mut self, choice: u8) {
        let Some((_, known)) = self.choose(choice) else { return };
        let key = known.key.expect("a stream that is open");
        self.forget(key);
    }

    fn forget(&mut self, key: StreamKey) {
        if let Some(known) = self.streams.remove(&key.id) {
            self.session.give_back_shared(known.owed, &self.rules, &mut self.out);
        }
        self.session.close(key, ErrorCode::CANCEL, &mut self.out);
        assert!(self.session.is_sent(key));
    }
}
