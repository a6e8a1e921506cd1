//! WebSockets whose messages are sent back: frames as they came, without their mask.

use std::io;

use sluice_sys::{Buf, Conn, Sending};

use super::session::STALL_MS;
use crate::http::Malformed;
use crate::websocket::{FrameHead, FrameReader, append_unmasked, opcode};

/// One WebSocket.
#[derive(Clone, Debug, Default)]
pub(super) struct Echo {
    frames: FrameReader,
    /// Its client has closed it.
    is_closed: bool,
}

impl Echo {
    /// Appends what answers these bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        while !self.is_closed {
            let (used, piece) = self.frames.next(bytes)?;
            bytes = &bytes[used..];
            let Some(piece) = piece else { return Ok(()) };
            let head = piece.head;
            // Frames of clients have one (RFC 6455, section 5.1).
            let mask = head.mask.ok_or(Malformed)?;
            self.is_closed = head.opcode == opcode::CLOSE && piece.is_last();
            let answer = match head.opcode {
                opcode::PONG => continue,
                opcode::PING => opcode::PONG,
                other => other,
            };
            if piece.offset == 0 {
                FrameHead { opcode: answer, mask: None, ..head }.write(out);
            }
            append_unmasked(out, piece.data, mask, piece.offset);
        }
        Ok(())
    }

    /// Whether nothing follows.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Answers what comes until the connection ends; `bytes` have come already, `out` is to be sent before.
    pub(super) async fn serve(mut self, conn: Conn, bytes: &[u8], mut out: Buf) {
        conn.clear_deadline();
        let mut taken = self.take(bytes, &mut out);
        let mut sender = Sender::default();
        loop {
            if sender.send(&conn, out).await.is_err() {
                return;
            }
            if taken.is_err() || self.is_closed {
                sender.finish().await;
                return conn.shutdown_write();
            }
            let Ok(Some(lease)) = conn.receive().await else { return };
            out = Buf::small();
            taken = self.take(&lease, &mut out);
        }
    }
}

/// Sends one buffer after the other: the next is made while the last is on its way, and no more than one is.
#[derive(Default)]
pub(super) struct Sender {
    last: Option<Sending>,
}

impl Sender {
    /// Sends what there is, once the buffer before it is sent.
    pub(super) async fn send(&mut self, conn: &Conn, out: Buf) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if let Some(last) = self.last.take() {
            match last.try_finish() {
                Ok(sent) => sent.result?,
                Err(last) => last.await.result?,
            };
        }
        self.last = Some(conn.send(out, STALL_MS));
        Ok(())
    }

    /// Waits until all is sent: the end of the connection would cut it.
    pub(super) async fn finish(self) {
        if let Some(last) = self.last {
            last.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::write_masked;

    #[test]
    fn frames_come_back_without_their_mask_whatever_the_split() {
        let mut wire = Vec::new();
        write_masked(&mut wire, opcode::TEXT, b"hello");
        write_masked(&mut wire, opcode::PONG, b"x");
        write_masked(&mut wire, opcode::PING, b"p");
        write_masked(&mut wire, opcode::CLOSE, b"\x03\xe8");
        write_masked(&mut wire, opcode::TEXT, b"after the end");
        for size in 1..=wire.len() {
            let (mut echo, mut out) = (Echo::default(), Vec::new());
            for piece in wire.chunks(size) {
                echo.take(piece, &mut out).expect("frames");
            }
            assert_eq!(out, b"\x81\x05hello\x8a\x01p\x88\x02\x03\xe8", "{size}");
            assert!(echo.is_closed());
        }
        assert_eq!(Echo::default().take(b"\x81\x00", &mut Vec::new()), Err(Malformed));
    }
}
