//! One direction of a tunnel whose frames are read: what has come of its side, how far its frames are read, and what is on its way.

use sluice_proto::ws::{CloseCode, Event, Fault, Frame, Kind, Reader, Rules, Sender};
use sluice_sys::Buf;

use crate::connection::inbox::Inbox;
use crate::message::Side;
use crate::port::Outgoing;

/// What was received and not passed on yet, and what is on its way to the other side.
pub(super) struct Flow {
    pub(super) reader: Reader,
    pub(super) inbox: Inbox,
    pub(super) way: Way,
    /// When its side was last heard, or was asked whether it is still there; in 32 bits of milliseconds.
    pub(super) since_ms: u32,
    /// A Ping was sent to its side.
    pub(super) is_asked: bool,
    /// A Ping for the other side goes out at the end of this frame.
    pub(super) is_ping_due: bool,
    /// The same for a Close, behind which nothing goes on.
    pub(super) close_due: Option<CloseCode>,
    /// A Close of ours has gone to the other side.
    pub(super) has_closed: bool,
    pub(super) input: Input,
}

/// What becomes of the bytes of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Carried,
    /// One of its messages went beyond a limit: only its Close is awaited.
    Refused,
    /// Its bytes cannot be read any more.
    Lost,
    /// It has ended.
    Ended,
}

/// What is on its way to the other side.
pub(super) enum Way {
    /// Nothing.
    Idle,
    /// So many bytes of this side; 0 for a frame of ours.
    Sending(Outgoing),
    /// Nothing more will be; what was sent before is still with us.
    Flushing,
    /// The other side knows that nothing more will come, or has failed.
    Closed,
}

/// What the unread bytes are.
pub(super) struct Scan {
    /// The part of a head that had come before, and belongs before them.
    pub(super) prefix: Option<Buf>,
    /// So many go on as they are.
    pub(super) pass: usize,
    /// So many behind them do not.
    pub(super) skip: usize,
    pub(super) refused: Option<Refused>,
}

/// Why a frame does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Broken(Fault),
    /// Its message is larger than it may be.
    TooLarge,
    /// It is one too many.
    TooMany,
}

impl Flow {
    pub(super) fn new(side: Side, inbox: Inbox, has_deflate: bool, now_ms: u32) -> Flow {
        let sender = if side == Side::Downstream { Sender::Client } else { Sender::Server };
        Flow {
            reader: Reader::new(Rules { sender, has_deflate }),
            inbox,
            way: Way::Idle,
            since_ms: now_ms,
            is_asked: false,
            is_ping_due: false,
            close_due: None,
            has_closed: false,
            input: Input::Carried,
        }
    }

    /// Reads what has come, up to what does not go on as it is. `judge` knows the limits.
    pub(super) fn scan(&mut self, mut judge: impl FnMut(&Frame) -> Option<Refused>) -> Scan {
        let mut scan = Scan { prefix: None, pass: 0, skip: 0, refused: None };
        let unread = self.inbox.unread();
        while scan.pass < unread.len() {
            // A frame of ours goes first.
            if scan.pass > 0 && self.reader.is_between_frames() && self.is_due() {
                break;
            }
            let (used, event) = match self.reader.read(&unread[scan.pass..]) {
                Ok(read) => read,
                Err(fault) => {
                    scan.refused = Some(Refused::Broken(fault));
                    break;
                }
            };
            match event {
                Event::Payload => {}
                Event::Frame(frame, before) => {
                    scan.refused = judge(&frame);
                    if scan.refused.is_some() || frame.kind == Kind::OurPong {
                        scan.skip = used;
                        break;
                    }
                    if before > 0 {
                        let mut prefix = Buf::small();
                        prefix.extend_from_slice(self.reader.held(before));
                        scan.prefix = Some(prefix);
                    }
                }
                Event::Held | Event::BehindClose => {
                    scan.skip = used;
                    break;
                }
            }
            scan.pass += used;
        }
        scan
    }

    /// Reads what has come only to find the Close of its side; says how many bytes that were.
    pub(super) fn discard(&mut self) -> usize {
        let bytes = self.inbox.unread().len();
        let mut at = 0;
        while at < bytes && self.is_readable() {
            match self.reader.read(&self.inbox.unread()[at..]) {
                Ok((used, _)) => at += used,
                Err(_) => self.input = Input::Lost,
            }
        }
        self.inbox.consume(bytes);
        bytes
    }

    fn is_readable(&self) -> bool {
        matches!(self.input, Input::Carried | Input::Refused)
    }

    /// Whether bytes of its side go no further.
    pub(super) fn is_discarded(&self) -> bool {
        self.is_closed() || self.input != Input::Carried || matches!(self.way, Way::Flushing | Way::Closed)
    }

    /// Whether a Close frame has gone to the other side.
    pub(super) fn is_closed(&self) -> bool {
        self.has_closed || self.reader.is_closed()
    }

    /// Whether its side has said all: a Close has come, or nothing more can be read of it.
    pub(super) fn is_answered(&self) -> bool {
        self.reader.is_closed() || matches!(self.input, Input::Lost | Input::Ended)
    }

    /// Whether the last byte that went on was the end of a frame, so that one of ours may follow.
    pub(super) fn is_between_frames(&self) -> bool {
        self.has_closed || self.input == Input::Refused || self.reader.is_between_frames()
    }

    /// Whether a frame of ours waits for the end of this one.
    pub(super) fn is_due(&self) -> bool {
        self.is_ping_due || self.close_due.is_some()
    }

    /// Something was received and is not sent yet.
    pub(super) fn is_in_hand(&self) -> bool {
        matches!(self.way, Way::Sending(_))
    }

    /// Its side was heard.
    pub(super) fn heard(&mut self, now_ms: u32) {
        (self.since_ms, self.is_asked) = (now_ms, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(side: Side, bytes: &[u8]) -> Flow {
        let mut buf = Buf::small();
        buf.extend_from_slice(bytes);
        Flow::new(side, Inbox::resume(buf), false, 0)
    }

    fn more(flow: &mut Flow, bytes: &[u8]) {
        let mut buf = Buf::small();
        buf.extend_from_slice(bytes);
        flow.inbox.put(buf.into());
    }

    /// Text, Ping, and the beginning of a third head.
    const FRAMES: &[u8] = &[0x81, 2, b'h', b'i', 0x89, 0, 0x82];

    #[test]
    fn whole_frames_go_on_and_half_a_head_waits() {
        let mut flow = flow(Side::Upstream, FRAMES);
        let scan = flow.scan(|_| None);
        assert_eq!((scan.pass, scan.skip, scan.refused, scan.prefix.is_none()), (6, 1, None, true));
        flow.inbox.consume(7);
        assert!(flow.is_between_frames());
        more(&mut flow, &[3, b'a']);
        let scan = flow.scan(|_| None);
        assert_eq!((scan.prefix.as_deref(), scan.pass, scan.skip), (Some(&vec![0x82]), 2, 0));
        assert!(!flow.is_between_frames());
    }

    #[test]
    fn a_frame_of_ours_goes_between_two() {
        let mut flow = flow(Side::Upstream, FRAMES);
        flow.is_ping_due = true;
        let scan = flow.scan(|_| None);
        assert_eq!((scan.pass, scan.skip), (4, 0));
        assert!(flow.is_between_frames());
    }

    #[test]
    fn nothing_of_a_refused_frame_goes_on() {
        let mut broken = flow(Side::Upstream, &[0x81, 1, b'x', 0x83, 0, 0x81, 0]);
        let scan = broken.scan(|_| None);
        assert_eq!((scan.pass, scan.refused), (3, Some(Refused::Broken(Fault::ReservedOpcode))));
        let mut large = flow(Side::Upstream, &[0x81, 1, b'x', 0x81, 2, b'y', b'z', 0x88, 0]);
        let scan = large.scan(|frame| (frame.bytes > 1).then_some(Refused::TooLarge));
        assert_eq!((scan.pass, scan.skip, scan.refused), (3, 2, Some(Refused::TooLarge)));
        large.inbox.consume(5);
        large.input = Input::Refused;
        assert!(large.is_between_frames() && large.is_discarded() && !large.is_answered());
        assert_eq!(large.discard(), 4);
        assert!(large.is_answered(), "its Close has come");
    }

    #[test]
    fn a_direction_is_small() {
        assert!(size_of::<Flow>() <= 128, "{}", size_of::<Flow>());
    }
}
