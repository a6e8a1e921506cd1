//! Fields that follow the last chunk of a body.
//!
//! Owns the rule which fields may arrive that late, and the storage of those that do, whatever protocol they came by. Allocates
//! only when a peer really sends trailers, which is rare.

use alloc::vec::Vec;
use core::fmt;

use crate::fields::{
    Field, FieldId, FieldSet, FieldSpan, Fields, STRICT_TRANSPORT_SECURITY, X_CLIENT_CERT, X_FORWARDED_OTHER,
    X_JA4,
};
use crate::hop_by_hop::HOP_BY_HOP;

/// Fields that mean something only before the body: framing, routing, request modifiers, authentication, response control
/// and the description of the content. Also whatever names the client: an upstream that merges trailers into the head must
/// not find a second, unchecked address there.
//= https://www.rfc-editor.org/rfc/rfc9110#section-6.5.1
const FORBIDDEN: FieldSet = HOP_BY_HOP.union(FieldSet::of(&[
    FieldId::Underscored,
    FieldId::ContentLength,
    FieldId::Host,
    FieldId::Expect,
    FieldId::Trailer,
    FieldId::MaxForwards,
    FieldId::XForwardedFor,
    FieldId::XForwardedProto,
    FieldId::XForwardedHost,
    FieldId::XForwardedPort,
    FieldId::XRealIp,
    FieldId::XRequestId,
    FieldId::Forwarded,
    FieldId::Via,
    FieldId::Authorization,
    FieldId::Cookie,
    FieldId::Origin,
    FieldId::Range,
    FieldId::IfMatch,
    FieldId::IfNoneMatch,
    FieldId::IfModifiedSince,
    FieldId::IfUnmodifiedSince,
    FieldId::IfRange,
    FieldId::Pragma,
    FieldId::Date,
    FieldId::Location,
    FieldId::SetCookie,
    FieldId::RetryAfter,
    FieldId::Vary,
    FieldId::Age,
    FieldId::Expires,
    FieldId::WwwAuthenticate,
    FieldId::CacheControl,
    FieldId::ContentType,
    FieldId::ContentEncoding,
    FieldId::ContentRange,
    FieldId::ContentLanguage,
    FieldId::ContentLocation,
]));

/// The same, of names without an id.
const FORBIDDEN_MARKS: u8 = X_FORWARDED_OTHER | X_CLIENT_CERT | X_JA4 | STRICT_TRANSPORT_SECURITY;

/// The trailer fields of one body that may be forwarded; without any, memory for those of the next.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Trailers {
    bytes: Vec<u8>,
    spans: Vec<FieldSpan>,
}

impl Trailers {
    /// The fields of a trailer section that may be forwarded, by `spans` of `bytes`; `None` when there is none.
    pub(crate) fn new(bytes: Vec<u8>, mut spans: Vec<FieldSpan>) -> Option<Self> {
        spans.retain(is_allowed);
        (!spans.is_empty()).then_some(Self { bytes, spans })
    }

    /// The same in memory that was used before.
    pub(crate) fn fill(&mut self, bytes: &[u8], spans: &[FieldSpan]) {
        self.clear();
        self.bytes.extend_from_slice(bytes);
        self.spans.extend(spans.iter().filter(|span| is_allowed(span)));
    }

    /// Takes the fields of others, in memory that was used before.
    pub fn copy_from(&mut self, others: &Self) {
        self.fill(&others.bytes, &others.spans);
    }

    /// Leaves its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    /// How much memory it has.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<FieldSpan>()
    }

    /// The fields in the order received.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields().iter()
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        // Trailers are not looked up by id, so the set stays empty.
        Fields { bytes: &self.bytes, spans: &self.spans, present: FieldSet::default() }
    }
}

/// Whether a field may come behind the body.
pub(crate) fn is_allowed(span: &FieldSpan) -> bool {
    !FORBIDDEN.contains(span.id()) && !span.has(FORBIDDEN_MARKS)
}

impl fmt::Debug for Trailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}
