//! A connection while requests are under way.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use sluice_sys::{Buf, Conn, now_ms};

use super::answer::{Answers, CHUNK_BYTES, INLINE_BYTES};
use super::route::Route;
use crate::http::request::{Event, Head, RequestReader};

/// A keep-alive connection without a request is closed after this long.
const IDLE_MS: u64 = 3_600_000;
/// A request must be complete, and a client take its answer, within this time.
const STALL_MS: u64 = 60_000;
/// Answers are sent when this much has come together, and at the latest when no request is left.
const FLUSH_BYTES: usize = 16 * 1024;

const TEXT: &str = "sluice-bench origin\n";

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    Close,
}

/// One worker's state; it serves one connection after another.
pub(super) struct Session {
    answers: Rc<RefCell<Answers>>,
    reader: RequestReader,
    request: Option<Head<Route>>,
}

impl Session {
    pub(super) fn new(answers: Rc<RefCell<Answers>>) -> Session {
        Session { answers, reader: RequestReader::default(), request: None }
    }

    /// Answers what comes, until the connection falls idle, which parks it, or ends.
    pub(super) async fn serve(&mut self, mut conn: Conn) {
        self.reader.reset();
        self.request = None;
        loop {
            let Ok(Some(lease)) = conn.receive().await else { return };
            self.answers.borrow_mut().set_clock(now_ms());
            match self.answer_all(&conn, &lease).await {
                Ok(Next::Continue) => {}
                Ok(Next::Close) | Err(_) => return conn.shutdown_write(),
            }
            drop(lease);
            if self.reader.is_between_requests() && self.request.is_none() {
                conn = match conn.park(IDLE_MS) {
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
                self.answers.borrow().append_text(&mut out, "400 Bad Request", "bad request\n", true);
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
                    self.request = Some(head);
                }
                Event::Body(_) => {}
                Event::End => {
                    let Some(head) = self.request.take() else { continue };
                    out = self.answer(conn, head, out).await?;
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
        match head.target {
            Route::Bytes(length) if head.is_head => self.answers.borrow().append_head(&mut out, length),
            Route::Bytes(length) if length <= INLINE_BYTES as u64 => {
                self.answers.borrow().append_bytes(&mut out, length as usize);
            }
            Route::Bytes(length) => {
                if !out.is_empty() {
                    conn.send(std::mem::replace(&mut out, Buf::small()), STALL_MS).detach();
                }
                self.send_large(conn, length).await?;
            }
            Route::Text => self.answers.borrow().append_text(&mut out, "200 OK", TEXT, !head.is_head),
            Route::Missing => {
                self.answers.borrow().append_text(&mut out, "404 Not Found", "no such path\n", !head.is_head);
            }
        }
        if out.len() >= FLUSH_BYTES {
            let full = std::mem::replace(&mut out, Buf::small());
            conn.send(full, STALL_MS).await.result?;
        }
        Ok(out)
    }

    /// Sends a body that does not fit into one buffer.
    async fn send_large(&self, conn: &Conn, length: u64) -> io::Result<()> {
        let beginning = self.answers.borrow_mut().take_beginning(length);
        let sent = conn.send(beginning, STALL_MS).await;
        if let Some(buf) = sent.buf {
            self.answers.borrow_mut().keep_beginning(length, buf);
        }
        sent.result?;
        let mut chunk = self.answers.borrow_mut().take_chunk();
        for _ in 0..length / CHUNK_BYTES as u64 {
            let sent = conn.send(chunk, STALL_MS).await;
            sent.result?;
            let Some(buf) = sent.buf else { return Ok(()) };
            chunk = buf;
        }
        self.answers.borrow_mut().keep_chunk(chunk);
        Ok(())
    }
}
