//! An end of a connection with what it has seen, and frames by hand.

use sluice_proto::h1::{
    ClientIdentity, Forwarding, HeadStore, IdentityPolicy, Parsed, RequestParts, RequestSpans, Scheme, Trust,
    parse_request, parse_response, write_request,
};
use sluice_proto::h2::{
    Abuse, ErrorCode, Event, HeadLines, ResponseFields, Role, Rules, Session, SessionFault, StreamKey,
};
use sluice_proto::{Fault, HeadLimits, RequestKind, ResponseHead, Trailers};

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const PRIORITY_UPDATE: u8 = 16;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

/// Small figures, so that tests reach them.
pub(crate) const RULES: Rules = Rules {
    head: HeadLimits { request_line_bytes_max: 1_024, head_bytes_max: 4_096, fields_max: 50 },
    streams_max: 4,
    stream_window: 100,
    stream_window_max: 100,
    connection_window: 65_535,
    frame_bytes_max: 16_384,
    decoder_table_bytes: 4_096,
    encoder_table_bytes: 4_096,
    write_bytes_max: 16_384,
    coalesced_bytes_max: 40 * 1024,
    connect_protocol: true,
};

/// Blocks without use of a table.
pub(crate) mod block {
    /// GET http://a/
    pub(crate) const GET: &[u8] = b"\x82\x86\x84\x01\x01a";
    /// POST http://a/
    pub(crate) const POST: &[u8] = b"\x83\x86\x84\x01\x01a";
    /// The same with Content-Length: 5
    pub(crate) const POST_5: &[u8] = b"\x83\x86\x84\x01\x01a\x0f\x0d\x015";
    /// GET without a path
    pub(crate) const MALFORMED: &[u8] = b"\x82\x86\x01\x01a";
    /// x: y
    pub(crate) const TRAILERS: &[u8] = b"\x00\x01x\x01y";
    /// 200
    pub(crate) const OK: &[u8] = b"\x88";
    /// 200 with Content-Length: 5
    pub(crate) const OK_5: &[u8] = b"\x88\x0f\x0d\x015";
    /// 204
    pub(crate) const NO_CONTENT: &[u8] = b"\x89";
    /// 304
    pub(crate) const NOT_MODIFIED: &[u8] = b"\x8b";
    /// 100
    pub(crate) const CONTINUE: &[u8] = b"\x08\x03100";
    /// An index that is in no table.
    pub(crate) const INVALID: &[u8] = b"\xff\x7f";
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn headers(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, id, block)
}

pub(crate) fn data(id: u32, flags: u8, len: usize) -> Vec<u8> {
    frame(DATA, flags, id, &vec![b'd'; len])
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend_from_slice(&value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn window_update(id: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, id, &increment.to_be_bytes())
}

pub(crate) fn reset(id: u32, code: ErrorCode) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &code.0.to_be_bytes())
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"answerme")
}

pub(crate) fn pong() -> Vec<u8> {
    frame(PING, ACK, 0, b"answerme")
}

pub(crate) fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, ACK, 0, b"")
}

/// What an end has seen. Parts of data that follow each other are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Head { id: u32, is_end: bool, fault: Option<Fault> },
    Data { id: u32, bytes: Vec<u8>, is_end: bool },
    Trailers { id: u32, fields: usize },
    Reset { id: u32, code: ErrorCode },
    Broken { id: u32, fault: Fault },
    Window(Option<u32>),
    Settings,
    GoAway { last_id: u32, code: ErrorCode },
    Pong,
    Failed(ErrorCode),
}

/// Kinds of abuse by their numbers, each with how often it was counted.
pub(crate) type Abuses = Vec<(usize, u16)>;

/// A frame that was written: type, flags, stream, payload.
pub(crate) type Frame = (u8, u8, u32, Vec<u8>);

/// One end.
pub(crate) struct End {
    pub(crate) session: Session,
    pub(crate) lines: HeadLines,
    pub(crate) rules: Rules,
    /// What has come and was not used up.
    pub(crate) input: Vec<u8>,
    /// What is to be sent.
    pub(crate) out: Vec<u8>,
    pub(crate) seen: Vec<Seen>,
    /// Streams that were opened and not closed.
    pub(crate) keys: Vec<StreamKey>,
    /// Data are given back as they come.
    pub(crate) gives_back: bool,
}

impl End {
    pub(crate) fn new(role: Role, rules: Rules) -> Self {
        let mut out = Vec::new();
        let session = Session::new(role, Scheme::Http, &rules, &mut out);
        Self {
            session,
            lines: HeadLines::new(),
            rules,
            input: Vec::new(),
            out,
            seen: Vec::new(),
            keys: Vec::new(),
            gives_back: false,
        }
    }

    /// A server whose client has sent its preface, and acknowledged ours.
    pub(crate) fn server(rules: Rules) -> Self {
        let mut end = Self::new(Role::Server, rules);
        end.feed(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &settings_ack()].concat());
        end.start_over();
        end
    }

    /// A client whose server has sent its preface, and acknowledged ours; with streams 1 (GET) and 3 (HEAD) that were sent, and 5
    /// (POST) with a body to come.
    pub(crate) fn client(rules: Rules) -> Self {
        let mut end = Self::new(Role::Client, rules);
        end.feed(&[frame(SETTINGS, 0, 0, b""), settings_ack()].concat());
        end.request("GET", "", true);
        end.request("HEAD", "", true);
        end.request("POST", "Content-Length: 500\r\n", false);
        end.start_over();
        end
    }

    /// Forgets what was seen and written.
    pub(crate) fn start_over(&mut self) {
        self.seen.clear();
        self.out.clear();
        self.session.take_abuses();
    }

    /// Bytes of the peer.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if matches!(self.seen.last(), Some(Seen::Failed(_))) {
            return;
        }
        self.input.extend_from_slice(bytes);
        loop {
            let received = self.session.receive(&self.input, &mut self.lines, &self.rules, &mut self.out);
            let (used, event) = match received {
                Ok(received) => received,
                Err(SessionFault { code, .. }) => {
                    self.input.clear();
                    return self.seen.push(Seen::Failed(code));
                }
            };
            if matches!(event, Event::Nothing) {
                assert!(used == 0 && self.input.len() <= 64, "{used} of {}", self.input.len());
                return;
            }
            assert!(used > 0, "{event:?} without a byte");
            self.note(event);
            self.input.drain(..used);
        }
    }

    /// The same in pieces.
    pub(crate) fn feed_in(&mut self, bytes: &[u8], step: usize) {
        for piece in bytes.chunks(step) {
            self.feed(piece);
        }
    }

    fn note(&mut self, event: Event) {
        let seen = match event {
            Event::Nothing | Event::Handled | Event::Priority(_) => return,
            Event::Head { key, is_end, fault } => {
                if !self.keys.contains(&key) {
                    self.keys.push(key);
                }
                Seen::Head { id: key.id, is_end, fault }
            }
            Event::Data { key, range, is_end } => {
                assert!(self.keys.contains(&key));
                return self.note_data(key, range, is_end);
            }
            Event::Trailers { key, has_fields } => {
                let mut trailers = Trailers::default();
                self.lines.copy_trailers(&mut trailers);
                assert_eq!(has_fields, trailers.iter().next().is_some());
                Seen::Trailers { id: key.id, fields: trailers.iter().count() }
            }
            Event::Reset { key, code } => Seen::Reset { id: key.id, code },
            Event::Broken { key, fault } => {
                assert_eq!(key.slot == u16::MAX, !self.keys.contains(&key));
                Seen::Broken { id: key.id, fault }
            }
            Event::Window(key) => Seen::Window(key.map(|key| key.id)),
            Event::Settings => Seen::Settings,
            Event::GoAway { last_id, code } => Seen::GoAway { last_id, code },
            Event::Pong(_) => Seen::Pong,
        };
        self.seen.push(seen);
    }

    fn note_data(&mut self, key: StreamKey, range: std::ops::Range<usize>, is_end: bool) {
        if self.gives_back {
            self.session.give_back(key, range.len() as u32, &self.rules, &mut self.out);
            self.session.give_back_shared(range.len() as u32, &self.rules, &mut self.out);
        }
        let part = &self.input[range];
        if let Some(Seen::Data { id, bytes, is_end: false }) = self.seen.last_mut()
            && *id == key.id
        {
            bytes.extend_from_slice(part);
            if let Some(Seen::Data { is_end: ended, .. }) = self.seen.last_mut() {
                *ended = is_end;
            }
            return;
        }
        self.seen.push(Seen::Data { id: key.id, bytes: part.to_vec(), is_end });
    }

    pub(crate) fn key(&self, id: u32) -> StreamKey {
        *self.keys.iter().find(|key| key.id == id).expect("a stream that is open")
    }

    /// Opens a stream and sends a request.
    pub(crate) fn request(&mut self, method: &str, fields: &str, is_end: bool) -> StreamKey {
        let kind = if method == "HEAD" { RequestKind::Head } else { RequestKind::Other };
        let key = self.session.open(kind, &self.rules).expect("room for a stream");
        self.keys.push(key);
        let (written, spans) = request_lines(method, fields);
        let parts: RequestParts<'_> = spans.parts(&written);
        self.session.send_request(key, parts, is_end, &mut self.out);
        key
    }

    /// Answers with the head of an HTTP/1.1 response.
    pub(crate) fn respond(&mut self, id: u32, head: &str, is_end: bool) {
        let key = self.key(id);
        let (session, out) = (&mut self.session, &mut self.out);
        with_response(head, |head| {
            session.send_response(key, head, &ResponseFields::default(), is_end, out);
        });
    }

    pub(crate) fn send(&mut self, id: u32, data: &[u8], is_end: bool) -> usize {
        let key = self.key(id);
        self.session.send_data(key, data, is_end, &self.rules, &mut self.out)
    }

    pub(crate) fn close(&mut self, id: u32, code: ErrorCode) {
        let key = self.key(id);
        self.session.close(key, code, &mut self.out);
        self.keys.retain(|&other| other != key);
    }

    /// The frames that were written.
    pub(crate) fn written(&self) -> Vec<Frame> {
        frames(&self.out)
    }

    /// How often this abuse was counted since this was last asked.
    pub(crate) fn abuses(&mut self) -> Abuses {
        let counts = self.session.take_abuses().unwrap_or_default();
        counts.into_iter().enumerate().filter(|&(_, count)| count > 0).collect()
    }
}

/// As [`End::abuses`] has it.
pub(crate) fn abuse(kind: Abuse, count: u16) -> Abuses {
    vec![(kind as usize, count)]
}

/// The frames in `bytes`, which end with the last of them.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    if let Some(rest) = bytes.strip_prefix(PREFACE) {
        bytes = rest;
    }
    while !bytes.is_empty() {
        let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let id = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        frames.push((bytes[3], bytes[4], id, bytes[9..9 + len].to_vec()));
        bytes = &bytes[9 + len..];
    }
    frames
}

const SENDER: ClientIdentity<'static> = ClientIdentity {
    peer: b"::1",
    client: b"::1",
    trust: Trust::Untrusted,
    proto: "http",
    request_id: 1,
    tls: None,
};

/// A request in the lines that it is kept in.
pub(crate) fn request_lines(method: &str, fields: &str) -> (Vec<u8>, RequestSpans) {
    let text = format!("{method} /path HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut store = HeadStore::default();
    let Ok(Parsed::Complete { head, .. }) = parse_request(
        text.as_bytes(),
        &mut store,
        &HeadLimits { head_bytes_max: 65_536, ..HeadLimits::default() },
    ) else {
        panic!("{text}")
    };
    let mut written = Vec::new();
    let identity = IdentityPolicy::default();
    let fwd = Forwarding { identity: &identity, sender: SENDER, host: "a", body: head.body, edits: None };
    let spans = write_request(&mut written, &head, &fwd);
    (written, spans)
}

/// The head of a response.
pub(crate) fn with_response(text: &str, see: impl FnOnce(&ResponseHead<'_>)) {
    let mut store = HeadStore::default();
    let limits = HeadLimits { head_bytes_max: 65_536, ..HeadLimits::default() };
    match parse_response(text.as_bytes(), &mut store, &limits, &RequestKind::Other) {
        Ok(Parsed::Complete { head, .. }) => see(&head),
        other => panic!("{text}: {other:?}"),
    }
}
