//! Finds what is wrong with a head that `scan` did not accept, or that the head is only incomplete.
//!
//! Owns the slow, byte-by-byte reading of a head, in which the first byte that breaks a rule decides the [`Fault`]. It is not asked
//! here about a head that is whole and well-formed, so this file is written for clarity and never accepts anything. It looks at
//! nothing behind the first offending byte: the verdict on a head cannot change when more of it arrives.

use crate::ascii::{self, TOKEN};
use crate::fault::Fault;
use crate::limits::{HeadLimits, METHOD_BYTES_MAX};

/// Either the first fault, or the end of the bytes without one.
type Verdict = Result<(), Fault>;

/// The verdict on a head that `scan` did not accept.
type Cause = Result<Incomplete, Fault>;

/// Nothing is wrong so far, and more is to come.
pub(super) struct Incomplete;

/// Where `scan` stopped: at the beginning of a line, behind a start line and so many fields that are fine.
#[derive(Clone, Copy)]
pub(super) struct Stopped {
    pub(super) at: usize,
    pub(super) fields: usize,
}

/// The fault of a head that is whole and in which nothing wrong is found here. Tests and fuzzing look for it.
const UNNAMED: Fault = Fault::Malformed;

/// Why this start of a request line was not accepted.
#[cold]
pub(super) fn request_line(window: &[u8], limits: &HeadLimits) -> Cause {
    // The two bytes more are the line's CRLF.
    let line_max = limits.request_line_bytes_max.saturating_add(2);
    let line_is_long = window.get(..line_max).is_some_and(|line| memchr::memchr(b'\n', line).is_none());
    let mut line = Reader { bytes: &window[..window.len().min(line_max)], at: 0 };
    line.request_line()?;
    if line_is_long { Err(Fault::RequestLineTooLong) } else { line.incomplete() }
}

/// Why this start of a status line was not accepted.
#[cold]
pub(super) fn status_line(window: &[u8]) -> Cause {
    let mut line = Reader { bytes: window, at: 0 };
    line.status_line()?;
    line.incomplete()
}

/// Why the fields of this head were not accepted.
#[cold]
pub(super) fn fields(window: &[u8], stopped: Stopped, limits: &HeadLimits) -> Cause {
    let mut reader = Reader { bytes: window, at: stopped.at };
    reader.fields(stopped.fields, limits.fields())?;
    reader.incomplete()
}

/// The cause for which these complete trailer lines, their empty line included, were refused.
pub(super) fn trailers(section: &[u8], fields_max: usize) -> Fault {
    match (Reader { bytes: section, at: 0 }).fields(0, fields_max) {
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

    /// What to say of bytes without a fault: more is missing, or else everything is there and the fault has no name.
    fn incomplete(&self) -> Cause {
        let is_whole = self.at == self.bytes.len() && self.bytes.ends_with(b"\r\n\r\n");
        if is_whole || self.at < self.bytes.len() { Err(UNNAMED) } else { Ok(Incomplete) }
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

    //= https://www.rfc-editor.org/rfc/rfc9112#section-3
    fn request_line(&mut self) -> Verdict {
        self.skip_while(|b| TOKEN.contains(b));
        if self.at > METHOD_BYTES_MAX {
            return Err(Fault::MethodTooLong);
        }
        match self.peek() {
            Some(b' ') if self.at > 0 => self.at += 1,
            Some(b'\t') if self.at > 0 => return Err(Fault::RequestLineSpacing),
            Some(_) => return Err(Fault::InvalidMethod),
            None => return Ok(()),
        }
        let target_start = self.at;
        self.skip_while(|b| matches!(b, b'!'..=b'~' | 0x80..));
        match core::str::from_utf8(&self.bytes[target_start..self.at]) {
            // The rest of its last character may be on its way.
            Err(error) if error.error_len().is_none() && self.peek().is_none() => return Ok(()),
            Err(_) => return Err(Fault::InvalidTarget),
            Ok(_) => {}
        }
        match self.peek() {
            Some(b' ') if self.at > target_start => self.at += 1,
            Some(b' ' | b'\t') => return Err(Fault::RequestLineSpacing),
            //= https://www.rfc-editor.org/rfc/rfc9112#appendix-C.1.1
            // The simple request of HTTP/0.9 ends here.
            Some(b'\r' | b'\n') => return Err(Fault::MissingVersion),
            Some(_) => return Err(Fault::InvalidTarget),
            None => return Ok(()),
        }
        match self.peek() {
            Some(b'\r' | b'\n') => return Err(Fault::MissingVersion),
            Some(b' ' | b'\t') => return Err(Fault::RequestLineSpacing),
            _ => self.version()?,
        }
        match self.peek() {
            Some(b' ' | b'\t') => Err(Fault::RequestLineSpacing),
            _ => self.line_end(Fault::InvalidVersion),
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9112#section-4
    fn status_line(&mut self) -> Verdict {
        self.version()?;
        if self.peek().is_some_and(|b| b != b' ') {
            return Err(Fault::InvalidStatus);
        }
        self.at += 1;
        let digits_end = self.at + 3;
        while self.at < digits_end {
            match self.peek() {
                Some(b'0'..=b'9') => self.at += 1,
                Some(_) => return Err(Fault::InvalidStatus),
                None => return Ok(()),
            }
        }
        if self.peek() == Some(b' ') {
            self.skip_while(ascii::is_field_content);
        }
        self.line_end(Fault::InvalidStatus)
    }

    /// `HTTP/1.` and a digit. Another digit in place of the first one is an unsupported version, whatever follows it.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-2.3
    fn version(&mut self) -> Verdict {
        for (index, expected) in b"HTTP/1.1".iter().enumerate() {
            match self.peek() {
                None => return Ok(()),
                Some(b) if b == *expected => {}
                Some(b'0'..=b'9') if index == 7 => {}
                //= https://www.rfc-editor.org/rfc/rfc9110#section-15.6.6
                Some(b'0'..=b'9') if index == 5 => return Err(Fault::UnsupportedVersion),
                Some(_) => return Err(Fault::InvalidVersion),
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Field lines up to the empty self.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-5
    fn fields(&mut self, before: usize, fields_max: usize) -> Verdict {
        for count in before.. {
            match self.peek() {
                None => return Ok(()),
                Some(b'\r' | b'\n') => return self.line_end(Fault::BareCr),
                //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
                Some(b' ' | b'\t') if count == 0 => return Err(Fault::SpaceBeforeFields),
                //= https://www.rfc-editor.org/rfc/rfc9112#section-5.2
                Some(b' ' | b'\t') => return Err(Fault::ObsFold),
                Some(_) if count == fields_max => return Err(Fault::TooManyFields),
                Some(_) => self.field_line()?,
            }
        }
        Ok(())
    }

    /// One field line, its CRLF included.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-5.1
    fn field_line(&mut self) -> Verdict {
        let name_start = self.at;
        self.skip_while(|b| TOKEN.contains(b));
        match self.peek() {
            Some(b':') if self.at == name_start => return Err(Fault::EmptyFieldName),
            Some(b':') => self.at += 1,
            // "No whitespace is allowed between the field name and colon."
            Some(b' ' | b'\t') => return Err(Fault::SpaceInFieldName),
            Some(b'\r' | b'\n') => return Err(Fault::MissingColon),
            Some(_) => return Err(Fault::InvalidFieldName),
            None => return Ok(()),
        }
        self.skip_while(ascii::is_field_content);
        self.line_end(Fault::InvalidFieldValue)
    }
}
