//! Byte classes of the HTTP and URI grammars, as tables.
//!
//! Owns the character sets and nothing else. Private: callers see parsed values, not classes.

/// A set of bytes, looked up by index.
pub(crate) struct ByteSet([bool; 256]);

impl ByteSet {
    /// Letters and digits, plus every byte of `more`.
    const fn alphanumeric_and(more: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            set[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut index = 0;
        while index < more.len() {
            set[more[index] as usize] = true;
            index += 1;
        }
        Self(set)
    }

    /// The same without capital letters.
    const fn without_capitals(mut self) -> Self {
        let mut byte = b'A';
        while byte <= b'Z' {
            self.0[byte as usize] = false;
            byte += 1;
        }
        self
    }

    pub(crate) const fn contains(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }
}

/// `tchar`, the bytes of methods, field names and connection options.
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
pub(crate) static TOKEN: ByteSet = ByteSet::alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// The bytes of field names in HTTP/2.
//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.1
pub(crate) static LOWER_TOKEN: ByteSet = ByteSet::alphanumeric_and(b"!#$%&'*+-.^_`|~").without_capitals();

/// `unreserved`: the bytes of host names that exist.
//= https://www.rfc-editor.org/rfc/rfc3986#section-2.3
pub(crate) static HOST_NAME: ByteSet = ByteSet::alphanumeric_and(b"-._~");

/// `unreserved`, the bytes that mean the same encoded and not.
//= https://www.rfc-editor.org/rfc/rfc3986#section-2.3
pub(crate) static UNRESERVED: ByteSet = ByteSet::alphanumeric_and(b"-._~");

/// `pchar` but for percent-encoding, the bytes of a path segment.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.3
pub(crate) static PCHAR: ByteSet = ByteSet::alphanumeric_and(b"-._~!$&'()*+,;=:@");

/// `OWS`: a space or a tab.
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.3
pub(crate) const fn is_ows(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// True for a byte that may stand in a field value or a reason phrase: HTAB, SP, VCHAR and obs-text.
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.5
pub(crate) const fn is_field_content(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// `bytes` without the whitespace around it.
pub(crate) fn trim_ows(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&b| !is_ows(b)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|&b| !is_ows(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// The members of a comma-separated list, trimmed; empty members are included, because some lists forbid them.
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1
pub(crate) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim_ows)
}

/// True when every `%` in `bytes` is followed by two hexadecimal digits.
//= https://www.rfc-editor.org/rfc/rfc3986#section-2.1
pub(crate) fn has_valid_percent_encoding(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'%', bytes)
        .all(|at| matches!(bytes.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}

/// `1*DIGIT` as a number; `None` for anything else and for what does not fit.
pub(crate) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
