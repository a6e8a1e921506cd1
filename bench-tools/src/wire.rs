//! Requests on the wire: connecting, sending one, reading its answer, in clear text or by TLS. The place where another
//! protocol (HTTP/2, WebSocket) would be put under the same load: measuring code only sees [`Wire::exchange`].

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use sluice_sys::{Buf, Conn, Sending};

use crate::fault::Fault;
use crate::http::prepared::Prepared;
use crate::http::response::{Answer, ResponseReader};
use crate::http2;
use crate::tls::{Client, Protocol, Session};

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

/// A connection, with its TLS and its HTTP/2 if it has any.
pub(crate) struct Link {
    pub(crate) conn: Conn,
    pub(crate) session: Option<Box<Session>>,
    /// TLS is in here, if it is HTTP/2.
    pub(crate) http2: Option<Http2>,
}

/// Connects, with a handshake if there is a client for it, and says in a report's terms why not.
pub(crate) async fn connect(
    source: Option<SocketAddr>,
    address: SocketAddr,
    timeout_ms: u64,
    tls: Option<&Client>,
    protocol: Protocol,
) -> Result<Link, Fault> {
    let conn = Conn::connect_from(source, address, timeout_ms)
        .await
        .map_err(|error| Fault::of_connect(&error.into()))?;
    let mut session = None;
    if let Some(client) = tls {
        conn.set_deadline(timeout_ms);
        session = Some(Box::new(Session::begin(client, &conn, timeout_ms).await?));
    }
    let mut http2 = None;
    if protocol == Protocol::Http2 {
        let client = Box::new(http2::Client::new(session.is_some()));
        http2 = Some(Http2 { session: session.take(), client });
    }
    Ok(Link { conn, session, http2 })
}

impl Link {
    /// Takes received bytes; the answer, once it is complete.
    fn take(&mut self, wire: &[u8], reader: &mut ResponseReader) -> Result<Option<Answer>, Fault> {
        let mut answer = None;
        let mut read = |data: &[u8]| {
            answer = reader.read(data).map_err(|_| Fault::Malformed)?;
            Ok(())
        };
        match &mut self.session {
            None => read(wire)?,
            Some(session) => session.take(wire, read)?,
        }
        Ok(answer)
    }

    /// Its TLS, if it has any.
    pub(crate) fn tls(&self) -> Option<&Session> {
        self.http2.as_ref().map_or(&self.session, |http2| &http2.session).as_deref()
    }

    /// Whether the end of the connection, which has come, is one that the server meant.
    fn is_end_meant(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_closed())
    }

    /// Closes after the server, if there is TLS: what it still says (close_notify) would be answered with a reset.
    pub(crate) async fn close_after_server(self) {
        while self.session.is_some() && matches!(self.conn.receive().await, Ok(Some(_))) {}
    }
}

/// Sends requests for one lane; holds the buffers of long ones.
#[derive(Default)]
pub(crate) struct Wire {
    spare: RefCell<Vec<(usize, Buf)>>,
}

/// One of the requests of a lane: its number tells it from the others.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) number: usize,
    pub(crate) all: &'a [Prepared],
}

impl Request<'_> {
    fn prepared(&self) -> &Prepared {
        &self.all[self.number]
    }

    fn wire(&self) -> &[u8] {
        &self.prepared().wire
    }
}

impl Wire {
    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(
        &self,
        link: &mut Link,
        request: Request<'_>,
        reader: &mut ResponseReader,
        timeout_ms: u64,
    ) -> Result<Answer, Broken> {
        if let Some(http2) = &mut link.http2 {
            return exchange_http2(&link.conn, http2, request, timeout_ms).await;
        }
        let sending = match &mut link.session {
            None => self.send(&link.conn, request, timeout_ms),
            Some(session) => session.send(&link.conn, request.wire(), timeout_ms),
        };
        link.conn.set_deadline(timeout_ms);
        reader.start(request.prepared().is_head);
        let mut answer = read_answer(link, reader, timeout_ms).await?;
        if let Some(sending) = sending {
            match sending.try_finish() {
                // Records are sent once.
                Ok(_) if link.session.is_some() => {}
                Ok(sent) => self.spare.borrow_mut().extend(sent.buf.map(|buf| (request.number, buf))),
                // Answered before all of it was sent: what is still to come would be taken for a request.
                Err(_) => answer.keeps_alive = false,
            }
        }
        Ok(answer)
    }

    fn send(&self, conn: &Conn, request: Request<'_>, timeout_ms: u64) -> Option<Sending> {
        if request.wire().len() <= COPIED_BYTES {
            let mut out = Buf::small();
            out.extend_from_slice(request.wire());
            conn.send(out, timeout_ms).detach();
            return None;
        }
        let mut spare = self.spare.borrow_mut();
        let kept = spare.iter().rposition(|(number, _)| *number == request.number);
        let out = kept.map_or_else(
            || {
                let mut out = Buf::large();
                out.extend_from_slice(request.wire());
                out
            },
            |at| spare.swap_remove(at).1,
        );
        Some(conn.send(out, timeout_ms))
    }
}

/// What is said over a connection of HTTP/2.
pub(crate) struct Http2 {
    pub(crate) session: Option<Box<Session>>,
    pub(crate) client: Box<http2::Client>,
}

impl Http2 {
    /// Takes received bytes: what is over is with the client.
    pub(crate) fn take(&mut self, wire: &[u8], requests: &[Prepared]) -> Result<(), Fault> {
        let client = &mut self.client;
        match &mut self.session {
            None => client.take(wire, requests),
            Some(session) => session.take(wire, |data| client.take(data, requests)),
        }
    }

    /// Sends what HTTP/2 and TLS have to say.
    pub(crate) fn flush(&mut self, conn: &Conn, timeout_ms: u64) {
        let sending = match (&mut self.session, self.client.take_out()) {
            (None, Some(out)) => Some(conn.send(out, timeout_ms)),
            (Some(session), Some(out)) => session.send(conn, &out, timeout_ms),
            (Some(session), None) => session.flush(conn, timeout_ms),
            (None, None) => None,
        };
        if let Some(sending) = sending {
            sending.detach();
        }
    }
}

/// The only request on a connection of HTTP/2.
async fn exchange_http2(
    conn: &Conn,
    http2: &mut Http2,
    request: Request<'_>,
    timeout_ms: u64,
) -> Result<Answer, Broken> {
    conn.set_deadline(timeout_ms);
    if !http2.client.begin(request.all, request.number, Instant::now()) {
        return Err(Broken::Stale);
    }
    let mut wire_bytes = 0;
    loop {
        http2.flush(conn, timeout_ms);
        let received = conn.receive().await.map_err(|error| broken(&error, wire_bytes > 0))?;
        let Some(lease) = received else {
            return Err(if wire_bytes > 0 { Broken::Fault(Fault::Closed) } else { Broken::Stale });
        };
        wire_bytes += lease.len() as u64;
        http2.take(&lease, request.all).map_err(Broken::Fault)?;
        let keeps_alive = !http2.client.is_going_away();
        if let Some(done) = http2.client.take_done().pop() {
            http2.flush(conn, timeout_ms);
            return done.outcome.map(|status| Answer { status, wire_bytes, keeps_alive });
        }
    }
}

async fn read_answer(
    link: &mut Link,
    reader: &mut ResponseReader,
    timeout_ms: u64,
) -> Result<Answer, Broken> {
    loop {
        let received = link.conn.receive().await.map_err(|error| broken(&error, reader.has_begun()))?;
        let has_ended = match received {
            Some(lease) => {
                let taken = link.take(&lease, reader);
                if let Some(session) = &mut link.session {
                    session.flush(&link.conn, timeout_ms);
                }
                if let Some(answer) = taken.map_err(Broken::Fault)? {
                    return Ok(answer);
                }
                link.session.as_ref().is_some_and(|session| session.is_closed())
            }
            None => true,
        };
        if has_ended {
            return match reader.ended().filter(|_| link.is_end_meant()) {
                Some(answer) => Ok(answer),
                None if reader.has_begun() => Err(Broken::Fault(Fault::Closed)),
                None => Err(Broken::Stale),
            };
        }
    }
}

fn broken(error: &io::Error, has_begun: bool) -> Broken {
    match Fault::of_io(error) {
        Fault::Reset if !has_begun => Broken::Stale,
        fault => Broken::Fault(fault),
    }
}
