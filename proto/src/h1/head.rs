//! Reads the head of a request or a response.
//!
//! Owns the order of the checks: `scan` takes the lines off the window of bytes that the limits allow, what framing, routing and
//! persistence need is noted as each field goes by, and the rules of RFC 9112 decide. Nothing is kept between calls: a head that
//! arrives in pieces is scanned again from its start, at most `head_bytes_max` bytes of it.
//!
//! The first fault of syntax in byte order wins, so a head that was refused stays refused for the same cause when more bytes
//! arrive. What a well-formed head says is judged when it is whole.

use alloc::string::String;
use alloc::vec::Vec;

use super::Framing;
use super::diagnose::{self, Incomplete, Stopped};
use super::scan::{Line, Lines, RequestLine, StatusLine};
use super::target::{self, Target};
use crate::facts::{self, Direction, Facts};
use crate::fault::Fault;
use crate::fields::{FieldId, FieldSet, FieldSpan, Fields};
use crate::limits::{HeadLimits, LEADING_LINES_MAX};
use crate::message::{RequestHead, RequestKind, ResponseHead, Version};

/// Scratch space of the parser, one per connection or per shard. Once it has seen a typical head it does not allocate again.
#[derive(Debug, Default)]
pub struct HeadStore {
    spans: Vec<FieldSpan>,
    /// Holds the target when it cannot be borrowed from the head: `http://host?query` has no path to point at.
    target: String,
    scheme: Scheme,
}

impl HeadStore {
    /// From now on requests come by a connection of this scheme.
    pub fn set_scheme(&mut self, scheme: Scheme) {
        self.scheme = scheme;
    }
}

/// The scheme of a connection: what an absolute target on it has to name.
//= https://www.rfc-editor.org/rfc/rfc9110#section-4.2
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    #[default]
    Http,
    /// `https`: the connection is secured.
    Https,
}

impl Scheme {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The result of parsing the bytes so far.
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
    let mut lines = Lines::new(window);
    let Some(line) = lines.request_line() else {
        return partial(diagnose::request_line(window, limits)?, window, limits);
    };
    if line.len > limits.request_line_bytes_max {
        return Err(Fault::RequestLineTooLong);
    }
    let mut seen = Seen::default();
    match seen.scan(&mut lines, &mut store.spans, limits, Direction::Request) {
        Ok(()) => {
            let head = accept_request(&window[..lines.len()], &line, &seen, store)?;
            Ok(Parsed::Complete { head, bytes: skipped + lines.len() })
        }
        Err(stopped) => partial(diagnose::fields(window, stopped, limits)?, window, limits),
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
    let window = window(bytes, limits);
    let mut lines = Lines::new(window);
    let Some(line) = lines.status_line() else {
        return partial(diagnose::status_line(window)?, window, limits);
    };
    let mut seen = Seen::default();
    match seen.scan(&mut lines, &mut store.spans, limits, Direction::Response) {
        Ok(()) => {
            let head = accept_response(&window[..lines.len()], &line, &seen, &store.spans, *request)?;
            Ok(Parsed::Complete { head, bytes: lines.len() })
        }
        Err(stopped) => partial(diagnose::fields(window, stopped, limits)?, window, limits),
    }
}

/// The bytes a head may occupy. Parsing never looks beyond them, so an overlong head looks partial and is caught as such.
fn window<'a>(bytes: &'a [u8], limits: &HeadLimits) -> &'a [u8] {
    &bytes[..bytes.len().min(limits.head_bytes())]
}

/// The answer for a head without an end: wait, or give up when it has filled its window.
fn partial<T>(_: Incomplete, window: &[u8], limits: &HeadLimits) -> Result<Parsed<T>, Fault> {
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

/// Applies the rules to a request whose lines are well-formed. `head` ends with its empty line.
fn accept_request<'a>(
    head: &'a [u8],
    line: &RequestLine<'a>,
    seen: &Seen<'a>,
    store: &'a mut HeadStore,
) -> Result<RequestHead<'a>, Fault> {
    let HeadStore { spans, target: scratch, scheme } = store;
    let scheme = *scheme;
    let &RequestLine { method, version, .. } = line;
    seen.fault.map_or(Ok(()), Err)?;
    let Target { path_and_query, path, authority, text: target_text } = target::parse(line, scheme, scratch)?;
    let authority = target::check_host(authority, seen.host, version, method, path_and_query == "*", scheme)?;
    let body = seen.facts.framing.request_body(version)?.length();
    facts::check_content(method, body)?;
    let head = RequestHead {
        method,
        path_and_query,
        path,
        target_text,
        authority,
        version,
        body,
        persistent: seen.is_persistent(version),
        expect_continue: seen.facts.is_waiting_for_continue(version, body)?,
        wants_upgrade: seen.is_upgrading(version),
        trailers: seen.facts.connection.trailer_rule(),
        fields: Fields { bytes: head, spans, present: seen.facts.present },
    };
    facts::check_max_forwards(&head)?;
    Ok(head)
}

/// Applies the rules to a response whose lines are well-formed. `head` ends with its empty line.
fn accept_response<'a>(
    head: &'a [u8],
    line: &StatusLine<'a>,
    seen: &Seen<'_>,
    spans: &'a [FieldSpan],
    request: RequestKind,
) -> Result<ResponseHead<'a>, Fault> {
    let &StatusLine { version, status, reason } = line;
    seen.fault.map_or(Ok(()), Err)?;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15
    // "A client that receives a response with an invalid status code SHOULD process the response as if it had a 5xx (Server
    // Error) status code": 600 to 999 have a body like those.
    if status < 100 {
        return Err(Fault::InvalidStatus);
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    // "HTTP/1.0 did not define any 1xx status codes": a server that sends one in that version means something else by it.
    if version == Version::Http10 && status < 200 {
        return Err(Fault::InterimInHttp10);
    }
    let framing = seen.facts.framing.response_body(version, status, request)?;
    let until_close = framing == Framing::UntilClose;
    Ok(ResponseHead {
        status,
        reason,
        version,
        body: framing.length(),
        until_close,
        // A body that only closing ends uses the connection up.
        persistent: !until_close && seen.is_persistent(version),
        has_date: seen.facts.present.contains(FieldId::Date),
        trailers: seen.facts.connection.trailer_rule(),
        fields: Fields { bytes: head, spans, present: seen.facts.present },
    })
}

/// The result of one pass over the fields.
#[derive(Default)]
struct Seen<'a> {
    facts: Facts,
    host: Option<&'a [u8]>,
    /// The first rule that one of those breaks.
    fault: Option<Fault>,
}

/// The fields that [`Seen::note`] acts on.
const NOTED: FieldSet = facts::NOTED.union(FieldSet::of(&[FieldId::Host]));

impl<'a> Seen<'a> {
    /// Records all fields in `spans` and reads those that decide something; or says where it stopped short of the end.
    fn scan(
        &mut self,
        lines: &mut Lines<'a>,
        spans: &mut Vec<FieldSpan>,
        limits: &HeadLimits,
        direction: Direction,
    ) -> Result<(), Stopped> {
        let head = lines.bytes();
        spans.clear();
        loop {
            let at = lines.len();
            let span = match lines.line() {
                Some(Line::Field(span)) if spans.len() < limits.fields() => span,
                Some(Line::End) => break,
                _ => return Err(Stopped { at, fields: spans.len() }),
            };
            self.facts.present.insert(span.id());
            if NOTED.contains(span.id())
                && let Err(fault) = self.note(span.id(), span.value(head), direction)
            {
                self.fault = self.fault.or(Some(fault));
            }
            spans.push(span);
        }
        if self.facts.present.contains(FieldId::Connection) {
            self.facts.connection.mark_named(head, spans);
        }
        Ok(())
    }

    /// Takes in one of the fields that decide something.
    fn note(&mut self, id: FieldId, value: &'a [u8], direction: Direction) -> Result<(), Fault> {
        match (id, direction) {
            (FieldId::Host, Direction::Request) => match self.host.replace(value) {
                //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
                Some(_) => Err(Fault::RepeatedHost),
                None => Ok(()),
            },
            _ => self.facts.note(id, value, direction),
        }
    }

    /// True when the sender will use the connection again.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    fn is_persistent(&self, version: Version) -> bool {
        !self.facts.connection.close && (version == Version::Http11 || self.facts.connection.keep_alive)
    }

    /// True when the client offers to change protocols.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
    fn is_upgrading(&self, version: Version) -> bool {
        // "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request"
        version == Version::Http11
            && self.facts.present.contains(FieldId::Upgrade)
            && self.facts.connection.names(FieldId::Upgrade)
    }
}
