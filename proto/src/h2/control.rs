//! The small frames: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM and priorities.

use alloc::vec::Vec;
use core::mem;

use super::abuse::{Abuse, SMALL_WINDOW, TINY_WINDOW};
use super::error::{ErrorCode, SessionFault};
use super::flow::INITIAL_WINDOW;
use super::frame::{self, FRAME_BYTES_MAX, FrameHead, HEAD_BYTES, TOP, flag, read_u32};
use super::priority;
use super::session::{
    Event, MORE, Next, Received, Role, Rules, Session, StreamKey, connection_error, protocol_error,
};
use super::settings::{Change, SETTING_BYTES, decoder_table_bytes};
use super::streams::{Half, Reset};
use crate::fault::Fault;

/// The longest PRIORITY_UPDATE that is read, longer ones are skipped. `u=7, i` takes 10 bytes.
const PRIORITY_UPDATE_BYTES_MAX: u32 = 48;

impl Session {
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.5
    pub(super) fn begin_settings(
        &mut self,
        head: FrameHead,
        input: &[u8],
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Received {
        if head.id != 0 {
            return protocol_error("SETTINGS on a stream");
        }
        if head.has(flag::ACK) {
            if head.len != 0 {
                return connection_error(ErrorCode::FRAME_SIZE_ERROR, "SETTINGS ACK with settings");
            }
            self.acknowledge(rules);
            return Ok((HEAD_BYTES, Event::Handled));
        }
        if !head.len.is_multiple_of(SETTING_BYTES) {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "SETTINGS with a part of a setting");
        }
        if self.has_settings {
            self.abuses.count(Abuse::Settings);
        } else {
            self.peer.begin();
        }
        self.has_settings = true;
        if head.len > FRAME_BYTES_MAX {
            return connection_error(ErrorCode::ENHANCE_YOUR_CALM, "too many settings");
        }
        let end = HEAD_BYTES + head.len as usize;
        if let Some(settings) = input.get(HEAD_BYTES..end) {
            return Ok((end, self.apply_settings(settings, rules, out)?));
        }
        self.progress.next = Next::Settings;
        self.progress.left = head.len;
        self.busy().block.clear();
        Ok((HEAD_BYTES, Event::Handled))
    }

    /// The next part of settings that come in pieces: none of them is in force before all are, and are acknowledged.
    pub(super) fn receive_settings(&mut self, input: &[u8], rules: &Rules, out: &mut Vec<u8>) -> Received {
        if input.is_empty() {
            return MORE;
        }
        let len = input.len().min(self.progress.left as usize);
        self.progress.left -= len as u32;
        self.busy().block.extend_from_slice(&input[..len]);
        if self.progress.left > 0 {
            return Ok((len, Event::Handled));
        }
        let settings = mem::take(&mut self.busy().block);
        self.progress.next = Next::Head;
        Ok((len, self.apply_settings(&settings, rules, out)?))
    }

    fn apply_settings(
        &mut self,
        settings: &[u8],
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Result<Event, SessionFault> {
        let mut window = self.peer.initial_window;
        for &setting in settings.as_chunks().0 {
            match self.peer.set(setting, self.role)? {
                Change::None => {}
                Change::HeaderTable(bytes) => self.encoder.set_limit(bytes, rules.encoder_table_bytes),
                Change::InitialWindow(bytes) => window = bytes,
                //= https://www.rfc-editor.org/rfc/rfc8441#section-3
                // "A sender MUST NOT send a SETTINGS_ENABLE_CONNECT_PROTOCOL parameter with the value of 0 after previously
                // sending a value of 1"
                Change::ConnectProtocol(false) if self.peer_connects => {
                    return protocol_error("SETTINGS_ENABLE_CONNECT_PROTOCOL was taken back");
                }
                Change::ConnectProtocol(connects) => self.peer_connects = connects,
            }
        }
        self.apply_initial_window(window)?;
        frame::write_settings_ack(out);
        Ok(Event::Settings)
    }

    /// The peer has acknowledged our settings: from here on it keeps them.
    fn acknowledge(&mut self, rules: &Rules) {
        if self.is_acknowledged {
            return self.abuses.count(Abuse::Settings);
        }
        self.is_acknowledged = true;
        self.decoder.set_limit(decoder_table_bytes(rules));
        let difference = i64::from(self.stream_window(rules)) - i64::from(INITIAL_WINDOW);
        if let Some(busy) = &mut self.busy {
            for stream in busy.streams.iter_mut() {
                stream.receive.shift(difference);
            }
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.9.2
    fn apply_initial_window(&mut self, window: u32) -> Result<(), SessionFault> {
        let difference = i64::from(window) - i64::from(self.peer.initial_window);
        self.peer.initial_window = window;
        let Some(busy) = self.busy.as_mut().filter(|_| difference != 0) else { return Ok(()) };
        for stream in busy.streams.iter_mut() {
            if stream.send.shift(difference).is_err() {
                let reason = "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large";
                return connection_error(ErrorCode::FLOW_CONTROL_ERROR, reason);
            }
        }
        Ok(())
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.7
    pub(super) fn receive_ping(&mut self, head: FrameHead, payload: &[u8], out: &mut Vec<u8>) -> Received {
        if head.id != 0 {
            return protocol_error("PING on a stream");
        }
        if head.len != 8 {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "PING is not 8 bytes");
        }
        let Some(&data) = payload.first_chunk() else { return MORE };
        if head.has(flag::ACK) {
            return Ok((HEAD_BYTES + 8, Event::Pong(data)));
        }
        match self.pings_expected.checked_sub(1) {
            Some(left) => self.pings_expected = left,
            None => self.abuses.count(Abuse::Ping),
        }
        frame::write_ping(out, flag::ACK, data);
        Ok((HEAD_BYTES + 8, Event::Handled))
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
    pub(super) fn receive_go_away(&mut self, head: FrameHead, payload: &[u8]) -> Received {
        if head.id != 0 {
            return protocol_error("GOAWAY on a stream");
        }
        if head.len < 8 {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "GOAWAY is too short");
        }
        let (Some(last_id), Some(code)) = (read_u32(payload), payload.get(4..).and_then(read_u32)) else {
            return MORE;
        };
        let last_id = last_id & TOP;
        if last_id > self.received_go_away {
            return protocol_error("GOAWAY names a higher stream than before");
        }
        self.received_go_away = last_id;
        self.skip_payload(head.len - 8);
        Ok((HEAD_BYTES + 8, Event::GoAway { last_id, code: ErrorCode(code) }))
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.9
    pub(super) fn receive_window_update(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Received {
        if head.len != 4 {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes");
        }
        let Some(increment) = read_u32(payload) else { return MORE };
        let increment = increment & TOP;
        let event = if head.id == 0 {
            self.open_shared(increment)?
        } else {
            self.open_stream(head.id, increment, out)?
        };
        Ok((HEAD_BYTES + 4, event))
    }

    fn open_shared(&mut self, increment: u32) -> Result<Event, SessionFault> {
        if increment == 0 {
            return protocol_error("WINDOW_UPDATE of 0");
        }
        self.count_update(increment, self.send.open());
        if self.send.shift(i64::from(increment)).is_err() {
            return connection_error(ErrorCode::FLOW_CONTROL_ERROR, "WINDOW_UPDATE makes a window too large");
        }
        Ok(Event::Window(None))
    }

    fn open_stream(&mut self, id: u32, increment: u32, out: &mut Vec<u8>) -> Result<Event, SessionFault> {
        let Some(slot) = self.find(id) else {
            self.check_not_idle(id)?;
            self.count_update(increment, TOP);
            return Ok(Event::Handled);
        };
        let role = self.role;
        let stream = self.busy().streams.at(slot);
        if role == Role::Client && stream.local == Half::Idle {
            return protocol_error("WINDOW_UPDATE on an idle stream");
        }
        if stream.is_over() {
            self.count_update(increment, TOP);
            return Ok(Event::Handled);
        }
        let open = stream.send.open();
        let is_sent = !stream.takes();
        if increment == 0 {
            return Ok(self.break_stream(slot, ErrorCode::PROTOCOL_ERROR, Fault::EmptyWindowUpdate, out));
        }
        if stream.send.shift(i64::from(increment)).is_err() {
            return Ok(self.break_stream(slot, ErrorCode::FLOW_CONTROL_ERROR, Fault::WindowOverflow, out));
        }
        self.count_update(increment, if is_sent { TOP } else { open });
        Ok(if is_sent { Event::Handled } else { Event::Window(Some(StreamKey { slot, id })) })
    }

    /// Counts an update of a window in which `open` bytes were left.
    fn count_update(&mut self, increment: u32, open: u32) {
        let is_reasonable = self.updates_expected > 0;
        self.updates_expected = self.updates_expected.saturating_sub(1);
        if increment < TINY_WINDOW && (open < SMALL_WINDOW || !is_reasonable) {
            self.abuses.count(Abuse::TinyWindow);
        }
    }

    fn check_not_idle(&self, id: u32) -> Result<(), SessionFault> {
        if self.is_idle(id) && !self.is_ignored(id) {
            return protocol_error("a frame on an idle stream");
        }
        Ok(())
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.4
    pub(super) fn receive_reset(&mut self, head: FrameHead, payload: &[u8]) -> Received {
        if head.id == 0 {
            return protocol_error("RST_STREAM on stream 0");
        }
        if head.len != 4 {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes");
        }
        let Some(code) = read_u32(payload) else { return MORE };
        let used = HEAD_BYTES + 4;
        let Some(slot) = self.find(head.id) else {
            self.check_not_idle(head.id)?;
            self.abuses.count(Abuse::Ignored);
            return Ok((used, Event::Handled));
        };
        let role = self.role;
        let stream = self.busy().streams.at(slot);
        if role == Role::Client && stream.local == Half::Idle {
            return protocol_error("RST_STREAM on an idle stream");
        }
        let was_over = stream.is_over();
        if stream.reset == Reset::No {
            stream.reset = Reset::ByPeer;
        }
        self.abuses.count(if was_over { Abuse::Ignored } else { Abuse::Reset });
        if was_over {
            return Ok((used, Event::Handled));
        }
        let key = StreamKey { slot, id: head.id };
        Ok((used, Event::Reset { key, code: ErrorCode(code) }))
    }

    /// Priorities of RFC 7540 are checked and ignored.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.3
    pub(super) fn receive_priority(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Received {
        if head.id == 0 {
            return protocol_error("PRIORITY on stream 0");
        }
        if head.len != 5 {
            let event =
                self.break_by_id(head.id, ErrorCode::FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes", out)?;
            self.skip_payload(head.len);
            return Ok((HEAD_BYTES, event));
        }
        let Some((parent, _)) = read_u32(payload).zip(payload.get(4)) else { return MORE };
        self.abuses.count(Abuse::Ignored);
        let used = HEAD_BYTES + 5;
        if parent & TOP == head.id {
            let reason = "a stream depends on itself";
            return Ok((used, self.break_by_id(head.id, ErrorCode::PROTOCOL_ERROR, reason, out)?));
        }
        Ok((used, Event::Handled))
    }

    /// A stream error by a frame that may come in all states. A stream that is idle cannot be reset: the connection ends.
    fn break_by_id(
        &mut self,
        id: u32,
        code: ErrorCode,
        reason: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<Event, SessionFault> {
        let Some(slot) = self.find(id) else {
            if self.is_ignored(id) {
                return Ok(Event::Handled);
            }
            if self.is_idle(id) {
                return connection_error(code, reason);
            }
            self.reset_closed(id, code, out);
            return Ok(Event::Handled);
        };
        let role = self.role;
        let stream = self.busy().streams.at(slot);
        if role == Role::Client && stream.local == Half::Idle {
            return connection_error(code, reason);
        }
        if stream.is_over() {
            self.reset_closed(id, code, out);
            return Ok(Event::Handled);
        }
        Ok(self.break_stream(slot, code, Fault::InvalidPriority, out))
    }

    /// The peer learns of its error also where the stream has ended meanwhile.
    fn reset_closed(&mut self, id: u32, code: ErrorCode, out: &mut Vec<u8>) {
        self.abuses.count(Abuse::Broken);
        frame::write_reset(out, id, code);
    }

    //= https://www.rfc-editor.org/rfc/rfc9218#section-7.1
    pub(super) fn receive_priority_update(&mut self, head: FrameHead, payload: &[u8]) -> Received {
        if head.id != 0 || self.role == Role::Client {
            return protocol_error("PRIORITY_UPDATE on a stream, or from a server");
        }
        if head.len < 4 {
            return connection_error(ErrorCode::FRAME_SIZE_ERROR, "PRIORITY_UPDATE is too short");
        }
        let Some(id) = read_u32(payload).map(|id| id & TOP) else { return MORE };
        if id == 0 {
            return protocol_error("PRIORITY_UPDATE of stream 0");
        }
        if head.len > PRIORITY_UPDATE_BYTES_MAX {
            self.abuses.count(Abuse::Ignored);
            return Ok((HEAD_BYTES, self.skip_payload(head.len)));
        }
        let Some(value) = payload.get(4..head.len as usize) else { return MORE };
        self.abuses.count(Abuse::Ignored);
        let used = HEAD_BYTES + head.len as usize;
        let Some(slot) = self.find(id) else { return Ok((used, Event::Handled)) };
        let stream = self.busy().streams.at(slot);
        (stream.urgency, stream.is_incremental) = priority::parse(value);
        Ok((used, Event::Priority(StreamKey { slot, id })))
    }
}
