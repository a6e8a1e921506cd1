//! HTTP/2 as a client speaks it: many requests at once on one connection. Bytes in, answers out; no sockets. Where the requests open
//! a way for messages, their streams stay open, and what is over is a message with its echo, as if it were a request.
//!
//! The protocol machine is the proxy's own (`sluice_proto::h2`), as a client: whether it keeps to the RFC is tested elsewhere, with
//! other implementations. It allows its server as much as h2load does, so that windows of its own are not what is measured.

use std::time::{Duration, Instant};

use sluice_proto::fields::Field;
use sluice_proto::h1::Scheme;
use sluice_proto::h2::{ErrorCode, Event, HeadLines, Role, Rules, Session, StreamKey};
use sluice_proto::{HeadLimits, RequestKind, Trailers};
use sluice_sys::Buf;

use crate::fault::Fault;
use crate::http::prepared::Prepared;
use crate::messages::{EchoReader, Framing};
use crate::wire::Broken;

/// The largest window is 2^31 - 1.
const WINDOW: u32 = (1 << 30) - 1;

/// More streams than any server takes.
const STREAMS_MAX: u32 = 16_384;

const RULES: Rules = Rules {
    head: HeadLimits { request_line_bytes_max: 8_192, head_bytes_max: 65_536, fields_max: 256 },
    streams_max: STREAMS_MAX,
    stream_window: WINDOW,
    stream_window_max: WINDOW,
    connection_window: WINDOW,
    frame_bytes_max: 16_384,
    decoder_table_bytes: 4_096,
    encoder_table_bytes: 4_096,
    write_bytes_max: 16_384,
    coalesced_bytes_max: 40 * 1024,
    connect_protocol: false,
};

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    machine: Session,
    lines: HeadLines,
    /// What is to be sent.
    out: Option<Buf>,
    /// Requests under way, by the place that the machine gives them.
    open: Vec<Option<Open>>,
    /// The beginning of a frame whose rest has not come.
    carry: Vec<u8>,
    done: Vec<Done>,
    /// Requests that were begun.
    begun: u64,
    /// What streams carry that stay open.
    framing: Option<Framing>,
    /// Those of them that wait for their next message.
    idle: Vec<StreamKey>,
}

/// A request under way, or a stream that stays open.
#[derive(Clone, Debug)]
struct Open {
    id: u32,
    /// Its number among the requests of the lane.
    number: usize,
    began: Instant,
    /// 0 until its answer begins.
    status: u16,
    /// Bytes of its body, or of its message.
    sent: usize,
    /// Reads echoes; empty for a request.
    echo: Option<Box<EchoReader>>,
    /// No message is under way.
    is_idle: bool,
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) began: Instant,
    /// The status.
    pub(crate) outcome: Result<u16, Broken>,
}

impl Client {
    /// Begins a connection: its preface waits to be sent.
    pub(crate) fn new(is_tls: bool, framing: Option<Framing>) -> Client {
        let mut out = Buf::small();
        let scheme = if is_tls { Scheme::Https } else { Scheme::Http };
        Client {
            machine: Session::new(Role::Client, scheme, &RULES, &mut out),
            lines: HeadLines::new(),
            out: Some(out),
            open: Vec::new(),
            carry: Vec::new(),
            done: Vec::new(),
            begun: 0,
            framing,
            idle: Vec::new(),
        }
    }

    /// Requests under way.
    pub(crate) fn streams(&self) -> u64 {
        (self.machine.streams() - self.idle.len()) as u64
    }

    /// Whether enough is known of the server to ask it for what is asked for.
    pub(crate) fn knows_server(&self) -> bool {
        self.framing != Some(Framing::WebSocket) || self.machine.is_settled()
    }

    /// Whether it takes that, as far as is known.
    //= https://www.rfc-editor.org/rfc/rfc8441#section-3
    pub(crate) fn is_willing(&self) -> bool {
        self.framing != Some(Framing::WebSocket) || self.machine.takes_connect_protocol()
    }

    /// Requests that were begun on this connection.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether the server takes another request now.
    pub(crate) fn has_room(&self) -> bool {
        !self.idle.is_empty() || self.machine.openable(&RULES) > 0
    }

    /// Whether the server takes no further requests at all.
    pub(crate) fn is_going_away(&self) -> bool {
        self.machine.is_going_away()
    }

    /// Begins a request; false if the server takes none.
    pub(crate) fn begin(&mut self, requests: &[Prepared], number: usize, began: Instant) -> bool {
        if let Some(key) = self.idle.pop() {
            let open = self.open_mut(key).expect("idle streams are open");
            (open.number, open.began, open.sent, open.is_idle) = (number, began, 0, false);
            self.begun += 1;
            self.send_body(key, requests);
            return true;
        }
        let request = &requests[number];
        let kind = if request.is_head { RequestKind::Head } else { RequestKind::Other };
        let Some(key) = self.machine.open(kind, &RULES) else { return false };
        let out = self.out.get_or_insert_with(Buf::small);
        self.machine.send_request(key, request.parts(), request.body().is_empty(), out);
        let slot = usize::from(key.slot);
        if self.open.len() <= slot {
            self.open.resize(slot + 1, None);
        }
        let echo = self.framing.map(|_| Box::new(EchoReader::new()));
        self.open[slot] = Some(Open { id: key.id, number, began, status: 0, sent: 0, echo, is_idle: false });
        self.begun += 1;
        self.send_body(key, requests);
        true
    }

    /// What is to be sent, if anything.
    pub(crate) fn take_out(&mut self) -> Option<Buf> {
        self.out.take().filter(|out| !out.is_empty())
    }

    /// Requests that are over.
    pub(crate) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// Takes received bytes.
    pub(crate) fn take(&mut self, wire: &[u8], requests: &[Prepared]) -> Result<(), Fault> {
        if self.carry.is_empty() {
            let used = self.read(wire, requests)?;
            self.carry.extend_from_slice(&wire[used..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(wire);
        let used = self.read(&carry, requests)?;
        carry.drain(..used);
        self.carry = carry;
        Ok(())
    }

    fn read(&mut self, wire: &[u8], requests: &[Prepared]) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let out = self.out.get_or_insert_with(Buf::small);
            let received = self.machine.receive(&wire[at..], &mut self.lines, &RULES, out);
            let (used, event) = received.map_err(|_| Fault::Malformed)?;
            let input = &wire[at..];
            at += used;
            if matches!(event, Event::Nothing) {
                return Ok(at);
            }
            self.handle(event, input, requests);
        }
    }

    /// Takes an event; `input` is what its range is of.
    fn handle(&mut self, event: Event, input: &[u8], requests: &[Prepared]) {
        match event {
            Event::Head { key, fault: Some(_), .. } | Event::Broken { key, .. } => {
                self.end(key, Some(Broken::Fault(Fault::Malformed)));
            }
            Event::Head { key, is_end, fault: None } => {
                let head = self.lines.response();
                let (status, is_interim) = (head.status, head.is_interim());
                let call = call_status(head.fields());
                if let Some(open) = self.open_mut(key).filter(|_| !is_interim) {
                    open.status = status;
                }
                let is_refused = self.framing.is_some() && !is_interim && !(200..300).contains(&status);
                match () {
                    () if is_refused => self.end(key, Some(Broken::Fault(Fault::Status(status)))),
                    () if is_end => self.end_of_answer(key, call),
                    // Only now may messages of WebSocket be sent.
                    () => self.send_body(key, requests),
                }
            }
            Event::Data { key, range, is_end } => {
                let bytes = range.len() as u32;
                let out = self.out.get_or_insert_with(Buf::small);
                self.machine.give_back(key, bytes, &RULES, out);
                self.machine.give_back_shared(bytes, &RULES, out);
                if self.framing.is_some() {
                    self.take_echo(key, &input[range], requests);
                }
                if is_end {
                    self.end_of_answer(key, None);
                }
            }
            Event::Trailers { key, .. } => {
                let mut trailers = Trailers::default();
                self.lines.copy_trailers(&mut trailers);
                let call = call_status(trailers.iter());
                self.end_of_answer(key, call);
            }
            Event::Reset { key, code: ErrorCode::REFUSED_STREAM } => self.end(key, Some(Broken::Stale)),
            Event::Reset { key, code } => {
                self.end(key, Some(Broken::Fault(Fault::StreamReset(code.0))));
            }
            Event::Window(Some(key)) => self.send_body(key, requests),
            Event::Window(None) | Event::Settings => self.for_each_open(|client, key| {
                client.send_body(key, requests);
            }),
            // What the server has not begun may be sent again.
            Event::GoAway { last_id, .. } => self.for_each_open(|client, key| {
                if key.id > last_id {
                    client.end(key, Some(Broken::Stale));
                }
            }),
            Event::Nothing | Event::Handled | Event::Priority(_) | Event::Pong(_) => {}
        }
    }

    fn open_mut(&mut self, key: StreamKey) -> Option<&mut Open> {
        let open = self.open.get_mut(usize::from(key.slot))?;
        open.as_mut().filter(|open| open.id == key.id)
    }

    fn for_each_open(&mut self, mut work: impl FnMut(&mut Client, StreamKey)) {
        for slot in 0..self.open.len() {
            if let Some(id) = self.open[slot].as_ref().map(|open| open.id) {
                work(self, StreamKey { slot: slot as u16, id });
            }
        }
    }

    /// Sends what the windows let through of a body.
    fn send_body(&mut self, key: StreamKey, requests: &[Prepared]) {
        let framing = self.framing;
        let Some(&mut Open { number, sent, status, .. }) = self.open_mut(key) else { return };
        let rest = &requests[number].body()[sent..];
        let is_too_early = framing == Some(Framing::WebSocket) && status == 0;
        if rest.is_empty() || is_too_early {
            return;
        }
        let out = self.out.get_or_insert_with(Buf::small);
        let more = self.machine.send_data(key, rest, framing.is_none(), &RULES, out);
        if let Some(open) = self.open_mut(key) {
            open.sent += more;
        }
    }

    /// Takes a part of an echo.
    fn take_echo(&mut self, key: StreamKey, data: &[u8], requests: &[Prepared]) {
        let Some(open) = self.open_mut(key) else { return };
        let (Some(echo), Some(message)) = (&mut open.echo, &requests[open.number].message) else { return };
        let read = echo.read(data, message);
        let pongs = echo.take_pongs();
        // Behind all of the message, or not at all: a server that wants one in the midst of it has to ask again.
        let is_sent = open.sent == requests[open.number].body().len();
        match read {
            Err(fault) => return self.end(key, Some(Broken::Fault(fault))),
            // Nothing was sent that this could be the echo of.
            Ok(true) if open.is_idle => {
                open.is_idle = false;
                self.idle.retain(|idle| *idle != key);
                return self.end(key, Some(Broken::Fault(Fault::Malformed)));
            }
            Ok(true) => {
                let (began, status) = (open.began, open.status);
                open.is_idle = true;
                self.idle.push(key);
                self.done.push(Done { began, outcome: Ok(status) });
            }
            Ok(false) => {}
        }
        if let Some(pongs) = pongs.filter(|pongs| is_sent && self.machine.sendable(key) >= pongs.len()) {
            let out = self.out.get_or_insert_with(Buf::small);
            self.machine.send_data(key, &pongs, false, &RULES, out);
        }
    }

    /// The server has ended its side. That of a stream that should stay open is a failure, with the status of a call of gRPC.
    fn end_of_answer(&mut self, key: StreamKey, call: Option<u16>) {
        let fault = call.map_or(Fault::Closed, Fault::Grpc);
        self.end(key, self.framing.map(|_| Broken::Fault(fault)));
    }

    /// A request is over; well, unless it broke.
    fn end(&mut self, key: StreamKey, broken: Option<Broken>) {
        if self.open_mut(key).is_none() {
            return;
        }
        let Some(open) = self.open[usize::from(key.slot)].take() else { return };
        let out = self.out.get_or_insert_with(Buf::small);
        // Answered before all of it was sent.
        self.machine.close(key, ErrorCode::CANCEL, out);
        if open.is_idle {
            // Nothing was under way on it: the next message opens another stream.
            self.idle.retain(|idle| *idle != key);
            return;
        }
        let outcome = match broken {
            Some(broken) => Err(broken),
            None if open.status == 0 => Err(Broken::Fault(Fault::Malformed)),
            None => Ok(open.status),
        };
        self.done.push(Done { began: open.began, outcome });
    }

    /// The connection is over: so are the requests under way.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.for_each_open(|client, key| client.end(key, Some(Broken::Fault(fault))));
    }

    /// Gives up what has taken too long.
    pub(crate) fn expire(&mut self, timeout: Duration) {
        self.for_each_open(|client, key| {
            let is_late = |open: &mut Open| !open.is_idle && open.began.elapsed() > timeout;
            if client.open_mut(key).is_some_and(is_late) {
                client.end(key, Some(Broken::Fault(Fault::Timeout)));
            }
        });
    }
}

/// The status of a call of gRPC, if it is in these fields.
fn call_status<'a>(mut fields: impl Iterator<Item = Field<'a>>) -> Option<u16> {
    let field = fields.find(|field| field.name.eq_ignore_ascii_case("grpc-status"))?;
    std::str::from_utf8(field.value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use sluice_proto::h1::{HeadStore, Parsed, parse_response};
    use sluice_proto::h2::ResponseFields;

    use super::*;

    /// A server that answers with what a test gives it.
    struct Server {
        machine: Session,
        lines: HeadLines,
    }

    impl Server {
        /// The streams whose requests have come.
        fn take(&mut self, mut wire: &[u8], out: &mut Vec<u8>) -> Vec<StreamKey> {
            let mut keys = Vec::new();
            loop {
                let received = self.machine.receive(wire, &mut self.lines, &RULES, out);
                match received.expect("our client keeps to the rules") {
                    (_, Event::Nothing) => return keys,
                    (used, event) => {
                        wire = &wire[used..];
                        match event {
                            Event::Head { key, is_end: true, .. } | Event::Data { key, is_end: true, .. } => {
                                keys.push(key);
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    fn pair(requests: &[Prepared], count: usize) -> (Client, Server, Vec<StreamKey>, Vec<u8>) {
        let mut client = Client::new(false, None);
        for number in 0..count {
            assert!(client.begin(requests, number % requests.len(), Instant::now()));
        }
        let mut out = Vec::new();
        let machine = Session::new(Role::Server, Scheme::Http, &RULES, &mut out);
        let mut server = Server { machine, lines: HeadLines::new() };
        let keys = server.take(&client.take_out().expect("requests"), &mut out);
        (client, server, keys, out)
    }

    /// What is in the lines of a response.
    fn respond(server: &mut Server, key: StreamKey, head: &[u8], out: &mut Vec<u8>) {
        let mut store = HeadStore::default();
        let parsed = parse_response(head, &mut store, &RULES.head, &RequestKind::Other);
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("a head") };
        server.machine.send_response(key, &head, &ResponseFields::default(), false, out);
    }

    #[test]
    fn messages_wait_until_their_websocket_is_open_and_then_for_each_other() {
        let rules = Rules { connect_protocol: true, ..RULES };
        let requests = vec![Prepared::opening(Framing::WebSocket, "/", "a", &[], 3)];
        let mut out = Vec::new();
        let machine = Session::new(Role::Server, Scheme::Http, &rules, &mut out);
        let mut server = Server { machine, lines: HeadLines::new() };
        let mut client = Client::new(false, Some(Framing::WebSocket));
        assert!(!client.knows_server());
        client.take(&out, &requests).expect("frames");
        assert!(client.knows_server() && client.is_willing());

        assert!(client.begin(&requests, 0, Instant::now()));
        let mut received = |client: &mut Client, out: &mut Vec<u8>| {
            let wire = client.take_out().map(|out| out.to_vec()).unwrap_or_default();
            let (mut at, mut head, mut bytes) = (0, None, 0);
            loop {
                let received = server.machine.receive(&wire[at..], &mut server.lines, &rules, out);
                match received.expect("our client keeps to the rules") {
                    (_, Event::Nothing) => break,
                    (used, event) => {
                        at += used;
                        match event {
                            Event::Head { key, is_end: false, fault: None } => head = Some(key),
                            Event::Data { range, is_end: false, .. } => bytes += range.len(),
                            _ => {}
                        }
                    }
                }
            }
            if let Some(key) = head {
                assert!(server.lines.request().wants_upgrade);
                respond(&mut server, key, b"HTTP/1.1 200 OK\r\n\r\n", out);
            }
            (head, bytes)
        };
        out.clear();
        let (key, bytes) = received(&mut client, &mut out);
        assert_eq!(bytes, 0, "nothing is sent before the WebSocket is open");
        client.take(&out, &requests).expect("frames");
        out.clear();
        assert_eq!(received(&mut client, &mut out), (None, requests[0].body().len()));
        assert_eq!((client.streams(), client.take_done().len()), (1, 0));

        server.machine.send_data(key.expect("a request"), b"\x82\x03abc", false, &rules, &mut out);
        client.take(&out, &requests).expect("frames");
        assert_eq!(client.take_done()[0].outcome, Ok(200));
        assert_eq!((client.streams(), client.machine.streams(), client.begun()), (0, 1, 1));
        assert!(client.begin(&requests, 0, Instant::now()));
        assert_eq!((client.streams(), client.machine.streams(), client.begun()), (1, 1, 2));
        // An end between messages is none of theirs; one in the midst of one is.
        client.fail(Fault::Closed);
        assert_eq!(client.take_done()[0].outcome, Err(Broken::Fault(Fault::Closed)));
        client.fail(Fault::Closed);
        assert!(client.take_done().is_empty());
    }

    #[test]
    fn a_server_that_does_not_offer_websocket_is_not_asked() {
        let mut out = Vec::new();
        Session::new(Role::Server, Scheme::Http, &RULES, &mut out);
        let mut client = Client::new(false, Some(Framing::WebSocket));
        client.take(&out, &[]).expect("frames");
        assert!(client.knows_server() && !client.is_willing());
        let client = Client::new(false, Some(Framing::Grpc));
        assert!(client.knows_server() && client.is_willing());
    }

    fn requests() -> Vec<Prepared> {
        vec![Prepared::new("GET", "/", "a", &[], 0), Prepared::new("POST", "/b", "a", &["X-A: 1"], 20)]
    }

    #[test]
    fn answers_are_those_of_their_requests_whatever_the_split() {
        let requests = requests();
        for split in 1..40 {
            let (mut client, mut server, keys, mut out) = pair(&requests, 4);
            assert_eq!((keys.len(), client.streams(), client.begun()), (4, 4, 4));
            for key in keys.iter().rev() {
                server.machine.close(*key, ErrorCode(0xff), &mut out);
            }
            for piece in out.chunks(split) {
                client.take(piece, &requests).expect("frames");
            }
            let done = client.take_done();
            let is_reset = |done: &Done| done.outcome == Err(Broken::Fault(Fault::StreamReset(0xff)));
            assert!(done.len() == 4 && done.iter().all(is_reset), "{done:?}");
            assert_eq!(client.streams(), 0);
        }
    }

    #[test]
    fn what_a_server_that_leaves_has_not_begun_is_stale() {
        let requests = requests();
        let (mut client, mut server, keys, mut out) = pair(&requests, 2);
        server.machine.go_away(keys[0].id, ErrorCode::NO_ERROR, &mut out);
        client.take(&out, &requests).expect("frames");
        let done = client.take_done();
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].outcome, Err(Broken::Stale));
        assert!(client.is_going_away() && !client.has_room() && client.streams() == 1);
        client.fail(Fault::Closed);
        assert_eq!(client.take_done()[0].outcome, Err(Broken::Fault(Fault::Closed)));
    }

    #[test]
    fn a_server_of_http_1_is_malformed() {
        let mut client = Client::new(false, None);
        assert_eq!(client.take(b"HTTP/1.1 400 Bad Request\r\n\r\n", &[]), Err(Fault::Malformed));
    }
}
