//! DATA: windows, lengths, and what becomes of the bytes.
//= https://www.rfc-editor.org/rfc/rfc9113#section-6.1

use alloc::vec::Vec;

use super::abuse::{Abuse, TINY_DATA};
use super::error::{ErrorCode, SessionFault};
use super::frame::{FrameHead, HEAD_BYTES, flag};
use super::session::{
    Event, MORE, Next, Received, Role, Rules, Session, StreamKey, connection_error, protocol_error,
};
use super::streams::{ANY_LENGTH, Half, Reset, Stream};
use crate::fault::Fault;

/// What becomes of a frame of data.
enum Data {
    Delivered(u16),
    Skipped,
    Broken(u16, ErrorCode, Fault),
}

impl Session {
    /// A DATA frame begins at the start of `input`.
    pub(super) fn begin_data(
        &mut self,
        head: FrameHead,
        input: &[u8],
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        if head.id == 0 {
            return protocol_error("DATA on stream 0");
        }
        let Some((before, padding)) = read_padding(head, &input[HEAD_BYTES..])? else { return MORE };
        //= https://www.rfc-editor.org/rfc/rfc9113#section-6.9.1
        // The whole frame counts, with its padding, also where the data are skipped.
        if self.receive.take(head.len).is_err() {
            return connection_error(ErrorCode::FLOW_CONTROL_ERROR, "the connection's window was not kept");
        }
        let used = HEAD_BYTES + before as usize;
        let len = head.len - before - u32::from(padding);
        match self.target(head, len)? {
            Data::Delivered(slot) => {
                self.count_data(head, len);
                self.progress.slot = slot;
                self.progress.id = head.id;
                self.progress.flags = head.flags;
                self.progress.left = len;
                self.progress.padding = padding;
                self.progress.next = Next::Data;
                let around = head.len - len;
                if around > 0 {
                    self.give_back(StreamKey { slot, id: head.id }, around, rules, out);
                    self.give_back_shared(around, rules, out);
                }
                Ok(self.receive_data(input, used, rules, out))
            }
            Data::Skipped => {
                self.give_back_shared(head.len, rules, out);
                Ok((used, self.skip_payload(head.len - before)))
            }
            Data::Broken(slot, code, fault) => {
                self.give_back_shared(head.len, rules, out);
                self.skip_payload(head.len - before);
                Ok((used, self.break_stream(slot, code, fault, out)))
            }
        }
    }

    /// Where `len` bytes of data go. Takes them off the stream's window and length.
    fn target(&mut self, head: FrameHead, len: u32) -> Result<Data, SessionFault> {
        let Some(slot) = self.find(head.id) else {
            return self.placeless(head.id);
        };
        let role = self.role;
        let stream = self.busy().streams.at(slot);
        if stream.reset == Reset::ByUs {
            return Ok(Data::Skipped);
        }
        check_state(stream, role)?;
        if stream.remote == Half::Ended {
            return Ok(Data::Broken(slot, ErrorCode::STREAM_CLOSED, Fault::FrameBehindEnd));
        }
        if stream.remote == Half::Idle {
            return Ok(Data::Broken(slot, ErrorCode::PROTOCOL_ERROR, Fault::DataBeforeHead));
        }
        if stream.receive.take(head.len).is_err() {
            return Ok(Data::Broken(slot, ErrorCode::FLOW_CONTROL_ERROR, Fault::WindowOverrun));
        }
        if !stream.takes_content(len, head.has(flag::END_STREAM)) {
            return Ok(Data::Broken(slot, ErrorCode::PROTOCOL_ERROR, Fault::LengthMismatch));
        }
        Ok(Data::Delivered(slot))
    }

    /// Data of a stream without a place.
    fn placeless(&self, id: u32) -> Result<Data, SessionFault> {
        if self.is_ignored(id) {
            return Ok(Data::Skipped);
        }
        if self.is_idle(id) {
            return protocol_error("DATA on an idle stream");
        }
        connection_error(ErrorCode::STREAM_CLOSED, "DATA on a closed stream")
    }

    fn count_data(&mut self, head: FrameHead, len: u32) {
        if len < TINY_DATA && !head.has(flag::END_STREAM) {
            self.abuses.count(if len == 0 { Abuse::Empty } else { Abuse::TinyData });
        }
    }

    /// The next part of a frame of data, behind the first `used` bytes of `input`.
    pub(super) fn receive_data(
        &mut self,
        input: &[u8],
        used: usize,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> (usize, Event) {
        let key = StreamKey { slot: self.progress.slot, id: self.progress.id };
        let left = self.progress.left;
        if self.stream(key).is_none_or(|stream| stream.reset != Reset::No) {
            // Closed in the middle of the frame.
            self.give_back_shared(left, rules, out);
            let event = self.skip_payload(left + u32::from(self.progress.padding));
            return if used == 0 { self.skip(input) } else { (used, event) };
        }
        let len = left.min((input.len() - used).min(u32::MAX as usize) as u32);
        if len == 0 && left > 0 {
            return if used == 0 { (0, Event::Nothing) } else { (used, Event::Handled) };
        }
        self.progress.left -= len;
        let is_last = self.progress.left == 0;
        let is_end = is_last && self.progress.flags & flag::END_STREAM != 0;
        if is_last {
            self.skip_padding();
        }
        if let Some(stream) = self.stream_mut(key).filter(|_| is_end) {
            stream.remote = Half::Ended;
        }
        if len == 0 && !is_end {
            return (used, Event::Handled);
        }
        let end = used + len as usize;
        (end, Event::Data { key, range: used..end, is_end })
    }
}

impl Stream {
    /// Takes `len` bytes off the length that was announced. False if there are too many, or too few at the end.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1
    pub(super) fn takes_content(&mut self, len: u32, is_end: bool) -> bool {
        if self.content_left == ANY_LENGTH {
            return true;
        }
        let Some(left) = self.content_left.checked_sub(u64::from(len)) else { return false };
        self.content_left = left;
        !is_end || left == 0
    }
}

/// The rules of section 5.1 that end the connection, of a stream that has a place and was not reset by us.
//= https://www.rfc-editor.org/rfc/rfc9113#section-5.1
pub(super) fn check_state(stream: &Stream, us: Role) -> Result<(), SessionFault> {
    if us == Role::Client && stream.local == Half::Idle {
        return protocol_error("a frame on an idle stream");
    }
    if stream.is_over() {
        return connection_error(ErrorCode::STREAM_CLOSED, "a frame on a closed stream");
    }
    Ok(())
}

/// The bytes before the content of a padded frame, and its padding. `None` if they have not come yet.
pub(super) fn read_padding(head: FrameHead, payload: &[u8]) -> Result<Option<(u32, u8)>, SessionFault> {
    if !head.has(flag::PADDED) {
        return Ok(Some((0, 0)));
    }
    if head.len == 0 {
        return connection_error(ErrorCode::FRAME_SIZE_ERROR, "frame is too short for its padding");
    }
    let Some(&padding) = payload.first() else { return Ok(None) };
    if u32::from(padding) >= head.len {
        return protocol_error("padding is longer than its frame");
    }
    Ok(Some((1, padding)))
}
