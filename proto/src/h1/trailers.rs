//! Reads the trailer section of a chunked body. Called by `h1::chunked` with all of it.

use alloc::vec::Vec;

use super::diagnose;
use super::scan::{Line, Lines};
use crate::fault::Fault;
use crate::limits::FIELDS_HARD_MAX;
use crate::trailers::Trailers;

/// Parses a complete trailer section, its empty line included; `None` when no field of it may be forwarded.
//= https://www.rfc-editor.org/rfc/rfc9112#section-7.1.2
pub(super) fn parse_trailers(section: Vec<u8>, fields_max: usize) -> Result<Option<Trailers>, Fault> {
    let mut spans = Vec::new();
    let mut lines = Lines::new(&section);
    for count in 0.. {
        match lines.line() {
            Some(Line::End) => break,
            Some(Line::Field(span)) if count < fields_max.min(FIELDS_HARD_MAX) => spans.push(span),
            _ => return Err(diagnose::trailers(&section, fields_max)),
        }
    }
    Ok(Trailers::new(section, spans))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn names(section: &str) -> Result<Option<Vec<alloc::string::String>>, Fault> {
        let trailers = parse_trailers(section.as_bytes().to_vec(), 4)?;
        Ok(trailers.map(|trailers| trailers.iter().map(|field| field.name.to_string()).collect()))
    }

    #[test]
    fn fields_that_come_too_late_are_dropped() {
        assert_eq!(
            names("X-Sum: 1\r\nContent-Length: 5\r\nhost: a\r\n\r\n"),
            Ok(Some(alloc::vec!["X-Sum".into()]))
        );
        assert_eq!(names("Transfer-Encoding: chunked\r\n\r\n"), Ok(None));
        assert_eq!(
            names("X-Client-Cert-Subject: CN=root\r\nx_ja4: 1\r\nX-Forwarded-Ssl: on\r\n\r\n"),
            Ok(None)
        );
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
