//! Gives rustls whole records, one at a time, and takes what it wants to send.

use rustls::Error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData};

use super::Progress;

/// The header of a record.
pub(super) const HEADER_BYTES: usize = 5;

/// The most bytes of records that wait until the handshake message which they are parts of is complete. Rustls bounds a message at
/// 64 KiB; this bounds messages in many small records.
pub(super) const WAITING_BYTES_MAX: usize = 80 * 1024;

/// Why a handshake ended.
pub(super) enum Trouble {
    /// Rustls says so.
    Rustls(Error),
    /// A handshake message in too many small records.
    TooManyBytes,
}

/// A connection of rustls.
pub(super) trait Connection {
    /// Works on the records; says how many bytes of them are to be dropped.
    fn step(&mut self, records: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Step, Error>);
    /// The handshake is not complete.
    fn is_handshaking(&self) -> bool;
    /// There is something to send.
    fn wants_write(&self) -> bool;
}

/// What is to be done next.
pub(super) enum Step {
    /// Call again.
    Again,
    /// Nothing more happens without more bytes.
    Rest,
}

impl Connection for UnbufferedServerConnection {
    fn step(&mut self, records: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        let status = self.process_tls_records(records);
        (status.discard, status.state.and_then(|state| handle::<ServerConnectionData>(state, out)))
    }

    fn is_handshaking(&self) -> bool {
        (**self).is_handshaking()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}

impl Connection for UnbufferedClientConnection {
    fn step(&mut self, records: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        let status = self.process_tls_records(records);
        (status.discard, status.state.and_then(|state| handle::<ClientConnectionData>(state, out)))
    }

    fn is_handshaking(&self) -> bool {
        (**self).is_handshaking()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}

fn handle<D>(state: ConnectionState<'_, '_, D>, out: &mut Vec<u8>) -> Result<Step, Error> {
    match state {
        ConnectionState::EncodeTlsData(data) => {
            append(data, out)?;
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => Ok(Step::Rest),
        ConnectionState::PeerClosed | ConnectionState::Closed => {
            Err(Error::AlertReceived(rustls::AlertDescription::CloseNotify))
        }
        // Rustls gets no record behind the handshake, and early data is off.
        _ => Err(Error::General("application data within the handshake".into())),
    }
}

fn append<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    // It says how long it is when there is not enough room.
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else {
        return Err(Error::General("nothing to encode".into()));
    };
    out.resize(start + needed.required_size, 0);
    let written = data.encode(&mut out[start..]).map_err(|error| Error::General(error.to_string()))?;
    out.truncate(start + written);
    Ok(())
}

/// The length of the record at the front, or of its header alone if rustls is to refuse it by that; `None`: not all is there.
pub(super) fn record_bytes(input: &[u8]) -> Option<usize> {
    let (header, _) = input.split_first_chunk::<HEADER_BYTES>()?;
    let body_bytes = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let is_known = (20..=24).contains(&header[0]) && header[1] == 3;
    if !is_known || HEADER_BYTES + body_bytes > crate::record::RECORD_BYTES_MAX {
        // No need to wait for a body that does not count.
        return Some(HEADER_BYTES);
    }
    (input.len() >= HEADER_BYTES + body_bytes).then_some(HEADER_BYTES + body_bytes)
}

/// Gives rustls one record; `waiting` keeps those whose handshake message is not complete.
pub(super) fn give(
    connection: &mut impl Connection,
    waiting: &mut Vec<u8>,
    record: &[u8],
    out: &mut Vec<u8>,
) -> Result<Progress, Trouble> {
    if waiting.len() + record.len() > WAITING_BYTES_MAX {
        return Err(Trouble::TooManyBytes);
    }
    waiting.extend_from_slice(record);
    run(connection, waiting, out)?;
    if waiting.is_empty() {
        // Most connections wait for the next flight now, and idle ones should not hold a buffer meanwhile.
        *waiting = Vec::new();
    }
    Ok(if connection.is_handshaking() { Progress::More } else { Progress::Done })
}

/// Lets rustls work until it wants more bytes.
pub(super) fn run(
    connection: &mut impl Connection,
    waiting: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), Trouble> {
    loop {
        let (used, result) = connection.step(waiting, out);
        waiting.drain(..used);
        match result {
            Ok(Step::Again) => {}
            Ok(Step::Rest) => return Ok(()),
            Err(error) => {
                append_alert(connection, waiting, out);
                return Err(Trouble::Rustls(error));
            }
        }
    }
}

/// What rustls wants to send on a failure; it is not asked to work on records again, since it would judge them again.
fn append_alert(connection: &mut impl Connection, waiting: &mut [u8], out: &mut Vec<u8>) {
    while connection.wants_write() {
        let Ok(Step::Again) = connection.step(waiting, out).1 else { return };
    }
}
