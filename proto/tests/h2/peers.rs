//! Two programs over a session: a server that echoes, and a client that checks the echo. Both do as a random source says.

use std::collections::BTreeMap;

use sluice_proto::h2::{ErrorCode, StreamKey};

use crate::rig::{End, Seen};

/// Numbers that are the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    pub(crate) fn is_one_of(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// The byte at this place of what is sent on this stream.
pub(crate) fn content(id: u32, at: usize) -> u8 {
    (id as usize * 31 + at * 7 + at / 251) as u8
}

pub(crate) fn body(id: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| content(id, at)).collect()
}

/// A stream of the server.
#[derive(Default)]
struct Echo {
    held: Vec<u8>,
    /// What was sent back and not yet given back.
    owed: u32,
    has_end: bool,
}

/// A server that sends back what comes, and gives back what it has sent, at some time.
#[derive(Default)]
pub(crate) struct EchoServer {
    streams: BTreeMap<u32, Echo>,
    owed_shared: u32,
    pub(crate) served: usize,
}

impl EchoServer {
    pub(crate) fn act(&mut self, end: &mut End, random: &mut Random) {
        for seen in std::mem::take(&mut end.seen) {
            match seen {
                Seen::Head { id, is_end, fault: None } => {
                    end.respond(id, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false);
                    self.streams.insert(id, Echo { has_end: is_end, ..Echo::default() });
                }
                Seen::Data { id, bytes, is_end } => {
                    let echo = self.streams.get_mut(&id).expect("a stream that was opened");
                    assert!(!echo.has_end);
                    echo.held.extend_from_slice(&bytes);
                    echo.has_end = is_end;
                }
                Seen::Reset { id, .. } => {
                    let echo = self.streams.remove(&id).expect("a stream that is open");
                    self.owed_shared += echo.held.len() as u32;
                    end.close(id, ErrorCode::CANCEL);
                }
                Seen::Window(_) | Seen::Settings | Seen::GoAway { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.echo(end, id, random);
        }
        if random.is_one_of(3) {
            end.session.give_back_shared(self.owed_shared, &end.rules, &mut end.out);
            self.owed_shared = 0;
        }
    }

    fn echo(&mut self, end: &mut End, id: u32, random: &mut Random) {
        let echo = self.streams.get_mut(&id).expect("a stream that is open");
        let whole = echo.held.len();
        let len = if random.is_one_of(2) { whole } else { random.below(whole + 1) };
        let sent = end.send(id, &echo.held[..len], echo.has_end && len == whole);
        echo.held.drain(..sent);
        echo.owed += sent as u32;
        self.owed_shared += sent as u32;
        if random.is_one_of(2) {
            end.session.give_back(end.key(id), echo.owed, &end.rules, &mut end.out);
            echo.owed = 0;
        }
        if end.session.is_sent(end.key(id)) {
            self.served += 1;
            self.streams.remove(&id);
            end.close(id, ErrorCode::NO_ERROR);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }
}

/// A request of the client.
struct Request {
    len: usize,
    sent: usize,
    received: Vec<u8>,
    owed: u32,
    is_cancelled_at: Option<usize>,
}

/// A client that sends bodies and wants them back.
pub(crate) struct Client {
    left: usize,
    len_max: usize,
    streams: BTreeMap<u32, Request>,
    owed_shared: u32,
    pub(crate) echoed: usize,
    pub(crate) cancelled: usize,
}

impl Client {
    /// One that sends so many requests.
    pub(crate) fn new(requests: usize, len_max: usize) -> Self {
        Self { left: requests, len_max, streams: BTreeMap::new(), owed_shared: 0, echoed: 0, cancelled: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.streams.is_empty()
    }

    pub(crate) fn act(&mut self, end: &mut End, random: &mut Random) {
        for seen in std::mem::take(&mut end.seen) {
            self.see(end, seen);
        }
        while self.left > 0 && end.session.openable(&end.rules) > 0 && !random.is_one_of(5) {
            self.open(end, random);
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.send(end, id, random);
        }
        if random.is_one_of(3) {
            end.session.give_back_shared(self.owed_shared, &end.rules, &mut end.out);
            self.owed_shared = 0;
        }
    }

    fn open(&mut self, end: &mut End, random: &mut Random) {
        let len = random.below(self.len_max);
        let is_cancelled_at = random.is_one_of(8).then(|| random.below(len + 1));
        let key: StreamKey = end.request("POST", "Transfer-Encoding: chunked\r\n", len == 0);
        let request = Request { len, sent: 0, received: Vec::new(), owed: 0, is_cancelled_at };
        self.streams.insert(key.id, request);
        self.left -= 1;
    }

    fn see(&mut self, end: &mut End, seen: Seen) {
        match seen {
            Seen::Head { id, is_end, fault: None } => {
                assert!(self.streams.contains_key(&id));
                if is_end {
                    self.finish(end, id);
                }
            }
            Seen::Data { id, bytes, is_end } => {
                let request = self.streams.get_mut(&id).expect("a stream that is open");
                request.owed += bytes.len() as u32;
                self.owed_shared += bytes.len() as u32;
                request.received.extend_from_slice(&bytes);
                assert!(request.received.len() <= request.sent);
                if is_end {
                    self.finish(end, id);
                }
            }
            Seen::Trailers { id, .. } => self.finish(end, id),
            // The server still works on streams that were cancelled: the request is sent again later.
            Seen::Reset { id, code: ErrorCode::REFUSED_STREAM } => {
                let request = self.streams.remove(&id).expect("a stream that is open");
                assert!(request.received.is_empty());
                end.close(id, ErrorCode::CANCEL);
                self.left += 1;
            }
            Seen::Window(_) | Seen::Settings | Seen::GoAway { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, end: &mut End, id: u32) {
        let request = self.streams.remove(&id).expect("a stream that is open");
        assert!(end.session.is_sent(end.key(id)));
        assert!(request.received == body(id, request.len), "stream {id} of {} bytes", request.len);
        self.echoed += 1;
        end.close(id, ErrorCode::NO_ERROR);
    }

    fn send(&mut self, end: &mut End, id: u32, random: &mut Random) {
        let request = self.streams.get_mut(&id).expect("a stream that is open");
        if random.is_one_of(2) {
            end.session.give_back(end.key(id), request.owed, &end.rules, &mut end.out);
            request.owed = 0;
        }
        if request.is_cancelled_at.is_some_and(|at| request.sent >= at) {
            end.close(id, ErrorCode::CANCEL);
            self.streams.remove(&id);
            self.cancelled += 1;
            return;
        }
        let left = request.len - request.sent;
        if left > 0 {
            let len = random.below(left) + 1;
            let part: Vec<u8> = (request.sent..request.sent + len).map(|at| content(id, at)).collect();
            request.sent += end.send(id, &part, len == left);
        }
    }
}
