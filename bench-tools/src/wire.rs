//! Requests on the wire: connecting, sending one, reading its answer. The place where another protocol (TLS, HTTP/2,
//! WebSocket) would be put under the same load: measuring code only sees [`Wire::exchange`].

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use sluice_sys::{Buf, Conn, Sending};

use crate::fault::Fault;
use crate::http::response::{Answer, ResponseReader};

/// Requests up to this length are copied for every send; longer ones keep their buffer and are sent from it again.
const COPIED_BYTES: usize = 16 * 1024;

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Something went wrong.
    Fault(Fault),
    /// The connection had ended before a byte of the answer came: if it was used before, it was merely stale.
    Stale,
}

/// Connects, and says in a report's terms why not.
pub(crate) async fn connect(
    source: Option<SocketAddr>,
    address: SocketAddr,
    timeout_ms: u64,
) -> Result<Conn, Fault> {
    Conn::connect_from(source, address, timeout_ms).await.map_err(|error| Fault::of_connect(&error.into()))
}

/// Sends requests for one lane; holds the buffers of long ones.
#[derive(Default)]
pub(crate) struct Wire {
    spare: RefCell<Vec<(usize, Buf)>>,
}

/// A request: its bytes, and a number that tells it from others of the lane.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) number: usize,
    pub(crate) wire: &'a [u8],
    pub(crate) is_head: bool,
}

impl Wire {
    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(
        &self,
        conn: &Conn,
        request: Request<'_>,
        reader: &mut ResponseReader,
        timeout_ms: u64,
    ) -> Result<Answer, Broken> {
        let sending = self.send(conn, request, timeout_ms);
        conn.set_deadline(timeout_ms);
        reader.start(request.is_head);
        let mut answer = read_answer(conn, reader).await?;
        if let Some(sending) = sending {
            match sending.try_finish() {
                Ok(sent) => self.spare.borrow_mut().extend(sent.buf.map(|buf| (request.number, buf))),
                // Answered before all of it was sent: what is still to come would be taken for a request.
                Err(_) => answer.keeps_alive = false,
            }
        }
        Ok(answer)
    }

    fn send(&self, conn: &Conn, request: Request<'_>, timeout_ms: u64) -> Option<Sending> {
        if request.wire.len() <= COPIED_BYTES {
            let mut out = Buf::small();
            out.extend_from_slice(request.wire);
            conn.send(out, timeout_ms).detach();
            return None;
        }
        let mut spare = self.spare.borrow_mut();
        let kept = spare.iter().rposition(|(number, _)| *number == request.number);
        let out = kept.map_or_else(
            || {
                let mut out = Buf::large();
                out.extend_from_slice(request.wire);
                out
            },
            |at| spare.swap_remove(at).1,
        );
        Some(conn.send(out, timeout_ms))
    }
}

async fn read_answer(conn: &Conn, reader: &mut ResponseReader) -> Result<Answer, Broken> {
    loop {
        match conn.receive().await {
            Ok(Some(lease)) => match reader.read(&lease) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(_) => return Err(Broken::Fault(Fault::Malformed)),
            },
            Ok(None) => match reader.ended() {
                Some(answer) => return Ok(answer),
                None if reader.has_begun() => return Err(Broken::Fault(Fault::Closed)),
                None => return Err(Broken::Stale),
            },
            Err(error) => return Err(broken(&error, reader.has_begun())),
        }
    }
}

fn broken(error: &io::Error, has_begun: bool) -> Broken {
    match Fault::of_io(error) {
        Fault::Reset if !has_begun => Broken::Stale,
        fault => Broken::Fault(fault),
    }
}
