//! The TLS of one connection, between its bytes and those of requests and answers.

use std::io::{self, BufRead, Write};

use rustls::client::ClientConnection;
use rustls::{CertificateError, Error};
use sluice_sys::{Buf, Conn, Sending};

use super::{Client, TlsTally};
use crate::fault::{Fault, TlsFault};

/// One connection's keys and buffers. It does not know its connection: who only holds one can drop this.
#[derive(Debug)]
pub(crate) struct Session {
    tls: ClientConnection,
    /// The server has said that nothing follows.
    is_closed: bool,
}

impl Session {
    /// Makes a handshake. The connection's deadline bounds it.
    pub(crate) async fn begin(client: &Client, conn: &Conn, timeout_ms: u64) -> Result<Session, Fault> {
        let mut tls = client.connection().map_err(|error| fault(&error))?;
        // A request body goes into records in one piece.
        tls.set_buffer_limit(None);
        let mut session = Session { tls, is_closed: false };
        session.flush(conn, timeout_ms);
        while session.tls.is_handshaking() {
            let received = conn.receive().await.map_err(|error| Fault::of_io(&error))?;
            let lease = received.ok_or(Fault::Closed)?;
            // A server sends no data before it has a request.
            let taken = session.take(&lease, |_| Err(Fault::Malformed));
            // Its last flight, or the alert that says what it did not like.
            session.flush(conn, timeout_ms);
            taken?;
        }
        if !client.protocol.is_agreed(session.tls.alpn_protocol()) {
            return Err(Fault::Tls(TlsFault::Protocol));
        }
        Ok(session)
    }

    /// Counts the handshake.
    pub(crate) fn count(&self, tally: &mut TlsTally, is_measured: bool) {
        tally.add_one(&self.tls, is_measured);
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, conn: &Conn, request: &[u8], timeout_ms: u64) -> Option<Sending> {
        // Without a limit it takes all of it.
        self.tls.writer().write_all(request).expect("there is no limit");
        self.flush(conn, timeout_ms)
    }

    /// Takes received bytes; their plaintext goes to `data`, piece by piece.
    pub(crate) fn take(
        &mut self,
        mut wire: &[u8],
        mut data: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while !wire.is_empty() && !self.is_closed {
            self.tls.read_tls(&mut wire).map_err(|error| Fault::of_io(&error))?;
            let state = self.tls.process_new_packets().map_err(|error| fault(&error))?;
            self.is_closed = state.peer_has_closed();
            let mut left = state.plaintext_bytes_to_read();
            let mut reader = self.tls.reader();
            while left > 0 {
                let piece = reader.fill_buf().map_err(|error: io::Error| Fault::of_io(&error))?;
                let length = piece.len();
                data(piece)?;
                reader.consume(length);
                left = left.saturating_sub(length);
            }
        }
        Ok(())
    }

    /// Sends what TLS has to say by itself, such as the answer to a key update.
    pub(crate) fn flush(&mut self, conn: &Conn, timeout_ms: u64) -> Option<Sending> {
        if !self.tls.wants_write() {
            return None;
        }
        let mut out = Buf::small();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut *out).expect("memory takes what is written to it");
        }
        Some(conn.send(out, timeout_ms))
    }

    /// Whether the server has said that nothing follows (close_notify). An end without it may be a truncation.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// What an error means, in a report's terms.
fn fault(error: &Error) -> Fault {
    Fault::Tls(match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => TlsFault::Name,
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => TlsFault::Certificate,
        Error::AlertReceived(alert) => TlsFault::Alert(u8::from(*alert)),
        _ => TlsFault::Protocol,
    })
}
