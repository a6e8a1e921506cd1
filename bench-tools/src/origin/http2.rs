//! HTTP/2 as the origin speaks it: calls of gRPC and WebSockets, whose messages are sent back. The protocol machine is the proxy's own
//! (`sluice_proto::h2`), as a server.

use std::cell::RefCell;

use sluice_proto::fields::FieldId;
use sluice_proto::h1::{ChunkEvent, ChunkedDecoder, HeadStore, Parsed, Scheme, parse_response};
use sluice_proto::h2::{ErrorCode, Event, HeadLines, ResponseFields, Role, Rules, Session, StreamKey};
use sluice_proto::{ChunkLimits, HeadLimits, RequestKind, Trailers};
use sluice_sys::{Buf, Conn, Lease};

use super::websocket::{Echo, Sender};
use crate::http::Malformed;

const RULES: Rules = Rules {
    head: HeadLimits { request_line_bytes_max: 8_192, head_bytes_max: 65_536, fields_max: 256 },
    // More than any proxy puts on a connection.
    streams_max: 16_384,
    stream_window: 1 << 20,
    stream_window_max: 1 << 20,
    connection_window: 1 << 30,
    frame_bytes_max: 16_384,
    decoder_table_bytes: 4_096,
    encoder_table_bytes: 0,
    write_bytes_max: 16_384,
    coalesced_bytes_max: 40 * 1024,
    connect_protocol: true,
};

const SWITCHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const CALL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n\r\n";
const MISSING: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
/// A body without anything but the trailers of a call that went well.
const CALL_END: &[u8] = b"0\r\ngrpc-status: 0\r\n\r\n";

/// One connection.
pub(super) struct Http2 {
    machine: Session,
    lines: HeadLines,
    out: Buf,
    /// By the place that the machine gives them.
    streams: Vec<Option<Stream>>,
    /// The beginning of a frame whose rest has not come.
    carry: Vec<u8>,
    /// What a stream answers, for a moment.
    answer: Vec<u8>,
}

/// A stream whose messages are sent back.
struct Stream {
    id: u32,
    /// Of a WebSocket; a call's bytes go back as they are.
    websocket: Option<Echo>,
    /// What its window has no room for.
    pending: Vec<u8>,
    /// Bytes that came and are not given back yet, since their answer is pending.
    owed: u32,
    /// The client has sent its last byte.
    is_ended: bool,
}

thread_local! {
    static TRAILERS: RefCell<Option<Trailers>> = const { RefCell::new(None) };
}

impl Http2 {
    /// Whether a connection that begins with these bytes speaks HTTP/2: no method is named so.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-3.4
    pub(super) fn is_begun_by(bytes: &[u8]) -> bool {
        bytes.starts_with(b"PRI * HTTP/2")
    }

    pub(super) fn new() -> Http2 {
        let mut out = Buf::small();
        Http2 {
            machine: Session::new(Role::Server, Scheme::Http, &RULES, &mut out),
            lines: HeadLines::new(),
            out,
            streams: Vec::new(),
            carry: Vec::new(),
            answer: Vec::new(),
        }
    }

    /// Answers what comes until the connection ends.
    pub(super) async fn serve(mut self, conn: Conn, first: Lease) {
        conn.clear_deadline();
        let mut lease = first;
        let mut sender = Sender::default();
        loop {
            let taken = self.take(&lease);
            drop(lease);
            let out = std::mem::replace(&mut self.out, Buf::small());
            if sender.send(&conn, out).await.is_err() {
                return;
            }
            if taken.is_err() {
                sender.finish().await;
                return conn.shutdown_write();
            }
            match conn.receive().await {
                Ok(Some(next)) => lease = next,
                _ => return,
            }
        }
    }

    fn take(&mut self, wire: &[u8]) -> Result<(), Malformed> {
        if self.carry.is_empty() {
            let used = self.read(wire)?;
            self.carry.extend_from_slice(&wire[used..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(wire);
        let used = self.read(&carry)?;
        carry.drain(..used);
        self.carry = carry;
        Ok(())
    }

    fn read(&mut self, wire: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            let input = &wire[at..];
            let received = self.machine.receive(input, &mut self.lines, &RULES, &mut self.out);
            let (used, event) = received.map_err(|_| Malformed)?;
            at += used;
            match event {
                Event::Nothing => return Ok(at),
                Event::Head { key, fault: Some(_), .. } | Event::Broken { key, .. } => {
                    self.close(key, ErrorCode::PROTOCOL_ERROR);
                }
                Event::Head { key, is_end, fault: None } => self.begin(key, is_end),
                Event::Data { key, range, is_end } => self.echo(key, &input[range], is_end),
                Event::Trailers { key, .. } => self.echo(key, &[], true),
                Event::Reset { key, .. } => self.close(key, ErrorCode::NO_ERROR),
                Event::Window(Some(key)) => self.send_pending(key),
                Event::Window(None) | Event::Settings => self.send_all_pending(),
                Event::Handled | Event::Priority(_) | Event::GoAway { .. } | Event::Pong(_) => {}
            }
        }
    }

    fn begin(&mut self, key: StreamKey, is_end: bool) {
        let request = self.lines.request();
        let kind = request.field_list().first(FieldId::ContentType).unwrap_or_default();
        let is_call = kind.starts_with(b"application/grpc");
        // What is offered by extended CONNECT is WebSocket: nothing else was asked of the origin.
        let websocket = request.wants_upgrade.then(Echo::default);
        let head = match () {
            () if websocket.is_some() => SWITCHED,
            () if is_call => CALL,
            () => MISSING,
        };
        let is_missing = head == MISSING;
        self.respond(key, head, is_missing);
        if is_missing {
            return self.close(key, ErrorCode::NO_ERROR);
        }
        let slot = usize::from(key.slot);
        if self.streams.len() <= slot {
            self.streams.resize_with(slot + 1, || None);
        }
        self.streams[slot] =
            Some(Stream { id: key.id, websocket, pending: Vec::new(), owed: 0, is_ended: is_end });
        self.end_if_done(key);
    }

    fn respond(&mut self, key: StreamKey, head: &[u8], is_end: bool) {
        let mut store = HeadStore::default();
        let parsed = parse_response(head, &mut store, &RULES.head, &RequestKind::Other);
        let Ok(Parsed::Complete { head, .. }) = parsed else { unreachable!("our own heads are well formed") };
        self.machine.send_response(key, &head, &ResponseFields::default(), is_end, &mut self.out);
    }

    fn stream_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(usize::from(key.slot))?;
        stream.as_mut().filter(|stream| stream.id == key.id)
    }

    /// Sends back what has come.
    fn echo(&mut self, key: StreamKey, data: &[u8], is_end: bool) {
        let bytes = data.len() as u32;
        self.machine.give_back_shared(bytes, &RULES, &mut self.out);
        let mut answer = std::mem::take(&mut self.answer);
        let Some(stream) = self.stream_mut(key) else { return };
        stream.owed += bytes;
        stream.is_ended |= is_end;
        let taken = match &mut stream.websocket {
            Some(websocket) => websocket.take(data, &mut answer),
            None => Ok(()),
        };
        let echoed = if stream.websocket.is_some() { &answer[..] } else { data };
        let is_waiting = !stream.pending.is_empty();
        let sent = match is_waiting {
            true => 0,
            false => self.machine.send_data(key, echoed, false, &RULES, &mut self.out),
        };
        if let Some(stream) = self.stream_mut(key) {
            stream.pending.extend_from_slice(&echoed[sent..]);
        }
        answer.clear();
        self.answer = answer;
        match taken {
            Ok(()) => self.settle(key),
            Err(Malformed) => self.close(key, ErrorCode::PROTOCOL_ERROR),
        }
    }

    fn send_pending(&mut self, key: StreamKey) {
        let Some(stream) = self.stream_mut(key).filter(|stream| !stream.pending.is_empty()) else { return };
        let mut pending = std::mem::take(&mut stream.pending);
        let sent = self.machine.send_data(key, &pending, false, &RULES, &mut self.out);
        pending.drain(..sent);
        if let Some(stream) = self.stream_mut(key) {
            stream.pending = pending;
        }
        self.settle(key);
    }

    fn send_all_pending(&mut self) {
        for slot in 0..self.streams.len() {
            if let Some(id) = self.streams[slot].as_ref().map(|stream| stream.id) {
                self.send_pending(StreamKey { slot: slot as u16, id });
            }
        }
    }

    /// Once all is answered, more may come, or nothing will.
    fn settle(&mut self, key: StreamKey) {
        let Some(stream) = self.stream_mut(key).filter(|stream| stream.pending.is_empty()) else { return };
        let owed = std::mem::take(&mut stream.owed);
        self.machine.give_back(key, owed, &RULES, &mut self.out);
        self.end_if_done(key);
    }

    fn end_if_done(&mut self, key: StreamKey) {
        let Some(stream) = self.stream_mut(key) else { return };
        let is_closed = stream.websocket.as_ref().is_some_and(Echo::is_closed);
        if !(stream.is_ended || is_closed) {
            return;
        }
        if stream.websocket.is_some() {
            self.machine.send_data(key, &[], true, &RULES, &mut self.out);
        } else {
            TRAILERS.with_borrow_mut(|trailers| {
                let trailers = trailers.get_or_insert_with(trailers_of_call);
                self.machine.send_trailers(key, trailers, &mut self.out);
            });
        }
        self.close(key, ErrorCode::NO_ERROR);
    }

    fn close(&mut self, key: StreamKey, code: ErrorCode) {
        if self.stream_mut(key).is_some() {
            self.streams[usize::from(key.slot)] = None;
        }
        self.machine.close(key, code, &mut self.out);
    }
}

fn trailers_of_call() -> Trailers {
    let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
    let mut at = 0;
    loop {
        match decoder.next(&CALL_END[at..]) {
            Ok((_, ChunkEvent::Trailers(trailers))) => return trailers,
            Ok((used, _)) if used > 0 => at += used,
            _ => unreachable!("our own trailers are well formed"),
        }
    }
}
