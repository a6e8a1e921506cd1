//! Writes heads and trailers as HPACK blocks: the way back of `head`.
//!
//! Owns which fields stay behind, which become pseudo-header fields, and which may enter the peer's table. A request is read from the
//! lines it is kept in, a response from the head it came with, of whatever version that was.

use alloc::vec::Vec;

use super::head::ResponseFields;
use super::hpack::{Encoder, Indexing};
use super::names::{place, place_of};
use crate::ascii;
use crate::edits::FieldEdits;
use crate::fields::{FieldId, FieldSet, NAMED_BY_CONNECTION, NEVER_INDEXED, STRICT_TRANSPORT_SECURITY};
use crate::h1::{RequestParts, Scheme};
use crate::hop_by_hop::HOP_BY_HOP;
use crate::message::{BodyLength, ResponseHead};
use crate::trailers::Trailers;

/// Fields of a request's lines that HTTP/2 has not, or has as pseudo-header fields. TE stays: the lines have it with `trailers` only.
//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
const LEFT_OUT: FieldSet = FieldSet::of(&[
    FieldId::Connection,
    FieldId::KeepAlive,
    FieldId::ProxyConnection,
    FieldId::TransferEncoding,
    FieldId::Upgrade,
    FieldId::Http2Settings,
    FieldId::Host,
]);

/// Those of an offer that extended CONNECT has not.
//= https://www.rfc-editor.org/rfc/rfc8441#section-5
const LEFT_OUT_OF_OFFER: FieldSet =
    LEFT_OUT.union(FieldSet::of(&[FieldId::SecWebSocketKey, FieldId::ContentLength]));

/// A cookie of fewer bytes could be guessed from the size of what is sent.
//= https://www.rfc-editor.org/rfc/rfc7541#section-7.1.3
const COOKIE_BYTES_MIN: usize = 20;

/// Fields whose values are secrets.
const SECRET: FieldSet = FieldSet::of(&[
    FieldId::Authorization,
    FieldId::ProxyAuthorization,
    FieldId::SetCookie,
    FieldId::AuthenticationInfo,
]);

/// Fields whose values are rarely the same twice: they would only push others out of the table.
const UNIQUE: FieldSet = FieldSet::of(&[
    FieldId::ContentLength,
    FieldId::ContentRange,
    FieldId::Range,
    FieldId::XForwardedFor,
    FieldId::XRealIp,
    FieldId::XRequestId,
    FieldId::Forwarded,
    FieldId::IfMatch,
    FieldId::IfNoneMatch,
    FieldId::IfModifiedSince,
    FieldId::IfUnmodifiedSince,
    FieldId::IfRange,
    FieldId::Date,
    FieldId::Location,
    FieldId::Age,
    FieldId::Expires,
    FieldId::ETag,
    FieldId::LastModified,
    FieldId::SecWebSocketKey,
    FieldId::SecWebSocketAccept,
]);

/// Encodes the head of a request from the lines it is kept in. A request with an offer to change protocols becomes an extended
/// CONNECT (RFC 8441).
pub(crate) fn encode_request(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    parts: RequestParts<'_>,
    scheme: Scheme,
) {
    encoder.begin(out);
    let offer = parts.offer();
    let is_connect = parts.method == b"CONNECT";
    let method = if offer.is_some() { b"CONNECT" } else { parts.method };
    encoder.known_field(out, place::METHOD, method, Indexing::Allowed);
    if let Some(protocol) = offer {
        encoder.field(out, b":protocol", protocol, Indexing::Allowed);
    }
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.5
    // "The ":scheme" and ":path" pseudo-header fields MUST be omitted", and `:authority` is where the tunnel leads.
    if !is_connect {
        encoder.known_field(out, place::SCHEME, scheme.name().as_bytes(), Indexing::Allowed);
    }
    let authority = if is_connect { parts.target } else { parts.authority };
    if !authority.is_empty() {
        encoder.known_field(out, place::AUTHORITY, authority, Indexing::Allowed);
    }
    if !is_connect {
        // A few paths are in the static table.
        encoder.known_field(out, place::PATH, parts.target, Indexing::Without);
    }
    let left_out = if offer.is_some() { LEFT_OUT_OF_OFFER } else { LEFT_OUT };
    for (name, value) in parts.fields() {
        let id = FieldId::classify(name);
        let is_never_indexed = parts.is_never_indexed(id);
        if id == FieldId::Cookie && encoder.has_table() && is_separable(value) {
            crumbs(value).for_each(|crumb| put(encoder, out, id, name, crumb, is_never_indexed));
        } else if !left_out.contains(id) {
            put(encoder, out, id, name, value, is_never_indexed);
        }
    }
}

/// The cookies of a Cookie field. As fields of their own those that stay the same are found in the table.
//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3
fn crumbs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    core::iter::from_fn(move || {
        let whole = rest?;
        let end = memchr::memmem::find(whole, b"; ");
        rest = end.map(|at| &whole[at + "; ".len()..]);
        Some(end.map_or(whole, |at| &whole[..at]))
    })
}

/// Whether each cookie is a value that a field may have.
fn is_separable(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| byte.is_some_and(|&byte| ascii::is_ows(byte));
    crumbs(value).all(|crumb| !is_space(crumb.first()) && !is_space(crumb.last()))
}

/// Encodes the head of a response.
pub(crate) fn encode_response(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    fields: &ResponseFields<'_>,
) {
    encoder.begin(out);
    //= https://www.rfc-editor.org/rfc/rfc8441#section-4
    // Where HTTP/1.1 switches protocols with 101, extended CONNECT succeeds like any CONNECT: with a 2xx.
    let is_switch = head.status == 101;
    encoder.status(out, if is_switch { 200 } else { head.status });

    let mut dropped = HOP_BY_HOP;
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    // "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx (Informational) or 204".
    if matches!(head.status, 100..=199 | 204) {
        dropped.insert(FieldId::ContentLength);
    }
    //= https://www.rfc-editor.org/rfc/rfc8441#section-5
    if is_switch {
        dropped.insert(FieldId::SecWebSocketAccept);
    }
    // A body of which every part is written anew has no length that is known.
    if fields.content_type.is_some() {
        dropped.insert(FieldId::ContentType);
        if head.body == BodyLength::Streamed {
            dropped.insert(FieldId::ContentLength);
        }
    }
    //= https://www.rfc-editor.org/rfc/rfc6797#section-7.1
    // "the HSTS Host MUST include only one such header field"
    let replaced = if fields.hsts.is_some() { STRICT_TRANSPORT_SECURITY } else { 0 };
    let bytes = head.fields.bytes;
    for span in head.fields.spans {
        let id = span.id();
        if dropped.contains(id) || span.has(replaced | NAMED_BY_CONNECTION) {
            continue;
        }
        if fields.edits.is_some_and(|edits| edits.removed.has(span.name(bytes))) {
            continue;
        }
        match head.body {
            BodyLength::Length(length) if id == FieldId::ContentLength => {
                let mut buffer = itoa::Buffer::new();
                let value = buffer.format(length).as_bytes();
                encoder.known_field(out, place::CONTENT_LENGTH, value, Indexing::Without);
            }
            _ => put(encoder, out, id, span.name(bytes), span.value(bytes), span.has(NEVER_INDEXED)),
        }
    }
    let is_kept = |name: &[u8]| fields.edits.is_none_or(|edits| !edits.removed.has(name));
    if let Some(value) = fields.hsts.and_then(value_of_line).filter(|_| is_kept(b"Strict-Transport-Security"))
    {
        encoder.known_field(out, place::STRICT_TRANSPORT_SECURITY, value, Indexing::Allowed);
    }
    if let Some(value) = fields.set_cookie.and_then(value_of_line) {
        encoder.known_field(out, place_of(FieldId::SetCookie), value, Indexing::Never);
    }
    if let Some(value) = fields.content_type.filter(|_| is_kept(b"Content-Type")) {
        encoder.known_field(out, place::CONTENT_TYPE, value, Indexing::Allowed);
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1
    if let (false, Some(date)) = (head.has_date, fields.date.filter(|_| is_kept(b"Date"))) {
        encoder.known_field(out, place::DATE, date.as_bytes(), Indexing::Without);
    }
    if let Some(edits) = fields.edits {
        encode_added(encoder, out, edits);
    }
}

/// Encodes the fields that the configuration adds.
#[cold]
fn encode_added(encoder: &mut Encoder, out: &mut Vec<u8>, edits: FieldEdits<'_>) {
    for (name, value) in edits.added() {
        put(encoder, out, FieldId::classify(name), name, value, false);
    }
}

/// Encodes trailers.
pub(crate) fn encode_trailers(encoder: &mut Encoder, out: &mut Vec<u8>, trailers: &Trailers) {
    encoder.begin(out);
    let fields = trailers.fields();
    for span in fields.spans {
        let (name, value) = (span.name(fields.bytes), span.value(fields.bytes));
        put(encoder, out, span.id(), name, value, span.has(NEVER_INDEXED));
    }
}

/// Writes a field.
#[inline]
fn put(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    id: FieldId,
    name: &[u8],
    value: &[u8],
    is_never_indexed: bool,
) {
    let indexing = match id {
        _ if is_never_indexed || SECRET.contains(id) => Indexing::Never,
        FieldId::Cookie if value.len() < COOKIE_BYTES_MIN => Indexing::Never,
        _ if UNIQUE.contains(id) => Indexing::Without,
        _ => Indexing::Allowed,
    };
    match place_of(id) {
        0 => encoder.field(out, name, value, indexing),
        place => encoder.known_field(out, place, value, indexing),
    }
}

/// The value in a line that ends with CRLF.
fn value_of_line(line: &str) -> Option<&[u8]> {
    let (_, value) = line.split_once(':')?;
    Some(value.trim_ascii().as_bytes())
}
