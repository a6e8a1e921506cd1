//! Names what is wrong with a head that the fast path has refused.
//!
//! Owns the slow, byte-by-byte reading of a head, in which the first byte that breaks a rule decides the [`Fault`]. The fast
//! path asks here only after it knows that something is wrong, so this file is written for clarity and never accepts
//! anything. It looks at nothing behind the first offending byte: the verdict on a head cannot change when more of it arrives.

use crate::ascii::{self, TOKEN};
use crate::fault::Fault;
use crate::limits::{HeadLimits, METHOD_BYTES_MAX};

/// Either the first fault, or the end of the bytes without one.
type Verdict = Result<(), Fault>;

/// The answer when the fast path refuses what this file finds nothing wrong with. Tests and fuzzing look for it.
const UNNAMED: Fault = Fault::Malformed;

/// The cause for which this start of a request was refused.
pub(super) fn request(window: &[u8], limits: &HeadLimits) -> Fault {
    let mut reader = Reader { bytes: window, at: 0 };
    // The two bytes more are the line's CRLF.
    let line_max = limits.request_line_bytes_max.saturating_add(2);
    let line_is_long = window.get(..line_max).is_some_and(|line| memchr::memchr(b'\n', line).is_none());
    let mut line = Reader { bytes: &window[..window.len().min(line_max)], at: 0 };
    let verdict = request_line(&mut line).and_then(|()| {
        if line_is_long {
            return Err(Fault::RequestLineTooLong);
        }
        reader.at = line.at;
        fields(&mut reader, limits)
    });
    verdict.err().unwrap_or(UNNAMED)
}

/// The cause for which this start of a response was refused.
pub(super) fn response(window: &[u8], limits: &HeadLimits) -> Fault {
    let mut reader = Reader { bytes: window, at: 0 };
    let verdict = status_line(&mut reader).and_then(|()| fields(&mut reader, limits));
    verdict.err().unwrap_or(UNNAMED)
}

/// The cause for which these complete trailer lines, their empty line included, were refused.
pub(super) fn trailers(section: &[u8], fields_max: usize) -> Fault {
    let limits = HeadLimits { fields_max, ..HeadLimits::default() };
    match fields(&mut Reader { bytes: section, at: 0 }, &limits) {
        Err(Fault::TooManyFields) => Fault::TooManyTrailers,
        verdict => verdict.err().unwrap_or(UNNAMED),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips the bytes that satisfy `wanted`.
    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// Skips CRLF, which is the only thing allowed here; `otherwise` names anything that is no line end at all.
    fn line_end(&mut self, otherwise: Fault) -> Verdict {
        match (self.peek(), self.bytes.get(self.at + 1)) {
            (Some(b'\r'), Some(b'\n') | None) => {
                self.at += 2;
                Ok(())
            }
            (Some(b'\r'), _) => Err(Fault::BareCr),
            (Some(b'\n'), _) => Err(Fault::BareLf),
            (Some(_), _) => Err(otherwise),
            (None, _) => Ok(()),
        }
    }
}

//= https://www.rfc-editor.org/rfc/rfc9112#section-3
fn request_line(line: &mut Reader<'_>) -> Verdict {
    line.skip_while(|b| TOKEN.contains(b));
    if line.at > METHOD_BYTES_MAX {
        return Err(Fault::MethodTooLong);
    }
    match line.peek() {
        Some(b' ') if line.at > 0 => line.at += 1,
        Some(b'\t') if line.at > 0 => return Err(Fault::RequestLineSpacing),
        Some(_) => return Err(Fault::InvalidMethod),
        None => return Ok(()),
    }
    let target_start = line.at;
    line.skip_while(|b| matches!(b, b'!'..=b'~'));
    match line.peek() {
        Some(b' ') if line.at > target_start => line.at += 1,
        Some(b' ' | b'\t') => return Err(Fault::RequestLineSpacing),
        //= https://www.rfc-editor.org/rfc/rfc9112#appendix-C.1.1
        // The simple request of HTTP/0.9 ends here.
        Some(b'\r' | b'\n') => return Err(Fault::MissingVersion),
        Some(_) => return Err(Fault::InvalidTarget),
        None => return Ok(()),
    }
    match line.peek() {
        Some(b'\r' | b'\n') => return Err(Fault::MissingVersion),
        Some(b' ' | b'\t') => return Err(Fault::RequestLineSpacing),
        _ => version(line)?,
    }
    match line.peek() {
        Some(b' ' | b'\t') => Err(Fault::RequestLineSpacing),
        _ => line.line_end(Fault::InvalidVersion),
    }
}

//= https://www.rfc-editor.org/rfc/rfc9112#section-4
fn status_line(line: &mut Reader<'_>) -> Verdict {
    version(line)?;
    if line.peek().is_some_and(|b| b != b' ') {
        return Err(Fault::InvalidStatus);
    }
    line.at += 1;
    let digits_end = line.at + 3;
    while line.at < digits_end {
        match line.peek() {
            Some(b'0'..=b'9') => line.at += 1,
            Some(_) => return Err(Fault::InvalidStatus),
            None => return Ok(()),
        }
    }
    if line.peek() == Some(b' ') {
        line.skip_while(ascii::is_field_content);
    }
    line.line_end(Fault::InvalidStatus)
}

/// `HTTP/1.0` or `HTTP/1.1`. A digit where another would be supported is an unsupported version, whatever follows it.
//= https://www.rfc-editor.org/rfc/rfc9112#section-2.3
fn version(line: &mut Reader<'_>) -> Verdict {
    for (index, expected) in b"HTTP/1.1".iter().enumerate() {
        match line.peek() {
            None => return Ok(()),
            Some(b) if b == *expected => {}
            Some(b'0') if index == 7 => {}
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.6.6
            Some(b'0'..=b'9') if index == 5 || index == 7 => return Err(Fault::UnsupportedVersion),
            Some(_) => return Err(Fault::InvalidVersion),
        }
        line.at += 1;
    }
    Ok(())
}

/// Field lines up to the empty line.
//= https://www.rfc-editor.org/rfc/rfc9112#section-5
fn fields(reader: &mut Reader<'_>, limits: &HeadLimits) -> Verdict {
    for count in 0.. {
        match reader.peek() {
            None => return Ok(()),
            Some(b'\r' | b'\n') => return reader.line_end(Fault::BareCr),
            //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
            Some(b' ' | b'\t') if count == 0 => return Err(Fault::SpaceBeforeFields),
            //= https://www.rfc-editor.org/rfc/rfc9112#section-5.2
            Some(b' ' | b'\t') => return Err(Fault::ObsFold),
            Some(_) if count == limits.fields() => return Err(Fault::TooManyFields),
            Some(_) => field_line(reader)?,
        }
    }
    Ok(())
}

/// One field line, its CRLF included.
//= https://www.rfc-editor.org/rfc/rfc9112#section-5.1
fn field_line(reader: &mut Reader<'_>) -> Verdict {
    let name_start = reader.at;
    reader.skip_while(|b| TOKEN.contains(b));
    match reader.peek() {
        Some(b':') if reader.at == name_start => return Err(Fault::EmptyFieldName),
        Some(b':') => reader.at += 1,
        // "No whitespace is allowed between the field name and colon."
        Some(b' ' | b'\t') => return Err(Fault::SpaceInFieldName),
        Some(b'\r' | b'\n') => return Err(Fault::MissingColon),
        Some(_) => return Err(Fault::InvalidFieldName),
        None => return Ok(()),
    }
    reader.skip_while(ascii::is_field_content);
    reader.line_end(Fault::InvalidFieldValue)
}
