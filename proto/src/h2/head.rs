//! Heads of HTTP/2: from the fields of a block to lines in the form of HTTP/1.1, with all rules of RFC 9113 section 8.
//!
//! Owns the rules for fields and the room that a head is kept in. What makes a request or a response of the fields is in `request`
//! and `response`; `encode` is the way back. Called by the session with each field of a block as HPACK decodes it.
//!
//! Each field becomes a line `name: value` CRLF as the writers of `h1` would write it, so that they copy it. A fault ends the work:
//! the rest of the block is decoded for the sake of HPACK's table, and not looked at.

use alloc::string::String;
use alloc::vec::Vec;

use super::hpack::Header;
use super::names::{self, Pseudo};
use super::priority::Priority;
use super::request::Request;
use super::response::Response;
use crate::ascii::{self, LOWER_TOKEN};
use crate::edits::FieldEdits;
use crate::facts::{Direction, Facts, NOTED};
use crate::fault::Fault;
use crate::fields::{FieldId, FieldSet, FieldSpan, Fields};
use crate::h1::Scheme;
use crate::h1::scan::find_control;
use crate::limits::HeadLimits;
use crate::message::RequestKind;
use crate::trailers::{Trailers, is_allowed};

/// A head that was decoded: its fields as canonical lines, with the places of all parts. Used again from head to head.
#[derive(Debug, Default)]
pub struct HeadLines {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: Vec<FieldSpan>,
    /// The values of pseudo-header fields and of Host.
    pub(super) text: String,
    /// Cookie crumbs that did not follow each other, each with `; ` in front.
    crumbs: Vec<u8>,
    pub(super) state: State,
}

/// What a response gains on its way to the client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseFields<'a> {
    /// The value for Date, used when the upstream sent none.
    pub date: Option<&'a str>,
    /// The Strict-Transport-Security field as a whole line with its end, in place of those that the upstream sent.
    pub hsts: Option<&'a str>,
    /// A Set-Cookie field of ours, as a whole line with its end; beside those that the upstream sent.
    pub set_cookie: Option<&'a str>,
    /// The value for Content-Type in place of the one that the upstream sent.
    pub content_type: Option<&'a [u8]>,
    /// What the configuration changes about the fields.
    pub edits: Option<FieldEdits<'a>>,
}

/// Which kind of block is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// A request that came by a connection of this scheme. `allows_protocol`: we have announced extended CONNECT.
    Request { scheme: Scheme, allows_protocol: bool },
    /// A response to a request of this kind; [`RequestKind::Connect`] for extended CONNECT too.
    Response(RequestKind),
    /// Trailers of either.
    Trailers,
}

/// Why a head is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadFault {
    /// Malformed (section 8.1.1): the stream is reset with PROTOCOL_ERROR.
    Malformed(Fault),
    /// Well-formed, and refused with the fault's status: too large, too many fields, an unknown expectation.
    Refused(Fault),
}

impl From<Fault> for HeadFault {
    fn from(fault: Fault) -> Self {
        match fault {
            // Limits, and rules of ours or of HTTP in general: the head can be understood, and the client learns why it gets no more.
            Fault::HeadTooLarge
            | Fault::TooManyFields
            | Fault::TrailersTooLarge
            | Fault::TooManyTrailers
            | Fault::RequestLineTooLong
            | Fault::MethodTooLong
            | Fault::UnderscoredFieldName
            | Fault::InvalidPercentEncoding
            | Fault::TraceWithBody
            | Fault::InvalidMaxForwards
            | Fault::Expectation => Self::Refused(fault),
            _ => Self::Malformed(fault),
        }
    }
}

/// What is known of the block so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    block: Option<Block>,
    fault: Option<HeadFault>,
    /// As SETTINGS_MAX_HEADER_LIST_SIZE counts.
    size: usize,
    /// The pseudo-header fields that came, one bit each.
    pub(super) pseudo: u8,
    /// A field that is none has come.
    has_fields: bool,
    pub(super) facts: Facts,
    /// Which of the spans is the line of all cookie crumbs.
    cookie: Option<u16>,
    priority: Priority,
    pub(super) request: Request,
    pub(super) response: Response,
}

/// A part of the text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    start: u32,
    len: u32,
}

impl Place {
    pub(super) fn new(start: usize, len: usize) -> Place {
        Place { start: start as u32, len: len as u32 }
    }

    pub(super) fn range(self) -> core::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// What a field costs beyond its bytes.
//= https://www.rfc-editor.org/rfc/rfc9113#section-10.5.1
const FIELD_OVERHEAD: usize = 32;

/// Fields that belong to a connection of HTTP/1.1.
//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
const CONNECTION_SPECIFIC: FieldSet = FieldSet::of(&[
    FieldId::Connection,
    FieldId::KeepAlive,
    FieldId::ProxyConnection,
    FieldId::TransferEncoding,
    FieldId::Upgrade,
    FieldId::Http2Settings,
]);

/// The fields that are not simply recorded.
const JUDGED: FieldSet =
    NOTED.union(CONNECTION_SPECIFIC).union(FieldSet::of(&[FieldId::Te, FieldId::Host, FieldId::Cookie]));

impl HeadLines {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.text.capacity()
            + self.crumbs.capacity()
            + self.spans.capacity() * size_of::<FieldSpan>()
    }

    #[cfg(test)]
    pub(super) fn crumbs_len(&self) -> usize {
        self.crumbs.len()
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, block: Block) {
        self.bytes.clear();
        self.spans.clear();
        self.text.clear();
        self.crumbs.clear();
        self.state = State { block: Some(block), ..State::default() };
    }

    /// Takes in the next field. After a fault the others are looked at no more.
    #[inline]
    pub(crate) fn add(&mut self, header: Header<'_>, limits: &HeadLimits) {
        if self.state.fault.is_none()
            && let Err(fault) = self.take(&header, limits)
        {
            self.state.fault = Some(fault.into());
        }
    }

    /// The head is complete. `is_end`: no body follows.
    pub(crate) fn finish(&mut self, is_end: bool) -> Result<(), HeadFault> {
        self.state.fault.map_or(Ok(()), Err)?;
        self.join_crumbs();
        match self.state.block {
            Some(Block::Request { scheme, .. }) => self.finish_request(scheme, is_end)?,
            Some(Block::Response(kind)) => self.finish_response(kind, is_end)?,
            Some(Block::Trailers) | None => debug_assert!(false, "no head was begun"),
        }
        Ok(())
    }

    /// The trailers are complete; whether any of them may be forwarded.
    pub(crate) fn finish_trailers(&mut self) -> Result<bool, HeadFault> {
        self.state.fault.map_or(Ok(()), Err)?;
        Ok(self.spans.iter().any(is_allowed))
    }

    /// The trailers that were decoded last, of which some may be forwarded.
    pub fn copy_trailers(&self, to: &mut Trailers) {
        to.fill(&self.bytes, &self.spans);
    }

    /// The urgency (0 to 7, 3 where nothing is said) and whether it is incremental, by the Priority field (RFC 9218).
    pub(crate) fn priority(&self) -> (u8, bool) {
        let Priority { urgency, incremental } = self.state.priority;
        (urgency, incremental)
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        Fields { bytes: &self.bytes, spans: &self.spans, present: self.state.facts.present }
    }

    fn take(&mut self, header: &Header<'_>, limits: &HeadLimits) -> Result<(), Fault> {
        let &Header { name, value, static_name, is_never_indexed } = header;
        let state = &mut self.state;
        state.size += name.len() + value.len() + FIELD_OVERHEAD;
        if state.size > limits.head_bytes() {
            return Err(if state.is_trailers() { Fault::TrailersTooLarge } else { Fault::HeadTooLarge });
        }
        let Some(id) = names::id_at(static_name) else {
            if name.first() == Some(&b':') {
                let pseudo = Pseudo::of(static_name, name).ok_or(Fault::UnexpectedPseudoHeader)?;
                return self.take_pseudo(pseudo, value, limits);
            }
            check_name(name)?;
            return self.take_field(FieldId::classify(name), name, value, is_never_indexed, limits);
        };
        self.take_field(id, name, value, is_never_indexed, limits)
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3
    fn take_pseudo(&mut self, pseudo: Pseudo, value: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
        let State { has_fields, pseudo: seen, .. } = &mut self.state;
        // "Any request or response that contains a pseudo-header field that appears in a field block after a regular field line MUST
        // be treated as malformed"; the same for a name that repeats.
        if *has_fields {
            return Err(Fault::LatePseudoHeader);
        }
        if *seen & pseudo as u8 != 0 {
            return Err(Fault::RepeatedPseudoHeader);
        }
        *seen |= pseudo as u8;
        match (self.state.block, pseudo) {
            (Some(Block::Request { scheme, allows_protocol }), _) => {
                self.take_request_pseudo(pseudo, value, scheme, allows_protocol, limits)
            }
            (Some(Block::Response(_)), Pseudo::Status) => self.take_status(value),
            _ => Err(Fault::UnexpectedPseudoHeader),
        }
    }

    #[inline]
    fn take_field(
        &mut self,
        id: FieldId,
        name: &[u8],
        value: &[u8],
        is_never_indexed: bool,
        limits: &HeadLimits,
    ) -> Result<(), Fault> {
        self.state.has_fields = true;
        check_value(value)?;
        if JUDGED.contains(id) && self.judge(id, value)? == Taken::Whole {
            return Ok(());
        }
        if self.spans.len() >= limits.fields() {
            let is_trailers = self.state.is_trailers();
            return Err(if is_trailers { Fault::TooManyTrailers } else { Fault::TooManyFields });
        }
        if id == FieldId::Other && name == b"priority" {
            self.state.priority.read(value);
        }
        self.state.facts.present.insert(id);
        self.put_line(id, name, value);
        if is_never_indexed && let Some(span) = self.spans.last_mut() {
            span.set_never_indexed();
        }
        Ok(())
    }

    /// Applies the rules for one of the fields that have some. Says whether the field still has to become a line.
    fn judge(&mut self, id: FieldId, value: &[u8]) -> Result<Taken, Fault> {
        if CONNECTION_SPECIFIC.contains(id) {
            return Err(Fault::ConnectionSpecificField);
        }
        let direction = match self.state.block {
            Some(Block::Request { .. }) => Direction::Request,
            Some(Block::Response(_)) => Direction::Response,
            // What may not come that late is dropped, whatever it says.
            _ if id == FieldId::Te => return Err(Fault::ConnectionSpecificField),
            _ => return Ok(Taken::No),
        };
        match (id, direction) {
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
            // "The only exception to this is the TE header field, which MAY be present in an HTTP/2 request; when it is, it MUST NOT
            // contain any value other than "trailers"."
            (FieldId::Te, Direction::Request) if value.eq_ignore_ascii_case(b"trailers") => Ok(Taken::No),
            (FieldId::Te, _) => Err(Fault::ConnectionSpecificField),
            (FieldId::Host, Direction::Request) => self.take_host(value).map(|()| Taken::Whole),
            (FieldId::Cookie, Direction::Request) => Ok(self.take_crumb(value)),
            _ => self.state.facts.note(id, value, direction).map(|()| Taken::No),
        }
    }

    /// Adds to the line of cookies, unless this is the first.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3
    // "these MUST be concatenated into a single octet string using the two-octet delimiter of 0x3b, 0x20"
    fn take_crumb(&mut self, value: &[u8]) -> Taken {
        let Some(index) = self.state.cookie else {
            self.state.cookie = Some(self.spans.len() as u16);
            return Taken::No;
        };
        let span = &mut self.spans[usize::from(index)];
        if span.line_end() == self.bytes.len() {
            self.bytes.truncate(self.bytes.len() - "\r\n".len());
            self.bytes.extend_from_slice(b"; ");
            self.bytes.extend_from_slice(value);
            self.bytes.extend_from_slice(b"\r\n");
            span.extend_value("; ".len() + value.len());
        } else {
            // To move the line each time would take time that grows with the square of the crumbs.
            self.crumbs.extend_from_slice(b"; ");
            self.crumbs.extend_from_slice(value);
        }
        Taken::Whole
    }

    /// Writes the line of cookies again with those crumbs that came later. Its place among the spans stays.
    fn join_crumbs(&mut self) {
        let Some(index) = self.state.cookie.filter(|_| !self.crumbs.is_empty()) else { return };
        let start = self.bytes.len();
        let span = &mut self.spans[usize::from(index)];
        self.bytes.extend_from_within(span.name_start()..span.line_end() - "\r\n".len());
        self.bytes.extend_from_slice(&self.crumbs);
        self.bytes.extend_from_slice(b"\r\n");
        span.move_to(start);
        span.extend_value(self.crumbs.len());
    }

    /// Appends a line.
    #[inline]
    pub(super) fn put_line(&mut self, id: FieldId, name: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.reserve(name.len() + value.len() + ": \r\n".len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        let value_start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let value_place = value_start..self.bytes.len();
        self.bytes.extend_from_slice(b"\r\n");
        self.spans.push(FieldSpan::new(name, id, start, value_place, true));
    }

    /// Keeps a text.
    pub(super) fn put_text(&mut self, text: &str) -> Place {
        let start = self.text.len();
        self.text.push_str(text);
        Place::new(start, text.len())
    }

    pub(super) fn text(&self, place: Place) -> &str {
        &self.text[place.range()]
    }
}

impl State {
    fn is_trailers(&self) -> bool {
        self.block == Some(Block::Trailers)
    }

    pub(super) fn has(&self, pseudo: Pseudo) -> bool {
        self.pseudo & pseudo as u8 != 0
    }
}

/// Whether a field has been dealt with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Whole,
    No,
}

//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.1
// "A field name MUST NOT contain characters in the ranges 0x00-0x20, 0x41-0x5a, or 0x7f-0xff": nor what else is not in a token.
#[inline]
fn check_name(name: &[u8]) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::EmptyFieldName);
    }
    let is_valid = name.iter().all(|&byte| LOWER_TOKEN.contains(byte));
    if is_valid { Ok(()) } else { Err(Fault::InvalidFieldName) }
}

//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.1
// "A field value MUST NOT start or end with an ASCII whitespace character"
#[inline]
fn check_value(value: &[u8]) -> Result<(), Fault> {
    if let (Some(&first), Some(&last)) = (value.first(), value.last())
        && (ascii::is_ows(first) || ascii::is_ows(last))
    {
        return Err(Fault::SpaceAroundFieldValue);
    }
    if find_control(value, 0).is_none() { Ok(()) } else { Err(Fault::InvalidFieldValue) }
}
