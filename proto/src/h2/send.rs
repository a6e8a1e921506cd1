//! What we send: streams are opened, heads, data and trailers, never beyond what the peer allows.

use alloc::vec::Vec;

use super::abuse::{PINGS_FOR_DATA, UPDATES_FOR_DATA};
use super::encode::{encode_request, encode_response, encode_trailers};
use super::frame::{self, FrameHead, TOP, flag, kind};
use super::head::ResponseFields;
use super::session::{Role, Rules, Session, StreamKey};
use super::streams::{Half, Streams};
use crate::h1::RequestParts;
use crate::message::{RequestKind, ResponseHead};
use crate::trailers::Trailers;

impl Session {
    /// Opens a stream for a request of this kind, if the peer takes one more now. Client. Requests must be sent in the order in which
    /// their streams were opened.
    pub fn open(&mut self, kind: RequestKind, rules: &Rules) -> Option<StreamKey> {
        if self.openable(rules) == 0 {
            return None;
        }
        let id = self.next_id();
        let mut stream = self.new_stream(id, rules);
        stream.kind = kind;
        self.last_id = id;
        Some(self.busy().streams.insert(stream))
    }

    /// How many streams may be opened now. Client.
    pub fn openable(&self, rules: &Rules) -> u32 {
        if self.role == Role::Server || self.is_going_away() || self.next_id() > TOP {
            return 0;
        }
        //= https://www.rfc-editor.org/rfc/rfc9113#section-5.1.2
        let max = self.peer.streams_max.min(rules.streams_max).min(Streams::MAX);
        max.saturating_sub(self.streams() as u32).min((TOP - self.next_id()) / 2 + 1)
    }

    /// The next stream of ours.
    fn next_id(&self) -> u32 {
        if self.last_id == 0 { 1 } else { self.last_id + 2 }
    }

    /// Whether the peer takes extended CONNECT (RFC 8441), as far as is known. Client.
    pub fn takes_connect_protocol(&self) -> bool {
        self.peer_connects
    }

    /// Sends the head of a request.
    pub fn send_request(&mut self, key: StreamKey, parts: RequestParts<'_>, is_end: bool, out: &mut Vec<u8>) {
        debug_assert!(self.role == Role::Client);
        let Some(stream) = self.stream_mut(key).filter(|stream| stream.local == Half::Idle && stream.takes())
        else {
            return;
        };
        stream.local = if is_end { Half::Ended } else { Half::Open };
        // An offer becomes extended CONNECT: what answers it is read as the answer to CONNECT.
        if parts.offer().is_some() {
            stream.kind = RequestKind::Connect;
        }
        let start = frame::begin_block(out);
        encode_request(&mut self.encoder, out, parts, self.scheme);
        frame::end_block(out, start, key.id, is_end, self.peer.frame_bytes_max);
    }

    /// Sends the head of a response, interim or final.
    pub fn send_response(
        &mut self,
        key: StreamKey,
        head: &ResponseHead<'_>,
        fields: &ResponseFields<'_>,
        is_end: bool,
        out: &mut Vec<u8>,
    ) {
        debug_assert!(self.role == Role::Server && !(is_end && head.is_interim()));
        let Some(stream) = self.stream_mut(key).filter(|stream| stream.local == Half::Idle && stream.takes())
        else {
            return;
        };
        if !head.is_interim() {
            stream.local = if is_end { Half::Ended } else { Half::Open };
        }
        let start = frame::begin_block(out);
        encode_response(&mut self.encoder, out, head, fields);
        frame::end_block(out, start, key.id, is_end, self.peer.frame_bytes_max);
    }

    /// How many bytes of data the windows let through now. 0 also when the stream takes none any more.
    #[inline]
    pub fn sendable(&self, key: StreamKey) -> usize {
        let stream = self.stream(key).filter(|stream| stream.takes());
        stream.map_or(0, |stream| stream.send.open().min(self.send.open()) as usize)
    }

    /// Sends data as far as the windows allow, in frames of at most `write_bytes_max`; says how much. With `is_end` the last of it ends
    /// the stream; empty data then goes out without a window.
    pub fn send_data(
        &mut self,
        key: StreamKey,
        data: &[u8],
        is_end: bool,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> usize {
        let sendable = self.sendable(key);
        let frame_bytes_max = self.peer.frame_bytes_max.min(rules.write_bytes_max).max(1) as usize;
        let Some(stream) = self.stream_mut(key).filter(|stream| stream.takes()) else { return 0 };
        debug_assert!(stream.local == Half::Open);
        let len = sendable.min(data.len());
        stream.send.take(len as u32);
        let ends = is_end && len == data.len();
        if ends {
            stream.local = Half::Ended;
        }
        self.send.take(len as u32);
        if len > 0 {
            self.updates_expected = UPDATES_FOR_DATA;
            self.pings_expected = PINGS_FOR_DATA;
        }
        write_data(out, key.id, &data[..len], ends, frame_bytes_max);
        len
    }

    /// Ends the stream with trailers.
    pub fn send_trailers(&mut self, key: StreamKey, trailers: &Trailers, out: &mut Vec<u8>) {
        let Some(stream) = self.stream_mut(key).filter(|stream| stream.takes()) else { return };
        debug_assert!(stream.local == Half::Open);
        stream.local = Half::Ended;
        let start = frame::begin_block(out);
        encode_trailers(&mut self.encoder, out, trailers);
        frame::end_block(out, start, key.id, true, self.peer.frame_bytes_max);
    }
}

/// Writes data in frames. No data and no end are no frame.
fn write_data(out: &mut Vec<u8>, id: u32, data: &[u8], is_end: bool, frame_bytes_max: usize) {
    let last = if is_end { flag::END_STREAM } else { 0 };
    if data.is_empty() && is_end {
        FrameHead { len: 0, kind: kind::DATA, flags: last, id }.write(out);
    }
    let mut rest = data;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.len().min(frame_bytes_max));
        let flags = if behind.is_empty() { last } else { 0 };
        FrameHead { len: part.len() as u32, kind: kind::DATA, flags, id }.write(out);
        out.extend_from_slice(part);
        rest = behind;
    }
}
