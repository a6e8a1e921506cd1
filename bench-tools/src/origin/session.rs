//! A connection while requests are under way.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use sluice_sys::{Buf, Conn, now_ms, sleep};

use super::answer::{Answers, CHUNK_BYTES, FRAMED_BYTES, INLINE_BYTES, LAST_CHUNK, append_chunk};
use super::delayed::Delayed;
use super::http2::Http2;
use super::route::Route;
use super::websocket::Echo;
use crate::http::request::{Body, Event, Head, RequestReader};

/// A keep-alive connection without a request is closed after this long.
const IDLE_MS: u64 = 3_600_000;
/// A request must be complete, and a client take its answer, within this time.
pub(super) const STALL_MS: u64 = 60_000;
/// Answers are sent when this much has come together, and at the latest when no request is left.
const FLUSH_BYTES: usize = 16 * 1024;

const TEXT: &str = "sluice-bench origin\n";

/// What the workers of a lane share.
pub(super) struct Site {
    pub(super) answers: RefCell<Answers>,
    pub(super) delayed: Delayed,
    pub(super) idle: IdleTime,
}

/// How long connections may be idle.
pub(super) struct IdleTime {
    /// If it is random: at most so many milliseconds.
    within_ms: Option<u64>,
    random: Cell<u64>,
}

impl IdleTime {
    pub(super) fn new(within: Option<Duration>) -> IdleTime {
        let within_ms = within.map(|within| within.as_millis().clamp(1, u128::from(IDLE_MS)) as u64);
        IdleTime { within_ms, random: Cell::new(0x9e37_79b9_7f4a_7c15) }
    }

    /// For a connection that is idle from now on.
    pub(super) fn next_ms(&self) -> u64 {
        let Some(within_ms) = self.within_ms else { return IDLE_MS };
        // xorshift64: any generator will do, and runs are repeatable.
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        1 + random % within_ms
    }
}

/// What becomes of the connection.
enum Next {
    Continue,
    Close,
    Reset,
    /// Its answer, which is the last thing asked for so far, is to be sent later.
    Delay(u64, Buf),
    /// It leaves HTTP for WebSocket: what has come of that already, and what is to be sent before.
    WebSocket(Vec<u8>, Buf),
}

/// One worker's state; it serves one connection after another.
pub(super) struct Session {
    site: Rc<Site>,
    reader: RequestReader,
    request: Option<Head<Route>>,
}

impl Session {
    pub(super) fn new(site: Rc<Site>) -> Session {
        Session { site, reader: RequestReader::default(), request: None }
    }

    /// Answers what comes, until the connection falls idle, which parks it, or ends.
    pub(super) async fn serve(&mut self, mut conn: Conn) {
        self.reader.reset();
        self.request = None;
        loop {
            let Ok(Some(lease)) = conn.receive().await else { return };
            if self.reader.is_between_requests() && Http2::is_begun_by(&lease) {
                return Http2::new().serve(conn, lease).await;
            }
            self.site.answers.borrow_mut().set_clock(now_ms());
            match self.answer_all(&conn, &lease).await {
                Ok(Next::Continue) => {}
                Ok(Next::Close) | Err(_) => return conn.shutdown_write(),
                Ok(Next::Reset) => return conn.abort(),
                Ok(Next::Delay(ms, out)) => {
                    drop(lease);
                    return self.site.delayed.add(Duration::from_millis(ms), conn, out);
                }
                Ok(Next::WebSocket(bytes, out)) => {
                    drop(lease);
                    return Echo::default().serve(conn, &bytes, out).await;
                }
            }
            drop(lease);
            if self.reader.is_between_requests() && self.request.is_none() {
                conn = match conn.park(self.site.idle.next_ms()) {
                    Ok(()) => return,
                    Err(conn) => conn,
                };
            } else {
                conn.set_deadline(STALL_MS);
            }
        }
    }

    /// Answers every request that these bytes complete.
    async fn answer_all(&mut self, conn: &Conn, mut bytes: &[u8]) -> io::Result<Next> {
        let mut out = Buf::small();
        loop {
            let Ok((used, event)) = self.reader.read(bytes, Route::of) else {
                self.append_text(&mut out, 400, "bad request\n", true);
                conn.send(out, STALL_MS).await.result?;
                return Ok(Next::Close);
            };
            bytes = &bytes[used..];
            match event {
                Event::NeedMore => break,
                Event::Head(head) => {
                    if head.expects_continue && bytes.is_empty() {
                        out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    if head.target == Route::Echo {
                        self.begin_echo(&mut out, head);
                    }
                    self.request = Some(head);
                }
                Event::Body(data) => out = self.take_body(conn, data, out).await?,
                Event::End => {
                    let Some(head) = self.request.take() else { continue };
                    if let Some(accept) = head.websocket {
                        append_switch(&mut out, &accept);
                        return Ok(Next::WebSocket(bytes.to_vec(), out));
                    }
                    match head.target {
                        Route::Delay(ms) if bytes.is_empty() && head.keeps_alive => {
                            self.append_text(&mut out, 200, TEXT, !head.is_head);
                            return Ok(Next::Delay(ms, out));
                        }
                        Route::Reset(count) => return self.break_off(conn, count, out).await,
                        Route::Stall(count) => return self.stall(conn, count, out).await,
                        _ => out = self.answer(conn, head, out).await?,
                    }
                    if !head.keeps_alive {
                        conn.send(out, STALL_MS).await.result?;
                        return Ok(Next::Close);
                    }
                }
            }
        }
        if !out.is_empty() {
            conn.send(out, STALL_MS).detach();
        }
        Ok(Next::Continue)
    }

    /// Appends the answer to `out`, or sends both; returns what is left to send.
    async fn answer(&self, conn: &Conn, head: Head<Route>, mut out: Buf) -> io::Result<Buf> {
        let wants_body = !head.is_head;
        match head.target {
            Route::Bytes(length) if head.is_head => self.site.answers.borrow().append_head(&mut out, length),
            Route::Bytes(length) if length <= INLINE_BYTES as u64 => {
                self.site.answers.borrow().append_bytes(&mut out, length as usize);
            }
            Route::Bytes(length) => {
                flush(conn, &mut out);
                self.send_large(conn, length).await?;
            }
            Route::Chunked(_) if head.is_head => self.site.answers.borrow().append_chunked_head(&mut out),
            Route::Chunked(length) => {
                self.site.answers.borrow().append_chunked_head(&mut out);
                out = self.send_chunked(conn, length, out).await?;
            }
            Route::Text => self.append_text(&mut out, 200, TEXT, wants_body),
            Route::Status(status) => self.append_text(&mut out, status, "status\n", wants_body),
            Route::Delay(ms) => {
                // Another request waits behind this one, or the connection closes: the coarse timer must do.
                flush(conn, &mut out);
                sleep(ms).await;
                self.append_text(&mut out, 200, TEXT, wants_body);
            }
            Route::Echo if head.body == Body::Chunked => out.extend_from_slice(LAST_CHUNK),
            Route::Echo => {}
            Route::Missing | Route::Reset(_) | Route::Stall(_) => {
                self.append_text(&mut out, 404, "no such path\n", wants_body);
            }
        }
        flush_when_full(conn, out).await
    }

    fn append_text(&self, out: &mut Vec<u8>, status: u16, text: &str, wants_body: bool) {
        self.site.answers.borrow().append_text(out, status, text, wants_body);
    }

    /// Sends a body that does not fit into one buffer.
    async fn send_large(&self, conn: &Conn, length: u64) -> io::Result<()> {
        let beginning = self.site.answers.borrow_mut().take_beginning(length);
        let sent = conn.send(beginning, STALL_MS).await;
        if let Some(buf) = sent.buf {
            self.site.answers.borrow_mut().keep_beginning(length, buf);
        }
        sent.result?;
        let chunk = self.site.answers.borrow_mut().take_chunk();
        let chunk = send_repeatedly(conn, chunk, length / CHUNK_BYTES as u64).await?;
        self.site.answers.borrow_mut().keep_chunk(chunk);
        Ok(())
    }

    /// Sends a chunked body after `out`; returns what is left to send.
    async fn send_chunked(&self, conn: &Conn, length: u64, mut out: Buf) -> io::Result<Buf> {
        let pieces = length / FRAMED_BYTES as u64;
        if pieces > 0 {
            flush(conn, &mut out);
            let piece = self.site.answers.borrow_mut().take_framed();
            let piece = send_repeatedly(conn, piece, pieces).await?;
            self.site.answers.borrow_mut().keep_framed(piece);
        }
        let rest = (length % FRAMED_BYTES as u64) as usize;
        if rest > INLINE_BYTES {
            flush(conn, &mut out);
            out = Buf::large();
        }
        self.site.answers.borrow().append_framed(&mut out, rest);
        out.extend_from_slice(LAST_CHUNK);
        Ok(out)
    }

    fn begin_echo(&self, out: &mut Vec<u8>, head: Head<Route>) {
        let answers = self.site.answers.borrow();
        match head.body {
            Body::Chunked => answers.append_chunked_head(out),
            Body::Length(length) => answers.append_head(out, length),
        }
    }

    /// A piece of a request's body: dropped, or sent back.
    async fn take_body(&self, conn: &Conn, data: &[u8], mut out: Buf) -> io::Result<Buf> {
        match self.request {
            Some(head) if head.target == Route::Echo && head.body == Body::Chunked => {
                append_chunk(&mut out, data);
            }
            Some(head) if head.target == Route::Echo => out.extend_from_slice(data),
            _ => {}
        }
        flush_when_full(conn, out).await
    }

    /// Appends a part of an answer of twice the length.
    fn append_half(&self, out: &mut Vec<u8>, count: usize) {
        if count > 0 {
            let answers = self.site.answers.borrow();
            answers.append_head(out, 2 * count as u64);
            answers.append_body(out, count);
        }
    }

    /// Begins an answer and resets the connection.
    async fn break_off(&self, conn: &Conn, count: usize, mut out: Buf) -> io::Result<Next> {
        self.append_half(&mut out, count);
        if !out.is_empty() {
            conn.send(out, STALL_MS).await.result?;
        }
        Ok(Next::Reset)
    }

    /// Begins an answer and says nothing more until the client goes away.
    async fn stall(&self, conn: &Conn, count: usize, mut out: Buf) -> io::Result<Next> {
        self.append_half(&mut out, count);
        flush(conn, &mut out);
        conn.clear_deadline();
        while conn.receive().await?.is_some() {}
        Ok(Next::Close)
    }
}

/// Appends the answer that takes up an offer of WebSocket.
fn append_switch(out: &mut Vec<u8>, accept: &[u8]) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    out.extend_from_slice(b"Sec-WebSocket-Accept: ");
    out.extend_from_slice(accept);
    out.extend_from_slice(b"\r\n\r\n");
}

/// Sends what is there, without waiting for its end.
fn flush(conn: &Conn, out: &mut Buf) {
    if !out.is_empty() {
        conn.send(std::mem::replace(out, Buf::small()), STALL_MS).detach();
    }
}

/// Sends what is there once it is much, and waits until the client has taken it.
async fn flush_when_full(conn: &Conn, out: Buf) -> io::Result<Buf> {
    if out.len() < FLUSH_BYTES {
        return Ok(out);
    }
    conn.send(out, STALL_MS).await.result?;
    Ok(Buf::small())
}

/// Sends the same bytes several times; returns their buffer.
async fn send_repeatedly(conn: &Conn, mut buf: Buf, times: u64) -> io::Result<Buf> {
    for _ in 0..times {
        let sent = conn.send(buf, STALL_MS).await;
        sent.result?;
        buf = sent.buf.ok_or(io::ErrorKind::BrokenPipe)?;
    }
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_are_random_and_within_their_bound() {
        assert_eq!(IdleTime::new(None).next_ms(), IDLE_MS);
        let idle = IdleTime::new(Some(Duration::from_millis(40)));
        let times: Vec<u64> = (0..2_000).map(|_| idle.next_ms()).collect();
        assert!((1..=40).all(|ms| times.contains(&ms)) && times.iter().all(|ms| (1..=40).contains(ms)));
    }
}
