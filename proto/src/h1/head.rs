//! Reads the head of a request or a response.
//!
//! Owns the order of the checks: `httparse` scans the window of bytes that the limits allow, one pass over its fields turns
//! them into spans and notes what framing, routing and persistence need, and the rules of RFC 9112 decide. `httparse` is more
//! tolerant than we are about line ends; every line end is checked here. Nothing is kept between calls: a head that arrives in
//! pieces is scanned again from its start, at most `head_bytes_max` bytes of it.
//!
//! The first fault in byte order wins, so a head that was refused stays refused for the same cause when more bytes arrive.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use super::diagnose;
use super::target::{self, Target};
use crate::ascii;
use crate::fault::Fault;
use crate::fields::{FieldId, FieldSet, FieldSpan, Fields, offset_in};
use crate::framing::FramingFields;
use crate::hop_by_hop::ConnectionOptions;
use crate::limits::{FIELDS_HARD_MAX, HeadLimits, LEADING_LINES_MAX, METHOD_BYTES_MAX};
use crate::message::{BodyLength, Method, RequestHead, RequestKind, ResponseHead, Version};

/// Scratch space of the parser, one per connection or per shard. Once it has seen a typical head it does not allocate again.
#[derive(Debug, Default)]
pub struct HeadStore {
    spans: Vec<FieldSpan>,
    /// Holds the target when it cannot be borrowed from the head: `http://host?query` has no path to point at.
    target: String,
}

/// What the parser made of the bytes so far.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<T> {
    /// The head is complete and acceptable.
    Complete {
        /// The head, borrowed from the bytes and the store.
        head: T,
        /// Bytes consumed: empty lines before the head, the head, and its final CRLFCRLF.
        bytes: usize,
    },
    /// Nothing is wrong so far; call again, with the same bytes and more.
    Partial,
}

type Slots<'a> = [MaybeUninit<httparse::Header<'a>>; FIELDS_HARD_MAX];

/// Parses the request head at the start of `bytes`.
///
/// # Errors
///
/// The first [`Fault`] in byte order, then those that need the whole head. Also while the head is incomplete: a limit that is
/// already passed, or bytes that no continuation can turn into a request.
pub fn parse_request<'a>(
    bytes: &'a [u8],
    store: &'a mut HeadStore,
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'a>>, Fault> {
    let Some(skipped) = skip_leading_lines(bytes)? else { return Ok(Parsed::Partial) };
    let window = window(&bytes[skipped..], limits);
    let mut slots: Slots<'a> = [const { MaybeUninit::uninit() }; FIELDS_HARD_MAX];
    let mut scanned = httparse::Request::new(&mut []);
    match scanned.parse_with_uninit_headers(window, &mut slots[..limits.fields()]) {
        Ok(httparse::Status::Complete(len)) => {
            let head = accept_request(&window[..len], &scanned, store, limits)?;
            Ok(Parsed::Complete { head, bytes: skipped + len })
        }
        Ok(httparse::Status::Partial) => {
            check_partial_request_line(window, limits)?;
            partial(window, limits)
        }
        Err(_) => Err(diagnose::request(window, limits)),
    }
}

/// Parses the response head at the start of `bytes`; `request` says what it answers.
///
/// # Errors
///
/// As [`parse_request`]; the caller answers 502 whatever [`Fault::status`] says.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    store: &'a mut HeadStore,
    limits: &HeadLimits,
    request: &RequestKind,
) -> Result<Parsed<ResponseHead<'a>>, Fault> {
    // httparse would skip empty lines; a response has nothing in front of it.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Fault::InvalidStatus);
    }
    let window = window(bytes, limits);
    let mut slots: Slots<'a> = [const { MaybeUninit::uninit() }; FIELDS_HARD_MAX];
    let mut scanned = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut scanned, window, &mut slots[..limits.fields()]) {
        Ok(httparse::Status::Complete(len)) => {
            let head = accept_response(&window[..len], &scanned, store, limits, *request)?;
            Ok(Parsed::Complete { head, bytes: len })
        }
        Ok(httparse::Status::Partial) => partial(window, limits),
        Err(_) => Err(diagnose::response(window, limits)),
    }
}

/// The bytes a head may occupy. Parsing never looks beyond them, so an overlong head looks partial and is caught as such.
fn window<'a>(bytes: &'a [u8], limits: &HeadLimits) -> &'a [u8] {
    &bytes[..bytes.len().min(limits.head_bytes())]
}

/// The answer for a head without an end: wait, or give up when it has filled its window.
fn partial<T>(window: &[u8], limits: &HeadLimits) -> Result<Parsed<T>, Fault> {
    if window.len() >= limits.head_bytes() { Err(Fault::HeadTooLarge) } else { Ok(Parsed::Partial) }
}

/// How many bytes of empty lines precede the request line, or `None` while that is not yet known.
//= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
fn skip_leading_lines(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let mut skipped = 0;
    loop {
        match bytes.get(skipped..).unwrap_or_default() {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if skipped == 2 * LEADING_LINES_MAX => return Err(Fault::LeadingEmptyLines),
            [b'\r', b'\n', ..] => skipped += 2,
            [b'\r', ..] => return Err(Fault::BareCr),
            [b'\n', ..] => return Err(Fault::BareLf),
            _ => return Ok(Some(skipped)),
        }
    }
}

/// Gives up on a request line that is too long before its end has been seen.
fn check_partial_request_line(window: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
    let method_is_long = window.len() > METHOD_BYTES_MAX && !window[..=METHOD_BYTES_MAX].contains(&b' ');
    // The two bytes more are the line's CRLF.
    let line_is_long = window
        .get(..limits.request_line_bytes_max.saturating_add(2))
        .is_some_and(|start| memchr::memchr(b'\n', start).is_none());
    if method_is_long || line_is_long { Err(diagnose::request(window, limits)) } else { Ok(()) }
}

/// Applies the rules to a request that httparse has found complete. `head` ends with its empty line.
fn accept_request<'a>(
    head: &'a [u8],
    scanned: &httparse::Request<'_, 'a>,
    store: &'a mut HeadStore,
    limits: &HeadLimits,
) -> Result<RequestHead<'a>, Fault> {
    let HeadStore { spans, target: scratch } = store;
    let name = scanned.method.unwrap_or_default();
    let target = scanned.path.unwrap_or_default();
    let version = version(scanned.version);
    let line_len = offset_in(head, target.as_bytes()) + target.len() + " HTTP/1.1".len();
    if name.len() > METHOD_BYTES_MAX || line_len > limits.request_line_bytes_max {
        return Err(diagnose::request(head, limits));
    }
    let seen = Seen::scan(head, scanned.headers, spans, Direction::Request)?
        .ok_or_else(|| diagnose::request(head, limits))?;

    let method = Method::parse(name);
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
    // A gateway may decline to be a tunnel; 501 says that it does so for every target.
    if method == Method::Connect {
        return Err(Fault::ConnectUnsupported);
    }
    let Target { path_and_query, path, authority } = target::parse(target, method, scratch)?;
    let authority = target::check_host(authority, seen.host, version, path_and_query == "*")?;
    let body = seen.framing.request_body(version)?;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.8
    // "A client MUST NOT send content in a TRACE request."
    if method == Method::Trace && !body.is_empty() {
        return Err(Fault::TraceWithBody);
    }
    let head = RequestHead {
        method,
        path_and_query,
        path,
        authority,
        version,
        body,
        persistent: seen.is_persistent(version),
        expect_continue: seen.is_waiting_for_continue(version, body)?,
        wants_upgrade: seen.is_upgrading(version),
        trailers: seen.connection.trailer_rule(),
        fields: Fields { bytes: head, spans, present: seen.present },
    };
    if head.fields.has(FieldId::MaxForwards) && !head.has_valid_max_forwards() {
        return Err(Fault::InvalidMaxForwards);
    }
    Ok(head)
}

/// Applies the rules to a response that httparse has found complete. `head` ends with its empty line.
fn accept_response<'a>(
    head: &'a [u8],
    scanned: &httparse::Response<'_, 'a>,
    store: &'a mut HeadStore,
    limits: &HeadLimits,
    request: RequestKind,
) -> Result<ResponseHead<'a>, Fault> {
    let version = version(scanned.version);
    let status = scanned.code.unwrap_or_default();
    let spans = &mut store.spans;
    let seen = Seen::scan(head, scanned.headers, spans, Direction::Response)?
        .ok_or_else(|| diagnose::response(head, limits))?;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15
    if !(100..=599).contains(&status) {
        return Err(Fault::InvalidStatus);
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    // "HTTP/1.0 did not define any 1xx status codes": whoever sends one in that version means something else by it.
    if version == Version::Http10 && status < 200 {
        return Err(Fault::InterimInHttp10);
    }
    let body = seen.framing.response_body(version, status, request)?;
    // A body that only closing ends uses the connection up.
    let persistent = body != BodyLength::UntilClose && seen.is_persistent(version);
    let line_end = spans.first().map_or(head.len() - 2, FieldSpan::name_start) - 2;
    // The space and the phrase are both optional in practice, whatever the grammar says about the space.
    let reason = head.get("HTTP/1.1 200 ".len()..line_end).unwrap_or_default();
    Ok(ResponseHead {
        status,
        reason,
        version,
        body,
        persistent,
        has_date: seen.present.contains(FieldId::Date),
        trailers: seen.connection.trailer_rule(),
        fields: Fields { bytes: head, spans, present: seen.present },
    })
}

/// httparse reports the minor version, and only of 1.0 and 1.1.
fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// What one pass over the fields has found.
#[derive(Default)]
struct Seen<'a> {
    present: FieldSet,
    framing: FramingFields,
    connection: ConnectionOptions,
    host: Option<&'a [u8]>,
    expect: Expect,
}

/// What the Expect fields of a request ask for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Nothing,
    Continue,
    Unknown,
}

/// The fields that [`Seen::note`] acts on; all others are only recorded.
const NOTED: FieldSet = FieldSet::of(&[
    FieldId::Connection,
    FieldId::ContentLength,
    FieldId::TransferEncoding,
    FieldId::Host,
    FieldId::Expect,
    FieldId::Underscored,
]);

impl<'a> Seen<'a> {
    /// Records all fields in `spans` and reads those that decide something. `None` when a line does not end with CRLF.
    fn scan(
        head: &'a [u8],
        fields: &[httparse::Header<'a>],
        spans: &mut Vec<FieldSpan>,
        direction: Direction,
    ) -> Result<Option<Self>, Fault> {
        let mut seen = Self::default();
        spans.clear();
        spans.reserve(fields.len());
        for field in fields {
            let span = FieldSpan::locate(head, field.name.as_bytes(), field.value);
            //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
            // httparse ends a line at CRLF or at LF and lets no other CR through. So it is enough to look at the byte in front
            // of each LF: two before the start of each line, and below at the last two lines.
            if span.name_start().checked_sub(2).is_none_or(|before_lf| head[before_lf] != b'\r') {
                return Ok(None);
            }
            seen.present.insert(span.id());
            if NOTED.contains(span.id()) {
                seen.note(span.id(), field.value, direction)?;
            }
            spans.push(span);
        }
        if !head.ends_with(b"\r\n\r\n") {
            return Ok(None);
        }
        if seen.present.contains(FieldId::Connection) {
            seen.connection.mark_named(head, spans);
        }
        Ok(Some(seen))
    }

    /// Takes in one of the fields that decide something.
    fn note(&mut self, id: FieldId, value: &'a [u8], direction: Direction) -> Result<(), Fault> {
        match (id, direction) {
            (FieldId::ContentLength, _) => self.framing.add_content_length(value),
            (FieldId::TransferEncoding, _) => self.framing.add_transfer_encoding(value),
            (FieldId::Connection, _) => self.connection.add(value),
            (FieldId::Underscored, Direction::Request) => Err(Fault::UnderscoredFieldName),
            (FieldId::Host, Direction::Request) => match self.host.replace(value) {
                //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
                Some(_) => Err(Fault::RepeatedHost),
                None => Ok(()),
            },
            (FieldId::Expect, Direction::Request) => {
                //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
                let known =
                    ascii::list_members(value).all(|member| member.eq_ignore_ascii_case(b"100-continue"));
                if self.expect != Expect::Unknown {
                    self.expect = if known { Expect::Continue } else { Expect::Unknown };
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// True when the sender will use the connection again.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    fn is_persistent(&self, version: Version) -> bool {
        !self.connection.close && (version == Version::Http11 || self.connection.keep_alive)
    }

    /// True when the client holds its body back until it is told to go on.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    fn is_waiting_for_continue(&self, version: Version, body: BodyLength) -> Result<bool, Fault> {
        match (version, self.expect) {
            // "MUST ignore that expectation"
            (Version::Http10, _) | (_, Expect::Nothing) => Ok(false),
            (Version::Http11, Expect::Unknown) => Err(Fault::Expectation),
            // Without a body there is nothing to hold back.
            (Version::Http11, Expect::Continue) => Ok(!body.is_empty()),
        }
    }

    /// True when the client offers to change protocols.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
    fn is_upgrading(&self, version: Version) -> bool {
        // "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request"
        version == Version::Http11
            && self.present.contains(FieldId::Upgrade)
            && self.connection.names(FieldId::Upgrade)
    }
}
