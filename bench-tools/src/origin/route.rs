//! What the origin does for a path.

/// The answer a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: a short text.
    Text,
    /// `/bytes/N`: N bytes.
    Bytes(u64),
    /// `/chunked/N`: N bytes without their length in the head.
    Chunked(u64),
    /// `/delay/MS`: a short text, after a while.
    Delay(u64),
    /// `/echo`: the request's body.
    Echo,
    /// `/status/N`: that status.
    Status(u16),
    /// `/reset` and `/reset/N`: the first N bytes of an answer, then a reset.
    Reset(usize),
    /// `/stall` and `/stall/N`: the first N bytes of an answer, then nothing.
    Stall(usize),
    /// Everything else: 404.
    Missing,
}

impl Route {
    /// Most bytes of an answer.
    pub(super) const BYTES_MAX: u64 = 1 << 40;
    /// Most bytes of an answer that breaks off.
    pub(super) const BROKEN_BYTES_MAX: u64 = 16 * 1024;
    /// Longest delay.
    pub(super) const DELAY_MS_MAX: u64 = 3_600_000;

    /// Understands a request target; a query is ignored.
    pub(super) fn of(target: &[u8]) -> Route {
        let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
        let Some(rest) = path.strip_prefix(b"/") else { return Route::Missing };
        let mut parts = rest.splitn(2, |&byte| byte == b'/');
        let name = parts.next().unwrap_or_default();
        let number = match parts.next() {
            Some(digits) => match decimal(digits) {
                Some(number) => Some(number),
                None => return Route::Missing,
            },
            None => None,
        };
        match (name, number) {
            (b"", None) => Route::Text,
            (b"bytes", Some(count @ 0..=Route::BYTES_MAX)) => Route::Bytes(count),
            (b"chunked", Some(count @ 0..=Route::BYTES_MAX)) => Route::Chunked(count),
            (b"delay", Some(ms @ 0..=Route::DELAY_MS_MAX)) => Route::Delay(ms),
            (b"echo", None) => Route::Echo,
            (b"status", Some(status @ 200..=599)) => Route::Status(status as u16),
            (b"reset", None) => Route::Reset(0),
            (b"reset", Some(count @ 0..=Route::BROKEN_BYTES_MAX)) => Route::Reset(count as usize),
            (b"stall", None) => Route::Stall(0),
            (b"stall", Some(count @ 0..=Route::BROKEN_BYTES_MAX)) => Route::Stall(count as usize),
            _ => Route::Missing,
        }
    }
}

/// A number of up to 13 digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = (1..=13).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(Route::of(b"/"), Route::Text);
        assert_eq!(Route::of(b"/bytes/1024"), Route::Bytes(1024));
        assert_eq!(Route::of(b"/bytes/0?x=1"), Route::Bytes(0));
        assert_eq!(Route::of(b"/delay/20"), Route::Delay(20));
        assert_eq!(Route::of(b"/echo"), Route::Echo);
        assert_eq!(Route::of(b"/status/503"), Route::Status(503));
        assert_eq!(Route::of(b"/reset"), Route::Reset(0));
        assert_eq!(Route::of(b"/stall/100"), Route::Stall(100));
    }

    #[test]
    fn no_paths() {
        for missing in [
            &b""[..],
            b"*",
            b"/bytes",
            b"/bytes/",
            b"/bytes/-1",
            b"/bytes/99999999999999",
            b"/bytes/1/2",
            b"/status/100",
            b"/stall/99999",
            b"/other",
        ] {
            assert_eq!(Route::of(missing), Route::Missing, "{missing:?}");
        }
    }
}
