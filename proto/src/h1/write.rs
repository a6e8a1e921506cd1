//! Writes messages: requests to the upstream, responses to the downstream, answers of our own, chunk framing.
//!
//! Owns what is changed on the way through: fields of the connection are dropped, framing is written from what was understood
//! instead of copied, the path the message took is recorded. Everything is appended to a caller's `Vec<u8>` as bytes, with no
//! formatting machinery and no allocation of its own beyond the vector's growth.

use alloc::vec::Vec;
use core::ops::Range;

use super::identity::{ClientIdentity, IdentityPolicy};
use super::reply::Framing;
use crate::block::find;
use crate::edits::{FieldEdits, edit_lines};
use crate::fields::{
    FieldId, FieldSet, FieldSpan, Fields, NAMED_BY_CONNECTION, NEVER_INDEXED, STRICT_TRANSPORT_SECURITY,
};
use crate::grpc;
use crate::grpc_web::WebType;
use crate::hop_by_hop::HOP_BY_HOP;
use crate::message::{BodyLength, RequestHead, ResponseHead, Version};
use crate::trailers::Trailers;
use crate::upgrade::{self, WEBSOCKET};

/// The bytes that end a chunk's data.
//= https://www.rfc-editor.org/rfc/rfc9112#section-7.1
pub const CHUNK_END: &[u8] = b"\r\n";

/// What a request gains on its way upstream.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// Which fields tell whose request it is.
    pub identity: &'a IdentityPolicy,
    /// The client of the request.
    pub sender: ClientIdentity<'a>,
    /// The value for Host.
    pub host: &'a str,
    /// How long the body is.
    pub body: BodyLength,
    /// What the configuration changes about the fields.
    pub edits: Option<FieldEdits<'a>>,
}

/// How a response is sent downstream.
#[derive(Clone, Copy, Debug)]
pub struct ResponseForwarding<'a> {
    /// The version of the request that is answered; HTTP/1.0 knows no chunks.
    pub version_to: Version,
    /// How we frame the body downstream. [`Framing::None`] for answers to HEAD, 1xx, 204 and 304.
    pub body: Framing,
    /// The Connection field.
    pub connection: ConnectionField,
    /// The value for Date, used when the upstream sent none.
    pub date: Option<&'a str>,
    /// The Strict-Transport-Security field, written out with its line end; in place of those that the upstream sent.
    pub hsts: Option<&'a str>,
    /// A Set-Cookie field of ours, written out with its line end; beside those that the upstream sent.
    pub set_cookie: Option<&'a str>,
    /// The value for Content-Type in place of the one that the upstream sent.
    pub content_type: Option<&'a [u8]>,
    /// What the configuration changes about the fields.
    pub edits: Option<FieldEdits<'a>>,
}

/// The Connection field of a response.
//= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionField {
    /// None: the version's default holds.
    Omit,
    /// `close`.
    Close,
    /// `keep-alive`, for HTTP/1.0 clients that asked for it.
    KeepAlive,
}

/// Fields of a request that the writer replaces, besides those of the connection.
const REPLACED_IN_REQUEST: FieldSet =
    HOP_BY_HOP.union(FieldSet::of(&[FieldId::Host, FieldId::ContentLength, FieldId::Expect]));

/// Room for what the writer adds to a head, so that one reservation is enough.
const ADDED_BYTES: usize = 512;

/// Appends the head of a request as it is sent upstream, up to and including the empty line.
///
/// Host comes first, then the end-to-end fields in the order received, then those that `fwd.identity` asks for, and the
/// framing field for `fwd.body`.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead<'_>, fwd: &Forwarding<'_>) -> RequestSpans {
    write_changed_request(out, head, fwd, Change::None)
}

/// The same for a call that came as gRPC-Web, as servers of gRPC want it.
pub fn write_web_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    fwd: &Forwarding<'_>,
    web: WebType<'_>,
) -> RequestSpans {
    write_changed_request(out, head, fwd, Change::Web(web))
}

/// The same with an offer to change to `protocol`, for a client that [`wants_upgrade`](RequestHead::wants_upgrade). Which of
/// the protocols it offers is passed on is the caller's decision: a tunnel is no place for HTTP.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
pub fn write_upgrade_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    fwd: &Forwarding<'_>,
    protocol: &str,
) -> RequestSpans {
    write_changed_request(out, head, fwd, Change::Offer(protocol))
}

/// The text between the target and the authority of a request.
const BEFORE_AUTHORITY: &str = " HTTP/1.1\r\nHost: ";

/// Where the parts of a request are in the lines that [`write_request`] has written: the form in which a request is kept until its
/// server is known. A server of HTTP/1.1 gets the lines as they are; other protocols read them with the help of this.
///
/// A head is shorter than 4 GiB, so that 32 bits hold every place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSpans {
    start: u32,
    method_end: u32,
    target_end: u32,
    authority_bytes: u32,
    head_end: u32,
    /// Of the line of the offered protocol behind its name, from there to the end of the head; 0 without an offer.
    offer_from_end: u32,
    /// Fields that must enter no compression table; [`FieldId::Other`] for all names without an id.
    never_indexed: FieldSet,
}

impl RequestSpans {
    fn method(self) -> Range<usize> {
        self.start as usize..self.method_end as usize
    }

    fn target(self) -> Range<usize> {
        self.method_end as usize + 1..self.target_end as usize
    }

    fn authority(self) -> Range<usize> {
        let start = self.target_end as usize + BEFORE_AUTHORITY.len();
        start..start + self.authority_bytes as usize
    }

    /// The parts of the head in `written`, which nothing but this has changed since it was written.
    pub fn parts(self, written: &[u8]) -> RequestParts<'_> {
        let lines_start = self.authority().end + "\r\n".len();
        let lines_end = self.head_end as usize - "\r\n".len();
        RequestParts {
            method: &written[self.method()],
            target: &written[self.target()],
            authority: &written[self.authority()],
            lines: &written[lines_start..lines_end],
            offer: &written[self.head_end as usize - self.offer_from_end as usize..self.head_end as usize],
            never_indexed: self.never_indexed,
        }
    }

    /// What was written behind the head.
    pub fn behind(self, written: &[u8]) -> &[u8] {
        &written[self.head_end as usize..]
    }

    /// Replaces the authority: for a request whose server is chosen when its head stands already.
    pub fn set_authority(&mut self, written: &mut Vec<u8>, authority: &str) {
        let place = self.authority();
        if &written[place.clone()] == authority.as_bytes() {
            return;
        }
        self.head_end = self.head_end - self.authority_bytes + authority.len() as u32;
        self.authority_bytes = authority.len() as u32;
        written.splice(place, authority.bytes());
    }
}

/// The parts of a request head that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The target, in the form that [`RequestHead::path_and_query`] has.
    pub target: &'a [u8],
    /// The value of Host.
    pub authority: &'a [u8],
    /// All other fields, each as `name: value` and CRLF.
    lines: &'a [u8],
    /// The protocol that is offered, and what follows it; empty without an offer.
    offer: &'a [u8],
    never_indexed: FieldSet,
}

impl<'a> RequestParts<'a> {
    /// Parts that nothing of this module has written. `lines`: all fields but Host, each as `name: value` and CRLF.
    pub fn of_lines(method: &'a [u8], target: &'a [u8], authority: &'a [u8], lines: &'a [u8]) -> Self {
        Self { method, target, authority, lines, offer: &[], never_indexed: FieldSet::default() }
    }

    /// The same with an offer to change to a protocol: its name and CRLF, and anything behind it.
    #[must_use]
    pub fn offering(self, offer: &'a [u8]) -> Self {
        Self { offer, ..self }
    }

    /// The fields but Host, names and values, in the order in which they were written.
    pub fn fields(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let lines = self.lines;
        let mut at = 0;
        core::iter::from_fn(move || {
            let colon = find(lines, at, |block| block.equal(b':'))?;
            let end = find(lines, colon, |block| block.equal(b'\r'))?;
            let name = &lines[at..colon];
            at = end + "\r\n".len();
            Some((name, lines.get(colon + ": ".len()..end).unwrap_or_default()))
        })
    }

    /// The protocol that the request offers to change to.
    pub fn offer(self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\r', self.offer)?;
        Some(&self.offer[..end])
    }

    /// Whether the client wants this field in no compression table.
    pub(crate) fn is_never_indexed(self, id: FieldId) -> bool {
        self.never_indexed.contains(id)
    }
}

/// What makes a request another one than most.
#[derive(Clone, Copy)]
enum Change<'a> {
    None,
    /// It offers to change to this protocol.
    Offer(&'a str),
    /// It came as gRPC-Web, and goes on as gRPC.
    Web(WebType<'a>),
}

fn write_changed_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    fwd: &Forwarding<'_>,
    change: Change<'_>,
) -> RequestSpans {
    let (offer, web) = match change {
        Change::None => (None, None),
        Change::Offer(protocol) => (Some(protocol), None),
        Change::Web(web) => (None, Some(web)),
    };
    let start = out.len();
    let framing = Framing::of_request(fwd.body);
    let fields = &head.fields;
    out.reserve(fields.bytes.len() + ADDED_BYTES);
    put(out, head.method.as_str());
    let method_end = out.len();
    put(out, " ");
    put(out, head.path_and_query);
    let target_end = out.len();
    //= https://www.rfc-editor.org/rfc/rfc9110#section-2.5
    // "An intermediary ... MUST send its own HTTP-version"
    put(out, BEFORE_AUTHORITY);
    put(out, fwd.host);
    put(out, "\r\n");
    let fields_start = out.len();

    let identity = fwd.identity;
    let mut dropped = REPLACED_IN_REQUEST.union(trailer_field(framing));
    dropped = dropped.union(identity.dropped(head, &fwd.sender));
    let max_forwards = head.max_forwards();
    if max_forwards.is_some() {
        dropped.insert(FieldId::MaxForwards);
    }
    let makes_key = head.version == Version::Http2
        && offer.is_some_and(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET));
    if makes_key {
        dropped.insert(FieldId::SecWebSocketKey);
    }
    if web.is_some() {
        dropped.insert(FieldId::ContentType);
    }
    copy_fields(out, fields, dropped, identity.dropped_marks(&fwd.sender));

    if let Some(web) = web {
        put(out, "Content-Type: ");
        web.write_grpc(out);
        put(out, "\r\n");
    }
    identity.put(out, head, &fwd.sender);
    if let Some(edits) = &fwd.edits {
        edit_lines(out, fields_start, edits);
    }
    max_forwards.into_iter().for_each(|hops| put_max_forwards(out, hops));
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    if head.expect_continue {
        put(out, "Expect: 100-continue\r\n");
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.4
    // "A sender of TE MUST also send a "TE" connection option"; the same holds for Upgrade.
    // Servers of gRPC want to see it; browsers may not send it.
    match (head.accepts_trailers() || web.is_some(), offer.is_some()) {
        (false, false) => {}
        (true, false) => put(out, "TE: trailers\r\nConnection: TE\r\n"),
        (false, true) => put(out, "Connection: Upgrade\r\n"),
        (true, true) => put(out, "TE: trailers\r\nConnection: TE, Upgrade\r\n"),
    }
    //= https://www.rfc-editor.org/rfc/rfc8441#section-5
    // HTTP/2 has no key, and servers of HTTP/1.1 want one.
    if makes_key {
        put(out, "Sec-WebSocket-Key: ");
        out.extend_from_slice(&upgrade::key_of(fwd.sender.request_id));
        put(out, "\r\n");
    }
    let offer_start = offer.map(|protocol| put_upgrade(out, protocol));
    put_framing(out, framing);
    put(out, "\r\n");
    RequestSpans {
        start: start as u32,
        method_end: method_end as u32,
        target_end: target_end as u32,
        authority_bytes: fwd.host.len() as u32,
        head_end: out.len() as u32,
        offer_from_end: offer_start.map_or(0, |start| out.len() - start) as u32,
        never_indexed: never_indexed(head),
    }
}

/// The field with one hop fewer.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
#[cold]
fn put_max_forwards(out: &mut Vec<u8>, hops: u64) {
    put(out, "Max-Forwards: ");
    put(out, itoa::Buffer::new().format(hops.saturating_sub(1)));
    put(out, "\r\n");
}

/// The fields that must enter no compression table; only HTTP/2 has a way to say so.
//= https://www.rfc-editor.org/rfc/rfc7541#section-6.2.3
// "Intermediaries MUST use the same representation for encoding this header field."
fn never_indexed(head: &RequestHead<'_>) -> FieldSet {
    let mut ids = FieldSet::default();
    if head.version == Version::Http2 {
        let marked = head.fields.spans.iter().filter(|span| span.has(NEVER_INDEXED));
        marked.for_each(|span| ids.insert(span.id()));
    }
    ids
}

/// Appends the head of a response as it is sent downstream, up to and including the empty line.
///
/// Always HTTP/1.1, which an HTTP/1.0 client understands as long as nothing of 1.1 is used on it. Server stays the upstream's.
/// For 101 the Upgrade field is passed on with its connection option, and `fwd.connection` is of no consequence.
//= https://www.rfc-editor.org/rfc/rfc9110#section-2.5
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead<'_>, fwd: &ResponseForwarding<'_>) {
    debug_assert!(
        fwd.body != Framing::Chunked || fwd.version_to == Version::Http11,
        "HTTP/1.0 knows no chunks"
    );
    let fields = &head.fields;
    out.reserve(fields.bytes.len() + ADDED_BYTES);
    put_status(out, head.status);
    // HTTP/2 has none, and some clients of HTTP/1.1 want one.
    match head.version {
        Version::Http2 => put(out, reason_phrase(head.status)),
        Version::Http10 | Version::Http11 => out.extend_from_slice(head.reason),
    }
    put(out, "\r\n");
    let fields_start = out.len();

    let mut dropped = HOP_BY_HOP.union(trailer_field(fwd.body));
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    // Where there is no body, Content-Length tells what another request would have got, and is kept. It "MUST NOT" be sent
    // with 1xx and 204.
    if fwd.body != Framing::None || matches!(head.status, 100..=199 | 204) {
        dropped.insert(FieldId::ContentLength);
    }
    if fwd.content_type.is_some() {
        dropped.insert(FieldId::ContentType);
    }
    //= https://www.rfc-editor.org/rfc/rfc6797#section-7.1
    // "the HSTS Host MUST include only one such header field"
    copy_fields(out, fields, dropped, if fwd.hsts.is_some() { STRICT_TRANSPORT_SECURITY } else { 0 });
    put(out, fwd.hsts.unwrap_or_default());
    if let Some(value) = fwd.content_type {
        put(out, "Content-Type: ");
        out.extend_from_slice(value);
        put(out, "\r\n");
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1
    if let (false, Some(date)) = (head.has_date, fwd.date) {
        put(out, "Date: ");
        put(out, date);
        put(out, "\r\n");
    }
    if let Some(edits) = &fwd.edits {
        edit_lines(out, fields_start, edits);
    }
    // What the configuration removes is the server's.
    put(out, fwd.set_cookie.unwrap_or_default());
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2.2
    // "The server MUST generate an Upgrade header field in the response"
    match (head.status, fields.first(FieldId::Upgrade)) {
        (101, Some(protocol)) => {
            put(out, "Connection: Upgrade\r\nUpgrade: ");
            out.extend_from_slice(protocol);
            put(out, "\r\n");
        }
        _ => put_connection(out, fwd.connection),
    }
    put_framing(out, fwd.body);
    put(out, "\r\n");
}

/// The body of an answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerBody<'a> {
    /// The value of Content-Type; empty for none.
    pub content_type: &'a str,
    /// The body itself.
    pub bytes: &'a [u8],
}

impl<'a> AnswerBody<'a> {
    /// Plain text.
    pub fn text(text: &'a str) -> AnswerBody<'a> {
        AnswerBody { content_type: "text/plain; charset=utf-8", bytes: text.as_bytes() }
    }
}

/// Appends an answer of our own: head and, unless `head_only`, `body`. `head_only` is for HEAD requests, whose answer announces the
/// length all the same. Statuses that have no body (1xx, 204, 304) are sent without `body` and length.
//= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2
pub fn write_answer(
    out: &mut Vec<u8>,
    status: u16,
    fields: &[(&str, &str)],
    date: &str,
    body: AnswerBody<'_>,
    connection: ConnectionField,
    head_only: bool,
) {
    put_status(out, status);
    put(out, reason_phrase(status));
    put(out, "\r\nServer: sluice\r\nDate: ");
    put(out, date);
    put(out, "\r\n");
    put_lines(out, fields);
    put_connection(out, connection);
    let has_body = !matches!(status, 100..=199 | 204 | 304);
    if has_body {
        if !body.content_type.is_empty() {
            put_lines(out, &[("Content-Type", body.content_type)]);
        }
        put_framing(out, Framing::Length(body.bytes.len() as u64));
    }
    put(out, "\r\n");
    if has_body && !head_only {
        out.extend_from_slice(body.bytes);
    }
}

/// Appends an answer of our own to a gRPC call: a head without a body, which has what are trailers otherwise ("Trailers-Only").
/// `content_type` is that of gRPC, or of gRPC-Web.
pub fn write_grpc_answer(
    out: &mut Vec<u8>,
    content_type: &str,
    status: grpc::Status,
    message: &str,
    fields: &[(&str, &str)],
    date: &str,
    connection: ConnectionField,
) {
    put_status(out, 200);
    put(out, reason_phrase(200));
    put(out, "\r\nServer: sluice\r\nDate: ");
    put(out, date);
    put(out, "\r\nContent-Type: ");
    put(out, content_type);
    put(out, "\r\ngrpc-status: ");
    put(out, itoa::Buffer::new().format(status.number()));
    put(out, "\r\ngrpc-message: ");
    grpc::write_message(out, message);
    put(out, "\r\n");
    put_lines(out, fields);
    put_connection(out, connection);
    put_framing(out, Framing::Length(0));
    put(out, "\r\n");
}

fn put_lines(out: &mut Vec<u8>, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        put(out, name);
        put(out, ": ");
        put(out, value);
        put(out, "\r\n");
    }
}

/// Appends the line in front of `len` bytes of data, which must be followed by [`CHUNK_END`]. `len` is not zero: a chunk
/// without data is the last one, see [`write_last_chunk`].
//= https://www.rfc-editor.org/rfc/rfc9112#section-7.1
pub fn write_chunk_size(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "an empty chunk would end the body");
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        out.push(HEX[len >> (4 * digit) & 0xf]);
    }
    put(out, "\r\n");
}

/// Appends the last chunk, the trailers if there are any, and the empty line that ends the body.
//= https://www.rfc-editor.org/rfc/rfc9112#section-7.1.2
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<&Trailers>) {
    put(out, "0\r\n");
    if let Some(trailers) = trailers {
        copy_fields(out, &trailers.fields(), FieldSet::default(), 0);
    }
    put(out, "\r\n");
}

/// The usual reason phrase of a status, empty for unknown ones.
//= https://www.rfc-editor.org/rfc/rfc9110#section-15
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[inline]
pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// `HTTP/1.1`, the status and the space behind it, which is part of the status line even without a phrase.
//= https://www.rfc-editor.org/rfc/rfc9112#section-4
fn put_status(out: &mut Vec<u8>, status: u16) {
    put(out, "HTTP/1.1 ");
    put(out, itoa::Buffer::new().format(status));
    put(out, " ");
}

/// The Upgrade field. Returns where its value is.
fn put_upgrade(out: &mut Vec<u8>, protocol: &str) -> usize {
    put(out, "Upgrade: ");
    let start = out.len();
    put(out, protocol);
    put(out, "\r\n");
    start
}

fn put_connection(out: &mut Vec<u8>, connection: ConnectionField) {
    match connection {
        ConnectionField::Omit => {}
        ConnectionField::Close => put(out, "Connection: close\r\n"),
        ConnectionField::KeepAlive => put(out, "Connection: keep-alive\r\n"),
    }
}

/// The field that says where the body ends, when one does.
//= https://www.rfc-editor.org/rfc/rfc9112#section-6
fn put_framing(out: &mut Vec<u8>, body: Framing) {
    match body {
        Framing::None | Framing::UntilClose => {}
        Framing::Chunked => put(out, "Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) => {
            put(out, "Content-Length: ");
            put(out, itoa::Buffer::new().format(length));
            put(out, "\r\n");
        }
    }
}

/// Trailer announces trailers, which only chunks can carry: dropped with anything else.
//= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.2
fn trailer_field(body: Framing) -> FieldSet {
    if body == Framing::Chunked { FieldSet::default() } else { FieldSet::of(&[FieldId::Trailer]) }
}

/// Copies the fields that are not in `dropped`, have none of `dropped_marks` and are not named by Connection.
///
/// A line that already has the form in which we would write it is copied as it is, and neighbouring ones together: most heads
/// come down to one or two copies. Any other line is written from its name and value.
fn copy_fields(out: &mut Vec<u8>, fields: &Fields<'_>, dropped: FieldSet, dropped_marks: u8) {
    let dropped_marks = dropped_marks | NAMED_BY_CONNECTION;
    let mut run = 0..0;
    for span in fields.spans {
        if dropped.contains(span.id()) || span.has(dropped_marks) {
            continue;
        }
        if span.is_canonical() && span.name_start() == run.end {
            run.end = span.line_end();
            continue;
        }
        out.extend_from_slice(&fields.bytes[run]);
        if span.is_canonical() {
            run = span.name_start()..span.line_end();
        } else {
            put_field(out, fields.bytes, span);
            run = 0..0;
        }
    }
    out.extend_from_slice(&fields.bytes[run]);
}

fn put_field(out: &mut Vec<u8>, head: &[u8], span: &FieldSpan) {
    out.extend_from_slice(span.name(head));
    put(out, ": ");
    out.extend_from_slice(span.value(head));
    put(out, "\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadStore, Parsed, Trust, parse_request, parse_response};
    use crate::limits::HeadLimits;
    use crate::message::RequestKind;
    use alloc::string::String;

    const UNTRUSTED: ClientIdentity<'static> = ClientIdentity {
        peer: b"192.0.2.7",
        client: b"192.0.2.7",
        trust: Trust::Untrusted,
        proto: "http",
        request_id: 0xab,
        tls: None,
    };

    fn forward(request: &str, body: Option<BodyLength>) -> String {
        forward_with_spans(request, body).0
    }

    fn forward_with_spans(request: &str, body: Option<BodyLength>) -> (String, RequestSpans) {
        let mut store = HeadStore::default();
        let parsed = parse_request(request.as_bytes(), &mut store, &HeadLimits::default());
        let Ok(Parsed::Complete { head, bytes }) = parsed else { panic!("{parsed:?}") };
        assert_eq!(bytes, request.len());
        let mut out = Vec::new();
        let body = body.unwrap_or(head.body);
        let identity = &IdentityPolicy::default();
        let forwarding = Forwarding { identity, sender: UNTRUSTED, host: "up.example", body, edits: None };
        let spans = write_request(&mut out, &head, &forwarding);
        (String::from_utf8(out).unwrap(), spans)
    }

    fn forward_response(response: &str, request: RequestKind, fwd: &ResponseForwarding<'_>) -> String {
        let mut store = HeadStore::default();
        let parsed = parse_response(response.as_bytes(), &mut store, &HeadLimits::default(), &request);
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
        let mut out = Vec::new();
        write_response(&mut out, &head, fwd);
        String::from_utf8(out).unwrap()
    }

    const PLAIN: ResponseForwarding<'static> = ResponseForwarding {
        version_to: Version::Http11,
        body: Framing::None,
        connection: ConnectionField::Omit,
        date: Some("NOW"),
        hsts: None,
        set_cookie: None,
        content_type: None,
        edits: None,
    };

    #[test]
    fn a_request_keeps_its_fields_and_gains_the_path() {
        let sent = forward(
            "GET /a?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nuser-agent:x \r\nCookie: c\r\n\r\n",
            None,
        );
        assert_eq!(
            sent,
            "GET /a?b HTTP/1.1\r\nHost: up.example\r\nAccept: */*\r\nuser-agent: x\r\nCookie: c\r\n\
             X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n\
             X-Forwarded-Port: 80\r\nX-Request-Id: 000000000000000000000000000000ab\r\nVia: 1.1 sluice\r\n\r\n"
        );
    }

    #[test]
    fn a_host_can_be_replaced_in_what_was_written() {
        let request = "POST /a?b HTTP/1.1\r\nHost: a.example\r\nX-Empty:\r\nContent-Length: 3\r\n\r\n";
        let (sent, spans) = forward_with_spans(request, None);
        for host in ["", "x", "other.example:8080", "up.example"] {
            let (mut again, mut spans) = (sent.clone().into_bytes(), spans);
            again.extend_from_slice(b"abc");
            for host in ["elsewhere", host] {
                spans.set_authority(&mut again, host);
            }
            let parts = spans.parts(&again);
            assert_eq!(
                (parts.method, parts.target, parts.authority),
                (&b"POST"[..], &b"/a?b"[..], host.as_bytes())
            );
            let fields: Vec<_> = parts.fields().collect();
            assert_eq!(fields[0], (&b"X-Empty"[..], &b""[..]));
            assert_eq!(fields[1], (&b"X-Forwarded-For"[..], &b"192.0.2.7"[..]));
            assert_eq!(fields.last(), Some(&(&b"Content-Length"[..], &b"3"[..])));
            let wanted = alloc::format!(
                "{}abc",
                sent.replace("Host: up.example\r", &alloc::format!("Host: {host}\r"))
            );
            assert_eq!(String::from_utf8(again).unwrap(), wanted);
        }
    }

    #[test]
    fn fields_of_the_connection_stay_behind() {
        let sent = forward(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: X-One, keep-alive, Host, close, Cookie\r\nX-One: 1\r\nX-Two: 2\r\n\
             Keep-Alive: 5\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Connection: x\r\nTE: gzip\r\nx-one: 3\r\n\
             Proxy-Authorization: x\r\nCookie: c\r\nTrailer: X\r\nContent-Length: 3\r\n\r\n",
            None,
        );
        assert_eq!(
            sent,
            "POST / HTTP/1.1\r\nHost: up.example\r\nX-Two: 2\r\n\
             X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\
             X-Forwarded-Port: 80\r\nX-Request-Id: 000000000000000000000000000000ab\r\nVia: 1.1 sluice\r\nContent-Length: 3\r\n\r\n"
        );
    }

    #[test]
    fn expectations_trailers_and_chunks_are_written_anew() {
        let sent = forward(
            "PUT / HTTP/1.1\r\nHost: a\r\nTE: deflate, trailers\r\nExpect: 100-Continue\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: Chunked\r\nConnection: TE\r\n\r\n",
            None,
        );
        assert_eq!(
            sent,
            "PUT / HTTP/1.1\r\nHost: up.example\r\nTrailer: X-Sum\r\n\
             X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\
             X-Forwarded-Port: 80\r\nX-Request-Id: 000000000000000000000000000000ab\r\nVia: 1.1 sluice\r\n\
             Expect: 100-continue\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn hops_are_counted_down_where_the_client_counts_them() {
        let sent = forward("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 10\r\n\r\n", None);
        assert!(sent.contains("\r\nMax-Forwards: 9\r\n") && !sent.contains("10"));
        let sent = forward("GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 10\r\n\r\n", None);
        assert!(sent.contains("\r\nMax-Forwards: 10\r\n"));
    }

    #[test]
    fn upgrades_are_offered_and_accepted_only_on_purpose() {
        let request = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";
        assert!(!forward(request, None).contains("Upgrade"));

        let mut store = HeadStore::default();
        let parsed = parse_request(request.as_bytes(), &mut store, &HeadLimits::default());
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
        let identity = &IdentityPolicy::default();
        let fwd = Forwarding { identity, sender: UNTRUSTED, host: "a", body: head.body, edits: None };
        let mut out = Vec::new();
        write_upgrade_request(&mut out, &head, &fwd, "websocket");
        let sent = String::from_utf8(out).unwrap();
        assert!(sent.ends_with("Via: 1.1 sluice\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
        assert!(sent.contains("\r\nSec-WebSocket-Version: 13\r\n"));

        let response = "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert_eq!(
            forward_response(response, RequestKind::Other, &PLAIN),
            "HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\nDate: NOW\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
    }

    #[test]
    fn responses_lose_the_connection_and_keep_the_rest() {
        let received =
            "HTTP/1.0 200 Fine\r\nServer: up\r\nConnection: X\r\nX: 1\r\nContent-Length: 5\r\n\r\n";
        let fwd =
            ResponseForwarding { body: Framing::Length(5), connection: ConnectionField::Close, ..PLAIN };
        assert_eq!(
            forward_response(received, RequestKind::Other, &fwd),
            "HTTP/1.1 200 Fine\r\nServer: up\r\nDate: NOW\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
        );
        let fwd = ResponseForwarding { connection: ConnectionField::KeepAlive, ..PLAIN };
        assert_eq!(
            forward_response("HTTP/1.1 200\r\nDate: then\r\n\r\n", RequestKind::Head, &fwd),
            "HTTP/1.1 200 \r\nDate: then\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn a_response_has_one_field_of_strict_transport_security() {
        let received = "HTTP/1.1 204 X\r\nA: 1\r\nStrict-Transport-Security: max-age=1\r\nB: 2\r\n\
                        strict-transport-security:max-age=2; preload\r\nStrict-Transport-Security-X: 3\r\n\r\n";
        let hsts = Some("Strict-Transport-Security: max-age=9\r\n");
        assert_eq!(
            forward_response(received, RequestKind::Other, &ResponseForwarding { hsts, ..PLAIN }),
            "HTTP/1.1 204 X\r\nA: 1\r\nB: 2\r\nStrict-Transport-Security-X: 3\r\n\
             Strict-Transport-Security: max-age=9\r\nDate: NOW\r\n\r\n"
        );
        // The server's own pass where there is no other.
        let sent = forward_response(received, RequestKind::Other, &PLAIN);
        assert_eq!(sent.to_ascii_lowercase().matches("strict-transport-security:").count(), 2, "{sent}");
    }

    #[test]
    fn a_cookie_of_ours_comes_beside_those_of_the_server() {
        let set_cookie = Some("Set-Cookie: srv=1; Path=/\r\n");
        let received = "HTTP/1.1 200 X\r\nSet-Cookie: srv=2\r\nA: 1\r\n\r\n";
        assert_eq!(
            forward_response(received, RequestKind::Other, &ResponseForwarding { set_cookie, ..PLAIN }),
            "HTTP/1.1 200 X\r\nSet-Cookie: srv=2\r\nA: 1\r\nDate: NOW\r\nSet-Cookie: srv=1; Path=/\r\n\r\n"
        );
    }

    #[test]
    fn content_length_without_a_body_is_kept_where_it_means_something() {
        for (status, request, length, kept) in [
            (200, RequestKind::Head, 5, true),
            (304, RequestKind::Other, 5, true),
            (204, RequestKind::Other, 0, false),
            (103, RequestKind::Other, 0, false),
        ] {
            let received = alloc::format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
            let sent = forward_response(&received, request, &PLAIN);
            assert_eq!(sent.contains("Content-Length"), kept, "{status}");
        }
    }

    #[test]
    fn answers_are_complete_messages() {
        let mut out = Vec::new();
        write_answer(
            &mut out,
            503,
            &[("Retry-After", "1")],
            "NOW",
            AnswerBody::text("busy\n"),
            ConnectionField::Close,
            false,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nServer: sluice\r\nDate: NOW\r\nRetry-After: 1\r\nConnection: close\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nbusy\n"
        );
        let mut out = Vec::new();
        write_answer(&mut out, 400, &[], "NOW", AnswerBody::text("no\n"), ConnectionField::Omit, true);
        assert!(out.ends_with(b"Content-Length: 3\r\n\r\n"));
        let mut out = Vec::new();
        write_answer(&mut out, 204, &[], "NOW", AnswerBody::text("unseen"), ConnectionField::Omit, false);
        assert!(out.ends_with(b"Date: NOW\r\n\r\n"));
    }

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for len in [1, 9, 15, 16, 255, 256, 4_096, 65_535, usize::MAX] {
            let mut out = Vec::new();
            write_chunk_size(&mut out, len);
            assert_eq!(String::from_utf8(out).unwrap(), alloc::format!("{len:x}\r\n"));
        }
    }

    #[test]
    fn every_usual_status_has_a_phrase_of_its_own() {
        let phrases: Vec<_> = (0..=u16::MAX).map(reason_phrase).filter(|phrase| !phrase.is_empty()).collect();
        let mut distinct = phrases.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!((phrases.len(), distinct.len()), (46, 46));
    }
    #[test]
    fn lines_that_were_not_written_here_can_offer_a_protocol() {
        let parts = RequestParts::of_lines(b"GET", b"/", b"a", b"Upgrade: websocket\r\n");
        assert_eq!(parts.offer(), None);
        assert_eq!(parts.offering(b"websocket\r\n").offer(), Some(&b"websocket"[..]));
    }
}
