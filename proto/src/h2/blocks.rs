//! Header blocks: HEADERS and CONTINUATION, and what they are to their stream.
//!
//! A block in one frame is decoded where it lies. Any other is gathered first, within bounds: a peer may take as many frames as it
//! likes to send none (CVE-2024-27316).

use alloc::vec::Vec;
use core::mem;

use super::abuse::Abuse;
use super::data::check_state;
use super::error::{ErrorCode, SessionFault};
use super::frame::{self, FRAME_BYTES_MAX, FrameHead, HEAD_BYTES, TOP, flag, read_u32};
use super::head::{Block, HeadFault, HeadLines};
use super::hpack::Header;
use super::session::{
    Event, MORE, Next, OpenBlock, Received, Role, Rules, Session, StreamKey, connection_error, protocol_error,
};
use super::streams::{ANY_LENGTH, Half, Reset, Stream, Streams};
use crate::fault::Fault;
use crate::message::{BodyLength, RequestKind};

/// What a block is, by the state of its stream.
enum Purpose {
    Request,
    Response(u16, RequestKind),
    Trailers(u16),
    /// A stream beyond the number that we allow.
    Refused,
    /// Decoded, to keep the table right, and ignored.
    Ignored,
    Broken(u16, ErrorCode, Fault),
}

impl Session {
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.2
    pub(super) fn begin_headers(
        &mut self,
        head: FrameHead,
        input: &[u8],
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        //= https://www.rfc-editor.org/rfc/rfc9113#section-5.1.1
        // Even numbers are those of servers, which would open them by PUSH_PROMISE only.
        if head.id & 1 == 0 {
            return protocol_error("HEADERS on a stream with an even number");
        }
        let Some((before, padding, parent)) = read_prefix(head, &input[HEAD_BYTES..])? else { return MORE };
        let depends_on_itself = parent == Some(head.id);
        let is_end = head.has(flag::END_STREAM);
        let len = head.len - before - u32::from(padding);
        let used = HEAD_BYTES + before as usize;
        check_block(len as usize, 1, rules)?;
        if len == 0 && !head.has(flag::END_HEADERS) {
            self.abuses.count(Abuse::Empty);
        }
        let block = OpenBlock { id: head.id, frames: 1, is_end, depends_on_itself };
        self.set_progress(head, len, padding);
        if let Some(whole) = input.get(used..used + len as usize).filter(|_| head.has(flag::END_HEADERS)) {
            self.skip_padding();
            return Ok((used + len as usize, self.receive_whole(whole, block, lines, rules, out)?));
        }
        let busy = self.busy();
        busy.open_block = block;
        busy.block.clear();
        self.progress.is_block_open = true;
        self.gather(input, used, lines, rules, out)
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.10
    pub(super) fn begin_continuation(
        &mut self,
        head: FrameHead,
        input: &[u8],
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        if !self.progress.is_block_open {
            return protocol_error("CONTINUATION without a header block");
        }
        let busy = self.busy();
        busy.open_block.frames += 1;
        let (gathered, frames) = (busy.block.len(), busy.open_block.frames);
        check_block(gathered + head.len as usize, frames, rules)?;
        if head.len == 0 && !head.has(flag::END_HEADERS) {
            self.abuses.count(Abuse::Empty);
        }
        self.set_progress(head, head.len, 0);
        self.gather(input, HEAD_BYTES, lines, rules, out)
    }

    fn set_progress(&mut self, head: FrameHead, left: u32, padding: u8) {
        self.progress.next = Next::Block;
        self.progress.id = head.id;
        self.progress.flags = head.flags;
        self.progress.left = left;
        self.progress.padding = padding;
    }

    /// The next part of a block that is gathered.
    pub(super) fn receive_block(
        &mut self,
        input: &[u8],
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        if input.is_empty() {
            return MORE;
        }
        self.gather(input, 0, lines, rules, out)
    }

    /// Gathers what is behind the first `used` bytes of `input`.
    fn gather(
        &mut self,
        input: &[u8],
        used: usize,
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        let len = (input.len() - used).min(self.progress.left as usize);
        let part = &input[used..used + len];
        self.busy().block.extend_from_slice(part);
        self.progress.left -= len as u32;
        if self.progress.left > 0 {
            return Ok((used + len, Event::Handled));
        }
        let is_last = self.progress.flags & flag::END_HEADERS != 0;
        self.skip_padding();
        if !is_last {
            return Ok((used + len, Event::Handled));
        }
        self.progress.is_block_open = false;
        let busy = self.busy();
        let block = busy.open_block;
        let mut bytes = mem::take(&mut busy.block);
        let event = self.receive_whole(&bytes, block, lines, rules, out)?;
        bytes.clear();
        self.busy().block = bytes;
        Ok((used + len, event))
    }

    /// A whole block has come.
    fn receive_whole(
        &mut self,
        bytes: &[u8],
        block: OpenBlock,
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Result<Event, SessionFault> {
        match self.purpose(block, rules)? {
            Purpose::Request => self.receive_request(bytes, block, lines, rules, out),
            Purpose::Response(slot, kind) => {
                lines.begin(Block::Response(kind));
                self.decode(bytes, |field| lines.add(field, &rules.head))?;
                Ok(self.receive_response(slot, block.is_end, lines, out))
            }
            Purpose::Trailers(slot) => {
                lines.begin(Block::Trailers);
                self.decode(bytes, |field| lines.add(field, &rules.head))?;
                Ok(self.receive_trailers(slot, lines, out))
            }
            Purpose::Refused => {
                self.decode(bytes, |_| {})?;
                self.enter(block.id);
                self.abuses.count(Abuse::Refused);
                self.busy().recent.remember(block.id);
                frame::write_reset(out, block.id, ErrorCode::REFUSED_STREAM);
                Ok(Event::Handled)
            }
            Purpose::Ignored => {
                self.decode(bytes, |_| {})?;
                Ok(Event::Handled)
            }
            Purpose::Broken(slot, code, fault) => {
                self.decode(bytes, |_| {})?;
                Ok(self.break_stream(slot, code, fault, out))
            }
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-4.3
    // "A receiver MUST terminate the connection with a connection error of type COMPRESSION_ERROR"
    fn decode(&mut self, bytes: &[u8], see: impl FnMut(Header<'_>)) -> Result<(), SessionFault> {
        let busy = self.busy.get_or_insert_default();
        let decoded = self.decoder.decode(bytes, &mut busy.scratch, see);
        decoded.or_else(|fault| connection_error(ErrorCode::COMPRESSION_ERROR, fault.0))
    }

    /// What a block is to its stream.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-5.1
    fn purpose(&mut self, block: OpenBlock, rules: &Rules) -> Result<Purpose, SessionFault> {
        let role = self.role;
        let Some(slot) = self.find(block.id) else { return self.purpose_of_placeless(block, rules) };
        let stream = self.busy().streams.at(slot);
        if stream.reset == Reset::ByUs {
            return Ok(Purpose::Ignored);
        }
        check_state(stream, role)?;
        Ok(match stream.remote {
            Half::Ended => Purpose::Broken(slot, ErrorCode::STREAM_CLOSED, Fault::FrameBehindEnd),
            _ if block.depends_on_itself => {
                Purpose::Broken(slot, ErrorCode::PROTOCOL_ERROR, Fault::InvalidPriority)
            }
            Half::Idle => Purpose::Response(slot, stream.kind),
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.1
            // "An endpoint that receives a HEADERS frame without the END_STREAM flag set after receiving the HEADERS frame that
            // opens a request or after receiving a final (non-informational) status code MUST treat the corresponding request or
            // response as malformed"
            Half::Open if !block.is_end => {
                Purpose::Broken(slot, ErrorCode::PROTOCOL_ERROR, Fault::TrailersWithoutEnd)
            }
            Half::Open => Purpose::Trailers(slot),
        })
    }

    fn purpose_of_placeless(&self, block: OpenBlock, rules: &Rules) -> Result<Purpose, SessionFault> {
        if self.is_ignored(block.id) {
            return Ok(Purpose::Ignored);
        }
        if self.role == Role::Server && block.id > self.last_id {
            let max = rules.streams_max.min(Streams::MAX) as usize;
            return Ok(if self.streams() >= max { Purpose::Refused } else { Purpose::Request });
        }
        if self.is_idle(block.id) {
            return protocol_error("HEADERS on an idle stream");
        }
        //= https://www.rfc-editor.org/rfc/rfc9113#section-5.1.1
        // "An endpoint that receives an unexpected stream identifier MUST respond with a connection error of type PROTOCOL_ERROR":
        // it may have been left out. Otherwise it was used and is closed.
        if self.role == Role::Server && block.id < self.gapless_from {
            return protocol_error("a stream with a lower number than others");
        }
        connection_error(ErrorCode::STREAM_CLOSED, "HEADERS on a closed stream")
    }

    /// The peer has used this number for a new stream.
    fn enter(&mut self, id: u32) {
        if id != self.last_id.wrapping_add(2) && id != 1 {
            self.gapless_from = id;
        }
        self.last_id = id;
    }

    fn receive_request(
        &mut self,
        bytes: &[u8],
        block: OpenBlock,
        lines: &mut HeadLines,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Result<Event, SessionFault> {
        lines.begin(Block::Request { scheme: self.scheme, allows_protocol: rules.connect_protocol });
        self.decode(bytes, |field| lines.add(field, &rules.head))?;
        self.enter(block.id);
        if block.depends_on_itself {
            return Ok(self.break_request(block.id, ErrorCode::PROTOCOL_ERROR, Fault::InvalidPriority, out));
        }
        let fault = match lines.finish(block.is_end) {
            Ok(()) => None,
            Err(HeadFault::Refused(fault)) => Some(fault),
            Err(HeadFault::Malformed(fault)) => {
                return Ok(self.break_request(block.id, ErrorCode::PROTOCOL_ERROR, fault, out));
            }
        };
        let mut stream = self.new_stream(block.id, rules);
        stream.remote = if block.is_end { Half::Ended } else { Half::Open };
        if fault.is_none() {
            (stream.urgency, stream.is_incremental) = lines.priority();
            if let BodyLength::Length(len) = lines.request().body {
                stream.content_left = len;
            }
        }
        let key = self.busy().streams.insert(stream);
        Ok(Event::Head { key, is_end: block.is_end, fault })
    }

    /// A stream with the windows that hold now.
    pub(super) fn new_stream(&self, id: u32, rules: &Rules) -> Stream {
        use super::flow::{ReceiveWindow, SendWindow};
        let receive = ReceiveWindow::new(self.stream_window(rules));
        Stream::new(id, SendWindow::new(self.peer.initial_window), receive)
    }

    fn receive_response(
        &mut self,
        slot: u16,
        is_end: bool,
        lines: &mut HeadLines,
        out: &mut Vec<u8>,
    ) -> Event {
        if let Err(fault) = lines.finish(is_end) {
            return self.break_by_head(slot, fault, out);
        }
        let head = lines.response();
        let stream = self.busy().streams.at(slot);
        if !head.is_interim() {
            stream.remote = if is_end { Half::Ended } else { Half::Open };
            let is_tunnel = stream.kind == RequestKind::Connect && (200..=299).contains(&head.status);
            stream.content_left = match head.body {
                //= https://www.rfc-editor.org/rfc/rfc9113#section-8.5
                // "After the initial HEADERS frame sent by each peer, all subsequent DATA frames correspond to data sent" in the
                // tunnel.
                BodyLength::None if is_tunnel => ANY_LENGTH,
                BodyLength::None => 0,
                BodyLength::Length(len) => len,
                BodyLength::Streamed => ANY_LENGTH,
            };
        }
        Event::Head { key: StreamKey { slot, id: stream.id }, is_end, fault: None }
    }

    fn receive_trailers(&mut self, slot: u16, lines: &mut HeadLines, out: &mut Vec<u8>) -> Event {
        let has_fields = match lines.finish_trailers() {
            Ok(has_fields) => has_fields,
            Err(fault) => return self.break_by_head(slot, fault, out),
        };
        let stream = self.busy().streams.at(slot);
        if !stream.takes_content(0, true) {
            let fault = Fault::LengthMismatch;
            return self.break_stream(slot, ErrorCode::PROTOCOL_ERROR, fault, out);
        }
        stream.remote = Half::Ended;
        Event::Trailers { key: StreamKey { slot, id: stream.id }, has_fields }
    }

    /// A response or trailers that cannot be taken.
    fn break_by_head(&mut self, slot: u16, fault: HeadFault, out: &mut Vec<u8>) -> Event {
        match fault {
            HeadFault::Malformed(fault) => self.break_stream(slot, ErrorCode::PROTOCOL_ERROR, fault, out),
            HeadFault::Refused(fault) => self.break_stream(slot, ErrorCode::ENHANCE_YOUR_CALM, fault, out),
        }
    }
}

/// What is before the block in a HEADERS frame: how many bytes, the padding, and on which stream this one depends. `None` if it has
/// not come yet.
fn read_prefix(head: FrameHead, payload: &[u8]) -> Result<Option<(u32, u8, Option<u32>)>, SessionFault> {
    let is_padded = head.has(flag::PADDED);
    let has_priority = head.has(flag::PRIORITY);
    let before = u32::from(is_padded) + if has_priority { 5 } else { 0 };
    if head.len < before {
        return connection_error(ErrorCode::FRAME_SIZE_ERROR, "HEADERS is too short for its flags");
    }
    let Some(prefix) = payload.get(..before as usize) else { return Ok(None) };
    let padding = if is_padded { prefix[0] } else { 0 };
    if u32::from(padding) > head.len - before {
        return protocol_error("padding is longer than its frame");
    }
    let parent = if has_priority { read_u32(&prefix[usize::from(is_padded)..]) } else { None };
    Ok(Some((before, padding, parent.map(|parent| parent & TOP))))
}

/// The bounds on a block: as many bytes as the largest head that we take could need and a frame more, in as many frames as a
/// peer that fills most of them.
fn check_block(bytes: usize, frames: u16, rules: &Rules) -> Result<(), SessionFault> {
    let head_bytes_max = rules.head.head_bytes();
    let frames_max = head_bytes_max * 5 / 4 / FRAME_BYTES_MAX as usize + 5;
    if bytes > head_bytes_max + FRAME_BYTES_MAX as usize || usize::from(frames) > frames_max {
        return connection_error(ErrorCode::ENHANCE_YOUR_CALM, "header block is too large");
    }
    Ok(())
}
