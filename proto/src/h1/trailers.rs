//! Fields that follow the last chunk of a body.
//!
//! Owns the rule which fields may arrive that late, and the storage of those that do. Allocates only when a peer really sends
//! trailers, which is rare. Filled by `h1::chunked`, written again by `h1::write`.

use alloc::vec::Vec;
use core::fmt;

use super::diagnose;
use super::scan::{Line, Lines};
use crate::fault::Fault;
use crate::fields::{Field, FieldId, FieldSet, FieldSpan, Fields, X_FORWARDED_OTHER};
use crate::hop_by_hop::HOP_BY_HOP;
use crate::limits::FIELDS_HARD_MAX;

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

/// The trailer fields of one body that may be forwarded; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Trailers {
    bytes: Vec<u8>,
    spans: Vec<FieldSpan>,
}

impl Trailers {
    /// Parses a complete trailer section, its empty line included; `None` when no field of it may be forwarded.
    pub(super) fn parse(section: Vec<u8>, fields_max: usize) -> Result<Option<Self>, Fault> {
        let mut spans = Vec::new();
        let mut lines = Lines::new(&section);
        for count in 0.. {
            match lines.line() {
                Some(Line::End) => break,
                Some(Line::Field(span)) if count < fields_max.min(FIELDS_HARD_MAX) => {
                    if !FORBIDDEN.contains(span.id()) && !span.has(X_FORWARDED_OTHER) {
                        spans.push(span);
                    }
                }
                _ => return Err(diagnose::trailers(&section, fields_max)),
            }
        }
        Ok((!spans.is_empty()).then_some(Self { bytes: section, spans }))
    }

    /// The fields in the order received.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields().iter()
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        // Nobody asks trailers by id, so the set stays empty.
        Fields { bytes: &self.bytes, spans: &self.spans, present: FieldSet::default() }
    }
}

impl fmt::Debug for Trailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn names(section: &str) -> Result<Option<Vec<alloc::string::String>>, Fault> {
        let trailers = Trailers::parse(section.as_bytes().to_vec(), 4)?;
        Ok(trailers.map(|trailers| trailers.iter().map(|field| field.name.to_string()).collect()))
    }

    #[test]
    fn fields_that_come_too_late_are_dropped() {
        assert_eq!(
            names("X-Sum: 1\r\nContent-Length: 5\r\nhost: a\r\n\r\n"),
            Ok(Some(alloc::vec!["X-Sum".into()]))
        );
        assert_eq!(names("Transfer-Encoding: chunked\r\n\r\n"), Ok(None));
        assert_eq!(names("Content-Digest: x\r\nETag: \"a\"\r\n\r\n").unwrap().unwrap().len(), 2);
    }

    #[test]
    fn malformed_lines_are_refused_like_those_of_a_head() {
        assert_eq!(names("X-Sum : 1\r\n\r\n"), Err(Fault::SpaceInFieldName));
        assert_eq!(names("X-Sum\r\n\r\n"), Err(Fault::MissingColon));
        assert_eq!(names("A: 1\r\n folded\r\n\r\n"), Err(Fault::ObsFold));
        assert_eq!(names("A: \0\r\n\r\n"), Err(Fault::InvalidFieldValue));
        assert_eq!(names("A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n\r\n"), Err(Fault::TooManyTrailers));
    }
}
