//! HTTP/2 as a client speaks it: many requests at once on one connection. Bytes in, answers out; no sockets.
//!
//! The protocol machine is the proxy's own (`sluice_proto::h2`), as a client: whether it keeps to the RFC is tested elsewhere, with
//! other implementations. It allows its server as much as h2load does, so that windows of its own are not what is measured.

use std::time::{Duration, Instant};

use sluice_proto::h1::Scheme;
use sluice_proto::h2::{ErrorCode, Event, HeadLines, Role, Rules, Session, StreamKey};
use sluice_proto::{HeadLimits, RequestKind};
use sluice_sys::Buf;

use crate::fault::Fault;
use crate::http::prepared::Prepared;
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
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: u32,
    /// Its number among the requests of the lane.
    number: usize,
    began: Instant,
    /// 0 until its answer begins.
    status: u16,
    /// Bytes of its body.
    sent: usize,
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
    pub(crate) fn new(is_tls: bool) -> Client {
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
        }
    }

    /// Requests under way.
    pub(crate) fn streams(&self) -> u64 {
        self.machine.streams() as u64
    }

    /// Requests that were begun on this connection.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether the server takes another request now.
    pub(crate) fn has_room(&self) -> bool {
        self.machine.openable(&RULES) > 0
    }

    /// Whether the server takes no further requests at all.
    pub(crate) fn is_going_away(&self) -> bool {
        self.machine.is_going_away()
    }

    /// Begins a request; false if the server takes none.
    pub(crate) fn begin(&mut self, requests: &[Prepared], number: usize, began: Instant) -> bool {
        let request = &requests[number];
        let kind = if request.is_head { RequestKind::Head } else { RequestKind::Other };
        let Some(key) = self.machine.open(kind, &RULES) else { return false };
        let out = self.out.get_or_insert_with(Buf::small);
        self.machine.send_request(key, request.parts(), request.body().is_empty(), out);
        let slot = usize::from(key.slot);
        if self.open.len() <= slot {
            self.open.resize(slot + 1, None);
        }
        self.open[slot] = Some(Open { id: key.id, number, began, status: 0, sent: 0 });
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
            at += used;
            if matches!(event, Event::Nothing) {
                return Ok(at);
            }
            self.handle(event, requests);
        }
    }

    fn handle(&mut self, event: Event, requests: &[Prepared]) {
        match event {
            Event::Head { key, fault: Some(_), .. } | Event::Broken { key, .. } => {
                self.end(key, Some(Broken::Fault(Fault::Malformed)));
            }
            Event::Head { key, is_end, fault: None } => {
                let head = self.lines.response();
                let (status, is_interim) = (head.status, head.is_interim());
                if let Some(open) = self.open_mut(key).filter(|_| !is_interim) {
                    open.status = status;
                }
                if is_end {
                    self.end(key, None);
                }
            }
            Event::Data { key, range, is_end } => {
                let bytes = range.len() as u32;
                let out = self.out.get_or_insert_with(Buf::small);
                self.machine.give_back(key, bytes, &RULES, out);
                self.machine.give_back_shared(bytes, &RULES, out);
                if is_end {
                    self.end(key, None);
                }
            }
            Event::Trailers { key, .. } => self.end(key, None),
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
            Event::Nothing | Event::Handled | Event::Pong(_) => {}
        }
    }

    fn open_mut(&mut self, key: StreamKey) -> Option<&mut Open> {
        let open = self.open.get_mut(usize::from(key.slot))?;
        open.as_mut().filter(|open| open.id == key.id)
    }

    fn for_each_open(&mut self, mut work: impl FnMut(&mut Client, StreamKey)) {
        for slot in 0..self.open.len() {
            if let Some(open) = self.open[slot] {
                work(self, StreamKey { slot: slot as u16, id: open.id });
            }
        }
    }

    /// Sends what the windows let through of a body.
    fn send_body(&mut self, key: StreamKey, requests: &[Prepared]) {
        let Some(&mut Open { number, sent, .. }) = self.open_mut(key) else { return };
        let rest = &requests[number].body()[sent..];
        if rest.is_empty() {
            return;
        }
        let out = self.out.get_or_insert_with(Buf::small);
        let more = self.machine.send_data(key, rest, true, &RULES, out);
        if let Some(open) = self.open_mut(key) {
            open.sent += more;
        }
    }

    /// A request is over; well, unless it broke.
    fn end(&mut self, key: StreamKey, broken: Option<Broken>) {
        let Some(&mut open) = self.open_mut(key) else { return };
        self.open[usize::from(key.slot)] = None;
        let out = self.out.get_or_insert_with(Buf::small);
        // Answered before all of it was sent.
        self.machine.close(key, ErrorCode::CANCEL, out);
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
            if client.open_mut(key).is_some_and(|open| open.began.elapsed() > timeout) {
                client.end(key, Some(Broken::Fault(Fault::Timeout)));
            }
        });
    }
}

#[cfg(test)]
mod tests {
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
        let mut client = Client::new(false);
        for number in 0..count {
            assert!(client.begin(requests, number % requests.len(), Instant::now()));
        }
        let mut out = Vec::new();
        let machine = Session::new(Role::Server, Scheme::Http, &RULES, &mut out);
        let mut server = Server { machine, lines: HeadLines::new() };
        let keys = server.take(&client.take_out().expect("requests"), &mut out);
        (client, server, keys, out)
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
        let mut client = Client::new(false);
        assert_eq!(client.take(b"HTTP/1.1 400 Bad Request\r\n\r\n", &[]), Err(Fault::Malformed));
    }
}
