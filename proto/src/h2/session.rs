//! One HTTP/2 connection: what it remembers, and the order in which frames may come. What each frame does is in the files beside.
//!
//! Owns frames, streams, windows, settings and the header tables of both directions. Never waits, reads a clock or keeps data: bytes
//! are read where they lie, except header blocks that come in pieces. An error of a stream resets it ([`Event::Broken`]), an error of
//! the connection ends it ([`SessionFault`]); both are written at once.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use super::abuse::{Abuse, Counters};
use super::error::{ErrorCode, SessionFault};
use super::flow::{INITIAL_WINDOW, ReceiveWindow, SendWindow};
use super::frame::{self, FrameHead, HEAD_BYTES, TOP, flag, kind};
use super::head::HeadLines;
use super::hpack::{Decoder, Encoder};
use super::preface::{self, PREFACE};
use super::recent::RecentlyReset;
use super::settings::{self, PeerSettings};
use super::streams::{Half, Reset, Stream, Streams};
use crate::fault::Fault;
use crate::h1::Scheme;
use crate::limits::HeadLimits;

/// Which end of the connection is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer sends requests.
    Server,
    /// We send requests.
    Client,
}

/// What holds for all connections of one kind: passed to each call, and kept by none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of a head, in bytes as HTTP/1.1 would have them, with 32 for each field.
    pub head: HeadLimits,
    /// SETTINGS_MAX_CONCURRENT_STREAMS that we announce (server), or streams that we open at most (client).
    pub streams_max: u32,
    /// The receive window of a stream, at least 1.
    pub stream_window: u32,
    /// The caller makes windows of streams no larger than this.
    pub stream_window_max: u32,
    /// The receive window of the connection, at least 65,535.
    pub connection_window: u32,
    /// SETTINGS_MAX_FRAME_SIZE that we announce, 16,384 to 16,777,215.
    pub frame_bytes_max: u32,
    /// SETTINGS_HEADER_TABLE_SIZE that we announce.
    pub decoder_table_bytes: u32,
    /// The largest table that we use to write.
    pub encoder_table_bytes: u32,
    /// The largest DATA frame that we write.
    pub write_bytes_max: u32,
    /// The caller puts about so much data into one send.
    pub coalesced_bytes_max: u32,
    /// Server: extended CONNECT is offered (RFC 8441).
    pub connect_protocol: bool,
}

/// A stream: its place, to which the caller may keep state of its own, and its number, which is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Below the highest number of streams that were open at once; `u16::MAX` where the stream never had a place.
    pub slot: u16,
    /// Of the protocol.
    pub id: u32,
}

/// What has come.
#[derive(Debug)]
#[allow(missing_docs)] // The fields are described with their variants.
pub enum Event {
    /// Nothing more without further bytes.
    Nothing,
    /// A frame that concerns the session alone was handled, or skipped.
    Handled,
    /// Server: a new stream with its request. Client: a response, interim ones too. The head is in the lines. With a fault there is no
    /// head, and the request is to be answered with the fault's status.
    Head { key: StreamKey, is_end: bool, fault: Option<Fault> },
    /// Data in this range of the input: a frame may come in several of them. It counts against both windows until it is given back.
    /// The range may be empty when it ends the stream.
    Data { key: StreamKey, range: Range<usize>, is_end: bool },
    /// The end of a body, with trailers, which are in the lines if any of them may be forwarded: [`HeadLines::copy_trailers`].
    Trailers { key: StreamKey, has_fields: bool },
    /// The peer has reset the stream. It takes nothing more, and nothing more comes.
    Reset { key: StreamKey, code: ErrorCode },
    /// The peer has broken a rule on this stream, which we have reset. It keeps its place until it is closed; a request that was
    /// never shown as [`Event::Head`] has none (its slot is `u16::MAX`), and needs no closing.
    Broken { key: StreamKey, fault: Fault },
    /// More may be sent: on this stream, or on any.
    Window(Option<StreamKey>),
    /// Server: the client has changed the priority of this stream.
    Priority(StreamKey),
    /// The peer's settings have come: windows and the number of streams may be others.
    Settings,
    /// The peer takes no new streams, and has not processed those above this number.
    GoAway { last_id: u32, code: ErrorCode },
    /// The answer to a PING.
    Pong([u8; 8]),
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The preface of a client.
    Preface,
    /// The head of a frame.
    Head,
    /// Data for a stream.
    Data,
    /// Bytes that nothing looks at.
    Skipped,
    /// Settings.
    Settings,
    /// A part of a header block that is gathered.
    Block,
    /// Nothing any more: the connection has failed.
    Over,
}

/// The frame that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) next: Next,
    /// A header block goes on: CONTINUATION has to come.
    pub(super) is_block_open: bool,
    /// Flags of the frame.
    pub(super) flags: u8,
    /// Padding behind what is left. Of the preface: bytes that have come.
    pub(super) padding: u8,
    /// The slot of the stream whose data it is.
    pub(super) slot: u16,
    /// The stream.
    pub(super) id: u32,
    /// Bytes left, without padding.
    pub(super) left: u32,
}

/// A header block of several frames, of which the last has not come yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OpenBlock {
    /// The stream.
    pub(super) id: u32,
    pub(super) frames: u16,
    pub(super) is_end: bool,
    pub(super) depends_on_itself: bool,
}

/// What only a connection with streams needs.
#[derive(Debug, Default)]
pub(super) struct Busy {
    pub(super) streams: Streams,
    pub(super) recent: RecentlyReset,
    /// A header block, or settings, that come in pieces.
    pub(super) block: Vec<u8>,
    pub(super) open_block: OpenBlock,
    /// Room for strings of a block.
    pub(super) scratch: Vec<u8>,
}

/// Memory for streams, taken from a connection that has none.
#[derive(Debug)]
pub struct Room(Box<Busy>);

/// No GOAWAY.
pub(super) const NO_GO_AWAY: u32 = u32::MAX;

/// A connection.
#[derive(Debug)]
pub struct Session {
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) busy: Option<Box<Busy>>,
    pub(super) progress: Progress,
    pub(super) peer: PeerSettings,
    /// The connection's windows.
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// The highest stream of the client, which is the peer or we. 0 before the first.
    pub(super) last_id: u32,
    /// All streams of the peer from this one to the highest have been opened: none was left out.
    pub(super) gapless_from: u32,
    /// The last stream by the GOAWAY that was sent, and by the one that has come.
    pub(super) sent_go_away: u32,
    pub(super) received_go_away: u32,
    pub(super) abuses: Counters,
    /// Updates of windows that our data gives the peer reason for.
    pub(super) updates_expected: u8,
    /// PINGs that our data gives it reason for: to measure how long that took.
    pub(super) pings_expected: u8,
    pub(super) role: Role,
    pub(super) scheme: Scheme,
    /// The peer's first SETTINGS have come.
    pub(super) has_settings: bool,
    /// The peer has acknowledged ours.
    pub(super) is_acknowledged: bool,
    /// The peer takes extended CONNECT.
    pub(super) peer_connects: bool,
}

pub(super) type Received = Result<(usize, Event), SessionFault>;

/// A connection error.
#[cold]
pub(super) fn connection_error<T>(code: ErrorCode, reason: &'static str) -> Result<T, SessionFault> {
    Err(SessionFault { code, reason })
}

/// A connection error of the most frequent kind.
#[cold]
pub(super) fn protocol_error<T>(reason: &'static str) -> Result<T, SessionFault> {
    connection_error(ErrorCode::PROTOCOL_ERROR, reason)
}

/// More of the input is needed.
pub(super) const MORE: Received = Ok((0, Event::Nothing));

impl Session {
    /// Begins a connection: our preface goes to `out`. Requests are of this scheme.
    pub fn new(role: Role, scheme: Scheme, rules: &Rules, out: &mut Vec<u8>) -> Self {
        if role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        settings::write(out, role, rules);
        let connection_window = connection_window(rules);
        if connection_window > INITIAL_WINDOW {
            frame::write_window_update(out, 0, connection_window - INITIAL_WINDOW);
        }
        let mut encoder = Encoder::new();
        encoder.set_limit(4_096, rules.encoder_table_bytes);
        let next = if role == Role::Server { Next::Preface } else { Next::Head };
        let mut session = Self::vacant();
        session.encoder = encoder;
        session.progress.next = next;
        session.receive = ReceiveWindow::new(connection_window);
        session.role = role;
        session.scheme = scheme;
        session
    }

    /// Holds the place of a session: nothing has begun, and nothing is read.
    pub const fn vacant() -> Self {
        let next = Next::Over;
        Self {
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            busy: None,
            progress: Progress { next, is_block_open: false, flags: 0, padding: 0, slot: 0, id: 0, left: 0 },
            peer: PeerSettings::new(),
            send: SendWindow::new(INITIAL_WINDOW),
            receive: ReceiveWindow::new(INITIAL_WINDOW),
            last_id: 0,
            gapless_from: 1,
            sent_go_away: NO_GO_AWAY,
            received_go_away: NO_GO_AWAY,
            abuses: Counters::new(),
            updates_expected: 0,
            pings_expected: 0,
            role: Role::Server,
            scheme: Scheme::Http,
            has_settings: false,
            is_acknowledged: false,
            peer_connects: false,
        }
    }

    /// Reads what comes next at the start of `input`, and says how many bytes of it are used up; the next call gets the rest. What has
    /// to be answered at once is appended to `out`. What is not used up is at most 64 bytes, and has to be shown again with more behind it.
    ///
    /// # Errors
    /// A connection error. GOAWAY is in `out`; nothing more may be read.
    pub fn receive(
        &mut self,
        input: &[u8],
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Event), SessionFault> {
        let received = match self.progress.next {
            Next::Head => self.receive_frame(input, lines, rules, out),
            Next::Data => Ok(self.receive_data(input, 0, rules, out)),
            Next::Skipped => Ok(self.skip(input)),
            Next::Block => self.receive_block(input, lines, rules, out),
            Next::Settings => self.receive_settings(input, rules, out),
            Next::Preface => self.receive_preface(input),
            Next::Over => MORE,
        };
        if let Err(fault) = &received {
            self.fail(fault.code, out);
        }
        received
    }

    #[inline]
    fn receive_frame(
        &mut self,
        input: &[u8],
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        let Some(head) = FrameHead::read(input) else { return MORE };
        self.check_order(head)?;
        //= https://www.rfc-editor.org/rfc/rfc9113#section-4.2
        if head.len > settings::frame_bytes_max(rules) {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "frame is too large");
        }
        let payload = &input[HEAD_BYTES..];
        match head.kind {
            kind::DATA => self.begin_data(head, input, rules, out),
            kind::HEADERS => self.begin_headers(head, input, lines, rules, out),
            kind::CONTINUATION => self.begin_continuation(head, input, lines, rules, out),
            kind::WINDOW_UPDATE => self.receive_window_update(head, payload, out),
            kind::RST_STREAM => self.receive_reset(head, payload),
            kind::SETTINGS => self.begin_settings(head, input, rules, out),
            kind::PING => self.receive_ping(head, payload, out),
            kind::GOAWAY => self.receive_go_away(head, payload),
            kind::PRIORITY => self.receive_priority(head, payload, out),
            kind::PRIORITY_UPDATE => self.receive_priority_update(head, payload),
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.4
            // Clients do not push, and our clients do not allow it (SETTINGS_ENABLE_PUSH).
            kind::PUSH_PROMISE => protocol_error("PUSH_PROMISE"),
            //= https://www.rfc-editor.org/rfc/rfc9113#section-5.5
            _ => {
                self.abuses.count(Abuse::Ignored);
                Ok((HEAD_BYTES, self.skip_payload(head.len)))
            }
        }
    }

    /// What may come at all: SETTINGS first, and nothing between the frames of a header block.
    fn check_order(&self, head: FrameHead) -> Result<(), SessionFault> {
        //= https://www.rfc-editor.org/rfc/rfc9113#section-3.4
        if !self.has_settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return protocol_error("the first frame is not SETTINGS");
        }
        //= https://www.rfc-editor.org/rfc/rfc9113#section-6.10
        if self.progress.is_block_open && !self.continues(head) {
            return protocol_error("a header block was not continued");
        }
        Ok(())
    }

    fn continues(&self, head: FrameHead) -> bool {
        let open = self.busy.as_ref().map(|busy| busy.open_block.id);
        head.kind == kind::CONTINUATION && Some(head.id) == open
    }

    fn receive_preface(&mut self, input: &[u8]) -> Received {
        if input.is_empty() {
            return MORE;
        }
        let Some(used) = preface::read(self.progress.padding, input) else {
            return protocol_error("invalid preface");
        };
        self.progress.padding += used;
        if usize::from(self.progress.padding) == PREFACE.len() {
            self.progress.padding = 0;
            self.progress.next = Next::Head;
        }
        Ok((usize::from(used), Event::Handled))
    }

    /// The next `len` bytes are of no interest.
    pub(super) fn skip_payload(&mut self, len: u32) -> Event {
        self.progress.left = len;
        self.progress.padding = 0;
        self.progress.next = if len == 0 { Next::Head } else { Next::Skipped };
        Event::Handled
    }

    /// What was of interest in the frame has come: the padding is left.
    pub(super) fn skip_padding(&mut self) {
        self.skip_payload(u32::from(self.progress.padding));
    }

    pub(super) fn skip(&mut self, input: &[u8]) -> (usize, Event) {
        if input.is_empty() {
            return (0, Event::Nothing);
        }
        let len = input.len().min(self.progress.left as usize);
        (len, self.skip_payload(self.progress.left - len as u32))
    }

    /// A connection error was found: says so to the peer.
    #[cold]
    fn fail(&mut self, code: ErrorCode, out: &mut Vec<u8>) {
        self.progress.next = Next::Over;
        let last_id = self.last_id();
        self.sent_go_away = last_id;
        frame::write_go_away(out, last_id, code);
    }

    /// A stream error was found: resets the stream.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-5.4.2
    #[cold]
    pub(super) fn break_stream(
        &mut self,
        slot: u16,
        code: ErrorCode,
        fault: Fault,
        out: &mut Vec<u8>,
    ) -> Event {
        self.abuses.count(Abuse::Broken);
        let stream = self.busy().streams.at(slot);
        stream.reset = Reset::ByUs;
        let id = stream.id;
        frame::write_reset(out, id, code);
        Event::Broken { key: StreamKey { slot, id }, fault }
    }

    /// The same of a request that has no place.
    #[cold]
    pub(super) fn break_request(
        &mut self,
        id: u32,
        code: ErrorCode,
        fault: Fault,
        out: &mut Vec<u8>,
    ) -> Event {
        self.abuses.count(Abuse::Broken);
        self.busy().recent.remember(id);
        frame::write_reset(out, id, code);
        Event::Broken { key: StreamKey { slot: u16::MAX, id }, fault }
    }

    pub(super) fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<u16> {
        self.busy.as_ref()?.streams.find(id)
    }

    #[inline]
    pub(super) fn stream(&self, key: StreamKey) -> Option<&Stream> {
        self.busy.as_ref()?.streams.get(key)
    }

    #[inline]
    pub(super) fn stream_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.busy.as_mut()?.streams.get_mut(key)
    }

    /// Whether nothing may come on a stream yet: it was not opened by the side that could.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-5.1
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let is_of_client = id & 1 == 1;
        !is_of_client || id > self.last_id
    }

    /// Whether a frame on a stream without a place is skipped: we have reset the stream, or do not take it.
    pub(super) fn is_ignored(&self, id: u32) -> bool {
        let is_refused = self.role == Role::Server && id > self.sent_go_away;
        is_refused || self.busy.as_ref().is_some_and(|busy| busy.recent.contains(id))
    }

    /// The window of a stream by the setting that is in force.
    pub(super) fn stream_window(&self, rules: &Rules) -> u32 {
        if self.is_acknowledged { rules.stream_window.clamp(1, TOP) } else { INITIAL_WINDOW }
    }

    /// The peer has sent its last byte. True if that was between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.progress.next == Next::Head && !self.progress.is_block_open
    }

    /// Data of this stream was used up: its window opens again. Says whether that was announced. Nothing if the stream has ended.
    pub fn give_back(&mut self, key: StreamKey, bytes: u32, rules: &Rules, out: &mut Vec<u8>) -> bool {
        let full = self.stream_window(rules);
        let Some(stream) = self.stream_mut(key) else { return false };
        if stream.remote == Half::Ended || stream.reset != Reset::No {
            return false;
        }
        let full = full.saturating_add(stream.widened);
        let increment = stream.receive.give_back(bytes, full);
        if let Some(increment) = increment {
            frame::write_window_update(out, key.id, increment);
        }
        increment.is_some()
    }

    /// Makes the window of one stream larger than by our setting; announced with what is given back next.
    pub fn widen(&mut self, key: StreamKey, by: u32) {
        if let Some(stream) = self.stream_mut(key) {
            stream.widened = stream.widened.saturating_add(by);
            stream.receive.widen(by);
        }
    }

    /// By how much the window of a stream is larger than by our setting.
    pub fn widened(&self, key: StreamKey) -> u32 {
        self.stream(key).map_or(0, |stream| stream.widened)
    }

    /// The same of the connection's window.
    pub fn give_back_shared(&mut self, bytes: u32, rules: &Rules, out: &mut Vec<u8>) {
        if let Some(increment) = self.receive.give_back(bytes, connection_window(rules)) {
            frame::write_window_update(out, 0, increment);
        }
    }

    /// The caller is done with the stream: its place is free. If either side has not ended, it is reset with `code`.
    pub fn close(&mut self, key: StreamKey, code: ErrorCode, out: &mut Vec<u8>) {
        let is_unsent = |stream: &Stream| self.role == Role::Client && stream.local == Half::Idle;
        let Some(&stream) = self.stream(key) else { return };
        let is_unsent = is_unsent(&stream);
        if !stream.is_over() && !is_unsent {
            frame::write_reset(out, key.id, code);
        }
        let busy = self.busy();
        if stream.remote != Half::Ended && stream.reset != Reset::ByPeer && !is_unsent {
            busy.recent.remember(key.id);
        }
        busy.streams.remove(key);
    }

    /// Whether our side of the stream has ended, or was reset by either.
    pub fn is_sent(&self, key: StreamKey) -> bool {
        self.stream(key).is_none_or(|stream| !stream.takes())
    }

    /// The urgency (0 first, 7 last) and whether its parts may take turns with others of the same (RFC 9218).
    pub fn priority(&self, key: StreamKey) -> (u8, bool) {
        self.stream(key).map_or((3, false), |stream| (stream.urgency, stream.is_incremental))
    }

    /// Announces the end: streams above `last_id` are not taken. The first of two may name the highest number there is.
    pub fn go_away(&mut self, last_id: u32, code: ErrorCode, out: &mut Vec<u8>) {
        //= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
        // "Endpoints MUST NOT increase the value they send in the last stream identifier"
        self.sent_go_away = last_id.min(TOP).min(self.sent_go_away);
        frame::write_go_away(out, self.sent_go_away, code);
    }

    /// The highest stream of the peer that was taken.
    pub fn last_id(&self) -> u32 {
        if self.role == Role::Client { 0 } else { self.last_id.min(self.sent_go_away) }
    }

    /// Whether the peer's window of the whole connection is used up.
    pub fn is_window_closed(&self) -> bool {
        self.send.open() == 0
    }

    /// Whether a header block has begun whose end has not come.
    pub fn is_gathering(&self) -> bool {
        self.progress.is_block_open || self.progress.next == Next::Block
    }

    /// Whether we have announced the end.
    pub fn is_leaving(&self) -> bool {
        self.sent_go_away != NO_GO_AWAY
    }

    /// Whether either side has announced the end.
    pub fn is_going_away(&self) -> bool {
        self.sent_go_away != NO_GO_AWAY || self.received_go_away != NO_GO_AWAY
    }

    /// Sends a PING.
    pub fn ping(&mut self, data: [u8; 8], out: &mut Vec<u8>) {
        frame::write_ping(out, 0, data);
    }

    /// Whether the peer's first settings have come.
    pub fn is_settled(&self) -> bool {
        // Not while they come in pieces.
        self.has_settings && self.progress.next != Next::Settings
    }

    /// Streams that have a place.
    pub fn streams(&self) -> usize {
        self.busy.as_ref().map_or(0, |busy| busy.streams.len())
    }

    /// How often each kind of abuse has come since this was last asked, by [`Abuse`]; `None` if none has, the usual case.
    pub fn take_abuses(&mut self) -> Option<[u16; Abuse::COUNT]> {
        self.abuses.take()
    }

    /// Makes the memory exact, for a connection that goes to rest.
    pub fn compact(&mut self) {
        self.decoder.compact();
        self.encoder.compact();
        let is_gathering =
            self.progress.is_block_open || matches!(self.progress.next, Next::Block | Next::Settings);
        let Some(busy) = &mut self.busy else { return };
        busy.scratch = Vec::new();
        busy.streams.compact();
        busy.recent.compact();
        if !is_gathering {
            busy.block = Vec::new();
            if busy.streams.len() == 0 && busy.recent.is_empty() {
                self.busy = None;
            }
        }
    }

    /// Takes out what only a connection with streams needs, if there are none: for the next connection that has some.
    pub fn take_room(&mut self) -> Option<Room> {
        let is_gathering =
            self.progress.is_block_open || matches!(self.progress.next, Next::Block | Next::Settings);
        let is_free =
            |busy: &mut Box<Busy>| busy.streams.len() == 0 && busy.recent.is_empty() && !is_gathering;
        self.busy.take_if(is_free).map(Room)
    }

    /// Lends it to this one.
    pub fn use_room(&mut self, room: Room) {
        self.busy.get_or_insert(room.0);
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let busy = self.busy.as_ref().map_or(0, |busy| {
            let blocks = busy.block.capacity() + busy.scratch.capacity();
            size_of::<Busy>() + busy.streams.heap_bytes() + busy.recent.heap_bytes() + blocks
        });
        self.decoder.heap_bytes() + self.encoder.heap_bytes() + busy
    }
}

/// The connection's window.
fn connection_window(rules: &Rules) -> u32 {
    rules.connection_window.clamp(INITIAL_WINDOW, TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 208, "{}", size_of::<Session>());
    }
}
