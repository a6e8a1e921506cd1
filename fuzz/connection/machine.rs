//! An exchange after the other as `engine/src/exchange/` has them, with bytes in place of sockets.
//!
//! Owns the order in which the pieces of `sluice_proto` are put to use; every decision is theirs. Bytes arrive by
//! [`Machine::client_says`] and [`Machine::server_says`], in any pieces and any order.

use sluice_proto::h1::{
    AnswerBody, BodyDecoder, BodyEvent, CHUNK_END, ClientIdentity, ConnectionField, Forwarding, Framing,
    HeadStore, IdentityPolicy, Parsed, ResponseForwarding, Reuse, Trust, parse_request, parse_response,
    write_answer, write_chunk_size, write_last_chunk, write_request, write_response, write_upgrade_request,
};
use sluice_proto::limits::INTERIM_ANSWERS_MAX;
use sluice_proto::upgrade::{WEBSOCKET, check_offer, is_taken_up};
use sluice_proto::{
    BodyLength, ChunkLimits, Fault, HeadLimits, Method, RequestHead, RequestKind, ResponseHead, Trailers,
    Version,
};

/// Small, so that the fuzzer finds the limits.
pub const HEAD: HeadLimits = HeadLimits { request_line_bytes_max: 80, head_bytes_max: 300, fields_max: 8 };
const CHUNKS: ChunkLimits =
    ChunkLimits { extension_bytes_max: 16, trailer_bytes_max: 64, trailer_fields_max: 3 };

/// How a connection with a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After everything was sent.
    Closed,
    /// What was sent is incomplete by its own framing, or nothing was sent.
    Dropped,
    /// By a reset, since nothing else shows that what was sent is incomplete.
    Reset,
    /// It is a tunnel from now on.
    Tunnel,
}

/// Bytes that arrived and were not used.
#[derive(Default)]
struct Inflow {
    unread: Vec<u8>,
    has_ended: bool,
}

/// A connection to a server.
pub struct Server {
    /// What was sent on it.
    pub sent: Vec<u8>,
    from: Inflow,
    is_open: bool,
    /// What went through the tunnel to it.
    pub tunnelled: Vec<u8>,
}

/// A client's connection and the servers behind it.
pub struct Machine {
    client: Inflow,
    pub to_client: Vec<u8>,
    /// How many bytes the client has sent.
    pub client_bytes: usize,
    pub end: Option<End>,
    pub servers: Vec<Server>,
    /// Which of the heads that were read led to a request sent to a server.
    pub forwarded: Vec<usize>,
    /// The kind of each head that was read.
    pub kinds: Vec<RequestKind>,
    /// Which of them asked for a tunnel.
    pub offers: Vec<usize>,
    /// A server sent more than it was asked for.
    pub has_excess: bool,
    /// The connection that waits for the next request.
    idle: Option<usize>,
    exchange: Option<Exchange>,
    store: HeadStore,
}

struct Exchange {
    server: usize,
    plan: Plan,
    upload: Upload,
    answer: Answer,
}

#[derive(Clone, Copy)]
struct Plan {
    kind: RequestKind,
    version: Version,
    body: BodyLength,
    is_persistent: bool,
    reuse: Reuse,
    trailers: sluice_proto::TrailerRule,
    switch: Switch,
}

/// What a server was offered to change to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    None,
    Protocol(&'static str),
    Connect,
}

/// The protocols that may be changed to.
const PROTOCOLS: [&str; 3] = ["websocket", "x", "x/1"];

enum Upload {
    Running(BodyDecoder),
    Done,
}

enum Answer {
    Head { interims: u8 },
    Body { decoder: BodyDecoder, reply: Passed },
}

/// How a final response is passed on.
#[derive(Clone, Copy)]
struct Passed {
    framing: Framing,
    is_downstream_persistent: bool,
    is_upstream_persistent: bool,
}

/// What a response head is.
enum Read {
    Interim,
    Upgrade,
    Final(Passed, BodyDecoder),
}

/// What a step came to.
enum Step {
    /// Something was done.
    Progress,
    /// More bytes are needed.
    Wait,
}

impl Machine {
    pub fn new() -> Self {
        Self {
            client: Inflow::default(),
            to_client: Vec::new(),
            end: None,
            servers: Vec::new(),
            forwarded: Vec::new(),
            kinds: Vec::new(),
            client_bytes: 0,
            offers: Vec::new(),
            has_excess: false,
            idle: None,
            exchange: None,
            store: HeadStore::default(),
        }
    }

    pub fn client_says(&mut self, bytes: &[u8]) {
        self.client_bytes += bytes.len();
        if let (Some(End::Tunnel), Some(server)) = (self.end, self.servers.last_mut()) {
            server.tunnelled.extend_from_slice(bytes);
            return;
        }
        self.client.unread.extend_from_slice(bytes);
        self.run();
    }

    pub fn client_ends(&mut self) {
        self.client.has_ended = true;
        self.run();
    }

    /// True while a server owes an answer.
    pub fn awaits_server(&self) -> bool {
        self.exchange.is_some()
    }

    /// The server that is asked, or that waits for the next request, says something.
    pub fn server_says(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(exchange) = &self.exchange {
            self.servers[exchange.server].from.unread.extend_from_slice(bytes);
            self.run();
        } else if let Some(idle) = self.idle.take() {
            // An idle connection has nothing to say: it is not used again.
            self.has_excess = true;
            self.servers[idle].is_open = false;
        }
    }

    pub fn server_ends(&mut self) {
        if let Some(exchange) = &self.exchange {
            self.servers[exchange.server].from.has_ended = true;
            self.run();
        } else if let Some(idle) = self.idle.take() {
            self.servers[idle].is_open = false;
        }
    }

    fn run(&mut self) {
        while self.end.is_none() {
            let step = match self.exchange.take() {
                None => self.read_request(),
                Some(exchange) => self.go_on(exchange),
            };
            if let Step::Wait = step {
                return;
            }
        }
    }

    fn finish(&mut self, end: End) -> Step {
        self.end = Some(end);
        if let Some(exchange) = self.exchange.take() {
            self.servers[exchange.server].is_open = false;
        }
        Step::Progress
    }

    fn answer(&mut self, status: u16, connection: ConnectionField, is_head_only: bool) -> Step {
        write_answer(
            &mut self.to_client,
            status,
            &[],
            "now",
            AnswerBody::text("no\n"),
            connection,
            is_head_only,
        );
        if connection == ConnectionField::Close { self.finish(End::Closed) } else { Step::Progress }
    }

    fn refuse(&mut self, fault: Fault, kind: RequestKind) -> Step {
        assert_ne!(fault, Fault::Malformed, "a fault without a name");
        self.answer(fault.status(), ConnectionField::Close, kind == RequestKind::Head)
    }

    fn read_request(&mut self) -> Step {
        let mut wire = Vec::new();
        let (plan, used) = match parse_request(&self.client.unread, &mut self.store, &HEAD) {
            Err(fault) => return self.refuse(fault, RequestKind::Other),
            Ok(Parsed::Partial) if self.client.has_ended => return self.finish(End::Dropped),
            Ok(Parsed::Partial) => return Step::Wait,
            Ok(Parsed::Complete { head, bytes }) => {
                self.kinds.push(RequestKind::from(head.method));
                (Plan::new(&head, &mut wire), bytes)
            }
        };
        self.client.unread.drain(..used);
        match plan {
            Err((status, connection, is_head_only)) => self.answer(status, connection, is_head_only),
            Ok(plan) => self.forward(plan, wire),
        }
    }

    /// Sends a request whose head is in `wire`, as far as its body is there.
    fn forward(&mut self, mut plan: Plan, mut wire: Vec<u8>) -> Step {
        if plan.switch != Switch::None {
            self.offers.push(self.kinds.len() - 1);
            plan.is_persistent &= self.client.unread.is_empty();
        }
        let mut decoder =
            BodyDecoder::new(Framing::of_request(plan.body), CHUNKS).with_trailers(plan.trailers);
        let unread = &mut self.client.unread;
        let is_whole = match relay(&mut decoder, unread, &mut wire, plan.body == BodyLength::Streamed) {
            Ok(is_whole) => is_whole,
            // Nothing of it has been sent.
            Err(fault) => return self.refuse(fault, plan.kind),
        };
        let server = self.idle.take().unwrap_or_else(|| {
            self.servers.push(Server {
                sent: Vec::new(),
                from: Inflow::default(),
                is_open: true,
                tunnelled: Vec::new(),
            });
            self.servers.len() - 1
        });
        assert!(
            self.servers[server].is_open && self.servers[server].from.unread.is_empty(),
            "a poisoned connection"
        );
        self.servers[server].sent.append(&mut wire);
        self.forwarded.push(self.kinds.len() - 1);
        let upload = if is_whole { Upload::Done } else { Upload::Running(decoder) };
        self.exchange = Some(Exchange { server, plan, upload, answer: Answer::Head { interims: 0 } });
        Step::Progress
    }

    /// Takes the upload as far as it goes, then the answer.
    fn go_on(&mut self, mut exchange: Exchange) -> Step {
        if let Upload::Running(decoder) = &mut exchange.upload {
            let is_chunked = exchange.plan.body == BodyLength::Streamed;
            let sent = &mut self.servers[exchange.server].sent;
            match relay(decoder, &mut self.client.unread, sent, is_chunked) {
                Ok(true) => exchange.upload = Upload::Done,
                Ok(false) if self.client.has_ended => {
                    assert_eq!(decoder.on_eof(), Err(Fault::CutShort));
                    return self.give_up(exchange, None);
                }
                Ok(false) => {}
                Err(fault) => return self.give_up(exchange, Some(fault)),
            }
        }
        match exchange.answer {
            Answer::Head { interims } => self.read_answer(exchange, interims),
            Answer::Body { .. } => self.relay_answer(exchange),
        }
    }

    /// The request breaks off.
    fn give_up(&mut self, exchange: Exchange, fault: Option<Fault>) -> Step {
        self.servers[exchange.server].is_open = false;
        let is_answering = matches!(exchange.answer, Answer::Body { .. });
        match (is_answering, fault) {
            (false, Some(fault)) => self.refuse(fault, exchange.plan.kind),
            _ => self.finish(End::Dropped),
        }
    }

    /// The answer breaks off before it began: 502.
    fn bad_gateway(&mut self, exchange: &Exchange) -> Step {
        self.servers[exchange.server].is_open = false;
        let is_done = matches!(exchange.upload, Upload::Done);
        let connection = ConnectionField::of(exchange.plan.version, exchange.plan.is_persistent && is_done);
        let step = self.answer(502, connection, exchange.plan.kind == RequestKind::Head);
        let is_over = exchange.plan.switch != Switch::None && !self.client.unread.is_empty();
        if is_over && self.end.is_none() { self.finish(End::Closed) } else { step }
    }

    fn read_answer(&mut self, mut exchange: Exchange, interims: u8) -> Step {
        let plan = exchange.plan;
        let from = &mut self.servers[exchange.server].from;
        let (reply, used) = match parse_response(&from.unread, &mut self.store, &HEAD, &plan.kind) {
            Err(fault) => {
                assert_ne!(fault, Fault::Malformed, "a fault without a name");
                return self.bad_gateway(&exchange);
            }
            Ok(Parsed::Partial) if from.has_ended => return self.bad_gateway(&exchange),
            Ok(Parsed::Partial) => {
                self.exchange = Some(exchange);
                return Step::Wait;
            }
            Ok(Parsed::Complete { head, bytes }) => {
                let is_done = matches!(exchange.upload, Upload::Done);
                if plan.takes_up(&head) {
                    let (version_to, connection) = (plan.version, ConnectionField::Omit);
                    let body = Framing::UntilClose;
                    let forwarding = ResponseForwarding {
                        version_to,
                        body,
                        connection,
                        date: Some("now"),
                        hsts: None,
                        set_cookie: None,
                        content_type: None,
                        edits: None,
                    };
                    write_response(&mut self.to_client, &head, &forwarding);
                    return self.open_tunnel(exchange.server);
                }
                let (reply, forwarding) = if head.is_interim() {
                    let is_wanted = plan.version == Version::Http11 && interims < INTERIM_ANSWERS_MAX;
                    (Read::Interim, is_wanted.then_some((Framing::None, ConnectionField::Omit, None)))
                } else if head.status == 101 {
                    (Read::Upgrade, None)
                } else {
                    let framing = Framing::to_client(head.body, plan.version);
                    let is_persistent = plan.is_persistent && is_done && framing != Framing::UntilClose;
                    let passed = Passed {
                        framing,
                        is_downstream_persistent: is_persistent,
                        // As in the engine: who answers before the body is there may leave it unread.
                        is_upstream_persistent: is_done && plan.reuse == Reuse::Allowed && head.persistent,
                    };
                    let decoder =
                        BodyDecoder::new(Framing::of_response(&head), CHUNKS).with_trailers(head.trailers);
                    let connection = ConnectionField::of(plan.version, is_persistent);
                    (Read::Final(passed, decoder), Some((framing, connection, Some("now"))))
                };
                if let Some((body, connection, date)) = forwarding {
                    let forwarding = ResponseForwarding {
                        version_to: plan.version,
                        body,
                        connection,
                        date,
                        hsts: None,
                        set_cookie: None,
                        content_type: None,
                        edits: None,
                    };
                    write_response(&mut self.to_client, &head, &forwarding);
                }
                (reply, bytes)
            }
        };
        from.unread.drain(..used);
        match reply {
            Read::Upgrade => return self.bad_gateway(&exchange),
            Read::Interim if interims == INTERIM_ANSWERS_MAX => return self.bad_gateway(&exchange),
            Read::Interim => exchange.answer = Answer::Head { interims: interims + 1 },
            Read::Final(reply, decoder) => exchange.answer = Answer::Body { decoder, reply },
        }
        self.exchange = Some(exchange);
        Step::Progress
    }

    /// What the client has sent meanwhile goes to the server.
    fn open_tunnel(&mut self, server: usize) -> Step {
        let server = &mut self.servers[server];
        server.tunnelled.append(&mut self.client.unread);
        server.is_open = false;
        self.end = Some(End::Tunnel);
        Step::Progress
    }

    fn relay_answer(&mut self, mut exchange: Exchange) -> Step {
        let Answer::Body { decoder, reply } = &mut exchange.answer else { unreachable!("the caller looked") };
        let reply = *reply;
        let is_chunked = reply.framing == Framing::Chunked;
        let server = &mut self.servers[exchange.server];
        let mut is_whole = relay(decoder, &mut server.from.unread, &mut self.to_client, is_chunked);
        if is_whole == Ok(false) && server.from.has_ended && decoder.on_eof().is_ok() {
            is_whole = relay(decoder, &mut server.from.unread, &mut self.to_client, is_chunked);
            assert_eq!(is_whole, Ok(true), "a body that ended has an end");
        }
        match is_whole {
            Ok(true) => {
                let is_sent = matches!(exchange.upload, Upload::Done);
                self.has_excess |= !server.from.unread.is_empty();
                let is_clean = server.from.unread.is_empty() && !server.from.has_ended;
                server.is_open = reply.is_upstream_persistent && is_sent && is_clean;
                self.idle = server.is_open.then_some(exchange.server);
                assert!(!reply.is_downstream_persistent || is_sent, "a request in the middle of another");
                // After an offer that was not taken up, bytes that came early may be no request.
                let is_over = exchange.plan.switch != Switch::None && !self.client.unread.is_empty();
                let is_persistent = reply.is_downstream_persistent && !is_over;
                if is_persistent { Step::Progress } else { self.finish(End::Closed) }
            }
            Ok(false) if !server.from.has_ended => {
                self.exchange = Some(exchange);
                Step::Wait
            }
            _ => {
                server.is_open = false;
                let is_by_close = reply.framing == Framing::UntilClose;
                self.finish(if is_by_close { End::Reset } else { End::Dropped })
            }
        }
    }
}

impl Plan {
    /// Judges a request and writes its head; or the status, and what becomes of the connection.
    fn new(head: &RequestHead<'_>, wire: &mut Vec<u8>) -> Result<Plan, (u16, ConnectionField, bool)> {
        let is_head_only = RequestKind::from(head.method) == RequestKind::Head;
        let refused = Err((400, ConnectionField::Close, is_head_only));
        let Ok(switch) = Switch::of(head) else { return refused };
        if head.max_forwards() == Some(0) {
            let is_persistent = head.persistent && head.body.is_empty();
            return Err((200, ConnectionField::of(head.version, is_persistent), is_head_only));
        }
        let host = if head.authority.is_empty() { "up.example" } else { head.authority };
        let identity = &IdentityPolicy::default();
        let sender = ClientIdentity {
            peer: b"10.0.0.1",
            client: b"192.0.2.7",
            trust: Trust::Untrusted,
            proto: "http",
            request_id: 1,
            tls: None,
        };
        let fwd = Forwarding { identity, sender, host, body: head.body, edits: None };
        match switch {
            Switch::Protocol(protocol) => write_upgrade_request(wire, head, &fwd, protocol),
            Switch::None | Switch::Connect => write_request(wire, head, &fwd),
        };
        Ok(Plan {
            kind: RequestKind::from(head.method),
            version: head.version,
            body: head.body,
            is_persistent: head.persistent && matches!(switch, Switch::None | Switch::Protocol(WEBSOCKET)),
            reuse: if switch == Switch::Connect { Reuse::Forbidden } else { Reuse::after(head) },
            trailers: head.trailers,
            switch,
        })
    }

    fn takes_up(&self, head: &ResponseHead<'_>) -> bool {
        match self.switch {
            Switch::None => false,
            Switch::Protocol(protocol) => is_taken_up(head, protocol),
            Switch::Connect => (200..=299).contains(&head.status),
        }
    }
}

impl Switch {
    fn of(head: &RequestHead<'_>) -> Result<Switch, ()> {
        if !head.wants_tunnel() {
            return Ok(Switch::None);
        }
        if head.method == Method::Connect {
            return Ok(Switch::Connect);
        }
        let known =
            |offer: &[u8]| PROTOCOLS.into_iter().find(|name| name.as_bytes().eq_ignore_ascii_case(offer));
        let protocol = head.offers().find_map(known).ok_or(())?;
        check_offer(head, protocol).map(|()| Switch::Protocol(protocol)).map_err(drop)
    }
}

/// Moves a body as far as it has arrived; says whether that was all of it.
fn relay(
    decoder: &mut BodyDecoder,
    unread: &mut Vec<u8>,
    out: &mut Vec<u8>,
    is_chunked: bool,
) -> Result<bool, Fault> {
    let mut trailers: Option<Trailers> = None;
    loop {
        let (used, event) = decoder.next(unread)?;
        match event {
            BodyEvent::Data(range) => {
                if is_chunked {
                    write_chunk_size(out, range.len());
                }
                out.extend_from_slice(&unread[range]);
                if is_chunked {
                    out.extend_from_slice(CHUNK_END);
                }
            }
            BodyEvent::Trailers(found) => trailers = Some(found),
            BodyEvent::End => {
                if is_chunked {
                    write_last_chunk(out, trailers.as_ref());
                }
                unread.drain(..used);
                return Ok(true);
            }
            BodyEvent::NeedMore => {
                assert!(trailers.is_none(), "the end follows the trailers at once");
                unread.drain(..used);
                return Ok(false);
            }
        }
        unread.drain(..used);
    }
}
