//! Handshake messages behind a handshake of TLS 1.3: KeyUpdate, and to a client NewSessionTicket. They may be cut over several
//! records or share one; what is left over waits here, and so do tickets that were not taken yet.

use std::collections::VecDeque;

use super::{Fault, Side};

/// The longest message that is read. Tickets that carry a chain of certificates have some kilobytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// The most tickets of one record that are kept; the others are dropped. No client needs more for its next connections.
pub const TICKETS_MAX: usize = 8;

const TYPE_NEW_SESSION_TICKET: u8 = 4;
pub(super) const TYPE_KEY_UPDATE: u8 = 24;

/// Type and length in front of every message.
const HEADER_BYTES: usize = 4;

/// What outlives a record: the beginning of a message, and tickets.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) partial: Vec<u8>,
    pub(super) tickets: VecDeque<Vec<u8>>,
}

impl Messages {
    pub(super) fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.tickets.is_empty()
    }
}

/// Whether the peer of a KeyUpdate waits for one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpdateRequest {
    NotRequested,
    Requested,
}

/// A whole message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    KeyUpdate(UpdateRequest),
    /// The body of a NewSessionTicket, without the header.
    Ticket(&'a [u8]),
}

/// The message at the front of `bytes` and what lies behind it; `None` if it is not all there. A fault is found as soon as the
/// bytes that show it are there.
pub(super) fn parse(side: Side, bytes: &[u8]) -> Result<Option<(Message<'_>, &[u8])>, Fault> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !(kind == TYPE_KEY_UPDATE || kind == TYPE_NEW_SESSION_TICKET && side == Side::Client) {
        return Err(Fault::Unexpected);
    }
    let Some((&[_, high, middle, low], rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let body_bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if body_bytes > MESSAGE_BYTES_MAX || kind == TYPE_KEY_UPDATE && body_bytes != 1 {
        return Err(Fault::Malformed);
    }
    let Some((body, rest)) = rest.split_at_checked(body_bytes) else { return Ok(None) };
    let message = match (kind, body) {
        (TYPE_KEY_UPDATE, [0]) => Message::KeyUpdate(UpdateRequest::NotRequested),
        (TYPE_KEY_UPDATE, [1]) => Message::KeyUpdate(UpdateRequest::Requested),
        //= https://www.rfc-editor.org/rfc/rfc8446#section-4.6.3
        (TYPE_KEY_UPDATE, _) => return Err(Fault::IllegalParameter),
        _ => Message::Ticket(body),
    };
    Ok(Some((message, rest)))
}
