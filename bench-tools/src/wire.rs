//! Requests on the wire: connecting, sending one, reading its answer, in clear text or by TLS, by HTTP/1.1 or HTTP/2; or messages and
//! their echoes, by WebSocket or gRPC. Measuring code sees an exchange in all of them ([`Wire::exchange`]).

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use sluice_proto::upgrade;
use sluice_sys::{Buf, Conn, Sending};

use crate::fault::Fault;
use crate::http::HEAD_BYTES_MAX;
use crate::http::prepared::Prepared;
use crate::http::response::{Answer, ResponseReader};
use crate::http2;
use crate::messages::EchoReader;
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
    /// It has left HTTP/1.1 for messages.
    echo: Option<Box<EchoReader>>,
}

/// How connections are made.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) timeout_ms: u64,
    pub(crate) tls: Option<&'a Client>,
    pub(crate) protocol: Protocol,
    /// What is asked for on it: HTTP/1.1 is left at once if that is WebSocket.
    pub(crate) request: &'a Prepared,
}

/// Connects, with all handshakes that there are, and says in a report's terms why not.
pub(crate) async fn connect(
    source: Option<SocketAddr>,
    address: SocketAddr,
    way: Way<'_>,
) -> Result<Link, Fault> {
    let Way { timeout_ms, tls, protocol, request } = way;
    let conn = Conn::connect_from(source, address, timeout_ms)
        .await
        .map_err(|error| Fault::of_connect(&error.into()))?;
    conn.set_deadline(timeout_ms);
    let mut session = None;
    if let Some(client) = tls {
        session = Some(Box::new(Session::begin(client, &conn, timeout_ms).await?));
    }
    let mut link = Link { conn, session, http2: None, echo: None };
    if protocol == Protocol::Http2 {
        let framing = request.message.as_ref().map(|message| message.framing);
        let client = Box::new(http2::Client::new(link.session.is_some(), framing));
        link.http2 = Some(Http2 { session: link.session.take(), client });
        link.wait_for_settings(request, timeout_ms).await?;
    } else if request.message.is_some() {
        link.upgrade(request, timeout_ms).await?;
        link.echo = Some(Box::new(EchoReader::new()));
    }
    Ok(link)
}

impl Link {
    /// Leaves HTTP/1.1 for WebSocket.
    async fn upgrade(&mut self, request: &Prepared, timeout_ms: u64) -> Result<(), Fault> {
        self.send_now(request.head(), timeout_ms);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let received = self.conn.receive().await.map_err(|error| Fault::of_io(&error))?;
            let lease = received.ok_or(Fault::Closed)?;
            match &mut self.session {
                None => head.extend_from_slice(&lease),
                Some(session) => {
                    session.take(&lease, |data| {
                        head.extend_from_slice(data);
                        Ok(())
                    })?;
                    session.flush(&self.conn, timeout_ms);
                }
            }
            check_upgrade(&head)?;
        }
        Ok(())
    }

    /// Waits for what a server of HTTP/2 says of itself, if what is asked for is not what every server takes.
    async fn wait_for_settings(&mut self, request: &Prepared, timeout_ms: u64) -> Result<(), Fault> {
        let Some(http2) = &mut self.http2 else { return Ok(()) };
        while !http2.client.knows_server() {
            http2.flush(&self.conn, timeout_ms);
            let received = self.conn.receive().await.map_err(|error| Fault::of_io(&error))?;
            http2.take(&received.ok_or(Fault::Closed)?, std::slice::from_ref(request))?;
        }
        if http2.client.is_willing() { Ok(()) } else { Err(Fault::NoExtendedConnect) }
    }

    /// Sends bytes, whatever becomes of them.
    fn send_now(&mut self, bytes: &[u8], timeout_ms: u64) {
        let sending = match &mut self.session {
            None => {
                let mut out = Buf::small();
                out.extend_from_slice(bytes);
                Some(self.conn.send(out, timeout_ms))
            }
            Some(session) => session.send(&self.conn, bytes, timeout_ms),
        };
        if let Some(sending) = sending {
            sending.detach();
        }
    }

    /// Takes received bytes of messages; whether the echo of this one is complete.
    fn take_echo(&mut self, wire: &[u8], request: &Prepared) -> Result<bool, Fault> {
        let (Some(echo), Some(message)) = (&mut self.echo, &request.message) else { return Ok(false) };
        let mut is_complete = false;
        let mut read = |data: &[u8]| {
            is_complete |= echo.read(data, message)?;
            Ok(())
        };
        match &mut self.session {
            None => read(wire)?,
            Some(session) => session.take(wire, read)?,
        }
        Ok(is_complete)
    }

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

    /// Forgets all that is needed to send and receive.
    pub(crate) fn keep_socket_only(&mut self) {
        (self.session, self.http2, self.echo) = (None, None, None);
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

    /// What is sent each time.
    fn wire(&self) -> &[u8] {
        self.prepared().repeated()
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
        let mut answer = if link.echo.is_some() {
            read_echo(link, request.prepared(), timeout_ms).await?
        } else {
            reader.start(request.prepared().is_head);
            read_answer(link, reader, timeout_ms).await?
        };
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

/// The echo of a message, as an answer.
async fn read_echo(link: &mut Link, request: &Prepared, timeout_ms: u64) -> Result<Answer, Broken> {
    let mut wire_bytes = 0;
    loop {
        let received = link.conn.receive().await.map_err(|error| broken(&error, wire_bytes > 0))?;
        let Some(lease) = received else {
            return Err(if wire_bytes > 0 { Broken::Fault(Fault::Closed) } else { Broken::Stale });
        };
        wire_bytes += lease.len() as u64;
        let is_complete = link.take_echo(&lease, request).map_err(Broken::Fault)?;
        if let Some(session) = &mut link.session {
            session.flush(&link.conn, timeout_ms);
        }
        if let Some(pongs) = link.echo.as_mut().and_then(|echo| echo.take_pongs()) {
            link.send_now(&pongs, timeout_ms);
        }
        if is_complete {
            return Ok(Answer { status: 101, wire_bytes, keeps_alive: true });
        }
    }
}

/// Whether what has come of an answer to [`Prepared::opening`] is the beginning of the one that was asked for.
fn check_upgrade(head: &[u8]) -> Result<(), Fault> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Partial) if head.len() <= HEAD_BYTES_MAX => return Ok(()),
        // The server speaks after the client.
        Ok(httparse::Status::Complete(length)) if length == head.len() || response.code != Some(101) => {}
        _ => return Err(Fault::Malformed),
    }
    if response.code != Some(101) {
        return Err(Fault::Status(response.code.unwrap_or(0)));
    }
    let mut accepts =
        response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("sec-websocket-accept"));
    let is_right =
        |field: &httparse::Header<'_>| field.value == upgrade::accept_of(Prepared::websocket_key());
    if accepts.next().is_some_and(is_right) { Ok(()) } else { Err(Fault::Malformed) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_that_was_asked_for_opens_a_websocket() {
        let key = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        let head =
            |line: &str, fields: &str| check_upgrade(format!("HTTP/1.1 {line}\r\n{fields}\r\n").as_bytes());
        assert_eq!(head("101 Switching Protocols", key), Ok(()));
        assert_eq!(check_upgrade(b"HTTP/1.1 101 Swi"), Ok(()));
        assert_eq!(head("101 Switching Protocols", ""), Err(Fault::Malformed));
        assert_eq!(head("101 Switching Protocols", &key.replace("s3p", "s3q")), Err(Fault::Malformed));
        assert_eq!(head("101 Switching Protocols", &format!("{key}\r\ntoo early")), Err(Fault::Malformed));
        assert_eq!(head("200 OK", key), Err(Fault::Status(200)));
        assert_eq!(check_upgrade(b"SSH-2.0"), Err(Fault::Malformed));
    }
}
